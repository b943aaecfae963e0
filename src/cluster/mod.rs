//! The members of the cluster among themselves: founding, joining, promotion, forwarding.
//!
//! Called by `node`; calls `raft`.

mod bootstrap;
mod bounded;
mod forward;
mod freshness;
mod join;
mod membership;
mod moved;
mod removal;
mod room;

pub use bootstrap::{Contact, listen_first};
pub use forward::{Forwarder, serve_incoming};
pub use join::{JoinError, JoinSetup, Joined, join_until_named, learn_cluster};
pub use membership::{cost_of_stopping, keep_membership};
pub use moved::{Own, is_copy, keep_registered};
pub use removal::{RemoveError, Standing, remove_from_outside, watch_standing};
pub use room::give_way_when_full;
