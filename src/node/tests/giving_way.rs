//! Leadership that is handed to a member with room.

use super::running::Running;
use crate::cluster::Cluster;
use crate::peer::Method;
use crate::raft::Timing;

/// What never began must not count as the one time in a term (I2 of `cluster/giving_way.rs`).
#[tokio::test]
async fn a_leader_has_given_way_only_if_there_was_somebody_to_lead() {
    let leader = Running::leader().await;
    let mut others = leader.joined_by(&[2, 3]).await;
    for other in &mut others {
        // They say that they have room, and take no entries any more.
        let mut requests = std::mem::replace(&mut other.requests, tokio::sync::mpsc::channel(1).1);
        tokio::spawn(async move {
            while let Some(asked) = requests.recv().await {
                assert_eq!(asked.method, Method::LogSpace);
                drop(asked.reply.send(vec![1]));
            }
        });
        other.consensus.stop().await;
    }
    let is_gone = |silent: Option<std::time::Duration>| {
        silent.is_none_or(|time| time >= Timing::default().alive())
    };
    leader
        .until("nobody is alive", |leader| {
            let members = leader.view().members;
            members.iter().filter(|(id, _)| **id != 1).all(|(_, other)| is_gone(other.silent_for))
        })
        .await;
    let cluster = Cluster::new(leader.consensus.clone(), 0xc1);
    assert!(!cluster.give_way().await, "there was nobody to hand over to");
    leader.stop().await;
}
