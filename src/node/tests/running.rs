//! Members in one process, for tests of what they ask each other. The tests answer in place of a node,
//! or do not.

use std::sync::Arc;
use std::time::Duration;

use diskstore_storage::slots::Geometry;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{create_slots, disk, start_member};
use crate::peer::{Member, Whoever};
use crate::raft::{Consensus, Incoming, Zone};

/// No test waits longer than this for what must come.
pub(super) const BOUND: Duration = Duration::from_secs(30);
/// How often it looks.
const STEP: Duration = Duration::from_millis(50);

/// A member that serves its peers.
pub(super) struct Running {
    pub(super) id: u64,
    pub(super) consensus: Arc<Consensus>,
    /// What others ask of it; the tests answer in place of a node, or do not.
    pub(super) requests: mpsc::Receiver<Incoming>,
    pub(super) record: Member,
    serving: JoinHandle<()>,
}

impl Running {
    pub(super) async fn start(id: u64) -> Running {
        Running::start_process(id, 1).await
    }

    /// As `start`, as the process of this number.
    pub(super) async fn start_process(id: u64, process: u64) -> Running {
        let disk = disk(id);
        let slots = create_slots(&disk, Geometry::new(64, 32).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let raft_address = listener.local_addr().unwrap().to_string();
        let me = Whoever { cluster_id: 0xc1, member_id: id, process };
        let (consensus, requests) = start_member(me, raft_address.clone(), &disk, slots).await;
        let serving = consensus.serve(listener, Zone::Peers);
        let record = Member { name: format!("node{id}"), raft_address, ..Member::default() };
        Running { id, consensus, requests, record, serving }
    }

    /// A cluster of a leader and another voter.
    pub(super) async fn pair() -> (Running, Running) {
        let leader = Running::leader().await;
        let other = leader.joined_by(&[2]).await.remove(0);
        (leader, other)
    }

    /// A cluster of a leader alone.
    pub(super) async fn leader() -> Running {
        let leader = Running::start(1).await;
        leader.consensus.found(leader.record.clone()).await.unwrap();
        leader.consensus.allow_elections().await;
        leader.until("it leads and has applied its first entry", Consensus::holds_lease).await;
        leader
    }

    /// These become voters too.
    pub(super) async fn joined_by(&self, ids: &[u64]) -> Vec<Running> {
        let mut others = Vec::new();
        for id in ids {
            others.push(Running::start(*id).await);
        }
        let change = async {
            for other in &others {
                self.consensus.set_member(other.id, other.record.clone()).await.unwrap();
            }
            let voters = others.iter().map(|other| other.id).chain([self.id]).collect();
            self.consensus.set_voters(voters, false).await.unwrap();
        };
        tokio::time::timeout(BOUND, change).await.expect("the others are never voters");
        for other in &others {
            other.until("it knows the leader", |other| other.view().leader == Some(self.id)).await;
        }
        others
    }

    pub(super) async fn until(&self, what: &str, condition: impl Fn(&Consensus) -> bool) {
        let reached = async {
            while !condition(&self.consensus) {
                self.consensus.changed_data(STEP).await;
            }
        };
        tokio::time::timeout(BOUND, reached).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    /// It answers nobody any more.
    pub(super) async fn stop(&self) {
        self.serving.abort();
        self.consensus.stop().await;
    }
}
