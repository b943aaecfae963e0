//! Which commands share an entry: what goes out together becomes as few entries as may be.
//!
//! Called by `proposals`; calls nothing. An entry costs the log, each follower and openraft the same
//! whatever it holds. Invariants:
//!
//! - I1: the commands of all entries, one behind the other, are in the order in which they came.
//! - I2: no two commands of one entry name the same key, so a version tells which command wrote it, and
//!   the slot rule, which looks at the index alone, applies each of them once.
//! - I3: an entry is bounded, in commands and bytes, and in what it may write and answer: a short append
//!   may have a value of a megabyte written, and recorded as a whole, and every member makes the answers of
//!   an entry as one. A command that is larger stands alone.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use smallvec::SmallVec;

use crate::command::{Command, OPERATION_COUNT_MAX};

/// Most commands of an entry. All of them are applied before anything else has a turn.
const ENTRY_COMMAND_COUNT_MAX: usize = 512;
/// Most bytes of an entry of several commands.
const ENTRY_BYTES_MAX: usize = 512 << 10;

/// Most operations in an entry of several commands that may write or answer much more than they bring.
const LONG_COUNT_MAX: usize = 64;

/// Commands on their way into entries.
#[derive(Debug, Default)]
pub(super) struct Entries {
    done: Vec<Command>,
    /// How many commands each of them has.
    counts: Vec<usize>,
    /// Those of the entry that others may still join.
    open: Vec<Command>,
    /// Hashes of the keys that they name. Two keys with one hash only cost an entry.
    keys: HashSet<u64>,
    hasher: RandomState,
    operation_count: usize,
    bytes: usize,
    /// Operations that may write or answer much more than they bring.
    long_count: usize,
}

impl Entries {
    /// Adds the next command.
    pub(super) fn push(&mut self, command: Command) {
        let mut hashes: SmallVec<[u64; 4]> = SmallVec::new();
        let mut long_count = 0;
        for operation in command.operations() {
            hashes.extend(operation.data_key().map(|key| self.hasher.hash_one(key)));
            let action = operation.action;
            long_count += usize::from(action.may_leave_more() || action.answers_a_value());
        }
        if !self.has_room(&command, long_count)
            || hashes.iter().any(|hash| self.keys.contains(hash))
        {
            self.close();
        }
        self.keys.extend(hashes);
        self.operation_count += command.operation_count();
        self.bytes += command.bytes().len();
        self.long_count += long_count;
        self.open.push(command);
    }

    /// The entries, and how many commands each of them has.
    pub(super) fn finish(mut self) -> (Vec<Command>, Vec<usize>) {
        self.close();
        (self.done, self.counts)
    }

    /// Whether the command may join the open entry, if that names none of its keys.
    fn has_room(&self, command: &Command, long_count: usize) -> bool {
        !command.stands_alone()
            && !self.open.last().is_some_and(Command::stands_alone)
            && self.open.len() < ENTRY_COMMAND_COUNT_MAX
            && self.operation_count + command.operation_count() <= OPERATION_COUNT_MAX
            && self.bytes + command.bytes().len() <= ENTRY_BYTES_MAX
            && self.long_count + long_count <= LONG_COUNT_MAX
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.done.push(Command::join(&self.open));
            self.counts.push(self.open.len());
        }
        self.open.clear();
        self.keys.clear();
        (self.operation_count, self.bytes, self.long_count) = (0, 0, 0);
    }
}

/// The entries that commands become which go out together. For benches, and for the test that counts what
/// a write takes.
pub fn entries_of(commands: Vec<Command>) -> Vec<Command> {
    let mut entries = Entries::default();
    for command in commands {
        entries.push(command);
    }
    entries.finish().0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Action, CommandBuilder, Operation, slot_key};

    fn set(slot: u64) -> Command {
        Command::set(&slot_key(slot), b"value").unwrap()
    }

    fn message() -> Command {
        Command::single(&Operation { key: b"news", action: Action::Publish { message: b"m" } })
            .unwrap()
    }

    /// How many commands each entry has. All of them are there, in their order (I1).
    fn counts(commands: Vec<Command>) -> Vec<usize> {
        let mut entries = Entries::default();
        let sent: Vec<u8> = commands.iter().flat_map(|it| it.bytes().to_vec()).collect();
        for command in commands {
            entries.push(command);
        }
        let (entries, counts) = entries.finish();
        let got: Vec<u8> = entries.iter().flat_map(|it| it.bytes().to_vec()).collect();
        assert_eq!(got, sent);
        for (entry, count) in entries.iter().zip(&counts) {
            assert_eq!(entry.commands().count(), *count);
            assert_eq!(&Command::decode(entry.bytes().clone()).unwrap(), entry);
        }
        assert_eq!(entries.len(), counts.len());
        counts
    }

    #[test]
    fn commands_on_other_keys_share_an_entry() {
        assert_eq!(counts(vec![]), [0; 0]);
        assert_eq!(counts(vec![set(1)]), [1]);
        assert_eq!(counts(vec![set(1), set(2), set(3)]), [3]);
    }

    /// I2
    #[test]
    fn a_key_that_the_entry_names_begins_the_next() {
        assert_eq!(counts(vec![set(1), set(2), set(1), set(2), set(3)]), [2, 3]);
        assert_eq!(counts(vec![set(1); 3]), [1, 1, 1]);
        let mut builder = CommandBuilder::new();
        for slot in [5, 6, 5] {
            builder.push(&Operation { key: &slot_key(slot), action: Action::Get }).unwrap();
        }
        let together = builder.finish(); // within one command a key may stand twice
        assert_eq!(counts(vec![set(1), together.clone(), set(6)]), [2, 1]);
        assert_eq!(counts(vec![together, set(7)]), [2]);
    }

    /// Their position in the entry tells them apart.
    #[test]
    fn messages_share_an_entry_whatever_their_channel() {
        assert_eq!(counts(vec![message(), set(1), message(), set(2)]), [4]);
    }

    #[test]
    fn a_request_with_an_id_and_a_command_of_nothing_stand_alone() {
        let once = set(2).with_request_id(b"id").unwrap();
        assert_eq!(counts(vec![set(1), once, set(3), set(4)]), [1, 1, 2]);
        assert_eq!(counts(vec![set(1), Command::default(), set(3)]), [1, 1, 1]);
    }

    /// I3
    #[test]
    fn an_entry_is_bounded() {
        let many = (0..=ENTRY_COMMAND_COUNT_MAX as u64).map(set).collect();
        assert_eq!(counts(many), [ENTRY_COMMAND_COUNT_MAX, 1]);
        let large = |slot| Command::set(&slot_key(slot), &vec![7; ENTRY_BYTES_MAX / 2]).unwrap();
        assert_eq!(counts(vec![set(1), large(2), large(3), set(4)]), [2, 2]);
        let larger = Command::set(&slot_key(9), &vec![7; ENTRY_BYTES_MAX]).unwrap();
        assert_eq!(counts(vec![set(1), larger, set(2)]), [1, 1, 1]);
        let mut builder = CommandBuilder::new();
        for slot in 0..OPERATION_COUNT_MAX as u64 {
            builder.push(&Operation { key: &slot_key(slot), action: Action::Get }).unwrap();
        }
        let all = builder.finish();
        assert_eq!(counts(vec![set(1 << 20), all, set(1 << 21)]), [1, 1, 1]);
        let append = |slot| {
            let action = Action::Append { value: b"x" };
            Command::single(&Operation { key: &slot_key(slot), action }).unwrap()
        };
        let mut appends: Vec<Command> = (0..=LONG_COUNT_MAX as u64).map(append).collect();
        appends.insert(1, set(1 << 20));
        assert_eq!(counts(appends), [LONG_COUNT_MAX + 1, 1]);
        // Every member makes the answers of an entry, whoever waits for them.
        let get = |slot| {
            Command::single(&Operation { key: &slot_key(slot), action: Action::Get }).unwrap()
        };
        let gets = (0..=LONG_COUNT_MAX as u64).map(get).collect();
        assert_eq!(counts(gets), [LONG_COUNT_MAX, 1]);
    }
}
