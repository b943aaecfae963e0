//! Reads of this replica alone: what it holds, committed and durable, however old.
//!
//! Called by the node; calls `raft` and `machine`.

use std::time::Duration;

use crate::command::{Command, CommandResult, Failure, Outcome};
use crate::machine::Machine;
use crate::raft::Consensus;

/// How long a local read waits until this replica's state is one that ever was.
pub(super) const READABLE_BOUND: Duration = Duration::from_secs(5);

/// This replica's values: the slots are copied first, then the log is waited for up to the entry
/// that wrote the newest of them (C18).
pub(super) async fn read(consensus: &Consensus, commands: &[Command]) -> Vec<CommandResult> {
    let shared = consensus.shared();
    if !shared.is_readable() {
        let ready = tokio::time::timeout(READABLE_BOUND, shared.wait_applied(0)).await;
        if ready.is_err() {
            return vec![Err(catching_up()); commands.len()];
        }
    }
    let read = |machine: &Machine| commands.iter().map(|command| machine.read(command)).collect();
    let Some(mut results) = shared.read_whole::<Vec<CommandResult>>(read) else {
        return vec![Err(catching_up()); commands.len()]; // a snapshot began meanwhile
    };
    let absent_since = shared.machine.absent_since();
    let outcomes = results.iter().flatten().flat_map(|reply| &reply.outcomes);
    let since = |outcome: &Outcome| match outcome.version {
        0 => absent_since,
        version => version,
    };
    let newest = outcomes.map(since).max().filter(|index| *index > 0);
    if let Some(position) = newest.and_then(|index| consensus.wal().position_of(index))
        && position > consensus.wal().durable()
        && consensus.syncer().wait(position).await.is_err()
    {
        results.fill(Err(Failure::Stopping));
    }
    results
}

/// What a reader hears while the slots are no state that ever was.
pub(super) fn catching_up() -> Failure {
    Failure::Busy { reason: "this member is still catching up".to_owned() }
}
