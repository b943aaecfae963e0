//! A member that was away for so long that the log behind it is gone.

use crate::load::{History, KEYS, Load};
use crate::nodes::{Cluster, Node, wait_for, wait_until};
use crate::resp::Value;

/// Slots that change while a member is away.
const CHANGED: usize = 100;
/// Values that one request sets: a log entry well below the bound of a request.
const BATCH: usize = 100;
/// Requests until a log of 1 MiB must have been purged; far fewer are enough.
const REQUESTS_MAX: usize = 400;

/// Values of a certain size that tell which slot and which round they are from.
fn value(key: usize, round: usize, bytes: usize) -> String {
    let mut text = format!("{key} in round {round} ");
    text.push_str(&"x".repeat(bytes - text.len()));
    text
}

/// Sets all these slots.
#[track_caller]
fn set_all(node: &Node, keys: std::ops::Range<usize>, round: usize, bytes: usize) {
    let mut client = node.client().unwrap();
    let keys: Vec<usize> = keys.collect();
    for keys in keys.chunks((BATCH * 256 / bytes).max(1)) {
        let mut words = vec!["MSET".to_owned()];
        words.extend(keys.iter().flat_map(|key| [key.to_string(), value(*key, round, bytes)]));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!(client.ask(&words), Ok(Value::Simple("OK".into())));
    }
}

/// Fails unless the node itself holds these values.
#[track_caller]
fn check_local(node: &Node, keys: std::ops::Range<usize>, round: usize, bytes: usize) {
    for key in keys {
        assert_eq!(node.local(&key.to_string()).unwrap(), Some(value(key, round, bytes)));
    }
}

/// What the sender said of its snapshots: slots, and after which index they had changed.
fn snapshots_sent(words: &str) -> Vec<(usize, u64)> {
    let field = |line: &str, name: &str| -> u64 {
        let rest = line.split_once(name).unwrap().1;
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    let lines = words.lines().filter(|line| line.contains("snapshot sent"));
    lines
        .map(|line| {
            (usize::try_from(field(line, "slots=")).unwrap(), field(line, "changed_after="))
        })
        .collect()
}

#[test]
fn only_slots_that_changed_travel_to_a_member_that_fell_behind_the_log() {
    let mut cluster = Cluster::of_three(&["-checkpoint-mib", "1", "-keep-mib", "0"]);
    let (leader, follower, other) = cluster.roles();
    set_all(&cluster.nodes[leader], 0..4096, 0, 250);
    cluster.wait_level();
    let applied = cluster.nodes[follower].status().unwrap().applied;
    cluster.nodes[follower].stop();
    let mut round = 0;
    while cluster.nodes[leader].status().unwrap().purged <= applied {
        round += 1;
        assert!(round < REQUESTS_MAX, "the log is never purged");
        set_all(&cluster.nodes[leader], 1000..1000 + CHANGED, round, 250);
    }
    let before = cluster.nodes[leader].words().len();
    cluster.nodes[follower].start();
    wait_until("the leader to have sent a snapshot", || {
        !snapshots_sent(&cluster.nodes[leader].words()[before..]).is_empty()
    });
    cluster.wait_level();
    let sent = snapshots_sent(&cluster.nodes[leader].words()[before..]);
    for (slots, changed_after) in &sent {
        assert!(*slots <= CHANGED && *changed_after >= applied, "{sent:?}");
    }
    assert_eq!(sent[0].0, CHANGED, "{sent:?}");
    check_local(&cluster.nodes[follower], 0..1000, 0, 250);
    check_local(&cluster.nodes[follower], 1000..1000 + CHANGED, round, 250);
    check_local(&cluster.nodes[follower], 1000 + CHANGED..4096, 0, 250);
    // It counts again: with it and without the other there is a majority.
    cluster.nodes[other].kill();
    cluster.nodes[leader].asked(&["SET", "1", "again"]);
}

#[test]
fn a_receiver_killed_in_the_middle_of_a_snapshot_finishes_it_later() {
    const SLOTS: usize = 4096;
    const BYTES: usize = 16_000;
    let purging = ["-checkpoint-mib", "8", "-keep-mib", "0"];
    let first = [&["-slots", "4096", "-value-size", "16000"], &purging[..]].concat();
    let mut cluster = Cluster::with_geometry(&first, &purging);
    let (leader, follower, _) = cluster.roles();
    set_all(&cluster.nodes[leader], KEYS..SLOTS / 2, 1, BYTES);
    cluster.wait_level();
    let applied = cluster.nodes[follower].status().unwrap().applied;
    cluster.nodes[follower].kill();
    let history = History::new();
    let load = Load::start(&cluster, &history);
    set_all(&cluster.nodes[leader], KEYS..SLOTS, 2, BYTES);
    wait_until("the log to be purged", || {
        cluster.nodes[leader].status().is_some_and(|status| status.purged > applied)
    });
    for _ in 0..2 {
        let node = &mut cluster.nodes[follower];
        node.start();
        wait_until("a snapshot to come in", || {
            node.status().is_some_and(|status| status.readable_from > status.applied)
        });
        node.kill();
        assert!(!node.words().contains("snapshot received"), "it came too fast for this test");
    }
    cluster.nodes[follower].start();
    // What is half old and half new is not shown.
    let key = (SLOTS - 1).to_string();
    let shown = wait_for("a local read", || cluster.nodes[follower].local(&key).ok());
    assert_eq!(shown, Some(value(SLOTS - 1, 2, BYTES)));
    load.wait_more(100);
    load.stop();
    cluster.wait_level();
    assert!(cluster.nodes[follower].words().contains("snapshot received"));
    check_local(&cluster.nodes[follower], KEYS..SLOTS, 2, BYTES);
    history.check_local(&cluster, follower);
    history.check(&cluster);
}
