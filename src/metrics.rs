//! Counters of a running node, kept without locks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Powers of two of microseconds: the last bucket holds everything from about 9 minutes.
const BUCKETS: usize = 30;

/// How long the syncs of the log took.
#[derive(Debug)]
pub struct SyncTimes {
    buckets: [AtomicU64; BUCKETS],
    max_us: AtomicU64,
}

impl Default for SyncTimes {
    fn default() -> Self {
        SyncTimes { buckets: [const { AtomicU64::new(0) }; BUCKETS], max_us: AtomicU64::new(0) }
    }
}

impl SyncTimes {
    /// Counts one sync.
    pub fn record(&self, elapsed: Duration) {
        let us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let bucket = usize::try_from(us.max(1).ilog2()).unwrap_or(BUCKETS).min(BUCKETS - 1);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.max_us.fetch_max(us, Ordering::Relaxed);
    }

    /// Syncs so far.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// The time below which `percent` of the syncs stayed, in microseconds: the upper end of its
    /// bucket, so at most twice the true value. 0 without syncs.
    pub fn percentile_us(&self, percent: u64) -> u64 {
        let count = self.count();
        let wanted = (count * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let mut upper = 1;
        for bucket in &self.buckets {
            upper *= 2;
            seen += bucket.load(Ordering::Relaxed);
            if seen >= wanted {
                return upper.min(self.max_us());
            }
        }
        self.max_us()
    }

    /// The longest, in microseconds.
    pub fn max_us(&self) -> u64 {
        self.max_us.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_bound_what_was_recorded() {
        let times = SyncTimes::default();
        assert_eq!(times.percentile_us(99), 0);
        for us in 1..=100 {
            times.record(Duration::from_micros(us * 10));
        }
        assert_eq!((times.count(), times.max_us()), (100, 1000));
        assert!((500..=1000).contains(&times.percentile_us(50)));
        assert!((990..=1000).contains(&times.percentile_us(99)));
    }
}
