//! SUBSCRIBE and its like: what a client listens to.
//!
//! Called by `ask`; calls the node's messages.

use bytes::Bytes;

use crate::messages::Selector;
use crate::node::Node;
use crate::server::complaint::Complaint;
use crate::server::requester::Requester;
use crate::server::value::Value;

/// Lets a client listen to names. Its own writes, and all that it must see by the level of its
/// reads, lie before the subscription.
///
/// # Errors
/// The leader cannot be asked; a bound is reached.
pub(super) async fn listen(
    node: &Node,
    requester: &Requester,
    selector: Selector,
    names: &[Bytes],
) -> Result<Value, Complaint> {
    requester.replica(node).await?;
    let subscriber = requester.client().subscriber_in(node.messages());
    // Each name is confirmed with the count as it was then.
    let [channels, patterns] =
        [Selector::Channel, Selector::Pattern].map(|of| subscriber.names(of));
    let mut known: Vec<&Bytes> = match selector {
        Selector::Channel => channels.iter().collect(),
        Selector::Pattern => patterns.iter().collect(),
    };
    let other_count = channels.len() + patterns.len() - known.len();
    subscriber.listen(selector, names).map_err(|error| Complaint::too_large(error.to_string()))?;
    let confirmed = names.iter().map(|name| {
        if let Err(place) = known.binary_search(&name) {
            known.insert(place, name);
        }
        let verb = match selector {
            Selector::Channel => "subscribe",
            Selector::Pattern => "psubscribe",
        };
        confirmation(verb, Some(name), other_count + known.len())
    });
    Ok(Value::Several(confirmed.collect()))
}

/// A client does not listen to names any more.
pub(super) fn leave(requester: &Requester, selector: Selector, names: &[Bytes]) -> Value {
    let verb = match selector {
        Selector::Channel => "unsubscribe",
        Selector::Pattern => "punsubscribe",
    };
    let client = requester.client();
    let mut confirmed = Vec::new();
    if let Some(subscriber) = client.subscriber() {
        let all = if names.is_empty() { subscriber.names(selector) } else { Vec::new() };
        for name in names.iter().chain(&all) {
            subscriber.leave(selector, name);
            confirmed.push(confirmation(verb, Some(name), client.name_count()));
        }
    } else {
        confirmed.extend(names.iter().map(|name| confirmation(verb, Some(name), 0)));
    }
    if confirmed.is_empty() {
        confirmed.push(confirmation(verb, None, client.name_count()));
    }
    Value::Several(confirmed)
}

/// `PUBSUB CHANNELS`
pub(super) fn channels(node: &Node, pattern: Option<&[u8]>) -> Value {
    let channels = node.messages().channels(pattern);
    Value::Array(channels.into_iter().map(Value::Bytes).collect())
}

/// `PUBSUB NUMSUB`
pub(super) fn subscriber_counts(node: &Node, channels: &[Bytes]) -> Value {
    let counted = channels.iter().flat_map(|channel| {
        let count = node.messages().subscriber_count(channel);
        [Value::Bytes(channel.clone()), Value::size(count)]
    });
    Value::Array(counted.collect())
}

fn confirmation(verb: &'static str, name: Option<&Bytes>, count: usize) -> Value {
    let name = name.map_or(Value::Null, |name| Value::Bytes(name.clone()));
    Value::Push(vec![Value::known(verb), name, Value::size(count)])
}
