//! Snapshots over sockets.
