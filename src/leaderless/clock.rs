//! Versions, and the hybrid logical clock that gives them.
//!
//! Without a leader nobody counts the writes of a key, so a version is made of a node's clock:
//!
//! ```text
//! version: u64 = milliseconds since 2020 (42 bits) | counter (12 bits) | writer (10 bits)
//! writer       = how often the node lost its disk, modulo 16 (4 bits) | number of the node - 1 (6 bits)
//! ```
//!
//! The clock is *hybrid*: it shows the time of day, and is raised by every version that the node
//! sees, so that what happens later gets a higher version even if the clocks of two nodes differ. It
//! is only a proposal all the same. A write at QUORUM asks first which version a majority holds, and
//! goes above it, so no acknowledged write is ever lost to a clock. Called by `operation` and by the
//! node; calls `rules`. Invariants:
//!
//! - V1: a node hands out a version once. Before versions above a *ceiling* are used, a higher
//!   ceiling is durable; a start begins above it, wherever the time of day has gone meanwhile. A node
//!   that lost its ceiling with its disk counts the loss, and that makes it another writer.
//! - I2: a version that is too far ahead of this node's time does not raise the clock: half as far as is admitted,
//!   so that what the node then proposes is admitted by others whose time is behind its own. So one bad clock
//!   spoils the versions of its own node and of no other.

use super::rules::{Rule, Rules};

/// How far ahead of a node's own time a new version may be.
pub const SKEW_MS_MAX: u64 = 5_000;
/// How far ahead of a node's own time a version may be that raises its clock (I2).
pub const OBSERVED_MS_MAX: u64 = SKEW_MS_MAX / 2;
/// How far a new ceiling lies ahead of the time of day. A start begins above it, and what it then proposes is to be
/// admitted, and followed, everywhere.
pub const CEILING_AHEAD_MS: u64 = 2_000;
const _: () = assert!(CEILING_AHEAD_MS < OBSERVED_MS_MAX);
/// A ceiling that is nearer than this is moved before anybody has to wait for it.
pub const CEILING_NEAR_MS: u64 = 1_000;
/// The least that a ceiling is moved beyond a version that is ahead of the time of day, as after a start: one start after the other
/// does not add up.
const CEILING_STEP_MS: u64 = 100;
/// The most that a ceiling lies ahead of the highest time that its node held for true: the step beyond a version that the node followed.
/// Starts in a row may add a step each.
pub const CEILING_LEAD_MS: u64 = OBSERVED_MS_MAX + CEILING_STEP_MS;
const _: () = assert!(CEILING_AHEAD_MS <= CEILING_LEAD_MS);

const COUNTER_BITS: u32 = 12;
/// Of the writer: 6 for its number, 4 for its losses.
const WRITER_BITS: u32 = 10;
const NUMBER_BITS: u32 = 6;
/// What lies below the milliseconds; what the original's API calls `clock`.
const LOW_BITS: u32 = COUNTER_BITS + WRITER_BITS;
const MOMENT_MAX: u64 = (1 << 42) - 1;

/// Milliseconds since the beginning of 2020, UTC. What lies before counts as 0, and what lies
/// behind 2^42 (in the year 2159) as the last of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(u64);

impl Moment {
    /// This many milliseconds since 2020.
    pub const fn new(ms: u64) -> Self {
        Self(if ms > MOMENT_MAX { MOMENT_MAX } else { ms })
    }

    /// Milliseconds since 2020.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// This much later.
    #[must_use]
    pub const fn later(self, ms: u64) -> Self {
        Self::new(self.0.saturating_add(ms))
    }

    /// This much earlier.
    #[must_use]
    pub const fn earlier(self, ms: u64) -> Self {
        Self(self.0.saturating_sub(ms))
    }
}

/// The number of a node in its layout: 1 to 64. Whoever gets the number of a node that is gone counts
/// as the same node after a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeNumber(u16);

impl NodeNumber {
    /// The number, if it can be one.
    pub fn new(number: u16) -> Option<Self> {
        (1..=1 << NUMBER_BITS).contains(&number).then_some(Self(number))
    }

    /// The bare number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl std::fmt::Display for NodeNumber {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Who gives versions: a node, between two losses of its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writer {
    /// The node.
    pub node: NodeNumber,
    /// How often it lost its disk.
    pub losses: u64,
}

impl Writer {
    /// The low bits of its versions.
    pub const fn bits(self) -> u64 {
        (self.losses % 16) << NUMBER_BITS | (self.node.0 as u64 - 1)
    }
}

/// The version of a record. Versions of one key are compared as numbers, the higher is the newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(u64);

/// What the original's API has in place of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockValue {
    /// There, how often a node was started; here, milliseconds since 2020.
    pub epoch: u64,
    /// There, a counter; here, counter and writer.
    pub clock: u64,
}

/// A clock of the original's API that is no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the clock (epoch {epoch}, clock {clock}) is out of range; an epoch is below 2^42, and a clock at \
     most 2^22"
)]
pub struct ClockOutOfRange {
    /// What was given.
    pub epoch: u64,
    /// What was given.
    pub clock: u64,
}

impl Version {
    /// That of a key which was never written, or is forgotten.
    pub const NONE: Self = Self(0);

    /// Takes the number for a version, as when it is read from a disk or a frame.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// The bare number, as a record has it.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// When it was proposed, by the clock of the node that did.
    pub const fn moment(self) -> Moment {
        Moment(self.0 >> LOW_BITS)
    }

    /// Who proposed it, if no client of the original's API did ([`Writer::bits`]).
    pub const fn writer_bits(self) -> u64 {
        self.0 & ((1 << WRITER_BITS) - 1)
    }

    /// Whether this is one tick of the clock above another version.
    pub const fn is_tick_above(self, other: Self) -> bool {
        self.0 >> WRITER_BITS == (other.0 >> WRITER_BITS) + 1
    }

    /// The lowest version of a writer above another; `None` if there is none any more.
    fn tick_above(other: Self, writer: Writer) -> Option<Self> {
        let tick = (other.0 >> WRITER_BITS) + 1;
        (tick >> (64 - WRITER_BITS) == 0).then_some(Self(tick << WRITER_BITS | writer.bits()))
    }

    /// The first of a moment.
    const fn first_at(moment: Moment) -> Self {
        Self(moment.0 << LOW_BITS)
    }

    /// The last of a moment.
    pub const fn last_at(moment: Moment) -> Self {
        Self(moment.0 << LOW_BITS | ((1 << LOW_BITS) - 1))
    }

    /// What the original's API has for this version.
    pub const fn to_clock_value(self) -> ClockValue {
        ClockValue { epoch: self.0 >> LOW_BITS, clock: self.0 & ((1 << LOW_BITS) - 1) }
    }

    /// The version that a client of the original's API means. It adds 1 to the highest `clock` that it
    /// was told, so 2^22 may come, and is the next epoch.
    ///
    /// # Errors
    /// A clock beyond all versions.
    pub fn from_clock_value(value: ClockValue) -> Result<Self, ClockOutOfRange> {
        let ClockValue { epoch, clock } = value;
        let version = (epoch <= MOMENT_MAX && clock <= 1 << LOW_BITS)
            .then(|| (epoch << LOW_BITS).checked_add(clock))
            .flatten();
        version.map(Self).ok_or(ClockOutOfRange { epoch, clock })
    }
}

/// A version that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proposal {
    /// The version.
    pub version: Version,
    /// It is above one that is too far ahead of this node's time, so no ceiling covers it: it is to be
    /// durable in this node's own copy before anybody else sees it ([`Clock::propose`]).
    pub is_far: bool,
}

/// Why there is no version now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoVersion {
    /// The ceiling is to be made durable here first; then ask again.
    Ceiling(Moment),
    /// The key holds the highest version that there is.
    Exhausted,
}

/// The clock of a node.
#[derive(Debug, Clone)]
pub struct Clock {
    writer: Writer,
    rules: Rules,
    /// The highest version that was given or seen.
    last: Version,
    /// Versions up to here may be given (V1).
    ceiling: Moment,
    /// The highest ceiling that was asked for.
    asked: Moment,
}

impl Clock {
    /// The clock of a node that starts with a ceiling which it finds on its disk; 0 if it has none.
    pub fn open(writer: Writer, ceiling: Moment, rules: Rules) -> Self {
        let has_ceiling = rules.keep(Rule::Ceiling) && ceiling > Moment::default();
        let last = if has_ceiling { Version::last_at(ceiling) } else { Version::NONE };
        Self { writer, rules, last, ceiling, asked: ceiling }
    }

    /// Whose clock it is.
    pub fn writer(&self) -> Writer {
        self.writer
    }

    /// A version was seen: in an answer, a store or a copy. `now` is the time of day.
    pub fn observe(&mut self, now: Moment, version: Version) {
        if is_followed(now, version) {
            self.last = self.last.max(version); // I2
        }
    }

    /// What the clock shows, without giving a version.
    pub fn shown(&self, now: Moment) -> Version {
        self.last.max(Version::first_at(now))
    }

    /// A version of this node above `above`, which is the highest of its key that was answered and that
    /// this node's own copy holds, synced or not.
    ///
    /// If `above` is too far ahead, the version is one tick above it and leaves the clock alone.
    /// Then V1 rests on the own copy: each such version is in it before others see it, and the next
    /// goes above what it holds.
    ///
    /// # Errors
    /// Why there is none now.
    pub fn propose(&mut self, now: Moment, above: Version) -> Result<Proposal, NoVersion> {
        if !is_followed(now, above) && above > self.last {
            let next = Version::tick_above(above, self.writer).ok_or(NoVersion::Exhausted)?;
            return Ok(Proposal { version: next, is_far: true });
        }
        let next = Version::tick_above(self.last.max(above), self.writer);
        let next = next.ok_or(NoVersion::Exhausted)?;
        let at_now = Version(now.0 << LOW_BITS | self.writer.bits());
        let version = next.max(at_now);
        if version.moment() > self.ceiling && self.rules.keep(Rule::Ceiling) {
            let ceiling = version.moment().later(CEILING_STEP_MS).max(now.later(CEILING_AHEAD_MS));
            self.asked = self.asked.max(ceiling);
            return Err(NoVersion::Ceiling(self.asked));
        }
        self.last = version;
        Ok(Proposal { version, is_far: false })
    }

    /// A ceiling that is to be made durable now, so that no operation has to wait for it.
    pub fn ceiling_due(&mut self, now: Moment) -> Option<Moment> {
        if now.later(CEILING_NEAR_MS) <= self.asked {
            return None;
        }
        self.asked = now.later(CEILING_AHEAD_MS);
        Some(self.asked)
    }

    /// A ceiling is durable.
    pub fn ceiling_is_durable(&mut self, ceiling: Moment) {
        self.ceiling = self.ceiling.max(ceiling);
    }
}

/// Whether a version raises the clock of a node at its time (I2).
fn is_followed(now: Moment, version: Version) -> bool {
    version.moment() <= now.later(OBSERVED_MS_MAX)
}

/// Whether a replica takes a new version at its time. `held` is what it holds of the key, and what
/// the version was proposed above. Too far ahead is refused, except for one tick above what the key holds
/// already, here or where it was asked: else a key with a version of a bad clock could not be
/// written until that time has come.
pub fn is_admitted(now: Moment, version: Version, held: [Version; 2]) -> bool {
    version.moment() <= now.later(SKEW_MS_MAX)
        || held.iter().any(|held| version.is_tick_above(*held))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::new(200_000_000_000);

    fn writer(number: u16) -> Writer {
        Writer { node: NodeNumber::new(number).unwrap(), losses: 0 }
    }

    fn clock(node: u16) -> Clock {
        let mut clock = Clock::open(writer(node), Moment::default(), Rules::default());
        clock.ceiling_is_durable(NOW.later(10_000));
        clock
    }

    fn near(clock: &mut Clock, now: Moment, above: Version) -> Version {
        let proposal = clock.propose(now, above).unwrap();
        assert!(!proposal.is_far);
        proposal.version
    }

    #[test]
    fn a_version_is_its_milliseconds_its_counter_and_its_node() {
        let mut clock = clock(0x16);
        let version = near(&mut clock, NOW, Version::NONE);
        assert_eq!(version.get(), NOW.get() << 22 | 0x15);
        assert_eq!((version.moment(), version.writer_bits()), (NOW, 0x15));
        let next = near(&mut clock, NOW, Version::NONE);
        assert_eq!(next.get(), NOW.get() << 22 | 1 << 10 | 0x15, "the counter is above the writer");
        assert!(next.is_tick_above(version) && !next.is_tick_above(next));
        assert_eq!(
            [0, 1, 64, 65].map(|at| NodeNumber::new(at).is_some()),
            [false, true, true, false]
        );
        let mut all = std::collections::BTreeSet::new();
        for (node, losses) in (1..=64).flat_map(|node| (0..16).map(move |losses| (node, losses))) {
            all.insert(Writer { losses, ..writer(node) }.bits());
        }
        assert_eq!((all.len(), all.last()), (1024, Some(&1023)), "every writer is another one");
    }

    #[test]
    fn versions_only_grow_whatever_the_time_of_day_does() {
        let mut clock = clock(3);
        let mut last = Version::NONE;
        for step in 0..10_000_u64 {
            // More than the counter holds in a millisecond, and a time that goes back.
            let now = NOW.later(step / 6_000).earlier(step % 7 * 400);
            let version = near(&mut clock, now, Version::NONE);
            assert!(version > last && version.writer_bits() == 2, "{last:?} {version:?}");
            last = version;
        }
    }

    #[test]
    fn a_version_goes_above_what_was_asked_and_what_was_seen() {
        let (mut one, mut other) = (clock(1), clock(2));
        let ahead = near(&mut one, NOW.later(2_000), Version::NONE);
        assert!(near(&mut other, NOW, ahead) > ahead);
        let seen = near(&mut one, NOW.later(2_400), Version::NONE);
        other.observe(NOW, seen);
        other.observe(NOW, ahead); // seen later, and lower
        assert!(near(&mut other, NOW, Version::NONE) > seen);
        assert_eq!(other.shown(NOW), other.last);
        assert_eq!(other.shown(NOW.later(9_000)).moment(), NOW.later(9_000));
    }

    /// V1
    #[test]
    fn no_version_is_given_above_the_durable_ceiling() {
        let mut clock = Clock::open(writer(1), Moment::default(), Rules::default());
        let wanted = NOW.later(CEILING_AHEAD_MS);
        assert_eq!(clock.propose(NOW, Version::NONE), Err(NoVersion::Ceiling(wanted)));
        clock.ceiling_is_durable(wanted);
        let given = near(&mut clock, wanted, Version::NONE);
        let more = wanted.later(1 + CEILING_AHEAD_MS);
        assert_eq!(clock.propose(wanted.later(1), Version::NONE), Err(NoVersion::Ceiling(more)));
        // After a crash the time of day is a year older.
        let mut again = Clock::open(writer(1), wanted, Rules::default());
        let past = NOW.earlier(31_536_000_000);
        assert!(matches!(again.propose(past, Version::NONE), Err(NoVersion::Ceiling(_))));
        again.ceiling_is_durable(wanted.later(1));
        assert!(near(&mut again, past, Version::NONE) > given);
        let mut careless = Clock::open(writer(1), wanted, Rules::without(Rule::Ceiling));
        assert!(near(&mut careless, past, Version::NONE) < given, "the rule is needed");
    }

    #[test]
    fn a_ceiling_moves_before_anybody_waits_for_it() {
        let mut clock = Clock::open(writer(1), Moment::default(), Rules::default());
        let mut now = NOW;
        let mut moves = 0;
        for _ in 0..100 {
            now = now.later(1_000);
            if let Some(ceiling) = clock.ceiling_due(now) {
                clock.ceiling_is_durable(ceiling);
                moves += 1;
            }
            near(&mut clock, now, Version::NONE);
            near(&mut clock.clone(), now.later(1_000), Version::NONE);
        }
        assert!((50..=100).contains(&moves), "{moves} records in 100 s");
    }

    #[test]
    fn what_is_proposed_after_starts_in_a_row_is_admitted() {
        let mut ceiling = Moment::default();
        for start in 0..10 {
            let now = NOW.later(start * 50);
            let mut clock = Clock::open(writer(1), ceiling, Rules::default());
            if let Some(ceiling) = clock.ceiling_due(now) {
                clock.ceiling_is_durable(ceiling);
            }
            let proposal = clock.propose(now, Version::NONE);
            if let Err(NoVersion::Ceiling(needed)) = proposal {
                clock.ceiling_is_durable(needed);
            }
            let version = near(&mut clock, now, Version::NONE);
            assert!(is_admitted(now, version, [Version::NONE; 2]), "start {start}: {version:?}");
            ceiling = clock.ceiling;
        }
    }

    /// I2
    #[test]
    fn one_bad_clock_spoils_no_other() {
        let mut good = clock(2);
        let bad = Version::first_at(NOW.later(31_536_000_000));
        good.observe(NOW, bad);
        assert_eq!(near(&mut good, NOW, Version::NONE).moment(), NOW);
        assert!(!is_admitted(NOW, bad, [Version::NONE; 2]), "a replica refuses it");
        assert!(is_admitted(NOW, Version::last_at(NOW.later(SKEW_MS_MAX)), [Version::NONE; 2]));
        assert!(!is_admitted(
            NOW,
            Version::first_at(NOW.later(SKEW_MS_MAX + 1)),
            [Version::NONE; 2]
        ));
    }

    /// I2: the versions of a clock that is 4.9 s ahead are admitted by nodes whose time is right. What these propose is
    /// admitted by nodes that are behind.
    #[test]
    fn a_clock_that_is_ahead_but_admitted_spoils_no_other() {
        let (right, behind) = (NOW, NOW.earlier(200));
        let ahead = Version::first_at(NOW.later(4_900));
        assert!(is_admitted(right, ahead, [Version::NONE; 2]));
        let mut clock = clock(2);
        clock.observe(right, ahead);
        let version = near(&mut clock, right, Version::NONE);
        assert!(is_admitted(behind, version, [Version::NONE; 2]), "{version:?}");
        // Nor does a write of the key itself: it goes one tick above, and leaves the clock as it was.
        let above = clock.propose(right, ahead).unwrap();
        assert!(above.is_far && above.version.is_tick_above(ahead), "{above:?}");
        let version = near(&mut clock, right, Version::NONE);
        assert!(is_admitted(behind, version, [Version::NONE; 2]), "{version:?}");
    }

    /// I2: a start is above its ceiling. All follow it, and are admitted by a node whose time is 2.4 s behind.
    #[test]
    fn a_start_makes_nobody_propose_what_others_refuse() {
        let mut before = clock(1);
        let ceiling = Moment::new(before.ceiling_due(NOW.later(20_000)).unwrap().get() - 20_000);
        let mut started = Clock::open(writer(1), ceiling, Rules::default());
        started.ceiling_is_durable(ceiling.later(CEILING_STEP_MS));
        let first = near(&mut started, NOW, Version::NONE);
        let mut other = clock(2);
        other.observe(NOW, first);
        let version = near(&mut other, NOW, Version::NONE);
        assert!(version > first, "it is followed");
        assert!(is_admitted(NOW.earlier(2_400), version, [Version::NONE; 2]), "{version:?}");
    }

    #[test]
    fn a_key_with_a_version_of_a_bad_clock_can_be_written() {
        let mut good = clock(2);
        let bad = Version::first_at(NOW.later(31_536_000_000));
        let Proposal { version, is_far } = good.propose(NOW, bad).unwrap();
        assert!(is_far && version.is_tick_above(bad));
        assert!(is_admitted(NOW, version, [bad, Version::NONE]));
        assert!(is_admitted(NOW, version, [Version::NONE, bad]));
        assert_eq!(near(&mut good, NOW, Version::NONE).moment(), NOW, "the clock is as it was");
        let last = Version::from_number(u64::MAX);
        assert_eq!(good.propose(NOW, last), Err(NoVersion::Exhausted));
    }

    #[test]
    fn clocks_of_the_original_become_versions_and_back() {
        let mut clock = clock(9);
        for _ in 0..3 {
            let version = near(&mut clock, NOW, Version::NONE);
            let ClockValue { epoch, clock } = version.to_clock_value();
            assert_eq!(epoch, NOW.get());
            assert_eq!(Version::from_clock_value(ClockValue { epoch, clock }), Ok(version));
            let above = Version::from_clock_value(ClockValue { epoch, clock: clock + 1 }).unwrap();
            assert!(above > version, "what an original's coordinator makes of it");
        }
        let of = |epoch, clock| Version::from_clock_value(ClockValue { epoch, clock });
        assert_eq!(of(0, 0), Ok(Version::NONE));
        assert_eq!(of(7, 1 << 22), of(8, 0), "one above the last clock of an epoch");
        let last = (1 << 42) - 1;
        assert_eq!(of(last, (1 << 22) - 1), Ok(Version::from_number(u64::MAX)));
        for (epoch, clock) in
            [(last, 1 << 22), (last + 1, 0), (0, (1 << 22) + 1), (u64::MAX, u64::MAX)]
        {
            assert_eq!(of(epoch, clock), Err(ClockOutOfRange { epoch, clock }));
        }
    }
}
