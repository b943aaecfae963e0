//! Encodes replies in RESP2 or RESP3. Pure.

#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use bytes::{BufMut, BytesMut};

use crate::command::FailureClass;
use crate::server::complaint::Complaint;
use crate::server::value::Value;

/// The version of the protocol that a connection has agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Version {
    /// RESP2, until HELLO says otherwise.
    #[default]
    Two,
    /// RESP3: maps, nulls and verbatim text.
    Three,
}

impl Version {
    /// Its number, as HELLO has it.
    pub(crate) fn number(self) -> u8 {
        match self {
            Version::Two => 2,
            Version::Three => 3,
        }
    }
}

/// The code of a failure, as Redis' clients know it.
///
/// The codes that client libraries retry by themselves (`CLUSTERDOWN`) stand only where nothing
/// was proposed.
pub(crate) fn code_of(class: FailureClass) -> &'static str {
    match class {
        FailureClass::Wrong
        | FailureClass::TooLarge
        | FailureClass::Refused
        | FailureClass::Fault => "ERR",
        FailureClass::NoToken => "NOAUTH",
        FailureClass::Unauthenticated => "WRONGPASS",
        FailureClass::Forbidden => "NOPERM",
        FailureClass::ProtocolVersion => "NOPROTO",
        FailureClass::Aborted => "EXECABORT",
        FailureClass::OtherRequest => "OTHER_REQUEST",
        FailureClass::Unavailable => "CLUSTERDOWN",
        FailureClass::NotLeader => "NOT_LEADER",
        FailureClass::Busy => "BUSY",
        FailureClass::NoSpace => "NO_SPACE",
        FailureClass::Full => "OOM",
        FailureClass::Unknown => "UNKNOWN",
    }
}

/// A complaint in one line, its code first.
pub(crate) fn code_and_text(complaint: &Complaint) -> String {
    format!("{} {}", code_of(complaint.class), complaint.text)
}

/// Writes replies at the end of one buffer.
#[derive(Debug)]
pub(crate) struct Encoder<'a> {
    out: &'a mut BytesMut,
    version: Version,
}

impl<'a> Encoder<'a> {
    /// Writes to `out` in the given version.
    pub(crate) fn new(out: &'a mut BytesMut, version: Version) -> Encoder<'a> {
        Encoder { out, version }
    }

    /// Bytes of the buffer that is written to.
    pub(crate) fn buffer_bytes(&self) -> usize {
        self.out.len()
    }

    /// A status, such as `OK`. `text` must not hold line ends.
    pub(crate) fn simple(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// An error: its code in capitals first. Line ends in it become spaces.
    pub(crate) fn complaint(&mut self, complaint: &Complaint) {
        self.out.put_u8(b'-');
        self.out.put_slice(code_of(complaint.class).as_bytes());
        self.out.put_u8(b' ');
        for byte in complaint.text.bytes() {
            self.out.put_u8(if byte.is_ascii_control() { b' ' } else { byte });
        }
        self.out.put_slice(b"\r\n");
    }

    /// A number.
    pub(crate) fn integer(&mut self, number: i64) {
        let sign = if number < 0 { b":-".as_slice() } else { b":" };
        self.out.put_slice(sign);
        self.decimal(number.unsigned_abs());
        self.out.put_slice(b"\r\n");
    }

    /// A number that counts something; beyond a signed 64-bit integer it stays at the largest.
    pub(crate) fn count(&mut self, number: u64) {
        self.integer(i64::try_from(number).unwrap_or(i64::MAX));
    }

    /// A string of any bytes.
    pub(crate) fn bulk(&mut self, bytes: &[u8]) {
        self.header(b'$', bytes.len());
        self.out.put_slice(bytes);
        self.out.put_slice(b"\r\n");
    }

    /// Text for people.
    pub(crate) fn verbatim(&mut self, text: &str) {
        match self.version {
            Version::Two => self.bulk(text.as_bytes()),
            Version::Three => {
                self.header(b'=', text.len() + 4);
                self.out.put_slice(b"txt:");
                self.out.put_slice(text.as_bytes());
                self.out.put_slice(b"\r\n");
            }
        }
    }

    /// No value.
    pub(crate) fn null(&mut self) {
        self.out.put_slice(match self.version {
            Version::Two => b"$-1\r\n",
            Version::Three => b"_\r\n",
        });
    }

    /// No array: a transaction that was given up.
    pub(crate) fn null_array(&mut self) {
        self.out.put_slice(match self.version {
            Version::Two => b"*-1\r\n",
            Version::Three => b"_\r\n",
        });
    }

    /// The value, or none.
    pub(crate) fn value(&mut self, value: Option<&[u8]>) {
        match value {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// The header of an array; `count` replies follow.
    pub(crate) fn array(&mut self, count: usize) {
        self.header(b'*', count);
    }

    /// The header of a map; `count` keys, each with its value, follow.
    pub(crate) fn map(&mut self, count: usize) {
        match self.version {
            Version::Two => self.header(b'*', 2 * count),
            Version::Three => self.header(b'%', count),
        }
    }

    /// The header of a set; `count` replies follow.
    pub(crate) fn set(&mut self, count: usize) {
        match self.version {
            Version::Two => self.header(b'*', count),
            Version::Three => self.header(b'~', count),
        }
    }

    /// The header of what comes unasked; `count` replies follow.
    pub(crate) fn push(&mut self, count: usize) {
        match self.version {
            Version::Two => self.header(b'*', count),
            Version::Three => self.header(b'>', count),
        }
    }

    /// Bytes that are encoded already.
    pub(crate) fn encoded(&mut self, bytes: &[u8]) {
        self.out.put_slice(bytes);
    }

    /// An answer in full.
    pub(crate) fn answer(&mut self, answer: &Value) {
        match answer {
            Value::Null => self.null(),
            Value::NoArray => self.null_array(),
            Value::Status(word) => self.simple(word),
            Value::Integer(number) => self.integer(*number),
            Value::Bytes(bytes) => self.bulk(bytes),
            Value::Text(text) => self.verbatim(text),
            Value::Array(answers) => {
                self.array(answers.len());
                for answer in answers {
                    self.answer(answer);
                }
            }
            Value::Set(answers) => {
                self.set(answers.len());
                for answer in answers {
                    self.answer(answer);
                }
            }
            Value::Push(answers) => {
                self.push(answers.len());
                for answer in answers {
                    self.answer(answer);
                }
            }
            Value::Several(answers) => {
                for answer in answers {
                    self.answer(answer);
                }
            }
            Value::Map(pairs) => {
                self.map(pairs.len());
                for (name, answer) in pairs {
                    self.bulk(name.as_bytes());
                    self.answer(answer);
                }
            }
            Value::Complaint(complaint) => self.complaint(complaint),
        }
    }

    fn header(&mut self, kind: u8, count: usize) {
        self.out.put_u8(kind);
        self.decimal(u64::try_from(count).unwrap_or(u64::MAX));
        self.out.put_slice(b"\r\n");
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.put_u8(kind);
        self.out.put_slice(text);
        self.out.put_slice(b"\r\n");
    }

    fn decimal(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut count = 0;
        for place in digits.iter_mut().rev() {
            *place = b'0' + u8::try_from(number % 10).unwrap_or(0);
            number /= 10;
            count += 1;
            if number == 0 {
                break;
            }
        }
        self.out.put_slice(digits.get(digits.len() - count..).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(version: Version, write: impl Fn(&mut Encoder<'_>)) -> String {
        let mut out = BytesMut::new();
        write(&mut Encoder::new(&mut out, version));
        String::from_utf8(out.to_vec()).unwrap()
    }

    fn both(write: impl Fn(&mut Encoder<'_>)) -> (String, String) {
        (encoded(Version::Two, &write), encoded(Version::Three, &write))
    }

    fn pair(two: &str, three: &str) -> (String, String) {
        (two.to_owned(), three.to_owned())
    }

    #[test]
    fn each_shape_has_its_form_in_both_versions() {
        assert_eq!(both(|to| to.simple("OK")), pair("+OK\r\n", "+OK\r\n"));
        assert_eq!(
            both(|to| to.complaint(&Complaint::wrong("a\r\nb"))),
            pair("-ERR a  b\r\n", "-ERR a  b\r\n")
        );
        assert_eq!(both(|to| to.null()), pair("$-1\r\n", "_\r\n"));
        assert_eq!(both(|to| to.null_array()), pair("*-1\r\n", "_\r\n"));
        assert_eq!(both(|to| to.map(2)), pair("*4\r\n", "%2\r\n"));
        assert_eq!(both(|to| to.set(2)), pair("*2\r\n", "~2\r\n"));
        assert_eq!(both(|to| to.array(0)), pair("*0\r\n", "*0\r\n"));
        assert_eq!(both(|to| to.value(Some(b""))), pair("$0\r\n\r\n", "$0\r\n\r\n"));
        assert_eq!(both(|to| to.verbatim("hi")), pair("$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n"));
    }

    #[test]
    fn numbers_are_written_in_full() {
        for number in [0, 1, -1, 9, 10, 1_000_000, i64::MAX, i64::MIN] {
            let expected = format!(":{number}\r\n");
            assert_eq!(encoded(Version::Two, |to| to.integer(number)), expected);
        }
        let largest = format!(":{}\r\n", i64::MAX);
        assert_eq!(encoded(Version::Two, |to| to.count(u64::MAX)), largest);
    }
}
