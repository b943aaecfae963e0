//! The boundary to the operating system: everything above works on these two traits.
//!
//! Called by `wal`, `slots`, `identity`; calls the operating system (the real disk) or memory
//! (the simulated one). Invariants:
//!
//! - I1: after the first failed write or sync a file is poisoned: every later write and sync
//!   returns [`Error::Poisoned`](crate::Error::Poisoned) without touching the disk.
//! - I2: reads and writes are whole or an error; short ones and `EINTR` are retried inside.
//! - I3: a created, renamed or removed name survives power loss only after [`Disk::sync_dir`].

mod map;

pub use map::Map;

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Result;

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
}

/// A directory tree with files in it.
pub trait Disk: Send + Sync + Debug {
    /// Opens an existing file. `Io` with `NotFound` if there is none.
    fn open(&self, path: &Path, mode: WriteMode) -> Result<Arc<dyn File>>;
    /// Creates a file that must not exist.
    fn create(&self, path: &Path, mode: WriteMode) -> Result<Arc<dyn File>>;
    /// Creates a directory and its parents; existing ones are fine.
    fn create_dir_all(&self, path: &Path) -> Result<()>;
    /// Renames a file, replacing the target. Durable after [`Disk::sync_dir`] of the directory.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;
    /// Removes a file. Durable after [`Disk::sync_dir`].
    fn remove(&self, path: &Path) -> Result<()>;
    /// Names of the files (not directories) in a directory, sorted.
    fn list(&self, directory: &Path) -> Result<Vec<String>>;
    /// Whether a file or directory of this name exists.
    fn exists(&self, path: &Path) -> Result<bool>;
    /// Makes creations, renames and removals in a directory durable.
    fn sync_dir(&self, directory: &Path) -> Result<()>;
    /// Takes an exclusive lock on a file, creating it; held until dropped.
    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>>;
}

/// An exclusive lock, released when dropped.
pub trait Lock: Send + Sync + Debug {}

/// A file. All methods take `&self`; concurrent writes to overlapping ranges are the caller's bug.
pub trait File: Send + Sync + Debug {
    /// The path it was opened under.
    fn path(&self) -> PathBuf;
    /// Size in bytes.
    fn len(&self) -> Result<u64>;
    /// True for a file without bytes.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills `buffer` from `offset`; `Io` with `UnexpectedEof` past the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;
    /// Writes all of `bytes` at `offset`. See [`WriteMode`] for durability and alignment.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()>;
    /// Makes everything written so far durable (data and what is needed to read it back).
    fn sync(&self) -> Result<()>;
    /// Reserves blocks so that the file has `bytes` bytes and later writes cannot run out of
    /// space; `NoSpace` if the file system cannot hold them. New bytes read as zero. Where the
    /// file system copies on write, zeros are written.
    fn reserve(&self, bytes: u64) -> Result<()>;
    /// Maps the whole file privately (copy on write).
    fn map(&self) -> Result<Map>;
}
