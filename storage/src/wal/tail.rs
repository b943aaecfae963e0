//! The newest entries, kept in memory so that replication and apply need no disk.
//!
//! Called by the log under its lock. Invariants:
//!
//! - I1: the entries are contiguous and end at the last entry of the log.
//! - I2: an entry that is not durable or not released stays, whatever the bound.

use std::collections::VecDeque;

use super::record::Entry;

/// The entries and what they weigh.
#[derive(Debug, Default)]
pub(super) struct Tail {
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Tail {
    fn weight(entry: &Entry) -> usize {
        entry.payload.len() + size_of::<Entry>()
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += Self::weight(&entry);
        self.entries.push_back(entry);
    }

    /// Drops the entries from `index` on.
    pub(super) fn truncate_from(&mut self, index: u64) {
        while let Some(entry) = self.entries.pop_back_if(|entry| entry.log_id.index >= index) {
            self.bytes -= Self::weight(&entry);
        }
    }

    /// Drops the entries below `index`, which left the log.
    pub(super) fn drop_below(&mut self, index: u64) {
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.log_id.index < index) {
            self.bytes -= Self::weight(&entry);
        }
    }

    /// Drops old entries beyond `bytes_max`, but none from `keep_from` on.
    pub(super) fn trim(&mut self, bytes_max: usize, keep_from: u64) {
        while self.bytes > bytes_max {
            let Some(entry) = self.entries.pop_front_if(|entry| entry.log_id.index < keep_from)
            else {
                return;
            };
            self.bytes -= Self::weight(&entry);
        }
    }

    /// The entries from `index` on, or `None` if that one is not held here.
    pub(super) fn from(&self, index: u64) -> Option<impl Iterator<Item = &Entry>> {
        let first = self.entries.front()?.log_id.index;
        let skipped = usize::try_from(index.checked_sub(first)?).ok()?;
        (skipped < self.entries.len()).then(|| self.entries.range(skipped..))
    }
}
