//! Counters of a running node, kept without locks; the one lock is taken once for each batch of writes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Powers of two of microseconds: the last bucket holds everything from about 9 minutes.
pub const BUCKETS: usize = 30;
/// Most batches of entries that are timed between their append and their commit.
const ON_WAY_COUNT_MAX: usize = 1024;

/// How long something took, each time since the start.
#[derive(Debug)]
pub struct Times {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
    max_us: AtomicU64,
}

/// [`Times`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// How many took less than 2, 4, 8 ... microseconds, and not less than half of that; those of the
    /// last took longer, too.
    pub buckets: [u64; BUCKETS],
    /// All of them together, in seconds.
    pub sum_s: f64,
}

impl Default for Times {
    fn default() -> Times {
        let zero = AtomicU64::default;
        let buckets = [const { AtomicU64::new(0) }; BUCKETS];
        Times { buckets, sum_ns: zero(), max_us: zero() }
    }
}

impl Times {
    /// Counts one.
    pub fn record(&self, elapsed: Duration) {
        self.record_many(elapsed, 1);
    }

    /// Counts so many that took as long each.
    pub fn record_many(&self, elapsed: Duration, count: u64) {
        let us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let bucket = usize::try_from(us.max(1).ilog2()).unwrap_or(BUCKETS).min(BUCKETS - 1);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(count, Ordering::Relaxed);
        }
        let ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX).saturating_mul(count);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
        if us > self.max_us() {
            self.max_us.fetch_max(us, Ordering::Relaxed);
        }
    }

    /// How many so far.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// All of them.
    pub fn spread(&self) -> Spread {
        let load = |bucket: &AtomicU64| bucket.load(Ordering::Relaxed);
        let sum = Duration::from_nanos(load(&self.sum_ns));
        Spread { buckets: self.buckets.each_ref().map(load), sum_s: sum.as_secs_f64() }
    }

    /// The time below which `percent` of them stayed, in microseconds: the upper end of its
    /// bucket, so at most twice the true value. 0 where there are none.
    pub fn percentile_us(&self, percent: u64) -> u64 {
        percentile_us(&self.spread().buckets, percent).min(self.max_us())
    }

    /// The longest, in microseconds.
    pub fn max_us(&self) -> u64 {
        self.max_us.load(Ordering::Relaxed)
    }
}

/// The time below which `percent` of what is in these buckets stayed, as [`Spread::buckets`] has them,
/// in microseconds: the upper end of its bucket. 0 where there is nothing.
pub fn percentile_us(buckets: &[u64], percent: u64) -> u64 {
    let count = buckets.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
    let wanted = count.saturating_mul(percent).div_ceil(100).max(1);
    let (mut seen, mut upper) = (0_u64, 1_u64);
    for bucket in buckets.iter().take(BUCKETS) {
        upper *= 2;
        seen = seen.saturating_add(*bucket);
        if seen >= wanted {
            return upper;
        }
    }
    0
}

/// Where the time of a write goes on this member. Each stage is timed once for a batch, whatever that
/// holds.
#[derive(Debug, Default)]
pub struct WriteStages {
    /// From the first command of a batch that came until the batch is proposed.
    pub queue: Times,
    /// Putting entries into the log, where they can be read and wait for the disk. It waits while too
    /// much is not synced.
    pub append: Times,
    /// One write and sync of the log.
    pub sync: Times,
    /// From there until they are known as committed here: the syncs of a majority, and what the
    /// network adds.
    pub commit: Times,
    /// Changing the state, and handing the replies on.
    pub apply: Times,
    /// Batches on their way from append to commit: their last index, and when it was appended.
    on_way: Mutex<VecDeque<Appended>>,
}

#[derive(Debug, Clone, Copy)]
struct Appended {
    last: u64,
    at: Instant,
}

impl WriteStages {
    /// Each stage by its name, in the order in which a write goes through them.
    pub fn named(&self) -> [(&'static str, &Times); 5] {
        let WriteStages { queue, append, sync, commit, apply, on_way: _ } = self;
        [("queue", queue), ("append", append), ("sync", sync), ("commit", commit), ("apply", apply)]
    }

    /// Entries `first` to `last` were put into the log, which began at `begun`.
    pub fn appended(&self, first: u64, last: u64, begun: Instant) {
        let at = Instant::now();
        self.append.record(at.duration_since(begun));
        let mut on_way = self.on_way.lock();
        while on_way.back().is_some_and(|other| other.last >= first) {
            on_way.pop_back(); // it was truncated
        }
        if on_way.len() < ON_WAY_COUNT_MAX {
            on_way.push_back(Appended { last, at });
        }
    }

    /// Entries up to `index` are known as committed since `at`.
    pub fn committed(&self, index: u64, at: Instant) {
        let mut on_way = self.on_way.lock();
        while let Some(batch) = on_way.front().filter(|batch| batch.last <= index) {
            self.commit.record(at.saturating_duration_since(batch.at));
            on_way.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_bound_what_was_recorded() {
        let times = Times::default();
        assert_eq!(times.percentile_us(99), 0);
        for us in 1..=100 {
            times.record(Duration::from_micros(us * 10));
        }
        assert_eq!((times.count(), times.max_us()), (100, 1000));
        assert!((500..=1000).contains(&times.percentile_us(50)));
        assert!((990..=1000).contains(&times.percentile_us(99)));
    }

    #[test]
    fn many_that_took_as_long_count_as_so_many() {
        let times = Times::default();
        times.record_many(Duration::from_millis(5), 3);
        times.record(Duration::from_micros(1));
        let Spread { buckets, sum_s } = times.spread();
        assert_eq!((buckets[12], buckets[0], buckets.iter().sum::<u64>()), (3, 1, 4));
        assert!((sum_s - 0.015_001).abs() < 1e-9, "{sum_s}");
    }

    #[test]
    fn a_batch_is_committed_once_and_not_if_it_was_truncated() {
        let stages = WriteStages::default();
        let now = Instant::now();
        stages.appended(1, 5, now);
        stages.appended(6, 9, now);
        stages.appended(6, 7, now); // contradicts the one before
        stages.committed(5, Instant::now());
        assert_eq!(stages.commit.count(), 1);
        stages.committed(6, Instant::now());
        assert_eq!(stages.commit.count(), 1, "its last entry is not");
        stages.committed(20, Instant::now());
        assert_eq!((stages.commit.count(), stages.append.count()), (2, 3));
        for index in 0..2 * ON_WAY_COUNT_MAX as u64 {
            stages.appended(index + 30, index + 30, now);
        }
        assert_eq!(stages.on_way.lock().len(), ON_WAY_COUNT_MAX);
    }
}
