//! One running node: takes commands, gives results, and starts and stops its parts in order.
//!
//! Called by the programs and by `server`; calls `cluster`. `start` opens the files and builds the
//! parts.

mod disk_use;
mod error;
mod founding;
mod open;
mod start;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use diskstore_storage::LogIndex;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use disk_use::DiskUse;
pub use error::StartError;
pub(crate) use open::{WAL_NAME, machine_memory_bytes};
pub use start::{Progress, remove_departed, remove_unfinished, start};

use crate::cluster::Cluster;
pub use crate::cluster::{
    BackupError, Became, Change, Effect, FollowError, Following, FreshReplica, Order, OrderError,
    Standing,
};
use crate::command::{
    Body, Command, CommandResult, Failure, Freshness, Outcome, ReadLevel, Refusal, Reply,
};
use crate::config::{Config, SyncPolicy};
use crate::fault::{Fault, Faults};
use crate::host::Host;
pub use crate::machine::Limits;
use crate::messages::Messages;
use crate::metrics::WriteStages;
use crate::receipt::WriteReceipt;
use crate::replica::BackupOrder;
pub use crate::replica::BackupStream;
use crate::status::{NodeStatus, Status, TlsStatus};
use crate::tls::{Mode, Tls};

/// How long a clean stop tries to hand leadership over.
const HAND_OVER_BOUND: Duration = Duration::from_secs(5);
/// How long the last checkpoint of a clean stop may take.
const CHECKPOINT_BOUND: Duration = Duration::from_mins(2);
/// How long a clean stop waits until the log behind that is purged.
const PURGE_BOUND: Duration = Duration::from_secs(1);

/// What an incremental backup continues; all 0 for a full one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BackupBase {
    /// Only what changed after this index is wanted.
    pub since: LogIndex,
    /// The backup that reached it, 0 if that is not known.
    pub id: u128,
    /// The cluster that it was taken of, 0 if that is not known.
    pub cluster_id: u128,
}

/// One running node.
#[derive(Debug)]
pub struct Node {
    host: Host,
    config: Config,
    cluster: Arc<Cluster>,
    faults: Faults,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    started: Instant,
    /// The time since 1970 when it had started.
    started_at: Duration,
    opening: String,
    disk_use: Arc<DiskUse>,
    successes: Arc<AtomicU64>,
    /// Held as long as the node lives: no second process in its directory.
    lock: Arc<dyn diskstore_storage::disk::Lock>,
}

fn tls_status(tls: &Tls) -> TlsStatus {
    let current = tls.current();
    TlsStatus {
        mode: tls.mode().name().to_owned(),
        certificate_not_after_s: current.own().map_or(0, |own| own.not_after),
        authority_not_after_s: current.authority_not_after(),
        refused: tls.refused_count(),
    }
}

impl Node {
    /// Keeps the directory locked until this process has ended: a write to the disk that hangs
    /// outlives the node, and must not come behind those of the next process.
    pub fn lock_until_exit(&self) {
        Box::leak(Box::new(Arc::clone(&self.lock)));
    }

    /// What this node stands on.
    pub fn host(&self) -> &Host {
        &self.host
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
        self.cluster.limits()
    }

    /// How fresh a read must be unless its caller asks for less.
    pub fn read_level(&self) -> ReadLevel {
        self.config.read_level
    }

    /// Proposes all of `commands` together; the results are in their order. A command that cannot
    /// be right is refused here and becomes no log entry.
    pub async fn write(&self, commands: Vec<Command>) -> Vec<CommandResult> {
        let with_messages = commands.iter().enumerate();
        let with_messages = with_messages.filter(|(_, command)| command.has_messages());
        let with_messages: Vec<_> =
            with_messages.map(|(nth, command)| (nth, command.clone())).collect();
        let mut results = self.cluster.write(commands).await;
        for (nth, command) in with_messages {
            if let Some(Ok(reply)) = results.get_mut(nth) {
                self.count_listeners(&command, reply).await;
            }
        }
        self.counted(results)
    }

    /// Reads all of `commands` in one freshness round; the results are in their order.
    pub async fn read(&self, commands: Vec<Command>, freshness: Freshness) -> Vec<CommandResult> {
        if !self.config.kind().holds_values {
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

    /// Answers each message of a command with the number of subscriptions that it reaches here.
    async fn count_listeners(&self, command: &Command, reply: &mut Reply) {
        for (operation, outcome) in command.operations().zip(&mut reply.outcomes) {
            if let Some(channel) = operation.channel() {
                let count = self.messages().listener_count(channel);
                outcome.body = Body::Integer(i64::try_from(count).unwrap_or(i64::MAX));
                self.messages().rest().await;
            }
        }
    }

    /// The messages that this node hands to its clients.
    pub(crate) fn messages(&self) -> &Arc<Messages> {
        self.cluster.messages()
    }

    /// Begins a backup of what the cluster holds, or of what of it changed after another backup.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub async fn backup(&self, base: BackupBase) -> Result<BackupStream, BackupError> {
        if !self.config.kind().holds_values {
            return Err(Failure::Refused(Refusal::Logger).into());
        }
        let id = self.host.random.bytes().map(u128::from_le_bytes);
        let id = id.map_err(|error| BackupError::Refused(error.to_string()))?.max(1);
        let begun = self.host.clock.wall();
        let order = BackupOrder {
            id,
            cluster_id: self.cluster.cluster_id(),
            node: self.config.id.clone(),
            begun_ms: u64::try_from(begun.as_millis()).unwrap_or(u64::MAX),
            since: base.since,
            base: base.id,
        };
        self.cluster.backup(order, base.cluster_id).await
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
        self.cluster.wait_durable(index, timeout).await
    }

    /// What the leader knows of an entry that was committed just now.
    pub async fn receipt(&self, index: u64) -> WriteReceipt {
        self.cluster.receipt(index).await
    }

    /// When the last checkpoint was written, in seconds since 1970; when the node started, if that
    /// cannot be said.
    pub fn last_save_s(&self) -> u64 {
        let file = self.config.data_dir.join(self.config.kind().data_file);
        let written = std::fs::metadata(file);
        let written = written.and_then(|metadata| metadata.modified()).ok();
        let written = written.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        written.unwrap_or(self.started_at).as_secs()
    }

    /// Has the leader change the members, or who leads.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub async fn carry_out(&self, order: Order) -> Result<(), OrderError> {
        if !self.config.kind().holds_values {
            return Err(OrderError::Failed(Failure::Refused(Refusal::Logger)));
        }
        self.cluster.carry_out(order).await
    }

    /// How many slots there are, which may become more; `None` where keys are no slots.
    pub fn slot_limit(&self) -> Option<Arc<AtomicU64>> {
        self.cluster.slot_limit()
    }

    /// Makes a join token that counts for so long; its text.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub async fn invite(&self, valid_for: Duration) -> Result<String, OrderError> {
        self.cluster.invite(valid_for).await
    }

    /// Writes a checkpoint now; gives the log index that it has reached. `None` if it takes longer than
    /// two minutes, or the disk has no room for one.
    pub async fn checkpoint(&self) -> Option<u64> {
        self.cluster.checkpoint(CHECKPOINT_BOUND).await
    }

    /// The flags that this node runs with, without their dash.
    pub fn flags(&self) -> Vec<(&'static str, String)> {
        self.config.flags()
    }

    /// Whether this node belongs to its cluster, as the leader has it.
    pub async fn standing(&self) -> Standing {
        self.cluster.standing().await
    }

    /// This node's cluster and member id.
    pub fn ids(&self) -> (u128, u64) {
        (self.cluster.cluster_id(), self.cluster.member_id())
    }

    /// Highest log index that this replica has applied.
    pub fn applied_index(&self) -> u64 {
        self.cluster.applied_index()
    }

    /// What the log has behind index `after`, once this replica has applied any of it.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn following(&self, after: u64) -> Result<Following, FollowError> {
        self.cluster.following(after).await
    }

    /// What became of each operation of the command of entry `index`, which is applied here.
    /// Beyond `value_bytes_max` bytes of values no more are read.
    pub fn became(&self, index: u64, command: &Command, value_bytes_max: usize) -> Vec<Became> {
        self.cluster.became(index, command, value_bytes_max)
    }

    /// The first index whose entry is in this replica's log.
    pub fn first_change(&self) -> u64 {
        self.cluster.first_change()
    }

    /// The election term, as far as this node knows.
    pub fn term(&self) -> u64 {
        self.cluster.term()
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        self.cluster.is_leader()
    }

    /// Whether a leader is known.
    pub fn has_leader(&self) -> bool {
        self.cluster.has_leader()
    }

    /// A picture of its slots: see [`Cluster::picture`].
    pub fn picture(&self, from: u64, count: u64, since: u64) -> Option<Vec<u8>> {
        self.cluster.picture(from, count, since)
    }

    /// Where the time of writes goes on this node.
    pub fn write_stages(&self) -> &WriteStages {
        self.cluster.write_stages()
    }

    /// What the node says about itself.
    pub fn status(&self) -> Status {
        let disk = self.disk_use.last();
        let node = NodeStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            name: self.config.id.clone(),
            disk_used_bytes: disk.used_bytes,
            disk_left_bytes: disk.left_bytes,
            log_bytes: disk.log_bytes,
            file_system: self.disk_use.file_system(),
            succeeded: self.successes.load(Ordering::Relaxed),
            dropped_lines: crate::lines::stderr().dropped(),
            unsafe_flags: self.unsafe_flags(),
            uptime_s: self.started.elapsed().as_secs(),
            wall_ms: u64::try_from(self.host.clock.wall().as_millis()).unwrap_or(u64::MAX),
            tls: self.host.net.tls().map(|tls| tls_status(tls)),
        };
        self.cluster.status(self.started, node)
    }

    fn unsafe_flags(&self) -> Vec<String> {
        let config = &self.config;
        let flags = [
            (config.sync != SyncPolicy::Always).then(|| format!("-sync {}", config.sync)),
            (config.read_level == ReadLevel::Local).then(|| "-read local".to_owned()),
            config.insecure.then(|| "-insecure".to_owned()),
            (config.tls.as_ref().map(|tls| tls.mode) == Some(Mode::Prefer))
                .then(|| "-tls-mode prefer".to_owned()),
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
        if let Some(cost) = self.cluster.cost_of_stopping().filter(|_| led) {
            tracing::warn!("{cost}");
        }
        self.cluster.hand_over(HAND_OVER_BOUND).await;
        let handed_over = begun.elapsed();
        if led {
            tracing::info!(elapsed = ?handed_over, "leadership handed over");
        }
        if self.cluster.checkpoint(CHECKPOINT_BOUND).await.is_none() {
            tracing::warn!("stopping without a last checkpoint: the next start replays the log");
        }
        self.cluster.purge_now(self.config.keep_bytes, PURGE_BOUND).await;
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        self.cluster.stop().await;
        tracing::info!(elapsed = ?begun.elapsed(), "stopped");
    }
}
