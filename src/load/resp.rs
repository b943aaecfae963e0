//! The Redis protocol: `SET` and `GET`, and any reply of RESP2.
//!
//! - I1: no memory is taken for a length that a server announces.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use super::codec::{Codec, CodecReply, CodecStep, Foreign, Operation};

/// Most bytes of a line.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Most bytes of a bulk string.
const BULK_BYTES_MAX: usize = 512 << 20;
/// Most replies in an array, those in arrays inside of it included.
const ARRAY_COUNT_MAX: usize = 1 << 20;
/// Most decimal digits of a number.
const DIGIT_COUNT_MAX: usize = 20;

/// A connection's side of the protocol. Nothing has to be remembered.
#[derive(Debug, Default)]
pub struct Resp;

impl Codec for Resp {
    fn request(&mut self, operation: &Operation<'_>, output: &mut Vec<u8>) {
        match operation {
            Operation::Read { key } => {
                output.extend_from_slice(b"*2\r\n$3\r\nGET\r\n");
                append_key(*key, output);
            }
            Operation::Write { key, value } => {
                output.extend_from_slice(b"*3\r\n$3\r\nSET\r\n");
                append_key(*key, output);
                append_length(value.bytes(), output);
                value.append_to(output);
                output.extend_from_slice(b"\r\n");
            }
        }
    }

    fn next<'a>(
        &mut self,
        input: &'a [u8],
        _output: &mut Vec<u8>,
    ) -> Result<CodecStep<'a>, Foreign> {
        let Some((line, line_bytes)) = line(input)? else { return Ok(CodecStep::More) };
        let (kind, text) = line.split_first().ok_or(Foreign)?;
        let reply = match kind {
            b'+' | b':' => CodecReply::Done,
            b'-' => CodecReply::Refused(text),
            b'_' => CodecReply::Missing,
            b'$' | b'*' if text == b"-1" => CodecReply::Missing,
            b'$' => {
                let bytes = number(text, BULK_BYTES_MAX)?;
                let Some(bulk) = input.get(line_bytes..line_bytes + bytes + 2) else {
                    return Ok(CodecStep::More);
                };
                let value = bulk.strip_suffix(b"\r\n").ok_or(Foreign)?;
                return Ok(CodecStep::Reply(line_bytes + bulk.len(), CodecReply::Value(value)));
            }
            b'*' => {
                return match array_bytes(input)? {
                    Some(bytes) => Ok(CodecStep::Reply(bytes, CodecReply::Done)),
                    None => Ok(CodecStep::More),
                };
            }
            _ => return Err(Foreign),
        };
        Ok(CodecStep::Reply(line_bytes, reply))
    }
}

/// The same where a connection begins with a request of its own: a token, or a level.
pub struct OpeningResp {
    opening: Vec<u8>,
    is_open: bool,
}

impl OpeningResp {
    /// A connection that presents a token, for a server that asks for one. With a name, so that a server without
    /// passwords takes it too.
    pub fn with_token(token: &str) -> OpeningResp {
        OpeningResp::beginning(&["AUTH", "default", token])
    }

    /// A connection whose operations wait for so many replicas, at a node of `leaderless`.
    pub fn at_level(level: &str) -> OpeningResp {
        OpeningResp::beginning(&["LEVEL", level])
    }

    fn beginning(words: &[&str]) -> OpeningResp {
        let mut opening = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            append_length(word.len(), &mut opening);
            opening.extend_from_slice(word.as_bytes());
            opening.extend_from_slice(b"\r\n");
        }
        OpeningResp { opening, is_open: false }
    }
}

impl std::fmt::Debug for OpeningResp {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("OpeningResp").finish_non_exhaustive()
    }
}

impl Codec for OpeningResp {
    fn open(&mut self, output: &mut Vec<u8>) {
        output.extend_from_slice(&self.opening);
    }

    fn is_open(&self) -> bool {
        self.is_open
    }

    fn request(&mut self, operation: &Operation<'_>, output: &mut Vec<u8>) {
        Resp.request(operation, output);
    }

    fn next<'a>(
        &mut self,
        input: &'a [u8],
        output: &mut Vec<u8>,
    ) -> Result<CodecStep<'a>, Foreign> {
        let step = Resp.next(input, output)?;
        match step {
            CodecStep::Reply(bytes, CodecReply::Done) if !self.is_open => {
                self.is_open = true;
                Ok(CodecStep::Passed(bytes))
            }
            CodecStep::More | CodecStep::Passed(_) | CodecStep::Reply(..) => Ok(step),
        }
    }
}

/// The first line without its end, and its length with it; `None` if its end is not there yet.
fn line(input: &[u8]) -> Result<Option<(&[u8], usize)>, Foreign> {
    let Some(end) = input.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') else {
        return if input.len() < LINE_BYTES_MAX { Ok(None) } else { Err(Foreign) };
    };
    let line = input.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(Foreign)?;
    Ok(Some((line, end + 1)))
}

/// The length of an array as a whole; `None` if its end is not there yet.
fn array_bytes(input: &[u8]) -> Result<Option<usize>, Foreign> {
    let (mut at, mut left, mut seen) = (0, 1, 0);
    while left > 0 {
        let Some((line, line_bytes)) = line(input.get(at..).unwrap_or_default())? else {
            return Ok(None);
        };
        at += line_bytes;
        left -= 1;
        match line.split_first().ok_or(Foreign)? {
            (b'+' | b'-' | b':' | b'_', _) | (b'$' | b'*', b"-1") => {}
            (b'$', text) => at += number(text, BULK_BYTES_MAX)? + 2,
            (b'*', text) => {
                let count = number(text, ARRAY_COUNT_MAX)?;
                left += count;
                seen += count;
            }
            _ => return Err(Foreign),
        }
        if seen > ARRAY_COUNT_MAX {
            return Err(Foreign);
        }
    }
    Ok((at <= input.len()).then_some(at))
}

fn number(text: &[u8], max: usize) -> Result<usize, Foreign> {
    let text = std::str::from_utf8(text).map_err(|_| Foreign)?;
    text.parse().ok().filter(|number| *number <= max).ok_or(Foreign)
}

fn append_key(key: u64, output: &mut Vec<u8>) {
    let mut digits = [0; DIGIT_COUNT_MAX];
    let digits = decimal(key, &mut digits);
    append_length(digits.len(), output);
    output.extend_from_slice(digits);
    output.extend_from_slice(b"\r\n");
}

fn append_length(length: usize, output: &mut Vec<u8>) {
    let mut digits = [0; DIGIT_COUNT_MAX];
    output.push(b'$');
    output.extend_from_slice(decimal(length as u64, &mut digits));
    output.extend_from_slice(b"\r\n");
}

/// The decimal digits of a number, without the machinery of `format!`.
fn decimal(mut number: u64, digits: &mut [u8; DIGIT_COUNT_MAX]) -> &[u8] {
    let mut count = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789".get(super::to_index(number % 10)).copied().unwrap_or_default();
        number /= 10;
        count += 1;
        if number == 0 {
            break;
        }
    }
    digits.get(DIGIT_COUNT_MAX - count..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::Values;
    use super::*;

    fn next(input: &[u8]) -> Result<CodecStep<'_>, Foreign> {
        Resp.next(input, &mut Vec::new())
    }

    #[test]
    fn a_token_is_presented_before_anything_is_asked() {
        let (mut codec, mut output) = (OpeningResp::with_token("dst_a"), Vec::new());
        codec.open(&mut output);
        let expected = b"*3\r\n$4\r\nAUTH\r\n$7\r\ndefault\r\n$5\r\ndst_a\r\n";
        assert_eq!((output.as_slice(), codec.is_open()), (&expected[..], false));
        let refused = codec.next(b"-WRONGPASS no\r\n", &mut output);
        assert_eq!(refused, Ok(CodecStep::Reply(15, CodecReply::Refused(b"WRONGPASS no"))));
        assert!(!codec.is_open());
        assert_eq!(codec.next(b"+OK\r\n+OK\r\n", &mut output), Ok(CodecStep::Passed(5)));
        assert!(codec.is_open());
        let done = codec.next(b"+OK\r\n", &mut output);
        assert_eq!(done, Ok(CodecStep::Reply(5, CodecReply::Done)));
    }

    #[test]
    fn requests_are_arrays_of_bulk_strings() {
        let mut output = Vec::new();
        Resp.request(&Operation::Read { key: 0 }, &mut output);
        Resp.request(&Operation::Read { key: u64::MAX }, &mut output);
        let value = Values::new(3);
        let value = value.value(1_234, 0, 3);
        Resp.request(&Operation::Write { key: 1_234, value }, &mut output);
        let expected = "*2\r\n$3\r\nGET\r\n$1\r\n0\r\n\
                        *2\r\n$3\r\nGET\r\n$20\r\n18446744073709551615\r\n\
                        *3\r\n$3\r\nSET\r\n$4\r\n1234\r\n$3\r\n000\r\n";
        assert_eq!(String::from_utf8_lossy(&output), expected);
    }

    #[test]
    fn every_reply_is_read_once_it_is_whole_and_not_before() {
        for (input, reply) in [
            (&b"+OK\r\n"[..], CodecReply::Done),
            (b":-7\r\n", CodecReply::Done),
            (b"-BUSY try later\r\n", CodecReply::Refused(b"BUSY try later")),
            (b"$-1\r\n", CodecReply::Missing),
            (b"*-1\r\n", CodecReply::Missing),
            (b"_\r\n", CodecReply::Missing),
            (b"$0\r\n\r\n", CodecReply::Value(b"")),
            (b"$4\r\na\r\nb\r\n", CodecReply::Value(b"a\r\nb")),
            (b"*0\r\n", CodecReply::Done),
            (b"*3\r\n$2\r\nab\r\n*2\r\n:1\r\n$-1\r\n+x\r\n", CodecReply::Done),
        ] {
            for end in 0..input.len() {
                assert_eq!(next(&input[..end]), Ok(CodecStep::More), "{end} of {input:?}");
            }
            assert_eq!(next(input), Ok(CodecStep::Reply(input.len(), reply)));
            let more = [input, b"+OK\r\n"].concat();
            assert_eq!(next(&more), Ok(CodecStep::Reply(input.len(), reply)));
        }
    }

    #[test]
    fn what_is_no_reply_is_refused_without_taking_memory() {
        for input in [
            &b"HTTP/1.1 400\r\n"[..],
            b"\r\n",
            b"+OK\n",
            b"$-2\r\n",
            b"$x\r\n",
            b"$18446744073709551616\r\n",
            b"$999999999999\r\n",
            b"$1\r\nabc",
            b"*1\r\n?\r\n",
            b"*1048577\r\n",
            b"*1048576\r\n*1048576\r\n",
            &b"+".repeat(LINE_BYTES_MAX),
        ] {
            assert_eq!(next(input), Err(Foreign), "{input:?}");
        }
    }
}
