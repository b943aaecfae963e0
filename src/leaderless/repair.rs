//! Repair: a node finds what another replica holds and it lacks, and what both have confirmed.
//!
//! A node *pulls* from each other node in turn: both put up their fences, the node compares sums over
//! the keys that both hold, lists the buckets that differ, and fetches the records that it lacks.
//! Once every bucket has matched or been fetched, it has confirmed the moment of the fence with
//! that node. Pulls go both ways between two nodes, so each sends the other what it lacks; a record
//! that was new somewhere before that node's fence was there when the others pulled. Machines
//! without disk, clock or network, as `operation`. Called by the node; calls `clock`, `message`.
//! Invariants:
//!
//! - V8: a sum changes with the record that it is over.
//! - I2: a node hears the other's floor before it compares anything with it. If it is behind, it
//!   compares nothing.
//! - I3: a bucket is listed only if it differs in two looks, [`LOOK_MS`] apart. Under load every
//!   look finds buckets whose records are just under way; nearly none of them differ in both.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::Hasher;

use bytes::Bytes;
use siphasher::sip::SipHasher13;

use super::clock::{Moment, Version};
use super::message::Held;
use super::replica::Floor;
use super::rules::{Rule, Rules};

/// Buckets of keys: by the top 12 bits of the hash that the store orders its keys by, so that a
/// bucket is a range of the store.
pub const BUCKET_COUNT: usize = 1 << 12;
/// Groups of buckets, each with a sum that is compared first.
pub const TOP_COUNT: usize = 64;
/// Buckets of a group.
const GROUP_COUNT: usize = BUCKET_COUNT / TOP_COUNT;
/// Most hashes of one [`PullRequest::Fetch`].
pub const FETCH_HASHES_MAX: usize = 256;
/// Milliseconds between the two looks.
pub const LOOK_MS: u64 = 1_000;

/// The bucket of a hash.
pub fn bucket_of(hash: u64) -> usize {
    let [.., low, high] = hash.to_le_bytes();
    usize::from(u16::from_le_bytes([low, high]) >> 4)
}

/// A key with the hash that the store orders it by.
#[derive(Debug, Clone, Copy)]
pub struct Hashed<'a> {
    /// The hash.
    pub hash: u64,
    /// The key.
    pub key: &'a [u8],
}

/// What a sum and a list have of a key's record: its version, and its value by a mark, for clients of the original's API may
/// give two values one version. Two values of one version with one mark (one pair in 2^32) are not told apart here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// The version; [`Version::NONE`] of a key that is not there.
    pub version: Version,
    /// 0 if there is no value, else one more than its CRC-32: of two records of one version the higher one is kept.
    pub mark: u64,
}

impl Stamp {
    /// Of a key that is not there.
    pub const NONE: Self = Self { version: Version::NONE, mark: 0 };
}

/// Sums over the keys that two nodes both hold, by bucket: what is alike has the same sums, in
/// whatever order it came.
#[derive(Debug, Clone)]
pub struct Sums {
    cluster_id: u128,
    buckets: Vec<u64>,
    /// Of each group, all its buckets together.
    tops: Vec<u64>,
}

impl Sums {
    /// Those of no key. Sums of different clusters do not match.
    pub fn new(cluster_id: u128) -> Self {
        Self { cluster_id, buckets: vec![0; BUCKET_COUNT], tops: vec![0; TOP_COUNT] }
    }

    /// A key holds another record than before.
    pub fn change(&mut self, key: Hashed<'_>, before: Stamp, after: Stamp) {
        let change = self.term(key, before) ^ self.term(key, after);
        let bucket = bucket_of(key.hash);
        self.buckets[bucket] ^= change;
        self.tops[bucket / GROUP_COUNT] ^= change;
    }

    fn term(&self, key: Hashed<'_>, stamp: Stamp) -> u64 {
        if stamp.version == Version::NONE {
            return 0;
        }
        let mut hasher = SipHasher13::new_with_key(&self.cluster_id.to_le_bytes());
        hasher.write(&stamp.version.get().to_le_bytes());
        hasher.write(&stamp.mark.to_le_bytes());
        hasher.write(key.key);
        hasher.finish()
    }

    /// A sum for each group of buckets.
    pub fn tops(&self) -> &[u64] {
        &self.tops
    }

    /// All sums together: nodes that hold the same of what both hold have the same.
    pub fn digest(&self) -> u64 {
        self.tops.iter().fold(0, |digest, top| digest ^ top)
    }

    /// The sums of the buckets of a group; none if there is no such group.
    pub fn of_group(&self, top: usize) -> &[u64] {
        self.buckets.chunks(GROUP_COUNT).nth(top).unwrap_or_default()
    }
}

/// A key in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The hash of the key; two keys may have one.
    pub hash: u64,
    /// What it holds.
    pub stamp: Stamp,
}

/// A record of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The key.
    pub key: Bytes,
    /// What it holds.
    pub held: Held,
}

/// What a node asks of the one that it pulls from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullRequest {
    /// Put up this fence. `floor` is the asker's.
    Begin {
        /// The asker's floor.
        floor: Floor,
        /// The fence.
        fence: Moment,
    },
    /// The sums of all groups.
    Tops,
    /// The sums of a group's buckets.
    Group(usize),
    /// The keys of a bucket.
    List(usize),
    /// The records of these hashes.
    Fetch(Vec<u64>),
}

/// What it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullResponse {
    /// The fence is synced, or a higher one.
    Begun {
        /// The floor of who answers, synced.
        floor: Floor,
    },
    /// See [`Sums::tops`].
    Tops(Vec<u64>),
    /// See [`Sums::of_group`].
    Group {
        /// Which.
        top: usize,
        /// Its sums.
        sums: Vec<u64>,
    },
    /// All keys of a bucket that both hold.
    List {
        /// Which.
        bucket: usize,
        /// Its keys.
        entries: Vec<Entry>,
    },
    /// Records of the first of the hashes, as many as fit.
    Records {
        /// How many hashes these are; not 0.
        count: usize,
        /// The floor of who answers, synced, and no higher than what it has confirmed.
        floor: Moment,
        /// Their records; a hash whose key is gone has none.
        records: Vec<Found>,
    },
}

/// What a pull wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullEffect {
    /// Send this to the node that is pulled from.
    Send(PullRequest),
    /// The other node has this floor: hear it, and if this node is behind then, drop the pull.
    HearFloor(Floor),
    /// Take these records, as copies.
    Copy {
        /// The records.
        records: Vec<Found>,
        /// The floor of who held them.
        floor: Moment,
    },
    /// Call [`Pull::look_again`] after [`LOOK_MS`].
    Wait,
    /// Everything up to here is exchanged: confirm it. The pull is over.
    Confirm(Moment),
}

/// Where a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Beginning,
    FirstLook,
    Between,
    SecondLook,
    Listing,
    Fetching,
    Over,
}

/// One pull from one node. If an answer is lost it goes on no more; the next pull begins anew.
#[derive(Debug)]
pub struct Pull {
    fence: Moment,
    rules: Rules,
    stage: Stage,
    /// Groups whose buckets are to be asked for in this look.
    groups: BTreeSet<usize>,
    /// Buckets that differed in the first look.
    suspects: BTreeSet<usize>,
    /// Buckets that differed in both looks.
    differing: VecDeque<usize>,
    /// Hashes of the first of them that are still to be fetched.
    lacking: VecDeque<u64>,
}

type Effects = Vec<PullEffect>;

impl Pull {
    /// Begins a pull of a node whose floor is `floor`, to confirm what is up to `fence`.
    pub fn begin(floor: Floor, fence: Moment, rules: Rules) -> (Self, Effects) {
        let pull = Self {
            fence,
            rules,
            stage: Stage::Beginning,
            groups: BTreeSet::new(),
            suspects: BTreeSet::new(),
            differing: VecDeque::new(),
            lacking: VecDeque::new(),
        };
        let floor = if rules.keep(Rule::FloorsFirst) { floor } else { Floor::default() };
        (pull, vec![PullEffect::Send(PullRequest::Begin { floor, fence })])
    }

    /// Whether it is over: confirmed, or dropped for an answer that did not fit.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// An answer came. `own` are this node's sums with the other one, `listed` what it holds of a
    /// bucket that both hold.
    pub fn response(
        &mut self,
        response: PullResponse,
        own: &Sums,
        listed: impl FnOnce(usize) -> Vec<Entry>,
    ) -> Effects {
        match (self.stage, response) {
            (Stage::Beginning, PullResponse::Begun { floor }) => {
                self.stage = Stage::FirstLook;
                let tops = PullEffect::Send(PullRequest::Tops);
                if !self.rules.keep(Rule::ConfirmAfterExchange) {
                    return vec![PullEffect::Confirm(self.fence)];
                }
                if !self.rules.keep(Rule::FloorsFirst) {
                    return vec![tops];
                }
                vec![PullEffect::HearFloor(floor), tops] // I2
            }
            (Stage::FirstLook, PullResponse::Tops(tops)) => {
                let own = own.tops();
                if tops.len() != own.len() {
                    self.stage = Stage::Over;
                    return Vec::new();
                }
                let differ = own.iter().zip(&tops).enumerate().filter(|(_, (own, top))| own != top);
                self.groups = differ.map(|(at, _)| at).collect();
                self.next_group()
            }
            (Stage::FirstLook | Stage::SecondLook, PullResponse::Group { top, sums }) => {
                if self.groups.remove(&top) {
                    self.compare(top, own.of_group(top), &sums);
                }
                self.next_group()
            }
            (Stage::Listing, PullResponse::List { bucket, entries }) => {
                if self.differing.front() != Some(&bucket) {
                    return Vec::new(); // an answer that came twice
                }
                self.lacking = lacking(&entries, &listed(bucket)).into();
                self.next_hashes()
            }
            (Stage::Fetching, PullResponse::Records { count, floor, records }) => {
                if count == 0 {
                    self.stage = Stage::Over; // it would never end
                    return Vec::new();
                }
                self.lacking.drain(..count.min(self.lacking.len()));
                let mut effects = vec![PullEffect::Copy { records, floor }];
                effects.extend(self.next_hashes());
                effects
            }
            _ => Vec::new(), // an answer that came twice, or too late
        }
    }

    /// Time for the second look: at the groups of the buckets that differed in the first.
    pub fn look_again(&mut self) -> Effects {
        if self.stage != Stage::Between {
            return Vec::new();
        }
        self.stage = Stage::SecondLook;
        self.groups = self.suspects.iter().map(|bucket| bucket / GROUP_COUNT).collect();
        self.next_group()
    }

    fn compare(&mut self, top: usize, own: &[u64], sums: &[u64]) {
        for (at, own) in own.iter().enumerate() {
            let bucket = top * GROUP_COUNT + at;
            if sums.get(at) == Some(own) {
                continue;
            }
            if self.stage == Stage::FirstLook {
                self.suspects.insert(bucket);
            } else if self.suspects.contains(&bucket) {
                self.differing.push_back(bucket); // I3
            }
        }
    }

    fn next_group(&mut self) -> Effects {
        if let Some(top) = self.groups.first() {
            return vec![PullEffect::Send(PullRequest::Group(*top))];
        }
        if self.stage == Stage::FirstLook && !self.suspects.is_empty() {
            self.stage = Stage::Between;
            return vec![PullEffect::Wait];
        }
        self.next_bucket()
    }

    fn next_hashes(&mut self) -> Effects {
        let hashes: Vec<u64> = self.lacking.iter().copied().take(FETCH_HASHES_MAX).collect();
        if hashes.is_empty() {
            self.differing.pop_front();
            return self.next_bucket();
        }
        self.stage = Stage::Fetching;
        vec![PullEffect::Send(PullRequest::Fetch(hashes))]
    }

    fn next_bucket(&mut self) -> Effects {
        if let Some(bucket) = self.differing.front() {
            self.stage = Stage::Listing;
            return vec![PullEffect::Send(PullRequest::List(*bucket))];
        }
        self.stage = Stage::Over;
        vec![PullEffect::Confirm(self.fence)]
    }
}

/// What another replica holds of a key that is copied.
#[derive(Debug, Clone)]
pub struct Sourced {
    /// What it holds.
    pub held: Held,
    /// Whether it answers asks. One that is behind may hold what was deleted and forgotten.
    pub is_ready: bool,
}

/// What a node holds of a key once it has copied, if anything. `floor` is the highest of its own and of
/// all sources. What is above the floor is taken from everybody, the node itself among them; what is at
/// or below it from who is ready alone, for such a replica holds everything up to the floor. Deletes
/// that old are forgotten.
///
/// A node that is behind needs one source that is ready, for each key. One that lost its disk needs N-W+1
/// that did not, one of them ready.
pub fn after_copy(own: &Held, sources: &[Sourced], floor: Moment) -> Option<Held> {
    let own = Sourced { held: own.clone(), is_ready: false };
    let is_taken = |source: &&Sourced| source.is_ready || source.held.version.moment() > floor;
    let taken = sources.iter().chain([&own]).filter(is_taken).map(|source| &source.held);
    let best = taken.reduce(|one, other| if one.yields_to(other) { other } else { one })?;
    let is_forgotten = best.value.is_none() && best.version.moment() <= floor;
    (!is_forgotten).then(|| best.clone())
}

/// Hashes of what `theirs` has newer than `own`. Where keys share a hash, they are told apart by their
/// stamps, for a version belongs to one write of one key, as a rule.
fn lacking(theirs: &[Entry], own: &[Entry]) -> Vec<u64> {
    let by_hash = |entries: &[Entry]| {
        let mut map: BTreeMap<u64, BTreeSet<Stamp>> = BTreeMap::new();
        for entry in entries {
            map.entry(entry.hash).or_default().insert(entry.stamp);
        }
        map
    };
    let own = by_hash(own);
    let is_lacking = |hash: u64, theirs: &BTreeSet<Stamp>| match own.get(&hash) {
        None => true,
        Some(own) if own.len() == 1 && theirs.len() == 1 => own.first() < theirs.first(),
        Some(own) => !theirs.is_subset(own),
    };
    let lacking = by_hash(theirs).into_iter().filter(|(hash, theirs)| is_lacking(*hash, theirs));
    lacking.map(|(hash, _)| hash).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64) -> Version {
        Version::from_number(number)
    }

    fn key(hash: u64) -> [u8; 8] {
        hash.to_le_bytes()
    }

    fn stamp(number: u64) -> Stamp {
        Stamp { version: version(number), mark: 1 }
    }

    /// Sums over keys given as hash and version.
    fn sums(cluster_id: u128, keys: &[(u64, u64)]) -> Sums {
        let mut sums = Sums::new(cluster_id);
        for (hash, number) in keys {
            let key = key(*hash);
            sums.change(Hashed { hash: *hash, key: &key }, Stamp::NONE, stamp(*number));
        }
        sums
    }

    fn entries(keys: &[(u64, u64)]) -> Vec<Entry> {
        let entry = |(hash, number): &(u64, u64)| Entry { hash: *hash, stamp: stamp(*number) };
        keys.iter().map(entry).collect()
    }

    fn floor(ms: u64) -> Floor {
        Floor { moment: Moment::new(ms), ..Floor::default() }
    }

    const FAR: u64 = 0xfff << 52;

    /// V8
    #[test]
    fn sums_are_those_of_the_records_whatever_way_they_came() {
        let mut changed = sums(1, &[(5, 1), (FAR, 7)]);
        let key = key(5);
        let place = Hashed { hash: 5, key: &key };
        changed.change(place, stamp(1), stamp(2));
        let anew = sums(1, &[(FAR, 7), (5, 2)]);
        assert_eq!(changed.tops(), anew.tops());
        assert_eq!(changed.of_group(0), anew.of_group(0));
        let other = Stamp { mark: 2, ..stamp(2) };
        changed.change(place, stamp(2), other);
        assert_ne!(changed.tops(), anew.tops(), "another value of the same version");
        changed.change(place, other, Stamp::NONE);
        assert_eq!(changed.tops(), sums(1, &[(FAR, 7)]).tops());
        assert_ne!(anew.tops(), sums(2, &[(FAR, 7), (5, 2)]).tops(), "another cluster");
        assert_ne!(anew.tops(), sums(1, &[(FAR, 7), (5, 3)]).tops());
        assert_eq!((bucket_of(0), bucket_of(1 << 52), bucket_of(FAR)), (0, 1, BUCKET_COUNT - 1));
        assert!(anew.of_group(TOP_COUNT).is_empty() && anew.of_group(63)[63] != 0);
    }

    #[test]
    fn what_is_lacking_is_what_the_other_has_newer() {
        let of =
            |theirs: &[(u64, u64)], own: &[(u64, u64)]| lacking(&entries(theirs), &entries(own));
        assert_eq!(
            of(&[(1, 5), (2, 5), (3, 5), (4, 5)], &[(1, 5), (2, 4), (3, 6), (9, 9)]),
            [2, 4]
        );
        let marked = |mark| [Entry { hash: 1, stamp: Stamp { mark, ..stamp(5) } }];
        assert_eq!(lacking(&marked(2), &marked(1)), [1], "the higher value of one version is kept");
        assert_eq!(lacking(&marked(1), &marked(2)), [0_u64; 0]);
        assert_eq!(of(&[(1, 5), (1, 3)], &[(1, 5)]), [1], "two keys of one hash");
        assert_eq!(of(&[(1, 5)], &[(1, 5), (1, 3)]), [0_u64; 0]);
        assert_eq!(of(&[(1, 5)], &[(1, 6), (1, 3)]), [1], "it may be newer than the 3");
    }

    #[test]
    fn a_copy_takes_what_is_old_from_those_who_are_ready_alone() {
        let at = |ms: u64, value: &'static str| Held {
            version: Version::from_number(ms << 22 | 1),
            value: (!value.is_empty()).then(|| Bytes::from_static(value.as_bytes())),
        };
        let ready = |held| Sourced { held, is_ready: true };
        let behind = |held| Sourced { held, is_ready: false };
        let nothing = Held::default;
        let copied = |own, sources: &[Sourced]| after_copy(&own, sources, Moment::new(10));
        let is = |ms, value| Some(at(ms, value));
        assert_eq!(copied(at(9, "deleted since"), &[ready(nothing())]), None);
        assert_eq!(copied(at(9, "old"), &[ready(at(8, "kept"))]), is(8, "kept"));
        assert_eq!(copied(at(11, "own"), &[ready(at(8, "kept"))]), is(11, "own"));
        assert_eq!(copied(nothing(), &[ready(nothing()), behind(at(9, "deleted"))]), None);
        assert_eq!(copied(nothing(), &[ready(nothing()), behind(at(11, "new"))]), is(11, "new"));
        assert_eq!(
            copied(at(11, "own"), &[ready(at(12, ""))]),
            is(12, ""),
            "a delete, not forgotten"
        );
        assert_eq!(copied(nothing(), &[ready(at(9, ""))]), None, "forgotten here too");
    }

    /// One who is pulled from, and how its answers are asked for.
    struct Source {
        keys: Vec<(u64, u64)>,
        requests: Vec<String>,
    }

    impl Source {
        fn answer(&mut self, request: &PullRequest) -> PullResponse {
            let sums = sums(1, &self.keys);
            let name = format!("{request:?}");
            self.requests.push(name.split(['(', ' ']).next().unwrap().to_owned());
            match request {
                PullRequest::Begin { .. } => PullResponse::Begun { floor: floor(3) },
                PullRequest::Tops => PullResponse::Tops(sums.tops().to_vec()),
                PullRequest::Group(top) => {
                    PullResponse::Group { top: *top, sums: sums.of_group(*top).to_vec() }
                }
                PullRequest::List(bucket) => {
                    let of_bucket =
                        self.keys.iter().filter(|(hash, _)| bucket_of(*hash) == *bucket);
                    let entries = entries(&of_bucket.copied().collect::<Vec<_>>());
                    PullResponse::List { bucket: *bucket, entries }
                }
                PullRequest::Fetch(hashes) => {
                    let found = |(hash, number): &(u64, u64)| Found {
                        key: Bytes::copy_from_slice(&key(*hash)),
                        held: Held { version: version(*number), value: None },
                    };
                    // One at a time, as if no more fitted.
                    let of_first = self.keys.iter().filter(|(hash, _)| *hash == hashes[0]);
                    let records = of_first.map(found).collect();
                    PullResponse::Records { count: 1, floor: Moment::new(3), records }
                }
            }
        }

        /// Pulls until it is over; `own` is what the puller holds, and `between` what it holds at the
        /// second look. Returns what was copied.
        fn pull(&mut self, own: &[(u64, u64)], between: &[(u64, u64)]) -> Vec<u64> {
            let (mut pull, effects) = Pull::begin(floor(2), Moment::new(9), Rules::default());
            let mut todo = VecDeque::from(effects);
            let (mut held, mut copied) = (own, Vec::new());
            while let Some(effect) = todo.pop_front() {
                match effect {
                    PullEffect::Send(request) => {
                        let listed = |bucket: usize| {
                            let is_in = |key: &&(u64, u64)| bucket_of(key.0) == bucket;
                            entries(&held.iter().filter(is_in).copied().collect::<Vec<_>>())
                        };
                        let response = self.answer(&request);
                        let twice = pull.response(response.clone(), &sums(1, held), listed);
                        todo.extend(twice);
                    }
                    PullEffect::HearFloor(heard) => assert_eq!(heard, floor(3)),
                    PullEffect::Copy { records, .. } => {
                        copied.extend(records.iter().map(|found| found.held.version.get()));
                    }
                    PullEffect::Wait => {
                        held = between;
                        todo.extend(pull.look_again());
                    }
                    PullEffect::Confirm(moment) => assert_eq!(moment, Moment::new(9)),
                }
            }
            assert!(pull.is_over());
            copied
        }
    }

    fn source(keys: &[(u64, u64)]) -> Source {
        Source { keys: keys.to_vec(), requests: Vec::new() }
    }

    #[test]
    fn replicas_that_are_alike_exchange_two_messages() {
        let mut source = source(&[(1, 5), (FAR, 7)]);
        assert!(source.pull(&[(FAR, 7), (1, 5)], &[]).is_empty());
        assert_eq!(source.requests, ["Begin", "Tops"]);
    }

    /// I3
    #[test]
    fn what_differs_in_one_look_only_is_not_listed() {
        let mut source = source(&[(1, 5), (FAR, 7)]);
        assert!(source.pull(&[(FAR, 7)], &[(1, 5), (FAR, 7)]).is_empty());
        assert_eq!(source.requests, ["Begin", "Tops", "Group", "Group"]);
        // Of two buckets one differs in both looks, the other in the second.
        let other = 1 << 52;
        let mut source = self::source(&[(1, 5), (other, 6)]);
        assert_eq!(source.pull(&[(other, 6)], &[]), [5]);
    }

    #[test]
    fn what_differs_is_fetched_and_nothing_else() {
        let same = (1_u64 << 52) + 9;
        let mut source = source(&[(1, 5), (2, 6), (3, 1), (same, 8), (FAR, 7)]);
        let own = [(3, 2), (same, 8), (FAR, 6)];
        assert_eq!(source.pull(&own, &own), [5, 6, 7]);
        let lists = source.requests.iter().filter(|request| *request == "List").count();
        assert_eq!(lists, 2, "buckets 0 and 4,095: {:?}", source.requests);
    }

    #[test]
    fn an_answer_that_does_not_fit_ends_a_pull_or_is_passed_over() {
        let (mut pull, _) = Pull::begin(floor(0), Moment::new(9), Rules::default());
        let own = sums(1, &[(1, 5)]);
        let mut tell = |response| pull.response(response, &own, |_| Vec::new());
        let floor = Moment::default();
        let records = |count| PullResponse::Records { count, floor, records: Vec::new() };
        assert!(tell(records(1)).is_empty() && tell(PullResponse::Tops(Vec::new())).is_empty());
        assert_eq!(tell(PullResponse::Begun { floor: Floor::default() }).len(), 2);
        assert!(tell(PullResponse::Tops(vec![0; TOP_COUNT + 1])).is_empty());
        assert!(pull.is_over(), "no sums are of another number");
        assert!(pull.look_again().is_empty());

        // One who answers a fetch with nothing, for ever.
        let (mut pull, _) = Pull::begin(self::floor(0), Moment::new(9), Rules::default());
        pull.response(PullResponse::Begun { floor: Floor::default() }, &own, |_| Vec::new());
        let theirs = sums(1, &[(1, 6)]);
        pull.response(PullResponse::Tops(theirs.tops().to_vec()), &own, |_| Vec::new());
        let group = || PullResponse::Group { top: 0, sums: theirs.of_group(0).to_vec() };
        pull.response(group(), &own, |_| Vec::new());
        pull.look_again();
        pull.response(group(), &own, |_| Vec::new());
        let list = PullResponse::List { bucket: 0, entries: entries(&[(1, 6)]) };
        let effects = pull.response(list, &own, |_| entries(&[(1, 5)]));
        assert_eq!(effects, [PullEffect::Send(PullRequest::Fetch(vec![1]))]);
        assert!(pull.response(records(0), &own, |_| Vec::new()).is_empty() && pull.is_over());
    }
}
