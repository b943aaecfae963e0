//! Copies between members: the keys that changed after an index, or all keys.
//!
//! Called by the machine above; calls `map`. A sender that has forgotten deletes above the
//! receiver's index sends all keys, and the receiver then drops its keys that were not among them:
//! they were deleted. Invariants:
//!
//! - I1: no delete is forgotten during a transfer, so the horizon that the receiver was told holds
//!   until its copy is complete.
//! - I2: the receiver drops those keys in the same step in which its applied position becomes the
//!   one where the copy begins ([`Keys::install`]). A copy that breaks off only leaves some keys
//!   newer than others, as every unfinished copy does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::keys::map::{Record, hash_of, shard_of};
use crate::keys::{KEY_BYTES_MAX, KeyImage, Keys};
use crate::state::{Checkpointed, Full, Target};
use crate::{Error, Result};

/// Who is being sent what changed, and from where on that can be said.
#[derive(Debug)]
pub(super) struct Sends {
    count: u64,
    horizon: u64,
}

impl Sends {
    pub(super) fn new(horizon: u64) -> Self {
        Self { count: 0, horizon }
    }

    /// It is at least this from now on. For registers, whose horizon is not bound to what is sent.
    pub(super) fn raise_horizon(&mut self, horizon: u64) {
        self.horizon = self.horizon.max(horizon);
    }

    /// Whether deletes up to a horizon may be forgotten now; the horizon has moved if so.
    fn move_horizon(&mut self, horizon: u64) -> bool {
        let moves = self.count == 0 && horizon > self.horizon;
        if moves {
            self.horizon = horizon;
        }
        moves
    }
}

/// Held while something is sent: nothing is forgotten (I1).
#[derive(Debug)]
pub struct Sending {
    sends: Arc<Mutex<Sends>>,
    /// What changed after an index at or above this one can be said.
    pub horizon: u64,
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.sends.lock().count -= 1;
    }
}

impl Keys {
    /// Something is to be sent, until what this returns is dropped.
    pub fn begin_send(&self) -> Sending {
        let mut sends = self.sends.lock();
        sends.count += 1;
        Sending { sends: self.sends.clone(), horizon: sends.horizon }
    }

    /// Whether something is being sent.
    pub(super) fn is_sending(&self) -> bool {
        self.sends.lock().count > 0
    }

    /// Deletes up to here may have been forgotten.
    pub fn horizon(&self) -> u64 {
        self.sends.lock().horizon
    }

    /// A copy from another member begins; returns the index after which it is to send what changed.
    /// `applied` is what this member has applied, `horizon` the sender's.
    pub fn begin_merge(&self, applied: u64, horizon: u64) -> u64 {
        self.incoming.lock().begin(applied, horizon)
    }

    /// Takes a key of the copy, if it is newer than what is here. Raises [`Keys::readable_from`] to
    /// its index first.
    ///
    /// # Errors
    /// `OutOfRange` if key or value are too long; nothing was changed.
    pub fn merge(&self, image: &KeyImage) -> Result<()> {
        let KeyImage { key, index, value } = image;
        let value_bytes = value.as_ref().map_or(0, Bytes::len) as u64;
        check("key bytes", key.len() as u64, KEY_BYTES_MAX as u64)?;
        check("value bytes", value_bytes, u64::from(self.value_bytes()))?;
        if *index == 0 {
            return Ok(()); // no entry wrote this: there is nothing to bring
        }
        let seen_in = self.incoming.lock().number();
        let hash = hash_of(key);
        let mut shard = self.shards[shard_of(hash)].lock();
        if shard.get(hash, key).is_some_and(|known| known.index >= *index) {
            shard.name(hash, key, seen_in);
            return Ok(());
        }
        self.readable_from.fetch_max(*index, Ordering::AcqRel);
        // A copy of its own: a slice would keep the whole frame in memory.
        let value = value.as_ref().map(|value| Bytes::copy_from_slice(value));
        shard.set(hash, key, Record { index: *index, seen_in, value }, &self.counts);
        self.dirty_bytes.fetch_add(key.len() as u64 + value_bytes, Ordering::Relaxed);
        Ok(())
    }

    /// All of the copy that began at index `begin` is here.
    pub fn finish_merge(&self, begin: u64) {
        self.incoming.lock().finish(begin);
    }

    /// Moves to where the copy began: drops what it did not name, if it was of everything, and
    /// makes a checkpoint of `target`. After `Ok` that survives power loss. Whoever calls it lets
    /// nobody read or apply meanwhile.
    ///
    /// # Errors
    /// As [`Keys::checkpoint`].
    pub fn install(
        &self,
        target: Target,
        log_durable: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Checkpointed> {
        let begin = target.log_id.index;
        if let Some(Full { number, horizon }) = self.incoming.lock().take_full(begin) {
            for shard in &self.shards {
                shard.lock().retain(&self.counts, |record| record.seen_in == number);
            }
            let mut sends = self.sends.lock();
            sends.horizon = sends.horizon.max(horizon);
        }
        self.write_snapshot(target, log_durable, &AtomicBool::new(false))
    }

    /// Forgets deletes up to a horizon, unless something is being sent.
    pub(super) fn forget_up_to(&self, horizon: u64) {
        if !self.sends.lock().move_horizon(horizon) {
            return;
        }
        for shard in &self.shards {
            let is_kept = |record: &Record| record.value.is_some() || record.index > horizon;
            shard.lock().retain(&self.counts, is_kept);
        }
    }
}

fn check(what: &'static str, value: u64, limit: u64) -> Result<()> {
    if value <= limit { Ok(()) } else { Err(Error::OutOfRange { what, value, limit }) }
}
