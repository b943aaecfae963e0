//! A node's files through power loss: scripted commands go into the log, are synced and applied,
//! checkpoints and purges come between. The power goes at every operation on the disk; what it
//! leaves is opened as a start does it (the last round played back, the log recovered, both made to
//! agree, the log replayed behind the checkpoint) and compared with a model that knows nothing of
//! slots and logs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use diskstore_storage::Result;
use diskstore_storage::disk::{CrashMode, SimDisk};
use diskstore_storage::slots::{Geometry, Slots};
use diskstore_storage::state::{Membership, Target};
use diskstore_storage::wal::{SyncMode, Wal};

use super::{create_slots, directory, disk, entry, log_id, open_slots, open_wal, sync};
use crate::command::{
    Action, Answer, Body, Command, CommandBuilder, Condition, Operation, Outcome, slot_key, slot_of,
};
use crate::machine::{AnyMachine, DiskMachine};
use crate::node::open::agree;

/// With its header 1,040 bytes: one slot in four crosses a page.
const VALUE_BYTES: u32 = 1024;
const SLOT_COUNT: u64 = 11;

/// What a slot holds: version and value.
type Content = (u64, Option<Vec<u8>>);

/// What the slots should hold, from the meaning of the commands alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Model(BTreeMap<u64, Content>);

impl Model {
    /// Applies entry `index`; says for each operation whether it changed its slot, and the integer
    /// that it answers.
    fn apply(&mut self, index: u64, command: &Command) -> Vec<(bool, Option<i64>)> {
        let before = self.0.clone();
        let mut answers = Vec::new();
        let mut changed = Vec::new();
        for operation in command.operations() {
            let slot = slot_of(operation.key).unwrap();
            let (_, value) = self.0.entry(slot).or_default();
            let (new, answer) = effect(value.as_deref(), &operation.action);
            let is_changed = !matches!(new, New::Kept);
            match new {
                New::Kept => {}
                New::Deleted => *value = None,
                New::Value(bytes) => *value = Some(bytes),
            }
            if is_changed {
                changed.push(slot);
            }
            answers.push((is_changed, answer));
        }
        for slot in changed {
            self.0.entry(slot).or_default().0 = index;
        }
        for (slot, (version, _)) in &before {
            assert!(self.0.get(slot).is_some_and(|(now, _)| now >= version));
        }
        answers
    }

    fn after(entries: &[Command], count: usize) -> Model {
        let mut model = Model::default();
        for (position, command) in entries.iter().take(count).enumerate() {
            model.apply(position as u64 + 1, command);
        }
        model.0.retain(|_, (version, _)| *version > 0);
        model
    }
}

/// What becomes of a slot's value.
enum New {
    Kept,
    Deleted,
    Value(Vec<u8>),
}

/// The new value, and the integer that is answered.
fn effect(old: Option<&[u8]>, action: &Action<'_>) -> (New, Option<i64>) {
    let fits = |value: &Vec<u8>| value.len() <= VALUE_BYTES as usize;
    let length = |value: &[u8]| i64::try_from(value.len()).unwrap();
    match *action {
        Action::Set { value, condition, .. } => {
            let holds = condition == Condition::Always || old.is_none();
            (if holds { New::Value(value.to_vec()) } else { New::Kept }, None)
        }
        Action::Delete { .. } => (if old.is_some() { New::Deleted } else { New::Kept }, None),
        Action::Increment { by } => {
            let text = std::str::from_utf8(old.unwrap_or(b"0")).unwrap_or("");
            let Ok(number) = text.parse::<i64>() else { return (New::Kept, None) };
            (New::Value((number + by).to_string().into_bytes()), Some(number + by))
        }
        Action::Append { value } => {
            let new = [old.unwrap_or_default(), value].concat();
            let answer = length(&new);
            if fits(&new) { (New::Value(new), Some(answer)) } else { (New::Kept, None) }
        }
        Action::SetRange { value: [], .. } => (New::Kept, Some(length(old.unwrap_or_default()))),
        Action::SetRange { offset, value } => {
            let offset = usize::try_from(offset).unwrap();
            let mut new = old.unwrap_or_default().to_vec();
            new.resize(new.len().max(offset + value.len()), 0);
            new[offset..offset + value.len()].copy_from_slice(value);
            let answer = length(&new);
            if fits(&new) { (New::Value(new), Some(answer)) } else { (New::Kept, None) }
        }
        Action::Get | Action::Measure | Action::Publish { .. } => (New::Kept, None),
    }
}

/// Numbers that only look like chance.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn bytes(&mut self, count: u64) -> Vec<u8> {
        let letter = b'a' + u8::try_from(self.below(26)).unwrap();
        vec![letter; usize::try_from(count).unwrap()]
    }

    /// One operation; slots 0 to 2 are counters, the others hold bytes.
    fn push(&mut self, builder: &mut CommandBuilder, slot: u64) {
        let large = self.below(u64::from(VALUE_BYTES) + 1);
        let value = self.bytes(large);
        let small_bytes = self.below(200);
        let small = self.bytes(small_bytes);
        let (condition, answer) = (Condition::Always, Answer::Status);
        let action = match self.below(8) {
            _ if slot < 3 => Action::Increment { by: 7 },
            0 | 1 => Action::Set { value: &value, condition, answer },
            2 => Action::Set { value: &small, condition: Condition::IfAbsent, answer },
            3 => Action::Delete { condition, answer },
            4 | 5 => Action::Append { value: &small },
            6 => Action::SetRange { offset: large.saturating_sub(200), value: &small },
            _ => Action::Increment { by: -1 },
        };
        builder.push(&Operation { key: &slot_key(slot), action }).unwrap();
    }

    /// A command: often one operation, sometimes a batch in which slots come again.
    fn command(&mut self) -> Command {
        let mut builder = CommandBuilder::new();
        let count = if self.below(3) == 0 { 2 + self.below(5) } else { 1 };
        let mut slot = self.below(SLOT_COUNT);
        for _ in 0..count {
            self.push(&mut builder, slot);
            if self.below(2) == 0 {
                slot = self.below(SLOT_COUNT);
            }
        }
        builder.finish()
    }
}

/// When commands are applied: C18 allows both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Applying {
    /// Once the member's own log is durable, as on a leader that a follower keeps waiting.
    AfterSync,
    /// As soon as the others made a majority.
    BeforeSync,
    /// Once it is written, under `-sync batch` and `-sync never`: nothing is promised to survive a
    /// power loss but what a checkpoint has seen.
    Unsynced,
}

impl Applying {
    fn sync_mode(self) -> SyncMode {
        match self {
            Applying::AfterSync | Applying::BeforeSync => SyncMode::Always,
            Applying::Unsynced => SyncMode::OnRequest,
        }
    }
}

/// What had happened when the power went.
#[derive(Default)]
struct History {
    /// Entry `i + 1` of the log.
    commands: Vec<Command>,
    /// That many are acknowledged: a sync that covers them has returned.
    acknowledged: usize,
    /// The checkpoint that was reported last.
    checkpoint: u64,
}

struct Run<'a> {
    wal: &'a Wal,
    machine: DiskMachine,
    history: &'a mut History,
    model: Model,
    applied: usize,
}

impl Run<'_> {
    fn propose(&mut self, numbers: &mut Numbers) -> Result<()> {
        // An entry of up to three commands, of which no two name one slot.
        let mut commands = vec![numbers.command()];
        for _ in 0..numbers.below(3) {
            let next = numbers.command();
            let named = |key| commands.iter().flat_map(Command::operations).any(|it| it.key == key);
            if !next.operations().any(|operation| named(operation.key)) {
                commands.push(next);
            }
        }
        let command = Command::join(&commands);
        self.history.commands.push(command.clone());
        let index = self.history.commands.len() as u64;
        self.wal.append([entry(index, command.bytes().clone())])?;
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.wal.save_committed(log_id(self.history.commands.len() as u64));
        sync(self.wal)?;
        if self.wal.sync_mode() == SyncMode::Always {
            self.history.acknowledged = self.history.commands.len();
        }
        Ok(())
    }

    /// Applies what is in the log, and compares every reply with the model's.
    fn apply(&mut self) {
        for command in &self.history.commands[self.applied..] {
            let index = self.applied as u64 + 1;
            let reply = self.machine.apply(index, command).unwrap();
            let answers = reply.outcomes.iter().map(|Outcome { changed, body, .. }| {
                let integer = if let Body::Integer(integer) = body { Some(*integer) } else { None };
                (*changed, integer)
            });
            let expected = self.model.apply(index, command);
            assert_eq!(answers.collect::<Vec<_>>(), expected, "{command:?}");
            self.applied += 1;
        }
    }

    /// A checkpoint, and the purge behind it.
    fn checkpoint(&mut self) -> Result<()> {
        let index = self.applied as u64;
        checkpoint(self.machine.slots(), self.wal, index)?;
        self.history.checkpoint = index;
        self.history.acknowledged = self.history.acknowledged.max(self.applied);
        self.wal.purge(log_id(index - 1));
        sync(self.wal)?;
        self.wal.reclaim()?;
        Ok(())
    }
}

fn checkpoint(slots: &Slots, wal: &Wal, index: u64) -> Result<()> {
    let target =
        Target { log_id: log_id(index), membership: Membership::default(), requests_crc: 0 };
    let mut log_durable = || {
        wal.barrier();
        sync(wal)?;
        wal.sync() // as the syncer does for a checkpoint
    };
    slots.checkpoint(target, &mut log_durable, &AtomicBool::new(false)).map(|_| ())
}

/// Steps of the whole script.
const STEPS: u64 = 48;

/// The script, up to its end or the power loss.
fn run(disk: &SimDisk, applying: Applying, history: &mut History) -> Result<()> {
    run_steps(disk, applying, history, STEPS)
}

fn run_steps(disk: &SimDisk, applying: Applying, history: &mut History, steps: u64) -> Result<()> {
    let wal = open_wal(disk, applying.sync_mode())?;
    wal.append([entry(0, Bytes::new())])?;
    let machine = DiskMachine::new(Arc::new(open_slots(disk)?));
    let mut run = Run { wal: &wal, machine, history, model: Model::default(), applied: 0 };
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    for step in 1..=steps {
        for _ in 0..=numbers.below(4) {
            run.propose(&mut numbers)?;
        }
        match applying {
            Applying::BeforeSync => run.apply(),
            Applying::AfterSync | Applying::Unsynced => {
                run.sync()?;
                run.apply();
            }
        }
        if step % 8 == 0 {
            run.checkpoint()?;
        } else if applying == Applying::BeforeSync {
            run.sync()?;
        }
    }
    Ok(())
}

fn content(slots: &Slots) -> BTreeMap<u64, Content> {
    let read = |slot| {
        let found = slots.read(slot).unwrap();
        (slot, (found.index, found.value.map(|value| value.to_vec())))
    };
    (0..SLOT_COUNT).map(read).filter(|(_, (version, _))| *version > 0).collect()
}

/// Opens what the power loss left, as a start does it, and holds it to what was promised.
fn check(after: &SimDisk, applying: Applying, history: &History) -> Result<()> {
    let slots = Arc::new(open_slots(after)?);
    let wal = open_wal(after, applying.sync_mode())?;
    agree(&wal, slots.superblock().checkpoint, directory()).map_err(|error| match error {
        crate::node::StartError::Storage(error) => error,
        other => panic!("{other}"),
    })?;
    let checkpoint_index = slots.superblock().checkpoint.map_or(0, |log_id| log_id.index);
    assert!(checkpoint_index >= history.checkpoint, "a checkpoint is gone");
    let last = wal.state().last.map_or(0, |last| last.index);
    assert!(last >= history.acknowledged as u64, "acknowledged entries are gone");
    assert!(content(&slots).values().all(|(version, _)| *version <= last), "slots beyond the log");

    let machine = DiskMachine::new(slots.clone());
    let entries = wal.read(checkpoint_index + 1..last + 1, usize::MAX)?;
    assert_eq!(entries.len() as u64, last - checkpoint_index);
    for entry in entries {
        let index = entry.log_id.index;
        let proposed = &history.commands[usize::try_from(index).unwrap() - 1];
        assert_eq!(entry.payload.bytes(), proposed.bytes(), "entry {index}");
        machine.apply(index, &Command::decode(entry.payload).unwrap()).unwrap();
    }
    let expected = Model::after(&history.commands, usize::try_from(last).unwrap()).0;
    assert_eq!(content(&slots), expected);
    if last > 0 {
        checkpoint(&slots, &wal, last)?; // and it can go on
    }
    Ok(())
}

fn prepared() -> SimDisk {
    let disk = disk(3);
    drop(create_slots(&disk, Geometry::new(SLOT_COUNT, VALUE_BYTES).unwrap()));
    disk
}

fn power_loss_at_every_operation(applying: Applying) {
    let disk = prepared();
    let before = disk.operation_count();
    let mut whole = History::default();
    run(&disk, applying, &mut whole).unwrap();
    check(&disk.crash(CrashMode::Lost), applying, &whole).unwrap();
    let operations = disk.operation_count() - before;
    assert!(operations > 100, "only {operations} operations");
    for operation in 0..operations {
        let disk = prepared();
        disk.crash_at(operation);
        let mut history = History::default();
        assert!(run(&disk, applying, &mut history).is_err(), "nobody noticed {operation}");
        let seed = operation;
        let modes = [
            CrashMode::Lost,
            CrashMode::All,
            CrashMode::Torn { seed },
            CrashMode::Reordered { seed },
            CrashMode::Reordered { seed: seed + 1000 },
        ];
        for mode in modes {
            check(&disk.crash(mode), applying, &history).unwrap();
        }
    }
}

#[test]
fn acknowledged_commands_survive_a_power_loss_at_every_operation() {
    power_loss_at_every_operation(Applying::AfterSync);
}

/// H8: what was applied before it was durable here must not be found half in the slots.
#[test]
fn commands_applied_before_their_sync_survive_whole_or_not_at_all() {
    power_loss_at_every_operation(Applying::BeforeSync);
}

/// Less is promised, but what is there is a state that was, and nothing looks damaged.
#[test]
fn a_log_that_is_not_synced_loses_its_end_alone_and_no_checkpoint() {
    power_loss_at_every_operation(Applying::Unsynced);
}

#[test]
fn a_power_loss_during_recovery_changes_nothing() {
    let mut cuts = 0;
    for operation in (5..400).step_by(23) {
        let disk = prepared();
        disk.crash_at(operation);
        let mut history = History::default();
        if run(&disk, Applying::AfterSync, &mut history).is_ok() {
            break;
        }
        let first = disk.crash(CrashMode::Reordered { seed: operation });
        for again in 0..100 {
            let second = first.copy();
            second.crash_at(again);
            if check(&second, Applying::AfterSync, &history).is_ok() {
                break;
            }
            cuts += 1;
            check(&second.crash(CrashMode::Torn { seed: again }), Applying::AfterSync, &history)
                .unwrap();
            check(&second.crash(CrashMode::Lost), Applying::AfterSync, &history).unwrap();
        }
    }
    assert!(cuts > 50, "only {cuts} recoveries were cut off");
}

/// The process is killed, which loses nothing; the next one reads what only the system had, goes on,
/// and then the power goes.
#[test]
fn what_a_start_found_after_a_kill_looks_damaged_after_no_power_loss() {
    for steps in 1..STEPS {
        for more in [0, 1, 5] {
            let disk = prepared();
            let mut history = History::default();
            run_steps(&disk, Applying::Unsynced, &mut history, steps).unwrap();
            let wal = open_wal(&disk, SyncMode::OnRequest).unwrap();
            let last = history.commands.len() as u64;
            assert_eq!(wal.state().last, Some(log_id(last)), "a kill loses nothing");
            let mut numbers = Numbers(steps);
            for index in last + 1..=last + more {
                let command = numbers.command();
                wal.append([entry(index, command.bytes().clone())]).unwrap();
                sync(&wal).unwrap();
                history.commands.push(command);
            }
            let seed = steps;
            for mode in [CrashMode::Lost, CrashMode::Torn { seed }, CrashMode::Reordered { seed }] {
                check(&disk.crash(mode), Applying::Unsynced, &history).unwrap();
            }
        }
    }
}
