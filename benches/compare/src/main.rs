//! Runs etcd, `ZooKeeper` and Redis beside diskstore, puts the same load on each in turn, A B A B, and
//! prints the table of ratios: each row met, missed or not measured. `scripts/compare` runs it.
//!
//! - I1: one engine runs at a time; each begins with an empty directory.
//! - I2: no server outlives this program (see `process`).
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program talks to its user")]

mod engines;
mod etcd;
mod process;
mod redis;
mod rows;
mod zookeeper;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use diskstore::load::{self, Distribution, Load, Pace, Progress, Report, Workload};
use engines::{ENGINES, Engine, Running, node_program};
use rows::{Measured, Results, Work, rows, table, works_of};

const USAGE: &str = "Usage: scripts/compare [-seconds N] [-rounds N] [-only ENGINE,...] [-data DIR] \
                     [-long] [-json]\n\n\
                     -seconds  how long each load is measured [default: 5]\n\
                     -rounds   how often every engine takes its turn [default: 2]\n\
                     -only     diskstore, diskstore-lease, diskstore-local, etcd, zookeeper, redis,\n          \
                     redis-replicated\n\
                     -data     an empty directory for all data (scripts/compare makes one)\n\
                     -long     also a minute over a million keys\n\
                     -json     prints JSON\n";
const VALUE_BYTES: usize = 1024;
/// Keys of every load but the long ones, and written before the first.
const KEYS: u64 = 100_000;
const KEYS_LONG: u64 = 1 << 20;
const LONG: Duration = Duration::from_mins(1);
const WARM_UP: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(30);

struct Settings {
    seconds: u64,
    rounds: u64,
    only: Vec<Engine>,
    data: PathBuf,
    is_long: bool,
    is_json: bool,
}

fn main() -> Result<()> {
    let Some(settings) = read_settings(std::env::args().skip(1))? else {
        print!("{USAGE}");
        return Ok(());
    };
    let node = node_program()?;
    let mut results = Results::new();
    let mut failed = Vec::new();
    for round in 0..settings.rounds {
        for engine in &settings.only {
            if let Some(package) = engine.missing() {
                if round == 0 {
                    eprintln!("{}: not measured, {package} is not installed", engine.name());
                }
                continue;
            }
            let directory = settings.data.join(format!("{}-{round}", engine.name()));
            let outcome = engine
                .start(&node, &directory)
                .and_then(|running| turn(*engine, &running, &settings, &mut results));
            if let Err(error) = outcome {
                eprintln!(
                    "{}: {error:#}; what it said is in {}",
                    engine.name(),
                    directory.display()
                );
                failed.push(engine.name());
                continue;
            }
            // I1; the next one finds room on the disk.
            std::fs::remove_dir_all(&directory)?;
        }
    }
    let rows = rows(&results);
    if settings.is_json {
        let runs = results.iter().map(|((engine, work), runs)| {
            serde_json::json!({ "engine": engine.name(), "load": work.describe(), "runs": runs })
        });
        let runs: Vec<_> = runs.collect();
        println!("{}", serde_json::json!({ "rows": rows, "runs": runs }));
    } else {
        print!("{}", table(&rows, &results));
    }
    if !failed.is_empty() {
        bail!("not measured as a whole: {}", failed.join(", "));
    }
    Ok(())
}

/// `None`: help was asked for.
fn read_settings(mut arguments: impl Iterator<Item = String>) -> Result<Option<Settings>> {
    let mut settings = Settings {
        seconds: 5,
        rounds: 2,
        only: ENGINES.to_vec(),
        data: PathBuf::new(),
        is_long: false,
        is_json: false,
    };
    while let Some(argument) = arguments.next() {
        let flag = argument.trim_start_matches('-');
        let (flag, mut joined) = match flag.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (flag, None),
        };
        let mut value = || {
            let value = joined.take().or_else(|| arguments.next());
            value.with_context(|| format!("-{flag} wants a value"))
        };
        match flag {
            "h" | "help" => return Ok(None),
            "json" => settings.is_json = true,
            "long" => settings.is_long = true,
            "seconds" => settings.seconds = at_least_one(flag, &value()?)?,
            "rounds" => settings.rounds = at_least_one(flag, &value()?)?,
            "data" => settings.data = PathBuf::from(value()?),
            "only" => settings.only = value()?.split(',').map(engine).collect::<Result<_>>()?,
            _ => bail!("{argument} is no flag\n{USAGE}"),
        }
    }
    if settings.data.as_os_str().is_empty() {
        bail!("-data is missing\n{USAGE}");
    }
    settings.data = std::path::absolute(&settings.data)?;
    Ok(Some(settings))
}

fn at_least_one(flag: &str, value: &str) -> Result<u64> {
    let number = value.parse().ok().filter(|number| (1..=86_400).contains(number));
    number.with_context(|| format!("-{flag} {value}: give 1 to 86400"))
}

fn engine(name: &str) -> Result<Engine> {
    let found = ENGINES.into_iter().find(|engine| engine.name() == name);
    found.with_context(|| format!("-only {name}: no such engine\n{USAGE}"))
}

/// All loads of an engine, once.
fn turn(
    engine: Engine,
    running: &Running,
    settings: &Settings,
    results: &mut Results,
) -> Result<()> {
    let works = works_of(engine, settings.is_long);
    fill(running)?;
    for work in works {
        let duration = if work.is_long { LONG } else { Duration::from_secs(settings.seconds) };
        run(running, &load_of(running, work, WARM_UP), false)?;
        let before = running.used()?;
        let report = run(running, &load_of(running, work, duration), false)?;
        let after = running.used()?;
        // What a byte of a value costs is counted for each node.
        let value_bytes = float(VALUE_BYTES as u64 * report.all.count.max(1));
        let nodes = float(running.node_count() as u64);
        let measured = Measured {
            per_second: report.all.per_second,
            p50_ms: report.all.latency.p50_ms,
            p99_ms: report.all.latency.p99_ms,
            server_us: (after.cpu_us - before.cpu_us) / float(report.all.count.max(1)),
            written: (after.written_bytes - before.written_bytes) / value_bytes / nodes,
            errors: report.error_count(),
        };
        eprintln!("{} {}: {:.0}/s", engine.name(), work.describe(), measured.per_second);
        if let Some(first) = report.errors.first() {
            eprintln!("  {} errors, such as: {}", measured.errors, first.first);
        }
        results.entry((engine, work)).or_default().push(measured);
    }
    Ok(())
}

/// Gives every key a value.
fn fill(running: &Running) -> Result<()> {
    let work = Work { is_read: false, clients: 256, pipeline: 1, is_long: false };
    let load = Load {
        workload: Workload::mixed(0, Distribution::Sequential),
        requests: Some(KEYS),
        duration: None,
        ..load_of(running, work, WARM_UP)
    };
    let report = run(running, &load, true)?;
    if report.all.count < KEYS {
        let first = report.errors.first().map_or("", |errors| &errors.first);
        bail!("only {} of {KEYS} keys could be written: {first}", report.all.count);
    }
    Ok(())
}

fn run(running: &Running, load: &Load, is_first: bool) -> Result<Report> {
    let report = load::run(load, &|| running.codec(is_first), &Progress::default())?;
    if report.all.count == 0 {
        let first = report.errors.first().map_or("", |errors| &errors.first);
        bail!("no operation succeeded: {first}");
    }
    Ok(report)
}

fn load_of(running: &Running, work: Work, duration: Duration) -> Load {
    Load {
        targets: vec![running.target],
        clients: work.clients,
        pipeline: work.pipeline,
        threads: 1,
        pace: Pace::Closed,
        keys: if work.is_long { KEYS_LONG } else { KEYS },
        workload: Workload::mixed(if work.is_read { 100 } else { 0 }, Distribution::Uniform),
        think: Duration::ZERO..=Duration::ZERO,
        value_bytes: VALUE_BYTES..=VALUE_BYTES,
        duration: Some(duration),
        requests: None,
        warm_up: Duration::ZERO,
        seed: 1,
        verify: true,
        timeout: TIMEOUT,
        unsafe_flags: Vec::new(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "statistics need 52 bits at most")]
fn float(number: u64) -> f64 {
    number as f64
}
