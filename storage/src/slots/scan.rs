//! Walks over many slots: to send a snapshot, to learn after a start what the file holds, and to
//! lower indexes.
//!
//! Called by the machine above; calls `area` and `locks`. Slots are taken one by one, or page by
//! page, each under its lock; commands go on meanwhile. Invariants:
//!
//! - I1: a walk reports a damaged slot, so that no snapshot is finished over one.
//! - I2: a page is skipped only if no slot that begins in it can have an index above the one asked
//!   for.

use crate::slots::area::Loaded;
use crate::slots::{SlotImage, Slots};
use crate::{LogIndex, Result, SlotIndex};

/// Most pages that one call of [`Slots::scan`] reads.
const SCAN_PAGES_MAX: u64 = 1024;
/// Pages that a scan asks the disk for ahead of itself.
const PREFETCH_PAGES: u64 = 256;
/// What an image counts beside its value, in bytes.
const IMAGE_BYTES: usize = 32;

/// What [`Slots::learn_pages`] saw.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Learned {
    /// The page to go on with; `None` at the end of the file.
    pub next_page: Option<u64>,
    /// Slots whose checksum is wrong, ascending.
    pub damaged: Vec<u64>,
}

impl Slots {
    /// Appends the slots from `from_key` on whose index is above `changed_after` to `out`, until
    /// their values make `bytes_max` bytes or a bounded number of pages was read. Deleted slots are
    /// among them, those never written are not. Returns the key to go on with, `None` at the end.
    ///
    /// # Errors
    /// `Corrupt` at a damaged slot, which it names by its offset ([`super::Geometry::key_at`]): have
    /// it repaired and go on there. What was appended before it is good.
    pub fn scan(
        &self,
        from_key: u64,
        changed_after: u64,
        bytes_max: usize,
        out: &mut Vec<SlotImage>,
    ) -> Result<Option<u64>> {
        let geometry = self.area.geometry;
        let (mut key, mut bytes) = (from_key, 0);
        let (mut pages_read, mut last_page) = (0, None);
        while key < geometry.slot_count() {
            let page = geometry.pages_of(key).0;
            if self.area.pages.is_at_most(page, changed_after) {
                key = geometry.first_key_from(page + 1); // I2
                continue;
            }
            if last_page != Some(page) {
                if pages_read % PREFETCH_PAGES == 0 {
                    self.area.prefetch(page, PREFETCH_PAGES);
                }
                pages_read += 1;
                last_page = Some(page);
            }
            if bytes >= bytes_max || pages_read > SCAN_PAGES_MAX {
                return Ok(Some(key));
            }
            let loaded = self.load_locked(key);
            if !loaded.is_right() {
                return Err(self.area.damaged(key)); // I1
            }
            let index = loaded.header.index;
            if index > changed_after {
                bytes += IMAGE_BYTES + loaded.value.len();
                let (slot, index) = (SlotIndex::new(key), LogIndex::new(index));
                out.push(SlotImage { slot, index, value: loaded.into_value() });
            }
            key += 1;
        }
        Ok(None)
    }

    /// What memory knows of at most `count` slots from `first` on, two bits each, those of the first in
    /// the lowest of the first byte: 0 for a slot that holds no value, 1 for one that does, 2 for one that
    /// does and begins in a page in which an index above `since` stands, 3 for one that was found
    /// damaged. Reads no slot and waits for nothing; of a page that was not learned since the start no
    /// slot is known to hold a value.
    pub fn picture(&self, first: SlotIndex, count: u64, since: LogIndex) -> Vec<u8> {
        let geometry = self.area.geometry;
        let end = first.get().saturating_add(count).min(geometry.slot_count());
        let damaged = self.area.damage.all();
        let state = |key: u64| {
            if damaged.binary_search(&key).is_ok() {
                return 3_u8;
            }
            let is_recent = || !self.area.pages.is_at_most(geometry.pages_of(key).0, since.get());
            let is_live = self.area.pages.is_live(key);
            u8::from(is_live) + u8::from(is_live && is_recent())
        };
        let mut picture = Vec::new();
        let mut key = first.get();
        while key < end {
            let byte = (key..end.min(key + 4)).zip([0, 2, 4, 6]);
            picture.push(byte.fold(0, |byte, (key, shift)| byte | state(key) << shift));
            key += 4;
        }
        picture
    }

    /// Has the disk read all pages in their order, until `is_done`: others then find them in memory.
    pub fn read_ahead(&self, is_done: &dyn Fn() -> bool) {
        let mut page = 0;
        while page < self.area.geometry.page_count() && !is_done() {
            self.area.prefetch(page, PREFETCH_PAGES);
            page += PREFETCH_PAGES;
        }
    }

    /// Reads and checks all slots that begin in some pages, so that later scans may skip these
    /// pages and live slots can be counted. Run over the whole file after a start, and again to
    /// scrub it.
    pub fn learn_pages(&self, from_page: u64, pages: u64) -> Learned {
        let page_count = self.area.geometry.page_count();
        let end = from_page.saturating_add(pages).min(page_count);
        let mut damaged = Vec::new();
        self.area.prefetch(from_page, end - from_page.min(end));
        for page in from_page..end {
            self.learn_page(page, &mut damaged);
        }
        Learned { next_page: (end < page_count).then_some(end), damaged }
    }

    fn learn_page(&self, page: u64, damaged: &mut Vec<u64>) {
        let geometry = self.area.geometry;
        let (first, end) = (geometry.first_key_from(page), geometry.first_key_from(page + 1));
        if first == end {
            self.area.pages.learn(page, Some(0)); // the middle of a large slot
            return;
        }
        let _held = self.locks.lock_range(first, end - 1);
        let mut highest = Some(0);
        let mut value = Vec::new();
        for key in first..end {
            let header = self.area.load(key, &mut value);
            let right = header.matches(key, &value);
            if right {
                highest = highest.map(|highest: u64| highest.max(header.index));
            } else {
                self.area.damage.note(key);
                damaged.push(key);
                highest = None;
            }
            self.area.pages.note_live(key, right && header.is_live());
        }
        self.area.pages.learn(page, highest);
    }

    /// Gives every slot whose index is above `index` that index instead. For a recovery that gives
    /// up the log behind `index`, before anything is appended in its place; call
    /// [`Slots::write_back`] next. Returns how many slots were changed. Damaged slots have no index
    /// and stay.
    ///
    /// # Panics
    /// If `index` is 0, which no written slot can have.
    pub fn lower_indexes_above(&self, index: u64) -> u64 {
        assert!(index > 0, "index 0 means never written");
        let mut lowered = 0;
        for key in 0..self.area.geometry.slot_count() {
            if self.area.header(key).index <= index {
                continue;
            }
            let _lock = self.locks.lock_one(key);
            let Loaded { header, value, .. } = self.area.load_owned(key);
            if header.index > index && header.matches(key, &value) {
                let value = header.is_live().then_some(value.as_slice());
                self.area.store(SlotIndex::new(key), LogIndex::new(index), value);
                lowered += 1;
            }
        }
        lowered
    }

    fn load_locked(&self, key: u64) -> Loaded {
        let _lock = self.locks.lock_one(key);
        self.area.load_owned(key)
    }
}
