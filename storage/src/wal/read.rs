//! Reading entries: from the tail in memory, else from the segments.
//!
//! Called by `Wal::read` and `Wal::read_tail`. Invariants:
//!
//! - I1: the log's lock is not held during a read of the disk, so meanwhile the log may be
//!   truncated or purged and a segment used again. So after the read the log is asked whether the
//!   entry is still at that place; only then do the bytes count, as an entry or as damage.
//!   Otherwise a client's value, written over the entry meanwhile, could pass for an entry.
//! - I2: an entry from the disk is given out only after its own CRC and its log id held.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use std::ops::Range;

use bytes::Bytes;
use parking_lot::Mutex;

use super::index::Run;
use super::log::Log;
use super::record::{self, Entry, EntryRecord, Record};
use crate::{Error, Result};

/// How often one call starts anew because the log changed under it: by a purge or a truncation each
/// time, of which there are a few in a second at most.
const RETRY_COUNT_MAX: usize = 256;
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
    place: Place,
    error: Error,
}

/// See [`Wal::read`](super::Wal::read).
pub(super) fn read(log: &Mutex<Log>, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>> {
    read_by(log, range, bytes_max, fetch)
}

/// As [`read`], with `fetch` to read the disk.
fn read_by(
    log: &Mutex<Log>,
    range: Range<u64>,
    bytes_max: usize,
    fetch: impl Fn(&Run) -> std::result::Result<Vec<Entry>, Failure>,
) -> Result<Vec<Entry>> {
    let mut reading = Reading { range, entries: Vec::new(), bytes_left: bytes_max };
    let mut retry_count = 0;
    loop {
        // The lock is let go of at the end of the statement (I1).
        let next = reading.advance(&log.lock());
        let Some(run) = next else { return Ok(reading.entries) };
        match fetch(&run) {
            Ok(entries) if is_there(&run, &log.lock()) => reading.extend(entries),
            Err(failure) if stands(&failure.place, &log.lock()) => return Err(failure.error),
            Ok(_) | Err(_) if retry_count < RETRY_COUNT_MAX => retry_count += 1,
            // No entries would mean that the log holds none.
            Ok(_) | Err(_) if reading.entries.is_empty() => {
                return Err(Error::LogChanges { index: run.first_index });
            }
            Ok(_) | Err(_) => return Ok(reading.entries),
        }
    }
}

/// Where an entry was read.
#[derive(Debug)]
struct Place {
    index: u64,
    segment: u64,
    offset: u32,
}

/// Whether the log says that an entry stands where it was read.
fn stands(place: &Place, log: &Log) -> bool {
    log.index.place_of(place.index) == Some((place.segment, place.offset))
}

/// Whether a whole run stands where it was read: a purge takes its first entry first, and a
/// truncation its last.
fn is_there(run: &Run, log: &Log) -> bool {
    let last_index = run.first_index + run.offsets.len().saturating_sub(1) as u64;
    let ends = [(run.first_index, run.offsets.first()), (last_index, run.offsets.last())];
    ends.into_iter().all(|(index, offset)| {
        offset.is_some_and(|&offset| stands(&Place { index, segment: run.segment, offset }, log))
    })
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

    /// Takes entries as far as there is room.
    fn extend(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            if !self.push(entry) {
                break;
            }
        }
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
fn fetch(run: &Run) -> std::result::Result<Vec<Entry>, Failure> {
    let start = run.offsets.first().copied().unwrap_or(run.end);
    let fail = |index, offset, error| {
        let place = Place { index, segment: run.segment, offset };
        Failure { place, error }
    };
    let length = usize::try_from(run.end - start).unwrap_or(usize::MAX);
    let mut buffer = vec![0; length];
    let read = run.file.read_at(&mut buffer, u64::from(start));
    read.map_err(|error| fail(run.first_index, start, error))?;
    let buffer = Bytes::from(buffer);
    let mut entries = Vec::with_capacity(run.offsets.len());
    for (index, &offset) in (run.first_index..).zip(&run.offsets) {
        let from = usize::try_from(offset - start).unwrap_or(usize::MAX);
        let entry = buffer.get(from..).and_then(|bytes| decode(bytes, index, &buffer));
        entries.push(entry.ok_or_else(|| {
            let what = "an entry of the log does not match its CRC";
            let path = run.file.path();
            fail(index, offset, Error::Corrupt { path, offset: u64::from(offset), what })
        })?);
    }
    Ok(entries)
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
    Some(Entry { log_id, kind, payload: buffer.slice_ref(payload).into() })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::LogId;
    use crate::Term;
    use crate::disk::SimDisk;
    use crate::wal::{EntryKind, Nonces, Options, Wal};

    /// Entries that no caller finds in memory.
    fn wal_of(count: u64) -> Wal {
        let options = Options { tail_bytes_max: 0, ..Options::new(Nonces::counted()) };
        let disk = Arc::new(SimDisk::new(1));
        let (wal, _) = Wal::open(disk, Path::new("/wal"), Path::new("/tmp"), &options).unwrap();
        let entry = |index| {
            let log_id = LogId { term: Term::new(1), index };
            Entry {
                log_id,
                kind: EntryKind::Normal,
                payload: Bytes::from_static(b"payload").into(),
            }
        };
        wal.append((0..count).map(entry)).unwrap();
        wal.write(wal.seal().unwrap()).unwrap();
        wal.release(count);
        wal
    }

    /// A caller that is told of no entries takes the log for empty.
    #[test]
    fn a_log_that_changes_under_each_read_of_it_never_seems_to_be_empty() {
        let wal = wal_of(600);
        for changes in [1, RETRY_COUNT_MAX, RETRY_COUNT_MAX + 1] {
            let left = Cell::new(changes);
            let purging = |run: &Run| {
                if left.get() > 0 {
                    left.set(left.get() - 1);
                    wal.purge(LogId { term: Term::new(1), index: run.first_index });
                }
                fetch(run)
            };
            let read = read_by(&wal.log, 0..600, 1, purging);
            let first = wal.state().first_index;
            if changes <= RETRY_COUNT_MAX {
                let found: Vec<u64> =
                    read.unwrap().iter().map(|entry| entry.log_id.index).collect();
                assert_eq!(found, [first], "behind {changes} changes");
            } else {
                let index = first - 1; // it was purged under the last read
                assert!(matches!(read, Err(Error::LogChanges { index: at }) if at == index));
            }
        }
        assert_eq!(read_by(&wal.log, 600..700, 1, fetch).unwrap(), [], "here there are none");
    }
}
