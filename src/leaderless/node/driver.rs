//! The one task that has a node's machines: it takes what has come, in turns, tells the machines, and
//! carries out what they want.
//!
//! Started by `mod`. What one turn writes is one entry of the log, and what it has to say to a peer is
//! one frame. It waits for nothing but the next event: the disk tells it what is synced, and peers are
//! sent what their queues take. `operations` runs operations, `serving` answers other nodes, `tending` has what
//! is done from time to time, and `copying` what a node does that lacks what others hold. Invariants:
//!
//! - I1: an effect of a replica is carried out before the machines are told anything else.
//! - V3: what waits for the disk goes out after [`Event::Synced`] alone.
//! - V10: everything that waits is bounded: events by their channels, operations by their time, peers by their
//!   queues.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::copying::Copying;
use super::error::RegisterError;
use super::links::{Link, QUEUE_BYTES_MAX};
use super::operations::Job;
use super::status::RegistersStatus;
use super::store::Store;
use super::tending::{Pace, Pulling};
use super::wire::{Done, FRAME_HEADER_BYTES, Gossip, PeerMessage, end_frame, put_message};
use super::{RegistersConfig, moment_of};
use crate::fault::Faults;
use crate::host::Host;
use crate::leaderless::clock::{Clock, Moment, NodeNumber, Version};
use crate::leaderless::layout::Layout;
use crate::leaderless::message::{Asker, Held, OperationId, Refusal, Request, Response};
use crate::leaderless::operation::{Errand, Level};
use crate::leaderless::replica::{Logged, Replica, ReplicaEffect, Standing};
use crate::leaderless::rules::Rules;

/// Most events of one turn.
const TURN_EVENTS_MAX: usize = 512;
/// How often it looks what is due.
const TICK: Duration = Duration::from_millis(25);
/// A frame is sent once it has so many bytes; its last message may be larger.
const FRAME_BYTES: usize = 4 << 20;
/// Before a checkpoint is tried again that found no room.
const CHECKPOINT_PAUSE: Duration = Duration::from_secs(10);
/// Messages to a peer that wait for the disk: a step of a pull and one of a copy, and what is left of those before.
const HELD_MAX: usize = 8;
/// A peer that was not heard for so long is down.
pub(super) const DOWN_AFTER: Duration = Duration::from_secs(1);

/// Where the outcome of an operation goes.
pub(super) type OutcomeSender = oneshot::Sender<Result<Done, RegisterError>>;

/// What the driver is told.
#[derive(Debug)]
pub(super) enum Event {
    /// An operation begins here.
    Begin { errand: Errand, key: Bytes, level: Level, reply: OutcomeSender },
    /// What is held here of a key is asked for.
    Held { key: Bytes, reply: OutcomeSender },
    /// A record is to be stored here alone.
    StoreHere { key: Bytes, value: Option<Bytes>, version: Option<Version>, reply: OutcomeSender },
    /// What the clock shows is asked for.
    Clock(oneshot::Sender<Version>),
    /// The clock is to show this version at least. The answer is false if that is too far ahead.
    RaiseClock { version: Version, reply: oneshot::Sender<bool> },
    /// How the node is, is asked for.
    Status(oneshot::Sender<RegistersStatus>),
    /// Messages came.
    Peer { from: NodeNumber, messages: Vec<PeerMessage> },
    /// A peer can be sent to.
    Linked(NodeNumber),
    /// A peer cannot be sent to, for this reason.
    Unlinked(NodeNumber, String),
    /// So many more writes are synced.
    Synced(u64),
    /// A checkpoint ended; it is not there if the disk had no room for it.
    Checkpointed { is_there: bool },
    /// The log goes on in new files, if the disk had room.
    Renewed { is_there: bool },
}

/// A message of this node to itself, or in place of another one that it could not be sent to.
#[derive(Debug)]
pub(super) enum Local {
    Request(Asker, Request),
    Response(NodeNumber, OperationId, Response),
}

/// Another node.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: String,
    pub(super) address: String,
    pub(super) link: Link,
    /// The frame that is being filled, with room for its header.
    out: Vec<u8>,
    pub(super) is_linked: bool,
    pub(super) heard_at: Option<Instant>,
    /// What it said of itself last, and when that was heard.
    pub(super) gossip: Option<Gossip>,
    pub(super) gossip_at: Option<Instant>,
    pub(super) complaint: Option<String>,
    /// Why it refused this node's last pull, if it did.
    pub(super) pull_refused: Option<Refusal>,
    pub(super) dropped: u64,
    /// When a pull from it was begun last; none is due before it is up.
    pub(super) pulled_at: Option<Instant>,
    /// How many records it may be sent on account of reads, in this second.
    pub(super) mends: u32,
    /// When it was found to be up or down last.
    pub(super) was_up: bool,
}

impl Peer {
    pub(super) fn new(id: String, address: String, link: Link) -> Peer {
        Peer {
            id,
            address,
            link,
            out: vec![0; FRAME_HEADER_BYTES],
            is_linked: false,
            heard_at: None,
            gossip: None,
            gossip_at: None,
            complaint: None,
            pull_refused: None,
            dropped: 0,
            pulled_at: None,
            mends: 0,
            was_up: false,
        }
    }

    /// Whether both hear each other.
    pub(super) fn is_up(&self, now: Instant) -> bool {
        let is_heard = self.heard_at.is_some_and(|at| now.duration_since(at) < DOWN_AFTER);
        self.is_linked && is_heard && self.gossip.as_ref().is_some_and(|gossip| gossip.hears)
    }

    /// How it says it stands, if it is up.
    pub(super) fn standing(&self, now: Instant) -> Option<Standing> {
        self.gossip.as_ref().filter(|_| self.is_up(now)).map(|gossip| gossip.standing)
    }

    /// Whether more may wait for it.
    pub(super) fn has_room(&self) -> bool {
        self.waiting_bytes() <= QUEUE_BYTES_MAX
    }

    fn waiting_bytes(&self) -> usize {
        self.link.queued() + self.out.len()
    }

    fn flush(&mut self) {
        if self.out.len() > FRAME_HEADER_BYTES {
            let mut frame = std::mem::replace(&mut self.out, vec![0; FRAME_HEADER_BYTES]);
            end_frame(&mut frame, 0);
            self.link.send(frame);
        }
    }
}

/// How often things happened.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counters {
    pub(super) acknowledged: u64,
    pub(super) failed: u64,
    pub(super) unknown: u64,
    pub(super) forwarded: u64,
    pub(super) mended: u64,
}

/// The channels that events come by.
#[derive(Debug)]
pub(super) struct Inlets {
    /// From the node's own threads and tasks; few.
    pub(super) signals: mpsc::UnboundedReceiver<Event>,
    /// From peers.
    pub(super) peers: mpsc::Receiver<Event>,
    /// From clients.
    pub(super) clients: mpsc::Receiver<Event>,
    pub(super) stop: watch::Receiver<bool>,
}

impl Inlets {
    /// Takes what has come beside the first event of a turn.
    fn take_rest(&mut self, events: &mut Vec<Event>) {
        while events.len() < TURN_EVENTS_MAX {
            let next = self.signals.try_recv().ok();
            let next = next.or_else(|| self.peers.try_recv().ok());
            let Some(event) = next.or_else(|| self.clients.try_recv().ok()) else { return };
            events.push(event);
        }
    }
}

/// What is left of a driver that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) store: Store,
    /// A checkpoint that was told to end.
    pub(super) checkpoint: Option<JoinHandle<()>>,
    /// The log lacks what is in memory.
    pub(super) has_failed: bool,
}

/// See there.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) host: Host,
    pub(super) config: RegistersConfig,
    pub(super) pace: Pace,
    pub(super) faults: Faults,
    pub(super) own: NodeNumber,
    pub(super) layout: Layout,
    pub(super) rules: Rules,
    pub(super) store: Store,
    pub(super) replica: Replica,
    pub(super) clock: Clock,
    pub(super) signals: mpsc::UnboundedSender<Event>,
    pub(super) peers: BTreeMap<NodeNumber, Peer>,
    pub(super) jobs: HashMap<u64, Job>,
    pub(super) awaiting_ceiling: Vec<u64>,
    pub(super) deadlines: VecDeque<(Instant, u64)>,
    pub(super) next_operation: u64,
    pub(super) local: VecDeque<Local>,
    /// Messages that wait until so many writes are synced.
    pub(super) after_sync: VecDeque<(u64, NodeNumber, PeerMessage)>,
    /// Writes since the start, and how many of them are synced.
    pub(super) written: u64,
    pub(super) synced: u64,
    pub(super) pulls: HashMap<u64, Pulling>,
    pub(super) copying: Option<Copying>,
    /// It has counted its loss since the start.
    pub(super) has_counted: bool,
    /// Since when there are too few nodes that it could copy.
    pub(super) lacks_since: Option<Instant>,
    /// There were enough nodes that could be copied and said so, once since the start.
    pub(super) saw_sources: bool,
    /// What a node waits for that is not ready.
    pub(super) waits_for: String,
    pub(super) counters: Counters,
    /// When a checkpoint is to be tried again that was not made.
    pub(super) checkpoint_again: Option<Instant>,
    /// The thread of the checkpoint that runs, and what ends it early.
    pub(super) checkpoint: Option<JoinHandle<()>>,
    pub(super) cancel: Arc<AtomicBool>,
    /// The log took an entry no more.
    pub(super) has_failed: bool,
    pub(super) started: Instant,
    /// When it did last what it does from time to time.
    pub(super) gossiped_at: Option<Instant>,
    pub(super) floor_sought_at: Option<Instant>,
    /// Since when its replica answers.
    pub(super) ready_since: Option<Instant>,
    pub(super) is_ready: Arc<AtomicBool>,
    /// It and the ready nodes that it sees are so many that some key has a majority of its replicas.
    pub(super) sees_quorum: Arc<AtomicBool>,
    /// When it refused a version last that was too far ahead.
    pub(super) ahead_at: Option<Instant>,
    /// How its replica stands, for whoever asks for nothing else ([`Standing`] as a number).
    pub(super) standing: Arc<AtomicU8>,
}

impl Driver {
    /// Runs until it is told to stop, or the log fails.
    pub(super) async fn run(mut self, mut inlets: Inlets) -> Ended {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut events = Vec::with_capacity(TURN_EVENTS_MAX);
        loop {
            tokio::select! {
                biased;
                _ = inlets.stop.wait_for(|stops| *stops) => break,
                _ = ticks.tick() => self.tick(),
                Some(event) = inlets.signals.recv() => events.push(event),
                Some(event) = inlets.peers.recv() => events.push(event),
                Some(event) = inlets.clients.recv() => events.push(event),
            }
            inlets.take_rest(&mut events);
            self.run_local();
            for event in events.drain(..) {
                self.handle(event);
                self.run_local();
            }
            self.end_turn();
            if self.has_failed {
                break; // what the log lacks is in memory
            }
        }
        self.append();
        self.cancel.store(true, Ordering::Relaxed);
        Ended { store: self.store, checkpoint: self.checkpoint, has_failed: self.has_failed }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Begin { errand, key, level, reply } => {
                self.begin(super::operations::ReplyTo::Here(reply), errand, key, level);
            }
            Event::Held { key, reply } => self.ask_here(&key, reply),
            Event::StoreHere { key, value, version, reply } => {
                self.store_here(key, value, version, reply);
            }
            Event::Clock(reply) => drop(reply.send(self.clock.shown(self.now()))),
            Event::RaiseClock { version, reply } => drop(reply.send(self.raise_clock(version))),
            Event::Status(reply) => drop(reply.send(self.status())),
            Event::Peer { from, messages } => self.hear(from, messages),
            Event::Linked(peer) => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.is_linked = true;
                    peer.complaint = None;
                    self.gossiped_at = None; // at once
                }
            }
            Event::Unlinked(peer, reason) => self.unlinked(peer, reason),
            Event::Synced(count) => {
                self.synced += count;
                let effects = self.replica.synced(count);
                self.apply(effects);
                self.end_copy(); // before anything is begun under the old writer's clock
                self.send_after_sync();
            }
            Event::Checkpointed { is_there } => {
                drop(self.checkpoint.take());
                self.checkpoint_again = (!is_there).then(|| Instant::now() + CHECKPOINT_PAUSE);
                if std::mem::take(&mut self.store.is_cleaning) && !is_there {
                    self.store.note_forgotten();
                }
            }
            Event::Renewed { is_there } => {
                drop(self.checkpoint.take());
                (self.store.is_renewed, self.store.is_cleaning) = (is_there, is_there);
                if !is_there {
                    self.store.note_forgotten();
                }
            }
        }
    }

    /// A client's clock shows a version. False if that is too far ahead for this one to follow.
    fn raise_clock(&mut self, version: Version) -> bool {
        self.clock.observe(self.now(), version);
        self.clock.shown(self.now()) >= version
    }

    fn unlinked(&mut self, number: NodeNumber, reason: String) {
        let Some(peer) = self.peers.get_mut(&number) else { return };
        if peer.is_linked || peer.complaint.as_ref() != Some(&reason) {
            tracing::info!(node = peer.id, reason, "a node cannot be reached");
        }
        peer.is_linked = false;
        peer.out.truncate(FRAME_HEADER_BYTES); // what waits is of another connection
        peer.complaint = Some(reason);
        self.give_up_on(number);
    }

    fn hear(&mut self, from: NodeNumber, messages: Vec<PeerMessage>) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.heard_at = Some(Instant::now());
        for message in messages {
            if self.is_floor_far(&message) {
                self.refuse_floor_of(from);
                continue;
            }
            match message {
                PeerMessage::Request(operation, request) => {
                    let asker = Asker { node: from, operation: OperationId(operation) };
                    self.request(asker, request);
                }
                PeerMessage::Response(operation, response) => {
                    self.response(from, operation, response);
                }
                PeerMessage::Forward { id, until, errand, key, level } => {
                    let reply = super::operations::ReplyTo::Peer { node: from, id };
                    self.begin_forwarded(reply, until, (errand, key, level));
                }
                PeerMessage::Forwarded(id, result) => self.forwarded(from, id, result),
                PeerMessage::Gossip(gossip) => self.hear_gossip(from, *gossip),
                PeerMessage::CopyBegin { attempt, losses } => {
                    self.copy_begins(from, attempt, losses);
                }
                PeerMessage::CopyBegun { attempt, numbers, is_ready } => {
                    if self.is_copying(attempt) {
                        self.copy_begun(from, *numbers, is_ready);
                    }
                }
                PeerMessage::CopyPage { attempt, from: hash } => {
                    self.copy_page(from, attempt, hash);
                }
                PeerMessage::CopyPaged { attempt, from: hash, next, floor, records } => {
                    if self.is_copying(attempt) {
                        self.copy_paged(from, (hash, next), floor, records);
                    }
                }
            }
            self.run_local();
        }
    }

    /// Hands over what this node sent itself, until nothing is left.
    pub(super) fn run_local(&mut self) {
        while let Some(local) = self.local.pop_front() {
            match local {
                Local::Request(asker, request) => self.request(asker, request),
                Local::Response(from, operation, response) => {
                    self.response(from, operation.0, response);
                }
            }
        }
    }

    /// Carries out what the replica wants.
    pub(super) fn apply(&mut self, effects: Vec<ReplicaEffect>) {
        for effect in effects {
            match effect {
                ReplicaEffect::Write(Logged::Record { key, held }) => {
                    self.written += 1;
                    self.store.put(&key, &held);
                    self.append_if_full();
                }
                ReplicaEffect::Write(Logged::Numbers(numbers)) => {
                    self.written += 1;
                    self.store.put_numbers(numbers);
                }
                ReplicaEffect::Respond { to, response } => {
                    if to.node == self.own {
                        self.local.push_back(Local::Response(self.own, to.operation, response));
                    } else {
                        let message = PeerMessage::Response(to.operation.0, response);
                        self.send(to.node, &message);
                    }
                }
                ReplicaEffect::CeilingIsDurable(ceiling) => {
                    self.clock.ceiling_is_durable(ceiling);
                    self.resume();
                }
                ReplicaEffect::Forget(floor) => {
                    self.store.forget(floor);
                    self.store.forget_some(); // all, as a rule; the rest with the ticks
                    // The others are told at once: an answer does not count that knows less than this floor.
                    self.gossiped_at = None;
                }
            }
        }
    }

    /// Sends a message to a peer, if there is room; says whether it did.
    pub(super) fn send(&mut self, to: NodeNumber, message: &PeerMessage) -> bool {
        let Some(peer) = self.peers.get_mut(&to) else { return false };
        // Outcomes are as many as the peer passes on, and short, but for values that were read. A peer that passes on
        // without end and takes nothing is bounded all the same.
        let is_short = match message {
            PeerMessage::Gossip(_) => true,
            PeerMessage::Forwarded(_, result) => !matches!(result, Ok(Done::Read(_))),
            _ => false,
        };
        let bytes_max = if is_short { 2 * QUEUE_BYTES_MAX } else { QUEUE_BYTES_MAX };
        if !peer.is_linked || peer.waiting_bytes() > bytes_max {
            peer.dropped += u64::from(peer.is_linked);
            return false;
        }
        put_message(&mut peer.out, message);
        if peer.out.len() >= FRAME_BYTES {
            peer.flush();
        }
        true
    }

    /// Sends a message to a peer once everything that was written up to now is synced.
    pub(super) fn send_once_synced(&mut self, to: NodeNumber, message: PeerMessage) {
        if self.synced >= self.written {
            self.send(to, &message);
        } else if self.after_sync.iter().filter(|(_, other, _)| *other == to).count() < HELD_MAX {
            self.after_sync.push_back((self.written, to, message));
        }
    }

    fn send_after_sync(&mut self) {
        while let Some((_, to, mut message)) =
            self.after_sync.pop_front_if(|(position, ..)| *position <= self.synced)
        {
            if let PeerMessage::CopyBegun { numbers, is_ready, .. } = &mut message {
                **numbers = self.replica.numbers().clone(); // the floor may have moved meanwhile
                *is_ready = self.replica.standing() == Standing::Ready;
            }
            self.send(to, &message);
        }
    }

    /// Ends the entry that is being filled, if it is large enough.
    pub(super) fn append_if_full(&mut self) {
        if self.store.is_entry_full() {
            self.append();
        }
    }

    /// Gives the log what was written, and has the syncer say when it is synced.
    fn append(&mut self) {
        if self.has_failed {
            return; // nothing may stand behind what is missing
        }
        let appended = match self.store.append() {
            Ok(Some(appended)) => appended,
            Ok(None) => return,
            Err(error) => {
                self.faults.report(format!("the log takes no more: {error}"));
                self.has_failed = true;
                return;
            }
        };
        let signals = self.signals.clone();
        self.store.syncer.complete_at(appended.position, move |result| {
            // After a failure the syncer has reported the fault, and nothing is acknowledged any more.
            if result.is_ok() {
                drop(signals.send(Event::Synced(appended.count))); // only a node that stops is deaf
            }
        });
    }

    pub(super) fn end_turn(&mut self) {
        self.append();
        self.standing.store(self.replica.standing() as u8, Ordering::Relaxed);
        for peer in self.peers.values_mut() {
            peer.flush();
        }
        if self.checkpoint.is_some() || self.has_failed {
            return;
        }
        // A log that may not grow is never long enough for the next one.
        let job = match self.checkpoint_again {
            Some(at) if at <= Instant::now() => self.store.checkpoint(&self.cancel),
            _ => self.store.checkpoint_due(&self.cancel),
        };
        if let Some(job) = job {
            self.checkpoint_again = None;
            self.begin_checkpoint(move || job.run(), |is_there| Event::Checkpointed { is_there });
        } else if self.checkpoint_again.is_none()
            && let Some(job) = self.store.renewal_due(self.pace.clean_after)
        {
            self.begin_checkpoint(move || job.run(), |is_there| Event::Renewed { is_there });
        }
    }

    /// Begins a checkpoint, or what goes before it, on a thread of its own, which tells whether there was room for it.
    fn begin_checkpoint(
        &mut self,
        run: impl FnOnce() -> diskstore_storage::Result<bool> + Send + 'static,
        ended: impl FnOnce(bool) -> Event + Send + 'static,
    ) {
        let (signals, faults) = (self.signals.clone(), self.faults.clone());
        let begun = self.host.threads.spawn("checkpoint", move || {
            let is_there = run().unwrap_or_else(|error| {
                faults.report(format!("a checkpoint failed: {}", crate::fault::chain(&error)));
                true // the node stops
            });
            drop(signals.send(ended(is_there)));
        });
        match begun {
            Ok(thread) => self.checkpoint = Some(thread),
            Err(error) => {
                tracing::warn!(%error, "no thread for a checkpoint: the log grows until there is");
                self.checkpoint_again = Some(Instant::now() + CHECKPOINT_PAUSE);
                self.store.note_forgotten();
            }
        }
    }

    /// The node's time: the time of day, unless that went back ([`Replica::time`]).
    pub(super) fn now(&self) -> Moment {
        self.replica.time(self.time_of_day())
    }

    /// What the clock on the wall shows.
    pub(super) fn time_of_day(&self) -> Moment {
        moment_of(&self.host)
    }

    /// The id of the next operation or pull of this node.
    pub(super) fn next_id(&mut self) -> u64 {
        self.next_operation += 1;
        self.next_operation
    }

    /// Whether what need not be written now may be: there is room in the log, and the disk is not behind.
    pub(super) fn has_room(&self) -> bool {
        self.store.wal.has_next_segment() && !self.store.wal.is_over_bound()
    }

    /// What is held here of a key.
    pub(super) fn held(&self, key: &[u8]) -> Held {
        self.store.held(key)
    }
}
