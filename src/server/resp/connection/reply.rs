//! Turns the outcomes of a step into a reply, and updates the connection's own state by them. Pure.
//!
//! Called by the session once the node has executed the step. If a reply needs an answer about the
//! node, it returns a question; the answer is written before the reply goes on.

use std::borrow::Cow;
use std::slice;

use super::super::decode::Request;
use super::super::encode::{Encoder, Version};
use super::super::form::{Form, Item, begin_transaction, render, render_next};
use super::super::table::{Handler, lookup};
use super::{Connection, Effect, Planned, Step};
use crate::command::{CommandResult, FailureClass, Outcome, REPLY_BYTES_MAX};
use crate::server::ask::Question;
use crate::server::complaint::Complaint;
use crate::server::receipt::Written;
use crate::server::value::Value;

/// A reply that is written up to the next question in it.
#[derive(Debug)]
pub(crate) struct Unfinished<'a> {
    question: Option<Cow<'a, Question>>,
    /// What is to be rendered behind the answer to that.
    behind: Option<(&'a Form, &'a CommandResult)>,
    items: slice::Iter<'a, Item>,
    outcomes: &'a [Outcome],
    /// Bytes of the buffer before the reply.
    start: usize,
    version: Version,
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
        let version = planned.version;
        let mut unfinished =
            Unfinished { question: None, behind: None, items, outcomes: &[], start, version };
        match (&planned.step, result) {
            (Step::Answer(answer) | Step::Close(answer), _) => to.answer(answer),
            (Step::Ask(question), _) => unfinished.question = Some(Cow::Borrowed(question)),
            (Step::Execute { form, .. }, Some(result)) => match result {
                Ok(reply) if form.has_receipt() => {
                    to.array(2);
                    let question = Question::Receipt(Written::of(reply));
                    unfinished.question = Some(Cow::Owned(question));
                    unfinished.behind = Some((form, result));
                }
                result => render(to, form, result),
            },
            (Step::Execute { .. }, None) => {
                let text = "the node gave no result";
                to.complaint(&Complaint::new(FailureClass::Fault, text));
            }
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
        match (effect, result) {
            (Effect::LocalReads(local_reads), _) => self.requester.read_locally(*local_reads),
            (Effect::Watch, Some(result)) => self.watch.granted(result),
            (Effect::Sees(positions), Some(result)) => self.watch.saw(positions, result),
            (Effect::Nothing | Effect::Watch | Effect::Sees(_) | Effect::Held, _) => {}
        }
    }

    /// A request about the connection or the node that was queued, now that its turn has come.
    fn queued(&mut self, request: &Request) -> Result<Step, Complaint> {
        let arguments = request.arguments();
        let (name, rest) = arguments.split_first().ok_or(Complaint::SYNTAX)?;
        let spec = lookup(name).ok_or(Complaint::SYNTAX)?;
        if let Some(what) = spec.forbidden.and_then(|forbidden| forbidden(rest)) {
            return Err(Complaint::wrong(format!("{what} inside MULTI is not allowed")));
        }
        match spec.handler {
            Handler::Other(run) => self.permitted(run, spec, rest),
            Handler::Data(_) | Handler::AtOnce(_) => {
                Err(Complaint::wrong("a request inside of a transaction cannot do this"))
            }
        }
    }
}

impl<'a> Unfinished<'a> {
    /// The version that it is written in.
    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// Writes on up to the next question, and hands it out; `None` once the reply is whole.
    pub(crate) fn next_question(
        &mut self,
        connection: &mut Connection,
        to: &mut Encoder<'_>,
    ) -> Option<Cow<'a, Question>> {
        if let Some(question) = self.question.take() {
            return Some(question);
        }
        if let Some((form, result)) = self.behind.take() {
            render(to, form, result);
        }
        for item in self.items.by_ref() {
            let request = match item {
                Item::Refused(complaint) => {
                    to.complaint(complaint);
                    continue;
                }
                Item::Data(form) => {
                    self.outcomes = render_next(to, form, self.outcomes);
                    continue;
                }
                Item::Request(request) => request,
            };
            let reply_bytes = u64::try_from(to.buffer_bytes() - self.start).unwrap_or(u64::MAX);
            if reply_bytes > REPLY_BYTES_MAX {
                let text = "the replies of the transaction are too long";
                to.complaint(&Complaint::too_large(text));
                continue;
            }
            let answer = match connection.queued(request) {
                Ok(Step::Ask(question)) => return Some(Cow::Owned(question.at_once())),
                Ok(Step::Answer(answer)) => answer,
                Ok(Step::Execute { .. } | Step::Transaction { .. } | Step::Close(_)) => {
                    Value::Complaint(Complaint::wrong(
                        "a request inside of a transaction cannot do this",
                    ))
                }
                Err(complaint) => Value::Complaint(complaint),
            };
            to.answer(&answer);
            connection.settle();
        }
        None
    }
}
