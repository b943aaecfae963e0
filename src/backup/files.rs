//! Backups on the disk: read to their ends, and put in their order.
//!
//! Called by the sub-commands; calls `storage::backup`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diskstore_storage::LogIndex;
use diskstore_storage::backup::{BackupReader, BackupSummary, ChainError, Piece, summarise};
use diskstore_storage::disk::{Disk, File, RealDisk, WriteMode};
use indicatif::{ProgressBar, ProgressStyle};

use super::ArchiveError;
use super::fetch::Base;

/// A backup that was read to its end.
#[derive(Debug, Clone)]
pub(super) struct Checked {
    pub(super) summary: BackupSummary,
    /// Size of the file.
    pub(super) bytes: u64,
}

pub(super) fn open(path: &Path) -> Result<Arc<dyn File>, ArchiveError> {
    Ok(RealDisk::new().open(path, WriteMode::ReadOnly)?)
}

/// What `-since` names: a file whose end is the index, or an index if there is no such file.
pub(super) fn base(text: &OsStr) -> Result<Base, ArchiveError> {
    let digits = text.to_str().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let digits = digits.filter(|_| !Path::new(text).exists());
    if let Some(since) = digits.and_then(|digits| digits.parse().ok()).filter(|since| *since > 0) {
        return Ok(Base { since: LogIndex::new(since), ..Base::default() });
    }
    let BackupSummary { header, end } = summarise(&open(Path::new(text))?)?;
    let since = LogIndex::new(end.last.index);
    Ok(Base { since, id: header.id, cluster_id: header.cluster_id })
}

/// Reads all of a file.
pub(super) fn check(path: &Path) -> Result<Checked, ArchiveError> {
    let file = open(path)?;
    let bytes = file.len()?;
    let bar = bar("checking", bytes);
    let mut reader = BackupReader::open(file)?;
    let header = reader.header().clone();
    loop {
        match reader.next_piece()? {
            Piece::Requests(_) | Piece::Slots(_) | Piece::Keys(_) | Piece::Entries(_) => {
                bar.set_position(reader.offset());
            }
            Piece::End(end) => {
                bar.finish_and_clear();
                return Ok(Checked { summary: BackupSummary { header, end }, bytes });
            }
            Piece::Broken(reason) => {
                let address = path.display().to_string();
                return Err(ArchiveError::Broken { address, reason });
            }
        }
    }
}

/// Reads all of several files, a full backup and those that continue it, in their order.
pub(super) fn check_chain(paths: &[PathBuf]) -> Result<Vec<Checked>, ArchiveError> {
    // What does not belong together is told before hours are spent on reading.
    let mut before: Option<BackupSummary> = None;
    for path in paths {
        let summary = summarise(&open(path)?)?;
        summary
            .check_behind(before.as_ref())
            .map_err(|source: ChainError| ArchiveError::Chain { path: path.clone(), source })?;
        before = Some(summary);
    }
    paths.iter().map(|path| check(path)).collect()
}

/// Shows on a terminal how far something is.
pub(super) fn bar(what: &'static str, bytes: u64) -> ProgressBar {
    let template = "{msg} [{bar:40}] {bytes} of {total_bytes}, {eta} left";
    let style = ProgressStyle::with_template(template)
        .expect("invariant: the template is a constant")
        .progress_chars("=> ");
    ProgressBar::new(bytes).with_style(style).with_message(what)
}
