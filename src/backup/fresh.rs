//! Makes the directory of a new node: some state, in a new cluster of one.
//!
//! Called by `restore` and `recover`, which put the state in; calls `machine` and `storage`. The slots
//! keep the versions that they had, and the log of the new cluster begins far above them: so no version
//! of the state is met again, nor one that the old cluster gave after it. Invariants:
//!
//! - I1: a marker is durable in the directory before anything else is made there, and is removed last.
//!   No node starts where it stands, and whoever makes a node there again begins anew.
//! - I2: every slot's index is below the first index of the new log: no entry is ever taken for one
//!   that a slot contains already.
//! - I3: IDENTITY, which has a start found the cluster, is written after everything that it stands for.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use diskstore_storage::disk::{Disk, WriteMode};
use diskstore_storage::identity::{
    self, Identity, LOCK_NAME, MachineKind, RESTORING_NAME, Standing, TMP_NAME,
};
use diskstore_storage::keys::{self, Keys};
use diskstore_storage::slots::{self, Geometry, Slots};
use diskstore_storage::state::{Membership, Target};
use diskstore_storage::wal::{self, Entry, EntryKind, Wal};
use diskstore_storage::{Error, LogId, MemberId, Term, Vote};

use super::{ArchiveError, local};
use crate::command::{Body, Command, Outcome, Refusal};
use crate::host::Host;
use crate::machine::{ApplyError, DiskMachine, Machine, MemoryMachine};
use crate::node::WAL_NAME;

/// Indexes between the state and the first entry of the new cluster. A client that saw a version which
/// the old cluster gave after it never finds that on another value here, unless that cluster wrote a
/// thousand thousand million entries meanwhile.
const INDEX_GAP: u64 = 1 << 40;
/// Memory that changed slots take before they are written.
pub(super) const MEMORY_BYTES_MAX: u64 = 1 << 30;
/// The term of the new cluster's checkpoint; its first leader has a higher one.
const TERM: Term = Term::new(1);

/// What is to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fresh<'a> {
    /// Has the disk, and randomness for ids.
    pub(super) host: &'a Host,
    /// The directory of the new node.
    pub(super) directory: &'a Path,
    /// Its name.
    pub(super) name: &'a str,
    /// What it holds.
    pub(super) machine: MachineKind,
    /// Number of slots; 0 where keys are no slots.
    pub(super) slot_count: u64,
    /// Most bytes of a value.
    pub(super) value_bytes: u32,
    /// The state is that of this index of the old cluster.
    pub(super) index: u64,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Founded {
    /// The new cluster.
    pub(super) cluster_id: u128,
    /// The log of the new cluster goes on behind this index.
    pub(super) checkpoint: u64,
    /// How many slots or keys hold a value.
    pub(super) live: u64,
    /// Slots that are damaged in it.
    pub(super) damaged: Vec<u64>,
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
    let what = "a new node is made there: name a directory that is new or empty";
    Err(ArchiveError::Taken { path: directory.to_owned(), what })
}

impl Fresh<'_> {
    /// Makes the directory; `fill` puts the state into a machine that is empty. After `Ok` the node
    /// survives power loss. After an error nothing but the marker is left, if even that.
    ///
    /// # Errors
    /// Of the disk, or of `fill`.
    pub(super) fn make(
        &self,
        fill: impl FnOnce(&Machine) -> Result<(), ArchiveError>,
    ) -> Result<Founded, ArchiveError> {
        let Fresh { host, directory, .. } = *self;
        let disk = &*host.disk;
        let _lock = identity::open_directory(disk, directory)?;
        let marker = directory.join(RESTORING_NAME);
        if !disk.exists(&marker)? {
            disk.create(&marker, WriteMode::Buffered)?.sync()?;
            disk.sync_dir(directory)?; // I1
        }
        clear(disk, directory)?;
        let made = self.make_marked(fill);
        // Of two errors the first one matters; the marker stays with what cannot be removed.
        let is_settled = made.is_ok() || clear(disk, directory).is_ok();
        if is_settled {
            disk.remove(&marker)?;
            disk.sync_dir(directory)?;
        }
        made
    }

    fn make_marked(
        &self,
        fill: impl FnOnce(&Machine) -> Result<(), ArchiveError>,
    ) -> Result<Founded, ArchiveError> {
        let Fresh { host, directory, index, .. } = *self;
        let random = || host.random.bytes::<16>().map(u128::from_le_bytes).map_err(local("an id"));
        let cluster_id = random()?.max(1);
        let member_id = u64::try_from(random()? >> 64).unwrap_or(1).max(1);
        let machine = self.create(cluster_id)?;
        machine.open_request_ids(host.disk.clone(), directory, cluster_id)?;
        fill(&machine)?;
        let last = index.checked_add(INDEX_GAP).filter(|last| *last < u64::MAX / 2);
        let what = "for a log that goes on far above it, index";
        let limit = u64::MAX / 2 - INDEX_GAP;
        let last = last.ok_or(Error::OutOfRange { what, value: index, limit })?;
        let checkpoint = LogId { term: TERM, index: last }; // I2
        let ids = machine.request_ids();
        let requests_crc = ids.keep(checkpoint, &ids.at(index))?;
        let target = Target { log_id: checkpoint, membership: Membership::default(), requests_crc };
        let outcome = machine.checkpoint(target, &mut || Ok(()), &AtomicBool::new(false))?;
        if outcome.cancelled {
            let (path, bytes) = (directory.to_owned(), machine.usage().data_bytes);
            return Err(Error::NoSpace { path, bytes }.into());
        }
        self.make_log(checkpoint, MemberId::new(member_id))?;
        let identity = Identity {
            standing: Standing::Founding,
            cluster_id,
            member_id,
            name: self.name.to_owned(),
            slot_count: self.slot_count,
            value_bytes: self.value_bytes,
            machine: self.machine,
        };
        identity::write(&*host.disk, directory, &identity)?; // I3
        Ok(Founded {
            cluster_id,
            checkpoint: last,
            live: machine.usage().live_count.unwrap_or_default(),
            damaged: machine.paged().map(|paged| paged.damaged_slots()).unwrap_or_default(),
        })
    }

    /// An empty machine.
    fn create(&self, cluster_id: u128) -> Result<Machine, ArchiveError> {
        let (disk, directory, value_bytes) = (&self.host.disk, self.directory, self.value_bytes);
        if self.machine != MachineKind::Slots {
            let options = keys::Options::new(u64::MAX); // what a node takes of them is its start's matter
            let new = keys::New { cluster_id, value_bytes, options };
            let keys = Keys::create(disk.clone(), directory, new)?;
            return Ok(Machine::Memory(MemoryMachine::new(Arc::new(keys))));
        }
        let geometry = Geometry::new(self.slot_count, value_bytes)?;
        let options = slots::Options::new(MEMORY_BYTES_MAX);
        let new = slots::New { geometry, cluster_id, options };
        let slots = Slots::create(&**disk, directory, new, &mut |_, _| {})?;
        Ok(Machine::Slots(DiskMachine::new(Arc::new(slots))))
    }

    /// A log that goes on behind the checkpoint, and in which the new member has voted for itself: so its
    /// first term as a leader is above that of the checkpoint.
    fn make_log(&self, checkpoint: LogId, member_id: MemberId) -> Result<(), ArchiveError> {
        let Fresh { host, directory, .. } = *self;
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

/// Applies an entry of the old cluster's log, unless it is about that cluster's members. False if it
/// needed the content of a damaged slot, which stays damaged then; all else of the entry is applied.
///
/// # Errors
/// What is wrong with the entry.
pub(super) fn apply(machine: &Machine, entry: &Entry) -> Result<bool, &'static str> {
    if entry.kind != EntryKind::Normal {
        return Ok(true); // the new cluster has members of its own
    }
    let command = Command::decode(entry.payload.clone()).map_err(|_| "a command of the log")?;
    // No member proposes it, so its slots were others than those of this machine.
    let is_beyond =
        |outcome: &Outcome| matches!(outcome.body, Body::Refused(Refusal::OutOfRange { .. }));
    match machine.apply(entry.log_id.index, &command) {
        Ok(reply) if reply.outcomes.iter().any(is_beyond) => {
            Err("a command for a slot that is not there")
        }
        Ok(_) | Err(ApplyError::NotApplied(_)) => Ok(true), // its request was applied before
        Err(ApplyError::Damaged(_)) => Ok(false),
        Err(ApplyError::Storage(_) | ApplyError::Journal(_)) => {
            Err("a command that cannot be applied")
        }
    }
}
