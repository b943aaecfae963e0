//! The bytes of replies and failures between nodes (`docs/format.md`, "Reply").
//!
//! Called by the forwarding of commands. Calls nothing. Decoding is bounded: no length is trusted
//! before it is compared with the bytes that are there.

#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use bytes::Bytes;

use super::cursor::Cursor;
use super::{
    Body, CommandResult, DecodeError, Failure, Holder, OPERATION_COUNT_MAX, Outcome,
    REASON_BYTES_MAX, Refusal, Reply,
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
const BODY_MEASURED: u8 = 5;

const REFUSAL_NOT_AN_INTEGER: u8 = 1;
const REFUSAL_OVERFLOW: u8 = 2;
const REFUSAL_TOO_LARGE: u8 = 3;
const REFUSAL_OUT_OF_RANGE: u8 = 4;
const REFUSAL_LOGGER: u8 = 5;
const REFUSAL_TOO_LARGE_FOR_KEY: u8 = 6;
const REFUSAL_TOO_LARGE_FOR_CHANNEL: u8 = 7;
const REFUSAL_TOO_LARGE_FOR_MESSAGE: u8 = 8;
const REFUSAL_RESERVED_CHANNEL: u8 = 9;
const REFUSAL_OTHER_REQUEST: u8 = 10;

/// Set in the count of outcomes of a reply that an earlier entry gave.
const REPEAT: u16 = 1 << 15;

const _: () = assert!(OPERATION_COUNT_MAX < REPEAT as usize);

const FAILURE_NO_LEADER: u8 = 1;
const FAILURE_NOT_LEADER: u8 = 2;
const FAILURE_NO_SPACE: u8 = 3;
const FAILURE_BUSY: u8 = 4;
const FAILURE_REFUSED: u8 = 5;
const FAILURE_DAMAGED: u8 = 6;
const FAILURE_STOPPING: u8 = 7;
const FAILURE_UNKNOWN: u8 = 8;
const FAILURE_FULL: u8 = 9;

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

/// How many bytes [`encode_result`] appends.
pub(crate) fn result_bytes(result: &CommandResult) -> usize {
    match result {
        Ok(reply) => 1 + reply_bytes(reply),
        Err(failure) => {
            let mut bytes = Vec::new();
            failure.encode(&mut bytes);
            1 + bytes.len()
        }
    }
}

/// How many bytes [`Reply::encode`] appends.
pub(crate) fn reply_bytes(reply: &Reply) -> usize {
    8 + 2 + reply.outcomes.iter().map(outcome_bytes).sum::<usize>()
}

/// The reply of which these are the bytes.
///
/// # Errors
/// [`DecodeError`] if they are not exactly those of one.
pub(crate) fn decode_reply(bytes: Bytes) -> Result<Reply, DecodeError> {
    let mut input = Cursor::new(bytes);
    let reply = Reply::decode(&mut input)?;
    input.finish()?;
    Ok(reply)
}

/// How many bytes one outcome takes.
pub(crate) fn outcome_bytes(outcome: &Outcome) -> usize {
    let body = match &outcome.body {
        Body::Empty | Body::Value(None) => 0,
        Body::Value(Some(value)) => 4 + value.len(),
        Body::Measured(_) | Body::Integer(_) => 8,
        Body::Refused(refusal) => {
            let mut bytes = Vec::new();
            encode_refusal(refusal, &mut bytes);
            bytes.len()
        }
    };
    8 + 1 + 1 + body
}

/// Takes a reply or a failure off the front of what is left.
///
/// # Errors
/// [`DecodeError`] if the bytes are neither; `input` is then to be given up.
pub(crate) fn decode_result(input: &mut Cursor) -> Result<CommandResult, DecodeError> {
    match input.u8()? {
        RESULT_REPLY => Reply::decode(input).map(Ok),
        RESULT_FAILURE => Failure::decode(input).map(Err),
        _ => Err(input.error("neither reply nor failure")),
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
        let repeat = if self.is_repeat { REPEAT } else { 0 };
        out.extend_from_slice(&self.index.to_le_bytes());
        out.extend_from_slice(&(count | repeat).to_le_bytes());
        for outcome in &self.outcomes {
            encode_outcome(outcome, out);
        }
    }

    fn decode(input: &mut Cursor) -> Result<Reply, DecodeError> {
        let index = input.u64()?;
        let word = input.u16()?;
        let (count, is_repeat) = (word & !REPEAT, word & REPEAT != 0);
        if usize::from(count) > OPERATION_COUNT_MAX {
            return Err(input.error("more outcomes than a command has operations"));
        }
        let outcomes = (0..count).map(|_| decode_outcome(input)).collect::<Result<_, _>>()?;
        Ok(Reply { index, is_repeat, outcomes })
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
            Failure::Full { reason } => {
                out.push(FAILURE_FULL);
                encode_text(reason, out);
            }
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

    fn decode(input: &mut Cursor) -> Result<Failure, DecodeError> {
        Ok(match input.u8()? {
            FAILURE_NO_LEADER => Failure::NoLeader { reason: input.string(REASON_BYTES_MAX)? },
            FAILURE_NOT_LEADER => Failure::NotLeader { leader: input.string(REASON_BYTES_MAX)? },
            FAILURE_NO_SPACE => Failure::NoSpace,
            FAILURE_FULL => Failure::Full { reason: input.string(REASON_BYTES_MAX)? },
            FAILURE_BUSY => Failure::Busy { reason: input.string(REASON_BYTES_MAX)? },
            FAILURE_REFUSED => Failure::Refused(decode_refusal(input)?),
            FAILURE_DAMAGED => Failure::Damaged { slot: input.u64()? },
            FAILURE_STOPPING => Failure::Stopping,
            FAILURE_UNKNOWN => Failure::Unknown {
                term: input.u64()?,
                index: input.u64()?,
                reason: input.string(REASON_BYTES_MAX)?,
            },
            _ => return Err(input.error("unknown kind of failure")),
        })
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
        Body::Measured(bytes) => {
            out.push(BODY_MEASURED);
            out.extend_from_slice(&bytes.to_le_bytes());
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

fn decode_outcome(input: &mut Cursor) -> Result<Outcome, DecodeError> {
    let version = input.u64()?;
    let flags = input.u8()?;
    if flags & !(FLAG_CHANGED | FLAG_EXISTED) != 0 {
        return Err(input.error("unknown flags of an outcome"));
    }
    let body = match input.u8()? {
        BODY_EMPTY => Body::Empty,
        BODY_NONE => Body::Value(None),
        BODY_VALUE => {
            let bytes = input.u32()? as usize;
            Body::Value(Some(input.bytes(bytes)?))
        }
        BODY_MEASURED => Body::Measured(input.u64()?),
        BODY_INTEGER => Body::Integer(input.u64()?.cast_signed()),
        BODY_REFUSED => Body::Refused(decode_refusal(input)?),
        _ => return Err(input.error("unknown body of an outcome")),
    };
    let changed = flags & FLAG_CHANGED != 0;
    let existed = flags & FLAG_EXISTED != 0;
    Ok(Outcome { version, changed, existed, body })
}

fn encode_refusal(refusal: &Refusal, out: &mut Vec<u8>) {
    match refusal {
        Refusal::NotAnInteger => out.push(REFUSAL_NOT_AN_INTEGER),
        Refusal::Logger => out.push(REFUSAL_LOGGER),
        Refusal::Overflow => out.push(REFUSAL_OVERFLOW),
        Refusal::ReservedChannel => out.push(REFUSAL_RESERVED_CHANNEL),
        Refusal::TooLarge { bytes, bytes_max, holder } => {
            out.push(match holder {
                Holder::Slot => REFUSAL_TOO_LARGE,
                Holder::Key => REFUSAL_TOO_LARGE_FOR_KEY,
                Holder::Channel => REFUSAL_TOO_LARGE_FOR_CHANNEL,
                Holder::Message => REFUSAL_TOO_LARGE_FOR_MESSAGE,
            });
            out.extend_from_slice(&bytes.to_le_bytes());
            out.extend_from_slice(&bytes_max.to_le_bytes());
        }
        Refusal::OutOfRange { slot_count } => {
            out.push(REFUSAL_OUT_OF_RANGE);
            out.extend_from_slice(&slot_count.to_le_bytes());
        }
        Refusal::OtherRequest { index } => {
            out.push(REFUSAL_OTHER_REQUEST);
            out.extend_from_slice(&index.to_le_bytes());
        }
    }
}

fn decode_refusal(input: &mut Cursor) -> Result<Refusal, DecodeError> {
    match input.u8()? {
        REFUSAL_LOGGER => Ok(Refusal::Logger),
        REFUSAL_NOT_AN_INTEGER => Ok(Refusal::NotAnInteger),
        REFUSAL_OVERFLOW => Ok(Refusal::Overflow),
        REFUSAL_TOO_LARGE => too_large(input, Holder::Slot),
        REFUSAL_TOO_LARGE_FOR_KEY => too_large(input, Holder::Key),
        REFUSAL_TOO_LARGE_FOR_CHANNEL => too_large(input, Holder::Channel),
        REFUSAL_TOO_LARGE_FOR_MESSAGE => too_large(input, Holder::Message),
        REFUSAL_RESERVED_CHANNEL => Ok(Refusal::ReservedChannel),
        REFUSAL_OUT_OF_RANGE => Ok(Refusal::OutOfRange { slot_count: input.u64()? }),
        REFUSAL_OTHER_REQUEST => Ok(Refusal::OtherRequest { index: input.u64()? }),
        _ => Err(input.error("unknown refusal")),
    }
}

fn too_large(input: &mut Cursor, holder: Holder) -> Result<Refusal, DecodeError> {
    Ok(Refusal::TooLarge { bytes: input.u64()?, bytes_max: input.u64()?, holder })
}

fn encode_text(text: &str, out: &mut Vec<u8>) {
    let (text, _) = text.split_at(text.floor_char_boundary(REASON_BYTES_MAX));
    let bytes = u16::try_from(text.len()).expect("invariant: reasons are cut before 64 KiB");
    out.extend_from_slice(&bytes.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
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
            Body::Measured(1 << 20),
            Body::Integer(-1),
            Body::Refused(Refusal::NotAnInteger),
            Body::Refused(Refusal::Overflow),
            Body::Refused(Refusal::TooLarge { bytes: 5000, bytes_max: 1024, holder: Holder::Slot }),
            Body::Refused(Refusal::TooLarge { bytes: 5000, bytes_max: 1024, holder: Holder::Key }),
            Body::Refused(Refusal::TooLarge { bytes: 5, bytes_max: 4, holder: Holder::Channel }),
            Body::Refused(Refusal::TooLarge { bytes: 5, bytes_max: 4, holder: Holder::Message }),
            Body::Refused(Refusal::ReservedChannel),
            Body::Refused(Refusal::OutOfRange { slot_count: 7 }),
            Body::Refused(Refusal::Logger),
            Body::Refused(Refusal::OtherRequest { index: 7 }),
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
            Ok(Reply { index: 9, outcomes: outcomes.collect(), ..Reply::default() }),
            Ok(Reply { index: 9, is_repeat: true, ..Reply::default() }),
            Ok(Reply::default()),
            Err(Failure::NoLeader { reason: reason.clone() }),
            Err(Failure::NotLeader { leader: "host:1".to_owned() }),
            Err(Failure::NoSpace),
            Err(Failure::Busy { reason: reason.clone() }),
            Err(Failure::Full { reason: reason.clone() }),
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
            assert_eq!(bytes.len(), result_bytes(&result), "{result:?}");
            bytes.push(77);
            let mut input = Cursor::new(bytes.into());
            assert_eq!(decode_result(&mut input).unwrap(), result);
            assert_eq!(input.rest(), &[77_u8][..]);
        }
    }

    #[test]
    fn every_refusal_has_its_own_bytes() {
        let too_large = |holder| Refusal::TooLarge { bytes: 5, bytes_max: 4, holder };
        let numbers = [5_u64.to_le_bytes(), 4_u64.to_le_bytes()].concat();
        for (refusal, kind, fields) in [
            (Refusal::NotAnInteger, 1, &[][..]),
            (Refusal::Overflow, 2, &[]),
            (too_large(Holder::Slot), 3, &numbers),
            (Refusal::OutOfRange { slot_count: 5 }, 4, &numbers[..8]),
            (Refusal::Logger, 5, &[]),
            (too_large(Holder::Key), 6, &numbers),
            (Refusal::OtherRequest { index: 5 }, 10, &numbers[..8]),
        ] {
            let mut bytes = Vec::new();
            encode_refusal(&refusal, &mut bytes);
            assert_eq!(bytes, [&[kind][..], fields].concat(), "{refusal:?}");
        }
    }

    #[test]
    fn golden_bytes_pin_the_layout() {
        let body = Body::Value(Some(Bytes::from_static(b"v")));
        let outcome = Outcome { version: 5, changed: true, existed: true, body };
        let mut bytes = Vec::new();
        let measured = Outcome { body: Body::Measured(6), ..outcome.clone() };
        let outcomes = [outcome, measured].into_iter().collect();
        encode_result(&Ok(Reply { index: 3, outcomes, ..Reply::default() }), &mut bytes);
        let repeat = Reply { index: 3, is_repeat: true, ..Reply::default() };
        encode_result(&Ok(repeat), &mut bytes);
        encode_result(&Err(Failure::NoLeader { reason: "r".to_owned() }), &mut bytes);
        encode_result(&Err(Failure::Full { reason: "r".to_owned() }), &mut bytes);
        #[rustfmt::skip]
        let expected = [
            0, 3, 0, 0, 0, 0, 0, 0, 0, 2, 0,
            5, 0, 0, 0, 0, 0, 0, 0, 3, 2, 1, 0, 0, 0, b'v',
            5, 0, 0, 0, 0, 0, 0, 0, 3, 5, 6, 0, 0, 0, 0, 0, 0, 0,
            0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 128,
            1, 1, 1, 0, b'r',
            1, 9, 1, 0, b'r',
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn every_cut_is_refused() {
        for result in results() {
            let mut bytes = Vec::new();
            encode_result(&result, &mut bytes);
            let bytes = Bytes::from(bytes);
            for end in 0..bytes.len() {
                let mut input = Cursor::new(bytes.slice(..end));
                assert!(decode_result(&mut input).is_err(), "{result:?} cut at {end}");
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
            let bytes: Bytes = (0..length).map(|_| next().to_le_bytes()[2] % 10).collect();
            let mut input = Cursor::new(bytes.clone());
            if decode_result(&mut input).is_ok() {
                assert!(input.rest().len() < bytes.len());
            }
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let reason = "x".to_owned() + &"\u{e9}".repeat(REASON_BYTES_MAX);
        let mut bytes = Vec::new();
        Failure::Busy { reason }.encode(&mut bytes);
        let Failure::Busy { reason } = Failure::decode(&mut Cursor::new(bytes.into())).unwrap()
        else {
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
        assert!(decode_result(&mut Cursor::new(bytes.into())).is_err());
    }
}
