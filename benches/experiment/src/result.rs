//! What one run came to. Kept as JSON; tables, plots and the report are made from all of them.

use serde::{Deserialize, Serialize};

use crate::plan::Run;
use crate::statistics::float;

/// Writes of probes are counted by so many milliseconds.
pub(crate) const SERVICE_BIN_MS: u64 = 50;

/// A run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RunResult {
    pub(crate) run: Run,
    /// When the measurement began, milliseconds since 1970.
    pub(crate) begin_unix_ms: u64,
    /// How long the run took, with starting and stopping.
    pub(crate) whole_s: f64,
    pub(crate) load: Option<LoadReport>,
    pub(crate) latencies: Vec<Quantile>,
    pub(crate) resources: Vec<Resources>,
    pub(crate) events: Vec<Event>,
    pub(crate) nodes: NodeCounts,
    pub(crate) recovery: Option<Recovery>,
    pub(crate) failover: Option<Failover>,
}

/// A percentile of which reports speak.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Percentile {
    pub(crate) name: &'static str,
    /// Of operations in a thousand, how many are slower.
    slower: u64,
    latency: fn(&Latency) -> f64,
}

/// Those that are shown.
pub(crate) const PERCENTILES: [Percentile; 4] = [
    Percentile { name: "p50", slower: 500, latency: |latency| latency.p50_ms },
    Percentile { name: "p90", slower: 100, latency: |latency| latency.p90_ms },
    Percentile { name: "p99", slower: 10, latency: |latency| latency.p99_ms },
    Percentile { name: "p99.9", slower: 1, latency: |latency| latency.p999_ms },
];
/// A percentile that fewer operations exceed is a matter of chance.
const SLOWER_COUNT_MIN: u64 = 10;

impl Percentile {
    /// Its latency in milliseconds, if there were enough operations to speak of it.
    pub(crate) fn of(self, load: &LoadReport) -> Option<f64> {
        let slower = load.all.count * self.slower / 1000;
        (slower >= SLOWER_COUNT_MIN).then(|| (self.latency)(&load.all.latency))
    }
}

/// What `diskstore bench -json` printed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LoadReport {
    pub(crate) load: String,
    pub(crate) seconds: f64,
    pub(crate) all: Operations,
    pub(crate) reads: Operations,
    pub(crate) writes: Operations,
    pub(crate) modifies: Operations,
    pub(crate) missing: u64,
    pub(crate) errors: Vec<Errors>,
    pub(crate) series: Vec<Second>,
}

/// Operations that succeeded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Operations {
    pub(crate) count: u64,
    pub(crate) per_second: f64,
    pub(crate) latency: Latency,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) mean_ms: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
}

/// What failed, of one kind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Errors {
    pub(crate) kind: String,
    pub(crate) count: u64,
    pub(crate) first: String,
}

/// One second of the measurement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Second {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) modifies: u64,
    pub(crate) errors: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

/// So large a share of operations of a kind took no longer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Quantile {
    /// `reads`, `writes` or `modifies`.
    pub(crate) operation: String,
    pub(crate) quantile: f64,
    pub(crate) ms: f64,
    /// How many took no longer.
    pub(crate) count: u64,
}

/// What `monit` wrote of a process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Resources {
    pub(crate) process: String,
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<u64>>,
}

/// Something that happened to the cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// Since the measurement began; at its end, where it took time.
    pub(crate) second: f64,
    pub(crate) took_s: f64,
    /// `checkpoint`, `election`, `snapshot`, `join`, `kill`.
    pub(crate) kind: String,
    pub(crate) process: String,
}

/// What nodes say of themselves after the measurement.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct NodeCounts {
    /// Syncs of the leader's log during the measurement.
    pub(crate) sync_count: u64,
    pub(crate) sync_p50_us: u64,
    pub(crate) sync_p99_us: u64,
    /// Flags in force that weaken a promise.
    pub(crate) unsafe_flags: Vec<String>,
    /// Entries that a learner lacks at the end, the largest number of them.
    pub(crate) learner_lag_max: Option<u64>,
}

/// A recovery.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Recovery {
    /// Commands that were written before, or that were installed.
    pub(crate) commands: u64,
    /// Bytes that were fetched, or that other members sent.
    pub(crate) bytes: u64,
    pub(crate) transfer_ms: Option<f64>,
    pub(crate) install_ms: Option<f64>,
    pub(crate) total_ms: f64,
}

/// A failover.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Failover {
    /// When the leader was killed.
    pub(crate) kill_s: f64,
    /// The longest time without a successful write from then on, anywhere.
    pub(crate) without_service_ms: f64,
    /// Until a node that lives was in a later term: it, or another one, campaigns.
    #[serde(default)]
    pub(crate) campaign_ms: Option<f64>,
    /// Until a node that lives said that it leads.
    pub(crate) elected_ms: Option<f64>,
    /// Until the longest time without a write was over.
    #[serde(default)]
    pub(crate) resumed_ms: Option<f64>,
    /// Writes of probes that succeeded, by [`SERVICE_BIN_MS`] since the measurement began.
    pub(crate) service: Vec<u64>,
}

impl RunResult {
    /// A run of which nothing is known yet.
    pub(crate) fn new(run: Run) -> RunResult {
        RunResult {
            run,
            begin_unix_ms: 0,
            whole_s: 0.0,
            load: None,
            latencies: Vec::new(),
            resources: Vec::new(),
            events: Vec::new(),
            nodes: NodeCounts::default(),
            recovery: None,
            failover: None,
        }
    }

    /// The outcome in a few words.
    pub(crate) fn words(&self) -> String {
        if let Some(recovery) = &self.recovery {
            return format!("recovered in {:.0} ms", recovery.total_ms);
        }
        let load = format!("{:.0} operations/s", self.per_second());
        match &self.failover {
            Some(failover) => {
                format!("{load}, {:.0} ms without service", failover.without_service_ms)
            }
            None => load,
        }
    }

    /// The latencies of a kind of operations with the share of operations that took longer, as far as one
    /// did: so the slowest is not among them.
    pub(crate) fn tail(&self, operation: &str) -> Vec<(f64, f64)> {
        let rows = || self.latencies.iter().filter(|row| row.operation == operation);
        let count = rows().map(|row| row.count).max().unwrap_or_default();
        let mut tail: Vec<(f64, f64)> = Vec::new();
        for row in rows().filter(|row| row.count < count) {
            // Several quantiles may have one latency.
            if tail.last().is_some_and(|last| (last.0 - row.ms).abs() < f64::EPSILON) {
                tail.pop();
            }
            tail.push((row.ms, float(count - row.count) / float(count)));
        }
        tail
    }

    /// Operations a second.
    pub(crate) fn per_second(&self) -> f64 {
        self.load.as_ref().map_or(0.0, |load| load.all.per_second)
    }
}

impl Recovery {
    /// Commands installed a second, transfer and installation together; `None` where slots came or a
    /// part of the log was replayed, which nobody counts in commands.
    pub(crate) fn per_second(&self) -> Option<f64> {
        self.install_ms.map(|_| float(self.commands) / (self.total_ms / 1e3))
    }
}

impl Failover {
    /// The ends of detection, election and the wait for the first write: milliseconds after the kill.
    pub(crate) fn bounds_ms(&self) -> [Option<f64>; 3] {
        [self.campaign_ms, self.elected_ms, self.resumed_ms]
    }

    /// How long each of them took. What was seen late by asking takes no time rather than less than none.
    pub(crate) fn parts_ms(&self) -> [Option<f64>; 3] {
        let [campaign, elected, resumed] = self.bounds_ms();
        let between = |from: Option<f64>, to: Option<f64>| Some((to? - from?).max(0.0));
        [campaign, between(campaign, elected), between(elected, resumed)]
    }
}

impl LoadReport {
    /// How many failed.
    pub(crate) fn error_count(&self) -> u64 {
        self.errors.iter().map(|errors| errors.count).sum()
    }
}

impl Resources {
    /// The values of a column, row by row.
    pub(crate) fn column(&self, name: &str) -> impl Iterator<Item = u64> {
        let at = self.columns.iter().position(|column| column == name);
        self.rows.iter().filter_map(move |row| row.get(at?).copied())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn report() -> LoadReport {
        let text = r#"{"load":"x","seconds":2.0,"missing":0,"errors":[],
            "all":{"count":3,"per_second":1.5,"latency":{"mean_ms":1,"p50_ms":1,"p90_ms":1,"p99_ms":1,"p999_ms":1,"max_ms":1}},
            "reads":{"count":0,"per_second":0,"latency":{"mean_ms":0,"p50_ms":0,"p90_ms":0,"p99_ms":0,"p999_ms":0,"max_ms":0}},
            "writes":{"count":3,"per_second":1.5,"latency":{"mean_ms":1,"p50_ms":1,"p90_ms":1,"p99_ms":1,"p999_ms":1,"max_ms":1}},
            "modifies":{"count":0,"per_second":0,"latency":{"mean_ms":0,"p50_ms":0,"p90_ms":0,"p99_ms":0,"p999_ms":0,"max_ms":0}},
            "series":[{"reads":0,"writes":3,"modifies":0,"errors":0,"p50_ms":1,"p99_ms":1,"max_ms":1}]}"#;
        serde_json::from_str(text).unwrap()
    }

    pub(crate) fn latencies() -> Vec<Quantile> {
        let quantile = |(quantile, ms, count)| Quantile {
            operation: "writes".to_owned(),
            quantile,
            ms,
            count,
        };
        [(0.0, 0.5, 1), (0.5, 1.0, 2), (1.0, 8.0, 3)].map(quantile).into()
    }

    /// A run of a plan's first point, with a load of so many operations.
    pub(crate) fn loaded(point: crate::plan::Point, repetition: u64, per_second: f64) -> RunResult {
        let mut result = RunResult::new(Run { number: repetition, repetition, point });
        let mut load = report();
        load.all.per_second = per_second;
        load.all.count = 100_000;
        result.load = Some(load);
        result
    }

    #[test]
    fn a_tail_ends_where_nothing_took_longer_and_has_each_latency_once() {
        let plan = "title = 'x'\nkind = 'load'";
        let run = crate::plan::Plan::parse(plan, false).unwrap().runs().remove(0);
        let mut result = RunResult::new(run);
        let row = |ms, count| Quantile { operation: "writes".to_owned(), quantile: 0.0, ms, count };
        result.latencies = vec![row(1.0, 50), row(2.0, 90), row(2.0, 98), row(9.0, 100)];
        assert_eq!(result.tail("writes"), [(1.0, 0.5), (2.0, 0.02)]);
        assert_eq!(result.tail("reads"), []);
    }

    #[test]
    fn a_percentile_that_nearly_nothing_exceeds_is_none() {
        let mut load = report();
        for (count, has) in
            [(9_999, [true, true, true, false]), (10_000, [true; 4]), (3, [false; 4])]
        {
            load.all.count = count;
            assert_eq!(
                PERCENTILES.map(|percentile| percentile.of(&load).is_some()),
                has,
                "{count}"
            );
        }
    }

    #[test]
    fn a_failover_is_parted_into_detection_election_and_the_first_write() {
        let [campaign_ms, elected_ms, resumed_ms] = [Some(1_500.0), Some(1_520.0), Some(1_515.0)];
        let failover = Failover { campaign_ms, elected_ms, resumed_ms, ..Failover::default() };
        assert_eq!(failover.parts_ms(), [Some(1_500.0), Some(20.0), Some(0.0)]);
        let unseen = Failover { elected_ms, ..Failover::default() };
        assert_eq!(unseen.parts_ms(), [None; 3]);
    }
}
