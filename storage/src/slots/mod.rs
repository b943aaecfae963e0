//! The slots: the data file, its superblocks, and the checkpoints that write changed pages to the
//! disk.
//!
//! Called by the machine above the log; calls `disk`. A slot knows the log index that wrote it, and
//! *applying an entry to a slot whose CRC is right and whose index is not below the entry's does
//! nothing* (the slot rule). Commands work on a private map of the file; bytes reach the disk only
//! in checkpoint rounds. Invariants:
//!
//! - I1: a slot changes only under its lock, through [`Guard::apply`], [`Slots::merge`],
//!   [`Slots::give_up`] or [`Slots::lower_indexes_above`].
//! - I2: no page is written to the disk before all log entries that existed when it was copied are
//!   durable (log before data).
//! - I3: no crash tears a slot: rounds hold whole slots, and go through `double.dat`.
//! - I4: the superblock never names a checkpoint below one that it named before.
//! - I5: a slot that came from another member reaches the disk only after a superblock whose
//!   `readable_from` covers it.

mod area;
mod checkpoint;
mod damage;
mod double;
mod geometry;
mod guard;
mod header;
mod inspect;
mod locks;
mod memory;
mod open;
mod pages;
mod round;
mod scan;
mod superblock;

pub use damage::DAMAGED_COUNT_MAX;
pub use double::DoubleFound;
pub(crate) use double::MAGIC as DOUBLE_MAGIC;
pub use geometry::{
    DATA_OFFSET, FILE_BYTES_MAX, Geometry, HEADER_BYTES, SLOT_ALIGN_BYTES, SLOT_COUNT_MAX,
    VALUE_BYTES_MAX,
};
pub use guard::{Base, Current, Guard};
pub(crate) use inspect::{show_double, show_slots};
pub use open::{New, Opening, Options};
pub use round::ROUND_PAGES_DEFAULT;
pub use scan::Learned;
pub(crate) use superblock::{MAGIC, VERSION};
pub use superblock::{SUPERBLOCK_STRIDE, Superblock};

/// What a store of slots is told and asked, beside a store of keys.
pub use crate::state::{Applied, Change, Membership, Target};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::disk::File;
use crate::state::Versioned;
use crate::{LogIndex, Result, SlotIndex};
use area::Area;
use checkpoint::Writer;
use locks::Locks;

/// Name of the data file in a node's directory.
pub const SLOTS_FILE: &str = "slots.dat";
/// Name of the double write file in a node's directory.
pub const DOUBLE_FILE: &str = "double.dat";

/// A slot as a snapshot carries it, deleted ones included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotImage {
    /// The slot's number.
    pub slot: SlotIndex,
    /// Log index of the last set or delete; 0 if the slot was never written.
    pub index: LogIndex,
    /// The value; `None` if it was deleted.
    pub value: Option<Bytes>,
}

/// All slots of a node. Shared between threads; every method takes `&self`.
#[derive(Debug)]
pub struct Slots {
    area: Area,
    locks: Locks,
    file: Arc<dyn File>,
    /// The newest superblock that is durable.
    superblock: Mutex<Superblock>,
    /// Held while a superblock is written; never waited for by readers.
    superblock_write: Mutex<()>,
    /// Counts at once; the superblock follows before any merged page is written (I5).
    readable_from: AtomicU64,
    /// Held by the one checkpoint that runs, from its first round to its superblock.
    sweeping: Mutex<()>,
    /// Held for one round, by a checkpoint or by whoever is short of memory.
    writer: Mutex<Writer>,
    /// Pages that were written in place since the start.
    written_pages: AtomicU64,
    options: Options,
}

impl Slots {
    /// The newest superblock that survives power loss.
    pub fn superblock(&self) -> Superblock {
        self.superblock.lock().clone()
    }

    /// Number and size of the slots.
    pub fn geometry(&self) -> Geometry {
        self.area.geometry
    }

    /// The slots are a state that ever was once every entry up to here is applied. Rises at once
    /// when a slot is merged, before the superblock does.
    pub fn readable_from(&self) -> u64 {
        self.readable_from.load(Ordering::Acquire)
    }

    /// Reads one slot.
    ///
    /// # Errors
    /// `OutOfRange` for a key beyond the last slot; `Corrupt`, which names the slot's offset, if
    /// its checksum is wrong.
    pub fn read(&self, key: u64) -> Result<Versioned> {
        self.area.geometry.check_key(key)?;
        let lock = self.locks.lock_one(key);
        let loaded = self.area.load_owned(key);
        drop(lock);
        self.slot_of(loaded)
    }

    /// Reads several slots as they were at one moment.
    ///
    /// # Errors
    /// As [`Slots::read`], for the first slot that fails.
    pub fn read_many(&self, keys: &[u64]) -> Result<Vec<Versioned>> {
        let mut slots = Vec::with_capacity(keys.len());
        self.read_each(keys, &mut |slot| slots.push(slot))?;
        Ok(slots)
    }

    /// As [`Slots::read_many`], handing each slot to `visit` in the order of `keys`: whoever wants
    /// only some of the values never holds all of them.
    ///
    /// # Errors
    /// As [`Slots::read`], for the first slot that fails; those before it were visited.
    pub fn read_each(&self, keys: &[u64], visit: &mut dyn FnMut(Versioned)) -> Result<()> {
        for key in keys {
            self.area.geometry.check_key(*key)?;
        }
        let _held = self.locks.lock(keys.iter().copied());
        for key in keys {
            visit(self.slot_of(self.area.load_owned(*key))?);
        }
        Ok(())
    }

    /// Reads one slot as a snapshot or a repair carries it.
    ///
    /// # Errors
    /// As [`Slots::read`].
    pub fn image(&self, key: u64) -> Result<SlotImage> {
        let Versioned { index, value } = self.read(key)?;
        Ok(SlotImage { slot: SlotIndex::new(key), index: LogIndex::new(index), value })
    }

    /// The slots that were found damaged since the start and still are, ascending; at most
    /// [`DAMAGED_COUNT_MAX`]. Reads them again.
    pub fn damaged_slots(&self) -> Vec<u64> {
        let noted = self.area.damage.all().into_iter();
        noted.filter(|key| self.is_damaged(*key)).collect()
    }

    /// Those of them that nobody was told of by this before.
    pub fn newly_damaged(&self) -> Vec<u64> {
        self.area.damage.untold()
    }

    /// True if a slot was found damaged since the start and was not written since, as far as this is
    /// known: costs one look at memory.
    pub fn may_be_damaged(&self) -> bool {
        self.area.damage.is_any()
    }

    /// True if this slot was found damaged since the start: a look at memory, which may be wrong of one
    /// that was mended at that moment.
    pub fn is_noted(&self, key: u64) -> bool {
        self.area.damage.contains(key)
    }

    /// True if this slot was found damaged since the start and still is. Reads it only if it was.
    pub fn is_known_damaged(&self, key: u64) -> bool {
        self.area.damage.contains(key) && self.is_damaged(key)
    }

    /// A slot that was read before it was mended may have been noted afterwards.
    fn is_damaged(&self, key: u64) -> bool {
        let _lock = self.locks.lock_one(key);
        let is_damaged = !self.area.load_owned(key).is_right();
        if !is_damaged {
            self.area.damage.forget(key);
        }
        is_damaged
    }

    /// Number of slots that hold a value; `None` until every page was learned since the start.
    pub fn live_count(&self) -> Option<u64> {
        self.area.pages.live_count()
    }

    /// Pages that differ from the disk.
    pub fn dirty_pages(&self) -> u64 {
        self.area.pages.dirty_count()
    }

    /// Pages that were written in place since the file was opened, by checkpoints or to make room.
    pub fn written_pages(&self) -> u64 {
        self.written_pages.load(Ordering::Relaxed)
    }

    /// Takes the page faults of a write to a slot ahead of it, on the caller's thread. Does nothing
    /// for a key that does not exist, or where the memory budget is smaller than the file: pages
    /// count against it only once they are written.
    pub fn populate(&self, key: u64) {
        if key < self.area.geometry.slot_count() && self.fits_in_budget() {
            self.area.populate(key);
        }
    }

    /// Asks the disk for the pages of a slot that is soon written, unless memory holds them for
    /// certain. Only a hint; nothing for a key that does not exist, or where the memory budget is
    /// larger than the file.
    pub fn prefetch(&self, key: u64) {
        if key >= self.area.geometry.slot_count() || self.fits_in_budget() {
            return;
        }
        let (first, last) = self.area.geometry.pages_of(key);
        if !(first..=last).all(|page| self.area.pages.is_modified(page)) {
            self.area.prefetch(first, last + 1 - first);
        }
    }

    fn slot_of(&self, loaded: area::Loaded) -> Result<Versioned> {
        if !loaded.is_right() {
            return Err(self.area.damaged(loaded.key));
        }
        Ok(Versioned { index: loaded.header.index, value: loaded.into_value() })
    }
}
