//! The slots on a disk that loses power: a scripted run is cut off at every operation on the disk,
//! the disk keeps nothing, all, or any sectors of what was not synced, and what is opened then is
//! compared with the model.

use std::sync::atomic::AtomicBool;

use crate::script::{
    CLUSTER, Entry, Model, Numbers, apply, content, create, directory, log_id, set,
};
use diskstore_storage::disk::{CrashMode, Disk, SimDisk, WriteMode};
use diskstore_storage::slots::{DOUBLE_FILE, Geometry, New, Options, SLOTS_FILE, SlotImage, Slots};
use diskstore_storage::state::{Membership, Target};
use diskstore_storage::{Error, Result};

/// So small that rounds drop pages from memory.
const MEMORY_BYTES_MAX: u64 = 6 * 4096;
/// So small that a checkpoint takes several rounds and cuts through slots.
const ROUND_PAGES: u64 = 3;

fn options() -> Options {
    Options { memory_bytes_max: MEMORY_BYTES_MAX, round_pages: ROUND_PAGES }
}

fn target(index: u64) -> Target {
    Target { log_id: log_id(index), membership: Membership::default(), requests_crc: 0 }
}

fn modes() -> Vec<CrashMode> {
    let mut modes = vec![CrashMode::Lost, CrashMode::All];
    modes.push(CrashMode::Torn { seed: 1 });
    modes.extend((1..=2).map(|seed| CrashMode::Reordered { seed }));
    modes
}

/// What the log held and what was promised when the power went.
#[derive(Debug, Default)]
struct Log {
    entries: Vec<Entry>,
    /// Entries that a sync of the log covers.
    durable: usize,
    /// Index of the last checkpoint that returned `Ok`.
    checkpoint: u64,
}

/// A run: entries, and checkpoints during which entries go on being applied.
#[derive(Debug, Clone)]
struct Script {
    geometry: Geometry,
    /// Entries before each checkpoint.
    phases: Vec<usize>,
    /// Entries applied within each wait for the log.
    during: usize,
    seed: u64,
}

impl Script {
    fn step(&self, slots: &Slots, log: &mut Log, numbers: &mut Numbers) -> Result<()> {
        let value_bytes = u64::from(self.geometry.value_bytes());
        log.entries.push(numbers.entry(self.geometry.slot_count(), value_bytes));
        apply(slots, log.entries.len() as u64, log.entries.last().unwrap())
    }

    fn run(&self, disk: &SimDisk, log: &mut Log) -> Result<()> {
        let mut numbers = Numbers(self.seed);
        let slots = create(disk, self.geometry, options())?;
        for entries in &self.phases {
            for _ in 0..*entries {
                self.step(&slots, log, &mut numbers)?;
            }
            let target = target(log.entries.len() as u64);
            let index = target.log_id.index;
            let mut log_durable = || {
                log.durable = log.entries.len();
                for _ in 0..self.during {
                    self.step(&slots, log, &mut numbers)?;
                }
                Ok(())
            };
            slots.checkpoint(target, &mut log_durable, &AtomicBool::new(false))?;
            log.checkpoint = index;
        }
        Ok(())
    }
}

/// Opens what a crash left; `None` if there is no data file, which only a crash in the middle of
/// its creation may cause.
fn open(disk: &SimDisk, log: &Log) -> Option<Slots> {
    if !disk.exists(&directory().join(SLOTS_FILE)).unwrap() {
        assert!(log.entries.is_empty(), "the data file is gone");
        drop(create(disk, Geometry::new(3, 8).unwrap(), options()).unwrap());
        return None;
    }
    Some(Slots::open(disk, directory(), options()).unwrap().0)
}

/// The whole check of one crash image.
fn check(disk: &SimDisk, log: &Log, kept: usize, value_bytes: usize) {
    let Some(slots) = open(disk, log) else { return };
    // No torn slot, and none from an entry that the log does not have (H8).
    let found = content(&slots).unwrap();
    assert!(found.values().all(|(index, _)| *index <= log.durable as u64), "ahead of the log");
    let checkpoint = slots.superblock().checkpoint.map_or(0, |log_id| log_id.index);
    assert!(checkpoint >= log.checkpoint, "{checkpoint} is below {}", log.checkpoint);
    assert!(checkpoint <= log.durable as u64);
    assert_eq!(slots.superblock().cluster_id, CLUSTER);
    for index in checkpoint + 1..=kept as u64 {
        apply(&slots, index, &log.entries[index as usize - 1]).unwrap();
    }
    let expected = Model::after(&log.entries, kept, value_bytes).slots;
    assert_eq!(content(&slots).unwrap(), expected);
    if kept == 0 {
        return;
    }
    // And a checkpoint of that survives by itself.
    slots.checkpoint(target(kept as u64), &mut || Ok(()), &AtomicBool::new(false)).unwrap();
    drop(slots);
    let slots = Slots::open(&disk.crash(CrashMode::Lost), directory(), options()).unwrap().0;
    assert_eq!(content(&slots).unwrap(), expected);
    assert_eq!(slots.superblock().checkpoint, Some(log_id(kept as u64)));
}

fn disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.create_dir_all(directory()).unwrap();
    disk.sync_dir(directory().parent().unwrap()).unwrap();
    disk
}

/// Runs the script once whole, then cut off at every operation.
fn crash_everywhere(script: &Script) {
    let value_bytes = script.geometry.value_bytes() as usize;
    let whole = disk(script.seed);
    let before = whole.operation_count();
    script.run(&whole, &mut Log::default()).unwrap();
    let operations = whole.operation_count() - before;
    for operation in 0..operations {
        let cut = disk(script.seed);
        cut.crash_at(operation);
        let mut log = Log::default();
        assert!(script.run(&cut, &mut log).is_err(), "operation {operation} was not noticed");
        for mode in modes() {
            check(&cut.crash(mode), &log, log.durable, value_bytes);
        }
        // More of the log than was promised may be there too.
        if log.durable < log.entries.len() {
            let image = cut.crash(CrashMode::Reordered { seed: operation });
            check(&image, &log, log.entries.len(), value_bytes);
        }
    }
}

#[test]
fn slots_that_cross_pages_survive_a_crash_at_every_operation() {
    let geometry = Geometry::new(40, 1024).unwrap();
    crash_everywhere(&Script { geometry, phases: vec![25, 12, 3], during: 2, seed: 11 });
}

#[test]
fn small_slots_survive_a_crash_at_every_operation() {
    let geometry = Geometry::new(200, 300).unwrap();
    crash_everywhere(&Script { geometry, phases: vec![40, 9], during: 3, seed: 12 });
}

#[test]
fn slots_larger_than_a_page_survive_a_crash_at_every_operation() {
    let geometry = Geometry::new(9, 9_000).unwrap();
    crash_everywhere(&Script { geometry, phases: vec![12, 8, 2], during: 2, seed: 13 });
}

#[test]
fn a_crash_while_a_round_is_played_back_changes_nothing() {
    let geometry = Geometry::new(40, 1024).unwrap();
    let script = Script { geometry, phases: vec![25, 12], during: 1, seed: 14 };
    let whole = disk(script.seed);
    let before = whole.operation_count();
    script.run(&whole, &mut Log::default()).unwrap();
    let mut replays = 0;
    for operation in 0..whole.operation_count() - before {
        let cut = disk(script.seed);
        cut.crash_at(operation);
        let mut log = Log::default();
        script.run(&cut, &mut log).unwrap_err();
        if log.durable == 0 {
            continue;
        }
        let image = cut.crash(CrashMode::Reordered { seed: operation });
        let probe = image.copy();
        let from = probe.operation_count();
        drop(Slots::open(&probe, directory(), options()).unwrap());
        for again in 0..probe.operation_count() - from {
            let second = image.copy();
            second.crash_at(again);
            assert!(Slots::open(&second, directory(), options()).is_err());
            replays += 1;
            for mode in modes() {
                check(&second.crash(mode), &log, log.durable, 1024);
            }
        }
    }
    assert!(replays > 10, "only {replays} cuts hit an opening that writes");
}

/// What a sender has: entries up to `end`, of which the snapshot is taken from `start` on.
struct Sender {
    entries: Vec<Entry>,
    start: u64,
    images: Vec<SlotImage>,
}

impl Sender {
    fn new(geometry: Geometry, start: usize, end: usize) -> Self {
        let disk = disk(1);
        let slots = create(&disk, geometry, options()).unwrap();
        let mut numbers = Numbers(5);
        let value_bytes = u64::from(geometry.value_bytes());
        let entries: Vec<_> =
            (0..end).map(|_| numbers.entry(geometry.slot_count(), value_bytes)).collect();
        let mut images = Vec::new();
        let mut from = Some(0);
        for (position, entry) in entries.iter().enumerate() {
            apply(&slots, position as u64 + 1, entry).unwrap();
            // Slots are read while entries go on: the snapshot is of no single moment.
            if position + 1 >= start
                && let Some(key) = from
            {
                from = slots.scan(key, 0, 3_000, &mut images).unwrap();
            }
        }
        while let Some(key) = from {
            from = slots.scan(key, 0, 3_000, &mut images).unwrap();
        }
        Self { entries, start: start as u64, images }
    }

    fn end(&self) -> u64 {
        self.entries.len() as u64
    }

    fn send(&self, slots: &Slots) -> Result<()> {
        slots.set_readable_from(self.end())?;
        for (position, image) in self.images.iter().enumerate() {
            slots.merge(image)?;
            if position % 9 == 8 {
                slots.write_back(&mut || Ok(()), &AtomicBool::new(false))?;
            }
        }
        slots.install(target(self.start), &mut || Ok(()))?;
        Ok(())
    }
}

/// H6 and H7: whatever is left of an install, what is ahead is never readable, and both the
/// log and another transfer complete it.
#[test]
fn a_crash_inside_an_install_leaves_a_state_that_can_be_completed() {
    let geometry = Geometry::new(40, 1024).unwrap();
    let sender = Sender::new(geometry, 60, 90);
    let own = 20;
    let prepare = || {
        let disk = disk(3);
        let slots = create(&disk, geometry, options()).unwrap();
        for index in 1..=own {
            apply(&slots, index, &sender.entries[index as usize - 1]).unwrap();
        }
        slots.checkpoint(target(own), &mut || Ok(()), &AtomicBool::new(false)).unwrap();
        (disk, slots)
    };
    let (whole, slots) = prepare();
    let before = whole.operation_count();
    sender.send(&slots).unwrap();
    let operations = whole.operation_count() - before;
    for operation in 0..operations {
        let (cut, slots) = prepare();
        cut.crash_at(operation);
        assert!(sender.send(&slots).is_err());
        for mode in modes() {
            check_install(&cut.crash(mode), &sender, own);
        }
    }
    check_install(&whole.crash(CrashMode::Lost), &sender, sender.start);
}

fn check_install(disk: &SimDisk, sender: &Sender, checkpoint_min: u64) {
    let expected = Model::after(&sender.entries, sender.entries.len(), 1024).slots;
    let slots = Slots::open(disk, directory(), options()).unwrap().0;
    let highest = content(&slots).unwrap().values().map(|(index, _)| *index).max().unwrap();
    let superblock = slots.superblock();
    let checkpoint = superblock.checkpoint.unwrap().index;
    assert!(checkpoint == sender.start || checkpoint == checkpoint_min);
    assert!(highest <= checkpoint.max(superblock.readable_from), "ahead and readable");
    // The log from the checkpoint on completes it,
    for index in checkpoint + 1..=sender.end() {
        apply(&slots, index, &sender.entries[index as usize - 1]).unwrap();
    }
    assert_eq!(content(&slots).unwrap(), expected);
    // and so does the transfer, done again, with the log behind it.
    let slots = Slots::open(disk, directory(), options()).unwrap().0;
    sender.send(&slots).unwrap();
    drop(slots);
    let disk = disk.crash(CrashMode::Lost);
    let slots = Slots::open(&disk, directory(), options()).unwrap().0;
    assert_eq!(slots.superblock().checkpoint, Some(log_id(sender.start)));
    for index in sender.start + 1..=sender.end() {
        apply(&slots, index, &sender.entries[index as usize - 1]).unwrap();
    }
    assert_eq!(content(&slots).unwrap(), expected);
}

#[test]
fn a_failed_write_or_sync_poisons_and_loses_nothing() {
    use diskstore_storage::disk::OperationKind;
    let geometry = Geometry::new(40, 1024).unwrap();
    for (kind, file) in [
        (OperationKind::Write, "slots.dat"),
        (OperationKind::Sync, "slots.dat"),
        (OperationKind::Write, "double.dat"),
        (OperationKind::Sync, "double.dat"),
    ] {
        let disk = disk(9);
        let slots = create(&disk, geometry, options()).unwrap();
        let mut numbers = Numbers(2);
        let entries: Vec<_> = (0..30).map(|_| numbers.entry(40, 1024)).collect();
        for (position, entry) in entries.iter().enumerate() {
            apply(&slots, position as u64 + 1, entry).unwrap();
        }
        let dirty = slots.dirty_pages();
        disk.fail_next(kind, file, 5);
        let stop = AtomicBool::new(false);
        let first = slots.checkpoint(target(30), &mut || Ok(()), &stop);
        assert!(matches!(first, Err(Error::Io { .. })), "{kind:?} {file}: {first:?}");
        assert!(slots.dirty_pages() <= dirty && slots.dirty_pages() > 0);
        let second = slots.checkpoint(target(30), &mut || Ok(()), &stop);
        assert!(matches!(second, Err(Error::Poisoned { .. })), "{kind:?} {file}: {second:?}");
        let log = Log { entries, durable: 30, checkpoint: 0 };
        for mode in modes() {
            check(&disk.crash(mode), &log, 30, 1024);
        }
    }
}

/// The same slots and room for more.
fn grown(geometry: Geometry, slot_count: u64) -> New {
    let geometry = Geometry::new(slot_count, geometry.value_bytes()).unwrap();
    New { geometry, cluster_id: CLUSTER, options: options() }
}

/// A run that ends beside a checkpoint, so that a round is there to be played back.
fn run_for_growth(geometry: Geometry) -> (SimDisk, Log) {
    let script = Script { geometry, phases: vec![25, 12], during: 2, seed: 15 };
    let (disk, mut log) = (disk(15), Log::default());
    script.run(&disk, &mut log).unwrap();
    log.durable = log.entries.len();
    (disk, log)
}

#[test]
fn room_for_more_slots_survives_a_crash_at_every_operation() {
    // The first has a double.dat that has to grow too, and a last page that is not full.
    for (geometry, more) in
        [(Geometry::new(40, 1024).unwrap(), 90), (Geometry::new(9, 9_000).unwrap(), 10)]
    {
        let value_bytes = geometry.value_bytes() as usize;
        let (whole, log) = run_for_growth(geometry);
        let new = grown(geometry, more);
        let room = |disk: &SimDisk| Slots::room(disk, directory()).unwrap().unwrap();
        let make_room = |disk: &SimDisk| Slots::make_room(disk, directory(), &new, &mut |_, _| {});
        let after = whole.copy();
        let before = after.operation_count();
        make_room(&after).unwrap();
        let operations = after.operation_count() - before;
        assert_eq!((room(&whole), room(&after)), (geometry.slot_count(), more));
        assert!(operations > 6, "{operations} operations");
        for operation in 0..operations {
            let cut = whole.copy();
            cut.crash_at(operation);
            assert!(make_room(&cut).is_err(), "operation {operation} was not noticed");
            for mode in modes() {
                let image = cut.crash(mode);
                let found = room(&image);
                assert!([geometry.slot_count(), more].contains(&found), "{found} slots");
                check(&image.copy(), &log, log.durable, value_bytes);
                make_room(&image).unwrap();
                let image = image.crash(CrashMode::Lost);
                check(&image, &log, log.durable, value_bytes);
                let (slots, _) = Slots::open(&image, directory(), options()).unwrap();
                assert_eq!(slots.geometry().slot_count(), more);
                let before = content(&slots).unwrap();
                for slot in geometry.slot_count()..more {
                    assert_eq!(slots.read(slot).unwrap().index, 0, "never written");
                }
                let last = log.entries.len() as u64 + 1;
                set(&slots, more - 1, last, b"new").unwrap();
                slots.checkpoint(target(last), &mut || Ok(()), &AtomicBool::new(false)).unwrap();
                drop(slots);
                let image = image.crash(CrashMode::Lost);
                let (slots, _) = Slots::open(&image, directory(), options()).unwrap();
                let mut found = content(&slots).unwrap();
                assert_eq!(found.remove(&(more - 1)), Some((last, Some(b"new".to_vec()))));
                assert_eq!(found, before);
            }
        }
    }
}

#[test]
fn room_that_the_disk_has_not_is_an_error_and_other_files_are_left_alone() {
    let geometry = Geometry::new(40, 1024).unwrap();
    let (whole, log) = run_for_growth(geometry);
    let make_room =
        |disk: &SimDisk, new: &New| Slots::make_room(disk, directory(), new, &mut |_, _| {});
    let new = grown(geometry, 4000);
    let full = whole.copy();
    full.set_space(100_000);
    assert!(matches!(make_room(&full, &new), Err(Error::NoSpace { .. })));
    // Room that comes in steps of 64 MiB, of which the first is there; and what a crash left of them.
    let bytes = |disk: &SimDisk| {
        [SLOTS_FILE, DOUBLE_FILE].map(|name| disk.read_file(&directory().join(name)).unwrap().len())
    };
    full.set_space(100 << 20);
    assert!(matches!(make_room(&full, &grown(geometry, 130_000)), Err(Error::NoSpace { .. })));
    assert_eq!(bytes(&full), bytes(&whole), "the space is free again");
    let longer = whole.copy();
    let slots = directory().join(SLOTS_FILE);
    longer.open(&slots, WriteMode::Direct).unwrap().reserve(1 << 20).unwrap();
    make_room(&longer, &grown(geometry, 40)).unwrap();
    assert_eq!(bytes(&longer), bytes(&whole));
    full.set_space(1 << 30);
    check(&full.copy(), &log, log.durable, 1024);
    make_room(&full, &new).unwrap();
    let before = whole.operation_count();
    for slot_count in [1, 40] {
        make_room(&whole, &grown(geometry, slot_count)).unwrap();
    }
    let foreign = New { cluster_id: CLUSTER + 1, ..new };
    assert!(matches!(make_room(&whole, &foreign), Err(Error::Mismatch { .. })));
    let wider = New { geometry: Geometry::new(4000, 2048).unwrap(), ..new };
    assert!(matches!(make_room(&whole, &wider), Err(Error::Mismatch { .. })));
    assert_eq!(whole.operation_count(), before, "nothing was written");
    check(&whole, &log, log.durable, 1024);
}
