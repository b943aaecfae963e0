//! Checkpoints of keys: writes all keys to a snapshot file while commands go on.
//!
//! Called by the caller's checkpoint thread; calls `file`, `scan`. The file is fuzzy: it has the
//! effects of all entries up to the one that it names, and some keys that are newer. Invariants:
//!
//! - I1: one at a time: the writer's lock is held throughout.
//! - I2: the horizon of a file is not above the entry that it names: a replay from there meets
//!   every delete that it needs.
//! - I3: on a full disk the checkpoint fails, not the node: the previous file stays, and so does
//!   the log since that file.
//! - I4: a checkpoint while memory is full forgets every delete that it may, so that deletes alone
//!   never keep memory full. It does so even if no entry was applied since the previous file,
//!   because a node that refuses every write gets no new entries.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::keys::file::{self, Header, PIECE_BYTES_DEFAULT, Writer};
use crate::keys::map::bytes_of;
use crate::keys::{Domain, Keys};
use crate::state::{Checkpointed, PAGE_BYTES, Target};
use crate::{Error, Result};

/// Deleted keys may take this share of the memory before the older half is forgotten.
const DELETED_SHARE: u64 = 8;

impl Keys {
    /// Pieces that a checkpoint would write now.
    pub fn checkpoint_pieces(&self) -> u64 {
        self.memory_bytes() / self.options.piece_bytes as u64 + 1
    }

    /// Writes everything that was applied up to `target` to a new snapshot file. Blocks. After `Ok`
    /// (and not `cancelled`) that survives power loss, and the log up to there may be purged. A file
    /// that names a later checkpoint stays; so does the old one where the disk is full.
    ///
    /// `log_durable` is called between two pieces, and returns once everything appended to the log
    /// before it was called is durable.
    ///
    /// # Errors
    /// Of the disk or of `log_durable`.
    pub fn checkpoint(
        &self,
        target: Target,
        log_durable: &mut dyn FnMut() -> Result<()>,
        cancel: &AtomicBool,
    ) -> Result<Checkpointed> {
        match self.write_snapshot(target, log_durable, cancel) {
            Err(Error::NoSpace { .. }) => {
                Ok(Checkpointed { cancelled: true, lacked_space: true, ..Checkpointed::default() }) // I3
            }
            result => result,
        }
    }

    /// Fails with `NoSpace` if the disk has no room for another snapshot file: to be asked before
    /// [`Keys::install`], which cannot leave things as they are. Waits for a checkpoint that runs.
    ///
    /// # Errors
    /// Of the disk.
    pub fn check_checkpoint_space(&self) -> Result<()> {
        let _one = self.writer.lock();
        file::check_space(&*self.disk, &self.directory, self.memory_bytes())
    }

    pub(super) fn write_snapshot(
        &self,
        target: Target,
        log_durable: &mut dyn FnMut() -> Result<()>,
        cancel: &AtomicBool,
    ) -> Result<Checkpointed> {
        let _one = self.writer.lock();
        let before = self.header();
        if let Some(at) = before.checkpoint.filter(|at| *at >= target.log_id) {
            if self.is_full() && before.domain == Domain::Entries {
                self.forget_up_to(at.index); // I4; a start from this file forgets them again
            }
            return Ok(Checkpointed::default());
        }
        let dirty_bytes = self.dirty_bytes.swap(0, Ordering::Relaxed);
        let header = Header {
            checkpoint: Some(target.log_id),
            horizon: match before.domain {
                Domain::Entries => self.next_horizon(target.log_id.index),
                Domain::Clocks => self.horizon(), // the floor, which the caller knows
            },
            membership: target.membership,
            requests_crc: target.requests_crc,
            readable_from: self.readable_from(),
            ..before
        };
        let written = self.write_file(&header, log_durable, cancel);
        if written.as_ref().map_or(true, |outcome| outcome.cancelled) {
            self.dirty_bytes.fetch_add(dirty_bytes, Ordering::Relaxed);
            file::remove_unfinished(&*self.disk, &self.directory);
            return written;
        }
        let (domain, horizon) = (header.domain, header.horizon);
        *self.durable.lock() = header;
        if domain == Domain::Entries {
            self.forget_up_to(horizon);
        }
        written
    }

    fn write_file(
        &self,
        header: &Header,
        log_durable: &mut dyn FnMut() -> Result<()>,
        cancel: &AtomicBool,
    ) -> Result<Checkpointed> {
        let piece_bytes = self.options.piece_bytes;
        assert!((1..=PIECE_BYTES_DEFAULT).contains(&piece_bytes), "pieces of {piece_bytes} bytes");
        let mut writer = Writer::create(&*self.disk, &self.directory, header)?;
        let mut outcome = Checkpointed::default();
        let mut next = Some(0);
        while let Some(from) = next {
            if cancel.load(Ordering::Relaxed) {
                outcome.cancelled = true;
                return Ok(outcome);
            }
            let page = self.scan(from, 0, piece_bytes);
            next = page.next;
            let is_kept = |index: u64, is_live: bool| is_live || index > header.horizon;
            for image in &page.found {
                if is_kept(image.index, image.value.is_some()) {
                    writer.push(image);
                }
                writer.write_full_piece(piece_bytes)?;
            }
            outcome.rounds += 1;
            log_durable()?;
        }
        outcome.bytes = writer.finish(log_durable)?;
        outcome.pages = outcome.bytes / PAGE_BYTES;
        self.written_pages.fetch_add(outcome.pages, Ordering::Relaxed);
        Ok(outcome)
    }

    /// The horizon that a checkpoint of entry `index` moves to: over the older half of all deletes,
    /// by what they take, once that is more than their share of the memory; over all of them where
    /// memory is full (I4).
    fn next_horizon(&self, index: u64) -> u64 {
        let now = self.horizon();
        let deleted_bytes = self.deleted_bytes();
        if self.is_full() && deleted_bytes > 0 {
            return index.max(now);
        }
        if deleted_bytes <= self.options.memory_bytes_max / DELETED_SHARE {
            return now;
        }
        let mut deleted = Vec::new();
        for shard in &self.shards {
            let held = shard.lock();
            let gone = held.from(0).filter(|(_, _, record)| record.value.is_none());
            deleted.extend(gone.map(|(_, key, record)| (record.index, bytes_of(key, record))));
        }
        deleted.sort_unstable();
        let half = deleted.iter().map(|(_, bytes)| bytes).sum::<u64>() / 2;
        let mut older_bytes = 0;
        let middle = deleted.iter().find(|(_, bytes)| {
            older_bytes += bytes;
            older_bytes > half
        });
        middle.map_or(now, |(at, _)| (*at).min(index).max(now)) // I2
    }
}
