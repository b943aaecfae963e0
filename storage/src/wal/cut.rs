//! Keeps a torn end in a file of its own before it is cut off the log.
//!
//! Called by `recover`; calls `disk`.

use std::path::{Path, PathBuf};

use crate::disk::{Disk, File, WriteMode};
use crate::{Error, Result};

/// A torn end that was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The segment that held it.
    pub path: PathBuf,
    /// Where it began there, in bytes.
    pub offset: u64,
    /// Sequence number of the batch that was torn.
    pub sequence: u64,
    /// Bytes that were cut.
    pub bytes: u64,
    /// The file that holds them now; `None` if the disk was too full to keep them, or if the log was only
    /// read and they are where they were.
    pub kept_in: Option<PathBuf>,
}

/// A torn end in its segment.
#[derive(Debug)]
pub(super) struct Torn<'a> {
    /// Number of the segment.
    pub(super) segment: u64,
    pub(super) file: &'a dyn File,
    /// Where it begins, in bytes.
    pub(super) offset: u64,
    pub(super) bytes: u64,
    /// Sequence number of the batch that was torn.
    pub(super) sequence: u64,
}

impl Torn<'_> {
    /// As it is told where it is left in its place.
    pub(super) fn left(&self) -> Cut {
        let Torn { file, offset, bytes, sequence, .. } = *self;
        Cut { path: file.path(), offset, sequence, bytes, kept_in: None }
    }
}

/// Copies the torn end to a file of its own, durably, before anything else changes. Nobody was ever
/// promised these bytes, so a full disk does not keep the log from being opened without them.
pub(super) fn keep(disk: &dyn Disk, aside: &Path, torn: &Torn<'_>) -> Result<Cut> {
    let Torn { segment, file, offset, bytes, sequence } = *torn;
    let name = format!("cut-{segment:016x}-{sequence:016x}");
    let kept_in = aside.join(name);
    if disk.exists(&kept_in)? {
        disk.remove(&kept_in)?; // of a recovery that was cut off itself
    }
    let length = usize::try_from(bytes).expect("invariant: bounded by a batch");
    let mut torn = vec![0; length];
    file.read_at(&mut torn, offset)?;
    let is_kept = match write_aside(disk, &kept_in, &torn) {
        Ok(()) => true,
        Err(Error::NoSpace { .. }) => {
            if disk.exists(&kept_in)? {
                disk.remove(&kept_in)?; // half of it would look like all
            }
            false
        }
        Err(error) => return Err(error),
    };
    disk.sync_dir(aside)?;
    Ok(Cut { path: file.path(), offset, sequence, bytes, kept_in: is_kept.then_some(kept_in) })
}

fn write_aside(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<()> {
    let file = disk.create(path, WriteMode::Buffered)?;
    file.write_at(bytes, 0)?;
    file.sync()
}
