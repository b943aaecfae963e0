//! The console of a leaderless node or coordinator: a page at `/` that says how it is and what others it
//! hears, and reads and writes one key.
//!
//! Called by `http`. Style, policy and what pages share are those of the other programs' console
//! (`http/console.rs`). Invariant:
//!
//! - I1: the page asks this node alone, and may write only where its client is on this machine.

use std::net::IpAddr;
use std::sync::LazyLock;

use axum::Router;
use axum::extract::Extension;
use axum::response::Response;
use axum::routing::get;

use crate::server::http::{CSS, HTML, JAVASCRIPT, STYLE, part};

const PAGE: &str = include_str!("console/console.html");
const SCRIPT: &str =
    concat!(include_str!("../http/console/parts.js"), "\n", include_str!("console/console.js"));
/// What the page says of itself where it may write.
static WRITING_PAGE: LazyLock<String> =
    LazyLock::new(|| PAGE.replace("data-writes=\"no\"", "data-writes=\"yes\""));

/// The page and what it is made of.
pub(super) fn routes() -> Router {
    Router::new()
        .route("/", get(page))
        .route("/console.css", get(async || part(CSS, STYLE)))
        .route("/console.js", get(async || part(JAVASCRIPT, SCRIPT)))
}

/// Our end of the connection is a loopback address if and only if the client's is.
async fn page(Extension(local): Extension<IpAddr>) -> Response {
    let may_write = local.to_canonical().is_loopback();
    part(HTML, if may_write { &WRITING_PAGE } else { PAGE })
}
