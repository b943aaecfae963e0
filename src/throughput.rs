//! `-throughput-folder`: a file with one number a line, how many commands of clients this node has
//! answered with success in each second. The program opens it before the node and ends it after;
//! nothing else calls this.
//!
//! - I1: the sum of a run's lines is the number of its successes: those after the last whole second
//!   have a line of their own at the end, if there are any.
//! - I2: line `n` of a run is its second `n`, even if the process did not run for a while: seconds
//!   in which it did not count are 0.
//! - I3: a run appends to the file, because a restart is part of an experiment and must not lose
//!   its beginning. Each line is handed to the system as it is counted.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What one line stands for.
const SECOND: Duration = Duration::from_secs(1);
/// Most seconds that get a line of 0 each after the process did not run.
const GAP_COUNT_MAX: u32 = 86_400;

/// Why there is no such file.
#[derive(Debug, thiserror::Error)]
#[error("-throughput-folder: {} cannot be written", path.display())]
pub struct ThroughputError {
    /// The file.
    path: PathBuf,
    /// The operating system's word.
    source: io::Error,
}

/// The open file; nothing is counted yet.
#[derive(Debug)]
pub struct ThroughputFile {
    path: PathBuf,
    file: File,
}

/// Counts until it is dropped.
#[derive(Debug)]
pub struct Recording {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ThroughputFile {
    /// Opens the file of the node `id` in `folder`, and makes both if they are not there.
    ///
    /// # Errors
    /// [`ThroughputError`]
    pub fn open(folder: &Path, id: &str) -> Result<ThroughputFile, ThroughputError> {
        let path = folder.join(format!("{id}-throughput.out"));
        let opened = std::fs::create_dir_all(folder)
            .and_then(|()| File::options().create(true).append(true).open(&path)); // I3
        match opened {
            Ok(file) => Ok(ThroughputFile { path, file }),
            Err(source) => Err(ThroughputError { path, source }),
        }
    }

    /// Writes from now on, each second, by how much `successes` has grown.
    ///
    /// # Errors
    /// The system starts no thread.
    pub fn record(self, successes: Arc<AtomicU64>) -> Result<Recording, ThroughputError> {
        let (end, ended) = channel();
        let path = self.path.clone();
        let before = successes.load(Ordering::Relaxed);
        let news = News { successes, before };
        let run = move || {
            if let Err(source) = write_seconds(&self.file, news, &ended) {
                let error = ThroughputError { path: self.path, source };
                tracing::error!(error = crate::fault::chain(&error), "throughput goes unrecorded");
            }
        };
        let thread = std::thread::Builder::new().name("throughput".into()).spawn(run);
        let thread = thread.map_err(|source| ThroughputError { path, source })?;
        Ok(Recording { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that records throughput panicked");
        }
    }
}

/// What has come since it was asked last.
struct News {
    successes: Arc<AtomicU64>,
    before: u64,
}

impl News {
    fn take(&mut self) -> u64 {
        let now = self.successes.load(Ordering::Relaxed);
        now - std::mem::replace(&mut self.before, now)
    }
}

fn write_seconds(mut file: &File, mut news: News, ended: &Receiver<()>) -> io::Result<()> {
    let mut due = Instant::now() + SECOND;
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if ended.recv_timeout(left) != Err(RecvTimeoutError::Timeout) {
            let rest = news.take();
            return if rest > 0 { writeln!(file, "{rest}") } else { Ok(()) };
        }
        let mut lines = format!("{}\n", news.take());
        due += SECOND;
        for _ in 0..GAP_COUNT_MAX {
            if due > Instant::now() {
                break;
            }
            lines.push_str("0\n"); // I2
            due += SECOND;
        }
        file.write_all(lines.as_bytes())?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_goes_on_behind_the_first_and_no_success_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let within = folder.path().join("new");
        let successes = Arc::new(AtomicU64::new(7)); // from before the recording
        for _ in 0..2 {
            let recording = ThroughputFile::open(&within, "n").unwrap();
            let recording = recording.record(successes.clone()).unwrap();
            successes.fetch_add(41, Ordering::Relaxed);
            drop(recording);
        }
        let text = std::fs::read_to_string(within.join("n-throughput.out")).unwrap();
        let numbers: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(numbers.iter().sum::<u64>(), 82, "{text}");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = ThroughputFile::open(file.path(), "n").unwrap_err().to_string();
        let expected = format!("{}/n-throughput.out cannot be written", file.path().display());
        assert!(error.contains(&expected), "{error}");
    }
}
