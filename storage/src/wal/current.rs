//! The segment that the next batch goes to, and the batches that a recovery writes to it again
//! first.
//!
//! Called by `recover`, which finds it, and by `Wal`; calls `disk`.

use std::ops::Range;
use std::sync::Arc;

use super::segment::Life;
use crate::Result;
use crate::disk::{AlignedBuffer, Disk, File, WriteMode};

/// Zeros are written in pieces of this many bytes.
const CLEARED_BYTES: usize = 1 << 20;
/// Batches are written again in pieces of this many bytes.
const PIECE_BYTES: u64 = 4 << 20;

/// The segment that takes the next batch.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) writer: Arc<dyn File>,
    pub(super) life: Life,
    pub(super) end: u64,
    pub(super) bytes: u64,
}

impl Current {
    /// Overwrites all behind the end with zeros, durably: what is dead there never comes back.
    pub(super) fn clear(self) -> Result<Self> {
        let mut zeros = AlignedBuffer::with_capacity(CLEARED_BYTES);
        zeros.resize_zeroed(CLEARED_BYTES);
        let mut offset = self.end;
        while offset < self.bytes {
            let left = usize::try_from(self.bytes - offset).unwrap_or(usize::MAX);
            let (piece, _) = zeros.as_slice().split_at(left.min(CLEARED_BYTES));
            self.writer.write_at(piece, offset)?;
            offset += piece.len() as u64;
        }
        Ok(self)
    }

    /// The same, for batches that are written in this mode.
    pub(super) fn writing(mut self, disk: &dyn Disk, mode: WriteMode) -> Result<Self> {
        if mode != WriteMode::DirectDurable {
            self.writer = disk.open(&self.writer.path(), mode)?;
        }
        Ok(self)
    }
}

/// Writes bytes that are there once more, so that they are durable whatever became of the first time.
pub(super) fn write_again(file: &dyn File, range: Range<u64>) -> Result<()> {
    let mut offset = range.start;
    while offset < range.end {
        let bytes = PIECE_BYTES.min(range.end - offset);
        let length = usize::try_from(bytes).expect("invariant: a piece is small");
        let mut buffer = AlignedBuffer::with_capacity(length);
        buffer.resize_zeroed(length);
        file.read_at(buffer.as_mut_slice(), offset)?;
        file.write_at(buffer.as_slice(), offset)?;
        offset += bytes;
    }
    Ok(())
}
