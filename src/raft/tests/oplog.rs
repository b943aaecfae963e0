//! The application log of `-logfolder` beside a log and slots that crash.

use std::path::Path;
use std::sync::Arc;

use diskstore_storage::disk::{CrashMode, Disk, RealDisk, SimDisk};
use openraft::storage::{RaftStateMachine, SnapshotMeta};

use super::{
    CLUSTER, Place, SLOT_COUNT, VALUE_BYTES, after_power_loss, blank, command, increment_once,
    log_id, normal,
};
use crate::command::{Action, Answer, Condition};
use crate::machine::{JournalMachine, JournalOptions, Machine};
use crate::oplog::{KeyForm, OpLog, Parts};
use crate::raft::types::{Entry, StoredMembership};
use crate::replica::SlotsSnapshot;

pub(super) fn real(folder: &Path, id: &str) -> Parts {
    Parts::of_node(Arc::new(RealDisk::new()), folder, id)
}

fn bytes_in(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("log-file-n.log")).unwrap()
}

/// Entries of every kind, each slot's last one exact.
fn script() -> Vec<Entry> {
    let answer = Answer::Status;
    let set = |condition| Action::Set { value: b"set", condition, answer };
    let operations = [
        (5, Action::Increment { by: 3 }),
        (6, set(Condition::Always)),
        (7, Action::Append { value: b"appended" }),
        (8, set(Condition::IfAbsent)),
        (8, set(Condition::IfAbsent)), // does nothing
        (6, Action::Delete { condition: Condition::Always, answer }),
        (9, Action::SetRange { offset: 2, value: b"range" }),
    ];
    let entries = operations.iter().zip(1..);
    entries.map(|(operation, index)| normal(1, index, command(&[*operation]))).collect()
}

/// The pages of a running checkpoint reach the disk before the records of what they hold.
#[tokio::test]
async fn entries_that_are_replayed_over_slots_ahead_of_them_are_recorded() {
    let (whole, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let oplog = OpLog::open(real(whole.path(), "n"), KeyForm::Slots, u64::MAX, 0).unwrap();
    let mut stores = Place::on(&SimDisk::new(1)).open_with(Some(oplog));
    stores.apply(script()).await.unwrap();

    let disk = SimDisk::new(2);
    let mut stores = Place::on(&disk).open();
    stores.append(std::iter::once(blank(1, 0)).chain(script()).collect()).await.unwrap();
    stores.apply(script()).await.unwrap();
    let replica = stores.replica.clone();
    tokio::task::spawn_blocking(move || replica.write_back().unwrap()).await.unwrap();
    let oplog = OpLog::open(real(crashed.path(), "n"), KeyForm::Slots, u64::MAX, 0).unwrap();
    let mut after = after_power_loss(&disk).open_with(Some(oplog));
    assert_eq!(after.replica.applied().log_id, None);
    assert_eq!(after.value(9), Some(b"\0\0range".to_vec()), "the page was written back");
    after.apply(script()).await.unwrap();
    assert_eq!(bytes_in(crashed.path()), bytes_in(whole.path()));
}

#[tokio::test]
async fn a_request_that_was_sent_again_is_recorded_once() {
    let folder = tempfile::tempdir().unwrap();
    let oplog = OpLog::open(real(folder.path(), "n"), KeyForm::Slots, u64::MAX, 0).unwrap();
    let mut stores = Place::on(&SimDisk::new(1)).open_with(Some(oplog));
    stores.apply(vec![increment_once("a", 1, 5)]).await.unwrap();
    let before = bytes_in(folder.path());
    assert!(!before.is_empty());
    // The same again, and the id with something else.
    stores.apply(vec![increment_once("a", 2, 5), increment_once("a", 3, 6)]).await.unwrap();
    assert_eq!(bytes_in(folder.path()), before);
    stores.apply(vec![increment_once("b", 4, 5)]).await.unwrap();
    assert!(bytes_in(folder.path()).len() > before.len());
}

#[tokio::test]
async fn what_comes_by_snapshot_is_marked_as_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let oplog = OpLog::open(real(folder.path(), "n"), KeyForm::Slots, u64::MAX, 0).unwrap();
    let mut stores = Place::on(&SimDisk::new(1)).open_with(Some(oplog));
    stores.apply(script()).await.unwrap();
    let before = bytes_in(folder.path());
    let last_membership = StoredMembership::default();
    let meta = SnapshotMeta { last_log_id: Some(log_id(1, 90)), last_membership };
    stores.machine.install_snapshot(&meta, SlotsSnapshot::default()).await.unwrap();
    let after = bytes_in(folder.path());
    let added = after.strip_prefix(&before[..]).unwrap();
    assert!(added.windows(3).any(|bytes| bytes == b"gap"), "{added:?}");
}

/// A journal writes a checkpoint of the same entry once more.
#[tokio::test]
async fn request_ids_survive_a_checkpoint_of_the_same_entry() {
    let opened = |disk: &SimDisk| {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let place = Place::on(disk);
        shared.create_dir_all(&place.directory).unwrap();
        shared.sync_dir(Path::new("/")).unwrap();
        let options = JournalOptions {
            directory: place.directory.clone(),
            parts: Parts::of_node(shared.clone(), &place.directory, "n"),
            part_bytes_max: 1 << 20,
            sync_bytes: 1,
            cluster_id: CLUSTER,
            slot_count: SLOT_COUNT,
            value_bytes_max: VALUE_BYTES,
        };
        let journal = JournalMachine::open(shared, options).unwrap();
        place.open_of(Machine::Journal(journal), None)
    };
    let disk = SimDisk::new(6);
    let mut stores = opened(&disk);
    let entries = vec![blank(1, 0), increment_once("a", 1, 5)];
    stores.append(entries.clone()).await.unwrap();
    stores.apply(entries).await.unwrap();
    let ids = stores.replica.machine.request_ids().at(1);
    assert!(!ids.is_empty());
    for _ in 0..2 {
        assert_eq!(stores.checkpoint().await, Some(log_id(1, 1)));
    }
    let after = opened(&disk.crash(CrashMode::Lost));
    assert_eq!(after.replica.machine.request_ids().at(1), ids);
}
