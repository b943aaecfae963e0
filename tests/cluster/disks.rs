//! Disks that are full, that fail, and that hold other bytes than were written.

use std::path::{Path, PathBuf};
use std::process::Command;

use diskstore_storage::slots::{DATA_OFFSET, DOUBLE_FILE, Geometry, SLOTS_FILE};

use crate::load::{Filler, History, Load};
use crate::logs::{
    BLOCK_BYTES, Batch, HEADER_BYTES, NONCE_BYTES, NONCE_OFFSET, batches, overwrite,
};
use crate::nodes::{Cluster, Node, wait_for, wait_until};
use crate::resp::{Failure, Value};
use crate::skipped::note_skipped;
use crate::strace::Injector;

/// Acknowledged writes before and after a fault.
const WRITES: u64 = 100;

/// A file system in memory that can be too small; needs root.
pub(crate) struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// `None`, loudly, where it cannot be mounted.
    pub(crate) fn mount(path: &Path, mib: u32) -> Option<SmallDisk> {
        std::fs::create_dir(path).unwrap();
        let options = format!("size={mib}m");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path);
        if command.status().is_ok_and(|status| status.success()) {
            return Some(SmallDisk { path: path.to_owned() });
        }
        note_skipped("no tmpfs can be mounted, so no disk is full");
        None
    }

    fn grow(&self, mib: u32) {
        let options = format!("remount,size={mib}m");
        let status = Command::new("mount").args(["-o", &options]).arg(&self.path).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.path).status());
    }
}

/// Sets slots until one is refused; gives the refusal.
#[track_caller]
fn set_until_refused(node: &Node) -> Failure {
    const REQUESTS_MAX: usize = 2_000;
    let value = "v".repeat(16_000);
    let mut client = node.client().unwrap();
    for request in 0..REQUESTS_MAX {
        let keys: Vec<String> = (0..16).map(|key| (request * 16 % 128 + key).to_string()).collect();
        let mut words = vec!["MSET"];
        words.extend(keys.iter().flat_map(|key| [key.as_str(), &value]));
        if let Err(failure) = client.ask(&words) {
            return failure;
        }
    }
    panic!("the log never ran out of space");
}

#[test]
fn a_disk_that_is_full_refuses_a_start_and_writes_but_no_reads() {
    let mut cluster = Cluster::empty();
    let place = cluster.folder.path().join("small");
    let Some(disk) = SmallDisk::mount(&place, 40) else { return };
    let bounds = ["-checkpoint-mib", "1024", "-keep-mib", "1024"];
    let node =
        cluster.add("node0", &[&["-slots", "256", "-value-size", "16000"], &bounds[..]].concat());
    node.directory = place.join("data");

    // Too small for the log.
    let words = node.must_refuse(1);
    assert!(words.contains("no space for") && words.contains("wal"), "{words}");
    // Room for a segment, not for the next: no checkpoint can free the only one.
    disk.grow(100);
    node.start();
    let is_full = |failure: &Failure| matches!(failure, Failure::Refused(text) if text.starts_with("NO_SPACE"));
    wait_until("NO_SPACE", || {
        node.ask(&["SET", "200", "before"]).is_err_and(|failure| is_full(&failure))
    });
    let before = node.ask(&["GET", "200"]).unwrap();
    assert!(is_full(&node.ask(&["SET", "200", "refused"]).unwrap_err()));
    assert_eq!(node.ask(&["GET", "200"]).unwrap(), before);
    let status = wait_for("a status", || node.status());
    assert!(status.refusals.iter().any(|refusal| refusal.reason.contains("NO_SPACE")));
    // Room for two, not for a third: a checkpoint gives back the first, though much is to be kept.
    disk.grow(150);
    assert_eq!(node.asked(&["SET", "200", "before"]), Value::Simple("OK".into()));
    let failure = set_until_refused(node);
    assert!(is_full(&failure), "{failure:?}");
    assert_eq!(node.ask(&["GET", "200"]).unwrap().text().as_deref(), Some("before"));
    wait_until("room for writes", || node.ask(&["SET", "200", "after"]).is_ok());
    node.kill();
    node.start();
    assert_eq!(node.asked(&["GET", "200"]).text().as_deref(), Some("after"));
    node.stop();
    drop(cluster);
    drop(disk);
}

#[test]
fn a_node_whose_disk_fails_stops_and_the_others_go_on() {
    let mut cluster = Cluster::of_three(&["-checkpoint-mib", "1", "-keep-mib", "0"]);
    let history = History::new();
    let load = Load::start(&cluster, &history);
    let filler = Filler::start(&cluster);
    let writes = "pwrite64,pwritev,pwritev2";
    let (leader, follower, _) = cluster.roles();
    for (index, calls) in [(follower, writes), (leader, writes), (follower, "fdatasync,fsync")] {
        load.wait_more(WRITES);
        let Some(injector) = Injector::fail(&cluster.nodes[index], calls) else { return };
        let before = cluster.nodes[index].words().len();
        let status = cluster.nodes[index].wait_exit();
        drop(injector);
        let words = cluster.nodes[index].words().split_off(before);
        assert_eq!(status.code(), Some(1), "{words}");
        assert!(words.contains("os error 5"), "{words}");
        load.wait_more(WRITES);
        cluster.nodes[index].start();
        cluster.wait_voters(3);
    }
    filler.stop();
    load.wait_more(WRITES);
    load.stop();
    history.check_everywhere(&cluster);
}

/// F15: the page is gone, and the kernel says so by a signal.
#[test]
fn a_node_whose_data_file_is_cut_stops_and_names_file_offset_and_slot() {
    const SLOT: u64 = 4_000;
    let mut cluster = Cluster::empty();
    let node = cluster.add("node0", &["-slots", "4096", "-value-size", "1000"]);
    node.start();
    node.asked(&["SET", &SLOT.to_string(), "gone"]);
    node.asked(&["SET", "7", "kept"]);
    // Before the first checkpoint there is nothing in the file, and it is not mapped.
    node.stop();
    node.start();
    node.asked(&["DBSIZE"]); // everything was read once
    let path = node.directory.join("slots.dat");
    // A slot has 1,024 bytes with its header: four of them make a page.
    let offset = DATA_OFFSET + SLOT * 1_024;
    std::fs::File::options().write(true).open(&path).unwrap().set_len(offset - 4096).unwrap();
    assert_eq!(node.asked(&["GET", "7"]).text().as_deref(), Some("kept"));
    node.ask(&["GET", &SLOT.to_string()]).unwrap_err();
    let status = node.wait_exit();
    let words = node.words();
    assert_eq!(status.code(), Some(1), "{words}");
    let place = format!("byte {offset} of {}, in slot {SLOT}, cannot be read", path.display());
    assert!(words.contains(&place) && words.contains("-join"), "{place}: {words}");
}

#[test]
fn what_lies_behind_the_end_of_a_log_is_no_part_of_it() {
    let mut cluster = Cluster::of_three(&[]);
    let history = History::new();
    let load = Load::start(&cluster, &history);
    load.wait_more(WRITES);
    for node in &mut cluster.nodes {
        node.kill();
    }
    load.stop();
    for (index, node) in cluster.nodes.iter().enumerate() {
        let batches = batches(&node.directory);
        let last = batches.last().unwrap();
        let behind = match index {
            // Nothing that was ever written by a node.
            0 => vec![0xa5; 3 * BLOCK_BYTES],
            // A batch of before once more.
            1 => {
                let bytes = std::fs::read(&last.path).unwrap();
                bytes[last.offset..last.offset + last.bytes].to_vec()
            }
            // The next batch, half of it written.
            _ => torn_batch(last),
        };
        overwrite(&last.path, last.offset + last.bytes, &behind);
    }
    for node in &mut cluster.nodes {
        node.start();
    }
    cluster.wait_voters(3);
    let words = cluster.nodes[2].words();
    assert!(words.contains("torn end of") && words.contains(".segment at byte"), "{words}");
    history.check(&cluster);
    let load = Load::start(&cluster, &history);
    load.wait_more(WRITES);
    load.stop();
    // What was cut stays cut.
    for node in &mut cluster.nodes {
        node.kill();
        node.start();
    }
    cluster.wait_voters(3);
    history.check(&cluster);
}

/// The header of the batch behind this one, which says more than follows it.
fn torn_batch(last: &Batch) -> Vec<u8> {
    let mut batch = b"dstbatch".to_vec();
    for field in [last.segment, last.sequence + 1, last.sequence] {
        batch.extend(field.to_le_bytes());
    }
    for field in [6_000_u32, 10, 0xdead_beef, 0] {
        batch.extend(field.to_le_bytes());
    }
    let segment = std::fs::read(&last.path).unwrap();
    batch.extend_from_slice(&segment[last.offset + NONCE_OFFSET..][..NONCE_BYTES]);
    batch.resize(BLOCK_BYTES, 0x11);
    batch
}

#[test]
fn a_node_whose_acknowledged_log_was_damaged_refuses_to_start_and_says_where() {
    let mut cluster = Cluster::of_three(&[]);
    let history = History::new();
    let load = Load::start(&cluster, &history);
    load.wait_more(WRITES);
    let (_, follower, _) = cluster.roles();
    cluster.nodes[follower].kill();
    let batches = batches(&cluster.nodes[follower].directory);
    let damaged =
        &batches[batches.len() / 2..].iter().find(|batch| batch.records_bytes > 0).unwrap();
    let at = damaged.offset + HEADER_BYTES + damaged.records_bytes / 2;
    let byte = std::fs::read(&damaged.path).unwrap()[at];
    overwrite(&damaged.path, at, &[byte ^ 0x10]);
    for _ in 0..2 {
        let words = cluster.nodes[follower].must_refuse(1);
        let place = format!(
            "{} at byte {}, batch {}, from log index ",
            damaged.path.display(),
            damaged.offset,
            damaged.sequence
        );
        assert!(words.contains("acknowledged log data is damaged"), "{words}");
        assert!(words.contains(&place) && words.contains("-join"), "{place}: {words}");
    }
    load.wait_more(WRITES);
    // Nothing was cut: with the bit as it was, the node goes on.
    overwrite(&damaged.path, at, &[byte]);
    cluster.nodes[follower].start();
    cluster.wait_voters(3);
    load.wait_more(WRITES);
    load.stop();
    cluster.wait_level();
    history.check(&cluster);
    history.check_local(&cluster, follower);
    assert!(wait_for("a status", || cluster.nodes[follower].status()).applied > 0);
}

/// Damages slot 7 of a node that does not run.
fn damage_slot_7(node: &Node) {
    let offset = usize::try_from(Geometry::new(4096, 256).unwrap().offset_of(7)).unwrap();
    overwrite(&node.directory.join(SLOTS_FILE), offset + 8, &[9]); // the length
    overwrite(&node.directory.join(DOUBLE_FILE), 0, &[0; 64]); // or the last round would mend it
}

#[track_caller]
fn wait_damaged(node: &Node, count: u64) {
    wait_until("the damaged slots to be counted", || {
        node.status().is_some_and(|status| status.damaged_slots == count)
    });
}

/// What it held may be a value or none, and a delete changes the version of one alone.
#[test]
fn a_node_whose_damaged_slot_is_deleted_goes_on_without_it_until_it_is_set() {
    let mut cluster = Cluster::of_three(&[]);
    cluster.nodes[0].asked(&["MSET", "7", "value", "8", "value"]);
    cluster.nodes[0].asked(&["DEL", "7"]);
    cluster.wait_level();
    let (leader, follower, other) = cluster.roles();
    cluster.nodes[follower].stop();
    damage_slot_7(&cluster.nodes[follower]);
    cluster.nodes[follower].start();
    wait_damaged(&cluster.nodes[follower], 1);
    let told = |node: &Node| {
        wait_for("an answer", || match node.local("7") {
            Err(Failure::Refused(words)) if words.contains("damaged") => Some(words),
            _ => None,
        })
    };
    let words = told(&cluster.nodes[follower]);
    assert!(words.contains("slot 7") && words.contains("set it, whole"), "{words}");
    assert_eq!(cluster.nodes[follower].local("8").unwrap().as_deref(), Some("value"));
    assert_eq!(cluster.nodes[leader].asked(&["DEL", "7"]), Value::Integer(0));
    assert_eq!(cluster.nodes[leader].asked(&["APPEND", "7", "x"]), Value::Integer(1));
    for _ in 0..2 {
        cluster.wait_level();
        told(&cluster.nodes[follower]);
        cluster.nodes[follower].kill();
        cluster.nodes[follower].start();
    }
    assert!(cluster.nodes[follower].words().contains("a log entry needs what it held"));
    cluster.nodes[leader].asked(&["SET", "7", "new"]);
    for node in [leader, follower, other] {
        wait_until("all to agree", || {
            cluster.nodes[node].local("7").is_ok_and(|value| value.as_deref() == Some("new"))
        });
    }
    wait_damaged(&cluster.nodes[follower], 0);
}

/// It has nobody to take the slot from, and an entry that needs it is in its log already.
#[test]
fn a_lone_node_with_a_damaged_slot_starts_refuses_what_needs_it_and_takes_a_set() {
    let mut cluster = Cluster::empty();
    let node = cluster.add("node0", &["-slots", "4096", "-value-size", "256"]);
    node.start();
    node.asked(&["MSET", "7", "1", "8", "1"]);
    node.stop();
    node.start();
    assert_eq!(node.asked(&["INCR", "7"]), Value::Integer(2));
    assert_eq!(node.asked(&["INCR", "8"]), Value::Integer(2));
    for _ in 0..2 {
        node.kill();
        damage_slot_7(node);
        node.start();
        wait_damaged(node, 1);
        assert_eq!(node.asked(&["GET", "8"]).text().as_deref(), Some("2"));
    }
    assert!(node.words().contains("a log entry needs what it held"), "{}", node.words());
    for request in [
        &["GET", "7"][..],
        &["INCR", "7"],
        &["APPEND", "7", "x"],
        &["SETRANGE", "7", "1", "x"],
        &["SET", "7", "x", "NX"],
        &["SET", "7", "x", "GET"],
        &["GETSET", "7", "x"],
        &["GETDEL", "7"],
        &["DEL", "7"],
        &["MGET", "8", "7"],
    ] {
        let Err(Failure::Refused(words)) = node.ask(request) else { panic!("{request:?}") };
        assert!(words.contains("slot 7 is damaged") && words.contains("set it"), "{words}");
    }
    node.asked(&["SET", "7", "5"]);
    assert_eq!(node.asked(&["INCR", "7"]), Value::Integer(6));
    assert_eq!(node.asked(&["DEL", "7"]), Value::Integer(1));
    wait_damaged(node, 0);
    assert_eq!(node.asked(&["GET", "8"]).text().as_deref(), Some("2"));
}
