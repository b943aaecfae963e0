//! Inline requests: a line of words, as people type them. Pure.
//!
//! Called by the decoder; calls nothing.

#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use bytes::{Bytes, BytesMut};

use super::decode::{ARGUMENT_COUNT_MAX, ProtocolError, Ranges};

/// Most bytes of an inline line, its end included.
pub(super) const INLINE_BYTES_MAX: usize = 64 << 10;

/// Takes one inline line off `input`, its end dropped; `None` if it is not whole.
pub(super) fn take_line(input: &mut BytesMut) -> Result<Option<BytesMut>, ProtocolError> {
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

/// Splits an inline line at its spaces, into bytes and where its words are in them; quotes and
/// escapes are those of redis-cli.
pub(super) fn split_inline(line: &[u8]) -> Result<(Bytes, Ranges), ProtocolError> {
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
    Ok((bytes.into(), ranges))
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

    fn words(line: &[u8]) -> Result<Vec<Vec<u8>>, ProtocolError> {
        let (bytes, ranges) = split_inline(line)?;
        Ok(ranges.into_iter().map(|range| bytes[range].to_vec()).collect())
    }

    #[test]
    fn quotes_are_those_of_redis_cli() {
        let found = words(b"a \"b\\\"c\" 'd\\'e' \"\\x41\\q\" f\"g h\"").unwrap();
        let expected: &[&[u8]] = &[b"a", b"b\"c", b"d'e", b"Aq", b"fg h"];
        assert_eq!(found, expected);
        for line in [&b"a \"b"[..], b"a 'b", b"\"a\"b"] {
            assert_eq!(words(line), Err(ProtocolError::Quotes), "{}", line.escape_ascii());
        }
    }
}
