//! Bytes of a RESP client to requests: arrays of bulk strings, and inline lines. Pure.
//!
//! Called by the session with its read buffer; calls nothing.
//!
//! Invariants:
//! - I1: no memory is taken for a length that a client announced; the buffer grows with what came.
//! - I2: what was parsed of an unfinished request is not parsed again when more bytes come.
//! - I3: the values of an array are never copied: a request holds the part of the buffer it is in.

#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;

use crate::command::{COMMAND_BYTES_MAX, OPERATION_COUNT_MAX};

/// Most arguments of one request: an MSET of as many pairs as a command holds, and its name.
pub(crate) const ARGUMENT_COUNT_MAX: usize = 2 * OPERATION_COUNT_MAX + 1;
/// Most bytes of one argument, unless values are longer.
pub(crate) const BULK_BYTES_MAX: usize = 1 << 20;
/// Most bytes of one request.
pub(crate) const REQUEST_BYTES_MAX: usize = COMMAND_BYTES_MAX;
/// Most bytes of an inline line, its end included.
pub(crate) const INLINE_BYTES_MAX: usize = 64 << 10;
/// Most bytes of a line that announces a length: a sign, 20 digits, CR and LF, with room to spare.
const LENGTH_LINE_BYTES_MAX: usize = 32;

/// A request that cannot be read; the connection is to be closed after saying so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolError {
    /// The number of arguments is no number or too large.
    #[error("invalid multibulk length")]
    ArrayLength,
    /// The length of an argument is no number or too large.
    #[error("invalid bulk length")]
    BulkLength,
    /// A line that announces a length has no end.
    #[error("too big length line")]
    LengthLine,
    /// An argument is not a bulk string.
    #[error("expected '$', got '{}'", .0.escape_ascii())]
    NotBulk(u8),
    /// An argument is not followed by CR and LF.
    #[error("expected CRLF after a bulk string")]
    BulkEnd,
    /// The request as a whole is too long.
    #[error("request of more than {REQUEST_BYTES_MAX} bytes")]
    RequestLength,
    /// An inline line has no end.
    #[error("too big inline request")]
    InlineLength,
    /// A quote of an inline line is not closed, or not followed by a space.
    #[error("unbalanced quotes in request")]
    Quotes,
}

/// One request: at least one argument, the first its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    bytes: Bytes,
    ranges: Ranges,
}

type Ranges = SmallVec<[Range<usize>; 4]>;

impl Request {
    /// The arguments, the name first.
    pub(crate) fn arguments(&self) -> SmallVec<[&[u8]; 4]> {
        self.ranges.iter().filter_map(|range| self.bytes.get(range.clone())).collect()
    }
}

/// Reads requests off the front of a connection's buffer.
#[derive(Debug)]
pub(crate) struct Decoder {
    bulk_bytes_max: usize,
    /// Bytes of the unfinished request that are parsed.
    position: usize,
    /// Arguments that are still to come; `None` between requests.
    remaining: Option<usize>,
    ranges: Ranges,
}

impl Decoder {
    /// A decoder for arguments of at least `value_bytes_max` bytes.
    pub(crate) fn new(value_bytes_max: usize) -> Decoder {
        let bulk_bytes_max = value_bytes_max.max(BULK_BYTES_MAX);
        Decoder { bulk_bytes_max, position: 0, remaining: None, ranges: Ranges::new() }
    }

    /// Takes the next request off `input`; `None` if it is not there as a whole.
    ///
    /// # Errors
    /// [`ProtocolError`]; nothing after it can be read.
    pub(crate) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Request>, ProtocolError> {
        while self.remaining.is_none() {
            match input.first() {
                None => return Ok(None),
                Some(b'*') => {
                    if !self.begin_array(input)? {
                        return Ok(None);
                    }
                }
                Some(_) => match take_line(input)? {
                    None => return Ok(None),
                    Some(line) => {
                        let request = split_inline(&line)?;
                        if !request.ranges.is_empty() {
                            return Ok(Some(request));
                        }
                    }
                },
            }
        }
        while self.remaining.is_some_and(|count| count > 0) {
            if !self.take_bulk(input)? {
                return Ok(None);
            }
        }
        self.remaining = None;
        let bytes = input.split_to(std::mem::take(&mut self.position)).freeze();
        Ok(Some(Request { bytes, ranges: std::mem::take(&mut self.ranges) }))
    }

    /// Parses `*<count>`; false if its line is not whole yet. Empty arrays are skipped.
    fn begin_array(&mut self, input: &mut BytesMut) -> Result<bool, ProtocolError> {
        let Some((count, end)) = parse_length(input, 1).map_err(|()| ProtocolError::LengthLine)?
        else {
            return Ok(false);
        };
        let count = count.ok_or(ProtocolError::ArrayLength)?;
        let Ok(count) = usize::try_from(count) else {
            input.advance(end);
            return Ok(true);
        };
        if count > ARGUMENT_COUNT_MAX {
            return Err(ProtocolError::ArrayLength);
        }
        if count == 0 {
            input.advance(end);
            return Ok(true);
        }
        self.position = end;
        self.remaining = Some(count);
        Ok(true)
    }

    /// Parses one `$<length>` and what follows it; false if it is not whole yet.
    fn take_bulk(&mut self, input: &BytesMut) -> Result<bool, ProtocolError> {
        match input.get(self.position) {
            None => return Ok(false),
            Some(b'$') => {}
            Some(other) => return Err(ProtocolError::NotBulk(*other)),
        }
        let line = parse_length(input, self.position + 1);
        let Some((length, start)) = line.map_err(|()| ProtocolError::LengthLine)? else {
            return Ok(false);
        };
        let length = length.and_then(|length| usize::try_from(length).ok());
        let length = length.ok_or(ProtocolError::BulkLength)?;
        if length > self.bulk_bytes_max {
            return Err(ProtocolError::BulkLength);
        }
        let end = start + length;
        if end > REQUEST_BYTES_MAX {
            return Err(ProtocolError::RequestLength);
        }
        match input.get(end..end + 2) {
            None => return Ok(false),
            Some(b"\r\n") => {}
            Some(_) => return Err(ProtocolError::BulkEnd),
        }
        self.ranges.push(start..end);
        self.position = end + 2;
        self.remaining = self.remaining.map(|count| count - 1);
        Ok(true)
    }
}

/// A length (`None` if it is no number) and where its line ends; `None` if the line is not whole.
type Length = Option<(Option<i64>, usize)>;

/// Parses the decimal number from `start` to the end of its line.
fn parse_length(input: &[u8], start: usize) -> Result<Length, ()> {
    let line = input.get(start..).unwrap_or_default();
    let line = line.get(..LENGTH_LINE_BYTES_MAX).unwrap_or(line);
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        return if line.len() < LENGTH_LINE_BYTES_MAX { Ok(None) } else { Err(()) };
    };
    let digits = line.get(..end).and_then(|line| line.strip_suffix(b"\r"));
    Ok(Some((digits.and_then(parse_integer), start + end + 1)))
}

/// A signed decimal number as Redis writes it: no plus, no leading zeros, no spaces.
pub(crate) fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let canonical = match digits {
        [b'0'] => !negative,
        [] | [b'0', ..] => false,
        _ => true,
    };
    if !canonical {
        return None;
    }
    digits.iter().try_fold(0_i64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| i64::from(byte - b'0'))?;
        let number = number.checked_mul(10)?;
        if negative { number.checked_sub(digit) } else { number.checked_add(digit) }
    })
}

/// Takes one inline line off `input`, its end dropped; `None` if it is not whole.
fn take_line(input: &mut BytesMut) -> Result<Option<BytesMut>, ProtocolError> {
    let window = input.get(..INLINE_BYTES_MAX).unwrap_or(input);
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        let whole = input.len() < INLINE_BYTES_MAX;
        return if whole { Ok(None) } else { Err(ProtocolError::InlineLength) };
    };
    let mut line = input.split_to(end + 1);
    line.truncate(end);
    if line.last() == Some(&b'\r') {
        line.truncate(end - 1);
    }
    Ok(Some(line))
}

/// Splits an inline line at its spaces; quotes and escapes are those of redis-cli.
fn split_inline(line: &[u8]) -> Result<Request, ProtocolError> {
    let mut bytes = Vec::with_capacity(line.len());
    let mut ranges = Ranges::new();
    let mut rest = line.trim_ascii_start();
    while let Some(first) = rest.first() {
        let start = bytes.len();
        rest = match first {
            b'"' => take_double_quoted(rest.get(1..).unwrap_or_default(), &mut bytes)?,
            b'\'' => take_single_quoted(rest.get(1..).unwrap_or_default(), &mut bytes)?,
            _ => take_word(rest, &mut bytes)?,
        };
        if ranges.len() == ARGUMENT_COUNT_MAX {
            return Err(ProtocolError::ArrayLength);
        }
        ranges.push(start..bytes.len());
        if rest.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
            return Err(ProtocolError::Quotes);
        }
        rest = rest.trim_ascii_start();
    }
    Ok(Request { bytes: bytes.into(), ranges })
}

/// Takes bytes up to a space; a quote in the middle begins a quoted part, as redis-cli has it.
fn take_word<'a>(mut rest: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    while let Some((byte, behind)) = rest.split_first() {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' | 0x0c => return Ok(rest),
            b'"' => return take_double_quoted(behind, out),
            b'\'' => return take_single_quoted(behind, out),
            other => out.push(*other),
        }
        rest = behind;
    }
    Ok(rest)
}

fn take_double_quoted<'a>(
    mut rest: &'a [u8],
    out: &mut Vec<u8>,
) -> Result<&'a [u8], ProtocolError> {
    loop {
        rest = match rest {
            [] => return Err(ProtocolError::Quotes),
            [b'"', behind @ ..] => return Ok(behind),
            [b'\\', b'x', high, low, behind @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                out.push(hex_digit(*high) << 4 | hex_digit(*low));
                behind
            }
            [b'\\', escaped, behind @ ..] => {
                out.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                behind
            }
            [other, behind @ ..] => {
                out.push(*other);
                behind
            }
        };
    }
}

fn take_single_quoted<'a>(
    mut rest: &'a [u8],
    out: &mut Vec<u8>,
) -> Result<&'a [u8], ProtocolError> {
    loop {
        rest = match rest {
            [] => return Err(ProtocolError::Quotes),
            [b'\'', behind @ ..] => return Ok(behind),
            [b'\\', b'\'', behind @ ..] => {
                out.push(b'\'');
                behind
            }
            [other, behind @ ..] => {
                out.push(*other);
                behind
            }
        };
    }
}

/// The value of a hexadecimal digit; 0 for what is none.
fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Words = Vec<Vec<u8>>;

    /// Feeds `pieces` one after the other; what was read, and the error that ended it.
    fn decode(pieces: &[&[u8]]) -> (Vec<Words>, Option<ProtocolError>) {
        let mut decoder = Decoder::new(1024);
        let mut input = BytesMut::new();
        let mut requests = Vec::new();
        for piece in pieces {
            input.extend_from_slice(piece);
            loop {
                match decoder.next(&mut input) {
                    Ok(None) => break,
                    Ok(Some(request)) => {
                        let words = request.arguments();
                        requests.push(words.into_iter().map(<[u8]>::to_vec).collect());
                    }
                    Err(error) => return (requests, Some(error)),
                }
            }
        }
        (requests, None)
    }

    fn error(bytes: &[u8]) -> Option<ProtocolError> {
        decode(&[bytes]).1
    }

    fn array(arguments: &[&[u8]]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
        for argument in arguments {
            bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
            bytes.extend_from_slice(argument);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }

    /// Arrays and inline lines, with values of the lengths that the original broke on.
    fn stream() -> (Vec<u8>, Vec<Words>) {
        let mut bytes = b"\r\n  PING\r\n*0\r\n*-1\r\n".to_vec();
        let mut expected = vec![vec![b"PING".to_vec()]];
        for length in [0, 1, 9, 10, 11, 1280, 1407] {
            let value = vec![b'\n'; length];
            bytes.extend(array(&[b"SET", b"7", &value]));
            expected.push(vec![b"SET".to_vec(), b"7".to_vec(), value]);
        }
        bytes.extend_from_slice(b"set 'a b' \"\\x00\\n\"\n");
        expected.push(vec![b"set".to_vec(), b"a b".to_vec(), b"\0\n".to_vec()]);
        (bytes, expected)
    }

    #[test]
    fn a_stream_split_at_every_byte_reads_the_same() {
        let (bytes, expected) = stream();
        assert_eq!(decode(&[&bytes]), (expected.clone(), None));
        for split in 0..bytes.len() {
            let (left, right) = bytes.split_at(split);
            assert_eq!(decode(&[left, right]), (expected.clone(), None), "split at {split}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(decode(&single), (expected, None));
    }

    #[test]
    fn every_value_length_around_the_edges_comes_back() {
        for length in (0..40).chain(1270..1420) {
            let value: Vec<u8> = (0..length).map(|at: u32| at.to_le_bytes()[0]).collect();
            let bytes = array(&[b"SET", b"1", &value]);
            assert_eq!(decode(&[&bytes]).0, [vec![b"SET".to_vec(), b"1".to_vec(), value]]);
        }
    }

    #[test]
    fn lengths_beyond_the_bounds_are_refused_at_once() {
        assert_eq!(error(b"*1\r\n$2147483648\r\n"), Some(ProtocolError::BulkLength));
        assert_eq!(error(b"*1\r\n$-1\r\n"), Some(ProtocolError::BulkLength));
        assert_eq!(error(b"*1\r\n$1048577\r\n"), Some(ProtocolError::BulkLength));
        assert_eq!(error(b"*1\r\n$1048576\r\n"), None);
        assert_eq!(error(b"*8194\r\n"), Some(ProtocolError::ArrayLength));
        assert_eq!(error(b"*8193\r\n"), None);
        assert_eq!(error(b"*2147483648\r\n"), Some(ProtocolError::ArrayLength));
        assert_eq!(error(b"*99999999999999999999\r\n"), Some(ProtocolError::ArrayLength));
        assert_eq!(error(b"*x\r\n"), Some(ProtocolError::ArrayLength));
        assert_eq!(error(b"*1\n"), Some(ProtocolError::ArrayLength));
        assert_eq!(error(&[b'*', b'0'].repeat(17)), Some(ProtocolError::LengthLine));
        assert_eq!(error(&vec![b'a'; INLINE_BYTES_MAX]), Some(ProtocolError::InlineLength));
        assert_eq!(error(&vec![b'a'; INLINE_BYTES_MAX - 1]), None);
    }

    #[test]
    fn a_request_as_a_whole_is_bounded() {
        let value = vec![b'v'; BULK_BYTES_MAX];
        let values = [value.as_slice(); 9];
        assert_eq!(error(&array(&values)), Some(ProtocolError::RequestLength));
        assert_eq!(error(&array(&values[..7])), None);
    }

    #[test]
    fn malformed_arrays_say_what_was_expected() {
        assert_eq!(error(b"*1\r\n:1\r\n"), Some(ProtocolError::NotBulk(b':')));
        assert_eq!(error(b"*1\r\n$1\r\nabc"), Some(ProtocolError::BulkEnd));
        assert_eq!(ProtocolError::NotBulk(b'\n').to_string(), "expected '$', got '\\n'");
    }

    #[test]
    fn quotes_are_those_of_redis_cli() {
        let (requests, error_found) = decode(&[b"a \"b\\\"c\" 'd\\'e' \"\\x41\\q\" f\"g h\"\n"]);
        let words: &[&[u8]] = &[b"a", b"b\"c", b"d'e", b"Aq", b"fg h"];
        assert_eq!(requests, [words.iter().map(|word| word.to_vec()).collect::<Words>()]);
        assert_eq!(error_found, None);
        assert_eq!(error(b"a \"b\n"), Some(ProtocolError::Quotes));
        assert_eq!(error(b"a 'b\n"), Some(ProtocolError::Quotes));
        assert_eq!(error(b"\"a\"b\n"), Some(ProtocolError::Quotes));
    }

    #[test]
    fn integers_are_canonical() {
        assert_eq!(parse_integer(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(parse_integer(b"9223372036854775807"), Some(i64::MAX));
        assert_eq!(parse_integer(b"0"), Some(0));
        let bad: &[&[u8]] =
            &[b"", b"-", b"-0", b"01", b"+1", b" 1", b"1.0", b"9223372036854775808"];
        for text in bad {
            assert_eq!(parse_integer(text), None, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn garbage_never_panics_and_is_the_same_in_pieces() {
        let alphabet = b"*$\r\n0123-\"' \\xaG\0\xff";
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap() % below
        };
        for _ in 0..100_000 {
            let length = next(48);
            let mut bytes: Vec<u8> = (0..length).map(|_| alphabet[next(alphabet.len())]).collect();
            if next(2) == 0 {
                bytes.splice(0..0, *b"*2\r\n$1\r\n");
            }
            let whole = decode(&[&bytes]);
            let (left, right) = bytes.split_at(next(bytes.len() + 1));
            assert_eq!(decode(&[left, right]), whole, "{}", bytes.escape_ascii());
        }
    }
}
