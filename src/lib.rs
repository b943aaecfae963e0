//! diskstore: a strongly consistent, replicated store of numbered slots of fixed size.
//!
//! `docs/architecture.md` is the map of the code.

pub mod backup;
pub mod banner;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod command;
pub mod config;
pub mod descriptors;
pub mod fault;
pub mod file_system;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod host;
pub mod leaderless;
pub mod leaderless_program;
pub mod lines;
pub mod load;
pub mod logger;
pub mod machine;
pub mod messages;
pub mod metrics;
pub mod node;
pub mod oplog;
pub mod peer;
pub mod program;
pub mod progress;
pub mod raft;
pub mod receipt;
pub mod recovery;
pub mod replica;
pub mod server;
pub mod status;
pub mod throughput;
pub mod tls;
#[cfg(feature = "otel")]
mod traces;

pub use diskstore_profile as profile;
