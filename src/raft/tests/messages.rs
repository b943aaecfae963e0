//! Messages of the entries that are applied here, and of those that are not.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use diskstore_storage::disk::SimDisk;
use openraft::storage::{RaftStateMachine, SnapshotMeta};
use tokio::time::timeout;

use super::super::types::StoredMembership;
use super::{Place, Stores, blank, increment, log_id, normal};
use crate::command::{Action, Answer, Command, CommandBuilder, Condition, Operation, slot_key};
use crate::messages::{Delivered, Delivery, Ended, Mail, Selector, Subscriber};
use crate::raft::types::Entry;
use crate::replica::SlotsSnapshot;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sets slot 3 and sends this on a channel that is called as the slot is.
fn set_and_publish(index: u64, text: &str) -> Entry {
    let (key, value) = (&slot_key(3), text.as_bytes());
    let (condition, answer) = (Condition::Always, Answer::Status);
    let mut builder = CommandBuilder::new();
    builder.push(&Operation { key, action: Action::Set { value, condition, answer } }).unwrap();
    builder.push(&Operation { key, action: Action::Publish { message: b"!" } }).unwrap();
    builder.push(&Operation { key: b"b", action: Action::Publish { message: value } }).unwrap();
    normal(2, index, builder.finish())
}

fn hand_out(stores: &Stores) {
    tokio::spawn(Arc::clone(stores.replica.messages()).hand_out());
}

fn listener(stores: &Stores) -> Subscriber {
    let listener = stores.replica.messages().subscriber();
    listener.listen(Selector::Pattern, &[Bytes::from_static(b"*")]).unwrap();
    listener
}

/// The next message, by index, position and text; or why there is none.
async fn next(listener: &Subscriber) -> Result<String, Ended> {
    let mail = timeout(PATIENCE, poll_fn(|context| listener.poll(context))).await;
    match mail.expect("nothing comes") {
        Mail::Ended(why) => Err(why),
        Mail::Waits => match listener.take().unwrap() {
            Delivery::Message(Delivered { message, .. }) => {
                let (index, position) = (message.index.get(), message.position);
                Ok(format!("{index}-{position} {}", message.payload.escape_ascii()))
            }
            Delivery::Position { .. } => panic!("it did not ask where it is"),
        },
    }
}

#[tokio::test]
async fn messages_of_applied_entries_change_nothing_and_are_handed_on() {
    let disk = SimDisk::new(1);
    let mut stores = Place::on(&disk).open();
    stores.apply(vec![blank(2, 0), increment(2, 1, 3)]).await.unwrap();
    hand_out(&stores);
    let listener = listener(&stores);
    stores.apply(vec![set_and_publish(2, "x"), set_and_publish(3, "y")]).await.unwrap();
    for expected in ["2-1 !", "2-2 x", "3-1 !", "3-2 y"] {
        assert_eq!(next(&listener).await.as_deref(), Ok(expected));
    }
    assert_eq!(stores.value(3), Some(b"y".to_vec()));
}

#[tokio::test]
async fn a_snapshot_in_the_place_of_entries_ends_those_who_listen() {
    let disk = SimDisk::new(2);
    let mut stores = Place::on(&disk).open();
    hand_out(&stores);
    let before = listener(&stores);
    stores.apply(vec![blank(2, 0), set_and_publish(1, "x")]).await.unwrap();
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(2, 60)),
        last_membership: StoredMembership::default(),
    };
    stores.machine.install_snapshot(&meta, SlotsSnapshot::default()).await.unwrap();
    let after = listener(&stores);
    for expected in [Ok("1-1 !".to_owned()), Ok("1-2 x".to_owned()), Err(Ended::Gap)] {
        assert_eq!(next(&before).await, expected);
    }
    let entry = set_and_publish(61, "y");
    stores.apply(vec![entry]).await.unwrap();
    assert_eq!(next(&after).await.as_deref(), Ok("61-1 !"));
}

#[tokio::test]
async fn a_message_of_a_request_that_was_sent_again_is_handed_on_once() {
    let disk = SimDisk::new(3);
    let mut stores = Place::on(&disk).open();
    hand_out(&stores);
    let listener = listener(&stores);
    let once = |index, channel: &'static [u8]| {
        let publish = Operation { key: channel, action: Action::Publish { message: b"m" } };
        let command = Command::single(&publish).unwrap().with_request_id(b"id").unwrap();
        normal(2, index, command)
    };
    let entries = vec![once(1, b"a"), once(2, b"a"), once(3, b"other"), set_and_publish(4, "x")];
    stores.apply(entries).await.unwrap();
    for expected in ["1-0 m", "4-1 !", "4-2 x"] {
        assert_eq!(next(&listener).await.as_deref(), Ok(expected));
    }
}
