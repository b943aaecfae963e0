//! Installs the records of a log into slots, by the slot rule.
//!
//! - I1: of several records of one entry on one slot the last counts: the records of an entry are
//!   installed backwards, for the slot rule passes over a slot that holds the entry.
//! - I2: entries that are not in the log are never passed over in silence.
//! - I3: every slot is one thread's, so the records of an entry on it stay in their order. Between
//!   entries order does not matter: the slot rule sees to that.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};

use diskstore_storage::slots::{Change, Slots};

use crate::oplog::{Found, Kind, LENGTH_BYTES, Mark, PartRecords, Parts, ReadError, Record};

/// Most bytes of one entry's records.
const ENTRY_BYTES_MAX: usize = 256 << 20;
/// Most threads that install; each reads the whole log, and takes the slots that are its own.
const THREAD_COUNT_MAX: u64 = 8;
/// Slots next to each other that are one thread's: several pages, so that no two want the same one.
const RUN_SLOTS: u64 = 64;
/// Records between two looks at memory and at whoever waits.
const LOOK_RECORDS: u64 = 4096;

/// Why a log cannot be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The log cannot be read.
    #[error("{path}: the log cannot be read at byte {offset}")]
    Read {
        /// The file.
        path: String,
        /// Where reading stopped.
        offset: u64,
        /// Why.
        source: ReadError,
    },
    /// The log lacks entries.
    #[error(
        "the log lacks entries up to {index}, which its node got by snapshot: recover from a \
         logger, or from a node that recorded all"
    )]
    Gap {
        /// The last entry that may be missing.
        index: u64,
    },
    /// A key that names no slot.
    #[error("entry {index} is on key `{key}`, and there are slots 0 to {}; see -slots", slot_count - 1)]
    Key {
        /// Log index.
        index: u64,
        /// The key.
        key: String,
        /// How many slots there are.
        slot_count: u64,
    },
    /// A value that no slot holds.
    #[error("entry {index} sets {bytes} bytes, and a slot holds {bytes_max}; see -value-size")]
    Value {
        /// Log index.
        index: u64,
        /// Length of the value.
        bytes: usize,
        /// Most bytes of a slot.
        bytes_max: u32,
    },
    /// An entry of more bytes than memory is taken for.
    #[error("entry {index} has more than {ENTRY_BYTES_MAX} bytes of records")]
    Entry {
        /// Log index.
        index: u64,
    },
    /// The slots cannot be written.
    #[error(transparent)]
    Slots(#[from] diskstore_storage::Error),
    /// Whoever started this wants it to end.
    #[error("interrupted")]
    Interrupted,
}

/// What was installed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Installed {
    /// Commands.
    pub commands: u64,
    /// Bytes of their records.
    pub bytes: u64,
    /// Highest log index.
    pub last_index: u64,
    /// Bytes of an unfinished entry at the end, which was left out.
    pub torn_bytes: u64,
}

/// Installs all records with indexes from `first` on.
///
/// # Errors
/// See [`InstallError`]; the slots are then good for nothing.
pub fn install(
    parts: &Parts,
    first: u64,
    slots: &Slots,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<Installed, InstallError> {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let count = u64::try_from(processors).unwrap_or(1).min(THREAD_COUNT_MAX);
    let failed = AtomicBool::new(false);
    let share = |nth, progress: &mut dyn FnMut(u64)| {
        let signals = [stop, &failed];
        let shared =
            install_share(parts, first, &mut Installer::new(slots, nth, count), signals, progress);
        failed.fetch_or(shared.is_err(), Ordering::Relaxed);
        shared
    };
    std::thread::scope(|scope| {
        let share_of = &share;
        let others: Vec<_> =
            (1..count).map(|nth| scope.spawn(move || share_of(nth, &mut |_| {}))).collect();
        let own = share(0, progress);
        for other in others {
            match other.join() {
                Ok(Err(InstallError::Interrupted) | Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        own
    })
}

/// Installs the slots of one thread.
fn install_share(
    parts: &Parts,
    first: u64,
    installer: &mut Installer<'_>,
    stop: [&AtomicBool; 2],
    progress: &mut dyn FnMut(u64),
) -> Result<Installed, InstallError> {
    let unread = |position: (u32, u64), source| InstallError::Read {
        path: parts.path(position.0).display().to_string(),
        offset: position.1,
        source,
    };
    let mut records =
        PartRecords::open(parts, 1).map_err(|error| unread((1, 0), ReadError::Io(error)))?;
    let mut count = 0_u64;
    loop {
        let position = records.position();
        let found = records.next_record().map_err(|source| unread(position, source))?;
        let Some(found) = found else { break };
        if found.record.index < first || found.record.mark == Mark::End {
            continue;
        }
        installer.take(&found)?;
        count += 1;
        if count.is_multiple_of(LOOK_RECORDS) {
            progress(installer.installed.bytes);
            if stop.iter().any(|stop| stop.load(Ordering::Relaxed)) {
                return Err(InstallError::Interrupted);
            }
            if installer.slots.over_budget() {
                installer.slots.write_back(&mut || Ok(()), &AtomicBool::new(false))?;
            }
        }
    }
    let torn = records.rest().len() + installer.entry.len();
    Ok(Installed { torn_bytes: torn as u64, ..installer.installed })
}

struct Installer<'a> {
    slots: &'a Slots,
    /// Which of how many threads it is for.
    share: (u64, u64),
    /// Records of an entry whose last one has not come, and where each of them ends.
    entry: Vec<u8>,
    ends: Vec<usize>,
    installed: Installed,
}

impl Installer<'_> {
    fn new(slots: &Slots, nth: u64, count: u64) -> Installer<'_> {
        let share = (nth, count);
        Installer {
            slots,
            share,
            entry: Vec::new(),
            ends: Vec::new(),
            installed: Installed::default(),
        }
    }

    fn take(&mut self, found: &Found<'_>) -> Result<(), InstallError> {
        let (index, mark) = (found.record.index, found.record.mark);
        if mark == Mark::Gap {
            return Err(InstallError::Gap { index }); // I2
        }
        if mark != Mark::More && self.entry.is_empty() {
            self.put(&found.record)?;
            self.count(index, 1, found.bytes.len());
            return Ok(());
        }
        if self.entry.len() + found.bytes.len() > ENTRY_BYTES_MAX {
            return Err(InstallError::Entry { index });
        }
        self.entry.extend_from_slice(found.bytes);
        self.ends.push(self.entry.len());
        if mark == Mark::More { Ok(()) } else { self.put_entry(index) }
    }

    fn count(&mut self, index: u64, commands: usize, bytes: usize) {
        self.installed.commands += commands as u64;
        self.installed.bytes += bytes as u64;
        self.installed.last_index = self.installed.last_index.max(index);
    }

    /// Installs the records of an entry, the last one first (I1).
    fn put_entry(&mut self, index: u64) -> Result<(), InstallError> {
        for nth in (0..self.ends.len()).rev() {
            let before = nth.checked_sub(1).and_then(|before| self.ends.get(before));
            let range = before.copied().unwrap_or(0)..self.ends.get(nth).copied().unwrap_or(0);
            let bytes = self.entry.get(range).unwrap_or_default();
            if let Some(record) = Record::decode(bytes.get(LENGTH_BYTES..).unwrap_or_default()) {
                self.put(&record)?;
            }
        }
        self.count(index, self.ends.len(), self.entry.len());
        self.entry.clear();
        self.ends.clear();
        Ok(())
    }

    fn put(&self, record: &Record<'_>) -> Result<(), InstallError> {
        let index = record.index;
        let change = match record.kind {
            Kind::Get => return Ok(()),
            Kind::Set => Change::Set(record.value.into()),
            Kind::Delete => Change::Delete,
        };
        let geometry = self.slots.geometry();
        let slot = slot_number(record.key).filter(|slot| *slot < geometry.slot_count());
        let slot = slot.ok_or_else(|| InstallError::Key {
            index,
            key: String::from_utf8_lossy(record.key).chars().take(64).collect(),
            slot_count: geometry.slot_count(),
        })?;
        let (bytes, bytes_max) = (record.value.len(), geometry.value_bytes());
        if bytes as u64 > u64::from(bytes_max) {
            return Err(InstallError::Value { index, bytes, bytes_max });
        }
        let (nth, count) = self.share;
        if slot / RUN_SLOTS % count != nth {
            return Ok(()); // I3
        }
        self.slots.lock(std::iter::once(slot)).apply(slot, index.max(1), |_| change)?;
        Ok(())
    }
}

fn slot_number(key: &[u8]) -> Option<u64> {
    let digit = |number: u64, byte: &u8| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    };
    if key.is_empty() { None } else { key.iter().try_fold(0, digit) }
}
