//! A growable byte buffer for direct I/O.
//!
//! Filled by `wal` and `slots`, handed to [`File::write_at`](super::File::write_at). Invariants:
//!
//! - I1: the first byte lies at an address that is a multiple of [`BLOCK_BYTES`].
//! - I2: the capacity is a whole number of blocks, so that padding never reallocates needlessly.
//!
//! Memory is taken from a `Vec` with one spare block, in which an aligned start is chosen: this
//! needs no `unsafe`. A `Vec` keeps its address until it grows, and growing chooses a new start.

use super::BLOCK_BYTES;

/// A growable byte buffer whose first byte is aligned to [`BLOCK_BYTES`].
#[derive(Default)]
pub struct AlignedBuffer {
    /// Empty, or `capacity + BLOCK_BYTES` bytes.
    memory: Vec<u8>,
    /// Where the aligned bytes begin in `memory`.
    start: usize,
    /// Whole blocks usable from `start`, in bytes.
    capacity: usize,
    /// Bytes in use from `start`.
    bytes: usize,
}

impl AlignedBuffer {
    /// An empty buffer that takes no memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty buffer with room for `bytes`, rounded up to whole blocks.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut buffer = Self::new();
        buffer.grow_to(bytes);
        buffer
    }

    /// Bytes in use.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// True if no byte is in use.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Bytes that fit before the buffer grows; a multiple of [`BLOCK_BYTES`].
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The bytes in use.
    pub fn as_slice(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.bytes]
    }

    /// The bytes in use, to be changed in place.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.bytes]
    }

    /// Makes room for `additional` bytes behind those in use.
    pub fn reserve(&mut self, additional: usize) {
        let wanted = self.bytes.saturating_add(additional);
        if wanted > self.capacity {
            self.grow_to(wanted.max(self.capacity.saturating_mul(2)));
        }
    }

    /// Appends bytes.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        let at = self.start + self.bytes;
        self.memory[at..at + bytes.len()].copy_from_slice(bytes);
        self.bytes += bytes.len();
    }

    /// Sets the length to `bytes`: what is new reads as zero, what is beyond is forgotten.
    pub fn resize_zeroed(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.reserve(bytes - self.bytes);
            // Memory beyond the length may hold bytes of an earlier use.
            self.memory[self.start + self.bytes..self.start + bytes].fill(0);
        }
        self.bytes = bytes;
    }

    /// Appends `bytes` bytes, zeros or what an earlier use left, and returns them to be set.
    pub fn extend_unset(&mut self, bytes: usize) -> &mut [u8] {
        self.reserve(bytes);
        let at = self.start + self.bytes;
        self.bytes += bytes;
        &mut self.memory[at..at + bytes]
    }

    /// Appends zeros up to the next multiple of [`BLOCK_BYTES`].
    pub fn pad_to_block(&mut self) {
        self.resize_zeroed(self.bytes.next_multiple_of(BLOCK_BYTES));
    }

    /// Shortens to `bytes`; does nothing if the buffer is shorter.
    pub fn truncate(&mut self, bytes: usize) {
        self.bytes = self.bytes.min(bytes);
    }

    /// Forgets all bytes and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes = 0;
    }

    fn grow_to(&mut self, bytes: usize) {
        let capacity = bytes.next_multiple_of(BLOCK_BYTES);
        if capacity <= self.capacity {
            return;
        }
        let mut memory = vec![0; capacity + BLOCK_BYTES];
        let address = memory.as_ptr().addr();
        let start = address.next_multiple_of(BLOCK_BYTES) - address;
        memory[start..start + self.bytes].copy_from_slice(self.as_slice());
        (self.memory, self.start, self.capacity) = (memory, start, capacity);
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl std::fmt::Debug for AlignedBuffer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("AlignedBuffer")
            .field("bytes", &self.bytes)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

impl Clone for AlignedBuffer {
    fn clone(&self) -> Self {
        // I1: the copy needs a start of its own.
        let mut copy = Self::with_capacity(self.bytes);
        copy.extend_from_slice(self.as_slice());
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_aligned(buffer: &AlignedBuffer) -> bool {
        buffer.as_slice().as_ptr().addr().is_multiple_of(BLOCK_BYTES)
    }

    #[test]
    fn growing_keeps_content_and_alignment() {
        let mut buffer = AlignedBuffer::new();
        let mut expected = Vec::new();
        for round in 0..300_u32 {
            let bytes = vec![u8::try_from(round % 251).unwrap(); 97];
            buffer.extend_from_slice(&bytes);
            expected.extend_from_slice(&bytes);
            assert!(is_aligned(&buffer), "round {round}");
            assert_eq!(buffer.capacity() % BLOCK_BYTES, 0);
        }
        assert_eq!(buffer.as_slice(), expected);
    }

    #[test]
    fn padding_of_a_reused_buffer_is_zero() {
        let mut buffer = AlignedBuffer::with_capacity(2 * BLOCK_BYTES);
        buffer.extend_from_slice(&[0xff; 2 * BLOCK_BYTES]);
        buffer.clear();
        buffer.extend_from_slice(b"abc");
        buffer.pad_to_block();
        assert_eq!(buffer.len(), BLOCK_BYTES);
        assert_eq!(&buffer.as_slice()[..3], b"abc");
        assert!(buffer.as_slice()[3..].iter().all(|byte| *byte == 0));
        assert_eq!(buffer.capacity(), 2 * BLOCK_BYTES);
    }

    #[test]
    fn a_padded_buffer_is_not_padded_again() {
        let mut buffer = AlignedBuffer::new();
        buffer.pad_to_block();
        assert!(buffer.is_empty());
        buffer.resize_zeroed(BLOCK_BYTES);
        buffer.pad_to_block();
        assert_eq!(buffer.len(), BLOCK_BYTES);
    }

    #[test]
    fn a_clone_is_aligned_and_equal() {
        let mut buffer = AlignedBuffer::new();
        buffer.extend_from_slice(b"slot");
        let copy = buffer.clone();
        assert!(is_aligned(&copy));
        assert_eq!(copy.as_slice(), b"slot");
    }

    #[test]
    fn truncate_shortens_only() {
        let mut buffer = AlignedBuffer::new();
        buffer.extend_from_slice(b"batch");
        buffer.truncate(9);
        assert_eq!(buffer.as_slice(), b"batch");
        buffer.truncate(2);
        assert_eq!(buffer.as_slice(), b"ba");
    }
}
