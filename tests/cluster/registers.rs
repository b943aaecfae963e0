//! `leaderless`: registers at QUORUM on real processes that are killed and frozen. Every operation returns its version,
//! so whether the history is linearizable is a matter of comparing numbers.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::harness::{self, host};
use crate::http::Http;
use crate::nodes::{wait_for, wait_until};

const LEADERLESS: &str = env!("CARGO_BIN_EXE_leaderless");
const KEYS: [&str; 4] = ["a", "b", "c", "d"];
const CLIENTS: u64 = 6;
/// Operations that are acknowledged between two blows, and after the last.
const ACKNOWLEDGED_MIN: u64 = 300;

/// The same, while clients wait in vain for a node that is frozen.
const ACKNOWLEDGED_BESIDE_FROZEN: u64 = 20;
/// How long a client waits for an answer. What it does not hear may have happened, or not.
const REPLY_MAX: Duration = Duration::from_secs(1);

/// An operation that was acknowledged.
#[derive(Debug, Clone)]
struct Acknowledged {
    is_write: bool,
    begun: Instant,
    ended: Instant,
    version: u64,
    value: String,
}

/// What happened, by key; and all values that were ever sent.
#[derive(Debug, Default)]
struct History {
    acknowledged: BTreeMap<&'static str, Vec<Acknowledged>>,
    sent: BTreeMap<String, &'static str>,
}

impl History {
    /// Each version is one value that was sent for the key, and versions respect real time: what begins after another
    /// operation has ended sees at least its version, and a write goes above it.
    fn check(&self) {
        for (key, operations) in &self.acknowledged {
            let mut values: BTreeMap<u64, &str> = BTreeMap::new();
            let mut writes: BTreeMap<u64, &Acknowledged> = BTreeMap::new();
            for operation in operations {
                let value = values.entry(operation.version).or_insert(&operation.value);
                assert_eq!(*value, operation.value, "two values of one version: {operation:?}");
                assert_eq!(self.sent.get(&operation.value), Some(key), "{operation:?}");
                if operation.is_write {
                    let other = writes.insert(operation.version, operation);
                    assert!(other.is_none(), "one version twice: {operation:?} {other:?}");
                }
            }
            let mut by_begin: Vec<&Acknowledged> = operations.iter().collect();
            by_begin.sort_by_key(|operation| operation.begun);
            let mut by_end = by_begin.clone();
            by_end.sort_by_key(|operation| operation.ended);
            let mut ended = by_end.iter().peekable();
            let mut before: Option<&Acknowledged> = None;
            for operation in by_begin {
                while let Some(earlier) = ended.next_if(|it| it.ended < operation.begun) {
                    if before.is_none_or(|before| before.version < earlier.version) {
                        before = Some(earlier);
                    }
                }
                let Some(before) = before else { continue };
                let is_right = before.version < operation.version
                    || !operation.is_write && before.version == operation.version;
                assert!(is_right, "{key}: {operation:?} after {before:?}");
            }
        }
    }
}

/// The nodes, running or not.
struct Registers {
    addresses: Vec<String>,
    folder: tempfile::TempDir,
    nodes: Vec<Option<harness::Node>>,
}

impl Registers {
    fn of_three() -> Registers {
        let addresses: Vec<String> = (0..3).map(|_| format!("{}:8001", host())).collect();
        let nodes = addresses.iter().map(|_| None).collect();
        let mut registers = Registers { addresses, folder: tempfile::tempdir().unwrap(), nodes };
        for node in 0..3 {
            registers.start(node);
        }
        registers
    }

    fn directory(&self, node: usize) -> String {
        Path::new(self.folder.path()).join(node.to_string()).display().to_string()
    }

    fn start(&mut self, node: usize) {
        let listed = |(nth, address): (usize, &String)| format!("{}={address}", nth + 1);
        let listed: Vec<String> = self.addresses.iter().enumerate().map(listed).collect();
        let mut command = Command::new(LEADERLESS);
        command
            .args(["-id", &(node + 1).to_string(), "-port", &self.addresses[node]])
            .args(["-nodes", &listed.join(","), "-replicas", "3"])
            .args(["-dir", &self.directory(node)]);
        self.nodes[node] = Some(harness::Node::spawn(&mut command));
    }

    fn is_ready(&self, node: usize) -> bool {
        let asked =
            Http::to(&self.addresses[node]).and_then(|mut http| http.ask("GET", "/readyz", "", ""));
        asked.is_ok_and(|response| response.status == 200)
    }

    fn wait_ready(&self) {
        for node in 0..3 {
            wait_until("a node is ready", || self.is_ready(node));
        }
    }

    fn kill(&mut self, node: usize) {
        self.nodes[node].take().unwrap().kill();
    }

    fn send(&self, node: usize, signal: &str) {
        self.nodes[node].as_ref().unwrap().send(signal);
    }
}

/// Reads and writes until it is told to stop.
fn work(
    seed: u64,
    addresses: &[String],
    history: &Mutex<History>,
    stop: &AtomicBool,
    count: &AtomicU64,
) {
    let mut connections: Vec<Option<Http>> = addresses.iter().map(|_| None).collect();
    let mut random = seed;
    let mut nth = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = usize::try_from(random >> 60).unwrap() % addresses.len();
        let key = KEYS[usize::try_from(random >> 50).unwrap() % KEYS.len()];
        let is_write = random >> 40 & 1 == 0;
        if connections[at].is_none() {
            connections[at] = Http::to_in(&addresses[at], REPLY_MAX).ok();
        }
        let Some(http) = &mut connections[at] else { continue };
        nth += 1;
        let value = format!("{seed}-{nth}");
        let path = format!("/v1/keys/{key}?level=quorum");
        if is_write {
            history.lock().sent.insert(value.clone(), key);
        }
        let begun = Instant::now();
        let answer = if is_write {
            http.ask("PUT", &path, "", &value)
        } else {
            http.ask("GET", &path, "", "")
        };
        let ended = Instant::now();
        let Ok(answer) = answer else {
            connections[at] = None;
            continue;
        };
        let version = answer.header("etag").map(|tag| tag.trim_matches('"').parse().unwrap());
        let (Some(version), 200 | 204) = (version, answer.status) else { continue };
        let value = if is_write { value } else { answer.body };
        let operation = Acknowledged { is_write, begun, ended, version, value };
        history.lock().acknowledged.entry(key).or_default().push(operation);
        count.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn histories_of_registers_are_linearizable_while_nodes_are_killed_and_frozen() {
    let mut registers = Registers::of_three();
    registers.wait_ready();
    let (history, stop, count) =
        (Mutex::new(History::default()), AtomicBool::new(false), AtomicU64::new(0));
    let go_on_for = |more| {
        let begun = count.load(Ordering::Relaxed);
        wait_until("operations go on", || count.load(Ordering::Relaxed) >= begun + more);
    };
    let go_on = || go_on_for(ACKNOWLEDGED_MIN);
    let addresses = registers.addresses.clone();
    std::thread::scope(|scope| {
        for seed in 1..=CLIENTS {
            let (addresses, history, stop, count) = (&addresses, &history, &stop, &count);
            scope.spawn(move || work(seed, addresses, history, stop, count));
        }
        go_on();
        for node in 0..3 {
            registers.kill(node);
            go_on();
            registers.start(node);
            wait_until("it is ready again", || registers.is_ready(node));
            go_on();
        }
        registers.send(1, "STOP");
        go_on_for(ACKNOWLEDGED_BESIDE_FROZEN);
        registers.send(1, "CONT");
        go_on();
        // All at once: what was acknowledged is on their disks.
        for node in 0..3 {
            registers.kill(node);
        }
        for node in 0..3 {
            registers.start(node);
        }
        registers.wait_ready();
        go_on();
        stop.store(true, Ordering::Relaxed);
    });
    let history = history.into_inner();
    history.check();
    assert_eq!(history.acknowledged.len(), KEYS.len());
    for address in &registers.addresses {
        let status =
            wait_for("status", || Http::to(address).ok()?.ask("GET", "/status", "", "").ok());
        assert!(status.body.contains(r#""clashes":0"#), "{}", status.body);
    }
}

#[test]
fn the_checker_sees_what_is_no_history_of_a_register() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let operation = |is_write, span: [u64; 2], version, value: &str| Acknowledged {
        is_write,
        begun: at(span[0]),
        ended: at(span[1]),
        version,
        value: value.to_owned(),
    };
    let is_refused = |operations: Vec<Acknowledged>| {
        let sent = ["x", "y", "z"].map(|value| (value.to_owned(), "a")).into();
        let history = History { acknowledged: [("a", operations)].into(), sent };
        std::panic::catch_unwind(|| history.check()).is_err()
    };
    let good = [
        operation(true, [0, 2], 1, "x"),
        operation(true, [1, 5], 2, "y"),
        operation(false, [3, 4], 1, "x"),
        operation(false, [6, 7], 2, "y"),
    ];
    assert!(!is_refused(good.to_vec()));
    let with = |more| {
        let mut all = good.to_vec();
        all.push(more);
        is_refused(all)
    };
    assert!(with(operation(false, [8, 9], 1, "x")), "an old value was read");
    assert!(with(operation(true, [8, 9], 2, "y")), "a version was given twice");
    assert!(with(operation(false, [8, 9], 2, "z")), "a version has two values");
    assert!(with(operation(false, [8, 9], 3, "w")), "nobody wrote that");
}
