//! Clusters of real processes on loopback addresses: killed, stopped, wiped, filled, corrupted.
//! What was acknowledged must be there, what was refused must not.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]
#![allow(clippy::print_stderr, reason = "times and skips are for whoever reads along")]

mod backup;
mod backup_tokens;
mod calls;
mod catch_up;
mod client;
mod crashes;
mod disks;
mod first_steps;
mod fixed;
mod forgetting;
mod freshness;
mod growing;
mod grpc;
#[path = "../cli/harness.rs"]
#[expect(dead_code, reason = "shared with the tests of the command line, which use the rest")]
mod harness;
mod health;
mod http;
mod introspection;
mod kvstore;
mod leaderless;
mod load;
mod logger;
mod logs;
mod lost_majority;
mod members;
mod messages;
mod moved;
mod nodes;
mod orders;
mod records;
mod recovery;
mod refusals;
mod registers;
mod relays;
mod removal;
mod resp;
mod skipped;
mod stalls;
mod strace;
mod tls;
mod transactions;
mod upgrade;
