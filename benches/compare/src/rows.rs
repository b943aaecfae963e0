//! What is measured, and the table that it comes to.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::engines::Engine::{
    self, Diskstore, DiskstoreLease, DiskstoreLocal, Etcd, Redis, RedisReplicated, ZooKeeper,
};

/// A load: what is done, by how many connections, how many operations at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Work {
    /// Reads, or writes.
    pub(crate) is_read: bool,
    /// Connections.
    pub(crate) clients: u64,
    /// Operations on the way on each.
    pub(crate) pipeline: u64,
    /// A minute over a million keys.
    pub(crate) is_long: bool,
}

/// One run of a load.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Measured {
    /// Operations a second.
    pub(crate) per_second: f64,
    /// Half of them took no longer.
    pub(crate) p50_ms: f64,
    /// 99 of 100 took no longer.
    pub(crate) p99_ms: f64,
    /// CPU of all nodes together for an operation.
    pub(crate) server_us: f64,
    /// Bytes that a node wrote to its disk for each byte of a value.
    pub(crate) written: f64,
    /// Operations that failed.
    pub(crate) errors: u64,
}

/// All runs, in the order in which they were made.
pub(crate) type Results = BTreeMap<(Engine, Work), Vec<Measured>>;

/// Where a goal begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Limit {
    /// It or more is met.
    AtLeast(f64),
    /// It or less is met.
    AtMost(f64),
}

/// A goal: what of ours is compared with what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Goal {
    /// Ours.
    pub(crate) engine: Engine,
    /// The load on both.
    pub(crate) work: Work,
    /// What it is to be.
    pub(crate) bound: Bound,
}

/// What a row must come to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    /// At least so many times the throughput of another engine.
    Throughput(Engine, f64),
    /// At most this part of another engine's p99.
    P99(Engine, f64),
    /// At most so much CPU, microseconds.
    ServerUs(f64),
}

pub(crate) const fn writes(clients: u64, pipeline: u64) -> Work {
    Work { is_read: false, clients, pipeline, is_long: false }
}

const fn reads(clients: u64, pipeline: u64) -> Work {
    Work { is_read: true, clients, pipeline, is_long: false }
}

const fn long(clients: u64) -> Work {
    Work { is_read: false, clients, pipeline: 1, is_long: true }
}

const fn faster(work: Work, other: Engine, ratio: f64) -> Goal {
    Goal { engine: Diskstore, work, bound: Bound::Throughput(other, ratio) }
}

const fn get(engine: Engine, work: Work, ratio: f64) -> Goal {
    Goal { engine, work, bound: Bound::Throughput(Redis, ratio) }
}

const fn ours(work: Work, bound: Bound) -> Goal {
    Goal { engine: Diskstore, work, bound }
}

/// Of a minute's ratios this part must be left.
const SUSTAINED: f64 = 0.85;

/// The goals that a run of this program can tell.
pub(crate) const GOALS: [Goal; 29] = [
    faster(writes(1, 1), Etcd, 3.5),
    faster(writes(64, 1), Etcd, 12.0),
    faster(writes(256, 1), Etcd, 12.0),
    faster(writes(1000, 1), Etcd, 10.0),
    faster(writes(64, 1), ZooKeeper, 6.0),
    faster(writes(256, 1), ZooKeeper, 6.0),
    faster(writes(64, 1), Redis, 1.2),
    faster(writes(256, 1), Redis, 1.2),
    faster(writes(64, 16), Redis, 1.3),
    faster(writes(64, 1), RedisReplicated, 3.5),
    faster(writes(64, 16), RedisReplicated, 5.0),
    faster(reads(64, 1), Etcd, 7.0),
    faster(reads(256, 1), Etcd, 6.0),
    get(DiskstoreLease, reads(64, 1), 1.0),
    get(DiskstoreLease, reads(256, 1), 1.0),
    get(DiskstoreLease, reads(64, 16), 1.5),
    get(DiskstoreLocal, reads(64, 1), 1.0),
    get(DiskstoreLocal, reads(256, 1), 1.0),
    get(DiskstoreLocal, reads(64, 16), 1.5),
    ours(writes(64, 1), Bound::P99(Etcd, 0.1)),
    faster(long(64), Etcd, 12.0 * SUSTAINED),
    faster(long(256), Etcd, 12.0 * SUSTAINED),
    faster(long(64), ZooKeeper, 6.0 * SUSTAINED),
    faster(long(256), ZooKeeper, 6.0 * SUSTAINED),
    faster(long(64), Redis, 1.2 * SUSTAINED),
    faster(long(256), Redis, 1.2 * SUSTAINED),
    faster(long(64), RedisReplicated, 3.5 * SUSTAINED),
    ours(long(64), Bound::P99(Etcd, 0.1)),
    ours(writes(256, 1), Bound::ServerUs(10.0)),
];

/// A row of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// What is compared.
    pub(crate) goal: String,
    /// Ours and the other's, where they are compared.
    pub(crate) values: Option<[f64; 2]>,
    /// What the row comes to.
    pub(crate) is: Option<f64>,
    /// `met`, `missed` or `not measured`.
    pub(crate) outcome: &'static str,
}

impl Row {
    /// A row of what was measured: `values` are ours and the other's, `is` what it comes to.
    pub(crate) fn new(text: &str, limit: Limit, values: Option<[f64; 2]>, is: Option<f64>) -> Row {
        let (sign, bound) = match limit {
            Limit::AtLeast(bound) => (">=", bound),
            Limit::AtMost(bound) => ("<=", bound),
        };
        let outcome = match (is, limit) {
            (None, _) => "not measured",
            (Some(is), Limit::AtLeast(bound)) if is >= bound => "met",
            (Some(is), Limit::AtMost(bound)) if is <= bound => "met",
            (Some(_), _) => "missed",
        };
        Row { goal: format!("{text} {sign} {bound:.2}"), values, is, outcome }
    }
}

/// Which loads are put on engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loads {
    /// Those of a few seconds.
    Short,
    /// Those of a minute.
    Sustained,
    /// All.
    Both,
}

/// What an engine has to do so that the goals of these loads can be told.
pub(crate) fn works_of(engine: Engine, loads: Loads) -> Vec<Work> {
    let involved = GOALS.iter().filter(|goal| match goal.bound {
        Bound::Throughput(other, _) | Bound::P99(other, _) => {
            goal.engine == engine || other == engine
        }
        Bound::ServerUs(_) => goal.engine == engine,
    });
    let mut works: Vec<Work> = involved
        .map(|goal| goal.work)
        .filter(|work| loads == Loads::Both || work.is_long == (loads == Loads::Sustained))
        .collect();
    works.sort_by_key(|work| (work.is_long, work.is_read, *work));
    works.dedup();
    works
}

/// The rows, as far as results are there.
pub(crate) fn rows(results: &Results) -> Vec<Row> {
    GOALS.iter().map(|goal| row(goal, results)).collect()
}

fn row(goal: &Goal, results: &Results) -> Row {
    let mean = |engine, of: fn(&Measured) -> f64| mean(results.get(&(engine, goal.work))?, of);
    let work = goal.work.describe();
    let name = goal.engine.name();
    let ratio = |text, limit, [ours, other]: [Option<f64>; 2]| {
        let values = ours.zip(other).map(|(ours, other)| [ours, other]);
        Row::new(text, limit, values, values.map(|[ours, other]| ours / other))
    };
    match goal.bound {
        Bound::Throughput(other, limit) => {
            let of: fn(&Measured) -> f64 = |run| run.per_second;
            let text = format!("{work}: {name} / {} per s", other.name());
            ratio(&text, Limit::AtLeast(limit), [mean(goal.engine, of), mean(other, of)])
        }
        Bound::P99(other, limit) => {
            let of: fn(&Measured) -> f64 = |run| run.p99_ms;
            let text = format!("{work}: p99 in ms of {name} / {}", other.name());
            ratio(&text, Limit::AtMost(limit), [mean(goal.engine, of), mean(other, of)])
        }
        Bound::ServerUs(limit) => {
            let text = format!("{work}: CPU of three nodes, us");
            Row::new(&text, Limit::AtMost(limit), None, mean(goal.engine, |run| run.server_us))
        }
    }
}

fn mean(runs: &[Measured], of: fn(&Measured) -> f64) -> Option<f64> {
    let count = f64::from(u32::try_from(runs.len()).ok().filter(|count| *count > 0)?);
    Some(runs.iter().map(of).sum::<f64>() / count)
}

/// The table for people: goals first, then every run.
pub(crate) fn table(rows: &[Row], results: &Results) -> String {
    let mut text = String::new();
    let mut line = |line: &str| writeln!(text, "{}", line.trim_end()).unwrap_or_default();
    line(&format!("{:<76} {:>10} {:>10} {:>8}", "GOAL", "OURS", "OTHER", "IS"));
    for Row { goal, values, is, outcome } in rows {
        let cells = match (values, is) {
            (Some([ours, others]), Some(is)) => format!("{ours:>10.2} {others:>10.2} {is:>8.2}"),
            (None, Some(is)) => format!("{is:>30.2}"),
            (_, None) => " ".repeat(30),
        };
        line(&format!("{goal:<76} {cells}  {outcome}"));
    }
    if results.is_empty() {
        return text;
    }
    let head = ["PER S", "P50 MS", "P99 MS", "SERVER US", "WRITTEN", "ERRORS"];
    let head = head.map(|name| format!("{name:>11}")).concat();
    line(&format!("\n{:<38}{head}", "RUN"));
    for ((engine, work), runs) in results {
        for run in runs {
            line(&format!(
                "{:<17} {:<20}{:>11.0}{:>11.3}{:>11.3}{:>11.2}{:>11.2}{:>11}",
                engine.name(),
                work.describe(),
                run.per_second,
                run.p50_ms,
                run.p99_ms,
                run.server_us,
                run.written,
                run.errors
            ));
        }
    }
    text
}

impl Work {
    /// As the table calls it.
    pub(crate) fn describe(&self) -> String {
        let kind = if self.is_read { "reads" } else { "writes" };
        let pipeline =
            if self.pipeline > 1 { format!(" x {}", self.pipeline) } else { String::new() };
        let long = if self.is_long { ", long" } else { "" };
        format!("{kind}, {}{pipeline}{long}", self.clients)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(per_second: f64) -> Vec<Measured> {
        vec![Measured { per_second, ..Measured::default() }]
    }

    #[test]
    fn a_row_is_met_from_its_bound_on_and_not_measured_without_results() {
        let goal = faster(writes(64, 1), Etcd, 12.0);
        let mut results = Results::new();
        assert_eq!(row(&goal, &results).outcome, "not measured");
        results.insert((Etcd, goal.work), result(1000.0));
        assert_eq!(row(&goal, &results).outcome, "not measured");
        results.insert((Diskstore, goal.work), result(12_000.0));
        assert_eq!(row(&goal, &results).outcome, "met");
        results.insert((Diskstore, goal.work), result(11_999.0));
        assert_eq!(row(&goal, &results).outcome, "missed");
    }

    #[test]
    fn a_cost_is_met_up_to_its_bound() {
        let goal = ours(writes(256, 1), Bound::ServerUs(10.0));
        for (server_us, outcome) in [(9.0, "met"), (10.0, "met"), (10.1, "missed")] {
            let run = Measured { server_us, ..Measured::default() };
            let results = Results::from([((Diskstore, goal.work), vec![run])]);
            assert_eq!(row(&goal, &results).outcome, outcome);
        }
    }

    #[test]
    fn every_engine_has_work_and_repeats_none() {
        for engine in crate::engines::ENGINES {
            let works = works_of(engine, Loads::Both);
            assert!(!works.is_empty(), "{engine:?}");
            let unique: std::collections::BTreeSet<_> = works.iter().collect();
            assert_eq!(unique.len(), works.len(), "{engine:?}");
        }
    }
}
