//! Types for numbers that must not be confused (a slot's, an index, a term, a member's), and the
//! two Raft values that the log and the superblock store. They mirror the consensus library's types
//! without naming that library.

/// A number of one kind: it compares and prints as the number, and takes no other's place.
macro_rules! number {
    ($(#[$what:meta])* $name:ident) => {
        $(#[$what])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Takes the number for one of this kind.
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// The bare number, as for bytes and arithmetic.
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(formatter)
            }
        }

        impl std::fmt::LowerHex for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::LowerHex::fmt(&self.0, formatter)
            }
        }
    };
}

number! {
    /// An election term; 0 comes before the first.
    Term
}

number! {
    /// Index of an entry of the log, counted from 0.
    LogIndex
}

number! {
    /// Number of a slot, counted from 0.
    SlotIndex
}

number! {
    /// The id of a member, drawn at random when it joins; 0 is none.
    MemberId
}

impl LogIndex {
    /// How many entries of the log stand behind that of `earlier` up to this one; 0 if none do.
    pub const fn entries_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The position of an entry in the replicated log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogId {
    /// Election term of the leader that wrote the entry.
    pub term: Term,
    /// Index of the entry, counted from 0.
    pub index: u64,
}

impl std::fmt::Display for LogId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}-{}", self.term, self.index)
    }
}

/// What this member voted for last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Vote {
    /// Election term.
    pub term: Term,
    /// Member that the vote went to.
    pub node_id: MemberId,
    /// True once a majority has accepted that leader.
    pub committed: bool,
}
