//! The commands of RESP that a leaderless node takes: what each request comes to. Pure.
//!
//! Called by `resp`; calls `table`, and `outcomes` carries out what it plans. Every key is a register by itself: a command of several keys is several operations,
//! and what would need an order between operations (a condition, a counter, a transaction) is refused.

use bytes::Bytes;

use super::RegisterServer;
use super::registrar::level;
use super::table::{CONDITIONS, CommandRow, EXPIRY, ORDER, REFUSED, ROWS};
use crate::command::FailureClass;
use crate::leaderless::operation::Level;
use crate::server::ask::REDIS_VERSION;
use crate::server::complaint::Complaint;
use crate::server::resp::{Version as Encoding, parse_integer};
use crate::server::value::Value;

/// Keys of one page of SCAN unless told otherwise, and at most.
const SCAN_COUNT: usize = 10;
const SCAN_COUNT_MAX: usize = 10_000;
/// Most bytes of the name that a client gives itself.
const NAME_BYTES_MAX: usize = 256;

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

    /// Whether it looks at the node's keys as a whole.
    pub(super) fn is_about_all_keys(&self) -> bool {
        matches!(self, Work::Scan { .. } | Work::Count | Work::Info | Work::Status)
    }

    /// Whether its reply has the values of its keys.
    pub(super) fn answers_values(&self) -> bool {
        matches!(self, Work::Get(_) | Work::GetAll(_) | Work::Read(..))
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
        let refused = unknown(&name, arguments);
        // What a client sends in the same breath would be carried out one by one: it hears nothing more here.
        let begins_transaction = name == b"MULTI";
        return if begins_transaction {
            Ok(Planned::Close(Value::Complaint(refused)))
        } else {
            Err(refused)
        };
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
        "DISKSTORE" => diskstore(agreed.level, rest).map(Planned::Work),
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

/// `DISKSTORE STATUS | NODE | READ level key | WRITE level key value | ERASE level key`, where the level may be
/// `default`: that of the connection
fn diskstore(agreed: Level, rest: &[&[u8]]) -> Result<Work, Complaint> {
    let (sub, rest) = rest.split_first().ok_or(Complaint::SYNTAX)?;
    let level = |text: &[u8]| if text == b"default" { Ok(agreed) } else { level(text) };
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
        ("LEVEL", []) => Value::known(agreed.level.word()),
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
