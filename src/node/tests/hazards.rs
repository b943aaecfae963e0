//! Hazards of `docs/contract.md`: orders of events between threads that would mix data.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use diskstore_storage::slots::Geometry;

use super::{create_slots, disk};
use crate::command::{
    Action, Answer, Body, Command, CommandBuilder, Condition, Operation, slot_key,
};
use crate::machine::{AnyMachine, DiskMachine};

const WRITES: u64 = 3000;
/// Far apart, and not in the order of their locks.
const SLOTS: [u64; 3] = [60, 2, 31];

fn command(action: Action<'_>) -> Command {
    let mut builder = CommandBuilder::new();
    for slot in SLOTS {
        builder.push(&Operation { key: &slot_key(slot), action }).unwrap();
    }
    builder.finish()
}

/// H4.
#[test]
fn mget_never_reads_between_two_writes_of_an_mset() {
    let machine =
        DiskMachine::new(Arc::new(create_slots(&disk(1), Geometry::new(64, 32).unwrap())));
    let is_over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (machine, is_over) = (machine.clone(), is_over.clone());
            std::thread::spawn(move || {
                let get = command(Action::Get);
                let mut seen = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let reply = machine.read(&get).unwrap();
                    let first = &reply.outcomes[0];
                    for outcome in &reply.outcomes {
                        assert_eq!(outcome.version, first.version);
                        assert_eq!(outcome.body, first.body);
                    }
                    assert!(first.version >= seen, "time went back");
                    seen = first.version;
                }
            })
        })
        .collect();
    let (condition, answer) = (Condition::Always, Answer::Status);
    for index in 1..=WRITES {
        let value = index.to_string();
        let set = Action::Set { value: value.as_bytes(), condition, answer };
        machine.apply(index, &command(set)).unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.join().unwrap();
    }
    let reply = machine.read(&command(Action::Get)).unwrap();
    let last = Body::Value(Some(WRITES.to_string().into()));
    assert!(reply.outcomes.iter().all(|outcome| outcome.body == last));
}

/// H3: the second one must neither be skipped by the slot rule nor be kept alone.
#[test]
fn both_increments_of_one_batch_count_and_a_replay_adds_nothing() {
    let machine =
        DiskMachine::new(Arc::new(create_slots(&disk(2), Geometry::new(64, 32).unwrap())));
    let mut builder = CommandBuilder::new();
    for slot in [5, 6, 5] {
        let action = Action::Increment { by: 1 };
        builder.push(&Operation { key: &slot_key(slot), action }).unwrap();
    }
    let twice = builder.finish();
    let reply = machine.apply(1, &twice).unwrap();
    let bodies: Vec<_> = reply.outcomes.iter().map(|outcome| outcome.body.clone()).collect();
    assert_eq!(bodies, [Body::Integer(1), Body::Integer(1), Body::Integer(2)]);
    machine.apply(1, &twice).unwrap();
    // The same of several commands in one entry, of which one is in its slot already.
    let add = |slot| {
        let action = Action::Increment { by: 1 };
        Command::single(&Operation { key: &slot_key(slot), action }).unwrap()
    };
    machine.apply(2, &add(8)).unwrap();
    for _ in 0..2 {
        machine.apply(2, &Command::join(&[7, 8, 9].map(add))).unwrap();
    }
    for slot in [7, 8, 9] {
        let value = machine.slot(&slot_key(slot)).unwrap().value;
        assert_eq!(value.as_deref(), Some(&b"1"[..]), "slot {slot}");
    }
    let value = machine.slot(&slot_key(5)).unwrap().value;
    assert_eq!(value.as_deref(), Some(&b"2"[..]));
}
