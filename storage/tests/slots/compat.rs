//! Files that version 2 wrote are opened by every later version; `storage/compat/v2` holds them as
//! text: the size, then offset and bytes of every line of 16 that is not all zeros.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use diskstore_storage::disk::{CrashMode, Disk, SimDisk};
use diskstore_storage::slots::{DOUBLE_FILE, DoubleFound, Geometry, Options, SLOTS_FILE, Slots};
use diskstore_storage::state::{Membership, Target};

use crate::script::{CLUSTER, Effect, Entry, apply, content, create, directory, log_id, set};

const LINE_BYTES: usize = 16;

const SLOTS_V2: &str = include_str!("../../compat/v2/slots.dat.hex");
const DOUBLE_V2: &str = include_str!("../../compat/v2/double.dat.hex");

fn to_text(bytes: &[u8]) -> String {
    let mut text = format!("{}\n", bytes.len());
    for (number, line) in bytes.chunks(LINE_BYTES).enumerate() {
        if line.iter().any(|byte| *byte != 0) {
            write!(text, "{:08x}", number * LINE_BYTES).unwrap();
            for byte in line {
                write!(text, " {byte:02x}").unwrap();
            }
            text.push('\n');
        }
    }
    text
}

fn from_text(text: &str) -> Vec<u8> {
    let mut lines = text.lines();
    let mut bytes = vec![0; lines.next().unwrap().parse().unwrap()];
    for line in lines {
        let mut fields = line.split(' ');
        let offset = usize::from_str_radix(fields.next().unwrap(), 16).unwrap();
        for (place, byte) in fields.enumerate() {
            bytes[offset + place] = u8::from_str_radix(byte, 16).unwrap();
        }
    }
    bytes
}

fn path(name: &str) -> PathBuf {
    directory().join(name)
}

/// What version 2 left when its power failed between double write and write in place: slot 3 lies
/// across two pages.
fn written_today() -> SimDisk {
    let disk = SimDisk::new(1);
    disk.create_dir_all(directory()).unwrap();
    let slots = create(&disk, Geometry::new(5, 1024).unwrap(), Options::new(1 << 20)).unwrap();
    set(&slots, 0, 2, b"zero").unwrap();
    set(&slots, 1, 3, b"").unwrap();
    set(&slots, 3, 4, &[b'o'; 300]).unwrap();
    slots.set_readable_from(5).unwrap();
    checkpoint(&slots, 5);
    apply(&slots, 6, &Entry { effects: vec![(0, Effect::Delete)] }).unwrap();
    set(&slots, 3, 7, &[b'n'; 1024]).unwrap();
    let before = disk.operation_count();
    // Double write and sync go through, the first write in place does not.
    disk.crash_at(2);
    let stop = AtomicBool::new(false);
    slots.checkpoint(target(7), &mut || Ok(()), &stop).unwrap_err();
    assert_eq!(disk.operation_count() - before, 3);
    disk.crash(CrashMode::Lost)
}

fn target(index: u64) -> Target {
    let body = Bytes::from_static(b"three members");
    Target {
        log_id: log_id(index),
        membership: Membership { log_id: Some(log_id(1)), body },
        requests_crc: 0,
    }
}

fn checkpoint(slots: &Slots, index: u64) {
    slots.checkpoint(target(index), &mut || Ok(()), &AtomicBool::new(false)).unwrap();
}

#[test]
fn the_bytes_written_today_are_those_of_version_2() {
    let disk = written_today();
    let slots = to_text(&disk.read_file(&path(SLOTS_FILE)).unwrap());
    let double = to_text(&disk.read_file(&path(DOUBLE_FILE)).unwrap());
    assert!(slots == SLOTS_V2, "slots.dat:\n{slots}");
    assert!(double == DOUBLE_V2, "double.dat:\n{double}");
}

#[test]
fn files_of_version_2_are_opened() {
    let disk = SimDisk::new(1);
    disk.write_file(&path(SLOTS_FILE), &from_text(SLOTS_V2));
    disk.write_file(&path(DOUBLE_FILE), &from_text(DOUBLE_V2));
    let (slots, opening) = Slots::open(&disk, directory(), Options::new(1 << 20)).unwrap();
    assert_eq!(opening.superblock_repaired, None);
    assert_eq!(opening.double, DoubleFound::Complete { pages: 2, restored: 2 });
    let superblock = slots.superblock();
    assert_eq!(superblock.geometry, Geometry::new(5, 1024).unwrap());
    assert_eq!(superblock.cluster_id, CLUSTER);
    assert_eq!(superblock.checkpoint, Some(log_id(5)));
    assert_eq!(superblock.membership, target(5).membership);
    assert_eq!(superblock.readable_from, 5);
    let expected = [(0, (6, None)), (1, (3, Some(Vec::new()))), (3, (7, Some(vec![b'n'; 1024])))];
    assert_eq!(content(&slots).unwrap(), expected.into());
}
