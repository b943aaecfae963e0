//! openraft's own storage suite against the real stores, and once more with both stores closed and
//! opened again before every call.
//!
//! Stores that reopen: `applied_state` starts at the checkpoint (C11), and what was applied above it
//! is applied again by openraft from the log (C10). The suite asks for the applied position and
//! applies entries that it never put into the log, so nothing could bring them back; therefore a
//! checkpoint of what is applied is taken before each closing, as a clean stop does it. The log is
//! opened as it is: making log and checkpoint agree belongs to the start of a node (it has its own
//! tests there), and the suite wants to see openraft refuse the contradictions that it makes up.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::Arc;

use diskstore_storage::disk::{RealDisk, SimDisk};
use futures_util::Stream;
use openraft::StorageError;
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::storage::{
    EntryResponder, IOFlushed, LogState, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder,
    RaftStateMachine,
};
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::{Place, Stores};
use crate::raft::types::{Entry, LogId, StoredMembership, TypeConfig, Vote};
use crate::replica::SlotsSnapshot;

/// Where the suite's stores are made.
#[derive(Debug, Clone, Copy)]
enum On {
    Real,
    Simulated,
}

/// Keeps the directory until a test of the suite is over.
#[derive(Debug)]
struct Directory(#[expect(dead_code, reason = "dropped with the test")] Option<TempDir>);

impl On {
    fn place(self) -> (Directory, Place) {
        match self {
            On::Real => {
                let directory = TempDir::new().unwrap();
                let path = directory.path().join("node");
                let disk = Arc::new(RealDisk::new());
                (Directory(Some(directory)), Place { disk, directory: path })
            }
            On::Simulated => (Directory(None), Place::on(&SimDisk::new(1))),
        }
    }
}

/// Stores that write a checkpoint where the suite asks for a snapshot to be built; or that are opened
/// anew for every call.
#[derive(Debug, Clone)]
struct Suited {
    place: Place,
    reopens: bool,
    stores: Arc<Mutex<Option<Stores>>>,
}

impl Suited {
    /// The stores; just opened, if they reopen. Before they were closed their log was written out and
    /// what was applied became a checkpoint.
    async fn stores(&self) -> tokio::sync::MappedMutexGuard<'_, Stores> {
        let mut held = self.stores.lock().await;
        if let Some(mut stores) = held.take_if(|_| self.reopens) {
            stores.checkpoint().await;
            drop(stores); // ends the threads, and with them the last handles on the files
        }
        tokio::sync::MutexGuard::map(held, |held| held.get_or_insert_with(|| self.place.open()))
    }
}

impl RaftLogReader<TypeConfig> for Suited {
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let mut log = self.stores().await.log.clone();
        let entries: Vec<_> =
            futures_util::StreamExt::collect(log.entries_stream(range).await).await;
        futures_util::stream::iter(entries)
    }

    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        self.stores().await.log.try_get_log_entries(range).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.stores().await.log.read_vote().await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.stores().await.log.limited_get_log_entries(start, end).await
    }
}

impl RaftLogStorage<TypeConfig> for Suited {
    type LogReader = Suited;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        self.stores().await.log.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> Suited {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.stores().await.log.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.stores().await.log.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.stores().await.log.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        self.stores().await.log.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        self.stores().await.log.truncate_after(last_log_id).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.stores().await.log.purge(log_id).await
    }
}

impl RaftStateMachine<TypeConfig> for Suited {
    type SnapshotData = SlotsSnapshot;
    type SnapshotBuilder = Suited;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        self.stores().await.machine.applied_state().await
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        self.stores().await.machine.apply(entries).await
    }

    async fn get_snapshot_builder(&mut self) -> Suited {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<TypeConfig>,
        snapshot: SlotsSnapshot,
    ) -> io::Result<()> {
        self.stores().await.machine.install_snapshot(meta, snapshot).await
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<SnapshotOf<TypeConfig, SlotsSnapshot>>> {
        self.stores().await.machine.get_current_snapshot().await
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Suited {
    type SnapshotData = SlotsSnapshot;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, SlotsSnapshot>> {
        let mut stores = self.stores().await;
        stores.checkpoint().await;
        let mut builder = stores.machine.get_snapshot_builder().await;
        builder.build_snapshot().await
    }
}

/// Where stores are made, and whether they reopen.
struct SuitedOn(On, bool);

impl StoreBuilder<TypeConfig, Suited, Suited, Directory> for SuitedOn {
    async fn build(&self) -> Result<(Directory, Suited, Suited), StorageError<TypeConfig>> {
        let (directory, place) = self.0.place();
        let both = Suited { place, reopens: self.1, stores: Arc::default() };
        Ok((directory, both.clone(), both))
    }
}

// Nine seconds of the suite are sleeps behind purges; both disks sleep at the same time.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_accepts_the_stores_on_both_disks() {
    let real = tokio::spawn(Suite::test_all(SuitedOn(On::Real, false)));
    let simulated = tokio::spawn(Suite::test_all(SuitedOn(On::Simulated, false)));
    real.await.unwrap().unwrap();
    simulated.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_accepts_stores_reopened_before_every_call_on_both_disks() {
    let real = tokio::spawn(Suite::test_all(SuitedOn(On::Real, true)));
    let simulated = tokio::spawn(Suite::test_all(SuitedOn(On::Simulated, true)));
    real.await.unwrap().unwrap();
    simulated.await.unwrap().unwrap();
}
