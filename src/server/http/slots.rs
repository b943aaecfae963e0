//! Our own API of single keys: `/v1/slots/{n}` and `/v1/keys/{key}`; a body is a value.
//!
//! The ETag is the version. `If-Match` and `If-None-Match` of a write become the condition of its
//! operation in the log (I5 of `mod.rs`).

use axum::extract::{Extension, Request};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use percent_encoding::percent_decode_str;

use super::asked::Asked;
use super::entry::one;
use super::problem::Problem;
use super::seat::{Found, Noted, first};
use super::{Route, Seat, take_body};
use crate::command::{Action, Answer, Command, Condition, Operation, Outcome};
use crate::server::keys::decimal;
use crate::server::resp::lookup;

/// Under which paths keys stand.
const SLOTS: &str = "/v1/slots/";
const KEYS: &str = "/v1/keys/";
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
    let headers = [
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
        (CACHE_CONTROL, "no-cache".to_owned()),
        (ETAG, tag),
    ];
    Ok((headers, value).into_response())
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
