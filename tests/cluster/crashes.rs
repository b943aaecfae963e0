//! SIGKILL and SIGSTOP under load.

use crate::load::{History, Load};
use crate::nodes::Cluster;

/// Acknowledged writes between two faults.
const WRITES: u64 = 150;

#[test]
fn no_acknowledged_write_is_lost_when_leader_follower_or_all_are_killed() {
    let mut cluster = Cluster::of_three(&[]);
    let history = History::new();
    for _ in 0..3 {
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
        history.check(&cluster);
        cluster.wait_level();
        for index in 0..3 {
            history.check_local(&cluster, index);
        }
    }
    assert!(history.reads() > 0);
    eprintln!("{} writes acknowledged, {} unknown", history.acknowledged(), history.unknown());
}
