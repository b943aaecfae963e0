//! The system's limits for a run: open files and source ports. A run checks them first, so that it
//! never measures fewer connections than it reports.

use std::collections::BTreeSet;
use std::io;

use super::Load;

/// Descriptors of a run beside its connections.
const SPARE_DESCRIPTOR_COUNT: u64 = 64;
/// The first and the last port that the system gives to outgoing connections.
const PORT_RANGE_FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Refuses a run that could not open all of its connections.
pub(super) fn check(load: &Load) -> io::Result<()> {
    let needed = descriptor_count(load);
    check_descriptors(needed, raise_descriptor_limit(needed)?)?;
    // What cannot be read is not known to be too little.
    let range = std::fs::read_to_string(PORT_RANGE_FILE).unwrap_or_default();
    check_ports(port_count(load), ports_in(&range).unwrap_or(u64::MAX))
}

/// Descriptors of a run.
fn descriptor_count(load: &Load) -> u64 {
    let each = if load.answers.is_some() { load.targets.len() as u64 + 1 } else { 1 };
    load.clients * each + SPARE_DESCRIPTOR_COUNT
}

fn check_descriptors(needed: u64, allowed: u64) -> io::Result<()> {
    if needed <= allowed {
        return Ok(());
    }
    let reason = format!(
        "so many connections need {needed} open files, and the system allows {allowed}: raise its \
         limit (ulimit -Hn), or give fewer -clients"
    );
    Err(io::Error::other(reason))
}

/// Raises the number of files and connections that this process may have open to what the system
/// allows, and beyond that to `wanted` if it may. Thousands of connections are more than a program
/// may open by default, and a node that cannot open its next log segment stops. Says how many it may
/// have then.
///
/// # Errors
/// The system refuses.
pub fn raise_descriptor_limit(wanted: u64) -> io::Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    let raised = Rlimit { current: Some(wanted), maximum: Some(wanted) };
    if wanted > allowed && setrlimit(Resource::Nofile, raised).is_ok() {
        return Ok(wanted);
    }
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    Ok(allowed)
}

/// Source ports that a run takes at one address.
fn port_count(load: &Load) -> u64 {
    let addresses = load.targets.iter().collect::<BTreeSet<_>>().len() as u64;
    if load.answers.is_some() { load.clients } else { load.clients.div_ceil(addresses.max(1)) }
}

fn ports_in(range: &str) -> Option<u64> {
    let (first, last) = range.trim().split_once(char::is_whitespace)?;
    let (first, last) = (first.parse::<u64>().ok()?, last.trim().parse::<u64>().ok()?);
    last.checked_sub(first).map(|count| count + 1)
}

fn check_ports(needed: u64, allowed: u64) -> io::Result<()> {
    if needed <= allowed {
        return Ok(());
    }
    let reason = format!(
        "so many connections need {needed} source ports for one address, and the system has {allowed} \
         (net.ipv4.ip_local_port_range): give several addresses, or fewer -clients"
    );
    Err(io::Error::other(reason))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::super::{Answers, Distribution, Pace, Workload};
    use super::*;

    fn load(clients: u64, targets: &[u16]) -> Load {
        let target = |port: &u16| SocketAddr::from(([127, 0, 0, 1], *port));
        Load {
            targets: targets.iter().map(target).collect(),
            answers: None,
            clients,
            pipeline: 1,
            threads: 1,
            pace: Pace::Closed,
            keys: 1,
            workload: Workload::mixed(0, Distribution::Uniform),
            think: Duration::ZERO..=Duration::ZERO,
            value_bytes: 1..=1,
            duration: None,
            requests: Some(1),
            warm_up: Duration::ZERO,
            seed: 1,
            verify: false,
            timeout: Duration::from_secs(1),
            unsafe_flags: Vec::new(),
            tls: None,
        }
    }

    #[test]
    fn a_run_that_needs_more_files_than_are_allowed_is_refused_before_it_begins() {
        let answers = Some(Answers { local: [127, 0, 0, 1].into(), port: 0 });
        let needed = descriptor_count(&Load { answers, ..load(5000, &[1, 2, 3]) });
        assert!((20_000..20_200).contains(&needed), "three streams and a socket each: {needed}");
        assert!(check_descriptors(needed, needed).is_ok());
        let words = check_descriptors(needed, needed - 1).unwrap_err().to_string();
        assert!(words.contains(&format!("need {needed} open files")), "{words}");
    }

    #[test]
    fn a_run_that_needs_more_source_ports_than_there_are_is_refused_before_it_begins() {
        let spread = load(30_000, &[1, 2, 2, 3]);
        assert_eq!(port_count(&spread), 10_000, "three addresses, of which one stands there twice");
        let answers = Some(Answers { local: [127, 0, 0, 1].into(), port: 0 });
        assert_eq!(port_count(&Load { answers, ..spread }), 30_000, "every client at each address");
        assert_eq!(ports_in("32768\t60999\n"), Some(28_232));
        assert_eq!(ports_in(""), None);
        assert!(check_ports(28_232, 28_232).is_ok());
        let words = check_ports(28_233, 28_232).unwrap_err().to_string();
        assert!(words.contains("need 28233 source ports") && words.contains("28232"), "{words}");
    }
}
