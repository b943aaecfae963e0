//! The effect of a log entry on one value, and the fields of a value that it needs.

use std::borrow::Cow;

use bytes::Bytes;

/// What a read gives: a value, and which entry wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Versioned {
    /// Log index of the last set or delete; 0 if none is known.
    pub index: u64,
    /// The value; `None` if there is none.
    pub value: Option<Bytes>,
}

/// What an entry does to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<'a> {
    /// Nothing: value and index stay.
    Keep,
    /// This is the value now.
    Set(Cow<'a, [u8]>),
    /// There is no value now.
    Delete,
    /// The value is damaged, and what the entry does to it depends on what it was. It stays damaged
    /// until a full set: its bytes of before the entry are never served again, however they read.
    GiveUp,
}

/// What became of an entry's effect on a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The effect of this entry, or of a later one, is there already.
    Skipped,
    /// The change was [`Change::Keep`].
    Kept,
    /// The value was written and carries the entry's index.
    Written,
    /// The value was damaged and is given up now ([`Change::GiveUp`]); [`Applied::Kept`] if it was
    /// given up before.
    GivenUp,
}
