//! The one port of a leaderless node: its peers, and clients that speak RESP, gRPC or HTTP, are told apart
//! by their first bytes.
//!
//! Called by the program; calls the node. Sockets, codecs and bounds are those of the other programs
//! (`socket`, `resp`, `wire`, `http`, `grpc`); the commands, services and paths are of this folder. A
//! `Registrar` carries out reads and writes: a node, or a coordinator that holds no keys and asks those
//! that do.
//!
//! Invariants:
//! - I1: clients never take more descriptors than their share, and peers have a share of their own.
//! - I2: a session that fails ends alone.
//! - I3: an operation whose outcome is unknown is never answered with an error that clients take for a no.

mod commands;
mod console;
mod coordinator;
mod grpc;
mod http;
mod link;
mod metrics;
mod outcomes;
mod registrar;
mod resp;
mod table;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::counters::Counters;
use super::detect::{self, Protocol};
use super::http::BODY_BYTES_MAX_ALL;
use super::socket::{Backlog, Came, ROOM_TIME_MAX, Socket, Wanted, linger};
use super::{accept, refuse};
use crate::descriptors::{Place, Places, Shares};
use crate::host::{Listener, Stream};
use crate::leaderless::node::PEER_PREFACE;
use crate::leaderless::operation::Level;
pub use coordinator::Coordinator;
use http::HttpDoor;
use metrics::CallCounts;
pub use registrar::Registrar;

/// How long a connection may take to say what it speaks.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at whether clients are left, at a stop.
const CLIENTS_PAUSE: Duration = Duration::from_millis(10);

/// What a client hears that comes when there are too many.
const TOO_MANY: &[u8] = b"-ERR max number of clients reached\r\n";
/// What a client hears that speaks something else.
const UNKNOWN_PROTOCOL: &[u8] = b"-ERR Protocol error: unknown protocol; this is a port of a \
    leaderless node, which serves RESP, HTTP and gRPC\r\n";

/// What a client hears at the port for metrics.
const METRICS_ALONE: &[u8] = b"-ERR this port has metrics alone, over HTTP\r\n";

/// What is served at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// Everything.
    Node,
    /// Paths of HTTP that look at the node.
    Metrics,
}

/// A connection that was just accepted.
#[derive(Debug)]
struct Arrived {
    stream: Stream,
    from: SocketAddr,
    at: Port,
}

/// What begins a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    Peer,
    Resp,
    Http,
    Http2,
    Unknown,
}

/// What all sessions share.
#[derive(Debug)]
pub struct RegisterServer {
    registrar: Registrar,
    /// Of operations that ask for none.
    level: Level,
    backlog: Arc<Backlog>,
    /// Bytes that bodies of HTTP and messages of gRPC may still take.
    bodies: Arc<Semaphore>,
    counters: Arc<Counters>,
    calls: CallCounts,
    connections: Places,
    clients: Places,
    last_client_id: AtomicU64,
    begun: Instant,
}

/// Ends when the node stops; many may wait for it.
type Stopping = Shared<BoxFuture<'static, ()>>;

impl RegisterServer {
    /// A server for whoever carries out operations; at this level where none is asked for.
    pub fn new(registrar: Registrar, level: Level) -> Arc<RegisterServer> {
        Arc::new(RegisterServer {
            registrar,
            level,
            backlog: Arc::new(Backlog::new(ROOM_TIME_MAX)),
            bodies: Arc::new(Semaphore::new(BODY_BYTES_MAX_ALL)),
            counters: Arc::default(),
            calls: CallCounts::default(),
            connections: Places::default(),
            clients: Places::default(),
            last_client_id: AtomicU64::new(0),
            begun: Instant::now(),
        })
    }

    /// Serves until `stop` becomes true; then sessions answer what they have taken and end.
    ///
    /// Returns when no session is left, after a few seconds at the latest.
    pub async fn run(self: Arc<Self>, listener: Listener, at: Port, stop: watch::Receiver<bool>) {
        let sessions_stop = stop.clone();
        let begin = |stream, from, sessions: &mut JoinSet<()>| {
            self.begin(Arrived { stream, from, at }, sessions, &sessions_stop);
        };
        accept(listener, stop, begin).await;
    }

    fn begin(
        self: &Arc<Self>,
        arrived: Arrived,
        sessions: &mut JoinSet<()>,
        stop: &watch::Receiver<bool>,
    ) {
        let (shares, from) = (Shares::now(), arrived.from);
        let Some(place) = self.connections.take(shares.clients + shares.members) else {
            tracing::debug!(%from, "refused: too many connections");
            return; // I1
        };
        if let Err(error) = arrived.stream.set_nodelay() {
            tracing::debug!(%from, %error, "replies may be delayed by the system");
        }
        let server = Arc::clone(self);
        let stop = stop.clone();
        sessions.spawn(async move {
            let _place = place;
            match server.session(arrived, stop).await {
                Ok(()) => tracing::trace!(%from, "session ended"),
                // A client that is gone: there is nobody to tell.
                Err(error) => tracing::debug!(%from, %error, "session broke off"),
            }
        });
    }

    async fn session(
        self: Arc<Self>,
        arrived: Arrived,
        stop: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let Arrived { stream, from, at } = arrived;
        let local = stream.local_address().map(|address| address.ip());
        let mut socket = Socket::new(stream, Arc::clone(&self.backlog), stop);
        let found = timeout(FIRST_BYTES_TIMEOUT, spoken(&mut socket)).await;
        let Ok(Some(spoken)) = found else { return Ok(()) };
        if spoken == Spoken::Peer && at == Port::Node {
            return self.serve_peer(socket).await;
        }
        let Some(_client) = self.client_place() else {
            let (stream, ..) = socket.into_parts();
            return refuse(stream, TOO_MANY).await;
        };
        if at == Port::Metrics && spoken != Spoken::Http {
            let (stream, ..) = socket.into_parts();
            return refuse(stream, METRICS_ALONE).await;
        }
        match spoken {
            Spoken::Resp => resp::RespSession::new(self, from).talk(socket).await,
            Spoken::Http => {
                let (stream, came, stopping) = socket.into_parts();
                let local = local.unwrap_or(IpAddr::from(Ipv4Addr::UNSPECIFIED));
                let door = HttpDoor { server: self, local, at };
                let served = http::serve(door, stopping.shared(), stream, came.freeze());
                linger(&mut Box::pin(served).await?).await
            }
            Spoken::Http2 => {
                let (stream, came, stopping) = socket.into_parts();
                Box::pin(grpc::serve(self, stopping.shared(), stream, came.freeze())).await
            }
            Spoken::Peer | Spoken::Unknown => {
                let (stream, ..) = socket.into_parts();
                refuse(stream, UNKNOWN_PROTOCOL).await
            }
        }
    }

    fn client_place(&self) -> Option<Place> {
        self.clients.take(Shares::now().clients)
    }

    async fn serve_peer(&self, socket: Socket) -> io::Result<()> {
        let (stream, came, stopping) = socket.into_parts();
        match &self.registrar {
            Registrar::Node(node) => {
                tokio::select! {
                    () = Arc::clone(node).serve_peer(stream, came) => {}
                    () = async {
                        stopping.await;
                        self.clients_gone().await;
                    } => {}
                }
            }
            Registrar::Coordinator(_) => {
                tracing::warn!("a node dialled a coordinator, which holds no keys");
            }
        }
        Ok(())
    }

    /// What clients wait for comes from peers: those are heard until no client is left.
    async fn clients_gone(&self) {
        while self.clients.take(1).is_none() {
            sleep(CLIENTS_PAUSE).await;
        }
    }

    /// Whether operations are taken at the level of those that ask for none.
    fn is_ready(&self) -> bool {
        self.registrar.is_ready(self.level)
    }

    fn next_client_id(&self) -> u64 {
        self.last_client_id.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Reads until the first bytes tell what is spoken; `None` if the connection ends before.
async fn spoken(socket: &mut Socket) -> Option<Spoken> {
    loop {
        let input = socket.input();
        let blank = input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        drop(input.split_to(blank));
        if let Some(spoken) = spoken_by(input) {
            return Some(spoken);
        }
        if !matches!(socket.wait(Wanted::Bytes, None).await, Ok(Came::Wanted)) {
            return None;
        }
    }
}

/// What the first bytes say; `None` if more of them are needed.
fn spoken_by(first: &[u8]) -> Option<Spoken> {
    if first.first() == PEER_PREFACE.first() {
        if first.len() < PEER_PREFACE.len() {
            return PEER_PREFACE
                .starts_with(first)
                .then_some(())
                .map_or(Some(Spoken::Unknown), |()| None);
        }
        return Some(if first.starts_with(&PEER_PREFACE) { Spoken::Peer } else { Spoken::Unknown });
    }
    Some(match detect::detect(first)? {
        Protocol::Resp => Spoken::Resp,
        Protocol::Http => Spoken::Http,
        Protocol::Http2 => Spoken::Http2,
        Protocol::Text | Protocol::Protobuf | Protocol::Tls | Protocol::Garbage => Spoken::Unknown,
    })
}

#[cfg(test)]
mod tests;
