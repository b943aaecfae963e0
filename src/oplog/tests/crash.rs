//! The log on a disk that loses power: a scripted run is cut off at every operation on the disk, the
//! disk keeps nothing, all, or any sectors of what was not synced, and the log goes on from what is
//! left as Raft's log would have it go on.

use diskstore_storage::disk::{CrashMode, SECTOR_BYTES};

use super::*;

/// So small that a few entries fill a file.
const PART_BYTES_MAX: u64 = 3_000;

/// What is done with the log, in order.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Records an entry of so many records, each with a value of so many bytes.
    Entry { records: u64, value_bytes: usize },
    /// Marks that so many entries came by snapshot.
    Gap(u64),
    /// Makes it durable, so that the entries count as applied.
    Sync,
    /// Reads the log anew, as a process does that was killed.
    Reopen,
}

use Step::{Entry, Gap, Reopen, Sync};

const SCRIPT: &[Step] = &[
    Entry { records: 1, value_bytes: 10 },
    Sync,
    Entry { records: 3, value_bytes: 200 },
    Entry { records: 1, value_bytes: 700 },
    Sync,
    Entry { records: 2, value_bytes: 1_100 },
    Entry { records: 1, value_bytes: 5 },
    Entry { records: 4, value_bytes: 300 },
    Sync,
    Gap(20),
    Sync,
    Reopen,
    Entry { records: 1, value_bytes: 2_900 },
    Entry { records: 3, value_bytes: 5 },
    Sync,
    Entry { records: 2, value_bytes: 900 },
    Entry { records: 5, value_bytes: 600 },
    Entry { records: 1, value_bytes: 40 },
    Entry { records: 1, value_bytes: 1_500 },
    Gap(3),
    Entry { records: 2, value_bytes: 700 },
    Sync,
    Entry { records: 6, value_bytes: 120 },
    Reopen,
    Entry { records: 1, value_bytes: 60 },
    Sync,
];

/// Byte `position` of the values of an entry.
type ByteOf = fn(index: u64, position: usize) -> u8;

/// Values without a zero: what reads as one was never written.
fn text(index: u64, position: usize) -> u8 {
    b'a' + u8::try_from((index * 7 + position as u64) % 26).unwrap()
}

/// What clients write may look like what a power loss leaves.
fn zeros(index: u64, position: usize) -> u8 {
    if index.is_multiple_of(3) { 0 } else { text(index, position) }
}

/// What was recorded and promised when the power went.
#[derive(Debug, Default)]
struct Model {
    /// Index of each entry or gap, with its bytes.
    entries: Vec<(u64, Vec<u8>)>,
    /// The last one that a sync covers.
    synced: u64,
    /// The last one that a checkpoint covers, which comes some time behind a sync.
    checkpoint: u64,
}

impl Model {
    fn last(&self) -> u64 {
        self.entries.last().map_or(0, |(index, _)| *index)
    }

    /// The bytes of all files in a row, up to an entry.
    fn bytes_up_to(&self, last: u64) -> Vec<u8> {
        let entries = self.entries.iter().filter(|(index, _)| *index <= last);
        entries.flat_map(|(_, bytes)| bytes).copied().collect()
    }
}

/// An entry of the script: what was applied, and its bytes.
struct Planned {
    step: Step,
    index: u64,
    value: Vec<u8>,
}

impl Planned {
    fn new(step: Step, before: u64, byte_of: ByteOf) -> Planned {
        let index = before + if let Gap(count) = step { count } else { 1 };
        let bytes = if let Entry { value_bytes, .. } = step { value_bytes } else { 0 };
        let value = (0..bytes).map(|position| byte_of(index, position)).collect();
        Planned { step, index, value }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let Entry { records, .. } = self.step else {
            Record::marking(Mark::Gap, self.index).encode(&mut bytes);
            return bytes;
        };
        for slot in 0..records {
            let mark = if slot + 1 < records { Mark::More } else { Mark::None };
            let (key, value) = (slot.to_string(), &self.value);
            let record = Record {
                index: self.index,
                mark,
                kind: RecordKind::Set,
                key: key.as_bytes(),
                value,
            };
            record.encode(&mut bytes);
        }
        bytes
    }

    fn record(&self, log: &mut OpLog) -> Result<(), OpLogError> {
        let Entry { records, .. } = self.step else { return log.mark_gap(self.index) };
        let mut builder = CommandBuilder::new();
        for slot in 0..records {
            let (condition, answer) = (Condition::Always, Answer::Status);
            let action = Action::Set { value: &self.value, condition, answer };
            builder.push(&Operation { key: &slot_key(slot), action }).unwrap();
        }
        let outcomes = (0..records).map(|_| outcome(true, Body::Empty)).collect();
        let reply = Reply { index: self.index, outcomes, ..Reply::default() };
        log.record(self.index, &builder.finish(), &reply, &mut |_| None)
    }
}

fn parts_on(disk: &SimDisk) -> Parts {
    Parts::of_node(Arc::new(disk.clone()), Path::new("/logs"), "n")
}

fn open(disk: &SimDisk, model: &Model) -> Result<OpLog, OpLogError> {
    OpLog::open(parts_on(disk), KeyForm::Slots, PART_BYTES_MAX, model.checkpoint)
}

fn run(disk: &SimDisk, byte_of: ByteOf, model: &mut Model) -> Result<(), OpLogError> {
    let mut log = open(disk, model)?;
    for step in SCRIPT {
        match step {
            Sync => {
                log.sync()?;
                (model.checkpoint, model.synced) = (model.synced, model.last());
            }
            Reopen => {
                log.sync()?;
                drop(log);
                (model.checkpoint, model.synced) = (model.last(), model.last());
                log = open(disk, model)?;
                assert_eq!(log.last_index(), model.last());
            }
            Entry { .. } | Gap(_) => {
                let planned = Planned::new(*step, model.last(), byte_of);
                model.entries.push((planned.index, planned.bytes()));
                planned.record(&mut log)?;
            }
        }
    }
    Ok(())
}

/// The bytes of all files in a row. A file ends with an entry, and only the last may be short.
fn joined(disk: &SimDisk) -> Vec<u8> {
    let parts = parts_on(disk);
    let count = parts.count().unwrap();
    let mut joined = Vec::new();
    for nth in 1..=count {
        let bytes = disk.read_file(&parts.path(nth)).unwrap();
        assert!(nth == count || bytes.len() as u64 >= PART_BYTES_MAX, "file {nth} of {count}");
        joined.extend(bytes);
    }
    joined
}

/// The whole check of one crash image.
fn check(disk: &SimDisk, byte_of: ByteOf, model: &Model) {
    let log = open(disk, model).unwrap();
    let last = log.last_index();
    // What looks like a hole may be cut, and comes again, if no checkpoint covers it.
    let kept = if byte_of(3, 0) == 0 { model.checkpoint } else { model.synced };
    assert!(last >= kept, "{last} is left, {kept} was synced");
    assert!(last <= model.last());
    assert_eq!(joined(disk), model.bytes_up_to(last), "half an entry, or another's bytes");
    drop(log);
    // Raft's log comes again from the checkpoint on, and goes on.
    let mut log = open(disk, model).unwrap();
    let mut whole = Model::default();
    for step in SCRIPT.iter().filter(|step| matches!(step, Entry { .. } | Gap(_))) {
        let planned = Planned::new(*step, whole.last(), byte_of);
        whole.entries.push((planned.index, planned.bytes()));
        if planned.index > model.checkpoint {
            planned.record(&mut log).unwrap();
        }
    }
    log.sync().unwrap();
    drop(log);
    let disk = disk.crash(CrashMode::Lost);
    assert_eq!(open(&disk, model).unwrap().last_index(), whole.last());
    assert_eq!(joined(&disk), whole.bytes_up_to(u64::MAX));
}

fn modes(seed: u64) -> Vec<CrashMode> {
    let mut modes = vec![CrashMode::Lost, CrashMode::All];
    for nth in 0..6 {
        modes.push(CrashMode::Torn { seed: seed + 1_000 * nth });
        modes.push(CrashMode::Reordered { seed: seed + 1_000 * nth });
    }
    modes
}

fn crash_everywhere(byte_of: ByteOf) {
    let whole = SimDisk::new(1);
    let mut model = Model::default();
    run(&whole, byte_of, &mut model).unwrap();
    assert_eq!(joined(&whole), model.bytes_up_to(u64::MAX));
    assert!(parts_on(&whole).count().unwrap() > 3, "the log goes on in further files");
    assert!(whole.operation_count() > 30);
    for at in 0..whole.operation_count() {
        let cut = SimDisk::new(at);
        cut.crash_at(at);
        let mut model = Model::default();
        assert!(run(&cut, byte_of, &mut model).is_err(), "operation {at} was not noticed");
        for mode in modes(at) {
            check(&cut.crash(mode), byte_of, &model);
        }
    }
}

#[test]
fn what_was_synced_survives_a_crash_at_every_operation() {
    assert_eq!(SECTOR_BYTES, 512, "the script's values are made to cross sectors");
    crash_everywhere(text);
}

#[test]
fn values_full_of_zeros_survive_a_crash_at_every_operation() {
    crash_everywhere(zeros);
}

/// Two entries of a sector each, of which the second was not kept, and a third.
fn with_a_hole() -> SimDisk {
    let disk = SimDisk::new(1);
    let mut log = open(&disk, &Model::default()).unwrap();
    for index in 1..=3 {
        record_sets(&mut log, index, &[1], &[b'x'; SECTOR_BYTES - 14]);
    }
    log.sync().unwrap();
    let path = log.parts().path(1);
    drop(log);
    let mut bytes = disk.read_file(&path).unwrap();
    assert_eq!(bytes.len(), 3 * SECTOR_BYTES);
    bytes[SECTOR_BYTES..2 * SECTOR_BYTES].fill(0);
    disk.write_file(&path, &bytes);
    disk
}

/// A checkpoint stands on what was synced: no power loss made this hole.
#[test]
fn a_hole_where_a_checkpoint_stood_is_a_gap() {
    for (checkpoint, last) in [(1, 1), (2, 2), (3, 3)] {
        let disk = with_a_hole();
        let log = open(&disk, &Model { checkpoint, ..Model::default() }).unwrap();
        assert_eq!(log.last_index(), last);
        drop(log);
        let left = joined(&disk.crash(CrashMode::Lost)).split_off(SECTOR_BYTES);
        let mut gap = Vec::new();
        if checkpoint > 1 {
            Record::marking(Mark::Gap, checkpoint).encode(&mut gap);
        }
        assert_eq!(left, gap);
    }
}

/// What follows a file was made when all of it was synced.
#[test]
fn a_hole_in_a_file_that_another_follows_is_refused_and_left_alone() {
    let disk = with_a_hole();
    let before = joined(&disk);
    disk.write_file(&parts_on(&disk).path(2), b"");
    let error = open(&disk, &Model::default()).unwrap_err();
    assert!(matches!(error, OpLogError::Corrupt { offset: 512, .. }), "{error}");
    assert_eq!(disk.read_file(&parts_on(&disk).path(1)).unwrap(), before);
}
