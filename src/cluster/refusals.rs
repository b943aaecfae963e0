//! The member's lasting refusals as `status` shows them: why, since when, and what ends each.
//!
//! Called by `status`; calls `raft`.

use crate::machine::Fullness;
use crate::raft::{Cause, Consensus, Refusing};
use crate::status::{CATCHING_UP, RefusalStatus};

/// What a member refuses or holds up now.
pub(super) fn of(consensus: &Consensus) -> Vec<RefusalStatus> {
    let status = |Refusing { cause, since }: Refusing| RefusalStatus {
        code: code(cause).into(),
        reason: reason(cause, consensus.view().is_leader).into(),
        since_s: since.elapsed().as_secs(),
        doing: doing(cause, consensus),
    };
    consensus.refusing().into_iter().map(status).collect()
}

fn code(cause: Cause) -> &'static str {
    match cause {
        Cause::MemoryBudget => "memory_budget",
        Cause::FullMemory => "full_memory",
        Cause::LogSpace => "log_space",
        Cause::CheckpointSpace => "checkpoint_space",
        Cause::SlowDisk => "slow_disk",
        Cause::CatchingUp => CATCHING_UP,
    }
}

fn reason(cause: Cause, is_leader: bool) -> &'static str {
    match cause {
        Cause::MemoryBudget => "writes wait, changed pages take all of -memory-mib",
        Cause::FullMemory => "what takes memory is BUSY, keys take all of -memory-mib",
        Cause::LogSpace if is_leader => {
            "writes are NO_SPACE, the disk has no room for the next log segment"
        }
        Cause::LogSpace => "no entries are taken, the disk has no room for the next log segment",
        Cause::CheckpointSpace => "the log only grows, the disk has no room for a checkpoint",
        Cause::SlowDisk => "writes wait, too much of the log is not synced",
        Cause::CatchingUp => "local reads wait, a snapshot is not replayed to its end",
    }
}

fn doing(cause: Cause, consensus: &Consensus) -> String {
    let machine = &consensus.replica().machine;
    let view = consensus.view();
    match cause {
        Cause::MemoryBudget => "pages are written and dropped".into(),
        Cause::FullMemory if machine.fullness() == Fullness::FullOfDeleted => {
            "a checkpoint is written, which forgets deleted keys".into()
        }
        Cause::FullMemory => "delete keys, or start with a larger -memory-mib".into(),
        Cause::CheckpointSpace => "make room on the disk; it is tried again by itself".into(),
        Cause::LogSpace if consensus.replica().lacks_checkpoint_space() => {
            "make room on the disk; a leader gives way to members that have some".into()
        }
        Cause::LogSpace
            if view.checkpoint.unwrap_or_default().get() < consensus.replica().applied_index() =>
        {
            "a checkpoint is written, the log behind it is used again".into()
        }
        Cause::LogSpace
            if consensus.replica().purge_bound() < view.checkpoint.unwrap_or_default().get() =>
        {
            "a member is being sent a snapshot, the log behind that is used again".into()
        }
        Cause::LogSpace => {
            "make room on the disk; a leader gives way to members that have some".into()
        }
        Cause::SlowDisk => {
            "the disk is waited for; a leader that stays behind loses its place".into()
        }
        Cause::CatchingUp => format!(
            "entries up to {} are being applied, {} are",
            machine.readable_from(),
            consensus.replica().applied_index()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::REFUSAL_CODES;

    #[test]
    fn every_cause_has_a_code_of_the_list() {
        let causes = [
            Cause::MemoryBudget,
            Cause::FullMemory,
            Cause::LogSpace,
            Cause::CheckpointSpace,
            Cause::SlowDisk,
            Cause::CatchingUp,
        ];
        assert_eq!(causes.map(code), REFUSAL_CODES);
    }
}
