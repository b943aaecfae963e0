//! The machine of the logger: records entries in an application log and serves no client. It keeps
//! no values in memory, only the place in the log's files of each key's last value. It needs that
//! value because an increment or a condition is recorded by its result.
//!
//! Called by the state machine (apply, merge, checkpoint); calls `oplog`. Invariants:
//!
//! - J1: records after the last checkpoint are cut off at a start, and are made again from Raft's
//!   own log. So a torn end is never read, and no entry is recorded twice.
//! - J2: the files are synced before `journal.dat` names their end, and `journal.dat` is synced
//!   before the log may be purged. So recording an entry needs no sync of its own.
//! - J3: a key is recorded only with a higher version than its last (the slot rule). So a slot that
//!   a snapshot brought before its entry is recorded once, and no older version follows it.
//! - J4: a key that a snapshot of everything does not name was deleted, and its delete is recorded.

mod any;
mod checkpoint;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use diskstore_storage::disk::{Disk, File};
use diskstore_storage::state::{Incoming, Target};
use diskstore_storage::{Error, LogIndex, Result, SlotIndex};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::effect::{Draft, brought, is_blind};
use super::{LogDurable, RequestIds};
use crate::command::{Operation, Outcome, slot_key};
use crate::oplog::{
    Effect, JOURNAL_FILE, KeyForm, Mark, OpLog, OpLogError, PartRecords, Parts, Place, Position,
    RecordKind,
};
use checkpoint::Checkpoint;

/// Bytes of [`JournalOptions::sync_bytes`] that disturb nobody else on the disk.
pub const SYNC_BYTES_DEFAULT: u64 = 1 << 20;

/// What a journal is opened with.
#[derive(Debug, Clone)]
pub struct JournalOptions {
    /// Directory of `journal.dat`.
    pub directory: PathBuf,
    /// Where the records go.
    pub parts: Parts,
    /// Bytes of one of their files.
    pub part_bytes_max: u64,
    /// So many recorded bytes, of keys and values, are synced on the way to the next checkpoint.
    pub sync_bytes: u64,
    /// The cluster.
    pub cluster_id: u128,
    /// Number of slots; 0 where keys are no slots.
    pub slot_count: u64,
    /// Most bytes of a value.
    pub value_bytes_max: u32,
}

/// Records what is applied.
#[derive(Debug, Clone)]
pub struct JournalMachine {
    shared: Arc<JournalShared>,
    request_ids: RequestIds,
}

#[derive(Debug)]
struct JournalShared {
    disk: Arc<dyn Disk>,
    options: JournalOptions,
    state: Mutex<JournalState>,
    /// What `journal.dat` says.
    durable: Mutex<Checkpoint>,
    /// Held while a checkpoint is written: who asks for the newest one waits for no disk.
    writing: Mutex<()>,
}

#[derive(Debug)]
struct JournalState {
    log: OpLog,
    keys: HashMap<Box<[u8]>, Held>,
    live_count: u64,
    readable_from: u64,
    /// The snapshot that is being received.
    incoming: Incoming,
    /// Bytes recorded since the last checkpoint.
    dirty_bytes: u64,
    /// Those of them that were synced on the way.
    synced_bytes: u64,
}

/// What is known of a key.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// Log index of its last set or delete.
    version: u64,
    /// Where its value lies; `None` if it was deleted.
    place: Option<Place>,
    /// The number of the last snapshot that held it.
    seen_in: u64,
}

impl JournalMachine {
    /// Opens a journal, or makes one where there is none.
    ///
    /// # Errors
    /// Files that are lost, damaged, or another's.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: JournalOptions,
    ) -> std::result::Result<JournalMachine, JournalError> {
        let found = Checkpoint::read(&*disk, &options.directory)?;
        let durable = match found {
            Some(checkpoint) => checkpoint,
            None => create(&*disk, &options)?,
        };
        if durable.cluster_id != options.cluster_id {
            return Err(JournalError::Storage(Error::Mismatch {
                path: options.directory.join(JOURNAL_FILE),
                field: "cluster",
                expected: format!("{:032x}", options.cluster_id),
                actual: format!("{:032x}", durable.cluster_id),
            }));
        }
        let (parts, form) = (options.parts.clone(), options.form());
        let mut log = OpLog::open_at(parts, form, options.part_bytes_max, durable.end)?;
        log.set_last_index(durable.last_index);
        let mut state = JournalState {
            log,
            keys: HashMap::new(),
            live_count: 0,
            readable_from: durable.readable_from,
            incoming: Incoming::default(),
            dirty_bytes: 0,
            synced_bytes: 0,
        };
        state.learn(&options)?;
        let (state, durable) = (Mutex::new(state), Mutex::new(durable));
        Ok(JournalMachine {
            shared: Arc::new(JournalShared {
                disk,
                options,
                state,
                durable,
                writing: Mutex::default(),
            }),
            request_ids: RequestIds::default(),
        })
    }

    /// What was found, for people.
    pub fn report(&self) -> String {
        let state = self.shared.state.lock();
        let Position { nth, offset } = state.log.position();
        let path = state.log.parts().path(nth);
        format!(
            "{} keys recorded up to index {}, in {} up to byte {offset}",
            state.live_count,
            state.log.last_index(),
            path.display()
        )
    }

    /// Records a slot or key as a snapshot brought it, if it is newer than what is known.
    ///
    /// # Errors
    /// It cannot be written.
    fn merge_value(&self, key: &[u8], index: u64, value: Option<&[u8]>) -> Result<()> {
        let state = &mut *self.shared.state.lock();
        let seen_in = state.incoming.number();
        if let Some(held) = state.keys.get_mut(key).filter(|held| held.version >= index) {
            held.seen_in = seen_in;
            return Ok(());
        }
        if index == 0 {
            return Ok(()); // no entry wrote this: there is nothing to bring
        }
        state.readable_from = state.readable_from.max(index);
        state.record_image(key, index, value)
    }

    /// As [`JournalMachine::merge_value`], for a slot.
    ///
    /// # Errors
    /// It cannot be written.
    fn merge_slot(&self, slot: SlotIndex, entry: LogIndex, value: Option<&[u8]>) -> Result<()> {
        self.merge_value(&slot_key(slot.get()), entry.get(), value)
    }

    /// Writes what was recorded, so that others can read it. A long run of it is synced, too, on the
    /// thread that applies, for which nobody waits: a checkpoint, or the system, would give the disk all
    /// of it at once, and whoever else uses the disk would wait for that.
    ///
    /// # Errors
    /// It cannot be written.
    fn hand_on_records(&self) -> std::result::Result<(), OpLogError> {
        let file = {
            let state = &mut *self.shared.state.lock();
            if state.dirty_bytes - state.synced_bytes < self.shared.options.sync_bytes {
                return state.log.hand_on();
            }
            state.synced_bytes = state.dirty_bytes;
            state.log.begin_sync()?
        };
        Ok(file.sync()?)
    }

    /// Makes what was recorded durable. Blocks. A later checkpoint stays.
    ///
    /// # Errors
    /// Of the disk or of `log_durable`.
    fn write_checkpoint(&self, target: Target, log_durable: LogDurable<'_>) -> Result<()> {
        let _writing = self.shared.writing.lock();
        let durable = self.shared.durable.lock().clone();
        if durable.target.as_ref().is_some_and(|durable| durable.log_id > target.log_id) {
            return Ok(());
        }
        let (file, checkpoint) = self.shared.state.lock().begin_checkpoint(&durable, target)?;
        log_durable()?;
        file.sync()?; // J2
        checkpoint.write(&*self.shared.disk, &self.shared.options.directory)?;
        *self.shared.durable.lock() = checkpoint;
        Ok(())
    }
}

/// Makes the first `journal.dat`, where no earlier journal has left records.
fn create(
    disk: &dyn Disk,
    options: &JournalOptions,
) -> std::result::Result<Checkpoint, JournalError> {
    if options.parts.has_bytes()? {
        return Err(OpLogError::Taken { path: options.parts.path(1) }.into());
    }
    let checkpoint = Checkpoint {
        cluster_id: options.cluster_id,
        end: Position { nth: 1, offset: 0 },
        last_index: 0,
        readable_from: 0,
        target: None,
    };
    checkpoint.write(disk, &options.directory)?;
    Ok(checkpoint)
}

impl JournalOptions {
    fn form(&self) -> KeyForm {
        if self.slot_count == 0 { KeyForm::Bytes } else { KeyForm::Slots }
    }

    /// False for a key that no machine of the cluster takes. Of slots there may have come to be more.
    fn knows(&self, key: &[u8]) -> bool {
        self.slot_count == 0 || crate::command::slot_of(key).is_some()
    }

    /// A record's key as commands have it.
    fn key_of(&self, text: &[u8]) -> Option<Box<[u8]>> {
        if self.slot_count == 0 {
            return Some(text.into());
        }
        let slot: u64 = str::from_utf8(text).ok()?.parse().ok()?;
        Some(slot_key(slot).as_slice().into())
    }
}

impl JournalState {
    /// Reads the files to learn where each key's last value lies.
    fn learn(&mut self, options: &JournalOptions) -> std::result::Result<(), JournalError> {
        let end = self.log.position();
        let mut records = PartRecords::open(&options.parts, 1)
            .map_err(|source| read_failed(&options.parts, source.into(), 1))?;
        loop {
            let nth = records.position().0;
            let found =
                records.next_record().map_err(|error| read_failed(&options.parts, error, nth))?;
            let Some(found) = found else { break };
            let record = found.record;
            let (bytes, kind) = (record.value.len(), record.kind);
            let key = options.key_of(record.key);
            let index = record.index;
            let is_effect =
                kind != RecordKind::Get && !matches!(record.mark, Mark::Gap | Mark::End);
            let (nth, offset) = records.position();
            if let Some(key) = key.filter(|_| is_effect) {
                let start = Position { nth, offset: offset - bytes as u64 };
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                let place = (kind == RecordKind::Set).then_some(Place { start, bytes });
                self.hold(key, index, place);
            }
        }
        let (nth, offset) = records.position();
        if (Position { nth, offset }) == end {
            return Ok(());
        }
        Err(OpLogError::Corrupt {
            path: options.parts.path(nth),
            offset,
            what: "half a record that was complete",
        }
        .into())
    }

    /// What a key holds before entry `index`; `None` if the entry does nothing to it any more.
    fn draft<'a>(
        &self,
        index: u64,
        operation: &Operation<'a>,
        options: &JournalOptions,
    ) -> std::result::Result<Option<Draft<'a>>, OpLogError> {
        if !options.knows(operation.key) {
            return Ok(None);
        }
        let Some(held) = self.keys.get(operation.key) else {
            return Ok(Some(Draft { version: 0, value: None, changed: false }));
        };
        if held.version >= index {
            return Ok(None); // J3
        }
        let value = match held.place {
            // Whether there is a value is all that it asks; later operations start from its own.
            Some(_) if is_blind(&operation.action) => Some(Cow::Borrowed(&[][..])),
            Some(place) => Some(Cow::Owned(self.log.value_at(place)?)),
            None => None,
        };
        // Where keys are no slots a replica may have forgotten that a deleted one ever was.
        let has_version = value.is_some() || options.slot_count > 0;
        let version = if has_version { held.version } else { 0 };
        Ok(Some(Draft { version, value, changed: false }))
    }

    fn record(
        &mut self,
        index: u64,
        effects: &[Effect<'_>],
    ) -> std::result::Result<(), OpLogError> {
        let mut places: SmallVec<[Place; 1]> = SmallVec::new();
        self.log.record_effects(index, effects, &mut |_, place| places.push(place))?;
        for (effect, place) in effects.iter().zip(places) {
            self.dirty_bytes += (effect.key.len() + effect.value.len()) as u64;
            if effect.kind != RecordKind::Get {
                self.hold(effect.key, index, (effect.kind == RecordKind::Set).then_some(place));
            }
        }
        Ok(())
    }

    fn record_image(&mut self, key: &[u8], index: u64, value: Option<&[u8]>) -> Result<()> {
        let kind = if value.is_some() { RecordKind::Set } else { RecordKind::Delete };
        let effect = Effect { kind, key, value: Cow::Borrowed(value.unwrap_or_default()) };
        let place = self.log.record_image(index, &effect).map_err(storage)?;
        self.dirty_bytes += (key.len() + effect.value.len()) as u64;
        self.hold(key, index, value.map(|_| place));
        Ok(())
    }

    fn hold(
        &mut self,
        key: impl AsRef<[u8]> + Into<Box<[u8]>>,
        version: u64,
        place: Option<Place>,
    ) {
        let held = Held { version, place, seen_in: self.incoming.number() };
        let mut before = None;
        if let Some(known) = self.keys.get_mut(key.as_ref()) {
            before = std::mem::replace(known, held).place;
        } else {
            self.keys.insert(key.into(), held);
        }
        self.live_count += u64::from(place.is_some());
        self.live_count -= u64::from(before.is_some());
    }

    /// Records as deleted every key that snapshot `number`, of everything up to `index`, did not
    /// hold.
    fn record_absent_as_deleted(&mut self, number: u64, index: u64) -> Result<()> {
        let is_gone =
            |held: &Held| held.place.is_some() && held.seen_in != number && held.version <= index;
        let gone: Vec<Box<[u8]>> = self
            .keys
            .iter()
            .filter(|(_, held)| is_gone(held))
            .map(|(key, _)| key.clone())
            .collect();
        gone.iter().try_for_each(|key| self.record_image(key, index, None))
    }

    /// What is to be durable, and the file to sync for that.
    fn begin_checkpoint(
        &mut self,
        durable: &Checkpoint,
        target: Target,
    ) -> Result<(Arc<dyn File>, Checkpoint)> {
        let file = self.log.begin_sync().map_err(storage)?;
        (self.dirty_bytes, self.synced_bytes) = (0, 0);
        let checkpoint = Checkpoint {
            cluster_id: durable.cluster_id,
            end: self.log.position(),
            last_index: self.log.last_index(),
            readable_from: self.readable_from,
            target: Some(target),
        };
        Ok((file, checkpoint))
    }
}

/// What an operation is recorded as, if it is at all.
fn effect_of<'a>(
    operation: &Operation<'a>,
    outcome: &Outcome,
    draft: &Draft<'a>,
) -> Option<Effect<'a>> {
    let key = operation.key;
    if operation.action.is_read() {
        return Some(Effect { kind: RecordKind::Get, key, value: Cow::Borrowed(&[]) });
    }
    outcome.changed.then(|| match &draft.value {
        Some(value) => {
            let value = brought(&operation.action).map_or_else(|| value.clone(), Cow::Borrowed);
            Effect { kind: RecordKind::Set, key, value }
        }
        None => Effect { kind: RecordKind::Delete, key, value: Cow::Borrowed(&[]) },
    })
}

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The files of the log.
    #[error(transparent)]
    Log(#[from] OpLogError),
    /// `journal.dat`.
    #[error(transparent)]
    Storage(#[from] Error),
}

fn read_failed(parts: &Parts, error: crate::oplog::ReadError, nth: u32) -> JournalError {
    use crate::oplog::ReadError;
    let path = parts.path(nth);
    JournalError::Log(match error {
        ReadError::Io(source) => OpLogError::Io { operation: "read", path, source },
        ReadError::Malformed { offset, what } => OpLogError::Corrupt { path, offset, what },
    })
}

/// The log's errors as those of `storage`, which checkpoints and merges give.
fn storage(error: OpLogError) -> Error {
    let (operation, path, source) = match error {
        OpLogError::Io { operation, path, source } => (operation, path, source),
        other => ("write", PathBuf::new(), std::io::Error::other(other)),
    };
    Error::Io { operation, path, offset: 0, source }
}

#[cfg(test)]
mod tests;
