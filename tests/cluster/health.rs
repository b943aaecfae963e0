//! `status` says how a cluster is, whichever member is asked; so do INFO and the log.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::harness::{PATIENCE, run, stdout};
use crate::nodes::{Cluster, wait_until};

/// The status and the body of a response of a node.
fn http(cluster: &Cluster, index: usize, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(cluster.nodes[index].client_address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head[9..12].to_owned(), body.to_owned())
}

/// The first line of `status` at a node, and what it exits with.
fn health(cluster: &Cluster, index: usize) -> (String, Option<i32>) {
    let output = run(&["status", "-addr", &cluster.nodes[index].client_address()]);
    let text = stdout(&output);
    (text.lines().next().unwrap_or_default().to_owned(), output.status.code())
}

fn info(cluster: &Cluster, index: usize) -> String {
    let said = cluster.nodes[index].ask(&["INFO", "replication"]);
    said.ok().and_then(|value| value.text()).unwrap_or_default()
}

/// What `doctor` finds at a node: severity, code and place of what is about members alone, for the disk
/// and the speed are those of the machine that the tests run on.
fn found(cluster: &Cluster, index: usize) -> Vec<(String, String, String)> {
    let address = cluster.nodes[index].client_address();
    let output = run(&["doctor", "-json", "-duration", "0s", "-addr", &address]);
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let found = report["findings"].as_array().unwrap().iter();
    let found = found.map(|it| (word(&it["severity"]), word(&it["code"]), word(&it["where"])));
    let of_members = ["unreachable", "no_majority", "no_spare", "wrong_", "cut_off", "unheard"];
    found.filter(|(_, code, _)| of_members.iter().any(|it| code.starts_with(it))).collect()
}

#[test]
fn every_member_says_how_many_answer_and_when_no_majority_does() {
    let mut cluster = Cluster::of_three(&[]);
    for index in 0..3 {
        wait_until("all are well", || {
            health(&cluster, index)
                == ("health   3 of 3 voters answer, can lose 1".to_owned(), Some(0))
        });
    }
    for index in 0..3 {
        assert_eq!(http(&cluster, index, "/readyz"), ("200".to_owned(), "ready\n".to_owned()));
    }
    let (leader, gone, last) = cluster.roles();
    assert_eq!(found(&cluster, last), []);
    wait_until("both are online", || info(&cluster, leader).matches("state=online").count() == 2);
    assert!(info(&cluster, leader).contains("raft_majority:1\r\n"));
    let name = cluster.nodes[gone].name.clone();
    cluster.nodes[gone].kill();
    let expected = format!("health   2 of 3 voters answer, can lose 0; {name} does not answer");
    for index in [leader, last] {
        wait_until("one is missed", || health(&cluster, index) == (expected.clone(), Some(3)));
    }
    let own = |(severity, code, place): (&str, &str, &str)| {
        (severity.to_owned(), code.to_owned(), place.to_owned())
    };
    let lost = [("error", "unreachable", name.as_str()), ("warning", "no_spare", "")].map(own);
    wait_until("doctor tells of it", || found(&cluster, last) == lost);
    wait_until("it is offline", || {
        let text = info(&cluster, leader);
        text.contains("state=offline") && text.contains("connected_slaves:1\r\n")
    });

    cluster.nodes[last].kill();
    wait_until("no majority is left", || {
        let (line, code) = health(&cluster, leader);
        line.starts_with("health   no majority: writes are refused since ") && code == Some(3)
    });
    let codes: Vec<_> = found(&cluster, leader).into_iter().map(|(_, code, _)| code).collect();
    assert_eq!(codes, ["no_majority", "unreachable", "unreachable"]);
    wait_until("nobody is online", || {
        let text = info(&cluster, leader);
        text.contains("raft_majority:0\r\n") && text.matches("state=offline").count() == 2
    });
    let (status, body) = http(&cluster, leader, "/readyz");
    assert_eq!(status, "503", "{body}");
    let reasons = ["no leader is known", "no majority of the voters was heard for "];
    assert!(reasons.iter().any(|reason| body.contains(reason)), "{body}");
    assert_eq!(http(&cluster, leader, "/livez"), ("200".to_owned(), "ok\n".to_owned()));
    let output = run(&["status", "-json", "-addr", &cluster.nodes[leader].client_address()]);
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(json["health"]["is_healthy"], false);
    assert_eq!(json["health"]["answering"], 1);
    assert!(json["no_majority_s"].as_u64().is_some(), "{json}");
    assert!(json["disk_used_bytes"].as_u64() > json["log_bytes"].as_u64(), "{json}");
    assert!(json["disk_left_bytes"].as_u64() > Some(0), "{json}");
    let told = "no majority answers: writes are refused";
    wait_until("it is logged", || cluster.nodes[leader].words().contains(told));

    cluster.nodes[last].start();
    wait_until("two are back", || health(&cluster, last) == (expected.clone(), Some(3)));
    cluster.nodes[gone].start();
    wait_until("all are back", || health(&cluster, gone).1 == Some(0));
    let output = run(&["status", "-addr", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn who_leads_and_who_votes_is_logged_once_by_name() {
    let mut cluster = Cluster::of_three(&[]);
    let (leader, next, other) = cluster.roles();
    let name = cluster.nodes[leader].name.clone();
    for index in [next, other] {
        let node = &cluster.nodes[index];
        wait_until("a voter says so", || node.words().contains("this node votes, one of "));
        wait_until("the leader is named", || node.words().contains(&format!("{name} leads")));
    }
    let own = format!("this node, {name}, leads");
    // A machine that is busy may change its leader, and have it again: that is another term.
    let words = cluster.nodes[leader].words();
    let told = words.lines().filter(|line| line.contains(&own));
    let mut terms: Vec<_> = told.filter_map(|line| line.split("term=").nth(1)).collect();
    let count = terms.len();
    terms.sort_unstable();
    terms.dedup();
    assert!(count > 0 && terms.len() == count, "{words}");
    cluster.nodes[leader].stop();
    wait_until("another leads", || {
        let words = [next, other].map(|index| cluster.nodes[index].words());
        words.iter().any(|words| words.contains("this node, node"))
    });
}
