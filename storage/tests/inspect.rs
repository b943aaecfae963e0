//! What `inspect` prints of each kind of file, whole and damaged.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use diskstore_storage::disk::{BLOCK_BYTES, Disk, SimDisk};
use diskstore_storage::identity::{self, Identity, MachineKind, Standing};
use diskstore_storage::slots::{DATA_OFFSET, DOUBLE_FILE, SLOTS_FILE};
use diskstore_storage::wal::{Entry, EntryKind, Nonces, Options, Wal};
use diskstore_storage::{Error, LogId, MemberId, Result, Term, Vote, inspect};

const SLOTS_V2: &str = include_str!("../compat/v2/slots.dat.hex");
const DOUBLE_V2: &str = include_str!("../compat/v2/double.dat.hex");

fn path(name: &str) -> PathBuf {
    Path::new("/data").join(name)
}

fn text_of(disk: &SimDisk, path: &Path) -> Result<String> {
    let before = disk.operation_count();
    let mut text = String::new();
    let result = inspect(disk, path, &mut text);
    assert_eq!(disk.operation_count(), before, "inspect changed the disk");
    result.map(|()| text)
}

/// A file of `compat/`: its size, then offset and bytes of every line that is not all zeros.
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

fn slots_of_version_1() -> SimDisk {
    let disk = SimDisk::new(1);
    disk.write_file(&path(SLOTS_FILE), &from_text(SLOTS_V2));
    disk.write_file(&path(DOUBLE_FILE), &from_text(DOUBLE_V2));
    disk
}

fn log_id(index: u64) -> LogId {
    LogId { term: Term::new(2), index }
}

/// A log of three batches in one segment.
fn log() -> (SimDisk, PathBuf) {
    let disk = SimDisk::new(1);
    disk.create_dir_all(&path("tmp")).unwrap();
    let options = Options { segment_bytes: 64 << 10, ..Options::new(Nonces::counted()) };
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let (wal, _) = Wal::open(shared, &path("wal"), &path("tmp"), &options).unwrap();
    let sync = |wal: &Wal| wal.write(wal.seal().unwrap()).unwrap();
    wal.save_vote(Vote { term: Term::new(2), node_id: MemberId::new(7), committed: true });
    sync(&wal);
    let payload = Bytes::from_static(b"hello");
    let entry = |index| Entry {
        log_id: log_id(index),
        kind: EntryKind::Normal,
        payload: payload.clone().into(),
    };
    wal.append((0..3).map(entry)).unwrap();
    sync(&wal);
    wal.save_committed(log_id(1));
    wal.truncate_after(Some(log_id(1)));
    wal.purge(log_id(0));
    sync(&wal);
    let segment = disk.paths().into_iter().find(|path| path.starts_with("/data/wal")).unwrap();
    (disk, segment)
}

#[test]
fn an_identity_is_printed() {
    let disk = SimDisk::new(1);
    let directory = Path::new("/data");
    drop(identity::open_directory(&disk, directory).unwrap());
    let identity = Identity {
        standing: Standing::Member,
        cluster_id: 0xc1,
        member_id: 7,
        name: "node0".to_owned(),
        slot_count: 1 << 20,
        value_bytes: 1024,
        machine: MachineKind::Slots,
    };
    identity::write(&disk, directory, &identity).unwrap();
    let expected = "file /data/IDENTITY, 71 bytes
identity, version 2
cluster id 000000000000000000000000000000c1
standing Member
member id 0000000000000007
name \"node0\"
1048576 slots of 1024 bytes
machine Slots
";
    assert_eq!(text_of(&disk, &path(identity::IDENTITY_NAME)).unwrap(), expected);
}

#[test]
fn a_segment_is_printed_with_its_records() {
    let (disk, segment) = log();
    let text = text_of(&disk, &segment).unwrap();
    let lines = text.lines().collect::<Vec<_>>();
    let expected = [
        "begins the log",
        "byte 4096: batch 1, 4096 bytes, 1 records, claims batch 0",
        "  vote for member 0000000000000007 in term 2, committed",
        "byte 8192: batch 2, 4096 bytes, 3 records, claims batch 1",
        "  entry 2-0, Normal, 5 bytes",
        "  entry 2-1, Normal, 5 bytes",
        "  entry 2-2, Normal, 5 bytes",
        "byte 12288: batch 3, 4096 bytes, 3 records, claims batch 2",
        "  truncate after 2-1",
        "  purge up to 2-0",
        "  committed 2-1",
        "3 whole batches",
        "no batch 4 at byte 16384: the end, as this file has it",
    ];
    let begin = lines.iter().position(|line| *line == expected[0]).unwrap();
    assert_eq!(lines[begin..], expected, "{text}");
}

#[test]
fn a_damaged_batch_of_a_segment_is_told_from_its_end() {
    let (disk, segment) = log();
    disk.flip_bit(&segment, 2 * BLOCK_BYTES as u64 + 100, 3).unwrap();
    let text = text_of(&disk, &segment).unwrap();
    let expected = "DAMAGED: batch 2 at byte 8192, which the batch at byte 12288 claims";
    assert_eq!(text.lines().last(), Some(expected));

    let (disk, segment) = log();
    disk.flip_bit(&segment, 3 * BLOCK_BYTES as u64 + 100, 3).unwrap();
    let text = text_of(&disk, &segment).unwrap();
    assert!(text.ends_with("no batch 3 at byte 12288: the end, as this file has it\n"), "{text}");
}

#[test]
fn a_prepared_segment_is_told_from_one_that_lost_its_header() {
    let (disk, segment) = log();
    let mut bytes = disk.read_file(&segment).unwrap();
    bytes[..BLOCK_BYTES].fill(0);
    disk.write_file(&segment, &bytes);
    let text = text_of(&disk, &segment).unwrap();
    let expected = "segment 1: DAMAGED: no header, but a batch was written at byte 4096";
    assert_eq!(text.lines().last(), Some(expected));

    bytes.fill(0);
    disk.write_file(&segment, &bytes);
    let text = text_of(&disk, &segment).unwrap();
    assert_eq!(text.lines().last(), Some("segment 1: prepared, not used yet"));

    disk.write_file(&path("zeros"), &bytes);
    assert!(matches!(text_of(&disk, &path("zeros")), Err(Error::Foreign { .. })));
}

#[test]
fn a_data_file_is_printed_with_its_slots() {
    let disk = slots_of_version_1();
    let expected = "file /data/slots.dat, 270336 bytes
data file, version 2, superblock 3
cluster id 000000000000000000000000000000c1
5 slots of 1024 bytes
checkpoint 1-5
readable from index 5
membership of 1-1, 13 bytes
slot 0: index 2, 4 bytes
slot 1: index 3, 0 bytes
slot 3: index 4, 300 bytes
3 slots live, 0 deleted, 2 never written, 0 damaged
";
    assert_eq!(text_of(&disk, &path(SLOTS_FILE)).unwrap(), expected);
}

#[test]
fn a_damaged_slot_and_superblock_copy_are_shown() {
    let disk = slots_of_version_1();
    disk.flip_bit(&path(SLOTS_FILE), 20, 0).unwrap();
    disk.flip_bit(&path(SLOTS_FILE), DATA_OFFSET + 16, 0).unwrap();
    let text = text_of(&disk, &path(SLOTS_FILE)).unwrap();
    assert!(text.contains("\nsuperblock copy 0 is older or damaged\n"), "{text}");
    assert!(text.contains("\nslot 0: DAMAGED\n"), "{text}");
    assert!(text.ends_with("2 slots live, 0 deleted, 2 never written, 1 damaged\n"), "{text}");
}

#[test]
fn a_double_write_file_is_printed_by_the_geometry_beside_it() {
    let disk = slots_of_version_1();
    let text = text_of(&disk, &path(DOUBLE_FILE)).unwrap();
    assert!(text.contains("\ndouble write file, round 2, whole\n"), "{text}");
    assert!(text.ends_with("\n2 pages\npages 0 to 1\n"), "{text}");
    disk.flip_bit(&path(DOUBLE_FILE), 36_864, 0).unwrap();
    let text = text_of(&disk, &path(DOUBLE_FILE)).unwrap();
    assert!(text.ends_with("\ndouble write file, the round was cut off\n"), "{text}");
    disk.remove(&path(SLOTS_FILE)).unwrap();
    assert!(matches!(text_of(&disk, &path(DOUBLE_FILE)), Err(Error::Missing { .. })));
    disk.write_file(&path(DOUBLE_FILE), &[0; BLOCK_BYTES]);
    let text = text_of(&disk, &path(DOUBLE_FILE)).unwrap();
    assert!(text.ends_with("\ndouble write file: prepared, not used yet\n"), "{text}");
}

#[test]
fn any_flipped_bit_and_any_cut_gives_text_or_an_error() {
    let (disk, segment) = log();
    let slots = slots_of_version_1();
    let files = [(&disk, segment), (&slots, path(SLOTS_FILE)), (&slots, path(DOUBLE_FILE))];
    for (disk, path) in files {
        let bytes = disk.read_file(&path).unwrap().len() as u64;
        for step in 0..400 {
            let damaged = disk.copy();
            // Densely at the head, thinly behind it.
            let offset = if step < 200 { step } else { (step - 200) * bytes / 200 };
            damaged.flip_bit(&path, offset, u8::try_from(step % 8).unwrap()).unwrap();
            let flipped = text_of(&damaged, &path);
            damaged.truncate_file(&path, offset).unwrap();
            let cut = text_of(&damaged, &path);
            for result in [flipped, cut] {
                assert!(!matches!(result, Err(Error::Poisoned { .. })), "{result:?}");
            }
        }
    }
}
