use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use diskstore_storage::disk::{CrashMode, RealDisk, SimDisk};
use diskstore_storage::slots::{Geometry, New, Options, Slots};
use diskstore_storage::state::Membership;
use diskstore_storage::{LogId, LogIndex, SlotIndex, Term};

use super::*;
use crate::command::{Action, Answer, Command, CommandBuilder, Condition, Reply};
use crate::machine::{AnyMachine, ApplyError, DiskMachine, Machine};
use crate::oplog::Record;

const SLOT_COUNT: u64 = 12;
const VALUE_BYTES: u32 = 24;

type JournalState = BTreeMap<String, Vec<u8>>;

/// Random numbers that a seed gives.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % bound
    }
}

fn options(folder: &Path) -> JournalOptions {
    JournalOptions {
        directory: folder.to_owned(),
        parts: Parts::of_node(Arc::new(RealDisk::new()), &folder.join("logs"), "log1"),
        part_bytes_max: 700,
        sync_bytes: 200,
        cluster_id: 7,
        slot_count: SLOT_COUNT,
        value_bytes_max: VALUE_BYTES,
    }
}

fn open(folder: &Path) -> JournalMachine {
    JournalMachine::open(Arc::new(RealDisk::new()), options(folder)).unwrap()
}

fn slots() -> DiskMachine {
    let geometry = Geometry::new(SLOT_COUNT, VALUE_BYTES).unwrap();
    let new = New { geometry, cluster_id: 7, options: Options::new(1 << 30) };
    let disk = SimDisk::new(1);
    disk.create_dir_all(Path::new("/n")).unwrap();
    let slots = Slots::create(&disk, Path::new("/n"), new, &mut |_, _| {}).unwrap();
    DiskMachine::new(Arc::new(slots))
}

fn target(index: u64) -> Target {
    let membership = Membership { log_id: None, body: bytes::Bytes::new() };
    Target { log_id: LogId { term: Term::new(1), index }, membership, requests_crc: 0 }
}

fn set(slot: u64, value: &[u8]) -> Command {
    let action = Action::Set { value, condition: Condition::Always, answer: Answer::Status };
    Command::single(&Operation { key: &slot_key(slot), action }).unwrap()
}

/// A command of up to four operations of any kind.
fn command(random: &mut Random) -> Command {
    let mut builder = CommandBuilder::new();
    for _ in 0..=random.below(4) {
        let key = slot_key(random.below(SLOT_COUNT));
        let text = random.below(100_000).to_string();
        let value = text.as_bytes();
        let answer = if random.below(2) == 0 { Answer::Status } else { Answer::Previous };
        let condition = match random.below(6) {
            0 => Condition::IfAbsent,
            1 => Condition::IfPresent,
            2 => Condition::IfVersion(random.below(200)),
            _ => Condition::Always,
        };
        let action = match random.below(8) {
            0 => Action::Get,
            1 => Action::Delete { condition, answer },
            2 => Action::Increment { by: 3 },
            3 => Action::Append { value },
            4 => Action::SetRange { offset: random.below(22), value },
            _ => Action::Set { value, condition, answer },
        };
        builder.push(&Operation { key: &key, action }).unwrap();
    }
    builder.finish()
}

fn state_of(slots: &DiskMachine) -> JournalState {
    let held = (0..SLOT_COUNT)
        .filter_map(|slot| Some((slot.to_string(), slots.slot(&slot_key(slot))?.value?.to_vec())));
    held.collect()
}

fn records_in(folder: &Path) -> Vec<(u64, Mark, RecordKind, String, Vec<u8>)> {
    records_of(&options(folder).parts)
}

fn records_of(parts: &Parts) -> Vec<(u64, Mark, RecordKind, String, Vec<u8>)> {
    let mut records = PartRecords::open(parts, 1).unwrap();
    let mut found = Vec::new();
    while let Some(next) = records.next_record().unwrap() {
        let Record { index, mark, kind, key, value } = next.record;
        found.push((index, mark, kind, String::from_utf8(key.to_vec()).unwrap(), value.to_vec()));
    }
    found
}

/// What the files lead to, one record after the other.
fn state_in(folder: &Path) -> JournalState {
    let mut state = JournalState::new();
    for (_, _, kind, key, value) in records_in(folder) {
        match kind {
            RecordKind::Get => {}
            RecordKind::Set => drop(state.insert(key, value)),
            RecordKind::Delete => drop(state.remove(&key)),
        }
    }
    state
}

fn check(journal: &JournalMachine, slots: &DiskMachine, folder: &Path) {
    journal.hand_on().unwrap();
    assert_eq!(state_in(folder), state_of(slots));
    for slot in 0..SLOT_COUNT {
        let (here, there) = (journal.slot(&slot_key(slot)), slots.slot(&slot_key(slot)).unwrap());
        assert_eq!(here.unwrap_or_default(), there, "slot {slot}");
    }
    assert_eq!(journal.usage().live_count, Some(state_of(slots).len() as u64));
    // No entry stands twice: its records follow each other, and no other entry has its index.
    let entries = records_in(folder).into_iter().filter(|record| record.1 != Mark::Image);
    let indexes: Vec<u64> = entries.map(|record| record.0).collect();
    assert!(indexes.is_sorted(), "{indexes:?}");
}

#[test]
fn replaying_the_files_gives_the_state_of_the_slots_through_crashes_and_snapshots() {
    for seed in 0..30 {
        let folder = tempfile::tempdir().unwrap();
        let mut random = Random(seed);
        let slots = slots();
        let mut journal = open(folder.path());
        let mut log: Vec<Command> = Vec::new();
        let (mut applied, mut durable) = (0, 0);
        for _ in 0..120 {
            log.push(command(&mut random));
            let index = log.len() as u64;
            let expected = slots.apply(index, &log[log.len() - 1]).unwrap();
            match random.below(20) {
                0 => {
                    // It was away, and the log up to here is gone: the slots come, some of them
                    // ahead, in an order of their own.
                    let begin = applied.max(index.saturating_sub(random.below(3)));
                    assert_eq!(journal.begin_merge(applied, 0), applied);
                    for slot in (0..SLOT_COUNT).rev() {
                        let image = slots.slots().image(slot).unwrap();
                        if image.index.get() > applied {
                            let value = image.value.as_deref();
                            journal.merge_slot(image.slot, image.index, value).unwrap();
                        }
                    }
                    journal.install(target(begin), &mut || Ok(())).unwrap();
                    (applied, durable) = (begin, begin);
                }
                1 => {
                    // Entries behind the one that it is asked for are applied meanwhile.
                    durable = durable.max(applied.saturating_sub(random.below(4)));
                    journal.write_checkpoint(target(durable), &mut || Ok(())).unwrap();
                }
                2 => {
                    // A crash: what is behind the checkpoint is there, torn, or gone.
                    journal.hand_on().unwrap();
                    drop(journal);
                    let parts = options(folder.path()).parts;
                    let last = parts.path(parts.count().unwrap());
                    let mut bytes = fs::read(&last).unwrap();
                    bytes.truncate(bytes.len().saturating_sub(3).max(durable_bytes(folder.path())));
                    bytes.extend_from_slice(b"torn");
                    fs::write(&last, bytes).unwrap();
                    journal = open(folder.path());
                    applied = durable;
                }
                _ => {}
            }
            if random.below(3) > 0 {
                continue; // it lags behind
            }
            for (nth, command) in log.iter().enumerate().skip(usize::try_from(applied).unwrap()) {
                let reply = journal.apply(nth as u64 + 1, command).unwrap();
                if nth as u64 + 1 == index && applied + 1 == index {
                    let changed = |reply: &Reply| -> Vec<bool> {
                        reply.outcomes.iter().map(|outcome| outcome.changed).collect()
                    };
                    let is_known = journal.readable_from() < index;
                    assert!(!is_known || changed(&reply) == changed(&expected));
                }
            }
            applied = index;
            check(&journal, &slots, folder.path());
        }
    }
}

/// Bytes of the last file that `journal.dat` names, if it is the last.
fn durable_bytes(folder: &Path) -> usize {
    let checkpoint = Checkpoint::read(&RealDisk::new(), folder).unwrap().unwrap();
    let is_last = options(folder).parts.count().unwrap() == checkpoint.end.nth;
    if is_last { usize::try_from(checkpoint.end.offset).unwrap() } else { 0 }
}

#[test]
fn what_a_snapshot_of_everything_does_not_name_is_recorded_as_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    for slot in 1..=3 {
        journal.apply(slot, &set(slot, b"old")).unwrap();
    }
    assert_eq!(journal.begin_merge(3, 50), 0);
    journal.merge_slot(SlotIndex::new(1), LogIndex::new(1), Some(b"old")).unwrap();
    journal.merge_slot(SlotIndex::new(2), LogIndex::new(40), Some(b"new")).unwrap();
    journal.finish_merge(60);
    journal.install(target(60), &mut || Ok(())).unwrap();
    let expected = [("1", "old"), ("2", "new")];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec()));
    assert_eq!(state_in(folder.path()), JournalState::from(expected));
    let images = records_in(folder.path()).into_iter().filter(|record| record.1 == Mark::Image);
    let images: Vec<_> = images.map(|(index, _, kind, key, _)| (index, kind, key)).collect();
    assert_eq!(images, [(40, RecordKind::Set, "2".into()), (60, RecordKind::Delete, "3".into())]);
    assert_eq!(journal.durable(), Some(target(60)));
}

#[test]
fn files_that_are_lost_or_of_another_are_refused_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |folder: &Path| {
        JournalMachine::open(Arc::new(RealDisk::new()), options(folder)).unwrap_err().to_string()
    };
    let journal = open(folder.path());
    journal.apply(1, &set(1, b"x")).unwrap();
    journal.write_checkpoint(target(1), &mut || Ok(())).unwrap();
    drop(journal);
    let path = options(folder.path()).parts.path(1);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(refused(folder.path()).contains("ends before byte"), "{}", refused(folder.path()));
    fs::write(&path, &bytes).unwrap();
    fs::remove_file(folder.path().join(JOURNAL_FILE)).unwrap();
    assert!(refused(folder.path()).contains("an earlier logger"), "{}", refused(folder.path()));
    assert_eq!(fs::read(&path).unwrap(), bytes, "nothing was changed");
}

/// Opens a journal on a simulated disk.
fn open_on(disk: &SimDisk) -> std::result::Result<JournalMachine, JournalError> {
    let options = options(Path::new("/n"));
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let parts = Parts::of_node(shared.clone(), Path::new("/n/logs"), "log1");
    JournalMachine::open(shared, JournalOptions { parts, ..options })
}

/// The value that an entry sets; some look like what a power loss leaves.
fn value_of(index: u64) -> Vec<u8> {
    let byte = if index.is_multiple_of(4) { 0 } else { u8::try_from(index).unwrap() };
    vec![byte; VALUE_BYTES as usize]
}

/// Records entries from `first` on, with checkpoints; tells the last one that returned.
fn record_from(journal: &JournalMachine, first: u64, durable: &mut u64) -> Result<()> {
    for index in first..=ENTRY_COUNT {
        let refused = |error: ApplyError| Error::Io {
            operation: "write",
            path: PathBuf::new(),
            offset: 0,
            source: std::io::Error::other(error),
        };
        journal.apply(index, &set(index % SLOT_COUNT, &value_of(index))).map_err(refused)?;
        if index.is_multiple_of(3) {
            journal.hand_on().map_err(refused)?;
        }
        if index.is_multiple_of(17) {
            journal.write_checkpoint(target(index - 2), &mut || Ok(()))?;
            *durable = index - 2;
        }
    }
    Ok(())
}

const ENTRY_COUNT: u64 = 90;

#[test]
fn a_crash_at_every_operation_loses_nothing_behind_the_checkpoint() {
    let made = SimDisk::new(1);
    made.create_dir_all(Path::new("/n")).unwrap();
    made.sync_dir(Path::new("/n")).unwrap();
    let whole = made.copy();
    let before = whole.operation_count();
    record_from(&open_on(&whole).unwrap(), 1, &mut 0).unwrap();
    let count = whole.operation_count() - before;
    assert!(count > 60, "{count}");
    for at in 0..count {
        let cut = made.copy();
        cut.crash_at(at);
        let mut durable = 0;
        let opened = open_on(&cut);
        let recorded = opened.is_ok_and(|journal| record_from(&journal, 1, &mut durable).is_ok());
        assert!(!recorded, "operation {at} was not noticed");
        let mut modes = vec![CrashMode::Lost, CrashMode::All];
        modes.extend((0..4).map(|nth| CrashMode::Torn { seed: at + 1_000 * nth }));
        modes.extend((0..4).map(|nth| CrashMode::Reordered { seed: at + 1_000 * nth }));
        for mode in modes {
            let image = cut.crash(mode);
            let journal = open_on(&image).unwrap();
            let found = journal.durable().map_or(0, |target| target.log_id.index);
            assert!(found >= durable, "operation {at}, {mode:?}: {found}, not {durable}");
            record_from(&journal, found + 1, &mut 0).unwrap();
            journal.write_checkpoint(target(ENTRY_COUNT), &mut || Ok(())).unwrap();
            drop(journal);
            let image = image.crash(CrashMode::Lost);
            let journal = open_on(&image).unwrap();
            let found = records_of(&journal.shared.options.parts);
            let expected = (1..=ENTRY_COUNT).map(|index| {
                let slot = (index % SLOT_COUNT).to_string();
                (index, Mark::None, RecordKind::Set, slot, value_of(index))
            });
            assert!(found.into_iter().eq(expected), "operation {at}, {mode:?}");
        }
    }
}

#[test]
fn a_request_that_was_sent_again_is_recorded_once_also_behind_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let once = |index, id: &[u8], slot| {
        let command = set(slot, b"v").with_request_id(id).unwrap();
        move |machine: &Machine| drop(machine.apply(index, &command))
    };
    let opened = || {
        let machine = Machine::Journal(open(folder.path()));
        let disk = Arc::new(RealDisk::new());
        machine.open_request_ids(disk, folder.path(), 7).unwrap();
        machine
    };
    let indexes =
        || -> Vec<u64> { records_in(folder.path()).into_iter().map(|(index, ..)| index).collect() };
    let machine = opened();
    once(1, b"a", 1)(&machine);
    once(2, b"a", 1)(&machine);
    once(3, b"b", 2)(&machine);
    let requests_crc = {
        let ids = machine.request_ids();
        ids.keep(target(3).log_id, &ids.at(3)).unwrap()
    };
    let target = Target { requests_crc, ..target(3) };
    machine.checkpoint(target, &mut || Ok(()), &AtomicBool::new(false)).unwrap();
    assert_eq!(indexes(), [1, 3]);
    drop(machine);
    let machine = opened();
    once(4, b"b", 2)(&machine);
    once(5, b"b", 3)(&machine);
    once(6, b"c", 3)(&machine);
    machine.hand_on().unwrap();
    assert_eq!(indexes(), [1, 3, 6]);
}
