//! What an operator orders: votes given and taken, one member for another, who leads, checkpoints.

use std::process::{Command, Output, Stdio};

use crate::load::{History, Load};
use crate::nodes::{Cluster, wait_for, wait_until};

/// Acknowledged writes around each change.
const WRITES: u64 = 50;
/// Exit code of a member that was removed.
const REMOVED: i32 = 4;

fn run(cluster: &Cluster, at: usize, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diskstore"));
    command.args(words).args(["-addr", &cluster.nodes[at].client_address()]);
    command.stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn done(cluster: &Cluster, at: usize, words: &[&str]) -> String {
    let output = run(cluster, at, words);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{words:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(cluster: &Cluster, at: usize, words: &[&str]) -> String {
    let output = run(cluster, at, words);
    assert_eq!(output.status.code(), Some(1), "{words:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn name(cluster: &Cluster, index: usize) -> String {
    cluster.nodes[index].name.clone()
}

/// The role of a member as its leader has it, and whether it is not to vote.
fn role(cluster: &Cluster, index: usize) -> (String, bool) {
    let status = wait_for("a status", || cluster.nodes[cluster.leader()].status());
    let name = name(cluster, index);
    let member = status.members.into_iter().find(|member| member.name == name).unwrap();
    (member.role, member.is_standby)
}

/// Waits until a leader misses a member, or hears it again.
fn wait_silent(cluster: &Cluster, leader: usize, who: &str, is_silent: bool) {
    wait_until("what is heard of a member", || {
        let status = cluster.nodes[leader].status().unwrap_or_default();
        let member = status.members.iter().find(|member| member.name == who);
        member.is_some_and(|member| member.silent == Some(is_silent))
    });
}

#[test]
fn one_that_is_demoted_follows_without_a_vote_until_it_is_promoted() {
    let mut cluster = Cluster::of_three(&[]);
    let history = History::new();
    let load = Load::start(&cluster, &history);
    load.wait_more(WRITES);
    let (leader, demoted, other) = cluster.roles();
    let who = name(&cluster, demoted);
    let said = done(&cluster, other, &["members", "demote", &who]);
    assert_eq!(said, format!("{who} follows without a vote\n"));
    assert_eq!(role(&cluster, demoted), ("learner".to_owned(), true));
    assert_eq!(done(&cluster, leader, &["members", "demote", &who]), said, "it is so already");
    load.wait_more(WRITES);

    // Neither a start nor another leader gives it the vote back.
    cluster.nodes[demoted].kill();
    cluster.nodes[demoted].start();
    let led = name(&cluster, leader);
    done(&cluster, other, &["transfer-leader"]);
    let text = done(&cluster, other, &["members"]);
    assert!(text.lines().any(|line| line.starts_with(&who) && line.contains("standby")), "{text}");
    load.wait_more(WRITES);
    assert_eq!(role(&cluster, demoted), ("learner".to_owned(), true));
    let words = refused(&cluster, other, &["transfer-leader", &who]);
    assert!(words.contains("does not vote, and cannot lead"), "{words}");
    // Of two that vote both are needed for the change itself: one that is dead stays.
    let gone = (0..3).find(|index| name(&cluster, *index) == led).unwrap();
    let left = 3 - gone - demoted;
    cluster.nodes[gone].kill();
    wait_silent(&cluster, left, &led, true);
    let words = refused(&cluster, left, &["members", "promote", &who]);
    assert!(words.contains("no majority"), "{words}");
    cluster.nodes[gone].start();
    wait_silent(&cluster, left, &led, false);
    let said = done(&cluster, left, &["members", "promote", &who, "-json"]);
    assert_eq!(said, format!("{{\"votes\":\"{who}\"}}\n"));
    cluster.wait_voters(3);
    load.wait_more(WRITES);
    load.stop();
    history.check_everywhere(&cluster);
}

#[test]
fn a_leader_that_is_demoted_hands_over_and_the_last_voter_stays() {
    let cluster = Cluster::of_three(&[]);
    let history = History::new();
    let load = Load::start(&cluster, &history);
    load.wait_more(WRITES);
    let (leader, follower, other) = cluster.roles();
    let who = name(&cluster, leader);
    done(&cluster, follower, &["members", "demote", &who]);
    wait_until("another leads", || cluster.leader() != leader);
    assert_eq!(role(&cluster, leader), ("learner".to_owned(), true));
    load.wait_more(WRITES);
    let next = cluster.leader();
    done(&cluster, leader, &["members", "demote", &name(&cluster, follower + other - next)]);
    let words = refused(&cluster, leader, &["members", "demote", &name(&cluster, next)]);
    assert!(words.contains("is the last voter"), "{words}");
    assert_eq!(cluster.leader(), next);
    load.wait_more(WRITES);
    load.stop();
    history.check_everywhere(&cluster);
}

#[test]
fn one_member_takes_the_place_of_another_in_one_change() {
    let mut cluster = Cluster::of_three(&[]);
    let history = History::new();
    let load = Load::start(&cluster, &history);
    load.wait_more(WRITES);
    let (leader, _, follower) = cluster.roles();
    let said = done(&cluster, follower, &["members", "add", "node9"]);
    let join = cluster.nodes[leader].raft_address();
    assert!(said.contains("-id node9 -join ") && said.contains(&join), "{said}");
    assert!(said.contains("4 voters can lose 1; as many as without it"), "{said}");
    let taken = run(&cluster, follower, &["members", "add", &name(&cluster, leader)]);
    assert_eq!(taken.status.code(), Some(2), "{taken:?}");

    cluster.add("node9", &["-join", &join]).start();
    cluster.wait_voters(4);
    let old = name(&cluster, leader);
    let words = refused(&cluster, follower, &["members", "replace", &old, &old]);
    assert!(words.contains("one member"), "{words}");
    // The leader itself goes: it hands over first.
    done(&cluster, follower, &["members", "replace", &old, "node9"]);
    assert_eq!(cluster.nodes[leader].wait_exit().code(), Some(REMOVED));
    cluster.wait_voters(3);
    load.wait_more(WRITES);
    assert!(!role(&cluster, 3).1);
    load.stop();
    history.check(&cluster);
}

#[test]
fn who_is_named_leads_and_a_node_writes_a_checkpoint_and_says_its_flags_when_told() {
    let cluster = Cluster::of_three(&["-read", "lease"]);
    let (leader, heir, other) = cluster.roles();
    cluster.nodes[other].asked(&["SET", "1", "one"]);
    let who = name(&cluster, heir);
    assert_eq!(done(&cluster, other, &["transfer-leader", &who]), format!("{who} leads\n"));
    assert_eq!(cluster.leader(), heir);
    let said = done(&cluster, leader, &["transfer-leader", &who, "-json"]);
    assert_eq!(said, format!("{{\"leader\":\"{who}\"}}\n"), "it leads already");
    assert_eq!(cluster.leader(), heir);
    let words = refused(&cluster, leader, &["transfer-leader", "nobody"]);
    assert!(words.contains("no member is called `nobody`"), "{words}");

    let applied = wait_for("a status", || cluster.nodes[other].status()).applied;
    let said = done(&cluster, other, &["checkpoint", "-json"]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(said["checkpoint"].as_u64().unwrap() >= applied, "{said}");
    let status = wait_for("a status", || cluster.nodes[other].status());
    assert!(status.checkpoint >= applied, "{status:?}");

    let flags = done(&cluster, other, &["config"]);
    for line in ["read = \"lease\"", "sync = \"always\"", "insecure = false"] {
        assert!(flags.lines().any(|flag| flag == line), "{line}: {flags}");
    }
    let file = cluster.folder.path().join("again.toml");
    std::fs::write(&file, &flags).unwrap(); // a node takes it, up to the address that is in use
    let mut again = Command::new(env!("CARGO_BIN_EXE_diskstore"));
    let again = again.arg("-config").arg(&file).stdin(Stdio::null()).output().unwrap();
    assert_eq!(again.status.code(), Some(1), "{again:?}");

    for (words, said) in [
        (&["members", "remove"][..], "name one member"),
        (&["members", "replace", "a"], "two names"),
        (&["members", "list", "a"], "no names"),
        (&["members", "lsit"], "list"),
    ] {
        let output = run(&cluster, other, words);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && text.contains(said), "{words:?}: {text}");
    }
}
