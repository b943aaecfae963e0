//! How a cluster begins: which directories it began with.
//!
//! A node with an empty directory cannot know whether it is new or has lost what it held. Once every node
//! has been there with a new directory at one time, there was nothing to lose. Whoever sees that first notes the
//! directories, by their random numbers; a node that finds its own directory in another node's note has lost nothing
//! since. Pure. Called by the node; calls `rules`.

use std::collections::BTreeMap;

use super::clock::NodeNumber;
use super::rules::{Rule, Rules};

/// What a node says of its directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directory {
    /// It is empty, and nothing was ever copied to it.
    pub is_new: bool,
    /// The random number that it was made with.
    pub incarnation: u64,
    /// The note of the directories that the cluster began with, if this node has one.
    pub founders: BTreeMap<NodeNumber, u64>,
}

/// The directories that the cluster of so many nodes began with, if the one `here` is among them; `others` are those that
/// were heard.
pub fn founders(
    own: NodeNumber,
    here: &Directory,
    others: &BTreeMap<NodeNumber, Directory>,
    node_count: usize,
    rules: Rules,
) -> Option<BTreeMap<NodeNumber, u64>> {
    let is_here = |number: &u64| *number == here.incarnation || !rules.keep(Rule::FoundersByNumber);
    let notes = others.values().map(|other| &other.founders);
    if let Some(note) = notes.into_iter().find(|note| note.get(&own).is_some_and(is_here)) {
        return Some(note.clone());
    }
    // Who holds something has met a node that was ready: the note of that one counts alone.
    if !here.is_new {
        return None;
    }
    let new = others.iter().filter(|(_, other)| other.is_new);
    let mut all: BTreeMap<NodeNumber, u64> =
        new.map(|(number, other)| (*number, other.incarnation)).collect();
    all.insert(own, here.incarnation);
    let needed = if rules.keep(Rule::FoundedByAll) { node_count } else { node_count / 2 + 1 };
    (all.len() >= needed).then_some(all)
}
