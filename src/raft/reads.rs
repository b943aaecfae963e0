//! Linearizable reads: one ReadIndex round for all reads that wait.
//!
//! Called by `mod.rs`. A read joins only a round that begins after the read came (PITFALLS 13):
//! those that come while a round runs share the next one.

use std::sync::Arc;
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::state_machine::MachineShared;
use super::types::TypeConfig;
use super::{ProposeError, RaftHandle};
use crate::command::Failure;

/// Most reads that wait for a round.
const QUEUE_MAX: usize = 65_536;

type Waiter = oneshot::Sender<Result<(), ProposeError>>;

/// The task that runs one round after the other.
#[derive(Debug)]
pub(super) struct ReadRounds {
    queue: mpsc::Sender<Waiter>,
}

impl ReadRounds {
    pub(super) fn start(raft: RaftHandle, shared: Arc<MachineShared>) -> ReadRounds {
        let (queue, mut waiting) = mpsc::channel::<Waiter>(QUEUE_MAX);
        tokio::spawn(async move {
            let mut round = Vec::new();
            while waiting.recv_many(&mut round, QUEUE_MAX).await > 0 {
                let result = confirm(&raft, &shared, ReadPolicy::ReadIndex).await;
                for waiter in round.drain(..) {
                    // Its caller may have given up.
                    drop(waiter.send(result.clone()));
                }
            }
        });
        ReadRounds { queue }
    }

    pub(super) async fn join(&self, bound: Duration) -> Result<(), ProposeError> {
        let (sender, receiver) = oneshot::channel();
        let answer = async {
            self.queue.send(sender).await.ok()?;
            receiver.await.ok()
        };
        match timeout(bound, answer).await {
            Ok(Some(result)) => result,
            Ok(None) => Err(ProposeError::Failed(Failure::Stopping)),
            Err(_) => Err(ProposeError::Failed(no_majority())),
        }
    }
}

/// Confirms a read under the lease.
pub(super) async fn lease(
    raft: &RaftHandle,
    shared: &Arc<MachineShared>,
) -> Result<(), ProposeError> {
    confirm(raft, shared, ReadPolicy::LeaseRead).await
}

async fn confirm(
    raft: &RaftHandle,
    shared: &Arc<MachineShared>,
    policy: ReadPolicy,
) -> Result<(), ProposeError> {
    match raft.get_read_linearizer(policy).await {
        Ok(linearizer) => {
            shared.wait_applied(linearizer.read_log_id().index()).await;
            Ok(())
        }
        Err(RaftError::APIError(error)) => Err(refusal(error)),
        Err(RaftError::Fatal(_)) => Err(ProposeError::Failed(Failure::Stopping)),
    }
}

fn refusal(error: LinearizableReadError<TypeConfig>) -> ProposeError {
    match error {
        LinearizableReadError::ForwardToLeader(forward) => {
            ProposeError::NotLeader { leader: forward.leader_id.zip(forward.leader_node) }
        }
        LinearizableReadError::QuorumNotEnough(_) => ProposeError::Failed(no_majority()),
    }
}

fn no_majority() -> Failure {
    Failure::NoLeader { reason: "this leader hears from no majority".into() }
}
