//! Checkpoints: memory to disk, in rounds, and the superblock behind them.
//!
//! Called by the caller's checkpoint thread; calls `round`, `double`, `superblock`, `memory`.
//! Commands go on being applied meanwhile. Invariants:
//!
//! - I1: a round is: copy, wait until everything in the log by then is durable, superblock if slots
//!   were merged, double write, sync, write in place, sync. Nothing of it is reordered.
//! - I2: one checkpoint at a time: the writer's lock is held throughout.
//! - I3: a superblock that names checkpoint A is written after every page that was dirty when A was
//!   noted has been written, and after the log was durable once more.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::slots::double::{Double, Image, PAGE};
use crate::slots::open::check_length;
use crate::slots::round::Round;
use crate::slots::{Membership, Slots, Superblock};
use crate::{LogId, Result};

/// What a checkpoint makes durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The last entry that was applied when the checkpoint was asked for.
    pub log_id: LogId,
    /// The membership as of that entry.
    pub membership: Membership,
}

/// What a checkpoint did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Rounds written.
    pub rounds: u64,
    /// Pages written in place.
    pub pages: u64,
    /// Bytes written in place.
    pub bytes: u64,
    /// True if it was told to stop before its end; what was written is whole, the superblock is
    /// the old one.
    pub cancelled: bool,
}

/// What the one running checkpoint owns.
#[derive(Debug)]
pub(crate) struct Writer {
    double: Double,
    /// Where the memory budget goes on dropping pages.
    drop_cursor: u64,
}

impl Writer {
    pub(crate) fn new(double: Double) -> Self {
        Self { double, drop_cursor: 0 }
    }
}

impl Slots {
    /// Writes everything that was applied up to `target` to the disk. Blocks; call it on a thread
    /// of its own. After `Ok` (and not `cancelled`) the state up to the target survives power loss,
    /// and the log up to it may be purged. A superblock that names a later checkpoint stays.
    ///
    /// `log_durable` returns once everything appended to the log before it was called is durable.
    ///
    /// # Errors
    /// Of the disk or of `log_durable`. The file takes no more writes after a failed one.
    pub fn checkpoint(
        &self,
        target: Target,
        log_durable: &mut dyn FnMut() -> Result<()>,
        cancel: &AtomicBool,
    ) -> Result<Outcome> {
        let mut writer = self.writer.lock();
        let outcome = self.sweep(&mut writer, log_durable, cancel)?;
        if !outcome.cancelled {
            self.finish(target, log_durable)?;
        }
        Ok(outcome)
    }

    /// Writes changed pages to the disk and leaves the checkpoint where it is: for a snapshot that
    /// is being received, and for a memory budget that is used up. Errors and `log_durable` as in
    /// [`Slots::checkpoint`].
    ///
    /// # Errors
    /// As [`Slots::checkpoint`].
    pub fn write_back(
        &self,
        log_durable: &mut dyn FnMut() -> Result<()>,
        cancel: &AtomicBool,
    ) -> Result<Outcome> {
        self.sweep(&mut self.writer.lock(), log_durable, cancel)
    }

    /// Ends the merging of a snapshot that was taken from `target` on: writes everything back and
    /// makes the target the checkpoint. Whoever calls it has made the log stream durable first.
    /// After `Ok` all of it survives power loss.
    ///
    /// # Errors
    /// As [`Slots::checkpoint`].
    pub fn install(
        &self,
        target: Target,
        log_durable: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Outcome> {
        self.checkpoint(target, log_durable, &AtomicBool::new(false))
    }

    /// Raises `readable_from` to `index`, if it is lower. After `Ok` that survives power loss.
    ///
    /// # Errors
    /// Of the disk.
    pub fn set_readable_from(&self, index: u64) -> Result<()> {
        self.readable_from.fetch_max(index, Ordering::AcqRel);
        self.sync_readable_from()
    }

    /// Brings the superblock's `readable_from` up to what counts in memory.
    fn sync_readable_from(&self) -> Result<()> {
        self.update_superblock(|superblock| {
            let index = self.readable_from();
            let higher = superblock.readable_from < index;
            superblock.readable_from = superblock.readable_from.max(index);
            higher
        })
    }

    fn finish(&self, target: Target, log_durable: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        log_durable()?; // I3
        self.update_superblock(|superblock| {
            if superblock.checkpoint >= Some(target.log_id) {
                return false;
            }
            superblock.checkpoint = Some(target.log_id);
            superblock.membership = target.membership;
            superblock.readable_from = superblock.readable_from.max(self.readable_from());
            true
        })
    }

    /// Writes both superblocks if `change` says that it changed something.
    fn update_superblock(&self, change: impl FnOnce(&mut Superblock) -> bool) -> Result<()> {
        let _write = self.superblock_write.lock();
        let mut superblock = self.superblock();
        if !change(&mut superblock) {
            return Ok(());
        }
        superblock.sequence += 1;
        superblock.write(self.file.as_ref())?;
        *self.superblock.lock() = superblock;
        Ok(())
    }

    /// Goes over all pages once and writes those that are dirty.
    fn sweep(
        &self,
        writer: &mut Writer,
        log_durable: &mut dyn FnMut() -> Result<()>,
        cancel: &AtomicBool,
    ) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut image = Image::new();
        let mut from = 0;
        loop {
            if cancel.load(Ordering::Relaxed) {
                outcome.cancelled = true;
                return Ok(outcome);
            }
            let file = self.file.as_ref();
            let mut round = Round::new(&self.area, &self.locks, file, &mut image);
            let written = round.fill(from, self.options.round_pages).and_then(|next| {
                if next.is_some() {
                    self.write_round(&mut writer.double, round.image, log_durable)?;
                }
                Ok(next)
            });
            if written.is_err() {
                round.abandon();
            }
            let Some(next) = written? else { break };
            from = next;
            outcome.rounds += 1;
            outcome.pages += image.pages.len() as u64;
            self.drop_clean_pages(&mut writer.drop_cursor)?;
        }
        outcome.bytes = outcome.pages * PAGE as u64;
        Ok(outcome)
    }

    /// I1, behind the copies.
    fn write_round(
        &self,
        double: &mut Double,
        image: &mut Image,
        log_durable: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        // A page behind a cut would make the file long again, with a hole that nobody sees.
        check_length(self.file.as_ref(), self.area.geometry)?;
        log_durable()?;
        self.sync_readable_from()?;
        double.write(image)?;
        image.write_in_place(self.file.as_ref())?;
        self.written_pages.fetch_add(image.pages.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}
