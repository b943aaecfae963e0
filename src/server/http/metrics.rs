//! `/metrics`: what this node counts, in the text form of OpenMetrics. `docs/metrics.md` lists all of it.
//!
//! Called by the router. Nothing is counted here: every figure is taken when it is asked for, from the
//! node's status, the counters of its clients, and `/proc`.

use std::fmt;

use axum::extract::Extension;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::task::spawn_blocking;

use super::operations::{fault, obstacle};
use super::problem::{Problem, status_of};
use super::{Route, Seat};
use crate::command::FailureClass;
use crate::descriptors::Shares;
use crate::metrics::{Spread, Times};
use crate::server::Server;
use crate::server::access::{Denial, RequestKind};
use crate::server::counters::Counts;
use crate::server::detect::Protocol;
use crate::server::process::{Process, open_count, open_count_max};
use crate::status::{MemberStatus, REFUSAL_CODES, Status, TlsStatus};

/// The form of the text.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Powers of two of microseconds that bound the buckets of a histogram: 16 us to 17 s.
const BUCKET_POWERS: std::ops::RangeInclusive<usize> = 4..=24;

type Written = Result<(), fmt::Error>;
/// A label: its name, and what it is.
type Label<'a> = (&'a str, &'a str);
/// What the label of a family is, and the figure.
type Labelled<'a> = (&'a str, u64);
/// Labels, and how long what they name took.
type Timed<'a> = (Vec<Label<'a>>, Spread);

/// The route.
pub(super) fn routes() -> Vec<Route> {
    vec![Route::new("/metrics", RequestKind::Look, get(metrics))]
}

async fn metrics(Extension(seat): Extension<Seat>) -> Result<Response, Problem> {
    // Thousands of descriptors may have to be counted: no session waits for that.
    let text = spawn_blocking(move || text(&seat.server));
    let text = text.await.ok().and_then(Result::ok);
    let text = text.ok_or_else(|| fault("the metrics were not written"))?;
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

fn text(server: &Server) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape::now(server)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// All figures of one moment.
#[derive(Debug)]
struct Scrape {
    program: &'static str,
    status: Status,
    is_ready: bool,
    saved_s: u64,
    counts: Counts,
    operations: Vec<Operations>,
    stages: Vec<(&'static str, Spread)>,
    syncs: Spread,
    failures: Vec<(FailureClass, u64)>,
    denials: [Labelled<'static>; Denial::NAMED.len()],
    connections: u64,
    connections_max: u64,
    connections_ever: u64,
    process: Process,
    open_count: u64,
}

/// What clients of one protocol had done.
#[derive(Debug)]
struct Operations {
    protocol: &'static str,
    reads: Spread,
    writes: Spread,
}

impl Scrape {
    fn now(server: &Server) -> Scrape {
        let (status, kind) = (server.node.status(), server.node.config().kind());
        let (stages, counters) = (server.node.write_stages(), server.clients.counters());
        let named = |(name, times): (&'static str, &Times)| (name, times.spread());
        let operations = Protocol::SERVED.map(|protocol| {
            let served = counters.served(protocol);
            let (reads, writes) = (served.reads.spread(), served.writes.spread());
            Operations { protocol: protocol.name(), reads, writes }
        });
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        Scrape {
            program: kind.program,
            is_ready: obstacle(&status, kind.holds_values).is_none(),
            status,
            saved_s: server.node.last_save_s(),
            counts: counters.now(),
            operations: operations.into(),
            stages: stages
                .named()
                .into_iter()
                .chain([("reply", counters.replies())])
                .map(named)
                .collect(),
            syncs: stages.sync.spread(),
            failures: FailureClass::ALL.map(|class| (class, counters.failures(class))).into(),
            denials: Denial::NAMED.map(|(denial, name)| (name, server.access.denials(denial))),
            connections: count(server.clients.count()),
            connections_max: count(Shares::now().clients),
            connections_ever: server.clients.count_ever(),
            process: Process::now(),
            open_count: open_count(),
        }
    }

    fn node(&self, page: &mut Page<'_>) -> Written {
        let status = &self.status;
        let labels = [("program", self.program), ("version", status.version.as_str())];
        page.info("diskstore_build", "What runs here", &labels)?;
        page.gauge("diskstore_ready", "1 if /readyz is 200", u64::from(self.is_ready))?;
        let codes = REFUSAL_CODES.map(|code| {
            let is_now = status.refusals.iter().any(|refusal| refusal.code == code);
            (code, u64::from(is_now))
        });
        page.gauges("diskstore_refusing", "1 while that is refused or held up", "code", &codes)?;
        let flags = status.unsafe_flags.iter().map(|flag| (flag.as_str(), 1_u64));
        let flags: Vec<_> = flags.collect();
        page.gauges(
            "diskstore_unsafe_flag",
            "1 for a flag that weakens a promise",
            "flag",
            &flags,
        )?;
        let help = "Lines on stderr that nobody took";
        page.counter("diskstore_dropped_log_lines", help, status.dropped_lines)?;
        self.tls(page)
    }

    fn tls(&self, page: &mut Page<'_>) -> Written {
        let tls = self.status.tls.as_ref();
        let seconds = |of: fn(&TlsStatus) -> i64| tls.and_then(|tls| u64::try_from(of(tls)).ok());
        let help = "When the node's certificate ends, since 1970; absent without TLS";
        let end = seconds(|tls| tls.certificate_not_after_s);
        page.known("diskstore_tls_certificate_not_after_seconds", help, end)?;
        let help = "When the first authority that is trusted ends, since 1970; absent without TLS";
        let end = seconds(|tls| tls.authority_not_after_s);
        page.known("diskstore_tls_authority_not_after_seconds", help, end)?;
        let help = "Connections that were refused for TLS: plain, or without the right certificate";
        page.counter("diskstore_tls_refused", help, tls.map_or(0, |tls| tls.refused))
    }

    fn raft(&self, page: &mut Page<'_>) -> Written {
        let status = &self.status;
        page.gauge("diskstore_raft_term", "Election term", status.term)?;
        let leads = u64::from(status.role == "leader");
        page.gauge("diskstore_raft_is_leader", "1 if this member leads", leads)?;
        let knows = u64::from(status.leader.is_some());
        page.gauge("diskstore_raft_has_leader", "1 if a leader is known", knows)?;
        let help = "Leaders that this member has known, one after the other";
        page.counter("diskstore_raft_leader_changes", help, status.leader_changes)?;
        let help = "Seconds without a majority of the voters, as far as known here; 0 with one";
        let seconds = status.no_majority_s.unwrap_or(0);
        page.gauge("diskstore_raft_no_majority_seconds", help, seconds)?;
        for (name, help, index) in [
            ("diskstore_raft_last_log_index", "Highest index in the log", status.last_log),
            (
                "diskstore_raft_committed_index",
                "Highest index known as committed",
                status.committed,
            ),
            ("diskstore_raft_applied_index", "Highest index applied", status.applied),
            ("diskstore_raft_checkpoint_index", "Index of the checkpoint", status.checkpoint),
            ("diskstore_raft_purged_index", "Highest index purged", status.purged),
        ] {
            page.gauge(name, help, index)?;
        }
        self.members(page)
    }

    fn members(&self, page: &mut Page<'_>) -> Written {
        let members = &self.status.members;
        let of_role = |role| members.iter().filter(|member| member.role == role).count() as u64;
        let learners = of_role("learner");
        let counts = [("voter", members.len() as u64 - learners), ("learner", learners)];
        page.gauges("diskstore_members", "Members of the cluster", "role", &counts)?;
        let figures = |of: fn(&MemberStatus) -> Option<u64>| -> Vec<Labelled<'_>> {
            let known = members.iter().filter_map(|member| Some((member, of(member)?)));
            known.map(|(member, figure)| (member.name.as_str(), figure)).collect()
        };
        let lags = figures(|member| member.lag);
        let help = "Entries of the leader's log that a member lacks; said by the leader";
        page.gauges("diskstore_member_lag_entries", help, "member", &lags)?;
        let silent = figures(|member| member.silent.map(u64::from));
        let help = "1 for a member that has not answered for an election timeout; where known";
        page.gauges("diskstore_member_silent", help, "member", &silent)
    }

    fn storage(&self, page: &mut Page<'_>) -> Written {
        let status = &self.status;
        let help = "One write and sync of the log";
        page.times("diskstore_log_sync_duration_seconds", help, &[(vec![], self.syncs)])?;
        for (name, help, bytes) in [
            ("diskstore_log_bytes", "Bytes of the log's files", status.log_bytes),
            ("diskstore_disk_used_bytes", "Bytes of all files of the node", status.disk_used_bytes),
            ("diskstore_disk_left_bytes", "Bytes left on its disk", status.disk_left_bytes),
            ("diskstore_checkpoint_timestamp_seconds", "When one was written last", self.saved_s),
            ("diskstore_slots", "Slots that there are; 0 where any bytes are a key", status.slots),
            ("diskstore_value_bytes_max", "Most bytes of a value", status.value_size.into()),
            ("diskstore_damaged_slots", "Slots whose checksum is wrong", status.damaged_slots),
        ] {
            page.gauge(name, help, bytes)?;
        }
        let help = "Slots or keys that hold a value; absent until they were counted after a start";
        page.known("diskstore_live_keys", help, status.live)?;
        for (name, help, count) in [
            ("diskstore_log_written_bytes", "Bytes written to the log", status.log_written_bytes),
            ("diskstore_pages_written", "Pages of slots written in place", status.written_pages),
            ("diskstore_slots_sent", "Slots sent to members", status.slots_sent),
            ("diskstore_slots_received", "Slots that snapshots brought", status.slots_received),
            ("diskstore_peer_received_bytes", "Bytes from other members", status.received_bytes),
        ] {
            page.counter(name, help, count)?;
        }
        Ok(())
    }

    fn clients(&self, page: &mut Page<'_>) -> Written {
        let spread = |kind, of: fn(&Operations) -> Spread| {
            self.operations.iter().map(move |served| {
                (vec![("protocol", served.protocol), ("kind", kind)], of(served))
            })
        };
        let operations: Vec<_> = spread("read", |served| served.reads)
            .chain(spread("write", |served| served.writes))
            .collect();
        let help = "From when a request was taken until its result was there";
        page.times("diskstore_operation_duration_seconds", help, &operations)?;
        let stages: Vec<_> =
            self.stages.iter().map(|(name, spread)| (vec![("stage", *name)], *spread)).collect();
        let help = "Where the time of writes goes on this member, once for each batch";
        page.times("diskstore_write_stage_duration_seconds", help, &stages)?;
        let failures: Vec<_> =
            self.failures.iter().map(|(class, count)| (status_of(*class).1, *count)).collect();
        let help = "Operations that were refused or failed after they were taken";
        page.counters("diskstore_operations_failed", help, "code", &failures)?;
        let help = "Requests and tokens that were refused by -tokens";
        page.counters("diskstore_access_denied", help, "reason", &self.denials)?;
        let commands = &self.counts.commands;
        let calls: Vec<_> = commands.iter().map(|count| (count.name, count.calls)).collect();
        page.counters("diskstore_commands", "Commands executed or queued", "command", &calls)?;
        let rejected: Vec<_> = commands.iter().map(|count| (count.name, count.rejected)).collect();
        let help = "Commands that were wrong as they came";
        page.counters("diskstore_commands_rejected", help, "command", &rejected)?;
        let looked_up = [("hit", self.counts.hits), ("miss", self.counts.misses)];
        page.counters("diskstore_lookups", "Keys that were read", "result", &looked_up)?;
        page.gauge("diskstore_connections", "Open connections of clients", self.connections)?;
        let help = "Connections of clients that there may be";
        page.gauge("diskstore_connections_max", help, self.connections_max)?;
        let help = "Connections of clients that there have been";
        page.counter("diskstore_connections_accepted", help, self.connections_ever)?;
        let help = "Bytes that clients sent";
        page.counter("diskstore_client_received_bytes", help, self.counts.received_bytes)?;
        page.counter(
            "diskstore_client_sent_bytes",
            "Bytes that went to clients",
            self.counts.sent_bytes,
        )
    }

    fn process(&self, page: &mut Page<'_>) -> Written {
        let process = &self.process;
        let used = (process.system + process.user).as_secs_f64();
        page.count("process_cpu_seconds", "Processor time, system and user", &used)?;
        let help = "Resident memory";
        page.gauge("process_resident_memory_bytes", help, process.resident_bytes)?;
        page.gauge("process_threads", "Threads", process.thread_count)?;
        page.gauge("process_open_fds", "Open file descriptors", self.open_count)?;
        let max = open_count_max().unwrap_or(u64::MAX);
        page.gauge("process_max_fds", "Most open file descriptors", max)?;
        let help = "When the process started, since 1970";
        page.gauge("process_start_time_seconds", help, process.started_s())
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Written {
        let mut page = Page(encoder);
        self.node(&mut page)?;
        self.raft(&mut page)?;
        self.storage(&mut page)?;
        self.clients(&mut page)?;
        self.process(&mut page)
    }
}

/// Families, one after the other. A counter's name gets `_total`, that of an info `_info`.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn info(&mut self, name: &str, help: &str, labels: &[Label<'_>]) -> Written {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(&labels)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> Written {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn known(&mut self, name: &str, help: &str, value: Option<u64>) -> Written {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        value.map_or(Ok(()), |value| family.encode_gauge(&value))
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> Written {
        self.count(name, help, &value)
    }

    fn count(&mut self, name: &str, help: &str, value: &impl EncodeCounterValue) -> Written {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, f64>(value, None)
    }

    fn gauges(&mut self, name: &str, help: &str, label: &str, values: &[Labelled<'_>]) -> Written {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (of, value) in values {
            family.encode_family(&[(label, *of)])?.encode_gauge(value)?;
        }
        Ok(())
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: &[Labelled<'_>],
    ) -> Written {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (of, value) in values {
            let labels = [(label, *of)];
            let mut one = family.encode_family(&labels)?;
            one.encode_counter::<NoLabelSet, _, f64>(value, None)?;
        }
        Ok(())
    }

    fn times(&mut self, name: &str, help: &str, all: &[Timed<'_>]) -> Written {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, spread) in all {
            let count = spread.buckets.iter().sum();
            let buckets = buckets(spread);
            let mut one = family.encode_family(labels)?;
            one.encode_histogram::<NoLabelSet>(spread.sum_s, count, &buckets, None)?;
        }
        Ok(())
    }
}

/// The bounds of [`BUCKET_POWERS`] in seconds, and how many are between each and the one below.
fn buckets(spread: &Spread) -> Vec<(f64, u64)> {
    let (mut buckets, mut count) = (Vec::new(), 0);
    for (power, more) in (1_usize..).zip(spread.buckets) {
        count += more;
        if BUCKET_POWERS.contains(&power) {
            let bound = std::time::Duration::from_micros(1 << power);
            buckets.push((bound.as_secs_f64(), std::mem::take(&mut count)));
        }
    }
    buckets.push((f64::INFINITY, count));
    buckets
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_histogram_has_all_that_was_counted_below_bounds_that_hold() {
        let times = Times::default();
        for us in [1, 15, 16, 31, 40_000_000, 700_000_000] {
            times.record(Duration::from_micros(us));
        }
        let buckets = buckets(&times.spread());
        assert_eq!(buckets.len(), BUCKET_POWERS.count() + 1);
        assert_eq!(buckets[0], (0.000_016, 2));
        assert_eq!(buckets[1], (0.000_032, 2));
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, 2)));
        assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), times.count());
    }
}
