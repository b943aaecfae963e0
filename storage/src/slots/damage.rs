//! Remembers which slots were found damaged, by a read, a command or a scan.
//!
//! Called by `area` and `scan`, which find and mend such slots; calls nothing. Invariant:
//!
//! - I1: at most [`DAMAGED_COUNT_MAX`] slots are remembered. Further ones are noticed again when
//!   they are read.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use parking_lot::Mutex;

/// Most damaged slots that are known by name.
pub const DAMAGED_COUNT_MAX: usize = 4096;

/// Whether somebody was told of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    No,
    Yes,
}

/// Slots whose checksum was wrong when somebody looked.
#[derive(Debug, Default)]
pub(crate) struct Damage {
    /// Looked at by every write: nearly always there is none.
    is_any: AtomicBool,
    slots: Mutex<BTreeMap<u64, Told>>,
}

impl Damage {
    /// A slot was found damaged.
    pub(crate) fn note(&self, key: u64) {
        let mut slots = self.slots.lock();
        if slots.len() < DAMAGED_COUNT_MAX {
            slots.entry(key).or_insert(Told::No);
            self.is_any.store(true, Relaxed);
        }
    }

    /// A slot was written, so that it is whole again. Under its lock, as all notes of walks are.
    pub(crate) fn forget(&self, key: u64) {
        if self.is_any.load(Relaxed) {
            let mut slots = self.slots.lock();
            slots.remove(&key);
            self.is_any.store(!slots.is_empty(), Relaxed);
        }
    }

    /// True if a slot is known to be damaged.
    pub(crate) fn is_any(&self) -> bool {
        self.is_any.load(Relaxed)
    }

    /// True if this one is.
    pub(crate) fn contains(&self, key: u64) -> bool {
        self.is_any() && self.slots.lock().contains_key(&key)
    }

    /// All that are known, ascending.
    pub(crate) fn all(&self) -> Vec<u64> {
        self.slots.lock().keys().copied().collect()
    }

    /// Those that were found since this was asked last, ascending.
    pub(crate) fn untold(&self) -> Vec<u64> {
        if !self.is_any.load(Relaxed) {
            return Vec::new();
        }
        let mut slots = self.slots.lock();
        let untold = slots.iter_mut().filter(|(_, told)| **told == Told::No);
        let tell = |(key, told): (&u64, &mut Told)| {
            *told = Told::Yes;
            *key
        };
        untold.map(tell).collect()
    }
}
