//! Every read of a client, whatever its protocol and its command: how fresh it has to be is decided
//! here, and nowhere else.
//!
//! Called by `server`; calls `cluster`, `raft` and `machine`. Values are read by commands
//! ([`Node::read`]), here or at the leader. SCAN, DBSIZE and RANDOMKEY look through what this member
//! holds ([`Node::replica`]), once it has applied what they must see.
//!
//! Invariants:
//! - I1: a client sees its own writes at every level.
//! - I2: a [`Replica`] is made by [`Node::replica`] alone, after the wait that its level asks for.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};

use super::Node;
use super::local::{self, READABLE_BOUND, catching_up};
use crate::command::{Command, CommandResult, Failure, Freshness, ReadLevel, Refusal};
use crate::config::MachineKind;
use crate::raft::Consensus;

/// Pause while keys are still being counted after a start.
const COUNT_PAUSE: Duration = Duration::from_millis(20);

/// What this member holds, as fresh as one client needs it.
#[derive(Debug, Clone, Copy)]
pub struct Replica<'a> {
    consensus: &'a Consensus,
    level: ReadLevel,
}

impl Node {
    /// Reads all of `commands` in one freshness round; the results are in their order.
    pub async fn read(&self, commands: Vec<Command>, freshness: Freshness) -> Vec<CommandResult> {
        if self.config.machine == MachineKind::Journal {
            return vec![Err(Failure::Refused(Refusal::Logger)); commands.len()];
        }
        match self.level_for(freshness) {
            ReadLevel::Log => self.write(commands).await,
            ReadLevel::Local => self.counted(local::read(self.consensus(), &commands).await),
            level @ (ReadLevel::Linearizable | ReadLevel::Lease) => {
                self.counted(self.forwarder.read(commands, level).await)
            }
        }
    }

    /// What this member holds, once it has applied everything that the client must see. At the
    /// levels `lease` and `log` that is what it is at `linearizable`.
    ///
    /// # Errors
    /// The leader cannot be asked, or what it named is not applied here in time.
    pub async fn replica(&self, freshness: Freshness) -> Result<Replica<'_>, Failure> {
        let level = self.level_for(freshness);
        if level != ReadLevel::Local {
            self.forwarder.catch_up().await?;
        }
        Ok(Replica { consensus: self.consensus(), level })
    }

    /// The level at which a read sees the client's own writes: where this replica has not applied
    /// them yet, a local read is linearizable instead (I1).
    fn level_for(&self, freshness: Freshness) -> ReadLevel {
        let is_behind = self.applied_index() < freshness.written_index;
        let is_local = freshness.level == ReadLevel::Local;
        if is_local && is_behind { ReadLevel::Linearizable } else { freshness.level }
    }
}

impl Replica<'_> {
    /// At most `count` keys that hold a value, from position `from` on, and where to go on.
    ///
    /// # Errors
    /// A damaged slot; a state that never was.
    pub async fn scan(
        &self,
        from: u64,
        count: usize,
    ) -> Result<(Vec<Bytes>, Option<u64>), Failure> {
        let shared = self.consensus.shared().clone();
        let scan = move || {
            let found = shared.read_whole(|machine| machine.live_keys(from, count));
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
        let shared = self.consensus.shared();
        let counting = async {
            loop {
                let count = shared.machine.live_count();
                if let Some(count) = count.filter(|_| shared.is_readable()) {
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
