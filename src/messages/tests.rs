use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::*;
use crate::command::{CommandBuilder, Operation};

const SMALL: MailBounds =
    MailBounds { bytes_max: 10_000, lasting_bytes_max: 2_000, lasting: Duration::from_mins(1) };

fn at(through: u64) -> Arc<Messages> {
    Arc::new(Messages::with(through, SMALL))
}

/// A command that sends these.
fn sends(messages: &[(&str, &str)]) -> Command {
    let mut builder = CommandBuilder::new();
    for (channel, message) in messages {
        let action = Action::Publish { message: message.as_bytes() };
        builder.push(&Operation { key: channel.as_bytes(), action }).unwrap();
    }
    builder.finish()
}

fn names(names: &[&'static str]) -> Vec<Bytes> {
    names.iter().map(|name| Bytes::from_static(name.as_bytes())).collect()
}

/// Applies an entry, as far as messages are concerned.
fn apply(messages: &Messages, index: u64, sent: &[(&str, &str)]) {
    messages.pass(LogIndex::new(index), &sends(sent));
    messages.reach(index);
}

/// Hands out everything that waits for that.
fn hand_out(messages: &Messages) {
    while let Some(passed) = messages.next_passed() {
        for one in passed {
            messages.hand_out_one(one);
        }
    }
}

/// What a subscriber gets: index, position, channel and message of each.
fn taken(subscriber: &Subscriber) -> Vec<String> {
    let shown = |delivery| match delivery {
        Delivery::Message(Delivered { message, .. }) => {
            let Message { index, position, channel, payload, .. } = &*message;
            let (channel, payload) = (channel.escape_ascii(), payload.escape_ascii());
            format!("{index}-{position} {channel} {payload}", index = index.get())
        }
        Delivery::Position { name, index, .. } => {
            format!("{} at {}", name.escape_ascii(), index.get())
        }
    };
    std::iter::from_fn(|| subscriber.take()).map(shown).collect()
}

fn mail(subscriber: &Subscriber) -> Poll<Mail> {
    subscriber.poll(&mut Context::from_waker(Waker::noop()))
}

/// I1 of `mod.rs`
#[test]
fn all_subscribers_get_the_messages_of_all_channels_in_the_order_of_the_log() {
    let messages = at(0);
    let [one, other] = [(); 2].map(|()| messages.subscriber());
    one.listen(Selector::Channel, &names(&["a", "b"])).unwrap();
    other.listen(Selector::Pattern, &names(&["*"])).unwrap();
    apply(&messages, 1, &[("b", "x"), ("a", "y")]);
    hand_out(&messages);
    apply(&messages, 3, &[("a", "z")]);
    apply(&messages, 4, &[("c", "w")]);
    hand_out(&messages);
    let both = ["1-0 b x", "1-1 a y", "3-0 a z"];
    assert_eq!(taken(&one), both);
    assert_eq!(taken(&other), [&both[..], &["4-0 c w"]].concat());
}

/// I3 of `mod.rs`
#[test]
fn a_subscription_begins_behind_what_is_applied_whenever_that_is_handed_out() {
    let messages = at(7);
    let early = messages.subscriber();
    early.listen(Selector::Channel, &names(&["__index__:a"])).unwrap();
    apply(&messages, 8, &[("a", "before")]);
    let late = messages.subscriber();
    late.listen(Selector::Channel, &names(&["__index__:a"])).unwrap();
    apply(&messages, 9, &[("a", "after")]);
    hand_out(&messages);
    assert_eq!(taken(&early), ["__index__:a at 7", "8-0 a before", "9-0 a after"]);
    assert_eq!(taken(&late), ["__index__:a at 8", "9-0 a after"]);
    // A name that is there already goes on where it is, and tells how far that is.
    apply(&messages, 10, &[("a", "more")]);
    late.listen(Selector::Channel, &names(&["__index__:a"])).unwrap();
    hand_out(&messages);
    assert_eq!(taken(&late), ["10-0 a more", "__index__:a at 10"]);
}

/// I3 of `mod.rs`: an entry's messages pass before the entries of its batch count as applied.
#[test]
fn a_message_that_passed_while_nobody_listened_is_before_all_that_a_subscription_has() {
    let messages = at(7);
    messages.pass(LogIndex::new(8), &sends(&[("a", "unheard")]));
    let begun = messages.subscriber();
    begun.listen(Selector::Channel, &names(&["__index__:a"])).unwrap();
    messages.pass(LogIndex::new(9), &sends(&[("a", "heard")]));
    messages.reach(9);
    hand_out(&messages);
    assert_eq!(taken(&begun), ["__index__:a at 8", "9-0 a heard"]);
}

#[test]
fn whoever_leaves_is_told_nothing_more() {
    let messages = at(0);
    let subscriber = messages.subscriber();
    subscriber.listen(Selector::Channel, &names(&["a", "__index__:b"])).unwrap();
    subscriber.leave(Selector::Channel, &names(&["__index__:b"])[0]);
    apply(&messages, 1, &[("a", "x"), ("b", "x")]);
    hand_out(&messages);
    apply(&messages, 2, &[("a", "y")]);
    subscriber.leave(Selector::Channel, &names(&["a"])[0]);
    hand_out(&messages);
    assert_eq!(taken(&subscriber), ["1-0 a x"]);
    subscriber.listen(Selector::Channel, &names(&["c"])).unwrap();
    apply(&messages, 3, &[("c", "z")]);
    hand_out(&messages);
    subscriber.leave_all();
    assert!(mail(&subscriber).is_pending());
    assert_eq!(messages.counts(), MessageCounts { delivered: 2, ..MessageCounts::default() });
    drop(subscriber);
    assert!(messages.names.lock().mailboxes.is_empty());
    apply(&messages, 4, &[("c", "z")]);
    assert_eq!(messages.passing.lock().queue.len(), 0, "nobody could listen");
}

#[test]
fn a_slow_subscriber_is_ended_and_the_others_go_on() {
    let messages = at(0);
    let [slow, quick] = [(); 2].map(|()| messages.subscriber());
    for subscriber in [&slow, &quick] {
        subscriber.listen(Selector::Channel, &names(&["a"])).unwrap();
    }
    let long = "m".repeat(900);
    for index in 1..=20 {
        apply(&messages, index, &[("a", &long)]);
        hand_out(&messages);
        assert_eq!(taken(&quick).len(), 1, "{index}");
    }
    assert_eq!(mail(&slow), Poll::Ready(Mail::Ended(Ended::Slow)));
    assert_eq!(taken(&slow), [""; 0]);
    assert_eq!(messages.counts().ended_slow, 1);
    assert_eq!(messages.kept_bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn a_subscriber_that_stays_behind_is_ended_after_a_while() {
    let messages = at(0);
    let [slow, mended] = [(); 2].map(|()| messages.subscriber());
    for subscriber in [&slow, &mended] {
        subscriber.listen(Selector::Channel, &names(&["a"])).unwrap();
    }
    let send = |index, bytes| {
        apply(&messages, index, &[("a", &"m".repeat(bytes))]);
        hand_out(&messages);
    };
    send(1, 3_000);
    taken(&mended);
    send(2, 1);
    send(3, 2_500);
    assert_eq!(mail(&slow), Poll::Ready(Mail::Waits));
    slow.age(SMALL.lasting);
    mended.age(SMALL.lasting / 2);
    send(4, 1);
    assert_eq!(mail(&slow), Poll::Ready(Mail::Ended(Ended::Slow)));
    assert_eq!(taken(&mended).len(), 3);
    send(5, 1);
    mended.age(SMALL.lasting);
    send(6, 2_500);
    assert_eq!(mail(&mended), Poll::Ready(Mail::Waits), "it had caught up");
}

/// I2 of `mod.rs`
#[test]
fn a_gap_ends_those_who_have_it_behind_what_they_got() {
    let messages = at(5);
    let [before, after] = [(); 2].map(|()| messages.subscriber());
    before.listen(Selector::Channel, &names(&["a"])).unwrap();
    apply(&messages, 6, &[("a", "x")]);
    messages.skip(LogIndex::new(20));
    after.listen(Selector::Channel, &names(&["__index__:a"])).unwrap();
    messages.reach(20);
    apply(&messages, 21, &[("a", "y")]);
    hand_out(&messages);
    assert_eq!(mail(&before), Poll::Ready(Mail::Waits));
    assert_eq!(taken(&before), ["6-0 a x"]);
    assert_eq!(mail(&before), Poll::Ready(Mail::Ended(Ended::Gap)));
    assert_eq!(taken(&after), ["__index__:a at 20", "21-0 a y"]);
    assert!(mail(&after).is_pending());
    assert_eq!(messages.counts().ended_gap, 1);
}

/// I4 of `mod.rs`
#[test]
fn what_waits_to_be_handed_out_is_bounded_and_then_everyone_has_a_gap() {
    let messages = at(0);
    let subscriber = messages.subscriber();
    subscriber.listen(Selector::Channel, &names(&["a"])).unwrap();
    let long = "m".repeat(1 << 20);
    for index in 1..=80 {
        apply(&messages, index, &[("a", &long)]);
    }
    assert!(messages.passing.lock().bytes <= PASSED_BYTES_MAX);
    hand_out(&messages);
    assert_eq!(mail(&subscriber), Poll::Ready(Mail::Ended(Ended::Gap)));
    assert_eq!(messages.passing.lock().bytes, 0);
    let later = messages.subscriber();
    later.listen(Selector::Channel, &names(&["a"])).unwrap();
    apply(&messages, 81, &[("a", "x")]);
    hand_out(&messages);
    assert_eq!(taken(&later), ["81-0 a x"]);
}

/// I4 of `mod.rs`
#[test]
fn whoever_was_ended_for_a_gap_and_takes_nothing_makes_room_like_the_others() {
    let wide = MailBounds { bytes_max: usize::MAX, lasting_bytes_max: usize::MAX, ..SMALL };
    let messages = Arc::new(Messages::with(0, wide));
    let [stays, reads] = [(); 2].map(|()| messages.subscriber());
    stays.listen(Selector::Channel, &names(&["a"])).unwrap();
    let long = "m".repeat(1 << 20);
    let send = |index| {
        apply(&messages, index, &[("a", &long)]);
        hand_out(&messages);
    };
    (1..=200).for_each(send);
    messages.skip(LogIndex::new(300));
    messages.reach(300);
    hand_out(&messages);
    assert_eq!(mail(&stays), Poll::Ready(Mail::Waits), "it still gets what came before");
    reads.listen(Selector::Channel, &names(&["a"])).unwrap();
    (301..=400).for_each(send);
    assert_eq!(mail(&stays), Poll::Ready(Mail::Ended(Ended::Slow)));
    assert_eq!(taken(&reads).len(), 100);
}

/// I4 of `mod.rs`
#[test]
fn a_message_is_kept_once_and_whoever_is_furthest_behind_makes_room() {
    let wide = MailBounds { bytes_max: usize::MAX, lasting_bytes_max: usize::MAX, ..SMALL };
    let messages = Arc::new(Messages::with(0, wide));
    let crowd = [(); 4].map(|()| messages.subscriber());
    for subscriber in &crowd {
        subscriber.listen(Selector::Channel, &names(&["a"])).unwrap();
    }
    let long = "m".repeat(1 << 20);
    for index in 1..=200 {
        apply(&messages, index, &[("a", &long)]);
        hand_out(&messages);
        taken(&crowd[0]);
    }
    let kept = messages.kept_bytes.load(Ordering::Relaxed);
    assert!((200 << 20..201 << 20).contains(&kept), "{kept}: once, for three that wait");
    assert_eq!(messages.counts().ended_slow, 0);
    taken(&crowd[1]);
    for index in 201..=300 {
        apply(&messages, index, &[("a", &long)]);
        hand_out(&messages);
        taken(&crowd[0]);
    }
    assert_eq!(messages.counts().ended_slow, 2);
    assert_eq!(mail(&crowd[1]), Poll::Ready(Mail::Waits), "it is less far behind");
    assert_eq!(taken(&crowd[1]).len(), 100);
    assert_eq!(messages.kept_bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn all_names_of_a_request_are_taken_or_none() {
    let messages = at(0);
    let subscriber = messages.subscriber();
    let many: Vec<Bytes> = (0..NAME_COUNT_MAX).map(|nth| nth.to_string().into()).collect();
    subscriber.listen(Selector::Channel, &many[1..]).unwrap();
    let two = names(&["x", "y"]);
    assert_eq!(subscriber.listen(Selector::Channel, &two), Err(SubscribeError::ClientIsFull));
    let crowd: Vec<Subscriber> =
        std::iter::repeat_with(|| messages.subscriber()).take(64).collect();
    let full = crowd.iter().take_while(|other| other.listen(Selector::Channel, &many).is_ok());
    assert_eq!(full.count(), NAME_COUNT_MAX_ALL / NAME_COUNT_MAX - 1);
    let other = crowd.last().unwrap();
    assert_eq!(other.listen(Selector::Channel, &two), Err(SubscribeError::NodeIsFull));
    drop(crowd);
    let patterns: Vec<Bytes> = (0..PATTERN_COUNT_MAX).map(|nth| nth.to_string().into()).collect();
    let other = messages.subscriber();
    other.listen(Selector::Pattern, &patterns).unwrap();
    let more = names(&["1", "x*"]);
    assert_eq!(other.listen(Selector::Pattern, &more), Err(SubscribeError::PatternsAreFull));
    other.listen(Selector::Pattern, &more[..1]).unwrap();
    assert_eq!(other.count(Selector::Pattern), PATTERN_COUNT_MAX);
    assert!(messages.channels(Some(b"x")).is_empty());
}
