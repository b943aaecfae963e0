//! SIGKILL and SIGSTOP under load.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use diskstore::status::Status;
use rustix::process::Signal;

use crate::load::{Filler, History, Load};
use crate::nodes::{Cluster, wait_for, wait_until};
use crate::resp::{Client, Failure, Value};

/// Acknowledged writes between two faults.
const WRITES: u64 = 150;
/// Between two attempts that fail.
const PAUSE: Duration = Duration::from_millis(20);

#[test]
fn no_acknowledged_write_is_lost_when_leader_follower_or_all_are_killed() {
    kill_each(&[], 3);
}

/// What was written is with the system, and outlives the process.
#[test]
fn no_acknowledged_write_is_lost_by_kills_where_the_log_is_synced_late_or_never() {
    for sync in ["batch:10", "never"] {
        kill_each(&["-sync", sync, "-checkpoint-mib", "1"], 1);
    }
}

fn kill_each(arguments: &[&str], rounds: usize) {
    let mut cluster = Cluster::of_three(arguments);
    let history = History::new();
    for _ in 0..rounds {
        let load = Load::start(&cluster, &history);
        load.wait_more(WRITES);
        let (leader, _, _) = cluster.roles();
        cluster.nodes[leader].kill();
        load.wait_more(WRITES);
        cluster.nodes[leader].start();
        let (_, follower, _) = cluster.roles();
        load.wait_more(WRITES);
        cluster.nodes[follower].kill();
        load.wait_more(WRITES);
        cluster.nodes[follower].start();
        cluster.wait_voters(3);
        load.wait_more(WRITES);
        for node in &mut cluster.nodes {
            node.kill();
        }
        for node in &mut cluster.nodes {
            node.start();
        }
        load.wait_more(WRITES);
        load.stop();
        history.check_everywhere(&cluster);
    }
    assert!(history.reads() > 0);
    eprintln!("{} writes acknowledged, {} unknown", history.acknowledged(), history.unknown());
}

#[test]
fn a_leader_that_is_told_to_stop_hands_over_before_it_goes() {
    let mut cluster = Cluster::of_three(&[]);
    let history = History::new();
    let load = Load::start(&cluster, &history);
    for _ in 0..2 {
        load.wait_more(WRITES);
        let leader = cluster.leader();
        let unknown = history.unknown();
        let begun = Instant::now();
        cluster.nodes[leader].signal(Signal::TERM);
        let other = wait_for("another leader", || {
            let mut others = (0..3).filter(|index| *index != leader);
            others.find(|other| {
                cluster.nodes[*other].status().is_some_and(|status| is_leader(&status))
            })
        });
        let handed_over = begun.elapsed();
        let status = cluster.nodes[leader].wait_exit();
        assert_eq!(status.code(), Some(0), "{}", cluster.nodes[leader].words());
        let (ended, lost) = (begun.elapsed(), history.unknown() - unknown);
        eprintln!("handed over in {handed_over:?}, ended in {ended:?}, {lost} writes unknown");
        let words = cluster.nodes[leader].words();
        let at = |line: &str| words.rfind(line).unwrap_or_else(|| panic!("no `{line}`: {words}"));
        assert!(at("leadership handed over") < at("stopped"));
        assert!(!words.contains(" ERROR "), "a clean stop is none: {words}");
        // It still leads: nobody had to campaign because the old one was gone.
        assert!(cluster.nodes[other].status().is_some_and(|status| is_leader(&status)));
        load.wait_more(WRITES);
        cluster.nodes[leader].start();
        cluster.wait_voters(3);
    }
    load.stop();
    history.check(&cluster);
}

fn is_leader(status: &Status) -> bool {
    status.role == "leader"
}

#[test]
fn a_leader_that_was_paused_serves_no_stale_linearizable_read() {
    paused_leader_serves_nothing_stale("linearizable");
}

#[test]
fn a_leader_that_was_paused_serves_no_stale_lease_read() {
    paused_leader_serves_nothing_stale("lease");
}

/// Requests that wait in the sockets of a paused leader.
const WAITING: usize = 8;

fn paused_leader_serves_nothing_stale(level: &str) {
    let cluster = Cluster::of_three(&["-read", level]);
    let history = History::new();
    let (leader, _, _) = cluster.roles();
    let node = &cluster.nodes[leader];
    node.asked(&["SET", "1000", "old"]);
    let load = Load::start(&cluster, &history);
    load.wait_more(WRITES);
    node.signal(Signal::STOP);
    let other = wait_for("another leader", || {
        let mut others = (0..3).filter(|index| *index != leader);
        others.find(|index| cluster.nodes[*index].status().is_some_and(|status| is_leader(&status)))
    });
    assert_eq!(cluster.nodes[other].asked(&["SET", "1000", "new"]), Value::Simple("OK".into()));
    // They are in its sockets before it knows that it leads no more.
    let waiting: Vec<_> = (0..WAITING)
        .map(|_| {
            let mut client = node.client().unwrap();
            client.send(&["GET", "1000"]).unwrap();
            client
        })
        .collect();
    node.signal(Signal::CONT);
    for mut client in waiting {
        match client.receive() {
            Ok(value) => assert_eq!(value.text().as_deref(), Some("new")),
            Err(failure) => eprintln!("not answered: {failure:?}"),
        }
    }
    assert_eq!(node.asked(&["GET", "1000"]).text().as_deref(), Some("new"));
    load.wait_more(WRITES);
    load.stop();
    history.check(&cluster);
}

#[test]
fn nodes_killed_in_the_middle_of_a_checkpoint_lose_nothing() {
    let mut cluster = Cluster::of_three(&["-checkpoint-mib", "1", "-keep-mib", "0"]);
    let history = History::new();
    let load = Load::start(&cluster, &history);
    let filler = Filler::start(&cluster);
    for round in 0..4 {
        load.wait_more(WRITES);
        let (leader, follower, _) = cluster.roles();
        let watched = if round % 2 == 0 { leader } else { follower };
        let path = cluster.nodes[watched].directory.join("double.dat");
        let changed = || std::fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
        let before = changed();
        wait_until("a checkpoint to begin", || changed() != before);
        let killed = if round < 2 { watched..watched + 1 } else { 0..3 };
        for index in killed.clone() {
            cluster.nodes[index].kill();
        }
        for index in killed {
            cluster.nodes[index].start();
        }
        cluster.wait_voters(3);
    }
    filler.stop();
    load.wait_more(WRITES);
    load.stop();
    history.check_everywhere(&cluster);
}

#[test]
fn a_follower_in_a_crash_loop_comes_back_whole() {
    let mut cluster = Cluster::of_three(&["-checkpoint-mib", "1", "-keep-mib", "0"]);
    let history = History::new();
    let load = Load::start(&cluster, &history);
    load.wait_more(WRITES);
    let (_, follower, _) = cluster.roles();
    cluster.nodes[follower].kill();
    for turn in 0..20 {
        let node = &mut cluster.nodes[follower];
        let words = node.words().len();
        node.start();
        match turn % 4 {
            0 => {}
            1 => wait_until("its first words", || node.words().len() > words),
            2 => wait_until("an answer", || node.status().is_some()),
            _ => load.wait_more(WRITES / 5),
        }
        node.kill();
    }
    cluster.nodes[follower].start();
    cluster.wait_voters(3);
    load.wait_more(WRITES);
    load.stop();
    cluster.wait_level();
    history.check_local(&cluster, follower);
    history.check(&cluster);
}

/// Threads that count, and how far each counts.
const COUNTERS: usize = 4;
const COUNTS: u64 = 120;

#[test]
fn increments_are_applied_once_though_leaders_die() {
    let mut cluster = Cluster::of_three(&[]);
    let (sure, unknown) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let counters: Vec<_> = (0..COUNTERS)
        .map(|counter| {
            let (sure, unknown, addresses) = (sure.clone(), unknown.clone(), cluster.addresses());
            std::thread::spawn(move || {
                let mut seen = BTreeSet::new();
                let mut turn = counter;
                let mut client = Client::connect(&addresses[turn % 3]);
                while seen.len() < usize::try_from(COUNTS).unwrap() {
                    let answer = match &mut client {
                        Ok(client) => client.ask(&["INCR", "2000"]),
                        Err(failure) => Err(failure.clone()),
                    };
                    match answer {
                        Ok(Value::Integer(count)) => {
                            assert!(seen.insert(count), "{count} twice");
                            sure.fetch_add(1, Ordering::Relaxed);
                            continue;
                        }
                        Ok(other) => panic!("{other:?}"),
                        Err(Failure::Unknown(_)) => _ = unknown.fetch_add(1, Ordering::Relaxed),
                        Err(Failure::Refused(_)) => {}
                    }
                    turn += 1;
                    client = Client::connect(&addresses[turn % 3]);
                    std::thread::sleep(PAUSE);
                }
                seen
            })
        })
        .collect();
    for part in [1, 2] {
        let enough = COUNTS * part * u64::try_from(COUNTERS).unwrap() / 4;
        wait_until("a part of the counts", || sure.load(Ordering::Relaxed) >= enough);
        let leader = cluster.leader();
        cluster.nodes[leader].kill();
        cluster.nodes[leader].start();
    }
    let mut all = BTreeSet::new();
    for counter in counters {
        for count in counter.join().unwrap() {
            assert!(all.insert(count), "{count} was given to two");
        }
    }
    let (sure, unknown) = (sure.load(Ordering::Relaxed), unknown.load(Ordering::Relaxed));
    let value: u64 = cluster.nodes[0].asked(&["GET", "2000"]).text().unwrap().parse().unwrap();
    assert!((sure..=sure + unknown).contains(&value), "{sure} + {unknown} unknown: {value}");
    eprintln!("counted to {value}: {sure} acknowledged, {unknown} unknown");
}
