//! Snapshots whose frames come late: entries behind their begin were applied here meanwhile.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use diskstore_storage::disk::{Disk, SimDisk};
use diskstore_storage::keys::{KeyImage, Keys, New, Options};
use diskstore_storage::slots::SlotImage;
use diskstore_storage::{LogIndex, SlotIndex};
use tokio::net::TcpListener;

use super::transfer::{accept, begin, vote, with_slot_2_damaged};
use super::{CLUSTER, Place, Stores, blank, increment, normal, slots_of};
use crate::command::Command;
use crate::host::Host;
use crate::machine::{Images, Machine, MemoryMachine};
use crate::peer::{Caller, FrameKind, Purpose, Route};
use crate::replica::snapshot;
use crate::replica::snapshot_frames::{SnapshotBegin, SnapshotEnd, SnapshotSlots};

/// The slot that is damaged at the receiver, and where the snapshot of [`begin`] begins.
const SLOT: u64 = 2;
const BEGIN: u64 = 4;

fn slot_image(index: u64) -> Images {
    let value = Some(Bytes::from_static(b"old"));
    Images::Slots(vec![SlotImage {
        slot: SlotIndex::new(SLOT),
        index: LogIndex::new(index),
        value,
    }])
}

/// Begins a snapshot, has `meanwhile` done once it is accepted, and sends the image then; what the
/// receiver makes of it.
async fn late(
    receiver: &mut Stores,
    images: Images,
    own_vote: &AtomicU64,
    meanwhile: impl AsyncFnOnce(&mut Stores),
) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route = Route::to_address(listener.local_addr().unwrap().to_string());
    let replica = receiver.replica.clone();
    let take = async {
        let (mut reader, mut writer) = accept(&listener).await;
        let judge = |begin: &SnapshotBegin| {
            let own = vote(own_vote.load(Relaxed));
            Ok((own.term > begin.vote.term).then_some(own))
        };
        snapshot::receive(&replica, &mut reader, &mut writer, &judge).await
    };
    let send = async {
        let caller = Caller::stranger(&Host::real());
        let (_, (mut reader, mut writer)) =
            caller.dial(&route, Purpose::Snapshot, None).await.unwrap();
        begin().put(&mut writer.buffer);
        writer.send().await.unwrap();
        reader.expect(FrameKind::SnapshotAccept).await.unwrap();
        meanwhile(receiver).await;
        SnapshotSlots { nth: 0, last_log: 9, images }.put(&mut writer.buffer);
        SnapshotEnd { frames: 1, slots: 1, applied: BEGIN, last_log: 9 }.put(&mut writer.buffer);
        writer.send().await.unwrap();
        drop(reader.next().await);
    };
    tokio::join!(take, send).0.map(|_| ())
}

/// A member whose slot is damaged and that has applied up to index 3.
async fn damaged(disk: &SimDisk) -> Stores {
    let mut stores = Place::on(disk).open();
    let entries: Vec<_> = (1..=3).map(|index| increment(1, index, SLOT)).collect();
    stores.append([vec![blank(1, 0)], entries.clone()].concat()).await.unwrap();
    stores.apply(entries).await.unwrap();
    stores.checkpoint().await;
    drop(stores);
    with_slot_2_damaged(disk)
}

/// What an entry behind the begin did to the slot is missing in the image, and is not applied again.
#[tokio::test]
async fn an_image_without_what_was_applied_meanwhile_goes_over_no_damaged_slot() {
    let disk = SimDisk::new(1);
    let mut receiver = damaged(&disk).await;
    let meanwhile = async |receiver: &mut Stores| {
        receiver.apply(vec![blank(1, 4), increment(1, 5, SLOT)]).await.unwrap();
    };
    let taken = late(&mut receiver, slot_image(4), &AtomicU64::new(1), meanwhile).await;
    slots_of(&receiver.replica).read(SLOT).unwrap_err();
    taken.unwrap_err();
}

/// What the receiver applied is in the image: it mends.
#[tokio::test]
async fn an_image_that_has_all_that_was_applied_meanwhile_mends_a_damaged_slot() {
    let disk = SimDisk::new(1);
    let mut receiver = damaged(&disk).await;
    let meanwhile = async |receiver: &mut Stores| {
        receiver.apply(vec![increment(1, BEGIN, SLOT)]).await.unwrap();
        slots_of(&receiver.replica).read(SLOT).unwrap_err();
    };
    let taken = late(&mut receiver, slot_image(4), &AtomicU64::new(1), meanwhile).await;
    taken.unwrap();
    assert_eq!(receiver.value(SLOT).as_deref(), Some(&b"old"[..]));
}

fn memory(disk: &SimDisk) -> Stores {
    disk.create_dir_all(Path::new("/node/tmp")).unwrap();
    // So little memory that a checkpoint forgets a delete.
    let new = New { cluster_id: CLUSTER, value_bytes: 16, options: Options::new(1024) };
    let keys = Keys::create(Arc::new(disk.clone()), Path::new("/node"), new).unwrap();
    Place::on(disk).open_of(Machine::Memory(MemoryMachine::new(Arc::new(keys))), None)
}

/// A checkpoint forgets deletes, so nothing would say that the key is gone.
#[tokio::test]
async fn a_key_that_was_deleted_and_forgotten_meanwhile_does_not_come_back() {
    let disk = SimDisk::new(1);
    let mut receiver = memory(&disk);
    let set = normal(1, 2, Command::set(b"k", b"old").unwrap());
    let delete = normal(1, 5, Command::delete(b"k").unwrap());
    let image = KeyImage { key: Bytes::from_static(b"k"), index: 2, value: Some("old".into()) };
    let meanwhile = async |receiver: &mut Stores| {
        let entries = vec![blank(1, 1), set, blank(1, 3), blank(1, 4), delete];
        receiver.append([vec![blank(1, 0)], entries.clone()].concat()).await.unwrap();
        receiver.apply(entries).await.unwrap();
        receiver.checkpoint().await;
    };
    let images = Images::Keys(vec![image]);
    let taken = late(&mut receiver, images, &AtomicU64::new(1), meanwhile).await;
    let Machine::Memory(memory) = &receiver.replica.machine else { unreachable!() };
    assert_eq!(memory.keys().read(b"k").value, None);
    taken.unwrap_err();
}

/// A member that has voted for another leader waits for nothing more of the old one.
#[tokio::test]
async fn a_snapshot_of_a_leader_that_was_deposed_ends_with_its_next_frame() {
    let disk = SimDisk::new(1);
    let mut receiver = damaged(&disk).await;
    let own_vote = AtomicU64::new(1);
    let elect = async |_: &mut Stores| own_vote.store(2, Relaxed);
    let error = late(&mut receiver, slot_image(4), &own_vote, elect).await.unwrap_err();
    assert!(error.to_string().contains("another leader"), "{error}");
    slots_of(&receiver.replica).read(SLOT).unwrap_err();
}
