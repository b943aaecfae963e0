//! The type configuration for openraft, and the conversions between openraft's values and the ones
//! that `storage` writes and `peer` sends.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes};
use diskstore_storage::state::{self, MEMBERSHIP_BYTES_MAX};
use diskstore_storage::summed::{Stretch, SummedBytes};
use diskstore_storage::{LogId as StoredLogId, MemberId, Term, Vote as StoredVote, wal};
use openraft::alias::{EntryOf, LogIdOf, StoredMembershipOf, VoteOf};
use openraft::entry::{EntryPayload, RaftEntry};
use openraft::impls::leader_id_std;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::vote::{RaftLeaderId, RaftVote};

use crate::command::cursor::Cursor;
use crate::command::{Command, CommandResult, DecodeError};
use crate::peer::append::{Append, AppendReply};
use crate::peer::frames::Space;
use crate::peer::votes::{Ballot, BallotReply, Transfer, TransferReply};
use crate::peer::{MEMBER_COUNT_MAX, decode_member, encode_member};
use crate::replica::{Committed, Payload};

pub(super) use crate::peer::{Member, Role};

openraft::declare_raft_types!(
    /// The types that openraft works with here.
    pub TypeConfig:
        D = Command,
        R = Vec<CommandResult>,
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

/// openraft's log id from a stored one.
pub(super) fn log_id_from(stored: StoredLogId) -> LogId {
    LogId::new(leader_id_std::LeaderId::new(stored.term.get(), 0).to_committed(), stored.index)
}

/// The stored form of a log id.
pub(super) fn log_id_to(log_id: &LogId) -> StoredLogId {
    StoredLogId { term: Term::new(**log_id.committed_leader_id()), index: log_id.index }
}

/// openraft's vote from a stored one.
pub(super) fn vote_from(stored: StoredVote) -> Vote {
    let leader =
        leader_id_std::LeaderId { term: stored.term.get(), voted_for: stored.node_id.get() };
    Vote::from_leader_id(leader, stored.committed)
}

/// The stored form of a vote.
pub(super) fn vote_to(vote: &Vote) -> StoredVote {
    StoredVote {
        term: Term::new(vote.leader_id.term),
        node_id: MemberId::new(vote.leader_id.voted_for),
        committed: vote.committed,
    }
}

/// The stored form of an entry. The bytes of a command are shared, not copied.
pub(super) fn entry_to(entry: Entry) -> wal::Entry {
    let log_id = log_id_to(&entry.log_id());
    let (kind, payload) = match entry.payload {
        EntryPayload::Blank => (wal::EntryKind::Blank, SummedBytes::default()),
        EntryPayload::Normal(command) => (wal::EntryKind::Normal, command.payload().clone()),
        EntryPayload::Membership(membership) => {
            (wal::EntryKind::Membership, encode_membership(&membership).into())
        }
    };
    wal::Entry { log_id, kind, payload }
}

/// openraft's entry from a stored one.
///
/// # Errors
/// The payload is no command or no membership, or one that no superblock could hold: the entry was
/// written by something else.
pub(super) fn entry_from(stored: wal::Entry) -> Result<Entry, DecodeError> {
    let Committed { log_id, payload } = Committed::read(stored)?;
    let payload = match payload {
        Payload::Blank => EntryPayload::Blank,
        Payload::Command(command) => EntryPayload::Normal(command),
        Payload::Membership(body) => EntryPayload::Membership(read_membership(body)?),
    };
    Ok(Entry::new(log_id_from(log_id), payload))
}

/// As [`entry_from`], of an entry that this process appended: its command was built or checked then.
///
/// # Errors
/// As [`entry_from`], for a membership.
pub(super) fn entry_of_tail(stored: wal::Entry) -> Result<Entry, DecodeError> {
    match stored.kind {
        wal::EntryKind::Normal => {
            let command = Command::checked_before(stored.payload);
            Ok(Entry::new(log_id_from(stored.log_id), EntryPayload::Normal(command)))
        }
        wal::EntryKind::Blank | wal::EntryKind::Membership => entry_from(stored),
    }
}

/// A committed entry, as the replica applies it.
pub(super) fn committed_from(entry: Entry) -> Committed {
    let log_id = log_id_to(&entry.log_id());
    let payload = match entry.payload {
        EntryPayload::Blank => Payload::Blank,
        EntryPayload::Normal(command) => Payload::Command(command),
        EntryPayload::Membership(membership) => Payload::Membership(encode_membership(&membership)),
    };
    Committed { log_id, payload }
}

/// openraft's membership from a stored one.
///
/// # Errors
/// The bytes are not what they should be.
pub(super) fn membership_from(stored: &state::Membership) -> Result<StoredMembership, DecodeError> {
    if stored.body.is_empty() {
        return Ok(StoredMembership::default());
    }
    let membership = read_membership(stored.body.clone())?;
    Ok(StoredMembership::new(stored.log_id.map(log_id_from), membership))
}

/// A membership and nothing behind it, of a length that a superblock holds.
fn read_membership(body: Bytes) -> Result<Membership, DecodeError> {
    let is_too_long = body.len() > MEMBERSHIP_BYTES_MAX;
    let mut cursor = Cursor::new(body);
    if is_too_long {
        return Err(cursor.error("length of the membership"));
    }
    let membership = decode_membership(&mut cursor)?;
    cursor.finish()?;
    Ok(membership)
}

/// The stored form of a membership.
pub(super) fn membership_to(membership: &StoredMembership) -> state::Membership {
    state::Membership {
        log_id: membership.log_id().as_ref().map(log_id_to),
        body: encode_membership(membership.membership()),
    }
}

/// openraft's request for a vote.
pub(super) fn ballot_from(ballot: &Ballot) -> VoteRequest<TypeConfig> {
    let mut request = VoteRequest::new(vote_from(ballot.vote), ballot.last.map(log_id_from));
    request.leadership_transfer = ballot.is_transfer;
    request
}

/// A request for a vote, as it travels.
pub(super) fn ballot_to(request: &VoteRequest<TypeConfig>) -> Ballot {
    Ballot {
        vote: vote_to(&request.vote),
        last: request.last_log_id.as_ref().map(log_id_to),
        is_transfer: request.leadership_transfer,
    }
}

/// openraft's answer to a request for a vote.
pub(super) fn ballot_reply_from(reply: &BallotReply) -> VoteResponse<TypeConfig> {
    VoteResponse::new(vote_from(reply.vote), reply.last.map(log_id_from), reply.is_granted)
}

/// The answer to a request for a vote, as it travels.
pub(super) fn ballot_reply_to(reply: &VoteResponse<TypeConfig>) -> BallotReply {
    BallotReply {
        vote: vote_to(&reply.vote),
        last: reply.last_log_id.as_ref().map(log_id_to),
        is_granted: reply.vote_granted,
    }
}

/// openraft's request to take over leadership.
pub(super) fn transfer_from(transfer: &Transfer) -> TransferLeaderRequest<TypeConfig> {
    let last = transfer.last.map(log_id_from);
    TransferLeaderRequest::new(vote_from(transfer.from), transfer.to, last)
}

/// A request to take over leadership, as it travels.
pub(super) fn transfer_to(request: &TransferLeaderRequest<TypeConfig>) -> Transfer {
    Transfer {
        from: vote_to(request.from_leader()),
        to: *request.to_node_id(),
        last: request.last_log_id().map(log_id_to),
    }
}

/// openraft's answer to `request`.
pub(super) fn transfer_reply_from(
    reply: &TransferReply,
    request: &TransferLeaderRequest<TypeConfig>,
) -> TransferLeaderResponse<TypeConfig> {
    match reply {
        TransferReply::Accepted => Ok(()),
        TransferReply::VoteChanged(vote) => Err(TransferLeaderError::VoteChanged {
            expected: *request.from_leader(),
            actual: vote_from(*vote),
        }),
        TransferReply::NotFlushed(last) => Err(TransferLeaderError::LogNotFlushed {
            expected: request.last_log_id().copied(),
            actual: last.map(log_id_from),
        }),
    }
}

/// The answer to a request to take over leadership, as it travels.
pub(super) fn transfer_reply_to(reply: &TransferLeaderResponse<TypeConfig>) -> TransferReply {
    match reply {
        Ok(()) => TransferReply::Accepted,
        Err(TransferLeaderError::VoteChanged { actual, .. }) => {
            TransferReply::VoteChanged(vote_to(actual))
        }
        Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
            TransferReply::NotFlushed(actual.as_ref().map(log_id_to))
        }
    }
}

/// openraft's answer to an append frame.
pub(super) type AppendOutcome = Result<Option<LogId>, StreamAppendError<TypeConfig>>;

/// openraft's answer to an append frame.
pub(super) fn append_reply_from(reply: AppendReply) -> AppendOutcome {
    match reply {
        AppendReply::Holds(log_id) => Ok(log_id.map(log_id_from)),
        AppendReply::Conflict(log_id) => Err(StreamAppendError::Conflict(log_id_from(log_id))),
        AppendReply::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote_from(vote))),
    }
}

/// The answer to an append frame, as it travels.
pub(super) fn append_reply_to(outcome: &AppendOutcome) -> AppendReply {
    match outcome {
        Ok(log_id) => AppendReply::Holds(log_id.as_ref().map(log_id_to)),
        Err(StreamAppendError::Conflict(log_id)) => AppendReply::Conflict(log_id_to(log_id)),
        Err(StreamAppendError::HigherVote(vote)) => AppendReply::HigherVote(vote_to(vote)),
    }
}

/// Appends the frame of a request of openraft's.
pub(super) fn put_append(space: Space<'_>, request: AppendEntriesRequest<TypeConfig>) {
    let append = Append {
        vote: vote_to(&request.vote),
        prev: request.prev_log_id.as_ref().map(log_id_to),
        committed: request.leader_commit.as_ref().map(log_id_to),
        entries: request.entries.into_iter().map(entry_to),
    };
    append.put(space);
}

/// Reads the body of an append frame for openraft, of which `summed` was summed.
///
/// # Errors
/// The bytes are not what they should be.
pub(super) fn read_append(
    body: Bytes,
    summed: &[Stretch],
) -> Result<AppendEntriesRequest<TypeConfig>, DecodeError> {
    let append = Append::decode(body, summed, entry_from)?;
    let Append { vote, prev, committed, entries } = append;
    Ok(AppendEntriesRequest {
        vote: vote_from(vote),
        prev_log_id: prev.map(log_id_from),
        entries,
        leader_commit: committed.map(log_id_from),
    })
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
            ..Member::default()
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
                ..Member::default()
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
