//! HTTP of a leaderless node: `/v1/keys/{key}`, the console, and what those who run it ask for.
//!
//! Called by the session. The ETag is the version of the key. There are no conditions: nothing is decided
//! by what a key held before.

use std::future::ready;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::{Extension, Request};
use axum::http::header::{self, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::FutureExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};

use super::registrar::{Deleted, level};
use super::{Port, RegisterServer, Stopping, console};
use crate::command::Failure;
use crate::leaderless::operation::Level;
use crate::server::http::{
    HEAD_TIME_MAX, Named, Problem, check, closing, count_unsent, json, names, one, refused,
    reserve, serve_by, tag, take_body,
};
use crate::server::socket::{Share, UNTAKEN_TIME_MAX};
use crate::server::wire::{Unsent, Wire};

const KEYS: &str = "/v1/keys/";
/// Bytes that a body may be longer than a value, so that the words say which bound is broken.
const BODY_SPARE_BYTES: usize = 64 << 10;
/// Whether a delete found something.
const DELETED: &str = "leaderless-deleted";

static ROUTER: LazyLock<TowerToHyperService<Router>> = LazyLock::new(|| {
    let router = looks()
        .merge(console::routes())
        .route("/v1/keys/{*key}", get(read).put(write).delete(erase))
        .fallback(async || Problem::no_such_path());
    TowerToHyperService::new(router)
});

/// What the port for metrics serves.
static LOOKS: LazyLock<TowerToHyperService<Router>> =
    LazyLock::new(|| TowerToHyperService::new(looks().fallback(async || Problem::no_such_path())));

fn looks() -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readiness))
        .route("/status", get(status))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
}

/// Whoever sits at the other end of a connection, and what is served to them.
#[derive(Debug, Clone)]
pub(super) struct HttpDoor {
    pub(super) server: Arc<RegisterServer>,
    /// Our end of the connection.
    pub(super) local: IpAddr,
    /// The address that it came to.
    pub(super) at: Port,
}

/// Serves one connection until its client leaves, breaks the protocol, or the node stops. Gives the stream back.
///
/// # Errors
/// The client is gone.
pub(super) async fn serve<S>(
    door: HttpDoor,
    stopping: Stopping,
    stream: S,
    before: Bytes,
) -> io::Result<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let server = &door.server;
    let unsent = Arc::new(Unsent::new(Share::new(Arc::clone(&server.backlog))));
    let counters = Arc::clone(&server.counters);
    let wire = Wire::new(before, stream, counters, Arc::clone(&unsent), UNTAKEN_TIME_MAX);
    let is_over = stopping.clone();
    let answered = move |request: Request| {
        let named = Named::of(&request);
        if is_over.peek().is_some() {
            return named.answered(ready(closing(Failure::Stopping.into()))).boxed();
        }
        named.answered(respond(door.clone(), Arc::clone(&unsent), request)).boxed()
    };
    serve_by(wire, HEAD_TIME_MAX, answered, refused(stopping)).await
}

async fn respond(door: HttpDoor, unsent: Arc<Unsent>, mut request: Request) -> Response {
    unsent.wait_for_room().await;
    if let Err(problem) = check(&request, door.local, None) {
        return closing(problem);
    }
    let bodies = Arc::clone(&door.server.bodies);
    let _space = match reserve(&bodies, request.body()) {
        Ok(space) => space,
        Err(problem) => return closing(problem),
    };
    let is_head = *request.method() == Method::HEAD;
    let router = if door.at == Port::Node { &ROUTER } else { &LOOKS };
    request.extensions_mut().insert(door.server);
    request.extensions_mut().insert(door.local);
    let Ok(mut response) = router.call(request).await;
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = response.headers_mut().remove(header::ALLOW);
        let message = "this method is not served at this path";
        response = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", message).into_response();
        response.headers_mut().extend(allowed.map(|allowed| (header::ALLOW, allowed)));
    }
    if !is_head {
        count_unsent(&response, &unsent);
    }
    response
}

type Door = Extension<Arc<RegisterServer>>;

/// The key that a path names.
fn key_of(uri: &Uri) -> Bytes {
    let encoded = uri.path().strip_prefix(KEYS).unwrap_or_default();
    percent_decode_str(encoded).collect::<Vec<u8>>().into()
}

/// The level that a request asks for, and nothing else behind its question mark.
fn level_of(server: &RegisterServer, uri: &Uri) -> Result<Level, Problem> {
    let mut found = None;
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name != "level" {
            let name = name.escape_default();
            return Err(Problem::wrong(format!("unknown query parameter: {name}")));
        }
        if found.replace(level(value.as_bytes())?).is_some() {
            return Err(Problem::wrong("query parameter is there twice: level"));
        }
    }
    Ok(found.unwrap_or(server.level))
}

/// Conditions would be passed over silently otherwise.
fn check_conditions(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(IF_MATCH) || headers.contains_key(IF_NONE_MATCH) {
        let words = "a write with a condition needs an order that leaderless mode does not keep; \
                     use kvstore";
        return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "refused", words));
    }
    Ok(())
}

async fn read(Extension(server): Door, request: Request) -> Result<Response, Problem> {
    let level = level_of(&server, request.uri())?;
    let held = server.registrar.read(key_of(request.uri()), level).await?;
    let Some(value) = held.value else { return Err(Problem::no_value()) };
    let tag = tag(held.version.get());
    if one(request.headers(), &IF_NONE_MATCH)?.is_some_and(|known| names(known, &tag)) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response());
    }
    let kind = "application/octet-stream".to_owned();
    let headers = [(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache".to_owned()), (ETAG, tag)];
    Ok((headers, value).into_response())
}

async fn write(Extension(server): Door, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let level = level_of(&server, &parts.uri)?;
    check_conditions(&parts.headers)?;
    let bytes_max = server.registrar.value_bytes_max() + BODY_SPARE_BYTES;
    let value = take_body(body, bytes_max).await?;
    let written = server.registrar.write(key_of(&parts.uri), Some(value), level).await;
    let version = written?;
    Ok((StatusCode::NO_CONTENT, [(ETAG, tag(version.get()))]).into_response())
}

async fn erase(Extension(server): Door, request: Request) -> Result<Response, Problem> {
    let level = level_of(&server, request.uri())?;
    check_conditions(request.headers())?;
    let deleted = server.registrar.delete(key_of(request.uri()), level).await?;
    let Deleted { had_value, version } = deleted;
    let mut response = (StatusCode::NO_CONTENT, [(ETAG, tag(version.get()))]).into_response();
    let word = HeaderValue::from_static(if had_value { "true" } else { "false" });
    response.headers_mut().insert(DELETED, word);
    Ok(response)
}

async fn readiness(Extension(server): Door) -> Result<Response, Problem> {
    if server.is_ready() {
        return Ok("ready\n".into_response());
    }
    let status = server.registrar.status().await;
    let waits_for = if status.waits_for.is_empty() && !status.sees_quorum {
        "so few nodes are in sight that no key has a majority of its replicas".to_owned()
    } else {
        status.waits_for
    };
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", waits_for))
}

async fn status(Extension(server): Door) -> Response {
    let mut response = json(StatusCode::OK, &server.registrar.status().await);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[derive(Serialize)]
struct ProgramVersion {
    program: &'static str,
    version: &'static str,
}

async fn version() -> Response {
    let version = env!("CARGO_PKG_VERSION");
    json(StatusCode::OK, &ProgramVersion { program: "leaderless", version })
}

async fn metrics(Extension(server): Door) -> Response {
    let text = super::metrics::render(&server).await;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(CONTENT_TYPE, kind)], text).into_response()
}
