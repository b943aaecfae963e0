//! How long a node takes until it serves: after `kill -9` under load, and after a stop in order.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Found, Place, Trial, fill, writes_to};
use crate::drive::{KEYS, KEYS_LONG, float, load_of, run_resp};
use crate::nodes::{Nodes, serves, status};
use crate::rows::{Limit, writes};

pub(super) const TRIAL: Trial = Trial {
    name: "restart",
    goals: &[
        ("start after kill -9, 100,000 keys: MB/s of log, all counted", Limit::AtLeast(500.0)),
        ("start after kill -9, 1,048,576 keys: MB/s of log, all counted", Limit::AtLeast(500.0)),
        ("start after a clean stop, 1,048,576 slots full, seconds", Limit::AtMost(1.0)),
    ],
    run,
};

/// No checkpoint comes in between: all of the log is replayed.
const FLAGS: &str = "-checkpoint-mib 8192";
/// Bytes of log that a write takes, about.
const WRITE_BYTES: u64 = 1088;
/// How long the load runs that is cut off, and when.
const LAST_LOAD: Duration = Duration::from_secs(1);
const CUT_OFF_AFTER: Duration = Duration::from_millis(500);

fn run(place: &Place<'_>) -> Result<Vec<Found>> {
    let few = replay(place, &mut place.start(1, FLAGS)?, KEYS)?;
    std::fs::remove_dir_all(place.directory)?;
    let mut nodes = place.start(1, FLAGS)?;
    let many = replay(place, &mut nodes, KEYS_LONG)?;
    fill(&mut nodes, KEYS_LONG)?;
    nodes.stop(0)?;
    let clean = start_again(&mut nodes)?;
    Ok(vec![Found::Value(few), Found::Value(many), Found::Value(clean.as_secs_f64())])
}

/// MB/s of a log of writes to so many keys.
fn replay(place: &Place<'_>, nodes: &mut Nodes, keys: u64) -> Result<f64> {
    let writes_wanted = place.choose(256 << 20, 1 << 30) / WRITE_BYTES;
    let mut load = load_of(nodes.target()?, writes(64, 16), Duration::ZERO);
    (load.keys, load.duration, load.requests) = (keys, None, Some(writes_wanted));
    run_resp(&load)?;
    let log_bytes = kill_under_load(nodes)?;
    let first = start_again(nodes)?.as_secs_f64();
    nodes.kill(0);
    let again = start_again(nodes)?.as_secs_f64();
    eprintln!("restart: {keys} keys, {log_bytes:.0} bytes: {first:.2} s, once more {again:.2} s");
    Ok(log_bytes / first / 1e6)
}

/// Ends the node in the middle of a load; the bytes of its log a moment before.
fn kill_under_load(nodes: &mut Nodes) -> Result<f64> {
    let load = writes_to(nodes, 64, LAST_LOAD)?;
    let log_bytes = std::thread::scope(|scope| {
        // It ends with errors.
        let cut_off = scope.spawn(move || run_resp(&load).map(|_| ()));
        std::thread::sleep(CUT_OFF_AFTER);
        let log_bytes = status(0).map(|status| status.log_written_bytes);
        nodes.kill(0);
        drop(cut_off.join());
        log_bytes
    });
    Ok(float(log_bytes.context("the node did not answer under load")?))
}

/// The time from the start of the process until it answers a read.
fn start_again(nodes: &mut Nodes) -> Result<Duration> {
    let begin = Instant::now();
    nodes.spawn(0)?;
    nodes.wait(|| serves(0).then_some(()))?;
    Ok(begin.elapsed())
}
