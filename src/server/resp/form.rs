//! Turns the outcomes of a request about data into the bytes of its reply. Pure.
//!
//! Each command has its own function from outcomes to reply, beside the command. Here is the part
//! that all replies share: refusals, values that were left out, transactions.

#![deny(clippy::indexing_slicing)]

use bytes::Bytes;

use super::decode::Request;
use super::encode::Encoder;
use crate::command::{Body, CommandResult, FailureClass, Outcome, REPLY_BYTES_MAX};
use crate::server::complaint::Complaint;

/// Whether a command has to be proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It only reads.
    Read,
    /// It writes.
    Write,
}

/// Writes the reply that outcomes amount to; none of them is a refusal.
pub(crate) type Write = fn(&mut Encoder<'_>, &Found<'_>);

/// The form of the reply to the operations of one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form {
    write: Write,
    numbers: [i64; 2],
    /// How many outcomes the reply is made of.
    outcome_count: usize,
    /// Whether the values that were read are part of the reply.
    has_values: bool,
    /// What is told of the entry that carried the request out.
    preface: Preface,
}

/// What stands before the reply to a request, in one array with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Preface {
    /// Nothing, and there is no array.
    Nothing,
    /// The index of its entry, and whether that was an earlier one.
    Entry,
    /// Its receipt, which the node is asked for.
    Receipt,
}

/// What a reply is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<'a> {
    /// The outcomes of the request's operations.
    pub(crate) outcomes: &'a [Outcome],
    /// Numbers of the request that the reply depends on.
    pub(crate) numbers: [i64; 2],
}

/// The form of the reply to EXEC.
#[derive(Debug, Clone)]
pub(crate) struct Transaction {
    /// The replies of its requests, in order.
    pub(crate) items: Vec<Item>,
    /// The operation that tells whether the watched slot is as it was, and its version then.
    pub(crate) watch: Option<(usize, u64)>,
}

/// The form of one reply inside a transaction.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// It was known when the request was queued: what is wrong with it.
    Refused(Complaint),
    /// It comes from the next outcomes.
    Data(Form),
    /// The request is about the connection or the node, and is looked at once the transaction has
    /// been executed.
    Request(Box<Request>),
}

impl Form {
    /// `OK`, whatever the outcome is.
    pub(crate) const OK: Form = Form::new(|to, _| to.simple("OK"));
    /// The value of the outcome, or nil.
    pub(crate) const VALUE: Form =
        Form::new(|to, found| to.value(found.value().map(Bytes::as_ref)));
    /// The number that the operation answered.
    pub(crate) const INTEGER: Form = Form::new(|to, found| to.integer(found.integer()));
    /// 1 if the operation changed its key, else 0.
    pub(crate) const CHANGED: Form =
        Form::new(|to, found| to.integer(i64::from(found.is_changed())));

    /// The form that `write` gives a reply to one outcome.
    pub(crate) const fn new(write: Write) -> Form {
        Form {
            write,
            numbers: [0; 2],
            outcome_count: 1,
            has_values: false,
            preface: Preface::Nothing,
        }
    }

    /// With numbers that `write` needs.
    pub(crate) const fn with(self, numbers: [i64; 2]) -> Form {
        Form { numbers, ..self }
    }

    /// Behind the index of the entry that carried the request out, and whether that was an earlier one.
    pub(super) const fn behind_its_entry(self) -> Form {
        Form { preface: Preface::Entry, ..self }
    }

    /// Behind the receipt of the entry that carried the request out.
    pub(super) const fn behind_its_receipt(self) -> Form {
        Form { preface: Preface::Receipt, ..self }
    }

    /// Whether a receipt stands before it.
    pub(super) fn has_receipt(&self) -> bool {
        self.preface == Preface::Receipt
    }

    /// For so many outcomes, which bring values or not.
    pub(super) const fn of_outcomes(self, outcome_count: usize, has_values: bool) -> Form {
        Form { outcome_count, has_values, ..self }
    }
}

impl<'a> Found<'a> {
    fn first(&self) -> Option<&'a Outcome> {
        self.outcomes.first()
    }

    /// Whether the first operation changed its key.
    pub(crate) fn is_changed(&self) -> bool {
        self.first().is_some_and(|outcome| outcome.changed)
    }

    /// The value of the first outcome.
    pub(crate) fn value(&self) -> Option<&'a Bytes> {
        self.first().and_then(value_of)
    }

    /// The version of the first key after its operation.
    pub(crate) fn version(&self) -> u64 {
        self.first().map_or(0, |outcome| outcome.version)
    }

    /// The values of all outcomes.
    pub(crate) fn values(&self) -> impl Iterator<Item = Option<&'a Bytes>> {
        self.outcomes.iter().map(value_of)
    }

    /// The length of the value that the first outcome found; `None` if there is none.
    pub(crate) fn length(&self) -> Option<u64> {
        self.first().and_then(length_of)
    }

    /// How many outcomes found a value.
    pub(crate) fn existing_count(&self) -> u64 {
        count(self.outcomes, |outcome| length_of(outcome).is_some())
    }

    /// How many outcomes deleted a value.
    pub(crate) fn deleted_count(&self) -> u64 {
        count(self.outcomes, |outcome| outcome.changed && outcome.existed)
    }

    /// The number that the first operation answered.
    pub(crate) fn integer(&self) -> i64 {
        match self.first().map(|outcome| &outcome.body) {
            Some(Body::Integer(number)) => *number,
            _ => 0,
        }
    }
}

/// Writes the reply to one request.
pub(crate) fn render(to: &mut Encoder<'_>, form: &Form, result: &CommandResult) {
    match result {
        Err(failure) => to.complaint(&failure.into()),
        Ok(reply) => {
            if form.preface == Preface::Entry {
                to.array(3);
                to.count(reply.index);
                to.count(u64::from(reply.is_repeat));
            }
            render_outcomes(to, form, &reply.outcomes);
        }
    }
}

/// Begins the reply to EXEC; the outcomes of the requests, if they were executed. If not, nothing
/// more is to be written.
pub(crate) fn begin_transaction<'a>(
    to: &mut Encoder<'_>,
    transaction: &Transaction,
    result: &'a CommandResult,
) -> Option<&'a [Outcome]> {
    let outcomes = match result {
        Ok(reply) => reply.outcomes.as_slice(),
        Err(failure) => {
            to.complaint(&failure.into());
            return None;
        }
    };
    if let Some((position, version)) = transaction.watch {
        let changed_since = |outcome: &Outcome| !outcome.changed && outcome.version != version;
        if outcomes.get(position).is_none_or(changed_since) {
            to.null_array();
            return None;
        }
    }
    to.array(transaction.items.len());
    Some(outcomes)
}

/// Writes the reply to one request of a transaction from the first of `outcomes`; those behind.
pub(crate) fn render_next<'a>(
    to: &mut Encoder<'_>,
    form: &Form,
    outcomes: &'a [Outcome],
) -> &'a [Outcome] {
    let (own, behind) = outcomes.split_at(form.outcome_count.min(outcomes.len()));
    render_outcomes(to, form, own);
    behind
}

/// Writes the reply that `outcomes` amount to. A refusal of any of them is the whole reply.
fn render_outcomes(to: &mut Encoder<'_>, form: &Form, outcomes: &[Outcome]) {
    let Some(outcomes) = outcomes.get(..form.outcome_count) else {
        let text = "the reply of the node is incomplete";
        to.complaint(&Complaint::new(FailureClass::Fault, text));
        return;
    };
    let refusal = outcomes.iter().find_map(|outcome| match &outcome.body {
        Body::Refused(refusal) => Some(refusal),
        _ => None,
    });
    if let Some(refusal) = refusal {
        to.complaint(&refusal.into());
        return;
    }
    let is_left_out = |outcome: &Outcome| matches!(outcome.body, Body::Measured(_));
    if form.has_values && outcomes.iter().any(is_left_out) {
        to.complaint(&Complaint::too_large(format!(
            "the reply would hold more than {REPLY_BYTES_MAX} bytes of values, or more than a \
             member sends another at once; ask for less"
        )));
        return;
    }
    (form.write)(to, &Found { outcomes, numbers: form.numbers });
}

fn count(outcomes: &[Outcome], counts: impl Fn(&Outcome) -> bool) -> u64 {
    let number = outcomes.iter().filter(|outcome| counts(outcome)).count();
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn value_of(outcome: &Outcome) -> Option<&Bytes> {
    match &outcome.body {
        Body::Value(value) => value.as_ref(),
        Body::Empty | Body::Measured(_) | Body::Integer(_) | Body::Refused(_) => None,
    }
}

fn length_of(outcome: &Outcome) -> Option<u64> {
    match &outcome.body {
        Body::Value(Some(value)) => Some(u64::try_from(value.len()).unwrap_or(u64::MAX)),
        Body::Measured(bytes) => Some(*bytes),
        Body::Value(None) | Body::Empty | Body::Integer(_) | Body::Refused(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::encode::{Version, code_and_text};
    use super::*;
    use crate::command::{Failure, Reply};

    fn outcome(version: u64, changed: bool, existed: bool, body: Body) -> Outcome {
        Outcome { version, changed, existed, body }
    }

    fn read(value: Option<&'static [u8]>) -> Outcome {
        outcome(1, false, value.is_some(), Body::Value(value.map(Bytes::from_static)))
    }

    fn rendered(form: &Form, result: &CommandResult) -> String {
        let mut out = BytesMut::new();
        render(&mut Encoder::new(&mut out, Version::Three), form, result);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn failures_say_why() {
        let unknown = Failure::Unknown { term: 3, index: 9, reason: "time".to_owned() };
        let text = code_and_text(&unknown.into());
        assert_eq!(text, "UNKNOWN outcome unknown (term 3, log index 9): time");
        let two = Form::VALUE.of_outcomes(2, true);
        let short =
            Reply { index: 1, outcomes: [read(None)].into_iter().collect(), ..Reply::default() };
        assert!(rendered(&two, &Ok(short)).starts_with("-ERR the reply of the node is inc"));
        let text = rendered(&Form::VALUE, &Err(Failure::NoSpace));
        assert!(text.starts_with("-NO_SPACE "), "{text}");
    }

    /// The reply to a transaction of one request, which reads.
    fn executed(watch: (usize, u64), outcomes: &[Outcome]) -> String {
        let items = vec![Item::Data(Form::VALUE)];
        let transaction = Transaction { items, watch: Some(watch) };
        let result = Ok(Reply {
            index: 1,
            outcomes: outcomes.iter().cloned().collect(),
            ..Reply::default()
        });
        let mut out = BytesMut::new();
        let mut to = Encoder::new(&mut out, Version::Two);
        if let Some(outcomes) = begin_transaction(&mut to, &transaction, &result) {
            render_next(&mut to, &Form::VALUE, outcomes);
        }
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn a_watch_that_held_is_no_failure_though_nothing_was_written() {
        // A delete of an absent slot, or a transaction of reads: the version is as it was.
        assert_eq!(executed((0, 1), &[read(None)]), "*1\r\n$-1\r\n");
        assert_eq!(executed((0, 2), &[read(None)]), "*-1\r\n");
        assert_eq!(executed((1, 1), &[read(None)]), "*-1\r\n");
        let kept = outcome(6, false, true, Body::Empty);
        assert_eq!(executed((1, 5), &[read(None), kept]), "*-1\r\n");
        let wrote = outcome(9, true, true, Body::Empty);
        assert_eq!(executed((1, 5), &[read(Some(b"v")), wrote]), "*1\r\n$1\r\nv\r\n");
    }
}
