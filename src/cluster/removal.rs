//! Taking members out of the cluster: what the leader does, and how one that was taken out learns it.
//!
//! Called by `node` and `forward`; calls `raft`. Invariants:
//!
//! - I1: nobody is taken out where fewer than a majority of the remaining voters would answer: the
//!   change could never be committed, and nothing else after it.
//! - I2: a member believes that it was removed only from a leader that has just proved that it leads.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use tokio::time::{Instant, timeout};

use super::Forwarder;
use crate::command::cursor::{Cursor, put_string};
use crate::command::{DecodeError, Failure};
use crate::fault::{EXIT_REMOVED, Faults};
use crate::raft::{
    ALIVE_MAX, CallError, Channel, ELECTION_MS_MIN, Hello, MemberView, Method, ProposeError,
    Purpose, View,
};

/// How long a change of the membership may take.
const CHANGE_BOUND: Duration = Duration::from_secs(10);
/// How long a leader that is to go tries to hand over.
const HAND_OVER_BOUND: Duration = Duration::from_secs(5);
/// How long a request for a removal may take, the search for a leader included.
const REMOVE_BOUND: Duration = Duration::from_secs(12);
/// How long one member may take to say who belongs to the cluster.
const STANDING_BOUND: Duration = Duration::from_secs(2);
/// How often a member without a leader asks whether it still belongs to the cluster.
const STANDING_PERIOD: Duration = Duration::from_millis(500);
/// Most bytes of a name in a request, and of a reason in an answer.
const TEXT_BYTES_MAX: usize = 4096;

/// Why a member was not removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoveError {
    /// It must not be, or there is none.
    #[error("{0}")]
    Refused(String),
    /// No leader, or none that answers.
    #[error(transparent)]
    Failed(Failure),
}

/// What a member says to a request for a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reply {
    Removed,
    /// Ask again.
    Later(String),
    Refused(String),
    /// It may happen yet.
    Unknown(String),
}

/// What the leader knows of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Whoever was asked does not lead.
    Unknown,
    /// It belongs to the cluster, which has applied entries up to this index.
    Member(u64),
    /// It does not.
    Removed,
}

/// What is to be done to remove a member.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    HandOver,
    RemoveLearner(u64),
    SetVoters(BTreeSet<u64>),
}

impl Forwarder {
    /// Takes a member out of the cluster, by its name or its id (16 hexadecimal digits).
    ///
    /// # Errors
    /// See [`RemoveError`].
    pub async fn remove(&self, who: &str) -> Result<(), RemoveError> {
        let failed = |error| Err(RemoveError::Failed(error));
        let deadline = Instant::now() + REMOVE_BOUND;
        loop {
            let view = self.consensus().view();
            let leader = view.leader.and_then(|id| Some((id, view.members.get(&id)?)));
            let reply = match leader {
                _ if view.is_leader => self.remove_here(who).await,
                None => Reply::Later("no leader is known".into()),
                Some((id, leader)) => {
                    let bound = deadline.saturating_duration_since(Instant::now());
                    let body = encode_remove(who).into();
                    reply_of(self.call((id, &leader.member), Method::Remove, body, bound).await)
                }
            };
            match reply {
                Reply::Removed => return Ok(()),
                Reply::Refused(reason) => return Err(RemoveError::Refused(reason)),
                Reply::Unknown(reason) => return failed(self.unknown(&reason)),
                Reply::Later(reason) if Instant::now() >= deadline => {
                    return failed(Failure::NoLeader { reason });
                }
                Reply::Later(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn remove_here(&self, who: &str) -> Reply {
        let consensus = self.consensus();
        let step = match step(&consensus.view(), consensus.member_id(), who) {
            Ok(step) => step,
            Err(_) if !consensus.has_led_for(ALIVE_MAX) => {
                return Reply::Later("the leader is new and has not heard of all members".into());
            }
            Err(reply) => return reply,
        };
        tracing::info!(member = who, ?step, "a member is to be removed");
        let changing = async {
            match step {
                Step::HandOver => {
                    consensus.hand_over(HAND_OVER_BOUND).await;
                    Reply::Later("the leader hands over, for it is to go".into())
                }
                Step::RemoveLearner(id) => changed(consensus.remove_learner(id).await),
                Step::SetVoters(voters) => changed(consensus.set_voters(voters).await),
            }
        };
        let late = || Reply::Unknown("the change of the membership takes long".into());
        timeout(CHANGE_BOUND, changing).await.unwrap_or_else(|_| late())
    }

    /// Answers another member's request for a removal. It is not passed on again.
    pub(super) async fn answer_remove(&self, body: Bytes) -> Option<Vec<u8>> {
        let mut cursor = Cursor::new(body);
        let who = cursor.string(TEXT_BYTES_MAX).ok()?;
        cursor.finish().ok()?;
        let reply = if self.consensus().view().is_leader {
            self.remove_here(&who).await
        } else {
            Reply::Later("the leader has changed".into())
        };
        Some(encode_reply(&reply))
    }

    /// Whether this member belongs to its cluster, as its leader has it.
    pub async fn standing(&self) -> Standing {
        let (view, me) = (self.consensus().view(), self.consensus().member_id());
        if view.is_leader {
            return self.standing_here(me).await;
        }
        let body = Bytes::copy_from_slice(&me.to_le_bytes());
        for (id, other) in view.members.iter().filter(|(id, _)| **id != me) {
            let asked = (*id, &other.member);
            let answer = self.call(asked, Method::Standing, body.clone(), STANDING_BOUND).await;
            let standing = answer.ok().and_then(|body| decode_standing(body).ok());
            if let Some(known) = standing.filter(|standing| *standing != Standing::Unknown) {
                return known;
            }
        }
        Standing::Unknown
    }

    async fn standing_here(&self, id: u64) -> Standing {
        let consensus = self.consensus();
        if consensus.read_index(STANDING_BOUND).await.is_err() {
            return Standing::Unknown; // I2
        }
        if consensus.has_member(id) {
            Standing::Member(consensus.shared().applied_index())
        } else {
            Standing::Removed
        }
    }

    /// Answers a member that asks for its standing, through the leader if that is another.
    pub(super) async fn answer_standing(&self, from: u64, body: Bytes) -> Option<Vec<u8>> {
        let mut cursor = Cursor::new(body.clone());
        let id = cursor.u64().ok()?;
        cursor.finish().ok()?;
        let view = self.consensus().view();
        if view.is_leader {
            return Some(encode_standing(self.standing_here(id).await));
        }
        let leader = view.leader.and_then(|leader| Some((leader, view.members.get(&leader)?)));
        // Only what comes from the member itself is passed on.
        let Some((leader, known)) = leader.filter(|(leader, _)| from == id && *leader != id) else {
            return Some(encode_standing(Standing::Unknown));
        };
        let asked = (leader, &known.member);
        let answer = self.call(asked, Method::Standing, body, STANDING_BOUND).await;
        let standing = answer.ok().and_then(|body| decode_standing(body).ok());
        Some(encode_standing(standing.unwrap_or(Standing::Unknown)))
    }
}

/// Stops this member, by a fault, once its cluster has gone on without it.
pub async fn watch_standing(forwarder: Arc<Forwarder>, faults: Faults, directory: String) {
    let silence = Duration::from_millis(ELECTION_MS_MIN);
    loop {
        tokio::time::sleep(STANDING_PERIOD).await;
        let consensus = forwarder.consensus();
        if consensus.view().is_leader || consensus.heard_within(silence) {
            continue;
        }
        if forwarder.standing().await == Standing::Removed {
            let reason = format!(
                "this member was removed from its cluster, which goes on without it; to take it in \
                 again move {directory} away and start it with -join ADDRESS, naming a running \
                 member"
            );
            return faults.report_with(EXIT_REMOVED, reason);
        }
    }
}

/// Asks members for the removal of one that does not run, in its own name.
///
/// # Errors
/// See [`RemoveError`]; the last member's word.
pub async fn remove_from_outside(
    (cluster_id, member_id): (u128, u64),
    addresses: &[String],
) -> Result<(), RemoveError> {
    let hello = Hello {
        cluster_id,
        from: member_id,
        to: 0,
        purpose: Purpose::Requests,
        acknowledged: None,
    };
    let who = format!("{member_id:016x}");
    let deadline = Instant::now() + REMOVE_BOUND;
    let mut last = "no member is known".to_owned();
    loop {
        for address in addresses {
            let channel = Channel::new(address.clone(), hello);
            let body = encode_remove(&who).into();
            match reply_of(channel.call(Method::Remove, body, CHANGE_BOUND).await) {
                Reply::Removed => return Ok(()),
                Reply::Refused(reason) => return Err(RemoveError::Refused(reason)),
                Reply::Later(reason) | Reply::Unknown(reason) => last = reason,
            }
        }
        if Instant::now() >= deadline {
            return Err(RemoveError::Failed(Failure::NoLeader { reason: last }));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What the leader does to remove a member, or why it does not.
fn step(view: &View, me: u64, who: &str) -> Result<Step, Reply> {
    let id = find(view, who).map_err(Reply::Refused)?;
    if view.is_joint {
        return Err(Reply::Later("another change of the membership is half way".into()));
    }
    let mut voters = view.goal_voters.clone();
    if !voters.remove(&id) {
        return Ok(Step::RemoveLearner(id));
    }
    if voters.is_empty() {
        let reason = format!("{who} is the last voter: without it there is no cluster");
        return Err(Reply::Refused(reason));
    }
    let answers = |voter: &&u64| {
        let silent_for = view.members.get(voter).and_then(|member| member.silent_for);
        **voter == me || silent_for.is_some_and(|silent| silent < ALIVE_MAX)
    };
    let (alive, count) = (voters.iter().filter(answers).count(), voters.len());
    if alive <= count / 2 {
        return Err(Reply::Refused(format!(
            "without {who} {alive} of {count} voters would answer, which is no majority: start the \
             others first, or remove one that does not run"
        ))); // I1
    }
    Ok(if id == me { Step::HandOver } else { Step::SetVoters(voters) })
}

/// The member of a name or an id.
fn find(view: &View, who: &str) -> Result<u64, String> {
    let is_it =
        |(id, known): &(&u64, &MemberView)| known.member.name == who || format!("{id:016x}") == who;
    let found: Vec<u64> = view.members.iter().filter(is_it).map(|(id, _)| *id).collect();
    match *found {
        [id] => Ok(id),
        [] => {
            let names: Vec<&str> =
                view.members.values().map(|known| known.member.name.as_str()).collect();
            Err(format!("no member is called `{who}`; there are {}", names.join(", ")))
        }
        _ => {
            let ids: Vec<String> = found.iter().map(|id| format!("{id:016x}")).collect();
            Err(format!("several members are called {who}: name one by its id, {}", ids.join(", ")))
        }
    }
}

fn changed(result: Result<(), ProposeError>) -> Reply {
    match result {
        Ok(()) => Reply::Removed,
        Err(ProposeError::NotLeader { .. }) => Reply::Later("the leader has changed".into()),
        Err(ProposeError::Failed(failure @ Failure::Unknown { .. })) => {
            Reply::Unknown(failure.to_string())
        }
        Err(ProposeError::Failed(failure)) => Reply::Later(failure.to_string()),
    }
}

fn reply_of(answer: Result<Bytes, CallError>) -> Reply {
    match answer {
        Ok(body) => decode_reply(body).unwrap_or_else(|error| Reply::Unknown(error.to_string())),
        Err(error @ CallError::NotSent { .. }) => Reply::Later(crate::fault::chain(&error)),
        Err(error @ CallError::Lost { .. }) => Reply::Unknown(error.to_string()),
    }
}

fn encode_remove(who: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_string(&mut out, who);
    out
}

fn encode_reply(reply: &Reply) -> Vec<u8> {
    let (code, reason) = match reply {
        Reply::Removed => (0, ""),
        Reply::Later(reason) => (1, reason.as_str()),
        Reply::Refused(reason) => (2, reason.as_str()),
        Reply::Unknown(reason) => (3, reason.as_str()),
    };
    let mut out = vec![code];
    let end = reason.floor_char_boundary(TEXT_BYTES_MAX);
    put_string(&mut out, reason.get(..end).unwrap_or_default());
    out
}

fn decode_reply(body: Bytes) -> Result<Reply, DecodeError> {
    let mut cursor = Cursor::new(body);
    let (code, reason) = (cursor.u8()?, cursor.string(TEXT_BYTES_MAX)?);
    cursor.finish()?;
    match code {
        0 => Ok(Reply::Removed),
        1 => Ok(Reply::Later(reason)),
        2 => Ok(Reply::Refused(reason)),
        3 => Ok(Reply::Unknown(reason)),
        _ => Err(cursor.error("unknown answer to a removal")),
    }
}

fn encode_standing(standing: Standing) -> Vec<u8> {
    let (code, applied) = match standing {
        Standing::Unknown => (0, 0),
        Standing::Member(applied) => (1, applied),
        Standing::Removed => (2, 0),
    };
    let mut out = vec![code];
    out.put_u64_le(applied);
    out
}

fn decode_standing(body: Bytes) -> Result<Standing, DecodeError> {
    let mut cursor = Cursor::new(body);
    let (code, applied) = (cursor.u8()?, cursor.u64()?);
    cursor.finish()?;
    match code {
        0 => Ok(Standing::Unknown),
        1 => Ok(Standing::Member(applied)),
        2 => Ok(Standing::Removed),
        _ => Err(cursor.error("unknown standing")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::membership::tests::{member, view};
    use super::*;

    /// Three voters, the first of which leads, and a learner.
    fn four() -> View {
        view(vec![
            (1, member("a", true, Some(10_000))),
            (2, member("b", true, Some(10_000))),
            (3, member("c", true, Some(10_000))),
            (4, member("d", false, Some(10_000))),
        ])
    }

    fn refused(view: &View, who: &str) -> String {
        match step(view, 1, who) {
            Err(Reply::Refused(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_member_is_named_by_its_name_or_its_id() {
        assert_eq!(step(&four(), 1, "b"), Ok(Step::SetVoters(BTreeSet::from([1, 3]))));
        let by_id = step(&four(), 1, "0000000000000002");
        assert_eq!(by_id, Ok(Step::SetVoters(BTreeSet::from([1, 3]))));
        assert_eq!(step(&four(), 1, "d"), Ok(Step::RemoveLearner(4)));
        assert_eq!(step(&four(), 1, "a"), Ok(Step::HandOver));
        assert_eq!(refused(&four(), "e"), "no member is called `e`; there are a, b, c, d");
        let mut twins = four();
        twins.members.insert(5, member("d", false, None));
        assert!(refused(&twins, "d").contains("0000000000000004, 0000000000000005"));
    }

    #[test]
    fn the_last_voter_and_those_whose_others_do_not_answer_stay() {
        let one = view(vec![(1, member("a", true, None)), (4, member("d", false, None))]);
        assert!(refused(&one, "a").contains("a is the last voter"));
        assert_eq!(step(&one, 1, "d"), Ok(Step::RemoveLearner(4)));
        let mut silent = four();
        silent.members.get_mut(&3).unwrap().silent_for = Some(Duration::from_mins(1));
        assert!(refused(&silent, "b").contains("without b 1 of 2 voters would answer"));
        assert!(refused(&silent, "a").contains("without a 1 of 2 voters would answer"));
        assert_eq!(step(&silent, 1, "c"), Ok(Step::SetVoters(BTreeSet::from([1, 2]))));
    }

    #[test]
    fn nothing_is_changed_while_a_change_is_half_way() {
        let mut half = four();
        half.is_joint = true;
        assert!(matches!(step(&half, 1, "b"), Err(Reply::Later(_))));
    }

    #[test]
    fn answers_survive_their_bytes() {
        let text = || "why".to_owned();
        for reply in
            [Reply::Removed, Reply::Later(text()), Reply::Refused(text()), Reply::Unknown(text())]
        {
            assert_eq!(decode_reply(encode_reply(&reply).into()).unwrap(), reply);
        }
        for standing in [Standing::Unknown, Standing::Member(7), Standing::Removed] {
            assert_eq!(decode_standing(encode_standing(standing).into()).unwrap(), standing);
        }
        assert!(decode_reply(Bytes::from_static(&[9, 0, 0])).is_err());
        assert!(decode_standing(Bytes::from_static(&[1])).is_err());
    }
}
