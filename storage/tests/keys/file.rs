//! `snapshot.dat`: its bytes, what a crash leaves of it, and what is made of a damaged one.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use diskstore_storage::disk::{CrashMode, Disk, OperationKind, SimDisk};
use diskstore_storage::keys::{Keys, New, Options, SNAPSHOT_FILE};
use diskstore_storage::{Error, inspect};

use crate::{CLUSTER, checkpoint, delete, directory, new_keys, open, set, target};

fn path() -> PathBuf {
    directory().join(SNAPSHOT_FILE)
}

/// A checkpoint of three keys, one of them deleted.
fn written() -> (SimDisk, Keys) {
    let disk = SimDisk::new(1);
    let keys = new_keys(&disk);
    set(&keys, 3, b"key", b"value");
    set(&keys, 4, b"\0\xff", b"");
    set(&keys, 5, b"gone", b"soon");
    delete(&keys, 6, b"gone");
    checkpoint(&keys, 6);
    (disk, keys)
}

/// Everything that can be read of some keys.
fn content(keys: &Keys) -> Vec<(Bytes, u64, Option<Bytes>)> {
    let page = keys.scan(0, 0, usize::MAX);
    assert_eq!(page.next, None);
    page.found.into_iter().map(|image| (image.key, image.index, image.value)).collect()
}

#[test]
fn a_start_finds_what_the_checkpoint_had() {
    let (disk, keys) = written();
    set(&keys, 7, b"later", b"lost without the log");
    for mode in [CrashMode::Lost, CrashMode::All] {
        let after = open(&disk.crash(mode)).unwrap();
        assert_eq!(after.durable(), Some(target(6)));
        assert_eq!((after.readable_from(), after.horizon()), (6, 0));
        assert_eq!((after.live_count(), after.deleted_count()), (2, 1));
        assert_eq!(after.memory_bytes(), 3 * 160 + (3 + 5) + 2 + 4);
        assert_eq!(content(&after).len(), 3);
        assert_eq!(after.read(b"key").value.unwrap(), "value");
        assert_eq!(after.read(b"\0\xff").value.unwrap(), "");
        assert_eq!((after.read(b"gone").index, after.read(b"gone").value), (6, None));
        assert_eq!(after.read(b"later").index, 0);
    }
}

/// A client knows the format, and can write a value that holds a whole snapshot file or its pieces.
#[test]
fn values_that_hold_snapshots_are_values() {
    let (forging, _) = written();
    let forged = forging.read_file(&path()).unwrap();
    let disk = SimDisk::new(2);
    disk.create_dir_all(&directory().join("tmp")).unwrap();
    let options = Options { memory_bytes_max: 64 << 20, piece_bytes: 40 };
    let new = New { cluster_id: CLUSTER, value_bytes: 1 << 20, options };
    let keys = Keys::create(Arc::new(disk.clone()), directory(), new).unwrap();
    set(&keys, 8, b"another", b"value");
    let step = forged.len().div_ceil(8);
    for (nth, start) in (0..forged.len()).step_by(step).enumerate() {
        let key = format!("key {nth}");
        set(&keys, 9 + nth as u64, key.as_bytes(), &forged[start..]);
    }
    let last = 20;
    checkpoint(&keys, last);
    let before = content(&keys);
    let after = open(&disk.crash(CrashMode::Lost)).unwrap();
    assert_eq!(content(&after), before);
    assert_eq!(after.durable(), Some(target(last)));
    assert_eq!(after.read(b"gone").index, 0, "it is in values only");
    // Where a file ends, or goes bad, nothing in a value takes over.
    let whole = disk.read_file(&path()).unwrap();
    for end in (0..whole.len()).step_by(whole.len() / 200) {
        disk.write_file(&path(), &whole[..end]);
        open(&disk).unwrap_err();
        let mut bad = whole.clone();
        bad[end] ^= 0x10;
        disk.write_file(&path(), &bad);
        if let Ok(after) = open(&disk) {
            assert_eq!(content(&after), before, "only padding was changed, at {end}");
        }
    }
}

/// A change of these bytes needs a new version: `docs/format.md`, "snapshot.dat".
#[test]
fn the_file_written_today_is_that_of_version_2() {
    let (disk, _) = written();
    assert_eq!(to_text(&disk.read_file(&path()).unwrap()), SNAPSHOT_V2);
}

/// Its size, then offset and bytes of every line that is not all zeros.
fn to_text(bytes: &[u8]) -> String {
    let mut text = format!("{}\n", bytes.len());
    for (number, line) in bytes.chunks(16).enumerate() {
        if line.iter().any(|byte| *byte != 0) {
            let line: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(text, "{:08x} {}", number * 16, line.join(" ")).unwrap();
        }
    }
    text
}

const SNAPSHOT_V2: &str = include_str!("../../compat/v2/snapshot.dat.hex");

#[test]
fn every_damaged_bit_and_every_cut_is_noticed() {
    let (disk, _) = written();
    let bytes = disk.read_file(&path()).unwrap();
    // Padding is not covered: it is neither read nor shown.
    let covered = |offset: usize| {
        let header = offset < 103;
        let block = offset / 4096;
        let length = u32::from_le_bytes(bytes[block * 4096..block * 4096 + 4].try_into().unwrap());
        header || block > 0 && offset % 4096 < 20 + length as usize
    };
    for offset in (0..bytes.len()).filter(|offset| covered(*offset)) {
        for bit in [0, 7] {
            let copy = disk.copy();
            copy.flip_bit(&path(), offset as u64, bit).unwrap();
            let error = open(&copy).unwrap_err();
            let is_named = matches!(error, Error::Corrupt { .. } | Error::UnknownVersion { .. });
            assert!(is_named, "byte {offset}: {error}");
        }
    }
    for length in (0..bytes.len()).step_by(97) {
        let copy = disk.copy();
        copy.truncate_file(&path(), length as u64).unwrap();
        assert!(matches!(open(&copy).unwrap_err(), Error::Corrupt { .. }), "{length} bytes");
    }
    disk.write_file(&path(), &[bytes.as_slice(), &[0; 4096]].concat());
    assert!(matches!(open(&disk).unwrap_err(), Error::Corrupt { .. }), "bytes behind the end");
}

#[test]
fn pieces_of_another_file_or_in_another_order_are_damage() {
    let (disk, keys) = written();
    let old = disk.read_file(&path()).unwrap();
    set(&keys, 7, b"key", b"other");
    checkpoint(&keys, 7);
    let new = disk.read_file(&path()).unwrap();
    let mixed = [&new[..4096], &old[4096..]].concat();
    let swapped = [&new[..4096], &new[8192..12288], &new[4096..8192], &new[12288..]].concat();
    for bytes in [mixed, swapped] {
        disk.write_file(&path(), &bytes);
        assert!(matches!(open(&disk).unwrap_err(), Error::Corrupt { .. }));
    }
}

const MODES: [CrashMode; 4] = [
    CrashMode::Lost,
    CrashMode::All,
    CrashMode::Torn { seed: 5 },
    CrashMode::Reordered { seed: 6 },
];

/// A power loss after any write, sync or rename leaves the old file or the new one.
#[test]
fn a_power_loss_at_any_point_leaves_a_whole_file() {
    let (disk, keys) = written();
    set(&keys, 7, b"key", b"newer");
    let before = disk.operation_count();
    checkpoint(&keys, 7);
    let count = disk.operation_count() - before;
    assert!(count > 5, "{count} operations");
    for nth in 0..=count {
        for mode in MODES {
            let (disk, keys) = written();
            set(&keys, 7, b"key", b"newer");
            disk.crash_at(before + nth);
            let never = AtomicBool::new(false);
            let done = keys.checkpoint(target(7), &mut || Ok(()), &never);
            let after = open(&disk.crash(mode)).unwrap();
            let index = after.durable().unwrap().log_id.index;
            assert!(index == 7 || done.is_err() && index == 6, "{nth} {mode:?}");
            let expected = if index == 7 { "newer" } else { "value" };
            assert_eq!(after.read(b"key").value.unwrap(), expected, "{nth} {mode:?}");
        }
    }
}

#[test]
fn the_log_is_durable_before_the_file_has_its_name() {
    let (disk, keys) = written();
    set(&keys, 7, b"key", b"newer");
    let before = disk.read_file(&path()).unwrap();
    let mut calls = 0;
    let mut log_durable = || {
        calls += 1;
        assert_eq!(disk.read_file(&path()).unwrap(), before);
        Ok(())
    };
    keys.checkpoint(target(7), &mut log_durable, &AtomicBool::new(false)).unwrap();
    assert!(calls > 1);
    assert_ne!(disk.read_file(&path()).unwrap(), before);
}

#[test]
fn a_full_disk_costs_the_checkpoint_and_no_more() {
    const NO_SPACE: i32 = 28;
    let (disk, keys) = written();
    set(&keys, 7, b"key", b"newer");
    disk.fail_next(OperationKind::Write, "snapshot.new", NO_SPACE);
    let never = AtomicBool::new(false);
    let outcome = keys.checkpoint(target(7), &mut || Ok(()), &never).unwrap();
    assert!(outcome.cancelled);
    assert_eq!(keys.durable(), Some(target(6)));
    assert!(!disk.exists(&directory().join("tmp/snapshot.new")).unwrap());
    assert!(keys.dirty_bytes() > 0);
    checkpoint(&keys, 7);
    assert_eq!(open(&disk).unwrap().durable(), Some(target(7)));
    // A copy from another member asks before.
    keys.check_checkpoint_space().unwrap();
    let bytes = |path: &PathBuf| disk.read_file(path).unwrap().len() as u64;
    disk.set_space(disk.paths().iter().map(bytes).sum());
    assert!(matches!(keys.check_checkpoint_space(), Err(Error::NoSpace { .. })));
    assert!(!disk.exists(&directory().join("tmp/snapshot.new")).unwrap());
}

#[test]
fn a_checkpoint_that_is_cancelled_leaves_the_one_before() {
    let (disk, keys) = written();
    set(&keys, 7, b"key", b"newer");
    let cancelled = AtomicBool::new(true);
    assert!(keys.checkpoint(target(7), &mut || Ok(()), &cancelled).unwrap().cancelled);
    assert_eq!(open(&disk).unwrap().durable(), Some(target(6)));
}

#[test]
fn a_file_is_shown_as_text() {
    let (disk, _) = written();
    let mut text = String::new();
    inspect(&disk, &path(), &mut text).unwrap();
    for line in [
        "snapshot file, version 2",
        "checkpoint 2-6",
        "key \"key\": index 3, 5 bytes",
        "key \"gone\": index 6, deleted",
        "2 keys live, 1 deleted, highest index 6",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let bytes = disk.read_file(&path()).unwrap();
    disk.flip_bit(&path(), bytes.len() as u64 - 4090, 3).unwrap();
    text.clear();
    inspect(&disk, &path(), &mut text).unwrap();
    assert!(text.contains("DAMAGED at byte"), "{text}");
}
