//! F22: a disk that keeps its callers waiting for seconds, under load. Whoever asks hears an
//! answer within a bound, nothing acknowledged is lost, and all goes on when the disk does.

use std::time::{Duration, Instant};

use crate::load::{History, KEYS, Load};
use crate::nodes::{Cluster, Node, wait_for, wait_until};
use crate::resp::{Client, Failure, Value};
use crate::strace::Injector;

/// Acknowledged writes before, during and after a stall.
const WRITES: u64 = 100;
/// Longer than an election.
const STALL_TIME: Duration = Duration::from_secs(4);
/// Values long enough to reach the bound of what is not synced (32 MiB) soon.
const GEOMETRY: [&str; 4] = ["-slots", "1024", "-value-size", "16000"];
const BULK_VALUES: usize = 16;
/// Twice the bound, and then some.
const BULK_REQUESTS_MAX: usize = 300;

/// What a node itself answers; a test fails if it does not before a client gives up.
#[track_caller]
fn answer(node: &Node, words: &[&str]) -> Result<Value, Failure> {
    let answer = node.client().unwrap().ask(words);
    let is_lost =
        matches!(&answer, Err(Failure::Unknown(text)) if text.starts_with("connection: "));
    assert!(!is_lost, "{words:?} at {}: {answer:?}", node.name);
    answer
}

/// Syncs of its log that have ended.
fn syncs(node: &Node) -> u64 {
    wait_for("a status", || node.status()).sync.count
}

/// Sends long writes to one node until one of them is not acknowledged.
#[track_caller]
fn fill_until_refused(node: &Node) {
    let value = "v".repeat(16_000);
    let keys: Vec<String> = (0..BULK_VALUES).map(|nth| (KEYS + nth).to_string()).collect();
    let mut words = vec!["MSET"];
    words.extend(keys.iter().flat_map(|key| [key.as_str(), &value]));
    let mut client: Client = node.client().unwrap();
    for _ in 0..BULK_REQUESTS_MAX {
        match client.ask(&words) {
            Ok(_) => {}
            Err(Failure::Unknown(text)) if text.starts_with("connection: ") => panic!("{text}"),
            Err(_) => return,
        }
    }
    panic!("the unsynced log of {} grew without a bound", node.name);
}

/// Everybody is back, has everything, and no node had to stop.
#[track_caller]
fn check_recovered(cluster: &mut Cluster, load: Load, history: &History) {
    cluster.wait_voters(3);
    load.wait_more(WRITES);
    load.stop();
    cluster.wait_level();
    history.check(cluster);
    for index in 0..3 {
        assert!(cluster.nodes[index].is_running(), "a slow disk is no fault");
        history.check_local(cluster, index);
    }
}

#[test]
fn a_member_whose_disk_stalls_holds_nobody_up_and_comes_back() {
    let mut cluster = Cluster::of_three(&[]);
    let history = History::new();
    let load = Load::start(&cluster, &history);
    let (leader, follower, _) = cluster.roles();
    for index in [leader, follower] {
        load.wait_more(WRITES);
        let node = &cluster.nodes[index];
        let Some(stall) = Injector::stall(node) else { return };
        let (begun, before) = (Instant::now(), syncs(node));
        while begun.elapsed() < STALL_TIME {
            load.wait_more(WRITES);
        }
        assert!(syncs(node) <= before + 1, "its disk did not stall");
        drop(stall);
        wait_until("the disk to go on", || {
            assert!(cluster.nodes[index].is_running(), "a slow disk is no fault");
            syncs(&cluster.nodes[index]) > before + 1
        });
    }
    check_recovered(&mut cluster, load, &history);
}

/// H25.
#[test]
fn a_leader_whose_disk_stalls_stops_to_lead_when_too_much_is_not_synced() {
    let mut cluster = Cluster::with_geometry(&GEOMETRY, &[]);
    let history = History::new();
    let load = Load::start(&cluster, &history);
    load.wait_more(WRITES);
    let (leader, _, _) = cluster.roles();
    let Some(stall) = Injector::stall(&cluster.nodes[leader]) else { return };
    fill_until_refused(&cluster.nodes[leader]);
    wait_until("another leader", || cluster.leader() != leader);
    load.wait_more(WRITES);
    let other = cluster.leader();
    assert_eq!(cluster.nodes[other].asked(&["SET", "1000", "new"]), Value::Simple("OK".into()));
    let old = &cluster.nodes[leader];
    answer(old, &["SET", "1001", "late"]).unwrap_err();
    if let Ok(value) = answer(old, &["GET", "1000"]) {
        assert_eq!(value.text().as_deref(), Some("new"), "a stale read");
    }
    drop(stall);
    check_recovered(&mut cluster, load, &history);
}

#[test]
fn nothing_is_acknowledged_while_the_disks_of_a_majority_stall_and_reads_go_on() {
    let mut cluster = Cluster::of_three(&[]);
    let history = History::new();
    let load = Load::start(&cluster, &history);
    load.wait_more(WRITES);
    let (leader, first, second) = cluster.roles();
    let Some(stalls) = Injector::stall(&cluster.nodes[first])
        .and_then(|stall| Some((stall, Injector::stall(&cluster.nodes[second])?)))
    else {
        return;
    };
    for index in [leader, first] {
        answer(&cluster.nodes[index], &["SET", "1000", "nobody knows"]).unwrap_err();
        // Who leads is a matter of votes, which followers have in memory: a read waits for no disk.
        wait_until("a read", || cluster.nodes[index].ask(&["GET", "1001"]).is_ok());
    }
    drop(stalls);
    check_recovered(&mut cluster, load, &history);
}
