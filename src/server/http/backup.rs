//! A backup of what the cluster holds, as a stream: `GET /v1/backup`. Whoever may take one reads
//! every value, so this is for administrators.
//!
//! Called by the router; calls the node. Bytes of the stream: `docs/format.md`, "Backup". They are read
//! as they are taken: at most a few MiB wait for the client. If the node cannot finish, the last piece
//! says why, and the connection ends without the end of the response; so it does if the token counts no
//! longer meanwhile.

use std::io;

use axum::body::Body;
use axum::extract::{Extension, Request};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use diskstore_storage::LogIndex;
use futures_util::stream;

use super::asked::Asked;
use super::operations::fresh;
use super::problem::Problem;
use super::{Route, Seat};
use crate::node::{BackupBase, BackupError};
use crate::server::access::RequestKind;
use crate::server::keys::decimal;

/// The route of backups.
pub(super) fn routes() -> Vec<Route> {
    vec![Route::new("/v1/backup", RequestKind::Administer, get(backup))]
}

async fn backup(Extension(seat): Extension<Seat>, request: Request) -> Result<Response, Problem> {
    let asked = Asked::of(request.uri(), request.headers(), &["since", "base", "cluster"])?;
    let since = asked.value("since").map_or(Some(0), decimal);
    let since = since.ok_or_else(|| Problem::wrong("since is a log index"))?;
    let base = BackupBase {
        since: LogIndex::new(since),
        id: id(&asked, "base")?,
        cluster_id: id(&asked, "cluster")?,
    };
    let stream = seat.server.node.backup(base).await.map_err(|error| match error {
        BackupError::Failed(failure) => failure.into(),
        BackupError::Refused(reason) => Problem::new(StatusCode::CONFLICT, "no_base", reason),
    })?;
    let requester = seat.requester.lock().await.clone();
    let pieces = stream::unfold(Some((stream, requester)), async |taken| {
        let (mut stream, mut requester) = taken?;
        let piece = stream.recv().await?;
        requester.renew();
        if requester.may(RequestKind::Administer) {
            return Some((piece, Some((stream, requester))));
        }
        // Without its end record it is no backup.
        Some((Err(io::Error::other("the token counts no longer")), None))
    });
    let headers = [
        (CONTENT_TYPE, "application/octet-stream"),
        (CONTENT_DISPOSITION, "attachment; filename=\"diskstore.backup\""),
    ];
    Ok(fresh((headers, Body::from_stream(pieces)).into_response()))
}

/// An id of 32 hexadecimal digits; 0 where none is named.
fn id(asked: &Asked, name: &'static str) -> Result<u128, Problem> {
    let Some(digits) = asked.value(name) else { return Ok(0) };
    let text = std::str::from_utf8(digits).ok();
    let text = text.filter(|text| text.len() == 32 && !text.starts_with('+'));
    let id = text.and_then(|text| u128::from_str_radix(text, 16).ok());
    id.ok_or_else(|| Problem::wrong(format!("{name} is an id of 32 hexadecimal digits")))
}
