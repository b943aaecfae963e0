//! The bytes of a command (`docs/format.md`, "Command").
//!
//! Called by sessions (build), peers and the log (decode), and machines (walk). Calls nothing.
//!
//! Invariants:
//! - I1: the bytes of a [`Command`] are valid from its construction on: it is built by
//!   [`CommandBuilder`] or checked once, as a whole, by [`Command::decode`].
//! - I2: a command has one encoding: every field that its kind does not use is zero.
//! - I3: no length is trusted before it is compared with the bytes that are there.
//! - I4: the payload of an entry is one or more commands, one behind the other. A walk over the
//!   operations gives those of all commands, in order. A command with a request id, or without
//!   operations, stands alone in its entry; which others share one says `raft::entries`.

#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use diskstore_storage::summed::SummedBytes;

use super::builder::{BuildError, CommandBuilder};
use super::{
    Action, Answer, COMMAND_BYTES_MAX, Condition, DecodeError, KEY_BYTES_MAX, OPERATION_COUNT_MAX,
    Operation, REQUEST_ID_BYTES_MAX,
};

/// Version of the layout; another one is refused.
pub(super) const VERSION: u8 = 2;
/// version u8, bytes of the request id u8, operation count u16, bytes of the operations u32.
pub(super) const HEADER_BYTES: usize = 8;
/// Where the header has the length of the request id.
const REQUEST_ID_OFFSET: usize = 1;
/// kind, condition, answer, reserved u8; key bytes u16; reserved u16; value bytes u32; compare
/// bytes u32; argument u64.
pub(super) const OPERATION_BYTES: usize = 24;
/// A command of so many bytes is not copied into its entry.
const SHARED_BYTES_MIN: usize = 4 << 10;
/// The command without operations.
pub(super) const EMPTY: [u8; HEADER_BYTES] = [VERSION, 0, 0, 0, 0, 0, 0, 0];

const _: () = assert!(OPERATION_COUNT_MAX <= u16::MAX as usize);
const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(COMMAND_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(REQUEST_ID_BYTES_MAX <= u8::MAX as usize);

const KIND_GET: u8 = 1;
const KIND_SET: u8 = 2;
const KIND_DELETE: u8 = 3;
const KIND_INCREMENT: u8 = 4;
const KIND_APPEND: u8 = 5;
const KIND_SET_RANGE: u8 = 6;
const KIND_MEASURE: u8 = 7;
const KIND_PUBLISH: u8 = 8;

const CONDITION_ALWAYS: u8 = 0;
const CONDITION_ABSENT: u8 = 1;
const CONDITION_PRESENT: u8 = 2;
const CONDITION_VERSION: u8 = 3;
const CONDITION_EQUAL: u8 = 4;

const ANSWER_STATUS: u8 = 0;
const ANSWER_PREVIOUS: u8 = 1;

/// A slot number as the bytes of a key: 8 bytes, little-endian.
pub fn slot_key(slot: u64) -> [u8; 8] {
    slot.to_le_bytes()
}

/// The slot number that a key's bytes name; `None` if they are not 8 bytes.
pub fn slot_of(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_le_bytes)
}

/// What a client asks for, in its final bytes: operations that take effect together, as one entry.
/// The payload of an entry of many commands is one too: its operations are those of all of them.
#[derive(Clone, PartialEq, Eq)]
pub struct Command {
    bytes: SummedBytes,
    operation_count: usize,
}

impl Command {
    /// Takes `bytes` as one command or as several, one behind the other, after checking all of them
    /// once. All together are bound by the limits of one.
    ///
    /// # Errors
    /// [`DecodeError`] for bytes that are no commands of this version, or beyond the limits.
    pub fn decode(bytes: impl Into<SummedBytes>) -> Result<Command, DecodeError> {
        let bytes = bytes.into();
        let fail = |what, rest: &[u8]| DecodeError { what, offset: bytes.len() - rest.len() };
        if bytes.len() > COMMAND_BYTES_MAX {
            return Err(DecodeError { what: "command longer than allowed", offset: 0 });
        }
        let mut rest: &[u8] = &bytes;
        let mut operation_count = 0;
        loop {
            let start = rest;
            let Part { count, mut operations, has_request_id } =
                split_command(&mut rest).map_err(|what| fail(what, start))?;
            operation_count += count;
            if operation_count > OPERATION_COUNT_MAX {
                return Err(fail("more operations than allowed", start));
            }
            let is_alone = start.len() == bytes.len() && rest.is_empty();
            if count == 0 && !is_alone {
                return Err(fail("a command without operations beside others", start));
            }
            if has_request_id && (count == 0 || !is_alone) {
                return Err(fail("a request id of more or less than one command", start));
            }
            let tail = start.len() - HEADER_BYTES - operations.len(); // behind the operations
            for _ in 0..count {
                let behind = operations.len() + tail;
                split_operation(&mut operations)
                    .map_err(|what| DecodeError { what, offset: bytes.len() - behind })?;
            }
            if !operations.is_empty() {
                let offset = bytes.len() - tail - operations.len();
                return Err(DecodeError { what: "bytes behind the last operation", offset });
            }
            if rest.is_empty() {
                return Ok(Command { bytes, operation_count });
            }
        }
    }

    /// A command of which so many operations were laid out in `bytes`.
    pub(super) fn laid_out(bytes: Bytes, operation_count: usize) -> Command {
        Command { bytes: bytes.into(), operation_count }
    }

    /// The bytes of a command, or of several, that this process has made or checked before: nothing of
    /// the operations is looked at.
    ///
    /// # Panics
    /// If they are none.
    pub(crate) fn checked_before(bytes: SummedBytes) -> Command {
        let commands = Commands { rest: &bytes };
        let operation_count = commands.map(|operations| operations.len()).sum();
        Command { bytes, operation_count }
    }

    /// About how many operations the payload of an entry has, which nobody has checked yet.
    pub(crate) fn estimate(payload: &[u8]) -> u64 {
        let mut rest = payload;
        let mut count = 0;
        while let Ok(part) = split_command(&mut rest) {
            count += part.count as u64;
        }
        count
    }

    /// A command of one operation.
    ///
    /// # Errors
    /// [`BuildError`] if key or value is longer than a command may be.
    pub fn single(operation: &Operation<'_>) -> Result<Command, BuildError> {
        Ok(CommandBuilder::new().push(operation)?.finish())
    }

    /// Reads one key.
    ///
    /// # Errors
    /// [`BuildError`] if the key is too long.
    pub fn get(key: &[u8]) -> Result<Command, BuildError> {
        Command::single(&Operation { key, action: Action::Get })
    }

    /// Sets one key, always, answering the status alone.
    ///
    /// # Errors
    /// [`BuildError`] if key or value is too long.
    pub fn set(key: &[u8], value: &[u8]) -> Result<Command, BuildError> {
        let (condition, answer) = (Condition::Always, Answer::Status);
        Command::single(&Operation { key, action: Action::Set { value, condition, answer } })
    }

    /// Deletes one key, always, answering the status alone.
    ///
    /// # Errors
    /// [`BuildError`] if the key is too long.
    pub fn delete(key: &[u8]) -> Result<Command, BuildError> {
        let (condition, answer) = (Condition::Always, Answer::Status);
        Command::single(&Operation { key, action: Action::Delete { condition, answer } })
    }

    /// The bytes as they go to wire and log.
    pub fn bytes(&self) -> &Bytes {
        self.bytes.bytes()
    }

    /// The bytes, with their checksum where it is known.
    pub(crate) fn payload(&self) -> &SummedBytes {
        &self.bytes
    }

    /// The operations in their order, of all commands that the bytes hold.
    pub fn operations(&self) -> Operations<'_> {
        Operations { rest: &self.bytes, in_command: 0, remaining: self.operation_count }
    }

    /// How many operations there are.
    pub fn operation_count(&self) -> usize {
        self.operation_count
    }

    /// The commands that the bytes hold, each as its operations.
    pub fn commands(&self) -> Commands<'_> {
        Commands { rest: &self.bytes }
    }

    /// The payload of one entry of all of these commands, in their order (I4). The bytes of a single long
    /// one are shared; short ones are copied, for they may be parts of a larger buffer.
    ///
    /// # Panics
    /// If all together are beyond the limits of one, or if one has to stand alone and does not.
    pub fn join(commands: &[Command]) -> Command {
        if let [only] = commands
            && only.bytes.len() >= SHARED_BYTES_MIN
        {
            return only.clone();
        }
        let mut bytes = BytesMut::with_capacity(commands.iter().map(|it| it.bytes.len()).sum());
        let mut operation_count = 0;
        for command in commands {
            let is_fit = commands.len() == 1 || !command.stands_alone();
            assert!(is_fit, "a command that stands alone has an entry of its own");
            bytes.put_slice(&command.bytes);
            operation_count += command.operation_count;
        }
        let is_within = bytes.len() <= COMMAND_BYTES_MAX && operation_count <= OPERATION_COUNT_MAX;
        assert!(is_within && !commands.is_empty(), "an entry keeps the limits of a command");
        Command { bytes: bytes.freeze().into(), operation_count }
    }

    /// Whether no other command may be in its entry (I4).
    pub fn stands_alone(&self) -> bool {
        self.operation_count == 0 || self.request_id().is_some()
    }

    /// The same command with the id of its request. Of all commands with one id the first that is
    /// applied counts, as long as the id is remembered.
    ///
    /// # Errors
    /// [`BuildError`] if the id is empty or too long, and if the command is too long with it.
    ///
    /// # Panics
    /// If it has one already.
    pub fn with_request_id(&self, id: &[u8]) -> Result<Command, BuildError> {
        assert_eq!(self.request_id(), None, "a command has one request id");
        let length = u8::try_from(id.len()).ok().filter(|_| id.len() <= REQUEST_ID_BYTES_MAX);
        let length = length.filter(|length| *length > 0).ok_or(BuildError::RequestId)?;
        if self.bytes.len() + id.len() > COMMAND_BYTES_MAX {
            return Err(BuildError::TooManyBytes);
        }
        let mut bytes = BytesMut::with_capacity(self.bytes.len() + id.len());
        bytes.put_slice(&self.bytes);
        bytes.put_slice(id);
        if let Some(field) = bytes.get_mut(REQUEST_ID_OFFSET) {
            *field = length;
        }
        Ok(Command { bytes: bytes.freeze().into(), ..*self })
    }

    /// The id of its request, if it has one.
    pub fn request_id(&self) -> Option<&[u8]> {
        let length = usize::from(*self.bytes.get(REQUEST_ID_OFFSET)?);
        if length == 0 {
            return None; // nearly always
        }
        self.bytes.len().checked_sub(length).and_then(|start| self.bytes.get(start..))
    }

    /// The bytes of its operations, by which two requests are compared.
    pub fn content(&self) -> &[u8] {
        let id_bytes = self.request_id().map_or(0, <[u8]>::len);
        self.bytes.get(HEADER_BYTES..self.bytes.len() - id_bytes).unwrap_or_default()
    }

    /// Whether one of the operations sends a message.
    pub fn has_messages(&self) -> bool {
        self.operations().any(|operation| operation.channel().is_some())
    }

    /// True if every operation only reads, so that no entry is needed.
    pub fn is_read(&self) -> bool {
        self.operations().all(|operation| operation.action.is_read())
    }
}

impl Default for Command {
    /// The command without operations.
    fn default() -> Command {
        Command { bytes: Bytes::from_static(&EMPTY).into(), operation_count: 0 }
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.operations()).finish()
    }
}

impl fmt::Display for Command {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.operations().next(), self.operation_count()) {
            (None, _) => formatter.write_str("nothing"),
            (Some(first), 1) => write!(formatter, "{first}"),
            (Some(first), count) => write!(formatter, "{first} and {} more", count - 1),
        }
    }
}

/// The commands of an entry, in order; see [`Command::commands`].
#[derive(Debug, Clone)]
pub struct Commands<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Commands<'a> {
    type Item = Operations<'a>;

    fn next(&mut self) -> Option<Operations<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let part =
            split_command(&mut self.rest).expect("invariant I1: the bytes of a command are valid");
        Some(Operations { rest: part.operations, in_command: part.count, remaining: part.count })
    }
}

/// The operations of a command, in order.
#[derive(Debug, Clone)]
pub struct Operations<'a> {
    rest: &'a [u8],
    /// Operations up to the next header.
    in_command: usize,
    remaining: usize,
}

impl<'a> Iterator for Operations<'a> {
    type Item = Operation<'a>;

    fn next(&mut self) -> Option<Operation<'a>> {
        self.remaining = self.remaining.checked_sub(1)?;
        if self.in_command == 0 {
            let mut behind = self.rest;
            let command = split_command(&mut behind);
            let part = command.expect("invariant I1: the bytes of a command are valid");
            self.in_command = part.count;
            self.rest = self.rest.get(HEADER_BYTES..).unwrap_or_default();
        }
        self.in_command -= 1;
        let operation = split_operation(&mut self.rest);
        Some(operation.expect("invariant I1: the bytes of a command are valid"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl ExactSizeIterator for Operations<'_> {}

/// The fields of one operation as they are laid out, the key apart.
pub(super) struct Fields<'a> {
    pub(super) kind: u8,
    pub(super) condition: u8,
    pub(super) answer: u8,
    pub(super) value: &'a [u8],
    pub(super) compare: &'a [u8],
    pub(super) argument: u64,
}

impl<'a> Fields<'a> {
    pub(super) fn of(action: &Action<'a>) -> Fields<'a> {
        let plain = Fields {
            kind: KIND_GET,
            condition: CONDITION_ALWAYS,
            answer: ANSWER_STATUS,
            value: &[],
            compare: &[],
            argument: 0,
        };
        match *action {
            Action::Get => plain,
            Action::Measure => Fields { kind: KIND_MEASURE, ..plain },
            Action::Set { value, condition, answer } => {
                Fields { kind: KIND_SET, value, ..plain.under(condition, answer) }
            }
            Action::Delete { condition, answer } => {
                Fields { kind: KIND_DELETE, ..plain.under(condition, answer) }
            }
            Action::Increment { by } => {
                Fields { kind: KIND_INCREMENT, argument: by.cast_unsigned(), ..plain }
            }
            Action::Append { value } => Fields { kind: KIND_APPEND, value, ..plain },
            Action::SetRange { offset, value } => {
                Fields { kind: KIND_SET_RANGE, value, argument: offset, ..plain }
            }
            Action::Publish { message } => Fields { kind: KIND_PUBLISH, value: message, ..plain },
        }
    }

    fn under(self, condition: Condition<'a>, answer: Answer) -> Fields<'a> {
        let answer = match answer {
            Answer::Status => ANSWER_STATUS,
            Answer::Previous => ANSWER_PREVIOUS,
        };
        let fields = Fields { answer, ..self };
        match condition {
            Condition::Always => fields,
            Condition::IfAbsent => Fields { condition: CONDITION_ABSENT, ..fields },
            Condition::IfPresent => Fields { condition: CONDITION_PRESENT, ..fields },
            Condition::IfVersion(version) => {
                Fields { condition: CONDITION_VERSION, argument: version, ..fields }
            }
            Condition::IfEqual(compare) => Fields { condition: CONDITION_EQUAL, compare, ..fields },
        }
    }

    /// The action that these fields stand for, if there is one (I2).
    fn action(&self) -> Result<Action<'a>, &'static str> {
        let &Fields { kind, value, argument, .. } = self;
        let action = match kind {
            KIND_GET => Action::Get,
            KIND_MEASURE => Action::Measure,
            KIND_SET => Action::Set { value, condition: self.condition()?, answer: self.answer()? },
            KIND_DELETE => Action::Delete { condition: self.condition()?, answer: self.answer()? },
            KIND_INCREMENT => Action::Increment { by: argument.cast_signed() },
            KIND_APPEND => Action::Append { value },
            KIND_SET_RANGE => Action::SetRange { offset: argument, value },
            KIND_PUBLISH => Action::Publish { message: value },
            _ => return Err("unknown kind of operation"),
        };
        if !self.same_fields(&Fields::of(&action)) {
            return Err("a field that the operation does not use is not zero");
        }
        Ok(action)
    }

    fn condition(&self) -> Result<Condition<'a>, &'static str> {
        match self.condition {
            CONDITION_ALWAYS => Ok(Condition::Always),
            CONDITION_ABSENT => Ok(Condition::IfAbsent),
            CONDITION_PRESENT => Ok(Condition::IfPresent),
            CONDITION_VERSION => Ok(Condition::IfVersion(self.argument)),
            CONDITION_EQUAL => Ok(Condition::IfEqual(self.compare)),
            _ => Err("unknown condition"),
        }
    }

    fn answer(&self) -> Result<Answer, &'static str> {
        match self.answer {
            ANSWER_STATUS => Ok(Answer::Status),
            ANSWER_PREVIOUS => Ok(Answer::Previous),
            _ => Err("unknown answer"),
        }
    }

    /// Whether `other` is laid out alike: parts are compared by length, their bytes are shared.
    fn same_fields(&self, other: &Fields<'_>) -> bool {
        (self.condition, self.answer, self.argument)
            == (other.condition, other.answer, other.argument)
            && self.value.len() == other.value.len()
            && self.compare.len() == other.compare.len()
    }
}

/// One of the commands of an entry.
struct Part<'a> {
    /// How many operations it has.
    count: usize,
    /// Their bytes.
    operations: &'a [u8],
    has_request_id: bool,
}

/// Takes one command off the front of `rest` (I3).
fn split_command<'a>(rest: &mut &'a [u8]) -> Result<Part<'a>, &'static str> {
    let Some((header, behind)) = rest.split_first_chunk::<HEADER_BYTES>() else {
        return Err("command header cut off");
    };
    let [version, id_bytes, count_low, count_high, b0, b1, b2, b3] = *header;
    if version != VERSION {
        return Err("unknown command version");
    }
    if usize::from(id_bytes) > REQUEST_ID_BYTES_MAX {
        return Err("request id longer than allowed");
    }
    let mut behind = behind;
    let operations = split_part(&mut behind, u32::from_le_bytes([b0, b1, b2, b3]));
    let operations = operations.ok_or("operations cut off")?;
    split_part(&mut behind, u32::from(id_bytes)).ok_or("request id cut off")?;
    *rest = behind;
    let count = usize::from(u16::from_le_bytes([count_low, count_high]));
    Ok(Part { count, operations, has_request_id: id_bytes > 0 })
}

/// Takes one operation off the front of `rest` (I3).
fn split_operation<'a>(rest: &mut &'a [u8]) -> Result<Operation<'a>, &'static str> {
    let Some((header, parts)) = rest.split_first_chunk::<OPERATION_BYTES>() else {
        return Err("operation header cut off");
    };
    let (head, lengths) = header.split_at(8);
    let &[kind, condition, answer, reserved, key_low, key_high, pad_low, pad_high] = head else {
        unreachable!("eight bytes were split off");
    };
    if (reserved, pad_low, pad_high) != (0, 0, 0) {
        return Err("reserved byte of the operation is not zero");
    }
    let &[v0, v1, v2, v3, c0, c1, c2, c3, ref argument @ ..] = lengths else {
        unreachable!("sixteen bytes were left");
    };
    let argument = argument.try_into().map(u64::from_le_bytes);
    let argument = argument.map_err(|_| "argument cut off")?;
    let value_bytes = u32::from_le_bytes([v0, v1, v2, v3]);
    let compare_bytes = u32::from_le_bytes([c0, c1, c2, c3]);
    let mut parts = parts;
    let key = split_part(&mut parts, u32::from(u16::from_le_bytes([key_low, key_high])));
    let key = key.ok_or("key cut off")?;
    let value = split_part(&mut parts, value_bytes).ok_or("value cut off")?;
    let compare = split_part(&mut parts, compare_bytes).ok_or("compared bytes cut off")?;
    let action = Fields { kind, condition, answer, value, compare, argument }.action()?;
    *rest = parts;
    Ok(Operation { key, action })
}

/// Takes `count` bytes off the front of `rest`; `None` if there are fewer.
fn split_part<'a>(rest: &mut &'a [u8], count: u32) -> Option<&'a [u8]> {
    let (part, behind) = rest.split_at_checked(usize::try_from(count).ok()?)?;
    *rest = behind;
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each action, condition and answer.
    fn sample() -> Vec<Operation<'static>> {
        let key = b"12345678".as_slice();
        let set = |condition, answer| Action::Set { value: b"a\nb", condition, answer };
        let actions = [
            Action::Get,
            set(Condition::Always, Answer::Status),
            set(Condition::IfAbsent, Answer::Previous),
            set(Condition::IfPresent, Answer::Status),
            set(Condition::IfVersion(u64::MAX), Answer::Status),
            set(Condition::IfEqual(b"old"), Answer::Previous),
            Action::Delete { condition: Condition::IfEqual(b""), answer: Answer::Previous },
            Action::Increment { by: i64::MIN },
            Action::Append { value: b"" },
            Action::SetRange { offset: 1 << 40, value: b"zz" },
            Action::Measure,
            Action::Publish { message: b"hi" },
        ];
        actions.into_iter().map(|action| Operation { key, action }).collect()
    }

    fn built(operations: &[Operation<'_>]) -> Command {
        let mut builder = CommandBuilder::new();
        for operation in operations {
            builder.push(operation).unwrap();
        }
        builder.finish()
    }

    #[test]
    fn every_action_and_condition_has_its_own_number() {
        let value = b"v";
        let set = |condition| Action::Set { value, condition, answer: Answer::Status };
        let (condition, answer) = (Condition::Always, Answer::Status);
        for (action, numbers) in [
            (Action::Get, [1, 0]),
            (set(Condition::Always), [2, 0]),
            (set(Condition::IfAbsent), [2, 1]),
            (set(Condition::IfPresent), [2, 2]),
            (set(Condition::IfVersion(1)), [2, 3]),
            (set(Condition::IfEqual(b"e")), [2, 4]),
            (Action::Delete { condition, answer }, [3, 0]),
            (Action::Increment { by: 1 }, [4, 0]),
            (Action::Append { value }, [5, 0]),
            (Action::SetRange { offset: 1, value }, [6, 0]),
            (Action::Measure, [7, 0]),
            (Action::Publish { message: value }, [8, 0]),
        ] {
            let command = built(&[Operation { key: b"k", action }]);
            assert_eq!(command.bytes()[8..10], numbers, "{action:?}");
        }
    }

    #[test]
    fn golden_bytes_pin_the_layout() {
        let command = built(&[
            Operation {
                key: &slot_key(42),
                action: Action::Set {
                    value: b"hello",
                    condition: Condition::IfEqual(b"old"),
                    answer: Answer::Previous,
                },
            },
            Operation { key: b"k", action: Action::Increment { by: -2 } },
        ]);
        #[rustfmt::skip]
        let expected: &[u8] = &[
            2, 0, 2, 0, 65, 0, 0, 0,
            2, 4, 1, 0, 8, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            42, 0, 0, 0, 0, 0, 0, 0, b'h', b'e', b'l', b'l', b'o', b'o', b'l', b'd',
            4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 254, 255, 255, 255, 255, 255, 255, 255,
            b'k',
        ];
        assert_eq!(command.bytes().as_ref(), expected);
        assert_eq!(Command::default().bytes().as_ref(), &[2, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_request_id_travels_behind_the_operations() {
        let plain = built(&sample());
        assert_eq!((plain.request_id(), plain.content()), (None, &plain.bytes()[8..]));
        let command = plain.with_request_id(b"id-7").unwrap();
        let mut expected = [plain.bytes().as_ref(), b"id-7"].concat();
        expected[1] = 4;
        assert_eq!(command.bytes().as_ref(), expected);
        let read = Command::decode(command.bytes().clone()).unwrap();
        assert_eq!(read, command);
        assert_eq!(read.request_id(), Some(&b"id-7"[..]));
        assert_eq!(read.content(), plain.content());
        assert_eq!(read.operations().collect::<Vec<_>>(), sample());
        for end in 0..expected.len() {
            let cut = Command::decode(Bytes::copy_from_slice(&expected[..end]));
            assert!(cut.is_err(), "cut at {end}");
        }
        expected.push(0);
        assert!(Command::decode(Bytes::from(expected)).is_err());
    }

    #[test]
    fn a_request_id_is_bounded_and_belongs_to_one_command() {
        let plain = built(&sample());
        let longest = [7; REQUEST_ID_BYTES_MAX];
        let command = plain.with_request_id(&longest).unwrap();
        assert_eq!(command.request_id(), Some(&longest[..]));
        let beyond = [longest.as_slice(), &[7]].concat();
        for id in [&[][..], &beyond] {
            assert_eq!(plain.with_request_id(id).unwrap_err(), BuildError::RequestId);
        }
        let mut forged = [plain.bytes().as_ref(), &beyond].concat();
        forged[1] = 65;
        assert!(Command::decode(Bytes::from(forged)).is_err());
        for pair in [[command.bytes(), plain.bytes()], [plain.bytes(), command.bytes()]] {
            assert!(Command::decode(Bytes::from([pair[0].as_ref(), pair[1]].concat())).is_err());
        }
        let none = Command::default().with_request_id(b"1").unwrap();
        assert!(Command::decode(none.bytes().clone()).is_err(), "there is nothing to repeat");
        let long = vec![7; COMMAND_BYTES_MAX - HEADER_BYTES - OPERATION_BYTES - 8];
        let full = Command::set(&slot_key(1), &long).unwrap();
        assert_eq!(full.with_request_id(b"1").unwrap_err(), BuildError::TooManyBytes);
    }

    #[test]
    fn commands_behind_each_other_are_walked_as_one() {
        let operations = sample();
        let mut bytes = built(&operations[..1]).bytes().to_vec();
        bytes.extend_from_slice(built(&operations[1..4]).bytes());
        bytes.extend_from_slice(built(&operations[4..]).bytes());
        let entry = Command::decode(Bytes::from(bytes.clone())).unwrap();
        assert_eq!(entry.operations().collect::<Vec<_>>(), operations);
        assert_eq!(entry.operation_count(), operations.len());
        assert_eq!(entry.bytes().as_ref(), bytes);
        let each: Vec<Vec<_>> = entry.commands().map(Iterator::collect).collect();
        assert_eq!(each, [&operations[..1], &operations[1..4], &operations[4..]]);
        let parts = [&operations[..1], &operations[1..4], &operations[4..]].map(built);
        assert_eq!(Command::join(&parts), entry);
        for end in 0..bytes.len() {
            let whole =
                [built(&operations[..1]).bytes().len(), built(&operations[1..4]).bytes().len()];
            let is_border = end == whole[0] || end == whole[0] + whole[1];
            let cut = Command::decode(Bytes::copy_from_slice(&bytes[..end]));
            assert_eq!(cut.is_ok(), is_border, "cut at {end}");
        }
    }

    #[test]
    fn commands_behind_each_other_keep_to_the_limits_of_one() {
        let get = Operation { key: b"k", action: Action::Get };
        let half = built(&vec![get; OPERATION_COUNT_MAX / 2]);
        let twice = [half.bytes().as_ref(), half.bytes()].concat();
        assert_eq!(
            Command::decode(Bytes::from(twice.clone())).unwrap().operation_count(),
            OPERATION_COUNT_MAX
        );
        let beyond = [&twice, built(&[get]).bytes().as_ref()].concat();
        assert!(Command::decode(Bytes::from(beyond)).is_err());
        let empty = Command::default();
        for pair in [[empty.bytes(), half.bytes()], [half.bytes(), empty.bytes()]] {
            assert!(Command::decode(Bytes::from([pair[0].as_ref(), pair[1]].concat())).is_err());
        }
    }

    #[test]
    fn operations_come_back_as_they_were_pushed() {
        let operations = sample();
        let command = Command::decode(built(&operations).bytes().clone()).unwrap();
        assert_eq!(command.operations().collect::<Vec<_>>(), operations);
        assert_eq!(command.operation_count(), operations.len());
        assert!(!command.is_read());
        assert!(built(&operations[..1]).is_read());
    }

    #[test]
    fn every_cut_and_every_addition_is_refused() {
        let bytes = built(&sample()).bytes().clone();
        for end in 0..bytes.len() {
            assert!(Command::decode(bytes.slice(..end)).is_err(), "cut at {end}");
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(Command::decode(Bytes::from(longer)).is_err());
    }

    #[test]
    fn whatever_is_accepted_is_its_own_only_encoding() {
        let bytes = built(&sample()).bytes().to_vec();
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[position] ^= 1 << bit;
                if let Ok(command) = Command::decode(Bytes::from(changed.clone())) {
                    let again = built(&command.operations().collect::<Vec<_>>());
                    assert_eq!(command.request_id(), None, "there is no byte left for one");
                    assert_eq!(again.bytes().as_ref(), changed, "byte {position} bit {bit}");
                }
            }
        }
    }

    #[test]
    fn garbage_never_panics() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..100_000 {
            let length = next() % 96;
            let mut bytes: Vec<u8> = (0..length).map(|_| next().to_le_bytes()[3] % 9).collect();
            if let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            if let Ok(command) = Command::decode(Bytes::from(bytes)) {
                assert_eq!(command.operations().count(), command.operation_count());
            }
        }
    }

    #[test]
    fn what_was_added_since_a_mark_is_taken_back() {
        let operations = sample();
        let mut builder = CommandBuilder::new();
        let empty = builder.mark();
        builder.push(&operations[1]).unwrap();
        builder.rewind(empty);
        builder.push(&operations[2]).unwrap();
        let one = builder.mark();
        builder.push(&operations[3]).unwrap().push(&operations[4]).unwrap();
        builder.rewind(one);
        builder.push(&operations[5]).unwrap();
        assert_eq!(builder.finish(), built(&[operations[2], operations[5]]));
    }

    #[test]
    fn limits_hold_and_leave_the_builder_as_it_was() {
        let mut builder = CommandBuilder::new();
        let long = vec![0; COMMAND_BYTES_MAX];
        let key = vec![0; KEY_BYTES_MAX + 1];
        let append = Operation { key: b"k", action: Action::Append { value: &long } };
        assert_eq!(builder.push(&append).unwrap_err(), BuildError::TooManyBytes);
        let read = Operation { key: &key, action: Action::Get };
        assert_eq!(builder.push(&read).unwrap_err(), BuildError::KeyTooLong);
        let get = Operation { key: b"k", action: Action::Get };
        for _ in 0..OPERATION_COUNT_MAX {
            builder.push(&get).unwrap();
        }
        assert_eq!(builder.push(&get).unwrap_err(), BuildError::TooManyOperations);
        let command = builder.finish();
        assert_eq!(command.operation_count(), OPERATION_COUNT_MAX);
        assert_eq!(Command::decode(command.bytes().clone()).unwrap(), command);
        assert_eq!(builder.finish(), Command::default());
    }

    #[test]
    fn the_longest_value_that_fits_is_taken() {
        let value = vec![7; COMMAND_BYTES_MAX - HEADER_BYTES - OPERATION_BYTES - 8];
        let command = Command::set(&slot_key(1), &value).unwrap();
        assert_eq!(command.bytes().len(), COMMAND_BYTES_MAX);
        assert!(Command::decode(command.bytes().clone()).is_ok());
    }

    #[test]
    fn commands_say_what_they_are() {
        assert_eq!(Command::set(&slot_key(42), b"hello").unwrap().to_string(), "set 42 (5 bytes)");
        assert_eq!(Command::get(b"key\n").unwrap().to_string(), "get key\\n");
        assert_eq!(
            built(&sample()[7..]).to_string(),
            format!("increment {} by {} and 4 more", u64::from_le_bytes(*b"12345678"), i64::MIN)
        );
        assert_eq!(Command::default().to_string(), "nothing");
    }

    #[test]
    fn slot_keys_come_back() {
        assert_eq!(slot_of(&slot_key(u64::MAX - 1)), Some(u64::MAX - 1));
        assert_eq!(slot_of(b"1234567"), None);
        assert_eq!(slot_of(b"123456789"), None);
    }
}
