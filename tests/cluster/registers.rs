//! `leaderless`: registers on real processes that are killed and frozen, whose clocks are wrong, and between which
//! the network delays, loses, and carries one way only. Every operation returns its version, so whether a
//! history is one that the levels of its operations promise is a matter of comparing numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value as Json;

use crate::harness::{self, host};
use crate::http::Http;
use crate::nodes::{wait_for, wait_until};
use crate::relays::Ways;
use crate::resp::{Client, Failure, Value};

const LEADERLESS: &str = env!("CARGO_BIN_EXE_leaderless");
/// By how many milliseconds the clock of a node is wrong.
const CLOCK_OFF: &str = "DISKSTORE_TEST_CLOCK_OFF_MS";
/// How many times as often a node does what it does from time to time.
const PACE: &str = "DISKSTORE_TEST_PACE_TIMES";
const KEYS: [&str; 4] = ["a", "b", "c", "d"];
const CLIENTS: u64 = 6;
/// Operations that are acknowledged between two blows, and after the last.
const ACKNOWLEDGED_MIN: u64 = 300;
/// The same, while clients wait in vain for a node that is frozen, or not heard.
const ACKNOWLEDGED_BESIDE_FROZEN: u64 = 20;
/// Acknowledged reads and writes of each level, in a history with all levels.
const ACKNOWLEDGED_OF_KIND_MIN: usize = 10;
/// How long a client waits for an answer. What it does not hear may have happened, or not.
const REPLY_MAX: Duration = Duration::from_secs(1);
/// How often connections between nodes are cut.
const CUTS: usize = 20;
const DELAY: Duration = Duration::from_millis(10);
/// How many of a thousand pieces are lost between nodes, where any are.
const LOST_OF_THOUSAND: u64 = 10;
/// Operations that are acknowledged while all goes wrong together, and a while after each time.
const ACKNOWLEDGED_IN_TROUBLE: u64 = 5;
const ACKNOWLEDGED_AFTER_TROUBLE: u64 = 50;
/// One node of four is ahead and one is behind, each within what the other two admit, and not each other.
const CLOCKS_OFF_MS: [i64; 4] = [4000, 0, -4000, 0];
const HOUR_MS: i64 = 3_600_000;

/// How many replicas an operation waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    One,
    Quorum,
    All,
}

impl Level {
    const QUORUM_ALONE: [Level; 1] = [Level::Quorum];
    const MIXED: [Level; 4] = [Level::One, Level::Quorum, Level::Quorum, Level::All];

    fn word(self) -> &'static str {
        match self {
            Level::One => "one",
            Level::Quorum => "quorum",
            Level::All => "all",
        }
    }
}

/// An operation that was acknowledged.
#[derive(Debug, Clone)]
struct Acknowledged {
    level: Level,
    is_write: bool,
    begun: Instant,
    ended: Instant,
    version: u64,
    /// What was read or written; none if the key has no value, or was deleted.
    value: Option<String>,
}

/// A value on its way.
#[derive(Debug)]
struct Sent {
    key: &'static str,
    begun: Instant,
}

/// What happened, by key; all values that were ever sent, and those that were certainly not stored.
#[derive(Debug, Default)]
struct History {
    acknowledged: BTreeMap<&'static str, Vec<Acknowledged>>,
    sent: BTreeMap<String, Sent>,
    refused: BTreeSet<String>,
}

impl History {
    /// What the table of levels in `docs/leaderless.md` promises, and nothing else.
    fn check(&self) {
        for (key, operations) in &self.acknowledged {
            self.check_values(key, operations);
            let is_one = |it: &Acknowledged| it.level == Level::One;
            let is_all = |it: &Acknowledged| it.level == Level::All;
            // A linearizable register, whatever operations at ONE do beside it.
            respects(operations, |earlier| !is_one(earlier), |later| !is_one(later));
            // What all replicas hold is read at any of them.
            respects(operations, is_all, |later| is_one(later) && !later.is_write);
            // What one replica has acknowledged, all of them together do not miss.
            respects(operations, |_| true, is_all);
        }
    }

    /// There are enough operations of each level for the history to say something.
    #[track_caller]
    fn has_all_kinds(&self) {
        let of_kind = |level, is_write| {
            let is_such = |it: &&Acknowledged| it.level == level && it.is_write == is_write;
            self.acknowledged.values().flatten().filter(is_such).count()
        };
        for level in Level::MIXED {
            let counts = [of_kind(level, false), of_kind(level, true)];
            assert!(counts.iter().all(|count| *count >= ACKNOWLEDGED_OF_KIND_MIN), "{level:?}");
        }
    }

    /// Each version is one value that was sent for the key before it was seen, and that no write was said not to have
    /// stored; and no two writes have one version.
    fn check_values(&self, key: &str, operations: &[Acknowledged]) {
        let mut values: BTreeMap<u64, &Option<String>> = BTreeMap::from([(0, &None)]);
        let mut versions: BTreeMap<&String, u64> = BTreeMap::new();
        let mut writes: BTreeMap<u64, &Acknowledged> = BTreeMap::new();
        for operation in operations {
            let value = values.entry(operation.version).or_insert(&operation.value);
            assert_eq!(*value, &operation.value, "two values of one version: {operation:?}");
            if let Some(value) = &operation.value {
                let known = versions.entry(value).or_insert(operation.version);
                assert_eq!(*known, operation.version, "one value twice: {operation:?}");
                let sent = self.sent.get(value).filter(|sent| sent.key == key);
                let sent = sent.unwrap_or_else(|| panic!("nobody wrote that: {operation:?}"));
                assert!(sent.begun <= operation.ended, "read before it was sent: {operation:?}");
                assert!(!self.refused.contains(value), "stored all the same: {operation:?}");
            }
            if operation.is_write {
                let other = writes.insert(operation.version, operation);
                assert!(other.is_none(), "one version twice: {operation:?} {other:?}");
            }
        }
    }
}

/// Of these operations, versions respect real time: what begins after another one has ended sees at least its version,
/// and a write goes above it.
#[track_caller]
fn respects(
    operations: &[Acknowledged],
    is_earlier: impl Fn(&Acknowledged) -> bool,
    is_later: impl Fn(&Acknowledged) -> bool,
) {
    let mut by_begin: Vec<_> = operations.iter().filter(|it| is_later(it)).collect();
    by_begin.sort_by_key(|operation| operation.begun);
    let mut by_end: Vec<_> = operations.iter().filter(|it| is_earlier(it)).collect();
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
        assert!(is_right, "{operation:?} after {before:?}");
    }
}

/// The nodes, running or not.
pub(crate) struct Registers {
    pub(crate) addresses: Vec<String>,
    /// Between them, if not the bare network.
    ways: Option<Ways>,
    clocks_off_ms: Vec<i64>,
    pace_times: u32,
    folder: tempfile::TempDir,
    nodes: Vec<Option<harness::Node>>,
}

impl Registers {
    fn start_all(clocks_off_ms: &[i64], is_relayed: bool) -> Registers {
        Registers::start_at(clocks_off_ms, is_relayed, 1)
    }

    /// Nodes that forget in seconds what was deleted, and whoever is away.
    pub(crate) fn start_fast(count: usize, pace_times: u32) -> Registers {
        Registers::start_at(&vec![0; count], false, pace_times)
    }

    fn start_at(clocks_off_ms: &[i64], is_relayed: bool, pace_times: u32) -> Registers {
        let addresses: Vec<String> =
            clocks_off_ms.iter().map(|_| format!("{}:8001", host())).collect();
        let ways = is_relayed.then(|| Ways::between(&addresses));
        let nodes = addresses.iter().map(|_| None).collect();
        let folder = tempfile::tempdir().unwrap();
        let clocks_off_ms = clocks_off_ms.to_vec();
        let mut registers = Registers { addresses, ways, clocks_off_ms, pace_times, folder, nodes };
        for node in 0..registers.nodes.len() {
            registers.start(node);
        }
        registers.wait_ready();
        registers
    }

    pub(crate) fn directory(&self, node: usize) -> String {
        Path::new(self.folder.path()).join(node.to_string()).display().to_string()
    }

    pub(crate) fn start(&mut self, node: usize) {
        let listed = |(to, address): (usize, &String)| {
            let dialled =
                self.ways.as_ref().map_or(address.as_str(), |ways| ways.address(node, to));
            format!("{}={dialled}", to + 1)
        };
        let listed: Vec<String> = self.addresses.iter().enumerate().map(listed).collect();
        let mut command = Command::new(LEADERLESS);
        command
            .args(["-id", &(node + 1).to_string(), "-port", &self.addresses[node]])
            .args(["-nodes", &listed.join(","), "-replicas", "3"])
            .args(["-dir", &self.directory(node), "-forget-after", "10m"])
            .env(PACE, self.pace_times.to_string())
            .env(CLOCK_OFF, self.clocks_off_ms[node].to_string());
        self.nodes[node] = Some(harness::Node::spawn(&mut command));
    }

    /// Kills a node, and starts it with another clock.
    fn restart_at(&mut self, node: usize, clock_off_ms: i64) {
        self.kill(node);
        self.clocks_off_ms[node] = clock_off_ms;
        self.start(node);
        wait_until("it is ready again", || self.is_ready(node));
    }

    pub(crate) fn is_ready(&self, node: usize) -> bool {
        let asked =
            Http::to(&self.addresses[node]).and_then(|mut http| http.ask("GET", "/readyz", "", ""));
        asked.is_ok_and(|response| response.status == 200)
    }

    fn wait_ready(&self) {
        for node in 0..self.nodes.len() {
            wait_until("a node is ready", || self.is_ready(node));
        }
    }

    pub(crate) fn status(&self, node: usize) -> Json {
        let address = &self.addresses[node];
        let asked = || Http::to(address).ok()?.ask("GET", "/status", "", "").ok();
        serde_json::from_str(&wait_for("status", asked).body).unwrap()
    }

    /// How many others a node hears that hear it.
    fn up_count(&self, node: usize) -> usize {
        let status = self.status(node);
        let peers = status["peers"].as_array().unwrap();
        peers.iter().filter(|peer| peer["is_up"] == true).count()
    }

    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].take().unwrap().kill();
    }

    fn send(&self, node: usize, signal: &str) {
        self.nodes[node].as_ref().unwrap().send(signal);
    }
}

/// What clients do, and have done.
struct Load {
    addresses: Vec<String>,
    levels: &'static [Level],
    history: Mutex<History>,
    stop: AtomicBool,
    count: AtomicU64,
}

impl Load {
    fn on(registers: &Registers, levels: &'static [Level]) -> Load {
        Load {
            addresses: registers.addresses.clone(),
            levels,
            history: Mutex::default(),
            stop: AtomicBool::new(false),
            count: AtomicU64::new(0),
        }
    }

    fn go_on_for(&self, more: u64) {
        let begun = self.count.load(Ordering::Relaxed);
        wait_until("operations go on", || self.count.load(Ordering::Relaxed) >= begun + more);
    }

    fn go_on(&self) {
        self.go_on_for(ACKNOWLEDGED_MIN);
    }

    /// Runs clients beside something that is done to the nodes.
    fn run_beside(&self, blows: impl FnOnce()) {
        std::thread::scope(|scope| {
            for seed in 1..=CLIENTS {
                scope.spawn(move || self.work(seed));
            }
            let _stops = StopsAtEnd(&self.stop);
            blows();
        });
    }

    /// Reads, writes and deletes until it is told to stop.
    fn work(&self, seed: u64) {
        let mut connections: Vec<Option<Client>> = self.addresses.iter().map(|_| None).collect();
        let mut random = seed;
        let mut nth = 0_u64;
        while !self.stop.load(Ordering::Relaxed) {
            let mut below = |count: usize| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                usize::try_from(random >> 40).unwrap() % count
            };
            let at = below(self.addresses.len());
            let (key, level) = (KEYS[below(KEYS.len())], self.levels[below(self.levels.len())]);
            let verb = ["READ", "READ", "READ", "WRITE", "WRITE", "ERASE"][below(6)];
            if connections[at].is_none() {
                connections[at] = Client::connect_within(&self.addresses[at], REPLY_MAX).ok();
            }
            let Some(client) = &mut connections[at] else { continue };
            nth += 1;
            let value = format!("{seed}-{nth}");
            let mut words = vec!["DISKSTORE", verb, level.word(), key];
            let begun = Instant::now();
            if verb == "WRITE" {
                words.push(&value);
                self.history.lock().sent.insert(value.clone(), Sent { key, begun });
            }
            let answer = client.ask(&words);
            let ended = Instant::now();
            let parts = match answer {
                Ok(Value::Array(parts)) => parts,
                Ok(other) => panic!("an answer to {words:?}: {other:?}"),
                Err(Failure::Refused(_)) => {
                    self.history.lock().refused.insert(value);
                    continue;
                }
                Err(Failure::Unknown(_)) => {
                    connections[at] = None;
                    continue;
                }
            };
            let mut parts = parts.into_iter().map(|part| part.text().unwrap());
            let version = parts.next().unwrap().parse().unwrap();
            let is_write = verb != "READ";
            let value = if verb == "WRITE" { Some(value) } else { parts.next() };
            let operation = Acknowledged { level, is_write, begun, ended, version, value };
            self.history.lock().acknowledged.entry(key).or_default().push(operation);
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What a read through a node finds, if it finds out.
    fn read(&self, node: usize, level: Level, key: &str) -> Option<Acknowledged> {
        let mut client = Client::connect_within(&self.addresses[node], REPLY_MAX).ok()?;
        let begun = Instant::now();
        let answer = client.ask(&["DISKSTORE", "READ", level.word(), key]);
        let Ok(Value::Array(parts)) = answer else { return None };
        let mut parts = parts.into_iter().filter_map(|part| part.text());
        let version = parts.next()?.parse().ok()?;
        let (ended, value) = (Instant::now(), parts.next());
        Some(Acknowledged { level, is_write: false, begun, ended, version, value })
    }

    /// Nobody writes any more: the copies come to agree without being asked about, and then all replicas
    /// together hold nothing else, nor anything older than what was acknowledged.
    fn settle(&self) {
        for key in KEYS {
            let agree = || {
                let nodes = 0..self.addresses.len();
                let found: Option<Vec<_>> =
                    nodes.map(|node| self.read(node, Level::One, key)).collect();
                let mut found = found?.into_iter();
                let first = found.next()?;
                let is_first =
                    |it: Acknowledged| (it.version, &it.value) == (first.version, &first.value);
                found.all(is_first).then_some(first)
            };
            let held = wait_for("all copies agree", agree);
            let last = wait_for("all replicas answer", || self.read(0, Level::All, key));
            assert_eq!((last.version, &last.value), (held.version, &held.value), "{key}");
            self.history.lock().acknowledged.entry(key).or_default().extend([held, last]);
        }
    }

    /// Looks at what happened, and whether any version was given twice.
    fn check(self, registers: &Registers) -> History {
        self.settle();
        let history = self.history.into_inner();
        history.check();
        assert_eq!(history.acknowledged.len(), KEYS.len());
        for node in 0..registers.nodes.len() {
            let status = registers.status(node);
            assert_eq!(status["clashes"], 0, "{status}");
        }
        history
    }
}

/// Also where a blow has failed: else the clients would be waited for.
struct StopsAtEnd<'a>(&'a AtomicBool);

impl Drop for StopsAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn histories_of_registers_are_linearizable_while_nodes_are_killed_and_frozen() {
    let mut registers = Registers::start_all(&[0; 3], false);
    let load = Load::on(&registers, &Level::QUORUM_ALONE);
    load.run_beside(|| {
        load.go_on();
        for node in 0..3 {
            registers.kill(node);
            load.go_on();
            registers.start(node);
            wait_until("it is ready again", || registers.is_ready(node));
            load.go_on();
        }
        registers.send(1, "STOP");
        load.go_on_for(ACKNOWLEDGED_BESIDE_FROZEN);
        registers.send(1, "CONT");
        load.go_on();
        // All at once: what was acknowledged is on their disks.
        for node in 0..3 {
            registers.kill(node);
        }
        for node in 0..3 {
            registers.start(node);
        }
        registers.wait_ready();
        load.go_on();
    });
    load.check(&registers);
}

/// Holds back these ways until the nodes have noticed, and for some operations more.
fn hold_back(registers: &Registers, load: &Load, held: &[[usize; 2]]) {
    let ways = registers.ways.as_ref().unwrap();
    let others = registers.nodes.len() - 1;
    for [from, to] in held {
        ways.hold(*from, *to, true);
    }
    let [_, hears_less] = held[0];
    wait_until("a node hears less", || registers.up_count(hears_less) < others);
    load.go_on_for(ACKNOWLEDGED_BESIDE_FROZEN);
    for [from, to] in held {
        ways.hold(*from, *to, false);
    }
    wait_until("all hear each other", || {
        (0..=others).all(|node| registers.up_count(node) == others)
    });
    load.go_on();
}

#[test]
fn every_level_keeps_its_promise_over_bad_networks_and_with_bad_clocks() {
    let mut registers = Registers::start_all(&CLOCKS_OFF_MS, true);
    let load = Load::on(&registers, &Level::MIXED);
    load.run_beside(|| {
        load.go_on();
        // One way each, then all ways to a node, then all from one.
        hold_back(&registers, &load, &[[0, 1]]);
        hold_back(&registers, &load, &[[2, 3], [1, 0]]);
        hold_back(&registers, &load, &[[0, 2], [1, 2], [3, 2]]);
        hold_back(&registers, &load, &[[3, 0], [3, 1], [3, 2]]);
        let ways = registers.ways.as_ref().unwrap();
        ways.delay_all(DELAY);
        for nth in 0..CUTS {
            ways.cut(nth % 4, (nth / 4 % 3 + nth % 4 + 1) % 4);
            load.go_on_for(ACKNOWLEDGED_BESIDE_FROZEN);
        }
        ways.delay_all(Duration::ZERO);
        // A clock is set back, as by a restored machine; another one is an hour ahead, and then right again.
        registers.restart_at(0, CLOCKS_OFF_MS[2]);
        load.go_on();
        registers.restart_at(3, HOUR_MS);
        load.go_on();
        registers.restart_at(3, 0);
        load.go_on();
    });
    load.check(&registers).has_all_kinds();
}

/// Each of four nodes is killed while another one is frozen and a third hears less, with frames lost everywhere; it
/// comes back with another clock. Once, all of them are killed.
#[test]
fn every_level_keeps_its_promise_when_all_goes_wrong_together() {
    let mut registers = Registers::start_all(&CLOCKS_OFF_MS, true);
    let load = Load::on(&registers, &Level::MIXED);
    load.run_beside(|| {
        let lose = |registers: &Registers, of_thousand| {
            registers.ways.as_ref().unwrap().lose_all(of_thousand);
        };
        lose(&registers, LOST_OF_THOUSAND);
        load.go_on_for(ACKNOWLEDGED_AFTER_TROUBLE);
        for killed in 0..4 {
            let [frozen, deaf, talker] = [1, 2, 3].map(|more| (killed + more) % 4);
            let hold = |registers: &Registers, is_held| {
                registers.ways.as_ref().unwrap().hold(talker, deaf, is_held);
            };
            hold(&registers, true);
            registers.send(frozen, "STOP");
            registers.kill(killed);
            load.go_on_for(ACKNOWLEDGED_IN_TROUBLE);
            registers.clocks_off_ms[killed] = CLOCKS_OFF_MS[frozen];
            registers.start(killed);
            load.go_on_for(ACKNOWLEDGED_IN_TROUBLE);
            registers.send(frozen, "CONT");
            hold(&registers, false);
            wait_until("it is ready again", || registers.is_ready(killed));
            load.go_on_for(ACKNOWLEDGED_AFTER_TROUBLE);
        }
        for node in 0..4 {
            registers.kill(node);
        }
        for node in 0..4 {
            registers.start(node);
        }
        registers.wait_ready();
        load.go_on_for(ACKNOWLEDGED_AFTER_TROUBLE);
        lose(&registers, 0);
        load.go_on();
    });
    load.check(&registers).has_all_kinds();
}

#[test]
fn the_checker_sees_what_no_level_allows() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let operation = |level, is_write, span: [u64; 2], version, value: &str| Acknowledged {
        level,
        is_write,
        begun: at(span[0]),
        ended: at(span[1]),
        version,
        value: Some(value.to_owned()),
    };
    let is_refused = |operations: Vec<Acknowledged>| {
        let sent = |value: &str| (value.to_owned(), Sent { key: "a", begun: at(0) });
        let mut sent = BTreeMap::from(["x", "y", "z", "r"].map(sent));
        sent.insert("late".to_owned(), Sent { key: "a", begun: at(50) });
        let refused = BTreeSet::from(["r".to_owned()]);
        let acknowledged = [("a", operations)].into();
        let history = History { acknowledged, sent, refused };
        std::panic::catch_unwind(|| history.check()).is_err()
    };
    let (one, quorum, all) = (Level::One, Level::Quorum, Level::All);
    let good = [
        operation(quorum, true, [0, 2], 10, "x"),
        operation(quorum, true, [1, 5], 20, "y"),
        operation(quorum, false, [3, 4], 10, "x"),
        operation(quorum, false, [6, 7], 20, "y"),
    ];
    assert!(!is_refused(good.to_vec()));
    let with = |more: &[Acknowledged]| is_refused([&good, more].concat());
    assert!(with(&[operation(quorum, false, [8, 9], 10, "x")]), "an old value was read");
    assert!(with(&[operation(all, false, [8, 9], 10, "x")]), "by all together");
    assert!(with(&[operation(quorum, true, [8, 9], 20, "y")]), "a version was given twice");
    assert!(with(&[operation(one, true, [8, 9], 20, "y")]), "to a write of any level");
    assert!(with(&[operation(quorum, false, [8, 9], 20, "z")]), "a version has two values");
    assert!(with(&[operation(quorum, false, [8, 9], 30, "w")]), "nobody wrote that");
    assert!(with(&[operation(one, false, [8, 9], 30, "r")]), "that was not stored");
    assert!(with(&[operation(one, false, [8, 9], 30, "late")]), "that was to come");
    assert!(with(&[operation(one, false, [8, 9], 30, "y")]), "a value has two versions");
    // What ONE may do: read what is old, write below what is there, and be missed by QUORUM.
    assert!(!with(&[operation(one, false, [8, 9], 10, "x")]));
    let missed = operation(one, true, [8, 9], 25, "z");
    assert!(!with(&[missed.clone(), operation(quorum, false, [10, 11], 20, "y")]));
    assert!(!with(&[operation(one, true, [8, 9], 5, "z")]));
    // What it may not: be missed by ALL, or miss what all have.
    assert!(with(&[missed, operation(all, false, [10, 11], 20, "y")]));
    let by_all = operation(all, true, [8, 9], 30, "z");
    assert!(with(&[by_all, operation(one, false, [10, 11], 20, "y")]));
}
