//! Tries the disk below a directory of this machine: what file system it is, what room is left, and how long a
//! sync of one block takes, written as the log writes.
//!
//! - I1: it leaves nothing: its file has no name any more while it is written.
//! - I2: it ends: at most [`SYNC_COUNT_MAX`] syncs within [`PROBE_TIME_MAX`], on a thread of its own that
//!   is not waited for longer, for a disk may hang for ever.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use super::Finding;
use super::Severity::{Error, Warning};
use super::node::{lasting, room};
use crate::client::ClientError;
use crate::client::table::{milliseconds, size};
use crate::file_system;

/// Syncs that are timed.
const SYNC_COUNT_MAX: usize = 256;
/// How long they may take, and how long they are waited for.
const PROBE_TIME_MAX: Duration = Duration::from_secs(3);
const WAIT_TIME_MAX: Duration = Duration::from_secs(10);
/// What one sync makes durable: the smallest batch of a log.
const BLOCK_BYTES: usize = 4096;
/// Half of the syncs of a disk that is meant for this take less, and 99 of 100.
const HALF_SLOW_US: u64 = 20_000;
const MOST_SLOW_US: u64 = 100_000;

/// What a directory's disk is like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Probe {
    /// The directory.
    pub(super) directory: PathBuf,
    /// Kind of its file system, if the system says so.
    pub(super) kind: Option<String>,
    /// Bytes that are left there, if the system says so.
    pub(super) left_bytes: Option<u64>,
    /// How long each sync took, in microseconds, the shortest first.
    pub(super) syncs_us: Vec<u64>,
    /// Why there are no more of them.
    pub(super) failed: Option<String>,
}

impl Probe {
    /// Tries the disk of `directory`.
    ///
    /// # Errors
    /// It is no directory.
    pub(super) fn of(directory: &Path) -> Result<Probe, ClientError> {
        if !directory.is_dir() {
            let given = directory.display().to_string();
            return Err(ClientError::flag("data", &given, "is no directory that is there"));
        }
        let kind = file_system::kind_of(directory).ok();
        let left = rustix::fs::statvfs(directory).ok();
        let left_bytes = left.map(|room| room.f_bavail.saturating_mul(room.f_frsize));
        let (timed, times) = channel();
        let trying = directory.to_owned();
        let thread = std::thread::Builder::new().spawn(move || time_syncs(&trying, &timed));
        let mut probe =
            Probe { directory: directory.to_owned(), kind, left_bytes, ..Probe::default() };
        if let Err(error) = thread {
            probe.failed = Some(error.to_string());
            return Ok(probe);
        }
        let deadline = Instant::now() + WAIT_TIME_MAX;
        loop {
            match times.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Ok(time)) => {
                    probe.syncs_us.push(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
                }
                Ok(Err(error)) => probe.failed = Some(error.to_string()),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    probe.failed = Some(format!("no end within {} s", WAIT_TIME_MAX.as_secs()));
                    break;
                }
            }
        }
        probe.syncs_us.sort_unstable();
        Ok(probe)
    }

    /// The time below which `percent` of the syncs stayed, in microseconds.
    fn percentile_us(&self, percent: usize) -> u64 {
        let place = (self.syncs_us.len() * percent).div_ceil(100).saturating_sub(1);
        self.syncs_us.get(place).copied().unwrap_or_default()
    }

    /// What was found, on one line.
    pub(super) fn summary(&self) -> String {
        let kind = self.kind.as_deref().unwrap_or("file system not known");
        let times = match self.syncs_us.last() {
            None => "no sync was timed".to_owned(),
            Some(longest) => format!(
                "{} syncs, half within {}, 99 of 100 within {}, longest {}",
                self.syncs_us.len(),
                milliseconds(self.percentile_us(50)),
                milliseconds(self.percentile_us(99)),
                milliseconds(*longest)
            ),
        };
        let left =
            self.left_bytes.map_or("room not known".to_owned(), |it| format!("{} left", size(it)));
        format!("{}: {kind}, {left}, {times}", self.directory.display())
    }

    /// What is wrong with it.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let place = self.directory.display().to_string();
        let mut found = Vec::new();
        if let Some(reason) = &self.failed {
            found.push(
                Finding::new(Error, "disk_failed", &place, format!("a sync failed: {reason}"))
                    .why("A node stops at the first write or sync that fails.")
                    .advice("Look at the disk and its rights: dmesg, ls -ld DIR, findmnt -T DIR"),
            );
        }
        let (half, most) = (self.percentile_us(50), self.percentile_us(99));
        if half > HALF_SLOW_US || most > MOST_SLOW_US {
            let words = format!(
                "half of the syncs end within {}, 99 of 100 within {}",
                milliseconds(half),
                milliseconds(most)
            );
            found.push(
                Finding::new(Warning, "slow_disk", &place, words)
                    .why("Each batch of writes waits for a sync of a majority of the members.")
                    .advice("See what else writes to it (iostat -x 1), or take a disk with its own cache protected \
                             against power loss."),
            );
        }
        found.extend(self.left_bytes.and_then(|left| room(&place, left)));
        found.extend(self.kind.as_deref().and_then(|kind| lasting(&place, kind)));
        found
    }
}

/// Writes a block and syncs it, over and over.
fn time_syncs(directory: &Path, timed: &Sender<io::Result<Duration>>) {
    let outcome = (|| {
        let (file, block) = (unnamed(directory)?, [7; BLOCK_BYTES]);
        // As a segment of the log, it has its blocks before they are written.
        file.write_all_at(&vec![0; SYNC_COUNT_MAX * BLOCK_BYTES], 0)?;
        file.sync_all()?;
        let begun = Instant::now();
        for nth in 0..SYNC_COUNT_MAX {
            let at = Instant::now();
            file.write_all_at(&block, (nth * BLOCK_BYTES) as u64)?;
            file.sync_data()?;
            // Whoever waited may have gone.
            if timed.send(Ok(at.elapsed())).is_err() || begun.elapsed() > PROBE_TIME_MAX {
                break;
            }
        }
        Ok(())
    })();
    if let Err(error) = outcome {
        drop(timed.send(Err(error)));
    }
}

/// A new file in `directory` whose name is gone already (I1).
fn unnamed(directory: &Path) -> io::Result<File> {
    let path = directory.join(format!(".diskstore-doctor-{}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(syncs_us: Vec<u64>) -> Probe {
        let (kind, left_bytes) = (Some("ext4".to_owned()), Some(9 << 30));
        Probe { directory: "/d".into(), kind, left_bytes, syncs_us, failed: None }
    }

    fn codes(probe: &Probe) -> Vec<&'static str> {
        probe.findings().iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn a_directory_is_tried_and_left_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let tried = Probe::of(directory.path()).unwrap();
        assert_eq!(tried.failed, None);
        assert!(!tried.syncs_us.is_empty() && tried.syncs_us.is_sorted());
        assert!(tried.left_bytes > Some(0) && tried.kind.is_some());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(tried.summary().contains(" syncs, half within "), "{}", tried.summary());
    }

    #[test]
    fn a_directory_that_is_not_there_is_wrong_usage_and_one_without_rights_a_finding() {
        let directory = tempfile::tempdir().unwrap();
        let gone = Probe::of(&directory.path().join("gone")).unwrap_err();
        assert_eq!(gone.exit_code(), 2);
        // Nobody makes files there, not even root.
        let tried = Probe::of(Path::new("/proc/self")).unwrap();
        assert!(tried.failed.is_some());
        assert!(codes(&tried).contains(&"disk_failed"), "{:?}", tried.findings());
    }

    #[test]
    fn a_slow_full_or_fleeting_disk_is_told() {
        assert_eq!(codes(&probe(vec![900; 256])), [""; 0]);
        assert_eq!(codes(&probe(vec![30_000; 100])), ["slow_disk"]);
        let mut rare = vec![900; 97];
        rare.extend([200_000; 3]);
        assert_eq!(codes(&probe(rare.clone())), ["slow_disk"]);
        rare.splice(97.., [900, 900, 200_000]);
        assert_eq!(codes(&probe(rare)), [""; 0], "one of a hundred may be");
        let full = Probe { left_bytes: Some(1 << 20), ..probe(vec![900]) };
        assert_eq!(codes(&full), ["disk_full"]);
        let memory = Probe { kind: Some("tmpfs".to_owned()), ..probe(vec![9]) };
        assert_eq!(codes(&memory), ["memory_disk"]);
        let failed = Probe { failed: Some("no end within 10 s".to_owned()), ..probe(vec![]) };
        assert_eq!(codes(&failed), ["disk_failed"]);
    }
}
