//! What the log is applied to. Calls `storage`; knows neither Raft nor sockets.

mod disk;
mod effect;

pub use disk::{ApplyError, DiskMachine};
