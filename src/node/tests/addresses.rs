//! Who may change the record of a member, and what ends one that is a copy.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::running::{BOUND, Running};
use crate::cluster::{Cluster, Own, keep_registered, serve_incoming};
use crate::command::cursor::put_string;
use crate::fault::Faults;
use crate::host::Host;
use crate::peer::{Caller, Channel, JoinReply, JoinRequest, JoinToken, Member, Method, Route};
use crate::raft::Incoming;

/// A node answers in its name from now on.
fn answer(member: &mut Running) -> Arc<Cluster> {
    let cluster = Arc::new(Cluster::new(member.consensus.clone(), 0xc1));
    let requests: mpsc::Receiver<Incoming> =
        std::mem::replace(&mut member.requests, mpsc::channel(1).1);
    tokio::spawn(serve_incoming(cluster.clone(), requests));
    cluster
}

fn client_address(member: &Running, id: u64) -> String {
    member.consensus.view().members[&id].member.client_address.clone()
}

/// A request that a member be known by this record, which says that it is the member's own.
fn request(member_id: u64, member: Member) -> Bytes {
    let mut body = Vec::new();
    let (cluster_id, token) = (0xc1, JoinToken::default());
    JoinRequest { is_final: true, is_own: true, member_id, member, cluster_id, token }
        .put(&mut body);
    body.into()
}

/// Whatever is said at an address that somebody gave as `-join`, or by a member: the process looks
/// for itself whether it is a copy.
#[tokio::test]
async fn a_leader_that_is_refused_another_address_goes_on() {
    let leader = Running::leader().await;
    let mut other = Running::start(2).await;
    let faults = Faults::new();
    // Its host is for others to say, so it asks them although it leads.
    let raft_address = "0.0.0.0:1".to_owned();
    let own = Own {
        member: Member { raft_address, ..leader.record.clone() },
        targets: vec![other.record.raft_address.clone()],
    };
    let cluster = Arc::new(Cluster::new(leader.consensus.clone(), 0xc1));
    let registering = keep_registered(cluster, own, faults.clone());
    let refuse = async {
        for _ in 0..3 {
            let asked = other.requests.recv().await.unwrap();
            assert_eq!(asked.method, Method::Join);
            let mut reply = Vec::new();
            JoinReply::Refused("names and addresses would take too many bytes".into())
                .put(&mut reply);
            drop(asked.reply.send(reply));
        }
    };
    tokio::select! {
        () = registering => panic!("it asks no more: {:?}", faults.current()),
        asked = tokio::time::timeout(BOUND, refuse) => asked.expect("it asks again"),
    }
    assert_eq!(faults.current(), None);
    leader.stop().await;
    other.stop().await;
}

/// I1 of `cluster/moved.rs`
#[tokio::test]
async fn a_leader_that_is_a_copy_ends() {
    // The original is at the address of the log and confirms nothing of the copy's.
    let original = Running::start_process(1, 2).await;
    let copy = Running::start(1).await;
    copy.consensus.found(original.record.clone()).await.unwrap();
    copy.consensus.allow_elections().await;
    copy.until("it leads", |copy| copy.view().is_leader).await;
    let faults = Faults::new();
    let own = Own { member: copy.record.clone(), targets: Vec::new() };
    let cluster = Arc::new(Cluster::new(copy.consensus.clone(), 0xc1));
    let registering = keep_registered(cluster, own, faults.clone());
    tokio::time::timeout(BOUND, registering).await.expect("it stops");
    let fault = faults.current().expect("it says why");
    assert!(fault.reason.contains("a copy of its directory"), "{fault:?}");
    copy.stop().await;
    original.stop().await;
}

/// Whoever can reach the port could send its clients anywhere.
#[tokio::test]
async fn the_client_address_of_a_member_changes_at_its_own_word_alone() {
    let (mut leader, mut other) = Running::pair().await;
    let (leading, following) = (answer(&mut leader), answer(&mut other));
    let stranger = |address: &str| {
        Channel::new(Caller::stranger(&Host::real()), Route::to_address(address.into()))
    };
    let elsewhere =
        |member: &Running| Member { client_address: "elsewhere:1".into(), ..member.record.clone() };
    // Of each by way of each, at the address that it has and at one with another spelling.
    for about in [&leader, &other] {
        for through in [&leader, &other] {
            let port = about.record.raft_address.rsplit_once(':').unwrap().1;
            for raft_address in [about.record.raft_address.clone(), format!("localhost:{port}")] {
                let body = request(about.id, Member { raft_address, ..elsewhere(about) });
                let channel = stranger(&through.record.raft_address);
                let reply = channel.call(Method::Join, body, BOUND).await.unwrap();
                JoinReply::decode(reply).unwrap();
                let record = leader.consensus.view().members[&about.id].member.clone();
                assert_eq!(record, about.record);
            }
        }
    }
    // Whoever can listen confirms his own hello, under an id that he drew. He takes nobody out either.
    let mut drawn = Running::start(9).await;
    let asking = answer(&mut drawn);
    for through in [&leader, &other] {
        let to = asking.channel(through.id, &through.record);
        for about in [&leader, &other] {
            let body = request(about.id, elsewhere(about));
            let reply = to.call(Method::Join, body, BOUND).await.unwrap();
            JoinReply::decode(reply).unwrap();
            let record = leader.consensus.view().members[&about.id].member.clone();
            assert_eq!(record, about.record);
        }
        let mut body = Vec::new();
        put_string(&mut body, &other.record.name);
        to.call(Method::Remove, body.into(), BOUND).await.unwrap();
        assert!(leader.consensus.view().goal_voters.contains(&other.id));
    }
    drawn.stop().await;
    // It itself, at the leader and through another member.
    for (asking, about, through) in [(&following, &other, &leader), (&leading, &leader, &other)] {
        let body = request(about.id, elsewhere(about));
        let to = asking.channel(through.id, &through.record);
        let reply = to.call(Method::Join, body, BOUND).await.unwrap();
        let reply = JoinReply::decode(reply).unwrap();
        assert!(matches!(reply, JoinReply::Accepted { .. }), "{reply:?}");
        assert_eq!(client_address(&leader, about.id), "elsewhere:1");
    }
    leader.stop().await;
    other.stop().await;
}
