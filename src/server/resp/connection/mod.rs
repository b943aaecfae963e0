//! One RESP connection: each request becomes a step, in order. No sockets, no waiting.
//!
//! Called by the session, which executes the steps and tells the outcome of each back (`note`).
//!
//! Invariants:
//! - I1: a request that is refused in a transaction aborts the transaction.
//! - I2: a step never holds more than one command, so one entry of the log.
//! - I3: after a watch is asked for, no request is taken before its version is known.

#![deny(clippy::indexing_slicing)]

mod local;
mod question;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::data::{self, Draft, Watched};
use super::decode::{REQUEST_BYTES_MAX, Request};
use super::encode::{Encoder, Version};
use super::refused::{self, Complaint, NO_NAME};
use super::shape::{Item, Kind, Shape, Transaction};
use super::table::{Verb, lookup};
use crate::command::{Command, CommandResult, OPERATION_COUNT_MAX, ReadLevel, Reply};
use crate::server::clients::Client;
use crate::server::keys::Keys;

pub(crate) use question::Question;

const OK: &[u8] = b"+OK\r\n";
const QUEUED: &[u8] = b"+QUEUED\r\n";

/// What is to be done for one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// The reply is known.
    Answer(Bytes),
    /// The node executes a command.
    Execute {
        /// The command.
        command: Command,
        /// The form of the reply.
        shape: Shape,
        /// Whether it has to be proposed.
        kind: Kind,
    },
    /// The node is asked about something else.
    Ask(Question),
    /// The reply is known, and the connection is closed after it.
    Close(Bytes),
}

/// A step with what its reply needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    /// What is to be done.
    pub(crate) step: Step,
    /// The version that the reply is written in.
    pub(crate) version: Version,
    /// True if the client wants no reply.
    pub(crate) silent: bool,
    /// Most bytes of values that the reply may hold.
    pub(crate) reply_bytes_max: u64,
}

impl Planned {
    /// True if no request may be taken before this one is done (I3), or at all.
    pub(crate) fn is_barrier(&self) -> bool {
        matches!(self.step, Step::Execute { shape: Shape::Watch, .. } | Step::Close(_))
    }
}

/// Whether replies are wanted: CLIENT REPLY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replies {
    On,
    Off,
    SkipNext,
}

/// A transaction that is being queued.
#[derive(Debug)]
struct Queue {
    draft: Draft,
    items: Vec<Item>,
    answer_bytes: usize,
    aborted: bool,
}

/// The state of one RESP connection.
#[derive(Debug)]
pub(crate) struct Connection {
    keys: Arc<Keys>,
    client: Arc<Client>,
    version: Version,
    replies: Replies,
    queue: Option<Queue>,
    watching: Option<Bytes>,
    watched: Option<Watched>,
    local_reads: bool,
    written_index: u64,
    reply_bytes_max: u64,
}

impl Connection {
    /// A connection as it begins.
    pub(crate) fn new(keys: Arc<Keys>, client: Arc<Client>) -> Connection {
        Connection {
            keys,
            client,
            version: Version::default(),
            replies: Replies::On,
            queue: None,
            watching: None,
            watched: None,
            local_reads: false,
            written_index: 0,
            reply_bytes_max: 0,
        }
    }

    /// The connection as others see it.
    pub(crate) fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// Log index of this connection's last write; 0 if there was none.
    pub(crate) fn written_index(&self) -> u64 {
        self.written_index
    }

    /// How fresh a read of this connection must be, where the node is set to `level`.
    pub(crate) fn read_level(&self, level: ReadLevel) -> ReadLevel {
        if self.local_reads { ReadLevel::Local } else { level }
    }

    /// Turns one request into its step.
    pub(crate) fn take(&mut self, request: &Request) -> Planned {
        let arguments = request.arguments();
        let silent_before = match self.replies {
            Replies::On => false,
            Replies::Off => true,
            Replies::SkipNext => {
                self.replies = Replies::On;
                true
            }
        };
        self.reply_bytes_max = 0;
        let step = self.interpret(&arguments).unwrap_or_else(|Complaint(text)| {
            if let Some(queue) = &mut self.queue {
                queue.aborted = true; // I1
            }
            self.answer(|to| to.error(&text))
        });
        // CLIENT REPLY counts at once: ON is answered, OFF and SKIP are not.
        let silent = match self.replies {
            Replies::On => silent_before && !is_client_reply(&arguments),
            Replies::Off | Replies::SkipNext => true,
        };
        let reply_bytes_max = self.reply_bytes_max;
        Planned { step, version: self.version, silent, reply_bytes_max }
    }

    /// Tells the connection what became of a step of the given shape.
    pub(crate) fn note(&mut self, shape: &Shape, result: &CommandResult) {
        if let (Shape::Watch, Some(key)) = (shape, self.watching.take()) {
            let outcome = result.as_ref().ok().and_then(|reply: &Reply| reply.outcomes.first());
            self.watched = outcome.map(|outcome| Watched { key, version: outcome.version });
        }
        if let Ok(reply) = result {
            self.written_index = self.written_index.max(reply.index);
        }
    }

    fn interpret(&mut self, arguments: &[&[u8]]) -> Result<Step, Complaint> {
        let (name, rest) = arguments.split_first().unwrap_or((&NO_NAME, &[]));
        let Some(spec) = lookup(name) else {
            let name = String::from_utf8_lossy(name).to_ascii_uppercase();
            return Err(match refused::reason(&name) {
                Some(reason) => Complaint::refused(&name, reason),
                None => Complaint::unknown(arguments),
            });
        };
        spec.check(arguments.len())?;
        match spec.verb {
            Verb::Multi => Ok(self.begin()),
            Verb::Exec => self.execute(),
            Verb::Discard => self.discard(),
            Verb::Watch => self.watch(rest),
            Verb::Quit => Ok(Step::Close(Bytes::from_static(OK))),
            Verb::Reset => Ok(self.reset()),
            verb if self.queue.is_some() => self.enqueue(verb, spec.name, rest),
            verb => self.single(verb, rest),
        }
    }

    /// A request outside of a transaction.
    fn single(&mut self, verb: Verb, rest: &[&[u8]]) -> Result<Step, Complaint> {
        let mut draft = Draft::new(None);
        if let Some(shape) = data::add(&mut draft, verb, rest, &self.keys)? {
            let kind = draft.kind();
            self.reply_bytes_max = draft.reply_bytes_max();
            return Ok(Step::Execute { command: draft.finish(), shape, kind });
        }
        if let Some(step) = self.local(verb, rest)? {
            return Ok(step);
        }
        self.question(verb, rest).map(Step::Ask)
    }

    fn begin(&mut self) -> Step {
        if self.queue.is_some() {
            return self.answer(|to| to.error("ERR MULTI calls can not be nested"));
        }
        let draft = Draft::new(self.watched.clone());
        self.queue = Some(Queue { draft, items: Vec::new(), answer_bytes: 0, aborted: false });
        Step::Answer(Bytes::from_static(OK))
    }

    /// Queues a request of a transaction.
    fn enqueue(&mut self, verb: Verb, name: &str, rest: &[&[u8]]) -> Result<Step, Complaint> {
        let Some(queue) = &mut self.queue else { return Err(Complaint::SYNTAX) };
        if queue.items.len() >= OPERATION_COUNT_MAX {
            let text = format!("ERR a transaction takes at most {OPERATION_COUNT_MAX} requests");
            return Err(Complaint::new(text));
        }
        if queue.aborted {
            return Ok(Step::Answer(Bytes::from_static(QUEUED)));
        }
        if let Some(shape) = data::add(&mut queue.draft, verb, rest, &self.keys)? {
            queue.items.push(Item::Data(shape));
            return Ok(Step::Answer(Bytes::from_static(QUEUED)));
        }
        let local = match verb {
            Verb::Client if rest.first().is_some_and(|sub| sub.eq_ignore_ascii_case(b"reply")) => {
                None
            }
            Verb::ReadOnly | Verb::ReadWrite => None,
            verb => self.local(verb, rest)?,
        };
        let Some((Step::Answer(bytes), queue)) = local.zip(self.queue.as_mut()) else {
            let name = name.to_ascii_uppercase();
            return Err(Complaint::new(format!("ERR {name} inside MULTI is not allowed")));
        };
        queue.answer_bytes += bytes.len();
        if queue.answer_bytes > REQUEST_BYTES_MAX {
            return Err(Complaint::new("ERR the replies of the transaction are too long"));
        }
        queue.items.push(Item::Answer(bytes));
        Ok(Step::Answer(Bytes::from_static(QUEUED)))
    }

    fn execute(&mut self) -> Result<Step, Complaint> {
        let Some(Queue { draft, items, aborted, .. }) = self.queue.take() else {
            return Err(Complaint::new("ERR EXEC without MULTI"));
        };
        let watched = self.watched.take();
        if aborted {
            let text = "EXECABORT Transaction discarded because of previous errors.";
            return Err(Complaint::new(text));
        }
        self.reply_bytes_max = draft.reply_bytes_max();
        let kind = draft.kind();
        if draft.operation_count() == 0 && watched.is_none() {
            return Ok(self.answer(|to| {
                to.array(items.len());
                for item in &items {
                    match item {
                        Item::Answer(bytes) => to.raw(bytes),
                        Item::Data(_) => to.null(),
                    }
                }
            }));
        }
        let (command, watch) = draft.finish_watched(&self.keys)?;
        let shape = Shape::Transaction(Box::new(Transaction { items, watch }));
        Ok(Step::Execute { command, shape, kind })
    }

    fn discard(&mut self) -> Result<Step, Complaint> {
        self.watched = None;
        match self.queue.take() {
            Some(_) => Ok(Step::Answer(Bytes::from_static(OK))),
            None => Err(Complaint::new("ERR DISCARD without MULTI")),
        }
    }

    fn watch(&mut self, names: &[&[u8]]) -> Result<Step, Complaint> {
        const WIDER: &str =
            "ERR WATCH takes one key: an entry of the log depends on one slot alone";
        if self.queue.is_some() {
            return Ok(self.answer(|to| to.error("ERR WATCH inside MULTI is not allowed")));
        }
        let [key] = names else { return Err(Complaint::new(WIDER)) };
        let key = self.keys.key(key)?;
        match &self.watched {
            Some(watched) if *watched.key != *key => return Err(Complaint::new(WIDER)),
            // The first watch counts: what changed since then still fails the transaction.
            Some(_) => return Ok(Step::Answer(Bytes::from_static(OK))),
            None => {}
        }
        self.watching = Some(Bytes::copy_from_slice(&key));
        let command = Command::get(&key)?;
        Ok(Step::Execute { command, shape: Shape::Watch, kind: Kind::Read })
    }

    fn reset(&mut self) -> Step {
        let (keys, client) = (Arc::clone(&self.keys), Arc::clone(&self.client));
        let written_index = self.written_index;
        *self = Connection { written_index, ..Connection::new(keys, client) };
        self.client.rename(String::new());
        Step::Answer(Bytes::from_static(b"+RESET\r\n"))
    }

    fn answer(&self, write: impl FnOnce(&mut Encoder<'_>)) -> Step {
        let mut out = BytesMut::new();
        write(&mut Encoder::new(&mut out, self.version));
        Step::Answer(out.freeze())
    }

    fn try_answer(
        &self,
        write: impl FnOnce(&mut Encoder<'_>) -> Result<(), Complaint>,
    ) -> Result<Step, Complaint> {
        let mut out = BytesMut::new();
        write(&mut Encoder::new(&mut out, self.version))?;
        Ok(Step::Answer(out.freeze()))
    }
}

fn is_client_reply(arguments: &[&[u8]]) -> bool {
    matches!(arguments, [client, reply, _]
        if client.eq_ignore_ascii_case(b"client") && reply.eq_ignore_ascii_case(b"reply"))
}

#[cfg(test)]
mod tests;
