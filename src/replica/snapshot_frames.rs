//! The frames of a snapshot transfer, as bytes (`docs/format.md`, "Peer frames"). Pure.
//!
//! Called by `snapshot`. Invariant:
//!
//! - I1: no frame carries an index above `last_log`, the last index of the sender's own log: slots
//!   and `readable_from` only ever come from entries that were committed, and a leader has all of
//!   these. The sender checks this before it sends, and the receiver before it merges, because an
//!   index that the log never reaches would make the receiver unreadable for ever.
//! - I2: no term in a snapshot is later than its sender's, and its membership is not later than its
//!   begin: openraft would take either for a damaged store, and panic.
#![deny(clippy::indexing_slicing)]

use bytes::{BufMut, Bytes};
use diskstore_storage::keys::KeyImage;
use diskstore_storage::slots::{self, SlotImage};
use diskstore_storage::state::{MEMBERSHIP_BYTES_MAX, Membership};
use diskstore_storage::{LogId, LogIndex, SlotIndex, Vote};

use crate::command::DecodeError;
use crate::command::cursor::Cursor;
use crate::machine::Images;
use crate::peer::frames::{
    FrameKind, put_frame, put_log_id, put_log_id_option, put_vote, read_log_id, read_log_id_option,
    read_vote,
};

/// Most damaged slots that a receiver names.
pub(crate) const DAMAGED_COUNT_MAX: usize = slots::DAMAGED_COUNT_MAX;
/// Set in the length of a slot or key that holds a value.
const LIVE: u32 = 1 << 31;

/// The first frame of a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SnapshotBegin {
    /// The vote under which the sender leads.
    pub vote: Vote,
    /// Where the snapshot begins: replaying from the next entry on gives the exact state.
    pub log_id: LogId,
    /// Membership as of that entry; what is in it is for the layers above to read.
    pub membership: Membership,
    /// The index from which on the sender's own slots are a consistent state.
    pub readable_from: u64,
    /// Index of the last entry in the sender's log.
    pub last_log: u64,
    /// The sender may have forgotten deletes up to this index. A receiver that has applied less asks for
    /// everything, and drops every key that the snapshot does not hold. Not above `log_id`.
    pub horizon: u64,
}

impl SnapshotBegin {
    /// Appends the frame.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_frame(out, FrameKind::SnapshotBegin, |out| {
            put_vote(out, &self.vote);
            put_log_id(out, &self.log_id);
            out.put_u64_le(self.readable_from);
            out.put_u64_le(self.last_log);
            out.put_u64_le(self.horizon);
            put_log_id_option(out, self.membership.log_id.as_ref());
            out.put_slice(&self.membership.body);
        });
    }

    /// Reads the body.
    ///
    /// # Errors
    /// The bytes are not what they should be, or contradict I1 or I2.
    pub(crate) fn decode(body: Bytes) -> Result<SnapshotBegin, DecodeError> {
        let mut cursor = Cursor::new(body);
        let vote = read_vote(&mut cursor)?;
        let log_id = read_log_id(&mut cursor)?;
        let readable_from = cursor.u64()?;
        let last_log = cursor.u64()?;
        let horizon = cursor.u64()?;
        if horizon > log_id.index {
            return Err(cursor.error("a horizon behind the begin of a snapshot"));
        }
        if readable_from.max(log_id.index) > last_log {
            return Err(cursor.error("a snapshot beyond the sender's log"));
        }
        let membership_log_id = read_log_id_option(&mut cursor)?;
        if !vote.committed || log_id.term > vote.term {
            return Err(cursor.error("a snapshot that its sender cannot have"));
        }
        let is_within = |id: LogId| id.term <= log_id.term && id.index <= log_id.index;
        if !membership_log_id.is_none_or(is_within) {
            return Err(cursor.error("a membership behind the begin of a snapshot"));
        }
        let body = cursor.rest();
        if body.is_empty() || body.len() > MEMBERSHIP_BYTES_MAX {
            return Err(cursor.error("length of the membership"));
        }
        let membership = Membership { log_id: membership_log_id, body };
        Ok(SnapshotBegin { vote, log_id, membership, readable_from, last_log, horizon })
    }
}

/// The receiver's answer to the first frame of a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Accept {
    /// The sender is to send what changed.
    Changed {
        /// After this index.
        after: u64,
        /// These slots too, changed or not, since their checksums are wrong at the receiver.
        damaged: Vec<u64>,
    },
    /// The sender does not lead any more: the receiver has this vote.
    HigherVote(Vote),
}

impl Accept {
    /// Appends the frame.
    ///
    /// # Panics
    /// If there are more damaged slots than [`DAMAGED_COUNT_MAX`].
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_frame(out, FrameKind::SnapshotAccept, |out| match self {
            Accept::Changed { after, damaged } => {
                assert!(damaged.len() <= DAMAGED_COUNT_MAX, "{} damaged slots", damaged.len());
                out.put_u8(0);
                out.put_u64_le(*after);
                let count = u16::try_from(damaged.len());
                out.put_u16_le(count.expect("invariant: bounded by DAMAGED_COUNT_MAX"));
                for key in damaged {
                    out.put_u64_le(*key);
                }
            }
            Accept::HigherVote(vote) => {
                out.put_u8(1);
                put_vote(out, vote);
            }
        });
    }

    /// Reads the body.
    ///
    /// # Errors
    /// The bytes are not what they should be.
    pub(crate) fn decode(body: Bytes) -> Result<Accept, DecodeError> {
        let mut cursor = Cursor::new(body);
        let accept = match cursor.u8()? {
            0 => {
                let after = cursor.u64()?;
                let count = cursor.count_u16(DAMAGED_COUNT_MAX, "too many damaged slots")?;
                let damaged = (0..count).map(|_| cursor.u64()).collect::<Result<_, _>>()?;
                Accept::Changed { after, damaged }
            }
            1 => Accept::HigherVote(read_vote(&mut cursor)?),
            _ => return Err(cursor.error("unknown answer to a snapshot")),
        };
        cursor.finish()?;
        Ok(accept)
    }
}

/// Appends the frame of the request ids as of the begin of a snapshot. Without any there is none: a
/// receiver of an older version does not know it.
pub(crate) fn put_request_ids(out: &mut Vec<u8>, request_ids: &[u8]) {
    if !request_ids.is_empty() {
        put_frame(out, FrameKind::SnapshotRequests, |out| out.put_slice(request_ids));
    }
}

/// Some slots or keys of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SnapshotSlots {
    /// Counts the frames of slots or keys of this snapshot from 0.
    pub nth: u64,
    /// Index of the last entry in the sender's log when they had been read.
    pub last_log: u64,
    /// The slots or keys.
    pub images: Images,
}

impl SnapshotSlots {
    /// Appends the frame.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let kind = match &self.images {
            Images::Slots(_) => FrameKind::SnapshotSlots,
            Images::Keys(_) => FrameKind::SnapshotKeys,
        };
        put_frame(out, kind, |out| {
            out.put_u64_le(self.nth);
            out.put_u64_le(self.last_log);
            let count = u32::try_from(self.images.count());
            out.put_u32_le(count.expect("invariant: frames are bounded"));
            match &self.images {
                Images::Slots(images) => {
                    for SlotImage { slot, index, value } in images {
                        out.put_u64_le(slot.get());
                        put_version(out, index.get(), value.as_ref());
                        out.put_slice(value.as_deref().unwrap_or_default());
                    }
                }
                Images::Keys(images) => {
                    for KeyImage { key, index, value } in images {
                        let bytes = u16::try_from(key.len());
                        out.put_u16_le(bytes.expect("invariant: keys are bounded"));
                        put_version(out, *index, value.as_ref());
                        out.put_slice(key);
                        out.put_slice(value.as_deref().unwrap_or_default());
                    }
                }
            }
        });
    }

    /// Reads the body of a frame of slots.
    ///
    /// # Errors
    /// The bytes are not what they should be, or contradict I1.
    pub(crate) fn decode(body: Bytes) -> Result<SnapshotSlots, DecodeError> {
        let mut cursor = Cursor::new(body);
        let (nth, last_log, count) = (cursor.u64()?, cursor.u64()?, cursor.u32()?);
        let mut images = Vec::new();
        for _ in 0..count {
            let slot = SlotIndex::new(cursor.u64()?);
            let (index, word) = read_version(&mut cursor, last_log)?;
            let value = cursor.bytes((word & !LIVE) as usize)?;
            let (index, value) = (LogIndex::new(index), (word & LIVE != 0).then_some(value));
            images.push(SlotImage { slot, index, value });
        }
        cursor.finish()?;
        Ok(SnapshotSlots { nth, last_log, images: Images::Slots(images) })
    }

    /// Reads the body of a frame of keys.
    ///
    /// # Errors
    /// As [`SnapshotSlots::decode`].
    pub(crate) fn decode_keys(body: Bytes) -> Result<SnapshotSlots, DecodeError> {
        let mut cursor = Cursor::new(body);
        let (nth, last_log, count) = (cursor.u64()?, cursor.u64()?, cursor.u32()?);
        let mut images = Vec::new();
        for _ in 0..count {
            let key_bytes = usize::from(cursor.u16()?);
            let (index, word) = read_version(&mut cursor, last_log)?;
            let key = cursor.bytes(key_bytes)?;
            let value = cursor.bytes((word & !LIVE) as usize)?;
            images.push(KeyImage { key, index, value: (word & LIVE != 0).then_some(value) });
        }
        cursor.finish()?;
        Ok(SnapshotSlots { nth, last_log, images: Images::Keys(images) })
    }
}

/// The index of a slot or key, and the length of its value.
fn put_version(out: &mut Vec<u8>, index: u64, value: Option<&Bytes>) {
    let length = value.map_or(0, |value| {
        LIVE | u32::try_from(value.len()).expect("invariant: values are bounded")
    });
    out.put_u64_le(index);
    out.put_u32_le(length);
}

fn read_version(cursor: &mut Cursor, last_log: u64) -> Result<(u64, u32), DecodeError> {
    let (index, word) = (cursor.u64()?, cursor.u32()?);
    if index > last_log {
        return Err(cursor.error("a slot beyond the sender's log")); // I1
    }
    Ok((index, word))
}

/// The last frame of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SnapshotEnd {
    /// How many frames of slots there were.
    pub frames: u64,
    /// How many slots were in them.
    pub slots: u64,
    /// Index of the last entry that the sender has applied: where the snapshot ends.
    pub applied: u64,
    /// Index of the last entry in the sender's log.
    pub last_log: u64,
}

impl SnapshotEnd {
    /// Appends the frame.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_frame(out, FrameKind::SnapshotEnd, |out| {
            out.put_u64_le(self.frames);
            out.put_u64_le(self.slots);
            out.put_u64_le(self.applied);
            out.put_u64_le(self.last_log);
        });
    }

    /// Reads the body.
    ///
    /// # Errors
    /// The bytes are not what they should be, or contradict I1.
    pub(crate) fn decode(body: Bytes) -> Result<SnapshotEnd, DecodeError> {
        let mut cursor = Cursor::new(body);
        let (frames, slots) = (cursor.u64()?, cursor.u64()?);
        let (applied, last_log) = (cursor.u64()?, cursor.u64()?);
        if applied > last_log {
            return Err(cursor.error("a snapshot beyond the sender's log"));
        }
        cursor.finish()?;
        Ok(SnapshotEnd { frames, slots, applied, last_log })
    }
}

/// Appends the frame that ends a transfer on the receiver's side.
pub(crate) fn put_reply(out: &mut Vec<u8>, vote: &Vote) {
    put_frame(out, FrameKind::SnapshotReply, |out| put_vote(out, vote));
}

/// Reads the body of that frame.
///
/// # Errors
/// The bytes are not what they should be.
pub(crate) fn read_reply(body: Bytes) -> Result<Vote, DecodeError> {
    let mut cursor = Cursor::new(body);
    let vote = read_vote(&mut cursor)?;
    cursor.finish()?;
    Ok(vote)
}
