//! A member as its peers meet it: who may speak to it, and what it says after a start.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use diskstore_storage::disk::SimDisk;
use diskstore_storage::state::{self, MEMBERSHIP_BYTES_MAX};
use diskstore_storage::{LogId as StoredLogId, MemberId, Term, Vote as StoredVote};
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::{BOUNDS, CLUSTER, Place, blank, log_id, membership, normal};
use crate::command::{Command, Failure, ReadLevel, slot_key};
use crate::fault::{EXIT_DATA_LOST, Faults};
use crate::host::{Host, Net};
use crate::machine::{DiskMachine, Machine};
use crate::peer::append::AppendReply;
use crate::peer::requests::{
    encode_whereabouts_reply, put_request, put_response, read_request, read_response,
};
use crate::peer::votes::BallotReply;
use crate::peer::{
    Caller, Channel, Connection, FrameKind, Greeting, Hello, Member, Method, NAME_BYTES_MAX,
    Purpose, Route, Welcome, Whoever, decode_results, dial, encode_commands, split,
};
use crate::raft::types::{
    Entry, Membership, TypeConfig, ballot_to, encode_membership, entry_to, put_append, vote_from,
};
use crate::raft::{Consensus, MemberError, Setup, Zone};
use crate::replica::Replica;
use crate::replica::snapshot_frames::{SnapshotBegin, SnapshotEnd};

/// The member under test.
const MEMBER: u64 = 2;
const BOUND: Duration = Duration::from_secs(20);

/// The process id of the member under test.
const PROCESS: u64 = 0x20;
/// Another cluster.
const OTHER_CLUSTER: u128 = 0xbad;

struct Started {
    address: String,
    faults: Faults,
    consensus: Arc<Consensus>,
    /// Member 1, as the log of the member under test has it.
    leader: Arc<Caller>,
}

/// A process that is a member: it listens, and says which connections are its own.
async fn process_of(cluster_id: u128, member_id: u64, process: u64) -> (Arc<Caller>, String) {
    let process = saying(Whoever { cluster_id, member_id, process }, None).await;
    (process.caller, process.address)
}

/// A process that listens until it is dropped. What it accepted stays open.
struct Process {
    caller: Arc<Caller>,
    faults: Faults,
    address: String,
    /// Connections that it took, but for those that asked which are its own.
    taken: mpsc::UnboundedReceiver<(Whoever, Connection)>,
    listening: JoinHandle<()>,
}

impl Process {
    /// It listens no more.
    async fn leaves(self) -> mpsc::UnboundedReceiver<(Whoever, Connection)> {
        self.listening.abort();
        drop(self.listening.await);
        self.taken
    }
}

/// A process that says which connections are its own, and to all others what `answer` is, as who it
/// says that it is; without an answer only the former.
async fn saying(me: Whoever, answer: Option<Welcome>) -> Process {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let faults = Faults::new();
    let caller = Caller::new(&Host::real(), me, address.clone(), faults.clone());
    let answering = caller.clone();
    let (take, taken) = mpsc::unbounded_channel();
    let listening = tokio::spawn(async move {
        loop {
            let (mut reader, mut writer) = split(listener.accept().await.unwrap().0).unwrap();
            let Ok(body) = reader.expect(FrameKind::Hello).await else { continue };
            let hello = Hello::decode(body).unwrap();
            let said = answer.as_ref().filter(|_| hello.purpose != Purpose::Confirm);
            said.unwrap_or(&answering.answer_to(&hello)).put(&mut writer.buffer);
            drop(writer.send().await); // whoever asked may have gone
            if said.is_some() {
                let from = Whoever { cluster_id: hello.cluster_id, member_id: hello.from, ..me };
                drop(take.send((from, (reader, writer))));
            }
        }
    });
    Process { caller, faults, address, taken, listening }
}

/// An address at which nobody listens.
async fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
}

/// Starts a voter of three whose log ends at index 2 of term 1, under a vote for member 1.
async fn start(is_restart: bool) -> Started {
    let (leader, address) = process_of(CLUSTER, 1, 0x10).await;
    Started { leader, ..start_with(voters_with(address), is_restart).await }
}

/// Three voters, of which only member 1 has an address.
fn voters_with(raft_address: String) -> Membership {
    voters_at(raft_address, String::new())
}

/// Three voters with the addresses of members 1 and 3.
fn voters_at(one: String, three: String) -> Membership {
    let at = |raft_address| Member { raft_address, ..Member::default() };
    let nodes = BTreeMap::from([(1, at(one)), (MEMBER, Member::default()), (3, at(three))]);
    Membership::new(vec![nodes.keys().copied().collect()], nodes).unwrap()
}

async fn start_with(members: Membership, is_restart: bool) -> Started {
    start_joined(Some(members), is_restart, &[]).await
}

/// With a log, or without one, and with what `-join` names.
async fn start_joined(
    members: Option<Membership>,
    is_restart: bool,
    targets: &[String],
) -> Started {
    let me = Whoever { cluster_id: CLUSTER, member_id: MEMBER, process: PROCESS };
    start_as(me, members, is_restart, targets).await
}

/// The same of any cluster.
async fn start_as(
    me: Whoever,
    members: Option<Membership>,
    is_restart: bool,
    targets: &[String],
) -> Started {
    let place = Place::on(&SimDisk::new(1));
    let wal = Arc::new(place.open_wal_of(1 << 20)); // a membership may take 64 KiB
    if let Some(members) = members {
        wal.save_vote(StoredVote {
            term: Term::new(1),
            node_id: MemberId::new(1),
            committed: true,
        });
        let voters = openraft::entry::EntryPayload::Membership(members);
        let first: Entry = openraft::entry::RaftEntry::new(log_id(1, 0), voters);
        let rest = (1..=2).map(|index| normal(1, index, Command::default()));
        wal.append(std::iter::once(first).chain(rest).map(entry_to)).unwrap();
    }
    let faults = Faults::new();
    let setup = Setup {
        caller: Caller::new(&Host::real(), me, nobody().await, faults.clone()),
        wal,
        machine: Machine::Slots(DiskMachine::new(Arc::new(place.open_slots()))),
        applied: None,
        oplog: None,
        faults: faults.clone(),
        is_restart,
        join_targets: targets.to_vec(),
        leads_for: Duration::from_mins(1),
        bounds: BOUNDS,
    };
    let (consensus, _requests) = Box::pin(Consensus::start(setup)).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(consensus.serve(listener, Zone::Peers)); // it goes on without its handle
    Started { address, faults, consensus, leader: Caller::stranger(&Host::real()) }
}

impl Started {
    /// Waits until this lone voter leads and has applied that it is one.
    async fn leads(&self) {
        self.consensus.allow_elections().await;
        let leads = async {
            while !self.consensus.view().is_leader || !self.consensus.is_named() {
                self.consensus.changed_data(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(BOUND, leads).await.expect("nobody else can lead");
    }

    fn route(&self) -> Route {
        Route::to_member(MEMBER, self.address.clone(), None)
    }

    /// Dials the member under test.
    async fn dial(
        &self,
        caller: &Caller,
        purpose: Purpose,
        acknowledged: Option<(StoredVote, StoredLogId)>,
    ) -> std::io::Result<Connection> {
        let dialled = caller.dial(&self.route(), purpose, acknowledged).await;
        dialled.map(|(_, connection)| connection)
    }
}

/// A hello in the name of member 1 that is not one of its own.
fn forged(purpose: Purpose, address: &str) -> Hello {
    Hello {
        cluster_id: CLUSTER,
        from: 1,
        to: MEMBER,
        purpose,
        process: 0x66,
        token: 0x6666,
        address: address.into(),
        acknowledged: None,
    }
}

/// Asks for a vote in term 5 with a log that is long enough.
async fn is_vote_granted(started: &Started, method: Method) -> bool {
    let channel = Channel::new(started.leader.clone(), started.route());
    let vote =
        vote_from(StoredVote { term: Term::new(5), node_id: MemberId::new(1), committed: false });
    let request = VoteRequest::<TypeConfig>::new(vote, Some(log_id(1, 9)));
    let answer = channel.call(method, ballot_to(&request).encode().into(), BOUND).await.unwrap();
    BallotReply::decode(answer).unwrap().is_granted
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

/// Whoever asks right after the start would else take it for a member of no cluster: one that was to
/// be silent for an election timeout would campaign at once (H12).
#[tokio::test]
async fn the_members_are_known_as_soon_as_consensus_has_started() {
    for _ in 0..8 {
        let started = start(true).await;
        assert_eq!(started.consensus.view().members.len(), 3);
        started.consensus.stop().await;
    }
}

/// H12: it has forgotten the lease that it granted to the leader before it.
#[tokio::test]
async fn a_voter_that_restarts_gives_no_vote_while_a_lease_may_run() {
    for method in [Method::PreVote, Method::Vote] {
        let restarted = start(true).await;
        assert!(!is_vote_granted(&restarted, method).await);
        assert_eq!(restarted.consensus.wal().state().vote.unwrap().term, Term::new(1));
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
    let replica = consensus.replica();
    replica.machine.set_readable_from(replica.applied_index() + 1).unwrap();
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
    assert_eq!(consensus.view().purged, Some(label));
    drop(snapshot);
    consensus.purge_now(0, BOUND).await;
    assert!(consensus.view().purged > Some(label), "{:?}", consensus.view().purged);
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
    assert_eq!(consensus.view().purged, checkpoint);
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

#[tokio::test]
async fn a_voter_that_never_ran_before_gives_its_vote_at_once() {
    let new = start(false).await;
    assert!(is_vote_granted(&new, Method::Vote).await);
    // An empty batch may be on its way, which claims the one with the vote.
    assert_eq!(new.consensus.wal().unsynced_bytes(), 0);
    new.consensus.stop().await;
}

/// C17 and F25.
#[tokio::test]
async fn only_members_of_the_cluster_that_mean_this_member_are_let_in() {
    let started = start(false).await;
    let forged = forged(Purpose::Append, &nobody().await);
    let refused = [
        (Hello { cluster_id: OTHER_CLUSTER, ..forged.clone() }, "cluster"),
        (Hello { to: 3, ..forged.clone() }, "not 0000000000000003"),
        (Hello { from: MEMBER, ..forged.clone() }, "this member itself"),
        (
            Hello { from: MEMBER, process: PROCESS, ..forged.clone() },
            "the member itself that dials",
        ),
        (Hello { cluster_id: 0, ..forged }, "only requests to join"),
    ];
    for (hello, reason) in refused {
        let error = dial(&Net::Tcp, &started.address, &hello).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains(reason), "{error}");
    }
    started.dial(&started.leader, Purpose::Append, None).await.unwrap();
    assert_eq!(started.faults.current(), None);
    started.consensus.stop().await;
}

/// A hello names its cluster, and so finds the member that it is for among those that share a socket.
#[tokio::test]
async fn members_of_several_clusters_share_a_listener() {
    let one = start(false).await;
    let me = Whoever { cluster_id: OTHER_CLUSTER, member_id: 9, process: PROCESS };
    let other = start_as(me, None, false, &[]).await;
    let shared = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = shared.local_addr().unwrap().to_string();
    let members = [&*one.consensus, &*other.consensus];
    let serving = Consensus::serve_together(&members, shared, Zone::Peers);
    let hello = Hello { to: 77, ..forged(Purpose::Append, &nobody().await) };
    let answers = [
        (CLUSTER, format!("this is member {MEMBER:016x}, not")),
        (OTHER_CLUSTER, "this is member 0000000000000009, not".to_owned()),
        (0x77, format!("this is a member of cluster {CLUSTER:032x}, not")),
    ];
    for (cluster_id, answer) in answers {
        let hello = Hello { cluster_id, ..hello.clone() };
        let error = dial(&Net::Tcp, &address, &hello).await.unwrap_err();
        assert!(error.to_string().contains(&answer), "{error}");
    }
    let route = Route::to_member(MEMBER, address, None);
    one.leader.dial(&route, Purpose::Append, None).await.unwrap();
    serving.abort();
    one.consensus.stop().await;
    other.consensus.stop().await;
}

/// Anybody who knows the ids can write a hello: whatever is in it, the member at the address of the
/// log says that it is none of its own.
#[tokio::test]
async fn a_hello_that_its_member_does_not_confirm_is_refused_and_ends_nobody() {
    let started = start(true).await;
    let vote = StoredVote { term: Term::new(1), node_id: MemberId::new(1), committed: true };
    let beyond = Some((vote, StoredLogId { term: Term::new(1), index: 9 }));
    let stolen = started.leader.me().process;
    for purpose in [Purpose::Requests, Purpose::Append, Purpose::Snapshot] {
        for process in [0x66, stolen] {
            let forged = forged(purpose, &nobody().await);
            let hello = Hello { process, acknowledged: beyond, ..forged };
            let error = dial(&Net::Tcp, &started.address, &hello).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{error}");
        }
    }
    assert_eq!(started.faults.current(), None);
    assert_eq!(started.consensus.wal().state().vote, Some(vote));
    started.consensus.stop().await;
}

/// F26: the one that the log knows goes on, and the later one is told why it does not.
#[tokio::test]
async fn a_copy_of_a_running_member_is_refused_by_name_and_stops() {
    let started = start(true).await;
    let me = Whoever { process: 0x11, ..started.leader.me() };
    let faults = Faults::new();
    let copy = Caller::new(&Host::real(), me, nobody().await, faults.clone());
    let error = started.dial(&copy, Purpose::Requests, None).await.unwrap_err();
    assert!(error.to_string().contains("0000000000000001 runs already"), "{error}");
    assert!(faults.current().unwrap().reason.contains("a copy of its directory"));
    started.dial(&started.leader, Purpose::Requests, None).await.unwrap();
    assert_eq!(started.faults.current(), None);
    started.consensus.stop().await;
}

/// An address is not an identity: where nobody answers at the one that the log has, the member is
/// where its hello says. That is worth a connection, and ends no node.
#[tokio::test]
async fn a_member_that_moved_is_let_in_and_found_and_believed_no_loss_of_data() {
    let started = start_with(voters_with(nobody().await), true).await;
    let (moved, address) = process_of(CLUSTER, 1, 0x11).await;
    started.dial(&moved, Purpose::Append, None).await.unwrap();
    let route = started.consensus.network.route(1, &Member::default());
    assert_eq!(route.address(), address);
    let vote = StoredVote { term: Term::new(1), node_id: MemberId::new(1), committed: true };
    let beyond = Some((vote, StoredLogId { term: Term::new(1), index: 9 }));
    let error = started.dial(&moved, Purpose::Append, beyond).await.unwrap_err();
    assert!(error.to_string().contains("believed only of its leader"), "{error}");
    assert_eq!(started.faults.current(), None);
    started.consensus.stop().await;
}

/// The address that the log has is worth more than one that was only found: where another process
/// answers at that, nobody can know which of the two is the member. Neither is told to stop, and the
/// later one may have its address written to the log, and nothing else.
#[tokio::test]
async fn a_member_that_moved_again_is_no_copy_of_what_answers_where_it_was_found() {
    let started = start_with(voters_with(nobody().await), true).await;
    let (found, _address) = process_of(CLUSTER, 1, 0x11).await;
    started.dial(&found, Purpose::Append, None).await.unwrap();
    let moved = saying(Whoever { process: 0x12, ..found.me() }, None).await;
    let error = started.dial(&moved.caller, Purpose::Append, None).await.unwrap_err();
    assert!(error.to_string().contains("another process answers"), "{error}");
    assert_eq!(moved.faults.current(), None);
    let dialled = started.dial(&moved.caller, Purpose::Requests, None).await;
    let (mut reader, mut writer) = dialled.unwrap();
    // Nothing is proposed of what it forwards, and it hears so: its clients need not wonder.
    let body = encode_commands(&[Command::default(), set(1)], ReadLevel::Log);
    for method in [Method::Write, Method::Read] {
        put_request(&mut writer.buffer, 7, method, &body);
        writer.send().await.unwrap();
        let answer = read_response(reader.expect(FrameKind::Response).await.unwrap()).unwrap();
        let results = decode_results(answer.1, 2).unwrap();
        assert!(matches!(results[..], [Err(Failure::NotLeader { .. }), Err(_)]), "{results:?}");
    }
    put_request(&mut writer.buffer, 1, Method::Vote, b"");
    writer.send().await.unwrap();
    assert!(reader.next().await.unwrap().is_none(), "it is closed");
    started.consensus.stop().await;
}

/// Whoever listens at an address may say anything.
#[tokio::test]
async fn a_connection_is_used_only_if_the_member_that_is_meant_answers() {
    let me = Whoever { cluster_id: CLUSTER, member_id: 7, process: 0x70 };
    for (cluster_id, member_id) in [(OTHER_CLUSTER, 1), (CLUSTER, 3)] {
        let from = Whoever { cluster_id, member_id, process: 1 };
        let other = saying(from, Some(Welcome { from, answer: Greeting::Accepted })).await;
        let caller = Caller::new(&Host::real(), me, nobody().await, Faults::new());
        let route = Route::to_member(1, other.address.clone(), None);
        let error = caller.dial(&route, Purpose::Requests, None).await.unwrap_err().to_string();
        let named = [(CLUSTER, 1), (cluster_id, member_id)];
        for (cluster_id, member_id) in named {
            assert!(error.contains(&format!("{member_id:016x}")), "{error}");
            assert!(error.contains(&format!("{cluster_id:032x}")), "{error}");
        }
    }
}

/// That a process is a copy is believed only of the member that is meant, where the log has it.
#[tokio::test]
async fn a_word_that_ends_a_process_is_believed_only_from_the_address_of_the_log() {
    let copy = |from| Welcome { from, answer: Greeting::Copy("a copy of its directory".into()) };
    let one = Whoever { cluster_id: CLUSTER, member_id: 1, process: 0x11 };
    // It was found somewhere, and says so there.
    let started = start_with(voters_with(nobody().await), true).await;
    let found = saying(one, Some(copy(one))).await;
    started.dial(&found.caller, Purpose::Requests, None).await.unwrap();
    let route = started.consensus.network.route(1, &Member::default());
    assert_eq!(route.address(), found.address);
    let dialled = started.consensus.caller().dial(&route, Purpose::Append, None).await;
    assert!(dialled.unwrap_err().to_string().contains("a copy of its directory"));
    assert_eq!(started.faults.current(), None);
    started.consensus.stop().await;
    // Somebody else is where the log has it; then the member itself.
    let three = Whoever { member_id: 3, ..one };
    for (from, is_believed) in [(three, false), (one, true)] {
        let there = saying(from, Some(copy(from))).await;
        let started = start_with(voters_with(there.address.clone()), true).await;
        let route = started.consensus.network.route(1, &Member::default());
        let dialled = started.consensus.caller().dial(&route, Purpose::Append, None).await;
        dialled.unwrap_err();
        assert_eq!(started.faults.current().is_some(), is_believed);
        started.consensus.stop().await;
    }
}

/// A connection to where a member was found does not outlive that it was found elsewhere.
#[tokio::test]
async fn a_connection_to_where_a_member_is_no_more_is_not_used_again() {
    let started = start_with(voters_with(nobody().await), true).await;
    let one = Whoever { cluster_id: CLUSTER, member_id: 1, process: 0x11 };
    let accepted = |from| Some(Welcome { from, answer: Greeting::Accepted });
    let mut first = saying(one, accepted(one)).await;
    started.dial(&first.caller, Purpose::Append, None).await.unwrap();
    let channel = started.consensus.network.channel(1, &Member::default());
    let call = || channel.call(Method::LogSpace, Bytes::new(), BOUND);
    let answer = |(_, (mut reader, mut writer)): (Whoever, Connection)| async move {
        let (id, _, _) = read_request(reader.expect(FrameKind::Request).await.unwrap()).unwrap();
        put_response(&mut writer.buffer, id, b"yes");
        writer.send().await.unwrap();
        (reader, writer)
    };
    let at_first = async { answer(first.taken.recv().await.unwrap()).await };
    let (called, _open) = tokio::join!(call(), at_first);
    called.unwrap();
    let _still_open = first.leaves().await;
    let mut second = saying(one, accepted(one)).await;
    started.dial(&second.caller, Purpose::Append, None).await.unwrap();
    let at_second = async { answer(second.taken.recv().await.unwrap()).await };
    let both = async { tokio::join!(call(), at_second) };
    let (called, _open) = tokio::time::timeout(BOUND, both).await.expect("it is dialled there");
    called.unwrap();
    started.consensus.stop().await;
}

/// Claims in the name of a member, at addresses where nobody ever answers, are looked into for as long
/// as that takes. The member itself, where the log has it, does not wait behind them.
#[tokio::test]
async fn slow_claims_in_the_name_of_a_member_do_not_keep_it_out() {
    let started = start(false).await;
    let slow = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = slow.local_addr().unwrap().to_string();
    let (mut forging, mut asked) = (JoinSet::new(), Vec::new());
    for _ in 0..16 {
        let (to, hello) = (started.address.clone(), forged(Purpose::Append, &address));
        forging.spawn(async move { dial(&Net::Tcp, &to, &hello).await.map(drop) });
    }
    let mut ended = 0;
    while asked.len() + ended < 16 {
        tokio::select! {
            accepted = slow.accept() => asked.push(accepted.unwrap()),
            Some(dialled) = forging.join_next() => {
                dialled.unwrap().unwrap_err();
                ended += 1;
            }
        }
    }
    started.dial(&started.leader, Purpose::Append, None).await.unwrap();
    started.consensus.stop().await;
}

/// Of the hello of a member: whether it is one for entries, and votes over it.
async fn is_believed(started: &Started, caller: &Caller) -> bool {
    let appends = started.dial(caller, Purpose::Append, None).await;
    let is_voting = is_vote_answered(started, caller).await;
    assert_eq!(appends.is_ok(), is_voting);
    assert_eq!(started.dial(caller, Purpose::Snapshot, None).await.is_ok(), is_voting);
    is_voting
}

/// Asks for a vote in term 5, which is or is not answered.
async fn is_vote_answered(started: &Started, caller: &Caller) -> bool {
    let before = started.consensus.wal().state().vote;
    let node_id = caller.me().member_id;
    let vote = vote_from(StoredVote {
        term: Term::new(5),
        node_id: MemberId::new(node_id),
        committed: false,
    });
    let request = VoteRequest::<TypeConfig>::new(vote, Some(log_id(1, 9)));
    let dialled = started.dial(caller, Purpose::Requests, None).await;
    let (mut reader, mut writer) = dialled.expect("it may ask to join");
    put_request(&mut writer.buffer, 1, Method::Vote, &ballot_to(&request).encode());
    writer.send().await.unwrap();
    let is_answered = reader.next().await.unwrap().is_some();
    assert!(is_answered || started.consensus.wal().state().vote == before);
    is_answered
}

/// Member 1, which says that any other member is at this address.
async fn vouching_for(address: &str) -> String {
    let me = Whoever { cluster_id: CLUSTER, member_id: 1, process: 0x10 };
    let Process { mut taken, address: own, .. } =
        saying(me, Some(Welcome { from: me, answer: Greeting::Accepted })).await;
    let address = address.to_owned();
    tokio::spawn(async move {
        while let Some((_, (mut reader, mut writer))) = taken.recv().await {
            let Ok(body) = reader.expect(FrameKind::Request).await else { continue };
            let (id, method, _) = read_request(body).unwrap();
            assert_eq!(method, Method::Whereabouts);
            put_response(&mut writer.buffer, id, &encode_whereabouts_reply(&address));
            drop(writer.send().await); // whoever asked may have gone
        }
    });
    own
}

/// Whoever can send a hello can listen, too, and say that it is his own.
#[tokio::test]
async fn a_stranger_with_an_id_that_no_member_vouches_for_may_only_ask_to_join() {
    let (stranger, address) = process_of(CLUSTER, 9, 0x90).await;
    let (_, elsewhere) = process_of(CLUSTER, 9, 0x91).await;
    let nowhere = nobody().await;
    for said in ["", &*nowhere, &*elsewhere] {
        let members = voters_with(vouching_for(said).await);
        let started = start_joined(Some(members), true, &[nobody().await]).await;
        assert!(!is_believed(&started, &stranger).await, "{said}");
        started.consensus.stop().await;
    }
    // Nobody is there to ask.
    let started = start_with(voters_with(nobody().await), true).await;
    assert!(!is_believed(&started, &stranger).await);
    assert_eq!(started.faults.current(), None);
    started.consensus.stop().await;
    // One that was away for long follows a leader that it does not know, if one that it knows does,
    // or one that it was told of.
    let voucher = vouching_for(&address).await;
    let cases = [(voucher.clone(), nobody().await), (nobody().await, voucher)];
    for (logged, target) in cases {
        let members = voters_with(logged);
        let started = start_joined(Some(members), false, &[target]).await;
        assert!(is_believed(&started, &stranger).await);
        started.consensus.stop().await;
    }
}

/// It has joined, and waits for whoever leads: it cannot know who that is.
#[tokio::test]
async fn a_member_without_any_log_follows_whoever_comes() {
    let (leader, _address) = process_of(CLUSTER, 9, 0x90).await;
    let started = start_joined(None, false, &[]).await;
    assert!(is_believed(&started, &leader).await);
    started.consensus.stop().await;
}

/// From then on it can ask those that its log names; the first comer may be anybody.
#[tokio::test]
async fn the_first_comer_is_believed_no_more_once_the_log_names_others() {
    for is_named in [true, false] {
        let (first, address) = process_of(CLUSTER, 9, 0x90).await;
        let started = start_joined(None, false, &[]).await;
        let dialled = started.dial(&first, Purpose::Append, None).await;
        let (mut reader, mut writer) = dialled.unwrap();
        let id = if is_named { 9 } else { 1 };
        let at = Member { raft_address: address, ..Member::default() };
        let nodes = BTreeMap::from([(id, at), (MEMBER, Member::default())]);
        let members = Membership::new(vec![nodes.keys().copied().collect()], nodes).unwrap();
        let entries = vec![openraft::entry::RaftEntry::new_membership(log_id(1, 0), members)];
        let leads = heartbeat(StoredVote {
            term: Term::new(1),
            node_id: MemberId::new(9),
            committed: true,
        });
        let append = AppendEntriesRequest { prev_log_id: None, entries, ..leads.clone() };
        put_append(&mut writer.buffer, append);
        writer.send().await.unwrap();
        reader.expect(FrameKind::AppendReply).await.unwrap();
        let known = async {
            while started.consensus.view().members.is_empty() {
                started.consensus.changed_data(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(BOUND, known).await.expect("its log names somebody");
        let prev_log_id = Some(log_id(1, 0));
        put_append(&mut writer.buffer, AppendEntriesRequest { prev_log_id, ..leads });
        writer.send().await.unwrap();
        assert_eq!(reader.next().await.unwrap().is_some(), is_named);
        assert_eq!(is_believed(&started, &first).await, is_named);
        started.consensus.stop().await;
    }
}

/// Neither the log's address nor the one where it was found answers, and neither refuses: whoever waited
/// for one after the other would be given up.
#[tokio::test]
async fn a_member_that_moved_twice_is_let_in_though_both_old_addresses_are_silent() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (three, address) = process_of(CLUSTER, 3, 0x30).await;
    let logged = silent.local_addr().unwrap().to_string();
    let started = start_with(voters_at(logged, address), false).await;
    let one = Whoever { cluster_id: CLUSTER, member_id: 1, process: 0x11 };
    let first = saying(one, None).await;
    started.dial(&first.caller, Purpose::Requests, None).await.unwrap();
    let found = first.address.clone();
    drop(first.leaves().await);
    let _silent_too = TcpListener::bind(&found).await.unwrap();
    let leads = StoredVote { term: Term::new(2), node_id: MemberId::new(3), committed: true };
    let dialled = started.dial(&three, Purpose::Append, None).await;
    let (mut reader, mut writer) = dialled.unwrap();
    put_append(&mut writer.buffer, heartbeat(leads));
    writer.send().await.unwrap();
    reader.expect(FrameKind::AppendReply).await.unwrap();
    let second = saying(Whoever { process: 0x12, ..one }, None).await;
    started.dial(&second.caller, Purpose::Requests, None).await.unwrap();
    assert_eq!(started.faults.current(), None);
    started.consensus.stop().await;
}

/// Entries of nobody, which are those of a leader that has nothing to say.
fn heartbeat(vote: StoredVote) -> AppendEntriesRequest<TypeConfig> {
    AppendEntriesRequest {
        vote: vote_from(vote),
        prev_log_id: Some(log_id(1, 2)),
        entries: Vec::new(),
        leader_commit: None,
    }
}

/// A member that moved can have its address registered while somebody leads, and has no need to be
/// believed before: it may be anybody who listens there in the name of one that does not run.
#[tokio::test]
async fn a_member_that_moved_is_not_believed_while_another_leads() {
    let (three, address) = process_of(CLUSTER, 3, 0x30).await;
    let started = start_with(voters_at(nobody().await, address), false).await;
    let (moved, _address) = process_of(CLUSTER, 1, 0x11).await;
    let connected = started.dial(&moved, Purpose::Append, None).await;
    let (mut old_reader, mut old_writer) = connected.expect("nobody leads");
    let leads = StoredVote { term: Term::new(2), node_id: MemberId::new(3), committed: true };
    let connected = started.dial(&three, Purpose::Append, None).await;
    let (mut reader, mut writer) = connected.unwrap();
    put_append(&mut writer.buffer, heartbeat(leads));
    writer.send().await.unwrap();
    reader.expect(FrameKind::AppendReply).await.unwrap();
    assert!(!is_believed(&started, &moved).await);
    let forged = StoredVote { term: Term::new(9), node_id: MemberId::new(1), committed: true };
    put_append(&mut old_writer.buffer, heartbeat(forged));
    old_writer.send().await.unwrap();
    assert!(old_reader.next().await.unwrap().is_none(), "it is closed");
    assert_eq!(started.consensus.wal().state().vote, Some(leads));
    assert!(is_believed(&started, &three).await);
    started.consensus.stop().await;
}

/// The same of the one that leads.
#[tokio::test]
async fn a_leader_believes_no_member_that_moved_and_finds_none_that_is_not_registered() {
    let gone = nobody().await;
    let follower = Member { raft_address: gone.clone(), ..Member::default() };
    let nodes = BTreeMap::from([(MEMBER, Member::default()), (1, follower)]);
    let members = Membership::new(vec![BTreeSet::from([MEMBER])], nodes).unwrap();
    let started = start_with(members, false).await;
    started.leads().await;
    let (moved, _address) = process_of(CLUSTER, 1, 0x11).await;
    assert!(!is_believed(&started, &moved).await);
    assert_eq!(started.consensus.network.route(1, &Member::default()).address(), gone);
    started.consensus.stop().await;
}

/// Whoever takes over the address that a member had gets hellos that are meant for it, and can pass
/// them on: they are confirmed to the member that they are meant for alone.
#[tokio::test]
async fn a_hello_that_was_passed_on_is_not_confirmed() {
    let started = start(true).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route = Route::to_member(3, listener.local_addr().unwrap().to_string(), None);
    let passing_on = async {
        let (mut reader, _writer) = split(listener.accept().await.unwrap().0).unwrap();
        let hello = Hello::decode(reader.expect(FrameKind::Hello).await.unwrap()).unwrap();
        dial(&Net::Tcp, &started.address, &Hello { to: MEMBER, ..hello }).await.unwrap_err()
    };
    let error = tokio::select! {
        error = passing_on => error,
        dialled = started.leader.dial(&route, Purpose::Append, None) => panic!("{dialled:?}"),
    };
    assert!(error.to_string().contains("confirms"), "{error}");
    started.consensus.stop().await;
}

/// H14: it was wiped and founded a cluster of its own. A stranger that says so is asked back.
#[tokio::test]
async fn a_lone_member_stops_only_for_a_member_of_another_cluster_that_is_one() {
    let started = start_with(membership(&[MEMBER]), false).await;
    started.leads().await;
    let (other, address) = process_of(OTHER_CLUSTER, 7, 0x70).await;
    for address in [nobody().await, address, started.address.clone()] {
        let hello =
            Hello { cluster_id: OTHER_CLUSTER, from: 7, ..forged(Purpose::Append, &address) };
        let error = dial(&Net::Tcp, &started.address, &hello).await.unwrap_err();
        assert!(error.to_string().contains("this is a member of cluster"), "{error}");
    }
    assert_eq!(started.faults.current(), None);
    started.dial(&other, Purpose::Append, None).await.unwrap_err();
    let fault = tokio::time::timeout(BOUND, started.faults.wait()).await.unwrap();
    assert!(fault.reason.contains("probably wiped"), "{}", fault.reason);
    started.consensus.stop().await;
}

/// A term of this size would be the last one: nobody could be elected any more.
#[tokio::test]
async fn a_vote_of_another_or_of_an_impossible_term_ends_its_connection_alone() {
    let started = start(false).await;
    let before = started.consensus.wal().state().vote;
    for (term, node_id) in [(u64::MAX, 1), (1 << 33, 1), (5, 3)] {
        let vote = vote_from(StoredVote {
            term: Term::new(term),
            node_id: MemberId::new(node_id),
            committed: false,
        });
        let request = ballot_to(&VoteRequest::<TypeConfig>::new(vote, Some(log_id(1, 9)))).encode();
        for method in [Method::Vote, Method::PreVote] {
            let dialled = started.dial(&started.leader, Purpose::Requests, None).await;
            let (mut reader, mut writer) = dialled.unwrap();
            put_request(&mut writer.buffer, 1, method, &request);
            writer.send().await.unwrap();
            assert!(reader.next().await.unwrap().is_none(), "it is closed");
        }
        let vote = vote_from(StoredVote {
            term: Term::new(term),
            node_id: MemberId::new(node_id),
            committed: true,
        });
        let append = AppendEntriesRequest {
            vote,
            prev_log_id: Some(log_id(1, 2)),
            entries: Vec::new(),
            leader_commit: None,
        };
        let dialled = started.dial(&started.leader, Purpose::Append, None).await;
        let (mut reader, mut writer) = dialled.unwrap();
        put_append(&mut writer.buffer, append);
        writer.send().await.unwrap();
        assert!(reader.next().await.unwrap().is_none(), "it is closed");
    }
    assert_eq!(started.consensus.wal().state().vote, before);
    assert!(is_vote_granted(&started, Method::Vote).await, "a possible one is answered");
    assert_eq!(started.faults.current(), None);
    started.consensus.stop().await;
}

/// A member whose log ends at index 2 of term 1, which is committed and applied.
async fn start_committed() -> Started {
    let started = start(false).await;
    let leads = StoredVote { term: Term::new(1), node_id: MemberId::new(1), committed: true };
    let dialled = started.dial(&started.leader, Purpose::Append, None).await;
    let (mut reader, mut writer) = dialled.unwrap();
    let append = AppendEntriesRequest { leader_commit: Some(log_id(1, 2)), ..heartbeat(leads) };
    put_append(&mut writer.buffer, append);
    writer.send().await.unwrap();
    reader.expect(FrameKind::AppendReply).await.unwrap();
    let applied = started.consensus.replica().wait_applied(2);
    tokio::time::timeout(BOUND, applied).await.expect("it is committed");
    started
}

/// openraft takes them for a store that is damaged, and panics.
#[tokio::test]
async fn entries_and_snapshots_that_contradict_what_is_committed_end_their_connection_alone() {
    let started = start_committed().await;
    let vote = StoredVote { term: Term::new(5), node_id: MemberId::new(1), committed: true };
    for (term, index) in [(5, 1), (5, 2)] {
        let dialled = started.dial(&started.leader, Purpose::Snapshot, None).await;
        let (mut reader, mut writer) = dialled.unwrap();
        let log_id = StoredLogId { term: Term::new(term), index };
        let body = encode_membership(&membership(&[MEMBER]));
        let membership = state::Membership { log_id: Some(log_id), body };
        let (readable_from, last_log, horizon) = (index, index, 0);
        SnapshotBegin { vote, log_id, membership, readable_from, last_log, horizon }
            .put(&mut writer.buffer);
        SnapshotEnd { frames: 0, slots: 0, applied: index, last_log }.put(&mut writer.buffer);
        writer.send().await.unwrap();
        assert!(reader.next().await.unwrap().is_none(), "it is closed");
    }
    for (prev, entries) in [(1, vec![]), (2, vec![]), (0, vec![blank(5, 1)])] {
        let dialled = started.dial(&started.leader, Purpose::Append, None).await;
        let (mut reader, mut writer) = dialled.unwrap();
        let term = if prev == 0 { 1 } else { 5 };
        let prev_log_id = Some(log_id(term, prev));
        put_append(
            &mut writer.buffer,
            AppendEntriesRequest { prev_log_id, entries, ..heartbeat(vote) },
        );
        writer.send().await.unwrap();
        assert!(reader.next().await.unwrap().is_none(), "it is closed");
    }
    // One of a vote that is no more is told so, for it may have what was never committed.
    let (mut reader, mut writer) =
        started.dial(&started.leader, Purpose::Append, None).await.unwrap();
    put_append(&mut writer.buffer, AppendEntriesRequest { leader_commit: None, ..heartbeat(vote) });
    writer.send().await.unwrap();
    reader.expect(FrameKind::AppendReply).await.unwrap();
    let old = StoredVote { term: Term::new(0), ..vote };
    let entries = vec![blank(0, 0), blank(0, 1), blank(0, 2)];
    put_append(
        &mut writer.buffer,
        AppendEntriesRequest { prev_log_id: None, entries, ..heartbeat(old) },
    );
    writer.send().await.unwrap();
    let told = AppendReply::decode(reader.expect(FrameKind::AppendReply).await.unwrap()).unwrap();
    assert_eq!(told, AppendReply::HigherVote(vote));
    is_vote_granted(&started, Method::Vote).await; // it answers
    assert_eq!(started.faults.current(), None);
    started.consensus.stop().await;
}

/// C16 and F26: its disk lost what it had acknowledged, so its vote may not count any more.
#[tokio::test]
async fn a_member_whose_log_went_backwards_stops_with_its_own_exit_code() {
    let started = start(true).await;
    let vote = StoredVote { term: Term::new(1), node_id: MemberId::new(1), committed: true };
    let told = |vote, index| {
        let acknowledged = Some((vote, StoredLogId { term: Term::new(1), index }));
        started.dial(&started.leader, Purpose::Append, acknowledged)
    };
    told(vote, 2).await.unwrap();
    // Under another vote a shorter log is healthy: its tail was truncated.
    told(StoredVote { term: Term::new(7), ..vote }, 9).await.unwrap();
    assert_eq!(started.faults.current(), None);
    told(vote, 9).await.unwrap_err();
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
