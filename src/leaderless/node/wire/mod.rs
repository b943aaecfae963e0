//! What nodes send each other, as bytes (`docs/format.md`, "Frames between registers"). Pure.
//!
//! A connection carries messages one way: from the node that dialled. It begins with the preface, then come
//! frames: a hello, and from then on any number of messages each. The other side answers the hello with
//! a welcome, and sends nothing else; what it has to say goes over the connection that it dials itself.
//! Called by `links` and the driver. Invariant:
//!
//! - I1: lengths are checked before memory is taken; bytes that are no message end the connection, and never
//!   panic.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

mod fields;
mod frame;

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes};

use super::error::RegisterError;
use super::records::{put_by_node, put_floor, put_numbers, read_by_node, read_floor, read_numbers};
use crate::command::DecodeError;
use crate::command::cursor::{Cursor, put_string};
use crate::leaderless::clock::{Moment, NodeNumber, Version};
use crate::leaderless::message::{Answer, Content, Held, Origin, Request, Response, Store};
use crate::leaderless::operation::{Errand, Level};
use crate::leaderless::repair::{
    BUCKET_COUNT, Entry, FETCH_HASHES_MAX, Found, PullRequest, PullResponse, Stamp, TOP_COUNT,
};
use crate::leaderless::replica::{Numbers, Standing};

use fields::{
    LIST_COUNT_MAX, level_byte, put_held_field, put_index, put_key, put_long, put_losses,
    put_records, put_sums, read_held_field, read_index, read_key, read_level, read_long,
    read_losses, read_records, read_refusal, read_sums, refusal_byte,
};
pub(super) use frame::{
    FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, HELLO_BYTES_MAX, RegistersHello,
    WIRE_VERSION, end_frame, other_version, put_frame, put_welcome, read_welcome,
};

/// What a node says of itself, again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gossip {
    /// Whether it answers asks.
    pub(super) standing: Standing,
    /// It holds no key, deleted or not.
    pub(super) is_empty: bool,
    /// It has heard the receiver within a second.
    pub(super) hears: bool,
    /// Of its directory.
    pub(super) incarnation: u64,
    /// See `Kept`.
    pub(super) founders: BTreeMap<NodeNumber, u64>,
    /// Its numbers, as they are synced.
    pub(super) numbers: Numbers,
}

/// What became of an operation that was passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Done {
    /// It was read.
    Read(Held),
    /// It was written.
    Written(Version),
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PeerMessage {
    /// Of an operation, to a replica.
    Request(u64, Request),
    /// The answer.
    Response(u64, Response),
    /// An operation that the receiver is to run.
    Forward {
        /// Names it in the answer.
        id: u64,
        /// After this it is not to be begun.
        until: Moment,
        /// What to do.
        errand: Errand,
        /// The key.
        key: Bytes,
        /// How many replicas to wait for.
        level: Level,
    },
    /// Its outcome.
    Forwarded(u64, Result<Done, RegisterError>),
    /// See there.
    Gossip(Box<Gossip>),
    /// The sender wants to copy. `losses` is how often it has lost its disk, 0 if that is not why.
    CopyBegin {
        /// Names the copy among those of the node that copies.
        attempt: u64,
        /// See there.
        losses: u64,
    },
    /// The receiver's loss is synced here: go on. The numbers are those of who answers, synced.
    CopyBegun {
        /// Names the copy among those of the node that copies.
        attempt: u64,
        /// See there.
        numbers: Box<Numbers>,
        /// Whether it answers asks.
        is_ready: bool,
    },
    /// Send all records that both hold, from this hash on.
    CopyPage {
        /// Names the copy among those of the node that copies.
        attempt: u64,
        /// See there.
        from: u64,
    },
    /// Some of them.
    CopyPaged {
        /// Names the copy among those of the node that copies.
        attempt: u64,
        /// As asked for.
        from: u64,
        /// Where to go on; `None` at the end.
        next: Option<u64>,
        /// The floor of who answers, synced: what it has forgotten is not higher.
        floor: Moment,
        /// The records.
        records: Vec<Found>,
    },
}

/// Most messages of a frame that is read; far more than one turn makes.
const FRAME_MESSAGES_MAX: usize = 1 << 18;

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;
const FORWARD: u8 = 3;
const FORWARDED: u8 = 4;
const GOSSIP: u8 = 5;
const COPY_BEGIN: u8 = 6;
const COPY_BEGUN: u8 = 7;
const COPY_PAGE: u8 = 8;
const COPY_PAGED: u8 = 9;

/// Appends a message.
pub(super) fn put_message(out: &mut Vec<u8>, message: &PeerMessage) {
    match message {
        PeerMessage::Request(operation, request) => {
            out.put_u8(REQUEST);
            out.put_u64_le(*operation);
            put_request(out, request);
        }
        PeerMessage::Response(operation, response) => {
            out.put_u8(RESPONSE);
            out.put_u64_le(*operation);
            put_response(out, response);
        }
        PeerMessage::Forward { id, until, errand, key, level } => {
            out.put_u8(FORWARD);
            out.put_u64_le(*id);
            out.put_u64_le(until.get());
            out.put_u8(level_byte(*level));
            put_key(out, key);
            match errand {
                Errand::Get => out.put_u8(0),
                Errand::Delete => out.put_u8(1),
                Errand::Set(value) => {
                    out.put_u8(2);
                    put_long(out, value);
                }
            }
        }
        PeerMessage::Forwarded(id, result) => {
            out.put_u8(FORWARDED);
            out.put_u64_le(*id);
            put_result(out, result);
        }
        PeerMessage::Gossip(gossip) => {
            out.put_u8(GOSSIP);
            put_gossip(out, gossip);
        }
        PeerMessage::CopyBegin { attempt, losses } => {
            out.put_u8(COPY_BEGIN);
            out.put_u64_le(*attempt);
            out.put_u64_le(*losses);
        }
        PeerMessage::CopyBegun { attempt, numbers, is_ready } => {
            out.put_u8(COPY_BEGUN);
            out.put_u64_le(*attempt);
            out.put_u8(u8::from(*is_ready));
            put_numbers(out, numbers);
        }
        PeerMessage::CopyPage { attempt, from } => {
            out.put_u8(COPY_PAGE);
            out.put_u64_le(*attempt);
            out.put_u64_le(*from);
        }
        PeerMessage::CopyPaged { attempt, from, next, floor, records } => {
            out.put_u8(COPY_PAGED);
            out.put_u64_le(*attempt);
            out.put_u64_le(*from);
            out.put_u8(u8::from(next.is_some()));
            out.put_u64_le(next.unwrap_or_default());
            out.put_u64_le(floor.get());
            put_records(out, records);
        }
    }
}

/// All messages of a frame.
pub(super) fn read_messages(body: Bytes) -> Result<Vec<PeerMessage>, DecodeError> {
    let mut cursor = Cursor::new(body);
    let mut messages = Vec::new();
    while cursor.finish().is_err() {
        if messages.len() >= FRAME_MESSAGES_MAX {
            return Err(cursor.error("too many messages in a frame"));
        }
        messages.push(read_message(&mut cursor)?);
    }
    Ok(messages)
}

fn read_message(cursor: &mut Cursor) -> Result<PeerMessage, DecodeError> {
    Ok(match cursor.u8()? {
        REQUEST => PeerMessage::Request(cursor.u64()?, read_request(cursor)?),
        RESPONSE => PeerMessage::Response(cursor.u64()?, read_response(cursor)?),
        FORWARD => {
            let (id, until) = (cursor.u64()?, Moment::new(cursor.u64()?));
            let level = read_level(cursor)?;
            let key = read_key(cursor)?;
            let errand = match cursor.u8()? {
                0 => Errand::Get,
                1 => Errand::Delete,
                2 => Errand::Set(read_long(cursor)?),
                _ => return Err(cursor.error("unknown errand")),
            };
            PeerMessage::Forward { id, until, errand, key, level }
        }
        FORWARDED => PeerMessage::Forwarded(cursor.u64()?, read_result(cursor)?),
        GOSSIP => PeerMessage::Gossip(Box::new(read_gossip(cursor)?)),
        COPY_BEGIN => PeerMessage::CopyBegin { attempt: cursor.u64()?, losses: cursor.u64()? },
        COPY_BEGUN => {
            let (attempt, is_ready) = (cursor.u64()?, cursor.boolean()?);
            PeerMessage::CopyBegun { attempt, is_ready, numbers: Box::new(read_numbers(cursor)?) }
        }
        COPY_PAGE => PeerMessage::CopyPage { attempt: cursor.u64()?, from: cursor.u64()? },
        COPY_PAGED => {
            let (attempt, from) = (cursor.u64()?, cursor.u64()?);
            let (has_next, next) = (cursor.boolean()?, cursor.u64()?);
            let next = has_next.then_some(next);
            let floor = Moment::new(cursor.u64()?);
            let records = read_records(cursor)?;
            PeerMessage::CopyPaged { attempt, from, next, floor, records }
        }
        _ => return Err(cursor.error("unknown message")),
    })
}

fn put_request(out: &mut Vec<u8>, request: &Request) {
    match request {
        Request::Ask { key, wants_value } => {
            out.put_u8(u8::from(*wants_value));
            put_key(out, key);
        }
        Request::Store(store) => {
            match store.origin {
                Origin::New { base } => {
                    out.put_u8(2);
                    out.put_u64_le(base.get());
                }
                Origin::Copy { floor } => {
                    out.put_u8(3);
                    out.put_u64_le(floor.get());
                }
            }
            put_key(out, &store.key);
            put_held_field(out, &store.held);
        }
        Request::Pull(PullRequest::Begin { floor, fence }) => {
            out.put_u8(4);
            put_floor(out, floor);
            out.put_u64_le(fence.get());
        }
        Request::Pull(PullRequest::Tops) => out.put_u8(5),
        Request::Pull(PullRequest::Group(top)) => {
            out.put_u8(6);
            put_index(out, *top);
        }
        Request::Pull(PullRequest::List(bucket)) => {
            out.put_u8(7);
            put_index(out, *bucket);
        }
        Request::Pull(PullRequest::Fetch(hashes)) => {
            out.put_u8(8);
            put_index(out, hashes.len());
            for hash in hashes {
                out.put_u64_le(*hash);
            }
        }
    }
}

fn read_request(cursor: &mut Cursor) -> Result<Request, DecodeError> {
    let kind = cursor.u8()?;
    Ok(match kind {
        0 | 1 => Request::Ask { key: read_key(cursor)?, wants_value: kind == 1 },
        2 | 3 => {
            let number = cursor.u64()?;
            let origin = match kind {
                2 => Origin::New { base: Version::from_number(number) },
                _ => Origin::Copy { floor: Moment::new(number) },
            };
            let key = read_key(cursor)?;
            Request::Store(Store { key, held: read_held_field(cursor)?, origin })
        }
        4 => {
            let floor = read_floor(cursor)?;
            Request::Pull(PullRequest::Begin { floor, fence: Moment::new(cursor.u64()?) })
        }
        5 => Request::Pull(PullRequest::Tops),
        6 => Request::Pull(PullRequest::Group(read_index(cursor, TOP_COUNT - 1)?)),
        7 => Request::Pull(PullRequest::List(read_index(cursor, BUCKET_COUNT - 1)?)),
        8 => {
            let count = read_index(cursor, FETCH_HASHES_MAX)?;
            let hashes = (0..count).map(|_| cursor.u64()).collect::<Result<_, _>>()?;
            Request::Pull(PullRequest::Fetch(hashes))
        }
        _ => return Err(cursor.error("unknown request")),
    })
}

fn put_response(out: &mut Vec<u8>, response: &Response) {
    match response {
        Response::Answer(answer) => {
            let (kind, value) = match &answer.content {
                Content::Nothing => (0, None),
                Content::Withheld => (1, None),
                Content::Value(value) => (2, Some(value)),
            };
            out.put_u8(kind);
            out.put_u64_le(answer.version.get());
            out.put_u64_le(answer.floor.get());
            out.put_u64_le(answer.confirmed.get());
            put_losses(out, &answer.losses);
            if let Some(value) = value {
                put_long(out, value);
            }
        }
        Response::Stored { version, losses } => {
            out.put_u8(3);
            out.put_u64_le(version.get());
            put_losses(out, losses);
        }
        Response::Refused(refusal) => {
            out.put_u8(4);
            out.put_u8(refusal_byte(*refusal));
        }
        Response::Pulled(response) => put_pull_response(out, response),
    }
}

fn put_pull_response(out: &mut Vec<u8>, response: &PullResponse) {
    match response {
        PullResponse::Begun { floor } => {
            out.put_u8(5);
            put_floor(out, floor);
        }
        PullResponse::Tops(tops) => {
            out.put_u8(6);
            put_sums(out, tops);
        }
        PullResponse::Group { top, sums } => {
            out.put_u8(7);
            put_index(out, *top);
            put_sums(out, sums);
        }
        PullResponse::List { bucket, entries } => {
            out.put_u8(8);
            put_index(out, *bucket);
            put_index(out, entries.len());
            for entry in entries {
                out.put_u64_le(entry.hash);
                out.put_u64_le(entry.stamp.version.get());
                out.put_u64_le(entry.stamp.mark);
            }
        }
        PullResponse::Records { count, floor, records } => {
            out.put_u8(9);
            put_index(out, *count);
            out.put_u64_le(floor.get());
            put_records(out, records);
        }
    }
}

fn read_response(cursor: &mut Cursor) -> Result<Response, DecodeError> {
    let kind = cursor.u8()?;
    Ok(match kind {
        0..=2 => {
            let version = Version::from_number(cursor.u64()?);
            let (floor, confirmed) = (Moment::new(cursor.u64()?), Moment::new(cursor.u64()?));
            let losses = read_losses(cursor)?;
            let content = match kind {
                0 => Content::Nothing,
                1 => Content::Withheld,
                _ => Content::Value(read_long(cursor)?),
            };
            Response::Answer(Answer { version, content, floor, confirmed, losses })
        }
        3 => {
            let version = Version::from_number(cursor.u64()?);
            Response::Stored { version, losses: read_losses(cursor)? }
        }
        4 => Response::Refused(read_refusal(cursor)?),
        _ => Response::Pulled(read_pull_response(kind, cursor)?),
    })
}

fn read_pull_response(kind: u8, cursor: &mut Cursor) -> Result<PullResponse, DecodeError> {
    Ok(match kind {
        5 => PullResponse::Begun { floor: read_floor(cursor)? },
        6 => PullResponse::Tops(read_sums(cursor)?),
        7 => {
            let top = read_index(cursor, TOP_COUNT - 1)?;
            PullResponse::Group { top, sums: read_sums(cursor)? }
        }
        8 => {
            let bucket = read_index(cursor, BUCKET_COUNT - 1)?;
            let count = read_index(cursor, LIST_COUNT_MAX)?;
            let mut entries = Vec::new(); // grows with the bytes that are there (I1)
            for _ in 0..count {
                let (hash, version) = (cursor.u64()?, Version::from_number(cursor.u64()?));
                entries.push(Entry { hash, stamp: Stamp { version, mark: cursor.u64()? } });
            }
            PullResponse::List { bucket, entries }
        }
        9 => {
            let count = read_index(cursor, FETCH_HASHES_MAX)?;
            let floor = Moment::new(cursor.u64()?);
            PullResponse::Records { count, floor, records: read_records(cursor)? }
        }
        _ => return Err(cursor.error("unknown response")),
    })
}

fn put_result(out: &mut Vec<u8>, result: &Result<Done, RegisterError>) {
    match result {
        Ok(Done::Read(held)) => {
            out.put_u8(0);
            put_held_field(out, held);
        }
        Ok(Done::Written(version)) => {
            out.put_u8(1);
            out.put_u64_le(version.get());
        }
        Err(RegisterError::Unknown { version, stored_by, replicas }) => {
            out.put_u8(2);
            out.put_u64_le(version.get());
            put_index(out, *stored_by);
            put_index(out, *replicas);
        }
        Err(RegisterError::Busy(reason)) => {
            out.put_u8(3);
            put_string(out, reason);
        }
        Err(error @ (RegisterError::NotStored(_) | RegisterError::BadInput(_))) => {
            out.put_u8(4);
            put_string(out, &error.to_string());
        }
    }
}

fn read_result(cursor: &mut Cursor) -> Result<Result<Done, RegisterError>, DecodeError> {
    Ok(match cursor.u8()? {
        0 => Ok(Done::Read(read_held_field(cursor)?)),
        1 => Ok(Done::Written(Version::from_number(cursor.u64()?))),
        2 => {
            let version = Version::from_number(cursor.u64()?);
            let stored_by = read_index(cursor, u32::MAX as usize)?;
            let replicas = read_index(cursor, u32::MAX as usize)?;
            Err(RegisterError::Unknown { version, stored_by, replicas })
        }
        3 => Err(RegisterError::Busy(cursor.string(usize::from(u16::MAX))?)),
        4 => Err(RegisterError::NotStored(cursor.string(usize::from(u16::MAX))?)),
        _ => return Err(cursor.error("unknown result")),
    })
}

fn put_gossip(out: &mut Vec<u8>, gossip: &Gossip) {
    out.put_u8(match gossip.standing {
        Standing::Ready => 0,
        Standing::Behind => 1,
        Standing::Lost => 2,
    });
    out.put_u8(u8::from(gossip.is_empty));
    out.put_u8(u8::from(gossip.hears));
    out.put_u64_le(gossip.incarnation);
    put_by_node(out, gossip.founders.iter().map(|(node, number)| (*node, *number)));
    put_numbers(out, &gossip.numbers);
}

fn read_gossip(cursor: &mut Cursor) -> Result<Gossip, DecodeError> {
    let standing = match cursor.u8()? {
        0 => Standing::Ready,
        1 => Standing::Behind,
        2 => Standing::Lost,
        _ => return Err(cursor.error("unknown standing")),
    };
    let (is_empty, hears) = (cursor.boolean()?, cursor.boolean()?);
    let incarnation = cursor.u64()?;
    let founders = read_by_node(cursor)?;
    let numbers = read_numbers(cursor)?;
    Ok(Gossip { standing, is_empty, hears, incarnation, founders, numbers })
}

#[cfg(test)]
mod tests;
