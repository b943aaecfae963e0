//! `diskstore bench`: puts load on nodes, or on any Redis, and reports the measurements.
//!
//! - I1: the report goes to stdout; the progress line goes to stderr, if that is a terminal.

mod consent;

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::answer::Answer;
use super::connection::NodeConnection;
use super::dialling::Dialling;
use super::{ClientError, print};
use crate::cli::{BenchFlags, Number};
use crate::config::{Address, number};
use crate::load::{
    self, Codec, Distribution, Load, MakeCodec, OpeningResp, Pace, Progress, Report, Resp, Workload,
};
use crate::status::Status;
use crate::tls::Credentials;

/// How long an address may take to accept the first connection.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// Operations that are measured for so long unless told otherwise.
const DURATION_DEFAULT: Duration = Duration::from_secs(10);
/// Keys of a load on what has no slots, unless told otherwise.
const KEYS_DEFAULT: u64 = 65_536;
/// Errors of nodes that stop, start, or cannot be reached, as reports name them.
const NODE_FAULTS: [&str; 10] = [
    "closed",
    "reset",
    "refused",
    "timeout",
    "connection",
    "unsent",
    "UNKNOWN",
    "CLUSTERDOWN",
    "NOT_LEADER",
    "LOADING",
];
/// How often the line is shown anew.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// One thread of the load for so many processors: servers need some too.
const PROCESSORS_PER_THREAD: usize = 4;

/// Runs a load to its end; at a level of leaderless mode, if one is given.
pub(super) fn run(
    flags: &BenchFlags,
    level: Option<&str>,
    out: &mut dyn Write,
) -> Result<(), ClientError> {
    let dialling = Dialling::of(&flags.servers)?;
    let statuses = statuses(&flags.servers.list, &dialling);
    let slot_count = statuses.iter().map(|status| status.slots).filter(|slots| *slots > 0).min();
    let mut load = checked(flags, slot_count)?;
    load.unsafe_flags = unsafe_flags_of(&statuses);
    load.tls = dialling.tls().map(Credentials::client_dial);
    if load.workload.writes() && !flags.load.yes {
        consent::ask(&flags.servers.list, &dialling)?;
    }
    // Before anything is measured: a folder that is not there should not cost a run.
    let folder =
        flags.load.hgrm.as_deref().and_then(Path::parent).filter(|path| *path != Path::new(""));
    if let Some(folder) = folder {
        std::fs::read_dir(folder).map_err(|source| local(folder, source))?;
    }
    let make_codec = || match level {
        None => resp(&dialling),
        Some(level) => Box::new(OpeningResp::at_level(level)),
    };
    let report = measure(&load, &make_codec, &Progress::default(), &mut || {})?;
    print_report(&report, flags.load.json, out)?;
    if let Some(path) = &flags.load.hgrm {
        write_quantiles(&report, path)?;
    }
    judge(&report, &flags.load.faults)
}

/// A connection's side of RESP, which presents the token first if there is one.
pub(super) fn resp(dialling: &Dialling) -> Box<dyn Codec> {
    match dialling.token() {
        None => Box::new(Resp),
        Some(token) => Box::new(OpeningResp::with_token(token)),
    }
}

/// Whether a run is one that succeeded: something did, and what failed was expected.
fn judge(report: &Report, expected: &str) -> Result<(), ClientError> {
    if report.all.count == 0 {
        return Err(ClientError::NothingSucceeded);
    }
    let expected: Vec<&str> = expected.split(',').map(str::trim).collect();
    let is_expected = |kind: &str| {
        expected.contains(&"any")
            || expected.contains(&kind)
            || expected.contains(&"nodes") && NODE_FAULTS.contains(&kind)
    };
    let unexpected: Vec<_> =
        report.errors.iter().filter(|errors| !is_expected(&errors.kind)).collect();
    match unexpected.first() {
        None => Ok(()),
        Some(first) => Err(ClientError::OperationsFailed {
            count: unexpected.iter().map(|errors| errors.count).sum(),
            first: first.first.clone(),
        }),
    }
}

/// Prints what a load came to, as a table or as JSON.
pub(super) fn print_report(
    report: &Report,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), ClientError> {
    if !as_json {
        return print(out, report.table().as_bytes());
    }
    let json = serde_json::to_vec(report).expect("invariant: a report has text for keys");
    print(out, &[&json[..], b"\n"].concat())
}

/// Runs the load, and shows on a terminal how far it is. `each_second` is called then, and once more
/// at the end.
pub(super) fn measure(
    load: &Load,
    make_codec: MakeCodec<'_>,
    progress: &Progress,
    each_second: &mut (dyn FnMut() + Send),
) -> Result<Report, ClientError> {
    let report = std::thread::scope(|scope| {
        let (end, ended): (Sender<()>, _) = channel();
        scope.spawn(move || {
            let bar = ProgressBar::new_spinner(); // shows nothing but on a terminal // I1
            let begin = Instant::now();
            let mut before = 0;
            while ended.recv_timeout(LINE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let (successes, errors) = (progress.successes(), progress.errors());
                let (seconds, news) = (begin.elapsed().as_secs(), successes - before);
                bar.set_message(format!("{seconds} s: {news} operations/s, {errors} errors"));
                bar.tick();
                before = successes;
                each_second();
            }
            each_second();
            bar.finish_and_clear();
        });
        let report = load::run(load, make_codec, progress);
        drop(end);
        report
    });
    report.map_err(|source| ClientError::Local { what: "the load".to_owned(), source })
}

fn write_quantiles(report: &Report, path: &Path) -> Result<(), ClientError> {
    let files = report.quantiles();
    for (kind, text) in &files {
        let path = if files.len() > 1 { path_for(path, kind) } else { path.to_owned() };
        std::fs::write(&path, text).map_err(|source| local(&path, source))?;
    }
    Ok(())
}

/// `run.hgrm` becomes `run-reads.hgrm`.
fn path_for(path: &Path, kind: &str) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{kind}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// The load that was asked for, if it is within bounds.
fn checked(flags: &BenchFlags, slot_count: Option<u64>) -> Result<Load, ClientError> {
    let workload = workload(flags)?;
    let value_bytes = value_bytes(&flags.load.value_bytes)?;
    if flags.load.verify && *value_bytes.start() < load::HEAD_BYTES {
        let reason = "with -verify give at least 32, for the key and the number of the write";
        return Err(refuse("value-bytes", &flags.load.value_bytes, reason));
    }
    let bounded = |flag, value: &Number, min, max| number(flag, value.clone(), min, max);
    let clients = bounded("clients", &flags.load.clients, 1, load::CLIENT_COUNT_MAX)?;
    let threads = match &flags.load.threads {
        Some(threads) => bounded("threads", threads, 1, load::THREAD_COUNT_MAX)?,
        None => threads_default(),
    };
    let pace = match &flags.load.rate {
        Some(rate) => Pace::Open { per_second: bounded("rate", rate, 1, load::RATE_MAX)? },
        None => Pace::Closed,
    };
    let keys = keys(flags, &workload, slot_count)?;
    let pipeline = bounded("pipeline", &flags.load.pipeline, 1, load::PIPELINE_MAX)?;
    if workload.inserts > 0 && clients * pipeline > load::INSERTS_UNDER_WAY_MAX {
        let most = load::INSERTS_UNDER_WAY_MAX;
        let reason = format!("with inserts give at most {most} for -clients times -pipeline");
        return Err(refuse("pipeline", &pipeline.to_string(), &reason));
    }
    if flags.load.rate.is_some() && !flags.load.think.is_zero() {
        let reason = "with -rate operations start when they are due: give one of the two";
        return Err(refuse("think", &format!("{:?}", flags.load.think), reason));
    }
    let requests = flags.load.requests.as_ref();
    let requests = requests.map(|count| bounded("requests", count, 1, u64::MAX)).transpose()?;
    // Each key once, but for what is not counted because it comes first.
    let is_fill = workload.name == Some("fill") && flags.load.duration.is_none();
    let requests = requests.or(is_fill.then_some(keys));
    let duration = flags.load.duration.or(requests.is_none().then_some(DURATION_DEFAULT));
    let whole = duration.unwrap_or_default().saturating_add(flags.load.warm_up);
    if duration == Some(Duration::ZERO) || whole > load::DURATION_MAX {
        let shown = format!("{:?}", duration.unwrap_or_default());
        return Err(refuse("duration", &shown, "with -warm-up give up to 24h, and not 0"));
    }
    Ok(Load {
        answers: None,
        clients,
        pipeline,
        threads: threads.min(clients),
        pace,
        keys,
        workload,
        think: flags.load.think..=flags.load.think,
        value_bytes,
        duration,
        requests,
        warm_up: flags.load.warm_up,
        seed: bounded("seed", &flags.load.seed, 0, u64::MAX)?,
        verify: flags.load.verify,
        timeout: flags.load.timeout.max(Duration::from_millis(1)),
        unsafe_flags: Vec::new(),
        tls: None,
        targets: targets(&flags.servers.list)?, // last: it asks the network
    })
}

/// How many keys there are, of a store with so many slots.
fn keys(
    flags: &BenchFlags,
    workload: &Workload,
    slot_count: Option<u64>,
) -> Result<u64, ClientError> {
    let Some(typed) = &flags.load.keys else {
        let slots = slot_count.unwrap_or(KEYS_DEFAULT);
        // What is inserted comes behind the keys that are there.
        return Ok(if workload.inserts > 0 { (slots / 2).max(1) } else { slots });
    };
    let keys = number("keys", typed.clone(), 1, u64::MAX >> 1)?;
    match slot_count.filter(|slots| keys > *slots) {
        None => Ok(keys),
        Some(slots) => {
            let reason = format!("the node has {slots} slots: give at most so many");
            Err(refuse("keys", &keys.to_string(), &reason))
        }
    }
}

/// What `-workload`, or `-reads` and `-distribution`, ask for.
fn workload(flags: &BenchFlags) -> Result<Workload, ClientError> {
    if let Some(name) = &flags.load.workload {
        if flags.load.reads.is_some() || flags.load.distribution.is_some() {
            let reason = "it says what -reads and -distribution would: leave those out";
            return Err(refuse("workload", name, reason));
        }
        let names: Vec<&str> =
            load::WORKLOADS.iter().filter_map(|workload| workload.name).collect();
        let reason = format!("give one of {}", names.join(", "));
        return Workload::named(name).ok_or_else(|| refuse("workload", name, &reason));
    }
    let distribution = match flags.load.distribution.as_deref().unwrap_or("uniform") {
        "uniform" => Distribution::Uniform,
        "zipfian" => Distribution::Zipfian,
        "latest" => Distribution::Latest,
        "sequential" => Distribution::Sequential,
        other => {
            let allowed = "give one of uniform, zipfian, latest, sequential";
            return Err(refuse("distribution", other, allowed));
        }
    };
    let reads = flags.load.reads.clone().unwrap_or_else(|| Number("50".to_owned()));
    Ok(Workload::mixed(number("reads", reads, 0, 100)?, distribution))
}

/// What the nodes at `list` say of themselves; nothing of what is no node of ours.
fn statuses(list: &str, dialling: &Dialling) -> Vec<Status> {
    let ask = |address: &str| {
        let mut connection = NodeConnection::open(address, dialling).ok()?;
        let answer = connection.call(&[b"DISKSTORE", b"STATUS"]).ok()?;
        let Answer::Value(json) = answer else { return None };
        Status::from_json(&json).ok()
    };
    list.split(',').take(super::ADDRESS_COUNT_MAX).filter_map(ask).collect()
}

/// Flags of the nodes at `list` that weaken a promise.
pub(super) fn unsafe_flags(list: &str, dialling: &Dialling) -> Vec<String> {
    unsafe_flags_of(&statuses(list, dialling))
}

fn unsafe_flags_of(statuses: &[Status]) -> Vec<String> {
    let mut flags: Vec<String> =
        statuses.iter().flat_map(|status| status.unsafe_flags.clone()).collect();
    flags.sort();
    flags.dedup();
    flags
}

pub(super) fn threads_default() -> u64 {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors / PROCESSORS_PER_THREAD).max(1) as u64
}

/// `N` or `MIN-MAX`.
fn value_bytes(text: &str) -> Result<std::ops::RangeInclusive<usize>, ClientError> {
    let (least, most) = text.split_once('-').unwrap_or((text, text));
    let range = least.parse().ok().zip(most.parse().ok());
    range.filter(|(least, most)| least <= most && *most <= load::VALUE_BYTES_MAX).map_or_else(
        || {
            let most = load::VALUE_BYTES_MAX;
            Err(refuse("value-bytes", text, &format!("give N or MIN-MAX, up to {most}")))
        },
        |(least, most)| Ok(least..=most),
    )
}

/// Every address must take a connection now: a mistyped one would be half of all errors.
pub(super) fn targets(list: &str) -> Result<Vec<SocketAddr>, ClientError> {
    let mut targets = Vec::new();
    for address in super::addresses_in(list)? {
        let connected = resolve(address).and_then(|target| {
            TcpStream::connect_timeout(&target, CONNECT_TIME_MAX).map(|_| target)
        });
        targets.push(
            connected.map_err(|error| ClientError::NoNode {
                tried: vec![format!("{address}: {error}")],
            })?,
        );
    }
    Ok(targets)
}

fn resolve(address: &str) -> io::Result<SocketAddr> {
    let invalid = |reason| io::Error::new(io::ErrorKind::InvalidInput, reason);
    let parsed = Address::parse(address).map_err(invalid)?;
    let mut found = (parsed.host.as_str(), parsed.port).to_socket_addrs()?;
    found.next().ok_or_else(|| io::ErrorKind::NotFound.into())
}

pub(super) fn refuse(flag: &str, value: &str, reason: &str) -> ClientError {
    ClientError::flag(flag, value, reason)
}

fn local(path: &Path, source: io::Error) -> ClientError {
    ClientError::local(format!("-hgrm {}", path.display()), source)
}

#[cfg(test)]
mod tests;
