//! Ten million slots against one million, and against what the disk's random writes allow. Three nodes
//! where the disk has room for them, else one.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use diskstore::load::{Distribution, Load, Workload};

use super::{Found, Place, Trial};
use crate::drive::{float, load_of, run_resp};
use crate::nodes::{Nodes, has_counted, serves};
use crate::pages;
use crate::rows::{Limit, writes};

pub(super) const TRIAL: Trial = Trial {
    name: "growth",
    goals: &[
        ("zipfian writes, 64 x 16: per s, 10 million slots / 1 million", Limit::AtLeast(0.8)),
        ("uniform writes, 64 x 16, 10 million slots: per s / disk allows", Limit::AtLeast(0.5)),
    ],
    run,
};

/// The longest that nodes may take to count their slots after a start.
const COUNT_TIME_MAX: Duration = Duration::from_mins(15);
const COUNT_POLL: Duration = Duration::from_millis(200);
const SLOTS: [u64; 2] = [1_000_000, 10_000_000];
/// Bytes of a node with so many slots: its data file, its log, and some room.
const NODE_BYTES_MAX: u64 = 14 << 30;
/// Checkpoints run within the time of a short run; a long one has its default.
const FLAGS_SHORT: &str = "-checkpoint-mib 256";
/// Pages that a slot of 1,040 bytes touches on average, at a place that is a multiple of 16.
const PAGES_A_SLOT: f64 = 1.0 + (1040.0 - 16.0) / 4096.0;

fn run(place: &Place<'_>) -> Result<Vec<Found>> {
    std::fs::create_dir_all(place.directory)?;
    let free = pages::free_bytes(place.directory)?;
    let count = if free >= 3 * NODE_BYTES_MAX { 3 } else { 1 };
    eprintln!("growth: {count} nodes, {} GiB free", free >> 30);
    let mut zipfian = [0.0; 2];
    let mut uniform = Found::Nothing;
    for (per_second, slots) in zipfian.iter_mut().zip(SLOTS) {
        let mut nodes = filled(place, count, slots)?;
        *per_second = measure(place, &mut nodes, slots, Distribution::Zipfian)?;
        if slots == SLOTS[1] {
            let is = measure(place, &mut nodes, slots, Distribution::Uniform)?;
            for number in 0..count {
                nodes.kill(number);
            }
            let disk = pages::random_writes(&nodes.file(0, "slots.dat"))?;
            eprintln!("growth: the disk takes {disk:.0} random pages a second");
            uniform = Found::Ratio(is, allowed(disk, count));
        }
        drop(nodes);
        std::fs::remove_dir_all(place.directory)?;
    }
    Ok(vec![Found::Ratio(zipfian[1], zipfian[0]), uniform])
}

/// Writes of so many nodes to slots at random that so many page writes a second are enough for.
fn allowed(page_writes: f64, nodes: usize) -> f64 {
    page_writes / PAGES_A_SLOT / float(nodes as u64)
}

/// Nodes whose data files have all of their blocks, as those of nodes that were in use for long: the
/// disk has to be read for a page that is not in memory, and writes change no metadata.
fn filled(place: &Place<'_>, count: usize, slots: u64) -> Result<Nodes> {
    let checkpoints = if place.is_long { "" } else { FLAGS_SHORT };
    let mut nodes = place.start(count, &format!("-slots {slots} {checkpoints}"))?;
    for number in 0..count {
        nodes.stop(number)?;
    }
    for number in 0..count {
        pages::rewrite(&nodes.file(number, "slots.dat"))?;
    }
    for number in 0..count {
        nodes.spawn(number)?;
    }
    for number in 0..count {
        nodes.wait(|| serves(number).then_some(()))?;
    }
    // A node that has just started reads its whole file once; what is measured is how it goes on.
    let begin = Instant::now();
    while !(0..count).all(has_counted) {
        if begin.elapsed() > COUNT_TIME_MAX {
            bail!("slots are still being counted after {} s", COUNT_TIME_MAX.as_secs());
        }
        std::thread::sleep(COUNT_POLL);
    }
    eprintln!("growth: {slots} slots of each node were read once within {:.0?}", begin.elapsed());
    Ok(nodes)
}

fn measure(
    place: &Place<'_>,
    nodes: &mut Nodes,
    slots: u64,
    distribution: Distribution,
) -> Result<f64> {
    let load = |duration| -> Result<Load> {
        let load = load_of(nodes.target()?, writes(64, 16), duration);
        Ok(Load { keys: slots, workload: Workload::mixed(0, distribution), ..load })
    };
    let [warm_up, measured] = [place.seconds(3, 20), place.seconds(8, 60)].map(load);
    run_resp(&warm_up?)?;
    let before = nodes.used()?;
    let all = run_resp(&measured?)?.all;
    let used = nodes.used()?;
    // What memory is used for, and what was not in it.
    let kib = |bytes: f64| bytes / float(all.count * nodes.count() as u64) / 1024.0;
    let follower = nodes.resident(nodes.count() - 1)?;
    let gib = |bytes: f64| bytes / float(1 << 30);
    eprintln!(
        "growth: {slots} slots, {distribution:?}: {:.0}/s; a set and node: {:.1} KiB read, {:.1} KiB \
         written; the last node holds {:.1} GiB of its own (pages changed since they were written) and \
         {:.1} GiB of its files",
        all.per_second,
        kib(used.read_bytes - before.read_bytes),
        kib(used.written_bytes - before.written_bytes),
        gib(follower.own),
        gib(follower.of_files),
    );
    Ok(all.per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_copy_takes_its_share_of_the_disk() {
        assert!((allowed(125_000.0, 1) - 100_000.0).abs() < 1e-6);
        assert!((allowed(375_000.0, 3) - 100_000.0).abs() < 1e-6);
    }

    #[test]
    fn a_slot_touches_as_many_pages_as_are_said() {
        let pages = |slot: u64| (slot * 1040 + 1039) / 4096 - slot * 1040 / 4096 + 1;
        let all: u64 = (0..4096).map(pages).sum();
        assert!((float(all) / 4096.0 - PAGES_A_SLOT).abs() < 1e-9);
    }
}
