//! Log and checkpoint at a start: which differences are mended, which are refused (C12, C13).

use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use diskstore_storage::disk::{CrashMode, SimDisk};
use diskstore_storage::slots::{Geometry, Slots};
use diskstore_storage::state::{Membership, Target};
use diskstore_storage::wal::{SyncMode, Wal};
use diskstore_storage::{LogId, Term};

use super::{create_slots, directory, disk, entry, log_id, open_slots, open_wal, sync};
use crate::node::StartError;
use crate::node::open::agree;

/// A directory whose log holds entries 0 to 9 of term 1.
fn stores(disk: &SimDisk) -> (Slots, Wal) {
    let slots = create_slots(disk, Geometry::new(16, 32).unwrap());
    let wal = open_wal(disk, SyncMode::Always).unwrap();
    wal.append((0..10).map(|index| entry(index, Bytes::new()))).unwrap();
    sync(&wal).unwrap();
    (slots, wal)
}

fn checkpoint(slots: &Slots, log_id: LogId) {
    let target = Target { log_id, membership: Membership::default(), requests_crc: 0 };
    slots.checkpoint(target, &mut || Ok(()), &AtomicBool::new(false)).unwrap();
}

fn agreed(wal: &Wal, slots: &Slots) -> Result<(), StartError> {
    agree(wal, slots.superblock().checkpoint, directory())
}

#[test]
fn a_log_that_holds_the_checkpoint_stays_as_it_is() {
    let disk = disk(1);
    let (slots, wal) = stores(&disk);
    agreed(&wal, &slots).unwrap();
    checkpoint(&slots, log_id(6));
    let (state, operations) = (wal.state(), disk.operation_count());
    agreed(&wal, &slots).unwrap();
    assert_eq!(wal.state(), state);
    wal.purge(log_id(6));
    sync(&wal).unwrap();
    agreed(&wal, &slots).unwrap();
    assert_eq!(wal.state().first_index, 7);
    assert_eq!(wal.read(0..100, usize::MAX).unwrap().len(), 3);
    assert!(disk.operation_count() > operations, "the purge was written");
}

/// H19: the superblock of an install is durable, the truncate record is not.
#[test]
fn a_log_that_contradicts_the_checkpoint_is_dropped_up_to_it_for_good() {
    let installed = LogId { term: Term::new(3), index: 5 };
    let disk = disk(2);
    let (slots, wal) = stores(&disk);
    checkpoint(&slots, installed);
    agreed(&wal, &slots).unwrap();
    let state = wal.state();
    assert_eq!((state.purged, state.last), (Some(installed), Some(installed)));
    assert!(wal.read(0..100, usize::MAX).unwrap().is_empty());
    let after = disk.crash(CrashMode::Lost);
    let (slots, wal) = (open_slots(&after).unwrap(), open_wal(&after, SyncMode::Always).unwrap());
    assert_eq!(wal.state().last, Some(installed), "it survives power loss");
    let operations = after.operation_count();
    agreed(&wal, &slots).unwrap();
    assert_eq!(after.operation_count(), operations, "a second start has nothing to mend");
}

#[test]
fn a_log_that_ends_below_the_checkpoint_goes_on_behind_it() {
    let disk = disk(3);
    let (slots, wal) = stores(&disk);
    checkpoint(&slots, log_id(40));
    agreed(&wal, &slots).unwrap();
    wal.append([entry(41, Bytes::new())]).unwrap();
    sync(&wal).unwrap();
    let after = disk.crash(CrashMode::Lost);
    let wal = open_wal(&after, SyncMode::Always).unwrap();
    assert_eq!((wal.state().purged, wal.state().last), (Some(log_id(40)), Some(log_id(41))));
}

#[test]
fn a_log_purged_beyond_the_checkpoint_is_refused_and_left_alone() {
    for checkpointed in [None, Some(log_id(4))] {
        let disk = disk(4);
        let (slots, wal) = stores(&disk);
        if let Some(log_id) = checkpointed {
            checkpoint(&slots, log_id);
        }
        wal.purge(log_id(8));
        sync(&wal).unwrap();
        let operations = disk.operation_count();
        let error = agreed(&wal, &slots).unwrap_err();
        assert!(matches!(error, StartError::Contradiction { .. }), "{error}");
        assert!(error.to_string().contains("/node"), "{error}");
        assert_eq!(disk.operation_count(), operations, "nothing was touched");
    }
}

/// C13 under power loss: however far the mending came, the next start ends in the same place.
#[test]
fn mending_that_is_cut_off_is_repeated_by_the_next_start() {
    let installed = LogId { term: Term::new(3), index: 5 };
    for operation in 0..8 {
        let disk = disk(5);
        let (slots, wal) = stores(&disk);
        checkpoint(&slots, installed);
        disk.crash_at(operation);
        let is_done = agreed(&wal, &slots).is_ok();
        for mode in [CrashMode::Lost, CrashMode::All, CrashMode::Reordered { seed: operation }] {
            let after = disk.crash(mode);
            let (slots, wal) =
                (open_slots(&after).unwrap(), open_wal(&after, SyncMode::Always).unwrap());
            agreed(&wal, &slots).unwrap();
            assert_eq!(wal.state().last, Some(installed), "operation {operation}, {mode:?}");
        }
        if is_done {
            assert!(operation > 0, "mending wrote nothing");
            return;
        }
    }
    unreachable!("mending takes more writes than it should");
}
