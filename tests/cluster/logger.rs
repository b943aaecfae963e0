//! Loggers beside running clusters: killed, late, and several in one process. What they recorded is
//! read back by `docs/format.md` alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::host;
use crate::load::{History, KEYS, Load};
use crate::nodes::{Cluster, Node, wait_for, wait_until};
use crate::records::{Record, files, records_in, state};
use crate::recovery::{recovered, recovery};
use crate::resp::Value;

const SLOTS: usize = 4096;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_logger"))
}

/// A logger and where it records.
pub(crate) struct Logger {
    pub(crate) node: Node,
    folder: PathBuf,
}

impl Logger {
    /// A logger of a cluster, started.
    pub(crate) fn start(cluster: &Cluster, name: &str, more: &[&str]) -> Logger {
        let below = cluster.folder.path().join(format!("of-{name}"));
        std::fs::create_dir(&below).unwrap();
        let folder = below.join("logs");
        let text = folder.display().to_string();
        let join = cluster.nodes[0].join_address();
        let arguments = [&["-logfolder", &text, "-join", &join], more].concat();
        let mut logger = Logger { node: Node::new(name, &below, &arguments), folder };
        logger.node.start_by(program());
        logger
    }

    fn records(&self) -> Vec<Record> {
        records_in(&self.folder, &self.node.name)
    }

    /// Waits until it has recorded what the cluster has committed by now.
    #[track_caller]
    pub(crate) fn wait_level(&self, cluster: &Cluster) {
        let leader = &cluster.nodes[cluster.leader()];
        let committed = wait_for("status of the leader", || leader.status()).committed;
        wait_until(&format!("the logger to record {committed}"), || {
            self.node.status().is_some_and(|status| status.applied >= committed)
        });
    }

    /// Fails unless its files, one record after the other, lead to what a node holds.
    #[track_caller]
    fn check(&self, node: &Node) {
        let records = self.records();
        assert_eq!(state(&records), state_of(node));
        // No entry stands twice, and each is whole.
        let entries: Vec<&Record> =
            records.iter().filter(|record| record.mark != "image").collect();
        assert!(entries.is_sorted_by_key(|record| record.index));
        let ends = entries.iter().filter(|record| record.mark != "more");
        let ends: Vec<u64> = ends.map(|record| record.index).collect();
        assert_eq!(ends.iter().collect::<BTreeSet<_>>().len(), ends.len(), "an entry twice");
    }
}

/// What a node itself holds.
pub(crate) fn state_of(node: &Node) -> BTreeMap<String, Vec<u8>> {
    let mut client = node.client().unwrap();
    client.ask(&["READONLY"]).unwrap();
    let mut state = BTreeMap::new();
    for key in (0..SLOTS).map(|key| key.to_string()) {
        if let Some(value) = client.ask(&["GET", &key]).unwrap().text() {
            state.insert(key, value.into_bytes());
        }
    }
    state
}

/// Sets these slots, increments one and appends to another, many times over.
fn write(node: &Node, round: usize) {
    let mut client = node.client().unwrap();
    let padding = "x".repeat(200);
    for keys in (KEYS..SLOTS).collect::<Vec<_>>().chunks(100) {
        let mut words = vec!["MSET".to_owned()];
        words.extend(keys.iter().flat_map(|key| [key.to_string(), format!("{round} {padding}")]));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!(client.ask(&words), Ok(Value::Simple("OK".into())));
    }
    let counted = (SLOTS - 1).to_string();
    let appended = (SLOTS - 2).to_string();
    let deleted = (SLOTS - 3 - round % 10).to_string();
    client.ask(&["SET", &counted, "7"]).unwrap();
    for words in [
        &["INCR", &counted][..],
        &["MULTI"],
        &["INCR", &counted],
        &["INCR", &counted],
        &["APPEND", &appended, "y"],
        &["EXEC"],
        &["DEL", &deleted],
        &["SET", &deleted, "not", "XX"],
        &["SET", &appended, "not", "NX"],
    ] {
        drop(client.ask(words));
    }
}

/// Asserts that a logger is a member and votes for nobody.
#[track_caller]
fn check_learner(cluster: &Cluster, name: &str) {
    let members = wait_for("a status", || cluster.nodes[cluster.leader()].status()).members;
    let role = |member: &&diskstore::status::MemberStatus| member.role == "learner";
    let learners: Vec<&str> =
        members.iter().filter(role).map(|member| member.name.as_str()).collect();
    assert_eq!(learners, [name]);
    assert_eq!(members.len(), 4);
}

#[test]
fn a_logger_killed_under_load_records_everything_once_and_never_votes() {
    let cluster = Cluster::of_three(&["-checkpoint-mib", "1"]);
    let mut logger = Logger::start(&cluster, "log1", &["-checkpoint-mib", "1", "-roll-mib", "1"]);
    let history = History::new();
    let load = Load::start(&cluster, &history);
    for round in 0..6 {
        load.wait_more(50);
        write(&cluster.nodes[cluster.leader()], round);
        logger.node.kill();
        logger.node.start_by(program());
    }
    load.wait_more(200);
    load.stop();
    cluster.wait_level();
    logger.wait_level(&cluster);
    check_learner(&cluster, "log1");
    logger.check(&cluster.nodes[0]);
    let marks = logger.records().into_iter().filter(|record| record.mark == "image");
    assert_eq!(marks.count(), 0, "it never fell behind the log");
    assert!(files(&logger.folder, "log1").len() > 2, "its file has not rolled");
    // It serves nothing, and says why; of itself it tells.
    for words in [&["GET", "1"][..], &["SET", "1", "x"], &["MGET", "1", "2"], &["SCAN", "0"]] {
        let refused = logger.node.ask(words).map_err(|failure| format!("{failure:?}"));
        assert!(format!("{refused:?}").contains("this is a logger"), "{words:?}: {refused:?}");
    }
    let removal = logger.node.ask(&["DISKSTORE", "REMOVE", &cluster.nodes[0].name]);
    assert!(format!("{removal:?}").contains("this is a logger"), "{removal:?}");
    assert_eq!(logger.node.ask(&["PING"]), Ok(Value::Simple("PONG".into())));
    let before = logger.records().len();
    logger.node.stop();
    logger.node.start_by(program());
    logger.wait_level(&cluster);
    assert_eq!(logger.records().len(), before, "a restart records nothing anew");
    check_learner(&cluster, "log1");
}

#[test]
fn a_logger_that_comes_after_a_purge_records_what_changed_meanwhile() {
    let purging = ["-checkpoint-mib", "1", "-keep-mib", "0"];
    let cluster = Cluster::of_three(&purging);
    let mut round = 0;
    let mut purge_beyond = |index: u64| {
        wait_until("the log to be purged", || {
            round += 1;
            write(&cluster.nodes[cluster.leader()], round);
            cluster.nodes[cluster.leader()].status().is_some_and(|status| status.purged > index)
        });
    };
    purge_beyond(0);
    let mut logger = Logger::start(&cluster, "log1", &purging);
    logger.wait_level(&cluster);
    cluster.wait_level();
    logger.check(&cluster.nodes[0]);
    let images =
        |logger: &Logger| logger.records().iter().filter(|record| record.mark == "image").count();
    let first = images(&logger);
    assert!(first > 0, "nothing came by snapshot");
    for _ in 0..2 {
        let applied = logger.node.status().unwrap().applied;
        logger.node.kill();
        purge_beyond(applied);
        logger.node.start_by(program());
        logger.wait_level(&cluster);
        cluster.wait_level();
        logger.check(&cluster.nodes[0]);
    }
    assert!(images(&logger) > first, "nothing came by a second snapshot");
    check_learner(&cluster, "log1");
}

/// How nice the threads of a process are to others (proc_pid_stat(5), field 19), but for the one that
/// waits for signals and does nothing else.
fn niceness(pid: u32) -> BTreeSet<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_task = |task: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).ok()?; // or it ended
        let (name, behind_name) = stat.rsplit_once(')')?;
        if name.ends_with("(signals") {
            return None;
        }
        behind_name.split_whitespace().nth(19 - 3)?.parse().ok()
    };
    tasks.filter_map(of_task).collect()
}

/// A single node that is a cluster.
fn alone(cluster: &mut Cluster, name: &str) -> String {
    let arguments = ["-slots", "4096", "-value-size", "256"];
    let node = cluster.add(name, &arguments);
    node.start();
    node.asked(&["SET", "1", name]);
    node.raft_address()
}

#[test]
fn one_process_follows_several_clusters_and_hands_each_out() {
    let mut clusters = Cluster::empty();
    let joins = [alone(&mut clusters, "a"), alone(&mut clusters, "b")].join(",");
    let below = clusters.folder.path().join("loggers");
    let (data, logs) = (below.join("data"), below.join("logs"));
    let hosts = [host(), host()];
    let list = |port: u16| hosts.each_ref().map(|host| format!("{host}:{port}")).join(",");
    let (raft, hrecov) = (list(12000), list(14000));
    let mut child = program()
        .args(["-id", "log0,log1", "-raft", &raft, "-join", &joins, "-hrecov", &hrecov])
        .args([Path::new("-data"), &data, Path::new("-logfolder"), &logs])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    for (nth, name) in ["log0", "log1"].into_iter().enumerate() {
        let node = &clusters.nodes[nth];
        for round in 0..3 {
            write(node, round);
        }
        wait_until("all to be recorded", || {
            let path = logs.join(format!("log-file-{name}.log"));
            path.exists() && state(&records_in(&logs, name)) == state_of(node)
        });
        let to = below.join(format!("recovered-{name}")).display().to_string();
        let source = format!("{}:14000", hosts[nth]);
        let output = recovery(&["-recov", &source, "-data", &to, "-slots", "4096"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(recovered(Path::new(&to)), state_of(node));
    }
    let own = niceness(std::process::id()).last().copied().unwrap();
    assert_eq!(niceness(child.id()), BTreeSet::from([(own + 10).min(19)]), "nodes come first");
    // One that is removed ends alone.
    clusters.nodes[0].asked(&["DISKSTORE", "REMOVE", "log0"]);
    let address = format!("{}:12000", hosts[0]);
    wait_until("the removed one to end", || std::net::TcpStream::connect(&address).is_err());
    write(&clusters.nodes[1], 3);
    wait_until("the other to record on", || {
        state(&records_in(&logs, "log1")) == state_of(&clusters.nodes[1])
    });
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    let status = wait_for("the end of the logger", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_logger_of_a_kvstore_records_keys_as_they_are_and_what_was_deleted_while_it_was_away() {
    let purging = ["-checkpoint-mib", "1", "-keep-mib", "0"];
    let cluster = Cluster::of_kvstores(&purging);
    let leader = || &cluster.nodes[cluster.leader()];
    let filler = "f".repeat(100_000);
    let purge_beyond = |index: u64| {
        wait_until("the log to be purged", || {
            leader().asked(&["SET", "filler", &filler]);
            leader().status().is_some_and(|status| status.purged > index)
        });
    };
    // One is as long as the number of a slot is inside, one looks like a number.
    let names = ["12345678", "42", "a key", "counter", "\u{e4}", "gone", "gone too", "filler"];
    let expected = || -> BTreeMap<String, Vec<u8>> {
        let held = names.iter().filter_map(|name| {
            Some(((*name).to_owned(), leader().local(name).unwrap()?.into_bytes()))
        });
        held.collect()
    };
    for name in &names[..7] {
        leader().asked(&["SET", name, "7"]);
    }
    leader().asked(&["DEL", "gone"]);
    purge_beyond(0);
    let mut logger = Logger::start(&cluster, "log1", &purging);
    logger.wait_level(&cluster);
    leader().asked(&["INCR", "counter"]);
    logger.wait_level(&cluster);
    wait_until("it to be written", || state(&logger.records()) == expected());
    let applied = logger.node.status().unwrap().applied;
    logger.node.kill();
    leader().asked(&["DEL", "gone too"]);
    leader().asked(&["SET", "42", "new"]);
    purge_beyond(applied);
    logger.node.start_by(program());
    logger.wait_level(&cluster);
    assert_eq!(state(&logger.records()), expected());
    assert!(!expected().contains_key("gone too"));
    check_learner(&cluster, "log1");
}

#[test]
fn a_folder_that_is_none_is_named_before_anybody_is_asked() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let folder = file.path().to_str().unwrap();
    // Nobody listens there: what asks first asks for a minute.
    let arguments = ["-id", "a", "-raft", ":1", "-join", ":3", "-logfolder", folder];
    let output = program().args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains(&format!("-logfolder {folder}: ")), "{words}");
}

#[test]
fn unequal_lists_are_wrong_usage() {
    let arguments = ["-id", "a,b", "-raft", ":1,:2", "-join", ":3"];
    let output = program().args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("-id has 2, -raft has 2, -join has 1"), "{words}");
}
