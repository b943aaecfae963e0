//! A running node of leaderless mode: the door between protocols and the machines.
//!
//! Called by the program and its protocols; calls the machines of this folder, `host` and `storage`. Any
//! node takes any operation: one that is no replica of the key passes it on, once, to one that is.

mod error;
mod status;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

pub use error::{BadInput, RegisterError, RegistersStartError};
pub use status::{PeerStatus, RegistersStatus};

use super::clock::{Clock, Moment, NoVersion, Version, Writer};
use super::layout::Layout;
use super::message::Held;
use super::operation::Level;
use super::rules::Rules;
use crate::config::SyncPolicy;
use crate::fault::{Fault, Faults};
use crate::host::{Host, Stream};

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

/// A running node.
#[derive(Debug)]
pub struct Registers {
    config: RegistersConfig,
    host: Host,
    faults: Faults,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    clock: Clock,
    map: BTreeMap<Bytes, Held>,
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
        let node = config
            .layout
            .node(&config.id)
            .ok_or_else(|| RegistersStartError::NotInLayout { id: config.id.clone() })?;
        let writer = Writer { node: node.number, losses: 0 };
        let mut clock = Clock::open(writer, Moment::default(), Rules::default());
        clock.ceiling_is_durable(Moment::new(u64::MAX));
        let inner = Mutex::new(Inner { clock, map: BTreeMap::new() });
        Ok(Arc::new(Registers { config, host: host.clone(), faults: Faults::new(), inner }))
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
        let _ = level;
        self.check_key(&key)?;
        Ok(self.inner.lock().map.get(&key).cloned().unwrap_or_default())
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
        let _ = level;
        self.store_here(key, value, None).await
    }

    /// What this node's own copy holds of a key, synced. For the original's `Node.Get`.
    ///
    /// # Errors
    /// Bad input.
    pub async fn held(&self, key: Bytes) -> Result<Held, RegisterError> {
        self.check_key(&key)?;
        Ok(self.inner.lock().map.get(&key).cloned().unwrap_or_default())
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
        self.check_key(&key)?;
        self.check_value(value.as_ref())?;
        let mut inner = self.inner.lock();
        let above = inner.map.get(&key).map_or(Version::NONE, |held| held.version);
        let now = Moment::new(self.now_ms());
        let version = match version {
            Some(version) => version,
            None => match inner.clock.propose(now, above) {
                Ok(proposal) => proposal.version,
                Err(NoVersion::Ceiling(_) | NoVersion::Exhausted) => {
                    return Err(RegisterError::NotStored("there is no higher version".into()));
                }
            },
        };
        let held = Held { version, value };
        let known = inner.map.entry(key).or_default();
        if known.yields_to(&held) {
            *known = held;
        }
        Ok(version)
    }

    /// About `count` of the keys held here that have a value, from `cursor` on (0 is the beginning), in
    /// the order of their hashes.
    pub fn keys_here(&self, cursor: u64, count: usize) -> KeysHere {
        let inner = self.inner.lock();
        let live = inner.map.iter().filter(|(_, held)| held.value.is_some());
        let skipped = usize::try_from(cursor).unwrap_or(usize::MAX);
        let keys: Vec<Bytes> =
            live.skip(skipped).take(count.max(1)).map(|(key, _)| key.clone()).collect();
        let next = (keys.len() == count.max(1)).then(|| cursor + keys.len() as u64);
        KeysHere { keys, next }
    }

    /// What the clock of this node shows.
    pub async fn clock(&self) -> Version {
        self.inner.lock().clock.shown(Moment::new(self.now_ms()))
    }

    /// Raises the clock of this node to a version; nothing happens if that is lower.
    ///
    /// # Errors
    /// It is more than 5 s ahead of this node's time.
    pub async fn raise_clock(&self, version: Version) -> Result<(), RegisterError> {
        let now = Moment::new(self.now_ms());
        if version.moment() > now.later(super::clock::SKEW_MS_MAX) {
            return Err(RegisterError::BadInput(BadInput::ClockAhead));
        }
        self.inner.lock().clock.observe(now, version);
        Ok(())
    }

    /// How it is.
    pub async fn status(&self) -> RegistersStatus {
        RegistersStatus::default()
    }

    /// Whether it takes operations: its replica is ready, and so many peers are up that a quorum answers.
    pub fn is_ready(&self) -> bool {
        true
    }

    /// Serves a connection that began with [`PEER_PREFACE`], until it ends. `came` is what was read
    /// of it, the preface included.
    pub async fn serve_peer(self: Arc<Self>, stream: Stream, came: BytesMut) {
        drop((stream, came));
    }

    /// Waits until the node cannot go on.
    pub async fn wait_fault(&self) -> Fault {
        self.faults.wait().await
    }

    /// Stops: what was acknowledged is on the disk anyhow; operations under way end as unknown.
    pub async fn stop(&self) {}

    fn now_ms(&self) -> u64 {
        let shown = u64::try_from(self.host.clock.wall().as_millis()).unwrap_or(u64::MAX);
        shown.saturating_sub(YEARS_BEFORE_MS)
    }

    fn check_key(&self, key: &Bytes) -> Result<(), RegisterError> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(RegisterError::BadInput(BadInput::Key { bytes: key.len() }));
        }
        Ok(())
    }

    fn check_value(&self, value: Option<&Bytes>) -> Result<(), RegisterError> {
        let (bytes, max) = (value.map_or(0, Bytes::len), self.config.value_bytes_max);
        if bytes > max as usize {
            return Err(RegisterError::BadInput(BadInput::Value { bytes, max }));
        }
        Ok(())
    }
}
