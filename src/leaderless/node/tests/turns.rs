//! A node's driver, whose turns are made by hand: nothing is synced, sent or heard but what a test says.

use super::*;
use crate::leaderless::message::{
    Answer, Asker, Content, Losses, OperationId, Origin, Request, Response, Store as Stored,
};
use crate::leaderless::node::operations::{Job, ReplyTo};
use crate::leaderless::node::wire::{Gossip, PeerMessage};
use crate::leaderless::repair::{Found, PullEffect, PullRequest, PullResponse};
use crate::leaderless::replica::Numbers;

type Outcome = oneshot::Receiver<Result<Done, RegisterError>>;

/// Node 1 of three, and the ends of channels that it holds.
struct Turns {
    driver: Driver,
    _signals: mpsc::UnboundedReceiver<Event>,
    _stop: watch::Sender<bool>,
    _lock: Box<dyn Lock>,
}

fn number(node: u16) -> NodeNumber {
    NodeNumber::new(node).unwrap()
}

impl Turns {
    /// It is ready, and hears the others, whose numbers are its own.
    fn begin(memory_bytes_max: u64) -> Turns {
        let cluster = Cluster { memory_bytes_max, value_bytes_max: 16 << 20, ..Cluster::new(3) };
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
        let host = Host { disk, net: Net::Local(cluster.net.clone()), ..Host::real() };
        let (config, own, faults) = (cluster.config(1), number(1), Faults::new());
        let segment_bytes = 64 << 20;
        let opening =
            Opening { host: &host, config: &config, own, faults: faults.clone(), segment_bytes };
        let OpenedStore { store, lock } = opening.run().unwrap();
        let hello = RegistersHello {
            cluster_id: cluster_id_of(&config.layout),
            epoch: config.layout.epoch(),
            layout_hash: config.layout.hash(),
            from: own,
            to: own,
            value_bytes_max: config.value_bytes_max,
            process: 7,
        };
        let (signals, signal_inlet) = mpsc::unbounded_channel();
        let (stop, stopping) = watch::channel(false);
        let making = Making { host: &host, config: &config, pace: PACE, faults, own, hello };
        let driver = making.driver(store, &signals, &stopping, Arc::default());
        let mut turns = Turns { driver, _signals: signal_inlet, _stop: stop, _lock: lock };
        let effects = turns.driver.replica.nothing_was_lost();
        turns.driver.apply(effects);
        turns.sync();
        turns.driver.tick();
        turns.sync();
        for node in [2, 3] {
            let numbers = turns.driver.replica.numbers().clone();
            turns.hear(node, numbers);
        }
        turns
    }

    /// Another node is up, and ready, and has these numbers.
    fn hear(&mut self, node: u16, numbers: Numbers) {
        let peer = self.driver.peers.get_mut(&number(node)).unwrap();
        // For as long as the test takes.
        (peer.is_linked, peer.heard_at) = (true, Some(Instant::now() + Duration::from_hours(1)));
        let gossip = Gossip {
            standing: Standing::Ready,
            is_empty: true,
            hears: true,
            incarnation: 5,
            founders: BTreeMap::new(),
            numbers,
        };
        self.driver.hear_gossip(number(node), gossip);
    }

    /// Everything that was written is synced.
    fn sync(&mut self) {
        while self.driver.synced < self.driver.written {
            let count = self.driver.written - self.driver.synced;
            self.driver.synced = self.driver.written;
            let effects = self.driver.replica.synced(count);
            self.driver.apply(effects);
            self.driver.run_local();
        }
    }

    /// An operation begins. Returns its id, and where its outcome comes.
    fn begin_one(&mut self, errand: Errand, key: &str) -> (u64, Outcome) {
        let (reply, outcome) = oneshot::channel();
        self.driver.begin(ReplyTo::Here(reply), errand, bytes(key), Level::Quorum);
        let id = self.driver.next_operation;
        self.driver.run_local();
        (id, outcome)
    }

    /// Another node answers that it holds nothing.
    fn answer(&mut self, node: u16, id: u64) {
        let answer = Answer {
            version: Version::NONE,
            content: Content::Nothing,
            floor: Moment::default(),
            confirmed: Moment::default(),
            losses: Losses::default(),
        };
        self.driver.response(number(node), id, Response::Answer(answer));
        self.driver.run_local();
    }

    /// A client of this node has stored a record here, which is not synced.
    fn store_unsynced(&mut self, key: &str) {
        let asker = Asker { node: number(3), operation: OperationId(1) };
        let version = self.driver.clock.shown(self.driver.now());
        let held = Held { version, value: Some(bytes("x")) };
        let origin = Origin::New { base: Version::NONE };
        self.driver.request(asker, Request::Store(Stored { key: bytes(key), held, origin }));
        assert!(self.driver.written > self.driver.synced);
    }
}

fn large() -> Errand {
    Errand::Set(Bytes::from(vec![7; 16 << 20]))
}

/// V3 of `leaderless/node/serving.rs`: else a version would be at another node that is lost here with a crash, and then given again.
#[tokio::test]
async fn records_leave_a_node_once_they_are_synced() {
    let mut turns = Turns::begin(1 << 30);
    turns.store_unsynced("a");
    let hash = diskstore_storage::keys::hash_of(b"a");
    let asker = Asker { node: number(2), operation: OperationId(9) };
    turns.driver.request(asker, Request::Pull(PullRequest::Fetch(vec![hash])));
    turns.driver.copy_page(number(2), 1, 0);
    let held: Vec<&PeerMessage> =
        turns.driver.after_sync.iter().map(|(_, _, message)| message).collect();
    let is_fetched = |message: &PeerMessage| match message {
        PeerMessage::Response(9, Response::Pulled(PullResponse::Records { records, .. })) => {
            records.len() == 1
        }
        _ => false,
    };
    assert!(held.iter().any(|message| is_fetched(message)), "{held:?}");
    let is_page = |message: &&PeerMessage| matches!(message, PeerMessage::CopyPaged { .. });
    assert!(held.iter().any(is_page), "{held:?}");
    for _ in 0..100 {
        turns.driver.copy_page(number(2), 1, 0);
    }
    assert!(turns.driver.after_sync.len() <= 10, "what waits is bounded");
}

#[tokio::test]
async fn a_write_that_can_be_sent_to_too_few_is_refused_at_once() {
    let mut turns = Turns::begin(1 << 30);
    let begun: Vec<(u64, Outcome)> =
        (0..3).map(|nth| turns.begin_one(large(), &nth.to_string())).collect();
    for (id, _) in &begun {
        turns.answer(2, *id);
    }
    let mut outcomes: Vec<Outcome> = begun.into_iter().map(|(_, outcome)| outcome).collect();
    let refused = outcomes.pop().unwrap().try_recv().unwrap().unwrap_err();
    assert!(matches!(refused, RegisterError::Busy(_)), "{refused}");
    assert_eq!(turns.driver.store.version(b"2"), Version::NONE, "it is not here either");
    assert!(outcomes.iter_mut().all(|outcome| outcome.try_recv().is_err()), "two are under way");
    // The next one is not even begun.
    let (_, mut outcome) = turns.begin_one(large(), "3");
    assert!(matches!(outcome.try_recv().unwrap(), Err(RegisterError::Busy(_))));
}

#[tokio::test]
async fn who_passed_a_read_on_hears_that_its_answer_is_too_much() {
    let mut turns = Turns::begin(1 << 30);
    for nth in 0..3 {
        let message = PeerMessage::CopyPaged {
            attempt: nth,
            from: 0,
            next: None,
            floor: Moment::default(),
            records: vec![Found {
                key: bytes("k"),
                held: Held { version: Version::NONE, value: Some(Bytes::from(vec![1; 16 << 20])) },
            }],
        };
        turns.driver.send(number(2), &message);
    }
    let queued = |turns: &Turns| turns.driver.peers[&number(2)].link.queued();
    assert!(!turns.driver.peers[&number(2)].has_room());
    let (reply, before) = (ReplyTo::Peer { node: number(2), id: 4 }, queued(&turns));
    turns.driver.begin(reply, Errand::Get, bytes("k"), Level::One);
    turns.driver.run_local();
    let dropped = turns.driver.peers[&number(2)].dropped;
    assert_eq!(dropped, 2, "the page, and the value of the read");
    turns.driver.end_turn();
    assert!(queued(&turns) > before, "and yet a word is sent");
}

#[tokio::test]
async fn a_node_whose_clock_is_ahead_is_asked_for_no_writes() {
    let mut turns = Turns::begin(1 << 30);
    let right = turns.driver.replica.numbers().clone();
    // Node 2 is an hour ahead, and this one as well.
    let ahead = Numbers { ceiling: right.ceiling.later(3_600_000), ..right };
    turns.hear(2, ahead);
    turns.driver.host.clock = crate::host::Clock::Off(3_600_000);
    turns.driver.pulls.clear();
    let key = bytes("0");
    let (reply, _outcome) = oneshot::channel();
    turns.driver.begin(ReplyTo::Here(reply), Errand::Set(bytes("x")), key, Level::Quorum);
    // Nodes 1 and 2 are a majority: what they propose is taken.
    assert_eq!(turns.driver.counters.forwarded, 0);
    let right = Numbers { ceiling: turns.driver.replica.numbers().ceiling, ..Numbers::default() };
    turns.hear(2, right);
    let (reply, _outcome) = oneshot::channel();
    turns.driver.begin(ReplyTo::Here(reply), Errand::Set(bytes("x")), bytes("1"), Level::Quorum);
    assert_eq!(turns.driver.counters.forwarded, 1, "now it is alone");
    let passed = turns.driver.jobs.values().find_map(|job| match job {
        Job::Forwarded { to, .. } => Some(*to),
        _ => None,
    });
    assert!(passed.is_some());
    // Reads propose nothing.
    let (reply, _outcome) = oneshot::channel();
    turns.driver.begin(ReplyTo::Here(reply), Errand::Get, bytes("1"), Level::Quorum);
    assert_eq!(turns.driver.counters.forwarded, 1);
}

#[tokio::test]
async fn a_replica_that_is_full_takes_deletes_alone() {
    let mut turns = Turns::begin(1 << 20);
    let moment = turns.driver.now();
    let version = |nth: u64| Version::from_number(moment.get() << 22 | nth << 10);
    let mut nth = 0;
    while turns.driver.has_memory() {
        nth += 1;
        let held = Held { version: version(nth), value: Some(Bytes::from(vec![1; 50_000])) };
        turns.driver.store.put(&bytes(&nth.to_string()), &held);
    }
    let store = |key: Vec<u8>, value: Option<Bytes>| {
        let held = Held { version: version(4_000), value };
        Request::Store(Stored {
            key: key.into(),
            held,
            origin: Origin::New { base: Version::NONE },
        })
    };
    let asker = Asker { node: number(2), operation: OperationId(9) };
    let key = vec![b'e'; 60_000];
    turns.driver.request(asker, store(key.clone(), Some(Bytes::new())));
    assert_eq!(turns.driver.store.version(&key), Version::NONE, "an empty value counts");
    turns.driver.request(asker, store(b"1".to_vec(), None));
    assert_eq!(turns.driver.store.version(b"1"), version(4_000), "deletes free memory");
    // A pull that brings values ends, and has confirmed nothing.
    while turns.driver.has_memory() {
        nth += 1;
        let held = Held { version: version(nth), value: Some(Bytes::from(vec![1; 50_000])) };
        turns.driver.store.put(&bytes(&nth.to_string()), &held);
    }
    let found = |key: &str, value: Option<Bytes>| Found {
        key: bytes(key),
        held: Held { version: version(4_001), value },
    };
    assert!(turns.driver.status().busy.contains("not copied"), "the status says so");
    let records = vec![found("new", Some(bytes("x"))), found("2", None)];
    turns.driver.tick();
    let id = *turns.driver.pulls.keys().next().unwrap();
    let floor = Moment::default();
    turns.driver.carry_out_pull(id, vec![PullEffect::Copy { records, floor }]);
    assert!(!turns.driver.pulls.contains_key(&id));
    assert_eq!(turns.driver.store.version(b"new"), Version::NONE);
    assert_eq!(turns.driver.store.version(b"2"), version(4_001));
}
