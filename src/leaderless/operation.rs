//! One operation on one key, as its coordinator runs it: a machine without clock or network. It is
//! told of answers and gives back what to send, until it has an outcome.
//!
//! At the levels QUORUM and ALL there are two rounds. A *write* (or delete) asks the replicas of
//! the key which version they hold, waits for a majority (for all of them at ALL), makes a version
//! above every answer, and has it stored by a majority. A *read* asks in the same way. If a
//! majority holds the highest version that was answered, that is the outcome; if not, it is stored by a
//! majority first (*written back*), for else the next read could miss what this one saw. Any two
//! majorities share a replica, so what follows an operation sees it. At ONE a write is stored by the
//! first replica that can, under a version of this node's clock, and a read takes one replica's word.
//!
//! The coordinator is a replica of the key itself. Messages are sent once; what is lost is a replica
//! less. Answers beyond the majority are taken too: a replica that lags is sent what it lacks. Called
//! by the node; calls `clock`, `message`, `rules`. Invariants:
//!
//! - V4: an operation ends, in each round, only with as many replicas as its level says.
//! - I2: an operation has one version. A store that was refused is not tried again under a higher
//!   one: it may have been read meanwhile, and the value would then appear twice.
//! - I3: the outcome is acknowledged, certainly not stored, or unknown. After the first store was sent
//!   it is the second only where every replica has refused it for good, or could not be sent it: no link carries a
//!   message twice.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytes::Bytes;

use super::clock::{Clock, Moment, NoVersion, NodeNumber, Version};
use super::message::{Answer, Content, Held, Losses, Origin, Refusal, Request, Response, Store};
use super::rules::{Rule, Rules};

/// How many replicas an operation waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// One: fast, and promises little.
    One,
    /// A majority: each key is linearizable.
    #[default]
    Quorum,
    /// All: as QUORUM, and any replica may be read at ONE afterwards.
    All,
}

impl Level {
    /// Reads `one`, `quorum` or `all`.
    pub fn parse(text: &str) -> Option<Self> {
        let words = [("one", Self::One), ("quorum", Self::Quorum), ("all", Self::All)];
        words.iter().find(|(word, _)| text.eq_ignore_ascii_case(word)).map(|(_, level)| *level)
    }

    /// The word that [`Level::parse`] reads.
    pub fn word(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Quorum => "quorum",
            Self::All => "all",
        }
    }
}

/// What an operation is to do with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Errand {
    /// Read it.
    Get,
    /// Give it this value.
    Set(Bytes),
    /// Take its value away.
    Delete,
}

/// What is asked for, and of whom.
#[derive(Debug, Clone)]
pub struct Task {
    /// What to do.
    pub errand: Errand,
    /// The key.
    pub key: Bytes,
    /// How many replicas to wait for.
    pub level: Level,
    /// The replicas of the key, the one to ask first in front.
    pub replicas: Vec<NodeNumber>,
    /// This node, which is one of them.
    pub own: NodeNumber,
}

/// What an operation needs of its node at each step.
#[derive(Debug)]
pub struct Local<'a> {
    /// The time of day.
    pub now: Moment,
    /// The clock of the node.
    pub clock: &'a mut Clock,
    /// The version that the node's own copy holds of the key, synced or not.
    pub held: Version,
}

/// What an operation wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationEffect {
    /// Send this to a replica, which may be this node.
    Send {
        /// The replica.
        to: NodeNumber,
        /// What to send.
        request: Request,
    },
    /// Store this in this node's own copy, before any other step of any operation here. The answer is
    /// given as every other.
    StoreHere(Store),
    /// A replica lags. Send it this if there is time for it; the operation does not depend on it.
    Mend {
        /// The replica.
        to: NodeNumber,
        /// What it lacks.
        store: Store,
    },
    /// Make a ceiling of the clock durable, then call [`Operation::resume`].
    RaiseCeiling(Moment),
    /// This is the outcome. It comes once.
    Finish(Outcome),
}

/// What became of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A write or delete is stored and synced by as many replicas as its level says.
    Written {
        /// Its version.
        version: Version,
    },
    /// What was read.
    Read(Held),
    /// Nothing was stored, and nothing will be.
    Failed(Failure),
    /// A write or delete may have been stored, now or later, until a newer write.
    Unknown {
        /// Its version.
        version: Version,
        /// How many replicas are known to have stored it.
        stored_by: usize,
    },
}

/// Why nothing was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Too few replicas answered in time.
    #[error("too few replicas of the key answered")]
    TooFew,
    /// Too many replicas refused.
    #[error("too many replicas of the key refused: {0}")]
    Refused(Refusal),
    /// The key holds the highest version that there is.
    #[error("the key holds the highest version that there is")]
    Exhausted,
}

/// Where an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Asking,
    /// It has its answers, and waits for the ceiling of the clock.
    AwaitsCeiling,
    /// It is in this node's own copy first ([`Clock::propose`]).
    StoringOwn,
    Storing,
    Done,
}

/// A replica that has stored, or holds, the version.
#[derive(Debug, Clone, Copy)]
struct Storer {
    /// How often it had lost its disk then.
    losses: u64,
}

/// One operation.
#[derive(Debug)]
pub struct Operation {
    task: Task,
    rules: Rules,
    phase: Phase,
    answers: BTreeMap<NodeNumber, Answer>,
    /// Replicas that refused in this round.
    refused: BTreeMap<NodeNumber, Refusal>,
    /// Replicas that were asked for the value after they had told a version only.
    asked_again: Vec<NodeNumber>,
    storers: BTreeMap<NodeNumber, Storer>,
    /// How often each node lost its disk, as far as anybody said.
    losses: BTreeMap<NodeNumber, u64>,
    /// The highest version that was answered.
    base: Version,
    /// What is stored in the second round, or was read.
    chosen: Held,
    /// The highest floor among the replicas that held what was read.
    floor: Moment,
}

type Effects = Vec<OperationEffect>;

impl Operation {
    /// Begins an operation.
    ///
    /// # Panics
    /// If this node is no replica of the key.
    pub fn begin(task: Task, rules: Rules, local: &mut Local<'_>) -> (Self, Effects) {
        assert!(task.replicas.contains(&task.own), "a coordinator is a replica of the key");
        let mut operation = Self {
            task,
            rules,
            phase: Phase::Asking,
            answers: BTreeMap::new(),
            refused: BTreeMap::new(),
            asked_again: Vec::new(),
            storers: BTreeMap::new(),
            losses: BTreeMap::new(),
            base: Version::NONE,
            chosen: Held::default(),
            floor: Moment::default(),
        };
        let is_read = operation.task.errand == Errand::Get;
        let is_one = operation.task.level == Level::One;
        let mut effects = Vec::new();
        if !is_read && (is_one || !rules.keep(Rule::AskFirst)) {
            operation.propose(local, &mut effects);
        } else if is_one {
            operation.ask(&[operation.task.own], &mut effects);
        } else {
            operation.ask(&operation.task.replicas.clone(), &mut effects);
        }
        (operation, effects)
    }

    /// The key.
    pub fn key(&self) -> &Bytes {
        &self.task.key
    }

    /// Whether it has its outcome. What still comes may only be of use to a replica that lags.
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// A replica answered.
    pub fn response(
        &mut self,
        local: &mut Local<'_>,
        from: NodeNumber,
        response: Response,
    ) -> Effects {
        let mut effects = Vec::new();
        if !self.task.replicas.contains(&from) {
            return effects;
        }
        match response {
            Response::Answer(answer) => {
                local.clock.observe(local.now, answer.version);
                self.learn_losses(from, &answer.losses);
                self.take_answer(local, from, answer, &mut effects);
            }
            Response::Stored { version, losses } => {
                self.learn_losses(from, &losses);
                if version == self.chosen.version {
                    let losses = losses.own;
                    let storer = self.storers.entry(from).or_insert(Storer { losses });
                    storer.losses = storer.losses.max(losses);
                    self.count_storers(&mut effects);
                    let left = self.task.replicas.len() - self.refused.len();
                    if let Some(refusal) = self.refused.values().next().copied()
                        && self.phase == Phase::Storing
                        && left < self.needed()
                    {
                        self.give_up(Failure::Refused(refusal), &mut effects);
                    }
                }
            }
            Response::Refused(refusal) => self.take_refusal(local, from, refusal, &mut effects),
            Response::Pulled(_) => {} // of a pull
        }
        effects
    }

    /// A ceiling is durable that the operation may have waited for.
    pub fn resume(&mut self, local: &mut Local<'_>) -> Effects {
        let mut effects = Vec::new();
        if self.phase == Phase::AwaitsCeiling {
            self.propose(local, &mut effects);
        }
        effects
    }

    /// It took too long.
    pub fn time_out(&mut self) -> Effects {
        let mut effects = Vec::new();
        self.give_up(Failure::TooFew, &mut effects);
        effects
    }

    /// How many replicas each round waits for.
    fn needed(&self) -> usize {
        let count = self.task.replicas.len();
        match self.task.level {
            Level::Quorum if self.rules.keep(Rule::StrictQuorum) => count / 2 + 1,
            Level::One | Level::Quorum => 1,
            Level::All => count,
        }
    }

    /// The value is asked of the first only; versions of the others are enough as a rule.
    fn ask(&self, replicas: &[NodeNumber], effects: &mut Effects) {
        for to in replicas {
            let wants_value = self.task.errand == Errand::Get && *to == self.task.own;
            let request = Request::Ask { key: self.task.key.clone(), wants_value };
            effects.push(OperationEffect::Send { to: *to, request });
        }
    }

    fn learn_losses(&mut self, from: NodeNumber, losses: &Losses) {
        for (node, count) in losses.others.iter().chain([(&from, &losses.own)]) {
            let known = self.losses.entry(*node).or_default();
            *known = (*known).max(*count);
        }
    }

    /// Whether a node has not lost its disk since it had lost it so often.
    fn is_of_now(&self, node: NodeNumber, losses: u64) -> bool {
        let known = self.losses.get(&node).copied().unwrap_or_default();
        losses >= known || !self.rules.keep(Rule::WordOfLost)
    }

    fn take_answer(
        &mut self,
        local: &mut Local<'_>,
        from: NodeNumber,
        answer: Answer,
        effects: &mut Effects,
    ) {
        match self.phase {
            Phase::Asking => {
                // Messages overtake each other: of two answers the later one has the higher version.
                // What a node says after it lost its disk is news whatever it is.
                let is_news = |known: &Answer| {
                    let by_losses = answer.losses.own.cmp(&known.losses.own);
                    match by_losses.then(answer.version.cmp(&known.version)) {
                        Ordering::Less => false,
                        Ordering::Equal => known.content == Content::Withheld,
                        Ordering::Greater => true,
                    }
                };
                if self.answers.get(&from).is_none_or(is_news) {
                    self.answers.insert(from, answer);
                }
                self.count_answers(local, effects);
            }
            Phase::Done if self.task.errand == Errand::Get => self.mend(from, &answer, effects),
            _ => {}
        }
    }

    fn take_refusal(
        &mut self,
        local: &Local<'_>,
        from: NodeNumber,
        refusal: Refusal,
        effects: &mut Effects,
    ) {
        let is_of_ask = refusal == Refusal::Copying; // the others are of stores
        if is_of_ask != (self.phase == Phase::Asking) {
            return;
        }
        self.refused.insert(from, refusal);
        if self.phase == Phase::StoringOwn && from == self.task.own {
            self.give_up(Failure::Refused(refusal), effects); // nobody else was sent anything
            return;
        }
        let is_one_read = self.phase == Phase::Asking && self.task.level == Level::One;
        if is_one_read && from == self.task.own {
            let others: Vec<_> =
                self.task.replicas.iter().copied().filter(|node| *node != from).collect();
            for to in others {
                let request = Request::Ask { key: self.task.key.clone(), wants_value: true };
                effects.push(OperationEffect::Send { to, request });
            }
        }
        let is_decided = self.phase == Phase::Asking
            || self.task.errand == Errand::Get
            || !self.storers.is_empty()
            || local.held >= self.chosen.version // it waits for the disk of this node, and is there
            || !refusal.is_final()
            || self.refused.len() == self.task.replicas.len(); // else it may yet be certain
        if is_decided && self.task.replicas.len() - self.refused.len() < self.needed() {
            self.give_up(Failure::Refused(refusal), effects);
        }
    }

    /// Answers that count: of replicas that have not lost their disks since, and that have confirmed up
    /// to the highest floor that was answered. A replica that has not may hold a value whose delete
    /// the others have forgotten.
    fn counted(&self) -> Vec<(NodeNumber, &Answer)> {
        let floor = self.answers.values().map(|answer| answer.floor).max().unwrap_or_default();
        let is_right =
            |answer: &Answer| answer.confirmed >= floor || !self.rules.keep(Rule::ConfirmedAnswers);
        let of_now = self
            .answers
            .iter()
            .filter(|(node, answer)| self.is_of_now(**node, answer.losses.own) && is_right(answer));
        of_now.map(|(node, answer)| (*node, answer)).collect()
    }

    fn count_answers(&mut self, local: &mut Local<'_>, effects: &mut Effects) {
        let counted = self.counted();
        if counted.len() < self.needed() {
            return; // V4
        }
        let best = counted.iter().map(|(_, answer)| answer.version).max().unwrap_or_default();
        if self.task.errand != Errand::Get {
            self.base = best;
            self.propose(local, effects);
            return;
        }
        let holders = counted.iter().filter(|(_, answer)| answer.version == best);
        let floor = holders.clone().map(|(_, answer)| answer.floor).max().unwrap_or_default();
        let holders: Vec<(NodeNumber, Storer, Content)> = holders
            .map(|(node, answer)| {
                (*node, Storer { losses: answer.losses.own }, answer.content.clone())
            })
            .collect();
        self.floor = floor;
        let content = holders.iter().map(|(_, _, content)| content);
        match content.max_by_key(|content| **content != Content::Withheld) {
            Some(Content::Value(value)) => {
                self.chosen = Held { version: best, value: Some(value.clone()) };
            }
            Some(Content::Nothing) => self.chosen = Held { version: best, value: None },
            Some(Content::Withheld) | None => {
                self.ask_for_value(holders.iter().map(|(node, _, _)| *node), effects);
                return;
            }
        }
        self.storers = holders.iter().map(|(node, storer, _)| (*node, *storer)).collect();
        let is_held = self.storers.len() >= self.needed() || best == Version::NONE;
        if is_held || !self.rules.keep(Rule::WriteBack) {
            self.finish(effects);
        } else {
            self.phase = Phase::Storing;
            self.refused.clear();
            self.send_store(|node, storers| !storers.contains_key(&node), effects);
        }
    }

    /// The highest version is known, and nobody who told it was asked for its value.
    fn ask_for_value(&mut self, holders: impl Iterator<Item = NodeNumber>, effects: &mut Effects) {
        for to in holders {
            if !self.asked_again.contains(&to) {
                self.asked_again.push(to);
                let request = Request::Ask { key: self.task.key.clone(), wants_value: true };
                effects.push(OperationEffect::Send { to, request });
            }
        }
    }

    /// Makes the version, and begins to store (I2).
    fn propose(&mut self, local: &mut Local<'_>, effects: &mut Effects) {
        let above = self.base.max(local.held);
        let proposal = match local.clock.propose(local.now, above) {
            Ok(proposal) => proposal,
            Err(NoVersion::Ceiling(ceiling)) => {
                self.phase = Phase::AwaitsCeiling;
                effects.push(OperationEffect::RaiseCeiling(ceiling));
                return;
            }
            Err(NoVersion::Exhausted) => {
                self.give_up(Failure::Exhausted, effects);
                return;
            }
        };
        self.base = above;
        let value = match &self.task.errand {
            Errand::Set(value) => Some(value.clone()),
            Errand::Get | Errand::Delete => None,
        };
        self.chosen = Held { version: proposal.version, value };
        self.refused.clear();
        if proposal.is_far && self.rules.keep(Rule::OwnCopyFirst) {
            // Two operations of this node would else get one version.
            self.phase = Phase::StoringOwn;
            effects.push(OperationEffect::StoreHere(self.stored()));
        } else {
            self.phase = Phase::Storing;
            self.send_store(|_, _| true, effects);
        }
    }

    fn send_store(
        &self,
        is_sent: impl Fn(NodeNumber, &BTreeMap<NodeNumber, Storer>) -> bool,
        effects: &mut Effects,
    ) {
        let store = self.stored();
        for to in self.task.replicas.iter().filter(|node| is_sent(**node, &self.storers)) {
            let request = Request::Store(store.clone());
            effects.push(OperationEffect::Send { to: *to, request });
        }
    }

    fn stored(&self) -> Store {
        let origin = match self.task.errand {
            Errand::Get => Origin::Copy { floor: self.floor },
            Errand::Set(_) | Errand::Delete => Origin::New { base: self.base },
        };
        Store { key: self.task.key.clone(), held: self.chosen.clone(), origin }
    }

    fn count_storers(&mut self, effects: &mut Effects) {
        let own = self.task.own;
        if self.phase == Phase::StoringOwn && self.storers.contains_key(&own) {
            self.phase = Phase::Storing;
            self.send_store(|node, _| node != own, effects);
        }
        let of_now =
            self.storers.iter().filter(|(node, storer)| self.is_of_now(**node, storer.losses));
        if self.phase == Phase::Storing && of_now.count() >= self.needed() {
            self.finish(effects); // V4
        }
    }

    fn finish(&mut self, effects: &mut Effects) {
        self.phase = Phase::Done;
        if self.task.errand != Errand::Get {
            let version = self.chosen.version;
            effects.push(OperationEffect::Finish(Outcome::Written { version }));
            return;
        }
        effects.push(OperationEffect::Finish(Outcome::Read(self.chosen.clone())));
        let answers = std::mem::take(&mut self.answers);
        for (node, answer) in &answers {
            self.mend(*node, answer, effects);
        }
    }

    /// Sends a replica what it lacks, after a read; once, for its answer came once.
    fn mend(&self, from: NodeNumber, answer: &Answer, effects: &mut Effects) {
        if answer.version < self.chosen.version && !self.storers.contains_key(&from) {
            effects.push(OperationEffect::Mend { to: from, store: self.stored() });
        }
    }

    fn give_up(&mut self, failure: Failure, effects: &mut Effects) {
        let is_sent = match self.phase {
            Phase::StoringOwn => !self.refused.contains_key(&self.task.own),
            Phase::Storing => true,
            Phase::Asking | Phase::AwaitsCeiling | Phase::Done => false,
        };
        let is_refused = self.refused.len() == self.task.replicas.len()
            && self.refused.values().all(|refusal| refusal.is_final());
        let outcome = match self.phase {
            Phase::Done => return,
            _ if is_sent && !is_refused && self.task.errand != Errand::Get => {
                let (version, stored_by) = (self.chosen.version, self.storers.len());
                Outcome::Unknown { version, stored_by } // I3
            }
            _ => Outcome::Failed(failure),
        };
        self.phase = Phase::Done;
        effects.push(OperationEffect::Finish(outcome));
    }
}
