//! On the leader: makes learners voters, takes the votes of those that are not to vote any more, and
//! removes members whose place was taken.
//!
//! A member's record says whether it is to vote, so a new leader goes on where the old one
//! stopped (H23). Called by `node`; calls `raft`. Invariants:
//!
//! - I1: a member whose record says that it is not to vote never becomes a voter.
//! - I2: a new member takes the place of an old one with the same name only when the new one has
//!   caught up and the old one is silent (H15), in one joint change.
//! - I3: a learner becomes a voter only when it has followed for a while.
//! - I4: a change that cannot be committed is not begun, because it could not be taken back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::orders::HAND_OVER_BOUND;
use super::steps::may_lead;
use crate::peer::Role;
use crate::raft::{Consensus, MemberView, View};

/// How often the leader looks.
const PERIOD: Duration = Duration::from_millis(200);
/// A learner becomes a voter when it was level and alive at so many looks in a row, two seconds: one
/// that dies as soon as it has joined must not count as a voter already.
const LOOK_COUNT: u32 = 10;
/// A learner this many entries, of up to half a MiB each, behind the end of the log has caught up.
const LAG_MAX: u64 = 64;
/// The same of a learner for ever, to which entries are sent in large frames.
const LEARNER_LAG_MAX: u64 = 16_384;
/// How long a change may take before the leader looks again.
const CHANGE_BOUND: Duration = Duration::from_secs(10);
/// The pause after a change that was not made; it doubles.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What is to be changed next.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Voters(BTreeSet<u64>),
    RemoveLearner(u64),
    /// This leader is not to vote any more.
    HandOver,
}

/// At how many looks in a row each learner was level and alive.
#[derive(Debug, Default)]
struct Followed {
    looks: BTreeMap<u64, u32>,
}

impl Followed {
    fn look(&mut self, view: &View) {
        let learners = view.members.iter().filter(|(_, member)| !member.is_voter);
        let level = learners.filter(|(_, learner)| is_level(view, learner));
        let looks =
            level.map(|(id, _)| (*id, self.looks.get(id).map_or(1, |n| n.saturating_add(1))));
        self.looks = looks.collect();
    }

    fn is_long_enough(&self, id: u64) -> bool {
        self.looks.get(&id).is_some_and(|count| *count >= LOOK_COUNT)
    }
}

/// A change that was not made: it is not tried, nor spoken of, again and again.
#[derive(Debug)]
struct Failed {
    change: Change,
    reason: String,
    pause: Duration,
    until: Instant,
}

/// Promotes and replaces members while this one leads, until the task is dropped.
pub(super) async fn keep_membership(consensus: Arc<Consensus>) {
    let (mut followed, mut failed) = (Followed::default(), None);
    loop {
        tokio::time::sleep(PERIOD).await;
        let _alone = consensus.alone().await;
        let view = consensus.view();
        if !view.is_leader {
            (followed, failed) = (Followed::default(), None);
            continue;
        }
        followed.look(&view);
        let silence = consensus.timing().silence();
        let is_silent = |id| consensus.is_silent(id, silence) == Some(true);
        let change = next_change(&view, is_silent, |id| followed.is_long_enough(id));
        let Some(change) = change else {
            failed = None;
            continue;
        };
        let before = failed.take_if(|last: &mut Failed| last.change == change);
        if before.as_ref().is_some_and(|last| Instant::now() < last.until) {
            failed = before;
            continue;
        }
        let what = words(&change, &view);
        let Err(reason) = make(&consensus, &view, &change).await else {
            tracing::info!("the membership was changed: {what}");
            continue;
        };
        if before.as_ref().is_none_or(|last| last.reason != reason) {
            tracing::warn!("the membership is not changed yet ({what}): {reason}");
        }
        let pause = before.map_or(PAUSE_MIN, |last| (2 * last.pause).min(PAUSE_MAX));
        failed = Some(Failed { change, reason, pause, until: Instant::now() + pause });
    }
}

/// Makes a change, if it can be made now.
async fn make(consensus: &Consensus, view: &View, change: &Change) -> Result<(), String> {
    let next = match change {
        Change::Voters(voters) => voters,
        Change::RemoveLearner(_) | Change::HandOver => &view.goal_voters,
    };
    if let Some(reason) = lacking(view, consensus.member_id(), next) {
        return Err(reason);
    }
    let changing = async {
        match change {
            Change::Voters(voters) => {
                consensus.set_voters(voters.clone(), is_demotion(view, voters)).await
            }
            Change::HandOver => {
                consensus.hand_over_to(&|id| may_lead(view, id), HAND_OVER_BOUND).await;
                Ok(())
            }
            Change::RemoveLearner(id) => consensus.remove_learner(*id).await,
        }
    };
    match tokio::time::timeout(CHANGE_BOUND, changing).await {
        Ok(made) => made.map_err(|error| format!("{error:?}")),
        Err(_) => Err(format!("it takes longer than {} s", CHANGE_BOUND.as_secs())),
    }
}

/// Whether voters that are not among these go on as members without a vote. A change that was left
/// half way is looked at as a whole.
fn is_demotion(view: &View, next: &BTreeSet<u64>) -> bool {
    let mut leaving = view.configs.iter().flatten().filter(|voter| !next.contains(voter));
    leaving.any(|voter| !may_lead(view, *voter))
}

/// Why a change to these voters could not be committed now, if it could not: those that vote now, and
/// those that are to, have to agree with a majority each.
pub(super) fn lacking(view: &View, me: u64, next: &BTreeSet<u64>) -> Option<String> {
    view.configs.iter().chain([next]).find_map(|voters| {
        let (alive, count) = (answering(view, me, voters).count(), voters.len());
        (alive <= count / 2).then(|| {
            format!(
                "{alive} of {count} voters answer{}, which is no majority, and the membership is \
                 changed by one: start the others first",
                if alive == 1 { "s" } else { "" }
            )
        })
    })
}

/// Those of these voters that the leader hears.
pub(super) fn answering(view: &View, me: u64, voters: &BTreeSet<u64>) -> impl Iterator<Item = u64> {
    voters.iter().copied().filter(move |voter| answers(view, me, *voter))
}

/// Whether the leader, which is `me`, hears a member.
pub(super) fn answers(view: &View, me: u64, id: u64) -> bool {
    let silent_for = view.members.get(&id).and_then(|member| member.silent_for);
    id == me || silent_for.is_some_and(|silent| silent < view.alive)
}

/// What it costs that the leader stops now, if a member is half replaced or a change half way.
pub(super) fn cost_of_stopping(view: &View, me: u64) -> Option<String> {
    let is_old = |id: &u64, learner: &MemberView| {
        let member = view.members.get(id);
        member.is_some_and(|member| member.member.name == learner.member.name)
    };
    let replaced = view.members.values().find(|learner| {
        let is_new = !learner.is_voter && learner.member.role == Role::Voter;
        is_new && view.goal_voters.iter().any(|id| is_old(id, learner))
    });
    let what = match replaced {
        Some(learner) => format!("{} is half replaced", learner.member.name),
        None if view.is_joint => "a change of the voters is half way".to_owned(),
        None => return None,
    };
    let left = |voters: &BTreeSet<u64>| answering(view, me, voters).filter(|id| *id != me).count();
    let (left, count) = view.configs.iter().map(|voters| (left(voters), voters.len())).min_by_key(
        |(left, count)| {
            i64::try_from(2 * left).unwrap_or(i64::MAX) - i64::try_from(*count).unwrap_or(i64::MAX)
        },
    )?;
    let so = if left > count / 2 {
        "a majority, so the next leader goes on with it"
    } else {
        "no majority: nothing is written until this node, or the old member, runs again"
    };
    Some(format!("stopping while {what}: without this node {left} of {count} voters answer, {so}"))
}

/// The change in the names of those it is about.
fn words(change: &Change, view: &View) -> String {
    let name = |id: &u64| {
        let known = view.members.get(id).map(|member| member.member.name.clone());
        known.unwrap_or_else(|| format!("{id:016x}"))
    };
    match change {
        Change::Voters(voters) => {
            format!("voters {}", voters.iter().map(name).collect::<Vec<_>>().join(", "))
        }
        Change::RemoveLearner(id) => format!("without {}", name(id)),
        Change::HandOver => "another leads, for this one is not to vote any more".into(),
    }
}

/// True if a learner lacks next to nothing, and answers.
pub(super) fn is_level(view: &View, learner: &MemberView) -> bool {
    let lag_max = match learner.member.role {
        Role::Voter | Role::Standby => LAG_MAX,
        Role::Learner => LEARNER_LAG_MAX,
    };
    let has_caught_up = learner
        .matched
        .is_some_and(|held| view.last_log.unwrap_or_default().entries_since(held) <= lag_max);
    has_caught_up && learner.silent_for.is_some_and(|silent| silent < view.alive)
}

fn next_change(
    view: &View,
    is_silent: impl Fn(u64) -> bool,
    has_followed: impl Fn(u64) -> bool,
) -> Option<Change> {
    let voters = &view.goal_voters;
    if view.is_joint {
        // A leader died half way: the change is completed as it was meant.
        return Some(Change::Voters(voters.clone()));
    }
    if let Some(demoted) = voters.iter().find(|id| !may_lead(view, **id))
        && voters.iter().any(|id| may_lead(view, *id))
    {
        let mut next = voters.clone();
        next.remove(demoted);
        let leads = view.leader == Some(*demoted);
        return Some(if leads { Change::HandOver } else { Change::Voters(next) });
    }
    for (id, learner) in view.members.iter().filter(|(_, member)| !member.is_voter) {
        let namesake = |other: &(u64, &MemberView)| {
            other.0 != *id && other.1.member.name == learner.member.name
        };
        let all = || view.members.iter().map(|(id, member)| (*id, member));
        let old: Vec<u64> = all().filter(namesake).map(|(id, _)| id).collect();
        if !is_level(view, learner) || !has_followed(*id) {
            continue;
        }
        if learner.member.role == Role::Standby {
            continue; // I1
        }
        if learner.member.role == Role::Learner {
            // I1: it takes the place of a learner of its name, and never that of a voter.
            let gone = old.iter().find(|old| !voters.contains(old) && is_silent(**old));
            match gone {
                Some(gone) => return Some(Change::RemoveLearner(*gone)),
                None => continue,
            }
        }
        if old.iter().any(|old| !is_silent(*old)) {
            continue; // I2
        }
        if let Some(old) = old.iter().find(|old| !voters.contains(old)) {
            return Some(Change::RemoveLearner(*old));
        }
        let mut next = voters.clone();
        next.retain(|voter| !old.contains(voter));
        next.insert(*id);
        return Some(Change::Voters(next));
    }
    // Two voters of one name: one of them was to be replaced, and is gone once it is silent.
    let is_double = |id: u64| {
        let name = |id| view.members.get(&id).map(|member| &member.member.name);
        voters.iter().any(|other| *other != id && name(*other) == name(id) && !is_silent(*other))
    };
    let gone = voters.iter().find(|id| is_silent(**id) && is_double(**id))?;
    let mut next = voters.clone();
    next.remove(gone);
    Some(Change::Voters(next))
}

#[cfg(test)]
pub(super) mod tests {
    use diskstore_storage::{LogIndex, Term};

    use super::*;
    use crate::peer::Member;

    const ALIVE: Duration = Duration::from_secs(1);

    pub(in super::super) fn member(name: &str, is_voter: bool, matched: Option<u64>) -> MemberView {
        let matched = matched.map(LogIndex::new);
        let member = Member { name: name.into(), ..Member::default() };
        let silent_for = Some(Duration::from_millis(100));
        MemberView { member, is_voter, matched, silent_for }
    }

    pub(in super::super) fn view(members: Vec<(u64, MemberView)>) -> View {
        let voters = members.iter().filter(|(_, member)| member.is_voter).map(|(id, _)| *id);
        let goal_voters: BTreeSet<u64> = voters.collect();
        View {
            term: Term::new(1),
            leader: Some(1),
            is_leader: true,
            members: members.into_iter().collect(),
            is_joint: false,
            configs: vec![BTreeSet::clone(&goal_voters)],
            goal_voters,
            last_log: Some(LogIndex::new(10_000)),
            committed: Some(LogIndex::new(10_000)),
            checkpoint: None,
            purged: None,
            alive: ALIVE,
        }
    }

    /// The next change where learners have followed for long enough.
    fn next_change(view: &View, is_silent: impl Fn(u64) -> bool) -> Option<Change> {
        super::next_change(view, is_silent, |_| true)
    }

    fn three() -> Vec<(u64, MemberView)> {
        vec![
            (1, member("a", true, Some(10_000))),
            (2, member("b", true, Some(10_000))),
            (3, member("c", false, Some(9_990))),
        ]
    }

    #[test]
    fn a_learner_that_caught_up_becomes_a_voter() {
        let change = next_change(&view(three()), |_| false);
        assert_eq!(change, Some(Change::Voters(BTreeSet::from([1, 2, 3]))));
    }

    #[test]
    fn a_learner_that_lags_or_follows_for_ever_stays() {
        let mut members = three();
        members[2].1.matched = Some(LogIndex::new(9_000));
        assert_eq!(next_change(&view(members), |_| false), None);
        let mut members = three();
        members[2].1.matched = None;
        assert_eq!(next_change(&view(members), |_| false), None);
        let mut members = three();
        members[2].1.member.role = Role::Learner;
        assert_eq!(next_change(&view(members), |_| false), None);
        let mut members = three();
        (members[2].1.member.role, members[2].1.member.name) = (Role::Learner, "b".into());
        assert_eq!(next_change(&view(members), |id| id == 2), None, "b votes");
        let mut members = three();
        members[2].1.silent_for = Some(Duration::from_secs(2));
        assert_eq!(next_change(&view(members), |_| false), None, "it may be gone already");
    }

    #[test]
    fn a_voter_that_is_not_to_vote_any_more_follows_on() {
        let mut members = three();
        members[1].1.member.role = Role::Standby;
        members[2].1.matched = None;
        let next = BTreeSet::from([1]);
        let demoting = view(members.clone());
        assert_eq!(next_change(&demoting, |_| false), Some(Change::Voters(next.clone())));
        assert!(is_demotion(&demoting, &next) && !is_demotion(&view(three()), &next));
        let mut half = demoting.clone();
        (half.is_joint, half.goal_voters) = (true, next.clone());
        half.configs.push(next.clone());
        assert!(is_demotion(&half, &next), "whoever completes it keeps the member, too");
        members[0].1.member.role = Role::Standby;
        assert_eq!(next_change(&view(members.clone()), |_| false), None, "somebody has to vote");
        members[1].1.member.role = Role::Voter;
        assert_eq!(next_change(&view(members.clone()), |_| false), Some(Change::HandOver));
        members[0].1.is_voter = false;
        assert_eq!(next_change(&view(members), |_| false), None, "it is level, and stays so");
    }

    #[test]
    fn a_learner_counts_only_when_it_has_followed_for_a_while() {
        let view = view(three());
        let mut gone = view.clone();
        gone.members.get_mut(&3).unwrap().silent_for = Some(ALIVE);
        let mut followed = Followed::default();
        let change = |followed: &Followed| {
            super::next_change(&view, |_| false, |id| followed.is_long_enough(id))
        };
        for _ in 1..LOOK_COUNT {
            followed.look(&view);
            assert_eq!(change(&followed), None);
        }
        followed.look(&gone); // it begins anew
        for _ in 1..LOOK_COUNT {
            followed.look(&view);
            assert_eq!(change(&followed), None);
        }
        followed.look(&view);
        assert_eq!(change(&followed), Some(Change::Voters(BTreeSet::from([1, 2, 3]))));
    }

    #[test]
    fn what_no_majority_would_agree_to_is_not_begun() {
        let both = BTreeSet::from([1, 2]);
        let mut view = view(three());
        assert_eq!(lacking(&view, 1, &BTreeSet::from([1, 2, 3])), None);
        view.members.get_mut(&2).unwrap().silent_for = Some(ALIVE);
        let alone = BTreeSet::from([1]);
        for next in [&both, &alone, &BTreeSet::from([1, 2, 3])] {
            assert!(lacking(&view, 1, next).unwrap().starts_with("1 of 2 voters answers"));
        }
        view.configs = vec![alone.clone()];
        assert_eq!(lacking(&view, 1, &alone), None);
        assert!(lacking(&view, 1, &both).is_some(), "those that are to vote count, too");
    }

    #[test]
    fn a_leader_that_stops_half_way_says_what_that_costs() {
        let mut members = three();
        assert_eq!(cost_of_stopping(&view(members.clone()), 1), None, "it is a new member");
        members[2].1.member.name = "b".into();
        let said = cost_of_stopping(&view(members.clone()), 1).unwrap();
        assert!(said.contains("b is half replaced") && said.contains("1 of 2"), "{said}");
        assert!(said.contains("no majority"), "{said}");
        members.extend([(4, member("d", true, None)), (5, member("e", true, None))]);
        let said = cost_of_stopping(&view(members), 1).unwrap();
        assert!(said.contains("3 of 4 voters answer, a majority"), "{said}");
    }

    #[test]
    fn only_a_silent_namesake_is_replaced() {
        let mut members = three();
        members[2].1.member.name = "b".into();
        assert_eq!(next_change(&view(members.clone()), |_| false), None);
        let change = next_change(&view(members), |id| id == 2);
        assert_eq!(change, Some(Change::Voters(BTreeSet::from([1, 3]))));
    }

    #[test]
    fn a_stale_learner_of_the_same_name_goes_first() {
        let mut members = three();
        members.push((4, member("c", false, None)));
        assert_eq!(next_change(&view(members), |id| id == 4), Some(Change::RemoveLearner(4)));
    }

    #[test]
    fn a_learner_for_ever_takes_the_place_of_a_silent_learner_of_its_name() {
        let mut members = three();
        members.push((4, member("c", false, Some(10_000))));
        for (_, member) in members.iter_mut().filter(|(_, member)| !member.is_voter) {
            member.member.role = Role::Learner;
        }
        assert_eq!(next_change(&view(members.clone()), |_| false), None);
        let without_old = Some(Change::RemoveLearner(3));
        assert_eq!(next_change(&view(members.clone()), |id| id == 3), without_old);
        // Under load it is always behind by what is being gathered for it.
        members[3].1.matched = Some(LogIndex::new(10_000 - 2 * LAG_MAX));
        assert_eq!(next_change(&view(members), |id| id == 3), without_old);
    }

    #[test]
    fn of_two_voters_with_one_name_the_silent_one_goes() {
        let mut members = three();
        members[2].1 = member("b", true, Some(10_000));
        assert_eq!(next_change(&view(members.clone()), |_| false), None);
        let change = next_change(&view(members), |id| id == 2);
        assert_eq!(change, Some(Change::Voters(BTreeSet::from([1, 3]))));
    }

    #[test]
    fn a_change_left_half_way_is_completed() {
        let mut view = view(three());
        view.is_joint = true;
        view.goal_voters = BTreeSet::from([1, 3]);
        assert_eq!(next_change(&view, |_| false), Some(Change::Voters(BTreeSet::from([1, 3]))));
    }
}
