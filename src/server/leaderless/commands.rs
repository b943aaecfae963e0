//! The commands of RESP that a leaderless node takes: what each request comes to, and carrying it out.
//!
//! Called by `resp`. Every key is a register by itself: a command of several keys is several operations,
//! and what would need an order between operations (a condition, a counter, a transaction) is refused.

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::RegisterServer;
use super::coordinator::hash_text;
use super::registrar::{Deleted, level, word_of};
use crate::command::FailureClass;
use crate::leaderless::clock::Version;
use crate::leaderless::message::Held;
use crate::leaderless::node::RegisterError;
use crate::leaderless::operation::Level;
use crate::messages::glob::matches;
use crate::server::ask::REDIS_VERSION;
use crate::server::complaint::Complaint;
use crate::server::resp::{Version as Encoding, parse_integer};
use crate::server::value::Value;

/// Operations of one command that are under way at a time.
const OPERATIONS_AT_ONCE: usize = 128;
/// Keys of one page of SCAN unless told otherwise, and at most.
const SCAN_COUNT: usize = 10;
const SCAN_COUNT_MAX: usize = 10_000;
/// Most bytes of the name that a client gives itself.
const NAME_BYTES_MAX: usize = 256;

/// Why commands of the rows below are refused.
const ORDER: &str = "it needs an order that leaderless mode does not keep; use kvstore";
const EXPIRY: &str = "values do not expire";
const LISTING: &str = "it would answer all keys at once; use SCAN";
const WHOLE: &str = "there is no order in which everything could go; delete the keys";
/// Commands of Redis that are refused, and why.
const REFUSED: [(&str, &[&str]); 4] = [
    (
        ORDER,
        &[
            "SETNX",
            "MSETNX",
            "GETSET",
            "GETDEL",
            "INCR",
            "INCRBY",
            "INCRBYFLOAT",
            "DECR",
            "DECRBY",
            "APPEND",
            "SETRANGE",
            "MULTI",
            "EXEC",
            "DISCARD",
            "WATCH",
            "UNWATCH",
            "EVAL",
            "EVALSHA",
            "RENAME",
            "RENAMENX",
            "COPY",
            "LPUSH",
            "RPUSH",
            "SADD",
            "HSET",
            "ZADD",
            "XADD",
            "PUBLISH",
            "SUBSCRIBE",
            "PSUBSCRIBE",
        ],
    ),
    (EXPIRY, &["EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT", "SETEX", "PSETEX", "GETEX"]),
    (LISTING, &["KEYS"]),
    (WHOLE, &["FLUSHALL", "FLUSHDB"]),
];
/// Options of SET that are conditions, or answer what was there before.
const CONDITIONS: [&str; 7] = ["NX", "XX", "GET", "IFEQ", "IFNE", "IFDEQ", "IFDNE"];

/// A command as COMMAND describes it.
struct CommandRow {
    name: &'static str,
    /// As in Redis: with the name, and negative for "at least".
    arity: i64,
    /// Where its keys are: the first, the last (negative from the end), and every how many.
    keys: [i64; 3],
    writes: bool,
}

const fn row(name: &'static str, arity: i64, keys: [i64; 3]) -> CommandRow {
    CommandRow { name, arity, keys, writes: false }
}

const fn writing(name: &'static str, arity: i64, keys: [i64; 3]) -> CommandRow {
    CommandRow { name, arity, keys, writes: true }
}

const ROWS: [CommandRow; 26] = [
    row("GET", 2, [1, 1, 1]),
    writing("SET", -3, [1, 1, 1]),
    writing("DEL", -2, [1, -1, 1]),
    writing("UNLINK", -2, [1, -1, 1]),
    row("EXISTS", -2, [1, -1, 1]),
    row("STRLEN", 2, [1, 1, 1]),
    row("MGET", -2, [1, -1, 1]),
    writing("MSET", -3, [1, -1, 2]),
    row("SCAN", -2, [0, 0, 0]),
    row("DBSIZE", 1, [0, 0, 0]),
    row("LEVEL", -1, [0, 0, 0]),
    row("DISKSTORE", -2, [0, 0, 0]),
    row("PING", -1, [0, 0, 0]),
    row("ECHO", 2, [0, 0, 0]),
    row("HELLO", -1, [0, 0, 0]),
    row("AUTH", -2, [0, 0, 0]),
    row("SELECT", 2, [0, 0, 0]),
    row("CLIENT", -2, [0, 0, 0]),
    row("COMMAND", -1, [0, 0, 0]),
    row("CONFIG", -2, [0, 0, 0]),
    row("CLUSTER", -2, [0, 0, 0]),
    row("INFO", -1, [0, 0, 0]),
    row("TYPE", 2, [1, 1, 1]),
    row("READONLY", 1, [0, 0, 0]),
    row("RESET", 1, [0, 0, 0]),
    row("QUIT", 1, [0, 0, 0]),
];

/// What a connection has agreed on.
#[derive(Debug, Clone)]
pub(super) struct Agreed {
    /// The level of its operations.
    pub(super) level: Level,
    /// The version of the protocol.
    pub(super) encoding: Encoding,
    /// The number of the connection.
    pub(super) client_id: u64,
    /// What the client calls itself.
    pub(super) name: Bytes,
}

/// A key with what it is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyValue {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
}

/// What the store is asked for.
#[derive(Debug)]
pub(super) enum Work {
    Get(Bytes),
    Length(Bytes),
    Type(Bytes),
    Set(KeyValue),
    GetAll(Vec<Bytes>),
    SetAll(Vec<KeyValue>),
    Delete(Vec<Bytes>),
    Exists(Vec<Bytes>),
    /// With versions: for coordinators, and whoever checks what was promised.
    Read(Bytes, Level),
    Write {
        key: Bytes,
        value: Option<Bytes>,
        level: Level,
    },
    Scan {
        cursor: u64,
        count: usize,
        pattern: Option<Bytes>,
    },
    Count,
    Info,
    Status,
    /// Who this is, for a coordinator: the hash of the layout, the id, how it stands.
    Node,
    Slots,
}

impl Work {
    /// The keys that it reads or writes.
    pub(super) fn keys(&self) -> Vec<&Bytes> {
        match self {
            Work::Get(key)
            | Work::Length(key)
            | Work::Type(key)
            | Work::Read(key, _)
            | Work::Write { key, .. }
            | Work::Set(KeyValue { key, .. }) => vec![key],
            Work::GetAll(keys) | Work::Delete(keys) | Work::Exists(keys) => keys.iter().collect(),
            Work::SetAll(pairs) => pairs.iter().map(|pair| &pair.key).collect(),
            Work::Scan { .. }
            | Work::Count
            | Work::Info
            | Work::Status
            | Work::Node
            | Work::Slots => Vec::new(),
        }
    }

    /// Whether it changes its keys.
    pub(super) fn writes(&self) -> bool {
        matches!(self, Work::Set(_) | Work::SetAll(_) | Work::Delete(_) | Work::Write { .. })
    }
}

/// What a request comes to.
#[derive(Debug)]
pub(super) enum Planned {
    /// It is answered at once, by what the connection has agreed on before.
    Answer(Value),
    /// What follows is answered in another version of the protocol.
    Agree(Encoding),
    /// The connection ends behind this.
    Close(Value),
    /// The store is asked.
    Work(Work),
}

/// What a request comes to.
pub(super) fn plan(
    server: &RegisterServer,
    agreed: &mut Agreed,
    arguments: &[&[u8]],
) -> Result<Planned, Complaint> {
    let (name, rest) = arguments.split_first().ok_or(Complaint::SYNTAX)?;
    let name = name.to_ascii_uppercase();
    let Some(found) = ROWS.iter().find(|row| row.name.as_bytes() == name) else {
        return Err(unknown(&name, arguments));
    };
    let count = i64::try_from(arguments.len()).unwrap_or(i64::MAX);
    if (found.arity > 0 && count != found.arity) || (found.arity < 0 && count < -found.arity) {
        return Err(Complaint::arity(&found.name.to_ascii_lowercase()));
    }
    match found.name {
        "GET" | "SET" | "DEL" | "UNLINK" | "EXISTS" | "STRLEN" | "MGET" | "MSET" | "TYPE" => {
            data(found.name, rest).map(Planned::Work)
        }
        "SCAN" => scan(rest).map(Planned::Work),
        "DBSIZE" => Ok(Planned::Work(Work::Count)),
        "INFO" => Ok(Planned::Work(Work::Info)),
        "DISKSTORE" => diskstore(rest).map(Planned::Work),
        "CLUSTER" => cluster(server, rest),
        "COMMAND" => command(rest).map(Planned::Answer),
        "HELLO" => hello(agreed, rest),
        "QUIT" => Ok(Planned::Close(Value::OK)),
        name => about_connection(name, server, agreed, rest).map(Planned::Answer),
    }
}

fn unknown(name: &[u8], arguments: &[&[u8]]) -> Complaint {
    for (reason, names) in REFUSED {
        if let Some(found) = names.iter().find(|refused| refused.as_bytes() == name) {
            return Complaint::refused(found, reason);
        }
    }
    Complaint::unknown(arguments)
}

/// In memory of its own: what is stored must not keep the buffer that it came in.
fn own(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn all(keys: &[&[u8]]) -> Vec<Bytes> {
    keys.iter().map(|key| own(key)).collect()
}

fn data(name: &'static str, rest: &[&[u8]]) -> Result<Work, Complaint> {
    Ok(match (name, rest) {
        ("GET", [key]) => Work::Get(own(key)),
        ("STRLEN", [key]) => Work::Length(own(key)),
        ("TYPE", [key]) => Work::Type(own(key)),
        ("SET", [key, value]) => Work::Set(KeyValue { key: own(key), value: own(value) }),
        ("SET", [_, _, option, ..]) => return Err(set_option(option)),
        ("MGET", keys) => Work::GetAll(all(keys)),
        ("EXISTS", keys) => Work::Exists(all(keys)),
        ("MSET", pairs) => {
            let (pairs, rest) = pairs.as_chunks::<2>();
            if !rest.is_empty() {
                return Err(Complaint::arity("mset"));
            }
            let pair = |[key, value]: &[&[u8]; 2]| KeyValue { key: own(key), value: own(value) };
            Work::SetAll(pairs.iter().map(pair).collect())
        }
        (_, keys) => Work::Delete(all(keys)),
    })
}

fn set_option(option: &[u8]) -> Complaint {
    let option = option.to_ascii_uppercase();
    if CONDITIONS.iter().any(|condition| condition.as_bytes() == option) {
        return Complaint::refused("SET with a condition, or with GET,", ORDER);
    }
    match option.as_slice() {
        b"EX" | b"PX" | b"EXAT" | b"PXAT" | b"KEEPTTL" => {
            Complaint::refused("SET with an expiry", EXPIRY)
        }
        _ => Complaint::SYNTAX,
    }
}

fn scan(rest: &[&[u8]]) -> Result<Work, Complaint> {
    let (cursor, mut options) = rest.split_first().ok_or(Complaint::SYNTAX)?;
    let cursor = std::str::from_utf8(cursor).ok().and_then(|text| text.parse().ok());
    let cursor = cursor.ok_or(Complaint::wrong_in("invalid cursor"))?;
    let (mut count, mut pattern) = (SCAN_COUNT, None);
    while let [option, value, behind @ ..] = options {
        match option.to_ascii_uppercase().as_slice() {
            b"COUNT" => {
                let number = parse_integer(value).and_then(|number| usize::try_from(number).ok());
                let number = number.filter(|number| *number > 0).ok_or(Complaint::INTEGER)?;
                count = number.min(SCAN_COUNT_MAX);
            }
            b"MATCH" => pattern = Some(own(value)),
            b"TYPE" => {}
            _ => return Err(Complaint::SYNTAX),
        }
        options = behind;
    }
    if options.is_empty() {
        Ok(Work::Scan { cursor, count, pattern })
    } else {
        Err(Complaint::SYNTAX)
    }
}

/// `DISKSTORE STATUS | NODE | READ level key | WRITE level key value | ERASE level key`
fn diskstore(rest: &[&[u8]]) -> Result<Work, Complaint> {
    let (sub, rest) = rest.split_first().ok_or(Complaint::SYNTAX)?;
    Ok(match (sub.to_ascii_uppercase().as_slice(), rest) {
        (b"STATUS", []) => Work::Status,
        (b"NODE", []) => Work::Node,
        (b"READ", [text, key]) => Work::Read(own(key), level(text)?),
        (b"WRITE", [text, key, value]) => {
            Work::Write { key: own(key), value: Some(own(value)), level: level(text)? }
        }
        (b"ERASE", [text, key]) => Work::Write { key: own(key), value: None, level: level(text)? },
        (b"STATUS" | b"NODE" | b"READ" | b"WRITE" | b"ERASE", _) => {
            return Err(Complaint::arity("diskstore"));
        }
        _ => return Err(Complaint::subcommand("DISKSTORE", sub)),
    })
}

fn cluster(server: &RegisterServer, rest: &[&[u8]]) -> Result<Planned, Complaint> {
    let sub = rest.first().copied().unwrap_or_default();
    match sub.to_ascii_uppercase().as_slice() {
        b"SLOTS" => Ok(Planned::Work(Work::Slots)),
        b"INFO" => {
            Ok(Planned::Answer(Value::Text("cluster_enabled:0\r\ncluster_state:ok\r\n".to_owned())))
        }
        b"MYID" => Ok(Planned::Answer(Value::word(server.registrar.id()))),
        _ => Err(Complaint::subcommand("CLUSTER", sub)),
    }
}

fn command(rest: &[&[u8]]) -> Result<Value, Complaint> {
    let described = |row: &CommandRow| {
        let flag = if row.writes { "write" } else { "readonly" };
        let lower = row.name.to_ascii_lowercase();
        let mut fields = vec![Value::word(&lower), Value::Integer(row.arity)];
        fields.push(Value::Set(vec![Value::Status(flag)]));
        fields.extend(row.keys.map(Value::Integer));
        fields.extend((0..4).map(|_| Value::Array(Vec::new())));
        Value::Array(fields)
    };
    let Some((sub, names)) = rest.split_first() else {
        return Ok(Value::Array(ROWS.iter().map(described).collect()));
    };
    match sub.to_ascii_uppercase().as_slice() {
        b"COUNT" => Ok(Value::size(ROWS.len())),
        b"DOCS" => Ok(Value::Map(Vec::new())),
        b"LIST" => Ok(Value::Array(ROWS.iter().map(|row| Value::known(row.name)).collect())),
        b"INFO" => {
            let of = |name: &&[u8]| {
                let found = ROWS.iter().find(|row| row.name.as_bytes().eq_ignore_ascii_case(name));
                found.map_or(Value::NoArray, described)
            };
            Ok(Value::Array(names.iter().map(of).collect()))
        }
        _ => Err(Complaint::subcommand("COMMAND", sub)),
    }
}

/// `HELLO [version [AUTH name token] [SETNAME name]]`
fn hello(agreed: &mut Agreed, rest: &[&[u8]]) -> Result<Planned, Complaint> {
    let Some((version, mut options)) = rest.split_first() else {
        return Ok(Planned::Agree(agreed.encoding));
    };
    let encoding = match parse_integer(version) {
        Some(2) => Encoding::Two,
        Some(3) => Encoding::Three,
        Some(_) => {
            let text = "unsupported protocol version";
            return Err(Complaint::new(FailureClass::ProtocolVersion, text));
        }
        None => return Err(Complaint::wrong("Protocol version is not an integer or out of range")),
    };
    while let [option, behind @ ..] = options {
        options = match (option.to_ascii_uppercase().as_slice(), behind) {
            (b"SETNAME", [name, behind @ ..]) => {
                agreed.name = client_name(name)?;
                behind
            }
            (b"AUTH", [_, _, ..]) => return Err(no_tokens()),
            _ => return Err(Complaint::wrong("Syntax error in HELLO option")),
        };
    }
    Ok(Planned::Agree(encoding))
}

fn no_tokens() -> Complaint {
    Complaint::wrong("AUTH is given, and this node asks for no token")
}

fn client_name(name: &[u8]) -> Result<Bytes, Complaint> {
    if name.len() > NAME_BYTES_MAX || !name.iter().all(u8::is_ascii_graphic) {
        return Err(Complaint::wrong("a client's name is up to 256 visible characters"));
    }
    Ok(own(name))
}

fn about_connection(
    name: &str,
    server: &RegisterServer,
    agreed: &mut Agreed,
    rest: &[&[u8]],
) -> Result<Value, Complaint> {
    Ok(match (name, rest) {
        ("PING", []) => Value::Status("PONG"),
        ("PING" | "ECHO", [text]) => Value::word(text),
        ("LEVEL", []) => Value::known(word_of(agreed.level)),
        ("LEVEL", [text]) => {
            agreed.level = level(text)?;
            Value::OK
        }
        ("SELECT", [b"0"]) | ("READONLY", _) => Value::OK,
        ("SELECT", _) => return Err(Complaint::wrong("DB index is out of range")),
        ("AUTH", _) => return Err(no_tokens()),
        ("RESET", _) => {
            (agreed.level, agreed.name) = (server.level, Bytes::new());
            Value::Status("RESET")
        }
        // Clients that measure ask whether there is a log; what is not known has no value.
        ("CONFIG", [sub, ..]) if sub.eq_ignore_ascii_case(b"get") => Value::Map(Vec::new()),
        ("CONFIG", [sub, ..]) => return Err(Complaint::subcommand("CONFIG", sub)),
        ("CLIENT", [sub, rest @ ..]) => client(agreed, sub, rest)?,
        _ => return Err(Complaint::arity(&name.to_ascii_lowercase())),
    })
}

fn client(agreed: &mut Agreed, sub: &[u8], rest: &[&[u8]]) -> Result<Value, Complaint> {
    Ok(match (sub.to_ascii_uppercase().as_slice(), rest) {
        (b"ID", []) => Value::count(agreed.client_id),
        (b"GETNAME", []) if agreed.name.is_empty() => Value::Null,
        (b"GETNAME", []) => Value::Bytes(agreed.name.clone()),
        (b"SETNAME", [name]) => {
            agreed.name = client_name(name)?;
            Value::OK
        }
        (b"SETINFO", [_, _]) | (b"NO-EVICT" | b"NO-TOUCH", [_]) => Value::OK,
        _ => return Err(Complaint::subcommand("CLIENT", sub)),
    })
}

/// What HELLO answers.
pub(super) fn greeting(server: &RegisterServer, agreed: &Agreed) -> Value {
    Value::Map(vec![
        ("server", Value::known("redis")),
        ("version", Value::known(REDIS_VERSION)),
        ("proto", Value::Integer(i64::from(agreed.encoding.number()))),
        ("id", Value::count(agreed.client_id)),
        ("mode", Value::known("standalone")),
        ("role", Value::known("master")),
        ("node", Value::word(server.registrar.id())),
        ("modules", Value::Array(Vec::new())),
    ])
}

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
