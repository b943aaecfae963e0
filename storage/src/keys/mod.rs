//! Keys of any bytes, in memory, and the snapshot file that makes a restart fast.
//!
//! Called by the machine above the log; calls `disk`. A key knows the log index that wrote it, and
//! *applying an entry to a key whose index is not below the entry's does nothing* (the slot rule).
//! A deleted key is remembered with its index, for replays and for members that catch up, until a
//! checkpoint moves the *horizon* past that index. Invariants:
//!
//! - I1: a key changes only under its shard's lock, through [`Guard::apply`], [`Keys::merge`] or
//!   [`Keys::install`].
//! - I2: the snapshot file is whole and durable before it gets its name, and the entries that wrote
//!   its records were durable in the log before that (log before data).
//! - I3: no snapshot file names a checkpoint below one that was named before.
//! - I4: a deleted key is forgotten only if its index is at or below the horizon, the horizon is at
//!   or below a durable checkpoint, and no transfer of changed keys is running. Then no replay, and
//!   no delta from an index at or above the horizon, ever needs the key.
//! - I5: to a command a deleted key looks like a key that never existed ([`Base`]). So members that
//!   have forgotten the key and members that still remember it answer alike.

mod checkpoint;
mod file;
mod guard;
mod inspect;
mod map;
mod registers;
mod scan;
mod transfer;

pub(crate) use file::MAGIC;
pub use file::{Header, PIECE_BYTES_DEFAULT};
pub use guard::{Base, Guard};
pub(crate) use inspect::show_snapshot;
pub use registers::{Changed, REGISTER_BYTES_MAX, Walked, hash_of, mark_of};
pub use scan::Page;
pub use transfer::Sending;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::disk::{Disk, WriteMode};
use crate::state::{Incoming, Membership, Target, Versioned};
use crate::{Error, Result};
use file::Reader;
use map::{Counts, Record, SHARD_COUNT, Shard, shard_of};
use transfer::Sends;

/// Name of the snapshot file in a node's directory.
pub const SNAPSHOT_FILE: &str = "snapshot.dat";
/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 65_535;
/// Largest value that can be asked for, in bytes.
pub const VALUE_BYTES_MAX: u32 = 1 << 20;

/// A key as a snapshot carries it, deleted ones included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyImage {
    /// The key.
    pub key: Bytes,
    /// Log index of the last set or delete.
    pub index: u64,
    /// The value; `None` if it was deleted.
    pub value: Option<Bytes>,
}

/// What the index of a key counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Domain {
    /// Entries of a log that all members share. The keys of `kvstore`.
    #[default]
    Entries,
    /// Clocks of several nodes: versions of registers (`registers.rs`).
    Clocks,
}

impl Domain {
    /// Largest value that can be asked for, in bytes.
    pub fn value_bytes_max(self) -> u32 {
        match self {
            Self::Entries => VALUE_BYTES_MAX,
            Self::Clocks => REGISTER_BYTES_MAX,
        }
    }
}

/// What new keys are to be.
#[derive(Debug, Clone, Copy)]
pub struct New {
    /// The cluster that the data belongs to.
    pub cluster_id: u128,
    /// Most bytes of a value.
    pub value_bytes: u32,
    /// As for [`Keys::open`].
    pub options: Options,
}

/// How keys are worked with; nothing of it is stored.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bytes of memory that all keys may take.
    pub memory_bytes_max: u64,
    /// Bytes of records that a checkpoint writes at once, at most [`PIECE_BYTES_DEFAULT`], which is a
    /// good number.
    pub piece_bytes: usize,
}

impl Options {
    /// This much memory, and otherwise the defaults.
    pub fn new(memory_bytes_max: u64) -> Self {
        Self { memory_bytes_max, piece_bytes: PIECE_BYTES_DEFAULT }
    }
}

/// All keys of a node. Shared between threads; every method takes `&self`.
#[derive(Debug)]
pub struct Keys {
    shards: Vec<Mutex<Shard>>,
    counts: Counts,
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    /// What the newest durable snapshot file says of itself.
    durable: Mutex<Header>,
    readable_from: AtomicU64,
    /// Bytes of keys and values that were stored since the last checkpoint began.
    dirty_bytes: AtomicU64,
    /// Pages that checkpoints have written since the start.
    written_pages: AtomicU64,
    sends: Arc<Mutex<Sends>>,
    incoming: Mutex<Incoming>,
    /// Held by the one checkpoint that runs.
    writer: Mutex<()>,
    options: Options,
}

impl Keys {
    /// Makes an empty snapshot file in a directory that has none. After `Ok` it survives power loss.
    ///
    /// # Errors
    /// `OutOfRange` for a size of values that cannot be; `NoSpace`; `Io`.
    pub fn create(disk: Arc<dyn Disk>, directory: &Path, new: New) -> Result<Self> {
        Self::create_of(disk, directory, new, (Domain::Entries, Membership::default()))
    }

    fn create_of(
        disk: Arc<dyn Disk>,
        directory: &Path,
        new: New,
        what: (Domain, Membership),
    ) -> Result<Self> {
        let (domain, membership) = what;
        if new.value_bytes == 0 || new.value_bytes > domain.value_bytes_max() {
            let limit = u64::from(domain.value_bytes_max());
            let value = u64::from(new.value_bytes);
            return Err(Error::OutOfRange { what: "value-max", value, limit });
        }
        let header = Header {
            domain,
            cluster_id: new.cluster_id,
            value_bytes: new.value_bytes,
            checkpoint: None,
            membership,
            requests_crc: 0,
            readable_from: 0,
            horizon: 0,
        };
        file::Writer::create(&*disk, directory, &header)?.finish(&mut || Ok(()))?;
        Ok(Self::empty(disk, directory, header, new.options))
    }

    /// Loads the snapshot file of a directory. Writes nothing.
    ///
    /// # Errors
    /// `Missing` if there is none; `Corrupt`; `UnknownVersion`; `Io`.
    pub fn open(disk: Arc<dyn Disk>, directory: &Path, options: Options) -> Result<Self> {
        Self::open_of(disk, directory, options, Domain::Entries)
    }

    fn open_of(
        disk: Arc<dyn Disk>,
        directory: &Path,
        options: Options,
        domain: Domain,
    ) -> Result<Self> {
        let path = directory.join(SNAPSHOT_FILE);
        if !disk.exists(&path)? {
            return Err(Error::Missing { path, what: "there are no keys here" });
        }
        let mut reader = Reader::open(disk.open(&path, WriteMode::ReadOnly)?)?;
        if reader.header.domain != domain {
            let what = "the keys are those of another program (kvstore, leaderless)";
            return Err(Error::Corrupt { path, offset: 0, what });
        }
        let keys = Self::empty(disk, directory, reader.header.clone(), options);
        while let Some(images) = reader.next_piece()? {
            for KeyImage { key, index, value } in images {
                // A copy of its own: a slice would keep the whole piece in memory.
                let value = value.map(|value| Bytes::copy_from_slice(&value));
                keys.store(&key, Record { index, seen_in: 0, value });
            }
        }
        keys.readable_from.fetch_max(reader.highest(), Ordering::AcqRel);
        keys.dirty_bytes.store(0, Ordering::Relaxed);
        Ok(keys)
    }

    fn empty(disk: Arc<dyn Disk>, directory: &Path, durable: Header, options: Options) -> Self {
        let mut shards = Vec::new();
        shards.resize_with(SHARD_COUNT, Mutex::default);
        Self {
            shards,
            counts: Counts::default(),
            disk,
            directory: directory.to_owned(),
            readable_from: AtomicU64::new(durable.readable_from),
            dirty_bytes: AtomicU64::new(0),
            written_pages: AtomicU64::new(0),
            sends: Arc::new(Mutex::new(Sends::new(durable.horizon))),
            incoming: Mutex::default(),
            writer: Mutex::new(()),
            options,
            durable: Mutex::new(durable),
        }
    }

    fn store(&self, key: &[u8], record: Record) {
        let hash = map::hash_of(key);
        let bytes = key.len() + record.value.as_ref().map_or(0, Bytes::len);
        self.dirty_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.shards[shard_of(hash)].lock().set(hash, key, record, &self.counts);
    }

    /// What the newest snapshot file that survives power loss says of itself.
    pub fn header(&self) -> Header {
        self.durable.lock().clone()
    }

    /// The newest durable checkpoint; `None` before the first.
    pub fn durable(&self) -> Option<Target> {
        let header = self.durable.lock();
        let log_id = header.checkpoint?;
        let (membership, requests_crc) = (header.membership.clone(), header.requests_crc);
        Some(Target { log_id, membership, requests_crc })
    }

    /// Most bytes of a value.
    pub fn value_bytes(&self) -> u32 {
        self.durable.lock().value_bytes
    }

    /// Reads one key: the index of its last set or delete (0 if none is remembered), and its value.
    pub fn read(&self, key: &[u8]) -> Versioned {
        let hash = map::hash_of(key);
        versioned(self.shards[shard_of(hash)].lock().get(hash, key))
    }

    /// The keys are a state that ever was once every entry up to here is applied.
    pub fn readable_from(&self) -> u64 {
        self.readable_from.load(Ordering::Acquire)
    }

    /// Raises `readable_from` to `index`, if it is lower. In memory: it is durable with the first
    /// snapshot file that has what was merged since.
    pub fn set_readable_from(&self, index: u64) {
        self.readable_from.fetch_max(index, Ordering::AcqRel);
    }

    /// The highest index that any key was ever given since the start.
    pub fn highest_index(&self) -> u64 {
        self.counts.highest.load(Ordering::Acquire)
    }

    /// How many keys hold a value.
    pub fn live_count(&self) -> u64 {
        self.counts.live.load(Ordering::Relaxed)
    }

    /// How many deleted keys are remembered.
    pub fn deleted_count(&self) -> u64 {
        self.counts.deleted.load(Ordering::Relaxed)
    }

    /// Bytes of memory that deleted keys take, near enough.
    pub fn deleted_bytes(&self) -> u64 {
        self.counts.deleted_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of memory that all keys take, near enough.
    pub fn memory_bytes(&self) -> u64 {
        self.counts.bytes.load(Ordering::Relaxed)
    }

    /// Bytes of keys and values that were stored since the last checkpoint began.
    pub fn dirty_bytes(&self) -> u64 {
        self.dirty_bytes.load(Ordering::Relaxed)
    }

    /// Pages that checkpoints have written since the start.
    pub fn written_pages(&self) -> u64 {
        self.written_pages.load(Ordering::Relaxed)
    }

    /// Whether a checkpoint would make room in full memory: it forgets deleted keys, unless something is
    /// being sent.
    pub fn is_full_of_deleted(&self) -> bool {
        let without = self.memory_bytes().saturating_sub(self.deleted_bytes());
        self.is_full() && without < self.options.memory_bytes_max && !self.is_sending()
    }

    /// Whether keys take as much memory as they may. What is applied all the same is kept.
    pub fn is_full(&self) -> bool {
        self.memory_bytes() >= self.options.memory_bytes_max
    }
}

fn versioned(record: Option<&Record>) -> Versioned {
    record.map_or_else(Versioned::default, |record| Versioned {
        index: record.index,
        value: record.value.clone(),
    })
}
