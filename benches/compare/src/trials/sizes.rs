//! What a write costs in clusters of three and of five.

use anyhow::Result;

use super::{Found, Place, Trial, fill, writes_to};
use crate::drive::{KEYS, WARM_UP, float, measured, run_resp};
use crate::rows::{Limit, Measured};

pub(super) const TRIAL: Trial = Trial {
    name: "nodes",
    goals: &[("writes, 256: CPU of a node a write in us, 5 nodes / 3 nodes", Limit::AtMost(1.0))],
    run,
};

const CLIENTS: u64 = 256;

fn run(place: &Place<'_>) -> Result<Vec<Found>> {
    let mut cost_us = [0.0; 2];
    for (cost_us, count) in cost_us.iter_mut().zip([3, 5]) {
        let measured = measure(place, count)?;
        eprintln!(
            "{count} nodes, writes, 256: {:.0}/s, {:.2} us of CPU",
            measured.per_second, measured.server_us
        );
        *cost_us = measured.server_us / float(count as u64);
        std::fs::remove_dir_all(place.directory)?;
    }
    let [three, five] = cost_us;
    Ok(vec![Found::Ratio(five, three)])
}

fn measure(place: &Place<'_>, count: usize) -> Result<Measured> {
    let mut nodes = place.start(count, "")?;
    fill(&mut nodes, KEYS)?;
    run_resp(&writes_to(&mut nodes, CLIENTS, WARM_UP)?)?;
    let load = writes_to(&mut nodes, CLIENTS, place.seconds(5, 20))?;
    let before = nodes.used()?;
    let report = run_resp(&load)?;
    Ok(measured(&report, before, nodes.used()?, count))
}
