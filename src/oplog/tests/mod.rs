mod crash;

use bytes::Bytes;
use diskstore_storage::disk::{OperationKind, RealDisk, SimDisk};

use super::*;
use crate::command::{
    Action, Answer, Body, CommandBuilder, Condition, Operation, Outcome, slot_key,
};

fn real(folder: &Path, id: &str) -> Parts {
    Parts::of_node(Arc::new(RealDisk::new()), folder, id)
}

/// Records one entry that sets slots to a value.
fn record_sets(log: &mut OpLog, index: u64, slots: &[u64], value: &[u8]) {
    let mut builder = CommandBuilder::new();
    for slot in slots {
        let action = Action::Set { value, condition: Condition::Always, answer: Answer::Status };
        builder.push(&Operation { key: &slot_key(*slot), action }).unwrap();
    }
    let outcomes = slots.iter().map(|_| outcome(true, Body::Empty)).collect();
    log.record(
        index,
        &builder.finish(),
        &Reply { index, outcomes, ..Reply::default() },
        &mut |_| None,
    )
    .unwrap();
}

fn outcome(changed: bool, body: Body) -> Outcome {
    Outcome { version: 1, changed, existed: false, body }
}

/// Records one entry with one operation.
fn record_one(log: &mut OpLog, index: u64, action: Action<'_>, outcome: Outcome) {
    let command = Command::single(&Operation { key: &slot_key(7), action }).unwrap();
    let reply = Reply { index, outcomes: [outcome].into_iter().collect(), ..Reply::default() };
    let value = Some(Bytes::from_static(b"whole"));
    let slot =
        if reply.outcomes[0].changed { Versioned { index, value } } else { Versioned::default() };
    log.record(index, &command, &reply, &mut |_| Some(slot.clone())).unwrap();
}

/// Replays one operation on slot 7, which holds what entry `ahead` left.
fn replay_one(log: &mut OpLog, index: u64, action: Action<'_>, ahead: u64, value: Option<&[u8]>) {
    let command = Command::single(&Operation { key: &slot_key(7), action }).unwrap();
    let outcomes = [outcome(false, Body::Empty)].into_iter().collect();
    let slot = Versioned { index: ahead, value: value.map(Bytes::copy_from_slice) };
    let reply = Reply { index, outcomes, ..Reply::default() };
    log.record(index, &command, &reply, &mut |_| Some(slot.clone())).unwrap();
}

/// One file, in its own directory.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn open(&self) -> Result<OpLog, OpLogError> {
        OpLog::open(real(self.0.path(), "n"), KeyForm::Slots, u64::MAX, 0)
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("log-file-n.log")
    }

    fn put(&self, bytes: &[u8]) {
        std::fs::write(self.path(), bytes).unwrap();
    }
}

#[test]
fn a_set_is_recorded_in_the_bytes_of_the_original() {
    let place = Place::new();
    let mut log = place.open().unwrap();
    record_sets(&mut log, 300, &[42], b"hi");
    log.sync().unwrap();
    // Length 13; Id 300; Op SET; Key "42"; Value "hi".
    let expected = b"\0\0\0\x0d\x08\xac\x02\x18\x01\x22\x0242\x2a\x02hi";
    assert_eq!(place.bytes(), expected);
}

#[test]
fn every_kind_of_command_is_recorded_as_get_set_or_delete() {
    let place = Place::new();
    let mut log = place.open().unwrap();
    let delete = Action::Delete { condition: Condition::Always, answer: Answer::Status };
    record_one(&mut log, 1, Action::Get, outcome(false, Body::Value(None)));
    record_one(&mut log, 2, delete, outcome(true, Body::Empty));
    record_one(&mut log, 3, Action::Increment { by: 5 }, outcome(true, Body::Integer(12)));
    record_one(&mut log, 4, Action::Append { value: b"x" }, outcome(true, Body::Integer(5)));
    record_one(&mut log, 5, delete, outcome(false, Body::Empty));
    log.sync().unwrap();
    let mut expected = Vec::new();
    let kinds: [(RecordKind, &[u8]); 4] = [
        (RecordKind::Get, b""),
        (RecordKind::Delete, b""),
        (RecordKind::Set, b"12"),
        (RecordKind::Set, b"whole"),
    ];
    for (index, (kind, value)) in (1..).zip(kinds) {
        Record { index, mark: Mark::None, kind, key: b"7", value }.encode(&mut expected);
    }
    assert_eq!(place.bytes(), expected);
    assert_eq!(log.last_index(), 5);
}

/// I6 of `oplog/mod.rs`: the crash came between the slot's page and the record.
#[test]
fn an_entry_whose_slot_is_ahead_is_recorded_from_the_slot_or_the_command() {
    let place = Place::new();
    let mut log = place.open().unwrap();
    let answer = Answer::Status;
    let set = |condition| Action::Set { value: b"own", condition, answer };
    replay_one(&mut log, 1, Action::Append { value: b"x" }, 1, Some(b"exact"));
    replay_one(&mut log, 2, set(Condition::IfAbsent), 1, Some(b"unmet: the slot is older"));
    replay_one(&mut log, 3, Action::Increment { by: 1 }, 8, Some(b"later"));
    replay_one(&mut log, 4, set(Condition::Always), 8, Some(b"later"));
    replay_one(&mut log, 5, Action::Delete { condition: Condition::Always, answer }, 8, Some(b"l"));
    replay_one(&mut log, 6, set(Condition::Always), 8, None);
    replay_one(&mut log, 7, Action::Increment { by: 1 }, 8, None);
    log.sync().unwrap();
    let mut expected = Vec::new();
    let records: [(u64, RecordKind, &[u8]); 6] = [
        (1, RecordKind::Set, b"exact"),
        (3, RecordKind::Set, b"later"),
        (4, RecordKind::Set, b"own"),
        (5, RecordKind::Delete, b""),
        (6, RecordKind::Set, b"own"),
        (7, RecordKind::Delete, b""),
    ];
    for (index, kind, value) in records {
        Record { index, mark: Mark::None, kind, key: b"7", value }.encode(&mut expected);
    }
    assert_eq!(place.bytes(), expected);
}

/// The first of these did nothing although its slot holds this entry: the second wrote it.
#[test]
fn an_operation_that_did_nothing_is_not_taken_for_one_whose_slot_is_ahead() {
    let place = Place::new();
    let mut log = place.open().unwrap();
    let mut builder = CommandBuilder::new();
    for action in [
        Action::Set { value: b"a", condition: Condition::IfAbsent, answer: Answer::Status },
        Action::Increment { by: 1 },
    ] {
        builder.push(&Operation { key: &slot_key(7), action }).unwrap();
    }
    let outcomes = [outcome(false, Body::Empty), outcome(true, Body::Integer(3))];
    let reply = Reply { index: 4, outcomes: outcomes.into_iter().collect(), ..Reply::default() };
    let slot = Versioned { index: 4, value: Some(Bytes::from_static(b"3")) };
    log.record(4, &builder.finish(), &reply, &mut |_| Some(slot.clone())).unwrap();
    log.sync().unwrap();
    let mut expected = Vec::new();
    Record { index: 4, mark: Mark::None, kind: RecordKind::Set, key: b"7", value: b"3" }
        .encode(&mut expected);
    assert_eq!(place.bytes(), expected);
}

#[test]
fn entries_in_the_file_are_not_recorded_again_after_a_restart() {
    let place = Place::new();
    let mut log = place.open().unwrap();
    record_sets(&mut log, 5, &[1], b"a");
    record_sets(&mut log, 6, &[1], b"b");
    log.sync().unwrap();
    drop(log);
    let before = place.bytes();
    let mut log = place.open().unwrap();
    assert_eq!(log.last_index(), 6);
    record_sets(&mut log, 5, &[1], b"a");
    record_sets(&mut log, 6, &[1], b"b");
    log.sync().unwrap();
    assert_eq!(place.bytes(), before);
    record_sets(&mut log, 7, &[1], b"c");
    log.sync().unwrap();
    assert!(place.bytes().starts_with(&before) && place.bytes().len() > before.len());
}

#[test]
fn a_file_cut_at_any_byte_goes_on_behind_its_last_whole_entry() {
    let place = Place::new();
    let mut log = place.open().unwrap();
    let mut ends = vec![(0, 0)];
    for index in 1..=4 {
        // Entries of one, two, three and four records.
        let slots: Vec<u64> = (0..index).collect();
        record_sets(&mut log, index, &slots, b"value");
        log.sync().unwrap();
        ends.push((place.bytes().len(), index));
    }
    drop(log);
    let whole = place.bytes();
    for cut in 0..=whole.len() {
        place.put(&whole[..cut]);
        let log = place.open().unwrap();
        let (bytes, index) = *ends.iter().rfind(|(bytes, _)| *bytes <= cut).unwrap();
        assert_eq!(log.last_index(), index, "cut at {cut}");
        assert_eq!(place.bytes().len(), bytes, "cut at {cut}");
    }
}

#[test]
fn zeros_behind_the_end_are_cut() {
    let place = Place::new();
    let mut log = place.open().unwrap();
    record_sets(&mut log, 1, &[1], b"a");
    log.sync().unwrap();
    drop(log);
    let whole = place.bytes();
    for zeros in [1, 3, 4, 5, 10_000] {
        let mut longer = whole.clone();
        longer.resize(whole.len() + zeros, 0);
        place.put(&longer);
        assert_eq!(place.open().unwrap().last_index(), 1);
        assert_eq!(place.bytes(), whole);
    }
}

#[test]
fn a_file_that_is_no_application_log_is_refused_and_left_alone() {
    let place = Place::new();
    let falling = b"\0\0\0\x02\x08\x05\0\0\0\x02\x08\x04";
    let samples: [&[u8]; 5] = [
        b"text, not a log at all",
        b"\0\0\0\x02\xff\xffrest",
        b"\0\0\0\x02\x18\x09",
        b"\0\0\0\0\0\0\0\x01",
        falling,
    ];
    for bytes in samples {
        place.put(bytes);
        let error = place.open().unwrap_err();
        assert!(matches!(error, OpLogError::Corrupt { .. }), "{bytes:?}: {error}");
        assert_eq!(place.bytes(), bytes);
    }
}

#[test]
fn a_gap_by_snapshot_is_marked_once() {
    let place = Place::new();
    let mut log = place.open().unwrap();
    record_sets(&mut log, 3, &[1], b"a");
    log.mark_gap(50).unwrap();
    log.mark_gap(50).unwrap();
    log.mark_gap(2).unwrap();
    log.sync().unwrap();
    drop(log);
    let mut gap = Vec::new();
    Record { index: 50, mark: Mark::Gap, kind: RecordKind::Get, key: b"0", value: b"" }
        .encode(&mut gap);
    assert!(place.bytes().ends_with(&gap));
    assert_eq!(place.bytes().windows(3).filter(|bytes| bytes == b"gap").count(), 1);
    assert_eq!(place.open().unwrap().last_index(), 50);
}

#[test]
fn a_second_writer_is_refused() {
    let place = Place::new();
    let _first = place.open().unwrap();
    assert!(matches!(place.open().unwrap_err(), OpLogError::Locked { .. }));
}

#[test]
fn after_a_failed_write_nothing_is_written_any_more() {
    let disk = SimDisk::new(1);
    let parts = Parts::of_node(Arc::new(disk.clone()), Path::new("/logs"), "n");
    let mut log = OpLog::open(parts, KeyForm::Slots, u64::MAX, 0).unwrap();
    record_sets(&mut log, 1, &[1], b"a");
    disk.fail_next(OperationKind::Write, "/log-file-n.log", 5);
    assert!(matches!(log.sync().unwrap_err(), OpLogError::Io { operation: "write", .. }));
    let count = disk.operation_count();
    record_sets(&mut log, 2, &[1], b"b");
    assert!(matches!(log.sync().unwrap_err(), OpLogError::Poisoned { .. }));
    assert_eq!(disk.operation_count(), count);
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let place = Place::new();
    place.put(b"");
    let error = OpLog::open(real(&place.path(), "n"), KeyForm::Slots, u64::MAX, 0).unwrap_err();
    assert!(error.to_string().contains("log-file-n.log failed"), "{error}");
}

#[test]
fn records_survive_garbage() {
    let mut state = 1_u64;
    for _ in 0..100_000 {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bytes = state.to_le_bytes();
        let length = usize::try_from(state >> 61).unwrap();
        // Whatever comes, it is answered.
        let _record: Option<Record<'_>> = Record::decode(&bytes[..length]);
    }
    assert_eq!(Record::decode(&[0x22, 0xff, 0xff, 0xff, 0xff, 0x0f]), None);
    assert_eq!(Record::decode(&[0x08; 11]), None);
}

#[test]
fn the_log_goes_on_in_the_next_file_between_entries_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let parts = real(folder.path(), "n");
    let whole = Place::new();
    let mut in_one = whole.open().unwrap();
    for index in 1..=60 {
        // A new process for each of them.
        let mut log = OpLog::open(real(folder.path(), "n"), KeyForm::Slots, 100, 0).unwrap();
        assert_eq!(log.last_index(), index - 1);
        for log in [&mut log, &mut in_one] {
            record_sets(log, index, &[1, 2, 3], b"value");
            log.sync().unwrap();
        }
    }
    let count = parts.count().unwrap();
    assert_eq!(count, 30, "two entries of 60 bytes in each");
    let mut joined = Vec::new();
    for nth in 1..=count {
        joined.extend(std::fs::read(parts.path(nth)).unwrap());
    }
    assert_eq!(joined, whole.bytes());
    assert_eq!(indexes(&parts), indexes(&real(whole.0.path(), "n")));
    // A crash may leave a file that was made and never written.
    std::fs::write(parts.path(count + 1), b"").unwrap();
    assert_eq!(
        OpLog::open(real(folder.path(), "n"), KeyForm::Slots, 100, 0).unwrap().last_index(),
        60
    );
    std::fs::remove_file(parts.path(7)).unwrap();
    let error = OpLog::open(real(folder.path(), "n"), KeyForm::Slots, 100, 0).unwrap_err();
    assert!(error.to_string().contains("log-file-n.log.7 is missing"), "{error}");
}

#[test]
fn a_gap_goes_into_the_next_file_too_once_one_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let parts = real(folder.path(), "n");
    let mut log = OpLog::open(real(folder.path(), "n"), KeyForm::Slots, 100, 0).unwrap();
    record_sets(&mut log, 1, &[1], &[b'x'; 100]);
    log.mark_gap(9).unwrap();
    log.sync().unwrap();
    assert_eq!(parts.count().unwrap(), 2);
    assert_eq!(indexes(&parts), [1, 9]);
}

fn indexes(parts: &Parts) -> Vec<u64> {
    let mut records = PartRecords::open(parts, 1).unwrap();
    let mut indexes = Vec::new();
    while let Some(found) = records.next_record().unwrap() {
        indexes.push(found.record.index);
    }
    indexes
}

#[test]
fn names_of_other_nodes_are_no_files_of_this_log() {
    let folder = tempfile::tempdir().unwrap();
    for id in ["n.log", "n.log.2", "n.2"] {
        OpLog::open(real(folder.path(), id), KeyForm::Slots, 100, 0).unwrap();
    }
    for name in ["log-file-n.log.02", "log-file-n.log.x", "log-file-n.log.+2"] {
        std::fs::write(folder.path().join(name), b"").unwrap();
    }
    assert_eq!(real(folder.path(), "n").count().unwrap(), 0);
}

/// A client knows the form, and can write a value that holds whole records, gaps and ends among them.
#[test]
fn values_that_hold_records_are_values_wherever_the_file_ends() {
    let mut forged = Vec::new();
    for (mark, index) in [(Mark::None, 500), (Mark::Gap, 600), (Mark::More, 700), (Mark::End, 800)]
    {
        Record { index, mark, kind: RecordKind::Set, key: b"9", value: b"forged" }
            .encode(&mut forged);
    }
    let place = Place::new();
    let mut log = place.open().unwrap();
    for index in 1..=3 {
        record_sets(&mut log, index, &[7, 8], &forged.repeat(3));
    }
    log.sync().unwrap();
    drop(log);
    let whole = place.bytes();
    for end in 0..whole.len() {
        place.put(&whole[..end]);
        let log = place.open().unwrap();
        assert!(log.last_index() <= 3, "{} of a file that ends at {end}", log.last_index());
        drop(log);
        let kept = place.bytes();
        assert!(whole.starts_with(&kept), "only an unfinished end is cut");
    }
}
