//! What a node with an empty directory does before it founds a cluster: it listens.
//!
//! If a member of a cluster dials its address meanwhile, this node was a member once and was wiped;
//! founding a second cluster would take writes that the first never sees (PITFALLS 14).

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{Instant, timeout, timeout_at};

use crate::raft::{Hello, Kind, Welcome, bad_frame, split};

/// How long one caller may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);

/// Who dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contact {
    /// The cluster that knows this address as a member's.
    pub cluster_id: u128,
}

/// Listens for `time`; the first member of a cluster that dials ends it.
pub async fn listen_first(listener: &TcpListener, time: Duration) -> Option<Contact> {
    let deadline = Instant::now() + time;
    while let Ok(accepted) = timeout_at(deadline, listener.accept()).await {
        let Ok((stream, _)) = accepted else { continue };
        match timeout(HELLO_TIMEOUT, take_hello(stream)).await {
            Ok(Ok(hello)) if hello.cluster_id != 0 => {
                return Some(Contact { cluster_id: hello.cluster_id });
            }
            _ => {} // a joiner (it asks again), or garbage
        }
    }
    None
}

async fn take_hello(stream: tokio::net::TcpStream) -> std::io::Result<Hello> {
    let (mut reader, mut writer) = split(stream)?;
    let body = reader.expect(Kind::Hello).await?;
    let hello = Hello::decode(body).map_err(bad_frame)?;
    let refusal = Some("this node is only just starting; ask again".to_owned());
    Welcome { refusal }.put(&mut writer.buffer);
    writer.send().await?;
    Ok(hello)
}
