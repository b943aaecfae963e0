//! Commands, replies and failures, with their bytes. Depends on nothing else of this crate.
//!
//! A [`Command`] is laid out once (`docs/format.md`, "Command") and travels unchanged from the
//! session to the wire, the log and the machine that applies it. All decoding is bounded.
//!
//! Called by everything above the machine; calls nothing. Here are the types and their limits;
//! `layout.rs` has the bytes of a command, `reply.rs` those of replies and failures;
//! `cursor.rs` reads bytes from another member; `class.rs` has the classes of failures.

mod builder;
mod class;
pub(crate) mod cursor;
mod layout;
mod reply;

use std::fmt;

use bytes::Bytes;
use smallvec::SmallVec;

pub use builder::{BuildError, BuilderMark, CommandBuilder};
pub use class::FailureClass;
pub use layout::{Command, Commands, Operations, slot_key, slot_of};
pub use reply::encode_result;
pub(crate) use reply::{decode_reply, decode_result, outcome_bytes, reply_bytes, result_bytes};

/// Most operations that one command (one log entry) may hold.
pub const OPERATION_COUNT_MAX: usize = 4096;
/// Most bytes that one command may take.
pub const COMMAND_BYTES_MAX: usize = 8 << 20;
/// Most bytes that one key may take.
pub const KEY_BYTES_MAX: usize = 65_535;
/// Most bytes of values that the reply to one command holds of those that were only read.
pub const REPLY_BYTES_MAX: u64 = 64 << 20;
/// Most bytes of the name of a channel.
pub const CHANNEL_BYTES_MAX: usize = 512;
/// Most bytes of a message on a channel.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// How the names begin under which subscribers get each message with its index; no channel's own
/// name does (`docs/messages.md`).
pub const INDEXED_PREFIX: &[u8] = b"__index__:";
/// Most bytes of the id of a request.
pub const REQUEST_ID_BYTES_MAX: usize = 64;
/// Most bytes of a reason that travels in a [`Failure`]; what is longer is cut.
pub const REASON_BYTES_MAX: usize = 1024;

/// What a command answers: its reply, or why there is none.
pub type CommandResult = Result<Reply, Failure>;

/// Bytes from outside that are no command, reply or failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {offset}")]
pub struct DecodeError {
    /// What was checked and did not hold.
    pub what: &'static str,
    /// Byte offset of the structure that holds it.
    pub offset: usize,
}

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
    /// Reads how long the value is, and whether there is one; it takes no room in a reply.
    Measure,
    /// Replaces the value.
    Set {
        /// The new value.
        value: &'a [u8],
        /// When to do it.
        condition: Condition<'a>,
        /// What to answer.
        answer: Answer,
    },
    /// Removes the value; the slot keeps its version.
    Delete {
        /// When to do it.
        condition: Condition<'a>,
        /// What to answer.
        answer: Answer,
    },
    /// Adds to the decimal integer that the slot holds (absent counts as 0).
    Increment {
        /// What is added; negative to take away.
        by: i64,
    },
    /// Adds bytes at the end of the value.
    Append {
        /// The bytes added.
        value: &'a [u8],
    },
    /// Overwrites bytes from an offset, padding with zeros.
    SetRange {
        /// Where the bytes go, in bytes from the start of the value.
        offset: u64,
        /// The bytes written.
        value: &'a [u8],
    },
    /// Sends a message to whoever listens on the channel that stands in the key's place. It changes
    /// no key, whatever that is called.
    Publish {
        /// The message.
        message: &'a [u8],
    },
}

/// One operation of a command: an action on one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation<'a> {
    /// The key: for slots, the slot number as 8 little-endian bytes (see [`slot_key`]). Of a message
    /// its channel: see [`Operation::channel`].
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
    /// The length of a value that is there but not in the reply: only that was asked for, or the
    /// values that were read take more than [`REPLY_BYTES_MAX`].
    Measured(u64),
    /// A number: the result of an increment, the length after an append or a set-range.
    Integer(i64),
    /// The operation was refused; the slot is as it was.
    Refused(Refusal),
}

/// What holds a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// A numbered slot.
    Slot,
    /// A key of any bytes.
    Key,
    /// The name of a channel.
    Channel,
    /// A message on a channel.
    Message,
}

/// Why an operation was refused. The same on every replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The value is not a decimal 64-bit integer.
    NotAnInteger,
    /// The result does not fit a signed 64-bit integer.
    Overflow,
    /// The value would be longer than its holder takes.
    TooLarge {
        /// Bytes that the value would have.
        bytes: u64,
        /// Most bytes that its holder takes.
        bytes_max: u64,
        /// What that holder is.
        holder: Holder,
    },
    /// The key is no slot of this store.
    OutOfRange {
        /// Number of slots that there are.
        slot_count: u64,
    },
    /// This member records commands and serves none.
    Logger,
    /// The channel's name begins with [`INDEXED_PREFIX`].
    ReservedChannel,
    /// The request's id is that of another request.
    OtherRequest {
        /// Log index of the entry that applied that one.
        index: u64,
    },
}

/// The reply to a command: one outcome for each operation, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reply {
    /// Log index of the entry that applied the command; 0 for reads that made no entry.
    pub index: u64,
    /// True if that was an earlier entry with the same request id: this one applied nothing.
    pub is_repeat: bool,
    /// Outcomes in the order of the operations.
    pub outcomes: SmallVec<[Outcome; 1]>,
}

/// Why a command has no reply. Everything but `Unknown` means: certainly not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No leader is known or reachable; nothing was proposed.
    #[error("no leader: {reason}")]
    NoLeader {
        /// Why, in words for the caller.
        reason: String,
    },
    /// This node does not lead and the command may not be forwarded.
    #[error("not the leader; the leader is {leader}")]
    NotLeader {
        /// Client address of the leader.
        leader: String,
    },
    /// The disk has no room for more log.
    #[error("no space left for the log on this member")]
    NoSpace,
    /// Keys and values take all the memory that they may; only deletes make room.
    #[error("{reason}")]
    Full {
        /// The bound that is reached, and what makes room.
        reason: String,
    },
    /// A bound on memory or work under way is reached; try again later.
    #[error("busy: {reason}")]
    Busy {
        /// The bound that is reached.
        reason: String,
    },
    /// The command was refused before it was proposed.
    #[error("{0}")]
    Refused(Refusal),
    /// The slot's bytes are damaged on the member that was to carry this out: here, or the leader.
    #[error(
        "slot {slot} is damaged on the member that was to carry this out, and its value is lost there: \
         set it, whole and without a condition (then delete it, if it is to be empty); a local read of \
         another member may still find it"
    )]
    Damaged {
        /// The slot's number.
        slot: u64,
    },
    /// The node is stopping.
    #[error("this node is stopping")]
    Stopping,
    /// The command may have been applied once, or not at all.
    #[error("outcome unknown (term {term}, log index {index}): {reason}")]
    Unknown {
        /// Term in which it was proposed; 0 if not even that is known.
        term: u64,
        /// Log index of its entry; 0 if not known.
        index: u64,
        /// What was lost: the connection, the leadership, the time.
        reason: String,
    },
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

/// How fresh the reads of one client must be: the level, and its own writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// What others may have written meanwhile.
    pub level: ReadLevel,
    /// Log index of the client's last write, which a read sees at every level; 0 if there is none.
    pub written_index: u64,
}

impl Freshness {
    /// A client that has written nothing.
    pub fn of(level: ReadLevel) -> Freshness {
        Freshness { level, written_index: 0 }
    }

    /// Remembers what became of one of the client's commands.
    pub fn note(&mut self, result: &CommandResult) {
        if let Ok(reply) = result {
            self.written_index = self.written_index.max(reply.index);
        }
    }
}

impl Action<'_> {
    /// True for an action that never changes its slot.
    pub fn is_read(&self) -> bool {
        match self {
            Action::Get | Action::Measure => true,
            Action::Set { .. }
            | Action::Delete { .. }
            | Action::Increment { .. }
            | Action::Append { .. }
            | Action::SetRange { .. }
            | Action::Publish { .. } => false,
        }
    }

    /// True for an action that may leave a value much longer than what it brings.
    pub fn may_leave_more(&self) -> bool {
        match self {
            Action::Append { .. } | Action::SetRange { .. } => true,
            Action::Get
            | Action::Measure
            | Action::Set { .. }
            | Action::Delete { .. }
            | Action::Increment { .. }
            | Action::Publish { .. } => false,
        }
    }

    /// True for an action whose outcome may bring a value.
    pub fn answers_a_value(&self) -> bool {
        match self {
            Action::Get => true,
            Action::Set { answer, .. } | Action::Delete { answer, .. } => {
                *answer == Answer::Previous
            }
            Action::Measure
            | Action::Increment { .. }
            | Action::Append { .. }
            | Action::SetRange { .. }
            | Action::Publish { .. } => false,
        }
    }

    /// The least bytes that the value has which the action leaves; 0 where that depends on the
    /// value before, or where it leaves none.
    pub fn value_bytes_min(&self) -> u64 {
        let bytes = |value: &[u8]| u64::try_from(value.len()).unwrap_or(u64::MAX);
        match self {
            Action::Set { value, .. } | Action::Append { value } => bytes(value),
            Action::SetRange { offset, value } if !value.is_empty() => {
                offset.saturating_add(bytes(value))
            }
            Action::SetRange { .. } // of nothing: it leaves the value as it is
            | Action::Get
            | Action::Measure
            | Action::Delete { .. }
            | Action::Increment { .. }
            | Action::Publish { .. } => 0,
        }
    }
}

impl<'a> Operation<'a> {
    /// The channel, if this sends a message.
    pub fn channel(&self) -> Option<&'a [u8]> {
        matches!(self.action, Action::Publish { .. }).then_some(self.key)
    }

    /// The key, if this is about one.
    pub fn data_key(&self) -> Option<&'a [u8]> {
        if self.channel().is_some() { None } else { Some(self.key) }
    }
}

/// Checks whether `message` may be sent on `channel`.
///
/// # Errors
/// Which of the two is too long, or that the name of the channel is reserved.
pub fn check_message(channel: &[u8], message: &[u8]) -> Result<(), Refusal> {
    let bounds = [
        (channel, CHANNEL_BYTES_MAX, Holder::Channel),
        (message, MESSAGE_BYTES_MAX, Holder::Message),
    ];
    for (part, bytes_max, holder) in bounds {
        if part.len() > bytes_max {
            let (bytes, bytes_max) = (part.len() as u64, bytes_max as u64);
            return Err(Refusal::TooLarge { bytes, bytes_max, holder });
        }
    }
    if channel.starts_with(INDEXED_PREFIX) { Err(Refusal::ReservedChannel) } else { Ok(()) }
}

impl fmt::Display for Operation<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.action {
            Action::Get => "get",
            Action::Measure => "measure",
            Action::Set { .. } => "set",
            Action::Delete { .. } => "delete",
            Action::Increment { .. } => "increment",
            Action::Append { .. } => "append",
            Action::SetRange { .. } => "set-range",
            Action::Publish { .. } => "publish",
        };
        match self.data_key().and_then(slot_of) {
            Some(slot) => write!(formatter, "{name} {slot}"),
            None => write!(formatter, "{name} {}", self.key.escape_ascii()),
        }?;
        match self.action {
            Action::Set { value, .. }
            | Action::Append { value }
            | Action::Publish { message: value }
            | Action::SetRange { value, .. } => write!(formatter, " ({} bytes)", value.len()),
            Action::Increment { by } => write!(formatter, " by {by}"),
            Action::Get | Action::Measure | Action::Delete { .. } => Ok(()),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NotAnInteger => formatter.write_str("value is not an integer or out of range"),
            Refusal::Overflow => formatter.write_str("increment or decrement would overflow"),
            Refusal::TooLarge { bytes, bytes_max, holder } => {
                let (part, holder) = match holder {
                    Holder::Slot => ("value", "slot"),
                    Holder::Key => ("value", "key"),
                    Holder::Channel => ("name", "channel's name"),
                    Holder::Message => ("value", "message"),
                };
                write!(formatter, "{part} is {bytes} bytes, a {holder} holds at most {bytes_max}")
            }
            Refusal::OutOfRange { slot_count } => {
                let last = slot_count.saturating_sub(1);
                write!(formatter, "key must be a slot number 0..{last}")
            }
            Refusal::Logger => formatter
                .write_str("this is a logger, which serves no commands; ask a node of its cluster"),
            Refusal::ReservedChannel => write!(
                formatter,
                "names that begin with {} are for subscribers: publish on the channel's own name",
                INDEXED_PREFIX.escape_ascii()
            ),
            Refusal::OtherRequest { index } => write!(
                formatter,
                "this request id is that of another request, which log entry {index} has applied: \
                 give every request an id of its own"
            ),
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changed = self.outcomes.iter().filter(|outcome| outcome.changed).count();
        write!(formatter, "index {}: {} outcomes", self.index, self.outcomes.len())?;
        write!(formatter, ", {changed} changed")
    }
}
