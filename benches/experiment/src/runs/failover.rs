//! A failover: the leader is killed under load, and probes at the nodes that live tell how long
//! nobody could write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Setting;
use crate::cluster::Cluster;
use crate::resp::Connection;
use crate::result::{Failover, RunResult, SERVICE_BIN_MS};
use crate::statistics::float;
use crate::watch::{seconds, unix_ms};

const WATCH_INTERVAL: Duration = Duration::from_millis(10);
/// A probe writes so often at most.
const PROBE_INTERVAL: Duration = Duration::from_millis(2);
/// A write without an answer for so long is given up; the next one is sent over a new connection.
const PROBE_TIME_MAX: Duration = Duration::from_secs(2);

/// Measures a failover.
///
/// # Errors
/// The load or a probe fails in another way than by the failover.
pub(super) fn measure(
    setting: &Setting<'_>,
    mut cluster: Cluster<'_>,
    result: &mut RunResult,
) -> Result<()> {
    let (leader, _) = cluster.leader()?;
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.port).collect();
    let survivors: Vec<u16> = ports.iter().copied().filter(|port| *port != ports[leader]).collect();
    let mut measuring = setting.begin(&cluster, &ports, WATCH_INTERVAL, result)?;
    let probes = Probes::start(&survivors);
    let kill_at = Duration::from_secs(setting.plan.load.kill_at_s.context("no time to kill")?);
    measuring.wait_until(&mut cluster, kill_at)?;
    // From here on it is none of the processes that must be running.
    let mut dead = cluster.nodes.remove(leader);
    measuring.note("kill", &dead.name);
    let killed_unix_ms = unix_ms();
    dead.child.kill()?;
    measuring.wait_for_end(&mut cluster)?;
    let successes = probes.stop()?;
    let seen = measuring.watch.seen();
    let elected = seen.elections.iter().map(|election| election.unix_ms);
    let campaigns = seen.campaigns_unix_ms.iter().copied();
    let first = |times: &mut dyn Iterator<Item = u64>| {
        let time = times.filter(|time| *time >= killed_unix_ms).min();
        time.map(|time| float(time - killed_unix_ms))
    };
    let (elected_ms, campaign_ms) = (first(&mut { elected }), first(&mut { campaigns }));
    let pause = pause(&successes, killed_unix_ms)
        .context("nothing was written after the leader was killed")?;
    let begin_unix_ms = measuring.begin_unix_ms;
    measuring.end(&cluster, result)?;
    let since = |time: u64| seconds(time.saturating_sub(begin_unix_ms));
    result.failover = Some(Failover {
        kill_s: since(killed_unix_ms),
        without_service_ms: float(pause[1] - pause[0]),
        campaign_ms,
        elected_ms,
        resumed_ms: Some(float(pause[1] - killed_unix_ms)),
        service: binned(&successes, begin_unix_ms),
    });
    Ok(())
}

/// The two successes that are farthest apart, the latter of which came after the kill.
fn pause(successes: &[u64], killed_unix_ms: u64) -> Option<[u64; 2]> {
    let pairs = successes.windows(2).map(|pair| [pair[0], pair[1]]);
    let pairs = pairs.filter(|[_, to]| *to >= killed_unix_ms);
    pairs.reduce(
        |longest, next| {
            if next[1] - next[0] > longest[1] - longest[0] { next } else { longest }
        },
    )
}

fn binned(successes: &[u64], begin_unix_ms: u64) -> Vec<u64> {
    let mut bins = Vec::new();
    for time in successes.iter().filter(|time| **time >= begin_unix_ms) {
        let bin =
            usize::try_from((time - begin_unix_ms) / SERVICE_BIN_MS).unwrap_or(usize::MAX - 1);
        if bins.len() <= bin {
            bins.resize(bin + 1, 0);
        }
        bins[bin] += 1;
    }
    bins
}

/// One thread for each port, which writes again and again and notes when that succeeded.
struct Probes {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<u64>>>,
}

impl Probes {
    fn start(ports: &[u16]) -> Probes {
        let is_over = Arc::new(AtomicBool::new(false));
        let start = |port: &u16| {
            let (port, is_over) = (*port, Arc::clone(&is_over));
            std::thread::spawn(move || probe(port, &is_over))
        };
        let threads = ports.iter().map(start).collect();
        Probes { is_over, threads }
    }

    /// When writes succeeded, of all threads in order.
    fn stop(self) -> Result<Vec<u64>> {
        self.is_over.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in self.threads {
            all.extend(thread.join().ok().context("a probe has panicked")?);
        }
        all.sort_unstable();
        ensure!(!all.is_empty(), "no probe could write anything");
        Ok(all)
    }
}

fn probe(port: u16, is_over: &AtomicBool) -> Vec<u64> {
    let mut successes = Vec::new();
    let mut connection = None;
    while !is_over.load(Ordering::Relaxed) {
        if connection.is_none() {
            connection = Connection::open(port, PROBE_TIME_MAX).ok();
        }
        let outcome = connection.as_mut().map(|connection| connection.call(&["SET", "0", "probe"]));
        match outcome {
            Some(Ok(_)) => successes.push(unix_ms()),
            // A refusal leaves the connection as it is, but it is cheap to make anew.
            Some(Err(_)) => connection = None,
            None => {}
        }
        std::thread::sleep(PROBE_INTERVAL);
    }
    successes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_is_the_longest_one_that_ends_after_the_kill() {
        let successes = [0, 500, 510, 520, 920, 930, 1000];
        assert_eq!(pause(&successes, 515), Some([520, 920]));
        assert_eq!(pause(&successes, 600), Some([520, 920]));
        assert_eq!(pause(&successes, 921), Some([930, 1000]));
        assert_eq!(pause(&successes, 2000), None);
    }

    #[test]
    fn successes_are_counted_from_the_beginning_of_the_measurement() {
        assert_eq!(binned(&[90, 100, 149, 150, 260], 100), [2, 1, 0, 1]);
    }
}
