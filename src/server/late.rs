//! Connections that are answered and not served: those that arrive when the clients' share of descriptors
//! is used up, and those that arrive while the node starts. They are told why, in HTTP or gRPC if they
//! speak that, and in RESP otherwise. A connection that asks about the node itself (`DISKSTORE STATUS`,
//! `DISKSTORE REMOVE`, `GET /livez` and the like) is served for a while all the same where there are
//! too many: an administrator wants to look at a node full of clients, and a supervisor must not take
//! it for dead and start it anew.
//!
//! Called by the listener, which bounds how many there are; calls nothing. Invariants:
//! - I1: none of them is kept for longer than a bounded time.
//! - I2: no more is read of their requests than tells the protocol.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::detect::{Protocol, detect};
use super::http::Problem;
use crate::command::Failure;
use crate::host::Stream;
use crate::tls::Tls;

/// Why a connection is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotServed {
    /// As a line of RESP, in Redis' words.
    pub(super) line: &'static [u8],
    /// For people.
    reason: &'static str,
}

/// There are too many clients.
pub(super) const FULL: NotServed = NotServed {
    line: b"-ERR max number of clients reached\r\n",
    reason: "this node has as many clients as it serves: ask another, or ask again",
};
/// The node starts.
pub(super) const STARTING: NotServed = NotServed {
    line: b"-LOADING this node starts or joins its cluster and serves nobody yet; \
      ask another, or ask again\r\n",
    reason: "this node starts or joins its cluster and serves nobody yet; ask another, or ask again",
};
/// How long a late connection is served that asks about the node: longer than a removal may take.
pub(super) const ADMINISTRATION_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a late connection may take to say what it wants.
const WORD_TIME_MAX: Duration = Duration::from_secs(1);
/// Bytes of a request that are looked at: enough for its name.
const WORD_BYTES: usize = 19;
/// How the requests begin that are served: two to four words, the first of them `DISKSTORE`; or a path
/// of `http::operations`.
const WORDS: [&[u8]; 8] = [
    b"*2\r\n$9\r\nDISKSTORE\r\n",
    b"*3\r\n$9\r\nDISKSTORE\r\n",
    b"*4\r\n$9\r\nDISKSTORE\r\n",
    b"DISKSTORE ",
    b"GET /LIVEZ ",
    b"GET /READYZ ",
    b"GET /STATUS ",
    b"GET /METRICS ",
];

/// A connection, and how its first request begins.
pub(super) struct Heard {
    pub(super) stream: Stream,
    pub(super) first: Vec<u8>,
}

/// How the first request of a connection begins, after a handshake of TLS if one comes (I2); empty if
/// nothing comes in time (I1). `None` if the handshake comes to nothing.
pub(super) async fn first_word(
    mut stream: Stream,
    tls: Option<&Arc<Tls>>,
    peer: SocketAddr,
) -> Option<Heard> {
    let first = read_word(&mut stream).await;
    let Some(tls) = tls.filter(|_| detect(&first) == Some(Protocol::Tls)) else {
        return Some(Heard { stream, first });
    };
    let mut stream = stream.under(tls, peer, BytesMut::from(first.as_slice()));
    timeout(WORD_TIME_MAX, stream.open()).await.ok()?.ok()?;
    let first = read_word(&mut stream).await;
    Some(Heard { stream, first })
}

async fn read_word(stream: &mut Stream) -> Vec<u8> {
    let mut first = vec![0; WORD_BYTES];
    let read = timeout(WORD_TIME_MAX, stream.read(&mut first)).await;
    first.truncate(read.map_or(0, Result::unwrap_or_default));
    first
}

/// Whether a request that begins so is about the node itself.
pub(super) fn asks_about_the_node(first: &[u8]) -> bool {
    let word = first.to_ascii_uppercase();
    WORDS.iter().any(|asked| word.starts_with(asked))
}

impl NotServed {
    /// What a client is told whose request begins so.
    pub(super) fn told(&self, first: &[u8]) -> Vec<u8> {
        let reason = || self.reason.to_owned();
        match detect(first) {
            Some(Protocol::Http) => {
                Problem::from(Failure::NoLeader { reason: reason() }).last_words()
            }
            Some(Protocol::Http2) => go_away(self.reason),
            _ => self.line.to_vec(),
        }
    }
}

/// What HTTP/2 has for a client that is not served: empty SETTINGS, then GOAWAY (no stream was looked at,
/// NO_ERROR) with a reason. gRPC tells its caller UNAVAILABLE.
fn go_away(reason: &str) -> Vec<u8> {
    const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
    const GOAWAY: &[u8] = b"\x07\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let length = u32::try_from(8 + reason.len()).unwrap_or_default();
    let mut frames = SETTINGS.to_vec();
    frames.put_uint(length.into(), 3);
    frames.extend_from_slice(GOAWAY);
    frames.extend_from_slice(reason.as_bytes());
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_grpc_hears_why_it_is_to_go() {
        let told = FULL.told(b"PRI * HTTP/2.0\r\n\r\n");
        let (settings, rest) = told.split_at(9);
        assert_eq!(settings, b"\0\0\0\x04\0\0\0\0\0");
        let (length, goaway) = rest.split_at(3);
        assert_eq!(usize::from(length[1]) * 256 + usize::from(length[2]), goaway.len() - 6);
        assert_eq!(goaway[6 + 8..], *FULL.reason.as_bytes());
    }

    #[test]
    fn each_is_told_in_its_protocol_why_it_is_not_served() {
        for first in [&b""[..], b"G", b"GET 4", b"PING\r\n", b"*1\r\n", b"\x16\x03\x01"] {
            assert_eq!(FULL.told(first), FULL.line, "{}", first.escape_ascii());
        }
        for first in ["GET / HTTP/1.1\r\n", "DELETE /v1/slots/7", "OPTIONS "] {
            let told = String::from_utf8(STARTING.told(first.as_bytes())).unwrap();
            let (head, body) = told.split_once("\r\n\r\n").unwrap();
            let length = format!("content-length: {}\r\nretry-after: 1\r\n", body.len());
            assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
            assert!(head.contains(&length) && head.ends_with("connection: close"), "{head}");
            assert!(body.starts_with(r#"{"error":{"code":"unavailable","message":"#), "{body}");
        }
    }
}
