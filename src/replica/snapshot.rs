//! Snapshots: slots streamed from one member to another while commands go on being applied.
//!
//! Called by `raft` (whose network sends, and whose peers receive); calls `machine` and `peer`. A
//! snapshot begins at S, the sender's applied index, and ends at E. The receiver takes the slots
//! that changed after its own applied index, and merges them by the slot rule. It then holds the
//! state as of S, with some slots already ahead of it. Invariants:
//!
//! - I1: the highest index that a slot may carry is counted in `readable_from` before the slot is
//!   merged, and the superblock with it is synced before the first merged page is written (storage
//!   does both).
//! - I2: a snapshot is never finished over a damaged slot, and a frame out of order ends it.
//! - I3: the sender keeps the log above S from the moment that S is chosen until the transfer is
//!   over (`hold`).
//! - I4: no index above the end of the sender's log is sent, or believed (`snapshot_frames`).
//! - I5: slots that are damaged at the receiver are sent too, changed or not, but only if the
//!   sender has applied all that the receiver has: an entry that the slot lacks would never be
//!   replayed there.
//! - I6: on a full disk the transfer fails, not the receiver, which takes no snapshot before it has
//!   room again.
//! - I7: a transfer ends once the receiver has applied an entry above the snapshot's begin (I3 of
//!   `state`), or has a vote above the sender's, because it would keep the new leader's snapshot
//!   waiting.
//! - I8: the request ids of exactly S travel before all slots, and count from the moment at which the
//!   snapshot is installed: they decide which entries behind S are applied.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use diskstore_storage::wal::Wal;
use diskstore_storage::{Error, LogId, Result, Vote};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::pace::Pace;
use super::snapshot_frames::{
    Accept, SnapshotBegin, SnapshotEnd, SnapshotSlots, put_request_ids, read_reply,
};
use super::state::{Applied, Replica, SlotsSnapshot};
use crate::machine::{Images, Machine, Scanned};
use crate::peer::{Connection, FrameKind, FrameReader, FrameWriter, bad_frame, in_time};

/// Bytes of values that one frame of slots carries.
const FRAME_VALUE_BYTES: usize = 256 << 10;
/// If the sender finds nothing to send for this long, it sends an empty frame.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// A transfer that makes no progress for this long is given up.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// How long the receiver may take to write everything back at the end.
const INSTALL_MAX: Duration = Duration::from_mins(2);

/// What sending needs.
#[derive(Debug)]
pub(crate) struct Sender {
    replica: Arc<Replica>,
    wal: Arc<Wal>,
    /// Slots sent since the start.
    slots_sent: AtomicU64,
}

impl Sender {
    /// Sends from this replica, to which this log belongs.
    pub(crate) fn new(replica: Arc<Replica>, wal: Arc<Wal>) -> Sender {
        Sender { replica, wal, slots_sent: AtomicU64::new(0) }
    }

    /// The log of the slots.
    pub(crate) fn wal(&self) -> &Arc<Wal> {
        &self.wal
    }

    /// Slots sent since the start.
    pub(crate) fn slots_sent(&self) -> u64 {
        self.slots_sent.load(Ordering::Relaxed)
    }

    /// The last index of this member's log. Fails if `index` is above it (I4).
    fn last_log(&self, index: u64) -> io::Result<u64> {
        let last = self.wal.state().last.map_or(0, |last| last.index);
        if index > last {
            let reason = format!("slots at {index} are ahead of the log, which ends at {last}");
            return Err(io::Error::other(reason));
        }
        Ok(last)
    }
}

/// A snapshot to be sent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// The entry that it begins at, and the membership as of that entry.
    pub(crate) label: Applied,
    /// Keeps the log behind it, and deletes, from being forgotten.
    pub(crate) held: SlotsSnapshot,
}

/// Sends a snapshot over a connection, under the sender's vote, and waits until it is installed;
/// returns the receiver's vote.
///
/// # Errors
/// Of the connection; the receiver's or this member's slots cannot be read or written.
pub(crate) async fn send(
    sender: &Sender,
    address: &str,
    connection: Connection,
    vote: Vote,
    snapshot: Outgoing, // I3
) -> io::Result<Vote> {
    let (mut reader, mut writer) = connection;
    let Outgoing { label, held } = snapshot;
    let Applied { log_id: Some(log_id), membership } = label else {
        return Err(io::Error::other("there is nothing to send"));
    };
    let readable_from = sender.replica.machine.readable_from();
    let last_log = sender.last_log(readable_from.max(log_id.index))?;
    let what = "nothing keeps the log behind this snapshot";
    let request_ids = held.request_ids().ok_or_else(|| io::Error::other(what))?; // I8
    let horizon = held.horizon().unwrap_or(0);
    let now = sender.replica.machine.begin_send();
    if horizon < now.horizon {
        return Err(io::Error::other("deletes behind this snapshot may have been forgotten"));
    }
    let begin = SnapshotBegin { vote, log_id, membership, readable_from, last_log, horizon };
    begin.put(&mut writer.buffer);
    in_time(writer.send(), IDLE_MAX).await?;
    let accepted = in_time(reader.expect(FrameKind::SnapshotAccept), IDLE_MAX).await?;
    let (changed_after, damaged) = match Accept::decode(accepted).map_err(bad_frame)? {
        Accept::Changed { after, damaged } => (after, damaged),
        Accept::HigherVote(vote) => return Ok(vote),
    };
    put_request_ids(&mut writer.buffer, request_ids);
    in_time(writer.send(), IDLE_MAX).await?;
    let mut sent = Sent { sender, writer: &mut writer, frames: 0, slots: 0 };
    sent.send_changed(changed_after, now.end).await?;
    sent.send_damaged(changed_after, damaged).await?;
    let (frames, slots) = (sent.frames, sent.slots);
    let applied = sender.replica.applied_index();
    let last_log = sender.last_log(applied)?;
    SnapshotEnd { frames, slots, applied, last_log }.put(&mut writer.buffer);
    in_time(writer.send(), IDLE_MAX).await?;
    let reply = in_time(reader.expect(FrameKind::SnapshotReply), INSTALL_MAX).await?;
    let vote = read_reply(reply).map_err(bad_frame)?;
    tracing::info!(to = address, slots, changed_after, "snapshot sent");
    Ok(vote)
}

/// The frames of slots of one transfer.
struct Sent<'a> {
    sender: &'a Sender,
    writer: &'a mut FrameWriter,
    frames: u64,
    slots: u64,
}

impl Sent<'_> {
    /// Sends all slots whose index is above `changed_after`; `end` is where a scan ends.
    async fn send_changed(&mut self, changed_after: u64, end: u64) -> io::Result<()> {
        let mut last_sent = Instant::now();
        let machine = &self.sender.replica.machine;
        let log_bytes = || self.sender.wal.log_bytes();
        let mut pace = Pace::new(end, log_bytes());
        let mut scanning = Some(scan(machine, 0, changed_after));
        while let Some(scanned) = scanning.take() {
            let (images, next) =
                scanned.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
            // Read while these are sent.
            scanning = next.map(|next| scan(machine, next, changed_after));
            if images.count() == 0 && last_sent.elapsed() < SIGN_OF_LIFE {
                continue;
            }
            last_sent = Instant::now();
            self.send(images).await?;
            // The log that is kept for the transfer grows to the size of the data at most.
            let spread_bytes = machine.usage().data_bytes;
            let rest = next.map(|done| pace.rest(done, log_bytes(), spread_bytes));
            // Even a sleep of no time takes until the timer's next tick, a millisecond.
            if let Some(rest) = rest.filter(|rest| !rest.is_zero()) {
                tokio::time::sleep(rest).await;
            }
        }
        Ok(())
    }

    /// Sends slots that are damaged at the receiver and not newer than what it has applied (I5).
    async fn send_damaged(&mut self, applied_there: u64, keys: Vec<u64>) -> io::Result<()> {
        if self.sender.replica.applied_index() < applied_there {
            return Ok(()); // they may be older here than what the receiver lost (H17)
        }
        for key in keys {
            let machine = self.sender.replica.machine.clone();
            let image = tokio::task::spawn_blocking(move || {
                machine.paged().map(|paged| paged.image(key)).transpose()
            });
            match image.await.map_err(io::Error::other)? {
                Ok(Some(image)) => self.send(image).await?,
                Ok(None) => {} // nothing of it can be damaged
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

/// Reads slots from `from` on, on a thread that may wait for the disk, and says where to go on.
fn scan(machine: &Machine, from: u64, changed_after: u64) -> JoinHandle<Result<Scanned>> {
    let machine = machine.clone();
    tokio::task::spawn_blocking(move || machine.scan(from, changed_after, FRAME_VALUE_BYTES))
}

/// Judges a snapshot by its first frame, and again with each frame that follows. `Some` refuses it with
/// the receiver's vote, which is higher than the sender's; an error ends the transfer.
pub(crate) type Judge<'a> = &'a (dyn Fn(&SnapshotBegin) -> io::Result<Option<Vote>> + Sync);

/// Receives a snapshot and merges it. Returns its first frame; the caller then has it installed.
///
/// # Errors
/// Of the connection or the disk, or a frame that breaks the protocol. Slots that were merged stay: each
/// is whole and newer, and the next replay or delta completes the rest.
pub(crate) async fn receive(
    replica: &Arc<Replica>,
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
    judge: Judge<'_>,
) -> io::Result<Option<SnapshotBegin>> {
    let body = in_time(reader.expect(FrameKind::SnapshotBegin), IDLE_MAX).await?;
    let begin = SnapshotBegin::decode(body).map_err(bad_frame)?;
    if let Some(vote) = judge(&begin)? {
        Accept::HigherVote(vote).put(&mut writer.buffer);
        in_time(writer.send(), IDLE_MAX).await?;
        return Ok(None);
    }
    let after = replica.machine.begin_merge(replica.applied_index(), begin.horizon);
    let damaged = damaged_slots(replica).await?;
    Accept::Changed { after, damaged }.put(&mut writer.buffer);
    in_time(writer.send(), IDLE_MAX).await?;
    raise_readable_from(replica, begin.readable_from.max(begin.log_id.index)).await?;
    let mut merging = Merging { replica, begin: begin.log_id.index, merge: None, write_back: None };
    let is_deposed = || judge(&begin).map(|higher| higher.is_some());
    let received = receive_slots(&mut merging, reader, &is_deposed).await;
    // Whatever happened: nothing is merged behind the end of the transfer.
    let settled = merging.settle().await;
    let Received { end, slots, request_ids } = received?;
    settled?;
    raise_readable_from(replica, end.applied).await?;
    check_install_space(replica).await?; // an install that follows must not fail for that
    keep_request_ids(replica, begin.log_id, request_ids).await?; // nor for this
    replica.machine.finish_merge(begin.log_id.index);
    tracing::info!(slots, changed_after = after, "snapshot received");
    Ok(Some(begin))
}

/// An error of this member's own disk, which no further attempt of the sender mends.
pub(crate) fn disk_failure(error: &io::Error) -> Option<&Error> {
    let failure = error.get_ref()?.downcast_ref::<Error>()?;
    matches!(failure, Error::Io { .. } | Error::Poisoned { .. } | Error::Corrupt { .. })
        .then_some(failure)
}

/// What a transfer brought beside slots.
struct Received {
    /// The last frame.
    end: SnapshotEnd,
    /// How many slots there were.
    slots: u64,
    /// Empty if there are none.
    request_ids: Bytes,
}

/// Receives frames up to the last one.
async fn receive_slots(
    merging: &mut Merging<'_>,
    reader: &mut FrameReader,
    is_deposed: &(dyn Fn() -> io::Result<bool> + Sync),
) -> io::Result<Received> {
    let (mut frames, mut count, mut request_ids) = (0, 0, Bytes::new());
    loop {
        let frame = in_time(reader.next(), IDLE_MAX).await?;
        let Some(frame) = frame else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        if is_deposed()? {
            return Err(io::Error::other("another leader was voted for")); // I7
        }
        match frame.kind {
            kind @ (FrameKind::SnapshotSlots | FrameKind::SnapshotKeys) => {
                let decoded = match kind {
                    FrameKind::SnapshotKeys => SnapshotSlots::decode_keys(frame.body),
                    _ => SnapshotSlots::decode(frame.body),
                };
                let SnapshotSlots { nth, images, .. } = decoded.map_err(bad_frame)?;
                if nth != frames {
                    return Err(io::Error::other("a frame of the snapshot is missing"));
                }
                frames += 1;
                count += images.count() as u64;
                merging.replica.slots_received.fetch_add(images.count() as u64, Ordering::Relaxed);
                merging.merge(images).await?;
            }
            FrameKind::SnapshotRequests if frames == 0 && request_ids.is_empty() => {
                request_ids = frame.body; // I8
            }
            FrameKind::SnapshotEnd => {
                let end = SnapshotEnd::decode(frame.body).map_err(bad_frame)?;
                if (end.frames, end.slots) != (frames, count) {
                    return Err(io::Error::other("slots of the snapshot are missing"));
                }
                return Ok(Received { end, slots: count, request_ids });
            }
            kind => return Err(io::Error::other(format!("{kind:?} within a snapshot"))),
        }
    }
}

/// The slots whose checksums are wrong here.
async fn damaged_slots(replica: &Arc<Replica>) -> io::Result<Vec<u64>> {
    let machine = replica.machine.clone();
    let damaged = tokio::task::spawn_blocking(move || {
        machine.paged().map_or_else(Vec::new, |paged| paged.damaged_slots())
    });
    damaged.await.map_err(io::Error::other)
}

/// Makes it durable that nothing may be read before `index` is applied (I1).
async fn raise_readable_from(replica: &Arc<Replica>, index: u64) -> io::Result<()> {
    let machine = replica.machine.clone();
    let raised = tokio::task::spawn_blocking(move || machine.set_readable_from(index));
    raised.await.map_err(io::Error::other)?.map_err(io::Error::other)
}

/// Makes the request ids durable until the snapshot is installed, whose begin they are as of.
async fn keep_request_ids(replica: &Arc<Replica>, begin: LogId, ids: Bytes) -> io::Result<()> {
    let replica = replica.clone();
    let kept = tokio::task::spawn_blocking(move || replica.receive_ids(begin, &ids));
    let is_good = kept.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
    if is_good { Ok(()) } else { Err(io::Error::other("the request ids of a snapshot are none")) }
}

async fn check_install_space(replica: &Arc<Replica>) -> io::Result<()> {
    let replica = replica.clone();
    let checked = tokio::task::spawn_blocking(move || replica.check_install_space());
    checked.await.map_err(io::Error::other)?.map_err(io::Error::other)
}

type Working = JoinHandle<Result<()>>;

/// The slots that are being merged while the next ones arrive, and those that are being written back.
struct Merging<'a> {
    replica: &'a Arc<Replica>,
    /// Where the snapshot begins.
    begin: u64,
    merge: Option<Working>,
    write_back: Option<Working>,
}

impl Merging<'_> {
    /// Merges slots once those before them are merged; at the memory budget some are written back
    /// first.
    async fn merge(&mut self, images: Images) -> io::Result<()> {
        finish(&mut self.merge).await?;
        if self.write_back.as_ref().is_some_and(JoinHandle::is_finished) {
            finish(&mut self.write_back).await?;
        }
        let replica = self.replica;
        // Else the disk would wait for the network first, and everybody for the disk in the end.
        let is_due = replica.machine.usage().dirty_bytes >= replica.bounds.write_back_bytes;
        if self.write_back.is_none() && is_due {
            let replica = replica.clone();
            self.write_back = Some(tokio::task::spawn_blocking(move || replica.write_back()));
        }
        let (replica, begin) = (replica.clone(), self.begin);
        self.merge = Some(tokio::task::spawn_blocking(move || {
            replica.merge(&images, begin)?;
            replica.reclaim_memory()
        }));
        Ok(())
    }

    /// Waits until nothing is under way.
    async fn settle(&mut self) -> io::Result<()> {
        let merged = finish(&mut self.merge).await;
        finish(&mut self.write_back).await.and(merged)
    }
}

async fn finish(working: &mut Option<Working>) -> io::Result<()> {
    let Some(working) = working.take() else { return Ok(()) };
    working.await.map_err(io::Error::other)?.map_err(io::Error::other)
}
