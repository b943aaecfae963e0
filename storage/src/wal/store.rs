//! The files of the log: the next segment made ahead, and old ones kept to be used again.
//!
//! Called by the writer (take the next one), by a background thread (make it) and by `reclaim`.
//! Invariants:
//!
//! - I1: a segment is filled with zeros, synced and named durably before anything is written to
//!   it, so that a write into it changes no file metadata and cannot run out of space.
//! - I2: a file gets a new id, durably, before it is used again, so nothing in it looks alive.
//! - I3: ids only rise.
//! - I5: bytes from before a renewal ([`Store::renew`]) are in no file that is made or kept after it.
//! - I4: a segment that is no longer part of the log has a name of another kind until then, so that
//!   no start reads it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Options;
use super::segment::{id_of, name_of, spare_id_of, spare_name_of};
use crate::Result;
use crate::disk::{AlignedBuffer, Disk, File, WriteMode};

/// Name of a segment that is being made.
const MAKING_NAME: &str = "next.tmp";
/// Zeros are written in pieces of this many bytes.
const ZERO_BYTES: usize = 1 << 20;

/// Called with the bytes of a segment that are filled, and those of all of it.
pub(super) type Rest<'a> = &'a mut dyn FnMut(u64, u64);

/// A segment that takes its first batch.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) id: u64,
    pub(super) bytes: u64,
    /// For batches.
    pub(super) writer: Arc<dyn File>,
    /// For reads of any alignment.
    pub(super) reader: Arc<dyn File>,
}

#[derive(Debug)]
struct Spares {
    next: Option<Prepared>,
    next_id: u64,
    /// Names of old segments, all of the right size.
    reusable: VecDeque<String>,
    /// The last attempt to make the next segment failed.
    is_refused: bool,
    /// Segments with lower ids are removed, and not used again (I5).
    kept_from: u64,
}

/// The directory of the log.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) directory: PathBuf,
    segment_bytes: u64,
    recycle_count_max: usize,
    write_mode: WriteMode,
    /// Held while a segment is made, which takes long; `spares` is held for moments only.
    making: Mutex<()>,
    spares: Mutex<Spares>,
}

impl Store {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        next_id: u64,
        options: &Options,
    ) -> Self {
        let spares = Spares {
            next: None,
            next_id,
            reusable: VecDeque::new(),
            is_refused: false,
            kept_from: 0,
        };
        Store {
            disk,
            directory,
            segment_bytes: options.segment_bytes,
            recycle_count_max: options.recycle_count_max,
            write_mode: options.sync.write_mode(),
            making: Mutex::new(()),
            spares: Mutex::new(spares),
        }
    }

    /// False if there is no next segment and the last attempt to make it failed.
    pub(super) fn has_next(&self) -> bool {
        let spares = self.spares.lock();
        spares.next.is_some() || !spares.is_refused
    }

    /// Whether the next segment waits to be made.
    pub(super) fn lacks_next(&self) -> bool {
        self.spares.lock().next.is_none()
    }

    /// Makes the next segment if there is none, calling `rest` as [`super::Wal::prepare_resting`]
    /// says. True if it made one.
    pub(super) fn prepare(&self, rest: Rest<'_>) -> Result<bool> {
        let _making = self.making.lock();
        let (id, reusable) = {
            let mut spares = self.spares.lock();
            if spares.next.is_some() {
                return Ok(false);
            }
            spares.next_id += 1;
            (spares.next_id - 1, spares.reusable.pop_front())
        };
        let made = match reusable {
            Some(name) => self.reuse(&name, id),
            None => self.make(id, rest),
        };
        let mut spares = self.spares.lock();
        spares.is_refused = made.is_err();
        spares.next = Some(made?);
        Ok(true)
    }

    /// The next segment, made here and now if it is not there yet.
    pub(super) fn take_next(&self) -> Result<Prepared> {
        loop {
            if let Some(next) = self.spares.lock().next.take() {
                return Ok(next);
            }
            self.prepare(&mut |_, _| {})?;
        }
    }

    /// Makes a next segment of zeros in place of the one that is there, and removes what was kept to be used again; from now on the
    /// segments before it are removed, too, once they are out of the log (I5).
    pub(super) fn renew(&self, rest: Rest<'_>) -> Result<()> {
        let _making = self.making.lock();
        let (id, mut old) = {
            let mut spares = self.spares.lock();
            spares.next_id += 1;
            (spares.next_id - 1, std::mem::take(&mut spares.reusable))
        };
        for name in old.drain(..) {
            self.disk.remove(&self.directory.join(name))?;
        }
        let made = self.make(id, rest)?;
        let replaced = {
            let mut spares = self.spares.lock();
            (spares.kept_from, spares.is_refused) = (id, false);
            spares.next.replace(made)
        };
        if let Some(Prepared { id, .. }) = replaced {
            self.disk.remove(&self.directory.join(name_of(id)))?;
        }
        self.disk.sync_dir(&self.directory)
    }

    fn reuse(&self, name: &str, id: u64) -> Result<Prepared> {
        let path = self.directory.join(name_of(id));
        self.disk.rename(&self.directory.join(name), &path)?;
        self.disk.sync_dir(&self.directory)?; // I2
        self.open(id)
    }

    fn make(&self, id: u64, rest: Rest<'_>) -> Result<Prepared> {
        let making = self.directory.join(MAKING_NAME);
        self.remove_leftover()?;
        let file = self.disk.create(&making, WriteMode::Direct)?;
        if let Err(error) = self.fill(&*file, rest) {
            drop(file);
            // The space goes back; what failed first is what the caller must hear.
            return self.remove_leftover().and(Err(error));
        }
        self.disk.rename(&making, &self.directory.join(name_of(id)))?;
        self.disk.sync_dir(&self.directory)?;
        self.open(id)
    }

    fn fill(&self, file: &dyn File, rest: Rest<'_>) -> Result<()> {
        file.reserve(self.segment_bytes)?;
        let piece_bytes = usize::try_from(self.segment_bytes).unwrap_or(ZERO_BYTES).min(ZERO_BYTES);
        let mut zeros = AlignedBuffer::with_capacity(piece_bytes);
        zeros.resize_zeroed(piece_bytes);
        let mut offset = 0;
        while offset < self.segment_bytes {
            let left = usize::try_from(self.segment_bytes - offset).unwrap_or(usize::MAX);
            let (piece, _) = zeros.as_slice().split_at(left.min(piece_bytes));
            file.write_at(piece, offset)?;
            offset += piece.len() as u64;
            rest(offset, self.segment_bytes);
        }
        file.sync()
    }

    fn remove_leftover(&self) -> Result<()> {
        let making = self.directory.join(MAKING_NAME);
        if self.disk.exists(&making)? { self.disk.remove(&making) } else { Ok(()) }
    }

    fn open(&self, id: u64) -> Result<Prepared> {
        let path = self.directory.join(name_of(id));
        let writer = self.disk.open(&path, self.write_mode)?;
        let reader = self.disk.open(&path, WriteMode::ReadOnly)?;
        Ok(Prepared { id, bytes: self.segment_bytes, writer, reader })
    }

    /// Keeps old segments to be used again, and removes those of another size or beyond the bound.
    pub(super) fn recycle(&self, old: Vec<(String, u64)>) -> Result<usize> {
        let count = old.len();
        let mut removed = false;
        for (name, bytes) in old {
            let path = self.directory.join(&name);
            let may_keep = {
                let spares = self.spares.lock();
                let id = id_of(&name).or_else(|| spare_id_of(&name)).unwrap_or_default();
                id >= spares.kept_from && spares.reusable.len() < self.recycle_count_max
            };
            if bytes == self.segment_bytes && may_keep {
                let spare = spare_name_of(&name);
                if spare != name {
                    self.disk.rename(&path, &self.directory.join(&spare))?; // I4
                }
                self.spares.lock().reusable.push_back(spare);
                continue;
            }
            self.disk.remove(&path)?;
            removed = true;
        }
        if removed {
            self.disk.sync_dir(&self.directory)?;
        }
        Ok(count)
    }
}
