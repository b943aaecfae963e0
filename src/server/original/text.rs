//! The ad-hoc text form: one command a line, `[udpport-]get-K`, `[udpport-]set-K-V` and
//! `[udpport-]delete-K`, the operation in any case. Pure.
//!
//! Called by the dialect with its read buffer. A line ends with LF or CR LF, so a value can contain
//! neither.

#![deny(clippy::indexing_slicing)]

use bytes::BytesMut;

use super::super::keys::{Keys, decimal};
use super::{REQUEST_SPARE_BYTES, Request, Unreadable, Verb};

/// Takes the next line off `input`; `None` if it is not there as a whole.
///
/// # Errors
/// [`Unreadable`] for a line without an end.
pub(super) fn take(input: &mut BytesMut, keys: &Keys) -> Result<Option<Request>, Unreadable> {
    let value_bytes_max = usize::try_from(keys.value_bytes_max()).unwrap_or(usize::MAX);
    let line_bytes_max = value_bytes_max.saturating_add(REQUEST_SPARE_BYTES);
    loop {
        let window = input.get(..line_bytes_max).unwrap_or(input);
        let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
            if input.len() >= line_bytes_max {
                return Err(Unreadable("the line is too long"));
            }
            return Ok(None);
        };
        let line = input.split_to(end + 1);
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !line.is_empty() {
            return Ok(Some(parse(line, keys)));
        }
    }
}

fn parse(line: &[u8], keys: &Keys) -> Request {
    const FORM: &str = "expected [port-]get-K, [port-]set-K-V or [port-]delete-K";
    let Some((head, behind)) = split_dash(line) else { return Request::refused(FORM) };
    let (udp_port, word, rest) = if head.iter().all(u8::is_ascii_digit) {
        let port = decimal(head).and_then(|port| u16::try_from(port).ok());
        let Some(port) = port.filter(|port| *port > 0) else {
            return Request::refused("the UDP port must be a number 1..65535");
        };
        let Some((word, rest)) = split_dash(behind) else { return Request::refused(FORM) };
        (Some(port), word, rest)
    } else {
        (None, head, behind)
    };
    match word.to_ascii_lowercase().as_slice() {
        b"get" => Request::new(udp_port, Verb::Get, rest, b"", keys),
        b"delete" => Request::new(udp_port, Verb::Delete, rest, b"", keys),
        b"set" => match split_dash(rest) {
            Some((key, value)) => Request::new(udp_port, Verb::Set, key, value, keys),
            None => Request { udp_port, ..Request::refused(FORM) },
        },
        _ => Request { udp_port, ..Request::refused(FORM) },
    }
}

/// What stands before the first dash, and what behind it.
fn split_dash(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let position = text.iter().position(|byte| *byte == b'-')?;
    let (head, rest) = text.split_at(position);
    Some((head, rest.strip_prefix(b"-").unwrap_or(rest)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::command;
    use super::*;
    use crate::command::{Action, Answer, Condition, Operation, slot_key};

    fn keys() -> Keys {
        Keys::new(100, 1500, &[])
    }

    /// Feeds `pieces` one after the other; what was read, and the error that ended it.
    fn taken(pieces: &[&[u8]]) -> (Vec<Request>, Option<Unreadable>) {
        let mut input = BytesMut::new();
        let mut requests = Vec::new();
        for piece in pieces {
            input.extend_from_slice(piece);
            loop {
                match take(&mut input, &keys()) {
                    Ok(None) => break,
                    Ok(Some(request)) => requests.push(request),
                    Err(error) => return (requests, Some(error)),
                }
            }
        }
        (requests, None)
    }

    fn one(line: &str) -> Request {
        taken(&[line.as_bytes(), b"\n"]).0.remove(0)
    }

    fn reason(line: &str) -> String {
        one(line).work.unwrap_err().text.into_owned()
    }

    #[test]
    fn each_form_is_understood_in_any_case() {
        let set = one("15000-SET-7-a-b-");
        assert_eq!(set.udp_port, Some(15000));
        let found = command(set);
        let value = b"a-b-".as_slice();
        let action = Action::Set { value, condition: Condition::Always, answer: Answer::Status };
        let operation = Operation { key: &slot_key(7), action };
        assert_eq!(found.operations().next(), Some(operation));
        assert_eq!(command(one("get-007")).to_string(), "get 7");
        assert_eq!(one("get-7").udp_port, None);
        assert_eq!(command(one("Delete-7\r")).to_string(), "delete 7");
        assert_eq!(command(one("set-7-")).to_string(), "set 7 (0 bytes)");
    }

    #[test]
    fn half_commands_are_told_what_was_expected() {
        for line in ["get", "15000-get", "set-7", "15000-set-7", "put-7", "15000-put-7"] {
            assert!(reason(line).starts_with("expected "), "{line}");
        }
        assert_eq!(reason("get-"), "key must be a slot number 0..99");
        assert_eq!(reason("get-7-8"), "key must be a slot number 0..99");
        assert_eq!(reason("0-get-7"), "the UDP port must be a number 1..65535");
        assert_eq!(reason("65536-get-7"), "the UDP port must be a number 1..65535");
    }

    #[test]
    fn a_stream_split_at_every_byte_reads_the_same() {
        let mut bytes = b"\nget-1\r\n9-set-2-".to_vec();
        bytes.extend(vec![b'v'; 1407]);
        bytes.extend_from_slice(b"\ndelete-3\nnonsense\n");
        let whole = taken(&[&bytes]);
        assert_eq!(whole.0.len(), 4);
        for split in 0..bytes.len() {
            let (left, right) = bytes.split_at(split);
            assert_eq!(taken(&[left, right]), whole, "split at {split}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_given_up() {
        let long = vec![b'a'; 1500 + REQUEST_SPARE_BYTES];
        assert_eq!(taken(&[&long]).1, Some(Unreadable("the line is too long")));
    }

    #[test]
    fn garbage_never_panics() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap() % below
        };
        let alphabet = b"get-SETdel019\r\n\0\xff";
        for _ in 0..100_000 {
            let bytes: Vec<u8> = (0..next(40)).map(|_| alphabet[next(alphabet.len())]).collect();
            let (left, right) = bytes.split_at(next(bytes.len() + 1));
            assert_eq!(taken(&[left, right]), taken(&[&bytes]), "{}", bytes.escape_ascii());
        }
    }
}
