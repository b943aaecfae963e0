//! The two Raft values that the log and the superblock store. They mirror what the consensus
//! library uses without naming it.

/// The position of an entry in the replicated log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogId {
    /// Election term of the leader that wrote the entry.
    pub term: u64,
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
    pub term: u64,
    /// Member that the vote went to.
    pub node_id: u64,
    /// True once a majority has accepted that leader.
    pub committed: bool,
}
