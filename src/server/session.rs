//! One connection of a client, from its first byte to its last: the one session loop.
//!
//! Called by the listener; calls the protocols (pure) and the node. A turn is: read what is there,
//! decode all whole requests, execute them in runs, write all replies with one write.
//!
//! Invariants:
//! - I1: replies leave in the order of the requests; nothing is read while replies are unsent.
//! - I2: a run is awaited before the next one begins, so a read sees the writes before it.
//! - I3: memory of a session is bounded: by the longest request, and by the replies of one turn. One
//!   that waits for its client keeps next to none.
//! - I4: whatever a client sends ends its own session at the worst.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Server;
use super::clients::Entered;
use super::detect::{self, Protocol};
use super::original_turn::OriginalDialect;
use super::resp_turn::RespDialect;

/// Bytes that one read takes at most.
const READ_BYTES_MAX: usize = 64 << 10;
/// Bytes of a read buffer that is kept for the next turn.
const READ_BYTES_KEPT: usize = 4 << 10;
/// Bytes of a write buffer that is kept for the next turn.
const WRITE_BYTES_KEPT: usize = 64 << 10;
/// How long a connection may take to say what it speaks.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a refused client may go on sending, so that it can read why.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// How much it may send meanwhile.
const LINGER_BYTES_MAX: u64 = 1 << 20;

thread_local! {
    /// Where the sockets of all sessions of a thread are read, one after the other: a session takes
    /// memory for what came, and none while it waits.
    static RECEIVED: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES_MAX].into());
}

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
    stream: TcpStream,
    peer: SocketAddr,
    /// Ends when the node stops; not polled after that.
    stopping: BoxFuture<'static, ()>,
    input: BytesMut,
    /// Most bytes that `input` held since it was made.
    input_bytes: usize,
    out: BytesMut,
}

impl Session {
    /// A session on a connection that was just accepted.
    pub(crate) fn new(
        server: Arc<Server>,
        entered: Entered,
        (stream, peer): (TcpStream, SocketAddr),
        mut stop: watch::Receiver<bool>,
    ) -> Session {
        // The sender is gone when the server is.
        let stopping = async move { drop(stop.wait_for(|stopping| *stopping).await) }.boxed();
        let (input, out) = (BytesMut::new(), BytesMut::new());
        Session { server, entered, stream, peer, stopping, input, input_bytes: 0, out }
    }

    /// Serves the client until it leaves, breaks the protocol, or the node stops.
    pub(crate) async fn run(mut self) {
        let Ok(Some(protocol)) = timeout(FIRST_BYTES_TIMEOUT, self.detect()).await else {
            return;
        };
        // An error here is a client that is gone: there is nobody to tell.
        match self.serve(protocol).await {
            Ok(()) => tracing::trace!(peer = %self.peer, "session ended"),
            Err(error) => tracing::debug!(peer = %self.peer, %error, "session broke off"),
        }
    }

    async fn serve(&mut self, protocol: Protocol) -> io::Result<()> {
        let mut dialect = match protocol {
            Protocol::Resp => {
                let client = Arc::clone(self.entered.client());
                Dialect::Resp(Box::new(RespDialect::new(&self.server, client)))
            }
            Protocol::Text => Dialect::Original(OriginalDialect::text(self.peer.ip())),
            Protocol::Protobuf => Dialect::Original(OriginalDialect::protobuf(self.peer.ip())),
            Protocol::Http | Protocol::Http2 | Protocol::Tls | Protocol::Garbage => {
                self.stream.write_all(detect::refusal(protocol)).await?;
                return linger(&mut self.stream).await;
            }
        };
        loop {
            let flow = dialect.turn(&self.server, &mut self.input, &mut self.out).await;
            self.write().await?;
            match flow {
                Flow::Again => {}
                Flow::Close => return linger(&mut self.stream).await,
                Flow::Read => {
                    if !self.read().await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Reads until the first bytes tell the protocol; `None` if the connection ends before.
    async fn detect(&mut self) -> Option<Protocol> {
        loop {
            let blank = self.input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            drop(self.input.split_to(blank));
            if let Some(protocol) = detect::detect(&self.input) {
                return Some(protocol);
            }
            if !matches!(self.read().await, Ok(true)) {
                return None;
            }
        }
    }

    /// Reads what is there, after waiting for it; false if the client has left or the node stops.
    async fn read(&mut self) -> io::Result<bool> {
        poll_fn(|context| self.poll_read(context)).await
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.stopping.poll_unpin(context).is_ready() {
            return Poll::Ready(Ok(false));
        }
        let received = RECEIVED.with_borrow_mut(|received| {
            let mut received = ReadBuf::new(received);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut received))?;
            self.input.extend_from_slice(received.filled());
            Poll::Ready(Ok(!received.filled().is_empty()))
        });
        self.input_bytes = self.input_bytes.max(self.input.len());
        if received.is_pending() && self.input.is_empty() && self.input_bytes > READ_BYTES_KEPT {
            self.input = BytesMut::new(); // I3
            self.input_bytes = 0;
        }
        received
    }

    /// Sends all replies (I1).
    async fn write(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.stream.write_all(&self.out).await?;
        self.out.clear();
        if self.out.capacity() > WRITE_BYTES_KEPT {
            self.out = BytesMut::new();
        }
        Ok(())
    }
}

/// Ends a connection so that the client reads the last reply: were bytes of it unread when the socket
/// is closed, the system would take the reply back.
async fn linger(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = stream.take(LINGER_BYTES_MAX);
    let mut sink = tokio::io::sink();
    match timeout(LINGER_TIMEOUT, tokio::io::copy(&mut rest, &mut sink)).await {
        Ok(drained) => drained.map(drop),
        Err(_) => Ok(()),
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
}
