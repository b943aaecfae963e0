//! Counters of a running node, kept without locks; the one lock is taken once for each stage of a batch of
//! writes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use diskstore_storage::wal::Position;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Powers of two of microseconds: the last bucket holds everything from about 9 minutes.
pub const BUCKETS: usize = 30;
/// Most batches of each stage that are remembered, for those who ask for the receipt of a write just now.
const TRAIL_COUNT_MAX: usize = 1024;

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
    trail: Mutex<Trail>,
}

/// How long one entry spent in each stage; `None` of those of which that is not known here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// See [`WriteStages`].
    pub queue: Option<Duration>,
    /// See [`WriteStages`].
    pub append: Option<Duration>,
    /// See [`WriteStages`].
    pub sync: Option<Duration>,
    /// See [`WriteStages`].
    pub commit: Option<Duration>,
    /// See [`WriteStages`].
    pub apply: Option<Duration>,
}

/// What each stage did last, in order. It is noted where the times are taken anyway, and takes no memory
/// beyond that of the start.
#[derive(Debug)]
struct Trail {
    queued: VecDeque<Queued>,
    appended: VecDeque<Appended>,
    /// How many of `appended`, at its end, are not known as committed.
    on_way_count: usize,
    synced: VecDeque<Reached<Position, Duration>>,
    committed: VecDeque<Reached<u64, Instant>>,
    applied: VecDeque<Reached<u64, Duration>>,
}

/// A batch of commands that was proposed here, by the indexes that its entries got.
#[derive(Debug, Clone, Copy)]
struct Queued {
    first: u64,
    last: u64,
    took: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Appended {
    last: u64,
    position: Position,
    took: Duration,
    at: Instant,
}

/// A stage had reached everything up to here.
#[derive(Debug, Clone, Copy)]
struct Reached<U, D> {
    upto: U,
    detail: D,
}

impl Default for Trail {
    fn default() -> Trail {
        fn ring<T>() -> VecDeque<T> {
            VecDeque::with_capacity(TRAIL_COUNT_MAX)
        }
        Trail {
            queued: ring(),
            appended: ring(),
            on_way_count: 0,
            synced: ring(),
            committed: ring(),
            applied: ring(),
        }
    }
}

impl WriteStages {
    /// Each stage by its name, in the order in which a write goes through them.
    pub fn named(&self) -> [(&'static str, &Times); 5] {
        let WriteStages { queue, append, sync, commit, apply, trail: _ } = self;
        [("queue", queue), ("append", append), ("sync", sync), ("commit", commit), ("apply", apply)]
    }

    /// Entries `first` to `last` were proposed here, `took` after the first of their commands came.
    pub fn queued(&self, first: u64, last: u64, took: Duration) {
        keep(&mut self.trail.lock().queued, Queued { first, last, took });
    }

    /// Entries `first` to `last` were put into the log at this position, which began at `begun`.
    pub fn appended(&self, first: u64, last: u64, position: Position, begun: Instant) {
        let at = Instant::now();
        let took = at.duration_since(begun);
        self.append.record(took);
        let mut trail = self.trail.lock();
        let Trail { appended, on_way_count, .. } = &mut *trail;
        while appended.back().is_some_and(|other| other.last >= first) {
            appended.pop_back(); // it was truncated
            *on_way_count = on_way_count.saturating_sub(1);
        }
        keep(appended, Appended { last, position, took, at });
        *on_way_count = (*on_way_count + 1).min(appended.len());
    }

    /// One write and sync of the log took so long, and everything up to this position is durable.
    pub fn synced(&self, upto: Position, took: Duration) {
        self.sync.record(took);
        keep(&mut self.trail.lock().synced, Reached { upto, detail: took });
    }

    /// Entries up to `index` are known as committed since `at`.
    pub fn committed(&self, index: u64, at: Instant) {
        let mut trail = self.trail.lock();
        let Trail { appended, on_way_count, committed, .. } = &mut *trail;
        let on_way = appended.range(appended.len() - *on_way_count..);
        let done = on_way.take_while(|batch| batch.last <= index);
        let done = done.map(|batch| self.commit.record(at.saturating_duration_since(batch.at)));
        *on_way_count -= done.count();
        keep(committed, Reached { upto: index, detail: at });
    }

    /// Entries up to `index` were applied by a call that took so long.
    pub fn applied(&self, index: u64, took: Duration) {
        self.apply.record(took);
        keep(&mut self.trail.lock().applied, Reached { upto: index, detail: took });
    }

    /// How long an entry spent in each stage; `None` if it was not proposed here, or long ago.
    pub fn of_entry(&self, index: u64) -> Option<StageTimes> {
        let trail = self.trail.lock();
        let Trail { queued, appended, on_way_count: _, synced, committed, applied } = &*trail;
        let holds = |batch: &&Queued| (batch.first..=batch.last).contains(&index);
        let queue = queued.iter().rev().find(holds)?.took;
        let batch = covering(appended, |batch| batch.last < index);
        let forgot_sync =
            |batch: &Appended| has_forgotten(synced, |sync| sync.upto < batch.position);
        if has_forgotten(appended, |batch| batch.last < index)
            || has_forgotten(applied, |step| step.upto < index)
            || batch.is_some_and(forgot_sync)
        {
            return None; // or whoever waits for all of its times would wait for ever
        }
        let sync = batch.and_then(|batch| covering(synced, |sync| sync.upto < batch.position));
        let commit = covering(committed, |step| step.upto < index);
        let applied = covering(applied, |step| step.upto < index);
        let waited = |(batch, commit): (&Appended, &Reached<u64, Instant>)| {
            commit.detail.saturating_duration_since(batch.at)
        };
        Some(StageTimes {
            queue: Some(queue),
            append: batch.map(|batch| batch.took),
            sync: sync.map(|sync| sync.detail),
            commit: batch.zip(commit).map(waited),
            apply: applied.map(|step| step.detail),
        })
    }
}

/// Remembers one more, and no more than the bound.
fn keep<T>(ring: &mut VecDeque<T>, one: T) {
    if ring.len() >= TRAIL_COUNT_MAX {
        ring.pop_front();
    }
    ring.push_back(one);
}

/// The first that is not before what is looked for. Where older ones were forgotten, the first of all may
/// not be it.
fn covering<T>(ring: &VecDeque<T>, is_before: impl FnMut(&T) -> bool) -> Option<&T> {
    let at = ring.partition_point(is_before);
    ring.get(at).filter(|_| at > 0 || ring.len() < TRAIL_COUNT_MAX)
}

/// Whether what is looked for may be among those that were forgotten.
fn has_forgotten<T>(ring: &VecDeque<T>, is_before: impl FnMut(&T) -> bool) -> bool {
    ring.len() >= TRAIL_COUNT_MAX && !ring.front().is_some_and(is_before)
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
        let appended = |first, last| stages.appended(first, last, Position(first), now);
        appended(1, 5);
        appended(6, 9);
        appended(6, 7); // contradicts the one before
        stages.committed(5, Instant::now());
        assert_eq!(stages.commit.count(), 1);
        stages.committed(6, Instant::now());
        assert_eq!(stages.commit.count(), 1, "its last entry is not");
        stages.committed(20, Instant::now());
        assert_eq!((stages.commit.count(), stages.append.count()), (2, 3));
        for index in 0..2 * TRAIL_COUNT_MAX as u64 {
            appended(index + 30, index + 30);
        }
        let trail = stages.trail.lock();
        assert_eq!((trail.appended.len(), trail.on_way_count), (TRAIL_COUNT_MAX, TRAIL_COUNT_MAX));
    }

    #[test]
    fn the_stages_of_an_entry_are_those_of_its_batches_as_far_as_they_are_known() {
        let (stages, now, ms) = (WriteStages::default(), Instant::now(), Duration::from_millis);
        stages.appended(1, 4, Position(7), now);
        stages.appended(5, 9, Position(8), now);
        assert_eq!(stages.of_entry(5), None, "another leader proposed it");
        stages.queued(5, 8, ms(1));
        let times = stages.of_entry(5).unwrap();
        assert_eq!((times.queue, times.sync, times.apply), (Some(ms(1)), None, None));
        assert!(times.append.is_some() && times.commit.is_none());
        stages.synced(Position(7), ms(2));
        assert_eq!(stages.of_entry(5).unwrap().sync, None, "that was another batch");
        stages.synced(Position(8), ms(3));
        stages.committed(6, Instant::now() + ms(500));
        stages.applied(6, ms(4));
        let times = stages.of_entry(5).unwrap();
        assert_eq!((times.sync, times.apply), (Some(ms(3)), Some(ms(4))));
        assert!(times.commit.unwrap() >= ms(500), "{times:?}");
        assert_eq!(stages.of_entry(7).unwrap().apply, None, "it is not applied yet");
        assert_eq!(stages.of_entry(9), None, "it is no command of a client");
    }

    #[test]
    fn what_was_forgotten_is_not_guessed() {
        let (stages, took) = (WriteStages::default(), Duration::from_millis(1));
        stages.queued(1, 1, took);
        for index in 1..=2 * TRAIL_COUNT_MAX as u64 {
            stages.applied(index, took);
        }
        assert_eq!(stages.of_entry(1), None);
    }

    /// A write without others beside it costs two syncs, so these are forgotten first.
    #[test]
    fn an_entry_of_which_one_stage_was_forgotten_is_long_ago() {
        let (stages, took) = (WriteStages::default(), Duration::from_millis(1));
        stages.queued(1, 2, took);
        stages.appended(1, 1, Position(1), Instant::now());
        stages.appended(2, 2, Position(3), Instant::now());
        stages.applied(2, took);
        for position in 1..=TRAIL_COUNT_MAX as u64 {
            assert!(stages.of_entry(1).unwrap().apply.is_some(), "{position}");
            stages.synced(Position(position), took);
        }
        assert_eq!(stages.of_entry(1), None);
        assert_eq!(stages.of_entry(2).unwrap().sync, Some(took));
    }
}
