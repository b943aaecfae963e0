//! Version 2 of the log still opens, and the same calls still give the same bytes. A change of the
//! bytes wants a new version beside this one, not a new fixture.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use diskstore_storage::disk::SimDisk;
use diskstore_storage::wal::{Entry, EntryKind, Nonces, Options, SEGMENT_BYTES_MIN, State, Wal};
use diskstore_storage::{LogId, MemberId, Term, Vote};

/// One segment: every kind of record, five batches, the last of which claims the one before.
const SEGMENT: &[u8] = include_bytes!("../compat/v2/0000000000000001.segment");
const PATH: &str = "/data/wal/0000000000000001.segment";

fn open(disk: &SimDisk) -> Wal {
    let options = Options { segment_bytes: SEGMENT_BYTES_MIN, ..Options::new(Nonces::counted()) };
    let disk = Arc::new(disk.clone());
    Wal::open(disk, Path::new("/data/wal"), Path::new("/data/tmp"), &options).unwrap().0
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId { term: Term::new(term), index }
}

fn entry(term: u64, index: u64, kind: EntryKind, payload: &'static str) -> Entry {
    Entry {
        log_id: log_id(term, index),
        kind,
        payload: Bytes::from_static(payload.as_bytes()).into(),
    }
}

fn sync(wal: &Wal) {
    wal.write(wal.seal().unwrap()).unwrap();
}

fn write_on(disk: &SimDisk) {
    let wal = open(disk);
    wal.save_vote(Vote { term: Term::new(1), node_id: MemberId::new(11), committed: true });
    wal.append([
        entry(1, 0, EntryKind::Membership, "three members"),
        entry(1, 1, EntryKind::Blank, ""),
        entry(1, 2, EntryKind::Normal, "set 42 hello"),
    ])
    .unwrap();
    sync(&wal);
    wal.append([entry(1, 3, EntryKind::Normal, "goes"), entry(1, 4, EntryKind::Normal, "too")])
        .unwrap();
    wal.save_committed(log_id(1, 2));
    sync(&wal);
    wal.truncate_after(Some(log_id(1, 2)));
    wal.save_vote(Vote { term: Term::new(2), node_id: MemberId::new(12), committed: false });
    wal.append([entry(2, 3, EntryKind::Blank, "")]).unwrap();
    sync(&wal);
    wal.purge(log_id(1, 0));
    wal.append([entry(2, 4, EntryKind::Normal, "set 43 world")]).unwrap();
    sync(&wal);
    wal.write(wal.seal_claim().unwrap()).unwrap();
}

#[test]
fn a_log_of_version_2_opens() {
    let disk = SimDisk::new(1);
    disk.write_file(Path::new(PATH), SEGMENT);
    let wal = open(&disk);
    let state = State {
        vote: Some(Vote { term: Term::new(2), node_id: MemberId::new(12), committed: false }),
        committed: Some(log_id(1, 2)),
        purged: Some(log_id(1, 0)),
        last: Some(log_id(2, 4)),
        first_index: 1,
    };
    assert_eq!(wal.state(), state);
    let entries = [
        entry(1, 1, EntryKind::Blank, ""),
        entry(1, 2, EntryKind::Normal, "set 42 hello"),
        entry(2, 3, EntryKind::Blank, ""),
        entry(2, 4, EntryKind::Normal, "set 43 world"),
    ];
    assert_eq!(wal.read(0..9, usize::MAX).unwrap(), entries);
}

#[test]
fn the_same_calls_give_the_bytes_of_version_2() {
    let disk = SimDisk::new(1);
    write_on(&disk);
    let written = disk.read_file(Path::new(PATH)).unwrap();
    let different = written.iter().zip(SEGMENT).position(|(new, old)| new != old);
    assert_eq!((written.len(), different), (SEGMENT.len(), None));
}
