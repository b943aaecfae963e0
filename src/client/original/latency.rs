//! `<N>c-latency.out`: one latency a line, in nanoseconds, of the first of N clients.
//!
//! - I1: a run's file holds that run alone: it is made anew when the load begins.
//! - I2: latencies are written to the file every second, and at the end.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::super::ClientError;

/// An open file. The first failure stays, and is told at the end.
#[derive(Debug)]
pub(super) struct LatencyFile {
    path: PathBuf,
    file: File,
    failure: Option<io::Error>,
}

impl LatencyFile {
    /// Makes the file of a load of so many clients.
    pub(super) fn create(folder: &Path, clients: u64) -> Result<LatencyFile, ClientError> {
        let path = folder.join(format!("{clients}c-latency.out"));
        match File::create(&path) {
            Ok(file) => Ok(LatencyFile { path, file, failure: None }),
            Err(source) => Err(failed(&path, source)),
        }
    }

    /// Appends latencies, nanoseconds.
    pub(super) fn append(&mut self, latencies: &[u64]) {
        let mut lines = String::with_capacity(latencies.len() * 8);
        for latency in latencies {
            writeln!(lines, "{latency}").expect("invariant: a String takes every write");
        }
        if let (Err(error), None) = (self.file.write_all(lines.as_bytes()), &self.failure) {
            self.failure = Some(error);
        }
    }

    /// Whether all of it was written.
    pub(super) fn finish(self) -> Result<(), ClientError> {
        self.failure.map_or(Ok(()), |source| Err(failed(&self.path, source)))
    }
}

fn failed(path: &Path, source: io::Error) -> ClientError {
    ClientError::local(format!("writing {}", path.display()), source)
}
