//! `ZooKeeper`'s session, `create`, `setData` and `getData`.
//!
//! Source: `zookeeper.jute` and `ZooDefs.java` of 3.8.
#![expect(clippy::big_endian_bytes, reason = "its protocol is big-endian")]

use diskstore::load::{Codec, CodecReply, CodecStep, Foreign, Operation, Value};

const CREATE: u32 = 1;
const GET_DATA: u32 = 4;
const SET_DATA: u32 = 5;
const TIMEOUT_MS: u32 = 30_000;
/// Any version may be overwritten.
const ANY_VERSION: u32 = u32::MAX;
const PERMISSIONS_ALL: u32 = 31;
/// Bytes of xid, zxid and error before a reply's body.
const HEAD_BYTES: usize = 16;
const FRAME_BYTES_MAX: usize = 16 << 20;
const NO_NODE: [u8; 4] = (-101_i32).to_be_bytes();

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// Makes the node of a key; before the first run.
    Create,
    /// Overwrites it.
    Set,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct ZooKeeper {
    write: Write,
    is_open: bool,
    /// Requests' numbers; the parity of one says whether it is a read.
    number: u32,
}

impl ZooKeeper {
    /// A connection whose session is not yet open.
    pub(crate) fn new(write: Write) -> ZooKeeper {
        ZooKeeper { write, is_open: false, number: 0 }
    }

    /// Numbers of reads are odd, so that a reply says what it answers.
    fn next_number(&mut self, is_read: bool) -> u32 {
        self.number = (self.number + 2) & 0x3fff_fffe;
        self.number | u32::from(is_read)
    }
}

impl Codec for ZooKeeper {
    fn open(&mut self, output: &mut Vec<u8>) {
        framed(output, |body| {
            body.extend_from_slice(&[0; 12]); // protocol version, last zxid
            put(TIMEOUT_MS, body);
            body.extend_from_slice(&[0; 8]); // no session
            put(16, body);
            body.extend_from_slice(&[0; 17]); // no password, not read only
        });
    }

    fn is_open(&self) -> bool {
        self.is_open
    }

    fn request(&mut self, operation: &Operation<'_>, output: &mut Vec<u8>) {
        let number = self.next_number(matches!(operation, Operation::Read { .. }));
        let write = self.write;
        framed(output, |body| {
            put(number, body);
            match operation {
                Operation::Read { key } => {
                    put(GET_DATA, body);
                    put_path(*key, body);
                    body.push(0); // no watch
                }
                Operation::Write { key, value } if write == Write::Set => {
                    put(SET_DATA, body);
                    put_path(*key, body);
                    put_value(value, body);
                    put(ANY_VERSION, body);
                }
                Operation::Write { key, value } => {
                    put(CREATE, body);
                    put_path(*key, body);
                    put_value(value, body);
                    put(1, body);
                    put(PERMISSIONS_ALL, body);
                    put_bytes(b"world", body);
                    put_bytes(b"anyone", body);
                    put(0, body); // persistent
                }
            }
        });
    }

    fn next<'a>(
        &mut self,
        input: &'a [u8],
        _output: &mut Vec<u8>,
    ) -> Result<CodecStep<'a>, Foreign> {
        let Some(length) = take(input) else { return Ok(CodecStep::More) };
        if length > FRAME_BYTES_MAX {
            return Err(Foreign);
        }
        let Some(body) = input.get(4..4 + length) else { return Ok(CodecStep::More) };
        let end = 4 + length;
        if !self.is_open {
            self.is_open = true;
            return Ok(CodecStep::Passed(end));
        }
        let head = body.get(..HEAD_BYTES).ok_or(Foreign)?;
        let (is_read, error) = (head[3] & 1 == 1, &head[12..]);
        let reply = match error {
            [0, 0, 0, 0] if is_read => {
                let length = take(&body[HEAD_BYTES..]).ok_or(Foreign)?;
                let value = body.get(HEAD_BYTES + 4..HEAD_BYTES + 4 + length).ok_or(Foreign)?;
                CodecReply::Value(value)
            }
            [0, 0, 0, 0] => CodecReply::Done,
            _ if error == NO_NODE => CodecReply::Refused(b"NONODE"),
            _ => CodecReply::Refused(b"error of ZooKeeper"),
        };
        Ok(CodecStep::Reply(end, reply))
    }
}

/// Appends what `lay` lays out, its length first.
fn framed(output: &mut Vec<u8>, lay: impl FnOnce(&mut Vec<u8>)) {
    let begin = output.len();
    output.extend_from_slice(&[0; 4]);
    lay(output);
    let length = u32::try_from(output.len() - begin - 4).expect("invariant: requests are short");
    output[begin..begin + 4].copy_from_slice(&length.to_be_bytes());
}

fn put(number: u32, output: &mut Vec<u8>) {
    output.extend_from_slice(&number.to_be_bytes());
}

fn put_bytes(bytes: &[u8], output: &mut Vec<u8>) {
    put(u32::try_from(bytes.len()).expect("invariant: requests are short"), output);
    output.extend_from_slice(bytes);
}

fn put_path(key: u64, output: &mut Vec<u8>) {
    put_bytes(format!("/{key}").as_bytes(), output);
}

fn put_value(value: &Value<'_>, output: &mut Vec<u8>) {
    put(u32::try_from(value.bytes()).expect("invariant: values are short"), output);
    value.append_to(output);
}

fn take(input: &[u8]) -> Option<usize> {
    let number = u32::from_be_bytes(*input.first_chunk()?);
    usize::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use diskstore::load::Values;

    use super::*;

    fn opened() -> ZooKeeper {
        let (mut codec, mut output) = (ZooKeeper::new(Write::Set), Vec::new());
        codec.open(&mut output);
        assert_eq!(output.len(), 4 + 45);
        let answer = [&[0, 0, 0, 37][..], &[0; 37]].concat();
        assert_eq!(codec.next(&answer[..40], &mut output), Ok(CodecStep::More));
        assert!(!codec.is_open());
        assert_eq!(codec.next(&answer, &mut output), Ok(CodecStep::Passed(41)));
        assert!(codec.is_open());
        codec
    }

    fn reply(number: u32, error: i32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        framed(&mut bytes, |out| {
            put(number, out);
            out.extend_from_slice(&[0; 8]);
            out.extend_from_slice(&error.to_be_bytes());
            out.extend_from_slice(body);
        });
        bytes
    }

    #[test]
    fn a_set_is_laid_out_as_its_classes_say() {
        let (mut codec, mut output) = (opened(), Vec::new());
        let values = Values::new(2);
        codec.request(&Operation::Write { key: 7, value: values.value(7, 0, 2) }, &mut output);
        let expected = b"\0\0\0\x18\0\0\0\x02\0\0\0\x05\0\0\0\x02/7\0\0\0\x0200\xff\xff\xff\xff";
        assert_eq!(output, expected);
    }

    #[test]
    fn replies_are_values_confirmations_or_errors() {
        let (mut codec, mut output) = (opened(), Vec::new());
        let read = reply(3, 0, b"\0\0\0\x01v and a stat");
        let step = CodecStep::Reply(read.len(), CodecReply::Value(b"v"));
        assert_eq!(codec.next(&read, &mut output), Ok(step));
        let write = reply(4, 0, b"a stat");
        assert_eq!(
            codec.next(&write, &mut output),
            Ok(CodecStep::Reply(write.len(), CodecReply::Done))
        );
        let none = reply(5, -101, b"");
        let step = CodecStep::Reply(none.len(), CodecReply::Refused(b"NONODE"));
        assert_eq!(codec.next(&none, &mut output), Ok(step));
        assert_eq!(codec.next(&reply(7, 0, b"\0\0\0\x09v"), &mut output), Err(Foreign));
        assert_eq!(codec.next(&[0xff; 4], &mut output), Err(Foreign));
    }
}
