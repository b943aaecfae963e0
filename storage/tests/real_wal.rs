//! The log on the real disk: what was written is there after opening again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use diskstore_storage::disk::RealDisk;
use diskstore_storage::wal::{Entry, EntryKind, Nonces, Options, Wal};
use diskstore_storage::{LogId, MemberId, Term, Vote};

fn open(directory: &Path) -> Wal {
    let options =
        Options { segment_bytes: 64 << 10, tail_bytes_max: 0, ..Options::new(Nonces::counted()) };
    let disk = Arc::new(RealDisk::new());
    Wal::open(disk, &directory.join("wal"), &directory.join("tmp"), &options).unwrap().0
}

fn entry(index: u64) -> Entry {
    let payload = Bytes::from(format!("{index:>2000}")).into();
    Entry { log_id: LogId { term: Term::new(1), index }, kind: EntryKind::Normal, payload }
}

fn sync(wal: &Wal) {
    while let Some(batch) = wal.seal() {
        wal.write(batch).unwrap();
        wal.prepare().unwrap();
    }
}

#[test]
fn a_log_on_the_real_disk_is_there_after_opening_again() {
    let directory = tempfile::tempdir().unwrap();
    let vote = Vote { term: Term::new(1), node_id: MemberId::new(3), committed: true };
    let mut next = 0;
    for round in 0..6 {
        let wal = open(directory.path());
        assert_eq!(wal.state().last.map_or(0, |last| last.index + 1), next);
        let first = wal.state().first_index;
        let found = wal.read(0..next, usize::MAX).unwrap();
        assert_eq!(found, (first..next).map(entry).collect::<Vec<_>>());
        wal.save_vote(vote);
        for _ in 0..5 {
            wal.append((next..next + 5).map(entry)).unwrap();
            next += 5;
            sync(&wal);
        }
        assert_eq!(wal.durable(), wal.position());
        wal.purge(LogId { term: Term::new(1), index: next - 10 });
        sync(&wal);
        wal.release(next);
        assert!(round == 0 || wal.reclaim().unwrap() > 0);
    }
    let wal = open(directory.path());
    assert_eq!(wal.state().vote, Some(vote));
    assert_eq!(wal.state().purged, Some(LogId { term: Term::new(1), index: next - 10 }));
    assert_eq!(wal.read(0..next, usize::MAX).unwrap().len(), 9);
}
