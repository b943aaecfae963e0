//! What a leader does next for an order that was given to it, or why it does nothing: decided from
//! what it knows of the members, without touching anything. Called by `orders`. Invariants:
//!
//! - I1: no vote is taken away unless a majority of the voters, and of the voters that remain,
//!   answers: otherwise neither the change nor any later entry could ever be committed.
//! - I2: whoever takes over a vote has caught up.

use std::collections::BTreeSet;

use super::membership::{answering, answers, is_level, lacking};
use super::orders::{Order, OrderReply};
use crate::peer::{Invitation, Role};
use crate::raft::{MemberView, View};

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LeaderStep {
    /// Nothing: it is so already.
    Nothing,
    /// This leader is to go: another leads first.
    HandOver,
    /// This one is to lead.
    HandOverTo(u64),
    /// Any other is to lead.
    HandOverToAny,
    RemoveLearner(u64),
    SetVoters(BTreeSet<u64>),
    /// `keep_membership` does the rest.
    SetRole(u64, Role),
    /// The same; then the order goes on.
    SetRoleFirst(u64, Role),
    /// A join token is noted in this leader's record.
    NoteInvitation(Invitation),
    /// All join tokens leave the records of members.
    ForgetInvitations,
    /// So many slots, if all have room for them.
    Resize(u64),
}

/// The next step of an order for a leader with this id.
pub(super) fn step(view: &View, me: u64, order: &Order) -> Result<LeaderStep, OrderReply> {
    let half_way = || OrderReply::Later("another change of the membership is half way".into());
    match order {
        Order::Lead(who) => lead(view, me, who.as_deref()),
        // These change records alone, and look at the newest themselves.
        Order::Invite(invitation) => Ok(LeaderStep::NoteInvitation(invitation.clone())),
        Order::Uninvite => Ok(LeaderStep::ForgetInvitations),
        Order::Resize(slot_count) => Ok(LeaderStep::Resize(*slot_count)),
        _ if view.is_joint => Err(half_way()),
        Order::Remove(who) => remove(view, me, who),
        Order::Promote(who) => promote(view, me, who),
        Order::Demote(who) => demote(view, me, who),
        Order::Replace { old, new } => replace(view, me, old, new),
    }
}

fn remove(view: &View, me: u64, who: &str) -> Result<LeaderStep, OrderReply> {
    let id = find(view, who)?;
    let mut voters = view.goal_voters.clone();
    if !voters.remove(&id) {
        return can_change(view, me, &voters).map(|()| LeaderStep::RemoveLearner(id));
    }
    can_do_without(view, me, who, &voters)?;
    Ok(if id == me { LeaderStep::HandOver } else { LeaderStep::SetVoters(voters) })
}

fn promote(view: &View, me: u64, who: &str) -> Result<LeaderStep, OrderReply> {
    let id = find(view, who)?;
    match role(view, id) {
        Role::Voter => Ok(LeaderStep::Nothing),
        Role::Learner => Err(OrderReply::Refused(format!(
            "{who} is a logger: it holds no values, and never votes"
        ))),
        Role::Standby => {
            can_change(view, me, &view.goal_voters).map(|()| LeaderStep::SetRole(id, Role::Voter))
        }
    }
}

fn demote(view: &View, me: u64, who: &str) -> Result<LeaderStep, OrderReply> {
    let id = find(view, who)?;
    match role(view, id) {
        Role::Standby => return Ok(LeaderStep::Nothing),
        Role::Learner => {
            let reason = format!("{who} is a logger: it never votes, and there is no vote to take");
            return Err(OrderReply::Refused(reason));
        }
        Role::Voter => {}
    }
    let mut voters = view.goal_voters.clone();
    voters.retain(|voter| *voter != id && role(view, *voter) == Role::Voter);
    can_do_without(view, me, who, &voters)?;
    Ok(LeaderStep::SetRole(id, Role::Standby))
}

fn replace(view: &View, me: u64, old: &str, new: &str) -> Result<LeaderStep, OrderReply> {
    let (old_id, new_id) = (find(view, old)?, find(view, new)?);
    if old_id == new_id {
        return Err(OrderReply::Refused(format!("{old} and {new} are one member; name two")));
    }
    if role(view, new_id) == Role::Learner {
        return Err(OrderReply::Refused(format!("{new} is a logger, and can take over no vote")));
    }
    let mut voters = view.goal_voters.clone();
    if !voters.remove(&old_id) {
        let reason = format!("{old} does not vote: nothing is to be taken over; remove it");
        return Err(OrderReply::Refused(reason));
    }
    if role(view, new_id) == Role::Standby {
        can_change(view, me, &view.goal_voters)?;
        return Ok(LeaderStep::SetRoleFirst(new_id, Role::Voter));
    }
    if voters.insert(new_id) && !view.members.get(&new_id).is_some_and(|new| is_level(view, new)) {
        return Err(OrderReply::Silent(format!("{new} has not caught up yet, or does not answer")));
    }
    can_do_without(view, me, old, &voters)?;
    Ok(if old_id == me { LeaderStep::HandOver } else { LeaderStep::SetVoters(voters) })
}

fn lead(view: &View, me: u64, who: Option<&str>) -> Result<LeaderStep, OrderReply> {
    let Some(who) = who else {
        let mut others = view.goal_voters.iter().filter(|id| **id != me && may_lead(view, **id));
        return if others.any(|id| answers(view, me, *id)) {
            Ok(LeaderStep::HandOverToAny)
        } else {
            Err(OrderReply::Silent("no other voter answers".into()))
        };
    };
    let id = find(view, who)?;
    if id == me {
        return Ok(LeaderStep::Nothing);
    }
    if !view.goal_voters.contains(&id) || !may_lead(view, id) {
        return Err(OrderReply::Refused(format!("{who} does not vote, and cannot lead")));
    }
    if !answers(view, me, id) {
        return Err(OrderReply::Silent(format!("{who} does not answer")));
    }
    Ok(LeaderStep::HandOverTo(id))
}

/// False of a voter that is to lose its vote.
pub(super) fn may_lead(view: &View, id: u64) -> bool {
    role(view, id) == Role::Voter
}

fn role(view: &View, id: u64) -> Role {
    view.members.get(&id).map_or(Role::Voter, |known| known.member.role)
}

/// Whether a change to these voters could be committed. // I1
fn can_change(view: &View, me: u64, voters: &BTreeSet<u64>) -> Result<(), OrderReply> {
    lacking(view, me, voters).map_or(Ok(()), |reason| Err(OrderReply::Silent(reason)))
}

/// Whether these voters would do without a member. // I1
fn can_do_without(
    view: &View,
    me: u64,
    who: &str,
    voters: &BTreeSet<u64>,
) -> Result<(), OrderReply> {
    if voters.is_empty() {
        let reason = format!("{who} is the last voter: without it there is no cluster");
        return Err(OrderReply::Refused(reason));
    }
    let (alive, count) = (answering(view, me, voters).count(), voters.len());
    if alive <= count / 2 {
        return Err(OrderReply::Silent(format!(
            "without {who} {alive} of {count} voters would answer, which is no majority: start the \
             others first, or remove one that does not run"
        )));
    }
    lacking(view, me, voters).map_or(Ok(()), |reason| {
        Err(OrderReply::Silent(format!("{who} cannot be done without: {reason}")))
    })
}

/// The member of a name or an id.
pub(super) fn find(view: &View, who: &str) -> Result<u64, OrderReply> {
    let is_it =
        |(id, known): &(&u64, &MemberView)| known.member.name == who || format!("{id:016x}") == who;
    let found: Vec<u64> = view.members.iter().filter(is_it).map(|(id, _)| *id).collect();
    match *found {
        [id] => Ok(id),
        [] => {
            let mut names: Vec<&str> =
                view.members.values().map(|known| known.member.name.as_str()).collect();
            names.sort_unstable();
            let reason = format!("no member is called `{who}`; there are {}", names.join(", "));
            Err(OrderReply::Absent(reason))
        }
        _ => {
            let ids: Vec<String> = found.iter().map(|id| format!("{id:016x}")).collect();
            let ids = ids.join(", ");
            let reason = format!("several members are called {who}: name one by its id, {ids}");
            Err(OrderReply::Refused(reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::membership::tests::{member, view};
    use std::time::Duration;

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

    fn removed(view: &View, who: &str) -> Result<LeaderStep, OrderReply> {
        step(view, 1, &Order::Remove(who.into()))
    }

    fn refused(view: &View, who: &str) -> String {
        match removed(view, who) {
            Err(
                OrderReply::Refused(reason)
                | OrderReply::Absent(reason)
                | OrderReply::Silent(reason),
            ) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_member_is_named_by_its_name_or_its_id() {
        assert_eq!(removed(&four(), "b"), Ok(LeaderStep::SetVoters(BTreeSet::from([1, 3]))));
        let by_id = removed(&four(), "0000000000000002");
        assert_eq!(by_id, Ok(LeaderStep::SetVoters(BTreeSet::from([1, 3]))));
        assert_eq!(removed(&four(), "d"), Ok(LeaderStep::RemoveLearner(4)));
        assert_eq!(removed(&four(), "a"), Ok(LeaderStep::HandOver));
        assert_eq!(refused(&four(), "e"), "no member is called `e`; there are a, b, c, d");
        assert!(matches!(removed(&four(), "e"), Err(OrderReply::Absent(_))));
        let mut twins = four();
        twins.members.insert(5, member("d", false, None));
        assert!(refused(&twins, "d").contains("0000000000000004, 0000000000000005"));
    }

    #[test]
    fn the_last_voter_and_those_whose_others_do_not_answer_stay() {
        let one = view(vec![(1, member("a", true, None)), (4, member("d", false, None))]);
        assert!(refused(&one, "a").contains("a is the last voter"));
        assert_eq!(removed(&one, "d"), Ok(LeaderStep::RemoveLearner(4)));
        let mut silent = four();
        silent.members.get_mut(&3).unwrap().silent_for = Some(Duration::from_mins(1));
        assert!(refused(&silent, "b").contains("without b 1 of 2 voters would answer"));
        assert!(
            matches!(removed(&silent, "b"), Err(OrderReply::Silent(_))),
            "they may answer soon"
        );
        assert!(refused(&silent, "a").contains("without a 1 of 2 voters would answer"));
        assert_eq!(removed(&silent, "c"), Ok(LeaderStep::SetVoters(BTreeSet::from([1, 2]))));
    }

    /// The change itself needs both: nothing is begun that could never be committed.
    #[test]
    fn of_two_voters_none_is_removed_while_one_is_dead() {
        let mut two = view(vec![
            (1, member("a", true, Some(10_000))),
            (2, member("b", true, Some(10_000))),
            (3, member("c", false, Some(10_000))),
        ]);
        assert_eq!(removed(&two, "b"), Ok(LeaderStep::SetVoters(BTreeSet::from([1]))));
        two.members.get_mut(&2).unwrap().silent_for = Some(Duration::from_mins(1));
        assert!(refused(&two, "b").contains("1 of 2 voters answers, which is no majority"));
        assert!(refused(&two, "c").contains("1 of 2 voters answers"));
        assert!(refused(&two, "a").contains("without a 0 of 1 voters would answer"));
    }

    #[test]
    fn nothing_is_changed_while_a_change_is_half_way() {
        let mut half = four();
        half.is_joint = true;
        assert!(matches!(removed(&half, "b"), Err(OrderReply::Later(_))));
    }
}
