//! The write-ahead log: one stream of records for entries, votes, committed, truncate and purge.
//!
//! Called by the log store of the Raft core (append, read), by one syncer thread (seal, write), by
//! a background thread (prepare) and by the checkpoint (purge points). Calls `disk`. Starts no
//! thread: a sync is a ticket that the caller runs. Invariants:
//!
//! - I1: records reach the disk in the order of the calls that made them. Votes and log writes are
//!   never reordered.
//! - I2: at most one batch is in flight. A batch takes the blocks behind the one before and never
//!   touches a block that is already durable.
//! - I3: durability is counted by position in the stream, never by log index.
//! - I4: after the first failure of the disk the log begins no write, and a batch that is not in
//!   flight never becomes durable. One failure is excepted: no space for the segment that is made
//!   ahead.
//! - I5: locks are taken in the order writer, store, log; the log's lock is never held over I/O.

mod batch;
mod current;
mod cut;
mod fields;
mod index;
mod inspect;
mod log;
mod options;
mod read;
mod record;
mod recover;
mod scan;
mod segment;
mod stopped;
mod store;
mod tail;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

pub use batch::SealedBatch;
pub use cut::Cut;
pub(crate) use inspect::{is_segment, show_segment};
pub use options::{Nonces, Options, SyncMode};
pub use record::{Entry, EntryKind};
pub use recover::{Recovery, Seen};
pub use segment::{SEGMENT_MAGIC, SEGMENT_VERSION};
pub use stopped::StoppedWal;

use crate::disk::{BLOCK_BYTES, Disk};
use crate::{Error, LogId, Result, Vote};
use batch::{BATCH_BYTES_LIMIT, BATCH_HEADER_BYTES};
use current::Current;
use index::Segment;
use log::Log;
use recover::{Clearable, Follow};
use segment::{Carried, Follows, Life, Nonce, SEGMENT_HEADER_BYTES, SegmentHeader, name_of};
use store::Store;

/// Least bytes of a segment: a header and batches of two blocks.
pub const SEGMENT_BYTES_MIN: u64 = 8 * BLOCK_BYTES as u64;
/// Most bytes of a segment: offsets in it take 32 bits.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 31;

/// What the options come to.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    records_bytes_max: usize,
    tail_bytes_max: usize,
}

impl Bounds {
    fn of(options: &Options) -> Self {
        assert!(
            (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&options.segment_bytes)
                && options.segment_bytes.is_multiple_of(BLOCK_BYTES as u64),
            "a segment cannot have {} bytes",
            options.segment_bytes
        );
        let half = usize::try_from(options.segment_bytes / 2)
            .expect("invariant: a segment is below 4 GiB");
        let batch_bytes_max = half.min(BATCH_BYTES_LIMIT) / BLOCK_BYTES * BLOCK_BYTES;
        Bounds {
            records_bytes_max: batch_bytes_max - BATCH_HEADER_BYTES,
            tail_bytes_max: options.tail_bytes_max,
        }
    }
}

/// A position in the stream: the sequence number of the batch that holds (or will hold) a record.
/// A record is durable when [`Wal::durable`] has reached its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

/// What the log says at this moment, durable or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// The last vote.
    pub vote: Option<Vote>,
    /// Entries known committed, never beyond `last`.
    pub committed: Option<LogId>,
    /// Entries up to here were dropped.
    pub purged: Option<LogId>,
    /// The last log id; the purge point if the log is empty.
    pub last: Option<LogId>,
    /// The first index that the log holds, or would hold if it is empty.
    pub first_index: u64,
}

/// The writer: where the next batch goes.
#[derive(Debug)]
struct Writer {
    /// `None` if the next batch begins a segment.
    current: Option<Current>,
    /// The last batch that is written.
    last: Follows,
    /// Sequence of the last batch that is known to be on the disk.
    synced: u64,
    /// The state of the log at its end.
    carried: Carried,
    /// That of the next segment, which the present one names.
    next_nonce: Nonce,
}

/// The write-ahead log.
#[derive(Debug)]
pub struct Wal {
    writer: Mutex<Writer>,
    store: Store,
    log: Mutex<Log>,
    durable: AtomicU64,
    is_failed: AtomicBool,
    sync: SyncMode,
    nonces: Nonces,
    unsynced_bytes_max: usize,
    records_bytes_max: usize,
}

impl Wal {
    /// Opens the log in `directory`, which is made if it is not there, and recovers it. Bytes of a
    /// torn end are kept in a file `cut-*` in `aside`. After `Ok` all that the log says is durable,
    /// and the next segment is there.
    ///
    /// # Errors
    /// [`Error::CorruptLog`] if a batch is damaged that a later one claims durable,
    /// [`Error::Corrupt`] and [`Error::Missing`] if the segments contradict each other,
    /// [`Error::UnknownVersion`] (nothing was touched), [`Error::NoSpace`], [`Error::Io`].
    ///
    /// # Panics
    /// If the options are out of bounds.
    pub fn open(
        disk: Arc<dyn Disk>,
        directory: &Path,
        aside: &Path,
        options: &Options,
    ) -> Result<(Wal, Recovery)> {
        Self::open_and_tell(disk, directory, aside, options, &mut None)
    }

    /// As [`Wal::open`], and tells `follow` of the entries as they are met: whoever needs them has not
    /// to read the log once more. They are durable only after `Ok`.
    ///
    /// # Errors
    /// As [`Wal::open`].
    ///
    /// # Panics
    /// As [`Wal::open`].
    pub fn open_following(
        disk: Arc<dyn Disk>,
        directory: &Path,
        aside: &Path,
        options: &Options,
        follow: &mut dyn FnMut(Seen),
    ) -> Result<(Wal, Recovery)> {
        Self::open_and_tell(disk, directory, aside, options, &mut Some(follow))
    }

    fn open_and_tell(
        disk: Arc<dyn Disk>,
        directory: &Path,
        aside: &Path,
        options: &Options,
        follow: Follow<'_, '_>,
    ) -> Result<(Wal, Recovery)> {
        let bounds = Bounds::of(options);
        disk.create_dir_all(directory)?;
        disk.create_dir_all(aside)?;
        if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            disk.sync_dir(parent)?;
        }
        let mut recovered = recover::recover(&*disk, directory, aside, follow)?;
        let mode = options.sync.write_mode();
        let mut writer = Writer {
            current: recovered.current.map(|at_end| at_end.writing(&*disk, mode)).transpose()?,
            last: recovered.last,
            synced: recovered.last.sequence,
            carried: recovered.index.carried,
            next_nonce: recovered.next_nonce.unwrap_or_else(|| options.nonces.draw()),
        };
        let store = Store::new(disk, directory.to_path_buf(), recovered.next_id, options);
        store.recycle(recovered.unused)?;
        match (store.prepare(&mut |_, _| {}), recovered.clearable) {
            // The present segment takes some more; see `has_next_segment`.
            (Err(Error::NoSpace { .. }), _) if writer.current.is_some() => {}
            (Err(Error::NoSpace { .. }), Some(Clearable { at, begins })) => {
                writer.current = Some(at.clear()?.writing(&*store.disk, mode)?);
                if let Some((segment, next_nonce)) = begins {
                    recovered.index.segments.push_back(segment);
                    writer.next_nonce = next_nonce;
                }
            }
            (made, _) => drop(made?),
        }
        let wal = Wal {
            writer: Mutex::new(writer),
            store,
            log: Mutex::new(Log::new(recovered.index, recovered.last.sequence, bounds)),
            durable: AtomicU64::new(recovered.last.sequence),
            is_failed: AtomicBool::new(false),
            sync: options.sync,
            nonces: options.nonces.clone(),
            unsynced_bytes_max: options.unsynced_bytes_max,
            records_bytes_max: bounds.records_bytes_max,
        };
        Ok((wal, recovered.report))
    }

    /// What the log says now.
    pub fn state(&self) -> State {
        self.log.lock().state()
    }

    /// Appends entries. They are readable when this returns, and durable once [`Wal::durable`]
    /// reaches the position that it gives.
    ///
    /// # Errors
    /// [`Error::EntryTooLarge`] if one of them does not fit a batch; then none was appended.
    ///
    /// # Panics
    /// If an index does not follow the one before.
    pub fn append(&self, entries: impl IntoIterator<Item = Entry>) -> Result<Position> {
        let mut entries: Vec<Entry> = entries.into_iter().collect();
        let payload_bytes_max = self.payload_bytes_max();
        for Entry { log_id, payload, .. } in &entries {
            if payload.len() > payload_bytes_max {
                return Err(Error::EntryTooLarge {
                    index: log_id.index,
                    bytes: payload.len(),
                    bytes_max: payload_bytes_max,
                });
            }
        }
        for entry in &mut entries {
            entry.payload.sum(); // once, for its record, its batch and the frames that it goes into
        }
        let mut log = self.log.lock();
        for entry in entries {
            log.append(entry);
        }
        Ok(Position(log.last_sequence()))
    }

    /// Most bytes of an entry's payload.
    pub fn payload_bytes_max(&self) -> usize {
        // Beside the entry the batch must hold a `committed` record.
        let bytes = self.records_bytes_max - record::entry_bytes(0) - record::RECORD_BYTES;
        bytes / 8 * 8
    }

    /// Records a vote. It is durable at the position that this gives.
    pub fn save_vote(&self, vote: Vote) -> Position {
        let mut log = self.log.lock();
        log.save_vote(vote);
        Position(log.last_sequence())
    }

    /// Notes that entries up to here are committed. It goes out with the next batch and asks for no
    /// batch of its own; see [`Wal::barrier`].
    pub fn save_committed(&self, committed: LogId) {
        self.log.lock().save_committed(committed);
    }

    /// Drops the entries behind `last`, or all of them, but none up to the purge point.
    pub fn truncate_after(&self, last: Option<LogId>) -> Position {
        let mut log = self.log.lock();
        log.truncate_after(last);
        Position(log.last_sequence())
    }

    /// Drops the entries up to `upto`, inclusive. Beyond the last entry the log is empty then and
    /// goes on after `upto`. A lower purge point than the present one changes nothing. The files go
    /// with [`Wal::reclaim`], once this is durable.
    pub fn purge(&self, upto: LogId) -> Position {
        let mut log = self.log.lock();
        log.purge(upto);
        Position(log.last_sequence())
    }

    /// Drops the whole log, which contradicts a checkpoint, and goes on after `upto`.
    ///
    /// # Panics
    /// If the log is already purged beyond `upto`: its entries are gone for good.
    pub fn drop_all_and_purge_to(&self, upto: LogId) -> Position {
        let mut log = self.log.lock();
        let purged = log.index.carried.purged;
        assert!(purged <= Some(upto), "the log was purged to {purged:?}, beyond {upto}");
        log.truncate_after(None);
        log.purge(upto);
        Position(log.last_sequence())
    }

    /// Everything appended so far is durable at this position.
    pub fn position(&self) -> Position {
        Position(self.log.lock().last_sequence())
    }

    /// Like [`Wal::position`], with the latest `committed` too: it goes into the next batch, and
    /// asks for one.
    pub fn barrier(&self) -> Position {
        let mut log = self.log.lock();
        log.push_committed();
        Position(log.last_sequence())
    }

    /// When what is written is made durable.
    pub fn sync_mode(&self) -> SyncMode {
        self.sync
    }

    /// Everything up to this position survives power loss.
    pub fn durable(&self) -> Position {
        Position(self.durable.load(Ordering::Acquire))
    }

    /// Position of the entry that stands at `index` now.
    pub fn position_of(&self, index: u64) -> Option<Position> {
        self.log.lock().index.sequence_of(index).map(Position)
    }

    /// Bytes of records that are not durable.
    pub fn unsynced_bytes(&self) -> usize {
        self.log.lock().unsynced_bytes
    }

    /// Whether so much is not durable that appending should wait for the disk.
    pub fn is_over_bound(&self) -> bool {
        self.unsynced_bytes() >= self.unsynced_bytes_max
    }

    /// Entries up to `index` are applied, so memory needs not hold them.
    pub fn release(&self, index: u64) {
        self.log.lock().release(index);
    }

    /// Bytes of records since the log was opened.
    pub fn log_bytes(&self) -> u64 {
        self.log.lock().appended_bytes
    }

    /// The highest index that can be purged so that at least `bytes` of the log stay, counted as
    /// they are on the disk, padding included.
    pub fn purge_point_keeping(&self, bytes: u64) -> Option<u64> {
        let log = self.log.lock();
        log.index.purge_point_keeping(bytes, log.unsynced_bytes as u64)
    }

    /// The log id at `index`, if the log holds that entry or was purged to it. Reads no disk.
    pub fn log_id_at(&self, index: u64) -> Option<LogId> {
        self.log.lock().index.log_id_at(index)
    }

    /// Takes what is to be written as one batch, or `None` if there is nothing or a write failed.
    /// The syncer's.
    ///
    /// # Panics
    /// If the batch before was not written yet.
    pub fn seal(&self) -> Option<SealedBatch> {
        self.log.lock().seal()
    }

    /// Whether the last batch waits for a later one that claims it, with nothing on its way. An
    /// idle node then writes [`Wal::seal_claim`] within 10 ms.
    pub fn claim_due(&self) -> bool {
        self.log.lock().is_claim_due()
    }

    /// Takes a batch without entries that claims the last one, if that is due.
    pub fn seal_claim(&self) -> Option<SealedBatch> {
        self.log.lock().seal_claim()
    }

    /// Writes a batch with one direct, data-synced write, at the end of the segment or as the first
    /// of the next one. After `Ok` the batch survives power loss, and [`Wal::durable`] says so.
    ///
    /// # Errors
    /// Whatever the disk says; [`Error::Poisoned`] after a failure. Nothing is retried.
    pub fn write(&self, batch: SealedBatch) -> Result<Position> {
        let mut writer = self.writer.lock();
        self.check_poison()?;
        self.watch(self.write_with(&mut writer, batch))
    }

    /// `Poisoned` after a failure (I4).
    fn check_poison(&self) -> Result<()> {
        if self.is_failed.load(Ordering::Acquire) {
            return Err(Error::Poisoned { path: self.store.directory.clone() });
        }
        Ok(())
    }

    /// Passes a result on. After a failure the log writes no more (I4).
    fn watch<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.is_failed.store(true, Ordering::Release);
            self.log.lock().fail();
        }
        result
    }

    fn write_with(&self, writer: &mut Writer, mut batch: SealedBatch) -> Result<Position> {
        let sequence = batch.sequence;
        assert_eq!(sequence, writer.last.sequence + 1, "batches are written in order");
        let bytes = batch.bytes() as u64;
        let fits = |current: &Current| current.end + bytes <= current.bytes;
        let begun = match writer.current.as_mut().filter(|current| fits(current)) {
            Some(current) => {
                batch.finish(current.life, writer.synced);
                current.writer.write_at(batch.as_slice(), current.end)?;
                current.end += bytes;
                None
            }
            None => Some(self.begin_segment(writer, &mut batch)?),
        };
        let current = writer.current.as_ref().expect("invariant: there is one now");
        let offset = offset_in_segment(current.end - bytes);
        writer.last = Follows { segment: current.life.segment, sequence };
        match self.sync {
            SyncMode::Always => writer.synced = sequence,
            SyncMode::OnRequest if batch.must_sync => self.sync_current(writer)?,
            SyncMode::OnRequest => {}
        }
        writer.carried = batch.carried;
        let mut log = self.log.lock();
        log.index.segments.extend(begun);
        log.finish(batch, offset);
        self.durable.store(sequence, Ordering::Release);
        Ok(Position(sequence))
    }

    /// Writes a batch together with the header of the segment that it begins.
    fn begin_segment(&self, writer: &mut Writer, batch: &mut SealedBatch) -> Result<Segment> {
        self.sync_current(writer)?; // only the last segment may hold what is not synced
        let next = self.store.take_next()?;
        let life = Life { segment: next.id, nonce: writer.next_nonce };
        let header = SegmentHeader {
            id: next.id,
            nonce: life.nonce,
            next_nonce: self.nonces.draw(),
            first_sequence: batch.sequence,
            bytes: next.bytes,
            follows: writer.last,
            carried: writer.carried,
            reserved: 0,
        };
        batch.finish(life, writer.synced);
        next.writer.write_at(batch.as_slice_behind(&header.encode()), 0)?;
        let start = SEGMENT_HEADER_BYTES as u64;
        let end = start + batch.bytes() as u64;
        let segment = Segment::new(next.id, next.reader, batch.sequence, offset_in_segment(start));
        writer.current = Some(Current { writer: next.writer, life, end, bytes: next.bytes });
        writer.next_nonce = header.next_nonce;
        Ok(segment)
    }

    /// Makes everything that was written survive power loss. Nothing to do under
    /// [`SyncMode::Always`].
    ///
    /// # Errors
    /// Of the disk; the log writes no more.
    pub fn sync(&self) -> Result<()> {
        let mut writer = self.writer.lock();
        self.check_poison()?;
        self.watch(self.sync_current(&mut writer))
    }

    fn sync_current(&self, writer: &mut Writer) -> Result<()> {
        if let Some(current) = &writer.current
            && self.sync == SyncMode::OnRequest
        {
            current.writer.sync()?;
            writer.synced = writer.last.sequence;
        }
        Ok(())
    }

    /// Makes the next segment if it is not there: reserved, filled with zeros once, synced and
    /// named durably. Takes long; belongs on a background thread. True if it made one.
    ///
    /// # Errors
    /// [`Error::NoSpace`], after which it may be tried again. After any other error of the disk,
    /// or [`Error::Poisoned`], the log writes no more.
    pub fn prepare(&self) -> Result<bool> {
        self.prepare_resting(&mut |_, _| {})
    }

    /// As [`Wal::prepare`]; after each piece that it fills it calls `rest` with the bytes that are
    /// filled and those of the whole segment, for the disk is busy with batches as well. The segment
    /// is there when all rests are over.
    ///
    /// # Errors
    /// As [`Wal::prepare`].
    pub fn prepare_resting(&self, rest: &mut dyn FnMut(u64, u64)) -> Result<bool> {
        self.check_poison()?;
        match self.store.prepare(rest) {
            Err(full @ Error::NoSpace { .. }) => Err(full),
            made => self.watch(made),
        }
    }

    /// Has the next batch begin a segment of zeros, and all files of the log before that one removed once they are purged: what was written
    /// up to now is then in no file of the log any more. Makes a segment, which takes long, and calls `rest` as [`Wal::prepare_resting`] says.
    ///
    /// # Errors
    /// [`Error::NoSpace`], and nothing has changed. After any other error of the disk, or [`Error::Poisoned`], the log writes
    /// no more.
    pub fn renew(&self, rest: &mut dyn FnMut(u64, u64)) -> Result<()> {
        self.check_poison()?;
        match self.store.renew(rest) {
            Err(full @ Error::NoSpace { .. }) => return Err(full),
            renewed => self.watch(renewed)?,
        }
        let mut writer = self.writer.lock();
        self.watch(self.sync_current(&mut writer))?; // only the last segment may hold what is not synced
        writer.current = None;
        Ok(())
    }

    /// Whether [`Wal::prepare`] has something to do.
    pub fn is_prepare_due(&self) -> bool {
        self.store.lacks_next()
    }

    /// False while the next segment is missing because it could not be made: the leader answers
    /// NO_SPACE, and a follower reads no append frames.
    pub fn has_next_segment(&self) -> bool {
        self.store.has_next()
    }

    /// Takes the segments wholly at or below the durable purge point out of the log, to be used
    /// again or removed, and says how many.
    ///
    /// # Errors
    /// An error of the disk, after which the log writes no more: names that were not made durable
    /// once must not look so after a later sync. What was not removed is found again at the next
    /// start.
    pub fn reclaim(&self) -> Result<usize> {
        self.check_poison()?;
        self.watch(self.reclaim_purged())
    }

    fn reclaim_purged(&self) -> Result<usize> {
        let gone = {
            let mut log = self.log.lock();
            let Some(upto) = log.purged_durable else { return Ok(0) };
            log.index.take_purged(upto)
        };
        if gone.is_empty() {
            return Ok(0);
        }
        self.sync_current(&mut self.writer.lock())?; // the purge point first, whatever the mode
        let mut old = Vec::with_capacity(gone.len());
        for segment in gone {
            old.push((name_of(segment.id), segment.file.len()?));
        }
        self.store.recycle(old)
    }

    /// The entries of `range` that the log holds, in order, until `bytes_max` bytes of payload: at
    /// least one if there is any. From memory where the tail has them, else from the disk.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if an entry's CRC does not hold; [`Error::Io`]; [`Error::LogChanges`] if others
    /// purge or truncate it faster than it can be read.
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>> {
        read::read(&self.log, range, bytes_max)
    }

    /// As [`Wal::read`], if that needs no disk: `None` if the first entry of `range` that the log
    /// holds is not in memory. For callers that must not block.
    pub fn read_tail(&self, range: Range<u64>, bytes_max: usize) -> Option<Vec<Entry>> {
        read::read_tail(&self.log, range, bytes_max)
    }
}

/// Checked when the segment was made: see [`SEGMENT_BYTES_MAX`].
fn offset_in_segment(offset: u64) -> u32 {
    u32::try_from(offset).expect("invariant: a segment is below 4 GiB")
}
