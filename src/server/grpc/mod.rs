//! gRPC on the client port: hyper speaks HTTP/2, tonic reads requests and writes responses, and each
//! method asks the node by a requester, as the other protocols do.
//!
//! Called by the session, which hands the connection over; calls the requester and the node. `body` bounds
//! what comes and counts what goes; `caller` is whoever sits at the other end, and reads and writes for all
//! methods; `status` is the one place where failures become statuses. `store` is our own service, of which
//! `scan` and `changes` are the streams; `konsen` that of an older store; `health` says whether the node
//! serves. Messages come from the package `proto`.
//!
//! Invariants:
//! - I1: a call whose status says so has certainly changed nothing; a write that may have been carried out
//!   is answered with UNKNOWN or DEADLINE_EXCEEDED, and says so.
//! - I2: the length of a message is known before memory is taken for it, and bounded, alone and together
//!   with the bodies of all other requests; and it has to arrive within a bounded time.
//! - I3: what waits for a client is a part of the backlog of all clients, until it is written or dropped.
//! - I4: a call whose client may not make it reaches no service, and none of its message is read.

mod body;
mod caller;
mod changes;
mod health;
mod konsen;
mod scan;
mod status;
mod store;

#[cfg(any(test, fuzzing))]
pub(crate) use store::fuzz;

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, ORIGIN};
use axum::http::request::Parts;
use axum::http::{Method, Request, Response, StatusCode};
use bytes::Bytes;
use diskstore_proto::DESCRIPTORS;
use diskstore_proto::diskstore::store_server::StoreServer;
use diskstore_proto::konsen::kv_service_server::KvServiceServer;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::Status;
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::server::Builder;

use super::access::RequestKind;
use super::http::{BODY_BYTES_MAX, Named};
use super::socket::UNTAKEN_TIME_MAX;
use super::wire::{Reserved, Unsent, Wire, until_ended};
pub(crate) use body::{RequestBody, ResponseBody};
pub(crate) use caller::{Caller, deadline_of};
use konsen::Konsen;
pub(crate) use status::{Done, no_value, timed_out};
use store::Store;

/// Most calls of one connection at a time.
const CALL_COUNT_MAX: u32 = 128;
/// Most bytes of the headers of a call.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// Bytes that a client may send of one call, and of all, beyond what was read.
const CALL_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes of one call that wait in the library for the client's window.
const SEND_BYTES_MAX: usize = 256 << 10;
/// Streams of all clients together: scans, changes, and those who watch the health.
pub(crate) const STREAM_COUNT_MAX_ALL: usize = 1024;
/// How often a silent client is asked whether it is there, and how long it may take to say so.
const PING_PAUSE: Duration = Duration::from_mins(1);
const PING_TIME_MAX: Duration = Duration::from_secs(20);
/// Bytes that a request of one key may be longer than its value: the key, and what stands around.
const REQUEST_SPARE_BYTES: usize = 128 << 10;

/// Most bytes of a request that nobody needs a token for: a name.
const OPEN_BYTES_MAX: usize = 4 << 10;
/// Streams in which anybody may watch the health.
pub(crate) const WATCH_COUNT_MAX_ALL: usize = 256;

/// The methods whose requests hold many values.
const LARGE: [&str; 2] = ["/diskstore.v1.Store/Batch", "/konsen.KVService/Put"];

pub(crate) type Taken = Request<RequestBody>;
pub(crate) type Answered = Response<tonic::body::Body>;
pub(crate) type Reflecting = Box<dyn Fn(Taken) -> BoxFuture<'static, Answered> + Send + Sync>;

/// Says what services there are, to clients that know none of them.
static REFLECTION: LazyLock<Reflection> = LazyLock::new(|| Reflection::of(DESCRIPTORS));

/// What describes services, in both versions of the service that does so.
pub(crate) struct Reflection {
    first: Reflecting,
    old: Reflecting,
}

impl Reflection {
    /// Describes these services and that of the health.
    pub(crate) fn of(descriptors: &'static [u8]) -> Reflection {
        let described = || {
            let builder = Builder::configure().register_encoded_file_descriptor_set(descriptors);
            builder.register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let valid = "invariant: the descriptors were made by the build";
        let first = described().build_v1().expect(valid);
        let old = described().build_v1alpha().expect(valid);
        Reflection {
            first: Box::new(move |request| called(first.clone(), request)),
            old: Box::new(move |request| called(old.clone(), request)),
        }
    }

    /// What answers calls of the service of this name; none if it is not one of the two.
    pub(crate) fn of_service(&self, service: &str) -> Option<&Reflecting> {
        match service {
            "grpc.reflection.v1.ServerReflection" => Some(&self.first),
            "grpc.reflection.v1alpha.ServerReflection" => Some(&self.old),
            _ => None,
        }
    }
}

/// Runs the calls of one connection, which end with it.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Calls {
    fn execute(&self, call: F) {
        let mut calls = self.0.lock();
        while calls.try_join_next().is_some() {}
        calls.spawn(call);
    }
}

/// Serves one connection until its client leaves, breaks the protocol, or the node stops; then what
/// was taken is answered. `before` was read from the stream already.
///
/// # Errors
/// The client is gone.
pub(crate) async fn serve<S>(caller: Caller, stream: S, before: Bytes) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let wire = Wire::of_counted(before, stream, &caller.server);
    let (stopping, unsent) = (caller.stopping.clone(), Arc::clone(&caller.unsent));
    let caller = Arc::new(caller);
    let answered = move |request| {
        let named = Named::of(&request);
        named.answered(answer(Arc::clone(&caller), request))
    };
    serve_by(wire, answered, stopping, &unsent).await
}

/// As [`serve`], with what answers a call, and what waits for the client.
pub(crate) async fn serve_by<S, A>(
    wire: Wire<S>,
    answered: impl Fn(Request<hyper::body::Incoming>) -> A,
    stopping: impl Future<Output = ()>,
    unsent: &Unsent,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Future<Output = Response<ResponseBody>> + Send + 'static,
{
    let answered = service_fn(move |request| answered(request).map(Ok::<_, Infallible>));
    let mut connection = http2::Builder::new(Calls::default())
        .timer(TokioTimer::new())
        .max_concurrent_streams(CALL_COUNT_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .initial_stream_window_size(CALL_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BYTES_MAX)
        .keep_alive_interval(PING_PAUSE)
        .keep_alive_timeout(PING_TIME_MAX)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(wire), answered);
    let ended = until_ended(
        &mut connection,
        stopping,
        |connection, context| Pin::new(connection).poll(context),
        |connection| connection.graceful_shutdown(),
    );
    tokio::select! {
        served = ended => served.map_err(io::Error::other),
        // Streams end by themselves before, each with its word.
        () = unsent.untaken(3 * UNTAKEN_TIME_MAX) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// The response to one call.
async fn answer(
    caller: Arc<Caller>,
    request: Request<hyper::body::Incoming>,
) -> Response<ResponseBody> {
    caller.unsent.wait_for_room().await;
    let unsent = Arc::clone(&caller.unsent);
    let path = request.uri().path();
    let spare = REQUEST_SPARE_BYTES.saturating_add(caller.value_bytes_max());
    let bytes_max = if LARGE.contains(&path) { BODY_BYTES_MAX } else { spare.min(BODY_BYTES_MAX) };
    // What anybody may call takes nothing of the room that the others share.
    let is_open = kind_of(path) == RequestKind::Open;
    let bytes_max = if is_open { OPEN_BYTES_MAX } else { bytes_max };
    let bodies = if is_open {
        Arc::new(Semaphore::new(OPEN_BYTES_MAX))
    } else {
        Arc::clone(&caller.server.bodies)
    };
    let (mut parts, incoming) = request.into_parts();
    let (body, _held) = RequestBody::new(incoming, bytes_max, bodies);
    let mut response = match check(&parts.method, &parts.headers) {
        Some(refused) => refused,
        None => match admit(&caller, &mut parts).await {
            Ok(()) => route(caller, Request::from_parts(parts, body)).await,
            Err(status) => status.into_http(),
        },
    };
    let room = response.extensions_mut().remove::<Arc<Reserved>>();
    response.map(|body| ResponseBody::new(body, unsent, room))
}

/// Refuses what is no call: in the words of HTTP, as the protocol asks.
pub(crate) fn check(method: &Method, headers: &axum::http::HeaderMap) -> Option<Answered> {
    let refused = |status| {
        let mut response = Response::new(tonic::body::Body::empty());
        *response.status_mut() = status;
        Some(response)
    };
    if *method != Method::POST {
        return refused(StatusCode::METHOD_NOT_ALLOWED);
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim_end();
    if !matches!(kind, "application/grpc" | "application/grpc+proto") {
        return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    // No page of any site is a client: what a browser sends for one comes with its origin.
    if headers.contains_key(ORIGIN) {
        return refused(StatusCode::FORBIDDEN);
    }
    None
}

/// Lets a call go on, with whom it comes from, if its client may make it (I4).
async fn admit(caller: &Caller, parts: &mut Parts) -> Result<(), Status> {
    let requester = caller.requester(&parts.headers).await?;
    requester.check(kind_of(parts.uri.path()))?;
    parts.extensions.insert(requester);
    Ok(())
}

/// What a call does, as far as rights go. One that writes in some cases alone is checked again when it does.
fn kind_of(path: &str) -> RequestKind {
    match path {
        "/diskstore.v1.Store/Status" => RequestKind::Look,
        "/diskstore.v1.Store/Get"
        | "/diskstore.v1.Store/Batch"
        | "/diskstore.v1.Store/Scan"
        | "/diskstore.v1.Store/Changes"
        | "/konsen.KVService/Get" => RequestKind::Read,
        "/diskstore.v1.Store/Set" | "/diskstore.v1.Store/Delete" | "/konsen.KVService/Put" => {
            RequestKind::Write
        }
        _ if path.starts_with("/grpc.health.v1.") || path.starts_with("/grpc.reflection.v1") => {
            RequestKind::Open
        }
        // What a service gets next is for nobody but administrators, until it stands here.
        _ => RequestKind::Administer,
    }
}

/// Has the service answer whose name the path begins with.
async fn route(caller: Arc<Caller>, request: Taken) -> Answered {
    let service = service_of(request.uri().path()).to_owned();
    match service.as_str() {
        "diskstore.v1.Store" => {
            let server = StoreServer::new(Store(caller));
            called(server.max_decoding_message_size(BODY_BYTES_MAX), request).await
        }
        "konsen.KVService" => {
            let server = KvServiceServer::new(Konsen(caller));
            called(server.max_decoding_message_size(BODY_BYTES_MAX), request).await
        }
        "grpc.health.v1.Health" => {
            called(HealthServer::new(health::Standing(caller)), request).await
        }
        service => match REFLECTION.of_service(service) {
            Some(answer) => answer(request).await,
            None => no_such_service(),
        },
    }
}

/// The service that a path names.
pub(crate) fn service_of(path: &str) -> &str {
    path.trim_start_matches('/').split('/').next().unwrap_or_default()
}

/// The response where nobody answers.
pub(crate) fn no_such_service() -> Answered {
    Status::unimplemented("no such service; reflection lists those that there are").into_http()
}

/// Calls a server that tonic made.
pub(crate) fn called<S>(mut server: S, request: Taken) -> BoxFuture<'static, Answered>
where
    S: tonic::codegen::Service<Taken, Response = Answered, Error = Infallible> + Send,
    S::Future: Send + 'static,
{
    server.call(request).map(|Ok(response)| response).boxed()
}
