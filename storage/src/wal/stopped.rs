//! The log of a node that does not run, for whoever wants to know what is in it and leave it as it is.
//!
//! Called by the program that makes a new cluster of the last member of an old one; calls `recover`.
//! Invariant:
//!
//! - I1: nothing is written: a torn end stays where it is, and is not among the entries.

use std::ops::Range;
use std::path::Path;

use parking_lot::Mutex;

use super::log::Log;
use super::record::Entry;
use super::recover::{self, Recovery};
use super::{Bounds, State, read};
use crate::disk::Disk;
use crate::{LogId, Result};

/// Nothing is appended, so nothing needs room.
const BOUNDS: Bounds = Bounds { records_bytes_max: 0, tail_bytes_max: 0 };

/// A log that is only read.
#[derive(Debug)]
pub struct StoppedWal {
    log: Mutex<Log>,
}

impl StoppedWal {
    /// Reads the log in `directory`, on which nobody else works.
    ///
    /// # Errors
    /// As [`super::Wal::open`] for a log that is damaged; `Io`.
    pub fn open(disk: &dyn Disk, directory: &Path) -> Result<(StoppedWal, Recovery)> {
        let (index, last_sequence, report) = recover::read_only(disk, directory)?;
        let log = Mutex::new(Log::new(index, last_sequence, BOUNDS));
        Ok((StoppedWal { log }, report))
    }

    /// What the log says.
    pub fn state(&self) -> State {
        self.log.lock().state()
    }

    /// The log id at `index`, if the log holds that entry or was purged to it.
    pub fn log_id_at(&self, index: u64) -> Option<LogId> {
        self.log.lock().index.log_id_at(index)
    }

    /// As [`super::Wal::read`].
    ///
    /// # Errors
    /// `Corrupt` if an entry's CRC does not hold; `Io`.
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>> {
        read::read(&self.log, range, bytes_max)
    }
}
