//! State transfer from a node with `-logfolder`, by `recovery` and by hand.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use diskstore_storage::disk::RealDisk;
use diskstore_storage::slots::{Options, Slots};

use crate::harness::host;
use crate::load::{History, KEYS, Load};
use crate::logger::state_of;
use crate::nodes::{Cluster, Node, PATIENCE, wait_until};
use crate::records::{records, records_in, state};

type State = BTreeMap<String, Vec<u8>>;

/// A node alone that records and hands out, in a folder of its own.
struct Recorded {
    cluster: Cluster,
    address: String,
}

impl Recorded {
    fn start() -> Recorded {
        let mut cluster = Cluster::empty();
        let address = format!("{}:14000", host());
        let folder = cluster.folder.path().join("recorded").display().to_string();
        let more = ["-slots", "4096", "-value-size", "1024", "-roll-mib", "1"];
        let arguments = [&more[..], &["-logfolder", &folder, "-hrecov", &address]].concat();
        cluster.add("node0", &arguments).start();
        Recorded { cluster, address }
    }

    fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    /// Commands of all kinds, 4 MiB of them.
    fn write(&self) {
        let value = "v".repeat(1000);
        for round in 0..16 {
            let mut words = vec!["MSET".to_owned()];
            for key in 0..256 {
                words.extend([(key * 16 + round).to_string(), format!("{round} {value}")]);
            }
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            self.node().asked(&words);
            for words in [&["INCR", "7"][..], &["APPEND", "8", "x"], &["DEL", "20"]] {
                // These fail where a value is no number or too long: nothing is recorded then.
                drop(self.node().ask(words));
            }
        }
        let mut client = self.node().client().unwrap();
        for words in [
            &["MULTI"][..],
            &["SET", "9", "1"],
            &["INCR", "9"],
            &["INCR", "9"],
            &["DEL", "10"],
            &["EXEC"],
        ] {
            client.ask(words).unwrap();
        }
    }

    fn state(&self) -> State {
        state_of(self.node())
    }

    /// The answer to a line.
    fn asked(&self, line: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        stream.write_all(line).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }
}

pub(crate) fn recovery(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recovery"));
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

pub(crate) fn recovered(directory: &Path) -> State {
    let (slots, _) = Slots::open(&RealDisk::new(), directory, Options::new(1 << 30)).unwrap();
    let values = (0..slots.geometry().slot_count()).filter_map(|key| {
        let value = slots.read(key).unwrap().value?;
        Some((key.to_string(), value.to_vec()))
    });
    values.collect()
}

#[test]
fn what_a_node_recorded_is_recovered_over_the_network_and_from_its_files() {
    let recorded = Recorded::start();
    recorded.write();
    let expected = recorded.state();
    let all = records(&recorded.asked(b"127.0.0.1:5-1\n"));
    assert_eq!(state(&all), expected);
    assert_eq!(records_in(&recorded.cluster.folder.path().join("recorded"), "node0"), all);
    let mut indexes: Vec<u64> = all.iter().map(|record| record.index).collect();
    assert!(indexes.is_sorted());
    indexes.dedup();
    let (first, last) = (indexes[3], indexes[9]);
    let some = records(&recorded.asked(format!("a-host:5-{first}-{last}\n").as_bytes()));
    let wanted: Vec<_> =
        all.iter().filter(|record| (first..=last).contains(&record.index)).cloned().collect();
    assert_eq!(some, wanted);

    let folder = recorded.cluster.folder.path();
    let text = |path: &Path| path.display().to_string();
    let (one, other) = (text(&folder.join("one")), text(&folder.join("other")));
    let file = text(&folder.join("recorded/log-file-node0.log"));
    assert!(Path::new(&format!("{file}.4")).exists(), "the file has not rolled");
    for (from, data) in [(["-recov", &recorded.address], one), (["-file", &file], other)] {
        let more = ["-data", &data, "-slots", "4096", "-json"];
        let output = recovery(&[&from[..], &more].concat());
        let (out, words) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        let out = out.unwrap();
        let lines: Vec<&str> = out.lines().collect();
        assert!(lines[0].starts_with("Transfer Time (ns): "), "{out}");
        assert!(lines[1].starts_with("Install Time (ns): "), "{out}");
        assert!(lines[2].starts_with("State Size (bytes): "), "{out}");
        assert_eq!(lines[3], format!("Num of Commands: {}", all.len()));
        assert!(lines[4].starts_with("{\"transfer_ns\":"), "{out}");
        assert_eq!(recovered(Path::new(&data)), expected, "{from:?}");
    }
}

#[test]
fn whatever_line_is_sent_is_answered_and_harms_nobody() {
    let recorded = Recorded::start();
    recorded.node().asked(&["SET", "1", "x"]);
    let long = [b'a'; 5000];
    let lines: [&[u8]; 6] = [b"\n", b"hello\n", b"a-b-c\n", b"a-9-1\n", b"\xff\xfe-1x\n", &long];
    for line in lines {
        let answer = recorded.asked(line);
        assert!(answer.starts_with(b"ERR a request is ADDRESS-FIRST"), "{line:?}: {answer:?}");
    }
    assert_eq!(recorded.asked(b"a-1000000\n"), b"");
    assert_eq!(recorded.node().local("1").unwrap().as_deref(), Some("x"));
}

/// The node has served nobody yet: the place of a transfer is free only some time after its asker
/// has seen its end.
#[test]
fn more_askers_than_are_served_at_once_are_told_so() {
    let recorded = Recorded::start();
    recorded.node().asked(&["PING"]);
    // Eight are served at once, and these ask for nothing; connections are taken in their order.
    let connect = || TcpStream::connect(&recorded.address).unwrap();
    let idle: Vec<TcpStream> = (0..8).map(|_| connect()).collect();
    for _ in 0..12 {
        let mut asker = connect();
        asker.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = Vec::new();
        asker.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"ERR "), "{:?}", String::from_utf8_lossy(&answer));
    }
    drop(idle);
    wait_until("a free transfer", || !recorded.asked(b"a-1\n").starts_with(b"ERR"));
}

/// Hands connections on to a source; the first breaks off after so many bytes.
fn breaking_off(source: String, bytes: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let mut bytes = bytes;
        for stream in listener.incoming() {
            let (mut asker, Ok(mut stream)) = (stream.unwrap(), TcpStream::connect(&source)) else {
                continue;
            };
            let mut line = [0; 512];
            let count = asker.read(&mut line).unwrap();
            stream.write_all(&line[..count]).unwrap();
            // The asker may leave before all is sent.
            drop(std::io::copy(&mut stream.take(bytes), &mut asker));
            bytes = u64::MAX;
        }
    });
    address
}

#[test]
fn a_source_that_dies_in_the_middle_is_resumed_or_named() {
    let mut recorded = Recorded::start();
    recorded.write();
    let expected = recorded.state();
    let directory = recorded.cluster.folder.path().join("data");
    let data = directory.display().to_string();
    let more = ["-data", &data, "-slots", "4096", "-json"];
    let source = breaking_off(recorded.address.clone(), 2_000_000);
    let output = recovery(&[&["-recov", &source], &more[..]].concat());
    assert_eq!(output.status.code(), Some(0), "{:?}", String::from_utf8_lossy(&output.stderr));
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(out.contains("\"resumed\":1"), "{out}");
    assert_eq!(recovered(&directory), expected);
    std::fs::remove_dir_all(&directory).unwrap();

    let source = breaking_off(recorded.address.clone(), 2_000_000);
    let before = std::fs::read_dir(recorded.cluster.folder.path()).unwrap().count();
    let waiting = recorded.asked(b"a-1\n"); // it serves
    assert!(!waiting.is_empty());
    // The source ends behind what the first answer may hold.
    let mut stream = TcpStream::connect(&source).unwrap();
    stream.write_all(b"end@a-1\n").unwrap();
    let mut part = Vec::new();
    stream.read_to_end(&mut part).unwrap();
    assert_eq!(part.len(), 2_000_000);
    recorded.cluster.nodes[0].kill();
    let output = recovery(&[&["-recov", &source], &more[..]].concat());
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains(&format!("recovery: {source} broke off")), "{words}");
    assert!(output.stdout.is_empty() && !directory.exists());
    assert_eq!(std::fs::read_dir(recorded.cluster.folder.path()).unwrap().count(), before);
}

#[test]
fn joining_is_compared_by_a_learner_that_leaves_no_trace() {
    let address = format!("{}:14000", host());
    let recorded = tempfile::tempdir().unwrap();
    let folder = recorded.path().display().to_string();
    let purging = ["-checkpoint-mib", "1", "-keep-mib", "0"];
    let first = [
        &["-slots", "4096", "-value-size", "256", "-logfolder", &folder, "-hrecov", &address],
        &purging[..],
    ];
    let cluster = Cluster::with_geometry(&first.concat(), &purging);
    let filler = "x".repeat(250);
    let keys: Vec<String> = (KEYS..4096).map(|key| key.to_string()).collect();
    let fills: Vec<Vec<&str>> = keys
        .chunks(500)
        .map(|keys| {
            let pairs = keys.iter().flat_map(|key| [key.as_str(), filler.as_str()]);
            std::iter::once("MSET").chain(pairs).collect()
        })
        .collect();
    let mut filled = u64::MAX; // how far the log has to be purged
    wait_until("the log to be purged behind the first values of all slots", || {
        for fill in &fills {
            cluster.nodes[0].asked(fill);
        }
        cluster.nodes[cluster.leader()].status().is_some_and(|status| {
            filled = filled.min(status.last_log);
            status.purged >= filled
        })
    });
    let history = History::new();
    let load = Load::start(&cluster, &history);
    let temporary = tempfile::tempdir().unwrap();
    let join = cluster.nodes[1].raft_address();
    let output = Command::new(env!("CARGO_BIN_EXE_recovery"))
        .args(["-recov", &address, "-slots", "4096", "-value-size", "256", "-json"])
        .args(["-compare", "-join", &join, "-pause", "1s"])
        .env("TMPDIR", temporary.path())
        .output()
        .unwrap();
    load.stop();
    let (out, words) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
    assert_eq!(output.status.code(), Some(0), "{words:?}");
    let out = out.unwrap();
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[3].starts_with("Num of Commands: "), "{out}");
    let report: serde_json::Value = serde_json::from_str(lines[8]).unwrap();
    let field = |join: &str, name: &str| report[join][name].as_u64().unwrap();
    for (nth, name, join, of) in [
        (4, "Snapshot Join Time (ns)", "join", "ns"),
        (5, "Snapshot Join Size (bytes)", "join", "bytes"),
        (6, "Delta Join Time (ns)", "rejoin", "ns"),
        (7, "Delta Join Size (bytes)", "rejoin", "bytes"),
    ] {
        assert_eq!(lines[nth], format!("{name}: {}", field(join, of)), "{out}");
    }
    let filled = u64::try_from(4096 - KEYS).unwrap();
    assert!(field("join", "slots") >= filled && field("join", "bytes") > filled * 250, "{out}");
    assert!(field("rejoin", "slots") < filled, "{out}");
    assert!(field("rejoin", "bytes") < field("join", "bytes"), "{out}");
    assert!(field("rejoin", "index") > field("join", "index"), "the cluster went on: {out}");
    cluster.wait_voters(3);
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
    history.check(&cluster);
}

#[test]
fn a_comparison_without_a_cluster_is_refused_or_given_up() {
    for (more, code, words) in [
        (&["-compare"][..], 2, "-join"),
        (&["-join", ":12000"], 2, "-compare"),
        (&["-compare", "-join", ":1", "-raft", "10.0.0.1:5"], 2, "-insecure"),
        (&["-compare", "-join", "10.0.0.1:5"], 2, "needs -raft"),
    ] {
        let output = recovery(&[&["-file", "x"], more].concat());
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(words), "{text}");
    }
}
