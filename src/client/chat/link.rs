//! Listens to one node, for ever: a thread that connects, subscribes, and says what it hears.
//!
//! It asks for its subscription again and again. Each answer tells how far the node is, and that it
//! is alive.

use std::io::{self, Read, Write};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::super::answer::{Answer, NoAnswer, decode};
use super::super::connection::NodeConnection;
use super::super::dialling::Dialling;
use super::Event;
use super::room::{MessagePlace, Post};

/// How long a node may take to answer: longer than it looks for a leader.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// How often a node is asked how far it is.
const ASK_PERIOD: Duration = Duration::from_millis(500);
/// How soon it is asked for the second time: nodes that were asked at the same time are known to be as
/// far as each other then.
const FIRST_PERIOD: Duration = Duration::from_millis(20);
/// How long one read waits.
const READ_TIME: Duration = Duration::from_millis(20);
/// Before the next attempt to connect.
const PAUSE: Duration = Duration::from_millis(500);
/// Most bytes of an answer that is not whole: a message and names.
const ANSWER_BYTES_MAX: usize = 2 << 20;

/// One node that is listened to.
#[derive(Debug, Clone)]
pub(super) struct Link {
    /// Which of the nodes it is.
    pub(super) number: usize,
    /// Where it is.
    pub(super) address: String,
    /// What is presented there.
    pub(super) dialling: Dialling,
    /// What is subscribed to.
    pub(super) name: Vec<u8>,
}

impl Link {
    /// Listens until nobody wants to hear it.
    pub(super) fn run(&self, events: &Sender<Event>) {
        loop {
            let Err(error) = self.listen(events);
            let lost = Event::Lost { source: self.number, reason: error.to_string() };
            if events.send(lost).is_err() {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn listen(&self, events: &Sender<Event>) -> io::Result<std::convert::Infallible> {
        let connection = NodeConnection::open_for(&self.address, &self.dialling, ANSWER_TIME_MAX)?;
        let mut stream = connection.into_stream(READ_TIME)?;
        let mut input = BytesMut::new();
        let mut asked: Option<Instant> = None;
        let (mut next_ask, mut period) = (Instant::now(), FIRST_PERIOD);
        let mut bytes = [0; 16 << 10];
        loop {
            if asked.is_some_and(|asked| asked.elapsed() > ANSWER_TIME_MAX) {
                let words = format!("no answer within {} s", ANSWER_TIME_MAX.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, words));
            }
            if asked.is_none() && Instant::now() >= next_ask {
                let length = self.name.len();
                stream.write_all(format!("*2\r\n$9\r\nSUBSCRIBE\r\n${length}\r\n").as_bytes())?;
                stream.write_all(&[&self.name[..], b"\r\n"].concat())?;
                stream.flush()?;
                asked = Some(Instant::now());
            }
            match stream.read(&mut bytes) {
                Ok(0) => {
                    let words = "the node closed the connection";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, words));
                }
                Ok(count) => input.extend_from_slice(bytes.get(..count).unwrap_or_default()),
                Err(error) if is_silence(&error) => continue,
                Err(error) => return Err(error),
            }
            while let Some(heard) = take(&mut input)? {
                let event = match heard {
                    Heard::Reached(index) => {
                        (asked, next_ask) = (None, Instant::now() + period);
                        period = ASK_PERIOD;
                        Event::Reached { source: self.number, index }
                    }
                    Heard::Post(post) => Event::Post { source: self.number, post },
                    Heard::Nothing => continue,
                    // Without a leader it cannot say how far it is, and is asked again.
                    Heard::Error(words) if words.starts_with("CLUSTERDOWN") && asked.is_some() => {
                        (asked, next_ask) = (None, Instant::now() + ASK_PERIOD);
                        continue;
                    }
                    Heard::Error(words) => return Err(io::Error::other(words)),
                };
                events.send(event).map_err(|_| io::Error::other("nobody listens"))?;
            }
        }
    }
}

/// Nothing came within the time of one read.
fn is_silence(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

/// What a node says.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// Everything up to this index was sent.
    Reached(u64),
    /// A message.
    Post(Post),
    /// A confirmation.
    Nothing,
    /// It refuses.
    Error(String),
}

/// Takes the next answer off `input`; `None` if it is not there as a whole.
fn take(input: &mut BytesMut) -> io::Result<Option<Heard>> {
    let foreign = || {
        let words = "it answers with something else than expected; is it a client port?";
        io::Error::new(io::ErrorKind::InvalidData, words)
    };
    let parts = match decode(input).map_err(|NoAnswer| foreign())? {
        Some(Answer::Error(words)) => return Ok(Some(Heard::Error(words))),
        Some(Answer::List(parts)) => parts,
        Some(_) => return Err(foreign()),
        None if input.len() > ANSWER_BYTES_MAX => return Err(foreign()),
        None => return Ok(None),
    };
    match parts.as_slice() {
        [Answer::Value(kind), _, Answer::Value(payload)] if kind == b"message" => {
            understood(payload).map(Some).ok_or_else(foreign)
        }
        [Answer::Value(kind), _, Answer::Integer(_)] if kind == b"subscribe" => {
            Ok(Some(Heard::Nothing))
        }
        _ => Err(foreign()),
    }
}

/// What the message of an indexed name says: `41`, or `42-0 text`.
fn understood(payload: &[u8]) -> Option<Heard> {
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse::<u64>().ok();
    let Some(end) = payload.iter().position(|byte| *byte == b' ') else {
        return number(payload).map(Heard::Reached);
    };
    let (place, text) = payload.split_at_checked(end)?;
    let dash = place.iter().position(|byte| *byte == b'-')?;
    let (index, position) = (number(place.get(..dash)?)?, number(place.get(dash + 1..)?)?);
    let text = text.get(1..)?.to_vec();
    Some(Heard::Post(Post { place: MessagePlace { index, position }, text }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str) -> io::Result<Vec<Heard>> {
        let mut input = BytesMut::new();
        let mut all = Vec::new();
        for byte in text.bytes() {
            input.extend_from_slice(&[byte]);
            all.extend(take(&mut input)?);
        }
        assert!(input.is_empty(), "{}", input.escape_ascii());
        Ok(all)
    }

    #[test]
    fn a_node_is_understood_byte_by_byte() {
        let name = "$6\r\n__i__c\r\n";
        let text = format!(
            "*3\r\n$9\r\nsubscribe\r\n{name}:1\r\n*3\r\n$7\r\nmessage\r\n{name}$2\r\n41\r\n\
             *3\r\n$7\r\nmessage\r\n{name}$9\r\n42-7 a\r\nb\r\n-CLUSTERDOWN none\r\n"
        );
        let place = MessagePlace { index: 42, position: 7 };
        let expected = [
            Heard::Nothing,
            Heard::Reached(41),
            Heard::Post(Post { place, text: b"a\r\nb".to_vec() }),
            Heard::Error("CLUSTERDOWN none".to_owned()),
        ];
        assert_eq!(heard(&text).unwrap(), expected);
    }

    #[test]
    fn whatever_else_answers_is_told_from_a_node() {
        for text in [
            "HTTP/1.1 400 Bad Request\r\n",
            "*99999\r\n",
            "*3\r\n+x\r\n+x\r\n+x\r\n",
            "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$3\r\nabc\r\n",
            "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$5\r\n4 - x\r\n",
            "*1\r\n$99999999\r\n",
            "*1\r\n$1\r\nabc",
        ] {
            assert!(heard(text).is_err(), "{text:?}");
        }
        let long = format!("*3\r\n${}\r\n{}", ANSWER_BYTES_MAX, "x".repeat(ANSWER_BYTES_MAX));
        assert!(take(&mut BytesMut::from(&long[..])).is_err());
    }
}
