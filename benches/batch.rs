//! What a batch of 64 pipelines of 16 sets of 1 KiB costs between the socket and the slots: decoded and put
//! into entries, appended to the log, applied. Commands and bytes a second; the log is written to the
//! temporary directory, not synced. `tests/counts.rs` counts allocations of the same.
#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![allow(clippy::unwrap_used, reason = "a bench stops at the first surprise")]

use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use diskstore::command::{Command, slot_key};
use diskstore::load::{Codec, Operation, Resp, Values};
use diskstore::machine::{DiskMachine, Machine, MemoryMachine};
use diskstore::raft::entries_of;
use diskstore::server::bench::Served;
use diskstore_storage::disk::RealDisk;
use diskstore_storage::slots::{Geometry, New, Options as SlotOptions, Slots};
use diskstore_storage::wal::{Entry, EntryKind, Nonces, Options, SyncMode, Wal};
use diskstore_storage::{LogId, Term, keys};

const CLIENTS: u64 = 64;
const PIPELINE: u64 = 16;
const COMMANDS: u64 = CLIENTS * PIPELINE;
const VALUE_BYTES: usize = 1024;
const SLOTS: u64 = 65_536;

fn inputs() -> Vec<BytesMut> {
    let values = Values::new(VALUE_BYTES);
    let of_client = |client| {
        let mut bytes = Vec::new();
        for nth in 0..PIPELINE {
            let key = client * PIPELINE + nth;
            let value = values.value(key, 1, VALUE_BYTES);
            Resp.request(&Operation::Write { key, value }, &mut bytes);
        }
        BytesMut::from(&bytes[..])
    };
    (0..CLIENTS).map(of_client).collect()
}

/// Sets of slots far from each other; `round` moves all of them.
fn commands(round: u64) -> Vec<Command> {
    let value = vec![7; VALUE_BYTES];
    let slot = |nth: u64| (nth * 64 + round).wrapping_mul(40_503) % SLOTS;
    (0..COMMANDS).map(|nth| Command::set(&slot_key(slot(nth)), &value).unwrap()).collect()
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch");
    group.throughput(Throughput::Elements(COMMANDS));
    let mut connections: Vec<Served> = (0..CLIENTS).map(|_| Served::of_slots(SLOTS)).collect();
    let inputs = inputs();
    group.bench_function("decode to batch", |bench| {
        let batch = |inputs: &mut Vec<BytesMut>| {
            let turns = connections.iter_mut().zip(inputs);
            entries_of(turns.flat_map(|(connection, input)| connection.commands(input)).collect())
        };
        bench.iter_batched_ref(|| inputs.clone(), batch, BatchSize::SmallInput);
    });
    group.finish();
}

fn log(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { sync: SyncMode::OnRequest, ..Options::new(Nonces::counted()) };
    let (disk, path) = (Arc::new(RealDisk::new()), directory.path());
    let wal = Wal::open(disk, &path.join("wal"), &path.join("tmp"), &options).unwrap().0;
    let entries = entries_of(commands(0));
    let bytes = entries.iter().map(|entry| entry.bytes().len() as u64).sum();
    let mut group = criterion.benchmark_group("batch");
    group.throughput(Throughput::Bytes(bytes));
    let mut next = wal.state().first_index;
    group.bench_function("batch to log", |bench| {
        bench.iter(|| {
            let log_id = |index| LogId { term: Term::new(1), index };
            let entry = |(index, entry): (u64, &Command)| Entry {
                log_id: log_id(index),
                kind: EntryKind::Normal,
                payload: entry.bytes().clone().into(),
            };
            wal.append((next..).zip(&entries).map(entry)).unwrap();
            next += entries.len() as u64;
            while let Some(batch) = wal.seal() {
                wal.write(batch).unwrap();
            }
            if wal.is_prepare_due() {
                wal.purge(log_id(next - 1));
                wal.release(next);
                wal.prepare().unwrap();
                wal.reclaim().unwrap();
            }
        });
    });
    group.finish();
}

fn disk_machine(directory: &Path) -> Machine {
    std::fs::create_dir_all(directory).unwrap();
    let geometry = Geometry::new(SLOTS, u32::try_from(VALUE_BYTES).unwrap()).unwrap();
    let options = SlotOptions::new(2 * SLOTS * VALUE_BYTES as u64);
    let new = New { geometry, cluster_id: 1, options };
    let slots = Slots::create(&RealDisk::new(), directory, new, &mut |_, _| {}).unwrap();
    Machine::Slots(DiskMachine::new(Arc::new(slots)))
}

fn memory_machine(directory: &Path) -> Machine {
    std::fs::create_dir_all(directory.join("tmp")).unwrap();
    let options = keys::Options::new(4 * SLOTS * VALUE_BYTES as u64);
    let new = keys::New { cluster_id: 1, value_bytes: 1 << 20, options };
    let keys = keys::Keys::create(Arc::new(RealDisk::new()), directory, new).unwrap();
    Machine::Memory(MemoryMachine::new(Arc::new(keys)))
}

fn apply(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let rounds: Vec<Vec<Command>> = (0..64).map(|round| entries_of(commands(round))).collect();
    let mut group = criterion.benchmark_group("batch");
    group.throughput(Throughput::Elements(COMMANDS));
    let machines = [
        ("apply entry, slots", disk_machine(&directory.path().join("slots"))),
        ("apply entry, keys", memory_machine(&directory.path().join("keys"))),
    ];
    for (name, machine) in machines {
        let (mut index, mut round) = (0, 0);
        group.bench_function(name, |bench| {
            bench.iter(|| {
                round = (round + 1) % rounds.len();
                for entry in &rounds[round] {
                    index += 1;
                    machine.apply(index, entry).unwrap();
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode, log, apply);
criterion_main!(benches);
