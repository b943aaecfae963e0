//! Members that come back at other addresses, and copies of members that run.

use std::path::Path;
use std::sync::Arc;

use crate::load::{History, Load};
use crate::nodes::{Cluster, Node, wait_until};

/// Acknowledged writes around each move.
const WRITES: u64 = 100;

/// Waits until all say that all are where they were started, and nobody has more to say.
#[track_caller]
fn wait_registered(cluster: &Cluster) {
    let is_known = |node: &Node| {
        let Some(status) = node.status() else { return false };
        let is_there = |other: &Node| {
            status.members.iter().any(|member| {
                (&member.name, &member.raft, &member.client)
                    == (&other.name, &other.raft_address(), &other.client_address())
            })
        };
        status.moved.is_none() && cluster.nodes.iter().all(is_there)
    };
    wait_until("all addresses to be known", || cluster.nodes.iter().all(is_known));
    cluster.wait_voters(cluster.nodes.len());
}

/// Stops these, and starts them somewhere else, all at once.
fn move_all(cluster: &mut Cluster, indexes: &[usize]) {
    for index in indexes {
        cluster.nodes[*index].stop();
    }
    for index in indexes {
        cluster.nodes[*index].move_away();
        cluster.nodes[*index].start();
    }
}

/// Writes a little and checks all that was ever written.
fn write(cluster: &Cluster, history: &Arc<History>) {
    let load = Load::start(cluster, history);
    load.wait_more(WRITES);
    load.stop();
}

#[test]
fn members_that_moved_are_registered_where_they_are_now() {
    let mut cluster = Cluster::of_three(&[]);
    for node in &mut cluster.nodes {
        node.arguments.retain(|argument| argument != "-join" && !argument.ends_with(":13000"));
        node.arguments.retain(|argument| argument != "-hjoin");
    }
    let history = History::new();
    write(&cluster, &history);
    // One, two, the leader and another: those that stay are asked, and hear where the others are.
    let (leader, follower, other) = cluster.roles();
    for moving in [&[follower][..], &[follower, other][..], &[leader, follower][..]] {
        move_all(&mut cluster, moving);
        wait_registered(&cluster);
        write(&cluster, &history);
    }
    assert!(cluster.nodes[follower].words().contains("and its cluster has it at"));
    history.check_everywhere(&cluster);
}

#[test]
fn all_members_that_moved_find_each_other_through_join() {
    let mut cluster = Cluster::of_three(&[]);
    let history = History::new();
    write(&cluster, &history);
    for node in &mut cluster.nodes {
        node.stop();
        node.move_away();
    }
    let first = cluster.nodes[0].raft_address();
    for (index, node) in cluster.nodes.iter_mut().enumerate() {
        node.arguments.retain(|argument| argument != "-join" && !argument.ends_with(":13000"));
        node.arguments.retain(|argument| argument != "-hjoin");
        if index > 0 {
            node.arguments.extend(["-join".to_owned(), first.clone()]);
        }
        node.start();
    }
    wait_registered(&cluster);
    write(&cluster, &history);
    history.check_everywhere(&cluster);
}

#[test]
fn two_members_may_swap_their_addresses() {
    let mut cluster = Cluster::of_three(&[]);
    let history = History::new();
    write(&cluster, &history);
    let (first, rest) = cluster.nodes.split_at_mut(2);
    for node in [&mut first[1], &mut rest[0]] {
        node.stop();
    }
    first[1].swap_places(&mut rest[0]);
    for node in [&mut first[1], &mut rest[0]] {
        node.start();
    }
    wait_registered(&cluster);
    write(&cluster, &history);
    history.check_everywhere(&cluster);
}

/// F26: what is beside the running original must not vote in its name, nor take its place.
#[test]
fn a_copy_of_a_running_member_is_refused_by_name() {
    let mut cluster = Cluster::of_three(&[]);
    let history = History::new();
    let load = Load::start(&cluster, &history);
    load.wait_more(WRITES);
    let (_, follower, _) = cluster.roles();
    cluster.nodes[follower].stop();
    let (name, directory) =
        (cluster.nodes[follower].name.clone(), cluster.nodes[follower].directory.clone());
    let copy = cluster.add(&name, &[]);
    copy_directory(&directory, &copy.directory);
    cluster.nodes[follower].start();
    cluster.nodes[follower].asked(&["PING"]);
    let words = cluster.nodes[3].must_refuse(1);
    assert!(words.contains(&format!("member {name} (")), "{words}");
    assert!(words.contains("runs already, at") && words.contains("a copy"), "{words}");
    cluster.nodes.truncate(3);
    load.wait_more(WRITES);
    load.stop();
    wait_registered(&cluster);
    history.check_everywhere(&cluster);
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_directory(&source, &target);
        } else {
            std::fs::copy(&source, &target).unwrap();
        }
    }
}
