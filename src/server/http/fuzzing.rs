//! A connection of HTTP over given bytes, whose requests are read as far as that needs no node.

use std::future::{pending, ready};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::response::IntoResponse;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Builder;

use super::asked::{Asked, form};
use super::json::{JsonValue, Named, content_type};
use super::{HEAD_TIME_MAX, Request, Response, UNTAKEN_TIME_MAX, batch, entry, serve_by};
use crate::server::counters::Counters;
use crate::server::keys::Keys;
use crate::server::socket::{Backlog, Share};
use crate::server::wire::{Unsent, Wire};

/// Bytes on their way to the connection, and as many back.
const PIPE_BYTES: usize = 1 << 20;
/// Most bytes of a body that is looked at.
const BODY_BYTES_MAX: usize = 1 << 16;
/// What some route asks for behind its question mark.
const NAMES: &[&str] = &["key", "prefix", "limit", "from", "count", "since", "seconds"];

/// Serves `input` as all that one client sends.
pub(crate) fn fuzz(input: &[u8], keys: &Keys) {
    let runtime = Builder::new_current_thread().enable_time().build();
    runtime.expect("invariant: it takes no thread").block_on(async {
        let (ours, mut client) = tokio::io::duplex(PIPE_BYTES);
        let input = input.get(..PIPE_BYTES).unwrap_or(input);
        client.write_all(input).await.expect("invariant: the pipe has room");
        client.shutdown().await.expect("invariant: nothing was shut down yet");
        let unsent = Unsent::new(Share::new(Arc::new(Backlog::new(UNTAKEN_TIME_MAX))));
        let counters = Arc::new(Counters::default());
        let wire = Wire::new(Bytes::new(), ours, counters, Arc::new(unsent), UNTAKEN_TIME_MAX);
        let answered = |request: Request| Box::pin(answer(request, keys.clone()));
        let served = serve_by(wire, HEAD_TIME_MAX, answered, pending());
        // What does not end by itself waits for a client that says no more.
        let mut told = Vec::new();
        let read = client.read_to_end(&mut told);
        let ended = async {
            drop(served.await);
        };
        tokio::select! { () = ended => {}, _ = read => {}, () = pause() => {} }
    });
}

/// Until nothing else can go on.
async fn pause() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

async fn answer(request: Request, keys: Keys) -> Response {
    if let Err(problem) = entry::check(&request, IpAddr::V4(Ipv4Addr::LOCALHOST), None) {
        return super::closing(problem);
    }
    let asked = Asked::of(request.uri(), request.headers(), NAMES);
    drop(content_type(request.headers()));
    let body = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX).await.unwrap_or_default();
    drop(form(&body));
    if let Ok(Named(values)) = serde_json::from_slice::<Named<JsonValue>>(&body) {
        drop(values.into_iter().map(|(_, value)| value.into_bytes()).collect::<Vec<_>>());
    }
    batch::fuzz(&body, &keys);
    ready(asked.map(|_| ()).into_response()).await
}
