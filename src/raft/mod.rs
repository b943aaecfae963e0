//! Consensus: the only folder that names openraft.
//!
//! openraft decides who leads and which entries are committed. This folder gives it a log, a state
//! and a network, and hides it from everything above. Called by `node` and `cluster`; calls
//! `replica` and `peer`. They use [`Consensus`]: propose commands, make sure that a read is fresh,
//! change the membership, hand over, stop.

mod appends;
mod entries;
mod log_store;
mod members;
mod network;
mod peers;
mod proposals;
mod reads;
mod refusals;
mod state_machine;
#[cfg(test)]
mod tests;
mod timing;
mod types;
mod view;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use diskstore_storage::wal::Wal;
use diskstore_storage::{LogIndex, Term};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::RaftError;
use openraft::metrics::RaftMetrics;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

pub use crate::peer::Zone;
#[doc(hidden)]
pub use entries::entries_of;
use members::follow_applied;
pub use members::{
    LogMember, MemberError, begin_log, begin_restored_log, members_in, slot_count_of,
};
pub use peers::Incoming;
pub use refusals::{Cause, Refusing};
pub use timing::{ELECTION_MS_MIN, Timing};
pub use view::{MemberView, View, is_majority};

use crate::command::{Command, Failure, Reply};
use crate::fault::Faults;
use crate::host;
use crate::machine::Machine;
use crate::oplog::OpLog;
use crate::peer::frames::BODY_BYTES_MAX;
use crate::peer::{Book, Caller, Channel, Listener, Member, Route, Verifier};
use crate::replica::{self, Applied, Checkpointer, Replica, Sender, Syncer};
use log_store::LogStore;
use network::Network;
use peers::Peers;
use proposals::Proposals;
use reads::{Leadership, ReadRounds};
use refusals::Refusals;
use state_machine::{RaftApplier, StateMachine};
use types::TypeConfig;
use view::{Heard, LogRoster, view_of, wait_for_change};

/// What the consensus library logs under these targets is an error only in its own eyes, a clean stop;
/// why it ends otherwise is a fault, and reported as one.
pub const CLEAN_STOP_TARGETS: [&str; 2] =
    ["openraft::raft::stream_append", "openraft::raft::raft_inner"];
/// Most bytes of a response: a frame's body without its id.
pub const RESPONSE_BYTES_MAX: usize = BODY_BYTES_MAX - 64;
/// After this time openraft is told again of a checkpoint that it does not seem to know of.
const TELL_AGAIN: Duration = Duration::from_millis(500);
/// Requests of peers that wait for the layers above.
const INCOMING_MAX: usize = 1024;

type RaftHandle = openraft::Raft<TypeConfig, StateMachine>;

/// Why consensus did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings contradict each other.
    #[error("the consensus settings are wrong")]
    Config(#[from] openraft::ConfigError),
    /// The stores could not be read.
    #[error("the log or the slots cannot be read")]
    Storage(#[source] openraft::errors::Fatal<TypeConfig>),
    /// A thread or a file failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What consensus is started with.
#[derive(Debug)]
pub struct Setup {
    /// This member, as it dials others.
    pub caller: Arc<Caller>,
    /// The open log.
    pub wal: Arc<Wal>,
    /// The open machine.
    pub machine: Machine,
    /// What was applied to it while the log was recovered.
    pub applied: Option<Applied>,
    /// The application log of `-logfolder`.
    pub oplog: Option<OpLog>,
    /// Where trouble is reported.
    pub faults: Faults,
    /// True if this member may have given a vote or a lease before it was started.
    pub is_restart: bool,
    /// Addresses of members that `-join` names: they are asked about members that the log does not
    /// know, beside those that it names.
    pub join_targets: Vec<String>,
    /// When a leader counts as gone.
    pub timing: Timing,
    /// How long a leader that was heard is taken to lead: [`Timing::election`], unless heartbeats may
    /// be late.
    pub leads_for: Duration,
    /// What replays and snapshots work with at once.
    pub bounds: replica::Bounds,
}

/// How long a hand-over waits for the answers to what was proposed: many times what they take.
const SETTLE_BOUND: Duration = Duration::from_secs(1);

/// One member's part in the cluster's agreement.
#[derive(Debug)]
pub struct Consensus {
    raft: RaftHandle,
    wal: Arc<Wal>,
    syncer: Arc<Syncer>,
    replica: Arc<Replica>,
    checkpointer: Arc<Checkpointer>,
    faults: Faults,
    sender: Arc<Sender>,
    network: Network,
    caller: Arc<Caller>,
    listener: Arc<Listener<Peers>>,
    peers: Arc<Peers>,
    reads: ReadRounds,
    proposals: Proposals,
    member_id: u64,
    timing: Timing,
    /// The last term in which this member tried to hand over, 0 if it never did; nobody takes it back
    /// in that term, for an attempt that failed may still reach the heir.
    handing_over_in: AtomicU64,
    /// Term of this member's leadership, and when it was first seen.
    leading: Mutex<Option<(Term, Instant)>>,
    /// What is refused, and since when.
    refusals: Refusals,
    /// Held from the look at the membership to its change (I2 of `members.rs`).
    alone: tokio::sync::Mutex<()>,
}

/// Why a command was not answered.
#[derive(Debug, Clone)]
pub enum ProposeError {
    /// Not proposed here: another member leads, or none is known.
    NotLeader {
        /// The leader and its record, if known.
        leader: Option<(u64, Member)>,
    },
    /// For the client as it is.
    Failed(Failure),
}

impl Consensus {
    /// Starts the threads and openraft. Nothing is served and no election held before
    /// [`Consensus::serve`] and [`Consensus::allow_elections`].
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        mut setup: Setup,
    ) -> Result<(Arc<Consensus>, mpsc::Receiver<Incoming>), StartError> {
        let (replica, applier) = open_replica(&mut setup).await?;
        let Setup { caller, wal, faults, is_restart, join_targets, timing, leads_for, .. } = setup;
        let member_id = caller.me().member_id;
        let syncer = replica.syncer.clone();
        let has_started = Arc::new(AtomicBool::new(false));
        let state_machine = StateMachine::new(replica.clone(), applier, has_started.clone());
        let sender = Arc::new(Sender::new(replica.clone(), wal.clone()));
        let book = Arc::new(Book::default());
        let network = Network::new(caller.clone(), book.clone(), sender.clone(), timing);
        let log_store = LogStore::new(wal.clone(), syncer.clone());
        let raft =
            RaftHandle::new(member_id, timing.config()?, network.clone(), log_store, state_machine)
                .await
                .map_err(StartError::Storage)?;
        // What it knows is asked for at once: before it runs it seems to know no members.
        raft.with_raft_state(|_| ()).await.map_err(StartError::Storage)?;
        has_started.store(true, Ordering::Release);
        let heard = Heard::default();
        book.follow(LogRoster { raft: raft.clone(), heard: heard.clone(), leads_for });
        let (incoming, requests) = mpsc::channel(INCOMING_MAX);
        let silence = if is_restart { timing.lease() } else { Duration::ZERO };
        let verifier = Arc::new(Verifier::new(caller.clone(), book, join_targets));
        let peers = Arc::new(Peers {
            verifier: verifier.clone(),
            wal: wal.clone(),
            syncer: syncer.clone(),
            replica: replica.clone(),
            raft: raft.clone(),
            faults: faults.clone(),
            silent_until: Instant::now() + silence,
            incoming,
            stopping: watch::Sender::new(false),
            heard,
        });
        let listener = Listener::new(caller.clone(), verifier, peers.clone(), faults.clone());
        let leadership = Leadership::new(raft.clone(), &replica, &network, &wal, timing);
        let reads = ReadRounds::start(leadership);
        let proposals = Proposals::start(raft.clone(), syncer.clone());
        let checkpointer = Checkpointer::new(replica.clone(), faults.clone());
        tokio::spawn(tell_checkpoints(raft.clone(), checkpointer.durable()));
        tokio::spawn(watch_fatal(raft.clone(), faults.clone()));
        let consensus = Consensus {
            raft,
            wal,
            syncer,
            replica,
            checkpointer,
            faults,
            sender,
            network,
            caller,
            listener,
            peers,
            reads,
            proposals,
            member_id,
            timing,
            handing_over_in: AtomicU64::new(0),
            leading: Mutex::default(),
            refusals: Refusals::default(),
            alone: tokio::sync::Mutex::default(),
        };
        Ok((Arc::new(consensus), requests))
    }

    /// Serves peers on a listener, for as long as the returned task lives.
    pub fn serve(
        &self,
        listener: impl Into<host::Listener>,
        zone: Zone,
    ) -> tokio::task::JoinHandle<()> {
        Consensus::serve_together(&[self], listener, zone)
    }

    /// Serves the peers of several clusters' members on one listener, each by the cluster that a peer
    /// names, for as long as the returned task lives. A peer that names none reaches the first.
    ///
    /// # Panics
    /// If there are no members.
    pub fn serve_together(
        members: &[&Consensus],
        listener: impl Into<host::Listener>,
        zone: Zone,
    ) -> tokio::task::JoinHandle<()> {
        let members = members.iter().map(|member| member.listener.clone()).collect();
        tokio::spawn(Listener::serve(members, listener.into(), zone))
    }

    /// Lets this member campaign: at once if nobody else could, otherwise after the silence that a
    /// restarted voter keeps.
    pub async fn allow_elections(&self) {
        // Asked of openraft itself: what it publishes may not name anybody yet.
        let me = self.member_id;
        let is_sole_voter = self
            .raft
            .with_raft_state(move |state| state.membership_state.effective().voter_ids().eq([me]));
        let is_sole_voter = is_sole_voter.await.unwrap_or(false);
        if !is_sole_voter {
            tokio::time::sleep_until(self.peers.silent_until).await;
        }
        self.raft.runtime_config().elect(true);
        if is_sole_voter && let Err(error) = self.raft.trigger().elect(false).await {
            tracing::warn!(%error, "cannot ask for an election");
        }
    }

    /// When a leader counts as gone.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// This member's id.
    pub fn member_id(&self) -> u64 {
        self.member_id
    }

    /// This member's copy of the state.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// The log.
    pub fn wal(&self) -> &Arc<Wal> {
        &self.wal
    }

    /// The thread that syncs the log.
    pub fn syncer(&self) -> &Arc<Syncer> {
        &self.syncer
    }

    /// Slots sent to other members since the start.
    pub fn slots_sent(&self) -> u64 {
        self.sender.slots_sent()
    }

    /// Bytes that other members sent to this one since the start.
    pub fn received_bytes(&self) -> u64 {
        self.listener.received_bytes()
    }

    /// A channel for requests to another member.
    pub fn channel(&self, to: u64, member: &Member) -> Channel {
        self.network.channel(to, member)
    }

    /// Where another member is to be found now.
    pub fn address_of(&self, id: u64, member: &Member) -> String {
        self.network.route(id, member).address()
    }

    /// A channel for requests to whichever member listens at an address.
    pub fn channel_to(&self, address: String) -> Channel {
        Channel::new(self.caller.clone(), Route::to_address(address))
    }

    /// This member, as it dials others.
    pub fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    /// True if a leader was heard within this time.
    pub fn heard_within(&self, time: Duration) -> bool {
        self.peers.heard.lock().is_some_and(|(_, heard)| heard.elapsed() < time)
    }

    /// What this member knows of the cluster now.
    pub fn view(&self) -> View {
        view_of(&self.raft.metrics().borrow_watched(), self.member_id, self.timing.alive())
    }

    /// Waits until what [`Consensus::view`] gives has changed, or `bound` has passed.
    pub async fn changed(&self, bound: Duration) {
        wait_for_change(self.raft.server_metrics(), bound).await;
    }

    /// As [`Consensus::changed`], for what moves with every entry.
    pub async fn changed_data(&self, bound: Duration) {
        wait_for_change(self.raft.metrics(), bound).await;
    }

    /// Proposes commands together; answers in order. `Unknown` for those without an answer within
    /// `bound`.
    pub async fn propose(
        &self,
        commands: Vec<Command>,
        bound: Duration,
    ) -> Vec<Result<Reply, ProposeError>> {
        self.proposals.propose(commands, Instant::now() + bound).await
    }

    /// Returns once a read sees every write that was acknowledged before this call.
    ///
    /// # Errors
    /// This member does not lead, or cannot prove in time that it does.
    pub async fn read_index(&self, bound: Duration) -> Result<(), ProposeError> {
        self.reads.join(bound).await
    }

    /// True if this member certainly led until now, and what its replica holds is what a read under
    /// the lease may see. To be asked after the read: whatever delayed it counts then.
    pub fn holds_lease(&self) -> bool {
        let (holds, term) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            // One that is to leave may be succeeded in spite of its lease.
            let membership = metrics.membership_config.membership();
            let votes =
                membership.get_joint_config().iter().any(|ids| ids.contains(&self.member_id));
            let holds = votes && reads::is_lease_sure(&metrics, self.replica.applied_term());
            (holds, metrics.current_term)
        };
        let is_handing_over = self.handing_over_in.load(Ordering::Acquire) >= term;
        holds && !is_handing_over && self.replica.is_readable()
    }

    /// Founds a cluster of this one member, unless the log names one already.
    ///
    /// # Errors
    /// The log cannot be written.
    pub async fn found(&self, member: Member) -> Result<(), Failure> {
        let founded = self.raft.initialize(BTreeMap::from([(self.member_id, member)])).await;
        match founded {
            Ok(()) | Err(RaftError::APIError(openraft::errors::InitializeError::NotAllowed(_))) => {
                Ok(())
            }
            Err(error) => Err(proposals::unknown(&self.raft, &error.to_string())),
        }
    }

    /// Writes a checkpoint of all that is applied, at once; returns its index once it survives power
    /// loss and the log behind it may be purged. `None` if that takes longer than `bound`.
    pub async fn checkpoint(&self, bound: Duration) -> Option<u64> {
        let wanted = self.replica.applied_index();
        let deadline = Instant::now() + bound;
        // One that runs already may be of an older state.
        while timeout_at(deadline, self.checkpointer.run(0)).await.ok()?? < wanted {
            if self.replica.lacks_checkpoint_space() || self.faults.current().is_some() {
                return None;
            }
        }
        let wait = self.raft.wait(Some(deadline - Instant::now()));
        let is_told = |metrics: &RaftMetrics<TypeConfig>| snapshot_index(metrics) >= wanted;
        let metrics = wait.metrics(is_told, "checkpoint").await.ok()?;
        metrics.snapshot.map(|log_id| log_id.index)
    }

    /// Writes checkpoints.
    pub fn checkpointer(&self) -> &Arc<Checkpointer> {
        &self.checkpointer
    }

    /// Purges the log behind the checkpoint, keeping at least `keep_bytes` of it and what running
    /// snapshots need. Returns up to where, if it asked for that.
    pub async fn purge(&self, keep_bytes: u64) -> Option<u64> {
        let view = self.view();
        let bounds = [
            view.checkpoint.map(LogIndex::get),
            self.wal.purge_point_keeping(keep_bytes),
            Some(self.replica.purge_bound()),
        ];
        let upto = bounds.into_iter().min().flatten()?;
        if view.purged >= Some(LogIndex::new(upto)) {
            return None;
        }
        if let Err(error) = self.raft.trigger().purge_log(upto).await {
            tracing::warn!(%error, "cannot purge the log");
            return None;
        }
        Some(upto)
    }

    /// As [`Consensus::purge`], and waits until it is done, or `bound` has passed.
    pub async fn purge_now(&self, keep_bytes: u64, bound: Duration) {
        let Some(upto) = self.purge(keep_bytes).await else { return };
        let is_done = |metrics: &RaftMetrics<TypeConfig>| {
            metrics.purged.as_ref().is_some_and(|log_id| log_id.index >= upto)
        };
        if self.raft.wait(Some(bound)).metrics(is_done, "purged").await.is_err() {
            tracing::warn!(upto, "the log is not purged in time");
        }
    }

    /// Hands leadership to the voter that is furthest; returns once another leads, or after
    /// `bound`.
    pub async fn hand_over(&self, bound: Duration) {
        self.hand_over_to(&|_| true, bound).await;
    }

    /// As [`Consensus::hand_over`], to one of the voters that `may_lead` is true of. Where it cannot
    /// be reached, the others elect a leader. False if it never began: this member does not lead, or
    /// none of those voters is alive.
    pub async fn hand_over_to(
        &self,
        may_lead: &(dyn Fn(u64) -> bool + Sync),
        bound: Duration,
    ) -> bool {
        let deadline = Instant::now() + bound;
        let mut has_begun = false;
        if !self.view().is_leader {
            return false;
        }
        // What is not answered when another leads is unknown to whoever asked for it. What comes meanwhile is
        // proposed afterwards, or goes to the other.
        let settled = deadline.min(Instant::now() + SETTLE_BOUND);
        let paused = self.proposals.pause(settled).await;
        if paused.is_none() {
            tracing::info!("leadership is handed over while writes are on their way");
        }
        while Instant::now() < deadline {
            let view = self.view();
            if !view.is_leader {
                break;
            }
            let others = view.members.iter().filter(|(id, member)| {
                let is_alive = member.silent_for.is_some_and(|silent| silent < view.alive);
                **id != self.member_id && member.is_voter && is_alive && may_lead(**id)
            });
            let Some((heir, _)) = others.max_by_key(|(_, member)| member.matched) else { break };
            self.handing_over_in.fetch_max(view.term.get(), Ordering::AcqRel); // before the heir can know
            if self.raft.trigger().transfer_leader(*heir).await.is_err() {
                break;
            }
            has_begun = true;
            let step = (deadline - Instant::now()).min(Duration::from_millis(500));
            let me = self.member_id;
            let wait = self.raft.wait(Some(step));
            let is_done = |metrics: &RaftMetrics<TypeConfig>| {
                metrics.current_leader.is_some_and(|leader| leader != me)
            };
            if wait.metrics(is_done, "another leads").await.is_ok() {
                break;
            }
        }
        has_begun
    }

    /// Stops openraft and then the log's threads; what was appended is on disk afterwards.
    pub async fn stop(&self) {
        self.peers.stop().await;
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "consensus did not end well");
        }
        self.checkpointer.stop().await;
        stop_syncer(self.syncer.clone()).await;
    }
}

/// Opens the replica of a log, and applies what the log holds behind its checkpoint.
async fn open_replica(setup: &mut Setup) -> io::Result<(Arc<Replica>, RaftApplier)> {
    let threads = setup.caller.host().threads.clone();
    let syncer = Arc::new(Syncer::start(setup.wal.clone(), &threads, setup.faults.clone())?);
    let replica = Arc::new(Replica::open(setup.machine.clone(), syncer.clone(), setup.bounds));
    if let Some(Applied { log_id: Some(log_id), membership }) = setup.applied.take() {
        replica.set_applied(log_id, Some(membership));
    }
    let mut applying = replica::ApplierSetup {
        replica: replica.clone(),
        wal: setup.wal.clone(),
        oplog: setup.oplog.take(),
        faults: setup.faults.clone(),
        threads,
    };
    let started = tokio::task::spawn_blocking(move || {
        let count = replica::replay(&mut applying)?;
        tracing::debug!(count, "entries behind the checkpoint were replayed");
        RaftApplier::start(applying)
    });
    let started = started.await.map_err(io::Error::other)?;
    let started = started.and_then(|applier| follow_applied(&replica).map(|()| applier));
    if started.is_err() {
        stop_syncer(syncer).await; // nobody else will
    }
    Ok((replica, started?))
}

async fn stop_syncer(syncer: Arc<Syncer>) {
    if tokio::task::spawn_blocking(move || syncer.stop()).await.is_err() {
        tracing::warn!("the log's threads did not end well");
    }
}

/// Tells openraft of every checkpoint: it purges no log that it knows none behind.
async fn tell_checkpoints(raft: RaftHandle, mut durable: watch::Receiver<u64>) {
    while durable.changed().await.is_ok() {
        let is_told =
            |metrics: &RaftMetrics<TypeConfig>| snapshot_index(metrics) >= *durable.borrow();
        loop {
            if raft.trigger().snapshot().await.is_err() {
                return; // it is stopping
            }
            // While it still asks for the one before, it takes no second order.
            let wait = raft.wait(Some(TELL_AGAIN));
            if wait.metrics(is_told, "told of a checkpoint").await.is_ok() {
                break;
            }
        }
    }
}

/// Index of the newest checkpoint that openraft knows of, 0 if it knows of none.
fn snapshot_index(metrics: &RaftMetrics<TypeConfig>) -> u64 {
    metrics.snapshot.as_ref().map_or(0, |log_id| log_id.index)
}

/// A storage error is fatal to openraft; the node must not live on without it (C15).
async fn watch_fatal(raft: RaftHandle, faults: Faults) {
    let mut metrics = raft.metrics();
    loop {
        if let Err(fatal) = &metrics.borrow_watched().running_state {
            match fatal {
                openraft::errors::Fatal::Stopped => {}
                other => faults.report(format!("consensus stopped: {other}")),
            }
            return;
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}
