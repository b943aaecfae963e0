//! The client port: every protocol that clients speak, on one listener.
//!
//! Called by the node's program; calls the node. `session` has the one session loop and `detect`
//! recognises the protocol. An *errand* is one request with the work that it asks of the node. The
//! dialects, `resp` and `original`, turn bytes into errands and their results into bytes, and touch
//! no socket. `access` says who may do what. `turn` has the errands carried out on behalf of the connection's `requester`; `ask`
//! answers questions about the node, each by a `value`; a `complaint` says why a request is not
//! carried out.
//!
//! Invariants:
//! - I1: sessions, and connections that are being turned away, never take more descriptors than
//!   their shares (`descriptors`). Beyond these, only questions about the node itself are served.
//! - I2: a session that fails ends alone.

mod access;
mod ask;
#[doc(hidden)]
pub mod bench;
mod clients;
mod complaint;
mod counters;
mod detect;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod grpc;
mod hash_slot;
mod http;
mod keys;
mod late;
mod leaderless;
mod original;
mod process;
mod receipt;
mod requester;
mod resp;
mod session;
mod shaking;
mod socket;
mod turn;
mod value;
mod wire;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, unconstrained};
use tokio::time::{sleep, timeout};

use crate::descriptors::{Place, Places, Shares};
use crate::host::{Listener, Stream};
use crate::node::Node;
use crate::tls::Tls;
pub use access::Access;
use clients::Clients;
use keys::Keys;
use late::{ADMINISTRATION_TIME_MAX, FULL, Heard, STARTING, asks_about_the_node, first_word};
pub use leaderless::{Coordinator, Port, RegisterServer, Registrar};
use original::Datagrams;
use session::{Session, refuse};
use shaking::Handshakes;
use socket::{Backlog, ROOM_TIME_MAX};

/// How long to wait after a connection could not be accepted: there may be no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Clients of a node that starts wait for so long. One that joins may take minutes.
pub const START_PATIENCE: Duration = Duration::from_secs(5);
/// Most clients that are being told so at once.
const TOLD_COUNT_MAX: usize = 256;
/// How long the sessions may take to answer what they have taken once the node stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What all sessions share.
#[derive(Debug)]
pub struct Server {
    node: Arc<Node>,
    access: Arc<Access>,
    keys: Arc<Keys>,
    clients: Arc<Clients>,
    late: Places,
    backlog: Arc<Backlog>,
    /// Bytes that bodies of HTTP and messages of gRPC may still take.
    bodies: Arc<Semaphore>,
    /// Places for handshakes of TLS.
    shaking: Handshakes,
    /// Streams of gRPC that may still be begun, and those of its health.
    streams: Arc<Semaphore>,
    watching: Arc<Semaphore>,
    datagrams: Datagrams,
}

impl Server {
    /// A server for `node`, whose clients may do what `access` says. Each of `key_prefixes` is dropped from the keys that begin with it.
    pub fn new(node: Arc<Node>, key_prefixes: &[String], access: Arc<Access>) -> Arc<Server> {
        let limits = node.limits();
        let keys = Keys::new(limits.slot_count, limits.value_bytes_max, key_prefixes)
            .following(node.slot_limit());
        Arc::new(Server {
            node,
            access,
            keys: Arc::new(keys),
            clients: Arc::default(),
            late: Places::default(),
            backlog: Arc::new(Backlog::new(ROOM_TIME_MAX)),
            bodies: Arc::new(Semaphore::new(http::BODY_BYTES_MAX_ALL)),
            shaking: Handshakes::new(),
            streams: Arc::new(Semaphore::new(grpc::STREAM_COUNT_MAX_ALL)),
            watching: Arc::new(Semaphore::new(grpc::WATCH_COUNT_MAX_ALL)),
            datagrams: Datagrams::default(),
        })
    }

    /// Serves clients until `stop` becomes true; then sessions answer what they have taken and end.
    ///
    /// Returns when no session is left, after a few seconds at the latest.
    pub async fn run(self: Arc<Self>, listener: Listener, stop: watch::Receiver<bool>) {
        let sessions_stop = stop.clone();
        let begin = |stream, peer, sessions: &mut JoinSet<()>| {
            self.begin(stream, peer, sessions, &sessions_stop);
        };
        accept(listener, stop, begin).await;
    }

    fn begin(
        self: &Arc<Self>,
        mut stream: Stream,
        peer: SocketAddr,
        sessions: &mut JoinSet<()>,
        stop: &watch::Receiver<bool>,
    ) {
        let shares = Shares::now();
        if self.clients.count() >= shares.clients {
            match self.late.take(shares.late) {
                Some(place) => {
                    let served = Arc::clone(self).serve_late(stream, peer, stop.clone(), place);
                    sessions.spawn(served);
                }
                // The socket is new, so its buffer takes this line; if not, it is closed all the same.
                // Unconstrained: it is no matter of how much this task has done already.
                None => drop(unconstrained(stream.write(FULL.line)).now_or_never()),
            }
            return;
        }
        sessions.spawn(self.session(stream, peer, stop).run());
    }

    /// Serves who comes beyond the clients' share (I1).
    async fn serve_late(
        self: Arc<Self>,
        stream: Stream,
        peer: SocketAddr,
        stop: watch::Receiver<bool>,
        _place: Place,
    ) {
        let tls = self.node.host().net.tls();
        let Some(Heard { stream, first }) = first_word(stream, tls, peer).await else { return };
        if asks_about_the_node(&first) {
            let session = self.session(stream, peer, &stop).after(&first);
            drop(timeout(ADMINISTRATION_TIME_MAX, session.run()).await);
        } else if let Err(error) = refuse(stream, &FULL.told(&first)).await {
            tracing::debug!(%peer, %error, "refused: too many connections");
        }
    }

    fn session(
        self: &Arc<Self>,
        stream: Stream,
        peer: SocketAddr,
        stop: &watch::Receiver<bool>,
    ) -> Session {
        if let Err(error) = stream.set_nodelay() {
            tracing::debug!(%peer, %error, "replies may be delayed by the system");
        }
        let entered = self.clients.enter(peer, stream.local_address());
        Session::new(Arc::clone(self), entered, stream, peer, stop.clone())
    }
}

/// Answers whoever comes while the node starts, once that takes longer than `patience`. When it is dropped, those who
/// have not heard their answer yet are cut off.
pub async fn tell_starting(
    listener: &Listener,
    tls: Option<&Arc<Tls>>,
    patience: Duration,
) -> Infallible {
    sleep(patience).await;
    let mut told = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if told.len() < Shares::now().clients.min(TOLD_COUNT_MAX) => match accepted {
                Ok((stream, peer)) => {
                    let tls = tls.cloned();
                    told.spawn(async move { tell(stream, tls.as_ref(), peer).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            // It may have gone without hearing it.
            Some(_) = told.join_next() => {}
        }
    }
}

/// Tells a client, in its protocol, that it is not served yet.
async fn tell(stream: Stream, tls: Option<&Arc<Tls>>, peer: SocketAddr) -> io::Result<()> {
    match first_word(stream, tls, peer).await {
        Some(Heard { stream, first }) => refuse(stream, &STARTING.told(&first)).await,
        None => Ok(()),
    }
}

/// Has `begin` spawn a session for each connection until `stop` becomes true; then waits for the sessions that
/// are left, and cuts them off after a few seconds.
async fn accept(
    listener: Listener,
    mut stop: watch::Receiver<bool>,
    begin: impl Fn(Stream, SocketAddr, &mut JoinSet<()>),
) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => begin(stream, from, &mut sessions),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = sessions.join_next() => note_end(ended),
            () = stopped(&mut stop) => break,
        }
    }
    drop(listener);
    let ended = timeout(STOP_TIMEOUT, async {
        while let Some(ended) = sessions.join_next().await {
            note_end(ended);
        }
    });
    if ended.await.is_err() {
        tracing::warn!(sessions = sessions.len(), "sessions were cut off at the stop");
        sessions.shutdown().await;
    }
}

/// A session that panicked is a bug of ours, and no reason to end the others.
fn note_end(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a session ended abnormally");
    }
}

/// Returns once the server is to stop; also if nobody can say so any more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stopping| *stopping).await.is_err() {
        tracing::debug!("whoever could stop the server is gone");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn clients_of_a_node_that_starts_are_told_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, listener) = (listener.local_addr().unwrap(), Listener::from(listener));
        let ask = async {
            for _ in 0..2 * TOLD_COUNT_MAX {
                let mut client = TcpStream::connect(address).await.unwrap();
                client.write_all(b"PING\r\n").await.unwrap();
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).await.unwrap();
                assert_eq!(answer, STARTING.line);
            }
        };
        tokio::select! {
            never = tell_starting(&listener, None, Duration::ZERO) => match never {},
            () = ask => {}
        }
    }
}
