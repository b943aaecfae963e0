//! Runs kvstore, etcd, `ZooKeeper` and Redis beside diskstore, puts the same load on each in turn, A B A B, and
//! prints the table of ratios: each row met, missed, told or not measured. `scripts/compare` runs it.
//!
//! - I1: one engine runs at a time; each begins with an empty directory.
//! - I2: no server outlives this program (see `diskstore_process`).
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program talks to its user")]

mod commands;
mod drive;
mod engines;
mod grpc;
mod nodes;
mod pages;
mod redis;
mod registers;
mod rows;
mod servers;
mod settings;
mod trials;
mod zookeeper;

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use drive::{KEYS, KEYS_LONG, WARM_UP, each_once, load_of, measured, run};
use engines::{Engine, node_program};
use rows::{Results, Row, rows, table, works_of, writes};
use settings::{Settings, USAGE};
use trials::Place;

/// How long a long load is measured.
const LONG: Duration = Duration::from_mins(1);

fn main() -> Result<()> {
    let Some(settings) = settings::read(std::env::args().skip(1))? else {
        print!("{USAGE}");
        return Ok(());
    };
    let node = node_program()?;
    let (mut results, mut failed) = (Results::new(), Vec::new());
    for round in 0..settings.rounds {
        for engine in &settings.engines {
            if let Some(package) = engine.missing() {
                if round == 0 {
                    eprintln!("{}: not measured, {package} is not installed", engine.name());
                }
                continue;
            }
            let directory = settings.data.join(format!("{}-{round}", engine.name()));
            let outcome = turn(*engine, round, (&node, &directory), &settings, &mut results);
            finish(engine.name(), &directory, outcome, &mut failed)?;
        }
    }
    let mut table_rows = if settings.engines.is_empty() { Vec::new() } else { rows(&results) };
    table_rows.extend(try_all(&node, &settings, &mut failed)?);
    if settings.is_json {
        let runs = results.iter().map(|((engine, work), runs)| {
            let runs: Vec<_> = runs.values().collect();
            serde_json::json!({ "engine": engine.name(), "load": work.describe(), "runs": runs })
        });
        let runs: Vec<_> = runs.collect();
        println!("{}", serde_json::json!({ "rows": table_rows, "runs": runs }));
    } else {
        print!("{}", table(&table_rows, &results));
    }
    if !failed.is_empty() {
        bail!("not measured as a whole: {}", failed.join(", "));
    }
    Ok(())
}

/// What is measured of diskstore alone.
fn try_all(node: &Path, settings: &Settings, failed: &mut Vec<&str>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for trial in &settings.trials {
        let directory = settings.data.join(trial.name);
        let place =
            Place { node, directory: &directory, is_long: settings.is_long, away: settings.away };
        let found = (trial.run)(&place);
        rows.extend(trial.rows(found.as_deref().unwrap_or_default()));
        finish(trial.name, &directory, found.map(|_| ()), failed)?;
    }
    Ok(rows)
}

/// I1; the next one finds room on the disk.
fn finish<'a>(
    name: &'a str,
    directory: &Path,
    outcome: Result<()>,
    failed: &mut Vec<&'a str>,
) -> Result<()> {
    if let Err(error) = outcome {
        eprintln!("{name}: {error:#}; what was said last:\n{}", trials::last_words(directory));
        failed.push(name);
    }
    if directory.exists() {
        std::fs::remove_dir_all(directory)?;
    }
    Ok(())
}

/// All loads of an engine, once.
fn turn(
    engine: Engine,
    round: u64,
    (node, directory): (&Path, &Path),
    settings: &Settings,
    results: &mut Results,
) -> Result<()> {
    let works = works_of(engine, settings.loads);
    if works.is_empty() {
        return Ok(());
    }
    // `ZooKeeper` overwrites only what is there.
    let is_full = works.iter().any(|work| work.is_long);
    let keys = if is_full && engine == Engine::ZooKeeper { KEYS_LONG } else { KEYS };
    let running = engine.start(node, directory, keys)?;
    run(&each_once(running.target, writes(256, 1), keys), &|| running.codec(None))?;
    for work in works {
        let duration = if work.is_long { LONG } else { Duration::from_secs(settings.seconds) };
        let load = |duration| load_of(running.target, work, duration);
        run(&load(WARM_UP), &|| running.codec(Some(work.kind)))?;
        let before = running.used()?;
        let report = run(&load(duration), &|| running.codec(Some(work.kind)))?;
        let measured = measured(&report, before, running.used()?, running.node_count());
        eprintln!("{} {}: {:.0}/s", engine.name(), work.describe(), measured.per_second);
        results.entry((engine, work)).or_default().insert(round, measured);
    }
    Ok(())
}
