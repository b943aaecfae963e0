//! A cluster in one thread: the machines of some nodes, what they hold in memory and on disk, and the
//! messages between them. Every step does one thing, chosen at random, and each seed has its own
//! mix of what happens.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use diskstore_storage::keys::mark_of;

use super::super::clock::{Clock, Moment, NodeNumber, Version, Writer};
use super::super::founding::{Directory, founders};
use super::super::layout::{Described, Layout};
use super::super::message::{Asker, Held, OperationId, Origin, Request, Response};
use super::super::operation::{Errand, Level, Local, Operation, OperationEffect, Outcome, Task};
use super::super::place::hash64;
use super::super::repair::{
    Entry, Found, Hashed, LOOK_MS, Pull, PullEffect, PullRequest, PullResponse, Sourced, Stamp,
    Sums, after_copy, bucket_of,
};
use super::super::replica::{Floor, Logged, Lost, Numbers, Replica, ReplicaEffect, Standing};
use super::super::rules::{Rule, Rules};
use super::checker::{Begun, Checker, Fault};
use super::random::Random;

/// Most messages that are under way; beyond, the oldest are lost.
const MESSAGES_MAX: usize = 300;
/// Where time begins, in milliseconds since 2020.
const BEGIN_MS: u64 = 200_000_000_000;
/// How far ahead clocks are that are put right.
const PUT_RIGHT_MS: i64 = 3_600_000;
/// A node that was down so long may be left out of the floor.
const LEFT_OUT_MS: u64 = 400;
/// The directories that a cluster begins with have this number; those that come after a lost disk have others.
const FIRST_DIRECTORY: u64 = 0;
/// Who was heard so long ago counts as up.
const HEARD_MS: u64 = 1_000;

/// How many nodes there are, and replicas of each key.
const SIZES: [(usize, u64); 14] = [
    (3, 3),
    (3, 3),
    (3, 3),
    (3, 3),
    (3, 3),
    (3, 3),
    (4, 3),
    (5, 3),
    (5, 5),
    (1, 1),
    (3, 1),
    (2, 2),
    (3, 2),
    (4, 4),
];

/// What is on its way.
#[derive(Debug, Clone)]
enum Message {
    Request { to: NodeNumber, from: Asker, request: Request },
    Response { from: NodeNumber, to: Asker, response: Response },
}

/// An operation under way.
#[derive(Debug)]
struct Running {
    operation: Operation,
    begun: Begun,
    since: u64,
}

/// A pull under way.
#[derive(Debug)]
struct Pulling {
    pull: Pull,
    from: usize,
    /// When it goes on, if it waits for its second look.
    wakes: Option<u64>,
}

#[derive(Debug)]
struct Node {
    number: NodeNumber,
    is_up: bool,
    down_since: u64,
    /// How far its time of day is from the true one, in milliseconds.
    offset: i64,
    memory: BTreeMap<Bytes, Held>,
    disk: BTreeMap<Bytes, Held>,
    disk_numbers: Numbers,
    /// The random number of its directory.
    incarnation: u64,
    /// The note of the directories that the cluster began with.
    founders: BTreeMap<NodeNumber, u64>,
    disk_founders: BTreeMap<NodeNumber, u64>,
    /// What was written and is not synced.
    log: VecDeque<Logged>,
    replica: Replica,
    clock: Clock,
    running: BTreeMap<OperationId, Running>,
    pulls: BTreeMap<OperationId, Pulling>,
    /// Over what each other node holds too.
    sums: BTreeMap<NodeNumber, Sums>,
    /// What others said of themselves last.
    heard: BTreeMap<NodeNumber, Numbers>,
    directories: BTreeMap<NodeNumber, HeardDirectory>,
}

/// What a node said of its directory, and when.
#[derive(Debug)]
struct HeardDirectory {
    at: u64,
    directory: Directory,
}

/// How often things happened.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counts {
    pub(super) written: u64,
    pub(super) read: u64,
    pub(super) failed: u64,
    pub(super) unknown: u64,
    pub(super) crashes: u64,
    pub(super) lost_disks: u64,
    pub(super) copied: u64,
    pub(super) confirmed: u64,
    pub(super) behind: u64,
    pub(super) forgotten: u64,
    pub(super) clashes: u64,
    pub(super) refused_ahead: u64,
    pub(super) founded: u64,
    pub(super) accepted: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.written += other.written;
        self.read += other.read;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.crashes += other.crashes;
        self.lost_disks += other.lost_disks;
        self.copied += other.copied;
        self.confirmed += other.confirmed;
        self.behind += other.behind;
        self.forgotten += other.forgotten;
        self.clashes += other.clashes;
        self.refused_ahead += other.refused_ahead;
        self.founded += other.founded;
        self.accepted += other.accepted;
    }
}

/// What may happen in a step, with how likely it is beside the others.
#[derive(Debug, Clone, Copy)]
enum Happening {
    Begin,
    Deliver,
    Sync,
    Crash,
    Exchange,
    Gossip,
    CatchUp,
    Clock,
    TimeOut,
}

const HAPPENINGS: [(Happening, u64); 9] = [
    (Happening::Begin, 10),
    (Happening::Deliver, 200),
    (Happening::Sync, 50),
    (Happening::Crash, 3),
    (Happening::Exchange, 8),
    (Happening::Gossip, 8),
    (Happening::CatchUp, 6),
    (Happening::Clock, 1),
    (Happening::TimeOut, 2),
];

/// What a schedule is made of, beside the weights.
#[derive(Debug, Clone, Copy)]
struct Mix {
    /// It loses few messages, has many deletes, and floors that move.
    forgets: bool,
    /// It has operations at ONE and ALL, too.
    has_all_levels: bool,
    lost_disks: LostDisks,
}

/// What becomes of disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LostDisks {
    /// None is lost.
    None,
    /// Nodes that lost theirs copy from others.
    Copied,
    /// They may be started without.
    Accepted,
}

/// The cluster.
#[derive(Debug)]
pub(super) struct World {
    random: Random,
    rules: Rules,
    layout: Layout,
    now_ms: u64,
    nodes: Vec<Node>,
    messages: Vec<Message>,
    /// Of a script.
    held_back: Vec<Message>,
    checker: Checker,
    next_operation: u64,
    keys: Vec<Bytes>,
    replicas: BTreeMap<Bytes, Vec<NodeNumber>>,
    weights: Vec<(Happening, u64)>,
    /// No message is lost or doubled, and nothing is left to chance.
    is_scripted: bool,
    /// Clocks begin an hour ahead, and are put right one after the other.
    is_put_right: bool,
    mix: Mix,
    pub(super) counts: Counts,
}

fn number(number: usize) -> NodeNumber {
    NodeNumber::new(u16::try_from(number).unwrap()).unwrap()
}

/// Where a node stands in the list.
fn at(number: NodeNumber) -> usize {
    usize::from(number.get()) - 1
}

impl Node {
    /// A node of a cluster that has begun, with its first directory.
    fn new(own: NodeNumber, all: &[NodeNumber], rules: Rules, offset: i64) -> Self {
        let founders: BTreeMap<_, _> = all.iter().map(|node| (*node, FIRST_DIRECTORY)).collect();
        let lost = Lost { count: 1, copied: 1 };
        let numbers = Numbers { lost, ..Numbers::default() };
        Self {
            number: own,
            is_up: true,
            down_since: 0,
            offset,
            memory: BTreeMap::new(),
            disk: BTreeMap::new(),
            disk_numbers: numbers.clone(),
            incarnation: FIRST_DIRECTORY,
            founders: founders.clone(),
            disk_founders: founders,
            log: VecDeque::new(),
            replica: Replica::open(own, all, numbers, rules),
            clock: Clock::open(Writer { node: own, losses: 1 }, Moment::default(), rules),
            running: BTreeMap::new(),
            pulls: BTreeMap::new(),
            sums: BTreeMap::new(),
            heard: BTreeMap::new(),
            directories: BTreeMap::new(),
        }
    }

    /// What it says of its directory.
    fn directory(&self) -> Directory {
        let is_new = self.replica.standing() == Standing::Lost
            && self.replica.numbers().lost.copied == 0
            && self.memory.is_empty();
        Directory { is_new, incarnation: self.incarnation, founders: self.founders.clone() }
    }

    fn now(&self, now_ms: u64) -> Moment {
        self.replica.time(Moment::new(now_ms.saturating_add_signed(self.offset)))
    }

    fn held(&self, key: &Bytes) -> Held {
        self.memory.get(key).cloned().unwrap_or_default()
    }
}

/// The hash by which a store would order its keys.
fn place(key: &Bytes) -> Hashed<'_> {
    Hashed { hash: hash64(key, 0), key }
}

impl Node {
    /// The key holds this in memory from now on. Sums change with it.
    fn put(&mut self, key: &Bytes, held: Option<Held>, replicas: &[NodeNumber]) {
        let after = held.as_ref().map_or(Stamp::NONE, stamp_of);
        let before = match held {
            Some(held) => self.memory.insert(key.clone(), held),
            None => self.memory.remove(key),
        };
        let before = before.as_ref().map_or(Stamp::NONE, stamp_of);
        for other in replicas.iter().filter(|other| **other != self.number) {
            let sums = self.sums.entry(*other).or_insert_with(|| Sums::new(1));
            sums.change(place(key), before, after);
        }
    }

    fn sums_with(&mut self, other: NodeNumber) -> &Sums {
        self.sums.entry(other).or_insert_with(|| Sums::new(1))
    }
}

fn stamp_of(held: &Held) -> Stamp {
    Stamp { version: held.version, mark: mark_of(held.value.as_deref()) }
}

/// As the store of a node merges a record, in memory as at a replay.
fn merge(store: &mut BTreeMap<Bytes, Held>, key: &Bytes, held: &Held, rules: Rules) {
    let known = store.entry(key.clone()).or_default();
    if known.yields_to(held) || !rules.keep(Rule::NewerWins) {
        *known = held.clone();
    }
}

impl World {
    pub(super) fn new(seed: u64, rules: Rules) -> Self {
        let mut random = Random::new(seed);
        let (node_count, replica_count) = random.pick(&SIZES);
        let described =
            |nth: usize| Described { id: nth.to_string(), address: None, weight: 1, zone: None };
        let layout =
            Layout::first(0, replica_count, (1..=node_count).map(described).collect()).unwrap();
        let numbers: Vec<_> = (1..=node_count).map(number).collect();
        let nodes = numbers.iter().map(|own| {
            let offset = i64::try_from(random.below(4_000)).unwrap() - 2_000;
            Node::new(*own, &numbers, rules, offset)
        });
        let mut nodes: Vec<Node> = nodes.collect();
        // Of a source of its own: the other schedules are as they would be without.
        let mut of_clocks = Random::new(!seed);
        let is_put_right = of_clocks.chance(200);
        for node in nodes.iter_mut().filter(|_| is_put_right && of_clocks.chance(700)) {
            node.offset += PUT_RIGHT_MS;
        }
        let keys: &[&'static [u8]] = if random.chance(500) { &[b"a"] } else { &[b"a", b"b"] };
        // In some, floors move and nodes that were away meet them.
        let forgets = random.chance(400);
        let factor = |what: Happening, random: &mut Random| match what {
            Happening::Exchange | Happening::Gossip if forgets => 6,
            Happening::Crash if forgets => 3,
            _ => random.pick(&[1, 2, 2, 4]),
        };
        let weights = HAPPENINGS
            .iter()
            .map(|(what, weight)| (*what, weight * factor(*what, &mut random)))
            .collect();
        let mut world = Self {
            rules,
            now_ms: BEGIN_MS,
            nodes,
            messages: Vec::new(),
            held_back: Vec::new(),
            checker: Checker::default(),
            next_operation: 1,
            keys: keys.iter().map(|key| Bytes::from_static(key)).collect(),
            replicas: keys
                .iter()
                .map(|key| (Bytes::from_static(key), layout.replicas(key)))
                .collect(),
            weights,
            mix: Mix {
                forgets,
                has_all_levels: random.chance(500),
                lost_disks: match random.below(10) {
                    0..3 if replica_count > 1 => LostDisks::Copied,
                    3..5 if replica_count > 1 => LostDisks::Accepted,
                    _ => LostDisks::None,
                },
            },
            counts: Counts::default(),
            is_scripted: false,
            is_put_right,
            layout,
            random,
        };
        if world.random.chance(200) {
            world.renew();
        }
        world
    }

    /// The cluster has yet to begin: all directories are new, and not all nodes are there.
    fn renew(&mut self) {
        for at in 0..self.nodes.len() {
            self.lose_disk(at);
            self.start(at);
            if self.random.chance(300) {
                self.crash(at);
            }
        }
        self.counts = Counts::default();
    }

    /// Runs this many steps, and then lets everything come to rest.
    pub(super) fn run(&mut self, steps: u64) -> Result<(), Fault> {
        let sum: u64 = self.weights.iter().map(|(_, weight)| weight).sum();
        for _ in 0..steps {
            self.now_ms += self.random.below(80);
            let mut left = self.random.below(sum);
            let chosen = self.weights.iter().find(|(_, weight)| {
                let is_it = left < *weight;
                left = left.wrapping_sub(*weight);
                is_it
            });
            self.step(chosen.unwrap().0)?;
        }
        self.rest()
    }

    fn happens(&mut self, of_thousand: u64) -> bool {
        !self.is_scripted && self.random.chance(of_thousand)
    }

    fn step(&mut self, happening: Happening) -> Result<(), Fault> {
        let at = self.random.place(self.nodes.len());
        match happening {
            Happening::Begin => self.begin(at),
            Happening::Deliver => self.deliver(),
            Happening::Sync => {
                let count = self.random.pick(&[1, 2, u64::MAX]);
                self.sync(at, count)
            }
            Happening::Crash => {
                self.crash_or_start(at);
                Ok(())
            }
            Happening::Exchange => {
                let other = self.random.place(self.nodes.len());
                let lags: &[u64] =
                    if self.mix.forgets { &[50, 200] } else { &[50, 500, 2_000, 10_000] };
                let lag = self.random.pick(lags);
                self.pull(at, other, lag)
            }
            Happening::Gossip => self.gossip(at),
            Happening::CatchUp => self.catch_up(at),
            Happening::Clock => {
                let jump = i64::try_from(self.random.below(3_000)).unwrap() - 1_500;
                let offset = self.nodes[at].offset + jump;
                self.nodes[at].offset = offset.clamp(-4_000, 4_000);
                self.tend_ceiling(at)
            }
            Happening::TimeOut => self.time_out(at),
        }
    }

    // -- operations

    fn begin(&mut self, at: usize) -> Result<(), Fault> {
        let key = self.keys[self.random.place(self.keys.len())].clone();
        let errand = match self.random.below(10) {
            0..3 => Errand::Set(Bytes::from(self.next_operation.to_string())),
            3..6 if self.mix.forgets => Errand::Delete,
            3..5 => Errand::Delete,
            _ => Errand::Get,
        };
        let level = match self.random.below(6) {
            0 if self.mix.has_all_levels => Level::All,
            1 | 2 if self.mix.has_all_levels => Level::One,
            _ => Level::Quorum,
        };
        self.begin_this(at, &key, errand, level)
    }

    fn begin_this(
        &mut self,
        at: usize,
        key: &Bytes,
        errand: Errand,
        level: Level,
    ) -> Result<(), Fault> {
        let replicas = self.replicas[key].clone();
        let node = &mut self.nodes[at];
        let is_coordinator = node.is_up
            && replicas.contains(&node.number)
            && node.replica.standing() == Standing::Ready;
        if !is_coordinator {
            return Ok(());
        }
        let id = OperationId(self.next_operation);
        self.next_operation += 1;
        let begun = self.checker.begin(key, level);
        let own = node.number;
        let task = Task { errand, key: key.clone(), level, replicas, own };
        let held = node.held(key).version;
        let now = node.now(self.now_ms);
        let mut local = Local { now, clock: &mut node.clock, held };
        let (operation, effects) = Operation::begin(task, self.rules, &mut local);
        node.running.insert(id, Running { operation, begun, since: self.now_ms });
        self.carry_out(at, id, effects)
    }

    fn carry_out(
        &mut self,
        at: usize,
        id: OperationId,
        effects: Vec<OperationEffect>,
    ) -> Result<(), Fault> {
        let from = Asker { node: self.nodes[at].number, operation: id };
        for effect in effects {
            match effect {
                OperationEffect::StoreHere(store) => {
                    self.checker.propose_here(&store.key, &store.held);
                    self.request(from.node, from, &Request::Store(store))?;
                }
                OperationEffect::Send { to, request } => {
                    if let Request::Store(store) = &request
                        && matches!(store.origin, Origin::New { .. })
                    {
                        self.checker.propose(&store.key, &store.held)?;
                    }
                    self.send(Message::Request { to, from, request });
                }
                OperationEffect::Mend { to, store } => {
                    let request = Request::Store(store);
                    self.send(Message::Request { to, from, request });
                }
                OperationEffect::RaiseCeiling(ceiling) => {
                    let effects = self.nodes[at].replica.raise_ceiling(ceiling);
                    self.apply(at, effects)?;
                }
                OperationEffect::Finish(outcome) => self.finish(at, id, &outcome)?,
            }
        }
        Ok(())
    }

    fn finish(&mut self, at: usize, id: OperationId, outcome: &Outcome) -> Result<(), Fault> {
        let begun = &self.nodes[at].running[&id].begun;
        match outcome {
            Outcome::Written { version } => {
                self.counts.written += 1;
                self.checker.written(begun, *version)
            }
            Outcome::Read(held) => {
                self.counts.read += 1;
                self.checker.read(begun, held)
            }
            Outcome::Failed(_) => {
                self.counts.failed += 1;
                Ok(())
            }
            Outcome::Unknown { .. } => {
                self.counts.unknown += 1;
                Ok(())
            }
        }
    }

    fn time_out(&mut self, at: usize) -> Result<(), Fault> {
        let old = self.now_ms - 5_000;
        let node = &mut self.nodes[at];
        let mut due = Vec::new();
        for (id, running) in &mut node.running {
            if running.since < old && (self.random.chance(300) || running.operation.is_done()) {
                due.push((*id, running.operation.time_out()));
            }
        }
        for (id, effects) in due {
            self.carry_out(at, id, effects)?;
            self.nodes[at].running.remove(&id);
        }
        Ok(())
    }

    // -- messages

    fn send(&mut self, message: Message) {
        if self.happens(30) {
            self.messages.push(message.clone());
        }
        self.messages.push(message);
        if self.messages.len() > MESSAGES_MAX {
            self.messages.swap_remove(0);
        }
    }

    fn deliver(&mut self) -> Result<(), Fault> {
        if self.messages.is_empty() {
            return Ok(());
        }
        let message = self.messages.swap_remove(self.random.place(self.messages.len()));
        if self.random.chance(if self.mix.forgets { 5 } else { 40 }) {
            return Ok(());
        }
        self.hand_over(message)
    }

    fn hand_over(&mut self, message: Message) -> Result<(), Fault> {
        match message {
            Message::Request { to, from, request } => self.request(to, from, &request),
            Message::Response { from, to, response } => self.response(from, to, response),
        }
    }

    fn request(&mut self, to: NodeNumber, from: Asker, request: &Request) -> Result<(), Fault> {
        let at = at(to);
        let node = &mut self.nodes[at];
        if !node.is_up {
            return Ok(());
        }
        let now = node.now(self.now_ms);
        let effects = match request {
            Request::Ask { key, wants_value } => {
                let held = node.held(key);
                node.replica.ask(from, key, &held, *wants_value)
            }
            Request::Pull(request) => return self.pulled(at, from, request),
            Request::Store(store) => {
                node.clock.observe(now, store.held.version);
                let held = node.held(&store.key);
                node.replica.store(from, store, &held, now)
            }
        };
        self.apply(at, effects)
    }

    fn response(&mut self, from: NodeNumber, to: Asker, response: Response) -> Result<(), Fault> {
        if let Response::Pulled(response) = response {
            return self.pull_response(to, response);
        }
        let at = at(to.node);
        let node = &mut self.nodes[at];
        let now = node.now(self.now_ms);
        let Some(running) = node.running.get_mut(&to.operation) else { return Ok(()) };
        let held = node.memory.get(running.operation.key()).map_or(Version::NONE, |it| it.version);
        let mut local = Local { now, clock: &mut node.clock, held };
        let effects = running.operation.response(&mut local, from, response);
        self.carry_out(at, to.operation, effects)
    }

    // -- the disk

    fn apply(&mut self, at: usize, effects: Vec<ReplicaEffect>) -> Result<(), Fault> {
        for effect in effects {
            let node = &mut self.nodes[at];
            match effect {
                ReplicaEffect::Write(logged) => {
                    if let Logged::Record { key, held } = &logged {
                        let mut one = BTreeMap::from([(key.clone(), node.held(key))]);
                        merge(&mut one, key, held, self.rules);
                        node.put(key, one.remove(key), &self.replicas[key]);
                    }
                    node.log.push_back(logged);
                }
                ReplicaEffect::Respond { to, response } => {
                    let from = node.number;
                    self.send(Message::Response { from, to, response });
                }
                ReplicaEffect::CeilingIsDurable(ceiling) => {
                    node.clock.ceiling_is_durable(ceiling);
                    self.resume(at)?;
                }
                ReplicaEffect::Forget(floor) => self.forget(at, floor),
            }
        }
        Ok(())
    }

    fn forget(&mut self, at: usize, floor: Moment) {
        let node = &mut self.nodes[at];
        let is_old = |held: &Held| held.value.is_none() && held.version.moment() <= floor;
        for (key, held) in node.disk.extract_if(.., |_, held| is_old(held)) {
            self.checker.forget(&key, held.version); // what is newer here may be lost yet
        }
        let old: Vec<(Bytes, Held)> = node
            .memory
            .iter()
            .filter(|(_, held)| is_old(held))
            .map(|(key, held)| (key.clone(), held.clone()))
            .collect();
        for (key, held) in old {
            node.put(&key, None, &self.replicas[&key]);
            self.counts.forgotten += 1;
            self.checker.forget(&key, held.version);
        }
    }

    fn resume(&mut self, at: usize) -> Result<(), Fault> {
        let ids: Vec<OperationId> = self.nodes[at].running.keys().copied().collect();
        for id in ids {
            let node = &mut self.nodes[at];
            let now = node.now(self.now_ms);
            let Some(running) = node.running.get_mut(&id) else { continue };
            let key = running.operation.key();
            let held = node.memory.get(key).map_or(Version::NONE, |held| held.version);
            let mut local = Local { now, clock: &mut node.clock, held };
            let effects = running.operation.resume(&mut local);
            self.carry_out(at, id, effects)?; // before the next, for its store may be here
        }
        Ok(())
    }

    fn sync(&mut self, at: usize, count: u64) -> Result<(), Fault> {
        let node = &mut self.nodes[at];
        if !node.is_up || node.log.is_empty() {
            return Ok(());
        }
        let count = count.min(node.log.len() as u64);
        for _ in 0..count {
            match node.log.pop_front() {
                Some(Logged::Record { key, held }) => {
                    merge(&mut node.disk, &key, &held, self.rules);
                }
                Some(Logged::Numbers(numbers)) => {
                    if numbers.lost.copied > 0 {
                        node.disk_founders = node.founders.clone(); // written with them
                    }
                    node.disk_numbers = numbers;
                }
                None => {}
            }
        }
        let effects = node.replica.synced(count);
        self.apply(at, effects)
    }

    fn sync_all(&mut self, at: usize) -> Result<(), Fault> {
        while self.nodes[at].is_up && !self.nodes[at].log.is_empty() {
            self.sync(at, u64::MAX)?;
        }
        Ok(())
    }

    /// The ceiling of a node's clock follows its time.
    fn tend_ceiling(&mut self, at: usize) -> Result<(), Fault> {
        let node = &mut self.nodes[at];
        let now = node.now(self.now_ms);
        let due = if node.is_up { node.clock.ceiling_due(now) } else { None };
        let effects = due.map(|ceiling| node.replica.raise_ceiling(ceiling)).unwrap_or_default();
        self.apply(at, effects)
    }

    // -- nodes that stop and start

    fn crash_or_start(&mut self, at: usize) {
        if !self.nodes[at].is_up {
            self.start(at);
            return;
        }
        let down = self.nodes.iter().filter(|node| !node.is_up).count();
        if down > self.layout.replica_count().div_ceil(2) {
            return;
        }
        let loses =
            self.mix.lost_disks != LostDisks::None && self.random.chance(300) && self.may_lose(at);
        self.crash(at);
        if loses {
            self.lose_disk(at);
        } else if self.random.chance(500) {
            // The time of day is an older one after the restart, as that of a restored machine is.
            self.nodes[at].offset -= i64::try_from(self.random.below(40_000)).unwrap();
        }
    }

    /// Whether nobody else has to copy. Before the cluster has begun there is nothing to lose; until a second node
    /// has the note of that on its disk, it may not be lost.
    fn may_lose(&self, at: usize) -> bool {
        if self.may_begin() {
            return true;
        }
        let is_whole = |node: &Node| {
            let Numbers { lost, floor, confirmed, .. } = &node.disk_numbers;
            let is_ready = lost.copied == lost.count && floor.moment <= *confirmed;
            // Of copies that are given up too many could be gone at once.
            if self.mix.lost_disks == LostDisks::Accepted {
                is_ready
            } else {
                lost.copied == lost.count || self.is_founder(node)
            }
        };
        let mut others = self.nodes.iter().enumerate().filter(|(other, _)| *other != at);
        let is_noted = others.clone().any(|(_, node)| !node.disk_founders.is_empty());
        is_noted && is_whole(&self.nodes[at]) && others.all(|(_, node)| is_whole(node))
    }

    fn crash(&mut self, at: usize) {
        self.counts.crashes += 1;
        let node = &mut self.nodes[at];
        node.is_up = false;
        node.down_since = self.now_ms;
        node.running.clear();
        node.heard.clear();
        node.directories.clear();
        node.founders = node.disk_founders.clone();
        node.log.clear();
        node.pulls.clear();
        node.memory.clear();
        node.sums.clear();
        for (key, held) in node.disk.clone() {
            node.put(&key, Some(held), &self.replicas[&key]);
        }
    }

    fn lose_disk(&mut self, at: usize) {
        self.counts.lost_disks += 1;
        self.next_operation += 1;
        let node = &mut self.nodes[at];
        node.incarnation = self.next_operation;
        node.founders.clear();
        node.disk_founders.clear();
        node.memory.clear();
        node.sums.clear();
        node.disk.clear();
        node.disk_numbers = Numbers::default();
        node.disk_numbers.lost.count = 1;
    }

    fn start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let numbers = node.disk_numbers.clone();
        let own = node.number;
        let all: Vec<_> = self.layout.nodes().iter().map(|node| node.number).collect();
        let writer = Writer { node: own, losses: numbers.lost.count };
        node.clock = Clock::open(writer, numbers.ceiling, self.rules);
        node.replica = Replica::open(own, &all, numbers, self.rules);
        let now = node.now(self.now_ms);
        for held in node.memory.values() {
            node.clock.observe(now, held.version);
        }
        node.is_up = true;
    }

    // -- repair

    /// A node goes on with a pull that waits, or begins one.
    fn pull(&mut self, at: usize, from: usize, lag: u64) -> Result<(), Fault> {
        let now_ms = self.now_ms;
        let node = &mut self.nodes[at];
        if !node.is_up || at == from || node.replica.standing() != Standing::Ready {
            return Ok(());
        }
        let is_due = |pulling: &Pulling| pulling.wakes.is_some_and(|wakes| wakes <= now_ms);
        let due = node.pulls.iter_mut().find(|(_, pulling)| is_due(pulling));
        if let Some((id, pulling)) = due {
            pulling.wakes = None;
            let (id, effects) = (*id, pulling.pull.look_again());
            return self.carry_out_pull(at, id, effects);
        }
        let id = OperationId(self.next_operation);
        self.next_operation += 1;
        let floor = node.replica.numbers().floor.clone();
        let fence = node.now(self.now_ms).earlier(lag);
        let (pull, effects) = Pull::begin(floor, fence, self.rules);
        node.pulls.retain(|_, pulling| pulling.from != from);
        node.pulls.insert(id, Pulling { pull, from, wakes: None });
        self.carry_out_pull(at, id, effects)
    }

    fn carry_out_pull(
        &mut self,
        at: usize,
        id: OperationId,
        effects: Vec<PullEffect>,
    ) -> Result<(), Fault> {
        let asker = Asker { node: self.nodes[at].number, operation: id };
        for effect in effects {
            let Some(pulling) = self.nodes[at].pulls.get_mut(&id) else { return Ok(()) };
            let from = pulling.from;
            match effect {
                PullEffect::Send(request) => {
                    let to = number(from + 1);
                    let request = Request::Pull(request);
                    self.send(Message::Request { to, from: asker, request });
                }
                PullEffect::HearFloor(floor) => {
                    self.hear_floor(at, &floor)?;
                    if self.nodes[at].replica.standing() != Standing::Ready {
                        self.nodes[at].pulls.clear();
                    }
                }
                PullEffect::Copy { records, floor } => {
                    for Found { key, held } in records {
                        self.copy(&key, &held, at, floor)?;
                    }
                }
                PullEffect::Wait => pulling.wakes = Some(self.now_ms + LOOK_MS),
                PullEffect::Confirm(moment) => {
                    self.nodes[at].pulls.remove(&id);
                    self.counts.confirmed += 1;
                    let with = self.nodes[from].number;
                    let effects = self.nodes[at].replica.confirm_with(with, moment);
                    self.apply(at, effects)?;
                }
            }
        }
        Ok(())
    }

    /// The keys that two nodes both hold, of those that the first has.
    fn shared(&self, at: usize, other: NodeNumber) -> Vec<Bytes> {
        let memory = &self.nodes[at].memory;
        memory.keys().filter(|key| self.replicas[*key].contains(&other)).cloned().collect()
    }

    fn entries(&self, at: usize, other: NodeNumber, bucket: usize) -> Vec<Entry> {
        let all = self.shared(at, other).into_iter().map(|key| Entry {
            hash: place(&key).hash,
            stamp: stamp_of(&self.nodes[at].held(&key)),
        });
        all.filter(|entry| bucket_of(entry.hash) == bucket).collect()
    }

    /// What a node that is pulled from answers.
    fn pulled(&mut self, at: usize, from: Asker, request: &PullRequest) -> Result<(), Fault> {
        let other = from.node;
        let node = &mut self.nodes[at];
        if let PullRequest::Begin { floor, fence } = request {
            let effects = node.replica.begin_pull(from, floor, *fence);
            return self.apply(at, effects);
        }
        if node.replica.standing() != Standing::Ready {
            return Ok(());
        }
        let response = match request {
            PullRequest::Begin { .. } => return Ok(()),
            PullRequest::Tops => PullResponse::Tops(node.sums_with(other).tops().to_vec()),
            PullRequest::Group(top) => {
                let sums = node.sums_with(other).of_group(*top).to_vec();
                PullResponse::Group { top: *top, sums }
            }
            PullRequest::List(bucket) => {
                let entries = self.entries(at, other, *bucket);
                PullResponse::List { bucket: *bucket, entries }
            }
            PullRequest::Fetch(hashes) => {
                let keys = self.shared(at, other).into_iter();
                let keys = keys.filter(|key| hashes.contains(&place(key).hash));
                let records = keys.map(|key| Found { held: self.nodes[at].held(&key), key });
                let records = records.collect();
                let floor = self.nodes[at].replica.numbers().floor.moment;
                PullResponse::Records { count: hashes.len(), floor, records }
            }
        };
        let response = Response::Pulled(response);
        self.send(Message::Response { from: self.nodes[at].number, to: from, response });
        Ok(())
    }

    fn pull_response(&mut self, to: Asker, response: PullResponse) -> Result<(), Fault> {
        let at = at(to.node);
        let Some(pulling) = self.nodes[at].pulls.get(&to.operation) else { return Ok(()) };
        let other = number(pulling.from + 1);
        let own = self.nodes[at].sums_with(other).clone();
        let listed: Vec<Entry> = match &response {
            PullResponse::List { bucket, .. } => self.entries(at, other, *bucket),
            _ => Vec::new(),
        };
        let Some(pulling) = self.nodes[at].pulls.get_mut(&to.operation) else { return Ok(()) };
        let effects = pulling.pull.response(response, &own, |_| listed);
        if pulling.pull.is_over() && effects.is_empty() {
            self.nodes[at].pulls.remove(&to.operation);
        }
        self.carry_out_pull(at, to.operation, effects)
    }

    fn copy(&mut self, key: &Bytes, copied: &Held, to: usize, floor: Moment) -> Result<(), Fault> {
        let node = &mut self.nodes[to];
        let held = node.held(key);
        node.clock.observe(node.now(self.now_ms), copied.version);
        let effects = node.replica.copy(key, copied, &held, floor);
        self.apply(to, effects)
    }

    fn hear_floor(&mut self, at: usize, floor: &Floor) -> Result<(), Fault> {
        let node = &mut self.nodes[at];
        let before = node.replica.standing();
        let effects = node.replica.hear_floor(floor);
        if node.replica.standing() == Standing::Behind && before == Standing::Ready {
            self.counts.behind += 1;
        }
        self.apply(at, effects)
    }

    /// A node hears what all others that are up say of themselves, and finds the floor.
    fn gossip(&mut self, at: usize) -> Result<(), Fault> {
        if !self.nodes[at].is_up {
            return Ok(());
        }
        for from in 0..self.nodes.len() {
            if from == at || !self.nodes[from].is_up || self.happens(200) {
                continue;
            }
            let floor = self.nodes[from].replica.numbers().floor.clone();
            self.hear_floor(at, &floor)?;
            let numbers = self.nodes[from].replica.numbers().clone();
            let number = self.nodes[from].number;
            if numbers.lost.count > 1 {
                // One that was accepted is told in no other way.
                let effects = self.nodes[at].replica.hear_loss(number, numbers.lost.count);
                self.apply(at, effects)?;
            }
            self.nodes[at].heard.insert(number, numbers);
            let directory = self.nodes[from].directory();
            let heard = HeardDirectory { at: self.now_ms, directory };
            self.nodes[at].directories.insert(number, heard);
        }
        if self.nodes.len() == 1 {
            // Nobody pulls from a node that is alone.
            let fence = self.nodes[at].now(self.now_ms).earlier(LEFT_OUT_MS);
            let effects = self.nodes[at].replica.raise_fence(fence);
            self.apply(at, effects)?;
        }
        let gone: BTreeSet<NodeNumber> = self
            .nodes
            .iter()
            .filter(|node| !node.is_up && node.down_since + LEFT_OUT_MS < self.now_ms)
            .map(|node| node.number)
            .collect();
        let count = self.layout.replica_count();
        let node = &mut self.nodes[at];
        let effects = node.replica.find_floor(&node.heard, &gone, count);
        self.apply(at, effects)
    }

    /// A node that lacks what others hold copies it.
    fn catch_up(&mut self, at: usize) -> Result<(), Fault> {
        if !self.nodes[at].is_up {
            return Ok(());
        }
        let standing = self.nodes[at].replica.standing();
        let own = self.nodes[at].number;
        if standing == Standing::Ready || self.nodes[at].replica.is_ready_once_synced() {
            return Ok(());
        }
        if standing == Standing::Lost {
            if self.found(at)? {
                return Ok(());
            }
            if self.may_accept(at) {
                return self.accept_loss(at);
            }
        }
        let others: Vec<usize> = (0..self.nodes.len()).filter(|other| *other != at).collect();
        let is_source = |node: &Node| node.is_up && node.replica.standing() != Standing::Lost;
        let mut sources: Vec<usize> =
            others.iter().copied().filter(|other| is_source(&self.nodes[*other])).collect();
        if standing == Standing::Lost {
            sources = self.announce_loss(at, &sources)?;
        }
        let count = self.layout.replica_count();
        let needed = if standing == Standing::Lost { count - (count / 2 + 1) + 1 } else { 1 };
        let mut copied = Vec::new();
        let all = sources.iter().map(|source| self.nodes[*source].replica.numbers().clone());
        let numbers: Vec<Numbers> = all.collect();
        let floors = numbers.iter().chain([self.nodes[at].replica.numbers()]);
        let floor = floors.map(|numbers| numbers.floor.moment).max().unwrap_or_default();
        for (key, replicas) in self.replicas.iter().filter(|(_, all)| all.contains(&own)) {
            let of_key = sources.iter().filter(|it| replicas.contains(&self.nodes[**it].number));
            let of_key: Vec<Sourced> = of_key
                .map(|source| Sourced {
                    held: self.nodes[*source].held(key),
                    is_ready: self.nodes[*source].replica.standing() == Standing::Ready
                        && self.nodes[*source].replica.numbers().confirmed >= floor,
                })
                .collect();
            if of_key.len() < needed || of_key.iter().all(|source| !source.is_ready) {
                return Ok(());
            }
            copied.push((key.clone(), after_copy(&self.nodes[at].held(key), &of_key, floor)));
        }
        if numbers.is_empty() {
            return Ok(());
        }
        for (key, held) in copied {
            let before = self.nodes[at].held(&key);
            if before.value.is_none() && before.version.moment() <= floor {
                self.checker.forget(&key, before.version);
            }
            self.nodes[at].put(&key, held, &self.replicas[&key]);
        }
        let effects = self.nodes[at].replica.copied(&numbers);
        self.apply(at, effects)?;
        self.sync_all(at)?;
        let node = &mut self.nodes[at];
        node.disk = node.memory.clone();
        self.take_writer(at);
        self.counts.copied += 1;
        Ok(())
    }

    /// Whether the cluster began with this node's directory.
    fn found(&mut self, at: usize) -> Result<bool, Fault> {
        let node = &self.nodes[at];
        if node.replica.numbers().lost.copied > 0 {
            return Ok(false);
        }
        let heard = node.directories.iter().map(|(number, heard)| {
            let is_up = heard.at + HEARD_MS > self.now_ms;
            let is_new = heard.directory.is_new && is_up;
            (*number, Directory { is_new, ..heard.directory.clone() })
        });
        let here = Directory { is_new: node.memory.is_empty(), ..node.directory() };
        let count = self.nodes.len();
        let Some(founders) = founders(node.number, &here, &heard.collect(), count, self.rules)
        else {
            return Ok(false);
        };
        self.counts.founded += 1;
        self.nodes[at].founders = founders;
        let effects = self.nodes[at].replica.nothing_was_lost();
        self.apply(at, effects)?;
        Ok(true)
    }

    /// Whoever runs a node that lost its disk may say that it copies nothing.
    fn may_accept(&mut self, at: usize) -> bool {
        let has_lost = !self.is_founder(&self.nodes[at]);
        self.mix.lost_disks == LostDisks::Accepted && has_lost && self.happens(600)
    }

    /// Whether the cluster began with the directory that this node has, as far as any note says.
    fn is_founder(&self, node: &Node) -> bool {
        let mut notes = self.nodes.iter().flat_map(|one| [&one.founders, &one.disk_founders]);
        self.may_begin() || notes.any(|note| note.get(&node.number) == Some(&node.incarnation))
    }

    fn accept_loss(&mut self, at: usize) -> Result<(), Fault> {
        self.counts.accepted += 1;
        let own = self.nodes[at].number;
        for (key, replicas) in &self.replicas {
            if replicas.contains(&own) {
                self.checker.give_up(key);
            }
        }
        let numbers =
            self.nodes.iter().filter(|node| node.is_up).map(|node| node.replica.numbers());
        let known = numbers.filter_map(|numbers| numbers.others_lost.get(&own)).max().copied();
        let effects = self.nodes[at].replica.begin_copying(known.unwrap_or_default().max(1));
        self.apply(at, effects)?;
        let effects = self.nodes[at].replica.nothing_was_lost();
        self.apply(at, effects)?;
        self.sync_all(at)?;
        self.take_writer(at);
        Ok(())
    }

    /// Whether the cluster has not begun yet.
    fn may_begin(&self) -> bool {
        self.nodes.iter().all(|node| node.founders.is_empty() && node.disk_founders.is_empty())
    }

    /// Gives versions as the writer that it is after so many losses.
    fn take_writer(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let Numbers { lost, ceiling, .. } = *node.replica.numbers();
        let writer = Writer { node: node.number, losses: lost.count };
        if node.clock.writer() != writer {
            node.clock = Clock::open(writer, ceiling, self.rules);
            for held in node.memory.values() {
                node.clock.observe(node.now(self.now_ms), held.version);
            }
        }
    }

    /// Tells others of a lost disk. Returns those that have it on their disks.
    fn announce_loss(&mut self, at: usize, others: &[usize]) -> Result<Vec<usize>, Fault> {
        let own = self.nodes[at].number;
        let heard = |node: &Node| node.replica.numbers().others_lost.get(&own).copied();
        let mut count = self.nodes[at].replica.numbers().lost.count;
        let known = others.iter().filter_map(|other| heard(&self.nodes[*other])).max();
        let has_told = known == Some(count) && self.nodes[at].heard.contains_key(&own);
        if !has_told {
            let effects = self.nodes[at].replica.begin_copying(known.unwrap_or_default().max(1));
            self.apply(at, effects)?;
            self.sync_all(at)?;
            let numbers = self.nodes[at].replica.numbers().clone();
            count = numbers.lost.count;
            self.nodes[at].heard.insert(own, numbers);
        }
        for other in others {
            let effects = self.nodes[*other].replica.hear_loss(own, count);
            self.apply(*other, effects)?;
        }
        let knows = |other: &usize| heard(&self.nodes[*other]) == Some(count);
        Ok(others.iter().copied().filter(knows).collect())
    }

    // -- the end

    /// Delivers and syncs until nothing is under way.
    fn settle(&mut self) -> Result<(), Fault> {
        while !self.messages.is_empty() || self.nodes.iter().any(|node| !node.log.is_empty()) {
            for message in std::mem::take(&mut self.messages) {
                self.hand_over(message)?;
            }
            for at in 0..self.nodes.len() {
                self.sync_all(at)?;
            }
        }
        Ok(())
    }

    /// Whether all nodes are ready, and the replicas of every key hold the same.
    fn is_alike(&self) -> bool {
        self.nodes.iter().all(|node| node.replica.standing() == Standing::Ready)
            && self.replicas.iter().all(|(key, replicas)| {
                let held = |replica: &NodeNumber| self.nodes[at(*replica)].held(key);
                replicas.iter().all(|replica| held(replica) == held(&replicas[0]))
            })
    }

    /// Deletes that a node remembers, in memory or on disk.
    fn tombstones(&self) -> usize {
        let is_one = |held: &&Held| held.value.is_none();
        let of_node =
            |node: &Node| node.memory.values().chain(node.disk.values()).filter(is_one).count();
        self.nodes.iter().map(of_node).sum()
    }

    /// All nodes are up, nothing is lost any more, the replicas of every key come to hold the same, and
    /// deletes are forgotten.
    fn rest(&mut self) -> Result<(), Fault> {
        self.messages.clear();
        self.mix.lost_disks = LostDisks::None;
        let count = self.nodes.len();
        for at in 0..count {
            if !self.nodes[at].is_up {
                self.start(at);
            }
            self.nodes[at].offset = 0;
        }
        if self.is_put_right {
            self.now_ms += PUT_RIGHT_MS.unsigned_abs(); // it has come up to what clocks had shown
        }
        // Clocks may be ahead, by what a ceiling is: a few nodes need more rounds for that to pass.
        for _ in 0..2 * count + 10 {
            if self.is_alike() && self.tombstones() == 0 {
                break;
            }
            for at in 0..count {
                for other in 0..count {
                    self.now_ms += 1_000;
                    self.pull(at, other, 500)?;
                    self.settle()?;
                    self.now_ms += LOOK_MS;
                    self.pull(at, other, 500)?;
                    self.settle()?;
                }
                self.gossip(at)?;
                self.catch_up(at)?;
                self.sync_all(at)?;
            }
        }
        if let Some(node) =
            self.nodes.iter().find(|node| node.replica.standing() != Standing::Ready)
        {
            return Err(format!("node {} is {:?}", node.number, node.replica.standing()));
        }
        for key in self.keys.clone() {
            let held: Vec<Held> = self
                .layout
                .replicas(&key)
                .iter()
                .map(|replica| self.nodes[at(*replica)].held(&key))
                .collect();
            if held.iter().any(|one| *one != held[0]) {
                return Err(format!("after the rest the replicas of {key:?} hold {held:x?}"));
            }
        }
        if self.tombstones() > 0 {
            return Err(format!("after the rest {} deletes are remembered", self.tombstones()));
        }
        for node in &self.nodes {
            self.counts.clashes += node.replica.clashes();
            self.counts.refused_ahead += node.replica.ahead().values().sum::<u64>();
        }
        Ok(())
    }
}

/// Steps of a schedule that is written down. Nodes are called by their numbers.
impl World {
    /// Three nodes, one key that all of them hold, and clocks that are right.
    pub(super) fn scripted(rules: Rules) -> Self {
        let fits = |world: &Self| {
            let is_whole = world.nodes.len() == 3 && world.layout.replica_count() == 3;
            is_whole && world.keys.len() == 1 && !world.may_begin()
        };
        let mut world = (0..1_000).map(|seed| Self::new(seed, rules)).find(fits).unwrap();
        world.is_scripted = true;
        for node in &mut world.nodes {
            node.offset = 0;
        }
        world
    }

    /// A node begins an operation.
    pub(super) fn op(&mut self, node: usize, errand: Errand, level: Level) -> Result<(), Fault> {
        self.now_ms += 1;
        self.next_operation += 1;
        let key = self.keys[0].clone();
        self.begin_this(node - 1, &key, errand, level)
    }

    /// Delivers what is on its way between these nodes, a digit for the sender and one for the receiver,
    /// and what they answer; everything is synced. What is between others stays on its way.
    pub(super) fn flow(&mut self, between: &str) -> Result<(), Fault> {
        self.flow_some(between, usize::MAX)
    }

    /// So many of them.
    pub(super) fn flow_some(&mut self, between: &str, count: usize) -> Result<(), Fault> {
        let digit = |node: NodeNumber| node.get().to_string();
        for _ in 0..count {
            for at in 0..self.nodes.len() {
                self.sync_all(at)?;
            }
            let next = self.messages.iter().position(|message| {
                let (from, to) = match message {
                    Message::Request { to, from, .. } => (from.node, *to),
                    Message::Response { from, to, .. } => (*from, to.node),
                };
                between.split(' ').any(|pair| pair == digit(from) + &digit(to))
            });
            let Some(next) = next else { return Ok(()) };
            let message = self.messages.remove(next);
            self.hand_over(message)?;
        }
        Ok(())
    }

    /// What is on its way is lost.
    pub(super) fn lose_messages(&mut self) {
        self.messages.clear();
    }

    /// What is on its way takes long, until it is [`released`](Self::release).
    pub(super) fn hold(&mut self) {
        self.held_back.append(&mut self.messages);
    }

    pub(super) fn release(&mut self) {
        self.messages.append(&mut self.held_back);
    }

    pub(super) fn stop(&mut self, node: usize) {
        self.crash(node - 1);
        self.now_ms += LEFT_OUT_MS + 1;
    }

    pub(super) fn restart(&mut self, node: usize) {
        self.start(node - 1);
    }

    /// A node stops and starts, and its time of day is so much earlier.
    pub(super) fn turn_back(&mut self, node: usize, ms: i64) {
        self.crash(node - 1);
        self.nodes[node - 1].offset -= ms;
        self.start(node - 1);
    }

    /// The time of day of all nodes is so much later, or earlier.
    pub(super) fn set_clocks(&mut self, ms: i64) {
        for node in &mut self.nodes {
            node.offset += ms;
        }
    }

    /// A node stops, starts with an empty disk, and copies what the others hold.
    pub(super) fn lose_and_copy(&mut self, node: usize) -> Result<(), Fault> {
        self.crash(node - 1);
        self.lose_disk(node - 1);
        self.start(node - 1);
        self.gossip(node - 1)?;
        for _ in 0..2 {
            self.catch_up(node - 1)?;
            for at in 0..self.nodes.len() {
                self.sync_all(at)?;
            }
        }
        assert_eq!(self.nodes[node - 1].replica.standing(), Standing::Ready);
        Ok(())
    }

    /// A node stops, starts with an empty disk and with a time of day that is so much earlier, and begins with nothing.
    pub(super) fn lose_and_accept(&mut self, node: usize, ms: i64) -> Result<(), Fault> {
        self.crash(node - 1);
        self.lose_disk(node - 1);
        self.nodes[node - 1].offset -= ms;
        self.start(node - 1);
        self.accept_loss(node - 1)?;
        assert_eq!(self.nodes[node - 1].replica.standing(), Standing::Ready);
        Ok(())
    }

    /// A node pulls from another, up to now, and confirms.
    pub(super) fn confirm(&mut self, node: usize, from: usize) -> Result<(), Fault> {
        let pairs = format!("{node}{from} {from}{node}");
        self.pull(node - 1, from - 1, 0)?;
        self.flow(&pairs)?;
        self.now_ms += LOOK_MS;
        if !self.nodes[node - 1].pulls.is_empty() {
            self.pull(node - 1, from - 1, 0)?;
            self.flow(&pairs)?;
        }
        assert!(self.nodes[node - 1].pulls.is_empty());
        self.sync_all(node - 1)
    }

    /// A node has the ceiling of its clock follow its time, as it does now and then.
    pub(super) fn raise_ceiling(&mut self, node: usize) -> Result<(), Fault> {
        self.tend_ceiling(node - 1)?;
        self.sync_all(node - 1)
    }

    /// A node hears of the others, and finds the floor.
    pub(super) fn hear(&mut self, node: usize) -> Result<(), Fault> {
        self.gossip(node - 1)?;
        self.sync_all(node - 1)
    }

    /// The version that a node holds.
    pub(super) fn version(&self, node: usize) -> Version {
        self.nodes[node - 1].held(&self.keys[0]).version
    }
}
