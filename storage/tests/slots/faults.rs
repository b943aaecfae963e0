//! Disks that lie, run full, or hold something else than what was written.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use diskstore_storage::disk::{CrashMode, Disk, OperationKind, RealDisk, SimDisk, WriteMode};
use diskstore_storage::slots::{
    Current, DOUBLE_FILE, DoubleFound, Geometry, New, Options, SLOTS_FILE, SUPERBLOCK_STRIDE,
    SlotImage, Slots,
};
use diskstore_storage::state::{Applied, Change, Membership, Target};
use diskstore_storage::{Error, LogIndex, Result, SlotIndex};

use crate::script::{CLUSTER, content, create, directory, log_id, set};

const SLOTS: u64 = 20;

fn geometry() -> Geometry {
    Geometry::new(SLOTS, 1024).unwrap()
}

fn options() -> Options {
    Options::new(1 << 20)
}

fn path(name: &str) -> PathBuf {
    directory().join(name)
}

fn disk() -> SimDisk {
    let disk = SimDisk::new(1);
    disk.create_dir_all(directory()).unwrap();
    disk
}

fn checkpoint(slots: &Slots, index: u64) {
    let target =
        Target { log_id: log_id(index), membership: Membership::default(), requests_crc: 0 };
    slots.checkpoint(target, &mut || Ok(()), &AtomicBool::new(false)).unwrap();
}

/// A disk on which every slot holds its key as text, at index key + 1, checkpointed.
fn written() -> SimDisk {
    let disk = disk();
    let slots = create(&disk, geometry(), options()).unwrap();
    for key in 0..SLOTS {
        set(&slots, key, key + 1, key.to_string().as_bytes()).unwrap();
    }
    checkpoint(&slots, SLOTS);
    disk.crash(CrashMode::Lost)
}

fn open(disk: &SimDisk) -> Result<Slots> {
    Slots::open(disk, directory(), options()).map(|(slots, _)| slots)
}

fn offset_of_corruption<T: std::fmt::Debug>(result: Result<T>) -> u64 {
    match result.unwrap_err() {
        Error::Corrupt { offset, .. } => offset,
        error => panic!("{error}"),
    }
}

/// Damages slot 7 on a disk whose double.dat does not hold it any more.
fn damaged() -> Slots {
    let disk = written();
    disk.flip_bit(&path(DOUBLE_FILE), 50, 0).unwrap();
    disk.flip_bit(&path(SLOTS_FILE), geometry().offset_of(7) + 16, 3).unwrap();
    open(&disk).unwrap()
}

/// F17.
#[test]
fn a_flipped_bit_in_a_cold_slot_is_an_error_that_names_it() {
    let slots = damaged();
    assert_eq!(offset_of_corruption(slots.read(7)), geometry().offset_of(7));
    assert_eq!(offset_of_corruption(slots.read_many(&[1, 7])), geometry().offset_of(7));
    assert_eq!(geometry().key_at(geometry().offset_of(7)), Some(7));
    assert_eq!(slots.read(8).unwrap().value.unwrap(), "8");
}

#[test]
fn a_picture_shows_what_is_written_what_is_new_and_what_is_damaged() {
    let slots = damaged();
    let picture = |since| slots.picture(SlotIndex::new(5), 6, LogIndex::new(since));
    assert_eq!(picture(0), [0, 0], "nothing was learned since the start");
    slots.learn_pages(0, u64::MAX);
    let bits = |states: [u8; 6]| {
        let byte = |of: &[u8]| of.iter().rev().fold(0, |byte, state| byte << 2 | state);
        [byte(&states[..4]), byte(&states[4..])]
    };
    // Slot 7, whose index nobody knows, keeps its page among those that may have changed.
    assert_eq!(picture(u64::MAX), bits([2, 2, 3, 1, 1, 1]));
    assert_eq!(picture(0), bits([2, 2, 3, 2, 2, 2]));
    assert_eq!(slots.picture(SlotIndex::new(SLOTS), 9, LogIndex::new(0)), []);
    assert_eq!(slots.picture(SlotIndex::new(SLOTS - 1), u64::MAX, LogIndex::new(0)).len(), 1);
}

/// H24.
#[test]
fn a_snapshot_is_not_finished_over_a_damaged_slot() {
    let slots = damaged();
    let mut images = Vec::new();
    let offset = offset_of_corruption(slots.scan(0, 0, usize::MAX, &mut images));
    assert_eq!(offset, geometry().offset_of(7));
    assert_eq!(images.len(), 7);
    // Neither is a delta, however high the index that it starts from.
    assert_eq!(slots.learn_pages(0, u64::MAX).damaged, [7]);
    offset_of_corruption(slots.scan(0, 1_000_000, usize::MAX, &mut images));
    assert_eq!(slots.live_count(), Some(SLOTS - 1));
    // The receiver gets its damaged slot whatever its index.
    let image = SlotImage {
        slot: SlotIndex::new(7),
        index: LogIndex::new(8),
        value: Some(Bytes::from_static(b"7")),
    };
    assert!(slots.merge(&image).unwrap());
    assert_eq!(slots.scan(7, 0, usize::MAX, &mut images).unwrap(), None);
    assert_eq!(images.len(), SLOTS as usize);
    assert_eq!(slots.live_count(), Some(SLOTS));
}

#[test]
fn a_full_set_or_a_delete_mends_a_damaged_slot() {
    for change in [Change::Set(Cow::Borrowed(b"new")), Change::Delete] {
        let slots = damaged();
        // Even one that is older than what the damaged header says.
        let applied =
            slots.lock([7].into_iter()).apply(SlotIndex::new(7), LogIndex::new(2), |base| {
                assert_eq!(base.read(), Current::Damaged);
                change.clone()
            });
        assert_eq!(applied.unwrap(), Applied::Written);
        let value = slots.read(7).unwrap().value;
        assert_eq!(value.is_some(), change != Change::Delete);
    }
}

#[test]
fn a_command_that_needs_a_damaged_slot_can_leave_it() {
    let slots = damaged();
    let mut guard = slots.lock([7].into_iter());
    assert_eq!(
        guard.apply(SlotIndex::new(7), LogIndex::new(30), |_| Change::Keep).unwrap(),
        Applied::Kept
    );
    drop(guard);
    offset_of_corruption(slots.read(7));
}

/// The disk may read right again, but what an entry did to the slot is missing: the old value is not
/// served, and the mark is on the disk with the checkpoint that covers the entry.
#[test]
fn a_slot_that_was_given_up_stays_damaged_until_a_full_set() {
    let disk = written();
    let value_byte = geometry().offset_of(7) + 24;
    disk.flip_bit(&path(DOUBLE_FILE), 50, 0).unwrap();
    disk.flip_bit(&path(SLOTS_FILE), value_byte, 0).unwrap();
    let slots = open(&disk).unwrap();
    let give_up = |index| {
        slots
            .lock([7].into_iter())
            .apply(SlotIndex::new(7), LogIndex::new(index), |_| Change::GiveUp)
    };
    assert_eq!(give_up(30).unwrap(), Applied::GivenUp);
    assert_eq!(give_up(31).unwrap(), Applied::Kept, "there is nothing left to write");
    assert!(slots.is_known_damaged(7) && !slots.is_known_damaged(8));
    disk.flip_bit(&path(SLOTS_FILE), value_byte, 0).unwrap();
    checkpoint(&slots, 31);
    drop(slots);
    let slots = open(&disk.crash(CrashMode::Lost)).unwrap();
    offset_of_corruption(slots.read(7));
    assert_eq!(slots.learn_pages(0, u64::MAX).damaged, [7]);
    assert_eq!(slots.lower_indexes_above(5), 14, "it has no index");
    set(&slots, 7, 32, b"new").unwrap();
    assert_eq!(slots.read(7).unwrap().index, 32);
    assert!(!slots.may_be_damaged());
}

/// H24, and I2 of `slots/scan.rs`: its page was known to hold only older slots, and a snapshot would
/// leave out what an entry did to the slot without a word.
#[test]
fn a_walk_over_later_changes_meets_a_slot_that_was_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::new();
    let new = New { geometry: geometry(), cluster_id: CLUSTER, options: options() };
    let slots = Slots::create(&disk, folder.path(), new, &mut |_, _| {}).unwrap();
    set(&slots, 7, 8, b"seven").unwrap();
    checkpoint(&slots, 8);
    drop(slots);
    let (slots, _) = Slots::open(&disk, folder.path(), options()).unwrap();
    assert_eq!(slots.learn_pages(0, u64::MAX).damaged, []);
    assert_eq!(slots.live_count(), Some(1));
    let file = disk.open(&folder.path().join(SLOTS_FILE), WriteMode::Buffered).unwrap();
    file.write_at(b"x", geometry().offset_of(7) + 24).unwrap(); // the map sees it
    let applied =
        slots.lock([7].into_iter()).apply(SlotIndex::new(7), LogIndex::new(30), |_| Change::GiveUp);
    assert_eq!(applied.unwrap(), Applied::GivenUp);
    assert_eq!(slots.live_count(), Some(0));
    let offset = offset_of_corruption(slots.scan(0, 29, 1 << 20, &mut Vec::new()));
    assert_eq!(offset, geometry().offset_of(7));
}

#[test]
#[should_panic(expected = "slot 7 is whole, and is given up")]
fn a_slot_that_is_whole_is_not_given_up() {
    let slots = open(&written()).unwrap();
    drop(
        slots.lock([7].into_iter()).apply(SlotIndex::new(7), LogIndex::new(30), |_| Change::GiveUp),
    );
}

/// Every bit of a slot, header and value.
#[test]
fn no_flipped_bit_of_a_slot_is_ever_served() {
    let disk = written();
    disk.flip_bit(&path(DOUBLE_FILE), 50, 0).unwrap();
    for bit in 0..(24 + 2) * 8 {
        let disk = disk.copy();
        let offset = geometry().offset_of(12) + bit / 8;
        disk.flip_bit(&path(SLOTS_FILE), offset, (bit % 8) as u8).unwrap();
        offset_of_corruption(open(&disk).unwrap().read(12));
    }
}

/// F18.
#[test]
fn a_slot_written_to_the_place_of_another_is_damaged() {
    let disk = written();
    disk.flip_bit(&path(DOUBLE_FILE), 50, 0).unwrap();
    let mut bytes = disk.read_file(&path(SLOTS_FILE)).unwrap();
    let (from, to) = (geometry().offset_of(3) as usize, geometry().offset_of(4) as usize);
    bytes.copy_within(from..from + 1048, to);
    disk.write_file(&path(SLOTS_FILE), &bytes);
    let slots = open(&disk).unwrap();
    assert_eq!(slots.read(3).unwrap().index, 4);
    offset_of_corruption(slots.read(4));
}

/// F20.
#[test]
fn one_bad_superblock_is_served_by_the_other_and_written_again() {
    for copy in 0..2 {
        let disk = written();
        disk.flip_bit(&path(SLOTS_FILE), copy * SUPERBLOCK_STRIDE + 30, 1).unwrap();
        let (slots, opening) = Slots::open(&disk, directory(), options()).unwrap();
        assert_eq!(opening.superblock_repaired, Some(copy));
        assert_eq!(slots.superblock().checkpoint, Some(log_id(SLOTS)));
        let disk = disk.crash(CrashMode::Lost);
        disk.flip_bit(&path(SLOTS_FILE), (1 - copy) * SUPERBLOCK_STRIDE + 30, 1).unwrap();
        assert_eq!(open(&disk).unwrap().superblock().checkpoint, Some(log_id(SLOTS)));
    }
}

/// F20.
#[test]
fn two_bad_superblocks_are_refused() {
    let disk = written();
    for copy in 0..2 {
        disk.flip_bit(&path(SLOTS_FILE), copy * SUPERBLOCK_STRIDE + 30, 1).unwrap();
    }
    let before = disk.read_file(&path(SLOTS_FILE)).unwrap();
    assert_eq!(offset_of_corruption(open(&disk)), 0);
    assert_eq!(disk.read_file(&path(SLOTS_FILE)).unwrap(), before);
}

/// F27.
#[test]
fn files_of_a_newer_program_are_refused_and_left_untouched() {
    for (file, other_byte) in [(SLOTS_FILE, 60), (DOUBLE_FILE, 50)] {
        let disk = written();
        disk.flip_bit(&path(file), 8, 0).unwrap(); // version 3
        disk.flip_bit(&path(file), other_byte, 0).unwrap(); // and not only that
        let before = (disk.read_file(&path(SLOTS_FILE)), disk.read_file(&path(DOUBLE_FILE)));
        let refused = open(&disk).unwrap_err();
        assert!(matches!(refused, Error::UnknownVersion { version: 3, known: 2, .. }));
        let after = (disk.read_file(&path(SLOTS_FILE)), disk.read_file(&path(DOUBLE_FILE)));
        assert_eq!((before.0.unwrap(), before.1.unwrap()), (after.0.unwrap(), after.1.unwrap()));
    }
}

#[test]
fn a_flipped_bit_in_the_double_write_file_harms_nothing() {
    let disk = written();
    let length = disk.read_file(&path(DOUBLE_FILE)).unwrap().len() as u64;
    let expected = content(&open(&disk).unwrap()).unwrap();
    for offset in (0..64).chain((64..length).step_by(509)) {
        let disk = disk.copy();
        disk.flip_bit(&path(DOUBLE_FILE), offset, (offset % 8) as u8).unwrap();
        let slots = open(&disk).unwrap();
        assert_eq!(content(&slots).unwrap(), expected, "offset {offset}");
    }
}

#[test]
fn a_complete_round_mends_what_was_damaged_in_place() {
    let disk = written();
    disk.flip_bit(&path(SLOTS_FILE), geometry().offset_of(7) + 16, 3).unwrap();
    let (slots, opening) = Slots::open(&disk, directory(), options()).unwrap();
    assert_eq!(opening.double, DoubleFound::Complete { pages: 5, restored: 1 });
    assert_eq!(slots.read(7).unwrap().value.unwrap(), "7");
    // After that there is nothing to do, and nothing is written.
    let operations = disk.operation_count();
    let (_, opening) = Slots::open(&disk, directory(), options()).unwrap();
    assert_eq!(opening.double, DoubleFound::Complete { pages: 5, restored: 0 });
    assert_eq!(disk.operation_count(), operations);
}

#[test]
fn files_that_are_missing_short_or_of_another_cluster_are_refused() {
    let disk = written();
    disk.remove(&path(DOUBLE_FILE)).unwrap();
    assert!(matches!(open(&disk), Err(Error::Missing { .. })));
    let disk = written();
    disk.remove(&path(SLOTS_FILE)).unwrap();
    assert!(matches!(open(&disk), Err(Error::Missing { .. })));
    for file in [SLOTS_FILE, DOUBLE_FILE] {
        let disk = written();
        let length = disk.read_file(&path(file)).unwrap().len() as u64;
        disk.truncate_file(&path(file), length - 1).unwrap();
        assert!(matches!(open(&disk), Err(Error::Corrupt { .. })), "{file}");
    }
    let foreign = self::disk();
    let new = New { geometry: geometry(), cluster_id: CLUSTER + 1, options: options() };
    let slots = Slots::create(&foreign, directory(), new, &mut |_, _| {}).unwrap();
    set(&slots, 1, 1, b"x").unwrap();
    checkpoint(&slots, 1);
    let disk = written();
    disk.write_file(&path(DOUBLE_FILE), &foreign.read_file(&path(DOUBLE_FILE)).unwrap());
    assert!(matches!(open(&disk), Err(Error::Mismatch { field: "cluster id", .. })));
}

#[test]
fn a_round_of_an_earlier_file_is_not_played_into_a_new_one() {
    let disk = written();
    disk.remove(&path(SLOTS_FILE)).unwrap();
    drop(create(&disk, geometry(), options()).unwrap());
    let disk = disk.crash(CrashMode::Lost);
    let (slots, opening) = Slots::open(&disk, directory(), options()).unwrap();
    assert_eq!(opening.double, DoubleFound::Empty);
    assert!(content(&slots).unwrap().is_empty());
}

#[test]
fn a_data_file_that_is_there_is_not_made_again() {
    let disk = written();
    match create(&disk, geometry(), options()).unwrap_err() {
        Error::Io { source, .. } => assert_eq!(source.kind(), std::io::ErrorKind::AlreadyExists),
        error => panic!("{error}"),
    }
    assert_eq!(content(&open(&disk).unwrap()).unwrap().len(), SLOTS as usize);
}

/// F13.
#[test]
fn a_full_disk_at_creation_is_an_error_that_leaves_nothing_behind() {
    let needed = {
        let disk = disk();
        drop(create(&disk, geometry(), options()).unwrap());
        disk.paths().iter().map(|path| disk.read_file(path).unwrap().len() as u64).sum::<u64>()
    };
    for missing in [1, 4096, needed - 1] {
        let disk = disk();
        disk.set_space(needed - missing);
        assert!(matches!(create(&disk, geometry(), options()), Err(Error::NoSpace { .. })));
        assert_eq!(disk.paths(), Vec::<PathBuf>::new());
        disk.set_space(needed);
        drop(create(&disk, geometry(), options()).unwrap());
    }
}

#[test]
fn progress_ends_at_the_whole() {
    let disk = disk();
    let mut heard = Vec::new();
    let new = New { geometry: geometry(), cluster_id: CLUSTER, options: options() };
    Slots::create(&disk, directory(), new, &mut |done, all| heard.push((done, all))).unwrap();
    assert!(heard.is_sorted());
    assert!(heard.last().is_some_and(|(done, all)| done == all));
}

#[test]
fn a_superblock_copy_that_cannot_be_read_is_served_by_the_other() {
    let disk = written();
    disk.fail_next(OperationKind::Read, SLOTS_FILE, 5);
    let (slots, opening) = Slots::open(&disk, directory(), options()).unwrap();
    assert_eq!(opening.superblock_repaired, Some(0));
    assert_eq!(slots.superblock().checkpoint, Some(log_id(SLOTS)));
}

#[test]
fn what_does_not_fit_the_geometry_is_refused_and_changes_nothing() {
    let disk = written();
    let slots = open(&disk).unwrap();
    assert!(matches!(slots.read(SLOTS), Err(Error::OutOfRange { .. })));
    assert!(matches!(slots.read_many(&[0, u64::MAX]), Err(Error::OutOfRange { .. })));
    assert!(matches!(set(&slots, SLOTS, 99, b""), Err(Error::OutOfRange { .. })));
    assert!(matches!(set(&slots, 0, 99, &[0; 1025]), Err(Error::OutOfRange { .. })));
    for (key, length) in [(SLOTS, 1), (0, 1025)] {
        let value = Some(Bytes::from(vec![0; length]));
        let merged =
            slots.merge(&SlotImage { slot: SlotIndex::new(key), index: LogIndex::new(99), value });
        assert!(matches!(merged, Err(Error::OutOfRange { .. })));
    }
    for index in [u64::MAX, u64::MAX - 1] {
        let merged = slots.merge(&SlotImage {
            slot: SlotIndex::new(0),
            index: LogIndex::new(index),
            value: None,
        });
        assert!(matches!(merged, Err(Error::OutOfRange { .. })));
        assert!(matches!(set(&slots, 0, index, b""), Err(Error::OutOfRange { .. })));
    }
    assert_eq!(slots.readable_from(), 0);
    set(&slots, 0, 99, &[5; 1024]).unwrap();
    assert_eq!(slots.read(0).unwrap().value.unwrap(), [5; 1024].as_slice());
    assert_eq!(slots.read(1).unwrap().value.unwrap(), "1");
}

/// Without any of the three the log has all that ever was; with one of them it may not.
#[test]
fn slots_are_taken_for_zeros_only_without_round_checkpoint_and_merged_slot() {
    let reopened = |write: &dyn Fn(&Slots)| {
        let disk = disk();
        let slots = create(&disk, geometry(), options()).unwrap();
        write(&slots);
        drop(slots);
        let disk = disk.crash(CrashMode::Lost);
        let mut bytes = disk.read_file(&path(SLOTS_FILE)).unwrap();
        let at = usize::try_from(geometry().offset_of(7)).unwrap();
        bytes[at + 8] ^= 1; // in the header of a slot that was never written
        disk.write_file(&path(SLOTS_FILE), &bytes);
        open(&disk).unwrap()
    };
    let blank = reopened(&|slots| drop(set(slots, 3, 1, b"three")));
    assert!(content(&blank).unwrap().is_empty(), "nothing was read");
    assert_eq!(blank.live_count(), Some(0), "nothing has to be read");

    let written_back = reopened(&|slots| {
        set(slots, 3, 1, b"three").unwrap();
        slots.write_back(&mut || Ok(()), &AtomicBool::new(false)).unwrap();
    });
    assert_eq!(written_back.read(3).unwrap().index, 1);
    let never_written = [
        reopened(&|slots| checkpoint(slots, 1)),
        reopened(&|slots| slots.set_readable_from(9).unwrap()),
    ];
    for slots in never_written {
        assert_eq!(slots.live_count(), None, "what is there has to be read");
        assert!(matches!(slots.read(7), Err(Error::Corrupt { .. })));
    }
}

/// F15, where the file is not mapped: no signal says that it was cut.
#[test]
fn a_file_that_was_cut_takes_no_more_pages() {
    let disk = disk();
    let slots = create(&disk, geometry(), options()).unwrap();
    set(&slots, 3, 1, b"three").unwrap();
    disk.truncate_file(&path(SLOTS_FILE), geometry().file_bytes() - 4096).unwrap();
    let written = slots.write_back(&mut || Ok(()), &AtomicBool::new(false));
    assert!(matches!(written, Err(Error::Corrupt { .. })), "{written:?}");
}

#[test]
fn reading_ahead_ends_when_it_is_told_to() {
    let slots = create(&disk(), Geometry::new(4096, 1024).unwrap(), Options::new(8 << 20)).unwrap();
    let asked = std::cell::Cell::new(0);
    let mut counts = Vec::new();
    for count_max in [u32::MAX, 2] {
        asked.set(0);
        slots.read_ahead(&|| {
            asked.set(asked.get() + 1);
            asked.get() > count_max
        });
        counts.push(asked.get());
    }
    assert_eq!(counts, [5, 3], "1,040 pages, 256 at a time");
}
