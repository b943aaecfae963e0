//! Reads the batches of a segment, piece by piece.
//!
//! Called by recovery. Invariants:
//!
//! - I1: memory is one piece or one batch, and the pieces of batches that are kept.
//! - I2: no length read from the file is trusted before it was compared with the size of the file.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use bytes::Bytes;

use super::batch::{self, BATCH_BYTES_LIMIT, BATCH_HEADER_BYTES, BatchHeader};
use super::segment::Life;
use crate::Result;
use crate::disk::{AlignedBuffer, BLOCK_BYTES, File};

/// Bytes of one read.
const PIECE_BYTES: usize = 2 << 20;

/// The part of a segment that is in memory.
#[derive(Debug)]
pub(super) struct Window<'a> {
    file: &'a dyn File,
    file_bytes: u64,
    start: u64,
    bytes: Bytes,
    reads_once: bool,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a dyn File, file_bytes: u64) -> Self {
        Window { file, file_bytes, start: 0, bytes: Bytes::new(), reads_once: false }
    }

    /// Whether what is read goes past the page cache, since nobody reads it again soon.
    pub(super) fn reading_once(self, reads_once: bool) -> Self {
        Window { reads_once, ..self }
    }

    /// `length` bytes at `offset`, if the file has them.
    fn get(&mut self, offset: u64, length: usize) -> Result<Option<&[u8]>> {
        let rest = self.file_bytes.saturating_sub(offset);
        if rest < length as u64 {
            return Ok(None);
        }
        if offset < self.start || self.start + (self.bytes.len() as u64) < offset + length as u64 {
            let wanted = u64::try_from(length.max(PIECE_BYTES)).unwrap_or(u64::MAX).min(rest);
            let wanted = usize::try_from(wanted).unwrap_or(length);
            let mut bytes = AlignedBuffer::with_capacity(wanted);
            bytes.extend_unset(wanted);
            if self.reads_once {
                self.file.read_once_at(&mut bytes, offset)?;
            } else {
                self.file.read_at(bytes.as_mut_slice(), offset)?;
            }
            (self.start, self.bytes) = (offset, Bytes::from_owner(bytes));
        }
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        Ok(self.bytes.get(from..).and_then(|bytes| bytes.get(..length)))
    }

    /// The header of the batch at `offset`, whatever it says.
    pub(super) fn header(&mut self, offset: u64) -> Result<Option<BatchHeader>> {
        Ok(self.get(offset, BATCH_HEADER_BYTES)?.and_then(BatchHeader::decode))
    }

    /// The valid batch of this life at `offset`, padding included. It keeps its piece in memory.
    pub(super) fn batch(&mut self, offset: u64, life: Life) -> Result<Option<Bytes>> {
        let Some(header) = self.header(offset)?.filter(|header| header.is_of(life)) else {
            return Ok(None);
        };
        let Some(bytes) = header.batch_bytes().filter(|&bytes| bytes <= BATCH_BYTES_LIMIT) else {
            return Ok(None);
        };
        if !self.get(offset, bytes)?.is_some_and(|batch| batch::is_whole(batch, life)) {
            return Ok(None);
        }
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        Ok(Some(self.bytes.slice(from..from.saturating_add(bytes))))
    }

    /// Looks at every block boundary from `offset` on for valid batches of one of these lives, up
    /// to the first that claims batch `sequence` durable.
    pub(super) fn behind(&mut self, offset: u64, lives: &[Life], sequence: u64) -> Result<Behind> {
        let mut behind = Behind::default();
        let mut offset = offset;
        while let Some(header) = self.header(offset)? {
            if let Some(&life) = lives.iter().find(|&&life| header.is_of(life))
                && let Some(batch) = self.batch(offset, life)?
            {
                behind.end = Some(offset + batch.len() as u64);
                if header.durable_sequence >= sequence {
                    behind.claim = Some(offset);
                    break;
                }
            }
            offset += BLOCK_BYTES as u64;
        }
        Ok(behind)
    }
}

/// The valid batches that stand behind the end of the log.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Behind {
    /// Offset of the first that claims the batch which should stand at the end.
    pub(super) claim: Option<u64>,
    /// Where the last of them ends.
    pub(super) end: Option<u64>,
}
