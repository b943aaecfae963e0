//! What `/metrics` answers: the calls of gRPC under the names of go-grpc-prometheus, which the original
//! used, so that its dashboards go on; and what `status` says, as numbers.
//!
//! Called by `grpc`, which counts, and by `http`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use parking_lot::Mutex;
use tonic::Code;

use super::RegisterServer;

/// A method, as these names have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MethodName {
    pub(super) service: &'static str,
    pub(super) method: &'static str,
    /// `unary` or `server_stream`.
    pub(super) kind: &'static str,
}

/// All methods that there are: nothing that a client sends becomes a name.
pub(super) const METHODS: [MethodName; 9] = [
    unary("api.Cluster", "Info"),
    unary("api.Cluster", "Get"),
    unary("api.Cluster", "Set"),
    unary("api.Node", "Health"),
    MethodName { service: "api.Node", method: "Info", kind: "server_stream" },
    unary("api.Node", "Get"),
    unary("api.Node", "Set"),
    unary("api.Clock", "Get"),
    unary("api.Clock", "Set"),
];

const fn unary(service: &'static str, method: &'static str) -> MethodName {
    MethodName { service, method, kind: "unary" }
}

/// The method of a path such as `/api.Node/Get`.
pub(super) fn method_of(path: &str) -> Option<MethodName> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    METHODS.into_iter().find(|known| known.service == service && known.method == method)
}

/// How often each method was called, and how its calls ended.
#[derive(Debug, Default)]
pub(super) struct CallCounts {
    calls: Mutex<BTreeMap<MethodName, CallCount>>,
}

#[derive(Debug, Default)]
struct CallCount {
    started: u64,
    /// By the number of their code.
    handled: BTreeMap<i32, u64>,
}

impl CallCounts {
    /// A call began.
    pub(super) fn begin(&self, method: MethodName) {
        self.calls.lock().entry(method).or_default().started += 1;
    }

    /// A call ended.
    pub(super) fn end(&self, method: MethodName, code: Code) {
        let mut calls = self.calls.lock();
        *calls.entry(method).or_default().handled.entry(code.into()).or_default() += 1;
    }

    fn render(&self, text: &mut String) {
        let calls = self.calls.lock();
        let labels = |method: &MethodName| {
            let MethodName { service, method, kind } = method;
            format!("grpc_method=\"{method}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"")
        };
        let started = calls
            .iter()
            .map(|(method, count)| Sample { labels: labels(method), value: count.started });
        let handled = calls.iter().flat_map(|(method, count)| {
            count.handled.iter().map(move |(code, count)| {
                let labels = format!("grpc_code=\"{}\",{}", code_name(*code), labels(method));
                Sample { labels, value: *count }
            })
        });
        let received = calls
            .iter()
            .map(|(method, count)| Sample { labels: labels(method), value: count.started });
        let sent = calls.iter().map(|(method, count)| {
            let value = count.handled.get(&0).copied().unwrap_or_default();
            Sample { labels: labels(method), value }
        });
        counter(text, "grpc_server_started_total", "RPCs started on the server.", started);
        counter(text, "grpc_server_handled_total", "RPCs completed on the server.", handled);
        let name = "grpc_server_msg_received_total";
        counter(text, name, "RPC messages received on the server.", received);
        counter(text, "grpc_server_msg_sent_total", "RPC messages sent by the server.", sent);
    }
}

/// A number with its labels.
struct Sample {
    labels: String,
    value: u64,
}

fn counter(text: &mut String, name: &str, help: &str, samples: impl Iterator<Item = Sample>) {
    head(text, name, "counter", help);
    for Sample { labels, value } in samples {
        line(text, &format!("{name}{{{labels}}} {value}"));
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    line(text, &format!("# HELP {name} {help}"));
    line(text, &format!("# TYPE {name} {kind}"));
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("invariant: a string takes what is written to it");
}

/// A code as these names have it.
fn code_name(code: i32) -> &'static str {
    match Code::from_i32(code) {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// Everything, in the text form of Prometheus.
pub(super) async fn render(server: &RegisterServer) -> String {
    let mut text = String::new();
    server.calls.render(&mut text);
    let status = server.registrar.status().await;
    let up = status.peers.iter().filter(|peer| peer.is_up).count() as u64;
    let gauges = [
        ("leaderless_ready", "1 while operations are taken.", u64::from(server.is_ready())),
        ("leaderless_keys", "Keys held here that have a value.", status.keys),
        ("leaderless_tombstones", "Deleted keys that are remembered.", status.tombstones),
        ("leaderless_memory_bytes", "Memory that keys take.", status.memory_bytes),
        ("leaderless_memory_bytes_max", "Memory that keys may take.", status.memory_bytes_max),
        ("leaderless_peers_up", "Other nodes that were heard within a second.", up),
        ("leaderless_floor_ms", "Up to here deletes are forgotten.", status.floor_ms),
        ("leaderless_confirmed_ms", "Up to here all nodes have the same.", status.confirmed_ms),
        ("leaderless_uptime_seconds", "Time since the start.", server.begun.elapsed().as_secs()),
    ];
    for (name, help, value) in gauges {
        head(&mut text, name, "gauge", help);
        line(&mut text, &format!("{name} {value}"));
    }
    let name = "leaderless_operations_total";
    let outcomes = [
        ("acknowledged", status.acknowledged),
        ("not_stored", status.failed),
        ("unknown", status.unknown),
    ];
    let outcomes =
        outcomes.map(|(word, value)| Sample { labels: format!("outcome=\"{word}\""), value });
    counter(&mut text, name, "Operations by their outcome.", outcomes.into_iter());
    let counts = [
        ("leaderless_forwarded_total", "Operations passed on to a replica.", status.forwarded),
        ("leaderless_mended_total", "Records that were repaired.", status.mended),
        ("leaderless_clashes_total", "Two values that had one version.", status.clashes),
        ("leaderless_ahead_total", "Versions refused as too far ahead.", status.ahead),
    ];
    for (name, help, value) in counts {
        head(&mut text, name, "counter", help);
        line(&mut text, &format!("{name} {value}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_have_the_names_that_dashboards_of_the_original_ask_for() {
        let counts = CallCounts::default();
        let method = method_of("/api.Cluster/Get").unwrap();
        counts.begin(method);
        counts.end(method, Code::NotFound);
        let mut text = String::new();
        counts.render(&mut text);
        for expected in [
            "# TYPE grpc_server_handled_total counter\n",
            "grpc_server_started_total{grpc_method=\"Get\",grpc_service=\"api.Cluster\",\
             grpc_type=\"unary\"} 1\n",
            "grpc_server_handled_total{grpc_code=\"NotFound\",grpc_method=\"Get\",\
             grpc_service=\"api.Cluster\",grpc_type=\"unary\"} 1\n",
        ] {
            assert!(text.contains(expected), "{text}");
        }
        assert_eq!(method_of("/api.Cluster/Delete"), None);
    }
}
