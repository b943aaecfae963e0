//! The measurements of one thread. Threads' tallies are merged when all of them have ended.
//!
//! - I1: an operation is counted once: as a success with its latency, or as an error.
//! - I2: memory is bounded by the latencies' range and the seconds of a run, not by operations.

use std::collections::BTreeMap;

use hdrhistogram::{Counter, Histogram};

/// Digits of a latency that are kept.
pub(super) const DIGITS: u8 = 3;
/// Digits in the series of seconds.
const SERIES_DIGITS: u8 = 2;
/// Kinds of errors told apart; the rest is counted together.
const KIND_COUNT_MAX: usize = 32;
/// Most bytes of an error's words that are kept.
const WORDS_BYTES_MAX: usize = 200;

/// Kinds of operations that are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tallied {
    Read,
    Write,
    /// A read, and then a write of what was read.
    Modify,
}

/// Operations of one kind that succeeded.
#[derive(Debug)]
pub(super) struct Successes {
    /// Latencies, nanoseconds.
    pub(super) latency: Histogram<u64>,
    /// How many were answered before the measurement ended.
    pub(super) in_time: u64,
}

/// One second of the run.
#[derive(Debug)]
pub(super) struct Second {
    pub(super) reads: u64,
    pub(super) writes: u64,
    pub(super) modifies: u64,
    pub(super) errors: u64,
    /// Latencies of all operations, microseconds.
    pub(super) latency: Histogram<u32>,
}

/// Errors of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Errors {
    pub(super) count: u64,
    /// The words of the first one.
    pub(super) first: String,
}

/// Everything that was measured.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) reads: Successes,
    pub(super) writes: Successes,
    pub(super) modifies: Successes,
    /// Reads that found no value, counted as successes too.
    pub(super) missing: u64,
    pub(super) errors: BTreeMap<String, Errors>,
    pub(super) seconds: Vec<Second>,
    /// When the last success came, nanoseconds.
    pub(super) last: u64,
}

impl Tally {
    pub(super) fn new() -> Tally {
        Tally {
            reads: Successes::new(),
            writes: Successes::new(),
            modifies: Successes::new(),
            missing: 0,
            errors: BTreeMap::new(),
            seconds: Vec::new(),
            last: 0,
        }
    }

    /// Counts a success that was answered `latency` after its start and `now` after the measurement
    /// began, nanoseconds.
    pub(super) fn succeed(&mut self, kind: Tallied, latency: u64, now: u64, is_in_time: bool) {
        let successes = match kind {
            Tallied::Read => &mut self.reads,
            Tallied::Write => &mut self.writes,
            Tallied::Modify => &mut self.modifies,
        };
        record(&mut successes.latency, latency);
        successes.in_time += u64::from(is_in_time);
        self.last = self.last.max(now);
        let second = self.second(now);
        match kind {
            Tallied::Read => second.reads += 1,
            Tallied::Write => second.writes += 1,
            Tallied::Modify => second.modifies += 1,
        }
        record(&mut second.latency, latency / 1000);
    }

    /// Counts `count` errors with these words, the first of which is their kind.
    pub(super) fn fail(&mut self, words: &str, count: u64, now: u64) {
        let kind = words.split([' ', ':']).next().unwrap_or_default();
        self.fail_as(kind, words, count);
        self.second(now).errors += count;
    }

    fn fail_as(&mut self, kind: &str, words: &str, count: u64) {
        if let Some(errors) = self.errors.get_mut(kind) {
            errors.count += count;
            return;
        }
        let kind = if self.errors.len() < KIND_COUNT_MAX { kind } else { "others" };
        let first = words.chars().filter(|char| !char.is_control()).take(WORDS_BYTES_MAX).collect();
        let new = Errors { count: 0, first };
        self.errors.entry(kind.to_owned()).or_insert(new).count += count;
    }

    /// Adds what another thread has measured.
    pub(super) fn add(&mut self, other: &Tally) {
        for (mine, others) in [
            (&mut self.reads, &other.reads),
            (&mut self.writes, &other.writes),
            (&mut self.modifies, &other.modifies),
        ] {
            mine.latency.add(&others.latency).expect("invariant: histograms grow as needed");
            mine.in_time += others.in_time;
        }
        self.missing += other.missing;
        self.last = self.last.max(other.last);
        for (kind, errors) in &other.errors {
            self.fail_as(kind, &errors.first, errors.count);
        }
        for (index, second) in other.seconds.iter().enumerate() {
            let mine = self.second_at(index);
            mine.reads += second.reads;
            mine.writes += second.writes;
            mine.modifies += second.modifies;
            mine.errors += second.errors;
            mine.latency.add(&second.latency).expect("invariant: histograms grow as needed");
        }
    }

    fn second(&mut self, now: u64) -> &mut Second {
        self.second_at(super::to_index(now / 1_000_000_000))
    }

    fn second_at(&mut self, index: usize) -> &mut Second {
        while self.seconds.len() <= index {
            self.seconds.push(Second::new());
        }
        &mut self.seconds[index]
    }
}

fn record<C: Counter>(histogram: &mut Histogram<C>, value: u64) {
    histogram.record(value).expect("invariant: histograms grow as needed");
}

impl Successes {
    fn new() -> Successes {
        let latency = Histogram::new(DIGITS).expect("invariant: three digits are allowed");
        Successes { latency, in_time: 0 }
    }
}

impl Second {
    fn new() -> Second {
        let latency = Histogram::new(SERIES_DIGITS).expect("invariant: two digits are allowed");
        Second { reads: 0, writes: 0, modifies: 0, errors: 0, latency }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn threads_add_up() {
        let mut one = Tally::new();
        one.succeed(Tallied::Read, 1_000_000, SECOND / 2, true);
        one.succeed(Tallied::Write, 2_000_000, SECOND / 2, true);
        one.fail("BUSY later", 2, SECOND / 2);
        let mut other = Tally::new();
        other.succeed(Tallied::Write, 9_000_000_000, 3 * SECOND, false);
        other.fail("BUSY now", 3, 3 * SECOND);
        other.fail("closed", 1, 3 * SECOND);
        other.missing = 1;
        one.add(&other);
        assert_eq!((one.reads.latency.len(), one.missing), (1, 1));
        assert_eq!((one.writes.latency.len(), one.writes.in_time), (2, 1));
        assert!(one.writes.latency.max() >= 9_000_000_000);
        assert_eq!(one.errors["BUSY"], Errors { count: 5, first: "BUSY later".to_owned() });
        let seconds: Vec<_> = one.seconds.iter().map(|s| (s.reads, s.writes, s.errors)).collect();
        assert_eq!(seconds, [(1, 1, 2), (0, 0, 0), (0, 0, 0), (0, 1, 4)]);
        assert_eq!(one.last, 3 * SECOND);
    }

    #[test]
    fn endless_kinds_of_errors_are_counted_together() {
        let mut tally = Tally::new();
        for kind in 0..1000 {
            tally.fail(&format!("E{kind} {}", "long ".repeat(1000)), 1, 0);
        }
        assert_eq!(tally.errors.len(), KIND_COUNT_MAX + 1);
        assert_eq!(tally.errors.values().map(|errors| errors.count).sum::<u64>(), 1000);
        assert!(tally.errors.values().all(|errors| errors.first.len() <= WORDS_BYTES_MAX));
    }
}
