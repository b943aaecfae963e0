//! Snapshots: slots streamed from one member to another while commands go on being applied.
//!
//! Called by `network` (send) and `peers` (receive); calls `storage::slots`. A snapshot begins at
//! the sender's applied index S and ends at E; the receiver takes what changed after its own
//! applied index, merges it by the slot rule, and then holds S with some slots ahead. Invariants:
//!
//! - I1: the highest index that a slot may carry is counted in `readable_from` before it is merged,
//!   and its superblock is synced before the first merged page is written (storage sees to both).
//! - I2: a snapshot is never finished over a damaged slot, and a frame out of order ends it.
//! - I3: the log behind S stays on the sender while a transfer runs.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes};
use diskstore_storage::slots::SlotImage;
use openraft::alias::SnapshotMetaOf;
use openraft::raft::SnapshotResponse;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::connection::{FrameReader, FrameWriter, bad_frame, dial};
use super::cursor::Cursor;
use super::state_machine::MachineShared;
use super::types::{LogId, TypeConfig, Vote, vote_from, vote_to};
use super::wire::{
    Hello, Kind, SnapshotBegin, put_frame, put_slots, put_vote, read_slots, read_vote,
};

/// Bytes of values that one frame of slots carries.
const FRAME_VALUE_BYTES: usize = 1 << 20;
/// While nothing is found to send, an empty frame goes out after this time.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// A transfer that makes no progress for this long is given up.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// How long the receiver may take to write everything back at the end.
const INSTALL_MAX: Duration = Duration::from_mins(2);

/// What sending needs, and what runs.
#[derive(Debug)]
pub(super) struct Sender {
    shared: Arc<MachineShared>,
    /// First log index that each running transfer needs behind its snapshot.
    running: Mutex<BTreeMap<u64, u64>>,
    next_id: AtomicU64,
    /// Slots sent since the start.
    slots_sent: AtomicU64,
}

impl Sender {
    /// Sends from these slots.
    pub(super) fn new(shared: Arc<MachineShared>) -> Sender {
        Sender {
            shared,
            running: Mutex::default(),
            next_id: AtomicU64::new(0),
            slots_sent: AtomicU64::new(0),
        }
    }

    /// The log up to here may go as far as running transfers are concerned (I3).
    pub(super) fn purge_bound(&self) -> u64 {
        self.running.lock().values().copied().min().unwrap_or(u64::MAX)
    }

    /// Slots sent since the start.
    pub(super) fn slots_sent(&self) -> u64 {
        self.slots_sent.load(Ordering::Relaxed)
    }
}

/// Keeps the log behind a snapshot while it is sent.
struct Running<'a> {
    sender: &'a Sender,
    id: u64,
}

impl<'a> Running<'a> {
    fn new(sender: &'a Sender, log_id: LogId) -> Running<'a> {
        let id = sender.next_id.fetch_add(1, Ordering::Relaxed);
        sender.running.lock().insert(id, log_id.index);
        Running { sender, id }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.sender.running.lock().remove(&self.id);
    }
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>, bound: Duration) -> io::Result<T> {
    timeout(bound, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Sends a snapshot that begins at what `meta` says and waits until it is installed.
///
/// # Errors
/// Of the connection; the receiver's or this member's slots cannot be read or written.
pub(super) async fn send(
    sender: &Sender,
    address: &str,
    hello: &Hello,
    vote: Vote,
    meta: SnapshotMetaOf<TypeConfig>,
) -> io::Result<SnapshotResponse<TypeConfig>> {
    let Some(log_id) = meta.last_log_id else {
        return Err(io::Error::other("there is nothing to send"));
    };
    let _running = Running::new(sender, log_id);
    let (mut reader, mut writer) = dial(address, hello).await?;
    let readable_from = sender.shared.machine.slots().readable_from();
    let begin =
        SnapshotBegin { vote, log_id, membership: meta.last_membership.clone(), readable_from };
    begin.put(&mut writer.buffer);
    in_time(writer.send(), IDLE_MAX).await?;
    let accepted = in_time(reader.expect(Kind::SnapshotAccept), IDLE_MAX).await?;
    let changed_after = match decode_accept(accepted).map_err(bad_frame)? {
        Accept::ChangedAfter(index) => index,
        Accept::HigherVote(vote) => return Ok(SnapshotResponse::new(vote)),
    };
    let sent = send_slots(sender, &mut writer, changed_after).await?;
    put_frame(&mut writer.buffer, Kind::SnapshotEnd, |out| {
        out.put_u64_le(sent.frames);
        out.put_u64_le(sent.slots);
        out.put_u64_le(sender.shared.applied_index());
    });
    in_time(writer.send(), IDLE_MAX).await?;
    let reply = in_time(reader.expect(Kind::SnapshotReply), INSTALL_MAX).await?;
    let vote = decode_reply(reply).map_err(bad_frame)?;
    tracing::info!(to = address, slots = sent.slots, changed_after, "snapshot sent");
    Ok(SnapshotResponse::new(vote))
}

struct Sent {
    frames: u64,
    slots: u64,
}

async fn send_slots(
    sender: &Sender,
    writer: &mut FrameWriter,
    changed_after: u64,
) -> io::Result<Sent> {
    let mut sent = Sent { frames: 0, slots: 0 };
    let mut next = Some(0);
    let mut last_sent = Instant::now();
    while let Some(from) = next {
        let slots = sender.shared.machine.slots().clone();
        // Reading may fault pages in from the disk.
        let scanned = tokio::task::spawn_blocking(move || {
            let mut images = Vec::new();
            let next = slots.scan(from, changed_after, FRAME_VALUE_BYTES, &mut images)?;
            Ok::<_, diskstore_storage::Error>((next, images))
        });
        let (after, images) = scanned.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
        next = after;
        if images.is_empty() && last_sent.elapsed() < SIGN_OF_LIFE {
            continue;
        }
        last_sent = Instant::now();
        put_slots(&mut writer.buffer, sent.frames, &images);
        sent.frames += 1;
        sent.slots += images.len() as u64;
        sender.slots_sent.fetch_add(images.len() as u64, Ordering::Relaxed);
        in_time(writer.send(), IDLE_MAX).await?;
    }
    Ok(sent)
}

/// What a receiver says to a snapshot that begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Accept {
    /// Send what changed after this index.
    ChangedAfter(u64),
    /// The sender leads no more.
    HigherVote(Vote),
}

fn put_accept(out: &mut Vec<u8>, accept: Accept) {
    put_frame(out, Kind::SnapshotAccept, |out| match accept {
        Accept::ChangedAfter(index) => {
            out.put_u8(0);
            out.put_u64_le(index);
        }
        Accept::HigherVote(vote) => {
            out.put_u8(1);
            put_vote(out, &vote_to(&vote));
        }
    });
}

fn decode_accept(body: Bytes) -> Result<Accept, crate::command::DecodeError> {
    let mut cursor = Cursor::new(body);
    let accept = match cursor.u8()? {
        0 => Accept::ChangedAfter(cursor.u64()?),
        1 => Accept::HigherVote(vote_from(read_vote(&mut cursor)?)),
        _ => return Err(cursor.error("unknown answer to a snapshot")),
    };
    cursor.finish()?;
    Ok(accept)
}

/// Appends the frame that ends a transfer on the receiver's side.
pub(super) fn put_reply(out: &mut Vec<u8>, vote: &Vote) {
    put_frame(out, Kind::SnapshotReply, |out| put_vote(out, &vote_to(vote)));
}

fn decode_reply(body: Bytes) -> Result<Vote, crate::command::DecodeError> {
    let mut cursor = Cursor::new(body);
    let vote = vote_from(read_vote(&mut cursor)?);
    cursor.finish()?;
    Ok(vote)
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
        put_accept(&mut writer.buffer, Accept::HigherVote(vote));
        in_time(writer.send(), IDLE_MAX).await?;
        return Ok(None);
    }
    let applied = shared.applied_index();
    put_accept(&mut writer.buffer, Accept::ChangedAfter(applied));
    in_time(writer.send(), IDLE_MAX).await?;
    raise_readable_from(shared, begin.readable_from.max(begin.log_id.index)).await?;
    let (mut frames, mut count) = (0, 0);
    loop {
        let frame = in_time(reader.next(), IDLE_MAX).await?;
        let Some(frame) = frame else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        match frame.kind {
            Kind::SnapshotSlots => {
                let (nth, images) = read_slots(frame.body).map_err(bad_frame)?;
                if nth != frames {
                    return Err(io::Error::other("a frame of the snapshot is missing"));
                }
                frames += 1;
                count += images.len() as u64;
                merge(shared, images).await?;
            }
            Kind::SnapshotEnd => {
                let mut cursor = Cursor::new(frame.body);
                let (frames_sent, slots_sent, end) = read_end(&mut cursor).map_err(bad_frame)?;
                if (frames_sent, slots_sent) != (frames, count) {
                    return Err(io::Error::other("slots of the snapshot are missing"));
                }
                raise_readable_from(shared, end).await?;
                tracing::info!(slots = count, changed_after = applied, "snapshot received");
                return Ok(Some(begin));
            }
            kind => return Err(io::Error::other(format!("{kind:?} within a snapshot"))),
        }
    }
}

fn read_end(cursor: &mut Cursor) -> Result<(u64, u64, u64), crate::command::DecodeError> {
    let fields = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
    cursor.finish()?;
    Ok(fields)
}

/// Makes it durable that nothing may be read before `index` is applied (I1).
async fn raise_readable_from(shared: &Arc<MachineShared>, index: u64) -> io::Result<()> {
    let slots = shared.machine.slots().clone();
    let raised = tokio::task::spawn_blocking(move || slots.set_readable_from(index));
    raised.await.map_err(io::Error::other)?.map_err(io::Error::other)
}

/// Merges slots; at the memory budget they are written back first.
async fn merge(shared: &Arc<MachineShared>, images: Vec<SlotImage>) -> io::Result<()> {
    let shared = shared.clone();
    let merged = tokio::task::spawn_blocking(move || {
        let slots = shared.machine.slots();
        for image in &images {
            slots.merge(image)?;
        }
        if slots.over_budget() { shared.write_back() } else { Ok(()) }
    });
    merged.await.map_err(io::Error::other)?.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_survive_their_bytes() {
        let vote = Vote::new(3, 7);
        for accept in [Accept::ChangedAfter(9), Accept::HigherVote(vote)] {
            let mut out = Vec::new();
            put_accept(&mut out, accept);
            let body = Bytes::from(out).split_off(super::super::wire::HEADER_BYTES);
            for end in 0..body.len() {
                assert!(decode_accept(body.slice(..end)).is_err());
            }
            assert_eq!(decode_accept(body).unwrap(), accept);
        }
    }
}
