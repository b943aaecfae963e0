//! What the log is applied to. Calls `storage`; knows neither Raft nor sockets.
//!
//! [`Machine`] is all that Raft and the node know of it: one enum, so that neither needs a type
//! parameter and applying an entry is a jump and not a call through a table. Each kind has a file of
//! its own; what only one of them has, the others answer with nothing.

mod disk;
mod effect;
mod group;
mod journal;
mod memory;
mod reply;
mod room;

use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use diskstore_storage::identity::MachineKind;
use diskstore_storage::keys::{self, KeyImage};
use diskstore_storage::slots::SlotImage;
use diskstore_storage::state::{Checkpointed, Target, Versioned};
use diskstore_storage::{Error, Result};

pub use disk::{ApplyError, DamageMet, DiskMachine};
pub use journal::{JOURNAL_FILE, JournalError, JournalMachine, JournalOptions};
pub use memory::MemoryMachine;

use crate::command::{Action, Command, Failure, Holder, Refusal, Reply};

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
    #[expect(dead_code, reason = "it ends with the sending")]
    held: Option<keys::Sending>,
}

/// Applying, reading, and what is asked for each of them.
impl Machine {
    /// What it is.
    pub fn kind(&self) -> MachineKind {
        match self {
            Machine::Slots(_) => MachineKind::Slots,
            Machine::Memory(_) => MachineKind::Memory,
            Machine::Journal(_) => MachineKind::Journal,
        }
    }

    /// The limits of keys and values.
    pub fn limits(&self) -> Limits {
        match self {
            Machine::Slots(disk) => disk.limits(),
            Machine::Memory(memory) => memory.limits(),
            Machine::Journal(journal) => journal.limits(),
        }
    }

    /// Applies the command of log entry `index`. Entries come in the order of the log, one at a
    /// time; one that was applied before changes nothing.
    ///
    /// # Errors
    /// Damage of the command's own slots: all else of it is done, and the node goes on. The others
    /// only for a sick node. A command that is refused has a reply.
    pub fn apply(&self, index: u64, command: &Command) -> std::result::Result<Reply, ApplyError> {
        match self {
            Machine::Slots(disk) => disk.apply(index, command),
            Machine::Memory(memory) => Ok(memory.apply(index, command)),
            Machine::Journal(journal) => journal.apply(index, command),
        }
    }

    /// A batch of entries was applied: whoever reads along may see it.
    ///
    /// # Errors
    /// Only for a sick node.
    pub fn hand_on(&self) -> std::result::Result<(), ApplyError> {
        match self {
            Machine::Slots(_) | Machine::Memory(_) => Ok(()),
            Machine::Journal(journal) => journal.hand_on(),
        }
    }

    /// Reads what a command of nothing but reads asks for, at one moment.
    ///
    /// # Errors
    /// The content cannot be read.
    pub fn read(&self, command: &Command) -> std::result::Result<Reply, Failure> {
        match self {
            Machine::Slots(disk) => disk.read(command),
            Machine::Memory(memory) => Ok(memory.read(command)),
            Machine::Journal(_) => Err(Failure::Refused(Refusal::Logger)),
        }
    }

    /// Checks what can be said of a command without looking at content: a command that is refused
    /// here never becomes a log entry.
    ///
    /// # Errors
    /// A key or a value that cannot be.
    pub fn check(&self, command: &Command) -> std::result::Result<(), Refusal> {
        match self {
            Machine::Slots(disk) => disk.check(command),
            Machine::Memory(memory) => memory.check(command),
            Machine::Journal(_) => Err(Refusal::Logger),
        }
    }

    /// Has memory ready for what a command writes, so that applying it takes no page fault.
    pub fn populate(&self, command: &Command) {
        match self {
            Machine::Slots(disk) => disk.populate(command),
            Machine::Memory(_) | Machine::Journal(_) => {}
        }
    }

    /// Asks the disk for what a command changes, before it is applied.
    pub fn prefetch(&self, command: &Command) {
        match self {
            Machine::Slots(disk) => disk.prefetch(command),
            Machine::Memory(_) | Machine::Journal(_) => {}
        }
    }

    /// So many entries are about to be applied: has the disk read what they may need, where reading
    /// everything in order beats reading what they name as they come. Blocks, until `is_done` too.
    pub fn read_ahead(&self, entry_count: u64, is_done: &dyn Fn() -> bool) {
        match self {
            Machine::Slots(disk) => disk.read_ahead(entry_count, is_done),
            Machine::Memory(_) | Machine::Journal(_) => {}
        }
    }

    /// What a key holds now, for the application log; `None` where that cannot be said.
    pub fn slot(&self, key: &[u8]) -> Option<Versioned> {
        match self {
            Machine::Slots(disk) => disk.slot(key),
            Machine::Memory(memory) => Some(memory.keys().read(key)),
            Machine::Journal(journal) => journal.slot(key),
        }
    }

    /// The entry that may have deleted what a read found to be absent, where its version does not
    /// say: whoever needs that to be durable waits for it.
    pub fn absent_since(&self) -> u64 {
        match self {
            Machine::Slots(_) | Machine::Journal(_) => 0,
            Machine::Memory(memory) => memory.keys().highest_index(),
        }
    }

    /// True if applying touches neither the disk nor a memory budget, so that it may happen on the
    /// thread that runs Raft.
    pub fn never_waits(&self) -> bool {
        match self {
            Machine::Slots(disk) => {
                disk.slots().fits_in_budget() && disk.slots().live_count().is_some()
            }
            Machine::Memory(_) => true,
            Machine::Journal(_) => false,
        }
    }

    /// True if nothing but a page that is read for the first time can make applying wait.
    pub fn fits_in_memory(&self) -> bool {
        match self {
            Machine::Slots(disk) => disk.slots().fits_in_budget(),
            Machine::Memory(_) | Machine::Journal(_) => false,
        }
    }
}

/// What it holds, for people and upkeep.
impl Machine {
    /// How many keys hold a value; `None` while they are not counted.
    pub fn live_count(&self) -> Option<u64> {
        match self {
            Machine::Slots(disk) => disk.slots().live_count(),
            Machine::Memory(memory) => Some(memory.keys().live_count()),
            Machine::Journal(journal) => Some(journal.live_count()),
        }
    }

    /// At most `count` keys that hold a value, from position `from` on, and where to go on. Looks
    /// at a bounded number of places. Damaged slots are left out.
    ///
    /// # Errors
    /// It has no keys to read.
    pub fn live_keys(
        &self,
        from: u64,
        count: usize,
    ) -> std::result::Result<(Vec<Bytes>, Option<u64>), Failure> {
        match self {
            Machine::Slots(disk) => Ok(disk.live_keys(from, count)),
            Machine::Memory(memory) => {
                let page = memory.keys().live_keys(from, count);
                Ok((page.found, page.next))
            }
            Machine::Journal(_) => Err(Failure::Refused(Refusal::Logger)),
        }
    }

    /// Reads a bounded number of places from `from` on, so that live keys are counted and damaged
    /// ones are known. Returns where to go on.
    pub fn learn(&self, from: u64) -> Option<u64> {
        match self {
            Machine::Slots(disk) => disk.learn(from),
            Machine::Memory(_) | Machine::Journal(_) => None,
        }
    }

    /// Slots that were found damaged since the start and still are. Reads them again.
    pub fn damaged_slots(&self) -> Vec<u64> {
        match self {
            Machine::Slots(disk) => disk.slots().damaged_slots(),
            Machine::Memory(_) | Machine::Journal(_) => Vec::new(),
        }
    }

    /// Those of them that this did not give before.
    pub fn newly_damaged(&self) -> Vec<u64> {
        match self {
            Machine::Slots(disk) => disk.slots().newly_damaged(),
            Machine::Memory(_) | Machine::Journal(_) => Vec::new(),
        }
    }

    /// Bytes that all content takes on the disk: what a checkpoint or a snapshot costs at most.
    pub fn data_bytes(&self) -> u64 {
        match self {
            Machine::Slots(disk) => disk.slots().geometry().file_bytes(),
            Machine::Memory(memory) => memory.keys().memory_bytes(),
            Machine::Journal(journal) => journal.dirty_bytes(),
        }
    }

    /// Pages that checkpoints have written since the start.
    pub fn written_pages(&self) -> u64 {
        match self {
            Machine::Slots(disk) => disk.slots().written_pages(),
            Machine::Memory(memory) => memory.keys().written_pages(),
            Machine::Journal(_) => 0,
        }
    }

    /// Bytes that changed since they were last written to the disk.
    pub fn dirty_bytes(&self) -> u64 {
        match self {
            Machine::Slots(disk) => disk.dirty_bytes(),
            Machine::Memory(memory) => memory.keys().dirty_bytes(),
            Machine::Journal(journal) => journal.dirty_bytes(),
        }
    }
}

/// Checkpoints.
impl Machine {
    /// The newest checkpoint that survives power loss; `None` before the first.
    pub fn durable(&self) -> Option<Target> {
        match self {
            Machine::Slots(disk) => disk.durable(),
            Machine::Memory(memory) => memory.keys().durable(),
            Machine::Journal(journal) => journal.durable(),
        }
    }

    /// How many steps a checkpoint would take now, at least.
    pub fn checkpoint_steps(&self) -> u64 {
        match self {
            Machine::Slots(disk) => disk.checkpoint_steps(),
            Machine::Memory(memory) => memory.keys().checkpoint_pieces(),
            Machine::Journal(_) => 0,
        }
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
        match self {
            Machine::Slots(disk) => disk.slots().checkpoint(target, log_durable, cancel),
            Machine::Memory(memory) => memory.keys().checkpoint(target, log_durable, cancel),
            Machine::Journal(journal) => {
                journal.checkpoint(target, log_durable).map(|()| Checkpointed::default())
            }
        }
    }
}

/// Snapshots, sent and received.
impl Machine {
    /// The content is a state that ever was once every entry up to here is applied.
    pub fn readable_from(&self) -> u64 {
        match self {
            Machine::Slots(disk) => disk.slots().readable_from(),
            Machine::Memory(memory) => memory.keys().readable_from(),
            Machine::Journal(journal) => journal.readable_from(),
        }
    }

    /// Raises [`Machine::readable_from`]. Durable before anything merged later is.
    ///
    /// # Errors
    /// Of the disk.
    pub fn set_readable_from(&self, index: u64) -> Result<()> {
        match self {
            Machine::Slots(disk) => disk.slots().set_readable_from(index),
            Machine::Memory(memory) => {
                memory.keys().set_readable_from(index);
                Ok(())
            }
            Machine::Journal(journal) => {
                journal.set_readable_from(index);
                Ok(())
            }
        }
    }

    /// Something is to be sent, until what this returns is dropped.
    pub fn begin_send(&self) -> Sending {
        match self {
            Machine::Slots(_) => Sending { horizon: 0, held: None },
            Machine::Memory(memory) => {
                let held = memory.keys().begin_send();
                Sending { horizon: held.horizon, held: Some(held) }
            }
            Machine::Journal(_) => Sending { horizon: u64::MAX, held: None },
        }
    }

    /// A snapshot from another member begins; returns the index after which it is to send what
    /// changed. `applied` is what this member has applied, `horizon` the sender's.
    pub fn begin_merge(&self, applied: u64, horizon: u64) -> u64 {
        match self {
            Machine::Slots(_) => applied,
            Machine::Memory(memory) => memory.keys().begin_merge(applied, horizon),
            Machine::Journal(journal) => journal.begin_merge(applied, horizon),
        }
    }

    /// All of the snapshot that began at index `begin` was merged; it is about to be installed.
    pub fn finish_merge(&self, begin: u64) {
        match self {
            Machine::Slots(_) => {}
            Machine::Memory(memory) => memory.keys().finish_merge(begin),
            Machine::Journal(journal) => journal.finish_merge(begin),
        }
    }

    /// Positions of [`Machine::scan`] are below this.
    pub fn scan_end(&self) -> u64 {
        match self {
            Machine::Slots(disk) => disk.slots().geometry().slot_count(),
            Machine::Memory(_) => u64::MAX,
            Machine::Journal(_) => 0,
        }
    }

    /// What changed after `changed_after`, from position `from` on, until values make `bytes_max`
    /// bytes or a bounded number of places was looked at; and where to go on.
    ///
    /// # Errors
    /// Something damaged: a snapshot is never finished over it.
    pub fn scan(
        &self,
        from: u64,
        changed_after: u64,
        bytes_max: usize,
    ) -> Result<(Images, Option<u64>)> {
        match self {
            Machine::Slots(disk) => disk.scan(from, changed_after, bytes_max),
            Machine::Memory(memory) => Ok(memory.scan(from, changed_after, bytes_max)),
            Machine::Journal(_) => Ok((Images::Slots(Vec::new()), None)),
        }
    }

    /// One slot as a snapshot carries it, for a receiver whose own is damaged.
    ///
    /// # Errors
    /// It is damaged here too.
    pub fn image(&self, slot: u64) -> Result<Images> {
        match self {
            Machine::Slots(disk) => {
                disk.slots().image(slot).map(|image| Images::Slots(vec![image]))
            }
            Machine::Memory(_) => Ok(Images::Keys(Vec::new())),
            Machine::Journal(_) => Ok(Images::Slots(Vec::new())),
        }
    }

    /// Merges what another member sent, each piece where it is newer than what is here.
    ///
    /// # Errors
    /// It does not fit this machine; some of it may have been merged.
    pub fn merge(&self, images: &Images) -> Result<()> {
        match (self, images) {
            (Machine::Slots(disk), Images::Slots(images)) => {
                images.iter().try_for_each(|image| disk.slots().merge(image).map(|_| ()))
            }
            (Machine::Memory(memory), Images::Keys(images)) => {
                images.iter().try_for_each(|image| memory.keys().merge(image))
            }
            (Machine::Journal(journal), Images::Slots(images)) => {
                images.iter().try_for_each(|SlotImage { key, index, value }| {
                    journal.merge_slot(*key, *index, value.as_deref())
                })
            }
            (Machine::Journal(journal), Images::Keys(images)) => {
                images.iter().try_for_each(|KeyImage { key, index, value }| {
                    journal.merge(key, *index, value.as_deref())
                })
            }
            (Machine::Slots(_), Images::Keys(_)) => Err(other_kind("Slots", "Memory")),
            (Machine::Memory(_), Images::Slots(_)) => Err(other_kind("Memory", "Slots")),
        }
    }

    /// Ends the merging of a snapshot that was taken from `target` on, and makes that the
    /// checkpoint. After `Ok` all of it survives power loss.
    ///
    /// # Errors
    /// As [`Machine::checkpoint`].
    pub fn install(&self, target: Target, log_durable: LogDurable<'_>) -> Result<()> {
        match self {
            Machine::Slots(disk) => disk.slots().install(target, log_durable).map(|_| ()),
            Machine::Memory(memory) => memory.keys().install(target, log_durable).map(|_| ()),
            Machine::Journal(journal) => journal.install(target, log_durable),
        }
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
            Images::Slots(images) => images.iter().map(|image| image.index).max().unwrap_or(0),
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

/// Refuses a value that is longer than any may be.
fn check_value(
    action: &Action<'_>,
    bytes_max: u64,
    holder: Holder,
) -> std::result::Result<(), Refusal> {
    let bytes = action.value_bytes_min();
    if bytes > bytes_max { Err(Refusal::TooLarge { bytes, bytes_max, holder }) } else { Ok(()) }
}
