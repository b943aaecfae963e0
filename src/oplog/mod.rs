//! The application log of `-logfolder`: every applied command in the record form of the original
//! program, so that its recovery tools read it. The apply thread calls it, and nothing else.
//!
//! A record is its length (int32, big-endian) and a protobuf `Command` (`docs/format.md`,
//! "Application log"). The form knows GET, SET and DELETE: an increment, an append or a set-range
//! is recorded as the SET of its result, a command that changed nothing is not recorded.
//!
//! - I1: No entry stands twice: those up to the last index in the file are skipped at a replay.
//! - I2: An entry stands whole or not at all: every record of it but the last carries [`MORE`], and
//!   [`OpLog::open`] cuts an entry off whose last record is missing.
//! - I3: What arrived by snapshot is marked by a record with [`GAP`]: entries up to its index that
//!   are not in the file were never applied one by one.
//! - I4: After the first failed write or sync nothing more is written: every later call fails too.
//! - I5: The caller syncs before it lets anyone see the applied position, so that a checkpoint
//!   never stands above the end of this file.
//! - I6: An entry whose slot was ahead of it at a replay is recorded too: the slot's page may have
//!   reached the disk in a crash, and the record not. Of a slot that holds this very entry the
//!   state is exact, and so is an unconditional set or delete; else a later state stands for one
//!   that is gone, and the later entry follows.

mod record;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use diskstore_storage::slots::Slot;

use crate::command::{Action, Body, Command, Condition, Outcome, Reply, slot_of as slot_number};
use record::{Kind, Record};

/// Marks a record that further records of the same entry follow (in the field for a UDP port).
pub const MORE: &str = "more";
/// Marks the record of a gap (in the field for a UDP port).
pub const GAP: &str = "gap";
/// Bytes that are gathered before they are written, though not synced.
const BUFFER_BYTES_MAX: usize = 1 << 20;

/// Why the application log cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum OpLogError {
    /// The operating system refused.
    #[error("-logfolder: {operation} of {} failed", path.display())]
    Io {
        /// The call, in the present tense.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
    /// Another process writes the file.
    #[error("-logfolder: {} is in use by another process; give each node its own name or folder",
        path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// Bytes that no crash could have left.
    #[error(
        "-logfolder: {} is no application log at byte {offset}: {what}; move the file away to \
         begin a new one", path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Byte offset of the record.
        offset: u64,
        /// What does not hold.
        what: &'static str,
    },
    /// A write or sync failed before.
    #[error("-logfolder: {} failed before and takes no more records", path.display())]
    Poisoned {
        /// The file.
        path: PathBuf,
    },
}

/// An open application log.
#[derive(Debug)]
pub struct OpLog {
    path: PathBuf,
    file: File,
    last_index: u64,
    buffer: Vec<u8>,
    /// True from a write to the next sync.
    unsynced: bool,
    poisoned: bool,
}

impl OpLog {
    /// Opens (or makes) `log-file-<id>.log`, cuts a torn end off, and goes on behind it.
    ///
    /// # Errors
    /// A directory that cannot be written, a file in use, a file that is no application log.
    pub fn open(directory: &Path, id: &str) -> Result<OpLog, OpLogError> {
        let path = directory.join(format!("log-file-{id}.log"));
        let failed = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| OpLogError::Io { operation, path, source }
        };
        std::fs::create_dir_all(directory).map_err(failed("creation", directory))?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed("open", &path))?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => OpLogError::Locked { path: path.clone() },
            TryLockError::Error(source) => failed("lock", &path)(source),
        })?;
        let end = find_end(&file, &path)?;
        let bytes = file.metadata().map_err(failed("stat", &path))?.len();
        if end.offset < bytes {
            tracing::warn!(path = %path.display(), bytes = bytes - end.offset,
                "cut an unfinished entry off the application log");
            file.set_len(end.offset).map_err(failed("cut", &path))?;
        }
        file.seek(SeekFrom::Start(end.offset)).map_err(failed("seek", &path))?;
        // The cut and the file's name must be durable before anything is written behind them.
        file.sync_all().map_err(failed("sync", &path))?;
        let parent = File::open(directory).map_err(failed("open", directory))?;
        parent.sync_all().map_err(failed("sync", directory))?;
        Ok(OpLog {
            path,
            file,
            last_index: end.index,
            buffer: Vec::new(),
            unsynced: false,
            poisoned: false,
        })
    }

    /// Log index of the last entry or gap in the file; 0 if there is none.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// Records what an applied command did. `slot_of` gives what a key's slot holds now that the
    /// entry is applied; it is asked where command and reply do not say (I6).
    ///
    /// # Errors
    /// A write that failed, now or before.
    pub fn record(
        &mut self,
        index: u64,
        command: &Command,
        reply: &Reply,
        slot_of: &mut dyn FnMut(&[u8]) -> Option<Slot>,
    ) -> Result<(), OpLogError> {
        if index <= self.last_index {
            return Ok(()); // I1
        }
        let operations = || command.operations().zip(&reply.outcomes);
        let changed: BTreeSet<&[u8]> = operations()
            .filter(|(_, outcome)| outcome.changed)
            .map(|(operation, _)| operation.key)
            .collect();
        let effects = operations().filter_map(|(operation, outcome)| {
            let effect = if operation.action.is_read() || outcome.changed {
                Some(effect(&operation.action, outcome, || slot_of(operation.key)))
            } else if changed.contains(operation.key) {
                None
            } else {
                let slot = slot_of(operation.key).filter(|slot| slot.index >= index);
                slot.map(|slot| effect_on_slot_ahead(&operation.action, slot, index))
            };
            effect.map(|(kind, value)| (operation.key, kind, value))
        });
        let effects: Vec<_> = effects.collect();
        for (nth, (key, kind, value)) in effects.iter().enumerate() {
            let mark = if nth + 1 < effects.len() { MORE } else { "" }; // I2
            let (kind, key) = (*kind, key_text(key));
            Record { index, mark, kind, key: &key, value }.encode(&mut self.buffer);
        }
        self.last_index = index;
        if self.buffer.len() >= BUFFER_BYTES_MAX { self.write() } else { Ok(()) }
    }

    /// Marks that the entries up to `index` came by snapshot.
    ///
    /// # Errors
    /// A write that failed, now or before.
    pub fn mark_gap(&mut self, index: u64) -> Result<(), OpLogError> {
        if index <= self.last_index {
            return Ok(());
        }
        let record = Record { index, mark: GAP, kind: Kind::Get, key: b"0", value: &[] };
        record.encode(&mut self.buffer);
        self.last_index = index;
        self.write()
    }

    /// Makes everything recorded durable: after `Ok` it survives power loss. One call for each
    /// batch of applied entries; without records since the last one it costs nothing.
    ///
    /// # Errors
    /// A write or sync that failed, now or before; the node must stop.
    pub fn sync(&mut self) -> Result<(), OpLogError> {
        self.write()?;
        if !self.unsynced {
            return Ok(());
        }
        let result = self.file.sync_data();
        self.unsynced = false;
        self.checked("sync", result)
    }

    fn write(&mut self) -> Result<(), OpLogError> {
        if self.poisoned {
            return Err(OpLogError::Poisoned { path: self.path.clone() });
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        let result = self.file.write_all(&self.buffer);
        self.buffer.clear();
        self.unsynced = true;
        self.checked("write", result)
    }

    /// The first failure poisons the file.
    fn checked(
        &mut self,
        operation: &'static str,
        result: io::Result<()>,
    ) -> Result<(), OpLogError> {
        result.map_err(|source| {
            self.poisoned = true; // I4
            OpLogError::Io { operation, path: self.path.clone(), source }
        })
    }
}

type Effect<'a> = (Kind, Cow<'a, [u8]>);

/// What an operation did that was carried out now.
fn effect<'a>(
    action: &Action<'a>,
    outcome: &Outcome,
    slot: impl FnOnce() -> Option<Slot>,
) -> Effect<'a> {
    match (action, &outcome.body) {
        (Action::Get, _) => (Kind::Get, Cow::Borrowed(&[])),
        (Action::Set { value, .. }, _) => (Kind::Set, Cow::Borrowed(value)),
        (Action::Delete { .. }, _) => (Kind::Delete, Cow::Borrowed(&[])),
        (Action::Increment { .. }, Body::Integer(result)) => {
            (Kind::Set, Cow::Owned(result.to_string().into_bytes()))
        }
        _ => {
            let value = slot().and_then(|slot| slot.value).unwrap_or_default();
            (Kind::Set, Cow::Owned(value.to_vec()))
        }
    }
}

/// What an operation did before a crash, to a slot that reached the disk (I6).
fn effect_on_slot_ahead<'a>(action: &Action<'a>, slot: Slot, index: u64) -> Effect<'a> {
    match (action, slot.value) {
        (Action::Set { value, condition: Condition::Always, .. }, _) if slot.index > index => {
            (Kind::Set, Cow::Borrowed(value))
        }
        (Action::Delete { condition: Condition::Always, .. }, _) | (_, None) => {
            (Kind::Delete, Cow::Borrowed(&[]))
        }
        (_, Some(value)) => (Kind::Set, Cow::Owned(value.to_vec())),
    }
}

/// A slot's key as decimal text; any other key as it is.
fn key_text(key: &[u8]) -> Vec<u8> {
    slot_number(key).map_or_else(|| key.to_vec(), |slot| slot.to_string().into_bytes())
}

/// Where the last whole entry ends, and its index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct End {
    offset: u64,
    index: u64,
}

/// Reads the file up to its torn end.
fn find_end(file: &File, path: &Path) -> Result<End, OpLogError> {
    let mut input = BufReader::with_capacity(BUFFER_BYTES_MAX, file);
    let mut end = End::default();
    let mut offset = 0;
    let mut body = Vec::new();
    loop {
        let corrupt = |what| OpLogError::Corrupt { path: path.to_owned(), offset, what };
        let failed = |source| OpLogError::Io { operation: "read", path: path.to_owned(), source };
        let Some(bytes) = record::read_length(&mut input).map_err(failed)? else { return Ok(end) };
        if bytes == 0 {
            // A length that was never written: a power loss left the file longer than its bytes.
            let zeros = only_zeros(&mut input).map_err(failed)?;
            return if zeros { Ok(end) } else { Err(corrupt("a record without bytes")) };
        }
        if bytes > record::RECORD_BYTES_MAX {
            return Err(corrupt("a record longer than any"));
        }
        body.clear();
        let read = (&mut input).take(bytes).read_to_end(&mut body).map_err(failed)?;
        if u64::try_from(read).unwrap_or(u64::MAX) < bytes {
            return Ok(end);
        }
        let head =
            record::decode_head(&body).ok_or_else(|| corrupt("a record that is no Command"))?;
        if head.index < end.index {
            return Err(corrupt("an index below the one before"));
        }
        offset += record::LENGTH_BYTES + bytes;
        if !head.more {
            end = End { offset, index: head.index };
        }
    }
}

fn only_zeros(input: &mut impl Read) -> io::Result<bool> {
    let mut block = [0; 4096];
    loop {
        match input.read(&mut block)? {
            0 => return Ok(true),
            read if block.iter().take(read).any(|byte| *byte != 0) => return Ok(false),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
