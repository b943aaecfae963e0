//! Tests of the simulated disk: what it keeps, and what it may lose.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::{AlignedBuffer, BLOCK_BYTES, Disk, File, WriteMode};
use super::{CrashMode, OperationKind, SECTOR_BYTES, SimDisk};
use crate::Error;

const EIO: i32 = 5;

fn path(name: &str) -> PathBuf {
    Path::new("/data").join(name)
}

fn disk() -> SimDisk {
    let disk = SimDisk::new(1);
    disk.create_dir_all(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/data")).unwrap();
    disk
}

/// A file with a durable name and these durable bytes.
fn file_with(disk: &SimDisk, name: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = disk.create(&path(name), WriteMode::Buffered).unwrap();
    file.write_at(bytes, 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir(Path::new("/data")).unwrap();
    file
}

fn block_of(byte: u8) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::new();
    buffer.extend_from_slice(&[byte; BLOCK_BYTES]);
    buffer
}

fn crash_modes() -> Vec<CrashMode> {
    let mut modes = vec![CrashMode::Lost, CrashMode::All];
    modes.extend((0..20).map(|seed| CrashMode::Torn { seed }));
    modes.extend((0..20).map(|seed| CrashMode::Reordered { seed }));
    modes
}

#[test]
fn what_was_synced_survives_every_crash() {
    let disk = disk();
    let file = file_with(&disk, "a", &[1; 3000]);
    file.write_at(&[2; 700], 2000).unwrap();
    for mode in crash_modes() {
        let bytes = disk.crash(mode).read_file(&path("a")).unwrap();
        assert_eq!(bytes.len(), 3000, "{mode:?}");
        assert!(bytes[..2000].iter().all(|byte| *byte == 1), "{mode:?}");
        assert!(bytes[2700..].iter().all(|byte| *byte == 1), "{mode:?}");
        assert!(bytes[2000..2700].iter().all(|byte| *byte == 1 || *byte == 2), "{mode:?}");
    }
}

#[test]
fn what_was_not_synced_is_lost_kept_or_torn_at_sectors() {
    let disk = disk();
    let file = file_with(&disk, "a", &[1; 8 * SECTOR_BYTES]);
    file.write_at(&[2; 8 * SECTOR_BYTES], 0).unwrap();
    let after = |mode| disk.crash(mode).read_file(&path("a")).unwrap();
    assert_eq!(after(CrashMode::Lost), [1; 8 * SECTOR_BYTES]);
    assert_eq!(after(CrashMode::All), [2; 8 * SECTOR_BYTES]);
    let mut mixtures = 0;
    for mode in crash_modes() {
        let bytes = after(mode);
        for sector in bytes.chunks(SECTOR_BYTES) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "{mode:?}");
        }
        mixtures += usize::from(bytes.contains(&1) && bytes.contains(&2));
        if matches!(mode, CrashMode::Torn { .. }) {
            assert!(bytes.is_sorted_by(|one, next| one >= next), "{mode:?} keeps a prefix");
        }
    }
    assert!(mixtures > 10, "only {mixtures} crashes tore the write");
}

#[test]
fn a_sector_may_hold_any_of_its_pending_versions() {
    let disk = disk();
    let file = file_with(&disk, "a", &[0; SECTOR_BYTES]);
    for version in 1..=3 {
        file.write_at(&[version; SECTOR_BYTES], 0).unwrap();
    }
    let mut seen = [false; 4];
    for seed in 0..100 {
        let image = disk.crash(CrashMode::Reordered { seed });
        seen[usize::from(image.read_file(&path("a")).unwrap()[0])] = true;
    }
    assert_eq!(seen, [true; 4]);
}

#[test]
fn a_crash_may_reorder_writes_of_two_files_but_a_tear_may_not() {
    let disk = disk();
    let first = file_with(&disk, "a", &[0; SECTOR_BYTES]);
    let second = file_with(&disk, "b", &[0; SECTOR_BYTES]);
    first.write_at(&[1; SECTOR_BYTES], 0).unwrap();
    second.write_at(&[1; SECTOR_BYTES], 0).unwrap();
    let is_reordered = |mode| {
        let image = disk.crash(mode);
        let first_byte = |name| image.read_file(&path(name)).unwrap()[0];
        first_byte("a") == 0 && first_byte("b") == 1
    };
    assert!((0..50).any(|seed| is_reordered(CrashMode::Reordered { seed })));
    assert!(!(0..50).any(|seed| is_reordered(CrashMode::Torn { seed })));
}

#[test]
fn a_direct_durable_write_survives_without_a_sync() {
    let disk = disk();
    file_with(&disk, "a", &[0; BLOCK_BYTES]);
    let file = disk.open(&path("a"), WriteMode::DirectDurable).unwrap();
    file.write_at(block_of(7).as_slice(), 0).unwrap();
    for mode in crash_modes() {
        assert_eq!(disk.crash(mode).read_file(&path("a")).unwrap(), [7; BLOCK_BYTES], "{mode:?}");
    }
}

#[test]
fn an_older_pending_write_does_not_come_back_over_a_durable_one() {
    let disk = disk();
    let buffered = file_with(&disk, "a", &[0; BLOCK_BYTES]);
    buffered.write_at(&[3; BLOCK_BYTES], 0).unwrap();
    let direct = disk.open(&path("a"), WriteMode::DirectDurable).unwrap();
    direct.write_at(block_of(7).as_slice(), 0).unwrap();
    for mode in crash_modes() {
        assert_eq!(disk.crash(mode).read_file(&path("a")).unwrap(), [7; BLOCK_BYTES], "{mode:?}");
    }
}

#[test]
fn a_direct_write_needs_a_sync() {
    let disk = disk();
    file_with(&disk, "a", &[0; BLOCK_BYTES]);
    let file = disk.open(&path("a"), WriteMode::Direct).unwrap();
    file.write_at(block_of(7).as_slice(), 0).unwrap();
    let lost = |disk: &SimDisk| disk.crash(CrashMode::Lost).read_file(&path("a")).unwrap();
    assert_eq!(lost(&disk)[0], 0);
    file.sync().unwrap();
    assert_eq!(lost(&disk), [7; BLOCK_BYTES]);
}

#[test]
#[should_panic(expected = "direct write at byte 512")]
fn a_misaligned_direct_write_is_a_bug() {
    let disk = disk();
    let file = disk.create(&path("a"), WriteMode::Direct).unwrap();
    file.write_at(block_of(0).as_slice(), 512).unwrap();
}

#[test]
fn a_name_survives_only_after_its_directory_was_synced() {
    let disk = disk();
    let file = disk.create(&path("a"), WriteMode::Buffered).unwrap();
    file.write_at(b"slot", 0).unwrap();
    file.sync().unwrap();
    assert!(!disk.crash(CrashMode::Lost).exists(&path("a")).unwrap());
    disk.sync_dir(Path::new("/data")).unwrap();
    assert_eq!(disk.crash(CrashMode::Lost).read_file(&path("a")).unwrap(), b"slot");

    disk.rename(&path("a"), &path("b")).unwrap();
    assert_eq!(disk.crash(CrashMode::Lost).paths(), [path("a")]);
    assert_eq!(disk.crash(CrashMode::All).paths(), [path("b")]);
    disk.sync_dir(Path::new("/data")).unwrap();
    assert_eq!(disk.crash(CrashMode::Lost).paths(), [path("b")]);

    disk.remove(&path("b")).unwrap();
    assert_eq!(disk.crash(CrashMode::Lost).paths(), [path("b")]);
    disk.sync_dir(Path::new("/data")).unwrap();
    assert!(disk.crash(CrashMode::Lost).paths().is_empty());
}

#[test]
fn names_survive_as_a_prefix_of_what_was_done() {
    let disk = disk();
    for name in ["a", "b", "c"] {
        disk.create(&path(name), WriteMode::Buffered).unwrap();
    }
    let mut counts = [0; 4];
    for seed in 0..60 {
        let names = disk.crash(CrashMode::Reordered { seed }).list(Path::new("/data")).unwrap();
        assert_eq!(names, ["a", "b", "c"][..names.len()]);
        counts[names.len()] += 1;
    }
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

#[test]
fn a_synced_directory_takes_along_what_its_names_rest_on() {
    let disk = disk();
    disk.create_dir_all(&path("wal")).unwrap();
    disk.create(&path("x"), WriteMode::Buffered).unwrap();
    disk.create(&path("y"), WriteMode::Buffered).unwrap();
    disk.rename(&path("x"), &path("wal/x")).unwrap();
    disk.sync_dir(&path("wal")).unwrap();
    // `y` was created before the rename, but is another directory's name.
    assert_eq!(disk.crash(CrashMode::Lost).paths(), [path("wal/x")]);
}

#[test]
fn power_is_cut_at_each_operation_and_what_was_promised_before_survives() {
    let script = |disk: &SimDisk, promised: &mut u8| -> crate::Result<()> {
        let file = disk.create(&path("new"), WriteMode::Buffered)?;
        file.reserve(2 * SECTOR_BYTES as u64)?;
        for version in 1..=3 {
            file.write_at(&[version; 2 * SECTOR_BYTES], 0)?;
            file.sync()?;
            disk.rename(&path("new"), &path("a"))?;
            disk.sync_dir(Path::new("/data"))?;
            *promised = version;
            disk.rename(&path("a"), &path("new"))?;
        }
        Ok(())
    };
    let whole = disk();
    let before = whole.operation_count();
    script(&whole, &mut 0).unwrap();
    for index in 0..whole.operation_count() - before {
        for mode in crash_modes() {
            let disk = disk();
            disk.crash_at(index);
            let mut promised = 0;
            script(&disk, &mut promised).unwrap_err();
            assert!(disk.is_power_lost());
            let image = disk.crash(mode);
            let name = image.paths().first().cloned();
            assert!(promised == 0 || name.is_some(), "operation {index}, {mode:?}");
            let bytes = name.map(|name| image.read_file(&name).unwrap()).unwrap_or_default();
            let is_promised = |byte: &u8| *byte >= promised && *byte <= promised + 1;
            assert!(bytes.iter().all(is_promised), "operation {index}, {mode:?}");
        }
    }
}

#[test]
fn a_write_that_the_power_loss_caught_may_be_partly_there_even_a_durable_one() {
    let disk = disk();
    file_with(&disk, "a", &[0; BLOCK_BYTES]);
    let file = disk.open(&path("a"), WriteMode::DirectDurable).unwrap();
    disk.crash_at(0);
    file.write_at(block_of(1).as_slice(), 0).unwrap_err();
    let ones = |mode| {
        let bytes = disk.crash(mode).read_file(&path("a")).unwrap();
        bytes.into_iter().filter(|byte| *byte == 1).count()
    };
    assert_eq!(ones(CrashMode::Lost), 0);
    assert_eq!(ones(CrashMode::All), BLOCK_BYTES);
    assert!(crash_modes().into_iter().any(|mode| ![0, BLOCK_BYTES].contains(&ones(mode))));
}

#[test]
fn after_the_power_loss_everything_fails_and_nothing_changes() {
    let disk = disk();
    let file = file_with(&disk, "a", b"old");
    let count = disk.operation_count();
    disk.crash_at(1);
    file.write_at(b"new", 0).unwrap();
    file.sync().unwrap_err();
    disk.sync_dir(Path::new("/data")).unwrap_err();
    disk.create(&path("b"), WriteMode::Buffered).unwrap_err();
    disk.open(&path("a"), WriteMode::Buffered).unwrap_err();
    disk.exists(&path("a")).unwrap_err();
    file.read_at(&mut [0; 3], 0).unwrap_err();
    assert_eq!(disk.operation_count(), count + 2);
    assert_eq!(disk.crash(CrashMode::Lost).read_file(&path("a")).unwrap(), b"old");
    assert_eq!(disk.crash(CrashMode::All).paths(), [path("a")]);
}

#[test]
fn the_first_failed_write_poisons_the_file() {
    let disk = disk();
    let file = file_with(&disk, "a", b"old");
    disk.fail_next(OperationKind::Write, "/a", EIO);
    assert!(matches!(file.write_at(b"new", 0), Err(Error::Io { operation: "write", .. })));
    let count = disk.operation_count();
    assert!(matches!(file.write_at(b"new", 0), Err(Error::Poisoned { .. })));
    assert!(matches!(file.sync(), Err(Error::Poisoned { .. })));
    assert!(matches!(file.reserve(100), Err(Error::Poisoned { .. })));
    assert_eq!(disk.operation_count(), count, "a poisoned file reached the disk");
}

#[test]
fn an_armed_fault_lets_as_many_operations_pass_as_it_was_told() {
    let disk = disk();
    let file = file_with(&disk, "a", b"old");
    disk.fail_after(2, OperationKind::Write, "/a", EIO);
    for _ in 0..2 {
        file.write_at(b"new", 0).unwrap();
    }
    file.write_at(b"new", 0).unwrap_err();
}

#[test]
fn a_failed_sync_poisons_the_file_and_no_later_sync_covers_its_bytes() {
    let disk = disk();
    let file = file_with(&disk, "a", b"old");
    file.write_at(b"new", 0).unwrap();
    disk.fail_next(OperationKind::Sync, "/a", EIO);
    file.sync().unwrap_err();
    assert!(matches!(file.sync(), Err(Error::Poisoned { .. })));
    // A process that opens the file again reads the bytes, and cannot save them.
    let again = disk.copy().open(&path("a"), WriteMode::Buffered).unwrap();
    let mut bytes = [0; 3];
    again.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"new");
    disk.open(&path("a"), WriteMode::Buffered).unwrap().sync().unwrap();
    assert_eq!(disk.crash(CrashMode::Lost).read_file(&path("a")).unwrap(), b"old");
}

#[test]
fn bytes_of_a_failed_sync_do_not_come_back_over_later_ones() {
    let disk = disk();
    let file = file_with(&disk, "a", &[0; 4]);
    file.write_at(&[1; 4], 0).unwrap();
    disk.fail_next(OperationKind::Sync, "/a", EIO);
    file.sync().unwrap_err();
    let again = disk.open(&path("a"), WriteMode::Buffered).unwrap();
    again.write_at(&[2; 2], 1).unwrap();
    again.sync().unwrap();
    for mode in crash_modes() {
        assert_eq!(disk.crash(mode).read_file(&path("a")).unwrap()[1..3], [2; 2], "{mode:?}");
    }
}

#[test]
fn a_fault_hits_once_and_only_the_path_it_names() {
    let disk = disk();
    let first = file_with(&disk, "a", b"a");
    let second = file_with(&disk, "b", b"b");
    disk.fail_next(OperationKind::Read, "/b", EIO);
    first.read_at(&mut [0], 0).unwrap();
    second.read_at(&mut [0], 0).unwrap_err();
    second.read_at(&mut [0], 0).unwrap();
    second.write_at(b"c", 0).unwrap();
}

#[test]
fn a_full_disk_refuses_a_reservation_and_the_file_stays_usable() {
    let disk = disk();
    let file = file_with(&disk, "a", &[1; 100]);
    disk.set_space(1000);
    file_with(&disk, "b", &[1; 400]);
    let error = file.reserve(700).unwrap_err();
    assert!(matches!(error, Error::NoSpace { bytes: 600, .. }), "{error}");
    assert_eq!(file.len().unwrap(), 100);
    file.reserve(600).unwrap();
    file.write_at(&[2; 600], 0).unwrap();
    assert!(matches!(file.write_at(&[2], 600), Err(Error::NoSpace { .. })));
    assert!(matches!(file.sync(), Err(Error::Poisoned { .. })));
    disk.remove(&path("b")).unwrap();
    file_with(&disk, "c", &[1; 400]);
}

#[test]
fn an_unsynced_cut_may_be_lost() {
    let disk = disk();
    let file = file_with(&disk, "a", b"abcdef");
    file.cut(2).unwrap();
    let left = |mode| disk.crash(mode).read_file(&path("a")).unwrap();
    assert_eq!(left(CrashMode::Lost), b"abcdef");
    assert_eq!(left(CrashMode::All), b"ab");
    assert!(
        crash_modes().into_iter().all(|mode| [&b"abcdef"[..], b"ab"].contains(&&left(mode)[..]))
    );
    file.sync().unwrap();
    assert!(crash_modes().into_iter().all(|mode| left(mode) == b"ab"));
}

#[test]
fn bytes_that_are_written_durably_behind_a_cut_stay() {
    let disk = disk();
    let file = file_with(&disk, "a", &[1; 2 * BLOCK_BYTES]);
    file.cut(BLOCK_BYTES as u64).unwrap();
    let durable = disk.open(&path("a"), WriteMode::DirectDurable).unwrap();
    durable.write_at(block_of(2).as_slice(), BLOCK_BYTES as u64).unwrap();
    file.sync().unwrap();
    for mode in crash_modes() {
        let bytes = disk.crash(mode).read_file(&path("a")).unwrap();
        assert_eq!(bytes[BLOCK_BYTES..], [2; BLOCK_BYTES], "{mode:?}");
    }
}

#[test]
fn an_unsynced_reservation_may_be_lost() {
    let disk = disk();
    let file = file_with(&disk, "a", b"");
    file.reserve(4096).unwrap();
    assert_eq!(disk.crash(CrashMode::Lost).read_file(&path("a")).unwrap().len(), 0);
    file.sync().unwrap();
    assert_eq!(disk.crash(CrashMode::Lost).read_file(&path("a")).unwrap(), [0; 4096]);
}

#[test]
fn the_write_log_tells_what_happened_in_order() {
    use OperationKind::{Create, Rename, Reserve, Sync, SyncDirectory, Write};
    let disk = disk();
    let before = disk.operations().len();
    let file = disk.create(&path("a"), WriteMode::Buffered).unwrap();
    file.reserve(10).unwrap();
    file.write_at(b"abc", 4).unwrap();
    file.read_at(&mut [0; 3], 4).unwrap();
    file.sync().unwrap();
    disk.rename(&path("a"), &path("b")).unwrap();
    disk.sync_dir(Path::new("/data")).unwrap();
    let operations = disk.operations().split_off(before);
    let kinds = operations.iter().map(|operation| operation.kind).collect::<Vec<_>>();
    assert_eq!(kinds, [Create, Reserve, Write, Sync, Rename, SyncDirectory]);
    assert_eq!((operations[2].offset, operations[2].bytes), (4, 3));
    assert_eq!(operations[2].path, path("a"));
}

#[test]
fn the_same_seed_gives_the_same_crash() {
    let image = || {
        let disk = disk();
        let file = file_with(&disk, "a", &vec![1; 64 * SECTOR_BYTES]);
        file.write_at(&vec![2; 64 * SECTOR_BYTES], 0).unwrap();
        disk.crash(CrashMode::Reordered { seed: 5 }).read_file(&path("a")).unwrap()
    };
    assert_eq!(image(), image());
}

#[test]
fn a_copy_shares_nothing_and_keeps_what_is_volatile() {
    let disk = disk();
    let file = file_with(&disk, "a", b"old");
    file.write_at(b"new", 0).unwrap();
    let lock = disk.lock(&path("LOCK")).unwrap();
    let copy = disk.copy();
    file.sync().unwrap();
    assert_eq!(copy.read_file(&path("a")).unwrap(), b"new");
    assert_eq!(copy.crash(CrashMode::Lost).read_file(&path("a")).unwrap(), b"old");
    copy.lock(&path("LOCK")).unwrap();
    drop(lock);
}

#[test]
fn a_crash_drops_locks() {
    let disk = disk();
    let _lock = disk.lock(&path("LOCK")).unwrap();
    assert!(matches!(disk.lock(&path("LOCK")), Err(Error::Locked { .. })));
    disk.crash(CrashMode::All).lock(&path("LOCK")).unwrap();
}

#[test]
fn damage_is_durable_and_seen_at_once() {
    let disk = disk();
    let file = file_with(&disk, "a", &[0; 8]);
    disk.flip_bit(&path("a"), 3, 7).unwrap();
    let mut bytes = [0; 8];
    file.read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [0, 0, 0, 0x80, 0, 0, 0, 0]);
    disk.truncate_file(&path("a"), 5).unwrap();
    let image = disk.crash(CrashMode::Lost);
    assert_eq!(image.read_file(&path("a")).unwrap(), [0, 0, 0, 0x80, 0]);
    assert!(disk.flip_bit(&path("a"), 5, 0).is_err());
    assert!(disk.flip_bit(&path("b"), 0, 0).unwrap_err().is_not_found());
}

#[test]
fn a_written_file_is_durable_with_its_directories() {
    let disk = SimDisk::new(1);
    disk.write_file(Path::new("/x/y/z"), b"slot");
    let image = disk.crash(CrashMode::Lost);
    assert_eq!(image.read_file(Path::new("/x/y/z")).unwrap(), b"slot");
    assert_eq!(image.list(Path::new("/x/y")).unwrap(), ["z"]);
}

#[test]
fn an_open_file_outlives_its_name() {
    let disk = disk();
    let file = file_with(&disk, "a", b"old");
    disk.remove(&path("a")).unwrap();
    file.write_at(b"new", 0).unwrap();
    let mut bytes = [0; 3];
    file.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"new");
}

#[test]
fn a_map_sees_the_file_again_after_its_pages_were_dropped() {
    let disk = disk();
    let file = file_with(&disk, "a", &[1; 2 * BLOCK_BYTES]);
    let map = file.map().unwrap();
    map.write(&[9; 16], 8);
    map.write(&[9; 16], BLOCK_BYTES as u64);
    file.write_at(&[2; 8], 0).unwrap();
    map.drop_pages(0, BLOCK_BYTES).unwrap();
    let mut bytes = vec![0; 2 * BLOCK_BYTES];
    map.read(&mut bytes, 0);
    assert_eq!(bytes[..8], [2; 8]);
    assert!(bytes[8..BLOCK_BYTES].iter().all(|byte| *byte == 1));
    assert_eq!(bytes[BLOCK_BYTES..BLOCK_BYTES + 16], [9; 16]);
}
