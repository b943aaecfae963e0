//! How much space a machine has left, in memory and on the disk, and which commands it refuses for
//! want of space. The memory budget of pages is in `paged.rs`.
//!
//! Called by upkeep, and before commands are proposed.

use std::collections::BTreeSet;

use diskstore_storage::Result;

use super::any::AnyMachine;
use super::{Machine, of_its_kind};
use crate::command::{Command, Failure};

/// How full the memory is that keys and values may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fullness {
    /// There is space left, or no such bound.
    HasSpace,
    /// There is none left, and what takes more is refused.
    Full,
    /// There is none left, but a checkpoint would free some: it forgets deleted keys.
    FullOfDeleted,
}

impl Fullness {
    /// True if there is no space left.
    pub fn is_full(self) -> bool {
        match self {
            Fullness::HasSpace => false,
            Fullness::Full | Fullness::FullOfDeleted => true,
        }
    }
}

impl Machine {
    /// Why such a command is not proposed now, however right it is. `damaged` takes slots that were
    /// found damaged: handed on from one command to the next, it saves their being read again.
    pub fn refusal(&self, command: &Command, damaged: &mut BTreeSet<u64>) -> Option<Failure> {
        of_its_kind!(self, machine => machine.refusal(command, damaged))
    }

    /// False if [`Machine::refusal`] has nothing to say of any command: costs a look at memory.
    pub fn may_refuse(&self) -> bool {
        of_its_kind!(self, machine => machine.may_refuse())
    }

    /// Whether keys and values take as much memory as they may.
    pub fn fullness(&self) -> Fullness {
        of_its_kind!(self, machine => machine.fullness())
    }

    /// Fails with `NoSpace` if the disk lacks the space that [`Machine::install`] needs.
    ///
    /// # Errors
    /// Of the disk.
    pub fn check_install_space(&self) -> Result<()> {
        of_its_kind!(self, machine => machine.check_install_space())
    }
}
