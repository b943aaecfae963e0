//! The memory budget: drops pages from memory that were written back to the disk.
//!
//! Called by `checkpoint` between rounds, by the thread that applies entries, and by upkeep; calls
//! `disk::Map`. Invariants:
//!
//! - I1: a page is dropped only under the locks of all slots that touch it, and only if it is clean
//!   under them: then its bytes on the disk are the same, since no round is under way.
//! - I2: after a checkpoint at most half of the budget is in use, apart from pages that changed
//!   since. So if the budget is used up, half of it is dirty, and a checkpoint is due.
//! - I3: a thread short of memory waits for one round, never for a whole checkpoint.

use parking_lot::MutexGuard;

use crate::Result;
use crate::slots::Slots;
use crate::slots::double::Image;
use crate::slots::geometry::DATA_OFFSET;
use crate::state::PAGE_BYTES;

/// Most pages that are looked at under one hold of their slots' locks.
const DROP_PAGES: u64 = 32;

impl Slots {
    /// Bytes of memory that changed pages take, written back or not.
    pub fn modified_bytes(&self) -> u64 {
        self.area.pages.modified_count() * PAGE_BYTES
    }

    /// Whether all pages together stay below the memory that changed ones may take.
    pub fn fits_in_budget(&self) -> bool {
        self.options.fits(self.area.geometry)
    }

    /// Whether changed pages take as much memory as they may: new commands wait for a round.
    pub fn over_budget(&self) -> bool {
        self.modified_bytes() >= self.options.memory_bytes_max
    }

    /// Whether changed pages take more than three quarters of what they may: clean ones are to be
    /// dropped, and a checkpoint that runs is not to rest.
    pub fn is_near_budget(&self) -> bool {
        !self.fits_in_budget() && self.area.pages.modified_count() > self.near_budget_pages()
    }

    /// Drops clean pages where changed ones take more than three quarters of what they may. Writes
    /// nothing; waits for a round that runs.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn drop_clean(&self) -> Result<()> {
        if !self.is_near_budget() {
            return Ok(());
        }
        let mut writer = self.writer.lock();
        self.drop_clean_pages(&mut writer.drop_cursor, self.near_budget_pages())
    }

    /// Returns once changed pages take less memory than they may: drops clean ones, and where that
    /// is not enough writes rounds of dirty ones, between those of a checkpoint that may be running
    /// (I3). Blocks. Errors and `log_durable` as in [`Slots::checkpoint`].
    ///
    /// # Errors
    /// As [`Slots::checkpoint`].
    pub fn reclaim_memory(&self, log_durable: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let mut image = None;
        // Every turn drops pages, or writes some that the next turn can drop.
        while self.over_budget() {
            let mut writer = self.writer.lock();
            self.drop_clean_pages(&mut writer.drop_cursor, self.near_budget_pages())?;
            if self.over_budget() {
                let image = image.get_or_insert_with(Image::new);
                let from = writer.round_cursor;
                let next = self.next_round(&mut writer, from, image, log_durable)?;
                writer.round_cursor = next.unwrap_or(0);
            }
            MutexGuard::unlock_fair(writer);
        }
        Ok(())
    }

    /// Pages above which clean ones are dropped.
    pub(crate) fn near_budget_pages(&self) -> u64 {
        self.options.memory_bytes_max / PAGE_BYTES / 4 * 3
    }

    /// Pages down to which clean ones are dropped.
    pub(crate) fn half_budget_pages(&self) -> u64 {
        self.options.memory_bytes_max / PAGE_BYTES / 2
    }

    /// Drops clean pages where more than `above` pages take memory, down to half of the budget; none
    /// where all pages together stay below it.
    /// `cursor` is where the last call ended, so that pages take turns. No round is under way.
    pub(crate) fn drop_clean_pages(&self, cursor: &mut u64, above: u64) -> Result<()> {
        let pages = &self.area.pages;
        let clean_count = pages.modified_count().saturating_sub(pages.dirty_count());
        if self.fits_in_budget() || pages.modified_count() <= above || clean_count == 0 {
            return Ok(());
        }
        for turn in 0..2 {
            while let Some(first) = pages.next_modified(*cursor) {
                let last = (first + DROP_PAGES).min(self.area.geometry.page_count()) - 1;
                *cursor = last + 1;
                self.drop_if_clean(first, last)?;
                if pages.modified_count() <= self.half_budget_pages() {
                    return Ok(());
                }
            }
            // The second turn takes what lies before the place where the first began.
            *cursor = 0;
            if turn == 1 {
                break;
            }
        }
        Ok(())
    }

    fn drop_if_clean(&self, first: u64, last: u64) -> Result<()> {
        let (area, pages) = (&self.area, &self.area.pages);
        let droppable = |page: u64| pages.is_modified(page) && !pages.is_dirty(page);
        let mut page = first;
        while page <= last {
            if !droppable(page) {
                page += 1;
                continue;
            }
            let (first_key, last_key) = area.geometry.keys_touching(page, last);
            let _held = self.locks.lock_range(first_key, last_key);
            // I1: looked at again under the locks.
            let end = (page..=last).find(|page| !droppable(*page)).unwrap_or(last + 1);
            if end > page {
                let bytes = usize::try_from((end - page) * PAGE_BYTES);
                let bytes = bytes.expect("invariant: at most DROP_PAGES pages");
                area.map.drop_pages(DATA_OFFSET + page * PAGE_BYTES, bytes)?;
                (page..end).for_each(|page| pages.clear_modified(page));
            }
            page = end + 1;
        }
        Ok(())
    }
}
