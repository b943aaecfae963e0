//! Whether a cluster is healthy: the first line of `diskstore status`. Asks every member itself,
//! since a node's knowledge of the others may be old.
//!
//! - I1: all members are asked at once, and answers are taken for a bounded time.
//! - I2: a member counts as answering only if the answer names its own cluster and member id. An
//!   answer of another node at its address does not count.
//! - I3: unknown facts are shown as unknown, and never count as healthy.

use std::collections::BTreeMap;

use serde::Serialize;

use super::dialling::Dialling;
use super::survey::{ASKED_COUNT_MAX, visit_all};
use crate::status::{MemberStatus, RefusalStatus, Status};

/// What the members say of their cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Health {
    /// True if nothing is wrong that is known of.
    pub(super) is_healthy: bool,
    /// True if a majority answers and one leads it.
    pub(super) has_majority: bool,
    /// The first line of a status.
    pub(super) summary: String,
    /// How many members vote.
    pub(super) voters: usize,
    /// How many of them answer.
    pub(super) answering: usize,
    /// How many more of them may go before nothing is written any more.
    pub(super) can_lose: usize,
    /// Everything else that is wrong, one sentence each.
    pub(super) troubles: Vec<String>,
}

/// Asks every member that `status` names for its own; that one has answered already.
pub(super) fn ask_all(status: &Status, dialling: &Dialling) -> BTreeMap<String, Status> {
    let mut answers = BTreeMap::from([(status.member_id.clone(), status.clone())]);
    let others = status.members.iter().filter(|member| member.id != status.member_id);
    let others = others.filter(|member| !member.client.is_empty()).take(ASKED_COUNT_MAX);
    let visits = visit_all(others.map(|member| member.client.clone()).collect(), dialling);
    let answered = visits.into_iter().filter_map(|visit| visit.outcome.ok());
    let own = answered.filter(|seen| seen.status.cluster_id == status.cluster_id); // I2
    answers.extend(own.map(|seen| (seen.status.member_id.clone(), seen.status)));
    answers
}

impl Health {
    /// What these answers, by the ids of the members that gave them, come to.
    pub(super) fn of(answers: &BTreeMap<String, Status>) -> Health {
        // Who knows the newest membership: a member that was cut off has an old one.
        let newest = answers.values().max_by_key(|status| (status.term, status.committed));
        let members = newest.map_or(&[][..], |status| &status.members);
        let voters: Vec<&MemberStatus> =
            members.iter().filter(|member| member.role != "learner").collect();
        let silent: Vec<&str> = voters
            .iter()
            .filter(|voter| !answers.contains_key(&voter.id))
            .map(|voter| voter.name.as_str())
            .collect();
        let (answering, majority) = (voters.len() - silent.len(), voters.len() / 2 + 1);
        let leader = answers
            .values()
            .filter(|status| status.role == "leader" && status.no_majority_s.is_none())
            .max_by_key(|status| status.term);
        let mut troubles = Vec::new();
        for status in answers.values() {
            troubles.extend(troubles_of(status));
        }
        troubles.extend(leader.into_iter().flat_map(|leader| unheard(leader, answers)));
        let has_majority = leader.is_some() && answering >= majority;
        let (answer, names) =
            (if answering == 1 { "answers" } else { "answer" }, silent.join(", "));
        let are = if silent.len() == 1 { "does" } else { "do" };
        let missing =
            if silent.is_empty() { String::new() } else { format!("; {names} {are} not answer") };
        let can_lose = if has_majority { answering - majority } else { 0 };
        let summary = if has_majority {
            format!("{answering} of {} voters {answer}, can lose {can_lose}{missing}", voters.len())
        } else if voters.is_empty() {
            "no voters are known here".to_owned() // I3
        } else {
            let since = answers.values().filter_map(|status| status.no_majority_s).max();
            let since = since.map_or("now".to_owned(), super::table::duration_ago);
            format!("no majority: writes are refused since {since}{missing}")
        };
        let is_healthy = has_majority && silent.is_empty() && troubles.is_empty();
        Health {
            is_healthy,
            has_majority,
            summary,
            voters: voters.len(),
            answering,
            can_lose,
            troubles,
        }
    }
}

/// What a member says is wrong with itself.
fn troubles_of(status: &Status) -> Vec<String> {
    let mut troubles = Vec::new();
    if status.damaged_slots > 0 {
        troubles.push(format!("{} has {} damaged slots", status.name, status.damaged_slots));
    }
    let refused = |refusal: &RefusalStatus| {
        let (name, RefusalStatus { reason, since_s, doing, .. }) = (&status.name, refusal);
        format!("{name} refuses {reason}, for {}: {doing}", super::table::duration(*since_s))
    };
    troubles.extend(status.refusals.iter().map(refused));
    troubles
}

/// Members that answer here, but not their leader.
fn unheard(leader: &Status, answers: &BTreeMap<String, Status>) -> Vec<String> {
    let is_unheard =
        |member: &&MemberStatus| member.silent == Some(true) && answers.contains_key(&member.id);
    let unheard = leader.members.iter().filter(is_unheard);
    unheard
        .map(|member| format!("{} answers, but not to its leader {}", member.name, leader.name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(id: usize, leader: usize) -> Status {
        let member = |id: usize| MemberStatus {
            id: format!("{id:016x}"),
            name: format!("node{id}"),
            role: if id == leader { "leader" } else { "follower" }.to_owned(),
            ..MemberStatus::default()
        };
        Status {
            name: format!("node{id}"),
            member_id: format!("{id:016x}"),
            role: if id == leader { "leader" } else { "follower" }.to_owned(),
            term: 3,
            members: (0..3).map(member).collect(),
            ..Status::default()
        }
    }

    fn of(statuses: &[Status]) -> Health {
        let answers = statuses.iter().map(|status| (status.member_id.clone(), status.clone()));
        Health::of(&answers.collect())
    }

    #[test]
    fn all_that_answer_are_well_and_one_may_go() {
        let health = of(&[status(0, 0), status(1, 0), status(2, 0)]);
        assert_eq!(health.summary, "3 of 3 voters answer, can lose 1");
        assert!(health.is_healthy && health.can_lose == 1);
    }

    #[test]
    fn a_learner_is_no_voter() {
        let mut all = [status(0, 0), status(1, 0)];
        for status in &mut all {
            status.members[2].role = "learner".to_owned();
        }
        let health = of(&all);
        assert_eq!(health.summary, "2 of 2 voters answer, can lose 0");
        assert!(health.is_healthy);
    }

    #[test]
    fn a_voter_that_does_not_answer_is_named() {
        let health = of(&[status(0, 0), status(2, 0)]);
        assert_eq!(health.summary, "2 of 3 voters answer, can lose 0; node1 does not answer");
        assert!(!health.is_healthy);
    }

    #[test]
    fn without_a_majority_the_time_since_is_said() {
        let mut leader = status(0, 0);
        leader.no_majority_s = Some(75);
        let health = of(&[leader]);
        let expected = "no majority: writes are refused since 1 min 15 s ago; node1, node2 do not \
                        answer";
        assert_eq!(health.summary, expected);
        assert_eq!((health.is_healthy, health.answering, health.can_lose), (false, 1, 0));
        // Those that answer may be unable to elect one.
        let none = [status(0, 9), status(1, 9), status(2, 9)];
        assert_eq!(of(&none).summary, "no majority: writes are refused since now");
    }

    #[test]
    fn a_member_that_was_cut_off_does_not_say_who_votes() {
        let mut old = status(2, 2);
        (old.term, old.no_majority_s) = (2, Some(9));
        let health = of(&[old, status(0, 0), status(1, 0)]);
        assert_eq!(health.summary, "3 of 3 voters answer, can lose 1");
    }

    #[test]
    fn damage_and_a_member_that_only_we_reach_are_troubles() {
        let mut all = [status(0, 0), status(1, 0), status(2, 0)];
        all[0].members[2].silent = Some(true);
        all[1].damaged_slots = 4;
        let (reason, doing) = ("writes, for it is full".to_owned(), "make room".to_owned());
        all[2].refusals =
            vec![RefusalStatus { reason, since_s: 5, doing, ..RefusalStatus::default() }];
        let health = of(&all);
        let expected = [
            "node1 has 4 damaged slots",
            "node2 refuses writes, for it is full, for 5 s: make room",
            "node2 answers, but not to its leader node0",
        ];
        assert_eq!(health.troubles, expected);
        assert!(!health.is_healthy);
    }
}
