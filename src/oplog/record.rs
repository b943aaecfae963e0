//! One record of the application log, as bytes: the original's length and protobuf `Command`
//! (1 Id uint64, 2 Ip string, 3 Op enum, 4 Key string, 5 Value bytes). Pure, bounded, never
//! panics.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use crate::command::COMMAND_BYTES_MAX;

/// Bytes of the length in front of a record.
pub const LENGTH_BYTES: usize = 4;
/// Most bytes of a record: a whole command's, and the few bytes that this form adds.
pub(super) const RECORD_BYTES_MAX: usize = COMMAND_BYTES_MAX + (1 << 16);
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
pub enum RecordKind {
    /// Reads a key.
    Get = 0,
    /// Sets it to a value.
    Set = 1,
    /// Removes its value.
    Delete = 2,
}

/// What a record says beside its command, in the field that carries a UDP port on the original's
/// wire: readers of the original pass over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Nothing: it is the last record of its entry.
    None,
    /// Another record of this entry follows.
    More,
    /// Entries up to its index that are not in the file came by snapshot.
    Gap,
    /// A slot as a snapshot brought it; its index is the slot's.
    Image,
    /// The end of an answer; its index is the highest that was sent. Never in a file.
    End,
}

impl Mark {
    const fn text(self) -> &'static str {
        match self {
            Mark::None => "",
            Mark::More => "more",
            Mark::Gap => "gap",
            Mark::Image => "image",
            Mark::End => "end",
        }
    }

    /// Whatever else stands there, a UDP port for one, says nothing here.
    fn of(text: &[u8]) -> Mark {
        let marks = [Mark::More, Mark::Gap, Mark::Image, Mark::End];
        let found = marks.into_iter().find(|mark| mark.text().as_bytes() == text);
        found.unwrap_or(Mark::None)
    }
}

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Log index.
    pub index: u64,
    /// What it says beside its command.
    pub mark: Mark,
    /// The operation.
    pub kind: RecordKind,
    /// The key: a slot number in decimal.
    pub key: &'a [u8],
    /// The value that a SET leaves.
    pub value: &'a [u8],
}

impl<'a> Record<'a> {
    /// A record that stands for no operation of an entry.
    pub(super) fn marking(mark: Mark, index: u64) -> Record<'a> {
        Record { index, mark, kind: RecordKind::Get, key: b"0", value: &[] }
    }

    /// Appends length and body; the value stands at the end. Fields with their default value are
    /// left out, as protobuf does.
    ///
    /// # Panics
    /// With a key or value of 4 GiB or more.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; LENGTH_BYTES]);
        put_number(FIELD_ID, self.index, out);
        put_bytes(FIELD_IP, self.mark.text().as_bytes(), out);
        put_number(FIELD_OP, self.kind as u64, out);
        put_bytes(FIELD_KEY, self.key, out);
        put_bytes(FIELD_VALUE, self.value, out);
        let bytes = out.len() - start - LENGTH_BYTES;
        let length = u32::try_from(bytes).expect("invariant: a command is at most 8 MiB");
        if let Some(place) = out.get_mut(start..start + LENGTH_BYTES) {
            #[expect(clippy::big_endian_bytes, reason = "the original's form is big-endian")]
            place.copy_from_slice(&length.to_be_bytes());
        }
    }

    /// Reads a body. `None`: it is no `Command`.
    pub fn decode(mut body: &'a [u8]) -> Option<Record<'a>> {
        let none = (Mark::None, RecordKind::Get);
        let mut record = Record { index: 0, mark: none.0, kind: none.1, key: &[], value: &[] };
        while !body.is_empty() {
            let tag = take_varint(&mut body)?;
            match (tag >> 3, tag & 7) {
                (FIELD_ID, WIRE_NUMBER) => record.index = take_varint(&mut body)?,
                (FIELD_IP, WIRE_BYTES) => record.mark = Mark::of(take_bytes(&mut body)?),
                (FIELD_OP, WIRE_NUMBER) => {
                    record.kind = match take_varint(&mut body)? {
                        0 => RecordKind::Get,
                        1 => RecordKind::Set,
                        2 => RecordKind::Delete,
                        _ => return None,
                    }
                }
                (FIELD_KEY, WIRE_BYTES) => record.key = take_bytes(&mut body)?,
                (FIELD_VALUE, WIRE_BYTES) => record.value = take_bytes(&mut body)?,
                _ => return None,
            }
        }
        Some(record)
    }
}

/// The length in front of a record.
pub(super) fn length_of(bytes: [u8; LENGTH_BYTES]) -> usize {
    #[expect(clippy::big_endian_bytes, reason = "the original's form is big-endian")]
    let length = u32::from_be_bytes(bytes);
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// The index of a record of which only the beginning may be there.
pub(super) fn index_in(record: &[u8]) -> Option<u64> {
    let mut body = record.get(LENGTH_BYTES..)?;
    let is_index = take_varint(&mut body)? == FIELD_ID << 3 | WIRE_NUMBER;
    if is_index { take_varint(&mut body) } else { None }
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
