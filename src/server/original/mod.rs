//! The protocols of the original's clients, text and protobuf: turns commands into errands, and
//! their results into answers. Pure, except for `datagrams`.
//!
//! Called by the turn. Such a client writes every command to every replica and waits for one
//! datagram, so a replica that does not lead drops a command that names a UDP port.
//!
//! Invariants:
//! - I1: a client's datagrams go to the address that its connection comes from, nowhere else.

#![deny(clippy::indexing_slicing)]

mod datagrams;
mod protobuf;
mod text;

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use super::ask::Question;
use super::complaint::Complaint;
use super::keys::Keys;
use super::requester::Requester;
use super::resp::{Spec, lookup};
use super::turn::{Destination, Dialect, Errand, Then, Work};
use super::value::Value;
use crate::command::{Body, Command, CommandResult, FailureClass};

pub(crate) use datagrams::Datagrams;

/// Most bytes of one command beside its value.
const REQUEST_SPARE_BYTES: usize = 64 << 10;

/// The three operations of the original.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    /// Reads a value.
    Get,
    /// Sets a value.
    Set,
    /// Deletes a value.
    Delete,
}

impl Verb {
    /// The command of RESP that it is counted as.
    fn spec(self) -> Option<&'static Spec> {
        lookup(match self {
            Verb::Get => b"get",
            Verb::Set => b"set",
            Verb::Delete => b"del",
        })
    }
}

/// One command of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Request {
    /// Where the answer goes by UDP; `None`: back over the connection.
    udp_port: Option<u16>,
    /// The operation; none for what cannot be read.
    verb: Option<Verb>,
    /// What to execute, or why not.
    work: Result<Work, Complaint>,
}

impl Request {
    /// A request for `verb` on `key`.
    fn new(udp_port: Option<u16>, verb: Verb, key: &[u8], value: &[u8], keys: &Keys) -> Request {
        Request { udp_port, verb: Some(verb), work: build(verb, key, value, keys) }
    }

    /// A request that cannot be executed; the client is told over its connection.
    fn refused(reason: &'static str) -> Request {
        Request { udp_port: None, verb: None, work: Err(Complaint::wrong_in(reason)) }
    }
}

/// Bytes after which nothing can be read any more; the connection ends with this answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
struct Unreadable(&'static str);

fn build(verb: Verb, key: &[u8], value: &[u8], keys: &Keys) -> Result<Work, Complaint> {
    let key = keys.key(key)?;
    keys.check_value(u64::try_from(value.len()).unwrap_or(u64::MAX))?;
    Ok(match verb {
        Verb::Get => Work::Read(Command::get(&key)?),
        Verb::Set => Work::Write(Command::set(&key, value)?),
        Verb::Delete => Work::Write(Command::delete(&key)?),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Protobuf,
}

/// A connection that speaks as the original's clients do.
#[derive(Debug)]
pub(crate) struct OriginalDialect {
    form: Form,
    peer: IpAddr,
    keys: Arc<Keys>,
    requester: Requester,
}

impl OriginalDialect {
    /// A connection from `peer` that speaks text.
    pub(crate) fn text(peer: IpAddr, keys: Arc<Keys>, requester: Requester) -> OriginalDialect {
        OriginalDialect { form: Form::Text, peer, keys, requester }
    }

    /// A connection from `peer` that speaks protobuf.
    pub(crate) fn protobuf(peer: IpAddr, keys: Arc<Keys>, requester: Requester) -> OriginalDialect {
        OriginalDialect { form: Form::Protobuf, peer, keys, requester }
    }
}

impl Dialect for OriginalDialect {
    /// What is wrong with the request, if anything is.
    type Request = Option<Complaint>;
    type Unfinished<'a> = ();

    fn requester(&mut self) -> &mut Requester {
        &mut self.requester
    }

    fn take(&mut self, input: &mut BytesMut) -> Option<Errand<Option<Complaint>>> {
        let taken = match self.form {
            Form::Text => text::take(input, &self.keys),
            Form::Protobuf => protobuf::take(input, &self.keys),
        };
        let (destination, then) = (Destination::Connection, Then::More);
        let refused = |complaint, destination, then| Errand {
            request: Some(complaint),
            work: Work::Nothing,
            destination,
            reply_bytes_max: 0,
            then,
        };
        let Request { udp_port, verb, work } = match taken {
            Ok(request) => request?,
            Err(Unreadable(reason)) => {
                return Some(refused(Complaint::wrong_in(reason), destination, Then::Close));
            }
        };
        let to_port = |port| Destination::Datagram(SocketAddr::new(self.peer, port)); // I1
        let destination = udp_port.map_or(destination, to_port);
        let spec = verb.and_then(Verb::spec);
        let work = match work {
            Ok(work) => work,
            Err(complaint) => {
                self.requester.rejected(spec);
                return Some(refused(complaint, destination, then));
            }
        };
        self.requester.called(spec);
        let is_read = matches!(work, Work::Read(_));
        let reply_bytes_max = if is_read { self.keys.value_bytes_max() } else { 0 };
        Some(Errand { request: None, work, destination, reply_bytes_max, then })
    }

    fn begin_reply(
        &mut self,
        complaint: &Option<Complaint>,
        result: Option<&CommandResult>,
        out: &mut BytesMut,
    ) {
        match (complaint, result) {
            (Some(complaint), _) => write_complaint(out, complaint),
            (None, Some(result)) => write_result(out, result),
            (None, None) => {}
        }
    }

    fn go_on<'a>(
        &mut self,
        (): &mut Self::Unfinished<'a>,
        _: Option<&Value>,
        _: &mut BytesMut,
    ) -> Option<Cow<'a, Question>> {
        None
    }

    fn complain(&self, complaint: &Complaint, out: &mut BytesMut) {
        write_complaint(out, complaint);
    }
}

/// Appends the answer to a command: `OK: <value>` or `ERR <reason>`, and a line end.
fn write_result(out: &mut BytesMut, result: &CommandResult) {
    let body = match result {
        Err(failure) => return write_complaint(out, &failure.into()),
        Ok(reply) => reply.outcomes.first().map(|outcome| &outcome.body),
    };
    let complaint = match body {
        Some(Body::Value(Some(value))) => return write_ok(out, value),
        Some(Body::Value(None) | Body::Empty | Body::Integer(_)) => return write_ok(out, b""),
        Some(Body::Refused(refusal)) => refusal.into(),
        Some(Body::Measured(_)) => Complaint::too_large("the value is too long for the reply"),
        None => Complaint::new(FailureClass::Fault, "the reply of the node is incomplete"),
    };
    write_complaint(out, &complaint);
}

/// Appends the answer to a command that was not executed: one code for all classes.
fn write_complaint(out: &mut BytesMut, complaint: &Complaint) {
    out.put_slice(b"ERR ");
    for byte in complaint.text.bytes() {
        out.put_u8(if byte.is_ascii_control() { b' ' } else { byte });
    }
    out.put_u8(b'\n');
}

fn write_ok(out: &mut BytesMut, value: &[u8]) {
    out.put_slice(b"OK: ");
    out.put_slice(value);
    out.put_u8(b'\n');
}

/// Takes the next line off `input`, as debug text.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzzed_text(input: &mut BytesMut, keys: &Keys) -> Result<Option<String>, String> {
    shown(text::take(input, keys))
}

/// Takes the next message off `input`, as debug text.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzzed_protobuf(input: &mut BytesMut, keys: &Keys) -> Result<Option<String>, String> {
    shown(protobuf::take(input, keys))
}

#[cfg(any(test, fuzzing))]
fn shown(taken: Result<Option<Request>, Unreadable>) -> Result<Option<String>, String> {
    let taken = taken.map_err(|error| error.to_string())?;
    Ok(taken.map(|request| format!("{request:?}")))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::command::{Failure, Outcome, Reply};

    /// The command that a request became.
    pub(super) fn command(request: Request) -> Command {
        match request.work {
            Ok(Work::Read(command) | Work::Write(command)) => command,
            other => panic!("{other:?} is no command"),
        }
    }

    fn answered(result: &CommandResult) -> String {
        let mut out = BytesMut::new();
        write_result(&mut out, result);
        String::from_utf8(out.to_vec()).unwrap()
    }

    fn with(body: Body) -> Reply {
        let outcome = Outcome { version: 1, changed: true, existed: true, body };
        Reply { index: 1, outcomes: [outcome].into_iter().collect(), ..Reply::default() }
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
        let bad_key = Request::new(None, Verb::Get, b"10", b"", &keys);
        assert_eq!(bad_key.work.unwrap_err().text, "key must be a slot number 0..9");
        let long = Request::new(Some(9), Verb::Set, b"1", b"12345", &keys);
        let udp_port = long.udp_port;
        assert_eq!(long.work.unwrap_err().text, "value is 5 bytes, a slot holds at most 4");
        assert_eq!(udp_port, Some(9));
    }
}
