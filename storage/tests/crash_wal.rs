//! The log through power failures and damage, on the simulated disk.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod wal_model;

use std::path::{Path, PathBuf};

use diskstore_storage::disk::{
    BLOCK_BYTES, CrashMode, Disk, Operation, OperationKind, SimDisk, WriteMode,
};
use diskstore_storage::wal::{Options, Recovery, SyncMode, Wal};
use diskstore_storage::{Error, LogId, MemberId, Term, Vote};
use wal_model::{
    ASIDE, DIRECTORY, Driver, Model, Step, check_after_crash, entry, open, open_error, open_on,
    options, run_until_power_fails,
};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Several segments, truncates with a batch in flight, purges of all kinds, a reopening.
const SCRIPT: &[Step] = &[
    Step::Vote,
    Step::Append { count: 1, bytes: 0 },
    Step::Sync,
    Step::Append { count: 6, bytes: 2000 },
    Step::Sync,
    Step::Commit,
    Step::Append { count: 3, bytes: 900 },
    Step::Seal,
    Step::Truncate { count: 2 },
    Step::Vote,
    Step::Append { count: 4, bytes: 700 },
    Step::Sync,
    Step::Claim,
    Step::Append { count: 9, bytes: 3000 },
    Step::Sync,
    Step::Release,
    Step::Prepare,
    Step::Append { count: 9, bytes: 3000 },
    Step::Append { count: 9, bytes: 3000 },
    Step::Sync,
    Step::Prepare,
    Step::Purge { keep: 12 },
    Step::Sync,
    Step::Reclaim,
    Step::Append { count: 9, bytes: 3000 },
    Step::Sync,
    Step::Prepare,
    Step::Reopen,
    Step::Vote,
    Step::Append { count: 7, bytes: 4000 },
    Step::Commit,
    Step::Sync,
    Step::Truncate { count: 3 },
    Step::Sync,
    Step::Append { count: 2, bytes: 100 },
    Step::Seal,
    Step::PurgeBeyond { by: 5 },
    Step::Append { count: 2, bytes: 5000 },
    Step::Sync,
    Step::Claim,
    Step::Reclaim,
    Step::Prepare,
    Step::Append { count: 8, bytes: 6000 },
    Step::Sync,
    Step::DropAll { by: 0 },
    Step::Sync,
    Step::Append { count: 5, bytes: 6000 },
    Step::Sync,
    Step::Claim,
];

fn modes(seed: u64) -> Vec<CrashMode> {
    vec![
        CrashMode::Lost,
        CrashMode::All,
        CrashMode::Torn { seed },
        CrashMode::Reordered { seed: seed + 1_000 },
        CrashMode::Reordered { seed: seed + 2_000 },
    ]
}

fn operation_count_of(script: &[Step]) -> u64 {
    let disk = SimDisk::new(1);
    let (acknowledged, unknown) = run_until_power_fails(&disk, script);
    assert_eq!(unknown, None);
    assert!(acknowledged.last().is_some());
    disk.operation_count()
}

#[test]
fn what_was_acknowledged_survives_a_crash_at_every_operation() {
    let count = operation_count_of(SCRIPT);
    assert!(count > 40, "the script does {count} operations");
    for at in 0..count {
        let disk = SimDisk::new(at);
        disk.crash_at(at);
        let (acknowledged, unknown) = run_until_power_fails(&disk, SCRIPT);
        for mode in modes(at) {
            let crashed = disk.crash(mode);
            check_after_crash(&crashed, &acknowledged, unknown.as_ref());
            // It goes on, and nothing comes back to life behind what goes on.
            let mut driver = Driver::new(&crashed, &options()).unwrap();
            for step in [
                Step::Append { count: 2, bytes: 1500 },
                Step::Sync,
                Step::Vote,
                Step::Reopen,
                Step::Append { count: 3, bytes: 9000 },
                Step::Sync,
                Step::Reopen,
            ] {
                driver.run(step).unwrap();
                driver.check();
            }
        }
    }
}

#[test]
fn a_crash_during_recovery_twice_gives_the_same_result() {
    let count = operation_count_of(SCRIPT);
    for at in (0..count).step_by(3) {
        let disk = SimDisk::new(at);
        disk.crash_at(at);
        let (acknowledged, unknown) = run_until_power_fails(&disk, SCRIPT);
        let torn = disk.crash(CrashMode::Reordered { seed: at });
        let straight = check_after_crash(&torn.copy(), &acknowledged, unknown.as_ref());
        for second in 0.. {
            let first_try = torn.copy();
            first_try.crash_at(second);
            if open(&first_try).is_ok() {
                break;
            }
            let second_try = first_try.crash(CrashMode::Reordered { seed: second });
            second_try.crash_at(second / 2);
            let third_try = match open(&second_try) {
                Ok(_) => second_try.copy(),
                Err(_) => second_try.crash(CrashMode::Torn { seed: second + 1 }),
            };
            let (wal, _) = open(&third_try).unwrap();
            assert_eq!(Model::of(&wal).unwrap(), straight, "crash {at}, again at {second}");
        }
    }
}

/// A log with one segment: three batches that are claimed, and a last one that is not.
struct Tidy {
    disk: SimDisk,
    segment: PathBuf,
    model: Model,
    /// The model before each batch.
    before: Vec<Model>,
    /// Where the batches begin, and where the last one ends.
    batches: Vec<u64>,
    /// Count of operations on the disk so far.
    operations: usize,
}

fn tidy() -> Tidy {
    let disk = SimDisk::new(5);
    let mut driver = Driver::new(&disk, &options()).unwrap();
    let mut before = Vec::new();
    for step in [
        Step::Vote,
        Step::Append { count: 2, bytes: 100 },
        Step::Append { count: 1, bytes: 3000 },
        Step::Append { count: 3, bytes: 200 },
        Step::Append { count: 2, bytes: 1500 },
    ] {
        before.push(driver.acknowledged.clone());
        driver.run(step).unwrap();
        driver.run(Step::Sync).unwrap();
    }
    // Reopening takes this one and needs not make one, which would be most of its time.
    driver.run(Step::Prepare).unwrap();
    let segment = segment_paths(&disk)[0].clone();
    let bytes = disk.read_file(&segment).unwrap();
    let batches: Vec<u64> = (1..bytes.len() / BLOCK_BYTES)
        .map(|block| block as u64 * BLOCK)
        .filter(|&at| bytes[usize::try_from(at).unwrap()..].starts_with(b"dstbatch"))
        .collect();
    assert_eq!(batches.len(), 5);
    let mut batches = batches;
    batches.push(batches[4] + BLOCK);
    let operations = disk.operations().len();
    Tidy { disk, segment, model: driver.acknowledged, before, batches, operations }
}

/// The segments in the directory, in the order of their ids.
fn segment_paths(disk: &SimDisk) -> Vec<PathBuf> {
    disk.paths()
        .into_iter()
        .filter(|path| path.starts_with(DIRECTORY) && path.extension().is_some())
        .collect()
}

fn reopen(disk: &SimDisk) -> (Model, Recovery) {
    let (wal, recovery) = open(disk).unwrap();
    (Model::of(&wal).unwrap(), recovery)
}

/// From the first batch to behind the last one: a tear takes all that follows, so nothing claims
/// what was lost.
#[test]
fn torn_tail_is_cut_at_every_byte_offset() {
    let tidy = tidy();
    let whole = tidy.disk.read_file(&tidy.segment).unwrap();
    let stale = stale_bytes(whole.len());
    for (nth, range) in tidy.batches.windows(2).enumerate() {
        let after = tidy.before.get(nth + 1).unwrap_or(&tidy.model);
        for at in range[0]..range[1] {
            let offset = usize::try_from(at).unwrap();
            let batch_end = usize::try_from(range[1]).unwrap();
            for bytes in torn(&whole, &stale, offset) {
                let disk = tidy.disk.copy();
                disk.write_file(&tidy.segment, &bytes);
                let (found, recovery) = reopen(&disk);
                if bytes.get(..batch_end) == whole.get(..batch_end) {
                    assert_eq!(found, *after, "only padding became what it was, at {at}");
                    continue;
                }
                assert_eq!(found, tidy.before[nth], "from byte {at}");
                assert_kept(&disk, &recovery, &bytes);
            }
        }
    }
}

/// There is no room for what is cut, and the log goes on without it.
#[test]
fn a_torn_tail_on_a_full_disk_is_cut_and_not_kept() {
    let tidy = tidy();
    tidy.disk.flip_bit(&tidy.segment, tidy.batches[4] + 99, 1).unwrap();
    let bytes_of = |path: &PathBuf| tidy.disk.read_file(path).map_or(0, |bytes| bytes.len() as u64);
    tidy.disk.set_space(tidy.disk.paths().iter().map(bytes_of).sum());
    let (wal, recovery) = open(&tidy.disk).unwrap();
    assert_eq!(Model::of(&wal).unwrap(), tidy.before[4]);
    let cut = recovery.cut.expect("a cut is reported");
    assert_eq!(cut.kept_in, None);
    assert!(!tidy.disk.paths().iter().any(|path| path.starts_with(ASIDE) && bytes_of(path) > 0));
    wal.append([entry(1, wal.state().last.unwrap().index + 1, 10)]).unwrap();
    wal.write(wal.seal().unwrap()).unwrap();
    drop(wal);
    let (_, recovery) = reopen(&tidy.disk);
    assert_eq!(recovery.cut, None, "the log went on elsewhere");
}

/// Where the batches of a segment begin.
fn batches_in(disk: &SimDisk, segment: &Path) -> Vec<u64> {
    let bytes = disk.read_file(segment).unwrap();
    let blocks = (BLOCK..bytes.len() as u64).step_by(BLOCK_BYTES);
    blocks.filter(|&at| bytes[usize::try_from(at).unwrap()..].starts_with(b"dstbatch")).collect()
}

/// No other segment is there, and none can be made: the log goes on where the torn end stood.
#[test]
fn a_torn_tail_on_a_full_disk_without_a_spare_does_not_refuse_the_start() {
    // The last batch of a log that claims the others, and one with whole ones behind it.
    for (sync, nth) in [(SyncMode::Always, 5), (SyncMode::OnRequest, 3)] {
        let options = Options { sync, ..options() };
        let full = SimDisk::new(1);
        let (wal, _) = open_on(&full, &options).unwrap();
        write_each(&wal, 0, 6);
        drop(wal);
        let full = full.crash(CrashMode::All); // all that was written is on the disk
        let [segment, spare] = &segment_paths(&full)[..] else { panic!("two segments") };
        full.remove(spare).unwrap();
        full.sync_dir(Path::new(DIRECTORY)).unwrap();
        let batches = batches_in(&full, segment);
        full.flip_bit(segment, batches[nth] + 99, 1).unwrap();
        let space = used_by(&full);
        full.set_space(space);
        for at in 0.. {
            let disk = full.copy();
            disk.crash_at(at);
            let is_through = open_on(&disk, &options).is_ok();
            for mode in modes(at) {
                let disk = disk.crash(mode);
                disk.set_space(space);
                goes_on_without_a_spare(&disk, &options, nth as u64);
            }
            if is_through {
                break;
            }
        }
    }
}

fn goes_on_without_a_spare(disk: &SimDisk, options: &Options, entries: u64) {
    let (wal, _) = open_on(disk, options).unwrap();
    assert_eq!(Model::of(&wal).unwrap().entries.len() as u64, entries);
    assert!(!wal.has_next_segment(), "new entries are refused");
    let vote = Vote { term: Term::new(90), node_id: MemberId::new(7), committed: false };
    wal.save_vote(vote);
    wal.write(wal.seal().unwrap()).unwrap();
    drop(wal);
    let (wal, recovery) = open_on(&disk.crash(CrashMode::Lost), options).unwrap();
    assert_eq!(recovery.cut, None, "nothing is left of what was torn");
    assert_eq!(wal.state().vote, Some(vote));
    assert_eq!(Model::of(&wal).unwrap().entries.len() as u64, entries);
}

/// Bytes of all files.
fn used_by(disk: &SimDisk) -> u64 {
    let bytes_of = |path: &PathBuf| disk.read_file(path).map_or(0, |bytes| bytes.len() as u64);
    disk.paths().iter().map(bytes_of).sum()
}

/// A log of one segment, the path of that, and what only its header carries: its first batch, which
/// nothing claims yet, is bad.
fn only_a_header() -> (SimDisk, PathBuf, Model) {
    let disk = SimDisk::new(3);
    let mut driver = Driver::new(&disk, &options()).unwrap();
    for step in [
        Step::Vote,
        Step::Append { count: 4, bytes: 7000 },
        Step::Sync,
        Step::Append { count: 4, bytes: 6000 },
        Step::Sync,
        Step::Purge { keep: 0 },
        Step::Sync,
    ] {
        driver.run(step).unwrap();
    }
    let carried = driver.acknowledged.as_read();
    assert!(carried.vote.is_some() && carried.purged.is_some());
    for step in [BEGIN_A_SEGMENT, Step::Sync, Step::Reclaim] {
        driver.run(step).unwrap();
    }
    drop(driver);
    let mut segments = segment_paths(&disk);
    segments.retain(|path| is_segment(path));
    assert_eq!(segments.len(), 1, "{segments:?}");
    let segment = segments.remove(0);
    disk.flip_bit(&segment, batches_in(&disk, &segment)[0] + 99, 1).unwrap();
    (disk, segment, carried)
}

const BEGIN_A_SEGMENT: Step = Step::Append { count: 4, bytes: 7000 };

/// The one segment that is left carries vote and purge point of those before it, and its first batch,
/// which nothing claims yet, is bad. Another has to hold them before it goes.
#[test]
fn what_only_a_header_carries_survives_a_power_loss_behind_a_recovery() {
    let (disk, segment, carried) = only_a_header();
    for at in 0.. {
        let disk = disk.copy();
        disk.crash_at(at);
        let is_through = open(&disk).is_ok();
        for mode in modes(at) {
            let disk = disk.crash(mode);
            assert_eq!(reopen(&disk).0, carried, "crash {at}, {mode:?}");
            let again = disk.crash(CrashMode::All);
            let mut driver = Driver::new(&again, &options()).unwrap();
            assert_eq!(driver.model, carried, "crash {at}, {mode:?}, and again");
            for step in [BEGIN_A_SEGMENT, Step::Sync, Step::Reopen, BEGIN_A_SEGMENT, Step::Sync] {
                driver.run(step).unwrap();
                driver.check();
            }
            let names = segment_paths(&again);
            assert!(!names.contains(&segment), "it is used again once another has what it carries");
        }
        if is_through {
            break;
        }
    }
}

/// It goes on there: nothing else has room for a vote.
#[test]
fn a_log_of_which_only_a_header_is_left_opens_on_a_full_disk() {
    let (disk, segment, carried) = only_a_header();
    for spare in segment_paths(&disk).iter().filter(|path| **path != segment) {
        disk.remove(spare).unwrap();
    }
    disk.sync_dir(Path::new(DIRECTORY)).unwrap();
    disk.set_space(used_by(&disk));
    for at in 0.. {
        let disk = disk.copy();
        disk.crash_at(at);
        let is_through = open(&disk).is_ok();
        for mode in modes(at) {
            let again = disk.crash(mode);
            again.set_space(used_by(&again));
            let mut driver = Driver::new(&again, &options()).unwrap();
            assert_eq!(driver.model, carried, "crash {at}, {mode:?}");
            for step in [Step::Vote, Step::Sync, Step::Reopen, Step::Vote, Step::Sync] {
                driver.run(step).unwrap();
                driver.check();
            }
            let acknowledged = driver.acknowledged.as_read();
            drop(driver);
            assert_eq!(reopen(&again.crash(CrashMode::Lost)).0, acknowledged);
            again.set_space(u64::MAX);
            let mut driver = Driver::new(&again, &options()).unwrap();
            for step in [BEGIN_A_SEGMENT, Step::Sync, Step::Reopen] {
                driver.run(step).unwrap();
                driver.check();
            }
        }
        if is_through {
            break;
        }
    }
}

/// The segment that follows it was begun, its header is in the page cache only, and its first batch is
/// torn: the header is durable before the old one goes.
#[test]
fn a_header_in_the_page_cache_is_made_durable_before_the_one_that_it_replaces_goes() {
    let (disk, segment, carried) = only_a_header();
    let (wal, _) = open(&disk).unwrap();
    drop(wal);
    let mut driver = Driver::new(&disk, &options()).unwrap();
    for step in [Step::Append { count: 1, bytes: 10 }, Step::Sync] {
        driver.run(step).unwrap();
    }
    drop(driver);
    let paths = segment_paths(&disk);
    let begun = |path: &&PathBuf| {
        is_segment(path) && **path != segment && !batches_in(&disk, path).is_empty()
    };
    let next = paths.iter().find(begun).expect("a segment was begun");
    let header = disk.read_file(next).unwrap()[..4096].to_vec();
    disk.write_file(next, &vec![0; disk.read_file(next).unwrap().len()]);
    let file = disk.open(next, WriteMode::Buffered).unwrap();
    file.write_at(&header, 0).unwrap();
    for at in 0.. {
        let disk = disk.copy();
        disk.crash_at(at);
        let is_through = open(&disk).is_ok();
        for mode in modes(at) {
            assert_eq!(reopen(&disk.crash(mode)).0, carried, "crash {at}, {mode:?}");
        }
        if is_through {
            break;
        }
    }
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "segment")
}

/// The padding of the last batch may become what it was, and what lies behind it anything.
#[test]
fn torn_tail_behind_the_last_batch_changes_nothing() {
    let tidy = tidy();
    let whole = tidy.disk.read_file(&tidy.segment).unwrap();
    let stale = stale_bytes(whole.len());
    let batch_end = usize::try_from(tidy.batches[5]).unwrap();
    for offset in batch_end..whole.len() {
        for bytes in torn(&whole, &stale, offset).into_iter().take(3) {
            let disk = tidy.disk.copy();
            disk.write_file(&tidy.segment, &bytes);
            let (found, recovery) = reopen(&disk);
            assert_eq!(found, tidy.model, "from byte {offset}");
            assert_eq!(recovery.cut, None);
        }
    }
}

/// A segment whose bytes from `offset` on are zeros, those of an earlier life, noise, and gone.
fn torn(whole: &[u8], stale: &[u8], offset: usize) -> [Vec<u8>; 4] {
    let (mut zeroed, mut reused) = (whole.to_vec(), whole.to_vec());
    zeroed[offset..].fill(0);
    reused[offset..].copy_from_slice(&stale[offset..]);
    let mut random = whole.to_vec();
    let noise = (offset as u64..).map(|at| at.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()[5]);
    random[offset..].iter_mut().zip(noise).for_each(|(byte, noise)| *byte = noise);
    [zeroed, reused, random, whole[..offset].to_vec()]
}

/// A cut says what it cut, and keeps it. Bytes of which nothing is left leave no trace.
fn assert_kept(disk: &SimDisk, recovery: &Recovery, bytes: &[u8]) {
    let Some(cut) = &recovery.cut else { return };
    let kept_in = cut.kept_in.as_ref().expect("there was room for it");
    let kept = disk.read_file(kept_in).unwrap();
    let from = usize::try_from(cut.offset).unwrap();
    assert_eq!(kept.len() as u64, cut.bytes);
    assert_eq!(kept, bytes[from..from + kept.len()]);
    assert!(kept_in.starts_with(ASIDE));
}

/// What a segment of an earlier life holds.
fn stale_bytes(bytes: usize) -> Vec<u8> {
    let disk = SimDisk::new(6);
    let mut driver = Driver::new(&disk, &options()).unwrap();
    for _ in 0..9 {
        driver.run(Step::Append { count: 7, bytes: 1000 }).unwrap();
        driver.run(Step::Sync).unwrap();
    }
    let second = disk.read_file(&segment_paths(&disk)[1]).unwrap();
    assert_eq!(second.len(), bytes);
    second
}

#[test]
fn every_flipped_bit_of_a_claimed_batch_or_header_is_refused() {
    let tidy = tidy();
    for at in 0..tidy.batches[4] {
        for bit in 0..8 {
            tidy.disk.flip_bit(&tidy.segment, at, bit).unwrap();
            let Error::CorruptLog { path, offset, sequence, .. } = open_error(&tidy.disk) else {
                unreachable!("byte {at}, bit {bit}");
            };
            let ordinal = tidy.batches.iter().rposition(|&batch| batch <= at);
            assert_eq!(path, tidy.segment);
            assert_eq!(offset, ordinal.map_or(0, |ordinal| tidy.batches[ordinal]));
            assert_eq!(sequence, ordinal.unwrap_or(0) as u64 + 1);
            tidy.disk.flip_bit(&tidy.segment, at, bit).unwrap();
        }
    }
    let written = |of: &&Operation| {
        !matches!(of.kind, OperationKind::SyncDirectory | OperationKind::CreateDirectory)
    };
    let operations = tidy.disk.operations();
    assert_eq!(operations.iter().skip(tidy.operations).filter(written).count(), 0);
    assert_eq!(reopen(&tidy.disk).0, tidy.model);
}

#[test]
fn every_flipped_bit_of_the_unclaimed_batch_is_cut_and_reported() {
    let tidy = tidy();
    for at in tidy.batches[4]..tidy.batches[5] {
        for bit in 0..8 {
            let disk = tidy.disk.copy();
            disk.flip_bit(&tidy.segment, at, bit).unwrap();
            let bytes = disk.read_file(&tidy.segment).unwrap();
            let (found, recovery) = reopen(&disk);
            assert_eq!(found, tidy.before[4]);
            let cut = recovery.cut.as_ref().expect("a cut is reported");
            assert_eq!((cut.offset, cut.sequence), (tidy.batches[4], 5));
            assert_eq!(cut.path, tidy.segment);
            assert_kept(&disk, &recovery, &bytes);
        }
    }
}

#[test]
fn a_flipped_bit_of_the_last_batch_is_refused_once_it_was_claimed() {
    let tidy = tidy();
    {
        let mut driver = Driver::new(&tidy.disk, &options()).unwrap();
        assert!(driver.wal.claim_due(), "the last sync waits to be claimed");
        driver.run(Step::Claim).unwrap();
        assert!(!driver.wal.claim_due(), "a claim is not claimed in turn");
        assert_eq!(driver.model, tidy.model);
    }
    tidy.disk.flip_bit(&tidy.segment, tidy.batches[4] + 99, 1).unwrap();
    assert!(matches!(open_error(&tidy.disk), Error::CorruptLog { sequence: 5, .. }));
}

#[test]
fn flipped_bits_behind_the_last_batch_are_a_clean_end() {
    let tidy = tidy();
    let bytes = tidy.disk.read_file(&tidy.segment).unwrap().len() as u64;
    for at in (tidy.batches[5]..bytes).step_by(7) {
        let disk = tidy.disk.copy();
        disk.flip_bit(&tidy.segment, at, u8::try_from(at % 8).unwrap()).unwrap();
        let (found, recovery) = reopen(&disk);
        assert_eq!(found, tidy.model);
        assert_eq!(recovery.cut, None);
    }
}

#[test]
fn a_damaged_batch_that_only_a_later_segment_claims_is_refused() {
    let disk = SimDisk::new(9);
    let mut driver = Driver::new(&disk, &options()).unwrap();
    for _ in 0..5 {
        driver.run(Step::Append { count: 3, bytes: 5000 }).unwrap();
        driver.run(Step::Sync).unwrap();
    }
    let paths = segment_paths(&disk);
    for (path, offset) in [(&paths[0], BLOCK + 70), (&paths[0], 40), (&paths[1], 40)] {
        let damaged = disk.copy();
        damaged.flip_bit(path, offset, 4).unwrap();
        let Error::CorruptLog { path: named, offset: at, .. } = open_error(&damaged) else {
            unreachable!("{} at {offset}", path.display());
        };
        assert_eq!((&named, at), (path, offset / BLOCK * BLOCK));
    }
}

#[test]
fn batches_behind_a_cut_stay_dead_when_the_log_went_on() {
    let tidy = tidy();
    // The last batch is damaged before anything claimed it: it is cut, and the log goes on.
    let whole = tidy.disk.read_file(&tidy.segment).unwrap();
    tidy.disk.flip_bit(&tidy.segment, tidy.batches[4] + 99, 1).unwrap();
    let mut driver = Driver::new(&tidy.disk, &options()).unwrap();
    assert_eq!(driver.model, tidy.before[4]);
    for step in [Step::Vote, Step::Append { count: 4, bytes: 20 }, Step::Sync, Step::Claim] {
        driver.run(step).unwrap();
    }
    // Were the damage to heal, the old batch would still be dead; damaged it is no corruption.
    for bytes in [tidy.disk.read_file(&tidy.segment).unwrap(), whole] {
        tidy.disk.write_file(&tidy.segment, &bytes);
        let (found, recovery) = reopen(&tidy.disk);
        assert_eq!(found, driver.model);
        assert_eq!(recovery.cut, None, "the cut is not reported again");
    }
}

#[test]
fn a_recycled_segment_never_shows_its_old_batches() {
    let disk = SimDisk::new(11);
    let mut driver = Driver::new(&disk, &options()).unwrap();
    for _ in 0..12 {
        for step in [
            Step::Append { count: 6, bytes: 4000 },
            Step::Sync,
            Step::Purge { keep: 3 },
            Step::Sync,
            Step::Reclaim,
            Step::Prepare,
        ] {
            driver.run(step).unwrap();
        }
        assert_eq!(reopen(&disk.copy()).0, driver.model);
        assert_eq!(reopen(&disk.crash(CrashMode::Lost)).0, driver.model);
    }
    assert!(segment_paths(&disk).len() <= 5, "old segments are used again");
    let renames = disk.operations().iter().filter(|of| of.kind == OperationKind::Rename).count();
    assert!(renames > 5, "{renames} renames");
}

#[test]
fn a_segment_out_of_the_log_is_not_read_and_used_again() {
    let disk = SimDisk::new(12);
    let mut driver = Driver::new(&disk, &options()).unwrap();
    for step in [
        Step::Append { count: 6, bytes: 4000 },
        Step::Sync,
        Step::Append { count: 6, bytes: 4000 },
        Step::Sync,
        Step::Append { count: 6, bytes: 4000 },
        Step::Sync,
        Step::Purge { keep: 3 },
        Step::Sync,
    ] {
        driver.run(step).unwrap();
    }
    assert_eq!(reopen(&disk.copy()).1.segments, 2);
    let paths = segment_paths(&disk).len();
    driver.run(Step::Reclaim).unwrap();
    assert_eq!(segment_paths(&disk).len(), paths, "it is kept");
    let copy = disk.copy();
    let (found, recovery) = reopen(&copy);
    assert_eq!((found, recovery.segments), (driver.model, 1));
    assert_eq!(segment_paths(&copy).len(), paths, "it is still kept");
}

#[test]
fn a_sync_of_truncated_entries_makes_nothing_else_durable() {
    let disk = SimDisk::new(13);
    let (wal, _) = open(&disk).unwrap();
    wal.append((0..5).map(|index| entry(1, index, 10))).unwrap();
    let in_flight = wal.seal().unwrap();
    wal.truncate_after(Some(LogId { term: Term::new(1), index: 1 }));
    wal.append((2..5).map(|index| entry(2, index, 10))).unwrap();
    let durable = wal.write(in_flight).unwrap();
    assert!(wal.position_of(1).unwrap() <= durable);
    assert!(wal.position_of(2).unwrap() > durable, "the entry that is there now is not durable");
    // Power fails here: the old entries are what the disk holds, and that is right.
    let (found, _) = reopen(&disk.crash(CrashMode::Lost));
    assert_eq!(found.last(), Some(LogId { term: Term::new(1), index: 4 }));
    wal.write(wal.seal().unwrap()).unwrap();
    assert!(wal.position_of(2).unwrap() <= wal.durable());
    let (found, _) = reopen(&disk.crash(CrashMode::Lost));
    assert_eq!(found.last(), Some(LogId { term: Term::new(2), index: 4 }));
    assert_eq!(found.entries[&2].log_id.term, Term::new(2));
}

#[test]
fn a_purge_point_survives_restart_an_empty_log_and_a_truncate() {
    let disk = SimDisk::new(17);
    let mut driver = Driver::new(&disk, &options()).unwrap();
    for step in [
        Step::Append { count: 9, bytes: 9 },
        Step::Sync,
        Step::Purge { keep: 2 },
        Step::Sync,
        Step::Reopen,
        Step::Truncate { count: 2 },
        Step::Sync,
        Step::Reopen,
        Step::Truncate { count: 0 },
        Step::Sync,
        Step::Reopen,
    ] {
        driver.run(step).unwrap();
        driver.check();
    }
    let state = driver.wal.state();
    assert_eq!(state.purged, Some(LogId { term: Term::new(1), index: 6 }));
    assert_eq!((state.last, state.first_index), (state.purged, 7));
    driver.wal.truncate_after(None);
    assert_eq!(driver.wal.state().purged, state.purged);
}

#[test]
fn nothing_is_reclaimed_before_its_purge_is_durable() {
    let disk = SimDisk::new(19);
    let mut driver = Driver::new(&disk, &options()).unwrap();
    for _ in 0..6 {
        driver.run(Step::Append { count: 4, bytes: 5000 }).unwrap();
        driver.run(Step::Sync).unwrap();
    }
    driver.run(Step::Append { count: 1, bytes: 10 }).unwrap();
    driver.run(Step::Seal).unwrap();
    driver.run(Step::Purge { keep: 1 }).unwrap();
    assert_eq!(driver.wal.reclaim().unwrap(), 0);
    driver.write_in_flight().unwrap();
    assert_eq!(driver.wal.reclaim().unwrap(), 0, "what was in flight is not the purge");
    driver.run(Step::Sync).unwrap();
    assert!(driver.wal.reclaim().unwrap() >= 1);
    assert_eq!(reopen(&disk.crash(CrashMode::Lost)).0, driver.model);
}

#[test]
fn a_failed_write_ends_the_log_and_nothing_is_retried() {
    let disk = SimDisk::new(23);
    let mut driver = Driver::new(&disk, &options()).unwrap();
    driver.run(Step::Append { count: 2, bytes: 10 }).unwrap();
    driver.run(Step::Sync).unwrap();
    let durable = driver.wal.durable();
    disk.fail_next(OperationKind::Write, ".segment", 5);
    driver.run(Step::Append { count: 2, bytes: 10 }).unwrap();
    assert!(matches!(driver.run(Step::Sync), Err(Error::Io { .. })));
    assert_eq!(driver.wal.durable(), durable);
    assert!(driver.wal.position() > durable);
    let operations = disk.operation_count();
    assert!(driver.wal.seal().is_none(), "nothing is sealed any more");
    assert_eq!(disk.operation_count(), operations);
    check_after_crash(&disk.crash(CrashMode::Lost), &driver.acknowledged, driver.unknown.as_ref());
}

#[test]
fn a_failed_write_of_a_new_segment_ends_the_log_too() {
    let disk = SimDisk::new(37);
    let mut driver = Driver::new(&disk, &options()).unwrap();
    disk.fail_next(OperationKind::Write, "1.segment", 5);
    driver.run(Step::Append { count: 2, bytes: 10 }).unwrap();
    let batch = driver.wal.seal().unwrap();
    assert!(matches!(driver.wal.write(batch), Err(Error::Io { .. })));
    driver.run(Step::Vote).unwrap();
    assert!(driver.wal.seal().is_none() && driver.wal.seal_claim().is_none());
    assert_eq!(driver.wal.durable().0, 0);
    reopen(&disk.crash(CrashMode::Lost));
}

#[test]
fn an_entry_that_cannot_be_read_is_an_error_and_never_other_bytes() {
    let disk = SimDisk::new(41);
    let mut driver = Driver::new(&disk, &options()).unwrap();
    driver.run(Step::Append { count: 9, bytes: 3000 }).unwrap();
    driver.run(Step::Sync).unwrap();
    driver.run(Step::Release).unwrap();
    disk.fail_next(OperationKind::Read, ".segment", 5);
    assert!(matches!(driver.wal.read(0..1, 99), Err(Error::Io { .. })));
    assert_eq!(driver.wal.read(0..1, 99).unwrap().len(), 1);
    disk.flip_bit(&segment_paths(&disk)[0], BLOCK + 64 + 32, 0).unwrap();
    disk.flip_bit(&segment_paths(&disk)[0], BLOCK + 64 + 8, 0).unwrap();
    match driver.wal.read(0..1, 99) {
        Err(Error::Corrupt { offset, .. }) => assert_eq!(offset, BLOCK + 64),
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn what_a_killed_process_left_in_the_page_cache_is_made_durable_before_it_counts() {
    let tidy = tidy();
    let whole = tidy.disk.read_file(&tidy.segment).unwrap();
    let (start, end) = (tidy.batches[4], tidy.batches[5]);
    let range = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
    let mut without = whole.clone();
    without[range.clone()].fill(0);
    tidy.disk.write_file(&tidy.segment, &without);
    // The last batch is written as a buffered file system has it, and never synced.
    let file = tidy.disk.open(&tidy.segment, WriteMode::Buffered).unwrap();
    file.write_at(&whole[range], start).unwrap();
    assert_eq!(reopen(&tidy.disk.crash(CrashMode::Lost)).0, tidy.before[4]);
    assert_eq!(reopen(&tidy.disk).0, tidy.model);
    assert_eq!(reopen(&tidy.disk.crash(CrashMode::Lost)).0, tidy.model);
}

#[test]
fn a_full_disk_refuses_the_next_segment_and_recovers() {
    let disk = SimDisk::new(29);
    let mut driver = Driver::new(&disk, &options()).unwrap();
    disk.set_space(100_000);
    driver.run(Step::Append { count: 2, bytes: 10 }).unwrap();
    driver.run(Step::Sync).unwrap();
    assert!(driver.wal.has_next_segment(), "it was not tried yet");
    assert!(matches!(driver.wal.prepare(), Err(Error::NoSpace { .. })));
    assert!(!driver.wal.has_next_segment());
    driver.run(Step::Append { count: 2, bytes: 10 }).unwrap();
    driver.run(Step::Sync).unwrap();
    assert_eq!(reopen(&disk.copy()).0, driver.model, "it also starts on a full disk");
    disk.set_space(u64::MAX);
    assert!(driver.wal.prepare().unwrap());
    assert!(driver.wal.has_next_segment());
}

#[test]
fn an_unknown_version_is_refused_and_left_untouched() {
    let tidy = tidy();
    let mut bytes = tidy.disk.read_file(&tidy.segment).unwrap();
    bytes[8] = 3;
    let crc = crc32fast::hash(&bytes[..BLOCK_BYTES - 4]);
    bytes[BLOCK_BYTES - 4..BLOCK_BYTES].copy_from_slice(&crc.to_le_bytes());
    tidy.disk.write_file(&tidy.segment, &bytes);
    let operations = tidy.disk.operation_count();
    assert!(matches!(open_error(&tidy.disk), Error::UnknownVersion { version: 3, known: 2, .. }));
    let changed = tidy.disk.operations()[usize::try_from(operations).unwrap()..]
        .iter()
        .filter(|of| {
            !matches!(of.kind, OperationKind::SyncDirectory | OperationKind::CreateDirectory)
        })
        .count();
    assert_eq!(changed, 0, "nothing was written");
}

#[test]
fn a_lost_segment_in_the_middle_is_told() {
    let disk = SimDisk::new(31);
    let mut driver = Driver::new(&disk, &options()).unwrap();
    for _ in 0..12 {
        driver.run(Step::Append { count: 4, bytes: 5000 }).unwrap();
        driver.run(Step::Sync).unwrap();
    }
    let paths = segment_paths(&disk);
    assert!(paths.len() > 3);
    for path in &paths[..2] {
        let lossy = disk.copy();
        lossy.remove(path).unwrap();
        match open_error(&lossy) {
            Error::Missing { path: missing, .. } => assert_eq!(&missing, path),
            other => unreachable!("{other}"),
        }
    }
}

/// Writes `count` batches of one entry each, from `first` on.
fn write_each(wal: &Wal, first: u64, count: u64) {
    for index in first..first + count {
        wal.append([entry(1, index, 900)]).unwrap();
        wal.write(wal.seal().unwrap()).unwrap();
        if wal.is_prepare_due() {
            wal.prepare().unwrap();
        }
    }
}

#[test]
fn a_log_synced_on_request_loses_only_what_came_after_and_never_calls_it_damage() {
    let options = Options { sync: SyncMode::OnRequest, ..options() };
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let (wal, _) = open_on(&disk, &options).unwrap();
        write_each(&wal, 0, 10 + seed % 40);
        wal.sync().unwrap();
        let synced = wal.state().last;
        write_each(&wal, 10 + seed % 40, 25);
        let image = disk.crash(match seed % 3 {
            0 => CrashMode::Lost,
            1 => CrashMode::Torn { seed },
            _ => CrashMode::Reordered { seed },
        });
        drop(wal);
        let (wal, _) = open_on(&image, &options).unwrap();
        assert!(wal.state().last >= synced, "{:?} of {synced:?}", wal.state().last);
        Model::of(&wal).unwrap();
        write_each(&wal, wal.state().last.unwrap().index + 1, 3);
    }
}

/// Segments go for good at once, and the purge record would be lost: the log would begin with a hole.
#[test]
fn nothing_is_reclaimed_before_its_purge_is_synced_in_a_log_synced_on_request() {
    let options = Options { sync: SyncMode::OnRequest, ..options() };
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let (wal, _) = open_on(&disk, &options).unwrap();
        write_each(&wal, 0, 100);
        let upto = wal.log_id_at(90).unwrap();
        wal.purge(upto);
        wal.write(wal.seal().unwrap()).unwrap();
        assert!(wal.reclaim().unwrap() >= 1);
        let image = disk.crash(match seed {
            0 => CrashMode::Lost,
            seed if seed % 2 == 0 => CrashMode::Torn { seed },
            seed => CrashMode::Reordered { seed },
        });
        let (wal, _) = open_on(&image, &options).unwrap();
        assert_eq!(wal.state().purged, Some(upto), "seed {seed}");
    }
}

#[test]
fn a_vote_survives_power_loss_in_a_log_synced_on_request_too() {
    let options = Options { sync: SyncMode::OnRequest, ..options() };
    for entries in [0, 1, 40] {
        let disk = SimDisk::new(43);
        let (wal, _) = open_on(&disk, &options).unwrap();
        write_each(&wal, 0, entries);
        let vote = Vote { term: Term::new(3), node_id: MemberId::new(7), committed: false };
        let position = wal.save_vote(vote);
        wal.write(wal.seal().unwrap()).unwrap();
        assert!(wal.durable() >= position);
        let (wal, _) = open_on(&disk.crash(CrashMode::Lost), &options).unwrap();
        assert_eq!(wal.state().vote, Some(vote), "behind {entries} entries");
        assert_eq!(wal.state().last.map_or(0, |last| last.index + 1), entries);
    }
}
