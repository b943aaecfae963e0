//! Tests of this folder as a whole: what openraft asks of its storage, over real and simulated
//! disks. `suite` runs openraft's own tests, `contract` those of the rules that it leaves out,
//! `frames` holds every frame to its bytes, `peers` has a member meet others, `transfer` sends
//! snapshots over sockets, `late` too late, `messages` reach subscribers.

mod contract;
mod damage;
mod frames;
mod late;
mod messages;
mod oplog;
mod peers;
mod reading;
mod replay;
mod stall;
mod suite;
mod transfer;

use diskstore_storage::Term;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use diskstore_storage::disk::{CrashMode, Disk, SimDisk};
use diskstore_storage::slots::{self, Geometry, New, Slots};
use diskstore_storage::wal::{self, Seen, Wal};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::TypeConfigExt;

use super::log_store::LogStore;
use super::state_machine::{RaftApplier, StateMachine};
use super::types::{Entry, LogId, Member, Membership, TypeConfig, log_id_from};
use crate::command::{Action, Command, CommandBuilder, Operation, slot_key};
use crate::fault::Faults;
use crate::host::Threads;
use crate::machine::{DiskMachine, Machine};
use crate::oplog::OpLog;
use crate::replica::{self, Bounds, Replica, Syncer};

const CLUSTER: u128 = 0xc1;
const SLOT_COUNT: u64 = 64;
const VALUE_BYTES: u32 = 32;
const SEGMENT_BYTES: u64 = 64 << 10;
/// So small that a few entries and slots reach them.
const BOUNDS: Bounds = Bounds { piece_bytes: 64, waiting_bytes_max: 4096, write_back_bytes: 4096 };

/// The slots of a machine that has some.
fn slots_of(replica: &Replica) -> &Arc<Slots> {
    let Machine::Slots(disk) = &replica.machine else { panic!("a machine without slots") };
    disk.slots()
}

/// A directory of a node on some disk.
#[derive(Debug, Clone)]
struct Place {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
}

impl Place {
    fn on(disk: &SimDisk) -> Place {
        Place { disk: Arc::new(disk.clone()), directory: "/node".into() }
    }

    fn open_slots(&self) -> Slots {
        let options = slots::Options::new(1 << 20);
        if self.disk.exists(&self.directory.join(slots::SLOTS_FILE)).unwrap() {
            return Slots::open(&*self.disk, &self.directory, options).unwrap().0;
        }
        let geometry = Geometry::new(SLOT_COUNT, VALUE_BYTES).unwrap();
        let new = New { geometry, cluster_id: CLUSTER, options };
        self.disk.create_dir_all(&self.directory).unwrap();
        self.disk.sync_dir(self.directory.parent().unwrap()).unwrap();
        Slots::create(&*self.disk, &self.directory, new, &mut |_, _| {}).unwrap()
    }

    fn open_wal(&self) -> Wal {
        self.open_wal_of(SEGMENT_BYTES)
    }

    fn open_wal_of(&self, segment_bytes: u64) -> Wal {
        self.open_wal_following(segment_bytes, &mut |_| {})
    }

    fn open_wal_following(&self, segment_bytes: u64, follow: &mut dyn FnMut(Seen)) -> Wal {
        let options = wal::Options { segment_bytes, ..wal::Options::new(wal::Nonces::counted()) };
        let (directory, aside) = (self.directory.join("wal"), self.directory.join("tmp"));
        let disk = self.disk.clone();
        Wal::open_following(disk, &directory, &aside, &options, follow).unwrap().0
    }

    /// Opens both stores as a node does, but for the agreement of log and checkpoint.
    fn open(&self) -> Stores {
        self.open_with(None)
    }

    fn open_with(&self, oplog: Option<OpLog>) -> Stores {
        self.open_of(Machine::Slots(DiskMachine::new(Arc::new(self.open_slots()))), oplog)
    }

    /// The stores around a machine that is open.
    fn open_of(&self, machine: Machine, oplog: Option<OpLog>) -> Stores {
        let wal = Arc::new(self.open_wal());
        machine.open_request_ids(self.disk.clone(), &self.directory, CLUSTER).unwrap();
        let faults = Faults::new();
        let syncer =
            Arc::new(Syncer::start(wal.clone(), &Threads::System, faults.clone()).unwrap());
        let replica = Arc::new(Replica::open(machine, syncer.clone(), BOUNDS));
        let setup = replica::ApplierSetup {
            replica: replica.clone(),
            wal: wal.clone(),
            oplog,
            faults: faults.clone(),
            threads: Threads::System,
        };
        let applier = RaftApplier::start(setup).unwrap();
        let has_started = Arc::new(AtomicBool::new(false));
        Stores {
            log: LogStore::new(wal.clone(), syncer.clone()),
            machine: StateMachine::new(replica.clone(), applier, has_started.clone()),
            has_started,
            replica,
            wal,
            faults,
            stop: Stop(syncer),
        }
    }
}

/// Ends the log's threads when a test is done with the stores, however it ends.
#[derive(Debug)]
struct Stop(Arc<Syncer>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// The stores of one node, and what they are made of.
#[derive(Debug)]
struct Stores {
    log: LogStore,
    machine: StateMachine,
    /// As it is raised once Raft runs.
    has_started: Arc<AtomicBool>,
    replica: Arc<Replica>,
    wal: Arc<Wal>,
    faults: Faults,
    stop: Stop,
}

impl Stores {
    /// Appends and waits until the callback fires.
    async fn append(&mut self, entries: Vec<Entry>) -> io::Result<()> {
        let flushed = self.append_only(entries).await?;
        flushed.await.unwrap()
    }

    /// Appends; the receiver gets what the callback fires with.
    async fn append_only(
        &mut self,
        entries: Vec<Entry>,
    ) -> io::Result<impl Future<Output = Result<io::Result<()>, ()>> + use<>> {
        let (sender, receiver) = TypeConfig::oneshot();
        self.log.append(entries, IOFlushed::signal(sender)).await?;
        Ok(async move { receiver.await.map_err(|_| ()) })
    }

    async fn apply(&mut self, entries: Vec<Entry>) -> io::Result<()> {
        let items = entries.into_iter().map(|entry| Ok((entry, None)));
        self.machine.apply(futures_util::stream::iter(items)).await
    }

    /// Writes a checkpoint; what openraft is told of it.
    async fn checkpoint(&mut self) -> Option<LogId> {
        let replica = self.replica.clone();
        tokio::task::spawn_blocking(move || replica.checkpoint()).await.unwrap().unwrap();
        let mut builder = self.machine.get_snapshot_builder().await;
        builder.build_snapshot().await.unwrap().meta.last_log_id
    }

    fn value(&self, slot: u64) -> Option<Vec<u8>> {
        slots_of(&self.replica).read(slot).unwrap().value.map(|value| value.to_vec())
    }
}

/// What is left of a disk when the power goes now and nothing that was not synced survives.
fn after_power_loss(disk: &SimDisk) -> Place {
    Place::on(&disk.crash(CrashMode::Lost))
}

/// A log id as it is stored, and as openraft has it.
fn stored(term: u64, index: u64) -> diskstore_storage::LogId {
    diskstore_storage::LogId { term: Term::new(term), index }
}

fn log_id(term: u64, index: u64) -> LogId {
    log_id_from(stored(term, index))
}

fn blank(term: u64, index: u64) -> Entry {
    Entry::new_blank(log_id(term, index))
}

fn blanks(term: u64, indexes: impl IntoIterator<Item = u64>) -> Vec<Entry> {
    indexes.into_iter().map(|index| blank(term, index)).collect()
}

fn normal(term: u64, index: u64, command: Command) -> Entry {
    Entry::new_normal(log_id(term, index), command)
}

fn command(operations: &[(u64, Action<'_>)]) -> Command {
    let mut builder = CommandBuilder::new();
    for (slot, action) in operations {
        builder.push(&Operation { key: &slot_key(*slot), action: *action }).unwrap();
    }
    builder.finish()
}

fn increment(term: u64, index: u64, slot: u64) -> Entry {
    normal(term, index, command(&[(slot, Action::Increment { by: 1 })]))
}

/// An increment by a request with this id.
fn increment_once(id: &str, index: u64, slot: u64) -> Entry {
    let once = command(&[(slot, Action::Increment { by: 1 })]).with_request_id(id.as_bytes());
    normal(1, index, once.unwrap())
}

/// A membership of these voters, with records that name nothing.
fn membership(voters: &[u64]) -> Membership {
    let nodes = voters.iter().map(|id| (*id, Member::default()));
    Membership::new(vec![voters.iter().copied().collect()], nodes.collect::<BTreeMap<_, _>>())
        .unwrap()
}
