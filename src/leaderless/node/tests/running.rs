//! Operations, restarts, lost disks and deletes on running nodes.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::*;
use crate::leaderless::message::Request;
use crate::leaderless::node::operations::OPERATION_TIMEOUT;
use crate::leaderless::node::store::FORGOTTEN_MAX;
use crate::leaderless::node::wire::{
    FRAME_HEADER_BYTES, Gossip, PeerMessage, end_frame, put_message,
};
use crate::leaderless::repair::PullRequest;
use crate::leaderless::replica::{Floor, Numbers};

#[tokio::test]
async fn what_one_node_writes_every_node_reads() {
    let cluster = Cluster::begun(5).await;
    let mut versions = Vec::new();
    for nth in 0..20_usize {
        let (key, value) = (bytes(&format!("key-{nth}")), Some(bytes(&nth.to_string())));
        let writer = cluster.at(nth % 5 + 1);
        let version = writer.write(key.clone(), value.clone(), Level::Quorum).await.unwrap();
        versions.push(version);
        for reader in 1..=5 {
            let held = cluster.at(reader).read(key.clone(), Level::Quorum).await.unwrap();
            assert_eq!(held, Held { version, value: value.clone() });
        }
    }
    assert!(cluster.at(3).status().await.forwarded > 0, "some keys are not its own");
    let deleted = cluster.at(1).write(bytes("key-3"), None, Level::All).await.unwrap();
    assert!(deleted > versions[3]);
    for level in [Level::One, Level::Quorum, Level::All] {
        let held = cluster.at(2).read(bytes("key-3"), level).await.unwrap();
        assert_eq!(held, Held { version: deleted, value: None });
    }
    let never = cluster.at(2).read(bytes("never"), Level::Quorum).await.unwrap();
    assert_eq!(never, Held::default());
}

#[tokio::test]
async fn bad_input_is_refused_by_name() {
    let cluster = Cluster::begun(1).await;
    let node = cluster.at(1);
    let key = |count: usize| Bytes::from(vec![b'k'; count]);
    for bad in [0, KEY_BYTES_MAX + 1] {
        let error = node.read(key(bad), Level::One).await.unwrap_err();
        assert_eq!(error, RegisterError::BadInput(BadInput::Key { bytes: bad }));
    }
    let large = Some(Bytes::from(vec![0; (1 << 20) + 1]));
    let error = node.write(key(KEY_BYTES_MAX), large, Level::One).await.unwrap_err();
    assert!(matches!(error, RegisterError::BadInput(BadInput::Value { .. })), "{error}");
    let ahead = node.clock().await.get() + (10_000 << 22);
    let error = node.raise_clock(Version::from_number(ahead)).await.unwrap_err();
    assert_eq!(error, RegisterError::BadInput(BadInput::ClockAhead));
    let most = Some(Bytes::from(vec![7; 1 << 20]));
    node.write(key(KEY_BYTES_MAX), most.clone(), Level::Quorum).await.unwrap();
    assert_eq!(node.read(key(KEY_BYTES_MAX), Level::All).await.unwrap().value, most);
}

#[tokio::test]
async fn what_was_acknowledged_survives_that_all_nodes_crash() {
    let mut cluster = Cluster::begun(3).await;
    let mut written = BTreeMap::new();
    for nth in 0..30 {
        let (key, value) = (bytes(&nth.to_string()), Some(bytes(&format!("value {nth}"))));
        let version = cluster.at(nth % 3 + 1).write(key.clone(), value.clone(), Level::Quorum);
        written.insert(key, Held { version: version.await.unwrap(), value });
    }
    for node in 1..=3 {
        cluster.crash(node).await;
    }
    for node in 1..=3 {
        cluster.start(node).await;
    }
    cluster.ready().await;
    for (key, held) in &written {
        assert_eq!(&cluster.at(2).read(key.clone(), Level::Quorum).await.unwrap(), held);
    }
    let later = cluster.at(1).write(bytes("0"), Some(bytes("later")), Level::Quorum).await.unwrap();
    assert!(written.values().all(|held| held.version < later), "the clock goes on above");
}

#[tokio::test]
async fn a_minority_that_is_down_is_not_missed_and_catches_up() {
    let mut cluster = Cluster::begun(3).await;
    cluster.at(1).write(bytes("a"), Some(bytes("1")), Level::All).await.unwrap();
    cluster.stop(3).await;
    cluster.wait("down", |status| status.peers.iter().any(|peer| !peer.is_up)).await;
    let version = cluster.at(1).write(bytes("a"), Some(bytes("2")), Level::Quorum).await.unwrap();
    let error = cluster.at(2).write(bytes("a"), Some(bytes("3")), Level::All).await.unwrap_err();
    assert!(
        matches!(&error, RegisterError::NotStored(words) if words.contains("2 of 3")),
        "{error}"
    );
    cluster.stop(2).await;
    cluster.wait("alone", |status| status.peers.iter().all(|peer| !peer.is_up)).await;
    let error = cluster.at(1).read(bytes("a"), Level::Quorum).await.unwrap_err();
    assert!(
        matches!(&error, RegisterError::NotStored(words) if words.contains("1 of 3")),
        "{error}"
    );
    let held = cluster.at(1).read(bytes("a"), Level::One).await.unwrap();
    assert_eq!(held.version, version);
    cluster.wait("without a majority", |status| !status.sees_quorum).await;
    assert!(!cluster.at(1).sees_quorum());
    cluster.start(2).await;
    cluster.start(3).await;
    cluster.ready().await;
    // A pull brings it, though nobody reads it.
    let begun = Instant::now();
    while cluster.at(3).held(bytes("a")).await.unwrap().version != version {
        assert!(begun.elapsed() < Duration::from_secs(30), "it never came");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_node_that_lost_its_disk_copies_before_it_answers() {
    let mut cluster = Cluster::begun(3).await;
    for nth in 0..50 {
        let value = (nth % 5 != 0).then(|| bytes(&nth.to_string()));
        cluster.at(1).write(bytes(&format!("k{nth}")), value, Level::All).await.unwrap();
    }
    cluster.stop(2).await;
    cluster.disks.insert(2, SimDisk::new(99));
    cluster.stop(3).await;
    cluster.start(2).await;
    // One other node is not enough: a write may be at the third and at the lost disk only.
    cluster.wait("waits", |status| status.id != "2" || status.waits_for.contains("1 of 2")).await;
    let error = cluster.at(2).held(bytes("k1")).await.unwrap_err();
    assert!(matches!(error, RegisterError::Busy(_)), "{error}");
    cluster.start(3).await;
    cluster.ready().await;
    for nth in 0..50_usize {
        let held = cluster.at(2).held(bytes(&format!("k{nth}"))).await.unwrap();
        assert_eq!(held.value, (nth % 5 != 0).then(|| bytes(&nth.to_string())));
    }
    let status = cluster.at(2).status().await;
    assert_eq!((status.losses, status.keys), (2, 40), "it counts above what the others knew");
    let version =
        cluster.at(2).write(bytes("k1"), Some(bytes("new")), Level::Quorum).await.unwrap();
    assert_eq!(cluster.at(1).read(bytes("k1"), Level::Quorum).await.unwrap().version, version);
}

#[tokio::test]
async fn deletes_are_forgotten_once_all_nodes_have_confirmed_them() {
    let cluster = Cluster::begun(3).await;
    for nth in 0..10 {
        cluster
            .at(1)
            .write(bytes(&nth.to_string()), Some(bytes("x")), Level::Quorum)
            .await
            .unwrap();
        cluster.at(2).write(bytes(&nth.to_string()), None, Level::Quorum).await.unwrap();
    }
    cluster.wait("without tombstones", |status| status.tombstones == 0 && status.keys == 0).await;
    let status = cluster.at(1).status().await;
    assert!(status.floor_ms > 0 && status.clashes == 0 && status.standing == "ready", "{status:?}");
    let held = cluster.at(3).read(bytes("1"), Level::All).await.unwrap();
    assert_eq!(held, Held::default());
}

#[tokio::test]
async fn a_node_that_slept_through_a_delete_brings_nothing_back() {
    let mut cluster = Cluster::new(3);
    cluster.forget_after = Duration::from_secs(1);
    for node in 1..=3 {
        cluster.start(node).await;
    }
    cluster.ready().await;
    cluster.at(1).write(bytes("gone"), Some(bytes("x")), Level::All).await.unwrap();
    cluster.at(1).write(bytes("kept"), Some(bytes("x")), Level::All).await.unwrap();
    cluster.stop(3).await;
    cluster.at(1).write(bytes("gone"), None, Level::Quorum).await.unwrap();
    cluster.wait("forgotten", |status| status.tombstones == 0 && status.keys == 1).await;
    cluster.start(3).await;
    cluster.ready().await;
    cluster.wait("alike", |status| status.keys == 1 && status.standing == "ready").await;
    for level in [Level::One, Level::Quorum, Level::All] {
        let held = cluster.at(3).read(bytes("gone"), level).await.unwrap();
        assert_eq!(held.value, None);
    }
    assert_eq!(
        cluster.at(3).read(bytes("kept"), Level::All).await.unwrap().value,
        Some(bytes("x"))
    );
}

/// What a source names in a page says nothing of how much this node holds there.
#[tokio::test]
async fn a_node_that_slept_through_a_mass_deletion_drops_more_than_an_entry_takes() {
    let mut cluster = Cluster::new(3);
    cluster.forget_after = Duration::from_secs(4); // the floor rests during the deletes
    for node in 1..=3 {
        cluster.start(node).await;
    }
    cluster.ready().await;
    let key = |nth: usize| Bytes::from(format!("{nth:0>60000}"));
    let count = 100; // keys of 6 MB; an entry takes 4 MiB with segments of 8 MiB
    for nth in 0..count {
        cluster.at(1).write(key(nth), Some(bytes("x")), Level::All).await.unwrap();
    }
    cluster.stop(3).await;
    for nth in 1..count {
        while cluster.at(1).write(key(nth), None, Level::Quorum).await.is_err() {}
    }
    cluster.wait("forgotten", |status| status.tombstones == 0 && status.keys == 1).await;
    cluster.start(3).await;
    cluster.ready().await;
    cluster.wait("alike", |status| status.keys == 1 && status.tombstones == 0).await;
    cluster.crash(3).await;
    cluster.start(3).await;
    cluster.ready().await;
    assert_eq!(cluster.at(3).status().await.keys, 1, "it is in the log");
}

/// A floor that is known must not keep a node from what it was told to do.
#[tokio::test]
async fn a_loss_that_is_accepted_ends_though_a_floor_is_known() {
    // Nodes, replicas, whose disk is lost, and who is gone for good.
    for (count, replicas, lost, gone) in [(3, 1, 1, None), (3, 2, 1, Some(2)), (3, 3, 1, Some(2))] {
        let mut cluster = Cluster::new(count);
        cluster.layout = layout(count, replicas, 0);
        for node in 1..=count {
            cluster.start(node).await;
        }
        cluster.ready().await;
        cluster.wait("a floor", |status| status.floor_ms > 0).await;
        if let Some(gone) = gone {
            cluster.stop(gone).await;
        }
        cluster.stop(lost).await;
        cluster.disks.insert(lost, SimDisk::new(99));
        cluster.accepts_loss = true;
        cluster.start(lost).await;
        cluster.ready().await;
        let status = cluster.at(lost).status().await;
        assert!(status.floor_ms > 0 && status.losses == 2, "{status:?}");
        let written = cluster.at(lost).write(bytes("a"), Some(bytes("1")), Level::One).await;
        written.unwrap();
    }
}

#[tokio::test]
async fn a_loss_that_was_accepted_is_known_to_others_when_the_next_is_counted() {
    let mut cluster = Cluster::new(3);
    cluster.layout = layout(3, 1, 0); // so that nothing can be copied
    for node in 1..=3 {
        cluster.start(node).await;
    }
    cluster.ready().await;
    cluster.accepts_loss = true;
    for losses in 2..=4 {
        cluster.stop(2).await;
        cluster.disks.insert(2, SimDisk::new(100 + losses));
        cluster.start(2).await;
        cluster.ready().await;
        assert_eq!(cluster.at(2).status().await.losses, losses);
    }
}

#[tokio::test]
async fn a_cluster_begins_once_all_nodes_were_there() {
    let mut cluster = Cluster::new(3);
    cluster.start(1).await;
    cluster.start(2).await;
    cluster.wait("waiting", |status| status.waits_for.contains("directory was empty")).await;
    let error = cluster.at(1).write(bytes("a"), Some(bytes("1")), Level::One).await.unwrap_err();
    assert!(matches!(error, RegisterError::NotStored(_)), "{error}");
    cluster.start(3).await;
    cluster.ready().await;
    assert_eq!(cluster.at(3).status().await.losses, 1);
    // Whoever has not heard of it yet hears of it later, in the middle of writes.
    cluster.at(1).write(bytes("a"), Some(bytes("1")), Level::Quorum).await.unwrap();
}

#[tokio::test]
async fn nodes_of_other_files_and_second_processes_are_refused_by_name() {
    let mut cluster = Cluster::begun(3).await;
    cluster.stop(3).await;
    let right = std::mem::replace(&mut cluster.layout, layout(3, 3, 7));
    let error = cluster.try_start(3).await.unwrap_err().to_string();
    assert!(error.contains("another layout") && error.contains("cluster file"), "{error}");
    cluster.disks.insert(3, SimDisk::new(77));
    cluster.start(3).await;
    let hash = right.hash_text();
    let refused = |status: &RegistersStatus| {
        let complaints: Vec<&str> =
            status.peers.iter().filter_map(|peer| peer.complaint.as_deref()).collect();
        status.id != "3" || complaints.iter().any(|it| it.contains(&hash) && it.contains("differ"))
    };
    cluster.wait("refused", refused).await;
    cluster.stop(3).await;
    cluster.layout = right;
    cluster.disks.insert(3, SimDisk::new(78));
    cluster.start(3).await;
    cluster.ready().await;
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(79));
    let host = Host { disk, net: Net::Local(cluster.net.clone()), ..Host::real() };
    let twin = Registers::start_at(&host, cluster.config(3), PACE).await.unwrap();
    let begun = Instant::now();
    loop {
        let status = twin.status().await;
        let is_said = |peer: &PeerStatus| {
            peer.complaint.as_ref().is_some_and(|it| it.contains("node 3 runs already"))
        };
        if status.peers.iter().all(is_said) {
            assert_eq!(status.standing, "lost");
            break;
        }
        assert!(begun.elapsed() < Duration::from_mins(1), "never refused: {status:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    twin.stop().await;
    let mut config = cluster.config(3);
    config.id = "9".into();
    let host = Host { disk: Arc::new(SimDisk::new(5)), ..Host::real() };
    let error = Registers::start(&host, config).await.unwrap_err().to_string();
    assert!(error.contains("node 9 is not in the layout"), "{error}");
}

#[tokio::test]
async fn full_memory_refuses_sets_and_lets_deletes_go_on() {
    let mut cluster = Cluster::new(1);
    cluster.memory_bytes_max = 1 << 20;
    cluster.start(1).await;
    cluster.ready().await;
    let node = cluster.at(1);
    let value = Some(Bytes::from(vec![1; 100_000]));
    let mut refused = None;
    for nth in 0..20 {
        let key = bytes(&nth.to_string());
        if let Err(error) = node.write(key, value.clone(), Level::One).await {
            refused = Some(error);
            break;
        }
    }
    assert!(matches!(refused, Some(RegisterError::Busy(_))), "{refused:?}");
    node.write(bytes("0"), None, Level::One).await.unwrap();
    node.write(bytes("0"), Some(bytes("small")), Level::One).await.unwrap();
}

#[tokio::test]
async fn a_node_that_is_started_again_writes_at_once() {
    let mut cluster = Cluster::begun(1).await;
    let mut last = Version::NONE;
    for nth in 0..4 {
        let value = Some(bytes(&nth.to_string()));
        let version = cluster.at(1).write(bytes("a"), value, Level::Quorum).await.unwrap();
        assert!(version > last);
        last = version;
        cluster.crash(1).await;
        cluster.start(1).await;
        cluster.ready().await;
    }
    let status = cluster.at(1).status().await;
    assert_eq!((status.ahead, status.losses), (0, 1));
}

#[tokio::test]
async fn nodes_that_take_values_of_other_sizes_refuse_each_other() {
    let mut cluster = Cluster::begun(2).await;
    cluster.stop(2).await;
    cluster.disks.insert(2, SimDisk::new(55));
    cluster.value_bytes_max = 99;
    cluster.start(2).await;
    let is_said = |status: &RegistersStatus| {
        let complaint = status.peers[0].complaint.as_ref();
        complaint.is_some_and(|it| it.contains("99 ") && it.contains("value_max"))
    };
    cluster.wait("refused", is_said).await;
}

#[tokio::test]
async fn a_node_of_another_build_is_told_so() {
    let cluster = Cluster::begun(1).await;
    let mut stream = Net::Local(cluster.net.clone()).dial(&address(1)).await.unwrap();
    let mut out = PEER_PREFACE.to_vec();
    wire::put_frame(&mut out, |out| out.extend([99, 0, 1, 2, 3]));
    stream.write_all(&out).await.unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.unwrap();
    let body = Bytes::from(said).slice(FRAME_HEADER_BYTES..);
    let reason = wire::read_welcome(body).unwrap().expect("it is refused");
    assert!(reason.contains("version 99") && reason.contains("one build"), "{reason}");
}

#[tokio::test]
async fn a_node_stores_nothing_alone_of_which_it_is_no_replica() {
    let cluster = Cluster::begun(5).await;
    let key = bytes("a");
    let replicas = cluster.layout.replicas(&key);
    let at = |holds: bool| {
        let number = |node: &usize| NodeNumber::new(u16::try_from(*node).unwrap()).unwrap();
        (1..=5).find(|node| replicas.contains(&number(node)) == holds).unwrap()
    };
    let value = Some(bytes("x"));
    cluster.at(at(true)).store_here(key.clone(), value.clone(), None).await.unwrap();
    let error = cluster.at(at(false)).store_here(key, value, None).await.unwrap_err();
    assert!(matches!(&error, RegisterError::NotStored(words) if words.contains("no replica")));
}

#[tokio::test]
async fn two_values_of_one_version_are_found_though_nobody_reads_them() {
    let cluster = Cluster::begun(3).await;
    let version = cluster.at(1).clock().await;
    let version = Version::from_number(version.get() + (100 << 22));
    // As two coordinators of the original may: their clocks are not unique.
    for (node, value) in [(1, Some("one")), (2, Some("two")), (3, None)] {
        let value = value.map(bytes);
        cluster.at(node).store_here(bytes("a"), value, Some(version)).await.unwrap();
    }
    let begun = Instant::now();
    loop {
        let mut held = Vec::new();
        for node in 1..=3 {
            held.push(cluster.at(node).held(bytes("a")).await.unwrap());
        }
        assert!(held.iter().all(|held| held.version == version));
        if held.iter().all(|other| *other == held[0] && other.value.is_some()) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_mins(1), "never alike: {held:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(cluster.at(2).status().await.clashes + cluster.at(1).status().await.clashes > 0);
}

#[tokio::test]
async fn a_write_whose_replicas_have_no_room_is_refused_by_them() {
    let mut cluster = Cluster::new(3);
    cluster.start(1).await;
    cluster.memory_bytes_max = 1 << 20;
    for node in [2, 3] {
        cluster.start(node).await;
    }
    cluster.ready().await;
    let value = Some(Bytes::from(vec![1; 100_000]));
    let mut stored_by_own = None;
    for nth in 0..30 {
        let written = cluster.at(1).write(bytes(&nth.to_string()), value.clone(), Level::Quorum);
        // Replicas that were silent would be waited for so long.
        let written = timeout(OPERATION_TIMEOUT, written).await;
        if let Err(error) = written.expect("they say that they have no room") {
            stored_by_own = Some(error);
            break;
        }
    }
    let is_told = |error: &RegisterError| match error {
        RegisterError::Unknown { stored_by, replicas, .. } => *stored_by <= 1 && *replicas == 3,
        error => matches!(error, RegisterError::Busy(_)),
    };
    assert!(stored_by_own.as_ref().is_some_and(is_told), "{stored_by_own:?}");
    // Deletes go on.
    cluster.at(1).write(bytes("0"), None, Level::All).await.unwrap();
}

#[tokio::test]
async fn many_deletes_are_forgotten_piece_by_piece() {
    let cluster = Cluster::new(1);
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
    let host = Host { disk, ..Host::real() };
    let config = cluster.config(1);
    let own = NodeNumber::new(1).unwrap();
    let faults = Faults::new();
    let opening = Opening { host: &host, config: &config, own, faults, segment_bytes: 8 << 20 };
    let OpenedStore { mut store, lock: _lock } = opening.run().unwrap();
    let (old, new) = (Moment::new(1000), Moment::new(2000));
    let put = |store: &mut Store, count: u64, moment: Moment| {
        for nth in 0..count {
            let version = Version::from_number(moment.get() << 22 | nth << 10);
            let key = bytes(&format!("{}-{nth}", moment.get()));
            store.put(&key, &Held { version, value: None });
        }
    };
    put(&mut store, 4000, old);
    put(&mut store, 10, new);
    store.forget(old);
    store.forget_some();
    assert!(store.is_forgetting(), "no more than {FORGOTTEN_MAX} at a time");
    assert_eq!(store.keys.deleted_count(), 4010 - FORGOTTEN_MAX as u64);
    store.forget_some();
    assert!(!store.is_forgetting());
    assert_eq!(store.keys.deleted_count(), 10, "those above the floor stay");
    store.syncer.stop();
}

/// Sends messages to a node as another one that does not run; the link lasts as long as what is given back.
async fn send_as(
    cluster: &Cluster,
    from: usize,
    to: usize,
    messages: &[PeerMessage],
) -> (Link, watch::Sender<bool>) {
    let number = |node: usize| NodeNumber::new(u16::try_from(node).unwrap()).unwrap();
    let net = Net::Local(cluster.net.clone());
    let host = Host { disk: Arc::new(SimDisk::new(7)), net, ..Host::real() };
    let hello = RegistersHello {
        cluster_id: cluster_id_of(&cluster.layout),
        epoch: cluster.layout.epoch(),
        layout_hash: cluster.layout.hash(),
        from: number(from),
        to: number(to),
        value_bytes_max: cluster.value_bytes_max,
        process: 1,
    };
    let (signals, mut linked) = mpsc::unbounded_channel();
    let (stop, stopping) = watch::channel(false);
    let link = Link::start(Dial { host, address: address(to), hello }, signals, stopping);
    while !matches!(linked.recv().await, Some(Event::Linked(_))) {}
    let mut frame = vec![0; FRAME_HEADER_BYTES];
    for message in messages {
        put_message(&mut frame, message);
    }
    end_frame(&mut frame, 0);
    link.send(frame);
    (link, stop)
}

#[tokio::test]
async fn a_floor_of_the_far_future_is_not_heard() {
    let mut cluster = Cluster::begun(3).await;
    cluster.stop(3).await;
    let moment = moment_of(cluster.at(1).host()).later(25 * 3_600_000);
    let floor = Floor { moment, ..Floor::default() };
    let gossip = Gossip {
        standing: Standing::Ready,
        is_empty: true,
        hears: true,
        incarnation: 1,
        founders: BTreeMap::new(),
        numbers: Numbers { floor: floor.clone(), ..Numbers::default() },
    };
    let begin = PullRequest::Begin { floor, fence: Moment::default() };
    let messages =
        [PeerMessage::Gossip(Box::new(gossip)), PeerMessage::Request(1, Request::Pull(begin))];
    let _link = send_as(&cluster, 3, 1, &messages).await;
    // What it said before does not count any more either.
    let is_unheard =
        |status: &RegistersStatus| status.id != "1" || status.peers[1].standing.is_empty();
    cluster.wait("without word of node 3", is_unheard).await;
    assert_eq!(cluster.at(1).status().await.floor_ms, 0);
    assert_eq!((cluster.at(1).standing(), cluster.at(2).standing()), ("ready", "ready"));
    cluster.start(3).await;
    cluster.ready().await;
}
