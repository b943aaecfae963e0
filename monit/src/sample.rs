//! Rows: the difference of two readings of /proc. The program and experiments call it; it calls
//! [`crate::proc`].
//!
//! - I1: Time stamps rise from row to row, whatever is done to the machine's clock.
//! - I2: A counter that vanishes (a thread, an interface) takes nothing away from the others.
//!
//! /proc has no count of a process' syncs. What it has is [`Row::machine_flush_count`]; a node of
//! diskstore counts its own, see `diskstore status`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::{Error, proc};

/// What was used in one interval. Memory is that of its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Row {
    /// The interval's end in milliseconds since 1970.
    pub unix_ms: u64,
    /// The interval's length in milliseconds.
    pub interval_ms: u64,
    /// Processor time in the process' own code; steps of 10 ms, as are the other times.
    pub process_user_ms: u64,
    /// Processor time in the kernel for the process.
    pub process_system_ms: u64,
    /// Resident memory without a file.
    pub process_anonymous_bytes: u64,
    /// Resident memory of mapped files.
    pub process_file_bytes: u64,
    /// Bytes that the process made a disk read.
    pub process_read_bytes: u64,
    /// Bytes that the process made a disk write.
    pub process_written_bytes: u64,
    /// Context switches of the threads that live at the end.
    pub process_switch_count: u64,
    /// Bytes received in the process' network namespace, by all processes and interfaces, loopback too.
    pub network_received_bytes: u64,
    /// Bytes sent there.
    pub network_sent_bytes: u64,
    /// Processor time of all programs.
    pub machine_user_ms: u64,
    /// Processor time of the kernel, interrupts too.
    pub machine_system_ms: u64,
    /// Memory without a file.
    pub machine_anonymous_bytes: u64,
    /// Memory of files, mapped or cached.
    pub machine_file_bytes: u64,
    /// Bytes read from all disks.
    pub machine_read_bytes: u64,
    /// Bytes written to all disks.
    pub machine_written_bytes: u64,
    /// Context switches.
    pub machine_switch_count: u64,
    /// Flush requests that disks completed: what syncs come to; one may serve several syncs, and
    /// a disk without a volatile cache gets none.
    pub machine_flush_count: u64,
}

impl Row {
    /// Names and values in the order of a CSV file.
    pub fn columns(&self) -> [(&'static str, u64); 19] {
        [
            ("unix_ms", self.unix_ms),
            ("interval_ms", self.interval_ms),
            ("process_user_ms", self.process_user_ms),
            ("process_system_ms", self.process_system_ms),
            ("process_anonymous_bytes", self.process_anonymous_bytes),
            ("process_file_bytes", self.process_file_bytes),
            ("process_read_bytes", self.process_read_bytes),
            ("process_written_bytes", self.process_written_bytes),
            ("process_switch_count", self.process_switch_count),
            ("network_received_bytes", self.network_received_bytes),
            ("network_sent_bytes", self.network_sent_bytes),
            ("machine_user_ms", self.machine_user_ms),
            ("machine_system_ms", self.machine_system_ms),
            ("machine_anonymous_bytes", self.machine_anonymous_bytes),
            ("machine_file_bytes", self.machine_file_bytes),
            ("machine_read_bytes", self.machine_read_bytes),
            ("machine_written_bytes", self.machine_written_bytes),
            ("machine_switch_count", self.machine_switch_count),
            ("machine_flush_count", self.machine_flush_count),
        ]
    }
}

/// Totals as the original's `io.out` has them: since the start of machine and process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Bytes received in the process' network namespace.
    pub received_bytes: u64,
    /// Bytes sent there.
    pub sent_bytes: u64,
    /// Bytes that the process made a disk read.
    pub read_bytes: u64,
    /// Bytes that the process made a disk write.
    pub written_bytes: u64,
}

/// What /proc said at one moment.
#[derive(Debug)]
struct Reading {
    elapsed_ms: u64,
    stat: proc::ProcessStat,
    status: proc::ProcessStatus,
    io: proc::ProcessIo,
    switches: BTreeMap<u32, [u64; 1]>,
    network: BTreeMap<String, [u64; 2]>,
    machine: proc::MachineStat,
    memory: proc::MachineMemory,
    disks: BTreeMap<String, [u64; 3]>,
}

/// Watches one process.
#[derive(Debug)]
pub struct Sampler {
    root: PathBuf,
    pid: u32,
    begin: Instant,
    begin_unix_ms: u64,
    last: Reading,
}

impl Sampler {
    /// Begins the first interval of process `pid`, read from `root`, which is /proc.
    ///
    /// # Errors
    /// There is no such process, or a file of /proc cannot be read or understood.
    pub fn new(root: &Path, pid: u32) -> Result<Sampler, Error> {
        let begin = Instant::now();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let last = Reading::take(root, pid, 0).map_err(|error| match error {
            error if error.is_gone() => Error::NoProcess { pid },
            error => error,
        })?;
        if last.stat.ended {
            return Err(Error::NoProcess { pid });
        }
        let begin_unix_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX / 2);
        Ok(Sampler { root: root.to_owned(), pid, begin, begin_unix_ms, last })
    }

    /// Ends an interval and begins the next. `None`: the process has ended.
    ///
    /// # Errors
    /// A file of /proc cannot be read or understood.
    pub fn next_row(&mut self) -> Result<Option<Row>, Error> {
        let elapsed_ms = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX / 2);
        let elapsed_ms = elapsed_ms.max(self.last.elapsed_ms + 1); // I1
        let reading = match Reading::take(&self.root, self.pid, elapsed_ms) {
            Ok(reading) if self.is_same(&reading.stat) => reading,
            Ok(_) => return Ok(None),
            Err(error) if error.is_gone() => return Ok(None),
            // Files of an ended process may also refuse: only its state tells.
            Err(error) => return if self.has_ended()? { Ok(None) } else { Err(error) },
        };
        let row = reading.since(&self.last, self.begin_unix_ms);
        self.last = reading;
        Ok(Some(row))
    }

    /// True once the process has ended.
    ///
    /// # Errors
    /// Its state cannot be read or understood.
    pub fn has_ended(&self) -> Result<bool, Error> {
        match process_stat(&self.root, self.pid) {
            Ok(stat) => Ok(!self.is_same(&stat)),
            Err(error) if error.is_gone() => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Totals at the end of the last interval.
    pub fn totals(&self) -> Totals {
        let [received_bytes, sent_bytes] = growth(&BTreeMap::new(), &self.last.network);
        let proc::ProcessIo { read_bytes, written_bytes } = self.last.io;
        Totals { received_bytes, sent_bytes, read_bytes, written_bytes }
    }

    /// False for a process that has ended, and for a later one with its id.
    fn is_same(&self, stat: &proc::ProcessStat) -> bool {
        !stat.ended && stat.start_ticks == self.last.stat.start_ticks
    }
}

impl Reading {
    fn take(root: &Path, pid: u32, elapsed_ms: u64) -> Result<Reading, Error> {
        let folder = root.join(pid.to_string());
        let stat = process_stat(root, pid)?;
        let disks = parse(&root.join("diskstats"), proc::disks)?.into_iter();
        Ok(Reading {
            elapsed_ms,
            stat,
            status: parse(&folder.join("status"), proc::process_status)?,
            io: parse(&folder.join("io"), proc::process_io)?,
            switches: switches(&folder.join("task"))?,
            network: parse(&folder.join("net/dev"), proc::network)?,
            machine: parse(&root.join("stat"), proc::machine_stat)?,
            memory: parse(&root.join("meminfo"), proc::machine_memory)?,
            disks: disks
                .map(|(name, disk)| (name, [disk.read_bytes, disk.written_bytes, disk.flush_count]))
                .collect(),
        })
    }

    fn since(&self, before: &Reading, begin_unix_ms: u64) -> Row {
        let [process_switch_count] = growth(&before.switches, &self.switches);
        let [network_received_bytes, network_sent_bytes] = growth(&before.network, &self.network);
        let [machine_read_bytes, machine_written_bytes, machine_flush_count] =
            growth(&before.disks, &self.disks);
        let (stat, machine) = (&before.stat, &before.machine);
        Row {
            unix_ms: begin_unix_ms.saturating_add(self.elapsed_ms),
            interval_ms: self.elapsed_ms - before.elapsed_ms,
            process_user_ms: self.stat.user_ms.saturating_sub(stat.user_ms),
            process_system_ms: self.stat.system_ms.saturating_sub(stat.system_ms),
            process_anonymous_bytes: self.status.anonymous_bytes,
            process_file_bytes: self.status.file_bytes,
            process_read_bytes: self.io.read_bytes.saturating_sub(before.io.read_bytes),
            process_written_bytes: self.io.written_bytes.saturating_sub(before.io.written_bytes),
            process_switch_count,
            network_received_bytes,
            network_sent_bytes,
            machine_user_ms: self.machine.user_ms.saturating_sub(machine.user_ms),
            machine_system_ms: self.machine.system_ms.saturating_sub(machine.system_ms),
            machine_anonymous_bytes: self.memory.anonymous_bytes,
            machine_file_bytes: self.memory.file_bytes,
            machine_read_bytes,
            machine_written_bytes,
            machine_switch_count: self.machine.switch_count.saturating_sub(machine.switch_count),
            machine_flush_count,
        }
    }
}

/// By how much counters have grown in sum. A new one began at 0, and so did one that fell. I2.
fn growth<K: Ord, const N: usize>(
    before: &BTreeMap<K, [u64; N]>,
    now: &BTreeMap<K, [u64; N]>,
) -> [u64; N] {
    let mut sums = [0_u64; N];
    for (key, values) in now {
        let former = before.get(key).copied().unwrap_or([0; N]);
        for ((sum, value), former) in sums.iter_mut().zip(values).zip(former) {
            *sum = sum.saturating_add(value.checked_sub(former).unwrap_or(*value));
        }
    }
    sums
}

/// Context switches of each thread: the file of the process itself counts its first one only.
fn switches(folder: &Path) -> Result<BTreeMap<u32, [u64; 1]>, Error> {
    let mut found = BTreeMap::new();
    for thread in crate::numbers(folder)? {
        match parse(&folder.join(thread.to_string()).join("status"), proc::process_status) {
            Ok(status) => {
                found.insert(thread, [status.switch_count]);
            }
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn process_stat(root: &Path, pid: u32) -> Result<proc::ProcessStat, Error> {
    parse(&root.join(pid.to_string()).join("stat"), proc::process_stat)
}

fn parse<T>(
    file: &Path,
    parser: impl FnOnce(&Path, &str) -> Result<T, proc::Malformed>,
) -> Result<T, Error> {
    Ok(parser(file, &crate::read(file)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_vanishes_takes_nothing_away_and_what_is_new_began_at_zero() {
        let before = BTreeMap::from([("eth0", [100, 10]), ("gone", [5_000, 50])]);
        let now = BTreeMap::from([("eth0", [130, 11]), ("new", [7, 2])]);
        assert_eq!(growth(&before, &now), [37, 3]);
        // Made anew under its old name.
        assert_eq!(growth(&before, &BTreeMap::from([("gone", [4, 60])])), [4, 10]);
    }
}
