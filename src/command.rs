//! Commands, replies and failures, with their bytes. Depends on nothing else of this crate.
//!
//! A [`Command`] is laid out once (`docs/format.md`, "Command") and travels unchanged from the
//! session to the wire, the log and the machine that applies it. All decoding is bounded.

use bytes::Bytes;
use smallvec::SmallVec;

/// Most operations that one command (one log entry) may hold.
pub const OPERATION_COUNT_MAX: usize = 4096;
/// Most bytes that one command may take.
pub const COMMAND_BYTES_MAX: usize = 8 << 20;

/// When an operation that writes is to take effect. It may look at its own slot alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition<'a> {
    /// Always.
    Always,
    /// Only if the slot holds no value (`SET NX`).
    IfAbsent,
    /// Only if the slot holds a value (`SET XX`).
    IfPresent,
    /// Only if the slot's version (log index of its last set or delete) is this one.
    IfVersion(u64),
    /// Only if the slot holds exactly these bytes (`SET IFEQ`).
    IfEqual(&'a [u8]),
}

/// Whether the reply carries the value that the slot held before (`SET GET`, `GETDEL`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Status and version only.
    Status,
    /// Also the value before.
    Previous,
}

/// What one operation does to its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<'a> {
    /// Reads the value.
    Get,
    /// Replaces the value.
    Set { value: &'a [u8], condition: Condition<'a>, answer: Answer },
    /// Removes the value; the slot keeps its version.
    Delete { condition: Condition<'a>, answer: Answer },
    /// Adds to the decimal integer that the slot holds (absent counts as 0).
    Increment { by: i64 },
    /// Adds bytes at the end of the value.
    Append { value: &'a [u8] },
    /// Overwrites bytes from an offset, padding with zeros.
    SetRange { offset: u64, value: &'a [u8] },
}

/// One operation of a command: an action on one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation<'a> {
    /// The key: for slots, the slot number as 8 little-endian bytes (see [`slot_key`]).
    pub key: &'a [u8],
    /// What to do.
    pub action: Action<'a>,
}

/// The outcome of one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Log index of the last set or delete of the slot after this operation; 0 = never written.
    pub version: u64,
    /// True if the operation wrote the slot; false for reads, failed conditions and refusals.
    pub changed: bool,
    /// True if the slot held a value before the operation.
    pub existed: bool,
    /// What else it answers.
    pub body: Body,
}

/// What an operation answers beside its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Nothing.
    Empty,
    /// A value: the one read, or the one before the operation. `None` if there is (was) none.
    Value(Option<Bytes>),
    /// A number: the result of an increment, the length after an append or a set-range.
    Integer(i64),
    /// The operation was refused; the slot is as it was.
    Refused(Refusal),
}

/// Why an operation was refused. The same on every replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The value is not a decimal 64-bit integer.
    NotAnInteger,
    /// The result does not fit a signed 64-bit integer.
    Overflow,
    /// The value would be longer than a slot holds.
    TooLarge { bytes: u64, bytes_max: u64 },
    /// The key is no slot of this store.
    OutOfRange { slot_count: u64 },
}

/// The reply to a command: one outcome for each operation, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reply {
    /// Log index of the entry that held the command; 0 for reads that made no entry.
    pub index: u64,
    /// Outcomes in the order of the operations.
    pub outcomes: SmallVec<[Outcome; 1]>,
}

/// Why a command has no reply. Everything but `Unknown` means: certainly not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No leader is known or reachable; nothing was proposed.
    #[error("no leader: {reason}")]
    NoLeader { reason: String },
    /// This node does not lead and the command may not be forwarded.
    #[error("not the leader; the leader is {leader}")]
    NotLeader { leader: String },
    /// The disk has no room for more log.
    #[error("no space left for the log on this member")]
    NoSpace,
    /// A bound on memory or work under way is reached; try again later.
    #[error("busy: {reason}")]
    Busy { reason: String },
    /// The command was refused before it was proposed.
    #[error("{0:?}")]
    Refused(Refusal),
    /// The slot's bytes are damaged on this member.
    #[error("slot {slot} is damaged on this member")]
    Damaged { slot: u64 },
    /// The node is stopping.
    #[error("this node is stopping")]
    Stopping,
    /// The command may have been applied once, or not at all.
    #[error("outcome unknown (term {term}, log index {index}): {reason}")]
    Unknown { term: u64, index: u64, reason: String },
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadLevel {
    /// Sees every write acknowledged before the read was taken from its socket.
    Linearizable,
    /// As linearizable while clocks drift within bounds: the leader answers under its lease.
    Lease,
    /// This replica's committed and durable value.
    Local,
    /// Through the log, as a write.
    Log,
}

/// What a client asks for, in its final bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Command {
    bytes: Bytes,
}
