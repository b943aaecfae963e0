//! What `bench` is given.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Number, Servers, parse_boolean};

/// A load, and where it goes; nothing is checked yet.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct BenchFlags {
    /// What is done.
    #[command(flatten)]
    pub load: BenchLoad,
    /// Where connections go, in turn.
    #[command(flatten)]
    pub servers: Servers,
}

/// A load.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct BenchLoad {
    /// Connections.
    #[arg(long, value_name = "N", default_value = "64")]
    pub clients: Number,
    /// Operations that a connection sends at once; it waits for all of their replies.
    #[arg(long, value_name = "N", default_value = "1")]
    pub pipeline: Number,
    /// Starts N operations a second, whatever the servers do; a latency then counts from when its
    /// operation was to start [default: as fast as replies come].
    #[arg(long, value_name = "N")]
    pub rate: Option<Number>,
    /// Threads of the load [default: one for each four processors].
    #[arg(long, value_name = "N")]
    pub threads: Option<Number>,
    /// Keys are 0 to N - 1 [default: as many as the node has slots, half of them for a workload that
    /// inserts; 65536 elsewhere].
    #[arg(long, value_name = "N")]
    pub keys: Option<Number>,
    /// What is done: original, a, b, c, d, f (YCSB's), update-uniform, update-latest, or fill, which
    /// gives every key a value; instead of -reads and -distribution.
    #[arg(long, value_name = "NAME")]
    pub workload: Option<String>,
    /// Which keys: uniform, zipfian, latest or sequential [default: uniform].
    #[arg(long, value_name = "NAME")]
    pub distribution: Option<String>,
    /// Reads in 100 operations [default: 50].
    #[arg(long, value_name = "PERCENT")]
    pub reads: Option<Number>,
    /// How long a connection rests between a reply and its next operation.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = diskstore_flags::parse_duration)]
    pub think: Duration,
    /// Length of values, N or MIN-MAX.
    #[arg(long, value_name = "BYTES", default_value = "1024")]
    pub value_bytes: String,
    /// How long is measured: 30s, 1m30s [default: 10s, or until -requests are done].
    #[arg(long, value_name = "TIME", value_parser = diskstore_flags::parse_duration)]
    pub duration: Option<Duration>,
    /// How many operations are measured at most.
    #[arg(long, value_name = "N")]
    pub requests: Option<Number>,
    /// What starts so early is not measured.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = diskstore_flags::parse_duration)]
    pub warm_up: Duration,
    /// How long a reply may take; then its connection is made anew.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = diskstore_flags::parse_duration)]
    pub timeout: Duration,
    /// What keys, lengths and the mix follow from.
    #[arg(long, value_name = "N", default_value = "1")]
    pub seed: Number,
    /// Writes over a store that holds values already, without asking.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true",
          hide_default_value = true, value_parser = parse_boolean)]
    pub yes: bool,
    /// Errors that are expected, as a report names them, with commas; nodes stands for those of nodes
    /// that stop or cannot be reached, any for all. Others make the exit code 1.
    #[arg(long, value_name = "KINDS", default_value = "", hide_default_value = true)]
    pub faults: String,
    /// Checks that what is read was written by a load, to this key, as a whole.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true",
          hide_default_value = true, value_parser = parse_boolean)]
    pub verify: bool,
    /// Prints JSON, with a series of seconds.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true",
          hide_default_value = true, value_parser = parse_boolean)]
    pub json: bool,
    /// Writes latencies as HdrHistogram does; with reads and writes FILE-reads and FILE-writes.
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<PathBuf>,
}
