//! Hazards of `docs/contract.md`: orders of events that would lose or mix data if a rule were
//! missing. Those about crashes are in `crash`, the one about damaged slots in `faults`.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use diskstore_storage::disk::{CrashMode, Disk, OperationKind, SimDisk};
use diskstore_storage::slots::{Current, DoubleFound, Geometry, Options, SlotImage, Slots};
use diskstore_storage::state::{Applied, Change, Membership, Target};
use diskstore_storage::{LogIndex, SlotIndex};

use crate::script::{Effect, Entry, Finish, apply, content, create, directory, log_id, set};

fn disk() -> SimDisk {
    let disk = SimDisk::new(4);
    disk.create_dir_all(directory()).unwrap();
    disk
}

fn target(index: u64) -> Target {
    Target {
        log_id: log_id(index),
        membership: Membership { log_id: Some(log_id(1)), body: Bytes::from_static(b"members") },
        requests_crc: 0,
    }
}

fn checkpoint(slots: &Slots, index: u64) {
    slots.checkpoint(target(index), &mut || Ok(()), &AtomicBool::new(false)).unwrap();
}

fn crossing() -> Geometry {
    Geometry::new(64, 1024).unwrap()
}

fn small_rounds() -> Options {
    Options { memory_bytes_max: 1 << 20, round_pages: 1 }
}

fn reopen(disk: &SimDisk, options: Options) -> Slots {
    Slots::open(&disk.crash(CrashMode::Lost), directory(), options).unwrap().0
}

/// H1: slot 3 lies across pages 0 and 1; the power goes when only one of them is in place.
#[test]
fn a_checkpoint_cut_off_inside_a_slot_leaves_a_base_to_go_on_from() {
    let cut_off = |operation: u64| {
        let disk = disk();
        let slots = create(&disk, crossing(), Options::new(1 << 20)).unwrap();
        set(&slots, 3, 1, &[b'1'; 1000]).unwrap();
        checkpoint(&slots, 1);
        set(&slots, 3, 2, &[b'2'; 1000]).unwrap();
        disk.crash_at(operation);
        let stop = AtomicBool::new(false);
        assert!(slots.checkpoint(target(2), &mut || Ok(()), &stop).is_err());
        disk
    };
    let mut restored_once = false;
    // Double write, sync, write in place, sync.
    for operation in 0..4 {
        let disk = cut_off(operation);
        for seed in 0..40 {
            let image = disk.crash(CrashMode::Reordered { seed });
            let (slots, opening) = Slots::open(&image, directory(), Options::new(1 << 20)).unwrap();
            let restored =
                matches!(opening.double, DoubleFound::Complete { restored, .. } if restored > 0);
            restored_once |= restored && operation >= 2;
            let slot = slots.read(3).unwrap();
            let byte = if slot.index == 1 { b'1' } else { b'2' };
            assert_eq!(slot.value.unwrap(), [byte; 1000].as_slice());
        }
    }
    assert!(restored_once);
}

/// H2: a slot across two pages is rewritten at every moment of checkpoints that succeed.
#[test]
fn halves_of_a_slot_are_never_of_two_moments() {
    for value_bytes in [1024, 5000] {
        let geometry = Geometry::new(24, value_bytes).unwrap();
        let disk = disk();
        let slots = create(&disk, geometry, small_rounds()).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut index = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    for key in 0..24 {
                        index += 1;
                        let value = vec![index as u8; value_bytes as usize];
                        set(&slots, key, index, &value).unwrap();
                    }
                }
            });
            let _finish = Finish(&done);
            for index in 1..=60 {
                checkpoint(&slots, index);
                // Every checksum is checked.
                content(&reopen(&disk, small_rounds())).unwrap();
            }
        });
    }
}

/// H2, at the moments that hurt: slots change while the round before theirs waits for the log, so
/// a run begins or ends in the middle of a slot that is dirty on the other side.
#[test]
fn a_slot_cut_by_the_end_of_a_round_is_whole_on_the_disk() {
    for value_bytes in [1024, 3000, 9000] {
        let geometry = Geometry::new(20, value_bytes).unwrap();
        let disk = disk();
        let slots = create(&disk, geometry, small_rounds()).unwrap();
        let mut index = 0;
        let mut change_all = |slots: &Slots| {
            for key in 0..20 {
                index += 1;
                set(slots, key, index, &vec![index as u8; value_bytes as usize]).unwrap();
            }
        };
        change_all(&slots);
        let mut rounds = 0;
        let mut log_durable = || {
            // What the round before this one left on the disk.
            content(&reopen(&disk, small_rounds())).unwrap();
            change_all(&slots);
            rounds += 1;
            Ok(())
        };
        slots.checkpoint(target(1), &mut log_durable, &AtomicBool::new(false)).unwrap();
        assert!(rounds > 4, "{rounds} rounds");
        content(&reopen(&disk, small_rounds())).unwrap();
    }
}

/// H3.
#[test]
fn effects_of_one_entry_on_one_slot_count_once_and_all() {
    let disk = disk();
    let slots = create(&disk, crossing(), small_rounds()).unwrap();
    let twice = Entry { effects: vec![(5, Effect::Increment(1)), (5, Effect::Increment(1))] };
    apply(&slots, 1, &twice).unwrap();
    assert_eq!(slots.read(5).unwrap().value.unwrap(), "2");
    apply(&slots, 1, &twice).unwrap();
    assert_eq!(slots.read(5).unwrap().value.unwrap(), "2");
    apply(&slots, 2, &twice).unwrap();
    assert_eq!(slots.read(5).unwrap().value.unwrap(), "4");
}

/// H4.
#[test]
fn a_read_of_several_slots_sees_a_batch_whole_or_not_at_all() {
    let disk = disk();
    let slots = create(&disk, crossing(), small_rounds()).unwrap();
    let keys = [3, 60, 20];
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _finish = Finish(&done);
            for index in 1..=3_000_u64 {
                let value = index.to_le_bytes().to_vec();
                let effects = keys.iter().map(|key| (*key, Effect::Set(value.clone()))).collect();
                apply(&slots, index, &Entry { effects }).unwrap();
            }
        });
        while !done.load(Ordering::Relaxed) {
            let read = slots.read_many(&[60, 3, 20]).unwrap();
            assert!(read.windows(2).all(|pair| pair[0] == pair[1]), "{read:?}");
        }
    });
}

/// H5: a budget so small that every round drops pages, while others count in them.
#[test]
fn a_page_that_changes_while_it_is_dropped_keeps_the_change() {
    const KEYS: u64 = 256;
    const TIMES: u64 = 200;
    let options = Options { memory_bytes_max: 4096, round_pages: 2 };
    let disk = disk();
    let slots = create(&disk, Geometry::new(KEYS, 1024).unwrap(), options).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _finish = Finish(&done);
            for index in 1..=KEYS * TIMES {
                let effects = vec![(index % KEYS, Effect::Increment(1))];
                apply(&slots, index, &Entry { effects }).unwrap();
            }
        });
        while !done.load(Ordering::Relaxed) {
            slots.write_back(&mut || Ok(()), &AtomicBool::new(false)).unwrap();
        }
    });
    for key in 0..KEYS {
        let value = slots.read(key).unwrap().value.unwrap();
        assert_eq!(value, TIMES.to_string().as_bytes(), "slot {key}");
    }
    checkpoint(&slots, KEYS * TIMES);
    assert_eq!(slots.modified_bytes(), 0);
}

/// Dropping pages of a file that fits would have them read from the disk again, for nothing.
#[test]
fn a_file_that_fits_in_the_budget_stays_in_memory() {
    let geometry = crossing();
    let disk = disk();
    let memory_bytes_max = (geometry.page_count() + 1) * diskstore_storage::state::PAGE_BYTES;
    let slots = create(&disk, geometry, Options::new(memory_bytes_max)).unwrap();
    for key in 0..geometry.slot_count() {
        set(&slots, key, key + 1, b"stays").unwrap();
    }
    let modified_bytes = slots.modified_bytes();
    checkpoint(&slots, geometry.slot_count());
    assert_eq!(slots.dirty_pages(), 0);
    assert_eq!(slots.modified_bytes(), modified_bytes);
}

/// H6: no merged slot is on the disk before a superblock says so, whatever the caller forgot.
#[test]
fn a_merged_slot_reaches_the_disk_behind_its_readable_from() {
    let disk = disk();
    let slots = create(&disk, crossing(), small_rounds()).unwrap();
    let image = SlotImage {
        slot: SlotIndex::new(9),
        index: LogIndex::new(77),
        value: Some(Bytes::from_static(b"ahead")),
    };
    assert!(slots.merge(&image).unwrap());
    assert_eq!(slots.readable_from(), 77);
    assert_eq!(slots.superblock().readable_from, 0);
    let before = disk.operation_count();
    slots.write_back(&mut || Ok(()), &AtomicBool::new(false)).unwrap();
    let operations = disk.operations().split_off(before as usize);
    let place = |wanted: &dyn Fn(u64) -> bool| {
        let mut writes = operations.iter().enumerate().filter(|(_, operation)| {
            operation.kind == OperationKind::Write && operation.path.ends_with("slots.dat")
        });
        writes.find(|(_, operation)| wanted(operation.offset)).unwrap().0
    };
    let superblock = place(&|offset| offset == 0);
    let page = place(&|offset| offset >= diskstore_storage::slots::DATA_OFFSET);
    assert!(superblock < page);
    let slots = reopen(&disk, small_rounds());
    assert_eq!(slots.superblock().readable_from, 77);
    assert_eq!(slots.readable_from(), 77);
    assert_eq!(slots.superblock().checkpoint, None);
}

/// H6: and it never falls.
#[test]
fn readable_from_only_rises() {
    let disk = disk();
    let slots = create(&disk, crossing(), small_rounds()).unwrap();
    slots.set_readable_from(50).unwrap();
    slots.set_readable_from(20).unwrap();
    assert_eq!(reopen(&disk, small_rounds()).readable_from(), 50);
    let operations = disk.operation_count();
    slots.set_readable_from(50).unwrap();
    assert_eq!(disk.operation_count(), operations);
}

/// H8: between the copies of a round and its first write lies the wait for the log.
#[test]
fn a_round_waits_for_the_log_after_it_copied_and_before_it_writes() {
    let disk = disk();
    let slots = create(&disk, crossing(), small_rounds()).unwrap();
    set(&slots, 0, 1, b"one").unwrap();
    let before = disk.operation_count();
    let mut waits = 0;
    let mut log_durable = || {
        if waits == 0 {
            assert_eq!(disk.operation_count(), before, "written before the log");
            set(&slots, 0, 2, b"two").unwrap();
        }
        waits += 1;
        Ok(())
    };
    slots.checkpoint(target(1), &mut log_durable, &AtomicBool::new(false)).unwrap();
    assert!(waits >= 2);
    assert_eq!(reopen(&disk, small_rounds()).read(0).unwrap().index, 1);
    assert_eq!(slots.dirty_pages(), 1);
    checkpoint(&slots, 2);
    assert_eq!(reopen(&disk, small_rounds()).read(0).unwrap().index, 2);
}

/// H8: a log that fails stops the round, and its pages stay dirty.
#[test]
fn a_round_whose_log_fails_writes_nothing() {
    let disk = disk();
    let slots = create(&disk, crossing(), small_rounds()).unwrap();
    set(&slots, 0, 1, b"one").unwrap();
    let before = disk.operation_count();
    let failure = || diskstore_storage::Error::Poisoned { path: "/data/wal/1".into() };
    let result = slots.checkpoint(target(1), &mut || Err(failure()), &AtomicBool::new(false));
    assert!(result.is_err());
    assert_eq!(disk.operation_count(), before);
    assert_eq!(slots.dirty_pages(), 1);
}

/// H11.
#[test]
fn a_log_that_was_given_up_leaves_no_slot_above_its_end() {
    let disk = disk();
    let slots = create(&disk, crossing(), small_rounds()).unwrap();
    set(&slots, 1, 100, b"kept").unwrap();
    set(&slots, 2, 150, b"ahead").unwrap();
    let gone = Entry { effects: vec![(3, Effect::Delete)] };
    apply(&slots, 151, &gone).unwrap();
    checkpoint(&slots, 100);
    assert_eq!(slots.lower_indexes_above(120), 2);
    slots.write_back(&mut || Ok(()), &AtomicBool::new(false)).unwrap();
    let slots = reopen(&disk, small_rounds());
    assert_eq!(slots.read(1).unwrap().index, 100);
    assert_eq!(slots.read(2).unwrap().index, 120);
    assert_eq!(slots.read(2).unwrap().value.unwrap(), "ahead");
    assert_eq!((slots.read(3).unwrap().index, slots.read(3).unwrap().value), (120, None));
    // The new entry 130 is not swallowed.
    set(&slots, 2, 130, b"new").unwrap();
    assert_eq!(slots.read(2).unwrap().value.unwrap(), "new");
}

/// H18: slots of a restored backup begin with index 1, so a member without state gets them.
#[test]
fn restored_slots_reach_a_member_without_state() {
    let disk = disk();
    let slots = create(&disk, crossing(), small_rounds()).unwrap();
    for key in [4, 40] {
        let value = Some(Bytes::from_static(b"restored"));
        assert!(
            slots
                .merge(&SlotImage { slot: SlotIndex::new(key), index: LogIndex::new(1), value })
                .unwrap()
        );
    }
    slots.install(target(1), &mut || Ok(())).unwrap();
    let slots = reopen(&disk, small_rounds());
    assert_eq!(slots.superblock().checkpoint, Some(log_id(1)));
    for learned in [false, true] {
        if learned {
            slots.learn_pages(0, u64::MAX);
        }
        let mut images = Vec::new();
        assert_eq!(slots.scan(0, 0, usize::MAX, &mut images).unwrap(), None);
        assert_eq!(images.iter().map(|image| image.slot.get()).collect::<Vec<_>>(), [4, 40]);
    }
    let never_written = SlotImage { slot: SlotIndex::new(5), index: LogIndex::new(0), value: None };
    assert!(!slots.merge(&never_written).unwrap());
}

/// H21.
#[test]
fn a_checkpoint_that_ends_after_an_install_does_not_lower_the_superblock() {
    let disk = disk();
    let slots = create(&disk, crossing(), small_rounds()).unwrap();
    set(&slots, 0, 10, b"x").unwrap();
    slots.install(target(90), &mut || Ok(())).unwrap();
    let superblock = slots.superblock();
    let mut older = target(60);
    older.membership = Membership::default();
    slots.checkpoint(older, &mut || Ok(()), &AtomicBool::new(false)).unwrap();
    assert_eq!(slots.superblock(), superblock);
    assert_eq!(reopen(&disk, small_rounds()).superblock(), superblock);
    assert_eq!(superblock.membership.body, "members");
}

#[test]
fn a_cancelled_checkpoint_ends_between_rounds_and_keeps_the_superblock() {
    let disk = disk();
    let slots = create(&disk, crossing(), small_rounds()).unwrap();
    for key in 0..64 {
        set(&slots, key, key + 1, &[1; 1024]).unwrap();
    }
    let cancel = AtomicBool::new(false);
    let mut log_durable = || {
        cancel.store(true, Ordering::Relaxed);
        Ok(())
    };
    let outcome = slots.checkpoint(target(64), &mut log_durable, &cancel).unwrap();
    assert!(outcome.cancelled);
    assert_eq!(outcome.rounds, 1);
    assert_eq!((outcome.pages, slots.written_pages()), (2, 2), "a page and its edge");
    assert_eq!(slots.superblock().checkpoint, None);
    let slots = reopen(&disk, small_rounds());
    assert!(!content(&slots).unwrap().is_empty());
}

#[test]
fn a_replayed_entry_changes_nothing_and_is_not_computed() {
    let disk = disk();
    let slots = create(&disk, crossing(), small_rounds()).unwrap();
    set(&slots, 7, 5, b"five").unwrap();
    let mut guard = slots.lock([7].into_iter());
    for index in 1..=5 {
        let applied = guard.apply(SlotIndex::new(7), LogIndex::new(index), |_| {
            unreachable!("the slot holds its effect")
        });
        assert_eq!(applied.unwrap(), Applied::Skipped);
    }
    let applied = guard.apply(SlotIndex::new(7), LogIndex::new(6), |base| {
        assert_eq!(base.read(), Current::Value { index: 5, value: Some(b"five") });
        Change::Set(Cow::Borrowed(b"six"))
    });
    assert_eq!(applied.unwrap(), Applied::Written);
}

/// What a start learns in the background is exact, whatever is applied and written meanwhile.
#[test]
fn live_slots_learned_while_commands_run_are_counted_exactly() {
    const KEYS: u64 = 400;
    let geometry = Geometry::new(KEYS, 300).unwrap();
    let disk = disk();
    let slots = create(&disk, geometry, Options::new(1 << 20)).unwrap();
    for key in 0..KEYS / 2 {
        set(&slots, key, key + 1, b"before").unwrap();
    }
    assert_eq!(slots.live_count(), Some(KEYS / 2));
    checkpoint(&slots, KEYS);
    let slots = reopen(&disk, Options::new(1 << 20));
    assert_eq!(slots.live_count(), None);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for index in KEYS + 1..=KEYS * 20 {
                let key = index * 7 % KEYS;
                let effect = if index % 3 == 0 { Effect::Delete } else { Effect::Increment(1) };
                apply(&slots, index, &Entry { effects: vec![(key, effect)] }).unwrap();
            }
        });
        scope.spawn(|| checkpoint(&slots, KEYS + 1));
        let mut next = Some(0);
        while let Some(page) = next {
            let learned = slots.learn_pages(page, 1);
            assert_eq!(learned.damaged, []);
            next = learned.next_page;
        }
    });
    let expected = content(&slots).unwrap();
    let live = expected.values().filter(|(_, value)| value.is_some()).count();
    assert_eq!(slots.live_count(), Some(live as u64));
    // And no page is skipped that holds a change.
    for after in [KEYS, KEYS * 10, KEYS * 20 - 5] {
        let mut images = Vec::new();
        assert_eq!(slots.scan(0, after, usize::MAX, &mut images).unwrap(), None);
        let changed = expected.values().filter(|(index, _)| *index > after).count();
        assert_eq!(images.len(), changed);
    }
}

/// A snapshot that is taken while commands run, and a delta behind it: the receiver ends where the
/// sender does.
#[test]
fn a_delta_brings_what_changed_and_nothing_else() {
    let disk = disk();
    let sender = create(&disk, crossing(), small_rounds()).unwrap();
    let receiver_disk = self::disk();
    let receiver = create(&receiver_disk, crossing(), small_rounds()).unwrap();
    let mut images = Vec::new();
    let mut received = 0;
    for index in 1..=300 {
        // Fewer and fewer slots change.
        let keys = 64 >> ((index - 1) / 100);
        let effects = vec![(index * 13 % keys, Effect::Append(vec![index as u8; 5]))];
        apply(&sender, index, &Entry { effects }).unwrap();
        if index % 100 == 0 {
            images.clear();
            let after = index - 100;
            assert_eq!(sender.scan(0, after, usize::MAX, &mut images).unwrap(), None);
            assert!(images.iter().all(|image| image.index.get() > after));
            for image in &images {
                assert!(receiver.merge(image).unwrap());
                assert!(!receiver.merge(image).unwrap(), "twice");
            }
            received += images.len();
            receiver.install(target(index), &mut || Ok(())).unwrap();
        }
    }
    assert_eq!(received, 64 + 32 + 16);
    assert_eq!(content(&sender).unwrap(), content(&receiver).unwrap());
    assert_eq!(
        content(&reopen(&receiver_disk, small_rounds())).unwrap(),
        content(&sender).unwrap()
    );
}
