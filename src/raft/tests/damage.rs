//! Slots that are damaged on one replica only: whatever is done to them, replicas never differ with
//! right checksums.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use diskstore_storage::disk::{Disk, RealDisk, SimDisk, WriteMode};
use diskstore_storage::slots::{DOUBLE_FILE, Geometry, New, Options, SLOTS_FILE, Slots};
use diskstore_storage::state::Versioned;
use openraft::storage::RaftLogStorage;

use super::oplog::real;
use super::replay::recover;
use super::transfer::with_slot_2_damaged;
use super::{Place, Stores, blanks, command, increment, log_id, normal, slots_of};
use crate::command::{Action, Answer, Command, Condition, Failure, slot_key};
use crate::machine::{AnyMachine, ApplyError, DiskMachine, Machine};
use crate::oplog::{Found, KeyForm, Mark, OpLog, PartRecords, RecordKind};
use crate::raft::types::committed_from;
use crate::replica::apply_entry;

/// The slot that is damaged on one of the two, and the entry that wrote it last.
const SLOT: u64 = 2;
const VERSION: u64 = 3;

const fn set<'a>(value: &'a [u8], condition: Condition<'a>) -> Action<'a> {
    Action::Set { value, condition, answer: Answer::Status }
}

const fn delete(condition: Condition<'static>) -> Action<'static> {
    Action::Delete { condition, answer: Answer::Status }
}

const SET: Action<'static> = set(b"new", Condition::Always);
const DELETE: Action<'static> = delete(Condition::Always);
/// As EXEC proposes it of a slot that was watched.
const SET_WATCHED: Action<'static> = set(b"new", Condition::IfVersion(VERSION));
const PREVIOUS: Answer = Answer::Previous;

/// What must know what the slot holds: each kind alone, and before a set that must not.
const NEEDS_CONTENT: &[&[Action<'static>]] = &[
    &[DELETE],
    &[delete(Condition::IfPresent)],
    &[delete(Condition::IfVersion(VERSION))],
    &[delete(Condition::IfEqual(b"old"))],
    &[SET_WATCHED],
    &[set(b"new", Condition::IfVersion(0))],
    &[set(b"new", Condition::IfAbsent)],
    &[set(b"new", Condition::IfPresent)],
    &[set(b"new", Condition::IfEqual(b"old"))],
    &[Action::Set { value: b"new", condition: Condition::Always, answer: PREVIOUS }],
    &[set(&[7; 33], Condition::Always)], // longer than a slot: it sets nothing
    &[Action::Increment { by: 1 }],
    &[Action::Append { value: b"x" }],
    &[Action::SetRange { offset: 1, value: b"x" }],
    &[Action::Get],
    &[DELETE, SET],
    &[SET_WATCHED, SET],
    &[Action::Get, SET, DELETE],
    &[set(&[7; 33], Condition::Always), DELETE],
];

/// What begins with a full set.
const BEGINS_ANEW: &[&[Action<'static>]] = &[
    &[SET],
    &[SET, DELETE],
    &[SET, DELETE, set(b"newer", Condition::IfAbsent)],
    &[SET, SET_WATCHED],
    &[SET, Action::Append { value: b"x" }, Action::Get],
    &[set(b"7", Condition::Always), Action::Increment { by: 1 }],
    &[SET, Action::Set { value: b"newer", condition: Condition::IfPresent, answer: PREVIOUS }],
];

/// A replica whose slot holds "old", or whose value was deleted.
async fn replica(disk: &SimDisk, is_live: bool) -> Stores {
    let mut stores = Place::on(disk).open();
    let last = if is_live { set(b"old", Condition::Always) } else { DELETE };
    let first = normal(1, 2, command(&[(SLOT, SET)]));
    let last = normal(1, VERSION, command(&[(SLOT, last)]));
    stores.append([blanks(1, 0..=1), vec![first.clone(), last.clone()]].concat()).await.unwrap();
    stores.apply(vec![first, last]).await.unwrap();
    stores.checkpoint().await;
    stores
}

/// Damages the slot, or heals it again; nobody has looked then.
fn flip(disk: &SimDisk) {
    let place = Place::on(disk);
    let offset = place.open_slots().geometry().offset_of(SLOT);
    disk.flip_bit(&place.directory.join(SLOTS_FILE), offset + 8, 0).unwrap();
    // Otherwise the last round, which holds the whole page, would mend it.
    disk.flip_bit(&place.directory.join(DOUBLE_FILE), 16, 0).unwrap();
}

fn content(stores: &Stores) -> Option<Versioned> {
    slots_of(&stores.replica).read(SLOT).ok()
}

/// What a healthy and a damaged replica hold after an entry, if they can say, and whether the damaged
/// one has applied it.
async fn after(
    actions: &[Action<'_>],
    is_live: bool,
) -> (Option<Versioned>, Option<Versioned>, bool) {
    let (disk, other) = (SimDisk::new(1), SimDisk::new(2));
    let mut healthy = replica(&disk, is_live).await;
    drop(replica(&other, is_live).await);
    let damaged = with_slot_2_damaged(&other);
    let actions: Vec<_> = actions.iter().map(|action| (SLOT, *action)).collect();
    let entry = command(&actions);
    let reply = healthy.replica.machine.apply(4, &entry).unwrap();
    let other_reply = damaged.replica.machine.apply(4, &entry);
    match &other_reply {
        Ok(other_reply) => assert_eq!(&reply, other_reply, "{actions:?}"),
        Err(error) => {
            assert!(matches!(error, ApplyError::Damaged(met) if met.first_slot() == SLOT));
        }
    }
    healthy.apply(blanks(1, [4])).await.unwrap();
    (content(&healthy), content(&damaged), other_reply.is_ok())
}

/// A delete of an absent value changes no version, so it must not write one over damage.
#[tokio::test]
async fn a_member_guesses_nothing_of_what_a_damaged_slot_held() {
    for actions in NEEDS_CONTENT {
        for is_live in [true, false] {
            let (_, damaged, has_applied) = after(actions, is_live).await;
            assert!(!has_applied, "{actions:?}");
            assert_eq!(damaged, None, "it stays damaged: {actions:?}");
        }
    }
}

#[tokio::test]
async fn what_begins_with_a_full_set_mends_a_damaged_slot_and_has_the_same_reply() {
    for actions in BEGINS_ANEW {
        for is_live in [true, false] {
            let (healthy, damaged, has_applied) = after(actions, is_live).await;
            assert!(has_applied, "{actions:?}");
            assert_eq!(healthy, damaged, "{actions:?}");
            assert!(healthy.is_some_and(|slot| slot.index == 4), "{actions:?}");
        }
    }
}

/// A client must not be able to stop members by naming a slot that is damaged there.
#[tokio::test]
async fn an_entry_that_needs_a_damaged_slot_stops_nobody() {
    for actions in NEEDS_CONTENT {
        let disk = SimDisk::new(1);
        drop(replica(&disk, true).await);
        let mut damaged = with_slot_2_damaged(&disk);
        let mut operations = vec![(1, SET)];
        operations.extend(actions.iter().map(|action| (SLOT, *action)));
        operations.push((3, Action::Increment { by: 1 }));
        damaged.apply(vec![normal(1, 4, command(&operations))]).await.unwrap();
        damaged.apply(blanks(1, [5])).await.unwrap();
        assert_eq!(damaged.faults.current(), None, "{actions:?}");
        assert_eq!(damaged.replica.applied_index(), 5);
        assert_eq!(content(&damaged), None, "it stays damaged: {actions:?}");
        assert_eq!(damaged.value(1).as_deref(), Some(&b"new"[..]), "{actions:?}");
        assert_eq!(damaged.value(3).as_deref(), Some(&b"1"[..]), "{actions:?}");
    }
}

/// The entry is in the log of a member that was stopped by it, or that found the damage at a start.
#[tokio::test]
async fn a_replay_goes_on_behind_an_entry_that_needs_a_damaged_slot() {
    for actions in NEEDS_CONTENT {
        let disk = SimDisk::new(1);
        let mut stores = replica(&disk, true).await;
        let operations: Vec<_> = actions.iter().map(|action| (SLOT, *action)).collect();
        let entries = [normal(1, 4, command(&operations)), increment(1, 5, 1)];
        stores.append(entries.to_vec()).await.unwrap();
        stores.log.save_committed(Some(log_id(1, 5))).await.unwrap();
        stores.append(blanks(1, [6])).await.unwrap();
        drop(stores);
        flip(&disk);
        for _ in 0..2 {
            let recovered = recover(&Place::on(&disk));
            assert_eq!(recovered.index(), Some(5), "{actions:?}");
            assert_eq!(recovered.slot(SLOT), None, "{actions:?}");
            assert_eq!(recovered.slot(1).unwrap().value.as_deref(), Some(&b"1"[..]));
        }
    }
}

/// The same on the leader, before there is an entry; what is known is looked at, not every slot.
#[tokio::test]
async fn what_needs_a_slot_known_to_be_damaged_is_refused_and_a_full_set_mends_it() {
    let disk = SimDisk::new(1);
    drop(replica(&disk, true).await);
    let damaged = with_slot_2_damaged(&disk);
    let machine = &damaged.replica.machine;
    let of = |actions: &[Action<'_>]| {
        let before = (1, Action::Increment { by: 1 }); // of a whole slot
        let actions = actions.iter().map(|action| (SLOT, *action));
        command(&[before].into_iter().chain(actions).collect::<Vec<_>>())
    };
    for actions in NEEDS_CONTENT {
        let refused = machine.refusal(&of(actions), &mut BTreeSet::new());
        assert_eq!(refused, Some(Failure::Damaged { slot: SLOT }), "{actions:?}");
    }
    for actions in BEGINS_ANEW {
        assert_eq!(machine.refusal(&of(actions), &mut BTreeSet::new()), None, "{actions:?}");
    }
    let words = Failure::Damaged { slot: SLOT }.to_string();
    assert!(words.contains("slot 2 is damaged") && words.contains("set it, whole"), "{words}");
    assert!(machine.may_refuse());
    machine.apply(4, &of(&[SET])).unwrap();
    assert!(!machine.may_refuse(), "nothing is damaged any more, and nothing is looked at");
    assert_eq!(machine.refusal(&of(&[DELETE]), &mut BTreeSet::new()), None);
    machine.apply(5, &of(&[DELETE])).unwrap();
    assert_eq!(content(&damaged), Some(Versioned { index: 5, value: None }));
}

/// The answer of a member that led when it met the damage: another may have carried the entry out.
#[tokio::test]
async fn whoever_proposed_hears_of_the_damage() {
    let disk = SimDisk::new(1);
    drop(replica(&disk, true).await);
    let damaged = with_slot_2_damaged(&disk);
    let answer = |index, operations: &[(u64, Action<'_>)]| {
        let entry = normal(1, index, command(operations));
        let carried_out = apply_entry(&damaged.replica.machine, &committed_from(entry)).unwrap();
        let command = command(operations);
        let results = carried_out.into_results(super::stored(1, index), Some(&command));
        let [Err(failure)] = &results[..] else { panic!("{results:?}") };
        failure.clone()
    };
    let is_damaged = Failure::Damaged { slot: SLOT };
    let reason = is_damaged.to_string();
    assert_eq!(answer(4, &[(SLOT, Action::Get)]), is_damaged);
    assert_eq!(answer(5, &[(1, Action::Get), (SLOT, Action::Measure)]), is_damaged);
    let unknown = |index| Failure::Unknown { term: 1, index, reason: reason.clone() };
    assert_eq!(answer(6, &[(SLOT, Action::Get), (1, SET)]), unknown(6));
    assert_eq!(answer(7, &[(SLOT, DELETE)]), unknown(7));
    // Of several commands in one entry those fail that needed the slot.
    let parts = [(1, SET), (SLOT, Action::Get), (3, SET), (SLOT, DELETE), (4, SET)];
    let joined = Command::join(&parts.map(|part| command(&[part])));
    let carried_out =
        apply_entry(&damaged.replica.machine, &committed_from(normal(1, 8, joined.clone())))
            .unwrap();
    let results = carried_out.into_results(super::stored(1, 8), Some(&joined));
    let told: Vec<_> = results.into_iter().map(|result| result.map(|reply| reply.index)).collect();
    assert_eq!(told, [Ok(8), Err(is_damaged), Ok(8), Err(unknown(8)), Ok(8)]);
    assert_eq!(answer(8, &[(1, SET), (SLOT, Action::Increment { by: 1 })]), unknown(8));
    assert_eq!(damaged.value(1).as_deref(), Some(&b"new"[..]));
}

/// A log from which the state is made again says that it lacks something.
#[tokio::test]
async fn the_application_log_has_a_gap_where_an_effect_is_not_known() {
    let disk = SimDisk::new(1);
    drop(replica(&disk, true).await);
    flip(&disk);
    let folder = tempfile::tempdir().unwrap();
    let oplog = OpLog::open(real(folder.path(), "n"), KeyForm::Slots, 1 << 20, 0).unwrap();
    let parts = oplog.parts().clone();
    let mut damaged = Place::on(&disk).open_with(Some(oplog));
    let get = normal(1, 4, command(&[(SLOT, Action::Get)]));
    let delete = normal(1, 5, command(&[(1, SET), (SLOT, DELETE)]));
    damaged.apply(vec![get, delete, increment(1, 6, 3)]).await.unwrap();
    let mut records = PartRecords::open(&parts, 1).unwrap();
    let mut found = Vec::new();
    while let Some(Found { record, .. }) = records.next_record().unwrap() {
        found.push((record.index, record.mark, record.kind));
    }
    let expected = [
        (4, Mark::None, RecordKind::Get),
        (5, Mark::Gap, RecordKind::Get),
        (6, Mark::None, RecordKind::Set),
    ];
    assert_eq!(found, expected);
}

/// Not only by the walk after a start: whoever meets a damaged slot notes it, once.
#[tokio::test]
async fn a_slot_that_goes_bad_later_is_noted_when_it_is_met() {
    let disk = SimDisk::new(1);
    drop(replica(&disk, true).await);
    flip(&disk);
    let stores = Place::on(&disk).open();
    let machine = &stores.replica.machine;
    let pages = machine.paged().unwrap();
    assert_eq!(pages.newly_damaged(), Vec::<u64>::new(), "nobody has looked");
    for _ in 0..2 {
        slots_of(&stores.replica).read(SLOT).unwrap_err();
    }
    assert_eq!(pages.newly_damaged(), [SLOT]);
    assert_eq!(pages.newly_damaged(), Vec::<u64>::new());
    assert_eq!(pages.damaged_slots(), [SLOT]);
    machine.apply(4, &command(&[(SLOT, SET)])).unwrap();
    assert_eq!(pages.damaged_slots(), Vec::<u64>::new());
}

/// A slot on a real disk, and what gives its bytes: a map sees what is written to the file.
fn real_slot() -> (tempfile::TempDir, Machine, impl Fn(&[u8])) {
    let folder = tempfile::tempdir().unwrap();
    let (disk, path) = (RealDisk::new(), folder.path().to_owned());
    let geometry = Geometry::new(super::SLOT_COUNT, super::VALUE_BYTES).unwrap();
    let new = New { geometry, cluster_id: super::CLUSTER, options: Options::new(1 << 20) };
    let slots = Arc::new(Slots::create(&disk, &path, new, &mut |_, _| {}).unwrap());
    DiskMachine::new(slots.clone()).apply(1, &command(&[(SLOT, SET), (3, SET)])).unwrap();
    slots.write_back(&mut || Ok(()), &AtomicBool::new(false)).unwrap();
    drop(slots);
    let (slots, _) = Slots::open(&disk, &path, Options::new(1 << 20)).unwrap();
    let machine = Machine::Slots(DiskMachine::new(Arc::new(slots)));
    let file = disk.open(&path.join(SLOTS_FILE), WriteMode::Buffered).unwrap();
    let offset = geometry.offset_of(SLOT) + 24;
    (folder, machine, move |bytes: &[u8]| file.write_at(bytes, offset).unwrap())
}

/// Looking at a slot of 1 MiB takes its time, on the thread that serves everybody: it is not looked at
/// for what sets it, nor again for each command. Whoever looks finds it healed, and forgets it.
#[test]
fn a_slot_noted_as_damaged_is_looked_at_once_and_only_if_a_command_needs_it() {
    let (_folder, machine, write) = real_slot();
    write(b"x");
    machine.read(&Command::get(&slot_key(SLOT)).unwrap()).unwrap_err();
    let mut damaged = BTreeSet::new();
    let delete = command(&[(SLOT, DELETE)]);
    let is_damaged = Some(Failure::Damaged { slot: SLOT });
    assert_eq!(machine.refusal(&delete, &mut damaged), is_damaged);
    write(b"n");
    assert_eq!(machine.refusal(&command(&[(SLOT, SET), (SLOT, SET)]), &mut damaged), None);
    assert_eq!(machine.refusal(&command(&[(SLOT, SET), (SLOT, DELETE)]), &mut damaged), None);
    assert!(machine.may_refuse(), "it was not looked at");
    assert_eq!(machine.refusal(&delete, &mut damaged), is_damaged);
    assert!(machine.may_refuse(), "nor for another command");
    assert_eq!(machine.refusal(&delete, &mut BTreeSet::new()), None);
    assert!(!machine.may_refuse());
}

/// One bad slot must not end every walk over the keys.
#[tokio::test]
async fn a_walk_over_keys_passes_over_a_damaged_slot() {
    let disk = SimDisk::new(1);
    let mut stores = replica(&disk, true).await;
    let entry = normal(1, 4, command(&[(1, SET), (3, SET)]));
    stores.append(vec![entry.clone()]).await.unwrap();
    stores.apply(vec![entry]).await.unwrap();
    stores.checkpoint().await;
    drop(stores);
    let damaged = with_slot_2_damaged(&disk);
    let machine = &damaged.replica.machine;
    let [one, three] = [1, 3].map(|slot| Bytes::copy_from_slice(&slot_key(slot)));
    assert_eq!(machine.live_keys(0, 10).unwrap(), (vec![one.clone(), three.clone()], None));
    assert_eq!(machine.live_keys(0, 1).unwrap(), (vec![one], Some(2)));
    assert_eq!(machine.live_keys(2, 1).unwrap(), (vec![three], Some(4)));
}
