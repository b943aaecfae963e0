//! A coordinator that holds no keys: each operation goes to a replica of its key, which runs it.
//!
//! Called by the program, and by the protocols through `registrar`; calls `link`. Invariants:
//!
//! - I1: an operation is passed on once. Only what was certainly not sent, and reads, are tried at the next
//!   replica.
//! - I2: a write that was sent and not answered is unknown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::link::{Link, LinkError, LinkState, LinkTerms, request};
use crate::command::FailureClass;
use crate::host::Net;
use crate::leaderless::clock::{NodeNumber, Version};
use crate::leaderless::file::{CoordinatorFile, Discovery, VALUE_BYTES_MAX};
use crate::leaderless::layout::Layout;
use crate::leaderless::message::Held;
use crate::leaderless::node::{
    BadInput, KEY_BYTES_MAX, PeerStatus, RegisterError, RegistersStatus,
};
use crate::leaderless::operation::Level;
use crate::server::complaint::Complaint;

/// How a coordinator stands.
pub(super) const COORDINATOR: &str = "coordinator";
/// What is said of an answer that is none.
const FOREIGN: &str = "a node answers with something else than expected";
/// Bytes of a request beside its key and its value.
const SPARE_BYTES: usize = 4 << 10;
/// Most addresses of a domain that are looked at.
const FOUND_COUNT_MAX: usize = 64;
/// How long one of them may take to say who it is.
const LOOK_TIME_MAX: Duration = Duration::from_secs(2);

/// A coordinator. Its connections end with it.
#[derive(Debug)]
pub struct Coordinator {
    layout: Layout,
    /// In the order of the layout's nodes.
    links: Vec<Link>,
    begun: Instant,
    _discovery: JoinSet<()>,
}

impl Coordinator {
    /// Begins to connect to all nodes of the file.
    pub fn begin(net: &Net, file: &CoordinatorFile) -> Arc<Coordinator> {
        let layout = file.layout.clone();
        let layout_hash = layout.hash_text();
        let bytes_max = VALUE_BYTES_MAX as usize + KEY_BYTES_MAX + SPARE_BYTES;
        let mut places = Vec::new();
        let links = layout.nodes().iter().map(|node| {
            let address = node.address.as_ref().map(ToString::to_string);
            let is_sought = address.is_none();
            let (sender, receiver) = watch::channel(address);
            let (net, id, layout_hash) = (net.clone(), node.id.clone(), layout_hash.clone());
            let terms = LinkTerms { net, id: id.clone(), layout_hash, bytes_max };
            let link = Link::begin(&terms, &receiver);
            if is_sought {
                places.push(Sought { id, address: sender });
            }
            link
        });
        let links = links.collect();
        let mut discovery = JoinSet::new();
        if let Some(found) = file.discovery.clone().filter(|_| !places.is_empty()) {
            discovery.spawn(discover(net.clone(), found, places));
        }
        Arc::new(Coordinator { layout, links, begun: Instant::now(), _discovery: discovery })
    }

    /// The nodes that it knows.
    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) async fn read(&self, key: Bytes, level: Level) -> Result<Held, Complaint> {
        check(&key, 0)?;
        let words: [&[u8]; 4] = [b"DISKSTORE", b"READ", level.word().as_bytes(), &key];
        let mut last = None;
        for link in self.links_of(&key) {
            match link.call(request(words)).await {
                Ok(parts) => return held(&parts).ok_or_else(|| unavailable(FOREIGN)),
                Err(LinkError::Refused { code, words }) => return Err(refused(&code, words)),
                Err(LinkError::NotSent(words) | LinkError::Lost(words)) => last = Some(words), // I1
            }
        }
        Err(unreachable_replicas(last))
    }

    pub(super) async fn write(
        &self,
        key: Bytes,
        value: Option<Bytes>,
        level: Level,
    ) -> Result<Version, Complaint> {
        check(&key, value.as_ref().map_or(0, Bytes::len))?;
        let level = level.word().as_bytes();
        let bytes = match &value {
            Some(value) => request([b"DISKSTORE".as_slice(), b"WRITE", level, &key, value]),
            None => request([b"DISKSTORE".as_slice(), b"ERASE", level, &key]),
        };
        let mut last = None;
        for link in self.links_of(&key) {
            match link.call(bytes.clone()).await {
                Ok(parts) => return version(parts.first()).ok_or_else(|| unknown(FOREIGN)), // I2
                Err(LinkError::Refused { code, words }) => return Err(refused(&code, words)),
                Err(LinkError::NotSent(words)) => last = Some(words), // I1
                Err(LinkError::Lost(words)) => return Err(unknown(&words)), // I2
            }
        }
        Err(unreachable_replicas(last))
    }

    /// The replicas of a key, those first that are connected.
    fn links_of(&self, key: &Bytes) -> impl Iterator<Item = &Link> {
        let mut numbers = self.layout.replicas(key);
        numbers.sort_by_cached_key(|number| !self.link(*number).is_open()); // stable
        numbers.into_iter().map(|number| self.link(number))
    }

    fn link(&self, number: NodeNumber) -> &Link {
        let nodes = self.layout.nodes().iter();
        let at = nodes.zip(&self.links).find(|(node, _)| node.number == number);
        at.expect("invariant: there is a link to each node of the layout").1
    }

    /// Ready once a majority of the nodes is connected.
    pub(super) fn is_ready(&self) -> bool {
        let open = self.links.iter().filter(|link| link.is_open()).count();
        2 * open > self.links.len()
    }

    pub(super) fn status(&self) -> RegistersStatus {
        let peers = self.layout.nodes().iter().zip(&self.links).map(|(node, link)| {
            let LinkState { open, complaint, standing } = link.state();
            PeerStatus {
                id: node.id.clone(),
                number: node.number.get(),
                address: node.address.as_ref().map_or_else(String::new, ToString::to_string),
                is_up: open > 0,
                standing,
                complaint,
                ..PeerStatus::default()
            }
        });
        let waits_for = if self.is_ready() { "" } else { "connections to a majority of the nodes" };
        RegistersStatus {
            standing: COORDINATOR.to_owned(),
            waits_for: waits_for.to_owned(),
            sees_quorum: self.is_ready(),
            epoch: self.layout.epoch(),
            layout_hash: self.layout.hash_text(),
            replica_count: self.layout.replica_count(),
            uptime_ms: u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            peers: peers.collect(),
            ..RegistersStatus::default()
        }
    }
}

fn check(key: &Bytes, value_bytes: usize) -> Result<(), Complaint> {
    let bytes_max = VALUE_BYTES_MAX;
    let wrong = if key.is_empty() || key.len() > KEY_BYTES_MAX {
        BadInput::Key { bytes: key.len() }
    } else if value_bytes > bytes_max as usize {
        BadInput::Value { bytes: value_bytes, max: bytes_max }
    } else {
        return Ok(());
    };
    Err(RegisterError::BadInput(wrong).into())
}

fn unavailable(words: &str) -> Complaint {
    Complaint::new(FailureClass::Unavailable, words.to_owned())
}

fn unknown(words: &str) -> Complaint {
    let words = format!("unknown: the write was sent to a replica, and then: {words}");
    Complaint::new(FailureClass::Unknown, words)
}

fn unreachable_replicas(last: Option<String>) -> Complaint {
    let why = last.unwrap_or_default();
    unavailable(&format!("no replica of the key can be reached: {why}"))
}

fn version(part: Option<&Bytes>) -> Option<Version> {
    let text = std::str::from_utf8(part?).ok()?;
    text.parse().ok().map(Version::from_number)
}

fn held(parts: &[Bytes]) -> Option<Held> {
    Some(Held { version: version(parts.first())?, value: parts.get(1).cloned() })
}

/// What a node's error says: its own class, so that clients send again only what that class allows.
fn refused(code: &str, words: String) -> Complaint {
    let class = match code {
        "UNKNOWN" => FailureClass::Unknown,
        "BUSY" | "OOM" | "NO_SPACE" => FailureClass::Busy,
        "CLUSTERDOWN" => FailureClass::Unavailable,
        _ => FailureClass::Wrong,
    };
    Complaint::new(class, words)
}

/// A node whose address DNS knows.
struct Sought {
    id: String,
    address: watch::Sender<Option<String>>,
}

/// Looks for nodes in DNS, and asks each of them who it is.
async fn discover(net: Net, discovery: Discovery, places: Vec<Sought>) {
    let Discovery { domain, port, interval } = discovery;
    loop {
        match tokio::net::lookup_host((domain.as_str(), port)).await {
            Ok(found) => {
                for address in found.take(FOUND_COUNT_MAX) {
                    if let Ok(Some(id)) = timeout(LOOK_TIME_MAX, id_at(&net, address)).await {
                        note(&places, &id, &address.to_string());
                    }
                }
            }
            Err(error) => tracing::warn!(domain, %error, "DNS does not answer"),
        }
        sleep(interval).await;
    }
}

fn note(places: &[Sought], id: &str, address: &str) {
    let Some(place) = places.iter().find(|place| place.id == id) else { return };
    place.address.send_if_modified(|known| {
        let is_new = known.as_deref() != Some(address);
        if is_new {
            tracing::info!(id, address, "found a node");
            *known = Some(address.to_owned());
        }
        is_new
    });
}

/// Which node is at an address.
async fn id_at(net: &Net, address: SocketAddr) -> Option<String> {
    super::link::id_at(net, &address.to_string()).await.ok()
}
