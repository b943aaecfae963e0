//! Installs the records of a log into slots or keys, by the slot rule.
//!
//! - I1: of several records of one entry on one slot the last counts. So the records of an entry
//!   are installed backwards: after the first one the slot rule skips the others.
//! - I2: entries that are missing in the log are always reported.
//! - I3: one thread installs all of an entry, so its records stay in their order. The slot rule
//!   makes the order of entries irrelevant.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};

use diskstore_storage::keys::KEY_BYTES_MAX;
use parking_lot::Mutex;

use super::store::Store;
use crate::oplog::{Found, LENGTH_BYTES, Mark, PartRecords, Parts, ReadError, Record};

/// Most bytes of one entry's records.
const ENTRY_BYTES_MAX: usize = 256 << 20;
/// Most threads that install; they take batches of the log in turn.
const THREAD_COUNT_MAX: usize = 8;
/// Bytes of a batch, which its last entry may exceed: little enough to stay in a processor's cache.
const BATCH_BYTES: usize = 256 << 10;

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
    #[error("entry {index} is on key `{key}`, and there are slots 0 to {}; see -slots, or -program", slot_count - 1)]
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
    /// A key longer than keys may be.
    #[error("entry {index} is on a key of {bytes} bytes; one has at most {KEY_BYTES_MAX}")]
    LongKey {
        /// Log index.
        index: u64,
        /// Its length.
        bytes: usize,
    },
    /// More keys than memory is taken for.
    #[error("at entry {index} the keys take {bytes} bytes of memory; more are not installed")]
    Memory {
        /// Log index.
        index: u64,
        /// What they take.
        bytes: u64,
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
    store: &Store,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<Installed, InstallError> {
    let source = Mutex::new(Source::open(parts, first)?);
    let failed = AtomicBool::new(false);
    let share = |progress: &mut dyn FnMut(u64)| {
        let shared = install_share(&source, store, [stop, &failed], progress);
        failed.fetch_or(shared.is_err(), Ordering::Relaxed);
        shared
    };
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        let share_of = &share;
        let others = 1..processors.min(THREAD_COUNT_MAX);
        let others: Vec<_> = others.map(|_| scope.spawn(move || share_of(&mut |_| {}))).collect();
        let mut outcome = share(progress);
        for other in others {
            match other.join() {
                Ok(Ok(()) | Err(InstallError::Interrupted)) => {}
                Ok(Err(error)) => outcome = Err(error),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        outcome
    })?;
    Ok(source.into_inner().installed)
}

/// Installs batches until there are no more.
fn install_share(
    source: &Mutex<Source<'_>>,
    store: &Store,
    stop: [&AtomicBool; 2],
    progress: &mut dyn FnMut(u64),
) -> Result<(), InstallError> {
    let mut batch = Batch::default();
    loop {
        let bytes = {
            let mut source = source.lock();
            source.take(&mut batch)?;
            source.installed.bytes
        };
        if batch.ends.is_empty() {
            return Ok(());
        }
        put_batch(store, &batch)?;
        progress(bytes);
        if stop.iter().any(|stop| stop.load(Ordering::Relaxed)) {
            return Err(InstallError::Interrupted);
        }
        store.relieve()?;
    }
}

/// The records of whole entries, one after the other, and where each ends.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Batch {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    fn record(&self, nth: usize) -> Option<Record<'_>> {
        let before = nth.checked_sub(1).and_then(|before| self.ends.get(before));
        let start = before.copied().unwrap_or(0) + LENGTH_BYTES;
        Record::decode(self.bytes.get(start..*self.ends.get(nth)?)?)
    }
}

/// The records of a log, handed out in batches of whole entries.
struct Source<'a> {
    parts: &'a Parts,
    records: PartRecords,
    first: u64,
    /// What was handed out.
    installed: Installed,
}

impl Source<'_> {
    fn open(parts: &Parts, first: u64) -> Result<Source<'_>, InstallError> {
        let unread = |error| unread(parts, 1, 0, ReadError::Io(error));
        let records = PartRecords::open(parts, 1).map_err(unread)?;
        Ok(Source { parts, records, first, installed: Installed::default() })
    }

    /// Fills a batch; at the end of the log it stays empty.
    fn take(&mut self, batch: &mut Batch) -> Result<(), InstallError> {
        batch.clear();
        let (mut whole_bytes, mut whole_count) = (0, 0);
        while whole_bytes < BATCH_BYTES {
            let (nth, offset) = self.records.position();
            let found = self.records.next_record();
            let found = found.map_err(|source| unread(self.parts, nth, offset, source))?;
            let Some(Found { record, bytes }) = found else {
                let torn_bytes = batch.bytes.len() - whole_bytes;
                batch.ends.truncate(whole_count);
                let torn_bytes = (self.records.rest().len() + torn_bytes) as u64;
                // Every thread comes here once, the first one with the unfinished entry.
                self.installed.torn_bytes = self.installed.torn_bytes.max(torn_bytes);
                return Ok(());
            };
            let index = record.index;
            if index < self.first || record.mark == Mark::End {
                continue;
            }
            if record.mark == Mark::Gap {
                return Err(InstallError::Gap { index }); // I2
            }
            batch.bytes.extend_from_slice(bytes);
            batch.ends.push(batch.bytes.len());
            let entry_bytes = batch.bytes.len() - whole_bytes;
            if record.mark != Mark::More {
                self.installed.commands += (batch.ends.len() - whole_count) as u64;
                self.installed.bytes += entry_bytes as u64;
                self.installed.last_index = self.installed.last_index.max(index);
                (whole_bytes, whole_count) = (batch.bytes.len(), batch.ends.len());
            } else if entry_bytes > ENTRY_BYTES_MAX {
                return Err(InstallError::Entry { index });
            }
        }
        Ok(())
    }
}

fn unread(parts: &Parts, nth: u32, offset: u64, source: ReadError) -> InstallError {
    InstallError::Read { path: parts.path(nth).display().to_string(), offset, source }
}

/// Installs whole entries, the last record of each first (I1).
fn put_batch(store: &Store, batch: &Batch) -> Result<(), InstallError> {
    let mut begin = 0;
    for nth in 0..batch.ends.len() {
        let Some(record) = batch.record(nth) else { continue };
        if record.mark == Mark::More {
            continue;
        }
        store.put(&record)?;
        for before in (begin..nth).rev() {
            batch.record(before).map_or(Ok(()), |record| store.put(&record))?;
        }
        begin = nth + 1;
    }
    Ok(())
}
