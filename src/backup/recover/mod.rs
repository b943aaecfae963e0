//! The sub-command `recover`: what the directory of a member holds whose cluster has lost its majority,
//! and a new cluster of one, made of it.
//!
//! Called by the sub-command; calls `fresh`, and `machine`, `raft` and `storage` to read the directory.
//! What the other members knew and this one does not cannot be had again, and which of its last entries
//! they had acknowledged it cannot know. So the least is done to it: the directory is only read, and
//! whoever finds a better survivor later has lost nothing. Invariants:
//!
//! - I1: nothing is written to the old directory but what every start puts right in its data file (the last
//!   round of a checkpoint, a bad superblock): it is as good as before, also after a crash in the middle.
//! - I2: its lock is held meanwhile, so no node runs in it.
//! - I3: the state is that of one index: all entries up to it are applied and none behind it.
//! - I4: a slot that is damaged there is damaged in the new node too, and never an empty one.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use diskstore_storage::disk::Lock;
use diskstore_storage::identity::{
    self, IDENTITY_NAME, Identity, LOCK_NAME, MachineKind, RESTORING_NAME, Standing,
};
use diskstore_storage::keys::{self, Keys};
use diskstore_storage::slots::{self, Slots};
use diskstore_storage::state::{Membership, PAGE_BYTES};
use diskstore_storage::wal::{Entry, EntryKind, Recovery, StoppedWal};
use diskstore_storage::{Error, LogId, SlotIndex};

use super::files::bar;
use super::fresh::{Founded, Fresh, MEMORY_BYTES_MAX, apply};
use super::survey::{Known, Remade, Survey};
use super::{ArchiveError, kind_named};
use crate::cli::RecoverFlags;
use crate::config::row;
use crate::host::Host;
use crate::machine::{DiskMachine, Images, Machine, MemoryMachine};
use crate::node::WAL_NAME;
use crate::raft::{LogMember, members_in, slot_count_of};

/// Bytes of slots, keys or entries that are handled at once.
const PIECE_BYTES: usize = 4 << 20;
/// Pages that are read between two movements of the bar.
const LEARN_PAGES: u64 = 2048;

/// Which entries count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upto {
    /// All that the log holds.
    Last,
    /// Those of which this member knows that they were committed.
    Committed,
}

/// The directory of a member that does not run, opened.
#[derive(Debug)]
pub(super) struct Survivor {
    host: Host,
    directory: PathBuf,
    identity: Identity,
    machine: Machine,
    wal: StoppedWal,
    recovery: Recovery,
    /// The last entry in the content; some of what follows may be there too.
    checkpoint: Option<LogId>,
    /// The last entry that is known to be committed.
    committed: Option<LogId>,
    /// The last entry of the log.
    last: Option<LogId>,
    members: Vec<LogMember>,
    #[expect(dead_code, reason = "held (I2)")]
    lock: Box<dyn Lock>,
}

/// When anything in a log was written last.
pub(super) fn last_written(directory: &Path) -> Option<SystemTime> {
    let files = std::fs::read_dir(directory.join(WAL_NAME)).ok()?;
    let times = files.filter_map(|file| file.ok()?.metadata().ok()?.modified().ok());
    times.max()
}

impl Survivor {
    /// Opens the directory that flags name.
    ///
    /// # Errors
    /// It is in use, of another program, damaged, or none of a member.
    pub(super) fn open(host: &Host, flags: &RecoverFlags) -> Result<Survivor, ArchiveError> {
        let (disk, directory) = (&host.disk, flags.data.as_path());
        if !disk.exists(&directory.join(IDENTITY_NAME))? {
            return Err(unfit(directory, "there is no node's directory here (no IDENTITY)"));
        }
        let lock = disk.lock(&directory.join(LOCK_NAME))?; // I2
        let identity = identity::read(&**disk, directory)?
            .ok_or_else(|| unfit(directory, "its IDENTITY is gone"))?;
        check_identity(host, directory, &identity, kind_named(&flags.program))?;
        if !disk.exists(&directory.join(WAL_NAME))? {
            return Err(unfit(directory, "its log is gone"));
        }
        let (wal, recovery) = StoppedWal::open(&**disk, &directory.join(WAL_NAME))?;
        let state = wal.state();
        if state.vote.is_none() {
            return Err(unfit(directory, "its log is gone"));
        }
        let machine = open_machine(host, directory, &identity)?;
        let durable = machine.durable();
        let checkpoint = durable.as_ref().map(|durable| durable.log_id);
        if state.purged > checkpoint {
            return Err(unfit(directory, "its log begins behind its checkpoint: entries are gone"));
        }
        // A log that contradicts the checkpoint is older than it: a snapshot took its place.
        let goes_on = checkpoint.is_none_or(|at| wal.log_id_at(at.index) == Some(at));
        let of_log = |log_id: Option<LogId>| log_id.filter(|_| goes_on).max(checkpoint);
        let (committed, last) = (of_log(state.committed), of_log(state.last));
        let stored = durable.map(|durable| durable.membership).unwrap_or_default();
        let mut survivor = Survivor {
            host: host.clone(),
            directory: directory.to_owned(),
            identity,
            machine,
            wal,
            recovery,
            checkpoint,
            committed,
            last,
            members: Vec::new(),
            lock,
        };
        survivor.members = survivor.newest_members(&stored)?;
        Ok(survivor)
    }

    /// Indexes of the log behind the checkpoint, up to an entry.
    fn tail(&self, upto: Option<LogId>) -> Range<u64> {
        let next = |log_id: LogId| log_id.index + 1;
        let first = self.checkpoint.map_or(0, next).max(self.wal.state().first_index);
        first..upto.map_or(0, next).max(first)
    }

    /// Hands the entries of a range to `visit`, in their order.
    fn each_entry(
        &self,
        range: Range<u64>,
        visit: &mut dyn FnMut(&Entry) -> Result<(), ArchiveError>,
    ) -> Result<(), ArchiveError> {
        let mut next = range.start;
        while next < range.end {
            let entries = self.wal.read(next..range.end, PIECE_BYTES)?;
            if entries.first().is_none_or(|first| first.log_id.index != next) {
                return Err(unfit(&self.directory, &format!("its log lacks entry {next}")));
            }
            entries.iter().try_for_each(&mut *visit)?;
            next += entries.len() as u64;
        }
        Ok(())
    }

    /// The members as the last membership has them that the log holds, committed or not.
    fn newest_members(&self, stored: &Membership) -> Result<Vec<LogMember>, ArchiveError> {
        let mut body = stored.body.clone();
        self.each_entry(self.tail(self.last), &mut |entry| {
            if entry.kind == EntryKind::Membership {
                body = entry.payload.bytes().clone();
            }
            Ok(())
        })?;
        if body.is_empty() {
            return Ok(Vec::new());
        }
        members_in(&body).map_err(|_| unfit(&self.directory, "a membership in it cannot be read"))
    }

    /// How many slots its cluster has: its file may have room for more, which no member may use yet.
    fn slot_count(&self) -> u64 {
        match self.identity.machine {
            MachineKind::Slots => {
                let agreed = slot_count_of(self.members.iter().map(|known| &known.member));
                self.identity.slot_count.max(agreed)
            }
            MachineKind::Memory | MachineKind::Journal => 0,
        }
    }

    fn own(&self) -> Option<&LogMember> {
        self.members.iter().find(|known| known.id == self.identity.member_id)
    }

    /// `voter`, `standby`, `learner` or `removed`.
    fn role(&self) -> &'static str {
        self.own().map_or("removed", LogMember::role)
    }

    /// Reads all of it, and says what there is.
    pub(super) fn survey(&self, written: Option<SystemTime>) -> Survey {
        self.learn();
        let age = |at: SystemTime| SystemTime::now().duration_since(at).ok();
        let since_1970 = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).ok();
        let Identity { name, machine, cluster_id, member_id, .. } = &self.identity;
        let known = |known: &LogMember| Known {
            id: known.member.name.clone(),
            votes: known.votes,
            raft_address: known.member.raft_address.clone(),
            client_address: known.member.client_address.clone(),
        };
        let index_of = |log_id: Option<LogId>| log_id.map_or(0, |log_id| log_id.index);
        let (last, committed) = (index_of(self.last), index_of(self.committed));
        Survey {
            directory: self.directory.display().to_string(),
            id: name.clone(),
            program: row(*machine).program,
            cluster_id: format!("{cluster_id:032x}"),
            member_id: format!("{member_id:016x}"),
            role: self.role(),
            term: self.wal.state().vote.map_or(0, |vote| vote.term.get()),
            last,
            last_term: self.last.map_or(0, |last| last.term.get()),
            committed,
            uncertain: last.saturating_sub(committed),
            checkpoint: index_of(self.checkpoint),
            readable_from: self.machine.readable_from(),
            written_s: written.and_then(since_1970).map(|time| time.as_secs()),
            age_s: written.and_then(age).map(|time| time.as_secs()),
            torn_bytes: self.recovery.cut.as_ref().map_or(0, |cut| cut.bytes),
            slots: self.slot_count(),
            value_bytes: self.identity.value_bytes,
            live: self.machine.usage().live_count,
            damaged_slots: self.machine.paged().map(|of| of.damaged_slots()).unwrap_or_default(),
            members: self.members.iter().map(known).collect(),
            refusal: self.refusal(Upto::Last),
        }
    }

    /// Reads and checks all slots.
    fn learn(&self) {
        let Some(paged) = self.machine.paged() else { return };
        let bar = bar("reading", self.machine.usage().data_bytes);
        let mut page = Some(0);
        while let Some(from) = page {
            page = paged.learn(from, LEARN_PAGES);
            bar.set_position(page.unwrap_or_default() * PAGE_BYTES);
        }
        bar.finish_and_clear();
    }

    fn end_of(&self, upto: Upto) -> Option<LogId> {
        match upto {
            Upto::Last => self.last,
            Upto::Committed => self.committed,
        }
    }

    /// Why no new cluster is made of it.
    fn refusal(&self, upto: Upto) -> Option<String> {
        let end = self.end_of(upto).map_or(0, |end| end.index);
        let readable_from = self.machine.readable_from();
        match self.role() {
            "voter" | "standby" => {}
            role => {
                let role = if role == "removed" { "removed" } else { "a learner" };
                return Some(format!(
                    "this member counts in no majority (it is {role}), so nobody waited for it: \
                     recover another member, or restore a backup"
                ));
            }
        }
        (readable_from > end).then(|| {
            format!(
                "this member was receiving a snapshot: its content is of different moments up to \
                 entry {readable_from}, and the entries that make one state of it end at {end}. \
                 Recover another member, or restore a backup"
            )
        })
    }

    /// Makes a new node of it, in a directory that is new or empty.
    ///
    /// # Errors
    /// It is refused; of the disk.
    pub(super) fn remake(&self, directory: &Path, upto: Upto) -> Result<Remade, ArchiveError> {
        if let Some(reason) = self.refusal(upto) {
            return Err(unfit(&self.directory, &reason));
        }
        let end = self.end_of(upto);
        let index = end.map_or(0, |end| end.index);
        let Identity { name, machine, value_bytes, .. } = &self.identity;
        let fresh = Fresh {
            host: &self.host,
            directory,
            name,
            machine: *machine,
            slot_count: self.slot_count(),
            value_bytes: *value_bytes,
            index,
        };
        let Founded { cluster_id, checkpoint, live, damaged } =
            fresh.make(|machine| self.fill(machine, end))?;
        let committed = self.committed.map_or(0, |committed| committed.index);
        Ok(Remade {
            directory: directory.display().to_string(),
            cluster_id: format!("{cluster_id:032x}"),
            index,
            checkpoint,
            live,
            uncertain: index.saturating_sub(committed),
            damaged_slots: damaged,
        })
    }

    /// Puts what is here into a machine: the content, then the entries behind the checkpoint (I3).
    fn fill(&self, machine: &Machine, end: Option<LogId>) -> Result<(), ArchiveError> {
        match (&self.machine, machine) {
            (Machine::Slots(from), Machine::Slots(to)) => {
                copy_slots(from.slots(), to.slots(), machine)?;
            }
            _ => self.copy(machine)?,
        }
        let (from, to) = (self.machine.request_ids(), machine.request_ids());
        let begin = self.checkpoint.map_or(0, |checkpoint| checkpoint.index);
        if !to.replace(begin, &from.at(begin)) {
            return Err(unfit(&self.directory, "its request ids are not those of its checkpoint"));
        }
        self.each_entry(self.tail(end), &mut |entry| {
            // A damaged slot stays damaged then (I4).
            apply(machine, entry).map(drop).map_err(|what| {
                unfit(&self.directory, &format!("entry {}: {what}", entry.log_id.index))
            })?;
            to.settle(entry.log_id.index);
            make_room(machine)
        })
    }

    fn copy(&self, machine: &Machine) -> Result<(), ArchiveError> {
        let mut from = Some(0);
        while let Some(at) = from {
            let (images, next) = self.machine.scan(at, 0, PIECE_BYTES)?;
            machine.merge(&images)?;
            from = next;
        }
        Ok(())
    }
}

/// Copies slots with their versions, and damage with them (I4).
fn copy_slots(from: &Slots, to: &Slots, machine: &Machine) -> Result<(), ArchiveError> {
    let geometry = from.geometry();
    let slot_count = to.geometry().slot_count(); // behind these nothing was ever written
    let bar = bar("copying", geometry.slot_count().min(slot_count) * geometry.slot_bytes());
    let mut next = Some(0);
    while let Some(slot) = next.filter(|slot| *slot < slot_count) {
        let mut images = Vec::new();
        let scanned = from.scan(slot, 0, PIECE_BYTES, &mut images);
        machine.merge(&Images::Slots(images))?;
        next = match scanned {
            Ok(next) => next,
            Err(Error::Corrupt { path, offset, what }) => {
                let unknown = Error::Corrupt { path, offset, what };
                let slot = geometry.key_at(offset).ok_or(unknown)?;
                if slot < slot_count {
                    to.give_up(SlotIndex::new(slot))?;
                }
                Some(slot + 1)
            }
            Err(error) => return Err(error.into()),
        };
        make_room(machine)?;
        bar.set_position(next.unwrap_or_default() * geometry.slot_bytes());
    }
    bar.finish_and_clear();
    Ok(())
}

fn make_room(machine: &Machine) -> Result<(), ArchiveError> {
    match machine.paged() {
        Some(paged) => Ok(paged.reclaim_memory(&mut || Ok(()))?),
        None => Ok(()),
    }
}

fn unfit(directory: &Path, reason: &str) -> ArchiveError {
    ArchiveError::Unfit { path: directory.to_owned(), reason: reason.to_owned() }
}

fn check_identity(
    host: &Host,
    directory: &Path,
    identity: &Identity,
    wanted: MachineKind,
) -> Result<(), ArchiveError> {
    if host.disk.exists(&directory.join(RESTORING_NAME))? {
        let what = "a restore was not finished here: repeat it, with the same files";
        return Err(unfit(directory, what));
    }
    if identity.machine == MachineKind::Journal {
        return Err(unfit(directory, "a logger holds no state; name the directory of a node"));
    }
    if identity.machine != wanted {
        let of = row(identity.machine);
        return Err(ArchiveError::OtherProgram {
            path: directory.to_owned(),
            form: "the directory of a node",
            actual: of.content,
            program: of.program,
        });
    }
    if identity.standing != Standing::Member {
        let what = "this node was not a member of a cluster yet, so there is nothing in it that \
                    only it has; start it again";
        return Err(unfit(directory, what));
    }
    Ok(())
}

/// The content of a node that does not run. Only its checkpoints could write, and none is made.
fn open_machine(
    host: &Host,
    directory: &Path,
    identity: &Identity,
) -> Result<Machine, ArchiveError> {
    let (machine, cluster_id) = match identity.machine {
        MachineKind::Slots => {
            let options = slots::Options::new(MEMORY_BYTES_MAX);
            let (slots, _) = Slots::open(&*host.disk, directory, options)?;
            let superblock = slots.superblock();
            // It may have been given room for more slots since.
            let is_same = superblock.geometry.slot_count() >= identity.slot_count
                && superblock.geometry.value_bytes() == identity.value_bytes;
            if !is_same {
                return Err(unfit(directory, "slots.dat and IDENTITY have different sizes"));
            }
            (Machine::Slots(DiskMachine::new(Arc::new(slots))), superblock.cluster_id)
        }
        MachineKind::Memory | MachineKind::Journal => {
            let options = keys::Options::new(u64::MAX);
            let keys = Keys::open(host.disk.clone(), directory, options)?;
            let cluster_id = keys.header().cluster_id;
            (Machine::Memory(MemoryMachine::new(Arc::new(keys))), cluster_id)
        }
    };
    if cluster_id != identity.cluster_id {
        return Err(unfit(directory, "its data file is of another cluster than IDENTITY"));
    }
    machine.open_request_ids(host.disk.clone(), directory, cluster_id)?;
    Ok(machine)
}

#[cfg(test)]
mod tests;
