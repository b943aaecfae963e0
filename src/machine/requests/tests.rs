//! Requests with an id, on both machines that serve clients.

use std::sync::atomic::AtomicBool;

use diskstore_storage::Term;
use diskstore_storage::disk::{CrashMode, SimDisk};
use diskstore_storage::keys::{self, Keys};
use diskstore_storage::slots::{self, Geometry, Slots};
use diskstore_storage::state::{Checkpointed, Membership};

use super::*;
use crate::command::{Answer, Body, CommandBuilder, Condition, Operation, slot_key};
use crate::machine::{DiskMachine, Machine, MemoryMachine};

const DIRECTORY: &str = "/node";
const CLUSTER: u128 = 1;

#[derive(Debug, Clone, Copy)]
enum Of {
    Slots,
    Keys,
}

const BOTH: [Of; 2] = [Of::Slots, Of::Keys];

/// A machine as a start opens or makes it.
fn open(of: Of, disk: &SimDisk) -> Result<Machine> {
    let directory = Path::new(DIRECTORY);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let machine = match of {
        Of::Slots => {
            let (path, options) = (directory.join(slots::SLOTS_FILE), slots::Options::new(1 << 20));
            let new = slots::New { geometry: Geometry::new(64, 32)?, cluster_id: CLUSTER, options };
            let slots = if disk.exists(&path)? {
                Slots::open(disk, directory, options)?.0
            } else {
                disk.create_dir_all(directory)?;
                disk.sync_dir(Path::new("/"))?;
                Slots::create(disk, directory, new, &mut |_, _| {})?
            };
            Machine::Slots(DiskMachine::new(Arc::new(slots)))
        }
        Of::Keys => {
            let (path, options) =
                (directory.join(keys::SNAPSHOT_FILE), keys::Options::new(1 << 20));
            let new = keys::New { cluster_id: CLUSTER, value_bytes: 32, options };
            let keys = if disk.exists(&path)? {
                Keys::open(shared.clone(), directory, options)?
            } else {
                disk.create_dir_all(&directory.join("tmp"))?;
                disk.sync_dir(directory)?;
                disk.sync_dir(Path::new("/"))?;
                Keys::create(shared.clone(), directory, new)?
            };
            Machine::Memory(MemoryMachine::new(Arc::new(keys)))
        }
    };
    machine.open_request_ids(shared, directory, CLUSTER)?;
    Ok(machine)
}

fn log_id(index: u64) -> LogId {
    LogId { term: Term::new(1), index }
}

/// As the replica does it, of everything up to entry `index`.
fn checkpoint(machine: &Machine, index: u64) -> Result<Checkpointed> {
    let requests_crc =
        machine.request_ids().keep(log_id(index), &machine.request_ids().at(index))?;
    let target = Target { log_id: log_id(index), membership: Membership::default(), requests_crc };
    machine.checkpoint(target, &mut || Ok(()), &AtomicBool::new(false))
}

/// The files of ids that are there.
fn files(disk: &SimDisk) -> Vec<String> {
    let names = disk.list(Path::new(DIRECTORY)).unwrap();
    names.into_iter().filter(|name| name.starts_with("requests")).collect()
}

fn with_id(id: &str, slot: u64, action: Action<'_>) -> Command {
    let command = Command::single(&Operation { key: &slot_key(slot), action }).unwrap();
    command.with_request_id(id.as_bytes()).unwrap()
}

fn add(id: &str, slot: u64) -> Command {
    with_id(id, slot, Action::Increment { by: 1 })
}

fn set<'a>(value: &'a str, condition: Condition<'a>) -> Action<'a> {
    Action::Set { value: value.as_bytes(), condition, answer: Answer::Status }
}

fn value(machine: &Machine, slot: u64) -> Option<String> {
    let value = machine.slot(&slot_key(slot)).unwrap().value;
    value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

fn failure(applied: std::result::Result<Reply, ApplyError>) -> Failure {
    match applied {
        Err(ApplyError::NotApplied(failure)) => failure,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_that_is_sent_again_is_not_applied_again_and_answered_as_the_first_time() {
    for of in BOTH {
        let machine = open(of, &SimDisk::new(1)).unwrap();
        let first = machine.apply(5, &add("a", 7)).unwrap();
        assert!(!first.is_repeat);
        machine.apply(6, &add("b", 7)).unwrap();
        let again = machine.apply(7, &add("a", 7)).unwrap();
        assert_eq!(again, Reply { is_repeat: true, ..first });
        assert_eq!(again.outcomes[0].body, Body::Integer(1), "{of:?}");
        assert_eq!(value(&machine, 7).as_deref(), Some("2"), "{of:?}");
        // A condition that did not hold does not hold later either.
        let only_new = with_id("c", 7, set("new", Condition::IfAbsent));
        let first = machine.apply(8, &only_new).unwrap();
        assert!(!first.outcomes[0].changed);
        machine.apply(9, &Command::delete(&slot_key(7)).unwrap()).unwrap();
        assert_eq!(machine.apply(10, &only_new).unwrap(), Reply { is_repeat: true, ..first });
        assert_eq!(value(&machine, 7), None, "{of:?}");
    }
}

#[test]
fn an_id_that_comes_with_another_request_is_refused_and_changes_nothing() {
    for of in BOTH {
        let machine = open(of, &SimDisk::new(1)).unwrap();
        machine.apply(5, &add("a", 7)).unwrap();
        let others = [
            add("a", 8),
            with_id("a", 7, Action::Increment { by: 2 }),
            with_id("a", 7, set("v", Condition::Always)),
        ];
        for (other, index) in others.iter().zip(6..) {
            let refusal = Refusal::OtherRequest { index: 5 };
            assert_eq!(failure(machine.apply(index, other)), Failure::Refused(refusal));
        }
        assert_eq!((value(&machine, 7).as_deref(), value(&machine, 8)), (Some("1"), None));
        assert!(machine.apply(9, &add("a", 7)).unwrap().is_repeat, "{of:?}");
    }
}

/// H31: a checkpoint has the ids as of its own index, and what is replayed behind it decides the same again.
#[test]
fn ids_survive_a_power_loss_with_the_checkpoint_that_they_are_as_of() {
    for of in BOTH {
        let disk = SimDisk::new(3);
        let machine = open(of, &disk).unwrap();
        let entries = [add("a", 7), add("b", 7), add("a", 7), add("c", 7), add("b", 7)];
        let apply = |machine: &Machine, from: usize| -> Vec<bool> {
            let entries = entries.iter().zip(1_u64..).skip(from);
            entries.map(|(entry, index)| machine.apply(index, entry).unwrap().is_repeat).collect()
        };
        assert_eq!(apply(&machine, 0), [false, false, true, false, true]);
        // Slots and keys are ahead of it: they have what the later entries did.
        checkpoint(&machine, 2).unwrap();
        let after = open(of, &disk.crash(CrashMode::Lost)).unwrap();
        assert_eq!(after.durable().unwrap().log_id, log_id(2));
        assert_eq!(after.request_ids().at(u64::MAX), machine.request_ids().at(2));
        let entries_behind = entries.iter().zip(1_u64..).skip(2);
        let behind: Vec<_> =
            entries_behind.map(|(entry, index)| after.apply(index, entry)).collect();
        assert!(behind[0].as_ref().unwrap().is_repeat && behind[2].as_ref().unwrap().is_repeat);
        assert_eq!(value(&after, 7).as_deref(), Some("3"), "{of:?}");
        // Its slot was written already, so what entry 4 answered is lost: not that it was applied.
        let failure = failure(after.apply(6, &entries[3]));
        assert!(matches!(failure, Failure::Unknown { index: 4, .. }), "{failure:?}");
        assert_eq!(value(&after, 7).as_deref(), Some("3"), "{of:?}");
    }
}

/// I2 of `mod.rs`
#[test]
fn what_was_computed_over_content_that_is_ahead_is_never_answered() {
    for of in BOTH {
        let disk = SimDisk::new(4);
        let machine = open(of, &disk).unwrap();
        machine.apply(1, &add("a", 7)).unwrap();
        machine.apply(2, &with_id("b", 8, set("v", Condition::Always))).unwrap();
        machine.apply(3, &with_id("c", 7, set("v", Condition::IfAbsent))).unwrap();
        machine.apply(4, &add("d", 9)).unwrap();
        checkpoint(&machine, 4).unwrap();
        // The same content under the ids of a checkpoint before all of it.
        let after = open(of, &disk.crash(CrashMode::Lost)).unwrap();
        assert!(after.request_ids().replace(0, &[]));
        let unknown = |applied, at| {
            let failure = failure(applied);
            assert!(matches!(failure, Failure::Unknown { index, .. } if index == at), "{of:?}");
        };
        after.apply(1, &add("a", 7)).unwrap();
        after.apply(2, &with_id("b", 8, set("v", Condition::Always))).unwrap();
        unknown(after.apply(5, &add("a", 7)), 1);
        // What it did is plain from what it asked for.
        let plain = after.apply(6, &with_id("b", 8, set("v", Condition::Always))).unwrap();
        assert_eq!((plain.index, plain.is_repeat, plain.outcomes[0].changed), (2, true, true));
        assert_eq!(
            (value(&after, 7).as_deref(), value(&after, 8).as_deref()),
            (Some("1"), Some("v"))
        );
    }
}

#[test]
fn an_answer_that_is_too_long_is_not_kept_and_its_request_is_not_applied_again() {
    let machine = open(Of::Keys, &SimDisk::new(1)).unwrap();
    let swap = |id: &str, slots: &[u64]| {
        let mut builder = CommandBuilder::new();
        let (condition, answer) = (Condition::Always, Answer::Previous);
        for slot in slots {
            let action = Action::Set { value: id.as_bytes(), condition, answer };
            builder.push(&Operation { key: &slot_key(*slot), action }).unwrap();
        }
        builder.finish().with_request_id(id.as_bytes()).unwrap()
    };
    let long = "x".repeat(32);
    let fill = |index| machine.apply(index, &Command::set(&slot_key(7), long.as_bytes()).unwrap());
    fill(1).unwrap();
    machine.apply(2, &swap("one", &[7])).unwrap();
    let again = machine.apply(3, &swap("one", &[7])).unwrap();
    assert_eq!(again.outcomes[0].body, Body::Value(Some(long.clone().into())));
    fill(4).unwrap();
    machine.apply(5, &swap("two", &[7, 8])).unwrap();
    fill(6).unwrap();
    let failure = failure(machine.apply(7, &swap("two", &[7, 8])));
    assert!(matches!(failure, Failure::Unknown { index: 5, .. }), "{failure:?}");
    assert_eq!(value(&machine, 7), Some(long.clone()));
}

/// H31
#[test]
fn a_checkpoint_without_its_file_of_ids_is_not_opened() {
    for of in BOTH {
        let disk = SimDisk::new(5);
        let machine = open(of, &disk).unwrap();
        machine.apply(1, &add("a", 7)).unwrap();
        checkpoint(&machine, 1).unwrap();
        machine.apply(2, &add("b", 7)).unwrap();
        checkpoint(&machine, 2).unwrap();
        assert_eq!(files(&disk), ["requests-0000000000000002.dat"], "{of:?}");
        let path = Path::new(DIRECTORY).join("requests-0000000000000002.dat");
        disk.remove(&path).unwrap();
        let error = open(of, &disk.copy()).unwrap_err();
        assert!(matches!(error, diskstore_storage::Error::Missing { .. }), "{error}");
    }
}

/// The snapshot has them as of its begin; what came before here counts no more.
#[test]
fn ids_that_came_with_a_snapshot_count_once_it_is_installed_and_survive_a_power_loss() {
    for of in BOTH {
        let sender = open(of, &SimDisk::new(6)).unwrap();
        sender.apply(1, &add("a", 7)).unwrap();
        sender.apply(2, &add("b", 7)).unwrap();
        let ids = sender.request_ids().at(2);
        let disk = SimDisk::new(7);
        let receiver = open(of, &disk).unwrap();
        assert!(
            !receiver.request_ids().receive(log_id(1), &ids, None).unwrap(),
            "behind its begin"
        );
        assert!(receiver.request_ids().receive(log_id(2), &ids, None).unwrap());
        assert!(receiver.request_ids().at(u64::MAX).is_empty(), "not installed");
        receiver.begin_merge(0, 0);
        receiver.merge(&sender.scan(0, 0, 1 << 20).unwrap().0).unwrap();
        receiver.finish_merge(2);
        let membership = Membership::default();
        let target = Target { log_id: log_id(2), membership, requests_crc: 0 };
        receiver.install(target, &mut || Ok(())).unwrap();
        let after = open(of, &disk.crash(CrashMode::Lost)).unwrap();
        for machine in [&receiver, &after] {
            let again = machine.apply(3, &add("a", 7)).unwrap();
            assert_eq!((again.index, again.is_repeat), (1, true), "{of:?}");
            assert_eq!(value(machine, 7).as_deref(), Some("2"), "{of:?}");
        }
    }
}

/// Each attempt is one of a later entry.
#[test]
fn a_checkpoint_that_was_given_up_leaves_no_file_of_ids() {
    for of in BOTH {
        let disk = SimDisk::new(8);
        let machine = open(of, &disk).unwrap();
        let give_up = |index: u64| {
            machine.apply(index, &add(&index.to_string(), 7)).unwrap();
            let ids = machine.request_ids();
            let requests_crc = ids.keep(log_id(index), &ids.at(index)).unwrap();
            let membership = Membership::default();
            let target = Target { log_id: log_id(index), membership, requests_crc };
            let cancel = AtomicBool::new(true);
            assert!(machine.checkpoint(target, &mut || Ok(()), &cancel).unwrap().cancelled);
        };
        give_up(1);
        assert!(files(&disk).is_empty(), "{of:?}");
        checkpoint(&machine, 1).unwrap();
        give_up(2);
        give_up(3);
        assert_eq!(files(&disk), ["requests-0000000000000001.dat"], "{of:?}");
        let after = open(of, &disk.crash(CrashMode::Lost)).unwrap();
        assert_eq!(after.request_ids().at(9), machine.request_ids().at(1), "{of:?}");
    }
}

/// The ids of a member that does not know what was answered: the same table in other bytes.
fn without_answers() -> Bytes {
    let ids = RequestIds::default();
    for (index, id) in [(1, "a"), (2, "b")] {
        ids.remember(&DigestedRequest::new(index, id.as_bytes(), &add(id, 7)), None);
    }
    ids.at(2)
}

#[test]
fn a_snapshot_that_begins_at_the_checkpoint_leaves_its_ids_as_they_are() {
    for of in BOTH {
        let disk = SimDisk::new(9);
        let machine = open(of, &disk).unwrap();
        machine.apply(1, &add("a", 7)).unwrap();
        machine.apply(2, &add("b", 7)).unwrap();
        checkpoint(&machine, 2).unwrap();
        let (ids, durable) = (machine.request_ids(), machine.durable());
        assert_ne!(ids.at(2), without_answers());
        assert!(ids.receive(log_id(2), &without_answers(), durable.as_ref()).unwrap());
        assert_eq!(ids.received_crc(2), durable.unwrap().requests_crc, "{of:?}");
        let after = open(of, &disk.crash(CrashMode::Lost)).unwrap();
        assert_eq!(after.request_ids().at(2), ids.at(2), "{of:?}");
    }
}

/// The install names the file that was received.
#[test]
fn a_checkpoint_where_a_snapshot_begins_leaves_the_ids_that_came_with_it() {
    for of in BOTH {
        let disk = SimDisk::new(10);
        let machine = open(of, &disk).unwrap();
        let ids = machine.request_ids();
        assert!(ids.receive(log_id(2), &without_answers(), None).unwrap());
        machine.apply(1, &add("a", 7)).unwrap();
        machine.apply(2, &add("b", 7)).unwrap();
        assert_eq!(ids.keep(log_id(2), &ids.at(2)).unwrap(), ids.received_crc(2));
        ids.withdraw(2, None);
        let target =
            Target { log_id: log_id(2), membership: Membership::default(), requests_crc: 0 };
        machine.install(target, &mut || Ok(())).unwrap();
        let after = open(of, &disk.crash(CrashMode::Lost)).unwrap();
        assert_eq!(after.request_ids().at(2), without_answers(), "{of:?}");
    }
}
