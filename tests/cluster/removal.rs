//! Members that are taken out of a running cluster.

use std::process::{Command, Output, Stdio};

use crate::load::{History, Load};
use crate::logger::Logger;
use crate::nodes::{Cluster, wait_for, wait_until};

/// Acknowledged writes around each change.
const WRITES: u64 = 100;
/// Exit code of a member that was removed.
const REMOVED: i32 = 4;

/// `diskstore remove`, asked at one node.
fn remove(cluster: &Cluster, at: usize, member: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diskstore"));
    command.args(["remove", member, "-addr", &cluster.nodes[at].client_address()]);
    command.stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn removed(cluster: &Cluster, at: usize, member: &str) {
    let output = remove(cluster, at, member);
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{words}");
    assert_eq!(output.stdout, b"OK\n");
}

#[track_caller]
fn refused(cluster: &Cluster, at: usize, member: &str) -> String {
    let output = remove(cluster, at, member);
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

fn terms(cluster: &Cluster, nodes: &[usize]) -> Vec<u64> {
    let term = |index: &usize| wait_for("a status", || cluster.nodes[*index].status()).term;
    nodes.iter().map(term).collect()
}

#[test]
fn a_voter_that_is_removed_says_so_stops_and_disturbs_nobody_when_it_is_started_again() {
    let mut cluster = Cluster::of_three(&[]);
    let history = History::new();
    let load = Load::start(&cluster, &history);
    load.wait_more(WRITES);
    let (leader, gone, other) = cluster.roles();
    let name = cluster.nodes[gone].name.clone();
    removed(&cluster, other, &name);
    let status = cluster.nodes[gone].wait_exit();
    assert_eq!(status.code(), Some(REMOVED));
    assert!(cluster.nodes[gone].words().contains("was removed from its cluster"));
    cluster.wait_voters(2);
    load.wait_more(WRITES);
    let before = terms(&cluster, &[leader, other]);
    let words = cluster.nodes[gone].must_refuse(REMOVED);
    assert!(words.contains("move") && words.contains("start it with -join"), "{words}");
    load.wait_more(WRITES);
    assert_eq!(terms(&cluster, &[leader, other]), before);

    // What it said to do makes it a member again.
    cluster.wipe(gone);
    let join = cluster.nodes[leader].raft_address();
    cluster.nodes[gone].arguments.extend(["-join".to_owned(), join]);
    cluster.nodes[gone].start();
    cluster.wait_voters(3);
    load.wait_more(WRITES);
    load.stop();
    history.check_everywhere(&cluster);
}

#[test]
fn a_leader_that_is_removed_hands_over_first() {
    let mut cluster = Cluster::of_three(&[]);
    let (leader, follower, other) = cluster.roles();
    let name = cluster.nodes[leader].name.clone();
    for index in [follower, other] {
        cluster.nodes[index].asked(&["SET", "1", "before"]);
    }
    removed(&cluster, leader, &name);
    assert_eq!(cluster.nodes[leader].wait_exit().code(), Some(REMOVED));
    cluster.wait_voters(2);
    let next = cluster.leader();
    assert!(next == follower || next == other);
    cluster.nodes[next].asked(&["SET", "1", "after"]);
    cluster.wait_level();
}

#[test]
fn nobody_is_removed_where_the_rest_could_not_go_on() {
    let mut cluster = Cluster::of_three(&[]);
    let (leader, follower, dead) = cluster.roles();
    let names: Vec<String> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
    assert!(refused(&cluster, follower, "nobody").contains("no member is called `nobody`"));
    // The connection to the leader, which other commands share, does not suffer from it.
    let words = refused(&cluster, follower, &"x".repeat(5000));
    assert!(words.contains("no member has a name of 5000 bytes"), "{words}");
    cluster.nodes[dead].kill();
    wait_until("the dead one to be told", || {
        let status = cluster.nodes[leader].status();
        status.is_some_and(|status| status.members.iter().any(|member| member.silent == Some(true)))
    });
    for index in [leader, follower] {
        let words = refused(&cluster, follower, &names[index]);
        assert!(words.contains("1 of 2 voters would answer"), "{words}");
    }
    cluster.nodes[follower].asked(&["SET", "1", "x"]);
    // The dead one may go, and then one more: the last one stays.
    removed(&cluster, follower, &names[dead]);
    cluster.wait_voters(2);
    removed(&cluster, leader, &names[follower]);
    assert_eq!(cluster.nodes[follower].wait_exit().code(), Some(REMOVED));
    cluster.wait_voters(1);
    let words = refused(&cluster, leader, &names[leader]);
    assert!(words.contains("is the last voter"), "{words}");
    cluster.nodes[leader].asked(&["SET", "1", "y"]);
    // One that was away meanwhile hears of it from those that its own log names.
    let words = cluster.nodes[dead].must_refuse(REMOVED);
    assert!(words.contains("was removed from its cluster"), "{words}");
}

/// Nothing is begun that no majority would agree to, whether the one that is left led or not.
#[test]
fn of_two_members_none_is_removed_while_the_other_is_dead() {
    let mut cluster = Cluster::of_three(&[]);
    let (leader, follower, gone) = cluster.roles();
    let names: Vec<String> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
    removed(&cluster, leader, &names[gone]);
    cluster.nodes[gone].wait_exit();
    cluster.wait_voters(2);
    let last_log = |cluster: &Cluster, index: usize| {
        wait_for("a status", || cluster.nodes[index].status()).last_log
    };
    cluster.nodes[follower].kill();
    wait_until("the dead one to be told", || {
        let status = cluster.nodes[leader].status();
        status.is_some_and(|status| status.members.iter().any(|member| member.silent == Some(true)))
    });
    let before = last_log(&cluster, leader);
    let words = refused(&cluster, leader, &names[follower]);
    assert!(words.contains("1 of 2 voters answers, which is no majority"), "{words}");
    assert_eq!(last_log(&cluster, leader), before);
    cluster.nodes[follower].start();
    cluster.wait_voters(2);

    let dead = cluster.leader();
    let left = if dead == leader { follower } else { leader };
    cluster.nodes[dead].kill();
    let words = refused(&cluster, left, &names[dead]);
    assert!(words.contains("1 of 2 voters runs, which is no majority"), "{words}");
    wait_until("no leader to be known", || {
        cluster.nodes[left].status().is_some_and(|status| status.leader.is_none())
    });
    cluster.nodes[dead].start();
    cluster.wait_voters(2);
    cluster.nodes[left].asked(&["SET", "1", "x"]);
}

#[test]
fn a_logger_that_is_removed_by_its_id_stops() {
    let cluster = Cluster::of_three(&[]);
    let mut logger = Logger::start(&cluster, "log1", &[]);
    logger.wait_level(&cluster);
    let id = wait_for("its status", || logger.node.status()).member_id;
    removed(&cluster, 0, &id);
    assert_eq!(logger.node.wait_exit().code(), Some(REMOVED));
    assert!(logger.node.words().contains("log1: this member was removed from its cluster"));
    cluster.wait_voters(3);
}

/// All that the log of the one that was away names have gone: whoever leads now might be anybody, until
/// one that it is told of says who that is.
#[test]
fn a_member_that_was_away_while_all_others_were_replaced_follows_once_it_is_told_of_one() {
    let mut cluster = Cluster::of_three(&[]);
    let history = History::new();
    let load = Load::start(&cluster, &history);
    load.wait_more(WRITES);
    load.stop();
    cluster.wait_level();
    cluster.nodes[2].stop();
    let join = cluster.nodes[0].raft_address();
    for name in ["node3", "node4"] {
        cluster.add(name, &["-join", &join]).start();
    }
    cluster.wait_voters(5);
    for old in [0, 1] {
        removed(&cluster, 3, &cluster.nodes[old].name.clone());
        assert_eq!(cluster.nodes[old].wait_exit().code(), Some(REMOVED));
    }
    cluster.wait_voters(3);
    let load = Load::start(&cluster, &history);
    load.wait_more(WRITES);
    load.stop();
    let away = &mut cluster.nodes[2];
    away.start();
    wait_until("it to believe nobody", || away.words().contains("nothing is taken of a member"));
    away.stop();
    let running = cluster.nodes[3].raft_address();
    cluster.nodes[2].arguments.extend(["-join".to_owned(), running]);
    cluster.nodes[2].start();
    cluster.wait_voters(3);
    cluster.wait_level();
    history.check_local(&cluster, 2);
}
