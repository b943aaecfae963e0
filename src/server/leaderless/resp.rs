//! A connection of RESP: requests that came together run together, and their replies leave in order.
//!
//! Called by the session; calls `commands`. Invariants:
//!
//! - I1: replies leave in the order of the requests.
//! - I2: requests of one key on one connection do not overtake each other where one of them writes.
//! - I3: once [`PIPELINE_COUNT_MAX`] operations of a connection are under way, all of them are waited for. A
//!   single command of more keys than that has a bound of its own (`outcomes`).
//! - I4: operations of a connection are under way together only as far as their replies may come to about
//!   [`REPLY_BYTES_MAX`], by what this node holds of their keys, and by the replies before where it holds nothing.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;

use super::RegisterServer;
use super::commands::{Agreed, Planned, Work, greeting, plan};
use super::outcomes::{ForeignValues, carry_out};
use crate::leaderless::node::KEY_BYTES_MAX;
use crate::leaderless::operation::Level;
use crate::server::complaint::Complaint;
use crate::server::resp::{Decoder, Encoder, REQUEST_BYTES_MAX, Version as Encoding};
use crate::server::session::{Flow, stalled};
use crate::server::socket::{Came, Socket, Wanted};
use crate::server::value::Value;

/// Operations of one connection that are under way at a time.
const PIPELINE_COUNT_MAX: usize = 256;
/// Bytes of replies after which a turn ends.
const TURN_BYTES_MAX: usize = 1 << 20;
/// Bytes that the replies of operations that are under way together may come to.
const REPLY_BYTES_MAX: usize = 64 << 20;
/// What a reply is taken to come to at least.
const REPLY_BYTES_MIN: usize = REPLY_BYTES_MAX / PIPELINE_COUNT_MAX;
/// Bytes of a request beside its key and its value.
const REQUEST_SPARE_BYTES: usize = 4 << 10;

/// One connection.
pub(super) struct RespSession {
    server: Arc<RegisterServer>,
    from: SocketAddr,
    agreed: Agreed,
    decoder: Decoder,
    foreign: ForeignValues,
}

/// Keys of the operations that are under way.
#[derive(Debug, Default)]
struct KeysUnderWay {
    read: BTreeSet<Bytes>,
    written: BTreeSet<Bytes>,
}

impl KeysUnderWay {
    /// Whether an operation has to wait for those before it (I2).
    fn hold_back(&self, work: &Work) -> bool {
        if work.is_about_all_keys() {
            return !self.written.is_empty();
        }
        work.keys()
            .into_iter()
            .any(|key| self.written.contains(key) || work.writes() && self.read.contains(key))
    }

    fn note(&mut self, work: &Work) {
        let keys = work.keys().into_iter().cloned();
        if work.writes() { self.written.extend(keys) } else { self.read.extend(keys) }
    }
}

/// What is under way stands for an operation, or for a reply that is there already.
enum Pending {
    Ready(Value),
    Work { level: Level, work: Work, is_foreign: bool },
}

/// What a reply is taken to come to.
struct Expected {
    bytes: usize,
    /// A value of it is not held here.
    is_foreign: bool,
}

/// A reply.
struct Finished {
    value: Value,
    is_foreign: bool,
}

/// How much is under way.
#[derive(Default)]
struct Load {
    keys: KeysUnderWay,
    count: usize,
    reply_bytes: usize,
}

impl Load {
    /// Whether an operation has to wait for those before it.
    fn holds_back(&self, work: &Work, expected: &Expected) -> bool {
        let is_too_much = self.reply_bytes + expected.bytes > REPLY_BYTES_MAX; // I4
        self.keys.hold_back(work) || is_too_much && self.count > 0
    }

    fn note(&mut self, work: &Work, expected: &Expected) {
        self.keys.note(work);
        self.count += work.keys().len().max(1);
        self.reply_bytes += expected.bytes;
    }

    fn is_full(&self) -> bool {
        self.count >= PIPELINE_COUNT_MAX // I3
    }
}

impl RespSession {
    /// A connection that has asked nothing yet.
    pub(super) fn new(server: Arc<RegisterServer>, from: SocketAddr) -> RespSession {
        let client_id = server.next_client_id();
        let (level, encoding) = (server.level, Encoding::default());
        let agreed = Agreed { level, encoding, client_id, name: Bytes::new() };
        let bytes_max = server.registrar.value_bytes_max() + KEY_BYTES_MAX + REQUEST_SPARE_BYTES;
        let bytes_max = bytes_max.max(REQUEST_BYTES_MAX); // many keys, where values are small
        let foreign = ForeignValues { bytes: server.registrar.value_bytes_max() };
        RespSession { server, from, agreed, decoder: Decoder::taking(bytes_max), foreign }
    }

    /// What the reply to an operation comes to, as far as can be told before.
    fn expect(&self, work: &Work) -> Expected {
        let mut expected = Expected { bytes: 0, is_foreign: false };
        if work.answers_values() {
            for key in work.keys() {
                // One that is absent here may be at others, if this node was away.
                let held = self.server.registrar.value_bytes_here(key).filter(|bytes| *bytes > 0);
                expected.is_foreign |= held.is_none();
                let bytes = held.unwrap_or(self.foreign.bytes);
                expected.bytes = expected.bytes.saturating_add(bytes);
            }
        }
        expected.bytes = expected.bytes.clamp(REPLY_BYTES_MIN, REPLY_BYTES_MAX);
        expected
    }

    /// Serves the client until it leaves, breaks the protocol, or the node stops.
    pub(super) async fn talk(mut self, mut socket: Socket) -> io::Result<()> {
        loop {
            let came_bytes = socket.input().len();
            let flow = self.sending_turn(&mut socket).await;
            self.server.counters.received(came_bytes - socket.input().len());
            self.server.counters.sent(socket.reply_bytes());
            socket.end_turn().await?;
            let wanted = match flow {
                Flow::Close => return socket.finish().await,
                Flow::Again if socket.has_output_space() => continue,
                Flow::Again => Wanted::OutputSpace,
                Flow::Read => Wanted::Bytes,
            };
            match socket.wait(wanted, None).await? {
                Came::Wanted | Came::Mail => {}
                Came::End | Came::Stop | Came::Strange | Came::Ended(_) => {
                    return socket.send_rest().await;
                }
                Came::Stalled => {
                    tracing::debug!(from = %self.from, "ended: it asks for more than it takes");
                    let mut words = BytesMut::new();
                    let complaint = stalled(socket.unsent_bytes());
                    Encoder::new(&mut words, self.agreed.encoding).complaint(&complaint);
                    socket.append(&words);
                    return socket.finish().await;
                }
            }
        }
    }

    /// One turn over what has come; what waits from before is sent meanwhile. An error in that is met again
    /// after the turn.
    async fn sending_turn(&mut self, socket: &mut Socket) -> Flow {
        let (input, replies, mut outgoing) = socket.turn_parts();
        let mut turn = pin!(self.turn(input, replies));
        let mut is_sending = true;
        poll_fn(|context| {
            let flow = turn.as_mut().poll(context);
            if flow.is_pending() && is_sending {
                is_sending = matches!(outgoing.poll_send(context), Poll::Pending);
            }
            flow
        })
        .await
    }

    async fn turn(&mut self, input: &mut BytesMut, replies: &mut BytesMut) -> Flow {
        let (server, foreign) = (Arc::clone(&self.server), self.foreign);
        let mut under_way = FuturesOrdered::new();
        let mut load = Load::default();
        let run = async |pending| match pending {
            Pending::Ready(value) => Finished { value, is_foreign: false },
            Pending::Work { level, work, is_foreign } => {
                Finished { value: carry_out(&server, level, work, foreign).await, is_foreign }
            }
        };
        let flow = loop {
            if replies.len() >= TURN_BYTES_MAX {
                break Flow::Again;
            }
            let request = match self.decoder.next(input) {
                Ok(Some(request)) => request,
                Ok(None) => break Flow::Read,
                Err(error) => {
                    let text = format!("Protocol error: {error}");
                    under_way
                        .push_back(run(Pending::Ready(Value::Complaint(Complaint::wrong(text)))));
                    break Flow::Close;
                }
            };
            let planned = match request.excess() {
                Some(excess) => Err(Complaint::too_large(excess.to_string())),
                None => plan(&server, &mut self.agreed, &request.arguments()),
            };
            let mut pending = match planned {
                Ok(Planned::Answer(value)) => Pending::Ready(value),
                Err(complaint) => Pending::Ready(Value::Complaint(complaint)),
                Ok(Planned::Close(value)) => {
                    under_way.push_back(run(Pending::Ready(value)));
                    break Flow::Close;
                }
                Ok(Planned::Agree(encoding)) => {
                    self.drain(&mut under_way, replies).await;
                    self.agreed.encoding = encoding;
                    Pending::Ready(greeting(&server, &self.agreed))
                }
                Ok(Planned::Work(work)) => {
                    Pending::Work { level: self.agreed.level, work, is_foreign: false }
                }
            };
            if under_way.is_empty() && input.is_empty() {
                // The only request: nothing to keep in order.
                let Finished { value, .. } = run(pending).await;
                Encoder::new(replies, self.agreed.encoding).answer(&value);
                break Flow::Read;
            }
            match &mut pending {
                Pending::Work { work, is_foreign, .. } => {
                    let expected = self.expect(work);
                    if load.holds_back(work, &expected) {
                        self.drain(&mut under_way, replies).await;
                        load = Load::default();
                    }
                    *is_foreign = expected.is_foreign;
                    load.note(work, &expected);
                }
                Pending::Ready(_) => load.count += 1,
            }
            under_way.push_back(run(pending));
            if load.is_full() {
                self.drain(&mut under_way, replies).await;
                load = Load::default();
            }
        };
        self.drain(&mut under_way, replies).await;
        flow
    }

    /// Waits for all that is under way, writes the replies (I1), and learns how large values are that came from elsewhere.
    async fn drain<F: Future<Output = Finished>>(
        &mut self,
        under_way: &mut FuturesOrdered<F>,
        replies: &mut BytesMut,
    ) {
        let mut largest = None;
        while let Some(Finished { value, is_foreign }) = under_way.next().await {
            if is_foreign {
                largest = largest.max(Some(largest_of(&value)));
            }
            Encoder::new(replies, self.agreed.encoding).answer(&value);
        }
        self.foreign.learn(largest);
    }
}

/// Bytes of the largest value in a reply.
fn largest_of(value: &Value) -> usize {
    match value {
        Value::Array(values) => values.iter().map(Value::byte_count).max().unwrap_or_default(),
        other => other.byte_count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(key: usize) -> Work {
        Work::Get(Bytes::from(key.to_string()))
    }

    /// I4
    #[test]
    fn large_replies_are_under_way_a_few_at_a_time_and_small_ones_all_together() {
        let count = |bytes| {
            let expected = Expected { bytes, is_foreign: false };
            let mut load = Load::default();
            (0..2 * PIPELINE_COUNT_MAX).find(|nth| {
                let is_held_back = load.holds_back(&get(*nth), &expected) || load.is_full();
                load.note(&get(*nth), &expected);
                is_held_back
            })
        };
        assert_eq!(count(16 << 20), Some(4));
        assert_eq!(count(REPLY_BYTES_MAX), Some(1), "one goes alone, however large");
        assert_eq!(count(REPLY_BYTES_MIN), Some(PIPELINE_COUNT_MAX));
        let mut foreign = ForeignValues { bytes: 16 << 20 };
        foreign.learn(None);
        assert_eq!(foreign.bytes, 16 << 20, "nothing came");
        foreign.learn(Some(10));
        assert_eq!(foreign.bytes, 8 << 20);
        foreign.learn(Some(9 << 20));
        assert_eq!(foreign.bytes, 9 << 20);
    }
}
