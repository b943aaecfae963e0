//! The storage contract of openraft (`docs/contract.md`), rule by rule (C1 to C18), where its own suite cannot look:
//! what a power loss leaves, and what an injected error leads to.

use diskstore_storage::slots::SlotImage;
use diskstore_storage::{LogIndex, MemberId, SlotIndex, Term};
use std::io;
use std::time::Duration;

use diskstore_storage::disk::{BLOCK_BYTES, CrashMode, Operation, OperationKind, SimDisk};
use diskstore_storage::wal::Position;
use openraft::entry::RaftEntry;
use openraft::storage::{
    RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine, SnapshotMeta,
};

use super::{
    Place, SEGMENT_BYTES, Stores, after_power_loss, blank, blanks, command, increment, log_id,
    normal, slots_of,
};
use crate::command::{Action, Answer, Condition};
use crate::raft::types::{StoredMembership, Vote, log_id_to, vote_from};
use crate::replica::SlotsSnapshot;

/// Error number of a device that fails.
const EIO: i32 = 5;
/// Error number of a device that is full.
const ENOSPC: i32 = 28;
/// No test waits longer than this for what must come.
const BOUND: Duration = Duration::from_secs(20);

fn vote(term: u64, node_id: u64) -> Vote {
    vote_from(diskstore_storage::Vote {
        term: Term::new(term),
        node_id: MemberId::new(node_id),
        committed: false,
    })
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, work).await.expect("nothing came of it in time")
}

/// Waits until the log's threads have nothing left to do: the last batch is claimed, and the next
/// segment is there. What is written from then on was asked for by the test.
async fn quiet(stores: &Stores) {
    let wal = &stores.wal;
    let is_busy = || wal.is_prepare_due() || wal.claim_due() || wal.durable() != wal.position();
    let wait = async {
        while is_busy() {
            tokio::task::yield_now().await;
        }
    };
    in_time(wait).await;
}

async fn indexes(stores: &mut Stores) -> Vec<(u64, u64)> {
    let entries = stores.log.try_get_log_entries(..).await.unwrap();
    let ids = entries.iter().map(|entry| log_id_to(&entry.log_id()));
    ids.map(|log_id| (log_id.term.get(), log_id.index)).collect()
}

#[tokio::test]
async fn c1_a_vote_is_durable_before_save_vote_returns() {
    let disk = SimDisk::new(1);
    let mut stores = Place::on(&disk).open();
    for term in 1..=20 {
        stores.log.save_vote(&vote(term, 7)).await.unwrap();
        let mut after = after_power_loss(&disk).open();
        assert_eq!(after.log.read_vote().await.unwrap(), Some(vote(term, 7)));
    }
}

#[tokio::test]
async fn c2_votes_and_log_writes_keep_their_order_through_a_power_loss() {
    let disk = SimDisk::new(2);
    let mut stores = Place::on(&disk).open();
    stores.append(blanks(1, 0..4)).await.unwrap();
    let before = disk.operation_count();
    stores.log.save_vote(&vote(2, 1)).await.unwrap();
    stores.log.truncate_after(Some(log_id(1, 1))).await.unwrap();
    stores.append(vec![blank(2, 2)]).await.unwrap();
    stores.log.save_vote(&vote(3, 1)).await.unwrap();
    let operations = disk.operation_count() - before;
    drop(stores);

    let old = vec![(1, 0), (1, 1), (1, 2), (1, 3)];
    let new = vec![(1, 0), (1, 1), (2, 2)];
    // Every state on the way: the vote's term, and the log.
    let states = [(0, &old), (2, &old), (2, &new), (3, &new)];
    for operation in 0..operations {
        let disk = SimDisk::new(2);
        let mut stores = Place::on(&disk).open();
        stores.append(blanks(1, 0..4)).await.unwrap();
        disk.crash_at(operation);
        drop(stores.log.save_vote(&vote(2, 1)).await);
        stores.log.truncate_after(Some(log_id(1, 1))).await.unwrap();
        drop(stores.append(vec![blank(2, 2)]).await);
        drop(stores.log.save_vote(&vote(3, 1)).await);
        for mode in [CrashMode::Lost, CrashMode::All, CrashMode::Reordered { seed: operation }] {
            let mut after = Place::on(&disk.crash(mode)).open();
            let term = after.log.read_vote().await.unwrap().map_or(0, |vote| vote.leader_id.term);
            let found = (term, &indexes(&mut after).await);
            assert!(states.contains(&found), "{found:?} after operation {operation}, {mode:?}");
        }
    }
}

#[tokio::test]
async fn c3_entries_are_readable_at_once_and_durable_when_the_callback_fires() {
    let disk = SimDisk::new(3);
    let mut stores = Place::on(&disk).open();
    for index in 0..20 {
        let flushed = stores.append_only(vec![blank(1, index)]).await.unwrap();
        let read = stores.log.clone().try_get_log_entries(index..=index).await.unwrap();
        assert_eq!(read, vec![blank(1, index)]);
        in_time(flushed).await.unwrap().unwrap();
        let after = after_power_loss(&disk).open();
        assert_eq!(after.wal.state().last.map(|last| last.index), Some(index));
    }
}

#[tokio::test]
async fn c4_after_a_failed_write_all_callbacks_fail_and_nothing_more_is_written() {
    let disk = SimDisk::new(4);
    let mut stores = Place::on(&disk).open();
    stores.append(vec![blank(1, 0)]).await.unwrap();
    quiet(&stores).await;
    disk.fail_next(OperationKind::Write, "", EIO);
    let mut pending = Vec::new();
    for index in 1..=3 {
        pending.push(stores.append_only(vec![blank(1, index)]).await.unwrap());
    }
    for flushed in pending {
        in_time(flushed).await.unwrap().unwrap_err();
    }
    let fault = in_time(stores.faults.wait()).await;
    assert!(fault.reason.contains("the log cannot be written"), "{}", fault.reason);

    let operations = disk.operation_count();
    let late = stores.append_only(vec![blank(1, 4)]).await.unwrap();
    in_time(late).await.unwrap().unwrap_err();
    in_time(stores.log.save_vote(&vote(2, 1))).await.unwrap_err();
    in_time(stores.log.purge(log_id(1, 0))).await.unwrap_err();
    stores.stop.0.stop();
    assert_eq!(disk.operation_count(), operations, "a write or sync after the failed one");
    let mut after = after_power_loss(&disk).open();
    assert_eq!(indexes(&mut after).await.first(), Some(&(1, 0)));
    assert_eq!(after.log.read_vote().await.unwrap(), None);
}

#[tokio::test]
async fn c4_appending_does_not_wait_for_a_disk_that_failed() {
    let disk = SimDisk::new(4);
    let mut stores = Place::on(&disk).open();
    disk.fail_next(OperationKind::Write, "", EIO);
    stores.append(vec![blank(1, 0)]).await.unwrap_err();
    let large = [b'x'; 32];
    let action =
        Action::Set { value: &large, condition: Condition::Always, answer: Answer::Status };
    // More than the log holds unsynced: `append` must answer, not wait for room.
    let operations: Vec<_> = (0..450).map(|slot| (slot % 64, action)).collect();
    let entries = (1..1500).map(|index| normal(1, index, command(&operations)));
    for entry in entries {
        let flushed = in_time(stores.append_only(vec![entry])).await.unwrap();
        in_time(flushed).await.unwrap().unwrap_err();
    }
    assert!(stores.wal.is_over_bound(), "the test appends too little");
}

/// Fills the present segment until the next one is taken, so that one more is made. Gives the first
/// error.
async fn fill_a_segment(stores: &mut Stores) -> io::Result<()> {
    let first = stores.wal.state().last.map_or(0, |last| last.index + 1);
    for index in first..first + SEGMENT_BYTES / BLOCK_BYTES as u64 {
        in_time(stores.append(vec![blank(1, index)])).await?;
    }
    Ok(())
}

/// F11: whatever step of making the next segment fails, nothing is tried again.
#[tokio::test]
async fn a_failure_while_the_next_segment_is_made_is_fatal_like_one_of_a_write() {
    let steps = [
        (OperationKind::Create, "next.tmp"),
        (OperationKind::Reserve, "next.tmp"),
        (OperationKind::Write, "next.tmp"),
        (OperationKind::Sync, "next.tmp"),
        (OperationKind::Rename, "next.tmp"),
        (OperationKind::SyncDirectory, "wal"),
    ];
    for (kind, path) in steps {
        let disk = SimDisk::new(11);
        let mut stores = Place::on(&disk).open();
        stores.append(vec![blank(1, 0)]).await.unwrap();
        quiet(&stores).await;
        // Waits for what is never written.
        let never = Position(stores.wal.position().0 + 1_000);
        let syncer = stores.stop.0.clone();
        let waiting = tokio::spawn(async move { syncer.wait(never).await });
        disk.fail_next(kind, path, EIO);
        drop(fill_a_segment(&mut stores).await);
        let fault = in_time(stores.faults.wait()).await;
        let until_fault = disk.operations().len(); // batches went on until the log knew of the failure
        assert!(fault.reason.contains("the log cannot be written"), "{}", fault.reason);
        assert!(fault.reason.contains("os error 5"), "{}", fault.reason);
        in_time(waiting).await.unwrap().unwrap_err();
        let next = stores.wal.state().last.map_or(0, |last| last.index + 1);
        in_time(stores.append(vec![blank(1, next)])).await.unwrap_err();
        in_time(stores.log.save_vote(&vote(2, 1))).await.unwrap_err();
        stores.wal.prepare().unwrap_err();
        stores.stop.0.stop();
        let operations = disk.operations();
        let failed = |of: &Operation| of.kind == kind && of.path.ends_with(path);
        assert!(operations[..until_fault].iter().any(failed), "{kind:?} was never tried");
        let after = &operations[until_fault..];
        assert!(!after.iter().any(failed), "{kind:?} is tried again: {after:?}");
        let written = after.iter().filter(|of| of.kind != OperationKind::Remove).count();
        assert!(written <= 1, "{kind:?}: one batch may have been in flight: {after:?}");
    }
}

#[tokio::test]
async fn want_of_space_for_the_next_segment_passes_and_is_no_fault() {
    let disk = SimDisk::new(12);
    let mut stores = Place::on(&disk).open();
    stores.append(vec![blank(1, 0)]).await.unwrap();
    quiet(&stores).await;
    disk.fail_next(OperationKind::Reserve, "next.tmp", ENOSPC);
    fill_a_segment(&mut stores).await.unwrap();
    in_time(stores.stop.0.next_segment()).await;
    quiet(&stores).await;
    fill_a_segment(&mut stores).await.unwrap();
    assert!(stores.faults.current().is_none());
    let is_cut_back = |of: &Operation| of.kind == OperationKind::Remove;
    assert!(disk.operations().iter().any(is_cut_back), "it was never refused");
}

#[tokio::test]
async fn c6_a_truncation_is_exclusive_and_leaves_no_hole() {
    let disk = SimDisk::new(6);
    let mut stores = Place::on(&disk).open();
    stores.append(blanks(1, 0..10)).await.unwrap();
    stores.log.truncate_after(Some(log_id(1, 4))).await.unwrap();
    let kept: Vec<_> = (0..=4).map(|index| (1, index)).collect();
    assert_eq!(indexes(&mut stores).await, kept);
    stores.append(blanks(2, 5..7)).await.unwrap();
    let expected = [kept, vec![(2, 5), (2, 6)]].concat();
    let mut after = after_power_loss(&disk).open();
    assert_eq!(indexes(&mut after).await, expected);
}

/// H10: the callback of an entry must not be fired by the sync of the one that stood at
/// its index before.
#[tokio::test]
async fn c6_a_sync_of_truncated_entries_does_not_make_their_successors_durable() {
    for round in 0..30 {
        let disk = SimDisk::new(round);
        let mut stores = Place::on(&disk).open();
        let first = stores.append_only(blanks(1, 0..6)).await.unwrap();
        stores.log.truncate_after(Some(log_id(1, 2))).await.unwrap();
        let second = stores.append_only(vec![blank(2, 3)]).await.unwrap();
        in_time(second).await.unwrap().unwrap();
        let mut after = after_power_loss(&disk).open();
        assert_eq!(indexes(&mut after).await, vec![(1, 0), (1, 1), (1, 2), (2, 3)]);
        in_time(first).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn c7_the_purge_point_survives_restart_an_empty_log_and_a_later_truncation() {
    let disk = SimDisk::new(7);
    let mut stores = Place::on(&disk).open();
    stores.append(blanks(1, 0..10)).await.unwrap();
    stores.log.purge(log_id(1, 9)).await.unwrap();
    let mut after = after_power_loss(&disk).open();
    let state = after.log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 9)));
    assert_eq!(state.last_log_id, Some(log_id(1, 9)));
    after.log.truncate_after(None).await.unwrap();
    after.append(vec![blank(2, 10)]).await.unwrap();
    after.log.truncate_after(Some(log_id(1, 9))).await.unwrap();
    let state = after.log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 9)));
    assert_eq!(state.last_log_id, Some(log_id(1, 9)));
}

#[tokio::test]
async fn c8_the_log_behind_a_snapshot_that_was_built_or_installed_may_go_at_once() {
    let disk = SimDisk::new(8);
    let mut stores = Place::on(&disk).open();
    let entries: Vec<_> = (1..6).map(|index| increment(1, index, 3)).collect();
    stores.append(std::iter::once(blank(1, 0)).chain(entries.clone()).collect()).await.unwrap();
    stores.apply(entries).await.unwrap();
    assert_eq!(stores.checkpoint().await, Some(log_id(1, 5)));
    stores.log.purge(log_id(1, 5)).await.unwrap();
    let mut after = after_power_loss(&disk).open();
    assert_eq!(after.machine.applied_state().await.unwrap().0, Some(log_id(1, 5)));
    assert_eq!(after.value(3), Some(b"5".to_vec()));

    let meta = SnapshotMeta {
        last_log_id: Some(log_id(2, 90)),
        last_membership: StoredMembership::default(),
    };
    stores.machine.install_snapshot(&meta, SlotsSnapshot::default()).await.unwrap();
    stores.log.purge(log_id(2, 90)).await.unwrap();
    let mut after = after_power_loss(&disk).open();
    assert_eq!(after.machine.applied_state().await.unwrap().0, Some(log_id(2, 90)));
    assert_eq!(after.log.get_log_state().await.unwrap().last_log_id, Some(log_id(2, 90)));
}

#[tokio::test]
async fn c9_committed_never_exceeds_the_log_that_survives() {
    let disk = SimDisk::new(9);
    let mut stores = Place::on(&disk).open();
    stores.append(blanks(1, 0..5)).await.unwrap();
    stores.log.save_committed(Some(log_id(1, 4))).await.unwrap();
    assert_eq!(stores.log.read_committed().await.unwrap(), Some(log_id(1, 4)));
    quiet(&stores).await;
    let before = disk.operation_count();
    stores.log.save_committed(Some(log_id(1, 7))).await.unwrap();
    assert_eq!(stores.log.read_committed().await.unwrap(), Some(log_id(1, 4)));
    quiet(&stores).await;
    assert_eq!(disk.operation_count(), before, "committed asks for no sync of its own");
    stores.append(vec![blank(1, 5)]).await.unwrap();
    for mode in [CrashMode::Lost, CrashMode::All] {
        let mut after = Place::on(&disk.crash(mode)).open();
        let (committed, last) = (after.log.read_committed().await, after.log.get_log_state().await);
        assert!(committed.unwrap() <= last.unwrap().last_log_id);
    }
}

/// Also C11: the applied position starts at the checkpoint, whatever pages had been written.
#[tokio::test]
async fn c10_what_is_above_the_checkpoint_is_applied_again_and_only_once() {
    let disk = SimDisk::new(10);
    let mut stores = Place::on(&disk).open();
    let entry = |index: u64| {
        let twice = [(5, Action::Increment { by: 1 }), (5, Action::Increment { by: 1 })];
        normal(1, index, command(&twice))
    };
    let entries: Vec<_> = (1..=9).map(entry).collect();
    stores.append(std::iter::once(blank(1, 0)).chain(entries.clone()).collect()).await.unwrap();
    stores.apply(entries[..3].to_vec()).await.unwrap();
    assert_eq!(stores.checkpoint().await, Some(log_id(1, 3)));
    stores.apply(entries[3..].to_vec()).await.unwrap();
    let replica = stores.replica.clone();
    tokio::task::spawn_blocking(move || replica.write_back().unwrap()).await.unwrap();
    let mut after = after_power_loss(&disk).open();
    assert_eq!(after.machine.applied_state().await.unwrap().0, Some(log_id(1, 3)));
    assert_eq!(after.value(5), Some(b"18".to_vec()), "the page was written back");
    after.apply(entries[3..].to_vec()).await.unwrap();
    assert_eq!(after.value(5), Some(b"18".to_vec()));
    assert_eq!(after.machine.applied_state().await.unwrap().0, Some(log_id(1, 9)));
}

/// H6: slots ahead, an old superblock, and nobody who knows it.
#[tokio::test]
async fn c13_a_half_installed_snapshot_is_never_taken_for_a_whole_one() {
    let disk = SimDisk::new(13);
    let stores = Place::on(&disk).open();
    let replica = stores.replica.clone();
    let image = SlotImage {
        slot: SlotIndex::new(9),
        index: LogIndex::new(77),
        value: Some(bytes::Bytes::from_static(b"ahead")),
    };
    let merge = move || {
        slots_of(&replica).merge(&image).unwrap();
        assert!(!replica.is_readable(), "it counts at once");
        let before = disk.operation_count();
        replica.write_back().unwrap();
        (disk, before)
    };
    let (disk, before) = tokio::task::spawn_blocking(merge).await.unwrap();
    let operations = disk.operation_count() - before;
    drop(stores);
    for operation in 0..operations {
        let disk = SimDisk::new(13);
        let stores = Place::on(&disk).open();
        let replica = stores.replica.clone();
        disk.crash_at(operation);
        let merge = move || {
            let value = Some(bytes::Bytes::from_static(b"ahead"));
            let image = SlotImage { slot: SlotIndex::new(9), index: LogIndex::new(77), value };
            slots_of(&replica).merge(&image).unwrap();
            replica.write_back().unwrap_err();
        };
        tokio::task::spawn_blocking(merge).await.unwrap();
        for mode in [CrashMode::Lost, CrashMode::All, CrashMode::Reordered { seed: operation }] {
            let mut after = Place::on(&disk.crash(mode)).open();
            assert_eq!(after.machine.applied_state().await.unwrap().0, None);
            let is_ahead = after.value(9).is_some();
            assert!(!is_ahead || !after.replica.is_readable(), "operation {operation}, {mode:?}");
        }
    }
}

/// H20: what is applied lies beyond the log, so waiting for its index would hang.
#[tokio::test]
async fn a_checkpoint_beyond_the_end_of_the_log_does_not_hang() {
    let disk = SimDisk::new(20);
    let mut stores = Place::on(&disk).open();
    stores.append(vec![blank(1, 0)]).await.unwrap();
    stores.apply(vec![increment(3, 50, 1)]).await.unwrap();
    assert_eq!(in_time(stores.checkpoint()).await, Some(log_id(3, 50)));
}

/// H21: the superblock would fall below the purge point.
#[tokio::test]
async fn a_build_that_ends_after_an_install_does_not_lower_the_checkpoint() {
    let disk = SimDisk::new(21);
    let mut stores = Place::on(&disk).open();
    stores.apply(vec![increment(1, 1, 1)]).await.unwrap();
    let before = stores.replica.applied(); // a checkpoint begins
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(2, 60)),
        last_membership: StoredMembership::default(),
    };
    stores.machine.install_snapshot(&meta, SlotsSnapshot::default()).await.unwrap();
    let replica = stores.replica.clone();
    let written = tokio::task::spawn_blocking(move || replica.checkpoint_of(before, &[])).await;
    written.unwrap().unwrap();
    let mut builder = stores.machine.get_snapshot_builder().await;
    let built = builder.build_snapshot().await;
    assert_eq!(built.unwrap().meta.last_log_id, Some(log_id(2, 60)));
    let mut after = after_power_loss(&disk).open();
    assert_eq!(after.machine.applied_state().await.unwrap().0, Some(log_id(2, 60)));
}

/// H8, and C18: a page that was copied holds an entry that is applied but not durable here.
#[tokio::test]
async fn c18_no_page_reaches_the_disk_before_the_entries_in_it_do() {
    let mut is_seen = false;
    for operation in 0..60 {
        let disk = SimDisk::new(18);
        let mut stores = Place::on(&disk).open();
        let entries: Vec<_> = (1..=4).map(|index| increment(1, index, 2)).collect();
        disk.crash_at(operation);
        let log = std::iter::once(blank(1, 0)).chain(entries.clone()).collect();
        drop(stores.append_only(log).await.unwrap());
        stores.apply(entries).await.unwrap(); // before the callback came
        let replica = stores.replica.clone();
        let written = tokio::task::spawn_blocking(move || replica.write_back().is_ok());
        let is_written = written.await.unwrap();
        for mode in [CrashMode::Lost, CrashMode::All, CrashMode::Reordered { seed: operation }] {
            let after = Place::on(&disk.crash(mode)).open();
            let index = slots_of(&after.replica).read(2).unwrap().index;
            let last = after.wal.state().last.map_or(0, |last| last.index);
            assert!(index <= last, "slot at {index}, log at {last}, {mode:?}");
            is_seen |= index == 4;
        }
        if is_written {
            break;
        }
    }
    assert!(is_seen, "no page was ever written");
}

/// The same where the log is never durable: the page must wait for it, not only come later.
#[tokio::test]
async fn c18_no_page_is_written_when_the_log_that_it_waits_for_fails() {
    let disk = SimDisk::new(18);
    let mut stores = Place::on(&disk).open();
    stores.append(vec![blank(1, 0)]).await.unwrap();
    quiet(&stores).await;
    disk.fail_next(OperationKind::Write, "", EIO);
    let entry = increment(1, 1, 2);
    stores.append(vec![entry.clone()]).await.unwrap_err();
    stores.apply(vec![entry]).await.unwrap();
    let replica = stores.replica.clone();
    let written = tokio::task::spawn_blocking(move || replica.write_back());
    written.await.unwrap().unwrap_err();
    let after = Place::on(&disk.crash(CrashMode::All)).open();
    assert_eq!(after.value(2), None);
}
