//! The log's state in memory, under one lock: index, tail, and the batches to be written.
//!
//! Called by `Wal`; calls nothing that waits. Invariants:
//!
//! - I1: all changes of the log have one order, that of the records in its batches.
//! - I2: every record has the sequence number of its batch from the moment it is appended.
//! - I3: at most one batch is in flight, so a batch that is on the disk claims the one before.

use std::collections::VecDeque;

use super::batch::{OpenBatch, RECORDS_START, SealedBatch};
use super::index::{Index, clamp};
use super::record::{self, Entry, RECORD_BYTES};
use super::segment::Carried;
use super::tail::Tail;
use super::{Bounds, State};
use crate::disk::AlignedBuffer;
use crate::{LogId, Vote};

/// Buffers that are kept for the next batches: one is filled while another is written.
const BUFFER_COUNT_MAX: usize = 2;
/// Bytes of a buffer that is kept; one that grew larger is given back.
const BUFFER_BYTES_MAX: usize = 8 << 20;

/// The state of the log behind its lock.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) index: Index,
    pub(super) tail: Tail,
    bounds: Bounds,
    open: OpenBatch,
    /// Batches that are full, oldest first.
    closed: VecDeque<SealedBatch>,
    in_flight: Option<u64>,
    buffers: Vec<AlignedBuffer>,
    /// Bytes of records that are not durable yet.
    pub(super) unsynced_bytes: usize,
    /// Bytes of records since the log was opened.
    pub(super) appended_bytes: u64,
    /// The `committed` that no batch holds yet.
    committed: Option<LogId>,
    /// Purge points that are not durable yet, with the sequences of their batches.
    purges: VecDeque<(u64, u64)>,
    /// The index up to which the purge is durable.
    pub(super) purged_durable: Option<u64>,
    /// No batch claims the last one durable.
    is_unclaimed: bool,
    /// Applied up to here: the tail may let go of it.
    released: Option<u64>,
    is_failed: bool,
}

impl Log {
    pub(super) fn new(index: Index, last_sequence: u64, bounds: Bounds) -> Self {
        let purged_durable = index.carried.purged.map(|purged| purged.index);
        Log {
            index,
            tail: Tail::default(),
            bounds,
            open: OpenBatch::new(last_sequence + 1, AlignedBuffer::with_capacity(RECORDS_START)),
            closed: VecDeque::new(),
            in_flight: None,
            buffers: Vec::new(),
            unsynced_bytes: 0,
            appended_bytes: 0,
            committed: None,
            purges: VecDeque::new(),
            purged_durable,
            is_unclaimed: last_sequence > 0,
            released: None,
            is_failed: false,
        }
    }

    /// What the log says now.
    pub(super) fn state(&self) -> State {
        let Carried { vote, purged, last, .. } = self.index.carried;
        let first_index = self.index.live().start;
        State { vote, committed: self.committed(), purged, last, first_index }
    }

    /// The last batch that holds anything appended so far.
    pub(super) fn last_sequence(&self) -> u64 {
        if self.open.is_empty() { self.open.sequence - 1 } else { self.open.sequence }
    }

    pub(super) fn append(&mut self, entry: Entry) {
        let bytes = record::entry_bytes(entry.payload.len());
        self.close_unless_fits(bytes);
        let offset = self.open.push_entry(&entry);
        self.count(bytes);
        self.index.append(entry.log_id, self.open.sequence, offset);
        self.tail.push(entry);
    }

    fn push(&mut self, record: [u8; RECORD_BYTES]) {
        self.close_unless_fits(RECORD_BYTES);
        self.open.push(record);
        self.count(RECORD_BYTES);
    }

    fn count(&mut self, bytes: usize) {
        self.unsynced_bytes += bytes;
        self.appended_bytes += bytes as u64;
    }

    /// Closes the batch if it cannot take `bytes` more and a `committed` record.
    fn close_unless_fits(&mut self, bytes: usize) {
        let needed = self.open.records_bytes() + bytes + RECORD_BYTES;
        if needed > self.bounds.records_bytes_max && !self.open.is_empty() {
            let batch = self.close();
            self.closed.push_back(batch);
        }
    }

    fn close(&mut self) -> SealedBatch {
        if let Some(committed) = self.committed.take() {
            self.open.push(record::encode_committed(committed));
            self.count(RECORD_BYTES);
            self.index.carried.committed = Some(committed);
        }
        let buffer =
            self.buffers.pop().unwrap_or_else(|| AlignedBuffer::with_capacity(RECORDS_START));
        let next = OpenBatch::new(self.open.sequence + 1, buffer);
        std::mem::replace(&mut self.open, next).seal(self.index.carried)
    }

    pub(super) fn save_vote(&mut self, vote: Vote) {
        self.push(record::encode_vote(vote));
        self.open.must_sync = true; // who forgets a vote votes twice in a term
        self.index.carried.vote = Some(vote);
    }

    pub(super) fn save_committed(&mut self, committed: LogId) {
        let committed = clamp(Some(committed), self.index.carried.last);
        if committed != self.committed() {
            self.committed = committed;
        }
    }

    /// The newest `committed`; never beyond the log.
    pub(super) fn committed(&self) -> Option<LogId> {
        self.committed.or(self.index.carried.committed)
    }

    /// Puts a `committed` that waits for a batch into the open one.
    pub(super) fn push_committed(&mut self) {
        if let Some(committed) = self.committed.take() {
            self.push(record::encode_committed(committed));
            self.index.carried.committed = Some(committed);
        }
    }

    pub(super) fn truncate_after(&mut self, last: Option<LogId>) {
        let last = last.max(self.index.carried.purged);
        self.push(record::encode_truncate(last));
        self.index.truncate_after(last);
        self.committed = clamp(self.committed, last);
        self.tail.truncate_from(last.map_or(0, |last| last.index + 1));
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        if self.index.carried.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        self.push(record::encode_purge(upto));
        self.purges.push_back((self.open.sequence, upto.index));
        self.index.purge(upto);
        self.tail.drop_below(upto.index + 1);
    }

    /// A write failed: nothing is sealed any more.
    pub(super) fn fail(&mut self) {
        self.is_failed = true;
    }

    /// Takes the oldest batch that is to be written.
    ///
    /// # Panics
    /// If a batch is in flight (I3).
    pub(super) fn seal(&mut self) -> Option<SealedBatch> {
        if self.is_failed {
            return None;
        }
        assert_eq!(self.in_flight, None, "at most one batch is in flight");
        let batch = match self.closed.pop_front() {
            Some(batch) => batch,
            None if self.open.is_empty() => return None,
            None => self.close(),
        };
        self.in_flight = Some(batch.sequence);
        Some(batch)
    }

    /// Whether the last batch waits to be claimed and nothing that would do so is under way.
    pub(super) fn is_claim_due(&self) -> bool {
        self.is_unclaimed
            && !self.is_failed
            && self.in_flight.is_none()
            && self.closed.is_empty()
            && self.open.is_empty()
    }

    /// Takes a batch without entries that claims the last one.
    pub(super) fn seal_claim(&mut self) -> Option<SealedBatch> {
        self.is_claim_due().then(|| {
            let batch = self.close();
            self.in_flight = Some(batch.sequence);
            batch.into_claim()
        })
    }

    /// A batch is durable at `offset` of the last segment of the index.
    pub(super) fn finish(&mut self, batch: SealedBatch, offset: u32) {
        assert_eq!(self.in_flight.take(), Some(batch.sequence), "the batch was sealed");
        let bytes = u32::try_from(batch.bytes()).expect("invariant: a batch is below 4 GiB");
        self.index.locate(batch.sequence, offset, offset + bytes);
        self.index.note_highest(batch.highest);
        self.unsynced_bytes -= batch.records_bytes;
        self.is_unclaimed = !batch.is_claim;
        while let Some((_, index)) = self.purges.pop_front_if(|(of, _)| *of <= batch.sequence) {
            self.purged_durable = self.purged_durable.max(Some(index));
        }
        let buffer = batch.into_buffer();
        if self.buffers.len() < BUFFER_COUNT_MAX && buffer.len() <= BUFFER_BYTES_MAX {
            self.buffers.push(buffer);
        }
        self.trim();
    }

    /// Entries up to `index` are applied: the tail needs not hold them.
    pub(super) fn release(&mut self, index: u64) {
        self.released = self.released.max(Some(index));
        self.trim();
    }

    fn trim(&mut self) {
        let released = self.released.map_or(0, |index| index + 1);
        self.tail.trim(self.bounds.tail_bytes_max, released.min(self.index.located_until()));
    }
}
