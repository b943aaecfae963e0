//! The status of a member and its cluster, as this member sees it.
//!
//! Called by `node`; calls `raft`.

use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::{Cluster, refusals};
use crate::metrics::Times;
use crate::peer::{Member, Role};
use crate::raft::{MemberView, View, slot_count_of};
use crate::status::{MemberStatus, NodeStatus, StageStatus, Status, SyncStatus};

impl Cluster {
    /// What this member knows, `started` then, with what its `node` knows. Every field is written out:
    /// a new one does not compile until somebody fills it.
    pub fn status(&self, started: Instant, node: NodeStatus) -> Status {
        let consensus = &self.consensus;
        let mut view = consensus.view();
        let silence = consensus.timing().silence();
        if !view.is_leader && !consensus.heard_within(silence) {
            view.leader = None; // what is refused for want of a leader says the same
        }
        let machine = &consensus.replica().machine;
        let usage = machine.usage();
        let stages = consensus.syncer().stages();
        let times = &stages.sync;
        let limits = self.limits();
        Status {
            version: node.version,
            name: node.name,
            member_id: format!("{:016x}", consensus.member_id()),
            cluster_id: format!("{:032x}", self.cluster_id),
            role: role_of(&view, consensus.member_id()).into(),
            term: view.term.get(),
            leader: view
                .leader
                .and_then(|id| view.members.get(&id))
                .map(|leader| leader.member.name.clone()),
            leader_changes: self.leader_changes.load(Ordering::Relaxed),
            members: self.members_of(&view),
            voters_changing: view.is_joint,
            moved: self.moved(),
            no_majority_s: consensus.without_majority(started).map(|time| time.as_secs()),
            committed: view.committed.unwrap_or_default().get(),
            applied: consensus.replica().applied_index(),
            last_log: view.last_log.unwrap_or_default().get(),
            checkpoint: view.checkpoint.unwrap_or_default().get(),
            purged: view.purged.unwrap_or_default().get(),
            readable_from: machine.readable_from(),
            slots: if machine.paged().is_some() {
                limits.slot_count
            } else {
                slots_of(limits.slot_count, view.members.values().map(|known| &known.member))
            },
            value_size: limits.value_bytes_max,
            live: usage.live_count,
            disk_used_bytes: node.disk_used_bytes,
            disk_left_bytes: node.disk_left_bytes,
            log_bytes: node.log_bytes,
            log_written_bytes: consensus.syncer().written_bytes(),
            written_pages: usage.written_pages,
            damaged_slots: machine.paged().map_or(0, |paged| paged.damaged_slots().len() as u64),
            slots_sent: consensus.slots_sent(),
            slots_received: consensus.replica().slots_received.load(Ordering::Relaxed),
            received_bytes: consensus.received_bytes(),
            file_system: node.file_system,
            sync: SyncStatus {
                count: times.count(),
                p50_us: times.percentile_us(50),
                p99_us: times.percentile_us(99),
                max_us: times.max_us(),
            },
            stages: stages.named().map(|(name, times)| stage(name, times)).into(),
            succeeded: node.succeeded,
            dropped_lines: node.dropped_lines,
            unsafe_flags: node.unsafe_flags,
            refusals: refusals::of(consensus),
            uptime_s: node.uptime_s,
            wall_ms: Some(node.wall_ms),
            tls: node.tls,
        }
    }

    /// Two bits for each of at most `count` slots from slot `from` on, as this member has them:
    /// without a value, with one, with one in a page that changed behind log index `since`, damaged.
    /// `None` where keys are no slots.
    pub fn picture(&self, from: u64, count: u64, since: u64) -> Option<Vec<u8>> {
        let paged = self.consensus.replica().machine.paged()?;
        Some(paged.picture(from, count, since))
    }

    fn members_of(&self, view: &View) -> Vec<MemberStatus> {
        let member_id = self.consensus.member_id();
        let silence = self.consensus.timing().silence();
        let last_log = view.last_log.unwrap_or_default();
        let status = |(id, known): (&u64, &MemberView)| {
            let matched =
                if view.is_leader && *id == member_id { Some(last_log) } else { known.matched };
            MemberStatus {
                id: format!("{id:016x}"),
                name: known.member.name.clone(),
                role: match (view.leader == Some(*id), known.is_voter) {
                    (true, _) => "leader",
                    (false, true) => "follower",
                    (false, false) => "learner",
                }
                .into(),
                is_standby: known.member.role == Role::Standby,
                never_votes: Some(known.member.role == Role::Learner),
                client: known.member.client_address.clone(),
                raft: known.member.raft_address.clone(),
                matched: matched.map(|held| held.get()),
                heard_ms: known
                    .silent_for
                    .filter(|_| view.is_leader && *id != member_id)
                    .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
                silent: if view.is_leader && *id == member_id {
                    Some(false)
                } else {
                    self.consensus.is_silent(*id, silence)
                },
                lag: matched.map(|held| last_log.entries_since(held)),
            }
        };
        let mut members: Vec<MemberStatus> = view.members.iter().map(status).collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members
    }
}

/// How many slots the cluster of a member has whose own state has no room for slots that it could count: a
/// logger was told how many there were when it came.
fn slots_of<'a>(told: u64, members: impl IntoIterator<Item = &'a Member>) -> u64 {
    if told == 0 { 0 } else { told.max(slot_count_of(members)) }
}

fn stage(name: &str, times: &Times) -> StageStatus {
    let mut buckets = times.spread().buckets.to_vec();
    let filled = buckets.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
    buckets.truncate(filled);
    StageStatus { stage: name.to_owned(), buckets }
}

fn role_of(view: &View, member_id: u64) -> &'static str {
    let is_voter = view.members.get(&member_id).is_some_and(|member| member.is_voter);
    match (view.is_leader, is_voter, view.leader) {
        (true, _, _) => "leader",
        (false, true, Some(_)) => "follower",
        (false, true, None) => "candidate",
        (false, false, _) => "learner",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logger_tells_how_many_slots_there_are_now_and_not_when_it_came() {
        let members = [0, 128].map(|slot_count| Member { slot_count, ..Member::default() });
        assert_eq!(slots_of(64, &members), 128);
        assert_eq!(slots_of(64, &members[..1]), 64, "there never were more");
        assert_eq!(slots_of(0, &members[..1]), 0, "keys are no slots");
    }
}
