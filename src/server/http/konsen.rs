//! konsen's API, for its clients: `/api/kv`, `/api/keys`, `/api/status`, `/konsen`, `/health` and
//! `/ready`, in its shapes and with its codes. Names of JSON come in the order of the alphabet, as
//! there.
//!
//! What is not as there: a leader that was deposed answers no read, nothing is acknowledged that another
//! leader may have dropped, a list is as fresh as any read, and a key may be deleted over the other
//! APIs. A value that is no UTF-8 has `"encoding":"base64"` beside it, where konsen would change it.

use std::collections::{BTreeMap, HashSet};

use axum::extract::{Extension, Request};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::asked::{Asked, Pair, form};
use super::json::{JsonKind, base64, content_type, from_base64, json, take_json};
use super::listing::{LIST_COUNT_MAX, list};
use super::problem::Problem;
use super::{BODY_BYTES_MAX, Route, Seat, take_body};
use crate::server::access::RequestKind;

/// Keys that are listed unless the client says how many.
const LIST_COUNT: usize = 100;
const NO_KEY: &str = "missing required query parameter: key";
/// What there is to say of a failure that konsen has no word for.
const INTERNAL: &str = "internal server error";
/// What a browser is to take for text is not looked at for anything else.
const AS_TEXT: [(HeaderName, HeaderValue); 2] = [
    (CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
];

/// The body of `POST /api/kv`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyValue {
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: String,
    encoding: Option<String>,
}

/// The routes of konsen.
pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::of_values("/api/kv", get(get_json).post(set_json)),
        Route::new("/api/keys", RequestKind::Read, get(list_json)),
        Route::new("/api/status", RequestKind::Look, get(status)),
        Route::of_values("/konsen", get(get_text).post(set_text)),
        Route::new("/health", RequestKind::Look, get(health)),
        Route::new("/ready", RequestKind::Look, get(ready)),
    ]
}

async fn get_json(Extension(seat): Extension<Seat>, request: Request) -> Response {
    in_json(read(&seat, request, as_json).await)
}

async fn get_text(Extension(seat): Extension<Seat>, request: Request) -> Response {
    in_text(read(&seat, request, as_text).await)
}

async fn set_json(Extension(seat): Extension<Seat>, request: Request) -> Response {
    in_json(write_json(&seat, request).await)
}

async fn set_text(Extension(seat): Extension<Seat>, request: Request) -> Response {
    in_text(write_form(&seat, request).await)
}

async fn list_json(Extension(seat): Extension<Seat>, request: Request) -> Response {
    in_json(read_keys(&seat, request).await)
}

async fn read(
    seat: &Seat,
    request: Request,
    shape: fn(&[u8], Option<Bytes>) -> Response,
) -> Result<Response, Problem> {
    let (uri, headers) = (request.uri(), request.headers());
    let asked = Asked::of(uri, headers, &["key"])?;
    let key = asked.value("key").filter(|key| !key.is_empty());
    let key = key.ok_or_else(|| Problem::wrong(NO_KEY))?;
    if let Some(elsewhere) = asked.redirection(seat, uri) {
        return Ok(elsewhere);
    }
    let found = seat.get(key, asked.level).await?;
    Ok(shape(key, found.value))
}

fn as_json(key: &[u8], value: Option<Bytes>) -> Response {
    let key = String::from_utf8_lossy(key);
    let body = match value.map(|value| String::from_utf8(value.into())) {
        None => json!({ "found": false, "key": key }),
        Some(Ok(text)) => json!({ "found": true, "key": key, "value": text }),
        Some(Err(bytes)) => {
            let value = base64(bytes.as_bytes());
            json!({ "encoding": "base64", "found": true, "key": key, "value": value })
        }
    };
    json(StatusCode::OK, &body)
}

fn as_text(_key: &[u8], value: Option<Bytes>) -> Response {
    (AS_TEXT, value.unwrap_or_default()).into_response()
}

async fn write_json(seat: &Seat, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let asked = Asked::of(&parts.uri, &parts.headers, &[])?;
    if let Some(elsewhere) = asked.redirection(seat, &parts.uri) {
        return Ok(elsewhere);
    }
    let KeyValue { key, value, encoding } =
        take_json(&parts.headers, body, JsonKind::Lenient).await?;
    if key.is_empty() {
        return Err(Problem::wrong("key is required"));
    }
    let value = match encoding.as_deref() {
        None => value.into_bytes(),
        Some("base64") => from_base64(&value)?,
        Some(_) => return Err(Problem::wrong("encoding is base64, or is not there")),
    };
    let told = seat.set_all(vec![Pair { name: key.into_bytes(), value }], &parts.headers).await?;
    Ok((told, json(StatusCode::OK, &json!({ "success": true }))).into_response())
}

/// The first value of each name counts, as there.
async fn write_form(seat: &Seat, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let asked = Asked::of(&parts.uri, &parts.headers, &[])?;
    if let Some(elsewhere) = asked.redirection(seat, &parts.uri) {
        return Ok(elsewhere);
    }
    if content_type(&parts.headers)? != "application/x-www-form-urlencoded" {
        let message = "the body is a form: Content-Type: application/x-www-form-urlencoded";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", message));
    }
    let mut pairs = form(&take_body(body, BODY_BYTES_MAX).await?)?;
    let mut names = HashSet::new();
    pairs.retain(|pair| names.insert(pair.name.clone()));
    if pairs.is_empty() {
        return Err(Problem::wrong("the form names no key"));
    }
    let told = seat.set_all(pairs, &parts.headers).await?;
    Ok((told, AS_TEXT, "").into_response())
}

async fn read_keys(seat: &Seat, request: Request) -> Result<Response, Problem> {
    let (uri, headers) = (request.uri(), request.headers());
    let asked = Asked::of(uri, headers, &["prefix", "limit"])?;
    if let Some(elsewhere) = asked.redirection(seat, uri) {
        return Ok(elsewhere);
    }
    let keys = list(seat, asked.value("prefix").unwrap_or_default(), limit(&asked), asked.level);
    let keys = keys.await?;
    // A name that is no UTF-8 cannot be one in JSON.
    let keys = keys.iter().map(|key| String::from_utf8_lossy(key)).collect::<Vec<_>>();
    Ok(json(StatusCode::OK, &json!({ "keys": keys })))
}

/// How many keys are asked for. As there, what is no number means the usual, and 0 all, which here are
/// no more than the most.
fn limit(asked: &Asked) -> usize {
    let text = asked.value("limit").and_then(|text| std::str::from_utf8(text).ok());
    match text.and_then(|text| text.parse::<i64>().ok()) {
        None | Some(i64::MIN..0) => LIST_COUNT,
        Some(0) => LIST_COUNT_MAX,
        Some(count) => {
            usize::try_from(count).map_or(LIST_COUNT_MAX, |count| count.min(LIST_COUNT_MAX))
        }
    }
}

async fn status(Extension(seat): Extension<Seat>) -> Response {
    let status = seat.server.node.status();
    let others = status.members.iter().filter(|member| member.id != status.member_id);
    let matched = others.filter_map(|member| Some((member.name.as_str(), member.matched?)));
    let matched: BTreeMap<_, _> =
        if status.role == "leader" { matched.collect() } else { [].into() };
    let next: BTreeMap<_, _> = matched.iter().map(|(name, index)| (*name, index + 1)).collect();
    let body = json!({
        "commitIndex": status.committed,
        "currentLeader": status.leader.as_deref().unwrap_or_default(),
        "currentTerm": status.term,
        "lastApplied": status.applied,
        "logCount": status.last_log,
        "matchIndex": matched,
        "nextIndex": next,
        "node": status.name,
        "role": status.role.to_ascii_uppercase(),
    });
    json(StatusCode::OK, &body)
}

/// Answers as long as the node serves.
async fn health(Extension(seat): Extension<Seat>) -> Response {
    json(StatusCode::OK, &standing(&seat, "healthy"))
}

/// Ready is who knows a leader that a majority follows, as far as it can tell.
async fn ready(Extension(seat): Extension<Seat>) -> Response {
    let status = seat.server.node.status();
    if status.leader.is_some() && status.no_majority_s.is_none() {
        return json(StatusCode::OK, &standing(&seat, "ready"));
    }
    let body = json!({ "reason": "no leader elected", "status": "not ready" });
    json(StatusCode::SERVICE_UNAVAILABLE, &body)
}

fn standing(seat: &Seat, word: &str) -> Value {
    let status = seat.server.node.status();
    let leader = status.leader.unwrap_or_default();
    json!({ "leader": leader, "role": status.role.to_ascii_uppercase(), "status": word })
}

/// A problem in konsen's shape, with the code and the reason beside it where there is a word for it.
fn in_json(result: Result<Response, Problem>) -> Response {
    result.unwrap_or_else(|problem| {
        let status = status_of(&problem);
        let body = if status == StatusCode::INTERNAL_SERVER_ERROR {
            json!({ "code": problem.code, "error": INTERNAL, "reason": problem.message })
        } else {
            json!({ "error": problem.message })
        };
        again_later(&problem, json(status, &body))
    })
}

/// A problem as text: konsen's word, and behind it the reason.
fn in_text(result: Result<Response, Problem>) -> Response {
    result.unwrap_or_else(|problem| {
        let status = status_of(&problem);
        let text = if status == StatusCode::INTERNAL_SERVER_ERROR {
            format!("{INTERNAL}: {}: {}", problem.code, problem.message)
        } else {
            problem.message.to_string()
        };
        again_later(&problem, (status, AS_TEXT, text).into_response())
    })
}

/// konsen knows that the request is wrong, and that it cannot answer.
fn status_of(problem: &Problem) -> StatusCode {
    let is_wrong = problem.status.is_client_error() && !problem.passes();
    if is_wrong { problem.status } else { StatusCode::INTERNAL_SERVER_ERROR }
}

fn again_later(problem: &Problem, mut response: Response) -> Response {
    if problem.passes() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use axum::http::HeaderMap;

    use super::*;
    use crate::command::Failure;

    async fn text(response: Response) -> String {
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 1 << 10).await.unwrap();
        format!("{status} {}", String::from_utf8_lossy(&body))
    }

    #[tokio::test]
    async fn values_have_the_shapes_of_konsen() {
        let value = |bytes| Some(Bytes::from_static(bytes));
        for (found, json, raw) in [
            (None, r#"200 {"found":false,"key":"k"}"#, "200 "),
            (value(b"a\n"), r#"200 {"found":true,"key":"k","value":"a\n"}"#, "200 a\n"),
            (
                value(b"\xff\0"),
                r#"200 {"encoding":"base64","found":true,"key":"k","value":"/wA="}"#,
                "200 \u{fffd}\0",
            ),
        ] {
            assert_eq!(text(as_json(b"k", found.clone())).await, json);
            assert_eq!(text(as_text(b"k", found)).await, raw);
        }
    }

    #[tokio::test]
    async fn problems_have_the_shapes_of_konsen_and_their_reasons() {
        let busy = || Problem::from(Failure::Busy { reason: "r".to_owned() });
        let wrong = || Problem::wrong(NO_KEY);
        assert_eq!(
            text(in_json(Err(wrong()))).await,
            r#"400 {"error":"missing required query parameter: key"}"#
        );
        assert_eq!(text(in_text(Err(wrong()))).await, format!("400 {NO_KEY}"));
        let expected = r#"500 {"code":"busy","error":"internal server error","reason":"busy: r"}"#;
        assert_eq!(text(in_json(Err(busy()))).await, expected);
        assert_eq!(in_json(Err(busy())).headers().get(RETRY_AFTER).unwrap(), "1");
        assert_eq!(text(in_text(Err(busy()))).await, "500 internal server error: busy: busy: r");
        assert!(in_text(Err(wrong())).headers().get(RETRY_AFTER).is_none());
    }

    #[test]
    fn how_many_keys_are_listed_is_read_as_konsen_reads_it() {
        for (text, count) in [
            ("", 100),
            ("?limit=", 100),
            ("?limit=x", 100),
            ("?limit=-1", 100),
            ("?limit=0", 1000),
            ("?limit=7", 7),
            ("?limit=1001", 1000),
            ("?limit=99999999999999999999", 100),
        ] {
            let uri = format!("/api/keys{text}").parse().unwrap();
            assert_eq!(limit(&Asked::of(&uri, &HeaderMap::new(), &["limit"]).unwrap()), count);
        }
    }
}
