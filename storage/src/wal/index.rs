//! The place of every entry of the log on the disk. Memory only.
//!
//! Called by the log (append, truncate, purge), the writer (a batch is on the disk), recovery and
//! reads. Invariants:
//!
//! - I1: the live entries are `first..next`, without a hole; those below `unlocated_first` have a
//!   place in a segment, the others only the sequence of the batch that will hold them.
//! - I2: within a segment offsets rise with the index, so four bytes an entry are enough: batch and
//!   sequence follow from the offset, the term from the runs of equal terms.
//! - I3: `committed` never exceeds the log, also when a truncate removes the entry that it named.
//! - I4: `highest` of a segment never falls. So a segment does not look empty because of a truncate
//!   that is not yet durable.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::segment::Carried;
use crate::disk::File;
use crate::{LogId, Term};

/// A segment that was begun, and the places of the live entries in it.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) id: u64,
    pub(super) file: Arc<dyn File>,
    /// Sequence of its first batch.
    pub(super) first_sequence: u64,
    /// Offset of every batch, in bytes; sequences are consecutive.
    pub(super) batches: Vec<u32>,
    /// End of its last batch, in bytes.
    pub(super) end: u32,
    /// Index of the entry that `offsets` begins with.
    first_index: u64,
    /// Offset of every entry, in bytes.
    offsets: Vec<u32>,
    /// Highest index that ever stood here, live or not (I4).
    highest: Option<u64>,
}

impl Segment {
    pub(super) fn new(id: u64, file: Arc<dyn File>, first_sequence: u64, start: u32) -> Self {
        Segment {
            id,
            file,
            first_sequence,
            batches: Vec::new(),
            end: start,
            first_index: 0,
            offsets: Vec::new(),
            highest: None,
        }
    }

    fn next_index(&self) -> u64 {
        self.first_index + self.offsets.len() as u64
    }

    fn push(&mut self, index: u64, offset: u32) {
        if self.offsets.is_empty() {
            self.first_index = index;
        }
        assert_eq!(self.next_index(), index, "the places of a segment have no hole");
        assert!(self.offsets.last().is_none_or(|&last| last < offset), "offsets rise");
        self.offsets.push(offset);
        self.highest = self.highest.max(Some(index));
    }

    fn truncate_from(&mut self, index: u64) {
        let keep = usize::try_from(index.saturating_sub(self.first_index)).unwrap_or(usize::MAX);
        self.offsets.truncate(keep);
    }

    fn ordinal(&self, index: u64) -> usize {
        usize::try_from(index - self.first_index).expect("invariant: entries are in memory")
    }

    /// Sequence of the batch that holds the byte at `offset`.
    fn sequence_at(&self, offset: u32) -> u64 {
        let behind = self.batches.partition_point(|&start| start <= offset);
        self.first_sequence + behind as u64 - 1
    }

    /// End of the batch that holds the byte at `offset`.
    fn batch_end(&self, offset: u32) -> u32 {
        let behind = self.batches.partition_point(|&start| start <= offset);
        self.batches.get(behind).copied().unwrap_or(self.end)
    }

    /// Sequence of the last batch, or of the one before the first if there is none.
    pub(super) fn last_sequence(&self) -> u64 {
        self.first_sequence + self.batches.len() as u64 - 1
    }
}

/// A run of entries of one segment that one disk read fetches.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) segment: u64,
    pub(super) file: Arc<dyn File>,
    pub(super) first_index: u64,
    /// Offset of every entry of the run.
    pub(super) offsets: Vec<u32>,
    /// Where the last entry of the run ends at the latest.
    pub(super) end: u32,
}

/// Places, terms and bounds of the log.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) segments: VecDeque<Segment>,
    /// Sequence of the batch and offset in it, of the entries from `unlocated_first` on.
    unlocated: VecDeque<(u64, u32)>,
    unlocated_first: u64,
    /// First index and term of every run of entries with one term.
    terms: VecDeque<(u64, Term)>,
    /// First live index, known once the log has held an entry or a purge point.
    first: Option<u64>,
    pub(super) carried: Carried,
}

impl Index {
    pub(super) fn new(carried: Carried) -> Self {
        let next = carried.last.map(|last| last.index + 1);
        Index {
            segments: VecDeque::new(),
            unlocated: VecDeque::new(),
            unlocated_first: next.unwrap_or(0),
            terms: VecDeque::new(),
            first: next,
            carried,
        }
    }

    /// The live indexes.
    pub(super) fn live(&self) -> Range<u64> {
        let first = self.first.unwrap_or(0);
        first..self.next().unwrap_or(first).max(first)
    }

    /// The index that the next entry must have; any if the log has never held one.
    pub(super) fn next(&self) -> Option<u64> {
        self.carried.last.map(|last| last.index + 1).max(self.first)
    }

    /// Term and index of a live entry or of the purge point.
    pub(super) fn log_id_at(&self, index: u64) -> Option<LogId> {
        if self.live().contains(&index) {
            let behind = self.terms.partition_point(|&(first, _)| first <= index);
            let &(_, term) = self.terms.get(behind.checked_sub(1)?)?;
            return Some(LogId { term, index });
        }
        self.carried.purged.filter(|purged| purged.index == index)
    }

    /// An entry was appended to the batch `sequence`, at `offset` in it.
    ///
    /// # Panics
    /// If its index does not follow the last one.
    pub(super) fn append(&mut self, log_id: LogId, sequence: u64, offset: u32) {
        self.extend(log_id);
        if self.unlocated.is_empty() {
            self.unlocated_first = log_id.index;
        }
        self.unlocated.push_back((sequence, offset));
    }

    /// Recovery found an entry at `offset` of the last segment.
    pub(super) fn append_located(&mut self, log_id: LogId, offset: u32) {
        self.extend(log_id);
        self.unlocated_first = log_id.index + 1;
        let segment = self.segments.back_mut().expect("invariant: recovery is in a segment");
        segment.push(log_id.index, offset);
    }

    fn extend(&mut self, log_id: LogId) {
        let next = self.next().unwrap_or(log_id.index);
        assert_eq!(log_id.index, next, "the log has no hole");
        self.first.get_or_insert(log_id.index);
        if self.terms.back().is_none_or(|&(_, term)| term != log_id.term) {
            self.terms.push_back((log_id.index, log_id.term));
        }
        self.carried.last = Some(log_id);
    }

    /// A batch is at `offset` of the last segment and durable: its present entries get their
    /// places. Entries that were truncated meanwhile are not there, or belong to a later batch.
    pub(super) fn locate(&mut self, sequence: u64, offset: u32, end: u32) {
        let segment = self.segments.back_mut().expect("invariant: a batch is in a segment");
        segment.batches.push(offset);
        segment.end = end;
        assert_eq!(segment.last_sequence(), sequence, "sequences are consecutive");
        while let Some(&(_, in_batch)) = self.unlocated.front().filter(|&&(of, _)| of == sequence) {
            self.unlocated.pop_front();
            segment.push(self.unlocated_first, offset + in_batch);
            self.unlocated_first += 1;
        }
    }

    /// Entries up to this index were written to the last segment, those too that were truncated
    /// before they had a place (I4).
    pub(super) fn note_highest(&mut self, highest: Option<u64>) {
        let segment = self.segments.back_mut().expect("invariant: a batch is in a segment");
        segment.highest = segment.highest.max(highest);
    }

    /// The entries below this index have a place on the disk: they are durable.
    pub(super) fn located_until(&self) -> u64 {
        if self.unlocated.is_empty() { self.live().end } else { self.unlocated_first }
    }

    /// Drops the entries behind `last`; none below the purge point.
    pub(super) fn truncate_after(&mut self, last: Option<LogId>) {
        let last = last.max(self.carried.purged);
        // All of them may begin before what recovery has seen: their segments are gone, for a later purge covers them.
        let from = last.map_or(0, |last| last.index + 1);
        let Some(next) = self.next().filter(|&next| from < next) else { return };
        for segment in self.segments.iter_mut().rev() {
            if !segment.offsets.is_empty() && segment.next_index() <= from {
                break;
            }
            segment.truncate_from(from);
        }
        let dropped = usize::try_from(next - from.max(self.unlocated_first).min(next))
            .expect("invariant: entries are in memory");
        self.unlocated.truncate(self.unlocated.len() - dropped.min(self.unlocated.len()));
        self.unlocated_first = self.unlocated_first.min(from);
        while self.terms.back().is_some_and(|&(first, _)| first >= from) {
            self.terms.pop_back();
        }
        if last.is_none() || self.live().start >= from {
            self.first = last.map(|last| last.index + 1);
        }
        self.carried.last = last;
        self.carried.committed = clamp(self.carried.committed, last);
    }

    /// Drops the entries up to `upto`, inclusive; a purge point never falls.
    pub(super) fn purge(&mut self, upto: LogId) {
        if self.carried.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        self.carried.purged = Some(upto);
        self.first = Some(upto.index + 1);
        if self.carried.last.is_none_or(|last| last.index <= upto.index) {
            self.carried.last = Some(upto);
            self.unlocated.clear();
            self.unlocated_first = upto.index + 1;
            self.terms.clear();
            for segment in &mut self.segments {
                segment.offsets = Vec::new();
            }
            return;
        }
        while self.terms.get(1).is_some_and(|&(first, _)| first <= upto.index + 1) {
            self.terms.pop_front();
        }
        for segment in &mut self.segments {
            if segment.offsets.is_empty() || segment.next_index() > upto.index + 1 {
                break;
            }
            segment.offsets = Vec::new();
        }
    }

    /// Sequence of the batch that holds (or will hold) a live entry.
    pub(super) fn sequence_of(&self, index: u64) -> Option<u64> {
        if !self.live().contains(&index) {
            return None;
        }
        if index >= self.unlocated_first {
            let ordinal = usize::try_from(index - self.unlocated_first).ok()?;
            return self.unlocated.get(ordinal).map(|&(sequence, _)| sequence);
        }
        let segment = self.segment_with(index)?;
        segment.offsets.get(segment.ordinal(index)).map(|&offset| segment.sequence_at(offset))
    }

    /// The place of a live entry: its segment and its offset there.
    pub(super) fn place_of(&self, index: u64) -> Option<(u64, u32)> {
        let segment = self.segment_with(index).filter(|_| self.live().contains(&index))?;
        segment.offsets.get(segment.ordinal(index)).map(|&offset| (segment.id, offset))
    }

    fn segment_with(&self, index: u64) -> Option<&Segment> {
        // Segments without live entries lie between others, so no binary search; they are few.
        self.segments.iter().rev().find(|segment| {
            !segment.offsets.is_empty()
                && segment.first_index <= index
                && index < segment.next_index()
        })
    }

    /// The entries from `range.start` on that one read of about `bytes_max` fetches; at least one.
    /// `None` if that entry is not live or has no place yet.
    pub(super) fn run_from(&self, range: Range<u64>, bytes_max: usize) -> Option<Run> {
        self.place_of(range.start)?;
        let segment = self.segment_with(range.start)?;
        let last = range.end.min(segment.next_index()).max(range.start + 1);
        let offsets = segment.offsets.get(segment.ordinal(range.start)..)?;
        let count = usize::try_from(last - range.start).ok()?;
        let start = *offsets.first()?;
        let bound = u32::try_from(bytes_max).unwrap_or(u32::MAX).saturating_add(start);
        let fitting = offsets.iter().take(count + 1).skip(1).take_while(|&&end| end <= bound);
        let mut taken = fitting.count().clamp(1, count);
        let mut end = offsets.get(taken).map_or(segment.end, |&next| next);
        // The last entry of a batch ends before the next batch begins.
        end = end.min(segment.batch_end(*offsets.get(taken - 1)?));
        if taken + 1 == count && segment.end <= bound {
            taken = count;
            end = segment.end;
        }
        Some(Run {
            segment: segment.id,
            file: Arc::clone(&segment.file),
            first_index: range.start,
            offsets: offsets.get(..taken)?.to_vec(),
            end,
        })
    }

    /// Takes out the segments, from the oldest on, in which nothing above `upto` ever stood. The
    /// last one stays.
    pub(super) fn take_purged(&mut self, upto: u64) -> Vec<Segment> {
        let can_go = |segment: &&Segment| segment.highest.is_none_or(|highest| highest <= upto);
        let candidates = self.segments.len().saturating_sub(1);
        let count = self.segments.iter().take(candidates).take_while(can_go).count();
        self.segments.drain(..count).collect()
    }

    /// The highest index that can be purged so that at least `bytes` of the log stay, of which
    /// `unlocated_bytes` have no place yet.
    pub(super) fn purge_point_keeping(&self, bytes: u64, unlocated_bytes: u64) -> Option<u64> {
        let mut kept = unlocated_bytes;
        let live = self.live();
        for segment in self.segments.iter().rev() {
            let start = segment.batches.first().copied().unwrap_or(segment.end);
            let in_segment = u64::from(segment.end - start);
            if segment.offsets.is_empty() || kept + in_segment < bytes {
                kept += in_segment;
                continue;
            }
            let missing = u32::try_from(bytes.saturating_sub(kept)).ok()?;
            let bound = segment.end - missing;
            let below = segment.offsets.partition_point(|&offset| offset <= bound);
            let highest = (segment.first_index + below as u64).checked_sub(2)?;
            return Some(highest).filter(|highest| live.contains(highest));
        }
        None
    }
}

/// `committed`, but not beyond `last`.
pub(super) fn clamp(committed: Option<LogId>, last: Option<LogId>) -> Option<LogId> {
    match (committed, last) {
        (Some(committed), Some(last)) if committed.index <= last.index => Some(committed),
        (Some(_), last) => last,
        (None, _) => None,
    }
}
