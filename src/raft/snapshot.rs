//! Snapshots: slots streamed from one member to another while commands go on being applied.
//!
//! Called by `network` (send) and `peers` (receive); calls `machine`. A snapshot begins at
//! the sender's applied index S and ends at E; the receiver takes what changed after its own
//! applied index, merges it by the slot rule, and then holds S with some slots ahead. Invariants:
//!
//! - I1: the highest index that a slot may carry is counted in `readable_from` before it is merged,
//!   and its superblock is synced before the first merged page is written (storage sees to both).
//! - I2: a snapshot is never finished over a damaged slot, and a frame out of order ends it.
//! - I3: the log behind S stays on the sender from the moment that S is chosen until the transfer
//!   is over (`hold`).
//! - I4: no index above the end of the sender's log is sent, or believed (`snapshot_wire`).
//! - I5: slots that are damaged at the receiver travel too, changed or not, but only from a sender
//!   that has applied what the receiver has: what is skipped here would never be replayed there.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use diskstore_storage::wal::Wal;
use openraft::alias::SnapshotOf;
use openraft::raft::SnapshotResponse;
use openraft::storage::Snapshot;
use tokio::time::Instant;

use super::connection::{FrameReader, FrameWriter, bad_frame, dial, in_time};
use super::pace::Pace;
use super::snapshot_wire::{Accept, SnapshotBegin, SnapshotEnd, SnapshotSlots, read_reply};
use super::state_machine::{MachineShared, SlotsSnapshot};
use super::types::{TypeConfig, Vote};
use super::wire::{Hello, Kind};
use crate::machine::Images;

/// Bytes of values that one frame of slots carries.
const FRAME_VALUE_BYTES: usize = 1 << 20;
/// While nothing is found to send, an empty frame goes out after this time.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// A transfer that makes no progress for this long is given up.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// How long the receiver may take to write everything back at the end.
const INSTALL_MAX: Duration = Duration::from_mins(2);

/// What sending needs.
#[derive(Debug)]
pub(super) struct Sender {
    shared: Arc<MachineShared>,
    wal: Arc<Wal>,
    /// Slots sent since the start.
    slots_sent: AtomicU64,
}

impl Sender {
    /// Sends from these slots, to which this log belongs.
    pub(super) fn new(shared: Arc<MachineShared>, wal: Arc<Wal>) -> Sender {
        Sender { shared, wal, slots_sent: AtomicU64::new(0) }
    }

    /// Slots sent since the start.
    pub(super) fn slots_sent(&self) -> u64 {
        self.slots_sent.load(Ordering::Relaxed)
    }

    /// The last index of the own log, if `index` is not above it (I4).
    fn last_log(&self, index: u64) -> io::Result<u64> {
        let last = self.wal.state().last.map_or(0, |last| last.index);
        if index > last {
            let reason = format!("slots at {index} are ahead of the log, which ends at {last}");
            return Err(io::Error::other(reason));
        }
        Ok(last)
    }
}

/// Sends a snapshot and waits until it is installed.
///
/// # Errors
/// Of the connection; the receiver's or this member's slots cannot be read or written.
pub(super) async fn send(
    sender: &Sender,
    address: &str,
    hello: &Hello,
    vote: Vote,
    snapshot: SnapshotOf<TypeConfig, SlotsSnapshot>,
) -> io::Result<SnapshotResponse<TypeConfig>> {
    let Snapshot { meta, snapshot: held } = snapshot; // I3
    let Some(log_id) = meta.last_log_id else {
        return Err(io::Error::other("there is nothing to send"));
    };
    let (mut reader, mut writer) = dial(address, hello).await?;
    let readable_from = sender.shared.machine.readable_from();
    let last_log = sender.last_log(readable_from.max(log_id.index))?;
    let membership = meta.last_membership.clone();
    let horizon = held.horizon().unwrap_or(0);
    if horizon < sender.shared.machine.begin_send().horizon {
        return Err(io::Error::other("deletes behind this snapshot may have been forgotten"));
    }
    let begin = SnapshotBegin { vote, log_id, membership, readable_from, last_log, horizon };
    begin.put(&mut writer.buffer);
    in_time(writer.send(), IDLE_MAX).await?;
    let accepted = in_time(reader.expect(Kind::SnapshotAccept), IDLE_MAX).await?;
    let (changed_after, damaged) = match Accept::decode(accepted).map_err(bad_frame)? {
        Accept::Changed { after, damaged } => (after, damaged),
        Accept::HigherVote(vote) => return Ok(SnapshotResponse::new(vote)),
    };
    let mut sent = Sent { sender, writer: &mut writer, frames: 0, slots: 0 };
    sent.send_changed(changed_after).await?;
    sent.send_damaged(changed_after, damaged).await?;
    let (frames, slots) = (sent.frames, sent.slots);
    let applied = sender.shared.applied_index();
    let last_log = sender.last_log(applied)?;
    SnapshotEnd { frames, slots, applied, last_log }.put(&mut writer.buffer);
    in_time(writer.send(), IDLE_MAX).await?;
    let reply = in_time(reader.expect(Kind::SnapshotReply), INSTALL_MAX).await?;
    let vote = read_reply(reply).map_err(bad_frame)?;
    tracing::info!(to = address, slots, changed_after, "snapshot sent");
    Ok(SnapshotResponse::new(vote))
}

/// The frames of slots of one transfer.
struct Sent<'a> {
    sender: &'a Sender,
    writer: &'a mut FrameWriter,
    frames: u64,
    slots: u64,
}

impl Sent<'_> {
    /// Sends all slots whose index is above `changed_after`.
    async fn send_changed(&mut self, changed_after: u64) -> io::Result<()> {
        let (mut next, mut last_sent) = (Some(0), Instant::now());
        let machine = &self.sender.shared.machine;
        let log_bytes = || self.sender.wal.log_bytes();
        let mut pace = Pace::new(machine.scan_end(), log_bytes());
        while let Some(from) = next {
            let scanned = machine.clone();
            // Reading may fault pages in from the disk.
            let scanned = tokio::task::spawn_blocking(move || {
                scanned.scan(from, changed_after, FRAME_VALUE_BYTES)
            });
            let (images, after) =
                scanned.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
            next = after;
            if images.count() == 0 && last_sent.elapsed() < SIGN_OF_LIFE {
                continue;
            }
            last_sent = Instant::now();
            self.send(images).await?;
            // The log that is kept for the transfer grows to the size of the data at most.
            let spread_bytes = machine.data_bytes();
            if let Some(done) = next {
                tokio::time::sleep(pace.rest(done, log_bytes(), spread_bytes)).await;
            }
        }
        Ok(())
    }

    /// Sends slots that are damaged at the receiver and not newer than what it has applied (I5).
    async fn send_damaged(&mut self, applied_there: u64, keys: Vec<u64>) -> io::Result<()> {
        if self.sender.shared.applied_index() < applied_there {
            return Ok(()); // they may be older here than what the receiver lost (PITFALLS 17)
        }
        for key in keys {
            let machine = self.sender.shared.machine.clone();
            let image = tokio::task::spawn_blocking(move || machine.image(key));
            match image.await.map_err(io::Error::other)? {
                Ok(image) => self.send(image).await?,
                // The receiver knows that the slot is damaged and answers reads with an error.
                Err(error) => tracing::warn!(slot = key, %error, "a slot cannot be repaired"),
            }
        }
        Ok(())
    }

    async fn send(&mut self, images: Images) -> io::Result<()> {
        let count = images.count() as u64;
        let last_log = self.sender.last_log(images.highest_index())?;
        SnapshotSlots { nth: self.frames, last_log, images }.put(&mut self.writer.buffer);
        self.frames += 1;
        self.slots += count;
        self.sender.slots_sent.fetch_add(count, Ordering::Relaxed);
        in_time(self.writer.send(), IDLE_MAX).await
    }
}

/// Takes a snapshot off a connection and merges it. Returns what it began with; the caller then
/// has openraft install it.
///
/// # Errors
/// Of the connection or the disk, or a frame that must not be. What was merged stays: each slot is
/// whole and newer, and the next replay or delta completes the rest.
pub(super) async fn receive(
    shared: &Arc<MachineShared>,
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
    own_vote: Option<Vote>,
) -> io::Result<Option<SnapshotBegin>> {
    let body = in_time(reader.expect(Kind::SnapshotBegin), IDLE_MAX).await?;
    let begin = SnapshotBegin::decode(body).map_err(bad_frame)?;
    if let Some(vote) = own_vote.filter(|own| *own > begin.vote) {
        Accept::HigherVote(vote).put(&mut writer.buffer);
        in_time(writer.send(), IDLE_MAX).await?;
        return Ok(None);
    }
    let after = shared.machine.begin_merge(shared.applied_index(), begin.horizon);
    let damaged = damaged_slots(shared).await?;
    Accept::Changed { after, damaged }.put(&mut writer.buffer);
    in_time(writer.send(), IDLE_MAX).await?;
    raise_readable_from(shared, begin.readable_from.max(begin.log_id.index)).await?;
    let (mut frames, mut count) = (0, 0);
    loop {
        let frame = in_time(reader.next(), IDLE_MAX).await?;
        let Some(frame) = frame else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        match frame.kind {
            kind @ (Kind::SnapshotSlots | Kind::SnapshotKeys) => {
                let decoded = match kind {
                    Kind::SnapshotKeys => SnapshotSlots::decode_keys(frame.body),
                    _ => SnapshotSlots::decode(frame.body),
                };
                let SnapshotSlots { nth, images, .. } = decoded.map_err(bad_frame)?;
                if nth != frames {
                    return Err(io::Error::other("a frame of the snapshot is missing"));
                }
                frames += 1;
                count += images.count() as u64;
                shared.slots_received.fetch_add(images.count() as u64, Ordering::Relaxed);
                merge(shared, images).await?;
            }
            Kind::SnapshotEnd => {
                let end = SnapshotEnd::decode(frame.body).map_err(bad_frame)?;
                if (end.frames, end.slots) != (frames, count) {
                    return Err(io::Error::other("slots of the snapshot are missing"));
                }
                raise_readable_from(shared, end.applied).await?;
                shared.machine.finish_merge(begin.log_id.index);
                tracing::info!(slots = count, changed_after = after, "snapshot received");
                return Ok(Some(begin));
            }
            kind => return Err(io::Error::other(format!("{kind:?} within a snapshot"))),
        }
    }
}

/// The slots whose checksums are wrong here.
async fn damaged_slots(shared: &Arc<MachineShared>) -> io::Result<Vec<u64>> {
    let shared = shared.clone();
    let damaged = tokio::task::spawn_blocking(move || shared.damaged_slots());
    damaged.await.map_err(io::Error::other)
}

/// Makes it durable that nothing may be read before `index` is applied (I1).
async fn raise_readable_from(shared: &Arc<MachineShared>, index: u64) -> io::Result<()> {
    let machine = shared.machine.clone();
    let raised = tokio::task::spawn_blocking(move || machine.set_readable_from(index));
    raised.await.map_err(io::Error::other)?.map_err(io::Error::other)
}

/// Merges slots; at the memory budget they are written back first.
async fn merge(shared: &Arc<MachineShared>, images: Images) -> io::Result<()> {
    let shared = shared.clone();
    let merged = tokio::task::spawn_blocking(move || {
        shared.machine.merge(&images)?;
        if shared.machine.over_budget() { shared.write_back() } else { Ok(()) }
    });
    merged.await.map_err(io::Error::other)?.map_err(io::Error::other)
}
