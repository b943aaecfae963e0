//! Outcomes to replies, and to what the connection learns from them. Pure.
//!
//! Called by the session once the node has executed what a step asked for. Where a reply needs more
//! of the node, it comes back as a question; its answer is written before the reply goes on.

use std::borrow::Cow;
use std::slice;

use super::super::decode::Request;
use super::super::encode::Encoder;
use super::super::refused::{Complaint, NO_NAME};
use super::super::shape::{Item, begin_transaction, render, render_next};
use super::super::table::{Verb, lookup};
use super::{Connection, Effect, Planned, Question, Step};
use crate::command::{CommandResult, Outcome, REPLY_BYTES_MAX};

/// A reply that is written up to the next question in it.
#[derive(Debug)]
pub(crate) struct Unfinished<'a> {
    question: Option<&'a Question>,
    items: slice::Iter<'a, Item>,
    outcomes: &'a [Outcome],
    /// Bytes of the buffer before the reply.
    start: usize,
}

impl Connection {
    /// Begins the reply to a step. `result` is that of its command, if it had one.
    pub(crate) fn begin_reply<'a>(
        &mut self,
        planned: &'a Planned,
        result: Option<&'a CommandResult>,
        to: &mut Encoder<'_>,
    ) -> Unfinished<'a> {
        self.note(&planned.effect, result);
        let (items, start) = ([].iter(), to.buffer_bytes());
        let mut unfinished = Unfinished { question: None, items, outcomes: &[], start };
        match (&planned.step, result) {
            (Step::Answer(bytes) | Step::Close(bytes), _) => to.raw(bytes),
            (Step::Ask(question), _) => unfinished.question = Some(question),
            (Step::Execute { shape, .. }, Some(result)) => render(to, shape, result),
            (Step::Execute { .. }, None) => to.error("ERR the node gave no result"),
            (Step::Transaction { transaction, .. }, None) => {
                to.array(transaction.items.len());
                unfinished.items = transaction.items.iter();
            }
            (Step::Transaction { transaction, .. }, Some(result)) => {
                if let Some(outcomes) = begin_transaction(to, transaction, result) {
                    (unfinished.items, unfinished.outcomes) = (transaction.items.iter(), outcomes);
                }
            }
        }
        unfinished
    }

    /// Tells the connection what became of a step.
    pub(super) fn note(&mut self, effect: &Effect, result: Option<&CommandResult>) {
        if let Some(result) = result {
            self.client.counters().looked_up(result);
        }
        if let Some(Ok(reply)) = result {
            self.written_index = self.written_index.max(reply.index);
        }
        match (effect, result) {
            (Effect::LocalReads(local_reads), _) => self.local_reads = *local_reads,
            (Effect::Watch, Some(result)) => self.watch.granted(result),
            (Effect::Sees(positions), Some(result)) => self.watch.saw(positions, result),
            (Effect::Nothing | Effect::Watch | Effect::Sees(_), _) => {}
        }
    }

    /// A request about the connection or the node that was queued, now that its turn has come.
    fn queued(&mut self, request: &Request) -> Result<Step, Complaint> {
        let arguments = request.arguments();
        let (name, rest) = arguments.split_first().unwrap_or((&NO_NAME, &[]));
        let verb = lookup(name).map(|spec| spec.verb).ok_or(Complaint::SYNTAX)?;
        let is_reply = rest.first().is_some_and(|sub| sub.eq_ignore_ascii_case(b"reply"));
        match (verb, rest) {
            // Either would change how the rest of this reply is written.
            (Verb::Client, _) if is_reply => Err(not_allowed("CLIENT REPLY")),
            (Verb::Hello, [_, ..]) => Err(not_allowed("HELLO with a version")),
            (verb, rest) => self.about_node(verb, rest),
        }
    }
}

impl<'a> Unfinished<'a> {
    /// Writes on up to the next question, and hands it out; `None` once the reply is whole.
    pub(crate) fn next_question(
        &mut self,
        connection: &mut Connection,
        to: &mut Encoder<'_>,
    ) -> Option<Cow<'a, Question>> {
        if let Some(question) = self.question.take() {
            return Some(Cow::Borrowed(question));
        }
        for item in self.items.by_ref() {
            let request = match item {
                Item::Answer(bytes) => {
                    to.raw(bytes);
                    continue;
                }
                Item::Data(shape) => {
                    self.outcomes = render_next(to, shape, self.outcomes);
                    continue;
                }
                Item::Request(request) => request,
            };
            let reply_bytes = u64::try_from(to.buffer_bytes() - self.start).unwrap_or(u64::MAX);
            if reply_bytes > REPLY_BYTES_MAX {
                to.error("ERR the replies of the transaction are too long");
                continue;
            }
            match connection.queued(request) {
                Ok(Step::Ask(question)) => return Some(Cow::Owned(question.at_once())),
                Ok(Step::Answer(bytes)) => to.raw(&bytes),
                Ok(Step::Execute { .. } | Step::Transaction { .. } | Step::Close(_)) => {
                    to.error("ERR a request inside of a transaction cannot do this");
                }
                Err(Complaint(text)) => to.error(&text),
            }
            connection.settle();
        }
        None
    }
}

fn not_allowed(what: &str) -> Complaint {
    Complaint::new(format!("ERR {what} inside MULTI is not allowed"))
}
