//! One run of a point: the cluster is started, loaded, measured and stopped. `main` calls it, with an
//! empty folder each time.

mod failover;
mod recovery;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::bench::Bench;
use crate::cluster::{Cluster, Monitors};
use crate::plan::{Kind, Plan, Run};
use crate::programs::Programs;
use crate::result::{Event, NodeCounts, RunResult};
use crate::watch::{Watch, events_of_logs, seconds, unix_ms};

const POLL: Duration = Duration::from_millis(20);
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// Rows of resources in a short measurement, at least.
const ROW_COUNT_MIN: u64 = 10;
const MONIT_INTERVAL_MAX: Duration = Duration::from_secs(1);
const MONIT_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Makes one run, in an empty folder.
///
/// # Errors
/// What failed; nothing of the run is a result then.
pub(crate) fn make(
    plan: &Plan,
    run: &Run,
    programs: &Programs,
    folder: &Path,
) -> Result<RunResult> {
    let begin = Instant::now();
    let mut result = RunResult::new(run.clone());
    let cluster = Cluster::start(programs, &plan.cluster, &run.point, folder)?;
    let setting = Setting { plan, programs, folder };
    match plan.kind {
        Kind::Load => setting.load(cluster, &mut result)?,
        Kind::Failover => failover::measure(&setting, cluster, &mut result)?,
        Kind::Recovery => recovery::measure(&setting, cluster, &mut result)?,
    }
    result.whole_s = begin.elapsed().as_secs_f64();
    Ok(result)
}

/// What all kinds of runs need.
struct Setting<'a> {
    plan: &'a Plan,
    programs: &'a Programs,
    folder: &'a Path,
}

/// A load that is being measured, and who looks on.
struct Measuring {
    bench: Bench,
    monitors: Monitors,
    watch: Watch,
    begin_unix_ms: u64,
    sync_count: u64,
    /// What was done to the cluster.
    events: Vec<Event>,
}

impl Setting<'_> {
    fn load(&self, mut cluster: Cluster<'_>, result: &mut RunResult) -> Result<()> {
        let (leader, _) = cluster.leader()?;
        let port = cluster.nodes[leader].port;
        let mut measuring = self.begin(&cluster, &[port], WATCH_INTERVAL, result)?;
        if let Some(at) = self.plan.load.join_at_s {
            measuring.wait_until(&mut cluster, Duration::from_secs(at))?;
            cluster.add_node()?;
            measuring.note("join", &cluster.nodes[cluster.nodes.len() - 1].name);
        }
        measuring.wait_for_end(&mut cluster)?;
        measuring.end(&cluster, result)
    }

    /// Fills the keys if they are to be read, and puts the load on ports.
    fn begin(
        &self,
        cluster: &Cluster<'_>,
        ports: &[u16],
        watch_interval: Duration,
        result: &RunResult,
    ) -> Result<Measuring> {
        let (load, point) = (&self.plan.load, &result.run.point);
        if load.reads > 0 || load.workload.is_some() {
            Bench::fill(self.programs, (load, point), load.keys, ports[0], self.folder)?;
        }
        let interval = Duration::from_millis(load.duration_s * 1000 / ROW_COUNT_MIN)
            .clamp(MONIT_INTERVAL_MIN, MONIT_INTERVAL_MAX);
        let monitors = Monitors::start(self.programs, cluster, interval, self.folder)?;
        let (_, status) = cluster.leader()?;
        let watch = Watch::start(cluster, status.term, watch_interval);
        let seed = self.plan.seed.wrapping_add(result.run.repetition);
        let bench = Bench::start(self.programs, (load, point, seed), ports, self.folder)?;
        let begin_unix_ms = unix_ms() + load.warm_up_s * 1000;
        let (sync_count, events) = (status.sync.count, Vec::new());
        Ok(Measuring { bench, monitors, watch, begin_unix_ms, sync_count, events })
    }
}

impl Measuring {
    /// Waits until so long after the measurement began.
    fn wait_until(&mut self, cluster: &mut Cluster<'_>, time: Duration) -> Result<()> {
        let until = self.begin_unix_ms + u64::try_from(time.as_millis())?;
        while unix_ms() < until {
            if !self.bench.is_running()? {
                bail!("the load ended early");
            }
            cluster.check()?;
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn wait_for_end(&mut self, cluster: &mut Cluster<'_>) -> Result<()> {
        while self.bench.is_running()? {
            cluster.check()?;
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Takes note of something that was done to the cluster now.
    fn note(&mut self, kind: &str, process: &str) {
        let second = self.now_s();
        let (kind, process) = (kind.to_owned(), process.to_owned());
        self.events.push(Event { second, took_s: 0.0, kind, process });
    }

    /// Seconds since the measurement began.
    fn now_s(&self) -> f64 {
        seconds(unix_ms().saturating_sub(self.begin_unix_ms))
    }

    /// Gathers what was measured.
    fn end(self, cluster: &Cluster<'_>, result: &mut RunResult) -> Result<()> {
        let end_unix_ms = unix_ms();
        let (load, latencies) = self.bench.finish()?;
        let (_, status) = cluster.leader()?;
        let learners = status.members.iter().filter(|member| member.role == "learner");
        let loggers = |name: &str| cluster.loggers.iter().any(|logger| logger.name == name);
        result.nodes = NodeCounts {
            sync_count: status.sync.count.saturating_sub(self.sync_count),
            sync_p50_us: status.sync.p50_us,
            sync_p99_us: status.sync.p99_us,
            learner_lag_max: learners
                .filter(|member| loggers(&member.name))
                .filter_map(|member| member.lag)
                .max(),
            unsafe_flags: status.unsafe_flags,
        };
        result.begin_unix_ms = self.begin_unix_ms;
        result.load = Some(load);
        result.latencies = latencies;
        result.resources = self.monitors.stop()?;
        let logs: Vec<(String, PathBuf)> = cluster
            .nodes
            .iter()
            .map(|node| (node.name.clone(), node.directory.join("log")))
            .collect();
        let mut events = events_of_logs(&logs, self.begin_unix_ms, end_unix_ms)?;
        events.extend(self.events);
        for election in self.watch.stop()? {
            let second = seconds(election.unix_ms.saturating_sub(self.begin_unix_ms));
            let kind = "election".to_owned();
            events.push(Event { second, took_s: 0.0, kind, process: election.leader });
        }
        events.sort_by(|one, other| one.second.total_cmp(&other.second));
        result.events = events;
        Ok(())
    }
}
