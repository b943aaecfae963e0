//! One RESP connection: each request becomes a step, in order. No sockets, no waiting.
//!
//! Called by the dialect, which takes steps (`take`), has them executed, and asks for the reply of
//! each in their order (`begin_reply`). The table of `commands` says what each request does.
//!
//! Invariants:
//! - I1: a step never holds more than one command of the log.
//! - I2: some requests depend on the outcome of the step before, as those after a WATCH do. Such a
//!   step is a barrier: no later request is taken before its reply is written.

#![deny(clippy::indexing_slicing)]

mod delivery;
mod reply;
mod transaction;
mod watch;

use std::sync::Arc;

use bytes::BytesMut;

use super::decode::Request;
use super::draft::Draft;
use super::encode::{Encoder, Version};
use super::form::{Form, Item, Kind, Transaction};
use super::refused;
use super::table::{Add, Handler, Run, Spec, lookup};
use crate::command::{Command, CommandBuilder};
use crate::config::MachineKind;
use crate::messages::{Delivery, Subscriber};
use crate::server::ask::Question;
use crate::server::clients::{Activity, Client};
use crate::server::complaint::Complaint;
use crate::server::keys::Keys;
use crate::server::requester::Requester;
use crate::server::value::Value;
use transaction::Queue;
use watch::{Positions, Watch};

pub(crate) use reply::Unfinished;

/// What a client of RESP2 may ask while it listens to channels.
const MAY_LISTENERS_ASK: [&str; 7] =
    ["subscribe", "unsubscribe", "psubscribe", "punsubscribe", "ping", "quit", "reset"];
/// Commands whose sub-commands Redis names in an error.
const HAS_SUBCOMMANDS: [&str; 9] =
    ["client", "cluster", "command", "config", "latency", "memory", "object", "pubsub", "slowlog"];

/// Most bytes of a sub-command's name that are repeated.
const SUBCOMMAND_BYTES_MAX: usize = 32;
/// Bytes of a receipt with 64 versions and some tens of names.
const RECEIPT_BYTES: u64 = 4 << 10;

/// What is to be done for one request.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// The reply is known.
    Answer(Value),
    /// The node executes a command.
    Execute {
        /// The command.
        command: Command,
        /// The form of the reply.
        form: Form,
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
    Close(Value),
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
    /// It presented a wrong token, and waits for the answer.
    Held,
}

/// A request about data.
struct Drafted {
    command: Command,
    form: Form,
    kind: Kind,
}

/// A step with what its reply needs.
#[derive(Debug, Clone)]
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
    pub(crate) fn farewell(complaint: Complaint) -> Planned {
        let (step, effect) = (Step::Close(Value::Complaint(complaint)), Effect::Nothing);
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
pub(super) enum Replies {
    /// They are.
    On,
    /// They are not.
    Off,
    /// The next one is not.
    SkipNext,
}

/// The state of one RESP connection.
#[derive(Debug)]
pub(crate) struct Connection {
    keys: Arc<Keys>,
    machine: MachineKind,
    requester: Requester,
    pub(super) version: Version,
    pub(super) replies: Replies,
    queue: Option<Queue>,
    watch: Watch,
    /// What is said of the request that is being taken, beside its step.
    pub(super) effect: Effect,
    reply_bytes_max: u64,
    /// Lays out the commands of a turn, which share its memory.
    builder: CommandBuilder,
    /// The command of the last request, if there is such a one.
    last: Option<&'static Spec>,
}

impl Connection {
    /// A connection as it begins, to a program that holds such a state.
    pub(crate) fn new(keys: Arc<Keys>, machine: MachineKind, requester: Requester) -> Connection {
        Connection {
            keys,
            machine,
            requester,
            version: Version::default(),
            replies: Replies::On,
            queue: None,
            watch: Watch::Nothing,
            effect: Effect::Nothing,
            reply_bytes_max: 0,
            builder: CommandBuilder::new(),
            last: None,
        }
    }

    /// Requests of so many bytes wait to be taken, or no whole one: then no memory is kept for commands.
    pub(crate) fn expect(&mut self, bytes: usize) {
        if bytes == 0 {
            self.builder = CommandBuilder::new();
        }
        self.builder.expect(bytes);
    }

    /// Who sends its requests.
    pub(crate) fn requester(&mut self) -> &mut Requester {
        &mut self.requester
    }

    /// The connection as others see it.
    pub(crate) fn client(&self) -> &Client {
        self.requester.client()
    }

    /// Tells the registry what this connection did last.
    pub(crate) fn show(&self) {
        self.client().note_activity(Activity {
            command: self.last.map_or("NULL", |spec| spec.name),
            version: self.version.number(),
            queued: self.queue.as_ref().map(Queue::request_count),
            watched: usize::from(self.watch.condition().is_some()),
        });
    }

    /// Writes what is told to the client unasked, in the version that it speaks now.
    pub(crate) fn tell(&self, delivery: &Delivery, out: &mut BytesMut) {
        delivery::encode(&mut Encoder::new(out, self.version), delivery);
    }

    /// Writes everything that waits for the client.
    pub(crate) fn tell_all(&self, out: &mut BytesMut) {
        while let Some(delivery) = self.client().subscriber().and_then(Subscriber::take) {
            self.tell(&delivery, out);
        }
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
        self.last = lookup(arguments.first().copied().unwrap_or_default());
        let taken = match request.excess() {
            None => self.interpret(request, &arguments),
            Some(_) if self.requester.granted().is_none() => {
                Err(self.requester.denied(self.last.map_or("", |spec| spec.name)))
            }
            Some(excess) => Err(Complaint::too_large(excess.to_string())),
        };
        match &taken {
            Ok(_) => self.requester.called(self.last),
            Err(_) => self.requester.rejected(self.last),
        }
        let step = taken.unwrap_or_else(|complaint| self.refuse(request, complaint));
        // CLIENT REPLY counts at once: ON is answered, as RESET is, OFF and SKIP are not.
        let silent = match self.replies {
            Replies::On => silent_before && !turns_replies_on(&arguments),
            Replies::Off | Replies::SkipNext => true,
        };
        // Whether a subscription is there is told in any case, as by Redis.
        let is_told = matches!(step, Step::Ask(Question::Listen { .. } | Question::Leave { .. }));
        let silent = silent && !is_told;
        let effect = std::mem::replace(&mut self.effect, Effect::Nothing);
        let reply_bytes_max = self.reply_bytes_max;
        Planned { step, effect, version: self.version, silent, reply_bytes_max }
    }

    /// The answer to a request that cannot be: it aborts the transaction that it stands in, and
    /// also the next one if it is a WATCH.
    fn refuse(&mut self, request: &Request, complaint: Complaint) -> Step {
        let arguments = request.arguments();
        let is_watch = arguments.first().is_some_and(|name| name.eq_ignore_ascii_case(b"watch"));
        if let Some(queue) = &mut self.queue {
            queue.abort();
        } else if is_watch && (arguments.len() > 1 || request.excess().is_some()) {
            self.watch.refused(&complaint);
        }
        Step::Answer(Value::Complaint(complaint))
    }

    fn interpret(&mut self, request: &Request, arguments: &[&[u8]]) -> Result<Step, Complaint> {
        let Some((spec, (_, rest))) = self.last.zip(arguments.split_first()) else {
            return Err(not_served(arguments));
        };
        spec.check(arguments.len())?;
        if !self.requester.may(spec.kind) {
            return Err(self.requester.denied(spec.name));
        }
        spec.check_speaker(self.machine)?;
        if self.only_listens() && !MAY_LISTENERS_ASK.contains(&spec.name) {
            return Err(only_listens(spec, rest));
        }
        match (spec.handler, self.queue.take()) {
            (Handler::AtOnce(run), queue) => {
                self.queue = queue;
                self.permitted(run, spec, rest)
            }
            (_, Some(queue)) => self.enqueue(queue, spec, request),
            (Handler::Other(run), None) => self.permitted(run, spec, rest),
            (Handler::Data(add), None) => {
                let Drafted { command, form, kind } = self.draft(add, rest)?;
                let positions = self.watch.positions(&command);
                if !positions.is_empty() {
                    self.effect = Effect::Sees(positions);
                }
                Ok(Step::Execute { command, form, kind })
            }
        }
    }

    /// A request about data as a command.
    fn draft(&mut self, add: Add, rest: &[&[u8]]) -> Result<Drafted, Complaint> {
        let mut draft = Draft::with(std::mem::take(&mut self.builder), None);
        let form = draft.add(add, rest, &self.keys)?;
        let kind = draft.kind();
        self.reply_bytes_max = draft.reply_bytes_max();
        let (command, builder) = draft.finish();
        self.builder = builder;
        Ok(Drafted { command, form, kind })
    }

    /// A write that is carried out once, however often it is sent with this id; its reply stands behind
    /// what is told of its entry.
    pub(super) fn once(&mut self, id: &[u8], request: &[&[u8]]) -> Result<Step, Complaint> {
        let Drafted { command, form, kind } = self.one_write("DISKSTORE ONCE", request)?;
        let command = command.with_request_id(id)?;
        Ok(Step::Execute { command, form: form.behind_its_entry(), kind })
    }

    /// A write whose reply stands behind the receipt of its entry; `ONCE id` may stand before it.
    pub(super) fn with_receipt(&mut self, request: &[&[u8]]) -> Result<Step, Complaint> {
        let (id, request) = match request {
            [once, id, rest @ ..] if once.eq_ignore_ascii_case(b"once") => (Some(id), rest),
            request => (None, request),
        };
        let Drafted { command, form, kind } = self.one_write("DISKSTORE RECEIPT", request)?;
        let command = match id {
            Some(id) => command.with_request_id(id)?,
            None => command,
        };
        self.reply_bytes_max = self.reply_bytes_max.saturating_add(RECEIPT_BYTES);
        Ok(Step::Execute { command, form: form.behind_its_receipt(), kind })
    }

    /// The one write that stands behind `who`. It tells nothing of a watched key: an answer of before may be
    /// old.
    fn one_write(&mut self, who: &str, request: &[&[u8]]) -> Result<Drafted, Complaint> {
        let (name, rest) = request.split_first().ok_or(Complaint::SYNTAX)?;
        let spec = lookup(name).ok_or_else(|| not_served(request))?;
        spec.check(request.len())?;
        let no_write = || Complaint::wrong(format!("{who} carries out one command that writes"));
        let Handler::Data(add) = spec.handler else { return Err(no_write()) };
        if !self.requester.may(spec.kind) {
            return Err(self.requester.denied(spec.name));
        }
        spec.check_speaker(self.machine)?;
        let drafted = self.draft(add, rest)?;
        if drafted.kind == Kind::Read { Err(no_write()) } else { Ok(drafted) }
    }

    /// What a request about the connection or the node comes to, if it may ask that: a sub-command may
    /// need more than its command.
    fn permitted(&mut self, run: Run, spec: &Spec, rest: &[&[u8]]) -> Result<Step, Complaint> {
        let step = run(self, rest)?;
        match &step {
            Step::Ask(question) if !self.requester.may(question.kind()) => {
                let sub = String::from_utf8_lossy(rest.first().copied().unwrap_or_default());
                Err(self.requester.denied(&format!("{}|{}", spec.name, sub.to_ascii_lowercase())))
            }
            _ => Ok(step),
        }
    }

    /// Lets the effect of a request that was queued come true.
    fn settle(&mut self) {
        let effect = std::mem::replace(&mut self.effect, Effect::Nothing);
        self.note(&effect, None);
    }

    /// True if it may only listen: in RESP2 a client could not tell answers from messages.
    pub(super) fn only_listens(&self) -> bool {
        self.version == Version::Two && self.client().name_count() > 0
    }

    /// `RESET`
    pub(super) fn reset(&mut self) {
        if let Some(subscriber) = self.client().subscriber() {
            subscriber.leave_all();
        }
        self.requester.read_locally(false);
        self.requester.forget_token();
        self.client().rename(String::new());
        self.version = Version::default();
        self.replies = Replies::On;
        self.queue = None;
        self.watch = Watch::Nothing;
    }
}

/// What a client hears that asks something while it only listens.
fn only_listens(spec: &Spec, rest: &[&[u8]]) -> Complaint {
    let sub = rest.first().filter(|_| HAS_SUBCOMMANDS.contains(&spec.name));
    let sub = sub.map(|sub| sub.get(..sub.len().min(SUBCOMMAND_BYTES_MAX)).unwrap_or_default());
    let sub = sub.map(|sub| format!("|{}", String::from_utf8_lossy(sub).to_ascii_lowercase()));
    Complaint::wrong(format!(
        "Can't execute '{}{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are \
         allowed in this context",
        spec.name,
        sub.unwrap_or_default()
    ))
}

/// What a client hears of a command that is not in the table.
fn not_served(arguments: &[&[u8]]) -> Complaint {
    let name = arguments.first().copied().unwrap_or_default();
    let name = String::from_utf8_lossy(name).to_ascii_uppercase();
    match refused::reason(&name) {
        Some(reason) => Complaint::refused(&name, reason),
        None => Complaint::unknown(arguments),
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
