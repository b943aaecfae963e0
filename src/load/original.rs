//! The text and the protobuf form of the original's clients: a command goes to every replica, and the
//! answer comes as one datagram.
//!
//! - I1: one datagram is one answer as a whole, so a connection has one operation on its way.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use super::codec::{Codec, CodecReply, CodecStep, Foreign, Operation};

/// What ends a message.
const END: u8 = 0x0a;
/// Tags of a message's fields: the UDP port, the operation, the key, the value.
const TAG_PORT: u8 = 0x12;
const TAG_OPERATION: u8 = 0x18;
const TAG_KEY: u8 = 0x22;
const TAG_VALUE: u8 = 0x2a;
const OPERATION_GET: u8 = 0;
const OPERATION_SET: u8 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Protobuf,
}

/// A client's side of the protocol.
#[derive(Debug)]
pub struct Original {
    form: Form,
    port: u16,
    asks_value: bool,
    /// Of the last write.
    value: Vec<u8>,
}

impl Original {
    fn new(form: Form) -> Original {
        Original { form, port: 0, asks_value: false, value: Vec::new() }
    }

    /// One line for each command.
    pub fn text() -> Original {
        Original::new(Form::Text)
    }

    /// One message for each command.
    pub fn protobuf() -> Original {
        Original::new(Form::Protobuf)
    }
}

impl Codec for Original {
    fn answer_to(&mut self, port: u16) {
        self.port = port;
    }

    fn request(&mut self, operation: &Operation<'_>, output: &mut Vec<u8>) {
        self.value.clear();
        let key = match operation {
            Operation::Read { key } => key,
            Operation::Write { key, value } => {
                value.append_to(&mut self.value);
                key
            }
        };
        self.asks_value = matches!(operation, Operation::Read { .. });
        let (port, key) = (self.port.to_string(), key.to_string());
        match (self.form, self.asks_value) {
            (Form::Text, true) => append_line(&port, &key, None, output),
            (Form::Text, false) => append_line(&port, &key, Some(&self.value), output),
            (Form::Protobuf, true) => append_message(output, &port, OPERATION_GET, &key, b""),
            (Form::Protobuf, false) => {
                append_message(output, &port, OPERATION_SET, &key, &self.value);
            }
        }
    }

    fn next<'a>(
        &mut self,
        input: &'a [u8],
        _output: &mut Vec<u8>,
    ) -> Result<CodecStep<'a>, Foreign> {
        if input.is_empty() {
            return Ok(CodecStep::More);
        }
        let answer = input.strip_suffix(b"\n").ok_or(Foreign)?;
        let reply = match answer.strip_prefix(b"OK: ") {
            Some(b"") if self.asks_value => CodecReply::Missing,
            Some(value) if self.asks_value => CodecReply::Value(value),
            Some(_) => CodecReply::Done,
            None if answer.starts_with(b"ERR ") => CodecReply::Refused(answer),
            None => return Err(Foreign),
        };
        Ok(CodecStep::Reply(input.len(), reply))
    }
}

fn append_line(port: &str, key: &str, value: Option<&[u8]>, output: &mut Vec<u8>) {
    let verb = if value.is_some() { "set" } else { "get" };
    output.extend_from_slice(format!("{port}-{verb}-{key}").as_bytes());
    if let Some(value) = value {
        output.push(b'-');
        output.extend_from_slice(value);
    }
    output.push(END);
}

/// Appends a protobuf `Command` and what ends it. What is empty or 0 is left out, as the schema's
/// own writers do.
pub fn append_message(output: &mut Vec<u8>, port: &str, operation: u8, key: &str, value: &[u8]) {
    append_field(output, TAG_PORT, port.as_bytes());
    if operation > 0 {
        output.extend_from_slice(&[TAG_OPERATION, operation]);
    }
    append_field(output, TAG_KEY, key.as_bytes());
    append_field(output, TAG_VALUE, value);
    output.push(END);
}

fn append_field(output: &mut Vec<u8>, tag: u8, content: &[u8]) {
    if !content.is_empty() {
        output.push(tag);
        append_length(content.len(), output);
        output.extend_from_slice(content);
    }
}

/// A varint.
fn append_length(mut length: usize, output: &mut Vec<u8>) {
    loop {
        let bits = u8::try_from(length & 0x7f).unwrap_or_default();
        length >>= 7;
        if length == 0 {
            return output.push(bits);
        }
        output.push(bits | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Values;
    use super::*;

    fn requested(mut codec: Original, operation: &Operation<'_>) -> Vec<u8> {
        let mut output = Vec::new();
        codec.answer_to(15_000);
        codec.request(operation, &mut output);
        output
    }

    #[test]
    fn commands_have_the_bytes_of_the_original() {
        let values = Values::new(200);
        let value = values.value(7, 0, 3);
        let (get, set) = (Operation::Read { key: 42 }, Operation::Write { key: 7, value });
        assert_eq!(requested(Original::text(), &get), b"15000-get-42\n");
        assert_eq!(requested(Original::text(), &set), b"15000-set-7-000\n");
        assert_eq!(requested(Original::protobuf(), &get), b"\x12\x0515000\x22\x0242\n");
        let expected = b"\x12\x0515000\x18\x01\x22\x017\x2a\x03000\n";
        assert_eq!(requested(Original::protobuf(), &set), expected);
        let value = values.value(7, 0, 200);
        let bytes = requested(Original::protobuf(), &Operation::Write { key: 7, value });
        assert_eq!(bytes[12..15], [0x2a, 0xc8, 0x01], "200 in two bytes");
        assert_eq!(bytes.len(), 15 + 200 + 1);
    }

    #[test]
    fn a_datagram_is_one_answer() {
        let mut codec = Original::text();
        let mut next = |asks_value, input: &'static [u8]| {
            codec.asks_value = asks_value;
            codec.next(input, &mut Vec::new())
        };
        for (asks_value, input, reply) in [
            (true, &b"OK: a\nb\n\n"[..], CodecReply::Value(b"a\nb\n")),
            (true, b"OK: \n", CodecReply::Missing),
            (false, b"OK: \n", CodecReply::Done),
            (true, b"ERR no leader\n", CodecReply::Refused(b"ERR no leader")),
        ] {
            assert_eq!(next(asks_value, input), Ok(CodecStep::Reply(input.len(), reply)));
        }
        assert_eq!(next(true, b""), Ok(CodecStep::More));
        for foreign in [&b"OK: cut off"[..], b"+OK\r\n", b"\n", b"OK:\n"] {
            assert_eq!(next(true, foreign), Err(Foreign), "{foreign:?}");
        }
    }
}
