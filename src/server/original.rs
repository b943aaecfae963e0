//! Commands of the original's clients, from text or protobuf alike: what they ask, and the answer.
//! Pure.
//!
//! Such a client writes every command to every replica and waits for one datagram, so a replica
//! that does not lead drops a command that names a UDP port.

#![deny(clippy::indexing_slicing)]

use crate::command::{Body, Command, CommandResult};
use crate::server::keys::Keys;
use crate::server::resp::Kind;

/// Most bytes of one command beside its value.
pub(crate) const REQUEST_SPARE_BYTES: usize = 64 << 10;

/// The three operations of the original.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Reads a value.
    Get,
    /// Sets a value.
    Set,
    /// Deletes a value.
    Delete,
}

/// One command of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// Where the answer goes by UDP; `None`: back over the connection.
    pub(crate) udp_port: Option<u16>,
    /// The command of RESP that it is; none for what cannot be read.
    pub(crate) name: &'static str,
    /// What to execute, or why not.
    pub(crate) command: Result<(Command, Kind), String>,
}

impl Request {
    /// A request for `verb` on `key`.
    pub(crate) fn new(
        udp_port: Option<u16>,
        verb: Verb,
        (key, value): (&[u8], &[u8]),
        keys: &Keys,
    ) -> Request {
        let name = match verb {
            Verb::Get => "get",
            Verb::Set => "set",
            Verb::Delete => "del",
        };
        Request { udp_port, name, command: build(verb, key, value, keys) }
    }

    /// A request that cannot be executed; the client is told over its connection.
    pub(crate) fn refused(reason: &str) -> Request {
        Request { udp_port: None, name: "", command: Err(reason.to_owned()) }
    }
}

/// Bytes after which nothing can be read any more; the connection ends with this answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unreadable(pub(crate) &'static str);

fn build(verb: Verb, key: &[u8], value: &[u8], keys: &Keys) -> Result<(Command, Kind), String> {
    let key = keys.key(key).map_err(|refusal| refusal.to_string())?;
    let value_bytes = u64::try_from(value.len()).unwrap_or(u64::MAX);
    keys.check_value(value_bytes).map_err(|refusal| refusal.to_string())?;
    let built = match verb {
        Verb::Get => Command::get(&key).map(|command| (command, Kind::Read)),
        Verb::Set => Command::set(&key, value).map(|command| (command, Kind::Write)),
        Verb::Delete => Command::delete(&key).map(|command| (command, Kind::Write)),
    };
    built.map_err(|error| error.to_string())
}

/// Appends the answer to a command: `OK: <value>` or `ERR <reason>`, and a line end.
pub(crate) fn write_result(out: &mut Vec<u8>, result: &CommandResult) {
    let body = match result {
        Err(failure) => return write_error(out, &failure.to_string()),
        Ok(reply) => reply.outcomes.first().map(|outcome| &outcome.body),
    };
    match body {
        None => write_error(out, "the reply of the node is incomplete"),
        Some(Body::Refused(refusal)) => write_error(out, &refusal.to_string()),
        Some(Body::Value(Some(value))) => write_ok(out, value),
        Some(Body::Measured(_)) => write_error(out, "the value is too long for the reply"),
        Some(Body::Value(None) | Body::Empty | Body::Integer(_)) => write_ok(out, b""),
    }
}

/// Appends the answer to a command that was not executed.
pub(crate) fn write_error(out: &mut Vec<u8>, reason: &str) {
    out.extend_from_slice(b"ERR ");
    out.extend(reason.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }));
    out.push(b'\n');
}

fn write_ok(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(b"OK: ");
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::command::{Failure, Outcome, Reply};

    fn answered(result: &CommandResult) -> String {
        let mut out = Vec::new();
        write_result(&mut out, result);
        String::from_utf8(out).unwrap()
    }

    fn with(body: Body) -> Reply {
        let outcome = Outcome { version: 1, changed: true, existed: true, body };
        Reply { index: 1, outcomes: [outcome].into_iter().collect() }
    }

    #[test]
    fn every_command_is_answered() {
        assert_eq!(
            answered(&Ok(with(Body::Value(Some(Bytes::from_static(b"a\nb")))))),
            "OK: a\nb\n"
        );
        assert_eq!(answered(&Ok(with(Body::Value(None)))), "OK: \n");
        assert_eq!(answered(&Ok(with(Body::Empty))), "OK: \n");
        assert!(answered(&Err(Failure::NoSpace)).starts_with("ERR no space left"));
        assert!(answered(&Ok(Reply::default())).starts_with("ERR "));
    }

    #[test]
    fn bad_keys_and_values_never_become_commands() {
        let keys = Keys::new(10, 4, &[]);
        let bad_key = Request::new(None, Verb::Get, (b"10", b""), &keys);
        assert_eq!(bad_key.command, Err("key must be a slot number 0..9".to_owned()));
        let long = Request::new(Some(9), Verb::Set, (b"1", b"12345"), &keys);
        assert_eq!(long.command, Err("value is 5 bytes, a slot holds at most 4".to_owned()));
        assert_eq!(long.udp_port, Some(9));
    }
}
