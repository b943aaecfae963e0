//! Finds the end of a file of the log after a power loss may have torn it.
//!
//! A power loss may keep any of the sectors that were written since the last sync. A sector that it
//! did not keep reads as zeros, because the file only ever grew. The form has no checksums, so such
//! a hole may look like a part of a value. Its place gives it away: an entry is written as a whole,
//! so a lost sector is zero from its beginning, or from that of the first entry in it, to its end.
//! A value may look like that too. Then its entry is cut off needlessly and recorded once more,
//! which only happens while Raft's log still has it.
#![deny(clippy::indexing_slicing)]

use std::ops::Range;

use diskstore_storage::disk::File;

use super::OpLogError;
use super::parts::Parts;
use super::read::{FileInput, ReadError, Records, ends_entry};
use super::record::{LENGTH_BYTES, Mark, RECORD_BYTES_MAX, index_in, length_of};

/// The grain at which a power loss may tear; file systems have this one or multiples of it.
const SECTOR_BYTES: usize = 512;
/// Bytes that are looked at together.
const BLOCK_BYTES: usize = 128 * SECTOR_BYTES;
/// What nobody writes to any more was synced, all of it.
pub(super) const ALL_DURABLE: u64 = u64::MAX;

/// Where the last whole entry of a file ends, and its index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct End {
    pub(super) offset: u64,
    pub(super) index: u64,
    /// True if what stands behind may have been durable once: that is damage, and no torn end.
    pub(super) may_lack: bool,
}

/// Reads a file up to its torn end. Entries up to `durable_index` are known to have been synced.
pub(super) fn find_end(parts: &Parts, nth: u32, durable_index: u64) -> Result<End, OpLogError> {
    let path = &parts.path(nth);
    let file = &*parts.open(nth)?;
    let mut records = Records::new(FileInput::new(parts.open(nth)?));
    let mut end = End::default();
    let mut has_zeros = false;
    loop {
        let before = records.offset();
        let corrupt = |what| OpLogError::Corrupt { path: path.to_owned(), offset: before, what };
        let (record, bytes) = match records.next_record() {
            Ok(None) => return Ok(end),
            Ok(Some(found)) => (found.record, found.bytes),
            Err(ReadError::Io(source)) => return Err(OpLogError::io("read", path, source)),
            Err(ReadError::Malformed { what, .. }) => {
                if only_zeros(file, before)? {
                    return Ok(end);
                }
                let wanted = before + bytes_of(records.rest());
                let is_torn =
                    durable_index != ALL_DURABLE && lacks_sector(file, end.offset..wanted, 1)?;
                let first = index_at(file, end.offset)?;
                end.may_lack = first.is_none_or(|index| index <= durable_index);
                return if is_torn { Ok(end) } else { Err(corrupt(what)) };
            }
        };
        let offset = before + bytes.len() as u64;
        if record.mark == Mark::Image {
            end.offset = offset;
            continue;
        }
        has_zeros |= bytes.iter().skip(LENGTH_BYTES).any(|byte| *byte == 0);
        if ends_entry(&record) {
            // The first bytes of a length are zeros: fewer than all of them say nothing.
            let may_be_torn = has_zeros && record.index > durable_index;
            if may_be_torn && lacks_sector(file, end.offset..offset, LENGTH_BYTES)? {
                return Ok(end);
            }
            has_zeros = false;
        }
        if record.index < end.index {
            return Err(corrupt("an index below the one before"));
        }
        if ends_entry(&record) {
            (end.offset, end.index) = (offset, record.index);
        }
    }
}

/// Bytes that a record says it has; 0 for more than any has, which zeros in its length cannot say.
fn bytes_of(record: &[u8]) -> u64 {
    let length = record.first_chunk().copied().map_or(0, length_of);
    if length > RECORD_BYTES_MAX { 0 } else { (LENGTH_BYTES + length) as u64 }
}

/// The index of the entry that begins here, if it can be read.
fn index_at(file: &dyn File, offset: u64) -> Result<Option<u64>, OpLogError> {
    let mut head = [0; 16]; // length, tag and number
    let bytes = usize::try_from(file.len()?.saturating_sub(offset)).unwrap_or(usize::MAX);
    let head = head.get_mut(..bytes.min(16)).unwrap_or_default();
    file.read_at(head, offset)?;
    Ok(index_in(head))
}

/// True if a sector of an entry is zeros from its beginning, or the entry's, to its end, and these are at
/// least so many bytes.
fn lacks_sector(file: &dyn File, entry: Range<u64>, bytes_min: usize) -> Result<bool, OpLogError> {
    let sector_bytes = SECTOR_BYTES as u64;
    let stop = entry.end.next_multiple_of(sector_bytes).min(file.len()?);
    let mut block =
        vec![0; BLOCK_BYTES.min(usize::try_from(stop - entry.start).unwrap_or(BLOCK_BYTES))];
    let mut offset = entry.start;
    while offset < stop {
        let boundary = (offset + BLOCK_BYTES as u64) / sector_bytes * sector_bytes;
        let bytes = usize::try_from(boundary.min(stop) - offset).unwrap_or(BLOCK_BYTES);
        let piece = block.get_mut(..bytes).unwrap_or_default();
        file.read_at(piece, offset)?;
        let first = usize::try_from(sector_bytes - offset % sector_bytes).unwrap_or(SECTOR_BYTES);
        let (head, rest) = piece.split_at(first.min(bytes));
        let is_lost = |sector: &[u8]| sector.iter().all(|byte| *byte == 0);
        if head.len() >= bytes_min && is_lost(head) || rest.chunks(SECTOR_BYTES).any(is_lost) {
            return Ok(true);
        }
        offset += bytes as u64;
    }
    Ok(false)
}

fn only_zeros(file: &dyn File, from: u64) -> Result<bool, OpLogError> {
    let end = file.len()?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut offset = from;
    while offset < end {
        let bytes = usize::try_from(end - offset).unwrap_or(usize::MAX).min(BLOCK_BYTES);
        let piece = block.get_mut(..bytes).unwrap_or_default();
        file.read_at(piece, offset)?;
        if piece.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        offset += bytes as u64;
    }
    Ok(true)
}
