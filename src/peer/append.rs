//! Append frames and their answers, as bytes (`docs/format.md`, "Peer frames"). Pure.
//!
//! Entries are handed to the caller one by one as they are decoded, so that no second list of them
//! is made.
#![deny(clippy::indexing_slicing)]

use bytes::{BufMut, Bytes};
use diskstore_storage::{LogId, Vote, wal};

use super::frames::{
    FrameKind, put_frame, put_log_id, put_log_id_option, put_vote, read_log_id, read_log_id_option,
    read_vote,
};
use crate::command::DecodeError;
use crate::command::cursor::Cursor;

/// Most entries of an append frame.
pub(crate) const ENTRY_COUNT_MAX: usize = 65_536;

/// An append frame: what a leader wants a follower to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Append<E> {
    /// The leader's vote.
    pub vote: Vote,
    /// The entry before the first one; `None` if that is the first of the log.
    pub prev: Option<LogId>,
    /// The last entry that the leader knows to be committed.
    pub committed: Option<LogId>,
    /// The entries, in order and without a hole.
    pub entries: E,
}

impl<E: ExactSizeIterator<Item = wal::Entry>> Append<E> {
    /// Appends the frame.
    pub(crate) fn put(self, out: &mut Vec<u8>) {
        put_frame(out, FrameKind::Append, |out| {
            put_vote(out, &self.vote);
            put_log_id_option(out, self.prev.as_ref());
            put_log_id_option(out, self.committed.as_ref());
            let count = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
            out.put_u32_le(count);
            for entry in self.entries {
                put_entry(out, &entry);
            }
        });
    }
}

impl<T> Append<Vec<T>> {
    /// Reads the body of a frame, with every entry as `take` takes it. The bytes of entries are
    /// shared with the frame.
    ///
    /// # Errors
    /// The bytes are not what they should be, the vote is not a leader's, entries do not follow each
    /// other or are of terms that cannot be, or `take` refuses one.
    pub(crate) fn decode(
        body: Bytes,
        take: impl Fn(wal::Entry) -> Result<T, DecodeError>,
    ) -> Result<Append<Vec<T>>, DecodeError> {
        let mut cursor = Cursor::new(body);
        let vote = read_vote(&mut cursor)?;
        if !vote.committed {
            return Err(cursor.error("entries of somebody who does not lead"));
        }
        let prev = read_log_id_option(&mut cursor)?;
        let committed = read_log_id_option(&mut cursor)?;
        let count = cursor.u32()? as usize;
        if count > ENTRY_COUNT_MAX {
            return Err(cursor.error("too many entries"));
        }
        let mut entries = Vec::with_capacity(count.min(4096));
        let mut last = prev;
        for _ in 0..count {
            let entry = read_entry(&mut cursor)?;
            let expected = last.map_or(Some(0), |last| last.index.checked_add(1));
            if Some(entry.log_id.index) != expected {
                return Err(cursor.error("entries do not follow each other"));
            }
            if last.is_some_and(|last| last.term > entry.log_id.term) {
                return Err(cursor.error("the terms of entries fall"));
            }
            last = Some(entry.log_id);
            entries.push(take(entry)?);
        }
        if last.is_some_and(|last| last.term > vote.term) {
            return Err(cursor.error("an entry of a later term than its leader's"));
        }
        cursor.finish()?;
        Ok(Append { vote, prev, committed, entries })
    }
}

fn put_entry(out: &mut Vec<u8>, entry: &wal::Entry) {
    put_log_id(out, &entry.log_id);
    out.put_u8(match entry.kind {
        wal::EntryKind::Blank => 0,
        wal::EntryKind::Normal => 1,
        wal::EntryKind::Membership => 2,
    });
    out.put_u32_le(u32::try_from(entry.payload.len()).expect("invariant: commands are bounded"));
    out.put_slice(&entry.payload);
}

fn read_entry(cursor: &mut Cursor) -> Result<wal::Entry, DecodeError> {
    let log_id = read_log_id(cursor)?;
    let kind = match cursor.u8()? {
        0 => wal::EntryKind::Blank,
        1 => wal::EntryKind::Normal,
        2 => wal::EntryKind::Membership,
        _ => return Err(cursor.error("unknown kind of entry")),
    };
    let length = cursor.u32()? as usize;
    let payload = cursor.bytes(length)?;
    Ok(wal::Entry { log_id, kind, payload })
}

/// What a follower answers to an append frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AppendReply {
    /// The logs agree up to here, and it is durable.
    Holds(Option<LogId>),
    /// This entry, which the frame follows, is not in the follower's log.
    Conflict(LogId),
    /// The follower has seen a later vote.
    HigherVote(Vote),
}

impl AppendReply {
    /// Appends the frame.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_frame(out, FrameKind::AppendReply, |out| match self {
            AppendReply::Holds(log_id) => {
                out.put_u8(0);
                put_log_id_option(out, log_id.as_ref());
            }
            AppendReply::Conflict(log_id) => {
                out.put_u8(1);
                put_log_id(out, log_id);
            }
            AppendReply::HigherVote(vote) => {
                out.put_u8(2);
                put_vote(out, vote);
            }
        });
    }

    /// Reads the body of the frame.
    ///
    /// # Errors
    /// The bytes are not what they should be.
    pub(crate) fn decode(body: Bytes) -> Result<AppendReply, DecodeError> {
        let mut cursor = Cursor::new(body);
        let reply = match cursor.u8()? {
            0 => AppendReply::Holds(read_log_id_option(&mut cursor)?),
            1 => AppendReply::Conflict(read_log_id(&mut cursor)?),
            2 => AppendReply::HigherVote(read_vote(&mut cursor)?),
            _ => return Err(cursor.error("unknown answer")),
        };
        cursor.finish()?;
        Ok(reply)
    }
}
