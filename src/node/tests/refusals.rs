//! What ends a refusal is made due by it.

use std::sync::Arc;
use std::time::Duration;

use diskstore_storage::LogIndex;
use diskstore_storage::slots::Geometry;

use super::{SEGMENT_BYTES, create_slots, disk, start};
use crate::cluster::{CheckpointPolicy, keep_bounds};
use crate::command::{Command, slot_key};
use crate::peer::Member;
use crate::raft::{Cause, Consensus};

/// No test waits longer than this for what must come.
const BOUND: Duration = Duration::from_secs(30);
/// Nothing but a refusal makes a checkpoint due.
const LAZY: CheckpointPolicy = CheckpointPolicy {
    checkpoint_bytes: Some(1 << 40),
    keep_bytes: 1 << 40,
    dirty_bytes_max: 1 << 40,
};

async fn start_leader(disk: &diskstore_storage::disk::SimDisk) -> Arc<Consensus> {
    let slots = create_slots(disk, Geometry::new(64, 1000).unwrap());
    let consensus = start(disk, slots).await;
    consensus.found(Member::default()).await.unwrap();
    consensus.allow_elections().await;
    let leads = async {
        while !consensus.view().is_leader {
            consensus.changed(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(BOUND, leads).await.expect("nobody else can lead");
    consensus
}

/// Proposes a command once it is not refused, and waits for its reply. Segments are so small that it
/// has to wait for the next one too.
async fn write(consensus: &Consensus, command: &Command) {
    let accepted = async {
        while consensus.wal().is_prepare_due() {
            consensus.changed(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(BOUND, accepted).await.expect("what ends the refusal is due");
    assert_eq!(consensus.refused(std::slice::from_ref(command)), None);
    let results = consensus.propose(vec![command.clone()], BOUND).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

#[tokio::test]
async fn a_full_disk_makes_due_what_gives_the_log_its_room_back() {
    let disk = disk(11);
    let consensus = start_leader(&disk).await;
    // Room for the segments there are, and for two more.
    let size = |path: &std::path::PathBuf| disk.read_file(path).map_or(0, |file| file.len() as u64);
    let used: u64 = disk.paths().iter().map(size).sum();
    disk.set_space(used + 2 * SEGMENT_BYTES);
    let upkeep = tokio::spawn(keep_bounds(consensus.clone(), LAZY));
    let begun = consensus.wal().log_bytes();
    for number in 0.. {
        let value = [b'v'; 1000];
        write(&consensus, &Command::set(&slot_key(number % 64), &value).unwrap()).await;
        // Each has a block of its own, so this is a dozen segments.
        if consensus.wal().log_bytes() - begun > 3 * SEGMENT_BYTES {
            break;
        }
    }
    assert!(
        consensus.view().checkpoint > Some(LogIndex::new(0)),
        "the log is too short for such a disk"
    );
    let is_full = || consensus.refusing().iter().any(|refusing| refusing.cause == Cause::LogSpace);
    let ended = async {
        while is_full() {
            consensus.changed(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(BOUND, ended).await.expect("nothing is refused for ever");
    upkeep.abort();
    consensus.stop().await;
}
