//! A cluster that comes to have more slots: whole nodes in one process.

use std::sync::Arc;
use std::time::Duration;

use diskstore_storage::disk::{CrashMode, SimDisk};
use tokio::time::timeout;

use crate::cli::{Number, Settings};
use crate::command::{Body, Command, Freshness, ReadLevel, slot_key};
use crate::config::{Config, MachineKind};
use crate::host::{Host, LocalNet, Net};
use crate::node::{self, Node, Order, StartError};

/// Nothing that must come takes longer.
const LONG: Duration = Duration::from_mins(1);
/// How often the tests look.
const STEP: Duration = Duration::from_millis(5);
/// Slots at first, and later.
const BEFORE: u64 = 64;
const AFTER: u64 = 200;

/// Starts node `nth` on a disk, with `-slots` or without; all but the first join it.
async fn try_start(
    net: &LocalNet,
    disk: &SimDisk,
    nth: u64,
    slots: Option<u64>,
) -> Result<Arc<Node>, StartError> {
    let settings = Settings {
        id: Some(format!("node{nth}")),
        raft: Some(format!("127.0.0.1:{}", 12000 + nth)),
        port: Some(format!("127.0.0.1:{}", 11000 + nth)),
        join: (nth > 0).then(|| "127.0.0.1:12000".into()),
        data: Some(format!("/node{nth}").into()),
        slots: slots.map(|slots| Number(slots.to_string())),
        value_size: Some(Number("32".into())),
        ..Settings::default()
    };
    let config = Config::new(MachineKind::Slots, settings).unwrap();
    let net = Net::Local(net.clone());
    let host = Host { disk: Arc::new(disk.clone()), net, ..Host::real() };
    let started = timeout(LONG, node::start(&host, config, Box::new(|_, _| {}))).await;
    started.expect("it starts in time, or is refused")
}

async fn start(net: &LocalNet, disk: &SimDisk, nth: u64, slots: Option<u64>) -> Arc<Node> {
    try_start(net, disk, nth, slots).await.unwrap()
}

async fn stop(node: Arc<Node>) {
    timeout(LONG, node.stop()).await.unwrap();
}

/// The index of a write; `None` if there is no such slot.
async fn set(node: &Node, slot: u64, value: &[u8]) -> Option<u64> {
    let command = Command::set(&slot_key(slot), value).unwrap();
    let results = timeout(LONG, node.write(vec![command])).await.unwrap();
    results[0].as_ref().ok().map(|reply| reply.index)
}

/// What a node's own copy holds, once it has applied an entry.
async fn held(node: &Node, slot: u64, index: u64) -> Body {
    let applied = async {
        while node.applied_index() < index {
            tokio::time::sleep(STEP).await;
        }
    };
    timeout(LONG, applied).await.expect("it is applied");
    let get = vec![Command::get(&slot_key(slot)).unwrap()];
    let results = node.read(get, Freshness::of(ReadLevel::Local)).await;
    results[0].as_ref().unwrap().outcomes[0].body.clone()
}

fn value(text: &'static [u8]) -> Body {
    Body::Value(Some(bytes::Bytes::from_static(text)))
}

/// Carries an order out, which may have to wait until room is registered.
async fn resize(node: &Node, slots: u64) -> Result<(), String> {
    let ordered = timeout(LONG, node.carry_out(Order::Resize(slots))).await.unwrap();
    ordered.map_err(|error| error.to_string())
}

async fn resized(node: &Node, slots: u64) {
    let done = async {
        while resize(node, slots).await.is_err() {
            tokio::time::sleep(STEP).await;
        }
    };
    timeout(LONG, done).await.expect("all have room");
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let reached = async {
        while !condition() {
            tokio::time::sleep(STEP).await;
        }
    };
    timeout(LONG, reached).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// More slots are refused because these members have no room, and no other.
async fn lacks_room(node: &Node, names: [&str; 2]) {
    let heard = async {
        loop {
            let lacking = resize(node, AFTER).await.unwrap_err();
            for name in names {
                assert!(lacking.contains(&format!("{name} (has room for 64)")), "{lacking}");
            }
            if !lacking.contains("node2") {
                return;
            }
            tokio::time::sleep(STEP).await;
        }
    };
    timeout(LONG, heard).await.expect("the cluster hears of the room of node2");
}

#[tokio::test]
async fn slots_become_more_once_all_members_were_started_with_room() {
    let net = LocalNet::default();
    let mut disks = [61, 62, 63].map(SimDisk::new);
    let mut nodes = Vec::new();
    // A new member may bring more room than its cluster has use for yet.
    for ((nth, disk), slots) in (0..).zip(&disks).zip([BEFORE, BEFORE, AFTER]) {
        nodes.push(start(&net, disk, nth, Some(slots)).await);
        assert_eq!(nodes.last().unwrap().limits().slot_count, BEFORE);
    }
    set(&nodes[0], 7, b"old").await.unwrap();
    assert_eq!(set(&nodes[0], BEFORE, b"none").await, None);
    lacks_room(&nodes[1], ["node0", "node1"]).await;
    assert!(resize(&nodes[0], BEFORE - 1).await.unwrap_err().contains("only become more"));
    resize(&nodes[0], BEFORE).await.unwrap();
    for (nth, at) in [(2, 2_usize), (1, 1), (0, 0)] {
        until("all vote", || {
            let members = nodes[0].status().members;
            members.len() == 3 && members.iter().all(|member| member.role != "learner")
        })
        .await;
        let node = nodes.remove(at);
        stop(node).await;
        let place = &mut disks[at];
        *place = place.crash(CrashMode::Lost);
        nodes.insert(at, start(&net, place, nth, Some(AFTER)).await);
        assert_eq!(nodes[at].limits().slot_count, BEFORE, "room alone changes nothing");
        assert_eq!(set(&nodes[at], BEFORE, b"none").await, None);
    }
    resized(&nodes[1], AFTER).await;
    resize(&nodes[2], AFTER).await.unwrap();
    for node in &nodes {
        until("the limit", || node.limits().slot_count == AFTER).await;
    }
    let index = set(&nodes[2], AFTER - 1, b"new").await.unwrap();
    assert_eq!(set(&nodes[0], AFTER, b"none").await, None);
    for node in &nodes {
        assert_eq!(held(node, AFTER - 1, index).await, value(b"new"));
        assert_eq!(held(node, 7, index).await, value(b"old"));
        assert_eq!(node.status().slots, AFTER);
    }
    // Another member that joins makes room by itself, and is sent what is in the new slots.
    let joining = SimDisk::new(64);
    let wrong = try_start(&net, &joining, 3, Some(BEFORE)).await.map(|_| ()).unwrap_err();
    assert!(wrong.to_string().contains("-slots"), "{wrong}");
    let fourth = start(&net, &joining, 3, None).await;
    assert_eq!(held(&fourth, AFTER - 1, index).await, value(b"new"));
    stop(fourth).await;
    // The number is there after a power loss of all, with the flag that they had at first or none.
    for node in nodes {
        stop(node).await;
    }
    let disks = disks.map(|disk| disk.crash(CrashMode::Lost));
    let flags = [Some(BEFORE), None, Some(AFTER)];
    let mut nodes = Vec::new();
    for ((nth, disk), flag) in (0..).zip(&disks).zip(flags) {
        nodes.push(start(&net, disk, nth, flag).await);
    }
    for node in &nodes {
        until("the limit", || node.limits().slot_count == AFTER).await;
        assert_eq!(held(node, AFTER - 1, index).await, value(b"new"));
    }
    let index = set(&nodes[0], AFTER - 2, b"newer").await.unwrap();
    for node in nodes {
        assert_eq!(held(&node, AFTER - 2, index).await, value(b"newer"));
        stop(node).await;
    }
}

/// It was away while the others, of an older list of members, had more slots; or its file was replaced.
#[tokio::test]
async fn a_member_without_room_for_the_slots_of_its_cluster_says_so() {
    let (net, disk) = (LocalNet::default(), SimDisk::new(70));
    let node = start(&net, &disk, 0, Some(BEFORE)).await;
    let index = set(&node, 7, b"old").await.unwrap();
    stop(node).await;
    let small = disk.crash(CrashMode::Lost);
    let node = start(&net, &disk, 0, Some(AFTER)).await;
    resized(&node, AFTER).await;
    set(&node, AFTER - 1, b"new").await.unwrap();
    stop(node).await;
    // The data file as it was, and the log that goes on.
    for name in ["slots.dat", "double.dat"] {
        let path = std::path::Path::new("/node0").join(name);
        disk.write_file(&path, &small.read_file(&path).unwrap());
    }
    let error = try_start(&net, &disk, 0, None).await.map(|_| ()).unwrap_err();
    assert!(format!("{error:?}").contains("start it with -slots 200"), "{error:?}");
    let node = start(&net, &disk, 0, Some(AFTER)).await;
    assert_eq!(held(&node, AFTER - 1, index).await, value(b"new"));
    assert_eq!(held(&node, 7, index).await, value(b"old"));
    stop(node).await;
}
