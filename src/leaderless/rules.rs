//! The rules that the promises of leaderless mode rest on, each with a name. Calls nothing.
//!
//! A program keeps all of them, and has no way to do otherwise. Tests of this module switch single
//! ones off, to show that the simulation finds what the rule prevents: a rule whose absence no
//! schedule shows would be a rule that nobody needs, or a simulation that proves little.

/// One of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Rule {
    /// A copy takes a record only if its version is above the one it holds.
    NewerWins,
    /// Asks and stores are answered only from what is synced.
    DurableAnswers,
    /// A write at QUORUM or ALL asks first, and goes above every version that was answered.
    AskFirst,
    /// A read brings what it found to a majority before it answers.
    WriteBack,
    /// An operation ends in each of its rounds only with the number of replicas that its level says.
    StrictQuorum,
    /// A node gives no version above its durable ceiling, and starts above it.
    Ceiling,
    /// A version far beyond a node's own clock is one tick above the newest that the node holds, and is
    /// durable there before others see it.
    OwnCopyFirst,
    /// A replica refuses versions far ahead of its clock.
    SkewBound,
    /// Of two values with one version, every replica keeps the same.
    TieBreak,
    /// A replica refuses new stores at or below its fence.
    Fence,
    /// A replica refuses every store at or below the floor.
    FloorRefuses,
    /// An answer counts only if its replica has confirmed up to the highest floor among the answers.
    ConfirmedAnswers,
    /// A replica that hears of a floor above what it has confirmed answers no ask until it has copied.
    BehindIsSilent,
    /// A replica that lost its disk answers no ask until it has copied from N-W+1 others.
    LostDisk,
    /// What a replica said before it lost its disk counts no more, once it has copied.
    WordOfLost,
    /// A cluster begins once all its nodes have been there at one time, each with a new directory.
    FoundedByAll,
    /// The directories that it began with are known by their random numbers, and not by their nodes alone.
    FoundersByNumber,
    /// Two replicas tell each other their floors before they compare anything.
    FloorsFirst,
    /// A node confirms a moment only once every record up to it was exchanged with every other.
    ConfirmAfterExchange,
}

/// The rules that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// A bit for each rule that is not.
    off: u32,
}

impl Rules {
    /// Whether a rule is kept.
    pub(super) fn keep(self, rule: Rule) -> bool {
        self.off & (1 << rule as u32) == 0
    }

    /// All but one.
    #[cfg(test)]
    pub(super) fn without(rule: Rule) -> Self {
        Self { off: 1 << rule as u32 }
    }
}
