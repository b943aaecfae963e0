//! The files of one log: `log-file-<id>.log`, then `log-file-<id>.log.2` and so on. Their order is
//! their number; all but the last are complete and synced.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use diskstore_storage::disk::{Disk, File, WriteMode};

use super::OpLogError;

/// Where a log's files are.
#[derive(Debug, Clone)]
pub struct Parts {
    disk: Arc<dyn Disk>,
    first: PathBuf,
}

impl Parts {
    /// The files of the log of node `id` in a directory.
    pub fn of_node(disk: Arc<dyn Disk>, directory: &Path, id: &str) -> Parts {
        Parts { disk, first: directory.join(format!("log-file-{id}.log")) }
    }

    /// The files that begin with this one.
    pub fn beginning_with(disk: Arc<dyn Disk>, first: &Path) -> Parts {
        Parts { disk, first: first.to_owned() }
    }

    /// The disk that they are on.
    pub(super) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// Opens a file to be read.
    pub(super) fn open(&self, nth: u32) -> diskstore_storage::Result<Arc<dyn File>> {
        self.disk.open(&self.path(nth), WriteMode::ReadOnly)
    }

    /// Whether there is such a file.
    ///
    /// # Errors
    /// That cannot be found out.
    pub fn exists(&self, nth: u32) -> diskstore_storage::Result<bool> {
        self.disk.exists(&self.path(nth))
    }

    /// The path of a file, counted from 1.
    pub fn path(&self, nth: u32) -> PathBuf {
        if nth <= 1 {
            return self.first.clone();
        }
        let mut name = self.first.clone().into_os_string();
        name.push(format!(".{nth}"));
        PathBuf::from(name)
    }

    /// The directory that they are in.
    pub fn directory(&self) -> &Path {
        match self.first.parent() {
            Some(directory) if directory != Path::new("") => directory,
            _ => Path::new("."),
        }
    }

    /// How many there are.
    ///
    /// # Errors
    /// The directory cannot be read; a file between others is gone.
    pub fn count(&self) -> Result<u32, OpLogError> {
        let name = self.first.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut count = u32::from(self.exists(1)?);
        let mut found = u64::from(count);
        for other in self.disk.list(self.directory())? {
            let suffix = other.strip_prefix(&name).and_then(|rest| rest.strip_prefix('.'));
            let nth = suffix.and_then(|number| number.parse::<u32>().ok());
            if let Some(nth) = nth.filter(|nth| *nth >= 2 && !suffix.is_some_and(has_sign)) {
                (count, found) = (count.max(nth), found + 1);
            }
        }
        if u64::from(count) == found {
            return Ok(count);
        }
        let is_missing = |nth: &u32| self.exists(*nth).is_ok_and(|exists| !exists);
        let missing = (1..count).find(is_missing).unwrap_or(1);
        Err(OpLogError::Missing { path: self.path(missing) })
    }

    /// False where nothing was recorded yet: there is no file, or a first one without bytes.
    ///
    /// # Errors
    /// As [`Parts::count`]; the first file cannot be looked at.
    pub fn has_bytes(&self) -> Result<bool, OpLogError> {
        let has_files = self.disk.exists(self.directory())? && self.count()? > 0;
        Ok(has_files && !self.open(1)?.is_empty()?)
    }

    /// Makes the names of the files durable.
    pub(super) fn sync_directory(&self) -> Result<(), OpLogError> {
        Ok(self.disk.sync_dir(self.directory())?)
    }
}

/// `+2` and `02` are numbers too, and no names that were given here.
fn has_sign(number: &str) -> bool {
    number.starts_with(['+', '0'])
}
