//! A member as its peers meet it: who may speak to it, and what it says after a start.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use diskstore_storage::disk::SimDisk;
use diskstore_storage::slots::MEMBERSHIP_BYTES_MAX;
use diskstore_storage::{LogId as StoredLogId, Vote as StoredVote};
use openraft::raft::VoteRequest;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::{CLUSTER, Place, log_id, membership, normal};
use crate::command::{Command, slot_key};
use crate::fault::{EXIT_DATA_LOST, Faults};
use crate::machine::{DiskMachine, Machine};
use crate::raft::channel::Channel;
use crate::raft::connection::dial;
use crate::raft::requests::{Method, decode_vote_reply, encode_vote};
use crate::raft::types::{
    Entry, Member, Membership, NAME_BYTES_MAX, TypeConfig, encode_membership, entry_to, vote_from,
};
use crate::raft::wire::{Hello, Purpose};
use crate::raft::{Consensus, MachineShared, MemberError, Setup, Zone};

/// The member under test.
const MEMBER: u64 = 2;
const BOUND: Duration = Duration::from_secs(20);

struct Started {
    address: String,
    faults: Faults,
    consensus: Arc<Consensus>,
}

/// Starts a voter of three whose log ends at index 2 of term 1, under a vote for member 1.
async fn start(is_restart: bool) -> Started {
    start_with(membership(&[1, MEMBER, 3]), is_restart).await
}

async fn start_with(members: Membership, is_restart: bool) -> Started {
    let place = Place::on(&SimDisk::new(1));
    let wal = Arc::new(place.open_wal_of(1 << 20)); // a membership may take 64 KiB
    wal.save_vote(StoredVote { term: 1, node_id: 1, committed: true });
    let voters = openraft::entry::EntryPayload::Membership(members);
    let first: Entry = openraft::entry::RaftEntry::new(log_id(1, 0), voters);
    let rest = (1..=2).map(|index| normal(1, index, Command::default()));
    wal.append(std::iter::once(first).chain(rest).map(entry_to)).unwrap();
    let faults = Faults::new();
    let setup = Setup {
        cluster_id: CLUSTER,
        member_id: MEMBER,
        wal,
        machine: Machine::Slots(DiskMachine::new(Arc::new(place.open_slots()))),
        applied: None,
        oplog: None,
        faults: faults.clone(),
        is_restart,
    };
    let (consensus, _requests) = Box::pin(Consensus::start(setup)).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(consensus.serve(listener, Zone::Peers)); // it goes on without its handle
    Started { address, faults, consensus }
}

fn hello(purpose: Purpose) -> Hello {
    Hello { cluster_id: CLUSTER, from: 1, to: MEMBER, purpose, acknowledged: None }
}

/// Asks for a vote in term 5 with a log that is long enough.
async fn is_vote_granted(started: &Started, method: Method) -> bool {
    let channel = Channel::new(started.address.clone(), hello(Purpose::Requests));
    let vote = vote_from(StoredVote { term: 5, node_id: 1, committed: false });
    let request = VoteRequest::<TypeConfig>::new(vote, Some(log_id(1, 9)));
    let answer = channel.call(method, encode_vote(&request).into(), BOUND).await.unwrap();
    decode_vote_reply(answer).unwrap().vote_granted
}

#[tokio::test]
async fn an_entry_that_may_never_be_committed_makes_nobody_a_member() {
    let started = start(false).await;
    let known = async {
        while !started.consensus.view().members.contains_key(&MEMBER) {
            started.consensus.changed(BOUND).await;
        }
    };
    tokio::time::timeout(BOUND, known).await.expect("the log names it");
    assert!(!started.consensus.is_named());
    started.consensus.stop().await;
}

/// PITFALLS 12: it has forgotten the lease that it granted to the leader before it.
#[tokio::test]
async fn a_voter_that_restarts_gives_no_vote_while_a_lease_may_run() {
    for method in [Method::PreVote, Method::Vote] {
        let restarted = start(true).await;
        assert!(!is_vote_granted(&restarted, method).await);
        assert_eq!(restarted.consensus.wal().state().vote.unwrap().term, 1);
        restarted.consensus.stop().await;
    }
}

/// The other half of it: nor does it stand for election in place of a leader that may have a lease.
#[tokio::test]
async fn a_voter_that_restarts_campaigns_only_after_a_lease_may_have_run_out() {
    let restarted = start(true).await;
    restarted.consensus.allow_elections().await;
    assert!(Instant::now() >= restarted.consensus.peers.silent_until);
    restarted.consensus.stop().await;
}

/// The only voter, once it has its lease.
async fn leader() -> Arc<Consensus> {
    let Started { consensus, .. } = start_with(membership(&[MEMBER]), false).await;
    consensus.allow_elections().await;
    let leads = async {
        while !consensus.holds_lease() {
            consensus.changed_data(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(BOUND, leads).await.expect("nobody else can lead");
    consensus
}

#[tokio::test]
async fn a_leader_that_hands_over_trusts_its_lease_no_more() {
    let consensus = leader().await;
    let term = consensus.view().term;
    consensus.handing_over_in.store(term - 1, Ordering::Release);
    assert!(consensus.holds_lease(), "that was another leadership");
    consensus.handing_over_in.store(term, Ordering::Release);
    assert!(!consensus.holds_lease(), "the heir may lead already");
    consensus.stop().await;
}

#[tokio::test]
async fn a_leader_whose_slots_are_no_state_that_ever_was_reads_none_of_them() {
    let consensus = leader().await;
    let shared = consensus.shared();
    shared.machine.set_readable_from(shared.applied_index() + 1).unwrap();
    assert!(!consensus.holds_lease());
    consensus.stop().await;
}

fn set(slot: u64) -> Command {
    Command::set(&slot_key(slot), b"value").unwrap()
}

async fn applied(consensus: &Consensus, count: u64) -> u64 {
    let commands = (0..count).map(set).collect();
    let replies = consensus.propose(commands, BOUND).await;
    replies.last().unwrap().as_ref().unwrap().index
}

/// I3 of `raft/snapshot.rs`: whoever is sent one replays the log behind its label.
#[tokio::test]
async fn the_log_is_purged_no_further_than_a_snapshot_on_its_way_needs() {
    let consensus = leader().await;
    let label = applied(&consensus, 3).await;
    let snapshot = consensus.raft.get_snapshot().await.unwrap().expect("something is applied");
    assert_eq!(snapshot.meta.last_log_id.unwrap().index, label);
    let last = applied(&consensus, 5).await;
    assert!(consensus.checkpoint(BOUND).await >= Some(last));
    consensus.purge_now(0, BOUND).await;
    assert_eq!(consensus.view().purged, Some(label));
    drop(snapshot);
    consensus.purge_now(0, BOUND).await;
    assert!(consensus.view().purged > Some(label), "{:?}", consensus.view().purged);
    consensus.stop().await;
}

/// What is applied at the moment in which whoever waits for a reply is woken.
struct AtWake {
    shared: Arc<MachineShared>,
    applied: AtomicU64,
    task: Waker,
}

impl Wake for AtWake {
    fn wake(self: Arc<Self>) {
        self.applied.store(self.shared.applied_index(), Ordering::SeqCst);
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
            let (shared, task) = (consensus.shared().clone(), context.waker().clone());
            let waker = Arc::new(AtWake { shared, applied: AtomicU64::new(0), task });
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

#[tokio::test]
async fn a_voter_that_never_ran_before_gives_its_vote_at_once() {
    let new = start(false).await;
    assert!(is_vote_granted(&new, Method::Vote).await);
    assert_eq!(new.consensus.wal().durable(), new.consensus.wal().position());
    new.consensus.stop().await;
}

/// C17 and F25.
#[tokio::test]
async fn only_members_of_the_cluster_that_mean_this_member_are_let_in() {
    let started = start(false).await;
    let refused = [
        (Hello { cluster_id: 0xbad, ..hello(Purpose::Append) }, "cluster"),
        (Hello { to: 3, ..hello(Purpose::Append) }, "not 0000000000000003"),
        (Hello { from: MEMBER, ..hello(Purpose::Append) }, "this member itself"),
        (Hello { cluster_id: 0, ..hello(Purpose::Append) }, "only requests to join"),
    ];
    for (hello, reason) in refused {
        let error = dial(&started.address, &hello).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains(reason), "{error}");
    }
    dial(&started.address, &hello(Purpose::Append)).await.unwrap();
    assert_eq!(started.faults.current(), None);
    started.consensus.stop().await;
}

/// C16 and F26: its disk lost what it had acknowledged, so its vote may not count any more.
#[tokio::test]
async fn a_member_whose_log_went_backwards_stops_with_its_own_exit_code() {
    let started = start(true).await;
    let vote = StoredVote { term: 1, node_id: 1, committed: true };
    let told = |vote, index| Hello {
        acknowledged: Some((vote, StoredLogId { term: 1, index })),
        ..hello(Purpose::Append)
    };
    dial(&started.address, &told(vote, 2)).await.unwrap();
    // Under another vote a shorter log is healthy: its tail was truncated.
    dial(&started.address, &told(StoredVote { term: 7, ..vote }, 9)).await.unwrap();
    assert_eq!(started.faults.current(), None);
    dial(&started.address, &told(vote, 9)).await.unwrap_err();
    let fault = tokio::time::timeout(BOUND, started.faults.wait()).await.unwrap();
    assert_eq!(fault.exit_code, EXIT_DATA_LOST);
    assert!(fault.reason.contains("lost acknowledged data"), "{}", fault.reason);
    started.consensus.stop().await;
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
    started.consensus.allow_elections().await;
    tokio::time::timeout(BOUND, async {
        while !started.consensus.view().is_leader {
            started.consensus.changed(BOUND).await;
        }
    })
    .await
    .unwrap();
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
