//! The methods of every machine, for a journal. A journal serves no client, sends nothing, and has
//! no bound on memory.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use diskstore_storage::Result;
use diskstore_storage::identity::MachineKind;
use diskstore_storage::keys::KeyImage;
use diskstore_storage::slots::SlotImage;
use diskstore_storage::state::{Checkpointed, Full, Target, Versioned};
use smallvec::SmallVec;

use super::{JournalMachine, JournalOptions, effect_of, storage};
use crate::command::{Command, Failure, Holder, Refusal, Reply};
use crate::machine::any::{AnyMachine, LiveKeys, Scanned};
use crate::machine::effect::{self, Draft, nothing, run};
use crate::machine::reply::ReplyBudget;
use crate::machine::{ApplyError, Images, Limits, LogDurable, RequestIds, Sending, Usage};
use crate::oplog::Effect;

impl AnyMachine for JournalMachine {
    fn kind(&self) -> MachineKind {
        MachineKind::Journal
    }

    fn request_ids(&self) -> &RequestIds {
        &self.request_ids
    }

    fn limits(&self) -> Limits {
        let JournalOptions { slot_count, value_bytes_max, .. } = self.shared.options;
        Limits { slot_count, value_bytes_max }
    }

    /// Records what the command of entry `index` does.
    fn apply(&self, index: u64, command: &Command) -> std::result::Result<Reply, ApplyError> {
        let state = &mut *self.shared.state.lock();
        let mut outcomes = SmallVec::new();
        if index <= state.log.last_index() {
            outcomes.resize(command.operation_count(), nothing(index));
            return Ok(Reply { index, outcomes, ..Reply::default() }); // J1 of `mod.rs`
        }
        let options = &self.shared.options;
        let value_bytes_max = u64::from(options.value_bytes_max);
        let holder = if options.slot_count > 0 { Holder::Slot } else { Holder::Key };
        let limits = effect::Limits { value_bytes_max, holder, index };
        let mut budget = ReplyBudget::new();
        let mut drafts: BTreeMap<&[u8], Option<Draft<'_>>> = BTreeMap::new();
        let mut effects: SmallVec<[Effect<'_>; 1]> = SmallVec::new();
        for operation in command.operations() {
            if operation.data_key().is_none() {
                outcomes.push(nothing(index)); // a message is no state, and not recorded
                continue;
            }
            if !drafts.contains_key(operation.key) {
                drafts.insert(operation.key, state.draft(index, &operation, options)?);
            }
            let Some(Some(draft)) = drafts.get_mut(operation.key) else {
                outcomes.push(nothing(index));
                continue;
            };
            let outcome = run(draft, &operation.action, limits);
            effects.extend(effect_of(&operation, &outcome, draft));
            let outcome = budget.fit(&operation.action, outcome);
            outcomes.push(outcome);
        }
        state.record(index, &effects)?;
        Ok(Reply { index, outcomes, ..Reply::default() })
    }

    fn read(&self, _: &Command) -> std::result::Result<Reply, Failure> {
        Err(Failure::Refused(Refusal::Logger))
    }

    fn check(&self, _: &Command) -> std::result::Result<(), Refusal> {
        Err(Refusal::Logger)
    }

    /// What a key holds now.
    fn slot(&self, key: &[u8]) -> Option<Versioned> {
        let state = self.shared.state.lock();
        let held = state.keys.get(key)?;
        let value = held.place.map(|place| state.log.value_at(place)).transpose().ok()?;
        Some(Versioned { index: held.version, value: value.map(Into::into) })
    }

    /// Nothing is read.
    fn absent_since(&self) -> u64 {
        0
    }

    /// Records go to files.
    fn never_waits(&self) -> bool {
        false
    }

    fn usage(&self) -> Usage {
        let state = self.shared.state.lock();
        Usage {
            live_count: Some(state.live_count),
            data_bytes: state.dirty_bytes,
            dirty_bytes: state.dirty_bytes,
            written_pages: 0,
        }
    }

    fn live_keys(&self, _from: u64, _count: usize) -> std::result::Result<LiveKeys, Failure> {
        Err(Failure::Refused(Refusal::Logger))
    }

    fn durable(&self) -> Option<Target> {
        self.shared.durable.lock().target.clone()
    }

    fn checkpoint(
        &self,
        target: Target,
        log_durable: LogDurable<'_>,
        _cancel: &AtomicBool,
    ) -> Result<Checkpointed> {
        self.write_checkpoint(target, log_durable).map(|()| Checkpointed::default())
    }

    fn readable_from(&self) -> u64 {
        self.shared.state.lock().readable_from
    }

    /// It comes with the checkpoint that names the end of what was merged, and so is durable before
    /// that is.
    fn set_readable_from(&self, index: u64) -> Result<()> {
        let mut state = self.shared.state.lock();
        state.readable_from = state.readable_from.max(index);
        Ok(())
    }

    /// There is nothing to send, to whomever.
    fn begin_send(&self) -> Sending {
        Sending { horizon: u64::MAX, end: 0, held: None }
    }

    fn scan(&self, _from: u64, _changed_after: u64, _bytes_max: usize) -> Result<Scanned> {
        Ok((Images::Slots(Vec::new()), None))
    }

    /// A snapshot begins; returns after which index it is to send what changed. A sender that may
    /// have forgotten deletes up to its `horizon` sends everything to whoever has less.
    fn begin_merge(&self, applied: u64, horizon: u64) -> u64 {
        self.shared.state.lock().incoming.begin(applied, horizon)
    }

    fn merge(&self, images: &Images) -> Result<()> {
        match images {
            Images::Slots(images) => {
                images.iter().try_for_each(|SlotImage { slot, index, value }| {
                    self.merge_slot(*slot, *index, value.as_deref())
                })?;
            }
            Images::Keys(images) => {
                images.iter().try_for_each(|KeyImage { key, index, value }| {
                    self.merge_value(key, *index, value.as_deref())
                })?;
            }
        }
        self.hand_on_records().map_err(storage)
    }

    /// All of the snapshot that began at index `begin` was merged.
    fn finish_merge(&self, begin: u64) {
        self.shared.state.lock().incoming.finish(begin);
    }

    /// Ends a snapshot that began at `target`.
    ///
    /// # Errors
    /// As [`JournalMachine::write_checkpoint`].
    fn install(&self, target: Target, log_durable: LogDurable<'_>) -> Result<()> {
        let index = target.log_id.index;
        let mut state = self.shared.state.lock();
        if let Some(Full { number, .. }) = state.incoming.take_full(index) {
            state.record_absent_as_deleted(number, index)?; // J4 of `mod.rs`
        }
        let last_index = state.log.last_index().max(index);
        state.log.set_last_index(last_index);
        drop(state);
        self.write_checkpoint(target, log_durable)
    }

    fn hand_on(&self) -> std::result::Result<(), ApplyError> {
        Ok(self.hand_on_records()?)
    }
}
