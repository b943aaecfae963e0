//! Linearizable reads: one ReadIndex round for all waiting reads.
//!
//! Before it reads, a leader has to know that no other member was elected meanwhile; it asks a
//! majority, which is one round. Called by `mod.rs`. Invariants:
//!
//! - I1: a read joins only a round that begins after the read arrived (H13). Reads that arrive
//!   during a round share the next one.
//! - I2: a round ends within two elections, and delays the next one by a heartbeat at most.
//! - I3: a read under the lease counts only if this member, after the read, is a leader that has
//!   applied an entry of its own term, that has not begun to hand over (an heir is elected in spite
//!   of the lease), and that a majority acknowledged within [`LEASE_SURE`], half of what the voters
//!   promised. In every other case the read joins a round: no clock is asked then.

use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{LinearizableReadError, RaftError};
use openraft::metrics::RaftMetrics;
use openraft::{Instant as _, ReadPolicy, ServerState};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::timing::LEASE_SURE;
use super::types::TypeConfig;
use super::{ProposeError, RaftHandle, Timing};
use crate::command::Failure;
use crate::replica::Replica;

/// Most reads that wait for a round.
const QUEUE_MAX: usize = 65_536;
type Waiter = oneshot::Sender<Result<(), ProposeError>>;

/// The task that begins one round after the other.
#[derive(Debug)]
pub(super) struct ReadRounds {
    queue: mpsc::Sender<Waiter>,
}

impl ReadRounds {
    pub(super) fn start(raft: RaftHandle, replica: Arc<Replica>, timing: Timing) -> ReadRounds {
        Self::start_with(timing.heartbeat(), move || {
            let (raft, replica) = (raft.clone(), replica.clone());
            async move { confirm(&raft, &replica, timing.silence()).await }
        })
    }

    /// The next round begins when one ends, or after `step` without waiting for it: so no more rounds
    /// run at a time than fit in the time of one.
    fn start_with<F>(step: Duration, round: impl Fn() -> F + Send + 'static) -> ReadRounds
    where
        F: Future<Output = Result<(), ProposeError>> + Send + 'static,
    {
        let (queue, mut waiting) = mpsc::channel::<Waiter>(QUEUE_MAX);
        tokio::spawn(async move {
            let mut waiters = Vec::new();
            while waiting.recv_many(&mut waiters, QUEUE_MAX).await > 0 {
                let (waiters, confirmed) = (std::mem::take(&mut waiters), round());
                let mut running = Box::pin(async move {
                    let result = confirmed.await;
                    for waiter in waiters {
                        // Its caller may have given up.
                        drop(waiter.send(result.clone()));
                    }
                });
                if timeout(step, &mut running).await.is_err() {
                    tokio::spawn(running); // I2: a late one goes on by itself
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
            Err(_) => Err(unconfirmed()),
        }
    }
}

/// True if what openraft published last is enough for a read under the lease (I3). It may be older
/// than what openraft knows: an acknowledgement is then older too, and nobody else leads before the
/// lease has run out.
pub(super) fn is_lease_sure(metrics: &RaftMetrics<TypeConfig>, applied_term: Option<u64>) -> bool {
    metrics.state == ServerState::Leader
        && applied_term == Some(metrics.current_term)
        && metrics.last_quorum_acked.is_some_and(|acked| acked.elapsed() < LEASE_SURE)
}

/// A leader that cannot confirm itself within `bound`, after which another leads, is none.
async fn confirm(
    raft: &RaftHandle,
    replica: &Arc<Replica>,
    bound: Duration,
) -> Result<(), ProposeError> {
    let deadline = Instant::now() + bound;
    let linearizer = timeout_at(deadline, raft.get_read_linearizer(ReadPolicy::ReadIndex));
    let index = match linearizer.await.map_err(|_| unconfirmed())? {
        Ok(linearizer) => linearizer.read_log_id().index(),
        Err(RaftError::APIError(error)) => return Err(refusal(error)),
        Err(RaftError::Fatal(_)) => return Err(ProposeError::Failed(Failure::Stopping)),
    };
    let applied = timeout_at(deadline, replica.wait_applied(index)).await;
    applied.map_err(|_| {
        let reason = format!("entries up to {index} are not applied yet");
        ProposeError::Failed(Failure::Busy { reason })
    })
}

fn refusal(error: LinearizableReadError<TypeConfig>) -> ProposeError {
    match error {
        LinearizableReadError::ForwardToLeader(forward) => {
            ProposeError::NotLeader { leader: forward.leader_id.zip(forward.leader_node) }
        }
        LinearizableReadError::QuorumNotEnough(_) => {
            no_leader("this leader hears from no majority")
        }
    }
}

fn unconfirmed() -> ProposeError {
    no_leader("this leader cannot confirm its leadership in time")
}

fn no_leader(reason: &str) -> ProposeError {
    ProposeError::Failed(Failure::NoLeader { reason: reason.into() })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use openraft::metrics::SerdeInstant;
    use openraft::type_config::TypeConfigExt;

    use super::*;

    /// I3, what of it openraft publishes.
    #[test]
    fn a_lease_is_sure_for_half_of_its_time_and_for_the_leader_of_an_applied_term_alone() {
        let mut metrics = RaftMetrics::new_initial(1);
        metrics.current_term = 3;
        metrics.state = ServerState::Leader;
        assert!(!is_lease_sure(&metrics, Some(3)), "nobody acknowledged anything");
        metrics.last_quorum_acked = Some(SerdeInstant::new(TypeConfig::now()));
        assert!(is_lease_sure(&metrics, Some(3)));
        assert!(!is_lease_sure(&metrics, Some(2)), "entries of older terms may not be applied");
        assert!(!is_lease_sure(&metrics, None));
        let old = TypeConfig::now() - LEASE_SURE;
        let of = |acked, state| RaftMetrics {
            last_quorum_acked: Some(SerdeInstant::new(acked)),
            state,
            ..metrics.clone()
        };
        assert!(!is_lease_sure(&of(old, ServerState::Leader), Some(3)));
        for state in [ServerState::Learner, ServerState::Follower, ServerState::Candidate] {
            assert!(!is_lease_sure(&of(TypeConfig::now(), state), Some(3)), "{state:?}");
        }
    }

    const LONG: Duration = Duration::from_secs(10);
    const STEP: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn stuck_round_holds_up_no_later_one() {
        let count = AtomicUsize::new(0);
        let (begun, mut first) = mpsc::channel(1);
        let rounds = ReadRounds::start_with(STEP, move || {
            let is_first = count.fetch_add(1, Ordering::Relaxed) == 0;
            let begun = begun.clone();
            async move {
                if is_first {
                    begun.send(()).await.unwrap();
                    std::future::pending::<()>().await;
                }
                Ok(())
            }
        });
        let later = async {
            first.recv().await.unwrap();
            rounds.join(LONG).await
        };
        tokio::select! {
            result = later => assert!(result.is_ok(), "{result:?}"),
            stuck = rounds.join(2 * LONG) => unreachable!("{stuck:?}"),
        }
    }

    #[tokio::test]
    async fn reads_that_come_during_a_round_share_the_next() {
        let (begun, mut running) = mpsc::unbounded_channel();
        let rounds = ReadRounds::start_with(STEP, move || {
            let (finish, finished) = oneshot::channel::<()>();
            begun.send(finish).unwrap();
            async move { finished.await.map_err(|_| unconfirmed()) }
        });
        let others = async {
            let finish = running.recv().await.unwrap();
            let later = futures_util::future::join_all((0..8).map(|_| rounds.join(LONG)));
            let control = async {
                finish.send(()).unwrap(); // by now the others have come
                running.recv().await.unwrap().send(()).unwrap();
            };
            futures_util::future::join(later, control).await.0
        };
        let (first, later) = futures_util::future::join(rounds.join(LONG), others).await;
        assert!(first.is_ok() && later.iter().all(Result::is_ok));
        assert!(running.try_recv().is_err(), "two rounds are enough for all");
    }
}
