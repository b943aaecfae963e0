//! Who carries out the reads and writes of clients: this node with the replicas of the key, or a
//! coordinator that holds no keys itself and passes each operation on to a replica.
//!
//! Called by the protocols of this folder; the class of each failure is decided here, once for all of them.

use std::sync::Arc;

use bytes::Bytes;

use super::coordinator::{COORDINATOR, Coordinator};
use crate::command::FailureClass;
use crate::leaderless::clock::Version;
use crate::leaderless::layout::Layout;
use crate::leaderless::message::Held;
use crate::leaderless::node::{BadInput, RegisterError, Registers, RegistersStatus};
use crate::leaderless::operation::Level;
use crate::server::complaint::Complaint;

/// Who carries out operations.
#[derive(Debug, Clone)]
pub enum Registrar {
    /// A node, which holds keys.
    Node(Arc<Registers>),
    /// One that holds none, and passes operations on.
    Coordinator(Arc<Coordinator>),
}

impl Registrar {
    /// Reads a key.
    pub(super) async fn read(&self, key: Bytes, level: Level) -> Result<Held, Complaint> {
        match self {
            Registrar::Node(node) => Ok(node.read(key, level).await?),
            Registrar::Coordinator(coordinator) => coordinator.read(key, level).await,
        }
    }

    /// Gives a key a value, or takes it away.
    pub(super) async fn write(
        &self,
        key: Bytes,
        value: Option<Bytes>,
        level: Level,
    ) -> Result<Version, Complaint> {
        match self {
            Registrar::Node(node) => Ok(node.write(key, value, level).await?),
            Registrar::Coordinator(coordinator) => coordinator.write(key, value, level).await,
        }
    }

    /// Deletes a key, and says whether it had a value. At QUORUM and ALL a key without one is not written
    /// to: a read at these levels is in the same order as the writes of the key.
    pub(super) async fn delete(&self, key: Bytes, level: Level) -> Result<Deleted, Complaint> {
        let before = self.read(key.clone(), level).await?;
        let had_value = before.value.is_some();
        if !had_value && level != Level::One {
            return Ok(Deleted { had_value, version: before.version });
        }
        let version = self.write(key, None, level).await?;
        Ok(Deleted { had_value, version })
    }

    /// The node here, if there is one.
    pub(super) fn node(&self) -> Result<&Arc<Registers>, Complaint> {
        match self {
            Registrar::Node(node) => Ok(node),
            Registrar::Coordinator(_) => {
                let words = "this is a coordinator, which holds no keys: ask a storage node";
                Err(Complaint::new(FailureClass::Refused, words))
            }
        }
    }

    /// All nodes.
    pub(super) fn layout(&self) -> &Layout {
        match self {
            Registrar::Node(node) => &node.config().layout,
            Registrar::Coordinator(coordinator) => coordinator.layout(),
        }
    }

    /// Which node this is; none of a coordinator.
    pub(super) fn id(&self) -> &str {
        match self {
            Registrar::Node(node) => &node.config().id,
            Registrar::Coordinator(_) => "",
        }
    }

    /// Bytes of the value of a key as it is held here; `None` if it is held elsewhere.
    pub(super) fn value_bytes_here(&self, key: &[u8]) -> Option<usize> {
        match self {
            Registrar::Node(node) => node.value_bytes_here(key),
            Registrar::Coordinator(_) => None,
        }
    }

    /// Largest value, in bytes.
    pub(super) fn value_bytes_max(&self) -> usize {
        match self {
            Registrar::Node(node) => node.config().value_bytes_max as usize,
            Registrar::Coordinator(_) => crate::leaderless::file::VALUE_BYTES_MAX as usize,
        }
    }

    /// How it is.
    pub(super) async fn status(&self) -> RegistersStatus {
        match self {
            Registrar::Node(node) => node.status().await,
            Registrar::Coordinator(coordinator) => coordinator.status(),
        }
    }

    /// How it stands, without anything else of its status.
    pub(super) fn standing(&self) -> &'static str {
        match self {
            Registrar::Node(node) => node.standing(),
            Registrar::Coordinator(_) => COORDINATOR,
        }
    }

    /// Whether it takes operations at a level: its own replica answers, and unless one is enough, so many nodes are in sight
    /// that some key has a majority.
    pub(super) fn is_ready(&self, level: Level) -> bool {
        match self {
            Registrar::Node(node) => node.is_ready() && (level == Level::One || node.sees_quorum()),
            Registrar::Coordinator(coordinator) => coordinator.is_ready(),
        }
    }
}

/// What a delete did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deleted {
    /// Whether there was something to delete, as a read just before saw it.
    pub(super) had_value: bool,
    /// The version of the delete, or of what was read if nothing was written.
    pub(super) version: Version,
}

impl From<RegisterError> for Complaint {
    fn from(error: RegisterError) -> Complaint {
        let class = match &error {
            RegisterError::BadInput(BadInput::Value { .. }) => FailureClass::TooLarge,
            RegisterError::BadInput(_) => FailureClass::Wrong,
            RegisterError::NotStored(_) => FailureClass::Unavailable,
            RegisterError::Busy(_) => FailureClass::Busy,
            RegisterError::Unknown { .. } => FailureClass::Unknown,
        };
        Complaint::new(class, error.to_string())
    }
}

/// A level as clients write it.
pub(super) fn level(text: &[u8]) -> Result<Level, Complaint> {
    let level = std::str::from_utf8(text).ok().and_then(Level::parse);
    level.ok_or_else(|| Complaint::wrong("level is one, quorum or all"))
}
