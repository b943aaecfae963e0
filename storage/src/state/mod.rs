//! Types that both kinds of state share, slots of a file and keys in memory, because the log is
//! applied to both in the same way.
//!
//! Called by `slots`, `keys` and everything above them; calls nothing. `effect.rs` has the effect
//! of an entry on one value, `checkpoint.rs` the contents and the outcome of a checkpoint,
//! `copy.rs` the receipt of a full copy from another member.

mod checkpoint;
mod copy;
mod effect;

pub use checkpoint::{Checkpointed, MEMBERSHIP_BYTES_MAX, Membership, PAGE_BYTES, Target};
pub use copy::{Full, Incoming};
pub use effect::{Applied, Change, Versioned};
