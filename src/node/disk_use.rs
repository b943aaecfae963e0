//! Measures how much of its disk a node uses, and how much is left.
//!
//! A task measures now and then, because asking the file system may take long and `status` must not
//! wait for a disk.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::open::WAL_NAME;
use crate::file_system;

/// How often it is measured.
const PERIOD: Duration = Duration::from_secs(2);
/// Bytes of the unit that the system counts a file's blocks in: stat(2).
const BLOCK_BYTES: u64 = 512;
/// Most folders below the directory that are looked into.
const FOLDER_COUNT_MAX: usize = 16;

/// The last measurement.
#[derive(Debug, Default)]
pub(super) struct DiskUse {
    used_bytes: AtomicU64,
    log_bytes: AtomicU64,
    left_bytes: AtomicU64,
    /// Kind of the file system, once the system has said it; a directory stays where it is.
    file_system: OnceLock<String>,
}

/// One measurement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Measured {
    /// Bytes of all files in the node's directory.
    pub(super) used_bytes: u64,
    /// Of these, bytes of the log's segments, those included that wait to be used.
    pub(super) log_bytes: u64,
    /// Bytes that a program without privileges can still write there.
    pub(super) left_bytes: u64,
}

impl DiskUse {
    /// The last measurement; zeros before the first.
    pub(super) fn last(&self) -> Measured {
        let load = |bytes: &AtomicU64| bytes.load(Ordering::Relaxed);
        Measured {
            used_bytes: load(&self.used_bytes),
            log_bytes: load(&self.log_bytes),
            left_bytes: load(&self.left_bytes),
        }
    }

    /// Kind of the file system that the directory is on, if it is known.
    pub(super) fn file_system(&self) -> Option<String> {
        self.file_system.get().cloned()
    }

    /// Asks the system for what does not change.
    fn look_at(&self, directory: &Path) {
        match file_system::kind_of(directory) {
            Ok(kind) => drop(self.file_system.set(kind)),
            Err(error) => tracing::debug!(%error, "the kind of the file system is not known"),
        }
    }

    fn note(&self, measured: Measured) {
        self.used_bytes.store(measured.used_bytes, Ordering::Relaxed);
        self.log_bytes.store(measured.log_bytes, Ordering::Relaxed);
        self.left_bytes.store(measured.left_bytes, Ordering::Relaxed);
    }
}

/// Measures until the task is dropped.
pub(super) async fn keep_measured(directory: PathBuf, disk_use: Arc<DiskUse>) {
    let (looking, looked_at) = (disk_use.clone(), directory.clone());
    // A file system of another machine may be long in answering: it is not waited for.
    drop(tokio::task::spawn_blocking(move || looking.look_at(&looked_at)));
    loop {
        let directory = directory.clone();
        match tokio::task::spawn_blocking(move || measure(&directory)).await {
            Ok(Ok(measured)) => disk_use.note(measured),
            Ok(Err(error)) => tracing::debug!(%error, "the disk was not measured"),
            Err(_) => return, // the runtime ends
        }
        tokio::time::sleep(PERIOD).await;
    }
}

fn measure(directory: &Path) -> io::Result<Measured> {
    let mut measured = Measured::default();
    let mut folders = vec![directory.to_owned()];
    for _ in 0..FOLDER_COUNT_MAX {
        let Some(folder) = folders.pop() else { break };
        let is_log = folder.ends_with(WAL_NAME);
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let Ok(found) = entry.metadata() else { continue }; // renamed or removed meanwhile
            if found.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let bytes = found.blocks() * BLOCK_BYTES;
            measured.used_bytes += bytes;
            measured.log_bytes += if is_log { bytes } else { 0 };
        }
    }
    let room = rustix::fs::statvfs(directory)?;
    measured.left_bytes = room.f_bavail.saturating_mul(room.f_frsize);
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_and_those_of_the_log_apart() {
        let directory = tempfile::tempdir().unwrap();
        let empty = measure(directory.path()).unwrap();
        assert_eq!((empty.used_bytes, empty.log_bytes), (0, 0));
        assert!(empty.left_bytes > 0);
        std::fs::create_dir(directory.path().join(WAL_NAME)).unwrap();
        std::fs::write(directory.path().join("slots.dat"), [1; 8192]).unwrap();
        std::fs::write(directory.path().join(WAL_NAME).join("1.wal"), [1; 4096]).unwrap();
        let measured = measure(directory.path()).unwrap();
        assert_eq!((measured.used_bytes, measured.log_bytes), (12_288, 4096));
        let disk_use = DiskUse::default();
        disk_use.note(measured);
        assert_eq!((disk_use.last(), disk_use.file_system()), (measured, None));
        disk_use.look_at(directory.path());
        assert_eq!(disk_use.file_system(), file_system::kind_of(directory.path()).ok());
        assert!(disk_use.file_system().is_some());
    }

    #[test]
    fn a_directory_that_has_gone_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let gone = directory.path().join("gone");
        assert!(measure(&gone).is_err());
    }
}
