//! A connection of RESP: requests that came together run together, and their replies leave in order.
//!
//! Called by the session; calls `commands`. Invariants:
//!
//! - I1: replies leave in the order of the requests.
//! - I2: requests of one key on one connection do not overtake each other where one of them writes.
//! - I3: once [`PIPELINE_COUNT_MAX`] operations of a connection are under way, all of them are waited for. A
//!   single command of more keys than that has a bound of its own (`outcomes`).

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
use super::outcomes::carry_out;
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
/// Bytes of a request beside its key and its value.
const REQUEST_SPARE_BYTES: usize = 4 << 10;

/// One connection.
pub(super) struct RespSession {
    server: Arc<RegisterServer>,
    from: SocketAddr,
    agreed: Agreed,
    decoder: Decoder,
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
    Work(Level, Work),
}

impl RespSession {
    /// A connection that has asked nothing yet.
    pub(super) fn new(server: Arc<RegisterServer>, from: SocketAddr) -> RespSession {
        let client_id = server.next_client_id();
        let (level, encoding) = (server.level, Encoding::default());
        let agreed = Agreed { level, encoding, client_id, name: Bytes::new() };
        let bytes_max = server.registrar.value_bytes_max() + KEY_BYTES_MAX + REQUEST_SPARE_BYTES;
        let bytes_max = bytes_max.max(REQUEST_BYTES_MAX); // many keys, where values are small
        RespSession { server, from, agreed, decoder: Decoder::taking(bytes_max) }
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
        let server = Arc::clone(&self.server);
        let mut under_way = FuturesOrdered::new();
        let (mut keys, mut under_way_count) = (KeysUnderWay::default(), 0);
        let run = async |pending| match pending {
            Pending::Ready(value) => value,
            Pending::Work(level, work) => carry_out(&server, level, work).await,
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
            let pending = match planned {
                Ok(Planned::Answer(value)) => Pending::Ready(value),
                Err(complaint) => Pending::Ready(Value::Complaint(complaint)),
                Ok(Planned::Close(value)) => {
                    under_way.push_back(run(Pending::Ready(value)));
                    break Flow::Close;
                }
                Ok(Planned::Agree(encoding)) => {
                    drain(&mut under_way, replies, self.agreed.encoding).await;
                    self.agreed.encoding = encoding;
                    Pending::Ready(greeting(&server, &self.agreed))
                }
                Ok(Planned::Work(work)) => Pending::Work(self.agreed.level, work),
            };
            if under_way.is_empty() && input.is_empty() {
                // The only request: nothing to keep in order.
                let value = run(pending).await;
                Encoder::new(replies, self.agreed.encoding).answer(&value);
                break Flow::Read;
            }
            let mut weight = 1;
            if let Pending::Work(_, work) = &pending {
                weight = work.keys().len().max(1);
                if keys.hold_back(work) {
                    drain(&mut under_way, replies, self.agreed.encoding).await;
                    (keys, under_way_count) = (KeysUnderWay::default(), 0);
                }
                keys.note(work);
            }
            under_way.push_back(run(pending));
            under_way_count += weight;
            if under_way_count >= PIPELINE_COUNT_MAX {
                drain(&mut under_way, replies, self.agreed.encoding).await; // I3
                (keys, under_way_count) = (KeysUnderWay::default(), 0);
            }
        };
        drain(&mut under_way, replies, self.agreed.encoding).await;
        flow
    }
}

/// Waits for all that is under way, and writes the replies (I1).
async fn drain<F: Future<Output = Value>>(
    under_way: &mut FuturesOrdered<F>,
    replies: &mut BytesMut,
    encoding: Encoding,
) {
    while let Some(value) = under_way.next().await {
        Encoder::new(replies, encoding).answer(&value);
    }
}
