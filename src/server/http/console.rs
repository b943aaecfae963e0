//! The console: a page at `/` that shows the node and its cluster to people, and what only it asks for:
//! a picture of the slots, and keys by how they begin.
//!
//! Called by the router. The page is the files of the folder `console`, which are part of the program; its
//! style and `parts.js` are those of the page of a leaderless node, too. Invariants:
//!
//! - I1: the page asks this node alone, and runs no script but its own: `POLICY` has the browser hold
//!   that.
//! - I2: what is asked for in one request is bounded.

use std::sync::LazyLock;

use axum::extract::{Extension, Request};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::asked::Asked;
use super::json::json;
use super::listing::{LIST_COUNT_MAX, list};
use super::operations::fault;
use super::problem::Problem;
use super::{Route, Seat};
use crate::server::access::RequestKind;
use crate::server::keys::decimal;

pub(crate) const CSS: &str = "text/css; charset=utf-8";
pub(crate) const HTML: &str = "text/html; charset=utf-8";
pub(crate) const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const PAGE: &str = include_str!("console/console.html");
pub(crate) const STYLE: &str = include_str!("console/console.css");
const SCRIPT: &str =
    concat!(include_str!("console/parts.js"), "\n", include_str!("console/console.js"));
/// What the page says of itself where it may write: a client on this machine.
static WRITING_PAGE: LazyLock<String> =
    LazyLock::new(|| PAGE.replace("data-writes=\"no\"", "data-writes=\"yes\""));
/// What it says of itself where a token decides that: it asks for one.
static GUARDED_PAGE: LazyLock<String> =
    LazyLock::new(|| PAGE.replace("data-writes=\"no\"", "data-writes=\"token\""));
/// I1
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Most slots of one picture.
const PICTURE_SLOTS_MAX: u64 = 1 << 20;

/// Keys that were found.
#[derive(Debug, Serialize)]
struct Found {
    /// Percent-encoded.
    keys: Vec<String>,
}

/// The page, and what it asks for.
pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new("/", RequestKind::Open, get(page)),
        Route::new("/console.css", RequestKind::Open, get(async || part(CSS, STYLE))),
        Route::new("/console.js", RequestKind::Open, get(async || part(JAVASCRIPT, SCRIPT))),
        Route::new("/v1/map", RequestKind::Read, get(picture)),
        Route::new("/v1/keys", RequestKind::Read, get(keys)),
    ]
}

async fn page(Extension(seat): Extension<Seat>) -> Response {
    let client = seat.requester.lock().await.client().address().ip();
    let may_write = client.to_canonical().is_loopback();
    let page = if seat.server.access.is_guarded() {
        &GUARDED_PAGE
    } else if may_write {
        &WRITING_PAGE
    } else {
        PAGE
    };
    part(HTML, page)
}

/// A file that a browser loads, under the policy of all pages (I1).
pub(crate) fn part(kind: &'static str, text: &'static str) -> Response {
    let headers: [(HeaderName, &'static str); 5] = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

/// Two bits for each slot, from what memory knows: see `Slots::picture` of storage.
async fn picture(Extension(seat): Extension<Seat>, request: Request) -> Result<Response, Problem> {
    let asked = Asked::of(request.uri(), request.headers(), &["from", "count", "since"])?;
    let number = |name, default| {
        let number = asked.value(name).map_or(Some(default), decimal);
        number.ok_or_else(|| Problem::wrong(format!("{name} is no number")))
    };
    let (from, since) = (number("from", 0)?, number("since", u64::MAX)?);
    let count = number("count", PICTURE_SLOTS_MAX)?;
    if count > PICTURE_SLOTS_MAX {
        return Err(Problem::wrong(format!("a picture has at most {PICTURE_SLOTS_MAX} slots")));
    }
    let drawn = spawn_blocking(move || seat.server.node.picture(from, count, since)).await;
    let picture = drawn.map_err(|_| fault("the picture was not drawn"))?;
    let no_slots = || Problem::new(StatusCode::NOT_FOUND, "no_slots", "keys are no slots here");
    let headers = [(CONTENT_TYPE, "application/octet-stream"), (CACHE_CONTROL, "no-store")];
    Ok((headers, picture.ok_or_else(no_slots)?).into_response())
}

/// The first keys that hold a value and begin with what is asked for.
async fn keys(Extension(seat): Extension<Seat>, request: Request) -> Result<Response, Problem> {
    let asked = Asked::of(request.uri(), request.headers(), &["prefix"])?;
    let prefix = asked.value("prefix").unwrap_or_default();
    let found = list(&seat, prefix, LIST_COUNT_MAX, asked.level).await?;
    let encoded = |key: &Bytes| percent_encode(key, NON_ALPHANUMERIC).to_string();
    Ok(json(StatusCode::OK, &Found { keys: found.iter().map(encoded).collect() }))
}
