//! Append frames and their answers, as bytes (`docs/format.md`, "Peer frames"). Pure.
//!
//! Entries are handed to the caller one by one as they are decoded, so that no second list of them
//! is made.
#![deny(clippy::indexing_slicing)]

use bytes::{BufMut, Bytes};
use diskstore_storage::summed::{Stretch, SummedBytes};
use diskstore_storage::{LogId, Vote, wal};

use super::frames::{
    Body, FrameKind, Space, put_frame, put_log_id, put_log_id_option, put_vote, read_log_id,
    read_log_id_option, read_vote,
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
    /// Appends the frame; payloads whose checksum is known are not copied where they need not be.
    pub(crate) fn put(self, space: Space<'_>) {
        let body = Body::begin(space, FrameKind::Append).put(|out| {
            put_vote(out, &self.vote);
            put_log_id_option(out, self.prev.as_ref());
            put_log_id_option(out, self.committed.as_ref());
            let count = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
            out.put_u32_le(count);
        });
        self.entries.fold(body, put_entry).finish();
    }
}

impl<T> Append<Vec<T>> {
    /// Reads the body of a frame, of which `summed` was summed by itself, with every entry as `take` takes
    /// it. The bytes of entries are shared with the frame.
    ///
    /// # Errors
    /// The bytes are not what they should be, the vote is not a leader's, entries do not follow each
    /// other or are of terms that cannot be, or `take` refuses one.
    pub(crate) fn decode(
        body: Bytes,
        summed: &[Stretch],
        take: impl Fn(wal::Entry) -> Result<T, DecodeError>,
    ) -> Result<Append<Vec<T>>, DecodeError> {
        let whole = body.clone();
        let mut cursor = Cursor::new(body);
        let Start { vote, prev, committed, count } = read_start(&mut cursor)?;
        if !vote.committed {
            return Err(cursor.error("entries of somebody who does not lead"));
        }
        let mut summed = summed.iter().peekable();
        let mut entries = Vec::with_capacity(count.min(4096));
        let mut last = prev;
        for _ in 0..count {
            let mut entry = read_entry(&mut cursor)?;
            let start = cursor.position() - entry.payload.len();
            if let Some(stretch) = summed.next_if(|stretch| stretch.start() == start) {
                entry.payload = stretch.take(&whole);
            }
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

fn put_entry(body: Body<'_>, entry: wal::Entry) -> Body<'_> {
    let length = u32::try_from(entry.payload.len()).expect("invariant: commands are bounded");
    let body = body.put(|out| {
        put_log_id(out, &entry.log_id);
        out.put_u8(match entry.kind {
            wal::EntryKind::Blank => 0,
            wal::EntryKind::Normal => 1,
            wal::EntryKind::Membership => 2,
        });
        out.put_u32_le(length);
    });
    body.put_summed(entry.payload)
}

/// What stands before the entries.
struct Start {
    vote: Vote,
    prev: Option<LogId>,
    committed: Option<LogId>,
    count: usize,
}

fn read_start(cursor: &mut Cursor) -> Result<Start, DecodeError> {
    let vote = read_vote(cursor)?;
    let prev = read_log_id_option(cursor)?;
    let committed = read_log_id_option(cursor)?;
    let count = cursor.u32()? as usize;
    if count > ENTRY_COUNT_MAX {
        return Err(cursor.error("too many entries"));
    }
    Ok(Start { vote, prev, committed, count })
}

/// Passes over long payloads in the body of a frame, whose checksum was not checked yet: that of the whole
/// follows from theirs, and each keeps its own. Where the body is no append frame there are none.
pub(super) fn sum_payloads(body: &Bytes) -> Vec<Stretch> {
    let mut cursor = Cursor::new(body.clone());
    let count = read_start(&mut cursor).map_or(0, |start| start.count);
    let payloads = (0..count).map_while(|_| {
        let payload = read_entry(&mut cursor).ok()?.payload;
        Some(Stretch::of(body, cursor.position() - payload.len(), payload.len()))
    });
    payloads.flatten().collect()
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
    let payload = SummedBytes::from(cursor.bytes(length)?);
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

#[cfg(test)]
mod tests {
    use diskstore_storage::{MemberId, Term};

    use std::collections::VecDeque;

    use super::super::frames::{HEADER_BYTES, Header, Shared};
    use super::*;

    fn append(payloads: &[SummedBytes]) -> Append<std::vec::IntoIter<wal::Entry>> {
        let log_id = |index| LogId { term: Term::new(3), index };
        let entry = |(payload, index): (&SummedBytes, u64)| wal::Entry {
            log_id: log_id(index),
            kind: wal::EntryKind::Normal,
            payload: payload.clone(),
        };
        let vote = Vote { term: Term::new(3), node_id: MemberId::new(1), committed: true };
        let entries: Vec<wal::Entry> = payloads.iter().zip(6..).map(entry).collect();
        Append { vote, prev: Some(log_id(5)), committed: None, entries: entries.into_iter() }
    }

    fn put(payloads: &[SummedBytes]) -> Vec<u8> {
        let mut out = b"before".to_vec();
        append(payloads).put(Space { out: &mut out, shared: None });
        out.split_off(b"before".len())
    }

    /// The frame whose long payloads were not copied, behind another one.
    fn put_shared(payloads: &[SummedBytes]) -> (Vec<u8>, usize) {
        let (mut out, mut shared) = (b"before".to_vec(), VecDeque::new());
        append(payloads).put(Space { out: &mut out, shared: Some(&mut shared) });
        let (mut whole, mut taken) = (Vec::new(), 0);
        for Shared { place, bytes } in &shared {
            whole.extend_from_slice(&out[taken..*place]);
            whole.extend_from_slice(bytes);
            taken = *place;
        }
        whole.extend_from_slice(&out[taken..]);
        (whole.split_off(b"before".len()), shared.len())
    }

    fn frame_of(bytes: &[u8]) -> Result<super::super::frames::Frame, DecodeError> {
        let (head, body) = bytes.split_first_chunk::<HEADER_BYTES>().unwrap();
        Header::decode(*head, body.len())?.with_body(Bytes::copy_from_slice(body))
    }

    /// Payloads, short ones among long ones.
    fn payloads() -> Vec<SummedBytes> {
        let payload = |bytes: usize| Bytes::from(vec![b'v'; bytes]).into();
        [5, 40_000, 0, 20_000, 70_000].map(payload).into()
    }

    #[test]
    fn a_frame_is_the_same_whatever_was_summed_before() {
        let plain = put(&payloads());
        let mut summed = payloads();
        for payload in &mut summed {
            payload.sum();
        }
        assert!(put(&summed) == plain);
        assert!(put_shared(&summed) == (plain.clone(), 3), "the long ones");
        assert!(put_shared(&payloads()) == (plain.clone(), 0), "none was summed");
        let frame = frame_of(&plain).unwrap();
        let read = Append::decode(frame.body, &frame.summed, Ok).unwrap();
        assert!(read.entries.iter().map(|entry| &entry.payload).eq(&payloads()));
        for (entry, expected) in read.entries.iter().zip(&summed) {
            assert_eq!(entry.payload.stretch_at(0), expected.stretch_at(0));
        }
    }

    /// Also one whose fields no longer lead to the payloads that were summed.
    #[test]
    fn a_frame_with_a_flipped_bit_is_refused() {
        let plain = put(&payloads());
        let fields = HEADER_BYTES..HEADER_BYTES + 130;
        for at in fields.chain([20_000, 41_000, 70_000, plain.len() - 1]) {
            for bit in 0..8 {
                let mut bytes = plain.clone();
                bytes[at] ^= 1 << bit;
                assert_eq!(frame_of(&bytes).unwrap_err().what, "frame's checksum", "{at} {bit}");
            }
        }
    }
}
