//! Turns the effects of an applied command into records of the original's form: GET, SET and
//! DELETE.

use std::borrow::Cow;
use std::collections::BTreeSet;

use diskstore_storage::state::Versioned;

use super::record::RecordKind;
use crate::command::{Action, Body, Command, Condition, Operation, Outcome, Reply};

/// One record to be.
#[derive(Debug)]
pub struct Effect<'a> {
    /// The operation.
    pub kind: RecordKind,
    /// The command's key.
    pub key: &'a [u8],
    /// The value that a SET leaves.
    pub value: Cow<'a, [u8]>,
}

/// The records of an entry. `slot_of` gives what a key's slot holds now that the entry is applied;
/// it is asked where command and reply do not say (I6 of `mod.rs`).
pub(super) fn effects_of<'a>(
    index: u64,
    command: &'a Command,
    reply: &Reply,
    slot_of: &mut dyn FnMut(&[u8]) -> Option<Versioned>,
) -> Vec<Effect<'a>> {
    // A message is no state, and not recorded.
    let is_recorded = |(operation, _): &(Operation<'_>, _)| operation.data_key().is_some();
    let operations = || command.operations().zip(&reply.outcomes).filter(is_recorded);
    let changed: BTreeSet<&[u8]> = operations()
        .filter(|(_, outcome)| outcome.changed)
        .map(|(operation, _)| operation.key)
        .collect();
    let effects = operations().filter_map(|(operation, outcome)| {
        let done = if operation.action.is_read() || outcome.changed {
            Some(effect(&operation.action, outcome, || slot_of(operation.key)))
        } else if changed.contains(operation.key) {
            None
        } else {
            let slot = slot_of(operation.key).filter(|slot| slot.index >= index);
            slot.map(|slot| effect_on_slot_ahead(&operation.action, slot, index))
        };
        done.map(|(kind, value)| Effect { kind, key: operation.key, value })
    });
    effects.collect()
}

type Done<'a> = (RecordKind, Cow<'a, [u8]>);

/// What an operation did that was carried out now.
fn effect<'a>(
    action: &Action<'a>,
    outcome: &Outcome,
    slot: impl FnOnce() -> Option<Versioned>,
) -> Done<'a> {
    match (action, &outcome.body) {
        (Action::Get | Action::Measure, _) => (RecordKind::Get, Cow::Borrowed(&[])),
        (Action::Set { value, .. }, _) => (RecordKind::Set, Cow::Borrowed(value)),
        (Action::Delete { .. }, _) => (RecordKind::Delete, Cow::Borrowed(&[])),
        (Action::Increment { .. }, Body::Integer(result)) => {
            (RecordKind::Set, Cow::Owned(result.to_string().into_bytes()))
        }
        (
            Action::Increment { .. }
            | Action::Append { .. }
            | Action::SetRange { .. }
            | Action::Publish { .. },
            _,
        ) => {
            let value = slot().and_then(|slot| slot.value).unwrap_or_default();
            (RecordKind::Set, Cow::Owned(value.to_vec()))
        }
    }
}

/// What an operation did before a crash, to a slot that reached the disk (I6 of `mod.rs`).
fn effect_on_slot_ahead<'a>(action: &Action<'a>, slot: Versioned, index: u64) -> Done<'a> {
    let is_later = slot.index > index;
    match action {
        Action::Set { value, condition: Condition::Always, .. } if is_later => {
            (RecordKind::Set, Cow::Borrowed(value))
        }
        Action::Delete { condition: Condition::Always, .. } => {
            (RecordKind::Delete, Cow::Borrowed(&[]))
        }
        Action::Get
        | Action::Measure
        | Action::Set { .. }
        | Action::Delete { .. }
        | Action::Increment { .. }
        | Action::Append { .. }
        | Action::SetRange { .. }
        | Action::Publish { .. } => match slot.value {
            Some(value) => (RecordKind::Set, Cow::Owned(value.to_vec())),
            None => (RecordKind::Delete, Cow::Borrowed(&[])),
        },
    }
}
