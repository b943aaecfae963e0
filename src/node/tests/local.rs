//! Local reads beside a log that is not durable yet (C18): entries may be applied before this
//! member has synced them, and what a reader has seen must survive a crash.

use std::sync::Arc;

use diskstore_storage::disk::{OperationKind, SimDisk};
use diskstore_storage::slots::Geometry;

use super::{create_slots, disk, entry, start};
use crate::cluster::read_local as read;
use crate::command::{Body, Command, CommandResult, Failure, slot_key};
use crate::raft::Consensus;

/// A member that has applied entries 1 to 3, which set slots 1 to 3, and has synced none of them.
async fn member(disk: &SimDisk) -> Arc<Consensus> {
    let consensus = start(disk, create_slots(disk, Geometry::new(64, 32).unwrap())).await;
    let set = |slot: u64| Command::set(&slot_key(slot), b"value").unwrap();
    // Nobody tells the syncer.
    let entries = (1..=3).map(|index| entry(index, set(index).bytes().clone()));
    consensus.wal().append(std::iter::once(entry(0, bytes::Bytes::new())).chain(entries)).unwrap();
    for index in 1..=3 {
        consensus.replica().machine.apply(index, &set(index)).unwrap();
    }
    consensus
}

async fn get(consensus: &Consensus, slots: &[u64]) -> Vec<CommandResult> {
    let commands: Vec<Command> =
        slots.iter().map(|slot| Command::get(&slot_key(*slot)).unwrap()).collect();
    read(consensus, &commands).await
}

#[tokio::test]
async fn c18_a_local_read_waits_for_the_entry_that_wrote_the_newest_slot() {
    let consensus = member(&disk(1)).await;
    let position = consensus.wal().position_of(3).unwrap();
    assert!(consensus.wal().durable() < position);
    let untouched = get(&consensus, &[9]).await;
    assert!(untouched[0].is_ok());
    assert!(consensus.wal().durable() < position, "a slot that nobody wrote waits for nothing");
    let results = get(&consensus, &[3, 1]).await;
    let value = Body::Value(Some(bytes::Bytes::from_static(b"value")));
    assert!(results.iter().all(|result| result.as_ref().unwrap().outcomes[0].body == value));
    assert!(consensus.wal().durable() >= position);
    consensus.stop().await;
}

#[tokio::test]
async fn c18_a_local_read_gives_nothing_that_cannot_become_durable() {
    let disk = disk(2);
    let consensus = member(&disk).await;
    for kind in [OperationKind::Write, OperationKind::Sync] {
        disk.fail_next(kind, "", 5);
    }
    let results = get(&consensus, &[9, 2]).await;
    assert!(matches!(results[1], Err(Failure::Stopping)), "{results:?}");
    consensus.stop().await;
}
