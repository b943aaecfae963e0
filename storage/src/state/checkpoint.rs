//! The contents of a checkpoint (position and membership), and its outcome.

use bytes::Bytes;

use crate::LogId;

/// A page in memory, in bytes: what changes are counted in until a checkpoint writes them.
pub const PAGE_BYTES: u64 = 4096;
/// Longest membership body, in bytes.
pub const MEMBERSHIP_BYTES_MAX: usize = 64 * 1024;

/// The members of the cluster as of a log position. The body's meaning is the caller's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Membership {
    /// Log id of the entry that set it.
    pub log_id: Option<LogId>,
    /// At most [`MEMBERSHIP_BYTES_MAX`] bytes.
    pub body: Bytes,
}

/// What a checkpoint makes durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The last entry that was applied when the checkpoint was asked for.
    pub log_id: LogId,
    /// The membership as of that entry.
    pub membership: Membership,
    /// CRC-32 of the file of request ids as of that entry; 0 if there are none.
    pub requests_crc: u32,
}

/// What a checkpoint did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checkpointed {
    /// Rounds written.
    pub rounds: u64,
    /// Pages written, of [`PAGE_BYTES`] each.
    pub pages: u64,
    /// Bytes written.
    pub bytes: u64,
    /// True if it was told to stop before its end; the checkpoint before it is still the newest.
    pub cancelled: bool,
    /// True if that was for want of room on the disk.
    pub lacked_space: bool,
}
