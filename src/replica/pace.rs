//! Spreads background work, a checkpoint or a snapshot, over time, so that writes beside it are
//! hardly slowed down.
//!
//! Called by `raft`, `snapshot`, `state` and `syncer` after each step of the work. While there are
//! no writes, the work goes at full speed; and it is never spread so far that the log, which cannot
//! be purged meanwhile, grows for ever.

use std::time::Duration;

use tokio::time::Instant;

/// A rest takes this many times as long as the step before it ...
const IDLE_FACTOR: u32 = 8;
/// ... but at most this long, so that a slow step is not followed by a long silence.
const REST_MAX: Duration = Duration::from_millis(100);
/// Somebody writes if the log grew by more than this during a step.
const BUSY_BYTES: u64 = 1024;

/// The pace of one piece of work.
#[derive(Debug)]
pub(crate) struct Pace {
    /// The whole work, in steps or any other unit of progress; at least 1.
    total: u64,
    log_bytes_at_begin: u64,
    log_bytes: u64,
    step_began: Instant,
}

impl Pace {
    /// Begins work of `total` units, at a time when `log_bytes` have been written to the log.
    pub(crate) fn new(total: u64, log_bytes: u64) -> Pace {
        let step_began = Instant::now();
        Pace { total: total.max(1), log_bytes_at_begin: log_bytes, log_bytes, step_began }
    }

    /// How long to rest before the next step, once `done` units are done. There is no rest while the
    /// work is behind: while its done share is below the share of `spread_bytes` that the log has
    /// grown by since the work began.
    pub(crate) fn rest(&mut self, done: u64, log_bytes: u64, spread_bytes: u64) -> Duration {
        let is_busy = log_bytes.saturating_sub(self.log_bytes) > BUSY_BYTES;
        let grown = log_bytes.saturating_sub(self.log_bytes_at_begin);
        let is_late = u128::from(grown) * u128::from(self.total)
            > u128::from(spread_bytes) * u128::from(done.min(self.total));
        let rest = if is_busy && !is_late {
            (self.step_began.elapsed() * IDLE_FACTOR).min(REST_MAX)
        } else {
            Duration::ZERO
        };
        self.log_bytes = log_bytes;
        self.step_began = Instant::now() + rest;
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// The rest after the first tenth of some work, a moment after it began.
    fn rest(grown: u64, spread_bytes: u64) -> Duration {
        let mut pace = Pace::new(100, 7 * MIB);
        std::thread::sleep(Duration::from_millis(1));
        pace.rest(10, 7 * MIB + grown, spread_bytes)
    }

    #[test]
    fn work_rests_while_somebody_writes() {
        assert!(rest(MIB, 100 * MIB) >= Duration::from_millis(8));
        assert!(rest(MIB, 100 * MIB) <= REST_MAX);
    }

    #[test]
    fn work_goes_on_at_once_while_nobody_writes_or_once_it_is_late() {
        assert_eq!(rest(0, 100 * MIB), Duration::ZERO);
        assert_eq!(rest(11 * MIB, 100 * MIB), Duration::ZERO);
        assert_eq!(rest(MIB, 0), Duration::ZERO);
    }
}
