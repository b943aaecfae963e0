//! Writes and reads of etcd and of `leaderless` as gRPC over HTTP/2, laid out by hand: so that the load costs as
//! little CPU as it does for the other engines on the same machine, to etcd's advantage.
//!
//! Source: RFC 9113 (frames), RFC 7541 (header fields), the gRPC protocol over HTTP/2, etcd's
//! `rpc.proto`, our `api/api.proto`. One operation of a connection is on its way at a time.
#![expect(clippy::big_endian_bytes, reason = "HTTP/2 is big-endian")]

use diskstore::load::{Codec, CodecReply, CodecStep, Foreign, Operation};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD_BYTES: usize = 9;
/// Streams of a client have odd numbers; 1 is left out, so that there always is one before.
const FIRST_STREAM: u32 = 3;
/// What a server may have sent before it waits for an update.
const WINDOW_BYTES: u32 = 0x7fff_ffff;
/// The window that a connection begins with.
const WINDOW_BYTES_AT_FIRST: u32 = 65_535;
/// Received bytes after which the window is widened again.
const UPDATE_BYTES: u32 = 1 << 30;
/// Most bytes of a frame unless the client allows more.
const FRAME_BYTES_MAX: usize = 16_384;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// Whose calls are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// `KV`, with `Put` and `Range`.
    Etcd,
    /// `api.Cluster`, with `Set` and `Get`.
    Leaderless,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Grpc {
    service: Service,
    /// The stream of the next operation.
    stream: u32,
    /// The reply to the present operation has come; what ends its stream has not.
    is_answered: bool,
    is_read: bool,
    received: u32,
}

impl Grpc {
    /// A connection that is not yet open.
    pub(crate) fn new(service: Service) -> Grpc {
        Grpc { service, stream: FIRST_STREAM, is_answered: false, is_read: false, received: 0 }
    }

    fn send(&mut self, path: &str, message: &[u8], output: &mut Vec<u8>) {
        let mut fields = vec![0x83, 0x86]; // :method POST, :scheme http
        indexed_name(4, path, &mut fields); // :path
        indexed_name(1, "etcd", &mut fields); // :authority
        literal("content-type", "application/grpc", &mut fields);
        literal("te", "trailers", &mut fields);
        frame(HEADERS, END_HEADERS, self.stream, &fields, output);
        let mut data = vec![0];
        data.extend_from_slice(&length(message).to_be_bytes());
        data.extend_from_slice(message);
        // A frame has a bound; values of the comparison are far below it.
        assert!(data.len() <= FRAME_BYTES_MAX, "a value too long for one frame");
        frame(DATA, END_STREAM, self.stream, &data, output);
        self.stream += 2;
        self.is_answered = false;
    }

    fn take_data<'a>(&mut self, payload: &'a [u8], output: &mut Vec<u8>) -> Option<CodecReply<'a>> {
        self.received += length(payload);
        if self.received >= UPDATE_BYTES {
            frame(WINDOW_UPDATE, 0, 0, &self.received.to_be_bytes(), output);
            self.received = 0;
        }
        if self.is_answered {
            return None;
        }
        self.is_answered = true;
        if !self.is_read {
            return Some(CodecReply::Done);
        }
        // Behind the flag of compression and the length: RangeResponse.kvs[0].value, or GetResponse.entry.value.
        let [entry, value] = match self.service {
            Service::Etcd => [2, 5],
            Service::Leaderless => [1, 2],
        };
        let response = payload.get(5..);
        let value = response.and_then(|it| field(it, entry)).and_then(|it| field(it, value));
        Some(value.map_or(CodecReply::Missing, CodecReply::Value))
    }
}

impl Codec for Grpc {
    fn open(&mut self, output: &mut Vec<u8>) {
        output.extend_from_slice(PREFACE);
        // SETTINGS_INITIAL_WINDOW_SIZE of each stream, then the window of the connection.
        let [a, b, c, d] = WINDOW_BYTES.to_be_bytes();
        frame(SETTINGS, 0, 0, &[0, 4, a, b, c, d], output);
        let wider = WINDOW_BYTES - WINDOW_BYTES_AT_FIRST;
        frame(WINDOW_UPDATE, 0, 0, &wider.to_be_bytes(), output);
    }

    fn request(&mut self, operation: &Operation<'_>, output: &mut Vec<u8>) {
        let [get, set] = match self.service {
            Service::Etcd => ["/etcdserverpb.KV/Range", "/etcdserverpb.KV/Put"],
            Service::Leaderless => ["/api.Cluster/Get", "/api.Cluster/Set"],
        };
        let mut message = Vec::with_capacity(2048);
        match operation {
            Operation::Read { key } => {
                put_field(1, key.to_string().as_bytes(), &mut message);
                self.is_read = true;
                self.send(get, &message, output);
            }
            Operation::Write { key, value } => {
                put_field(1, key.to_string().as_bytes(), &mut message);
                message.push(2 << 3 | 2);
                put_varint(value.bytes(), &mut message);
                value.append_to(&mut message);
                self.is_read = false;
                if self.service == Service::Leaderless {
                    let entry = std::mem::take(&mut message);
                    put_field(1, &entry, &mut message); // SetRequest.entry
                }
                self.send(set, &message, output);
            }
        }
    }

    fn next<'a>(
        &mut self,
        input: &'a [u8],
        output: &mut Vec<u8>,
    ) -> Result<CodecStep<'a>, Foreign> {
        let Some(head) = input.get(..FRAME_HEAD_BYTES) else { return Ok(CodecStep::More) };
        let payload_bytes = head[..3].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        if payload_bytes > FRAME_BYTES_MAX {
            return Err(Foreign);
        }
        let end = FRAME_HEAD_BYTES + payload_bytes;
        let Some(payload) = input.get(FRAME_HEAD_BYTES..end) else { return Ok(CodecStep::More) };
        let (kind, flags) = (head[3], head[4]);
        // The end of a stream may come after the next one has begun.
        let is_present = head.last_chunk() == Some(&(self.stream - 2).to_be_bytes());
        match kind {
            DATA if !payload.is_empty() && is_present => {
                let reply = self.take_data(payload, output);
                return Ok(
                    reply.map_or(CodecStep::Passed(end), |reply| CodecStep::Reply(end, reply))
                );
            }
            HEADERS if flags & END_STREAM != 0 && is_present && !self.is_answered => {
                self.is_answered = true;
                let words = b"grpc: an error without a message";
                return Ok(CodecStep::Reply(end, CodecReply::Refused(words)));
            }
            SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[], output),
            PING if flags & ACK == 0 => frame(PING, ACK, 0, payload, output),
            RESET | GO_AWAY => return Err(Foreign),
            _ => {}
        }
        Ok(CodecStep::Passed(end))
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], output: &mut Vec<u8>) {
    output.extend_from_slice(&length(payload).to_be_bytes()[1..]);
    output.extend_from_slice(&[kind, flags]);
    output.extend_from_slice(&stream.to_be_bytes());
    output.extend_from_slice(payload);
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("invariant: messages are short")
}

/// A header field whose name stands in the static table.
fn indexed_name(index: u8, value: &str, output: &mut Vec<u8>) {
    output.push(index);
    text(value, output);
}

fn literal(name: &str, value: &str, output: &mut Vec<u8>) {
    output.push(0);
    text(name, output);
    text(value, output);
}

fn text(text: &str, output: &mut Vec<u8>) {
    let length = u8::try_from(text.len()).ok().filter(|length| *length < 127);
    output.push(length.expect("invariant: header fields are short"));
    output.extend_from_slice(text.as_bytes());
}

fn put_field(number: u8, bytes: &[u8], output: &mut Vec<u8>) {
    output.push(number << 3 | 2);
    put_varint(bytes.len(), output);
    output.extend_from_slice(bytes);
}

fn put_varint(mut number: usize, output: &mut Vec<u8>) {
    while number > 0x7f {
        output.push(u8::try_from(number & 0x7f).expect("invariant: seven bits") | 0x80);
        number >>= 7;
    }
    output.push(u8::try_from(number).expect("invariant: seven bits"));
}

/// The first field of a message that has this number and a length.
fn field(mut message: &[u8], number: u64) -> Option<&[u8]> {
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        match tag & 7 {
            0 => drop(take_varint(&mut message)?),
            2 => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                let (bytes, rest) = message.split_at_checked(length)?;
                if tag >> 3 == number {
                    return Some(bytes);
                }
                message = rest;
            }
            _ => return None,
        }
    }
    None
}

fn take_varint(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use diskstore::load::Values;

    use super::*;

    fn received(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        received_on(FIRST_STREAM, kind, flags, payload)
    }

    fn received_on(stream: u32, kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame(kind, flags, stream, payload, &mut bytes);
        bytes
    }

    /// A message as gRPC sends it.
    fn message(bytes: &[u8]) -> Vec<u8> {
        [&[0][..], &length(bytes).to_be_bytes(), bytes].concat()
    }

    #[test]
    fn a_put_is_laid_out_as_the_standards_say() {
        let (mut etcd, mut output) = (Grpc::new(Service::Etcd), Vec::new());
        let values = Values::new(3);
        let value = values.value(7, 0, 3);
        etcd.request(&Operation::Write { key: 7, value }, &mut output);
        let fields = b"\x83\x86\x04\x14/etcdserverpb.KV/Put\x01\x04etcd\
            \x00\x0ccontent-type\x10application/grpc\x00\x02te\x08trailers";
        let mut expected = vec![0, 0, u8::try_from(fields.len()).unwrap(), 1, 4, 0, 0, 0, 3];
        expected.extend_from_slice(fields);
        expected.extend_from_slice(b"\x00\x00\x0d\x00\x01\x00\x00\x00\x03");
        expected.extend_from_slice(b"\x00\x00\x00\x00\x08\x0a\x017\x12\x03000");
        assert_eq!(output, expected);
    }

    #[test]
    fn a_set_of_ours_is_an_entry_in_a_request() {
        let (mut grpc, mut output) = (Grpc::new(Service::Leaderless), Vec::new());
        let values = Values::new(3);
        grpc.request(&Operation::Write { key: 7, value: values.value(7, 0, 3) }, &mut output);
        let data =
            b"\x00\x00\x0f\x00\x01\x00\x00\x00\x03\x00\x00\x00\x00\x0a\x0a\x08\x0a\x017\x12\x03000";
        assert!(output.ends_with(data), "{output:x?}");
        grpc.request(&Operation::Read { key: 7 }, &mut Vec::new());
        let found = message(b"\x0a\x06\x0a\x017\x12\x01v");
        let data = received_on(FIRST_STREAM + 2, DATA, 0, &found);
        let reply = CodecStep::Reply(data.len(), CodecReply::Value(b"v"));
        assert_eq!(grpc.next(&data, &mut output), Ok(reply));
    }

    #[test]
    fn a_read_gets_its_value_once_and_frames_of_the_connection_are_answered() {
        let (mut etcd, mut output) = (Grpc::new(Service::Etcd), Vec::new());
        etcd.request(&Operation::Read { key: 7 }, &mut Vec::new());
        for kind in [SETTINGS, PING, HEADERS, WINDOW_UPDATE] {
            let frame = received(kind, 0, &[1; 8]);
            assert_eq!(etcd.next(&frame, &mut output), Ok(CodecStep::Passed(frame.len())));
        }
        let mut answers = Vec::new();
        frame(SETTINGS, ACK, 0, b"", &mut answers);
        frame(PING, ACK, 0, &[1; 8], &mut answers);
        assert_eq!(output, answers);
        // header { cluster_id }, kvs { key, create_revision, value }, count
        let range = b"\x0a\x02\x08\x05\x12\x08\x0a\x017\x10\x01\x2a\x01v\x20\x01";
        let data = received(DATA, 0, &message(range));
        for end in 0..data.len() {
            assert_eq!(etcd.next(&data[..end], &mut output), Ok(CodecStep::More));
        }
        let reply = CodecStep::Reply(data.len(), CodecReply::Value(b"v"));
        assert_eq!(etcd.next(&data, &mut output), Ok(reply));
        // The next operation may go out before the end of this one has come.
        etcd.request(&Operation::Read { key: 8 }, &mut Vec::new());
        let trailers = received(HEADERS, END_STREAM | END_HEADERS, b"");
        assert_eq!(etcd.next(&trailers, &mut output), Ok(CodecStep::Passed(trailers.len())));
    }

    #[test]
    fn an_error_a_reset_and_a_missing_key_are_told_apart() {
        let (mut etcd, mut output) = (Grpc::new(Service::Etcd), Vec::new());
        etcd.request(&Operation::Read { key: 7 }, &mut Vec::new());
        let trailers = received(HEADERS, END_STREAM | END_HEADERS, b"");
        let step = etcd.next(&trailers, &mut output);
        assert!(matches!(step, Ok(CodecStep::Reply(_, CodecReply::Refused(_)))), "{step:?}");
        etcd.request(&Operation::Read { key: 7 }, &mut Vec::new());
        let data = received_on(FIRST_STREAM + 2, DATA, 0, &message(b"\x0a\x02\x08\x05"));
        assert_eq!(
            etcd.next(&data, &mut output),
            Ok(CodecStep::Reply(data.len(), CodecReply::Missing))
        );
        assert_eq!(etcd.next(&received(RESET, 0, &[0; 4]), &mut output), Err(Foreign));
        assert_eq!(etcd.next(&[0xff; 9], &mut output), Err(Foreign));
    }
}
