//! Requests about slots to operations and the form of their reply. Pure.
//!
//! Called by the connection for single requests and for those of a transaction alike.
//!
//! Invariants:
//! - I1: keys and lengths are checked here, so that a bad one never becomes an entry of the log.
//! - I2: under a watch, a transaction writes the watched slot alone, once, by its version.

#![deny(clippy::indexing_slicing)]

use bytes::Bytes;

use super::decode::parse_integer;
use super::refused::Complaint;
use super::shape::{Kind, Shape};
use super::table::Verb;
use crate::command::{
    Action, Answer, BuildError, BuilderMark, Command, CommandBuilder, Condition, Operation,
    REPLY_BYTES_MAX,
};
use crate::server::keys::{Key, Keys};

/// What a key takes in memory beside its own bytes and its value, about.
const KEY_MEMORY_BYTES: u64 = 160;

/// The key that a connection watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watched {
    /// As commands have it.
    pub(crate) key: Bytes,
    /// Its version when it was read for the watch.
    pub(crate) version: u64,
}

/// The operations of one command, as requests add to them.
#[derive(Debug)]
pub(crate) struct Draft {
    builder: CommandBuilder,
    watched: Option<Watched>,
    /// Position of the operation that depends on the watched version.
    guard: Option<usize>,
    kind: Kind,
    /// What values before a change may take: they cannot be asked for again.
    kept_bytes_max: u64,
    reply_bytes_max: u64,
    /// Whether the command as a whole cannot be: it is over a limit, or against its watch.
    is_refused: bool,
}

/// Where a draft stood before a request was added.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DraftMark {
    builder: BuilderMark,
    guard: Option<usize>,
    kind: Kind,
    kept_bytes_max: u64,
    reply_bytes_max: u64,
}

impl Draft {
    /// A command without operations; `watched` holds for a transaction.
    pub(crate) fn new(watched: Option<Watched>) -> Draft {
        let builder = CommandBuilder::new();
        let (guard, kind, is_refused) = (None, Kind::Read, false);
        let (kept_bytes_max, reply_bytes_max) = (0, 0);
        Draft { builder, watched, guard, kind, kept_bytes_max, reply_bytes_max, is_refused }
    }

    /// Where it stands, to take back a request that turns out to be wrong.
    pub(crate) fn mark(&self) -> DraftMark {
        let Draft { guard, kind, kept_bytes_max, reply_bytes_max, .. } = *self;
        DraftMark { builder: self.builder.mark(), guard, kind, kept_bytes_max, reply_bytes_max }
    }

    /// Takes back what was added since `mark`.
    pub(crate) fn rewind(&mut self, mark: DraftMark) {
        self.builder.rewind(mark.builder);
        (self.guard, self.kind) = (mark.guard, mark.kind);
        self.kept_bytes_max = mark.kept_bytes_max;
        self.reply_bytes_max = mark.reply_bytes_max;
    }

    /// Whether what was wrong with a request is wrong with the command as a whole.
    pub(crate) fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// Whether there is a write among the operations.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Most bytes of values that the reply may hold.
    pub(crate) fn reply_bytes_max(&self) -> u64 {
        self.reply_bytes_max
    }

    /// Ends the command of a single request, or of a transaction without a watch.
    pub(crate) fn finish(mut self) -> Command {
        self.builder.finish()
    }

    /// Ends a watched transaction; also the operation that tells whether the watch held.
    pub(crate) fn finish_watched(
        mut self,
        keys: &Keys,
    ) -> Result<(Command, Option<(usize, u64)>), Complaint> {
        let Some(watched) = self.watched.clone() else {
            return Ok((self.builder.finish(), None));
        };
        if self.guard.is_none() {
            self.guard = Some(self.builder.operation_count());
            self.push(keys, Key::Bytes(&watched.key), Action::Get)?;
        }
        Ok((self.builder.finish(), self.guard.map(|position| (position, watched.version))))
    }

    fn push(&mut self, keys: &Keys, key: Key<'_>, action: Action<'_>) -> Result<(), Complaint> {
        let action = if action.is_read() { action } else { self.guarded(&key, action)? };
        let bytes_max = if answers_a_value(&action) { keys.value_bytes_max() } else { 0 };
        // The reply leaves out what it has no room for, as it is read.
        self.reply_bytes_max = (self.reply_bytes_max + bytes_max).min(REPLY_BYTES_MAX);
        if !action.is_read() {
            self.kind = Kind::Write;
            self.kept_bytes_max += bytes_max;
            if self.kept_bytes_max > REPLY_BYTES_MAX {
                self.is_refused = true;
                return Err(Complaint::new(format!(
                    "ERR the values that are replaced or deleted could take more than \
                     {REPLY_BYTES_MAX} bytes of the reply; ask for less"
                )));
            }
        }
        match self.builder.push(&Operation { key: &key, action }) {
            Ok(_) => Ok(()),
            Err(error) => {
                self.is_refused = error != BuildError::KeyTooLong;
                Err(error.into())
            }
        }
    }

    /// The action, made to depend on the watched version if there is a watch (I2).
    fn guarded<'a>(&mut self, key: &[u8], action: Action<'a>) -> Result<Action<'a>, Complaint> {
        const REASON: &str = "EXECABORT under WATCH a transaction holds one plain SET or DEL, of \
                              the watched key: entries of the log depend on one key alone";
        let Some(watched) = &self.watched else { return Ok(action) };
        let condition = Condition::IfVersion(watched.version);
        let is_first = *watched.key == *key && self.guard.is_none();
        let guarded = match action {
            Action::Set { value, condition: Condition::Always, answer } if is_first => {
                Action::Set { value, condition, answer }
            }
            Action::Delete { condition: Condition::Always, answer } if is_first => {
                Action::Delete { condition, answer }
            }
            _ => {
                self.is_refused = true;
                return Err(Complaint::new(REASON));
            }
        };
        self.guard = Some(self.builder.operation_count());
        Ok(guarded)
    }
}

/// A slot takes what it takes; a key what its bytes and its value do.
fn memory_shape(names: &[&[u8]], keys: &Keys) -> Shape {
    let key_bytes = names.first().map_or(0, |key| byte_count(key));
    keys.slot_bytes().map_or(Shape::MemoryBeside(key_bytes + KEY_MEMORY_BYTES), Shape::Memory)
}

/// `OBJECT ENCODING | REFCOUNT key`: a value is its bytes, and belongs to its key alone.
fn object_shape(sub: &[u8], names: &[&[u8]]) -> Result<Shape, Complaint> {
    let upper = String::from_utf8_lossy(sub).to_ascii_uppercase();
    let shape = match upper.as_str() {
        "ENCODING" => Shape::Encoding,
        "REFCOUNT" => Shape::References,
        "IDLETIME" | "FREQ" => {
            let what = format!("OBJECT {upper}");
            return Err(Complaint::refused(&what, "when a key was used is not kept"));
        }
        _ => return Err(Complaint::subcommand("OBJECT", sub)),
    };
    match names {
        [_] => Ok(shape),
        _ => Err(Complaint::arity(&format!("object|{}", upper.to_ascii_lowercase()))),
    }
}

fn answers_a_value(action: &Action<'_>) -> bool {
    match action {
        Action::Get => true,
        Action::Set { answer, .. } | Action::Delete { answer, .. } => *answer == Answer::Previous,
        Action::Measure
        | Action::Increment { .. }
        | Action::Append { .. }
        | Action::SetRange { .. } => false,
    }
}

/// Adds what a request asks for to `draft`; `None` if its verb is not about data. `rest` are its
/// arguments, the name apart, as many as the verb's [`Spec`](super::table::Spec) takes.
///
/// # Errors
/// A complaint; `draft` may hold a part of the request then, and is to be given up or rewound.
pub(crate) fn add(
    draft: &mut Draft,
    verb: Verb,
    rest: &[&[u8]],
    keys: &Keys,
) -> Result<Option<Shape>, Complaint> {
    if let Some(shape) = add_read(draft, verb, rest, keys)? {
        return Ok(Some(shape));
    }
    if let Some(shape) = add_change(draft, verb, rest, keys)? {
        return Ok(Some(shape));
    }
    match (verb, rest) {
        (Verb::Set, [key, value, options @ ..]) => {
            add_set(draft, (key, value), options, keys).map(Some)
        }
        (Verb::MSet, pairs) => {
            let (pairs, _) = pairs.as_chunks::<2>();
            for [key, value] in pairs {
                push_set(draft, (key, value), Condition::Always, Answer::Status, keys)?;
            }
            Ok(Some(Shape::Stored(pairs.len())))
        }
        (Verb::Del, names) => {
            for key in names {
                push_delete(draft, key, Condition::Always, Answer::Status, keys)?;
            }
            Ok(Some(Shape::Deleted(names.len())))
        }
        _ => Ok(None),
    }
}

/// The requests that only read.
fn add_read(
    draft: &mut Draft,
    verb: Verb,
    rest: &[&[u8]],
    keys: &Keys,
) -> Result<Option<Shape>, Complaint> {
    let (names, shape) = match (verb, rest) {
        (Verb::Get, [_]) => (rest, Shape::Value),
        (Verb::GetEx, [_, options @ ..]) => {
            check_expiry(options)?;
            (rest.get(..1).unwrap_or_default(), Shape::Value)
        }
        (Verb::MGet, names) => (names, Shape::Values(names.len())),
        (Verb::Exists, names) => (names, Shape::Existing(names.len())),
        (Verb::StrLen, names) => (names, Shape::Length),
        (Verb::Type, names) => (names, Shape::Type),
        (Verb::Ttl, names) => (names, Shape::TimeToLive),
        (Verb::Persist, names) => (names, Shape::Zero),
        (Verb::GetRange, [_, start, end]) => {
            let (start, end) = (integer(start)?, integer(end)?);
            (rest.get(..1).unwrap_or_default(), Shape::Range(start, end))
        }
        (Verb::Memory, [sub, names @ ..]) => {
            if !sub.eq_ignore_ascii_case(b"usage") || names.is_empty() {
                return Err(Complaint::subcommand("MEMORY", sub));
            }
            if !matches!(names, [_] | [_, _, _]) {
                return Err(Complaint::SYNTAX);
            }
            (names.get(..1).unwrap_or_default(), memory_shape(names, keys))
        }
        (Verb::Object, [sub, names @ ..]) => (names, object_shape(sub, names)?),
        // Redis writes nothing for an empty value, and answers the length.
        (Verb::SetRange, [_, offset, b""]) => {
            offset_of(offset)?;
            (rest.get(..1).unwrap_or_default(), Shape::Length)
        }
        _ => return Ok(None),
    };
    let action = if shape.needs_values() { Action::Get } else { Action::Measure };
    for key in names {
        draft.push(keys, keys.key(key)?, action)?;
    }
    Ok(Some(shape))
}

/// The requests that change one slot, SET and DEL apart.
fn add_change(
    draft: &mut Draft,
    verb: Verb,
    rest: &[&[u8]],
    keys: &Keys,
) -> Result<Option<Shape>, Complaint> {
    let always = Condition::Always;
    match (verb, rest) {
        (Verb::SetNx, [key, value]) => {
            push_set(draft, (key, value), Condition::IfAbsent, Answer::Status, keys)?;
            Ok(Some(Shape::Changed))
        }
        (Verb::GetSet, [key, value]) => {
            push_set(draft, (key, value), always, Answer::Previous, keys)?;
            Ok(Some(Shape::Value))
        }
        (Verb::GetDel, [key]) => {
            push_delete(draft, key, always, Answer::Previous, keys)?;
            Ok(Some(Shape::Value))
        }
        (Verb::DelIfEqual, [key, value]) => {
            push_delete(draft, key, Condition::IfEqual(value), Answer::Status, keys)?;
            Ok(Some(Shape::Changed))
        }
        (Verb::Incr, [key]) => push_increment(draft, key, 1, keys).map(Some),
        (Verb::Decr, [key]) => push_increment(draft, key, -1, keys).map(Some),
        (Verb::IncrBy, [key, by]) => push_increment(draft, key, integer(by)?, keys).map(Some),
        (Verb::DecrBy, [key, by]) => {
            let by = integer(by)?.checked_neg();
            let by = by.ok_or_else(|| Complaint::new("ERR decrement would overflow"))?;
            push_increment(draft, key, by, keys).map(Some)
        }
        (Verb::Append, [key, value]) => {
            keys.check_value(byte_count(value))?;
            draft.push(keys, keys.key(key)?, Action::Append { value })?;
            Ok(Some(Shape::Integer))
        }
        (Verb::SetRange, [key, offset, value]) => {
            let offset = offset_of(offset)?;
            keys.check_value(offset.saturating_add(byte_count(value)))?;
            draft.push(keys, keys.key(key)?, Action::SetRange { offset, value })?;
            Ok(Some(Shape::Integer))
        }
        _ => Ok(None),
    }
}

fn add_set(
    draft: &mut Draft,
    pair: (&[u8], &[u8]),
    options: &[&[u8]],
    keys: &Keys,
) -> Result<Shape, Complaint> {
    let mut condition = Condition::Always;
    let mut answer = Answer::Status;
    let mut rest = options;
    while let Some((option, behind)) = rest.split_first() {
        rest = behind;
        let option = String::from_utf8_lossy(option).to_ascii_uppercase();
        let wanted = match option.as_str() {
            "GET" => {
                answer = Answer::Previous;
                continue;
            }
            "NX" => Condition::IfAbsent,
            "XX" => Condition::IfPresent,
            "IFEQ" => {
                let (value, behind) = rest.split_first().ok_or(Complaint::SYNTAX)?;
                rest = behind;
                Condition::IfEqual(value)
            }
            // There is no time to live, so it is kept.
            "KEEPTTL" if rest.iter().all(|other| !is_expiry(other)) => continue,
            "EX" | "PX" | "EXAT" | "PXAT" => {
                let at = options.len() - rest.len() - 1;
                return Err(expiry_complaint(options.get(at..).unwrap_or_default()));
            }
            _ => return Err(Complaint::SYNTAX),
        };
        if condition != Condition::Always && condition != wanted {
            return Err(Complaint::SYNTAX);
        }
        condition = wanted;
    }
    push_set(draft, pair, condition, answer, keys)?;
    Ok(match (answer, condition) {
        (Answer::Previous, _) => Shape::Value,
        (Answer::Status, Condition::Always) => Shape::Stored(1),
        (Answer::Status, _) => Shape::StoredIf,
    })
}

fn push_set(
    draft: &mut Draft,
    (key, value): (&[u8], &[u8]),
    condition: Condition<'_>,
    answer: Answer,
    keys: &Keys,
) -> Result<(), Complaint> {
    keys.check_value(byte_count(value))?;
    draft.push(keys, keys.key(key)?, Action::Set { value, condition, answer })
}

fn push_delete(
    draft: &mut Draft,
    key: &[u8],
    condition: Condition<'_>,
    answer: Answer,
    keys: &Keys,
) -> Result<(), Complaint> {
    draft.push(keys, keys.key(key)?, Action::Delete { condition, answer })
}

fn push_increment(draft: &mut Draft, key: &[u8], by: i64, keys: &Keys) -> Result<Shape, Complaint> {
    draft.push(keys, keys.key(key)?, Action::Increment { by })?;
    Ok(Shape::Integer)
}

/// The options of GETEX: PERSIST changes nothing, for there is no time to live.
fn check_expiry(options: &[&[u8]]) -> Result<(), Complaint> {
    match options {
        [] => Ok(()),
        [option] if option.eq_ignore_ascii_case(b"persist") => Ok(()),
        [_, _] => Err(expiry_complaint(options)),
        _ => Err(Complaint::SYNTAX),
    }
}

/// What is wrong with options that begin with a time to live.
fn expiry_complaint(options: &[&[u8]]) -> Complaint {
    match options {
        [option, _, ..] if is_expiry(option) => {
            let option = String::from_utf8_lossy(option).to_ascii_uppercase();
            Complaint::refused(&option, "values do not expire")
        }
        _ => Complaint::SYNTAX,
    }
}

fn is_expiry(option: &[u8]) -> bool {
    let names: [&[u8]; 4] = [b"EX", b"PX", b"EXAT", b"PXAT"];
    names.iter().any(|name| option.eq_ignore_ascii_case(name))
}

fn integer(text: &[u8]) -> Result<i64, Complaint> {
    parse_integer(text).ok_or(Complaint::INTEGER)
}

fn offset_of(text: &[u8]) -> Result<u64, Complaint> {
    u64::try_from(integer(text)?).map_err(|_| Complaint::new("ERR offset is out of range"))
}

fn byte_count(value: &[u8]) -> u64 {
    u64::try_from(value.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::table::lookup;
    use super::*;
    use crate::command::slot_key;

    fn keys() -> Keys {
        Keys::new(100, 16, &[])
    }

    fn added(draft: &mut Draft, words: &[&str]) -> Result<Option<Shape>, Complaint> {
        let words = words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>();
        add(draft, lookup(words[0]).unwrap().verb, &words[1..], &keys())
    }

    fn one(words: &[&str]) -> (Command, Shape, Kind) {
        let mut draft = Draft::new(None);
        let shape = added(&mut draft, words).unwrap().unwrap();
        let kind = draft.kind();
        (draft.finish(), shape, kind)
    }

    fn complaint(words: &[&str]) -> String {
        added(&mut Draft::new(None), words).unwrap_err().0.into_owned()
    }

    #[test]
    fn each_request_has_its_operations_and_its_reply() {
        let cases: &[(&[&str], &str, Shape, Kind)] = &[
            (&["GET", "7"], "get 7", Shape::Value, Kind::Read),
            (&["GETEX", "7", "persist"], "get 7", Shape::Value, Kind::Read),
            (&["SET", "7", "abc", "KEEPTTL"], "set 7 (3 bytes)", Shape::Stored(1), Kind::Write),
            (&["MGET", "7", "8", "9"], "get 7 and 2 more", Shape::Values(3), Kind::Read),
            (&["SET", "7", "abc"], "set 7 (3 bytes)", Shape::Stored(1), Kind::Write),
            (&["set", "7", "a", "nx"], "set 7 (1 bytes)", Shape::StoredIf, Kind::Write),
            (&["SET", "7", "a", "XX", "GET"], "set 7 (1 bytes)", Shape::Value, Kind::Write),
            (
                &["MSET", "1", "", "2", "b"],
                "set 1 (0 bytes) and 1 more",
                Shape::Stored(2),
                Kind::Write,
            ),
            (&["DEL", "1", "2"], "delete 1 and 1 more", Shape::Deleted(2), Kind::Write),
            (&["DECR", "1"], "increment 1 by -1", Shape::Integer, Kind::Write),
            (&["SETRANGE", "1", "3", "ab"], "set-range 1 (2 bytes)", Shape::Integer, Kind::Write),
            (&["SETRANGE", "1", "3", ""], "measure 1", Shape::Length, Kind::Read),
            (&["APPEND", "1", ""], "append 1 (0 bytes)", Shape::Integer, Kind::Write),
            (&["MEMORY", "USAGE", "1"], "measure 1", Shape::Memory(32), Kind::Read),
            (&["EXISTS", "1", "2"], "measure 1 and 1 more", Shape::Existing(2), Kind::Read),
            (&["GETRANGE", "1", "-3", "-1"], "get 1", Shape::Range(-3, -1), Kind::Read),
        ];
        for (words, text, shape, kind) in cases {
            let (command, found, found_kind) = one(words);
            assert_eq!((command.to_string().as_str(), &found, found_kind), (*text, shape, *kind));
            assert_eq!(command.is_read(), *kind == Kind::Read, "{words:?}");
        }
    }

    #[test]
    fn conditions_reach_the_operation() {
        let conditions = [
            (vec!["SET", "1", "v", "IFEQ", "old"], Condition::IfEqual(b"old")),
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
            (&["GET", "x"], "ERR key must be a slot number 0..99"),
            (&["GET", "100"], "ERR key must be a slot number 0..99"),
            (&["SET", "1", "12345678901234567"], "ERR value is 17 bytes, a slot holds at most 16"),
            (&["SETRANGE", "1", "16", "a"], "ERR value is 17 bytes, a slot holds at most 16"),
            (&["SETRANGE", "1", "-1", "a"], "ERR offset is out of range"),
            (&["SET", "1", "a", "EX", "5"], "ERR EX is refused: values do not expire"),
            (&["GETEX", "1", "ex", "5"], "ERR EX is refused: values do not expire"),
            (&["GETEX", "1", "foo"], "ERR syntax error"),
            (&["GETEX", "1", "ex"], "ERR syntax error"),
            (&["GETEX", "1", "persist", "5"], "ERR syntax error"),
            (&["SET", "1", "a", "EX"], "ERR syntax error"),
            (&["SET", "1", "a", "KEEPTTL", "EX", "5"], "ERR syntax error"),
            (&["SET", "1", "a", "NX", "XX"], "ERR syntax error"),
            (&["SET", "1", "a", "IFEQ"], "ERR syntax error"),
            (&["INCRBY", "1", "x"], "ERR value is not an integer or out of range"),
            (&["DECRBY", "1", "-9223372036854775808"], "ERR decrement would overflow"),
            (&["MEMORY", "DOCTOR"], "ERR unknown subcommand 'DOCTOR' of MEMORY"),
            (
                &["OBJECT", "freq", "1"],
                "ERR OBJECT FREQ is refused: when a key was used is not kept",
            ),
            (
                &["OBJECT", "encoding", "1", "2"],
                "ERR wrong number of arguments for 'object|encoding' command",
            ),
        ];
        for (words, text) in cases {
            assert_eq!(complaint(words), *text, "{words:?}");
        }
    }

    #[test]
    fn what_could_be_there_bounds_only_values_that_a_change_takes_away() {
        let keys = Keys::new(100, 1 << 20, &[]);
        let mut draft = Draft::new(None);
        let many = vec![b"1".as_slice(); 1000];
        add(&mut draft, Verb::MGet, &many, &keys).unwrap();
        assert_eq!(draft.reply_bytes_max(), REPLY_BYTES_MAX);
        for _ in 0..64 {
            add(&mut draft, Verb::GetDel, &[b"1"], &keys).unwrap();
        }
        let Complaint(text) = add(&mut draft, Verb::GetDel, &[b"1"], &keys).unwrap_err();
        assert!(text.contains("more than 67108864 bytes"), "{text}");
        let mut draft = Draft::new(None);
        for verb in [Verb::Exists, Verb::StrLen, Verb::Type, Verb::Ttl] {
            add(&mut draft, verb, &many, &keys).unwrap();
        }
        assert_eq!(draft.reply_bytes_max(), 0);
    }

    #[test]
    fn a_watched_transaction_writes_the_watched_slot_once_by_version() {
        let mut draft =
            Draft::new(Some(Watched { key: Bytes::copy_from_slice(&slot_key(7)), version: 5 }));
        added(&mut draft, &["GET", "8"]).unwrap();
        added(&mut draft, &["SET", "7", "v"]).unwrap();
        for words in [&["SET", "7", "w"][..], &["SET", "8", "w"], &["INCR", "7"]] {
            let text = added(&mut draft, words).unwrap_err().0;
            assert!(text.starts_with("EXECABORT"), "{text}");
        }
        let (command, guard) = draft.finish_watched(&keys()).unwrap();
        assert_eq!(guard, Some((1, 5)));
        let action = command.operations().nth(1).unwrap().action;
        assert!(matches!(action, Action::Set { condition: Condition::IfVersion(5), .. }));
    }

    #[test]
    fn a_watched_transaction_without_writes_reads_the_watched_slot() {
        let draft =
            Draft::new(Some(Watched { key: Bytes::copy_from_slice(&slot_key(7)), version: 5 }));
        let (command, guard) = draft.finish_watched(&keys()).unwrap();
        assert_eq!((command.to_string().as_str(), guard), ("get 7", Some((0, 5))));
    }

    #[test]
    fn a_condition_of_its_own_is_refused_under_a_watch() {
        let mut draft =
            Draft::new(Some(Watched { key: Bytes::copy_from_slice(&slot_key(7)), version: 5 }));
        assert!(added(&mut draft, &["SET", "7", "v", "NX"]).is_err());
    }
}
