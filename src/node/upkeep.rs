//! What a running node does on its own: checkpoints, purging, and learning what its slots hold.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::checkpoint_bytes;
use crate::raft::{Consensus, MachineShared};

/// How often a node looks whether a checkpoint is due.
const PERIOD: Duration = Duration::from_millis(200);
/// A checkpoint is due after this time if anything changed.
const AGE_MAX: Duration = Duration::from_mins(10);
/// A checkpoint that shows no result for so long was cancelled.
const CANCELLED_AFTER: Duration = Duration::from_mins(1);
/// The pause between two steps of learning, so that a start is not slowed down.
const LEARN_PAUSE: Duration = Duration::from_millis(2);

/// When checkpoints are due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    /// Bytes of log between two checkpoints, if asked for.
    pub(super) checkpoint_bytes: Option<u64>,
    /// Bytes of log kept behind the checkpoint.
    pub(super) keep_bytes: u64,
    /// Bytes of dirty pages at which a checkpoint is due before the log asks for one: half of the
    /// memory budget, where the data file does not fit in that.
    pub(super) dirty_bytes_max: u64,
}

/// Asks for checkpoints when they are due, purges the log behind them, and tells of damaged slots.
pub(super) async fn keep_log_short(consensus: Arc<Consensus>, policy: Policy) {
    let machine = consensus.shared().machine.clone();
    let (mut log_bytes_then, mut then) = (0, Instant::now());
    let mut checkpoint_then = consensus.view().checkpoint;
    let mut is_running = false;
    loop {
        tokio::time::sleep(PERIOD).await;
        let checkpoint = consensus.view().checkpoint;
        if checkpoint != checkpoint_then {
            checkpoint_then = checkpoint;
            is_running = false;
        }
        consensus.purge(policy.keep_bytes).await;
        for slot in machine.newly_damaged() {
            tracing::error!(slot, "the slot's checksum is wrong: it is served as an error");
        }
        let log_bytes = consensus.wal().log_bytes();
        let checkpoint_bytes = checkpoint_bytes(policy.checkpoint_bytes, machine.data_bytes());
        let is_due = log_bytes - log_bytes_then >= checkpoint_bytes
            || machine.dirty_bytes() >= policy.dirty_bytes_max
            || then.elapsed() >= AGE_MAX && machine.dirty_bytes() > 0;
        // One that was cancelled by an install never shows; after a while another is asked for.
        if is_due && (!is_running || then.elapsed() >= CANCELLED_AFTER) {
            if !is_running {
                log_bytes_then = log_bytes; // one that is spread over time may be asked for twice
            }
            (then, is_running) = (Instant::now(), true);
            let spread_bytes = (checkpoint_bytes / 8 * 7).min(policy.dirty_bytes_max / 8);
            consensus.trigger_checkpoint(spread_bytes).await;
        }
    }
}

/// Reads all pages once after a start, so that deltas can skip old ones, live slots are counted and
/// damaged ones are known.
pub(super) async fn learn_slots(shared: Arc<MachineShared>) {
    let machine = shared.machine.clone();
    // A file that was just made holds nothing to learn.
    let mut next = machine.live_count().is_none().then_some(0);
    while let Some(from) = next {
        let of_step = machine.clone();
        let step = tokio::task::spawn_blocking(move || of_step.learn(from));
        let Ok(then) = step.await else { return };
        next = then;
        tokio::time::sleep(LEARN_PAUSE).await;
    }
    tracing::debug!(live = machine.live_count(), "all slots were read once");
}
