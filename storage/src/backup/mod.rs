//! The bytes of a backup: what a running node held, up to one exact index of its log. See
//! `docs/format.md`, "Backup".
//!
//! Called by the node, which writes one as a stream, and by the commands that read, check and restore
//! it; calls `meta`. A backup is a header, then pieces: request ids, then slots or keys as they were read one after
//! the other while commands went on, then the entries of the log that make one state of them, then an
//! end. A backup is *full*, or it is *incremental*: it has only what changed after an index, `since`,
//! that another backup has reached. Invariants:
//!
//! - I1: a backup without its end is none, and the end counts what came before it: nothing can be cut
//!   off, left out, doubled or exchanged unnoticed.
//! - I2: every piece has a CRC of its own, over the random id of the backup too: a piece of another
//!   backup, or in another place, is damage.
//! - I3: memory for a piece is bounded, and taken as its bytes come.
//! - I4: what a reader hands out has been checked: slots ascend and exist, values fit, no index is at or
//!   below `since`, entries follow one another without a gap.

mod inspect;
mod reader;
mod writer;

pub(crate) use inspect::show_backup;
pub use reader::{BackupReader, summarise};
pub use writer::BackupWriter;

use bytes::Bytes;

use crate::identity::{MachineKind, NAME_BYTES_MAX};
use crate::keys::{self, KeyImage};
use crate::slots::{Geometry, SlotImage};
use crate::wal::Entry;
use crate::{LogId, LogIndex, Term, meta};

/// What a backup begins with.
pub const BACKUP_MAGIC: [u8; 8] = *b"DSTBACKP";
/// Version of the format.
pub const BACKUP_VERSION: u32 = 1;
/// Bytes of slots, keys or entries at which whoever writes a backup ends a piece.
pub const PIECE_BYTES: usize = 1 << 20;
/// Most entries of a piece: some have no bytes of their own.
pub const PIECE_ENTRIES_MAX: u64 = 4096;

/// Most bytes of a piece's body: any command fits, and any value behind an almost full piece.
const PIECE_BYTES_MAX: usize = 16 << 20;
/// Kind u8, reserved 3, length u32, number u64, CRC u32.
const PIECE_HEADER_BYTES: usize = 20;
/// Bytes of it that the CRC covers.
const PIECE_COVERED_BYTES: usize = PIECE_HEADER_BYTES - 4;
/// Magic, version, bytes of the body.
const HEAD_BYTES: usize = BACKUP_MAGIC.len() + 4 + 4;
/// Two ids, kind, geometry, name with its length, time, the log id of the begin, since, base.
const BODY_BYTES_MAX: usize = 16 + 16 + 1 + 8 + 4 + 8 + NAME_BYTES_MAX + 8 + 16 + 8 + 16;
/// Three counts, exact from, the last log id, and the CRC of all pieces.
const END_BYTES: usize = 3 * 8 + 8 + 16 + 4;
/// Longest reason for which a node breaks a backup off.
const REASON_BYTES_MAX: usize = 1024;
/// The bit of a length that says that there is a value.
const LIVE: u32 = 1 << 31;

/// Kinds of pieces, in the order in which they come.
const REQUESTS: u8 = 0;
const SLOTS: u8 = 1;
const KEYS: u8 = 2;
const ENTRIES: u8 = 3;
const END: u8 = 4;
const BROKEN: u8 = 5;

const _: () = assert!(PIECE_BYTES + keys::KEY_BYTES_MAX + (2 << 20) < PIECE_BYTES_MAX);
const _: () = assert!(PIECE_BYTES_MAX < u32::MAX as usize);

/// What a backup says of itself before anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupHeader {
    /// Random number of this backup, not 0.
    pub id: u128,
    /// The cluster that it was taken of.
    pub cluster_id: u128,
    /// What it holds: slots, or keys in memory.
    pub machine: MachineKind,
    /// Number of slots; 0 for keys.
    pub slot_count: u64,
    /// Most bytes of a value.
    pub value_bytes: u32,
    /// Name of the node that wrote it.
    pub node: String,
    /// When it was begun, in ms since 1970.
    pub begun_ms: u64,
    /// What the node had applied when it began to read.
    pub begin: LogId,
    /// Only what changed after this index is here; 0 in a full backup.
    pub since: LogIndex,
    /// The backup that this one continues; 0 if only an index was named, and in a full backup.
    pub base: u128,
}

/// The fields of a header as they stand in the file.
type HeaderBody = (u128, u128, u8, u64, u32, String, u64, u64, u64, u64, u128);

impl BackupHeader {
    /// True if all is here that the cluster held.
    pub fn is_full(&self) -> bool {
        self.since.get() == 0
    }

    fn body(&self) -> Vec<u8> {
        let BackupHeader { id, cluster_id, machine, slot_count, value_bytes, .. } = *self;
        let body: HeaderBody = (
            id,
            cluster_id,
            machine.to_byte(),
            slot_count,
            value_bytes,
            self.node.clone(),
            self.begun_ms,
            self.begin.term.get(),
            self.begin.index,
            self.since.get(),
            self.base,
        );
        meta::encode(&body)
    }

    /// The header of these bytes; `None` if they are those of none that can be.
    fn of_body(bytes: &[u8]) -> Option<BackupHeader> {
        let (
            id,
            cluster_id,
            kind,
            slot_count,
            value_bytes,
            node,
            begun_ms,
            term,
            index,
            since,
            base,
        ): HeaderBody = meta::decode(bytes)?;
        let header = BackupHeader {
            id,
            cluster_id,
            machine: MachineKind::of_byte(kind)?,
            slot_count,
            value_bytes,
            node,
            begun_ms,
            begin: LogId { term: Term::new(term), index },
            since: LogIndex::new(since),
            base,
        };
        header.is_possible().then_some(header)
    }

    fn is_possible(&self) -> bool {
        let can_hold = match self.machine {
            MachineKind::Slots => Geometry::new(self.slot_count, self.value_bytes).is_ok(),
            MachineKind::Memory => {
                self.slot_count == 0 && (1..=keys::VALUE_BYTES_MAX).contains(&self.value_bytes)
            }
            MachineKind::Journal => false,
        };
        can_hold
            && self.id != 0
            && self.node.len() <= NAME_BYTES_MAX
            && self.since.get() <= self.begin.index
            && (self.base == 0 || !self.is_full())
    }
}

/// What a backup ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BackupEnd {
    /// The slots or keys are a state that ever was once every entry up to here is applied to them.
    pub exact_from: LogIndex,
    /// The last entry: the state up to here is what the backup is of.
    pub last: LogId,
    /// Slots or keys, deleted ones among them.
    pub image_count: u64,
    /// Entries of the log.
    pub entry_count: u64,
    /// Pieces before the end.
    pub piece_count: u64,
}

/// A part of a backup, as a reader hands it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// The request ids as of the begin, if there were any.
    Requests(Bytes),
    /// Slots, in ascending order.
    Slots(Vec<SlotImage>),
    /// Keys, in any order.
    Keys(Vec<KeyImage>),
    /// Entries of the log, in their order.
    Entries(Vec<Entry>),
    /// All of it was there.
    End(BackupEnd),
    /// The node could not go on, for this reason. Nothing follows.
    Broken(String),
}

/// A backup as a whole: how it begins, and how it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupSummary {
    /// How it begins.
    pub header: BackupHeader,
    /// How it ends.
    pub end: BackupEnd,
}

/// Why one backup cannot be restored on top of another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The first of several has to hold everything.
    #[error("it is incremental, since index {since}: name the backups that it continues before it")]
    NotFull {
        /// Since when.
        since: LogIndex,
    },
    /// One that holds everything continues none.
    #[error("it is a full backup: nothing belongs before it")]
    Full,
    /// Another cluster's.
    #[error("it is of cluster {actual:032x}, and the one before it of {expected:032x}")]
    Cluster {
        /// That of the backup before.
        expected: u128,
        /// Its own.
        actual: u128,
    },
    /// Other values than before.
    #[error("its slots or values are others than those of the one before it")]
    Geometry,
    /// It names its base, which is another one.
    #[error("it continues backup {expected:032x}, and the one before it is {actual:032x}")]
    Base {
        /// The one that it continues.
        expected: u128,
        /// The one before it.
        actual: u128,
    },
    /// There is a gap between the two, or they overlap in the wrong order.
    #[error(
        "it has what changed after index {since} and was begun at {begin}, and the one before it ends \
         at {end}"
    )]
    Gap {
        /// Since when it has changes.
        since: LogIndex,
        /// Where it was begun.
        begin: u64,
        /// Where the one before it ends.
        end: u64,
    },
}

impl BackupSummary {
    /// Checks that this can be restored behind `before`, or as the first one.
    ///
    /// # Errors
    /// See [`ChainError`].
    pub fn check_behind(&self, before: Option<&BackupSummary>) -> Result<(), ChainError> {
        let header = &self.header;
        let since = header.since;
        let Some(BackupSummary { header: earlier, end }) = before else {
            return if header.is_full() { Ok(()) } else { Err(ChainError::NotFull { since }) };
        };
        if header.is_full() {
            return Err(ChainError::Full);
        }
        if header.cluster_id != earlier.cluster_id {
            let (expected, actual) = (earlier.cluster_id, header.cluster_id);
            return Err(ChainError::Cluster { expected, actual });
        }
        let form = |it: &BackupHeader| (it.machine, it.value_bytes);
        // A cluster may come to have more slots, and never fewer.
        if form(header) != form(earlier) || header.slot_count < earlier.slot_count {
            return Err(ChainError::Geometry);
        }
        if ![0, earlier.id].contains(&header.base) {
            return Err(ChainError::Base { expected: header.base, actual: earlier.id });
        }
        let end = end.last.index;
        if since.get() > end || end > header.begin.index {
            return Err(ChainError::Gap { since, begin: header.begin.index, end });
        }
        Ok(())
    }
}

/// The CRC of a piece.
fn piece_crc(seed: &crc32fast::Hasher, covered: &[u8], body: &[u8]) -> u32 {
    let mut hasher = seed.clone();
    hasher.update(covered);
    hasher.update(body);
    hasher.finalize()
}

/// What the CRCs of a backup's pieces begin with (I2).
fn seed_of(header: &BackupHeader) -> crc32fast::Hasher {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header.id.to_le_bytes());
    hasher
}

fn length_of(value: Option<&Bytes>) -> u32 {
    value.map_or(0, |value| {
        LIVE | u32::try_from(value.len()).expect("invariant: values are bounded")
    })
}

#[cfg(test)]
mod tests;
