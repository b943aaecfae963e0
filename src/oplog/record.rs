//! One record of the application log, as bytes: the original's length and protobuf `Command`
//! (1 Id uint64, 2 Ip string, 3 Op enum, 4 Key string, 5 Value bytes). Pure, bounded, never
//! panics.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use std::io::{self, Read};

use super::MORE;
use crate::command::COMMAND_BYTES_MAX;

/// Bytes of the length in front of a record.
pub(super) const LENGTH_BYTES: u64 = 4;
/// Most bytes of a record: a whole command's, and the few bytes that this form adds.
pub(super) const RECORD_BYTES_MAX: u64 = (COMMAND_BYTES_MAX + (1 << 16)) as u64;
/// Field numbers of `Command`.
const FIELD_ID: u64 = 1;
const FIELD_IP: u64 = 2;
const FIELD_OP: u64 = 3;
const FIELD_KEY: u64 = 4;
const FIELD_VALUE: u64 = 5;
/// How a field is written: a number, or a length and bytes.
const WIRE_NUMBER: u64 = 0;
const WIRE_BYTES: u64 = 2;

/// The original's operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Get = 0,
    Set = 1,
    Delete = 2,
}

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) index: u64,
    /// In the field that carries a UDP port on the original's wire.
    pub(super) mark: &'a str,
    pub(super) kind: Kind,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
}

impl Record<'_> {
    /// Appends length and body. Fields with their default value are left out, as protobuf does.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(self.key.len() + self.value.len() + 32);
        put_number(FIELD_ID, self.index, &mut body);
        put_bytes(FIELD_IP, self.mark.as_bytes(), &mut body);
        put_number(FIELD_OP, self.kind as u64, &mut body);
        put_bytes(FIELD_KEY, self.key, &mut body);
        put_bytes(FIELD_VALUE, self.value, &mut body);
        let length = u32::try_from(body.len()).expect("invariant: a command is at most 8 MiB");
        #[expect(clippy::big_endian_bytes, reason = "the original's form is big-endian")]
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&body);
    }
}

fn put_number(field: u64, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        put_varint(field << 3 | WIRE_NUMBER, out);
        put_varint(value, out);
    }
}

fn put_bytes(field: u64, value: &[u8], out: &mut Vec<u8>) {
    if !value.is_empty() {
        put_varint(field << 3 | WIRE_BYTES, out);
        put_varint(u64::try_from(value.len()).unwrap_or(u64::MAX), out);
        out.extend_from_slice(value);
    }
}

/// Seven bits a byte, the lowest first; the top bit says that more follow.
fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value > 0x7f {
        out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

/// What the reader of a file wants to know of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) index: u64,
    /// True if further records of the same entry follow.
    pub(super) more: bool,
}

/// The length in front of the next record. `None`: the file ends before or inside it.
pub(super) fn read_length(input: &mut impl Read) -> io::Result<Option<u64>> {
    let mut bytes = Vec::with_capacity(4);
    input.take(LENGTH_BYTES).read_to_end(&mut bytes)?;
    let length: Option<[u8; 4]> = bytes.try_into().ok();
    Ok(length.map(u32::from_be_bytes).map(u64::from))
}

/// Reads what matters of a body. `None`: it is no `Command`.
pub(super) fn decode_head(mut body: &[u8]) -> Option<Head> {
    let mut head = Head { index: 0, more: false };
    while !body.is_empty() {
        let tag = take_varint(&mut body)?;
        match (tag >> 3, tag & 7) {
            (FIELD_ID, WIRE_NUMBER) => head.index = take_varint(&mut body)?,
            (FIELD_OP, WIRE_NUMBER) => {
                take_varint(&mut body).filter(|op| *op <= Kind::Delete as u64)?;
            }
            (FIELD_IP, WIRE_BYTES) => head.more = take_bytes(&mut body)? == MORE.as_bytes(),
            (FIELD_KEY | FIELD_VALUE, WIRE_BYTES) => {
                take_bytes(&mut body)?;
            }
            _ => return None,
        }
    }
    Some(head)
}

fn take_varint(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = input.split_first()?;
        *input = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take_bytes<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_varint(input)?).ok()?;
    let (bytes, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(bytes)
}
