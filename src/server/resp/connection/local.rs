//! Requests about the connection itself, and others that need no node. Pure.

use std::time::SystemTime;

use bytes::Bytes;

use super::super::decode::parse_integer;
use super::super::encode::{Encoder, Version};
use super::super::local;
use super::super::refused::Complaint;
use super::super::table::Verb;
use super::watch::Watch;
use super::{Connection, Effect, OK, Question, Replies, Step};
use crate::server::hash_slot;

/// Most bytes of a client's name, or of one word about its library.
const CLIENT_TEXT_BYTES_MAX: usize = 256;

impl Connection {
    /// The reply to a request that needs no node; `None` if this one needs it.
    pub(super) fn local(&mut self, verb: Verb, rest: &[&[u8]]) -> Result<Option<Step>, Complaint> {
        let ok = Step::Answer(Bytes::from_static(OK));
        let step = match (verb, rest) {
            (Verb::Ping, []) => Step::Answer(Bytes::from_static(b"+PONG\r\n")),
            (Verb::Ping | Verb::Echo, [text]) => self.answer(|to| to.bulk(text)),
            (Verb::Ping, _) => return Err(Complaint::arity("ping")),
            (Verb::Select, [b"0"]) => ok,
            (Verb::Select, [number]) => {
                parse_integer(number).ok_or(Complaint::INTEGER)?;
                return Err(Complaint::new("ERR DB index is out of range"));
            }
            (Verb::Auth, credentials) => {
                authenticate(credentials)?;
                ok
            }
            (Verb::Unwatch, _) => {
                self.watch = Watch::Nothing;
                ok
            }
            (Verb::ReadOnly, _) => {
                self.effect = Effect::LocalReads(true);
                ok
            }
            (Verb::ReadWrite, _) => {
                self.effect = Effect::LocalReads(false);
                ok
            }
            (Verb::Time, _) => self.answer(write_time),
            (Verb::Command, rest) => self.try_answer(|to| local::command(to, rest))?,
            (Verb::Config, rest) => self.try_answer(|to| local::config(to, rest))?,
            (Verb::SlowLog, rest) => self.try_answer(|to| local::slow_log(to, rest))?,
            (Verb::Latency, rest) => self.try_answer(|to| local::latency(to, rest))?,
            (Verb::Cluster, [sub, key]) if sub.eq_ignore_ascii_case(b"keyslot") => {
                self.answer(|to| to.integer(i64::from(hash_slot::of(key))))
            }
            (Verb::Client, [sub, rest @ ..]) => return self.about_client(sub, rest),
            _ => return Ok(None),
        };
        Ok(Some(step))
    }

    /// `CLIENT ...`; `None` for what needs the registry of connections.
    fn about_client(&mut self, sub: &[u8], rest: &[&[u8]]) -> Result<Option<Step>, Complaint> {
        let ok = Ok(Some(Step::Answer(Bytes::from_static(OK))));
        let upper = sub.to_ascii_uppercase();
        match (upper.as_slice(), rest) {
            (b"ID", []) => Ok(Some(self.answer(|to| to.count(self.client.id())))),
            (b"GETNAME", []) => {
                let name = Some(self.client.name()).filter(|name| !name.is_empty());
                Ok(Some(self.answer(|to| to.value(name.as_ref().map(String::as_bytes)))))
            }
            (b"SETNAME", [name]) => {
                self.client.rename(client_text(name)?);
                ok
            }
            (b"SETINFO", [attribute, text]) => {
                let text = client_text(text)?;
                match attribute.to_ascii_uppercase().as_slice() {
                    b"LIB-NAME" => self.client.note_library(text),
                    b"LIB-VER" => self.client.note_library_version(text),
                    _ => return Err(Complaint::new("ERR Unrecognized option")),
                }
                ok
            }
            (b"NO-EVICT" | b"NO-TOUCH", [on]) => {
                let known = on.eq_ignore_ascii_case(b"on") || on.eq_ignore_ascii_case(b"off");
                if known { ok } else { Err(Complaint::SYNTAX) }
            }
            (b"REPLY", [mode]) => {
                self.replies = match (mode.to_ascii_uppercase().as_slice(), self.replies) {
                    (b"ON", _) => Replies::On,
                    (b"OFF", _) | (b"SKIP", Replies::Off) => Replies::Off,
                    (b"SKIP", _) => Replies::SkipNext,
                    _ => return Err(Complaint::SYNTAX),
                };
                ok
            }
            (b"INFO" | b"LIST", _) => Ok(None),
            (b"ID" | b"GETNAME" | b"SETNAME" | b"SETINFO" | b"NO-EVICT" | b"REPLY", _) => {
                let name = String::from_utf8_lossy(sub).to_ascii_lowercase();
                Err(Complaint::arity(&format!("client|{name}")))
            }
            (b"KILL" | b"PAUSE" | b"UNPAUSE" | b"UNBLOCK", _) => {
                Err(Complaint::refused("CLIENT", "a connection does not rule over others"))
            }
            (b"TRACKING" | b"CACHING" | b"TRACKINGINFO" | b"GETREDIR", _) => {
                Err(Complaint::refused("CLIENT", "nobody is told of changes"))
            }
            _ => Err(Complaint::subcommand("CLIENT", sub)),
        }
    }

    /// `HELLO [version [AUTH user password] [SETNAME name]]`: nothing counts unless all is right.
    pub(super) fn hello(&mut self, rest: &[&[u8]]) -> Result<Question, Complaint> {
        let Some((version, mut options)) = rest.split_first() else { return Ok(Question::Hello) };
        let version = match parse_integer(version) {
            Some(2) => Version::Two,
            Some(3) => Version::Three,
            Some(_) => return Err(Complaint::new("NOPROTO unsupported protocol version")),
            None => {
                let text = "ERR Protocol version is not an integer or out of range";
                return Err(Complaint::new(text));
            }
        };
        let mut name = None;
        while let [option, rest @ ..] = options {
            options = match (option.to_ascii_uppercase().as_slice(), rest) {
                (b"AUTH", [user, password, rest @ ..]) => {
                    authenticate(&[user, password])?;
                    rest
                }
                (b"SETNAME", [text, rest @ ..]) => {
                    name = Some(client_text(text)?);
                    rest
                }
                _ => return Err(Complaint::new("ERR Syntax error in HELLO option")),
            };
        }
        if let Some(name) = name {
            self.client.rename(name);
        }
        self.version = version;
        Ok(Question::Hello)
    }
}

/// There is no password: the default user is let in with any, as by Redis.
fn authenticate(credentials: &[&[u8]]) -> Result<(), Complaint> {
    match credentials {
        [_] => Err(Complaint::new(
            "ERR AUTH <password> called without any password configured for the default user. \
             Are you sure your configuration is correct?",
        )),
        [b"default", _] => Ok(()),
        [_, _] => {
            Err(Complaint::new("WRONGPASS invalid username-password pair or user is disabled."))
        }
        _ => Err(Complaint::SYNTAX),
    }
}

/// A word that a client says of itself: printable, without spaces, and short.
fn client_text(text: &[u8]) -> Result<String, Complaint> {
    let printable = text.iter().all(u8::is_ascii_graphic);
    if !printable || text.len() > CLIENT_TEXT_BYTES_MAX {
        return Err(Complaint::new(
            "ERR Client names cannot contain spaces, newlines or special characters.",
        ));
    }
    Ok(String::from_utf8_lossy(text).into_owned())
}

fn write_time(to: &mut Encoder<'_>) {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    to.array(2);
    to.bulk(since.as_secs().to_string().as_bytes());
    to.bulk(since.subsec_micros().to_string().as_bytes());
}
