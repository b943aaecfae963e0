//! RESP2, RESP3 and inline commands: turns bytes into steps, and outcomes into bytes. No sockets
//! here.
//!
//! `decode` reads requests, `connection` turns each into a step by its row of `table` (`commands`
//! has the rows and what they do), `dialect` hands them to the turn, `form` and `encode` write the
//! replies.

mod commands;
mod connection;
mod decode;
mod dialect;
#[cfg(test)]
mod document;
mod draft;
mod encode;
mod form;
mod inline;
mod refused;
mod table;

#[cfg(any(test, fuzzing))]
pub(crate) use decode::fuzzed;
pub(crate) use decode::{Decoder, REQUEST_BYTES_MAX, parse_integer};
pub(crate) use dialect::RespDialect;
pub(crate) use encode::{Encoder, Version};
pub(crate) use table::{Spec, TABLE, lookup};
