//! A machine with its applied position, which readers, checkpoints and snapshots share.
//!
//! Called by the layers above for the state; calls `machine` and `syncer`. Invariants:
//!
//! - I1: the applied position never falls, and rises before a reply is sent, so that a client which
//!   has a reply can read the effect.
//! - I2: an install and a checkpoint never run at once; an install cancels a running checkpoint.
//! - I3: pieces of a snapshot are merged only while no entry above its begin is applied here. A
//!   piece contains the effects of all entries up to the begin, but may lack those of later ones. So
//!   the effect of a later entry would be overwritten for good where the machine knows no newer
//!   index: in a damaged slot, or for a deleted key that was forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
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
use crate::messages::Messages;

/// How far the log has been applied.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// The last entry applied.
    pub log_id: Option<LogId>,
    /// The last membership applied, as bytes that only the layers above can read.
    pub membership: Membership,
}

/// How much replays and snapshots handle at a time.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes of entries that a replay reads, and applies, at once.
    pub piece_bytes: usize,
    /// Most bytes of entries that wait, while the log is recovered, to be known as committed.
    pub waiting_bytes_max: usize,
    /// While a snapshot is received, slots are written back whenever this many bytes are dirty.
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
    /// How much replays and snapshots handle at a time.
    pub(super) bounds: Bounds,
    applied: Mutex<Applied>,
    applied_index: watch::Sender<u64>,
    /// Held while entries are applied, up to the change of the applied position, and while pieces of a
    /// snapshot are merged (I3).
    position: Mutex<()>,
    /// Held while a checkpoint runs; an install raises the flag and then takes it (I2).
    checkpoint: Mutex<()>,
    cancel_checkpoint: AtomicBool,
    /// See [`Replica::spread_checkpoint`].
    spread_bytes: AtomicU64,
    /// True if the last checkpoint failed for want of space on the disk.
    lacked_space: AtomicBool,
    /// Held from the first merged slot of a transfer to its end.
    install: tokio::sync::Mutex<()>,
    /// Slots or keys that snapshots brought since the start.
    pub slots_received: AtomicU64,
    /// Snapshots that exist.
    holds: Arc<Holds>,
    /// Notified whenever memory may have been freed.
    memory_freed: Notify,
    messages: Arc<Messages>,
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
            messages: Arc::new(Messages::new(index)),
        }
    }

    /// The messages of the entries that are applied here, and who listens to them.
    pub fn messages(&self) -> &Arc<Messages> {
        &self.messages
    }

    /// How far the log has been applied.
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

    /// Waits until entry `index` is applied and the slots are consistent: until a snapshot has been
    /// replayed to its end, nothing may be read.
    pub async fn wait_applied(&self, index: u64) {
        let mut receiver = self.applied_index.subscribe();
        let wanted = index.max(self.machine.readable_from());
        // The sender lives as long as this object.
        drop(receiver.wait_for(|applied| *applied >= wanted).await);
    }

    /// The result of `read`, if the slots were consistent before and after it: a snapshot may begin to
    /// be merged while slots are read.
    pub fn read_whole<T>(&self, read: impl FnOnce(&Machine) -> T) -> Option<T> {
        let readable_from = self.machine.readable_from();
        if self.applied_index() < readable_from {
            return None;
        }
        let found = read(&self.machine);
        // It rises before the first slot is merged, and is never lowered.
        (self.machine.readable_from() == readable_from).then_some(found)
    }

    /// True if the slots are consistent, so that a local read may be answered.
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
        self.messages.reach(log_id.index);
        self.applied_index.send_replace(log_id.index);
    }

    /// Takes the right to apply entries. It is to be held until [`Replica::set_applied`] has returned:
    /// nothing is merged meanwhile (I3). Waits for a frame of a snapshot at most.
    pub(crate) fn begin_apply(&self) -> MutexGuard<'_, ()> {
        self.position.lock()
    }

    /// True if applying would have to wait for a frame of a snapshot.
    pub(crate) fn is_merging(&self) -> bool {
        self.position.is_locked()
    }

    /// Merges pieces of a snapshot that begins at index `begin`. Each replaces what is here only if it
    /// is newer (I3). Blocks.
    ///
    /// # Errors
    /// The pieces do not fit the machine, in which case some may have been merged. Or an entry behind the
    /// begin is applied here already, in which case none was.
    pub(crate) fn merge(&self, images: &Images, begin: u64) -> diskstore_storage::Result<()> {
        let _position = self.position.lock();
        let applied = self.applied_index();
        if applied > begin {
            let what = "for a snapshot that comes late, what is applied here:";
            return Err(Error::OutOfRange { what, value: applied, limit: begin });
        }
        self.machine.merge(images)
    }

    /// Takes the right to merge slots from another member; one transfer has it at a time.
    pub async fn begin_install(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.install.lock().await
    }

    /// Writes changed pages to the disk, so that they can be dropped from memory. Blocks.
    ///
    /// # Errors
    /// Of the disk.
    pub fn write_back(&self) -> diskstore_storage::Result<()> {
        let written =
            self.of_pages(|paged| paged.write_back(&mut || self.syncer.barrier_blocking()));
        self.memory_freed.notify_waiters();
        written
    }

    /// Ends at the next moment after this call at which memory may have been freed.
    pub fn memory_freed(&self) -> Notified<'_> {
        self.memory_freed.notified()
    }

    /// Near the memory budget, drops pages that the disk holds too. Blocks, for a round of a checkpoint at
    /// most.
    ///
    /// # Errors
    /// The system refuses.
    pub fn drop_clean(&self) -> diskstore_storage::Result<()> {
        let dropped = self.of_pages(|paged| paged.drop_clean());
        self.memory_freed.notify_waiters();
        dropped
    }

    /// Returns once changed pages take less memory than the budget. Blocks, for a few writes to the
    /// disk at most, even beside a checkpoint.
    ///
    /// # Errors
    /// Of the disk.
    pub fn reclaim_memory(&self) -> diskstore_storage::Result<()> {
        let made =
            self.of_pages(|paged| paged.reclaim_memory(&mut || self.syncer.barrier_blocking()));
        self.memory_freed.notify_waiters();
        made
    }

    /// Calls `work` with the machine's pages, if it has any.
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
    /// Of the disk. A full disk is no error here (see [`Replica::lacks_checkpoint_space`]).
    pub(crate) fn checkpoint(&self) -> diskstore_storage::Result<()> {
        let WithIds { applied, request_ids } = self.applied_with_ids();
        self.checkpoint_of(applied, &request_ids)
    }

    /// How far the log has been applied, and the request ids as of exactly there: entries that are being
    /// applied meanwhile count once the position moves over them.
    fn applied_with_ids(&self) -> WithIds {
        let applied = self.applied.lock();
        let index = applied.log_id.map_or(0, |log_id| log_id.index);
        // Nothing is settled for a later index while this is locked.
        let request_ids = self.machine.request_ids().at(index);
        WithIds { applied: applied.clone(), request_ids }
    }

    /// Makes the checkpoint that runs end soon.
    pub(crate) fn cancel_checkpoint(&self) {
        self.cancel_checkpoint.store(true, Ordering::Release);
    }

    /// Like [`Replica::checkpoint`], for an earlier applied position with its request ids.
    pub(crate) fn checkpoint_of(
        &self,
        applied: Applied,
        request_ids: &[u8],
    ) -> diskstore_storage::Result<()> {
        let Applied { log_id: Some(log_id), membership } = applied else { return Ok(()) };
        let _running = self.checkpoint.lock();
        let requests_crc = match self.keep_ids(log_id, request_ids) {
            Err(Error::NoSpace { .. }) => {
                let lacked =
                    Checkpointed { cancelled: true, lacked_space: true, ..Checkpointed::default() };
                return self.note_space(&lacked);
            }
            kept => kept?,
        };
        let started = Instant::now();
        let machine = &self.machine;
        let (mut done, mut pace) =
            (0, Pace::new(machine.checkpoint_steps(), self.syncer.log_bytes()));
        let outcome = machine.checkpoint(
            Target { log_id, membership, requests_crc },
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

    /// Makes request ids durable for a checkpoint, unless one is there that will stay: one of the same
    /// entry may be written again, and names the same file.
    fn keep_ids(&self, log_id: LogId, request_ids: &[u8]) -> diskstore_storage::Result<u32> {
        if let Some(durable) = self.machine.durable().filter(|durable| durable.log_id >= log_id) {
            return Ok(durable.requests_crc);
        }
        self.machine.request_ids().keep(log_id, request_ids)
    }

    /// Notes whether a checkpoint found space on the disk. One that had nothing to write did not look for
    /// any.
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

    /// Fails if the disk lacks the space to install a snapshot that was merged. Checkpoints then try to
    /// free some. Blocks.
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

    /// True if the last checkpoint failed for want of space on the disk.
    pub fn lacks_checkpoint_space(&self) -> bool {
        self.lacked_space.load(Ordering::Acquire)
    }

    /// Ends the checkpoint that runs; none begins while what this returns is held.
    fn end_checkpoint(&self) -> MutexGuard<'_, ()> {
        self.cancel_checkpoint.store(true, Ordering::Release);
        let ended = self.checkpoint.lock();
        self.cancel_checkpoint.store(false, Ordering::Release);
        ended
    }

    /// Makes the request ids of a snapshot durable until it is installed, whose begin they are as of.
    /// False if the bytes are none. Blocks.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn receive_ids(&self, begin: LogId, ids: &[u8]) -> diskstore_storage::Result<bool> {
        let _ended = self.end_checkpoint(); // it may be one of the same entry
        self.machine.request_ids().receive(begin, ids, self.machine.durable().as_ref())
    }

    /// Installs a snapshot whose pieces were merged: the state is that of `target` from now on. Blocks.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn install(&self, target: Target) -> diskstore_storage::Result<()> {
        let running = self.end_checkpoint();
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
            let label = self.applied_with_ids();
            (label.applied.log_id.map_or(0, |log_id| log_id.index), label)
        });
        let WithIds { applied, request_ids } = label;
        let (sending, request_ids) = (Some(sending), Some(request_ids));
        (applied, SlotsSnapshot { hold: Some(hold), sending, request_ids })
    }

    /// The highest index up to which running snapshots allow the log to be purged. A purge reads the
    /// checkpoint's index first and asks for this one afterwards (I1 of `hold`).
    pub fn purge_bound(&self) -> u64 {
        self.holds.purge_bound()
    }

    /// The newest checkpoint that survives power loss.
    pub(crate) fn durable(&self) -> Applied {
        durable_of(&self.machine)
    }
}

/// The log position and membership of a machine's newest durable checkpoint.
pub(crate) fn durable_of(machine: &Machine) -> Applied {
    let durable = machine.durable();
    durable.map_or_else(Applied::default, |Target { log_id, membership, .. }| Applied {
        log_id: Some(log_id),
        membership,
    })
}

/// An applied position with the request ids as of it.
struct WithIds {
    applied: Applied,
    request_ids: Bytes,
}

/// A snapshot, as the layers above handle it. It is not a file: the sender streams slots as they are, and
/// the receiver has merged them before the layers above hear of the snapshot. So this carries no data.
#[derive(Debug, Default)]
pub(crate) struct SlotsSnapshot {
    /// If it is to be sent: the hold that keeps the log behind it.
    #[expect(dead_code, reason = "it ends with the snapshot")]
    hold: Option<Hold>,
    /// If it is to be sent: the hold that keeps deletes from being forgotten.
    sending: Option<Sending>,
    /// If it is to be sent: the request ids as of its begin.
    request_ids: Option<Bytes>,
}

impl SlotsSnapshot {
    /// The index up to which deletes may have been forgotten already. While a snapshot with a horizon
    /// exists, no more are.
    pub(crate) fn horizon(&self) -> Option<u64> {
        self.sending.as_ref().map(|sending| sending.horizon)
    }

    /// The request ids as of its begin; `None` of a snapshot that is not to be sent.
    pub(crate) fn request_ids(&self) -> Option<&Bytes> {
        self.request_ids.as_ref()
    }

    /// Positions of a scan are below this.
    pub(crate) fn end(&self) -> u64 {
        self.sending.as_ref().map_or(0, |sending| sending.end)
    }
}
