//! A recovery: so many commands are written, and then a state machine that has lost all of them
//! gets them back: from its own files, from another member, or from what was recorded.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use diskstore_process::Process;
use serde::Deserialize;

use super::Setting;
use crate::bench::Bench;
use crate::cluster::{Cluster, words};
use crate::plan::Source;
use crate::resp::{self, Status};
use crate::result::{Recovery, RunResult};

const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(2);
const RECOVERY_TIME_MAX: Duration = Duration::from_mins(10);

/// Measures a recovery.
///
/// # Errors
/// The commands cannot be written, or not all of them are there again.
pub(super) fn measure(
    setting: &Setting<'_>,
    mut cluster: Cluster<'_>,
    result: &mut RunResult,
) -> Result<()> {
    let point = result.run.point.clone();
    let (count, source) = point.commands.zip(point.source).context("a recovery of nothing")?;
    let (leader, _) = cluster.leader()?;
    let port = cluster.nodes[leader].port;
    Bench::fill(setting.programs, (&setting.plan.load, &point), count, port, setting.folder)?;
    let committed = cluster.leader()?.1.committed;
    caught_up(&mut cluster, committed)?;
    let mut recovery = match source {
        Source::Restart => restart(&mut cluster, leader, committed)?,
        Source::Member => member(&mut cluster, committed)?,
        Source::Records => records(setting, &cluster, point.value_bytes)?,
    };
    if source != Source::Records {
        recovery.commands = count;
    }
    ensure!(recovery.commands >= count, "{} of {count} commands were recovered", recovery.commands);
    result.recovery = Some(recovery);
    Ok(())
}

/// Waits until every member has what is committed.
fn caught_up(cluster: &mut Cluster<'_>, committed: u64) -> Result<()> {
    let nodes: Vec<u16> = cluster.nodes.iter().map(|node| node.port).collect();
    cluster.wait("some member lags", |leader| {
        let applied = nodes.iter().all(|port| {
            resp::status(*port, ANSWER_TIME_MAX).is_some_and(|status| status.applied >= committed)
        });
        applied && leader.members.iter().all(|member| member.lag.is_none_or(|lag| lag == 0))
    })
}

/// A follower is killed, and started again over its files.
fn restart(cluster: &mut Cluster<'_>, leader: usize, committed: u64) -> Result<Recovery> {
    let follower = (leader + 1) % cluster.nodes.len();
    cluster.nodes[follower].child.kill()?;
    let begin = Instant::now();
    cluster.restart(follower)?;
    wait_applied(cluster, follower, committed, begin)
}

/// A further member is started without files.
fn member(cluster: &mut Cluster<'_>, committed: u64) -> Result<Recovery> {
    let begin = Instant::now();
    cluster.add_node()?;
    wait_applied(cluster, cluster.nodes.len() - 1, committed, begin)
}

fn wait_applied(
    cluster: &mut Cluster<'_>,
    node: usize,
    committed: u64,
    begin: Instant,
) -> Result<Recovery> {
    let port = cluster.nodes[node].port;
    while begin.elapsed() < RECOVERY_TIME_MAX {
        let status = resp::status(port, ANSWER_TIME_MAX);
        let has_all = |status: &Status| status.applied >= committed.max(status.readable_from);
        if let Some(status) = status.filter(has_all) {
            let total_ms = begin.elapsed().as_secs_f64() * 1e3;
            return Ok(Recovery { total_ms, bytes: status.received_bytes, ..Recovery::default() });
        }
        cluster.check()?;
        std::thread::sleep(POLL);
    }
    bail!("not recovered within {} s", RECOVERY_TIME_MAX.as_secs())
}

/// What `recovery -json` prints.
#[derive(Debug, Deserialize)]
struct Printed {
    transfer_ns: f64,
    install_ns: f64,
    state_bytes: u64,
    commands: u64,
}

/// Program `recovery` asks a logger, or a node that records.
fn records(setting: &Setting<'_>, cluster: &Cluster<'_>, value_bytes: u64) -> Result<Recovery> {
    let mut sources = cluster.loggers.iter().chain(&cluster.nodes);
    let port = sources.find_map(|member| member.recovery).context("nothing records")?;
    let directory = setting.folder.join("recovery");
    let (slots, bytes) = (setting.plan.cluster.slots, value_bytes);
    let line = format!("-recov 127.0.0.1:{port} -slots {slots} -value-size {bytes} -json");
    let program = setting.programs.recovery();
    let mut child = Process::start_with_output(&program, &words(&line), &directory)?;
    let status = child.wait(RECOVERY_TIME_MAX)?;
    ensure!(status.success(), "recovery: {status}: {}", child.last_words());
    let output = std::fs::read_to_string(directory.join("output"))?;
    let line = output.lines().rev().find(|line| line.starts_with('{'));
    let line = line.context("recovery printed no line of JSON")?;
    let printed: Printed = serde_json::from_str(line).with_context(|| line.to_owned())?;
    Ok(Recovery {
        commands: printed.commands,
        bytes: printed.state_bytes,
        transfer_ms: Some(printed.transfer_ns / 1e6),
        install_ms: Some(printed.install_ns / 1e6),
        total_ms: (printed.transfer_ns + printed.install_ns) / 1e6,
    })
}
