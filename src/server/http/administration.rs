//! What an operator orders over HTTP, and reads before: the members and their votes, who leads, a
//! checkpoint, more slots, join tokens, and the flags of the node.
//!
//! Called by the router; calls the node by the connection's requester, as `DISKSTORE` of RESP does.
//! Parameters stand behind the question mark, and no request has a body. Invariants:
//!
//! - I1: an order that was begun is carried on, also if its client leaves: half of it may be done.
//! - I2: every change is for administrators alone, and no page of another site makes one (`entry`).

use axum::extract::{Extension, Request};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use axum::routing::{MethodRouter, delete, get, post};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use super::asked::Asked;
use super::json::json as answered;
use super::operations::{fault, fresh, nodes};
use super::problem::Problem;
use super::{Route, Seat, take_body};
use crate::node::{Order, OrderError};
use crate::server::access::RequestKind;
use crate::server::keys::decimal;
use crate::server::requester::join_token_time;

const MEMBERS: &str = "/v1/members/";
/// How long a join token counts unless the request says so, in seconds.
const JOIN_TOKEN_S: u64 = 3600;

/// The routes of administration.
pub(super) fn routes() -> Vec<Route> {
    let change = |path, methods: MethodRouter| Route::new(path, RequestKind::Administer, methods);
    vec![
        Route::new("/v1/members", RequestKind::Look, get(nodes)),
        change("/v1/members/{member}", delete(remove)),
        change("/v1/members/{member}/promote", post(promote)),
        change("/v1/members/{member}/demote", post(demote)),
        change("/v1/members/{member}/replace", post(replace)),
        change("/v1/transfer-leader", post(transfer_leader)),
        change("/v1/checkpoint", post(checkpoint)),
        change("/v1/resize", post(resize)),
        change("/v1/join-tokens", post(invite)),
        change("/v1/config", get(config)),
    ]
}

async fn remove(Extension(seat): Extension<Seat>, request: Request) -> Result<Response, Problem> {
    let who = named(&request)?;
    asked(request, &[]).await?;
    order(&seat, Order::Remove(who.clone())).await?;
    Ok(done(&json!({"removed": who})))
}

async fn promote(Extension(seat): Extension<Seat>, request: Request) -> Result<Response, Problem> {
    let who = named(&request)?;
    asked(request, &[]).await?;
    order(&seat, Order::Promote(who.clone())).await?;
    Ok(done(&json!({"promoted": who})))
}

async fn demote(Extension(seat): Extension<Seat>, request: Request) -> Result<Response, Problem> {
    let who = named(&request)?;
    asked(request, &[]).await?;
    order(&seat, Order::Demote(who.clone())).await?;
    Ok(done(&json!({"demoted": who})))
}

async fn replace(Extension(seat): Extension<Seat>, request: Request) -> Result<Response, Problem> {
    let old = named(&request)?;
    let asked = asked(request, &["by"]).await?;
    let new = asked.value("by").ok_or_else(|| Problem::wrong("by= names who votes instead"))?;
    let new = text(new)?;
    order(&seat, Order::Replace { old: old.clone(), new: new.clone() }).await?;
    Ok(done(&json!({"removed": old, "votes": new})))
}

async fn transfer_leader(
    Extension(seat): Extension<Seat>,
    request: Request,
) -> Result<Response, Problem> {
    let asked = asked(request, &["to"]).await?;
    let to = asked.value("to").map(text).transpose()?;
    order(&seat, Order::Lead(to.clone())).await?;
    // This node may hear of the new leader later than the old one did.
    let leader = to.or_else(|| seat.server.node.status().leader);
    Ok(done(&json!({"leader": leader})))
}

async fn resize(Extension(seat): Extension<Seat>, request: Request) -> Result<Response, Problem> {
    let asked = asked(request, &["slots"]).await?;
    let slots = asked.value("slots").and_then(decimal);
    let slots = slots.ok_or_else(|| Problem::wrong("slots= says how many there are to be"))?;
    order(&seat, Order::Resize(slots)).await?;
    Ok(done(&json!({"slots": slots})))
}

async fn invite(Extension(seat): Extension<Seat>, request: Request) -> Result<Response, Problem> {
    let asked = asked(request, &["seconds"]).await?;
    let seconds = asked.value("seconds").map_or(Some(JOIN_TOKEN_S), decimal);
    let valid_for = join_token_time(seconds)?;
    let requester = seat.requester.lock().await.clone();
    let made = carried_on(async move { requester.invite(&seat.server.node, valid_for).await });
    let token = made.await?.map_err(refused)?;
    Ok(fresh(answered(
        StatusCode::CREATED,
        &json!({"token": token, "seconds": valid_for.as_secs()}),
    )))
}

async fn checkpoint(
    Extension(seat): Extension<Seat>,
    request: Request,
) -> Result<Response, Problem> {
    asked(request, &[]).await?;
    let lacking = || {
        let reason = "no checkpoint was written: it takes long, or the disk has no room for one";
        Problem::new(StatusCode::CONFLICT, "order_refused", reason)
    };
    let server = seat.server.clone();
    let written = carried_on(async move { server.node.checkpoint().await });
    let index = written.await?.ok_or_else(lacking)?;
    Ok(done(&json!({"node": seat.server.node.config().id, "checkpoint": index})))
}

async fn config(Extension(seat): Extension<Seat>, request: Request) -> Result<Response, Problem> {
    asked(request, &[]).await?;
    let flags = seat.server.node.flags().into_iter();
    let flags: Map<String, Value> =
        flags.map(|(name, value)| (name.to_owned(), value.into())).collect();
    Ok(done(&Value::Object(flags)))
}

/// Gives an order, which is carried on whatever becomes of the client (I1).
async fn order(seat: &Seat, order: Order) -> Result<(), Problem> {
    let (server, requester) = (seat.server.clone(), seat.requester.lock().await.clone());
    let ordered = carried_on(async move { requester.order(&server.node, order).await });
    ordered.await?.map_err(refused)
}

async fn carried_on<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Problem> {
    tokio::spawn(work).await.map_err(|_| fault("the order was given up"))
}

fn refused(error: OrderError) -> Problem {
    match error {
        OrderError::Refused(reason) => Problem::new(StatusCode::CONFLICT, "order_refused", reason),
        OrderError::Failed(failure) => failure.into(),
    }
}

/// What a request without a body asks.
async fn asked(request: Request, names: &[&str]) -> Result<Asked, Problem> {
    let (parts, body) = request.into_parts();
    let asked = Asked::of(&parts.uri, &parts.headers, names)?;
    take_body(body, 0).await?;
    Ok(asked)
}

/// The member that a path names.
fn named(request: &Request) -> Result<String, Problem> {
    text(&member_in(request.uri()))
}

fn member_in(uri: &Uri) -> Vec<u8> {
    let rest = uri.path().strip_prefix(MEMBERS).unwrap_or_default();
    let name = rest.split('/').next().unwrap_or_default();
    percent_decode_str(name).collect()
}

fn text(name: &[u8]) -> Result<String, Problem> {
    let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty());
    name.map(str::to_owned).ok_or_else(|| Problem::wrong("a member is named by text"))
}

fn done(answer: &Value) -> Response {
    fresh(answered(StatusCode::OK, answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_member_with_or_without_an_order() {
        for (path, name) in [
            ("/v1/members/node2", "node2"),
            ("/v1/members/node2/promote", "node2"),
            ("/v1/members/a%2Fb%20c/demote", "a/b c"),
            ("/v1/members//demote", ""),
        ] {
            assert_eq!(member_in(&Uri::from_static(path)), name.as_bytes(), "{path}");
        }
        assert!(text(b"\xff").is_err() && text(b"").is_err());
    }
}
