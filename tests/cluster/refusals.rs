//! What a node refuses ends by itself: whatever makes it refuse makes due what ends that.

use std::path::{Path, PathBuf};

use crate::disks::SmallDisk;
use crate::nodes::{Cluster, KVSTORE, Node, wait_for, wait_until};
use crate::resp::{Client, Failure, Value};

/// Slots of nearly a page each, of which the memory budget holds 4,096.
const BUDGET: [&str; 4] = ["-slots", "32768", "-value-size", "4000"];
const BUDGET_MIB: u64 = 16;
/// What a node may take beside changed pages: far less than all slots together do.
const BESIDE_MIB: u64 = 64;
/// Slots that one request sets.
const TOGETHER: u64 = 64;

fn ok() -> Value {
    Value::Simple("OK".into())
}

/// Asks until the answer is no refusal. What nothing is about to end fails the test.
#[track_caller]
fn settled(client: &mut Client, words: &[&str]) -> Value {
    wait_for(&format!("an answer to {} that is no refusal", words[0]), || match client.ask(words) {
        Ok(value) => Some(value),
        Err(Failure::Refused(_)) => None,
        Err(failure) => panic!("{failure:?}"),
    })
}

/// A client of a node that serves by now: while it starts it answers all with LOADING.
#[track_caller]
fn served(node: &Node) -> Client {
    wait_for("a client that is served", || {
        let mut client = node.client().ok()?;
        client.ask(&["PING"]).ok().map(|_| client)
    })
}

/// Sets slots to their numbers, many at once.
#[track_caller]
fn set_together(client: &mut Client, slots: std::ops::Range<u64>) {
    let mut first = slots.start;
    while first < slots.end {
        let together = first..(first + TOGETHER).min(slots.end);
        first = together.end;
        let words: Vec<String> =
            together.flat_map(|slot| [slot.to_string(), format!("value {slot}")]).collect();
        let request: Vec<&str> =
            std::iter::once("MSET").chain(words.iter().map(String::as_str)).collect();
        assert_eq!(settled(client, &request), ok());
    }
}

/// MiB of memory that are a process' own, and not those of a file.
fn own_mib(node: &Node) -> u64 {
    let path = format!("/proc/{}/status", node.pid().as_raw_nonzero());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// F23: the budget on a running node.
#[test]
fn a_node_at_its_memory_budget_goes_on_and_stays_within_it() {
    let mut cluster = Cluster::empty();
    let memory = BUDGET_MIB.to_string();
    let node = cluster.add("node0", &[&BUDGET[..], &["-memory-mib", &memory]].concat());
    node.start();
    let mut client = served(node);
    // Just more than half of the budget, so that a checkpoint is due.
    set_together(&mut client, 0..2_100);
    wait_until("a checkpoint", || node.status().is_some_and(|status| status.checkpoint > 0));
    // What comes now uses the budget up before the next one is due by it.
    for slot in 2_100..4_600 {
        let value = format!("value {slot}");
        assert_eq!(settled(&mut client, &["SET", &slot.to_string(), &value]), ok());
    }
    let before = own_mib(node);
    set_together(&mut client, 4_600..32_768);
    let after = own_mib(node);
    assert!(after < before + BESIDE_MIB, "{before} MiB, and {after} MiB after all slots were set");
    wait_until("nothing to be refused", || {
        node.status().is_some_and(|status| status.refusals.is_empty())
    });
    node.kill();
    node.start();
    let mut client = served(node);
    for batch in 0..32_768 / TOGETHER {
        let together = batch * TOGETHER..(batch + 1) * TOGETHER;
        let slots: Vec<String> = together.map(|slot| slot.to_string()).collect();
        let request: Vec<&str> =
            std::iter::once("MGET").chain(slots.iter().map(String::as_str)).collect();
        let values = settled(&mut client, &request).texts();
        let expected: Vec<_> = slots.iter().map(|slot| Some(format!("value {slot}"))).collect();
        assert_eq!(values, expected);
    }
}

#[test]
fn deleted_keys_alone_never_fill_a_store() {
    let mut cluster = Cluster::empty();
    let node = cluster.add("node0", &["-memory-mib", "16"]);
    node.program = KVSTORE;
    node.start();
    let mut client = served(node);
    // Three times as much as memory holds, 50 at once.
    for batch in 0..240 {
        let keys: Vec<String> =
            (batch * 50..batch * 50 + 50).map(|it| format!("{it:04096}")).collect();
        let keys = keys.iter().map(String::as_str);
        let sets: Vec<&str> =
            std::iter::once("MSET").chain(keys.clone().flat_map(|key| [key, "v"])).collect();
        assert_eq!(settled(&mut client, &sets), ok());
        let deletes: Vec<&str> = std::iter::once("DEL").chain(keys).collect();
        assert_eq!(settled(&mut client, &deletes), Value::Integer(50));
    }
    assert_eq!(settled(&mut client, &["DBSIZE"]), Value::Integer(0));
    node.kill();
    node.start();
    let mut client = served(node);
    assert_eq!(settled(&mut client, &["SET", "a", "1"]), ok());
}

#[test]
fn a_delete_is_not_refused_because_a_set_beside_it_is() {
    let mut cluster = Cluster::empty();
    let node = cluster.add("node0", &["-memory-mib", "16"]);
    node.program = KVSTORE;
    node.start();
    let mut client = served(node);
    let value = "v".repeat(100_000);
    let refused = (0..1_000).find_map(|number| {
        client.ask(&["SET", &format!("key {number}"), &value]).err().map(|_| number)
    });
    let count = refused.expect("16 MiB hold no 1,000 values of 0.1 MB");
    let status = node.status().unwrap();
    let reasons: Vec<&str> =
        status.refusals.iter().map(|refusal| refusal.reason.as_str()).collect();
    assert!(reasons.iter().any(|reason| reason.contains("-memory-mib")), "{reasons:?}");
    let requests: [&[&str]; 6] = [
        &["SET", "more", &value],
        &["DEL", "key 0"],
        &["MULTI"],
        &["DEL", "key 1"],
        &["GET", "key 2"],
        &["EXEC"],
    ];
    for request in requests {
        client.send(request).unwrap();
    }
    let answers: Vec<_> = requests.iter().map(|_| client.receive()).collect();
    let busy = |answer: &Result<Value, Failure>| matches!(answer, Err(Failure::Refused(reason)) if reason.contains("-memory-mib"));
    assert!(busy(&answers[0]), "{:?}", answers[0]);
    assert_eq!(answers[1], Ok(Value::Integer(1)));
    let transaction = Value::Array(vec![Value::Integer(1), Value::Bulk(value.into_bytes())]);
    assert_eq!(answers[5], Ok(transaction));
    assert_eq!(client.ask(&["DBSIZE"]), Ok(Value::Integer(count - 2)));
}

/// Takes all space of a file system but for what the files there have.
fn fill(place: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(place.join("filler")).unwrap();
    let zeros = vec![0; 1 << 16];
    while file.write_all(&zeros).is_ok() {}
}

/// A cluster of kvstores whose leader has a disk of its own, and where that is; it is full. A
/// checkpoint of keys needs room on the disk itself, so nothing that the leader does helps it.
fn with_full_leader(others: &[&str]) -> Option<(Cluster, SmallDisk, PathBuf)> {
    let mut cluster = Cluster::empty();
    let place = cluster.folder.path().join("small");
    let disk = SmallDisk::mount(&place, 260)?;
    let node = cluster.add("node0", &[]);
    (node.directory, node.program) = (place.join("data"), KVSTORE);
    let join = node.raft_address();
    for name in others {
        cluster.add(name, &["-join", &join]).program = KVSTORE;
    }
    cluster.nodes.iter_mut().for_each(Node::start);
    cluster.wait_voters(1 + others.len());
    assert_eq!(cluster.leader(), 0, "the others joined it");
    cluster.nodes[0].asked(&["SET", "before", "kept"]);
    fill(&place);
    Some((cluster, disk, place))
}

#[test]
fn a_leader_whose_disk_is_full_gives_way_to_members_that_have_room() {
    let Some((cluster, disk, place)) = with_full_leader(&["node1", "node2"]) else { return };
    // More than two segments of the log hold.
    let value = "v".repeat(1 << 20);
    for number in 0..160 {
        let key = format!("key {}", number % 8);
        wait_until("a value to be set", || cluster.nodes[1].ask(&["SET", &key, &value]).is_ok());
    }
    assert_ne!(cluster.leader(), 0, "it has no room");
    let status = wait_for("a status", || cluster.nodes[0].status());
    let refusal =
        status.refusals.iter().find(|refusal| refusal.reason.contains("next log segment"));
    assert!(refusal.is_some_and(|refusal| !refusal.doing.is_empty()), "{:?}", status.refusals);
    assert_eq!(cluster.nodes[0].local("before"), Ok(Some("kept".into())));
    // It comes back by itself.
    std::fs::remove_file(place.join("filler")).unwrap();
    cluster.nodes[1].asked(&["SET", "after", "kept"]);
    cluster.wait_level();
    assert_eq!(cluster.nodes[0].local("after"), Ok(Some("kept".into())));
    drop(cluster);
    drop(disk);
}

/// Two need each other: whoever led instead could have nothing committed.
#[test]
fn a_leader_whose_disk_is_full_stays_where_too_few_others_could_go_on() {
    let Some((cluster, disk, place)) = with_full_leader(&["node1"]) else { return };
    let value = "v".repeat(1 << 20);
    let mut client = cluster.nodes[0].client().unwrap();
    let refused = (0..160)
        .find_map(|number| client.ask(&["SET", &format!("key {}", number % 8), &value]).err());
    let Some(Failure::Refused(reason)) = refused else { panic!("{refused:?}") };
    assert!(reason.starts_with("NO_SPACE"), "{reason}");
    wait_until("it to ask the other", || {
        cluster.nodes[0].words().contains("this member stays the leader")
    });
    assert_eq!(cluster.leader(), 0);
    assert_eq!(client.ask(&["GET", "before"]).unwrap().text().as_deref(), Some("kept"));
    std::fs::remove_file(place.join("filler")).unwrap();
    assert_eq!(settled(&mut client, &["SET", "after", "kept"]), ok());
    assert_eq!(cluster.leader(), 0);
    drop(cluster);
    drop(disk);
}
