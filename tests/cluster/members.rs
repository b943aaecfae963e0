//! Members that are missing, wiped, started twice or under a name that is in use.

use rustix::process::Signal;

use crate::load::{History, Load};
use crate::nodes::{Cluster, wait_for, wait_until};
use crate::resp::{Failure, Value};

/// Acknowledged writes before a fault.
const WRITES: u64 = 100;
/// Writes that are tried without a majority.
const TRIES: u64 = 8;

#[test]
fn without_a_majority_nothing_is_acknowledged_and_local_reads_go_on() {
    let mut cluster = Cluster::of_three(&[]);
    let history = History::new();
    let load = Load::start(&cluster, &history);
    load.wait_more(WRITES);
    load.stop();
    cluster.wait_level();
    let (leader, follower, other) = cluster.roles();
    cluster.nodes[follower].kill();
    cluster.nodes[other].kill();
    // What was answered before the connections broke is over: from here on nothing may be.
    let (before, failed) = (history.acknowledged(), history.unknown() + history.refused());
    let load = Load::start(&cluster, &history);
    wait_until("some writes to fail", || history.unknown() + history.refused() >= failed + TRIES);
    load.stop();
    assert_eq!(history.acknowledged(), before);
    assert!(cluster.nodes[leader].ask(&["GET", "1"]).is_err());
    history.check_local(&cluster, leader);
    for index in [follower, other] {
        cluster.nodes[index].start();
    }
    let load = Load::start(&cluster, &history);
    load.wait_more(WRITES);
    load.stop();
    history.check(&cluster);
}

#[test]
fn the_leader_tells_which_member_does_not_answer() {
    let mut cluster = Cluster::of_three(&[]);
    let (leader, follower, other) = cluster.roles();
    let silent = |cluster: &Cluster| -> Option<Vec<String>> {
        let members = cluster.nodes[leader].status()?.members;
        let silent = members.into_iter().filter(|member| member.silent == Some(true));
        Some(silent.map(|member| member.name).collect())
    };
    wait_until("all to answer", || silent(&cluster) == Some(Vec::new()));
    let name = cluster.nodes[follower].name.clone();
    cluster.nodes[follower].kill();
    wait_until("the dead one to be told", || silent(&cluster) == Some(vec![name.clone()]));
    // One that does not lead cannot know, and says so instead of "it answers".
    let status = wait_for("its status", || cluster.nodes[other].status());
    assert!(status.members.iter().all(|member| member.silent.is_none()), "{status:?}");
    cluster.nodes[follower].start();
    wait_until("it to answer again", || silent(&cluster) == Some(Vec::new()));
}

#[test]
fn a_wiped_node_takes_its_old_place_under_a_new_member_id() {
    let mut cluster = Cluster::of_three(&[]);
    let history = History::new();
    let load = Load::start(&cluster, &history);
    load.wait_more(WRITES);
    let (leader, follower, _) = cluster.roles();
    for index in [follower, leader] {
        // The first node was never told whom to join.
        let another = cluster.nodes[(index + 1) % 3].raft_address();
        cluster.nodes[index].arguments.extend(["-join".to_owned(), another]);
        let old = wait_for("its status", || cluster.nodes[index].status()).member_id;
        cluster.nodes[index].kill();
        cluster.wipe(index);
        cluster.nodes[index].start();
        cluster.wait_voters(3);
        let status = wait_for("its status", || cluster.nodes[index].status());
        assert_ne!(status.member_id, old);
        assert!(status.members.iter().all(|member| member.id != old), "{status:?}");
        load.wait_more(WRITES);
    }
    load.stop();
    history.check_everywhere(&cluster);
}

/// Between its identity and the moment when the own log names it a joiner may end at any time: it
/// goes on where it was, as the same member.
#[test]
fn a_joiner_that_is_killed_on_its_way_becomes_one_member_in_the_end() {
    let mut cluster = Cluster::of_three(&[]);
    let join = cluster.nodes[0].raft_address();
    let joiner = cluster.add("node3", &["-join", &join]);
    for made in ["IDENTITY", "slots.dat", "wal"] {
        joiner.start();
        wait_until(made, || joiner.directory.join(made).exists());
        joiner.kill();
    }
    joiner.start();
    let id_at = |cluster: &Cluster, index: usize| {
        let members = cluster.nodes[index].status()?.members;
        Some(members.into_iter().find(|member| member.name == "node3")?.id)
    };
    let taken_in = wait_for("it to be taken in", || id_at(&cluster, 0));
    cluster.nodes[3].kill();
    cluster.nodes[3].start();
    cluster.wait_voters(4);
    let status = wait_for("its status", || cluster.nodes[3].status());
    assert_eq!(status.member_id, taken_in);
    assert_eq!(id_at(&cluster, 0), Some(taken_in));
    cluster.wait_level();
}

/// The wish to vote stands in the member's record, so any leader can fulfil it.
#[test]
fn a_learner_whose_leader_dies_is_promoted_by_the_next_one() {
    let mut cluster = Cluster::of_three(&[]);
    let (leader, follower, _) = cluster.roles();
    let join = cluster.nodes[follower].raft_address();
    cluster.add("node3", &["-join", &join]).start();
    wait_until("it to be taken in", || {
        let members = cluster.nodes[leader].status().map(|status| status.members);
        members.is_some_and(|members| members.iter().any(|member| member.name == "node3"))
    });
    // It cannot catch up before the one that took it in is gone.
    cluster.nodes[3].signal(Signal::STOP);
    cluster.nodes[leader].kill();
    cluster.nodes[3].signal(Signal::CONT);
    cluster.wait_voters(4);
    cluster.nodes[leader].start();
    cluster.wait_voters(4);
    cluster.wait_level();
}

#[test]
fn the_first_node_wiped_and_started_without_join_finds_out_and_stops() {
    let mut cluster = Cluster::of_three(&[]);
    let history = History::new();
    let load = Load::start(&cluster, &history);
    load.wait_more(WRITES);
    cluster.nodes[0].kill();
    cluster.wipe(0);
    let words = cluster.nodes[0].must_refuse(1);
    assert!(words.contains("wiped") && words.contains("start it with -join"), "{words}");
    // It has taken no write, and left nothing in the way of the advice that it gave.
    let another = cluster.nodes[1].raft_address();
    cluster.nodes[0].arguments.extend(["-join".to_owned(), another]);
    cluster.nodes[0].start();
    cluster.wait_voters(3);
    load.wait_more(WRITES);
    load.stop();
    history.check(&cluster);
}

#[test]
fn a_second_process_in_a_name_or_a_directory_that_is_in_use_disturbs_nobody() {
    let mut cluster = Cluster::of_three(&[]);
    let history = History::new();
    let load = Load::start(&cluster, &history);
    let ids = |cluster: &Cluster| -> Vec<String> {
        let status = wait_for("a status", || cluster.nodes[0].status());
        status.members.into_iter().map(|member| member.id).collect()
    };
    let before = ids(&cluster);
    let term = wait_for("a status", || cluster.nodes[0].status()).term;

    // The same directory.
    let directory = cluster.nodes[1].directory.clone();
    let twin = cluster.add("node1", &[]);
    twin.directory.clone_from(&directory);
    let words = twin.must_refuse(1);
    assert!(words.contains("in use by another process"), "{words}");
    assert!(words.contains(&*directory.to_string_lossy()), "{words}");

    // The same name elsewhere: it asks again for a minute; that long nobody waits here.
    let join = cluster.nodes[2].raft_address();
    let twin = cluster.add("node1", &["-join", &join]);
    twin.start();
    wait_until("the refusal", || twin.words().contains("the name node1 is in use by the member"));
    load.wait_more(3 * WRITES);
    assert!(twin.is_running());
    assert!(matches!(twin.ask(&["GET", "1"]), Err(Failure::Refused(_) | Failure::Unknown(_))));
    twin.kill();
    cluster.nodes.truncate(3);
    load.stop();
    assert_eq!(ids(&cluster), before);
    assert_eq!(wait_for("a status", || cluster.nodes[0].status()).term, term);
    assert_eq!(history.unknown() + history.refused(), 0);
    assert_eq!(cluster.nodes[1].ask(&["SET", "4000", "x"]), Ok(Value::Simple("OK".into())));
    history.check(&cluster);
}
