//! Connections that arrive when the clients' share of descriptors is used up are told why they are
//! not served. A connection that asks about the node itself (`DISKSTORE STATUS`, `DISKSTORE
//! REMOVE`, `GET /livez` and the like) is served for a while all the same: an administrator wants
//! to look at a node full of clients, and a supervisor must not take it for dead and start it anew.
//!
//! Called by the listener, which bounds how many there are; calls nothing. Invariant:
//! - I1: none of them is kept for longer than a bounded time.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::host::Stream;

/// What the others hear, in Redis' words.
pub(super) const FULL: &[u8] = b"-ERR max number of clients reached\r\n";
/// How long a late connection is served that asks about the node: longer than a removal may take.
pub(super) const ADMINISTRATION_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a late connection may take to say what it wants.
const WORD_TIME_MAX: Duration = Duration::from_secs(1);
/// Bytes of a request that are looked at: enough for its name.
const WORD_BYTES: usize = 19;
/// How the requests begin that are served: two or three words, the first of them `DISKSTORE`; or a path
/// of `http::operations`.
const WORDS: [&[u8]; 7] = [
    b"*2\r\n$9\r\nDISKSTORE\r\n",
    b"*3\r\n$9\r\nDISKSTORE\r\n",
    b"DISKSTORE ",
    b"GET /LIVEZ ",
    b"GET /READYZ ",
    b"GET /STATUS ",
    b"GET /METRICS ",
];

/// What was read of the first request of a connection, if that is about the node itself.
pub(super) async fn asks_about_the_node(stream: &mut Stream) -> Option<Vec<u8>> {
    let mut first = vec![0; WORD_BYTES];
    let read = timeout(WORD_TIME_MAX, stream.read(&mut first)).await;
    first.truncate(read.ok()?.ok()?);
    let word = first.to_ascii_uppercase();
    WORDS.iter().any(|asked| word.starts_with(asked)).then_some(first)
}
