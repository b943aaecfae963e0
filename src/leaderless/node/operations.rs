//! Operations in the driver: those that this node runs, and those that it passes on.
//!
//! Called by `driver`; calls `operation`, `replica`. Invariant:
//!
//! - I1: an operation is passed on once: who is passed one runs it or refuses it.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::driver::{Driver, Local, OutcomeSender, Peer};
use super::error::{BadInput, RegisterError};
use super::wire::{Done, PeerMessage};
use crate::leaderless::clock::{CEILING_NEAR_MS, Moment, NoVersion, NodeNumber, Version};
use crate::leaderless::message::{
    Asker, Content, Held, OperationId, Origin, Refusal, Request, Response, Store,
};
use crate::leaderless::operation::{
    Errand, Failure, Level, Local as Given, Operation, OperationEffect, Outcome, Task,
};
use crate::leaderless::replica::Standing;

/// How long an operation may take.
pub(super) const OPERATION_TIMEOUT: Duration = Duration::from_secs(5);
/// How late an operation may come that was passed on, in milliseconds: gossip is a moment old, and a ceiling moves in steps.
const LATE_MS_MAX: u64 = 5_000;
/// Most operations under way that this node runs or passed on.
const JOB_COUNT_MAX: usize = 1 << 16;

/// Beyond so many of them, one that has its outcome waits for no further answers.
const LINGERING_MAX: usize = 1 << 14;

/// Where an outcome goes.
#[derive(Debug)]
pub(super) enum ReplyTo {
    /// To a caller in this process.
    Here(OutcomeSender),
    /// To the node that passed the operation on.
    Peer { node: NodeNumber, id: u64 },
}

/// Something under way.
#[derive(Debug)]
pub(super) enum Job {
    /// An operation that this node runs.
    Operation(Box<Running>),
    /// One that was passed on.
    Forwarded { to: NodeNumber, reply: ReplyTo, again: Option<ReadAgain>, replicas: usize },
    /// An ask or a store of this node's copy alone.
    Here(OutcomeSender),
}

/// A read that another node may answer as well.
#[derive(Debug)]
pub(super) struct ReadAgain {
    key: Bytes,
    level: Level,
}

/// See there.
#[derive(Debug)]
pub(super) struct Running {
    operation: Operation,
    /// `None` once it has its outcome.
    reply: Option<ReplyTo>,
    /// Messages that are not answered.
    unanswered: usize,
    replicas: usize,
    needed: usize,
}

fn not_stored(reason: impl Into<String>) -> Result<Done, RegisterError> {
    Err(RegisterError::NotStored(reason.into()))
}

impl Driver {
    /// Begins an operation, or passes it on.
    pub(super) fn begin(&mut self, reply: ReplyTo, errand: Errand, key: Bytes, level: Level) {
        if self.jobs.len() >= JOB_COUNT_MAX {
            let words = format!("{JOB_COUNT_MAX} operations are under way");
            self.reply(reply, Err(RegisterError::Busy(words)));
            return;
        }
        let replicas = self.layout.replicas(&key);
        let is_ready = self.replica.standing() == Standing::Ready;
        let is_better_elsewhere = matches!(reply, ReplyTo::Here(_))
            && errand != Errand::Get
            && !self.is_able(self.own, &replicas)
            && self.able_peer(&replicas).is_some();
        if !is_ready || !replicas.contains(&self.own) || is_better_elsewhere {
            self.forward(reply, (errand, key, level), &replicas);
            return;
        }
        // What a node lacks keeps it from nothing that it only passes on.
        if let Some(busy) = self.busy(&errand) {
            self.reply(reply, Err(RegisterError::Busy(busy)));
            return;
        }
        if let Some(refused) = self.refused(&errand, &key) {
            self.reply(reply, Err(refused));
            return;
        }
        let count = replicas.len();
        let needed = match level {
            Level::One => 1,
            Level::Quorum => count / 2 + 1,
            Level::All => count,
        };
        if let Some(refused) = self.too_few(&replicas, needed) {
            self.reply(reply, Err(refused));
            return;
        }
        let now = Instant::now();
        let id = self.next_id();
        let task = Task { errand, key, level, replicas, own: self.own };
        let held = self.store.version(&task.key);
        let moment = self.now();
        let mut given = Given { now: moment, clock: &mut self.clock, held };
        let (operation, effects) = Operation::begin(task, self.rules, &mut given);
        let running =
            Running { operation, reply: Some(reply), unanswered: 0, replicas: count, needed };
        self.jobs.insert(id, Job::Operation(Box::new(running)));
        self.deadlines.push_back((now + OPERATION_TIMEOUT, id));
        self.carry_out(id, effects);
    }

    /// Why an operation is not begun, if too few replicas can be sent anything.
    fn too_few(&self, replicas: &[NodeNumber], needed: usize) -> Option<RegisterError> {
        let now = Instant::now();
        let is_up = |node: &&NodeNumber| {
            **node == self.own || self.peers.get(node).is_some_and(|peer| peer.is_up(now))
        };
        let (up, count) = (replicas.iter().filter(is_up).count(), replicas.len());
        if up < needed {
            let reason =
                format!("{up} of {count} replicas of the key are up, and {needed} are needed");
            return Some(RegisterError::NotStored(reason));
        }
        let has_room = |node: &&NodeNumber| is_up(node) && self.has_room_to(**node);
        (replicas.iter().filter(has_room).count() < needed).then(|| {
            let words = "too much waits to be sent to the replicas of the key";
            RegisterError::Busy(words.into())
        })
    }

    /// Why nothing is begun here now, if so. Deletes go on in full memory: they free it.
    pub(super) fn busy(&self, errand: &Errand) -> Option<String> {
        match errand {
            Errand::Get => None,
            Errand::Set(_) if !self.has_memory() => Some(
                "keys take more than the memory that they may (memory_mib), and what other nodes hold is not copied: delete some".into(),
            ),
            Errand::Set(_) if self.store.keys.is_full() => {
                Some("keys take all the memory that they may (memory_mib): delete some".into())
            }
            Errand::Set(_) | Errand::Delete => {
                let is_room = self.store.wal.has_next_segment();
                let is_behind = self.store.wal.is_over_bound();
                match (is_room, is_behind) {
                    (false, _) => Some("there is no room for the log on the disk".into()),
                    (true, true) => Some("the disk is behind: too much waits to be synced".into()),
                    (true, false) => None,
                }
            }
        }
    }

    /// Why an operation is not begun here.
    fn refused(&self, errand: &Errand, key: &[u8]) -> Option<RegisterError> {
        let keys = &self.store.keys;
        match errand {
            Errand::Set(value) if value.len() > self.config.value_bytes_max as usize => {
                let words = "the value is larger than a replica takes (value_max)";
                Some(RegisterError::NotStored(words.into()))
            }
            // One that frees nothing only adds to what is remembered.
            Errand::Delete
                if keys.deleted_bytes() > self.config.memory_bytes_max / 4
                    && self.held(key).value.is_none() =>
            {
                let words = "deletes that are remembered take a quarter of the memory (memory_mib); \
                             they go once all nodes have been up for a while";
                Some(RegisterError::Busy(words.into()))
            }
            Errand::Get | Errand::Set(_) | Errand::Delete => None,
        }
    }

    fn forward(&mut self, reply: ReplyTo, what: (Errand, Bytes, Level), replicas: &[NodeNumber]) {
        let (errand, key, level) = what;
        if let ReplyTo::Peer { .. } = reply {
            let id = &self.config.id; // I1
            let reason = format!("node {id} cannot run operations of this key now");
            self.reply(reply, not_stored(reason));
            return;
        }
        let now = Instant::now();
        let able = if errand == Errand::Get { None } else { self.able_peer(replicas) };
        let Some(to) = able.or_else(|| self.ready_peers(replicas).next()) else {
            self.reply(reply, not_stored("no replica of the key is up and ready"));
            return;
        };
        self.counters.forwarded += 1;
        let again = (errand == Errand::Get).then(|| ReadAgain { key: key.clone(), level });
        let id = self.next_id();
        let replicas = replicas.len();
        self.jobs.insert(id, Job::Forwarded { to, reply, again, replicas });
        self.deadlines.push_back((now + OPERATION_TIMEOUT, id));
        let until = self.until(to, now);
        if !self.send(to, &PeerMessage::Forward { id, until, errand, key, level })
            && let Some(Job::Forwarded { reply, .. }) = self.jobs.remove(&id)
        {
            let words = "too much waits for the replica that would run this";
            self.reply(reply, Err(RegisterError::Busy(words.into())));
        }
    }

    /// Up to when a node may begin what is passed on to it now, by that node's own ceiling, which follows its time: no two clocks
    /// are compared, however far apart they are.
    fn until(&self, to: NodeNumber, now: Instant) -> Moment {
        let peer = self.peers.get(&to);
        let since = peer.and_then(|peer| peer.gossip_at).map_or(Duration::ZERO, |at| now - at);
        let ceiling = peer.and_then(|peer| peer.gossip.as_ref()).map(|it| it.numbers.ceiling);
        let ms = u64::try_from((since + OPERATION_TIMEOUT).as_millis()).unwrap_or(u64::MAX);
        ceiling.unwrap_or_default().later(ms)
    }

    /// Those of the replicas of a key that answer, and are not this node.
    fn ready_peers(&self, replicas: &[NodeNumber]) -> impl Iterator<Item = NodeNumber> {
        let now = Instant::now();
        let is_ready = move |node: &NodeNumber| {
            self.peers.get(node).is_some_and(|peer| peer.standing(now) == Some(Standing::Ready))
        };
        replicas.iter().copied().filter(is_ready)
    }

    /// The first of them whose writes can succeed.
    fn able_peer(&self, replicas: &[NodeNumber]) -> Option<NodeNumber> {
        self.ready_peers(replicas).find(|node| self.is_able(*node, replicas))
    }

    /// Whether what a replica of a key proposes is taken by a majority of the key's replicas, itself among them, as far as
    /// gossip tells. If not, its clock is far from those of the others, and its writes would end as unknown.
    fn is_able(&self, node: NodeNumber, replicas: &[NodeNumber]) -> bool {
        let numbers =
            |node: &NodeNumber| self.peers.get(node)?.gossip.as_ref().map(|gossip| &gossip.numbers);
        let moment = if node == self.own {
            self.clock.shown(self.now()).moment()
        } else {
            numbers(&node).map_or(Moment::default(), |it| it.ceiling.earlier(CEILING_NEAR_MS))
        };
        let takes = |replica: &&NodeNumber| {
            **replica == node
                || if **replica == self.own {
                    self.replica.numbers().admit(moment)
                } else {
                    numbers(replica).is_some_and(|numbers| numbers.admit(moment))
                }
        };
        2 * replicas.iter().filter(takes).count() > replicas.len()
    }

    /// The outcome of an operation that was passed on.
    pub(super) fn forwarded(
        &mut self,
        from: NodeNumber,
        id: u64,
        result: Result<Done, RegisterError>,
    ) {
        let is_his = |job: &Job| matches!(job, Job::Forwarded { to, .. } if *to == from);
        if !self.jobs.get(&id).is_some_and(is_his) {
            return;
        }
        if let Some(Job::Forwarded { reply, .. }) = self.jobs.remove(&id) {
            self.reply(reply, result);
        }
    }

    /// An operation that was passed on here. One that comes late is not begun: whoever asked for it has been told that its outcome
    /// is unknown, and a write could go above newer ones. Where the disk is full no ceiling moves, and `until` came of one: only it is compared then.
    pub(super) fn begin_forwarded(
        &mut self,
        reply: ReplyTo,
        until: Moment,
        what: (Errand, Bytes, Level),
    ) {
        let (errand, key, level) = what;
        let (now, ceiling) = (self.now(), self.replica.numbers().ceiling);
        let shown = if self.has_room() { now } else { now.min(ceiling) };
        if shown > until.later(LATE_MS_MAX) {
            self.reply(reply, not_stored("it was under way for too long"));
            return;
        }
        self.begin(reply, errand, key, level);
    }

    /// A peer is not reached any more: what it was passed is asked of another, or unknown.
    pub(super) fn give_up_on(&mut self, peer: NodeNumber) {
        let is_his = |job: &Job| matches!(job, Job::Forwarded { to, .. } if *to == peer);
        let ids: Vec<u64> =
            self.jobs.iter().filter(|(_, job)| is_his(job)).map(|(id, _)| *id).collect();
        for id in ids {
            match self.jobs.remove(&id) {
                Some(Job::Forwarded { reply, again: Some(again), .. }) => {
                    self.begin(reply, Errand::Get, again.key, again.level);
                }
                Some(Job::Forwarded { reply, replicas, .. }) => {
                    let version = Version::NONE;
                    self.reply(
                        reply,
                        Err(RegisterError::Unknown { version, stored_by: 0, replicas }),
                    );
                }
                _ => {}
            }
        }
    }

    /// Whether a message can be sent to a replica, which may be this node.
    fn has_room_to(&self, node: NodeNumber) -> bool {
        let is_room = |peer: &Peer| peer.is_linked && peer.has_room();
        node == self.own || self.peers.get(&node).is_some_and(is_room)
    }

    /// Whether the stores of a write can be sent to too few replicas: then they are sent to none, so that the
    /// write is certainly not stored.
    fn is_hopeless(&self, id: u64, effects: &[OperationEffect]) -> bool {
        let Some(Job::Operation(running)) = self.jobs.get(&id) else { return false };
        let stores = effects.iter().filter_map(|effect| match effect {
            OperationEffect::Send { to, request: Request::Store(_) } => Some(*to),
            _ => None,
        });
        stores.clone().count() == running.replicas
            && stores.filter(|to| self.has_room_to(*to)).count() < running.needed
    }

    /// Carries out what an operation wants.
    fn carry_out(&mut self, id: u64, effects: Vec<OperationEffect>) {
        let from = Asker { node: self.own, operation: OperationId(id) };
        let is_hopeless = self.is_hopeless(id, &effects);
        for effect in effects {
            match effect {
                OperationEffect::Send { to, request } => {
                    let is_store = matches!(request, Request::Store(_));
                    let mut is_sent = true;
                    if is_store && is_hopeless {
                        is_sent = false;
                    } else if to == self.own {
                        self.local.push_back(Local::Request(from, request));
                    } else {
                        is_sent = self.send(to, &PeerMessage::Request(id, request));
                    }
                    if is_store && !is_sent {
                        let refused = Response::Refused(Refusal::NoRoom);
                        self.local.push_back(Local::Response(to, from.operation, refused));
                    }
                    self.count_unanswered(id, usize::from(is_sent || is_store));
                }
                OperationEffect::StoreHere(store) => {
                    self.count_unanswered(id, 1);
                    self.request(from, Request::Store(store));
                }
                OperationEffect::Mend { to, store } => self.mend(id, to, store),
                OperationEffect::RaiseCeiling(ceiling) => {
                    self.awaiting_ceiling.push(id);
                    let effects = self.replica.raise_ceiling(ceiling);
                    self.apply(effects);
                }
                OperationEffect::Finish(outcome) => self.finish(id, outcome),
            }
        }
        let are_many = self.jobs.len() > LINGERING_MAX;
        let is_over = |job: &Job| match job {
            Job::Operation(running) => {
                running.reply.is_none() && (running.unanswered == 0 || are_many)
            }
            Job::Forwarded { .. } | Job::Here(_) => false,
        };
        if self.jobs.get(&id).is_some_and(is_over) {
            self.jobs.remove(&id);
        }
    }

    fn count_unanswered(&mut self, id: u64, count: usize) {
        if let Some(Job::Operation(running)) = self.jobs.get_mut(&id) {
            running.unanswered += count;
        }
    }

    fn mend(&mut self, id: u64, to: NodeNumber, store: Store) {
        let from = Asker { node: self.own, operation: OperationId(id) };
        if to == self.own {
            self.counters.mended += 1;
            self.local.push_back(Local::Request(from, Request::Store(store)));
        } else if let Some(peer) = self.peers.get_mut(&to)
            && peer.mends > 0
        {
            peer.mends -= 1;
            self.counters.mended += 1;
            self.send(to, &PeerMessage::Request(id, Request::Store(store)));
        }
    }

    fn finish(&mut self, id: u64, outcome: Outcome) {
        let Some(Job::Operation(running)) = self.jobs.get_mut(&id) else { return };
        let (replicas, needed) = (running.replicas, running.needed);
        let Some(reply) = running.reply.take() else { return };
        let result = match outcome {
            Outcome::Written { version } => Ok(Done::Written(version)),
            Outcome::Read(held) => Ok(Done::Read(held)),
            Outcome::Failed(Failure::TooFew) => not_stored(format!(
                "too few of the {replicas} replicas of the key answered; {needed} are needed"
            )),
            Outcome::Failed(failure @ Failure::Refused(Refusal::NoRoom)) => {
                Err(RegisterError::Busy(failure.to_string()))
            }
            Outcome::Failed(failure) => not_stored(failure.to_string()),
            Outcome::Unknown { version, stored_by } => {
                Err(RegisterError::Unknown { version, stored_by, replicas })
            }
        };
        self.reply(reply, result);
    }

    fn reply(&mut self, to: ReplyTo, result: Result<Done, RegisterError>) {
        match &result {
            Ok(_) => self.counters.acknowledged += 1,
            Err(RegisterError::Unknown { .. }) => self.counters.unknown += 1,
            Err(_) => self.counters.failed += 1,
        }
        match to {
            ReplyTo::Here(reply) => drop(reply.send(result)), // whoever asked may have gone
            ReplyTo::Peer { node, id } => {
                let is_sent = self.send(node, &PeerMessage::Forwarded(id, result));
                if !is_sent {
                    let words = "too much waits to be sent to the node that passed this on";
                    let busy = Err(RegisterError::Busy(words.into()));
                    self.send(node, &PeerMessage::Forwarded(id, busy));
                }
            }
        }
    }

    /// An answer came.
    pub(super) fn response(&mut self, from: NodeNumber, id: u64, response: Response) {
        let now = self.now();
        match self.jobs.get_mut(&id) {
            Some(Job::Operation(running)) => {
                running.unanswered = running.unanswered.saturating_sub(1);
                let held = self.store.version(running.operation.key());
                let mut given = Given { now, clock: &mut self.clock, held };
                let effects = running.operation.response(&mut given, from, response);
                self.carry_out(id, effects);
            }
            Some(Job::Here(_)) if from == self.own => self.answered_here(id, response),
            Some(_) => {}
            None => self.pull_response(from, id, response),
        }
    }

    /// A ceiling is durable: operations that waited go on.
    pub(super) fn resume(&mut self) {
        for id in std::mem::take(&mut self.awaiting_ceiling) {
            let now = self.now();
            if let Some(Job::Operation(running)) = self.jobs.get_mut(&id) {
                let held = self.store.version(running.operation.key());
                let mut given = Given { now, clock: &mut self.clock, held };
                let effects = running.operation.resume(&mut given);
                self.carry_out(id, effects);
                self.run_local(); // its store may be here
            }
        }
    }

    /// Ends what took too long.
    pub(super) fn end_late(&mut self, now: Instant) {
        while let Some((_, id)) = self.deadlines.pop_front_if(|(deadline, _)| *deadline <= now) {
            if let Some(Job::Operation(running)) = self.jobs.get_mut(&id) {
                let effects = running.operation.time_out();
                self.carry_out(id, effects);
            }
            match self.jobs.remove(&id) {
                Some(Job::Forwarded { reply, again, replicas, .. }) => {
                    let version = Version::NONE;
                    let result = match again {
                        Some(_) => not_stored("the replica that was asked gave no answer in time"),
                        None => Err(RegisterError::Unknown { version, stored_by: 0, replicas }),
                    };
                    self.reply(reply, result);
                }
                Some(Job::Here(reply)) => {
                    drop(reply.send(Err(unknown_here(Version::NONE))));
                }
                Some(Job::Operation(_)) | None => {}
            }
        }
    }

    // -- this node's copy alone

    /// What is held here of a key, once it is synced.
    pub(super) fn ask_here(&mut self, key: &Bytes, reply: OutcomeSender) {
        let from = self.begin_here(reply);
        self.request(from, Request::Ask { key: key.clone(), wants_value: true });
    }

    /// Stores here alone.
    pub(super) fn store_here(
        &mut self,
        key: Bytes,
        value: Option<Bytes>,
        version: Option<Version>,
        reply: OutcomeSender,
    ) {
        if !self.layout.replicas(&key).contains(&self.own) {
            // Nobody would compare it with the key's replicas, and so it could outlive its delete.
            let words = "this node is no replica of the key: ask one that is, or Cluster.Set";
            drop(reply.send(not_stored(words)));
            return;
        }
        let errand = value.clone().map_or(Errand::Delete, Errand::Set);
        if let Some(busy) = self.busy(&errand) {
            drop(reply.send(Err(RegisterError::Busy(busy))));
            return;
        }
        if self.replica.standing() != Standing::Ready {
            // After a loss its clock is another writer's first (V1 of `leaderless/clock.rs`).
            drop(reply.send(Err(RegisterError::Busy(Refusal::Copying.to_string()))));
            return;
        }
        let base = self.store.version(&key);
        let version = match version {
            Some(version) => version,
            None => match self.clock.propose(self.now(), base) {
                Ok(proposal) => proposal.version,
                Err(NoVersion::Ceiling(ceiling)) => {
                    let effects = self.replica.raise_ceiling(ceiling);
                    self.apply(effects);
                    let words = "the clock waits for its ceiling: try again".to_owned();
                    drop(reply.send(Err(RegisterError::Busy(words))));
                    return;
                }
                Err(NoVersion::Exhausted) => {
                    drop(reply.send(not_stored(Failure::Exhausted.to_string())));
                    return;
                }
            },
        };
        let from = self.begin_here(reply);
        let store = Store { key, held: Held { version, value }, origin: Origin::New { base } };
        self.request(from, Request::Store(store));
    }

    fn begin_here(&mut self, reply: OutcomeSender) -> Asker {
        let id = self.next_id();
        self.jobs.insert(id, Job::Here(reply));
        self.deadlines.push_back((Instant::now() + OPERATION_TIMEOUT, id));
        Asker { node: self.own, operation: OperationId(id) }
    }

    fn answered_here(&mut self, id: u64, response: Response) {
        let Some(Job::Here(reply)) = self.jobs.remove(&id) else { return };
        let result = match response {
            Response::Answer(answer) => {
                let value = match answer.content {
                    Content::Value(value) => Some(value),
                    Content::Nothing | Content::Withheld => None,
                };
                Ok(Done::Read(Held { version: answer.version, value }))
            }
            Response::Stored { version, .. } => Ok(Done::Written(version)),
            Response::Refused(refusal @ (Refusal::Copying | Refusal::NoRoom)) => {
                Err(RegisterError::Busy(refusal.to_string()))
            }
            Response::Refused(Refusal::Ahead) => Err(BadInput::StoredAhead.into()),
            Response::Refused(Refusal::NoVersion) => Err(BadInput::NoClock.into()),
            Response::Refused(refusal) => not_stored(refusal.to_string()),
            Response::Pulled(_) => not_stored("no answer"),
        };
        drop(reply.send(result)); // whoever asked may have gone
    }
}

fn unknown_here(version: Version) -> RegisterError {
    RegisterError::Unknown { version, stored_by: 0, replicas: 1 }
}
