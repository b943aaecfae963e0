//! The superblock: geometry, checkpoint and membership of the whole data file, in two copies at its
//! head. See `docs/format.md`, "slots.dat".
//!
//! Called by `slots`; calls `disk`. Invariants:
//!
//! - I1: at least one copy is whole on the disk at any moment: a copy is overwritten only when the
//!   other holds a superblock that is synced.
//! - I2: a file that a newer program wrote is refused and left untouched. A flipped bit in the
//!   version of one copy is not taken for a newer program.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use bytes::{Buf, BufMut, Bytes};

use super::double::SEQUENCE_MAX;
use crate::disk::{AlignedBuffer, BLOCK_BYTES, File};
use crate::slots::geometry::Geometry;
use crate::state::{MEMBERSHIP_BYTES_MAX, Membership};
use crate::{Error, LogId, Result, Term};

/// Bytes from the first superblock copy to the second, and from there to the slots.
pub const SUPERBLOCK_STRIDE: u64 = 128 * 1024;
/// What a data file begins with.
pub(crate) const MAGIC: [u8; 8] = *b"DSTSLOTS";
/// Version of the data file's format.
pub(crate) const VERSION: u32 = 2;

/// Bytes before the membership body.
const FIXED_BYTES: usize = 104;
const VERSION_OFFSET: usize = 8;
const CRC_OFFSET: usize = 12;
const COPIES: u64 = 2;
const HAS_CHECKPOINT: u32 = 1;
const HAS_MEMBERSHIP: u32 = 2;

const _: () = assert!((FIXED_BYTES + MEMBERSHIP_BYTES_MAX) as u64 <= SUPERBLOCK_STRIDE);
const _: () = assert!(SUPERBLOCK_STRIDE.is_multiple_of(BLOCK_BYTES as u64));

/// What the data file as a whole is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Number and size of the slots.
    pub geometry: Geometry,
    /// The cluster that the data belongs to.
    pub cluster_id: u128,
    /// Every entry up to here is in the slots on disk; some slots may be newer.
    pub checkpoint: Option<LogId>,
    /// Membership as of `checkpoint`.
    pub membership: Membership,
    /// CRC-32 of the file of request ids as of `checkpoint`; 0 if there are none.
    pub requests_crc: u32,
    /// The slots are a state that ever was only once every entry up to here is applied.
    pub readable_from: u64,
    /// Counts the superblocks written; the higher of two copies is the newer.
    pub sequence: u64,
}

impl Superblock {
    /// The superblock of a new file.
    pub(crate) fn new(geometry: Geometry, cluster_id: u128) -> Self {
        Self {
            geometry,
            cluster_id,
            checkpoint: None,
            membership: Membership::default(),
            requests_crc: 0,
            readable_from: 0,
            sequence: 1,
        }
    }

    /// Writes one copy after the other, each synced before the next is touched (I1). After `Ok`
    /// both survive power loss.
    pub(crate) fn write(&self, file: &dyn File) -> Result<()> {
        for copy in 0..COPIES {
            self.write_copy(file, copy)?;
        }
        Ok(())
    }

    fn write_copy(&self, file: &dyn File, copy: u64) -> Result<()> {
        let bytes = self.encode();
        let mut block = AlignedBuffer::with_capacity(bytes.len());
        block.extend_from_slice(&bytes);
        block.pad_to_block();
        file.write_at(block.as_slice(), copy * SUPERBLOCK_STRIDE)?;
        file.sync()
    }

    fn encode(&self) -> Vec<u8> {
        let body = &self.membership.body;
        assert!(body.len() <= MEMBERSHIP_BYTES_MAX, "membership of {} bytes", body.len());
        let length = u32::try_from(body.len()).expect("invariant: below the maximum");
        let checkpoint = self.checkpoint.unwrap_or_default();
        let membership = self.membership.log_id.unwrap_or_default();
        let flags = self.checkpoint.map_or(0, |_| HAS_CHECKPOINT)
            | self.membership.log_id.map_or(0, |_| HAS_MEMBERSHIP);
        let mut bytes = Vec::with_capacity(FIXED_BYTES + body.len());
        bytes.put_slice(&MAGIC);
        bytes.put_u32_le(VERSION);
        bytes.put_u32_le(0); // the CRC, below
        bytes.put_u64_le(self.sequence);
        bytes.put_u128_le(self.cluster_id);
        bytes.put_u64_le(self.geometry.slot_count());
        bytes.put_u32_le(self.geometry.value_bytes());
        bytes.put_u32_le(flags);
        bytes.put_u64_le(checkpoint.term.get());
        bytes.put_u64_le(checkpoint.index);
        bytes.put_u64_le(self.readable_from);
        bytes.put_u64_le(membership.term.get());
        bytes.put_u64_le(membership.index);
        bytes.put_u32_le(length);
        bytes.put_u32_le(self.requests_crc);
        assert_eq!(bytes.len(), FIXED_BYTES, "the layout of docs/format.md");
        bytes.put_slice(body);
        let crc = checksum(&bytes).expect("invariant: longer than the fixed part");
        if let Some(field) = bytes.get_mut(CRC_OFFSET..CRC_OFFSET + 4) {
            field.copy_from_slice(&crc.to_le_bytes());
        }
        bytes
    }
}

/// What was found where a superblock copy should be.
#[derive(Debug, PartialEq, Eq)]
enum Copy {
    Good(Superblock),
    Bad,
    /// Written by a newer program.
    Newer(u32),
}

/// The superblock of a file.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) superblock: Superblock,
    /// The copy (0 or 1) that is bad or older.
    pub(crate) stale_copy: Option<u64>,
}

impl Found {
    /// Writes the stale copy again. After `Ok` both copies survive power loss.
    pub(crate) fn repair(&self, file: &dyn File) -> Result<()> {
        self.stale_copy.map_or(Ok(()), |copy| self.superblock.write_copy(file, copy))
    }
}

/// Reads both copies and takes the newer. Writes nothing.
///
/// # Errors
/// `UnknownVersion` if a newer program wrote either; `Corrupt` if both are bad.
pub(crate) fn read(file: &dyn File) -> Result<Found> {
    let first = read_copy(file, 0)?;
    let second = read_copy(file, 1)?;
    if let Copy::Newer(version) = first {
        return Err(newer(file, version));
    }
    if let Copy::Newer(version) = second {
        return Err(newer(file, version));
    }
    let (superblock, stale_copy) = match (first, second) {
        (Copy::Good(first), Copy::Good(second)) => match first.sequence.cmp(&second.sequence) {
            std::cmp::Ordering::Equal => (first, None),
            std::cmp::Ordering::Greater => (first, Some(1)),
            std::cmp::Ordering::Less => (second, Some(0)),
        },
        (Copy::Good(first), Copy::Bad | Copy::Newer(_)) => (first, Some(1)),
        (Copy::Bad | Copy::Newer(_), Copy::Good(second)) => (second, Some(0)),
        (Copy::Bad | Copy::Newer(_), Copy::Bad | Copy::Newer(_)) => {
            return Err(Error::Corrupt {
                path: file.path(),
                offset: 0,
                what: "both superblock copies",
            });
        }
    };
    Ok(Found { superblock, stale_copy })
}

fn newer(file: &dyn File, version: u32) -> Error {
    Error::UnknownVersion { path: file.path(), version, known: VERSION }
}

/// Reads one copy. A copy that cannot be read is a bad one: the other may serve.
fn read_copy(file: &dyn File, copy: u64) -> Result<Copy> {
    let offset = copy * SUPERBLOCK_STRIDE;
    if file.len()? < offset + SUPERBLOCK_STRIDE {
        return Ok(Copy::Bad);
    }
    let mut buffer = AlignedBuffer::with_capacity(stride());
    buffer.resize_zeroed(stride());
    match file.read_at(buffer.as_mut_slice(), offset) {
        Ok(()) => Ok(decode(buffer.as_slice())),
        Err(Error::Io { .. }) => Ok(Copy::Bad),
        Err(error) => Err(error),
    }
}

fn stride() -> usize {
    usize::try_from(SUPERBLOCK_STRIDE).expect("invariant: 128 KiB")
}

fn decode(bytes: &[u8]) -> Copy {
    let Some(version) = bytes.get(VERSION_OFFSET..).and_then(|rest| rest.first_chunk::<4>()) else {
        return Copy::Bad;
    };
    let version = u32::from_le_bytes(*version);
    if !bytes.starts_with(&MAGIC) {
        return Copy::Bad;
    }
    if version == VERSION {
        return decode_body(bytes).map_or(Copy::Bad, Copy::Good);
    }
    // I2: what is right but for its version has a flipped bit there.
    let mut ours = bytes.to_vec();
    if let Some(field) = ours.get_mut(VERSION_OFFSET..VERSION_OFFSET + 4) {
        field.copy_from_slice(&VERSION.to_le_bytes());
    }
    if decode_body(&ours).is_some() { Copy::Bad } else { Copy::Newer(version) }
}

fn decode_body(bytes: &[u8]) -> Option<Superblock> {
    let mut fixed = bytes.get(CRC_OFFSET..FIXED_BYTES)?;
    let crc = fixed.get_u32_le();
    let sequence = fixed.get_u64_le();
    let cluster_id = fixed.get_u128_le();
    let slot_count = fixed.get_u64_le();
    let value_bytes = fixed.get_u32_le();
    let flags = fixed.get_u32_le();
    let checkpoint = LogId { term: Term::new(fixed.get_u64_le()), index: fixed.get_u64_le() };
    let readable_from = fixed.get_u64_le();
    let membership = LogId { term: Term::new(fixed.get_u64_le()), index: fixed.get_u64_le() };
    let length = usize::try_from(fixed.get_u32_le()).ok()?;
    let requests_crc = fixed.get_u32_le();
    let unknown_flags = flags & !(HAS_CHECKPOINT | HAS_MEMBERSHIP);
    if length > MEMBERSHIP_BYTES_MAX || unknown_flags != 0 || sequence > SEQUENCE_MAX {
        return None;
    }
    let body = bytes.get(FIXED_BYTES..FIXED_BYTES + length)?;
    if checksum(bytes.get(..FIXED_BYTES + length)?)? != crc {
        return None;
    }
    Some(Superblock {
        geometry: Geometry::new(slot_count, value_bytes).ok()?,
        cluster_id,
        checkpoint: (flags & HAS_CHECKPOINT != 0).then_some(checkpoint),
        membership: Membership {
            log_id: (flags & HAS_MEMBERSHIP != 0).then_some(membership),
            body: Bytes::copy_from_slice(body),
        },
        requests_crc,
        readable_from,
        sequence,
    })
}

/// CRC-32 over everything but the CRC itself.
fn checksum(bytes: &[u8]) -> Option<u32> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytes.get(..CRC_OFFSET)?);
    hasher.update(bytes.get(CRC_OFFSET + 4..)?);
    Some(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Superblock {
        Superblock {
            geometry: Geometry::new(1000, 64).unwrap(),
            cluster_id: 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100,
            checkpoint: Some(LogId { term: Term::new(3), index: 77 }),
            membership: Membership {
                log_id: Some(LogId { term: Term::new(2), index: 5 }),
                body: Bytes::from_static(b"abc"),
            },
            requests_crc: 0,
            readable_from: 80,
            sequence: 9,
        }
    }

    #[test]
    fn the_bytes_of_a_superblock_are_pinned() {
        let mut golden = Vec::new();
        golden.extend_from_slice(b"DSTSLOTS");
        golden.extend_from_slice(&[2, 0, 0, 0]);
        golden.extend_from_slice(&[184, 237, 143, 74]); // CRC
        golden.extend_from_slice(&[9, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&(0..16).collect::<Vec<u8>>());
        golden.extend_from_slice(&[0xe8, 3, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 3, 0, 0, 0]);
        golden.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[80, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(b"abc");
        assert_eq!(example().encode(), golden);
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let mut superblock = example();
        assert_eq!(decode(&superblock.encode()), Copy::Good(superblock.clone()));
        superblock.checkpoint = None;
        superblock.membership.log_id = None;
        superblock.requests_crc = 0x0403_0201;
        assert_eq!(superblock.encode()[100..104], [1, 2, 3, 4]);
        assert_eq!(decode(&superblock.encode()), Copy::Good(superblock));
    }

    #[test]
    fn every_flipped_bit_makes_a_copy_bad() {
        let bytes = example().encode();
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bytes), Copy::Bad, "bit {bit}");
        }
    }

    #[test]
    fn a_short_copy_is_bad() {
        let bytes = example().encode();
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length]), Copy::Bad, "{length} bytes");
        }
    }

    #[test]
    fn a_newer_version_is_told_from_a_flipped_bit() {
        let mut bytes = example().encode();
        bytes[VERSION_OFFSET] = 3;
        bytes[40] ^= 1; // what a newer program would have laid out in another way
        assert_eq!(decode(&bytes), Copy::Newer(3));
    }
}
