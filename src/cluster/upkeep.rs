//! The regular work of a member: checkpoints, purging, giving memory back, and, after a start, the
//! walk over all its slots.
//!
//! Called by `keep`; calls `raft`. Invariant:
//!
//! - I1: whenever the node refuses requests, the work that ends the refusal is made due here at
//!   once (`docs/operations.md` has the list).

use std::sync::Arc;
use std::time::Duration;

use diskstore_storage::LogIndex;
use tokio::time::Instant;

use crate::config::checkpoint_bytes;
use crate::machine::Fullness;
use crate::raft::{Cause, Consensus};
use crate::replica::Replica;

/// How often a node looks whether a checkpoint is due.
const PERIOD: Duration = Duration::from_millis(200);
/// A checkpoint is due after this time if anything changed.
const AGE_MAX: Duration = Duration::from_mins(10);
/// While something is refused that a checkpoint ends, one is asked for after this time again; the one
/// that runs hurries, and takes no second order.
const URGENT_PERIOD: Duration = Duration::from_secs(1);
/// Where checkpoints come to nothing, for the disk has no room for them either, that time doubles, but
/// to no more than this.
const URGENT_PERIOD_MAX: Duration = Duration::from_secs(10);
/// Pages that a step of learning reads.
const LEARN_PAGES: u64 = 2048;
/// Pages of a step where commands may need the disk, too, because memory has no room for all pages.
const LEARN_PAGES_BESIDE: u64 = 128;
/// The pause between two steps of learning, so that a start is not slowed down.
const LEARN_PAUSE: Duration = Duration::from_millis(2);
/// Where commands may need the disk, the pause is so many times as long as the step before it took, while
/// entries are applied: commands have nine tenths of the disk.
const LEARN_PAUSE_BESIDE: u32 = 9;
/// Entries are applied until nothing was for so long.
const LEARN_BESIDE_TIME: Duration = Duration::from_secs(1);
/// The longest pause: so that even beside a disk that is busy for hours all is read some time.
const LEARN_PAUSE_MAX: Duration = Duration::from_millis(250);

/// When checkpoints are due.
#[derive(Debug, Clone, Copy)]
pub struct CheckpointPolicy {
    /// Bytes of log between two checkpoints, if asked for.
    pub checkpoint_bytes: Option<u64>,
    /// Bytes of log kept behind the checkpoint, while the disk has room for them.
    pub keep_bytes: u64,
    /// Bytes of dirty pages at which a checkpoint is due before the log asks for one: half of the
    /// memory budget, where the data file does not fit in that.
    pub dirty_bytes_max: u64,
}

/// Asks for checkpoints when they are due, purges the log behind them, gives memory back, and tells of
/// damaged slots.
pub(crate) async fn keep_bounds(consensus: Arc<Consensus>, policy: CheckpointPolicy) {
    let mut upkeep = Upkeep::new(consensus, policy);
    loop {
        tokio::time::sleep(PERIOD).await;
        upkeep.step().await;
    }
}

struct Upkeep {
    consensus: Arc<Consensus>,
    policy: CheckpointPolicy,
    /// Bytes of log when the last checkpoint was asked for.
    log_bytes_then: u64,
    /// When that was.
    then: Instant,
    /// The newest checkpoint then.
    checkpoint_then: Option<LogIndex>,
    /// How long after that the next one is asked for if it is urgent.
    urgent_period: Duration,
}

impl Upkeep {
    fn new(consensus: Arc<Consensus>, policy: CheckpointPolicy) -> Upkeep {
        Upkeep {
            consensus,
            policy,
            log_bytes_then: 0,
            then: Instant::now(),
            checkpoint_then: None,
            urgent_period: URGENT_PERIOD,
        }
    }

    async fn step(&mut self) {
        let consensus = self.consensus.clone();
        let machine = &consensus.replica().machine;
        let lacks_space =
            consensus.refusing().iter().any(|refusing| refusing.cause == Cause::LogSpace);
        // What is kept for members that are behind is worth less than new entries.
        consensus.purge(if lacks_space { 0 } else { self.policy.keep_bytes }).await;
        if machine.paged().is_some_and(|paged| paged.is_near_budget()) {
            drop_clean(consensus.replica().clone()).await;
        }
        for slot in machine.paged().map_or_else(Vec::new, |paged| paged.newly_damaged()) {
            tracing::error!(slot, "the slot's checksum is wrong: it is served as an error");
        }
        let is_running = consensus.checkpointer().is_running();
        let log_bytes = consensus.wal().log_bytes();
        let usage = machine.usage();
        let asked = self.policy.checkpoint_bytes;
        let checkpoint_bytes = checkpoint_bytes(asked, machine.kind(), usage.data_bytes);
        let age = self.then.elapsed();
        let is_moving = consensus.view().checkpoint != self.checkpoint_then;
        let is_urgent = self.is_urgent(lacks_space, is_moving)
            && (age >= self.urgent_period || is_moving && !is_running);
        let is_due = log_bytes - self.log_bytes_then >= checkpoint_bytes
            || usage.dirty_bytes >= self.policy.dirty_bytes_max
            || age >= AGE_MAX && usage.dirty_bytes > 0;
        if !is_urgent && (!is_due || is_running) {
            return;
        }
        if !is_running {
            self.log_bytes_then = log_bytes; // one that is spread over time may be asked for twice
        }
        if is_urgent {
            self.urgent_period = (self.urgent_period * 2).min(URGENT_PERIOD_MAX);
        }
        self.then = Instant::now();
        self.checkpoint_then = consensus.view().checkpoint;
        let spread_bytes = (checkpoint_bytes / 8 * 7).min(self.policy.dirty_bytes_max / 8);
        consensus.checkpointer().begin(if is_urgent { 0 } else { spread_bytes });
    }

    /// Whether something is refused that a checkpoint ends (I1). `is_moving` if the last one came to
    /// something.
    fn is_urgent(&mut self, lacks_space: bool, is_moving: bool) -> bool {
        let checkpoint = self.consensus.view().checkpoint;
        let replica = self.consensus.replica();
        // The log behind a checkpoint is used again.
        let is_behind = checkpoint.unwrap_or_default().get() < replica.applied_index();
        let is_urgent = lacks_space && is_behind
            || replica.machine.fullness() == Fullness::FullOfDeleted
            || replica.lacks_checkpoint_space();
        if !is_urgent || is_moving {
            self.urgent_period = URGENT_PERIOD;
        }
        is_urgent
    }
}

/// Drops pages that are on the disk from memory. Waits for a round of a checkpoint at most.
async fn drop_clean(replica: Arc<Replica>) {
    let dropped = tokio::task::spawn_blocking(move || replica.drop_clean()).await;
    if let Ok(Err(error)) = dropped {
        tracing::warn!(%error, "pages stay in memory");
    }
}

/// Reads all pages once after a start, so that deltas can skip old ones, live slots are counted and
/// damaged ones are known.
pub(super) async fn learn_slots(replica: Arc<Replica>) {
    let machine = replica.machine.clone();
    let has_the_disk = machine.paged().is_none_or(|paged| paged.fits_in_memory());
    let (mut applied, mut applied_at) = (replica.applied_index(), None);
    // A file that was just made holds nothing to learn.
    let mut next = machine.usage().live_count.is_none().then_some(0);
    while let Some(from) = next {
        let (of_step, begun) = (machine.clone(), Instant::now());
        let applied_now = replica.applied_index();
        if !has_the_disk && std::mem::replace(&mut applied, applied_now) != applied_now {
            applied_at = Some(begun);
        }
        let is_beside = applied_at.is_some_and(|at| begun - at < LEARN_BESIDE_TIME);
        let pages = if is_beside { LEARN_PAGES_BESIDE } else { LEARN_PAGES };
        let step = tokio::task::spawn_blocking(move || of_step.paged()?.learn(from, pages));
        let Ok(then) = step.await else { return };
        next = then;
        tokio::time::sleep(learn_pause(begun.elapsed(), is_beside)).await;
    }
    tracing::debug!(live = machine.usage().live_count, "all slots were read once");
}

/// How long learning rests after a step that took so long, beside commands or alone.
fn learn_pause(step: Duration, is_beside: bool) -> Duration {
    if is_beside {
        (step * LEARN_PAUSE_BESIDE).clamp(LEARN_PAUSE, LEARN_PAUSE_MAX)
    } else {
        LEARN_PAUSE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learning_leaves_the_disk_to_commands_and_comes_to_an_end() {
        let ms = Duration::from_millis;
        assert_eq!(learn_pause(ms(10), false), LEARN_PAUSE);
        assert_eq!(learn_pause(ms(10), true), ms(90));
        assert_eq!(learn_pause(Duration::ZERO, true), LEARN_PAUSE);
        assert_eq!(learn_pause(Duration::from_mins(1), true), LEARN_PAUSE_MAX);
    }
}
