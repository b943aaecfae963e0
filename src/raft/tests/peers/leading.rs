//! A member that leads alone: what it purges, what its replies promise, whom it takes in.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Wake, Waker};

use diskstore_storage::LogIndex;
use diskstore_storage::state::MEMBERSHIP_BYTES_MAX;

use super::{BOUND, MEMBER, leader, set, start_with};
use crate::peer::{Member, NAME_BYTES_MAX};
use crate::raft::types::{Membership, encode_membership};
use crate::raft::{Consensus, MemberError};
use crate::replica::Replica;

/// Writes so many entries; the index of the last.
async fn applied(consensus: &Consensus, count: u64) -> u64 {
    let commands = (0..count).map(|_| set(0)).collect(); // of one key, so each has an entry
    let replies = consensus.propose(commands, BOUND).await;
    replies.last().unwrap().as_ref().unwrap().index
}

/// I3 of `replica/snapshot.rs`: whoever is sent one replays the log behind its label.
#[tokio::test]
async fn the_log_is_purged_no_further_than_a_snapshot_on_its_way_needs() {
    let consensus = leader().await;
    let label = applied(&consensus, 3).await;
    let snapshot = consensus.raft.get_snapshot().await.unwrap().expect("something is applied");
    assert_eq!(snapshot.meta.last_log_id.unwrap().index, label);
    let last = applied(&consensus, 5).await;
    assert!(consensus.checkpoint(BOUND).await >= Some(last));
    consensus.purge_now(0, BOUND).await;
    assert_eq!(consensus.view().purged, Some(LogIndex::new(label)));
    drop(snapshot);
    consensus.purge_now(0, BOUND).await;
    assert!(consensus.view().purged > Some(LogIndex::new(label)), "{:?}", consensus.view().purged);
    consensus.stop().await;
}

/// C11: a restart begins at the checkpoint, and applies what the log holds behind it.
#[tokio::test]
async fn the_log_is_purged_no_further_than_the_checkpoint() {
    let consensus = leader().await;
    let last = applied(&consensus, 3).await;
    let checkpoint = consensus.checkpoint(BOUND).await;
    assert_eq!(checkpoint, Some(last));
    applied(&consensus, 5).await;
    consensus.purge_now(0, BOUND).await;
    assert_eq!(consensus.view().purged, checkpoint.map(LogIndex::new));
    consensus.stop().await;
}

/// What is applied at the moment in which whoever waits for a reply is woken.
struct AtWake {
    replica: Arc<Replica>,
    applied: AtomicU64,
    task: Waker,
}

impl Wake for AtWake {
    fn wake(self: Arc<Self>) {
        self.applied.store(self.replica.applied_index(), Ordering::SeqCst);
        self.task.wake_by_ref();
    }
}

/// I2 of `raft/state_machine.rs`.
#[tokio::test]
async fn whoever_has_a_reply_can_read_what_it_says() {
    let consensus = leader().await;
    for slot in 0..3 {
        let mut writing = Box::pin(consensus.raft.client_write(set(slot)));
        let mut at_wake = None;
        let written = poll_fn(|context| {
            let (replica, task) = (consensus.replica().clone(), context.waker().clone());
            let waker = Arc::new(AtWake { replica, applied: AtomicU64::new(0), task });
            let polled = writing.as_mut().poll(&mut Context::from_waker(&waker.clone().into()));
            if polled.is_pending() {
                at_wake = Some(waker);
            }
            polled
        });
        let index = written.await.unwrap().log_id.index;
        let applied = at_wake.expect("it had to wait").applied.load(Ordering::SeqCst);
        assert!(applied >= index, "the reply came at {applied}, before {index} could be read");
    }
    consensus.stop().await;
}

/// It would be committed, and then no member could keep it in a superblock.
#[tokio::test]
async fn a_member_whose_record_has_no_room_is_refused_and_a_shorter_one_taken_in() {
    let name = "n".repeat(NAME_BYTES_MAX);
    let long = Member {
        name: name.clone(),
        raft_address: name.clone(),
        client_address: name,
        ..Member::default()
    };
    let mut nodes = BTreeMap::from([(MEMBER, Member::default())]);
    let room = |nodes: &BTreeMap<u64, Member>| {
        let voters: BTreeSet<u64> = nodes.keys().copied().collect();
        let half_way = Membership::new(vec![voters.clone(), voters], nodes.clone()).unwrap();
        MEMBERSHIP_BYTES_MAX.checked_sub(encode_membership(&half_way).len())
    };
    let voters = vec![BTreeSet::from([MEMBER])];
    while room(&nodes).unwrap() > 800 {
        nodes.insert(1000 + nodes.len() as u64, long.clone());
    }
    let members = Membership::new(voters, nodes.clone()).unwrap();
    let started = start_with(members, false).await;
    started.leads().await;
    let mut taken = 0;
    let error = loop {
        match started.consensus.set_member(5000 + taken, long.clone()).await {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 3, "no room was left for so many");
    };
    assert!(matches!(error, MemberError::TooLong { .. }), "{error}");
    started.consensus.set_member(6000, Member::default()).await.unwrap();
    assert!(started.consensus.is_named());
    assert!(started.consensus.view().members.contains_key(&6000));
    assert!(started.consensus.checkpoint(BOUND).await.is_some());
    started.consensus.stop().await;
}

/// Else it would be ended, and otherwise than it was meant.
#[tokio::test]
async fn no_record_is_changed_while_the_voters_change() {
    let voters = BTreeSet::from([MEMBER]);
    let nodes = BTreeMap::from([(MEMBER, Member::default())]);
    let half_way = Membership::new(vec![voters.clone(), voters], nodes).unwrap();
    let started = start_with(half_way, false).await;
    started.leads().await;
    let error = started.consensus.set_member(5000, Member::default()).await.unwrap_err();
    assert!(error.to_string().contains("is just being changed"), "{error}");
    let view = started.consensus.view();
    assert!(view.is_joint && !view.members.contains_key(&5000), "{view:?}");
    started.consensus.stop().await;
}
