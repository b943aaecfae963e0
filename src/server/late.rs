//! Connections that come when the clients' share of descriptors is taken: they hear why they are not
//! served. One that asks about the node itself (`DISKSTORE STATUS`, `DISKSTORE REMOVE`) is served for
//! a while all the same: a node full of clients is what an administrator wants to look at.
//!
//! Called by the listener, which bounds how many there are; calls nothing. Invariant:
//! - I1: none of them is kept for longer than a bounded time.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

/// What the others hear, in Redis' words.
pub(super) const FULL: &[u8] = b"-ERR max number of clients reached\r\n";
/// How long a late connection is served that asks about the node: longer than a removal may take.
pub(super) const ADMINISTRATION_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a late connection may take to say what it wants.
const WORD_TIME_MAX: Duration = Duration::from_secs(1);
/// Bytes of a request that are looked at: enough for its name.
const WORD_BYTES: usize = 19;
/// How the requests begin that are served: two or three words, the first of them `DISKSTORE`.
const WORDS: [&[u8]; 3] =
    [b"*2\r\n$9\r\nDISKSTORE\r\n", b"*3\r\n$9\r\nDISKSTORE\r\n", b"DISKSTORE "];

/// Whether the first request of a connection is about the node itself; it stays unread.
pub(super) async fn asks_about_the_node(stream: &TcpStream) -> bool {
    let mut first = [0; WORD_BYTES];
    let Ok(Ok(count)) = timeout(WORD_TIME_MAX, stream.peek(&mut first)).await else {
        return false;
    };
    let first = first.get(..count).unwrap_or_default().to_ascii_uppercase();
    WORDS.iter().any(|word| first.starts_with(word))
}
