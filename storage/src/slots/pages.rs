//! Facts about each page of the data area (dirty, highest index) and about which slots are live:
//! bits and numbers in memory, rebuilt after every start.
//!
//! Called by `slots`; calls nothing. Invariants:
//!
//! - I1: a page is marked under the lock of the slot that is about to change in it, before its
//!   bytes change; so a page that is clean under the locks of all slots that touch it is on disk.
//! - I2: a mark is cleared only by the checkpoint, before it copies the page's slots one by one
//!   under their locks: a change before a copy is in the copy, a change after it sets the mark
//!   again.
//! - I3: a known highest index is at least that of every slot that begins in the page.
//!
//! All orderings are relaxed: the slot locks order what must be ordered.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::LogIndex;

/// The highest index of this page has not been learned since the start.
const UNKNOWN: u64 = u64::MAX;
/// The page holds a damaged slot, whose index nobody knows: never skip it.
const NEVER_SKIP: u64 = u64::MAX - 1;
/// The highest log index that a slot may carry: those above have a meaning of their own here.
pub(crate) const INDEX_MAX: u64 = NEVER_SKIP - 1;

/// Marks and highest indexes of all pages.
pub(crate) struct Pages {
    /// Changed since it was last copied for the disk.
    dirty: Bits,
    /// Changed since it was mapped, so it takes memory of our own.
    modified: Bits,
    /// Slots that hold a value, as far as their pages are known.
    live: Bits,
    highest: Box<[AtomicU64]>,
    known: AtomicU64,
}

impl Pages {
    /// Pages of a file of which nothing is known.
    pub(crate) fn unknown(page_count: u64, slot_count: u64) -> Self {
        Self::new(page_count, slot_count, UNKNOWN)
    }

    /// Pages of a file in which no slot was ever written.
    pub(crate) fn zeroed(page_count: u64, slot_count: u64) -> Self {
        let pages = Self::new(page_count, slot_count, 0);
        pages.known.store(page_count, Relaxed);
        pages
    }

    fn new(page_count: u64, slot_count: u64, highest: u64) -> Self {
        Self {
            dirty: Bits::new(page_count),
            modified: Bits::new(page_count),
            live: Bits::new(slot_count),
            highest: (0..page_count).map(|_| AtomicU64::new(highest)).collect(),
            known: AtomicU64::new(0),
        }
    }

    /// Marks the pages `first..=last` before their bytes change (I1).
    pub(crate) fn mark(&self, first: u64, last: u64) {
        for page in first..=last {
            self.dirty.set(page);
            self.modified.set(page);
        }
    }

    /// Whether the page has changed since it was last copied.
    pub(crate) fn is_dirty(&self, page: u64) -> bool {
        self.dirty.contains(page)
    }

    /// Clears a dirty mark, before the page is copied (I2). True if it was set.
    pub(crate) fn clear_dirty(&self, page: u64) -> bool {
        self.dirty.unset(page)
    }

    /// Puts back the mark of a page whose copy did not reach the disk.
    pub(crate) fn mark_again(&self, page: u64) {
        self.dirty.set(page);
    }

    /// The first dirty page from `page` on.
    pub(crate) fn next_dirty(&self, page: u64) -> Option<u64> {
        self.dirty.next(page)
    }

    /// Number of dirty pages.
    pub(crate) fn dirty_count(&self) -> u64 {
        self.dirty.count()
    }

    /// Whether the page takes memory of our own.
    pub(crate) fn is_modified(&self, page: u64) -> bool {
        self.modified.contains(page)
    }

    /// The page was dropped from memory.
    pub(crate) fn clear_modified(&self, page: u64) {
        self.modified.unset(page);
    }

    /// The first modified page from `page` on.
    pub(crate) fn next_modified(&self, page: u64) -> Option<u64> {
        self.modified.next(page)
    }

    /// Number of modified pages.
    pub(crate) fn modified_count(&self) -> u64 {
        self.modified.count()
    }

    /// Notes, under the slot's lock, what a change leaves in slot `key`, which begins in `page`.
    pub(crate) fn note(&self, page: u64, key: u64, entry: LogIndex, live: bool) {
        let index = entry.get();
        let highest = &self.highest[index_of(page)];
        let known = highest.load(Relaxed);
        if known == UNKNOWN {
            return; // whoever learns the page reads the slot as it is then
        }
        if known < index {
            highest.fetch_max(index, Relaxed);
        }
        self.note_live(key, live);
    }

    /// Notes, under the locks of all slots that begin in the page, what they hold. `highest` is
    /// `None` if one is damaged.
    pub(crate) fn learn(&self, page: u64, highest: Option<u64>) {
        let highest = highest.unwrap_or(NEVER_SKIP);
        if self.highest[index_of(page)].swap(highest, Relaxed) == UNKNOWN {
            self.known.fetch_add(1, Relaxed);
        }
    }

    /// Notes, under its lock, that slot `key`, which begins in `page`, is damaged and that nobody
    /// knows its index.
    pub(crate) fn give_up(&self, page: u64, key: u64) {
        // As in `note`: whoever learns the page finds the slot damaged.
        self.highest[index_of(page)].fetch_max(NEVER_SKIP, Relaxed);
        self.note_live(key, false);
    }

    /// Notes whether a slot is live, under its lock.
    pub(crate) fn note_live(&self, key: u64, live: bool) {
        if live {
            self.live.set(key);
        } else {
            self.live.unset(key);
        }
    }

    /// Whether a slot holds a value, as far as its page is known.
    pub(crate) fn is_live(&self, key: u64) -> bool {
        self.live.contains(key)
    }

    /// Whether no slot that begins in the page has an index above `index`. False if unknown.
    pub(crate) fn is_at_most(&self, page: u64, index: u64) -> bool {
        let highest = self.highest[index_of(page)].load(Relaxed);
        highest < NEVER_SKIP && highest <= index
    }

    /// Number of live slots, once every page has been learned.
    pub(crate) fn live_count(&self) -> Option<u64> {
        let all = self.known.load(Relaxed) == self.highest.len() as u64;
        all.then(|| self.live.count())
    }
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Pages")
            .field("dirty", &self.dirty.count())
            .field("modified", &self.modified.count())
            .finish_non_exhaustive()
    }
}

/// A set of small numbers that threads share, and its size.
struct Bits {
    words: Box<[AtomicU64]>,
    count: AtomicU64,
}

impl Bits {
    fn new(bits: u64) -> Self {
        let words = (0..bits.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { words, count: AtomicU64::new(0) }
    }

    /// Adds a number; true if it was absent.
    fn set(&self, bit: u64) -> bool {
        let (word, mask) = self.place(bit);
        // Most are there already, and a plain load leaves the cache line shared.
        let added = word.load(Relaxed) & mask == 0 && word.fetch_or(mask, Relaxed) & mask == 0;
        if added {
            self.count.fetch_add(1, Relaxed);
        }
        added
    }

    /// Removes a number; true if it was there.
    fn unset(&self, bit: u64) -> bool {
        let (word, mask) = self.place(bit);
        let removed = word.load(Relaxed) & mask != 0 && word.fetch_and(!mask, Relaxed) & mask != 0;
        if removed {
            self.count.fetch_sub(1, Relaxed);
        }
        removed
    }

    fn contains(&self, bit: u64) -> bool {
        let (word, mask) = self.place(bit);
        word.load(Relaxed) & mask != 0
    }

    /// The lowest number from `bit` on.
    fn next(&self, bit: u64) -> Option<u64> {
        let mut first_bit = bit % 64;
        for (index, word) in self.words.iter().enumerate().skip(index_of(bit / 64)) {
            let rest = word.load(Relaxed) & (u64::MAX << first_bit);
            if rest != 0 {
                return Some(index as u64 * 64 + u64::from(rest.trailing_zeros()));
            }
            first_bit = 0;
        }
        None
    }

    /// How many there are. While others change the set, off by what they are about to count.
    fn count(&self) -> u64 {
        let count = self.count.load(Relaxed);
        // A removal may be counted before the addition that it follows.
        if count > i64::MAX as u64 { 0 } else { count }
    }

    fn place(&self, bit: u64) -> (&AtomicU64, u64) {
        (&self.words[index_of(bit / 64)], 1 << (bit % 64))
    }
}

fn index_of(number: u64) -> usize {
    usize::try_from(number).expect("invariant: a geometry's pages fit in memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_counted_once_and_found_in_order() {
        let pages = Pages::zeroed(300, 1);
        pages.mark(63, 65);
        pages.mark(64, 64);
        pages.mark(299, 299);
        assert_eq!(pages.dirty_count(), 4);
        assert_eq!(pages.next_dirty(0), Some(63));
        assert_eq!(pages.next_dirty(66), Some(299));
        assert!(pages.clear_dirty(64));
        assert!(!pages.clear_dirty(64));
        assert_eq!(pages.next_dirty(64), Some(65));
        assert!(pages.is_modified(64));
        pages.clear_modified(64);
        assert_eq!((pages.dirty_count(), pages.modified_count()), (3, 3));
        assert_eq!(pages.next_modified(64), Some(65));
    }

    #[test]
    fn an_unknown_or_damaged_page_is_never_skipped() {
        let pages = Pages::unknown(3, 9);
        pages.note(0, 0, LogIndex::new(5), true);
        assert!(!pages.is_at_most(0, u64::MAX));
        assert_eq!(pages.live_count(), None);
        pages.learn(0, Some(7));
        pages.learn(1, None);
        assert!(pages.is_at_most(0, 7) && !pages.is_at_most(0, 6));
        assert!(!pages.is_at_most(1, u64::MAX));
        pages.give_up(0, 0);
        assert!(!pages.is_at_most(0, u64::MAX));
        pages.learn(0, Some(7));
        pages.note(0, 1, LogIndex::new(9), true);
        assert!(!pages.is_at_most(0, 8));
        pages.learn(2, Some(0));
        assert_eq!(pages.live_count(), Some(1));
        pages.note(0, 1, LogIndex::new(10), false);
        pages.note(0, 1, LogIndex::new(11), false);
        assert_eq!(pages.live_count(), Some(0));
    }
}
