//! Loads as this program puts them on engines.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use diskstore::load::{
    self, Distribution, Load, MakeCodec, Pace, Progress, Report, Resp, Workload,
};

use crate::rows::{Kind, Measured, Work};
use crate::servers::Used;

/// Bytes of a value.
pub(crate) const VALUE_BYTES: usize = 1024;
/// Keys of every load but the long ones, and written before the first.
pub(crate) const KEYS: u64 = 100_000;
/// Keys of the long ones: as many as there are slots by default.
pub(crate) const KEYS_LONG: u64 = 1 << 20;
/// What runs so long before a load is not measured.
pub(crate) const WARM_UP: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(30);

/// A load on one server. Which command a write is, is the codec's.
pub(crate) fn load_of(target: SocketAddr, work: Work, duration: Duration) -> Load {
    let reads = match work.kind {
        Kind::Reads => 100,
        Kind::Mixed => 50,
        Kind::Writes | Kind::Increments | Kind::SetsOfMany => 0,
    };
    Load {
        targets: vec![target],
        answers: None,
        clients: work.clients,
        pipeline: work.pipeline,
        threads: 1,
        pace: Pace::Closed,
        keys: if work.is_long { KEYS_LONG } else { KEYS },
        workload: Workload::mixed(reads, Distribution::Uniform),
        think: Duration::ZERO..=Duration::ZERO,
        value_bytes: VALUE_BYTES..=VALUE_BYTES,
        duration: Some(duration),
        requests: None,
        warm_up: Duration::ZERO,
        seed: 1,
        verify: true,
        timeout: TIMEOUT,
        unsafe_flags: Vec::new(),
        tls: None,
    }
}

/// Writes the first `count` keys once each, in order.
pub(crate) fn each_once(target: SocketAddr, work: Work, count: u64) -> Load {
    Load {
        workload: Workload::mixed(0, Distribution::Sequential),
        keys: count,
        requests: Some(count),
        duration: None,
        ..load_of(target, work, Duration::ZERO)
    }
}

/// Puts a load on a server and waits for its end.
///
/// # Errors
/// Nothing of it succeeded, or less than was asked for.
pub(crate) fn run(load: &Load, make_codec: MakeCodec<'_>) -> Result<Report> {
    let report = load::run(load, make_codec, &Progress::default())?;
    let first = report.errors.first().map_or("", |errors| &errors.first);
    if report.all.count == 0 {
        bail!("no operation succeeded: {first}");
    }
    if let Some(wanted) = load.requests.filter(|wanted| report.all.count < *wanted) {
        bail!("only {} of {wanted} keys could be written: {first}", report.all.count);
    }
    if report.error_count() > 0 {
        eprintln!("  {} errors, such as: {first}", report.error_count());
    }
    Ok(report)
}

/// As [`run`], on a server that speaks as Redis does.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_resp(load: &Load) -> Result<Report> {
    run(load, &|| Box::new(Resp))
}

/// What a load came to, and what it cost the nodes.
pub(crate) fn measured(report: &Report, before: Used, after: Used, nodes: usize) -> Measured {
    let count = float(report.all.count.max(1));
    Measured {
        per_second: report.all.per_second,
        p50_ms: report.all.latency.p50_ms,
        p99_ms: report.all.latency.p99_ms,
        server_us: (after.cpu_us - before.cpu_us) / count,
        // What a byte of a value costs is counted for each node.
        written: (after.written_bytes - before.written_bytes)
            / (count * float(VALUE_BYTES as u64) * float(nodes as u64)),
        errors: report.error_count(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "statistics need 52 bits at most")]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}
