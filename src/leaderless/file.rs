//! The YAML files of a leaderless cluster: the original's (46bit/leaderless-key-value-store), of
//! both of its ages, with a few keys of ours.
//!
//! In its first age every node was both storage and coordinator, and had two files: `node:` says
//! what is its own, `cluster:` what all share. Later the two parts were programs of their own, with
//! one file each: `storage_node:` and `coordinator_node:`. The top-level key says which of them a
//! file is. Ids look like numbers and are text; durations are written as in Go (`1m30s`). A key that
//! nobody knows is an error with its line, for it is likely to be a misspelt one. Calls `layout`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::layout::{Described, Layout, LayoutError};
use super::operation::Level;
use crate::config::{Address, SyncPolicy, sync_policy};

/// Most bytes of a file.
const FILE_BYTES_MAX: usize = 1 << 20;
/// Largest value that a node may be told to take, in bytes; also the default.
pub const VALUE_BYTES_MAX: u32 = 16 << 20;
/// Most MiB of memory that a node may be told to use.
const MEMORY_MIB_MAX: u64 = 1 << 24;

/// What a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaderlessFile {
    /// `node:` or `storage_node:`.
    Node(NodeFile),
    /// `cluster:`.
    Cluster(Layout),
    /// `coordinator_node:`.
    Coordinator(CoordinatorFile),
}

/// What is a node's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFile {
    /// Which node of the layout it is.
    pub id: String,
    /// Where it listens, for peers and clients.
    pub listen: Address,
    /// Where it shows its metrics, if anywhere.
    pub metrics: Option<Address>,
    /// Its directory (`badger_db_folder`, for the original kept its data in Badger).
    pub directory: PathBuf,
    /// Where the original kept the epoch of its clock. It is only read.
    pub clock_epoch_file: Option<PathBuf>,
    /// The level of operations that ask for none.
    pub level: Level,
    /// How much memory keys may take, in MiB; `None` leaves it to the program.
    pub memory_mib: Option<u64>,
    /// Largest value, in bytes; 1 to [`VALUE_BYTES_MAX`].
    pub value_bytes_max: u32,
    /// When the log is synced.
    pub sync: SyncPolicy,
}

/// What a coordinator is told: the layout, and where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoordinatorFile {
    /// Where it listens for clients.
    pub listen: Address,
    /// The nodes that hold keys.
    pub layout: Layout,
    /// How nodes are found that the file gives no address.
    pub discovery: Option<Discovery>,
    /// The level of operations that ask for none.
    pub level: Level,
}

/// Where DNS knows the nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// The domain whose records are asked for.
    pub domain: String,
    /// The port at which all nodes listen.
    pub port: u16,
    /// How often it is asked.
    pub interval: Duration,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaderlessFileError {
    /// Longer than any layout.
    #[error("the file has {bytes} bytes; at most {FILE_BYTES_MAX} are read")]
    TooLong {
        /// How many it has.
        bytes: usize,
    },
    /// No YAML, or a key that is unknown, twice there, or of the wrong kind.
    #[error("not valid: {reason}")]
    Syntax {
        /// Where and what.
        reason: String,
    },
    /// None of the four top-level keys, or two of them.
    #[error("give one of `node:`, `cluster:`, `storage_node:` and `coordinator_node:`")]
    Top,
    /// Something that must be there.
    #[error("`{key}` is missing")]
    Missing {
        /// What.
        key: String,
    },
    /// A text that is not what its key wants.
    #[error("`{key}: {value}`: {reason}")]
    Value {
        /// Where it is.
        key: String,
        /// What is there.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A number beyond its bounds.
    #[error("`{key}: {value}` is out of range; give 1 to {max}")]
    Range {
        /// Where it is.
        key: String,
        /// What is there.
        value: u64,
        /// The bound.
        max: u64,
    },
    /// Something about a node that is not listed.
    #[error("`{key}` is about no node of `storage_node_ids`")]
    NoNode {
        /// Where it is.
        key: String,
    },
    /// Nodes that make no layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Top {
    node: Option<RawNode>,
    cluster: Option<RawCluster>,
    storage_node: Option<RawNode>,
    coordinator_node: Option<RawCoordinator>,
}

/// Keys that were renamed between the ages are taken by both names in both forms.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNode {
    id: Option<String>,
    #[serde(alias = "bind_address")]
    local_address: Option<String>,
    #[serde(alias = "bind_metrics_address")]
    local_metrics_address: Option<String>,
    badger_db_folder: Option<PathBuf>,
    clock_epoch_file_path: Option<PathBuf>,
    level: Option<String>,
    memory_mib: Option<u64>,
    value_max: Option<u64>,
    sync: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCluster {
    #[serde(default)]
    seed: u32,
    replica_count: Option<u64>,
    #[serde(default)]
    nodes: BTreeMap<String, RawMember>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMember {
    remote_address: Option<String>,
    weight: Option<u32>,
    zone: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCoordinator {
    #[serde(default)]
    rendezvous_hashing_seed: u32,
    replication_level: Option<u64>,
    bind_address: Option<String>,
    #[serde(default)]
    storage_node_ids: Vec<String>,
    #[serde(default)]
    static_service_discovery: BTreeMap<String, Option<String>>,
    dns_service_discovery: Option<RawDiscovery>,
    /// The original's pools: a node has one connection to each other, so both are only checked.
    size_of_connection_pools: Option<u64>,
    remove_unused_connection_pools_after: Option<String>,
    #[serde(default)]
    weights: BTreeMap<String, u32>,
    #[serde(default)]
    zones: BTreeMap<String, String>,
    level: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDiscovery {
    storage_node_domain: Option<String>,
    storage_node_port: Option<u64>,
    update_interval: Option<String>,
}

type Result<T> = std::result::Result<T, LeaderlessFileError>;

/// Reads what a file holds.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn parse(text: &str) -> Result<LeaderlessFile> {
    if text.len() > FILE_BYTES_MAX {
        return Err(LeaderlessFileError::TooLong { bytes: text.len() });
    }
    let options = serde_saphyr::options! { with_snippet: false };
    let top: Top = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        LeaderlessFileError::Syntax { reason: error.to_string().trim_end().to_owned() }
    })?;
    match top {
        Top { node: Some(node), cluster: None, storage_node: None, coordinator_node: None } => {
            let keys =
                Keys { top: "node", listen: "local_address", metrics: "local_metrics_address" };
            node_file(&keys, node).map(LeaderlessFile::Node)
        }
        Top { node: None, cluster: Some(cluster), storage_node: None, coordinator_node: None } => {
            cluster_file(cluster).map(LeaderlessFile::Cluster)
        }
        Top { node: None, cluster: None, storage_node: Some(node), coordinator_node: None } => {
            let (listen, metrics) = ("bind_address", "bind_metrics_address");
            node_file(&Keys { top: "storage_node", listen, metrics }, node)
                .map(LeaderlessFile::Node)
        }
        Top { node: None, cluster: None, storage_node: None, coordinator_node: Some(raw) } => {
            coordinator_file(raw).map(LeaderlessFile::Coordinator)
        }
        _ => Err(LeaderlessFileError::Top),
    }
}

/// What a file of one age calls the keys of a node.
struct Keys {
    top: &'static str,
    listen: &'static str,
    metrics: &'static str,
}

fn node_file(keys: &Keys, raw: RawNode) -> Result<NodeFile> {
    let key = |name: &str| format!("{}.{name}", keys.top);
    let metrics = raw.local_metrics_address;
    let value_max = raw.value_max.unwrap_or(u64::from(VALUE_BYTES_MAX));
    let value_bytes_max = within(key("value_max"), value_max, u64::from(VALUE_BYTES_MAX))?;
    let sync = raw.sync.unwrap_or_else(|| "always".to_owned());
    Ok(NodeFile {
        id: given(key("id"), raw.id)?,
        listen: address(key(keys.listen), raw.local_address)?,
        metrics: metrics.map(|text| address(key(keys.metrics), Some(text))).transpose()?,
        directory: given(key("badger_db_folder"), raw.badger_db_folder)?,
        clock_epoch_file: raw.clock_epoch_file_path,
        level: level(key("level"), raw.level)?,
        memory_mib: raw
            .memory_mib
            .map(|mib| within(key("memory_mib"), mib, MEMORY_MIB_MAX))
            .transpose()?,
        value_bytes_max: u32::try_from(value_bytes_max).unwrap_or(VALUE_BYTES_MAX),
        sync: sync_policy(&sync).map_err(|error| LeaderlessFileError::Value {
            key: key("sync"),
            value: sync,
            reason: error.to_string(),
        })?,
    })
}

fn cluster_file(raw: RawCluster) -> Result<Layout> {
    let mut nodes = Vec::with_capacity(raw.nodes.len());
    for (id, member) in raw.nodes {
        let key = format!("cluster.nodes.{id}.remote_address");
        let address = Some(reachable(key, member.remote_address)?);
        let weight = member.weight.unwrap_or(1);
        nodes.push(Described { id, address, weight, zone: member.zone });
    }
    let replicas = given("cluster.replica_count".to_owned(), raw.replica_count)?;
    Ok(Layout::first(raw.seed, replicas, nodes)?)
}

fn coordinator_file(mut raw: RawCoordinator) -> Result<CoordinatorFile> {
    let key = |name: &str| format!("coordinator_node.{name}");
    let discovery = raw.dns_service_discovery.map(discovery).transpose()?;
    if let Some(size) = raw.size_of_connection_pools {
        within(key("size_of_connection_pools"), size, u64::MAX)?;
    }
    if let Some(text) = raw.remove_unused_connection_pools_after {
        duration(key("remove_unused_connection_pools_after"), text)?;
    }
    let mut nodes = Vec::with_capacity(raw.storage_node_ids.len());
    for id in raw.storage_node_ids {
        let text = raw.static_service_discovery.remove(&id).flatten();
        let place = key(&format!("static_service_discovery.{id}"));
        let is_found_otherwise = text.is_none() && discovery.is_some();
        let address = if is_found_otherwise { None } else { Some(reachable(place, text)?) };
        let weight = raw.weights.remove(&id).unwrap_or(1);
        let zone = raw.zones.remove(&id);
        nodes.push(Described { id, address, weight, zone });
    }
    // An address of no node is passed over, as the original did; ours are held to be mistakes.
    if let Some(id) = raw.weights.keys().next() {
        return Err(LeaderlessFileError::NoNode { key: key(&format!("weights.{id}")) });
    }
    if let Some(id) = raw.zones.keys().next() {
        return Err(LeaderlessFileError::NoNode { key: key(&format!("zones.{id}")) });
    }
    let replicas = given(key("replication_level"), raw.replication_level)?;
    Ok(CoordinatorFile {
        listen: address(key("bind_address"), raw.bind_address)?,
        layout: Layout::first(raw.rendezvous_hashing_seed, replicas, nodes)?,
        discovery,
        level: level(key("level"), raw.level)?,
    })
}

fn discovery(raw: RawDiscovery) -> Result<Discovery> {
    let key = |name: &str| format!("coordinator_node.dns_service_discovery.{name}");
    let port = given(key("storage_node_port"), raw.storage_node_port)?;
    let port = within(key("storage_node_port"), port, u64::from(u16::MAX))?;
    Ok(Discovery {
        domain: given(key("storage_node_domain"), raw.storage_node_domain)?,
        port: u16::try_from(port).expect("invariant: it is within its bounds"),
        interval: duration(
            key("update_interval"),
            given(key("update_interval"), raw.update_interval)?,
        )?,
    })
}

fn given<T>(key: String, value: Option<T>) -> Result<T> {
    value.ok_or(LeaderlessFileError::Missing { key })
}

fn within(key: String, value: u64, max: u64) -> Result<u64> {
    if (1..=max).contains(&value) {
        return Ok(value);
    }
    Err(LeaderlessFileError::Range { key, value, max })
}

fn address(key: String, text: Option<String>) -> Result<Address> {
    let value = given(key.clone(), text.filter(|text| !text.is_empty()))?;
    Address::parse(&value).map_err(|reason| {
        let reason = format!("{reason}; give HOST:PORT");
        LeaderlessFileError::Value { key, value, reason }
    })
}

/// An address that others are to dial.
fn reachable(key: String, text: Option<String>) -> Result<Address> {
    let address = address(key.clone(), text)?;
    if address.is_wildcard() {
        let reason = "this is no address that other nodes can reach".to_owned();
        return Err(LeaderlessFileError::Value { key, value: address.to_string(), reason });
    }
    Ok(address)
}

fn level(key: String, text: Option<String>) -> Result<Level> {
    let Some(value) = text else { return Ok(Level::default()) };
    Level::parse(&value).ok_or_else(|| {
        let reason = "give one, quorum or all".to_owned();
        LeaderlessFileError::Value { key, value, reason }
    })
}

fn duration(key: String, value: String) -> Result<Duration> {
    humantime::parse_duration(&value).map_err(|error| {
        let reason = format!("{error}; give a duration like 30s or 1m30s");
        LeaderlessFileError::Value { key, value, reason }
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const NODE: &str = "node:\n  id: 01\n  local_address: :8001\n  badger_db_folder: /d\n";
    const CLUSTER: &str = "cluster:\n  seed: 7\n  replica_count: 2\n  nodes:\n    1:\n      \
                           remote_address: h:1\n    2: {remote_address: h:2, weight: 3, zone: b}\n";
    const STORAGE: &str = "storage_node:\n  id: 1\n  bind_address: h:1\n  badger_db_folder: /d\n  \
                           level: one\n  memory_mib: 64\n  value_max: 1024\n  sync: batch:5\n";
    const COORDINATOR: &str = "coordinator_node:\n  replication_level: 1\n  bind_address: 8080\n  \
                               storage_node_ids: [1, 2]\n  static_service_discovery: {1: h:1}\n  \
                               dns_service_discovery: {storage_node_domain: d, storage_node_port: \
                               80, update_interval: 1m30s}\n  weights: {2: 3}\n";

    fn example(path: &str) -> LeaderlessFile {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(path);
        let text = std::fs::read_to_string(&path).unwrap();
        parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn example_node(path: &str) -> NodeFile {
        let LeaderlessFile::Node(node) = example(path) else { panic!("{path} is of a node") };
        node
    }

    /// Each node's own address is the one by which the layout knows it, and no two share anything.
    fn assert_fits(layout: &Layout, nodes: &[NodeFile]) {
        assert_eq!(layout.nodes().len(), nodes.len());
        let mut directories = std::collections::BTreeSet::new();
        for node in nodes {
            let listed = layout.node(&node.id).expect(&node.id);
            assert_eq!(listed.address.as_ref(), Some(&node.listen), "node {}", node.id);
            assert_ne!(node.metrics.as_ref(), Some(&node.listen));
            assert!(directories.insert(node.directory.clone()), "{}", node.directory.display());
        }
    }

    #[test]
    fn the_example_files_are_whole_clusters() {
        for (folder, count) in [("3-local-nodes", 3), ("5-nodes", 5), ("9-local-nodes", 9)] {
            let path = format!("{folder}/cluster.yml");
            let LeaderlessFile::Cluster(layout) = example(&path) else { panic!("{path}") };
            let nodes: Vec<_> =
                (1..=count).map(|nth| example_node(&format!("{folder}/node-{nth}.yml"))).collect();
            assert_eq!((layout.replica_count(), layout.seed()), (3, 0));
            if folder != "5-nodes" {
                assert_fits(&layout, &nodes);
            }
        }
        let folder = "1-coordinator-and-3-storage-nodes";
        let path = format!("{folder}/coordinator.yml");
        let LeaderlessFile::Coordinator(coordinator) = example(&path) else { panic!("{path}") };
        let nodes: Vec<_> =
            (1..=3).map(|nth| example_node(&format!("{folder}/storage_node_{nth}.yml"))).collect();
        assert_fits(&coordinator.layout, &nodes);
        let places = coordinator.layout.replicas(b"a");
        assert_eq!(places.iter().map(|number| number.get()).collect::<Vec<_>>(), [2, 1, 3]);
    }

    #[test]
    fn both_ages_and_our_own_keys_are_read() {
        let LeaderlessFile::Node(node) = parse(NODE).unwrap() else { panic!("{NODE}") };
        assert_eq!((&*node.id, node.listen.to_string()), ("01", "127.0.0.1:8001".to_owned()));
        assert_eq!((node.level, node.value_bytes_max), (Level::Quorum, VALUE_BYTES_MAX));
        assert_eq!((node.sync, node.memory_mib, node.metrics), (SyncPolicy::Always, None, None));
        let LeaderlessFile::Node(node) = parse(STORAGE).unwrap() else { panic!("{STORAGE}") };
        assert_eq!((node.level, node.value_bytes_max), (Level::One, 1024));
        let late = SyncPolicy::Batch(Duration::from_millis(5));
        assert_eq!((node.sync, node.memory_mib), (late, Some(64)));
        let LeaderlessFile::Cluster(layout) = parse(CLUSTER).unwrap() else { panic!("{CLUSTER}") };
        assert_eq!((layout.seed(), layout.replica_count(), layout.epoch()), (7, 2, 1));
        let second = layout.node("2").unwrap();
        assert_eq!((second.weight, second.zone.as_deref()), (3, Some("b")));
        let file = parse(COORDINATOR).unwrap();
        let LeaderlessFile::Coordinator(coordinator) = file else { panic!("{COORDINATOR}") };
        let nodes = coordinator.layout.nodes();
        assert_eq!((nodes[0].address.is_some(), nodes[1].address.is_some()), (true, false));
        assert_eq!((nodes[1].weight, coordinator.listen.port), (3, 8080));
        assert_eq!(coordinator.discovery.unwrap().interval, Duration::from_secs(90));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let with = |text: &str, line: &str| format!("{text}  {line}\n");
        let node = |line| with("node:\n  id: 1\n  badger_db_folder: /d\n", line);
        let local = |line| with(NODE, line);
        let cluster = |line: &str| format!("cluster:\n  replica_count: 1\n  nodes: {line}\n");
        let coordinator = |line| with(COORDINATOR, line);
        for (text, words) in [
            (String::new(), "give one of `node:`"),
            ("{}".to_owned(), "give one of `node:`"),
            (format!("{NODE}{CLUSTER}"), "give one of `node:`"),
            ("nodes: {}\n".to_owned(), "nodes"),
            (local("levle: one"), "levle"),
            (local("levle: one"), "line 5"),
            (local("id: 2"), "id"),
            (local("level: two"), "`node.level: two`: give one, quorum or all"),
            (local("value_max: 0"), "`node.value_max: 0` is out of range; give 1 to 16777216"),
            (local("value_max: 16777217"), "`node.value_max: 16777217`"),
            (local("value_max: -1"), "not valid"),
            (local("memory_mib: 0"), "`node.memory_mib: 0`"),
            (local("sync: now"), "`node.sync: now`"),
            (node(""), "`node.local_address` is missing"),
            (node("local_address: h"), "`node.local_address: h`: the port is no number"),
            ("node: {}\n".to_owned(), "is missing"),
            ("storage_node: {id: 1}\n".to_owned(), "`storage_node.bind_address` is missing"),
            (cluster("{}"), "there are 0 nodes"),
            (cluster("{1: {}}"), "`cluster.nodes.1.remote_address` is missing"),
            (cluster("{1: {remote_address: 0.0.0.0:1}}"), "no address that other nodes can reach"),
            (cluster("{1: {remote_address: h:1}, 1: {remote_address: h:2}}"), "duplicate"),
            (cluster("{1: {remote_address: h:1, wait: 2}}"), "wait"),
            (CLUSTER.replace("replica_count: 2", "replica_count: 3"), "3 replicas of each key"),
            (CLUSTER.replace("replica_count: 2", ""), "`cluster.replica_count` is missing"),
            (CLUSTER.replace("seed: 7", "seed: 4294967296"), "not valid"),
            (coordinator("zones: {3: a}"), "`coordinator_node.zones.3` is about no node"),
            (coordinator("size_of_connection_pools: 0"), "`coordinator_node.size_of_connection"),
            (coordinator("remove_unused_connection_pools_after: 5"), "duration"),
            (COORDINATOR.replace("[1, 2]", "[1, 2, 1]"), "node 1 is there twice"),
            (COORDINATOR.replace("{2: 3}", "{2: 33}"), "node 2 has weight 33"),
            (COORDINATOR.replace("port: 80", "port: 65536"), "storage_node_port: 65536"),
            (" ".repeat(FILE_BYTES_MAX + 1), "1048577 bytes"),
        ] {
            let error = parse(&text).expect_err(&text).to_string();
            assert!(error.contains(words), "{text:.300}\n{error}");
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic() {
        let deep = "[".repeat(100_000);
        let bomb = "a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\nd: [*c,*c,*c,*c]\n";
        for text in [deep.as_str(), bomb, "\u{feff}", "\0", "- ", "? :", "%YAML 9\n---\n"] {
            assert!(parse(text).is_err(), "{text:.20}");
        }
        for whole in [NODE, CLUSTER, STORAGE, COORDINATOR] {
            for end in 0..whole.len() {
                let (before, behind) = whole.split_at(end);
                drop(parse(before));
                for strange in ["", ":", "\"", "{", "-", "\u{7f}", "999999999999999999999"] {
                    let behind = behind.get(1..).unwrap_or_default();
                    drop(parse(&format!("{before}{strange}{behind}")));
                }
            }
        }
    }
}
