//! The machine of the key-value store: commands applied to keys in memory.
//!
//! Called by the applier and by replay (apply, in log order) and by readers; calls `storage::keys`.
//! Invariants:
//!
//! - I1: every committed command has the same effect and reply on every replica, however much
//!   memory the replica has: a command that needs too much is refused before it is proposed; once
//!   committed, it is applied. A deleted key has version 0, because a replica may have forgotten
//!   that it ever existed.
//! - I2: the locks of all keys of a command are held from its first write to its last.
//! - I3: the slot rule is checked once per key and entry, for all operations of the entry on it, which
//!   stand in one command (I2 of `raft/entries.rs`).

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use diskstore_storage::identity::MachineKind;
use diskstore_storage::keys::{Guard, Keys};
use diskstore_storage::state::{Applied, Checkpointed, Target, Versioned};
use smallvec::{SmallVec, smallvec};

use super::any::{AnyMachine, LiveKeys, Scanned};
use super::effect::{self, Draft, change_of, nothing, run};
use super::group::by_key;
use super::reply::ReplyBudget;
use super::{
    ApplyError, Fullness, Images, Limits, LogDurable, RequestIds, Sending, Usage, check_operation,
    other_kind,
};
use crate::command::{Action, Body, Command, Failure, Holder, Operation, Outcome, Refusal, Reply};

/// Applies commands to keys and reads from them.
#[derive(Debug, Clone)]
pub struct MemoryMachine {
    keys: Arc<Keys>,
    request_ids: RequestIds,
}

impl MemoryMachine {
    /// A machine over open keys.
    pub fn new(keys: Arc<Keys>) -> MemoryMachine {
        MemoryMachine { keys, request_ids: RequestIds::default() }
    }

    /// The keys underneath.
    pub fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// Applies operations that all have one key.
    fn apply_locked(
        &self,
        guard: &mut Guard<'_>,
        index: u64,
        operations: &[Operation<'_>],
        record: &mut dyn FnMut(usize, Outcome),
    ) {
        let Some(first) = operations.first() else { return };
        let value_bytes_max = u64::from(self.keys.value_bytes());
        let limits = effect::Limits { value_bytes_max, holder: Holder::Key, index };
        let applied = guard.apply(first.key, index, |base| {
            let value = base.value.map(Cow::Borrowed);
            let mut draft = Draft { version: base.version, value, changed: false };
            for (nth, operation) in operations.iter().enumerate() {
                record(nth, run(&mut draft, &operation.action, limits));
            }
            change_of(draft, operations)
        });
        if applied == Applied::Skipped {
            for nth in 0..operations.len() {
                record(nth, nothing(index)); // a replayed entry: its reply is never sent
            }
        }
    }
}

impl AnyMachine for MemoryMachine {
    fn kind(&self) -> MachineKind {
        MachineKind::Memory
    }

    fn request_ids(&self) -> &RequestIds {
        &self.request_ids
    }

    fn limits(&self) -> Limits {
        Limits { slot_count: 0, value_bytes_max: self.keys.value_bytes() }
    }

    /// Applies the command of log entry `index`.
    ///
    /// # Errors
    /// None: what is refused has a reply.
    fn apply(&self, index: u64, command: &Command) -> Result<Reply, ApplyError> {
        let mut reply = Reply { index, ..Reply::default() };
        reply.outcomes.reserve_exact(command.operation_count());
        for operations in command.commands() {
            let operations: SmallVec<[Operation<'_>; 1]> = operations.collect();
            let mut guard = self.keys.lock(operations.iter().filter_map(Operation::data_key));
            let applied = by_key::<Infallible>(index, &operations, |members, record| {
                self.apply_locked(&mut guard, index, members, record);
                Ok(())
            });
            let Ok(outcomes) = applied;
            reply.outcomes.extend(outcomes);
        }
        Ok(reply)
    }

    /// Reads what a command of nothing but reads asks for, at one moment.
    ///
    /// # Errors
    /// None.
    fn read(&self, command: &Command) -> Result<Reply, Failure> {
        let mut budget = ReplyBudget::new();
        let mut operations = command.operations();
        let outcomes = if let (Some(only), None) = (operations.next(), operations.next()) {
            smallvec![budget.fit(&only.action, outcome_of(self.keys.read(only.key)))]
        } else {
            let mut guard = self.keys.lock(command.operations().map(|operation| operation.key));
            let read = |Operation { key, action }: Operation<'_>| {
                budget.fit(&action, outcome_of(guard.read(key)))
            };
            command.operations().map(read).collect()
        };
        Ok(Reply { outcomes, ..Reply::default() })
    }

    fn check(&self, command: &Command) -> Result<(), Refusal> {
        let bytes_max = u64::from(self.keys.value_bytes());
        let check = |operation: Operation<'_>| check_operation(&operation, bytes_max, Holder::Key);
        command.operations().try_for_each(check)
    }

    fn slot(&self, key: &[u8]) -> Option<Versioned> {
        Some(self.keys.read(key))
    }

    /// A deleted key looks like one that never was (I1).
    fn absent_since(&self) -> u64 {
        self.keys.highest_index()
    }

    fn never_waits(&self) -> bool {
        true
    }

    fn usage(&self) -> Usage {
        Usage {
            live_count: Some(self.keys.live_count()),
            data_bytes: self.keys.memory_bytes(),
            dirty_bytes: self.keys.dirty_bytes(),
            written_pages: self.keys.written_pages(),
        }
    }

    fn live_keys(&self, from: u64, count: usize) -> Result<LiveKeys, Failure> {
        let page = self.keys.live_keys(from, count);
        Ok((page.found, page.next))
    }

    fn durable(&self) -> Option<Target> {
        self.keys.durable()
    }

    fn checkpoint(
        &self,
        target: Target,
        log_durable: LogDurable<'_>,
        cancel: &AtomicBool,
    ) -> diskstore_storage::Result<Checkpointed> {
        self.keys.checkpoint(target, log_durable, cancel)
    }

    fn readable_from(&self) -> u64 {
        self.keys.readable_from()
    }

    /// Durable with the first snapshot file that has what was merged since.
    fn set_readable_from(&self, index: u64) -> diskstore_storage::Result<()> {
        self.keys.set_readable_from(index);
        Ok(())
    }

    fn begin_send(&self) -> Sending {
        let held = self.keys.begin_send();
        Sending { horizon: held.horizon, end: u64::MAX, held: Some(held) }
    }

    fn scan(
        &self,
        from: u64,
        changed_after: u64,
        bytes_max: usize,
    ) -> diskstore_storage::Result<Scanned> {
        let page = self.keys.scan(from, changed_after, bytes_max);
        Ok((Images::Keys(page.found), page.next))
    }

    fn begin_merge(&self, applied: u64, horizon: u64) -> u64 {
        self.keys.begin_merge(applied, horizon)
    }

    fn merge(&self, images: &Images) -> diskstore_storage::Result<()> {
        match images {
            Images::Keys(images) => images.iter().try_for_each(|image| self.keys.merge(image)),
            Images::Slots(_) => Err(other_kind("Memory", "Slots")),
        }
    }

    fn finish_merge(&self, begin: u64) {
        self.keys.finish_merge(begin);
    }

    fn install(
        &self,
        target: Target,
        log_durable: LogDurable<'_>,
    ) -> diskstore_storage::Result<()> {
        self.keys.install(target, log_durable).map(|_| ())
    }

    /// Full memory takes no new values; deletes and reads go on, also beside what is refused.
    fn refusal(&self, command: &Command, _damaged: &mut BTreeSet<u64>) -> Option<Failure> {
        let takes_memory = |operation: Operation<'_>| match operation.action {
            Action::Get | Action::Measure | Action::Delete { .. } | Action::Publish { .. } => false,
            Action::Set { .. }
            | Action::Increment { .. }
            | Action::Append { .. }
            | Action::SetRange { .. } => true,
        };
        (self.keys.is_full() && command.operations().any(takes_memory)).then(|| Failure::Full {
            reason: "keys and values take all of -memory-mib: delete some, or allow more".into(),
        })
    }

    fn may_refuse(&self) -> bool {
        self.keys.is_full()
    }

    fn fullness(&self) -> Fullness {
        match self.keys.is_full() {
            false => Fullness::HasSpace,
            true if self.keys.is_full_of_deleted() => Fullness::FullOfDeleted,
            true => Fullness::Full,
        }
    }

    fn check_install_space(&self) -> diskstore_storage::Result<()> {
        self.keys.check_checkpoint_space()
    }

    fn checkpoint_steps(&self) -> u64 {
        self.keys.checkpoint_pieces()
    }
}

fn outcome_of(Versioned { index, value }: Versioned) -> Outcome {
    let existed = value.is_some();
    let version = if existed { index } else { 0 }; // I1
    Outcome { version, changed: false, existed, body: Body::Value(value) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use diskstore_storage::disk::{CrashMode, Disk, SimDisk};
    use diskstore_storage::keys::{New, Options};
    use diskstore_storage::state::Membership;
    use diskstore_storage::{LogId, Term};

    use super::*;
    use crate::command::{Answer, CommandBuilder, Condition};

    fn machine(disk: &SimDisk) -> MemoryMachine {
        disk.create_dir_all(Path::new("/node/tmp")).unwrap();
        let new = New { cluster_id: 1, value_bytes: 16, options: Options::new(1 << 20) };
        let keys = Keys::create(Arc::new(disk.clone()), Path::new("/node"), new).unwrap();
        MemoryMachine::new(Arc::new(keys))
    }

    fn command(operations: &[(&str, Action<'_>)]) -> Command {
        let mut builder = CommandBuilder::new();
        for (key, action) in operations {
            builder.push(&Operation { key: key.as_bytes(), action: *action }).unwrap();
        }
        builder.finish()
    }

    fn value(machine: &MemoryMachine, key: &str) -> Option<String> {
        let reply = machine.read(&Command::get(key.as_bytes()).unwrap()).unwrap();
        let Body::Value(value) = &reply.outcomes[0].body else { panic!("{reply:?}") };
        value.as_ref().map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    #[test]
    fn an_entry_is_applied_once_to_each_key_whatever_it_does_there() {
        let disk = SimDisk::new(1);
        let machine = machine(&disk);
        let add = |by| Action::Increment { by };
        let twice = command(&[("b", add(5)), ("a", add(1)), ("b", add(7))]);
        let reply = machine.apply(3, &twice).unwrap();
        let bodies: Vec<&Body> = reply.outcomes.iter().map(|outcome| &outcome.body).collect();
        assert_eq!(bodies, [&Body::Integer(5), &Body::Integer(1), &Body::Integer(12)]);
        machine.apply(3, &twice).unwrap(); // replayed
        assert_eq!(value(&machine, "b").as_deref(), Some("12"));
        let log_id = LogId { term: Term::new(1), index: 2 };
        let target = Target { log_id, membership: Membership::default(), requests_crc: 0 };
        // The file says 2, and has what 3 did.
        machine.keys().checkpoint(target, &mut || Ok(()), &AtomicBool::new(false)).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(disk.crash(CrashMode::Lost));
        let keys = Keys::open(disk, Path::new("/node"), Options::new(1 << 20)).unwrap();
        assert_eq!(keys.readable_from(), 3);
        let after = MemoryMachine::new(Arc::new(keys));
        after.apply(3, &twice).unwrap();
        assert_eq!(value(&after, "b").as_deref(), Some("12"));
    }

    #[test]
    fn the_commands_of_one_entry_are_applied_once_each_wherever_keys_are_ahead() {
        let machine = machine(&SimDisk::new(1));
        let add = |key| command(&[(key, Action::Increment { by: 1 })]);
        let joined = Command::join(&["a", "b", "c"].map(add));
        machine.apply(3, &add("b")).unwrap(); // as a replay may find it
        for _ in 0..2 {
            let reply = machine.apply(3, &joined).unwrap();
            assert_eq!(reply.outcomes.len(), 3);
        }
        for key in ["a", "b", "c"] {
            assert_eq!(value(&machine, key).as_deref(), Some("1"), "{key}");
        }
    }

    #[test]
    fn a_deleted_key_is_for_commands_what_one_is_that_never_was() {
        let machine = machine(&SimDisk::new(1));
        let (condition, answer) = (Condition::IfVersion(0), Answer::Status);
        let set = command(&[("k", Action::Set { value: b"v", condition, answer })]);
        machine.apply(1, &set).unwrap();
        let outcome = machine.apply(2, &set).unwrap().outcomes[0].clone();
        assert!(!outcome.changed, "{outcome:?}");
        machine.apply(3, &Command::delete(b"k").unwrap()).unwrap();
        let get = Command::get(b"k").unwrap();
        for reply in [machine.read(&get).unwrap(), machine.apply(4, &get).unwrap()] {
            assert_eq!((reply.outcomes[0].version, reply.outcomes[0].existed), (0, false));
        }
        assert_eq!(machine.keys().read(b"k").index, 3);
        assert!(machine.apply(5, &set).unwrap().outcomes[0].changed);
    }

    #[test]
    fn a_value_that_is_too_long_is_refused_before_and_when_it_is_applied() {
        let machine = machine(&SimDisk::new(1));
        let refusal = Refusal::TooLarge { bytes: 17, bytes_max: 16, holder: Holder::Key };
        let long = Command::set(b"k", &[b'x'; 17]).unwrap();
        assert_eq!(machine.check(&long), Err(refusal.clone()));
        assert_eq!(machine.apply(1, &long).unwrap().outcomes[0].body, Body::Refused(refusal));
        assert_eq!(value(&machine, "k"), None);
    }
}
