//! Writes a backup of what this replica holds, while commands go on being applied.
//!
//! Called by `cluster`, once this replica has applied all that the backup must hold; calls `machine`
//! and the log. As a snapshot does, it reads slots or keys one after the other and takes the log behind
//! the begin along; whoever restores it applies these entries by the slot rule, and has the state of one
//! index exactly. Invariants:
//!
//! - I1: the log behind the begin, and deletes that an incremental backup has to tell of, stay until the
//!   backup is written (`held`).
//! - I2: what cannot be finished is not ended: the last piece says why, and the stream fails.
//! - I3: whoever takes the backup decides how fast it is read: few pieces wait. But the log that is kept
//!   for it is bounded.
//! - I4: a snapshot that another member sends meanwhile ends it: slots of two moments would mix.
//! - I5: so do more slots for the cluster: its log would name slots that the backup is not of.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use diskstore_storage::backup::{
    BackupEnd, BackupHeader, BackupWriter, PIECE_BYTES, PIECE_ENTRIES_MAX,
};
use diskstore_storage::wal::Wal;
use diskstore_storage::{LogId, LogIndex};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout};

use super::pace::Pace;
use super::state::{Replica, SlotsSnapshot};
use crate::fault::chain;
use crate::machine::Images;

/// Pieces that wait to be taken.
const WAITING_PIECES_MAX: usize = 2;
/// The log may grow by this, and twice the size of the data, before a backup is given up (I3).
const HELD_LOG_BYTES_MIN: u64 = 1 << 30;
/// How long the reason for which a backup breaks off may take on its way.
const REASON_TIME: Duration = Duration::from_millis(500);
/// How long the entries that wrote the newest slots may take to be applied as a whole.
const APPLY_BOUND: Duration = Duration::from_secs(10);

/// What a backup is of, and what it continues.
#[derive(Debug, Clone)]
pub struct BackupOrder {
    /// Random number of the backup, not 0.
    pub id: u128,
    /// The cluster.
    pub cluster_id: u128,
    /// This node's name.
    pub node: String,
    /// What time it is, in ms since 1970.
    pub begun_ms: u64,
    /// Only what changed after this index; 0 for everything.
    pub since: LogIndex,
    /// The backup that reached this index, 0 if it is not known.
    pub base: u128,
}

/// Why no backup is begun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupRefusal {
    /// No state that ever was.
    #[error("this member is still catching up")]
    CatchingUp,
    /// The index is none of this cluster's, or not one yet.
    #[error(
        "index {since} is ahead of this cluster, which is at {applied}: a backup of another cluster?"
    )]
    Ahead {
        /// What was asked for.
        since: LogIndex,
        /// What is applied here.
        applied: u64,
    },
    /// Deletes that it would have to tell of are forgotten.
    #[error(
        "keys that were deleted up to index {horizon} are forgotten here, so what changed after \
         {since} cannot be said any more: take a full backup"
    )]
    Forgotten {
        /// What was asked for.
        since: LogIndex,
        /// Deletes up to here are forgotten.
        horizon: u64,
    },
}

/// A backup on its way; it breaks off with an error where it cannot be finished.
pub type BackupStream = mpsc::Receiver<io::Result<Bytes>>;

/// Begins a backup of what is applied now. `permit` is held until it is written, or nobody takes it
/// any more.
///
/// # Errors
/// See [`BackupRefusal`].
pub(crate) fn begin(
    replica: Arc<Replica>,
    wal: Arc<Wal>,
    order: BackupOrder,
    permit: OwnedSemaphorePermit,
) -> Result<BackupStream, BackupRefusal> {
    let readable_from = replica.machine.readable_from();
    let (label, held) = replica.snapshot_now();
    let begin = label.log_id.filter(|begin| begin.index >= readable_from);
    let begin = begin.ok_or(BackupRefusal::CatchingUp)?;
    let BackupOrder { since, .. } = order;
    if since.get() > begin.index {
        return Err(BackupRefusal::Ahead { since, applied: begin.index });
    }
    let horizon = held.horizon().unwrap_or(0);
    if since.get() > 0 && since.get() < horizon {
        return Err(BackupRefusal::Forgotten { since, horizon });
    }
    let header = header_of(&replica, order, begin);
    let (sender, stream) = mpsc::channel(WAITING_PIECES_MAX);
    let log_bytes = wal.log_bytes();
    let slot_count = header.slot_count;
    let backup = Backup { replica, wal, held, readable_from, slot_count, log_bytes, sender };
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let (broken, sender) = (backup.write(&header, &runtime), backup.sender.clone());
        drop(backup); // whoever gets the permit next finds nothing held
        drop(permit);
        if let Some(reason) = broken {
            // Behind an error hyper sends nothing more, of what it was given before either.
            std::thread::sleep(REASON_TIME);
            drop(sender.blocking_send(Err(io::Error::other(reason)))); // I2
        }
    });
    Ok(stream)
}

fn header_of(replica: &Replica, order: BackupOrder, begin: LogId) -> BackupHeader {
    let limits = replica.machine.limits();
    let BackupOrder { id, cluster_id, node, begun_ms, since, base } = order;
    BackupHeader {
        id,
        cluster_id,
        machine: replica.machine.kind(),
        slot_count: limits.slot_count,
        value_bytes: limits.value_bytes_max,
        node,
        begun_ms,
        begin,
        since,
        base: if since.get() > 0 { base } else { 0 },
    }
}

/// A backup that is being written.
struct Backup {
    replica: Arc<Replica>,
    wal: Arc<Wal>,
    /// I1.
    held: SlotsSnapshot,
    /// What it was when the backup began (I4).
    readable_from: u64,
    /// That of the header (I5).
    slot_count: u64,
    /// How much log there was then.
    log_bytes: u64,
    sender: mpsc::Sender<io::Result<Bytes>>,
}

/// Why a backup is not finished.
enum Stop {
    /// Nobody takes it any more.
    Untaken,
    /// For whoever takes it.
    Broken(String),
}

impl From<diskstore_storage::Error> for Stop {
    fn from(error: diskstore_storage::Error) -> Stop {
        Stop::Broken(chain(&error))
    }
}

impl Backup {
    /// Writes all of it, or why that is not possible, which it gives then.
    fn write(&self, header: &BackupHeader, runtime: &Handle) -> Option<String> {
        let (started, since) = (Instant::now(), header.since.get());
        let (mut writer, head) = BackupWriter::begin(header);
        let written = self.send(Some(head)).and_then(|()| {
            let ids = self.held.request_ids().map_or(&[][..], |ids| ids);
            self.send(writer.request_ids(ids))?;
            self.write_images(since, &mut writer)?;
            self.write_entries(&mut writer, runtime)?;
            let (end, piece) = writer.end();
            self.send(Some(piece)).map(|()| end)
        });
        match written {
            Ok(BackupEnd { last, image_count, entry_count, .. }) => {
                let (index, elapsed) = (last.index, started.elapsed());
                tracing::info!(index, since, image_count, entry_count, ?elapsed, "backup");
                None
            }
            Err(Stop::Untaken) => {
                tracing::warn!("nobody takes the backup that was begun");
                None
            }
            Err(Stop::Broken(reason)) => {
                tracing::warn!(reason, "a backup cannot be finished");
                // The other end is gone if nobody wants to know.
                drop(self.send(Some(writer.broken(&reason))));
                Some(reason)
            }
        }
    }

    /// Waits until there is room for a piece (I3).
    fn send(&self, piece: Option<Bytes>) -> Result<(), Stop> {
        let Some(piece) = piece else {
            return if self.sender.is_closed() { Err(Stop::Untaken) } else { Ok(()) };
        };
        self.sender.blocking_send(Ok(piece)).map_err(|_| Stop::Untaken)
    }

    /// All slots or keys that changed after `since`.
    fn write_images(&self, since: u64, writer: &mut BackupWriter) -> Result<(), Stop> {
        let machine = &self.replica.machine;
        let mut pace = Pace::new(self.held.end(), self.wal.log_bytes());
        let mut next = Some(0);
        while let Some(from) = next {
            let (images, then) = machine.scan(from, since, PIECE_BYTES)?;
            self.send(match &images {
                Images::Slots(images) => writer.slots(images),
                Images::Keys(images) => writer.keys(images),
            })?;
            self.check()?;
            let data_bytes = machine.usage().data_bytes;
            if let Some(done) = then {
                std::thread::sleep(pace.rest(done, self.wal.log_bytes(), data_bytes));
            }
            next = then;
        }
        Ok(())
    }

    /// The log from the begin on, up to what is applied now.
    fn write_entries(&self, writer: &mut BackupWriter, runtime: &Handle) -> Result<(), Stop> {
        // A slot is written a moment before its entry counts as applied.
        let exact_from = writer.exact_from();
        let applied = self.replica.wait_applied(exact_from);
        if runtime.block_on(timeout(APPLY_BOUND, applied)).is_err() {
            return Err(Stop::Broken(format!("entry {exact_from} is not applied as a whole")));
        }
        let end = self.replica.applied_index() + 1;
        while writer.next_index() < end {
            let first = writer.next_index();
            let range = first..end.min(first + PIECE_ENTRIES_MAX);
            let entries = self.wal.read(range, PIECE_BYTES)?;
            if entries.first().is_none_or(|entry| entry.log_id.index != first) {
                return Err(Stop::Broken(format!("the log has lost entry {first}")));
            }
            self.send(writer.entries(&entries))?;
            self.check()?;
        }
        self.check()
    }

    /// Ends what must not go on (I3, I4, I5).
    fn check(&self) -> Result<(), Stop> {
        let machine = &self.replica.machine;
        if machine.readable_from() != self.readable_from {
            let reason = "another member had to send this one a snapshot meanwhile: try again";
            return Err(Stop::Broken(reason.to_owned()));
        }
        if machine.limits().slot_count != self.slot_count {
            let reason = "the cluster came to have more slots meanwhile: try again";
            return Err(Stop::Broken(reason.to_owned()));
        }
        let held_bytes = self.wal.log_bytes() - self.log_bytes;
        if held_bytes > HELD_LOG_BYTES_MIN.saturating_add(2 * machine.usage().data_bytes) {
            return Err(Stop::Broken(format!(
                "the log grew by {held_bytes} bytes, all kept for this backup, while it was taken: \
                 have it taken faster, or when less is written"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
