//! The texts of /proc, each parsed by a pure function. [`crate::sample`] and
//! [`crate::find`](mod@crate::find) call it; it calls nothing of this crate.
//!
//! - I1: A text from outside never panics; what is wrong with it is named with file and line.
//!
//! Source: proc(5), and Documentation/admin-guide/iostats.rst of Linux.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Milliseconds of a tick: the kernel counts time for users in hundredths of a second (`USER_HZ`).
const TICK_MS: u64 = 10;
/// Bytes of a sector in `diskstats`, whatever the disk's own are.
const SECTOR_BYTES: u64 = 512;
const KIB: u64 = 1024;
/// Block devices that stand on others or on memory: their bytes would count twice, or never move.
const STACKED: &[&str] = &["loop", "ram", "zram", "dm-", "md", "drbd", "nbd", "fd", "sr"];

/// A text of /proc that is not as its manual page says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}, line {line}: expected {expected}", file.display())]
pub struct Malformed {
    /// The file.
    pub file: PathBuf,
    /// Line in it, from 1; one past the end if a line is missing.
    pub line: usize,
    /// What should stand there.
    pub expected: &'static str,
}

/// `/proc/PID/stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessStat {
    /// What the kernel calls it: the first 15 bytes of the program's name, unless it changed them.
    pub name: String,
    /// True once it has ended and only waits for its parent.
    pub ended: bool,
    /// Processor time in its own code, all its threads, in milliseconds.
    pub user_ms: u64,
    /// Processor time in the kernel, in milliseconds.
    pub system_ms: u64,
    /// Ticks from the machine's start to its own: tells it from a later one with the same id.
    pub start_ticks: u64,
}

/// `/proc/PID/status`, or that of one thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessStatus {
    /// Resident bytes without a file; 0 for what has no memory, such as a thread of the kernel.
    pub anonymous_bytes: u64,
    /// Resident bytes of mapped files.
    pub file_bytes: u64,
    /// Context switches of this thread, wanted and unwanted.
    pub switch_count: u64,
}

/// `/proc/PID/io`: what the process made the disks move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessIo {
    /// Bytes that had to be read from a disk.
    pub read_bytes: u64,
    /// Bytes sent to a disk, counted when pages become dirty.
    pub written_bytes: u64,
}

/// `/proc/stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineStat {
    /// Time of all processors in programs, nice ones too, in milliseconds.
    pub user_ms: u64,
    /// Time of all processors in the kernel, interrupts too, in milliseconds.
    pub system_ms: u64,
    /// Context switches.
    pub switch_count: u64,
}

/// `/proc/meminfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineMemory {
    /// Bytes without a file.
    pub anonymous_bytes: u64,
    /// Bytes of files: mapped, and in the page cache.
    pub file_bytes: u64,
}

/// A line of `/proc/diskstats`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Flush requests completed; none are sent to a disk without a volatile cache.
    pub flush_count: u64,
}

/// Parses `/proc/PID/stat`. The name may hold anything, brackets and newlines too.
///
/// # Errors
/// [`Malformed`].
pub fn process_stat(file: &Path, text: &str) -> Result<ProcessStat, Malformed> {
    let line = text.lines().count().max(1);
    let malformed = |expected| Malformed { file: file.to_owned(), line, expected };
    let (_, rest) = text.split_once('(').ok_or_else(|| malformed("a name in brackets"))?;
    let (name, rest) = rest.rsplit_once(')').ok_or_else(|| malformed("a name in brackets"))?;
    // Column 3, the state, is the first behind the name.
    let columns: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |column: usize, expected| parsed(columns.get(column - 3), || malformed(expected));
    let state = columns.first().ok_or_else(|| malformed("a state in column 3"))?;
    let threads = number(20, "a count of threads in column 20")?;
    Ok(ProcessStat {
        name: name.to_owned(),
        // The first thread may end long before the others do.
        ended: matches!(*state, "X" | "x") || (*state == "Z" && threads <= 1),
        user_ms: number(14, "user ticks in column 14")?.saturating_mul(TICK_MS),
        system_ms: number(15, "system ticks in column 15")?.saturating_mul(TICK_MS),
        start_ticks: number(22, "start ticks in column 22")?,
    })
}

/// Parses `/proc/PID/status`.
///
/// # Errors
/// [`Malformed`].
pub fn process_status(file: &Path, text: &str) -> Result<ProcessStatus, Malformed> {
    let fields = Fields { file, text };
    let wanted =
        fields.number("voluntary_ctxt_switches", "voluntary_ctxt_switches and a number")?;
    let unwanted =
        fields.number("nonvoluntary_ctxt_switches", "nonvoluntary_ctxt_switches and a number")?;
    let memory = |key, expected| match fields.line(key) {
        None => Ok(0),
        Some(_) => fields.bytes(key, expected),
    };
    Ok(ProcessStatus {
        anonymous_bytes: memory("RssAnon", "RssAnon in kB")?,
        file_bytes: memory("RssFile", "RssFile in kB")?,
        switch_count: wanted.saturating_add(unwanted),
    })
}

/// Parses `/proc/PID/io`.
///
/// # Errors
/// [`Malformed`].
pub fn process_io(file: &Path, text: &str) -> Result<ProcessIo, Malformed> {
    let fields = Fields { file, text };
    Ok(ProcessIo {
        read_bytes: fields.number("read_bytes", "read_bytes and a number")?,
        written_bytes: fields.number("write_bytes", "write_bytes and a number")?,
    })
}

/// Parses `/proc/PID/net/dev`: bytes received and sent by each interface.
///
/// # Errors
/// [`Malformed`].
pub fn network(file: &Path, text: &str) -> Result<BTreeMap<String, [u64; 2]>, Malformed> {
    const HEADER_LINES: usize = 2;
    let mut interfaces = BTreeMap::new();
    for (index, line) in text.lines().enumerate().skip(HEADER_LINES) {
        let malformed = |expected| Malformed { file: file.to_owned(), line: index + 1, expected };
        let (name, numbers) =
            line.rsplit_once(':').ok_or_else(|| malformed("an interface and a colon"))?;
        let columns: Vec<&str> = numbers.split_ascii_whitespace().collect();
        let received = parsed(columns.first(), || malformed("received bytes in column 1"))?;
        let sent = parsed(columns.get(8), || malformed("sent bytes in column 9"))?;
        interfaces.insert(name.trim().to_owned(), [received, sent]);
    }
    Ok(interfaces)
}

/// Parses `/proc/diskstats`: whole disks only, without partitions and what stands on other disks.
///
/// # Errors
/// [`Malformed`], also by a kernel before 5.5, which counts no flush requests.
pub fn disks(file: &Path, text: &str) -> Result<BTreeMap<String, Disk>, Malformed> {
    let mut all = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let malformed = |expected| Malformed { file: file.to_owned(), line: index + 1, expected };
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let number =
            |column: usize, expected| parsed(columns.get(column - 1), || malformed(expected));
        let name = columns.get(2).ok_or_else(|| malformed("a device in column 3"))?;
        let disk = Disk {
            read_bytes: number(6, "sectors read in column 6")?.saturating_mul(SECTOR_BYTES),
            written_bytes: number(10, "sectors written in column 10")?.saturating_mul(SECTOR_BYTES),
            flush_count: number(19, "flush requests in column 19 (Linux 5.5)")?,
        };
        all.insert((*name).to_owned(), disk);
    }
    let partitions: Vec<String> =
        all.keys().filter(|name| is_partition(name, &all)).cloned().collect();
    all.retain(|name, _| {
        !partitions.contains(name) && !STACKED.iter().any(|prefix| name.starts_with(prefix))
    });
    Ok(all)
}

/// True for `sda1` beside `sda`, and for `nvme0n1p1` beside `nvme0n1`.
fn is_partition(name: &str, all: &BTreeMap<String, Disk>) -> bool {
    let stem = name.trim_end_matches(|char: char| char.is_ascii_digit());
    let disk = match stem.strip_suffix('p') {
        Some(disk) if disk.ends_with(|char: char| char.is_ascii_digit()) => disk,
        _ => stem,
    };
    disk != name && all.contains_key(disk)
}

/// Parses `/proc/stat`.
///
/// # Errors
/// [`Malformed`].
pub fn machine_stat(file: &Path, text: &str) -> Result<MachineStat, Malformed> {
    let malformed = |line, expected| Malformed { file: file.to_owned(), line, expected };
    let line_of = |key: &str| {
        let mut lines = text.lines().enumerate();
        lines.find_map(|(index, line)| Some((index + 1, line.strip_prefix(key)?)))
    };
    let end = text.lines().count() + 1;
    let (line, times) = line_of("cpu ").ok_or_else(|| malformed(end, "a line cpu"))?;
    let columns: Vec<&str> = times.split_ascii_whitespace().collect();
    let ms = |column: usize| {
        let ticks = parsed(columns.get(column), || malformed(line, "seven numbers of ticks"));
        ticks.map(|ticks| ticks.saturating_mul(TICK_MS))
    };
    // user, nice, system, idle, iowait, irq, softirq
    let (user_ms, system_ms) = (ms(0)?.saturating_add(ms(1)?), [ms(2)?, ms(5)?, ms(6)?]);
    let (line, switches) = line_of("ctxt ").ok_or_else(|| malformed(end, "a line ctxt"))?;
    Ok(MachineStat {
        user_ms,
        system_ms: system_ms.into_iter().fold(0, u64::saturating_add),
        switch_count: parsed(Some(&switches.trim()), || malformed(line, "a number"))?,
    })
}

/// Parses `/proc/meminfo`.
///
/// # Errors
/// [`Malformed`].
pub fn machine_memory(file: &Path, text: &str) -> Result<MachineMemory, Malformed> {
    let fields = Fields { file, text };
    let active = fields.bytes("Active(file)", "Active(file) in kB")?;
    let inactive = fields.bytes("Inactive(file)", "Inactive(file) in kB")?;
    Ok(MachineMemory {
        anonymous_bytes: fields.bytes("AnonPages", "AnonPages in kB")?,
        file_bytes: active.saturating_add(inactive),
    })
}

/// A text of lines `key: value`.
struct Fields<'a> {
    file: &'a Path,
    text: &'a str,
}

impl<'a> Fields<'a> {
    /// The line of a key, from 1, and its value.
    fn line(&self, key: &str) -> Option<(usize, &'a str)> {
        self.text.lines().enumerate().find_map(|(index, line)| {
            let (name, value) = line.split_once(':')?;
            (name == key).then_some((index + 1, value.trim()))
        })
    }

    fn value(&self, key: &str, expected: &'static str) -> Result<(usize, &'a str), Malformed> {
        self.line(key).ok_or_else(|| self.malformed(self.text.lines().count() + 1, expected))
    }

    fn number(&self, key: &str, expected: &'static str) -> Result<u64, Malformed> {
        let (line, value) = self.value(key, expected)?;
        parsed(Some(&value), || self.malformed(line, expected))
    }

    fn bytes(&self, key: &str, expected: &'static str) -> Result<u64, Malformed> {
        let (line, value) = self.value(key, expected)?;
        let number = value.strip_suffix("kB").map(str::trim_end);
        let number = parsed(number.as_ref(), || self.malformed(line, expected))?;
        Ok(number.saturating_mul(KIB))
    }

    fn malformed(&self, line: usize, expected: &'static str) -> Malformed {
        Malformed { file: self.file.to_owned(), line, expected }
    }
}

fn parsed(word: Option<&&str>, malformed: impl FnOnce() -> Malformed) -> Result<u64, Malformed> {
    word.and_then(|word| word.parse().ok()).ok_or_else(malformed)
}

#[cfg(test)]
mod tests;
