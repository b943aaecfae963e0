//! What the log changed, entry by entry: read from this member's log up to what it has applied.
//!
//! Called by `node` for those who follow along; calls the log and the replica. Whoever reads here holds
//! nothing up: entries come from the tail in memory, else from the segments on a thread that may block,
//! and applying knows nothing of it. Invariants:
//!
//! - I1: no index is passed over in silence: pieces follow one another without a gap, or what is missing is
//!   named.
//! - I2: nothing is told that is not applied here, and so committed.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use diskstore_storage::wal;
use diskstore_storage::{Error, LogId};
use tokio::time::sleep;

use super::Cluster;
use crate::command::{Action, Body, Command, Condition, DecodeError, Operation};
use crate::machine::Machine;
use crate::replica::{Committed, Payload, Replica};

/// Most bytes of commands that one piece takes from the log. One entry may be larger.
const PIECE_BYTES_MAX: usize = 64 << 10;
/// Most entries of one piece.
const PIECE_COUNT_MAX: u64 = 512;
/// How often, and after which pause, the log is read again that changes under every attempt.
const RETRY_COUNT_MAX: usize = 250;
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// One entry.
#[derive(Debug)]
pub struct Change {
    /// Where it is in the log.
    pub log_id: LogId,
    /// What it holds, if that is a command.
    pub command: Option<Command>,
}

/// Why changes cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] Error),
    /// An entry holds no command that this program knows.
    #[error("entry {index} of the log cannot be read: {source}")]
    Entry {
        /// Its index.
        index: u64,
        /// What is wrong with it.
        source: DecodeError,
    },
}

/// What follows an index.
#[derive(Debug)]
pub enum Following {
    /// These entries, of which the first is the next.
    Changes(Vec<Change>),
    /// No entry up to this index is there any more.
    Purged {
        /// That index.
        up_to: u64,
    },
}

/// Whether an operation took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It did.
    Applied,
    /// It did not.
    None,
    /// That cannot be told: the key was changed again, or cannot be read here.
    Unknown,
}

/// What became of one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Became {
    /// Whether it took effect.
    pub effect: Effect,
    /// The value behind it, where the operation does not say that.
    pub value: Option<Bytes>,
}

impl Cluster {
    /// What follows index `after`, once there is anything that this member has applied.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn following(&self, after: u64) -> Result<Following, FollowError> {
        let mut retry_count = 0;
        loop {
            match self.following_now(after).await {
                Err(FollowError::Log(Error::LogChanges { .. }))
                    if retry_count < RETRY_COUNT_MAX =>
                {
                    retry_count += 1;
                }
                read => return read,
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn following_now(&self, after: u64) -> Result<Following, FollowError> {
        let next = after.saturating_add(1);
        self.consensus.replica().wait_applied(next).await;
        let (applied, log) = (self.consensus.replica().applied().log_id, self.consensus.wal());
        // While a snapshot is being installed the log may still hold entries that were never committed, up to
        // indexes that count as applied. One that holds what is applied holds no other entry before it.
        let applied = applied.filter(|applied| log.log_id_at(applied.index) == Some(*applied));
        let Some(applied) = applied else { return Err(Error::LogChanges { index: next }.into()) };
        let end = applied.index.min(after.saturating_add(PIECE_COUNT_MAX));
        let range = next..end.saturating_add(1);
        let in_memory = log.read_tail(range.clone(), PIECE_BYTES_MAX);
        let entries = if let Some(entries) = in_memory {
            entries
        } else {
            let log = log.clone();
            let reading = move || log.read(range, PIECE_BYTES_MAX);
            let stopping = |_| Error::LogChanges { index: next };
            tokio::task::spawn_blocking(reading).await.map_err(stopping)??
        };
        match entries.first().map(|entry| entry.log_id.index) {
            Some(first) if first == next => in_a_row(entries, next).map(Following::Changes),
            Some(first) => Ok(Following::Purged { up_to: first - 1 }),
            // What is applied and not in the log was purged, or will be in a moment: a snapshot was
            // installed.
            None => {
                let purged = log.state().purged.map_or(0, |log_id| log_id.index);
                if purged >= next {
                    return Ok(Following::Purged { up_to: purged });
                }
                Err(Error::LogChanges { index: next }.into())
            }
        }
    }

    /// The first index whose entry is in this member's log.
    pub fn first_change(&self) -> u64 {
        self.consensus.wal().state().purged.map_or(1, |log_id| log_id.index + 1)
    }

    /// What became of each operation of the command of entry `index`, which is applied here. Beyond
    /// `value_bytes_max` bytes of values no more are read.
    pub fn became(&self, index: u64, command: &Command, value_bytes_max: usize) -> Vec<Became> {
        let mut bytes_left = value_bytes_max;
        let replica = self.consensus.replica();
        let mut counts: HashMap<&[u8], usize> = HashMap::new();
        if command.operation_count() > 1 {
            for key in command.operations().filter_map(|operation| operation.data_key()) {
                *counts.entry(key).or_default() += 1;
            }
        }
        let is_only = |key: &[u8]| counts.get(key).is_none_or(|count| *count == 1);
        // An entry with the request id of an earlier one was applied nowhere.
        let is_applied = replica.machine.request_ids().is_applied_by(index, command);
        let became = command.operations().map(|operation| match operation.action {
            _ if is_applied == Some(false) => Became { effect: Effect::None, value: None },
            Action::Set { condition: Condition::Always, .. }
            | Action::Delete { condition: Condition::Always, .. }
                if is_applied == Some(true) =>
            {
                Became { effect: Effect::Applied, value: None }
            }
            Action::Get | Action::Measure | Action::Publish { .. } => {
                Became { effect: Effect::None, value: None }
            }
            // Several operations on one key leave one version.
            _ if !is_only(operation.key) => Became::UNKNOWN,
            Action::Set { .. } | Action::Delete { .. } => {
                look_up(replica, &operation, index, Action::Measure)
            }
            Action::Increment { .. } | Action::Append { .. } | Action::SetRange { .. } => {
                let by = if bytes_left > 0 { Action::Get } else { Action::Measure };
                let mut became = look_up(replica, &operation, index, by);
                let bytes = became.value.as_ref().map_or(0, Bytes::len);
                if bytes > bytes_left {
                    became.value = None;
                }
                bytes_left = bytes_left.saturating_sub(bytes);
                became
            }
        });
        became.collect()
    }
}

impl Became {
    const UNKNOWN: Became = Became { effect: Effect::Unknown, value: None };
}

/// What the version of its key says of an operation of entry `index`: the key was written last by that
/// entry, or before it, or behind it.
fn look_up(replica: &Replica, operation: &Operation<'_>, index: u64, by: Action<'_>) -> Became {
    let look = |machine: &Machine| {
        let command = Command::single(&Operation { key: operation.key, action: by }).ok()?;
        let outcome = machine.read(&command).ok()?.outcomes.into_iter().next()?;
        // Of a key whose delete was forgotten there is no version.
        let version = if outcome.version == 0 { machine.absent_since() } else { outcome.version };
        let is_forgotten = outcome.version == 0 && version >= index;
        Some((version, outcome.body)).filter(|_| !is_forgotten)
    };
    let Some((version, body)) = replica.read_whole(look).flatten() else { return Became::UNKNOWN };
    let value = match body {
        Body::Value(value) => value,
        Body::Empty | Body::Measured(_) | Body::Integer(_) | Body::Refused(_) => None,
    };
    match version.cmp(&index) {
        Ordering::Equal => Became { effect: Effect::Applied, value },
        Ordering::Less => Became { effect: Effect::None, value: None },
        Ordering::Greater => Became::UNKNOWN,
    }
}

/// Entries as long as each is the next of the one before.
fn in_a_row(entries: Vec<wal::Entry>, first: u64) -> Result<Vec<Change>, FollowError> {
    let next = entries.into_iter().zip(first..);
    let next = next.take_while(|(entry, index)| entry.log_id.index == *index);
    let changes = next.map(|(entry, _)| {
        let index = entry.log_id.index;
        let read = Committed::read(entry);
        let committed = read.map_err(|source| FollowError::Entry { index, source })?;
        let command = match committed.payload {
            Payload::Command(command) => Some(command),
            Payload::Blank | Payload::Membership(_) => None,
        };
        Ok(Change { log_id: committed.log_id, command })
    });
    changes.collect()
}
