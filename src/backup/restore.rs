//! Makes a node's directory of backups: the state of one index, in a new cluster of one.
//!
//! Called by the sub-command, once all files were read and found good; calls `fresh`, and `machine` and
//! `storage` for what is put in.

use std::path::{Path, PathBuf};

use diskstore_storage::backup::{BackupReader, Piece};
use diskstore_storage::disk::WriteMode;
use diskstore_storage::identity::MachineKind;
use diskstore_storage::slots::Geometry;
use serde::Serialize;

use super::files::{Checked, bar};
use super::fresh::{Founded, Fresh, apply};
use super::{ArchiveError, given, kind_named};
use crate::cli::RestoreFlags;
use crate::config::{self, row};
use crate::host::Host;
use crate::machine::{Images, Machine};

/// What flags ask for, checked as far as that goes without the files.
#[derive(Debug)]
pub(super) struct Wanted {
    name: String,
    to: Option<u64>,
    slot_count: Option<u64>,
    machine: MachineKind,
}

impl Wanted {
    pub(super) fn new(flags: &RestoreFlags) -> Result<Wanted, ArchiveError> {
        let name = match (&flags.id, &flags.data, flags.check) {
            (Some(name), Some(_), _) => config::check_name(name).map(|()| name.clone())?,
            (_, _, true) => String::new(),
            _ => {
                let what =
                    "give -data DIR and -id NAME, the directory and the name of the new node";
                return Err(ArchiveError::Usage(what.to_owned()));
            }
        };
        Ok(Wanted {
            name,
            to: given("to", flags.to.as_ref(), u64::MAX)?,
            slot_count: given("slots", flags.slots.as_ref(), config::SLOT_COUNT_MAX)?,
            machine: kind_named(&flags.program),
        })
    }

    /// Compares it with the files.
    pub(super) fn check(&self, paths: &[PathBuf], checked: &[Checked]) -> Result<(), ArchiveError> {
        let (Some(path), Some(last)) = (paths.last(), checked.last()) else { return Ok(()) };
        let header = &last.summary.header;
        if header.machine != self.machine {
            let (path, of) = (path.clone(), row(header.machine));
            return Err(ArchiveError::OtherProgram {
                path,
                form: "a backup",
                actual: of.content,
                program: of.program,
            });
        }
        if let Some(wanted) = self.slot_count {
            if header.slot_count == 0 {
                let what = "-slots: any bytes are a key of kvstore; leave it out";
                return Err(ArchiveError::Usage(what.to_owned()));
            }
            if wanted < header.slot_count {
                let held = header.slot_count;
                return Err(ArchiveError::Usage(format!(
                    "-slots {wanted}: the backup has {held} slots; give as many or more"
                )));
            }
            Geometry::new(wanted, header.value_bytes)?;
        }
        let end = last.summary.end;
        let (from, end) = (end.exact_from.get(), end.last.index);
        match self.to {
            Some(to) if !(from..=end).contains(&to) => {
                Err(ArchiveError::NotWithin { to, from, end })
            }
            _ => Ok(()),
        }
    }

    /// What is to be made.
    pub(super) fn order(&self, directory: &Path, paths: &[PathBuf], checked: &[Checked]) -> Order {
        let last = checked.last().map(|last| &last.summary);
        Order {
            host: Host::real(),
            directory: directory.to_owned(),
            name: self.name.clone(),
            files: paths.to_vec(),
            bytes: checked.iter().map(|checked| checked.bytes).sum(),
            slot_count: self.slot_count,
            to: self.to.or(last.map(|last| last.end.last.index)).unwrap_or_default(),
        }
    }
}

/// What is to be made of which files, all of them good.
#[derive(Debug, Clone)]
pub struct Order {
    /// Has the disk, and randomness for ids.
    pub host: Host,
    /// The directory of the new node.
    pub directory: PathBuf,
    /// The name of the new node.
    pub name: String,
    /// A full backup and those that continue it.
    pub files: Vec<PathBuf>,
    /// Their sizes together.
    pub bytes: u64,
    /// Number of slots, at least that of the backups; theirs if it is not given.
    pub slot_count: Option<u64>,
    /// The index whose state is wanted.
    pub to: u64,
}

/// What was made.
#[derive(Debug, Clone, Serialize)]
pub struct Restored {
    /// The directory.
    pub directory: String,
    /// The name of the node.
    pub id: String,
    /// The program that it is a node of.
    pub program: &'static str,
    /// The new cluster.
    pub cluster_id: String,
    /// The state is that of this index of the old cluster.
    pub index: u64,
    /// The log of the new cluster goes on behind this index.
    pub checkpoint: u64,
    /// How many slots or keys hold a value.
    pub live: u64,
}

/// Restores. After `Ok` the node survives power loss. After an error nothing but the marker is left, if
/// even that.
///
/// # Errors
/// Of the disk, or of files that have changed since they were checked.
pub fn restore(order: &Order) -> Result<Restored, ArchiveError> {
    let Order { host, directory, name, files, to, .. } = order;
    let header = read(order, files.last())?.header().clone(); // the most slots
    let fresh = Fresh {
        host,
        directory,
        name,
        machine: header.machine,
        slot_count: order.slot_count.unwrap_or(header.slot_count),
        value_bytes: header.value_bytes,
        index: *to,
    };
    let Founded { cluster_id, checkpoint, live, .. } =
        fresh.make(|machine| fill(order, machine))?;
    Ok(Restored {
        directory: directory.display().to_string(),
        id: name.clone(),
        program: row(header.machine).program,
        cluster_id: format!("{cluster_id:032x}"),
        index: *to,
        checkpoint,
        live,
    })
}

fn read<'a>(order: &Order, path: Option<&PathBuf>) -> Result<BackupReader<'a>, ArchiveError> {
    let path = path.ok_or_else(|| ArchiveError::Usage("name the file of a backup".to_owned()))?;
    Ok(BackupReader::open(order.host.disk.open(path, WriteMode::ReadOnly)?)?)
}

/// Puts the content of all files into a machine: slots or keys first, then the entries that make one
/// state of them.
fn fill(order: &Order, machine: &Machine) -> Result<(), ArchiveError> {
    let bar = bar("restoring", order.bytes);
    let mut before = 0;
    for path in &order.files {
        let mut reader = read(order, Some(path))?;
        let begin = reader.header().begin.index;
        machine.request_ids().replace(begin, &[]); // those of the backup's begin count
        loop {
            match reader.next_piece()? {
                Piece::Requests(ids) => {
                    // The reader has checked them.
                    machine.request_ids().replace(begin, &ids);
                }
                Piece::Slots(images) => machine.merge(&Images::Slots(images))?,
                Piece::Keys(images) => machine.merge(&Images::Keys(images))?,
                Piece::Entries(entries) => {
                    for entry in entries.iter().filter(|entry| entry.log_id.index <= order.to) {
                        let applied = apply(machine, entry).and_then(|is_whole| {
                            is_whole.then_some(()).ok_or("a slot that was just written")
                        });
                        applied.map_err(|what| {
                            let reason = format!("entry {}: {what}", entry.log_id.index);
                            ArchiveError::Unfit { path: path.clone(), reason }
                        })?;
                    }
                    let last = entries.last().map_or(0, |entry| entry.log_id.index);
                    machine.request_ids().settle(last.min(order.to));
                }
                Piece::End(_) => break,
                Piece::Broken(reason) => {
                    let address = path.display().to_string();
                    return Err(ArchiveError::Broken { address, reason });
                }
            }
            if let Some(paged) = machine.paged() {
                paged.reclaim_memory(&mut || Ok(()))?;
            }
            bar.set_position(before + reader.offset());
        }
        before += reader.offset();
    }
    bar.finish_and_clear();
    Ok(())
}
