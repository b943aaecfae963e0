//! Decodes the bytes of a RESP client into requests: arrays of bulk strings, and inline lines.
//! Pure.
//!
//! Called by the session with its read buffer; calls `inline`.
//!
//! Invariants:
//! - I1: no memory is taken for a length that a client announced; the buffer grows with the bytes
//!   that arrive.
//! - I2: the parsed part of an unfinished request is not parsed again when more bytes arrive.
//! - I3: the values of an array are never copied: a request holds its part of the buffer.
//! - I4: a request over a limit is skipped by its announced lengths: its bytes are dropped as they
//!   arrive, and the caller gets only its name and the limit.

#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;

use super::inline::{split_inline, take_line};
use crate::command::{COMMAND_BYTES_MAX, OPERATION_COUNT_MAX};

/// Most arguments of one request: an MSET of as many pairs as a command holds, and its name.
pub(crate) const ARGUMENT_COUNT_MAX: usize = 2 * OPERATION_COUNT_MAX + 1;
/// Most bytes of one request.
pub(crate) const REQUEST_BYTES_MAX: usize = COMMAND_BYTES_MAX;
/// Most arguments of a request of a client that has no token yet: as many as HELLO takes, and more.
const STRANGER_ARGUMENT_COUNT_MAX: usize = 16;
/// Most bytes of such a request.
const STRANGER_REQUEST_BYTES_MAX: usize = 16 << 10;
/// Most arguments of a request that is passed over: Redis' own limit of old.
const PASSED_ARGUMENT_COUNT_MAX: usize = 1 << 20;
/// Most bytes of an argument that is passed over: Redis' own limit.
const PASSED_ARGUMENT_BYTES_MAX: usize = 512 << 20;
/// Most bytes of a request that is passed over.
const PASSED_REQUEST_BYTES_MAX: usize = 1 << 30;
/// Longest first argument of a request that is passed over which is kept: the name of a command.
const PASSED_NAME_BYTES_MAX: usize = 16;
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
    /// The request as a whole is too long even to be passed over.
    #[error("request of more than {PASSED_REQUEST_BYTES_MAX} bytes")]
    RequestLength,
    /// An inline line has no end.
    #[error("too big inline request")]
    InlineLength,
    /// A quote of an inline line is not closed, or not followed by a space.
    #[error("unbalanced quotes in request")]
    Quotes,
}

/// The limit that a request is over. What is left of such a request is its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Excess {
    /// It has so many arguments.
    #[error(
        "the request has {0} arguments; at most {ARGUMENT_COUNT_MAX} arguments are taken, a command \
         and {OPERATION_COUNT_MAX} keys with their values"
    )]
    Arguments(usize),
    /// Its arguments and their lengths take more bytes than a request may.
    #[error("the request is too long; at most {0} bytes are taken")]
    Bytes(usize),
}

/// One request: at least one argument, the first its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    bytes: Bytes,
    ranges: Ranges,
    excess: Option<Excess>,
}

/// Where the arguments of a request are in its bytes.
pub(super) type Ranges = SmallVec<[Range<usize>; 4]>;

impl Request {
    /// The arguments, the name first.
    pub(crate) fn arguments(&self) -> SmallVec<[&[u8]; 4]> {
        self.ranges.iter().filter_map(|range| self.bytes.get(range.clone())).collect()
    }

    /// How many bytes it holds.
    pub(crate) fn byte_count(&self) -> usize {
        self.bytes.len()
    }

    /// The same in memory of its own, to be kept when the buffer that it came in is not.
    pub(crate) fn detached(&self) -> Request {
        Request { bytes: Bytes::copy_from_slice(&self.bytes), ..self.clone() }
    }

    /// The limit that it is over, if it is; of its arguments there is only the name then, and not
    /// even that if it is longer than the name of any command.
    pub(crate) fn excess(&self) -> Option<Excess> {
        self.excess
    }
}

/// A request over a limit that is being passed over (I4).
#[derive(Debug)]
struct Passing {
    excess: Excess,
    /// Its first argument; `None` until that has come, or if it is too long for a name.
    name: Option<Bytes>,
    /// Whether its first argument is behind.
    has_begun: bool,
    /// Bytes that are dropped.
    dropped_bytes: usize,
    /// Bytes that are still to come of the present argument, its line end included.
    argument_rest: usize,
}

/// Reads requests off the front of a connection's buffer.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// Whether the client has no token yet, so that little is kept of what it sends.
    is_strangers: bool,
    /// Most bytes of a request.
    bytes_max: usize,
    /// Bytes of the unfinished request that are parsed.
    position: usize,
    /// Arguments that are still to come; `None` between requests.
    remaining: Option<usize>,
    ranges: Ranges,
    passing: Option<Passing>,
}

impl Default for Decoder {
    fn default() -> Decoder {
        let (ranges, passing) = (Ranges::default(), None);
        let bytes_max = REQUEST_BYTES_MAX;
        Decoder { is_strangers: false, bytes_max, position: 0, remaining: None, ranges, passing }
    }
}

impl Decoder {
    /// One that takes requests of so many bytes.
    pub(crate) fn taking(bytes_max: usize) -> Decoder {
        Decoder { bytes_max, ..Decoder::default() }
    }

    /// From the next request on: whether the client has no token yet. Its requests are passed over (I4) if
    /// they are longer than any that it may make.
    pub(crate) fn of_stranger(&mut self, is_strangers: bool) {
        self.is_strangers = is_strangers;
    }

    fn argument_count_max(&self) -> usize {
        if self.is_strangers { STRANGER_ARGUMENT_COUNT_MAX } else { ARGUMENT_COUNT_MAX }
    }

    fn request_bytes_max(&self) -> usize {
        if self.is_strangers { STRANGER_REQUEST_BYTES_MAX } else { self.bytes_max }
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
                        let (bytes, ranges) = split_inline(&line)?;
                        if !ranges.is_empty() {
                            return Ok(Some(Request { bytes, ranges, excess: None }));
                        }
                    }
                },
            }
        }
        while self.passing.is_none() && self.remaining.is_some_and(|count| count > 0) {
            if !self.take_bulk(input)? {
                return Ok(None);
            }
        }
        if let Some(passing) = &mut self.passing {
            if !passing.pass(&mut self.remaining, input)? {
                return Ok(None);
            }
            let (excess, name) = (Some(passing.excess), passing.name.take().unwrap_or_default());
            (self.remaining, self.passing) = (None, None);
            let ranges = std::iter::once(0..name.len()).collect();
            return Ok(Some(Request { bytes: name, ranges, excess }));
        }
        self.remaining = None;
        let bytes = input.split_to(std::mem::take(&mut self.position)).freeze();
        Ok(Some(Request { bytes, ranges: std::mem::take(&mut self.ranges), excess: None }))
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
        if count > PASSED_ARGUMENT_COUNT_MAX {
            return Err(ProtocolError::ArrayLength);
        }
        if count == 0 {
            input.advance(end);
            return Ok(true);
        }
        self.position = end;
        self.remaining = Some(count);
        if count > self.argument_count_max() {
            self.begin_passing(Excess::Arguments(count), input);
        }
        Ok(true)
    }

    /// Parses one `$<length>` and what follows it; false if it is not whole yet.
    fn take_bulk(&mut self, input: &mut BytesMut) -> Result<bool, ProtocolError> {
        let Some((length, start)) = bulk_length(input, self.position)? else { return Ok(false) };
        let end = start + length;
        if end > self.request_bytes_max() {
            self.begin_passing(Excess::Bytes(self.request_bytes_max()), input);
            return Ok(true);
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

    /// Drops what was read of the present request, and will drop what comes of it (I4).
    fn begin_passing(&mut self, excess: Excess, input: &mut BytesMut) {
        let first = std::mem::take(&mut self.ranges).into_iter().next();
        let first = first.and_then(|range| input.get(range));
        let (has_begun, name) = (first.is_some(), first.and_then(passed_name));
        let dropped_bytes = std::mem::take(&mut self.position);
        input.advance(dropped_bytes);
        self.passing = Some(Passing { excess, name, has_begun, dropped_bytes, argument_rest: 0 });
    }
}

impl Passing {
    /// Drops what has come of the request; false if more of it is to come.
    fn pass(
        &mut self,
        remaining: &mut Option<usize>,
        input: &mut BytesMut,
    ) -> Result<bool, ProtocolError> {
        loop {
            let come = self.argument_rest.min(input.len());
            self.drop_bytes(come, input)?;
            self.argument_rest -= come;
            if self.argument_rest > 0 {
                return Ok(false);
            }
            let Some(left) = remaining.and_then(|count| count.checked_sub(1)) else {
                return Ok(true);
            };
            let Some((length, start)) = bulk_length(input, 0)? else { return Ok(false) };
            if !self.has_begun && length <= PASSED_NAME_BYTES_MAX {
                let Some(name) = input.get(start..start + length) else { return Ok(false) };
                self.name = passed_name(name);
            }
            self.has_begun = true;
            *remaining = Some(left);
            self.argument_rest = length + 2;
            self.drop_bytes(start, input)?;
        }
    }

    fn drop_bytes(&mut self, count: usize, input: &mut BytesMut) -> Result<(), ProtocolError> {
        input.advance(count);
        self.dropped_bytes = self.dropped_bytes.saturating_add(count);
        let within = self.dropped_bytes <= PASSED_REQUEST_BYTES_MAX;
        if within { Ok(()) } else { Err(ProtocolError::RequestLength) }
    }
}

/// What is kept of the first argument of a request that is passed over.
fn passed_name(name: &[u8]) -> Option<Bytes> {
    (name.len() <= PASSED_NAME_BYTES_MAX).then(|| Bytes::copy_from_slice(name))
}

/// The length of the argument that begins at `position`, and where its bytes begin; `None` if the
/// line that says so is not whole yet.
fn bulk_length(input: &[u8], position: usize) -> Result<Option<(usize, usize)>, ProtocolError> {
    match input.get(position) {
        None => return Ok(None),
        Some(b'$') => {}
        Some(other) => return Err(ProtocolError::NotBulk(*other)),
    }
    let line = parse_length(input, position + 1).map_err(|()| ProtocolError::LengthLine)?;
    let Some((length, start)) = line else { return Ok(None) };
    let length = length.and_then(|length| usize::try_from(length).ok());
    let length = length.filter(|length| *length <= PASSED_ARGUMENT_BYTES_MAX);
    Ok(Some((length.ok_or(ProtocolError::BulkLength)?, start)))
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

/// The requests in bytes that come in pieces of at most so many, and why what follows cannot be read.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzzed(input: &[u8], piece_bytes_max: usize) -> Vec<Result<Request, ProtocolError>> {
    let (mut decoder, mut buffer, mut found) = (Decoder::default(), BytesMut::new(), Vec::new());
    for piece in input.chunks(piece_bytes_max.clamp(1, input.len().max(1))) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.next(&mut buffer) {
                Ok(None) => break,
                Ok(Some(request)) => {
                    assert!(!request.arguments().is_empty() || request.excess().is_some());
                    found.push(Ok(request.detached()));
                }
                Err(error) => {
                    found.push(Err(error));
                    return found;
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::inline::INLINE_BYTES_MAX;
    use super::*;

    type Words = Vec<Vec<u8>>;

    /// Feeds `pieces` one after the other; what was read, and the error that ended it.
    fn decode(pieces: &[&[u8]]) -> (Vec<Words>, Option<ProtocolError>) {
        let mut decoder = Decoder::default();
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
    fn little_is_kept_of_a_client_without_a_token() {
        let mut decoder = Decoder::default();
        decoder.of_stranger(true);
        let mut input = BytesMut::from(&b"*2\r\n$3\r\nGET\r\n$20000\r\n"[..]);
        for _ in 0..20_000 {
            assert_eq!(decoder.next(&mut input), Ok(None));
            assert!(input.is_empty(), "it is kept: {}", input.len());
            input.extend_from_slice(b"x");
        }
        input.extend_from_slice(b"\r\n*17\r\n");
        let request = decoder.next(&mut input).unwrap().unwrap();
        assert_eq!(
            (&request.arguments()[..], request.excess()),
            (&[&b"GET"[..]][..], Some(Excess::Bytes(STRANGER_REQUEST_BYTES_MAX)))
        );
        input.extend_from_slice(&b"$1\r\nx\r\n".repeat(17));
        let request = decoder.next(&mut input).unwrap().unwrap();
        assert_eq!(request.excess(), Some(Excess::Arguments(17)));
        decoder.of_stranger(false);
        input.extend_from_slice(&array(&[&b"x"[..]; 17]));
        assert_eq!(decoder.next(&mut input).unwrap().unwrap().excess(), None);
    }

    #[test]
    fn lengths_beyond_the_bounds_are_refused_at_once() {
        assert_eq!(error(b"*1\r\n$2147483648\r\n"), Some(ProtocolError::BulkLength));
        assert_eq!(error(b"*1\r\n$-1\r\n"), Some(ProtocolError::BulkLength));
        assert_eq!(error(b"*1\r\n$536870913\r\n"), Some(ProtocolError::BulkLength));
        assert_eq!(error(b"*1\r\n$536870912\r\n"), None);
        assert_eq!(error(b"*1048577\r\n"), Some(ProtocolError::ArrayLength));
        assert_eq!(error(b"*1048576\r\n"), None);
        assert_eq!(error(b"*2147483648\r\n"), Some(ProtocolError::ArrayLength));
        assert_eq!(error(b"*99999999999999999999\r\n"), Some(ProtocolError::ArrayLength));
        assert_eq!(error(b"*x\r\n"), Some(ProtocolError::ArrayLength));
        assert_eq!(error(b"*1\n"), Some(ProtocolError::ArrayLength));
        assert_eq!(error(&[b'*', b'0'].repeat(17)), Some(ProtocolError::LengthLine));
        assert_eq!(error(&vec![b'a'; INLINE_BYTES_MAX]), Some(ProtocolError::InlineLength));
        assert_eq!(error(&vec![b'a'; INLINE_BYTES_MAX - 1]), None);
    }

    /// The name and the limit of every request that comes of `bytes`, fed in pieces of `piece`
    /// bytes; and most bytes that were held of it at once.
    fn passed(bytes: &[u8], piece: usize) -> (Vec<(Words, Option<Excess>)>, usize) {
        let (mut decoder, mut input) = (Decoder::default(), BytesMut::new());
        let (mut found, mut held) = (Vec::new(), 0);
        for piece in bytes.chunks(piece) {
            input.extend_from_slice(piece);
            held = held.max(input.len());
            while let Some(request) = decoder.next(&mut input).unwrap() {
                let words = request.arguments().into_iter().map(<[u8]>::to_vec).collect();
                found.push((words, request.excess()));
            }
        }
        (found, held)
    }

    #[test]
    fn a_request_over_a_limit_is_passed_over_and_not_kept() {
        let mebibyte = vec![b'v'; 1 << 20];
        let long = vec![b'v'; REQUEST_BYTES_MAX];
        let most = vec![b"w".as_slice(); ARGUMENT_COUNT_MAX + 1];
        let named = |name, rest: &[&'static [u8]]| array(&[&[name], rest].concat());
        let cases = [
            (array(&most), b"w".to_vec(), Excess::Arguments(ARGUMENT_COUNT_MAX + 1)),
            (named(b"MSET", &most), b"MSET".to_vec(), Excess::Arguments(ARGUMENT_COUNT_MAX + 2)),
            (
                array(&[b"MGET", &mebibyte, &mebibyte, &long]),
                b"MGET".to_vec(),
                Excess::Bytes(REQUEST_BYTES_MAX),
            ),
            (array(&[&long, b"SET"]), Vec::new(), Excess::Bytes(REQUEST_BYTES_MAX)),
            (
                array(&[[b"SET".as_slice()].as_slice(), &[mebibyte.as_slice(); 8]].concat()),
                b"SET".to_vec(),
                Excess::Bytes(REQUEST_BYTES_MAX),
            ),
        ];
        for (bytes, name, excess) in cases {
            let ping = (vec![b"PING".to_vec()], None);
            let expected = vec![ping.clone(), (vec![name], Some(excess)), ping];
            let bytes = [b"PING\r\n", bytes.as_slice(), b"PING\r\n"].concat();
            for piece in [7, 64 << 10] {
                let (found, held) = passed(&bytes, piece);
                assert!(found == expected, "{excess:?} in pieces of {piece}");
                assert!(held <= REQUEST_BYTES_MAX + piece, "{held} bytes held of {excess:?}");
            }
        }
        let (all, _) = passed(&array(&vec![b"w".as_slice(); ARGUMENT_COUNT_MAX]), 7);
        assert_eq!((all.len(), all[0].0.len(), all[0].1), (1, ARGUMENT_COUNT_MAX, None));
    }

    #[test]
    fn what_is_passed_over_is_bounded_too() {
        let (mut decoder, mut input) = (Decoder::default(), BytesMut::new());
        let piece = vec![b'v'; 1 << 20];
        input.extend_from_slice(b"*4\r\n");
        let mut passed_bytes = 0;
        let error = loop {
            if passed_bytes % PASSED_ARGUMENT_BYTES_MAX == 0 {
                let header = format!(
                    "{}${PASSED_ARGUMENT_BYTES_MAX}\r\n",
                    if passed_bytes > 0 { "\r\n" } else { "" }
                );
                input.extend_from_slice(header.as_bytes());
            }
            input.extend_from_slice(&piece);
            passed_bytes += piece.len();
            match decoder.next(&mut input) {
                Ok(found) => assert_eq!(found, None),
                Err(error) => break error,
            }
            assert!(input.len() <= 2 * piece.len(), "{} bytes are kept", input.len());
        };
        assert_eq!(error, ProtocolError::RequestLength);
        assert!(passed_bytes <= PASSED_REQUEST_BYTES_MAX + piece.len());
    }

    #[test]
    fn malformed_arrays_say_what_was_expected() {
        assert_eq!(error(b"*1\r\n:1\r\n"), Some(ProtocolError::NotBulk(b':')));
        assert_eq!(error(b"*1\r\n$1\r\nabc"), Some(ProtocolError::BulkEnd));
        assert_eq!(ProtocolError::NotBulk(b'\n').to_string(), "expected '$', got '\\n'");
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
