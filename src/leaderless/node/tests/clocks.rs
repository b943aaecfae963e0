//! Nodes whose clocks are wrong, or were.

use super::*;

const HOUR_MS: i64 = 3_600_000;

/// A key, and whether a node is to be one of its replicas.
fn key_of(cluster: &Cluster, node: u16, is_replica: bool) -> Bytes {
    let number = NodeNumber::new(node).unwrap();
    let keys = (0..1_000).map(|nth| bytes(&nth.to_string()));
    let fits = |key: &Bytes| cluster.layout.replicas(key).contains(&number) == is_replica;
    keys.into_iter().find(fits).unwrap()
}

#[tokio::test]
async fn nodes_whose_clocks_were_ahead_take_writes_after_a_restart_with_the_right_time() {
    let mut cluster = Cluster::new(3);
    cluster.clocks_off = (1..=3).map(|node| (node, HOUR_MS)).collect();
    for node in 1..=3 {
        cluster.start(node).await;
    }
    cluster.ready().await;
    let key = bytes("a");
    let before = cluster.at(1).write(key.clone(), Some(bytes("1")), Level::All).await.unwrap();
    for node in 1..=3 {
        cluster.stop(node).await;
    }
    cluster.clocks_off.clear();
    for node in 1..=3 {
        cluster.start(node).await;
    }
    cluster.ready().await;
    for node in 1..=3 {
        for key in [key.clone(), bytes(&format!("new-{node}"))] {
            let written = cluster.at(node).write(key, Some(bytes("2")), Level::Quorum).await;
            assert!(written.unwrap() > before);
        }
    }
    assert!(cluster.at(1).status().await.stands_ms > HOUR_MS.unsigned_abs() / 2, "it says so");
}

#[tokio::test]
async fn a_node_alone_whose_clock_was_ahead_takes_writes_with_the_right_time() {
    let mut cluster = Cluster::new(1);
    cluster.clocks_off.insert(1, HOUR_MS);
    cluster.start(1).await;
    cluster.ready().await;
    let fenced = |status: &RegistersStatus| status.fence_ms > 0;
    cluster.wait("fenced", fenced).await;
    cluster.stop(1).await;
    cluster.clocks_off.clear();
    cluster.start(1).await;
    cluster.ready().await;
    cluster.at(1).write(bytes("a"), Some(bytes("1")), Level::Quorum).await.unwrap();
}

#[tokio::test]
async fn a_node_whose_clock_was_ahead_keeps_nobody_from_forgetting_deletes() {
    let mut cluster = Cluster::new(3);
    cluster.clocks_off.insert(1, HOUR_MS);
    for node in 1..=3 {
        cluster.start(node).await;
    }
    cluster.ready().await;
    cluster.stop(1).await;
    cluster.clocks_off.clear();
    cluster.start(1).await;
    cluster.ready().await;
    cluster.at(2).write(bytes("a"), Some(bytes("1")), Level::All).await.unwrap();
    let deleted = cluster.at(2).write(bytes("a"), None, Level::All).await.unwrap();
    cluster.wait("forgotten", |status| status.floor_ms >= deleted.moment().get()).await;
    cluster.wait("without tombstones", |status| status.tombstones == 0).await;
}

#[tokio::test]
async fn a_node_whose_clock_is_far_ahead_passes_writes_on() {
    let mut cluster = Cluster::new(5);
    cluster.clocks_off.insert(1, HOUR_MS);
    for node in 1..=5 {
        cluster.start(node).await;
    }
    cluster.ready().await;
    let gossiped =
        |status: &RegistersStatus| status.peers.iter().all(|peer| peer.clock_ms.is_some());
    cluster.wait("heard", gossiped).await;
    // Of its own keys, and of those that others pass on.
    let key = key_of(&cluster, 1, true);
    for node in 1..=5 {
        cluster.at(node).write(key.clone(), Some(bytes("x")), Level::Quorum).await.unwrap();
    }
    let status = cluster.at(1).status().await;
    let is_seen = |peer: &PeerStatus| peer.clock_ms.is_some_and(|ms| ms < -HOUR_MS / 2);
    assert!(status.peers.iter().all(is_seen), "{status:?}");
}

#[tokio::test]
async fn a_node_whose_clock_is_behind_passes_operations_on_in_time() {
    let mut cluster = Cluster::new(5);
    cluster.clocks_off.insert(1, -HOUR_MS);
    for node in 1..=5 {
        cluster.start(node).await;
    }
    cluster.ready().await;
    let key = key_of(&cluster, 1, false);
    let version = cluster.at(1).write(key.clone(), Some(bytes("x")), Level::Quorum).await.unwrap();
    assert_eq!(cluster.at(1).read(key, Level::Quorum).await.unwrap().version, version);
    // It fences nothing for the others, and they say so.
    let is_told = |status: &RegistersStatus| {
        let of_one = status.peers.iter().find(|peer| peer.id == "1");
        of_one.is_none_or(|peer| peer.complaint.as_ref().is_some_and(|it| it.contains("behind")))
    };
    cluster.wait("told", is_told).await;
}

#[tokio::test]
async fn a_clock_of_the_original_that_is_none_is_bad_input() {
    let cluster = Cluster::begun(1).await;
    let node = cluster.at(1);
    let far = Version::from_number(node.clock().await.get() + (10_000 << 22));
    for (version, expected) in [(far, BadInput::StoredAhead), (Version::NONE, BadInput::NoClock)] {
        let stored = node.store_here(bytes("a"), Some(bytes("x")), Some(version)).await;
        assert_eq!(stored.unwrap_err(), RegisterError::BadInput(expected));
    }
}
