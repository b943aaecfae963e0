//! Two members in one process: what one forwards to the other, and what a leader does that nobody
//! answers any more.

use super::running::{BOUND, Running};
use crate::cluster::Cluster;
use crate::command::{Command, Failure, Freshness, ReadLevel, slot_key};
use crate::peer::Method;
use crate::raft::Consensus;

fn get() -> Vec<Command> {
    vec![Command::get(&slot_key(7)).unwrap()]
}

/// I1 of `cluster/writes.rs`: the leader may have proposed it.
#[tokio::test]
async fn a_forwarded_write_whose_answer_is_lost_is_unknown_and_never_sent_again() {
    let (mut leader, other) = Running::pair().await;
    let cluster = Cluster::new(other.consensus.clone(), 0xc1);
    let write = cluster.write(vec![Command::set(&slot_key(7), b"x").unwrap()]);
    let lose = async {
        let mut count = 0;
        while let Some(asked) = leader.requests.recv().await {
            assert_eq!(asked.method, Method::Write);
            count += 1;
            drop(asked); // the connection ends without an answer
            if count > 1 {
                break;
            }
        }
    };
    let write = tokio::time::timeout(BOUND, write);
    let results = tokio::select! {
        results = write => results.unwrap(),
        () = lose => panic!("it was sent again"),
    };
    assert!(matches!(results[0], Err(Failure::Unknown { .. })), "{results:?}");
    other.stop().await;
    leader.stop().await;
}

/// Its clock may be slow: voters may have elected another long before its lease is over here.
#[tokio::test]
async fn a_leader_that_nobody_answers_gives_no_read_once_its_lease_is_in_doubt() {
    let (leader, other) = Running::pair().await;
    leader.until("it has its lease", Consensus::holds_lease).await;
    let cluster = Cluster::new(leader.consensus.clone(), 0xc1);
    let lease = Freshness::of(ReadLevel::Lease);
    let results = cluster.read(get(), lease).await;
    assert!(results[0].is_ok(), "{results:?}");
    other.stop().await;
    leader.until("its lease is in doubt", |leader| !leader.holds_lease()).await;
    let results = cluster.read(get(), lease).await;
    assert!(matches!(results[0], Err(Failure::NoLeader { .. })), "{results:?}");
    leader.stop().await;
}
