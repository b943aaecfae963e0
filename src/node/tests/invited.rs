//! Join tokens: whole nodes in one process, of which some may join and the others may not.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use diskstore_storage::disk::{CrashMode, SimDisk};
use futures_util::future::join;
use tokio::time::timeout;

use crate::cli::{Number, Settings};
use crate::config::{Config, MachineKind};
use crate::host::{Host, LocalNet, Net};
use crate::node::{self, Node, StartError};

/// Nothing that must come takes longer.
const LONG: Duration = Duration::from_mins(1);
/// How often the tests look.
const STEP: Duration = Duration::from_millis(5);
const HOUR: Duration = Duration::from_hours(1);

/// A cluster that takes members with tokens only, and the folder that tokens are written to.
struct Invited {
    net: LocalNet,
    folder: tempfile::TempDir,
    /// A node that was refused does not leave its address before the process ends.
    strangers: AtomicU64,
}

impl Invited {
    fn new() -> Invited {
        let (net, strangers) = (LocalNet::default(), AtomicU64::new(100));
        Invited { net, folder: tempfile::tempdir().unwrap(), strangers }
    }

    fn file(&self, token: &str) -> PathBuf {
        let path = self.folder.path().join("token");
        std::fs::write(&path, format!("{token}\n")).unwrap();
        path
    }

    /// Starts node `nth` on a disk; it joins by way of node `through`, with a token or without.
    async fn start(
        &self,
        disk: &SimDisk,
        nth: u64,
        through: Option<u64>,
        token: Option<&str>,
    ) -> Result<Arc<Node>, StartError> {
        let settings = Settings {
            id: Some(format!("node{nth}")),
            raft: Some(format!("127.0.0.1:{}", 12000 + nth)),
            port: Some(format!("127.0.0.1:{}", 11000 + nth)),
            join: through.map(|through| format!("127.0.0.1:{}", 12000 + through)),
            data: Some(format!("/node{nth}").into()),
            slots: Some(Number("64".into())),
            value_size: Some(Number("32".into())),
            join_tokens: Some(true),
            join_token_file: token.map(|token| self.file(token)),
            ..Settings::default()
        };
        let config = Config::new(MachineKind::Slots, settings).unwrap();
        let net = Net::Local(self.net.clone());
        let host = Host { disk: Arc::new(disk.clone()), net, ..Host::real() };
        let started = timeout(LONG, node::start(&host, config, Box::new(|_, _| {}))).await;
        started.expect("it starts in time, or is refused")
    }

    async fn founder(&self, disk: &SimDisk) -> Arc<Node> {
        let node = self.start(disk, 0, None, None).await.unwrap();
        let leads = async {
            while !node.is_leader() || names(&node).is_empty() {
                tokio::time::sleep(STEP).await;
            }
        };
        timeout(LONG, leads).await.expect("it leads");
        node
    }

    /// A new node is not let in.
    async fn refused(&self, through: u64, token: Option<&str>) {
        let nth = self.strangers.fetch_add(1, Ordering::Relaxed);
        let joined = self.start(&SimDisk::new(nth), nth, Some(through), token).await;
        let error = joined.map(|node| node.config().id.clone()).unwrap_err().to_string();
        assert!(error.contains("a new member needs a join token here"), "{error}");
        assert!(token.is_none_or(|token| !error.contains(token)), "{error}");
    }
}

fn names(node: &Node) -> Vec<String> {
    node.status().members.into_iter().map(|member| member.name).collect()
}

async fn stop(node: &Node) {
    timeout(LONG, node.stop()).await.unwrap();
}

#[tokio::test]
async fn a_token_lets_one_node_in_and_no_other() {
    let cluster = Invited::new();
    let first = cluster.founder(&SimDisk::new(10)).await;
    let expired = first.invite(Duration::ZERO).await.unwrap();
    let token = first.invite(HOUR).await.unwrap();
    assert_ne!(token, expired);
    cluster.refused(0, None).await;
    for wrong in ["dsj_wrong", &expired, &token[1..], &format!("{token}x"), &token.to_lowercase()] {
        cluster.refused(0, Some(wrong)).await;
    }
    assert_eq!(names(&first), ["node0"]);
    let disk = SimDisk::new(11);
    let second = cluster.start(&disk, 1, Some(0), Some(&token)).await.unwrap();
    assert_eq!(names(&first), ["node0", "node1"]);
    for through in [0, 1] {
        cluster.refused(through, Some(&token)).await; // it was used
    }
    stop(&second).await;
    stop(&first).await;
}

#[tokio::test]
async fn of_two_nodes_with_one_token_one_gets_in() {
    let cluster = Invited::new();
    let first = cluster.founder(&SimDisk::new(20)).await;
    for round in [1, 3, 5] {
        let token = first.invite(HOUR).await.unwrap();
        let disks = [SimDisk::new(round), SimDisk::new(round + 1)];
        let one = cluster.start(&disks[0], round, Some(0), Some(&token));
        let other = cluster.start(&disks[1], round + 1, Some(0), Some(&token));
        let started = join(one, other).await;
        let started = [started.0, started.1].into_iter().flatten().collect::<Vec<_>>();
        assert_eq!(started.len(), 1, "{:?}", names(&first));
        assert_eq!(names(&first).len(), 2);
        let name = started[0].config().id.clone();
        let removed = first.carry_out(node::Order::Remove(name));
        timeout(LONG, removed).await.unwrap().unwrap();
        stop(&started[0]).await;
        // Not even once the one that used it is gone.
        cluster.refused(0, Some(&token)).await;
    }
    stop(&first).await;
}

#[tokio::test]
async fn a_token_is_known_to_every_leader_and_after_a_power_loss() {
    let cluster = Invited::new();
    let disk = SimDisk::new(30);
    let first = cluster.founder(&disk).await;
    let token = first.invite(HOUR).await.unwrap();
    stop(&first).await;
    drop(first);
    let disk = disk.crash(CrashMode::Lost);
    let first = cluster.founder(&disk).await;
    let (second_disk, third_disk) = (SimDisk::new(31), SimDisk::new(32));
    let second = cluster.start(&second_disk, 1, Some(0), Some(&token)).await.unwrap();
    // A follower has the leader make one.
    let token = timeout(LONG, second.invite(HOUR)).await.unwrap().unwrap();
    let third = cluster.start(&third_disk, 2, Some(1), Some(&token)).await.unwrap();
    let token = timeout(LONG, third.invite(HOUR)).await.unwrap().unwrap();
    let all_vote = || async {
        while !first.status().members.iter().all(|member| member.role != "learner") {
            tokio::time::sleep(STEP).await;
        }
    };
    timeout(LONG, all_vote()).await.expect("all vote");
    stop(&first).await; // another leads
    drop(first);
    let fourth_disk = SimDisk::new(33);
    let fourth = cluster.start(&fourth_disk, 3, Some(1), Some(&token)).await.unwrap();
    cluster.refused(2, Some(&token)).await;
    for node in [fourth, third, second] {
        stop(&node).await;
    }
}

#[tokio::test]
async fn a_token_of_another_cluster_is_none() {
    let (cluster, other) = (Invited::new(), Invited::new());
    let first = cluster.founder(&SimDisk::new(40)).await;
    let foreign = other.founder(&SimDisk::new(41)).await;
    let token = foreign.invite(HOUR).await.unwrap();
    cluster.refused(0, Some(&token)).await;
    let too_many = async {
        loop {
            if let Err(error) = first.invite(HOUR).await {
                return error.to_string();
            }
        }
    };
    let refusal = timeout(LONG, too_many).await.unwrap();
    assert!(refusal.contains("16 join tokens were given out"), "{refusal}");
    // Until they are revoked, after which none of them counts; and that may be asked for again.
    for _ in 0..2 {
        timeout(LONG, first.carry_out(node::Order::Uninvite)).await.unwrap().unwrap();
    }
    let revoked = first.invite(HOUR).await.unwrap();
    timeout(LONG, first.carry_out(node::Order::Uninvite)).await.unwrap().unwrap();
    cluster.refused(0, Some(&revoked)).await;
    let token = first.invite(HOUR).await.unwrap();
    let disk = SimDisk::new(42);
    let second = cluster.start(&disk, 1, Some(0), Some(&token)).await.unwrap();
    stop(&second).await;
    stop(&first).await;
    stop(&foreign).await;
}
