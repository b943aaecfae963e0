//! The methods that every kind of machine has. Each is documented at the method of the same name of
//! [`Machine`](super::Machine), which passes the call on to its kind.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use diskstore_storage::Result;
use diskstore_storage::identity::MachineKind;
use diskstore_storage::state::{Checkpointed, Target, Versioned};

use super::{ApplyError, Fullness, Images, Limits, LogDurable, Paged, RequestIds, Sending, Usage};
use crate::command::{Command, Failure, Refusal, Reply};

/// Keys that hold a value, and the position to go on from.
pub type LiveKeys = (Vec<Bytes>, Option<u64>);
/// Pieces of a snapshot, and the position to go on from.
pub type Scanned = (Images, Option<u64>);

/// A machine of any kind.
pub(crate) trait AnyMachine {
    fn kind(&self) -> MachineKind;
    fn limits(&self) -> Limits;
    fn request_ids(&self) -> &RequestIds;

    fn apply(&self, index: u64, command: &Command) -> std::result::Result<Reply, ApplyError>;
    fn read(&self, command: &Command) -> std::result::Result<Reply, Failure>;
    fn check(&self, command: &Command) -> std::result::Result<(), Refusal>;
    fn slot(&self, key: &[u8]) -> Option<Versioned>;
    fn absent_since(&self) -> u64;
    fn never_waits(&self) -> bool;

    fn usage(&self) -> Usage;
    fn live_keys(&self, from: u64, count: usize) -> std::result::Result<LiveKeys, Failure>;

    fn durable(&self) -> Option<Target>;
    fn checkpoint(
        &self,
        target: Target,
        log_durable: LogDurable<'_>,
        cancel: &AtomicBool,
    ) -> Result<Checkpointed>;

    fn readable_from(&self) -> u64;
    fn set_readable_from(&self, index: u64) -> Result<()>;
    fn begin_send(&self) -> Sending;
    fn scan(&self, from: u64, changed_after: u64, bytes_max: usize) -> Result<Scanned>;
    fn begin_merge(&self, applied: u64, horizon: u64) -> u64;
    fn merge(&self, images: &Images) -> Result<()>;
    fn finish_merge(&self, begin: u64);
    fn install(&self, target: Target, log_durable: LogDurable<'_>) -> Result<()>;

    // What only some have, and what the others answer.

    fn paged(&self) -> Option<Paged<'_>> {
        None
    }

    fn hand_on(&self) -> std::result::Result<(), ApplyError> {
        Ok(())
    }

    fn refusal(&self, _command: &Command, _damaged: &mut BTreeSet<u64>) -> Option<Failure> {
        None
    }

    fn may_refuse(&self) -> bool {
        false
    }

    fn fullness(&self) -> Fullness {
        Fullness::HasSpace
    }

    fn check_install_space(&self) -> Result<()> {
        Ok(())
    }

    fn checkpoint_steps(&self) -> u64 {
        0
    }
}
