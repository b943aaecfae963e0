//! The memory budget: pages that were written back are dropped from memory.
//!
//! Called by `checkpoint`, between rounds; calls `disk::Map`. Invariants:
//!
//! - I1: a page is dropped only under the locks of all slots that touch it, and only if it is clean
//!   under them: then the disk has what memory has, since no round is under way.

use crate::Result;
use crate::slots::Slots;
use crate::slots::geometry::{DATA_OFFSET, PAGE_BYTES};

/// Most pages that are looked at under one hold of their slots' locks.
const DROP_PAGES: u64 = 32;

impl Slots {
    /// Drops clean pages while more than three quarters of the budget are in use, down to half;
    /// none where all pages together stay below it.
    /// `cursor` is where the last call ended, so that pages take turns. No round is under way.
    pub(crate) fn drop_clean_pages(&self, cursor: &mut u64) -> Result<()> {
        let budget_pages = self.options.memory_bytes_max / PAGE_BYTES;
        let pages = &self.area.pages;
        if self.fits_in_budget() || pages.modified_count() <= budget_pages / 4 * 3 {
            return Ok(());
        }
        for turn in 0..2 {
            while let Some(first) = pages.next_modified(*cursor) {
                let last = (first + DROP_PAGES).min(self.area.geometry.page_count()) - 1;
                *cursor = last + 1;
                self.drop_if_clean(first, last)?;
                if pages.modified_count() <= budget_pages / 2 {
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
