//! Tests of a node's files together: log, slots, and what makes them agree at a start.

mod addresses;
mod agree;
mod crash;
mod forwarding;
mod founding;
mod giving_way;
mod growing;
mod hazards;
mod invited;
mod local;
mod refusals;
mod removal;
mod running;
mod stopping;
mod whole;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use diskstore_storage::disk::{Disk, SimDisk};
use diskstore_storage::slots::{self, Geometry, New, Slots};
use diskstore_storage::wal::{self, EntryKind, Seen, SyncMode, Wal};
use diskstore_storage::{LogId, Result, Term};
use tokio::sync::mpsc;

use crate::fault::Faults;
use crate::host::{Host, Threads};
use crate::machine::{DiskMachine, Machine};
use crate::peer::{Caller, Whoever};
use crate::raft::{Consensus, Incoming, Setup, Timing};
use crate::replica::{Bounds, ReplayAhead};

/// So small that a dozen batches fill several.
const SEGMENT_BYTES: u64 = wal::SEGMENT_BYTES_MIN;

fn directory() -> &'static Path {
    Path::new("/node")
}

/// A disk with an empty directory for a node.
fn disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.create_dir_all(directory()).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn create_slots(disk: &SimDisk, geometry: Geometry) -> Slots {
    let options = slots::Options { memory_bytes_max: 1 << 20, round_pages: 2 };
    let new = New { geometry, cluster_id: 0xc1, options };
    Slots::create(disk, directory(), new, &mut |_, _| {}).unwrap()
}

/// Member 1 over these slots and a log.
async fn start(disk: &SimDisk, slots: Slots) -> Arc<Consensus> {
    let me = Whoever { cluster_id: 0xc1, member_id: 1, process: 1 };
    start_member(me, String::new(), disk, slots).await.0
}

/// A member over these slots and a log that listens at an address, and what others ask of it.
async fn start_member(
    me: Whoever,
    address: String,
    disk: &SimDisk,
    slots: Slots,
) -> (Arc<Consensus>, mpsc::Receiver<Incoming>) {
    let machine = Machine::Slots(DiskMachine::new(Arc::new(slots)));
    let mut ahead = ReplayAhead::start(&machine, &Threads::System, Bounds::default())
        .unwrap()
        .expect("all slots fit in memory");
    let follow = &mut |seen| ahead.see(seen);
    let wal = Arc::new(open_wal_following(disk, SyncMode::Always, follow).unwrap());
    let applied = Some(ahead.finish(&wal).unwrap());
    let setup = Setup {
        caller: Caller::new(&Host::real(), me, address, Faults::new()),
        wal,
        machine,
        applied,
        oplog: None,
        faults: Faults::new(),
        is_restart: false,
        join_targets: Vec::new(),
        timing: Timing::default(),
        leads_for: Duration::from_mins(1),
        bounds: Bounds::default(),
    };
    Box::pin(Consensus::start(setup)).await.unwrap()
}

fn open_slots(disk: &SimDisk) -> Result<Slots> {
    let options = slots::Options { memory_bytes_max: 1 << 20, round_pages: 2 };
    Slots::open(disk, directory(), options).map(|(slots, _)| slots)
}

fn open_wal(disk: &SimDisk, sync: SyncMode) -> Result<Wal> {
    open_wal_following(disk, sync, &mut |_| {})
}

fn open_wal_following(disk: &SimDisk, sync: SyncMode, follow: &mut dyn FnMut(Seen)) -> Result<Wal> {
    let options = wal::Options {
        sync,
        segment_bytes: SEGMENT_BYTES,
        ..wal::Options::new(wal::Nonces::counted())
    };
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let (wal, aside) = (directory().join("wal"), directory().join("tmp"));
    Wal::open_following(disk, &wal, &aside, &options, follow).map(|(wal, _)| wal)
}

/// Writes out what was appended, and has the next segment ready.
fn sync(wal: &Wal) -> Result<()> {
    while let Some(batch) = wal.seal() {
        wal.write(batch)?;
        if wal.is_prepare_due() {
            wal.prepare()?;
        }
    }
    Ok(())
}

fn log_id(index: u64) -> LogId {
    LogId { term: Term::new(1), index }
}

fn entry(index: u64, payload: Bytes) -> wal::Entry {
    let kind = if payload.is_empty() { EntryKind::Blank } else { EntryKind::Normal };
    wal::Entry { log_id: log_id(index), kind, payload: payload.into() }
}
