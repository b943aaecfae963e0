//! RESP2, RESP3 and inline commands: bytes to steps, outcomes to bytes. No sockets here.
//!
//! `decode` reads requests, `connection` turns each into a step (with `table`, `data` and `local`),
//! `shape` and `encode` write the replies.

mod connection;
mod data;
mod decode;
mod encode;
mod glob;
mod inline;
mod local;
mod refused;
mod shape;
mod table;

pub(crate) use connection::{Connection, Planned, Question, Step};
pub(crate) use decode::Decoder;
pub(crate) use encode::{Encoder, Version};
pub(crate) use glob::matches;
pub(crate) use shape::{Kind, failure_text};
pub(crate) use table::TABLE;
