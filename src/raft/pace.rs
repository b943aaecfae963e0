//! Spreads the writing of a checkpoint over time, so that it takes little from those who write.
//!
//! Called by the checkpoint between two rounds; looks at the log and the clock, and sleeps.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use diskstore_storage::slots::{ROUND_PAGES_DEFAULT, Slots};

use super::syncer::Syncer;

/// At most this many times as long as a round took is slept before the next one.
const IDLE_FACTOR: u32 = 8;
/// How often a sleeper looks whether it may go on sleeping.
const SLICE: Duration = Duration::from_millis(5);

/// The pace of one checkpoint. It is on schedule while the share of its rounds that are done is at
/// least the share of `spread_bytes` by which the log has grown since it began.
pub(super) struct Pace<'a> {
    slots: &'a Slots,
    syncer: &'a Syncer,
    spread_bytes: &'a AtomicU64,
    log_bytes_then: u64,
    round_count: u64,
    done_count: u64,
    since: Instant,
}

impl<'a> Pace<'a> {
    /// The pace of a checkpoint that begins now. It goes at full speed while `spread_bytes` is 0,
    /// which may change as it goes on.
    pub(super) fn new(slots: &'a Slots, syncer: &'a Syncer, spread_bytes: &'a AtomicU64) -> Self {
        let round_count = slots.dirty_pages().div_ceil(ROUND_PAGES_DEFAULT).max(1);
        let (log_bytes_then, since) = (syncer.log_bytes(), Instant::now());
        Pace { slots, syncer, spread_bytes, log_bytes_then, round_count, done_count: 0, since }
    }

    /// Sleeps after a round, unless the checkpoint is late or somebody waits for it.
    pub(super) fn rest(&mut self) {
        self.done_count += 1;
        let end = Instant::now() + self.since.elapsed() * IDLE_FACTOR;
        while self.is_early() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(SLICE));
        }
        self.since = Instant::now();
    }

    fn is_early(&self) -> bool {
        let spread_bytes = self.spread_bytes.load(Ordering::Relaxed);
        let grown = self.syncer.log_bytes().saturating_sub(self.log_bytes_then);
        let is_on_schedule = u128::from(grown) * u128::from(self.round_count)
            <= u128::from(spread_bytes) * u128::from(self.done_count);
        // At the memory budget applying waits for this checkpoint.
        spread_bytes > 0 && is_on_schedule && !self.slots.over_budget()
    }
}
