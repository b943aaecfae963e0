//! Writes: commands go to the leader, and are proposed there.
//!
//! Called by `node`; calls `raft`, and forwards through `peer`. Invariant:
//!
//! - I1: a command is proposed again only when it was certainly not proposed before; after a lost
//!   answer its outcome is unknown, and the client is told so.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::bounded::{TOO_LONG, encode_bounded};
use super::{Answered, Attempt, Cluster, WIRE_BOUND, results_of};
use crate::command::{Command, CommandResult, Failure, ReadLevel, Refusal, Reply};
use crate::peer::{CallError, Method, decode_commands, encode_commands, encode_results};
use crate::raft::{ProposeError, RESPONSE_BYTES_MAX};

/// How long a command may take before its outcome is called unknown.
const WRITE_BOUND: Duration = Duration::from_secs(10);
/// How long a command waits for memory before it is refused: many times what it takes.
const MEMORY_BOUND: Duration = Duration::from_secs(1);

impl Cluster {
    /// Proposes all of `commands` together; the results are in their order. A command that cannot
    /// be right is refused here and becomes no log entry.
    pub async fn write(&self, commands: Vec<Command>) -> Vec<CommandResult> {
        let machine = &self.consensus.replica().machine;
        if commands.iter().all(|command| machine.check(command).is_ok()) {
            return self.propose(commands).await;
        }
        let checks: Vec<_> = commands.iter().map(|command| machine.check(command)).collect();
        let good = commands.into_iter().zip(&checks).filter(|(_, check)| check.is_ok());
        let good: Vec<Command> = good.map(|(command, _)| command).collect();
        let mut results = if good.is_empty() {
            Vec::new().into_iter()
        } else {
            self.propose(good).await.into_iter()
        };
        let result = |check: Result<(), Refusal>| match check {
            Ok(()) => results.next().unwrap_or(Err(Failure::Stopping)),
            Err(refusal) => Err(Failure::Refused(refusal)),
        };
        checks.into_iter().map(result).collect()
    }

    /// Proposes commands together, here or at the leader; answers in order.
    async fn propose(&self, commands: Vec<Command>) -> Vec<CommandResult> {
        let deadline = self.leader_deadline();
        loop {
            let leader = match self.write_here(commands.clone()).await {
                Attempt::Done(results) => return results,
                Attempt::Elsewhere(leader) => leader,
            };
            if let Some((id, member)) = leader {
                let body = encode_commands(&commands, ReadLevel::Log).into();
                let bound = WRITE_BOUND + WIRE_BOUND;
                match self.channel(id, &member).call(Method::Write, body, bound).await {
                    Ok(body) => match results_of(body, commands.len()) {
                        Answered::Results(results) => return results,
                        Answered::NotLeader => {} // it proposed nothing
                        Answered::Unreadable => {
                            let failure = self.unknown("the leader's answer cannot be read");
                            return vec![Err(failure); commands.len()]; // I1
                        }
                    },
                    Err(CallError::NotSent { .. }) => {}
                    Err(error @ CallError::Lost { .. }) => {
                        return vec![Err(self.unknown(&error.to_string())); commands.len()]; // I1
                    }
                }
            }
            if let Some(failure) = self.wait_for_leader(deadline).await {
                return vec![Err(failure); commands.len()];
            }
        }
    }

    /// Proposes commands on this member only, but for those that are refused now.
    async fn write_here(&self, mut commands: Vec<Command>) -> Attempt {
        let refused = self.refused_after_wait(&commands).await;
        if let Some(refused) = &refused {
            let mut refused = refused.iter();
            commands.retain(|_| refused.next().is_some_and(Option::is_none));
        }
        let results = if commands.is_empty() {
            Vec::new()
        } else {
            self.consensus.propose(commands, WRITE_BOUND).await
        };
        if let Some(Err(ProposeError::NotLeader { leader })) = results.first() {
            return Attempt::Elsewhere(leader.clone()); // nothing was proposed
        }
        let mut results = results.into_iter().map(settled);
        Attempt::Done(match refused {
            None => results.collect(),
            Some(refused) => {
                let mut next = || results.next().unwrap_or(Err(Failure::Stopping));
                refused.into_iter().map(|refusal| refusal.map_or_else(&mut next, Err)).collect()
            }
        })
    }

    /// Why commands are not proposed now. Where memory has no room for what they change, whoever
    /// applies is making some: that is waited for.
    async fn refused_after_wait(&self, commands: &[Command]) -> Option<Vec<Option<Failure>>> {
        let deadline = Instant::now() + MEMORY_BOUND;
        loop {
            let freed = self.consensus.replica().memory_freed(); // before the look: none is missed
            let refused = self.consensus.refused(commands)?;
            let is_short =
                self.consensus.replica().machine.paged().is_some_and(|paged| paged.over_budget());
            if !is_short || tokio::time::timeout_at(deadline, freed).await.is_err() {
                return Some(refused);
            }
        }
    }

    /// Answers a member that forwards commands.
    pub(super) async fn answer_write(&self, body: Bytes) -> Option<Vec<u8>> {
        let (commands, _) = decode_commands(body).ok()?;
        let count = commands.len();
        if let Some(refused) = self.first_refused(&commands) {
            return Some(encode_results(&vec![Err(Failure::Refused(refused)); count]));
        }
        let attempt = self.write_here(commands).await;
        Some(self.answer_to(attempt, count))
    }

    /// The results of forwarded commands, as they travel.
    pub(super) fn answer_to(&self, attempt: Attempt, count: usize) -> Vec<u8> {
        let results = match attempt {
            Attempt::Done(results) => results,
            Attempt::Elsewhere(leader) => {
                let leader = leader.map_or_else(String::new, |(_, member)| member.name);
                vec![Err(Failure::NotLeader { leader }); count]
            }
        };
        encode_bounded(results, RESPONSE_BYTES_MAX, &self.unknown(TOO_LONG))
    }

    /// The first reason why one of these commands must not become a log entry.
    fn first_refused(&self, commands: &[Command]) -> Option<Refusal> {
        let machine = &self.consensus.replica().machine;
        commands.iter().find_map(|command| machine.check(command).err())
    }
}

fn settled(result: Result<Reply, ProposeError>) -> CommandResult {
    result.map_err(|error| match error {
        ProposeError::Failed(failure) => failure,
        ProposeError::NotLeader { leader } => Failure::NotLeader {
            leader: leader.map_or_else(String::new, |(_, member)| member.name),
        },
    })
}
