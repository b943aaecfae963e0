//! openraft's knowledge of the cluster, for the rooms above: the leader, the members, how far each
//! has followed, and their addresses in the log.
//!
//! Called by `raft` alone, which hands it on; calls openraft's metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use diskstore_storage::{LogIndex, Term};
use futures_util::FutureExt;
use openraft::async_runtime::{Watch, WatchReceiver};
use openraft::metrics::RaftMetrics;
use openraft::{Instant as _, ServerState};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::RaftHandle;
use super::types::{LogId, TypeConfig, log_id_to};
use crate::peer::{Member, Roster};

/// The leader that was heard last, and when.
pub(super) type Heard = Arc<Mutex<Option<(u64, Instant)>>>;

/// The members that the log names, as openraft knows them, and who leads.
pub(super) struct LogRoster {
    pub(super) raft: RaftHandle,
    pub(super) heard: Heard,
    /// How long a leader that was heard is taken to lead.
    pub(super) leads_for: Duration,
}

impl std::fmt::Debug for LogRoster {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("LogRoster").finish_non_exhaustive()
    }
}

impl Roster for LogRoster {
    fn look_up(&self, id: u64, look: &mut dyn FnMut(Option<&str>)) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let member = metrics.membership_config.membership().get_node(&id);
        look(member.map(|member| member.raft_address.as_str()));
    }

    fn name(&self, id: u64) -> Option<String> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let member = metrics.membership_config.membership().get_node(&id);
        member.map(|member| member.name.clone())
    }

    fn members(&self) -> Vec<(u64, String)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let members = metrics.membership_config.membership().nodes();
        members.map(|(id, member)| (*id, member.raft_address.clone())).collect()
    }

    fn another_leads(&self, id: u64) -> bool {
        let heard = *self.heard.lock();
        if heard.is_some_and(|(from, at)| from != id && at.elapsed() < self.leads_for) {
            return true;
        }
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let is_alone = metrics.membership_config.membership().voter_ids().nth(1).is_none();
        let answered = metrics.last_quorum_acked.map(|instant| instant.elapsed());
        let is_followed = is_alone || answered.is_some_and(|elapsed| elapsed < self.leads_for);
        metrics.state == ServerState::Leader && is_followed
    }
}

/// Who this member is to the cluster, and what it knows of it.
#[derive(Debug, Clone)]
pub struct View {
    /// Election term.
    pub term: Term,
    /// The leader, if one is known.
    pub leader: Option<u64>,
    /// True if this member leads.
    pub is_leader: bool,
    /// All members.
    pub members: BTreeMap<u64, MemberView>,
    /// True while a membership change is half way (joint).
    pub is_joint: bool,
    /// The voters of each configuration: a majority of every one of them has to agree.
    pub configs: Vec<BTreeSet<u64>>,
    /// The voters once a change that is half way is completed; else those that vote now.
    pub goal_voters: BTreeSet<u64>,
    /// Index of the last entry in the log; `None` in an empty one.
    pub last_log: Option<LogIndex>,
    /// Index of the last entry known committed.
    pub committed: Option<LogIndex>,
    /// Index of the checkpoint.
    pub checkpoint: Option<LogIndex>,
    /// The log is purged up to here.
    pub purged: Option<LogIndex>,
    /// A member that the leader heard within this time is taken to be alive.
    pub alive: Duration,
}

/// What is known of one member.
#[derive(Debug, Clone)]
pub struct MemberView {
    /// Its record.
    pub member: Member,
    /// True if it counts in elections and majorities.
    pub is_voter: bool,
    /// On the leader: the last index that the member is known to hold durably.
    pub matched: Option<LogIndex>,
    /// On the leader: time since the member answered last; `None` if it never did.
    pub silent_for: Option<Duration>,
}

/// Whether the voters that count are a majority of every configuration.
pub fn is_majority(configs: &[BTreeSet<u64>], counts: impl Fn(u64) -> bool) -> bool {
    let counted = |voters: &BTreeSet<u64>| voters.iter().filter(|id| counts(**id)).count();
    configs.iter().all(|voters| counted(voters) > voters.len() / 2)
}

/// Waits until what is watched changes after now, or `bound` has passed.
pub(super) async fn wait_for_change<W, T, R>(mut metrics: R, bound: Duration)
where
    W: Watch,
    T: Send + Sync,
    R: WatchReceiver<W, T>,
{
    // A new receiver has seen what the one that it is a copy of had: all that came since is old.
    let _old = metrics.changed().now_or_never();
    drop(tokio::time::timeout(bound, metrics.changed()).await);
}

pub(super) fn view_of(metrics: &RaftMetrics<TypeConfig>, member_id: u64, alive: Duration) -> View {
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let index = |log_id: &Option<LogId>| {
        log_id.as_ref().map(|log_id| LogIndex::new(log_id_to(log_id).index))
    };
    let members = membership.nodes().map(|(id, member)| {
        let matched = metrics.replication.as_ref().and_then(|replication| replication.get(id));
        let heard = metrics.heartbeat.as_ref().and_then(|heartbeat| heartbeat.get(id));
        let view = MemberView {
            member: member.clone(),
            is_voter: voters.contains(id),
            matched: matched.and_then(index),
            silent_for: heard.copied().flatten().map(|instant| instant.elapsed()),
        };
        (*id, view)
    });
    View {
        term: Term::new(metrics.current_term),
        leader: metrics.current_leader,
        is_leader: metrics.state == ServerState::Leader
            && metrics.current_leader == Some(member_id),
        members: members.collect(),
        is_joint: membership.get_joint_config().len() > 1,
        configs: membership.get_joint_config().clone(),
        goal_voters: membership.get_joint_config().last().cloned().unwrap_or_default(),
        last_log: metrics.last_log_index.map(LogIndex::new),
        committed: index(&metrics.local_committed),
        checkpoint: index(&metrics.snapshot),
        purged: index(&metrics.purged),
        alive,
    }
}
