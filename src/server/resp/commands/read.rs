//! Commands that read keys. Pure.
//!
//! Each adds reads to a command, and says how their outcomes become its reply.

#![deny(clippy::indexing_slicing)]

use std::ops::Range;

use bytes::Bytes;

use super::super::draft::Draft;
use super::super::encode::Encoder;
use super::super::form::Form;
use super::super::table::{
    ALL, KEYSPACE_LISTING, KEYSPACE_READ, KEYSPACE_WRITE, SLOW_READ, STRING_WRITE, Spec,
};
use super::{exactly, expiry_complaint, integer};
use crate::server::complaint::Complaint;
use crate::server::keys::Keys;

/// What a key takes in memory beside its own bytes and its value, about.
const KEY_MEMORY_BYTES: i64 = 160;

#[rustfmt::skip]
pub(super) const ROWS: &[Spec] = &[
    Spec::reads("bitcount", -2, bit_count, "Counts the bits that are set, in a part of a value or all of it.").of(SLOW_READ),
    Spec::reads("exists", -2, exists, "Counts the keys that hold a value.").keyed(ALL).of(KEYSPACE_READ),
    Spec::reads("expiretime", 2, time_to_live, "Says that a value does not expire.").of(KEYSPACE_READ),
    Spec::reads("get", 2, get, "Reads a value."),
    Spec::reads("getex", -2, get_ex, "Reads a value; there is no expiry to set.").of(STRING_WRITE),
    Spec::reads("getrange", 4, get_range, "Reads a part of a value."),
    Spec::reads("getversion", 2, get_version, "Reads a value and its version."),
    Spec::reads("memory", -2, memory, "Answers the bytes that a key takes.").keyed_behind_subcommand().of(SLOW_READ),
    Spec::reads("mget", -2, m_get, "Reads values, all at one moment.").keyed(ALL),
    Spec::reads("object", -2, object, "Answers how a value is held.").keyed_behind_subcommand().of(KEYSPACE_LISTING),
    Spec::reads("persist", 2, persist, "Answers 0: a value does not expire.").of(KEYSPACE_WRITE),
    Spec::reads("pexpiretime", 2, time_to_live, "Says that a value does not expire.").of(KEYSPACE_READ),
    Spec::reads("pttl", 2, time_to_live, "Says that a value does not expire.").of(KEYSPACE_READ),
    Spec::reads("strlen", 2, str_len, "Answers the length of a value."),
    Spec::reads("substr", 4, get_range, "Reads a part of a value."),
    Spec::reads("touch", -2, exists, "Counts the keys that hold a value.").keyed(ALL).of(KEYSPACE_READ),
    Spec::reads("ttl", 2, time_to_live, "Says that a value does not expire.").of(KEYSPACE_READ),
    Spec::reads("type", 2, type_of, "Answers the type of a value: string or none.").of(KEYSPACE_READ),
];

/// `GET key`
fn get(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    let [key] = exactly(arguments)?;
    draft.get(keys, key)?;
    Ok(Form::VALUE)
}

/// `GETEX key [PERSIST]`: PERSIST changes nothing, for there is no time to live.
fn get_ex(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    let (key, options) = arguments.split_first().ok_or(Complaint::SYNTAX)?;
    match options {
        [] => {}
        [option] if option.eq_ignore_ascii_case(b"persist") => {}
        [_, _] => return Err(expiry_complaint(options)),
        _ => return Err(Complaint::SYNTAX),
    }
    draft.get(keys, key)?;
    Ok(Form::VALUE)
}

/// `GETVERSION key`: the value, nil if there is none, and the log index of the last set or delete; 0 if
/// there was none.
fn get_version(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    let [key] = exactly(arguments)?;
    draft.get(keys, key)?;
    Ok(Form::new(|to, found| {
        to.array(2);
        to.value(found.value().map(Bytes::as_ref));
        to.count(found.version());
    }))
}

/// `MGET key...`
fn m_get(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    for key in arguments {
        draft.get(keys, key)?;
    }
    Ok(Form::new(|to, found| {
        to.array(found.outcomes.len());
        found.values().for_each(|value| to.value(value.map(Bytes::as_ref)));
    }))
}

/// `EXISTS key...`, `TOUCH key...`
fn exists(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    for key in arguments {
        draft.measure(keys, key)?;
    }
    Ok(Form::new(|to, found| to.count(found.existing_count())))
}

/// `STRLEN key`
fn str_len(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    measured(draft, arguments, keys, Form::new(|to, found| to.count(found.length().unwrap_or(0))))
}

/// `TYPE key`
fn type_of(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    let form = Form::new(|to, found| match found.length() {
        Some(_) => to.simple("string"),
        None => to.simple("none"),
    });
    measured(draft, arguments, keys, form)
}

/// `TTL key` and its kin: there is never a time to live, which is -1, or -2 if there is no value.
fn time_to_live(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    let form = Form::new(|to, found| to.integer(if found.length().is_some() { -1 } else { -2 }));
    measured(draft, arguments, keys, form)
}

/// `PERSIST key`: there was no expiry to remove.
fn persist(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    measured(draft, arguments, keys, Form::new(|to, _| to.integer(0)))
}

/// `GETRANGE key first last`, `SUBSTR`
fn get_range(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    let [key, start, end] = exactly(arguments)?;
    let numbers = [integer(start)?, integer(end)?];
    draft.get(keys, key)?;
    let form = Form::new(|to, found| {
        let [start, end] = found.numbers;
        to.bulk(part_of(found.value().map(Bytes::as_ref).unwrap_or_default(), start, end));
    });
    Ok(form.with(numbers))
}

/// `BITCOUNT key [first last [BYTE | BIT]]`
fn bit_count(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    let by_byte: Form = Form::new(|to, found| {
        let [start, end] = found.numbers;
        let value = found.value().map(Bytes::as_ref).unwrap_or_default();
        to.count(ones(part_of(value, start, end)));
    });
    let by_bit = Form::new(|to, found| {
        let [start, end] = found.numbers;
        to.count(ones_of_bits(found.value().map(Bytes::as_ref).unwrap_or_default(), start, end));
    });
    let (key, form, numbers) = match arguments {
        [key] => (key, by_byte, [0, -1]),
        [key, start, end, unit @ ..] => {
            let numbers = [integer(start)?, integer(end)?];
            match unit {
                [] => (key, by_byte, numbers),
                [unit] if unit.eq_ignore_ascii_case(b"byte") => (key, by_byte, numbers),
                [unit] if unit.eq_ignore_ascii_case(b"bit") => (key, by_bit, numbers),
                _ => return Err(Complaint::SYNTAX),
            }
        }
        _ => return Err(Complaint::SYNTAX),
    };
    draft.get(keys, key)?;
    Ok(form.with(numbers))
}

/// `MEMORY USAGE key [SAMPLES count]`: a slot takes what it takes; a key what its bytes and its value
/// do.
fn memory(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    let (sub, names) = arguments.split_first().ok_or(Complaint::SYNTAX)?;
    let Some(key) = names.first().filter(|_| sub.eq_ignore_ascii_case(b"usage")) else {
        return Err(Complaint::subcommand("MEMORY", sub));
    };
    if !matches!(names, [_] | [_, _, _]) {
        return Err(Complaint::SYNTAX);
    }
    draft.measure(keys, key)?;
    let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let Some(slot_bytes) = keys.slot_bytes() else {
        let key_bytes = i64::try_from(key.len()).unwrap_or(i64::MAX);
        let form = Form::new(|to, found| {
            let [bytes, _] = found.numbers;
            let length = found.length().map(|length| i64::try_from(length).unwrap_or(i64::MAX));
            integer_or_null(to, length.map(|length| bytes.saturating_add(length)));
        });
        return Ok(form.with([key_bytes + KEY_MEMORY_BYTES, 0]));
    };
    let form = Form::new(|to, found| {
        let [bytes, _] = found.numbers;
        integer_or_null(to, found.length().map(|_| bytes));
    });
    Ok(form.with([number(slot_bytes), 0]))
}

/// `OBJECT ENCODING | REFCOUNT key`: a value is its bytes, and belongs to its key alone.
fn object(draft: &mut Draft, arguments: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
    let (sub, names) = arguments.split_first().ok_or(Complaint::SYNTAX)?;
    let upper = String::from_utf8_lossy(sub).to_ascii_uppercase();
    let form = match upper.as_str() {
        "ENCODING" => Form::new(|to, found| to.value(found.length().map(|_| b"raw".as_slice()))),
        "REFCOUNT" => Form::new(|to, found| integer_or_null(to, found.length().map(|_| 1))),
        "IDLETIME" | "FREQ" => {
            let what = format!("OBJECT {upper}");
            return Err(Complaint::refused(&what, "when a key was used is not kept"));
        }
        _ => return Err(Complaint::subcommand("OBJECT", sub)),
    };
    let [key] = exactly(names)
        .map_err(|_| Complaint::arity(&format!("object|{}", upper.to_ascii_lowercase())))?;
    draft.measure(keys, key)?;
    Ok(form)
}

/// A look at one key, and the form of its reply.
fn measured(
    draft: &mut Draft,
    arguments: &[&[u8]],
    keys: &Keys,
    form: Form,
) -> Result<Form, Complaint> {
    let [key] = exactly(arguments)?;
    draft.measure(keys, key)?;
    Ok(form)
}

fn integer_or_null(to: &mut Encoder<'_>, number: Option<i64>) {
    match number {
        Some(number) => to.integer(number),
        None => to.null(),
    }
}

/// Bytes `start` to `end` of a value, both included; negative ones count from the end.
fn part_of(value: &[u8], start: i64, end: i64) -> &[u8] {
    value.get(range_of(value.len(), start, end)).unwrap_or_default()
}

/// Positions `start` to `end` of so many, both included; negative ones count from the end.
fn range_of(length: usize, start: i64, end: i64) -> Range<usize> {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    if start < 0 && end < 0 && start > end {
        return 0..0;
    }
    let from_start = |at: i64| if at < 0 { (length.saturating_add(at)).max(0) } else { at };
    let start = from_start(start);
    let behind = from_start(end).saturating_add(1).min(length);
    let position = |at: i64| usize::try_from(at).unwrap_or(usize::MAX);
    position(start)..position(behind)
}

/// How many bits are set.
fn ones(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(byte.count_ones())).sum()
}

/// How many are set of bits `start` to `end`, both included, the highest of the first byte being 0;
/// negative ones count from the end.
fn ones_of_bits(value: &[u8], start: i64, end: i64) -> u64 {
    let Range { start, end } = range_of(value.len().saturating_mul(8), start, end);
    if start >= end {
        return 0;
    }
    let bytes = value.get(start / 8..end.div_ceil(8)).unwrap_or_default();
    let at = |byte: Option<&u8>| byte.copied().unwrap_or_default();
    let before = u16::from(at(bytes.first())) >> (8 - start % 8);
    let behind = (u16::from(at(bytes.last())) << (8 - (end.div_ceil(8) * 8 - end))) & 0xff;
    ones(bytes) - u64::from(before.count_ones()) - u64::from(behind.count_ones())
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn bits_are_counted_as_by_redis() {
        // The examples of Redis' own documentation, and the ends of the range.
        for (start, end, bytes, bits) in [
            (0, -1, 26, 26),
            (0, 0, 4, 0),
            (1, 1, 6, 1),
            (5, 30, 4, 17),
            (-1, -1, 4, 0),
            (3, 2, 0, 0),
            (i64::MIN, i64::MAX, 26, 26),
        ] {
            let value = b"foobar";
            assert_eq!(ones(part_of(value, start, end)), bytes, "{start} {end}");
            assert_eq!(ones_of_bits(value, start, end), bits, "bits {start} {end}");
        }
        assert_eq!(ones_of_bits(b"", 0, -1), 0);
        // Against a count of one bit after the other.
        let value = [0b1010_0101, 0xff, 0x00, 0b1100_0011_u8];
        let is_set = |bit: i64| value[usize::try_from(bit / 8).unwrap()] >> (7 - bit % 8) & 1;
        for start in 0..34 {
            for end in 0..34 {
                let counted = (start..=end).filter(|bit| *bit < 32).map(is_set).map(u64::from);
                assert_eq!(ones_of_bits(&value, start, end), counted.sum::<u64>(), "{start} {end}");
            }
        }
    }
}
