//! Commands about the connection itself. Pure.

use super::super::connection::{Connection, Effect, Replies, Step};
use super::super::encode::Version;
use super::super::table::Spec;
use super::{exactly, integer};
use crate::command::FailureClass;
use crate::server::access::{Credentials, RequestKind, WRONG_CREDENTIALS};
use crate::server::ask::Question;
use crate::server::complaint::Complaint;
use crate::server::keys::decimal;
use crate::server::value::Value;

/// Most bytes of a client's name, or of one word about its library.
const CLIENT_TEXT_BYTES_MAX: usize = 256;

#[rustfmt::skip]
pub(super) const ROWS: &[Spec] = &[
    Spec::other("acl", -2, acl, "Answers the name of the token that was presented (WHOAMI)."),
    Spec::at_once("auth", -2, auth, "Presents a token, with its name or without.").kind(RequestKind::Open),
    Spec::other("client", -2, client, "Names connections, and lists them (role `admin`).").forbidding(client_reply),
    Spec::other("echo", 2, echo, "Answers its argument."),
    Spec::other("hello", -1, hello, "Agrees on the version of the protocol; presents a token.").kind(RequestKind::Open).forbidding(hello_version),
    Spec::other("ping", -1, ping, "Answers PONG, or its argument."),
    Spec::at_once("quit", -1, quit, "Closes the connection.").kind(RequestKind::Open),
    Spec::other("readonly", 1, read_only, "Reads this replica from now on."),
    Spec::other("readwrite", 1, read_write, "Reads as the node is set to again."),
    Spec::at_once("reset", 1, reset, "Puts the connection back to its beginning.").kind(RequestKind::Open),
    Spec::other("select", 2, select, "Selects database 0, the only one."),
];

const ANSWERED: Result<Step, Complaint> = Ok(Step::Answer(Value::OK));

/// `PING [text]`
fn ping(connection: &mut Connection, arguments: &[&[u8]]) -> Result<Step, Complaint> {
    match arguments {
        // In RESP2 it has to look like a message.
        [] | [_] if connection.only_listens() => {
            let text = arguments.first().copied().unwrap_or_default();
            Ok(Step::Answer(Value::Array(vec![Value::known("pong"), Value::word(text)])))
        }
        [] => Ok(Step::Answer(Value::Status("PONG"))),
        [text] => Ok(Step::Answer(Value::word(text))),
        _ => Err(Complaint::arity("ping")),
    }
}

/// `ECHO text`
fn echo(_: &mut Connection, arguments: &[&[u8]]) -> Result<Step, Complaint> {
    let [text] = exactly(arguments)?;
    Ok(Step::Answer(Value::word(text)))
}

/// `SELECT number`
fn select(_: &mut Connection, arguments: &[&[u8]]) -> Result<Step, Complaint> {
    let [number] = exactly(arguments)?;
    if number == b"0" {
        return ANSWERED;
    }
    integer(number)?;
    Err(Complaint::wrong("DB index is out of range"))
}

/// `AUTH [name] token`
fn auth(connection: &mut Connection, arguments: &[&[u8]]) -> Result<Step, Complaint> {
    authenticate(connection, arguments)?;
    ANSWERED
}

/// `ACL WHOAMI`; all else that Redis has there is done in the file of `-tokens`.
fn acl(connection: &mut Connection, arguments: &[&[u8]]) -> Result<Step, Complaint> {
    match arguments {
        [sub] if sub.eq_ignore_ascii_case(b"whoami") => {
            Ok(Step::Answer(Value::word(connection.requester().user())))
        }
        [sub, ..] if sub.eq_ignore_ascii_case(b"whoami") => Err(Complaint::arity("acl|whoami")),
        _ => Err(Complaint::refused("ACL", "who may do what is in the file of -tokens")),
    }
}

/// `READONLY`
fn read_only(connection: &mut Connection, _: &[&[u8]]) -> Result<Step, Complaint> {
    connection.effect = Effect::LocalReads(true);
    ANSWERED
}

/// `READWRITE`
fn read_write(connection: &mut Connection, _: &[&[u8]]) -> Result<Step, Complaint> {
    connection.effect = Effect::LocalReads(false);
    ANSWERED
}

/// `QUIT`
fn quit(_: &mut Connection, _: &[&[u8]]) -> Result<Step, Complaint> {
    Ok(Step::Close(Value::OK))
}

/// `RESET`
fn reset(connection: &mut Connection, _: &[&[u8]]) -> Result<Step, Complaint> {
    connection.reset();
    Ok(Step::Answer(Value::Status("RESET")))
}

/// `CLIENT ...`
fn client(connection: &mut Connection, arguments: &[&[u8]]) -> Result<Step, Complaint> {
    let (sub, rest) = arguments.split_first().ok_or(Complaint::SYNTAX)?;
    let client = connection.client();
    let upper = sub.to_ascii_uppercase();
    let answer = match (upper.as_slice(), rest) {
        (b"ID", []) => Value::count(client.id()),
        (b"GETNAME", []) => {
            let name = Some(client.name()).filter(|name| !name.is_empty());
            name.map_or(Value::Null, |name| Value::word(&name))
        }
        (b"SETNAME", [name]) => {
            client.rename(client_text(name)?);
            Value::OK
        }
        (b"SETINFO", [attribute, text]) => {
            let text = client_text(text)?;
            match attribute.to_ascii_uppercase().as_slice() {
                b"LIB-NAME" => client.note_library(text),
                b"LIB-VER" => client.note_library_version(text),
                _ => return Err(Complaint::wrong("Unrecognized option")),
            }
            Value::OK
        }
        (b"NO-EVICT" | b"NO-TOUCH", [on]) => {
            let known = on.eq_ignore_ascii_case(b"on") || on.eq_ignore_ascii_case(b"off");
            if known { Value::OK } else { return Err(Complaint::SYNTAX) }
        }
        (b"REPLY", [mode]) => {
            let replies = match (mode.to_ascii_uppercase().as_slice(), connection.replies) {
                (b"ON", _) => Replies::On,
                (b"OFF", _) | (b"SKIP", Replies::Off) => Replies::Off,
                (b"SKIP", _) => Replies::SkipNext,
                _ => return Err(Complaint::SYNTAX),
            };
            connection.replies = replies;
            Value::OK
        }
        (b"INFO", _) => return Ok(Step::Ask(Question::ClientInfo)),
        (b"LIST", filter) => return client_list(filter).map(Step::Ask),
        _ => return Err(client_complaint(sub, &upper)),
    };
    Ok(Step::Answer(answer))
}

/// What is wrong with `CLIENT sub ...`.
fn client_complaint(sub: &[u8], upper: &[u8]) -> Complaint {
    match upper {
        b"ID" | b"GETNAME" | b"SETNAME" | b"SETINFO" | b"NO-EVICT" | b"REPLY" => {
            let name = String::from_utf8_lossy(sub).to_ascii_lowercase();
            Complaint::arity(&format!("client|{name}"))
        }
        b"KILL" | b"PAUSE" | b"UNPAUSE" | b"UNBLOCK" => {
            Complaint::refused("CLIENT", "a connection does not rule over others")
        }
        b"TRACKING" | b"CACHING" | b"TRACKINGINFO" | b"GETREDIR" => {
            Complaint::refused("CLIENT", "nobody is told of changes")
        }
        _ => Complaint::subcommand("CLIENT", sub),
    }
}

/// CLIENT REPLY would change how the rest of a transaction's reply is written.
fn client_reply(arguments: &[&[u8]]) -> Option<&'static str> {
    let is_reply = arguments.first().is_some_and(|sub| sub.eq_ignore_ascii_case(b"reply"));
    is_reply.then_some("CLIENT REPLY")
}

/// HELLO with a version would, too.
fn hello_version(arguments: &[&[u8]]) -> Option<&'static str> {
    (!arguments.is_empty()).then_some("HELLO with a version")
}

/// `CLIENT LIST [TYPE normal | master | replica | pubsub] [ID number...]`: every connection of this
/// port is a normal client's, or that of one who listens to channels.
fn client_list(filter: &[&[u8]]) -> Result<Question, Complaint> {
    let (mut ids, mut has_normal, mut has_listening, mut rest) = (Vec::new(), true, true, filter);
    while let [option, behind @ ..] = rest {
        match (option.to_ascii_uppercase().as_slice(), behind) {
            (b"TYPE", [kind, behind @ ..]) => {
                let (normal, listening) = match kind.to_ascii_lowercase().as_slice() {
                    b"normal" => (true, false),
                    b"pubsub" => (false, true),
                    b"master" | b"replica" | b"slave" => (false, false),
                    _ => return Err(Complaint::unknown_client_type(kind)),
                };
                has_normal &= normal;
                has_listening &= listening;
                rest = behind;
            }
            (b"ID", [_, ..]) => {
                let numbers = behind.iter().take_while(|text| decimal(text).is_some());
                let count = numbers.count();
                let (numbers, behind) = behind.split_at(count);
                if count == 0 {
                    return Err(Complaint::wrong("Invalid client ID"));
                }
                ids.extend(numbers.iter().filter_map(|text| decimal(text)));
                rest = behind;
            }
            _ => return Err(Complaint::SYNTAX),
        }
    }
    let listening = match (has_normal, has_listening) {
        (true, true) => None,
        (false, false) => return Ok(Question::NoClients),
        (_, listening) => Some(listening),
    };
    Ok(Question::ClientList { ids, listening })
}

/// `HELLO [version [AUTH user password] [SETNAME name]]`: nothing counts unless all is right.
fn hello(connection: &mut Connection, arguments: &[&[u8]]) -> Result<Step, Complaint> {
    let asked = |version: Version| Ok(Step::Ask(Question::Hello { version: version.number() }));
    let Some((version, mut options)) = arguments.split_first() else {
        if !connection.requester().may(RequestKind::Look) {
            return Err(connection.requester().denied_hello());
        }
        return asked(connection.version);
    };
    let version = match super::parse_integer(version) {
        Some(2) => Version::Two,
        Some(3) => Version::Three,
        Some(_) => {
            let text = "unsupported protocol version";
            return Err(Complaint::new(FailureClass::ProtocolVersion, text));
        }
        None => {
            let text = "Protocol version is not an integer or out of range";
            return Err(Complaint::wrong(text));
        }
    };
    let (mut name, mut credentials) = (None, None);
    while let [option, rest @ ..] = options {
        options = match (option.to_ascii_uppercase().as_slice(), rest) {
            (b"AUTH", [user, password, rest @ ..]) => {
                credentials = Some([*user, *password]);
                rest
            }
            (b"SETNAME", [text, rest @ ..]) => {
                name = Some(client_text(text)?);
                rest
            }
            _ => return Err(Complaint::wrong("Syntax error in HELLO option")),
        };
    }
    if let Some(credentials) = credentials {
        authenticate(connection, &credentials)?;
    }
    if !connection.requester().may(RequestKind::Look) {
        return Err(connection.requester().denied_hello());
    }
    if let Some(name) = name {
        connection.client().rename(name);
    }
    connection.version = version;
    asked(version)
}

/// Where no tokens are needed, the default user is let in with any password, as by Redis.
fn authenticate(connection: &mut Connection, credentials: &[&[u8]]) -> Result<(), Complaint> {
    let is_guarded = connection.requester().is_guarded();
    match credentials {
        [_] if !is_guarded => Err(Complaint::wrong(
            "AUTH <password> called without any password configured for the default user. \
             Are you sure your configuration is correct?",
        )),
        [b"default", _] if !is_guarded => Ok(()),
        [_, _] if !is_guarded => {
            Err(Complaint::new(FailureClass::Unauthenticated, WRONG_CREDENTIALS))
        }
        [token] => present(connection, Credentials { name: None, token }),
        [name, token] => present(connection, Credentials { name: Some(name), token }),
        _ => Err(Complaint::SYNTAX),
    }
}

/// Presents a token; a wrong one is answered alone and late, so that nobody tries many at once.
pub(super) fn present(
    connection: &mut Connection,
    credentials: Credentials<'_>,
) -> Result<(), Complaint> {
    let presented = connection.requester().authenticate(credentials);
    if presented.is_err() {
        connection.effect = Effect::Held;
    }
    presented
}

/// A word that a client says of itself: printable, without spaces, and short.
fn client_text(text: &[u8]) -> Result<String, Complaint> {
    let printable = text.iter().all(u8::is_ascii_graphic);
    if !printable || text.len() > CLIENT_TEXT_BYTES_MAX {
        return Err(Complaint::wrong(
            "Client names cannot contain spaces, newlines or special characters.",
        ));
    }
    Ok(String::from_utf8_lossy(text).into_owned())
}
