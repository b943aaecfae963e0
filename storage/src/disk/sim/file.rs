//! An open file of the simulated disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::super::{File, Map, Poison, WriteMode, assert_aligned};
use super::state::{FileId, State, Target};
use crate::Result;

/// A handle of a file; it goes on working when the file's name is changed or removed.
#[derive(Debug)]
pub(super) struct SimFile {
    state: Arc<Mutex<State>>,
    id: FileId,
    path: PathBuf,
    mode: WriteMode,
    poison: Arc<Poison>,
}

impl SimFile {
    pub(super) fn new(state: Arc<Mutex<State>>, id: FileId, path: &Path, mode: WriteMode) -> Self {
        Self { state, id, path: path.to_owned(), mode, poison: Arc::default() }
    }

    fn target(&self) -> Target<'_> {
        Target { id: self.id, path: &self.path, mode: self.mode }
    }
}

impl File for SimFile {
    fn path(&self) -> PathBuf {
        self.path.clone()
    }

    fn len(&self) -> Result<u64> {
        self.state.lock().file_len(self.target())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.state.lock().read_at(self.target(), buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        assert_aligned(self.mode, bytes, offset);
        self.poison.check(&self.path)?;
        self.poison.watch(self.state.lock().write_at(self.target(), bytes, offset))
    }

    fn sync(&self) -> Result<()> {
        self.poison.check(&self.path)?;
        self.poison.watch(self.state.lock().sync(self.target()))
    }

    fn cut(&self, bytes: u64) -> Result<()> {
        self.poison.check(&self.path)?;
        self.poison.watch(self.state.lock().cut(self.target(), bytes))
    }

    fn reserve(&self, bytes: u64) -> Result<()> {
        self.poison.check(&self.path)?;
        match self.state.lock().reserve(self.target(), bytes) {
            // As on the real disk: nothing was promised yet, the file stays usable.
            Err(error @ crate::Error::NoSpace { .. }) => Err(error),
            result => self.poison.watch(result),
        }
    }

    fn map(&self) -> Result<Map> {
        Map::of_copy(Arc::new(self.again()))
    }

    fn map_zeros(&self) -> Result<Map> {
        Map::of_zeros_like(Arc::new(self.again()))
    }
}

impl SimFile {
    /// The same file, for a map that reads it.
    fn again(&self) -> Self {
        Self {
            state: Arc::clone(&self.state),
            path: self.path.clone(),
            poison: Arc::clone(&self.poison),
            ..*self
        }
    }
}
