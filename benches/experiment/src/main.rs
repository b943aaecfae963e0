//! Runs an experiment: a sweep over real clusters, described by a TOML file. `scripts/experiment`
//! starts it.
//!
//! - I1: one run at a time, each over an empty folder.
//! - I2: no process outlives this program (see `diskstore_process`).
//! - I3: what is on disk as a result is whole; whatever ends this program, the next start goes on.
//!
//! Exit codes: 0 all runs have a result, 2 wrong usage, 1 everything else.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program talks to its user")]

mod bench;
mod cluster;
mod folder;
mod plan;
mod plot;
mod programs;
mod report;
mod resp;
mod result;
mod runs;
mod statistics;
mod surroundings;
mod tables;
mod variants;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use folder::{Folder, Manifest};
use plan::{Plan, Run};
use programs::Programs;
use result::RunResult;
use surroundings::Surroundings;

/// Failures in a row after which the rest would most likely fail too.
const FAILURE_COUNT_MAX: u32 = 3;

/// What was typed.
#[derive(Debug, Parser)]
#[command(
    name = "experiment",
    version,
    about = "Runs the experiment that FILE describes: starts real clusters, puts load on them, and \
             writes tables, plots and a report.",
    after_help = "Interrupted, it goes on where it was: start it again. Several FILEs are run one after \
                  another. docs/experiments.md says what FILE holds.",
    args_override_self = true
)]
struct Invocation {
    /// The experiment, such as scripts/experiments/saturation.toml.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Runs the short form, which the table `quick` of FILE describes.
    #[arg(long)]
    quick: bool,
    /// Makes no run, and writes tables, plots and report of those that were made: also with a later build.
    #[arg(long)]
    report: bool,
    /// Folder of the results of the one FILE [default: experiment-results/NAME].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Folder in which the nodes' data lies while they run [default: in the folder of the results].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder of the programs [default: the one of this program].
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

fn main() -> ExitCode {
    let invocation: Invocation = match diskstore_flags::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(refusal) => return refusal.tell(),
    };
    match experiments(&invocation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("experiment: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn experiments(invocation: &Invocation) -> Result<()> {
    let is_one = invocation.files.len() == 1;
    ensure!(is_one || invocation.out.is_none(), "-out is the folder of one FILE");
    // What is wrong in the last file should not show after an hour.
    let parsed = invocation.files.iter().map(|file| Ok((file, parse(file, invocation.quick)?)));
    for (file, plan) in parsed.collect::<Result<Vec<_>>>()? {
        experiment(invocation, file, plan)?;
    }
    Ok(())
}

fn parse(file: &Path, is_quick: bool) -> Result<Plan> {
    let place = || file.display().to_string();
    let text = fs::read_to_string(file).with_context(place)?;
    Plan::parse(&text, is_quick).with_context(place)
}

fn experiment(invocation: &Invocation, file: &Path, plan: Plan) -> Result<()> {
    let out = invocation.out.clone().unwrap_or_else(|| default_out(file, invocation.quick));
    let out = std::path::absolute(out)?;
    if invocation.report {
        let folder = Folder::reopen(&out)?;
        let results = made(&folder)?;
        ensure!(!results.is_empty(), "no run has been made yet in {}", out.display());
        return write_all(&folder, &results, &out);
    }
    let programs = match &invocation.programs {
        Some(folder) => fs::canonicalize(folder).with_context(|| folder.display().to_string())?,
        None => std::env::current_exe()?.parent().context("a program without folder")?.to_owned(),
    };
    let programs = Programs::find(&programs, &plan)?;
    let data_root = invocation.data.clone().unwrap_or_else(|| out.clone());
    let data_root = std::path::absolute(data_root)?;
    let parent = data_root.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let manifest = Manifest {
        surroundings: Surroundings::look(parent, &programs)?,
        is_quick: invocation.quick,
        command: std::env::args().collect::<Vec<_>>().join(" "),
        plan,
    };
    let folder = Folder::claim(&out, manifest)?;
    // One of its own for each experiment: what lies there is removed.
    let name = crc32fast::hash(out.as_os_str().as_encoded_bytes());
    let data = data_root.join(format!("experiment-data-{name:08x}"));
    let results = run_all(&folder, &programs, &data)?;
    write_all(&folder, &results, &out)
}

fn default_out(file: &Path, is_quick: bool) -> PathBuf {
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    let quick = if is_quick { "-quick" } else { "" };
    Path::new("experiment-results").join(format!("{name}{quick}"))
}

/// Writes tables, plots and the report.
fn write_all(folder: &Folder, results: &[RunResult], out: &Path) -> Result<()> {
    let figures = plot::all(results);
    // Of a build that drew others.
    folder.clear("plots")?;
    let drawn = figures.iter().map(|figure| (figure.file(), figure.svg.clone()));
    for (name, bytes) in tables::all(results).into_iter().chain(drawn) {
        folder.write(&name, bytes.as_bytes())?;
    }
    let run_count = due(&folder.manifest.plan, results).len() + results.len();
    let html = report::html(&folder.manifest, results, &figures, run_count)?;
    folder.write("report.html", html.as_bytes())?;
    println!("{}", out.join("report.html").display());
    Ok(())
}

/// The results that there are, by number.
fn made(folder: &Folder) -> Result<Vec<RunResult>> {
    let plan = &folder.manifest.plan;
    let runs = plan.runs().into_iter().chain(plan.steps().concat());
    let results = runs.filter_map(|run| folder.result(&run).transpose());
    results.collect()
}

/// The runs to be made next, in their order: those of the plan, and once these are done, the next step of
/// sweeps in which throughput still rises.
fn due(plan: &Plan, results: &[RunResult]) -> Vec<Run> {
    let is_made = |run: &Run| results.iter().any(|result| result.run.number == run.number);
    let mut due = plan.order(plan.runs());
    due.retain(|run| !is_made(run));
    for step in plan.steps() {
        if !due.is_empty() {
            break;
        }
        // The repetitions of a point belong together: the first of them must not stop the others.
        let is_begun = |run: &Run| step.iter().any(|it| it.point == run.point && is_made(it));
        due = plan.order(step.clone());
        due.retain(|run| {
            !is_made(run) && (is_begun(run) || variants::still_rises(results, &run.point))
        });
    }
    due
}

/// Makes all runs that have no result yet, and gives all results by number.
fn run_all(folder: &Folder, programs: &Programs, data: &Path) -> Result<Vec<RunResult>> {
    let plan = &folder.manifest.plan;
    let mut results = made(folder)?;
    let mut next = due(plan, &results);
    if !results.is_empty() && !next.is_empty() {
        eprintln!("going on: {} of {} runs are done", results.len(), results.len() + next.len());
    }
    while !next.is_empty() {
        make_all(&next, &mut results, |run| run_one(folder, run, programs, data))?;
        next = due(plan, &results);
    }
    results.sort_by_key(|result| result.run.number);
    Ok(results)
}

/// Makes runs, and adds their results.
fn make_all(
    due: &[Run],
    results: &mut Vec<RunResult>,
    make: impl Fn(&Run) -> Result<RunResult>,
) -> Result<()> {
    let mut pace = Pace::new(due.len());
    let (mut failed, mut in_a_row) = (0, 0);
    for run in due {
        pace.begin(run);
        match make(run) {
            Ok(result) => {
                pace.end(&result);
                results.push(result);
                in_a_row = 0;
            }
            Err(error) => {
                pace.say(&format!("run {} ({}) failed: {error:#}", run.number, run.point));
                pace.count -= 1;
                failed += 1;
                in_a_row += 1;
            }
        }
        if in_a_row == FAILURE_COUNT_MAX {
            bail!("{in_a_row} runs in a row failed; start again to go on");
        }
    }
    if failed > 0 {
        bail!("{failed} of {} runs failed; start again to repeat them", due.len());
    }
    Ok(())
}

fn run_one(folder: &Folder, run: &Run, programs: &Programs, data: &Path) -> Result<RunResult> {
    // A run that was interrupted leaves its data.
    if data.exists() {
        fs::remove_dir_all(data).with_context(|| data.display().to_string())?;
    }
    fs::create_dir_all(data).with_context(|| data.display().to_string())?;
    match runs::make(&folder.manifest.plan, run, programs, data) {
        Ok(result) => {
            folder.keep(&result)?; // I3
            fs::remove_dir_all(data)?;
            Ok(result)
        }
        Err(error) => {
            let kept = folder.keep_failed(run.number, data)?;
            Err(error.context(format!("what processes said is in {}", kept.display())))
        }
    }
}

/// Shows how far the experiment is.
struct Pace {
    bar: ProgressBar,
    begin: Instant,
    done: u32,
    count: u32,
}

impl Pace {
    fn new(count: usize) -> Pace {
        let bar = ProgressBar::new(count as u64);
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len}, {msg}");
        bar.set_style(style.expect("invariant: the template is right"));
        bar.enable_steady_tick(Duration::from_secs(1));
        Pace {
            bar,
            begin: Instant::now(),
            done: 0,
            count: u32::try_from(count).unwrap_or(u32::MAX),
        }
    }

    fn begin(&self, run: &Run) {
        let left = self.begin.elapsed() / self.done.max(1) * (self.count - self.done);
        let left =
            if self.done > 0 { format!("{} left, ", HumanDuration(left)) } else { String::new() };
        self.bar.set_message(format!("{left}{}", run.point));
    }

    fn end(&mut self, result: &RunResult) {
        self.done += 1;
        self.bar.inc(1);
        let left = self.begin.elapsed() / self.done * (self.count - self.done);
        let words =
            format!("{}/{}: {}: {}", self.done, self.count, result.run.point, result.words());
        self.say(&format!("{words}; {} left", HumanDuration(left)));
    }

    /// Prints a line above the bar; where there is no terminal, to stderr.
    fn say(&self, line: &str) {
        if self.bar.is_hidden() {
            eprintln!("{line}");
        } else {
            self.bar.println(line);
        }
    }
}
