//! The record of a member, and its bytes (`docs/format.md`, "Membership"). Pure.
#![deny(clippy::indexing_slicing)]

use bytes::BufMut;

use crate::command::DecodeError;
use crate::command::cursor::{Cursor, put_string};

/// Most members that one membership may name.
pub const MEMBER_COUNT_MAX: usize = 256;
/// Most bytes of a name or an address.
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// What a member is meant to be. It is part of the membership, so that every leader knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Role {
    /// A member that counts in elections and majorities once it has caught up.
    #[default]
    Voter,
    /// A member that follows for ever and never counts.
    Learner,
    /// A member that could vote, and follows without a vote until an operator says otherwise.
    Standby,
}

/// The record of one member in the membership.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// The name it was started with (`-id`).
    pub name: String,
    /// The address at which its peers reach it, `host:port`.
    pub raft_address: String,
    /// The address at which clients reach it, `host:port`.
    pub client_address: String,
    /// What it is meant to be.
    pub role: Role,
}

/// Lays out one member.
pub(crate) fn encode_member(member: &Member, out: &mut Vec<u8>) {
    put_string(out, &member.name);
    put_string(out, &member.raft_address);
    put_string(out, &member.client_address);
    out.put_u8(match member.role {
        Role::Voter => 0,
        Role::Learner => 1,
        Role::Standby => 2,
    });
}

/// Reads one member back.
pub(crate) fn decode_member(cursor: &mut Cursor) -> Result<Member, DecodeError> {
    let name = cursor.string(NAME_BYTES_MAX)?;
    let raft_address = cursor.string(NAME_BYTES_MAX)?;
    let client_address = cursor.string(NAME_BYTES_MAX)?;
    let role = match cursor.u8()? {
        0 => Role::Voter,
        1 => Role::Learner,
        2 => Role::Standby,
        _ => return Err(cursor.error("unknown role")),
    };
    Ok(Member { name, raft_address, client_address, role })
}
