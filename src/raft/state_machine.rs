//! The state machine as openraft wants it, over a machine and its slots.
//!
//! Called by openraft's state machine worker; calls `machine` and `syncer`.
//! Invariants:
//!
//! - I1: entries are applied in log order, one batch after the other (`applier` says by which thread).
//! - I2: the applied position rises before a reply is sent, so whoever has a reply can read it.
//! - I3: `applied_state` starts at the checkpoint; nothing above the checkpoint is ever purged (C11).
//! - I4: an install and a checkpoint never run at once; an install cancels a checkpoint that runs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use diskstore_storage::Error;
use diskstore_storage::slots::{self, Target};
use futures_util::{Stream, StreamExt};
use openraft::storage::{
    EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta,
};
use parking_lot::Mutex;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};

use super::applier::{Applier, Job};
use super::hold::{Hold, Holds};
use super::pace::Pace;
use super::syncer::Syncer;
use super::types::{
    LogId, StoredMembership, TypeConfig, decode_membership, encode_membership, log_id_from,
    log_id_to,
};
use crate::command::cursor::Cursor;
use crate::machine::{Machine, Sending};

/// Most entries that go to the applier at once.
const JOB_ENTRIES_MAX: usize = 512;

/// What has been applied.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// The last entry applied.
    pub log_id: Option<LogId>,
    /// The last membership applied.
    pub membership: StoredMembership,
}

/// What the state machine shares with readers, checkpoints and snapshot transfers.
#[derive(Debug)]
pub struct MachineShared {
    /// The machine.
    pub machine: Machine,
    /// The syncer: checkpoints wait for the log.
    pub syncer: Arc<Syncer>,
    applied: Mutex<Applied>,
    applied_index: watch::Sender<u64>,
    /// Held while a checkpoint runs; an install raises the flag and then takes it (I4).
    checkpoint: Mutex<()>,
    cancel_checkpoint: AtomicBool,
    /// See [`MachineShared::spread_checkpoint`].
    spread_bytes: AtomicU64,
    /// True if the last checkpoint found no room on the disk.
    lacked_space: AtomicBool,
    /// Held from the first merged slot of a transfer to its end.
    install: tokio::sync::Mutex<()>,
    /// Slots or keys that snapshots brought since the start.
    pub slots_received: AtomicU64,
    /// Checkpoints that have ended since the start, whatever became of them.
    pub checkpoints_ended: AtomicU64,
    /// Snapshots that exist.
    holds: Arc<Holds>,
    /// Told whenever memory that was short may have room again.
    room: Notify,
}

impl MachineShared {
    /// Starts from the machine's checkpoint.
    ///
    /// # Errors
    /// The checkpoint's membership cannot be read.
    pub fn open(machine: Machine, syncer: Arc<Syncer>) -> io::Result<MachineShared> {
        let applied = checkpoint_of(&machine)?;
        let index = applied.log_id.map_or(0, |log_id| log_id.index);
        Ok(MachineShared {
            machine,
            syncer,
            applied: Mutex::new(applied),
            applied_index: watch::Sender::new(index),
            checkpoint: Mutex::new(()),
            cancel_checkpoint: AtomicBool::new(false),
            spread_bytes: AtomicU64::new(0),
            lacked_space: AtomicBool::new(false),
            install: tokio::sync::Mutex::new(()),
            slots_received: AtomicU64::new(0),
            checkpoints_ended: AtomicU64::new(0),
            holds: Arc::default(),
            room: Notify::new(),
        })
    }

    /// What has been applied.
    pub fn applied(&self) -> Applied {
        self.applied.lock().clone()
    }

    /// Term of the last entry applied.
    pub(super) fn applied_term(&self) -> Option<u64> {
        self.applied.lock().log_id.map(|log_id| log_id_to(&log_id).term)
    }

    /// Index of the last entry applied, 0 at first.
    pub fn applied_index(&self) -> u64 {
        *self.applied_index.borrow()
    }

    /// Waits until entry `index` is applied, and until the slots are a state that ever was: while a
    /// snapshot is only half replayed, nothing may be read.
    pub async fn wait_applied(&self, index: u64) {
        let mut receiver = self.applied_index.subscribe();
        let wanted = index.max(self.machine.readable_from());
        // The sender lives as long as this object.
        drop(receiver.wait_for(|applied| *applied >= wanted).await);
    }

    /// What `read` finds, if it is of a state that ever was: that is looked at before and after, for a
    /// snapshot may begin to be merged while slots are read.
    pub fn read_whole<T>(&self, read: impl FnOnce(&Machine) -> T) -> Option<T> {
        let readable_from = self.machine.readable_from();
        if self.applied_index() < readable_from {
            return None;
        }
        let found = read(&self.machine);
        // It rises before the first slot is merged, and is never lowered.
        (self.machine.readable_from() == readable_from).then_some(found)
    }

    /// True if a local read gives a state that ever was.
    pub fn is_readable(&self) -> bool {
        self.applied_index() >= self.machine.readable_from()
    }

    /// Moves the applied position.
    pub fn set_applied(&self, log_id: LogId, membership: Option<StoredMembership>) {
        let mut applied = self.applied.lock();
        applied.log_id = Some(log_id);
        if let Some(membership) = membership {
            applied.membership = membership;
        }
        drop(applied);
        self.applied_index.send_replace(log_id.index);
    }

    /// Takes the right to merge slots from another member; one may at a time.
    pub async fn begin_install(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.install.lock().await
    }

    /// Writes what changed to the disk, where that makes room in memory. Blocks.
    ///
    /// # Errors
    /// Of the disk.
    pub fn write_back(&self) -> diskstore_storage::Result<()> {
        let written = self.machine.write_back(&mut || self.syncer.barrier_blocking());
        self.room.notify_waiters();
        written
    }

    /// Ends when memory that was short may have room again, if that happens after this call.
    pub fn room(&self) -> Notified<'_> {
        self.room.notified()
    }

    /// Drops what memory needs not hold, near the budget. Blocks, for a round of a checkpoint at most.
    ///
    /// # Errors
    /// The system refuses.
    pub fn drop_clean(&self) -> diskstore_storage::Result<()> {
        let dropped = self.machine.drop_clean();
        self.room.notify_waiters();
        dropped
    }

    /// Returns once changed content takes less memory than it may. Blocks, for a few writes of the
    /// disk at most, whatever else goes on.
    ///
    /// # Errors
    /// Of the disk.
    pub fn make_room(&self) -> diskstore_storage::Result<()> {
        let made = self.machine.make_room(&mut || self.syncer.barrier_blocking());
        self.room.notify_waiters();
        made
    }

    fn target(applied: &Applied, log_id: LogId) -> Target {
        Target {
            log_id: log_id_to(&log_id),
            membership: slots::Membership {
                log_id: applied.membership.log_id().as_ref().map(log_id_to),
                body: encode_membership(applied.membership.membership()),
            },
        }
    }

    /// A checkpoint, the one that runs included, takes as long as the log takes to grow by so many
    /// bytes; with 0 it is as fast as it can be.
    pub fn spread_checkpoint(&self, log_bytes: u64) {
        self.spread_bytes.store(log_bytes, Ordering::Relaxed);
    }

    /// Writes a checkpoint of `applied`. Blocks for as long as it takes.
    fn checkpoint(&self, applied: &Applied) -> diskstore_storage::Result<()> {
        let Some(log_id) = applied.log_id else { return Ok(()) };
        let _running = self.checkpoint.lock();
        let started = std::time::Instant::now();
        let machine = &self.machine;
        let (mut done, mut pace) =
            (0, Pace::new(machine.checkpoint_steps(), self.syncer.log_bytes()));
        let outcome = machine.checkpoint(
            Self::target(applied, log_id),
            &mut || {
                // Between the copying of a step and its writing.
                done += 1;
                self.room.notify_waiters(); // by the round before
                // Near the memory budget applying waits for this checkpoint.
                let is_urgent = machine.is_near_budget();
                let spread = if is_urgent { 0 } else { self.spread_bytes.load(Ordering::Relaxed) };
                std::thread::sleep(pace.rest(done, self.syncer.log_bytes(), spread));
                self.syncer.barrier_blocking()
            },
            &self.cancel_checkpoint,
        );
        self.room.notify_waiters();
        let outcome = outcome?;
        self.note_space(&outcome)?;
        tracing::info!(
            index = log_id.index,
            pages = outcome.pages,
            cancelled = outcome.cancelled,
            elapsed = ?started.elapsed(),
            "checkpoint"
        );
        Ok(())
    }

    /// Takes note of whether a checkpoint found room on the disk. One that had nothing to write did not
    /// look.
    fn note_space(&self, outcome: &slots::Outcome) -> diskstore_storage::Result<()> {
        if outcome.lacked_space {
            tracing::error!("no room on the disk for a checkpoint: the log behind it stays");
        }
        let has_written = outcome.rounds > 0 && !outcome.cancelled;
        if outcome.lacked_space || has_written {
            self.lacked_space.store(outcome.lacked_space, Ordering::Release);
        } else if self.lacks_checkpoint_space() {
            match self.machine.check_install_room() {
                Err(Error::NoSpace { .. }) => {}
                checked => checked.map(|()| self.lacked_space.store(false, Ordering::Release))?,
            }
        }
        Ok(())
    }

    /// Fails if a snapshot that was merged cannot be installed for want of room on the disk, which
    /// a checkpoint then looks for. Blocks.
    ///
    /// # Errors
    /// `NoSpace`, or another error of the disk.
    pub fn check_install_room(&self) -> diskstore_storage::Result<()> {
        let checked = self.machine.check_install_room();
        if matches!(checked, Err(Error::NoSpace { .. })) {
            self.lacked_space.store(true, Ordering::Release);
        }
        checked
    }

    /// True if the last checkpoint found no room on the disk.
    pub fn lacks_checkpoint_space(&self) -> bool {
        self.lacked_space.load(Ordering::Acquire)
    }

    fn install(&self, applied: &Applied, log_id: LogId) -> diskstore_storage::Result<()> {
        self.cancel_checkpoint.store(true, Ordering::Release);
        let running = self.checkpoint.lock();
        self.cancel_checkpoint.store(false, Ordering::Release);
        self.syncer.barrier_blocking()?;
        let target = Self::target(applied, log_id);
        let result = self.machine.install(target, &mut || self.syncer.barrier_blocking());
        drop(running);
        result
    }

    /// A snapshot of what is applied now; the log behind it stays for as long as it exists.
    fn snapshot_now(&self) -> (Meta, SlotsSnapshot) {
        // Before the label is taken: no delete behind it is forgotten.
        let sending = self.machine.begin_send();
        let (meta, hold) = self.holds.hold(|| {
            let Applied { log_id, membership } = self.applied();
            let index = log_id.map_or(0, |log_id| log_id.index);
            (index, Meta { last_log_id: log_id, last_membership: membership })
        });
        (meta, SlotsSnapshot { hold: Some(hold), sending: Some(sending) })
    }

    /// The log up to here may go as far as snapshots on their way are concerned. A checkpoint that
    /// is to bound a purge too is looked at before this is asked.
    pub fn purge_bound(&self) -> u64 {
        self.holds.purge_bound()
    }

    /// The newest checkpoint that survives power loss.
    fn checkpoint_meta(&self) -> io::Result<Meta> {
        let Applied { log_id, membership } = checkpoint_of(&self.machine)?;
        Ok(Meta { last_log_id: log_id, last_membership: membership })
    }
}

/// What the newest durable checkpoint of a machine has.
pub(super) fn checkpoint_of(machine: &Machine) -> io::Result<Applied> {
    let Some(Target { log_id, membership }) = machine.durable() else {
        return Ok(Applied::default());
    };
    let log_id = Some(log_id_from(log_id));
    if membership.body.is_empty() {
        return Ok(Applied { log_id, membership: StoredMembership::default() });
    }
    let body = decode_membership(&mut Cursor::new(membership.body)).map_err(io::Error::other)?;
    let membership = StoredMembership::new(membership.log_id.map(log_id_from), body);
    Ok(Applied { log_id, membership })
}

type Meta =
    SnapshotMeta<openraft::alias::CommittedLeaderIdOf<TypeConfig>, u64, super::types::Member>;

/// A snapshot is not a file: the sender streams slots as they are, the receiver has merged them by
/// the time openraft hears of it. So openraft carries nothing but the fact.
#[derive(Debug, Default)]
pub(super) struct SlotsSnapshot {
    /// For one that can be sent: what keeps the log behind it.
    #[expect(dead_code, reason = "it ends with the snapshot")]
    hold: Option<Hold>,
    /// And what keeps deletes from being forgotten.
    sending: Option<Sending>,
}

impl SlotsSnapshot {
    /// Deletes up to here may have been forgotten. None are while this exists, if it has a horizon.
    pub(super) fn horizon(&self) -> Option<u64> {
        self.sending.as_ref().map(|sending| sending.horizon)
    }
}

/// openraft's view of the machine.
#[derive(Debug)]
pub(super) struct StateMachine {
    shared: Arc<MachineShared>,
    applier: Applier,
    /// Until the node has started, the snapshot is the checkpoint; afterwards it is what is applied.
    has_started: Arc<AtomicBool>,
}

impl StateMachine {
    /// A state machine over an open machine. `has_started` is raised once Raft runs.
    pub(super) fn new(
        shared: Arc<MachineShared>,
        applier: Applier,
        has_started: Arc<AtomicBool>,
    ) -> StateMachine {
        StateMachine { shared, applier, has_started }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SlotsSnapshot;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let Applied { log_id, membership } = self.shared.applied();
        Ok((log_id, membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let mut jobs = Vec::new();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            jobs.push(Job { entry, responder });
            if jobs.len() >= JOB_ENTRIES_MAX {
                self.applier.apply(std::mem::take(&mut jobs)).await?;
            }
        }
        if jobs.is_empty() { Ok(()) } else { self.applier.apply(jobs).await }
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { shared: self.shared.clone(), applied: self.shared.applied() }
    }

    async fn install_snapshot(&mut self, meta: &Meta, _snapshot: SlotsSnapshot) -> io::Result<()> {
        let Some(log_id) = meta.last_log_id else { return Ok(()) };
        let now = self.shared.applied();
        if now.log_id >= Some(log_id) {
            return Ok(());
        }
        let applied = Applied { log_id: Some(log_id), membership: meta.last_membership.clone() };
        // First of all: after a crash in between the mark is early, but no gap goes unmarked.
        self.applier.mark_gap(log_id.index).await?;
        let shared = self.shared.clone();
        run_blocking(move || shared.install(&applied, log_id)).await?;
        self.shared.set_applied(log_id, Some(meta.last_membership.clone()));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf>> {
        let (meta, snapshot) = if self.has_started.load(Ordering::Acquire) {
            self.shared.snapshot_now()
        } else {
            (self.shared.checkpoint_meta()?, SlotsSnapshot::default())
        };
        Ok(meta.last_log_id.is_some().then_some(Snapshot { meta, snapshot }))
    }
}

type SnapshotOf = Snapshot<
    openraft::alias::CommittedLeaderIdOf<TypeConfig>,
    u64,
    super::types::Member,
    SlotsSnapshot,
>;

/// Builds a snapshot: that is a checkpoint, since snapshots are streamed from the slots.
#[derive(Debug)]
pub(super) struct Builder {
    shared: Arc<MachineShared>,
    applied: Applied,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SlotsSnapshot;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf> {
        let (shared, applied) = (self.shared.clone(), self.applied.clone());
        let ended = self.shared.clone();
        let written = run_blocking(move || shared.checkpoint(&applied)).await;
        ended.checkpoints_ended.fetch_add(1, Ordering::AcqRel);
        written?;
        // A cancelled checkpoint, or one that an install overtook, has the superblock's word.
        let meta = self.shared.checkpoint_meta()?;
        Ok(Snapshot { meta, snapshot: SlotsSnapshot::default() })
    }
}

/// Runs something that waits for the disk on a thread that may block.
async fn run_blocking(
    work: impl FnOnce() -> diskstore_storage::Result<()> + Send + 'static,
) -> io::Result<()> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other)?.map_err(io::Error::other)
}
