//! Why an operation has no result, and why a node does not start.

use super::KEY_BYTES_MAX;
use crate::leaderless::clock::{OBSERVED_MS_MAX, SKEW_MS_MAX, Version};

/// Why an operation has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// What was asked for can never be.
    #[error(transparent)]
    BadInput(#[from] BadInput),
    /// Nothing was stored, and nothing will be: trying again is harmless. Of a read: there is no answer.
    #[error("{0}")]
    NotStored(String),
    /// As `NotStored`, for a reason that goes away: no memory is left, or the disk is behind.
    #[error("{0}")]
    Busy(String),
    /// A write may have been stored, or may be later, until a newer write of the key.
    #[error(
        "unknown: stored by {stored_by} of {replicas} replicas; it may appear until a newer write (version {})",
        version.get()
    )]
    Unknown {
        /// The version of the write; [`Version::NONE`] if that is not known either.
        version: Version,
        /// How many replicas are known to have stored it.
        stored_by: usize,
        /// How many replicas the key has.
        replicas: usize,
    },
}

/// What can never be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadInput {
    /// A key that is none.
    #[error("a key of {bytes} bytes; give 1 to {KEY_BYTES_MAX}")]
    Key {
        /// What it has.
        bytes: usize,
    },
    /// A value that is too large.
    #[error("a value of {bytes} bytes; this node takes at most {max} (value_max)")]
    Value {
        /// What it has.
        bytes: usize,
        /// What it may have.
        max: u32,
    },
    /// A clock that this node's is to be raised to, and is too far ahead.
    #[error("the clock is more than {OBSERVED_MS_MAX} ms ahead of this node's time")]
    ClockAhead,
    /// A clock to store under, of a client of the original's API, that is too far ahead.
    #[error(
        "the clock is more than {SKEW_MS_MAX} ms ahead of this node's time, and more than one tick above what the key holds"
    )]
    StoredAhead,
    /// Version 0.
    #[error("a value cannot be stored under the clock 0, 0")]
    NoClock,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum RegistersStartError {
    /// It is no node of the layout.
    #[error("node {id} is not in the layout; its nodes are in the cluster file")]
    NotInLayout {
        /// Its id.
        id: String,
    },
    /// Files that cannot be used.
    #[error(transparent)]
    Storage(#[from] diskstore_storage::Error),
    /// The files are of another node, another layout or another program.
    #[error("{directory}: {reason}")]
    OtherDirectory {
        /// Where they are.
        directory: String,
        /// Whose they are.
        reason: String,
    },
    /// The system has no thread or no randomness left.
    #[error("this node cannot start")]
    System(#[from] std::io::Error),
}
