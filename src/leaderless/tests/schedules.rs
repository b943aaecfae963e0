//! Random schedules: with all rules nothing goes wrong, and without a single one something does. Rules
//! whose absence is rarely seen have schedules that are aimed at them (`aimed.rs`).

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::rules::{Rule, Rules};
use super::world::{Counts, World};

/// Schedules that run with every test run.
const SCHEDULES: u64 = 5_000;
const STEPS: u64 = 500;
/// Set to a number, the schedules from this seed on are run until one fails.
const SOAK: &str = "DISKSTORE_LEADERLESS_SOAK";

/// A schedule in which something went wrong.
#[derive(Debug)]
struct Failed {
    seed: u64,
    fault: String,
}

/// Runs schedules on all processors, up to the first that fails; which one of several that is may differ.
fn run(rules: Rules, seeds: std::ops::Range<u64>) -> (Counts, Option<Failed>) {
    let next = AtomicU64::new(seeds.start);
    let found: Mutex<(Counts, Option<Failed>)> = Mutex::default();
    let worker = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || found.lock().unwrap().1.is_some() {
                return;
            }
            let mut world = World::new(seed, rules);
            let outcome = world.run(STEPS);
            let mut found = found.lock().unwrap();
            found.0.add(&world.counts);
            if let Err(fault) = outcome {
                found.1 = Some(Failed { seed, fault });
            }
        }
    };
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(worker);
        }
    });
    found.into_inner().unwrap()
}

#[test]
fn no_schedule_breaks_a_promise() {
    let soak = std::env::var(SOAK).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = soak.map_or(0..SCHEDULES, |first| first..u64::MAX);
    let (counts, failed) = run(Rules::default(), seeds);
    if let Some(Failed { seed, fault }) = failed {
        panic!("{fault}\nseed {seed}: {SOAK}={seed} cargo test --lib no_schedule_breaks");
    }
    // What never happens proves nothing.
    let Counts { written, read, failed, unknown, crashes, lost_disks, .. } = counts;
    let Counts { copied, confirmed, behind, forgotten, founded, accepted, .. } = counts;
    let of_operations = [written, read, failed, unknown];
    let of_nodes = [crashes, lost_disks, copied, confirmed, behind, forgotten, founded, accepted];
    for count in of_operations.into_iter().chain(of_nodes) {
        assert!(count > SCHEDULES / 50, "{counts:?}");
    }
    assert_eq!(counts.clashes, 0, "every version was given once");
}

/// A rule that is off is found out within so many schedules.
fn assert_needed(rule: Rule, seeds: u64) {
    let (counts, failed) = run(Rules::without(rule), 0..seeds);
    assert!(failed.is_some(), "{rule:?} is not needed in {seeds} schedules: {counts:?}");
}

#[test]
fn a_late_old_store_would_win_without_its_rule() {
    assert_needed(Rule::NewerWins, 2_000);
}

#[test]
fn an_answer_of_unsynced_records_would_be_a_lie() {
    assert_needed(Rule::DurableAnswers, 2_000);
}

#[test]
fn a_write_that_asked_nobody_would_be_lost_to_a_clock() {
    assert_needed(Rule::AskFirst, 1_000);
}

#[test]
fn a_value_that_was_read_would_vanish_without_write_back() {
    assert_needed(Rule::WriteBack, 5_000);
}

#[test]
fn less_than_a_majority_is_not_enough() {
    assert_needed(Rule::StrictQuorum, 1_000);
}

#[test]
fn a_version_far_ahead_would_be_given_twice() {
    assert_needed(Rule::OwnCopyFirst, 3_000);
}

#[test]
fn a_replica_that_lost_its_disk_would_answer_that_there_is_nothing() {
    assert_needed(Rule::LostDisk, 10_000);
}

#[test]
fn what_was_confirmed_without_an_exchange_would_be_missing() {
    assert_needed(Rule::ConfirmAfterExchange, 1_000);
}

#[test]
fn a_cluster_that_began_without_all_would_begin_again_without_what_it_held() {
    assert_needed(Rule::FoundedByAll, 10_000);
}
