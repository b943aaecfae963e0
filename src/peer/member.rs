//! The record of a member, and its bytes (`docs/format.md`, "Membership"). Pure.
#![deny(clippy::indexing_slicing)]

use std::fmt;

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

/// Most join tokens that a member may have given out, and that are neither used nor expired.
pub const INVITATION_COUNT_MAX: usize = 16;
/// Bytes of a join token's hash.
pub const INVITATION_HASH_BYTES: usize = 32;
/// Added to the byte of the role where invitations follow it.
const HAS_INVITATIONS: u8 = 0x80;
/// The same for numbers of slots, which stand before them.
const HAS_SLOTS: u8 = 0x40;

/// What is known of a join token: it lets one node in, once.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    /// SHA-256 of its text.
    pub hash: [u8; INVITATION_HASH_BYTES],
    /// In seconds since 1970: it counts no longer from then on.
    pub expires_s: u64,
}

/// As it may stand in the log.
impl fmt::Debug for Invitation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Invitation");
        shown.field("expires_s", &self.expires_s).finish_non_exhaustive()
    }
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
    /// Join tokens that it gave out as leader, and that nobody has used: at most
    /// [`INVITATION_COUNT_MAX`]. No part of who the member is, but of the membership, so that every
    /// leader knows them, and the entry that takes somebody in takes the token out.
    pub invitations: Box<[Invitation]>,
    /// How many slots its file has room for, by its own word; 0: as many as the cluster had at first.
    pub room: u64,
    /// How many slots the whole cluster may use since they were made more; 0: as many as at first. Every
    /// record has the same, so that it stays when any member goes.
    pub slot_count: u64,
}

/// Lays out one member.
pub(crate) fn encode_member(member: &Member, out: &mut Vec<u8>) {
    put_string(out, &member.name);
    put_string(out, &member.raft_address);
    put_string(out, &member.client_address);
    let role = match member.role {
        Role::Voter => 0,
        Role::Learner => 1,
        Role::Standby => 2,
    };
    let has_slots = member.room > 0 || member.slot_count > 0;
    let slots = if has_slots { HAS_SLOTS } else { 0 };
    let invitations = if member.invitations.is_empty() { 0 } else { HAS_INVITATIONS };
    out.put_u8(role | slots | invitations);
    if has_slots {
        out.put_u64_le(member.room);
        out.put_u64_le(member.slot_count);
    }
    if member.invitations.is_empty() {
        return;
    }
    let invitations = member.invitations.iter().take(INVITATION_COUNT_MAX);
    out.put_u16_le(u16::try_from(invitations.len()).unwrap_or_default());
    for Invitation { hash, expires_s } in invitations {
        out.put_slice(hash);
        out.put_u64_le(*expires_s);
    }
}

/// Reads one member back.
pub(crate) fn decode_member(cursor: &mut Cursor) -> Result<Member, DecodeError> {
    let name = cursor.string(NAME_BYTES_MAX)?;
    let raft_address = cursor.string(NAME_BYTES_MAX)?;
    let client_address = cursor.string(NAME_BYTES_MAX)?;
    let code = cursor.u8()?;
    let role = match code & !(HAS_INVITATIONS | HAS_SLOTS) {
        0 => Role::Voter,
        1 => Role::Learner,
        2 => Role::Standby,
        _ => return Err(cursor.error("unknown role")),
    };
    let (mut room, mut slot_count) = (0, 0);
    if code & HAS_SLOTS != 0 {
        (room, slot_count) = (cursor.u64()?, cursor.u64()?);
        if room == 0 && slot_count == 0 {
            return Err(cursor.error("no slots")); // one record has one form
        }
    }
    let mut invitations = Vec::new();
    if code & HAS_INVITATIONS != 0 {
        let count = cursor.count_u16(INVITATION_COUNT_MAX, "too many invitations")?;
        if count == 0 {
            return Err(cursor.error("no invitations")); // one record has one form
        }
        for _ in 0..count {
            let bytes = cursor.bytes(INVITATION_HASH_BYTES)?;
            let hash = bytes.first_chunk().copied();
            let hash = hash.ok_or_else(|| cursor.error("hash of an invitation"))?;
            invitations.push(Invitation { hash, expires_s: cursor.u64()? });
        }
    }
    let invitations = invitations.into();
    Ok(Member { name, raft_address, client_address, role, invitations, room, slot_count })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn member(count: usize) -> Member {
        let invitation = |nth: usize| Invitation {
            hash: [u8::try_from(nth).unwrap(); INVITATION_HASH_BYTES],
            expires_s: 1 << (nth + 8),
        };
        let invitations = (0..count).map(invitation).collect();
        Member { name: "a".into(), role: Role::Standby, invitations, ..Member::default() }
    }

    fn bytes_of(member: &Member) -> Vec<u8> {
        let mut out = Vec::new();
        encode_member(member, &mut out);
        out
    }

    #[test]
    fn a_record_survives_its_bytes_with_invitations_and_without() {
        let with_slots = |room, slot_count| Member { room, slot_count, ..member(2) };
        let only_slots = Member { room: 7, slot_count: 0, ..member(0) };
        let counted = [0, 1, INVITATION_COUNT_MAX].map(member);
        let members = counted.into_iter().chain([with_slots(0, 9), with_slots(9, 8), only_slots]);
        for member in members {
            let bytes = bytes_of(&member);
            let mut cursor = Cursor::new(bytes.clone().into());
            assert_eq!(decode_member(&mut cursor).unwrap(), member);
            cursor.finish().unwrap();
            for end in 0..bytes.len() {
                let cut = Bytes::copy_from_slice(&bytes[..end]);
                assert!(decode_member(&mut Cursor::new(cut)).is_err(), "{member:?}, {end}");
            }
        }
        let mut empty = b"\x01\0a\0\0\0\0\x42".to_vec();
        empty.extend([0; 16]);
        assert!(decode_member(&mut Cursor::new(empty.into())).is_err());
        let mut golden = b"\x01\0a\0\0\0\0\x82\x01\0".to_vec();
        golden.extend([0; 32]);
        golden.extend([0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes_of(&member(1)), golden);
    }

    #[test]
    fn too_many_invitations_or_an_empty_list_of_them_is_refused() {
        let begin = b"\x01\0a\0\0\0\0\x80";
        for count in [0_u8, 17] {
            let mut bytes = begin.to_vec();
            bytes.extend([count, 0]);
            bytes.extend(vec![0; 40 * usize::from(count)]);
            assert!(decode_member(&mut Cursor::new(bytes.into())).is_err(), "{count}");
        }
    }
}
