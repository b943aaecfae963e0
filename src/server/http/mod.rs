//! HTTP/1.1 on the client port: hyper reads requests and writes responses, axum's router finds the
//! handler, and each handler asks the node by the connection's requester, as the dialects do.
//!
//! Called by the session, which hands the connection over; calls the requester and the node. `entry`
//! refuses dangerous requests before any handler sees them. `slots` and `batch` are our own API of one
//! key and of many, `konsen` and `web_store` those of two older stores, for their clients; `operations`
//! serves the people and programs that run the node, `administration` takes their orders, `backup` streams a backup to them. `asked` reads what stands behind the question
//! mark, `json` what is JSON; `logged` names requests in the log; `seat` reads and writes for all of them, and a `Problem` says why a request is not
//! carried out. `server/wire` is the stream below hyper.
//!
//! Invariants:
//! - I1: a refused request has changed nothing.
//! - I2: the length of a body is known before a byte of it is kept, and bounded, alone and together with
//!   all other bodies; and the body has to arrive within a bounded time.
//! - I3: a request whose client may not make it reaches no handler, and none of its body is read.
//! - I4: where tokens are needed, a client without one stays for a bounded time, and little waits for it.
//! - I5: the response to a write tells the outcome of its log entry, which decides the condition
//!   too.

mod administration;
mod asked;
mod backup;
mod batch;
mod console;
mod entry;
#[cfg(any(test, fuzzing))]
mod fuzzing;
mod json;
mod konsen;
mod listing;
mod logged;
mod metrics;
mod openapi;
mod operations;
mod problem;
mod seat;
mod slots;
mod web_store;

#[cfg(any(test, fuzzing))]
pub(crate) use fuzzing::fuzz;

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use bytes::Bytes;
use futures_util::FutureExt;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};

use super::access::RequestKind;
use super::session::REFUSING_TIME;
use super::socket::UNTAKEN_TIME_MAX;
use super::wire::{Unsent, Wire, until_ended};
use crate::command::Failure;
pub(crate) use console::{CSS, HTML, JAVASCRIPT, STYLE, part};
pub(crate) use entry::{CLOSE, bearer, check, one};
pub(crate) use json::json;
pub(crate) use logged::Named;
pub(crate) use operations::obstacle;
pub(crate) use problem::{Problem, status_of};
pub(crate) use seat::{Seat, prefers_receipt};
use slots::KeyRequest;
pub(crate) use slots::{names, tag};

/// Most bytes of a request line and its headers.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Most headers of a request.
const HEADER_COUNT_MAX: usize = 64;
/// Most bytes of any body: the values of one command, as text and escaped here and there.
pub(crate) const BODY_BYTES_MAX: usize = 16 << 20;
/// Bytes of the bodies of all requests together.
pub(crate) const BODY_BYTES_MAX_ALL: usize = 256 << 20;
/// How long a request line and its headers may take, from the response before it on.
pub(crate) const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a body may take.
pub(crate) const BODY_TIME_MAX: Duration = Duration::from_secs(30);

static ROUTER: LazyLock<TowerToHyperService<Router>> = LazyLock::new(|| {
    let router = routes()
        .into_iter()
        .fold(Router::new(), |router, route| router.route(route.path, route.guarded()));
    TowerToHyperService::new(router.fallback(async || Problem::no_such_path()))
});

/// A path, and who answers there.
#[derive(Clone)]
struct Route {
    path: &'static str,
    /// What GET and HEAD do, as far as rights go.
    asked: RequestKind,
    /// What the other methods do.
    done: RequestKind,
    methods: MethodRouter,
}

impl Route {
    /// Where all requests are of one kind.
    fn new(path: &'static str, kind: RequestKind, methods: MethodRouter) -> Route {
        Route { path, asked: kind, done: kind, methods }
    }

    /// Where GET reads, and all other methods write.
    fn of_values(path: &'static str, methods: MethodRouter) -> Route {
        Route { path, asked: RequestKind::Read, done: RequestKind::Write, methods }
    }

    /// What a request of this method does.
    fn kind(&self, method: &Method) -> RequestKind {
        if matches!(*method, Method::GET | Method::HEAD) { self.asked } else { self.done }
    }

    /// The same for those alone who may do that (I3).
    fn guarded(self) -> MethodRouter {
        let methods = self.methods.clone();
        methods.route_layer(from_fn(move |request: Request, next: Next| {
            let kind = self.kind(request.method());
            async move {
                let seat = request.extensions().get::<Seat>();
                // Behind `routed`, which puts it there.
                let Some(seat) = seat.cloned() else {
                    return Problem::fault("nobody asks").into_response();
                };
                permitted(&seat, kind, next.run(request)).await
            }
        }))
    }
}

/// What a handler answers, to those alone who may do what is of this kind (I3).
async fn permitted(
    seat: &Seat,
    kind: RequestKind,
    handled: impl Future<Output = Response>,
) -> Response {
    match seat.check(kind).await {
        Ok(()) => handled.await,
        Err(problem) => problem.into_response(),
    }
}

/// All that is served.
fn routes() -> Vec<Route> {
    let parts = [
        slots::routes(),
        batch::routes(),
        konsen::routes(),
        web_store::routes(),
        operations::routes(),
        administration::routes(),
        backup::routes(),
        metrics::routes(),
        openapi::routes(),
        console::routes(),
    ];
    parts.into_iter().flatten().collect()
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
    let counters = seat.server.clients.counters_shared();
    let wire = Wire::new(before, stream, counters, Arc::clone(&seat.unsent), UNTAKEN_TIME_MAX);
    let stopping = refused(seat.stopping.clone());
    let answered = move |request: Request| {
        let named = Named::of(&request);
        named.answered(answer(seat.clone(), request)).boxed()
    };
    serve_by(wire, HEAD_TIME_MAX, answered, stopping).await
}

/// Ends a while after the node began to stop: what came as it did is refused until then, so that no client
/// has to guess what became of its request.
pub(crate) async fn refused(stopping: impl Future<Output = ()>) {
    stopping.await;
    sleep(REFUSING_TIME).await;
}

/// As [`serve`], with what answers a request and the time that its head may take.
pub(crate) async fn serve_by<S, A>(
    wire: Wire<S>,
    head_time_max: Duration,
    answered: impl Fn(Request) -> A,
    stopping: impl Future<Output = ()>,
) -> io::Result<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Future<Output = Response> + Unpin,
{
    let answered = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        answered(request.map(Body::new)).map(Ok::<_, Infallible>)
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_time_max)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADER_COUNT_MAX)
        .serve_connection(TokioIo::new(wire), answered);
    let ended = until_ended(
        &mut connection,
        stopping,
        |connection, context| connection.poll_without_shutdown(context),
        |connection| connection.graceful_shutdown(),
    );
    if let Err(error) = ended.await {
        // hyper has answered what it could not read; the client is to hear that.
        tracing::debug!(%error, "a connection of HTTP broke off");
    }
    Ok(connection.into_parts().io.into_inner().into_stream())
}

/// The response to one request.
async fn answer(seat: Seat, request: Request) -> Response {
    seat.unsent.wait_for_room().await;
    if seat.is_stopping() {
        return closing(Failure::Stopping.into());
    }
    let is_asked_for_the_head = request.method() == Method::HEAD;
    if let Err(problem) = check(&request, seat.local, Some(&seat.server.access)) {
        return closing(problem);
    }
    if let Err(problem) = seat.authenticate(request.headers()).await {
        return closing(problem);
    }
    let is_last = seat.has_overstayed().await;
    let bodies = Arc::clone(&seat.server.bodies);
    let _space = match reserve(&bodies, request.body()) {
        Ok(space) => space,
        Err(problem) => return closing(problem),
    };
    let mut response = match KeyRequest::of(request.method(), request.uri()) {
        Some(asked) => permitted(&seat, asked.kind(), asked.handle(seat.clone(), request)).await,
        None => routed(seat.clone(), request).boxed().await, // else every request would carry its size
    };
    if is_last || seat.is_stopping() {
        response.headers_mut().insert(header::CONNECTION, CLOSE);
    }
    if !is_asked_for_the_head {
        count_unsent(&response, &seat.unsent);
    }
    response
}

/// What the handler answers that the router finds.
async fn routed(seat: Seat, mut request: Request) -> Response {
    let is_asked_what_is_allowed = request.method() == Method::OPTIONS;
    request.extensions_mut().insert(seat);
    let Ok(mut response) = ROUTER.call(request).await;
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = response.headers_mut().remove(header::ALLOW);
        response = if is_asked_what_is_allowed {
            StatusCode::NO_CONTENT.into_response()
        } else {
            let message = "this method is not served at this path";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", message).into_response()
        };
        response.headers_mut().extend(allowed.map(|allowed| (header::ALLOW, allowed)));
    }
    response
}

/// Counts the body of a response among what its client has yet to take.
pub(crate) fn count_unsent(response: &Response, unsent: &Unsent) {
    let bytes = response.body().size_hint().exact().unwrap_or_default();
    unsent.add(usize::try_from(bytes).unwrap_or(usize::MAX));
}

/// A problem behind which the connection is closed.
pub(crate) fn closing(problem: Problem) -> Response {
    let mut response = problem.into_response();
    response.headers_mut().insert(header::CONNECTION, CLOSE);
    response
}

/// Room for a body as long as its announced length, until its request is answered (I2).
///
/// # Errors
/// It is longer than any body may be, or others take all the room.
pub(crate) fn reserve<'a>(
    bodies: &'a Semaphore,
    body: &Body,
) -> Result<SemaphorePermit<'a>, Problem> {
    let announced = body.size_hint().upper().unwrap_or(u64::MAX);
    let bytes = u32::try_from(announced).ok();
    let bytes = bytes.filter(|bytes| usize::try_from(*bytes).is_ok_and(|it| it <= BODY_BYTES_MAX));
    let bytes = bytes.ok_or_else(|| too_large(announced, BODY_BYTES_MAX))?;
    bodies.try_acquire_many(bytes).map_err(|_| {
        let bytes = BODY_BYTES_MAX_ALL;
        let reason = format!("bodies of other requests take all of {bytes} bytes");
        Failure::Busy { reason }.into()
    })
}

fn too_large(bytes: u64, bytes_max: usize) -> Problem {
    Problem::too_large(format!("the body is {bytes} bytes; {bytes_max} are taken here"))
}

/// Takes a body of `bytes_max` bytes at most (I2).
pub(crate) async fn take_body(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    take_within(body, bytes_max, BODY_TIME_MAX).await
}

/// As [`take_body`], which has to come within `time_max`.
async fn take_within(body: Body, bytes_max: usize, time_max: Duration) -> Result<Bytes, Problem> {
    let announced = body.size_hint().upper().unwrap_or(u64::MAX);
    if usize::try_from(announced).unwrap_or(usize::MAX) > bytes_max {
        return Err(too_large(announced, bytes_max));
    }
    match timeout(time_max, to_bytes(body, bytes_max)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(Problem::wrong("the body ended before its announced length")),
        Err(_) => {
            let message = "the body did not come in time";
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", message))
        }
    }
}

#[cfg(test)]
mod tests;
