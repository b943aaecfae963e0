//! The differences between the programs of a node, `diskstore`, `kvstore` and `logger`: one row for
//! each kind of machine. Code that would ask for the kind asks its row instead; only the code that
//! makes the machine matches on the kind.

use diskstore_storage::identity::MachineKind;
use diskstore_storage::keys::SNAPSHOT_FILE;
use diskstore_storage::slots::SLOTS_FILE;

use super::{KEY_VALUE_BYTES_DEFAULT, MIB, SLOT_COUNT_DEFAULT, VALUE_BYTES_DEFAULT};
use crate::oplog::{JOURNAL_FILE, KeyForm};

/// A row: the program that runs such a machine.
#[derive(Debug)]
pub struct KindRow {
    /// As it calls itself.
    pub program: &'static str,
    /// What its machine holds, for people.
    pub content: &'static str,
    /// File of its directory without which a member's state is gone.
    pub data_file: &'static str,
    /// True if it holds values and answers for them. One that does not records what others hold: it
    /// never votes, joins a cluster of any kind, and listens for clients only when asked to.
    pub holds_values: bool,
    /// Slots of a new cluster unless told otherwise; `None` if it has no slots.
    pub slot_count_default: Option<u64>,
    /// The flag that says how long values may be, with its dash.
    pub value_flag: &'static str,
    /// Most bytes of a value in a new cluster unless told otherwise.
    pub value_bytes_default: u32,
    /// Least bytes of log between two checkpoints unless told otherwise.
    pub checkpoint_bytes_min: u64,
    /// How keys stand in its application log; `None` if its records are its state.
    pub key_form: Option<KeyForm>,
    /// Flags of the other programs that it refuses, without their dash, and what to give instead.
    pub foreign_flags: &'static [ForeignFlag],
}

/// A flag that another program has.
#[derive(Debug)]
pub struct ForeignFlag {
    /// Its name, without the dash.
    pub flag: &'static str,
    /// Why there is no such flag here, or what to give.
    pub reason: &'static str,
}

/// Where a checkpoint writes content: less would have little data written over and over, and a start
/// after a crash reads so much log in half a second.
const CONTENT_CHECKPOINT_BYTES_MIN: u64 = 256 * MIB;

const NO_VALUE_MAX: ForeignFlag = ForeignFlag { flag: "value-max", reason: "give -value-size" };

static SLOTS: KindRow = KindRow {
    program: "diskstore",
    content: "slots (program diskstore)",
    data_file: SLOTS_FILE,
    holds_values: true,
    slot_count_default: Some(SLOT_COUNT_DEFAULT),
    value_flag: "-value-size",
    value_bytes_default: VALUE_BYTES_DEFAULT,
    checkpoint_bytes_min: CONTENT_CHECKPOINT_BYTES_MIN,
    key_form: Some(KeyForm::Slots),
    foreign_flags: &[NO_VALUE_MAX],
};

static MEMORY: KindRow = KindRow {
    program: "kvstore",
    content: "keys in memory (program kvstore)",
    data_file: SNAPSHOT_FILE,
    holds_values: true,
    slot_count_default: None,
    value_flag: "-value-max",
    value_bytes_default: KEY_VALUE_BYTES_DEFAULT,
    checkpoint_bytes_min: CONTENT_CHECKPOINT_BYTES_MIN,
    key_form: Some(KeyForm::Bytes),
    foreign_flags: &[
        ForeignFlag {
            flag: "slots",
            reason: "any bytes are a key, and there may be as many as fit in -memory-mib",
        },
        ForeignFlag { flag: "value-size", reason: "give -value-max" },
        ForeignFlag { flag: "key-prefixes", reason: "any bytes are a key, with their prefix" },
    ],
};

static JOURNAL: KindRow = KindRow {
    program: "logger",
    content: "a log only (program logger)",
    data_file: JOURNAL_FILE,
    holds_values: false,
    slot_count_default: None,
    value_flag: "-value-size",
    value_bytes_default: VALUE_BYTES_DEFAULT,
    checkpoint_bytes_min: 64 * MIB, // it writes a few bytes, and frees log
    key_form: None,
    foreign_flags: &[NO_VALUE_MAX],
};

/// The row of a kind.
pub fn row(machine: MachineKind) -> &'static KindRow {
    match machine {
        MachineKind::Slots => &SLOTS,
        MachineKind::Memory => &MEMORY,
        MachineKind::Journal => &JOURNAL,
    }
}

/// What a cluster of so many slots has its log applied to by those that hold its values.
pub fn kind_of(slot_count: u64) -> MachineKind {
    if slot_count == 0 { MachineKind::Memory } else { MachineKind::Slots }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Settings;
    use crate::config::Config;

    #[test]
    fn no_program_refuses_the_flag_that_it_names_for_values() {
        for machine in MachineKind::ALL {
            Config::new(machine, Settings::default()).unwrap(); // looks at every foreign flag
            let KindRow { value_flag, foreign_flags, .. } = row(machine);
            let is_refused =
                |foreign: &ForeignFlag| foreign.flag == value_flag.trim_start_matches('-');
            assert!(!foreign_flags.iter().any(is_refused), "{machine:?}: {value_flag}");
        }
    }
}
