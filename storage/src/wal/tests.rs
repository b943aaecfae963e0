//! Bytes of the format, bounds of the log in memory, and what its driver can rely on. Crashes and
//! damage are in `storage/tests/crash_wal.rs`.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::batch::{self, BatchHeader, OpenBatch};
use super::record::{self, Record};
use super::segment::{Begun, Carried, Follows, Life, Nonce, SegmentHeader, id_of, name_of};
use super::store::Store;
use super::tail::Tail;
use super::{Entry, EntryKind, Nonces, Options, Position, Seen, StoppedWal, Wal};
use crate::disk::{AlignedBuffer, BLOCK_BYTES, CrashMode, Disk, SimDisk};
use crate::{Error, LogId, MemberId, Term, Vote};

const NONCE: Nonce = Nonce(0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100);
const LIFE: Life = Life { segment: 3, nonce: NONCE };
const HEADER: SegmentHeader = SegmentHeader {
    nonce: NONCE,
    next_nonce: Nonce(0x1f),
    id: 3,
    first_sequence: 9,
    bytes: 65_536,
    follows: Follows { segment: 1, sequence: 8 },
    carried: Carried {
        vote: Some(Vote { term: Term::new(5), node_id: MemberId::new(6), committed: true }),
        purged: Some(LogId { term: Term::new(1), index: 2 }),
        committed: None,
        last: Some(LogId { term: Term::new(5), index: 40 }),
    },
    reserved: 0,
};

fn log_id(term: u64, index: u64) -> LogId {
    LogId { term: Term::new(term), index }
}

fn entry(index: u64, payload_bytes: usize) -> Entry {
    let payload = Bytes::from(vec![index.to_le_bytes()[0]; payload_bytes]);
    Entry { log_id: log_id(1, index), kind: EntryKind::Normal, payload: payload.into() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn open(disk: &SimDisk, options: &Options) -> Wal {
    let disk = Arc::new(disk.clone());
    Wal::open(disk, Path::new("/wal"), Path::new("/tmp"), options).unwrap().0
}

fn small() -> Options {
    Options { segment_bytes: 64 << 10, tail_bytes_max: 1000, ..Options::new(Nonces::counted()) }
}

fn sync(wal: &Wal) {
    while let Some(batch) = wal.seal() {
        wal.write(batch).unwrap();
    }
}

#[test]
fn records_have_the_documented_bytes() {
    let golden = [
        (
            record::encode_vote(Vote {
                term: Term::new(5),
                node_id: MemberId::new(6),
                committed: true,
            }),
            "020100000000000005000000000000000600000000000000",
        ),
        (
            record::encode_vote(Vote {
                term: Term::new(5),
                node_id: MemberId::new(6),
                committed: false,
            }),
            "020000000000000005000000000000000600000000000000",
        ),
        (
            record::encode_committed(log_id(1, 2)),
            "030000000000000001000000000000000200000000000000",
        ),
        (
            record::encode_truncate(Some(log_id(1, 2))),
            "040100000000000001000000000000000200000000000000",
        ),
        (record::encode_truncate(None), "040000000000000000000000000000000000000000000000"),
        (record::encode_purge(log_id(1, 2)), "050000000000000001000000000000000200000000000000"),
    ];
    for (bytes, text) in golden {
        assert_eq!(hex(&bytes), text);
        assert_eq!(record::decode(&bytes).unwrap().1, bytes.len());
    }
    let mut buffer = AlignedBuffer::with_capacity(100);
    let payload = Bytes::from_static(b"value");
    let kind = EntryKind::Membership;
    record::encode_entry(
        &mut buffer,
        &Entry { log_id: log_id(7, 9), kind, payload: payload.into() },
    );
    assert_eq!(
        hex(buffer.as_slice()),
        "010200000500000007000000000000000900000000000000541f29000000000076616c7565000000"
    );
    let (decoded, bytes) = record::decode(buffer.as_slice()).unwrap();
    let Record::Entry(decoded) = decoded else { unreachable!("{decoded:?}") };
    assert_eq!(
        (decoded.log_id, decoded.kind, decoded.payload),
        (log_id(7, 9), kind, &b"value"[..])
    );
    assert!(decoded.is_whole());
    assert_eq!(bytes, buffer.len());
}

#[test]
fn every_record_that_is_read_back_is_the_one_written() {
    let vote = Vote { term: Term::new(u64::MAX), node_id: MemberId::new(1), committed: true };
    let decoded = |bytes: [u8; record::RECORD_BYTES]| match record::decode(&bytes).unwrap().0 {
        Record::Vote(vote) => format!("{vote:?}"),
        Record::Committed(log_id) => format!("committed {log_id}"),
        Record::Truncate(last) => format!("truncate {last:?}"),
        Record::Purge(log_id) => format!("purge {log_id}"),
        Record::Entry(entry) => format!("entry {entry:?}"),
    };
    assert_eq!(decoded(record::encode_vote(vote)), format!("{vote:?}"));
    assert_eq!(decoded(record::encode_committed(log_id(1, 2))), "committed 1-2");
    assert_eq!(decoded(record::encode_truncate(None)), "truncate None");
    assert_eq!(decoded(record::encode_purge(log_id(3, 4))), "purge 3-4");
}

#[test]
fn rubbish_is_no_record() {
    let vote = record::encode_vote(Vote::default());
    for length in 0..vote.len() {
        assert!(record::decode(&vote[..length]).is_none(), "{length} bytes");
    }
    for (at, byte) in [(0, 0), (0, 6), (0, 255), (1, 2), (2, 1), (3, 1), (4, 1), (7, 1)] {
        let mut bytes = vote;
        bytes[at] = byte;
        assert!(record::decode(&bytes).is_none(), "byte {at} = {byte}");
    }
    let mut buffer = AlignedBuffer::with_capacity(100);
    record::encode_entry(&mut buffer, &entry(1, 9));
    for length in 0..41 {
        assert!(record::decode(&buffer.as_slice()[..length]).is_none(), "{length} bytes");
    }
    let mut huge = buffer.as_slice().to_vec();
    huge[4..8].fill(255);
    assert!(record::decode(&huge).is_none(), "a length beyond what is there");
}

#[test]
fn a_batch_has_the_documented_bytes() {
    let mut open = OpenBatch::new(9, AlignedBuffer::with_capacity(BLOCK_BYTES));
    open.push(record::encode_purge(log_id(1, 2)));
    let mut sealed = open.seal(Carried::default());
    sealed.finish(LIFE, 8);
    let bytes = sealed.as_slice();
    assert_eq!(bytes.len(), BLOCK_BYTES);
    assert_eq!(
        hex(&bytes[..88]),
        "64737462617463680300000000000000090000000000000008000000000000001800000001000000ab79b213\
         00000000000102030405060708090a0b0c0d0e0f050000000000000001000000000000000200000000000000"
    );
    assert!(bytes[88..].iter().all(|&byte| byte == 0));
    assert!(batch::is_whole(bytes, LIFE));
    assert!(!batch::is_whole(bytes, Life { segment: 4, ..LIFE }), "a batch names its segment");
    assert!(!batch::is_whole(bytes, Life { nonce: Nonce(1), ..LIFE }), "a batch names its life");
    assert_eq!(batch::records_of(bytes).unwrap(), record::encode_purge(log_id(1, 2)));
}

#[test]
fn every_flipped_bit_of_a_batch_is_noticed_and_it_still_resembles_itself() {
    let mut open = OpenBatch::new(9, AlignedBuffer::with_capacity(BLOCK_BYTES));
    open.push_entry(&entry(1, 100));
    let mut sealed = open.seal(Carried::default());
    sealed.finish(LIFE, 8);
    let whole = sealed.as_slice().to_vec();
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            assert!(!batch::is_whole(&bytes, LIFE), "byte {at}, bit {bit}");
            assert!(BatchHeader::decode(&bytes).unwrap().resembles(LIFE, 9));
        }
    }
    let other_life = BatchHeader::decode(&whole).unwrap();
    let nonce = Nonce(NONCE.0 ^ 0x0101);
    assert!(!other_life.resembles(Life { nonce, ..LIFE }, 9), "a batch of another life does not");
    let later = Life { segment: 4, ..LIFE };
    assert!(!other_life.resembles(later, 10), "a batch of an earlier life does not");
}

#[test]
fn a_segment_header_has_the_documented_bytes() {
    let block = HEADER.encode();
    let golden = [
        "6473747365676d74020000001700000003000000000000000000010000000000",
        "0900000000000000010000000000000008000000000000000000000000000000",
        "0500000000000000060000000000000001000000000000000200000000000000",
        "0000000000000000000000000000000005000000000000002800000000000000",
    ];
    assert_eq!(hex(&block[..128]), golden.concat());
    let (first, next) = ("000102030405060708090a0b0c0d0e0f", "1f000000000000000000000000000000");
    assert_eq!(hex(&block[128..160]), [first, next].concat());
    assert!(block[160..BLOCK_BYTES - 24].iter().all(|&byte| byte == 0));
    assert_eq!(hex(&block[BLOCK_BYTES - 24..BLOCK_BYTES - 4]), [first, "00000000"].concat());
    assert_eq!(hex(&block[BLOCK_BYTES - 4..]), "ff99b337");
    assert_eq!(SegmentHeader::decode(&block, 3), Begun::Yes(HEADER));
}

#[test]
fn a_segment_header_is_told_from_what_is_not_one() {
    let block = HEADER.encode();
    assert_eq!(SegmentHeader::decode(&[0; BLOCK_BYTES], 3), Begun::No);
    assert_eq!(SegmentHeader::decode(&block, 4), Begun::No, "of an earlier life");
    for at in 0..BLOCK_BYTES {
        let mut bytes = block;
        bytes[at] ^= 16;
        let begun = SegmentHeader::decode(&bytes, 3);
        assert!(matches!(begun, Begun::Damaged | Begun::No), "byte {at}: {begun:?}");
    }
    let mut newer = block;
    newer[8] = 9;
    let crc = crc32fast::hash(&newer[..BLOCK_BYTES - 4]);
    newer[BLOCK_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(SegmentHeader::decode(&newer, 3), Begun::Unknown(9));
}

#[test]
fn only_names_of_segments_are_segments() {
    assert_eq!(name_of(255), "00000000000000ff.segment");
    assert_eq!(id_of("00000000000000ff.segment"), Some(255));
    for name in ["0000000000000000.segment", "ff.segment", "00000000000000FF.segment", "next.tmp"] {
        assert_eq!(id_of(name), None, "{name}");
    }
}

#[test]
fn whoever_follows_a_recovery_hears_what_the_log_holds_in_its_order() {
    let disk = SimDisk::new(1);
    let wal = open(&disk, &small());
    wal.append((0..3).map(|index| entry(index, 30_000))).unwrap();
    sync(&wal);
    wal.save_committed(log_id(1, 0));
    wal.truncate_after(Some(log_id(1, 1)));
    wal.append([entry(2, 7)]).unwrap();
    sync(&wal);
    drop(wal);
    let mut met = Vec::new();
    let (wal, aside, disk) = (Path::new("/wal"), Path::new("/tmp"), Arc::new(disk));
    Wal::open_following(disk, wal, aside, &small(), &mut |seen| met.push(seen)).unwrap();
    let (bytes, mut rest) = (met.remove(0), met);
    rest.retain(|seen| !matches!(seen, Seen::Batch(_)));
    assert!(matches!(bytes, Seen::Bytes(bytes) if bytes > 2 * (64 << 10)), "{bytes:?}");
    // A committed position stands somewhere in its batch.
    let committed = rest.iter().position(|seen| *seen == Seen::Committed(log_id(1, 0))).unwrap();
    assert!(committed > 2, "{rest:?}");
    rest.remove(committed);
    let mut expected: Vec<_> = (0..3).map(|index| Seen::Entry(entry(index, 30_000))).collect();
    expected.extend([Seen::Truncated(Some(log_id(1, 1))), Seen::Entry(entry(2, 7))]);
    assert!(rest == expected, "not these, in this order");
}

#[test]
fn the_tail_keeps_what_is_not_durable_or_not_released() {
    let mut tail = Tail::default();
    for index in 5..25 {
        tail.push(entry(index, 100));
    }
    tail.trim(0, 5);
    assert_eq!(tail.from(5).unwrap().count(), 20);
    tail.trim(0, 10);
    assert!(tail.from(9).is_none());
    assert_eq!(tail.from(10).unwrap().count(), 15);
    tail.trim(usize::MAX, 20);
    assert!(tail.from(10).is_some(), "there is room");
    tail.truncate_from(12);
    assert_eq!(tail.from(11).unwrap().next().unwrap().log_id.index, 11);
    assert!(tail.from(12).is_none());
    tail.drop_below(12);
    assert!(tail.from(11).is_none());
}

#[test]
fn entries_are_readable_before_they_are_durable_and_after_the_tail_let_go() {
    let wal = open(&SimDisk::new(1), &small());
    let position = wal.append((1..=40).map(|index| entry(index, 500))).unwrap();
    assert_eq!(wal.durable(), Position(0));
    let all: Vec<Entry> = (1..=40).map(|index| entry(index, 500)).collect();
    assert_eq!(wal.read(0..99, usize::MAX).unwrap(), all);
    sync(&wal);
    assert_eq!(wal.durable(), position);
    assert_eq!(wal.read_tail(0..99, usize::MAX).unwrap(), all);
    wal.release(40);
    assert_eq!(wal.read_tail(0..99, usize::MAX), None, "the first is on the disk only");
    assert_eq!(wal.read_tail(40..99, usize::MAX).unwrap(), all[39..]);
    assert_eq!(wal.read_tail(41..99, usize::MAX).unwrap(), [], "nothing needs no disk");
    assert_eq!(wal.read(0..99, usize::MAX).unwrap(), all);
    assert_eq!(wal.read(7..9, usize::MAX).unwrap(), all[6..8]);
    assert_eq!(wal.read(7..40, 1000).unwrap(), all[6..8], "as many as fit");
    assert_eq!(wal.read(7..40, 0).unwrap(), all[6..7], "at least one");
    assert_eq!(wal.read(41..99, 1000).unwrap(), []);
    assert_eq!(wal.read(Range { start: 9, end: 3 }, 1000).unwrap(), []);
    assert_eq!(wal.log_id_at(40), Some(log_id(1, 40)));
    assert_eq!(wal.log_id_at(41), None);
}

#[test]
fn an_entry_that_fits_no_batch_is_refused_before_anything_is_recorded() {
    let wal = open(&SimDisk::new(1), &small());
    let most = wal.payload_bytes_max();
    let before = (wal.state(), wal.position(), wal.unsynced_bytes());
    let result = wal.append([entry(1, 10), entry(2, most + 1)]);
    assert!(matches!(result, Err(Error::EntryTooLarge { index: 2, .. })));
    assert_eq!((wal.state(), wal.position(), wal.unsynced_bytes()), before);
    wal.save_committed(log_id(1, 1));
    wal.append([entry(1, most), entry(2, most), entry(3, 10)]).unwrap();
    wal.save_committed(log_id(1, 3));
    sync(&wal);
    wal.release(3);
    let read = wal.read(1..4, usize::MAX).unwrap();
    assert_eq!(read, [entry(1, most), entry(2, most), entry(3, 10)]);
}

#[test]
fn unsynced_bytes_rise_with_appends_and_fall_with_writes() {
    let options = Options { unsynced_bytes_max: 2000, ..small() };
    let wal = open(&SimDisk::new(1), &options);
    wal.append([entry(1, 900)]).unwrap();
    assert!(!wal.is_over_bound());
    wal.append((2..4).map(|index| entry(index, 900))).unwrap();
    assert!(wal.is_over_bound());
    let bytes = wal.log_bytes();
    assert_eq!(bytes, wal.unsynced_bytes() as u64);
    sync(&wal);
    assert_eq!((wal.unsynced_bytes(), wal.log_bytes()), (0, bytes));
}

#[test]
fn committed_waits_for_the_next_batch_unless_a_barrier_asks() {
    let disk = SimDisk::new(1);
    let wal = open(&disk, &small());
    wal.append((1..4).map(|index| entry(index, 9))).unwrap();
    sync(&wal);
    wal.save_committed(log_id(1, 2));
    assert!(wal.seal().is_none(), "it asks for no batch of its own");
    assert_eq!(wal.state().committed, Some(log_id(1, 2)));
    assert_eq!(open(&disk.copy(), &small()).state().committed, None);
    assert!(wal.barrier() > wal.durable());
    sync(&wal);
    assert_eq!(wal.barrier(), wal.durable());
    assert_eq!(open(&disk.copy(), &small()).state().committed, Some(log_id(1, 2)));
    wal.save_committed(log_id(9, 9));
    assert_eq!(wal.state().committed, Some(log_id(1, 3)), "never beyond the log");
}

#[test]
fn a_claim_is_due_once_after_a_batch_and_carries_committed() {
    let disk = SimDisk::new(1);
    let wal = open(&disk, &small());
    assert!(!wal.claim_due(), "there is nothing to claim");
    wal.append([entry(1, 9)]).unwrap();
    assert!(!wal.claim_due() && wal.seal_claim().is_none(), "the entry goes first");
    let batch = wal.seal().unwrap();
    assert!(!wal.claim_due(), "it is in flight");
    wal.write(batch).unwrap();
    wal.save_committed(log_id(1, 1));
    assert!(wal.claim_due());
    let claim = wal.seal_claim().unwrap();
    assert_eq!(claim.bytes(), BLOCK_BYTES);
    wal.write(claim).unwrap();
    assert!(!wal.claim_due());
    assert_eq!(open(&disk.copy(), &small()).state().committed, Some(log_id(1, 1)));
}

#[test]
fn the_purge_point_keeps_as_many_bytes_as_asked() {
    let wal = open(&SimDisk::new(1), &small());
    assert_eq!(wal.purge_point_keeping(0), None);
    for round in 0..20 {
        wal.append((0..5).map(|at| entry(1 + round * 5 + at, 1000))).unwrap();
        sync(&wal);
    }
    assert_eq!(wal.purge_point_keeping(u64::MAX), None);
    let mut before = 100;
    for keep in [0, 1000, 5000, 20_000, 60_000] {
        let upto = wal.purge_point_keeping(keep).unwrap();
        assert!(upto <= before, "{keep} bytes keep {upto}");
        // Five entries take two blocks.
        let kept = (100 - upto) * 2 * BLOCK_BYTES as u64 / 5 + BLOCK_BYTES as u64;
        assert!(kept >= keep, "{keep} bytes keep what is above {upto}");
        before = upto;
    }
    assert!(before < 70, "{before}");
}

#[test]
#[should_panic(expected = "at most one batch is in flight")]
fn a_second_batch_in_flight_is_a_bug() {
    let wal = open(&SimDisk::new(1), &small());
    wal.append([entry(1, 9)]).unwrap();
    let _in_flight = wal.seal().unwrap();
    wal.append([entry(2, 9)]).unwrap();
    wal.seal();
}

#[test]
#[should_panic(expected = "the log has no hole")]
fn a_hole_is_a_bug() {
    let wal = open(&SimDisk::new(1), &small());
    wal.append([entry(1, 9), entry(3, 9)]).unwrap();
}

#[test]
fn a_segment_is_filled_piece_by_piece_with_rests_between() {
    let (disk, options) = (SimDisk::new(1), Options { segment_bytes: 3 << 20, ..small() });
    disk.create_dir_all(Path::new("/wal")).unwrap();
    let store = Store::new(Arc::new(disk), "/wal".into(), 1, &options);
    let mut rests = Vec::new();
    let mut rest = |filled: u64, bytes: u64| rests.push((filled >> 20, bytes >> 20));
    assert!(store.prepare(&mut rest).unwrap());
    assert!(!store.prepare(&mut rest).unwrap(), "it is there");
    assert_eq!(rests, [(1, 3), (2, 3), (3, 3)]);
}

/// What it reads is what a start would recover, in many segments and with a torn end, and the disk is as
/// it was.
#[test]
fn a_log_that_is_only_read_says_what_a_start_would_find_and_stays() {
    let disk = SimDisk::new(1);
    let wal = open(&disk, &small());
    wal.save_vote(Vote { term: Term::new(2), node_id: MemberId::new(3), committed: true });
    for index in 0..40 {
        wal.append([entry(index, 6000)]).unwrap();
        sync(&wal);
    }
    wal.purge(log_id(1, 3));
    wal.truncate_after(Some(log_id(1, 36)));
    wal.save_committed(log_id(1, 30));
    wal.barrier();
    sync(&wal);
    let payload = Bytes::from(vec![0xee; 6000]).into();
    wal.append([Entry { payload, ..entry(37, 0) }]).unwrap();
    sync(&wal);
    drop(wal);
    let mut newest =
        disk.paths().into_iter().filter(|path| path.extension() == Some("segment".as_ref()));
    let is_in = |path: &Path| {
        let bytes = disk.read_file(path).unwrap();
        bytes.windows(6000).position(|some| some == vec![0xee; 6000])
    };
    let (path, at) = newest.find_map(|path| Some((path.clone(), is_in(&path)?))).unwrap();
    disk.flip_bit(&path, at as u64 + 7, 2).unwrap();
    let (before, paths) = (disk.operation_count(), disk.paths());
    let (stopped, report) = StoppedWal::open(&disk, Path::new("/wal")).unwrap();
    let read = stopped.read(0..100, usize::MAX).unwrap();
    let (state, cut) = (stopped.state(), report.cut.clone().unwrap());
    assert_eq!(stopped.log_id_at(20), Some(log_id(1, 20)));
    assert_eq!((disk.operation_count(), disk.paths()), (before, paths));
    assert_eq!((cut.path, cut.kept_in), (path, None));
    let (wal, recovery) =
        Wal::open(Arc::new(disk.clone()), Path::new("/wal"), Path::new("/tmp"), &small()).unwrap();
    assert_eq!(state, wal.state());
    assert_eq!((state.last, state.committed), (Some(log_id(1, 36)), Some(log_id(1, 30))));
    assert_eq!(read, wal.read(0..100, usize::MAX).unwrap());
    assert_eq!(read.len(), 33);
    assert_eq!(
        (report.entries, report.batches, report.segments),
        (recovery.entries, recovery.batches, recovery.segments)
    );
}

/// Their payloads are summed once, and the checks of record and batch, which pass over all bytes, hold.
#[test]
fn a_batch_with_long_payloads_is_whole_and_not_after_any_flip() {
    let (mut batch, mut lengths) = (OpenBatch::new(9, AlignedBuffer::with_capacity(1)), 0);
    for (index, payload_bytes) in [(1, 5), (2, 40_000), (3, 0), (4, 16 << 10), (5, 100_001)] {
        let mut entry = entry(index, payload_bytes);
        entry.payload.sum();
        batch.push_entry(&entry);
        lengths += record::entry_bytes(payload_bytes);
    }
    let mut batch = batch.seal(Carried::default());
    batch.finish(LIFE, 8);
    let mut bytes = batch.as_slice().to_vec();
    assert!(batch::is_whole(&bytes, LIFE));
    let mut rest = batch::records_of(&bytes).unwrap();
    assert_eq!(rest.len(), lengths);
    while !rest.is_empty() {
        let (Record::Entry(entry), count) = record::decode(rest).unwrap() else { unreachable!() };
        assert!(entry.is_whole(), "{}", entry.log_id);
        rest = &rest[count..];
    }
    for at in (0..bytes.len()).step_by(997) {
        bytes[at] ^= 1;
        assert!(!batch::is_whole(&bytes, LIFE), "byte {at}");
        bytes[at] ^= 1;
    }
}

#[test]
fn after_a_renewal_no_file_has_what_was_purged() {
    let disk = SimDisk::new(1);
    let wal = open(&disk, &small());
    let secret = b"what was deleted";
    let append = |index: u64, payload: &[u8]| {
        let payload = Bytes::copy_from_slice(payload).into();
        wal.append([Entry { log_id: log_id(1, index), kind: EntryKind::Normal, payload }]).unwrap();
        sync(&wal);
    };
    let names_with_it = || {
        let has_it = |path: &std::path::PathBuf| {
            let bytes = disk.read_file(path).unwrap();
            bytes.windows(secret.len()).any(|window| window == secret)
        };
        disk.paths().into_iter().filter(has_it).count()
    };
    for index in 1..=20 {
        append(index, &secret.repeat(500));
        wal.prepare().unwrap();
    }
    wal.purge(log_id(1, 15));
    sync(&wal);
    assert!(wal.reclaim().unwrap() > 0);
    wal.prepare().unwrap();
    let is_spare = |path: &std::path::PathBuf| path.extension().is_some_and(|it| it == "spare");
    assert!(disk.paths().iter().any(is_spare) && names_with_it() > 2, "some are to be used again");
    wal.renew(&mut |_, _| {}).unwrap();
    append(21, b"later");
    wal.purge(log_id(1, 20));
    sync(&wal);
    wal.reclaim().unwrap();
    assert_eq!(names_with_it(), 0, "{:?}", disk.paths());
    drop(wal);
    let wal = open(&disk.crash(CrashMode::Lost), &small());
    assert_eq!((wal.state().first_index, wal.state().last), (21, Some(log_id(1, 21))));
}
