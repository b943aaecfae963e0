//! Carries out what a command came to, as one operation for each of its keys.
//!
//! Called by `resp`; calls the registrar.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, StreamExt, stream};

use super::RegisterServer;
use super::commands::{KeyValue, Work};
use crate::command::FailureClass;
use crate::leaderless::clock::Version;
use crate::leaderless::message::Held;
use crate::leaderless::node::{KeysHere, Registers};
use crate::leaderless::operation::Level;
use crate::messages::glob::matches;
use crate::server::ask::REDIS_VERSION;
use crate::server::complaint::Complaint;
use crate::server::value::Value;

/// Operations of one command that are under way at a time.
const OPERATIONS_AT_ONCE: usize = 128;
/// Bytes of the values of one reply.
const REPLY_BYTES_MAX: usize = 64 << 20;
/// Bytes of keys after which a page of SCAN ends, and the keys that are looked at for it at a time.
const SCAN_BYTES_MAX: usize = 1 << 20;
const SCAN_PAGE_COUNT: usize = 16;

/// What is known of values that are not held here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ForeignValues {
    /// One of them is taken to have so many bytes.
    pub(super) bytes: usize,
}

impl ForeignValues {
    /// They are taken to be as large as the last were: at once if those were larger, step by step if smaller.
    pub(super) fn learn(&mut self, largest: Option<usize>) {
        if let Some(largest) = largest {
            self.bytes = largest.max(self.bytes / 2);
        }
    }
}

/// Carries out what a request came to.
pub(super) async fn carry_out(
    server: &RegisterServer,
    at: Level,
    work: Work,
    foreign: ForeignValues,
) -> Value {
    answer(server, at, work, foreign).await.unwrap_or_else(Value::Complaint)
}

async fn answer(
    server: &RegisterServer,
    at: Level,
    work: Work,
    foreign: ForeignValues,
) -> Result<Value, Complaint> {
    let store = &server.registrar;
    Ok(match work {
        Work::Get(key) => value_of(store.read(key, at).await?),
        Work::Length(key) => {
            Value::size(store.read(key, at).await?.value.map_or(0, |value| value.len()))
        }
        Work::Type(key) => {
            Value::Status(store.read(key, at).await?.value.map_or("none", |_| "string"))
        }
        Work::Set(KeyValue { key, value }) => {
            store.write(key, Some(value), at).await?;
            Value::OK
        }
        Work::GetAll(keys) => get_all(server, at, keys, foreign).await?,
        Work::SetAll(pairs) => set_all(server, at, pairs).await?,
        Work::Delete(keys) => delete_all(server, at, keys).await?,
        Work::Exists(keys) => Value::size(exists(server, at, keys, foreign).await?),
        Work::Read(key, level) => {
            let Held { version, value } = store.read(key, level).await?;
            let value = value.map(Value::Bytes);
            Value::Array(std::iter::once(number(version)).chain(value).collect())
        }
        Work::Write { key, value, level } => {
            Value::Array(vec![number(store.write(key, value, level).await?)])
        }
        Work::Scan { cursor, count, pattern } => {
            let found = scan(store.node()?, cursor, count);
            let is_wanted = |key: &Bytes| pattern.as_ref().is_none_or(|it| matches(it, key));
            let keys = found.keys.into_iter().filter(is_wanted).map(Value::Bytes).collect();
            let next = Value::word(&found.next.unwrap_or(0).to_string());
            Value::Array(vec![next, Value::Array(keys)])
        }
        Work::Count => Value::count(store.node()?.key_count()),
        Work::Info => Value::Text(info(server).await),
        Work::Status => {
            let status = serde_json::to_string(&store.status().await);
            Value::word(&status.expect("invariant: a status always has a JSON form"))
        }
        Work::Node => {
            let hash = store.layout().hash_text();
            let (id, standing) = (store.id(), store.standing());
            Value::Array(vec![Value::word(&hash), Value::word(id), Value::word(standing)])
        }
        Work::Slots => slots(server),
    })
}

fn number(version: Version) -> Value {
    Value::word(&version.get().to_string())
}

fn value_of(held: Held) -> Value {
    held.value.map_or(Value::Null, Value::Bytes)
}

/// Keys from a cursor on: as many as are asked for, or as their bytes allow.
fn scan(node: &Registers, cursor: u64, count: usize) -> KeysHere {
    let mut found = KeysHere { keys: Vec::new(), next: Some(cursor) };
    let mut bytes = 0;
    while let Some(from) = found.next
        && found.keys.len() < count
        && bytes < SCAN_BYTES_MAX
    {
        let wanted = SCAN_PAGE_COUNT.min(count);
        let page = node.keys_here(from, wanted);
        let is_short = page.keys.len() < wanted;
        bytes += page.keys.iter().map(Bytes::len).sum::<usize>();
        found.keys.extend(page.keys);
        found.next = page.next;
        if is_short {
            break; // the rest was deletes: the next call goes on from here
        }
    }
    found
}

async fn get_all(
    server: &RegisterServer,
    at: Level,
    keys: Vec<Bytes>,
    foreign: ForeignValues,
) -> Result<Value, Complaint> {
    let (mut values, mut bytes) = (Vec::new(), 0);
    let mut reads = Reads::of(server, at, keys, foreign);
    while let Some(held) = reads.next().await? {
        let value = value_of(held);
        bytes += value.byte_count();
        if bytes > REPLY_BYTES_MAX {
            let text = format!("the values are more than {REPLY_BYTES_MAX} bytes: ask for fewer");
            return Err(Complaint::too_large(text));
        }
        values.push(value);
    }
    Ok(Value::Array(values))
}

async fn exists(
    server: &RegisterServer,
    at: Level,
    keys: Vec<Bytes>,
    foreign: ForeignValues,
) -> Result<usize, Complaint> {
    let mut reads = Reads::of(server, at, keys, foreign);
    let mut count = 0;
    while let Some(held) = reads.next().await? {
        count += usize::from(held.value.is_some());
    }
    Ok(count)
}

/// Reads of the keys of one command, under way together only as far as their values may come to [`REPLY_BYTES_MAX`], by
/// what this node holds of them, and by those before where it holds nothing.
pub(super) struct Reads<'a> {
    server: &'a RegisterServer,
    at: Level,
    keys: std::vec::IntoIter<Bytes>,
    /// The next key, which had to wait, with what its value is taken to come to.
    next: Option<Awaited>,
    pub(super) under_way: FuturesOrdered<BoxFuture<'a, Result<Held, Complaint>>>,
    /// What those under way are taken to come to.
    expected: VecDeque<Expected>,
    foreign: ForeignValues,
}

/// See there.
struct Awaited {
    key: Bytes,
    expected: Expected,
}

/// What a value is taken to come to.
#[derive(Debug, Clone, Copy)]
struct Expected {
    bytes: usize,
    /// The value is not held here.
    is_foreign: bool,
}

impl<'a> Reads<'a> {
    /// Nothing is begun yet.
    pub(super) fn of(
        server: &'a RegisterServer,
        at: Level,
        keys: Vec<Bytes>,
        foreign: ForeignValues,
    ) -> Reads<'a> {
        Reads {
            server,
            at,
            keys: keys.into_iter(),
            next: None,
            under_way: FuturesOrdered::new(),
            expected: VecDeque::new(),
            foreign,
        }
    }

    /// Begins as many as may be under way. One goes alone, however large.
    pub(super) fn begin(&mut self) {
        let mut bytes: usize = self.expected.iter().map(|it| it.bytes).sum();
        while self.under_way.len() < OPERATIONS_AT_ONCE {
            let Some(Awaited { key, expected }) = self.next.take().or_else(|| self.awaited())
            else {
                return;
            };
            bytes = bytes.saturating_add(expected.bytes);
            if bytes > REPLY_BYTES_MAX && !self.under_way.is_empty() {
                self.next = Some(Awaited { key, expected });
                return;
            }
            self.expected.push_back(expected);
            self.under_way.push_back(self.server.registrar.read(key, self.at).boxed());
        }
    }

    fn awaited(&mut self) -> Option<Awaited> {
        let key = self.keys.next()?;
        // One that is absent here may be at others, if this node was away.
        let held = self.server.registrar.value_bytes_here(&key).filter(|bytes| *bytes > 0);
        let expected =
            Expected { bytes: held.unwrap_or(self.foreign.bytes), is_foreign: held.is_none() };
        Some(Awaited { key, expected })
    }

    /// What the next key holds, in the order that was asked for; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Held>, Complaint> {
        self.begin();
        let Some(held) = self.under_way.next().await.transpose()? else { return Ok(None) };
        if self.expected.pop_front().is_some_and(|expected| expected.is_foreign) {
            self.foreign.learn(Some(held.value.as_ref().map_or(0, Bytes::len)));
        }
        Ok(Some(held))
    }
}

async fn set_all(
    server: &RegisterServer,
    at: Level,
    pairs: Vec<KeyValue>,
) -> Result<Value, Complaint> {
    // Of two values of one key the last one counts, as in Redis: together they would race.
    let pairs: BTreeMap<Bytes, Bytes> =
        pairs.into_iter().map(|KeyValue { key, value }| (key, value)).collect();
    let writes = pairs.into_iter().map(|(key, value)| server.registrar.write(key, Some(value), at));
    let written: Vec<_> = stream::iter(writes).buffered(OPERATIONS_AT_ONCE).collect().await;
    all_done(&written)?;
    Ok(Value::OK)
}

async fn delete_all(
    server: &RegisterServer,
    at: Level,
    keys: Vec<Bytes>,
) -> Result<Value, Complaint> {
    let keys: BTreeSet<Bytes> = keys.into_iter().collect(); // a key is deleted, and counted, once
    let deletes = keys.into_iter().map(|key| server.registrar.delete(key, at));
    let deleted: Vec<_> = stream::iter(deletes).buffered(OPERATIONS_AT_ONCE).collect().await;
    all_done(&deleted)?;
    Ok(Value::size(deleted.iter().flatten().filter(|deleted| deleted.had_value).count()))
}

/// Whether all of several writes were done. If some were, or may have been, the class is none of those that
/// clients send again by themselves.
pub(super) fn all_done<T>(outcomes: &[Result<T, Complaint>]) -> Result<(), Complaint> {
    let errors = || outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    let Some(first) = errors().next() else { return Ok(()) };
    let unknown = errors().filter(|error| error.class == FailureClass::Unknown).count();
    let (count, done) = (outcomes.len(), outcomes.len() - errors().count());
    if count == 1 {
        return Err(first.clone());
    }
    let class = if done + unknown > 0 { FailureClass::Unknown } else { first.class };
    let text = format!(
        "of {count} keys {done} are done and {unknown} unknown, each by itself; the first that is not done: {}",
        first.text
    );
    Err(Complaint::new(class, text))
}

/// One range for all hash slots: this node takes every key.
fn slots(server: &RegisterServer) -> Value {
    let node = server.registrar.layout().node(server.registrar.id());
    let address = node.and_then(|node| node.address.clone());
    let host = address.as_ref().map_or_else(String::new, |address| address.host.clone());
    let port = address.map_or(0, |address| i64::from(address.port));
    let id = Value::word(server.registrar.id());
    let place = Value::Array(vec![Value::word(&host), Value::Integer(port), id]);
    Value::Array(vec![Value::Array(vec![Value::Integer(0), Value::Integer(16_383), place])])
}

async fn info(server: &RegisterServer) -> String {
    let status = server.registrar.status().await;
    let uptime_s = server.begun.elapsed().as_secs();
    let up = status.peers.iter().filter(|peer| peer.is_up).count();
    format!(
        "# Server\r\nredis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\nprogram:leaderless\r\n\
         node_id:{}\r\nuptime_in_seconds:{uptime_s}\r\n\r\n# Persistence\r\nloading:0\r\n\r\n\
         # Replication\r\nrole:master\r\nconnected_slaves:0\r\n\r\n# Cluster\r\ncluster_enabled:0\r\n\r\n\
         # Leaderless\r\nstanding:{}\r\nreplica_count:{}\r\npeers:{}\r\npeers_up:{up}\r\n\
         tombstones:{}\r\nclashes:{}\r\n\r\n# Memory\r\nused_memory:{}\r\nmaxmemory:{}\r\n\r\n\
         # Keyspace\r\ndb0:keys={},expires=0,avg_ttl=0\r\n",
        status.id,
        status.standing,
        status.replica_count,
        status.peers.len(),
        status.tombstones,
        status.clashes,
        status.memory_bytes,
        status.memory_bytes_max,
        status.keys,
    )
}
