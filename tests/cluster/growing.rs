//! A cluster that grows, in members, which come by join tokens, and in slots, of which each member makes
//! room at a start. One cluster goes through all of it.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use crate::nodes::{Cluster, wait_for, wait_until};

const BEFORE: &str = "4096";
const AFTER: &str = "8192";
/// A slot that there is only afterwards.
const NEW_SLOT: &str = "8191";
/// What a node exits with that is not let in.
const REFUSED: i32 = 1;

/// Runs a sub-command at a node; what it printed, or why it failed.
fn ordered(cluster: &Cluster, at: usize, words: &[&str]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diskstore"));
    command.args(words).args(["-addr", &cluster.nodes[at].client_address()]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout).unwrap());
    }
    Err(String::from_utf8(output.stderr).unwrap())
}

/// The same, until it succeeds: a leader may be new.
#[track_caller]
fn done(cluster: &Cluster, at: usize, words: &[&str]) -> String {
    wait_for(&format!("{words:?}"), || ordered(cluster, at, words).ok())
}

/// A file with a new join token.
fn invited(cluster: &Cluster, name: &str, expires: &str) -> PathBuf {
    let token = done(cluster, 0, &["token", "join", "-expires", expires]);
    let path = cluster.folder.path().join(name);
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
    file.write_all(token.as_bytes()).unwrap();
    path
}

/// The last node of the cluster, with this token.
fn with_token(cluster: &mut Cluster, token: &std::path::Path, more: &[&str]) {
    let join = cluster.nodes[0].raft_address();
    let node = cluster.nodes.last_mut().unwrap();
    let token = token.display().to_string();
    let words = ["-join", &join, "-join-tokens", "-join-token-file", &token];
    node.arguments = words.iter().chain(more).map(ToString::to_string).collect();
}

/// The last node is not let in with this token, however it is asked.
#[track_caller]
fn is_refused(cluster: &mut Cluster, token: &std::path::Path) {
    with_token(cluster, token, &[]);
    let node = cluster.nodes.last_mut().unwrap();
    let words = node.must_refuse(REFUSED);
    assert!(words.contains("a new member needs a join token here"), "{words}");
    drop(std::fs::remove_dir_all(&node.directory));
}

fn with_room(cluster: &mut Cluster, at: usize) {
    let arguments = &mut cluster.nodes[at].arguments;
    if let Some(place) = arguments.iter().position(|argument| argument == "-slots") {
        arguments.drain(place..place + 2);
    }
    arguments.extend(["-slots", AFTER].map(ToOwned::to_owned));
    cluster.nodes[at].start();
    cluster.wait_voters(3);
}

#[test]
fn members_come_by_tokens_and_slots_once_all_members_have_room() {
    let mut cluster = Cluster::empty();
    cluster.add("node0", &["-slots", BEFORE, "-value-size", "256", "-join-tokens"]).start();
    cluster.wait_voters(1);

    // A token lets one node in.
    let token = invited(&cluster, "first", "1h");
    cluster.add("node1", &[]);
    with_token(&mut cluster, &token, &[]);
    cluster.nodes[1].start();
    cluster.wait_voters(2);
    cluster.add("node2", &[]);
    is_refused(&mut cluster, &token);
    // One that is revoked or has expired lets none in.
    let token = invited(&cluster, "revoked", "1h");
    assert_eq!(done(&cluster, 1, &["token", "revoke-join"]), "OK\n");
    is_refused(&mut cluster, &token);
    let token = invited(&cluster, "expired", "1s");
    let expiry = SystemTime::now() + Duration::from_secs(2); // times are whole seconds
    wait_until("the token to expire", || SystemTime::now() > expiry);
    is_refused(&mut cluster, &token);
    // A new member may bring more room than its cluster has use for.
    let token = invited(&cluster, "last", "1h");
    with_token(&mut cluster, &token, &["-slots", AFTER]);
    cluster.nodes[2].start();
    cluster.wait_voters(3);

    cluster.nodes[0].asked(&["SET", "7", "old"]);
    assert!(cluster.nodes[2].ask(&["SET", NEW_SLOT, "none"]).is_err());
    let resize = ["resize", "-slots", AFTER];
    wait_until("node2 to have said what room it has", || {
        let refusal = ordered(&cluster, 1, &resize).unwrap_err();
        ["node0", "node1"].iter().all(|name| refusal.contains(name)) && !refusal.contains("node2")
    });
    cluster.nodes[1].stop();
    with_room(&mut cluster, 1);
    cluster.nodes[0].kill(); // in the middle, and by force
    with_room(&mut cluster, 0);
    assert!(cluster.nodes[0].ask(&["SET", NEW_SLOT, "none"]).is_err(), "room alone is no slot");
    done(&cluster, 1, &resize);
    let leader = cluster.leader();
    cluster.nodes[leader].kill(); // right behind the order
    let other = (leader + 1) % 3;
    cluster.nodes[other].asked(&["SET", NEW_SLOT, "new"]);
    cluster.nodes[leader].start();
    cluster.wait_voters(3);
    cluster.wait_level();
    for node in &cluster.nodes {
        assert_eq!(node.local(NEW_SLOT).unwrap().as_deref(), Some("new"), "{}", node.name);
        assert_eq!(node.local("7").unwrap().as_deref(), Some("old"), "{}", node.name);
        assert_eq!(node.status().unwrap().slots, 8192, "{}", node.name);
    }
}
