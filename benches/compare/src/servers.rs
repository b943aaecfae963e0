//! Servers as child processes: what they have used, and whether they are ready.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use diskstore_process::Process;

/// How long a server may take until it serves.
const START_TIME_MAX: Duration = Duration::from_mins(1);
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
    /// Bytes that came from the disk.
    pub(crate) read_bytes: f64,
}

/// What of a process is in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Resident {
    /// Bytes of its own: of a node, the pages of slots that changed since they were last written to their
    /// file, and what is not slots.
    pub(crate) own: f64,
    /// Bytes of mapped files as the disk has them.
    pub(crate) of_files: f64,
}

/// What some servers have used up to now, together.
///
/// # Errors
/// One of them is gone.
pub(crate) fn used_by(servers: &[Process]) -> Result<Used> {
    let mut all = Used::default();
    for server in servers {
        let used = used(server).context("a node is gone")?;
        all.cpu_us += used.cpu_us;
        all.written_bytes += used.written_bytes;
        all.read_bytes += used.read_bytes;
    }
    Ok(all)
}

/// What of a process is in memory now.
///
/// # Errors
/// It is gone.
pub(crate) fn resident(process: &Process) -> Result<Resident> {
    resident_of(&fs::read_to_string(format!("/proc/{}/status", process.pid()))?)
}

fn resident_of(status: &str) -> Result<Resident> {
    let bytes = |name: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no memory")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
    };
    Ok(Resident { own: bytes("RssAnon:")?, of_files: bytes("RssFile:")? })
}

/// What a process has used up to now; an error if it is gone.
fn used(process: &Process) -> Result<Used> {
    let folder = format!("/proc/{}", process.pid());
    let stat = fs::read_to_string(format!("{folder}/stat"))?;
    // The name in parentheses may hold spaces.
    let fields = stat.rsplit_once(')').context("a process without name")?.1;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    let ticks: f64 = ticks.sum::<Result<f64, _>>()?;
    let io = fs::read_to_string(format!("{folder}/io"))?;
    let bytes = |name: &str| -> Result<f64> {
        let found = io.lines().find_map(|line| line.strip_prefix(name));
        Ok(found.with_context(|| format!("no {name}"))?.parse()?)
    };
    let (written_bytes, read_bytes) = (bytes("write_bytes: ")?, bytes("read_bytes: ")?);
    Ok(Used { cpu_us: ticks * TICK_US, written_bytes, read_bytes })
}

/// Waits until `ready` gives something; a server that ends meanwhile ends the wait.
///
/// # Errors
/// It took too long, or a server has ended.
pub(crate) fn wait_until<T>(
    servers: &mut [Process],
    mut ready: impl FnMut() -> Option<T>,
) -> Result<T> {
    let begin = Instant::now();
    while begin.elapsed() < START_TIME_MAX {
        if let Some(found) = ready() {
            return Ok(found);
        }
        for server in &mut *servers {
            if let Some(status) = server.failed()? {
                bail!("a server has ended ({status}) instead of serving");
            }
        }
        std::thread::sleep(POLL);
    }
    bail!("not ready within {} s", START_TIME_MAX.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_by_what_it_is_of() {
        let status = "VmRSS:\t  12 kB\nRssAnon:\t       8 kB\nRssFile:\t       4 kB\n";
        let resident = resident_of(status).unwrap();
        assert_eq!(resident, Resident { own: 8192.0, of_files: 4096.0 });
        assert!(resident_of("RssAnon:\t8 kB\n").is_err());
    }
}
