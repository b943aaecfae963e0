//! What this process takes of its machine, as `/proc` tells. Where it does not, a figure is 0.
//!
//! Called by whoever tells of the node: INFO and the metrics.

use std::fs::{read_dir, read_to_string};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

/// Units of the times in `/proc`, the same on every machine that this runs on (`USER_HZ`).
const TICK_MS: u64 = 10;
/// What the kernel counts resident memory in.
const PAGE_BYTES: u64 = 4096;

/// The figures of one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Process {
    /// Bytes of memory that it takes.
    pub(crate) resident_bytes: u64,
    /// What it has used of the processors in the system.
    pub(crate) system: Duration,
    /// What it has used of them by itself.
    pub(crate) user: Duration,
    /// When it started, since the machine did.
    pub(crate) started: Duration,
    /// Threads.
    pub(crate) thread_count: u64,
}

impl Process {
    /// The figures of this process now.
    ///
    /// Source: proc(5), `/proc/pid/stat`, fields 14, 15, 20 and 22, and `/proc/pid/statm`.
    pub(crate) fn now() -> Process {
        let text = read_to_string("/proc/self/stat").unwrap_or_default();
        // The name of the program, which may hold anything, ends with the last bracket.
        let fields = text.rsplit_once(')').map_or("", |(_, behind)| behind);
        let fields: Vec<u64> =
            fields.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
        let time = |number| Duration::from_millis(field(number).saturating_mul(TICK_MS));
        let pages = read_to_string("/proc/self/statm").ok();
        let pages = pages.as_deref().and_then(|text| text.split_whitespace().nth(1)?.parse().ok());
        Process {
            resident_bytes: pages.map_or(0, |pages: u64| pages.saturating_mul(PAGE_BYTES)),
            user: time(14),
            system: time(15),
            thread_count: field(20),
            started: time(22),
        }
    }

    /// When it started, in seconds since 1970.
    pub(crate) fn started_s(&self) -> u64 {
        let text = read_to_string("/proc/stat").unwrap_or_default();
        let booted = text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
        booted.map_or(0, |booted: u64| booted + self.started.as_secs())
    }
}

/// How many descriptors are open. It looks at each of them.
pub(crate) fn open_count() -> u64 {
    read_dir("/proc/self/fd").map_or(0, |open| open.count() as u64)
}

/// How many descriptors may be open; `None` if as many as there can be.
pub(crate) fn open_count_max() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn this_process_has_used_its_processors() {
        // Until a tick is full; the time is counted for the process as a whole.
        while (Process::now().user + Process::now().system).is_zero() {
            std::hint::black_box((0..10_000_u64).sum::<u64>());
        }
    }

    #[test]
    fn this_process_has_memory_threads_files_and_a_beginning() {
        let process = Process::now();
        assert!(process.resident_bytes > 100_000 && process.thread_count > 0, "{process:?}");
        assert!(open_count() > 0 && open_count_max().is_none_or(|max| max >= open_count()));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!((now - 86_400..=now).contains(&process.started_s()), "{process:?}");
    }
}
