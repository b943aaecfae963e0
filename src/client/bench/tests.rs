use std::net::TcpListener;

use super::*;
use crate::cli::{self, Task};

fn flags(line: &str) -> BenchFlags {
    let words = ["diskstore", "bench"].into_iter().chain(line.split_whitespace());
    match cli::parse(words.map(Into::into)).unwrap().task {
        Some(Task::Bench(flags)) => *flags,
        task => unreachable!("asked for a load, not {task:?}"),
    }
}

/// An address that takes connections, and its flag.
fn somewhere() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[test]
fn flags_become_a_load() {
    let (_listener, address) = somewhere();
    let load = checked(&flags(&format!("-addr {address}")), None).unwrap();
    assert_eq!((load.pace, load.duration), (Pace::Closed, Some(DURATION_DEFAULT)));
    assert_eq!((load.clients, load.pipeline, load.value_bytes), (64, 1, 1024..=1024));
    let line = "-rate 1000 -requests 5 -value-bytes 1-9 -distribution latest -reads 0 -clients 2";
    let load =
        checked(&flags(&format!("{line} -threads 9 -addr {address},{address}")), None).unwrap();
    assert_eq!((load.pace, load.duration), (Pace::Open { per_second: 1000 }, None));
    assert_eq!(load.workload, Workload::mixed(0, Distribution::Latest));
    assert_eq!(load.value_bytes, 1..=9);
    assert_eq!((load.targets.len(), load.threads, load.requests), (2, 2, Some(5)));
}

#[test]
fn a_fill_gives_every_key_one_value_unless_told_otherwise() {
    let (_listener, address) = somewhere();
    let load =
        |line| checked(&flags(&format!("-addr {address} -workload fill {line}")), None).unwrap();
    let each_once = load("-keys 500");
    assert_eq!((each_once.requests, each_once.duration), (Some(500), None));
    assert_eq!(load("-keys 500 -requests 7").requests, Some(7));
    let timed = load("-duration 3s");
    assert_eq!((timed.requests, timed.duration), (None, Some(Duration::from_secs(3))));
}

#[test]
fn what_is_out_of_bounds_is_refused_with_what_is_allowed() {
    for (line, words) in [
        ("-clients 0", "-clients `0`: give a whole number from 1 to 50000"),
        ("-clients many", "-clients `many`: give a whole number from 1 to"),
        ("-pipeline 10001", "-pipeline `10001`: give a whole number from 1 to 10000"),
        ("-threads 257", "-threads `257`: give a whole number from 1 to 256"),
        ("-rate 0", "-rate `0`: give a whole number from 1 to"),
        ("-keys 0", "-keys `0`: give a whole number from 1 to"),
        ("-requests 0", "-requests `0`: give a whole number from 1 to"),
        ("-reads 101", "-reads `101`: give a whole number from 0 to 100"),
        ("-seed x", "-seed `x`: give a whole number from 0 to"),
        ("-workload e", "-workload `e`: give one of original, a, b, c, d, f, update-uniform"),
        ("-workload a -reads 5", "-workload `a`: it says what -reads and -distribution would"),
        ("-workload d -clients 1000 -pipeline 2000", "-pipeline `2000`: with inserts give at most"),
        ("-rate 5 -think 1ms", "-think `1ms`: with -rate operations start when they are due"),
        ("-distribution even", "-distribution `even`: give one of uniform, zipfian"),
        ("-value-bytes 9-1", "-value-bytes `9-1`: give N or MIN-MAX"),
        ("-value-bytes x", "-value-bytes `x`: give N or MIN-MAX"),
        ("-value-bytes 16777217", "-value-bytes `16777217`: give N or MIN-MAX, up to 16777216"),
        ("-value-bytes 31 -verify", "-value-bytes `31`: with -verify give at least 32"),
        ("-duration 0s", "-duration `0ns`: with -warm-up give up to 24h, and not 0"),
        ("-duration 24h", "-duration `86400s`: with -warm-up give up to 24h"),
        ("-addr x", "-addr `x`"),
    ] {
        let error = checked(&flags(line), None).unwrap_err();
        assert!(error.to_string().contains(words), "{line}: {error}");
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn an_address_that_nobody_listens_on_is_named_before_anything_is_measured() {
    let (_listener, address) = somewhere();
    let nowhere = somewhere().1;
    let error = checked(&flags(&format!("-addr {address},{nowhere}")), None).unwrap_err();
    assert!(error.to_string().contains(&nowhere), "{error}");
    assert_eq!(error.exit_code(), 1);
}

#[test]
fn a_file_of_quantiles_keeps_its_ending() {
    let named = |path| path_for(Path::new(path), "reads").display().to_string();
    assert_eq!(named("a/run.hgrm"), "a/run-reads.hgrm");
    assert_eq!(named("run"), "run-reads");
}

#[test]
fn a_load_has_as_many_keys_as_the_node_has_slots() {
    let (_listener, address) = somewhere();
    let keys = |line: &str, slots| {
        checked(&flags(&format!("-addr {address} {line}")), slots).map(|load| load.keys)
    };
    assert_eq!(keys("", None).unwrap(), KEYS_DEFAULT);
    assert_eq!(keys("", Some(500)).unwrap(), 500);
    assert_eq!(keys("-workload d", Some(500)).unwrap(), 250, "and as many are inserted");
    assert_eq!(keys("-keys 500", Some(500)).unwrap(), 500);
    let words = keys("-keys 501", Some(500)).unwrap_err().to_string();
    assert_eq!(words, "-keys `501`: the node has 500 slots: give at most so many");
}
