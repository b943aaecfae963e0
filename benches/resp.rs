//! What the Redis protocol costs: requests from bytes, replies to bytes, and a turn without its node.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use diskstore::load::{Codec, Operation, Resp, Values};
use diskstore::server::bench;

const VALUE_BYTES: usize = 1024;
const PIPELINE: u64 = 16;

/// A pipeline of sets, or of gets.
fn pipeline(is_set: bool) -> BytesMut {
    let values = Values::new(VALUE_BYTES);
    let mut bytes = Vec::new();
    for key in 0..PIPELINE {
        let value = values.value(key, 1, VALUE_BYTES);
        let get = Operation::Read { key };
        let operation = if is_set { Operation::Write { key, value } } else { get };
        Resp.request(&operation, &mut bytes);
    }
    BytesMut::from(&bytes[..])
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("resp");
    group.throughput(Throughput::Elements(PIPELINE));
    for (name, is_set) in [("decode 16 SET of 1 KiB", true), ("decode 16 GET", false)] {
        let bytes = pipeline(is_set);
        assert_eq!(bench::decode(&mut bytes.clone()), PIPELINE);
        group.bench_function(name, |bench| {
            bench.iter_batched_ref(|| bytes.clone(), bench::decode, BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn encode(criterion: &mut Criterion) {
    let value = vec![7; VALUE_BYTES];
    let mut group = criterion.benchmark_group("resp");
    group.throughput(Throughput::Elements(PIPELINE));
    let mut out = BytesMut::new();
    group.bench_function("encode 16 values of 1 KiB", |bench| {
        bench.iter(|| {
            out.clear();
            for _ in 0..PIPELINE {
                bench::encode(&mut out, Some(black_box(&value)));
            }
            out.len()
        });
    });
    group.finish();
}

/// All of a turn but the node: what one request costs between the socket and the log, both ways.
fn turn(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("resp");
    group.throughput(Throughput::Elements(PIPELINE));
    let mut served = bench::Served::new(vec![7; VALUE_BYTES].into());
    let mut out = BytesMut::new();
    for (name, is_set) in [("turn of 16 SET of 1 KiB", true), ("turn of 16 GET of 1 KiB", false)] {
        let bytes = pipeline(is_set);
        group.bench_function(name, |bench| {
            bench.iter_batched_ref(
                || bytes.clone(),
                |input| {
                    out.clear();
                    served.turn(input, &mut out);
                    assert!(input.is_empty());
                    out.len()
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, decode, encode, turn);
criterion_main!(benches);
