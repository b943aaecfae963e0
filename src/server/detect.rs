//! Recognises the protocol of a connection at the client port by its first bytes. Pure.
//!
//! Called by the session once per connection, and once more under TLS; of `http` it takes what an error
//! looks like there.

#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use super::http::Problem;

/// Most first bytes that are looked at: a UDP port, a dash and the longest word.
pub(crate) const PROBE_BYTES_MAX: usize = 24;
/// Most digits of the UDP port before a text command.
const PORT_DIGITS_MAX: usize = 5;

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// RESP2 or RESP3, arrays or inline.
    Resp,
    /// The ad-hoc text form.
    Text,
    /// The original's protobuf commands.
    Protobuf,
    /// HTTP/1.1.
    Http,
    /// HTTP/2, so gRPC.
    Http2,
    /// A TLS handshake.
    Tls,
    /// None of them.
    Garbage,
}

impl Protocol {
    /// Those that requests come in.
    pub(crate) const SERVED: [Protocol; 5] =
        [Protocol::Resp, Protocol::Http, Protocol::Http2, Protocol::Text, Protocol::Protobuf];

    /// Its name in the metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Protocol::Resp => "resp",
            Protocol::Text => "text",
            Protocol::Protobuf => "protobuf",
            Protocol::Http => "http",
            Protocol::Http2 => "grpc",
            Protocol::Tls => "tls",
            Protocol::Garbage => "garbage",
        }
    }
}

/// What the first bytes say; `None` if more of them are needed.
///
/// Empty lines before them are no part of any protocol here and are to be dropped before.
pub(crate) fn detect(first: &[u8]) -> Option<Protocol> {
    let (head, rest) = first.split_first()?;
    if head.is_ascii_alphanumeric() && *rest.first()? == 0 {
        return Some(Protocol::Garbage); // a member's hello, whose length happens to be a letter
    }
    match head {
        0x08 | 0x12 | 0x18 | 0x22 => Some(Protocol::Protobuf),
        0x16 => match rest.first()? {
            0x03 => Some(Protocol::Tls),
            _ => Some(Protocol::Garbage),
        },
        b'0'..=b'9' => detect_port(first),
        b'a'..=b'z' | b'A'..=b'Z' => detect_word(first),
        b'*' | b'\'' | b' ' | b'\t' => Some(Protocol::Resp),
        _ => Some(Protocol::Garbage),
    }
}

/// Digits and a dash begin a text command with a UDP port.
fn detect_port(first: &[u8]) -> Option<Protocol> {
    let digits = first.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits > PORT_DIGITS_MAX {
        return Some(Protocol::Garbage);
    }
    match first.get(digits)? {
        b'-' => Some(Protocol::Text),
        _ => Some(Protocol::Garbage),
    }
}

/// Bytes, what they may begin with, and what they are then.
type Group<'a> = (&'a [u8], &'a [&'a [u8]], Protocol);

/// A word is a text command, an HTTP method or an inline command.
fn detect_word(first: &[u8]) -> Option<Protocol> {
    const TEXT: [&[u8]; 3] = [b"get-", b"set-", b"delete-"];
    const HTTP: [&[u8]; 9] = [
        b"GET /",
        b"POST /",
        b"PUT /",
        b"HEAD /",
        b"DELETE /",
        b"OPTIONS ",
        // Not served, and answered in the client's own protocol.
        b"PATCH /",
        b"QUERY /",
        b"TRACE /",
    ];
    const HTTP2: [&[u8]; 1] = [b"PRI "];
    let lower = first.iter().take(PROBE_BYTES_MAX).map(u8::to_ascii_lowercase).collect::<Vec<_>>();
    let groups: [Group<'_>; 3] = [
        (&lower, &TEXT, Protocol::Text),
        (first, &HTTP, Protocol::Http),
        (first, &HTTP2, Protocol::Http2),
    ];
    let mut undecided = false;
    for (bytes, prefixes, protocol) in groups {
        for prefix in prefixes {
            if bytes.starts_with(prefix) {
                return Some(protocol);
            }
            undecided |= prefix.starts_with(bytes);
        }
    }
    if undecided { None } else { Some(Protocol::Resp) }
}

/// The answer, in the protocol's own terms, to a client that speaks what is not served here.
pub(crate) fn refusal(protocol: Protocol) -> &'static [u8] {
    match protocol {
        // A fatal alert: handshake_failure.
        Protocol::Tls => b"\x15\x03\x03\0\x02\x02\x28",
        Protocol::Garbage
        | Protocol::Resp
        | Protocol::Text
        | Protocol::Protobuf
        | Protocol::Http
        | Protocol::Http2 => {
            b"-ERR Protocol error: unknown protocol; this is a client port (-port) of diskstore and \
              serves RESP, HTTP, gRPC, text and protobuf\r\n"
        }
    }
}

/// The answer, in the protocol's own terms, to a client that speaks plain where TLS alone is taken.
pub(crate) fn plain_refusal(protocol: Protocol) -> Vec<u8> {
    const WORDS: &str = "TLS is spoken here, and this connection is plain: connect with TLS";
    match protocol {
        Protocol::Http => Problem::wrong(WORDS).last_words(),
        Protocol::Http2 => refusal(protocol).to_vec(),
        Protocol::Resp
        | Protocol::Text
        | Protocol::Protobuf
        | Protocol::Tls
        | Protocol::Garbage => format!("-ERR {WORDS}\r\n").into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protocol_is_told_by_its_first_bytes() {
        let cases: &[(&[u8], Protocol)] = &[
            (b"*1\r\n", Protocol::Resp),
            (b"PING\r\n", Protocol::Resp),
            (b"GET 42\r\n", Protocol::Resp),
            (b"get 42\r\n", Protocol::Resp),
            (b"getdel 4", Protocol::Resp),
            (b"get-7", Protocol::Text),
            (b"SET-7-x", Protocol::Text),
            (b"Delete-7", Protocol::Text),
            (b"15000-get-7", Protocol::Text),
            (b"\x12\x0510000", Protocol::Protobuf),
            (b"\x08\x01", Protocol::Protobuf),
            (b"\x18\x01", Protocol::Protobuf),
            (b"\x22\x01", Protocol::Protobuf),
            (b"GET / HTTP/1.1", Protocol::Http),
            (b"POST /v1", Protocol::Http),
            (b"QUERY /api/kv", Protocol::Http),
            (b"TRACE / HTTP", Protocol::Http),
            (b"OPTIONS * HTTP", Protocol::Http),
            (b"PRI * HTTP/2.0", Protocol::Http2),
            (b"\x16\x03\x01", Protocol::Tls),
            (b"\x16\x04", Protocol::Garbage),
            (b"\0\0", Protocol::Garbage),
            (b"1234567", Protocol::Garbage),
            (b"12 ", Protocol::Garbage),
            (b"\xff\xfe", Protocol::Garbage),
            (b"B\0\0\0\xe4\xf2O2\x01\0\0\0DSKP", Protocol::Garbage),
            (b"7\0\0\0", Protocol::Garbage),
        ];
        for (first, expected) in cases {
            assert_eq!(detect(first), Some(*expected), "{}", first.escape_ascii());
            let decided = (0..first.len()).find_map(|end| detect(&first[..end]));
            assert!(decided.is_none_or(|early| early == *expected), "{}", first.escape_ascii());
        }
    }

    #[test]
    fn a_decision_needs_no_more_than_the_probe() {
        for head in 0..=255_u8 {
            for fill in [b'0', b'a', b'-', b'/', b' ', 0] {
                let mut first = vec![fill; PROBE_BYTES_MAX];
                first[0] = head;
                assert!(detect(&first).is_some(), "{head} {fill}");
            }
        }
    }
}
