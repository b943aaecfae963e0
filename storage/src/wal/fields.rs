//! Fixed-width little-endian fields of outside bytes, taken one by one from the front.
//!
//! Called by the decoders of records, batches and segment headers. Invariant:
//!
//! - I1: no input causes a panic; a missing field is `None`.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use crate::{LogId, MemberId, Term, Vote};

/// What is left of the bytes to decode.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Fields { rest: bytes }
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub(super) fn u128(&mut self) -> Option<u128> {
        self.take().map(u128::from_le_bytes)
    }

    pub(super) fn log_id(&mut self) -> Option<LogId> {
        Some(LogId { term: Term::new(self.u64()?), index: self.u64()? })
    }

    pub(super) fn vote(&mut self, committed: bool) -> Option<Vote> {
        Some(Vote { term: Term::new(self.u64()?), node_id: MemberId::new(self.u64()?), committed })
    }
}
