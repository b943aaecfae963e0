//! Our own API of single keys: `/v1/slots/{n}` and `/v1/keys/{key}`; a body is a value.
//!
//! The ETag is the version. `If-Match` and `If-None-Match` of a write become the condition of its
//! operation in the log (I5 of `mod.rs`).
//!
//! GET, PUT and DELETE of a key are found by [`KeyRequest`], which costs next to nothing where the router
//! costs as much as the rest of a read; the router knows the same paths for all other methods.

use axum::body::Body;
use axum::extract::{Extension, Request};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use percent_encoding::percent_decode_str;

use super::asked::Asked;
use super::entry::one;
use super::problem::Problem;
use super::seat::{Found, Noted, first};
use super::{Route, Seat, take_body};
use crate::command::{Action, Answer, Command, Condition, Operation, Outcome};
use crate::server::access::RequestKind;
use crate::server::keys::decimal;
use crate::server::resp::lookup;

/// Under which paths keys stand.
const SLOTS: &str = "/v1/slots/";
const KEYS: &str = "/v1/keys/";
/// What a value is, to whoever looks at the type of a body.
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");
/// A value may be kept, and is asked for again all the same.
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");
/// Bytes that a body may be longer than a value, so that the words say which bound is broken.
const BODY_SPARE_BYTES: usize = 64 << 10;

/// The routes of single keys.
pub(super) fn routes() -> Vec<Route> {
    let of_key = || get(read).put(write).delete(delete);
    vec![
        Route::of_values("/v1/slots/{slot}", of_key()),
        Route::of_values("/v1/keys/{*key}", of_key()),
    ]
}

/// What is asked of one key, where that needs no router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyRequest {
    Read,
    Write,
    Delete,
}

impl KeyRequest {
    /// What a request asks of one key; `None` if that is for the router to find out.
    pub(super) fn of(method: &Method, uri: &Uri) -> Option<KeyRequest> {
        let path = uri.path();
        let is_slot =
            path.strip_prefix(SLOTS).is_some_and(|slot| !slot.contains('/') && !slot.is_empty());
        let is_key = || path.strip_prefix(KEYS).is_some_and(|key| !key.is_empty());
        if !is_slot && !is_key() {
            return None;
        }
        Some(match *method {
            Method::GET => KeyRequest::Read,
            Method::PUT => KeyRequest::Write,
            Method::DELETE => KeyRequest::Delete,
            _ => return None,
        })
    }

    /// What that does, as far as rights go.
    pub(super) fn kind(self) -> RequestKind {
        match self {
            KeyRequest::Read => RequestKind::Read,
            KeyRequest::Write | KeyRequest::Delete => RequestKind::Write,
        }
    }

    /// Does it, for those who may.
    pub(super) async fn handle(self, seat: Seat, request: Request) -> Response {
        let handled = match self {
            KeyRequest::Read => read(Extension(seat), request).await,
            KeyRequest::Write => write(Extension(seat), request).await,
            KeyRequest::Delete => delete(Extension(seat), request).await,
        };
        handled.into_response()
    }
}

/// The key that a path names, as its client wrote it.
fn name_of(seat: &Seat, uri: &Uri) -> Result<Vec<u8>, Problem> {
    let path = uri.path();
    let encoded = match path.strip_prefix(SLOTS) {
        Some(_) if seat.server.keys.slot_bytes().is_none() => {
            let message = "keys are no slots on this node: ask /v1/keys/";
            return Err(Problem::new(StatusCode::NOT_FOUND, "no_slots", message));
        }
        Some(slot) => slot,
        None => path.strip_prefix(KEYS).unwrap_or_default(),
    };
    Ok(percent_decode_str(encoded).collect())
}

async fn read(Extension(seat): Extension<Seat>, request: Request) -> Result<Response, Problem> {
    let (uri, headers) = (request.uri(), request.headers());
    let asked = Asked::of(uri, headers, &[])?;
    if let Some(elsewhere) = asked.redirection(&seat, uri) {
        return Ok(elsewhere);
    }
    let Found { value, version } = seat.get(&name_of(&seat, uri)?, asked.level).await?;
    let Some(value) = value else { return Err(Problem::no_value()) };
    let tag = tag(version);
    if one(headers, &IF_NONE_MATCH)?.is_some_and(|known| names(known, &tag)) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response());
    }
    let mut response = Response::new(Body::from(value));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, BYTES);
    headers.insert(CACHE_CONTROL, NO_CACHE);
    headers.extend(HeaderValue::try_from(tag).map(|tag| (ETAG, tag))); // it is plain ASCII
    Ok(response)
}

async fn write(Extension(seat): Extension<Seat>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let asked = Asked::of(&parts.uri, &parts.headers, &[])?;
    if let Some(elsewhere) = asked.redirection(&seat, &parts.uri) {
        return Ok(elsewhere);
    }
    let key = seat.key(&name_of(&seat, &parts.uri)?)?;
    let condition = condition_of(&parts.headers)?;
    let kind = one(&parts.headers, &CONTENT_TYPE)?.unwrap_or_default();
    if kind.to_ascii_lowercase().starts_with("multipart/") {
        let message = "the body is the value itself, in no parts";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", message));
    }
    let value_bytes_max = usize::try_from(seat.server.keys.value_bytes_max());
    let value_bytes_max = value_bytes_max.unwrap_or(usize::MAX);
    let value = take_body(body, value_bytes_max.saturating_add(BODY_SPARE_BYTES)).await?;
    seat.server.keys.check_value(u64::try_from(value.len()).unwrap_or(u64::MAX))?;
    let action = Action::Set { value: &value, condition, answer: Answer::Status };
    let command = Command::single(&Operation { key: &key, action })?;
    seat.requester.lock().await.called(lookup(b"set"));
    let reply = seat.write(command, &parts.headers).await?;
    let noted = Noted::of(&reply, &parts.headers);
    let outcome = first(reply)?;
    if !outcome.changed {
        return Err(failed(&outcome));
    }
    Ok(written(seat.written(noted).await, outcome.version))
}

async fn delete(Extension(seat): Extension<Seat>, request: Request) -> Result<Response, Problem> {
    let (uri, headers) = (request.uri(), request.headers());
    let asked = Asked::of(uri, headers, &[])?;
    if let Some(elsewhere) = asked.redirection(&seat, uri) {
        return Ok(elsewhere);
    }
    let (key, condition) = (seat.key(&name_of(&seat, uri)?)?, condition_of(headers)?);
    let action = Action::Delete { condition, answer: Answer::Status };
    let command = Command::single(&Operation { key: &key, action })?;
    seat.requester.lock().await.called(lookup(b"del"));
    let reply = seat.write(command, headers).await?;
    let noted = Noted::of(&reply, headers);
    let outcome = first(reply)?;
    if outcome.changed {
        return Ok(written(seat.written(noted).await, outcome.version));
    }
    let was_free = matches!(condition, Condition::Always | Condition::IfAbsent);
    Err(if was_free { Problem::no_value() } else { failed(&outcome) })
}

/// When a write takes effect, as its headers say.
fn condition_of(headers: &HeaderMap) -> Result<Condition<'static>, Problem> {
    match (one(headers, &IF_MATCH)?, one(headers, &IF_NONE_MATCH)?) {
        (None, None) => Ok(Condition::Always),
        (Some("*"), None) => Ok(Condition::IfPresent),
        (Some(known), None) => version_of(known).map(Condition::IfVersion).ok_or_else(|| {
            Problem::wrong("If-Match is * or one ETag of this store, such as \"42\"")
        }),
        (None, Some("*")) => Ok(Condition::IfAbsent),
        (None, Some(_)) => Err(Problem::wrong("If-None-Match of a write is *")),
        (Some(_), Some(_)) => Err(Problem::wrong("a write has one condition")),
    }
}

fn version_of(tag: &str) -> Option<u64> {
    decimal(tag.strip_prefix('"')?.strip_suffix('"')?.as_bytes())
}

/// The ETag of a version.
pub(crate) fn tag(version: u64) -> String {
    format!("\"{version}\"")
}

/// Whether `If-None-Match` of a read names this tag.
pub(crate) fn names(known: &str, tag: &str) -> bool {
    let known = known.split(',').map(str::trim);
    known
        .map(|known| known.strip_prefix("W/").unwrap_or(known))
        .any(|known| matches!(known, "*") || known == tag)
}

/// The condition did not hold. The version of what is there is in the words: an ETag would be that of
/// the value which was sent.
fn failed(outcome: &Outcome) -> Problem {
    let version = outcome.version;
    let message = format!("the condition does not hold: the version is {version}");
    Problem::new(StatusCode::PRECONDITION_FAILED, "condition", message)
}

fn written(told: HeaderMap, version: u64) -> Response {
    (StatusCode::NO_CONTENT, told, [(ETAG, tag(version))]).into_response()
}
