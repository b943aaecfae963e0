//! The records of a node, and its log: what one turn writes is one entry of the log, and what one
//! sync makes durable is one batch of entries.
//!
//! Owned by the driver, and opened by `open`; calls `storage` and the syncer of the log. Records are in memory as soon as they are
//! written; `replica` holds the answers back that must wait for the disk. Invariants:
//!
//! - I1: a record is in the log before, or with, everything that is written after it.
//! - V8: sums change with the record.
//! - I3: a checkpoint names an entry only if all of it is in memory, and has the numbers as of then.
//! - I4: what was forgotten is in no file after a renewal of the log that began later, and the checkpoint that follows it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use diskstore_storage::keys::{self, Changed, KeyImage, Keys, Walked, mark_of};
use diskstore_storage::state::{Membership, Target};
use diskstore_storage::wal::{Entry, EntryKind, Position, Wal};
use diskstore_storage::{Error, LogId, Term};
use tokio::time::Instant;

use super::records::{Kept, put_dropped, put_held, put_kept, put_kept_record};
use crate::leaderless::clock::{Moment, NodeNumber, Version};
use crate::leaderless::layout::Layout;
use crate::leaderless::message::Held;
use crate::leaderless::repair::{self, BUCKET_COUNT, Found, Hashed, Stamp, Sums};
use crate::leaderless::replica::Numbers;
use crate::replica::Syncer;

/// An entry is ended once it has so many bytes. One record may be larger.
const ENTRY_BYTES: usize = 4 << 20;
/// Log since the last checkpoint, in bytes, from which on one is due, unless keys take more memory.
const CHECKPOINT_BYTES: u64 = 256 << 20;
/// Bits of a hash below those of its bucket.
const BUCKET_SHIFT: u32 = 64 - BUCKET_COUNT.ilog2();
/// What a record counts in a page beside its key and value, in bytes.
const RECORD_BYTES: usize = 32;

/// Bytes of records among which old keys are looked for at a time; more than a page of a copy has ([`Store::page`]).
const OLD_KEYS_BYTES_MAX: usize = 2 << 20;
/// Times the pause after which files are cleaned of what was forgotten: they are then, even if there was no pause.
const CLEAN_LATEST: u32 = 12;
/// Pause after each MiB of the segment that a renewal makes: a segment takes a second or so.
const RENEWAL_REST: Duration = Duration::from_millis(10);
/// Most memory of keys with which a node that stops cleans its files, in bytes: it takes a second or so.
const CLEANED_AT_STOP_BYTES_MAX: u64 = CHECKPOINT_BYTES;
/// Deletes that are forgotten at a time.
pub(super) const FORGOTTEN_MAX: usize = 2048;

/// See there.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) keys: Arc<Keys>,
    pub(super) wal: Arc<Wal>,
    pub(super) syncer: Arc<Syncer>,
    pub(super) layout: Layout,
    pub(super) kept: Kept,
    /// With each other node, over what both hold.
    pub(super) sums: BTreeMap<NodeNumber, Sums>,
    /// Deletes that are remembered, and some that are not any more, by version.
    pub(super) deleted: BTreeSet<(u64, Bytes)>,
    /// Deletes are forgotten up to this version, some of them still to come ([`Store::forget_some`]).
    pub(super) forgets_upto: u64,
    /// The highest version that was there at the start.
    pub(super) highest: Version,
    /// Index of the entry that was appended last.
    pub(super) last_index: u64,
    /// The entry that is being filled, and how many writes it has.
    pub(super) pending: Vec<u8>,
    /// See there.
    pub(super) pending_count: u64,
    /// Bytes of the log at the last checkpoint, counted from the start of this process.
    pub(super) checkpoint_at: u64,
    /// Bytes that this start found in the log behind its last checkpoint, until the next one.
    pub(super) replayed_bytes: u64,
    /// What was forgotten and may still be in files, if anything.
    pub(super) forgotten: Option<Forgotten>,
    /// The log goes on in new files: a checkpoint is due that lets the old ones go.
    pub(super) is_renewed: bool,
    /// That checkpoint, or the renewal before it, is not over yet.
    pub(super) is_cleaning: bool,
}

/// When keys were forgotten that may still be in files.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forgotten {
    first: Instant,
    last: Instant,
}

impl Forgotten {
    fn now() -> Forgotten {
        let now = Instant::now();
        Forgotten { first: now, last: now }
    }

    /// Whether the files are to be cleaned of it: a while after the last of it, and not too long after the first.
    fn is_due(self, clean_after: Duration) -> bool {
        let now = Instant::now();
        now.duration_since(self.last) >= clean_after
            || now.duration_since(self.first) >= clean_after * CLEAN_LATEST
    }
}

/// What was appended to the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Appended {
    /// Once this is durable ..
    pub(super) position: Position,
    /// .. so many writes are.
    pub(super) count: u64,
}

/// A checkpoint that is to be made.
#[derive(Debug)]
pub(super) struct CheckpointJob {
    keys: Arc<Keys>,
    wal: Arc<Wal>,
    syncer: Arc<Syncer>,
    target: Target,
    cancel: Arc<AtomicBool>,
}

impl Store {
    /// What is held of a key, synced or not.
    pub(super) fn held(&self, key: &[u8]) -> Held {
        let found = self.keys.read(key);
        Held { version: Version::from_number(found.index), value: found.value }
    }

    /// The version alone.
    pub(super) fn version(&self, key: &[u8]) -> Version {
        Version::from_number(self.keys.read(key).index)
    }

    /// Writes what a key holds.
    pub(super) fn put(&mut self, key: &Bytes, held: &Held) {
        let image =
            KeyImage { key: key.clone(), index: held.version.get(), value: held.value.clone() };
        if let Some(changed) = self.keys.take(&image) {
            change_sums(&mut self.sums, &self.layout, key, changed);
            if !self.deleted.is_empty() {
                self.deleted.remove(&(changed.before, key.clone()));
            }
        }
        if held.value.is_none() {
            self.deleted.insert((held.version.get(), Bytes::copy_from_slice(key)));
        }
        put_held(&mut self.pending, key, held);
        self.pending_count += 1;
    }

    /// Drops what a key holds, up to a version. It counts as a write of the log, but not of the replica.
    pub(super) fn drop_key(&mut self, key: &[u8], upto: Version) {
        if let Some(changed) = self.keys.drop_register(key, upto.get()) {
            change_sums(&mut self.sums, &self.layout, key, changed);
            put_dropped(&mut self.pending, key, upto);
            self.note_forgotten();
        }
    }

    /// Writes the numbers.
    pub(super) fn put_numbers(&mut self, numbers: Numbers) {
        self.kept.numbers = numbers;
        put_kept_record(&mut self.pending, &self.kept);
        self.pending_count += 1;
    }

    /// Deletes up to a moment are to be forgotten, piece by piece. A start forgets them again, so the log need not
    /// say so.
    pub(super) fn forget(&mut self, floor: Moment) {
        self.forgets_upto = self.forgets_upto.max(Version::last_at(floor).get());
        self.keys.raise_floor(self.forgets_upto);
    }

    /// Whether there are deletes that are to be forgotten.
    pub(super) fn is_forgetting(&self) -> bool {
        self.deleted.first().is_some_and(|(version, _)| *version <= self.forgets_upto)
    }

    /// Forgets some of what is to be forgotten.
    pub(super) fn forget_some(&mut self) {
        for _ in 0..FORGOTTEN_MAX {
            if !self.is_forgetting() {
                return;
            }
            let Some((version, key)) = self.deleted.pop_first() else { return };
            let found = self.keys.read(&key);
            if found.index != version || found.value.is_some() {
                continue; // it was written since
            }
            if let Some(changed) = self.keys.drop_register(&key, version) {
                change_sums(&mut self.sums, &self.layout, &key, changed);
                self.note_forgotten();
            }
        }
    }

    /// Whether files may still have keys that were deleted and forgotten.
    pub(super) fn has_forgotten_in_files(&self) -> bool {
        self.forgotten.is_some() || self.is_cleaning
    }

    /// Something was forgotten that files still have.
    pub(super) fn note_forgotten(&mut self) {
        self.forgotten.get_or_insert_with(Forgotten::now).last = Instant::now();
    }

    /// What has the log go on in new files, if files are to be cleaned of what was forgotten; a checkpoint of what is there
    /// after that lets the old files go. Blocks.
    pub(super) fn renewal_due(&mut self, clean_after: Duration) -> Option<RenewalJob> {
        self.forgotten.filter(|forgotten| forgotten.is_due(clean_after))?;
        // What is forgotten from now on may be in the new files.
        (self.forgotten, self.is_cleaning) = (None, true);
        Some(RenewalJob { wal: self.wal.clone(), syncer: self.syncer.clone() })
    }

    /// Cleans the files of a node that stops, if that takes not too long. Blocks.
    ///
    /// # Errors
    /// Of the disk.
    pub(super) fn clean_at_stop(&mut self) -> diskstore_storage::Result<()> {
        if self.is_cleaning {
            self.note_forgotten(); // the stop came before its end
        }
        if !self.pending.is_empty() || self.keys.memory_bytes() > CLEANED_AT_STOP_BYTES_MAX {
            return Ok(());
        }
        let Some(job) = self.renewal_due(Duration::ZERO) else { return Ok(()) };
        if job.run()?
            && let Some(job) = self.checkpoint(&Arc::default())
        {
            job.run()?;
        }
        Ok(())
    }

    /// Whether the entry that is being filled is large enough.
    pub(super) fn is_entry_full(&self) -> bool {
        self.pending.len() >= ENTRY_BYTES.min(self.wal.payload_bytes_max() / 4)
    }

    /// Appends what was written since the last time.
    ///
    /// # Errors
    /// The log takes no entry of that size: bounds of values and [`Store::is_entry_full`] exclude that.
    pub(super) fn append(&mut self) -> diskstore_storage::Result<Option<Appended>> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        let payload = Bytes::from(std::mem::take(&mut self.pending)).into();
        let count = std::mem::take(&mut self.pending_count);
        let log_id = log_id(self.last_index + 1);
        let position = self.wal.append([Entry { log_id, kind: EntryKind::Normal, payload }])?;
        self.last_index = log_id.index;
        self.wal.release(self.last_index);
        Ok(Some(Appended { position, count }))
    }

    /// The checkpoint that is due, if one is. Nothing may be pending (I3).
    pub(super) fn checkpoint_due(&mut self, cancel: &Arc<AtomicBool>) -> Option<CheckpointJob> {
        if std::mem::take(&mut self.is_renewed) {
            let job = self.checkpoint(cancel);
            if job.is_none() {
                self.is_cleaning = false;
                self.note_forgotten(); // nothing was written since; another time
            }
            return job;
        }
        let bytes = self.replayed_bytes + self.wal.log_bytes() - self.checkpoint_at;
        if bytes < CHECKPOINT_BYTES.max(self.keys.memory_bytes()) {
            return None;
        }
        self.checkpoint(cancel)
    }

    /// A checkpoint of what there is; none if nothing was written since the last one.
    pub(super) fn checkpoint(&mut self, cancel: &Arc<AtomicBool>) -> Option<CheckpointJob> {
        assert!(self.pending.is_empty(), "a checkpoint is taken between entries");
        (self.checkpoint_at, self.replayed_bytes) = (self.wal.log_bytes(), 0);
        let done = self.keys.durable().map_or(0, |target| target.log_id.index);
        if self.last_index <= done {
            return None;
        }
        let mut body = Vec::new();
        put_kept(&mut body, &self.kept);
        let target = Target {
            log_id: log_id(self.last_index),
            membership: Membership { log_id: None, body: body.into() },
            requests_crc: 0,
        };
        let (keys, wal, syncer) = (self.keys.clone(), self.wal.clone(), self.syncer.clone());
        Some(CheckpointJob { keys, wal, syncer, target, cancel: cancel.clone() })
    }

    /// The sums with another node.
    pub(super) fn sums_with(&self, other: NodeNumber) -> Option<&Sums> {
        self.sums.get(&other)
    }

    /// What this node holds of a bucket and the other node holds, too.
    pub(super) fn entries(&self, other: NodeNumber, bucket: usize) -> Vec<repair::Entry> {
        let mut entries = Vec::new();
        let Some((from, last)) = range_of(bucket) else { return entries };
        self.keys.versions(from, last, &mut |at| {
            if self.layout.replicas(at.key).contains(&other) {
                entries.push(repair::Entry { hash: at.hash, stamp: stamp_of(&at) });
            }
        });
        entries
    }

    /// Records of the first of these hashes that the other node holds, too, until they make so many bytes;
    /// and how many hashes that were.
    pub(super) fn fetch(&self, other: NodeNumber, hashes: &[u64], bytes_max: usize) -> Fetched {
        let mut fetched = Fetched { count: 0, records: Vec::new() };
        let mut bytes = 0;
        for hash in hashes {
            if fetched.count > 0 && bytes >= bytes_max {
                break;
            }
            fetched.count += 1;
            for image in self.keys.of_hash(*hash) {
                if self.layout.replicas(&image.key).contains(&other) {
                    bytes += RECORD_BYTES + image.key.len();
                    bytes += image.value.as_ref().map_or(0, Bytes::len);
                    fetched.records.push(found(image));
                }
            }
        }
        fetched
    }

    /// A page of all records that the other node holds, too, deleted ones among them.
    pub(super) fn page(&self, other: NodeNumber, from: u64, bytes_max: usize) -> SharedPage {
        let page = self.keys.all_from(from, bytes_max);
        let shared = page
            .found
            .into_iter()
            .filter(|image| self.layout.replicas(&image.key).contains(&other));
        SharedPage { records: shared.map(found).collect(), next: page.next }
    }

    /// Some of the keys from hash `from` on, up to before `until`, that the other node holds, too, and whose versions are not above
    /// a moment.
    pub(super) fn old_keys(
        &self,
        other: NodeNumber,
        range: (u64, Option<u64>),
        upto: Moment,
    ) -> OldKeys {
        let (from, until) = range;
        let page = self.keys.all_from(from, OLD_KEYS_BYTES_MAX);
        let next = page.next.filter(|next| until.is_none_or(|until| *next < until));
        let found = page.found.into_iter().filter_map(|image| {
            let version = Version::from_number(image.index);
            let is_old = version.moment() <= upto
                && until.is_none_or(|until| keys::hash_of(&image.key) < until)
                && self.layout.replicas(&image.key).contains(&other);
            is_old.then_some((image.key, version))
        });
        OldKeys { keys: found.collect(), next }
    }

    /// No key is there, deleted or not.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.live_count() == 0 && self.keys.deleted_count() == 0
    }
}

impl CheckpointJob {
    /// Writes the checkpoint, and drops the log up to it; false if there was no room for it. Blocks.
    ///
    /// # Errors
    /// Of the disk.
    pub(super) fn run(self) -> diskstore_storage::Result<bool> {
        let log_id = self.target.log_id;
        let syncer = &self.syncer;
        let mut durable = || syncer.barrier_blocking();
        durable()?;
        let done = self.keys.checkpoint(self.target, &mut durable, &self.cancel)?;
        if done.cancelled && !done.lacked_space {
            return Ok(true); // the node stops
        }
        if done.cancelled {
            tracing::warn!("no room for a checkpoint: the log grows until there is");
            return Ok(false);
        }
        self.wal.purge(log_id);
        syncer.barrier_blocking()?; // only then do segments go
        self.syncer.kick_segments();
        Ok(true)
    }
}

/// Has the log go on in new files.
#[derive(Debug)]
pub(super) struct RenewalJob {
    wal: Arc<Wal>,
    syncer: Arc<Syncer>,
}

impl RenewalJob {
    /// Does so; false if there was no room. Blocks.
    ///
    /// # Errors
    /// Of the disk.
    pub(super) fn run(self) -> diskstore_storage::Result<bool> {
        self.syncer.barrier_blocking()?; // what was forgotten is in the old files
        // Writes go on meanwhile, to the same disk.
        match self.wal.renew(&mut |_, _| std::thread::sleep(RENEWAL_REST)) {
            Err(Error::NoSpace { .. }) => Ok(false),
            renewed => renewed.map(|()| true),
        }
    }
}

/// Records of some hashes.
#[derive(Debug)]
pub(super) struct Fetched {
    /// How many hashes.
    pub(super) count: usize,
    /// Their records.
    pub(super) records: Vec<Found>,
}

/// Keys with old versions.
#[derive(Debug)]
pub(super) struct OldKeys {
    /// The keys, with their versions.
    pub(super) keys: Vec<(Bytes, Version)>,
    /// Where to go on; `None` at the end of the range.
    pub(super) next: Option<u64>,
}

/// A page of records.
#[derive(Debug)]
pub(super) struct SharedPage {
    /// The records.
    pub(super) records: Vec<Found>,
    /// Where to go on.
    pub(super) next: Option<u64>,
}

fn found(image: KeyImage) -> Found {
    let held = Held { version: Version::from_number(image.index), value: image.value };
    Found { key: image.key, held }
}

/// Entries have one term: nobody leads.
pub(super) fn log_id(index: u64) -> LogId {
    LogId { term: Term::new(1), index }
}

/// The hashes of a bucket, ends included.
fn range_of(bucket: usize) -> Option<(u64, u64)> {
    let bucket = u64::try_from(bucket).ok().filter(|at| *at < BUCKET_COUNT as u64)?;
    let from = bucket << BUCKET_SHIFT;
    Some((from, from | ((1 << BUCKET_SHIFT) - 1)))
}

fn stamp_of(walked: &Walked<'_>) -> Stamp {
    Stamp { version: Version::from_number(walked.index), mark: mark_of(walked.value) }
}

/// Has the sums follow a change of a key (V8).
fn change_sums(
    sums: &mut BTreeMap<NodeNumber, Sums>,
    layout: &Layout,
    key: &[u8],
    changed: Changed,
) {
    let Changed { hash, before, mark_before, after, mark_after } = changed;
    let stamp = |index, mark| Stamp { version: Version::from_number(index), mark };
    for replica in layout.replicas(key) {
        if let Some(sums) = sums.get_mut(&replica) {
            sums.change(Hashed { hash, key }, stamp(before, mark_before), stamp(after, mark_after));
        }
    }
}

/// What is found out of all keys at a start.
#[derive(Debug)]
pub(super) struct Overview {
    /// With each other node.
    pub(super) sums: BTreeMap<NodeNumber, Sums>,
    /// See [`Store::deleted`].
    pub(super) deleted: BTreeSet<(u64, Bytes)>,
    /// The highest version.
    pub(super) highest: Version,
}

impl Overview {
    /// Looks at all keys.
    pub(super) fn of(keys: &Keys, layout: &Layout, own: NodeNumber, cluster_id: u128) -> Overview {
        let others = layout.nodes().iter().map(|node| node.number).filter(|node| *node != own);
        let mut sums: BTreeMap<_, _> = others.map(|node| (node, Sums::new(cluster_id))).collect();
        let mut deleted = BTreeSet::new();
        let mut highest = Version::NONE;
        keys.versions(0, u64::MAX, &mut |at| {
            let mark_after = mark_of(at.value);
            let (hash, after) = (at.hash, at.index);
            let changed = Changed { hash, before: 0, mark_before: 0, after, mark_after };
            change_sums(&mut sums, layout, at.key, changed);
            highest = highest.max(Version::from_number(at.index));
            if at.value.is_none() {
                deleted.insert((at.index, Bytes::copy_from_slice(at.key)));
            }
        });
        Overview { sums, deleted, highest }
    }
}
