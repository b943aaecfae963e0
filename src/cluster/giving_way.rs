//! A leader whose disk has no room for the log gives way to a member that has.
//!
//! Run by `node`; called by `mod.rs` for other members that ask; calls `raft` and `peer`.
//! Invariants:
//!
//! - I1: it hands over only if the other voters with room are a majority without it. Otherwise
//!   handing over would gain nothing: it stays, and clients get NO_SPACE, a certain answer, instead
//!   of waiting for entries that no majority can hold.
//! - I2: no leader hands over twice in a term. So leadership moves on as long as some member has
//!   room, and stays where it is when none has. An attempt that could not begin, because no member
//!   that may lead was alive, does not count; it is made again, and so is one that found too few
//!   members with room.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::Cluster;
use crate::peer::{Member, Method};
use crate::raft::{Cause, Consensus, Refusing};

/// How long a leader has no room, whatever a checkpoint frees, before it gives way.
const FULL_MAX: Duration = Duration::from_secs(1);
/// How often it looks, and how often it asks again where too few had room.
const PERIOD: Duration = Duration::from_millis(200);
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How long another member may take to say whether it has room.
const ASK_BOUND: Duration = Duration::from_secs(1);
/// How long handing over may take.
const HAND_OVER_BOUND: Duration = Duration::from_secs(3);

/// Gives way whenever this member leads and has had no room for a while. Runs as long as the node.
pub(super) async fn give_way_when_full(cluster: std::sync::Arc<Cluster>) {
    let mut gave_way_in = None; // I2
    let mut asked: Option<Instant> = None;
    loop {
        tokio::time::sleep(PERIOD).await;
        let consensus = &cluster.consensus;
        let view = consensus.view();
        let may_ask = asked.is_none_or(|asked| asked.elapsed() >= ASK_AGAIN);
        if !view.is_leader || Some(view.term) == gave_way_in || !may_ask || !is_full(consensus) {
            continue;
        }
        asked = Some(Instant::now());
        if cluster.give_way().await {
            gave_way_in = Some(view.term);
        }
    }
}

fn is_full(consensus: &Consensus) -> bool {
    let lasts = |refusing: &Refusing| {
        refusing.cause == Cause::LogSpace && refusing.since.elapsed() >= FULL_MAX
    };
    consensus.refusing().iter().any(lasts)
}

impl Cluster {
    /// Hands leadership to a voter that has room, if a majority of others have (I1). False if it
    /// did not even begin to.
    pub async fn give_way(&self) -> bool {
        let view = self.consensus.view();
        let me = self.consensus.member_id();
        let voters: Vec<(u64, Member)> = view
            .members
            .iter()
            .filter(|(_, member)| member.is_voter)
            .map(|(id, member)| (*id, member.member.clone()))
            .collect();
        let others = voters.iter().filter(|(id, _)| *id != me);
        let answers = join_all(others.map(|(id, member)| self.ask_log_space(*id, member))).await;
        let with_room: BTreeSet<u64> = answers.into_iter().flatten().collect();
        if view.is_joint || !is_majority(with_room.len(), voters.len()) {
            tracing::warn!(
                with_room = with_room.len(),
                voters = voters.len(),
                "no room for the log, and too few others have some: this member stays the leader \
                 and refuses writes"
            );
            return false;
        }
        tracing::warn!("no room for the log: leadership goes to a member that has some");
        let may_lead = |id| with_room.contains(&id);
        let has_begun = self.consensus.hand_over_to(&may_lead, HAND_OVER_BOUND).await;
        if !has_begun && self.consensus.view().is_leader {
            tracing::warn!("none of those that have room is alive; this is tried again");
        }
        has_begun
    }

    /// The member's id, if it says that it has room.
    async fn ask_log_space(&self, id: u64, member: &Member) -> Option<u64> {
        let answer = self.channel(id, member).call(Method::LogSpace, Bytes::new(), ASK_BOUND).await;
        let has_room = answer.ok()?.try_get_u8().ok()? == 1;
        has_room.then_some(id)
    }

    /// Says whether this member has room.
    pub(super) fn answer_log_space(&self) -> Vec<u8> {
        vec![u8::from(self.consensus.has_log_space())]
    }
}

fn is_majority(count: usize, voters: usize) -> bool {
    count > voters / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// I1
    #[test]
    fn those_that_have_room_must_be_a_majority_without_the_leader() {
        let enough = |voters| (0..voters).find(|with_room| is_majority(*with_room, voters));
        assert_eq!([1, 2, 3, 4, 5].map(enough), [None, None, Some(2), Some(3), Some(3)]);
    }
}
