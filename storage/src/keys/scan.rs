//! Walks over all keys, in the order of their hashes. Keys are taken under their shard's lock, some
//! at a time; commands go on meanwhile.
//!
//! Called by the machine above, and by checkpoints; calls `map`.

use bytes::Bytes;

use crate::keys::map::{Record, SHARD_COUNT, shard_of};
use crate::keys::{KeyImage, Keys};

/// Most keys that one step looks at.
const SCAN_KEYS_MAX: usize = 1 << 16;
/// What an image counts beside its key and value, in bytes.
const IMAGE_BYTES: usize = 32;

/// A step of a walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// What was found.
    pub found: Vec<T>,
    /// The hash to go on with; `None` at the end.
    pub next: Option<u64>,
}

impl Keys {
    /// Keys from hash `from` on whose index is above `changed_after`, deleted ones among them, until
    /// they make `bytes_max` bytes or a bounded number was looked at.
    pub fn scan(&self, from: u64, changed_after: u64, bytes_max: usize) -> Page<KeyImage> {
        let (mut bytes, mut looked_at) = (0, 0);
        self.walk(from, &mut |key, record| {
            let is_enough = bytes >= bytes_max || looked_at >= SCAN_KEYS_MAX;
            looked_at += 1;
            if record.index <= changed_after {
                return Step { found: None, is_enough };
            }
            bytes += IMAGE_BYTES + key.len() + record.value.as_ref().map_or(0, Bytes::len);
            let (key, value) = (Bytes::copy_from_slice(key), record.value.clone());
            Step { found: Some(KeyImage { key, index: record.index, value }), is_enough }
        })
    }

    /// About `count` keys that hold a value, from hash `from` on; keys of one hash stay together.
    pub fn live_keys(&self, from: u64, count: usize) -> Page<Bytes> {
        let (mut found_count, mut looked_at) = (0, 0);
        self.walk(from, &mut |key, record| {
            let is_enough = found_count >= count || looked_at >= SCAN_KEYS_MAX;
            looked_at += 1;
            found_count += usize::from(record.value.is_some());
            let found = record.value.is_some().then(|| Bytes::copy_from_slice(key));
            Step { found, is_enough }
        })
    }

    fn walk<T>(&self, from: u64, look: &mut dyn FnMut(&[u8], &Record) -> Step<T>) -> Page<T> {
        let (mut found, mut from, mut last) = (Vec::new(), from, None);
        for shard in shard_of(from)..SHARD_COUNT {
            let held = self.shards[shard].lock();
            for (hash, key, record) in held.from(from) {
                let step = look(key, record);
                if step.is_enough && last != Some(hash) {
                    return Page { found, next: Some(hash) };
                }
                found.extend(step.found);
                last = Some(hash);
            }
            from = 0; // all of the shards behind the first
        }
        Page { found, next: None }
    }
}

/// What a walk makes of one key.
struct Step<T> {
    found: Option<T>,
    /// What was found before this key is enough: it ends the step, unless it shares its hash.
    is_enough: bool,
}
