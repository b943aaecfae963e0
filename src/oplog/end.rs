//! Where a file of the log ends, once a power loss may have torn its end.

use super::OpLogError;
use super::parts::Parts;
use super::read::{FileInput, ReadError, Records, ends_entry};
use super::record::Mark;

/// Where the last whole entry of a file ends, and its index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct End {
    pub(super) offset: u64,
    pub(super) index: u64,
}

/// Reads a file up to its torn end.
pub(super) fn find_end(parts: &Parts, nth: u32) -> Result<End, OpLogError> {
    let path = &parts.path(nth);
    let mut records = Records::new(FileInput::new(parts.open(nth)?));
    let mut end = End::default();
    loop {
        let before = records.offset();
        let corrupt = |what| OpLogError::Corrupt { path: path.to_owned(), offset: before, what };
        let (record, offset) = match records.next_record() {
            Ok(None) => return Ok(end),
            Ok(Some(found)) => (found.record, before + found.bytes.len() as u64),
            Err(ReadError::Io(source)) => return Err(OpLogError::io("read", path, source)),
            Err(ReadError::Malformed { what, .. }) => {
                // Zeros were never written: a power loss left the file longer than its bytes.
                return if only_zeros(parts, nth, before)? { Ok(end) } else { Err(corrupt(what)) };
            }
        };
        if record.mark == Mark::Image {
            end.offset = offset;
            continue;
        }
        if record.index < end.index {
            return Err(corrupt("an index below the one before"));
        }
        if ends_entry(&record) {
            end = End { offset, index: record.index };
        }
    }
}

fn only_zeros(parts: &Parts, nth: u32, from: u64) -> Result<bool, OpLogError> {
    let file = parts.open(nth)?;
    let end = file.len()?;
    let mut block = vec![0; 1 << 16];
    let mut offset = from;
    while offset < end {
        let bytes = usize::try_from(end - offset).unwrap_or(usize::MAX).min(block.len());
        let piece = block.get_mut(..bytes).unwrap_or_default();
        file.read_at(piece, offset)?;
        if piece.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        offset += bytes as u64;
    }
    Ok(true)
}
