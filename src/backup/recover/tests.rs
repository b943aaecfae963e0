use bytes::{BufMut, Bytes};
use diskstore_storage::Term;
use diskstore_storage::disk::{CrashMode, Disk, SimDisk};
use diskstore_storage::slots::{Geometry, New, SlotImage};
use diskstore_storage::state::Target;
use diskstore_storage::wal::{self, Wal};
use diskstore_storage::{LogIndex, MemberId, Vote};

use super::*;
use crate::cli::Form;
use crate::command::{Command, slot_key};

const OLD: &str = "/old";
const NEW: &str = "/new";
/// The member whose directory is left, and the cluster.
const OWN: u64 = 5;
const CLUSTER: u128 = 7;
/// Applied and on the disk; known to be committed; the last of the log.
const CHECKPOINT: u64 = 5;
const COMMITTED: u64 = 7;
const LAST: u64 = 9;

fn log_id(index: u64) -> LogId {
    LogId { term: Term::new(3), index }
}

/// A membership of members 4, 5 and 6 in its bytes; `voters` of them vote, and all are of this role.
fn membership(voters: &[u64], role: u8) -> Bytes {
    let count = |number: usize| u16::try_from(number).unwrap();
    let mut out = Vec::new();
    out.put_u16_le(1);
    out.put_u16_le(count(voters.len()));
    for id in voters {
        out.put_u64_le(*id);
    }
    out.put_u16_le(3);
    for id in 4..7_u64 {
        out.put_u64_le(id);
        for text in [format!("node{id}"), format!("h{id}:12000"), format!("h{id}:11000")] {
            out.put_u16_le(count(text.len()));
            out.put_slice(text.as_bytes());
        }
        out.put_u8(role);
    }
    out.into()
}

fn set(index: u64, slot: u64, value: &str) -> Entry {
    let command = Command::set(&slot_key(slot), value.as_bytes()).unwrap();
    Entry {
        log_id: log_id(index),
        kind: EntryKind::Normal,
        payload: command.bytes().clone().into(),
    }
}

fn members_entry(index: u64, body: Bytes) -> Entry {
    Entry { log_id: log_id(index), kind: EntryKind::Membership, payload: body.into() }
}

/// The log of the member. Slot 1 is set by entries 1, 6 and 8, slot 2 by 2, slot 3 by 7 and 9.
fn log(members: &Bytes) -> Vec<Entry> {
    vec![
        members_entry(0, members.clone()),
        set(1, 1, "one"),
        set(2, 2, "two"),
        set(3, 4, "four"),
        set(4, 5, "five"),
        set(5, 5, "FIVE"),
        set(6, 1, "ONE"),
        set(7, 3, "three"),
        set(8, 1, "late"),
        set(9, 3, "last"),
    ]
}

fn wal_options() -> wal::Options {
    let options = wal::Options::new(wal::Nonces::counted());
    wal::Options { segment_bytes: wal::SEGMENT_BYTES_MIN, ..options }
}

fn make_log(disk: &SimDisk, entries: Vec<Entry>) {
    let (folder, aside) = (Path::new("/old/wal"), Path::new("/old/tmp"));
    let (wal, _) = Wal::open(Arc::new(disk.clone()), folder, aside, &wal_options()).unwrap();
    wal.save_vote(Vote { term: Term::new(4), node_id: MemberId::new(6), committed: false });
    wal.append(entries).unwrap();
    wal.save_committed(log_id(COMMITTED));
    wal.barrier();
    while let Some(batch) = wal.seal() {
        wal.write(batch).unwrap();
    }
}

fn identity(machine: MachineKind) -> Identity {
    Identity {
        standing: Standing::Member,
        cluster_id: CLUSTER,
        member_id: OWN,
        name: "node5".to_owned(),
        slot_count: if machine == MachineKind::Slots { 16 } else { 0 },
        value_bytes: 32,
        machine,
    }
}

/// Applies what the checkpoint has, and makes it.
fn checkpoint(machine: &Machine, entries: &[Entry]) {
    for entry in entries.iter().filter(|entry| entry.log_id.index <= CHECKPOINT) {
        apply(machine, entry).unwrap();
    }
    let body = entries[0].payload.bytes().clone();
    let membership = Membership { log_id: Some(log_id(0)), body };
    let target = Target { log_id: log_id(CHECKPOINT), membership, requests_crc: 0 };
    machine.checkpoint(target, &mut || Ok(()), &false.into()).unwrap();
}

fn slots_machine(disk: &SimDisk) -> Machine {
    let geometry = Geometry::new(16, 32).unwrap();
    let new = New { geometry, cluster_id: CLUSTER, options: slots::Options::new(1 << 20) };
    let slots = Slots::create(disk, Path::new(OLD), new, &mut |_, _| {}).unwrap();
    Machine::Slots(DiskMachine::new(Arc::new(slots)))
}

/// A disk with the directory of a member that votes, and these entries in its log.
fn disk_with(entries: Vec<Entry>) -> SimDisk {
    let disk = SimDisk::new(1);
    drop(identity::open_directory(&disk, Path::new(OLD)).unwrap());
    checkpoint(&slots_machine(&disk), &entries);
    make_log(&disk, entries);
    identity::write(&disk, Path::new(OLD), &identity(MachineKind::Slots)).unwrap();
    disk
}

fn disk() -> SimDisk {
    disk_with(log(&membership(&[4, 5, 6], 0)))
}

fn host(disk: &SimDisk) -> Host {
    Host { disk: Arc::new(disk.clone()), ..Host::real() }
}

fn flags(program: &str) -> RecoverFlags {
    RecoverFlags {
        data: OLD.into(),
        is_unsafe: true,
        out: Some(NEW.into()),
        committed: false,
        program: program.to_owned(),
        form: Form::default(),
    }
}

fn open(disk: &SimDisk) -> Result<Survivor, ArchiveError> {
    Survivor::open(&host(disk), &flags("diskstore"))
}

fn remade(disk: &SimDisk, upto: Upto) -> Result<Remade, ArchiveError> {
    let survivor = open(disk)?;
    drop(survivor.survey(None));
    survivor.remake(Path::new(NEW), upto)
}

/// Slots 1 to 5 of the new directory: their versions and what they hold; `None` of a damaged one.
fn new_slots(disk: &SimDisk) -> Vec<Option<(u64, String)>> {
    let (slots, _) = Slots::open(disk, Path::new(NEW), slots::Options::new(1 << 20)).unwrap();
    let read = |slot| {
        let found = slots.read(slot).ok()?;
        let value = found.value.unwrap_or_default();
        Some((found.index, String::from_utf8(value.to_vec()).unwrap()))
    };
    (1..6).map(read).collect()
}

fn slot(index: u64, value: &str) -> (u64, String) {
    (index, value.to_owned())
}

fn of_last() -> Vec<Option<(u64, String)>> {
    let slots =
        [slot(8, "late"), slot(2, "two"), slot(9, "last"), slot(3, "four"), slot(5, "FIVE")];
    slots.map(Some).to_vec()
}

/// The new directory is that of a node that founds a cluster of its own, above every version.
fn check_new(disk: &SimDisk, index: u64) {
    let new = identity::read(disk, Path::new(NEW)).unwrap().unwrap();
    assert_eq!((new.standing, new.name.as_str()), (Standing::Founding, "node5"));
    assert_ne!(new.cluster_id, CLUSTER, "members of the old cluster are strangers");
    assert_ne!(new.member_id, OWN);
    let (slots, _) = Slots::open(disk, Path::new(NEW), slots::Options::new(1 << 20)).unwrap();
    let superblock = slots.superblock();
    assert_eq!(superblock.cluster_id, new.cluster_id);
    assert_eq!(superblock.checkpoint.unwrap().index, index + (1 << 40));
    assert_eq!(superblock.membership, Membership::default());
    let (wal, _) = StoppedWal::open(disk, Path::new("/new/wal")).unwrap();
    let state = wal.state();
    assert_eq!((state.purged, state.last), (superblock.checkpoint, superblock.checkpoint));
}

#[test]
fn a_directory_is_surveyed_and_not_touched() {
    let disk = disk();
    let (before, paths) = (disk.operation_count(), disk.paths());
    let survey = open(&disk).unwrap().survey(None);
    assert_eq!(
        (survey.role, survey.term, survey.last, survey.last_term, survey.committed),
        ("voter", 4, LAST, 3, COMMITTED)
    );
    assert_eq!((survey.uncertain, survey.live, survey.refusal.as_deref()), (2, Some(4), None));
    assert!(survey.damaged_slots.is_empty(), "{survey:?}");
    let names = survey.members.iter().map(|known| (known.id.as_str(), known.votes));
    assert_eq!(names.collect::<Vec<_>>(), [("node4", true), ("node5", true), ("node6", true)]);
    let words = survey.words();
    for said in ["entries 8 to 9 (2) may never", "everything behind entry 9 is lost", "h6:12000"] {
        assert!(words.contains(said), "{words}");
    }
    assert_eq!((disk.operation_count(), disk.paths()), (before, paths), "it was only looked at");
}

#[test]
fn a_new_cluster_has_all_entries_or_those_known_to_be_committed() {
    let disk = disk();
    let made = remade(&disk, Upto::Last).unwrap();
    assert_eq!((made.index, made.live, made.uncertain), (LAST, 5, 2));
    assert_eq!(new_slots(&disk), of_last());
    check_new(&disk, LAST);
    let disk = self::disk();
    let made = remade(&disk, Upto::Committed).unwrap();
    assert_eq!((made.index, made.uncertain), (COMMITTED, 0));
    let mut expected = of_last();
    (expected[0], expected[2]) = (Some(slot(6, "ONE")), Some(slot(7, "three")));
    assert_eq!(new_slots(&disk), expected);
    check_new(&disk, COMMITTED);
}

#[test]
fn keys_of_kvstore_are_recovered_too() {
    let disk = SimDisk::new(1);
    drop(identity::open_directory(&disk, Path::new(OLD)).unwrap());
    let options = keys::Options::new(1 << 20);
    let new = keys::New { cluster_id: CLUSTER, value_bytes: 32, options };
    let keys = Keys::create(Arc::new(disk.clone()), Path::new(OLD), new).unwrap();
    let entries = log(&membership(&[4, 5, 6], 0));
    checkpoint(&Machine::Memory(MemoryMachine::new(Arc::new(keys))), &entries);
    make_log(&disk, entries);
    identity::write(&disk, Path::new(OLD), &identity(MachineKind::Memory)).unwrap();
    let error = open(&disk).unwrap_err();
    assert!(error.to_string().contains("give -program kvstore"), "{error}");
    let survivor = Survivor::open(&host(&disk), &flags("kvstore")).unwrap();
    let made = survivor.remake(Path::new(NEW), Upto::Last).unwrap();
    assert_eq!((made.index, made.live), (LAST, 5));
    let keys = Keys::open(Arc::new(disk.clone()), Path::new(NEW), options).unwrap();
    let read = |slot| keys.read(&slot_key(slot));
    assert_eq!((read(1).index, read(1).value), (8, Some(Bytes::from("late"))));
    assert_eq!((read(5).index, read(5).value), (5, Some(Bytes::from("FIVE"))));
    assert_ne!(keys.header().cluster_id, CLUSTER);
}

/// Room in the file of one member is not what the cluster has agreed on.
#[test]
fn a_new_cluster_has_as_many_slots_as_the_old_one() {
    let disk = disk();
    let geometry = Geometry::new(64, 32).unwrap();
    let new = New { geometry, cluster_id: CLUSTER, options: slots::Options::new(1 << 20) };
    Slots::make_room(&disk, Path::new(OLD), &new, &mut |_, _| {}).unwrap();
    assert_eq!(open(&disk).unwrap().survey(None).slots, 16);
    let remade = |disk: &SimDisk, survivor: Survivor| {
        survivor.remake(Path::new(NEW), Upto::Last).unwrap();
        assert_eq!(new_slots(disk), of_last());
        let (slots, _) = Slots::open(disk, Path::new(NEW), slots::Options::new(1 << 20)).unwrap();
        let identity = identity::read(disk, Path::new(NEW)).unwrap().unwrap();
        assert_eq!(slots.geometry().slot_count(), identity.slot_count);
        identity.slot_count
    };
    let grown = disk.copy();
    assert_eq!(remade(&disk, open(&disk).unwrap()), 16);
    let mut survivor = open(&grown).unwrap();
    survivor.members[2].member.slot_count = 32;
    assert_eq!(survivor.survey(None).slots, 32);
    assert_eq!(remade(&grown, survivor), 32);
}

/// A crash leaves the old directory as it was, and of the new one nothing, a directory that is marked,
/// or one that is whole; and a repetition comes to its end.
#[test]
fn a_crash_at_any_operation_leaves_the_old_directory_and_no_half_of_the_new() {
    let whole = disk();
    let before = whole.operation_count();
    remade(&whole, Upto::Last).unwrap();
    let operations = whole.operation_count() - before;
    let survey = open(&whole).unwrap().survey(None);
    let (mut marked, mut finished) = (0, 0);
    for operation in 0..operations {
        for mode in [CrashMode::Lost, CrashMode::Reordered { seed: operation }] {
            let disk = disk();
            disk.crash_at(operation);
            assert!(remade(&disk, Upto::Last).is_err());
            let image = disk.crash(mode);
            assert_eq!(open(&image).unwrap().survey(None), survey, "{operation}, {mode:?}");
            let has = |name: &str| image.exists(&Path::new(NEW).join(name)).unwrap();
            if has(RESTORING_NAME) {
                marked += 1;
            } else if has(IDENTITY_NAME) {
                finished += 1;
                check_new(&image, LAST);
                assert_eq!(new_slots(&image), of_last());
                continue;
            } else {
                assert!(!has("slots.dat") && !has("wal"), "no mark: {operation}, {mode:?}");
            }
            remade(&image, Upto::Last).unwrap();
            check_new(&image, LAST);
            assert_eq!(new_slots(&image), of_last());
        }
    }
    assert!(marked > 50 && finished > 0, "{marked} marked, {finished} finished");
}

/// What the old member could not read is not taken for an empty slot, unless it is set as a whole.
#[test]
fn a_damaged_slot_stays_damaged_until_an_entry_sets_it() {
    let disk = disk();
    let geometry = Geometry::new(16, 32).unwrap();
    // Otherwise the last round is played back over the damage.
    let double = Path::new(OLD).join("double.dat");
    let bytes = disk.read_file(&double).unwrap().len();
    disk.write_file(&double, &vec![0; bytes]);
    for slot in [1, 4, 12] {
        disk.flip_bit(&Path::new(OLD).join("slots.dat"), geometry.offset_of(slot) + 9, 3).unwrap();
    }
    let survivor = open(&disk).unwrap();
    let survey = survivor.survey(None);
    assert_eq!(survey.damaged_slots, [1, 4, 12]);
    assert!(survey.words().contains("3 damaged slots: 1, 4, 12"), "{}", survey.words());
    let made = survivor.remake(Path::new(NEW), Upto::Last).unwrap();
    assert_eq!(made.damaged_slots, [4, 12]);
    let mut expected = of_last();
    expected[3] = None;
    assert_eq!(new_slots(&disk), expected);
}

/// One batch more in the log of the member: it claims the first, and nothing claims it.
fn append(disk: &SimDisk, entry: Entry) {
    let (folder, aside) = (Path::new("/old/wal"), Path::new("/old/tmp"));
    let (wal, _) = Wal::open(Arc::new(disk.clone()), folder, aside, &wal_options()).unwrap();
    wal.append([entry]).unwrap();
    wal.write(wal.seal().unwrap()).unwrap();
}

#[test]
fn an_end_that_was_being_written_is_left_out_and_left_there() {
    let disk = disk();
    append(&disk, set(10, 6, "more"));
    assert_eq!(open(&disk).unwrap().survey(None).last, 10);
    let segment = Path::new("/old/wal/0000000000000001.segment");
    disk.flip_bit(segment, 2 * 4096 + 100, 1).unwrap();
    let torn = disk.read_file(segment).unwrap();
    let survivor = open(&disk).unwrap();
    let survey = survivor.survey(None);
    assert_eq!((survey.last, survey.torn_bytes), (LAST, 4096));
    assert!(survey.words().contains("4096 bytes were being written"), "{}", survey.words());
    assert_eq!(survivor.remake(Path::new(NEW), Upto::Last).unwrap().index, LAST);
    assert_eq!(new_slots(&disk), of_last());
    assert_eq!(disk.read_file(segment).unwrap(), torn);
}

#[test]
fn what_is_no_member_of_a_majority_is_refused() {
    let refused = |entries: Vec<Entry>, reason: &str| {
        let disk = disk_with(entries);
        let survey = open(&disk).unwrap().survey(None);
        let refusal = survey.refusal.clone().unwrap_or_default();
        assert!(refusal.contains(reason), "{refusal}");
        assert!(survey.words().contains("not to be recovered"), "{}", survey.words());
        let error = remade(&disk, Upto::Last).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        assert!(!disk.exists(Path::new(NEW)).unwrap(), "nothing is made");
    };
    refused(log(&membership(&[4, 6], 1)), "a learner");
    refused(log(&membership(&[4, 6], 0)), "a learner"); // a voter to be, that never caught up
    let mut removed = log(&membership(&[4, 5, 6], 0));
    removed[9] = members_entry(9, only(4));
    refused(removed, "removed");
    // A standby has caught up once, and has nobody above it.
    let disk = disk_with(log(&membership(&[4, 6], 2)));
    assert_eq!(remade(&disk, Upto::Last).unwrap().index, LAST);
}

/// A membership of one member.
fn only(id: u64) -> Bytes {
    let mut out = Vec::new();
    out.put_slice(&[1, 0, 1, 0]);
    out.put_u64_le(id);
    out.put_slice(&[1, 0]);
    out.put_u64_le(id);
    out.put_slice(&[1, 0, b'a', 1, 0, b'b', 1, 0, b'c', 0]);
    out.into()
}

#[test]
fn content_of_different_moments_is_refused() {
    let disk = disk();
    {
        let (slots, _) = Slots::open(&disk, Path::new(OLD), slots::Options::new(1 << 20)).unwrap();
        let value = Some(Bytes::from("ahead"));
        let image = SlotImage { slot: SlotIndex::new(9), index: LogIndex::new(8), value };
        slots.merge(&image).unwrap();
        let superblock = slots.superblock();
        let membership = superblock.membership;
        let target = Target { log_id: log_id(CHECKPOINT), membership, requests_crc: 0 };
        slots.checkpoint(target, &mut || Ok(()), &false.into()).unwrap();
    }
    // All entries up to the last make one state of it again, those that are known do not.
    let error = remade(&disk, Upto::Committed).unwrap_err();
    assert!(error.to_string().contains("different moments up to entry 8"), "{error}");
    assert_eq!(remade(&disk, Upto::Last).unwrap().index, LAST);
}

#[test]
fn a_directory_that_is_in_use_or_not_a_members_is_refused() {
    let refused = |disk: &SimDisk, reason: &str| {
        let error = open(disk).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    };
    refused(&SimDisk::new(1), "no node's directory");
    let disk = disk();
    let running = identity::open_directory(&disk, Path::new(OLD)).unwrap();
    refused(&disk, "in use");
    drop(running);
    drop(open(&disk).unwrap());
    for (changed, reason) in [
        (Identity { standing: Standing::Joining, ..identity(MachineKind::Slots) }, "not a member"),
        (identity(MachineKind::Journal), "a logger holds no state"),
        (Identity { cluster_id: 9, ..identity(MachineKind::Slots) }, "of another cluster"),
        (Identity { slot_count: 17, ..identity(MachineKind::Slots) }, "different sizes"),
    ] {
        let disk = disk.copy();
        identity::write(&disk, Path::new(OLD), &changed).unwrap();
        refused(&disk, reason);
    }
    disk.write_file(&Path::new(OLD).join(RESTORING_NAME), b"");
    refused(&disk, "restore was not finished");
}

#[test]
fn damage_of_what_was_acknowledged_is_refused() {
    let disk = disk();
    append(&disk, set(10, 6, "more"));
    assert_eq!(open(&disk).unwrap().survey(None).last, 10);
    disk.flip_bit(Path::new("/old/wal/0000000000000001.segment"), 4096 + 100, 1).unwrap();
    let error = open(&disk).unwrap_err();
    assert!(error.to_string().contains("acknowledged log data is damaged"), "{error}");
}
