//! Commands about messages on channels. Pure.
//!
//! A message is an operation of a command of the log. Who listens is asked of the node.

use bytes::Bytes;

use super::super::connection::{Connection, Step};
use super::super::draft::Draft;
use super::super::form::Form;
use super::super::table::{MESSAGES, Spec};
use super::exactly;
use crate::messages::Selector;
use crate::server::access::RequestKind;
use crate::server::ask::Question;
use crate::server::complaint::Complaint;
use crate::server::keys::Keys;

#[rustfmt::skip]
pub(super) const ROWS: &[Spec] = &[
    Spec::publishes("publish", 3, publish, "Sends a message to all subscribers of a channel, on all nodes."),
    Spec::other("psubscribe", -2, p_subscribe, "Listens to channels whose names match patterns.").of(MESSAGES).kind(RequestKind::Read).by_stores().forbidding(p_subscribe_queued),
    Spec::other("pubsub", -2, pub_sub, "Tells of the channels that this node's clients listen to.").of(MESSAGES).by_stores(),
    Spec::other("punsubscribe", -1, p_unsubscribe, "Ends subscriptions to patterns.").of(MESSAGES).by_stores().forbidding(p_unsubscribe_queued),
    Spec::other("subscribe", -2, subscribe, "Listens to channels.").of(MESSAGES).kind(RequestKind::Read).by_stores().forbidding(subscribe_queued),
    Spec::other("unsubscribe", -1, unsubscribe, "Ends subscriptions to channels.").of(MESSAGES).by_stores().forbidding(unsubscribe_queued),
];

/// `PUBLISH channel message`
fn publish(draft: &mut Draft, arguments: &[&[u8]], _: &Keys) -> Result<Form, Complaint> {
    let [channel, message] = exactly(arguments)?;
    draft.publish(channel, message)?;
    Ok(Form::INTEGER)
}

/// `SUBSCRIBE channel...`
fn subscribe(_: &mut Connection, names: &[&[u8]]) -> Result<Step, Complaint> {
    Ok(Step::Ask(Question::Listen { selector: Selector::Channel, names: owned(names) }))
}

/// `PSUBSCRIBE pattern...`
fn p_subscribe(_: &mut Connection, names: &[&[u8]]) -> Result<Step, Complaint> {
    Ok(Step::Ask(Question::Listen { selector: Selector::Pattern, names: owned(names) }))
}

/// `UNSUBSCRIBE [channel...]`
fn unsubscribe(_: &mut Connection, names: &[&[u8]]) -> Result<Step, Complaint> {
    Ok(Step::Ask(Question::Leave { selector: Selector::Channel, names: owned(names) }))
}

/// `PUNSUBSCRIBE [pattern...]`
fn p_unsubscribe(_: &mut Connection, names: &[&[u8]]) -> Result<Step, Complaint> {
    Ok(Step::Ask(Question::Leave { selector: Selector::Pattern, names: owned(names) }))
}

/// `PUBSUB CHANNELS [pattern] | NUMSUB [channel...] | NUMPAT`
fn pub_sub(_: &mut Connection, arguments: &[&[u8]]) -> Result<Step, Complaint> {
    let (sub, rest) = arguments.split_first().ok_or(Complaint::SYNTAX)?;
    let question = match (sub.to_ascii_uppercase().as_slice(), rest) {
        (b"CHANNELS", []) => Question::Channels { pattern: None },
        (b"CHANNELS", [pattern]) => {
            Question::Channels { pattern: Some(Bytes::copy_from_slice(pattern)) }
        }
        (b"CHANNELS", _) => return Err(Complaint::arity("pubsub|channels")),
        (b"NUMSUB", channels) => Question::SubscriberCounts(owned(channels)),
        (b"NUMPAT", []) => Question::PatternCount,
        (b"NUMPAT", _) => return Err(Complaint::arity("pubsub|numpat")),
        _ => return Err(Complaint::subcommand("PUBSUB", sub)),
    };
    Ok(Step::Ask(question))
}

// A subscription changes what the client may ask and what comes to it unasked: no part of a
// transaction's reply does that.

fn subscribe_queued(_: &[&[u8]]) -> Option<&'static str> {
    Some("SUBSCRIBE")
}

fn p_subscribe_queued(_: &[&[u8]]) -> Option<&'static str> {
    Some("PSUBSCRIBE")
}

fn unsubscribe_queued(_: &[&[u8]]) -> Option<&'static str> {
    Some("UNSUBSCRIBE")
}

fn p_unsubscribe_queued(_: &[&[u8]]) -> Option<&'static str> {
    Some("PUNSUBSCRIBE")
}

fn owned(names: &[&[u8]]) -> Vec<Bytes> {
    names.iter().map(|name| Bytes::copy_from_slice(name)).collect()
}
