//! One running node: commands in, results out; started and stopped in order.
//!
//! Called by the programs and by `server`; calls `cluster`, `raft` and `machine`.

mod disk_use;
mod error;
mod notices;
mod open;
mod refusals;
mod start;
#[cfg(test)]
mod tests;
mod upkeep;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use disk_use::DiskUse;
pub use error::StartError;
pub use start::{Progress, remove_departed, remove_unfinished, start};

use crate::cluster::{Cluster, cost_of_stopping};
pub use crate::cluster::{FreshReplica, RemoveError, Standing};
use crate::command::{
    Body, Command, CommandResult, Failure, Freshness, Outcome, ReadLevel, Refusal,
};
use crate::config::{Config, MachineKind, SyncPolicy};
use crate::fault::{Fault, Faults};
use crate::machine::JOURNAL_FILE;
pub use crate::machine::Limits;
use crate::raft::{Consensus, LEASE_MS, MemberView, View};
use crate::status::{MemberStatus, Status, SyncStatus};

/// How long a clean stop tries to hand leadership over.
const HAND_OVER_BOUND: Duration = Duration::from_secs(5);
/// How long the last checkpoint of a clean stop may take.
const CHECKPOINT_BOUND: Duration = Duration::from_mins(2);
/// How long a clean stop waits until the log behind that is purged.
const PURGE_BOUND: Duration = Duration::from_secs(1);

/// One running node.
#[derive(Debug)]
pub struct Node {
    config: Config,
    cluster: Arc<Cluster>,
    faults: Faults,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    started: Instant,
    opening: String,
    disk_use: Arc<DiskUse>,
    successes: Arc<AtomicU64>,
    /// Held as long as the node lives: no second process in its directory.
    lock: Arc<dyn diskstore_storage::disk::Lock>,
}

impl Node {
    /// Keeps the directory locked until this process has ended: a write to the disk that hangs
    /// outlives the node, and must not come behind those of the next process.
    pub fn lock_until_exit(&self) {
        Box::leak(Box::new(Arc::clone(&self.lock)));
    }

    fn consensus(&self) -> &Arc<Consensus> {
        self.cluster.consensus()
    }

    /// What this node runs with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What was found in the node's files when it started, for people.
    pub fn opening(&self) -> &str {
        &self.opening
    }

    /// The limits of keys and values.
    pub fn limits(&self) -> Limits {
        self.consensus().replica().machine.limits()
    }

    /// How fresh a read must be unless its caller asks for less.
    pub fn read_level(&self) -> ReadLevel {
        self.config.read_level
    }

    /// Proposes all of `commands` together; the results are in their order. A command that cannot
    /// be right is refused here and becomes no log entry.
    pub async fn write(&self, commands: Vec<Command>) -> Vec<CommandResult> {
        self.counted(self.cluster.write(commands).await)
    }

    /// Reads all of `commands` in one freshness round; the results are in their order.
    pub async fn read(&self, commands: Vec<Command>, freshness: Freshness) -> Vec<CommandResult> {
        if self.config.machine == MachineKind::Journal {
            return vec![Err(Failure::Refused(Refusal::Logger)); commands.len()];
        }
        self.counted(self.cluster.read(commands, freshness).await)
    }

    /// What this member holds, once it has applied everything that the client must see.
    ///
    /// # Errors
    /// The leader cannot be asked, or what it named is not applied here in time.
    pub async fn replica(&self, freshness: Freshness) -> Result<FreshReplica<'_>, Failure> {
        self.cluster.replica(freshness).await
    }

    /// Counts those of a client's commands that succeeded.
    fn counted(&self, results: Vec<CommandResult>) -> Vec<CommandResult> {
        let succeeded = |result: &&CommandResult| {
            let is_refused = |outcome: &Outcome| matches!(outcome.body, Body::Refused(_));
            result.as_ref().is_ok_and(|reply| !reply.outcomes.iter().any(is_refused))
        };
        let count = results.iter().filter(succeeded).count() as u64;
        self.successes.fetch_add(count, Ordering::Relaxed);
        results
    }

    /// Commands of this node's clients that succeeded since the start; it grows.
    pub fn successes(&self) -> Arc<AtomicU64> {
        self.successes.clone()
    }

    /// Waits until `members` other than the leader hold `index` durably; how many do.
    pub async fn wait_replicas(&self, index: u64, members: usize, timeout: Duration) -> usize {
        self.cluster.holders(index, members, timeout).await
    }

    /// Whether writes are acknowledged only once they are synced: what `-sync` says.
    pub fn syncs_always(&self) -> bool {
        self.config.sync == SyncPolicy::Always
    }

    /// Waits until this member's log holds `index` durably, where it syncs always; whether it does.
    pub async fn wait_durable(&self, index: u64, timeout: Duration) -> bool {
        let consensus = self.consensus();
        let durable = async {
            consensus.replica().wait_applied(index).await; // it is in the log, or in a snapshot
            match consensus.wal().position_of(index) {
                Some(position) => consensus.syncer().wait(position).await.is_ok(),
                None => true, // a checkpoint covers it
            }
        };
        tokio::time::timeout(timeout, durable).await.unwrap_or(false)
    }

    /// When the last checkpoint was written, in seconds since 1970; when the node started, if that
    /// cannot be said.
    pub fn last_save_s(&self) -> u64 {
        let file = match self.config.machine {
            MachineKind::Memory => diskstore_storage::keys::SNAPSHOT_FILE,
            MachineKind::Slots => diskstore_storage::slots::SLOTS_FILE,
            MachineKind::Journal => JOURNAL_FILE,
        };
        let written = std::fs::metadata(self.config.data_dir.join(file));
        let written = written.and_then(|metadata| metadata.modified()).ok();
        let started = || SystemTime::now() - self.started.elapsed();
        let since = written.unwrap_or_else(started).duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| since.as_secs())
    }

    /// Takes a member out of the cluster, by its name or its id.
    ///
    /// # Errors
    /// See [`RemoveError`].
    pub async fn remove(&self, who: &str) -> Result<(), RemoveError> {
        if self.config.machine == MachineKind::Journal {
            return Err(RemoveError::Failed(Failure::Refused(Refusal::Logger)));
        }
        self.cluster.remove(who).await
    }

    /// Whether this node belongs to its cluster, as the leader has it.
    pub async fn standing(&self) -> Standing {
        self.cluster.standing().await
    }

    /// This node's cluster and member id.
    pub fn ids(&self) -> (u128, u64) {
        (self.cluster.cluster_id(), self.consensus().member_id())
    }

    /// Highest log index that this replica has applied.
    pub fn applied_index(&self) -> u64 {
        self.consensus().replica().applied_index()
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        self.consensus().view().is_leader
    }

    /// Whether a leader is known.
    pub fn has_leader(&self) -> bool {
        self.consensus().view().leader.is_some()
    }

    /// What the node says about itself.
    pub fn status(&self) -> Status {
        let consensus = self.consensus();
        let mut view = consensus.view();
        let silence = Duration::from_millis(LEASE_MS);
        if !view.is_leader && !consensus.heard_within(silence) {
            view.leader = None; // what is refused for want of a leader says the same
        }
        let machine = &consensus.replica().machine;
        let usage = machine.usage();
        let times = consensus.syncer().times();
        let (limits, disk) = (self.limits(), self.disk_use.last());
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            name: self.config.id.clone(),
            member_id: format!("{:016x}", consensus.member_id()),
            cluster_id: format!("{:032x}", self.cluster.cluster_id()),
            role: role_of(&view, consensus.member_id()).into(),
            term: view.term,
            leader: view
                .leader
                .and_then(|id| view.members.get(&id))
                .map(|leader| leader.member.name.clone()),
            members: self.members_of(&view),
            moved: self.cluster.moved(),
            no_majority_s: consensus.without_majority(self.started).map(|time| time.as_secs()),
            committed: view.committed.unwrap_or(0),
            applied: consensus.replica().applied_index(),
            last_log: view.last_log.unwrap_or(0),
            checkpoint: view.checkpoint.unwrap_or(0),
            purged: view.purged.unwrap_or(0),
            readable_from: machine.readable_from(),
            slots: limits.slot_count,
            value_size: limits.value_bytes_max,
            live: usage.live_count,
            disk_used_bytes: disk.used_bytes,
            disk_left_bytes: disk.left_bytes,
            log_bytes: disk.log_bytes,
            log_written_bytes: consensus.syncer().written_bytes(),
            written_pages: usage.written_pages,
            damaged_slots: machine.paged().map_or(0, |paged| paged.damaged_slots().len() as u64),
            slots_sent: consensus.slots_sent(),
            slots_received: consensus.replica().slots_received.load(Ordering::Relaxed),
            received_bytes: consensus.received_bytes(),
            sync: SyncStatus {
                count: times.count(),
                p50_us: times.percentile_us(50),
                p99_us: times.percentile_us(99),
                max_us: times.max_us(),
            },
            dropped_lines: crate::lines::stderr().dropped(),
            unsafe_flags: self.unsafe_flags(),
            refusals: refusals::of(consensus),
            uptime_s: self.started.elapsed().as_secs(),
        }
    }

    fn members_of(&self, view: &View) -> Vec<MemberStatus> {
        let member_id = self.consensus().member_id();
        let silence = Duration::from_millis(LEASE_MS);
        let last_log = view.last_log.unwrap_or(0);
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
                client: known.member.client_address.clone(),
                raft: known.member.raft_address.clone(),
                matched,
                heard_ms: known
                    .silent_for
                    .filter(|_| view.is_leader && *id != member_id)
                    .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
                silent: if view.is_leader && *id == member_id {
                    Some(false)
                } else {
                    self.consensus().is_silent(*id, silence)
                },
                lag: matched.map(|matched| last_log.saturating_sub(matched)),
            }
        };
        let mut members: Vec<MemberStatus> = view.members.iter().map(status).collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members
    }

    fn unsafe_flags(&self) -> Vec<String> {
        let config = &self.config;
        let flags = [
            (config.sync != SyncPolicy::Always).then(|| format!("-sync {}", config.sync)),
            (config.read_level == ReadLevel::Local).then(|| "-read local".to_owned()),
            config.insecure.then(|| "-insecure".to_owned()),
        ];
        flags.into_iter().flatten().collect()
    }

    /// Waits until the node cannot go on, and says why.
    pub async fn wait_fault(&self) -> Fault {
        self.faults.wait().await
    }

    /// Stops in order: leadership first, then a checkpoint, then the log. Whoever holds the node
    /// must have stopped taking new clients.
    pub async fn stop(&self) {
        let begun = Instant::now();
        let led = self.is_leader();
        let view = self.consensus().view();
        let cost = cost_of_stopping(&view, self.consensus().member_id());
        if let Some(cost) = cost.filter(|_| led) {
            tracing::warn!("{cost}");
        }
        self.consensus().hand_over(HAND_OVER_BOUND).await;
        let handed_over = begun.elapsed();
        if led {
            tracing::info!(elapsed = ?handed_over, "leadership handed over");
        }
        if self.consensus().checkpoint(CHECKPOINT_BOUND).await.is_none() {
            tracing::warn!("stopping without a last checkpoint: the next start replays the log");
        }
        self.consensus().purge_now(self.config.keep_bytes, PURGE_BOUND).await;
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        self.consensus().stop().await;
        tracing::info!(elapsed = ?begun.elapsed(), "stopped");
    }
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
