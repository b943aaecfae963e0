//! The header block of a segment, and segments' names. Pure; `docs/format.md` defines the bytes.
//!
//! Called by the writer (which begins a segment) and recovery. Invariants:
//!
//! - I1: a header is written together with the segment's first batch and never again.
//! - I2: a header names the segment and batch that it follows; everything behind that batch in the
//!   named segment, and in segments with ids between the two, is dead.
//! - I3: a header carries the state of the log before its first batch, so earlier segments can be
//!   removed whole.
//! - I4: no byte of a header was chosen by a client, and block 0 of a segment never holds anything
//!   else: so a nonce found there was drawn by this log, even if the rest of the header is damaged.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use super::batch::put;
use super::fields::Fields;
use crate::disk::BLOCK_BYTES;
use crate::{LogId, Vote};

/// First bytes of every segment.
pub const SEGMENT_MAGIC: [u8; 8] = *b"dstsegmt";
/// Version of segments, batches and records that this program writes, and the newest it reads.
pub const SEGMENT_VERSION: u32 = 2;
/// Bytes before the first batch of a segment.
pub(super) const SEGMENT_HEADER_BYTES: usize = BLOCK_BYTES;

const FLAGS_OFFSET: usize = 12;
const VERSION_OFFSET: usize = 8;
const WORDS_OFFSET: usize = 16;
const NONCE_OFFSET: usize = 128;
const NEXT_NONCE_OFFSET: usize = 144;
/// In another sector than the first.
const NONCE_AGAIN_OFFSET: usize = BLOCK_BYTES - 24;
const CRC_OFFSET: usize = BLOCK_BYTES - 4;
const FLAG_VOTE: u32 = 1;
const FLAG_VOTE_COMMITTED: u32 = 2;
const FLAG_PURGED: u32 = 4;
const FLAG_COMMITTED: u32 = 8;
const FLAG_LAST: u32 = 16;
const NAME_SUFFIX: &str = ".segment";
/// ... of one that is out of the log, kept to be used again.
const SPARE_SUFFIX: &str = ".spare";
const NAME_DIGITS: usize = 16;

/// The state of the log at one point of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Carried {
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<LogId>,
    /// Last log id, which is the purge point if the log is empty.
    pub(super) last: Option<LogId>,
}

/// The batch that a segment goes on after; all zero if it begins the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Follows {
    pub(super) segment: u64,
    pub(super) sequence: u64,
}

/// A secret number of 128 random bits, which tells the batches of one life of a segment from all
/// other bytes: a client cannot know it, so no value of a client's can be a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Nonce(pub(super) u128);

/// Nobody is shown a nonce.
impl std::fmt::Debug for Nonce {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Nonce(secret)")
    }
}

/// One life of a segment: from the header that begins it to the next one in the same file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    /// The segment's id.
    pub(super) segment: u64,
    pub(super) nonce: Nonce,
}

/// The header block of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) id: u64,
    pub(super) nonce: Nonce,
    /// That of the segment that will follow: should its header be lost, its batches are still told.
    pub(super) next_nonce: Nonce,
    /// Sequence of the first batch.
    pub(super) first_sequence: u64,
    /// Bytes of the whole segment, this block included.
    pub(super) bytes: u64,
    pub(super) follows: Follows,
    pub(super) carried: Carried,
    /// Zero in this version.
    pub(super) reserved: u64,
}

/// What the first block of a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    /// A header of this segment.
    Yes(SegmentHeader),
    /// Zeros, a header of the segment's earlier life, or bytes of another origin.
    No,
    /// A header of this segment that is torn or damaged.
    Damaged,
    /// Written by a version that this program does not know.
    Unknown(u32),
}

impl SegmentHeader {
    pub(super) fn life(&self) -> Life {
        Life { segment: self.id, nonce: self.nonce }
    }

    pub(super) fn encode(&self) -> [u8; BLOCK_BYTES] {
        let Carried { vote, purged, committed, last } = self.carried;
        let flags = vote.map_or(0, |_| FLAG_VOTE)
            | vote.filter(|vote| vote.committed).map_or(0, |_| FLAG_VOTE_COMMITTED)
            | purged.map_or(0, |_| FLAG_PURGED)
            | committed.map_or(0, |_| FLAG_COMMITTED)
            | last.map_or(0, |_| FLAG_LAST);
        let (vote, purged) = (vote.unwrap_or_default(), purged.unwrap_or_default());
        let (committed, last) = (committed.unwrap_or_default(), last.unwrap_or_default());
        let words = [
            [self.id, self.bytes],
            [self.first_sequence, self.follows.segment],
            [self.follows.sequence, self.reserved],
            [vote.term.get(), vote.node_id.get()],
            [purged.term.get(), purged.index],
            [committed.term.get(), committed.index],
            [last.term.get(), last.index],
        ];
        let mut block = [0; BLOCK_BYTES];
        put(&mut block, 0, &SEGMENT_MAGIC);
        put(&mut block, VERSION_OFFSET, &SEGMENT_VERSION.to_le_bytes());
        put(&mut block, FLAGS_OFFSET, &flags.to_le_bytes());
        for (word, offset) in words.as_flattened().iter().zip((WORDS_OFFSET..).step_by(8)) {
            put(&mut block, offset, &word.to_le_bytes());
        }
        put(&mut block, NONCE_OFFSET, &self.nonce.0.to_le_bytes());
        put(&mut block, NEXT_NONCE_OFFSET, &self.next_nonce.0.to_le_bytes());
        put(&mut block, NONCE_AGAIN_OFFSET, &self.nonce.0.to_le_bytes());
        let crc = crc_of(&block);
        put(&mut block, CRC_OFFSET, &crc.to_le_bytes());
        block
    }

    /// Judges the first block of the segment that is named `id`.
    pub(super) fn decode(block: &[u8; BLOCK_BYTES], id: u64) -> Begun {
        let Some((magic, version, header, crc)) = fields_of(block) else { return Begun::No };
        let is_whole = crc == crc_of(block);
        if magic == SEGMENT_MAGIC && version != SEGMENT_VERSION {
            let mut mended = *block;
            put(&mut mended, VERSION_OFFSET, &SEGMENT_VERSION.to_le_bytes());
            // A flipped bit in the version is damage; everything else is another version.
            let is_flip = !is_whole && crc_of(&mended) == crc;
            return if is_flip { Begun::Damaged } else { Begun::Unknown(version) };
        }
        match (magic == SEGMENT_MAGIC, is_whole, header.id == id) {
            (true, true, true) => Begun::Yes(header),
            (true, false, true) | (false, _, true) => Begun::Damaged,
            // An id that does not match although the block is not whole: the flip is in the id,
            // or the segment has only been prepared and this is what is left of its earlier life.
            _ => Begun::No,
        }
    }
}

/// The nonces that the first block of a segment names, whether or not the rest of it is whole (I4).
pub(super) fn nonces_in(block: &[u8; BLOCK_BYTES]) -> impl Iterator<Item = Nonce> {
    [NONCE_OFFSET, NONCE_AGAIN_OFFSET]
        .into_iter()
        .filter_map(|offset| block.get(offset..)?.first_chunk().copied().map(u128::from_le_bytes))
        .filter(|&nonce| nonce != 0) // a place that was never written
        .map(Nonce)
}

fn fields_of(block: &[u8; BLOCK_BYTES]) -> Option<([u8; 8], u32, SegmentHeader, u32)> {
    let mut fields = Fields::new(block);
    let magic = fields.u64()?.to_le_bytes();
    let (version, flags) = (fields.u32()?, fields.u32()?);
    let (id, bytes, first_sequence) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let follows = Follows { segment: fields.u64()?, sequence: fields.u64()? };
    let reserved = fields.u64()?;
    let vote = fields.vote(flags & FLAG_VOTE_COMMITTED != 0)?;
    let (purged, committed, last) = (fields.log_id()?, fields.log_id()?, fields.log_id()?);
    let carried = Carried {
        vote: (flags & FLAG_VOTE != 0).then_some(vote),
        purged: (flags & FLAG_PURGED != 0).then_some(purged),
        committed: (flags & FLAG_COMMITTED != 0).then_some(committed),
        last: (flags & FLAG_LAST != 0).then_some(last),
    };
    let (nonce, next_nonce) = (Nonce(fields.u128()?), Nonce(fields.u128()?));
    let crc = Fields::new(block.get(CRC_OFFSET..)?).u32()?;
    let header =
        SegmentHeader { id, nonce, next_nonce, first_sequence, bytes, follows, carried, reserved };
    Some((magic, version, header, crc))
}

fn crc_of(block: &[u8; BLOCK_BYTES]) -> u32 {
    crc32fast::hash(block.get(..CRC_OFFSET).expect("invariant: the CRC ends the block"))
}

/// The file name of a segment.
pub(super) fn name_of(id: u64) -> String {
    format!("{id:016x}{NAME_SUFFIX}")
}

/// The name that a segment has once it is out of the log.
pub(super) fn spare_name_of(name: &str) -> String {
    match name.strip_suffix(NAME_SUFFIX) {
        Some(digits) => format!("{digits}{SPARE_SUFFIX}"),
        None => name.to_owned(),
    }
}

/// The id that a segment had which is out of the log, if a file name means one.
pub(super) fn spare_id_of(name: &str) -> Option<u64> {
    id_before(name, SPARE_SUFFIX)
}

/// The segment that a file name means, if any.
pub(super) fn id_of(name: &str) -> Option<u64> {
    id_before(name, NAME_SUFFIX)
}

fn id_before(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    (digits.len() == NAME_DIGITS).then_some(())?;
    let id = u64::from_str_radix(digits, 16).ok().filter(|&id| id > 0)?;
    (format!("{id:016x}") == digits).then_some(id)
}
