//! A machine with its applied position, which readers, checkpoints and snapshots share.
//!
//! Called by everything above that needs the state; calls `machine` and `syncer`. Invariants:
//!
//! - I1: the applied position never falls, and rises before a reply is sent, so that a client which
//!   has a reply can read the effect.
//! - I2: an install and a checkpoint never run at once; an install cancels a running checkpoint.
//! - I3: pieces of a snapshot are merged only while no entry above its begin is applied here. A
//!   piece is sure to contain the effects of entries up to the begin, and no later ones. So the
//!   effect of a later entry would be overwritten for good where the machine knows no newer index:
//!   in a damaged slot, or for a deleted key that was forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use diskstore_storage::state::{Checkpointed, Membership, Target};
use diskstore_storage::{Error, LogId};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::hold::{Hold, Holds};
use super::pace::Pace;
use super::syncer::Syncer;
use crate::machine::{Images, Machine, Paged, Sending};

/// What has been applied.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// The last entry applied.
    pub log_id: Option<LogId>,
    /// The last membership applied, for the layers above to read.
    pub membership: Membership,
}

/// What replays and snapshots work with at once.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes of entries that a replay reads, and applies, at once.
    pub piece_bytes: usize,
    /// Most bytes of entries that wait, while the log is recovered, to be known as committed.
    pub waiting_bytes_max: usize,
    /// So many dirty bytes are written back while a snapshot is received.
    pub write_back_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { piece_bytes: 4 << 20, waiting_bytes_max: 64 << 20, write_back_bytes: 64 << 20 }
    }
}

/// What the state machine shares with readers, checkpoints and snapshot transfers.
#[derive(Debug)]
pub struct Replica {
    /// The machine.
    pub machine: Machine,
    /// The syncer: checkpoints wait for the log.
    pub syncer: Arc<Syncer>,
    /// What replays and snapshots work with at once.
    pub(super) bounds: Bounds,
    applied: Mutex<Applied>,
    applied_index: watch::Sender<u64>,
    /// Held while entries are applied, until the applied position says so, and while pieces of a
    /// snapshot are merged (I3).
    position: Mutex<()>,
    /// Held while a checkpoint runs; an install raises the flag and then takes it (I2).
    checkpoint: Mutex<()>,
    cancel_checkpoint: AtomicBool,
    /// See [`Replica::spread_checkpoint`].
    spread_bytes: AtomicU64,
    /// True if the last checkpoint found no room on the disk.
    lacked_space: AtomicBool,
    /// Held from the first merged slot of a transfer to its end.
    install: tokio::sync::Mutex<()>,
    /// Slots or keys that snapshots brought since the start.
    pub slots_received: AtomicU64,
    /// Snapshots that exist.
    holds: Arc<Holds>,
    /// Told whenever memory that was short may have room again.
    memory_freed: Notify,
}

impl Replica {
    /// Starts from the machine's checkpoint.
    pub fn open(machine: Machine, syncer: Arc<Syncer>, bounds: Bounds) -> Replica {
        let applied = durable_of(&machine);
        let index = applied.log_id.map_or(0, |log_id| log_id.index);
        Replica {
            machine,
            syncer,
            bounds,
            applied: Mutex::new(applied),
            applied_index: watch::Sender::new(index),
            position: Mutex::new(()),
            checkpoint: Mutex::new(()),
            cancel_checkpoint: AtomicBool::new(false),
            spread_bytes: AtomicU64::new(0),
            lacked_space: AtomicBool::new(false),
            install: tokio::sync::Mutex::new(()),
            slots_received: AtomicU64::new(0),
            holds: Arc::default(),
            memory_freed: Notify::new(),
        }
    }

    /// What has been applied.
    pub fn applied(&self) -> Applied {
        self.applied.lock().clone()
    }

    /// Term of the last entry applied.
    pub(crate) fn applied_term(&self) -> Option<u64> {
        self.applied.lock().log_id.map(|log_id| log_id.term.get())
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
    ///
    /// # Panics
    /// If it would fall (I1).
    pub fn set_applied(&self, log_id: LogId, membership: Option<Membership>) {
        let mut applied = self.applied.lock();
        let before = applied.log_id;
        assert!(before <= Some(log_id), "what is applied falls from {before:?} to {log_id}");
        applied.log_id = Some(log_id);
        if let Some(membership) = membership {
            applied.membership = membership;
        }
        drop(applied);
        self.applied_index.send_replace(log_id.index);
    }

    /// Takes the right to apply entries: nothing is merged until it is given back, behind
    /// [`Replica::set_applied`] (I3). Waits for a frame of a snapshot at most.
    pub(crate) fn begin_apply(&self) -> MutexGuard<'_, ()> {
        self.position.lock()
    }

    /// True if applying would have to wait for a frame of a snapshot.
    pub(crate) fn is_merging(&self) -> bool {
        self.position.is_locked()
    }

    /// Merges pieces of a snapshot that begins at index `begin`, each where it is newer than what is
    /// here (I3). Blocks.
    ///
    /// # Errors
    /// They do not fit the machine, and some of them may have been merged; or an entry behind the
    /// begin is applied here already, and none was.
    pub(crate) fn merge(&self, images: &Images, begin: u64) -> diskstore_storage::Result<()> {
        let _position = self.position.lock();
        let applied = self.applied_index();
        if applied > begin {
            let what = "for a snapshot that comes late, what is applied here:";
            return Err(Error::OutOfRange { what, value: applied, limit: begin });
        }
        self.machine.merge(images)
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
        let written =
            self.of_pages(|paged| paged.write_back(&mut || self.syncer.barrier_blocking()));
        self.memory_freed.notify_waiters();
        written
    }

    /// Ends when memory that was short may have room again, if that happens after this call.
    pub fn memory_freed(&self) -> Notified<'_> {
        self.memory_freed.notified()
    }

    /// Drops what memory needs not hold, near the budget. Blocks, for a round of a checkpoint at most.
    ///
    /// # Errors
    /// The system refuses.
    pub fn drop_clean(&self) -> diskstore_storage::Result<()> {
        let dropped = self.of_pages(|paged| paged.drop_clean());
        self.memory_freed.notify_waiters();
        dropped
    }

    /// Returns once changed content takes less memory than it may. Blocks, for a few writes of the
    /// disk at most, whatever else goes on.
    ///
    /// # Errors
    /// Of the disk.
    pub fn reclaim_memory(&self) -> diskstore_storage::Result<()> {
        let made =
            self.of_pages(|paged| paged.reclaim_memory(&mut || self.syncer.barrier_blocking()));
        self.memory_freed.notify_waiters();
        made
    }

    /// Has something done to the machine's pages, if it has any.
    fn of_pages(
        &self,
        work: impl FnOnce(Paged<'_>) -> diskstore_storage::Result<()>,
    ) -> diskstore_storage::Result<()> {
        self.machine.paged().map_or(Ok(()), work)
    }

    /// A checkpoint, the one that runs included, takes as long as the log takes to grow by so many
    /// bytes; with 0 it is as fast as it can be.
    pub fn spread_checkpoint(&self, log_bytes: u64) {
        self.spread_bytes.store(log_bytes, Ordering::Relaxed);
    }

    /// Writes a checkpoint of what is applied now. Blocks for as long as it takes.
    ///
    /// # Errors
    /// Of the disk; none for want of room on it (see [`Replica::lacks_checkpoint_space`]).
    pub(crate) fn checkpoint(&self) -> diskstore_storage::Result<()> {
        self.checkpoint_of(self.applied())
    }

    /// Has the checkpoint that runs end soon.
    pub(crate) fn cancel_checkpoint(&self) {
        self.cancel_checkpoint.store(true, Ordering::Release);
    }

    /// As [`Replica::checkpoint`], of what was applied a while ago.
    pub(crate) fn checkpoint_of(&self, applied: Applied) -> diskstore_storage::Result<()> {
        let Applied { log_id: Some(log_id), membership } = applied else { return Ok(()) };
        let _running = self.checkpoint.lock();
        let started = Instant::now();
        let machine = &self.machine;
        let (mut done, mut pace) =
            (0, Pace::new(machine.checkpoint_steps(), self.syncer.log_bytes()));
        let outcome = machine.checkpoint(
            Target { log_id, membership },
            &mut || {
                // Between the copying of a step and its writing.
                done += 1;
                self.memory_freed.notify_waiters(); // by the round before
                // Near the memory budget applying waits for this checkpoint.
                let is_urgent = machine.paged().is_some_and(|paged| paged.is_near_budget());
                let spread = if is_urgent { 0 } else { self.spread_bytes.load(Ordering::Relaxed) };
                std::thread::sleep(pace.rest(done, self.syncer.log_bytes(), spread));
                self.syncer.barrier_blocking()
            },
            &self.cancel_checkpoint,
        );
        self.memory_freed.notify_waiters();
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
    fn note_space(&self, outcome: &Checkpointed) -> diskstore_storage::Result<()> {
        if outcome.lacked_space {
            tracing::error!("no room on the disk for a checkpoint: the log behind it stays");
        }
        let has_written = outcome.rounds > 0 && !outcome.cancelled;
        if outcome.lacked_space || has_written {
            self.lacked_space.store(outcome.lacked_space, Ordering::Release);
        } else if self.lacks_checkpoint_space() {
            match self.machine.check_install_space() {
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
    pub fn check_install_space(&self) -> diskstore_storage::Result<()> {
        let checked = self.machine.check_install_space();
        if matches!(checked, Err(Error::NoSpace { .. })) {
            self.lacked_space.store(true, Ordering::Release);
        }
        checked
    }

    /// True if the last checkpoint found no room on the disk.
    pub fn lacks_checkpoint_space(&self) -> bool {
        self.lacked_space.load(Ordering::Acquire)
    }

    /// Makes what a snapshot merged the state as of `target`. Blocks.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn install(&self, target: Target) -> diskstore_storage::Result<()> {
        self.cancel_checkpoint.store(true, Ordering::Release);
        let running = self.checkpoint.lock();
        self.cancel_checkpoint.store(false, Ordering::Release);
        self.syncer.barrier_blocking()?;
        let result = self.machine.install(target, &mut || self.syncer.barrier_blocking());
        drop(running);
        result
    }

    /// A snapshot of what is applied now; the log behind it stays for as long as it exists.
    pub(crate) fn snapshot_now(&self) -> (Applied, SlotsSnapshot) {
        // Before the label is taken: no delete behind it is forgotten.
        let sending = self.machine.begin_send();
        let (label, hold) = self.holds.hold(|| {
            let applied = self.applied();
            (applied.log_id.map_or(0, |log_id| log_id.index), applied)
        });
        (label, SlotsSnapshot { hold: Some(hold), sending: Some(sending) })
    }

    /// The log up to here may go as far as snapshots on their way are concerned. A checkpoint that
    /// is to bound a purge too is looked at before this is asked.
    pub fn purge_bound(&self) -> u64 {
        self.holds.purge_bound()
    }

    /// The newest checkpoint that survives power loss.
    pub(crate) fn durable(&self) -> Applied {
        durable_of(&self.machine)
    }
}

/// What the newest durable checkpoint of a machine has.
pub(crate) fn durable_of(machine: &Machine) -> Applied {
    let durable = machine.durable();
    durable.map_or_else(Applied::default, |Target { log_id, membership }| Applied {
        log_id: Some(log_id),
        membership,
    })
}

/// A snapshot is not a file: the sender streams slots as they are, the receiver has merged them by
/// the time that the layers above hear of it. They carry nothing but the fact.
#[derive(Debug, Default)]
pub(crate) struct SlotsSnapshot {
    /// For one that can be sent: what keeps the log behind it.
    #[expect(dead_code, reason = "it ends with the snapshot")]
    hold: Option<Hold>,
    /// And what keeps deletes from being forgotten.
    sending: Option<Sending>,
}

impl SlotsSnapshot {
    /// Deletes up to here may have been forgotten. None are while this exists, if it has a horizon.
    pub(crate) fn horizon(&self) -> Option<u64> {
        self.sending.as_ref().map(|sending| sending.horizon)
    }
}
