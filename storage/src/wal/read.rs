//! Reading entries: from the tail in memory, else from the segments.
//!
//! Called by `Wal::read` and `Wal::read_tail`. Invariants:
//!
//! - I1: the log's lock is not held over a read of the disk, so the log may be truncated or purged
//!   and a segment used again meanwhile: an entry that does not check out is an error only if the
//!   log still says that it stands there.
//! - I2: an entry from the disk is given out only after its own CRC and its log id held.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use std::ops::Range;

use bytes::Bytes;
use parking_lot::Mutex;

use super::index::Run;
use super::log::Log;
use super::record::{self, Entry, EntryRecord, Record};
use crate::{Error, Result};

/// How often one call starts anew because the log changed under it.
const RETRY_COUNT_MAX: usize = 16;
/// Most bytes of one read of the disk, unless a single entry is larger.
const READ_BYTES_MAX: usize = 4 << 20;

/// What was read so far.
#[derive(Debug)]
struct Reading {
    range: Range<u64>,
    entries: Vec<Entry>,
    bytes_left: usize,
}

/// An entry that did not check out.
#[derive(Debug)]
struct Failure {
    index: u64,
    offset: u32,
    error: Error,
}

/// See [`Wal::read`](super::Wal::read).
pub(super) fn read(log: &Mutex<Log>, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>> {
    let mut reading = Reading { range, entries: Vec::new(), bytes_left: bytes_max };
    let mut retry_count = 0;
    loop {
        let Some(run) = reading.advance(&log.lock()) else { return Ok(reading.entries) };
        let Err(failure) = fetch(&run, &mut reading) else { continue };
        let place = log.lock().index.place_of(failure.index);
        retry_count += 1;
        if place == Some((run.segment, failure.offset)) || retry_count > RETRY_COUNT_MAX {
            return Err(failure.error);
        }
    }
}

/// See [`Wal::read_tail`](super::Wal::read_tail).
pub(super) fn read_tail(
    log: &Mutex<Log>,
    range: Range<u64>,
    bytes_max: usize,
) -> Option<Vec<Entry>> {
    let mut reading = Reading { range, entries: Vec::new(), bytes_left: bytes_max };
    reading.advance(&log.lock()).is_none().then_some(reading.entries)
}

impl Reading {
    /// Takes what the tail has, or says what is to be read from the disk next.
    fn advance(&mut self, log: &Log) -> Option<Run> {
        let live = log.index.live();
        match self.entries.last() {
            None => self.range.start = self.range.start.max(live.start),
            // Truncated under us: what follows now does not belong to what was read.
            Some(last) if log.index.log_id_at(last.log_id.index) != Some(last.log_id) => {
                return None;
            }
            Some(_) => {}
        }
        let wanted = self.range.start..self.range.end.min(live.end);
        if wanted.is_empty() || self.is_full() {
            return None;
        }
        let Some(entries) = log.tail.from(wanted.start) else {
            return log.index.run_from(wanted, self.bytes_left.min(READ_BYTES_MAX));
        };
        for entry in entries.take_while(|entry| wanted.contains(&entry.log_id.index)) {
            if !self.push(entry.clone()) {
                break;
            }
        }
        None
    }

    fn is_full(&self) -> bool {
        !self.entries.is_empty() && self.bytes_left == 0
    }

    /// False if there is no room for the entry and it is not the first.
    fn push(&mut self, entry: Entry) -> bool {
        let bytes = entry.payload.len();
        if !self.entries.is_empty() && bytes > self.bytes_left {
            self.bytes_left = 0;
            return false;
        }
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.range.start = entry.log_id.index + 1;
        self.entries.push(entry);
        true
    }
}

/// Reads a run with one read; its entries share the one buffer.
fn fetch(run: &Run, reading: &mut Reading) -> std::result::Result<(), Failure> {
    let start = run.offsets.first().copied().unwrap_or(run.end);
    let fail = |error| Failure { index: run.first_index, offset: start, error };
    let length = usize::try_from(run.end - start).unwrap_or(usize::MAX);
    let mut buffer = vec![0; length];
    run.file.read_at(&mut buffer, u64::from(start)).map_err(fail)?;
    let buffer = Bytes::from(buffer);
    for (index, &offset) in (run.first_index..).zip(&run.offsets) {
        let from = usize::try_from(offset - start).unwrap_or(usize::MAX);
        let entry = buffer.get(from..).and_then(|bytes| decode(bytes, index, &buffer));
        let Some(entry) = entry else {
            let what = "an entry of the log does not match its CRC";
            let path = run.file.path();
            let error = Error::Corrupt { path, offset: u64::from(offset), what };
            return Err(Failure { index, offset, error });
        };
        if !reading.push(entry) {
            break;
        }
    }
    Ok(())
}

/// The entry `index` that `bytes`, a part of `buffer`, begins with.
fn decode(bytes: &[u8], index: u64, buffer: &Bytes) -> Option<Entry> {
    let (Record::Entry(EntryRecord { log_id, kind, payload, .. }), _) = record::decode(bytes)
        .filter(|(record, _)| match record {
            Record::Entry(entry) => entry.log_id.index == index && entry.is_whole(),
            Record::Vote(_) | Record::Committed(_) | Record::Truncate(_) | Record::Purge(_) => {
                false
            }
        })?
    else {
        return None;
    };
    Some(Entry { log_id, kind, payload: buffer.slice_ref(payload) })
}
