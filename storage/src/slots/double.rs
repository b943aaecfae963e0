//! `double.dat`: every checkpoint round is written here whole before it is written in place, so
//! that a crash in the middle of the in-place writes tears no slot. See `docs/format.md`,
//! "double.dat".
//!
//! Called by `slots`; calls `disk`. Invariants:
//!
//! - I1: no page of the data area is written in place before the round that holds it is durable
//!   here, and no round is written here before the in-place writes of the one before it are
//!   durable.
//! - I2: so a complete round that is found here is the last one, and only its own pages were
//!   written in place since: writing them again, any number of times, is safe. If the round here is
//!   incomplete, none of its pages was written in place, and all of the round before it is in
//!   place.
//! - I3: a round holds pages of the data area, never a superblock: superblocks are written in
//!   between, and a replay must not bring an old one back.
//! - I4: a new data file begins with a `double.dat` of zeros that was durable before the data file
//!   got its name, so no round of an earlier file is ever replayed into it.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use std::sync::Arc;

use bytes::{Buf, BufMut};

use crate::disk::{AlignedBuffer, BLOCK_BYTES, File};
use crate::slots::geometry::{DATA_OFFSET, Geometry};
use crate::state::PAGE_BYTES;
use crate::{Error, Result};

/// Most pages of a round.
pub(crate) const ROUND_PAGES_MAX: usize = 4096;
/// What the file begins with once a round was written.
pub(crate) const MAGIC: [u8; 8] = *b"DSTDOUBL";
/// Version of the file's format.
pub(crate) const VERSION: u32 = 2;

/// The highest number of a round or of a superblock that is believed: a file that is right has come to none of these, and
/// others follow it.
pub(crate) const SEQUENCE_MAX: u64 = 1 << 62;
/// Bytes of the fields before the page list.
const FIXED_BYTES: usize = 48;
/// Bytes before the first page image: fields and page list, in whole blocks.
pub(crate) const PREFIX_BYTES: usize =
    (FIXED_BYTES + ROUND_PAGES_MAX * 8).next_multiple_of(BLOCK_BYTES);
const VERSION_OFFSET: usize = 8;
const CRC_OFFSET: usize = 12;
/// The page size, where an index is wanted.
pub(crate) const PAGE: usize = BLOCK_BYTES;

const _: () = assert!(PAGE as u64 == PAGE_BYTES);

/// Bytes of the whole file: room for the largest round that such a data file can have.
pub(crate) fn file_bytes(geometry: Geometry) -> u64 {
    (PREFIX_BYTES + round_pages_max(geometry) * PAGE) as u64
}

fn round_pages_max(geometry: Geometry) -> usize {
    usize::try_from(geometry.page_count())
        .map_or(ROUND_PAGES_MAX, |count| count.min(ROUND_PAGES_MAX))
}

/// The file, and the number of the round that it is to hold next.
#[derive(Debug)]
pub(crate) struct Double {
    file: Arc<dyn File>,
    cluster_id: u128,
    sequence: u64,
}

/// What a start found in `double.dat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoubleFound {
    /// No round was ever written.
    Empty,
    /// A round that was cut off; it has touched nothing.
    Incomplete,
    /// A whole round.
    Complete {
        /// Pages that it holds.
        pages: u64,
        /// Pages that were not in place and have been put there.
        restored: u64,
    },
}

/// Pages about to be written, in one buffer: room for the prefix, then the images.
#[derive(Debug)]
pub(crate) struct Image {
    /// Pages of the data area, ascending; image `i` is that of page `pages[i]`.
    pub(crate) pages: Vec<u64>,
    pub(crate) buffer: AlignedBuffer,
}

impl Image {
    /// A round without pages.
    pub(crate) fn new() -> Self {
        let mut image = Self { pages: Vec::new(), buffer: AlignedBuffer::with_capacity(0) };
        image.clear();
        image
    }

    /// Forgets the pages, keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.pages.clear();
        self.buffer.clear();
        self.buffer.resize_zeroed(PREFIX_BYTES);
    }

    /// Adds the image of a page, which must be above those before it. Returns its bytes, all of
    /// which the caller sets: they may be those of an earlier round.
    pub(crate) fn push(&mut self, page: u64) -> &mut [u8] {
        assert!(self.pages.last().is_none_or(|last| *last < page), "page {page} twice in a round");
        assert!(self.pages.len() < ROUND_PAGES_MAX, "a round of too many pages");
        self.pages.push(page);
        self.buffer.extend_unset(PAGE)
    }

    /// The images from number `first` on, as one run of bytes.
    pub(crate) fn bytes_from(&mut self, first: usize) -> &mut [u8] {
        let start = PREFIX_BYTES + first * PAGE;
        self.buffer.as_mut_slice().get_mut(start..).unwrap_or_default()
    }

    /// Writes the pages in place, adjacent ones with one write, and syncs. After `Ok` they survive
    /// power loss.
    pub(crate) fn write_in_place(&self, file: &dyn File) -> Result<()> {
        let images = self.buffer.as_slice().get(PREFIX_BYTES..).unwrap_or_default();
        let mut rest = images;
        for run in self.pages.chunk_by(|page, next| page + 1 == *next) {
            let (bytes, behind) = rest.split_at(run.len() * PAGE);
            let first = run.first().expect("invariant: a run has a page");
            file.write_at(bytes, DATA_OFFSET + first * PAGE_BYTES)?;
            rest = behind;
        }
        file.sync()
    }
}

impl Double {
    /// Takes a file of zeros, or of the given last round.
    pub(crate) fn new(file: Arc<dyn File>, cluster_id: u128, last_sequence: u64) -> Self {
        Self { file, cluster_id, sequence: last_sequence + 1 }
    }

    /// Writes a round with one sequential write and syncs it. After `Ok` it survives power loss.
    pub(crate) fn write(&mut self, image: &mut Image) -> Result<()> {
        let prefix = self.encode_prefix(&image.pages);
        let target = image.buffer.as_mut_slice().get_mut(..prefix.len());
        target.expect("invariant: the prefix fits").copy_from_slice(&prefix);
        let crc = checksum(image.buffer.as_slice(), image.pages.len());
        let crc = crc.expect("invariant: the images follow the prefix");
        let target = image.buffer.as_mut_slice().get_mut(CRC_OFFSET..CRC_OFFSET + 4);
        target.expect("invariant: the prefix fits").copy_from_slice(&crc.to_le_bytes());
        self.file.write_at(image.buffer.as_slice(), 0)?;
        self.file.sync()?;
        self.sequence += 1;
        Ok(())
    }

    fn encode_prefix(&self, pages: &[u64]) -> Vec<u8> {
        let count = u32::try_from(pages.len()).expect("invariant: at most ROUND_PAGES_MAX");
        let mut prefix = Vec::with_capacity(FIXED_BYTES + pages.len() * 8);
        prefix.put_slice(&MAGIC);
        prefix.put_u32_le(VERSION);
        prefix.put_u32_le(0); // the CRC, filled in by the caller
        prefix.put_u64_le(self.sequence);
        prefix.put_u128_le(self.cluster_id);
        prefix.put_u32_le(count);
        prefix.put_u32_le(0); // reserved
        assert_eq!(prefix.len(), FIXED_BYTES, "the layout of docs/format.md");
        for page in pages {
            prefix.put_u64_le(*page);
        }
        prefix
    }
}

/// What was read from `double.dat`.
#[derive(Debug)]
pub(crate) enum Round {
    /// Zeros.
    Empty,
    /// Not whole.
    Incomplete,
    /// Whole.
    Complete { sequence: u64, cluster_id: u128, image: Image },
}

/// Reads the round of a `double.dat`.
///
/// # Errors
/// `UnknownVersion` if a newer program wrote it; `Corrupt` if it is too short to be one.
pub(crate) fn read(file: &dyn File, geometry: Geometry) -> Result<Round> {
    let what = "length of the double write file";
    if file.len()? < file_bytes(geometry) {
        return Err(Error::Corrupt { path: file.path(), offset: 0, what });
    }
    let mut image = Image::new();
    file.read_at(image.buffer.as_mut_slice(), 0)?;
    let prefix = image.buffer.as_slice();
    if prefix.iter().all(|byte| *byte == 0) {
        return Ok(Round::Empty);
    }
    let Some(fixed) = prefix.first_chunk::<FIXED_BYTES>() else { return Ok(Round::Incomplete) };
    let mut fields = fixed.as_slice();
    let magic = fields.copy_to_bytes(MAGIC.len());
    let version = fields.get_u32_le();
    let crc = fields.get_u32_le();
    let sequence = fields.get_u64_le();
    let cluster_id = fields.get_u128_le();
    let count = usize::try_from(fields.get_u32_le()).unwrap_or(usize::MAX);
    let reserved = fields.get_u32_le();
    if *magic != MAGIC || reserved != 0 || count > round_pages_max(geometry) {
        return Ok(Round::Incomplete);
    }
    let list = prefix.get(FIXED_BYTES..FIXED_BYTES + count * 8).unwrap_or_default();
    let pages: Vec<u64> = list.chunks_exact(8).map(|mut page| page.get_u64_le()).collect();
    let plausible = sequence <= SEQUENCE_MAX
        && pages.iter().all(|page| *page < geometry.page_count())
        && pages.is_sorted_by(|page, next| page < next);
    image.buffer.resize_zeroed(PREFIX_BYTES + count * PAGE);
    if count > 0 {
        file.read_at(image.bytes_from(0), PREFIX_BYTES as u64)?;
    }
    // A version whose bit flipped is restored for the check, as in the superblock.
    if let Some(field) = image.buffer.as_mut_slice().get_mut(VERSION_OFFSET..VERSION_OFFSET + 4) {
        field.copy_from_slice(&VERSION.to_le_bytes());
    }
    if checksum(image.buffer.as_slice(), count) == Some(crc) && plausible {
        image.pages = pages;
        return Ok(Round::Complete { sequence, cluster_id, image });
    }
    if version != VERSION {
        return Err(Error::UnknownVersion { path: file.path(), version, known: VERSION });
    }
    Ok(Round::Incomplete)
}

/// Puts a complete round back into place (I2) and syncs. Returns how many pages were not there.
pub(crate) fn replay(image: &Image, file: &dyn File) -> Result<u64> {
    let mut buffer = AlignedBuffer::with_capacity(PAGE);
    buffer.resize_zeroed(PAGE);
    let images = image.buffer.as_slice().get(PREFIX_BYTES..).unwrap_or_default();
    let mut restored = 0;
    for (page, bytes) in image.pages.iter().zip(images.chunks_exact(PAGE)) {
        let there = file.read_at(buffer.as_mut_slice(), DATA_OFFSET + page * PAGE_BYTES);
        // A page that cannot be read is written like one that differs.
        restored += u64::from(there.is_err() || buffer.as_slice() != bytes);
    }
    if restored > 0 {
        image.write_in_place(file)?;
    }
    Ok(restored)
}

/// CRC-32 over fields, page list and images, without the CRC itself and without the unused rest of
/// the list.
fn checksum(bytes: &[u8], page_count: usize) -> Option<u32> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytes.get(..CRC_OFFSET)?);
    hasher.update(bytes.get(CRC_OFFSET + 4..FIXED_BYTES + page_count * 8)?);
    hasher.update(bytes.get(PREFIX_BYTES..PREFIX_BYTES + page_count * PAGE)?);
    Some(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::disk::{Disk, SimDisk, WriteMode};

    const CLUSTER: u128 = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100;

    fn geometry() -> Geometry {
        Geometry::new(20, 1024).unwrap()
    }

    fn file() -> Arc<dyn File> {
        let disk = SimDisk::new(1);
        let file = disk.create(Path::new("/double.dat"), WriteMode::Direct).unwrap();
        file.reserve(file_bytes(geometry())).unwrap();
        file
    }

    fn example() -> Image {
        let mut image = Image::new();
        image.push(1).fill(0xaa);
        image.push(4).fill(0xbb);
        image
    }

    #[test]
    fn the_bytes_of_a_round_are_pinned() {
        let file = file();
        Double::new(Arc::clone(&file), CLUSTER, 6).write(&mut example()).unwrap();
        let mut bytes = vec![0; PREFIX_BYTES + 2 * PAGE];
        file.read_at(&mut bytes, 0).unwrap();
        let mut golden = Vec::new();
        golden.extend_from_slice(b"DSTDOUBL");
        golden.extend_from_slice(&[2, 0, 0, 0]);
        golden.extend_from_slice(&[144, 106, 64, 227]); // CRC
        golden.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&(0..16).collect::<Vec<u8>>());
        golden.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[4, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(PREFIX_BYTES, 36_864);
        golden.resize(36_864, 0);
        golden.resize(36_864 + 4096, 0xaa);
        golden.resize(36_864 + 8192, 0xbb);
        assert_eq!(bytes, golden);
    }

    #[test]
    fn a_round_is_read_as_it_was_written() {
        let file = file();
        assert!(matches!(read(file.as_ref(), geometry()).unwrap(), Round::Empty));
        let mut double = Double::new(Arc::clone(&file), CLUSTER, 0);
        double.write(&mut example()).unwrap();
        double.write(&mut example()).unwrap();
        let Round::Complete { sequence, cluster_id, image } =
            read(file.as_ref(), geometry()).unwrap()
        else {
            panic!("not complete");
        };
        assert_eq!((sequence, cluster_id), (2, CLUSTER));
        assert_eq!(image.pages, [1, 4]);
        assert_eq!(
            image.buffer.as_slice()[PREFIX_BYTES..],
            example().buffer.as_slice()[PREFIX_BYTES..]
        );
    }

    #[test]
    fn a_round_that_none_could_follow_is_not_believed() {
        for (before, is_believed) in [(SEQUENCE_MAX - 1, true), (SEQUENCE_MAX, false)] {
            let file = file();
            Double::new(Arc::clone(&file), CLUSTER, before).write(&mut example()).unwrap();
            let round = read(file.as_ref(), geometry()).unwrap();
            assert_eq!(matches!(round, Round::Complete { .. }), is_believed, "{before}");
        }
    }

    #[test]
    fn a_shorter_round_over_a_longer_one_is_complete() {
        let file = file();
        let mut double = Double::new(Arc::clone(&file), CLUSTER, 0);
        double.write(&mut example()).unwrap();
        let mut short = Image::new();
        short.push(2).fill(0xcc);
        double.write(&mut short).unwrap();
        let round = read(file.as_ref(), geometry()).unwrap();
        assert!(matches!(round, Round::Complete { image, .. } if image.pages == [2]));
    }

    #[test]
    fn pages_out_of_order_or_beyond_the_file_make_a_round_incomplete() {
        for pages in [[4, 1], [1, 1], [1, geometry().page_count()]] {
            let file = file();
            let mut image = example();
            image.pages = pages.to_vec();
            Double::new(Arc::clone(&file), CLUSTER, 0).write(&mut image).unwrap();
            assert!(matches!(read(file.as_ref(), geometry()).unwrap(), Round::Incomplete));
        }
    }
}
