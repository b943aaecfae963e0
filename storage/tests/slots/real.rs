//! The same on a real file system: direct writes, a private map, dropped pages.

use diskstore_storage::disk::RealDisk;
use diskstore_storage::slots::{Geometry, New, Options, Slots};
use diskstore_storage::state::{Membership, Target};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::script::{CLUSTER, Finish, Model, Numbers, apply, content, log_id};

const SLOTS: u64 = 500;
const ENTRIES: u64 = 3_000;

fn new(memory_bytes_max: u64) -> New {
    let geometry = Geometry::new(SLOTS, 1024).unwrap();
    let options = Options { memory_bytes_max, round_pages: 20 };
    New { geometry, cluster_id: CLUSTER, options }
}

/// Coherence of a private map with direct writes: pages are dropped and read again all the time
/// while entries are applied and checkpoints run.
#[test]
fn slots_on_a_real_disk_hold_what_the_model_holds() {
    let directory = tempfile::tempdir().unwrap();
    let new = new(16 * 4096);
    let slots = Slots::create(&RealDisk::new(), directory.path(), new, &mut |_, _| {}).unwrap();
    check(slots, directory.path(), new.options);
}

/// Memory that no file backs, and then, where it would not fit, a map that drops its pages.
#[test]
fn slots_that_were_made_to_be_filled_hold_what_the_model_holds() {
    for memory_bytes in [1 << 20, 16 * 4096] {
        let directory = tempfile::tempdir().unwrap();
        let (disk, new) = (RealDisk::new(), new(memory_bytes));
        let slots = Slots::create_to_fill(&disk, directory.path(), new, &mut |_, _| {}).unwrap();
        check(slots, directory.path(), new.options);
    }
}

fn check(slots: Slots, directory: &Path, options: Options) {
    let checkpoint = |slots: &Slots, index: u64| {
        let target =
            Target { log_id: log_id(index), membership: Membership::default(), requests_crc: 0 };
        slots.checkpoint(target, &mut || Ok(()), &AtomicBool::new(false)).unwrap();
    };
    let mut model = Model::default();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _finish = Finish(&done);
            let mut numbers = Numbers(99);
            for index in 1..=ENTRIES {
                let entry = numbers.entry(SLOTS, 1024);
                apply(&slots, index, &entry).unwrap();
                model.apply(index, &entry, 1024);
            }
        });
        while !done.load(Ordering::Relaxed) {
            slots.write_back(&mut || Ok(()), &AtomicBool::new(false)).unwrap();
        }
    });
    assert_eq!(content(&slots).unwrap(), model.slots);
    checkpoint(&slots, ENTRIES);
    assert!(slots.modified_bytes() <= options.memory_bytes_max);
    assert_eq!(content(&slots).unwrap(), model.slots);
    drop(slots);
    let (slots, _) = Slots::open(&RealDisk::new(), directory, options).unwrap();
    assert_eq!(content(&slots).unwrap(), model.slots);
    assert_eq!(slots.superblock().checkpoint, Some(log_id(ENTRIES)));
}
