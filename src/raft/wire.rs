//! The frames that members exchange, as bytes (`docs/format.md`, "Peer frames"). Pure.
//!
//! A frame is a header of 12 bytes (length of the body, CRC-32 over kind and body, kind) and a
//! body. Lengths are checked before memory is taken; a bad frame closes its connection.
#![deny(clippy::indexing_slicing)]

use bytes::{BufMut, Bytes};
use diskstore_storage::wal;
use diskstore_storage::{LogId as StoredLogId, Vote as StoredVote};
use openraft::raft::AppendEntriesRequest;
use openraft::raft::StreamAppendError;

use super::types::{
    Entry, LogId, Member, NAME_BYTES_MAX, TypeConfig, decode_member, encode_member, entry_from,
    entry_to, log_id_from, log_id_to, vote_from, vote_to,
};
use crate::command::cursor::{Cursor, put_string};
use crate::command::{COMMAND_BYTES_MAX, DecodeError};

/// First bytes of a hello's body.
pub(super) const MAGIC: [u8; 4] = *b"DSKP";
/// Version of this protocol; a peer of another version is refused.
pub(super) const VERSION: u16 = 2;
/// Bytes of a frame's header.
pub(super) const HEADER_BYTES: usize = 12;
/// Most bytes of a body: an append frame with the largest command and room for its fields.
pub(super) const BODY_BYTES_MAX: usize = 2 * COMMAND_BYTES_MAX;
/// Most bytes of a body before the handshake is done.
pub(super) const HELLO_BYTES_MAX: usize = 4096;
/// Most entries of an append frame.
pub(super) const ENTRY_COUNT_MAX: usize = 65_536;
/// Most bytes of a reason in a refusal.
pub(super) const REASON_BYTES_MAX: usize = 1024;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
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
    /// The receiver says from where on it wants slots.
    SnapshotAccept = 8,
    /// Some slots of a snapshot.
    SnapshotSlots = 9,
    /// All slots were sent.
    SnapshotEnd = 10,
    /// The snapshot is installed, or was refused.
    SnapshotReply = 11,
    /// Some keys of a snapshot.
    SnapshotKeys = 12,
}

impl Kind {
    /// The kind of a byte.
    pub fn of(byte: u8) -> Option<Kind> {
        let kinds = [
            Kind::Hello,
            Kind::Welcome,
            Kind::Append,
            Kind::AppendReply,
            Kind::Request,
            Kind::Response,
            Kind::SnapshotBegin,
            Kind::SnapshotAccept,
            Kind::SnapshotSlots,
            Kind::SnapshotEnd,
            Kind::SnapshotReply,
            Kind::SnapshotKeys,
        ];
        kinds.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A frame whose header and body went through their checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Its fields.
    pub body: Bytes,
}

/// Appends a frame to `out`.
pub(super) fn put_frame(out: &mut Vec<u8>, kind: Kind, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; HEADER_BYTES]);
    body(out);
    let Some((header, body)) =
        out.get_mut(start..).and_then(|frame| frame.split_first_chunk_mut::<HEADER_BYTES>())
    else {
        unreachable!("the header was just written");
    };
    let length = u32::try_from(body.len()).expect("invariant: bodies are bounded");
    let crc = crc_of(kind, body);
    let mut fields = header.as_mut_slice();
    fields.put_u32_le(length);
    fields.put_u32_le(crc);
    fields.put_u8(kind as u8);
}

fn crc_of(kind: Kind, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind as u8]);
    hasher.update(body);
    hasher.finalize()
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Bytes of its body.
    pub length: usize,
    crc: u32,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// An unknown kind, reserved bytes in use, or a body of more than `body_bytes_max` bytes.
    pub(super) fn decode(
        bytes: [u8; HEADER_BYTES],
        body_bytes_max: usize,
    ) -> Result<Header, DecodeError> {
        let mut cursor = Cursor::new(Bytes::copy_from_slice(&bytes));
        let length = cursor.u32()? as usize;
        let crc = cursor.u32()?;
        let kind = cursor.u8()?;
        let kind = Kind::of(kind).ok_or_else(|| cursor.error("unknown kind of frame"))?;
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
    pub(super) fn with_body(self, body: Bytes) -> Result<Frame, DecodeError> {
        if crc_of(self.kind, &body) != self.crc {
            return Err(DecodeError { what: "frame's checksum", offset: 0 });
        }
        Ok(Frame { kind: self.kind, body })
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// Requests: votes, forwarded commands, joins. One connection carries votes only.
    Requests = 1,
    /// Append frames.
    Append = 2,
    /// One snapshot.
    Snapshot = 3,
    /// Asks whether a connection is one of the process that is dialled. The welcome is the answer.
    Confirm = 4,
}

/// The first frame of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The cluster that the dialling member belongs to; 0 for a member that is about to join.
    pub cluster_id: u128,
    /// The dialling member.
    pub from: u64,
    /// The member that it wants to reach; 0 for whoever listens there.
    pub to: u64,
    /// What the connection is for.
    pub purpose: Purpose,
    /// Random id of the process that dials: it tells a member from a copy of its directory.
    pub process: u64,
    /// Random number of this connection; to confirm, of the one that is asked about.
    pub token: u128,
    /// Where the dialling member listens; empty for one that is about to join.
    pub address: String,
    /// For append: the vote under which the dialling leader leads, and the highest log id that the
    /// other side acknowledged to it under that vote.
    pub acknowledged: Option<(StoredVote, StoredLogId)>,
}

impl Hello {
    /// Appends the frame.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_frame(out, Kind::Hello, |out| {
            out.put_slice(&MAGIC);
            out.put_u16_le(VERSION);
            out.put_u128_le(self.cluster_id);
            out.put_u64_le(self.from);
            out.put_u64_le(self.to);
            out.put_u8(self.purpose as u8);
            out.put_u64_le(self.process);
            out.put_u128_le(self.token);
            put_string(out, &self.address);
            out.put_u8(u8::from(self.acknowledged.is_some()));
            if let Some((vote, log_id)) = &self.acknowledged {
                put_vote(out, vote);
                put_log_id(out, log_id);
            }
        });
    }

    /// Reads the body.
    ///
    /// # Errors
    /// The bytes are not what they should be.
    pub fn decode(body: Bytes) -> Result<Hello, DecodeError> {
        let mut cursor = Cursor::new(body);
        if cursor.bytes(MAGIC.len())? != MAGIC[..] {
            return Err(cursor.error("not a diskstore peer"));
        }
        if cursor.u16()? != VERSION {
            return Err(cursor.error("peer protocol of another version"));
        }
        let cluster_id = cursor.u128()?;
        let from = cursor.u64()?;
        let to = cursor.u64()?;
        let purpose = match cursor.u8()? {
            1 => Purpose::Requests,
            2 => Purpose::Append,
            3 => Purpose::Snapshot,
            4 => Purpose::Confirm,
            _ => return Err(cursor.error("unknown purpose")),
        };
        let process = cursor.u64()?;
        let token = cursor.u128()?;
        let address = cursor.string(NAME_BYTES_MAX)?;
        let acknowledged = if cursor.boolean()? {
            Some((read_vote(&mut cursor)?, read_log_id(&mut cursor)?))
        } else {
            None
        };
        cursor.finish()?;
        Ok(Hello { cluster_id, from, to, purpose, process, token, address, acknowledged })
    }
}

/// A member in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whoever {
    /// Its cluster; 0 if it has none yet.
    pub cluster_id: u128,
    /// The member; 0 if it is none yet.
    pub member_id: u64,
    /// Random id of the process.
    pub process: u64,
}

/// What is said to a hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Greeting {
    /// The connection may be used; or it is the one that was asked about.
    Accepted,
    /// It may not; why.
    Refused(String),
    /// It may not: the member that dials runs already, as another process.
    Copy(String),
}

/// Who answers a hello, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// Who answers.
    pub from: Whoever,
    /// What it says.
    pub answer: Greeting,
}

impl Welcome {
    /// Appends the frame.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_frame(out, Kind::Welcome, |out| {
            let (code, reason) = match &self.answer {
                Greeting::Refused(reason) => (0, reason.as_str()),
                Greeting::Accepted => (1, ""),
                Greeting::Copy(reason) => (2, reason.as_str()),
            };
            out.put_u8(code);
            let end = reason.floor_char_boundary(REASON_BYTES_MAX);
            put_string(out, reason.get(..end).unwrap_or_default());
            out.put_u128_le(self.from.cluster_id);
            out.put_u64_le(self.from.member_id);
            out.put_u64_le(self.from.process);
        });
    }

    /// Reads the body.
    ///
    /// # Errors
    /// The bytes are not what they should be.
    pub fn decode(body: Bytes) -> Result<Welcome, DecodeError> {
        let mut cursor = Cursor::new(body);
        let code = cursor.u8()?;
        let reason = cursor.string(REASON_BYTES_MAX)?;
        let answer = match code {
            0 => Greeting::Refused(reason),
            1 => Greeting::Accepted,
            2 => Greeting::Copy(reason),
            _ => return Err(cursor.error("unknown answer to a hello")),
        };
        let cluster_id = cursor.u128()?;
        let (member_id, process) = (cursor.u64()?, cursor.u64()?);
        cursor.finish()?;
        Ok(Welcome { from: Whoever { cluster_id, member_id, process }, answer })
    }
}

/// Appends a vote.
pub(super) fn put_vote(out: &mut Vec<u8>, vote: &StoredVote) {
    out.put_u64_le(vote.term);
    out.put_u64_le(vote.node_id);
    out.put_u8(u8::from(vote.committed));
}

/// Reads a vote.
pub(super) fn read_vote(cursor: &mut Cursor) -> Result<StoredVote, DecodeError> {
    Ok(StoredVote { term: cursor.u64()?, node_id: cursor.u64()?, committed: cursor.boolean()? })
}

/// Appends a log id.
pub(super) fn put_log_id(out: &mut Vec<u8>, log_id: &StoredLogId) {
    out.put_u64_le(log_id.term);
    out.put_u64_le(log_id.index);
}

/// Reads a log id.
pub(super) fn read_log_id(cursor: &mut Cursor) -> Result<StoredLogId, DecodeError> {
    Ok(StoredLogId { term: cursor.u64()?, index: cursor.u64()? })
}

/// Appends a log id that may be absent.
pub(super) fn put_log_id_option(out: &mut Vec<u8>, log_id: Option<&LogId>) {
    out.put_u8(u8::from(log_id.is_some()));
    if let Some(log_id) = log_id {
        put_log_id(out, &log_id_to(log_id));
    }
}

/// Reads a log id that may be absent.
pub(super) fn read_log_id_option(cursor: &mut Cursor) -> Result<Option<LogId>, DecodeError> {
    Ok(if cursor.boolean()? { Some(log_id_from(read_log_id(cursor)?)) } else { None })
}

/// Appends an append frame.
pub(super) fn put_append(out: &mut Vec<u8>, request: AppendEntriesRequest<TypeConfig>) {
    put_frame(out, Kind::Append, |out| {
        put_vote(out, &vote_to(&request.vote));
        put_log_id_option(out, request.prev_log_id.as_ref());
        put_log_id_option(out, request.leader_commit.as_ref());
        let count = u32::try_from(request.entries.len()).unwrap_or(u32::MAX);
        out.put_u32_le(count);
        for entry in request.entries {
            put_entry(out, entry);
        }
    });
}

fn put_entry(out: &mut Vec<u8>, entry: Entry) {
    let entry = entry_to(entry);
    put_log_id(out, &entry.log_id);
    out.put_u8(match entry.kind {
        wal::EntryKind::Blank => 0,
        wal::EntryKind::Normal => 1,
        wal::EntryKind::Membership => 2,
    });
    out.put_u32_le(u32::try_from(entry.payload.len()).expect("invariant: commands are bounded"));
    out.put_slice(&entry.payload);
}

/// Reads an append frame; the bytes of commands are shared with the frame.
pub(super) fn read_append(body: Bytes) -> Result<AppendEntriesRequest<TypeConfig>, DecodeError> {
    let mut cursor = Cursor::new(body);
    let vote = vote_from(read_vote(&mut cursor)?);
    let prev_log_id = read_log_id_option(&mut cursor)?;
    let leader_commit = read_log_id_option(&mut cursor)?;
    let count = cursor.u32()? as usize;
    if count > ENTRY_COUNT_MAX {
        return Err(cursor.error("too many entries"));
    }
    let mut entries = Vec::with_capacity(count.min(4096));
    let mut last_index = prev_log_id.map(|log_id| log_id.index);
    for _ in 0..count {
        let entry = read_entry(&mut cursor)?;
        let expected = last_index.map_or(Some(0), |index| index.checked_add(1));
        if Some(entry.log_id.index) != expected {
            return Err(cursor.error("entries do not follow each other"));
        }
        last_index = expected;
        entries.push(entry);
    }
    cursor.finish()?;
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

fn read_entry(cursor: &mut Cursor) -> Result<Entry, DecodeError> {
    let log_id = read_log_id(cursor)?;
    let kind = match cursor.u8()? {
        0 => wal::EntryKind::Blank,
        1 => wal::EntryKind::Normal,
        2 => wal::EntryKind::Membership,
        _ => return Err(cursor.error("unknown kind of entry")),
    };
    let length = cursor.u32()? as usize;
    let payload = cursor.bytes(length)?;
    entry_from(wal::Entry { log_id, kind, payload })
}

/// What a follower answers to an append frame.
pub(super) type AppendReply = Result<Option<LogId>, StreamAppendError<TypeConfig>>;

/// Appends the answer to an append frame.
pub(super) fn put_append_reply(out: &mut Vec<u8>, reply: &AppendReply) {
    put_frame(out, Kind::AppendReply, |out| match reply {
        Ok(log_id) => {
            out.put_u8(0);
            put_log_id_option(out, log_id.as_ref());
        }
        Err(StreamAppendError::Conflict(log_id)) => {
            out.put_u8(1);
            put_log_id(out, &log_id_to(log_id));
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            out.put_u8(2);
            put_vote(out, &vote_to(vote));
        }
    });
}

/// Reads the answer to an append frame.
pub(super) fn read_append_reply(body: Bytes) -> Result<AppendReply, DecodeError> {
    let mut cursor = Cursor::new(body);
    let reply = match cursor.u8()? {
        0 => Ok(read_log_id_option(&mut cursor)?),
        1 => Err(StreamAppendError::Conflict(log_id_from(read_log_id(&mut cursor)?))),
        2 => Err(StreamAppendError::HigherVote(vote_from(read_vote(&mut cursor)?))),
        _ => return Err(cursor.error("unknown answer")),
    };
    cursor.finish()?;
    Ok(reply)
}

/// What a member that wants to join says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRequest {
    /// False to ask for the cluster's id and geometry only.
    pub is_final: bool,
    /// True if it is the word of the member that it is about. Only members are believed so: that one
    /// itself, or one that had its hello confirmed and passes the request on.
    pub is_own: bool,
    /// The member id that it drew.
    pub member_id: u64,
    /// Its record.
    pub member: Member,
    /// The cluster that it believes it joins; 0 if it does not know yet.
    pub cluster_id: u128,
}

/// What a joiner is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinReply {
    /// Go ahead: this is the cluster, and its geometry.
    Accepted {
        /// The cluster.
        cluster_id: u128,
        /// Number of slots.
        slot_count: u64,
        /// Most bytes of a value.
        value_bytes: u32,
    },
    /// Not now; ask again.
    Later(String),
    /// Never; why.
    Refused(String),
}

impl JoinRequest {
    /// Appends the fields.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.put_u8(u8::from(self.is_final));
        out.put_u8(u8::from(self.is_own));
        out.put_u64_le(self.member_id);
        out.put_u128_le(self.cluster_id);
        encode_member(&self.member, out);
    }

    /// Reads the fields.
    ///
    /// # Errors
    /// The bytes are not what they should be.
    pub fn decode(body: Bytes) -> Result<JoinRequest, DecodeError> {
        let mut cursor = Cursor::new(body);
        let is_final = cursor.boolean()?;
        let is_own = cursor.boolean()?;
        let member_id = cursor.u64()?;
        let cluster_id = cursor.u128()?;
        let member = decode_member(&mut cursor)?;
        cursor.finish()?;
        Ok(JoinRequest { is_final, is_own, member_id, member, cluster_id })
    }
}

impl JoinReply {
    /// Appends the fields.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            JoinReply::Accepted { cluster_id, slot_count, value_bytes } => {
                out.put_u8(0);
                out.put_u128_le(*cluster_id);
                out.put_u64_le(*slot_count);
                out.put_u32_le(*value_bytes);
            }
            JoinReply::Later(reason) => {
                out.put_u8(1);
                put_string(out, reason);
            }
            JoinReply::Refused(reason) => {
                out.put_u8(2);
                put_string(out, reason);
            }
        }
    }

    /// Reads the fields.
    ///
    /// # Errors
    /// The bytes are not what they should be.
    pub fn decode(body: Bytes) -> Result<JoinReply, DecodeError> {
        let mut cursor = Cursor::new(body);
        let reply = match cursor.u8()? {
            0 => JoinReply::Accepted {
                cluster_id: cursor.u128()?,
                slot_count: cursor.u64()?,
                value_bytes: cursor.u32()?,
            },
            1 => JoinReply::Later(cursor.string(REASON_BYTES_MAX)?),
            2 => JoinReply::Refused(cursor.string(REASON_BYTES_MAX)?),
            _ => return Err(cursor.error("unknown answer to a join")),
        };
        cursor.finish()?;
        Ok(reply)
    }
}
