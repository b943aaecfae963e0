//! Loads whose writes are other commands than `SET`, for servers that speak as Redis does.

use std::io::Write as _;

use diskstore::load::{Codec, CodecStep, Foreign, Operation, Resp, Values};

use crate::drive::{KEYS, VALUE_BYTES};
use crate::rows::MANY_KEYS;

/// Counts at the first key that no load but the long ones, which come later, gives a value.
const INCR: &[u8] = b"*2\r\n$4\r\nINCR\r\n$6\r\n100000\r\n";

/// A connection all of whose writes are one command.
#[derive(Debug)]
pub(crate) enum Command {
    /// `INCR` of the same key, whatever key was asked for.
    Increment,
    /// `MSET` of the key that was asked for and of others.
    SetMany {
        /// What makes values.
        values: Values,
        /// How many were made.
        count: u64,
    },
}

impl Command {
    /// A connection for `MSET`.
    pub(crate) fn set_many() -> Command {
        Command::SetMany { values: Values::new(VALUE_BYTES), count: 0 }
    }
}

impl Codec for Command {
    fn request(&mut self, operation: &Operation<'_>, output: &mut Vec<u8>) {
        match (self, operation) {
            (_, Operation::Read { .. }) => Resp.request(operation, output),
            (Command::Increment, Operation::Write { .. }) => output.extend_from_slice(INCR),
            (Command::SetMany { values, count }, Operation::Write { key: first, .. }) => {
                let words = 1 + 2 * MANY_KEYS;
                write!(output, "*{words}\r\n$4\r\nMSET\r\n").unwrap_or_default();
                for nth in 0..MANY_KEYS {
                    // Far from each other: neighbours would share pages of a data file.
                    let key = (first + nth * (KEYS / MANY_KEYS)) % KEYS;
                    let digits = key.to_string();
                    write!(output, "${}\r\n{digits}\r\n${VALUE_BYTES}\r\n", digits.len())
                        .unwrap_or_default();
                    values.value(key, *count, VALUE_BYTES).append_to(output);
                    output.extend_from_slice(b"\r\n");
                    *count += 1;
                }
            }
        }
    }

    fn next<'a>(
        &mut self,
        input: &'a [u8],
        output: &mut Vec<u8>,
    ) -> Result<CodecStep<'a>, Foreign> {
        Resp.next(input, output)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use diskstore::load::CodecReply;

    use super::*;

    fn request(mut command: Command, key: u64) -> Vec<u8> {
        let (values, mut output) = (Values::new(1), Vec::new());
        let value = values.value(key, 0, 1);
        command.request(&Operation::Write { key, value }, &mut output);
        output
    }

    #[test]
    fn a_key_that_holds_no_value_is_counted() {
        let digits = KEYS.to_string();
        let expected = format!("*2\r\n$4\r\nINCR\r\n${}\r\n{digits}\r\n", digits.len());
        for key in [0, 7, KEYS - 1] {
            assert_eq!(request(Command::Increment, key), expected.as_bytes());
        }
    }

    #[test]
    fn many_keys_are_set_at_once_to_values_that_a_read_takes() {
        for first in [7, KEYS - 1] {
            let bytes = request(Command::set_many(), first);
            let mut rest = bytes.strip_prefix(b"*33\r\n$4\r\nMSET\r\n").unwrap();
            // Keys and values look as the values of replies do.
            let mut take = || {
                let step = Resp.next(rest, &mut Vec::new());
                let Ok(CodecStep::Reply(count, CodecReply::Value(word))) = step else {
                    panic!("{step:?}");
                };
                rest = &rest[count..];
                word
            };
            let mut keys = BTreeSet::new();
            for _ in 0..MANY_KEYS {
                let key: u64 = std::str::from_utf8(take()).unwrap().parse().unwrap();
                assert!(Values::new(VALUE_BYTES).is_whole(key, take()));
                keys.insert(key);
            }
            assert!(rest.is_empty() && keys.contains(&first) && keys.last() < Some(&KEYS));
            assert_eq!(keys.len() as u64, MANY_KEYS);
        }
    }
}
