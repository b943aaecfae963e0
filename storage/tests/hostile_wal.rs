//! What a client may have put into values, and what was left by earlier lives of segments, is never
//! read as a part of the log. And whatever the order of kills, power losses and recoveries that are
//! cut off, what a recovery once said is what the next one says.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use diskstore_storage::disk::{CrashMode, Disk, SimDisk};
use diskstore_storage::wal::{Entry, EntryKind, Nonces, Options, SyncMode, Wal};
use diskstore_storage::{Error, LogId, MemberId, Result, Term, Vote};

const BLOCK: usize = 4096;
/// Where a segment's header and a batch hold the nonce of its life.
const NONCE_IN_HEADER: usize = 128;
const NONCE_IN_BATCH: usize = 48;
const TERM: u64 = 3;

fn options(sync: SyncMode) -> Options {
    Options { sync, segment_bytes: 32 << 10, ..Options::new(Nonces::counted()) }
}

fn open(disk: &SimDisk, options: &Options) -> Result<Wal> {
    let (directory, aside) = (Path::new("/wal"), Path::new("/tmp"));
    Wal::open(Arc::new(disk.clone()), directory, aside, options).map(|(wal, _)| wal)
}

fn entry(index: u64, text: &str) -> Entry {
    let payload = Bytes::from(text.to_owned()).into();
    Entry { log_id: LogId { term: Term::new(TERM), index }, kind: EntryKind::Normal, payload }
}

fn write(wal: &Wal) -> Result<()> {
    while let Some(batch) = wal.seal() {
        wal.write(batch)?;
    }
    Ok(())
}

fn names(disk: &SimDisk) -> Vec<String> {
    disk.list(Path::new("/wal")).unwrap()
}

/// The highest id among the files of the log, those out of use too.
fn highest_id(disk: &SimDisk) -> u64 {
    let id = |name: &String| u64::from_str_radix(name.split('.').next()?, 16).ok();
    names(disk).iter().filter_map(id).max().unwrap_or(0)
}

/// The segments that have a header, by their ids.
fn begun(disk: &SimDisk) -> Vec<PathBuf> {
    let begins = |path: &PathBuf| {
        let is_segment = path.extension().is_some_and(|of| of == "segment");
        is_segment && disk.read_file(path).unwrap().starts_with(b"dstsegmt")
    };
    disk.paths().into_iter().filter(begins).collect()
}

/// A block that is a whole batch of one entry, right in all that a client can know or guess.
struct Forged {
    segment: u64,
    sequence: u64,
    index: u64,
    claims: u64,
    nonce: [u8; 16],
}

impl Forged {
    fn block(&self) -> Vec<u8> {
        let payload = b"never proposed by anybody";
        let mut record = vec![1, 1, 0, 0];
        record.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        record.extend_from_slice(&TERM.to_le_bytes());
        record.extend_from_slice(&self.index.to_le_bytes());
        let crc = crc32fast::hash(&[record.as_slice(), payload].concat());
        record.extend_from_slice(&crc.to_le_bytes());
        record.extend_from_slice(&[0; 4]);
        record.extend_from_slice(payload);
        record.resize(record.len().next_multiple_of(8), 0);
        let mut block = b"dstbatch".to_vec();
        for word in [self.segment, self.sequence, self.claims] {
            block.extend_from_slice(&word.to_le_bytes());
        }
        block.extend_from_slice(&u32::try_from(record.len()).unwrap().to_le_bytes());
        block.extend_from_slice(&1_u32.to_le_bytes());
        block.extend_from_slice(&[0; 8]);
        block.extend_from_slice(&self.nonce);
        block.extend_from_slice(&record);
        block.resize(BLOCK, 0);
        let crc = crc32fast::hash(&[&block[..40], &block[44..]].concat());
        block[40..44].copy_from_slice(&crc.to_le_bytes());
        block
    }
}

/// A log of three batches in one segment, and the segment's path.
fn three_batches() -> (SimDisk, PathBuf) {
    let disk = SimDisk::new(7);
    let wal = open(&disk, &options(SyncMode::Always)).unwrap();
    for index in 0..3 {
        wal.append([entry(index, "ordinary")]).unwrap();
        write(&wal).unwrap();
    }
    wal.prepare().unwrap();
    (disk, PathBuf::from("/wal/0000000000000001.segment"))
}

fn with_block(disk: &SimDisk, path: &Path, place: usize, block: &[u8]) -> SimDisk {
    let disk = disk.copy();
    let mut bytes = disk.read_file(path).unwrap();
    bytes[place * BLOCK..(place + 1) * BLOCK].copy_from_slice(block);
    disk.write_file(path, &bytes);
    disk
}

/// What a start finds.
#[derive(Debug, PartialEq)]
enum Found {
    Last(u64),
    Nothing,
    Damage,
}

fn found(disk: &SimDisk) -> Found {
    match open(disk, &options(SyncMode::Always)) {
        Ok(wal) => wal.state().last.map_or(Found::Nothing, |last| Found::Last(last.index)),
        Err(Error::CorruptLog { .. }) => Found::Damage,
        Err(error) => unreachable!("{error}"),
    }
}

#[test]
fn bytes_that_a_client_chose_are_no_batch() {
    let (disk, path) = three_batches();
    let secret: [u8; 16] =
        disk.read_file(&path).unwrap()[NONCE_IN_HEADER..][..16].try_into().unwrap();
    let last_batch = disk.read_file(&path).unwrap()[3 * BLOCK..][NONCE_IN_BATCH..][..16].to_vec();
    assert_eq!(secret.as_slice(), last_batch, "where this test looks for the nonce");
    let mut almost = secret;
    almost[15] ^= 1;
    for nonce in [[0; 16], [0xff; 16], *b"0123456789abcdef", almost] {
        // Right behind the end, as its next batch; and further on, claiming batches that are not there.
        for place in 4..8 {
            for claims in [0, 3, 4, 1 << 39] {
                let forged = Forged { segment: 1, sequence: 4, index: 3, claims, nonce };
                let disk = with_block(&disk, &path, place, &forged.block());
                assert_eq!(
                    found(&disk),
                    Found::Last(2),
                    "block {place}, claims {claims}, {nonce:?}"
                );
            }
        }
    }
    // With the secret the same bytes are believed: nothing else keeps them out.
    let forged = Forged { segment: 1, sequence: 4, index: 3, claims: 3, nonce: secret };
    assert_eq!(found(&with_block(&disk, &path, 4, &forged.block())), Found::Last(3));
    let forged = Forged { claims: 1 << 39, ..forged };
    assert_eq!(found(&with_block(&disk, &path, 5, &forged.block())), Found::Damage);
}

#[test]
fn bytes_that_a_client_chose_are_no_batch_of_a_segment_that_was_not_begun() {
    let (disk, _) = three_batches();
    let next = PathBuf::from("/wal/0000000000000002.segment");
    assert!(disk.exists(&next).unwrap());
    for nonce in [[0; 16], [1; 16]] {
        // Block 1 of a segment never begins with anything but the header of a batch of ours.
        for place in 2..8 {
            let forged = Forged { segment: 2, sequence: 1 << 40, index: 3, claims: 1 << 39, nonce };
            let disk = with_block(&disk, &next, place, &forged.block());
            assert_eq!(found(&disk), Found::Last(2), "block {place}");
        }
    }
}

#[test]
fn a_lost_header_is_noticed_by_the_batches_behind_it() {
    let (disk, _) = three_batches();
    let wal = open(&disk, &options(SyncMode::Always)).unwrap();
    for index in 3..12 {
        wal.append([entry(index, "ordinary")]).unwrap();
        write(&wal).unwrap();
        wal.prepare().unwrap();
    }
    drop(wal);
    assert_eq!(found(&disk.copy()), Found::Last(11));
    let second = begun(&disk).pop();
    let second = second.unwrap();
    for lost in [[0; BLOCK], [0x5a; BLOCK]] {
        assert_eq!(found(&with_block(&disk, &second, 0, &lost)), Found::Damage);
    }
}

#[test]
fn a_lost_header_of_the_only_segment_is_noticed_by_the_batches_behind_it() {
    let (disk, path) = three_batches();
    for lost in [[0; BLOCK], [0x5a; BLOCK]] {
        assert_eq!(found(&with_block(&disk, &path, 0, &lost)), Found::Damage);
    }
}

/// The segment before names the nonce of the one that the log really went on in.
#[test]
fn a_header_lost_behind_a_segment_that_was_cut_is_noticed() {
    let (disk, _) = three_batches();
    let wal = open(&disk, &options(SyncMode::Always)).unwrap();
    let mut index = 3;
    while wal.position().0 < 7 {
        wal.append([entry(index, "ordinary")]).unwrap();
        write(&wal).unwrap();
        wal.prepare().unwrap();
        index += 1;
    }
    drop(wal);
    // The header of the next segment became durable, its first batch did not.
    let wal = open(&disk, &options(SyncMode::Always)).unwrap();
    wal.append([entry(index, "torn")]).unwrap();
    let begun_before = disk.paths();
    write(&wal).unwrap();
    drop(wal);
    let torn = begun(&disk).pop().unwrap();
    assert!(begun_before.contains(&torn), "it was prepared before");
    let disk = with_block(&disk, &torn, 1, &[0x11; BLOCK]);
    let wal = open(&disk, &options(SyncMode::Always)).unwrap();
    for more in 0..3 {
        wal.append([entry(index + more, "acknowledged")]).unwrap();
        write(&wal).unwrap();
    }
    drop(wal);
    assert_eq!(found(&disk.copy()), Found::Last(index + 2));
    let fresh = begun(&disk).pop().unwrap();
    // Header and first batch are lost: what is left is known by the segment before alone.
    let lost = with_block(&disk, &fresh, 0, &[0; BLOCK]);
    assert_eq!(found(&with_block(&lost, &fresh, 1, &[0; BLOCK])), Found::Damage);
}

/// Entries that were truncated while their batch was on its way keep its segment in the log.
#[test]
fn a_segment_whose_entries_were_truncated_on_their_way_is_not_reclaimed() {
    let disk = SimDisk::new(3);
    let wal = open(&disk, &options(SyncMode::Always)).unwrap();
    for index in 0..7 {
        wal.append([entry(index, "old")]).unwrap();
        write(&wal).unwrap();
        wal.prepare().unwrap();
    }
    wal.purge(LogId { term: Term::new(TERM), index: 6 });
    write(&wal).unwrap();
    wal.prepare().unwrap();
    wal.append([entry(7, &"on its way".repeat(1200))]).unwrap();
    let first = wal.seal().unwrap();
    wal.append([entry(8, &"closed".repeat(2500))]).unwrap();
    wal.append([entry(9, &"closed".repeat(2500))]).unwrap();
    wal.truncate_after(Some(LogId { term: Term::new(TERM), index: 6 }));
    wal.write(first).unwrap();
    while begun(&disk).len() < 3 {
        wal.prepare().unwrap();
        wal.write(wal.seal().unwrap()).unwrap();
    }
    wal.reclaim().unwrap();
    drop(wal);
    open(&disk.copy(), &options(SyncMode::Always)).unwrap();
}

#[test]
fn nonces_are_asked_for_and_differ_from_segment_to_segment() {
    let disk = SimDisk::new(1);
    let drawn = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = Arc::clone(&drawn);
    let draw = move || {
        let nth = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        0xfeed_0000_0000_0000_0000_0000_0000_0000 | u128::from(nth)
    };
    let options = Options { nonces: Nonces::new(draw), ..options(SyncMode::Always) };
    let wal = open(&disk, &options).unwrap();
    for index in 0..30 {
        wal.append([entry(index, "ordinary")]).unwrap();
        write(&wal).unwrap();
        wal.prepare().unwrap();
    }
    let mut nonces: Vec<Vec<u8>> = disk
        .paths()
        .iter()
        .map(|path| disk.read_file(path).unwrap()[NONCE_IN_HEADER..][..16].to_vec())
        .filter(|nonce| nonce.ends_with(&[0xed, 0xfe]))
        .collect();
    let count = nonces.len();
    nonces.dedup();
    assert!(count >= 4 && nonces.len() == count, "{nonces:?}");
    assert!(drawn.load(std::sync::atomic::Ordering::Relaxed) > 4);
}

#[test]
fn ids_only_rise_and_dead_batches_stay_dead() {
    for seed in 0..60 {
        let disk = SimDisk::new(seed);
        let wal = open(&disk, &options(SyncMode::OnRequest)).unwrap();
        // Seven batches fill the first segment; three are in the second, and not synced.
        for index in 0..10 {
            wal.append([entry(index, "old")]).unwrap();
            write(&wal).unwrap();
        }
        drop(wal);
        let lost = disk.crash(CrashMode::Reordered { seed });
        for operation in 0.. {
            let image = lost.copy();
            image.crash_at(operation);
            let is_whole = open(&image, &options(SyncMode::OnRequest)).is_ok();
            let image = image.crash(CrashMode::All);
            let before = highest_id(&image);
            let begun_before = begun(&image);
            let wal = open(&image, &options(SyncMode::OnRequest)).unwrap();
            let last = wal.state().last.map_or(0, |last| last.index + 1);
            wal.save_vote(Vote { term: Term::new(9), node_id: MemberId::new(1), committed: true });
            wal.append([entry(last, "new")]).unwrap();
            write(&wal).unwrap();
            for path in begun(&image).iter().filter(|path| !begun_before.contains(path)) {
                let name = path.file_name().unwrap().to_str().unwrap();
                let id = u64::from_str_radix(&name[..16], 16).unwrap();
                assert!(id > before || is_whole, "seed {seed}, operation {operation}: {name}");
            }
            let state = wal.state();
            drop(wal);
            let again = open(&image.copy(), &options(SyncMode::OnRequest)).unwrap();
            assert_eq!(again.state(), state, "seed {seed}, operation {operation}");
            if is_whole {
                break;
            }
        }
    }
}

/// A log under a random order of what can happen to it, beside what it must hold.
struct Story {
    disk: SimDisk,
    options: Options,
    random: u64,
    written: Vec<String>,
    /// So many entries survive a power loss.
    durable: usize,
    /// So many entries are there at the next start.
    expected: usize,
}

impl Story {
    fn new(seed: u64, sync: SyncMode) -> Story {
        let options = options(sync);
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Story {
            disk: SimDisk::new(seed),
            options,
            random,
            written: Vec::new(),
            durable: 0,
            expected: 0,
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % bound
    }

    fn mode(&mut self) -> CrashMode {
        let seed = self.below(u64::MAX);
        match self.below(4) {
            0 => CrashMode::Lost,
            1 => CrashMode::Torn { seed },
            _ => CrashMode::Reordered { seed },
        }
    }

    /// Opens the log and compares it; what it says counts as durable from then on.
    fn open(&mut self, what: &str) -> Wal {
        let wal =
            open(&self.disk, &self.options).unwrap_or_else(|error| unreachable!("{what}: {error}"));
        let entries = wal.read(0..u64::MAX, usize::MAX).unwrap();
        let found: Vec<String> =
            entries.iter().map(|of| String::from_utf8(of.payload.to_vec()).unwrap()).collect();
        assert!(found.len() >= self.expected, "{what}: {} of {}", found.len(), self.expected);
        assert!(self.written.starts_with(&found), "{what}: {found:?} of {:?}", self.written);
        self.written = found;
        self.durable = self.written.len();
        wal
    }

    /// Writes some batches, and syncs now and then.
    fn write(&mut self, wal: &Wal, round: u64) {
        for _ in 0..self.below(9) {
            for _ in 0..=self.below(2) {
                let index = self.written.len() as u64;
                let text = format!("{round}-{index}")
                    .repeat(usize::try_from(1 + self.below(300)).unwrap());
                wal.append([entry(index, &text)]).unwrap();
                self.written.push(text);
            }
            write(wal).unwrap();
            wal.prepare().unwrap();
            if self.below(4) == 0 {
                wal.sync().unwrap();
                self.durable = self.written.len();
            }
        }
        if self.options.sync == SyncMode::Always {
            self.durable = self.written.len();
        }
    }

    fn fail(&mut self) -> &'static str {
        let mode = self.mode();
        if self.below(2) == 0 {
            self.disk = self.disk.copy();
            self.expected = self.written.len();
            return "kill";
        }
        self.disk = self.disk.crash(mode);
        self.expected = self.durable;
        "power loss"
    }

    /// A recovery that is killed, or loses power, at any of its operations.
    fn interrupt(&mut self) {
        let operation = self.below(40);
        self.disk.crash_at(operation);
        match open(&self.disk, &self.options) {
            Ok(wal) => drop(wal),
            Err(Error::CorruptLog { path, .. }) => unreachable!("{} is damaged", path.display()),
            Err(_) => {}
        }
        if self.below(2) == 0 {
            self.disk = self.disk.crash(CrashMode::All);
        } else {
            let mode = self.mode();
            self.disk = self.disk.crash(mode);
            self.expected = self.durable;
        }
    }
}

#[test]
fn kills_power_losses_and_recoveries_that_are_cut_off_in_any_order() {
    for seed in 0..400 {
        for sync in [SyncMode::Always, SyncMode::OnRequest] {
            let mut story = Story::new(seed, sync);
            let mut what = String::from("start");
            for round in 0..6 {
                let wal = story.open(&format!("seed {seed}, {sync:?}, round {round}, {what}"));
                story.write(&wal, round);
                drop(wal);
                what = story.fail().to_owned();
                while story.below(2) == 0 {
                    story.interrupt();
                    what.push_str(", a recovery cut off");
                }
            }
        }
    }
}
