//! Commands that ask about the node itself or about all its keys. Pure: each becomes a question.

use std::time::Duration;

use bytes::Bytes;

use super::super::connection::{Connection, Step};
use super::super::table::{ADMIN, KEYSPACE_LISTING, KEYSPACE_READ, SLOW, Spec, TELLING};
use super::connection::present;
use super::{exactly, integer};
use crate::server::access::{Credentials, RequestKind};
use crate::server::ask::{Order, Question};
use crate::server::complaint::Complaint;
use crate::server::hash_slot;
use crate::server::keys::decimal;
use crate::server::requester::join_token_time;
use crate::server::value::Value;

/// Most slots that one SCAN answers.
const SCAN_COUNT_MAX: usize = 10_000;
/// Slots that one SCAN answers unless it asks for more.
const SCAN_COUNT: usize = 10;
/// Longest wait of WAIT, in milliseconds; 0 in a request stands for it.
const WAIT_MS_MAX: u64 = 3_600_000;

#[rustfmt::skip]
pub(super) const ROWS: &[Spec] = &[
    Spec::other("cluster", -2, cluster, "Describes the members.").of(SLOW),
    Spec::other("dbsize", 1, db_size, "Counts the keys that hold a value.").of(KEYSPACE_READ).kind(RequestKind::Read).by_stores(),
    Spec::other("diskstore", -2, diskstore, "Presents a token; answers this node's status (role `read`); carries a write out once, however often it is sent, or answers with its receipt (role `write`); tells its flags, changes members and who leads, makes join tokens and more slots, and writes a checkpoint (role `admin`).").of(ADMIN).kind(RequestKind::Open).forbidding(diskstore_alone),
    Spec::other("info", -1, info, "Describes this node.").of(TELLING),
    Spec::other("lastsave", 1, last_save, "Answers when a checkpoint was last written.").of(ADMIN),
    Spec::other("randomkey", 1, random_key, "Answers a key that holds a value.").of(KEYSPACE_LISTING).kind(RequestKind::Read).by_stores(),
    Spec::other("role", 1, role, "Answers the role of this node.").of(TELLING),
    Spec::other("scan", -2, scan, "Lists keys that hold a value, step by step.").of(KEYSPACE_LISTING).kind(RequestKind::Read).by_stores(),
    Spec::other("time", 1, time, "Answers the time of this node.").of(SLOW),
    Spec::other("wait", 3, wait, "Waits until other members hold the last write durably.").of(SLOW),
    Spec::other("waitaof", 4, wait_aof, "Waits as WAIT does, for this node's disk too.").of(SLOW),
];

/// `DBSIZE`
fn db_size(_: &mut Connection, _: &[&[u8]]) -> Result<Step, Complaint> {
    Ok(Step::Ask(Question::Size))
}

/// `RANDOMKEY`
fn random_key(_: &mut Connection, _: &[&[u8]]) -> Result<Step, Complaint> {
    Ok(Step::Ask(Question::RandomKey))
}

/// `ROLE`
fn role(_: &mut Connection, _: &[&[u8]]) -> Result<Step, Complaint> {
    Ok(Step::Ask(Question::Role))
}

/// `LASTSAVE`
fn last_save(_: &mut Connection, _: &[&[u8]]) -> Result<Step, Complaint> {
    Ok(Step::Ask(Question::LastSave))
}

/// `TIME`
fn time(_: &mut Connection, _: &[&[u8]]) -> Result<Step, Complaint> {
    Ok(Step::Ask(Question::Time))
}

/// `INFO [section...]`
fn info(_: &mut Connection, sections: &[&[u8]]) -> Result<Step, Complaint> {
    let lower = |name: &&[u8]| String::from_utf8_lossy(name).to_ascii_lowercase();
    Ok(Step::Ask(Question::Info(sections.iter().map(lower).collect())))
}

/// `DISKSTORE STATUS | CONFIG | CHECKPOINT | REMOVE m | PROMOTE m | DEMOTE m | REPLACE old new | LEAD
/// [m] | INVITE seconds | UNINVITE | RESIZE slots`, `DISKSTORE ONCE id command argument...`, `DISKSTORE RECEIPT [ONCE id] command argument...`, and `DISKSTORE AUTH token`, which is `AUTH token` to a node that has no room for more clients: it
/// serves those who begin with the name of this command.
fn diskstore(connection: &mut Connection, arguments: &[&[u8]]) -> Result<Step, Complaint> {
    let (sub, rest) = arguments.split_first().ok_or(Complaint::SYNTAX)?;
    let name = |who: &[u8]| String::from_utf8_lossy(who).into_owned();
    let order = |order| Ok(Step::Ask(Question::Order(order)));
    match (sub.to_ascii_uppercase().as_slice(), rest) {
        (b"AUTH", [token]) => {
            present(connection, Credentials { name: None, token })?;
            Ok(Step::Answer(Value::OK))
        }
        (b"AUTH", _) => Err(Complaint::arity("diskstore|auth")),
        (b"ONCE", [id, request @ ..]) if !request.is_empty() => connection.once(id, request),
        (b"ONCE", _) => Err(Complaint::arity("diskstore|once")),
        (b"RECEIPT", [_, ..]) => connection.with_receipt(rest),
        (b"RECEIPT", []) => Err(Complaint::arity("diskstore|receipt")),
        (b"STATUS", []) => Ok(Step::Ask(Question::Status)),
        (b"CONFIG", []) => Ok(Step::Ask(Question::Config)),
        (b"CHECKPOINT", []) => Ok(Step::Ask(Question::Checkpoint)),
        (b"REMOVE", [who]) => order(Order::Remove(name(who))),
        (b"PROMOTE", [who]) => order(Order::Promote(name(who))),
        (b"DEMOTE", [who]) => order(Order::Demote(name(who))),
        (b"REPLACE", [old, new]) => order(Order::Replace { old: name(old), new: name(new) }),
        (b"LEAD", []) => order(Order::Lead(None)),
        (b"LEAD", [who]) => order(Order::Lead(Some(name(who)))),
        (b"RESIZE", [slots]) => {
            let slots = u64::try_from(integer(slots)?).map_err(|_| Complaint::SYNTAX)?;
            order(Order::Resize(slots))
        }
        (b"INVITE", [seconds]) => {
            let valid_for = join_token_time(u64::try_from(integer(seconds)?).ok())?;
            Ok(Step::Ask(Question::Invite { valid_for }))
        }
        (b"UNINVITE", []) => order(Order::Uninvite),
        (b"UNINVITE", _) => Err(Complaint::arity("diskstore|uninvite")),
        (b"STATUS", _) => Err(Complaint::arity("diskstore|status")),
        (b"CONFIG", _) => Err(Complaint::arity("diskstore|config")),
        (b"CHECKPOINT", _) => Err(Complaint::arity("diskstore|checkpoint")),
        (b"REMOVE", _) => Err(Complaint::arity("diskstore|remove")),
        (b"PROMOTE", _) => Err(Complaint::arity("diskstore|promote")),
        (b"DEMOTE", _) => Err(Complaint::arity("diskstore|demote")),
        (b"REPLACE", _) => Err(Complaint::arity("diskstore|replace")),
        (b"LEAD", _) => Err(Complaint::arity("diskstore|lead")),
        (b"RESIZE", _) => Err(Complaint::arity("diskstore|resize")),
        (b"INVITE", _) => Err(Complaint::arity("diskstore|invite")),
        _ => Err(Complaint::subcommand("DISKSTORE", sub)),
    }
}

/// What no transaction holds: it is about the connection, or an entry of its own.
fn diskstore_alone(arguments: &[&[u8]]) -> Option<&'static str> {
    let sub = arguments.first()?;
    let alone = [
        (&b"auth"[..], "DISKSTORE AUTH"),
        (b"once", "DISKSTORE ONCE"),
        (b"receipt", "DISKSTORE RECEIPT"),
    ];
    alone.iter().find(|(name, _)| sub.eq_ignore_ascii_case(name)).map(|(_, what)| *what)
}

/// `CLUSTER INFO | MYID | NODES | SHARDS | SLOTS | KEYSLOT key`
fn cluster(_: &mut Connection, arguments: &[&[u8]]) -> Result<Step, Complaint> {
    let (sub, rest) = arguments.split_first().ok_or(Complaint::SYNTAX)?;
    let question = match (sub.to_ascii_uppercase().as_slice(), rest) {
        (b"INFO", _) => Question::ClusterInfo,
        (b"MYID", _) => Question::ClusterMyId,
        (b"NODES", _) => Question::ClusterNodes,
        (b"SHARDS", _) => Question::ClusterShards,
        (b"SLOTS", _) => Question::ClusterSlots,
        (b"KEYSLOT", [key]) => {
            return Ok(Step::Answer(Value::Integer(i64::from(hash_slot::of(key)))));
        }
        (b"KEYSLOT", _) => return Err(Complaint::arity("cluster|keyslot")),
        _ => return Err(Complaint::subcommand("CLUSTER", sub)),
    };
    Ok(Step::Ask(question))
}

/// `SCAN cursor [MATCH pattern] [COUNT number] [TYPE name]`; the cursor is the next slot.
fn scan(_: &mut Connection, arguments: &[&[u8]]) -> Result<Step, Complaint> {
    let (cursor, mut options) = arguments.split_first().ok_or(Complaint::SYNTAX)?;
    let from = decimal(cursor).ok_or_else(|| Complaint::wrong("invalid cursor"))?;
    let (mut count, mut pattern, mut strings) = (SCAN_COUNT, None, true);
    while let [option, rest @ ..] = options {
        let [argument, rest @ ..] = rest else { return Err(Complaint::SYNTAX) };
        match option.to_ascii_uppercase().as_slice() {
            b"MATCH" => pattern = Some(Bytes::copy_from_slice(argument)),
            b"COUNT" => {
                let asked = integer(argument)?;
                let asked = usize::try_from(asked).ok().filter(|asked| *asked > 0);
                count = asked.ok_or(Complaint::SYNTAX)?.min(SCAN_COUNT_MAX);
            }
            b"TYPE" => strings = argument.eq_ignore_ascii_case(b"string"),
            _ => return Err(Complaint::SYNTAX),
        }
        options = rest;
    }
    Ok(Step::Ask(Question::Scan { from, count, pattern, strings }))
}

/// `WAITAOF own members milliseconds`
fn wait_aof(_: &mut Connection, arguments: &[&[u8]]) -> Result<Step, Complaint> {
    let [own, members, milliseconds] = exactly(arguments)?;
    let own = match super::parse_integer(own) {
        Some(0) => false,
        Some(1) => true,
        _ => return Err(Complaint::wrong("value is out of range, must be between 0 and 1")),
    };
    let (members, timeout) = (member_count(members)?, patience(milliseconds)?);
    Ok(Step::Ask(Question::WaitAof { own, members, timeout }))
}

/// `WAIT members milliseconds`
fn wait(_: &mut Connection, arguments: &[&[u8]]) -> Result<Step, Complaint> {
    let [members, milliseconds] = exactly(arguments)?;
    let (members, timeout) = (member_count(members)?, patience(milliseconds)?);
    Ok(Step::Ask(Question::Wait { members, timeout }))
}

fn member_count(text: &[u8]) -> Result<usize, Complaint> {
    Ok(usize::try_from(integer(text)?.max(0)).unwrap_or(usize::MAX))
}

fn patience(milliseconds: &[u8]) -> Result<Duration, Complaint> {
    let milliseconds = super::parse_integer(milliseconds)
        .ok_or_else(|| Complaint::wrong("timeout is not an integer or out of range"))?;
    let milliseconds =
        u64::try_from(milliseconds).map_err(|_| Complaint::wrong("timeout is negative"))?;
    let milliseconds = if milliseconds == 0 { WAIT_MS_MAX } else { milliseconds.min(WAIT_MS_MAX) };
    Ok(Duration::from_millis(milliseconds))
}
