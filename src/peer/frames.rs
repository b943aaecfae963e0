//! The frames that members exchange, as bytes (`docs/format.md`, "Peer frames"). Pure.
//!
//! A frame is a header of 12 bytes (length of the body, CRC-32 over kind and body, kind) and a
//! body. Lengths are checked before memory is taken; a bad frame closes its connection.
#![deny(clippy::indexing_slicing)]

use std::collections::VecDeque;

use bytes::{BufMut, Bytes};
use crc32fast::Hasher;
use diskstore_storage::summed::{Stretch, SummedBytes, sum_with};
use diskstore_storage::{LogId, MemberId, Term, Vote};

use super::append::sum_payloads;
use crate::command::cursor::Cursor;
use crate::command::{COMMAND_BYTES_MAX, DecodeError};

/// Bytes of a frame's header.
pub(crate) const HEADER_BYTES: usize = 12;
/// Most bytes of a body: an append frame with the largest command and room for its fields.
pub(crate) const BODY_BYTES_MAX: usize = 2 * COMMAND_BYTES_MAX;
/// Most bytes of a body before the handshake is done.
pub(crate) const HELLO_BYTES_MAX: usize = 4096;
/// Most bytes of a reason in a refusal.
pub(crate) const REASON_BYTES_MAX: usize = 1024;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Opens a connection.
    Hello = 1,
    /// Answers a hello.
    Welcome = 2,
    /// Entries for a follower.
    Append = 3,
    /// Answers an append frame.
    AppendReply = 4,
    /// A call, answered by a response of the same id.
    Request = 5,
    /// Answers a request.
    Response = 6,
    /// A snapshot begins.
    SnapshotBegin = 7,
    /// The receiver says after which index it wants slots.
    SnapshotAccept = 8,
    /// Some slots of a snapshot.
    SnapshotSlots = 9,
    /// All slots were sent.
    SnapshotEnd = 10,
    /// The snapshot is installed, or was refused.
    SnapshotReply = 11,
    /// Some keys of a snapshot.
    SnapshotKeys = 12,
    /// The request ids of a snapshot.
    SnapshotRequests = 13,
}

impl FrameKind {
    /// The kind of a byte.
    pub fn of(byte: u8) -> Option<FrameKind> {
        let kinds = [
            FrameKind::Hello,
            FrameKind::Welcome,
            FrameKind::Append,
            FrameKind::AppendReply,
            FrameKind::Request,
            FrameKind::Response,
            FrameKind::SnapshotBegin,
            FrameKind::SnapshotAccept,
            FrameKind::SnapshotSlots,
            FrameKind::SnapshotEnd,
            FrameKind::SnapshotReply,
            FrameKind::SnapshotKeys,
            FrameKind::SnapshotRequests,
        ];
        kinds.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A frame whose header and body went through their checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: FrameKind,
    /// Its fields.
    pub body: Bytes,
    /// What of the body was summed by itself, when the frame's checksum was checked.
    pub(crate) summed: Vec<Stretch>,
}

/// Appends a frame to `out`.
pub(crate) fn put_frame(out: &mut Vec<u8>, kind: FrameKind, body: impl FnOnce(&mut Vec<u8>)) {
    Body::begin(Space { out, shared: None }, kind).put(body).finish();
}

/// Bytes of a frame that are sent from where they are, and not copied: they belong before the byte at
/// `place` of the buffer that holds the rest of the frame.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) place: usize,
    pub(super) bytes: Bytes,
}

/// Where frames are appended.
#[derive(Debug)]
pub(crate) struct Space<'a> {
    /// Bytes of frames, one behind the other.
    pub(crate) out: &'a mut Vec<u8>,
    /// Where bytes go that are not copied; `None` if all are.
    pub(crate) shared: Option<&'a mut VecDeque<Shared>>,
}

/// The body of a frame that is being appended.
pub(super) struct Body<'a> {
    space: Space<'a>,
    kind: FrameKind,
    /// Where the frame begins.
    start: usize,
    /// All that belongs before this place is in the checksum.
    summed_to: usize,
    shared_bytes: usize,
    hasher: Hasher,
}

impl<'a> Body<'a> {
    /// Begins a frame.
    pub(super) fn begin(space: Space<'a>, kind: FrameKind) -> Body<'a> {
        let start = space.out.len();
        space.out.extend([0; HEADER_BYTES]);
        let mut hasher = Hasher::new();
        hasher.update(&[kind as u8]);
        Body { summed_to: space.out.len(), space, kind, start, shared_bytes: 0, hasher }
    }

    /// Appends what `put` appends.
    pub(super) fn put(self, put: impl FnOnce(&mut Vec<u8>)) -> Body<'a> {
        put(self.space.out);
        self
    }

    /// Appends bytes, whose checksum may be known.
    pub(super) fn put_summed(mut self, bytes: SummedBytes) -> Body<'a> {
        if !bytes.is_summed() {
            self.space.out.put_slice(&bytes);
            return self;
        }
        self.sum_own();
        bytes.add_to(&mut self.hasher);
        if let Some(shared) = &mut self.space.shared {
            self.shared_bytes += bytes.len();
            shared.push_back(Shared { place: self.space.out.len(), bytes: bytes.into_bytes() });
        } else {
            self.space.out.put_slice(&bytes);
            self.summed_to = self.space.out.len();
        }
        self
    }

    fn sum_own(&mut self) {
        self.hasher.update(self.space.out.get(self.summed_to..).unwrap_or_default());
        self.summed_to = self.space.out.len();
    }

    /// Completes the frame with its header.
    pub(super) fn finish(mut self) {
        self.sum_own();
        let length = self.space.out.len() - self.start - HEADER_BYTES + self.shared_bytes;
        let Some(mut header) = self.space.out.get_mut(self.start..) else {
            unreachable!("the frame begins in its buffer");
        };
        header.put_u32_le(u32::try_from(length).expect("invariant: bodies are bounded"));
        header.put_u32_le(self.hasher.finalize());
        header.put_u8(self.kind as u8);
    }
}

fn crc_of(kind: FrameKind, body: &[u8], summed: &[Stretch]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&[kind as u8]);
    sum_with(hasher, body, summed)
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// What the frame is.
    pub kind: FrameKind,
    /// Bytes of its body.
    pub length: usize,
    crc: u32,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// An unknown kind, reserved bytes in use, or a body of more than `body_bytes_max` bytes.
    pub(crate) fn decode(
        bytes: [u8; HEADER_BYTES],
        body_bytes_max: usize,
    ) -> Result<Header, DecodeError> {
        let mut cursor = Cursor::new(Bytes::copy_from_slice(&bytes));
        let length = cursor.u32()? as usize;
        let crc = cursor.u32()?;
        let kind = cursor.u8()?;
        let kind = FrameKind::of(kind).ok_or_else(|| cursor.error("unknown kind of frame"))?;
        if cursor.rest().iter().any(|byte| *byte != 0) {
            return Err(cursor.error("reserved bytes of a frame are not zero"));
        }
        if length > body_bytes_max {
            return Err(cursor.error("frame too long"));
        }
        Ok(Header { kind, length, crc })
    }

    /// The frame of this header and a body.
    ///
    /// # Errors
    /// The body is not the one that was sent.
    pub(crate) fn with_body(self, body: Bytes) -> Result<Frame, DecodeError> {
        let summed = match self.kind {
            FrameKind::Append => sum_payloads(&body),
            _ => Vec::new(),
        };
        if crc_of(self.kind, &body, &summed) != self.crc {
            return Err(DecodeError { what: "frame's checksum", offset: 0 });
        }
        Ok(Frame { kind: self.kind, body, summed })
    }
}

/// Appends a vote.
pub(crate) fn put_vote(out: &mut Vec<u8>, vote: &Vote) {
    out.put_u64_le(vote.term.get());
    out.put_u64_le(vote.node_id.get());
    out.put_u8(u8::from(vote.committed));
}

/// Reads a vote.
pub(crate) fn read_vote(cursor: &mut Cursor) -> Result<Vote, DecodeError> {
    Ok(Vote {
        term: Term::new(cursor.u64()?),
        node_id: MemberId::new(cursor.u64()?),
        committed: cursor.boolean()?,
    })
}

/// Appends a log id.
pub(crate) fn put_log_id(out: &mut Vec<u8>, log_id: &LogId) {
    out.put_u64_le(log_id.term.get());
    out.put_u64_le(log_id.index);
}

/// Reads a log id.
pub(crate) fn read_log_id(cursor: &mut Cursor) -> Result<LogId, DecodeError> {
    Ok(LogId { term: Term::new(cursor.u64()?), index: cursor.u64()? })
}

/// Appends a log id that may be absent.
pub(crate) fn put_log_id_option(out: &mut Vec<u8>, log_id: Option<&LogId>) {
    out.put_u8(u8::from(log_id.is_some()));
    if let Some(log_id) = log_id {
        put_log_id(out, log_id);
    }
}

/// Reads a log id that may be absent.
pub(crate) fn read_log_id_option(cursor: &mut Cursor) -> Result<Option<LogId>, DecodeError> {
    Ok(if cursor.boolean()? { Some(read_log_id(cursor)?) } else { None })
}
