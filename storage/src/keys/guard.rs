//! The slot rule for keys: the one way in which entries change them.
//!
//! Called by the machine above; calls `map`. Invariants:
//!
//! - I1: the rule is checked once per key and entry, and all effects of the entry on the key are
//!   written with one store.
//! - I2: only the locks of a guard's shards are held, all of them, taken in the order of the
//!   shards.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use parking_lot::MutexGuard;

use crate::keys::map::{Record, Shard, hash_of, shard_of};
use crate::keys::{Keys, versioned};
use crate::state::{Applied, Change, Versioned};

/// The locks of the shards of some keys; drop it to let others at them.
#[derive(Debug)]
pub struct Guard<'a> {
    keys: &'a Keys,
    /// Ascending by shard.
    held: Vec<(usize, MutexGuard<'a, Shard>)>,
}

/// What a key holds before a change. A deleted key looks like one that never was (I5 of `mod.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Base<'a> {
    /// Log index of the last set; 0 if there is no value.
    pub version: u64,
    /// The value; `None` if there is none.
    pub value: Option<&'a [u8]>,
}

impl Keys {
    /// Takes the locks of all these keys. A thread that holds a guard takes no second one and calls
    /// no other method of `Keys`.
    pub fn lock<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) -> Guard<'_> {
        let mut shards: Vec<usize> = keys.map(|key| shard_of(hash_of(key))).collect();
        shards.sort_unstable();
        shards.dedup();
        let held = shards.into_iter().map(|shard| (shard, self.shards[shard].lock())).collect();
        Guard { keys: self, held }
    }
}

impl Guard<'_> {
    /// Reads a key whose lock is held.
    ///
    /// # Panics
    /// If the guard does not hold the key's lock.
    pub fn read(&mut self, key: &[u8]) -> Versioned {
        let hash = hash_of(key);
        versioned(self.shard(hash).get(hash, key))
    }

    /// Applies what entry `index` does to a key, by the slot rule: `compute` is asked only if the
    /// key does not hold the effect yet. In memory only; durable with the next checkpoint (or with
    /// the log). The key and the value are within their limits.
    ///
    /// # Panics
    /// If the guard does not hold the key's lock, or `index` is 0.
    pub fn apply<'c>(
        &mut self,
        key: &[u8],
        index: u64,
        compute: impl FnOnce(Base<'_>) -> Change<'c>,
    ) -> Applied {
        assert!(index > 0, "index 0 means never written");
        let keys = self.keys;
        let hash = hash_of(key);
        let shard = self.shard(hash);
        let known = shard.get(hash, key);
        if known.is_some_and(|known| known.index >= index) {
            return Applied::Skipped;
        }
        let seen_in = known.map_or(0, |known| known.seen_in);
        let base = match known {
            Some(Record { index, value: Some(value), .. }) => {
                Base { version: *index, value: Some(value) }
            }
            _ => Base::default(),
        };
        let value = match compute(base) {
            Change::Keep | Change::GiveUp => return Applied::Kept, // no key is ever damaged
            Change::Set(Cow::Borrowed(value)) => Some(Bytes::copy_from_slice(value)),
            Change::Set(Cow::Owned(value)) => Some(value.into_boxed_slice().into()),
            Change::Delete => None,
        };
        let bytes = key.len() + value.as_ref().map_or(0, Bytes::len);
        shard.set(hash, key, Record { index, seen_in, value }, &keys.counts);
        keys.dirty_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        Applied::Written
    }

    fn shard(&mut self, hash: u64) -> &mut Shard {
        let wanted = shard_of(hash);
        let held = self.held.iter_mut().find(|(shard, _)| *shard == wanted);
        held.map(|(_, shard)| &mut **shard).expect("invariant: the guard holds the key's lock")
    }
}
