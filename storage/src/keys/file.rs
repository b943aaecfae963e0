//! The bytes of `snapshot.dat`. See `docs/format.md`, "snapshot.dat".
//!
//! Called by `keys`; calls `disk`. A file is a header, pieces of records, and an end; each begins
//! at a block and has a CRC of its own. Invariants:
//!
//! - I1: a file gets its name only when all of it is durable, and the log that it contains is
//!   durable too. So a file that ends early, or whose CRC is wrong, is damaged.
//! - I2: the CRC of a piece covers its number and the header's CRC: a piece of another file, or in
//!   another place, is damage.
//! - I3: no length is used before it was compared with the file and with its limit.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};

use crate::disk::{AlignedBuffer, BLOCK_BYTES, Disk, File, WriteMode};
use crate::identity::TMP_NAME;
use crate::keys::{Domain, KEY_BYTES_MAX, KeyImage, REGISTER_BYTES_MAX, SNAPSHOT_FILE};
use crate::state::{MEMBERSHIP_BYTES_MAX, Membership};
use crate::{Error, LogId, Result, Term};

/// What a snapshot file begins with.
pub(crate) const MAGIC: [u8; 8] = *b"DSTSNAPS";
/// Version of the format.
pub(crate) const VERSION: u32 = 2;
/// Bytes of records from which on a piece is written.
pub const PIECE_BYTES_DEFAULT: usize = 1 << 20;

/// What the file is called in `tmp/` until it is whole.
const NEW_NAME: &str = "snapshot.new";
/// Bytes before the membership body.
const FIXED_BYTES: usize = 96;
const CRC_OFFSET: usize = 12;
const HAS_CHECKPOINT: u32 = 1;
const HAS_MEMBERSHIP: u32 = 2;
const HAS_CLOCKS: u32 = 4;
/// length u32, count u32, number u64, CRC u32.
const PIECE_HEADER_BYTES: usize = 20;
const PIECE_CRC_OFFSET: usize = 16;
/// index u64, value word u32, key bytes u16, reserved u16, time of expiry u64 (reserved).
const RECORD_HEADER_BYTES: usize = 24;
/// The bit of the value word that says that the key holds a value.
const LIVE: u32 = 1 << 31;
/// Records u64, highest index u64.
const END_BYTES: usize = 16;
/// Longest piece: full but for one byte, and then the longest record.
const PIECE_BYTES_MAX: usize =
    PIECE_BYTES_DEFAULT + RECORD_HEADER_BYTES + KEY_BYTES_MAX + REGISTER_BYTES_MAX as usize;

const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(REGISTER_BYTES_MAX < LIVE);
const _: () = assert!(PIECE_BYTES_MAX < u32::MAX as usize);
const _: () = assert!(FIXED_BYTES <= BLOCK_BYTES && PIECE_HEADER_BYTES + END_BYTES <= BLOCK_BYTES);

/// What a snapshot file as a whole is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What the index of a key counts.
    pub domain: Domain,
    /// The cluster that the data belongs to.
    pub cluster_id: u128,
    /// Most bytes of a value.
    pub value_bytes: u32,
    /// Every entry up to here is in the file; some keys may be newer.
    pub checkpoint: Option<LogId>,
    /// Membership as of `checkpoint`.
    pub membership: Membership,
    /// CRC-32 of the file of request ids as of `checkpoint`; 0 if there are none.
    pub requests_crc: u32,
    /// The keys are a state that ever was only once every entry up to here is applied.
    pub readable_from: u64,
    /// Deletes up to here may be forgotten.
    pub horizon: u64,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let body = &self.membership.body;
        assert!(body.len() <= MEMBERSHIP_BYTES_MAX, "membership of {} bytes", body.len());
        let length = u32::try_from(body.len()).expect("invariant: below the maximum");
        let checkpoint = self.checkpoint.unwrap_or_default();
        let membership = self.membership.log_id.unwrap_or_default();
        let flags = self.checkpoint.map_or(0, |_| HAS_CHECKPOINT)
            | self.membership.log_id.map_or(0, |_| HAS_MEMBERSHIP)
            | if self.domain == Domain::Clocks { HAS_CLOCKS } else { 0 };
        let mut bytes = Vec::with_capacity(FIXED_BYTES + body.len());
        bytes.put_slice(&MAGIC);
        bytes.put_u32_le(VERSION);
        bytes.put_u32_le(0); // the CRC, below
        bytes.put_u128_le(self.cluster_id);
        bytes.put_u32_le(self.value_bytes);
        bytes.put_u32_le(flags);
        bytes.put_u64_le(checkpoint.term.get());
        bytes.put_u64_le(checkpoint.index);
        bytes.put_u64_le(self.readable_from);
        bytes.put_u64_le(self.horizon);
        bytes.put_u64_le(membership.term.get());
        bytes.put_u64_le(membership.index);
        bytes.put_u32_le(length);
        bytes.put_u32_le(self.requests_crc);
        assert_eq!(bytes.len(), FIXED_BYTES, "the layout of docs/format.md");
        bytes.put_slice(body);
        let crc = crc32fast::hash(&bytes);
        put_u32_at(&mut bytes, CRC_OFFSET, crc);
        bytes
    }
}

fn put_u32_at(bytes: &mut [u8], offset: usize, number: u32) {
    if let Some(field) = bytes.get_mut(offset..offset + 4) {
        field.copy_from_slice(&number.to_le_bytes());
    }
}

/// Where `crc` lies in these bytes of a header, zeros are counted.
fn header_crc(bytes: &[u8]) -> Option<u32> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytes.get(..CRC_OFFSET)?);
    hasher.update(&[0; 4]);
    hasher.update(bytes.get(CRC_OFFSET + 4..)?);
    Some(hasher.finalize())
}

fn piece_crc(seed: u32, header: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(header);
    hasher.update(body);
    hasher.finalize()
}

/// A file on its way to its name.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    disk: &'a dyn Disk,
    directory: &'a Path,
    file: Arc<dyn File>,
    /// The piece being filled: its header, left open, and records.
    buffer: AlignedBuffer,
    offset: u64,
    seed: u32,
    number: u64,
    /// Records of the piece being filled, and of those before it.
    count: u32,
    total: u64,
    highest: u64,
}

impl<'a> Writer<'a> {
    /// Begins a file in `tmp/`.
    pub(super) fn create(
        disk: &'a dyn Disk,
        directory: &'a Path,
        header: &Header,
    ) -> Result<Writer<'a>> {
        let path = new_path(directory);
        if disk.exists(&path)? {
            disk.remove(&path)?;
        }
        let file = disk.create(&path, WriteMode::Direct)?;
        let bytes = header.encode();
        let seed = header_crc(&bytes).expect("invariant: longer than its fixed part");
        let mut buffer = AlignedBuffer::with_capacity(PIECE_BYTES_DEFAULT + BLOCK_BYTES);
        buffer.extend_from_slice(&bytes);
        let mut writer = Writer {
            disk,
            directory,
            file,
            buffer,
            offset: 0,
            seed,
            number: 0,
            count: 0,
            total: 0,
            highest: 0,
        };
        writer.write_buffer()?;
        Ok(writer)
    }

    /// Adds a record to the piece being filled.
    pub(super) fn push(&mut self, image: &KeyImage) {
        let KeyImage { key, index, value } = image;
        let mut header = [0; RECORD_HEADER_BYTES];
        let mut fields = header.as_mut_slice();
        let length = value.as_ref().map_or(0, |value| {
            LIVE | u32::try_from(value.len()).expect("invariant: values are bounded")
        });
        fields.put_u64_le(*index);
        fields.put_u32_le(length);
        fields.put_u16_le(u16::try_from(key.len()).expect("invariant: keys are bounded"));
        self.buffer.extend_from_slice(&header);
        self.buffer.extend_from_slice(key);
        self.buffer.extend_from_slice(value.as_deref().unwrap_or_default());
        self.count += 1;
        self.highest = self.highest.max(*index);
    }

    /// Writes the piece, if it has so many bytes.
    pub(super) fn write_full_piece(&mut self, piece_bytes: usize) -> Result<()> {
        let is_full = self.buffer.len() >= PIECE_HEADER_BYTES + piece_bytes;
        if is_full { self.write_piece() } else { Ok(()) }
    }

    /// Writes the piece, if there is anything in it.
    pub(super) fn write_piece(&mut self) -> Result<()> {
        if self.count == 0 { Ok(()) } else { self.write_any_piece() }
    }

    fn write_any_piece(&mut self) -> Result<()> {
        let length = u32::try_from(self.buffer.len() - PIECE_HEADER_BYTES);
        let mut header = Vec::with_capacity(PIECE_HEADER_BYTES);
        header.put_u32_le(length.expect("invariant: a piece is bounded"));
        header.put_u32_le(self.count);
        header.put_u64_le(self.number);
        let (place, body) = self.buffer.as_mut_slice().split_at_mut(PIECE_HEADER_BYTES);
        let crc = piece_crc(self.seed, &header, body);
        header.put_u32_le(crc);
        place.copy_from_slice(&header);
        self.number += 1;
        self.total += u64::from(self.count);
        self.count = 0;
        self.write_buffer()
    }

    /// Writes what is in the buffer and begins the next piece in it.
    fn write_buffer(&mut self) -> Result<()> {
        self.buffer.pad_to_block();
        self.file.write_at(self.buffer.as_slice(), self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.extend_from_slice(&[0; PIECE_HEADER_BYTES]);
        Ok(())
    }

    /// Ends the file, makes it durable, and only then gives it its name (I1). Returns its length.
    pub(super) fn finish(mut self, log_durable: &mut dyn FnMut() -> Result<()>) -> Result<u64> {
        self.write_piece()?;
        let mut end = Vec::with_capacity(END_BYTES);
        end.put_u64_le(self.total);
        end.put_u64_le(self.highest);
        self.buffer.extend_from_slice(&end);
        self.write_any_piece()?; // with a count of 0
        self.file.sync()?;
        log_durable()?;
        let new = new_path(self.directory);
        self.disk.rename(&new, &self.directory.join(SNAPSHOT_FILE))?;
        let tmp = self.directory.join(TMP_NAME);
        match self.disk.sync_dir(&tmp).and_then(|()| self.disk.sync_dir(self.directory)) {
            // That would say that the old file is there as before: from here on it may be the new one.
            Err(Error::NoSpace { path, .. }) => {
                let source = std::io::ErrorKind::StorageFull.into();
                Err(Error::Io { operation: "sync directory", path, offset: 0, source })
            }
            synced => synced.map(|()| self.offset),
        }
    }
}

fn new_path(directory: &Path) -> PathBuf {
    directory.join(TMP_NAME).join(NEW_NAME)
}

/// Fails with `NoSpace` if the disk has no room for a new file of so many bytes. Leaves nothing behind.
pub(super) fn check_space(disk: &dyn Disk, directory: &Path, bytes: u64) -> Result<()> {
    let path = new_path(directory);
    if disk.exists(&path)? {
        disk.remove(&path)?;
    }
    let file = disk.create(&path, WriteMode::Direct)?;
    let reserved = file.reserve(bytes);
    drop(file);
    disk.remove(&path)?;
    reserved
}

/// Removes what a writer that gave up has left, as far as that is possible.
pub(super) fn remove_unfinished(disk: &dyn Disk, directory: &Path) {
    match disk.remove(&new_path(directory)) {
        // The error that matters is the one that led here; a start sweeps `tmp/` anyhow.
        Ok(()) | Err(_) => {}
    }
}

/// A file that is read, from its head to its end.
#[derive(Debug)]
pub(crate) struct Reader {
    file: Arc<dyn File>,
    bytes: u64,
    offset: u64,
    seed: u32,
    number: u64,
    total: u64,
    highest: u64,
    pub(crate) header: Header,
}

impl Reader {
    /// Reads and checks the header.
    ///
    /// # Errors
    /// `UnknownVersion`; `Corrupt`; `Io`.
    pub(crate) fn open(file: Arc<dyn File>) -> Result<Reader> {
        let bytes = file.len()?;
        let corrupt = |what| Error::Corrupt { path: file.path(), offset: 0, what };
        let short = || corrupt("the file is too short");
        if bytes < BLOCK_BYTES as u64 {
            return Err(short());
        }
        let mut head = vec![0; FIXED_BYTES];
        file.read_at(&mut head, 0)?;
        let mut fields = head.as_slice();
        let mut magic = [0; 8];
        fields.copy_to_slice(&mut magic);
        if magic != MAGIC {
            return Err(corrupt("magic of a snapshot file"));
        }
        let version = fields.get_u32_le();
        if version != VERSION {
            return Err(Error::UnknownVersion { path: file.path(), version, known: VERSION });
        }
        let crc = fields.get_u32_le();
        let cluster_id = fields.get_u128_le();
        let value_bytes = fields.get_u32_le();
        let flags = fields.get_u32_le();
        let checkpoint = LogId { term: Term::new(fields.get_u64_le()), index: fields.get_u64_le() };
        let (readable_from, horizon) = (fields.get_u64_le(), fields.get_u64_le());
        let membership = LogId { term: Term::new(fields.get_u64_le()), index: fields.get_u64_le() };
        let (length, requests_crc) = (fields.get_u32_le() as usize, fields.get_u32_le());
        let header_bytes = (FIXED_BYTES + length).next_multiple_of(BLOCK_BYTES) as u64;
        if length > MEMBERSHIP_BYTES_MAX || header_bytes > bytes {
            return Err(corrupt("length of the membership")); // I3
        }
        let mut body = vec![0; length];
        file.read_at(&mut body, FIXED_BYTES as u64)?;
        head.extend_from_slice(&body);
        if header_crc(&head) != Some(crc) {
            return Err(corrupt("CRC-32 of the header"));
        }
        let is_known = flags & !(HAS_CHECKPOINT | HAS_MEMBERSHIP | HAS_CLOCKS) == 0;
        let domain = if flags & HAS_CLOCKS == 0 { Domain::Entries } else { Domain::Clocks };
        if !is_known || value_bytes > domain.value_bytes_max() {
            return Err(corrupt("fields of the header"));
        }
        let header = Header {
            domain,
            cluster_id,
            value_bytes,
            checkpoint: (flags & HAS_CHECKPOINT != 0).then_some(checkpoint),
            membership: Membership {
                log_id: (flags & HAS_MEMBERSHIP != 0).then_some(membership),
                body: body.into(),
            },
            requests_crc,
            readable_from,
            horizon,
        };
        let offset = header_bytes;
        Ok(Reader { file, bytes, offset, seed: crc, number: 0, total: 0, highest: 0, header })
    }

    /// The records of the next piece; `None` behind the end, which was checked.
    ///
    /// # Errors
    /// `Corrupt`; `Io`.
    pub(crate) fn next_piece(&mut self) -> Result<Option<Vec<KeyImage>>> {
        let mut block = [0; BLOCK_BYTES];
        if self.offset + BLOCK_BYTES as u64 > self.bytes {
            return Err(self.corrupt("the end is missing"));
        }
        self.file.read_at(&mut block, self.offset)?;
        let (head, first) = block.split_at(PIECE_HEADER_BYTES);
        let mut fields = head;
        let (length, count) = (fields.get_u32_le() as usize, fields.get_u32_le());
        let (number, crc) = (fields.get_u64_le(), fields.get_u32_le());
        let piece_bytes = (PIECE_HEADER_BYTES + length).next_multiple_of(BLOCK_BYTES) as u64;
        if length > PIECE_BYTES_MAX || self.offset + piece_bytes > self.bytes {
            return Err(self.corrupt("length of a piece")); // I3
        }
        let mut body = vec![0; length];
        let (start, rest) = body.split_at_mut(length.min(first.len()));
        start.copy_from_slice(first.get(..start.len()).unwrap_or_default());
        self.file.read_at(rest, self.offset + BLOCK_BYTES as u64)?;
        let covered = head.get(..PIECE_CRC_OFFSET).unwrap_or_default();
        if number != self.number || crc != piece_crc(self.seed, covered, &body) {
            return Err(self.corrupt("CRC-32 of a piece"));
        }
        if count == 0 {
            return self.end(&body, piece_bytes).map(|()| None);
        }
        let images =
            records(body.into(), count).ok_or_else(|| self.corrupt("records of a piece"))?;
        self.offset += piece_bytes;
        self.number += 1;
        self.total += images.len() as u64;
        let highest = images.iter().map(|image| image.index).max().unwrap_or(0);
        self.highest = self.highest.max(highest);
        Ok(Some(images))
    }

    /// The highest index among the records so far.
    pub(crate) fn highest(&self) -> u64 {
        self.highest
    }

    fn end(&self, body: &[u8], piece_bytes: u64) -> Result<()> {
        let counted = [self.total.to_le_bytes(), self.highest.to_le_bytes()].concat();
        if *body != *counted || self.offset + piece_bytes != self.bytes {
            return Err(self.corrupt("counts of the end"));
        }
        Ok(())
    }

    fn corrupt(&self, what: &'static str) -> Error {
        Error::Corrupt { path: self.file.path(), offset: self.offset, what }
    }
}

/// The records of a piece's bytes; `None` if they are not exactly `count` of them.
fn records(mut body: Bytes, count: u32) -> Option<Vec<KeyImage>> {
    // I3: a count takes memory only as far as there are bytes behind it.
    let possible = body.len() / RECORD_HEADER_BYTES;
    let mut images = Vec::with_capacity(possible.min(count as usize));
    for _ in 0..count {
        if body.len() < RECORD_HEADER_BYTES {
            return None;
        }
        let (index, word) = (body.get_u64_le(), body.get_u32_le());
        let (key_bytes, reserved) = (usize::from(body.get_u16_le()), body.get_u16_le());
        let expires = body.get_u64_le();
        let value_bytes = (word & !LIVE) as usize;
        let is_live = word & LIVE != 0;
        let is_sound = reserved == 0 && expires == 0 && index > 0 && (is_live || value_bytes == 0);
        if !is_sound || body.len() < key_bytes + value_bytes {
            return None;
        }
        let key = body.split_to(key_bytes);
        let value = body.split_to(value_bytes);
        images.push(KeyImage { key, index, value: is_live.then_some(value) });
    }
    body.is_empty().then_some(images)
}
