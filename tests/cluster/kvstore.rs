//! `kvstore`: the same node over keys in memory, its log and its snapshot file on disk.

use std::collections::BTreeMap;

use crate::nodes::{Cluster, KVSTORE, Node, wait_for, wait_until};
use crate::resp::{Failure, Value};

/// Entries are so small, and checkpoints so near, that the log is purged all the time.
const PURGING: [&str; 4] = ["-checkpoint-mib", "1", "-keep-mib", "0"];
/// Bytes of a value that fills the log.
const FILLER_BYTES: usize = 100_000;
/// Values until a log of 1 MiB must have been purged; far fewer are enough.
const FILLERS_MAX: usize = 2000;

fn ok() -> Value {
    Value::Simple("OK".into())
}

/// Writes one key over and over until the log is purged behind `index`.
#[track_caller]
fn purge_behind(node: &Node, index: u64) {
    let filler = "f".repeat(FILLER_BYTES);
    for _ in 0..FILLERS_MAX {
        if node.status().unwrap().purged > index {
            return;
        }
        assert_eq!(node.asked(&["SET", "filler", &filler]), ok());
    }
    panic!("the log is never purged");
}

/// Every key that this node holds, with its value, by a scan and a read of its own.
#[track_caller]
fn content(node: &Node) -> BTreeMap<String, String> {
    let mut client = node.client().unwrap();
    client.ask(&["READONLY"]).unwrap();
    let (mut cursor, mut keys) = ("0".to_owned(), Vec::new());
    loop {
        let Value::Array(mut answer) = client.ask(&["SCAN", &cursor, "COUNT", "7"]).unwrap() else {
            panic!("a scan answers a list");
        };
        keys.extend(answer.pop().unwrap().texts().into_iter().flatten());
        cursor = answer.pop().unwrap().text().unwrap();
        if cursor == "0" {
            break;
        }
    }
    let count = keys.len();
    let mut value_of = |key: &String| client.ask(&["GET", key]).unwrap().text();
    let found: BTreeMap<String, String> =
        keys.into_iter().filter_map(|key| value_of(&key).map(|value| (key, value))).collect();
    assert_eq!(found.len(), count, "a scan without writes answers each key once, and it is there");
    assert_eq!(client.ask(&["DBSIZE"]), Ok(Value::Integer(i64::try_from(count).unwrap())));
    found
}

/// Sets keys of all kinds through one node and deletes some; what is to be there then.
#[track_caller]
fn fill(node: &Node, round: usize) -> BTreeMap<String, String> {
    let mut client = node.client().unwrap();
    let mut expected = BTreeMap::new();
    for number in 0..200 {
        let key = format!("user:{number}:\u{e4} {}", "k".repeat(number));
        let value = format!("{round} {}", "v".repeat(number * 7));
        assert_eq!(client.ask(&["SET", &key, &value]), Ok(ok()));
        expected.insert(key, value);
    }
    for _ in 0..5 {
        client.ask(&["INCR", "12345678"]).unwrap();
    }
    expected.insert("12345678".into(), (5 * (round + 1)).to_string());
    for key in expected.keys().filter(|key| key.len() % 3 == 0).cloned().collect::<Vec<_>>() {
        assert_eq!(client.ask(&["DEL", &key]), Ok(Value::Integer(1)));
        expected.remove(&key);
    }
    expected
}

#[track_caller]
fn check_everywhere(cluster: &Cluster, expected: &BTreeMap<String, String>) {
    cluster.wait_level();
    for node in &cluster.nodes {
        let mut found = content(node);
        found.remove("filler");
        assert_eq!(found, *expected, "{}", node.name);
    }
}

#[test]
fn keys_survive_the_kill_of_all_nodes_with_and_without_a_snapshot_file() {
    let mut cluster = Cluster::of_kvstores(&PURGING);
    let largest = "x".repeat(1 << 20);
    for round in 0..3 {
        let (leader, follower, _) = cluster.roles();
        let mut expected = fill(&cluster.nodes[follower], round);
        cluster.nodes[leader].asked(&["SET", "largest", &largest]);
        expected.insert("largest".into(), largest.clone());
        if round > 0 {
            let now = cluster.nodes[leader].status().unwrap().committed;
            purge_behind(&cluster.nodes[leader], now);
        }
        check_everywhere(&cluster, &expected);
        cluster.nodes.iter_mut().for_each(Node::kill);
        cluster.nodes.iter_mut().for_each(Node::start);
        cluster.wait_voters(3);
        check_everywhere(&cluster, &expected);
    }
    let words = cluster.nodes[0].words();
    let opening = words.lines().rfind(|line| line.starts_with("file: ")).unwrap();
    assert!(!opening.contains("checkpoint none"), "{opening}");
}

#[test]
fn a_member_behind_the_log_is_brought_what_changed_and_what_was_deleted() {
    let mut cluster = Cluster::of_kvstores(&PURGING);
    let (leader, follower, _) = cluster.roles();
    fill(&cluster.nodes[leader], 0);
    cluster.wait_level();
    let applied = cluster.nodes[follower].status().unwrap().applied;
    cluster.nodes[follower].kill();
    let mut expected = fill(&cluster.nodes[leader], 1);
    for key in expected.keys().take(50).cloned().collect::<Vec<_>>() {
        cluster.nodes[leader].asked(&["DEL", &key]);
        expected.remove(&key);
    }
    purge_behind(&cluster.nodes[leader], applied);
    cluster.nodes[follower].start();
    check_everywhere(&cluster, &expected);
    assert!(cluster.nodes[follower].words().contains("snapshot received"));

    // And one that has nothing, from a log that begins long behind its beginning.
    let join = cluster.nodes[leader].raft_address();
    let new = cluster.add("node3", &[&PURGING[..], &["-join", &join]].concat());
    new.program = KVSTORE;
    new.start();
    cluster.wait_voters(4);
    check_everywhere(&cluster, &expected);
    assert!(cluster.nodes[3].words().contains("snapshot received"));
    // What it was brought is on its disk.
    cluster.nodes[3].kill();
    cluster.nodes[3].start();
    check_everywhere(&cluster, &expected);
}

#[test]
fn full_memory_refuses_values_and_takes_deletes() {
    let cluster = Cluster::of_kvstores(&["-memory-mib", "16"]);
    let leader = cluster.leader();
    let mut client = cluster.nodes[leader].client().unwrap();
    let value = "v".repeat(500_000);
    let refused = (0..100).find_map(|number| {
        let answer = client.ask(&["SET", &format!("key {number}"), &value]);
        answer.err().map(|failure| (number, failure))
    });
    let (count, failure) = refused.expect("16 MiB hold no 100 values of 0.5 MB");
    let Failure::Refused(reason) = failure else { panic!("{failure:?}") };
    assert!(reason.starts_with("OOM keys and values take all of -memory-mib"), "{reason}");
    assert!((32..36).contains(&count), "{count} values");
    assert_eq!(client.ask(&["GET", "key 0"]).unwrap().text(), Some(value.clone()));
    assert_eq!(client.ask(&["DEL", "key 0", "key 1"]), Ok(Value::Integer(2)));
    assert_eq!(client.ask(&["SET", "key 0", "small"]), Ok(ok()));
    // Nobody died of it.
    cluster.wait_level();
    assert!(cluster.nodes.iter().all(|node| node.status().is_some()));
}

#[test]
fn a_redis_client_finds_what_it_is_used_to() {
    let cluster = Cluster::of_kvstores(&[]);
    let node = &cluster.nodes[0];
    let mut client = node.client().unwrap();
    assert_eq!(client.ask(&["MSET", "a", "1", "b c", "2", "", "empty"]), Ok(ok()));
    let values = client.ask(&["MGET", "a", "b c", ""]).unwrap().texts();
    assert_eq!(values, ["1", "2", "empty"].map(|text| Some(text.to_owned())));
    assert_eq!(client.ask(&["INCRBY", "a", "41"]), Ok(Value::Integer(42)));
    assert_eq!(client.ask(&["APPEND", "a", "!"]), Ok(Value::Integer(3)));
    assert_eq!(client.ask(&["SET", "a", "x", "NX"]), Ok(Value::Nil));
    assert_eq!(client.ask(&["GETDEL", "a"]).unwrap().text(), Some("42!".into()));
    assert_eq!(client.ask(&["EXISTS", "a", "b c"]), Ok(Value::Integer(1)));
    assert!(client.ask(&["RANDOMKEY"]).unwrap().text().is_some());
    // A watched key that was deleted and is set by another: the transaction fails.
    assert_eq!(client.ask(&["WATCH", "a"]), Ok(ok()));
    node.asked(&["SET", "a", "other"]);
    client.ask(&["MULTI"]).unwrap();
    client.ask(&["SET", "a", "mine"]).unwrap();
    assert_eq!(client.ask(&["EXEC"]), Ok(Value::Nil));
    assert_eq!(client.ask(&["GET", "a"]).unwrap().text(), Some("other".into()));
    assert_eq!(client.ask(&["SET", "a", &"x".repeat(1 << 20)]), Ok(ok()));
    let too_large = client.ask(&["APPEND", "a", "x"]).unwrap_err();
    let words = "ERR value is 1048577 bytes, a key holds at most 1048576";
    assert_eq!(too_large, Failure::Refused(words.into()));
}

#[test]
fn slots_and_keys_refuse_each_others_clusters_and_directories() {
    let mut cluster = Cluster::of_three(&[]);
    let join = cluster.nodes[0].join_address();
    let stranger = cluster.add("stranger", &["-join", &join]);
    stranger.program = KVSTORE;
    let words = stranger.must_refuse(1);
    assert!(words.contains("the cluster at -join has slots (program diskstore)"), "{words}");
    let directory = cluster.nodes[2].directory.clone();
    cluster.nodes[2].stop();
    cluster.nodes[2].program = KVSTORE;
    let words = cluster.nodes[2].must_refuse(1);
    let made = format!("{} was made for slots (program diskstore)", directory.display());
    assert!(words.contains(&made), "{words}");
}

#[test]
fn a_node_without_its_snapshot_file_has_lost_data() {
    let mut cluster = Cluster::of_kvstores(&PURGING);
    let (leader, follower, _) = cluster.roles();
    purge_behind(&cluster.nodes[leader], 1);
    wait_until("a checkpoint of the follower", || {
        cluster.nodes[follower].status().is_some_and(|status| status.checkpoint > 0)
    });
    cluster.nodes[follower].kill();
    let path = cluster.nodes[follower].directory.join("snapshot.dat");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let words = cluster.nodes[follower].must_refuse(3);
    assert!(words.contains("snapshot.dat is gone"), "{words}");
    let mut damaged = bytes.clone();
    damaged[5000] ^= 1;
    std::fs::write(&path, damaged).unwrap();
    let words = cluster.nodes[follower].must_refuse(1);
    assert!(words.contains("snapshot.dat is corrupt at byte 4096"), "{words}");
    std::fs::write(&path, bytes).unwrap();
    cluster.nodes[follower].start();
    wait_for("the node", || cluster.nodes[follower].status());
    cluster.wait_level();
}

/// What a reply may hold counts as it is read, not as it could be.
#[test]
fn many_keys_are_read_by_one_command_at_every_member() {
    let cluster = Cluster::of_kvstores(&[]);
    let (leader, follower, _) = cluster.roles();
    let keys: Vec<String> = (0..500).map(|number| format!("key {number}")).collect();
    let words = |name: &'static str| -> Vec<&str> {
        std::iter::once(name).chain(keys.iter().map(String::as_str)).collect()
    };
    let pairs: Vec<&str> =
        std::iter::once("MSET").chain(keys.iter().flat_map(|key| [key.as_str(), "v"])).collect();
    assert_eq!(cluster.nodes[follower].ask(&pairs), Ok(ok()));
    // 24 values of 1 MiB: more than one member sends another, less than a reply holds.
    let large = "x".repeat(1 << 20);
    for key in &keys[..24] {
        assert_eq!(cluster.nodes[leader].ask(&["SET", key, &large]), Ok(ok()));
    }
    for node in [leader, follower] {
        let mut client = cluster.nodes[node].client().unwrap();
        let values = client.ask(&words("MGET")).unwrap().texts();
        let lengths: Vec<usize> = values.iter().flatten().map(String::len).collect();
        assert_eq!(lengths.len(), 500);
        assert!(lengths[..24].iter().all(|length| *length == 1 << 20));
        assert!(lengths[24..].iter().all(|length| *length == 1));
        assert_eq!(client.ask(&["MULTI"]), Ok(ok()));
        for key in &keys {
            client.ask(&["STRLEN", key]).unwrap();
        }
        assert_eq!(client.ask(&["GET", &keys[499]]), Ok(Value::Simple("QUEUED".into())));
        let Value::Array(replies) = client.ask(&["EXEC"]).unwrap() else { panic!("no array") };
        assert_eq!(replies[..24], vec![Value::Integer(1 << 20); 24]);
        assert_eq!(replies[500], Value::Bulk(b"v".to_vec()));
        assert_eq!(client.ask(&words("EXISTS")), Ok(Value::Integer(500)));
    }
    // Beyond the bound of a reply it says so, wherever it is asked; what needs no values goes on.
    for key in &keys[24..70] {
        assert_eq!(cluster.nodes[leader].ask(&["SET", key, &large]), Ok(ok()));
    }
    for node in [leader, follower] {
        let mut client = cluster.nodes[node].client().unwrap();
        let refused = client.ask(&words("MGET")).unwrap_err();
        assert!(format!("{refused:?}").contains("more than 67108864 bytes"), "{refused:?}");
        assert_eq!(client.ask(&words("EXISTS")), Ok(Value::Integer(500)));
        assert_eq!(
            client.ask(&["GET", &keys[69]]).unwrap().text().map(|text| text.len()),
            Some(1 << 20)
        );
    }
}
