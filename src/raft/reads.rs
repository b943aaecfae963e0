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
//! - I4: a member that still has a leader's vote as its last backs it: no later leader was elected with it
//!   up to then. If a majority of each configuration does, nothing was acknowledged under a later leader
//!   before the round began; and what this one or earlier ones acknowledged is not behind what is committed
//!   once that is an entry of its own term. (A leader that is started again never leads on in its old term,
//!   see `timing.rs`.) Followers look at their vote alone, and wait for no disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use diskstore_storage::Vote as StoredVote;
use diskstore_storage::wal::Wal;
use futures_util::StreamExt;
use futures_util::future::join;
use futures_util::stream::FuturesUnordered;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::metrics::RaftMetrics;
use openraft::{Instant as _, ReadPolicy, ServerState};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::network::{Channels, Network};
use super::timing::LEASE_SURE;
use super::types::{Member, TypeConfig, log_id_to};
use super::view::is_majority;
use super::{ProposeError, RaftHandle, Timing};
use crate::command::Failure;
use crate::peer::votes::encode_backs;
use crate::peer::{Channel, Method};
use crate::replica::Replica;

/// Most reads that wait for a round.
const QUEUE_MAX: usize = 65_536;
/// How long a voter is not asked that gave no answer: one of an earlier version closes the connection.
const REST: Duration = Duration::from_secs(1);
type Waiter = oneshot::Sender<Result<(), ProposeError>>;

/// The task that begins one round after the other.
#[derive(Debug)]
pub(super) struct ReadRounds {
    queue: mpsc::Sender<Waiter>,
}

impl ReadRounds {
    pub(super) fn start(leadership: Leadership) -> ReadRounds {
        let leadership = Arc::new(leadership);
        Self::start_with(leadership.timing.heartbeat(), move || {
            let leadership = leadership.clone();
            async move { leadership.confirm().await }
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

/// What a round needs.
#[derive(Debug)]
pub(super) struct Leadership {
    raft: RaftHandle,
    wal: Arc<Wal>,
    replica: Arc<Replica>,
    network: Network,
    timing: Timing,
    /// The ways to other voters: connections of their own, so that no vote waits behind reads.
    channels: Channels,
    /// Those that gave no answer lately are not asked before this moment.
    resting: Mutex<BTreeMap<u64, Instant>>,
}

/// Who has to agree.
#[derive(Debug)]
struct Voters {
    /// The voters of each configuration.
    configs: Vec<BTreeSet<u64>>,
    /// Those of them that are others than this member.
    others: Vec<(u64, Member)>,
}

impl Leadership {
    pub(super) fn new(
        raft: RaftHandle,
        replica: &Arc<Replica>,
        network: &Network,
        wal: &Arc<Wal>,
        timing: Timing,
    ) -> Leadership {
        let (wal, replica, network) = (wal.clone(), replica.clone(), network.clone());
        Leadership {
            raft,
            wal,
            replica,
            network,
            timing,
            channels: Channels::default(),
            resting: Mutex::default(),
        }
    }

    /// A leader that cannot confirm itself within an election, after which another leads, is none.
    async fn confirm(&self) -> Result<(), ProposeError> {
        let deadline = Instant::now() + self.timing.silence();
        let backed = timeout_at(deadline, self.backed_index()).await.map_err(|_| unconfirmed())?;
        let index = match backed {
            Some(index) => index,
            None => self.index_of_openraft(deadline).await?,
        };
        let applied = timeout_at(deadline, self.replica.wait_applied(index)).await;
        applied.map_err(|_| {
            let reason = format!("entries up to {index} are not applied yet");
            ProposeError::Failed(Failure::Busy { reason })
        })
    }

    /// What is committed, if this member leads and a majority of each configuration still backs it (I4).
    async fn backed_index(&self) -> Option<u64> {
        let vote = self.wal.state().vote?;
        let voters = self.voters_of(&vote)?;
        // openraft's own state, for its metrics are a little older.
        let committed = self.raft.with_raft_state(|state| state.cluster_committed().map(log_id_to));
        let (is_backed, committed) = join(self.is_backed(&vote, voters), committed).await;
        let committed = committed.ok().flatten()?;
        (is_backed && committed.term == vote.term).then_some(committed.index)
    }

    /// Asks the others, until a majority of each configuration backs this leader or none can any more.
    async fn is_backed(&self, vote: &StoredVote, Voters { configs, others }: Voters) -> bool {
        let (me, bound) = (vote.node_id.get(), self.timing.silence() / 2);
        let asked: Vec<(u64, Arc<Channel>)> = {
            let (now, mut resting) = (Instant::now(), self.resting.lock());
            resting.retain(|_, until| now < *until);
            let awake = others.iter().filter(|(id, _)| !resting.contains_key(id));
            awake.map(|(id, member)| (*id, self.channels.to(&self.network, *id, member))).collect()
        };
        let mut possible: BTreeSet<u64> = asked.iter().map(|(id, _)| *id).chain([me]).collect();
        let mut backers = BTreeSet::from([me]);
        let question = Bytes::from(encode_backs(vote));
        let ask = |(id, channel): (u64, Arc<Channel>)| {
            let question = question.clone();
            async move { (id, channel.call(Method::Backs, question, bound).await) }
        };
        let mut answers: FuturesUnordered<_> = asked.into_iter().map(ask).collect();
        while !is_majority(&configs, |id| backers.contains(&id)) {
            if !is_majority(&configs, |id| possible.contains(&id)) {
                return false;
            }
            let Some((id, answer)) = answers.next().await else { return false };
            if answer.as_ref().is_ok_and(|answer| answer[..] == [1]) {
                backers.insert(id);
                continue;
            }
            possible.remove(&id);
            if answer.is_err() {
                self.resting.lock().insert(id, Instant::now() + REST);
            }
        }
        true
    }

    /// The voters, unless this member does not lead under this vote.
    fn voters_of(&self, vote: &StoredVote) -> Option<Voters> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let (me, term) = (metrics.id, metrics.current_term);
        let leads = metrics.state == ServerState::Leader
            && (vote.term.get(), vote.node_id.get()) == (term, me);
        if !leads {
            return None;
        }
        let membership = metrics.membership_config.membership();
        let others = membership.voter_ids().filter(|id| *id != me);
        let others = others.filter_map(|id| Some((id, membership.get_node(&id)?.clone())));
        Some(Voters { configs: membership.get_joint_config().clone(), others: others.collect() })
    }

    /// The same as openraft finds it out: by heartbeats, which followers answer once their disks have all
    /// that came before them.
    async fn index_of_openraft(&self, deadline: Instant) -> Result<u64, ProposeError> {
        let linearizer = self.raft.get_read_linearizer(ReadPolicy::ReadIndex);
        match timeout_at(deadline, linearizer).await.map_err(|_| unconfirmed())? {
            Ok(linearizer) => Ok(linearizer.read_log_id().index()),
            Err(RaftError::APIError(error)) => Err(refusal(error)),
            Err(RaftError::Fatal(_)) => Err(ProposeError::Failed(Failure::Stopping)),
        }
    }
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

    /// I4
    #[test]
    fn a_majority_is_one_of_every_configuration() {
        let of = |configs: &[&[u64]], members: &[u64]| {
            let configs = configs.iter().map(|it| it.iter().copied().collect());
            let configs: Vec<BTreeSet<u64>> = configs.collect();
            is_majority(&configs, |id| members.contains(&id))
        };
        assert!(
            of(&[&[1]], &[1]) && of(&[&[1, 2, 3]], &[1, 3]) && of(&[&[1, 2, 3, 4]], &[1, 2, 4])
        );
        assert!(!of(&[&[1, 2, 3]], &[1]) && !of(&[&[1, 2, 3, 4]], &[1, 2]));
        assert!(!of(&[&[2, 3]], &[1, 2]), "who asks may be no voter any more");
        assert!(of(&[&[1, 2, 3], &[3, 4, 5]], &[1, 3, 4]));
        assert!(!of(&[&[1, 2, 3], &[3, 4, 5]], &[1, 2, 3]));
    }

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
            join(later, control).await.0
        };
        let (first, later) = join(rounds.join(LONG), others).await;
        assert!(first.is_ok() && later.iter().all(Result::is_ok));
        assert!(running.try_recv().is_err(), "two rounds are enough for all");
    }
}
