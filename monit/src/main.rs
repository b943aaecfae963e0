//! The `monit` program. Thin: finds the process, then takes a row per interval until it ends or a
//! signal comes.
//!
//! Exit codes: 0 the process ended or a signal came, 2 wrong usage, 1 everything else.
#![expect(clippy::print_stderr, reason = "a program talks to its user")]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use diskstore_monit::find::find;
use diskstore_monit::sample::Sampler;
use diskstore_monit::write::{Format, Writer};
use diskstore_profile::Profiles;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

/// Heap profiles are its work.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const PROC: &str = "/proc";
/// Below, /proc counts too coarsely; above, nobody waits.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
const INTERVAL_MAX: Duration = Duration::from_hours(24);
/// How often it is asked whether the process still runs, however long the interval.
const END_POLL: Duration = Duration::from_millis(250);

/// What was typed.
#[derive(Debug, Parser)]
#[command(
    name = "monit",
    version,
    about = "Prints what a process and its machine use, once per interval, from /proc.",
    after_help = "It ends when the process does, or on Ctrl-C. /proc does not count the syncs of a\n\
                  process; machine_flush_count is what the machine's disks were sent.",
    args_override_self = true
)]
struct Invocation {
    /// The program to watch, by its name.
    #[arg(value_name = "NAME", required_unless_present = "pid", conflicts_with = "pid")]
    name: Option<String>,
    /// The process to watch, by its id.
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Time from row to row.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_interval)]
    interval: Duration,
    /// Writes rows to FILE, which is not there yet or empty, and a table to the terminal.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// What FILE (without -csv, the terminal) is written in: csv, or io.out for running totals of
    /// bytes received, sent, read and written.
    #[arg(long, value_name = "csv|io.out", value_parser = parse_format)]
    format: Option<Format>,
    /// Writes a CPU profile (pprof) at the end; SIGUSR1 ends and begins profiles too.
    #[arg(long, value_name = "FILE")]
    cpuprofile: Option<PathBuf>,
    /// Writes a heap profile (pprof) at the end.
    #[arg(long, value_name = "FILE")]
    memprofile: Option<PathBuf>,
}

fn parse_interval(text: &str) -> Result<Duration, &'static str> {
    let interval = diskstore_flags::parse_duration(text)?;
    let known = (INTERVAL_MIN..=INTERVAL_MAX).contains(&interval);
    known.then_some(interval).ok_or("write a time from 10ms to 24h")
}

fn parse_format(text: &str) -> Result<Format, &'static str> {
    match text {
        "csv" => Ok(Format::Csv),
        "io.out" => Ok(Format::IoOut),
        _ => Err("write csv or io.out"),
    }
}

fn main() -> ExitCode {
    let invocation: Invocation = match diskstore_flags::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(refusal) => return refusal.tell(),
    };
    match profiled(&invocation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("monit: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn profiled(invocation: &Invocation) -> anyhow::Result<()> {
    let Invocation { cpuprofile, memprofile, .. } = invocation;
    let profiles = Profiles::start(cpuprofile.as_deref(), memprofile.as_deref())?;
    match run(invocation) {
        // Whoever read our output has seen enough.
        Err(error) if !is_broken_pipe(&error) => Err(error),
        _ => Ok(profiles.finish()?),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

fn run(invocation: &Invocation) -> anyhow::Result<()> {
    let root = Path::new(PROC);
    let pid = match (&invocation.name, invocation.pid) {
        (_, Some(pid)) => pid,
        (Some(name), None) => find(root, name, std::process::id())?,
        (None, None) => unreachable!("clap asks for one of both"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(watch(invocation, root, pid))
}

async fn watch(invocation: &Invocation, root: &Path, pid: u32) -> anyhow::Result<()> {
    // Before the file is made: from its first line on it is closed by a signal, not by accident.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut sampler = Sampler::new(root, pid)?;
    let mut writers = writers(invocation, &sampler)?;
    let begin = Instant::now() + invocation.interval;
    let mut rows = interval_at(begin, invocation.interval);
    rows.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut polls = interval(END_POLL.min(invocation.interval));
    loop {
        tokio::select! {
            biased;
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = rows.tick() => {
                let Some(row) = sampler.next_row()? else { return Ok(()) };
                for (place, writer) in &mut writers {
                    writer.row(&row, sampler.totals()).with_context(|| place.clone())?;
                }
            }
            _ = polls.tick() => if sampler.has_ended()? { return Ok(()) },
        }
    }
}

type Sink = Box<dyn Write>;

/// The file, if one was asked for, and the terminal, with what to call them in an error.
fn writers(
    invocation: &Invocation,
    sampler: &Sampler,
) -> anyhow::Result<Vec<(String, Writer<Sink>)>> {
    const TERMINAL: &str = "standard output";
    let terminal: Sink = Box::new(io::stdout());
    let totals = sampler.totals();
    let Some(path) = &invocation.csv else {
        let format = invocation.format.unwrap_or(Format::Table);
        return Ok(vec![(TERMINAL.to_owned(), Writer::new(terminal, format, totals)?)]);
    };
    let file: Sink = Box::new(create(path)?);
    let format = invocation.format.unwrap_or(Format::Csv);
    let place = path.display().to_string();
    let file = Writer::new(file, format, totals).with_context(|| place.clone())?;
    let terminal = Writer::new(terminal, Format::Table, totals)?;
    Ok(vec![(place, file), (TERMINAL.to_owned(), terminal)])
}

/// Opens a file for appending; one that holds something is somebody's measurement.
fn create(path: &Path) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    let opened = options.append(true).create(true).open(path);
    let file = opened.with_context(|| path.display().to_string())?;
    let held = file.metadata().with_context(|| path.display().to_string())?.len();
    ensure!(held == 0, "{}: holds {held} bytes already, name another file", path.display());
    Ok(file)
}
