//! Keeps the membership as it is meant to be, on whichever member leads.
//!
//! Called by `node`; calls `raft`. What a member is meant to be stands in its record, so a new
//! leader goes on where the old one stopped (PITFALLS 23). Invariants:
//!
//! - I1: a member that is meant to follow for ever never becomes a voter.
//! - I2: a member takes an old one's place only when it has caught up and the old one is silent
//!   (PITFALLS 15), in one joint change.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::raft::{ALIVE_MAX, Consensus, ELECTION_MS_MAX, MemberView, Role, View};

/// How often the leader looks.
const PERIOD: Duration = Duration::from_millis(200);
/// A learner this many entries behind the end of the log has caught up.
const LAG_MAX: u64 = 256;
/// The same of a learner for ever, to which entries are sent in large frames.
const LEARNER_LAG_MAX: u64 = 65_536;
/// How long a change may take before the leader looks again.
const CHANGE_BOUND: Duration = Duration::from_secs(10);

/// What is to be changed next.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Voters(BTreeSet<u64>),
    RemoveLearner(u64),
}

/// Promotes and replaces members while this one leads, until the task is dropped.
pub async fn keep_membership(consensus: Arc<Consensus>) {
    loop {
        consensus.changed(PERIOD).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let _alone = consensus.alone().await;
        let view = consensus.view();
        if !view.is_leader {
            continue;
        }
        let silence = Duration::from_millis(ELECTION_MS_MAX);
        let change = next_change(&view, |id| consensus.is_silent(id, silence) == Some(true));
        let Some(change) = change else { continue };
        tracing::info!("changing the membership: {}", words(&change, &view));
        let changing = async {
            match change {
                Change::Voters(voters) => consensus.set_voters(voters).await,
                Change::RemoveLearner(id) => consensus.remove_learner(id).await,
            }
        };
        match tokio::time::timeout(CHANGE_BOUND, changing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(?error, "the membership was not changed"),
            Err(_) => tracing::warn!("a membership change takes long"),
        }
    }
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
    }
}

fn next_change(view: &View, is_silent: impl Fn(u64) -> bool) -> Option<Change> {
    let voters = &view.goal_voters;
    if view.is_joint {
        // A leader died half way: the change is completed as it was meant.
        return Some(Change::Voters(voters.clone()));
    }
    for (id, learner) in view.members.iter().filter(|(_, member)| !member.is_voter) {
        let namesake = |other: &(u64, &MemberView)| {
            other.0 != *id && other.1.member.name == learner.member.name
        };
        let all = || view.members.iter().map(|(id, member)| (*id, member));
        let old: Vec<u64> = all().filter(namesake).map(|(id, _)| id).collect();
        let lag_max = match learner.member.role {
            Role::Voter => LAG_MAX,
            Role::Learner => LEARNER_LAG_MAX,
        };
        let has_caught_up = learner
            .matched
            .is_some_and(|matched| matched + lag_max >= view.last_log.unwrap_or_default());
        let is_alive = learner.silent_for.is_some_and(|silent| silent < ALIVE_MAX);
        if !has_caught_up || !is_alive {
            continue;
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
    use super::*;
    use crate::raft::Member;

    pub(in super::super) fn member(name: &str, is_voter: bool, matched: Option<u64>) -> MemberView {
        let member = Member { name: name.into(), ..Member::default() };
        let silent_for = Some(Duration::from_millis(100));
        MemberView { member, is_voter, matched, silent_for }
    }

    pub(in super::super) fn view(members: Vec<(u64, MemberView)>) -> View {
        let voters = members.iter().filter(|(_, member)| member.is_voter).map(|(id, _)| *id);
        let goal_voters = voters.collect();
        View {
            term: 1,
            leader: Some(1),
            is_leader: true,
            members: members.into_iter().collect(),
            is_joint: false,
            goal_voters,
            last_log: Some(10_000),
            committed: Some(10_000),
            checkpoint: None,
            purged: None,
        }
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
        members[2].1.matched = Some(9_000);
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
        members[3].1.matched = Some(10_000 - 2 * LAG_MAX);
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
