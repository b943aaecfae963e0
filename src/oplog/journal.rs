//! The calls that only a logger's journal needs of its log, and `-logfolder` does not: to go on at
//! a noted place, to record slots that a snapshot brought, and to read values back.

use std::io;
use std::sync::Arc;

use diskstore_storage::disk::File;

use super::record::{Mark, Record, RecordKind};
use super::{BUFFER_BYTES_MAX, Effect, KeyForm, OpLog, OpLogError, Parts, Place, Position, lock};

impl OpLog {
    /// Goes on at a place that is known to be durable; what lies behind it is cut off.
    ///
    /// # Errors
    /// Less is there than was durable; the operating system refuses.
    pub fn open_at(
        parts: Parts,
        form: KeyForm,
        part_bytes_max: u64,
        end: Position,
    ) -> Result<OpLog, OpLogError> {
        let lock = lock(&parts)?;
        let count = parts.count()?;
        let path = parts.path(end.nth);
        let length = if count < end.nth { 0 } else { parts.open(end.nth)?.len()? };
        if count < end.nth || length < end.offset {
            return Err(OpLogError::Lost { path, offset: end.offset });
        }
        for nth in (end.nth + 1..=count).rev() {
            parts.disk().remove(&parts.path(nth))?;
        }
        let mut log = OpLog::go_on(parts, end.nth, end.offset, part_bytes_max, lock)?;
        log.form = form;
        Ok(log)
    }

    /// Where the next record goes.
    pub fn position(&self) -> Position {
        Position { nth: self.nth, offset: self.bytes }
    }

    /// Entries up to this index are recorded, or need not be.
    pub fn set_last_index(&mut self, index: u64) {
        self.last_index = index;
    }

    /// Records what entry `index` did; `placed` hears where the value of each effect lies.
    ///
    /// # Errors
    /// A write that failed, now or before.
    pub fn record_effects(
        &mut self,
        index: u64,
        effects: &[Effect<'_>],
        placed: &mut dyn FnMut(&Effect<'_>, Place),
    ) -> Result<(), OpLogError> {
        self.roll_if_full()?;
        for (nth, effect) in effects.iter().enumerate() {
            let mark = if nth + 1 < effects.len() { Mark::More } else { Mark::None };
            let place = self.put_effect(index, mark, effect);
            placed(effect, place);
        }
        self.last_index = index;
        if self.buffer.len() >= BUFFER_BYTES_MAX { self.write() } else { Ok(()) }
    }

    /// Records a slot as a snapshot brought it.
    ///
    /// # Errors
    /// A write that failed, now or before.
    pub fn record_image(&mut self, index: u64, effect: &Effect<'_>) -> Result<Place, OpLogError> {
        self.roll_if_full()?;
        let place = self.put_effect(index, Mark::Image, effect);
        if self.buffer.len() >= BUFFER_BYTES_MAX {
            self.write()?;
        }
        Ok(place)
    }

    fn put_effect(&mut self, index: u64, mark: Mark, effect: &Effect<'_>) -> Place {
        let (kind, key) = (effect.kind, self.form.text(effect.key));
        let value: &[u8] = if kind == RecordKind::Set { &effect.value } else { &[] };
        self.put(&Record { index, mark, kind, key: &key, value });
        let bytes = u32::try_from(value.len()).unwrap_or(u32::MAX);
        let offset = self.bytes - u64::from(bytes); // the value ends the record
        Place { start: Position { nth: self.nth, offset }, bytes }
    }

    /// Writes what was gathered, so that others can read it; nothing is synced.
    ///
    /// # Errors
    /// A write that failed, now or before.
    pub fn hand_on(&mut self) -> Result<(), OpLogError> {
        self.write()
    }

    /// Writes what was gathered; once the file that this gives is synced, everything recorded so
    /// far is durable.
    ///
    /// # Errors
    /// A write that failed, now or before.
    pub fn begin_sync(&mut self) -> Result<Arc<dyn File>, OpLogError> {
        self.write()?;
        Ok(self.file.clone())
    }

    /// Reads a value back.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn value_at(&self, place: Place) -> Result<Vec<u8>, OpLogError> {
        let mut value = vec![0; usize::try_from(place.bytes).unwrap_or(usize::MAX)];
        self.read_at(&mut value, place.start)?;
        Ok(value)
    }

    fn read_at(&self, value: &mut [u8], start: Position) -> Result<(), OpLogError> {
        if start.nth != self.nth {
            return Ok(self.parts.open(start.nth)?.read_at(value, start.offset)?);
        }
        let written = self.bytes - self.buffer.len() as u64;
        let Some(behind) = start.offset.checked_sub(written) else {
            return Ok(self.file.read_at(value, start.offset)?);
        };
        let first = usize::try_from(behind).unwrap_or(usize::MAX);
        let found = self.buffer.get(first..).and_then(|rest| rest.get(..value.len()));
        let beyond = || {
            let path = self.parts.path(start.nth);
            OpLogError::io("read", &path, io::ErrorKind::UnexpectedEof.into())
        };
        value.copy_from_slice(found.ok_or_else(beyond)?);
        Ok(())
    }
}
