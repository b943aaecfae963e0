//! Two members in one process: what one forwards to the other, and what a leader does that nobody
//! answers any more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use diskstore_storage::slots::Geometry;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{create_slots, disk, start_member};
use crate::cluster::Forwarder;
use crate::command::{Command, Failure, ReadLevel, slot_key};
use crate::raft::{Consensus, Incoming, Member, Method, Zone};

/// No test waits longer than this for what must come.
const BOUND: Duration = Duration::from_secs(30);
/// How often it looks.
const STEP: Duration = Duration::from_millis(50);

struct Running {
    id: u64,
    consensus: Arc<Consensus>,
    /// What others ask of it; the tests answer in place of a node, or do not.
    requests: mpsc::Receiver<Incoming>,
    record: Member,
    serving: JoinHandle<()>,
}

impl Running {
    async fn start(id: u64) -> Running {
        let disk = disk(id);
        let slots = create_slots(&disk, Geometry::new(64, 32).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let raft_address = listener.local_addr().unwrap().to_string();
        let (consensus, requests) = start_member(id, raft_address.clone(), &disk, slots).await;
        let serving = consensus.serve(listener, Zone::Peers);
        let record = Member { name: format!("node{id}"), raft_address, ..Member::default() };
        Running { id, consensus, requests, record, serving }
    }

    /// A cluster of a leader and another voter.
    async fn pair() -> (Running, Running) {
        let (leader, other) = (Running::start(1).await, Running::start(2).await);
        leader.consensus.found(leader.record.clone()).await.unwrap();
        leader.consensus.allow_elections().await;
        leader.until("it leads and has applied its first entry", Consensus::holds_lease).await;
        let change = async {
            leader.consensus.set_member(other.id, other.record.clone()).await.unwrap();
            leader.consensus.set_voters(BTreeSet::from([1, 2])).await.unwrap();
        };
        tokio::time::timeout(BOUND, change).await.expect("the other one is never a voter");
        other.until("it knows the leader", |other| other.view().leader == Some(1)).await;
        (leader, other)
    }

    async fn until(&self, what: &str, condition: impl Fn(&Consensus) -> bool) {
        let reached = async {
            while !condition(&self.consensus) {
                self.consensus.changed_data(STEP).await;
            }
        };
        tokio::time::timeout(BOUND, reached).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    /// It answers nobody any more.
    async fn stop(&self) {
        self.serving.abort();
        self.consensus.stop().await;
    }
}

fn get() -> Vec<Command> {
    vec![Command::get(&slot_key(7)).unwrap()]
}

/// I1 of `cluster/forward.rs`: the leader may have proposed it.
#[tokio::test]
async fn a_forwarded_write_whose_answer_is_lost_is_unknown_and_never_sent_again() {
    let (mut leader, other) = Running::pair().await;
    let forwarder = Forwarder::new(other.consensus.clone(), 0xc1);
    let write = forwarder.write(vec![Command::set(&slot_key(7), b"x").unwrap()]);
    let lose = async {
        let mut count = 0;
        while let Some(asked) = leader.requests.recv().await {
            assert_eq!(asked.method, Method::Write);
            count += 1;
            drop(asked); // the connection ends without an answer
            if count > 1 {
                break;
            }
        }
    };
    let write = tokio::time::timeout(BOUND, write);
    let results = tokio::select! {
        results = write => results.unwrap(),
        () = lose => panic!("it was sent again"),
    };
    assert!(matches!(results[0], Err(Failure::Unknown { .. })), "{results:?}");
    other.stop().await;
    leader.stop().await;
}

/// Its clock may be slow: voters may have elected another long before three seconds are over here.
#[tokio::test]
async fn a_leader_that_nobody_answers_gives_no_read_once_its_lease_is_in_doubt() {
    let (leader, other) = Running::pair().await;
    leader.until("it has its lease", Consensus::holds_lease).await;
    let forwarder = Forwarder::new(leader.consensus.clone(), 0xc1);
    let results = forwarder.read(get(), ReadLevel::Lease).await;
    assert!(results[0].is_ok(), "{results:?}");
    other.stop().await;
    leader.until("its lease is in doubt", |leader| !leader.holds_lease()).await;
    let results = forwarder.read(get(), ReadLevel::Lease).await;
    assert!(matches!(results[0], Err(Failure::NoLeader { .. })), "{results:?}");
    leader.stop().await;
}
