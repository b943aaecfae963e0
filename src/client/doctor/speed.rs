//! Why writes are slow: stage by stage, each node against a bound, against what is usual for itself, and against
//! the others. Pure.
//!
//! - I1: what happened between the two looks is judged, if it is enough; what is usual is all that came before.
//! - I2: percentiles are upper ends of buckets that double, so they are at most twice too high: nothing that
//!   is less than four times as much counts as more.

use super::Severity::Warning;
use super::{Facts, Finding};
use crate::client::stages::{buckets, count, since};
use crate::client::survey::Seen;
use crate::client::table::{duration, milliseconds};
use crate::metrics::percentile_us;
use crate::status::Status;

/// Fewer times than this say nothing.
const COUNT_FEW: u64 = 20;
/// What is usual is known from so many on.
const COUNT_USUAL: u64 = 1000;
/// More than so many times the usual is unusual. // I2
const TIMES_MORE: u64 = 4;
/// Below this nothing is slow, whatever is usual or others have, in microseconds.
const QUICK_US: u64 = 10_000;

/// A stage of a write.
struct Stage {
    name: &'static str,
    /// 99 of 100 take less on a node that is well, in microseconds.
    slow_us: u64,
    /// True if only the leader of a cluster has it as it is meant here.
    of_leader: bool,
    why: &'static str,
    advice: &'static str,
}

const STAGES: [Stage; 5] = [
    Stage {
        name: "queue",
        slow_us: 250_000,
        of_leader: true,
        why: "Writes wait until the batch before them is on its way: more come than are handled.",
        advice: "See whether its processor is full (top, /debug/pprof/profile), and which of the stages behind it is \
                 slow; larger pipelines and batches cost less than single writes.",
    },
    Stage {
        name: "append",
        slow_us: 100_000,
        of_leader: false,
        why: "The log takes entries no faster than the disk syncs them.",
        advice: "As for a slow sync: see what else writes to its disk (iostat -x 1).",
    },
    Stage {
        name: "sync",
        slow_us: 250_000,
        of_leader: false,
        why: "Each batch of writes waits for a sync of a majority of the members.",
        advice: "See what else writes to its disk (iostat -x 1), and try it alone on its machine: diskstore doctor -data DIR. \
                 If it leads, let another lead: diskstore transfer-leader",
    },
    Stage {
        name: "commit",
        slow_us: 500_000,
        of_leader: true,
        why: "Writes wait until a majority has synced them and said so.",
        advice: "Compare the syncs of the others (diskstore status -addr EACH); if these are quick, look at the network: ping, ss -ti",
    },
    Stage {
        name: "apply",
        slow_us: 100_000,
        of_leader: false,
        why: "Changing the slots waits for pages that are on the disk, or for memory.",
        advice: "Give it more memory for slots: -memory-mib; see `diskstore config` for what it has.",
    },
];

/// How long a stage took on one node.
struct Timed {
    /// Since the look before, or since the start if that is too little.
    now: Vec<u64>,
    /// All that came before the first look.
    before: Vec<u64>,
    is_recent: bool,
}

/// All that is found of the speed of writes.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for seen in facts.survey.answers() {
        let leads = facts.newest(seen).role == "leader";
        for stage in STAGES.iter().filter(|stage| leads || !stage.of_leader) {
            found.extend(
                timed(facts, seen, stage.name)
                    .and_then(|timed| judged(facts, &seen.status, stage, &timed)),
            );
        }
    }
    found.extend(slowest(facts));
    found.extend(network(facts));
    found
}

/// The times of a stage on a node; `None` if they are too few.
fn timed(facts: &Facts, seen: &Seen, stage: &str) -> Option<Timed> {
    let before = buckets(&seen.status, stage);
    let later = facts.later.get(&seen.status.member_id);
    let recent = later.map_or(Vec::new(), |later| since(before, buckets(later, stage)));
    if count(&recent) >= COUNT_FEW {
        return Some(Timed { now: recent, before: before.to_vec(), is_recent: true });
    }
    let timed = Timed { now: before.to_vec(), before: Vec::new(), is_recent: false };
    (count(before) >= COUNT_FEW).then_some(timed)
}

fn judged(facts: &Facts, status: &Status, stage: &Stage, timed: &Timed) -> Option<Finding> {
    let now_us = percentile_us(&timed.now, 99);
    let when = if timed.is_recent {
        format!("in the last {}", duration(facts.between.as_secs()))
    } else {
        "since its start".to_owned()
    };
    let words =
        format!("stage {}: 99 of 100 end within {} {when}", stage.name, milliseconds(now_us));
    let finding = |code, words| {
        Finding::new(Warning, code, &status.name, words).why(stage.why).advice(stage.advice)
    };
    if now_us > stage.slow_us {
        return Some(finding("slow_stage", words));
    }
    let usual_us = percentile_us(&timed.before, 99);
    let is_unusual = timed.is_recent
        && count(&timed.before) >= COUNT_USUAL
        && now_us > QUICK_US
        && now_us > usual_us.saturating_mul(TIMES_MORE);
    let words = format!("{words}, before that within {}", milliseconds(usual_us));
    is_unusual.then(|| finding("slower_than_usual", words))
}

/// The node whose disk is much slower than those of the others.
fn slowest(facts: &Facts) -> Option<Finding> {
    let mut syncs: Vec<(u64, &Seen)> = facts
        .survey
        .answers()
        .into_iter()
        .filter_map(|seen| Some((percentile_us(&timed(facts, seen, "sync")?.now, 50), seen)))
        .collect();
    syncs.sort_by_key(|(half_us, _)| *half_us);
    let (slow_us, slow) = syncs.pop()?;
    let (usual_us, _) = syncs.get(syncs.len() / 2)?;
    if slow_us <= QUICK_US || slow_us <= usual_us.saturating_mul(TIMES_MORE) {
        return None;
    }
    let words = format!(
        "half of its syncs end within {}, those of the others within {}",
        milliseconds(slow_us),
        milliseconds(*usual_us)
    );
    let leads = facts.newest(slow).role == "leader";
    let (why, advice) = if leads {
        (
            "It leads: each write waits for its disk before anybody else's.",
            "Let another lead: diskstore transfer-leader; then look at its disk: iostat -x 1",
        )
    } else {
        (
            "While all voters run, the quicker ones make the majority; if one of them stops, each write waits for \
             this one.",
            "Look at its disk: iostat -x 1, diskstore doctor -data DIR on its machine",
        )
    };
    Some(Finding::new(Warning, "slowest_disk", &slow.status.name, words).why(why).advice(advice))
}

/// Commits that take much longer than the syncs that they wait for.
fn network(facts: &Facts) -> Option<Finding> {
    let leader = facts.leader()?;
    let half = |seen: &Seen, stage| timed(facts, seen, stage).map(|of| percentile_us(&of.now, 50));
    let commit_us = half(leader, "commit")?;
    let others = facts.survey.answers().into_iter();
    let others = others.filter(|seen| seen.status.member_id != leader.status.member_id);
    // A majority waits for the quicker ones; the slowest of all is more than it can need.
    let sync_us = others.filter_map(|seen| half(seen, "sync")).max()?.max(half(leader, "sync")?);
    if commit_us <= QUICK_US || commit_us <= sync_us.saturating_mul(TIMES_MORE) {
        return None;
    }
    let words = format!(
        "half of its batches are committed within {}, and synced everywhere within {}",
        milliseconds(commit_us),
        milliseconds(sync_us)
    );
    Some(
        Finding::new(Warning, "slow_network", &leader.status.name, words)
            .why("The rest is the way to the others and back, or time in which they did not run.")
            .advice("ping the other members; ss -ti shows what their connections lose; see whether their processors are full: \
                     top"),
    )
}
