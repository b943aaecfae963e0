//! What a node does that lacks what others hold: it is new, lost its disk, or was away while deletes were
//! forgotten. It copies from the others before it answers anybody.
//!
//! Whether it is new, and has nothing to copy, `founding` says.
//!
//! A copy goes over all records that a source and this node both hold, page by page, in the order of hashes, one source after the
//! other, while stores go on. Called by `driver`; calls `replica`. Invariants:
//!
//! - V7: a node that has to copy answers no ask before the end of the copy is written.
//! - I2: what is at or below the floor is taken from ready sources alone, and dropped where one of them has it not; what
//!   is above it, from all ([`after_copy`](crate::leaderless::repair::after_copy)).
//! - I3: a source has the loss on its disk before it sends anything, and its floor stays as it was: if not,
//!   the copy begins anew.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::driver::{Driver, Peer};
use super::wire::PeerMessage;
use crate::leaderless::clock::{Clock, Moment, NodeNumber, Version, Writer};
use crate::leaderless::founding::{Directory, founders};
use crate::leaderless::repair::Found;
use crate::leaderless::replica::{Numbers, Standing};

/// A copy that got no answer for so long is given up, and begun anew.
const COPY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a node finds too few others to copy before it accepts its loss.
const LISTEN_FIRST: Duration = Duration::from_secs(2);

/// A copy under way.
#[derive(Debug)]
pub(super) struct Copying {
    /// Tells its answers from those to an attempt before it.
    attempt: u64,
    /// Who was asked to begin.
    asked: Vec<NodeNumber>,
    /// Who began.
    sources: BTreeMap<NodeNumber, CopySource>,
    /// Whose records are still to be copied, the present one in front; empty before the copy begins.
    left: VecDeque<NodeNumber>,
    /// The highest floor of all.
    floor: Moment,
    /// Where the present page begins.
    from: u64,
    at: Instant,
    /// The next page was not asked for, because there was no room for it.
    is_held_up: bool,
    /// What the last page did not name is being dropped.
    dropping: Option<Dropping>,
    /// The end is written, and waits for the disk: up to this write.
    ends_at: Option<u64>,
    has_begun: bool,
}

impl Copying {
    /// Whether what a source with this floor sends is of this copy (I3).
    fn is_of_floor(&self, floor: Moment) -> bool {
        floor <= self.floor
    }

    /// Who owes an answer.
    fn silent(&self) -> Vec<NodeNumber> {
        if self.has_begun {
            return self.left.front().copied().into_iter().collect();
        }
        let asked = self.asked.iter().copied();
        asked.filter(|node| !self.sources.contains_key(node)).collect()
    }
}

/// Drops what is here at or below the floor and not at a source that holds all of it, piece by piece: a page is bounded by what the
/// source holds, and not by what is here.
#[derive(Debug)]
struct Dropping {
    source: NodeNumber,
    /// What is still to be looked at: from this hash up to before that one, if not to the end.
    range: (u64, Option<u64>),
    /// What the source names there.
    named: BTreeMap<Bytes, Version>,
}

/// Who is copied.
#[derive(Debug)]
struct CopySource {
    numbers: Numbers,
    is_ready: bool,
}

impl Driver {
    /// Goes on with what a node does that is not ready.
    pub(super) fn catch_up(&mut self, now: Instant) {
        if self.end_copy() {
            return;
        }
        let standing = self.replica.standing();
        if standing == Standing::Ready {
            (self.copying, self.lacks_since) = (None, None);
            self.waits_for.clear();
            return;
        }
        if self.replica.is_ready_once_synced() {
            return;
        }
        if standing == Standing::Lost && self.found(now) {
            return;
        }
        if let Some(copying) = &self.copying {
            if copying.is_held_up {
                self.ask_page();
                return;
            }
            if now.duration_since(copying.at) < COPY_TIMEOUT {
                return;
            }
            let silent = self.names_of(&copying.silent());
            tracing::warn!(nodes = silent, "a copy got no answer, and begins anew");
            // They were there a moment ago: what is missing now is missing since now.
            (self.copying, self.lacks_since) = (None, None);
            self.begin_copy(standing, now, &silent);
            return;
        }
        self.begin_copy(standing, now, "");
    }

    /// The ids of these nodes.
    fn names_of(&self, nodes: &[NodeNumber]) -> String {
        let ids = nodes.iter().filter_map(|node| self.peers.get(node)).map(|peer| &*peer.id);
        ids.collect::<Vec<_>>().join(", ")
    }

    /// There are too few nodes that could be copied, and this is why. After a while in which nobody came, and it heard what others know of its
    /// losses, a node goes by what it has, if whoever started it says so and it has seen none since then.
    fn lack_sources(&mut self, standing: Standing, now: Instant, waits_for: String) {
        let since = *self.lacks_since.get_or_insert(now);
        let is_asked = self.config.accepts_loss && !self.saw_sources;
        if !is_asked || now.duration_since(since) < LISTEN_FIRST {
            self.waits_for = waits_for;
            return;
        }
        tracing::warn!("-accept-loss: this node copies nothing, and answers from what it has");
        if standing == Standing::Lost {
            let known = self.known_losses();
            let effects = self.replica.begin_copying(known);
            self.apply(effects);
            let effects = self.replica.nothing_was_lost();
            self.apply(effects);
        } else {
            let effects = self.replica.nothing_was_missed();
            self.apply(effects);
        }
        let numbers = self.store.kept.numbers.clone();
        self.take_writer(&numbers);
    }

    /// Gives versions as the writer that it is after so many losses.
    fn take_writer(&mut self, numbers: &Numbers) {
        let writer = Writer { node: self.own, losses: numbers.lost.count };
        if self.clock.writer() != writer {
            let shown = self.clock.shown(self.now());
            self.clock = Clock::open(writer, self.replica.numbers().ceiling, self.rules);
            self.clock.observe(self.now(), shown);
        }
    }

    /// Whether this directory is one that the cluster began with.
    fn found(&mut self, now: Instant) -> bool {
        let kept = &self.store.kept;
        if kept.numbers.lost.copied > 0 {
            return false;
        }
        let here = Directory {
            is_new: self.store.is_empty(),
            incarnation: kept.incarnation,
            founders: BTreeMap::new(),
        };
        let directory = |peer: &Peer| {
            let gossip = peer.gossip.as_ref()?;
            let is_new = gossip.standing == Standing::Lost
                && gossip.numbers.lost.copied == 0
                && gossip.is_empty;
            Some(Directory {
                is_new: is_new && peer.is_up(now),
                incarnation: gossip.incarnation,
                founders: gossip.founders.clone(),
            })
        };
        let heard = self.peers.iter().filter_map(|(at, peer)| Some((*at, directory(peer)?)));
        let node_count = self.layout.nodes().len();
        let founders = founders(self.own, &here, &heard.collect(), node_count, self.rules);
        let Some(founders) = founders else { return false };
        tracing::info!("this cluster begins: all its nodes were there, and empty");
        self.store.kept.founders = founders;
        let effects = self.replica.nothing_was_lost();
        self.apply(effects);
        let numbers = self.store.kept.numbers.clone();
        self.take_writer(&numbers);
        self.waits_for.clear();
        true
    }

    /// Begins a copy. `silent` names the nodes that gave no answer to the one before.
    fn begin_copy(&mut self, standing: Standing, now: Instant, silent: &str) {
        let is_source =
            |peer: &Peer| peer.standing(now).is_some_and(|standing| standing != Standing::Lost);
        let asked: Vec<NodeNumber> =
            self.peers.iter().filter(|(_, peer)| is_source(peer)).map(|(at, _)| *at).collect();
        if let Err(waits_for) = self.check_sources(standing, asked.len(), asked.len()) {
            self.lack_sources(standing, now, waits_for);
            return;
        }
        let mut losses = 0;
        if standing == Standing::Lost {
            let known = self.known_losses();
            // What the others know may be of an earlier loss: the first time it is counted above that.
            if !self.has_counted || known > self.store.kept.numbers.lost.count {
                self.has_counted = true;
                let effects = self.replica.begin_copying(known);
                self.apply(effects);
            }
            losses = self.store.kept.numbers.lost.count;
        }
        let attempt = self.next_id();
        self.waits_for = format!("copies from {} nodes", asked.len());
        if !silent.is_empty() {
            let words = "no answer to the copy before this one came from";
            self.waits_for = format!("{}; {words} {silent}", self.waits_for);
        }
        for to in &asked {
            self.send_once_synced(*to, PeerMessage::CopyBegin { attempt, losses });
        }
        self.copying = Some(Copying {
            attempt,
            asked,
            sources: BTreeMap::new(),
            left: VecDeque::new(),
            floor: Moment::default(),
            from: 0,
            at: now,
            is_held_up: false,
            dropping: None,
            ends_at: None,
            has_begun: false,
        });
    }

    /// The losses of this node that others know of. Each node counts one when the cluster begins, its empty directory.
    fn known_losses(&self) -> u64 {
        let gossips = self.peers.values().filter_map(|peer| peer.gossip.as_ref());
        let known = gossips.filter_map(|gossip| gossip.numbers.others_lost.get(&self.own));
        known.copied().max().unwrap_or_default().max(1)
    }

    /// Whether enough nodes can be copied: so many in all, of whom so many are ready. A key has its
    /// replicas anywhere, so this is by the worst of keys.
    fn check_sources(&self, standing: Standing, count: usize, ready: usize) -> Result<(), String> {
        let others = self.peers.len();
        let replicas = self.layout.replica_count();
        let missing = others - count;
        let majority = replicas / 2 + 1;
        if replicas < 2 {
            return Err(
                "no other node holds its keys: -accept-loss begins with what is here".into()
            );
        }
        if standing == Standing::Lost && missing + 2 > majority {
            let most = majority.saturating_sub(2);
            return Err(format!(
                "its directory was empty, so all other nodes but {most} have to be up and whole, to be copied; {count} of {others} are. (A new cluster begins once all its nodes were up at one time.)"
            ));
        }
        if others - ready > replicas - 2 {
            return Err(format!(
                "it has to copy, and {ready} of {others} other nodes are up and ready to be copied. (If the others are gone for good: -accept-loss.)"
            ));
        }
        Ok(())
    }

    /// A source has noted what it has to, and can be copied.
    pub(super) fn copy_begun(&mut self, from: NodeNumber, numbers: Numbers, is_ready: bool) {
        let standing = self.replica.standing();
        let own_floor = self.replica.numbers().floor.moment;
        let Some(copying) = &mut self.copying else { return };
        if copying.has_begun || !copying.asked.contains(&from) {
            return;
        }
        copying.sources.insert(from, CopySource { numbers, is_ready });
        if copying.sources.len() < copying.asked.len() {
            return;
        }
        let floors = copying.sources.values().map(|source| source.numbers.floor.moment);
        copying.floor = floors.max().unwrap_or_default().max(own_floor);
        let floor = copying.floor;
        for source in copying.sources.values_mut() {
            source.is_ready &= source.numbers.confirmed >= floor;
        }
        copying.has_begun = true;
        copying.at = Instant::now();
        copying.left = copying.sources.keys().copied().collect();
        let ready = copying.sources.values().filter(|source| source.is_ready).count();
        let count = copying.sources.len();
        if let Err(waits_for) = self.check_sources(standing, count, ready) {
            self.copying = None;
            self.lack_sources(standing, Instant::now(), waits_for);
            return;
        }
        (self.saw_sources, self.lacks_since) = (true, None);
        tracing::info!(sources = count, "copying what other nodes hold");
        self.ask_page();
    }

    /// Whether this is the attempt under way.
    pub(super) fn is_copying(&self, attempt: u64) -> bool {
        self.copying.as_ref().is_some_and(|copying| copying.attempt == attempt)
    }

    /// Asks for the next page, or ends the copy.
    fn ask_page(&mut self) {
        let floor = self.store.kept.numbers.floor.moment;
        let Some(copying) = &self.copying else { return };
        if floor > copying.floor {
            self.copying = None; // I3, of this node's own floor
            return;
        }
        let (attempt, from) = (copying.attempt, copying.from);
        if let Some(source) = copying.left.front().copied() {
            let now = Instant::now();
            if !self.peers.get(&source).is_some_and(|peer| peer.is_up(now)) {
                self.copying = None; // begun anew in a while
                return;
            }
            let page = PeerMessage::CopyPage { attempt, from };
            let is_asked = self.has_room() && self.send(source, &page);
            if let Some(copying) = &mut self.copying {
                (copying.is_held_up, copying.at) = (!is_asked, now);
            }
            return;
        }
        let numbers: Vec<Numbers> =
            copying.sources.values().map(|source| source.numbers.clone()).collect();
        let effects = self.replica.copied(&numbers);
        self.apply(effects);
        let written = self.written;
        if let Some(copying) = &mut self.copying {
            copying.ends_at = Some(written);
        }
        self.end_copy();
    }

    /// A page came, from a source whose floor was `floor_now` when it was read.
    pub(super) fn copy_paged(
        &mut self,
        source: NodeNumber,
        range: (u64, Option<u64>),
        floor_now: Moment,
        records: Vec<Found>,
    ) {
        let (from, next) = range;
        let is_too_large = records.iter().any(|found| !self.is_within_bounds(&found.held));
        let Some(copying) = &mut self.copying else { return };
        if copying.left.front() != Some(&source) || copying.from != from {
            return;
        }
        let is_strange = is_too_large || next.is_some_and(|next| next <= from);
        if is_strange || !copying.is_of_floor(floor_now) {
            self.copying = None;
            return;
        }
        copying.at = Instant::now();
        let floor = copying.floor;
        let is_ready = copying.sources.get(&source).is_some_and(|source| source.is_ready);
        if next.is_none() {
            copying.left.pop_front();
        }
        copying.from = next.unwrap_or_default();
        let named = is_ready.then(|| named_in(&records, floor));
        for found in records.into_iter().filter(|found| is_taken(found, floor, is_ready)) {
            let Found { key, held: copied } = found;
            let held = self.held(&key);
            self.clock.observe(self.now(), copied.version);
            let effects = self.replica.copy(&key, &copied, &held, floor);
            self.apply(effects);
        }
        match (&mut self.copying, named) {
            (Some(copying), Some(named)) => {
                copying.dropping = Some(Dropping { source, range, named });
                self.drop_missing();
            }
            _ => self.ask_page(),
        }
    }

    /// Drops some of what a page did not name, and asks for the next one when that is done. The rest waits for the ticks: a
    /// mass deletion that this node slept through holds up nobody, and is more than one entry of the log.
    pub(super) fn drop_missing(&mut self) {
        let has_room = self.has_room();
        let Some(copying) = &mut self.copying else { return };
        let Some(mut dropping) = copying.dropping.take() else { return };
        copying.at = Instant::now(); // nobody owes an answer
        let floor = copying.floor;
        if has_room {
            let old = self.store.old_keys(dropping.source, dropping.range, floor);
            for (key, version) in old.keys {
                if dropping.named.get(&key).is_none_or(|named| *named < version) {
                    self.store.drop_key(&key, version);
                    self.append_if_full();
                }
            }
            let Some(next) = old.next else {
                self.ask_page();
                return;
            };
            dropping.range.0 = next;
        }
        if let Some(copying) = &mut self.copying {
            copying.dropping = Some(dropping);
        }
    }

    /// Ends a copy whose end is synced. True while it waits for that, or has just ended.
    pub(super) fn end_copy(&mut self) -> bool {
        let Some(ends_at) = self.copying.as_ref().and_then(|copying| copying.ends_at) else {
            return false;
        };
        if self.synced < ends_at {
            return true;
        }
        self.copying = None;
        self.waits_for.clear();
        let numbers = self.replica.numbers().clone();
        self.take_writer(&numbers);
        tracing::info!("copied: this node answers from now on");
        true
    }
}

/// Whether a record of a page is taken. A delete at or below the floor is not: its source is about to forget it.
fn is_taken(found: &Found, floor: Moment, is_ready: bool) -> bool {
    found.held.version.moment() > floor || is_ready && found.held.value.is_some()
}

/// What a page of a source that holds all of it names, of that which is taken: an older record that is here
/// is replaced by that. What a delete names that is not taken goes, as if the source had forgotten it already.
fn named_in(records: &[Found], floor: Moment) -> BTreeMap<Bytes, Version> {
    let taken = records.iter().filter(|found| is_taken(found, floor, true));
    taken.map(|found| (found.key.clone(), found.held.version)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaderless::message::Held;

    /// V6 of `leaderless/replica.rs`: else the older record would stay, and come back once its source has forgotten the delete.
    #[test]
    fn a_delete_that_its_source_is_about_to_forget_keeps_nothing_older_here() {
        let found = |key: &'static str, version: u64, value: Option<&'static str>| Found {
            key: key.into(),
            held: Held { version: Version::from_number(version), value: value.map(Into::into) },
        };
        let (old, new) = (1 << 40, 1 << 50);
        let floor = Version::from_number(u64::midpoint(old, new)).moment();
        let page = [
            found("gone", old, None),
            found("kept", old, Some("value")),
            found("deleted later", new, None),
        ];
        let named: Vec<_> = named_in(&page, floor).into_keys().collect();
        assert_eq!(named, [&b"deleted later"[..], b"kept"]);
    }

    #[test]
    fn a_copy_knows_who_owes_it_an_answer() {
        let node = |number| NodeNumber::new(number).unwrap();
        let source = || CopySource { numbers: Numbers::default(), is_ready: true };
        let mut copying = Copying {
            attempt: 1,
            asked: vec![node(1), node(3)],
            sources: BTreeMap::from([(node(1), source())]),
            left: VecDeque::new(),
            floor: Moment::default(),
            from: 0,
            at: Instant::now(),
            is_held_up: false,
            dropping: None,
            ends_at: None,
            has_begun: false,
        };
        assert_eq!(copying.silent(), [node(3)], "it has not begun");
        copying.has_begun = true;
        copying.left = VecDeque::from([node(1), node(3)]);
        assert_eq!(copying.silent(), [node(1)], "whose page is awaited");
        copying.floor = Moment::new(7);
        assert!(copying.is_of_floor(Moment::new(7)) && !copying.is_of_floor(Moment::new(8)));
    }
}
