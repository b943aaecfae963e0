//! The shards: keys in the order of their hashes, each with its version and its value.
//!
//! Called by `keys`, which holds the shard's lock; calls nothing. Invariants:
//!
//! - I1: the order is that of (hash, key), so a walk over all shards is a walk over all hashes, and
//!   a walk can go on from a hash even if keys were added and removed meanwhile.
//! - I2: the counts match the records in the shards; they change with a record, under its lock.

use std::borrow::Borrow;
use std::cmp::Ordering as Order;
use std::collections::BTreeMap;
use std::hash::Hasher;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

/// Shards, each with a lock of its own: the top byte of a hash says which.
pub(super) const SHARD_COUNT: usize = 256;
/// What a key takes in memory beside its own bytes and those of its value: its place in a tree that
/// is two thirds full, and two allocations.
const RECORD_BYTES: u64 = 160;

/// The hash of a key: the same on every member and after every start.
pub(super) fn hash_of(key: &[u8]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(key);
    hasher.finish()
}

/// The shard that holds the keys of a hash.
pub(super) fn shard_of(hash: u64) -> usize {
    usize::try_from(hash >> 56).expect("invariant: eight bits")
}

/// What is known of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Log index of the last set or delete.
    pub(super) index: u64,
    /// The number of the last transfer that held it.
    pub(super) seen_in: u64,
    /// The value; `None` once it was deleted.
    pub(super) value: Option<Bytes>,
}

/// What a key and its record take in memory.
pub(super) fn bytes_of(key: &[u8], record: &Record) -> u64 {
    RECORD_BYTES + (key.len() + record.value.as_ref().map_or(0, Bytes::len)) as u64
}

/// Sums over all shards (I2).
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Keys that hold a value.
    pub(super) live: AtomicU64,
    /// Keys that hold none, and are remembered.
    pub(super) deleted: AtomicU64,
    /// Memory that all of them take.
    pub(super) bytes: AtomicU64,
    /// Memory that those without a value take.
    pub(super) deleted_bytes: AtomicU64,
    /// The highest index among all that was stored.
    pub(super) highest: AtomicU64,
}

impl Counts {
    fn add(&self, key: &[u8], record: &Record) {
        let bytes = bytes_of(key, record);
        if record.value.is_some() {
            self.live.fetch_add(1, Ordering::Relaxed);
        } else {
            self.deleted.fetch_add(1, Ordering::Relaxed);
            self.deleted_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.highest.fetch_max(record.index, Ordering::AcqRel);
    }

    fn remove(&self, key: &[u8], record: &Record) {
        let bytes = bytes_of(key, record);
        if record.value.is_some() {
            self.live.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.deleted.fetch_sub(1, Ordering::Relaxed);
            self.deleted_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Keys whose hashes begin with the same byte.
#[derive(Debug, Default)]
pub(super) struct Shard(BTreeMap<Place, Record>);

impl Shard {
    /// What is known of a key.
    pub(super) fn get(&self, hash: u64, key: &[u8]) -> Option<&Record> {
        self.0.get(&(hash, key) as &dyn Placed)
    }

    /// Takes `record` in place of what was known of a key.
    pub(super) fn set(&mut self, hash: u64, key: &[u8], record: Record, counts: &Counts) {
        counts.add(key, &record);
        if let Some(known) = self.0.get_mut(&(hash, key) as &dyn Placed) {
            counts.remove(key, known);
            *known = record;
        } else {
            self.0.insert(Place { hash, key: key.into() }, record);
        }
    }

    /// Forgets a key.
    pub(super) fn remove(&mut self, hash: u64, key: &[u8], counts: &Counts) {
        if let Some(record) = self.0.remove(&(hash, key) as &dyn Placed) {
            counts.remove(key, &record);
        }
    }

    /// Notes that a transfer named a key.
    pub(super) fn name(&mut self, hash: u64, key: &[u8], transfer: u64) {
        if let Some(known) = self.0.get_mut(&(hash, key) as &dyn Placed) {
            known.seen_in = transfer;
        }
    }

    /// Forgets what is not to be kept.
    pub(super) fn retain(&mut self, counts: &Counts, keep: impl Fn(&Record) -> bool) {
        self.0.retain(|place, record| {
            let is_kept = keep(record);
            if !is_kept {
                counts.remove(&place.key, record);
            }
            is_kept
        });
    }

    /// Keys from a hash on, in order.
    pub(super) fn from(&self, hash: u64) -> impl Iterator<Item = (u64, &[u8], &Record)> {
        let first: (u64, &[u8]) = (hash, b"");
        let range = (Bound::Included(&first as &dyn Placed), Bound::Unbounded);
        let records = self.0.range::<dyn Placed, _>(range);
        records.map(|(place, record)| (place.hash, &*place.key, record))
    }
}

/// Where a key stands in its shard.
#[derive(Debug)]
struct Place {
    hash: u64,
    key: Box<[u8]>,
}

/// A place that need not own its key, so that looking for one copies nothing.
trait Placed {
    fn place(&self) -> (u64, &[u8]);
}

impl Placed for Place {
    fn place(&self) -> (u64, &[u8]) {
        (self.hash, &self.key)
    }
}

impl Placed for (u64, &[u8]) {
    fn place(&self) -> (u64, &[u8]) {
        *self
    }
}

impl<'a> Borrow<dyn Placed + 'a> for Place {
    fn borrow(&self) -> &(dyn Placed + 'a) {
        self
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Place {}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Order {
        self.place().cmp(&other.place())
    }
}

impl PartialEq for dyn Placed + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for dyn Placed + '_ {}

impl PartialOrd for dyn Placed + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn Placed + '_ {
    fn cmp(&self, other: &Self) -> Order {
        self.place().cmp(&other.place())
    }
}
