//! HTTP: what those who run a node ask it.

use pprof::protos::{Message, Profile};
use serde_json::Value;

use super::http::Response;
use super::*;

#[track_caller]
fn json(client: &mut Client, path: &str) -> Value {
    let response = client.http("GET", path, "", "");
    assert_eq!(response.status(), "200", "{path} {}", response.body);
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    serde_json::from_str(&response.body).unwrap()
}

#[test]
fn a_node_says_over_http_that_it_lives_and_serves_and_what_it_is() {
    let node = Node::shared();
    let mut client = node.connect();
    for (path, words) in [("/livez", "ok\n"), ("/readyz", "ready\n")] {
        let response = client.http("GET", path, "", "");
        assert_eq!((response.status(), response.body.as_str()), ("200", words));
    }
    let version = json(&mut client, "/version");
    assert_eq!(
        (version["program"].as_str(), version["version"].as_str()),
        (Some("diskstore"), Some("0.1.0"))
    );
    let status = json(&mut client, "/status");
    assert_eq!((status["name"].as_str(), status["slots"].as_u64()), (Some("protocol"), Some(1000)));
    // Other tests write to this node: only between two equal looks nothing was written.
    let (nodes, members) = loop {
        let before = json(&mut client, "/status")["members"].take();
        let nodes = json(&mut client, "/nodes");
        if json(&mut client, "/status")["members"] == before {
            break (nodes, before);
        }
    };
    assert_eq!(nodes["leader"], "protocol");
    assert_eq!(nodes["members"], members);
    assert_eq!(nodes["members"][0]["role"], "leader");
    client.http("POST", "/readyz", "", "").is("405", "method");
}

#[test]
fn a_cpu_profile_is_taken_one_at_a_time_for_a_bounded_time() {
    let node = Node::start();
    let mut client = node.connect();
    for query in ["seconds=0", "seconds=121", "seconds=x", "format=png&seconds=1", "more=1"] {
        client.http("GET", &format!("/debug/pprof/profile?{query}"), "", "").is("400", "wrong");
    }
    client.http("GET", "/debug/pprof/heap", "", "").is("501", "refused");

    let mut first = begin_profile(&node, 2);
    // This one may be asked before the first has begun: then they take turns.
    while client.http("GET", "/debug/pprof/profile?seconds=1", "", "").status() == "200" {
        first = begin_profile(&node, 2);
    }
    client.http("GET", "/debug/pprof/profile?seconds=1", "", "").is("429", "busy");
    is_profile(&first.response("GET"));

    let leaver = begin_profile(&node, 120);
    drop(leaver);
    while client.http("GET", "/debug/pprof/profile?seconds=1", "", "").status() == "429" {}
}

#[test]
fn a_node_that_stops_ends_its_profile() {
    let node = Node::start();
    let (mut client, mut other) = (begin_profile(&node, 120), node.connect());
    while other.http("GET", "/debug/pprof/profile?seconds=1", "", "").status() == "200" {
        client = begin_profile(&node, 120);
    }
    let pid = rustix::process::Pid::from_child(&node.process);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    is_profile(&client.response("GET"));
}

fn begin_profile(node: &Node, seconds: u64) -> Client {
    let mut client = node.connect();
    let path = format!("/debug/pprof/profile?seconds={seconds}");
    client.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes());
    client
}

#[track_caller]
fn is_profile(response: &Response) {
    assert_eq!(response.status(), "200", "{}", response.body);
    let profile = Profile::decode(&*response.bytes).unwrap();
    let text = |index: i64| profile.string_table[usize::try_from(index).unwrap()].as_str();
    let types: Vec<_> = profile.sample_type.iter().map(|kind| text(kind.ty)).collect();
    assert_eq!(types, ["samples", "cpu"]);
}
