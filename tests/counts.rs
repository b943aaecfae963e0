//! What a write of a full pipeline takes, counted: allocations and copies of its value, from the bytes of the
//! socket to the log's buffer, and while its entry is applied. `docs/performance.md` gives the model.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test, which shows what it counted")]

use std::alloc::System;
use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use diskstore::command::Command;
use diskstore::load::{Codec, Operation, Resp, Values};
use diskstore::machine::Machine;
use diskstore::raft::entries_of;
use diskstore::server::bench::Served;
use diskstore_storage::disk::{RealDisk, SimDisk};
use diskstore_storage::slots::{Geometry, New, Options as SlotOptions, Slots};
use diskstore_storage::wal::{Entry, EntryKind, Nonces, Options, Wal};
use diskstore_storage::{LogId, Term};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CLIENTS: u64 = 64;
const PIPELINE: u64 = 16;
const COMMANDS: u64 = CLIENTS * PIPELINE;
const VALUE_BYTES: usize = 1024;
const SLOTS: u64 = 4096;

/// Allocations and the bytes of them.
#[derive(Debug)]
struct Taken {
    count: u64,
    bytes: u64,
}

fn taken<T>(work: impl FnOnce() -> T) -> (T, Taken) {
    let region = Region::new(ALLOCATOR);
    let done = work();
    let change = region.change();
    let count = (change.allocations + change.reallocations) as u64;
    (done, Taken { count, bytes: change.bytes_allocated as u64 })
}

/// The bytes that each client sends: sets of slots that nobody else sets.
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

fn machine(directory: &Path) -> Machine {
    let geometry = Geometry::new(SLOTS, u32::try_from(VALUE_BYTES).unwrap()).unwrap();
    let options = SlotOptions::new(2 * SLOTS * VALUE_BYTES as u64);
    let new = New { geometry, cluster_id: 1, options };
    let slots = Slots::create(&RealDisk::new(), directory, new, &mut |_, _| {}).unwrap();
    Machine::Slots(diskstore::machine::DiskMachine::new(Arc::new(slots)))
}

/// One test, for the allocator is shared by all threads.
#[test]
fn a_write_of_a_pipeline_takes_little_of_its_own() {
    let mut connections: Vec<Served> = (0..CLIENTS).map(|_| Served::of_slots(SLOTS)).collect();
    let mut inputs = inputs();
    let (turns, taken_by_turns) = taken(|| {
        let turns = connections.iter_mut().zip(&mut inputs);
        turns.map(|(connection, input)| connection.commands(input)).collect::<Vec<_>>()
    });
    let commands: Vec<Command> = turns.into_iter().flatten().collect();
    assert_eq!(commands.len() as u64, COMMANDS);
    let payload_bytes: u64 = commands.iter().map(|command| command.bytes().len() as u64).sum();
    assert!(payload_bytes > COMMANDS * VALUE_BYTES as u64);

    let (entries, taken_by_entries) = taken(|| entries_of(commands));
    assert!(entries.len() <= 4, "{} entries of {COMMANDS} commands", entries.len());

    let (disk, options) = (Arc::new(SimDisk::new(1)), Options::new(Nonces::counted()));
    let (wal, _) = Wal::open(disk, Path::new("/wal"), Path::new("/tmp"), &options).unwrap();
    let entry = |(index, entry): (u64, &Command)| Entry {
        log_id: LogId { term: Term::new(1), index },
        kind: EntryKind::Normal,
        payload: entry.bytes().clone().into(),
    };
    let fill = || wal.append((0..).zip(&entries).map(entry)).unwrap();
    let (_, taken_by_log) = taken(fill);

    let directory = tempfile::tempdir().unwrap();
    let machine = machine(directory.path());
    let apply =
        || (1..).zip(&entries).map(|(index, it)| machine.apply(index, it).unwrap()).collect();
    let (replies, taken_by_applying): (Vec<_>, Taken) = taken(apply);
    let outcomes = replies.iter().flat_map(|reply| &reply.outcomes);
    assert_eq!(outcomes.filter(|outcome| outcome.changed).count() as u64, COMMANDS);

    let all = [&taken_by_turns, &taken_by_entries, &taken_by_log, &taken_by_applying];
    println!("{COMMANDS} commands, {} entries: {all:#?}", entries.len());
    // A turn allocates for its commands together, and the rest for entries together.
    assert!(taken_by_turns.count < COMMANDS, "{taken_by_turns:?}");
    assert!(taken_by_entries.count < COMMANDS / 16, "{taken_by_entries:?}");
    assert!(taken_by_log.count < 64, "{taken_by_log:?}");
    assert!(taken_by_applying.count < 16, "{taken_by_applying:?}");
    // Each is laid out once by its turn and copied once into its entry; the log's buffer is the third copy.
    assert!(taken_by_turns.bytes < 2 * payload_bytes, "{taken_by_turns:?}");
    assert!(taken_by_entries.bytes < 3 * payload_bytes / 2, "{taken_by_entries:?}");
    // That buffer grows as it is filled, so that it was allocated more than three times over.
    assert!(taken_by_log.bytes < 4 * payload_bytes, "{taken_by_log:?}");
    assert!(taken_by_applying.bytes < payload_bytes / 4, "{taken_by_applying:?}");
}
