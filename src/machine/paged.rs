//! The view of a machine whose content is in pages of a file: hints before a command is applied, a
//! memory budget, and damage. Other machines have no such view ([`super::Machine::paged`]).
//!
//! Called by the applier, replay, upkeep and snapshots; calls `storage::slots`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use diskstore_storage::{LogIndex, Result, SlotIndex};

use super::{DiskMachine, Images, LogDurable};
use crate::command::Command;

/// Pages that a disk reads in their order in the time of one at random; few for most disks.
const PAGES_A_RANDOM_READ: u64 = 16;

/// The pages of a machine.
#[derive(Debug, Clone, Copy)]
pub struct Paged<'a> {
    disk: &'a DiskMachine,
}

impl<'a> Paged<'a> {
    pub(super) fn new(disk: &'a DiskMachine) -> Paged<'a> {
        Paged { disk }
    }
}

/// Before a command is applied.
impl Paged<'_> {
    /// Has memory ready for what a command writes, so that applying it takes no page fault.
    pub fn populate(&self, command: &Command) {
        self.disk.keys_of(command).for_each(|key| self.disk.slots().populate(key));
    }

    /// Asks the disk for what a command changes, so that the reads of many are under way together.
    pub fn prefetch(&self, command: &Command) {
        self.disk.keys_of(command).for_each(|key| self.disk.slots().prefetch(key));
    }

    /// So many operations are about to be applied: has the disk read what they may need, where reading
    /// everything in order beats reading what they name as they come. Pages that memory has no room
    /// for are not read ahead. Blocks, until `is_done` too.
    pub fn read_ahead(&self, operation_count: u64, is_done: &dyn Fn() -> bool) {
        let page_count = self.disk.slots().geometry().page_count();
        let is_worth_it = operation_count.saturating_mul(PAGES_A_RANDOM_READ) >= page_count;
        if is_worth_it && self.fits_in_memory() {
            self.disk.slots().read_ahead(is_done);
        }
    }
}

/// What is known without reading anything.
impl Paged<'_> {
    /// Two bits for each of at most `count` slots from slot `from` on: see
    /// [`diskstore_storage::slots::Slots::picture`].
    pub fn picture(&self, from: u64, count: u64, since: u64) -> Vec<u8> {
        self.disk.slots().picture(SlotIndex::new(from), count, LogIndex::new(since))
    }
}

/// How many slots there are: those that may be used, and those that the file has room for.
impl Paged<'_> {
    /// Slots that may be used are below this. It only rises.
    pub fn limit(&self) -> &Arc<AtomicU64> {
        self.disk.limit()
    }

    /// Slots that the file has room for are below this.
    pub fn room(&self) -> u64 {
        self.disk.slots().geometry().slot_count()
    }

    /// So many slots may be used from now on, if it is more than before. False if the file has no room
    /// for them.
    #[must_use]
    pub fn raise_limit(&self, slot_count: u64) -> bool {
        let has_room = slot_count <= self.room();
        if has_room {
            self.disk.limit().fetch_max(slot_count, Ordering::Relaxed);
        }
        has_room
    }
}

/// The memory budget.
impl Paged<'_> {
    /// True if nothing but a page that is read for the first time can make applying wait.
    pub fn fits_in_memory(&self) -> bool {
        self.disk.slots().fits_in_budget()
    }

    /// True if applying has to wait until [`Paged::reclaim_memory`] has freed memory.
    pub fn over_budget(&self) -> bool {
        self.disk.slots().over_budget()
    }

    /// True if it soon will be: [`Paged::drop_clean`] may help, and a checkpoint hurries.
    pub fn is_near_budget(&self) -> bool {
        self.disk.slots().is_near_budget()
    }

    /// Drops what memory needs not hold, near the budget; writes nothing. Blocks, for moments.
    ///
    /// # Errors
    /// The system refuses.
    pub fn drop_clean(&self) -> Result<()> {
        self.disk.slots().drop_clean()
    }

    /// Returns once applying needs not wait for memory: drops what is clean, and where that is not
    /// enough writes some of what changed, beside a checkpoint that may be running. Blocks.
    ///
    /// # Errors
    /// As [`super::Machine::checkpoint`].
    pub fn reclaim_memory(&self, log_durable: LogDurable<'_>) -> Result<()> {
        self.disk.slots().reclaim_memory(log_durable)
    }

    /// Writes back what changed; the checkpoint stays where it is.
    ///
    /// # Errors
    /// As [`super::Machine::checkpoint`].
    pub fn write_back(&self, log_durable: LogDurable<'_>) -> Result<()> {
        self.disk.slots().write_back(log_durable, &AtomicBool::new(false)).map(|_| ())
    }
}

/// What the pages hold, and what of it is damaged.
impl Paged<'_> {
    /// Reads so many pages from `from_page` on, so that live keys are counted and damaged ones are
    /// known. Returns where to go on.
    pub fn learn(&self, from_page: u64, pages: u64) -> Option<u64> {
        self.disk.slots().learn_pages(from_page, pages).next_page
    }

    /// Slots that were found damaged since the start and still are. Reads them again.
    pub fn damaged_slots(&self) -> Vec<u64> {
        self.disk.slots().damaged_slots()
    }

    /// Those of them that this did not give before.
    pub fn newly_damaged(&self) -> Vec<u64> {
        self.disk.slots().newly_damaged()
    }

    /// One slot as a snapshot carries it, for a receiver whose own is damaged.
    ///
    /// # Errors
    /// It is damaged here too.
    pub fn image(&self, slot: u64) -> Result<Images> {
        self.disk.slots().image(slot).map(|image| Images::Slots(vec![image]))
    }
}
