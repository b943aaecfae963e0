//! The one error type of this crate. Each variant is a case on which a caller can act.

use std::io;
use std::path::{Path, PathBuf};

/// Result of every fallible operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong below the node.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call to the operating system failed. The file is poisoned if it was a write or a sync.
    #[error("{operation} of {} failed{}", path.display(), at_byte(*offset))]
    Io {
        /// The call, in the present tense: `write`, `sync`, `open`.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Byte offset in the file; 0 where the call has none.
        offset: u64,
        /// The operating system's word.
        source: io::Error,
    },
    /// The file system cannot hold what is to be reserved.
    #[error("no space for {bytes} bytes in {}", path.display())]
    NoSpace {
        /// The file that was to grow.
        path: PathBuf,
        /// Bytes that were asked for.
        bytes: u64,
    },
    /// A file that none of this crate's writers made.
    #[error(
        "{} is none of diskstore's files (slots.dat, double.dat, snapshot.dat, IDENTITY, segments in \
         wal, backups)",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Bytes that were once written whole are wrong now.
    #[error("{} is corrupt at byte {offset}: {what}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Byte offset of the damaged structure.
        offset: u64,
        /// What was checked and did not hold.
        what: &'static str,
    },
    /// A batch of the log that a later batch claims durable is damaged.
    #[error(
        "acknowledged log data is damaged: {} at byte {offset}, batch {sequence}, from log index \
         {index}; keep its files until the others are known to be whole, then replace this member \
         (an empty -data directory, and -join)", path.display()
    )]
    CorruptLog {
        /// The segment.
        path: PathBuf,
        /// Byte offset of the batch.
        offset: u64,
        /// Sequence number of the damaged batch.
        sequence: u64,
        /// First log index that is lost with it.
        index: u64,
    },
    /// Written in another version of the format; nothing was touched.
    #[error(
        "{} has format version {version}, which was written {}; this program reads version {known}",
        path.display(), writer_of(*version, *known)
    )]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Version found.
        version: u32,
        /// The version that this program reads and writes.
        known: u32,
    },
    /// An entry does not fit a batch of the log; nothing was appended.
    #[error("entry {index} has {bytes} bytes, but the log takes {bytes_max} at most")]
    EntryTooLarge {
        /// Log index of the entry.
        index: u64,
        /// Bytes of its payload.
        bytes: usize,
        /// Most bytes of a payload.
        bytes_max: usize,
    },
    /// The log was purged or truncated under every attempt to read from it. It may be tried again.
    #[error("the log changes again and again under a read of entry {index}")]
    LogChanges {
        /// Log index of the first entry that was wanted.
        index: u64,
    },
    /// Another process works in this directory.
    #[error("{} is in use by another process", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A write or sync of this file failed before; nothing is retried.
    #[error("{} failed before and takes no more writes", path.display())]
    Poisoned {
        /// The file.
        path: PathBuf,
    },
    /// The directory belongs to something else than what was asked for.
    #[error("{} has {field} {actual}, but {expected} was asked for", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What differs: `slots`, `value-size`, `cluster id`.
        field: &'static str,
        /// What the caller wants.
        expected: String,
        /// What the file says.
        actual: String,
    },
    /// A file that should be there is not.
    #[error("{} is missing: {what}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// Why it should be there and what to do.
        what: &'static str,
    },
    /// A number from outside is beyond its limit; nothing was done.
    #[error("{what} {value} is out of range, {limit} is the most")]
    OutOfRange {
        /// What was asked for: `slot`, `slots`, `value-size`.
        what: &'static str,
        /// The number given.
        value: u64,
        /// The largest that is possible.
        limit: u64,
    },
}

/// Version 1 never left the house, so nothing reads it.
fn writer_of(version: u32, known: u32) -> &'static str {
    if version > known {
        "by a newer program"
    } else {
        "by a program from before the first release"
    }
}

/// Calls without an offset have 0, which says nothing.
fn at_byte(offset: u64) -> String {
    if offset == 0 { String::new() } else { format!(" at byte {offset}") }
}

impl Error {
    /// `Io`, or `NoSpace` if that is what the operating system said.
    pub(crate) fn io(operation: &'static str, path: &Path, offset: u64, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { path, bytes: offset }
            }
            _ => Self::Io { operation, path, offset, source },
        }
    }

    /// True if a file or directory was not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}
