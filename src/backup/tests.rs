use std::sync::Arc;

use bytes::Bytes;
use diskstore_storage::backup::BackupWriter;
use diskstore_storage::disk::{CrashMode, SimDisk};
use diskstore_storage::identity::{self, RESTORING_NAME, Standing};
use diskstore_storage::slots::{self, Options, SlotImage, Slots};
use diskstore_storage::wal::{self, Entry, EntryKind, Wal};
use diskstore_storage::{LogId, LogIndex, SlotIndex, Term};

use super::*;
use crate::command::{Command, Failure, slot_key};
use crate::host::Host;
use crate::machine::{ApplyError, DiskMachine, Machine};

const DIRECTORY: &str = "/node";
const FILE: &str = "/backup";
const NEXT: &str = "/next";

fn header(id: u128, since: u64, begin: u64) -> BackupHeader {
    BackupHeader {
        id,
        cluster_id: 7,
        machine: MachineKind::Slots,
        slot_count: 16,
        value_bytes: 32,
        node: "old".to_owned(),
        begun_ms: 0,
        begin: LogId { term: Term::new(5), index: begin },
        since: LogIndex::new(since),
        base: if since > 0 { id - 1 } else { 0 },
    }
}

fn image(slot: u64, index: u64, value: Option<&'static str>) -> SlotImage {
    let (slot, index) = (SlotIndex::new(slot), LogIndex::new(index));
    SlotImage { slot, index, value: value.map(Bytes::from) }
}

fn entry(index: u64, command: &Command) -> Entry {
    let log_id = LogId { term: Term::new(5), index };
    Entry { log_id, kind: EntryKind::Normal, payload: command.bytes().clone().into() }
}

fn set(slot: u64, value: &str) -> Command {
    Command::set(&slot_key(slot), value.as_bytes()).unwrap()
}

/// A backup of 100 to 103, in which slot 2 is ahead of the begin and slots 1 and 3 are behind; and one
/// that continues it up to 110.
fn disk() -> SimDisk {
    let (mut writer, head) = BackupWriter::begin(&header(1, 0, 100));
    let images = [image(1, 90, Some("old")), image(2, 102, Some("ahead")), image(9, 99, None)];
    let slots = writer.slots(&images).unwrap();
    let entries =
        [entry(101, &set(1, "one")), entry(102, &set(2, "ahead")), entry(103, &set(3, "three"))];
    let entries = writer.entries(&entries).unwrap();
    let disk = SimDisk::new(1);
    disk.write_file(Path::new(FILE), &[head, slots, entries, writer.end().1].concat());
    let (mut writer, head) = BackupWriter::begin(&header(2, 103, 109));
    let slots = writer.slots(&[image(2, 105, None), image(4, 104, Some("four"))]).unwrap();
    let entries = writer.entries(&[entry(110, &set(1, "last"))]).unwrap();
    disk.write_file(Path::new(NEXT), &[head, slots, entries, writer.end().1].concat());
    disk
}

fn order(disk: &SimDisk, files: &[&str], to: u64) -> Order {
    Order {
        host: Host { disk: Arc::new(disk.clone()), ..Host::real() },
        directory: DIRECTORY.into(),
        name: "new".to_owned(),
        files: files.iter().map(PathBuf::from).collect(),
        bytes: 0,
        slot_count: None,
        to,
    }
}

fn has(disk: &SimDisk, name: &str) -> bool {
    disk.exists(&Path::new(DIRECTORY).join(name)).unwrap()
}

/// Slots 1, 2, 3 and 9 of a restored directory, with their versions.
fn slots_of(disk: &SimDisk) -> Vec<(u64, Option<Bytes>)> {
    let (slots, _) = Slots::open(disk, Path::new(DIRECTORY), Options::new(1 << 20)).unwrap();
    let read = |slot| slots.read(slot).unwrap();
    [1, 2, 3, 4, 9].map(read).into_iter().map(|slot| (slot.index, slot.value)).collect()
}

fn of_full() -> Vec<(u64, Option<Bytes>)> {
    let value = |text: &'static str| Some(Bytes::from(text));
    vec![(101, value("one")), (102, value("ahead")), (103, value("three")), (0, None), (99, None)]
}

/// The directory is that of a node that founds a cluster, and its log goes on above every version.
fn check_founding(disk: &SimDisk, index: u64) {
    let identity = identity::read(disk, Path::new(DIRECTORY)).unwrap().unwrap();
    assert_eq!((identity.standing, identity.name.as_str()), (Standing::Founding, "new"));
    assert_ne!(identity.cluster_id, 7, "a cluster of its own");
    let (slots, _) = Slots::open(disk, Path::new(DIRECTORY), Options::new(1 << 20)).unwrap();
    let superblock = slots.superblock();
    assert_eq!(superblock.cluster_id, identity.cluster_id);
    let checkpoint = superblock.checkpoint.unwrap();
    assert_eq!(checkpoint.index, index + (1 << 40));
    assert_eq!(superblock.membership.log_id, None, "whoever starts it is its member");
    let (directory, aside) = (Path::new("/node/wal"), Path::new("/node/tmp"));
    let options = wal::Options::new(wal::Nonces::counted());
    let options = wal::Options { segment_bytes: wal::SEGMENT_BYTES_MIN, ..options };
    let (wal, _) = Wal::open(Arc::new(disk.clone()), directory, aside, &options).unwrap();
    let state = wal.state();
    assert_eq!((state.purged, state.last), (Some(checkpoint), Some(checkpoint)));
    let vote = state.vote.unwrap();
    assert_eq!((vote.node_id.get(), vote.term), (identity.member_id, checkpoint.term));
}

#[test]
fn what_is_restored_is_the_state_of_one_index() {
    let full = disk();
    let restored = restore(&order(&full, &[FILE], 103)).unwrap();
    assert_eq!((restored.index, restored.live), (103, 3));
    assert_eq!(slots_of(&full), of_full());
    check_founding(&full, 103);
    assert!(!has(&full, RESTORING_NAME));
    // Slot 3 is set by entry 103 alone.
    let earlier = disk();
    restore(&order(&earlier, &[FILE], 102)).unwrap();
    assert_eq!(slots_of(&earlier)[2], (0, None));
    check_founding(&earlier, 102);
    let chain = disk();
    restore(&order(&chain, &[FILE, NEXT], 110)).unwrap();
    let value = |text: &'static str| Some(Bytes::from(text));
    let expected = vec![
        (110, value("last")),
        (105, None),
        (103, value("three")),
        (104, value("four")),
        (99, None),
    ];
    assert_eq!(slots_of(&chain), expected);
    check_founding(&chain, 110);
}

#[test]
fn more_slots_than_the_backup_has_can_be_made() {
    let disk = disk();
    restore(&Order { slot_count: Some(64), ..order(&disk, &[FILE], 103) }).unwrap();
    assert_eq!(slots_of(&disk), of_full());
    let identity = identity::read(&disk, Path::new(DIRECTORY)).unwrap().unwrap();
    assert_eq!((identity.slot_count, identity.value_bytes), (64, 32));
}

#[test]
fn a_chain_across_a_growth_has_the_slots_of_its_end() {
    let disk = disk();
    let header = BackupHeader { slot_count: 64, ..header(2, 103, 109) };
    let (mut writer, head) = BackupWriter::begin(&header);
    let slots = writer.slots(&[image(1, 109, Some("later")), image(40, 108, Some("new"))]).unwrap();
    let entries = writer.entries(&[entry(110, &set(63, "last"))]).unwrap();
    disk.write_file(Path::new(NEXT), &[head, slots, entries, writer.end().1].concat());
    restore(&order(&disk, &[FILE, NEXT], 110)).unwrap();
    check_founding(&disk, 110);
    let (slots, _) = Slots::open(&disk, Path::new(DIRECTORY), Options::new(1 << 20)).unwrap();
    assert_eq!(slots.geometry().slot_count(), 64);
    let index = |slot| slots.read(slot).unwrap().index;
    assert_eq!([1, 2, 3, 40, 63].map(index), [109, 102, 103, 108, 110]);
}

/// What was acknowledged is not left out in silence.
#[test]
fn an_entry_for_a_slot_that_is_not_there_is_an_error() {
    let disk = SimDisk::new(1);
    let (mut writer, head) = BackupWriter::begin(&header(1, 0, 100));
    let entries = writer.entries(&[entry(101, &set(1, "one")), entry(102, &set(40, "beyond"))]);
    disk.write_file(Path::new(FILE), &[head, entries.unwrap(), writer.end().1].concat());
    let error = restore(&order(&disk, &[FILE], 102)).unwrap_err();
    assert!(error.to_string().contains("entry 102: a command for a slot that"), "{error}");
    assert!(!has(&disk, identity::IDENTITY_NAME));
    restore(&Order { slot_count: Some(64), ..order(&disk, &[FILE], 102) }).unwrap();
    let (slots, _) = Slots::open(&disk, Path::new(DIRECTORY), Options::new(1 << 20)).unwrap();
    assert_eq!(slots.read(40).unwrap().value, Some(Bytes::from("beyond")));
}

/// A crash leaves nothing, a directory that is marked, or one that is whole; and a repeated restore
/// comes to its end.
#[test]
fn a_crash_at_any_operation_leaves_nothing_that_looks_whole() {
    let whole = disk();
    let before = whole.operation_count();
    restore(&order(&whole, &[FILE], 103)).unwrap();
    let (mut marked, mut finished) = (0, 0);
    for operation in before..whole.operation_count() {
        let modes = [CrashMode::Lost, CrashMode::Reordered { seed: operation }];
        for mode in modes {
            let disk = disk();
            disk.crash_at(operation);
            assert!(restore(&order(&disk, &[FILE], 103)).is_err());
            let image = disk.crash(mode);
            if has(&image, RESTORING_NAME) {
                marked += 1;
            } else if has(&image, identity::IDENTITY_NAME) {
                finished += 1;
                check_founding(&image, 103);
                assert_eq!(slots_of(&image), of_full());
                continue;
            } else {
                for name in ["slots.dat", "wal"] {
                    assert!(!has(&image, name), "{name} without a mark: {operation}, {mode:?}");
                }
            }
            restore(&order(&image, &[FILE], 103)).unwrap();
            check_founding(&image, 103);
            assert_eq!(slots_of(&image), of_full());
        }
    }
    assert!(marked > 50 && finished > 0, "{marked} marked, {finished} finished");
}

#[test]
fn a_full_disk_is_named_and_nothing_is_left() {
    let disk = disk();
    disk.set_space(100_000);
    let error = restore(&order(&disk, &[FILE], 103)).unwrap_err();
    assert!(error.to_string().contains("no space for"), "{error}");
    for name in [RESTORING_NAME, "slots.dat", "slots.dat.new", "double.dat.new", "IDENTITY"] {
        assert!(!has(&disk, name), "{name}");
    }
    disk.set_space(1 << 30);
    restore(&order(&disk, &[FILE], 103)).unwrap();
    check_founding(&disk, 103);
}

#[test]
fn an_index_without_room_above_it_is_refused() {
    let disk = disk();
    let error = restore(&order(&disk, &[FILE], u64::MAX - 1)).unwrap_err();
    assert!(error.to_string().contains("out of range"), "{error}");
    assert!(!has(&disk, "slots.dat"));
}

/// Whoever comes second leaves what the first writes alone, and what it has finished, too.
#[test]
fn two_backups_to_one_file_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    let (path, part) = (folder.path().join("f"), folder.path().join("f.part"));
    let is_taken = || {
        let second = write_file(&path, |_| unreachable!("it must not write"));
        assert!(matches!(second, Err(ArchiveError::Taken { .. })), "{second:?}");
    };
    std::fs::write(&part, "left by one that was interrupted").unwrap();
    let first = write_file(&path, |file| {
        file.write_all(b"first").unwrap();
        is_taken();
        assert_eq!(std::fs::read(&part).unwrap(), b"first");
        std::fs::rename(&part, &path).unwrap(); // as it does in the end
        is_taken();
        Err(ArchiveError::Usage("over".to_owned()))
    });
    assert!(matches!(first, Err(ArchiveError::Usage(_))), "{first:?}");
    assert_eq!(std::fs::read(&path).unwrap(), b"first");
}

/// H31: what stands behind the begin is applied by the ids that were known there, and the restored node
/// knows those of the state that it has.
#[test]
fn requests_that_were_sent_again_are_restored_as_they_were_applied() {
    let once = |id: &[u8], slot| {
        let action = crate::command::Action::Increment { by: 1 };
        let operation = crate::command::Operation { key: &slot_key(slot), action };
        Command::single(&operation).unwrap().with_request_id(id).unwrap()
    };
    let disk = SimDisk::new(1);
    let source = disk_machine(&disk, "/source");
    source.apply(99, &once(b"a", 1)).unwrap();
    let (mut writer, head) = BackupWriter::begin(&header(1, 0, 100));
    let ids = writer.request_ids(&source.request_ids().at(100)).unwrap();
    let slots = writer.slots(&[image(1, 99, Some("1")), image(2, 102, Some("1"))]).unwrap();
    let entries =
        [entry(101, &once(b"a", 1)), entry(102, &once(b"b", 2)), entry(103, &once(b"b", 2))];
    let entries = writer.entries(&entries).unwrap();
    disk.write_file(Path::new(FILE), &[head, ids, slots, entries, writer.end().1].concat());
    restore(&order(&disk, &[FILE], 103)).unwrap();
    let value = |text: &'static str| Some(Bytes::from(text));
    assert_eq!(slots_of(&disk)[..2], [(99, value("1")), (102, value("1"))]);
    let restored = disk_machine(&disk, DIRECTORY);
    let behind = 104 + (1 << 40);
    let reply = restored.apply(behind, &once(b"a", 1)).unwrap();
    assert_eq!((reply.index, reply.is_repeat), (99, true));
    // Slot 2 was ahead of its entry, so what that answered is not known: that it was applied is.
    let ApplyError::NotApplied(failure) = restored.apply(behind, &once(b"b", 2)).unwrap_err()
    else {
        panic!("it is remembered")
    };
    assert!(matches!(failure, Failure::Unknown { index: 102, .. }), "{failure}");
    assert!(!restored.apply(behind, &once(b"c", 1)).unwrap().is_repeat);
}

/// The slots of a directory, with their request ids.
fn disk_machine(disk: &SimDisk, directory: &str) -> Machine {
    let (shared, directory) = (Arc::new(disk.clone()), Path::new(directory));
    let options = Options::new(1 << 20);
    let is_there = disk.exists(&directory.join(slots::SLOTS_FILE)).unwrap();
    let slots = if is_there {
        Slots::open(disk, directory, options).unwrap().0
    } else {
        disk.create_dir_all(directory).unwrap();
        let geometry = slots::Geometry::new(16, 32).unwrap();
        let new = slots::New { geometry, cluster_id: 7, options };
        Slots::create(disk, directory, new, &mut |_, _| {}).unwrap()
    };
    let cluster_id = slots.superblock().cluster_id;
    let machine = Machine::Slots(DiskMachine::new(Arc::new(slots)));
    machine.open_request_ids(shared, directory, cluster_id).unwrap();
    machine
}
