//! Votes and the hand-over of leadership, as bytes (`docs/format.md`, "Peer frames"). Pure.
#![deny(clippy::indexing_slicing)]

use bytes::{BufMut, Bytes};
use diskstore_storage::{LogId, Vote};

use super::frames::{put_log_id_option, put_vote, read_log_id_option, read_vote};
use crate::command::DecodeError;
use crate::command::cursor::Cursor;

/// A candidate asks for a vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ballot {
    /// The vote that it asks for.
    pub vote: Vote,
    /// The end of its log.
    pub last: Option<LogId>,
    /// True if the leader asked it to take over: a lease that others granted does not count.
    pub is_transfer: bool,
}

/// What a voter answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BallotReply {
    /// Its own vote now.
    pub vote: Vote,
    /// The end of its log.
    pub last: Option<LogId>,
    /// True if that is the one that was asked for.
    pub is_granted: bool,
}

/// A leader asks a member to take over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transfer {
    /// The vote that it leads under.
    pub from: Vote,
    /// The member that is to lead.
    pub to: u64,
    /// What that member's log has to hold.
    pub last: Option<LogId>,
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TransferReply {
    /// It campaigns.
    Accepted,
    /// It has seen another vote.
    VoteChanged(Vote),
    /// Its log ends here.
    NotFlushed(Option<LogId>),
}

/// Lays out the body of [`Method::Backs`](super::Method::Backs): the vote that a leader leads under.
pub(crate) fn encode_backs(vote: &Vote) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    put_vote(&mut out, vote);
    out
}

/// Reads it back.
///
/// # Errors
/// The bytes are not what they should be; so everywhere below.
pub(crate) fn decode_backs(body: Bytes) -> Result<Vote, DecodeError> {
    let mut cursor = Cursor::new(body);
    let vote = read_vote(&mut cursor)?;
    cursor.finish()?;
    Ok(vote)
}

impl Ballot {
    /// Lays it out.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        put_vote(&mut out, &self.vote);
        put_log_id_option(&mut out, self.last.as_ref());
        out.put_u8(u8::from(self.is_transfer));
        out
    }

    /// Reads it back.
    pub(crate) fn decode(body: Bytes) -> Result<Ballot, DecodeError> {
        let mut cursor = Cursor::new(body);
        let vote = read_vote(&mut cursor)?;
        let last = read_log_id_option(&mut cursor)?;
        let is_transfer = cursor.boolean()?;
        cursor.finish()?;
        Ok(Ballot { vote, last, is_transfer })
    }
}

impl BallotReply {
    /// Lays it out.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        put_vote(&mut out, &self.vote);
        put_log_id_option(&mut out, self.last.as_ref());
        out.put_u8(u8::from(self.is_granted));
        out
    }

    /// Reads it back.
    pub(crate) fn decode(body: Bytes) -> Result<BallotReply, DecodeError> {
        let mut cursor = Cursor::new(body);
        let vote = read_vote(&mut cursor)?;
        let last = read_log_id_option(&mut cursor)?;
        let is_granted = cursor.boolean()?;
        cursor.finish()?;
        Ok(BallotReply { vote, last, is_granted })
    }
}

impl Transfer {
    /// Lays it out.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        put_vote(&mut out, &self.from);
        out.put_u64_le(self.to);
        put_log_id_option(&mut out, self.last.as_ref());
        out
    }

    /// Reads it back.
    pub(crate) fn decode(body: Bytes) -> Result<Transfer, DecodeError> {
        let mut cursor = Cursor::new(body);
        let from = read_vote(&mut cursor)?;
        let to = cursor.u64()?;
        let last = read_log_id_option(&mut cursor)?;
        cursor.finish()?;
        Ok(Transfer { from, to, last })
    }
}

impl TransferReply {
    /// Lays it out.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        match self {
            TransferReply::Accepted => out.put_u8(0),
            TransferReply::VoteChanged(vote) => {
                out.put_u8(1);
                put_vote(&mut out, vote);
            }
            TransferReply::NotFlushed(last) => {
                out.put_u8(2);
                put_log_id_option(&mut out, last.as_ref());
            }
        }
        out
    }

    /// Reads it back.
    pub(crate) fn decode(body: Bytes) -> Result<TransferReply, DecodeError> {
        let mut cursor = Cursor::new(body);
        let reply = match cursor.u8()? {
            0 => TransferReply::Accepted,
            1 => TransferReply::VoteChanged(read_vote(&mut cursor)?),
            2 => TransferReply::NotFlushed(read_log_id_option(&mut cursor)?),
            _ => return Err(cursor.error("unknown answer to a leadership transfer")),
        };
        cursor.finish()?;
        Ok(reply)
    }
}
