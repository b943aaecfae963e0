//! How many system calls a write takes, as the model in `docs/performance.md` says: counted by strace at the
//! leader of three nodes. It is slow under that, so batches are longer and heartbeats more of what is seen.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::nodes::{Cluster, Node};
use crate::strace::Counter;

/// What is sent and received, and what goes to the disk.
const SENT: [&str; 3] = ["sendto", "sendmsg", "writev"];
const RECEIVED: [&str; 3] = ["recvfrom", "recvmsg", "readv"];
const DISK: [&str; 5] = ["pwrite64", "pwritev", "pwritev2", "fdatasync", "fsync"];
const ROUNDS: u64 = 100;
/// Longer than a traced node may take for a write.
const ANSWER_BOUND: Duration = Duration::from_secs(30);
/// No tracer makes a leader silent for so long.
const ELECTION_MS: [&str; 2] = ["-election-ms", "6000"];

/// Sends so many sets at once, and reads their answers, some rounds long; calls for each round.
fn calls_of(node: &Node, pipeline: u64, value_bytes: usize) -> Option<BTreeMap<String, f64>> {
    let mut writer = TcpStream::connect(node.client_address()).unwrap();
    writer.set_nodelay(true).unwrap();
    writer.set_read_timeout(Some(ANSWER_BOUND)).unwrap();
    let mut reader = BufReader::new(writer.try_clone().unwrap());
    let value = "v".repeat(value_bytes);
    let set = |key: u64| {
        let key = (key % 1000).to_string();
        let key = format!("${}\r\n{key}", key.len());
        format!("*3\r\n$3\r\nSET\r\n{key}\r\n${value_bytes}\r\n{value}\r\n")
    };
    let mut round = |nth: u64| {
        let sets: String = (0..pipeline).map(|key| set(nth * pipeline + key)).collect();
        writer.write_all(sets.as_bytes()).unwrap();
        for _ in 0..pipeline {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            assert_eq!(line, "+OK\r\n");
        }
    };
    round(0); // what is done once, at the first
    let counter = Counter::of(node, &[&SENT[..], &RECEIVED, &DISK].concat().join(","))?;
    (0..ROUNDS).for_each(&mut round);
    let counts = counter.finish();
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let per_round = |count: u64| count as f64 / ROUNDS as f64;
    Some(counts.into_iter().map(|(name, count)| (name, per_round(count))).collect())
}

fn sum_of(calls: &BTreeMap<String, f64>, names: &[&str]) -> f64 {
    names.iter().filter_map(|name| calls.get(*name)).sum()
}

#[test]
fn a_write_takes_few_system_calls_and_a_pipeline_hardly_more() {
    let arguments = [&["-slots", "1024", "-value-size", "1024"][..], &ELECTION_MS].concat();
    let cluster = Cluster::with_geometry(&arguments, &ELECTION_MS);
    cluster.wait_level();
    let leader = &cluster.nodes[cluster.leader()];
    for (pipeline, most) in [(1, 18.0), (64, 36.0)] {
        let Some(calls) = calls_of(leader, pipeline, 1000) else { return };
        let [sent, received, disk] =
            [&SENT[..], &RECEIVED, &DISK].map(|names| sum_of(&calls, names));
        eprintln!(
            "-- system calls of the leader for {pipeline} sets at once: {sent:.2} sent, {received:.2} \
             received, {disk:.2} of the disk: {calls:.2?}"
        );
        // Two followers and a client; a batch is written once, and answered once by each follower.
        assert!(sent >= 3.0 && received >= 3.0 && disk >= 1.0, "what is counted? {calls:?}");
        assert!(sent + received + disk <= most, "for {pipeline} sets at once: {calls:?}");
    }
}
