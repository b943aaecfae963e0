//! Whole nodes in one process, over simulated disks and pipes: what no machine can show by itself.

use std::collections::BTreeMap;

use diskstore_storage::disk::{CrashMode, Disk, SimDisk};
use tokio::task::JoinHandle;

use super::*;
use crate::config::Address;
use crate::host::{LocalNet, Net};
use crate::leaderless::layout::Described;

mod clocks;
mod crash;
mod running;
mod turns;

/// Repair that a test need not wait for.
const PACE: Pace = Pace {
    pull_every: Duration::from_millis(200),
    fence_lag: Duration::from_millis(500),
    clean_after: Duration::from_mins(5),
    segment_bytes: 8 << 20,
};

/// A cluster.
struct Cluster {
    net: LocalNet,
    layout: Layout,
    nodes: BTreeMap<usize, Node>,
    disks: BTreeMap<usize, SimDisk>,
    accepts_loss: bool,
    memory_bytes_max: u64,
    value_bytes_max: u32,
    forget_after: Duration,
    /// How wrong clocks are, in milliseconds.
    clocks_off: BTreeMap<usize, i64>,
}

struct Node {
    registers: Arc<Registers>,
    listener: JoinHandle<()>,
}

fn address(node: usize) -> String {
    format!("node-{node}:8001")
}

fn layout(count: usize, replicas: u64, seed: u32) -> Layout {
    let described = |node: usize| Described {
        id: node.to_string(),
        address: Some(Address::parse(&address(node)).unwrap()),
        weight: 1,
        zone: None,
    };
    Layout::first(seed, replicas, (1..=count).map(described).collect()).unwrap()
}

impl Cluster {
    fn new(count: usize) -> Cluster {
        Cluster {
            net: LocalNet::default(),
            layout: layout(count, 3.min(count as u64), 0),
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            accepts_loss: false,
            memory_bytes_max: 1 << 30,
            value_bytes_max: 1 << 20,
            forget_after: Duration::from_hours(1),
            clocks_off: BTreeMap::new(),
        }
    }

    /// All nodes, once the cluster has begun.
    async fn begun(count: usize) -> Cluster {
        let mut cluster = Cluster::new(count);
        for node in 1..=count {
            cluster.start(node).await;
        }
        cluster.ready().await;
        cluster
    }

    fn config(&self, node: usize) -> RegistersConfig {
        RegistersConfig {
            id: node.to_string(),
            layout: self.layout.clone(),
            directory: "/node".into(),
            memory_bytes_max: self.memory_bytes_max,
            value_bytes_max: self.value_bytes_max,
            sync: SyncPolicy::Always,
            accepts_loss: self.accepts_loss,
            forget_after: self.forget_after,
        }
    }

    async fn try_start(&mut self, node: usize) -> Result<(), RegistersStartError> {
        let disk = self.disks.entry(node).or_insert_with(|| SimDisk::new(node as u64)).clone();
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let clock = match self.clocks_off.get(&node) {
            Some(ms) => crate::host::Clock::Off(*ms),
            None => crate::host::Clock::System,
        };
        let host = Host { disk, net: Net::Local(self.net.clone()), clock, ..Host::real() };
        let listener = host.net.listen(&address(node)).await.unwrap();
        let registers = Registers::start_at(&host, self.config(node), PACE).await?;
        let served = registers.clone();
        let listener = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(served.clone().serve_peer(stream, BytesMut::new()));
            }
        });
        self.nodes.insert(node, Node { registers, listener });
        Ok(())
    }

    async fn start(&mut self, node: usize) {
        self.try_start(node).await.unwrap();
    }

    async fn stop(&mut self, node: usize) {
        let Node { registers, listener } = self.nodes.remove(&node).unwrap();
        listener.abort();
        drop(listener.await);
        registers.stop().await;
    }

    /// Stops a node; what it had not synced is lost.
    async fn crash(&mut self, node: usize) {
        let left = self.disks[&node].crash(CrashMode::Lost);
        self.stop(node).await;
        self.disks.insert(node, left);
    }

    fn at(&self, node: usize) -> &Registers {
        &self.nodes[&node].registers
    }

    /// Waits until a condition holds of all statuses.
    async fn wait(&self, what: &str, holds: impl Fn(&RegistersStatus) -> bool) {
        let begun = Instant::now();
        for node in self.nodes.values() {
            loop {
                let status = node.registers.status().await;
                if holds(&status) {
                    break;
                }
                assert!(begun.elapsed() < Duration::from_mins(1), "never {what}: {status:?}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// Waits until all nodes that run answer, and see each other.
    async fn ready(&self) {
        let others = self.nodes.len() - 1;
        self.wait("ready", |status| {
            let up = status.peers.iter().filter(|peer| peer.is_up && peer.standing == "ready");
            status.standing == "ready" && up.count() >= others
        })
        .await;
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
