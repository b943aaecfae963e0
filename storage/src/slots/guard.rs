//! The slot rule: the one way in which entries and images change slots.
//!
//! Called by the machine above; calls `area` and `locks`. Invariants:
//!
//! - I1: the rule is checked once per slot and entry, and all effects of the entry on the slot are
//!   written with one store: a second `apply` of the same entry to the same slot is skipped.
//! - I2: only the locks of a guard's slots are held, all of them, from its making to its drop.

use std::sync::atomic::Ordering;

use crate::slots::area::Area;
use crate::slots::header::Header;
use crate::slots::locks::Held;
use crate::slots::pages::INDEX_MAX;
use crate::slots::{SlotImage, Slots};
use crate::state::{Applied, Change};
use crate::{Error, LogIndex, Result, SlotIndex};

/// The locks of some slots; drop it to let others at them.
#[derive(Debug)]
pub struct Guard<'a> {
    slots: &'a Slots,
    held: Held<'a>,
    /// Kept from one `apply` to the next; taken only by changes that look at what was there.
    scratch: Vec<u8>,
}

/// What a slot holds before a change.
#[derive(Debug, PartialEq, Eq)]
pub enum Current<'a> {
    /// The checksum is right.
    Value {
        /// Log index of the last set or delete; 0 if the slot was never written.
        index: u64,
        /// The value; `None` if there is none.
        value: Option<&'a [u8]>,
    },
    /// The checksum is wrong. A full set mends the slot. Anything else would have to know what it
    /// held, a delete too: one of an absent value leaves the index where it is. Whoever cannot compute
    /// a change for that reason gives the slot up, or keeps it where the entry only reads.
    Damaged,
}

/// The version that a change starts from, read only if the change asks for it.
#[derive(Debug)]
pub struct Base<'a> {
    area: &'a Area,
    key: u64,
    scratch: &'a mut Vec<u8>,
    /// Set once the slot was read.
    header: Option<Header>,
}

impl Base<'_> {
    /// Reads what the slot holds, and checks it.
    pub fn read(&mut self) -> Current<'_> {
        let header = match self.header {
            Some(header) => header,
            None => self.area.load(self.key, self.scratch),
        };
        self.header = Some(header);
        if !header.matches(self.key, self.scratch) {
            self.area.damage.note(self.key);
            return Current::Damaged;
        }
        let value = header.is_live().then_some(self.scratch.as_slice());
        Current::Value { index: header.index, value }
    }
}

impl Slots {
    /// Takes the locks of all these slots, in order; repeated ones are taken once. A thread that
    /// holds a guard takes no second one and calls no other method of `Slots`.
    pub fn lock(&self, keys: impl Iterator<Item = u64>) -> Guard<'_> {
        Guard { slots: self, held: self.locks.lock(keys), scratch: Vec::new() }
    }

    /// Installs a slot that came from another member, or from a backup, if it is newer than what
    /// is here or if what is here is damaged; one that was never written there mends a damaged one
    /// too. True if it was installed. Raises [`Slots::readable_from`] to its index first; durable
    /// with the next checkpoint or install.
    ///
    /// # Errors
    /// `OutOfRange` if the key or the value does not fit the geometry, or if the index is none
    /// that a log can have; nothing was changed.
    pub fn merge(&self, image: &SlotImage) -> Result<bool> {
        let (key, index) = (image.slot.get(), image.index.get());
        self.area.geometry.check_key(key)?;
        self.area.check_value(image.value.as_deref().unwrap_or_default())?;
        check_index(index)?;
        if index == 0 && image.value.is_some() {
            return Ok(false); // no entry wrote this: there is nothing to bring
        }
        let _lock = self.locks.lock_one(key);
        let loaded = self.area.load_owned(key);
        if loaded.is_right() && loaded.header.index >= index {
            return Ok(false);
        }
        self.readable_from.fetch_max(index, Ordering::AcqRel);
        self.area.store(image.slot, image.index, image.value.as_deref());
        Ok(true)
    }

    /// Makes a slot one that reads as damaged, on the disk too with the next checkpoint, until it is
    /// written: its content is lost, and nobody shall take that for a slot without a value.
    ///
    /// # Errors
    /// `OutOfRange` for a key beyond the last slot.
    pub fn give_up(&self, slot: SlotIndex) -> Result<()> {
        self.area.geometry.check_key(slot.get())?;
        let _lock = self.locks.lock_one(slot.get());
        self.area.give_up(slot.get());
        Ok(())
    }
}

impl Guard<'_> {
    /// Applies what an entry does to a slot, by the slot rule: `compute` is asked only if the
    /// slot does not hold the effect yet. All effects of the entry on the slot are in the one
    /// change that it returns. In memory only; durable with the next checkpoint (or with the log).
    ///
    /// # Errors
    /// `OutOfRange` if the key is beyond the last slot, the value too long, or the index none that
    /// a log can have; nothing was changed.
    ///
    /// # Panics
    /// If the guard does not hold the slot's lock, or `entry` is 0, or a slot is given up that was not
    /// read and found damaged.
    pub fn apply<'c>(
        &mut self,
        slot: SlotIndex,
        entry: LogIndex,
        compute: impl FnOnce(&mut Base<'_>) -> Change<'c>,
    ) -> Result<Applied> {
        let (key, index) = (slot.get(), entry.get());
        let area = &self.slots.area;
        area.geometry.check_key(key)?;
        check_index(index)?;
        assert!(self.held.covers(key), "slot {key} is not locked by this guard");
        assert!(index > 0, "index 0 means never written");
        let mut base = Base { area, key, scratch: &mut self.scratch, header: None };
        // A damaged slot has no index, so a high one is believed only with its checksum.
        // Where every slot of the page is known to be older, the header need not be looked at.
        let is_older = area.pages.is_at_most(area.geometry.pages_of(key).0, index - 1);
        if !is_older && area.header(key).index >= index && base.read() != Current::Damaged {
            return Ok(Applied::Skipped);
        }
        match compute(&mut base) {
            Change::Keep => return Ok(Applied::Kept),
            Change::Set(value) => {
                area.check_value(&value)?;
                area.store(slot, entry, Some(&value));
            }
            Change::Delete => area.store(slot, entry, None),
            Change::GiveUp => {
                assert!(base.read() == Current::Damaged, "slot {key} is whole, and is given up");
                return Ok(if area.give_up(key) { Applied::GivenUp } else { Applied::Kept });
            }
        }
        Ok(Applied::Written)
    }
}

fn check_index(index: u64) -> Result<()> {
    if index <= INDEX_MAX {
        return Ok(());
    }
    Err(Error::OutOfRange { what: "log index", value: index, limit: INDEX_MAX })
}
