//! What is measured, and the table that it comes to.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::engines::Engine::{
    self, Diskstore, DiskstoreLease, DiskstoreLocal, Etcd, Kvstore, Redis, RedisReplicated,
    ZooKeeper,
};

/// Keys of one `MSET`.
pub(crate) const MANY_KEYS: u64 = 16;

/// What the operations of a load are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Sets of a key at random.
    Writes,
    /// Gets of a key at random.
    Reads,
    /// Half of them reads, half writes.
    Mixed,
    /// `INCR`, all of the same key.
    Increments,
    /// `MSET` of [`MANY_KEYS`] keys, one operation.
    SetsOfMany,
}

/// A load: what is done, by how many connections, how many operations at once. Those of a minute come last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Work {
    /// A minute over a million keys.
    pub(crate) is_long: bool,
    /// What an operation is.
    pub(crate) kind: Kind,
    /// Connections.
    pub(crate) clients: u64,
    /// Operations on the way on each.
    pub(crate) pipeline: u64,
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
    /// KiB that a node wrote to its disk for an operation: for a set of 1 KiB, bytes for each byte.
    pub(crate) written: f64,
    /// Operations that failed.
    pub(crate) errors: u64,
}

/// A load on an engine.
pub(crate) type Turn = (Engine, Work);

/// What was measured of each load, by the round.
pub(crate) type Results = BTreeMap<Turn, BTreeMap<u64, Measured>>;

/// Where a goal begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Limit {
    /// It or more is met.
    AtLeast(f64),
    /// It or less is met.
    AtMost(f64),
    /// Nothing is asked: the row only tells.
    None,
}

/// What of a run is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Figure {
    /// Operations a second.
    PerSecond,
    /// The 99th percentile.
    P99,
    /// CPU of all nodes.
    ServerUs,
}

/// A goal: what of ours is compared with what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Goal {
    /// Ours.
    pub(crate) ours: Turn,
    /// What it is divided by, if it is.
    pub(crate) other: Option<Turn>,
    /// What is compared.
    pub(crate) figure: Figure,
    /// What it is to be now.
    pub(crate) limit: Limit,
    /// What it is to be one day.
    pub(crate) horizon: Option<f64>,
}

const fn load(kind: Kind, clients: u64, pipeline: u64) -> Work {
    Work { is_long: false, kind, clients, pipeline }
}

pub(crate) const fn writes(clients: u64, pipeline: u64) -> Work {
    load(Kind::Writes, clients, pipeline)
}

const fn reads(clients: u64, pipeline: u64) -> Work {
    load(Kind::Reads, clients, pipeline)
}

const fn long(clients: u64) -> Work {
    Work { is_long: true, ..writes(clients, 1) }
}

const fn rate(ours: Turn, other: Turn, limit: Limit) -> Goal {
    Goal { ours, other: Some(other), figure: Figure::PerSecond, limit, horizon: None }
}

const fn faster(work: Work, other: Engine, ratio: f64) -> Goal {
    rate((Diskstore, work), (other, work), Limit::AtLeast(ratio))
}

const fn get(engine: Engine, work: Work, ratio: f64) -> Goal {
    rate((engine, work), (Redis, work), Limit::AtLeast(ratio))
}

/// The same machinery, whatever the log is applied to.
const fn in_memory(work: Work) -> Goal {
    rate((Kvstore, work), (Diskstore, work), Limit::AtLeast(0.9))
}

const fn told(kind: Kind, other: Engine) -> Goal {
    let work = load(kind, 64, 1);
    rate((Diskstore, work), (other, work), Limit::None)
}

/// A minute over a million keys, against a few seconds over fewer.
const fn lasting(clients: u64) -> Goal {
    rate((Diskstore, long(clients)), (Diskstore, writes(clients, 1)), Limit::AtLeast(0.9))
}

const fn sooner(work: Work, other: Engine, ratio: f64) -> Goal {
    let limit = Limit::AtMost(ratio);
    Goal { figure: Figure::P99, ..rate((Diskstore, work), (other, work), limit) }
}

const fn cheaper(work: Work, server_us: f64) -> Goal {
    let (figure, limit) = (Figure::ServerUs, Limit::AtMost(server_us));
    Goal { ours: (Diskstore, work), other: None, figure, limit, horizon: None }
}

impl Goal {
    /// With what part 2 asked for, where that is more.
    const fn then(self, horizon: f64) -> Goal {
        Goal { horizon: Some(horizon), ..self }
    }
}

/// Of a minute's ratios this part must be left.
const SUSTAINED: f64 = 0.85;

/// The goals that a run of this program can tell.
pub(crate) const GOALS: &[Goal] = &[
    faster(writes(1, 1), Etcd, 2.2).then(3.5),
    faster(writes(64, 1), Etcd, 8.0).then(12.0),
    faster(writes(256, 1), Etcd, 10.0).then(12.0),
    faster(writes(1000, 1), Etcd, 10.0),
    faster(writes(64, 1), ZooKeeper, 5.5).then(6.0),
    faster(writes(256, 1), ZooKeeper, 5.5).then(6.0),
    faster(writes(64, 1), Redis, 1.0).then(1.2),
    faster(writes(256, 1), Redis, 1.1).then(1.2),
    faster(writes(64, 16), Redis, 1.3),
    faster(writes(64, 1), RedisReplicated, 3.5),
    faster(writes(64, 16), RedisReplicated, 5.0),
    faster(reads(64, 1), Etcd, 7.0),
    faster(reads(256, 1), Etcd, 6.0),
    get(DiskstoreLease, reads(64, 1), 1.0),
    get(DiskstoreLease, reads(256, 1), 1.0),
    get(DiskstoreLease, reads(64, 16), 1.3).then(1.5),
    get(DiskstoreLocal, reads(64, 1), 1.0),
    get(DiskstoreLocal, reads(256, 1), 1.0),
    get(DiskstoreLocal, reads(64, 16), 1.3).then(1.5),
    sooner(writes(64, 1), Etcd, 0.1),
    cheaper(writes(64, 16), 6.5),
    cheaper(writes(256, 1), 14.0).then(10.0),
    in_memory(writes(64, 1)),
    in_memory(writes(256, 1)),
    in_memory(writes(64, 16)),
    in_memory(reads(64, 1)),
    told(Kind::Increments, Redis),
    told(Kind::SetsOfMany, Redis),
    told(Kind::Mixed, Redis),
    told(Kind::Mixed, Etcd),
    lasting(64),
    lasting(256),
    faster(long(64), Etcd, 8.0 * SUSTAINED).then(12.0 * SUSTAINED),
    faster(long(256), Etcd, 10.0 * SUSTAINED).then(12.0 * SUSTAINED),
    faster(long(64), ZooKeeper, 5.5 * SUSTAINED).then(6.0 * SUSTAINED),
    faster(long(256), ZooKeeper, 5.5 * SUSTAINED).then(6.0 * SUSTAINED),
    faster(long(64), Redis, 1.0 * SUSTAINED).then(1.2 * SUSTAINED),
    faster(long(256), Redis, 1.1 * SUSTAINED).then(1.2 * SUSTAINED),
    faster(long(64), RedisReplicated, 3.5 * SUSTAINED),
    sooner(long(64), Etcd, 0.1),
];

/// A row of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// What is compared.
    pub(crate) goal: String,
    /// Ours and the other's, where they are compared: of several rounds, medians.
    pub(crate) values: Option<[f64; 2]>,
    /// What the row comes to: of several rounds, the median.
    pub(crate) is: Option<f64>,
    /// `met`, `missed`, `told` or `not measured`.
    pub(crate) outcome: &'static str,
}

impl Row {
    /// A row of what was measured: `values` are ours and the other's, `is` what it comes to.
    pub(crate) fn new(text: &str, limit: Limit, values: Option<[f64; 2]>, is: Option<f64>) -> Row {
        let goal = match limit {
            Limit::AtLeast(bound) => format!("{text} >= {bound:.2}"),
            Limit::AtMost(bound) => format!("{text} <= {bound:.2}"),
            Limit::None => text.to_owned(),
        };
        let outcome = match (is, limit) {
            (None, _) => "not measured",
            (Some(_), Limit::None) => "told",
            (Some(is), Limit::AtLeast(bound)) if is >= bound => "met",
            (Some(is), Limit::AtMost(bound)) if is <= bound => "met",
            (Some(_), _) => "missed",
        };
        Row { goal, values, is, outcome }
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

/// What an engine has to do so that the goals of these loads can be told, the longest last.
pub(crate) fn works_of(engine: Engine, loads: Loads) -> Vec<Work> {
    let asked = GOALS
        .iter()
        .filter(|goal| loads == Loads::Both || goal.ours.1.is_long == (loads == Loads::Sustained));
    let turns = asked.flat_map(|goal| [Some(goal.ours), goal.other]).flatten();
    let mut works: Vec<Work> =
        turns.filter(|turn| turn.0 == engine).map(|(_, work)| work).collect();
    works.sort();
    works.dedup();
    works
}

/// The rows, as far as results are there.
pub(crate) fn rows(results: &Results) -> Vec<Row> {
    GOALS.iter().map(|goal| row(goal, results)).collect()
}

fn row(goal: &Goal, results: &Results) -> Row {
    let of = |turn: Turn, round: &u64| Some(goal.figure.of(results.get(&turn)?.get(round)?));
    // The machine is slower in one round than in another: what is compared is of the same one.
    let rounds = results.get(&goal.ours).into_iter().flat_map(BTreeMap::keys);
    let pairs = rounds.filter_map(|round| {
        let other = goal.other.map_or(Some(1.0), |other| of(other, round))?;
        Some([of(goal.ours, round)?, other])
    });
    let pairs: Vec<[f64; 2]> = pairs.collect();
    let median = |of: fn(&[f64; 2]) -> f64| median(pairs.iter().map(of).collect());
    let values = median(|pair| pair[0]).zip(median(|pair| pair[1])).map(<[f64; 2]>::from);
    let values = values.filter(|_| goal.other.is_some());
    let mut row = Row::new(&goal.describe(), goal.limit, values, median(|pair| pair[0] / pair[1]));
    if let Some(horizon) = goal.horizon {
        write!(row.goal, " (horizon {horizon:.2})").unwrap_or_default();
    }
    row
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    Some(f64::midpoint(values[last / 2], values[last.div_ceil(2)]))
}

impl Figure {
    /// What it is in a run.
    fn of(self, run: &Measured) -> f64 {
        match self {
            Figure::PerSecond => run.per_second,
            Figure::P99 => run.p99_ms,
            Figure::ServerUs => run.server_us,
        }
    }
}

impl Goal {
    /// What is compared, as the table calls it.
    fn describe(&self) -> String {
        let (engine, work) = self.ours;
        let (other_engine, other_work) = self.other.unwrap_or(self.ours);
        let (mut loads, mut engines) = (work.describe(), engine.name().to_owned());
        if other_work != work {
            loads = format!("{loads} / {}", other_work.describe());
        }
        if other_engine != engine {
            engines = format!("{engines} / {}", other_engine.name());
        }
        match self.figure {
            Figure::PerSecond => format!("{loads}: {engines} per s"),
            Figure::P99 => format!("{loads}: p99 in ms of {engines}"),
            Figure::ServerUs => format!("{loads}: CPU of three nodes, us"),
        }
    }
}

/// Columns for what is compared.
const GOAL_WIDTH: usize = 76;

/// The table for people: goals first, then every run.
pub(crate) fn table(rows: &[Row], results: &Results) -> String {
    let mut text = String::new();
    let mut line = |line: &str| writeln!(text, "{}", line.trim_end()).unwrap_or_default();
    line(&format!("{:<GOAL_WIDTH$} {:>10} {:>10} {:>8}", "GOAL", "OURS", "OTHER", "IS"));
    for Row { goal, values, is, outcome } in rows {
        let cells = match (values, is) {
            (Some([ours, others]), Some(is)) => format!("{ours:>10.2} {others:>10.2} {is:>8.2}"),
            (None, Some(is)) => format!("{is:>30.2}"),
            (_, None) => " ".repeat(30),
        };
        line(&format!("{goal:<GOAL_WIDTH$} {cells}  {outcome}"));
    }
    if results.is_empty() {
        return text;
    }
    let head = ["PER S", "P50 MS", "P99 MS", "SERVER US", "WRITTEN", "ERRORS"];
    let head = head.map(|name| format!("{name:>11}")).concat();
    line(&format!("\n{:<38}{head}", "RUN"));
    for ((engine, work), runs) in results {
        for run in runs.values() {
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
        let kind = match self.kind {
            Kind::Writes => "writes".to_owned(),
            Kind::Reads => "reads".to_owned(),
            Kind::Mixed => "reads and writes".to_owned(),
            Kind::Increments => "INCR of one key".to_owned(),
            Kind::SetsOfMany => format!("MSET of {MANY_KEYS} keys"),
        };
        let pipeline =
            if self.pipeline > 1 { format!(" x {}", self.pipeline) } else { String::new() };
        let long = if self.is_long { ", long" } else { "" };
        format!("{kind}, {}{pipeline}{long}", self.clients)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What came to so many operations a second, round after round.
    fn rates(rates: &[f64]) -> BTreeMap<u64, Measured> {
        let run = |per_second| Measured { per_second, ..Measured::default() };
        (0..).zip(rates.iter().copied().map(run)).collect()
    }

    fn row_of(results: &Results, text: &str) -> Row {
        rows(results).into_iter().find(|row| row.goal == text).unwrap()
    }

    #[test]
    fn a_row_is_met_from_its_bound_on_and_not_measured_without_results() {
        let goal = faster(writes(64, 1), Etcd, 12.0);
        let mut results = Results::new();
        assert_eq!(row(&goal, &results).outcome, "not measured");
        results.insert((Etcd, writes(64, 1)), rates(&[1000.0]));
        assert_eq!(row(&goal, &results).outcome, "not measured");
        results.insert((Diskstore, writes(64, 1)), rates(&[12_000.0]));
        assert_eq!(row(&goal, &results).outcome, "met");
        results.insert((Diskstore, writes(64, 1)), rates(&[11_999.0]));
        assert_eq!(row(&goal, &results).outcome, "missed");
    }

    #[test]
    fn a_cost_is_met_up_to_its_bound() {
        for (server_us, outcome) in [(13.0, "met"), (14.0, "met"), (14.1, "missed")] {
            let run = Measured { server_us, ..Measured::default() };
            let turn = (Diskstore, writes(256, 1));
            let results = Results::from([(turn, BTreeMap::from([(0, run)]))]);
            let row =
                row_of(&results, "writes, 256: CPU of three nodes, us <= 14.00 (horizon 10.00)");
            assert_eq!((row.outcome, row.values, row.is), (outcome, None, Some(server_us)));
        }
    }

    #[test]
    fn several_rounds_are_compared_one_by_one_and_come_to_their_median() {
        let ours = rates(&[100.0, 900.0, 400.0, 50.0]);
        let mut results = Results::from([((Diskstore, writes(64, 1)), ours)]);
        results.insert((Redis, writes(64, 1)), rates(&[100.0, 300.0, 600.0]));
        // The ratios are 1, 3 and 0.67; the fourth round has none.
        let row = row_of(&results, "writes, 64: diskstore / redis per s >= 1.00 (horizon 1.20)");
        assert_eq!((row.values, row.is, row.outcome), (Some([400.0, 300.0]), Some(1.0), "met"));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn what_nothing_is_asked_of_is_told() {
        for text in ["INCR of one key, 64", "MSET of 16 keys, 64", "reads and writes, 64"] {
            let text = format!("{text}: diskstore / redis per s");
            let goal = GOALS.iter().find(|goal| goal.describe() == text).unwrap();
            assert_eq!(row_of(&Results::new(), &text).outcome, "not measured");
            let mut results = Results::from([(goal.ours, rates(&[1.0]))]);
            results.insert(goal.other.unwrap(), rates(&[4.0]));
            let row = row_of(&results, &text);
            assert_eq!((row.is, row.outcome), (Some(0.25), "told"));
        }
    }

    #[test]
    fn a_minute_is_compared_with_the_short_run() {
        let mut results = Results::from([((Diskstore, long(64)), rates(&[90.0]))]);
        results.insert((Diskstore, writes(64, 1)), rates(&[100.0]));
        let row = row_of(&results, "writes, 64, long / writes, 64: diskstore per s >= 0.90");
        assert_eq!((row.values, row.outcome), (Some([90.0, 100.0]), "met"));
        let sustained = [writes(64, 1), writes(256, 1), long(64), long(256)];
        assert_eq!(works_of(Diskstore, Loads::Sustained), sustained);
        assert_eq!(works_of(Redis, Loads::Sustained), [long(64), long(256)]);
        assert!(works_of(Diskstore, Loads::Short).iter().all(|work| !work.is_long));
    }

    #[test]
    fn a_store_in_memory_is_compared_with_that_on_disk() {
        let works = works_of(Kvstore, Loads::Both);
        assert_eq!(works, [writes(64, 1), writes(64, 16), writes(256, 1), reads(64, 1)]);
        let mut results = Results::from([((Kvstore, reads(64, 1)), rates(&[89.0]))]);
        results.insert((Diskstore, reads(64, 1)), rates(&[100.0]));
        let row = row_of(&results, "reads, 64: kvstore / diskstore per s >= 0.90");
        assert_eq!(row.outcome, "missed");
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

    #[test]
    fn no_row_is_wider_than_its_column_and_none_is_there_twice() {
        let rows = rows(&Results::new());
        let goals: std::collections::BTreeSet<_> = rows.iter().map(|row| &row.goal).collect();
        assert_eq!(goals.len(), rows.len());
        assert!(goals.iter().all(|goal| goal.len() <= GOAL_WIDTH), "{goals:?}");
    }
}
