//! The cluster as one thing, whichever member leads it: writes, reads at every level, members,
//! orders, status, backups, and this member's own upkeep.
//!
//! Called by `node`; calls `raft`, and `peer` for requests between members. Each kind of request
//! has a file with both sides, the one that asks and the one that answers: `writes`, `reads`,
//! `holders`, `receipts`, `join`, `orders`, `standing`, `giving_way`. Invariant:
//!
//! - I1: a write or read that another member forwarded is answered here or refused, never forwarded
//!   again.

mod backup;
mod bootstrap;
mod bounded;
mod changes;
mod giving_way;
mod holders;
mod invitations;
mod join;
mod membership;
mod moved;
mod notices;
mod orders;
mod reads;
mod receipts;
mod refusals;
mod resize;
mod standing;
mod status;
mod steps;
mod upkeep;
mod writes;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use backup::BackupError;
pub use bootstrap::{Contact, listen_first};
pub use changes::{Became, Change, Effect, FollowError, Following};
pub use join::{JoinError, JoinSetup, Joined, PATIENCE, join_until_named, learn_cluster};
use membership::{cost_of_stopping, keep_membership};
pub use moved::{Own, is_copy, keep_registered};
#[cfg(any(test, fuzzing))]
pub(crate) use orders::fuzz_order;
pub use orders::{Order, OrderError, remove_from_outside};
pub use reads::FreshReplica;
#[cfg(test)]
pub(crate) use reads::read_local;
pub use standing::{Standing, listening, watch_standing};
pub use upkeep::CheckpointPolicy;
pub(crate) use upkeep::keep_bounds;

use crate::command::{CommandResult, Failure};
use crate::machine::Limits;
use crate::messages::Messages;
use crate::metrics::WriteStages;
use crate::peer::{Channel, Member, Method, decode_results};
use crate::raft::{Consensus, Incoming};

/// Most that a command waits for a leader before it is refused: clients of ours wait a little longer.
const LEADER_BOUND_MAX: Duration = Duration::from_secs(15);
/// Pause before the next attempt while no leader is known.
const LEADER_PAUSE: Duration = Duration::from_millis(50);
/// What forwarding adds to the time that the leader may take.
pub(super) const WIRE_BOUND: Duration = Duration::from_secs(1);

/// The cluster, as one of its members has it: whoever holds one need not know who leads.
#[derive(Debug)]
pub struct Cluster {
    consensus: Arc<Consensus>,
    channels: Mutex<HashMap<u64, Arc<Channel>>>,
    cluster_id: u128,
    /// What is to be said while the cluster has another address of this member.
    moved: Mutex<Option<String>>,
    /// Leaders that were known, one after the other.
    leader_changes: Arc<AtomicU64>,
    /// The right to write a backup (I2 of `backup.rs`).
    backups: Arc<Semaphore>,
    /// True if a new member needs a join token.
    is_by_invitation: bool,
}

/// What became of an attempt: final results, or another member to ask.
enum Attempt {
    Done(Vec<CommandResult>),
    Elsewhere(Option<(u64, Member)>),
}

impl Cluster {
    /// The cluster as a member of it.
    pub fn new(consensus: Arc<Consensus>, cluster_id: u128) -> Cluster {
        let (channels, moved) = Default::default();
        let (leader_changes, backups) = (Arc::default(), Arc::new(Semaphore::new(1)));
        let is_by_invitation = false;
        Cluster {
            consensus,
            channels,
            cluster_id,
            moved,
            leader_changes,
            backups,
            is_by_invitation,
        }
    }

    /// The same, which takes no new member without a join token while this member leads.
    #[must_use]
    pub fn by_invitation_only(self) -> Cluster {
        Cluster { is_by_invitation: true, ..self }
    }

    /// This member's id.
    pub fn member_id(&self) -> u64 {
        self.consensus.member_id()
    }

    /// The limits of keys and values.
    pub fn limits(&self) -> Limits {
        self.consensus.replica().machine.limits()
    }

    /// How many slots there are, which may become more; `None` where a machine has none.
    pub fn slot_limit(&self) -> Option<Arc<AtomicU64>> {
        self.consensus.replica().machine.paged().map(|paged| paged.limit().clone())
    }

    /// The messages of the entries that are applied here, and who listens to them.
    pub fn messages(&self) -> &Arc<Messages> {
        self.consensus.replica().messages()
    }

    /// Highest log index that is applied here.
    pub fn applied_index(&self) -> u64 {
        self.consensus.replica().applied_index()
    }

    /// The election term, as far as this member knows.
    pub fn term(&self) -> u64 {
        self.consensus.view().term.get()
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.consensus.view().is_leader
    }

    /// Whether a leader is known.
    pub fn has_leader(&self) -> bool {
        self.consensus.view().leader.is_some()
    }

    /// Waits until this member's log holds `index` durably, where it syncs always; whether it does.
    pub async fn wait_durable(&self, index: u64, timeout: Duration) -> bool {
        let consensus = &self.consensus;
        let durable = async {
            consensus.replica().wait_applied(index).await; // it is in the log, or in a snapshot
            match consensus.wal().position_of(index) {
                Some(position) => consensus.syncer().wait(position).await.is_ok(),
                None => true, // a checkpoint covers it
            }
        };
        tokio::time::timeout(timeout, durable).await.unwrap_or(false)
    }

    /// Does what a member does on its own, as long as the tasks run: it writes checkpoints and purges
    /// the log, mends the membership, gives way where its disk is full, and logs what changes.
    pub fn keep(
        self: &Arc<Self>,
        policy: CheckpointPolicy,
        started: Instant,
    ) -> Vec<JoinHandle<()>> {
        let consensus = &self.consensus;
        let candidate = consensus.clone();
        vec![
            tokio::spawn(keep_bounds(consensus.clone(), policy)),
            tokio::spawn(giving_way::give_way_when_full(self.clone())),
            tokio::spawn(upkeep::learn_slots(consensus.replica().clone())),
            tokio::spawn(keep_membership(consensus.clone())),
            tokio::spawn(notices::keep_told(
                consensus.clone(),
                started,
                self.leader_changes.clone(),
            )),
            tokio::spawn(async move { candidate.allow_elections().await }),
        ]
    }

    /// Where the time of writes goes on this member.
    pub fn write_stages(&self) -> &WriteStages {
        self.consensus.syncer().stages()
    }

    /// What it costs the cluster that this member stops now while it leads; `None` if nothing.
    pub fn cost_of_stopping(&self) -> Option<String> {
        cost_of_stopping(&self.consensus.view(), self.member_id())
    }

    /// Has another member lead, if this one does; returns once one does, or after `bound`.
    pub async fn hand_over(&self, bound: Duration) {
        self.consensus.hand_over(bound).await;
    }

    /// Writes a checkpoint of all that is applied, at once; its index, once it survives power loss.
    /// `None` if that takes longer than `bound`.
    pub async fn checkpoint(&self, bound: Duration) -> Option<u64> {
        self.consensus.checkpoint(bound).await
    }

    /// Purges the log behind the checkpoint but for `keep_bytes` of it; waits for `bound` at most.
    pub async fn purge_now(&self, keep_bytes: u64, bound: Duration) {
        self.consensus.purge_now(keep_bytes, bound).await;
    }

    /// Stops taking part; what was appended is on the disk afterwards.
    pub async fn stop(&self) {
        self.consensus.stop().await;
    }

    /// The cluster.
    pub fn cluster_id(&self) -> u128 {
        self.cluster_id
    }

    /// What is to be said while the cluster has another address of this member.
    pub fn moved(&self) -> Option<String> {
        self.moved.lock().clone()
    }

    /// Sets that; true if there was something to be said before.
    pub(super) fn note_moved(&self, said: Option<String>) -> bool {
        std::mem::replace(&mut *self.moved.lock(), said).is_some()
    }

    /// Where another member is asked something; one channel serves all who ask it.
    pub fn channel(&self, id: u64, member: &Member) -> Arc<Channel> {
        let mut channels = self.channels.lock();
        let fresh = || Arc::new(self.consensus.channel(id, member));
        let channel = channels.entry(id).or_insert_with(fresh);
        if channel.given_address() != member.raft_address {
            *channel = fresh();
        }
        channel.clone()
    }

    /// Until when a command that comes now waits for a leader before it is refused: three elections.
    pub(super) fn leader_deadline(&self) -> Instant {
        Instant::now() + self.leader_bound()
    }

    fn leader_bound(&self) -> Duration {
        (3 * self.consensus.timing().silence()).min(LEADER_BOUND_MAX)
    }

    /// Waits a little for a leader; says why if the time is up.
    pub(super) async fn wait_for_leader(&self, deadline: Instant) -> Option<Failure> {
        if Instant::now() >= deadline {
            let view = self.consensus.view();
            let voters = view.members.values().filter(|member| member.is_voter).count();
            let reason = format!(
                "no leader was found within {} s; a majority of {voters} voters must run",
                self.leader_bound().as_secs()
            );
            return Some(Failure::NoLeader { reason });
        }
        self.consensus.changed(LEADER_PAUSE).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        None
    }

    pub(super) fn unknown(&self, reason: &str) -> Failure {
        let view = self.consensus.view();
        let (term, index) = (view.term.get(), view.last_log.unwrap_or_default().get());
        Failure::Unknown { term, index, reason: reason.into() }
    }

    /// Answers one request of another member; `None` if it cannot be read.
    async fn answer(&self, incoming: &Incoming) -> Option<Vec<u8>> {
        let body = incoming.body.clone();
        match incoming.method {
            Method::Write => self.answer_write(body).await,
            Method::Read => self.answer_read(body).await,
            Method::Holders => self.answer_holders(body).await,
            Method::ReadIndex => Some(self.answer_read_index().await),
            Method::Join => join::answer(self, incoming).await,
            Method::Remove | Method::Order => Some(self.answer_order(incoming).await),
            Method::Standing => Some(self.answer_standing(incoming.from, body).await),
            Method::LogSpace => Some(self.answer_log_space()),
            _ => None,
        }
    }
}

/// What another member said to forwarded commands.
enum Answered {
    Results(Vec<CommandResult>),
    NotLeader,
    Unreadable,
}

fn results_of(body: Bytes, count: usize) -> Answered {
    match decode_results(body, count) {
        Err(_) => Answered::Unreadable,
        Ok(results) if matches!(results.first(), Some(Err(Failure::NotLeader { .. }))) => {
            Answered::NotLeader
        }
        Ok(results) => Answered::Results(results),
    }
}

/// Answers requests of other members until their channel closes.
pub async fn serve_incoming(cluster: Arc<Cluster>, mut requests: mpsc::Receiver<Incoming>) {
    while let Some(incoming) = requests.recv().await {
        let cluster = cluster.clone();
        tokio::spawn(async move {
            if let Some(answer) = cluster.answer(&incoming).await {
                // The connection may have ended meanwhile.
                drop(incoming.reply.send(answer));
            }
        });
    }
}
