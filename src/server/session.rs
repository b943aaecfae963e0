//! One connection of a client, from its first byte to its last: the one session loop.
//!
//! Called by the listener; calls the turn with the dialect that the client speaks, and hands all
//! replies to the socket. Requests are read on while replies wait in the socket for a slow client.
//!
//! Invariants:
//! - I1: replies leave in the order of the requests.
//! - I2: a run is awaited before the next one begins, so a read sees the writes before it.
//! - I3: memory of a session is bounded: by the longest request, by the replies that may wait for
//!   its client (`socket`), and by the replies of one turn. A session that waits for its client
//!   keeps almost none. Handshakes of TLS, each of which may take 64 KiB, are bounded in number.
//! - I4: bytes from a client end at worst its own session. A client that sends more and more
//!   requests and takes no reply gets an error after its last reply, and its session ends.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::Server;
use super::access::RequestKind;
use super::clients::Entered;
use super::complaint::Complaint;
use super::detect::{self, Protocol};
use super::grpc;
use super::http::{self, Seat};
use super::original::OriginalDialect;
use super::requester::Requester;
use super::resp::RespDialect;
use super::socket::{Came, Socket, UNSENT_BYTES_MAX, Wanted, linger};
use super::turn::{self, Dialect, turn};
use crate::host::Stream;
use crate::messages::Ended;
use crate::tls::Mode;

/// How long a connection may take to say what it speaks.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);

/// How long requests are still answered once the node stops, all of them by a refusal.
pub(crate) const REFUSING_TIME: Duration = Duration::from_millis(200);

/// How long a client may stay without the token that it needs; over HTTP the next response ends it then.
pub(crate) const STRANGE_TIME_MAX: Duration = Duration::from_mins(1);

/// What a client of the original hears from a node with `-tokens`.
const NO_ROOM_FOR_A_TOKEN: &[u8] =
    b"ERR this node asks for a token, which this protocol cannot carry: use RESP or HTTP\n";

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

/// A session, and what its client speaks.
struct Begun {
    session: Session,
    protocol: Protocol,
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
        stream: Stream,
        peer: SocketAddr,
        stop: watch::Receiver<bool>,
    ) -> Session {
        let socket = Socket::new(stream, Arc::clone(&server.backlog), stop);
        Session { server, entered, socket, peer }
    }

    /// The session, where so much was read of the connection already.
    pub(crate) fn after(mut self, first: &[u8]) -> Session {
        self.socket.input().extend_from_slice(first);
        self
    }

    /// Serves the client until it leaves, breaks the protocol, or the node stops.
    pub(crate) async fn run(self) {
        let begun = timeout(FIRST_BYTES_TIMEOUT, Box::pin(self.begin())).await;
        let Ok(Some(Begun { session, protocol })) = begun else { return };
        let peer = session.peer;
        // An error here is a client that is gone: there is nobody to tell.
        match session.serve(protocol).await {
            Ok(()) => tracing::trace!(%peer, "session ended"),
            Err(error) => tracing::debug!(%peer, %error, "session broke off"),
        }
    }

    /// Finds out what the client speaks, and whether under TLS; `None` if it is not served.
    async fn begin(mut self) -> Option<Begun> {
        let protocol = self.detect().await?;
        let server = Arc::clone(&self.server);
        let Some(tls) = server.node.host().net.tls() else {
            return Some(Begun { session: self, protocol });
        };
        let mut place = None;
        if protocol == Protocol::Tls {
            place = Some(server.shaking.place(self.peer.ip()).await); // I3
            self.socket = self.socket.under(tls, self.peer);
        }
        let standing = match self.socket.open().await {
            Ok(standing) => standing.cloned(),
            Err(error) => {
                tracing::debug!(peer = %self.peer, %error, "no handshake");
                return None;
            }
        };
        drop(place);
        match standing {
            Some(standing) => self.entered.client().note_tls(standing.bearer().cloned()),
            None if tls.mode() == Mode::Prefer => return Some(Begun { session: self, protocol }),
            None => {
                tls.note_refused();
                self.socket.append(&detect::plain_refusal(protocol));
                drop(self.socket.finish().await); // it may have gone
                return None;
            }
        }
        let protocol = self.detect().await?;
        Some(Begun { session: self, protocol })
    }

    async fn serve(mut self, protocol: Protocol) -> io::Result<()> {
        let keys = Arc::clone(&self.server.keys);
        let client = Arc::clone(self.entered.client());
        let access = Arc::clone(&self.server.access);
        let is_guarded = access.is_guarded();
        let requester = Requester::new(client, self.server.node.read_level(), protocol, access);
        match protocol {
            Protocol::Resp => {
                let machine = self.server.node.config().machine;
                self.talk(Box::new(RespDialect::new(keys, machine, requester))).await
            }
            Protocol::Text | Protocol::Protobuf if is_guarded => {
                tracing::debug!(peer = %self.peer, "refused: its protocol carries no token");
                self.socket.append(NO_ROOM_FOR_A_TOKEN);
                self.socket.finish().await
            }
            Protocol::Text => {
                let dialect = OriginalDialect::text(self.peer.ip(), keys, requester);
                self.talk(Box::new(dialect)).await
            }
            Protocol::Protobuf => {
                let dialect = OriginalDialect::protobuf(self.peer.ip(), keys, requester);
                self.talk(Box::new(dialect)).await
            }
            Protocol::Http => {
                let (stream, came, stopping) = self.socket.into_parts();
                let seat = Seat::new(Arc::clone(&self.server), requester, stopping);
                let served = http::serve(seat, stream, came.freeze());
                linger(&mut Box::pin(served).await?).await
            }
            Protocol::Http2 => {
                let (stream, came, stopping) = self.socket.into_parts();
                let client = Arc::clone(self.entered.client());
                let caller = grpc::Caller::new(Arc::clone(&self.server), client, stopping);
                Box::pin(grpc::serve(caller, stream, came.freeze())).await
            }
            Protocol::Tls | Protocol::Garbage => {
                self.socket.append(detect::refusal(protocol));
                self.socket.finish().await
            }
        }
    }

    async fn talk<D: Dialect>(mut self, mut dialect: Box<D>) -> io::Result<()> {
        let mut strange_since = Some(Instant::now());
        loop {
            let came_bytes = self.socket.input().len();
            let flow = self.turn(dialect.as_mut()).await;
            let is_strange = dialect.requester().granted().is_none();
            strange_since = is_strange.then(|| strange_since.unwrap_or_else(Instant::now));
            self.socket.note_strange(strange_since.map(|since| since + STRANGE_TIME_MAX));
            let counters = self.server.clients.counters();
            counters.received(came_bytes - self.socket.input().len());
            counters.sent(self.socket.reply_bytes());
            self.socket.end_turn().await?;
            dialect.requester().replied();
            let wanted = match flow {
                Flow::Close => {
                    self.leave();
                    return self.socket.finish().await;
                }
                Flow::Again if self.socket.has_output_space() => {
                    if self.may_listen(dialect.as_mut()) {
                        self.tell(dialect.as_ref());
                    }
                    continue;
                }
                Flow::Again => Wanted::OutputSpace,
                Flow::Read => Wanted::Bytes,
            };
            match self.wait(dialect.as_mut(), wanted).await? {
                Came::Wanted | Came::Mail => {}
                Came::Strange => {
                    tracing::debug!(peer = %self.peer, "ended: it presents no token");
                    return self.socket.finish().await;
                }
                Came::Ended(Ended::Denied) => {
                    self.leave();
                    let mut words = BytesMut::new();
                    let complaint = dialect.requester().denied("subscribe");
                    dialect.complain(&complaint, &mut words);
                    self.socket.append(&words);
                    return self.socket.finish().await;
                }
                Came::Ended(why) => {
                    tracing::info!(peer = %self.peer, ?why, "ended: a subscriber misses messages");
                    return match why {
                        Ended::Slow => Ok(()), // it takes nothing anyhow
                        Ended::Gap | Ended::Denied => self.socket.finish().await,
                    };
                }
                Came::End => {
                    self.leave();
                    return self.socket.send_rest().await;
                }
                Came::Stop => {
                    self.leave();
                    // A client that sends nothing is told nothing.
                    if let Ok(ended) = timeout(REFUSING_TIME, self.refuse(dialect.as_mut())).await {
                        ended?;
                    }
                    return self.socket.send_rest().await;
                }
                Came::Stalled => {
                    self.leave();
                    let mut words = BytesMut::new();
                    dialect.complain(&stalled(self.socket.unsent_bytes()), &mut words);
                    self.socket.append(&words);
                    tracing::debug!(peer = %self.peer, "ended: it asks for more than it takes");
                    return self.socket.finish().await;
                }
            }
        }
    }

    /// Answers all that comes with the word that nothing was done, until the client goes elsewhere: what
    /// was under way when the node stops is not lost without an answer then.
    async fn refuse<D: Dialect>(&mut self, dialect: &mut D) -> io::Result<()> {
        dialect.requester().note_stopping();
        loop {
            let (input, replies, _) = self.socket.turn_parts();
            let flow = turn::refuse(dialect, &self.server, input, replies).await;
            self.socket.end_turn().await?;
            let wanted = match flow {
                Flow::Close => return Ok(()),
                Flow::Again if self.socket.has_output_space() => continue,
                Flow::Again => Wanted::OutputSpace,
                Flow::Read => Wanted::Bytes,
            };
            if self.socket.wait(wanted, None).await? != Came::Wanted {
                return Ok(());
            }
        }
    }

    /// Waits until there is what is wanted, and tells the client meanwhile what it listens to.
    async fn wait<D: Dialect>(&mut self, dialect: &mut D, wanted: Wanted) -> io::Result<Came> {
        loop {
            if !self.may_listen(dialect) {
                return Ok(Came::Ended(Ended::Denied));
            }
            self.tell(dialect);
            let subscriber = self.entered.client().subscriber();
            match self.socket.wait(wanted, subscriber).await? {
                Came::Mail => {}
                came => return Ok(came),
            }
        }
    }

    /// Whether the client may be told what it listens to, if it listens: its token may count no longer.
    fn may_listen<D: Dialect>(&self, dialect: &mut D) -> bool {
        if self.entered.client().name_count() == 0 {
            return true;
        }
        let requester = dialect.requester();
        requester.renew();
        requester.may(RequestKind::Read)
    }

    /// Tells the client what it listens to, as much as it has room for.
    fn tell<D: Dialect>(&mut self, dialect: &D) {
        let Some(subscriber) = self.entered.client().subscriber() else { return };
        let bytes_before = self.socket.unsent_bytes();
        self.socket.tell(|out| {
            let delivery = subscriber.take();
            if let Some(delivery) = &delivery {
                dialect.tell(delivery, out);
            }
            delivery.is_some()
        });
        let bytes = self.socket.unsent_bytes() - bytes_before;
        self.server.clients.counters().sent(bytes);
    }

    /// The client listens to nothing any more: its connection lasts on until it has taken the rest.
    fn leave(&self) {
        if let Some(subscriber) = self.entered.client().subscriber() {
            subscriber.leave_all();
        }
    }

    /// One turn over what has come. What waits from before is sent meanwhile; an error in that is
    /// met again after the turn, which is not cut off.
    async fn turn<D: Dialect>(&mut self, dialect: &mut D) -> Flow {
        let (input, replies, mut outgoing) = self.socket.turn_parts();
        let mut turn = pin!(turn(dialect, &self.server, input, replies));
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
            if !matches!(self.socket.wait(Wanted::Bytes, None).await, Ok(Came::Wanted)) {
                return None;
            }
        }
    }
}

/// Tells a client why it is not served, and ends its connection.
pub(super) async fn refuse(mut stream: Stream, line: &[u8]) -> io::Result<()> {
    stream.write_all(line).await?;
    linger(&mut stream).await
}

/// What a client hears that asks for more while so many bytes wait for it.
pub(super) fn stalled(unsent_bytes: usize) -> Complaint {
    Complaint::too_large(format!(
        "{unsent_bytes} bytes of replies wait for this client, which takes none; there is room for \
         {UNSENT_BYTES_MAX}: what it asks from here on is not executed"
    ))
}
