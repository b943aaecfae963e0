//! Nodes whose files list the same members, on simulated disks and pipes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use diskstore_storage::disk::{CrashMode, Disk, OperationKind, SimDisk};
use diskstore_storage::founding::FOUNDING_NAME;
use diskstore_storage::identity::IDENTITY_NAME;
use futures_util::{StreamExt, stream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::cli::{Number, Settings};
use crate::config::{Config, MachineKind};
use crate::host::{Host, LocalNet, Net};
use crate::node::{self, Node, StartError};

/// Nothing that must come takes longer.
const LONG: Duration = Duration::from_mins(3);
const POLL: Duration = Duration::from_millis(10);
/// The first of the file loses its disk at each of these operations, with a file of members and
/// directories made before, and slots and log after.
const CRASHES: std::ops::Range<u64> = 1..40;
const CRASH_STEP: usize = 8;
/// Clusters that found at once, on one thread.
const CLUSTERS_AT_ONCE: usize = 3;
/// Connections that a listed member takes until both others have looked at it twice.
const DIAL_COUNT: usize = 12;

/// What a disk says that has failed.
const EIO: i32 = 5;
/// The file of promises while it is written.
const FOUNDING_NEW_NAME: &str = "FOUNDING.new";

type Starting = JoinHandle<Result<Arc<Node>, StartError>>;

/// Where node `nth` of a file lives.
struct Place {
    net: LocalNet,
    nth: u64,
    disk: SimDisk,
}

impl Place {
    fn three(seed: u64) -> Vec<Place> {
        let net = LocalNet::default();
        let place = |nth| Place { net: net.clone(), nth, disk: SimDisk::new(10 * seed + nth) };
        (0..3).map(place).collect()
    }

    fn raft(nth: u64) -> String {
        format!("127.0.0.1:{}", 12000 + nth)
    }

    fn config(&self) -> Config {
        let servers: Vec<_> =
            (0..3).map(|nth| format!("  n{nth}: {}\n", Place::raft(nth))).collect();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cluster.yml");
        std::fs::write(&file, format!("servers:\n{}", servers.concat())).unwrap();
        let settings = Settings {
            id: Some(format!("n{}", self.nth)),
            cluster: Some(file),
            data: Some("/node".into()),
            slots: Some(Number("64".into())),
            value_size: Some(Number("32".into())),
            ..Settings::default()
        };
        Config::new(MachineKind::Slots, settings).unwrap()
    }

    fn start(&self) -> Starting {
        let (disk, net) = (Arc::new(self.disk.clone()), Net::Local(self.net.clone()));
        let (host, config) = (Host { disk, net, ..Host::real() }, self.config());
        tokio::spawn(async move { node::start(&host, config, Box::new(|_, _| {})).await })
    }

    fn has(&self, name: &str) -> bool {
        self.disk.exists(&Path::new("/node").join(name)).unwrap()
    }
}

async fn started(starting: Starting) -> Result<Arc<Node>, StartError> {
    timeout(LONG, starting).await.expect("it starts in time").unwrap()
}

/// Waits until all of them have the same members.
async fn together(nodes: &[Arc<Node>]) {
    let ids: Vec<u128> = nodes.iter().map(|node| node.ids().0).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:x?}");
    let is_whole = |node: &Arc<Node>| {
        let members = node.status().members;
        members.len() == 3 && members.iter().all(|member| member.role != "learner")
    };
    let all = async {
        while !nodes.iter().all(is_whole) {
            sleep(POLL).await;
        }
    };
    timeout(LONG, all).await.expect("three voters");
    for node in nodes {
        timeout(LONG, node.stop()).await.unwrap();
    }
}

#[tokio::test]
async fn a_listed_member_that_says_nothing_yet_is_waited_for() {
    let places = Place::three(1);
    let silent = Net::Local(places[2].net.clone()).listen(&Place::raft(2)).await.unwrap();
    let starting: Vec<_> = places[..2].iter().map(Place::start).collect();
    let mut dialled = Vec::new();
    while dialled.len() < DIAL_COUNT {
        dialled.push(timeout(LONG, silent.accept()).await.expect("it is asked").unwrap());
    }
    for place in &places[..2] {
        assert!(!place.has(FOUNDING_NAME) && !place.has(IDENTITY_NAME), "it may have a cluster");
    }
    drop((dialled, silent));
    let mut nodes = Vec::new();
    for starting in starting {
        nodes.push(started(starting).await.unwrap());
    }
    nodes.push(started(places[2].start()).await.unwrap());
    together(&nodes).await;
}

/// The first of the file loses power at an operation of its disk, and comes back.
async fn found_with_a_crash(at: u64, mode: CrashMode) {
    let mut places = Place::three(at);
    places[0].disk.crash_at(at);
    let starting: Vec<_> = places.iter().map(Place::start).collect();
    let mut starting = starting.into_iter();
    let first = started(starting.next().unwrap()).await;
    if let Ok(node) = first {
        // What fails after the start fails the node.
        timeout(LONG, node.wait_fault()).await.expect("its disk is gone");
        timeout(LONG, node.stop()).await.unwrap();
    }
    places[0].disk = places[0].disk.crash(mode);
    let again = places[0].start();
    let mut nodes = Vec::new();
    for starting in starting.chain([again]) {
        nodes.push(started(starting).await.unwrap());
    }
    together(&nodes).await;
}

#[tokio::test]
async fn a_power_loss_at_any_moment_of_a_founding_leaves_one_cluster() {
    let crashes = CRASHES.step_by(CRASH_STEP).map(|at| {
        let modes = [CrashMode::Lost, CrashMode::All, CrashMode::Reordered { seed: at }];
        found_with_a_crash(at, modes[usize::try_from(at / 8).unwrap() % modes.len()])
    });
    stream::iter(crashes).buffer_unordered(CLUSTERS_AT_ONCE).count().await;
}

/// The others accept what it proposes, and are a majority without it; killed before its log begins,
/// it would come back without a word of that cluster in its directory, and found one alone.
#[tokio::test]
async fn a_proposer_that_could_not_write_its_own_acceptance_has_not_founded() {
    let places = Place::three(2);
    places[0].disk.fail_after(1, OperationKind::Sync, FOUNDING_NEW_NAME, EIO);
    let starting: Vec<_> = places.iter().map(Place::start).collect();
    let mut starting = starting.into_iter();
    let first = started(starting.next().unwrap()).await.map(|_| "it has founded");
    assert!(matches!(first, Err(StartError::Storage(_))), "{first:?}");
    assert!(!places[0].has(IDENTITY_NAME));
    let again = places[0].start();
    let mut nodes = Vec::new();
    for starting in starting.chain([again]) {
        nodes.push(started(starting).await.unwrap());
    }
    together(&nodes).await;
}
