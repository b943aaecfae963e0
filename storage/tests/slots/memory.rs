//! The memory budget: what takes memory is bounded, and whatever uses it up makes due what gives it
//! back.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use diskstore_storage::disk::{CrashMode, Disk, SimDisk};
use diskstore_storage::slots::{Geometry, Options, Slots};
use diskstore_storage::state::{Change, Membership, PAGE_BYTES, Target};
use diskstore_storage::{LogIndex, SlotIndex};

use crate::script::{create, directory, log_id, set};

/// No test waits longer than this for what must come.
const BOUND: Duration = Duration::from_mins(1);

fn disk() -> SimDisk {
    let disk = SimDisk::new(4);
    disk.create_dir_all(directory()).unwrap();
    disk
}

/// Longer than a round takes that nothing holds up.
const ROUND: Duration = Duration::from_secs(1);

/// Slots that take a page each.
fn pages(count: u64) -> Geometry {
    Geometry::new(count, 4072).unwrap()
}

/// Memory for so many pages, and rounds of so many.
fn budget(pages: u64, round_pages: u64) -> Options {
    Options { memory_bytes_max: pages * PAGE_BYTES, round_pages }
}

fn target(index: u64) -> Target {
    Target { log_id: log_id(index), membership: Membership::default(), requests_crc: 0 }
}

fn checkpoint(slots: &Slots, index: u64) {
    slots.checkpoint(target(index), &mut || Ok(()), &AtomicBool::new(false)).unwrap();
}

#[test]
fn memory_beyond_the_budget_is_given_back_once_written() {
    let options = Options { memory_bytes_max: 8 * 4096, round_pages: 4 };
    let disk = disk();
    let slots = create(&disk, Geometry::new(64, 1024).unwrap(), options).unwrap();
    for key in 0..64 {
        set(&slots, key, key + 1, &[key as u8; 1024]).unwrap();
    }
    assert!(slots.over_budget());
    checkpoint(&slots, 64);
    assert!(!slots.over_budget());
    assert!(slots.modified_bytes() <= 4 * 4096 + 4096, "{}", slots.modified_bytes());
    for key in 0..64 {
        assert_eq!(slots.read(key).unwrap().value.unwrap(), [key as u8; 1024].as_slice());
    }
}

/// Where the budget is used up, enough is dirty for a checkpoint to be due: half of it.
#[test]
fn a_checkpoint_leaves_half_of_the_budget_to_what_comes() {
    for clean in [46, 63, 0, 33] {
        let slots = create(&disk(), pages(256), budget(64, 8)).unwrap();
        for key in 0..clean {
            set(&slots, key, key + 1, b"v").unwrap();
        }
        checkpoint(&slots, clean);
        let mut key = clean;
        while !slots.over_budget() {
            set(&slots, key, key + 1, b"v").unwrap();
            key += 1;
        }
        assert!(slots.dirty_pages() >= 32, "{} after {clean}", slots.dirty_pages());
    }
}

#[test]
fn clean_pages_are_dropped_without_a_checkpoint() {
    let slots = create(&disk(), pages(256), budget(64, 8)).unwrap();
    for key in 0..32 {
        set(&slots, key, key + 1, b"clean").unwrap();
    }
    checkpoint(&slots, 32);
    for key in 32..62 {
        set(&slots, key, key + 1, b"dirty").unwrap();
    }
    assert!(slots.is_near_budget());
    let written = slots.written_pages();
    slots.drop_clean().unwrap();
    assert!(!slots.is_near_budget());
    assert_eq!((slots.dirty_pages(), slots.written_pages()), (30, written));
    for key in 0..62 {
        let value: &[u8] = if key < 32 { b"clean" } else { b"dirty" };
        assert_eq!(slots.read(key).unwrap().value.unwrap(), value);
    }
}

/// What lies behind the budget is written in rounds, not all at once, and is not lost by that.
#[test]
fn room_for_the_next_write_takes_a_round_and_not_a_checkpoint() {
    let disk = disk();
    let slots = create(&disk, pages(256), budget(64, 8)).unwrap();
    let mut log_durable_count = 0;
    for key in 0..256 {
        let written = slots.written_pages();
        slots
            .reclaim_memory(&mut || {
                log_durable_count += 1;
                Ok(())
            })
            .unwrap();
        assert!(slots.written_pages() - written <= 8, "one round for one write");
        assert!(!slots.over_budget());
        set(&slots, key, key + 1, &key.to_le_bytes()).unwrap();
    }
    assert_eq!(slots.written_pages(), 8 * log_durable_count, "log before data, each time");
    assert_eq!(slots.superblock().checkpoint, None, "it is no checkpoint");
    checkpoint(&slots, 256);
    let (slots, _) = Slots::open(&disk.crash(CrashMode::Lost), directory(), budget(64, 8)).unwrap();
    for key in 0..256 {
        let slot = slots.read(key).unwrap();
        assert_eq!((slot.index, &*slot.value.unwrap()), (key + 1, &key.to_le_bytes()[..]));
    }
}

/// A checkpoint that takes long, as one that is spread over time does, holds nobody up for longer
/// than a round or two do.
#[test]
fn whoever_is_short_of_memory_comes_between_two_rounds_of_a_checkpoint() {
    let slots = create(&disk(), pages(256), budget(64, 1)).unwrap();
    for key in 0..64 {
        set(&slots, key, key + 1, b"v").unwrap();
    }
    assert!(slots.over_budget());
    let (arrived, arrivals) = mpsc::channel();
    let (pass, passes) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let slots = &slots;
        let running = scope.spawn(move || {
            let mut log_durable = || {
                arrived.send(()).unwrap();
                let passed = passes.recv_timeout(BOUND);
                assert_ne!(passed, Err(mpsc::RecvTimeoutError::Timeout));
                Ok(())
            };
            slots.checkpoint(target(64), &mut log_durable, &AtomicBool::new(false)).unwrap();
        });
        arrivals.recv_timeout(BOUND).unwrap();
        let (done, is_done) = mpsc::channel();
        scope.spawn(move || {
            slots.reclaim_memory(&mut || Ok(())).unwrap();
            done.send(()).unwrap();
        });
        pass.send(()).unwrap();
        // It may miss the end of a round by a moment, and then comes behind the next.
        while is_done.recv_timeout(ROUND).is_err() {
            arrivals.recv_timeout(BOUND).expect("the checkpoint has more rounds");
            pass.send(()).unwrap();
        }
        assert!(!running.is_finished(), "it waits in a later round");
        drop(pass); // no round waits any more
        running.join().unwrap();
    });
    assert_eq!(slots.superblock().checkpoint, Some(log_id(64)));
}

/// Writes, checkpoints and whoever makes room, all at once: nothing is lost, and memory is bounded.
#[test]
fn rounds_of_a_checkpoint_and_of_others_lose_nothing() {
    const KEYS: u64 = 200;
    let disk = disk();
    let slots = create(&disk, Geometry::new(KEYS, 1500).unwrap(), budget(24, 3)).unwrap();
    let is_over = AtomicBool::new(false);
    let last = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                slots.write_back(&mut || Ok(()), &AtomicBool::new(false)).unwrap();
                slots.drop_clean().unwrap();
            }
        });
        for index in 1..=4000_u64 {
            slots.reclaim_memory(&mut || Ok(())).unwrap();
            let value = index.to_le_bytes().repeat(100);
            let change = Change::Set(Cow::Owned(value));
            let key = index * 7 % KEYS;
            slots
                .lock([key].into_iter())
                .apply(SlotIndex::new(key), LogIndex::new(index), |_| change)
                .unwrap();
            let modified = slots.modified_bytes() / PAGE_BYTES;
            assert!(modified <= 24 + 2, "{modified} pages");
        }
        is_over.store(true, Ordering::Relaxed);
        4000_u64
    });
    checkpoint(&slots, last);
    let (slots, _) = Slots::open(&disk.crash(CrashMode::Lost), directory(), budget(24, 3)).unwrap();
    for index in last - KEYS + 1..=last {
        let slot = slots.read(index * 7 % KEYS).unwrap();
        assert_eq!(slot.index, index);
        assert_eq!(&*slot.value.unwrap(), index.to_le_bytes().repeat(100));
    }
}
