//! Snapshots sent from one member to another over a socket, whole and disturbed.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use diskstore_storage::disk::{OperationKind, SimDisk};
use diskstore_storage::slots::{DOUBLE_FILE, SLOTS_FILE, SlotImage};
use diskstore_storage::{LogIndex, MemberId, SlotIndex, Term, Vote};
use openraft::alias::SnapshotOf;
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use tokio::net::TcpListener;

use super::{
    CLUSTER, Place, Stores, after_power_loss, blank, command, increment, increment_once, log_id,
    normal, slots_of, stored,
};
use crate::command::{Action, Answer, Condition};
use crate::host::Host;
use crate::machine::Images;
use crate::peer::{
    Caller, FrameKind, FrameReader, FrameWriter, Greeting, Purpose, Route, Welcome, Whoever, split,
};
use crate::raft::state_machine::{meta_of, outgoing};
use crate::raft::types::{StoredMembership, TypeConfig, log_id_to, membership_to};
use crate::replica::snapshot_frames::{
    SnapshotBegin, SnapshotEnd, SnapshotSlots, put_reply, put_request_ids,
};
use crate::replica::{Applied, Sender, SlotsSnapshot, snapshot};

const EIO: i32 = 5;

pub(super) fn vote(term: u64) -> Vote {
    Vote { term: Term::new(term), node_id: MemberId::new(1), committed: true }
}

/// Sends a snapshot to whoever listens at an address.
async fn send(
    sender: &Sender,
    address: &str,
    snapshot: SnapshotOf<TypeConfig, SlotsSnapshot>,
) -> io::Result<Vote> {
    let me = Whoever { cluster_id: CLUSTER, member_id: 1, process: 1 };
    let caller = Caller::new(&Host::real(), me, String::new(), crate::fault::Faults::new());
    let route = Route::to_address(address.to_owned());
    let (_, connection) = caller.dial(&route, Purpose::Snapshot, None).await?;
    snapshot::send(sender, address, connection, vote(1), outgoing(snapshot)).await
}

/// A member that has applied these increments of slots, from index 1 on.
async fn member(disk: &SimDisk, slots: &[u64]) -> Stores {
    let mut stores = Place::on(disk).open();
    let entries = slots.iter().zip(1..).map(|(slot, index)| increment(1, index, *slot));
    let entries: Vec<_> = entries.collect();
    stores.append(std::iter::once(blank(1, 0)).chain(entries.clone()).collect()).await.unwrap();
    stores.apply(entries).await.unwrap();
    stores
}

fn sender_of(stores: &Stores) -> Sender {
    Sender::new(stores.replica.clone(), stores.wal.clone())
}

/// The receiving side of a connection, behind the handshake.
pub(super) async fn accept(listener: &TcpListener) -> (FrameReader, FrameWriter) {
    let (mut reader, mut writer) = split(listener.accept().await.unwrap().0).unwrap();
    reader.expect(FrameKind::Hello).await.unwrap();
    let from = Whoever { cluster_id: CLUSTER, member_id: 2, process: 2 };
    Welcome { from, answer: Greeting::Accepted }.put(&mut writer.buffer);
    writer.send().await.unwrap();
    reader.allow_large();
    (reader, writer)
}

/// Receives and installs one snapshot, as the peer's port does it.
async fn receive(listener: &TcpListener, stores: &mut Stores, own: Option<Vote>) -> bool {
    let (mut reader, mut writer) = accept(listener).await;
    let judge = |_: &SnapshotBegin| Ok(own);
    let received = snapshot::receive(&stores.replica, &mut reader, &mut writer, &judge).await;
    let Ok(Some(begin)) = received else { return false };
    let meta = meta_of(&Applied { log_id: Some(begin.log_id), membership: begin.membership });
    let meta = meta.unwrap();
    stores.machine.install_snapshot(&meta, SlotsSnapshot::default()).await.unwrap();
    put_reply(&mut writer.buffer, &begin.vote);
    writer.send().await.unwrap();
    true
}

/// The snapshot that openraft would send of a member that has started.
async fn labelled(stores: &mut Stores) -> SnapshotOf<TypeConfig, SlotsSnapshot> {
    stores.has_started.store(true, Ordering::Release);
    stores.machine.get_current_snapshot().await.unwrap().expect("something is applied")
}

/// Sends what `from` has applied to `to`; whether sending and receiving went well, and how many
/// slots travelled.
async fn transfer(from: &mut Stores, to: &mut Stores) -> (bool, bool, u64) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let sender = sender_of(from);
    let snapshot = labelled(from).await;
    let send = send(&sender, &address, snapshot);
    let (sent, received) = tokio::join!(async { Box::pin(send).await.is_ok() }, async {
        Box::pin(receive(&listener, to, None)).await
    },);
    (sent, received, sender.slots_sent())
}

#[tokio::test]
async fn only_slots_changed_after_the_receivers_index_travel() {
    let (disk, other) = (SimDisk::new(1), SimDisk::new(2));
    let mut receiver = member(&other, &[1, 2, 3]).await;
    let mut sender = member(&disk, &[1, 2, 3, 3, 4]).await;
    assert_eq!(transfer(&mut sender, &mut receiver).await, (true, true, 2));
    for slot in 0..super::SLOT_COUNT {
        assert_eq!(receiver.value(slot), sender.value(slot), "slot {slot}");
    }
    assert!(receiver.replica.is_readable());
    let after = after_power_loss(&other).open();
    assert_eq!(after.replica.applied().log_id, Some(stored(1, 5)));
    assert_eq!(after.value(3), Some(b"2".to_vec()));
}

#[tokio::test]
async fn deleted_slots_travel_too() {
    let (disk, other) = (SimDisk::new(1), SimDisk::new(2));
    let mut receiver = member(&other, &[1, 2]).await;
    let mut sender = member(&disk, &[1, 2]).await;
    let (condition, answer) = (Condition::Always, Answer::Status);
    let delete = normal(1, 3, command(&[(1, Action::Delete { condition, answer })]));
    sender.append(vec![delete.clone()]).await.unwrap();
    sender.apply(vec![delete]).await.unwrap();
    assert_eq!(transfer(&mut sender, &mut receiver).await, (true, true, 1));
    assert_eq!(receiver.value(1), None);
}

/// H31: entries behind the snapshot are applied by the ids that it began with: whoever got it decides as
/// those do that applied everything.
#[tokio::test]
async fn request_ids_travel_with_a_snapshot_as_of_its_begin() {
    let (disk, other) = (SimDisk::new(1), SimDisk::new(2));
    let (mut sender, mut receiver) = (member(&disk, &[]).await, member(&other, &[]).await);
    let entries =
        vec![increment_once("a", 1, 5), increment_once("b", 2, 5), increment_once("a", 3, 5)];
    sender.append(entries.clone()).await.unwrap();
    sender.apply(entries).await.unwrap();
    assert_eq!(sender.value(5), Some(b"2".to_vec()));
    assert_eq!(transfer(&mut sender, &mut receiver).await, (true, true, 1));
    let ids = |stores: &Stores| stores.replica.machine.request_ids().at(u64::MAX);
    assert!(!ids(&sender).is_empty());
    assert_eq!(ids(&receiver), ids(&sender));
    let mut after = after_power_loss(&other).open();
    assert_eq!(after.replica.applied().log_id, Some(stored(1, 3)));
    let behind = vec![increment_once("b", 4, 5), increment_once("c", 5, 5)];
    for stores in [&mut sender, &mut receiver, &mut after] {
        stores.apply(behind.clone()).await.unwrap();
        assert_eq!(stores.value(5), Some(b"3".to_vec()));
    }
    assert_eq!(ids(&after), ids(&sender));
}

/// H31: an entry is in the table before it counts as applied.
#[tokio::test]
async fn request_ids_of_a_checkpoint_are_as_of_its_index_while_entries_are_applied() {
    let disk = SimDisk::new(1);
    let mut stores = member(&disk, &[]).await;
    let entries = vec![increment_once("a", 1, 5), increment_once("b", 2, 5)];
    stores.append(entries.clone()).await.unwrap();
    stores.apply(entries).await.unwrap();
    let machine = stores.replica.machine.clone();
    let next = command(&[(5, Action::Increment { by: 1 })]).with_request_id(b"c").unwrap();
    machine.apply(3, &next).unwrap(); // of a batch that is not applied as a whole
    let (before, now) = (machine.request_ids().at(2), machine.request_ids().at(3));
    assert_ne!(before, now);
    let (_, snapshot) = stores.replica.snapshot_now();
    assert_eq!(snapshot.request_ids(), Some(&before));
    stores.checkpoint().await.unwrap();
    let mut after = after_power_loss(&disk).open();
    assert_eq!(after.replica.machine.request_ids().at(u64::MAX), before);
    after.apply(vec![increment_once("c", 3, 5), increment_once("a", 4, 5)]).await.unwrap();
    assert_eq!(after.value(5), Some(b"3".to_vec()));
}

#[tokio::test]
async fn a_snapshot_whose_request_ids_are_none_is_refused() {
    let disk = SimDisk::new(1);
    let mut receiver = member(&disk, &[1]).await;
    for ids in [&b"\x01\0\0\0"[..], b"no table"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let send = async {
            let me = Whoever { cluster_id: CLUSTER, member_id: 1, process: 1 };
            let faults = crate::fault::Faults::new();
            let caller = Caller::new(&Host::real(), me, String::new(), faults);
            let route = Route::to_address(address);
            let (_, (mut reader, mut writer)) =
                caller.dial(&route, Purpose::Snapshot, None).await.unwrap();
            let membership = membership_to(&StoredMembership::default());
            let (vote, log_id) = (vote(1), stored(1, 9));
            let begin = SnapshotBegin {
                vote,
                log_id,
                membership,
                readable_from: 9,
                last_log: 9,
                horizon: 0,
            };
            begin.put(&mut writer.buffer);
            put_request_ids(&mut writer.buffer, ids);
            SnapshotEnd { frames: 0, slots: 0, applied: 9, last_log: 9 }.put(&mut writer.buffer);
            writer.send().await.unwrap();
            reader.expect(FrameKind::SnapshotAccept).await.unwrap();
            reader.expect(FrameKind::SnapshotReply).await.is_ok()
        };
        let (is_answered, is_received) =
            tokio::join!(Box::pin(send), Box::pin(receive(&listener, &mut receiver, None)));
        assert!(!is_answered && !is_received, "{ids:?}");
        assert_eq!(receiver.replica.applied().log_id, Some(stored(1, 1)));
    }
}

/// H7: a leader that is behind its own `readable_from` labels its snapshot too low.
#[tokio::test]
async fn a_sender_behind_its_own_readable_from_passes_it_on() {
    let (disk, other) = (SimDisk::new(1), SimDisk::new(2));
    let mut sender = member(&disk, &[1, 2]).await;
    sender.append((3..=9).map(|index| blank(1, index)).collect()).await.unwrap();
    let value = Some(Bytes::from_static(b"ahead"));
    slots_of(&sender.replica)
        .merge(&SlotImage { slot: SlotIndex::new(5), index: LogIndex::new(9), value })
        .unwrap();
    let mut receiver = member(&other, &[1]).await;
    assert_eq!(transfer(&mut sender, &mut receiver).await, (true, true, 2));
    assert_eq!(receiver.replica.applied_index(), 2);
    assert!(!receiver.replica.is_readable());
    assert_eq!(slots_of(&receiver.replica).superblock().readable_from, 9);
    receiver.apply((3..=9).map(|index| blank(1, index)).collect()).await.unwrap();
    assert!(receiver.replica.is_readable());
}

/// An index that the log never reaches would spread to whoever is sent it, and keep them from
/// being read for ever.
#[tokio::test]
async fn slots_ahead_of_the_senders_own_log_are_not_sent() {
    for by_label in [true, false] {
        let (disk, other) = (SimDisk::new(1), SimDisk::new(2));
        let mut sender = member(&disk, &[1, 2]).await;
        if by_label {
            slots_of(&sender.replica).set_readable_from(1 << 40).unwrap();
        } else {
            let beyond = command(&[(7, Action::Increment { by: 1 })]); // nowhere in the log
            sender.replica.machine.apply(3, &beyond).unwrap();
        }
        let mut receiver = member(&other, &[]).await;
        let (is_sent, is_received, _) = transfer(&mut sender, &mut receiver).await;
        assert!(!is_sent && !is_received);
        assert!(slots_of(&receiver.replica).readable_from() <= 2);
        assert_eq!(receiver.value(7), None);
    }
}

/// Opens the member of a disk again after a bit of slot 2 was flipped, and lets it find out.
pub(super) fn with_slot_2_damaged(disk: &SimDisk) -> Stores {
    let place = Place::on(disk);
    let (directory, key) = (place.directory.clone(), 2);
    let offset = place.open_slots().geometry().offset_of(key);
    disk.flip_bit(&directory.join(SLOTS_FILE), offset + 8, 0).unwrap();
    // Otherwise the last round, which holds the whole page, would mend it.
    disk.flip_bit(&directory.join(DOUBLE_FILE), 16, 0).unwrap();
    let stores = place.open();
    let slots = slots_of(&stores.replica);
    let learned = slots.learn_pages(0, u64::MAX);
    assert_eq!(learned.damaged, vec![key]);
    assert_eq!(slots.damaged_slots(), vec![key]);
    stores
}

/// H24: a delta skips a slot that did not change, and so would never repair it.
#[tokio::test]
async fn a_slot_that_is_damaged_here_travels_although_it_did_not_change() {
    let (disk, other) = (SimDisk::new(1), SimDisk::new(2));
    let mut receiver = member(&other, &[1, 2, 3]).await;
    receiver.checkpoint().await;
    drop(receiver);
    let mut receiver = with_slot_2_damaged(&other);
    let mut sender = member(&disk, &[1, 2, 3, 4]).await;
    assert_eq!(transfer(&mut sender, &mut receiver).await, (true, true, 2));
    assert_eq!(receiver.value(2), Some(b"1".to_vec()));
    assert_eq!(slots_of(&receiver.replica).damaged_slots(), Vec::<u64>::new());
}

/// Whoever keeps it damaged can never send a snapshot, once it leads.
#[tokio::test]
async fn a_damaged_slot_that_was_never_written_is_repaired_too() {
    let (disk, other, third) = (SimDisk::new(1), SimDisk::new(2), SimDisk::new(3));
    let mut receiver = member(&other, &[1, 3]).await;
    receiver.checkpoint().await;
    drop(receiver);
    let mut receiver = with_slot_2_damaged(&other);
    slots_of(&receiver.replica).scan(0, 0, usize::MAX, &mut Vec::new()).unwrap_err();
    let mut sender = member(&disk, &[1, 3, 4]).await;
    assert_eq!(transfer(&mut sender, &mut receiver).await, (true, true, 2));
    assert_eq!(receiver.value(2), None);
    assert_eq!(slots_of(&receiver.replica).damaged_slots(), Vec::<u64>::new());
    drop(receiver);
    // For good, and as a sender in its turn.
    let mut receiver = after_power_loss(&other).open();
    assert_eq!(slots_of(&receiver.replica).learn_pages(0, u64::MAX).damaged, Vec::<u64>::new());
    receiver.wal.drop_all_and_purge_to(log_id_to(&log_id(1, 3)));
    let mut joiner = member(&third, &[]).await;
    assert_eq!(transfer(&mut receiver, &mut joiner).await, (true, true, 3));
    for slot in 0..super::SLOT_COUNT {
        assert_eq!(joiner.value(slot), sender.value(slot), "slot {slot}");
    }
}

/// H17: its copy may be older than what was lost, and nothing would bring it up.
#[tokio::test]
async fn a_damaged_slot_is_not_repaired_from_a_member_that_lags() {
    let (disk, other) = (SimDisk::new(1), SimDisk::new(2));
    let mut receiver = member(&other, &[2, 2, 2]).await;
    receiver.checkpoint().await;
    drop(receiver);
    let mut receiver = with_slot_2_damaged(&other);
    let mut sender = member(&disk, &[2, 2]).await;
    assert_eq!(transfer(&mut sender, &mut receiver).await, (true, true, 0));
    slots_of(&receiver.replica).read(2).unwrap_err();
    assert_eq!(slots_of(&receiver.replica).damaged_slots(), vec![2]);
}

/// H24, and I2 of `replica/snapshot.rs`: nobody takes a snapshot for whole that has a hole where the
/// sender is damaged.
#[tokio::test]
async fn a_snapshot_is_never_finished_over_a_damaged_slot_of_the_sender() {
    let (disk, other) = (SimDisk::new(1), SimDisk::new(2));
    let mut sender = member(&disk, &[1, 2, 3]).await;
    sender.checkpoint().await;
    drop(sender);
    let mut sender = with_slot_2_damaged(&disk);
    let mut receiver = member(&other, &[]).await;
    let (is_sent, is_received, _) = transfer(&mut sender, &mut receiver).await;
    assert!(!is_sent && !is_received);
    assert_eq!(receiver.replica.applied().log_id, None);
}

#[tokio::test]
async fn a_sender_that_leads_no_more_is_told_so() {
    let (disk, other) = (SimDisk::new(1), SimDisk::new(2));
    let mut sender = member(&disk, &[1]).await;
    let mut receiver = member(&other, &[]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let sending = sender_of(&sender);
    let snapshot = labelled(&mut sender).await;
    let send = send(&sending, &address, snapshot);
    let (sent, received) = tokio::join!(send, receive(&listener, &mut receiver, Some(vote(2))));
    assert_eq!(sent.unwrap(), vote(2));
    assert!(!received);
    assert_eq!(receiver.value(1), None);
}

pub(super) fn begin() -> SnapshotBegin {
    let membership = membership_to(&StoredMembership::default());
    SnapshotBegin {
        vote: vote(1),
        log_id: stored(1, 4),
        membership,
        readable_from: 0,
        last_log: 9,
        horizon: 0,
    }
}

fn slots(nth: u64, key: u64) -> SnapshotSlots {
    let value = Some(Bytes::from_static(b"sent"));
    SnapshotSlots {
        nth,
        last_log: 9,
        images: Images::Slots(vec![SlotImage {
            slot: SlotIndex::new(key),
            index: LogIndex::new(3),
            value,
        }]),
    }
}

/// Sends these frames to an empty member; whether it installed them.
async fn disturbed(frames: impl FnOnce(&mut Vec<u8>)) -> (bool, Stores, SimDisk) {
    let disk = SimDisk::new(3);
    let mut receiver = member(&disk, &[]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let send = send_frames(listener.local_addr().unwrap(), frames);
    let (is_installed, ()) = tokio::join!(receive(&listener, &mut receiver, None), send);
    (is_installed, receiver, disk)
}

/// Sends these frames as a snapshot's, and nothing behind them.
async fn send_frames(address: SocketAddr, frames: impl FnOnce(&mut Vec<u8>)) {
    let caller = Caller::stranger(&Host::real());
    let route = Route::to_address(address.to_string());
    let (_, (mut reader, mut writer)) = caller.dial(&route, Purpose::Snapshot, None).await.unwrap();
    begin().put(&mut writer.buffer);
    writer.send().await.unwrap();
    reader.expect(FrameKind::SnapshotAccept).await.unwrap();
    frames(&mut writer.buffer);
    writer.send().await.unwrap();
    drop(writer); // nothing more comes
    drop(reader.next().await);
}

fn end(frames: u64, slots: u64) -> SnapshotEnd {
    SnapshotEnd { frames, slots, applied: 4, last_log: 9 }
}

#[tokio::test]
async fn frames_dropped_doubled_swapped_or_cut_off_install_nothing() {
    let whole = disturbed(|out| {
        slots(0, 5).put(out);
        slots(1, 6).put(out);
        end(2, 2).put(out);
    });
    assert!(whole.await.0, "the test's own frames are good");
    let scripts: [(&str, Vec<SnapshotSlots>, Option<SnapshotEnd>); 7] = [
        ("dropped", vec![slots(0, 5)], Some(end(2, 2))),
        ("dropped in the middle", vec![slots(0, 5), slots(2, 6)], Some(end(3, 3))),
        ("doubled", vec![slots(0, 5), slots(0, 5)], Some(end(1, 1))),
        ("swapped", vec![slots(1, 6), slots(0, 5)], Some(end(2, 2))),
        ("slots missing", vec![slots(0, 5)], Some(end(1, 2))),
        ("cut off", vec![slots(0, 5)], None),
        ("of no slot", vec![slots(0, 5), slots(1, super::SLOT_COUNT)], Some(end(2, 2))),
    ];
    for (name, frames, last) in scripts {
        let (is_installed, receiver, disk) = disturbed(|out| {
            for frame in &frames {
                frame.put(out);
            }
            if let Some(frame) = last {
                frame.put(out);
            }
        })
        .await;
        assert!(!is_installed, "{name}");
        assert_eq!(receiver.replica.applied().log_id, None, "{name}");
        assert!(!receiver.replica.is_readable(), "{name}");
        // Slots ahead are found by the next start too.
        let replica = receiver.replica.clone();
        tokio::task::spawn_blocking(move || replica.write_back().unwrap()).await.unwrap();
        let mut after = after_power_loss(&disk).open();
        assert!(!after.replica.is_readable(), "{name}");
        assert_eq!(after.machine.applied_state().await.unwrap().0, None, "{name}");
        assert_eq!(after.log.get_log_state().await.unwrap().last_log_id, Some(log_id(1, 0)));
    }
}

/// F11: the disk fails while slots of a snapshot that still comes are written back.
#[tokio::test]
async fn a_write_that_fails_under_a_snapshot_is_told_as_the_disks() {
    let disk = SimDisk::new(3);
    let receiver = member(&disk, &[]).await;
    disk.fail_next(OperationKind::Write, SLOTS_FILE, EIO);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let send = send_frames(address, |out| {
        slots(0, 5).put(out);
        slots(1, 6).put(out);
        end(2, 2).put(out);
    });
    let take = async {
        let (mut reader, mut writer) = accept(&listener).await;
        let judge = |_: &SnapshotBegin| Ok(None);
        snapshot::receive(&receiver.replica, &mut reader, &mut writer, &judge).await.unwrap_err()
    };
    let (error, ()) = tokio::join!(take, send);
    assert!(snapshot::disk_failure(&error).is_some(), "{error}");
    let cut = io::Error::from(io::ErrorKind::UnexpectedEof);
    assert!(snapshot::disk_failure(&cut).is_none());
}

/// I3 of `replica/snapshot.rs`: what a receiver must replay behind a snapshot stays while it is sent,
/// and before that: from the moment that the snapshot has its label.
#[tokio::test]
async fn the_log_behind_a_snapshot_is_not_purged() {
    let mut stores = member(&SimDisk::new(1), &[1, 2, 3]).await;
    let replica = stores.replica.clone();
    assert_eq!(replica.purge_bound(), u64::MAX);
    let snapshot = labelled(&mut stores).await;
    assert_eq!(replica.purge_bound(), 3);
    stores.apply(vec![increment(1, 4, 4)]).await.unwrap();
    let later = labelled(&mut stores).await;
    assert_eq!(replica.purge_bound(), 3);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let sender = sender_of(&stores);
    let sending = tokio::spawn(async move { send(&sender, &address, snapshot).await.is_ok() });
    let (mut reader, writer) = accept(&listener).await;
    reader.expect(FrameKind::SnapshotBegin).await.unwrap();
    assert_eq!(replica.purge_bound(), 3);
    drop((reader, writer));
    assert!(!sending.await.unwrap());
    assert_eq!(replica.purge_bound(), 4, "a transfer that failed holds nothing");
    drop(later);
    assert_eq!(replica.purge_bound(), u64::MAX);
}
