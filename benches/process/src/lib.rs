//! Programs as child processes, none of which outlives whoever started it. Experiments and the
//! comparison call it.
//!
//! - I1: a process is stopped by its process id when its `Process` is dropped, and by the kernel when
//!   this program ends in any other way (`setpriv --pdeathsig`). The kernel looks at the thread that
//!   started it: only the main thread starts processes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

const POLL: Duration = Duration::from_millis(5);
/// Lines of what a process said that are shown when it has failed.
const WORDS_LINES_MAX: usize = 5;

/// A running program.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    /// It was told to end.
    is_to_end: bool,
}

impl Process {
    /// Starts a program; what it says goes to the file `log` in `directory`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(program: &Path, arguments: &[String], directory: &Path) -> Result<Process> {
        fs::create_dir_all(directory)?;
        let log = File::options().create(true).append(true).open(directory.join("log"))?;
        Process::spawn(program, arguments, directory, log)
    }

    /// As [`Process::start`], but what it prints goes to the file `output` in `directory`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_with_output(
        program: &Path,
        arguments: &[String],
        directory: &Path,
    ) -> Result<Process> {
        fs::create_dir_all(directory)?;
        let output = File::create(directory.join("output"))?;
        Process::spawn(program, arguments, directory, output)
    }

    fn spawn(
        program: &Path,
        arguments: &[String],
        directory: &Path,
        output: File,
    ) -> Result<Process> {
        let path = directory.join("log");
        let log = File::options().create(true).append(true).open(&path)?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        Ok(Process { child, log: path, is_to_end: false })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// True while it runs.
    ///
    /// # Errors
    /// The system's.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// How it has ended, if it has.
    ///
    /// # Errors
    /// The system's.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// How it has ended, if nobody told it to.
    ///
    /// # Errors
    /// The system's.
    pub fn failed(&mut self) -> Result<Option<ExitStatus>> {
        if self.is_to_end { Ok(None) } else { self.ended() }
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It does not within `time_max`.
    pub fn wait(&mut self, time_max: Duration) -> Result<ExitStatus> {
        let begin = Instant::now();
        while begin.elapsed() < time_max {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            std::thread::sleep(POLL);
        }
        bail!("process {} has not ended within {} s", self.pid(), time_max.as_secs())
    }

    /// Asks it to stop, and waits until it has.
    ///
    /// # Errors
    /// It does not within `time_max`.
    pub fn terminate(&mut self, time_max: Duration) -> Result<ExitStatus> {
        self.is_to_end = true;
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        self.wait(time_max)
    }

    /// Kills it and waits until it is gone.
    ///
    /// # Errors
    /// The system's.
    pub fn kill(&mut self) -> Result<()> {
        self.is_to_end = true;
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// The end of what it said.
    pub fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(WORDS_LINES_MAX)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // I1. It may be gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
