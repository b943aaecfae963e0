//! Implements openraft's interface for a state machine, over a replica.
//!
//! Called by openraft's worker for the state machine; calls `replica`. Invariants:
//!
//! - I1: entries are applied in log order, one batch after the other (`replica`'s applier decides
//!   on which thread).
//! - I2: `applied_state` starts at the checkpoint; nothing above the checkpoint is ever purged
//!   (C11).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use diskstore_storage::LogIndex;
use diskstore_storage::state::Target;
use futures_util::{Stream, StreamExt};
use openraft::EntryPayload;
use openraft::storage::{
    ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta,
};

use super::members::follow_slot_count;
use super::types::{
    LogId, Member, StoredMembership, TypeConfig, committed_from, log_id_from, log_id_to,
    membership_from, membership_to,
};
use crate::command::CommandResult;
use crate::replica::snapshot::Outgoing;
use crate::replica::{Answer, Applied, Applier, Job, Replica, SlotsSnapshot};

/// No entry is added to what the applier does at once that has so many operations already, or so many
/// entries: heartbeats wait meanwhile.
const JOB_OPERATION_COUNT_MAX: usize = 512;

impl Answer for ApplyResponder<TypeConfig> {
    fn answer(self, results: Vec<CommandResult>) {
        self.send(results);
    }
}

/// The replica's applier, which answers whoever proposed.
pub(super) type RaftApplier = Applier<ApplyResponder<TypeConfig>>;

type Meta = SnapshotMeta<openraft::alias::CommittedLeaderIdOf<TypeConfig>, u64, Member>;

/// openraft's view of the machine.
#[derive(Debug)]
pub(super) struct StateMachine {
    replica: Arc<Replica>,
    applier: RaftApplier,
    /// Until the node has started, the snapshot is the checkpoint; afterwards it is what is applied.
    has_started: Arc<AtomicBool>,
}

impl StateMachine {
    /// A state machine over an open machine. `has_started` is raised once Raft runs.
    pub(super) fn new(
        replica: Arc<Replica>,
        applier: RaftApplier,
        has_started: Arc<AtomicBool>,
    ) -> StateMachine {
        StateMachine { replica, applier, has_started }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SlotsSnapshot;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let meta = meta_of(&self.replica.applied())?;
        Ok((meta.last_log_id, meta.last_membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let (mut jobs, mut operation_count) = (Vec::new(), 0);
        while let Some(item) = entries.next().await {
            let (entry, answer) = item?;
            if let EntryPayload::Membership(membership) = &entry.payload {
                follow_slot_count(&self.replica.machine, membership)?;
            }
            operation_count += match &entry.payload {
                EntryPayload::Normal(command) => command.operation_count().max(1),
                EntryPayload::Blank | EntryPayload::Membership(_) => 1,
            };
            jobs.push(Job { entry: committed_from(entry), answer });
            if operation_count >= JOB_OPERATION_COUNT_MAX {
                self.applier.apply(std::mem::take(&mut jobs)).await?;
                operation_count = 0;
            }
        }
        if jobs.is_empty() { Ok(()) } else { self.applier.apply(jobs).await }
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { replica: self.replica.clone() }
    }

    async fn install_snapshot(&mut self, meta: &Meta, _snapshot: SlotsSnapshot) -> io::Result<()> {
        let Some(log_id) = meta.last_log_id.as_ref().map(log_id_to) else { return Ok(()) };
        if self.replica.applied().log_id >= Some(log_id) {
            return Ok(());
        }
        follow_slot_count(&self.replica.machine, meta.last_membership.membership())?;
        let membership = membership_to(&meta.last_membership);
        // The machine has the request ids that came with it.
        let target = Target { log_id, membership: membership.clone(), requests_crc: 0 };
        // First of all: after a crash in between the mark is early, but no gap goes unmarked.
        self.applier.mark_gap(log_id.index).await?;
        let replica = self.replica.clone();
        run_blocking(move || replica.install(target)).await?;
        self.replica.messages().skip(LogIndex::new(log_id.index));
        self.replica.set_applied(log_id, Some(membership));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf>> {
        let (label, snapshot) = if self.has_started.load(Ordering::Acquire) {
            self.replica.snapshot_now()
        } else {
            (self.replica.durable(), SlotsSnapshot::default())
        };
        let meta = meta_of(&label)?;
        Ok(meta.last_log_id.is_some().then_some(Snapshot { meta, snapshot }))
    }
}

type SnapshotOf = openraft::alias::SnapshotOf<TypeConfig, SlotsSnapshot>;

/// What openraft was given to have it sent: the label, and what keeps the log behind it.
pub(super) fn outgoing(snapshot: SnapshotOf) -> Outgoing {
    let Snapshot { meta, snapshot } = snapshot;
    let log_id = meta.last_log_id.as_ref().map(log_id_to);
    let label = Applied { log_id, membership: membership_to(&meta.last_membership) };
    Outgoing { label, held: snapshot }
}

/// A label as openraft has it.
pub(super) fn meta_of(label: &Applied) -> io::Result<Meta> {
    Ok(Meta {
        last_log_id: label.log_id.map(log_id_from),
        last_membership: membership_from(&label.membership).map_err(io::Error::other)?,
    })
}

/// Gives openraft the newest checkpoint. Writing one is the replica's matter ([`Checkpointer`]), which
/// tells openraft of it by having it ask here; what is sent to members is streamed from the slots.
///
/// [`Checkpointer`]: crate::replica::Checkpointer
#[derive(Debug)]
pub(super) struct Builder {
    replica: Arc<Replica>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SlotsSnapshot;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf> {
        let meta = meta_of(&self.replica.durable())?;
        Ok(Snapshot { meta, snapshot: SlotsSnapshot::default() })
    }
}

/// Runs something that waits for the disk on a thread that may block.
async fn run_blocking(
    work: impl FnOnce() -> diskstore_storage::Result<()> + Send + 'static,
) -> io::Result<()> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other)?.map_err(io::Error::other)
}
