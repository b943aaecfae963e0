//! What openraft is told about this project: its type configuration, the record of a member, and
//! the conversions between openraft's values and those that `storage` writes down.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes};
use diskstore_storage::{LogId as StoredLogId, Vote as StoredVote, wal};
use openraft::alias::{EntryOf, LogIdOf, StoredMembershipOf, VoteOf};
use openraft::entry::{EntryPayload, RaftEntry};
use openraft::impls::leader_id_std;
use openraft::vote::{RaftLeaderId, RaftVote};

use crate::command::cursor::{Cursor, put_string};
use crate::command::{Command, CommandResult, DecodeError};

openraft::declare_raft_types!(
    /// The types that openraft works with here.
    pub TypeConfig:
        D = Command,
        R = CommandResult,
        NodeId = u64,
        Node = Member,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
);

/// Position of an entry, as openraft has it.
pub(super) type LogId = LogIdOf<TypeConfig>;
/// A vote, as openraft has it.
pub(super) type Vote = VoteOf<TypeConfig>;
/// A log entry, as openraft has it.
pub(super) type Entry = EntryOf<TypeConfig>;
/// Members of the cluster.
pub(super) type Membership = openraft::Membership<u64, Member>;
/// Members of the cluster, with the log id of the entry that set them.
pub(super) type StoredMembership = StoredMembershipOf<TypeConfig>;

/// Most members that one membership may name.
pub(super) const MEMBER_COUNT_MAX: usize = 256;
/// Most bytes of a name or an address.
pub(super) const NAME_BYTES_MAX: usize = 255;

/// What a member is meant to be. It stands in the membership, so that whoever leads knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Role {
    /// Counts in elections and majorities once it has caught up.
    #[default]
    Voter,
    /// Follows for ever, never counts.
    Learner,
}

/// The record of one member in the membership.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// The name it was started with (`-id`).
    pub name: String,
    /// Where its peers reach it, `host:port`.
    pub raft_address: String,
    /// Where clients reach it, `host:port`.
    pub client_address: String,
    /// What it is meant to be.
    pub role: Role,
}

/// openraft's log id from a stored one.
pub(super) fn log_id_from(stored: StoredLogId) -> LogId {
    LogId::new(leader_id_std::LeaderId::new(stored.term, 0).to_committed(), stored.index)
}

/// The stored form of a log id.
pub(super) fn log_id_to(log_id: &LogId) -> StoredLogId {
    StoredLogId { term: **log_id.committed_leader_id(), index: log_id.index }
}

/// openraft's vote from a stored one.
pub(super) fn vote_from(stored: StoredVote) -> Vote {
    let leader = leader_id_std::LeaderId { term: stored.term, voted_for: stored.node_id };
    Vote::from_leader_id(leader, stored.committed)
}

/// The stored form of a vote.
pub(super) fn vote_to(vote: &Vote) -> StoredVote {
    StoredVote {
        term: vote.leader_id.term,
        node_id: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

/// The stored form of an entry. The bytes of a command are shared, not copied.
pub(super) fn entry_to(entry: Entry) -> wal::Entry {
    let log_id = log_id_to(&entry.log_id());
    let (kind, payload) = match entry.payload {
        EntryPayload::Blank => (wal::EntryKind::Blank, Bytes::new()),
        EntryPayload::Normal(command) => (wal::EntryKind::Normal, command.bytes().clone()),
        EntryPayload::Membership(membership) => {
            (wal::EntryKind::Membership, encode_membership(&membership))
        }
    };
    wal::Entry { log_id, kind, payload }
}

/// openraft's entry from a stored one.
///
/// # Errors
/// The payload is no command or no membership: the entry was written by something else.
pub(super) fn entry_from(stored: wal::Entry) -> Result<Entry, DecodeError> {
    let log_id = log_id_from(stored.log_id);
    let payload = match stored.kind {
        wal::EntryKind::Blank => EntryPayload::Blank,
        wal::EntryKind::Normal => EntryPayload::Normal(Command::decode(stored.payload)?),
        wal::EntryKind::Membership => {
            EntryPayload::Membership(decode_membership(&mut Cursor::new(stored.payload))?)
        }
    };
    Ok(Entry::new(log_id, payload))
}

/// Lays out a membership (`docs/format.md`, "Membership").
pub(super) fn encode_membership(membership: &Membership) -> Bytes {
    let mut out = Vec::with_capacity(256);
    let configs = membership.get_joint_config();
    out.put_u16_le(count_u16(configs.len()));
    for config in configs {
        out.put_u16_le(count_u16(config.len()));
        for id in config {
            out.put_u64_le(*id);
        }
    }
    out.put_u16_le(count_u16(membership.nodes().count()));
    for (id, member) in membership.nodes() {
        out.put_u64_le(*id);
        encode_member(member, &mut out);
    }
    out.into()
}

/// Reads a membership back; every count is checked before memory is taken.
pub(super) fn decode_membership(cursor: &mut Cursor) -> Result<Membership, DecodeError> {
    let config_count = cursor.count_u16(MEMBER_COUNT_MAX, "too many configurations")?;
    let mut configs = Vec::with_capacity(config_count);
    for _ in 0..config_count {
        let voter_count = cursor.count_u16(MEMBER_COUNT_MAX, "too many voters")?;
        let mut config = BTreeSet::new();
        for _ in 0..voter_count {
            config.insert(cursor.u64()?);
        }
        configs.push(config);
    }
    let node_count = cursor.count_u16(MEMBER_COUNT_MAX, "too many members")?;
    let mut nodes = BTreeMap::new();
    for _ in 0..node_count {
        let id = cursor.u64()?;
        nodes.insert(id, decode_member(cursor)?);
    }
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|_| cursor.error("membership contradicts itself"))
}

/// Lays out one member.
pub(super) fn encode_member(member: &Member, out: &mut Vec<u8>) {
    put_string(out, &member.name);
    put_string(out, &member.raft_address);
    put_string(out, &member.client_address);
    out.put_u8(match member.role {
        Role::Voter => 0,
        Role::Learner => 1,
    });
}

/// Reads one member back.
pub(super) fn decode_member(cursor: &mut Cursor) -> Result<Member, DecodeError> {
    let name = cursor.string(NAME_BYTES_MAX)?;
    let raft_address = cursor.string(NAME_BYTES_MAX)?;
    let client_address = cursor.string(NAME_BYTES_MAX)?;
    let role = match cursor.u8()? {
        0 => Role::Voter,
        1 => Role::Learner,
        _ => return Err(cursor.error("unknown role")),
    };
    Ok(Member { name, raft_address, client_address, role })
}

fn count_u16(count: usize) -> u16 {
    u16::try_from(count).expect("invariant: memberships are bounded by MEMBER_COUNT_MAX")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership() -> Membership {
        let member = |n: u64| Member {
            name: format!("node{n}"),
            raft_address: format!("127.0.0.1:{}", 12000 + n),
            client_address: format!("127.0.0.1:{}", 11000 + n),
            role: if n == 3 { Role::Learner } else { Role::Voter },
        };
        let nodes: BTreeMap<u64, Member> = (1..=3).map(|n| (n, member(n))).collect();
        let configs = vec![BTreeSet::from([1]), BTreeSet::from([1, 2])];
        Membership::new(configs, nodes).unwrap()
    }

    #[test]
    fn membership_survives_its_bytes() {
        let bytes = encode_membership(&membership());
        assert_eq!(decode_membership(&mut Cursor::new(bytes)).unwrap(), membership());
        let empty = encode_membership(&Membership::default());
        assert_eq!(decode_membership(&mut Cursor::new(empty)).unwrap(), Membership::default());
    }

    #[test]
    fn membership_cut_anywhere_is_refused() {
        let bytes = encode_membership(&membership());
        for end in 0..bytes.len() {
            assert!(decode_membership(&mut Cursor::new(bytes.slice(..end))).is_err(), "{end}");
        }
    }

    #[test]
    fn membership_has_golden_bytes() {
        let nodes = BTreeMap::from([(
            7,
            Member {
                name: "a".into(),
                raft_address: "b".into(),
                client_address: "c".into(),
                role: Role::Voter,
            },
        )]);
        let membership = Membership::new(vec![BTreeSet::from([7])], nodes).unwrap();
        let expected: &[u8] = &[
            1, 0, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, b'a', 1, 0,
            b'b', 1, 0, b'c', 0,
        ];
        assert_eq!(&encode_membership(&membership)[..], expected);
    }
}
