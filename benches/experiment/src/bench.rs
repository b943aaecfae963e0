//! `diskstore bench` as a process: how it is asked, and how its reports are read.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use diskstore_process::Process;

use crate::cluster::words;
use crate::plan::{Load, Point};
use crate::programs::Programs;
use crate::result::{LoadReport, Quantile};

/// What a load may take longer than it says: connections, and the last replies.
const EXTRA_TIME: Duration = Duration::from_mins(1);
/// Operations a connection sends at once where speed is all that counts.
const FILL_PIPELINE: u64 = 16;
const FILL_CLIENTS: u64 = 32;

/// A load that runs.
#[derive(Debug)]
pub(crate) struct Bench {
    child: Process,
    directory: PathBuf,
    time_max: Duration,
}

impl Bench {
    /// Puts the load of a point on nodes.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(
        programs: &Programs,
        (load, point, seed): (&Load, &Point, u64),
        ports: &[u16],
        folder: &Path,
    ) -> Result<Bench> {
        let mix = match &load.workload {
            Some(name) => format!("-workload {name}"),
            None => format!("-reads {} -distribution {}", load.reads, load.distribution),
        };
        let line = format!(
            "-clients {} -pipeline {} -keys {} {mix} -value-bytes {} -seed {seed} -warm-up {}s \
             -duration {}s",
            point.clients,
            load.pipeline,
            load.keys,
            point.value_bytes,
            load.warm_up_s,
            load.duration_s,
        );
        let time_max = Duration::from_secs(load.warm_up_s + load.duration_s) + EXTRA_TIME;
        Bench::spawn(programs, &line, ports, &folder.join("bench"), time_max)
    }

    /// Writes `count` commands over the keys in turn, as fast as the nodes take them.
    ///
    /// # Errors
    /// Not all of them succeed.
    pub(crate) fn fill(
        programs: &Programs,
        (load, point): (&Load, &Point),
        count: u64,
        port: u16,
        folder: &Path,
    ) -> Result<()> {
        let line = format!(
            "-clients {FILL_CLIENTS} -pipeline {FILL_PIPELINE} -keys {} -reads 0 -distribution \
             sequential -value-bytes {} -warm-up 0s -requests {count}",
            load.keys, point.value_bytes,
        );
        // A hundred a second is slower than any disk that is worth measuring.
        let time_max = Duration::from_secs(count / 100) + EXTRA_TIME;
        let bench = Bench::spawn(programs, &line, &[port], &folder.join("fill"), time_max)?;
        let (report, _) = bench.finish()?;
        let first = report.errors.first().map(|errors| errors.first.clone()).unwrap_or_default();
        ensure!(
            report.all.count == count,
            "{} of {count} commands were written: {first}",
            report.all.count
        );
        Ok(())
    }

    fn spawn(
        programs: &Programs,
        line: &str,
        ports: &[u16],
        directory: &Path,
        time_max: Duration,
    ) -> Result<Bench> {
        let addresses: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        // What fails is counted in the experiment's own results, and its stores are its own.
        let line = format!(
            "bench -json -yes -faults any -hgrm latency.hgrm -addr {} {line}",
            addresses.join(",")
        );
        let child = Process::start_with_output(&programs.load(), &words(&line), directory)?;
        Ok(Bench { child, directory: directory.to_owned(), time_max })
    }

    /// True while it runs.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn is_running(&mut self) -> Result<bool> {
        self.child.is_running()
    }

    /// Waits until it ends, and reads its report.
    ///
    /// # Errors
    /// It failed, or reports nothing that can be read.
    pub(crate) fn finish(mut self) -> Result<(LoadReport, Vec<Quantile>)> {
        let status = self.child.wait(self.time_max)?;
        let words = || format!("the load: {status}: {}", self.child.last_words());
        let text = std::fs::read(self.directory.join("output"))?;
        let report: LoadReport = serde_json::from_slice(&text).with_context(words)?;
        ensure!(status.success(), words());
        let mut latencies = Vec::new();
        let kinds = [
            ("reads", report.reads.count),
            ("writes", report.writes.count),
            ("modifies", report.modifies.count),
        ];
        let used = kinds.iter().filter(|(_, count)| *count > 0);
        let used: Vec<&str> = used.map(|(operation, _)| *operation).collect();
        for operation in &used {
            let several = used.len() > 1;
            let name = if several { format!("latency-{operation}") } else { "latency".to_owned() };
            let text = std::fs::read_to_string(self.directory.join(format!("{name}.hgrm")))?;
            latencies.extend(quantiles(operation, &text));
        }
        Ok((report, latencies))
    }
}

/// Reads a file in the form of HdrHistogram: value, quantile and count up to there.
fn quantiles(operation: &str, text: &str) -> Vec<Quantile> {
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        Some(Quantile {
            operation: operation.to_owned(),
            ms: fields.next()?.parse().ok()?,
            quantile: fields.next()?.parse().ok()?,
            count: fields.next()?.parse().ok()?,
        })
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_quantiles_is_read_without_its_head_and_foot() {
        let text = "       Value     Percentile TotalCount 1/(1-Percentile)\n\n\
                    \x20   0.250000 0.000000000000          3           1.00\n\
                    \x20   1.500000 1.000000000000         40\n\
                    #[Mean    =     0.500000, StdDeviation   =     0.100000]\n\
                    #[Max     =     1.500000, Total count    =           40]\n";
        let found = quantiles("reads", text);
        let found: Vec<_> =
            found.iter().map(|found| (found.ms, found.quantile, found.count)).collect();
        assert_eq!(found, [(0.25, 0.0, 3), (1.5, 1.0, 40)]);
    }
}
