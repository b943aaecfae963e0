//! Tests of the simulated disk: what it keeps, and what it may lose.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::{AlignedBuffer, BLOCK_BYTES, Disk, File, WriteMode};
use super::{CrashMode, SECTOR_BYTES, SimDisk};

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
