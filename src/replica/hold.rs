//! Keeps the part of the log that running transfers of snapshots need: all entries above their
//! labels.
//!
//! Called by `state`, which labels snapshots, and through it by purges. Invariant:
//!
//! - I1: a label is taken and registered in one step, and no caller can ask for the bound between
//!   the two. A purge looks at the checkpoint first and asks for the bound afterwards; a label is
//!   never below an earlier checkpoint, so no purge passes it, whenever it began.

use std::sync::Arc;

use parking_lot::Mutex;

/// The labels of the snapshots that exist.
#[derive(Debug, Default)]
pub(crate) struct Holds(Mutex<Vec<u64>>);

/// Keeps the log behind one label until it is dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    holds: Arc<Holds>,
    index: u64,
}

impl Holds {
    /// Takes a label by `take`. Returns it with a hold that keeps the log behind it.
    pub(crate) fn hold<T>(self: &Arc<Self>, take: impl FnOnce() -> (u64, T)) -> (T, Hold) {
        let mut indexes = self.0.lock();
        let (index, label) = take();
        indexes.push(index);
        drop(indexes);
        (label, Hold { holds: self.clone(), index })
    }

    /// The highest index up to which snapshots allow the log to be purged.
    pub(crate) fn purge_bound(&self) -> u64 {
        self.0.lock().iter().copied().min().unwrap_or(u64::MAX)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut indexes = self.holds.0.lock();
        if let Some(place) = indexes.iter().position(|index| *index == self.index) {
            indexes.swap_remove(place);
        }
    }
}
