//! Carries out what a command came to, as one operation for each of its keys.
//!
//! Called by `resp`; calls the registrar.

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::RegisterServer;
use super::commands::{KeyValue, Work};
use super::coordinator::hash_text;
use super::registrar::Deleted;
use crate::command::FailureClass;
use crate::leaderless::clock::Version;
use crate::leaderless::message::Held;
use crate::leaderless::node::RegisterError;
use crate::leaderless::operation::Level;
use crate::messages::glob::matches;
use crate::server::ask::REDIS_VERSION;
use crate::server::complaint::Complaint;
use crate::server::value::Value;

/// Operations of one command that are under way at a time.
const OPERATIONS_AT_ONCE: usize = 128;

/// Carries out what a request came to.
pub(super) async fn carry_out(server: &RegisterServer, at: Level, work: Work) -> Value {
    answer(server, at, work).await.unwrap_or_else(Value::Complaint)
}

async fn answer(server: &RegisterServer, at: Level, work: Work) -> Result<Value, Complaint> {
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
        Work::GetAll(keys) => get_all(server, at, keys).await?,
        Work::SetAll(pairs) => set_all(server, at, pairs).await?,
        Work::Delete(keys) => delete_all(server, at, keys).await?,
        Work::Exists(keys) => {
            let Value::Array(found) = get_all(server, at, keys).await? else {
                return Ok(Value::Null);
            };
            Value::size(found.iter().filter(|value| **value != Value::Null).count())
        }
        Work::Read(key, level) => {
            let Held { version, value } = store.read(key, level).await?;
            let value = value.map(Value::Bytes);
            Value::Array(std::iter::once(number(version)).chain(value).collect())
        }
        Work::Write { key, value, level } => {
            Value::Array(vec![number(store.write(key, value, level).await?)])
        }
        Work::Scan { cursor, count, pattern } => {
            let page = store.node()?.keys_here(cursor, count);
            let is_wanted = |key: &Bytes| pattern.as_ref().is_none_or(|it| matches(it, key));
            let keys = page.keys.into_iter().filter(is_wanted).map(Value::Bytes).collect();
            let next = Value::word(&page.next.unwrap_or(0).to_string());
            Value::Array(vec![next, Value::Array(keys)])
        }
        Work::Count => Value::count(store.node()?.status().await.keys),
        Work::Info => Value::Text(info(server).await),
        Work::Status => {
            let status = serde_json::to_string(&store.status().await);
            Value::word(&status.expect("invariant: a status always has a JSON form"))
        }
        Work::Node => {
            let hash = hash_text(store.layout());
            let standing = store.status().await.standing;
            Value::Array(vec![Value::word(&hash), Value::word(store.id()), Value::word(&standing)])
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

async fn get_all(server: &RegisterServer, at: Level, keys: Vec<Bytes>) -> Result<Value, Complaint> {
    let reads = keys.into_iter().map(|key| server.registrar.read(key, at));
    let mut under_way = stream::iter(reads).buffered(OPERATIONS_AT_ONCE);
    let mut values = Vec::new();
    while let Some(held) = under_way.next().await {
        values.push(value_of(held?));
    }
    Ok(Value::Array(values))
}

async fn set_all(
    server: &RegisterServer,
    at: Level,
    pairs: Vec<KeyValue>,
) -> Result<Value, Complaint> {
    let count = pairs.len();
    let writes = pairs
        .into_iter()
        .map(|KeyValue { key, value }| server.registrar.write(key, Some(value), at));
    let written: Vec<_> = stream::iter(writes).buffered(OPERATIONS_AT_ONCE).collect().await;
    let done = written.iter().filter(|outcome| outcome.is_ok()).count();
    match written.into_iter().find_map(Result::err) {
        None => Ok(Value::OK),
        Some(error) => Err(partly(error, done, count)),
    }
}

async fn delete_all(
    server: &RegisterServer,
    at: Level,
    keys: Vec<Bytes>,
) -> Result<Value, Complaint> {
    let count = keys.len();
    let deletes = keys.into_iter().map(|key| server.registrar.delete(key, at));
    let deleted: Vec<_> = stream::iter(deletes).buffered(OPERATIONS_AT_ONCE).collect().await;
    let done = deleted.iter().filter(|outcome| outcome.is_ok()).count();
    let had =
        |outcome: &Result<Deleted, RegisterError>| outcome.as_ref().is_ok_and(|it| it.had_value);
    let had_value = deleted.iter().filter(|outcome| had(outcome)).count();
    match deleted.into_iter().find_map(Result::err) {
        None => Ok(Value::size(had_value)),
        Some(error) => Err(partly(error, done, count)),
    }
}

/// Of several operations so many were done, and this became of another one: what clients would send again
/// by themselves is no word for that.
fn partly(error: RegisterError, done: usize, count: usize) -> Complaint {
    let Complaint { class, text } = Complaint::from(error);
    if count == 1 {
        return Complaint { class, text };
    }
    let class = if done == 0 { class } else { FailureClass::Unknown };
    Complaint::new(
        class,
        format!("{done} of {count} keys are done, each by itself; another: {text}"),
    )
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
