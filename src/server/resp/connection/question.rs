//! Requests that the node answers from what it knows, data apart. Pure.

use std::time::Duration;

use bytes::Bytes;

use super::super::decode::parse_integer;
use super::super::refused::Complaint;
use super::super::table::Verb;
use super::Connection;
use crate::server::keys::decimal;

/// Most slots that one SCAN answers.
const SCAN_COUNT_MAX: usize = 10_000;
/// Slots that one SCAN answers unless it asks for more.
const SCAN_COUNT: usize = 10;
/// Longest wait of WAIT, in milliseconds; 0 in a request stands for it.
const WAIT_MS_MAX: u64 = 3_600_000;

/// What the node is asked, data apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    /// `CLIENT INFO`
    ClientInfo,
    /// `CLIENT LIST`, of these connections; of all if there are none.
    ClientList(Vec<u64>),
    /// `CLIENT LIST TYPE` of a type that no connection here has.
    NoClients,
    /// `CLUSTER INFO`
    ClusterInfo,
    /// `CLUSTER MYID`
    ClusterMyId,
    /// `CLUSTER NODES`
    ClusterNodes,
    /// `CLUSTER SHARDS`
    ClusterShards,
    /// `CLUSTER SLOTS`
    ClusterSlots,
    /// `HELLO`
    Hello,
    /// `INFO`, with the sections in small letters; all if there are none.
    Info(Vec<String>),
    /// `LASTSAVE`
    LastSave,
    /// `RANDOMKEY`
    RandomKey,
    /// `DISKSTORE REMOVE member`
    Remove(String),
    /// `ROLE`
    Role,
    /// `SCAN`
    Scan {
        /// The first slot looked at.
        from: u64,
        /// Most slots answered.
        count: usize,
        /// What the slot's number has to match.
        pattern: Option<Bytes>,
        /// False if values of another type are asked for, of which there are none.
        strings: bool,
    },
    /// `DBSIZE`
    Size,
    /// `DISKSTORE STATUS`
    Status,
    /// `WAITAOF`
    WaitAof {
        /// Whether this node's own disk shall hold the last write.
        own: bool,
        /// Members, the leader apart, that shall.
        members: usize,
        /// How long to wait for them.
        timeout: Duration,
    },
    /// `WAIT`
    Wait {
        /// Members, the leader apart, that shall hold the last write.
        members: usize,
        /// How long to wait for them.
        timeout: Duration,
    },
}

impl Question {
    /// The same as it stands in a transaction, which waits for nobody: WAIT tells how things are.
    pub(super) fn at_once(self) -> Question {
        match self {
            Question::Wait { members, .. } => Question::Wait { members, timeout: Duration::ZERO },
            Question::WaitAof { own, members, .. } => {
                Question::WaitAof { own, members, timeout: Duration::ZERO }
            }
            question => question,
        }
    }
}

impl Connection {
    /// What the node is asked by a request that is neither data nor local.
    pub(super) fn question(&mut self, verb: Verb, rest: &[&[u8]]) -> Result<Question, Complaint> {
        match (verb, rest) {
            (Verb::DbSize, _) => Ok(Question::Size),
            (Verb::RandomKey, _) => Ok(Question::RandomKey),
            (Verb::Diskstore, [sub]) if sub.eq_ignore_ascii_case(b"status") => Ok(Question::Status),
            (Verb::Diskstore, [sub, member]) if sub.eq_ignore_ascii_case(b"remove") => {
                Ok(Question::Remove(String::from_utf8_lossy(member).into_owned()))
            }
            (Verb::Diskstore, [sub, ..]) => Err(diskstore_complaint(sub)),
            (Verb::Role, _) => Ok(Question::Role),
            (Verb::Hello, rest) => self.hello(rest),
            (Verb::Scan, [cursor, options @ ..]) => scan(cursor, options),
            (Verb::Wait, [members, milliseconds]) => wait(members, milliseconds),
            (Verb::WaitAof, [own, members, milliseconds]) => wait_aof(own, members, milliseconds),
            (Verb::LastSave, _) => Ok(Question::LastSave),
            (Verb::Info, sections) => {
                let lower = |name: &&[u8]| String::from_utf8_lossy(name).to_ascii_lowercase();
                Ok(Question::Info(sections.iter().map(lower).collect()))
            }
            (Verb::Client, [sub, ..]) if sub.eq_ignore_ascii_case(b"info") => {
                Ok(Question::ClientInfo)
            }
            (Verb::Client, [_, filter @ ..]) => client_list(filter),
            (Verb::Cluster, [sub, ..]) => match sub.to_ascii_uppercase().as_slice() {
                b"INFO" => Ok(Question::ClusterInfo),
                b"MYID" => Ok(Question::ClusterMyId),
                b"NODES" => Ok(Question::ClusterNodes),
                b"SHARDS" => Ok(Question::ClusterShards),
                b"SLOTS" => Ok(Question::ClusterSlots),
                b"KEYSLOT" => Err(Complaint::arity("cluster|keyslot")),
                _ => Err(Complaint::subcommand("CLUSTER", sub)),
            },
            _ => Err(Complaint::SYNTAX),
        }
    }
}

/// What is wrong with `DISKSTORE sub ...`.
fn diskstore_complaint(sub: &[u8]) -> Complaint {
    match sub.to_ascii_uppercase().as_slice() {
        b"STATUS" => Complaint::arity("diskstore|status"),
        b"REMOVE" => Complaint::arity("diskstore|remove"),
        _ => Complaint::subcommand("DISKSTORE", sub),
    }
}

/// `SCAN cursor [MATCH pattern] [COUNT number] [TYPE name]`; the cursor is the next slot.
fn scan(cursor: &[u8], mut options: &[&[u8]]) -> Result<Question, Complaint> {
    let from = decimal(cursor).ok_or_else(|| Complaint::new("ERR invalid cursor"))?;
    let (mut count, mut pattern, mut strings) = (SCAN_COUNT, None, true);
    while let [option, rest @ ..] = options {
        let [argument, rest @ ..] = rest else { return Err(Complaint::SYNTAX) };
        match option.to_ascii_uppercase().as_slice() {
            b"MATCH" => pattern = Some(Bytes::copy_from_slice(argument)),
            b"COUNT" => {
                let asked = parse_integer(argument).ok_or(Complaint::INTEGER)?;
                let asked = usize::try_from(asked).ok().filter(|asked| *asked > 0);
                count = asked.ok_or(Complaint::SYNTAX)?.min(SCAN_COUNT_MAX);
            }
            b"TYPE" => strings = argument.eq_ignore_ascii_case(b"string"),
            _ => return Err(Complaint::SYNTAX),
        }
        options = rest;
    }
    Ok(Question::Scan { from, count, pattern, strings })
}

/// `CLIENT LIST [TYPE normal | master | replica | pubsub] [ID number...]`: every connection of this
/// port is a normal client's.
fn client_list(filter: &[&[u8]]) -> Result<Question, Complaint> {
    let (mut ids, mut has_normal, mut rest) = (Vec::new(), true, filter);
    while let [option, behind @ ..] = rest {
        match (option.to_ascii_uppercase().as_slice(), behind) {
            (b"TYPE", [kind, behind @ ..]) => {
                has_normal &= match kind.to_ascii_lowercase().as_slice() {
                    b"normal" => true,
                    b"master" | b"replica" | b"slave" | b"pubsub" => false,
                    _ => return Err(Complaint::unknown_client_type(kind)),
                };
                rest = behind;
            }
            (b"ID", [_, ..]) => {
                let numbers = behind.iter().take_while(|text| decimal(text).is_some());
                let count = numbers.count();
                let (numbers, behind) = behind.split_at(count);
                if count == 0 {
                    return Err(Complaint::new("ERR Invalid client ID"));
                }
                ids.extend(numbers.iter().filter_map(|text| decimal(text)));
                rest = behind;
            }
            _ => return Err(Complaint::SYNTAX),
        }
    }
    Ok(if has_normal { Question::ClientList(ids) } else { Question::NoClients })
}

/// `WAITAOF own members milliseconds`
fn wait_aof(own: &[u8], members: &[u8], milliseconds: &[u8]) -> Result<Question, Complaint> {
    let own = match parse_integer(own) {
        Some(0) => false,
        Some(1) => true,
        _ => return Err(Complaint::new("ERR value is out of range, must be between 0 and 1")),
    };
    match wait(members, milliseconds)? {
        Question::Wait { members, timeout } => Ok(Question::WaitAof { own, members, timeout }),
        other => Ok(other),
    }
}

/// `WAIT members milliseconds`
fn wait(members: &[u8], milliseconds: &[u8]) -> Result<Question, Complaint> {
    let members = parse_integer(members).ok_or(Complaint::INTEGER)?;
    let milliseconds = parse_integer(milliseconds)
        .ok_or_else(|| Complaint::new("ERR timeout is not an integer or out of range"))?;
    let milliseconds =
        u64::try_from(milliseconds).map_err(|_| Complaint::new("ERR timeout is negative"))?;
    let milliseconds = if milliseconds == 0 { WAIT_MS_MAX } else { milliseconds.min(WAIT_MS_MAX) };
    let members = usize::try_from(members.max(0)).unwrap_or(usize::MAX);
    Ok(Question::Wait { members, timeout: Duration::from_millis(milliseconds) })
}
