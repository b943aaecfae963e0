//! Stands in for `disk::AlignedBuffer` until that is there: the same calls, no alignment.
/// Bytes of a batch.
#[derive(Debug)]
pub(super) struct AlignedBuffer {
    v: Vec<u8>,
}
impl AlignedBuffer {
    pub(super) fn with_capacity(n: usize) -> Self {
        Self { v: Vec::with_capacity(n) }
    }
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.v
    }
    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.v
    }
    pub(super) fn extend_from_slice(&mut self, b: &[u8]) {
        self.v.extend_from_slice(b);
    }
    pub(super) fn resize_zeroed(&mut self, n: usize) {
        self.v.resize(n, 0)
    }
    pub(super) fn pad_to_block(&mut self) {
        let n = self.v.len().next_multiple_of(4096);
        self.v.resize(n, 0)
    }
    pub(super) fn clear(&mut self) {
        self.v.clear()
    }
    pub(super) fn len(&self) -> usize {
        self.v.len()
    }
}
