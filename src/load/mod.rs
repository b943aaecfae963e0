//! The load generator: many connections, each with one or more operations on their way, and the
//! latencies of all of them. The program's `bench` calls it, and so does the comparison with other
//! engines; it calls nothing of the node.
//!
//! `worker` has the one loop of a thread; `codec` is the trait of a protocol.
//!
//! - I1: Closed loop: a connection sends `pipeline` operations at once, waits for all of their
//!   replies, pauses if it was told to, and sends the next. Open loop: operations start at a
//!   constant rate, however slow the server is, and latency counts from the moment an operation was
//!   due.
//! - I2: A failed operation is an error, counted by its kind, and never a success.
//! - I3: No allocation and no lock for an operation that succeeds.

mod codec;
mod connection;
mod copies;
mod keys;
mod limits;
mod original;
mod random;
mod report;
mod resp;
mod schedule;
mod tally;
mod value;
mod worker;
mod workload;

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

pub use codec::{Codec, CodecReply, CodecStep, Foreign, Operation};
pub use keys::{Distribution, INSERTS_UNDER_WAY_MAX};
pub use limits::raise_descriptor_limit;
pub use original::{Original, append_message};
pub use report::{ErrorReport, Latency, OperationReport, Report, SecondReport};
pub use resp::{OpeningResp, Resp};
pub use value::{HEAD_BYTES, Value, Values};
pub use workload::{WORKLOADS, Workload};

use keys::Keys;
use parking_lot::Mutex;
use rustls::ClientConfig;
use tally::Tally;
use worker::Worker;

/// Most connections of a run.
pub const CLIENT_COUNT_MAX: u64 = 50_000;
/// Most operations of one connection that are on their way.
pub const PIPELINE_MAX: u64 = 10_000;
/// Most threads of a run.
pub const THREAD_COUNT_MAX: u64 = 256;
/// Most operations a second.
pub const RATE_MAX: u64 = 100_000_000;
/// Most bytes of a value.
pub const VALUE_BYTES_MAX: usize = 16 << 20;
/// Longest run, warm-up included.
pub const DURATION_MAX: Duration = Duration::from_hours(24);

/// When operations start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// When those before are answered.
    Closed,
    /// At a constant rate.
    Open {
        /// Operations that start in a second, over all connections; not 0.
        per_second: u64,
    },
}

/// Where answers come by UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answers {
    /// The address to listen at.
    pub local: IpAddr,
    /// The port of the first connection; each further one takes the next. 0: any.
    pub port: u16,
}

impl Answers {
    /// Where those of a connection come.
    fn of(&self, client: u64) -> SocketAddr {
        let next = u64::from(self.port) + client;
        let port = if self.port == 0 { Ok(0) } else { u16::try_from(next) };
        SocketAddr::new(self.local, port.expect("invariant: there are ports for all"))
    }
}

/// A load. Whoever makes one keeps to the bounds above.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where connections go, in turn.
    pub targets: Vec<SocketAddr>,
    /// If answers come by UDP, every operation goes to all targets; `pipeline` is 1 then.
    pub answers: Option<Answers>,
    /// Connections.
    pub clients: u64,
    /// Operations of one connection on their way.
    pub pipeline: u64,
    /// Threads, at most one for each connection.
    pub threads: u64,
    /// When operations start.
    pub pace: Pace,
    /// Number of keys.
    pub keys: u64,
    /// What is done with which of them.
    pub workload: Workload,
    /// How long a connection of a closed loop rests between its last reply and its next operation,
    /// each time as likely as another.
    pub think: RangeInclusive<Duration>,
    /// Length of values, each as likely as another.
    pub value_bytes: RangeInclusive<usize>,
    /// How long is measured; `None`: until `requests` are done.
    pub duration: Option<Duration>,
    /// How many operations are measured at most.
    pub requests: Option<u64>,
    /// What starts earlier is not measured.
    pub warm_up: Duration,
    /// What keys, lengths and the mix follow from.
    pub seed: u64,
    /// Whether the values that are read are checked.
    pub verify: bool,
    /// How long a reply may take; then its connection is given up.
    pub timeout: Duration,
    /// Flags of the servers that weaken a promise, for the report.
    pub unsafe_flags: Vec<String>,
    /// What TLS is spoken with, if it is: not where answers come by UDP.
    pub tls: Option<Arc<ClientConfig>>,
}

/// How far a run is; for a line that shows it.
#[derive(Debug, Default)]
pub struct Progress {
    successes: AtomicU64,
    errors: AtomicU64,
    /// Latencies of the first connection, nanoseconds, if somebody takes them.
    watched: Option<Mutex<Vec<u64>>>,
}

impl Progress {
    /// A progress that also has the latencies of the first connection, one by one: take them.
    pub fn watching() -> Progress {
        Progress { watched: Some(Mutex::default()), ..Progress::default() }
    }

    /// The latencies of the first connection that have come, nanoseconds, in their order.
    pub fn take_watched(&self) -> Vec<u64> {
        self.watched
            .as_ref()
            .map(|watched| std::mem::take(&mut *watched.lock()))
            .unwrap_or_default()
    }

    fn add(&self, successes: u64, errors: u64) {
        self.successes.fetch_add(successes, Ordering::Relaxed);
        self.errors.fetch_add(errors, Ordering::Relaxed);
    }

    /// Operations that succeeded up to now, warm-up included.
    pub fn successes(&self) -> u64 {
        self.successes.load(Ordering::Relaxed)
    }

    /// Operations that failed up to now, warm-up included.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }
}

/// Makes the protocol of one connection.
pub type MakeCodec<'a> = &'a (dyn Fn() -> Box<dyn Codec> + Sync);

/// What the threads of a run share.
struct RunShared<'a> {
    load: &'a Load,
    make_codec: MakeCodec<'a>,
    keys: Keys,
    values: Values,
    progress: &'a Progress,
    /// Threads begin together, when all of their connections stand.
    begin: Barrier,
}

/// Puts the load on its targets, from as many threads as it says, and waits until it is done.
///
/// # Errors
/// What the system refused to a thread: memory, descriptors.
pub fn run(load: &Load, make_codec: MakeCodec<'_>, progress: &Progress) -> std::io::Result<Report> {
    limits::check(load)?;
    let threads = load.threads.min(load.clients);
    let shared = RunShared {
        load,
        make_codec,
        keys: Keys::new(load.keys, load.workload.distribution),
        values: Values::new(*load.value_bytes.end()),
        progress,
        begin: Barrier::new(to_index(threads)),
    };
    // All threads are there before any of them waits for the others.
    let workers = (0..threads).map(|thread| Worker::new(&shared, thread, threads));
    let workers: Vec<Worker<'_>> = workers.collect::<std::io::Result<_>>()?;
    let tallies = std::thread::scope(|scope| {
        let running: Vec<_> =
            workers.into_iter().map(|worker| scope.spawn(move || worker.run())).collect();
        let joined = running.into_iter().map(|thread| thread.join());
        joined
            .map(|tally| tally.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<std::io::Result<Vec<Tally>>>()
    })?;
    let mut all = Tally::new();
    for tally in &tallies {
        all.add(tally);
    }
    Ok(Report::new(load, &all))
}

/// Nanoseconds since `begin`.
fn nanoseconds(begin: Instant) -> u64 {
    to_nanoseconds(begin.elapsed())
}

fn to_nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn to_index(number: u64) -> usize {
    usize::try_from(number).expect("invariant: the number was bounded before")
}

#[expect(clippy::cast_precision_loss, reason = "statistics need 52 bits at most")]
fn to_float(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
fn to_whole(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests;
