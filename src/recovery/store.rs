//! The store into which a log is installed: slots, or keys in memory as in `kvstore`. Called by
//! `install` and by the program's body; calls `storage`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use diskstore_storage::disk::RealDisk;
use diskstore_storage::identity::TMP_NAME;
use diskstore_storage::keys::{self, KEY_BYTES_MAX, Keys};
use diskstore_storage::slots::{self, Geometry, Slots};
use diskstore_storage::state::{Change, Membership, Target};
use diskstore_storage::{Error, LogId, LogIndex, SlotIndex, Term};

use super::install::InstallError;
use crate::oplog::{Record, RecordKind};

/// Memory for slots unless they need less, beyond which they are written back; and for all keys.
const MEMORY_BYTES_MAX: u64 = 4 << 30;

/// What there is to be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content {
    Slots(Geometry),
    Keys { value_bytes: u32 },
}

/// What a log is installed into.
#[derive(Debug)]
pub enum Store {
    /// The slots of `diskstore`.
    Slots(Box<Slots>),
    /// The keys of `kvstore`.
    Keys(Box<Keys>),
}

impl Store {
    /// An empty one in a directory that has none.
    pub(super) fn create(content: Content, directory: &Path) -> Result<Store, Error> {
        let disk = RealDisk::new();
        match content {
            Content::Slots(geometry) => {
                let options = slots::Options::new(MEMORY_BYTES_MAX);
                let new = slots::New { geometry, cluster_id: 1, options };
                let slots = Slots::create_to_fill(&disk, directory, new, &mut |_, _| {})?;
                Ok(Store::Slots(slots.into()))
            }
            Content::Keys { value_bytes } => {
                let options = keys::Options::new(MEMORY_BYTES_MAX);
                let new = keys::New { cluster_id: 1, value_bytes, options };
                let tmp = directory.join(TMP_NAME); // where snapshot files are made
                std::fs::create_dir(&tmp).map_err(|source| Error::Io {
                    operation: "create",
                    path: tmp,
                    offset: 0,
                    source,
                })?;
                Ok(Store::Keys(Keys::create(Arc::new(disk), directory, new)?.into()))
            }
        }
    }

    /// Installs one record, by the slot rule.
    pub(super) fn put(&self, record: &Record<'_>) -> Result<(), InstallError> {
        let change = match record.kind {
            RecordKind::Get => return Ok(()),
            RecordKind::Set => Change::Set(record.value.into()),
            RecordKind::Delete => Change::Delete,
        };
        let index = record.index;
        let bytes_max = match self {
            Store::Slots(slots) => slots.geometry().value_bytes(),
            Store::Keys(keys) => keys.value_bytes(),
        };
        let checked = || {
            let bytes = record.value.len();
            let is_too_long = bytes as u64 > u64::from(bytes_max);
            if is_too_long { Err(InstallError::Value { index, bytes, bytes_max }) } else { Ok(()) }
        };
        match self {
            Store::Slots(slots) => {
                let slot = slot_of(slots.geometry(), record)?;
                checked()?;
                slots.lock(std::iter::once(slot)).apply(
                    SlotIndex::new(slot),
                    LogIndex::new(index.max(1)),
                    |_| change,
                )?;
            }
            Store::Keys(keys) => {
                let bytes = record.key.len();
                if bytes > KEY_BYTES_MAX {
                    return Err(InstallError::LongKey { index, bytes });
                }
                checked()?;
                if keys.is_full() {
                    return Err(InstallError::Memory { index, bytes: keys.memory_bytes() });
                }
                let mut guard = keys.lock(std::iter::once(record.key));
                guard.apply(record.key, index.max(1), |_| change);
            }
        }
        Ok(())
    }

    /// Writes slots back where they take more memory than they may.
    pub(super) fn relieve(&self) -> Result<(), Error> {
        match self {
            Store::Slots(slots) => slots.reclaim_memory(&mut || Ok(())),
            Store::Keys(_) => Ok(()),
        }
    }

    /// How many slots or keys hold a value.
    pub(super) fn live_count(&self) -> u64 {
        match self {
            Store::Slots(slots) => slots.live_count().unwrap_or_default(),
            Store::Keys(keys) => keys.live_count(),
        }
    }

    /// Makes all of it durable.
    pub(super) fn keep(&self, last_index: u64) -> Result<(), Error> {
        let membership = Membership { log_id: None, body: bytes::Bytes::new() };
        let target = Target {
            log_id: LogId { term: Term::new(0), index: last_index },
            membership,
            requests_crc: 0,
        };
        let cancel = AtomicBool::new(false);
        match self {
            Store::Slots(slots) => slots.checkpoint(target, &mut || Ok(()), &cancel).map(drop),
            Store::Keys(keys) => {
                let outcome = keys.checkpoint(target, &mut || Ok(()), &cancel)?;
                if outcome.cancelled {
                    return Err(Error::NoSpace {
                        path: keys::SNAPSHOT_FILE.into(),
                        bytes: keys.memory_bytes(),
                    });
                }
                Ok(())
            }
        }
    }
}

fn slot_of(geometry: Geometry, record: &Record<'_>) -> Result<u64, InstallError> {
    let slot = slot_number(record.key).filter(|slot| *slot < geometry.slot_count());
    slot.ok_or_else(|| InstallError::Key {
        index: record.index,
        key: String::from_utf8_lossy(record.key).chars().take(64).collect(),
        slot_count: geometry.slot_count(),
    })
}

fn slot_number(key: &[u8]) -> Option<u64> {
    let digit = |number: u64, byte: &u8| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    };
    if key.is_empty() { None } else { key.iter().try_fold(0, digit) }
}
