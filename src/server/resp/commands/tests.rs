//! What each command about data adds to a command of the log, and the reply that its outcomes are.

use bytes::{Bytes, BytesMut};

use super::super::draft::Draft;
use super::super::encode::{Encoder, Version};
use super::super::form::{Form, Kind, render};
use super::super::table::{Handler, lookup};
use crate::command::{Action, Body, Command, Condition, Outcome, Refusal, Reply};
use crate::server::complaint::Complaint;
use crate::server::keys::Keys;

fn keys() -> Keys {
    Keys::new(100, 16, &[])
}

fn added(draft: &mut Draft, words: &[&str], keys: &Keys) -> Result<Form, Complaint> {
    let words = words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>();
    let Handler::Data(add) = lookup(words[0]).unwrap().handler else { panic!("no data") };
    draft.add(add, &words[1..], keys)
}

fn one(words: &[&str]) -> (Command, Form, Kind) {
    let mut draft = Draft::new(None);
    let form = added(&mut draft, words, &keys()).unwrap();
    let kind = draft.kind();
    (draft.finish().0, form, kind)
}

fn complaint(words: &[&str]) -> String {
    added(&mut Draft::new(None), words, &keys()).unwrap_err().text.into_owned()
}

fn outcome(version: u64, changed: bool, existed: bool, body: Body) -> Outcome {
    Outcome { version, changed, existed, body }
}

fn read(value: Option<&'static [u8]>) -> Outcome {
    outcome(1, false, value.is_some(), Body::Value(value.map(Bytes::from_static)))
}

/// The reply to a request whose operations had these outcomes.
fn replied_by(keys: &Keys, words: &[&str], outcomes: &[Outcome]) -> String {
    let form = added(&mut Draft::new(None), words, keys).unwrap();
    let outcomes = outcomes.iter().cloned().collect();
    let mut out = BytesMut::new();
    let mut to = Encoder::new(&mut out, Version::Two);
    render(&mut to, &form, &Ok(Reply { index: 1, outcomes, ..Reply::default() }));
    String::from_utf8(out.to_vec()).unwrap()
}

fn replied(words: &[&str], outcomes: &[Outcome]) -> String {
    replied_by(&keys(), words, outcomes)
}

#[test]
fn each_request_has_its_operations() {
    let cases: &[(&[&str], &str, Kind)] = &[
        (&["GET", "7"], "get 7", Kind::Read),
        (&["GETEX", "7", "persist"], "get 7", Kind::Read),
        (&["SET", "7", "abc", "KEEPTTL"], "set 7 (3 bytes)", Kind::Write),
        (&["MGET", "7", "8", "9"], "get 7 and 2 more", Kind::Read),
        (&["SET", "7", "abc"], "set 7 (3 bytes)", Kind::Write),
        (&["set", "7", "a", "nx"], "set 7 (1 bytes)", Kind::Write),
        (&["SET", "7", "a", "XX", "GET"], "set 7 (1 bytes)", Kind::Write),
        (&["MSET", "1", "", "2", "b"], "set 1 (0 bytes) and 1 more", Kind::Write),
        (&["DEL", "1", "2"], "delete 1 and 1 more", Kind::Write),
        (&["DECR", "1"], "increment 1 by -1", Kind::Write),
        (&["SET", "7", "a", "VERSION"], "set 7 (1 bytes)", Kind::Write),
        (&["DELIFVERSION", "7", "5"], "delete 7", Kind::Write),
        (&["GETVERSION", "7"], "get 7", Kind::Read),
        (&["SETRANGE", "1", "3", "ab"], "set-range 1 (2 bytes)", Kind::Write),
        (&["SETRANGE", "1", "3", ""], "measure 1", Kind::Read),
        (&["APPEND", "1", ""], "append 1 (0 bytes)", Kind::Write),
        (&["MEMORY", "USAGE", "1"], "measure 1", Kind::Read),
        (&["EXISTS", "1", "2"], "measure 1 and 1 more", Kind::Read),
        (&["GETRANGE", "1", "-3", "-1"], "get 1", Kind::Read),
    ];
    for (words, text, kind) in cases {
        let (command, _, found) = one(words);
        assert_eq!((command.to_string().as_str(), found), (*text, *kind));
        assert_eq!(command.is_read(), *kind == Kind::Read, "{words:?}");
    }
}

#[test]
fn conditions_reach_the_operation() {
    let conditions = [
        (vec!["SET", "1", "v", "IFEQ", "old"], Condition::IfEqual(b"old")),
        (vec!["SET", "1", "v", "ifversion", "7"], Condition::IfVersion(7)),
        (vec!["SET", "1", "v", "VERSION", "IFVERSION", "0"], Condition::IfVersion(0)),
        (vec!["SET", "1", "v", "NX"], Condition::IfAbsent),
        (vec!["SETNX", "1", "v"], Condition::IfAbsent),
        (vec!["SET", "1", "v", "XX"], Condition::IfPresent),
    ];
    for (words, expected) in conditions {
        let (command, ..) = one(&words);
        let action = command.operations().next().unwrap().action;
        assert!(matches!(action, Action::Set { condition, .. } if condition == expected));
    }
}

#[test]
fn bad_requests_are_answered_with_the_reason() {
    let cases: &[(&[&str], &str)] = &[
        (&["GET", "x"], "key must be a slot number 0..99"),
        (&["GET", "100"], "key must be a slot number 0..99"),
        (&["SET", "1", "12345678901234567"], "value is 17 bytes, a slot holds at most 16"),
        (&["SETRANGE", "1", "16", "a"], "value is 17 bytes, a slot holds at most 16"),
        (&["SETRANGE", "1", "-1", "a"], "offset is out of range"),
        (&["SET", "1", "a", "EX", "5"], "EX is refused: values do not expire"),
        (&["GETEX", "1", "ex", "5"], "EX is refused: values do not expire"),
        (&["GETEX", "1", "foo"], "syntax error"),
        (&["GETEX", "1", "ex"], "syntax error"),
        (&["GETEX", "1", "persist", "5"], "syntax error"),
        (&["SET", "1", "a", "EX"], "syntax error"),
        (&["SET", "1", "a", "KEEPTTL", "EX", "5"], "syntax error"),
        (&["SET", "1", "a", "NX", "XX"], "syntax error"),
        (&["SET", "1", "a", "IFEQ"], "syntax error"),
        (&["SET", "1", "a", "IFVERSION"], "syntax error"),
        (&["SET", "1", "a", "IFVERSION", "1", "IFVERSION", "2"], "syntax error"),
        (&["SET", "1", "a", "IFVERSION", "1", "NX"], "syntax error"),
        (&["SET", "1", "a", "GET", "VERSION"], "syntax error"),
        (&["SET", "1", "a", "IFVERSION", "-1"], "value is not an integer or out of range"),
        (&["DELIFVERSION", "1", "18446744073709551616"], "value is not an integer or out of range"),
        (&["INCRBY", "1", "x"], "value is not an integer or out of range"),
        (&["DECRBY", "1", "-9223372036854775808"], "decrement would overflow"),
        (&["MEMORY", "DOCTOR"], "unknown subcommand 'DOCTOR' of MEMORY"),
        (&["OBJECT", "freq", "1"], "OBJECT FREQ is refused: when a key was used is not kept"),
        (
            &["OBJECT", "encoding", "1", "2"],
            "wrong number of arguments for 'object|encoding' command",
        ),
    ];
    for (words, text) in cases {
        assert_eq!(complaint(words), *text, "{words:?}");
    }
}

#[test]
fn each_reply_reads_its_outcomes() {
    let wrote = outcome(2, true, true, Body::Empty);
    let kept = outcome(2, false, true, Body::Empty);
    let fresh = outcome(2, true, false, Body::Empty);
    let (abc, none) = (read(Some(b"abc")), read(None));
    let number = outcome(2, true, true, Body::Integer(-7));
    let deleted = vec![wrote.clone(), kept.clone(), fresh];
    let cases: &[(&[&str], Vec<Outcome>, &str)] = &[
        (&["SET", "1", "v"], vec![wrote.clone()], "+OK\r\n"),
        (&["SET", "1", "v", "NX"], vec![wrote.clone()], "+OK\r\n"),
        (&["SET", "1", "v", "NX"], vec![kept.clone()], "$-1\r\n"),
        (&["SET", "1", "v", "VERSION"], vec![wrote.clone()], ":2\r\n"),
        (&["SET", "1", "v", "VERSION", "IFVERSION", "1"], vec![kept.clone()], "$-1\r\n"),
        (&["DELIFVERSION", "1", "1"], vec![wrote.clone()], ":1\r\n"),
        (&["DELIFVERSION", "1", "1"], vec![kept.clone()], ":0\r\n"),
        (&["GETVERSION", "1"], vec![abc.clone()], "*2\r\n$3\r\nabc\r\n:1\r\n"),
        (&["GETVERSION", "1"], vec![none.clone()], "*2\r\n$-1\r\n:1\r\n"),
        (&["SETNX", "1", "v"], vec![kept.clone()], ":0\r\n"),
        (&["DEL", "1", "2", "3"], deleted, ":1\r\n"),
        (&["GET", "1"], vec![read(Some(b""))], "$0\r\n\r\n"),
        (&["GET", "1"], vec![none.clone()], "$-1\r\n"),
        (&["MGET", "1", "2"], vec![abc.clone(), none.clone()], "*2\r\n$3\r\nabc\r\n$-1\r\n"),
        (&["EXISTS", "1", "2"], vec![abc.clone(), none.clone()], ":1\r\n"),
        (&["STRLEN", "1"], vec![abc.clone()], ":3\r\n"),
        (&["TYPE", "1"], vec![none.clone()], "+none\r\n"),
        (&["TTL", "1"], vec![abc.clone()], ":-1\r\n"),
        (&["PERSIST", "1"], vec![abc.clone()], ":0\r\n"),
        (&["GETRANGE", "1", "1", "-1"], vec![abc.clone()], "$2\r\nbc\r\n"),
        (&["MEMORY", "USAGE", "1"], vec![abc], ":32\r\n"),
        (&["INCR", "1"], vec![number], ":-7\r\n"),
        (&["OBJECT", "ENCODING", "1"], vec![none], "$-1\r\n"),
    ];
    for (words, outcomes, reply) in cases {
        assert_eq!(replied(words, outcomes), *reply, "{words:?}");
    }
}

#[test]
fn a_value_that_was_left_out_is_no_missing_value() {
    let measured = [outcome(1, false, true, Body::Measured(7))];
    let cases: &[(&[&str], &str)] = &[
        (&["EXISTS", "1"], ":1\r\n"),
        (&["STRLEN", "1"], ":7\r\n"),
        (&["TYPE", "1"], "+string\r\n"),
        (&["TTL", "1"], ":-1\r\n"),
        (&["MEMORY", "USAGE", "1"], ":32\r\n"),
        (&["OBJECT", "ENCODING", "1"], "$3\r\nraw\r\n"),
        (&["OBJECT", "REFCOUNT", "1"], ":1\r\n"),
    ];
    for (words, reply) in cases {
        assert_eq!(replied(words, &measured), *reply, "{words:?}");
    }
    let any_key = Keys::new(0, 16, &[]);
    assert_eq!(replied_by(&any_key, &["MEMORY", "USAGE", "k"], &measured), ":168\r\n");
    for words in [&["GET", "1"][..], &["MGET", "1"], &["GETRANGE", "1", "0", "-1"]] {
        let text = replied(words, &measured);
        assert!(text.starts_with("-ERR the reply would hold more than 67108864 b"), "{text}");
    }
}

#[test]
fn a_refusal_is_the_whole_reply() {
    let refused = outcome(2, false, true, Body::Refused(Refusal::NotAnInteger));
    let expected = "-ERR value is not an integer or out of range\r\n";
    assert_eq!(replied(&["INCR", "1"], &[refused]), expected);
}
