//! The effect of one entry's operations on one slot: pure, the same on every replica.
//!
//! All operations of an entry on one slot run on a [`Draft`], which is written back once (I3 of
//! `disk.rs`).

use std::borrow::Cow;

use bytes::Bytes;
use diskstore_storage::state::Change;

use crate::command::{Action, Answer, Body, Condition, Holder, Operation, Outcome, Refusal};

/// The value that a slot will have once the entry is applied.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    /// The version so far: that of the slot before the entry, or the entry's own once it changed it.
    pub version: u64,
    /// The value so far; `None` if there is none.
    pub value: Option<Cow<'a, [u8]>>,
    /// True once an operation changed the slot.
    pub changed: bool,
}

/// Bounds that an operation must keep.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Most bytes of a value.
    pub value_bytes_max: u64,
    /// What holds it.
    pub holder: Holder,
    /// Log index of the entry: the version of what it changes.
    pub index: u64,
}

/// True if the action can be carried out, and answered, without knowing what the slot holds.
pub(super) fn is_blind(action: &Action<'_>) -> bool {
    match action {
        Action::Set { condition, answer, .. } | Action::Delete { condition, answer } => {
            *condition == Condition::Always && *answer == Answer::Status
        }
        Action::Get
        | Action::Measure
        | Action::Increment { .. }
        | Action::Append { .. }
        | Action::SetRange { .. }
        | Action::Publish { .. } => false,
    }
}

/// True if the slot holds what the action brings whatever it held before, so that nothing of it need
/// be known.
pub(super) fn replaces(action: &Action<'_>, limits: Limits) -> bool {
    match action {
        Action::Set { value, .. } => {
            is_blind(action) && value.len() as u64 <= limits.value_bytes_max
        }
        Action::Get
        | Action::Measure
        | Action::Delete { .. }
        | Action::Increment { .. }
        | Action::Append { .. }
        | Action::SetRange { .. }
        | Action::Publish { .. } => false,
    }
}

/// The value that a slot has after the action if it changed and holds one, where the action brings
/// all of it.
pub(super) fn brought<'a>(action: &Action<'a>) -> Option<&'a [u8]> {
    match *action {
        Action::Set { value, .. } => Some(value),
        Action::Get
        | Action::Measure
        | Action::Delete { .. }
        | Action::Increment { .. }
        | Action::Append { .. }
        | Action::SetRange { .. }
        | Action::Publish { .. } => None,
    }
}

/// Carries out one action.
pub(super) fn run<'a>(draft: &mut Draft<'a>, action: &Action<'a>, limits: Limits) -> Outcome {
    let existed = draft.value.is_some();
    let before = draft.changed;
    draft.changed = false;
    let body = body_of(draft, action, limits);
    let changed = draft.changed;
    if changed {
        draft.version = limits.index;
    }
    draft.changed |= before;
    Outcome { version: draft.version, changed, existed, body }
}

fn body_of<'a>(draft: &mut Draft<'a>, action: &Action<'a>, limits: Limits) -> Body {
    match *action {
        Action::Get => Body::Value(copy_of(draft)),
        Action::Measure => {
            let length = draft.value.as_deref().map(|value| value.len() as u64);
            length.map_or(Body::Value(None), Body::Measured)
        }
        Action::Set { value, condition, answer } => {
            let body = previous(draft, answer);
            if value.len() as u64 > limits.value_bytes_max {
                return too_large(value.len() as u64, limits);
            }
            if holds(draft, condition) {
                draft.value = Some(Cow::Borrowed(value));
                draft.changed = true;
            }
            body
        }
        Action::Delete { condition, answer } => {
            let body = previous(draft, answer);
            if draft.value.is_some() && holds(draft, condition) {
                draft.value = None;
                draft.changed = true;
            }
            body
        }
        Action::Increment { by } => increment(draft, by, limits),
        Action::Append { value } => {
            let length_now = draft.value.as_deref().map_or(0, <[u8]>::len);
            let length = (length_now + value.len()) as u64;
            if length > limits.value_bytes_max {
                return too_large(length, limits);
            }
            let mut bytes = draft.value.take().unwrap_or_default().into_owned();
            bytes.extend_from_slice(value);
            write(draft, bytes);
            Body::Integer(i64::try_from(length).unwrap_or(i64::MAX))
        }
        Action::SetRange { offset, value } => set_range(draft, offset, value, limits),
        Action::Publish { .. } => Body::Empty, // it has no key, and comes to no draft
    }
}

fn write(draft: &mut Draft<'_>, bytes: Vec<u8>) {
    draft.value = Some(Cow::Owned(bytes));
    draft.changed = true;
}

fn copy_of(draft: &Draft<'_>) -> Option<Bytes> {
    draft.value.as_deref().map(Bytes::copy_from_slice)
}

fn previous(draft: &Draft<'_>, answer: Answer) -> Body {
    match answer {
        Answer::Status => Body::Empty,
        Answer::Previous => Body::Value(copy_of(draft)),
    }
}

fn holds(draft: &Draft<'_>, condition: Condition<'_>) -> bool {
    match condition {
        Condition::Always => true,
        Condition::IfAbsent => draft.value.is_none(),
        Condition::IfPresent => draft.value.is_some(),
        Condition::IfVersion(version) => version == draft.version,
        Condition::IfEqual(expected) => draft.value.as_deref() == Some(expected),
    }
}

fn too_large(bytes: u64, limits: Limits) -> Body {
    Body::Refused(Refusal::TooLarge {
        bytes,
        bytes_max: limits.value_bytes_max,
        holder: limits.holder,
    })
}

fn increment(draft: &mut Draft<'_>, by: i64, limits: Limits) -> Body {
    let now = match draft.value.as_deref() {
        None => 0,
        Some(bytes) => match parse_integer(bytes) {
            Some(number) => number,
            None => return Body::Refused(Refusal::NotAnInteger),
        },
    };
    let Some(next) = now.checked_add(by) else {
        return Body::Refused(Refusal::Overflow);
    };
    let text = next.to_string().into_bytes();
    if text.len() as u64 > limits.value_bytes_max {
        return too_large(text.len() as u64, limits);
    }
    write(draft, text);
    Body::Integer(next)
}

/// A decimal 64-bit integer exactly as Redis takes it: no spaces, no plus, no leading zeros.
fn parse_integer(bytes: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn set_range(draft: &mut Draft<'_>, offset: u64, value: &[u8], limits: Limits) -> Body {
    let length_now = draft.value.as_deref().map_or(0, <[u8]>::len);
    if value.is_empty() {
        return Body::Integer(i64::try_from(length_now).unwrap_or(i64::MAX));
    }
    let end = offset.saturating_add(value.len() as u64);
    if end > limits.value_bytes_max {
        return too_large(end, limits);
    }
    let (Ok(start), Ok(end)) = (usize::try_from(offset), usize::try_from(end)) else {
        return too_large(end, limits);
    };
    let mut bytes = draft.value.take().unwrap_or_default().into_owned();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    if let Some(target) = bytes.get_mut(start..end) {
        target.copy_from_slice(value);
    }
    let length = bytes.len();
    write(draft, bytes);
    Body::Integer(i64::try_from(length).unwrap_or(i64::MAX))
}

/// The change that a finished draft comes to. Owned values only: what the draft borrows from the
/// slot itself must not outlive the closure.
pub(super) fn change_of<'a>(draft: Draft<'_>, operations: &[Operation<'a>]) -> Change<'a> {
    if !draft.changed {
        return Change::Keep;
    }
    let Some(value) = draft.value else { return Change::Delete };
    let whole = match operations {
        [only] => brought(&only.action),
        _ => None,
    };
    Change::Set(whole.map_or_else(|| Cow::Owned(value.into_owned()), Cow::Borrowed))
}

/// The outcome of an operation that did nothing at entry `index`.
pub(super) fn nothing(index: u64) -> Outcome {
    Outcome { version: index, changed: false, existed: false, body: Body::Empty }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { value_bytes_max: 24, holder: Holder::Slot, index: 9 };

    fn draft(value: Option<&[u8]>) -> Draft<'_> {
        Draft { version: 4, value: value.map(Cow::Borrowed), changed: false }
    }

    fn set<'a>(value: &'a [u8], condition: Condition<'a>) -> Action<'a> {
        Action::Set { value, condition, answer: Answer::Previous }
    }

    #[test]
    fn conditions_look_at_the_draft() {
        let cases: [(Option<&[u8]>, Condition<'_>, bool); 10] = [
            (None, Condition::IfAbsent, true),
            (Some(b"x"), Condition::IfAbsent, false),
            (None, Condition::IfPresent, false),
            (Some(b"x"), Condition::IfPresent, true),
            (Some(b"x"), Condition::IfVersion(4), true),
            (Some(b"x"), Condition::IfVersion(5), false),
            (Some(b"x"), Condition::IfEqual(b"x"), true),
            (Some(b"x"), Condition::IfEqual(b"y"), false),
            (None, Condition::IfEqual(b""), false),
            (Some(b""), Condition::IfEqual(b""), true),
        ];
        for (value, condition, expected) in cases {
            let mut draft = draft(value);
            let outcome = run(&mut draft, &set(b"new", condition), LIMITS);
            assert_eq!(outcome.changed, expected, "{value:?} {condition:?}");
            assert_eq!(outcome.version, if expected { 9 } else { 4 });
            assert_eq!(outcome.body, Body::Value(value.map(Bytes::copy_from_slice)));
        }
    }

    #[test]
    fn operations_on_one_slot_see_each_other() {
        let mut draft = draft(None);
        for expected in [5, 10] {
            let outcome = run(&mut draft, &Action::Increment { by: 5 }, LIMITS);
            assert_eq!(outcome.body, Body::Integer(expected));
        }
        let outcome = run(&mut draft, &Action::Append { value: b"!" }, LIMITS);
        assert_eq!(outcome.body, Body::Integer(3));
        assert_eq!(draft.value.as_deref(), Some(&b"10!"[..]));
        let outcome = run(&mut draft, &Action::Increment { by: 1 }, LIMITS);
        assert_eq!(outcome.body, Body::Refused(Refusal::NotAnInteger));
        assert!(draft.changed && !outcome.changed);
    }

    #[test]
    fn a_version_is_gone_once_the_entry_changed_the_slot() {
        let mut draft = draft(Some(b"x"));
        let mut changes = |action| {
            let outcome = run(&mut draft, &action, LIMITS);
            (outcome.changed, outcome.version)
        };
        assert_eq!(changes(set(b"a", Condition::IfVersion(4))), (true, 9));
        assert_eq!(changes(set(b"b", Condition::IfVersion(4))), (false, 9));
        assert_eq!(changes(Action::Get), (false, 9));
        assert_eq!(changes(set(b"c", Condition::IfVersion(9))), (true, 9));
    }

    #[test]
    fn numbers_are_taken_as_redis_takes_them() {
        for (text, number) in [
            (&b"0"[..], Some(0)),
            (b"-7", Some(-7)),
            (b"9223372036854775807", Some(i64::MAX)),
            (b"", None),
            (b"+1", None),
            (b"01", None),
            (b" 1", None),
            (b"-0", None),
            (b"9223372036854775808", None),
            (b"\xff", None),
        ] {
            assert_eq!(parse_integer(text), number, "{text:?}");
        }
        let mut full = draft(Some(b"9223372036854775807"));
        let outcome = run(&mut full, &Action::Increment { by: 1 }, LIMITS);
        assert_eq!(outcome.body, Body::Refused(Refusal::Overflow));
    }

    #[test]
    fn ranges_pad_with_zeros_and_keep_the_bound() {
        let mut slot = draft(Some(b"ab"));
        let action = Action::SetRange { offset: 4, value: b"x" };
        assert_eq!(run(&mut slot, &action, LIMITS).body, Body::Integer(5));
        assert_eq!(slot.value.as_deref(), Some(&b"ab\0\0x"[..]));
        let action = Action::SetRange { offset: u64::MAX, value: b"x" };
        assert!(matches!(run(&mut slot, &action, LIMITS).body, Body::Refused(_)));
        let action = Action::SetRange { offset: 24, value: b"" };
        assert_eq!(run(&mut slot, &action, LIMITS).body, Body::Integer(5));
        let mut absent = draft(None);
        assert!(!run(&mut absent, &action, LIMITS).changed);
        assert!(absent.value.is_none());
    }

    #[test]
    fn what_is_too_long_leaves_the_slot_as_it_was() {
        let long = [b'x'; 25];
        let mut empty = draft(Some(b""));
        run(&mut empty, &Action::Append { value: &long }, LIMITS);
        assert_eq!(empty.value.as_deref(), Some(&b""[..]), "an empty value is a value");
        let mut slot = draft(Some(b"abc"));
        for action in [set(&long, Condition::Always), Action::Append { value: &long[..22] }] {
            let outcome = run(&mut slot, &action, LIMITS);
            let refusal = Refusal::TooLarge { bytes: 25, bytes_max: 24, holder: Holder::Slot };
            assert_eq!(outcome.body, Body::Refused(refusal));
            assert!(!slot.changed);
            assert_eq!(slot.value.as_deref(), Some(&b"abc"[..]));
        }
    }

    #[test]
    fn deleting_nothing_changes_nothing() {
        let mut slot = draft(None);
        let action = Action::Delete { condition: Condition::Always, answer: Answer::Previous };
        let outcome = run(&mut slot, &action, LIMITS);
        assert_eq!((outcome.changed, outcome.version), (false, 4));
        let mut slot = draft(Some(b"x"));
        assert!(run(&mut slot, &action, LIMITS).changed);
        assert!(slot.value.is_none());
    }
}
