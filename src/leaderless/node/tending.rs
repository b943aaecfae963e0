//! What the driver does from time to time: tells the others how it stands, raises the ceiling of its clock, finds
//! the floor, and pulls from each other node.
//!
//! Called by `driver`; calls `repair`, `replica`. Invariants:
//!
//! - I1: a node pulls from ready nodes alone, while it is ready itself, and from each one at a time.
//!   Neither of two nodes compares anything while it has deletes to forget: what one has forgotten and the other not
//!   is no difference.
//! - I2: who has not been heard for too long may be left out of the floor; since when, each node counts by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::driver::{Driver, Peer};
use super::open::{SEGMENT_BYTES, cluster_id_of};
use super::status::{PeerStatus, RegistersStatus};
use super::wire::{Gossip, PeerMessage};
use crate::leaderless::clock::{Moment, NodeNumber};
use crate::leaderless::message::{Refusal, Request, Response};
use crate::leaderless::operation::Errand;
use crate::leaderless::repair::{
    Found, LOOK_MS, Pull, PullEffect, PullRequest, PullResponse, Sums,
};
use crate::leaderless::replica::{Numbers, Standing};

/// What is said of a node that is not heard for its floor.
const FAR_FLOOR: &str =
    "its floor is more than a day ahead of this node's time: one of the two clocks is wrong";
/// How often it says how it stands.
const GOSSIP_EVERY: Duration = Duration::from_millis(250);
/// How often it looks for the floor.
const FLOOR_EVERY: Duration = Duration::from_secs(1);
/// How long a node that is ready waits for the others, before it calls itself so.
const OTHERS_AWAITED: Duration = Duration::from_secs(2);
/// A pull that got no answer for so long is given up.
const PULL_TIMEOUT: Duration = Duration::from_secs(5);
/// How far ahead of this node's time a floor may be, in milliseconds. Floors come from fences, which are behind the time of day; but all clocks of a
/// cluster may have been wrong once, and a floor never goes back.
const FLOOR_AHEAD_MS_MAX: u64 = 24 * 3_600_000;
/// Records that a peer may be sent in a second on account of reads.
const MENDS_PER_SECOND: u32 = 100;

/// How often and how far back a node repairs, and how large the parts of its log are. Programs have the default.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Pause between pulls from one node.
    pub(super) pull_every: Duration,
    /// How far behind the time of day a fence is put.
    pub(super) fence_lag: Duration,
    /// How long after deletes were forgotten the files are cleaned of them.
    pub(super) clean_after: Duration,
    /// Bytes of a segment of the log.
    pub(super) segment_bytes: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            pull_every: Duration::from_secs(10),
            fence_lag: Duration::from_mins(1),
            clean_after: Duration::from_mins(5),
            segment_bytes: SEGMENT_BYTES,
        }
    }
}

impl Pace {
    /// The same, so many times as fast.
    pub(super) fn faster(self, times: u32) -> Pace {
        Pace {
            pull_every: self.pull_every / times,
            fence_lag: self.fence_lag / times,
            clean_after: self.clean_after / times,
            ..self
        }
    }

    /// See there.
    pub(super) fn fence_lag_ms(self) -> u64 {
        u64::try_from(self.fence_lag.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A pull under way.
#[derive(Debug)]
pub(super) struct Pulling {
    pull: Pull,
    from: NodeNumber,
    /// When it goes on, if it waits for its second look.
    wakes: Option<Instant>,
    /// When it was heard of last.
    at: Instant,
}

fn is_due(at: Option<Instant>, every: Duration, now: Instant) -> bool {
    at.is_none_or(|at| now.duration_since(at) >= every)
}

impl Driver {
    /// Looks what is due.
    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        self.end_late(now);
        self.note_who_is_down(now);
        self.store.forget_some();
        self.drop_missing();
        if self.has_room()
            && let Some(ceiling) = self.clock.ceiling_due(self.now())
        {
            let effects = self.replica.raise_ceiling(ceiling);
            self.apply(effects);
        }
        if is_due(self.gossiped_at, GOSSIP_EVERY, now) {
            self.gossiped_at = Some(now);
            let standing = self.replica.standing();
            self.gossip(now);
            self.catch_up(now);
            if self.replica.standing() != standing {
                self.gossiped_at = None; // the others are told at once
            }
            self.note_readiness(now);
        }
        if is_due(self.floor_sought_at, FLOOR_EVERY, now) {
            self.floor_sought_at = Some(now);
            for peer in self.peers.values_mut() {
                peer.mends = MENDS_PER_SECOND;
            }
            self.find_floor(now);
        }
        self.tend_pulls(now);
    }

    /// Clients are let in once this node answers, and all others do; these are not waited for long.
    fn note_readiness(&mut self, now: Instant) {
        if self.replica.standing() != Standing::Ready {
            self.ready_since = None;
        }
        let since = match self.replica.standing() {
            Standing::Ready => *self.ready_since.get_or_insert(now),
            Standing::Behind | Standing::Lost => now,
        };
        let is_whole = self.peers.values().all(|peer| peer.standing(now) == Some(Standing::Ready));
        let is_ready =
            self.ready_since.is_some() && (is_whole || now.duration_since(since) >= OTHERS_AWAITED);
        if is_ready != self.is_ready.load(Ordering::Relaxed)
            && (is_ready || self.ready_since.is_none())
        {
            self.is_ready.store(is_ready, Ordering::Relaxed);
        }
        let is_seen = |peer: &&Peer| peer.standing(now) == Some(Standing::Ready);
        let seen = 1 + self.peers.values().filter(is_seen).count();
        self.sees_quorum.store(seen > self.layout.replica_count() / 2, Ordering::Relaxed);
    }

    /// What was passed on to a node that is down now waits no longer.
    fn note_who_is_down(&mut self, now: Instant) {
        let mut down = Vec::new();
        for (number, peer) in &mut self.peers {
            let is_up = peer.is_up(now);
            if peer.was_up != is_up {
                let says = if is_up { "is up" } else { "is down" };
                tracing::info!(node = peer.id, "a node {says}");
            }
            if peer.was_up && !is_up {
                down.push(*number);
            }
            if !peer.was_up && is_up {
                peer.pulled_at = None; // at reconnection
            }
            peer.was_up = is_up;
        }
        for number in down {
            self.give_up_on(number);
        }
    }

    fn gossip(&mut self, now: Instant) {
        let numbers = self.replica.numbers().clone();
        let kept = &self.store.kept;
        let mut gossip = Gossip {
            standing: self.replica.standing(),
            is_empty: self.store.is_empty(),
            hears: false,
            incarnation: kept.incarnation,
            founders: kept.founders.clone(),
            numbers,
        };
        let others: Vec<NodeNumber> = self.peers.keys().copied().collect();
        for to in others {
            let heard_at = self.peers.get(&to).and_then(|peer| peer.heard_at);
            gossip.hears =
                heard_at.is_some_and(|at| now.duration_since(at) < super::driver::DOWN_AFTER);
            self.send(to, &PeerMessage::Gossip(Box::new(gossip.clone())));
        }
    }

    /// Another node says how it stands.
    pub(super) fn hear_gossip(&mut self, from: NodeNumber, gossip: Gossip) {
        let (floor, losses) = (gossip.numbers.floor.clone(), gossip.numbers.lost.count);
        if let Some(peer) = self.peers.get_mut(&from) {
            (peer.gossip, peer.gossip_at) = (Some(gossip), Some(Instant::now()));
            peer.complaint.take_if(|complaint| complaint == FAR_FLOOR);
        }
        self.hear_floor(&floor);
        // One that was accepted is told in no other way, and the next one has to be counted above it.
        if losses > 1 && self.has_room() {
            let effects = self.replica.hear_loss(from, losses);
            self.apply(effects);
        }
    }

    /// Whether a message has a floor that no right clock can have led to: whoever heard of it would have to copy for good, and so would
    /// all who hear it from him.
    pub(super) fn is_floor_far(&self, message: &PeerMessage) -> bool {
        let most = self.now().later(FLOOR_AHEAD_MS_MAX);
        let floor = match message {
            PeerMessage::Gossip(gossip) => &gossip.numbers.floor,
            PeerMessage::Request(_, Request::Pull(PullRequest::Begin { floor, .. }))
            | PeerMessage::Response(_, Response::Pulled(PullResponse::Begun { floor })) => floor,
            PeerMessage::CopyBegun { numbers, .. } if numbers.fence > most => return true, // it would be this node's time
            PeerMessage::CopyBegun { numbers, .. } => &numbers.floor,
            _ => return false,
        };
        floor.moment > most
    }

    /// Takes a node for one that is down.
    pub(super) fn refuse_floor_of(&mut self, from: NodeNumber) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if peer.complaint.as_deref() != Some(FAR_FLOOR) {
            tracing::warn!(node = peer.id, "{FAR_FLOOR}");
            peer.complaint = Some(FAR_FLOOR.to_owned());
        }
        peer.gossip = None;
    }

    fn hear_floor(&mut self, floor: &crate::leaderless::replica::Floor) {
        let effects = self.replica.hear_floor(floor);
        self.apply(effects);
        if self.replica.standing() != Standing::Ready {
            self.pulls.clear(); // I1
        }
    }

    fn find_floor(&mut self, now: Instant) {
        if !self.has_room() {
            return;
        }
        let heard: BTreeMap<NodeNumber, Numbers> = self
            .peers
            .iter()
            .filter_map(|(number, peer)| Some((*number, peer.gossip.as_ref()?.numbers.clone())))
            .collect();
        let is_gone = |peer: &Peer| {
            let since = peer.heard_at.unwrap_or(self.started);
            now.duration_since(since) >= self.config.forget_after
        };
        let gone: BTreeSet<NodeNumber> =
            self.peers.iter().filter(|(_, peer)| is_gone(peer)).map(|(at, _)| *at).collect();
        if self.peers.is_empty() {
            // Nobody pulls from a node that is alone.
            let fence = self.time_of_day().earlier(self.pace.fence_lag_ms());
            let pause = u64::try_from(self.pace.pull_every.as_millis()).unwrap_or(u64::MAX);
            if self.replica.numbers().fence.later(pause) <= fence {
                let effects = self.replica.raise_fence(fence);
                self.apply(effects);
            }
        }
        let effects = self.replica.find_floor(&heard, &gone, self.layout.replica_count());
        self.apply(effects);
    }

    // -- pulls

    fn tend_pulls(&mut self, now: Instant) {
        self.pulls.retain(|_, pulling| {
            pulling.wakes.is_some() || now.duration_since(pulling.at) < PULL_TIMEOUT
        });
        let is_awake = |pulling: &Pulling| pulling.wakes.is_some_and(|wakes| wakes <= now);
        let awake: Vec<u64> =
            self.pulls.iter().filter(|(_, it)| is_awake(it)).map(|(id, _)| *id).collect();
        for id in awake {
            if let Some(pulling) = self.pulls.get_mut(&id) {
                (pulling.wakes, pulling.at) = (None, now);
                let effects = pulling.pull.look_again();
                self.carry_out_pull(id, effects);
            }
        }
        let is_able = self.replica.standing() == Standing::Ready && self.has_room();
        if !is_able || self.store.is_forgetting() {
            return; // I1
        }
        let ready: Vec<NodeNumber> = self
            .peers
            .iter()
            .filter(|(number, peer)| {
                peer.standing(now) == Some(Standing::Ready)
                    && is_due(peer.pulled_at, self.pace.pull_every, now)
                    && self.pulls.values().all(|pulling| pulling.from != **number)
            })
            .map(|(number, _)| *number)
            .collect();
        for from in ready {
            self.begin_pull(from, now);
        }
    }

    fn begin_pull(&mut self, from: NodeNumber, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.pulled_at = Some(now);
        }
        let id = self.next_id();
        let floor = self.replica.numbers().floor.clone();
        // And not by this node's time: others would refuse it while that is ahead, and it need not be high.
        let fence = self.time_of_day().earlier(self.pace.fence_lag_ms());
        let (pull, effects) = Pull::begin(floor, fence, self.rules);
        self.pulls.insert(id, Pulling { pull, from, wakes: None, at: now });
        self.carry_out_pull(id, effects);
    }

    pub(super) fn carry_out_pull(&mut self, id: u64, effects: Vec<PullEffect>) {
        for effect in effects {
            let (is_room, has_memory) = (self.has_room(), self.has_memory());
            let Some(pulling) = self.pulls.get_mut(&id) else { return };
            let from = pulling.from;
            match effect {
                PullEffect::Copy { .. } | PullEffect::Confirm(_) if !is_room => {
                    self.pulls.remove(&id); // the next one begins anew
                }
                PullEffect::Send(request) => {
                    self.send(from, &PeerMessage::Request(id, Request::Pull(request)));
                }
                PullEffect::HearFloor(floor) => self.hear_floor(&floor),
                PullEffect::Copy { mut records, floor } => {
                    if !has_memory {
                        records.retain(|found| found.held.value.is_none()); // deletes free it
                    }
                    if !self.copy_records(records, floor) || !has_memory {
                        self.pulls.remove(&id); // something is not here: nothing is confirmed
                    }
                }
                PullEffect::Wait => {
                    pulling.wakes = Some(Instant::now() + Duration::from_millis(LOOK_MS));
                }
                PullEffect::Confirm(moment) => {
                    self.pulls.remove(&id);
                    if let Some(peer) = self.peers.get_mut(&from) {
                        peer.pull_refused = None;
                    }
                    let effects = self.replica.confirm_with(from, moment);
                    self.apply(effects);
                }
            }
        }
    }

    /// Takes what a pull brought; false if any of it is larger than this node takes.
    fn copy_records(&mut self, records: Vec<Found>, floor: Moment) -> bool {
        if records.iter().any(|found| !self.is_within_bounds(&found.held)) {
            return false;
        }
        for Found { key, held: copied } in records {
            let held = self.held(&key);
            self.clock.observe(self.now(), copied.version);
            let effects = self.replica.copy(&key, &copied, &held, floor);
            self.counters.mended += u64::from(!effects.is_empty());
            self.apply(effects);
        }
        true
    }

    /// An answer that is of no operation: of a pull.
    pub(super) fn pull_response(&mut self, sender: NodeNumber, id: u64, response: Response) {
        let Some(from) = self.pulls.get(&id).map(|pulling| pulling.from) else { return };
        if from != sender {
            return;
        }
        let response = match response {
            Response::Pulled(response) => response,
            Response::Refused(refusal) => {
                self.pulls.remove(&id);
                if let Some(peer) = self.peers.get_mut(&from) {
                    peer.pull_refused = Some(refusal);
                }
                return;
            }
            Response::Answer(_) | Response::Stored { .. } => return,
        };
        let listed = match &response {
            PullResponse::List { bucket, .. } => self.store.entries(from, *bucket),
            _ => Vec::new(),
        };
        let Some(pulling) = self.pulls.get_mut(&id) else { return };
        let Some(own) = self.store.sums_with(from) else { return };
        pulling.at = Instant::now();
        let effects = pulling.pull.response(response, own, |_| listed);
        if pulling.pull.is_over() && effects.is_empty() {
            self.pulls.remove(&id);
        }
        self.carry_out_pull(id, effects);
    }

    // -- for people

    /// How the node is.
    pub(super) fn status(&self) -> RegistersStatus {
        let numbers = self.replica.numbers();
        let keys = &self.store.keys;
        let id_of = |number: &NodeNumber| {
            let node = self.layout.nodes().iter().find(|node| node.number == *number);
            node.map_or_else(|| number.to_string(), |node| node.id.clone())
        };
        let now = Instant::now();
        RegistersStatus {
            id: self.config.id.clone(),
            number: self.own.get(),
            cluster_id: format!("{:032x}", cluster_id_of(&self.layout)),
            epoch: self.layout.epoch(),
            layout_hash: self.layout.hash_text(),
            replica_count: self.layout.replica_count(),
            standing: name_of(self.replica.standing()).to_owned(),
            waits_for: self.waits_for.clone(),
            busy: self.busy(&Errand::Set(bytes::Bytes::new())).unwrap_or_default(),
            uptime_ms: ms(self.started.elapsed()),
            keys: keys.live_count(),
            tombstones: keys.deleted_count(),
            memory_bytes: keys.memory_bytes(),
            memory_bytes_max: self.config.memory_bytes_max,
            clock: self.clock.shown(self.now()).get(),
            time_ms: self.now().get(),
            stands_ms: self.now().get().saturating_sub(self.time_of_day().get()),
            sees_quorum: self.sees_quorum.load(Ordering::Relaxed),
            floor_ms: numbers.floor.moment.get(),
            confirmed_ms: numbers.confirmed.get(),
            fence_ms: numbers.fence.get(),
            left_out: numbers.floor.left_out.iter().map(id_of).collect(),
            clashes: self.replica.clashes(),
            ahead: self.replica.ahead().values().sum(),
            ahead_since_ms: self.ahead_at.map(|at| ms(now.duration_since(at))),
            losses: numbers.lost.count,
            has_forgotten_in_files: self.store.has_forgotten_in_files(),
            acknowledged: self.counters.acknowledged,
            failed: self.counters.failed,
            unknown: self.counters.unknown,
            forwarded: self.counters.forwarded,
            mended: self.counters.mended,
            peers: self
                .peers
                .iter()
                .map(|(number, peer)| self.peer_status(*number, peer, now))
                .collect(),
        }
    }

    /// What a refused pull says of the node that refused it.
    fn refused_pull(&self, refusal: Refusal) -> Option<String> {
        match refusal {
            Refusal::Ahead => Some(format!(
                "its clock is more than {} s behind this node's, so it fences nothing, and no delete is forgotten",
                self.pace.fence_lag.as_secs()
            )),
            Refusal::NoRoom => Some(
                "it has no room to be compared with: a full disk, or one that is behind".into(),
            ),
            Refusal::Copying | Refusal::Fenced | Refusal::Forgotten | Refusal::NoVersion => None,
        }
    }

    fn peer_status(&self, number: NodeNumber, peer: &Peer, now: Instant) -> PeerStatus {
        let confirmed = self.replica.numbers().confirmed_with.get(&number);
        let own = self.replica.numbers().ceiling.get();
        let ceiling = peer.gossip.as_ref().filter(|_| peer.is_up(now));
        let ahead_of = |ceiling: Moment| ceiling.get().cast_signed() - own.cast_signed();
        let refused = peer.pull_refused.and_then(|refusal| self.refused_pull(refusal));
        PeerStatus {
            id: peer.id.clone(),
            number: number.get(),
            address: peer.address.clone(),
            is_up: peer.is_up(now),
            standing: peer.gossip.as_ref().map_or("", |gossip| name_of(gossip.standing)).to_owned(),
            confirmed_ms: confirmed.map_or(0, |moment| moment.get()),
            silent_ms: peer.heard_at.map(|at| ms(now.duration_since(at))),
            digest: format!("{:016x}", self.store.sums_with(number).map_or(0, Sums::digest)),
            complaint: peer.complaint.clone().or(refused),
            clock_ms: ceiling.map(|gossip| ahead_of(gossip.numbers.ceiling)),
            queued_bytes: peer.link.queued(),
            dropped: peer.dropped,
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// As people read it.
pub(super) fn name_of(standing: Standing) -> &'static str {
    match standing {
        Standing::Ready => "ready",
        Standing::Behind => "behind",
        Standing::Lost => "lost",
    }
}
