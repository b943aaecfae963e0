//! A command of the log that is being built: requests about data add their operations to it. Pure.
//!
//! Called by the connection for single requests and for those of a transaction alike, and by the
//! functions of the commands, which say what each request adds.
//!
//! Invariants:
//! - I1: keys and lengths are checked here, so that a bad one never becomes an entry of the log.
//! - I2: under a watch, a transaction writes the watched slot alone, once, if it has the version
//!   that WATCH found.

#![deny(clippy::indexing_slicing)]

use bytes::Bytes;

use super::form::{Form, Kind};
use super::table::Add;
use crate::command::{
    Action, BuildError, BuilderMark, Command, CommandBuilder, Condition, Operation,
    REPLY_BYTES_MAX, check_message,
};
use crate::server::complaint::Complaint;
use crate::server::keys::{Key, Keys};

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
    /// Whether the request that is being added answers values.
    has_values: bool,
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
        Draft::with(CommandBuilder::new(), watched)
    }

    /// As [`Draft::new`], in the memory of a builder.
    pub(crate) fn with(builder: CommandBuilder, watched: Option<Watched>) -> Draft {
        Draft {
            builder,
            watched,
            guard: None,
            kind: Kind::Read,
            kept_bytes_max: 0,
            reply_bytes_max: 0,
            has_values: false,
            is_refused: false,
        }
    }

    /// Adds what a request asks for; the form of its reply.
    ///
    /// # Errors
    /// A complaint; there may be a part of the request here then: the draft is to be given up or
    /// rewound.
    pub(crate) fn add(
        &mut self,
        add: Add,
        arguments: &[&[u8]],
        keys: &Keys,
    ) -> Result<Form, Complaint> {
        let before = self.builder.operation_count();
        self.has_values = false;
        let form = add(self, arguments, keys)?;
        Ok(form.of_outcomes(self.builder.operation_count() - before, self.has_values))
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

    /// Ends the command of a single request; the builder may begin the next.
    pub(crate) fn finish(mut self) -> (Command, CommandBuilder) {
        (self.builder.finish(), self.builder)
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

    /// Adds a read of a value.
    pub(crate) fn get(&mut self, keys: &Keys, key: &[u8]) -> Result<(), Complaint> {
        self.change(keys, key, Action::Get)
    }

    /// Adds a look at how long a value is.
    pub(crate) fn measure(&mut self, keys: &Keys, key: &[u8]) -> Result<(), Complaint> {
        self.change(keys, key, Action::Measure)
    }

    /// Adds any action on a key (I1).
    pub(crate) fn change(
        &mut self,
        keys: &Keys,
        key: &[u8],
        action: Action<'_>,
    ) -> Result<(), Complaint> {
        keys.check_value(action.value_bytes_min())?;
        self.push(keys, keys.key(key)?, action)
    }

    /// Adds a message (I1).
    pub(crate) fn publish(&mut self, channel: &[u8], message: &[u8]) -> Result<(), Complaint> {
        check_message(channel, message)?;
        let (channel, action) = (Key::Bytes(channel), Action::Publish { message });
        self.add_action(channel, action, 0)
    }

    fn push(&mut self, keys: &Keys, key: Key<'_>, action: Action<'_>) -> Result<(), Complaint> {
        self.add_action(key, action, keys.value_bytes_max())
    }

    /// Adds an action on a key whose value takes at most `value_bytes_max`.
    fn add_action(
        &mut self,
        key: Key<'_>,
        action: Action<'_>,
        value_bytes_max: u64,
    ) -> Result<(), Complaint> {
        let action = if action.is_read() { action } else { self.guarded(&key, action)? };
        let answers_a_value = action.answers_a_value();
        self.has_values |= answers_a_value;
        let bytes_max = if answers_a_value { value_bytes_max } else { 0 };
        // The reply leaves out what it has no room for, as it is read.
        self.reply_bytes_max = (self.reply_bytes_max + bytes_max).min(REPLY_BYTES_MAX);
        if !action.is_read() {
            self.kind = Kind::Write;
            self.kept_bytes_max += bytes_max;
            if self.kept_bytes_max > REPLY_BYTES_MAX {
                self.is_refused = true;
                return Err(Complaint::too_large(format!(
                    "the values that are replaced or deleted could take more than \
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
        const REASON: &str = "under WATCH a transaction holds one plain SET or DEL, of the \
                              watched key: entries of the log depend on one key alone";
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
            Action::Get
            | Action::Measure
            | Action::Set { .. }
            | Action::Delete { .. }
            | Action::Increment { .. }
            | Action::Append { .. }
            | Action::SetRange { .. }
            | Action::Publish { .. } => {
                self.is_refused = true;
                return Err(Complaint::aborted(REASON));
            }
        };
        self.guard = Some(self.builder.operation_count());
        Ok(guarded)
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::{Handler, lookup};
    use super::*;
    use crate::command::{FailureClass, slot_key};

    fn keys() -> Keys {
        Keys::new(100, 16, &[])
    }

    fn add(draft: &mut Draft, words: &[&[u8]], keys: &Keys) -> Result<Form, Complaint> {
        let Handler::Data(add) = lookup(words[0]).unwrap().handler else { panic!("no data") };
        draft.add(add, &words[1..], keys)
    }

    fn added(draft: &mut Draft, words: &[&str]) -> Result<Form, Complaint> {
        let words = words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>();
        add(draft, &words, &keys())
    }

    #[test]
    fn what_could_be_there_bounds_only_values_that_a_change_takes_away() {
        let keys = Keys::new(100, 1 << 20, &[]);
        let mut draft = Draft::new(None);
        let many = |name: &'static str| {
            std::iter::once(name.as_bytes()).chain([b"1".as_slice(); 1000]).collect::<Vec<_>>()
        };
        add(&mut draft, &many("mget"), &keys).unwrap();
        assert_eq!(draft.reply_bytes_max(), REPLY_BYTES_MAX);
        for _ in 0..64 {
            add(&mut draft, &[b"getdel", b"1"], &keys).unwrap();
        }
        let Complaint { text, .. } = add(&mut draft, &[b"getdel", b"1"], &keys).unwrap_err();
        assert!(text.contains("more than 67108864 bytes"), "{text}");
        let mut draft = Draft::new(None);
        add(&mut draft, &many("exists"), &keys).unwrap();
        for name in ["strlen", "type", "ttl"] {
            add(&mut draft, &[name.as_bytes(), b"1"], &keys).unwrap();
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
            let complaint = added(&mut draft, words).unwrap_err();
            assert_eq!(complaint.class, FailureClass::Aborted, "{complaint:?}");
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
