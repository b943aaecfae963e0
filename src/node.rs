//! One running node: commands in, results out.

use std::time::Duration;

use crate::command::{Command, CommandResult, Failure, ReadLevel};
use crate::status::Status;

/// One running node.
#[derive(Debug)]
pub struct Node;

/// What the slots of a node hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Number of slots.
    pub slot_count: u64,
    /// Most bytes of one value.
    pub value_bytes_max: u32,
}

fn not_running() -> Failure {
    Failure::NoLeader { reason: "the node is not running".to_owned() }
}

impl Node {
    /// The limits of keys and values.
    pub fn limits(&self) -> Limits {
        Limits { slot_count: 1 << 20, value_bytes_max: 1024 }
    }

    /// How fresh a read must be unless its caller asks for less.
    pub fn read_level(&self) -> ReadLevel {
        ReadLevel::Linearizable
    }

    /// Proposes all of `commands` together; the results are in their order.
    pub async fn write(&self, commands: Vec<Command>) -> Vec<CommandResult> {
        std::future::ready(commands.iter().map(|_| Err(not_running())).collect()).await
    }

    /// Reads all of `commands` in one freshness round; the results are in their order.
    pub async fn read(&self, commands: Vec<Command>, _level: ReadLevel) -> Vec<CommandResult> {
        std::future::ready(commands.iter().map(|_| Err(not_running())).collect()).await
    }

    /// At most `count` slots of this replica that hold a value, from `from` on, and where to go on.
    ///
    /// # Errors
    /// [`Failure`] if the slots cannot be read.
    pub async fn scan(
        &self,
        _from: u64,
        _count: usize,
    ) -> Result<(Vec<u64>, Option<u64>), Failure> {
        std::future::ready(Err(not_running())).await
    }

    /// How many slots of this replica hold a value.
    ///
    /// # Errors
    /// [`Failure`] if the slots cannot be read.
    pub async fn live_count(&self) -> Result<u64, Failure> {
        std::future::ready(Err(not_running())).await
    }

    /// Waits until `members` other than the leader hold `index` durably; how many do.
    pub async fn wait_replicas(&self, _index: u64, _members: usize, _timeout: Duration) -> usize {
        std::future::ready(0).await
    }

    /// What the node says about itself.
    pub fn status(&self) -> Status {
        Status::default()
    }

    /// Highest log index that this replica has applied.
    pub fn applied_index(&self) -> u64 {
        0
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        false
    }
}
