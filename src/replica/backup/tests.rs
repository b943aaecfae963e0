use std::path::Path;

use diskstore_storage::Term;
use diskstore_storage::backup::{BackupReader, Piece};
use diskstore_storage::disk::{Disk, SimDisk};
use diskstore_storage::keys::{self, Keys};
use diskstore_storage::slots::{self, Geometry, Slots};
use diskstore_storage::wal::{self, Entry, EntryKind};
use tokio::sync::Semaphore;

use super::*;
use crate::command::{Command, slot_key};
use crate::fault::Faults;
use crate::host::Threads;
use crate::machine::{DiskMachine, Machine, MemoryMachine};
use crate::replica::{Bounds, Syncer};

/// More keys of this length than a piece takes, and than the pieces that wait do.
const KEY_COUNT: u64 = 12;
const VALUE_BYTES: usize = 600_000;
const DIRECTORY: &str = "/node";

/// One replica with its log, and no Raft above it.
struct Alone {
    replica: Arc<Replica>,
    wal: Arc<Wal>,
    syncer: Arc<Syncer>,
    right: Arc<Semaphore>,
}

fn empty_disk() -> Arc<SimDisk> {
    let disk = SimDisk::new(1);
    disk.create_dir_all(&Path::new(DIRECTORY).join("tmp")).unwrap();
    Arc::new(disk)
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.syncer.stop();
    }
}

impl Alone {
    /// A replica that holds keys.
    fn filled() -> Alone {
        let disk = empty_disk();
        let options = keys::Options::new(1 << 30);
        let new = keys::New { cluster_id: 7, value_bytes: 1 << 20, options };
        let keys = Keys::create(disk.clone(), Path::new(DIRECTORY), new).unwrap();
        let alone = Alone::over(disk, Machine::Memory(MemoryMachine::new(Arc::new(keys))));
        for nth in 1..=KEY_COUNT {
            alone.set(nth, nth, "old");
        }
        alone
    }

    /// A replica of this machine, with one entry in its log.
    fn over(disk: Arc<SimDisk>, machine: Machine) -> Alone {
        let directory = Path::new(DIRECTORY);
        let options = wal::Options::new(wal::Nonces::counted());
        let options = wal::Options { segment_bytes: 4 << 20, ..options };
        let aside = directory.join("tmp");
        let (wal, _) = Wal::open(disk, &directory.join("wal"), &aside, &options).unwrap();
        let wal = Arc::new(wal);
        let syncer = Syncer::start(wal.clone(), &Threads::System, Faults::new()).unwrap();
        let syncer = Arc::new(syncer);
        let replica = Arc::new(Replica::open(machine, syncer.clone(), Bounds::default()));
        let alone = Alone { replica, wal, syncer, right: Arc::new(Semaphore::new(1)) };
        let log_id = LogId { term: Term::new(1), index: 0 };
        alone
            .wal
            .append([Entry { log_id, kind: EntryKind::Blank, payload: Bytes::new().into() }])
            .unwrap();
        alone
    }

    /// Appends and applies entry `index`, which sets a key.
    fn set(&self, index: u64, nth: u64, begin: &str) {
        let value = format!("{begin}{}", ".".repeat(VALUE_BYTES));
        self.apply(index, &Command::set(format!("key{nth}").as_bytes(), value.as_bytes()).unwrap());
    }

    fn apply(&self, index: u64, command: &Command) {
        let log_id = LogId { term: Term::new(1), index };
        let payload = command.bytes().clone();
        self.wal
            .append([Entry { log_id, kind: EntryKind::Normal, payload: payload.into() }])
            .unwrap();
        self.replica.machine.apply(index, command).unwrap();
        self.replica.set_applied(log_id, None);
    }

    fn begin(&self, since: u64) -> Result<BackupStream, BackupRefusal> {
        let permit = self.right.clone().try_acquire_owned().unwrap();
        let order = BackupOrder {
            id: 1,
            cluster_id: 7,
            node: "node0".to_owned(),
            begun_ms: 0,
            since: LogIndex::new(since),
            base: 0,
        };
        begin(self.replica.clone(), self.wal.clone(), order, permit)
    }
}

/// All that is left of a stream, and whether it ended as it should.
async fn rest(mut stream: BackupStream) -> (Vec<u8>, io::Result<()>) {
    let mut bytes = Vec::new();
    while let Some(piece) = stream.recv().await {
        match piece {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(error) => return (bytes, Err(error)),
        }
    }
    (bytes, Ok(()))
}

#[tokio::test]
async fn what_is_written_while_a_backup_is_read_is_in_its_log() {
    let alone = Alone::filled();
    let mut stream = alone.begin(0).unwrap();
    // Behind the header and the first keys it waits to be taken, with some keys unread.
    let mut bytes = stream.recv().await.unwrap().unwrap().to_vec();
    bytes.extend_from_slice(&stream.recv().await.unwrap().unwrap());
    for nth in 1..=KEY_COUNT {
        alone.set(KEY_COUNT + nth, nth, "new");
    }
    let (rest, ended) = rest(stream).await;
    ended.unwrap();
    bytes.extend_from_slice(&rest);
    let mut reader = BackupReader::new(Box::new(&bytes[..]), Path::new("backup")).unwrap();
    let (mut old, mut new, mut entries) = (0, 0, 0);
    loop {
        match reader.next_piece().unwrap() {
            Piece::Keys(images) => {
                let is_new = |value: &Bytes| value.starts_with(b"new");
                let count = images.iter().filter_map(|image| image.value.as_ref());
                let count = count.filter(|value| is_new(value)).count();
                (old, new) = (old + images.len() - count, new + count);
            }
            Piece::Entries(some) => entries += some.len() as u64,
            Piece::End(end) => {
                assert_eq!(end.last.index, 2 * KEY_COUNT);
                assert_eq!((end.image_count, entries), (KEY_COUNT, KEY_COUNT));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(old > 0 && new > 0, "{old} keys were read before they changed, {new} behind that");
    alone.right.acquire().await.unwrap().forget();
}

#[tokio::test]
async fn only_what_changed_is_in_an_incremental_backup() {
    let alone = Alone::filled();
    alone.set(KEY_COUNT + 1, 3, "new");
    let (bytes, ended) = rest(alone.begin(KEY_COUNT).unwrap()).await;
    ended.unwrap();
    let reader = BackupReader::new(Box::new(&bytes[..]), Path::new("backup")).unwrap();
    assert_eq!(reader.header().since.get(), KEY_COUNT);
    assert_eq!(reader.finish().unwrap().end.image_count, 1);
    alone.right.acquire().await.unwrap().forget();
}

#[tokio::test]
async fn an_index_that_is_not_reached_is_refused() {
    let alone = Alone::filled();
    let since = LogIndex::new(KEY_COUNT + 1);
    let refusal = BackupRefusal::Ahead { since, applied: KEY_COUNT };
    assert_eq!(alone.begin(KEY_COUNT + 1).unwrap_err(), refusal);
    assert_eq!(alone.right.available_permits(), 1);
}

#[tokio::test]
async fn a_replica_that_is_catching_up_begins_none() {
    let alone = Alone::filled();
    alone.replica.machine.set_readable_from(KEY_COUNT + 1).unwrap();
    assert_eq!(alone.begin(0).unwrap_err(), BackupRefusal::CatchingUp);
}

/// H28: its slots would be of two moments.
#[tokio::test]
async fn a_snapshot_that_arrives_ends_the_backup_with_a_reason() {
    let alone = Alone::filled();
    let stream = alone.begin(0).unwrap();
    alone.replica.machine.set_readable_from(KEY_COUNT + 1).unwrap();
    let (bytes, ended) = rest(stream).await;
    assert!(ended.unwrap_err().to_string().contains("send this one a snapshot"));
    let mut reader = BackupReader::new(Box::new(&bytes[..]), Path::new("backup")).unwrap();
    let reason = loop {
        match reader.next_piece().unwrap() {
            Piece::Keys(_) => {}
            Piece::Broken(reason) => break reason,
            other => panic!("{other:?}"),
        }
    };
    assert!(reason.contains("try again"), "{reason}");
    alone.right.acquire().await.unwrap().forget();
}

/// I5 of `mod.rs`: the header says how many slots there are before the first entry is read.
#[tokio::test]
async fn a_cluster_that_comes_to_have_more_slots_ends_the_backup_with_a_reason() {
    let disk = empty_disk();
    let geometry = Geometry::new(64, u32::try_from(VALUE_BYTES).unwrap()).unwrap();
    let new = slots::New { geometry, cluster_id: 7, options: slots::Options::new(1 << 30) };
    let slots = Slots::create(&*disk, Path::new(DIRECTORY), new, &mut |_, _| {}).unwrap();
    let machine = DiskMachine::new(Arc::new(slots)).limited_to(16);
    let alone = Alone::over(disk, Machine::Slots(machine));
    // More than may wait for the client: the second backup cannot be over before it is received.
    for slot in 1..=KEY_COUNT {
        alone.apply(slot, &Command::set(&slot_key(slot), &vec![7; VALUE_BYTES]).unwrap());
    }
    let (bytes, ended) = rest(alone.begin(0).unwrap()).await;
    ended.unwrap();
    let reader = BackupReader::new(Box::new(&bytes[..]), Path::new("backup")).unwrap();
    assert_eq!(reader.header().slot_count, 16);
    alone.right.acquire().await.unwrap().forget();
    alone.right.add_permits(1);
    let stream = alone.begin(0).unwrap();
    assert!(alone.replica.machine.paged().unwrap().raise_limit(64));
    alone.apply(KEY_COUNT + 1, &Command::set(&slot_key(40), b"beyond").unwrap());
    let (_, ended) = rest(stream).await;
    assert!(ended.unwrap_err().to_string().contains("more slots meanwhile"));
    alone.right.acquire().await.unwrap().forget();
}

/// I1 of `mod.rs`.
#[tokio::test]
async fn the_log_behind_the_begin_stays_until_the_backup_is_taken() {
    let alone = Alone::filled();
    let mut stream = alone.begin(0).unwrap();
    assert_eq!(alone.replica.purge_bound(), KEY_COUNT);
    stream.recv().await.unwrap().unwrap();
    drop(stream);
    alone.right.acquire().await.unwrap().forget();
    assert_eq!(alone.replica.purge_bound(), u64::MAX);
}
