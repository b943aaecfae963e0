//! What both disks promise, asked of both; and what only the real one can show.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use diskstore_storage::disk::{
    AlignedBuffer, BLOCK_BYTES, Disk, File, RealDisk, SimDisk, WriteMode,
};
use diskstore_storage::{Error, Result};

const MODES: [WriteMode; 3] = [WriteMode::Buffered, WriteMode::Direct, WriteMode::DirectDurable];

/// Runs a test on a directory of the real disk and on one of the simulated disk.
fn on_both_disks(test: impl Fn(&dyn Disk, &Path)) {
    let temporary = tempfile::tempdir().unwrap();
    test(&RealDisk::new(), temporary.path());
    let simulated = SimDisk::new(1);
    simulated.create_dir_all(Path::new("/data")).unwrap();
    test(&simulated, Path::new("/data"));
}

fn blocks(byte: u8, count: usize) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::new();
    buffer.extend_from_slice(&vec![byte; count * BLOCK_BYTES]);
    buffer
}

fn content_of(file: &Arc<dyn File>) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn is_io<T>(result: &Result<T>, kind: std::io::ErrorKind) -> bool {
    matches!(result, Err(Error::Io { source, .. }) if source.kind() == kind)
}

#[test]
fn what_is_written_in_any_mode_is_read_back_in_any_other() {
    on_both_disks(|disk, directory| {
        for (number, mode) in MODES.into_iter().enumerate() {
            let path = directory.join(number.to_string());
            let file = disk.create(&path, mode).unwrap();
            file.reserve(4 * BLOCK_BYTES as u64).unwrap();
            file.write_at(blocks(7, 2).as_slice(), BLOCK_BYTES as u64).unwrap();
            file.sync().unwrap();
            for reader in MODES.into_iter().chain([WriteMode::ReadOnly]) {
                let bytes = content_of(&disk.open(&path, reader).unwrap());
                assert_eq!(bytes.len(), 4 * BLOCK_BYTES);
                assert!(bytes[..BLOCK_BYTES].iter().all(|byte| *byte == 0));
                assert_eq!(bytes[BLOCK_BYTES..3 * BLOCK_BYTES], *blocks(7, 2).as_slice());
                assert!(bytes[3 * BLOCK_BYTES..].iter().all(|byte| *byte == 0));
            }
            // Reads need no alignment, whatever the mode.
            let mut odd = [0; 3];
            file.read_at(&mut odd, BLOCK_BYTES as u64 - 1).unwrap();
            assert_eq!(odd, [0, 7, 7]);
        }
    });
}

#[test]
fn what_is_read_once_is_what_was_written_synced_or_not_and_of_any_size() {
    on_both_disks(|disk, directory| {
        let path = directory.join("a");
        let file = disk.create(&path, WriteMode::Buffered).unwrap();
        let content: Vec<u8> = (1..=251).cycle().take(5 * BLOCK_BYTES + 7).collect();
        file.write_at(&content, 0).unwrap();
        let whole = disk.open(&path, WriteMode::ReadOnly).unwrap();
        let block = BLOCK_BYTES as u64;
        for (offset, length) in [(0, 5 * BLOCK_BYTES), (block, BLOCK_BYTES), (3, 70), (block, 9)] {
            let mut buffer = AlignedBuffer::new();
            buffer.extend_unset(length);
            whole.read_once_at(&mut buffer, offset).unwrap();
            let from = usize::try_from(offset).unwrap();
            assert_eq!(buffer.as_slice(), &content[from..from + length], "{length} at {offset}");
        }
        let mut beyond = AlignedBuffer::new();
        beyond.extend_unset(BLOCK_BYTES);
        let result = whole.read_once_at(&mut beyond, 5 * block);
        assert!(is_io(&result, std::io::ErrorKind::UnexpectedEof), "{result:?}");
    });
}

#[test]
fn a_read_past_the_end_is_an_error() {
    on_both_disks(|disk, directory| {
        let file = disk.create(&directory.join("a"), WriteMode::Buffered).unwrap();
        file.write_at(b"abc", 0).unwrap();
        let result = file.read_at(&mut [0; 2], 2);
        assert!(is_io(&result, std::io::ErrorKind::UnexpectedEof), "{result:?}");
    });
}

#[test]
fn names_are_created_listed_renamed_and_removed() {
    on_both_disks(|disk, directory| {
        let path = |name: &str| directory.join(name);
        disk.create_dir_all(&path("deep/er")).unwrap();
        disk.create_dir_all(&path("deep/er")).unwrap();
        for name in ["b", "a", "deep/c"] {
            disk.create(&path(name), WriteMode::Buffered).unwrap();
        }
        assert_eq!(disk.list(directory).unwrap(), ["a", "b"]);
        let again = disk.create(&path("a"), WriteMode::Buffered);
        assert!(is_io(&again, std::io::ErrorKind::AlreadyExists));
        disk.rename(&path("a"), &path("b")).unwrap();
        assert_eq!(disk.list(directory).unwrap(), ["b"]);
        assert!(disk.rename(&path("a"), &path("b")).unwrap_err().is_not_found());
        disk.remove(&path("b")).unwrap();
        assert!(disk.remove(&path("b")).unwrap_err().is_not_found());
        assert!(disk.open(&path("b"), WriteMode::Buffered).unwrap_err().is_not_found());
        assert!(disk.list(&path("none")).unwrap_err().is_not_found());
        assert!(disk.sync_dir(&path("none")).unwrap_err().is_not_found());
        assert!(disk.create(&path("none/a"), WriteMode::Direct).unwrap_err().is_not_found());
        assert!(disk.exists(&path("deep/er")).unwrap());
        assert!(!disk.exists(&path("b")).unwrap());
        disk.sync_dir(directory).unwrap();
    });
}

#[test]
fn a_lock_is_exclusive_until_it_is_dropped() {
    on_both_disks(|disk, directory| {
        let path = directory.join("LOCK");
        let lock = disk.lock(&path).unwrap();
        assert!(matches!(disk.lock(&path), Err(Error::Locked { .. })));
        drop(lock);
        disk.lock(&path).unwrap();
    });
}

#[test]
fn a_cut_only_makes_a_file_shorter() {
    on_both_disks(|disk, directory| {
        let path = directory.join("a");
        let file = disk.create(&path, WriteMode::Buffered).unwrap();
        file.write_at(b"abcdef", 0).unwrap();
        file.cut(9).unwrap();
        assert_eq!(content_of(&file), b"abcdef");
        file.cut(2).unwrap();
        file.sync().unwrap();
        assert_eq!(content_of(&file), b"ab");
        file.write_at(b"z", 3).unwrap();
        assert_eq!(content_of(&file), b"ab\0z", "what was cut is gone");
        let reader = disk.open(&path, WriteMode::ReadOnly).unwrap();
        assert!(matches!(reader.cut(0), Err(Error::Io { .. })));
        assert_eq!(content_of(&file), b"ab\0z");
    });
}

#[test]
fn a_reservation_only_makes_a_file_longer() {
    on_both_disks(|disk, directory| {
        let file = disk.create(&directory.join("a"), WriteMode::Buffered).unwrap();
        file.write_at(b"abc", 0).unwrap();
        file.reserve(1).unwrap();
        assert_eq!(content_of(&file), b"abc");
        file.reserve(3 << 20).unwrap();
        let bytes = content_of(&file);
        assert_eq!(bytes.len(), 3 << 20);
        assert_eq!(bytes[..4], *b"abc\0");
    });
}

#[test]
fn a_map_is_private_and_forgets_dropped_pages() {
    on_both_disks(|disk, directory| {
        let file = disk.create(&directory.join("a"), WriteMode::Direct).unwrap();
        file.reserve(3 * BLOCK_BYTES as u64 + 24).unwrap();
        file.write_at(blocks(5, 3).as_slice(), 0).unwrap();
        let map = file.map().unwrap();
        assert_eq!(map.len(), 3 * BLOCK_BYTES as u64 + 24);

        let pattern = (0..1040_u32).map(|byte| u8::try_from(byte % 251).unwrap());
        let pattern = pattern.collect::<Vec<_>>();
        map.write(&pattern, BLOCK_BYTES as u64 - 8);
        let mut bytes = vec![0; 1040];
        map.read(&mut bytes, BLOCK_BYTES as u64 - 8);
        assert_eq!(bytes, pattern);
        for length in 0..24 {
            let mut odd = vec![0; length];
            map.read(&mut odd, BLOCK_BYTES as u64);
            assert_eq!(odd, pattern[8..8 + length], "{length} bytes");
        }
        let stored = content_of(&file);
        assert!(stored[..3 * BLOCK_BYTES].iter().all(|byte| *byte == 5), "the map is private");

        // What was written back is what a dropped page shows.
        file.write_at(blocks(6, 1).as_slice(), BLOCK_BYTES as u64).unwrap();
        map.drop_pages(BLOCK_BYTES as u64, 2 * BLOCK_BYTES + 24).unwrap();
        let mut page = vec![0; BLOCK_BYTES];
        map.read(&mut page, BLOCK_BYTES as u64);
        assert_eq!(page, blocks(6, 1).as_slice());
        map.read(&mut bytes[..8], BLOCK_BYTES as u64 - 8);
        assert_eq!(bytes[..8], pattern[..8], "the page before keeps its changes");
    });
}

#[test]
fn words_written_to_a_map_are_those_and_no_others() {
    on_both_disks(|disk, directory| {
        let file = disk.create(&directory.join("a"), WriteMode::Direct).unwrap();
        file.reserve(4 * BLOCK_BYTES as u64).unwrap();
        let map = file.map().unwrap();
        let mut model = vec![0; 2 * BLOCK_BYTES];
        let mut read = model.clone();
        for (round, words) in (0..150).chain([255, 256, 260]).enumerate() {
            let start = round * 8 % 200;
            let bytes = (0..words * 8).map(|at| u8::try_from((at + 31 * round) % 251).unwrap());
            let bytes = bytes.collect::<Vec<_>>();
            map.write(&bytes, start as u64);
            model[start..start + bytes.len()].copy_from_slice(&bytes);
            map.read(&mut read, 0);
            assert!(read == model, "{words} words at {start}");
        }
    });
}

#[test]
fn a_map_of_zeros_looks_at_no_file_and_reaches_none() {
    on_both_disks(|disk, directory| {
        let file = disk.create(&directory.join("a"), WriteMode::Buffered).unwrap();
        file.write_at(blocks(5, 2).as_slice(), 0).unwrap();
        let map = file.map_zeros().unwrap();
        assert_eq!(map.len(), 2 * BLOCK_BYTES as u64);
        map.write(&[7; 16], 8);
        let mut bytes = vec![1; 2 * BLOCK_BYTES];
        map.read(&mut bytes, 0);
        assert_eq!(bytes[8..24], [7; 16]);
        assert!(bytes[24..].iter().all(|byte| *byte == 0));
        assert_eq!(content_of(&file), blocks(5, 2).as_slice());
    });
}

#[test]
fn an_empty_file_has_an_empty_map() {
    on_both_disks(|disk, directory| {
        let file = disk.create(&directory.join("a"), WriteMode::Buffered).unwrap();
        assert!(file.is_empty().unwrap());
        let map = file.map().unwrap();
        assert!(map.is_empty());
        map.read(&mut [], 0);
    });
}

#[test]
#[should_panic(expected = "beyond the map")]
fn a_read_beyond_the_map_is_a_bug() {
    let disk = SimDisk::new(1);
    disk.write_file(Path::new("/a"), &[0; 32]);
    let map = disk.open(Path::new("/a"), WriteMode::Buffered).unwrap().map().unwrap();
    map.read(&mut [0; 16], 24);
}

#[test]
#[should_panic(expected = "a map is written in words")]
fn a_map_is_written_in_words() {
    let disk = SimDisk::new(1);
    disk.write_file(Path::new("/a"), &[0; 32]);
    let map = disk.open(Path::new("/a"), WriteMode::Buffered).unwrap().map().unwrap();
    map.write(&[0; 12], 0);
}

#[test]
#[should_panic(expected = "bytes in a direct write")]
fn a_direct_write_of_part_of_a_block_is_a_bug_on_the_real_disk_too() {
    let temporary = tempfile::tempdir().unwrap();
    let file = RealDisk::new().create(&temporary.path().join("a"), WriteMode::Direct).unwrap();
    file.write_at(&blocks(0, 1).as_slice()[..512], 0).unwrap();
}

#[test]
fn writes_through_a_file_without_permission_are_refused() {
    on_both_disks(|disk, directory| {
        let path = directory.join("a");
        disk.create(&path, WriteMode::Buffered).unwrap().write_at(b"old", 0).unwrap();
        let file = disk.open(&path, WriteMode::ReadOnly).unwrap();
        assert!(matches!(file.write_at(b"new", 0), Err(Error::Io { .. })));
        assert_eq!(content_of(&file), b"old");
    });
}

#[test]
fn a_failed_write_poisons_a_real_file() {
    // The device that is always full.
    let path = PathBuf::from("/dev/full");
    let file = RealDisk::new().open(&path, WriteMode::Buffered).unwrap();
    assert!(matches!(file.write_at(b"slot", 0), Err(Error::NoSpace { .. })));
    assert!(matches!(file.write_at(b"slot", 0), Err(Error::Poisoned { .. })));
    assert!(matches!(file.sync(), Err(Error::Poisoned { .. })));
    assert!(matches!(file.reserve(1), Err(Error::Poisoned { .. })));
}

#[test]
fn a_file_system_without_space_refuses_a_reservation_and_keeps_the_file() {
    let temporary = tempfile::tempdir().unwrap();
    let file = RealDisk::new().create(&temporary.path().join("a"), WriteMode::Buffered).unwrap();
    file.write_at(b"abc", 0).unwrap();
    // 2^42 bytes: within what a file may have, beyond what a machine that runs tests has.
    let error = file.reserve(1 << 42).unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error:?}");
    assert_eq!(content_of(&file), b"abc");
    file.write_at(b"abcd", 0).unwrap();
    file.sync().unwrap();
}

#[test]
fn a_file_system_in_memory_serves_the_direct_modes() {
    let memory = Path::new("/dev/shm");
    if !RealDisk::new().exists(memory).unwrap() {
        return;
    }
    let temporary = tempfile::tempdir_in(memory).unwrap();
    for mode in MODES {
        let path = temporary.path().join(format!("{mode:?}"));
        let file = RealDisk::new().create(&path, mode).unwrap();
        file.write_at(blocks(3, 2).as_slice(), 0).unwrap();
        file.sync().unwrap();
        assert_eq!(content_of(&file), blocks(3, 2).as_slice());
    }
}
