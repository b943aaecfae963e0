//! Writers and readers that keep a history, and the check that nothing acknowledged was lost.
//!
//! Every key has one writer and every write a number of its own, so that a value tells which write
//! it came from. An unknown write may be applied at any time later, or never; a refused one never.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use crate::nodes::{Cluster, wait_until};
use crate::resp::{Client, Failure, Value};

const WRITERS: usize = 4;
const KEYS_EACH: usize = 32;
/// Keys from here on are free for tests.
pub(crate) const KEYS: usize = WRITERS * KEYS_EACH;
/// Shorter than a node waits, so that some writes are given up by the client.
const ANSWER_BOUND: Duration = Duration::from_secs(4);
/// Slots that the filler sets with each request.
const FILLED: usize = 200;
const PAUSE: Duration = Duration::from_millis(20);
/// Makes values long enough to fill a log.
const FILLING: &str = "0123456789012345678901234567890123456789012345678901234567890123456789";

/// What is known of the writes of one key.
#[derive(Debug, Default, Clone)]
struct Record {
    tried: u64,
    acknowledged: u64,
    unknown: BTreeSet<u64>,
    refused: BTreeSet<u64>,
}

impl Record {
    /// Why the write `found` (0: no value) cannot be what the key holds now.
    fn contradiction(&self, found: u64, floor: u64) -> Option<&'static str> {
        if found > self.tried {
            Some("was never written")
        } else if found < floor && !self.unknown.contains(&found) {
            Some("is older than an acknowledged write")
        } else if self.refused.contains(&found) {
            Some("was refused")
        } else {
            None
        }
    }
}

/// All writes of all writers.
#[derive(Debug, Default)]
pub(crate) struct History {
    records: Vec<Mutex<Record>>,
    acknowledged: AtomicU64,
    unknown: AtomicU64,
    refused: AtomicU64,
    reads: AtomicU64,
}

impl History {
    pub(crate) fn new() -> Arc<History> {
        let records = (0..KEYS).map(|_| Mutex::default()).collect();
        Arc::new(History { records, ..History::default() })
    }

    /// Writes that were answered with OK.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Writes of which nobody knows.
    pub(crate) fn unknown(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }

    /// Writes that were answered with the word that nothing was applied.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Linearizable reads that were answered and found right.
    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    #[track_caller]
    fn check_value(&self, key: usize, value: Option<&str>, floor: u64, place: &str) {
        let found = value.map_or(0, |text| number(key, text));
        let record = self.records[key].lock();
        if let Some(reason) = record.contradiction(found, floor) {
            panic!("{place}: key {key} holds write {found}, which {reason} ({floor}): {record:?}");
        }
    }

    /// Reads every key linearizably through every running node, with no writer at work.
    #[track_caller]
    pub(crate) fn check(&self, cluster: &Cluster) {
        let keys: Vec<String> = (0..KEYS).map(|key| key.to_string()).collect();
        let words: Vec<&str> =
            std::iter::once("MGET").chain(keys.iter().map(String::as_str)).collect();
        for node in cluster.nodes.iter().filter(|node| node.status().is_some()) {
            let values = node.asked(&words).texts();
            for (key, value) in values.into_iter().enumerate() {
                let floor = self.records[key].lock().acknowledged;
                self.check_value(key, value.as_deref(), floor, &node.name);
            }
        }
    }

    /// Reads every key at every node, then, when all of them are level, locally at each.
    #[track_caller]
    pub(crate) fn check_everywhere(&self, cluster: &Cluster) {
        self.check(cluster);
        cluster.wait_level();
        for index in 0..cluster.nodes.len() {
            self.check_local(cluster, index);
        }
    }

    /// Reads every key locally at one node that has applied everything.
    #[track_caller]
    pub(crate) fn check_local(&self, cluster: &Cluster, index: usize) {
        let node = &cluster.nodes[index];
        for key in 0..KEYS {
            let floor = self.records[key].lock().acknowledged;
            let value = node.local(&key.to_string()).unwrap();
            self.check_value(key, value.as_deref(), floor, &node.name);
        }
    }
}

/// The number of the write that a value came from.
fn number(key: usize, text: &str) -> u64 {
    let mut parts = text.split('-');
    assert_eq!(parts.next().unwrap().parse(), Ok(key), "key {key} holds {text}");
    let number = parts.next().unwrap().parse().unwrap();
    assert_eq!(parts.next(), Some(FILLING), "key {key} holds {text}");
    number
}

/// Four writers and a reader at work.
pub(crate) struct Load {
    history: Arc<History>,
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(cluster: &Cluster, history: &Arc<History>) -> Load {
        let stopping = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for turn in 0..=WRITERS {
            let (history, stopping) = (history.clone(), stopping.clone());
            let mut session = Session { addresses: cluster.addresses(), turn, client: None };
            threads.push(std::thread::spawn(move || {
                let mut round = 0;
                while !stopping.load(Ordering::Relaxed) {
                    let pace = if turn < WRITERS {
                        write(&history, &mut session, turn * KEYS_EACH + round % KEYS_EACH)
                    } else {
                        read(&history, &mut session, round * 7 % KEYS)
                    };
                    round += 1;
                    if pace.is_err() {
                        session.client = None;
                        session.turn += 1;
                        std::thread::sleep(PAUSE);
                    }
                }
            }));
        }
        Load { history: history.clone(), stopping, threads }
    }

    /// Waits until this many more writes were acknowledged.
    #[track_caller]
    pub(crate) fn wait_more(&self, count: u64) {
        let enough = self.history.acknowledged() + count;
        wait_until(&format!("{count} more acknowledged writes"), || {
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "a thread has failed");
            self.history.acknowledged() >= enough
        });
    }

    /// Lets the last requests end; fails if a reader saw what it must not see.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

/// One writer of large requests, of which nothing is remembered: it fills the log.
pub(crate) struct Filler {
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Filler {
    pub(crate) fn start(cluster: &Cluster) -> Filler {
        let stopping = Arc::new(AtomicBool::new(false));
        let seen = stopping.clone();
        let mut session = Session { addresses: cluster.addresses(), turn: 0, client: None };
        let keys: Vec<String> = (0..FILLED).map(|key| (2 * KEYS + key).to_string()).collect();
        let thread = std::thread::spawn(move || {
            let mut words = vec!["MSET"];
            words.extend(keys.iter().flat_map(|key| [key.as_str(), FILLING]));
            while !seen.load(Ordering::Relaxed) {
                if session.ask(&words).is_err() {
                    session.client = None;
                    session.turn += 1;
                    std::thread::sleep(PAUSE);
                }
            }
        });
        Filler { stopping, thread }
    }

    #[track_caller]
    pub(crate) fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// A connection to one node after the other.
struct Session {
    addresses: Vec<String>,
    turn: usize,
    client: Option<Client>,
}

impl Session {
    fn ask(&mut self, words: &[&str]) -> Result<Value, Failure> {
        if self.client.is_none() {
            let address = &self.addresses[self.turn % self.addresses.len()];
            self.client = Some(Client::connect_within(address, ANSWER_BOUND)?);
        }
        self.client.as_mut().unwrap().ask(words)
    }
}

fn write(history: &History, session: &mut Session, key: usize) -> Result<(), Failure> {
    let number = {
        let mut record = history.records[key].lock();
        record.tried += 1;
        record.tried
    };
    let value = format!("{key}-{number}-{FILLING}");
    let answer = session.ask(&["SET", &key.to_string(), &value]);
    let mut record = history.records[key].lock();
    match answer {
        Ok(value) => {
            assert_eq!(value, Value::Simple("OK".into()));
            record.acknowledged = number;
            history.acknowledged.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        Err(failure) => {
            let (numbers, counter) = match &failure {
                Failure::Refused(_) => (&mut record.refused, &history.refused),
                Failure::Unknown(_) => (&mut record.unknown, &history.unknown),
            };
            numbers.insert(number);
            counter.fetch_add(1, Ordering::Relaxed);
            Err(failure)
        }
    }
}

fn read(history: &History, session: &mut Session, key: usize) -> Result<(), Failure> {
    let floor = history.records[key].lock().acknowledged;
    let value = session.ask(&["GET", &key.to_string()])?.text();
    history.check_value(key, value.as_deref(), floor, "a reader");
    history.reads.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

#[test]
fn a_history_that_cannot_be_is_noticed() {
    let record = Record {
        tried: 9,
        acknowledged: 7,
        unknown: BTreeSet::from([3, 8]),
        refused: BTreeSet::from([5, 9]),
    };
    // What was acknowledged last, and the writes of which nobody knows, however old.
    for found in [3, 7, 8] {
        assert_eq!(record.contradiction(found, 7), None, "{found}");
    }
    let lost = Some("is older than an acknowledged write");
    for (found, reason) in
        [(0, lost), (6, lost), (5, lost), (9, Some("was refused")), (10, Some("was never written"))]
    {
        assert_eq!(record.contradiction(found, 7), reason, "{found}");
    }
    // A read that began before the last acknowledgement may see what was there then, not less.
    assert_eq!(record.contradiction(6, 6), None);
    assert_eq!(record.contradiction(5, 4), Some("was refused"));
    assert_eq!(record.contradiction(4, 6), lost);
}
