//! What a user meets on the command line: real processes, wrong and right usage.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]
#![allow(clippy::print_stderr, reason = "what was skipped is for whoever reads along")]

mod bench;
mod bundle;
mod client;
mod descriptors;
mod durability;
mod harness;
#[path = "../clients/installed.rs"]
#[expect(dead_code, reason = "shared with the tests of real clients, which use the rest")]
mod installed;
mod join;
mod node;
mod notify;
mod output;
mod profiles;
mod shells;
#[path = "../cluster/skipped.rs"]
mod skipped;
mod terminal;
mod throughput;
mod top;
mod usage;
