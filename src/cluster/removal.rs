//! Removes members from the cluster: the leader's steps, and how a removed member learns of it.
//!
//! Called by `node`, and by other members through `peer`; calls `raft`. Invariants:
//!
//! - I1: no member is removed unless a majority of the voters, and of the voters that remain,
//!   answers: otherwise neither the change nor any later entry could ever be committed.
//! - I2: a member believes that it was removed only if the leader that says so has just proved that
//!   it leads.
//! - I3: once a step was begun, the member is looked up by its id and no longer by its name,
//!   because another member may have the name by then. A member that is gone by then was removed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use futures_util::future::join_all;
use tokio::time::{Instant, timeout_at};

use super::Cluster;
use super::bootstrap::confirm_only;
use super::membership::lacking;
use crate::command::cursor::{Cursor, put_string};
use crate::command::{DecodeError, Failure};
use crate::fault::{EXIT_REMOVED, Faults};
use crate::host::Listener;
use crate::peer::{CallError, Caller, Channel, Method, Route};
use crate::raft::{ALIVE_MAX, ELECTION_MS_MIN, Incoming, MemberView, ProposeError, View};

/// How long a change of the membership may take.
const CHANGE_BOUND: Duration = Duration::from_secs(10);
/// How long a leader that is to go tries to hand over.
const HAND_OVER_BOUND: Duration = Duration::from_secs(5);
/// How long a request for a removal may take, the search for a leader included.
const REMOVE_BOUND: Duration = Duration::from_secs(12);
/// How long voters that are needed may be silent before a removal is refused for it.
const SILENCE_BOUND: Duration = Duration::from_secs(3);
/// Pause before the next attempt.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
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
enum RemovalReply {
    Removed,
    /// Ask again.
    Later(String),
    Refused(String),
    /// It may happen yet.
    Unknown(String),
    /// There is no such member.
    Absent(String),
    /// Too few of the other voters answer now.
    Silent(String),
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
enum RemovalStep {
    HandOver,
    RemoveLearner(u64),
    SetVoters(BTreeSet<u64>),
}

impl Cluster {
    /// Takes a member out of the cluster, by its name or its id (16 hexadecimal digits).
    ///
    /// # Errors
    /// See [`RemoveError`].
    pub async fn remove(&self, who: &str) -> Result<(), RemoveError> {
        let refused = |reason| Err(RemoveError::Refused(reason));
        let failed = |failure| Err(RemoveError::Failed(failure));
        if who.len() > TEXT_BYTES_MAX {
            return refused(format!("no member has a name of {} bytes", who.len()));
        }
        let begun = Instant::now();
        let deadline = begun + REMOVE_BOUND;
        let mut who = who.to_owned();
        let mut is_begun = false;
        loop {
            let view = self.consensus.view();
            let known = view.leader.and_then(|_| find(&view, &who).ok());
            let reply = self.remove_once(&view, &who, deadline).await;
            match reply {
                RemovalReply::Removed => return Ok(()),
                RemovalReply::Absent(_) if is_begun => return Ok(()), // I3
                RemovalReply::Refused(reason) | RemovalReply::Absent(reason) => {
                    return refused(reason);
                }
                RemovalReply::Unknown(reason) => return failed(self.unknown(&reason)),
                RemovalReply::Silent(reason) if begun.elapsed() >= SILENCE_BOUND => {
                    return refused(reason);
                }
                RemovalReply::Silent(_) => {}
                RemovalReply::Later(reason) if Instant::now() + RETRY_PAUSE >= deadline => {
                    return failed(Failure::NoLeader { reason });
                }
                RemovalReply::Later(_) => {
                    if !is_begun
                        && !view.is_leader
                        && let Some(reason) = self.no_majority(&view).await
                    {
                        return refused(reason);
                    }
                    if let Some(id) = known {
                        (who, is_begun) = (format!("{id:016x}"), true); // I3
                    }
                }
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Asks whoever leads as this member has it.
    async fn remove_once(&self, view: &View, who: &str, deadline: Instant) -> RemovalReply {
        if view.is_leader {
            return self.remove_here(who, deadline).await;
        }
        let leader = view.leader.and_then(|id| Some((id, view.members.get(&id)?)));
        let Some((id, leader)) = leader else {
            return RemovalReply::Later("no leader is known".into());
        };
        let bound = deadline.saturating_duration_since(Instant::now());
        let body = encode_remove(who).into();
        reply_of(self.channel(id, &leader.member).call(Method::Remove, body, bound).await)
    }

    async fn remove_here(&self, who: &str, deadline: Instant) -> RemovalReply {
        let consensus = &self.consensus;
        let deadline = deadline.min(Instant::now() + CHANGE_BOUND);
        let Ok(_alone) = timeout_at(deadline, consensus.alone()).await else {
            return RemovalReply::Later("the membership is just being changed".into());
        };
        let view = consensus.view();
        if !view.is_leader {
            return RemovalReply::Later("the leader has changed".into());
        }
        let step = match step(&view, consensus.member_id(), who) {
            Ok(step) => step,
            Err(_) if !consensus.has_led_for(ALIVE_MAX) => {
                return RemovalReply::Later(
                    "the leader is new and has not heard of all members".into(),
                );
            }
            Err(RemovalReply::Silent(reason)) if self.are_gone(&view) => {
                return RemovalReply::Refused(reason);
            }
            Err(reply) => return reply,
        };
        tracing::info!(member = who, ?step, "a member is to be removed");
        let changing = async {
            match step {
                RemovalStep::HandOver => {
                    consensus.hand_over(HAND_OVER_BOUND).await;
                    RemovalReply::Later("the leader hands over, for it is to go".into())
                }
                RemovalStep::RemoveLearner(id) => changed(consensus.remove_learner(id).await),
                RemovalStep::SetVoters(voters) => changed(consensus.set_voters(voters).await),
            }
        };
        let late = || RemovalReply::Unknown("the change of the membership takes long".into());
        timeout_at(deadline, changing).await.unwrap_or_else(|_| late())
    }

    /// True if none of the voters that do not answer has answered for so long that it may soon.
    fn are_gone(&self, view: &View) -> bool {
        let consensus = &self.consensus;
        view.goal_voters.iter().filter(|id| **id != consensus.member_id()).all(|id| {
            let is_alive = view.members.get(id).and_then(|member| member.silent_for);
            is_alive.is_some_and(|silent| silent < ALIVE_MAX)
                || consensus.is_silent(*id, SILENCE_BOUND) == Some(true)
        })
    }

    /// Why nobody can lead, if too few voters answer this member for that.
    async fn no_majority(&self, view: &View) -> Option<String> {
        let (caller, me) = (self.consensus.caller(), self.consensus.member_id());
        let asked = view.goal_voters.iter().filter(|id| **id != me).filter_map(|id| {
            let address = self.consensus.address_of(*id, &view.members.get(id)?.member);
            Some(async move {
                let who = caller.who_is_at(&address, *id).await;
                who.is_ok_and(|who| who.member_id == *id)
            })
        });
        let others = join_all(asked).await.into_iter().filter(|answers| *answers).count();
        let count = view.goal_voters.len();
        let alive = others + usize::from(view.goal_voters.contains(&me));
        (alive <= count / 2).then(|| {
            format!(
                "{alive} of {count} voters run{}, which is no majority: nobody can lead, and no \
                 member be removed; start the others first",
                if alive == 1 { "s" } else { "" }
            )
        })
    }

    /// Answers another member's request for a removal. It is not passed on again. One that is not
    /// believed may be anybody who listens, under an id that he drew: he takes out that one alone.
    pub(super) async fn answer_remove(&self, incoming: &Incoming) -> Vec<u8> {
        let asker = format!("{:016x}", incoming.from);
        let reply = match decode_remove(incoming.body.clone()) {
            Ok(who) if !incoming.is_believed && who != asker => RemovalReply::Refused(format!(
                "member {asker} is not known where it is, and can have no other removed; ask another \
                 member"
            )),
            Ok(who) => self.remove_here(&who, Instant::now() + CHANGE_BOUND).await,
            Err(error) => RemovalReply::Refused(error.to_string()),
        };
        encode_reply(&reply)
    }

    /// Whether this member belongs to its cluster, as its leader has it.
    pub async fn standing(&self) -> Standing {
        let (view, me) = (self.consensus.view(), self.consensus.member_id());
        if view.is_leader {
            return self.standing_here(me).await;
        }
        let body = Bytes::copy_from_slice(&me.to_le_bytes());
        for (id, other) in view.members.iter().filter(|(id, _)| **id != me) {
            let asked = self.channel(*id, &other.member);
            let answer = asked.call(Method::Standing, body.clone(), STANDING_BOUND).await;
            let standing = answer.ok().and_then(|body| decode_standing(body).ok());
            if let Some(known) = standing.filter(|standing| *standing != Standing::Unknown) {
                return known;
            }
        }
        Standing::Unknown
    }

    async fn standing_here(&self, id: u64) -> Standing {
        let consensus = &self.consensus;
        if consensus.read_index(STANDING_BOUND).await.is_err() {
            return Standing::Unknown; // I2
        }
        if consensus.has_member(id) {
            Standing::Member(consensus.replica().applied_index())
        } else {
            Standing::Removed
        }
    }

    /// Answers a member that asks for its standing, through the leader if that is another.
    pub(super) async fn answer_standing(&self, from: u64, body: Bytes) -> Vec<u8> {
        let Ok(id) = decode_member_id(body.clone()) else {
            return encode_standing(Standing::Unknown);
        };
        let view = self.consensus.view();
        if view.is_leader {
            return encode_standing(self.standing_here(id).await);
        }
        let leader = view.leader.and_then(|leader| Some((leader, view.members.get(&leader)?)));
        // Only what comes from the member itself is passed on.
        let Some((leader, known)) = leader.filter(|(leader, _)| from == id && *leader != id) else {
            return encode_standing(Standing::Unknown);
        };
        let asked = self.channel(leader, &known.member);
        let answer = asked.call(Method::Standing, body, STANDING_BOUND).await;
        let standing = answer.ok().and_then(|body| decode_standing(body).ok());
        encode_standing(standing.unwrap_or(Standing::Unknown))
    }
}

/// Stops this member, by a fault, once its cluster has gone on without it.
pub async fn watch_standing(cluster: Arc<Cluster>, faults: Faults, directory: String) {
    let silence = Duration::from_millis(ELECTION_MS_MIN);
    loop {
        tokio::time::sleep(STANDING_PERIOD).await;
        let consensus = &cluster.consensus;
        if consensus.view().is_leader || consensus.heard_within(silence) {
            continue;
        }
        if cluster.standing().await == Standing::Removed {
            let reason = format!(
                "this member was removed from its cluster, which goes on without it; to take it in \
                 again move {directory} away and start it with -join ADDRESS, naming a running \
                 member"
            );
            return faults.report_with(EXIT_REMOVED, reason);
        }
    }
}

/// Asks members for the removal of one that does not run, in its own name. They ask back at the
/// address that it had, where the listener is.
///
/// # Errors
/// See [`RemoveError`]; the last member's word.
pub async fn remove_from_outside(
    caller: Arc<Caller>,
    listener: Listener,
    addresses: &[String],
) -> Result<(), RemoveError> {
    tokio::select! {
        removed = ask_for_removal(&caller, addresses) => removed,
        () = confirm_only(listener, caller.clone()) => unreachable!("it answers until it is dropped"),
    }
}

async fn ask_for_removal(caller: &Arc<Caller>, addresses: &[String]) -> Result<(), RemoveError> {
    let who = format!("{:016x}", caller.me().member_id);
    let deadline = Instant::now() + REMOVE_BOUND;
    let mut last = "no member is known".to_owned();
    loop {
        for address in addresses {
            let channel = Channel::new(caller.clone(), Route::to_address(address.clone()));
            let body = encode_remove(&who).into();
            let bound = deadline.saturating_duration_since(Instant::now());
            match reply_of(channel.call(Method::Remove, body, bound.min(CHANGE_BOUND)).await) {
                RemovalReply::Removed | RemovalReply::Absent(_) => return Ok(()),
                RemovalReply::Refused(reason) => return Err(RemoveError::Refused(reason)),
                RemovalReply::Later(reason)
                | RemovalReply::Unknown(reason)
                | RemovalReply::Silent(reason) => {
                    last = reason;
                }
            }
        }
        if Instant::now() >= deadline {
            return Err(RemoveError::Failed(Failure::NoLeader { reason: last }));
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// What the leader does to remove a member, or why it does not.
fn step(view: &View, me: u64, who: &str) -> Result<RemovalStep, RemovalReply> {
    let id = find(view, who)?;
    if view.is_joint {
        return Err(RemovalReply::Later("another change of the membership is half way".into()));
    }
    let mut voters = view.goal_voters.clone();
    if !voters.remove(&id) {
        let reason = lacking(view, me, &voters);
        return reason.map_or(Ok(RemovalStep::RemoveLearner(id)), |reason| {
            Err(RemovalReply::Silent(reason))
        });
    }
    if voters.is_empty() {
        let reason = format!("{who} is the last voter: without it there is no cluster");
        return Err(RemovalReply::Refused(reason));
    }
    let answers = |voter: &&u64| {
        let silent_for = view.members.get(voter).and_then(|member| member.silent_for);
        **voter == me || silent_for.is_some_and(|silent| silent < ALIVE_MAX)
    };
    let (alive, count) = (voters.iter().filter(answers).count(), voters.len());
    if alive <= count / 2 {
        return Err(RemovalReply::Silent(format!(
            "without {who} {alive} of {count} voters would answer, which is no majority: start the \
             others first, or remove one that does not run"
        ))); // I1
    }
    if let Some(reason) = lacking(view, me, &voters) {
        return Err(RemovalReply::Silent(format!("{who} cannot be removed: {reason}"))); // I1
    }
    Ok(if id == me { RemovalStep::HandOver } else { RemovalStep::SetVoters(voters) })
}

/// The member of a name or an id.
fn find(view: &View, who: &str) -> Result<u64, RemovalReply> {
    let is_it =
        |(id, known): &(&u64, &MemberView)| known.member.name == who || format!("{id:016x}") == who;
    let found: Vec<u64> = view.members.iter().filter(is_it).map(|(id, _)| *id).collect();
    match *found {
        [id] => Ok(id),
        [] => {
            let names: Vec<&str> =
                view.members.values().map(|known| known.member.name.as_str()).collect();
            let reason = format!("no member is called `{who}`; there are {}", names.join(", "));
            Err(RemovalReply::Absent(reason))
        }
        _ => {
            let ids: Vec<String> = found.iter().map(|id| format!("{id:016x}")).collect();
            let ids = ids.join(", ");
            let reason = format!("several members are called {who}: name one by its id, {ids}");
            Err(RemovalReply::Refused(reason))
        }
    }
}

fn changed(result: Result<(), ProposeError>) -> RemovalReply {
    match result {
        Ok(()) => RemovalReply::Removed,
        Err(ProposeError::NotLeader { .. }) => RemovalReply::Later("the leader has changed".into()),
        Err(ProposeError::Failed(failure @ Failure::Unknown { .. })) => {
            RemovalReply::Unknown(failure.to_string())
        }
        Err(ProposeError::Failed(failure)) => RemovalReply::Later(failure.to_string()),
    }
}

fn reply_of(answer: Result<Bytes, CallError>) -> RemovalReply {
    match answer {
        Ok(body) => {
            decode_reply(body).unwrap_or_else(|error| RemovalReply::Unknown(error.to_string()))
        }
        Err(error @ CallError::NotSent { .. }) => RemovalReply::Later(crate::fault::chain(&error)),
        Err(error @ CallError::Lost { .. }) => RemovalReply::Unknown(error.to_string()),
    }
}

fn encode_remove(who: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_string(&mut out, who);
    out
}

fn decode_remove(body: Bytes) -> Result<String, DecodeError> {
    let mut cursor = Cursor::new(body);
    let who = cursor.string(TEXT_BYTES_MAX)?;
    cursor.finish()?;
    Ok(who)
}

fn encode_reply(reply: &RemovalReply) -> Vec<u8> {
    let (code, reason) = match reply {
        RemovalReply::Removed => (0, ""),
        RemovalReply::Later(reason) => (1, reason.as_str()),
        RemovalReply::Refused(reason) => (2, reason.as_str()),
        RemovalReply::Unknown(reason) => (3, reason.as_str()),
        RemovalReply::Absent(reason) => (4, reason.as_str()),
        RemovalReply::Silent(reason) => (5, reason.as_str()),
    };
    let mut out = vec![code];
    let end = reason.floor_char_boundary(TEXT_BYTES_MAX);
    put_string(&mut out, reason.get(..end).unwrap_or_default());
    out
}

fn decode_reply(body: Bytes) -> Result<RemovalReply, DecodeError> {
    let mut cursor = Cursor::new(body);
    let (code, reason) = (cursor.u8()?, cursor.string(TEXT_BYTES_MAX)?);
    cursor.finish()?;
    match code {
        0 => Ok(RemovalReply::Removed),
        1 => Ok(RemovalReply::Later(reason)),
        2 => Ok(RemovalReply::Refused(reason)),
        3 => Ok(RemovalReply::Unknown(reason)),
        4 => Ok(RemovalReply::Absent(reason)),
        5 => Ok(RemovalReply::Silent(reason)),
        _ => Err(cursor.error("unknown answer to a removal")),
    }
}

fn decode_member_id(body: Bytes) -> Result<u64, DecodeError> {
    let mut cursor = Cursor::new(body);
    let id = cursor.u64()?;
    cursor.finish()?;
    Ok(id)
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
            Err(
                RemovalReply::Refused(reason)
                | RemovalReply::Absent(reason)
                | RemovalReply::Silent(reason),
            ) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_member_is_named_by_its_name_or_its_id() {
        assert_eq!(step(&four(), 1, "b"), Ok(RemovalStep::SetVoters(BTreeSet::from([1, 3]))));
        let by_id = step(&four(), 1, "0000000000000002");
        assert_eq!(by_id, Ok(RemovalStep::SetVoters(BTreeSet::from([1, 3]))));
        assert_eq!(step(&four(), 1, "d"), Ok(RemovalStep::RemoveLearner(4)));
        assert_eq!(step(&four(), 1, "a"), Ok(RemovalStep::HandOver));
        assert_eq!(refused(&four(), "e"), "no member is called `e`; there are a, b, c, d");
        assert!(matches!(step(&four(), 1, "e"), Err(RemovalReply::Absent(_))));
        let mut twins = four();
        twins.members.insert(5, member("d", false, None));
        assert!(refused(&twins, "d").contains("0000000000000004, 0000000000000005"));
    }

    #[test]
    fn the_last_voter_and_those_whose_others_do_not_answer_stay() {
        let one = view(vec![(1, member("a", true, None)), (4, member("d", false, None))]);
        assert!(refused(&one, "a").contains("a is the last voter"));
        assert_eq!(step(&one, 1, "d"), Ok(RemovalStep::RemoveLearner(4)));
        let mut silent = four();
        silent.members.get_mut(&3).unwrap().silent_for = Some(Duration::from_mins(1));
        assert!(refused(&silent, "b").contains("without b 1 of 2 voters would answer"));
        assert!(
            matches!(step(&silent, 1, "b"), Err(RemovalReply::Silent(_))),
            "they may answer soon"
        );
        assert!(refused(&silent, "a").contains("without a 1 of 2 voters would answer"));
        assert_eq!(step(&silent, 1, "c"), Ok(RemovalStep::SetVoters(BTreeSet::from([1, 2]))));
    }

    /// The change itself needs both: nothing is begun that could never be committed.
    #[test]
    fn of_two_voters_none_is_removed_while_one_is_dead() {
        let mut two = view(vec![
            (1, member("a", true, Some(10_000))),
            (2, member("b", true, Some(10_000))),
            (3, member("c", false, Some(10_000))),
        ]);
        assert_eq!(step(&two, 1, "b"), Ok(RemovalStep::SetVoters(BTreeSet::from([1]))));
        two.members.get_mut(&2).unwrap().silent_for = Some(Duration::from_mins(1));
        assert!(refused(&two, "b").contains("1 of 2 voters answers, which is no majority"));
        assert!(refused(&two, "c").contains("1 of 2 voters answers"));
        assert!(refused(&two, "a").contains("without a 0 of 1 voters would answer"));
    }

    #[test]
    fn nothing_is_changed_while_a_change_is_half_way() {
        let mut half = four();
        half.is_joint = true;
        assert!(matches!(step(&half, 1, "b"), Err(RemovalReply::Later(_))));
    }

    #[test]
    fn answers_survive_their_bytes() {
        let text = || "why".to_owned();
        let with_reasons = [
            RemovalReply::Later,
            RemovalReply::Refused,
            RemovalReply::Unknown,
            RemovalReply::Absent,
            RemovalReply::Silent,
        ];
        let with_reasons = with_reasons.map(|reply| reply(text()));
        for reply in [RemovalReply::Removed].into_iter().chain(with_reasons) {
            assert_eq!(decode_reply(encode_reply(&reply).into()).unwrap(), reply);
        }
        for standing in [Standing::Unknown, Standing::Member(7), Standing::Removed] {
            assert_eq!(decode_standing(encode_standing(standing).into()).unwrap(), standing);
        }
        assert!(decode_reply(Bytes::from_static(&[9, 0, 0])).is_err());
        assert!(decode_standing(Bytes::from_static(&[1])).is_err());
    }
}
