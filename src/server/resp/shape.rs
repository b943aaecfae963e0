//! Outcomes to reply bytes: what form the reply to each command takes. Pure.

#![deny(clippy::indexing_slicing)]

use bytes::Bytes;

use super::decode::Request;
use super::encode::Encoder;
use crate::command::{Body, CommandResult, Failure, Outcome, REPLY_BYTES_MAX};

/// Whether a command has to be proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It only reads.
    Read,
    /// It writes.
    Write,
}

/// The form of the reply to the operations of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `OK`, for each of so many operations.
    Stored(usize),
    /// `OK` if it was written, else nil.
    StoredIf,
    /// 1 if it was written, else 0.
    Changed,
    /// The value of the outcome, or nil.
    Value,
    /// The values of so many outcomes, as an array.
    Values(usize),
    /// How many of so many operations deleted a value.
    Deleted(usize),
    /// How many of so many keys hold a value.
    Existing(usize),
    /// The number that the operation answered.
    Integer,
    /// The length of the value.
    Length,
    /// A part of the value: first and last byte, negative from the end.
    Range(i64, i64),
    /// `string` or `none`.
    Type,
    /// The time to live of a value that has none: -1, or -2 if there is no value.
    TimeToLive,
    /// 0: there was no expiry to remove.
    Zero,
    /// The bytes that the slot takes, or nil.
    Memory(u64),
    /// So many bytes and those of the value, or null for none.
    MemoryBeside(u64),
    /// How the value is held: always as the bytes that were set.
    Encoding,
    /// How many keys share the value: one.
    References,
    /// `OK`; the version goes to the connection, which watches it.
    Watch,
}

/// The form of the reply to EXEC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transaction {
    /// The replies of its requests, in order.
    pub(crate) items: Vec<Item>,
    /// The operation that tells whether the watched slot is as it was, and its version then.
    pub(crate) watch: Option<(usize, u64)>,
}

/// The form of one reply inside a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// It was known when the request was queued: what is wrong with it.
    Answer(Bytes),
    /// It comes from the next outcomes.
    Data(Shape),
    /// The request is about the connection or the node, and is looked at once the transaction has
    /// been executed.
    Request(Box<Request>),
}

impl Shape {
    /// How many outcomes this reply is made of.
    fn outcome_count(&self) -> usize {
        match self {
            Shape::Stored(count)
            | Shape::Values(count)
            | Shape::Deleted(count)
            | Shape::Existing(count) => *count,
            Shape::StoredIf
            | Shape::Changed
            | Shape::Value
            | Shape::Integer
            | Shape::Length
            | Shape::Range(..)
            | Shape::Type
            | Shape::TimeToLive
            | Shape::Zero
            | Shape::Memory(_)
            | Shape::MemoryBeside(_)
            | Shape::Encoding
            | Shape::References
            | Shape::Watch => 1,
        }
    }
}

impl Shape {
    /// Whether the values that were read are part of the reply.
    pub(crate) fn needs_values(&self) -> bool {
        matches!(self, Shape::Value | Shape::Values(_) | Shape::Range(..))
    }
}

/// Writes the reply to one request.
pub(crate) fn render(to: &mut Encoder<'_>, shape: &Shape, result: &CommandResult) {
    match result {
        Err(failure) => to.error(&failure_text(failure)),
        Ok(reply) => render_outcomes(to, shape, &reply.outcomes),
    }
}

/// The text of the error reply to a command that has no reply, its code first.
///
/// The codes that client libraries retry by themselves (`CLUSTERDOWN`) stand only where nothing
/// was proposed.
pub(crate) fn failure_text(failure: &Failure) -> String {
    let code = match failure {
        Failure::NoLeader { .. } | Failure::Stopping => "CLUSTERDOWN",
        Failure::NotLeader { .. } => "NOT_LEADER",
        Failure::NoSpace => "NO_SPACE",
        Failure::Full { .. } => "OOM",
        Failure::Busy { .. } => "BUSY",
        Failure::Refused(_) | Failure::Damaged { .. } => "ERR",
        Failure::Unknown { .. } => "UNKNOWN",
    };
    format!("{code} {failure}")
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
            to.error(&failure_text(failure));
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
    shape: &Shape,
    outcomes: &'a [Outcome],
) -> &'a [Outcome] {
    let (own, behind) = outcomes.split_at(shape.outcome_count().min(outcomes.len()));
    render_outcomes(to, shape, own);
    behind
}

/// Writes the reply that `outcomes` amount to. A refusal of any of them is the whole reply.
fn render_outcomes(to: &mut Encoder<'_>, shape: &Shape, outcomes: &[Outcome]) {
    if outcomes.len() < shape.outcome_count() {
        to.error("ERR the reply of the node is incomplete");
        return;
    }
    let refusal = outcomes.iter().find_map(|outcome| match &outcome.body {
        Body::Refused(refusal) => Some(refusal),
        _ => None,
    });
    if let Some(refusal) = refusal {
        to.error(&format!("ERR {refusal}"));
        return;
    }
    let is_left_out = |outcome: &Outcome| matches!(outcome.body, Body::Measured(_));
    if shape.needs_values() && outcomes.iter().any(is_left_out) {
        to.error(&format!(
            "ERR the reply would hold more than {REPLY_BYTES_MAX} bytes of values, or more than a \
             member sends another at once; ask for less"
        ));
        return;
    }
    let first = outcomes.first();
    let value = first.and_then(value_of);
    let length = first.and_then(length_of);
    let changed = first.is_some_and(|outcome| outcome.changed);
    match shape {
        Shape::Stored(_) | Shape::Watch => to.simple("OK"),
        Shape::StoredIf if changed => to.simple("OK"),
        Shape::Changed => to.integer(i64::from(changed)),
        Shape::Value => to.value(value.map(Bytes::as_ref)),
        Shape::Values(count) => {
            to.array(*count);
            for outcome in outcomes.iter().take(*count) {
                to.value(value_of(outcome).map(Bytes::as_ref));
            }
        }
        Shape::Deleted(_) => count(to, outcomes, |outcome| outcome.changed && outcome.existed),
        Shape::Existing(_) => count(to, outcomes, |outcome| length_of(outcome).is_some()),
        Shape::Integer => to.integer(first.map_or(0, integer_of)),
        Shape::Length => to.count(length.unwrap_or(0)),
        Shape::Range(start, end) => {
            to.bulk(part_of(value.map(Bytes::as_ref).unwrap_or_default(), *start, *end));
        }
        Shape::Type => to.simple(if length.is_some() { "string" } else { "none" }),
        Shape::TimeToLive => to.integer(if length.is_some() { -1 } else { -2 }),
        Shape::Zero => to.integer(0),
        Shape::StoredIf => to.null(),
        Shape::Encoding => to.value(length.map(|_| b"raw".as_slice())),
        Shape::References => to_count_or_null(to, length.map(|_| 1)),
        Shape::Memory(bytes) => to_count_or_null(to, length.map(|_| *bytes)),
        Shape::MemoryBeside(bytes) => to_count_or_null(to, length.map(|length| bytes + length)),
    }
}

fn count(to: &mut Encoder<'_>, outcomes: &[Outcome], counts: impl Fn(&Outcome) -> bool) {
    let number = outcomes.iter().filter(|outcome| counts(outcome)).count();
    to.count(u64::try_from(number).unwrap_or(u64::MAX));
}

fn to_count_or_null(to: &mut Encoder<'_>, number: Option<u64>) {
    match number {
        Some(number) => to.count(number),
        None => to.null(),
    }
}

fn value_of(outcome: &Outcome) -> Option<&Bytes> {
    match &outcome.body {
        Body::Value(value) => value.as_ref(),
        Body::Empty | Body::Measured(_) | Body::Integer(_) | Body::Refused(_) => None,
    }
}

fn integer_of(outcome: &Outcome) -> i64 {
    match &outcome.body {
        Body::Integer(number) => *number,
        Body::Empty | Body::Value(_) | Body::Measured(_) | Body::Refused(_) => 0,
    }
}

/// The length of the value that an outcome found; `None` if there is none.
fn length_of(outcome: &Outcome) -> Option<u64> {
    match &outcome.body {
        Body::Value(Some(value)) => Some(u64::try_from(value.len()).unwrap_or(u64::MAX)),
        Body::Measured(bytes) => Some(*bytes),
        Body::Value(None) | Body::Empty | Body::Integer(_) | Body::Refused(_) => None,
    }
}

/// Bytes `start` to `end` of a value, both included; negative ones count from the end.
fn part_of(value: &[u8], start: i64, end: i64) -> &[u8] {
    let length = i64::try_from(value.len()).unwrap_or(i64::MAX);
    if start < 0 && end < 0 && start > end {
        return &[];
    }
    let from_start = |at: i64| if at < 0 { (length.saturating_add(at)).max(0) } else { at };
    let start = from_start(start);
    let behind = from_start(end).saturating_add(1).min(length);
    let range = usize::try_from(start).ok().zip(usize::try_from(behind).ok());
    range.and_then(|(start, behind)| value.get(start..behind)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use bytes::BytesMut;

    use super::super::encode::Version;
    use super::*;
    use crate::command::{Refusal, Reply};

    fn outcome(version: u64, changed: bool, existed: bool, body: Body) -> Outcome {
        Outcome { version, changed, existed, body }
    }

    fn read(value: Option<&'static [u8]>) -> Outcome {
        let body = Body::Value(value.map(Bytes::from_static));
        outcome(1, false, value.is_some(), body)
    }

    fn rendered(version: Version, shape: &Shape, result: &CommandResult) -> String {
        let mut out = BytesMut::new();
        render(&mut Encoder::new(&mut out, version), shape, result);
        String::from_utf8(out.to_vec()).unwrap()
    }

    fn of(shape: &Shape, outcomes: &[Outcome]) -> String {
        let outcomes = outcomes.iter().cloned().collect();
        rendered(Version::Two, shape, &Ok(Reply { index: 1, outcomes }))
    }

    #[test]
    fn each_shape_reads_its_outcomes() {
        let wrote = outcome(2, true, true, Body::Empty);
        let kept = outcome(2, false, true, Body::Empty);
        let fresh = outcome(2, true, false, Body::Empty);
        assert_eq!(of(&Shape::Stored(1), from_ref(&wrote)), "+OK\r\n");
        assert_eq!(of(&Shape::StoredIf, from_ref(&wrote)), "+OK\r\n");
        assert_eq!(of(&Shape::StoredIf, from_ref(&kept)), "$-1\r\n");
        assert_eq!(of(&Shape::Changed, from_ref(&kept)), ":0\r\n");
        assert_eq!(of(&Shape::Deleted(3), &[wrote, kept, fresh]), ":1\r\n");
        assert_eq!(of(&Shape::Value, &[read(Some(b""))]), "$0\r\n\r\n");
        assert_eq!(of(&Shape::Value, &[read(None)]), "$-1\r\n");
        assert_eq!(
            of(&Shape::Values(2), &[read(Some(b"a")), read(None)]),
            "*2\r\n$1\r\na\r\n$-1\r\n"
        );
        assert_eq!(of(&Shape::Existing(2), &[read(Some(b"a")), read(None)]), ":1\r\n");
        assert_eq!(of(&Shape::Length, &[read(Some(b"abc"))]), ":3\r\n");
        assert_eq!(of(&Shape::Type, &[read(None)]), "+none\r\n");
        assert_eq!(of(&Shape::TimeToLive, &[read(Some(b"a"))]), ":-1\r\n");
        assert_eq!(of(&Shape::Memory(1040), &[read(Some(b"a"))]), ":1040\r\n");
        let integer = outcome(2, true, true, Body::Integer(-7));
        assert_eq!(of(&Shape::Integer, &[integer]), ":-7\r\n");
    }

    #[test]
    fn a_value_that_was_left_out_is_no_missing_value() {
        let measured = outcome(1, false, true, Body::Measured(7));
        let measured = from_ref(&measured);
        assert_eq!(of(&Shape::Existing(1), measured), ":1\r\n");
        assert_eq!(of(&Shape::Length, measured), ":7\r\n");
        assert_eq!(of(&Shape::Type, measured), "+string\r\n");
        assert_eq!(of(&Shape::TimeToLive, measured), ":-1\r\n");
        assert_eq!(of(&Shape::Memory(1040), measured), ":1040\r\n");
        assert_eq!(of(&Shape::Encoding, measured), "$3\r\nraw\r\n");
        assert_eq!(of(&Shape::References, measured), ":1\r\n");
        assert_eq!(of(&Shape::Encoding, &[read(None)]), "$-1\r\n");
        assert_eq!(of(&Shape::MemoryBeside(160), measured), ":167\r\n");
        for shape in [Shape::Value, Shape::Values(1), Shape::Range(0, -1)] {
            let text = of(&shape, measured);
            assert!(text.starts_with("-ERR the reply would hold more than 67108864 b"), "{text}");
        }
    }

    #[test]
    fn refusals_and_failures_say_why() {
        let refused = outcome(2, false, true, Body::Refused(Refusal::NotAnInteger));
        let expected = "-ERR value is not an integer or out of range\r\n";
        assert_eq!(of(&Shape::Integer, &[refused]), expected);
        let unknown = Failure::Unknown { term: 3, index: 9, reason: "time".to_owned() };
        assert_eq!(failure_text(&unknown), "UNKNOWN outcome unknown (term 3, log index 9): time");
        assert!(of(&Shape::Values(2), &[read(None)]).starts_with("-ERR"));
        let text = rendered(Version::Three, &Shape::Value, &Err(Failure::NoSpace));
        assert!(text.starts_with("-NO_SPACE "), "{text}");
    }

    #[test]
    fn ranges_are_those_of_redis() {
        let cases: &[(i64, i64, &[u8])] = &[
            (0, -1, b"hello"),
            (0, 0, b"h"),
            (1, 2, b"el"),
            (-3, -1, b"llo"),
            (-100, 1, b"he"),
            (3, 100, b"lo"),
            (3, 2, b""),
            (5, 9, b""),
            (-1, -3, b""),
            (0, -100, b"h"),
            (i64::MIN, i64::MAX, b"hello"),
        ];
        for (start, end, expected) in cases {
            assert_eq!(part_of(b"hello", *start, *end), *expected, "{start} {end}");
        }
        assert_eq!(part_of(b"", 0, -1), b"");
    }

    /// The reply to a transaction of one request, which reads.
    fn executed(watch: (usize, u64), outcomes: &[Outcome]) -> String {
        let items = vec![Item::Data(Shape::Value)];
        let transaction = Transaction { items, watch: Some(watch) };
        let result = Ok(Reply { index: 1, outcomes: outcomes.iter().cloned().collect() });
        let mut out = BytesMut::new();
        let mut to = Encoder::new(&mut out, Version::Two);
        if let Some(outcomes) = begin_transaction(&mut to, &transaction, &result) {
            render_next(&mut to, &Shape::Value, outcomes);
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
