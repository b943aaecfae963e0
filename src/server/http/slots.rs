//! Our own API of single keys: `/v1/slots/{n}` and `/v1/keys/{key}`; a body is a value.
//!
//! The ETag is the version. `If-Match` and `If-None-Match` of a write become the condition of its
//! operation in the log (I3 of `mod.rs`).

use axum::Router;
use axum::extract::{Extension, Query, Request};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, LOCATION};
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use super::entry::one;
use super::problem::Problem;
use super::{Seat, take_body};
use crate::command::{
    Action, Answer, Body, Command, Condition, Operation, Outcome, ReadLevel, Reply,
};
use crate::server::keys::decimal;
use crate::server::resp::lookup;

/// Under which paths keys stand.
const SLOTS: &str = "/v1/slots/";
const KEYS: &str = "/v1/keys/";
/// Bytes that a body may be longer than a value, so that the words say which bound is broken.
const BODY_SPARE_BYTES: usize = 64 << 10;
/// The log index of the entry that a write became.
const INDEX: HeaderName = HeaderName::from_static("diskstore-index");

/// What may stand behind the question mark.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    level: Option<String>,
    redirect: Option<String>,
}

/// Adds the routes of single keys.
pub(super) fn routes(router: Router) -> Router {
    let of_key = || get(read).put(write).delete(delete);
    router.route("/v1/slots/{slot}", of_key()).route("/v1/keys/{*key}", of_key())
}

impl Asked {
    /// What a request asks beside its path.
    ///
    /// # Errors
    /// A parameter that is unknown, or there twice.
    pub(super) fn of(uri: &Uri) -> Result<Asked, Problem> {
        let asked = Query::<Asked>::try_from_uri(uri);
        asked.map(|Query(asked)| asked).map_err(|error| Problem::wrong(error.body_text()))
    }

    /// How fresh a read has to be, if the request says so.
    pub(super) fn level(&self) -> Result<Option<ReadLevel>, Problem> {
        let Some(level) = &self.level else { return Ok(None) };
        Ok(Some(match level.as_str() {
            "linearizable" => ReadLevel::Linearizable,
            "lease" => ReadLevel::Lease,
            "local" => ReadLevel::Local,
            "log" => ReadLevel::Log,
            _ => return Err(Problem::wrong("level is linearizable, lease, local or log")),
        }))
    }
}

/// Sends the client to the leader, where it asked for that and another member leads.
pub(super) fn redirection(seat: &Seat, asked: &Asked, uri: &Uri) -> Option<Response> {
    asked.redirect.as_ref()?;
    let node = &seat.server.node;
    if node.is_leader() {
        return None;
    }
    let status = node.status();
    let leader = status.members.into_iter().find(|member| member.role == "leader")?;
    let location = format!("http://{}{}", leader.client, uri);
    Some((StatusCode::TEMPORARY_REDIRECT, [(LOCATION, location)]).into_response())
}

/// The key that a path names, as commands have it.
fn key_of(seat: &Seat, uri: &Uri) -> Result<Bytes, Problem> {
    let path = uri.path();
    let encoded = match path.strip_prefix(SLOTS) {
        Some(_) if seat.server.keys.slot_bytes().is_none() => {
            let message = "keys are no slots on this node: ask /v1/keys/";
            return Err(Problem::new(StatusCode::NOT_FOUND, "no_slots", message));
        }
        Some(slot) => slot,
        None => path.strip_prefix(KEYS).unwrap_or_default(),
    };
    let key = percent_decode_str(encoded).collect::<Vec<u8>>();
    Ok(Bytes::copy_from_slice(&seat.server.keys.key(&key)?))
}

async fn read(Extension(seat): Extension<Seat>, request: Request) -> Result<Response, Problem> {
    let (uri, headers) = (request.uri(), request.headers());
    let asked = Asked::of(uri)?;
    if let Some(elsewhere) = redirection(&seat, &asked, uri) {
        return Ok(elsewhere);
    }
    let command = Command::get(&key_of(&seat, uri)?)?;
    seat.requester.lock().await.called(lookup(b"get"));
    let outcome = first(seat.read(command, asked.level()?).await?)?;
    let Body::Value(value) = outcome.body else { return Err(too_long(&outcome)) };
    let Some(value) = value else { return Err(Problem::no_value()) };
    let tag = tag(outcome.version);
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
    let asked = Asked::of(&parts.uri)?;
    if let Some(elsewhere) = redirection(&seat, &asked, &parts.uri) {
        return Ok(elsewhere);
    }
    asked.level()?;
    let (key, condition) = (key_of(&seat, &parts.uri)?, condition_of(&parts.headers)?);
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
    let reply = seat.write(command).await?;
    let index = reply.index;
    let outcome = first(reply)?;
    if !outcome.changed {
        return Err(failed(&outcome));
    }
    Ok(written(index, outcome.version))
}

async fn delete(Extension(seat): Extension<Seat>, request: Request) -> Result<Response, Problem> {
    let (uri, headers) = (request.uri(), request.headers());
    let asked = Asked::of(uri)?;
    if let Some(elsewhere) = redirection(&seat, &asked, uri) {
        return Ok(elsewhere);
    }
    asked.level()?;
    let (key, condition) = (key_of(&seat, uri)?, condition_of(headers)?);
    let action = Action::Delete { condition, answer: Answer::Status };
    let command = Command::single(&Operation { key: &key, action })?;
    seat.requester.lock().await.called(lookup(b"del"));
    let reply = seat.write(command).await?;
    let index = reply.index;
    let outcome = first(reply)?;
    if outcome.changed {
        return Ok(written(index, outcome.version));
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

fn tag(version: u64) -> String {
    format!("\"{version}\"")
}

/// Whether `If-None-Match` of a read names this tag.
fn names(known: &str, tag: &str) -> bool {
    let known = known.split(',').map(str::trim);
    known
        .map(|known| known.strip_prefix("W/").unwrap_or(known))
        .any(|known| matches!(known, "*") || known == tag)
}

/// The one outcome of a reply.
fn first(reply: Reply) -> Result<Outcome, Problem> {
    let outcome = reply.outcomes.into_iter().next();
    let outcome = outcome.ok_or_else(|| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "fault", "the node's reply is incomplete")
    })?;
    match outcome.body {
        Body::Refused(refusal) => Err(refusal.into()),
        Body::Empty | Body::Value(_) | Body::Measured(_) | Body::Integer(_) => Ok(outcome),
    }
}

fn too_long(outcome: &Outcome) -> Problem {
    match outcome.body {
        Body::Measured(bytes) => {
            Problem::too_large(format!("the value is {bytes} bytes, too long for a response"))
        }
        Body::Empty | Body::Value(_) | Body::Integer(_) | Body::Refused(_) => {
            let message = "the node's reply is none to a read";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "fault", message)
        }
    }
}

/// The condition did not hold. The version of what is there is in the words: an ETag would be that of
/// the value which was sent.
fn failed(outcome: &Outcome) -> Problem {
    let version = outcome.version;
    let message = format!("the condition does not hold: the version is {version}");
    Problem::new(StatusCode::PRECONDITION_FAILED, "condition", message)
}

fn written(index: u64, version: u64) -> Response {
    let headers = [(ETAG, tag(version)), (INDEX, index.to_string())];
    (StatusCode::NO_CONTENT, headers).into_response()
}
