//! Counts the members that hold an entry durably, for WAIT; whoever wants its receipt too asks the same
//! way (`receipts`).
//!
//! Called by `node`; calls `raft` at the leader; other members ask the leader through `peer`.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use tokio::time::Instant;

use super::receipts::WITH_RECEIPT;
use super::{Cluster, WIRE_BOUND};
use crate::peer::Method;
use crate::raft::MemberView;

/// How long another member is waited for at most.
const BOUND_MAX: Duration = Duration::from_secs(10);

impl Cluster {
    /// How many members other than the leader hold `index` durably, once `wanted` do or `bound`
    /// has passed.
    pub async fn holders(&self, index: u64, wanted: usize, bound: Duration) -> usize {
        let view = self.consensus.view();
        if view.is_leader {
            return self.holders_here(index, wanted, bound).await;
        }
        let Some((id, member)) = view.leader.and_then(|id| Some((id, view.members.get(&id)?)))
        else {
            return 0;
        };
        let mut body = Vec::with_capacity(24);
        body.put_u64_le(index);
        body.put_u64_le(wanted as u64);
        body.put_u64_le(u64::try_from(bound.as_millis()).unwrap_or(u64::MAX));
        let answer = self
            .channel(id, &member.member)
            .call(Method::Holders, body.into(), bound + WIRE_BOUND)
            .await;
        let count = answer.ok().and_then(|mut body| body.try_get_u64_le().ok());
        count.and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
    }

    async fn holders_here(&self, index: u64, wanted: usize, bound: Duration) -> usize {
        let deadline = Instant::now() + bound;
        loop {
            let view = self.consensus.view();
            let me = self.consensus.member_id();
            let others = view.members.iter().filter(|(id, _)| **id != me);
            let holds =
                |member: &MemberView| member.matched.is_some_and(|held| held.get() >= index);
            let count = others.filter(|(_, member)| holds(member)).count();
            if count >= wanted || Instant::now() >= deadline || !view.is_leader {
                return count;
            }
            let left = deadline - Instant::now();
            self.consensus.changed_data(left.min(Duration::from_millis(100))).await;
        }
    }

    /// Answers a member that asks.
    pub(super) async fn answer_holders(&self, mut body: Bytes) -> Option<Vec<u8>> {
        let index = body.try_get_u64_le().ok()?;
        let wanted = usize::try_from(body.try_get_u64_le().ok()?).ok()?;
        let bound = Duration::from_millis(body.try_get_u64_le().ok()?).min(BOUND_MAX);
        let with_receipt = body.try_get_u8() == Ok(WITH_RECEIPT);
        let count = self.holders_here(index, wanted, bound).await;
        let mut answer = (count as u64).to_le_bytes().to_vec();
        if with_receipt {
            answer.extend_from_slice(self.receipt_here(index).await.to_json().as_bytes());
        }
        Some(answer)
    }
}
