//! Entries that are applied while their log is recovered.

use std::io;
use std::sync::Arc;

use diskstore_storage::disk::SimDisk;
use diskstore_storage::slots;
use diskstore_storage::state::Versioned;
use diskstore_storage::wal::{self, EntryKind, Wal};
use openraft::entry::RaftEntry;

use super::{
    BOUNDS, Place, SEGMENT_BYTES, blank, blanks, increment, increment_once, log_id, membership,
    stored,
};
use crate::host::Threads;
use crate::machine::{DiskMachine, Machine};
use crate::raft::types::{Entry, entry_to, log_id_to};
use crate::replica::{Applied, ReplayAhead};

/// What recovery gives.
pub(super) struct Recovered {
    machine: Machine,
    wal: Wal,
    applied: io::Result<Applied>,
}

impl Recovered {
    pub(super) fn index(&self) -> Option<u64> {
        self.applied.as_ref().unwrap().log_id.as_ref().map(|log_id| log_id.index)
    }

    /// What a slot holds; `None` if it is damaged.
    pub(super) fn slot(&self, slot: u64) -> Option<Versioned> {
        let Machine::Slots(disk) = &self.machine else { unreachable!("a machine of slots") };
        disk.slots().read(slot).ok()
    }

    fn value(&self, slot: u64) -> Option<Vec<u8>> {
        self.slot(slot).unwrap().value.map(|value| value.to_vec())
    }
}

pub(super) fn recover(place: &Place) -> Recovered {
    let machine = Machine::Slots(DiskMachine::new(Arc::new(place.open_slots())));
    let mut ahead = ReplayAhead::start(&machine, &Threads::System, BOUNDS).unwrap().unwrap();
    let wal = place.open_wal_following(SEGMENT_BYTES, &mut |seen| ahead.see(seen));
    let applied = ahead.finish(&wal);
    Recovered { machine, wal, applied }
}

fn append(wal: &Wal, entries: impl IntoIterator<Item = Entry>) {
    wal.append(entries.into_iter().map(entry_to)).unwrap();
}

fn write(wal: &Wal) {
    while let Some(batch) = wal.seal() {
        wal.write(batch).unwrap();
    }
}

/// A place with a log that `fill` has filled; its last record follows all others.
fn place(fill: impl FnOnce(&Wal)) -> Place {
    let place = Place::on(&SimDisk::new(1));
    drop(place.open_slots());
    let wal = place.open_wal();
    fill(&wal);
    write(&wal);
    place
}

fn commit(wal: &Wal, term: u64, index: u64) {
    wal.save_committed(log_id_to(&log_id(term, index)));
}

/// The same entries again: those with an id decide as they did before.
#[test]
fn requests_that_were_sent_again_are_replayed_as_they_were_applied() {
    let place = place(|wal| {
        let once = |id, index| increment_once(id, index, 7);
        append(wal, [blank(1, 0), once("a", 1), once("b", 2), once("a", 3), once("c", 4)]);
        append(wal, [increment_once("b", 5, 8), increment(1, 6, 7)]);
        commit(wal, 1, 6);
    });
    let recovered = recover(&place);
    assert_eq!(recovered.index(), Some(6));
    assert_eq!(recovered.value(7), Some(b"4".to_vec()));
    assert_eq!(recovered.value(8), None);
    let again = recover(&place);
    let ids = |recovered: &Recovered| recovered.machine.request_ids().at(u64::MAX);
    assert!(!ids(&recovered).is_empty());
    assert_eq!(ids(&again), ids(&recovered));
}

#[test]
fn what_is_known_as_committed_is_applied() {
    let place = place(|wal| {
        append(wal, [blank(1, 0), increment(1, 1, 7), increment(1, 2, 7)]);
        append(wal, [Entry::new_membership(log_id(1, 3), membership(&[5]))]);
        commit(wal, 1, 1);
        write(wal);
        append(wal, [increment(1, 4, 7), increment(1, 5, 7)]);
        commit(wal, 1, 4);
    });
    let recovered = recover(&place);
    assert_eq!((recovered.index(), recovered.value(7)), (Some(4), Some(b"3".to_vec())));
    let applied = recovered.applied.as_ref().unwrap();
    assert_eq!(applied.membership.log_id, Some(stored(1, 3)));
    assert_eq!(recovered.wal.state().last.unwrap().index, 5);
}

#[test]
fn what_was_truncated_is_not() {
    let place = place(|wal| {
        append(wal, [blank(1, 0), increment(1, 1, 7), increment(1, 2, 8), increment(1, 3, 9)]);
        commit(wal, 1, 1);
        write(wal);
        wal.truncate_after(Some(log_id_to(&log_id(1, 1))));
        append(wal, [increment(2, 2, 7), increment(2, 3, 7)]);
        commit(wal, 2, 3);
    });
    let recovered = recover(&place);
    assert_eq!((recovered.index(), recovered.value(7)), (Some(3), Some(b"3".to_vec())));
    assert_eq!((recovered.value(8), recovered.value(9)), (None, None));
}

#[tokio::test]
async fn what_the_checkpoint_has_is_passed_over() {
    let place = Place::on(&SimDisk::new(1));
    let entries = || [blank(1, 0), increment(1, 1, 7), increment(1, 2, 7)].to_vec();
    let mut stores = place.open();
    stores.append(entries()).await.unwrap();
    stores.apply(entries()).await.unwrap();
    assert_eq!(stores.checkpoint().await, Some(log_id(1, 2)));
    stores.append([increment(1, 3, 7), increment(1, 4, 7)].to_vec()).await.unwrap();
    commit(&stores.wal, 1, 4);
    stores.append(vec![blank(1, 5)]).await.unwrap();
    drop(stores);
    let recovered = recover(&place);
    assert_eq!((recovered.index(), recovered.value(7)), (Some(4), Some(b"4".to_vec())));
}

#[test]
fn what_waits_for_its_commit_is_bounded() {
    let place = place(|wal| {
        append(wal, blanks(1, 0..20));
        commit(wal, 1, 10);
        write(wal);
        append(wal, (20..400).map(|index| increment(1, index, 7)));
        commit(wal, 1, 390);
        append(wal, [blank(1, 400)]);
    });
    let recovered = recover(&place);
    assert_eq!((recovered.index(), recovered.value(7)), (Some(10), None));
    assert_eq!(recovered.wal.state().committed.unwrap().index, 390, "the rest is replayed later");
}

#[test]
fn an_entry_that_is_gone_from_the_log_is_noticed() {
    let place = place(|wal| {
        append(wal, [blank(1, 0), increment(1, 1, 7)]);
        commit(wal, 1, 1);
    });
    let machine = Machine::Slots(DiskMachine::new(Arc::new(place.open_slots())));
    let mut ahead = ReplayAhead::start(&machine, &Threads::System, BOUNDS).unwrap().unwrap();
    drop(place.open_wal_following(SEGMENT_BYTES, &mut |seen| ahead.see(seen)));
    let other = Place::on(&SimDisk::new(2)).open_wal();
    assert!(ahead.finish(&other).is_err());
}

#[test]
fn a_committed_entry_that_is_truncated_later_is_noticed() {
    let place = place(|wal| {
        append(wal, [blank(1, 0), increment(1, 1, 7), increment(1, 2, 7)]);
        commit(wal, 1, 2);
        write(wal);
        wal.truncate_after(Some(log_id_to(&log_id(1, 1))));
        append(wal, [increment(2, 2, 7), increment(2, 3, 7)]);
        commit(wal, 2, 3);
    });
    assert!(recover(&place).applied.is_err());
}

/// More pieces follow than wait for the thread that has ended.
#[test]
fn an_entry_that_cannot_be_applied_is_told_and_ends_the_recovery_in_order() {
    let place = place(|wal| {
        let (log_id, kind) = (log_id_to(&log_id(1, 0)), EntryKind::Normal);
        wal.append([wal::Entry {
            log_id,
            kind,
            payload: bytes::Bytes::from_static(b"rubbish").into(),
        }])
        .unwrap();
        for first in (1..200).step_by(10) {
            append(wal, (first..first + 10).map(|index| increment(1, index, 7)));
            commit(wal, 1, first + 9);
            write(wal);
        }
    });
    let error = recover(&place).applied.unwrap_err().to_string();
    assert!(error.contains("cannot be applied"), "{error}");
}

#[test]
fn a_file_that_does_not_fit_in_memory_is_replayed_later() {
    let place = place(|_| {});
    let options = slots::Options::new(4096);
    let slots = slots::Slots::open(&*place.disk, &place.directory, options).unwrap().0;
    let machine = Machine::Slots(DiskMachine::new(Arc::new(slots)));
    assert!(ReplayAhead::start(&machine, &Threads::System, BOUNDS).unwrap().is_none());
}
