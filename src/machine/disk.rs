//! The machine of the disk store: commands applied to slots.
//!
//! Called by the applier and by replay (apply, in log order) and by readers; calls
//! `storage::slots`. Invariants:
//!
//! - I1: every committed command has the same effect and reply on every replica: whether it is
//!   refused depends on the command, the geometry and the command's own slots only.
//! - I2: the locks of all slots of a command are held from its first write to its last.
//! - I3: the slot rule is checked once per slot and entry, for all operations of the entry on it. They
//!   stand in one command: two of an entry name no common key (I2 of `raft/entries.rs`).
//! - I4: damage changes no effect. A command is applied to a damaged slot only if it begins with a
//!   full set, because then the lost value does not matter. Otherwise this member does not guess:
//!   it gives the slot up, which then reads as damaged, and is sent to no other member, until a
//!   full set.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use diskstore_storage::identity::MachineKind;
use diskstore_storage::slots::{Current, Guard, ROUND_PAGES_DEFAULT, Slots};
use diskstore_storage::state::{Applied, Change, Checkpointed, PAGE_BYTES, Target, Versioned};
use diskstore_storage::{LogIndex, SlotIndex};
use smallvec::SmallVec;

use super::any::{AnyMachine, LiveKeys, Scanned};
use super::effect::{self, Draft, change_of, nothing, replaces, run};
use super::group::by_key;
use super::reply::ReplyBudget;
use super::{
    Images, Limits, LogDurable, Paged, RequestIds, Sending, Usage, check_operation, other_kind,
};
use crate::command::{
    Action, Body, Command, Failure, Holder, Operation, Operations, Outcome, Refusal, Reply,
    slot_key, slot_of,
};
use crate::oplog::OpLogError;

/// Operations of the command `nth` of entry `index` that all have one key.
struct Group<'a> {
    index: u64,
    nth: usize,
    operations: &'a [Operation<'a>],
}

/// Slots that one step of [`DiskMachine::live_keys`] reads at most, unless more are asked for.
const SCAN_STEP: u64 = 4096;

/// Why an entry has no whole reply.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Damaged slots would have to be known. The entry was applied but for them, and the node goes on.
    #[error("slot {} is damaged on this member and log entry {} needs its content", .0.first_slot(), .0.reply.index)]
    Damaged(Box<DamageMet>),
    /// The slots refused what the machine had checked.
    #[error(transparent)]
    Storage(#[from] diskstore_storage::Error),
    /// The journal cannot be written or read.
    #[error(transparent)]
    Journal(#[from] OpLogError),
    /// The entry was applied nowhere, by its request id, and this is its answer. The node goes on.
    #[error("the request id of this entry is known: {0}")]
    NotApplied(Failure),
}

/// Damaged slots that an entry would have had to know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DamageMet {
    /// The entry's commands that would have had to know them, in ascending order; one with several such
    /// slots stands here several times.
    pub commands: Vec<DamagedCommand>,
    /// True if the entry may have changed one of them, on members where it is whole.
    pub may_have_changed: bool,
    /// Those that this entry is the first to be missing in, since they were set last.
    pub given_up: Vec<u64>,
    /// The reply, with outcomes that mean nothing for the operations on these slots.
    pub reply: Reply,
}

/// A command that met a damaged slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DamagedCommand {
    /// Which of the entry's commands it is, counted from 0.
    pub nth: usize,
    /// The slot.
    pub slot: SlotIndex,
}

impl DamageMet {
    /// The slot that is named where one is.
    pub fn first_slot(&self) -> u64 {
        self.commands.first().map_or(0, |first| first.slot.get())
    }
}

/// Applies commands to slots and reads from them.
#[derive(Debug, Clone)]
pub struct DiskMachine {
    slots: Arc<Slots>,
    /// Slots from this one on are not named by anybody yet: the cluster may have room for them, or not.
    limit: Arc<AtomicU64>,
    request_ids: RequestIds,
}

impl DiskMachine {
    /// A machine over open slots, all of which may be used.
    pub fn new(slots: Arc<Slots>) -> DiskMachine {
        let limit = Arc::new(AtomicU64::new(slots.geometry().slot_count()));
        DiskMachine { slots, limit, request_ids: RequestIds::default() }
    }

    /// The same, of which so many slots may be used until that is raised.
    #[must_use]
    pub fn limited_to(self, slot_count: u64) -> DiskMachine {
        let limit = slot_count.min(self.slots.geometry().slot_count());
        DiskMachine { limit: Arc::new(AtomicU64::new(limit)), ..self }
    }

    /// How many slots may be used; it only rises.
    pub(super) fn limit(&self) -> &Arc<AtomicU64> {
        &self.limit
    }

    fn slot_count(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// The slots underneath.
    pub fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// The first slot known to be damaged of which a command would have to know what it holds. A slot
    /// that was noted is read at most once: it is in `damaged` then, or noted no more.
    fn damage_in_the_way(&self, command: &Command, damaged: &mut BTreeSet<u64>) -> Option<u64> {
        if !self.slots.may_be_damaged() {
            return None;
        }
        let mut set_first = BTreeSet::new();
        for operation in command.operations() {
            let Some(key) = self.key_of(&operation).filter(|key| self.slots.is_noted(*key)) else {
                continue;
            };
            if set_first.contains(&key) {
                continue;
            }
            if replaces(&operation.action, self.effect_limits(0)) {
                set_first.insert(key);
            } else if damaged.contains(&key) || self.slots.is_known_damaged(key) {
                damaged.insert(key);
                return Some(key);
            }
        }
        None
    }

    fn effect_limits(&self, index: u64) -> effect::Limits {
        let value_bytes_max = u64::from(self.slots.geometry().value_bytes());
        effect::Limits { value_bytes_max, holder: Holder::Slot, index }
    }

    /// Applies one of an entry's commands; its outcomes go behind those of the commands before.
    fn apply_command(
        &self,
        index: u64,
        nth: usize,
        operations: Operations<'_>,
        met: &mut DamageMet,
    ) -> Result<(), ApplyError> {
        let operations: SmallVec<[Operation<'_>; 1]> = operations.collect();
        let keys = operations.iter().filter_map(|operation| self.key_of(operation));
        let mut guard = self.slots.lock(keys);
        let outcomes = by_key(index, &operations, |operations, record| {
            self.apply_locked(&mut guard, &Group { index, nth, operations }, met, record)
        })?;
        met.reply.outcomes.extend(outcomes);
        Ok(())
    }

    /// Applies operations that all have one key.
    fn apply_locked(
        &self,
        guard: &mut Guard<'_>,
        &Group { index, nth: nth_command, operations }: &Group<'_>,
        met: &mut DamageMet,
        record: &mut dyn FnMut(usize, Outcome),
    ) -> Result<(), ApplyError> {
        let Some(key) = operations.first().and_then(|operation| self.key_of(operation)) else {
            let slot_count = self.slots.geometry().slot_count();
            for nth in 0..operations.len() {
                record(nth, refused(Refusal::OutOfRange { slot_count }));
            }
            return Ok(());
        };
        let limits = self.effect_limits(index);
        // The slot is not even read then, healthy or damaged.
        let begins_anew = operations.first().is_some_and(|first| replaces(&first.action, limits));
        let only_reads = operations.iter().all(|operation| operation.action.is_read());
        let mut is_damaged = false;
        let applied = guard.apply(SlotIndex::new(key), LogIndex::new(index), |base| {
            if begins_anew && let [Operation { action: Action::Set { value, .. }, .. }] = operations
            {
                record(0, Outcome { changed: true, ..nothing(index) });
                return Change::Set(Cow::Borrowed(value));
            }
            let current =
                if begins_anew { Current::Value { index: 0, value: None } } else { base.read() };
            let Current::Value { index, value } = current else {
                is_damaged = true; // I4: even whether a delete deletes anything is not known
                return if only_reads { Change::Keep } else { Change::GiveUp };
            };
            let mut draft =
                Draft { version: index, value: value.map(Cow::Borrowed), changed: false };
            for (nth, operation) in operations.iter().enumerate() {
                record(nth, run(&mut draft, &operation.action, limits));
            }
            change_of(draft, operations)
        })?;
        if is_damaged {
            met.commands.push(DamagedCommand { nth: nth_command, slot: SlotIndex::new(key) });
            met.may_have_changed |= !only_reads;
            met.given_up.extend((applied == Applied::GivenUp).then_some(key));
            for nth in 0..operations.len() {
                record(nth, nothing(index)); // it means nothing
            }
        }
        if applied == Applied::Skipped {
            for nth in 0..operations.len() {
                record(nth, nothing(index)); // a replayed entry: its reply is never sent
            }
        }
        Ok(())
    }

    fn first_damaged(&self, keys: &[u64]) -> Failure {
        let damaged = keys.iter().find(|key| self.slots.read(**key).is_err());
        Failure::Damaged { slot: damaged.or(keys.first()).copied().unwrap_or_default() }
    }

    /// The slots that a command names.
    pub(super) fn keys_of(&self, command: &Command) -> impl Iterator<Item = u64> {
        command.operations().filter_map(|operation| self.key_of(&operation))
    }

    /// The slot that an operation of the log names. Whoever proposed it knew that there was room for it.
    fn key_of(&self, operation: &Operation<'_>) -> Option<u64> {
        slot_of(operation.data_key()?).filter(|slot| *slot < self.slots.geometry().slot_count())
    }

    /// The slot that a client may name.
    fn usable_key_of(&self, operation: &Operation<'_>) -> Option<u64> {
        slot_of(operation.data_key()?).filter(|slot| *slot < self.slot_count())
    }
}

impl AnyMachine for DiskMachine {
    fn kind(&self) -> MachineKind {
        MachineKind::Slots
    }

    fn request_ids(&self) -> &RequestIds {
        &self.request_ids
    }

    /// The limits of keys and values.
    fn limits(&self) -> Limits {
        let geometry = self.slots.geometry();
        Limits { slot_count: self.slot_count(), value_bytes_max: geometry.value_bytes() }
    }

    /// Applies the command of log entry `index`.
    ///
    /// # Errors
    /// Only for a sick node; a command that is refused has a reply.
    fn apply(&self, index: u64, command: &Command) -> Result<Reply, ApplyError> {
        let mut met = DamageMet::default();
        met.reply.index = index;
        met.reply.outcomes.reserve_exact(command.operation_count());
        for (nth, operations) in command.commands().enumerate() {
            self.apply_command(index, nth, operations, &mut met)?;
        }
        if met.commands.is_empty() {
            return Ok(met.reply);
        }
        Err(ApplyError::Damaged(Box::new(met)))
    }

    /// Reads what a command of nothing but reads asks for, at one moment.
    ///
    /// # Errors
    /// [`Failure::Damaged`] if a slot's checksum is wrong.
    fn read(&self, command: &Command) -> Result<Reply, Failure> {
        let slot_count = self.slot_count();
        let keys: SmallVec<[Option<u64>; 1]> =
            command.operations().map(|operation| self.usable_key_of(&operation)).collect();
        let wanted: SmallVec<[u64; 1]> = keys.iter().copied().flatten().collect();
        let mut budget = ReplyBudget::new();
        let actions = command.operations().zip(&keys).filter(|(_, key)| key.is_some());
        let mut actions = actions.map(|(operation, _)| operation.action);
        let mut read: SmallVec<[Outcome; 1]> = SmallVec::new();
        let mut take = |slot| {
            // One slot for each operation with a key, in their order.
            read.extend(actions.next().map(|action| budget.fit(&action, outcome_of(slot))));
        };
        match wanted.as_slice() {
            [] => {}
            [key] => take(self.slots.read(*key).map_err(|_| Failure::Damaged { slot: *key })?),
            keys => {
                self.slots.read_each(keys, &mut take).map_err(|_| self.first_damaged(keys))?;
            }
        }
        let mut read = read.into_iter();
        let none = || refused(Refusal::OutOfRange { slot_count });
        let outcomes = keys.iter().map(|key| key.and_then(|_| read.next()).unwrap_or_else(none));
        Ok(Reply { outcomes: outcomes.collect(), ..Reply::default() })
    }

    /// Checks what can be said of a command without looking at slots: a command that is refused
    /// here never becomes a log entry.
    ///
    /// # Errors
    /// A key beyond the last slot, or a value that no slot can hold.
    fn check(&self, command: &Command) -> Result<(), Refusal> {
        let bytes_max = u64::from(self.slots.geometry().value_bytes());
        for operation in command.operations() {
            let has_key =
                operation.data_key().is_none() || self.usable_key_of(&operation).is_some();
            if !has_key {
                return Err(Refusal::OutOfRange { slot_count: self.slot_count() });
            }
            check_operation(&operation, bytes_max, Holder::Slot)?;
        }
        Ok(())
    }

    /// What a key's slot holds now; `None` for a damaged slot, and a key that names none.
    fn slot(&self, key: &[u8]) -> Option<Versioned> {
        self.slots.read(slot_of(key)?).ok()
    }

    /// The version of an empty slot says it.
    fn absent_since(&self) -> u64 {
        0
    }

    fn never_waits(&self) -> bool {
        self.slots.fits_in_budget() && self.slots.live_count().is_some()
    }

    fn usage(&self) -> Usage {
        Usage {
            live_count: self.slots.live_count(),
            data_bytes: self.slots.geometry().file_bytes(),
            dirty_bytes: self.slots.dirty_pages() * PAGE_BYTES,
            written_pages: self.slots.written_pages(),
        }
    }

    /// A damaged slot is passed over, and noted: it is not counted as live either.
    fn live_keys(&self, from: u64, count: usize) -> Result<LiveKeys, Failure> {
        let end = self.slot_count();
        let (mut found, mut key) = (Vec::new(), from);
        let stop = from.saturating_add(SCAN_STEP.max(count as u64 * 16)).min(end);
        while key < stop && found.len() < count {
            if self.slots.read(key).is_ok_and(|slot| slot.value.is_some()) {
                found.push(Bytes::copy_from_slice(&slot_key(key)));
            }
            key += 1;
        }
        Ok((found, (key < end).then_some(key)))
    }

    /// What the superblock names.
    fn durable(&self) -> Option<Target> {
        let superblock = self.slots.superblock();
        let log_id = superblock.checkpoint?;
        let (membership, requests_crc) = (superblock.membership, superblock.requests_crc);
        Some(Target { log_id, membership, requests_crc })
    }

    fn checkpoint(
        &self,
        target: Target,
        log_durable: LogDurable<'_>,
        cancel: &AtomicBool,
    ) -> diskstore_storage::Result<Checkpointed> {
        self.slots.checkpoint(target, log_durable, cancel)
    }

    fn readable_from(&self) -> u64 {
        self.slots.readable_from()
    }

    fn set_readable_from(&self, index: u64) -> diskstore_storage::Result<()> {
        self.slots.set_readable_from(index)
    }

    /// No delete is ever forgotten.
    fn begin_send(&self) -> Sending {
        Sending { horizon: 0, end: self.slots.geometry().slot_count(), held: None }
    }

    /// Changed slots, for a snapshot.
    fn scan(
        &self,
        from: u64,
        changed_after: u64,
        bytes_max: usize,
    ) -> diskstore_storage::Result<Scanned> {
        let mut images = Vec::new();
        let next = self.slots.scan(from, changed_after, bytes_max, &mut images)?;
        Ok((Images::Slots(images), next))
    }

    fn begin_merge(&self, applied: u64, _horizon: u64) -> u64 {
        applied
    }

    fn merge(&self, images: &Images) -> diskstore_storage::Result<()> {
        match images {
            Images::Slots(images) => {
                images.iter().try_for_each(|image| self.slots.merge(image).map(|_| ()))
            }
            Images::Keys(_) => Err(other_kind("Slots", "Memory")),
        }
    }

    fn finish_merge(&self, _begin: u64) {}

    fn install(
        &self,
        target: Target,
        log_durable: LogDurable<'_>,
    ) -> diskstore_storage::Result<()> {
        self.slots.install(target, log_durable).map(|_| ())
    }

    fn paged(&self) -> Option<Paged<'_>> {
        Some(Paged::new(self))
    }

    /// Nothing that may change a page is taken while memory has no room for it. Whoever applies
    /// makes some, so this lasts for moments. What would have to know a slot that is known to be
    /// damaged is not taken before the slot is set.
    fn refusal(&self, command: &Command, damaged: &mut BTreeSet<u64>) -> Option<Failure> {
        if let Some(slot) = self.damage_in_the_way(command, damaged) {
            return Some(Failure::Damaged { slot });
        }
        let is_read =
            |operation: Operation<'_>| operation.action.is_read() || operation.channel().is_some();
        (self.slots.over_budget() && !command.operations().all(is_read)).then(|| Failure::Busy {
            reason: "changed pages take all of -memory-mib until some are written".into(),
        })
    }

    fn may_refuse(&self) -> bool {
        self.slots.over_budget() || self.slots.may_be_damaged()
    }

    /// Rounds that a checkpoint would take.
    fn checkpoint_steps(&self) -> u64 {
        self.slots.dirty_pages().div_ceil(ROUND_PAGES_DEFAULT)
    }
}

fn outcome_of(Versioned { index, value }: Versioned) -> Outcome {
    let existed = value.is_some();
    Outcome { version: index, changed: false, existed, body: Body::Value(value) }
}

fn refused(refusal: Refusal) -> Outcome {
    Outcome { version: 0, changed: false, existed: false, body: Body::Refused(refusal) }
}
