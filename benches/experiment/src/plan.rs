//! What an experiment file asks for, checked once: the points of its sweep, and the order in which
//! their repetitions run.
//!
//! - I1: an unknown key, a wrong type, and a number out of bounds are named and refused.
//! - I2: the numbers of runs follow from the file alone, and their order from its seed: a run that was
//!   interrupted finds its place again.

use std::collections::BTreeSet;
use std::fmt::{self, Debug, Display};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

const CLIENT_COUNT_MAX: u64 = 50_000;
/// The load writes the number of the key and of the write into each value.
const VALUE_BYTES_MIN: u64 = 32;
const VALUE_BYTES_MAX: u64 = 1 << 20;
const REPEAT_MAX: u64 = 1_000;
const RUN_COUNT_MAX: usize = 10_000;
const SECONDS_MAX: u64 = 86_400;
const NODE_COUNT_MAX: u64 = 9;
const COMMAND_COUNT_MAX: u64 = 1 << 32;
const KEY_COUNT_MAX: u64 = 1 << 24;
const LOGGER_COUNT_MAX: u64 = 9;

// What the programs know: a wrong word should not cost the start of a cluster.
const SYNC_MS: std::ops::RangeInclusive<u64> = 1..=60_000;
const READS: [&str; 4] = ["linearizable", "lease", "local", "log"];
const DISTRIBUTIONS: [&str; 4] = ["uniform", "zipfian", "latest", "sequential"];
const WORKLOADS: [&str; 9] =
    ["original", "a", "b", "c", "d", "f", "update-uniform", "update-latest", "fill"];

/// What is done at each point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Load for a while.
    Load,
    /// Load until there are so many commands, then a recovery.
    Recovery,
    /// The leader is killed under load.
    Failover,
}

/// Where commands are recorded beside the cluster's own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Strategy {
    /// Nowhere.
    None,
    /// Every node records, synchronously (`-logfolder`).
    App,
    /// Programs of their own (`logger`).
    Decoupled,
}

/// What the log is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Machine {
    /// Slots of fixed size in a file: program `diskstore`.
    Disk,
    /// Keys in memory: program `kvstore`.
    Memory,
}

/// Where a recovery takes the state from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    /// A killed member starts again over its own files.
    Restart,
    /// A new member joins and is sent the state.
    Member,
    /// Program `recovery` asks what records commands: a logger, or a node with `-logfolder`.
    Records,
}

impl Display for Strategy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Strategy::None => "none",
            Strategy::App => "app",
            Strategy::Decoupled => "decoupled",
        })
    }
}

impl Display for Machine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Machine::Disk => "disk",
            Machine::Memory => "memory",
        })
    }
}

impl Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Source::Restart => "restart",
            Source::Member => "member",
            Source::Records => "records",
        })
    }
}

/// An experiment file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    /// What the report is headed by.
    pub(crate) title: String,
    /// What the experiment shows, in a few sentences.
    #[serde(default)]
    pub(crate) about: String,
    /// What must not be compared, and why: a sentence each, in the report.
    #[serde(default)]
    pub(crate) not_comparable: Vec<String>,
    pub(crate) kind: Kind,
    /// How often each point runs.
    #[serde(default = "one")]
    pub(crate) repeat: u64,
    /// What the order of runs and the load follow from.
    #[serde(default = "one")]
    pub(crate) seed: u64,
    #[serde(default)]
    pub(crate) sweep: Sweep,
    #[serde(default)]
    pub(crate) load: Load,
    #[serde(default)]
    pub(crate) cluster: Cluster,
    /// What is different with `-quick`.
    #[serde(default, skip_serializing)]
    quick: Option<Quick>,
}

/// The factors; every combination is a point.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Sweep {
    pub(crate) machine: Vec<Machine>,
    pub(crate) strategy: Vec<Strategy>,
    /// `always`, `never`, or what else nodes take for `-sync`.
    pub(crate) sync: Vec<String>,
    /// What nodes take for `-read`.
    pub(crate) read: Vec<String>,
    pub(crate) value_bytes: Vec<u64>,
    pub(crate) clients: Vec<u64>,
    /// Up to so many clients the sweep goes on, twice as many each time, while throughput rises.
    pub(crate) clients_max: Option<u64>,
    /// Of a recovery: where the state comes from.
    pub(crate) source: Vec<Source>,
    /// Of a recovery: how many commands there are.
    pub(crate) commands: Vec<u64>,
}

/// What is done to the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Load {
    /// What starts so early is not measured.
    pub(crate) warm_up_s: u64,
    pub(crate) duration_s: u64,
    pub(crate) keys: u64,
    /// Reads in 100 operations.
    pub(crate) reads: u64,
    pub(crate) distribution: String,
    /// A name that `diskstore bench -workload` takes, instead of reads and distribution.
    pub(crate) workload: Option<String>,
    pub(crate) pipeline: u64,
    /// A further member joins so long after the measurement began, and is sent the state.
    pub(crate) join_at_s: Option<u64>,
    /// Of a failover: the leader is killed so long after the measurement began.
    pub(crate) kill_at_s: Option<u64>,
}

/// What the cluster is like.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Cluster {
    pub(crate) nodes: u64,
    /// Loggers of strategy `decoupled`.
    pub(crate) loggers: u64,
    /// Slots of the data file.
    pub(crate) slots: u64,
    /// Further flags of every node.
    pub(crate) flags: Vec<String>,
}

/// Replacements for a short form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Quick {
    repeat: Option<u64>,
    warm_up_s: Option<u64>,
    duration_s: Option<u64>,
    join_at_s: Option<u64>,
    kill_at_s: Option<u64>,
    keys: Option<u64>,
    machine: Option<Vec<Machine>>,
    strategy: Option<Vec<Strategy>>,
    sync: Option<Vec<String>>,
    read: Option<Vec<String>>,
    value_bytes: Option<Vec<u64>>,
    clients: Option<Vec<u64>>,
    clients_max: Option<u64>,
    source: Option<Vec<Source>>,
    commands: Option<Vec<u64>>,
    flags: Option<Vec<String>>,
}

/// One combination of factors.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub(crate) struct Point {
    pub(crate) machine: Machine,
    pub(crate) strategy: Strategy,
    pub(crate) sync: String,
    pub(crate) read: String,
    pub(crate) value_bytes: u64,
    pub(crate) clients: u64,
    /// Of a recovery.
    pub(crate) source: Option<Source>,
    /// Of a recovery.
    pub(crate) commands: Option<u64>,
}

/// One repetition of a point.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Run {
    /// Counted from 1 over points and repetitions, whatever the order.
    pub(crate) number: u64,
    /// Counted from 1.
    pub(crate) repetition: u64,
    pub(crate) point: Point,
}

fn one() -> u64 {
    1
}

impl Default for Sweep {
    fn default() -> Sweep {
        Sweep {
            machine: vec![Machine::Disk],
            strategy: vec![Strategy::None],
            sync: vec!["always".to_owned()],
            read: vec!["linearizable".to_owned()],
            value_bytes: vec![1024],
            clients: vec![64],
            clients_max: None,
            source: Vec::new(),
            commands: Vec::new(),
        }
    }
}

impl Default for Load {
    fn default() -> Load {
        Load {
            warm_up_s: 2,
            duration_s: 10,
            keys: 65_536,
            reads: 0,
            distribution: "uniform".to_owned(),
            workload: None,
            pipeline: 1,
            join_at_s: None,
            kill_at_s: None,
        }
    }
}

impl Default for Cluster {
    fn default() -> Cluster {
        Cluster { nodes: 3, loggers: 2, slots: 65_536, flags: Vec::new() }
    }
}

impl Plan {
    /// Reads an experiment file.
    ///
    /// # Errors
    /// What is wrong with it, by line and key. // I1
    pub(crate) fn parse(text: &str, is_quick: bool) -> Result<Plan> {
        let mut plan: Plan = toml::from_str(text)?;
        if is_quick {
            plan.quick.clone().context("there is no table [quick]")?.replace(&mut plan);
        }
        plan.quick = None;
        plan.check()?;
        Ok(plan)
    }

    fn check(&self) -> Result<()> {
        let Plan { sweep, load, cluster, .. } = self;
        bounded("repeat", self.repeat, 1, REPEAT_MAX)?;
        bounded("load.duration_s", load.duration_s, 1, SECONDS_MAX)?;
        bounded("load.warm_up_s", load.warm_up_s, 0, SECONDS_MAX)?;
        bounded("load.reads", load.reads, 0, 100)?;
        let is_mixed = load.reads > 0 || load.distribution != "uniform";
        ensure!(
            load.workload.is_none() || !is_mixed,
            "load.workload stands for load.reads and load.distribution: give it alone"
        );
        bounded("load.pipeline", load.pipeline, 1, 10_000)?;
        bounded("load.keys", load.keys, 1, KEY_COUNT_MAX)?;
        bounded("cluster.nodes", cluster.nodes, 1, NODE_COUNT_MAX)?;
        bounded("cluster.loggers", cluster.loggers, 1, LOGGER_COUNT_MAX)?;
        bounded("cluster.slots", cluster.slots, load.keys, KEY_COUNT_MAX)?;
        points_of("sweep.machine", &sweep.machine)?;
        points_of("sweep.strategy", &sweep.strategy)?;
        for policy in points_of("sweep.sync", &sweep.sync)? {
            let interval = policy.strip_prefix("batch:").and_then(|text| text.parse().ok());
            let is_interval = interval.is_some_and(|ms: u64| SYNC_MS.contains(&ms));
            ensure!(
                is_interval || ["always", "never"].contains(&policy.as_str()),
                "sweep.sync: {policy:?}: give \"always\", \"never\" or \"batch:MS\" (1 to 60000)"
            );
        }
        for level in points_of("sweep.read", &sweep.read)? {
            one_of("sweep.read", level, &READS)?;
        }
        one_of("load.distribution", &load.distribution, &DISTRIBUTIONS)?;
        if let Some(workload) = &load.workload {
            one_of("load.workload", workload, &WORKLOADS)?;
        }
        for bytes in points_of("sweep.value_bytes", &sweep.value_bytes)? {
            bounded("sweep.value_bytes", *bytes, VALUE_BYTES_MIN, VALUE_BYTES_MAX)?;
        }
        for count in points_of("sweep.clients", &sweep.clients)? {
            bounded("sweep.clients", *count, 1, CLIENT_COUNT_MAX)?;
        }
        if let Some(most) = sweep.clients_max {
            bounded("sweep.clients_max", most, self.clients_most(), CLIENT_COUNT_MAX)?;
            ensure!(self.kind == Kind::Load, "sweep.clients_max belongs to kind = \"load\"");
        }
        self.check_kind()?;
        let steps = self.steps();
        let runs = self.runs().len() + steps.iter().map(Vec::len).sum::<usize>();
        ensure!(runs <= RUN_COUNT_MAX, "{runs} runs, give at most {RUN_COUNT_MAX}");
        Ok(())
    }

    fn check_kind(&self) -> Result<()> {
        let Plan { sweep, load, .. } = self;
        if self.kind == Kind::Recovery {
            for count in points_of("sweep.commands", &sweep.commands)? {
                bounded("sweep.commands", *count, 1, COMMAND_COUNT_MAX)?;
            }
            points_of("sweep.source", &sweep.source)?;
            let has_none = sweep.strategy.contains(&Strategy::None);
            if sweep.source.contains(&Source::Records) && has_none {
                bail!("sweep.source: nothing records with strategy none, give app or decoupled");
            }
        } else {
            let stray = !sweep.source.is_empty() || !sweep.commands.is_empty();
            ensure!(!stray, "sweep.source and sweep.commands belong to kind = \"recovery\"");
        }
        let is_failover = self.kind == Kind::Failover;
        ensure!(
            is_failover == load.kill_at_s.is_some(),
            "load.kill_at_s belongs to kind = \"failover\", which needs it"
        );
        ensure!(!is_failover || self.cluster.nodes >= 3, "a failover wants 3 nodes or more");
        for (name, at) in [("join_at_s", load.join_at_s), ("kill_at_s", load.kill_at_s)] {
            bounded(&format!("load.{name}"), at.unwrap_or(0), 0, load.duration_s - 1)?;
        }
        Ok(())
    }

    /// Every run that is made in any case, by number. // I2
    pub(crate) fn runs(&self) -> Vec<Run> {
        self.numbered(0, self.points(&self.sweep.clients))
    }

    /// Runs by which the sweep may go on, step by step: each has twice as many clients as the one before.
    /// Their numbers do not depend on which of them are made. // I2
    pub(crate) fn steps(&self) -> Vec<Vec<Run>> {
        let mut steps: Vec<Vec<Run>> = Vec::new();
        let mut before = self.runs().len() as u64;
        let mut clients = self.clients_most() * 2;
        while self.sweep.clients_max.is_some_and(|most| clients <= most) {
            let runs = self.numbered(before, self.points(&[clients]));
            before += runs.len() as u64;
            steps.push(runs);
            clients *= 2;
        }
        steps
    }

    fn clients_most(&self) -> u64 {
        self.sweep.clients.iter().copied().max().unwrap_or(1)
    }

    fn numbered(&self, before: u64, points: Vec<Point>) -> Vec<Run> {
        let mut runs = Vec::new();
        for point in points {
            for repetition in 1..=self.repeat {
                let number = before + runs.len() as u64 + 1;
                runs.push(Run { number, repetition, point: point.clone() });
            }
        }
        runs
    }

    fn points(&self, clients: &[u64]) -> Vec<Point> {
        let Sweep { machine, strategy, sync, read, value_bytes, source, commands, .. } =
            &self.sweep;
        let point = Point {
            machine: Machine::Disk,
            strategy: Strategy::None,
            sync: String::new(),
            read: String::new(),
            value_bytes: 0,
            clients: 0,
            source: None,
            commands: None,
        };
        let mut points = vec![point];
        points = crossed(points, machine, |point, machine| point.machine = *machine);
        points = crossed(points, strategy, |point, strategy| point.strategy = *strategy);
        points = crossed(points, sync, |point, sync| point.sync.clone_from(sync));
        points = crossed(points, read, |point, read| point.read.clone_from(read));
        points = crossed(points, value_bytes, |point, bytes| point.value_bytes = *bytes);
        points = crossed(points, clients, |point, clients| point.clients = *clients);
        if self.kind == Kind::Recovery {
            points = crossed(points, source, |point, source| point.source = Some(*source));
            points = crossed(points, commands, |point, count| point.commands = Some(*count));
        }
        points
    }

    /// Runs in the order in which they are made: at random, as the seed says. // I2
    pub(crate) fn order(&self, mut runs: Vec<Run>) -> Vec<Run> {
        let mut state = self.seed;
        for last in (1..runs.len()).rev() {
            let other = usize::try_from(random(&mut state) % (last as u64 + 1));
            runs.swap(last, other.expect("invariant: below the number of runs"));
        }
        runs
    }
}

impl Quick {
    fn replace(self, plan: &mut Plan) {
        let Plan { repeat, sweep, load, cluster, .. } = plan;
        set(repeat, self.repeat);
        set(&mut load.warm_up_s, self.warm_up_s);
        set(&mut load.duration_s, self.duration_s);
        set(&mut load.join_at_s, self.join_at_s.map(Some));
        set(&mut load.kill_at_s, self.kill_at_s.map(Some));
        set(&mut load.keys, self.keys);
        set(&mut sweep.machine, self.machine);
        set(&mut sweep.strategy, self.strategy);
        set(&mut sweep.sync, self.sync);
        set(&mut sweep.read, self.read);
        set(&mut sweep.value_bytes, self.value_bytes);
        set(&mut sweep.clients, self.clients);
        set(&mut sweep.clients_max, self.clients_max.map(Some));
        set(&mut sweep.source, self.source);
        set(&mut sweep.commands, self.commands);
        set(&mut cluster.flags, self.flags);
    }
}

impl Point {
    /// The factors that are compared, in words: all but how much load there is.
    pub(crate) fn factors(&self) -> Vec<String> {
        let commands = self.commands.map(|commands| format!("{commands} commands"));
        vec![
            self.source.map(|source| source.to_string()).unwrap_or_default(),
            commands.unwrap_or_default(),
            self.machine.to_string(),
            self.strategy.to_string(),
            format!("sync {}", self.sync),
            format!("read {}", self.read),
            format!("{} B", self.value_bytes),
        ]
    }
}

impl Display for Point {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut factors = self.factors();
        factors.retain(|factor| !factor.is_empty() && factor != "read linearizable");
        let clients = if self.commands.is_none() {
            format!(", {} client{}", self.clients, if self.clients == 1 { "" } else { "s" })
        } else {
            String::new()
        };
        write!(out, "{}{clients}", factors.join(", "))
    }
}

fn set<T>(value: &mut T, replacement: Option<T>) {
    if let Some(replacement) = replacement {
        *value = replacement;
    }
}

/// Every point with every value.
fn crossed<T>(points: Vec<Point>, values: &[T], set: impl Fn(&mut Point, &T)) -> Vec<Point> {
    let mut all = Vec::new();
    for point in points {
        for value in values {
            let mut with = point.clone();
            set(&mut with, value);
            all.push(with);
        }
    }
    all
}

fn bounded(name: &str, value: u64, least: u64, most: u64) -> Result<()> {
    ensure!((least..=most).contains(&value), "{name} = {value}: give {least} to {most}");
    Ok(())
}

fn one_of(name: &str, value: &str, known: &[&str]) -> Result<()> {
    ensure!(known.contains(&value), "{name}: {value:?}: give one of {}", known.join(", "));
    Ok(())
}

/// The values of a factor: at least one, and none twice.
fn points_of<'a, T: Debug + Ord>(name: &str, values: &'a [T]) -> Result<&'a [T]> {
    ensure!(!values.is_empty(), "{name} is empty: the sweep has no points");
    let mut seen = BTreeSet::new();
    for value in values {
        ensure!(seen.insert(value), "{name}: {value:?} stands there twice");
    }
    Ok(values)
}

/// `SplitMix64`.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "title = 'x'\nkind = 'load'\n";

    fn refusal(more: &str) -> String {
        format!("{:#}", Plan::parse(&format!("{LEAST}{more}"), false).unwrap_err())
    }

    #[test]
    fn every_combination_is_a_point_and_every_repetition_a_run() {
        let text = format!(
            "{LEAST}repeat = 3\n[sweep]\nclients = [1, 8]\nstrategy = ['none', 'app']\n\
             sync = ['always', 'never']\nmachine = ['disk', 'memory']\nvalue_bytes = [64, 1024]"
        );
        let plan = Plan::parse(&text, false).unwrap();
        let runs = plan.runs();
        assert_eq!(runs.len(), 2 * 2 * 2 * 2 * 2 * 3);
        let points: BTreeSet<&Point> = runs.iter().map(|run| &run.point).collect();
        assert_eq!(points.len(), 32);
        assert!(runs.iter().zip(1..).all(|(run, number)| run.number == number));
    }

    #[test]
    fn the_order_is_random_and_follows_from_the_seed() {
        let plan = |seed| {
            let text = format!("{LEAST}seed = {seed}\nrepeat = 20");
            Plan::parse(&text, false).unwrap()
        };
        let numbers = |plan: &Plan| -> Vec<u64> {
            plan.order(plan.runs()).iter().map(|run| run.number).collect()
        };
        let one = numbers(&plan(1));
        assert_eq!(one, numbers(&plan(1)));
        assert_ne!(one, numbers(&plan(2)));
        assert_ne!(one, (1..=20).collect::<Vec<_>>());
        assert_eq!(one.iter().copied().collect::<BTreeSet<_>>(), (1..=20).collect());
    }

    #[test]
    fn a_sweep_may_go_on_in_steps_whose_numbers_follow_from_the_file() {
        let text = format!(
            "{LEAST}repeat = 2\n[sweep]\nclients = [1, 8]\nclients_max = 40\nsync = ['always', 'never']"
        );
        let plan = Plan::parse(&text, false).unwrap();
        let steps = plan.steps();
        let clients: Vec<u64> = steps.iter().map(|step| step[0].point.clients).collect();
        assert_eq!(clients, [16, 32]);
        let all: Vec<Run> = plan.runs().into_iter().chain(steps.concat()).collect();
        assert_eq!(all.len(), 8 + 2 * 4);
        assert!(all.iter().zip(1..).all(|(run, number)| run.number == number));
        assert_eq!(Plan::parse(LEAST, false).unwrap().steps(), Vec::<Vec<Run>>::new());
    }

    #[test]
    fn unknown_keys_and_wrong_types_are_named_with_their_line() {
        for (text, words) in [
            ("[sweep]\nclints = [1]", &["line 4", "`clints`", "`clients`"][..]),
            ("[sweep]\nclients = ['a']", &["line 4", "clients", "expected u64"]),
            ("repeat = -1", &["line 3", "repeat"]),
            ("[sweep]\nstrategy = ['apps']", &["`apps`", "`decoupled`"]),
            ("[swep]", &["`swep`", "`sweep`"]),
            ("[quick]\nclints = [1]", &["`clints`"]),
        ] {
            let refusal = refusal(text);
            assert!(words.iter().all(|word| refusal.contains(word)), "{text}: {refusal}");
        }
        assert!(
            format!("{:#}", Plan::parse("kind = 'load'", false).unwrap_err()).contains("title")
        );
    }

    #[test]
    fn a_sweep_without_points_is_refused() {
        for key in ["clients", "value_bytes", "strategy", "sync", "read", "machine"] {
            let refusal = refusal(&format!("[sweep]\n{key} = []"));
            assert!(refusal.contains(&format!("sweep.{key} is empty")), "{refusal}");
        }
        let text = "title = 'x'\nkind = 'recovery'\n[sweep]\nsource = ['restart']";
        let refusal = Plan::parse(text, false).unwrap_err().to_string();
        assert!(refusal.contains("sweep.commands is empty"), "{refusal}");
    }

    #[test]
    fn numbers_out_of_bounds_and_values_that_stand_twice_are_refused() {
        for (text, words) in [
            ("[sweep]\nclients = [0]", "sweep.clients = 0: give 1 to 50000"),
            ("[sweep]\nclients = [2, 2]", "sweep.clients: 2 stands there twice"),
            ("[sweep]\nclients = [9]\nclients_max = 8", "clients_max = 8: give 9 to 50000"),
            ("[sweep]\nvalue_bytes = [31]", "sweep.value_bytes = 31"),
            ("repeat = 0", "repeat = 0"),
            ("[load]\nreads = 101", "load.reads = 101: give 0 to 100"),
            ("[load]\nduration_s = 5\njoin_at_s = 5", "load.join_at_s = 5: give 0 to 4"),
            ("[load]\nworkload = 'a'\nreads = 5", "give it alone"),
            ("[load]\nworkload = 'e'", "load.workload: \"e\": give one of original, a, b"),
            ("[load]\ndistribution = 'even'", "load.distribution: \"even\": give one of uniform"),
            ("[sweep]\nread = ['dirty']", "sweep.read: \"dirty\": give one of linearizable"),
            ("[sweep]\nsync = ['batch:0']", "sweep.sync: \"batch:0\": give \"always\""),
            ("[sweep]\nsync = ['batch:5', 'os']", "sweep.sync: \"os\": give \"always\""),
            ("[load]\nkill_at_s = 1", "kind = \"failover\""),
            ("[sweep]\ncommands = [1]", "kind = \"recovery\""),
        ] {
            let refusal = refusal(text);
            assert!(refusal.contains(words), "{text}: {refusal}");
        }
    }

    #[test]
    fn quick_replaces_what_it_names_and_nothing_else() {
        let text = format!(
            "{LEAST}repeat = 5\n[sweep]\nclients = [1, 2]\n[load]\nreads = 7\n\
             [quick]\nrepeat = 1\nduration_s = 2\nclients = [9]"
        );
        let full = Plan::parse(&text, false).unwrap();
        let quick = Plan::parse(&text, true).unwrap();
        assert_eq!((full.repeat, full.load.duration_s, full.runs().len()), (5, 10, 10));
        assert_eq!((quick.repeat, quick.load.duration_s, quick.load.reads), (1, 2, 7));
        assert_eq!(quick.sweep.clients, [9]);
        assert!(Plan::parse(LEAST, true).unwrap_err().to_string().contains("[quick]"));
    }

    #[test]
    fn the_ready_experiments_are_right_in_both_forms() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/experiments");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            for is_quick in [false, true] {
                let plan = Plan::parse(&text, is_quick);
                assert!(plan.is_ok(), "{}: {:#}", path.display(), plan.unwrap_err());
            }
            count += 1;
        }
        assert_eq!(count, 6);
    }
}
