//! A disk that keeps its callers waiting (F22, H25): what is not synced is bounded,
//! whoever would exceed it waits, and all goes on when the disk does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use diskstore_storage::Result;
use diskstore_storage::disk::{Disk, File, Lock, Map, OperationKind, SimDisk, WriteMode};
use diskstore_storage::slots::SLOTS_FILE;
use diskstore_storage::wal::{Nonces, Options};
use futures_util::FutureExt;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use parking_lot::{Condvar, Mutex};

use super::{Place, blank, command, increment, normal};
use crate::command::{Action, Answer, Condition};
use crate::raft::types::TypeConfig;
use crate::replica::Checkpointer;

/// Error number of a device that fails.
const EIO: i32 = 5;

/// A test that forgot to open the gate ends nevertheless.
const SHUT_MAX: Duration = Duration::from_mins(1);
/// No test waits longer than this for what must come.
const BOUND: Duration = Duration::from_secs(20);

/// What writes wait at.
#[derive(Debug, Default)]
struct Gate {
    is_shut: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn set_shut(&self, is_shut: bool) {
        *self.is_shut.lock() = is_shut;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let mut is_shut = self.is_shut.lock();
        self.opened.wait_while_for(&mut is_shut, |is_shut| *is_shut, SHUT_MAX);
    }
}

/// Opens the gate when a test ends, however it does.
struct Opened(Arc<Gate>);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.set_shut(false);
    }
}

#[derive(Debug)]
struct StallingDisk {
    disk: SimDisk,
    gate: Arc<Gate>,
}

impl StallingDisk {
    fn wrap(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(StallingFile { file, gate: self.gate.clone() })
    }
}

impl Disk for StallingDisk {
    fn open(&self, path: &Path, mode: WriteMode) -> Result<Arc<dyn File>> {
        Ok(self.wrap(self.disk.open(path, mode)?))
    }

    fn create(&self, path: &Path, mode: WriteMode) -> Result<Arc<dyn File>> {
        Ok(self.wrap(self.disk.create(path, mode)?))
    }

    fn create_dir_all(&self, path: &Path) -> Result<()> {
        self.disk.create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.disk.remove(path)
    }

    fn list(&self, directory: &Path) -> Result<Vec<String>> {
        self.disk.list(directory)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.disk.exists(path)
    }

    fn sync_dir(&self, directory: &Path) -> Result<()> {
        self.disk.sync_dir(directory)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>> {
        self.disk.lock(path)
    }
}

#[derive(Debug)]
struct StallingFile {
    file: Arc<dyn File>,
    gate: Arc<Gate>,
}

impl File for StallingFile {
    fn path(&self) -> PathBuf {
        self.file.path()
    }

    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.gate.pass();
        self.file.write_at(bytes, offset)
    }

    fn sync(&self) -> Result<()> {
        self.gate.pass();
        self.file.sync()
    }

    fn cut(&self, bytes: u64) -> Result<()> {
        self.file.cut(bytes)
    }

    fn reserve(&self, bytes: u64) -> Result<()> {
        self.file.reserve(bytes)
    }

    fn map(&self) -> Result<Map> {
        self.file.map()
    }

    fn map_zeros(&self) -> Result<Map> {
        self.file.map_zeros()
    }
}

#[tokio::test]
async fn appending_waits_at_a_bound_while_the_disk_stalls_and_goes_on_behind_it() {
    let gate = Arc::new(Gate::default());
    let disk = StallingDisk { disk: SimDisk::new(25), gate: gate.clone() };
    let place = Place { disk: Arc::new(disk), directory: "/node".into() };
    let mut stores = place.open();
    stores.append(vec![blank(1, 0)]).await.unwrap();
    let _opened = Opened(gate.clone()); // before the stores wait for their threads
    gate.set_shut(true);

    let (condition, answer) = (Condition::Always, Answer::Status);
    let set = Action::Set { value: &[b'x'; 32], condition, answer };
    let operations: Vec<_> = (0..450).map(|slot| (slot % 64, set)).collect();
    let command = command(&operations);
    let bytes_max = Options::new(Nonces::counted()).unsynced_bytes_max + 2 * command.bytes().len();
    let mut flushed = Vec::new();
    let mut log = stores.log.clone();
    for index in 1.. {
        let (sender, receiver) = TypeConfig::oneshot();
        flushed.push(receiver);
        let entries = vec![normal(1, index, command.clone())];
        let mut append = Box::pin(log.append(entries, IOFlushed::signal(sender)));
        let appended = append.as_mut().now_or_never();
        assert!(stores.wal.unsynced_bytes() < bytes_max, "entry {index} is beyond the bound");
        if let Some(appended) = appended {
            appended.unwrap();
            continue;
        }
        assert!(stores.wal.is_over_bound(), "it waits for nothing");
        assert_eq!(stores.wal.state().last.map(|last| last.index), Some(index - 1));
        gate.set_shut(false);
        tokio::time::timeout(BOUND, append).await.unwrap().unwrap();
        break;
    }
    assert!(flushed.len() > 100, "it waited too early");
    for receiver in flushed {
        tokio::time::timeout(BOUND, receiver).await.unwrap().unwrap().unwrap();
    }
    assert_eq!(stores.wal.unsynced_bytes(), 0);
    assert!(stores.faults.current().is_none(), "a slow disk is no fault");
}

/// I1 of `replica/checkpoints.rs`; I3 of `replica/checkpoints.rs`.
#[tokio::test]
async fn one_checkpoint_runs_at_a_time_and_none_behind_the_stop() {
    let gate = Arc::new(Gate::default());
    let disk = StallingDisk { disk: SimDisk::new(26), gate: gate.clone() };
    let place = Place { disk: Arc::new(disk), directory: "/node".into() };
    let mut stores = place.open();
    let entries = vec![blank(1, 0), increment(1, 1, 1)];
    stores.append(entries.clone()).await.unwrap();
    stores.apply(entries).await.unwrap();
    let checkpointer = Checkpointer::new(stores.replica.clone(), stores.faults.clone());
    let _opened = Opened(gate.clone());
    gate.set_shut(true);
    checkpointer.begin(0);
    assert!(checkpointer.is_running());
    let mut joined = Box::pin(checkpointer.run(0));
    assert!(joined.as_mut().now_or_never().is_none(), "it ends with the one that runs");
    let mut stopped = Box::pin(checkpointer.stop());
    assert!(stopped.as_mut().now_or_never().is_none(), "what runs uses the log");
    gate.set_shut(false);
    tokio::time::timeout(BOUND, stopped).await.unwrap();
    tokio::time::timeout(BOUND, joined).await.unwrap();
    checkpointer.begin(0);
    assert!(!checkpointer.is_running(), "none begins behind the stop");
    assert_eq!(checkpointer.run(0).await, None, "whoever waits for one hears so");
    assert!(stores.faults.current().is_none());
}

/// I2 of `replica/checkpoints.rs`.
#[tokio::test]
async fn a_checkpoint_that_fails_is_a_fault_and_is_never_taken_for_durable() {
    let disk = SimDisk::new(27);
    let mut stores = Place::on(&disk).open();
    let entries = vec![blank(1, 0), increment(1, 1, 1)];
    stores.append(entries.clone()).await.unwrap();
    stores.apply(entries).await.unwrap();
    let checkpointer = Checkpointer::new(stores.replica.clone(), stores.faults.clone());
    disk.fail_next(OperationKind::Write, SLOTS_FILE, EIO);
    let durable = tokio::time::timeout(BOUND, checkpointer.run(0)).await.unwrap();
    assert_eq!(durable, Some(0));
    let fault = stores.faults.current().expect("what is on the disk is not known");
    assert!(fault.reason.starts_with("a checkpoint cannot be written: "), "{}", fault.reason);
}
