//! The web store's API, for the clients of an older example on the same log: `/key`, `/key/{k}` and
//! `/join`. A key without a value reads as an empty one, and a delete says nothing of what was there, as
//! there.
//!
//! `POST /join` is refused: what a node has to prove to be taken in, only it can (I3 of
//! `cluster/join.rs`).

use axum::extract::{Extension, Request};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::asked::{Asked, Pair};
use super::json::{JsonKind, JsonValue, Named, json, take_json};
use super::problem::{Problem, status_of};
use super::seat::{Noted, first};
use super::{Route, Seat};
use crate::command::{Command, FailureClass};
use crate::server::access::RequestKind;
use crate::server::resp::lookup;

const KEY: &str = "/key/";

/// The body of `POST /join`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Join {
    addr: String,
    id: String,
}

/// The routes of the web store.
pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::of_values("/key", get(no_key).post(set).delete(no_key)),
        Route::of_values("/key/", get(no_key).delete(no_key)),
        Route::of_values("/key/{key}", get(read).delete(delete)),
        Route::new("/join", RequestKind::Administer, post(join)),
    ]
}

async fn no_key() -> Problem {
    Problem::wrong("the path names no key: /key/{key}")
}

fn name_of(uri: &Uri) -> Vec<u8> {
    percent_decode_str(uri.path().strip_prefix(KEY).unwrap_or_default()).collect()
}

async fn read(Extension(seat): Extension<Seat>, request: Request) -> Result<Response, Problem> {
    let (uri, headers) = (request.uri(), request.headers());
    let asked = Asked::of(uri, headers, &[])?;
    if let Some(elsewhere) = asked.redirection(&seat, uri) {
        return Ok(elsewhere);
    }
    let name = name_of(uri);
    let found = seat.get(&name, asked.level).await?;
    let value = json!(JsonValue::of(&found.value.unwrap_or_default()));
    let name = String::from_utf8_lossy(&name).into_owned();
    Ok(json(StatusCode::OK, &Value::Object(Map::from_iter([(name, value)]))))
}

async fn set(Extension(seat): Extension<Seat>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let asked = Asked::of(&parts.uri, &parts.headers, &[])?;
    if let Some(elsewhere) = asked.redirection(&seat, &parts.uri) {
        return Ok(elsewhere);
    }
    let Named(values) =
        take_json::<Named<JsonValue>>(&parts.headers, body, JsonKind::Lenient).await?;
    if values.is_empty() {
        return Err(Problem::wrong("the object names no key"));
    }
    let mut pairs = Vec::new();
    for (name, value) in values {
        pairs.push(Pair { name: name.into_bytes(), value: value.into_bytes()? });
    }
    Ok((StatusCode::OK, seat.set_all(pairs, &parts.headers).await?).into_response())
}

async fn delete(Extension(seat): Extension<Seat>, request: Request) -> Result<Response, Problem> {
    let (uri, headers) = (request.uri(), request.headers());
    let asked = Asked::of(uri, headers, &[])?;
    if let Some(elsewhere) = asked.redirection(&seat, uri) {
        return Ok(elsewhere);
    }
    let command = Command::delete(&seat.key(&name_of(uri))?)?;
    seat.requester.lock().await.called(lookup(b"del"));
    let reply = seat.write(command, headers).await?;
    let noted = Noted::of(&reply, headers);
    first(reply)?;
    Ok((StatusCode::OK, seat.written(noted).await).into_response())
}

async fn join(Extension(seat): Extension<Seat>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    Asked::of(&parts.uri, &parts.headers, &[])?;
    let Join { addr, id } = take_json(&parts.headers, body, JsonKind::Lenient).await?;
    if addr.is_empty() || id.is_empty() {
        return Err(Problem::wrong("addr and id are required"));
    }
    let config = seat.server.node.config();
    let here = config.join_address.as_ref().unwrap_or(&config.raft_address);
    let message = format!(
        "a node joins by itself, and proves that it is there: start the new one with \
         -id NAME -join {here}, from where this address reaches this node"
    );
    let (status, code) = status_of(FailureClass::Refused);
    Err(Problem::new(status, code, message))
}
