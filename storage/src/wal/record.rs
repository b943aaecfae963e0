//! Records: the parts of a batch. Pure; `docs/format.md`, "Records", defines the bytes.
//!
//! Called by the log to encode and by recovery and reads to decode. Invariants:
//!
//! - I1: decoding outside bytes never panics and allocates nothing.
//! - I2: every record is a multiple of 8 bytes long, so that every record begins 8-aligned.
//! - I3: an entry carries a CRC of its own, so that a read need not fetch its whole batch.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use super::fields::Fields;
use crate::disk::AlignedBuffer;
use crate::summed::SummedBytes;
use crate::{LogId, Vote};

/// Bytes of every record but the entry, and of the part of an entry that its CRC follows.
pub(super) const RECORD_BYTES: usize = 24;
/// Bytes of an entry before its payload.
pub(super) const ENTRY_HEADER_BYTES: usize = RECORD_BYTES + 8;
/// Records begin at multiples of this many bytes.
const RECORD_ALIGN_BYTES: usize = 8;
const _: () = assert!(RECORD_BYTES.is_multiple_of(RECORD_ALIGN_BYTES));
const _: () = assert!(ENTRY_HEADER_BYTES.is_multiple_of(RECORD_ALIGN_BYTES));

const KIND_ENTRY: u8 = 1;
const KIND_VOTE: u8 = 2;
const KIND_COMMITTED: u8 = 3;
const KIND_TRUNCATE: u8 = 4;
const KIND_PURGE: u8 = 5;

/// What an entry's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// Nothing: the first entry of a new leader.
    Blank,
    /// A command.
    Normal,
    /// A membership of the cluster.
    Membership,
}

impl EntryKind {
    fn to_byte(self) -> u8 {
        match self {
            EntryKind::Blank => 0,
            EntryKind::Normal => 1,
            EntryKind::Membership => 2,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        [EntryKind::Blank, EntryKind::Normal, EntryKind::Membership]
            .into_iter()
            .find(|kind| kind.to_byte() == byte)
    }
}

/// One entry of the replicated log. Cloning shares the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where in the log it stands.
    pub log_id: LogId,
    /// What the payload is.
    pub kind: EntryKind,
    /// Opaque here.
    pub payload: SummedBytes,
}

/// An entry as it stands in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryRecord<'a> {
    pub(super) log_id: LogId,
    pub(super) kind: EntryKind,
    pub(super) payload: &'a [u8],
    /// What the CRC covers beside the payload; see [`EntryRecord::is_whole`].
    head: &'a [u8],
    crc: u32,
}

impl EntryRecord<'_> {
    /// Whether the entry's own CRC holds. Recovery has checked the batch's instead.
    pub(super) fn is_whole(&self) -> bool {
        entry_crc(self.head, self.payload) == self.crc
    }
}

/// One record, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// An entry was appended.
    Entry(EntryRecord<'a>),
    /// A vote was given.
    Vote(Vote),
    /// Entries up to here are known committed.
    Committed(LogId),
    /// Entries after this one were dropped; all of them if there is none.
    Truncate(Option<LogId>),
    /// Entries up to here, inclusive, were dropped.
    Purge(LogId),
}

/// Bytes that an entry with a payload of `payload_bytes` takes in a batch.
pub(super) fn entry_bytes(payload_bytes: usize) -> usize {
    ENTRY_HEADER_BYTES + payload_bytes.next_multiple_of(RECORD_ALIGN_BYTES)
}

/// Appends an entry: its payload is copied here, once.
///
/// # Panics
/// If the payload has 4 GiB or more, which the bound of a batch excludes.
pub(super) fn encode_entry(out: &mut AlignedBuffer, entry: &Entry) {
    let length =
        u32::try_from(entry.payload.len()).expect("invariant: a batch is smaller than 4 GiB");
    let head = head(
        [KIND_ENTRY, entry.kind.to_byte()],
        length,
        [entry.log_id.term.get(), entry.log_id.index],
    );
    out.extend_from_slice(&head);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head);
    entry.payload.add_to(&mut crc);
    out.extend_from_slice(&crc.finalize().to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&entry.payload);
    out.resize_zeroed(out.len().next_multiple_of(RECORD_ALIGN_BYTES));
}

/// The bytes of every record but the entry.
pub(super) fn encode_vote(vote: Vote) -> [u8; RECORD_BYTES] {
    head([KIND_VOTE, u8::from(vote.committed)], 0, [vote.term.get(), vote.node_id.get()])
}

/// See [`Record::Committed`].
pub(super) fn encode_committed(log_id: LogId) -> [u8; RECORD_BYTES] {
    head([KIND_COMMITTED, 0], 0, [log_id.term.get(), log_id.index])
}

/// See [`Record::Truncate`].
pub(super) fn encode_truncate(last: Option<LogId>) -> [u8; RECORD_BYTES] {
    let log_id = last.unwrap_or_default();
    head([KIND_TRUNCATE, u8::from(last.is_some())], 0, [log_id.term.get(), log_id.index])
}

/// See [`Record::Purge`].
pub(super) fn encode_purge(upto: LogId) -> [u8; RECORD_BYTES] {
    head([KIND_PURGE, 0], 0, [upto.term.get(), upto.index])
}

/// Decodes the record that `bytes` begin with, and says how many bytes it takes. `None` if the
/// bytes are no record. An entry's own CRC is not checked here.
pub(super) fn decode(bytes: &[u8]) -> Option<(Record<'_>, usize)> {
    let (head, rest) = bytes.split_at_checked(RECORD_BYTES)?;
    let mut fields = Fields::new(head);
    let (kind, detail, zero) = (fields.u8()?, fields.u8()?, fields.u16()?);
    let length = fields.u32()?;
    if zero != 0 || (kind != KIND_ENTRY && length != 0) {
        return None;
    }
    let record = match (kind, detail) {
        (KIND_ENTRY, _) => return decode_entry(head, rest),
        (KIND_VOTE, 0 | 1) => Record::Vote(fields.vote(detail == 1)?),
        (KIND_COMMITTED, 0) => Record::Committed(fields.log_id()?),
        (KIND_TRUNCATE, 0) => Record::Truncate(None),
        (KIND_TRUNCATE, 1) => Record::Truncate(Some(fields.log_id()?)),
        (KIND_PURGE, 0) => Record::Purge(fields.log_id()?),
        _ => return None,
    };
    Some((record, RECORD_BYTES))
}

fn decode_entry<'a>(head: &'a [u8], rest: &'a [u8]) -> Option<(Record<'a>, usize)> {
    let mut fields = Fields::new(head);
    fields.u8()?;
    let kind = EntryKind::from_byte(fields.u8()?)?;
    fields.u16()?;
    let payload_bytes = usize::try_from(fields.u32()?).ok()?;
    let log_id = fields.log_id()?;
    let mut tail = Fields::new(rest);
    let (crc, zero) = (tail.u32()?, tail.u32()?);
    (zero == 0).then_some(())?;
    let payload = rest.get(8..)?.get(..payload_bytes)?;
    let record = EntryRecord { log_id, kind, payload, head, crc };
    Some((Record::Entry(record), entry_bytes(payload_bytes)))
}

fn entry_crc(head: &[u8], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(payload);
    crc.finalize()
}

fn head(kind_and_detail: [u8; 2], length: u32, values: [u64; 2]) -> [u8; RECORD_BYTES] {
    let [kind, detail] = kind_and_detail;
    let [l0, l1, l2, l3] = length.to_le_bytes();
    let mut bytes = [0; RECORD_BYTES];
    let parts = [[kind, detail, 0, 0, l0, l1, l2, l3]]
        .into_iter()
        .chain(values.into_iter().map(u64::to_le_bytes));
    for (place, part) in bytes.chunks_exact_mut(8).zip(parts) {
        place.copy_from_slice(&part);
    }
    bytes
}
