//! Registers: keys whose versions are clocks of several nodes, as leaderless mode has them.
//!
//! Called by the node; calls `map`, `scan`. The slot rule is the same as for keys that a log
//! writes: a key takes a record only over one that yields to it. What differs follows from who
//! counts. Nobody gives out the versions of all keys in order, so two records may have one version, and then
//! both nodes keep the same; and deletes are forgotten up to a *floor* that the nodes find together, not up to a
//! checkpoint. Invariants:
//!
//! - I1: of two records of one key every copy keeps the same, whichever came first.
//! - I2: a change says what was there before, so that sums over versions can follow it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::Result;
use crate::disk::Disk;
use crate::keys::map::{self, Record, SHARD_COUNT, shard_of};
use crate::keys::{Domain, KeyImage, Keys, New, Options, Page};
use crate::state::Membership;

/// Largest value of a register that can be asked for, in bytes.
pub const REGISTER_BYTES_MAX: u32 = 16 << 20;

/// The hash by which keys are ordered: the same on every node and after every start.
pub fn hash_of(key: &[u8]) -> u64 {
    map::hash_of(key)
}

/// How a key changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// The hash of the key.
    pub hash: u64,
    /// The version that it had; 0 if it was not there.
    pub before: u64,
    /// The mark of the value that it had ([`mark_of`]).
    pub mark_before: u64,
    /// The version that it has; 0 if it is not there any more.
    pub after: u64,
    /// The mark of the value that it has.
    pub mark_after: u64,
}

/// What a value is told by beside its version: 0 for none, else one more than its CRC-32. Of two records of one
/// version the one with the higher mark is kept, or where both have one mark (one pair in 2^32), that with the higher bytes.
pub fn mark_of(value: Option<&[u8]>) -> u64 {
    value.map_or(0, |value| 1 + u64::from(crc32fast::hash(value)))
}

/// A key on a walk.
#[derive(Debug, Clone, Copy)]
pub struct Walked<'a> {
    /// Its hash.
    pub hash: u64,
    /// The key.
    pub key: &'a [u8],
    /// Its version.
    pub index: u64,
    /// Its value; none if it is deleted.
    pub value: Option<&'a [u8]>,
}

impl Keys {
    /// As [`Keys::create`], for registers. `numbers` are kept with each checkpoint.
    ///
    /// # Errors
    /// As [`Keys::create`].
    pub fn create_registers(
        disk: Arc<dyn Disk>,
        directory: &Path,
        new: New,
        numbers: Bytes,
    ) -> Result<Self> {
        let membership = Membership { log_id: None, body: numbers };
        Self::create_of(disk, directory, new, (Domain::Clocks, membership))
    }

    /// As [`Keys::open`], for registers.
    ///
    /// # Errors
    /// As [`Keys::open`].
    pub fn open_registers(disk: Arc<dyn Disk>, directory: &Path, options: Options) -> Result<Self> {
        Self::open_of(disk, directory, options, Domain::Clocks)
    }

    /// Takes a record, if what is there yields to it (I1): a lower version, or of the same version a value of a lower
    /// CRC-32, then of lower bytes, where no value is the lowest. In memory only.
    pub fn take(&self, image: &KeyImage) -> Option<Changed> {
        let KeyImage { key, index, value } = image;
        let hash = map::hash_of(key);
        let mut shard = self.shards[shard_of(hash)].lock();
        let known = shard.get(hash, key);
        if *index == 0 || known.is_some_and(|known| !yields(known, image)) {
            return None;
        }
        let before = known.map_or(0, |known| known.index);
        let mark_before = known.map_or(0, |known| mark_of(known.value.as_deref()));
        let mark_after = mark_of(value.as_deref());
        // A copy of its own: a slice would keep a whole frame in memory.
        let value = value.as_ref().map(|value| Bytes::copy_from_slice(value));
        let bytes = key.len() + value.as_ref().map_or(0, Bytes::len);
        shard.set(hash, key, Record { index: *index, seen_in: 0, value }, &self.counts);
        self.dirty_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        Some(Changed { hash, before, mark_before, after: *index, mark_after })
    }

    /// Drops what is there of a key, if its version is at most this: as if it had never been written.
    pub fn drop_register(&self, key: &[u8], upto: u64) -> Option<Changed> {
        let hash = map::hash_of(key);
        let mut shard = self.shards[shard_of(hash)].lock();
        let known = shard.get(hash, key).filter(|known| known.index <= upto)?;
        let (before, mark_before) = (known.index, mark_of(known.value.as_deref()));
        shard.remove(hash, key, &self.counts);
        self.dirty_bytes.fetch_add(key.len() as u64, Ordering::Relaxed);
        Some(Changed { hash, before, mark_before, after: 0, mark_after: 0 })
    }

    /// Deletes up to a version are forgotten: checkpoints leave them out from now on. Whoever calls drops those that are
    /// in memory ([`Keys::drop_register`]).
    pub fn raise_floor(&self, upto: u64) {
        self.sends.lock().raise_horizon(upto);
    }

    /// Tells `look` of all keys whose hashes are in this range, ends included, in their order. It is called
    /// under a shard's lock.
    pub fn versions(&self, from: u64, last: u64, look: &mut dyn FnMut(Walked<'_>)) {
        for shard in shard_of(from)..SHARD_COUNT.min(shard_of(last) + 1) {
            let held = self.shards[shard].lock();
            let begin = if shard == shard_of(from) { from } else { 0 };
            for (hash, key, record) in held.from(begin).take_while(|(hash, _, _)| *hash <= last) {
                let value = record.value.as_deref();
                look(Walked { hash, key, index: record.index, value });
            }
        }
    }

    /// All keys of a hash, deleted ones among them.
    pub fn of_hash(&self, hash: u64) -> Vec<KeyImage> {
        let held = self.shards[shard_of(hash)].lock();
        let of_hash = held.from(hash).take_while(|(at, _, _)| *at == hash);
        let image = |(_, key, record): (u64, &[u8], &Record)| KeyImage {
            key: Bytes::copy_from_slice(key),
            index: record.index,
            value: record.value.clone(),
        };
        of_hash.map(image).collect()
    }

    /// A page of all registers, deleted ones among them, from hash `from` on.
    pub fn all_from(&self, from: u64, bytes_max: usize) -> Page<KeyImage> {
        self.scan(from, 0, bytes_max)
    }

    /// The numbers that the newest checkpoint has.
    pub fn numbers(&self) -> Bytes {
        self.durable.lock().membership.body.clone()
    }
}

fn yields(known: &Record, image: &KeyImage) -> bool {
    if known.index != image.index {
        return known.index < image.index;
    }
    let (own, other) = (known.value.as_deref(), image.value.as_deref());
    (mark_of(own), own) < (mark_of(other), other)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::disk::SimDisk;
    use crate::state::Target;
    use crate::{Error, LogId, Term};

    const DIRECTORY: &str = "/node";

    fn disk() -> Arc<dyn Disk> {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
        disk.create_dir_all(&PathBuf::from(DIRECTORY).join("tmp")).unwrap();
        disk
    }

    fn new() -> New {
        New { cluster_id: 7, value_bytes: REGISTER_BYTES_MAX, options: Options::new(1 << 30) }
    }

    fn registers(disk: &Arc<dyn Disk>) -> Keys {
        let directory = Path::new(DIRECTORY);
        Keys::create_registers(disk.clone(), directory, new(), Bytes::from_static(b"n1")).unwrap()
    }

    fn image(key: &str, index: u64, value: Option<&str>) -> KeyImage {
        let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
        KeyImage { key: Bytes::copy_from_slice(key.as_bytes()), index, value }
    }

    fn target(index: u64) -> Target {
        let log_id = LogId { term: Term::new(1), index };
        let membership = Membership { log_id: None, body: Bytes::from_static(b"n2") };
        Target { log_id, membership, requests_crc: 0 }
    }

    fn checkpoint(keys: &Keys, index: u64) {
        let cancel = AtomicBool::new(false);
        keys.checkpoint(target(index), &mut || Ok(()), &cancel).unwrap();
    }

    /// I1
    #[test]
    fn copies_keep_the_same_whatever_the_order() {
        let all = [
            image("a", 5, Some("x")),
            image("a", 5, Some("y")),
            image("a", 5, None),
            image("a", 4, Some("z")),
        ];
        let mut kept = std::collections::BTreeSet::new();
        for first in 0..all.len() {
            for second in 0..all.len() {
                let keys = registers(&disk());
                for at in [first, second, 0, 1, 2, 3] {
                    keys.take(&all[at]);
                }
                kept.insert(keys.read(b"a").value);
            }
        }
        assert_eq!(kept.len(), 1);
        let keys = registers(&disk());
        assert_eq!(keys.take(&all[2]).map(|it| (it.before, it.after)), Some((0, 5)));
        assert_eq!(keys.take(&all[0]).map(|it| (it.before, it.after)), Some((5, 5)));
        assert_eq!(keys.take(&all[0]), None, "it has that");
        assert_eq!(keys.take(&image("b", 0, None)), None, "no version");
    }

    #[test]
    fn deletes_go_at_the_floor_and_not_at_a_checkpoint() {
        let disk = disk();
        let keys = registers(&disk);
        keys.take(&image("a", 5 << 40, None));
        keys.take(&image("b", 6 << 40, None));
        keys.take(&image("c", 1, Some("kept")));
        checkpoint(&keys, 9);
        assert_eq!(keys.deleted_count(), 2);
        keys.raise_floor(5 << 40);
        checkpoint(&keys, 10);
        let again = Keys::open_registers(disk, Path::new(DIRECTORY), new().options).unwrap();
        assert_eq!((again.deleted_count(), again.live_count()), (1, 1));
        assert_eq!(&*again.numbers(), b"n2");
        assert_eq!(again.horizon(), 5 << 40);
        assert_eq!(again.drop_register(b"c", 0), None, "it is newer");
        assert_eq!(again.drop_register(b"c", 1).map(|it| it.before), Some(1));
        assert_eq!((again.live_count(), again.drop_register(b"c", 9)), (0, None));
    }

    #[test]
    fn large_values_survive_a_checkpoint_and_kvstore_takes_none_of_it() {
        let disk = disk();
        let keys = registers(&disk);
        let large = "v".repeat(REGISTER_BYTES_MAX as usize);
        keys.take(&image("large", 3, Some(&large)));
        checkpoint(&keys, 1);
        let directory = Path::new(DIRECTORY);
        let again = Keys::open_registers(disk.clone(), directory, new().options).unwrap();
        assert_eq!(again.read(b"large").value.map(|value| value.len()), Some(large.len()));
        let other = Keys::open(disk, directory, new().options);
        assert!(matches!(other, Err(Error::Corrupt { .. })));
    }

    #[test]
    fn a_walk_over_a_range_of_hashes_meets_the_keys_in_it() {
        let keys = registers(&disk());
        for nth in 1..=500 {
            keys.take(&image(&nth.to_string(), nth, Some("x")));
        }
        let middle = u64::MAX / 3;
        let (mut low, mut high) = (Vec::new(), Vec::new());
        let seen = |at: Walked<'_>| (at.hash, at.key.to_vec(), at.index);
        keys.versions(0, middle, &mut |at| low.push(seen(at)));
        keys.versions(middle + 1, u64::MAX, &mut |at| high.push(seen(at)));
        assert_eq!(low.len() + high.len(), 500);
        assert!(low.iter().all(|(hash, _, _)| *hash <= middle) && !low.is_empty());
        let all: Vec<_> = low.iter().chain(&high).map(|(hash, _, _)| *hash).collect();
        assert!(all.is_sorted());
        for (hash, key, version) in &low {
            assert_eq!(hash_of(key), *hash);
            let found = keys.of_hash(*hash);
            assert_eq!((&*found[0].key, found[0].index), (&**key, *version));
        }
    }
}
