//! Whole nodes in one process, on simulated disks and pipes: no file is made, and no port is taken.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use diskstore_storage::disk::{CrashMode, SimDisk};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::cli::{Number, Settings};
use crate::command::{
    Action, Body, Command, Failure, Freshness, Operation, ReadLevel, Reply, slot_key,
};
use crate::config::{Config, MachineKind};
use crate::host::{Clock, Host, LocalNet, Net, Threads};
use crate::node::{self, Node, StartError};
use crate::server::{Access, Server};

/// Nothing that must come takes longer.
pub(super) const LONG: Duration = Duration::from_mins(1);

fn host(net: &LocalNet, disk: &SimDisk) -> Host {
    Host { disk: Arc::new(disk.clone()), net: Net::Local(net.clone()), ..Host::real() }
}

/// Starts node `nth` on a disk; all but the first join it.
pub(super) async fn start(net: &LocalNet, disk: &SimDisk, nth: u64) -> Arc<Node> {
    start_on(&host(net, disk), nth).await.unwrap()
}

async fn start_on(host: &Host, nth: u64) -> Result<Arc<Node>, StartError> {
    let settings = Settings {
        id: Some(format!("node{nth}")),
        raft: Some(format!("127.0.0.1:{}", 12000 + nth)),
        port: Some(format!("127.0.0.1:{}", 11000 + nth)),
        join: (nth > 0).then(|| "127.0.0.1:12000".into()),
        data: Some(format!("/node{nth}").into()),
        slots: Some(Number("64".into())),
        value_size: Some(Number("32".into())),
        ..Settings::default()
    };
    let config = Config::new(MachineKind::Slots, settings).unwrap();
    let started = timeout(LONG, node::start(host, config, Box::new(|_, _| {}))).await;
    started.expect("it starts in time")
}

/// What a client of node `nth` reads that asks for this, for as long as the expected answer.
async fn ask(net: &LocalNet, nth: u64, request: &[u8], expected: &[u8]) {
    let net = Net::Local(net.clone());
    let mut stream = net.dial(&format!("127.0.0.1:{}", 11000 + nth)).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut found = vec![0; expected.len()];
    timeout(LONG, stream.read_exact(&mut found)).await.expect("an answer").unwrap();
    assert_eq!(String::from_utf8_lossy(&found), String::from_utf8_lossy(expected));
}

async fn set(node: &Node, slot: u64, value: &[u8]) -> u64 {
    let command = Command::set(&slot_key(slot), value).unwrap();
    let results = timeout(LONG, node.write(vec![command])).await.unwrap();
    results[0].as_ref().unwrap().index
}

/// What this node's own copy holds, once it has applied the entry.
async fn held(node: &Node, slot: u64, index: u64) -> Body {
    while node.applied_index() < index {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let get = vec![Command::get(&slot_key(slot)).unwrap()];
    let results = node.read(get, Freshness::of(ReadLevel::Local)).await;
    results[0].as_ref().unwrap().outcomes[0].body.clone()
}

#[tokio::test]
async fn a_cluster_on_simulated_disks_and_pipes_survives_a_power_loss() {
    let (net, disks) = (LocalNet::default(), [1, 2, 3].map(SimDisk::new));
    let mut nodes = Vec::new();
    for (nth, disk) in (0..).zip(&disks) {
        nodes.push(start(&net, disk, nth).await);
    }
    let first = set(&nodes[2], 7, b"before").await;
    for node in &nodes {
        let body = timeout(LONG, held(node, 7, first)).await.unwrap();
        assert_eq!(body, Body::Value(Some(bytes::Bytes::from_static(b"before"))));
    }
    disks[2].crash_at(0);
    let second = set(&nodes[1], 7, b"after").await;
    timeout(LONG, nodes[2].wait_fault()).await.expect("it notices that its disk is gone");
    timeout(LONG, nodes[2].stop()).await.unwrap();
    drop(nodes.pop());
    let again = start(&net, &disks[2].crash(CrashMode::Lost), 2).await;
    let body = timeout(LONG, held(&again, 7, second)).await.unwrap();
    assert_eq!(body, Body::Value(Some(bytes::Bytes::from_static(b"after"))));
    for node in nodes.iter().chain([&again]) {
        timeout(LONG, node.stop()).await.unwrap();
    }
}

/// Adds one to slot 7 by the request of this id; sends it again while the outcome is unknown or nobody
/// leads, as a client does.
async fn add_once(node: &Node, id: &str) -> Reply {
    let add = Operation { key: &slot_key(7), action: Action::Increment { by: 1 } };
    let command = Command::single(&add).unwrap().with_request_id(id.as_bytes()).unwrap();
    let asking = async {
        loop {
            match node.write(vec![command.clone()]).await.remove(0) {
                Ok(reply) => return reply,
                Err(Failure::NoLeader { .. } | Failure::Stopping | Failure::Unknown { .. }) => {}
                Err(other) => panic!("{other}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, asking).await.expect("an answer")
}

/// Waits until this node knows of three voters.
async fn three_vote(node: &Node) {
    loop {
        let status = node.status();
        let voters = status.members.iter().filter(|member| member.role != "learner");
        if voters.count() == 3 && !status.voters_changing {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A client that does not know what became of its write sends it again, to any node, whoever leads.
#[tokio::test]
async fn a_write_that_is_sent_again_is_applied_once_across_leaders_and_restarts() {
    let (net, mut disks) = (LocalNet::default(), [8, 9, 10].map(SimDisk::new));
    let mut nodes = Vec::new();
    for (nth, disk) in (0..).zip(&disks) {
        nodes.push(Some(start(&net, disk, nth).await));
    }
    // Else there is no majority without the first.
    for node in nodes.iter().flatten() {
        timeout(LONG, three_vote(node)).await.expect("all are voters");
    }
    let at = |nodes: &[Option<Arc<Node>>], nth: usize| nodes[nth].clone().unwrap();
    let first = add_once(&at(&nodes, 2), "a").await;
    assert!(!first.is_repeat);
    assert_eq!(add_once(&at(&nodes, 1), "a").await, Reply { is_repeat: true, ..first.clone() });
    assert_eq!(add_once(&at(&nodes, 0), "b").await.outcomes[0].body, Body::Integer(2));
    // The second round begins with ids in every checkpoint, the first with those in the log.
    for round in 0..2 {
        let leads = |node: &Option<Arc<Node>>| node.as_ref().is_some_and(|node| node.is_leader());
        let leader = nodes.iter().position(leads).expect("a leader");
        disks[leader].crash_at(0);
        let (next, failed) = (at(&nodes, (leader + 1) % 3), at(&nodes, leader));
        // As a process does whose disk fails.
        let end = async {
            timeout(LONG, failed.wait_fault()).await.expect("it notices that its disk is gone");
            timeout(LONG, failed.stop()).await.unwrap();
        };
        let (again, ()) = tokio::join!(add_once(&next, "a"), Box::pin(end));
        assert_eq!((again.index, again.is_repeat), (first.index, true), "round {round}");
        drop((failed, nodes[leader].take()));
        disks[leader] = disks[leader].crash(CrashMode::Lost);
        nodes[leader] = Some(start(&net, &disks[leader], leader as u64).await);
        let again = add_once(&at(&nodes, leader), "b").await;
        assert!(again.is_repeat, "round {round}");
        for nth in 0..3 {
            let body = timeout(LONG, held(&at(&nodes, nth), 7, again.index)).await.unwrap();
            assert_eq!(body, Body::Value(Some("2".into())), "round {round}, node {nth}");
            assert!(timeout(LONG, at(&nodes, nth).checkpoint()).await.unwrap().is_some());
        }
    }
    for node in nodes.into_iter().flatten() {
        timeout(LONG, node.stop()).await.unwrap();
    }
}

#[tokio::test]
async fn clients_reach_whole_nodes_through_pipes() {
    let (net, disks) = (LocalNet::default(), [4, 5, 6].map(SimDisk::new));
    let (stop, stopping) = watch::channel(false);
    let (mut nodes, mut servers) = (Vec::new(), Vec::new());
    for (nth, disk) in (0..).zip(&disks) {
        let node = start(&net, disk, nth).await;
        let address = node.config().client_address.to_string();
        let listener = Net::Local(net.clone()).listen(&address).await.unwrap();
        let server = Server::new(node.clone(), &[], Arc::new(Access::free()));
        servers.push(tokio::spawn(server.run(listener, stopping.clone())));
        nodes.push(node);
    }
    let set = b"*3\r\n$3\r\nSET\r\n$1\r\n7\r\n$5\r\nhello\r\n";
    ask(&net, 1, set, b"+OK\r\n").await;
    ask(&net, 2, b"*2\r\n$3\r\nGET\r\n$1\r\n7\r\n", b"$5\r\nhello\r\n").await;
    ask(&net, 0, b"GET 7\r\nQUIT\r\n", b"$5\r\nhello\r\n+OK\r\n").await;
    stop.send_replace(true);
    for (node, server) in nodes.iter().zip(servers) {
        timeout(LONG, server).await.expect("its sessions end").unwrap();
        timeout(LONG, node.stop()).await.unwrap();
    }
}

#[tokio::test]
async fn clients_are_told_the_time_of_the_host() {
    let (net, shown) = (LocalNet::default(), Duration::from_secs(1_000_000_000));
    let clock = Clock::Set(shown, Instant::now());
    let node = start_on(&Host { clock, ..host(&net, &SimDisk::new(7)) }, 0).await.unwrap();
    let (stop, stopping) = watch::channel(false);
    let listener = node.host().net.listen("127.0.0.1:11000").await.unwrap();
    let server = tokio::spawn(
        Server::new(node.clone(), &[], Arc::new(Access::free())).run(listener, stopping),
    );
    let mut stream = node.host().net.dial("127.0.0.1:11000").await.unwrap();
    stream
        .write_all(b"*1\r\n$4\r\nTIME\r\n*1\r\n$8\r\nLASTSAVE\r\n*1\r\n$4\r\nQUIT\r\n")
        .await
        .unwrap();
    let mut found = String::new();
    timeout(LONG, stream.read_to_string(&mut found)).await.expect("an answer").unwrap();
    let lines: Vec<&str> = found.lines().collect();
    let [seconds, saved] = [2, 5].map(|nth| {
        let digits = lines[nth].trim_start_matches(':');
        Duration::from_secs(digits.parse().unwrap())
    });
    assert!((shown..shown + LONG).contains(&seconds), "{found}");
    assert!((shown..shown + LONG).contains(&saved), "{found}");
    stop.send_replace(true);
    timeout(LONG, server).await.expect("its sessions end").unwrap();
    timeout(LONG, node.stop()).await.unwrap();
}

/// A node needs threads for its log, for applying, and for a while for its replay.
#[tokio::test]
async fn a_start_without_threads_is_refused_and_the_next_one_goes_on() {
    let (net, disk) = (LocalNet::default(), SimDisk::new(8));
    let mut refused = 0;
    let node = loop {
        let threads = Threads::Counted(Arc::new(AtomicUsize::new(refused)));
        match start_on(&Host { threads, ..host(&net, &disk) }, 0).await {
            Ok(node) => break node,
            Err(error) => assert!(error.to_string().contains("no thread"), "{error}"),
        }
        refused += 1;
    };
    assert!((4..10).contains(&refused), "threads that a start needs: {refused}");
    let index = set(&node, 7, b"there").await;
    let body = timeout(LONG, held(&node, 7, index)).await.unwrap();
    assert_eq!(body, Body::Value(Some(bytes::Bytes::from_static(b"there"))));
    timeout(LONG, node.stop()).await.unwrap();
}
