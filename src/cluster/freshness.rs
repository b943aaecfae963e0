//! How far a replica must have applied the log to see every write that was acknowledged so far.
//!
//! Called by `node`, for reads that look through all this member holds and so are not forwarded;
//! calls `raft`. Invariants:
//!
//! - I1: the index is the leader's after a ReadIndex round that began behind the question: whatever
//!   was acknowledged before is at or below it.

use bytes::{Buf, BufMut, Bytes};
use tokio::time::{Instant, timeout};

use super::forward::{Forwarder, LEADER_BOUND, READ_BOUND, WIRE_BOUND};
use crate::command::{Command, CommandResult, Failure};
use crate::machine::Machine;
use crate::peer::Method;
use crate::raft::ProposeError;

impl Forwarder {
    /// Returns once this replica has applied every write that was acknowledged, by whichever
    /// member, before this call.
    ///
    /// # Errors
    /// There is no leader, it cannot confirm itself in time, or its log is not applied here in time.
    pub async fn catch_up(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + LEADER_BOUND;
        loop {
            let leader = match self.consensus().read_index(READ_BOUND).await {
                Ok(()) => return Ok(()),
                Err(ProposeError::Failed(failure)) => return Err(failure),
                Err(ProposeError::NotLeader { leader }) => leader,
            };
            if let Some((id, member)) = leader {
                let bound = READ_BOUND + WIRE_BOUND;
                let answer = self.call((id, &member), Method::ReadIndex, Bytes::new(), bound).await;
                // A question that got lost, or that came to no leader, changed nothing.
                if let Some(index) = answer.ok().and_then(index_of) {
                    return self.wait_applied(index).await;
                }
            }
            if let Some(failure) = self.wait_for_leader(deadline).await {
                return Err(failure);
            }
        }
    }

    /// Reads commands of this replica, once it has applied all that they must see.
    pub(super) async fn read_replica(&self, commands: &[Command]) -> Vec<CommandResult> {
        if let Err(failure) = self.catch_up().await {
            return vec![Err(failure); commands.len()];
        }
        let shared = self.consensus().shared();
        let read =
            |machine: &Machine| commands.iter().map(|command| machine.read(command)).collect();
        shared.read_whole(read).unwrap_or_else(|| {
            let reason = "this member is being sent a snapshot".to_owned();
            vec![Err(Failure::Busy { reason }); commands.len()]
        })
    }

    async fn wait_applied(&self, index: u64) -> Result<(), Failure> {
        let applied = timeout(READ_BOUND, self.consensus().shared().wait_applied(index)).await;
        applied.map_err(|_| {
            let reason = format!("entries up to {index} are not applied by this member yet");
            Failure::Busy { reason }
        })
    }

    /// Answers a member that asks how far it must have applied: 0 if this one does not lead.
    pub(super) async fn answer_read_index(&self) -> Vec<u8> {
        let confirmed = self.consensus().read_index(READ_BOUND).await;
        let index = confirmed.map_or(0, |()| self.consensus().shared().applied_index());
        let mut answer = Vec::with_capacity(8);
        answer.put_u64_le(index);
        answer
    }
}

/// The index of an answer; `None` if whoever answered does not lead, or if that cannot be read.
fn index_of(mut body: Bytes) -> Option<u64> {
    let index = body.try_get_u64_le().ok()?;
    (index > 0 && body.is_empty()).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_an_index_above_0_and_nothing_else() {
        let of = |bytes: &[u8]| index_of(Bytes::copy_from_slice(bytes));
        assert_eq!(of(&7_u64.to_le_bytes()), Some(7));
        assert_eq!(of(&0_u64.to_le_bytes()), None);
        assert_eq!(of(&[7; 7]), None);
        assert_eq!(of(&[7; 9]), None);
    }
}
