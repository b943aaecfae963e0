//! The causes for which this member refuses or delays requests now, and since when.
//!
//! Called by `cluster` before it proposes, by the node for its status, and several times a second
//! by upkeep, which starts the work that ends each refusal (`docs/operations.md` has the list).
//! Invariant:
//!
//! - I1: a cause begins with the first check that finds it and ends with the first that does not.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Consensus;
use crate::command::{Command, Failure};

/// Why requests are refused or wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Changed pages take all of the memory budget: writes wait.
    MemoryBudget,
    /// Keys and values take all of their memory: what may take more is refused.
    FullMemory,
    /// The next segment of the log cannot be made: writes are refused, and no entry is taken.
    LogSpace,
    /// A checkpoint found no room on the disk: the log behind it grows.
    CheckpointSpace,
    /// So much of the log is not synced that appending waits.
    SlowDisk,
    /// A snapshot is not replayed to its end: local reads wait.
    CatchingUp,
}

/// Something that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusing {
    /// Why.
    pub cause: Cause,
    /// Since when.
    pub since: Instant,
}

/// When what is refused now began to be.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<BTreeMap<Cause, Instant>>);

impl Refusals {
    /// Takes note of what holds now (I1).
    fn note(&self, now: &[Cause], at: Instant) -> Vec<Refusing> {
        let mut since = self.0.lock();
        since.retain(|cause, _| now.contains(cause));
        for cause in now {
            since.entry(*cause).or_insert(at);
        }
        since.iter().map(|(cause, since)| Refusing { cause: *cause, since: *since }).collect()
    }
}

impl Consensus {
    /// What is refused or held up now.
    pub fn refusing(&self) -> Vec<Refusing> {
        let machine = &self.replica.machine;
        let found = [
            (Cause::MemoryBudget, machine.paged().is_some_and(|paged| paged.over_budget())),
            (Cause::FullMemory, machine.fullness().is_full()),
            (Cause::LogSpace, !self.has_log_space()),
            (Cause::CheckpointSpace, self.replica.lacks_checkpoint_space()),
            (Cause::SlowDisk, self.wal.is_over_bound()),
            (Cause::CatchingUp, !self.replica.is_readable()),
        ];
        let now: Vec<Cause> =
            found.into_iter().filter_map(|(cause, holds)| holds.then_some(cause)).collect();
        self.refusals.note(&now, Instant::now())
    }

    /// True if the log has room for more entries than fit its present segment.
    pub fn has_log_space(&self) -> bool {
        self.wal.has_next_segment()
    }

    /// Why each of these commands is not proposed now although this member may lead; nothing at all
    /// where none is refused.
    pub fn refused(&self, commands: &[Command]) -> Option<Vec<Option<Failure>>> {
        let machine = &self.replica.machine;
        let has_log_space = self.has_log_space();
        if has_log_space && !machine.may_refuse() {
            return None;
        }
        let mut damaged = BTreeSet::new();
        let refusal = |command| {
            let full = (!has_log_space).then_some(Failure::NoSpace);
            full.or_else(|| machine.refusal(command, &mut damaged))
        };
        let refused: Vec<_> = commands.iter().map(refusal).collect();
        let is_any = refused.iter().any(Option::is_some);
        (is_any && self.view().is_leader).then_some(refused)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// I1
    #[test]
    fn what_is_refused_begins_once_and_ends_when_it_is_not_found() {
        let refusals = Refusals::default();
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        let (first, later, last) = (at(0), at(10), at(20));
        let full = Refusing { cause: Cause::LogSpace, since: first };
        assert_eq!(refusals.note(&[Cause::LogSpace], first), [full]);
        let slow = Refusing { cause: Cause::SlowDisk, since: later };
        assert_eq!(refusals.note(&[Cause::SlowDisk, Cause::LogSpace], later), [full, slow]);
        assert_eq!(refusals.note(&[Cause::SlowDisk], last), [slow]);
        let again = Refusing { cause: Cause::LogSpace, since: last };
        assert_eq!(refusals.note(&[Cause::LogSpace], last), [again]);
        assert_eq!(refusals.note(&[], last), []);
    }
}
