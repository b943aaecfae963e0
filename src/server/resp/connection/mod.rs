//! One RESP connection: each request becomes a step, in order. No sockets, no waiting.
//!
//! Called by the session, which takes steps (`take`), has them executed, and asks for the reply of
//! each in their order (`begin_reply`).
//!
//! Invariants:
//! - I1: a step never holds more than one command, so one entry of the log.
//! - I2: nothing that the outcome of a step may change is looked at before it is known: such a step
//!   is a barrier, behind which no request is taken before its reply is written.

#![deny(clippy::indexing_slicing)]

mod local;
mod question;
mod reply;
mod transaction;
mod watch;

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::data::{self, Draft};
use super::decode::Request;
use super::encode::{Encoder, Version};
use super::refused::{self, Complaint, NO_NAME};
use super::shape::{Item, Kind, Shape, Transaction};
use super::table::{Verb, lookup};
use crate::command::{Command, Freshness, ReadLevel};
use crate::server::clients::{Activity, Client};
use crate::server::keys::Keys;
use transaction::Queue;
use watch::{Positions, Watch};

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
    /// The node executes a transaction, in one command.
    Transaction {
        /// The command.
        command: Command,
        /// Whether it has to be proposed; `None` if there is nothing to execute.
        kind: Option<Kind>,
        /// The form of the reply.
        transaction: Box<Transaction>,
    },
    /// The node is asked about something else.
    Ask(Question),
    /// The reply is known, and the connection is closed after it.
    Close(Bytes),
}

/// What the outcome of a step changes of its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing but the index of its last write.
    Nothing,
    /// A key is watched from now on.
    Watch,
    /// These operations tell something of the watched key.
    Sees(Positions),
    /// Whether it reads this replica.
    LocalReads(bool),
}

/// A step with what its reply needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    /// What is to be done.
    pub(crate) step: Step,
    /// What follows from it for the connection.
    pub(crate) effect: Effect,
    /// The version that the reply is written in.
    pub(crate) version: Version,
    /// True if the client wants no reply.
    pub(crate) silent: bool,
    /// Most bytes of values that the reply may hold.
    pub(crate) reply_bytes_max: u64,
}

impl Planned {
    /// The last word to a client whose bytes cannot be read.
    pub(crate) fn farewell(text: &str) -> Planned {
        let mut out = BytesMut::new();
        Encoder::new(&mut out, Version::default()).error(text);
        let (step, effect) = (Step::Close(out.freeze()), Effect::Nothing);
        Planned { step, effect, version: Version::default(), silent: false, reply_bytes_max: 0 }
    }

    /// True if no request may be taken before this one is answered (I2), or at all. What a question
    /// will answer is not known in advance, and the replies of a turn are bounded: it ends one too.
    pub(crate) fn is_barrier(&self) -> bool {
        let is_queued = |item: &Item| matches!(item, Item::Request(_));
        let in_step = match &self.step {
            Step::Answer(_) | Step::Execute { .. } => false,
            Step::Transaction { transaction, .. } => transaction.items.iter().any(is_queued),
            Step::Ask(_) | Step::Close(_) => true,
        };
        in_step || self.effect != Effect::Nothing
    }
}

/// Whether replies are wanted: CLIENT REPLY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replies {
    On,
    Off,
    SkipNext,
}

/// The state of one RESP connection.
#[derive(Debug)]
pub(crate) struct Connection {
    keys: Arc<Keys>,
    client: Arc<Client>,
    version: Version,
    replies: Replies,
    queue: Option<Queue>,
    watch: Watch,
    local_reads: bool,
    written_index: u64,
    /// What is said of the request that is being taken, beside its step.
    effect: Effect,
    reply_bytes_max: u64,
    /// Name of the last request.
    last_name: &'static str,
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
            watch: Watch::Nothing,
            local_reads: false,
            written_index: 0,
            effect: Effect::Nothing,
            reply_bytes_max: 0,
            last_name: "NULL",
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

    /// Tells the registry what this connection did last.
    pub(crate) fn show(&self) {
        let version = match self.version {
            Version::Two => 2,
            Version::Three => 3,
        };
        self.client.note_activity(Activity {
            at: Instant::now(),
            command: self.last_name,
            version,
            queued: self.queue.as_ref().map(Queue::request_count),
            watched: usize::from(self.watch.condition().is_some()),
        });
    }

    /// How fresh a read of this connection must be, where the node is set to `level`.
    pub(crate) fn freshness(&self, level: ReadLevel) -> Freshness {
        let level = if self.local_reads { ReadLevel::Local } else { level };
        Freshness { level, written_index: self.written_index }
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
        let taken = match request.excess() {
            None => self.interpret(request, &arguments),
            Some(excess) => Err(Complaint::new(format!("ERR {excess}"))),
        };
        match &taken {
            Ok(_) => self.client.counters().called(self.last_name),
            Err(_) => self.client.counters().rejected(self.last_name),
        }
        let step = taken.unwrap_or_else(|complaint| self.refuse(request, &complaint));
        // CLIENT REPLY counts at once: ON is answered, as RESET is, OFF and SKIP are not.
        let silent = match self.replies {
            Replies::On => silent_before && !turns_replies_on(&arguments),
            Replies::Off | Replies::SkipNext => true,
        };
        let effect = std::mem::replace(&mut self.effect, Effect::Nothing);
        let reply_bytes_max = self.reply_bytes_max;
        Planned { step, effect, version: self.version, silent, reply_bytes_max }
    }

    /// The answer to a request that cannot be: it aborts the transaction that it stands in, and
    /// also the next one if it is a WATCH.
    fn refuse(&mut self, request: &Request, Complaint(text): &Complaint) -> Step {
        let arguments = request.arguments();
        let is_watch = arguments.first().is_some_and(|name| name.eq_ignore_ascii_case(b"watch"));
        if let Some(queue) = &mut self.queue {
            queue.abort();
        } else if is_watch && (arguments.len() > 1 || request.excess().is_some()) {
            self.watch.refused(text);
        }
        self.answer(|to| to.error(text))
    }

    fn interpret(&mut self, request: &Request, arguments: &[&[u8]]) -> Result<Step, Complaint> {
        let (name, rest) = arguments.split_first().unwrap_or((&NO_NAME, &[]));
        let Some(spec) = lookup(name) else {
            self.last_name = "NULL";
            let name = String::from_utf8_lossy(name).to_ascii_uppercase();
            return Err(match refused::reason(&name) {
                Some(reason) => Complaint::refused(&name, reason),
                None => Complaint::unknown(arguments),
            });
        };
        self.last_name = spec.name;
        spec.check(arguments.len())?;
        match spec.verb {
            Verb::Multi => Ok(self.begin()),
            Verb::Exec => self.execute(),
            Verb::Discard => self.discard(),
            Verb::Watch => self.watch(rest),
            Verb::Quit => Ok(Step::Close(Bytes::from_static(OK))),
            Verb::Reset => Ok(self.reset()),
            verb => match self.queue.take() {
                Some(queue) => self.enqueue(queue, verb, request),
                None => self.single(verb, rest),
            },
        }
    }

    /// A request outside of a transaction.
    fn single(&mut self, verb: Verb, rest: &[&[u8]]) -> Result<Step, Complaint> {
        let mut draft = Draft::new(None);
        if let Some(shape) = data::add(&mut draft, verb, rest, &self.keys)? {
            let (kind, reply_bytes_max) = (draft.kind(), draft.reply_bytes_max());
            let command = draft.finish();
            self.reply_bytes_max = reply_bytes_max;
            let positions = self.watch.positions(&command);
            if !positions.is_empty() {
                self.effect = Effect::Sees(positions);
            }
            return Ok(Step::Execute { command, shape, kind });
        }
        self.about_node(verb, rest)
    }

    /// A request about the connection or the node.
    fn about_node(&mut self, verb: Verb, rest: &[&[u8]]) -> Result<Step, Complaint> {
        if let Some(step) = self.local(verb, rest)? {
            return Ok(step);
        }
        self.question(verb, rest).map(Step::Ask)
    }

    /// Lets the effect of a request that was queued come true.
    fn settle(&mut self) {
        let effect = std::mem::replace(&mut self.effect, Effect::Nothing);
        self.note(&effect, None);
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

fn turns_replies_on(arguments: &[&[u8]]) -> bool {
    match arguments {
        [reset] => reset.eq_ignore_ascii_case(b"reset"),
        [client, reply, _] => {
            client.eq_ignore_ascii_case(b"client") && reply.eq_ignore_ascii_case(b"reply")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
