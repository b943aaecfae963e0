//! What may be read of slots that a snapshot is being merged into.

use diskstore_storage::disk::SimDisk;
use futures_util::FutureExt;

use super::{Place, Stores, blanks, increment};

/// A member that has applied up to index 2.
async fn member() -> Stores {
    let mut stores = Place::on(&SimDisk::new(1)).open();
    let entries = vec![increment(1, 1, 7), increment(1, 2, 7)];
    stores.append([blanks(1, [0]), entries.clone()].concat()).await.unwrap();
    stores.apply(entries).await.unwrap();
    stores
}

#[tokio::test]
async fn a_read_waits_until_the_slots_are_a_state_that_ever_was() {
    let mut stores = member().await;
    let replica = stores.replica.clone();
    replica.machine.set_readable_from(4).unwrap();
    let mut waiting = std::pin::pin!(replica.wait_applied(2));
    assert!(waiting.as_mut().now_or_never().is_none(), "index 2 is applied, but no state");
    stores.apply(vec![increment(1, 3, 7)]).await.unwrap();
    assert!(waiting.as_mut().now_or_never().is_none());
    stores.apply(vec![increment(1, 4, 7)]).await.unwrap();
    waiting.now_or_never().expect("it is one now");
}

#[tokio::test]
async fn what_was_read_while_a_snapshot_began_is_not_given() {
    let stores = member().await;
    let replica = &stores.replica;
    assert_eq!(replica.read_whole(|_| 1), Some(1));
    let read = |machine: &crate::machine::Machine| machine.set_readable_from(3).unwrap();
    assert_eq!(replica.read_whole(read), None, "it began while it was read");
    assert_eq!(replica.read_whole(|_| unreachable!("it is not even looked at")), None::<()>);
}

/// All slots may have been merged, and the log replayed, by the time of the second look.
#[tokio::test]
async fn a_snapshot_that_began_and_ended_under_a_read_is_noticed() {
    let stores = member().await;
    let replica = &stores.replica;
    let read = |machine: &crate::machine::Machine| {
        machine.set_readable_from(3).unwrap();
        replica.set_applied(super::stored(1, 3), None);
    };
    assert_eq!(replica.read_whole(read), None);
    assert_eq!(replica.read_whole(|_| 1), Some(1));
}
