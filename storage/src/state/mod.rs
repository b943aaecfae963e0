//! What a state means to the log that is applied to it, whatever the state holds: slots of a file,
//! or keys in memory.
//!
//! Called by `slots`, `keys` and everything above them; calls nothing. What an entry does to one
//! value is in `effect.rs`; what a checkpoint names and comes to in `checkpoint.rs`; how a copy of
//! everything is received from another member in `copy.rs`.

mod checkpoint;
mod copy;
mod effect;

pub use checkpoint::{Checkpointed, MEMBERSHIP_BYTES_MAX, Membership, PAGE_BYTES, Target};
pub use copy::{Full, Incoming};
pub use effect::{Applied, Change, Versioned};
