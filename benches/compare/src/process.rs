//! Servers as child processes: what they cost, and that none of them outlives the comparison.
//!
//! - I1: a server is stopped by its process id when its `Server` is dropped, and by the kernel when
//!   this program ends in any other way (`setpriv --pdeathsig`).

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take until it serves.
const START_TIME_MAX: Duration = Duration::from_mins(1);
/// How long a server may take to end in order.
const STOP_TIME_MAX: Duration = Duration::from_mins(2);
/// As exact as times until something is so are.
const POLL: Duration = Duration::from_millis(5);
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
    /// It was told to end.
    has_ended: bool,
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
        Ok(Server { child, has_ended: false })
    }

    /// What it has used up to now.
    ///
    /// # Errors
    /// It is gone.
    fn used(&self) -> Result<Used> {
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

    /// True unless it has ended without being told to.
    ///
    /// # Errors
    /// The system's.
    fn is_well(&mut self) -> Result<bool> {
        Ok(self.has_ended || self.child.try_wait()?.is_none())
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        self.has_ended = true;
        // It may be gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Tells it to end, and waits until it has.
    ///
    /// # Errors
    /// It takes too long.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.has_ended = true;
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("a process without id")?, Signal::TERM)?;
        let begin = Instant::now();
        while self.child.try_wait()?.is_none() {
            anyhow::ensure!(begin.elapsed() < STOP_TIME_MAX, "a server does not end");
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill(); // I1
    }
}

/// What some servers have used up to now, together.
///
/// # Errors
/// One of them is gone.
pub(crate) fn used_by(servers: &[Server]) -> Result<Used> {
    let mut all = Used::default();
    for server in servers {
        let used = server.used().context("a node is gone")?;
        all.cpu_us += used.cpu_us;
        all.written_bytes += used.written_bytes;
    }
    Ok(all)
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
            if !server.is_well()? {
                bail!("a server has ended instead of serving; see its log");
            }
        }
        std::thread::sleep(POLL);
    }
    bail!("not ready within {} s", START_TIME_MAX.as_secs())
}
