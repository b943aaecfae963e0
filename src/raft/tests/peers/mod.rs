//! A member as its peers meet it: who may speak to it, and what it says after a start. Here is what its
//! tests share: the member under test, and processes that speak to it.

mod hellos;
mod hostile;
mod leading;
mod moved;
mod starting;
mod strangers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use diskstore_storage::disk::SimDisk;
use diskstore_storage::{LogId as StoredLogId, MemberId, Term, Vote as StoredVote};
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{BOUNDS, CLUSTER, Place, log_id, membership, normal};
use crate::command::{Command, slot_key};
use crate::fault::Faults;
use crate::host::Host;
use crate::machine::{DiskMachine, Machine};
use crate::peer::requests::put_request;
use crate::peer::votes::BallotReply;
use crate::peer::{
    Caller, Channel, Connection, FrameKind, Hello, Member, Method, Purpose, Route, Welcome,
    Whoever, split,
};
use crate::raft::types::{Entry, Membership, TypeConfig, ballot_to, entry_to, vote_from};
use crate::raft::{Consensus, Setup, Timing, Zone};

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
        timing: Timing::default(),
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

/// Entries of nobody, which are those of a leader that has nothing to say.
fn heartbeat(vote: StoredVote) -> AppendEntriesRequest<TypeConfig> {
    AppendEntriesRequest {
        vote: vote_from(vote),
        prev_log_id: Some(log_id(1, 2)),
        entries: Vec::new(),
        leader_commit: None,
    }
}

fn set(slot: u64) -> Command {
    Command::set(&slot_key(slot), b"value").unwrap()
}
