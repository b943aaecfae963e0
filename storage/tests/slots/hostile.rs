//! What a client may have put into values is never read as a superblock or as a double write round
//! (`docs/format.md`, "What a client cannot forge"). It knows the formats, the cluster and all numbers.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use diskstore_storage::Error;
use diskstore_storage::disk::{CrashMode, Disk, SimDisk};
use diskstore_storage::slots::{
    DATA_OFFSET, DOUBLE_FILE, Geometry, Options, SLOTS_FILE, SUPERBLOCK_STRIDE, Slots,
};
use diskstore_storage::state::{Membership, PAGE_BYTES, Target};

use crate::script::{create, directory, log_id, set};

const SLOTS: u64 = 3;
const VALUE_BYTES: u32 = 200_000;
/// What was checkpointed before the client came, by it, and by the forged superblock.
const BEFORE: u64 = 10;
const AFTER: u64 = 20;
const FORGED: u64 = 90;

fn geometry() -> Geometry {
    Geometry::new(SLOTS, VALUE_BYTES).unwrap()
}

fn path(name: &str) -> PathBuf {
    directory().join(name)
}

fn checkpoint(slots: &Slots, index: u64) -> diskstore_storage::Result<()> {
    let target =
        Target { log_id: log_id(index), membership: Membership::default(), requests_crc: 0 };
    slots.checkpoint(target, &mut || Ok(()), &AtomicBool::new(false)).map(|_| ())
}

fn new_slots(disk: &SimDisk) -> Slots {
    disk.create_dir_all(directory()).unwrap();
    create(disk, geometry(), Options::new(4 << 20)).unwrap()
}

/// Files of a store with the same cluster and geometry that went further: a later superblock, and a
/// round of pages that hold something else.
fn forged_files() -> (Vec<u8>, Vec<u8>) {
    let disk = SimDisk::new(9);
    let slots = new_slots(&disk);
    for round in 0..4 {
        set(&slots, 0, FORGED - 4 + round, b"never proposed by anybody").unwrap();
        checkpoint(&slots, FORGED - 3 + round).unwrap();
    }
    let bytes = |name| disk.read_file(&path(name)).unwrap();
    (bytes(SLOTS_FILE)[..usize::try_from(DATA_OFFSET).unwrap()].to_vec(), bytes(DOUBLE_FILE))
}

/// The value of a slot in which `structure`, as much of it as fits, begins at a page boundary, and again
/// behind its end.
fn value_with(key: u64, structure: &[u8]) -> Vec<u8> {
    let page = usize::try_from(PAGE_BYTES).unwrap();
    let value_at = usize::try_from(geometry().offset_of(key) + 24).unwrap();
    let mut value = vec![0xee; value_at.next_multiple_of(page) - value_at];
    while value.len() + page <= VALUE_BYTES as usize {
        let room = VALUE_BYTES as usize - value.len();
        value.extend_from_slice(&structure[..structure.len().min(room)]);
        let beyond = (value_at + value.len()).next_multiple_of(page) - value_at;
        value.resize(beyond.min(VALUE_BYTES as usize), 0xee);
    }
    value
}

#[test]
fn values_that_hold_superblocks_and_rounds_are_values() {
    let (superblocks, double) = forged_files();
    let superblock = &superblocks[..usize::try_from(PAGE_BYTES).unwrap()];
    let values = [value_with(0, superblock), value_with(1, &double), value_with(2, &superblocks)];
    for at in 0.. {
        let disk = SimDisk::new(at);
        let slots = new_slots(&disk);
        for key in 0..SLOTS {
            set(&slots, key, BEFORE - SLOTS + key, b"before").unwrap();
        }
        checkpoint(&slots, BEFORE).unwrap();
        for (key, value) in (0..).zip(&values) {
            set(&slots, key, AFTER - SLOTS + key, value).unwrap();
        }
        disk.crash_at(at);
        let is_through = checkpoint(&slots, AFTER).is_ok();
        let (lost, torn) = (CrashMode::Lost, CrashMode::Torn { seed: at });
        for mode in [lost, CrashMode::All, torn, CrashMode::Reordered { seed: at }] {
            let disk = disk.crash(mode);
            let (slots, _) = Slots::open(&disk, directory(), Options::new(4 << 20)).unwrap();
            let reached = slots.superblock().checkpoint;
            assert!([Some(log_id(BEFORE)), Some(log_id(AFTER))].contains(&reached), "{reached:?}");
            for (key, value) in (0..).zip(&values) {
                let slot = slots.read(key).unwrap();
                let found = slot.value.unwrap();
                let is_old = found == "before" && slot.index == BEFORE - SLOTS + key;
                let is_new = found == value && slot.index == AFTER - SLOTS + key;
                assert!(is_old || is_new, "slot {key} at {}, crash {at}, {mode:?}", slot.index);
            }
        }
        if is_through {
            refuses_what_only_values_hold(&disk.crash(CrashMode::Lost), &values);
            break;
        }
    }
}

/// With what is right gone, what looks right in a value is not taken in its place.
fn refuses_what_only_values_hold(disk: &SimDisk, values: &[Vec<u8>]) {
    let open = |disk: &SimDisk| Slots::open(disk, directory(), Options::new(4 << 20));
    let without_round = disk.copy();
    without_round.flip_bit(&path(DOUBLE_FILE), 40, 0).unwrap();
    let (slots, _) = open(&without_round).unwrap();
    for (key, value) in (0..).zip(values) {
        assert_eq!(slots.read(key).unwrap().value.unwrap(), value);
    }
    let without_superblocks = disk.copy();
    for copy in 0..2 {
        let byte = copy * SUPERBLOCK_STRIDE + 30;
        without_superblocks.flip_bit(&path(SLOTS_FILE), byte, 1).unwrap();
    }
    assert!(matches!(open(&without_superblocks), Err(Error::Corrupt { offset: 0, .. })));
}
