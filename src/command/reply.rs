//! The bytes of replies and failures between nodes (`docs/format.md`, "Reply").
//!
//! Called by the forwarding of commands. Calls nothing. Decoding is bounded: no length is trusted
//! before it is compared with the bytes that are there.

#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    Body, CommandResult, DecodeError, Failure, OPERATION_COUNT_MAX, Outcome, REASON_BYTES_MAX,
    Refusal, Reply,
};

const RESULT_REPLY: u8 = 0;
const RESULT_FAILURE: u8 = 1;

const FLAG_CHANGED: u8 = 1;
const FLAG_EXISTED: u8 = 2;

const BODY_EMPTY: u8 = 0;
const BODY_NONE: u8 = 1;
const BODY_VALUE: u8 = 2;
const BODY_INTEGER: u8 = 3;
const BODY_REFUSED: u8 = 4;

const REFUSAL_NOT_AN_INTEGER: u8 = 1;
const REFUSAL_OVERFLOW: u8 = 2;
const REFUSAL_TOO_LARGE: u8 = 3;
const REFUSAL_OUT_OF_RANGE: u8 = 4;

const FAILURE_NO_LEADER: u8 = 1;
const FAILURE_NOT_LEADER: u8 = 2;
const FAILURE_NO_SPACE: u8 = 3;
const FAILURE_BUSY: u8 = 4;
const FAILURE_REFUSED: u8 = 5;
const FAILURE_DAMAGED: u8 = 6;
const FAILURE_STOPPING: u8 = 7;
const FAILURE_UNKNOWN: u8 = 8;

/// Appends the bytes of a reply or of a failure.
pub fn encode_result(result: &CommandResult, out: &mut Vec<u8>) {
    match result {
        Ok(reply) => {
            out.push(RESULT_REPLY);
            reply.encode(out);
        }
        Err(failure) => {
            out.push(RESULT_FAILURE);
            failure.encode(out);
        }
    }
}

/// Takes a reply or a failure off the front of `input`.
///
/// # Errors
/// [`DecodeError`] if the bytes are neither; `input` is then to be given up.
pub fn decode_result(input: &mut &[u8]) -> Result<CommandResult, DecodeError> {
    let mut reader = Reader::new(input);
    match reader.u8()? {
        RESULT_REPLY => {
            *input = reader.rest;
            Reply::decode(input).map(Ok)
        }
        RESULT_FAILURE => {
            *input = reader.rest;
            Failure::decode(input).map(Err)
        }
        _ => Err(reader.fail("neither reply nor failure")),
    }
}

impl Reply {
    /// Appends the bytes of this reply.
    ///
    /// # Panics
    /// If there are more outcomes than a command has operations.
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.outcomes.len() <= OPERATION_COUNT_MAX, "one outcome for each operation");
        let count = u16::try_from(self.outcomes.len());
        let count = count.expect("invariant: the number of operations fits 16 bits");
        out.extend_from_slice(&self.index.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        for outcome in &self.outcomes {
            encode_outcome(outcome, out);
        }
    }

    /// Takes a reply off the front of `input`.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are none; `input` is then to be given up.
    pub fn decode(input: &mut &[u8]) -> Result<Reply, DecodeError> {
        let mut reader = Reader::new(input);
        let index = reader.u64()?;
        let count = usize::from(reader.u16()?);
        if count > OPERATION_COUNT_MAX {
            return Err(reader.fail("more outcomes than a command has operations"));
        }
        let mut outcomes = SmallVec::new();
        for _ in 0..count {
            outcomes.push(decode_outcome(&mut reader)?);
        }
        *input = reader.rest;
        Ok(Reply { index, outcomes })
    }
}

impl Failure {
    /// Appends the bytes of this failure; reasons are cut at [`REASON_BYTES_MAX`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Failure::NoLeader { reason } => {
                out.push(FAILURE_NO_LEADER);
                encode_text(reason, out);
            }
            Failure::NotLeader { leader } => {
                out.push(FAILURE_NOT_LEADER);
                encode_text(leader, out);
            }
            Failure::NoSpace => out.push(FAILURE_NO_SPACE),
            Failure::Busy { reason } => {
                out.push(FAILURE_BUSY);
                encode_text(reason, out);
            }
            Failure::Refused(refusal) => {
                out.push(FAILURE_REFUSED);
                encode_refusal(refusal, out);
            }
            Failure::Damaged { slot } => {
                out.push(FAILURE_DAMAGED);
                out.extend_from_slice(&slot.to_le_bytes());
            }
            Failure::Stopping => out.push(FAILURE_STOPPING),
            Failure::Unknown { term, index, reason } => {
                out.push(FAILURE_UNKNOWN);
                out.extend_from_slice(&term.to_le_bytes());
                out.extend_from_slice(&index.to_le_bytes());
                encode_text(reason, out);
            }
        }
    }

    /// Takes a failure off the front of `input`.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are none; `input` is then to be given up.
    pub fn decode(input: &mut &[u8]) -> Result<Failure, DecodeError> {
        let mut reader = Reader::new(input);
        let failure = match reader.u8()? {
            FAILURE_NO_LEADER => Failure::NoLeader { reason: reader.text()? },
            FAILURE_NOT_LEADER => Failure::NotLeader { leader: reader.text()? },
            FAILURE_NO_SPACE => Failure::NoSpace,
            FAILURE_BUSY => Failure::Busy { reason: reader.text()? },
            FAILURE_REFUSED => Failure::Refused(decode_refusal(&mut reader)?),
            FAILURE_DAMAGED => Failure::Damaged { slot: reader.u64()? },
            FAILURE_STOPPING => Failure::Stopping,
            FAILURE_UNKNOWN => Failure::Unknown {
                term: reader.u64()?,
                index: reader.u64()?,
                reason: reader.text()?,
            },
            _ => return Err(reader.fail("unknown kind of failure")),
        };
        *input = reader.rest;
        Ok(failure)
    }
}

fn encode_outcome(outcome: &Outcome, out: &mut Vec<u8>) {
    let changed = if outcome.changed { FLAG_CHANGED } else { 0 };
    let existed = if outcome.existed { FLAG_EXISTED } else { 0 };
    out.extend_from_slice(&outcome.version.to_le_bytes());
    out.push(changed | existed);
    match &outcome.body {
        Body::Empty => out.push(BODY_EMPTY),
        Body::Value(None) => out.push(BODY_NONE),
        Body::Value(Some(value)) => {
            let bytes = u32::try_from(value.len());
            let bytes = bytes.expect("invariant: a value is smaller than 4 GiB");
            out.push(BODY_VALUE);
            out.extend_from_slice(&bytes.to_le_bytes());
            out.extend_from_slice(value);
        }
        Body::Integer(number) => {
            out.push(BODY_INTEGER);
            out.extend_from_slice(&number.to_le_bytes());
        }
        Body::Refused(refusal) => {
            out.push(BODY_REFUSED);
            encode_refusal(refusal, out);
        }
    }
}

fn decode_outcome(reader: &mut Reader<'_>) -> Result<Outcome, DecodeError> {
    let version = reader.u64()?;
    let flags = reader.u8()?;
    if flags & !(FLAG_CHANGED | FLAG_EXISTED) != 0 {
        return Err(reader.fail("unknown flags of an outcome"));
    }
    let body = match reader.u8()? {
        BODY_EMPTY => Body::Empty,
        BODY_NONE => Body::Value(None),
        BODY_VALUE => {
            let bytes = reader.u32()?;
            Body::Value(Some(Bytes::copy_from_slice(reader.take(bytes)?)))
        }
        BODY_INTEGER => Body::Integer(reader.u64()?.cast_signed()),
        BODY_REFUSED => Body::Refused(decode_refusal(reader)?),
        _ => return Err(reader.fail("unknown body of an outcome")),
    };
    let changed = flags & FLAG_CHANGED != 0;
    let existed = flags & FLAG_EXISTED != 0;
    Ok(Outcome { version, changed, existed, body })
}

fn encode_refusal(refusal: &Refusal, out: &mut Vec<u8>) {
    match refusal {
        Refusal::NotAnInteger => out.push(REFUSAL_NOT_AN_INTEGER),
        Refusal::Overflow => out.push(REFUSAL_OVERFLOW),
        Refusal::TooLarge { bytes, bytes_max } => {
            out.push(REFUSAL_TOO_LARGE);
            out.extend_from_slice(&bytes.to_le_bytes());
            out.extend_from_slice(&bytes_max.to_le_bytes());
        }
        Refusal::OutOfRange { slot_count } => {
            out.push(REFUSAL_OUT_OF_RANGE);
            out.extend_from_slice(&slot_count.to_le_bytes());
        }
    }
}

fn decode_refusal(reader: &mut Reader<'_>) -> Result<Refusal, DecodeError> {
    match reader.u8()? {
        REFUSAL_NOT_AN_INTEGER => Ok(Refusal::NotAnInteger),
        REFUSAL_OVERFLOW => Ok(Refusal::Overflow),
        REFUSAL_TOO_LARGE => {
            Ok(Refusal::TooLarge { bytes: reader.u64()?, bytes_max: reader.u64()? })
        }
        REFUSAL_OUT_OF_RANGE => Ok(Refusal::OutOfRange { slot_count: reader.u64()? }),
        _ => Err(reader.fail("unknown refusal")),
    }
}

fn encode_text(text: &str, out: &mut Vec<u8>) {
    let (text, _) = text.split_at(text.floor_char_boundary(REASON_BYTES_MAX));
    let bytes = u16::try_from(text.len()).expect("invariant: reasons are cut before 64 KiB");
    out.extend_from_slice(&bytes.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Takes bounded pieces off the front of bytes from outside.
struct Reader<'a> {
    rest: &'a [u8],
    bytes: usize,
}

impl<'a> Reader<'a> {
    fn new(rest: &'a [u8]) -> Reader<'a> {
        Reader { rest, bytes: rest.len() }
    }

    fn fail(&self, what: &'static str) -> DecodeError {
        DecodeError { what, offset: self.bytes - self.rest.len() }
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (chunk, rest) = self.rest.split_first_chunk().ok_or(self.fail("cut off"))?;
        self.rest = rest;
        Ok(*chunk)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.chunk().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.chunk().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.chunk().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.chunk().map(u64::from_le_bytes)
    }

    fn take(&mut self, count: u32) -> Result<&'a [u8], DecodeError> {
        let count = usize::try_from(count).map_err(|_| self.fail("length beyond memory"))?;
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(self.fail("cut off"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn text(&mut self) -> Result<String, DecodeError> {
        let count = self.u16()?;
        if usize::from(count) > REASON_BYTES_MAX {
            return Err(self.fail("reason longer than allowed"));
        }
        let text = std::str::from_utf8(self.take(u32::from(count))?);
        text.map(str::to_owned).map_err(|_| self.fail("reason is not UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies() -> Vec<Body> {
        vec![
            Body::Empty,
            Body::Value(None),
            Body::Value(Some(Bytes::new())),
            Body::Value(Some(Bytes::from_static(b"va\0lue"))),
            Body::Integer(-1),
            Body::Refused(Refusal::NotAnInteger),
            Body::Refused(Refusal::Overflow),
            Body::Refused(Refusal::TooLarge { bytes: 5000, bytes_max: 1024 }),
            Body::Refused(Refusal::OutOfRange { slot_count: 7 }),
        ]
    }

    fn results() -> Vec<CommandResult> {
        let outcomes = bodies().into_iter().enumerate().map(|(position, body)| Outcome {
            version: 1 << position,
            changed: position % 2 == 0,
            existed: position % 3 == 0,
            body,
        });
        let reason = "because".to_owned();
        vec![
            Ok(Reply { index: 9, outcomes: outcomes.collect() }),
            Ok(Reply::default()),
            Err(Failure::NoLeader { reason: reason.clone() }),
            Err(Failure::NotLeader { leader: "host:1".to_owned() }),
            Err(Failure::NoSpace),
            Err(Failure::Busy { reason: reason.clone() }),
            Err(Failure::Refused(Refusal::Overflow)),
            Err(Failure::Damaged { slot: 3 }),
            Err(Failure::Stopping),
            Err(Failure::Unknown { term: 2, index: u64::MAX, reason }),
        ]
    }

    #[test]
    fn results_come_back_and_leave_what_follows() {
        for result in results() {
            let mut bytes = Vec::new();
            encode_result(&result, &mut bytes);
            bytes.push(77);
            let mut input = bytes.as_slice();
            assert_eq!(decode_result(&mut input).unwrap(), result);
            assert_eq!(input, [77]);
        }
    }

    #[test]
    fn golden_bytes_pin_the_layout() {
        let body = Body::Value(Some(Bytes::from_static(b"v")));
        let outcome = Outcome { version: 5, changed: true, existed: true, body };
        let mut bytes = Vec::new();
        let outcomes = [outcome].into_iter().collect();
        encode_result(&Ok(Reply { index: 3, outcomes }), &mut bytes);
        encode_result(&Err(Failure::NoLeader { reason: "r".to_owned() }), &mut bytes);
        #[rustfmt::skip]
        let expected = [
            0, 3, 0, 0, 0, 0, 0, 0, 0, 1, 0,
            5, 0, 0, 0, 0, 0, 0, 0, 3, 2, 1, 0, 0, 0, b'v',
            1, 1, 1, 0, b'r',
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn every_cut_is_refused() {
        for result in results() {
            let mut bytes = Vec::new();
            encode_result(&result, &mut bytes);
            for end in 0..bytes.len() {
                assert!(decode_result(&mut &bytes[..end]).is_err(), "{result:?} cut at {end}");
            }
        }
    }

    #[test]
    fn garbage_never_panics() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..100_000 {
            let length = next() % 64;
            let bytes: Vec<u8> = (0..length).map(|_| next().to_le_bytes()[2] % 10).collect();
            let mut input = bytes.as_slice();
            if decode_result(&mut input).is_ok() {
                assert!(input.len() < bytes.len());
            }
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let reason = "x".to_owned() + &"\u{e9}".repeat(REASON_BYTES_MAX);
        let mut bytes = Vec::new();
        Failure::Busy { reason }.encode(&mut bytes);
        let Failure::Busy { reason } = Failure::decode(&mut bytes.as_slice()).unwrap() else {
            panic!("another failure came back");
        };
        assert_eq!(reason.len(), REASON_BYTES_MAX - 1);
    }

    #[test]
    fn a_value_that_announces_4_gib_is_refused() {
        let mut bytes = vec![0; 11];
        bytes[9] = 1;
        bytes.extend_from_slice(&[0; 9]);
        bytes.extend_from_slice(&[BODY_VALUE, 255, 255, 255, 255, 1]);
        assert!(decode_result(&mut bytes.as_slice()).is_err());
    }
}
