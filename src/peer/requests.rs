//! Requests and responses between members as bytes: the envelope, and the bodies within. Pure.
#![deny(clippy::indexing_slicing)]

use bytes::{BufMut, Bytes};

use super::frames::{FrameKind, put_frame};
use super::member::NAME_BYTES_MAX;
use crate::command::cursor::{Cursor, put_string};
use crate::command::{
    Command, CommandResult, DecodeError, ReadLevel, decode_result, encode_result,
};

/// Most commands that one forwarded request holds.
pub(crate) const COMMAND_COUNT_MAX: usize = 65_536;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Method {
    /// A vote.
    Vote = 1,
    /// A vote before the vote.
    PreVote = 2,
    /// Take over leadership.
    TransferLeader = 3,
    /// Propose these commands.
    Write = 4,
    /// Read these commands.
    Read = 5,
    /// Let me join.
    Join = 6,
    /// How many members hold this index?
    Holders = 7,
    /// Take this member out of the cluster.
    Remove = 8,
    /// Does this member belong to the cluster?
    Standing = 9,
    /// Does your log have space beyond its present segment?
    LogSpace = 10,
    /// How far must a replica have applied to see what was acknowledged?
    ReadIndex = 11,
    /// Where does your log have this member?
    Whereabouts = 12,
    /// Do you found a cluster with me? Of a node that has none, to one that has none.
    Found = 13,
    /// Carry out this order of an operator.
    Order = 14,
    /// Is the vote that I lead under still the last that you gave?
    Backs = 15,
}

impl Method {
    /// The method of a byte.
    pub fn of(byte: u8) -> Option<Method> {
        let methods = [
            Method::Vote,
            Method::PreVote,
            Method::TransferLeader,
            Method::Write,
            Method::Read,
            Method::Join,
            Method::Holders,
            Method::Remove,
            Method::Standing,
            Method::LogSpace,
            Method::ReadIndex,
            Method::Whereabouts,
            Method::Found,
            Method::Order,
            Method::Backs,
        ];
        methods.into_iter().find(|method| *method as u8 == byte)
    }
}

/// Appends the frame of a request.
pub(crate) fn put_request(out: &mut Vec<u8>, id: u64, method: Method, body: &[u8]) {
    put_frame(out, FrameKind::Request, |out| {
        out.put_u64_le(id);
        out.put_u8(method as u8);
        out.put_slice(body);
    });
}

/// Reads a request: its id, what it asks for, and the body of that.
pub(crate) fn read_request(body: Bytes) -> Result<(u64, Method, Bytes), DecodeError> {
    let mut cursor = Cursor::new(body);
    let id = cursor.u64()?;
    let method = Method::of(cursor.u8()?).ok_or_else(|| cursor.error("unknown method"))?;
    Ok((id, method, cursor.rest()))
}

/// Appends the frame of the response to request `id`.
pub(crate) fn put_response(out: &mut Vec<u8>, id: u64, body: &[u8]) {
    put_frame(out, FrameKind::Response, |out| {
        out.put_u64_le(id);
        out.put_slice(body);
    });
}

/// Reads a response: the id of its request, and its body.
pub(crate) fn read_response(body: Bytes) -> Result<(u64, Bytes), DecodeError> {
    let mut cursor = Cursor::new(body);
    Ok((cursor.u64()?, cursor.rest()))
}

/// Lays out the body of [`Method::Whereabouts`]: a question for the address of a member.
pub(crate) fn encode_whereabouts(cluster_id: u128, id: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(24);
    out.put_u128_le(cluster_id);
    out.put_u64_le(id);
    out
}

/// Reads that body: the cluster and the member asked about.
pub(crate) fn decode_whereabouts(body: Bytes) -> Result<(u128, u64), DecodeError> {
    let mut cursor = Cursor::new(body);
    let asked = (cursor.u128()?, cursor.u64()?);
    cursor.finish()?;
    Ok(asked)
}

/// Lays out the answer to it; the address is empty if the member is not known.
pub(crate) fn encode_whereabouts_reply(address: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    put_string(&mut out, address);
    out
}

/// Reads that answer.
pub(crate) fn decode_whereabouts_reply(body: Bytes) -> Result<String, DecodeError> {
    let mut cursor = Cursor::new(body);
    let address = cursor.string(NAME_BYTES_MAX)?;
    cursor.finish()?;
    Ok(address)
}

/// Lays out commands that are forwarded, with the level of a read.
///
/// # Panics
/// Never for commands that exist: their number and length are bounded.
pub fn encode_commands(commands: &[Command], level: ReadLevel) -> Vec<u8> {
    let bytes: usize = commands.iter().map(|command| command.bytes().len() + 4).sum();
    let mut out = Vec::with_capacity(bytes + 5);
    out.put_u8(match level {
        ReadLevel::Linearizable => 0,
        ReadLevel::Lease => 1,
        ReadLevel::Local => 2,
        ReadLevel::Log => 3,
    });
    out.put_u32_le(u32::try_from(commands.len()).expect("invariant: pipelines are bounded"));
    for command in commands {
        let length = u32::try_from(command.bytes().len());
        out.put_u32_le(length.expect("invariant: commands are bounded"));
        out.put_slice(command.bytes());
    }
    out
}

/// Reads forwarded commands.
///
/// # Errors
/// The bytes are not what they should be.
pub fn decode_commands(body: Bytes) -> Result<(Vec<Command>, ReadLevel), DecodeError> {
    let mut cursor = Cursor::new(body);
    let level = match cursor.u8()? {
        0 => ReadLevel::Linearizable,
        1 => ReadLevel::Lease,
        2 => ReadLevel::Local,
        3 => ReadLevel::Log,
        _ => return Err(cursor.error("unknown read level")),
    };
    let count = cursor.u32()? as usize;
    if count > COMMAND_COUNT_MAX {
        return Err(cursor.error("too many commands"));
    }
    let mut commands = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        let length = cursor.u32()? as usize;
        let command = Command::decode(cursor.bytes(length)?)?;
        if command.commands().nth(1).is_some() {
            return Err(cursor.error("several commands in the place of one")); // each has a result
        }
        commands.push(command);
    }
    cursor.finish()?;
    Ok((commands, level))
}

/// Lays out the results of forwarded commands.
///
/// # Panics
/// Never for results that exist: their number is bounded.
pub fn encode_results(results: &[CommandResult]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32_le(u32::try_from(results.len()).expect("invariant: pipelines are bounded"));
    for result in results {
        encode_result(result, &mut out);
    }
    out
}

/// Reads the results of `expected` forwarded commands.
///
/// # Errors
/// The bytes are not what they should be.
pub fn decode_results(body: Bytes, expected: usize) -> Result<Vec<CommandResult>, DecodeError> {
    let mut cursor = Cursor::new(body);
    if cursor.u32()? as usize != expected {
        return Err(cursor.error("count of results"));
    }
    let results: Vec<_> =
        (0..expected).map(|_| decode_result(&mut cursor)).collect::<Result<_, _>>()?;
    cursor.finish()?;
    Ok(results)
}
