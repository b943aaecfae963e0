//! HTTP: the metrics, and what is written about them.

use std::collections::BTreeSet;

use super::*;

/// One scrape.
struct Scrape(String);

impl Scrape {
    #[track_caller]
    fn of(client: &mut Client) -> Scrape {
        let response = client.http("GET", "/metrics", "", "");
        assert_eq!(response.status(), "200", "{}", response.body);
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert_eq!(response.header("content-type"), Some(kind));
        assert!(response.body.ends_with("# EOF\n"), "{}", response.body);
        Scrape(response.body)
    }

    /// Names of families and their kinds.
    fn families(&self) -> BTreeSet<(String, String)> {
        let kinds = self.0.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        kinds.map(|line| line.split_once(' ').unwrap()).map(own).collect()
    }

    /// Every name that a query may have.
    fn names(&self) -> BTreeSet<String> {
        let endings = |kind: &str| match kind {
            "counter" => &["_total"][..],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            _ => &[""],
        };
        let names = self.families().into_iter().flat_map(|(name, kind)| {
            endings(&kind).iter().map(move |ending| format!("{name}{ending}"))
        });
        names.collect()
    }

    /// The sample of this name and these labels.
    #[track_caller]
    fn value<T: std::str::FromStr>(&self, sample: &str) -> T {
        let value = self.0.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        let value = value.unwrap_or_else(|| panic!("no {sample} in {}", self.0));
        value.parse().unwrap_or_else(|_| panic!("{sample} {value}"))
    }
}

fn own((name, kind): (&str, &str)) -> (String, String) {
    (name.to_owned(), kind.to_owned())
}

fn file(path: &str) -> String {
    std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn every_metric_is_in_the_document_and_the_other_way_round() {
    let node = Node::shared();
    let printed = Scrape::of(&mut node.connect()).families();
    let document = file("docs/metrics.md");
    let rows = document.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let (name, kind) = (cells.next()?.strip_suffix('`')?, cells.next()?);
        let is_family = name.starts_with("diskstore_") || name.starts_with("process_");
        is_family.then_some(own((name, kind)))
    });
    let documented: Vec<_> = rows.collect();
    let unique: BTreeSet<_> = documented.iter().cloned().collect();
    assert_eq!(unique.len(), documented.len(), "a family has two rows");
    let only = |one: &BTreeSet<_>, other: &BTreeSet<_>| {
        one.difference(other).cloned().collect::<Vec<(String, String)>>()
    };
    assert_eq!(only(&printed, &unique), [], "is not in docs/metrics.md, or of another kind");
    assert_eq!(only(&unique, &printed), [], "is in docs/metrics.md and not printed");
}

#[test]
fn alerts_and_the_dashboard_ask_for_metrics_that_there_are() {
    let node = Node::shared();
    let names = Scrape::of(&mut node.connect()).names();
    let dashboard = file("deploys/grafana/diskstore.json");
    drop(serde_json::from_str::<serde_json::Value>(&dashboard).unwrap());
    for (path, text) in [
        ("deploys/grafana/diskstore.json", dashboard),
        ("deploys/prometheus/alerts.yml", file("deploys/prometheus/alerts.yml")),
    ] {
        let words = text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
        let asked: BTreeSet<_> = words
            .filter(|word| word.starts_with("diskstore_") || word.starts_with("process_"))
            .collect();
        assert!(asked.len() > 10, "{path}: {asked:?}");
        for name in asked {
            assert!(names.contains(name), "{path}: there is no {name}");
        }
    }
}

#[test]
fn what_clients_did_is_counted_by_protocol_and_kind() {
    let node = Node::start();
    let (mut resp, mut http) = (node.connect(), node.connect());
    let count = |scrape: &Scrape, protocol, kind| {
        let labels = format!("{{protocol=\"{protocol}\",kind=\"{kind}\"}}");
        scrape.value::<u64>(&format!("diskstore_operation_duration_seconds_count{labels}"))
    };
    let kinds = ["resp", "http", "grpc"].map(|protocol| [(protocol, "read"), (protocol, "write")]);
    let kinds = kinds.as_flattened();
    let mut before = Scrape::of(&mut http);
    while !before.0.contains("diskstore_live_keys ") {
        before = Scrape::of(&mut http); // they are being counted
    }
    for _ in 0..3 {
        resp.send(b"SET 7 x\r\n");
        resp.expect(b"+OK\r\n");
    }
    resp.send(b"GET 7\r\nGET 8\r\n");
    resp.expect(b"$1\r\nx\r\n$-1\r\n");
    resp.send(b"INCR 7\r\n");
    assert!(resp.line().starts_with("-ERR"));
    assert_eq!(http.http("PUT", "/v1/slots/9", "", "y").status(), "204");
    assert_eq!(http.http("GET", "/v1/slots/9", "", "").status(), "200");
    grpc::set_and_get(&node, 10);
    let after = Scrape::of(&mut http);
    let more = kinds
        .iter()
        .map(|(protocol, kind)| count(&after, protocol, kind) - count(&before, protocol, kind));
    assert_eq!(more.collect::<Vec<_>>(), [2, 4, 1, 1, 1, 1]);
    let more = |sample: &str| after.value::<u64>(sample) - before.value::<u64>(sample);
    assert_eq!(more("diskstore_operations_failed_total{code=\"wrong\"}"), 1);
    assert_eq!(more("diskstore_lookups_total{result=\"miss\"}"), 1);
    // Replies over HTTP and gRPC are not timed.
    for (stage, least) in [("queue", 5), ("append", 5), ("commit", 5), ("apply", 5), ("reply", 4)] {
        let sample = format!("diskstore_write_stage_duration_seconds_count{{stage=\"{stage}\"}}");
        assert!(more(&sample) >= least, "{stage}: {}", more(&sample));
    }
    assert!(more("diskstore_log_sync_duration_seconds_count") >= 5);
    assert!(after.value::<f64>("diskstore_log_sync_duration_seconds_sum") > 0.0);
    assert_eq!(more("diskstore_commands_total{command=\"set\"}"), 5);
    assert!(after.value::<u64>("diskstore_connections") >= 2);
    assert!(after.value::<u64>("diskstore_raft_leader_changes_total") >= 1);
    assert_eq!(after.value::<u64>("diskstore_raft_is_leader"), 1);
    assert_eq!(after.value::<u64>("diskstore_ready"), 1);
    assert_eq!(after.value::<u64>("diskstore_members{role=\"voter\"}"), 1);
    assert_eq!(after.value::<u64>("diskstore_refusing{code=\"log_space\"}"), 0);
    assert_eq!(after.value::<u64>("diskstore_slots"), 1000);
    assert!(after.value::<u64>("diskstore_live_keys") >= 2);
    assert!(after.value::<u64>("process_resident_memory_bytes") > 1_000_000);
    assert!(after.value::<u64>("process_open_fds") < after.value::<u64>("process_max_fds"));
}
