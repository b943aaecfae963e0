//! Checkpoints: write changed pages from memory to the disk, in rounds, and then the superblock.
//!
//! Called by the caller's checkpoint thread; calls `round`, `double`, `superblock`, `memory`.
//! Commands go on being applied meanwhile. Invariants:
//!
//! - I1: a round is: copy, wait until all of the log of that moment is durable, superblock if slots
//!   were merged, double write, sync, write in place, sync. These steps are never reordered.
//! - I2: one checkpoint at a time: `sweeping` is held throughout. One round at a time: the writer's
//!   lock is held for each round, so that a thread short of memory (`memory`) gets its turn between
//!   two.
//! - I3: a superblock that names checkpoint A is written after every page that was dirty when A was
//!   noted has been written, and after the log was durable once more. If any round failed since
//!   then, it left pages dirty that the checkpoint does not know of, and no superblock is written.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::MutexGuard;

use crate::slots::double::{Double, Image, PAGE};
use crate::slots::open::check_length;
use crate::slots::round::Round;
use crate::slots::{Slots, Superblock};
use crate::state::{Checkpointed, Target};
use crate::{Error, Result};

/// What the one running round owns.
#[derive(Debug)]
pub(crate) struct Writer {
    double: Double,
    /// Where the memory budget goes on dropping pages.
    pub(crate) drop_cursor: u64,
    /// Where the memory budget goes on writing rounds.
    pub(crate) round_cursor: u64,
    /// Rounds that failed since the start.
    failed_count: u64,
}

impl Writer {
    pub(crate) fn new(double: Double) -> Self {
        Self { double, drop_cursor: 0, round_cursor: 0, failed_count: 0 }
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
    ) -> Result<Checkpointed> {
        let _sweeping = self.sweeping.lock();
        let failed_count = self.writer.lock().failed_count;
        let outcome = self.sweep(log_durable, cancel)?;
        if !outcome.cancelled {
            if self.writer.lock().failed_count != failed_count {
                return Err(Error::Poisoned { path: self.file.path() }); // I3
            }
            self.finish(target, log_durable)?;
        }
        Ok(outcome)
    }

    /// Writes changed pages to the disk and leaves the checkpoint where it is: for a snapshot that
    /// is being received. Errors and `log_durable` as in [`Slots::checkpoint`].
    ///
    /// # Errors
    /// As [`Slots::checkpoint`].
    pub fn write_back(
        &self,
        log_durable: &mut dyn FnMut() -> Result<()>,
        cancel: &AtomicBool,
    ) -> Result<Checkpointed> {
        let _sweeping = self.sweeping.lock();
        self.sweep(log_durable, cancel)
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
    ) -> Result<Checkpointed> {
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
            superblock.requests_crc = target.requests_crc;
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
        log_durable: &mut dyn FnMut() -> Result<()>,
        cancel: &AtomicBool,
    ) -> Result<Checkpointed> {
        let mut outcome = Checkpointed::default();
        let mut image = Image::new();
        let mut from = 0;
        loop {
            if cancel.load(Ordering::Relaxed) {
                outcome.cancelled = true;
                return Ok(outcome);
            }
            let mut writer = self.writer.lock();
            let next = self.next_round(&mut writer, from, &mut image, log_durable)?;
            let above = match next {
                Some(_) => self.near_budget_pages(),
                None => self.half_budget_pages(), // I2 of `memory`
            };
            self.drop_clean_pages(&mut writer.drop_cursor, above)?;
            MutexGuard::unlock_fair(writer); // whoever is short of memory is next
            let Some(next) = next else { break };
            from = next;
            outcome.rounds += 1;
            outcome.pages += image.pages.len() as u64;
        }
        outcome.bytes = outcome.pages * PAGE as u64;
        Ok(outcome)
    }

    /// Writes dirty pages from page `from` on, as many as make a round, which `image` has then.
    /// Returns where to go on, or `None` if none was dirty.
    pub(crate) fn next_round(
        &self,
        writer: &mut Writer,
        from: u64,
        image: &mut Image,
        log_durable: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Option<u64>> {
        let mut round = Round::new(&self.area, &self.locks, self.file.as_ref(), image);
        let written = round.fill(from, self.options.round_pages).and_then(|next| {
            if next.is_some() {
                self.write_round(&mut writer.double, round.image, log_durable)?;
            }
            Ok(next)
        });
        if written.is_err() {
            round.abandon();
            writer.failed_count += 1;
        }
        written
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
