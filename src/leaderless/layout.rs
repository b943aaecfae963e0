//! The layout: the nodes of a leaderless cluster, and how many of them hold each key.
//!
//! Every node is started with the same layout, out of its files; two nodes whose layouts differ
//! would look for one key at different places, so they compare their layouts' hashes when they
//! connect. A layout that was accepted once never changes; what replaces it has the next epoch.
//! Made by `file`; calls `place` and `clock`. Invariants:
//!
//! - I1: a layout is within its bounds; whatever is not is refused when it is made.
//! - I2: the number of a node is unique in the layout, because versions are told apart by it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::clock::NodeNumber;
use super::place::{self, Candidate};
use crate::config::{Address, is_name};

/// Most nodes.
pub const NODE_COUNT_MAX: usize = 64;
/// Most replicas of a key.
pub const REPLICA_COUNT_MAX: usize = 7;
/// Highest weight of a node.
pub const WEIGHT_MAX: u32 = 32;
/// Most that all weights make together.
pub const WEIGHT_SUM_MAX: u32 = 1024;

/// Bytes in hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("invariant: a string takes what is written to it");
        text
    })
}

/// A node of the layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutNode {
    /// What the files call it: text, even if it looks like a number.
    pub id: String,
    /// Its part of every version that it gives.
    pub number: NodeNumber,
    /// Where the others reach it; `None` if that is found by other means than the file.
    pub address: Option<Address>,
    /// How many keys it gets, compared with others; 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// What it shares with nodes that are likely to fail with it; a node without is on its own.
    pub zone: Option<String>,
}

/// A node as a file has it, without a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// As in [`LayoutNode`].
    pub id: String,
    /// As in [`LayoutNode`].
    pub address: Option<Address>,
    /// As in [`LayoutNode`].
    pub weight: u32,
    /// As in [`LayoutNode`].
    pub zone: Option<String>,
}

/// Which nodes there are, and how keys are spread over them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    epoch: u64,
    seed: u32,
    replica_count: usize,
    /// In the order of their ids.
    nodes: Vec<LayoutNode>,
    /// The same nodes, for [`place`].
    candidates: Vec<Candidate>,
}

/// Why something is no layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// No nodes, or too many.
    #[error("there are {count} nodes; give 1 to {NODE_COUNT_MAX}")]
    Nodes {
        /// How many there are.
        count: usize,
    },
    /// No replicas, too many, or more than nodes.
    #[error(
        "{count} replicas of each key over {nodes} nodes; give 1 to {REPLICA_COUNT_MAX}, and at most as \
         many as there are nodes"
    )]
    Replicas {
        /// How many are asked for.
        count: u64,
        /// How many nodes there are.
        nodes: usize,
    },
    /// An id that cannot be one.
    #[error(
        "`{id}` is no id; one is 1 to 64 letters, digits, `-`, `_` or `.`, and begins with a letter, a \
         digit or `_`"
    )]
    Id {
        /// What is there.
        id: String,
    },
    /// Two nodes of one id.
    #[error("node {id} is there twice")]
    IdTwice {
        /// The id.
        id: String,
    },
    /// One address for two nodes.
    #[error("nodes {first} and {second} are both at {address}; give each its own")]
    AddressTwice {
        /// The one.
        first: String,
        /// The other.
        second: String,
        /// Where they are.
        address: Address,
    },
    /// A weight beyond its bounds.
    #[error("node {id} has weight {weight}; give 1 to {WEIGHT_MAX}")]
    Weight {
        /// The node.
        id: String,
        /// What is there.
        weight: u32,
    },
    /// All weights together are too much.
    #[error("the weights of all nodes make {sum}; give at most {WEIGHT_SUM_MAX}")]
    WeightSum {
        /// What they make.
        sum: u32,
    },
    /// A zone that cannot be one.
    #[error("node {id} has the zone `{zone}`, which is no name")]
    Zone {
        /// The node.
        id: String,
        /// What is there.
        zone: String,
    },
}

impl Layout {
    /// The first layout of a cluster. Nodes are numbered from 1 in the order of their ids.
    ///
    /// # Errors
    /// The first bound that is not kept.
    ///
    /// # Panics
    /// Never: there are as many numbers as nodes can be.
    pub fn first(
        seed: u32,
        replica_count: u64,
        mut described: Vec<Described>,
    ) -> Result<Self, LayoutError> {
        described.sort_by(|one, other| one.id.cmp(&other.id));
        check_nodes(&described)?;
        let count = described.len();
        let replicas = usize::try_from(replica_count).unwrap_or(usize::MAX);
        if !(1..=REPLICA_COUNT_MAX.min(count)).contains(&replicas) {
            return Err(LayoutError::Replicas { count: replica_count, nodes: count });
        }
        let mut zones = BTreeMap::new();
        let mut candidates = Vec::with_capacity(count);
        for (at, node) in described.iter().enumerate() {
            let own = at + count; // behind the numbers of all zones with a name
            let next = zones.len();
            let zone = match &node.zone {
                Some(zone) => *zones.entry(zone.clone()).or_insert(next),
                None => own,
            };
            candidates.push(Candidate::new(&node.id, node.weight, seed, zone));
        }
        let numbered = (1..).zip(described).map(|(number, node)| LayoutNode {
            number: NodeNumber::new(number).expect("invariant: there are at most 64 nodes"),
            id: node.id,
            address: node.address,
            weight: node.weight,
            zone: node.zone,
        });
        let nodes = numbered.collect();
        Ok(Self { epoch: 1, seed, replica_count: replicas, nodes, candidates })
    }

    /// Counts layouts of a cluster from 1.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What placement begins with.
    pub fn seed(&self) -> u32 {
        self.seed
    }

    /// How many nodes hold a key.
    pub fn replica_count(&self) -> usize {
        self.replica_count
    }

    /// All nodes, in the order of their ids.
    pub fn nodes(&self) -> &[LayoutNode] {
        &self.nodes
    }

    /// The node of an id.
    pub fn node(&self, id: &str) -> Option<&LayoutNode> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// The nodes that hold a key, the one to ask first in front.
    pub fn replicas(&self, key: &[u8]) -> Vec<NodeNumber> {
        let chosen = place::replicas(&self.candidates, key, self.replica_count);
        chosen.into_iter().map(|at| self.nodes[at].number).collect()
    }

    /// The hash in hexadecimal digits.
    pub fn hash_text(&self) -> String {
        hex(&self.hash())
    }

    /// What two nodes compare to know that they place keys alike: SHA-256 over everything that
    /// placement and versions depend on. Addresses are left out, for a node may move.
    pub fn hash(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(b"diskstore layout 1\n");
        digest.update(self.seed.to_le_bytes());
        digest.update((self.replica_count as u64).to_le_bytes());
        digest.update((self.nodes.len() as u64).to_le_bytes());
        let mut text = |text: &str| {
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        };
        for node in &self.nodes {
            text(&node.id);
            text(&format!("{} {}", node.number, node.weight));
            text(node.zone.as_deref().unwrap_or_default()); // no zone has an empty name
        }
        digest.finalize().into()
    }
}

fn check_nodes(nodes: &[Described]) -> Result<(), LayoutError> {
    if !(1..=NODE_COUNT_MAX).contains(&nodes.len()) {
        return Err(LayoutError::Nodes { count: nodes.len() });
    }
    let mut sum: u32 = 0;
    let mut places: Vec<(&str, &Address)> = Vec::new();
    for node in nodes {
        let id = || node.id.clone();
        if !is_name(&node.id) {
            return Err(LayoutError::Id { id: id() });
        }
        if !(1..=WEIGHT_MAX).contains(&node.weight) {
            return Err(LayoutError::Weight { id: id(), weight: node.weight });
        }
        sum += node.weight; // at most 64 times 32
        if let Some(zone) = node.zone.as_deref().filter(|zone| !is_name(zone)) {
            return Err(LayoutError::Zone { id: id(), zone: zone.to_owned() });
        }
        let Some(address) = &node.address else { continue };
        if let Some((first, _)) = places.iter().find(|(_, other)| *other == address) {
            let (first, address) = ((*first).to_owned(), address.clone());
            return Err(LayoutError::AddressTwice { first, second: id(), address });
        }
        places.push((&node.id, address));
    }
    if let Some(pair) = nodes.windows(2).find(|pair| pair[0].id == pair[1].id) {
        return Err(LayoutError::IdTwice { id: pair[0].id.clone() });
    }
    if sum > WEIGHT_SUM_MAX {
        return Err(LayoutError::WeightSum { sum });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(id: &str) -> Described {
        Described { id: id.to_owned(), address: None, weight: 1, zone: None }
    }

    fn many(count: u32, weight: u32) -> Vec<Described> {
        (0..count).map(|nth| Described { weight, ..described(&nth.to_string()) }).collect()
    }

    fn at(id: &str, address: &str) -> Described {
        Described { address: Some(Address::parse(address).unwrap()), ..described(id) }
    }

    #[test]
    fn nodes_are_numbered_and_keys_placed_whatever_the_order_in_the_file() {
        let order = ["3", "1", "5", "2", "4"];
        let layout = Layout::first(0, 3, order.map(described).to_vec()).unwrap();
        let numbers: Vec<u16> = layout.nodes().iter().map(|node| node.number.get()).collect();
        let ids: Vec<&str> = layout.nodes().iter().map(|node| &*node.id).collect();
        assert_eq!((numbers, ids), (vec![1, 2, 3, 4, 5], vec!["1", "2", "3", "4", "5"]));
        let places: Vec<u16> = layout.replicas(b"a").iter().map(|number| number.get()).collect();
        assert_eq!(places, [2, 1, 3]);
        assert_eq!(layout.node("4").unwrap().number.get(), 4);
        assert!(layout.node("6").is_none());
    }

    /// I1
    #[test]
    fn what_is_no_layout_is_refused_by_name() {
        let zoned = |zone: &str| Described { zone: Some(zone.to_owned()), ..described("1") };
        let cases: [(Vec<Described>, u64, &str); 14] = [
            (vec![], 1, "there are 0 nodes"),
            (many(65, 1), 3, "there are 65 nodes"),
            (many(3, 1), 0, "0 replicas of each key over 3 nodes"),
            (many(3, 1), 4, "4 replicas of each key over 3 nodes"),
            (many(9, 1), 8, "8 replicas of each key over 9 nodes"),
            (many(9, 1), u64::MAX, "18446744073709551615 replicas"),
            (vec![described("")], 1, "`` is no id"),
            (vec![described("1#1")], 1, "`1#1` is no id"),
            (vec![described("1"), described("2"), described("1")], 1, "node 1 is there twice"),
            (vec![at("1", "h:1"), at("2", "h:1")], 1, "nodes 1 and 2 are both at h:1"),
            (many(1, 0), 1, "node 0 has weight 0; give 1 to 32"),
            (many(1, 33), 1, "node 0 has weight 33"),
            (many(33, 32), 1, "the weights of all nodes make 1056"),
            (vec![zoned("a b")], 1, "node 1 has the zone `a b`"),
        ];
        for (nodes, replicas, words) in cases {
            let error = Layout::first(0, replicas, nodes).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(Layout::first(0, 7, many(64, 16)).is_ok(), "the bounds themselves are allowed");
    }

    #[test]
    fn the_hash_tells_layouts_apart_that_place_keys_differently() {
        let hash = |seed, replicas, nodes| Layout::first(seed, replicas, nodes).unwrap().hash();
        let one = hash(0, 2, many(3, 1));
        let zoned = |zone: &str| {
            let mut nodes = many(3, 1);
            nodes[0].zone = Some(zone.to_owned());
            nodes
        };
        let others = [
            hash(1, 2, many(3, 1)),
            hash(0, 3, many(3, 1)),
            hash(0, 2, many(4, 1)),
            hash(0, 2, many(3, 2)),
            hash(0, 2, zoned("a")),
            hash(0, 2, zoned("b")),
        ];
        let all: std::collections::BTreeSet<_> = others.into_iter().chain([one]).collect();
        assert_eq!(all.len(), 7);
        let moved = vec![at("0", "h:1"), at("1", "h:2"), at("2", "h:3")];
        assert_eq!(hash(0, 2, moved), one, "a node that moved is the same node");
    }

    #[test]
    fn a_node_without_a_zone_is_on_its_own() {
        let mut nodes = many(4, 1);
        for node in &mut nodes[..3] {
            node.zone = Some("a".into());
        }
        let layout = Layout::first(0, 2, nodes).unwrap();
        for nth in 0..100 {
            let numbers = layout.replicas(format!("key-{nth}").as_bytes());
            assert!(numbers.iter().any(|number| number.get() == 4), "{numbers:?}");
        }
    }
}
