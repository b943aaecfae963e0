//! Removals beside other changes of the membership.

use std::time::Duration;

use diskstore_storage::slots::Geometry;
use futures_util::FutureExt;

use super::{create_slots, disk, start};
use crate::cluster::{Cluster, Order, OrderError};
use crate::peer::Member;
use crate::raft::Timing;

/// No test waits longer than this for what must come.
const BOUND: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_removal_looks_for_its_member_once_a_change_under_way_is_over() {
    let disk = disk(1);
    let consensus = start(&disk, create_slots(&disk, Geometry::new(64, 32).unwrap())).await;
    consensus.found(Member::default()).await.unwrap();
    consensus.allow_elections().await;
    let leading = async {
        while !consensus.has_led_for(Timing::default().alive()) {
            consensus.changed(Timing::default().alive()).await;
        }
    };
    tokio::time::timeout(BOUND, leading).await.expect("it leads");
    let cluster = Cluster::new(consensus.clone(), 0xc1);
    let alone = consensus.alone().await;
    let mut removal = std::pin::pin!(cluster.carry_out(Order::Remove("nobody".into())));
    assert!(removal.as_mut().now_or_never().is_none(), "another change is under way");
    drop(alone);
    let removed = tokio::time::timeout(BOUND, removal).await.expect("nobody changes anything");
    assert!(matches!(removed, Err(OrderError::Refused(_))), "{removed:?}");
    consensus.stop().await;
}

#[tokio::test]
async fn a_name_that_is_too_long_to_be_asked_for_is_refused_at_once() {
    let disk = disk(2);
    let consensus = start(&disk, create_slots(&disk, Geometry::new(64, 32).unwrap())).await;
    let cluster = Cluster::new(consensus.clone(), 0xc1);
    let removed = cluster.carry_out(Order::Remove("x".repeat(4097))).now_or_never();
    assert!(matches!(removed, Some(Err(OrderError::Refused(_)))), "{removed:?}");
    consensus.stop().await;
}
