//! Backups of running clusters, restored into new ones and compared with the state at their index.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value as Json;

use crate::http::{Http, ask};
use crate::nodes::{Cluster, KVSTORE, Node, PATIENCE, wait_until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_diskstore");
/// Keys of each writer.
const WRITER_KEYS: usize = 40;
/// From one key to the next, so that a backup reads them at different moments.
const KEY_STEP: usize = 50;
/// What all slots hold but those of the writers is more than the buffers between a node and a client take,
/// and so is as much in keys.
const GEOMETRY: [&str; 4] = ["-slots", "4096", "-value-size", "8192"];
const FILLER_BYTES: usize = 8192;
/// Writes before a backup, beside it, and behind it.
const WRITES_MIN: usize = 60;

/// Runs the program to its end.
#[track_caller]
pub(crate) fn run(words: &[&str]) -> Output {
    let run = Command::new(PROGRAM).args(words).stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8_lossy(&run.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
    run
}

/// Runs it; it must succeed, and prints this.
#[track_caller]
pub(crate) fn done(words: &[&str]) -> String {
    let Output { status, stdout, stderr } = run(words);
    assert_eq!(status.code(), Some(0), "{words:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// Runs it; it must refuse, and says this.
#[track_caller]
pub(crate) fn refused(exit_code: i32, words: &[&str]) -> String {
    let Output { status, stderr, .. } = run(words);
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(exit_code), "{words:?}: {stderr}");
    stderr
}

pub(crate) fn json(text: &str) -> Json {
    serde_json::from_str(text).unwrap()
}

/// A write that was acknowledged: its index, key, and what the key holds then.
type Written = (u64, String, Option<String>);

/// What every key holds once all writes up to an index are applied, with the version.
fn state_at(history: &[Written], index: u64) -> BTreeMap<String, (u64, String)> {
    let mut sorted: Vec<_> = history.iter().filter(|(at, ..)| *at <= index).collect();
    sorted.sort();
    let mut state = BTreeMap::new();
    for (at, key, value) in sorted {
        match value {
            Some(value) => state.insert(key.clone(), (*at, value.clone())),
            None => state.remove(key),
        };
    }
    state
}

/// Sets and deletes the keys of one writer until it is told to stop; gives what it did.
fn write_until(node: &Node, writer: usize, path: &str, is_over: &AtomicBool) -> Vec<Written> {
    let mut client = Http::connect(node).unwrap();
    let mut history = Vec::new();
    for round in 0.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let key = ((writer * WRITER_KEYS + round % WRITER_KEYS) * KEY_STEP).to_string();
        let (method, value) = match round % 7 {
            3 => ("DELETE", None),
            _ => ("PUT", Some(format!("{writer}-{round}"))),
        };
        let body = value.as_deref().unwrap_or_default();
        let response = client.ask(method, &format!("{path}/{key}"), "", body).unwrap();
        if response.status == 404 {
            continue; // nothing to delete
        }
        assert_eq!(response.status, 204, "{response:?}");
        let index = response.header("diskstore-index").unwrap().parse().unwrap();
        history.push((index, key, value));
    }
    history
}

/// Every key of the writers at a node, with its version.
#[track_caller]
fn content(node: &Node, path: &str) -> BTreeMap<String, (u64, String)> {
    let mut client = Http::connect(node).unwrap();
    let mut content = BTreeMap::new();
    for key in (0..2 * WRITER_KEYS).map(|nth| nth * KEY_STEP) {
        let found = client.ask("GET", &format!("{path}/{key}"), "", "").unwrap();
        if found.status == 404 {
            continue;
        }
        assert_eq!(found.status, 200, "{found:?}");
        let version = found.header("etag").unwrap().trim_matches('"').parse().unwrap();
        content.insert(key.to_string(), (version, found.body));
    }
    content
}

/// A node of its own over a directory that was restored, started.
#[track_caller]
fn started(cluster: &mut Cluster, program: &'static str, words: &[&str]) -> usize {
    let name = format!("restored{}", cluster.nodes.len());
    let node = cluster.add(&name, &[]);
    node.program = program;
    let directory = node.directory.to_str().unwrap().to_owned();
    let restore = [&["restore", "-id", &name, "-data", &directory], words].concat();
    done(&restore);
    node.start();
    let index = cluster.nodes.len() - 1;
    wait_until("a leader of the restored cluster", || {
        cluster.nodes[index].status().is_some_and(|status| status.role == "leader")
    });
    index
}

fn file_in(cluster: &Cluster, name: &str) -> String {
    cluster.folder.path().join(name).to_str().unwrap().to_owned()
}

/// Sets all slots, or as many keys, but those of the writers.
fn fill(node: &Node) {
    let mut client = node.client().unwrap();
    let filler = "f".repeat(FILLER_BYTES);
    let slots: Vec<usize> = (0..4096).filter(|slot| slot % KEY_STEP != 0).collect();
    for some in slots.chunks(256) {
        for slot in some {
            client.send(&["SET", &slot.to_string(), &filler]).unwrap();
        }
        for _ in some {
            client.receive().unwrap();
        }
    }
}

/// Takes a full backup as a stream, and nothing of it for a while after its first bytes.
#[track_caller]
fn taken_slowly(address: &str, file: &str, wait: impl FnOnce()) -> Json {
    let mut backup = Command::new(PROGRAM)
        .args(["backup", "-json", "-addr", address, "-o", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stream = backup.stdout.take().unwrap();
    let mut first = vec![0; 1 << 16];
    stream.read_exact(&mut first).unwrap();
    wait();
    let mut file = File::create(file).unwrap();
    file.write_all(&first).unwrap();
    std::io::copy(&mut stream, &mut file).unwrap();
    let mut about = String::new();
    backup.stderr.take().unwrap().read_to_string(&mut about).unwrap();
    assert_eq!(backup.wait().unwrap().code(), Some(0), "{about}");
    json(&about)
}

/// Backups beside writes: a full one of a follower, an incremental one of the leader, one more of the
/// other follower. Every state between is compared with what was acknowledged up to its index.
fn backups_are_states_that_were(mut cluster: Cluster, path: &str) {
    let (leader, follower, other) = cluster.roles();
    let files = ["full", "first", "second"].map(|name| file_in(&cluster, name));
    let is_over = AtomicBool::new(false);
    fill(&cluster.nodes[leader]);
    let (history, taken) = std::thread::scope(|scope| {
        let writers = [follower, other].map(|index| {
            let (node, is_over) = (&cluster.nodes[index], &is_over);
            scope.spawn(move || write_until(node, usize::from(index == other), path, is_over))
        });
        let applied = || cluster.nodes[leader].status().map_or(0, |status| status.applied);
        let mut taken = Vec::new();
        for (nth, from) in [follower, leader, other].into_iter().enumerate() {
            let before = applied();
            wait_until("writes before a backup", || applied() > before + WRITES_MIN as u64);
            let address = cluster.nodes[from].client_address();
            let mut words = vec!["backup", "-json", "-addr", &address, "-o", &files[nth]];
            if nth > 0 {
                words.extend(["-since", &files[nth - 1]]);
            }
            let acknowledged = applied();
            let about = if nth == 0 {
                taken_slowly(&address, &files[nth], || {
                    let now = applied();
                    let what = "writes beside a backup that is half read";
                    wait_until(what, || applied() > now + WRITES_MIN as u64);
                })
            } else {
                json(&done(&words))
            };
            assert!(about["index"].as_u64().unwrap() >= acknowledged, "{about}");
            assert_eq!(about["node"], cluster.nodes[from].name.as_str());
            assert_eq!(about["full"], nth == 0, "{about}");
            taken.push(about);
        }
        let before = applied();
        wait_until("writes after the backups", || applied() > before + WRITES_MIN as u64);
        is_over.store(true, Ordering::Relaxed);
        let history: Vec<Written> =
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        (history, taken)
    });
    // Slots and keys were read while others changed: only with the log are they one state.
    assert!(taken[0]["entries"].as_u64() >= Some(WRITES_MIN as u64), "{taken:?}");
    assert_eq!(run(&["backup", "verify", &files[0]]).status.code(), Some(0), "a stream is a file");
    let now = content(&cluster.nodes[leader], path);
    for node in &mut cluster.nodes {
        node.stop();
    }
    for (count, about) in (1..).zip(&taken) {
        let restored = check_restored(&mut cluster, &files[..count], about, &history, path);
        assert_ne!(restored, now, "the backup is older than the end");
    }
}

/// Restores a backup, and those that it continues, and compares what a node serves of it.
#[track_caller]
fn check_restored(
    cluster: &mut Cluster,
    files: &[String],
    about: &Json,
    history: &[Written],
    path: &str,
) -> BTreeMap<String, (u64, String)> {
    let program = cluster.nodes[0].program;
    let index = about["index"].as_u64().unwrap();
    let mut words: Vec<&str> = files.iter().map(String::as_str).collect();
    words.extend(["-program", if program == KVSTORE { "kvstore" } else { "diskstore" }]);
    let restored = started(cluster, program, &words);
    let node = &cluster.nodes[restored];
    let state = content(node, path);
    assert_eq!(state, state_at(history, index), "{about}");
    let first = ask(node, "PUT", &format!("{path}/0"), "", "new");
    let first: u64 = first.header("diskstore-index").unwrap().parse().unwrap();
    assert!(first > index + (1 << 40), "no version of the old cluster is met again");
    if files.len() == 1 {
        // Earlier states than the last one are there as well.
        let to = about["exact_from"].as_u64().unwrap().midpoint(index);
        let text = to.to_string();
        words.extend(["-to", &text]);
        let earlier = started(cluster, program, &words);
        assert_eq!(content(&cluster.nodes[earlier], path), state_at(history, to), "at {to}");
    }
    state
}

#[test]
fn a_backup_of_slots_is_the_state_at_its_index() {
    backups_are_states_that_were(Cluster::with_geometry(&GEOMETRY, &[]), "/v1/slots");
}

#[test]
fn a_backup_of_keys_is_the_state_at_its_index() {
    backups_are_states_that_were(Cluster::of_kvstores(&[]), "/v1/keys");
}

/// One node, its own leader.
#[track_caller]
fn of_one(program: &'static str, more: &[&str]) -> Cluster {
    let mut cluster = Cluster::empty();
    cluster.add("node0", more).program = program;
    cluster.nodes[0].start();
    cluster.wait_voters(1);
    cluster
}

pub(crate) const SMALL: [&str; 4] = ["-slots", "64", "-value-size", "64"];

#[test]
fn others_join_a_restored_node_and_versions_go_on() {
    let mut cluster = of_one(crate::nodes::DISKSTORE, &SMALL);
    let node = &cluster.nodes[0];
    for slot in ["1", "2", "3"] {
        assert_eq!(ask(node, "PUT", &format!("/v1/slots/{slot}"), "", "old").status, 204);
    }
    assert_eq!(ask(node, "DELETE", "/v1/slots/2", "", "").status, 204);
    let version = ask(node, "GET", "/v1/slots/1", "", "").header("etag").unwrap().to_owned();
    let backup = file_in(&cluster, "backup");
    done(&["backup", "-addr", &node.client_address(), "-o", &backup]);
    // What a client sees of the old cluster after the backup is on no value of the new one.
    let later = ask(node, "PUT", "/v1/slots/1", "", "lost").header("etag").unwrap().to_owned();
    cluster.nodes[0].stop();
    let restored = started(&mut cluster, crate::nodes::DISKSTORE, &[&backup, "-slots", "128"]);
    let join = cluster.nodes[restored].raft_address();
    cluster.add("joiner", &["-join", &join]).start();
    cluster.nodes.swap_remove(0);
    cluster.wait_voters(2);
    let put = |node: &Node, version: &str, value: &str| {
        let mut client = Http::connect(node).unwrap();
        client.ask_if("PUT", "/v1/slots/1", version, value).unwrap()
    };
    let joiner = cluster.nodes.iter().find(|node| node.name == "joiner").unwrap();
    assert_eq!(put(joiner, &later, "wrong").status, 412);
    assert_eq!(put(joiner, &version, "right").status, 204, "a version from before the backup");
    cluster.wait_level();
    for node in &cluster.nodes {
        let local = |key| node.local(key).unwrap();
        assert_eq!(
            [local("1"), local("2"), local("3")].map(Option::unwrap_or_default),
            ["right", "", "old"]
        );
        assert_eq!(node.status().unwrap().slots, 128);
    }
    for index in 0..2 {
        cluster.nodes[index].kill();
        cluster.nodes[index].start();
    }
    cluster.wait_voters(2);
    assert_eq!(ask(&cluster.nodes[0], "GET", "/v1/slots/1", "", "").body, "right");
}

#[test]
fn what_cannot_be_restored_is_refused_and_leaves_nothing_behind() {
    let mut cluster = of_one(crate::nodes::DISKSTORE, &SMALL);
    let address = cluster.nodes[0].client_address();
    assert_eq!(ask(&cluster.nodes[0], "PUT", "/v1/slots/1", "", "x").status, 204);
    let [full, next, part] = ["full", "next", "part"].map(|name| file_in(&cluster, name));
    let words = done(&["backup", "-addr", &address, "-o", &full]);
    assert!(words.contains("full backup of 64 slots of 64 bytes, by node0: 1 slots"), "{words}");
    done(&["backup", "-addr", &address, "-o", &next, "-since", &full]);
    assert!(refused(2, &["backup", "-addr", &address, "-o", &full]).contains("is there already"));
    let index = json(&done(&["backup", "verify", "-json", &full]))["index"].as_u64().unwrap();
    let (beyond, index) = ((index + 1).to_string(), index.to_string());
    let ahead = refused(1, &["backup", "-addr", &address, "-o", &part, "-since", "999999"]);
    assert!(ahead.contains("index 999999 is ahead of this cluster"), "{ahead}");
    assert!(!Path::new(&part).exists());
    let target = file_in(&cluster, "target");
    let begin = ["restore", "-id", "new", "-data", &target];
    for (exit_code, more, expected) in [
        (2, vec![&*next], "name the backups that it continues before it"),
        (2, vec![&*full, &*full], "nothing belongs before it"),
        (
            2,
            vec![&*full, "-program", "kvstore"],
            "is a backup of slots (program diskstore); give -program diskstore",
        ),
        (2, vec![&*full, "-slots", "63"], "the backup has 64 slots; give as many or more"),
        (2, vec![&*full, "-to", &beyond], &*format!("knows the state at index {index} to {index}")),
        (2, vec![&*full, "-id", "../x"], "-id `../x`"),
        (1, vec!["/nowhere"], "/nowhere"),
        (1, vec![PROGRAM], "is none of diskstore's files"),
    ] {
        let words = refused(exit_code, &[&begin[..], &more].concat());
        assert!(words.contains(expected), "{more:?}: {words}");
    }
    let whole = std::fs::read(&full).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    for bytes in [&whole[..whole.len() - 1], &whole[..whole.len() / 2], &damaged] {
        std::fs::write(&part, bytes).unwrap();
        assert!(refused(1, &[&begin[..], &[&part]].concat()).contains("is corrupt at byte"));
        assert!(refused(1, &["backup", "verify", &full, &part]).contains("1 of the files"));
    }
    assert!(!Path::new(&target).exists(), "nothing was made of any of these");
    let own = cluster.nodes[0].directory.to_str().unwrap().to_owned();
    let into = |directory: &str| refused(2, &["restore", "-id", "n", "-data", directory, &full]);
    assert!(into(&own).contains("is there already"), "the directory of a running node");
    cluster.nodes[0].stop();
    assert!(into(&own).contains("is there already"), "that of one that was stopped");
    let gone = refused(1, &["backup", "-addr", &address, "-o", &target]);
    assert!(gone.contains("no node answers") && !Path::new(&target).exists(), "{gone}");
}

#[test]
fn a_restore_that_was_cut_off_keeps_nodes_from_starting_and_is_repeated() {
    let mut cluster = of_one(crate::nodes::DISKSTORE, &SMALL);
    assert_eq!(ask(&cluster.nodes[0], "PUT", "/v1/slots/1", "", "x").status, 204);
    let backup = file_in(&cluster, "backup");
    done(&["backup", "-addr", &cluster.nodes[0].client_address(), "-o", &backup]);
    cluster.nodes[0].stop();
    let restored = started(&mut cluster, crate::nodes::DISKSTORE, &[&backup]);
    let node = &mut cluster.nodes[restored];
    node.stop();
    // As a crash leaves it that comes before the end.
    File::create(node.directory.join("RESTORING")).unwrap();
    let words = node.must_refuse(1);
    assert!(words.contains("a restore was not finished here"), "{words}");
    let directory = node.directory.to_str().unwrap();
    done(&["restore", "-id", &node.name, "-data", directory, &backup]);
    assert!(!node.directory.join("RESTORING").exists());
    node.start();
    wait_until("a leader", || node.status().is_some_and(|status| status.role == "leader"));
    assert_eq!(node.local("1").unwrap().as_deref(), Some("x"));
}

#[test]
fn deletes_that_are_forgotten_ask_for_a_full_backup() {
    // An eighth of the memory for deleted keys: 2 MiB.
    let more = ["-memory-mib", "16", "-checkpoint-mib", "1", "-keep-mib", "0"];
    let cluster = of_one(KVSTORE, &more);
    let node = &cluster.nodes[0];
    let address = node.client_address();
    let long = "k".repeat(60_000);
    for nth in 0..4 {
        node.asked(&["SET", &format!("{long}{nth}"), "x"]);
    }
    let [full, late, kept] = ["full", "late", "kept"].map(|name| file_in(&cluster, name));
    let about = json(&done(&["backup", "-json", "-addr", &address, "-o", &full]));
    node.asked(&["DEL", &format!("{long}0")]);
    done(&["backup", "-addr", &address, "-o", &kept, "-since", &full]);
    let mut words = String::new();
    wait_until("deletes to be forgotten", || {
        for nth in 0..50 {
            node.asked(&["SET", &format!("{long}more{nth}"), "x"]);
            node.asked(&["DEL", &format!("{long}more{nth}")]);
        }
        let run = run(&["backup", "-addr", &address, "-o", &late, "-since", &full]);
        words = String::from_utf8(run.stderr).unwrap();
        drop(std::fs::remove_file(&late));
        run.status.code() == Some(1)
    });
    assert!(words.contains("are forgotten here"), "{words}");
    assert!(words.contains(&format!("after {} cannot be said", about["index"])), "{words}");
    assert!(words.contains("take a full backup"), "{words}");
    let mut cluster = cluster;
    let restored = started(&mut cluster, KVSTORE, &["-program", "kvstore", &full, &kept]);
    let node = &cluster.nodes[restored];
    for (nth, held) in [(0, None), (1, Some("x")), (2, Some("x")), (3, Some("x"))] {
        assert_eq!(node.local(&format!("{long}{nth}")).unwrap().as_deref(), held, "key {nth}");
    }
}

/// Slots that hold more than the buffers between a node and a client take.
pub(crate) const LARGE: [&str; 4] = ["-slots", "640", "-value-size", "65536"];

/// A node with more than the buffers between it and a client take.
#[track_caller]
fn of_one_filled() -> Cluster {
    let cluster = of_one(crate::nodes::DISKSTORE, &LARGE);
    fill_large(&cluster.nodes[0], &[]);
    cluster
}

/// Sets all of [`LARGE`], behind some words.
#[track_caller]
pub(crate) fn fill_large(node: &Node, first: &[&str]) {
    let mut client = node.client().unwrap();
    let value = "v".repeat(65_536);
    if !first.is_empty() {
        client.send(first).unwrap();
        client.receive().unwrap();
    }
    for slot in 0..640 {
        client.send(&["SET", &slot.to_string(), &value]).unwrap();
    }
    for _ in 0..640 {
        client.receive().unwrap();
    }
}

/// Asks for a backup and takes its first bytes only.
pub(crate) fn begun(node: &Node, header: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(node.client_address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /v1/backup HTTP/1.1\r\nhost: localhost\r\n{header}\r\n").unwrap();
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    assert_eq!(line, "HTTP/1.1 200 OK\r\n");
    stream
}

#[test]
fn a_node_killed_in_the_middle_leaves_an_error_and_no_file() {
    let mut cluster = of_one_filled();
    let path = PathBuf::from(file_in(&cluster, "backup"));
    // A pipe stands where the file is written, so that it is written only as far as it is read here.
    let part = path.with_file_name("backup.part");
    mknodat(CWD, &part, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let mut backup = Command::new(PROGRAM)
        .args(["backup", "-addr", &cluster.nodes[0].client_address(), "-o"])
        .arg(&path)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = File::open(&part).unwrap();
    let mut first = vec![0; 1 << 20];
    pipe.read_exact(&mut first).unwrap();
    assert!(first.starts_with(b"DSTBACKP"));
    cluster.nodes[0].kill();
    let rest = std::io::copy(&mut pipe, &mut std::io::sink()).unwrap();
    assert!(rest < 40 << 20, "{rest} bytes came all the same");
    let mut words = String::new();
    backup.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    assert_eq!(backup.wait().unwrap().code(), Some(1), "{words}");
    assert!(words.contains("broke off in the middle"), "{words}");
    assert!(!path.exists() && !part.exists());
}

#[test]
fn a_member_writes_one_backup_at_a_time_and_only_as_fast_as_it_is_taken() {
    let cluster = of_one_filled();
    let node = &cluster.nodes[0];
    let first = begun(node, "");
    let second = ask(node, "GET", "/v1/backup", "", "");
    assert_eq!(second.status, 429, "{second:?}");
    assert!(second.body.contains("another backup already"), "{second:?}");
    assert_eq!(ask(node, "PUT", "/v1/slots/1", "", "goes on").status, 204);
    drop(first); // whoever takes nothing any more holds nothing
    let file = file_in(&cluster, "backup");
    let words = ["backup", "-addr", &node.client_address(), "-o", &file];
    wait_until("the next backup", || run(&words).status.success());
    for (query, status, words) in [
        ("since=x", 400, "since is a log index"),
        ("since=1&base=12", 400, "base is an id of 32 hexadecimal digits"),
        ("since=1&cluster=zz", 400, "cluster is an id"),
        ("since=1&cluster=00000000000000000000000000000001", 409, "take a full backup"),
        ("since=1&since=2", 400, "there twice"),
        ("other=1", 400, "unknown query parameter"),
    ] {
        let refused = ask(node, "GET", &format!("/v1/backup?{query}"), "", "");
        assert_eq!(refused.status, status, "{refused:?}");
        assert!(refused.body.contains(words), "{query}: {refused:?}");
    }
    assert_eq!(ask(node, "POST", "/v1/backup", "", "").status, 405);
}

#[test]
fn a_damaged_slot_ends_a_backup_and_is_named() {
    let mut cluster = of_one(crate::nodes::DISKSTORE, &SMALL);
    assert_eq!(ask(&cluster.nodes[0], "PUT", "/v1/slots/1", "", "value").status, 204);
    cluster.nodes[0].stop();
    for name in ["slots.dat", "double.dat"] {
        let path = cluster.nodes[0].directory.join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(5).position(|some| some == b"value").unwrap();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    cluster.nodes[0].start();
    cluster.wait_voters(1);
    let (address, file) = (cluster.nodes[0].client_address(), file_in(&cluster, "backup"));
    let words = refused(1, &["backup", "-addr", &address, "-o", &file]);
    assert!(words.contains("cannot finish the backup") && words.contains("slots.dat"), "{words}");
    assert!(!Path::new(&file).exists());
    assert_eq!(ask(&cluster.nodes[0], "PUT", "/v1/slots/1", "", "whole").status, 204);
    done(&["backup", "-addr", &address, "-o", &file]);
}

#[test]
fn a_full_disk_is_told_by_whoever_takes_the_backup() {
    let cluster = of_one(crate::nodes::DISKSTORE, &SMALL);
    let address = cluster.nodes[0].client_address();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let backup = Command::new(PROGRAM)
        .args(["backup", "-addr", &address, "-o", "-"])
        .stdout(full)
        .output()
        .unwrap();
    let words = String::from_utf8(backup.stderr).unwrap();
    assert_eq!(backup.status.code(), Some(1), "{words}");
    assert!(words.contains("No space left on device"), "{words}");
}
