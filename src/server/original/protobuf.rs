//! The original's protobuf `Command`, each message ended by one 0x0a. Pure.
//!
//! Called by the dialect with its read buffer. Fields: 1 id (set by servers, passed over), 2 ip
//! (the UDP port as decimal text), 3 op (0 get, 1 set, 2 delete), 4 key (decimal text), 5 value.
//!
//! Invariants:
//! - I1: a message is read tag by tag. At the place of a tag 0x0a ends it (as a tag it would be
//!   field 1 with a length, which no such message has); inside of a field it is data.
//! - I2: no length is trusted before it is compared with the bound and the bytes that are there.

#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use bytes::{Buf, BytesMut};

use super::super::keys::{Keys, decimal};
use super::{REQUEST_SPARE_BYTES, Request, Unreadable, Verb};

/// What ends a message.
const END: u8 = 0x0a;
/// Most fields of one message; the schema has five.
const FIELD_COUNT_MAX: usize = 32;
/// Most bytes of a varint.
const VARINT_BYTES_MAX: usize = 10;

const FIELD_PORT: u64 = 2;
const FIELD_OPERATION: u64 = 3;
const FIELD_KEY: u64 = 4;
const FIELD_VALUE: u64 = 5;

/// Takes the next message off `input`; `None` if it is not there as a whole.
///
/// # Errors
/// [`Unreadable`] for bytes that are no message, or a message that is too long.
pub(super) fn take(input: &mut BytesMut, keys: &Keys) -> Result<Option<Request>, Unreadable> {
    while input.first() == Some(&END) {
        input.advance(1);
    }
    let value_bytes_max = usize::try_from(keys.value_bytes_max()).unwrap_or(usize::MAX);
    let message_bytes_max = value_bytes_max.saturating_add(REQUEST_SPARE_BYTES);
    let mut reader = Reader { rest: input, message_bytes_max };
    let Some(message) = Message::read(&mut reader)? else {
        if input.len() >= message_bytes_max {
            return Err(Unreadable("the message is too long"));
        }
        return Ok(None);
    };
    let message_bytes = input.len() - reader.rest.len();
    let request = message.request(keys);
    input.advance(message_bytes);
    Ok(Some(request))
}

/// The fields of one message; what is absent is empty or zero.
#[derive(Default)]
struct Message<'a> {
    port: &'a [u8],
    operation: u64,
    key: &'a [u8],
    value: &'a [u8],
}

impl<'a> Message<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Option<Message<'a>>, Unreadable> {
        let mut message = Message::default();
        for _ in 0..FIELD_COUNT_MAX {
            if let Some(behind) = reader.rest.strip_prefix(&[END]) {
                reader.rest = behind; // I1
                return Ok(Some(message));
            }
            let Some(tag) = reader.varint()? else { return Ok(None) };
            let Some(field) = reader.field(tag)? else { return Ok(None) };
            match (tag >> 3, field) {
                (FIELD_PORT, Field::Bytes(bytes)) => message.port = bytes,
                (FIELD_OPERATION, Field::Number(number)) => message.operation = number,
                (FIELD_KEY, Field::Bytes(bytes)) => message.key = bytes,
                (FIELD_VALUE, Field::Bytes(bytes)) => message.value = bytes,
                (FIELD_PORT..=FIELD_VALUE, _) => {
                    return Err(Unreadable("a field of the message has the wrong type"));
                }
                // The id, and what later versions may add.
                _ => {}
            }
        }
        Err(Unreadable("the message has too many fields"))
    }

    fn request(&self, keys: &Keys) -> Request {
        let udp_port = if self.port.is_empty() {
            None
        } else {
            let port = decimal(self.port).and_then(|port| u16::try_from(port).ok());
            let Some(port) = port.filter(|port| *port > 0) else {
                return Request::refused("field 2 must be the UDP port, a number 1..65535");
            };
            Some(port)
        };
        match self.operation {
            0 => Request::new(udp_port, Verb::Get, self.key, b"", keys),
            1 => Request::new(udp_port, Verb::Set, self.key, self.value, keys),
            2 => Request::new(udp_port, Verb::Delete, self.key, b"", keys),
            _ => Request {
                udp_port,
                ..Request::refused("the operation must be 0 (get), 1 (set) or 2 (delete)")
            },
        }
    }
}

/// The value of a field.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Takes bounded pieces off the front of the buffer; `None` if there are too few bytes yet.
struct Reader<'a> {
    rest: &'a [u8],
    message_bytes_max: usize,
}

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<Option<u64>, Unreadable> {
        let mut number = 0_u64;
        for (position, byte) in self.rest.iter().take(VARINT_BYTES_MAX).enumerate() {
            let bits = u64::from(byte & 0x7f);
            let shift = 7 * u32::try_from(position).unwrap_or(u32::MAX);
            let shifted = bits.checked_shl(shift).filter(|shifted| shifted >> shift == bits);
            number |= shifted.ok_or(Unreadable("a number of the message is too large"))?;
            if byte & 0x80 == 0 {
                self.rest = self.rest.get(position + 1..).unwrap_or_default();
                return Ok(Some(number));
            }
        }
        if self.rest.len() >= VARINT_BYTES_MAX {
            return Err(Unreadable("a number of the message is too large"));
        }
        Ok(None)
    }

    fn field(&mut self, tag: u64) -> Result<Option<Field<'a>>, Unreadable> {
        if tag >> 3 == 0 {
            return Err(Unreadable("the bytes are no protobuf message"));
        }
        match tag & 7 {
            0 => Ok(self.varint()?.map(Field::Number)),
            1 => self.bytes(8),
            2 => match self.varint()? {
                Some(length) => self.bytes(length),
                None => Ok(None),
            },
            5 => self.bytes(4),
            _ => Err(Unreadable("the bytes are no protobuf message")),
        }
    }

    fn bytes(&mut self, length: u64) -> Result<Option<Field<'a>>, Unreadable> {
        let length = usize::try_from(length).ok().filter(|length| *length < self.message_bytes_max);
        let length = length.ok_or(Unreadable("the message is too long"))?; // I2
        let Some((bytes, rest)) = self.rest.split_at_checked(length) else { return Ok(None) };
        self.rest = rest;
        Ok(Some(Field::Bytes(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::command;
    use super::*;

    fn keys() -> Keys {
        Keys::new(100, 1500, &[])
    }

    /// A message as the original's clients write it: fields that are zero or empty are left out.
    fn message(port: &str, operation: u8, key: &str, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        field(&mut bytes, 0x12, port.as_bytes());
        if operation > 0 {
            bytes.extend_from_slice(&[0x18, operation]);
        }
        field(&mut bytes, 0x22, key.as_bytes());
        field(&mut bytes, 0x2a, value);
        bytes.push(END);
        bytes
    }

    fn field(bytes: &mut Vec<u8>, tag: u8, content: &[u8]) {
        if content.is_empty() {
            return;
        }
        bytes.push(tag);
        let mut length = content.len();
        while length >= 0x80 {
            bytes.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        bytes.push(u8::try_from(length).unwrap());
        bytes.extend_from_slice(content);
    }

    fn taken(pieces: &[&[u8]]) -> (Vec<Request>, Option<Unreadable>) {
        let mut input = BytesMut::new();
        let mut requests = Vec::new();
        for piece in pieces {
            input.extend_from_slice(piece);
            loop {
                match take(&mut input, &keys()) {
                    Ok(None) => break,
                    Ok(Some(request)) => requests.push(request),
                    Err(error) => return (requests, Some(error)),
                }
            }
        }
        (requests, None)
    }

    fn set(value: &[u8]) -> Request {
        Request::new(Some(15000), Verb::Set, b"7", value, &keys())
    }

    #[test]
    fn lengths_that_look_like_the_end_are_data() {
        for length in [0, 1, 9, 10, 11, 127, 128].into_iter().chain(1280..=1407) {
            for fill in [b'v', b'\n', 0x12] {
                let value = vec![fill; length];
                let (requests, error) = taken(&[&message("15000", 1, "7", &value)]);
                assert_eq!((requests, error), (vec![set(&value)], None), "{length} of {fill}");
            }
        }
    }

    #[test]
    fn a_stream_split_at_every_byte_reads_the_same() {
        let mut bytes = vec![END];
        bytes.extend(message("15000", 1, "7", &[b'\n'; 10]));
        bytes.extend(message("", 0, "0000000042", b""));
        bytes.extend(message("15000", 2, "7", b""));
        bytes.extend(message("15000", 1, "7", &[b'\n'; 1290]));
        let whole = taken(&[&bytes]);
        assert_eq!(whole.0.len(), 4);
        assert_eq!(command(whole.0[1].clone()).to_string(), "get 42");
        for split in 0..bytes.len() {
            let (left, right) = bytes.split_at(split);
            assert_eq!(taken(&[left, right]), whole, "split at {split}");
        }
    }

    #[test]
    fn bad_fields_are_answered() {
        let reason = |bytes: &[u8]| taken(&[bytes]).0.remove(0).work.unwrap_err().text;
        assert!(reason(&message("host", 0, "7", b"")).starts_with("field 2 must be"));
        assert!(reason(&message("1", 3, "7", b"")).starts_with("the operation must be"));
        assert!(reason(&message("1", 0, "x", b"")).starts_with("key must be"));
        assert!(reason(&message("1", 1, "7", &[0; 1501])).starts_with("value is 1501 bytes"));
    }

    #[test]
    fn what_is_announced_too_long_is_refused_at_once() {
        let announced = [0x2a, 0x80, 0x80, 0x80, 0x80, 0x08];
        assert_eq!(taken(&[&announced]).1, Some(Unreadable("the message is too long")));
        assert!(taken(&[&[0x08; 1], &[0xff; 11]]).1.is_some());
        assert!(taken(&[&[0x08, 0x01].repeat(40)]).1.is_some());
        assert!(taken(&[&[0x0b]]).1.is_some());
        assert!(taken(&[&[0x1a, 0x00]]).1.is_some());
    }

    #[test]
    fn garbage_never_panics_and_is_the_same_in_pieces() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap() % below
        };
        let alphabet = [0x08, 0x12, 0x18, 0x22, 0x2a, 0x0a, 0, 1, 2, 3, 0x31, 0x80, 0xff];
        for _ in 0..100_000 {
            let bytes: Vec<u8> = (0..next(40)).map(|_| alphabet[next(alphabet.len())]).collect();
            let (left, right) = bytes.split_at(next(bytes.len() + 1));
            assert_eq!(taken(&[left, right]), taken(&[&bytes]), "{}", bytes.escape_ascii());
        }
    }
}
