//! Logs changes of the cluster, each once: a new leader, this node's vote, a missing majority.
//!
//! Called by `keep`; calls `raft`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use diskstore_storage::Term;
use tokio::time::Instant;

use crate::raft::{Consensus, View};

/// How often it is looked at least.
const PERIOD: Duration = Duration::from_millis(500);

/// What was told last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Told {
    /// Term and name of the leader.
    leader: Option<(Term, String)>,
    votes: bool,
    lacks_majority: bool,
}

/// What there is to tell, one sentence each.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Notice {
    Leads { name: String, is_self: bool, term: Term },
    NoLeader,
    Votes { voters: usize },
    VotesNoMore,
    NoMajority,
    Majority,
}

/// Tells until the task is dropped, and counts the leaders.
pub(super) async fn keep_told(
    consensus: Arc<Consensus>,
    started: Instant,
    leader_changes: Arc<AtomicU64>,
) {
    let mut told = Told::default();
    loop {
        let lacks_majority = consensus.without_majority(started).is_some();
        let view = consensus.view();
        for notice in told.news(&view, consensus.member_id(), lacks_majority) {
            log(&notice);
            if matches!(notice, Notice::Leads { .. }) {
                leader_changes.fetch_add(1, Ordering::Relaxed);
            }
        }
        consensus.changed(PERIOD).await;
    }
}

impl Told {
    /// What has changed since the last call.
    fn news(&mut self, view: &View, me: u64, lacks_majority: bool) -> Vec<Notice> {
        let mut news = Vec::new();
        let name = |id: u64| match view.members.get(&id) {
            Some(known) => known.member.name.clone(),
            None => format!("member {id:016x}"),
        };
        let leader = view.leader.map(|id| (view.term, name(id)));
        if leader != self.leader {
            match (&leader, view.leader) {
                (Some((term, name)), Some(id)) => {
                    news.push(Notice::Leads { name: name.clone(), is_self: id == me, term: *term });
                }
                _ => news.push(Notice::NoLeader),
            }
            self.leader = leader;
        }
        let votes = view.members.get(&me).is_some_and(|member| member.is_voter);
        if votes != self.votes {
            let voters = view.members.values().filter(|member| member.is_voter).count();
            news.push(if votes { Notice::Votes { voters } } else { Notice::VotesNoMore });
            self.votes = votes;
        }
        if lacks_majority != self.lacks_majority {
            news.push(if lacks_majority { Notice::NoMajority } else { Notice::Majority });
            self.lacks_majority = lacks_majority;
        }
        news
    }
}

fn log(notice: &Notice) {
    match notice {
        Notice::Leads { is_self: true, name, term } => {
            tracing::info!(%term, "this node, {name}, leads");
        }
        Notice::Leads { name, term, .. } => tracing::info!(%term, "{name} leads"),
        Notice::NoLeader => tracing::info!("no leader is known"),
        Notice::Votes { voters } => tracing::info!("this node votes, one of {voters}"),
        Notice::VotesNoMore => tracing::info!("this node votes no more"),
        Notice::NoMajority => {
            tracing::warn!("no majority answers: writes are refused until one does");
        }
        Notice::Majority => tracing::info!("a majority answers again"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::peer::Member;
    use crate::raft::MemberView;

    fn view(leader: Option<u64>, term: u64, voters: &[u64]) -> View {
        let member = |id: u64| {
            let member = Member { name: format!("node{id}"), ..Member::default() };
            let is_voter = voters.contains(&id);
            (id, MemberView { member, is_voter, matched: None, silent_for: None })
        };
        View {
            term: Term::new(term),
            leader,
            is_leader: leader == Some(1),
            members: BTreeMap::from([member(1), member(2)]),
            is_joint: false,
            configs: vec![voters.iter().copied().collect()],
            goal_voters: voters.iter().copied().collect(),
            last_log: None,
            committed: None,
            checkpoint: None,
            purged: None,
            alive: Duration::ZERO,
        }
    }

    #[test]
    fn who_leads_is_told_once_for_each_change_and_by_name() {
        let mut told = Told::default();
        let leads = |name: &str, is_self, term| {
            vec![Notice::Leads { name: name.to_owned(), is_self, term: Term::new(term) }]
        };
        assert_eq!(told.news(&view(None, 0, &[]), 1, false), []);
        assert_eq!(told.news(&view(Some(2), 3, &[]), 1, false), leads("node2", false, 3));
        assert_eq!(told.news(&view(Some(2), 3, &[]), 1, false), []);
        assert_eq!(told.news(&view(None, 4, &[]), 1, false), [Notice::NoLeader]);
        assert_eq!(told.news(&view(None, 5, &[]), 1, false), []);
        assert_eq!(told.news(&view(Some(1), 5, &[]), 1, false), leads("node1", true, 5));
        assert_eq!(told.news(&view(Some(1), 6, &[]), 1, false), leads("node1", true, 6));
    }

    #[test]
    fn a_vote_and_a_majority_are_told_when_they_come_and_go() {
        let mut told = Told::default();
        let voter = view(None, 1, &[1, 2]);
        assert_eq!(told.news(&voter, 1, false), [Notice::Votes { voters: 2 }]);
        assert_eq!(told.news(&voter, 1, true), [Notice::NoMajority]);
        assert_eq!(told.news(&voter, 1, true), []);
        assert_eq!(told.news(&voter, 1, false), [Notice::Majority]);
        assert_eq!(told.news(&view(None, 1, &[2]), 1, false), [Notice::VotesNoMore]);
    }
}
