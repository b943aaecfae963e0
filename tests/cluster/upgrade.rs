//! A cluster whose members are restarted one after the other, maybe from an older program to this one, and
//! whose leader is then killed, while programs go on writing through the Rust client.
//!
//! `DISKSTORE_TEST_OLD` names an older `diskstore`, with which the members begin. It may know no versions over
//! RESP, so then nothing is written on a condition.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use diskstore::client::{Client, Dialling, OperationError};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::nodes::{Cluster, DISKSTORE, wait_until};

const OLD: &str = "DISKSTORE_TEST_OLD";
/// Each writes one key, and nobody else does.
const WRITERS: usize = 8;
/// Writes that have to be acknowledged after each restart before the next.
const WRITES_BETWEEN: u64 = 200;

/// What became of all writes.
#[derive(Debug, Default)]
struct Tally {
    acknowledged: AtomicU64,
    unknown: AtomicU64,
    /// What was certainly not applied, though it was tried for as long as the client's patience lasts.
    refused: Mutex<Vec<OperationError>>,
    /// When the last write was acknowledged, and the longest time without one since it was looked at last.
    last: Mutex<Option<Instant>>,
    gap: Mutex<Duration>,
}

impl Tally {
    fn acknowledge(&self) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        if let Some(last) = self.last.lock().replace(now) {
            let mut gap = self.gap.lock();
            *gap = gap.max(now.saturating_duration_since(last));
        }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// The longest time without an acknowledged write since the last call.
    fn gap(&self) -> Duration {
        std::mem::take(&mut self.gap.lock())
    }
}

/// The only writer of a key: it counts up, each time from the version that it knows.
#[derive(Debug, Default)]
struct Writer {
    key: String,
    has_versions: bool,
    acknowledged: u64,
    version: u64,
    next: u64,
    unknown: BTreeSet<u64>,
}

impl Writer {
    async fn run(mut self, client: Client, tally: Arc<Tally>, stopping: Arc<AtomicBool>) -> Writer {
        while !stopping.load(Ordering::Relaxed) {
            self.next += 1;
            match self.write(&client).await {
                Ok(Some(version)) => {
                    (self.acknowledged, self.version) = (self.next, version);
                    if self.has_versions {
                        self.unknown.clear(); // nothing of theirs can take effect any more
                    }
                    tally.acknowledge();
                }
                // Nobody else writes here: it would have been sent twice.
                Ok(None) => {
                    assert!(!self.unknown.is_empty(), "{self:?}: somebody was faster");
                    self.look(&client).await;
                }
                Err(error) if error.is_not_applied() => tally.refused.lock().push(error),
                Err(_) => {
                    tally.unknown.fetch_add(1, Ordering::Relaxed);
                    self.unknown.insert(self.next);
                    self.look(&client).await;
                }
            }
        }
        self
    }

    async fn write(&self, client: &Client) -> Result<Option<u64>, OperationError> {
        let value = self.next.to_string();
        if self.has_versions {
            return client.set_if_version(&self.key, value, self.version).await;
        }
        client.set(&self.key, value).await.map(|()| Some(0))
    }

    /// Finds out what became of the writes of which nobody knows.
    async fn look(&mut self, client: &Client) {
        if self.has_versions {
            let Ok(found) = client.get_versioned(&self.key).await else { return };
            self.check(found.value.as_deref());
            self.version = found.version;
        } else if let Ok(found) = client.get(&self.key).await {
            self.check(found.as_deref());
        }
    }

    fn check(&self, value: Option<&[u8]>) {
        let found = value.map_or(0, |text| String::from_utf8_lossy(text).parse().unwrap());
        let may_be = found == self.acknowledged || self.unknown.contains(&found);
        assert!(may_be, "{self:?}: {found} is there");
    }
}

/// Programs that write.
struct Writing {
    runtime: Runtime,
    tally: Arc<Tally>,
    stopping: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Writer>>,
}

impl Writing {
    fn start(cluster: &Cluster, has_versions: bool) -> Writing {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let (tally, stopping) = (Arc::<Tally>::default(), Arc::<AtomicBool>::default());
        let connecting = Client::connect(cluster.addresses(), Dialling::default());
        let client = runtime.block_on(connecting).unwrap();
        let start = |key: usize| {
            let writer = Writer { key: key.to_string(), has_versions, ..Writer::default() };
            runtime.spawn(writer.run(client.clone(), tally.clone(), stopping.clone()))
        };
        let writers = (0..WRITERS).map(start).collect();
        Writing { runtime, tally, stopping, writers }
    }

    /// Waits until so many more writes are acknowledged.
    #[track_caller]
    fn wait(&self, count: u64) {
        let until = self.tally.acknowledged() + count;
        wait_until("acknowledged writes", || {
            assert!(!self.writers.iter().any(JoinHandle::is_finished), "a writer has failed");
            self.tally.acknowledged() >= until
        });
    }

    /// Ends it; what each writer knows.
    fn stop(self) -> Vec<Writer> {
        self.stopping.store(true, Ordering::Relaxed);
        let ended = self.writers.into_iter().map(|writer| self.runtime.block_on(writer).unwrap());
        ended.collect()
    }
}

#[test]
fn no_acknowledged_write_is_lost_by_a_rolling_upgrade_or_a_killed_leader() {
    let old: Option<&str> = std::env::var(OLD).ok().map(|path| &*path.leak());
    let mut cluster = Cluster::of_program(old.unwrap_or(DISKSTORE));
    let writing = Writing::start(&cluster, old.is_none());
    let tally = writing.tally.clone();
    for index in 0..3 {
        writing.wait(WRITES_BETWEEN);
        let led = cluster.leader() == index;
        tally.gap();
        cluster.nodes[index].stop();
        cluster.nodes[index].program = DISKSTORE;
        cluster.nodes[index].start();
        cluster.wait_voters(3);
        cluster.wait_level();
        writing.wait(WRITES_BETWEEN);
        let role = if led { "the leader" } else { "a follower" };
        eprintln!("-- {role} is restarted: {:?} without an acknowledged write", tally.gap());
    }
    let refused = tally.refused.lock().clone();
    assert!(refused.is_empty(), "{refused:?}");
    let (acknowledged, unknown) = (tally.acknowledged(), tally.unknown.load(Ordering::Relaxed));
    eprintln!("-- rolling: {acknowledged} writes acknowledged, {unknown} unknown, none refused");

    let leader = cluster.leader();
    cluster.nodes[leader].kill();
    writing.wait(WRITES_BETWEEN);
    cluster.nodes[leader].start();
    cluster.wait_voters(3);
    eprintln!("-- the leader is killed: {:?} without an acknowledged write", tally.gap());

    let writers = writing.stop();
    cluster.wait_level();
    for writer in &writers {
        for node in &cluster.nodes {
            let value = node.local(&writer.key).unwrap();
            writer.check(value.as_deref().map(str::as_bytes));
        }
    }
    let restarted = cluster.nodes.iter().all(|node| node.program == DISKSTORE);
    assert!(restarted && tally.acknowledged() > 7 * WRITES_BETWEEN);
}
