//! The boundary to the operating system: everything above works on these two traits.
//!
//! Called by `wal`, `slots`, `keys`, `identity`, and by the node's application log; calls the
//! operating system (the real disk) or memory (the simulated one). Invariants:
//!
//! - I1: after the first failed write or sync a file is poisoned: every later write and sync
//!   returns [`crate::Error::Poisoned`] without touching the disk.
//! - I2: reads and writes are whole or an error; short ones and `EINTR` are retried inside.
//! - I3: a created, renamed or removed name survives power loss only after [`Disk::sync_dir`].
//! - I4: a write in a direct mode needs the same alignment on every disk, so that a test on the
//!   simulated disk fails where a strict file system would refuse the write.

mod buffer;
mod bus_error;
mod map;
mod real;
mod sim;

pub use buffer::AlignedBuffer;
pub use map::{Map, report_bus_errors};
pub use real::RealDisk;
pub use sim::{CrashMode, Operation, OperationKind, SECTOR_BYTES, SimDisk};

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

/// Unit of direct I/O, in bytes: offset and length of a direct write are multiples of it.
pub const BLOCK_BYTES: usize = 4096;

/// How writes of a file reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    /// Through the page cache; durable after [`File::sync`].
    Buffered,
    /// Direct and data-synced (`O_DIRECT | O_DSYNC`): durable when `write_at` returns, provided
    /// that the blocks were written before. Falls back to buffered writes with a data sync after
    /// each where the file system has no direct I/O. Buffer, offset and length are block-aligned.
    DirectDurable,
    /// Direct without the data sync (`O_DIRECT`): durable after [`File::sync`]. Falls back to
    /// buffered. Buffer, offset and length are block-aligned.
    Direct,
    /// Writes are refused, and no permission to write is asked for.
    ReadOnly,
}

/// A directory tree with files in it.
pub trait Disk: Send + Sync + Debug {
    /// Opens an existing file.
    ///
    /// # Errors
    /// `Io`, with `NotFound` if there is no such file.
    fn open(&self, path: &Path, mode: WriteMode) -> Result<Arc<dyn File>>;

    /// Creates a file. Its name survives power loss after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// `Io`, with `AlreadyExists` if there is a file, `NotFound` if there is no directory;
    /// `NoSpace`.
    ///
    /// # Panics
    /// If `mode` is [`WriteMode::ReadOnly`].
    fn create(&self, path: &Path, mode: WriteMode) -> Result<Arc<dyn File>>;

    /// Creates a directory and its parents; existing ones are fine. Durable after
    /// [`Disk::sync_dir`] of it or of the directory that holds the first new one.
    ///
    /// # Errors
    /// `Io`, `NoSpace`.
    fn create_dir_all(&self, path: &Path) -> Result<()>;

    /// Renames a file, replacing the target. Durable after [`Disk::sync_dir`] of both
    /// directories; until then a power loss leaves the old names or the new ones.
    ///
    /// # Errors
    /// `Io`, with `NotFound` if there is no such file.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Removes a file. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// `Io`, with `NotFound` if there is no such file.
    fn remove(&self, path: &Path) -> Result<()>;

    /// Names of the files (not directories) in a directory, sorted.
    ///
    /// # Errors
    /// `Io`, with `NotFound` if there is no such directory.
    fn list(&self, directory: &Path) -> Result<Vec<String>>;

    /// Whether a file or directory of this name exists.
    ///
    /// # Errors
    /// `Io` if that cannot be found out.
    fn exists(&self, path: &Path) -> Result<bool>;

    /// Makes creations, renames and removals in a directory durable.
    ///
    /// # Errors
    /// `Io`; the caller must not go on as if the names were durable, nor try again.
    fn sync_dir(&self, directory: &Path) -> Result<()>;

    /// Takes an exclusive lock on a file, creating it; held until dropped.
    ///
    /// # Errors
    /// `Locked` if another holds it, `Io`.
    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>>;
}

/// An exclusive lock, released when dropped.
pub trait Lock: Send + Sync + Debug {}

/// A file. All methods take `&self`; concurrent writes to overlapping ranges are the caller's bug.
pub trait File: Send + Sync + Debug {
    /// The path it was opened under.
    fn path(&self) -> PathBuf;

    /// Size in bytes.
    ///
    /// # Errors
    /// `Io`.
    fn len(&self) -> Result<u64>;

    /// True for a file without bytes.
    ///
    /// # Errors
    /// `Io`.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buffer` from byte `offset`. Any alignment will do, in every mode.
    ///
    /// # Errors
    /// `Io`, with `UnexpectedEof` if the file ends before the buffer is full.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;

    /// As [`File::read_at`], for large pieces of what is read once: where the file system can and
    /// offset and length are whole blocks, past the page cache, which costs a copy and the memory.
    ///
    /// # Errors
    /// As [`File::read_at`].
    fn read_once_at(&self, buffer: &mut AlignedBuffer, offset: u64) -> Result<()> {
        self.read_at(buffer.as_mut_slice(), offset)
    }

    /// Writes all of `bytes` at byte `offset`. [`WriteMode`] says when they are durable.
    ///
    /// # Errors
    /// `Io` or `NoSpace`, after which the file is poisoned (I1) and any part of the bytes may be
    /// on disk; `Poisoned`.
    ///
    /// # Panics
    /// If the mode is a direct one and buffer address, length or offset is not block-aligned.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()>;

    /// Makes everything written so far durable (data and what is needed to read it back), but
    /// not the file's name.
    ///
    /// # Errors
    /// `Io`, after which the file is poisoned (I1) and what was written may be lost even if it
    /// can still be read; `Poisoned`.
    fn sync(&self) -> Result<()>;

    /// Cuts the file at `bytes`; never makes it longer. Durable after [`File::sync`]: until then a
    /// power loss may bring back what stood behind.
    ///
    /// # Errors
    /// `Io`, after which the file is poisoned (I1); `Poisoned`.
    fn cut(&self, bytes: u64) -> Result<()>;

    /// Reserves blocks so that the file has at least `bytes` bytes and later writes cannot run
    /// out of space. New bytes read as zero; where the file system copies on write, zeros are
    /// written. Durable after [`File::sync`].
    ///
    /// # Errors
    /// `NoSpace` if the file system cannot hold them: the file keeps its size and stays usable.
    /// `Io`, `Poisoned`.
    fn reserve(&self, bytes: u64) -> Result<()>;

    /// Maps the whole file privately (copy on write).
    ///
    /// # Errors
    /// `Io`.
    fn map(&self) -> Result<Map>;

    /// As [`File::map`], for a file whose bytes are all zero or are to be taken for zeros. They are
    /// not read, and pages of the map cannot be dropped.
    ///
    /// # Errors
    /// `Io`.
    fn map_zeros(&self) -> Result<Map>;

    /// As [`File::map`], for a file that holds nothing but zeros and is about to be filled: where
    /// that is faster, memory that the file does not back.
    ///
    /// # Errors
    /// `Io`.
    fn map_to_fill(&self) -> Result<Map> {
        self.map()
    }
}

/// Remembers the first failed write or sync of a file (I1).
#[derive(Debug, Default)]
struct Poison(AtomicBool);

impl Poison {
    /// `Poisoned` if a write or sync failed before.
    fn check(&self, path: &Path) -> Result<()> {
        if self.0.load(Ordering::Acquire) {
            return Err(Error::Poisoned { path: path.to_owned() });
        }
        Ok(())
    }

    /// Passes a result on, and remembers it if it is a failure.
    fn watch<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.0.store(true, Ordering::Release);
        }
        result
    }
}

/// Checks what a direct write asks of its caller, on every disk and file system alike.
///
/// # Panics
/// If the buffer's address, the offset or the length is not block-aligned.
fn assert_aligned(mode: WriteMode, bytes: &[u8], offset: u64) {
    if matches!(mode, WriteMode::Buffered | WriteMode::ReadOnly) {
        return;
    }
    assert!(bytes.as_ptr().addr().is_multiple_of(BLOCK_BYTES), "buffer of a direct write");
    assert!(bytes.len().is_multiple_of(BLOCK_BYTES), "{} bytes in a direct write", bytes.len());
    assert!(offset.is_multiple_of(BLOCK_BYTES as u64), "direct write at byte {offset}");
}
