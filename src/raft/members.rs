//! Changes of the cluster's membership, as the leader makes them.
//!
//! Called by `cluster`; calls openraft. Invariants:
//!
//! - I1: no membership is proposed that is too large to be stored: every member reads an entry of
//!   at most [`MEMBER_COUNT_MAX`] members, and keeps it in a superblock. The count is the most that
//!   the members may come to take, so that a later change of voters fits too.
//! - I2: a leader makes one change at a time, from the decision to its end. If another change came
//!   between two steps of one, the caller could not tell its outcome.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use bytes::Bytes;
use diskstore_storage::state::{self, MEMBERSHIP_BYTES_MAX, Target};
use diskstore_storage::wal::Wal;
use diskstore_storage::{LogId as StoredLogId, Term};
use openraft::EntryPayload;
use openraft::async_runtime::WatchReceiver;
use openraft::entry::RaftEntry;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::Precondition;
use openraft::{ChangeMembers, Instant as _};
use tokio::sync::MutexGuard;
use tokio::time::Instant;

use super::proposals::propose_error;
use super::types::{
    Entry, LogId, Member, Membership, Role, StoredMembership, TypeConfig, encode_membership,
    entry_to, log_id_from, membership_from,
};
use super::{Consensus, ProposeError};
use crate::command::{DecodeError, Failure};
use crate::machine::Machine;
use crate::peer::MEMBER_COUNT_MAX;
use crate::replica::Replica;

/// Why a member was not taken in, or its record not changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MemberError {
    /// One member too many.
    #[error("a cluster has at most {MEMBER_COUNT_MAX} members; remove one first")]
    TooMany,
    /// One byte too many.
    #[error(
        "with this member the names and addresses of the cluster would take {bytes} bytes, but \
         {MEMBERSHIP_BYTES_MAX} fit; give it a shorter -id and -advertise, or remove a member first"
    )]
    TooLong {
        /// The most that the membership would come to take.
        bytes: usize,
    },
    /// The change was not made, or it is not known whether.
    #[error("the membership was not changed: {0:?}")]
    NotChanged(ProposeError),
}

/// A member as a membership that was stored names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogMember {
    /// Its id.
    pub id: u64,
    /// Its record.
    pub member: Member,
    /// True if it counts in majorities: in those of the old or of the new voters, while they change.
    pub votes: bool,
}

impl LogMember {
    /// `voter`, `standby` or `learner`: what it is at this moment, whatever it is to be.
    pub fn role(&self) -> &'static str {
        match (self.votes, self.member.role) {
            (true, _) => "voter",
            (false, Role::Standby) => "standby",
            (false, Role::Voter | Role::Learner) => "learner",
        }
    }
}

/// The members that the bytes of a stored membership name, sorted by id.
///
/// # Errors
/// The bytes are not what they should be.
pub fn members_in(body: &Bytes) -> Result<Vec<LogMember>, DecodeError> {
    let stored = state::Membership { log_id: None, body: body.clone() };
    let stored = membership_from(&stored)?;
    let membership = stored.membership();
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let named = membership.nodes().map(|(id, member)| LogMember {
        id: *id,
        member: member.clone(),
        votes: voters.contains(id),
    });
    Ok(named.collect())
}

/// Begins the log of a cluster that several members found together: every one of them writes the same
/// first entry before anybody asks it for a vote, so the cluster goes on without any one of them.
/// Does nothing if the log has begun, or there are no founders. The entry survives power loss then.
///
/// # Errors
/// Of the log.
pub fn begin_log(wal: &Wal, founders: BTreeMap<u64, Member>) -> diskstore_storage::Result<()> {
    let state = wal.state();
    if founders.is_empty() || state.last.is_some() || state.vote.is_some() {
        return Ok(());
    }
    append_members(wal, StoredLogId { term: Term::new(0), index: 0 }, founders)
}

/// Begins the log of a cluster whose state was restored of a backup: its first entry, behind the
/// checkpoint that the restore has made, names the one member. Does nothing once any member is named.
/// The entry survives power loss then.
///
/// # Errors
/// Of the log.
pub fn begin_restored_log(
    wal: &Wal,
    restored: &Target,
    member_id: u64,
    member: Member,
) -> diskstore_storage::Result<()> {
    let Target { log_id, membership, .. } = restored;
    let is_begun = membership.log_id.is_some() || wal.state().last != Some(*log_id);
    if is_begun || wal.state().vote.is_none() {
        return Ok(());
    }
    let next = StoredLogId { term: log_id.term, index: log_id.index + 1 };
    append_members(wal, next, BTreeMap::from([(member_id, member)]))
}

/// Appends an entry with members; it survives power loss then.
fn append_members(
    wal: &Wal,
    log_id: StoredLogId,
    members: BTreeMap<u64, Member>,
) -> diskstore_storage::Result<()> {
    let payload = EntryPayload::Membership(Membership::from(members));
    wal.append([entry_to(Entry::new(log_id_from(log_id), payload))])?;
    while let Some(batch) = wal.seal() {
        wal.write(batch)?;
    }
    wal.sync() // under `-sync never` too
}

impl Consensus {
    /// Asks for an election at once, if no leader is known.
    pub async fn campaign(&self) {
        if self.view().leader.is_none()
            && let Err(error) = self.raft.trigger().elect(false).await
        {
            tracing::warn!(%error, "cannot ask for an election");
        }
    }

    /// Waits until nobody else here changes the membership; nobody does while the guard is held (I2).
    pub async fn alone(&self) -> MutexGuard<'_, ()> {
        self.alone.lock().await
    }

    /// Adds a member that does not count yet, or sets the record of one, whatever it counts; the join
    /// tokens in it stay as they are, and so does what the cluster has agreed on.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn set_member(&self, id: u64, member: Member) -> Result<(), MemberError> {
        self.change_records(|newest| {
            let known = newest.get(&id).cloned().unwrap_or_default();
            let (room, slot_count) = (known.room.max(member.room), slot_count_of(newest.values()));
            let invitations = known.invitations;
            let record = Member { invitations, room, slot_count, ..member };
            Some(BTreeMap::from([(id, record)]))
        })
        .await
    }

    /// Sets the records that `decide` makes of the newest ones, in one change; those of members that are
    /// none yet add them, without a vote. Nothing is changed if it gives none, nor while a change of the
    /// voters is half way, which this would end otherwise than it was meant.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub async fn change_records(
        &self,
        decide: impl FnOnce(&BTreeMap<u64, Member>) -> Option<BTreeMap<u64, Member>>,
    ) -> Result<(), MemberError> {
        let busy = || {
            let reason = "the membership is just being changed".into(); // and not by this change
            MemberError::NotChanged(ProposeError::Failed(Failure::Busy { reason }))
        };
        let (last_membership_log_id, membership) = self.newest_membership().await?;
        if is_half_way(&membership) {
            return Err(busy());
        }
        let records = decide(&records_of(&membership)).ok_or_else(busy)?;
        check_fits(&membership, &records)?; // I1
        let is_known = |id: &u64| membership.get_node(id).is_some();
        let (known, new): (BTreeMap<_, _>, BTreeMap<_, _>) =
            records.into_iter().partition(|(id, _)| is_known(id));
        let change = match (known.is_empty(), new.is_empty()) {
            (_, true) => ChangeMembers::SetNodes(known),
            (true, false) => ChangeMembers::AddNodes(new),
            (false, false) => ChangeMembers::Batch(vec![
                ChangeMembers::SetNodes(known),
                ChangeMembers::AddNodes(new),
            ]),
        };
        // Of two that join at once the second finds another membership than was looked at.
        let unchanged = Precondition::LastMembershipLogId { last_membership_log_id };
        let changed = self.raft.change_membership_if(change, true, [unchanged]).await;
        if let Err(RaftError::APIError(ClientWriteError::PreconditionFailed(_))) = changed {
            return Err(busy());
        }
        self.changed_membership(changed.map(|_| ())).map_err(MemberError::NotChanged)
    }

    /// The records of the newest membership of this member's log, committed or not.
    ///
    /// # Errors
    /// This node stops.
    pub async fn records(&self) -> Result<BTreeMap<u64, Member>, MemberError> {
        Ok(records_of(&self.newest_membership().await?.1))
    }

    async fn newest_membership(&self) -> Result<(Option<LogId>, Membership), MemberError> {
        let effective = self.raft.with_raft_state(|state| {
            let effective = state.membership_state.effective();
            (*effective.log_id(), effective.membership().clone())
        });
        let stopping = |_| MemberError::NotChanged(ProposeError::Failed(Failure::Stopping));
        effective.await.map_err(stopping)
    }

    /// True if this leader has led for `time` and has not heard of a member for as long, false if
    /// it heard of it since; `None` where this member does not know.
    pub fn is_silent(&self, id: u64, time: Duration) -> Option<bool> {
        let has_led = self.has_led_for(time);
        let view = self.view();
        if !view.is_leader {
            return None;
        }
        match view.members.get(&id)?.silent_for {
            Some(silent) if silent < time => Some(false),
            Some(_) | None => has_led.then_some(true),
        }
    }

    /// How long no majority has taken part, as far as this member can know: since one answered the
    /// leader, or since the others heard of a leader, `started` at the earliest. `None` while one
    /// does.
    pub fn without_majority(&self, started: Instant) -> Option<Duration> {
        let view = self.view();
        if view.is_leader {
            if view.members.values().filter(|member| member.is_voter).count() <= 1 {
                return None;
            }
            let metrics = self.raft.metrics();
            let acknowledged = metrics.borrow_watched().last_quorum_acked;
            let since = acknowledged.map(|instant| instant.elapsed());
            let led = self.leading_since().map(|since| since.elapsed());
            let silent = since.or(led)?;
            return (silent >= self.timing.election()).then_some(silent);
        }
        let heard = self.peers.heard.lock().map_or(started, |(_, heard)| heard.max(started));
        let silent = heard.elapsed();
        (silent >= self.timing.silence()).then_some(silent)
    }

    /// True if this member has led for `time`.
    pub fn has_led_for(&self, time: Duration) -> bool {
        self.leading_since().is_some_and(|since| since.elapsed() >= time)
    }

    /// When this member became leader of the present term.
    fn leading_since(&self) -> Option<Instant> {
        let view = self.view();
        let mut leading = self.leading.lock();
        if !view.is_leader {
            *leading = None;
        } else if leading.is_none_or(|(term, _)| term != view.term) {
            *leading = Some((view.term, Instant::now()));
        }
        leading.map(|(_, since)| since)
    }

    /// Makes these members the voters; a voter that is not among them leaves the cluster, unless
    /// `keeps_others`: then it follows on without a vote.
    ///
    /// # Errors
    /// As for commands.
    pub async fn set_voters(
        &self,
        voters: BTreeSet<u64>,
        keeps_others: bool,
    ) -> Result<(), ProposeError> {
        let change = ChangeMembers::ReplaceAllVoters(voters);
        let changed = self.raft.change_membership(change, keeps_others).await;
        self.changed_membership(changed.map(|_| ()))
    }

    /// True if what this member has applied names it: that cannot be taken back any more.
    pub fn is_named(&self) -> bool {
        self.applied_membership().membership().get_node(&self.member_id).is_some()
    }

    /// True unless a member is in neither the membership that is applied nor in the newest.
    pub fn has_member(&self, id: u64) -> bool {
        let applied = self.applied_membership();
        applied.membership().get_node(&id).is_some() || self.view().members.contains_key(&id)
    }

    /// Takes a member that does not count out of the cluster.
    ///
    /// # Errors
    /// As for commands.
    pub async fn remove_learner(&self, id: u64) -> Result<(), ProposeError> {
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([id]));
        let changed = self.raft.change_membership(change, true).await;
        self.changed_membership(changed.map(|_| ()))
    }

    /// The membership as of what is applied.
    fn applied_membership(&self) -> StoredMembership {
        let applied = membership_from(&self.replica.applied().membership);
        applied.expect("invariant: it was read when it was appended, installed or opened")
    }

    fn changed_membership(
        &self,
        result: Result<(), RaftError<TypeConfig, ClientWriteError<TypeConfig>>>,
    ) -> Result<(), ProposeError> {
        match result {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(error)) => Err(propose_error(&self.raft, error)),
            Err(RaftError::Fatal(_)) => Err(ProposeError::Failed(Failure::Stopping)),
        }
    }
}

/// How many slots a cluster of these members may use; 0: as many as it had at first.
pub fn slot_count_of<'a>(members: impl IntoIterator<Item = &'a Member>) -> u64 {
    members.into_iter().map(|member| member.slot_count).max().unwrap_or(0)
}

/// Has a machine's limit follow a membership.
///
/// # Errors
/// Its file has no room for so many slots.
pub(super) fn follow_slot_count(machine: &Machine, membership: &Membership) -> io::Result<()> {
    let slot_count = slot_count_of(membership.nodes().map(|(_, member)| member));
    let Some(paged) = machine.paged() else { return Ok(()) };
    if paged.raise_limit(slot_count) {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "the cluster has {slot_count} slots now, and this node's file has room for {}: start it with \
         -slots {slot_count}",
        paged.room()
    )))
}

/// Has the machine of a replica follow the membership that is applied.
///
/// # Errors
/// As [`follow_slot_count`].
pub(super) fn follow_applied(replica: &Replica) -> io::Result<()> {
    let applied = membership_from(&replica.applied().membership).map_err(io::Error::other)?;
    follow_slot_count(&replica.machine, applied.membership())
}

/// True while the voters change.
fn is_half_way(membership: &Membership) -> bool {
    membership.get_joint_config().len() > 1
}

fn records_of(membership: &Membership) -> BTreeMap<u64, Member> {
    membership.nodes().map(|(id, member)| (*id, member.clone())).collect()
}

/// Whether a membership has room for members, or for other records of those that it has.
fn check_fits(membership: &Membership, records: &BTreeMap<u64, Member>) -> Result<(), MemberError> {
    let mut nodes = records_of(membership);
    nodes.extend(records.iter().map(|(id, member)| (*id, member.clone())));
    if nodes.len() > MEMBER_COUNT_MAX {
        return Err(MemberError::TooMany);
    }
    // At worst all of them vote, before and after a change that is half way.
    let voters: BTreeSet<u64> = nodes.keys().copied().collect();
    let largest = Membership::new(vec![voters.clone(), voters], nodes);
    let largest = largest.expect("invariant: every voter is among the members");
    let bytes = encode_membership(&largest).len();
    if bytes > MEMBERSHIP_BYTES_MAX { Err(MemberError::TooLong { bytes }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::NAME_BYTES_MAX;

    fn member(name_bytes: usize) -> Member {
        let name = "n".repeat(name_bytes);
        Member {
            name: name.clone(),
            raft_address: name.clone(),
            client_address: name,
            ..Member::default()
        }
    }

    /// Adds members until one is refused; the members then, and why.
    fn filled(name_bytes: usize) -> (Membership, MemberError) {
        let mut nodes = BTreeMap::new();
        for id in 0.. {
            let membership = Membership::new(Vec::new(), nodes.clone()).unwrap();
            if let Err(error) = check_fits(&membership, &BTreeMap::from([(id, member(name_bytes))]))
            {
                return (membership, error);
            }
            nodes.insert(id, member(name_bytes));
        }
        unreachable!("somewhere it is full");
    }

    #[test]
    fn members_with_long_names_end_where_their_bytes_do() {
        let (membership, error) = filled(NAME_BYTES_MAX);
        assert!(matches!(error, MemberError::TooLong { .. }), "{error}");
        let nodes: BTreeMap<u64, Member> =
            membership.nodes().map(|(id, member)| (*id, member.clone())).collect();
        // 8 for its id, three texts behind their lengths, its role; 8 more in each configuration.
        let bytes_each = 8 + 3 * (2 + NAME_BYTES_MAX) + 1 + 2 * 8;
        assert_eq!(nodes.len(), MEMBERSHIP_BYTES_MAX / bytes_each);
        let voters: BTreeSet<u64> = nodes.keys().copied().collect();
        let half_way = Membership::new(vec![voters.clone(), voters], nodes).unwrap();
        assert!(encode_membership(&half_way).len() <= MEMBERSHIP_BYTES_MAX);
    }

    #[test]
    fn members_with_short_names_end_where_their_number_does() {
        let (membership, error) = filled(20);
        assert!(matches!(error, MemberError::TooMany), "{error}");
        assert_eq!(membership.nodes().count(), MEMBER_COUNT_MAX);
    }

    #[test]
    fn a_longer_record_of_a_member_is_refused_like_a_new_member() {
        let (membership, _) = filled(NAME_BYTES_MAX);
        check_fits(&membership, &BTreeMap::from([(0, member(NAME_BYTES_MAX))])).unwrap();
        let (membership, _) = filled(100);
        check_fits(&membership, &BTreeMap::from([(0, member(100))])).unwrap();
        check_fits(&membership, &BTreeMap::from([(0, member(NAME_BYTES_MAX))])).unwrap_err();
    }
}
