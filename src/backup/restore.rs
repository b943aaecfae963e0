//! Makes a node's directory of backups: the state of one index, in a new cluster of one.
//!
//! Called by the sub-command, once all files were read and found good; calls `machine` and `storage`.
//! The slots keep the versions that they had, and the log of the new cluster begins far above them:
//! so no version of the restored state is met again, nor one that the old cluster gave after the
//! backup. Invariants:
//!
//! - I1: a marker is durable in the directory before anything else is made there, and is removed last.
//!   No node starts where it stands, and another restore begins anew there.
//! - I2: every slot's index is below the first index of the new log: no entry is ever taken for one
//!   that a slot contains already.
//! - I3: IDENTITY, which has a start found the cluster, is written after everything that it stands for.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use diskstore_storage::backup::{BackupHeader, BackupReader, Piece};
use diskstore_storage::disk::{Disk, WriteMode};
use diskstore_storage::identity::{
    self, Identity, LOCK_NAME, MachineKind, RESTORING_NAME, Standing, TMP_NAME,
};
use diskstore_storage::keys::{self, Keys};
use diskstore_storage::slots::{self, Geometry, Slots};
use diskstore_storage::state::{Membership, Target};
use diskstore_storage::wal::{self, Entry, EntryKind, Wal};
use diskstore_storage::{Error, LogId, MemberId, Term, Vote};
use serde::Serialize;

use super::files::{Checked, bar};
use super::{ArchiveError, given, local};
use crate::cli::RestoreFlags;
use crate::command::Command;
use crate::config::{self, row};
use crate::host::Host;
use crate::machine::{DiskMachine, Images, Machine, MemoryMachine};
use crate::node::WAL_NAME;

/// Indexes between the restored state and the first entry of the new cluster. A client that saw a
/// version which the old cluster gave after the backup never finds it on another value here, unless
/// that cluster wrote a thousand thousand million entries meanwhile.
const INDEX_GAP: u64 = 1 << 40;
/// Memory that changed slots take before they are written.
const MEMORY_BYTES_MAX: u64 = 1 << 30;
/// The term of the new cluster's checkpoint; its first leader has a higher one.
const TERM: Term = Term::new(1);

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
        let kinds = [MachineKind::Slots, MachineKind::Memory];
        let machine = kinds.into_iter().find(|kind| row(*kind).program == flags.program);
        Ok(Wanted {
            name,
            to: given("to", flags.to.as_ref(), u64::MAX)?,
            slot_count: given("slots", flags.slots.as_ref(), config::SLOT_COUNT_MAX)?,
            machine: machine.unwrap_or(MachineKind::Slots),
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

/// Fails if there is anything in a directory but what an unfinished restore has left.
pub(super) fn check_directory(directory: &Path) -> Result<(), ArchiveError> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(local(format!("reading {}", directory.display())))?,
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
    let names = names.collect::<Result<Vec<_>, _>>().map_err(local("reading the directory"))?;
    let is_begun = names.iter().any(|name| name == RESTORING_NAME);
    if is_begun || names.iter().all(|name| name == LOCK_NAME || name == TMP_NAME) {
        return Ok(());
    }
    let what = "a restore makes a new node: name a directory that is new or empty";
    Err(ArchiveError::Taken { path: directory.to_owned(), what })
}

/// Restores. After `Ok` the node survives power loss. After an error nothing but the marker is left, if
/// even that.
///
/// # Errors
/// Of the disk, or of files that have changed since they were checked.
pub fn restore(order: &Order) -> Result<Restored, ArchiveError> {
    let Order { host, directory, .. } = order;
    let disk = &*host.disk;
    let _lock = identity::open_directory(disk, directory)?;
    let marker = directory.join(RESTORING_NAME);
    if !disk.exists(&marker)? {
        disk.create(&marker, WriteMode::Buffered)?.sync()?;
        disk.sync_dir(directory)?; // I1
    }
    clear(disk, directory)?;
    let made = make(order);
    // Of two errors the first one matters; the marker stays with what cannot be removed.
    let is_settled = made.is_ok() || clear(disk, directory).is_ok();
    if is_settled {
        disk.remove(&marker)?;
        disk.sync_dir(directory)?;
    }
    made
}

/// Removes what an unfinished restore has left, but for the marker.
fn clear(disk: &dyn Disk, directory: &Path) -> Result<(), ArchiveError> {
    for folder in [directory.to_owned(), directory.join(WAL_NAME), directory.join(TMP_NAME)] {
        if !disk.exists(&folder)? {
            continue;
        }
        for name in disk.list(&folder)? {
            if folder != *directory || ![LOCK_NAME, RESTORING_NAME].contains(&name.as_str()) {
                disk.remove(&folder.join(name))?;
            }
        }
        disk.sync_dir(&folder)?;
    }
    Ok(())
}

fn make(order: &Order) -> Result<Restored, ArchiveError> {
    let Order { host, directory, name, files, to, .. } = order;
    let header = read(order, files.first())?.header().clone();
    let random = || host.random.bytes::<16>().map(u128::from_le_bytes).map_err(local("an id"));
    let cluster_id = random()?.max(1);
    let member_id = u64::try_from(random()? >> 64).unwrap_or(1).max(1);
    let slot_count = order.slot_count.unwrap_or(header.slot_count);
    let machine = create(order, &header, cluster_id)?;
    fill(order, &machine)?;
    let last = to.checked_add(INDEX_GAP).filter(|last| *last < u64::MAX / 2);
    let what = "for a log that goes on far above it, index";
    let last =
        last.ok_or(Error::OutOfRange { what, value: *to, limit: u64::MAX / 2 - INDEX_GAP })?;
    let checkpoint = LogId { term: TERM, index: last }; // I2
    let target = Target { log_id: checkpoint, membership: Membership::default() };
    let outcome = machine.checkpoint(target, &mut || Ok(()), &AtomicBool::new(false))?;
    if outcome.cancelled {
        let (path, bytes) = (directory.clone(), machine.usage().data_bytes);
        return Err(Error::NoSpace { path, bytes }.into());
    }
    make_log(order, checkpoint, MemberId::new(member_id))?;
    let identity = Identity {
        standing: Standing::Founding,
        cluster_id,
        member_id,
        name: name.clone(),
        slot_count,
        value_bytes: header.value_bytes,
        machine: header.machine,
    };
    identity::write(&*host.disk, directory, &identity)?; // I3
    Ok(Restored {
        directory: directory.display().to_string(),
        id: name.clone(),
        program: row(header.machine).program,
        cluster_id: format!("{cluster_id:032x}"),
        index: *to,
        checkpoint: last,
        live: machine.usage().live_count.unwrap_or_default(),
    })
}

fn read<'a>(order: &Order, path: Option<&PathBuf>) -> Result<BackupReader<'a>, ArchiveError> {
    let path = path.ok_or_else(|| ArchiveError::Usage("name the file of a backup".to_owned()))?;
    Ok(BackupReader::open(order.host.disk.open(path, WriteMode::ReadOnly)?)?)
}

/// An empty machine of the backup's kind.
fn create(order: &Order, header: &BackupHeader, id: u128) -> Result<Machine, ArchiveError> {
    let (disk, directory) = (&order.host.disk, &order.directory);
    let value_bytes = header.value_bytes;
    if header.machine != MachineKind::Slots {
        let options = keys::Options::new(u64::MAX); // what a node takes of them is its start's matter
        let new = keys::New { cluster_id: id, value_bytes, options };
        let keys = Keys::create(disk.clone(), directory, new)?;
        return Ok(Machine::Memory(MemoryMachine::new(Arc::new(keys))));
    }
    let geometry = Geometry::new(order.slot_count.unwrap_or(header.slot_count), value_bytes)?;
    let options = slots::Options::new(MEMORY_BYTES_MAX);
    let new = slots::New { geometry, cluster_id: id, options };
    let slots = Slots::create(&**disk, directory, new, &mut |_, _| {})?;
    Ok(Machine::Slots(DiskMachine::new(Arc::new(slots))))
}

/// Puts the content of all files into a machine: slots or keys first, then the entries that make one
/// state of them.
fn fill(order: &Order, machine: &Machine) -> Result<(), ArchiveError> {
    let bar = bar("restoring", order.bytes);
    let mut before = 0;
    for path in &order.files {
        let mut reader = read(order, Some(path))?;
        loop {
            let offset = reader.offset();
            match reader.next_piece()? {
                Piece::Slots(images) => machine.merge(&Images::Slots(images))?,
                Piece::Keys(images) => machine.merge(&Images::Keys(images))?,
                Piece::Entries(entries) => {
                    for entry in entries.iter().filter(|entry| entry.log_id.index <= order.to) {
                        apply(machine, entry).map_err(|what| {
                            let path = path.clone();
                            Error::Corrupt { path, offset, what }
                        })?;
                    }
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

fn apply(machine: &Machine, entry: &Entry) -> Result<(), &'static str> {
    if entry.kind != EntryKind::Normal {
        return Ok(()); // the new cluster has members of its own
    }
    let command = Command::decode(entry.payload.clone()).map_err(|_| "a command of the log")?;
    let applied = machine.apply(entry.log_id.index, &command);
    applied.map(drop).map_err(|_| "a command that cannot be applied")
}

/// A log that goes on behind the checkpoint, and in which the new member has voted for itself: so its
/// first term as a leader is above that of the checkpoint.
fn make_log(order: &Order, checkpoint: LogId, member_id: MemberId) -> Result<(), ArchiveError> {
    let Order { host, directory, .. } = order;
    let random = host.random.clone();
    let what = "invariant: Linux has random bytes once it has started";
    let nonces = wal::Nonces::new(move || u128::from_le_bytes(random.bytes().expect(what)));
    let (folder, aside) = (directory.join(WAL_NAME), directory.join(TMP_NAME));
    // Two records; the node goes on in segments of its own size.
    let options =
        wal::Options { segment_bytes: wal::SEGMENT_BYTES_MIN, ..wal::Options::new(nonces) };
    let (wal, _) = Wal::open(host.disk.clone(), &folder, &aside, &options)?;
    wal.save_vote(Vote { term: TERM, node_id: member_id, committed: true });
    wal.purge(checkpoint);
    while let Some(batch) = wal.seal() {
        wal.write(batch)?;
    }
    Ok(wal.sync()?)
}
