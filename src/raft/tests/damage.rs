//! Slots that are damaged on one replica only: whatever is done to them, replicas never differ with
//! right checksums.

use diskstore_storage::disk::SimDisk;
use diskstore_storage::slots::Slot;

use super::transfer::with_slot_2_damaged;
use super::{Place, Stores, blanks, command, normal, slots_of};
use crate::command::{Action, Answer, Condition};

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

fn content(stores: &Stores) -> Option<Slot> {
    slots_of(&stores.shared).read(SLOT).ok()
}

/// What a healthy and a damaged replica hold after an entry, if they can say, and whether the damaged
/// one has applied it.
async fn after(actions: &[Action<'_>], is_live: bool) -> (Option<Slot>, Option<Slot>, bool) {
    let (disk, other) = (SimDisk::new(1), SimDisk::new(2));
    let mut healthy = replica(&disk, is_live).await;
    drop(replica(&other, is_live).await);
    let damaged = with_slot_2_damaged(&other);
    let actions: Vec<_> = actions.iter().map(|action| (SLOT, *action)).collect();
    let entry = command(&actions);
    let reply = healthy.shared.machine.apply(4, &entry).unwrap();
    let other_reply = damaged.shared.machine.apply(4, &entry);
    if let Ok(other_reply) = &other_reply {
        assert_eq!(&reply, other_reply, "{actions:?}");
    }
    healthy.apply(blanks(1, [4])).await.unwrap();
    (content(&healthy), content(&damaged), other_reply.is_ok())
}

/// A delete of an absent value changes no version, so it must not write one over damage.
#[tokio::test]
async fn a_member_stops_rather_than_guess_what_a_damaged_slot_held() {
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

/// Openraft hears of it, and so does whoever waits for faults: the node exits.
#[tokio::test]
async fn a_damaged_slot_under_a_delete_is_a_fault_that_names_slot_and_entry() {
    let disk = SimDisk::new(1);
    drop(replica(&disk, false).await);
    let mut damaged = with_slot_2_damaged(&disk);
    let delete = normal(1, 4, command(&[(1, SET), (SLOT, DELETE)]));
    damaged.apply(vec![delete]).await.unwrap_err();
    let fault = damaged.faults.current().expect("it cannot go on");
    assert!(fault.reason.contains("slot 2 is damaged"), "{}", fault.reason);
    assert!(fault.reason.contains("log entry 4"), "{}", fault.reason);
    assert_eq!(damaged.shared.applied_index(), VERSION);
}

/// Not only by the walk after a start: whoever meets a damaged slot notes it, once.
#[tokio::test]
async fn a_slot_that_goes_bad_later_is_noted_when_it_is_met() {
    let disk = SimDisk::new(1);
    drop(replica(&disk, true).await);
    let place = Place::on(&disk);
    let offset = place.open_slots().geometry().offset_of(SLOT);
    let flip = |name: &str, offset| {
        disk.flip_bit(&place.directory.join(name), offset, 0).unwrap();
    };
    flip(diskstore_storage::slots::SLOTS_FILE, offset + 8);
    flip(diskstore_storage::slots::DOUBLE_FILE, 16);
    let stores = place.open();
    let machine = &stores.shared.machine;
    assert_eq!(machine.newly_damaged(), Vec::<u64>::new(), "nobody has looked");
    for _ in 0..2 {
        slots_of(&stores.shared).read(SLOT).unwrap_err();
    }
    assert_eq!(machine.newly_damaged(), [SLOT]);
    assert_eq!(machine.newly_damaged(), Vec::<u64>::new());
    assert_eq!(machine.damaged_slots(), [SLOT]);
    machine.apply(4, &command(&[(SLOT, SET)])).unwrap();
    assert_eq!(machine.damaged_slots(), Vec::<u64>::new());
}
