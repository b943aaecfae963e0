//! One connection of a client, from its first byte to its last: the one session loop.
//!
//! Called by the listener; calls the protocols (pure) and the node. A turn is: decode the whole
//! requests that have come, execute them in runs, hand all replies to the socket. Reading goes on
//! while replies wait there for a client that does not take them yet.
//!
//! Invariants:
//! - I1: replies leave in the order of the requests.
//! - I2: a run is awaited before the next one begins, so a read sees the writes before it.
//! - I3: memory of a session is bounded: by the longest request, by what may wait for its client
//!   (`socket`), and by the replies of one turn. One that waits for its client keeps next to none.
//! - I4: whatever a client sends ends its own session at the worst. One that asks for ever more and
//!   takes nothing is told so behind its last reply, and its session ends.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Server;
use super::clients::Entered;
use super::detect::{self, Protocol};
use super::original_turn::OriginalDialect;
use super::resp_turn::RespDialect;
use super::socket::{Came, Socket, UNSENT_BYTES_MAX, Wanted, linger};

/// How long a connection may take to say what it speaks.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);

/// What follows a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// More bytes are needed.
    Read,
    /// There may be whole requests left.
    Again,
    /// The connection is to be closed.
    Close,
}

/// How a client's bytes are understood.
enum Dialect {
    Resp(Box<RespDialect>),
    Original(OriginalDialect),
}

/// One open connection.
pub(crate) struct Session {
    server: Arc<Server>,
    entered: Entered,
    socket: Socket,
    peer: SocketAddr,
}

impl Session {
    /// A session on a connection that was just accepted.
    pub(crate) fn new(
        server: Arc<Server>,
        entered: Entered,
        (stream, peer): (TcpStream, SocketAddr),
        stop: watch::Receiver<bool>,
    ) -> Session {
        let socket = Socket::new(stream, Arc::clone(&server.backlog), stop);
        Session { server, entered, socket, peer }
    }

    /// Serves the client until it leaves, breaks the protocol, or the node stops.
    pub(crate) async fn run(mut self) {
        let Ok(Some(protocol)) = timeout(FIRST_BYTES_TIMEOUT, self.detect()).await else {
            return;
        };
        let peer = self.peer;
        // An error here is a client that is gone: there is nobody to tell.
        match self.serve(protocol).await {
            Ok(()) => tracing::trace!(%peer, "session ended"),
            Err(error) => tracing::debug!(%peer, %error, "session broke off"),
        }
    }

    async fn serve(mut self, protocol: Protocol) -> io::Result<()> {
        let level = self.server.node.read_level();
        let mut dialect = match protocol {
            Protocol::Resp => {
                let client = Arc::clone(self.entered.client());
                Dialect::Resp(Box::new(RespDialect::new(&self.server, client)))
            }
            Protocol::Text => Dialect::Original(OriginalDialect::text(self.peer.ip(), level)),
            Protocol::Protobuf => {
                Dialect::Original(OriginalDialect::protobuf(self.peer.ip(), level))
            }
            Protocol::Http | Protocol::Http2 | Protocol::Tls | Protocol::Garbage => {
                self.socket.append(detect::refusal(protocol));
                return self.socket.finish().await;
            }
        };
        loop {
            let came_bytes = self.socket.input().len();
            let flow = self.turn(&mut dialect).await;
            let counters = self.server.clients.counters();
            counters.received(came_bytes - self.socket.input().len());
            counters.sent(self.socket.reply_bytes());
            self.socket.end_turn().await?;
            let wanted = match flow {
                Flow::Close => return self.socket.finish().await,
                Flow::Again if self.socket.has_room() => continue,
                Flow::Again => Wanted::Room,
                Flow::Read => Wanted::Bytes,
            };
            match self.socket.wait(wanted).await? {
                Came::Wanted => {}
                Came::End => return self.socket.send_rest().await,
                Came::Stalled => {
                    let words = dialect.stalled(self.socket.unsent_bytes());
                    self.socket.append(words.as_bytes());
                    tracing::debug!(peer = %self.peer, "ended: it asks for more than it takes");
                    return self.socket.finish().await;
                }
            }
        }
    }

    /// One turn over what has come. What waits from before is sent meanwhile; an error in that is
    /// met again after the turn, which is not cut off.
    async fn turn(&mut self, dialect: &mut Dialect) -> Flow {
        let (input, replies, mut outgoing) = self.socket.turn_parts();
        let mut turn = pin!(dialect.turn(&self.server, input, replies));
        let mut is_sending = true;
        poll_fn(|context| {
            let flow = turn.as_mut().poll(context);
            if flow.is_pending() && is_sending {
                let sent = outgoing.poll_send(context);
                is_sending = matches!(sent, Poll::Pending);
            }
            flow
        })
        .await
    }

    /// Reads until the first bytes tell the protocol; `None` if the connection ends before.
    async fn detect(&mut self) -> Option<Protocol> {
        loop {
            let input = self.socket.input();
            let blank = input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            drop(input.split_to(blank));
            if let Some(protocol) = detect::detect(input) {
                return Some(protocol);
            }
            if !matches!(self.socket.wait(Wanted::Bytes).await, Ok(Came::Wanted)) {
                return None;
            }
        }
    }
}

/// Tells a client why it is not served, and ends its connection.
pub(super) async fn refuse(mut stream: TcpStream, line: &[u8]) -> io::Result<()> {
    stream.write_all(line).await?;
    linger(&mut stream).await
}

impl Dialect {
    /// Takes requests off `input`, executes them and appends the replies to `out`.
    async fn turn(&mut self, server: &Server, input: &mut BytesMut, out: &mut BytesMut) -> Flow {
        match self {
            Dialect::Resp(dialect) => dialect.turn(server, input, out).await,
            Dialect::Original(dialect) => dialect.turn(server, input, out).await,
        }
    }

    /// What a client hears that asks for more while so many bytes wait for it.
    fn stalled(&self, unsent_bytes: usize) -> String {
        let reason = format!(
            "ERR {unsent_bytes} bytes of replies wait for this client, which takes none; there is \
             room for {UNSENT_BYTES_MAX}: what it asks from here on is not executed"
        );
        match self {
            Dialect::Resp(_) => format!("-{reason}\r\n"),
            Dialect::Original(_) => format!("{reason}\n"),
        }
    }
}
