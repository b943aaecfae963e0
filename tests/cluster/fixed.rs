//! Clusters whose members a file lists: started in any order, killed and wiped while they found, and
//! never two out of one file.

use std::fmt::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::harness::host;
use crate::nodes::{Cluster, KVSTORE, wait_for, wait_until};
use crate::resp::{Client, Value};

const NAMES: [&str; 3] = ["a", "b", "c"];
/// Rounds in which nodes are killed while they found.
const KILL_ROUNDS: u64 = 12;

fn ok() -> Value {
    Value::Simple("OK".into())
}

/// Three nodes with one file, none of them started.
fn fixed() -> Cluster {
    let mut cluster = Cluster::empty();
    let file = cluster.folder.path().join("cluster.yml").display().to_string();
    for name in NAMES {
        cluster.add(name, &["-slots", "4096", "-value-size", "256", "-cluster", &file]);
    }
    let mut text = "servers:\n".to_owned();
    for node in &cluster.nodes {
        writeln!(text, "  {}: {}", node.name, node.raft_address()).unwrap();
    }
    text.push_str("httpServers:\n");
    for node in &cluster.nodes {
        writeln!(text, "  {}: {}", node.name, node.client_address()).unwrap();
    }
    std::fs::write(file, text).unwrap();
    cluster
}

fn cluster_id(cluster: &Cluster, index: usize) -> String {
    wait_for("a status", || cluster.nodes[index].status()).cluster_id
}

/// Waits until all three run, vote, and are of one cluster; gives its id.
#[track_caller]
fn wait_one(cluster: &Cluster) -> String {
    cluster.wait_voters(3);
    let ids: Vec<String> = (0..3).map(|index| cluster_id(cluster, index)).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    ids[0].clone()
}

fn words_bytes(cluster: &Cluster) -> Vec<usize> {
    cluster.nodes.iter().map(|node| node.words().len()).collect()
}

/// Waits until a node asks the third to be let in, and that one has missed the others for long; the
/// node founds nothing, and serves nobody.
#[track_caller]
fn wait_joining(cluster: &Cluster, index: usize, before: &[usize]) {
    let words = |index: usize| cluster.nodes[index].words().split_off(before[index]);
    wait_until("it asks to join", || words(index).contains("not joined yet"));
    wait_until("the third misses the others", || words(2).contains("no majority answers"));
    assert!(!words(index).contains("founding cluster"), "{}", words(index));
    assert!(cluster.nodes[index].status().is_none(), "it serves nobody");
}

#[test]
fn a_majority_founds_in_any_order_and_who_comes_later_joins() {
    let mut cluster = fixed();
    cluster.nodes[2].start();
    wait_until("one that waits", || cluster.nodes[2].words().contains("2 are needed"));
    cluster.nodes[1].start();
    cluster.wait_voters(2);
    assert_eq!(cluster.nodes[1].asked(&["SET", "1", "one"]), ok());
    cluster.nodes[0].start();
    let id = wait_one(&cluster);
    assert_eq!(cluster.nodes[0].asked(&["GET", "1"]).text().as_deref(), Some("one"));
    for node in &mut cluster.nodes {
        node.stop();
    }
    for node in cluster.nodes.iter_mut().rev() {
        node.start();
    }
    assert_eq!(wait_one(&cluster), id);
    assert_eq!(cluster.nodes[2].asked(&["GET", "1"]).text().as_deref(), Some("one"));
    assert!(!cluster.nodes[1].directory.join("FOUNDING").exists());
}

#[test]
fn nodes_that_are_killed_while_they_found_found_one_cluster() {
    let mut cluster = fixed();
    let mut pause_ms = 40;
    for round in 0..KILL_ROUNDS {
        for node in &mut cluster.nodes {
            node.start();
        }
        // As the moments of a founding are: sooner in the first rounds, closer together.
        std::thread::sleep(Duration::from_millis(pause_ms));
        pause_ms += 70;
        for index in 0..3 {
            if !(index + round).is_multiple_of(3) || round + 1 == KILL_ROUNDS {
                let index = usize::try_from(index).unwrap();
                cluster.nodes[index].kill();
            }
        }
        for node in &mut cluster.nodes {
            if node.is_running() {
                node.kill();
            }
        }
    }
    for node in &mut cluster.nodes {
        node.start();
    }
    wait_one(&cluster);
    assert_eq!(cluster.nodes[0].asked(&["SET", "1", "one"]), ok());
    assert_eq!(cluster.nodes[2].asked(&["GET", "1"]).text().as_deref(), Some("one"));
}

#[test]
fn the_first_of_the_file_is_wiped_while_they_found() {
    let mut cluster = fixed();
    for (round, pause_ms) in [150, 300, 500, 800].into_iter().enumerate() {
        for node in &mut cluster.nodes {
            node.start();
        }
        std::thread::sleep(Duration::from_millis(pause_ms));
        cluster.nodes[0].kill();
        cluster.wipe(0);
        cluster.nodes[0].start();
        let id = wait_one(&cluster);
        assert_eq!(cluster.nodes[0].asked(&["SET", "1", &round.to_string()]), ok());
        for index in 0..3 {
            assert_eq!(cluster_id(&cluster, index), id);
            cluster.nodes[index].kill();
            cluster.wipe(index);
        }
    }
}

/// It has forgotten what it promised: whoever has not is asked.
#[test]
fn a_wiped_member_founds_nothing_while_another_has_the_cluster() {
    let mut cluster = fixed();
    for node in &mut cluster.nodes {
        node.start();
    }
    let id = wait_one(&cluster);
    assert_eq!(cluster.nodes[0].asked(&["SET", "1", "one"]), ok());
    cluster.nodes[0].kill();
    cluster.wipe(0);
    cluster.nodes[0].start();
    assert_eq!(wait_one(&cluster), id);
    assert_eq!(cluster.nodes[0].asked(&["GET", "1"]).text().as_deref(), Some("one"));

    // Two of three are away, and one of these has forgotten.
    cluster.wait_level();
    cluster.nodes[0].kill();
    cluster.nodes[1].kill();
    cluster.wipe(0);
    let before = words_bytes(&cluster);
    cluster.nodes[0].start();
    wait_joining(&cluster, 0, &before);
    cluster.nodes[1].start();
    assert_eq!(wait_one(&cluster), id);
    assert_eq!(cluster.nodes[0].asked(&["GET", "1"]).text().as_deref(), Some("one"));
}

#[test]
fn a_wiped_majority_founds_nothing_while_the_rest_can_be_asked() {
    let mut cluster = fixed();
    for node in &mut cluster.nodes {
        node.start();
    }
    let id = wait_one(&cluster);
    assert_eq!(cluster.nodes[0].asked(&["SET", "1", "one"]), ok());
    cluster.wait_level();
    for index in 0..2 {
        cluster.nodes[index].kill();
        cluster.wipe(index);
    }
    let before = words_bytes(&cluster);
    for node in &mut cluster.nodes[..2] {
        node.start();
    }
    for index in 0..2 {
        wait_joining(&cluster, index, &before);
    }
    assert_eq!(cluster_id(&cluster, 2), id);
    assert_eq!(cluster.nodes[2].local("1").unwrap().as_deref(), Some("one"), "nothing is lost");
}

/// Nobody who is there can know of the first cluster. The one who does is not mixed into the second.
#[test]
fn a_wiped_majority_that_is_alone_founds_another_cluster_and_mixes_with_nobody() {
    let mut cluster = fixed();
    for node in &mut cluster.nodes {
        node.start();
    }
    let first = wait_one(&cluster);
    assert_eq!(cluster.nodes[0].asked(&["SET", "1", "one"]), ok());
    cluster.wait_level();
    cluster.nodes[2].stop(); // with a checkpoint: without a leader nothing behind one is read
    for index in 0..2 {
        cluster.nodes[index].kill();
        cluster.wipe(index);
        cluster.nodes[index].start();
    }
    wait_until("two that vote", || {
        (0..2).all(|index| {
            cluster.nodes[index]
                .status()
                .is_some_and(|status| status.leader.is_some() && status.members.len() == 2)
        })
    });
    let second = cluster_id(&cluster, 0);
    assert_ne!(second, first);
    assert_eq!(cluster.nodes[0].asked(&["SET", "1", "another"]), ok());
    let before = cluster.nodes[2].words().len();
    cluster.nodes[2].start();
    wait_until("it says so", || {
        let words = cluster.nodes[2].words().split_off(before);
        words.contains(&format!("this is a member of cluster {second}"))
    });
    assert_eq!(cluster_id(&cluster, 2), first);
    assert_eq!(
        cluster.nodes[2].local("1").unwrap().as_deref(),
        Some("one"),
        "what it had is there"
    );
    assert_eq!(cluster.nodes[1].asked(&["GET", "1"]).text().as_deref(), Some("another"));
    assert_eq!(cluster.nodes[1].status().unwrap().members.len(), 2);
    // Without what it had it is one of them.
    cluster.nodes[2].kill();
    cluster.wipe(2);
    cluster.nodes[2].start();
    assert_eq!(wait_one(&cluster), second);
}

#[test]
fn nodes_with_other_files_or_flags_found_nothing_together() {
    let mut cluster = fixed();
    let other = cluster.folder.path().join("other.yml").display().to_string();
    let text = std::fs::read_to_string(cluster.folder.path().join("cluster.yml")).unwrap();
    let away = format!("  c: {}", cluster.nodes[2].raft_address());
    std::fs::write(&other, text.replace(&away, "  c: 127.0.0.1:1")).unwrap();
    let usual = cluster.nodes[1].arguments.clone();
    *cluster.nodes[1].arguments.last_mut().unwrap() = other;
    for node in &mut cluster.nodes[..2] {
        node.start();
    }
    let says = |cluster: &Cluster, index: usize, what: &str| {
        wait_until(what, || cluster.nodes[index].words().contains(what));
    };
    says(&cluster, 0, "b has another file: it lists c at 127.0.0.1:1");
    assert!(cluster.nodes.iter().all(|node| node.status().is_none()));
    cluster.nodes[1].kill();
    cluster.nodes[1].arguments = usual;
    cluster.nodes[1].arguments.extend(["-slots".to_owned(), "64".to_owned()]);
    cluster.nodes[1].start();
    says(&cluster, 0, "b has another file: -slots 64 there, 4096 here");
    cluster.nodes[1].kill();
    cluster.nodes[1].arguments.truncate(6);
    cluster.nodes[1].start();
    cluster.wait_voters(2);
}

#[test]
fn a_node_that_has_promised_something_is_not_started_without_its_file() {
    let mut cluster = fixed();
    for node in &mut cluster.nodes[..2] {
        node.start();
    }
    wait_until("promises", || cluster.nodes[0].directory.join("FOUNDING").exists());
    cluster.nodes[0].kill();
    if cluster.nodes[0].directory.join("IDENTITY").exists() {
        return; // it was quicker than the kill
    }
    cluster.nodes[0].arguments.truncate(4);
    let words = cluster.nodes[0].must_refuse(1);
    assert!(words.contains("start it with -cluster FILE"), "{words}");
}

/// Programs that are killed at the end.
struct Running(Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

#[test]
fn the_line_of_kvstore_starts_a_cluster() {
    let _permit = Cluster::empty();
    let folder = tempfile::tempdir().unwrap();
    let hosts: Vec<String> = NAMES.iter().map(|_| host()).collect();
    let server = |(nth, host): (usize, &String)| {
        format!("{{\"mypid\": {}, \"url\": \"{host}:9000\"}}", nth + 1)
    };
    let servers: Vec<String> = hosts.iter().enumerate().map(server).collect();
    let text = format!("{{\"object\": {{\"total\": 3, \"Servers\": [{}]}}}}", servers.join(","));
    std::fs::write(folder.path().join("config.json"), text).unwrap();
    let start = |pid: &str| {
        let (log, data) = (format!("log{pid}"), format!("data{pid}"));
        let mut command = Command::new(KVSTORE);
        command.args([pid, "config.json", &log, &data]).current_dir(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let _running = Running(["3", "1", "2"].map(start).into());
    let ask = |nth: usize, words: &[&str]| {
        wait_for("an answer", || {
            Client::connect(&format!("{}:19000", hosts[nth])).ok()?.ask(words).ok()
        })
    };
    assert_eq!(ask(1, &["SET", "name", "value"]), ok());
    assert_eq!(ask(2, &["GET", "name"]).text().as_deref(), Some("value"));
    wait_until("a record", || {
        let record = folder.path().join("log1").join("log-file-1.log");
        std::fs::read(record).is_ok_and(|bytes| !bytes.is_empty())
    });
    assert!(folder.path().join("data1").join("IDENTITY").exists());
}
