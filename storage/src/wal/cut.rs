//! A torn end: it is kept in a file of its own before it is cut off the log.
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
    /// The file that holds them now; `None` if the disk was too full to keep them.
    pub kept_in: Option<PathBuf>,
}

/// Copies the torn end to a file of its own, durably, before anything else changes. Nobody was ever
/// promised these bytes, so a full disk does not keep the log from being opened without them.
pub(super) fn keep(
    disk: &dyn Disk,
    aside: &Path,
    (id, file): (u64, &dyn File),
    (offset, bytes): (u64, u64),
    sequence: u64,
) -> Result<Cut> {
    let name = format!("cut-{id:016x}-{sequence:016x}");
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
