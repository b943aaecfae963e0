//! The fields that messages are made of. Pure.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use bytes::{BufMut, Bytes};

use crate::command::DecodeError;
use crate::command::cursor::Cursor;
use crate::leaderless::clock::Version;
use crate::leaderless::message::{Held, Losses, Refusal};
use crate::leaderless::node::records::{put_by_node, read_by_node};
use crate::leaderless::operation::Level;
use crate::leaderless::repair::{Found, TOP_COUNT};

/// Most keys of a list.
pub(super) const LIST_COUNT_MAX: usize = 1 << 21;

pub(super) fn put_losses(out: &mut Vec<u8>, losses: &Losses) {
    out.put_u64_le(losses.own);
    put_by_node(out, losses.others.iter().map(|(node, count)| (*node, *count)));
}

pub(super) fn read_losses(cursor: &mut Cursor) -> Result<Losses, DecodeError> {
    Ok(Losses { own: cursor.u64()?, others: read_by_node(cursor)? })
}

pub(super) fn put_records(out: &mut Vec<u8>, records: &[Found]) {
    put_index(out, records.len());
    for Found { key, held } in records {
        put_key(out, key);
        put_held_field(out, held);
    }
}

pub(super) fn read_records(cursor: &mut Cursor) -> Result<Vec<Found>, DecodeError> {
    let count = read_index(cursor, LIST_COUNT_MAX)?;
    let mut records = Vec::new(); // grows with the bytes that are there (I1 of `mod.rs`)
    for _ in 0..count {
        records.push(Found { key: read_key(cursor)?, held: read_held_field(cursor)? });
    }
    Ok(records)
}

pub(super) fn put_held_field(out: &mut Vec<u8>, held: &Held) {
    out.put_u64_le(held.version.get());
    out.put_u8(u8::from(held.value.is_some()));
    if let Some(value) = &held.value {
        put_long(out, value);
    }
}

pub(super) fn read_held_field(cursor: &mut Cursor) -> Result<Held, DecodeError> {
    let version = Version::from_number(cursor.u64()?);
    let value = if cursor.boolean()? { Some(read_long(cursor)?) } else { None };
    Ok(Held { version, value })
}

pub(super) fn put_sums(out: &mut Vec<u8>, sums: &[u64]) {
    put_index(out, sums.len());
    for sum in sums {
        out.put_u64_le(*sum);
    }
}

pub(super) fn read_sums(cursor: &mut Cursor) -> Result<Vec<u64>, DecodeError> {
    let count = read_index(cursor, TOP_COUNT)?; // groups, and buckets of a group, are as many
    (0..count).map(|_| cursor.u64()).collect()
}

pub(super) fn put_index(out: &mut Vec<u8>, index: usize) {
    out.put_u32_le(u32::try_from(index).expect("invariant: counts are bounded"));
}

pub(super) fn read_index(cursor: &mut Cursor, max: usize) -> Result<usize, DecodeError> {
    let index = cursor.u32()? as usize;
    if index > max { Err(cursor.error("number out of range")) } else { Ok(index) }
}

pub(super) fn put_key(out: &mut Vec<u8>, key: &[u8]) {
    out.put_u16_le(u16::try_from(key.len()).expect("invariant: keys are bounded"));
    out.put_slice(key);
}

pub(super) fn read_key(cursor: &mut Cursor) -> Result<Bytes, DecodeError> {
    let length = usize::from(cursor.u16()?);
    if length == 0 {
        return Err(cursor.error("empty key"));
    }
    cursor.bytes(length)
}

pub(super) fn put_long(out: &mut Vec<u8>, bytes: &[u8]) {
    put_index(out, bytes.len());
    out.put_slice(bytes);
}

pub(super) fn read_long(cursor: &mut Cursor) -> Result<Bytes, DecodeError> {
    let length = cursor.u32()? as usize;
    cursor.bytes(length)
}

pub(super) fn level_byte(level: Level) -> u8 {
    match level {
        Level::One => 0,
        Level::Quorum => 1,
        Level::All => 2,
    }
}

pub(super) fn read_level(cursor: &mut Cursor) -> Result<Level, DecodeError> {
    Ok(match cursor.u8()? {
        0 => Level::One,
        1 => Level::Quorum,
        2 => Level::All,
        _ => return Err(cursor.error("unknown level")),
    })
}

pub(super) fn refusal_byte(refusal: Refusal) -> u8 {
    match refusal {
        Refusal::Copying => 0,
        Refusal::Fenced => 1,
        Refusal::Forgotten => 2,
        Refusal::Ahead => 3,
        Refusal::NoVersion => 4,
        Refusal::NoRoom => 5,
    }
}

pub(super) fn read_refusal(cursor: &mut Cursor) -> Result<Refusal, DecodeError> {
    Ok(match cursor.u8()? {
        0 => Refusal::Copying,
        1 => Refusal::Fenced,
        2 => Refusal::Forgotten,
        3 => Refusal::Ahead,
        4 => Refusal::NoVersion,
        5 => Refusal::NoRoom,
        _ => return Err(cursor.error("unknown refusal")),
    })
}
