//! The application log of `-logfolder`: every applied command in the record form of the original
//! program, so that its recovery tools read it. The apply thread writes it; `serve.rs` hands it
//! out. Its files are on a `Disk`, so that tests cut the power at each of its operations
//! (`tests/crash.rs`).
//!
//! A record is its length (int32, big-endian) and a protobuf `Command` (`docs/format.md`,
//! "Application log"). The form knows GET, SET and DELETE: an increment, an append or a set-range
//! is recorded as the SET of its result, a command that changed nothing is not recorded.
//!
//! The file rolls: beyond a certain size the log goes on in the next file (`parts.rs`).
//!
//! - I1: No entry is recorded twice: a replay skips entries up to the last index in the file.
//! - I2: An entry is recorded whole or not at all: every record of it but the last carries
//!   [`Mark::More`], and [`OpLog::open`] cuts off an entry whose last record is missing.
//! - I3: A record with [`Mark::Gap`] says that a snapshot arrived: entries up to its index that
//!   are not in the file were never applied one by one.
//! - I4: After the first failed write or sync nothing more is written: every later call fails too.
//! - I5: The caller syncs before it lets anyone see the applied position, so that a checkpoint
//!   never stands above the end of this file.
//! - I6: A replay also records an entry whose slot is already newer, because in a crash the slot's
//!   page may have reached the disk and the record not. The record is exact if the slot holds this
//!   very entry, or if the entry is an unconditional set or delete. Otherwise the entry's own
//!   result is lost: a later state of the slot is recorded in its place, and the later entry
//!   follows.

mod effects;
mod end;
mod journal;
mod parts;
mod read;
mod record;
mod serve;

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diskstore_storage::Error;
use diskstore_storage::disk::{File, Lock, WriteMode};
use diskstore_storage::state::Versioned;

pub use effects::Effect;
pub use parts::Parts;
pub use read::{Found, PartRecords, ReadError, Records, ends_entry};
pub use record::{LENGTH_BYTES, Mark, Record, RecordKind};
pub use serve::{END_PREFIX, serve_recovery};

use crate::command::{Command, Reply, slot_of};
use effects::effects_of;
use end::{ALL_DURABLE, find_end};
use read::io_error;

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
    /// A file between others is gone.
    #[error(
        "-logfolder: {} is missing, and files that follow it are there; bring it back, or move \
         them away to begin a new log", path.display()
    )]
    Missing {
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
    /// A log of which more was durable than is there.
    #[error(
        "-logfolder: {} ends before byte {offset}, up to where it was recorded; move what is left \
         of it and the logger's own directory (-data) away: it then records the whole state anew",
        path.display()
    )]
    Lost {
        /// The file.
        path: PathBuf,
        /// Where it must reach.
        offset: u64,
    },
    /// A log that somebody else began.
    #[error(
        "-logfolder: {} holds what an earlier logger of that name recorded; move it away, or give \
         another -logfolder", path.display()
    )]
    Taken {
        /// The file.
        path: PathBuf,
    },
    /// A write or sync failed before.
    #[error("-logfolder: {} failed before and takes no more records", path.display())]
    Poisoned {
        /// The file.
        path: PathBuf,
    },
}

impl OpLogError {
    fn io(operation: &'static str, path: &Path, source: io::Error) -> OpLogError {
        OpLogError::Io { operation, path: path.to_owned(), source }
    }
}

/// An error of the disk, as one of the log.
impl From<Error> for OpLogError {
    fn from(error: Error) -> OpLogError {
        let (operation, path) = match &error {
            Error::Io { operation, path, .. } => (*operation, path.clone()),
            Error::NoSpace { path, .. } => ("write", path.clone()),
            Error::Locked { path } => return OpLogError::Locked { path: path.clone() },
            Error::Poisoned { path } => return OpLogError::Poisoned { path: path.clone() },
            _ => ("use", PathBuf::new()),
        };
        OpLogError::Io { operation, path, source: io_error(error) }
    }
}

/// Name of the file in a logger's directory that says how far its records are durable.
pub const JOURNAL_FILE: &str = "journal.dat";

/// How a key stands in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyForm {
    /// As the decimal number of a slot.
    Slots,
    /// As it is.
    Bytes,
}

impl KeyForm {
    /// A command's key in this form.
    pub fn text(self, key: &[u8]) -> Cow<'_, [u8]> {
        match (self, slot_of(key)) {
            (KeyForm::Slots, Some(slot)) => Cow::Owned(slot.to_string().into_bytes()),
            _ => Cow::Borrowed(key),
        }
    }
}

/// A place in a log: the number of a file, counted from 1, and a byte offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The file.
    pub nth: u32,
    /// The offset.
    pub offset: u64,
}

/// Where a value lies in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Where it begins.
    pub start: Position,
    /// Its length.
    pub bytes: u32,
}

/// An open application log.
#[derive(Debug)]
pub struct OpLog {
    parts: Parts,
    form: KeyForm,
    /// The file that is written, counted from 1.
    nth: u32,
    file: Arc<dyn File>,
    /// Bytes of that file, those in the buffer included.
    bytes: u64,
    /// Size at which the log goes on in the next file.
    part_bytes_max: u64,
    last_index: u64,
    buffer: Vec<u8>,
    /// True from a write to the next sync.
    unsynced: bool,
    poisoned: bool,
    /// The first file, held so that no second process writes.
    _lock: Box<dyn Lock>,
}

impl OpLog {
    /// Opens (or makes) the first file and those that follow it, cuts a torn end off, and
    /// goes on behind it. A file takes at least `part_bytes_max` bytes before the next is begun.
    /// Entries up to `durable_index` are those of a checkpoint, which stands on a synced log (I5). A
    /// log that holds no entry, or may have lost one of those, gets a gap up to there.
    ///
    /// # Errors
    /// A directory that cannot be written, a file in use, a file that is no application log.
    pub fn open(
        parts: Parts,
        form: KeyForm,
        part_bytes_max: u64,
        durable_index: u64,
    ) -> Result<OpLog, OpLogError> {
        let lock = lock(&parts)?;
        let nth = parts.count()?;
        let mut end = find_end(&parts, nth, durable_index)?;
        let mut before = nth;
        while end.index == 0 && before > 1 {
            before -= 1; // a file that was made last and never written
            end.index = find_end(&parts, before, ALL_DURABLE)?.index;
        }
        let mut log = OpLog::go_on(parts, nth, end.offset, part_bytes_max, lock)?;
        (log.last_index, log.form) = (end.index, form);
        if end.index == 0 || end.may_lack {
            log.mark_gap(durable_index)?;
            log.sync()?;
        }
        Ok(log)
    }

    /// Cuts the last file at `end` and writes there.
    fn go_on(
        parts: Parts,
        nth: u32,
        end: u64,
        part_bytes_max: u64,
        lock: Box<dyn Lock>,
    ) -> Result<OpLog, OpLogError> {
        let path = parts.path(nth);
        let file = parts.disk().open(&path, WriteMode::Buffered)?;
        let bytes = file.len()?;
        if end < bytes {
            tracing::warn!(path = %path.display(), bytes = bytes - end,
                "cut an unfinished end off the application log");
            file.cut(end)?;
        }
        // The cut and the file's name must be durable before anything is written behind them.
        file.sync()?;
        parts.sync_directory()?;
        Ok(OpLog {
            parts,
            form: KeyForm::Bytes,
            nth,
            file,
            bytes: end,
            part_bytes_max,
            last_index: 0,
            buffer: Vec::new(),
            unsynced: false,
            poisoned: false,
            _lock: lock,
        })
    }

    /// Log index of the last entry or gap in the file; 0 if there is none.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// Where its files are.
    pub fn parts(&self) -> &Parts {
        &self.parts
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
        slot_of: &mut dyn FnMut(&[u8]) -> Option<Versioned>,
    ) -> Result<(), OpLogError> {
        if index <= self.last_index {
            return Ok(()); // I1
        }
        self.roll_if_full()?;
        let effects = effects_of(index, command, reply, slot_of);
        for (nth, effect) in effects.iter().enumerate() {
            let mark = if nth + 1 < effects.len() { Mark::More } else { Mark::None }; // I2
            let key = self.form.text(effect.key);
            self.put(&Record { index, mark, kind: effect.kind, key: &key, value: &effect.value });
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
        self.roll_if_full()?;
        self.put(&Record::marking(Mark::Gap, index));
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
        let result = self.file.sync();
        self.unsynced = false;
        self.checked(result)
    }

    fn put(&mut self, record: &Record<'_>) {
        let before = self.buffer.len();
        record.encode(&mut self.buffer);
        self.bytes += (self.buffer.len() - before) as u64;
    }

    /// Begins the next file, between two entries, once this one is complete and synced.
    fn roll_if_full(&mut self) -> Result<(), OpLogError> {
        if self.bytes < self.part_bytes_max {
            return Ok(());
        }
        self.sync()?;
        let next = self.parts.path(self.nth + 1);
        let made = self.parts.disk().create(&next, WriteMode::Buffered).map_err(OpLogError::from);
        let made = made.and_then(|file| self.parts.sync_directory().map(|()| file));
        self.poisoned |= made.is_err(); // I4
        self.file = made?;
        (self.nth, self.bytes) = (self.nth + 1, 0);
        Ok(())
    }

    fn write(&mut self) -> Result<(), OpLogError> {
        if self.poisoned {
            return Err(OpLogError::Poisoned { path: self.parts.path(self.nth) });
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        let result = self.file.write_at(&self.buffer, self.bytes - self.buffer.len() as u64);
        self.buffer.clear();
        self.unsynced = true;
        self.checked(result)
    }

    /// The first failure poisons the file.
    fn checked(&mut self, result: diskstore_storage::Result<()>) -> Result<(), OpLogError> {
        self.poisoned |= result.is_err(); // I4
        Ok(result?)
    }
}

/// Opens or makes the first file, which is locked for as long as the log is open.
fn lock(parts: &Parts) -> Result<Box<dyn Lock>, OpLogError> {
    parts.disk().create_dir_all(parts.directory())?;
    Ok(parts.disk().lock(&parts.path(1))?)
}

#[cfg(test)]
mod tests;
