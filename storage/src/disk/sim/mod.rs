//! A disk in memory that keeps synced bytes and may lose, tear or reorder all others in a crash.
//!
//! Used by tests of everything above; production code sees only the [`Disk`] trait. Invariants:
//!
//! - I1: bytes covered by a completed sync survive every crash; so does a completed write of a
//!   [`WriteMode::DirectDurable`] file, and a name after [`Disk::sync_dir`].
//! - I2: everything else may survive or not, at the grain of [`SECTOR_BYTES`].
//! - I3: names survive as a journaling file system keeps them: the changes that [`Disk::sync_dir`]
//!   covers, with all changes that they depend on, then a prefix of the rest.
//! - I4: a failed sync leaves its bytes readable but no later sync makes them durable, as in the
//!   page cache of Linux.
//! - I5: the same seed and the same calls give the same bytes.
//!
//! `state` answers the calls, `inode` and `names` hold the tree with its volatile layer, `image`
//! computes the disk after a crash, `craft` is for tests that damage it.

mod craft;
mod file;
mod image;
mod inode;
mod names;
mod random;
mod state;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

pub use image::CrashMode;
pub use state::{Operation, OperationKind};

use super::{Disk, File, Lock, WriteMode};
use crate::Result;
use file::SimFile;
use state::State;

/// The grain at which a write may be torn, in bytes.
pub const SECTOR_BYTES: usize = 512;

const _: () = assert!(super::BLOCK_BYTES.is_multiple_of(SECTOR_BYTES));

/// A simulated disk; a clone is another handle of the same one.
#[derive(Debug, Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    /// An empty disk, with a root directory. `seed` decides what chance decides.
    pub fn new(seed: u64) -> Self {
        Self::of(State::new(seed))
    }

    fn of(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// What the disk holds after a power loss now, as a disk of its own: nothing is locked,
    /// no fault is armed, nothing is volatile.
    #[must_use]
    pub fn crash(&self, mode: CrashMode) -> Self {
        Self::of(image::after_crash(&self.state.lock(), mode))
    }

    /// What the next process finds when this one is killed: the page cache survives, locks and
    /// armed faults do not. The copy shares nothing with this disk.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self::of(self.state.lock().copy())
    }

    /// Cuts the power at the operation `index`, counted from 0 at the next one (see
    /// [`OperationKind`] for what counts). That one fails and is caught in flight: a
    /// [`SimDisk::crash`] may find any part of it. All later calls fail and do nothing.
    pub fn crash_at(&self, index: u64) {
        self.state.lock().crash_at(index);
    }

    /// True once the power has been cut.
    pub fn is_power_lost(&self) -> bool {
        self.state.lock().is_power_lost()
    }

    /// Number of operations so far, failed ones included.
    pub fn operation_count(&self) -> u64 {
        self.state.lock().operations().len() as u64
    }

    /// The write log: all operations so far, in order, failed ones included.
    pub fn operations(&self) -> Vec<Operation> {
        self.state.lock().operations().to_vec()
    }

    /// Makes the next operation of this kind on a path that ends with `path_suffix` fail with
    /// the given error number, once. Several may be armed.
    pub fn fail_next(&self, kind: OperationKind, path_suffix: &str, errno: i32) {
        self.fail_after(0, kind, path_suffix, errno);
    }

    /// As [`SimDisk::fail_next`], once `passed_count` such operations have passed.
    pub fn fail_after(
        &self,
        passed_count: u32,
        kind: OperationKind,
        path_suffix: &str,
        errno: i32,
    ) {
        self.state.lock().fail_after(passed_count, kind, path_suffix, errno);
    }

    /// Sets the size of the disk in bytes: what would make the sum of all files larger fails
    /// with `NoSpace`.
    pub fn set_space(&self, bytes: u64) {
        self.state.lock().set_space(bytes);
    }

    /// Flips bit `bit` (0 to 7) of the byte at `offset`, durably.
    ///
    /// # Errors
    /// `Io` if there is no such file or byte.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> Result<()> {
        self.state.lock().flip_bit(path, offset, bit)
    }

    /// Cuts a file to `bytes`, durably; never makes it longer.
    ///
    /// # Errors
    /// `Io` with `NotFound`.
    pub fn truncate_file(&self, path: &Path, bytes: u64) -> Result<()> {
        self.state.lock().truncate_file(path, bytes)
    }

    /// The current content of a file.
    ///
    /// # Errors
    /// `Io` with `NotFound`.
    pub fn read_file(&self, path: &Path) -> Result<Vec<u8>> {
        self.state.lock().read_file(path)
    }

    /// Makes or replaces a file and the directories above it, durably. Files that are open
    /// keep the old content.
    pub fn write_file(&self, path: &Path, bytes: &[u8]) {
        self.state.lock().write_file(path, bytes);
    }

    /// Paths of all files, sorted.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.state.lock().paths()
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: WriteMode) -> Result<Arc<dyn File>> {
        let id = self.state.lock().open(path)?;
        Ok(Arc::new(SimFile::new(Arc::clone(&self.state), id, path, mode)))
    }

    fn create(&self, path: &Path, mode: WriteMode) -> Result<Arc<dyn File>> {
        assert!(mode != WriteMode::ReadOnly, "a file is created to be written");
        let id = self.state.lock().create(path)?;
        Ok(Arc::new(SimFile::new(Arc::clone(&self.state), id, path, mode)))
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        self.state.lock().create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.state.lock().rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.state.lock().remove(path)
    }

    fn list(&self, directory: &Path) -> Result<Vec<String>> {
        self.state.lock().list(directory)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.state.lock().exists(path)
    }

    fn sync_dir(&self, directory: &Path) -> Result<()> {
        self.state.lock().sync_dir(directory)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>> {
        self.state.lock().lock(path)?;
        Ok(Box::new(SimLock { state: Arc::clone(&self.state), path: path.to_owned() }))
    }
}

/// A lock among the users of one simulated disk.
#[derive(Debug)]
struct SimLock {
    state: Arc<Mutex<State>>,
    path: PathBuf,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.state.lock().unlock(&self.path);
    }
}
