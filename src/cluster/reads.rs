//! Reads at every level. This file alone decides how fresh a read is.
//!
//! `linearizable` and `lease` read at the leader, `log` makes an entry of the read, `local` reads
//! this member's own copy. Called by `node`; calls `raft` and the replica, and asks the leader
//! through `peer`. Values are read by commands ([`Cluster::read`]), here or at the leader. SCAN,
//! DBSIZE and RANDOMKEY walk over this member's own copy ([`Cluster::replica`]), once it has
//! applied the entries that they must see. Invariants:
//!
//! - I1: a client sees its own writes at every level.
//! - I2: a [`FreshReplica`] is made by [`Cluster::replica`] alone, after the wait that its level
//!   needs.
//! - I3: the index for which a replica waits comes from the leader, after a ReadIndex round that
//!   began after the question was asked: every write acknowledged before is at or below that index.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use tokio::time::{sleep, timeout};

use super::bounded::lacks_values;
use super::{Answered, Attempt, Cluster, WIRE_BOUND, results_of};
use crate::command::{Command, CommandResult, Failure, Freshness, Outcome, ReadLevel};
use crate::machine::Machine;
use crate::peer::{Method, decode_commands, encode_commands};
use crate::raft::{Consensus, ProposeError};

/// How long a read waits for its round.
const READ_BOUND: Duration = Duration::from_secs(5);
/// How long a local read waits until this replica's state is one that ever was.
const READABLE_BOUND: Duration = Duration::from_secs(5);

/// Pause while keys are still being counted after a start.
const COUNT_PAUSE: Duration = Duration::from_millis(20);

/// What this member holds, as fresh as one client needs it.
#[derive(Debug, Clone, Copy)]
pub struct FreshReplica<'a> {
    consensus: &'a Consensus,
    level: ReadLevel,
}

impl Cluster {
    /// Reads all of `commands` in one freshness round; the results are in their order.
    pub async fn read(&self, commands: Vec<Command>, freshness: Freshness) -> Vec<CommandResult> {
        match self.level_for(freshness) {
            ReadLevel::Log => self.write(commands).await,
            ReadLevel::Local => read_local(&self.consensus, &commands).await,
            level @ (ReadLevel::Linearizable | ReadLevel::Lease) => {
                self.read_of_leader(commands, level).await
            }
        }
    }

    /// What this member holds, once it has applied everything that the client must see. At the
    /// levels `lease` and `log` that is what it is at `linearizable`.
    ///
    /// # Errors
    /// The leader cannot be asked, or what it named is not applied here in time.
    pub async fn replica(&self, freshness: Freshness) -> Result<FreshReplica<'_>, Failure> {
        let level = self.level_for(freshness);
        if level != ReadLevel::Local {
            self.catch_up().await?;
        }
        Ok(FreshReplica { consensus: &self.consensus, level })
    }

    /// The level at which a read sees the client's own writes: where this replica has not applied
    /// them yet, a local read is linearizable instead (I1).
    fn level_for(&self, freshness: Freshness) -> ReadLevel {
        let is_behind = self.consensus.replica().applied_index() < freshness.written_index;
        let is_local = freshness.level == ReadLevel::Local;
        if is_local && is_behind { ReadLevel::Linearizable } else { freshness.level }
    }

    /// Reads commands at a level that needs the leader; answers in order.
    async fn read_of_leader(&self, commands: Vec<Command>, level: ReadLevel) -> Vec<CommandResult> {
        let deadline = self.leader_deadline();
        loop {
            let leader = match self.read_here(&commands, level).await {
                Attempt::Done(results) => return results,
                Attempt::Elsewhere(leader) => leader,
            };
            if let Some((id, member)) = leader {
                let body = encode_commands(&commands, level).into();
                let bound = READ_BOUND + WIRE_BOUND;
                let answer = self.channel(id, &member).call(Method::Read, body, bound).await;
                // A read that got lost changed nothing: it is tried again.
                if let Ok(body) = answer
                    && let Answered::Results(results) = results_of(body, commands.len())
                {
                    // What does not fit a response is here as well, once it is applied.
                    let lacks = lacks_values(&commands, &results);
                    return if lacks { self.read_replica(&commands).await } else { results };
                }
            }
            if let Some(failure) = self.wait_for_leader(deadline).await {
                return vec![Err(failure); commands.len()];
            }
        }
    }

    async fn read_here(&self, commands: &[Command], level: ReadLevel) -> Attempt {
        let read =
            |machine: &Machine| commands.iter().map(|command| machine.read(command)).collect();
        let replica = self.consensus.replica();
        if level == ReadLevel::Lease
            && let Some(results) = replica.read_whole(read)
            && self.consensus.holds_lease()
        {
            return Attempt::Done(results);
        }
        // A lease that is in doubt is not asked for a second time: a round to a majority knows.
        match self.consensus.read_index(READ_BOUND).await {
            // Whoever is sent a snapshot leads no more.
            Ok(()) => replica.read_whole(read).map_or(Attempt::Elsewhere(None), Attempt::Done),
            Err(ProposeError::NotLeader { leader }) => Attempt::Elsewhere(leader),
            Err(ProposeError::Failed(failure)) => Attempt::Done(vec![Err(failure); commands.len()]),
        }
    }

    /// Returns once this replica has applied every write that was acknowledged, by whichever
    /// member, before this call.
    ///
    /// # Errors
    /// There is no leader, it cannot confirm itself in time, or its log is not applied here in time.
    async fn catch_up(&self) -> Result<(), Failure> {
        let deadline = self.leader_deadline();
        loop {
            let leader = match self.consensus.read_index(READ_BOUND).await {
                Ok(()) => return Ok(()),
                Err(ProposeError::Failed(failure)) => return Err(failure),
                Err(ProposeError::NotLeader { leader }) => leader,
            };
            if let Some((id, member)) = leader {
                let bound = READ_BOUND + WIRE_BOUND;
                let answer =
                    self.channel(id, &member).call(Method::ReadIndex, Bytes::new(), bound).await;
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
    async fn read_replica(&self, commands: &[Command]) -> Vec<CommandResult> {
        if let Err(failure) = self.catch_up().await {
            return vec![Err(failure); commands.len()];
        }
        let replica = self.consensus.replica();
        let read =
            |machine: &Machine| commands.iter().map(|command| machine.read(command)).collect();
        replica.read_whole(read).unwrap_or_else(|| {
            let reason = "this member is being sent a snapshot".to_owned();
            vec![Err(Failure::Busy { reason }); commands.len()]
        })
    }

    async fn wait_applied(&self, index: u64) -> Result<(), Failure> {
        let applied = timeout(READ_BOUND, self.consensus.replica().wait_applied(index)).await;
        applied.map_err(|_| {
            let reason = format!("entries up to {index} are not applied by this member yet");
            Failure::Busy { reason }
        })
    }

    /// Answers a member that asks how far it must have applied: 0 if this one does not lead.
    pub(super) async fn answer_read_index(&self) -> Vec<u8> {
        let confirmed = self.consensus.read_index(READ_BOUND).await;
        let index = confirmed.map_or(0, |()| self.consensus.replica().applied_index());
        let mut answer = Vec::with_capacity(8);
        answer.put_u64_le(index);
        answer
    }

    /// Answers a member that forwards reads.
    pub(super) async fn answer_read(&self, body: Bytes) -> Option<Vec<u8>> {
        let (commands, level) = decode_commands(body).ok()?;
        let attempt = self.read_here(&commands, level).await;
        Some(self.answer_to(attempt, commands.len()))
    }
}

impl FreshReplica<'_> {
    /// At most `count` keys that hold a value, from position `from` on, and where to go on.
    ///
    /// # Errors
    /// A state that never was; a member without keys.
    pub async fn scan(
        &self,
        from: u64,
        count: usize,
    ) -> Result<(Vec<Bytes>, Option<u64>), Failure> {
        let replica = self.consensus.replica().clone();
        let scan = move || {
            let found = replica.read_whole(|machine| machine.live_keys(from, count));
            found.unwrap_or_else(|| Err(catching_up()))
        };
        let found = tokio::task::spawn_blocking(scan).await.unwrap_or(Err(Failure::Stopping))?;
        self.make_durable().await?;
        Ok(found)
    }

    /// How many keys hold a value.
    ///
    /// # Errors
    /// `Busy` until they have been counted after a start.
    pub async fn live_count(&self) -> Result<u64, Failure> {
        let replica = self.consensus.replica();
        let counting = async {
            loop {
                let count = replica.machine.usage().live_count;
                if let Some(count) = count.filter(|_| replica.is_readable()) {
                    return count;
                }
                sleep(COUNT_PAUSE).await;
            }
        };
        let reason = "keys are still being counted after the start".to_owned();
        let count = timeout(READABLE_BOUND, counting).await;
        let count = count.map_err(|_| Failure::Busy { reason })?;
        self.make_durable().await?;
        Ok(count)
    }

    /// What is read here alone may not be taken back by a crash (C18): waits until the log has all
    /// that can have been seen. At the other levels a majority holds it.
    async fn make_durable(&self) -> Result<(), Failure> {
        if self.level != ReadLevel::Local {
            return Ok(());
        }
        let position = self.consensus.wal().position();
        if position <= self.consensus.wal().durable() {
            return Ok(());
        }
        self.consensus.syncer().wait(position).await.map_err(|_| Failure::Stopping)
    }
}

/// This replica's values: the slots are copied first, then the log is waited for up to the entry
/// that wrote the newest of them (C18).
pub(crate) async fn read_local(consensus: &Consensus, commands: &[Command]) -> Vec<CommandResult> {
    let replica = consensus.replica();
    if !replica.is_readable() {
        let ready = timeout(READABLE_BOUND, replica.wait_applied(0)).await;
        if ready.is_err() {
            return vec![Err(catching_up()); commands.len()];
        }
    }
    let read = |machine: &Machine| commands.iter().map(|command| machine.read(command)).collect();
    let Some(mut results) = replica.read_whole::<Vec<CommandResult>>(read) else {
        return vec![Err(catching_up()); commands.len()]; // a snapshot began meanwhile
    };
    let absent_since = replica.machine.absent_since();
    let outcomes = results.iter().flatten().flat_map(|reply| &reply.outcomes);
    let since = |outcome: &Outcome| match outcome.version {
        0 => absent_since,
        version => version,
    };
    let newest = outcomes.map(since).max().filter(|index| *index > 0);
    if let Some(position) = newest.and_then(|index| consensus.wal().position_of(index))
        && position > consensus.wal().durable()
        && consensus.syncer().wait(position).await.is_err()
    {
        results.fill(Err(Failure::Stopping));
    }
    results
}

/// What a reader hears while the slots are no state that ever was.
fn catching_up() -> Failure {
    Failure::Busy { reason: "this member is still catching up".to_owned() }
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
