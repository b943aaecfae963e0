//! A batch: the records that one sync makes durable. `docs/format.md`, "Segment and batch", defines
//! the bytes.
//!
//! Called by the log (fill, seal), `write` of the log (finish) and recovery (decode). Invariants:
//!
//! - I1: every use of a segment has its own id and secret nonce. A batch names them, and its CRC
//!   covers them and all bytes up to the end of the padding. So three things fail the check: a
//!   batch from an earlier use of the segment, damaged padding, and a client's value made to look
//!   like a batch.
//! - I2: a batch takes whole blocks, so that no later batch rewrites one of its blocks.
//! - I3: a batch in memory has a block before it, where the header of a segment that it opens goes.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use super::Position;
use super::fields::Fields;
use super::record;
use super::segment::{Carried, Life, Nonce};
use crate::disk::{AlignedBuffer, BLOCK_BYTES};
use crate::summed::{Stretch, sum_with};

/// First bytes of every batch.
pub(super) const BATCH_MAGIC: u64 = u64::from_le_bytes(*b"dstbatch");
/// Bytes of a batch before its first record.
pub(super) const BATCH_HEADER_BYTES: usize = 64;
/// Where the CRC stands in the header.
const CRC_OFFSET: usize = 40;
/// Most bytes of a batch, padding included, whatever the size of its segment.
pub(super) const BATCH_BYTES_LIMIT: usize = 32 << 20;
/// Where the first record stands in a batch in memory (I3).
pub(super) const RECORDS_START: usize = BLOCK_BYTES + BATCH_HEADER_BYTES;
const NONCE_OFFSET: usize = 48;
const _: () = assert!(NONCE_OFFSET + 16 == BATCH_HEADER_BYTES);

/// The fixed fields at the front of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub(super) magic: u64,
    /// The segment that it was written to.
    pub(super) segment: u64,
    /// Its place in the stream, counted from 1.
    pub(super) sequence: u64,
    /// The last batch that was known durable when this one was written.
    pub(super) durable_sequence: u64,
    /// Bytes of its records.
    pub(super) records_bytes: u32,
    pub(super) record_count: u32,
    crc: u32,
    pub(super) reserved: u32,
    /// That of the segment's life.
    nonce: Nonce,
}

impl BatchHeader {
    /// The fields, whatever they say; `None` if there are too few bytes.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        Some(BatchHeader {
            magic: fields.u64()?,
            segment: fields.u64()?,
            sequence: fields.u64()?,
            durable_sequence: fields.u64()?,
            records_bytes: fields.u32()?,
            record_count: fields.u32()?,
            crc: fields.u32()?,
            reserved: fields.u32()?,
            nonce: Nonce(fields.u128()?),
        })
    }

    /// Whether this is the beginning of a batch of this life: worth its CRC.
    pub(super) fn is_of(&self, life: Life) -> bool {
        self.magic == BATCH_MAGIC && self.segment == life.segment && self.nonce == life.nonce
    }

    /// What it says of the nonce of this segment, if it is a batch of it.
    pub(super) fn nonce_of(&self, segment: u64) -> Option<Nonce> {
        (self.magic == BATCH_MAGIC && self.segment == segment).then_some(self.nonce)
    }

    /// Whether this was batch `sequence` of this life before it was torn or damaged: one byte of
    /// what tells it may be wrong. An earlier life had another id and lower sequences.
    pub(super) fn resembles(&self, life: Life, sequence: u64) -> bool {
        let bytes_of = |segment: u64, sequence: u64, nonce: Nonce| {
            let [segment, sequence] = [segment, sequence].map(u64::to_le_bytes);
            segment.into_iter().chain(sequence).chain(nonce.0.to_le_bytes())
        };
        let expected = bytes_of(life.segment, sequence, life.nonce);
        let found = bytes_of(self.segment, self.sequence, self.nonce);
        found.zip(expected).filter(|(found, expected)| found != expected).count() <= 1
    }

    /// Bytes of the whole batch with its padding.
    pub(super) fn batch_bytes(&self) -> Option<usize> {
        padded_bytes(usize::try_from(self.records_bytes).ok()?)
    }
}

/// Bytes of a batch with `records_bytes` of records, padding included.
pub(super) fn padded_bytes(records_bytes: usize) -> Option<usize> {
    records_bytes.checked_add(BATCH_HEADER_BYTES)?.checked_next_multiple_of(BLOCK_BYTES)
}

/// Whether a batch, given whole with its padding, is one of this life and its CRC holds.
pub(super) fn is_whole(batch: &[u8], life: Life) -> bool {
    BatchHeader::decode(batch).is_some_and(|header| {
        header.is_of(life)
            && header.batch_bytes() == Some(batch.len())
            && crc_of(batch, &[]) == Some(header.crc)
    })
}

/// The records of a whole batch.
pub(super) fn records_of(batch: &[u8]) -> Option<&[u8]> {
    let header = BatchHeader::decode(batch)?;
    batch.get(BATCH_HEADER_BYTES..)?.get(..usize::try_from(header.records_bytes).ok()?)
}

/// The CRC of a batch, of which `summed` was passed over before.
fn crc_of(batch: &[u8], summed: &[Stretch]) -> Option<u32> {
    let mut crc = crc32fast::Hasher::new();
    crc.update(batch.get(..CRC_OFFSET)?);
    crc.update(batch.get(CRC_OFFSET + 4..BATCH_HEADER_BYTES)?);
    Some(sum_with(crc, batch.get(BATCH_HEADER_BYTES..)?, summed))
}

/// A batch that is being filled.
#[derive(Debug)]
pub(super) struct OpenBatch {
    pub(super) sequence: u64,
    buffer: AlignedBuffer,
    record_count: u32,
    /// Payloads whose checksum is known, and where they stand behind the header.
    summed: Vec<Stretch>,
    /// It holds what must survive power loss whatever the mode.
    pub(super) must_sync: bool,
    /// Index of the highest entry in it, truncated meanwhile or not.
    highest: Option<u64>,
}

impl OpenBatch {
    /// An empty batch in a buffer that may have been used before.
    pub(super) fn new(sequence: u64, mut buffer: AlignedBuffer) -> Self {
        buffer.clear();
        buffer.resize_zeroed(RECORDS_START);
        OpenBatch {
            sequence,
            buffer,
            record_count: 0,
            summed: Vec::new(),
            must_sync: false,
            highest: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Bytes of records so far.
    pub(super) fn records_bytes(&self) -> usize {
        self.buffer.len() - RECORDS_START
    }

    /// Appends an entry and gives its offset from the beginning of the batch, in bytes.
    pub(super) fn push_entry(&mut self, entry: &record::Entry) -> u32 {
        let offset = self.buffer.len() - BLOCK_BYTES;
        record::encode_entry(&mut self.buffer, entry);
        let payload_start = offset - BATCH_HEADER_BYTES + record::ENTRY_HEADER_BYTES;
        self.summed.extend(entry.payload.stretch_at(payload_start));
        self.highest = self.highest.max(Some(entry.log_id.index));
        self.record_count += 1;
        u32::try_from(offset).expect("invariant: a batch is smaller than 4 GiB")
    }

    /// Appends a record of fixed size.
    pub(super) fn push(&mut self, record: [u8; record::RECORD_BYTES]) {
        self.buffer.extend_from_slice(&record);
        self.record_count += 1;
    }

    /// Ends the batch. `carried` is the state of the log at its end.
    pub(super) fn seal(self, carried: Carried) -> SealedBatch {
        let records_bytes = self.records_bytes();
        let OpenBatch { sequence, mut buffer, record_count, summed, must_sync, highest } = self;
        buffer.pad_to_block();
        SealedBatch {
            sequence,
            records_bytes,
            carried,
            is_claim: false,
            must_sync,
            highest,
            record_count,
            summed: summed.into(),
            buffer,
        }
    }
}

/// A batch that takes no more records and waits for its place on the disk.
#[derive(Debug)]
pub struct SealedBatch {
    pub(super) sequence: u64,
    pub(super) records_bytes: usize,
    pub(super) carried: Carried,
    /// It holds nothing that itself waits to be claimed.
    pub(super) is_claim: bool,
    /// It is synced before it counts as durable, whatever the mode.
    pub(super) must_sync: bool,
    /// Index of the highest entry in it, truncated meanwhile or not.
    pub(super) highest: Option<u64>,
    record_count: u32,
    /// Payloads whose checksum is known, and where they stand behind the header.
    summed: Box<[Stretch]>,
    buffer: AlignedBuffer,
}

impl SealedBatch {
    /// The position that is durable once this is written.
    pub fn position(&self) -> Position {
        Position(self.sequence)
    }

    /// Bytes that it takes on the disk.
    pub fn bytes(&self) -> usize {
        self.buffer.len() - BLOCK_BYTES
    }

    pub(super) fn into_claim(self) -> Self {
        SealedBatch { is_claim: true, ..self }
    }

    /// Writes the header for a place in this life of a segment, behind `durable_sequence`.
    pub(super) fn finish(&mut self, life: Life, durable_sequence: u64) {
        assert!(durable_sequence < self.sequence, "a batch cannot claim itself");
        let records_bytes =
            u32::try_from(self.records_bytes).expect("invariant: a batch is smaller than 4 GiB");
        let (_, batch) = self.buffer.as_mut_slice().split_at_mut(BLOCK_BYTES);
        let words =
            [BATCH_MAGIC, life.segment, self.sequence, durable_sequence].map(u64::to_le_bytes);
        put(batch, 0, words.as_flattened());
        put(batch, 32, &records_bytes.to_le_bytes());
        put(batch, 36, &self.record_count.to_le_bytes());
        put(batch, NONCE_OFFSET, &life.nonce.0.to_le_bytes());
        let crc = crc_of(batch, &self.summed).expect("invariant: a batch has a header");
        put(batch, CRC_OFFSET, &crc.to_le_bytes());
    }

    /// The batch as it goes to the disk.
    pub(super) fn as_slice(&self) -> &[u8] {
        self.buffer.as_slice().split_at(BLOCK_BYTES).1
    }

    /// The batch with the header of the segment that it opens before it.
    pub(super) fn as_slice_behind(&mut self, header: &[u8; BLOCK_BYTES]) -> &[u8] {
        put(self.buffer.as_mut_slice(), 0, header);
        self.buffer.as_slice()
    }

    pub(super) fn into_buffer(self) -> AlignedBuffer {
        self.buffer
    }
}

/// Copies `bytes` to `offset`; both are constants of the format.
pub(super) fn put(target: &mut [u8], offset: usize, bytes: &[u8]) {
    target
        .get_mut(offset..offset + bytes.len())
        .expect("invariant: the field lies inside")
        .copy_from_slice(bytes);
}
