//! Three nodes as the README starts them.

use crate::nodes::{Cluster, wait_for, wait_until};
use crate::resp::Value;

#[test]
fn three_nodes_form_a_cluster_and_any_of_them_takes_any_command() {
    let cluster = Cluster::of_three(&[]);
    let (leader, follower, other) = cluster.roles();
    let [leader, follower, other] = [leader, follower, other].map(|index| &cluster.nodes[index]);
    assert_eq!(leader.ask(&["SET", "42", "hello"]), Ok(Value::Simple("OK".into())));
    assert_eq!(follower.ask(&["GET", "42"]).unwrap().text().as_deref(), Some("hello"));
    assert_eq!(follower.ask(&["SET", "42", "forwarded"]), Ok(Value::Simple("OK".into())));
    for node in [leader, follower, other] {
        assert_eq!(node.ask(&["GET", "42"]).unwrap().text().as_deref(), Some("forwarded"));
    }
    assert_eq!(other.ask(&["INCR", "7"]), Ok(Value::Integer(1)));
    assert_eq!(follower.ask(&["INCR", "7"]), Ok(Value::Integer(2)));
    assert_eq!(other.ask(&["DEL", "42"]), Ok(Value::Integer(1)));
    assert_eq!(leader.ask(&["GET", "42"]), Ok(Value::Nil));
    wait_until("the delete on every replica", || {
        cluster.nodes.iter().all(|node| node.local("42") == Ok(None))
    });
}

#[test]
fn each_level_of_read_is_served_by_each_role() {
    let mut cluster = Cluster::of_three(&[]);
    let levels = ["lease", "log", "local"];
    for (node, level) in cluster.nodes.iter_mut().zip(levels) {
        node.stop();
        node.arguments.extend(["-read".to_owned(), level.to_owned()]);
        node.start();
    }
    // Node by node, so that each was a follower at least once and nobody campaigns in between.
    cluster.wait_voters(3);
    for round in 0..3 {
        let value = format!("round {round}");
        for writer in &cluster.nodes {
            assert_eq!(writer.asked(&["SET", "1", &value]), Value::Simple("OK".into()));
            for reader in &cluster.nodes[..2] {
                assert_eq!(reader.asked(&["GET", "1"]).text(), Some(value.clone()));
            }
            wait_until("the value on the replica that reads locally", || {
                cluster.nodes[2].asked(&["GET", "1"]).text() == Some(value.clone())
            });
        }
        let leader = cluster.leader();
        cluster.nodes[leader].stop();
        cluster.nodes[leader].start();
        cluster.wait_voters(3);
    }
}

#[test]
fn a_clean_stop_leaves_no_more_log_than_is_kept() {
    let mut cluster = Cluster::of_three(&["-keep-mib", "0"]);
    for key in 0..9 {
        cluster.nodes[0].asked(&["SET", &key.to_string(), "value"]);
    }
    let written = cluster.nodes[0].status().map_or(0, |status| status.last_log);
    assert!(written >= 9, "{written} entries");
    let (_, follower, _) = cluster.roles();
    let node = &mut cluster.nodes[follower];
    wait_until("all entries on the follower", || {
        node.status().is_some_and(|status| status.applied >= written)
    });
    node.stop();
    node.start();
    let purged = wait_for("the follower's status", || Some(node.status()?.purged));
    assert!(purged + 1 >= written, "purged to {purged} of {written}");
}
