//! Receives a copy of the state from another member that may have forgotten deletes.
//!
//! A sender that remembers every delete sends the values that changed since the receiver's index,
//! and merging these is enough. A sender that has forgotten deletes above that index, up to its
//! *horizon*, sends all values instead, and the receiver drops its values that the copy did not
//! name: they were deleted. Each value carries the number of the copy that named it last. Used by
//! `keys` and by the journal of a logger; slots forget no delete. Invariants:
//!
//! - I1: values are dropped only after a copy of everything that arrived completely. A copy that
//!   breaks off, or is followed by another before it is installed, drops nothing.

/// The copy that is being received.
#[derive(Debug, Default)]
pub struct Incoming {
    number: u64,
    /// The sender's horizon, if it sends everything.
    full: Option<u64>,
    /// Where the copy began, once all of it is here.
    whole: Option<u64>,
}

/// A copy of everything, all of which is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// The number that everything it named carries.
    pub number: u64,
    /// The sender's horizon: deletes up to here may be unknown to the receiver too.
    pub horizon: u64,
}

impl Incoming {
    /// A copy begins, and whichever was under way is over. Returns the index after which the sender
    /// is to send what changed: that of the last entry `applied` here, or 0 if deletes above it may be
    /// forgotten, by the sender's `horizon`.
    pub fn begin(&mut self, applied: u64, horizon: u64) -> u64 {
        let full = (applied < horizon).then_some(horizon);
        *self = Self { number: self.number + 1, full, whole: None };
        if full.is_some() { 0 } else { applied }
    }

    /// What a value that is merged now carries.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// All of the copy that began at index `begin` is here.
    pub fn finish(&mut self, begin: u64) {
        self.whole = Some(begin);
    }

    /// The copy that began at `begin` is installed. Gives it back, once, if it is of everything and
    /// all of it is here (I1): what it did not name is to be dropped.
    pub fn take_full(&mut self, begin: u64) -> Option<Full> {
        let is_whole = self.whole.take() == Some(begin);
        let horizon = self.full.take().filter(|_| is_whole)?;
        Some(Full { number: self.number, horizon })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_asked_for_only_below_the_horizon() {
        let mut incoming = Incoming::default();
        assert_eq!(incoming.begin(7, 7), 7);
        incoming.finish(9);
        assert_eq!(incoming.take_full(9), None);
        assert_eq!(incoming.begin(6, 7), 0);
        incoming.finish(9);
        assert_eq!(incoming.take_full(9), Some(Full { number: 2, horizon: 7 }));
        assert_eq!(incoming.take_full(9), None, "once");
    }

    /// I1
    #[test]
    fn a_copy_that_is_not_whole_or_not_the_one_installed_drops_nothing() {
        let mut incoming = Incoming::default();
        incoming.begin(0, 7);
        assert_eq!(incoming.take_full(9), None, "not whole");
        incoming.begin(0, 7);
        incoming.finish(9);
        assert_eq!(incoming.take_full(8), None, "another one");
        incoming.begin(0, 7);
        incoming.finish(9);
        incoming.begin(0, 7);
        assert_eq!(incoming.take_full(9), None, "another began since");
    }
}
