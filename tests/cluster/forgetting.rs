//! `leaderless`: what was deleted is gone from all nodes once nothing happens any more, from their files, too; and nodes that
//! come back agree with the others. On real processes, which do in seconds what they do in minutes.

use std::path::Path;

use serde_json::Value as Json;

use crate::nodes::{wait_for, wait_until};
use crate::registers::Registers;
use crate::resp::{Client, Value};

/// Pulls five times a second, fences 1.2 s back, files cleaned after 6 s, and nodes left out after 12 s.
const PACE_TIMES: u32 = 50;
const COUNT: usize = 30;
const BLOCK: usize = 4096;

/// Carries out an operation that a floor which moves, or a node that has just died, may fail.
fn ask(registers: &Registers, node: usize, words: &[&str]) {
    let address = &registers.addresses[node];
    let asked = || Client::connect(address).ok()?.ask(words).ok();
    wait_for("an operation", asked);
}

fn write_all(registers: &Registers) {
    for nth in 0..COUNT {
        for name in ["gone", "kept"] {
            let (key, value) = (format!("{name}-key-{nth}"), format!("{name}-value-{nth}"));
            ask(registers, nth % 3, &["DISKSTORE", "WRITE", "all", &key, &value]);
        }
    }
}

fn delete(registers: &Registers, nodes: usize) {
    for nth in 0..COUNT {
        let key = format!("gone-key-{nth}");
        ask(registers, nth % nodes, &["DISKSTORE", "ERASE", "quorum", &key]);
    }
}

/// Whether a node has forgotten all that was deleted.
fn has_forgotten(status: &Json) -> bool {
    status["tombstones"] == 0 && status["keys"] == COUNT
}

fn digest(registers: &Registers, node: usize, other: usize) -> Json {
    let status = registers.status(node);
    let peers = status["peers"].as_array().unwrap();
    let id = (other + 1).to_string();
    peers.iter().find(|peer| peer["id"] == id.as_str()).unwrap()["digest"].clone()
}

/// Waits until all nodes hold the same, as their sums say, and nothing that was deleted.
fn wait_alike(registers: &Registers) {
    let nodes = 0..registers.addresses.len();
    for node in nodes.clone() {
        wait_until("it has forgotten", || has_forgotten(&registers.status(node)));
        for other in nodes.clone().filter(|other| *other != node) {
            let sums = || [digest(registers, node, other), digest(registers, other, node)];
            wait_until("sums are alike", || {
                let [one, two] = sums();
                one == two && one != "0000000000000000"
            });
        }
    }
    for node in nodes {
        let mut client = Client::connect(&registers.addresses[node]).unwrap();
        for nth in 0..COUNT {
            let mut value = |name: &str| {
                let key = format!("{name}-key-{nth}");
                let answer = client.ask(&["DISKSTORE", "READ", "one", &key]);
                let Ok(Value::Array(parts)) = answer else { panic!("{key}: {answer:?}") };
                parts.into_iter().nth(1).and_then(Value::text)
            };
            assert_eq!((value("gone"), value("kept")), (None, Some(format!("kept-value-{nth}"))));
        }
    }
}

/// Whether any file below a folder has these bytes.
fn is_in_files(folder: &Path, wanted: &str) -> bool {
    std::fs::read_dir(folder).unwrap().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return is_in_files(&path, wanted);
        }
        let Ok(bytes) = std::fs::read(&path) else { return false }; // it went meanwhile
        let blocks = bytes.chunks(BLOCK).filter(|block| **block != [0; BLOCK][..block.len()]);
        let filled = blocks.collect::<Vec<_>>().concat();
        filled.windows(wanted.len()).any(|window| window == wanted.as_bytes())
    })
}

#[test]
fn after_quiet_what_was_deleted_is_gone_from_all_nodes_and_their_files() {
    let registers = Registers::start_fast(3, PACE_TIMES);
    write_all(&registers);
    delete(&registers, 3);
    wait_alike(&registers);
    for node in 0..3 {
        let directory = registers.directory(node);
        let is_in = |wanted: &str| is_in_files(Path::new(&directory), wanted);
        assert!(is_in("kept-key-1") && is_in("kept-value-1"), "it is looked for where it would be");
        let is_cleaned = || registers.status(node)["has_forgotten_in_files"] == false;
        wait_until("its files are cleaned", is_cleaned);
        wait_until("old files are gone", || !is_in("gone-value") && !is_in("gone-key"));
    }
    wait_alike(&registers);
}

#[test]
fn nodes_that_were_away_past_forgetting_or_lost_their_disk_agree_with_the_others_again() {
    let mut registers = Registers::start_fast(3, PACE_TIMES);
    write_all(&registers);
    registers.kill(2);
    delete(&registers, 2);
    for node in 0..2 {
        wait_until("it has forgotten without the third", || {
            let status = registers.status(node);
            has_forgotten(&status) && status["left_out"] == serde_json::json!(["3"])
        });
    }
    registers.start(2);
    wait_until("it is ready again", || registers.is_ready(2));
    wait_alike(&registers);
    assert_eq!(registers.status(2)["losses"], 1);
    registers.kill(1);
    std::fs::remove_dir_all(registers.directory(1)).unwrap();
    registers.start(1);
    wait_until("it is ready again", || registers.is_ready(1));
    wait_alike(&registers);
    assert_eq!(registers.status(1)["losses"], 2);
}
