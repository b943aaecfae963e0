//! The result of a run: as a table, as JSON (fields are only ever added), and as files in the
//! format of HdrHistogram, for its plotters.

use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::tally::{DIGITS, Second, Successes, Tally};
use super::{Load, Pace, to_float};

/// Steps of each halving of the distance to 100 % in a file of quantiles.
const TICKS_PER_HALF: u32 = 5;

/// A run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was asked for, in words.
    pub load: String,
    /// The name of the workload, if it has one.
    pub workload: Option<&'static str>,
    /// Flags of the servers that weaken a promise.
    pub unsafe_flags: Vec<String>,
    /// How long was measured, seconds.
    pub seconds: f64,
    /// All operations together.
    pub all: OperationReport,
    /// Reads that succeeded.
    pub reads: OperationReport,
    /// Writes that succeeded.
    pub writes: OperationReport,
    /// Reads followed by a write of the same record, each pair one operation.
    pub modifies: OperationReport,
    /// Reads that found no value, among those that succeeded.
    pub missing: u64,
    /// What failed: operations, and connections that could not be made.
    pub errors: Vec<ErrorReport>,
    /// Second by second, the warm-up left out.
    pub series: Vec<SecondReport>,
    #[serde(skip)]
    histograms: [Histogram<u64>; 3],
}

/// Operations of one kind that succeeded.
#[derive(Debug, Clone, Serialize)]
pub struct OperationReport {
    /// How many.
    pub count: u64,
    /// How many a second, of those answered before the measurement ended.
    pub per_second: f64,
    /// How long they took, from when they were to start.
    pub latency: Latency,
}

/// Latencies, milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Latency {
    /// Average.
    pub mean_ms: f64,
    /// Half of all took no longer.
    pub p50_ms: f64,
    /// 90 of 100 took no longer.
    pub p90_ms: f64,
    /// 99 of 100 took no longer.
    pub p99_ms: f64,
    /// 999 of 1000 took no longer.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// Errors of one kind.
#[derive(Debug, Clone, Serialize)]
pub struct ErrorReport {
    /// First word of the server's error, or what became of the connection.
    pub kind: String,
    /// How many.
    pub count: u64,
    /// The first one in full.
    pub first: String,
}

/// One second.
#[derive(Debug, Clone, Serialize)]
pub struct SecondReport {
    /// Reads that succeeded.
    pub reads: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// Reads followed by a write that succeeded.
    pub modifies: u64,
    /// What failed.
    pub errors: u64,
    /// Half of all operations took no longer.
    pub p50_ms: f64,
    /// 99 of 100 took no longer.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Report {
    pub(super) fn new(load: &Load, tally: &Tally) -> Report {
        let seconds = match load.duration {
            Some(duration) if load.requests.is_none() => duration.as_secs_f64(),
            _ => to_float(tally.last) / 1e9,
        };
        let in_time = tally.reads.in_time + tally.writes.in_time + tally.modifies.in_time;
        let mut latency = tally.reads.latency.clone();
        for other in [&tally.writes, &tally.modifies] {
            latency.add(&other.latency).expect("invariant: histograms grow as needed");
        }
        let all = Successes { latency, in_time };
        let errors = tally.errors.iter().map(|(kind, errors)| ErrorReport {
            kind: kind.clone(),
            count: errors.count,
            first: errors.first.clone(),
        });
        Report {
            load: describe(load),
            workload: load.workload.name,
            unsafe_flags: load.unsafe_flags.clone(),
            seconds,
            all: OperationReport::new(&all, seconds),
            reads: OperationReport::new(&tally.reads, seconds),
            writes: OperationReport::new(&tally.writes, seconds),
            modifies: OperationReport::new(&tally.modifies, seconds),
            missing: tally.missing,
            errors: errors.collect(),
            series: tally.seconds.iter().map(SecondReport::new).collect(),
            histograms: [&tally.reads, &tally.writes, &tally.modifies]
                .map(|successes| successes.latency.clone()),
        }
    }

    /// How many failed.
    pub fn error_count(&self) -> u64 {
        self.errors.iter().map(|errors| errors.count).sum()
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let mut text = format!("{}\nmeasured for {:.1} s\n\n", self.load, self.seconds);
        let head = ["", "COUNT", "PER S", "MEAN MS", "P50", "P90", "P99", "P99.9", "MAX"];
        let mut rows = vec![head.map(str::to_owned)];
        for (name, report) in self.kinds() {
            if report.count > 0 {
                rows.push(report.row(name));
            }
        }
        if rows.len() > 2 {
            rows.push(self.all.row("all"));
        }
        for row in rows {
            let [name, cells @ ..] = row;
            let cells = cells.map(|cell| format!("{cell:>11}"));
            push(&mut text, format!("{name:<8}{}", cells.concat()).trim_end());
        }
        push(&mut text, &format!("\n{} errors", grouped(self.error_count())));
        for errors in &self.errors {
            push(&mut text, &format!("  {:>12}  {}", grouped(errors.count), errors.first));
        }
        if !self.unsafe_flags.is_empty() {
            push(&mut text, &format!("promises weakened by {}", self.unsafe_flags.join(", ")));
        }
        if self.missing > 0 {
            push(&mut text, &format!("{} reads found no value", grouped(self.missing)));
        }
        text
    }

    fn kinds(&self) -> [(&'static str, &OperationReport); 3] {
        [("reads", &self.reads), ("writes", &self.writes), ("modify", &self.modifies)]
    }

    /// Each kind's latencies, if there were any, in the form of HdrHistogram: milliseconds.
    pub fn quantiles(&self) -> Vec<(&'static str, String)> {
        let named = self.kinds().map(|(name, _)| name).into_iter().zip(&self.histograms);
        let used = named.filter(|(_, histogram)| !histogram.is_empty());
        used.map(|(name, histogram)| (name, quantiles(histogram))).collect()
    }
}

impl OperationReport {
    fn new(successes: &Successes, seconds: f64) -> OperationReport {
        let per_second = if seconds > 0.0 { to_float(successes.in_time) / seconds } else { 0.0 };
        let latency = Latency::new(&successes.latency);
        OperationReport { count: successes.latency.len(), per_second, latency }
    }

    fn row(&self, name: &str) -> [String; 9] {
        let Latency { mean_ms, p50_ms, p90_ms, p99_ms, p999_ms, max_ms } = self.latency;
        let [mean, p50, p90, p99, p999, max] =
            [mean_ms, p50_ms, p90_ms, p99_ms, p999_ms, max_ms].map(|ms| format!("{ms:.3}"));
        let per_second = grouped(super::to_whole(self.per_second.round()));
        [name.to_owned(), grouped(self.count), per_second, mean, p50, p90, p99, p999, max]
    }
}

impl Latency {
    fn new(histogram: &Histogram<u64>) -> Latency {
        let at = |quantile| to_milliseconds(histogram.value_at_quantile(quantile));
        Latency {
            mean_ms: histogram.mean() / 1e6,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: to_milliseconds(histogram.max()),
        }
    }
}

impl SecondReport {
    fn new(second: &Second) -> SecondReport {
        let microseconds = |value| to_float(value) / 1e3;
        SecondReport {
            reads: second.reads,
            writes: second.writes,
            modifies: second.modifies,
            errors: second.errors,
            p50_ms: microseconds(second.latency.value_at_quantile(0.5)),
            p99_ms: microseconds(second.latency.value_at_quantile(0.99)),
            max_ms: microseconds(second.latency.max()),
        }
    }
}

fn describe(load: &Load) -> String {
    let targets: Vec<String> = load.targets.iter().map(ToString::to_string).collect();
    let pace = match (load.pace, *load.think.end()) {
        (Pace::Closed, Duration::ZERO) => "closed loop".to_owned(),
        (Pace::Closed, think) => {
            format!("closed loop, resting {:?} to {think:?}", load.think.start())
        }
        (Pace::Open { per_second }, _) => format!("{} operations/s due", grouped(per_second)),
    };
    let (least, most) = (*load.value_bytes.start() as u64, *load.value_bytes.end() as u64);
    let bytes = if least == most { grouped(most) } else { format!("{least} to {most}") };
    format!(
        "{}: {} connections, pipeline {}, {pace}, {} thread{}\n\
         {}, {} keys {}, values of {bytes} bytes, seed {}, {:.1} s of warm-up left out",
        targets.join(", "),
        grouped(load.clients),
        load.pipeline,
        load.threads,
        if load.threads == 1 { "" } else { "s" },
        load.workload.describe(),
        grouped(load.keys),
        format!("{:?}", load.workload.distribution).to_lowercase(),
        load.seed,
        load.warm_up.as_secs_f64(),
    )
}

fn quantiles(histogram: &Histogram<u64>) -> String {
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut count = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF) {
        count += step.count_since_last_iteration();
        let value = to_milliseconds(step.value_iterated_to());
        let quantile = step.quantile_iterated_to();
        let line = format!("{value:12.6} {quantile:2.12} {count:10}");
        let share = 1.0 / (1.0 - quantile);
        push(&mut text, &if quantile < 1.0 { format!("{line} {share:14.2}") } else { line });
    }
    let (mean, deviation) = (histogram.mean() / 1e6, histogram.stdev() / 1e6);
    let (max, count) = (to_milliseconds(histogram.max()), histogram.len());
    let (buckets, parts) = (histogram.buckets(), 2 * 10_u64.pow(u32::from(DIGITS)));
    let parts = parts.next_power_of_two();
    push(&mut text, &format!("#[Mean    = {mean:12.6}, StdDeviation   = {deviation:12.6}]"));
    push(&mut text, &format!("#[Max     = {max:12.6}, Total count    = {count:12}]"));
    push(&mut text, &format!("#[Buckets = {buckets:12}, SubBuckets     = {parts:12}]"));
    text
}

fn to_milliseconds(nanoseconds: u64) -> f64 {
    to_float(nanoseconds) / 1e6
}

/// A number with commas between groups of three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn push(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("invariant: a String takes every write");
}
