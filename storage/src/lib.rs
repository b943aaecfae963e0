//! Files and bytes of diskstore: the write-ahead log, the slots and their checkpoints, keys in
//! memory and their snapshot file.
//!
//! This crate starts no thread, reads no clock, and knows neither sockets nor Raft. Every byte
//! that can survive a crash passes through [`disk::File::write_at`] and [`disk::File::sync`], so
//! that a simulated disk can lose, tear or refuse it. `docs/format.md` defines the bytes.

pub mod backup;
pub mod disk;
mod error;
pub mod founding;
pub mod identity;
mod inspect;
pub mod keys;
pub mod meta;
mod report;
pub mod requests;
pub mod slots;
pub mod state;
pub mod summed;
mod types;
pub mod wal;

pub use error::{Error, Result};
pub use inspect::inspect;
pub use report::LINES_MAX;
pub use types::{LogId, LogIndex, MemberId, SlotIndex, Term, Vote};
