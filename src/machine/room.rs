//! What a machine has room for, in memory and on the disk, and how room is made.
//!
//! Called by the applier, upkeep and whoever proposes; calls `storage`.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use diskstore_storage::Result;

use super::{LogDurable, Machine};
use crate::command::{Command, Failure};

impl Machine {
    /// Why such a command is not proposed now, however right it is. `damaged` takes slots that were
    /// found damaged: handed on from one command to the next, it saves their being read again.
    pub fn refusal(&self, command: &Command, damaged: &mut BTreeSet<u64>) -> Option<Failure> {
        match self {
            Machine::Slots(disk) => disk.refusal(command, damaged),
            Machine::Memory(memory) => memory.refusal(command),
            Machine::Journal(_) => None,
        }
    }

    /// False if [`Machine::refusal`] has nothing to say of any command: costs a look at memory.
    pub fn may_refuse(&self) -> bool {
        match self {
            Machine::Slots(disk) => disk.slots().over_budget() || disk.slots().may_be_damaged(),
            Machine::Memory(memory) => memory.keys().is_full(),
            Machine::Journal(_) => false,
        }
    }

    /// True if applying has to wait until [`Machine::make_room`] has made room.
    pub fn over_budget(&self) -> bool {
        match self {
            Machine::Slots(disk) => disk.slots().over_budget(),
            Machine::Memory(_) | Machine::Journal(_) => false,
        }
    }

    /// True if it soon will be: [`Machine::drop_clean`] may help, and a checkpoint hurries.
    pub fn is_near_budget(&self) -> bool {
        match self {
            Machine::Slots(disk) => disk.slots().is_near_budget(),
            Machine::Memory(_) | Machine::Journal(_) => false,
        }
    }

    /// True if keys and values take as much memory as they may: what takes more is refused.
    pub fn is_full(&self) -> bool {
        match self {
            Machine::Memory(memory) => memory.keys().is_full(),
            Machine::Slots(_) | Machine::Journal(_) => false,
        }
    }

    /// True if a checkpoint would make room in memory that is full: deleted keys are forgotten by
    /// it.
    pub fn is_full_of_deleted(&self) -> bool {
        match self {
            Machine::Memory(memory) => memory.keys().is_full_of_deleted(),
            Machine::Slots(_) | Machine::Journal(_) => false,
        }
    }

    /// Fails with `NoSpace` if [`Machine::install`] would find no room on the disk.
    ///
    /// # Errors
    /// Of the disk.
    pub fn check_install_room(&self) -> Result<()> {
        match self {
            Machine::Memory(memory) => memory.keys().check_room(),
            Machine::Slots(_) | Machine::Journal(_) => Ok(()), // written in place; appended
        }
    }

    /// Drops what memory needs not hold, near the budget; writes nothing. Blocks, for moments.
    ///
    /// # Errors
    /// The system refuses.
    pub fn drop_clean(&self) -> Result<()> {
        match self {
            Machine::Slots(disk) => disk.slots().drop_clean(),
            Machine::Memory(_) | Machine::Journal(_) => Ok(()),
        }
    }

    /// Returns once applying needs not wait for memory: drops what is clean, and where that is not
    /// enough writes some of what changed, beside a checkpoint that may be running. Blocks.
    ///
    /// # Errors
    /// As [`Machine::checkpoint`].
    pub fn make_room(&self, log_durable: LogDurable<'_>) -> Result<()> {
        match self {
            Machine::Slots(disk) => disk.slots().make_room(log_durable),
            Machine::Memory(_) | Machine::Journal(_) => Ok(()),
        }
    }

    /// Writes back what changed, where that makes room in memory; the checkpoint stays where it is.
    ///
    /// # Errors
    /// As [`Machine::checkpoint`].
    pub fn write_back(&self, log_durable: LogDurable<'_>) -> Result<()> {
        match self {
            Machine::Slots(disk) => {
                disk.slots().write_back(log_durable, &AtomicBool::new(false)).map(|_| ())
            }
            Machine::Memory(_) | Machine::Journal(_) => Ok(()),
        }
    }
}
