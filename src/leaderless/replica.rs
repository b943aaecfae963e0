//! A replica: one node's copy of the keys that are its own, as a machine without disk, clock or
//! network. What it is told are events; what it wants done are effects.
//!
//! The records are not in here. Whoever calls gives what the store holds of the key, and carries out
//! [`ReplicaEffect::Write`] before the next call: it puts the record into the store and at the
//! end of the log. The store only ever takes a record over one that yields to it, so that the log may
//! be replayed from any point. What is written gets a position in the log, counted from the start of
//! the node; [`Replica::synced`] says up to where the log is on the disk, and lets the answers go that
//! waited for it. Called by the node; calls `clock`, `message`, `rules`. Invariants:
//!
//! - V2: the version of a key only grows, except that deletes at or below the floor are forgotten.
//! - V3: an answer, to an ask as to a store, speaks of what is synced.
//! - V5: fence, floor and what is confirmed only grow, and are synced before they are spoken of.
//! - V6: nothing at or below the floor is made anew; copies are taken from who knows the floor alone.
//! - V7: a replica that has to copy first answers no ask.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::clock::{CEILING_LEAD_MS, Moment, NodeNumber, SKEW_MS_MAX, Version, is_admitted};
use super::message::{Answer, Asker, Content, Held, Losses, Origin, Refusal, Response, Store};
use super::repair::PullResponse;
use super::rules::{Rule, Rules};

/// The numbers of a node that survive a restart. Each only grows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Numbers {
    /// Versions up to here may have been given by this node.
    pub ceiling: Moment,
    /// New stores up to here are refused.
    pub fence: Moment,
    /// The highest floor that it knows.
    pub floor: Floor,
    /// With each other node: up to here both hold the same, and took nothing new since.
    pub confirmed_with: BTreeMap<NodeNumber, Moment>,
    /// With all others.
    pub confirmed: Moment,
    /// How often the directory was found without the copies that it should hold, and how often they
    /// were copied since: if the first is higher, it has to be done. A new directory begins with 1 and 0.
    pub lost: Lost,
    /// How often others did, as far as this node was copied by them.
    pub others_lost: BTreeMap<NodeNumber, u64>,
}

impl Numbers {
    /// Whether a replica with these numbers takes a new version of this moment, as far as they tell: its time may have gone on
    /// since.
    pub fn admit(&self, moment: Moment) -> bool {
        let time = self.ceiling.earlier(CEILING_LEAD_MS);
        self.fence < moment && moment <= time.later(SKEW_MS_MAX)
    }
}

/// A moment up to which every record is at all its replicas. A delete that old is forgotten, and nothing
/// that old is stored any more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Floor {
    /// The moment.
    pub moment: Moment,
    /// Nodes that have been away for too long to be waited for. They have to copy when they come back.
    pub left_out: BTreeSet<NodeNumber>,
}

/// See [`Numbers::lost`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lost {
    /// How often the copies were lost.
    pub count: u64,
    /// How many of these times they were copied anew.
    pub copied: u64,
}

/// What is written to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Logged {
    /// What a key holds.
    Record {
        /// The key.
        key: Bytes,
        /// What it holds.
        held: Held,
    },
    /// All numbers.
    Numbers(Numbers),
}

/// What a replica wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaEffect {
    /// Put this at the end of the log, and a record into the store.
    Write(Logged),
    /// Send this to who asked.
    Respond {
        /// Who asked.
        to: Asker,
        /// The answer.
        response: Response,
    },
    /// The ceiling of the node's clock is synced.
    CeilingIsDurable(Moment),
    /// Forget every delete up to here.
    Forget(Moment),
}

/// Whether a replica answers asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Ready,
    /// It was away while deletes were forgotten, and has to copy from replicas that were not.
    Behind,
    /// It lost its copies, and has to copy from enough others
    /// ([`after_copy`](super::repair::after_copy)).
    Lost,
}

/// An effect that waits for the log.
#[derive(Debug)]
struct Waiting {
    position: u64,
    effect: ReplicaEffect,
}

/// One node's copy.
#[derive(Debug)]
pub struct Replica {
    own: NodeNumber,
    rules: Rules,
    /// All other nodes of the layout.
    others: Vec<NodeNumber>,
    latest: Numbers,
    /// The numbers as they are on the disk.
    durable: Numbers,
    /// Positions of numbers that are not synced yet, ascending.
    unsynced_numbers: VecDeque<(u64, Numbers)>,
    /// Keys whose newest record is not synced yet, with its position.
    unsynced_keys: BTreeMap<Bytes, u64>,
    /// The same in order of positions, with records that are not the newest.
    unsynced_order: VecDeque<(u64, Bytes)>,
    /// Effects that wait, ascending by position.
    waiting: VecDeque<Waiting>,
    /// Position of what was written last.
    written: u64,
    /// Up to here it is synced.
    synced: u64,
    /// How often two values of one version met.
    clashes: u64,
    /// Versions too far ahead that were refused, by sender.
    ahead: BTreeMap<NodeNumber, u64>,
}

impl Replica {
    /// The replica of the node `own` that starts with the numbers of its disk. `nodes` are those of the
    /// layout.
    pub fn open(own: NodeNumber, nodes: &[NodeNumber], numbers: Numbers, rules: Rules) -> Self {
        let others = nodes.iter().copied().filter(|node| *node != own).collect();
        Self {
            own,
            rules,
            others,
            durable: numbers.clone(),
            latest: numbers,
            unsynced_numbers: VecDeque::new(),
            unsynced_keys: BTreeMap::new(),
            unsynced_order: VecDeque::new(),
            waiting: VecDeque::new(),
            written: 0,
            synced: 0,
            clashes: 0,
            ahead: BTreeMap::new(),
        }
    }

    /// The numbers as they are on the disk: those that may be spoken of (V5).
    pub fn numbers(&self) -> &Numbers {
        &self.durable
    }

    /// This node's time, where the time of day is this. It never goes back: a clock that was ahead and was put right would
    /// else propose below the fences that were put meanwhile, and refuse what other nodes propose that were ahead as well. What
    /// it was is to be seen by the ceiling; and a fence was within the time when it was put.
    pub fn time(&self, time_of_day: Moment) -> Moment {
        let Numbers { ceiling, fence, .. } = &self.latest;
        time_of_day.max(ceiling.earlier(CEILING_LEAD_MS)).max(fence.later(1))
    }

    /// Whether it answers asks.
    pub fn standing(&self) -> Standing {
        // It is not ready before that is synced, and no more once anything says so.
        match self.standing_by(&self.latest) {
            Standing::Ready => self.standing_by(&self.durable),
            standing => standing,
        }
    }

    /// Whether it answers asks once everything that was written is synced.
    pub fn is_ready_once_synced(&self) -> bool {
        self.standing_by(&self.latest) == Standing::Ready
    }

    fn standing_by(&self, numbers: &Numbers) -> Standing {
        let Numbers { floor, confirmed, lost, .. } = numbers;
        if lost.copied < lost.count && self.rules.keep(Rule::LostDisk) {
            Standing::Lost
        } else if floor.moment > *confirmed && self.rules.keep(Rule::BehindIsSilent) {
            Standing::Behind
        } else {
            Standing::Ready
        }
    }

    /// How often two values of one version met. More than 0 says that a node gave a version twice.
    pub fn clashes(&self) -> u64 {
        self.clashes
    }

    /// How many versions of each sender were refused because they were too far ahead.
    pub fn ahead(&self) -> &BTreeMap<NodeNumber, u64> {
        &self.ahead
    }

    /// Everything that was written is synced.
    pub fn is_synced(&self) -> bool {
        self.written == self.synced
    }

    fn losses(&self) -> Losses {
        let Numbers { lost, others_lost, .. } = &self.durable;
        Losses { own: lost.count, others: others_lost.clone() }
    }

    /// Somebody asks what is held of a key.
    pub fn ask(
        &mut self,
        to: Asker,
        key: &Bytes,
        held: &Held,
        wants_value: bool,
    ) -> Vec<ReplicaEffect> {
        if self.standing() != Standing::Ready {
            let response = Response::Refused(Refusal::Copying); // V7
            return vec![ReplicaEffect::Respond { to, response }];
        }
        let content = match &held.value {
            None => Content::Nothing,
            Some(value) if wants_value => Content::Value(value.clone()),
            Some(_) => Content::Withheld,
        };
        let response = Response::Answer(Answer {
            version: held.version,
            content,
            floor: self.durable.floor.moment,
            confirmed: self.durable.confirmed,
            losses: self.losses(),
        });
        self.once_durable(key, ReplicaEffect::Respond { to, response })
    }

    /// Somebody wants a record stored. `now` is this node's [time](Self::time).
    pub fn store(
        &mut self,
        to: Asker,
        store: &Store,
        held: &Held,
        now: Moment,
    ) -> Vec<ReplicaEffect> {
        match self.decide(store, held, now) {
            Err(refusal) => {
                if refusal == Refusal::Ahead {
                    *self.ahead.entry(to.node).or_default() += 1;
                }
                vec![ReplicaEffect::Respond { to, response: Response::Refused(refusal) }]
            }
            Ok(takes) => {
                let mut effects = Vec::new();
                if takes {
                    effects.push(self.write_record(store.key.clone(), store.held.clone()));
                }
                let losses = self.losses();
                let response = Response::Stored { version: store.held.version, losses };
                let respond = ReplicaEffect::Respond { to, response };
                effects.extend(self.once_durable(&store.key, respond));
                effects
            }
        }
    }

    /// A record of another replica came by a pull: it is taken by the same rules as a store of a
    /// copy, and nobody waits for an answer. `floor` is that of the other replica when it was read.
    pub fn copy(
        &mut self,
        key: &Bytes,
        copied: &Held,
        held: &Held,
        floor: Moment,
    ) -> Vec<ReplicaEffect> {
        if held.version == copied.version && held.value != copied.value {
            self.clashes += 1;
        }
        let is_refused = self.is_below_floor(copied.version, Origin::Copy { floor });
        if is_refused || !held.yields_to(copied) {
            return Vec::new();
        }
        vec![self.write_record(key.clone(), copied.clone())]
    }

    /// Whether the floor refuses a version. It takes a copy from a replica that knows this floor, or a
    /// higher one, and holds the record still: that one would have met a delete of it (V6).
    fn is_below_floor(&self, version: Version, origin: Origin) -> bool {
        let own = self.latest.floor.moment;
        let is_known = matches!(origin, Origin::Copy { floor } if floor >= own);
        version.moment() <= own && !is_known && self.rules.keep(Rule::FloorRefuses)
    }

    /// Whether a record is to be written (or this one or a higher is there already), by the rules.
    fn decide(&mut self, store: &Store, held: &Held, now: Moment) -> Result<bool, Refusal> {
        let version = store.held.version;
        let moment = version.moment();
        if version.get() == 0 {
            return Err(Refusal::NoVersion);
        }
        if held.version == version {
            if held.value == store.held.value {
                return Ok(false);
            }
            self.clashes += 1;
            return Ok(self.rules.keep(Rule::TieBreak) && held.yields_to(&store.held));
        }
        if held.version > version && self.rules.keep(Rule::NewerWins) {
            return Ok(false);
        }
        if let Origin::New { base } = store.origin {
            if moment <= self.latest.fence && self.rules.keep(Rule::Fence) {
                return Err(Refusal::Fenced);
            }
            let is_near = is_admitted(now, version, [held.version, base]);
            if !is_near && self.rules.keep(Rule::SkewBound) {
                return Err(Refusal::Ahead);
            }
        }
        if self.is_below_floor(version, store.origin) {
            return Err(Refusal::Forgotten);
        }
        Ok(true)
    }

    fn write_record(&mut self, key: Bytes, held: Held) -> ReplicaEffect {
        self.written += 1;
        let own = Bytes::copy_from_slice(&key); // and not the frame that it came in
        self.unsynced_order.push_back((self.written, own.clone()));
        self.unsynced_keys.insert(own, self.written);
        ReplicaEffect::Write(Logged::Record { key, held })
    }

    /// The effect, now if what is held of the key is synced, else as soon as it is (V3).
    fn once_durable(&mut self, key: &Bytes, effect: ReplicaEffect) -> Vec<ReplicaEffect> {
        match self.unsynced_keys.get(key) {
            Some(position) if self.rules.keep(Rule::DurableAnswers) => {
                self.wait(*position, effect);
                Vec::new()
            }
            _ => vec![effect],
        }
    }

    fn wait(&mut self, position: u64, effect: ReplicaEffect) {
        let at = self.waiting.partition_point(|waiting| waiting.position <= position);
        self.waiting.insert(at, Waiting { position, effect });
    }

    /// What was written up to now is on the disk as far as `count` more writes (records and numbers).
    pub fn synced(&mut self, count: u64) -> Vec<ReplicaEffect> {
        self.synced = self.written.min(self.synced + count);
        let synced = self.synced;
        while let Some((at, key)) = self.unsynced_order.pop_front_if(|(at, _)| *at <= synced) {
            if self.unsynced_keys.get(&key) == Some(&at) {
                self.unsynced_keys.remove(&key);
            }
        }
        let mut effects = Vec::new();
        while let Some((_, numbers)) = self.unsynced_numbers.pop_front_if(|(at, _)| *at <= synced) {
            if numbers.ceiling > self.durable.ceiling {
                effects.push(ReplicaEffect::CeilingIsDurable(numbers.ceiling));
            }
            if numbers.floor.moment > self.durable.floor.moment {
                effects.push(ReplicaEffect::Forget(numbers.floor.moment));
            }
            self.durable = numbers;
        }
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.position <= synced) {
            effects.push(waiting.effect);
        }
        effects
    }

    /// The clock needs a higher ceiling.
    pub fn raise_ceiling(&mut self, ceiling: Moment) -> Vec<ReplicaEffect> {
        let ceiling = self.latest.ceiling.max(ceiling);
        self.write_numbers(Numbers { ceiling, ..self.latest.clone() })
    }

    /// Promises to refuse new stores up to here, once that is synced.
    pub fn raise_fence(&mut self, fence: Moment) -> Vec<ReplicaEffect> {
        let fence = self.latest.fence.max(fence);
        self.write_numbers(Numbers { fence, ..self.latest.clone() })
    }

    /// Another node begins to pull from this one. It is answered once the fence is synced; from then on
    /// this replica takes nothing new up to there.
    pub fn begin_pull(&mut self, to: Asker, floor: &Floor, fence: Moment) -> Vec<ReplicaEffect> {
        let mut effects = self.hear_floor(floor);
        if self.standing() != Standing::Ready {
            let response = Response::Refused(Refusal::Copying);
            effects.push(ReplicaEffect::Respond { to, response });
            return effects;
        }
        effects.extend(self.raise_fence(fence));
        let floor = self.latest.floor.clone();
        let response = Response::Pulled(PullResponse::Begun { floor });
        let respond = ReplicaEffect::Respond { to, response };
        match self.unsynced_numbers.back() {
            Some((position, _)) => self.wait(*position, respond), // V5
            None => effects.push(respond),
        }
        effects
    }

    /// Another node knows of this floor. If it is above what this one has confirmed, with all that were
    /// not left out, this one was away while deletes were forgotten, and is behind from now on.
    pub fn hear_floor(&mut self, heard: &Floor) -> Vec<ReplicaEffect> {
        if heard.moment <= self.latest.floor.moment {
            return Vec::new();
        }
        let mut numbers = self.latest.clone();
        if confirmed_without(self.own, &numbers, &self.others, &heard.left_out) >= heard.moment {
            numbers.confirmed = numbers.confirmed.max(heard.moment);
        }
        numbers.floor = heard.clone();
        self.write_numbers(numbers)
    }

    /// Finds the floor: the least that all nodes have confirmed, by what was `heard` of the others. What
    /// is older and deleted is forgotten once that is synced. Who has been away for too long is
    /// `left_out`, but never so many as a majority of the `replica_count` replicas of a key needs:
    /// then the floor rests.
    pub fn find_floor(
        &mut self,
        heard: &BTreeMap<NodeNumber, Numbers>,
        left_out: &BTreeSet<NodeNumber>,
        replica_count: usize,
    ) -> Vec<ReplicaEffect> {
        let is_possible =
            left_out.len() <= (replica_count - 1) / 2 && !left_out.contains(&self.own);
        if !is_possible || self.standing() != Standing::Ready {
            return Vec::new();
        }
        let mut nodes = self.others.clone();
        nodes.push(self.own);
        let mut least = confirmed_without(self.own, &self.durable, &nodes, left_out);
        for other in self.others.iter().filter(|other| !left_out.contains(other)) {
            let Some(numbers) = heard.get(other) else { return Vec::new() };
            least = least.min(confirmed_without(*other, numbers, &nodes, left_out));
        }
        self.hear_floor(&Floor { moment: least, left_out: left_out.clone() })
    }

    /// Everything up to `moment` was exchanged with another node since both had put their fences there,
    /// and what came is written.
    pub fn confirm_with(&mut self, other: NodeNumber, moment: Moment) -> Vec<ReplicaEffect> {
        let mut numbers = self.latest.clone();
        let with = numbers.confirmed_with.entry(other).or_default();
        *with = moment.max(*with);
        let of =
            |other: &NodeNumber| numbers.confirmed_with.get(other).copied().unwrap_or_default();
        let least = self.others.iter().map(of).min().unwrap_or(numbers.fence);
        numbers.confirmed = numbers.confirmed.max(least);
        self.write_numbers(numbers)
    }

    /// This node lost its disk, and begins to copy. The others know of `known` losses of it before.
    /// Once the higher count is synced they are told ([`Replica::hear_loss`]), and then copied.
    pub fn begin_copying(&mut self, known: u64) -> Vec<ReplicaEffect> {
        let mut numbers = self.latest.clone();
        if numbers.lost.copied < numbers.lost.count {
            numbers.lost.count = numbers.lost.count.max(known.saturating_add(1));
        }
        self.write_numbers(numbers)
    }

    /// Another node lost its disk for the `count`th time. Once that is synced it may copy from this one.
    pub fn hear_loss(&mut self, other: NodeNumber, count: u64) -> Vec<ReplicaEffect> {
        let mut numbers = self.latest.clone();
        let lost = numbers.others_lost.entry(other).or_default();
        *lost = count.max(*lost);
        self.write_numbers(numbers)
    }

    /// Holds what [`after_copy`](super::repair::after_copy) says of every key, and that is synced. `sources`
    /// are the numbers of those it copied from, as they were before that: their promises are taken over.
    /// It answers asks again.
    pub fn copied(&mut self, sources: &[Numbers]) -> Vec<ReplicaEffect> {
        let mut numbers = self.latest.clone();
        for source in sources {
            if source.floor.moment > numbers.floor.moment {
                numbers.floor = source.floor.clone();
            }
            numbers.fence = numbers.fence.max(source.fence);
        }
        let floor = numbers.floor.moment;
        numbers.confirmed = numbers.confirmed.max(floor);
        for other in &self.others {
            let with = numbers.confirmed_with.entry(*other).or_default();
            *with = floor.max(*with);
        }
        numbers.lost.copied = numbers.lost.count;
        self.write_numbers(numbers)
    }

    /// Nothing was lost that others hold: the directory is the one that the cluster began with, or whoever
    /// started the node says so. If a floor is known by now, the node is behind and copies as such.
    pub fn nothing_was_lost(&mut self) -> Vec<ReplicaEffect> {
        let mut numbers = self.latest.clone();
        numbers.lost.copied = numbers.lost.count;
        self.write_numbers(numbers)
    }

    /// This node is behind, and whoever started it says that nobody is left to be copied: what is here counts, up to the floor that it
    /// has heard of. What was deleted and forgotten meanwhile is there again.
    pub fn nothing_was_missed(&mut self) -> Vec<ReplicaEffect> {
        let mut numbers = self.latest.clone();
        let floor = numbers.floor.moment;
        numbers.confirmed = numbers.confirmed.max(floor);
        numbers.fence = numbers.fence.max(floor); // its time is above it, or its own writes were forgotten ones
        for other in &self.others {
            let with = numbers.confirmed_with.entry(*other).or_default();
            *with = floor.max(*with);
        }
        self.write_numbers(numbers)
    }

    fn write_numbers(&mut self, numbers: Numbers) -> Vec<ReplicaEffect> {
        if numbers == self.latest {
            return Vec::new();
        }
        self.latest = numbers.clone();
        self.written += 1;
        self.unsynced_numbers.push_back((self.written, numbers.clone()));
        vec![ReplicaEffect::Write(Logged::Numbers(numbers))]
    }
}

/// Up to where a node with these numbers has confirmed with all nodes that are not left out.
fn confirmed_without(
    node: NodeNumber,
    numbers: &Numbers,
    nodes: &[NodeNumber],
    left_out: &BTreeSet<NodeNumber>,
) -> Moment {
    if left_out.contains(&node) {
        return Moment::default();
    }
    let with = |other: &NodeNumber| numbers.confirmed_with.get(other).copied().unwrap_or_default();
    let others = nodes.iter().filter(|other| **other != node && !left_out.contains(other));
    let least = others.map(with).min().unwrap_or(numbers.fence);
    least.max(numbers.confirmed)
}
