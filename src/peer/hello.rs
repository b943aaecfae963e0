//! The handshake that opens every connection between members, as bytes (`docs/format.md`, "Peer
//! frames"). Pure.
#![deny(clippy::indexing_slicing)]

use bytes::{BufMut, Bytes};
use diskstore_storage::{LogId, Vote};

use super::frames::{
    FrameKind, REASON_BYTES_MAX, put_frame, put_log_id, put_vote, read_log_id, read_vote,
};
use super::member::NAME_BYTES_MAX;
use crate::command::DecodeError;
use crate::command::cursor::{Cursor, put_string};

/// First bytes of a hello's body.
pub(crate) const MAGIC: [u8; 4] = *b"DSKP";
/// Version of this protocol; a peer of another version is refused.
pub(crate) const VERSION: u16 = 2;

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
    /// Asks the process that is dialled whether it opened a certain connection. The welcome answers.
    Confirm = 4,
}

/// The first frame of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The cluster that the dialling member belongs to; 0 for a member that is about to join.
    pub cluster_id: u128,
    /// The dialling member.
    pub from: u64,
    /// The member that it wants to reach; 0 for any process that listens there.
    pub to: u64,
    /// What the connection is for.
    pub purpose: Purpose,
    /// Random id of the process that dials: it tells a member from a copy of its directory.
    pub process: u64,
    /// Random number of this connection. In a question it is that of the connection asked about.
    pub token: u128,
    /// The address at which the dialling member listens; empty for one that is about to join.
    pub address: String,
    /// For append: the vote under which the dialling leader leads, and the highest log id that the
    /// other side acknowledged to it under that vote.
    pub acknowledged: Option<(Vote, LogId)>,
}

impl Hello {
    /// Appends the frame.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_frame(out, FrameKind::Hello, |out| {
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

/// A member, and the process that runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whoever {
    /// Its cluster; 0 if it has none yet.
    pub cluster_id: u128,
    /// The member; 0 if it is none yet.
    pub member_id: u64,
    /// Random id of the process.
    pub process: u64,
}

/// The answer to a hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Greeting {
    /// The connection may be used. To a question: this process opened the connection asked about.
    Accepted,
    /// The connection may not be used, for this reason.
    Refused(String),
    /// The connection may not be used: the member that dials runs already, as another process.
    Copy(String),
}

/// The second frame of a connection: the answer to a hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The member and process that answers.
    pub from: Whoever,
    /// Its answer.
    pub answer: Greeting,
}

impl Welcome {
    /// Appends the frame.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_frame(out, FrameKind::Welcome, |out| {
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
