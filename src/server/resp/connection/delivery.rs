//! Writes messages as their subscribers get them. Pure.
//!
//! Called by the connection. What a subscriber of a plain name gets are the very bytes of Redis; most
//! of them are the same for all subscribers, and were encoded once.

use super::super::encode::Encoder;
use crate::command::INDEXED_PREFIX;
use crate::messages::{Delivered, Delivery, Selector, Telling};

/// Writes one delivery.
pub(super) fn encode(to: &mut Encoder<'_>, delivery: &Delivery) {
    match delivery {
        Delivery::Message(delivered) => match delivered.telling {
            Telling::Plain => plain(to, delivered),
            Telling::Indexed => indexed(to, delivered),
        },
        Delivery::Position { selector, name, index } => {
            let index = index.get().to_string();
            match selector {
                Selector::Channel => begin(to, None),
                Selector::Pattern => begin(to, Some(name)),
            }
            to.bulk(name);
            to.bulk(index.as_bytes());
        }
    }
}

fn plain(to: &mut Encoder<'_>, Delivered { message, pattern, .. }: &Delivered) {
    begin(to, pattern.as_deref());
    to.encoded(&message.bulks);
}

fn indexed(to: &mut Encoder<'_>, Delivered { message, pattern, .. }: &Delivered) {
    let prefixed = |name: &[u8]| [INDEXED_PREFIX, name].concat();
    begin(to, pattern.as_deref().map(prefixed).as_deref());
    to.bulk(&prefixed(&message.channel));
    let place = format!("{}-{} ", message.index.get(), message.position);
    to.bulk(&[place.as_bytes(), &message.payload].concat());
}

/// What comes before the channel and the message.
fn begin(to: &mut Encoder<'_>, pattern: Option<&[u8]>) {
    match pattern {
        None => {
            to.push(3);
            to.bulk(b"message");
        }
        Some(pattern) => {
            to.push(4);
            to.bulk(b"pmessage");
            to.bulk(pattern);
        }
    }
}
