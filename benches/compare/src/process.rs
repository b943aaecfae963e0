//! Servers as child processes: what they cost, and that none of them outlives the comparison.
//!
//! - I1: a server is stopped by its process id when its `Server` is dropped, and by the kernel when
//!   this program ends in any other way (`setpriv --pdeathsig`).

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a server may take until it serves.
const START_TIME_MAX: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);
/// Ticks of the CPU time in `/proc`, which Linux shows in hundredths of a second everywhere.
const TICK_US: f64 = 10_000.0;

/// What some processes have used since they began.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Used {
    /// CPU, microseconds.
    pub(crate) cpu_us: f64,
    /// Bytes handed to the disk.
    pub(crate) written_bytes: f64,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
}

impl Server {
    /// Starts a program; what it says goes to a file in `directory`.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(program: &Path, arguments: &[String], directory: &Path) -> Result<Server> {
        fs::create_dir_all(directory)?;
        let log = File::create(directory.join("log"))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        Ok(Server { child })
    }

    /// What it has used up to now.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) fn used(&self) -> Result<Used> {
        let folder = format!("/proc/{}", self.child.id());
        let stat = fs::read_to_string(format!("{folder}/stat"))?;
        // The name in parentheses may hold spaces.
        let fields = stat.rsplit_once(')').context("a process without name")?.1;
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
        let ticks: f64 = ticks.sum::<Result<f64, _>>()?;
        let io = fs::read_to_string(format!("{folder}/io"))?;
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        let written_bytes = written.context("no write_bytes")?.parse()?;
        Ok(Used { cpu_us: ticks * TICK_US, written_bytes })
    }

    /// True while it runs.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // I1. It may be gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Waits until `ready` gives something; a server that ends meanwhile ends the wait.
///
/// # Errors
/// It took too long, or a server has ended.
pub(crate) fn wait_until<T>(
    servers: &mut [Server],
    mut ready: impl FnMut() -> Option<T>,
) -> Result<T> {
    let begin = Instant::now();
    while begin.elapsed() < START_TIME_MAX {
        if let Some(found) = ready() {
            return Ok(found);
        }
        for server in &mut *servers {
            if !server.is_running()? {
                bail!("a server has ended instead of serving; see its log");
            }
        }
        std::thread::sleep(POLL);
    }
    bail!("not ready within {} s", START_TIME_MAX.as_secs())
}
