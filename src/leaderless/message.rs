//! What the coordinator of an operation asks of the replicas of a key, and what they answer. Types
//! alone; `operation` and `replica` use them. Calls `clock`.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytes::Bytes;

use super::clock::{Moment, NodeNumber, Version};
use super::repair::{PullRequest, PullResponse};

/// Names an operation among those of its coordinator; never given again after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// Who asked, and for which operation: where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// The coordinator.
    pub node: NodeNumber,
    /// Its operation.
    pub operation: OperationId,
}

/// What a replica holds of a key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Held {
    /// [`Version::NONE`] if it holds nothing.
    pub version: Version,
    /// The value; `None` if the key is deleted, or nothing is held.
    pub value: Option<Bytes>,
}

impl Held {
    /// Whether another record of the same version is the one to keep. Two values of one version should
    /// not be (V1 of `clock.rs`); if there are, every replica keeps the same, whichever came
    /// first: the one with the higher CRC-32, then with the higher bytes; a delete is the lowest.
    pub fn yields_to(&self, other: &Held) -> bool {
        let rank = |held: &Held| held.value.as_ref().map(|value| crc32fast::hash(value));
        let order = rank(self).cmp(&rank(other)).then_with(|| self.value.cmp(&other.value));
        self.version < other.version || self.version == other.version && order == Ordering::Less
    }
}

/// A record for a replica to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// The key.
    pub key: Bytes,
    /// What it is to hold.
    pub held: Held,
    /// Where the record comes from.
    pub origin: Origin,
}

/// Where a record comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A write that is under way: no replica may have it yet.
    New {
        /// The version that the write was put above.
        base: Version,
    },
    /// Another replica: it exists already.
    Copy {
        /// The floor of that replica when it said so: what it holds at or below its floor is at all replicas,
        /// or is to come there.
        floor: Moment,
    },
}

/// What a coordinator asks of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// What is held of a key.
    Ask {
        /// The key.
        key: Bytes,
        /// Whether the value is to be in the answer. Only one replica is asked for it, as a rule.
        wants_value: bool,
    },
    /// Hold this.
    Store(Store),
    /// A step of a pull, with the pull in place of the operation.
    Pull(PullRequest),
}

/// What a replica answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// To an ask.
    Answer(Answer),
    /// To a store: this version or a higher one is synced here.
    Stored {
        /// The version of the store.
        version: Version,
        /// Whose word it is, if disks were lost.
        losses: Losses,
    },
    /// To a step of a pull.
    Pulled(PullResponse),
    /// To any of them: no, and nothing was changed.
    Refused(Refusal),
}

/// What is durable at a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The version of the key.
    pub version: Version,
    /// The value of that version.
    pub content: Content,
    /// What this replica knows of the floor ([`Numbers`](super::replica::Numbers)).
    pub floor: Moment,
    /// Up to where this replica has confirmed.
    pub confirmed: Moment,
    /// Whose word it is, if disks were lost.
    pub losses: Losses,
}

/// How often nodes lost their disks. What a node said before it lost its disk is true no more, and
/// a coordinator that counted on it must learn of the loss. It does: the node copies from so
/// many others that every quorum has one of them, and each notes the loss before it is copied. So
/// whatever it says afterwards tells the coordinator to forget what the node said before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Losses {
    /// Of the node that speaks.
    pub own: u64,
    /// Of others, as far as it was told; nobody who lost none is in here.
    pub others: BTreeMap<NodeNumber, u64>,
}

/// The value in an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The key has no value.
    Nothing,
    /// This is it.
    Value(Bytes),
    /// There is one, which was not asked for.
    Withheld,
}

impl Refusal {
    /// Whether the message that was refused will not be taken later either, should a link deliver it again. A clock may come to
    /// admit what is ahead of it.
    pub fn is_final(self) -> bool {
        match self {
            Self::Fenced | Self::Forgotten | Self::NoVersion | Self::NoRoom => true,
            Self::Copying | Self::Ahead => false,
        }
    }
}

/// Why a replica refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has to copy first: it was away while deletes were forgotten, or it lost its disk.
    #[error("the replica is copying what it missed")]
    Copying,
    /// The write is older than what the replica has promised to take.
    #[error("the write took too long: the replica takes none so old any more")]
    Fenced,
    /// Every record of that time is at all its replicas already, or deleted and forgotten.
    #[error("what is stored is older than what may still be on its way")]
    Forgotten,
    /// The version is too far ahead of the replica's time.
    #[error("the version is too far ahead of the replica's clock")]
    Ahead,
    /// It is no version at all.
    #[error("there is no version 0")]
    NoVersion,
    /// Its memory or its disk is full, or its disk is behind; or too much waits to be sent to it.
    #[error(
        "there is no room for it: the replica's memory or disk is full, its disk is behind, or too much waits to be sent to it"
    )]
    NoRoom,
}
