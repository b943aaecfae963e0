//! The state machines: the state to which the log is applied. Calls `storage`; knows neither Raft
//! nor sockets.
//!
//! Raft and the node see only [`Machine`]. It is one enum, so that neither needs a type parameter,
//! and applying an entry is a jump and not a call through a table. Each kind has a file of its own,
//! with its answers to the calls that every kind has. What only slots have, content in pages, is
//! behind a view that the other kinds do not give ([`Paged`]).

mod any;
mod capacity;
mod disk;
mod effect;
mod group;
mod journal;
mod memory;
mod paged;
mod reply;
mod requests;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use diskstore_storage::disk::Disk;
use diskstore_storage::identity::MachineKind;
use diskstore_storage::keys::{self, KeyImage};
use diskstore_storage::slots::SlotImage;
use diskstore_storage::state::{Checkpointed, Target, Versioned};
use diskstore_storage::{Error, Result};

pub(crate) use any::AnyMachine;
pub use any::{LiveKeys, Scanned};
pub use capacity::Fullness;
pub use disk::{ApplyError, DamageMet, DiskMachine};
pub use journal::{JournalError, JournalMachine, JournalOptions, SYNC_BYTES_DEFAULT};
pub use memory::MemoryMachine;
pub use paged::Paged;
pub use requests::RequestIds;

use requests::DigestedRequest;

use crate::command::{Action, Command, Failure, Holder, Operation, Refusal, Reply, check_message};

/// What is asked between the steps of a checkpoint: it may rest, and returns once everything
/// appended to the log before it was called is durable.
pub type LogDurable<'a> = &'a mut dyn FnMut() -> Result<()>;

/// What a node's log is applied to.
#[derive(Debug, Clone)]
pub enum Machine {
    /// Slots of a data file.
    Slots(DiskMachine),
    /// Keys in memory.
    Memory(MemoryMachine),
    /// An application log, and nothing else.
    Journal(JournalMachine),
}

/// What keys and values there can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Number of slots; 0 where keys are no slots.
    pub slot_count: u64,
    /// Most bytes of one value.
    pub value_bytes_max: u32,
}

/// How much there is of what a machine holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// How many keys hold a value; `None` while they are not counted.
    pub live_count: Option<u64>,
    /// Bytes that all content takes on the disk: what a checkpoint or a snapshot costs at most.
    pub data_bytes: u64,
    /// Bytes that changed since they were last written to the disk.
    pub dirty_bytes: u64,
    /// Pages that checkpoints have written since the start.
    pub written_pages: u64,
}

/// Pieces of a snapshot, as they travel: what was deleted is among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Images {
    /// Slots.
    Slots(Vec<SlotImage>),
    /// Keys of any bytes.
    Keys(Vec<KeyImage>),
}

/// Held while a snapshot is sent: no delete is forgotten.
#[derive(Debug)]
pub struct Sending {
    /// What changed after an index at or above this one can be said; whoever has less is sent
    /// everything, and drops what is not named.
    pub horizon: u64,
    /// Positions of [`Machine::scan`] are below this.
    pub end: u64,
    #[expect(dead_code, reason = "it ends with the sending")]
    held: Option<keys::Sending>,
}

/// Makes a call on a machine, whichever kind it is. This is the one place that lists the kinds: a new one
/// is added here, and the compiler names what of [`AnyMachine`] it lacks.
macro_rules! of_its_kind {
    ($self:ident, $machine:ident => $call:expr) => {
        match $self {
            Machine::Slots($machine) => $call,
            Machine::Memory($machine) => $call,
            Machine::Journal($machine) => $call,
        }
    };
}
use of_its_kind;

/// Applying, reading, and what is asked for each of them.
impl Machine {
    /// What it is.
    pub fn kind(&self) -> MachineKind {
        of_its_kind!(self, machine => machine.kind())
    }

    /// The limits of keys and values.
    pub fn limits(&self) -> Limits {
        of_its_kind!(self, machine => machine.limits())
    }

    /// Its pages, if its content lies in some.
    pub fn paged(&self) -> Option<Paged<'_>> {
        of_its_kind!(self, machine => machine.paged())
    }

    /// Applies the command of log entry `index`. Entries come in the order of the log, one at a
    /// time; one that was applied before changes nothing.
    ///
    /// # Errors
    /// Damage of the command's own slots: all else of it is done, and the node goes on. Its request
    /// id: nothing is done, and the node goes on. The others only for a sick node. A command that is
    /// refused has a reply.
    pub fn apply(&self, index: u64, command: &Command) -> std::result::Result<Reply, ApplyError> {
        match command.request_id() {
            None => of_its_kind!(self, machine => machine.apply(index, command)),
            Some(id) => self.apply_once(index, id, command),
        }
    }

    /// As [`Machine::apply`], unless the command's request was applied before.
    fn apply_once(
        &self,
        index: u64,
        id: &[u8],
        command: &Command,
    ) -> std::result::Result<Reply, ApplyError> {
        let (ids, asked) = (self.request_ids(), DigestedRequest::new(index, id, command));
        if let Some(answer) = ids.answer_to(&asked, command) {
            return answer;
        }
        let is_ahead = |operation: Operation<'_>| {
            let slot = operation.data_key().map(|key| self.slot(key));
            slot.is_some_and(|slot| slot.is_none_or(|slot| slot.index >= index))
        };
        let is_exact = !command.operations().any(is_ahead); // I2 of `requests.rs`
        let applied = of_its_kind!(self, machine => machine.apply(index, command));
        match &applied {
            Ok(reply) => ids.remember(&asked, Some(reply).filter(|_| is_exact)),
            Err(ApplyError::Damaged(_)) => ids.remember(&asked, None),
            // The node stops, and does not count the entry as applied.
            Err(ApplyError::Storage(_) | ApplyError::Journal(_) | ApplyError::NotApplied(_)) => {}
        }
        applied
    }

    /// The ids of requests that were applied lately.
    pub fn request_ids(&self) -> &RequestIds {
        of_its_kind!(self, machine => machine.request_ids())
    }

    /// Reads the request ids that the checkpoint names, and says where those of later ones go. To be
    /// called once, before anything is applied.
    ///
    /// # Errors
    /// Files that are lost, damaged, or another cluster's.
    pub fn open_request_ids(
        &self,
        disk: Arc<dyn Disk>,
        directory: &Path,
        cluster_id: u128,
    ) -> Result<()> {
        self.request_ids().open(disk, directory, cluster_id, self.durable().as_ref())
    }

    /// A batch of entries was applied: whoever reads along may see it.
    ///
    /// # Errors
    /// Only for a sick node.
    pub fn hand_on(&self) -> std::result::Result<(), ApplyError> {
        of_its_kind!(self, machine => machine.hand_on())
    }

    /// Reads what a command of nothing but reads asks for, at one moment.
    ///
    /// # Errors
    /// The content cannot be read.
    pub fn read(&self, command: &Command) -> std::result::Result<Reply, Failure> {
        of_its_kind!(self, machine => machine.read(command))
    }

    /// Checks what can be said of a command without looking at content: a command that is refused
    /// here never becomes a log entry.
    ///
    /// # Errors
    /// A key or a value that cannot be.
    pub fn check(&self, command: &Command) -> std::result::Result<(), Refusal> {
        of_its_kind!(self, machine => machine.check(command))
    }

    /// What a key holds now, for the application log; `None` where that cannot be said.
    pub fn slot(&self, key: &[u8]) -> Option<Versioned> {
        of_its_kind!(self, machine => machine.slot(key))
    }

    /// The entry that may have deleted what a read found to be absent, where its version does not
    /// say: whoever needs that to be durable waits for it.
    pub fn absent_since(&self) -> u64 {
        of_its_kind!(self, machine => machine.absent_since())
    }

    /// True if applying touches neither the disk nor a memory budget, so that it may happen on the
    /// thread that runs Raft.
    pub fn never_waits(&self) -> bool {
        of_its_kind!(self, machine => machine.never_waits())
    }
}

/// What it holds, for people and upkeep.
impl Machine {
    /// How much there is of what it holds.
    pub fn usage(&self) -> Usage {
        of_its_kind!(self, machine => machine.usage())
    }

    /// At most `count` keys that hold a value, from position `from` on, and where to go on. Looks
    /// at a bounded number of places. Damaged slots are left out.
    ///
    /// # Errors
    /// It has no keys to read.
    pub fn live_keys(&self, from: u64, count: usize) -> std::result::Result<LiveKeys, Failure> {
        of_its_kind!(self, machine => machine.live_keys(from, count))
    }
}

/// Checkpoints.
impl Machine {
    /// The newest checkpoint that survives power loss; `None` before the first.
    pub fn durable(&self) -> Option<Target> {
        of_its_kind!(self, machine => machine.durable())
    }

    /// How many steps a checkpoint would take now, at least.
    pub fn checkpoint_steps(&self) -> u64 {
        of_its_kind!(self, machine => machine.checkpoint_steps())
    }

    /// Makes everything durable that was applied up to `target`. Blocks. After `Ok` (and not
    /// `cancelled`) the log up to the target may be purged. A later checkpoint stays.
    ///
    /// # Errors
    /// Of the disk or of `log_durable`.
    pub fn checkpoint(
        &self,
        target: Target,
        log_durable: LogDurable<'_>,
        cancel: &AtomicBool,
    ) -> Result<Checkpointed> {
        let index = target.log_id.index;
        let outcome =
            of_its_kind!(self, machine => machine.checkpoint(target, log_durable, cancel))?;
        if outcome.cancelled {
            self.request_ids().withdraw(index, self.durable().as_ref()); // nothing names it (H31)
        }
        self.request_ids().remove_before(self.durable().as_ref());
        Ok(outcome)
    }
}

/// Snapshots, sent and received.
impl Machine {
    /// The content is a state that ever was once every entry up to here is applied.
    pub fn readable_from(&self) -> u64 {
        of_its_kind!(self, machine => machine.readable_from())
    }

    /// Raises [`Machine::readable_from`]. Durable before anything merged later is.
    ///
    /// # Errors
    /// Of the disk.
    pub fn set_readable_from(&self, index: u64) -> Result<()> {
        of_its_kind!(self, machine => machine.set_readable_from(index))
    }

    /// Something is to be sent, until what this returns is dropped.
    pub fn begin_send(&self) -> Sending {
        of_its_kind!(self, machine => machine.begin_send())
    }

    /// A snapshot from another member begins; returns the index after which it is to send what
    /// changed. `applied` is what this member has applied, `horizon` the sender's.
    pub fn begin_merge(&self, applied: u64, horizon: u64) -> u64 {
        of_its_kind!(self, machine => machine.begin_merge(applied, horizon))
    }

    /// All of the snapshot that began at index `begin` was merged; it is about to be installed.
    pub fn finish_merge(&self, begin: u64) {
        of_its_kind!(self, machine => machine.finish_merge(begin));
    }

    /// What changed after `changed_after`, from position `from` on, until values make `bytes_max`
    /// bytes or a bounded number of places was looked at; and where to go on.
    ///
    /// # Errors
    /// Something damaged: a snapshot is never finished over it.
    pub fn scan(&self, from: u64, changed_after: u64, bytes_max: usize) -> Result<Scanned> {
        of_its_kind!(self, machine => machine.scan(from, changed_after, bytes_max))
    }

    /// Merges what another member sent, each piece where it is newer than what is here.
    ///
    /// # Errors
    /// It does not fit this machine; some of it may have been merged.
    pub fn merge(&self, images: &Images) -> Result<()> {
        of_its_kind!(self, machine => machine.merge(images))
    }

    /// Ends the merging of a snapshot that was taken from `target` on, and makes that the
    /// checkpoint, with the request ids that came with it. After `Ok` all of it survives power loss.
    ///
    /// # Errors
    /// As [`Machine::checkpoint`].
    pub fn install(&self, target: Target, log_durable: LogDurable<'_>) -> Result<()> {
        let begin = target.log_id.index;
        let target = Target { requests_crc: self.request_ids().received_crc(begin), ..target };
        of_its_kind!(self, machine => machine.install(target, log_durable))?;
        self.request_ids().install(begin);
        self.request_ids().remove_before(self.durable().as_ref());
        Ok(())
    }
}

impl Images {
    /// How many there are.
    pub fn count(&self) -> usize {
        match self {
            Images::Slots(images) => images.len(),
            Images::Keys(images) => images.len(),
        }
    }

    /// The highest log index among them; 0 if there are none.
    pub fn highest_index(&self) -> u64 {
        match self {
            Images::Slots(images) => {
                images.iter().map(|image| image.index.get()).max().unwrap_or(0)
            }
            Images::Keys(images) => images.iter().map(|image| image.index).max().unwrap_or(0),
        }
    }
}

fn other_kind(expected: &str, actual: &str) -> Error {
    Error::Mismatch {
        path: "a snapshot".into(),
        field: "machine",
        expected: expected.into(),
        actual: actual.into(),
    }
}

/// Refuses a value that is longer than any may be, and a message that cannot be.
fn check_operation(
    operation: &Operation<'_>,
    bytes_max: u64,
    holder: Holder,
) -> std::result::Result<(), Refusal> {
    if let Action::Publish { message } = operation.action {
        return check_message(operation.key, message);
    }
    let bytes = operation.action.value_bytes_min();
    if bytes > bytes_max { Err(Refusal::TooLarge { bytes, bytes_max, holder }) } else { Ok(()) }
}
