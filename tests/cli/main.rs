//! What a user meets on the command line: real processes, wrong and right usage.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]

mod bench;
mod bundle;
mod client;
mod descriptors;
mod durability;
mod harness;
mod join;
mod node;
mod notify;
mod output;
mod profiles;
mod throughput;
mod usage;
