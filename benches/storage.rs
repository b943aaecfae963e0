//! What a write costs below Raft: the log's batches, slots, checksums, recovery, snapshots' scans.
//! Data lies in a temporary directory, on the disk that `TMPDIR` names.
#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![allow(clippy::unwrap_used, reason = "a bench stops at the first surprise")]

use std::borrow::Cow;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use diskstore_storage::disk::RealDisk;
use diskstore_storage::slots::{Geometry, New, Options as SlotOptions, Slots};
use diskstore_storage::state::Change;
use diskstore_storage::wal::{Entry, EntryKind, Nonces, Options, SyncMode, Wal};
use diskstore_storage::{LogId, LogIndex, SlotIndex, Term};

const VALUE_BYTES: u64 = 1024;
/// What 64 clients have on their way.
const BATCH_ENTRIES: u64 = 64;
const SLOTS: u64 = 65_536;
const RECOVERED_ENTRIES: u64 = 65_536;
/// As in a snapshot's frame.
const SCAN_BYTES: usize = 1 << 20;

fn open(directory: &Path, sync: SyncMode) -> Wal {
    let options = Options { sync, ..Options::new(Nonces::counted()) };
    let disk = Arc::new(RealDisk::new());
    Wal::open(disk, &directory.join("wal"), &directory.join("tmp"), &options).unwrap().0
}

/// Entries from `first` on; they share one payload, as commands share the buffer they came in.
fn entries(payload: &Bytes, first: u64) -> impl Iterator<Item = Entry> {
    (first..first + BATCH_ENTRIES).map(|index| Entry {
        log_id: LogId { term: Term::new(1), index },
        kind: EntryKind::Normal,
        payload: payload.clone().into(),
    })
}

/// One group commit: lay out, checksum, write, and sync if the mode says so.
fn commit(wal: &Wal, payload: &Bytes, next: &mut u64) {
    wal.append(entries(payload, *next)).unwrap();
    *next += BATCH_ENTRIES;
    while let Some(batch) = wal.seal() {
        wal.write(batch).unwrap();
    }
    if wal.is_prepare_due() {
        wal.purge(LogId { term: Term::new(1), index: *next - BATCH_ENTRIES });
        wal.release(*next);
        wal.prepare().unwrap();
        wal.reclaim().unwrap();
    }
}

fn log(criterion: &mut Criterion) {
    let payload = Bytes::from(vec![7; usize::try_from(VALUE_BYTES).unwrap()]);
    let mut group = criterion.benchmark_group("wal");
    group.throughput(Throughput::Elements(BATCH_ENTRIES));
    for (name, sync) in [
        ("commit of 64 x 1 KiB, synced", SyncMode::Always),
        ("commit of 64 x 1 KiB, not synced", SyncMode::OnRequest),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let wal = open(directory.path(), sync);
        let mut next = wal.state().first_index;
        group.bench_function(name, |bench| bench.iter(|| commit(&wal, &payload, &mut next)));
    }
    group.finish();
}

fn recovery(criterion: &mut Criterion) {
    let payload = Bytes::from(vec![7; usize::try_from(VALUE_BYTES).unwrap()]);
    let directory = tempfile::tempdir().unwrap();
    let wal = open(directory.path(), SyncMode::OnRequest);
    let mut next = wal.state().first_index;
    while next < RECOVERED_ENTRIES {
        wal.append(entries(&payload, next)).unwrap();
        next += BATCH_ENTRIES;
        while let Some(batch) = wal.seal() {
            wal.write(batch).unwrap();
            wal.prepare().unwrap();
        }
    }
    wal.sync().unwrap();
    drop(wal);
    let mut group = criterion.benchmark_group("wal");
    group.throughput(Throughput::Bytes(RECOVERED_ENTRIES * VALUE_BYTES)).sample_size(10);
    group.bench_function("recovery of 64 MiB", |bench| {
        bench.iter(|| black_box(open(directory.path(), SyncMode::OnRequest).state()));
    });
    group.finish();
}

/// Slots of which every one holds a value.
fn full_slots(directory: &Path) -> Slots {
    let geometry = Geometry::new(SLOTS, u32::try_from(VALUE_BYTES).unwrap()).unwrap();
    let options = SlotOptions::new(2 * SLOTS * VALUE_BYTES);
    let new = New { geometry, cluster_id: 1, options };
    let slots = Slots::create(&RealDisk::new(), directory, new, &mut |_, _| {}).unwrap();
    let value = vec![7; usize::try_from(VALUE_BYTES).unwrap()];
    for key in 0..SLOTS {
        set(&slots, key, key + 1, &value);
    }
    slots
}

fn set(slots: &Slots, key: u64, index: u64, value: &[u8]) {
    let mut guard = slots.lock([key].into_iter());
    guard
        .apply(SlotIndex::new(key), LogIndex::new(index), |_| Change::Set(Cow::Borrowed(value)))
        .unwrap();
}

fn slots(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let slots = full_slots(directory.path());
    let value = vec![9; usize::try_from(VALUE_BYTES).unwrap()];
    let mut index = SLOTS;
    let mut group = criterion.benchmark_group("slots");
    group.throughput(Throughput::Elements(1));
    group.bench_function("apply a set of 1 KiB", |bench| {
        bench.iter(|| {
            index += 1;
            // A step that meets every slot, and none twice in a row.
            set(&slots, index.wrapping_mul(40_503) % SLOTS, index, &value);
        });
    });
    group.bench_function("read 1 KiB", |bench| {
        let mut key = 0;
        bench.iter(|| {
            key = (key + 40_503) % SLOTS;
            black_box(slots.read(key).unwrap())
        });
    });
    group.throughput(Throughput::Bytes(SCAN_BYTES as u64));
    group.bench_function("scan 1 MiB of a snapshot", |bench| {
        let mut from = 0;
        bench.iter_batched_ref(
            Vec::new,
            |out| from = slots.scan(from, 0, SCAN_BYTES, out).unwrap().unwrap_or(0),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn checksum(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("crc");
    for bytes in [1 << 10, 64 << 10] {
        let block = vec![7; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("{} KiB", bytes >> 10), |bench| {
            bench.iter(|| crc32fast::hash(black_box(&block)));
        });
    }
    group.finish();
}

criterion_group!(benches, log, recovery, slots, checksum);
criterion_main!(benches);
