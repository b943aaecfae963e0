//! Sends commands to whoever leads, and answers what other members send here.
//!
//! Called by `node`; calls `raft`. Invariants:
//!
//! - I1: a command is proposed again only when it was certainly not proposed before; after a lost
//!   answer its outcome is unknown and the client hears so.
//! - I2: what comes from another member is never forwarded again: it was sent to the leader.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::bounded::{TOO_LONG, encode_bounded, lacks_values};
use super::join;
use crate::command::{Command, CommandResult, Failure, ReadLevel, Refusal};
use crate::machine::Machine;
use crate::peer::{
    CallError, Channel, Member, Method, decode_commands, decode_results, encode_commands,
    encode_results,
};
use crate::raft::{Consensus, Incoming, ProposeError, RESPONSE_BYTES_MAX};

/// How long a command may take before its outcome is called unknown.
const WRITE_BOUND: Duration = Duration::from_secs(10);
/// How long a command waits for a leader before it is refused: an election and a half.
pub(super) const LEADER_BOUND: Duration = Duration::from_secs(6);
/// How long a read waits for its round.
pub(super) const READ_BOUND: Duration = Duration::from_secs(5);
/// How long a command waits for room in memory before it is refused: many times what it takes.
const ROOM_BOUND: Duration = Duration::from_secs(1);
/// Pause before the next attempt while no leader is known.
const LEADER_PAUSE: Duration = Duration::from_millis(50);
/// What forwarding adds to the time that the leader may take.
pub(super) const WIRE_BOUND: Duration = Duration::from_secs(1);

/// Takes commands to the leader, wherever it is.
#[derive(Debug)]
pub struct Forwarder {
    consensus: Arc<Consensus>,
    channels: Mutex<HashMap<u64, Arc<Channel>>>,
    cluster_id: u128,
    /// What is to be said while the cluster has another address of this member.
    moved: Mutex<Option<String>>,
}

/// What became of an attempt: final results, or another member to ask.
enum Attempt {
    Done(Vec<CommandResult>),
    Elsewhere(Option<(u64, Member)>),
}

impl Forwarder {
    /// A forwarder of one member.
    pub fn new(consensus: Arc<Consensus>, cluster_id: u128) -> Forwarder {
        Forwarder { consensus, channels: Mutex::default(), cluster_id, moved: Mutex::default() }
    }

    /// The consensus underneath.
    pub fn consensus(&self) -> &Arc<Consensus> {
        &self.consensus
    }

    /// The cluster.
    pub fn cluster_id(&self) -> u128 {
        self.cluster_id
    }

    /// What is to be said while the cluster has another address of this member.
    pub fn moved(&self) -> Option<String> {
        self.moved.lock().clone()
    }

    /// Sets that; true if there was something to be said before.
    pub(super) fn note_moved(&self, said: Option<String>) -> bool {
        std::mem::replace(&mut *self.moved.lock(), said).is_some()
    }

    /// Proposes commands together, here or at the leader; answers in order.
    pub async fn write(&self, commands: Vec<Command>) -> Vec<CommandResult> {
        let deadline = Instant::now() + LEADER_BOUND;
        loop {
            let leader = match self.write_here(commands.clone()).await {
                Attempt::Done(results) => return results,
                Attempt::Elsewhere(leader) => leader,
            };
            if let Some((id, member)) = leader {
                let body = encode_commands(&commands, ReadLevel::Log).into();
                let bound = WRITE_BOUND + WIRE_BOUND;
                match self.call((id, &member), Method::Write, body, bound).await {
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
        let deadline = Instant::now() + ROOM_BOUND;
        loop {
            let room = self.consensus.shared().room(); // before the look: none is missed
            let refused = self.consensus.refused(commands)?;
            let is_short = self.consensus.shared().machine.over_budget();
            if !is_short || tokio::time::timeout_at(deadline, room).await.is_err() {
                return Some(refused);
            }
        }
    }

    /// Reads commands at a level that needs the leader; answers in order.
    pub async fn read(&self, commands: Vec<Command>, level: ReadLevel) -> Vec<CommandResult> {
        let deadline = Instant::now() + LEADER_BOUND;
        loop {
            let leader = match self.read_here(&commands, level).await {
                Attempt::Done(results) => return results,
                Attempt::Elsewhere(leader) => leader,
            };
            if let Some((id, member)) = leader {
                let body = encode_commands(&commands, level).into();
                let bound = READ_BOUND + WIRE_BOUND;
                let answer = self.call((id, &member), Method::Read, body, bound).await;
                // A read that got lost changed nothing: it is tried again.
                if let Ok(body) = answer
                    && let Answered::Results(results) = results_of(body, commands.len())
                {
                    // What does not fit a response is here as well, once it is applied.
                    let lacks = lacks_values(&commands, &results);
                    return if lacks { self.read_replica(&commands).await } else { results };
                }
            }
            if let Some(failure) = self.wait_for_leader(deadline).await {
                return vec![Err(failure); commands.len()];
            }
        }
    }

    async fn read_here(&self, commands: &[Command], level: ReadLevel) -> Attempt {
        let read =
            |machine: &Machine| commands.iter().map(|command| machine.read(command)).collect();
        let shared = self.consensus.shared();
        if level == ReadLevel::Lease
            && let Some(results) = shared.read_whole(read)
            && self.consensus.holds_lease()
        {
            return Attempt::Done(results);
        }
        // A lease that is in doubt is not asked for a second time: a round to a majority knows.
        match self.consensus.read_index(READ_BOUND).await {
            // Whoever is sent a snapshot leads no more.
            Ok(()) => shared.read_whole(read).map_or(Attempt::Elsewhere(None), Attempt::Done),
            Err(ProposeError::NotLeader { leader }) => Attempt::Elsewhere(leader),
            Err(ProposeError::Failed(failure)) => Attempt::Done(vec![Err(failure); commands.len()]),
        }
    }

    /// How many members other than the leader hold `index` durably, once `wanted` do or `bound`
    /// has passed.
    pub async fn holders(&self, index: u64, wanted: usize, bound: Duration) -> usize {
        let view = self.consensus.view();
        if view.is_leader {
            return self.holders_here(index, wanted, bound).await;
        }
        let Some((id, member)) = view.leader.and_then(|id| Some((id, view.members.get(&id)?)))
        else {
            return 0;
        };
        let mut body = Vec::with_capacity(24);
        body.put_u64_le(index);
        body.put_u64_le(wanted as u64);
        body.put_u64_le(u64::try_from(bound.as_millis()).unwrap_or(u64::MAX));
        let answer =
            self.call((id, &member.member), Method::Holders, body.into(), bound + WIRE_BOUND).await;
        let count = answer.ok().and_then(|mut body| body.try_get_u64_le().ok());
        count.and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
    }

    async fn holders_here(&self, index: u64, wanted: usize, bound: Duration) -> usize {
        let deadline = Instant::now() + bound;
        loop {
            let view = self.consensus.view();
            let me = self.consensus.member_id();
            let others = view.members.iter().filter(|(id, _)| **id != me);
            let count = others.filter(|(_, member)| member.matched >= Some(index)).count();
            if count >= wanted || Instant::now() >= deadline || !view.is_leader {
                return count;
            }
            let left = deadline - Instant::now();
            self.consensus.changed_data(left.min(Duration::from_millis(100))).await;
        }
    }

    /// Asks another member something.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(
        &self,
        (id, member): (u64, &Member),
        method: Method,
        body: Bytes,
        bound: Duration,
    ) -> Result<Bytes, CallError> {
        let channel = {
            let mut channels = self.channels.lock();
            let fresh = || Arc::new(self.consensus.channel(id, member));
            let channel = channels.entry(id).or_insert_with(fresh);
            if channel.given_address() != member.raft_address {
                *channel = fresh();
            }
            channel.clone()
        };
        channel.call(method, body, bound).await
    }

    /// Waits a little for a leader; says why if the time is up.
    pub(super) async fn wait_for_leader(&self, deadline: Instant) -> Option<Failure> {
        if Instant::now() >= deadline {
            let view = self.consensus.view();
            let voters = view.members.values().filter(|member| member.is_voter).count();
            let reason = format!(
                "no leader was found within {} s; a majority of {voters} voters must run",
                LEADER_BOUND.as_secs()
            );
            return Some(Failure::NoLeader { reason });
        }
        self.consensus.changed(LEADER_PAUSE).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        None
    }

    pub(super) fn unknown(&self, reason: &str) -> Failure {
        let view = self.consensus.view();
        let index = view.last_log.unwrap_or_default();
        Failure::Unknown { term: view.term, index, reason: reason.into() }
    }

    /// Answers one request of another member; `None` if it cannot be read.
    async fn answer(&self, incoming: &Incoming) -> Option<Vec<u8>> {
        let mut body = incoming.body.clone();
        match incoming.method {
            Method::Write | Method::Read => {
                let (commands, level) = decode_commands(body).ok()?;
                let count = commands.len();
                let attempt = if incoming.method == Method::Write {
                    if let Some(refused) = self.first_refused(&commands) {
                        return Some(encode_results(&vec![Err(Failure::Refused(refused)); count]));
                    }
                    self.write_here(commands).await
                } else {
                    self.read_here(&commands, level).await
                };
                let results = match attempt {
                    Attempt::Done(results) => results,
                    Attempt::Elsewhere(leader) => {
                        let leader = leader.map_or_else(String::new, |(_, member)| member.name);
                        vec![Err(Failure::NotLeader { leader }); count] // I2
                    }
                };
                Some(encode_bounded(results, RESPONSE_BYTES_MAX, &self.unknown(TOO_LONG)))
            }
            Method::Holders => {
                let index = body.try_get_u64_le().ok()?;
                let wanted = usize::try_from(body.try_get_u64_le().ok()?).ok()?;
                let bound = Duration::from_millis(body.try_get_u64_le().ok()?).min(WRITE_BOUND);
                let count = self.holders_here(index, wanted, bound).await;
                Some((count as u64).to_le_bytes().to_vec())
            }
            Method::ReadIndex => Some(self.answer_read_index().await),
            Method::Join => join::answer(self, incoming).await,
            Method::Remove => Some(self.answer_remove(body).await),
            Method::Standing => Some(self.answer_standing(incoming.from, body).await),
            Method::Room => Some(self.answer_room()),
            _ => None,
        }
    }

    /// The first reason why one of these commands must not become a log entry.
    fn first_refused(&self, commands: &[Command]) -> Option<Refusal> {
        let machine = &self.consensus.shared().machine;
        commands.iter().find_map(|command| machine.check(command).err())
    }
}

/// What another member said to forwarded commands.
enum Answered {
    Results(Vec<CommandResult>),
    NotLeader,
    Unreadable,
}

fn results_of(body: Bytes, count: usize) -> Answered {
    match decode_results(body, count) {
        Err(_) => Answered::Unreadable,
        Ok(results) if matches!(results.first(), Some(Err(Failure::NotLeader { .. }))) => {
            Answered::NotLeader
        }
        Ok(results) => Answered::Results(results),
    }
}

fn settled(result: Result<crate::command::Reply, ProposeError>) -> CommandResult {
    result.map_err(|error| match error {
        ProposeError::Failed(failure) => failure,
        ProposeError::NotLeader { leader } => Failure::NotLeader {
            leader: leader.map_or_else(String::new, |(_, member)| member.name),
        },
    })
}

/// Answers requests of other members until their channel closes.
pub async fn serve_incoming(forwarder: Arc<Forwarder>, mut requests: mpsc::Receiver<Incoming>) {
    while let Some(incoming) = requests.recv().await {
        let forwarder = forwarder.clone();
        tokio::spawn(async move {
            if let Some(answer) = forwarder.answer(&incoming).await {
                // The connection may have ended meanwhile.
                drop(incoming.reply.send(answer));
            }
        });
    }
}
