//! The client for programs in Rust: [`Client`]. It knows several nodes of a cluster, and any of them will
//! do, since each forwards to the leader; the client finds the leader to save that way.
//!
//! Called by programs, and by the sub-commands `get`, `set` and `delete`; calls `pipeline`.
//!
//! Invariants:
//! - I1: a write that may have been applied is never sent again.
//! - I2: one connection serves all clones of a client; only one task makes a new one at a time.
//! - I3: a learned address is used only if the node there is of the same cluster, and leads.

mod outcome;
mod pipeline;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

pub use outcome::OperationError;
use outcome::{FailedAttempt, Intent, Remedy};
use pipeline::Pipeline;

use super::answer::{Answer, NoAnswer, encode};
use super::{ADDRESS_COUNT_MAX, Dialling};
use crate::config::Address;
use crate::receipt::WriteReceipt;

/// How long a call is tried, unless [`Client::with_patience`] says otherwise: longer than an election
/// takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Before the second attempt; twice as long before each further one.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// At most so long.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How often it is looked whether another member leads.
const LOOK_PERIOD: Duration = Duration::from_secs(30);

/// Where reads are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadsFrom {
    /// As the nodes were started (`-read`), which is linearizable unless they say otherwise.
    Cluster,
    /// The state of the node that is connected.
    ThisNode,
}

/// A client of one cluster, for any number of tasks at once. Clones share its connection.
///
/// A key is any bytes at a `kvstore`; at a `diskstore` it is the number of a slot in decimal digits, such
/// as `"42"`. A value is as long as the nodes allow (`-value-size`, `-value-max`).
///
/// **Durability.** A write that is answered with `Ok` was synced by a majority of the members before, and
/// every later linearizable read sees it.
///
/// **Failures.** [`OperationError`] tells a write that was certainly not applied from one of which nobody knows.
/// Of its own accord a client repeats what cannot be applied twice by that: reads, requests that have not
/// been sent, and requests that a node has refused for a reason that passes (no leader, too busy, no room
/// for its log, starting), at another node where that helps. A write that was sent and not answered is never
/// repeated. A call gives up after its [patience](Client::with_patience).
///
/// **Order.** Calls that are made at the same time have no order. A call that is made after another one was
/// answered sees what that did. A call whose future is dropped may still be carried out.
///
/// **Bounds.** Requests of up to 16 MiB together are on their way at once, any number of them; others wait
/// for room. An answer takes 65 MiB at most.
///
/// A client has to be used within a runtime of tokio, with time and I/O enabled.
///
/// ```no_run
/// use diskstore::client::{OperationError, Client, Dialling};
///
/// # async fn example() -> Result<(), OperationError> {
/// let nodes = ["10.0.0.1:11000", "10.0.0.2:11000", "10.0.0.3:11000"];
/// let client = Client::connect(nodes, Dialling::default()).await?;
/// client.set("42", "hello").await?;
/// assert_eq!(client.get("42").await?.as_deref(), Some(&b"hello"[..]));
///
/// // Nobody else's write is lost between the read and the write that depends on it.
/// let found = client.get_versioned("42").await?;
/// match client.set_if_version("42", "hello again", found.version).await {
///     Ok(Some(version)) => println!("version {version}"),
///     Ok(None) => println!("somebody was faster"),
///     Err(error) if error.is_not_applied() => println!("nothing has happened: {error}"),
///     Err(error) => println!("read the key to see whether it was written: {error}"),
/// }
///
/// // As many at once as there are tasks: they share one connection.
/// let several = (0..100).map(|slot| {
///     let client = client.clone();
///     tokio::spawn(async move { client.set(slot.to_string(), "x").await })
/// });
/// for task in several.collect::<Vec<_>>() {
///     task.await.expect("it does not panic")?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    cluster: Arc<KnownCluster>,
    patience: Duration,
}

/// A value with its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The value; `None` if the key holds none.
    pub value: Option<Vec<u8>>,
    /// The log index of the write that set or deleted it; 0 if there was none.
    pub version: u64,
}

/// What all clones share.
#[derive(Debug)]
struct KnownCluster {
    nodes: Vec<Address>,
    dialling: Dialling,
    reads: ReadsFrom,
    chosen: Mutex<Chosen>,
    /// Held by whoever makes a connection (I2).
    opening: tokio::sync::Mutex<()>,
}

/// The node that is used.
#[derive(Debug, Default)]
struct Chosen {
    pipeline: Option<Arc<Pipeline>>,
    /// The node that is tried first when a new one is needed.
    next: usize,
    /// When it was last looked whether another member leads.
    looked: Option<Instant>,
}

impl Client {
    /// Connects to a cluster. `nodes` are client ports of some of its members, `host:port` each, 64 at most;
    /// give several, so that one of them will be there.
    ///
    /// # Errors
    /// An address that is none, or no node that serves within 30 s.
    pub async fn connect<S: AsRef<str>>(
        nodes: impl IntoIterator<Item = S>,
        dialling: Dialling,
    ) -> Result<Client, OperationError> {
        let client = Client::new(nodes, dialling)?;
        client.ask(&[b"PING"], Intent::Read).await?;
        Ok(client)
    }

    /// A client that connects when it is first used.
    ///
    /// # Errors
    /// An address that is none, none at all, or more than 64.
    pub fn new<S: AsRef<str>>(
        nodes: impl IntoIterator<Item = S>,
        dialling: Dialling,
    ) -> Result<Client, OperationError> {
        let wrong = |reason: String| OperationError::NotSent { reason };
        let parsed = nodes.into_iter().take(ADDRESS_COUNT_MAX + 1).map(|text| {
            let text = text.as_ref();
            Address::parse(text).map_err(|reason| wrong(format!("`{text}`: {reason}")))
        });
        let nodes = parsed.collect::<Result<Vec<Address>, _>>()?;
        if nodes.is_empty() || nodes.len() > ADDRESS_COUNT_MAX {
            return Err(wrong(format!("give 1 to {ADDRESS_COUNT_MAX} addresses")));
        }
        let cluster = KnownCluster::new(nodes, dialling, ReadsFrom::Cluster);
        Ok(Client { cluster: Arc::new(cluster), patience: PATIENCE })
    }

    /// The same client, whose calls through this value are tried for `patience`, and in any case once at each
    /// node that was given. It does not cut off an attempt that is under way: a node has 20 s to answer.
    #[must_use]
    pub fn with_patience(&self, patience: Duration) -> Client {
        Client { cluster: self.cluster.clone(), patience }
    }

    /// A client with a connection of its own, whose reads are answered by the node that it reaches, without
    /// asking others: values that were committed and synced, and maybe not the newest. The nodes are tried
    /// in their order; after a lost connection another one answers, which may be behind the first.
    #[must_use]
    pub fn local(&self) -> Client {
        let KnownCluster { nodes, dialling, .. } = &*self.cluster;
        let cluster = KnownCluster::new(nodes.clone(), dialling.clone(), ReadsFrom::ThisNode);
        Client { cluster: Arc::new(cluster), patience: self.patience }
    }

    /// Reads the value of a key; `None` if it holds none.
    ///
    /// # Errors
    /// [`OperationError`]; each attempt at a node may have failed in another way, this is the last one.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, OperationError> {
        let Answered { node, answer } = self.ask(&[b"GET", key.as_ref()], Intent::Read).await?;
        value(answer).map_err(|NoAnswer| OperationError::Foreign { node })
    }

    /// Reads the value of a key and its version, for [`Client::set_if_version`].
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Versioned, OperationError> {
        let words = [b"GETVERSION", key.as_ref()];
        let Answered { node, answer } = self.ask(&words, Intent::Read).await?;
        let foreign = OperationError::Foreign { node };
        let Answer::List(parts) = answer else { return Err(foreign) };
        let Ok([found, Answer::Integer(version)]) = <[Answer; 2]>::try_from(parts) else {
            return Err(foreign);
        };
        match (value(found), u64::try_from(version)) {
            (Ok(value), Ok(version)) => Ok(Versioned { value, version }),
            _ => Err(foreign),
        }
    }

    /// Reads the values of up to 4,096 keys, as they are at one moment, in the order of the keys.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
    ) -> Result<Vec<Option<Vec<u8>>>, OperationError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let words: Vec<&[u8]> =
            [&b"MGET"[..]].into_iter().chain(keys.iter().map(AsRef::as_ref)).collect();
        let Answered { node, answer } = self.ask(&words, Intent::Read).await?;
        let Answer::List(parts) = answer else { return Err(OperationError::Foreign { node }) };
        let values = parts.into_iter().map(value).collect::<Result<Vec<_>, _>>();
        values
            .ok()
            .filter(|values| values.len() == keys.len())
            .ok_or(OperationError::Foreign { node })
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// [`OperationError`]: [`OperationError::is_not_applied`] tells whether it may be repeated.
    pub async fn set(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<(), OperationError> {
        let words = [b"SET", key.as_ref(), value.as_ref()];
        self.ask(&words, Intent::Write).await?.done()
    }

    /// Sets the value of a key, and answers with the receipt: where its entry is in the log, which members the
    /// leader knows to hold it durably, and where its time went. A write with a receipt takes a question to
    /// the leader more, and may be answered up to 0.1 s later; 1.1 s where the leader does not answer.
    ///
    /// # Errors
    /// As [`Client::set`].
    pub async fn set_with_receipt(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<WriteReceipt, OperationError> {
        let words = [b"DISKSTORE", &b"RECEIPT"[..], b"SET", key.as_ref(), value.as_ref()];
        let Answered { node, answer } = self.ask(&words, Intent::Write).await?;
        let foreign = OperationError::Foreign { node };
        let Answer::List(parts) = answer else { return Err(foreign) };
        let Ok([Answer::Value(json), Answer::Status(_)]) = <[Answer; 2]>::try_from(parts) else {
            return Err(foreign);
        };
        WriteReceipt::from_json(&json).map_err(|_| foreign)
    }

    /// Sets the values of up to 4,096 keys at one moment: nobody sees a part of them, and after a failure
    /// either all of them were set or none. A command takes 8 MiB at most.
    ///
    /// # Errors
    /// As [`Client::set`].
    pub async fn set_many<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        pairs: &[(K, V)],
    ) -> Result<(), OperationError> {
        if pairs.is_empty() {
            return Ok(());
        }
        let words = pairs.iter().flat_map(|(key, value)| [key.as_ref(), value.as_ref()]);
        let words: Vec<&[u8]> = [&b"MSET"[..]].into_iter().chain(words).collect();
        self.ask(&words, Intent::Write).await?.done()
    }

    /// Sets the value of a key if its version is the given one, 0 if it was never written; its new version,
    /// or `None` if its version is another.
    ///
    /// # Errors
    /// As [`Client::set`]. After an outcome that is unknown, a read tells more only if no other client has
    /// written the key since.
    pub async fn set_if_version(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        version: u64,
    ) -> Result<Option<u64>, OperationError> {
        let version = version.to_string();
        let condition = [&b"VERSION"[..], b"IFVERSION", version.as_bytes()];
        let words = [&[b"SET", key.as_ref(), value.as_ref()][..], &condition].concat();
        let Answered { node, answer } = self.ask(&words, Intent::Write).await?;
        let version = match answer {
            Answer::Nothing => return Ok(None),
            Answer::Integer(version) => u64::try_from(version).ok(),
            _ => None,
        };
        version.map(Some).ok_or(OperationError::Foreign { node })
    }

    /// Deletes the value of a key; whether there was one.
    ///
    /// # Errors
    /// As [`Client::set`].
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, OperationError> {
        self.ask(&[b"DEL", key.as_ref()], Intent::Write).await?.has_deleted()
    }

    /// Deletes the value of a key if its version is the given one; whether it did.
    ///
    /// # Errors
    /// As [`Client::set_if_version`].
    pub async fn delete_if_version(
        &self,
        key: impl AsRef<[u8]>,
        version: u64,
    ) -> Result<bool, OperationError> {
        let version = version.to_string();
        let words = [b"DELIFVERSION", key.as_ref(), version.as_bytes()];
        self.ask(&words, Intent::Write).await?.has_deleted()
    }

    /// Asks nodes until one answers, or nothing more may be tried (I1); who answered, and what.
    async fn ask(&self, words: &[&[u8]], intent: Intent) -> Result<Answered, OperationError> {
        let request = Bytes::from(encode(words.iter().copied()));
        let deadline = Instant::now() + self.patience;
        let (mut pause, mut attempts) = (PAUSE_MIN, 1);
        loop {
            let FailedAttempt { error, remedy } = match self.attempt(&request, intent).await {
                Ok(answered) => return Ok(answered),
                Err(attempt) => attempt,
            };
            let is_over = Instant::now() + pause > deadline;
            let may_go_on = remedy == Remedy::Elsewhere && attempts < self.cluster.nodes.len();
            if remedy == Remedy::None || is_over && !may_go_on {
                return Err(error);
            }
            if !is_over {
                sleep(pause).await;
            }
            (pause, attempts) = ((pause * 2).min(PAUSE_MAX), attempts + 1);
        }
    }

    async fn attempt(&self, request: &Bytes, intent: Intent) -> Result<Answered, FailedAttempt> {
        let pipeline = self.cluster.pipeline().await?;
        let answered = pipeline.call(request.clone(), intent).await;
        match &answered {
            Ok(_) => self.cluster.look_for_the_leader(&pipeline),
            Err(FailedAttempt { remedy: Remedy::Elsewhere, .. }) => self.cluster.give_up(&pipeline),
            Err(_) => {}
        }
        answered.map(|answer| Answered { node: pipeline.node().to_string(), answer })
    }
}

impl KnownCluster {
    fn new(nodes: Vec<Address>, dialling: Dialling, reads: ReadsFrom) -> KnownCluster {
        let (chosen, opening) = (Mutex::default(), tokio::sync::Mutex::default());
        KnownCluster { nodes, dialling, reads, chosen, opening }
    }

    fn open_pipeline(&self) -> Option<Arc<Pipeline>> {
        self.chosen.lock().pipeline.clone().filter(|pipeline| pipeline.is_open())
    }

    /// The connection that is used; a new one, to the first node that serves, if there is none.
    async fn pipeline(&self) -> Result<Arc<Pipeline>, FailedAttempt> {
        if let Some(open) = self.open_pipeline() {
            return Ok(open);
        }
        let _opening = self.opening.lock().await; // I2
        if let Some(open) = self.open_pipeline() {
            return Ok(open);
        }
        let first = self.chosen.lock().next;
        let (later, sooner) = self.nodes.split_at(first.min(self.nodes.len()));
        let mut tried = Vec::new();
        for node in sooner.iter().chain(later) {
            match Pipeline::open(node, &self.dialling, self.reads).await {
                Ok(pipeline) => {
                    let (pipeline, looked) = (Arc::new(pipeline), None);
                    let next = (first + tried.len()) % self.nodes.len();
                    *self.chosen.lock() = Chosen { pipeline: Some(pipeline.clone()), next, looked };
                    return Ok(pipeline);
                }
                Err(attempt) if attempt.remedy == Remedy::None => return Err(attempt),
                Err(attempt) => tried.push(attempt.error),
            }
        }
        let reasons: Vec<String> = tried.iter().map(OperationError::reason).collect();
        let joined = OperationError::NotSent { reason: reasons.join("; ") };
        let error = tried.pop().filter(|_| tried.is_empty()).unwrap_or(joined);
        Err(FailedAttempt { error, remedy: Remedy::Later }) // all of them were asked
    }

    /// Has the next call use another node.
    fn give_up(&self, pipeline: &Arc<Pipeline>) {
        let mut chosen = self.chosen.lock();
        if chosen.pipeline.take_if(|current| Arc::ptr_eq(current, pipeline)).is_some() {
            chosen.next = (chosen.next + 1) % self.nodes.len();
        }
    }

    /// Looks, now and then and beside the calls, whether another member leads, and has the next calls use
    /// that one.
    fn look_for_the_leader(self: &Arc<KnownCluster>, pipeline: &Arc<Pipeline>) {
        let mut chosen = self.chosen.lock();
        let is_fresh = chosen.looked.is_some_and(|looked| looked.elapsed() < LOOK_PERIOD);
        if is_fresh || self.reads == ReadsFrom::ThisNode {
            return;
        }
        chosen.looked = Some(Instant::now());
        drop(chosen);
        let (cluster, pipeline) = (self.clone(), pipeline.clone());
        tokio::spawn(async move {
            let Some(leader) = cluster.leader(&pipeline).await else { return };
            let mut chosen = cluster.chosen.lock();
            if chosen.pipeline.as_ref().is_some_and(|current| Arc::ptr_eq(current, &pipeline)) {
                chosen.pipeline = Some(Arc::new(leader));
            }
        });
    }

    /// A connection to the leader, if another member than the one at hand leads (I3).
    async fn leader(&self, pipeline: &Pipeline) -> Option<Pipeline> {
        let here = pipeline.status().await?;
        let name = here.leader.filter(|_| here.role != "leader")?;
        let member = here.members.iter().find(|member| member.name == name)?;
        let address = Address::parse(&member.client).ok()?;
        let there = Pipeline::open(&address, &self.dialling, self.reads).await.ok()?;
        let status = there.status().await?;
        (status.cluster_id == here.cluster_id && status.role == "leader").then_some(there)
    }
}

/// The answer of a read: a value, or none.
fn value(answer: Answer) -> Result<Option<Vec<u8>>, NoAnswer> {
    match answer {
        Answer::Value(value) => Ok(Some(value)),
        Answer::Nothing => Ok(None),
        _ => Err(NoAnswer),
    }
}

/// An answer, and who gave it.
struct Answered {
    node: String,
    answer: Answer,
}

impl Answered {
    /// Of a write that always takes effect.
    fn done(self) -> Result<(), OperationError> {
        match self.answer {
            Answer::Status(_) => Ok(()),
            _ => Err(OperationError::Foreign { node: self.node }),
        }
    }

    /// Of a delete: whether it deleted a value.
    fn has_deleted(self) -> Result<bool, OperationError> {
        match self.answer {
            Answer::Integer(count @ (0 | 1)) => Ok(count == 1),
            _ => Err(OperationError::Foreign { node: self.node }),
        }
    }
}
