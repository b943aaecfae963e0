//! What a node with an empty directory does before it founds a cluster: it listens.
//!
//! If a member of a cluster dials its address meanwhile, this node was a member once and was wiped;
//! founding a second cluster would take writes that the first never sees (PITFALLS 14).

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::raft::{Hello, Kind, Welcome, bad_frame, split};

/// How long one caller may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);

/// Most callers that are heard at a time.
const CALLER_COUNT_MAX: usize = 64;

/// Who dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contact {
    /// The cluster that knows this address as a member's.
    pub cluster_id: u128,
}

/// Listens for `time`; the first member of a cluster that dials ends it.
pub async fn listen_first(listener: &TcpListener, time: Duration) -> Option<Contact> {
    let mut hellos = JoinSet::new();
    let listening = async {
        loop {
            tokio::select! {
                Ok((stream, _)) = listener.accept(), if hellos.len() < CALLER_COUNT_MAX => {
                    hellos.spawn(timeout(HELLO_TIMEOUT, take_hello(stream)));
                }
                Some(hello) = hellos.join_next() => match hello {
                    Ok(Ok(Ok(hello))) if hello.cluster_id != 0 => {
                        return Contact { cluster_id: hello.cluster_id };
                    }
                    _ => {} // a joiner (it asks again), or garbage
                },
            }
        }
    };
    timeout(time, listening).await.ok()
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
