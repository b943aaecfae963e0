//! Questions of the people and programs that run a node: whether it lives and serves, its version and
//! status, the other members, and a profile of where its time goes. Nothing here changes anything.
//!
//! Called by the router. Everything is answered from the node's status at that moment; no question
//! waits for another member or for the disk.

use std::borrow::Cow;
use std::time::Duration;

use axum::extract::{Extension, Request};
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use diskstore_profile::{CpuSampling, ProfileError, heap_profile};
use serde::Serialize;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::asked::Asked;
use super::json::json;
use super::problem::Problem;
use super::{Route, Seat};
use crate::server::access::{ClientRole, RequestKind};
use crate::server::keys::decimal;
use crate::status::{CATCHING_UP, MemberStatus, Status};

/// How many seconds of a CPU profile are taken unless the request says so.
const PROFILE_SECONDS_DEFAULT: u64 = 30;
/// Most seconds of a CPU profile: the profiler keeps what it samples in memory.
const PROFILE_SECONDS_MAX: u64 = 120;

/// Nothing of this is true for longer than it takes to read it.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// The members, as `/nodes` and `/v1/members` list them.
#[derive(Serialize)]
struct Nodes {
    /// Election term.
    term: u64,
    /// Name of the leader, if one is known.
    leader: Option<String>,
    /// Every member, sorted by name.
    members: Vec<MemberStatus>,
}

/// What runs here.
#[derive(Serialize)]
struct Version {
    program: &'static str,
    version: &'static str,
}

/// Whose token was presented; `default` and `admin` where none is needed.
#[derive(Serialize)]
struct WhoAmI {
    name: String,
    role: &'static str,
}

/// The routes of operations.
pub(super) fn routes() -> Vec<Route> {
    vec![
        // Who supervises a node has to know whether it lives, and can often present nothing.
        Route::new("/livez", RequestKind::Open, get(async || text("ok\n"))),
        Route::new("/readyz", RequestKind::Open, get(readiness)),
        Route::new("/status", RequestKind::Look, get(status)),
        Route::new("/nodes", RequestKind::Look, get(nodes)),
        Route::new("/version", RequestKind::Look, get(version)),
        Route::new("/v1/whoami", RequestKind::Look, get(who_am_i)),
        // A profile takes time from all clients, and shows what is done for them.
        Route::new("/debug/pprof/profile", RequestKind::Administer, get(cpu_profile)),
        Route::new("/debug/pprof/heap", RequestKind::Administer, get(heap)),
    ]
}

async fn readiness(Extension(seat): Extension<Seat>) -> Result<Response, Problem> {
    let node = &seat.server.node;
    match obstacle(&node.status(), node.config().kind().holds_values) {
        None => Ok(text("ready\n")),
        Some(reason) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", reason)),
    }
}

/// Why a node does not serve what it is there for; `None` if it does. What the whole cluster refuses
/// (a full disk of the leader, full memory) is none: its clients are served no better elsewhere.
pub(crate) fn obstacle(status: &Status, holds_values: bool) -> Option<Cow<'static, str>> {
    if status.leader.is_none() {
        return Some("no leader is known".into());
    }
    if let Some(seconds) = status.no_majority_s {
        return Some(format!("no majority of the voters was heard for {seconds} s").into());
    }
    let catching_up = status.refusals.iter().find(|refusal| refusal.code == CATCHING_UP);
    let catching_up = catching_up.filter(|_| holds_values)?;
    Some(format!("{}: {}", catching_up.reason, catching_up.doing).into())
}

async fn status(Extension(seat): Extension<Seat>) -> Response {
    fresh(json(StatusCode::OK, &seat.server.node.status()))
}

pub(super) async fn nodes(Extension(seat): Extension<Seat>) -> Response {
    let Status { term, leader, members, .. } = seat.server.node.status();
    fresh(json(StatusCode::OK, &Nodes { term, leader, members }))
}

async fn version(Extension(seat): Extension<Seat>) -> Response {
    let program = seat.server.node.config().kind().program;
    fresh(json(StatusCode::OK, &Version { program, version: env!("CARGO_PKG_VERSION") }))
}

async fn who_am_i(Extension(seat): Extension<Seat>) -> Response {
    let requester = seat.requester.lock().await;
    let role = requester.granted().map_or("none", ClientRole::name);
    fresh(json(StatusCode::OK, &WhoAmI { name: requester.user().to_owned(), role }))
}

/// Samples this process for a while. It ends early when the client leaves or the node stops.
async fn cpu_profile(
    Extension(seat): Extension<Seat>,
    request: Request,
) -> Result<Response, Problem> {
    let asked = Asked::of(request.uri(), request.headers(), &["seconds", "format"])?;
    let seconds = asked.value("seconds").map_or(Some(PROFILE_SECONDS_DEFAULT), decimal);
    let seconds = seconds.filter(|seconds| (1..=PROFILE_SECONDS_MAX).contains(seconds));
    let seconds =
        seconds.ok_or_else(|| Problem::wrong(format!("seconds are 1 to {PROFILE_SECONDS_MAX}")))?;
    let is_picture = match asked.value("format") {
        None | Some(b"pprof") => false,
        Some(b"svg") => true,
        Some(_) => return Err(Problem::wrong("format is pprof or svg")),
    };
    let sampling = CpuSampling::begin().map_err(unprofiled)?;
    // What was sampled before the node stops is as good.
    drop(timeout(Duration::from_secs(seconds), seat.stopping.clone()).await);
    let taken = move || if is_picture { sampling.flamegraph() } else { sampling.pprof() };
    let profile = blocking(taken).await?;
    if is_picture && profile.is_empty() {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "no_samples",
            "the node used no processor in that time: there is nothing to draw",
        ));
    }
    let kind = if is_picture { "image/svg+xml" } else { "application/octet-stream" };
    Ok(file(kind, if is_picture { "cpu.svg" } else { "cpu.pb" }, profile))
}

async fn heap() -> Result<Response, Problem> {
    match blocking(heap_profile).await? {
        Some(profile) => Ok(file("application/octet-stream", "heap.pb.gz", profile)),
        None => Err(Problem::new(
            StatusCode::NOT_IMPLEMENTED,
            "refused",
            "the allocator samples only if it did so from the start: start the node with \
             -memprofile FILE",
        )),
    }
}

/// Has a profile written where nobody waits for the thread.
async fn blocking<T: Send + 'static>(
    write: impl FnOnce() -> Result<T, ProfileError> + Send + 'static,
) -> Result<T, Problem> {
    let written = spawn_blocking(write).await;
    let gone = |_| fault("the profile was not written");
    written.map_err(gone)?.map_err(unprofiled)
}

fn unprofiled(error: ProfileError) -> Problem {
    match error {
        ProfileError::Running => {
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "busy", error.to_string())
        }
        error => fault(error.to_string()),
    }
}

pub(super) fn fault(message: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "fault", message)
}

fn text(words: &'static str) -> Response {
    fresh(([(CONTENT_TYPE, "text/plain; charset=utf-8")], words).into_response())
}

fn file(kind: &'static str, name: &'static str, bytes: Vec<u8>) -> Response {
    let name = format!("attachment; filename=\"{name}\"");
    let headers = [(CONTENT_TYPE, kind.to_owned()), (CONTENT_DISPOSITION, name)];
    fresh((headers, bytes).into_response())
}

pub(super) fn fresh(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::RefusalStatus;

    fn refusing(code: &str) -> Status {
        let refusal = RefusalStatus {
            code: code.to_owned(),
            reason: "local reads wait".to_owned(),
            doing: "it passes".to_owned(),
            ..RefusalStatus::default()
        };
        Status { leader: Some("node0".into()), refusals: vec![refusal], ..Status::default() }
    }

    #[test]
    fn a_node_is_ready_while_it_knows_a_leader_with_a_majority() {
        let ready = Status { leader: Some("node0".into()), ..Status::default() };
        assert_eq!(obstacle(&ready, true), None);
        assert_eq!(obstacle(&Status::default(), true), Some("no leader is known".into()));
        let alone = Status { no_majority_s: Some(7), ..ready };
        let reason = "no majority of the voters was heard for 7 s";
        assert_eq!(obstacle(&alone, true), Some(reason.into()));
    }

    #[test]
    fn what_only_this_node_refuses_makes_it_not_ready() {
        let reason = "local reads wait: it passes";
        assert_eq!(obstacle(&refusing(CATCHING_UP), true), Some(reason.into()));
        assert_eq!(obstacle(&refusing(CATCHING_UP), false), None, "it answers for no values");
        assert_eq!(obstacle(&refusing("log_space"), true), None);
    }
}
