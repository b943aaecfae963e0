//! Commands that change keys. Pure.
//!
//! Each adds operations to a command, and says how their outcomes become its reply.

#![deny(clippy::indexing_slicing)]

use super::super::draft::Draft;
use super::super::form::{Form, Write};
use super::super::table::{ALL, KEYSPACE_WRITE, PAIRS, Spec};
use super::{exactly, expiry_complaint, integer, is_expiry};
use crate::command::{Action, Answer, Condition};
use crate::server::complaint::Complaint;
use crate::server::keys::{Keys, decimal};

#[rustfmt::skip]
pub(super) const ROWS: &[Spec] = &[
    Spec::writes("append", 3, append, "Adds bytes at the end of a value."),
    Spec::writes("decr", 2, decr, "Takes one from a number."),
    Spec::writes("decrby", 3, decr_by, "Takes from a number."),
    Spec::writes("del", -2, del, "Deletes values.").keyed(ALL).of(KEYSPACE_WRITE),
    Spec::writes("delifeq", 3, del_if_equal, "Deletes a value if it is the given one."),
    Spec::writes("delifversion", 3, del_if_version, "Deletes a value if its version is the given one."),
    Spec::writes("getdel", 2, get_del, "Reads a value and deletes it."),
    Spec::writes("getset", 3, get_set, "Sets a value and answers the one before."),
    Spec::writes("incr", 2, incr, "Adds one to a number."),
    Spec::writes("incrby", 3, incr_by, "Adds to a number."),
    Spec::writes("mset", -3, m_set, "Sets values, all in one log entry.").keyed(PAIRS),
    Spec::writes("set", -3, set, "Sets a value."),
    Spec::writes("setnx", 3, set_nx, "Sets a value if there is none."),
    Spec::writes("setrange", 4, set_range, "Overwrites a part of a value."),
    Spec::writes("unlink", -2, del, "Deletes values.").keyed(ALL).of(KEYSPACE_WRITE),
];

/// What a SET answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SetAnswer {
    /// Whether it took effect.
    Done,
    /// The value before.
    Previous,
    /// The version of the value from now on, if it took effect.
    Version,
}

/// `SET key value [NX | XX | IFEQ value | IFVERSION version] [GET | VERSION] [KEEPTTL]`
fn set(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    let [key, value, options @ ..] = arguments else { return Err(Complaint::SYNTAX) };
    let (condition, wanted) = if options.is_empty() {
        (Condition::Always, SetAnswer::Done)
    } else {
        set_options(options)?
    };
    let (answer, form) = match (wanted, condition) {
        (SetAnswer::Previous, _) => (Answer::Previous, Form::VALUE),
        (SetAnswer::Done, Condition::Always) => (Answer::Status, Form::OK),
        (SetAnswer::Done, _) => {
            let write: Write =
                |to, found| if found.is_changed() { to.simple("OK") } else { to.null() };
            (Answer::Status, Form::new(write))
        }
        (SetAnswer::Version, _) => {
            let write: Write = |to, found| {
                if found.is_changed() { to.count(found.version()) } else { to.null() }
            };
            (Answer::Status, Form::new(write))
        }
    };
    draft.change(keys, key, Action::Set { value, condition, answer })?;
    Ok(form)
}

fn set_options<'a>(options: &[&'a [u8]]) -> Result<(Condition<'a>, SetAnswer), Complaint> {
    let mut condition = Condition::Always;
    let mut answer = SetAnswer::Done;
    let mut rest = options;
    while let Some((option, behind)) = rest.split_first() {
        rest = behind;
        let option = String::from_utf8_lossy(option).to_ascii_uppercase();
        let wanted = match option.as_str() {
            "GET" | "VERSION" => {
                let wanted = if option == "GET" { SetAnswer::Previous } else { SetAnswer::Version };
                if ![SetAnswer::Done, wanted].contains(&answer) {
                    return Err(Complaint::SYNTAX);
                }
                answer = wanted;
                continue;
            }
            "NX" => Condition::IfAbsent,
            "XX" => Condition::IfPresent,
            "IFEQ" => {
                let (value, behind) = rest.split_first().ok_or(Complaint::SYNTAX)?;
                rest = behind;
                Condition::IfEqual(value)
            }
            "IFVERSION" => {
                let (version, behind) = rest.split_first().ok_or(Complaint::SYNTAX)?;
                rest = behind;
                Condition::IfVersion(version_of(version)?)
            }
            // There is no time to live, so it is kept.
            "KEEPTTL" if rest.iter().all(|other| !is_expiry(other)) => continue,
            "EX" | "PX" | "EXAT" | "PXAT" => {
                let at = options.len() - rest.len() - 1;
                return Err(expiry_complaint(options.get(at..).unwrap_or_default()));
            }
            _ => return Err(Complaint::SYNTAX),
        };
        if condition != Condition::Always && condition != wanted {
            return Err(Complaint::SYNTAX);
        }
        condition = wanted;
    }
    Ok((condition, answer))
}

/// `MSET key value...`
fn m_set(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    let (pairs, _) = arguments.as_chunks::<2>();
    for [key, value] in pairs {
        draft.change(keys, key, always_set(value, Answer::Status))?;
    }
    Ok(Form::OK)
}

/// `SETNX key value`
fn set_nx(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    let [key, value] = exactly(arguments)?;
    let (condition, answer) = (Condition::IfAbsent, Answer::Status);
    draft.change(keys, key, Action::Set { value, condition, answer })?;
    Ok(Form::CHANGED)
}

/// `GETSET key value`
fn get_set(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    let [key, value] = exactly(arguments)?;
    draft.change(keys, key, always_set(value, Answer::Previous))?;
    Ok(Form::VALUE)
}

/// `DEL key...`, `UNLINK key...`
fn del(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    let (condition, answer) = (Condition::Always, Answer::Status);
    for key in arguments {
        draft.change(keys, key, Action::Delete { condition, answer })?;
    }
    Ok(Form::new(|to, found| to.count(found.deleted_count())))
}

/// `GETDEL key`
fn get_del(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    let [key] = exactly(arguments)?;
    let (condition, answer) = (Condition::Always, Answer::Previous);
    draft.change(keys, key, Action::Delete { condition, answer })?;
    Ok(Form::VALUE)
}

/// `DELIFEQ key value`
fn del_if_equal(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    let [key, value] = exactly(arguments)?;
    let (condition, answer) = (Condition::IfEqual(value), Answer::Status);
    draft.change(keys, key, Action::Delete { condition, answer })?;
    Ok(Form::CHANGED)
}

/// `DELIFVERSION key version`
fn del_if_version(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    let [key, version] = exactly(arguments)?;
    let (condition, answer) = (Condition::IfVersion(version_of(version)?), Answer::Status);
    draft.change(keys, key, Action::Delete { condition, answer })?;
    Ok(Form::CHANGED)
}

fn version_of(text: &[u8]) -> Result<u64, Complaint> {
    decimal(text).ok_or(Complaint::INTEGER)
}

/// `INCR key`
fn incr(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    let [key] = exactly(arguments)?;
    increment(draft, key, 1, keys)
}

/// `DECR key`
fn decr(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    let [key] = exactly(arguments)?;
    increment(draft, key, -1, keys)
}

/// `INCRBY key number`
fn incr_by(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    let [key, by] = exactly(arguments)?;
    increment(draft, key, integer(by)?, keys)
}

/// `DECRBY key number`
fn decr_by(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    let [key, by] = exactly(arguments)?;
    let by = integer(by)?.checked_neg();
    let by = by.ok_or_else(|| Complaint::wrong("decrement would overflow"))?;
    increment(draft, key, by, keys)
}

/// `APPEND key value`
fn append(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    let [key, value] = exactly(arguments)?;
    draft.change(keys, key, Action::Append { value })?;
    Ok(Form::INTEGER)
}

/// `SETRANGE key offset value`
fn set_range(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    let [key, offset, value] = exactly(arguments)?;
    let offset =
        u64::try_from(integer(offset)?).map_err(|_| Complaint::wrong("offset is out of range"))?;
    if value.is_empty() {
        // Redis writes nothing for an empty value, and answers the length.
        draft.measure(keys, key)?;
        return Ok(Form::new(|to, found| to.count(found.length().unwrap_or(0))));
    }
    draft.change(keys, key, Action::SetRange { offset, value })?;
    Ok(Form::INTEGER)
}

fn always_set(value: &[u8], answer: Answer) -> Action<'_> {
    Action::Set { value, condition: Condition::Always, answer }
}

fn increment(draft: &mut Draft, key: &[u8], by: i64, keys: &Keys) -> Result<Form, Complaint> {
    draft.change(keys, key, Action::Increment { by })?;
    Ok(Form::INTEGER)
}
