//! One copy of the state: the machine with its applied position, and all work on it: applying,
//! replaying, syncing the log, checkpoints, snapshots to and from other copies, and backups.
//!
//! Called by `raft`, `cluster` and `node`; calls `machine`, `peer` (snapshots travel over its
//! connections), `oplog` and `storage`. It knows positions of a log and memberships as bytes, but
//! no consensus library: whatever decides what is committed stands above it.

mod applier;
pub(crate) mod backup;
mod checkpoints;
mod hold;
mod pace;
mod replay;
pub(crate) mod snapshot;
pub(crate) mod snapshot_frames;
mod state;
mod syncer;

#[cfg(test)]
pub(crate) use applier::apply_entry;
pub(crate) use applier::{Answer, Applier, ApplierSetup, Committed, Job, Payload};
pub use backup::{BackupOrder, BackupRefusal, BackupStream};
pub use checkpoints::Checkpointer;
pub(crate) use pace::Pace;
pub use replay::ReplayAhead;
pub(crate) use replay::replay;
pub(crate) use snapshot::Sender;
pub(crate) use state::SlotsSnapshot;
pub use state::{Applied, Bounds, Replica};
pub use syncer::Syncer;
