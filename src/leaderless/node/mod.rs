//! A running node of leaderless mode: the door between protocols and the machines.
//!
//! Called by the program and its protocols; calls the machines of this folder, `host` and `storage`. Any
//! node takes any operation: one that is no replica of the key passes it on, once, to one that is.

mod copying;
mod driver;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod links;
mod open;
mod operations;
mod records;
mod serving;
mod status;
mod store;
mod tending;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use diskstore_storage::disk::Lock;
use diskstore_storage::keys::Keys;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use error::{BadInput, RegisterError, RegistersStartError};
pub use status::{PeerStatus, RegistersStatus};

use super::clock::{Clock, Moment, NodeNumber, Version, Writer};
use super::layout::Layout;
use super::message::Held;
use super::operation::{Errand, Level};
use super::replica::{Replica, Standing};
use super::rules::Rules;
use crate::config::SyncPolicy;
use crate::fault::{Fault, Faults};
use crate::host::{Host, Stream};
use driver::{Counters, Driver, Ended, Event, Inlets, Peer};
use links::{Dial, Door, Link};
use open::{OpenedStore, Opening, cluster_id_of};
use store::Store;
use tending::Pace;
use wire::{Done, RegistersHello};

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 65_535;
/// What a peer sends first on a connection to the node's one port.
pub const PEER_PREFACE: [u8; 4] = [0xd5, b'D', b'S', b'P'];
/// Between 1970 and 2020, in milliseconds.
const YEARS_BEFORE_MS: u64 = 1_577_836_800_000;

/// What a node is started with.
#[derive(Debug, Clone)]
pub struct RegistersConfig {
    /// Which node of the layout it is.
    pub id: String,
    /// All nodes. Each but this one has an address.
    pub layout: Layout,
    /// Where its files are. It is made if it is not there.
    pub directory: PathBuf,
    /// Bytes of memory that keys may take.
    pub memory_bytes_max: u64,
    /// Largest value, in bytes.
    pub value_bytes_max: u32,
    /// When the log is synced.
    pub sync: SyncPolicy,
    /// An empty directory is taken for a whole one: what is lost is lost, and the others are not copied.
    pub accepts_loss: bool,
    /// A node that has been away for so long is not waited for any more when deletes are forgotten.
    pub forget_after: Duration,
}

/// A page of a walk over the keys that are held here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysHere {
    /// Keys that have a value.
    pub keys: Vec<Bytes>,
    /// Where to go on; `None` at the end.
    pub next: Option<u64>,
}

/// Requests of clients that may wait for the driver.
const CLIENT_EVENTS_MAX: usize = 4096;
/// Frames of peers that may wait for it; each has at most [`wire::FRAME_BYTES_MAX`] bytes, and mostly few.
const PEER_EVENTS_MAX: usize = 16;

/// A running node.
#[derive(Debug)]
pub struct Registers {
    config: RegistersConfig,
    host: Host,
    faults: Faults,
    keys: Arc<Keys>,
    clients: mpsc::Sender<Event>,
    door: Door,
    is_ready: Arc<AtomicBool>,
    sees_quorum: Arc<AtomicBool>,
    /// As the driver shows it at the end of each turn.
    standing: Arc<AtomicU8>,
    stop: watch::Sender<bool>,
    running: Mutex<Option<Lasting>>,
}

/// What lasts until the node has stopped.
#[derive(Debug)]
struct Lasting {
    driver: JoinHandle<Ended>,
    lock: Box<dyn Lock>,
}

impl Registers {
    /// Starts a node. It listens nowhere: whoever has its port gives it the connections of peers
    /// ([`Registers::serve_peer`]).
    ///
    /// # Errors
    /// The id is not in the layout; files that cannot be used, or are not those of this node.
    pub async fn start(
        host: &Host,
        config: RegistersConfig,
    ) -> Result<Arc<Registers>, RegistersStartError> {
        Self::start_at(host, config, Pace::default()).await
    }

    /// As [`Registers::start`], for tests: what is done from time to time is done so many times as often, and so is what is put off
    /// carried out.
    ///
    /// # Errors
    /// As [`Registers::start`].
    pub async fn start_faster(
        host: &Host,
        config: RegistersConfig,
        times: u32,
    ) -> Result<Arc<Registers>, RegistersStartError> {
        let forget_after = config.forget_after / times.max(1);
        let config = RegistersConfig { forget_after, ..config };
        Self::start_at(host, config, Pace::default().faster(times.max(1))).await
    }

    async fn start_at(
        host: &Host,
        config: RegistersConfig,
        pace: Pace,
    ) -> Result<Arc<Registers>, RegistersStartError> {
        let no_node = || RegistersStartError::NotInLayout { id: config.id.clone() };
        let own = config.layout.node(&config.id).ok_or_else(no_node)?.number;
        let faults = Faults::new();
        let opened = {
            let (host, config, faults) = (host.clone(), config.clone(), faults.clone());
            let segment_bytes = pace.segment_bytes;
            let opening =
                move || Opening { host: &host, config: &config, own, faults, segment_bytes }.run();
            tokio::task::spawn_blocking(opening).await.map_err(std::io::Error::other)??
        };
        let OpenedStore { store, lock } = opened;
        let hello = RegistersHello {
            cluster_id: cluster_id_of(&config.layout),
            epoch: config.layout.epoch(),
            layout_hash: config.layout.hash(),
            from: own,
            to: own,
            value_bytes_max: config.value_bytes_max,
            process: u64::from_le_bytes(host.random.bytes()?),
        };
        let (stop, stopping) = watch::channel(false);
        let (signals, signal_inlet) = mpsc::unbounded_channel();
        let (peers, peer_inlet) = mpsc::channel(PEER_EVENTS_MAX);
        let (clients, client_inlet) = mpsc::channel(CLIENT_EVENTS_MAX);
        let door = Door {
            own: hello.clone(),
            events: peers,
            nodes: config.layout.nodes().iter().map(|node| node.number).collect(),
            inside: Arc::default(),
        };
        let is_ready = Arc::new(AtomicBool::new(false));
        let standing = Arc::new(AtomicU8::new(Standing::Lost as u8));
        let keys = store.keys.clone();
        let making = Making { host, config: &config, pace, faults: faults.clone(), own, hello };
        let first_id = u64::from_le_bytes(host.random.bytes()?) >> 1;
        let mut driver = making.driver(store, &signals, &stopping, is_ready.clone());
        driver.standing = standing.clone();
        let sees_quorum = driver.sees_quorum.clone();
        driver.next_operation = first_id; // none is given again after a restart
        let inlets = Inlets {
            signals: signal_inlet,
            peers: peer_inlet,
            clients: client_inlet,
            stop: stopping,
        };
        let driver = tokio::spawn(driver.run(inlets));
        let running = Mutex::new(Some(Lasting { driver, lock }));
        let host = host.clone();
        Ok(Arc::new(Registers {
            config,
            host,
            faults,
            keys,
            clients,
            door,
            is_ready,
            sees_quorum,
            standing,
            stop,
            running,
        }))
    }

    /// What it was started with.
    pub fn config(&self) -> &RegistersConfig {
        &self.config
    }

    /// What it stands on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Reads a key: its version ([`Version::NONE`] if it was never written) and its value.
    ///
    /// # Errors
    /// Too few replicas answered; bad input.
    pub async fn read(&self, key: Bytes, level: Level) -> Result<Held, RegisterError> {
        check_key(&key)?;
        let begin = |reply| Event::Begin { errand: Errand::Get, key, level, reply };
        self.held_of(begin).await
    }

    /// Gives a key a value, or takes it away (`None`). Returns the version of the write.
    ///
    /// # Errors
    /// See [`RegisterError`]: nothing was stored, or it is not known.
    pub async fn write(
        &self,
        key: Bytes,
        value: Option<Bytes>,
        level: Level,
    ) -> Result<Version, RegisterError> {
        check_key(&key)?;
        self.check_value(value.as_ref())?;
        let errand = value.map_or(Errand::Delete, Errand::Set);
        self.version_of(|reply| Event::Begin { errand, key, level, reply }).await
    }

    /// What this node's own copy holds of a key, synced. For the original's `Node.Get`.
    ///
    /// # Errors
    /// Bad input; it has to copy first.
    pub async fn held(&self, key: Bytes) -> Result<Held, RegisterError> {
        check_key(&key)?;
        self.held_of(|reply| Event::Held { key, reply }).await
    }

    /// Stores at this node alone, under this version, or one of its own clock. For the original's `Node.Set`. `Ok`
    /// if this version or a higher one is synced here.
    ///
    /// # Errors
    /// The replica refuses (behind a fence, too far ahead); bad input.
    pub async fn store_here(
        &self,
        key: Bytes,
        value: Option<Bytes>,
        version: Option<Version>,
    ) -> Result<Version, RegisterError> {
        check_key(&key)?;
        self.check_value(value.as_ref())?;
        self.version_of(|reply| Event::StoreHere { key, value, version, reply }).await
    }

    /// Bytes of the value of a key as this node's own copy has it, synced or not; `None` if it is no replica of
    /// the key.
    pub fn value_bytes_here(&self, key: &[u8]) -> Option<usize> {
        if !self.config.layout.replicas(key).contains(&self.door.own.from) {
            return None;
        }
        Some(self.keys.read(key).value.map_or(0, |value| value.len()))
    }

    /// About `count` of the keys held here that have a value, from `cursor` on (0 is the beginning), in
    /// the order of their hashes.
    pub fn keys_here(&self, cursor: u64, count: usize) -> KeysHere {
        let page = self.keys.live_keys(cursor, count);
        KeysHere { keys: page.found, next: page.next }
    }

    /// What the clock of this node shows.
    pub async fn clock(&self) -> Version {
        let (reply, shown) = oneshot::channel();
        let is_told = self.clients.send(Event::Clock(reply)).await.is_ok();
        if is_told { shown.await.unwrap_or_default() } else { Version::NONE }
    }

    /// Raises the clock of this node to a version; nothing happens if that is lower.
    ///
    /// # Errors
    /// It is more than 2.5 s ahead of this node's time.
    pub async fn raise_clock(&self, version: Version) -> Result<(), RegisterError> {
        let (reply, raised) = oneshot::channel();
        let told = self.clients.send(Event::RaiseClock { version, reply }).await;
        told.map_err(|_| stopping())?;
        let is_raised = raised.await.map_err(|_| stopping())?;
        if is_raised { Ok(()) } else { Err(RegisterError::BadInput(BadInput::ClockAhead)) }
    }

    /// How it is.
    pub async fn status(&self) -> RegistersStatus {
        let (reply, status) = oneshot::channel();
        let is_told = self.clients.send(Event::Status(reply)).await.is_ok();
        if is_told { status.await.unwrap_or_default() } else { RegistersStatus::default() }
    }

    /// How its replica stands: `ready`, `behind` or `lost` ([`RegistersStatus::standing`]).
    pub fn standing(&self) -> &'static str {
        let shown = self.standing.load(Ordering::Relaxed);
        let all = [Standing::Ready, Standing::Behind, Standing::Lost];
        all.into_iter().find(|standing| *standing as u8 == shown).map_or("", tending::name_of)
    }

    /// Keys held here that have a value.
    pub fn key_count(&self) -> u64 {
        self.keys.live_count()
    }

    /// Whether its replica answers: it is not copying what it lacks, nor waiting for the start of the cluster. At a start it waits a little
    /// for the others, too.
    pub fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    /// Whether it and the ready nodes that it sees are so many that some key has a majority: else operations at QUORUM and ALL fail here.
    pub fn sees_quorum(&self) -> bool {
        self.sees_quorum.load(Ordering::Relaxed)
    }

    /// Serves a connection that began with [`PEER_PREFACE`], until it ends. `came` is what was read
    /// of it, the preface included.
    pub async fn serve_peer(self: Arc<Self>, stream: Stream, came: BytesMut) {
        let mut stopping = self.stop.subscribe();
        let served = self.door.clone().serve(stream, came);
        drop(self);
        tokio::select! {
            served = served => {
                if let Err(error) = served {
                    tracing::debug!(%error, "a peer's connection broke off");
                }
            }
            _ = stopping.wait_for(|stops| *stops) => {}
        }
    }

    /// Waits until the node cannot go on.
    pub async fn wait_fault(&self) -> Fault {
        self.faults.wait().await
    }

    /// Stops: what was acknowledged is on the disk anyhow; operations under way end as unknown.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let Some(Lasting { driver, lock }) = self.running.lock().take() else { return };
        let stopped = async {
            let Ended { mut store, checkpoint, has_failed } =
                driver.await.map_err(std::io::Error::other)?;
            let end = move || {
                if checkpoint.is_some_and(|thread| thread.join().is_err()) {
                    tracing::error!("a checkpoint panicked");
                }
                if !has_failed && let Err(error) = store.clean_at_stop() {
                    let error = crate::fault::chain(&error);
                    tracing::warn!(error, "files may still have what was deleted and forgotten");
                }
                store.syncer.stop();
            };
            tokio::task::spawn_blocking(end).await.map_err(std::io::Error::other)
        };
        if let Err(error) = stopped.await {
            tracing::error!(%error, "the node ended abnormally");
        }
        drop(lock);
    }

    async fn held_of(
        &self,
        event: impl FnOnce(driver::OutcomeSender) -> Event,
    ) -> Result<Held, RegisterError> {
        let read = self.ask(event).await.map_err(|error| match error {
            RegisterError::Unknown { .. } => no_answer(), // nothing that a read does is left open
            error => error,
        });
        match read? {
            Done::Read(held) => Ok(held),
            Done::Written(_) => {
                Err(RegisterError::NotStored("another answer than asked for".into()))
            }
        }
    }

    async fn version_of(
        &self,
        event: impl FnOnce(driver::OutcomeSender) -> Event,
    ) -> Result<Version, RegisterError> {
        match self.ask(event).await? {
            Done::Written(version) => Ok(version),
            // It was sent, and what it came to is not known.
            Done::Read(_) => Err(unknown()),
        }
    }

    async fn ask(
        &self,
        event: impl FnOnce(driver::OutcomeSender) -> Event,
    ) -> Result<Done, RegisterError> {
        let (reply, outcome) = oneshot::channel();
        self.clients.send(event(reply)).await.map_err(|_| stopping())?;
        outcome.await.unwrap_or_else(|_| Err(unknown())) // the node stops in the middle
    }

    fn check_value(&self, value: Option<&Bytes>) -> Result<(), RegisterError> {
        let (bytes, max) = (value.map_or(0, Bytes::len), self.config.value_bytes_max);
        if bytes > max as usize {
            return Err(RegisterError::BadInput(BadInput::Value { bytes, max }));
        }
        Ok(())
    }
}

fn check_key(key: &Bytes) -> Result<(), RegisterError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(RegisterError::BadInput(BadInput::Key { bytes: key.len() }));
    }
    Ok(())
}

fn no_answer() -> RegisterError {
    RegisterError::NotStored("the read got no answer".into())
}

/// A write of which nothing is known.
fn unknown() -> RegisterError {
    RegisterError::Unknown { version: Version::NONE, stored_by: 0, replicas: 0 }
}

fn stopping() -> RegisterError {
    RegisterError::NotStored("this node is stopping".into())
}

/// The time of day of a host.
fn moment_of(host: &Host) -> Moment {
    let shown = u64::try_from(host.clock.wall().as_millis()).unwrap_or(u64::MAX);
    Moment::new(shown.saturating_sub(YEARS_BEFORE_MS))
}

/// What a driver is made of.
struct Making<'a> {
    host: &'a Host,
    config: &'a RegistersConfig,
    pace: Pace,
    faults: Faults,
    own: NodeNumber,
    hello: RegistersHello,
}

impl Making<'_> {
    fn driver(
        self,
        store: Store,
        signals: &mpsc::UnboundedSender<Event>,
        stopping: &watch::Receiver<bool>,
        is_ready: Arc<AtomicBool>,
    ) -> Driver {
        let Making { host, config, pace, faults, own, hello } = self;
        let rules = Rules::default();
        let nodes: Vec<NodeNumber> = config.layout.nodes().iter().map(|node| node.number).collect();
        let numbers = store.kept.numbers.clone();
        let writer = Writer { node: own, losses: numbers.lost.count };
        let mut clock = Clock::open(writer, numbers.ceiling, rules);
        let replica = Replica::open(own, &nodes, numbers, rules);
        clock.observe(replica.time(moment_of(host)), store.highest);
        let mut peers = BTreeMap::new();
        for node in config.layout.nodes().iter().filter(|node| node.number != own) {
            let Some(address) = &node.address else { continue };
            let hello = RegistersHello { to: node.number, ..hello.clone() };
            let dial = Dial { host: host.clone(), address: address.to_string(), hello };
            let link = Link::start(dial, signals.clone(), stopping.clone());
            peers.insert(node.number, Peer::new(node.id.clone(), address.to_string(), link));
        }
        Driver {
            host: host.clone(),
            config: config.clone(),
            pace,
            faults,
            own,
            layout: config.layout.clone(),
            rules,
            replica,
            store,
            clock,
            signals: signals.clone(),
            peers,
            jobs: HashMap::new(),
            awaiting_ceiling: Vec::new(),
            deadlines: VecDeque::new(),
            next_operation: 0,
            local: VecDeque::new(),
            after_sync: VecDeque::new(),
            written: 0,
            synced: 0,
            pulls: HashMap::new(),
            copying: None,
            has_counted: false,
            lacks_since: None,
            saw_sources: false,
            waits_for: String::new(),
            counters: Counters::default(),
            checkpoint: None,
            checkpoint_again: None,
            cancel: Arc::default(),
            has_failed: false,
            started: Instant::now(),
            gossiped_at: None,
            floor_sought_at: None,
            ready_since: None,
            is_ready,
            sees_quorum: Arc::default(),
            ahead_at: None,
            standing: Arc::default(),
        }
    }
}
