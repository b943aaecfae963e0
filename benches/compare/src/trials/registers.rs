//! What is measured of `leaderless`: sets and gets of all levels beside the sets of kvstore, large values over gRPC,
//! a node that is killed under load, and one that comes back.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use diskstore::load::{self, Distribution, Load, OpeningResp, Pace, Progress, Report, Workload};

use super::{Found, Place, Trial};
use crate::drive::{WARM_UP, float, load_of, run, run_resp};
use crate::grpc::{Grpc, Service};
use crate::nodes::Nodes;
use crate::registers::{RegisterNodes, status};
use crate::rows::{Limit, writes};

pub(super) const GRPC: Trial = Trial {
    name: "leaderless-grpc",
    goals: &[("leaderless, 5 nodes, gRPC, 10 KiB: QUORUM writes per s", Limit::AtLeast(4000.0))],
    run: grpc,
};

pub(super) const SETS: Trial = Trial {
    name: "leaderless-sets",
    goals: &[
        ("leaderless, 3 nodes, 64: QUORUM sets per s", Limit::AtLeast(15_000.0)),
        ("leaderless, 3 nodes, 64: QUORUM gets per s", Limit::AtLeast(40_000.0)),
        ("leaderless, 3 nodes, 64: ONE gets per s", Limit::AtLeast(100_000.0)),
        ("sets, 64: p99 in ms of leaderless / kvstore", Limit::AtMost(3.0)),
    ],
    run: sets,
};

pub(super) const KILL: Trial = Trial {
    name: "leaderless-kill",
    goals: &[
        ("leaderless, one of 5 nodes killed: errors after 2 s", Limit::AtMost(0.0)),
        ("leaderless, one of 5 nodes killed: longest pause, s", Limit::AtMost(1.2)),
    ],
    run: kill,
};

pub(super) const RETURN: Trial = Trial {
    name: "leaderless-return",
    goals: &[
        ("leaderless, a node back under load: seconds until it is in sync", Limit::AtMost(60.0)),
        ("leaderless, a node back under load: sets per s meanwhile / before", Limit::AtLeast(0.8)),
    ],
    run: come_back,
};

const CLIENTS: u64 = 64;
/// Keys of the large values: what three copies of them take has to fit into the machine.
const LARGE_KEYS: u64 = 10_000;
const LARGE_BYTES: usize = 10 << 10;
/// Operations a second of a load that a node misses, or is killed under.
const RATE: u64 = 2000;
/// Keys that a node misses writes of, without and with `-long`.
const MISSED_KEYS: [u64; 2] = [50_000, 400_000];
/// Keys of sets and gets.
const SET_KEYS: u64 = 20_000;
/// From the beginning of a load to the kill.
const BEFORE_KILL: Duration = Duration::from_secs(5);
/// From the kill to the end of the load.
const AFTER_KILL: Duration = Duration::from_secs(15);
/// Errors from here on count, behind a kill.
const ERRORS_AFTER: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(2);
/// How long a node may take to be in sync before nobody waits any more.
const SYNC_TIME_MAX: Duration = Duration::from_secs(90);
/// What a load runs before a node comes back, and is compared with.
const BEFORE_RETURN: Duration = Duration::from_secs(10);
/// How far behind the time of day a node confirms (`docs/leaderless.md`).
const FENCE_LAG_MS: u64 = 60_000;
/// Between 1970 and 2020, in milliseconds.
const YEARS_BEFORE_MS: u64 = 1_577_836_800_000;

/// A load on several nodes.
fn on(targets: Vec<SocketAddr>, duration: Duration) -> Load {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    Load { targets, keys: SET_KEYS, ..load_of(nowhere, writes(CLIENTS, 1), duration) }
}

/// Gives every key a value.
fn fill(targets: Vec<SocketAddr>) -> Load {
    Load {
        workload: Workload::mixed(0, Distribution::Sequential),
        requests: Some(SET_KEYS),
        duration: None,
        ..on(targets, Duration::ZERO)
    }
}

/// What failed has no latency, and a read that found nothing brought none: a rate of the rest would flatter.
fn faultless(report: Report) -> Result<Report> {
    let (errors, missing) = (report.error_count(), report.missing);
    if errors > 0 || missing > 0 {
        bail!("{errors} errors, and {missing} reads that found no value");
    }
    Ok(report)
}

fn grpc(place: &Place<'_>) -> Result<Vec<Found>> {
    let nodes = RegisterNodes::start(place.node, place.directory, 5)?;
    let codec = || Box::new(Grpc::new(Service::Leaderless)) as _;
    let load = |duration| Load {
        keys: LARGE_KEYS,
        value_bytes: LARGE_BYTES..=LARGE_BYTES,
        ..on(nodes.targets(5), duration)
    };
    run(&load(WARM_UP), &codec)?;
    let report = faultless(run(&load(place.seconds(10, 60)), &codec)?)?;
    say("gRPC, 10 KiB", &report);
    Ok(vec![Found::Value(report.all.per_second)])
}

fn say(what: &str, report: &Report) {
    let latency = &report.all.latency;
    eprintln!(
        "{what}: {:.0}/s, p50 {:.2} ms, p99 {:.2} ms, longest {:.0} ms, {} errors",
        report.all.per_second,
        latency.p50_ms,
        latency.p99_ms,
        latency.max_ms,
        report.error_count()
    );
}

/// Sets of both programs in turn, A B A B; then gets.
fn sets(place: &Place<'_>) -> Result<Vec<Found>> {
    let duration = place.seconds(5, 30);
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    let mut gets = Vec::new();
    for round in 0..2 {
        let directory = place.directory.join(format!("leaderless-{round}"));
        let nodes = RegisterNodes::start(place.node, &directory, 3)?;
        let targets = nodes.targets(3);
        run_resp(&fill(targets.clone()))?;
        let report = faultless(run_resp(&on(targets.clone(), duration))?)?;
        say("leaderless, sets at QUORUM", &report);
        ours.push(report);
        for level in ["quorum", "one"] {
            let reads = Workload::mixed(100, Distribution::Uniform);
            let load = Load { workload: reads, ..on(targets.clone(), duration) };
            let report = faultless(run(&load, &|| Box::new(OpeningResp::at_level(level)))?)?;
            say(&format!("leaderless, gets at {level}"), &report);
            gets.push(report.all.per_second);
        }
        drop(nodes);
        let directory = place.directory.join(format!("kvstore-{round}"));
        let program = place.node.with_file_name("kvstore");
        let mut nodes = Nodes::start(&program, &directory, 3, "")?;
        let target = nodes.target()?;
        run_resp(&fill(vec![target]))?;
        let report = faultless(run_resp(&on(vec![target], duration))?)?;
        say("kvstore, sets", &report);
        others.push(report);
    }
    let p99 = |reports: &[Report]| mean(reports.iter().map(|report| report.all.latency.p99_ms));
    let rate = mean(ours.iter().map(|report| report.all.per_second));
    let gets_at = |nth| mean(gets.iter().copied().skip(nth).step_by(2));
    Ok(vec![
        Found::Value(rate),
        Found::Value(gets_at(0)),
        Found::Value(gets_at(1)),
        Found::Ratio(p99(&ours), p99(&others)),
    ])
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    values.iter().sum::<f64>() / float(values.len().max(1) as u64)
}

/// A steady load that somebody watches, until it is told to stop.
fn beside<T>(load: &Load, watch: impl FnOnce(&Progress) -> Result<T> + Send) -> Result<(Report, T)>
where
    T: Send,
{
    let progress = Progress::default();
    std::thread::scope(|scope| {
        let running = scope
            .spawn(|| load::run(load, &|| Box::new(OpeningResp::at_level("quorum")), &progress));
        let seen = watch(&progress);
        let report = running.join().ok().context("the load panicked")??;
        Ok((report, seen?))
    })
}

/// Waits so long.
fn rest(duration: Duration) {
    std::thread::sleep(duration);
}

fn kill(place: &Place<'_>) -> Result<Vec<Found>> {
    let mut nodes = RegisterNodes::start(place.node, place.directory, 5)?;
    let (before, after) = (BEFORE_KILL, AFTER_KILL);
    // The clients of the one that is killed would have to go elsewhere by themselves: there are none.
    let load =
        Load { pace: Pace::Open { per_second: RATE }, ..on(nodes.targets(4), before + after) };
    let (report, seen) = beside(&load, |progress| {
        rest(before);
        nodes.kill(4)?;
        Ok(watch_for(progress, after))
    })?;
    say("one of five nodes is killed", &report);
    for errors in &report.errors {
        eprintln!("  {} errors: {}", errors.count, errors.first);
    }
    Ok(vec![
        Found::Value(float(report.error_count().saturating_sub(seen.errors_at_first))),
        Found::Value(seen.longest_pause.as_secs_f64()),
    ])
}

/// What was seen of a load behind a kill.
struct Seen {
    /// Errors up to [`ERRORS_AFTER`].
    errors_at_first: u64,
    /// The longest time in which nothing succeeded.
    longest_pause: Duration,
}

fn watch_for(progress: &Progress, duration: Duration) -> Seen {
    let begun = Instant::now();
    let mut seen = Seen { errors_at_first: 0, longest_pause: Duration::ZERO };
    let (mut last, mut count) = (begun, progress.successes());
    while begun.elapsed() + ERRORS_AFTER < duration {
        rest(POLL);
        if begun.elapsed() <= ERRORS_AFTER {
            seen.errors_at_first = progress.errors();
        }
        let now = progress.successes();
        if now > count {
            seen.longest_pause = seen.longest_pause.max(last.elapsed());
            (last, count) = (Instant::now(), now);
        }
    }
    seen.longest_pause = seen.longest_pause.max(last.elapsed());
    seen
}

fn come_back(place: &Place<'_>) -> Result<Vec<Found>> {
    let mut nodes = RegisterNodes::start(place.node, place.directory, 3)?;
    let targets = nodes.targets(2);
    let [few, many] = MISSED_KEYS;
    let keys = place.choose(few, many);
    run_resp(&Load {
        keys,
        workload: Workload::mixed(0, Distribution::Sequential),
        requests: Some(keys),
        duration: None,
        pipeline: 16,
        ..on(targets.clone(), Duration::ZERO)
    })?;
    nodes.kill(2)?;
    let load = |duration| Load {
        keys,
        pace: Pace::Open { per_second: RATE },
        ..on(targets.clone(), duration)
    };
    let (missed, ()) = beside(&load(place.away), |_| Ok(()))?;
    say("while it is away", &missed);
    let (report, (before, meanwhile, time)) =
        beside(&load(BEFORE_RETURN + SYNC_TIME_MAX), |progress| {
            let before = rate_over(progress, || {
                rest(BEFORE_RETURN);
                Ok(())
            })?;
            let begun = Instant::now();
            let meanwhile = rate_over(progress, || {
                let at = now_ms();
                nodes.spawn(2)?;
                while begun.elapsed() < SYNC_TIME_MAX && !is_in_sync(2, at) {
                    rest(Duration::from_millis(20));
                }
                Ok(())
            })?;
            Ok((before, meanwhile, begun.elapsed()))
        })?;
    say("while it comes back, and until the end", &report);
    eprintln!("in sync after {:.1} s; {before:.0}/s before, {meanwhile:.0}/s", time.as_secs_f64());
    Ok(vec![Found::Value(time.as_secs_f64()), Found::Ratio(meanwhile, before)])
}

/// Operations a second that succeed while something is done.
fn rate_over(progress: &Progress, what: impl FnOnce() -> Result<()>) -> Result<f64> {
    let (begun, count) = (Instant::now(), progress.successes());
    what()?;
    Ok(float(progress.successes() - count) / begun.elapsed().as_secs_f64())
}

/// Milliseconds since 2020, as statuses have them.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_sub(YEARS_BEFORE_MS)
}

/// Whether a node that was started at a moment has compared everything with each other node since, and fetched what
/// it had missed: a pull that began behind the start has confirmed what lay a minute back then.
fn is_in_sync(number: usize, started_ms: u64) -> bool {
    let Some(status) = status(number) else { return false };
    let peers = status["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_pulled = |peer: &serde_json::Value| {
        peer["confirmed_ms"].as_u64().is_some_and(|ms| ms + FENCE_LAG_MS >= started_ms)
    };
    status["standing"] == "ready" && !peers.is_empty() && peers.iter().all(is_pulled)
}
