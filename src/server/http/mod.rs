//! HTTP/1.1 on the client port: hyper reads requests and writes responses, axum's router finds the
//! handler, and each handler asks the node by the connection's requester, as the dialects do.
//!
//! Called by the session, which hands the connection over; calls the requester and the node. `entry`
//! refuses dangerous requests before any handler sees them. `slots` and `batch` are our own API of one
//! key and of many, `konsen` and `web_store` those of two older stores, for their clients; `operations`
//! serves the people and programs that run the node. `asked` reads what stands behind the question
//! mark, `json` what is JSON; a `Problem` says why a request is not carried out.
//!
//! Invariants:
//! - I1: a refused request has changed nothing.
//! - I2: the length of a body is known, and bounded, before a byte of it is kept; and the body has
//!   to arrive within a bounded time.
//! - I3: the response to a write tells the outcome of its log entry, which decides the condition
//!   too.

mod asked;
mod batch;
mod entry;
mod json;
mod konsen;
mod listing;
mod operations;
mod problem;
mod rewound;
mod slots;
mod web_store;

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderName, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::Server;
use super::requester::Requester;
use super::resp::lookup;
use crate::command::{
    Action, Answer, Body as Answered, Command, CommandBuilder, Condition, Failure, Operation,
    Outcome, ReadLevel, Reply,
};
use asked::Pair;
use problem::Problem;
use rewound::Rewound;

/// Most bytes of a request line and its headers.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Most headers of a request.
const HEADER_COUNT_MAX: usize = 64;
/// How long a request line and its headers may take, from the response before it on.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a body may take.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);

/// The log index of the entry that a write became.
const INDEX: HeaderName = HeaderName::from_static("diskstore-index");
/// The election term, as this node knew it when it answered.
const TERM: HeaderName = HeaderName::from_static("diskstore-term");
/// How many members other than the leader hold the entry durably, as far as is known.
const HOLDERS: HeaderName = HeaderName::from_static("diskstore-holders");

static ROUTER: LazyLock<TowerToHyperService<Router>> = LazyLock::new(|| {
    let router = routes()
        .into_iter()
        .fold(Router::new(), |router, route| router.route(route.path, route.methods));
    TowerToHyperService::new(router.fallback(async || Problem::no_such_path()))
});

/// A path, and who answers there.
struct Route {
    path: &'static str,
    methods: MethodRouter,
}

impl Route {
    fn new(path: &'static str, methods: MethodRouter) -> Route {
        Route { path, methods }
    }
}

/// All that is served.
fn routes() -> Vec<Route> {
    [slots::routes(), batch::routes(), konsen::routes(), web_store::routes(), operations::routes()]
        .into_iter()
        .flatten()
        .collect()
}

/// Ends when the node stops; many may wait for it.
type Stopping = Shared<BoxFuture<'static, ()>>;

/// Whoever sits at the other end of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    server: Arc<Server>,
    /// Locked by one request at a time: those of a connection come one after the other.
    requester: Arc<Mutex<Requester>>,
    /// Our end of the connection.
    local: IpAddr,
    /// Ends when the node stops.
    stopping: Stopping,
}

impl Seat {
    /// A connection that has asked nothing yet.
    pub(crate) fn new(
        server: Arc<Server>,
        requester: Requester,
        stopping: BoxFuture<'static, ()>,
    ) -> Seat {
        let local = requester.client().local_address();
        let local = local.map_or(IpAddr::from(Ipv4Addr::UNSPECIFIED), |address| address.ip());
        let requester = Arc::new(Mutex::new(requester));
        Seat { server, requester, local, stopping: stopping.shared() }
    }

    /// Proposes a command.
    async fn write(&self, command: Command) -> Result<Reply, Problem> {
        let mut requester = self.requester.lock().await;
        one(requester.write(&self.server.node, vec![command]).await)
    }

    /// Executes a command that only reads, as fresh as `level` says or as the node is set to.
    async fn read(&self, command: Command, level: Option<ReadLevel>) -> Result<Reply, Problem> {
        let mut requester = self.requester.lock().await;
        requester.read_at(level);
        let commands = vec![command];
        one(match requester.freshness().level {
            ReadLevel::Log => requester.write(&self.server.node, commands).await,
            ReadLevel::Linearizable | ReadLevel::Lease | ReadLevel::Local => {
                requester.read(&self.server.node, commands).await
            }
        })
    }
}

/// A value that was read.
struct Found {
    /// `None` if the key holds none.
    value: Option<Bytes>,
    version: u64,
}

impl Seat {
    /// The key that a client's bytes name.
    fn key(&self, name: &[u8]) -> Result<Bytes, Problem> {
        Ok(Bytes::copy_from_slice(&self.server.keys.key(name)?))
    }

    /// Reads the key that `name` names.
    async fn get(&self, name: &[u8], level: Option<ReadLevel>) -> Result<Found, Problem> {
        let command = Command::get(&self.key(name)?)?;
        self.requester.lock().await.called(lookup(b"get"));
        let outcome = first(self.read(command, level).await?)?;
        match outcome.body {
            Answered::Value(value) => Ok(Found { value, version: outcome.version }),
            Answered::Measured(bytes) => Err(Problem::too_large(format!(
                "the value is {bytes} bytes, too long for a response"
            ))),
            Answered::Empty | Answered::Integer(_) | Answered::Refused(_) => {
                Err(Problem::fault("the node's reply is none to a read"))
            }
        }
    }

    /// Sets all of these by one entry; what the response says of it.
    async fn set_all(&self, pairs: Vec<Pair>) -> Result<WrittenHeaders, Problem> {
        let mut command = CommandBuilder::new();
        for Pair { name, value } in &pairs {
            let keys = &self.server.keys;
            keys.check_value(u64::try_from(value.len()).unwrap_or(u64::MAX))?;
            let (condition, answer) = (Condition::Always, Answer::Status);
            let action = Action::Set { value, condition, answer };
            command.push(&Operation { key: &keys.key(name)?, action })?;
        }
        let command = command.finish();
        drop(pairs); // the command has them
        self.requester.lock().await.called(lookup(b"mset"));
        let reply = self.write(command).await?;
        let index = reply.index;
        reply.outcomes.into_iter().try_for_each(|outcome| done(outcome).map(drop))?;
        Ok(self.written(index).await)
    }

    /// What the response says of an entry.
    async fn written(&self, index: u64) -> WrittenHeaders {
        let node = &self.server.node;
        let holders = node.wait_replicas(index, 0, Duration::ZERO).await;
        let term = node.term();
        [(TERM, term.to_string()), (INDEX, index.to_string()), (HOLDERS, holders.to_string())]
    }
}

/// Term, index and holders of an entry.
type WrittenHeaders = [(HeaderName, String); 3];

/// The one outcome of a reply.
fn first(reply: Reply) -> Result<Outcome, Problem> {
    let outcome = reply.outcomes.into_iter().next();
    done(outcome.ok_or_else(|| Problem::fault("the node's reply is incomplete"))?)
}

/// An outcome that is no refusal.
fn done(outcome: Outcome) -> Result<Outcome, Problem> {
    match outcome.body {
        Answered::Refused(refusal) => Err(refusal.into()),
        Answered::Empty | Answered::Value(_) | Answered::Measured(_) | Answered::Integer(_) => {
            Ok(outcome)
        }
    }
}

fn one(results: Vec<Result<Reply, Failure>>) -> Result<Reply, Problem> {
    let missing =
        || Failure::Unknown { term: 0, index: 0, reason: "the node gave no result".to_owned() };
    Ok(results.into_iter().next().unwrap_or_else(|| Err(missing()))?)
}

/// Serves one connection until its client leaves, breaks the protocol, or the node stops; then what
/// was taken is answered. `before` was read from the stream already. Gives the stream back, with all
/// responses written.
///
/// # Errors
/// The client is gone.
pub(crate) async fn serve<S>(seat: Seat, stream: S, before: Bytes) -> io::Result<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut stopping = seat.stopping.clone();
    let counters = seat.server.clients.counters_shared();
    let stream = TokioIo::new(Rewound::new(before, stream, counters));
    let answered = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        answer(seat.clone(), request.map(Body::new)).map(Ok::<_, Infallible>).boxed()
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADER_COUNT_MAX)
        .serve_connection(stream, answered);
    let mut is_stopping = false;
    let ended = poll_fn(|context| {
        if !is_stopping && stopping.poll_unpin(context).is_ready() {
            is_stopping = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        connection.poll_without_shutdown(context)
    });
    if let Err(error) = ended.await {
        // hyper has answered what it could not read; the client is to hear that.
        tracing::debug!(%error, "a connection of HTTP broke off");
    }
    Ok(connection.into_parts().io.into_inner().into_stream())
}

/// The response to one request.
async fn answer(seat: Seat, mut request: Request) -> Response {
    let method = request.method().clone();
    if let Err(problem) = entry::check(&request, seat.local) {
        let mut response = problem.into_response();
        response.headers_mut().insert(header::CONNECTION, entry::CLOSE);
        return response;
    }
    request.extensions_mut().insert(seat);
    let Ok(mut response) = ROUTER.call(request).await;
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = response.headers_mut().remove(header::ALLOW);
        response = if method == Method::OPTIONS {
            StatusCode::NO_CONTENT.into_response()
        } else {
            let message = "this method is not served at this path";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", message).into_response()
        };
        response.headers_mut().extend(allowed.map(|allowed| (header::ALLOW, allowed)));
    }
    response
}

/// Takes a body of `bytes_max` bytes at most (I2).
async fn take_body(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    let announced = hyper::body::Body::size_hint(&body).upper().unwrap_or(u64::MAX);
    if usize::try_from(announced).unwrap_or(usize::MAX) > bytes_max {
        let message = format!("the body is {announced} bytes; {bytes_max} are taken here");
        return Err(Problem::too_large(message));
    }
    match timeout(BODY_TIME_MAX, to_bytes(body, bytes_max)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(Problem::wrong("the body ended before its announced length")),
        Err(_) => {
            let message = "the body did not come in time";
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", message))
        }
    }
}
