//! How long a member takes to get what it missed: from the log, as slots where the log is purged, and
//! all of it where it has nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Found, Place, Trial, fill};
use crate::drive::{KEYS_LONG, VALUE_BYTES, float};
use crate::nodes::{Nodes, status};
use crate::rows::Limit;

pub(super) const TRIAL: Trial = Trial {
    name: "catch-up",
    goals: &[
        ("catch-up from the log: MB/s of values missed", Limit::AtLeast(300.0)),
        ("catch-up from the log: us a slot, many / a quarter of them", Limit::AtMost(1.25)),
        ("catch-up from slots: MB/s of values missed", Limit::AtLeast(300.0)),
        ("catch-up from slots: us a slot, many / a quarter of them", Limit::AtMost(1.25)),
        ("full copy of 1 GiB to a new member, its start counted, seconds", Limit::AtMost(5.0)),
    ],
    run,
};

/// The log holds everything.
const LOG: &str = "-checkpoint-mib 8192 -keep-mib 8192";
/// The log is soon purged.
const SLOTS: &str = "-checkpoint-mib 32 -keep-mib 0";

fn run(place: &Place<'_>) -> Result<Vec<Found>> {
    let many = place.choose(200_000, 800_000);
    let mut found = Vec::new();
    for flags in [LOG, SLOTS] {
        let mut nodes = place.start(3, flags)?;
        let is_purged = flags == SLOTS;
        if is_purged {
            fill(&mut nodes, KEYS_LONG)?;
        }
        let few = catch_up(&mut nodes, many / 4, is_purged)?;
        let more = catch_up(&mut nodes, many, is_purged)?;
        found.extend(rates((many / 4, few), (many, more)));
        if is_purged {
            found.push(Found::Value(full_copy(&mut nodes)?.as_secs_f64()));
        }
        drop(nodes);
        std::fs::remove_dir_all(place.directory)?;
    }
    Ok(found)
}

/// MB/s of the larger number of slots, and how the times of one slot compare.
fn rates(few: (u64, Duration), many: (u64, Duration)) -> [Found; 2] {
    let slot_us = |(count, time): (u64, Duration)| time.as_secs_f64() * 1e6 / float(count);
    let rate = float(VALUE_BYTES as u64) / slot_us(many);
    [Found::Value(rate), Found::Ratio(slot_us(many), slot_us(few))]
}

/// A follower is stopped, misses so many slots, and is started again: the time from when it gets the
/// first of them until it has all.
fn catch_up(nodes: &mut Nodes, count: u64, is_purged: bool) -> Result<Duration> {
    let leader = nodes.leader()?;
    let member = (leader + 1) % nodes.count();
    nodes.stop(member)?;
    let missed_from = status(leader).context("the leader is gone")?;
    fill(nodes, count)?;
    if is_purged {
        let purged = || status(leader).filter(|status| status.purged > missed_from.last_log);
        nodes.wait(purged)?;
    }
    let goal = status(leader).context("the leader is gone")?;
    let start = Instant::now();
    nodes.spawn(member)?;
    let begun = nodes.wait(|| {
        let sent = status(leader)?.slots_sent > goal.slots_sent;
        let took = status(member).is_some_and(|status| status.last_log > missed_from.last_log);
        (sent || took).then(Instant::now)
    })?;
    nodes.wait(|| status(member).filter(|status| status.applied >= goal.last_log))?;
    let time = begun.elapsed();
    let after = status(leader).context("the leader is gone")?;
    eprintln!(
        "catch-up: {count} slots in {:.3} s, which began {:.3} s after the start; {} slots were sent",
        time.as_secs_f64(),
        begun.duration_since(start).as_secs_f64(),
        after.slots_sent - goal.slots_sent,
    );
    Ok(time)
}

/// The time from the start of a new member until it holds everything and votes.
fn full_copy(nodes: &mut Nodes) -> Result<Duration> {
    let leader = nodes.leader()?;
    let (goal, number) = (status(leader).context("the leader is gone")?, nodes.count());
    let begin = Instant::now();
    nodes.spawn(number)?;
    nodes.wait(|| {
        let own = status(number)?;
        let is_full = own.applied >= goal.last_log && own.readable_from <= own.applied;
        (is_full && own.role == "follower").then_some(())
    })?;
    Ok(begin.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_come_from_the_larger_number() {
        let (few, many) = (Duration::from_millis(100), Duration::from_millis(800));
        let [Found::Value(rate), Found::Ratio(of_many, of_few)] =
            rates((100_000, few), (400_000, many))
        else {
            unreachable!("a value and a ratio")
        };
        assert!((rate - 512.0).abs() < 1e-9, "{rate}");
        assert!((of_many - 2.0).abs() < 1e-9 && (of_few - 1.0).abs() < 1e-9);
    }
}
