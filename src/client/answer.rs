//! The bytes of a request in RESP2, and what a node answers to it. Pure.
//!
//! - I1: no memory is taken for an answer before it is there as a whole; a length that goes beyond a
//!   bound is refused as soon as it is announced.

#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use bytes::{Buf, BytesMut};

use crate::command::OPERATION_COUNT_MAX;

/// Most bytes of a value or a status.
const VALUE_BYTES_MAX: usize = 64 << 20;
/// Most bytes of an answer: all values of a reply, and what stands between them.
const ANSWER_BYTES_MAX: usize = VALUE_BYTES_MAX + (1 << 20);
/// Most bytes of a line.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Most parts of an answer, those of lists within it included.
const PART_COUNT_MAX: usize = OPERATION_COUNT_MAX + 16;
/// Most lists within one another.
const DEPTH_MAX: usize = 4;

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Status(String),
    Error(String),
    Integer(i64),
    Value(Vec<u8>),
    Nothing,
    List(Vec<Answer>),
}

/// Bytes that are no answer of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoAnswer;

/// The bytes of a request.
pub(super) fn encode<'a>(words: impl ExactSizeIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Takes the first answer off `input`; `None` if it is not there as a whole.
pub(super) fn decode(input: &mut BytesMut) -> Result<Option<Answer>, NoAnswer> {
    let Some(bytes) = measure(input)? else { return Ok(None) };
    let answer = parse(&mut input.get(..bytes).ok_or(NoAnswer)?, 0)?;
    input.advance(bytes);
    Ok(Some(answer))
}

/// The length of the first answer; `None` if its end is not there (I1).
fn measure(input: &[u8]) -> Result<Option<usize>, NoAnswer> {
    let (mut at, mut left, mut part_count) = (0, 1, 0);
    while left > 0 {
        let Some((line, behind)) = line(input.get(at..).unwrap_or_default())? else {
            return Ok(None);
        };
        at += behind;
        left -= 1;
        match line.split_first().ok_or(NoAnswer)? {
            (b'+' | b'-' | b':' | b'_', _) | (b'$' | b'*', b"-1") => {}
            (b'$', text) => at += length(text, VALUE_BYTES_MAX)? + 2,
            (b'*', text) => {
                let count = length(text, PART_COUNT_MAX)?;
                left += count;
                part_count += count;
            }
            _ => return Err(NoAnswer),
        }
        if part_count > PART_COUNT_MAX || at > ANSWER_BYTES_MAX {
            return Err(NoAnswer);
        }
    }
    Ok((at <= input.len()).then_some(at))
}

/// Takes an answer off bytes that hold it as a whole.
fn parse(rest: &mut &[u8], depth: usize) -> Result<Answer, NoAnswer> {
    let (line, behind) = line(rest)?.ok_or(NoAnswer)?;
    *rest = rest.get(behind..).unwrap_or_default();
    let (kind, text) = line.split_first().ok_or(NoAnswer)?;
    let words = || std::str::from_utf8(text).map_err(|_| NoAnswer);
    match kind {
        b'+' => Ok(Answer::Status(words()?.to_owned())),
        b'-' => Ok(Answer::Error(words()?.to_owned())),
        b':' => Ok(Answer::Integer(words()?.parse().map_err(|_| NoAnswer)?)),
        b'_' => Ok(Answer::Nothing),
        b'$' | b'*' if text == b"-1" => Ok(Answer::Nothing),
        b'$' => {
            let (value, behind) =
                rest.split_at_checked(length(text, VALUE_BYTES_MAX)?).ok_or(NoAnswer)?;
            *rest = behind.strip_prefix(b"\r\n").ok_or(NoAnswer)?;
            Ok(Answer::Value(value.to_vec()))
        }
        b'*' if depth < DEPTH_MAX => {
            let parts = (0..length(text, PART_COUNT_MAX)?).map(|_| parse(rest, depth + 1));
            Ok(Answer::List(parts.collect::<Result<_, _>>()?))
        }
        _ => Err(NoAnswer),
    }
}

/// The first line without its end, and where the next one begins; `None` if the end is not there yet.
fn line(input: &[u8]) -> Result<Option<(&[u8], usize)>, NoAnswer> {
    let Some(end) = input.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') else {
        return if input.len() < LINE_BYTES_MAX { Ok(None) } else { Err(NoAnswer) };
    };
    let line = input.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(NoAnswer)?;
    Ok(Some((line, end + 1)))
}

fn length(text: &[u8], max: usize) -> Result<usize, NoAnswer> {
    let digits = text.iter().all(u8::is_ascii_digit).then_some(text);
    let number = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    number.filter(|number| *number <= max).ok_or(NoAnswer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8]) -> Result<Option<Answer>, NoAnswer> {
        decode(&mut BytesMut::from(bytes))
    }

    fn value(bytes: &[u8]) -> Answer {
        Answer::Value(bytes.to_vec())
    }

    #[test]
    fn an_answer_is_taken_once_it_is_whole_and_not_before() {
        let list = vec![value(b"a"), Answer::Nothing, Answer::List(vec![Answer::Integer(7)])];
        for (bytes, answer) in [
            (&b"+OK\r\n"[..], Answer::Status("OK".to_owned())),
            (b"-BUSY later\r\n", Answer::Error("BUSY later".to_owned())),
            (b":-7\r\n", Answer::Integer(-7)),
            (b"_\r\n", Answer::Nothing),
            (b"$-1\r\n", Answer::Nothing),
            (b"*-1\r\n", Answer::Nothing),
            (b"$0\r\n\r\n", value(b"")),
            (b"$5\r\na\r\nb\0\r\n", value(b"a\r\nb\0")),
            (b"*0\r\n", Answer::List(Vec::new())),
            (b"*3\r\n$1\r\na\r\n$-1\r\n*1\r\n:7\r\n", Answer::List(list)),
        ] {
            for cut in 0..bytes.len() {
                assert_eq!(decoded(&bytes[..cut]), Ok(None), "{bytes:?} cut at {cut}");
            }
            let mut input = BytesMut::from(&[bytes, b"+next"].concat()[..]);
            assert_eq!(decode(&mut input), Ok(Some(answer)));
            assert_eq!(&input[..], b"+next");
        }
    }

    #[test]
    fn bytes_that_are_no_answer_are_refused_before_memory_is_taken_for_them() {
        let deep = b"*1\r\n".repeat(DEPTH_MAX + 1);
        for bytes in [
            &b"\r\n"[..],
            b"?x\r\n",
            b"HTTP/1.1 400 Bad Request\r\n",
            b":x\r\n",
            b"$x\r\n",
            b"$+1\r\n",
            b"$-2\r\n",
            b"$99999999999\r\n",
            b"$18446744073709551616\r\n",
            b"$1\r\nabc",
            b"+ok\n",
            b"+\xff\r\n",
            b"*1\r\n?\r\n",
            b"*4113\r\n",
            b"*4112\r\n*4112\r\n",
            b"*2\r\n$67108864\r\n",
            &[&deep[..], b":1\r\n"].concat(),
            &b"+".repeat(LINE_BYTES_MAX),
        ] {
            // Lengths that add up to too much are refused with the second of them.
            let refused = decoded(bytes);
            let is_announced = bytes.starts_with(b"*2");
            assert_eq!(refused, if is_announced { Ok(None) } else { Err(NoAnswer) }, "{bytes:?}");
        }
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..100_000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let letter = |byte: u8| b"+-:_$*0123\r\na"[usize::from(byte) % 13];
            drop(decoded(&state.to_le_bytes().map(letter)));
        }
    }

    #[test]
    fn the_values_of_a_list_have_a_bound_together() {
        let first = [&b"*2\r\n$67108864\r\n"[..], &vec![b'x'; VALUE_BYTES_MAX], b"\r\n"].concat();
        assert_eq!(decoded(&first), Ok(None));
        assert_eq!(decoded(&[&first[..], b"$1048576\r\n"].concat()), Err(NoAnswer));
    }
}
