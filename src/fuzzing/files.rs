//! Targets of files: those of a node's directory, backups and application logs. See `docs/format.md`.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use diskstore_storage::backup::BackupReader;
use diskstore_storage::disk::{Disk, SimDisk};
use diskstore_storage::keys::{self, Keys, SNAPSHOT_FILE};
use diskstore_storage::slots::{self, DOUBLE_FILE, Geometry, SLOTS_FILE, SUPERBLOCK_STRIDE, Slots};
use diskstore_storage::wal::{Entry, EntryKind, Nonces, Options, SyncMode, Wal};
use diskstore_storage::{Error, LogId, MemberId, Term, Vote, inspect};

use super::split_sealed;
use crate::oplog::{LENGTH_BYTES, Mark, Record, RecordKind};

const BLOCK: usize = 4096;
/// Small, so that an input is short and several segments fit one.
const SEGMENT_BYTES: usize = 8 * BLOCK;
const SEGMENT_COUNT_MAX: usize = 4;
const MEMORY_BYTES_MAX: u64 = 1 << 22;
const CLUSTER: u128 = 7;
const SLOT_COUNT: u64 = 8;
const VALUE_BYTES: u32 = 40;
/// Where the magics, the CRCs and what the CRCs hold are, of which `docs/format.md` speaks.
const VERSION: u32 = 2;
const CRC_OFFSET: usize = 12;

fn directory() -> &'static Path {
    Path::new("/data")
}

/// A disk with the directories of a node.
fn new_disk() -> SimDisk {
    let disk = SimDisk::new(1);
    for name in ["tmp", "wal"] {
        let made = disk.create_dir_all(&directory().join(name));
        made.expect("invariant: a new disk has room");
    }
    disk
}

/// Puts bytes over those at an offset, as far as there is room.
fn put(bytes: &mut [u8], at: usize, over: &[u8]) {
    let count = over.len().min(bytes.len().saturating_sub(at));
    if let (Some(to), Some(from)) = (bytes.get_mut(at..at + count), over.get(..count)) {
        to.copy_from_slice(from);
    }
}

fn number(bytes: &[u8], at: usize) -> usize {
    let four = bytes.get(at..).and_then(|rest| rest.first_chunk().copied());
    four.map_or(0, u32::from_le_bytes) as usize
}

fn crc_of(parts: &[&[u8]]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().to_le_bytes()
}

/// Only damage, an unknown version, another kind of file and the like are found in bytes: not a fault
/// of the disk, which has none.
fn check_refusal(error: &Error) {
    let is_expected = !matches!(error, Error::NoSpace { .. });
    assert!(is_expected, "{error}");
}

// ---- the log

fn wal_options() -> Options {
    let options = Options::new(Nonces::counted());
    Options { sync: SyncMode::Always, segment_bytes: SEGMENT_BYTES as u64, ..options }
}

/// Makes the CRC of the header and of every batch right.
fn seal_segment(segment: &mut [u8]) {
    let end = BLOCK - 4;
    if let Some(crc) = segment.get(..end).map(|header| crc_of(&[header])) {
        put(segment, end, &crc);
    }
    for start in (BLOCK..segment.len()).step_by(BLOCK) {
        let Some(batch) = segment.get_mut(start..) else { return };
        if !batch.starts_with(b"dstbatch") {
            continue;
        }
        let bytes = (64 + number(batch, 32)).next_multiple_of(BLOCK);
        let Some(batch) = batch.get_mut(..bytes) else { continue };
        let crc = crc_of(&[&batch[..40], &batch[44..]]);
        put(batch, 40, &crc);
    }
}

/// Opens the log that the segments of an input make; what one recovery says, the next one says too.
pub(super) fn recover_wal(input: &[u8]) {
    let input = split_sealed(input);
    let disk = new_disk();
    for (nth, bytes) in input.rest.chunks(SEGMENT_BYTES).take(SEGMENT_COUNT_MAX).enumerate() {
        let mut segment = vec![0; SEGMENT_BYTES];
        put(&mut segment, 0, bytes);
        if input.is_sealed {
            seal_segment(&mut segment);
        }
        disk.write_file(&directory().join(format!("wal/{:016x}.segment", nth + 1)), &segment);
    }
    let open = || {
        let disk = Arc::new(disk.clone());
        Wal::open(disk, &directory().join("wal"), &directory().join("tmp"), &wal_options())
    };
    let (wal, _) = match open() {
        Ok(opened) => opened,
        Err(error) => return check_refusal(&error),
    };
    let state = wal.state();
    let last = state.last.map_or(0, |last| last.index);
    let read = |wal: &Wal| wal.read(state.first_index..last.saturating_add(1), 1 << 20);
    let entries = read(&wal);
    drop(wal);
    let (again, _) = open().expect("invariant: a log that was recovered is recovered again");
    assert_eq!(again.state(), state);
    assert_eq!(read(&again).ok(), entries.ok());
}

pub(super) fn segments() -> Vec<Vec<u8>> {
    let disk = new_disk();
    let (wal_at, tmp) = (directory().join("wal"), directory().join("tmp"));
    let (wal, _) = Wal::open(Arc::new(disk.clone()), &wal_at, &tmp, &wal_options())
        .expect("invariant: an empty directory becomes a log");
    let write = || {
        while let Some(batch) = wal.seal() {
            wal.write(batch).expect("invariant: the disk has room");
        }
    };
    wal.save_vote(Vote { term: Term::new(1), node_id: MemberId::new(9), committed: true });
    for index in 0..12 {
        let payload = Bytes::from(vec![u8::try_from(index).unwrap_or(0); 1500]);
        let log_id = LogId { term: Term::new(1 + index / 4), index };
        let entry = Entry { log_id, kind: EntryKind::Normal, payload: payload.into() };
        wal.append([entry]).expect("invariant: entries follow each other");
        write();
    }
    wal.truncate_after(Some(LogId { term: Term::new(3), index: 10 }));
    wal.save_committed(LogId { term: Term::new(3), index: 9 });
    write();
    drop(wal);
    let mut paths = disk.paths();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "segment"));
    let files: Vec<u8> =
        paths.iter().flat_map(|path| disk.read_file(path).unwrap_or_default()).collect();
    let first: Vec<u8> = files.iter().copied().take(SEGMENT_BYTES).collect();
    let mut seeds: Vec<Vec<u8>> = [&files, &first]
        .iter()
        .flat_map(|files| [[&[0], files.as_slice()].concat(), [&[1], files.as_slice()].concat()])
        .collect();
    // A segment that carries a state and says that nothing was before it, found by libFuzzer.
    let mut alone: Vec<u8> = files[files.len() - SEGMENT_BYTES..][..BLOCK].to_vec();
    for (at, number) in [(16, 1_u64), (32, 1), (40, 0), (48, 0)] {
        put(&mut alone, at, &number.to_le_bytes());
    }
    seeds.push([&[1], alone.as_slice()].concat());
    seeds
}

// ---- slots

fn new_slots() -> SimDisk {
    let disk = new_disk();
    let geometry = Geometry::new(SLOT_COUNT, VALUE_BYTES).expect("invariant: a few small slots");
    let options = slots::Options::new(MEMORY_BYTES_MAX);
    let new = slots::New { geometry, cluster_id: CLUSTER, options };
    Slots::create(&disk, directory(), new, &mut |_, _| {}).expect("invariant: the disk has room");
    disk
}

fn seal_superblock(copy: &mut [u8]) {
    put(copy, 0, b"DSTSLOTS");
    put(copy, 8, &VERSION.to_le_bytes());
    let end = 104_usize.saturating_add(number(copy, 96)).min(copy.len());
    let crc = copy.get(16..end).map(|rest| crc_of(&[&copy[..CRC_OFFSET], rest]));
    put(copy, CRC_OFFSET, &crc.unwrap_or_default());
}

fn open_and_read(disk: &SimDisk) {
    let opened = Slots::open(disk, directory(), slots::Options::new(MEMORY_BYTES_MAX));
    let (opened, _) = match opened {
        Ok(opened) => opened,
        Err(error) => return check_refusal(&error),
    };
    for key in 0..opened.geometry().slot_count().min(SLOT_COUNT) {
        if let Err(error) = opened.read(key) {
            check_refusal(&error);
        }
    }
    drop(opened);
    if let Err(error) = inspect(disk, &directory().join(SLOTS_FILE), &mut String::new()) {
        check_refusal(&error);
    }
}

/// Puts the input in the place of the first superblock, or of both.
pub(super) fn decode_superblock(input: &[u8]) {
    let input = split_sealed(input);
    let disk = new_slots();
    let path = directory().join(SLOTS_FILE);
    let mut file = disk.read_file(&path).expect("invariant: it was just made");
    let stride = usize::try_from(SUPERBLOCK_STRIDE).expect("invariant: 128 KiB");
    let copies = if input.choice & 1 == 1 { 1 } else { 2 };
    for copy in file.chunks_mut(stride).take(copies) {
        put(copy, 0, input.rest);
        if input.is_sealed {
            seal_superblock(copy);
        }
    }
    disk.write_file(&path, &file);
    open_and_read(&disk);
}

pub(super) fn superblocks() -> Vec<Vec<u8>> {
    let disk = new_slots();
    let file = disk.read_file(&directory().join(SLOTS_FILE)).unwrap_or_default();
    let head = file.get(..160).unwrap_or_default();
    (0..4).map(|first| [&[first], head].concat()).collect()
}

/// Puts the input in the place of the slots, or of the round that was written last.
pub(super) fn open_slots(input: &[u8]) {
    let input = split_sealed(input);
    let disk = new_slots();
    let (name, at) = match input.choice & 1 {
        0 => (SLOTS_FILE, usize::try_from(2 * SUPERBLOCK_STRIDE).unwrap_or(usize::MAX)),
        _ => (DOUBLE_FILE, 0),
    };
    let path = directory().join(name);
    let mut file = disk.read_file(&path).expect("invariant: it was just made");
    put(&mut file, at, input.rest);
    if input.is_sealed && name == DOUBLE_FILE {
        put(&mut file, 0, b"DSTDOUBL");
        put(&mut file, 8, &VERSION.to_le_bytes());
        put(&mut file, 24, &CLUSTER.to_le_bytes());
        let count = number(&file, 40).min(4096);
        let images = file.get(36_864..(36_864 + count * BLOCK).min(file.len())).unwrap_or_default();
        let crc = crc_of(&[&file[..CRC_OFFSET], &file[16..48 + 8 * count], images]);
        put(&mut file, CRC_OFFSET, &crc);
    } else if input.is_sealed {
        let slot_bytes = (24 + VALUE_BYTES as usize).next_multiple_of(8);
        for key in 0..SLOT_COUNT {
            let start = at + usize::try_from(key).unwrap_or(0) * slot_bytes;
            let Some(slot) = file.get_mut(start..start + slot_bytes) else { break };
            let length = (number(slot, 8) & 0x7fff_ffff).min(VALUE_BYTES as usize);
            let value = &slot[24..24 + length];
            let crc = crc_of(&[&key.to_le_bytes(), &slot[..12], &slot[16..24], value]);
            put(slot, 12, &crc);
        }
    }
    disk.write_file(&path, &file);
    open_and_read(&disk);
}

pub(super) fn slot_areas() -> Vec<Vec<u8>> {
    let mut slot = Vec::new();
    slot.extend(7_u64.to_le_bytes());
    slot.extend((5_u32 | 1 << 31).to_le_bytes());
    slot.extend([0; 12]);
    slot.extend(b"hello");
    let mut round = vec![0; 48];
    put(&mut round, 16, &1_u64.to_le_bytes());
    put(&mut round, 40, &1_u32.to_le_bytes());
    round.extend([0; 8]);
    let mut last = round.clone();
    put(&mut last, 16, &u64::MAX.to_le_bytes()); // a sequence that none follows, found by libFuzzer
    vec![
        [&[3], last.as_slice()].concat(),
        [&[0], slot.as_slice()].concat(),
        [&[1], slot.as_slice()].concat(),
        [&[2], round.as_slice()].concat(),
        [&[3], round.as_slice()].concat(),
    ]
}

// ---- keys

fn seal_snapshot(file: &mut [u8]) {
    put(file, 0, b"DSTSNAPS");
    put(file, 8, &VERSION.to_le_bytes());
    put(file, CRC_OFFSET, &[0; 4]);
    let end = 96_usize.saturating_add(number(file, 88)).min(file.len());
    let header = crc_of(&[&file[..end]]);
    put(file, CRC_OFFSET, &header);
    let mut at = end.next_multiple_of(BLOCK);
    for nth in 0_u64.. {
        let Some(piece) = file.get_mut(at..).filter(|piece| piece.len() >= 20) else { return };
        put(piece, 8, &nth.to_le_bytes());
        let is_end = number(piece, 4) == 0;
        let length = if is_end { 16 } else { number(piece, 0) };
        let Some(records) = piece.get(20..20_usize.saturating_add(length)) else { return };
        let crc = crc_of(&[&header, &piece[..16], records]);
        put(piece, 16, &crc);
        if is_end {
            return;
        }
        at = at.saturating_add(20 + length).next_multiple_of(BLOCK);
    }
}

/// Opens the keys of a snapshot file.
pub(super) fn open_keys(input: &[u8]) {
    let input = split_sealed(input);
    let mut file = input.rest.to_vec();
    if input.is_sealed && file.len() >= 96 {
        seal_snapshot(&mut file);
    }
    let disk = new_disk();
    disk.write_file(&directory().join(SNAPSHOT_FILE), &file);
    let options = keys::Options::new(MEMORY_BYTES_MAX);
    match Keys::open(Arc::new(disk.clone()), directory(), options) {
        Ok(opened) => {
            let page = opened.live_keys(0, 1000);
            for key in &page.found {
                drop(opened.read(key));
            }
        }
        Err(error) => check_refusal(&error),
    }
    if let Err(error) = inspect(&disk, &directory().join(SNAPSHOT_FILE), &mut String::new()) {
        check_refusal(&error);
    }
}

pub(super) fn snapshots() -> Vec<Vec<u8>> {
    let disk = new_disk();
    let options = keys::Options::new(MEMORY_BYTES_MAX);
    let new = keys::New { cluster_id: CLUSTER, value_bytes: VALUE_BYTES, options };
    let made = Keys::create(Arc::new(disk.clone()), directory(), new);
    drop(made.expect("invariant: the disk has room"));
    let mut file = disk.read_file(&directory().join(SNAPSHOT_FILE)).unwrap_or_default();
    let empty = [&[0], file.as_slice()].concat();
    // A piece of one record in front of the end.
    let end = file.split_off(BLOCK.min(file.len()));
    let mut record = Vec::new();
    record.extend(3_u64.to_le_bytes());
    record.extend((5_u32 | 1 << 31).to_le_bytes());
    record.extend(3_u16.to_le_bytes());
    record.extend([0; 10]);
    record.extend(b"keyvalue");
    let mut piece = vec![0; BLOCK];
    put(&mut piece, 0, &u32::try_from(record.len()).unwrap_or(0).to_le_bytes());
    put(&mut piece, 4, &1_u32.to_le_bytes());
    put(&mut piece, 20, &record);
    let mut end = end;
    put(&mut end, 20, &1_u64.to_le_bytes());
    put(&mut end, 28, &3_u64.to_le_bytes());
    vec![empty, [&[1], file.as_slice(), &piece, &end].concat()]
}

// ---- backups

/// Makes the magic and the CRCs right. The header's body is given; pieces are found by their lengths.
fn seal_backup(file: &mut [u8]) {
    put(file, 0, b"DSTBACKP");
    put(file, 8, &1_u32.to_le_bytes());
    let head = 16_usize.saturating_add(number(file, 12));
    let Some(crc) = file.get(..head).map(|head| crc_of(&[head])) else { return };
    put(file, head, &crc);
    let id = file.get(16..32).unwrap_or_default().to_vec();
    let (mut at, mut whole) = (head + 4, Vec::new());
    for nth in 0_u64.. {
        let Some(piece) = file.get_mut(at..).filter(|piece| piece.len() >= 20) else { return };
        put(piece, 8, &nth.to_le_bytes());
        let length = number(piece, 4);
        let Some(body) = piece.get_mut(20..20_usize.saturating_add(length)) else { return };
        if body.len() == 52 {
            let crc = crc_of(&[&whole]);
            put(body, 48, &crc);
        }
        let crc = crc_of(&[&id, &piece[..16], &piece[20..20 + length]]);
        put(piece, 16, &crc);
        whole.extend(crc);
        at += 20 + length;
    }
}

/// Reads a backup to its end.
pub(super) fn read_backup(input: &[u8]) {
    let input = split_sealed(input);
    let mut file = input.rest.to_vec();
    if input.is_sealed {
        seal_backup(&mut file);
    }
    let read = BackupReader::new(Box::new(file.as_slice()), Path::new("backup"));
    match read.and_then(BackupReader::finish) {
        Ok(summary) => assert!(summary.end.last.index >= summary.header.begin.index),
        Err(error) => check_refusal(&error),
    }
}

pub(super) fn backups() -> Vec<Vec<u8>> {
    use diskstore_storage::backup::{BackupHeader, BackupWriter};
    use diskstore_storage::identity::MachineKind;
    let mut files = Vec::new();
    for machine in [MachineKind::Slots, MachineKind::Memory] {
        let header = BackupHeader {
            id: 5,
            cluster_id: CLUSTER,
            machine,
            slot_count: if machine == MachineKind::Slots { SLOT_COUNT } else { 0 },
            value_bytes: VALUE_BYTES,
            node: "node0".to_owned(),
            begun_ms: 1,
            begin: LogId { term: Term::new(2), index: 10 },
            since: diskstore_storage::LogIndex::default(),
            base: 0,
        };
        let (mut writer, mut file) = BackupWriter::begin(&header);
        let mut file_bytes = std::mem::take(&mut file).to_vec();
        let value = Some(Bytes::from_static(b"value"));
        let piece = match machine {
            MachineKind::Slots => writer.slots(&[slots::SlotImage {
                slot: diskstore_storage::SlotIndex::new(3),
                index: diskstore_storage::LogIndex::new(9),
                value,
            }]),
            _ => {
                writer.keys(&[keys::KeyImage { key: Bytes::from_static(b"key"), index: 9, value }])
            }
        };
        file_bytes.extend(piece.unwrap_or_default());
        let log_id = LogId { term: Term::new(2), index: 11 };
        let payload = Bytes::from_static(b"entry");
        let entries =
            writer.entries(&[Entry { log_id, kind: EntryKind::Normal, payload: payload.into() }]);
        file_bytes.extend(entries.unwrap_or_default());
        file_bytes.extend(writer.end().1);
        files.push([&[0], file_bytes.as_slice()].concat());
        files.push([&[1], file_bytes.as_slice()].concat());
    }
    files
}

// ---- small files, and those that `inspect` shows

/// Names of the files that `inspect` tells apart.
const NAMES: &[&str] = &[
    "IDENTITY",
    "FOUNDING",
    "requests-5.dat",
    "double.dat",
    "0000000000000001.segment",
    "slots.dat",
    "snapshot.dat",
    "LOCK",
    "x",
];

/// Shows a file of any kind.
pub(super) fn inspect_file(input: &[u8]) {
    let input = split_sealed(input);
    let name = NAMES.get(usize::from(input.choice) % NAMES.len()).copied().unwrap_or("x");
    let mut file = input.rest.to_vec();
    if input.is_sealed && file.starts_with(b"DSTREQID") {
        let crc = file.get(16..).map(|rest| crc_of(&[&file[..CRC_OFFSET], rest]));
        put(&mut file, CRC_OFFSET, &crc.unwrap_or_default());
    } else if input.is_sealed && file.len() > 4 {
        let end = file.len() - 4; // IDENTITY and FOUNDING end with theirs
        let crc = crc_of(&[&file[..end]]);
        put(&mut file, end, &crc);
    }
    let disk = new_disk();
    let path = directory().join(name);
    disk.write_file(&path, &file);
    if let Err(error) = inspect(&disk, &path, &mut String::new()) {
        check_refusal(&error);
    }
}

pub(super) fn inspected() -> Vec<Vec<u8>> {
    let identity = include_bytes!("../../storage/compat/v2/IDENTITY");
    let mut requests = b"DSTREQID\x01\0\0\0\0\0\0\0".to_vec();
    requests.extend(CLUSTER.to_le_bytes());
    requests.extend([1_u64.to_le_bytes(), 5_u64.to_le_bytes()].concat());
    requests.extend(1_u32.to_le_bytes());
    requests.extend(4_u64.to_le_bytes());
    requests.extend([9; 24]);
    requests.push(255);
    let segments = segments();
    let first = segments.first().map(|it| it.get(1..9000).unwrap_or_default()).unwrap_or_default();
    let files = [(0, &identity[..]), (1, &identity[..]), (2 * 2 + 1, &requests), (4 * 2, first)];
    files.iter().map(|(choice, file)| [&[*choice], *file].concat()).collect()
}

/// Reads a record of the application log, which says the same once it is written again.
pub(super) fn decode_record(input: &[u8]) {
    let Some(record) = Record::decode(input) else { return };
    let mut out = Vec::new();
    record.encode(&mut out);
    let again = out.get(LENGTH_BYTES..).and_then(Record::decode);
    assert_eq!(again.as_ref(), Some(&record));
}

pub(super) fn records() -> Vec<Vec<u8>> {
    let record = |mark, kind| {
        let mut out = Vec::new();
        Record { index: 300, mark, kind, key: b"42", value: b"hello" }.encode(&mut out);
        out.split_off(LENGTH_BYTES)
    };
    vec![record(Mark::None, RecordKind::Set), record(Mark::None, RecordKind::Delete)]
}
