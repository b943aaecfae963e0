//! gRPC at every member of a cluster: what a follower takes the leader carries out, and the changes go on
//! at another member where the one that told them was killed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use diskstore_proto::Message;
use diskstore_proto::diskstore::store_client::StoreClient;
use diskstore_proto::diskstore::{
    Change, ChangesRequest, ChangesResponse, GetRequest, Key, Level, ScanRequest, SetRequest,
    StatusRequest, changes_response, key, scan_request, write,
};
use diskstore_proto::konsen::kv_service_client::KvServiceClient;
use diskstore_proto::konsen::{GetReq, Kv, KvList, PutReq};
use tonic::Status;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::nodes::{Cluster, Node, PATIENCE, wait_until};

/// Writes that are acknowledged before the leader is killed, and after that.
const WRITES_MIN: u64 = 50;

async fn channel(address: &str) -> Result<Channel, tonic::transport::Error> {
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await
}

async fn store(node: &Node) -> StoreClient<Channel> {
    StoreClient::new(channel(&node.client_address()).await.unwrap())
}

#[expect(clippy::unnecessary_wraps, reason = "as a message has it")]
fn slot(slot: u64) -> Option<Key> {
    Some(Key { name: Some(key::Name::Slot(slot)) })
}

#[expect(clippy::unnecessary_wraps, reason = "as a message has it")]
fn bytes(name: &str) -> Option<Key> {
    Some(Key { name: Some(key::Name::Bytes(name.to_owned().into())) })
}

fn set(key: Option<Key>, value: &str) -> SetRequest {
    SetRequest { key, value: value.to_owned().into(), condition: None }
}

/// The next event, which comes in time.
async fn next(
    changes: &mut tonic::Streaming<ChangesResponse>,
) -> Result<changes_response::Event, Status> {
    let event = tokio::time::timeout(PATIENCE, changes.message()).await;
    Ok(event.expect("an event in time")?.expect("no end without a status").event.unwrap())
}

/// Changes behind an index, at this address.
async fn follow(address: &str, after: u64) -> tonic::Streaming<ChangesResponse> {
    let mut store = StoreClient::new(channel(address).await.unwrap());
    let request = ChangesRequest { after: Some(after), ..ChangesRequest::default() };
    let mut changes = store.changes(request).await.unwrap().into_inner();
    let begun = next(&mut changes).await.unwrap();
    assert!(matches!(&begun, changes_response::Event::Begun(begun) if begun.after == after));
    changes
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_follower_takes_is_carried_out_by_the_leader_and_read_everywhere() {
    let cluster = Cluster::of_three(&[]);
    let (leader, follower, other) = cluster.roles();
    let mut of_follower = store(&cluster.nodes[follower]).await;
    let written = of_follower.set(set(slot(7), "through a follower")).await;
    let version = written.unwrap().into_inner().version;
    // A client sees its own writes, though this member applies them later than the leader.
    for step in 0..100 {
        let value = step.to_string();
        of_follower.set(set(slot(8), &value)).await.unwrap();
        let request = GetRequest { key: slot(8), level: Level::Local.into() };
        let found = of_follower.get(request).await.unwrap().into_inner();
        assert_eq!(&found.value[..], value.as_bytes());
    }
    for index in [leader, follower, other] {
        let mut store = store(&cluster.nodes[index]).await;
        let request = GetRequest { key: slot(7), level: Level::Unspecified.into() };
        let found = store.get(request).await.unwrap().into_inner();
        assert_eq!((&found.value[..], found.version), (&b"through a follower"[..], version));
        let status = store.status(StatusRequest {}).await.unwrap().into_inner();
        assert_eq!(status.leader, cluster.nodes[leader].name);
        let role = if index == leader { "leader" } else { "follower" };
        assert_eq!((status.name, status.role.as_str()), (cluster.nodes[index].name.clone(), role));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_any_name_are_put_scanned_and_followed_at_every_kvstore() {
    let cluster = Cluster::of_kvstores(&[]);
    let (leader, follower, other) = cluster.roles();
    let kv = |key: &'static str, value: &'static str| Kv { key: key.into(), value: value.into() };
    let list = vec![kv("user:1", "one"), kv("user:2", "two"), kv("\u{e4} /", "umlaut")];
    let data = KvList { kv_list: list }.encode_to_vec().into();
    let address = cluster.nodes[follower].client_address();
    let mut konsen = KvServiceClient::new(channel(&address).await.unwrap());
    assert!(konsen.put(PutReq { data }).await.unwrap().into_inner().success);
    for index in [leader, follower, other] {
        let address = cluster.nodes[index].client_address();
        let mut konsen = KvServiceClient::new(channel(&address).await.unwrap());
        let found = konsen.get(GetReq { key: "\u{e4} /".into() }).await.unwrap().into_inner();
        assert_eq!(&found.value[..], b"umlaut");
        let range = Some(scan_request::Range::Prefix("user:".into()));
        let request = ScanRequest { range, values: true, level: 0 };
        let mut scan = store(&cluster.nodes[index]).await.scan(request).await.unwrap().into_inner();
        let mut found = HashMap::new();
        while let Some(part) = scan.message().await.unwrap() {
            for item in part.items {
                let twice = found.insert(item.key, item.value.unwrap());
                assert_eq!(twice, None, "a key comes once");
            }
        }
        let expected = [(bytes("user:1"), "one".into()), (bytes("user:2"), "two".into())];
        assert_eq!(found, HashMap::from(expected));
        let mut changes = follow(&address, 0).await;
        loop {
            let event = next(&mut changes).await.unwrap();
            let changes_response::Event::Change(change) = event else { panic!("{event:?}") };
            if let [one, two, umlaut] = &change.writes[..] {
                assert_eq!((&one.key, &two.key), (&bytes("user:1"), &bytes("user:2")));
                assert_eq!(umlaut.action, Some(write::Action::Set("umlaut".into())));
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_go_on_without_a_gap_at_another_member_when_theirs_is_killed() {
    let mut cluster = Cluster::of_three(&[]);
    let (leader, follower, other) = cluster.roles();
    let addresses = cluster.addresses();
    let (is_over, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = {
        let (is_over, count) = (is_over.clone(), count.clone());
        let mut store = store(&cluster.nodes[follower]).await;
        tokio::spawn(async move {
            let mut acknowledged = BTreeMap::new();
            for number in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                let value = number.to_string();
                // What fails may have been written or not.
                if let Ok(response) = store.set(set(slot(number % 4000), &value)).await {
                    acknowledged.insert(response.into_inner().version, value);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            acknowledged
        })
    };
    let mut seen: Vec<Change> = Vec::new();
    let mut changes = follow(&addresses[leader], 0).await;
    while count.load(Ordering::Relaxed) < WRITES_MIN || seen.is_empty() {
        let event = next(&mut changes).await.unwrap();
        let changes_response::Event::Change(change) = event else { panic!("{event:?}") };
        seen.push(change);
    }
    cluster.nodes[leader].kill();
    let before = count.load(Ordering::Relaxed);
    while let Ok(event) = next(&mut changes).await {
        let changes_response::Event::Change(change) = event else { panic!("{event:?}") };
        seen.push(change);
    }
    let mut changes = follow(&addresses[other], seen.last().unwrap().index).await;
    let wait_for_more = {
        let (count, is_over) = (count.clone(), is_over.clone());
        tokio::task::spawn_blocking(move || {
            let acknowledged = || count.load(Ordering::Relaxed) >= before + WRITES_MIN;
            wait_until("writes after the kill", acknowledged);
            is_over.store(true, Ordering::Relaxed);
        })
    };
    wait_for_more.await.unwrap();
    let acknowledged = writer.await.unwrap();
    let last = *acknowledged.last_key_value().unwrap().0;
    while seen.last().unwrap().index < last {
        let event = next(&mut changes).await.unwrap();
        let changes_response::Event::Change(change) = event else { panic!("{event:?}") };
        seen.push(change);
    }
    assert!(
        seen.iter().zip(1..).all(|(change, index)| change.index == index),
        "an index is missing"
    );
    assert!(seen.iter().map(|change| change.term).is_sorted());
    for (version, value) in acknowledged {
        let change = &seen[usize::try_from(version).unwrap() - 1];
        let action = Some(write::Action::Set(value.into()));
        assert_eq!((change.index, &change.writes[0].action), (version, &action));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_has_no_more_is_named_and_never_passed_over() {
    let mut cluster = Cluster::empty();
    let more = ["-slots", "4096", "-value-size", "256", "-keep-mib", "0"];
    let first = cluster.add("node0", &more);
    first.start();
    let join = first.raft_address();
    for number in 0..20 {
        cluster.nodes[0].asked(&["SET", &number.to_string(), "old"]);
    }
    cluster.nodes[0].stop(); // with a checkpoint, behind which the log goes
    cluster.nodes[0].start();
    cluster.nodes[0].asked(&["SET", "20", "new"]);
    cluster.add("node1", &[&more[..], &["-join", &join]].concat()).start();
    cluster.wait_voters(2);
    for node in &cluster.nodes {
        let mut store = store(node).await;
        let first_change = store.status(StatusRequest {}).await.unwrap().into_inner().first_change;
        let address = node.client_address();
        let mut changes = follow(&address, 0).await;
        let event = next(&mut changes).await.unwrap();
        let changes_response::Event::Purged(purged) = event else { panic!("{event:?}") };
        assert_eq!(purged.up_to + 1, first_change, "{address}");
        assert!(purged.up_to >= 20, "{address}: {}", purged.up_to);
        let later = store.set(set(slot(21), "later")).await.unwrap().into_inner().version;
        for index in first_change..=later {
            let event = next(&mut changes).await.unwrap();
            let changes_response::Event::Change(change) = event else { panic!("{event:?}") };
            assert_eq!(change.index, index);
        }
        // From now on, for those who ask for no index.
        let mut changes = store.changes(ChangesRequest::default()).await.unwrap().into_inner();
        let begun = next(&mut changes).await.unwrap();
        assert!(
            matches!(&begun, changes_response::Event::Begun(begun) if begun.after >= later),
            "{begun:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_says_where_to_go_on_and_one_without_a_majority_that_it_serves_nobody() {
    let mut cluster = Cluster::of_three(&[]);
    let (leader, follower, other) = cluster.roles();
    let mut health = HealthClient::new(channel(&cluster.addresses()[other]).await.unwrap());
    let mut health = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let serving = health.message().await.unwrap().unwrap().status();
    assert_eq!(serving, ServingStatus::Serving);
    let version = store(&cluster.nodes[leader]).await.set(set(slot(1), "x")).await.unwrap();
    let version = version.into_inner().version;
    let mut changes = follow(&cluster.nodes[follower].client_address(), version - 1).await;
    next(&mut changes).await.unwrap();
    cluster.nodes[follower].stop();
    let ended = loop {
        if let Err(status) = next(&mut changes).await {
            break status;
        }
    };
    let words = ended.message();
    assert!(words.starts_with("this node is stopping: go on after "), "{ended:?}");
    // Two of three are gone: nobody serves.
    cluster.nodes[leader].kill();
    let serving = tokio::time::timeout(PATIENCE, health.message()).await.unwrap();
    assert_eq!(serving.unwrap().unwrap().status(), ServingStatus::NotServing);
}
