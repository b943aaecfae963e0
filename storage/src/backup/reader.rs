//! Takes a backup apart, piece by piece, and believes nothing that it has not checked.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::{
    BACKUP_MAGIC, BACKUP_VERSION, BODY_BYTES_MAX, BROKEN, BackupEnd, BackupHeader, BackupSummary,
    END, END_BYTES, ENTRIES, HEAD_BYTES, KEYS, LIVE, PIECE_BYTES_MAX, PIECE_COVERED_BYTES,
    PIECE_HEADER_BYTES, Piece, REASON_BYTES_MAX, REQUESTS, SLOTS, piece_crc, seed_of,
};
use crate::disk::File;
use crate::keys::{KEY_BYTES_MAX, KeyImage};
use crate::requests::Requests;
use crate::slots::SlotImage;
use crate::wal::{Entry, EntryKind};
use crate::{Error, LogId, LogIndex, Result, SlotIndex, Term};

/// Bytes of a slot beside its value.
const SLOT_BYTES: usize = 8 + 8 + 4;
/// Bytes of a key's image beside key and value.
const KEY_BYTES: usize = 2 + 8 + 4;
/// Bytes of an entry beside its payload.
const ENTRY_BYTES: usize = 8 + 8 + 1 + 4;

/// A backup that is being read.
pub struct BackupReader<'a> {
    source: Box<dyn Read + 'a>,
    /// What errors call it.
    path: PathBuf,
    /// Bytes read so far: where the next piece begins.
    offset: u64,
    header: BackupHeader,
    seed: crc32fast::Hasher,
    whole: crc32fast::Hasher,
    /// What the end has to say of the pieces so far.
    seen: BackupEnd,
    /// The kind of the piece before; they never go back.
    kind: u8,
    /// The slot before.
    slot: Option<u64>,
}

impl fmt::Debug for BackupReader<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("BackupReader").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A file, read from its beginning to its end.
struct Whole {
    file: Arc<dyn File>,
    offset: u64,
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.file.len().map_err(io::Error::other)?.saturating_sub(self.offset);
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..count).unwrap_or_default();
        self.file.read_at(part, self.offset).map_err(io::Error::other)?;
        self.offset += count as u64;
        Ok(count)
    }
}

impl<'a> BackupReader<'a> {
    /// Reads and checks the header of a file.
    ///
    /// # Errors
    /// As [`BackupReader::new`].
    pub fn open(file: Arc<dyn File>) -> Result<BackupReader<'a>> {
        let path = file.path();
        BackupReader::new(Box::new(Whole { file, offset: 0 }), &path)
    }

    /// Reads and checks the header of what `source` gives; `path` is what errors call it.
    ///
    /// # Errors
    /// `Foreign` for anything but a backup; `UnknownVersion`; `Corrupt`; `Io`.
    pub fn new(mut source: Box<dyn Read + 'a>, path: &Path) -> Result<BackupReader<'a>> {
        let head = read_up_to(&mut source, HEAD_BYTES, path, 0)?;
        let mut fields = head.as_slice();
        if head.len() < HEAD_BYTES || fields.copy_to_bytes(BACKUP_MAGIC.len()) != BACKUP_MAGIC[..] {
            return Err(Error::Foreign { path: path.to_owned() });
        }
        let (version, body_bytes) = (fields.get_u32_le(), fields.get_u32_le() as usize);
        if version != BACKUP_VERSION {
            let (path, known) = (path.to_owned(), BACKUP_VERSION);
            return Err(Error::UnknownVersion { path, version, known });
        }
        let corrupt = |what| Error::Corrupt { path: path.to_owned(), offset: 0, what };
        if body_bytes > BODY_BYTES_MAX {
            return Err(corrupt("length of the header")); // I3 of `mod.rs`
        }
        let rest = read_up_to(&mut source, body_bytes + 4, path, HEAD_BYTES as u64)?;
        let Some((body, mut crc)) = rest.split_at_checked(body_bytes).filter(|it| it.1.len() == 4)
        else {
            return Err(corrupt("the file ends in the header"));
        };
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&head);
        hasher.update(body);
        if hasher.finalize() != crc.get_u32_le() {
            return Err(corrupt("CRC-32 of the header"));
        }
        let header = BackupHeader::of_body(body).ok_or_else(|| corrupt("fields of the header"))?;
        let exact_from = LogIndex::new(header.begin.index);
        Ok(BackupReader {
            source,
            path: path.to_owned(),
            offset: (HEAD_BYTES + rest.len()) as u64,
            seed: seed_of(&header),
            whole: crc32fast::Hasher::new(),
            seen: BackupEnd { exact_from, last: header.begin, ..BackupEnd::default() },
            kind: REQUESTS,
            slot: None,
            header,
        })
    }

    /// How the backup begins.
    pub fn header(&self) -> &BackupHeader {
        &self.header
    }

    /// Bytes read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads and checks all that is left; what it makes as a whole.
    ///
    /// # Errors
    /// As [`BackupReader::next_piece`]; `Corrupt` where the node has broken it off.
    pub fn finish(mut self) -> Result<BackupSummary> {
        loop {
            match self.next_piece()? {
                Piece::Requests(_) | Piece::Slots(_) | Piece::Keys(_) | Piece::Entries(_) => {}
                Piece::End(end) => return Ok(BackupSummary { header: self.header, end }),
                Piece::Broken(_) => {
                    return Err(self.corrupt("the node could not finish it"));
                }
            }
        }
    }

    /// The next piece, which was checked. The last one is [`Piece::End`] or [`Piece::Broken`].
    ///
    /// # Errors
    /// `Corrupt` names the offset of the piece; `Io`.
    pub fn next_piece(&mut self) -> Result<Piece> {
        let head = self.take(PIECE_HEADER_BYTES)?;
        if head.len() < PIECE_HEADER_BYTES {
            return Err(self.corrupt("the backup ends before its end: it was cut off"));
        }
        let mut fields = head.as_slice();
        let (kind, reserved) = (fields.get_u8(), fields.get_uint_le(3));
        let (length, number) = (fields.get_u32_le() as usize, fields.get_u64_le());
        let crc = fields.get_u32_le();
        if length > PIECE_BYTES_MAX {
            return Err(self.corrupt("length of a piece")); // I3 of `mod.rs`
        }
        let body = self.take(length)?;
        if body.len() < length {
            return Err(self.corrupt("the backup ends in a piece: it was cut off"));
        }
        let covered = head.get(..PIECE_COVERED_BYTES).unwrap_or_default();
        if crc != piece_crc(&self.seed, covered, &body) {
            return Err(self.corrupt("CRC-32 of a piece"));
        }
        if reserved != 0 || number != self.seen.piece_count || kind < self.kind {
            return Err(self.corrupt("a piece in the place of another"));
        }
        let piece = self.piece_of(kind, body.into())?;
        self.kind = kind;
        self.whole.update(&crc.to_le_bytes());
        self.seen.piece_count += 1;
        self.offset += (PIECE_HEADER_BYTES + length) as u64;
        if matches!(piece, Piece::End(_)) && !self.take(1)?.is_empty() {
            return Err(self.corrupt("something stands behind the end"));
        }
        Ok(piece)
    }

    fn piece_of(&mut self, kind: u8, body: Bytes) -> Result<Piece> {
        let is_of_slots = self.header.slot_count > 0;
        let piece = match kind {
            REQUESTS if self.seen.piece_count == 0 => self.request_ids(body).map(Piece::Requests),
            SLOTS if is_of_slots => self.slots(body).map(Piece::Slots),
            KEYS if !is_of_slots => self.keys(body).map(Piece::Keys),
            ENTRIES => self.entries(body).map(Piece::Entries),
            END => return self.end(&body).map(Piece::End),
            BROKEN if body.len() <= REASON_BYTES_MAX => {
                let reason = String::from_utf8_lossy(&body).into_owned();
                return Ok(Piece::Broken(reason));
            }
            _ => return Err(self.corrupt("kind of a piece")),
        };
        piece.ok_or_else(|| self.corrupt("content of a piece"))
    }

    /// Request ids; `None` if they are none as of the begin.
    fn request_ids(&self, body: Bytes) -> Option<Bytes> {
        let begin = LogIndex::new(self.header.begin.index);
        let is_table = !body.is_empty() && Requests::decode(&body, begin).is_some();
        is_table.then_some(body)
    }

    /// Slots of a piece; `None` if they are not those of one (I4 of `mod.rs`).
    fn slots(&mut self, mut body: Bytes) -> Option<Vec<SlotImage>> {
        let mut images = Vec::new();
        while !body.is_empty() {
            if body.len() < SLOT_BYTES {
                return None;
            }
            let (slot, index, word) = (body.get_u64_le(), body.get_u64_le(), body.get_u32_le());
            let value = self.value(word, &mut body)?;
            let ascends = self.slot.is_none_or(|before| slot > before);
            if !ascends || slot >= self.header.slot_count || !self.note_image(index) {
                return None;
            }
            self.slot = Some(slot);
            let (slot, index) = (SlotIndex::new(slot), LogIndex::new(index));
            images.push(SlotImage { slot, index, value });
        }
        (!images.is_empty()).then_some(images)
    }

    /// Keys of a piece; `None` if they are not those of one (I4 of `mod.rs`).
    fn keys(&mut self, mut body: Bytes) -> Option<Vec<KeyImage>> {
        let mut images = Vec::new();
        while !body.is_empty() {
            if body.len() < KEY_BYTES {
                return None;
            }
            let key_bytes = usize::from(body.get_u16_le());
            let (index, word) = (body.get_u64_le(), body.get_u32_le());
            if key_bytes > KEY_BYTES_MAX || key_bytes > body.len() || !self.note_image(index) {
                return None;
            }
            let key = body.split_to(key_bytes);
            let value = self.value(word, &mut body)?;
            images.push(KeyImage { key, index, value });
        }
        (!images.is_empty()).then_some(images)
    }

    /// Takes a value off a body. The outer `None` is for one that cannot be.
    #[expect(clippy::option_option, reason = "no value is as good a content as one")]
    fn value(&self, word: u32, body: &mut Bytes) -> Option<Option<Bytes>> {
        let (length, is_live) = ((word & !LIVE) as usize, word & LIVE != 0);
        let fits = length <= self.header.value_bytes as usize && length <= body.len();
        if !fits || !is_live && length > 0 {
            return None;
        }
        Some(is_live.then(|| body.split_to(length)))
    }

    fn note_image(&mut self, index: u64) -> bool {
        self.seen.image_count += 1;
        self.seen.exact_from = self.seen.exact_from.max(LogIndex::new(index));
        index > self.header.since.get()
    }

    /// Entries of a piece; `None` if they are not those of one (I4 of `mod.rs`).
    fn entries(&mut self, mut body: Bytes) -> Option<Vec<Entry>> {
        let mut entries = Vec::new();
        while !body.is_empty() {
            if body.len() < ENTRY_BYTES {
                return None;
            }
            let (term, index) = (Term::new(body.get_u64_le()), body.get_u64_le());
            let (kind, length) = (body.get_u8(), body.get_u32_le() as usize);
            let kind = match kind {
                0 => EntryKind::Blank,
                1 => EntryKind::Normal,
                2 => EntryKind::Membership,
                _ => return None,
            };
            let last = self.seen.last;
            let follows = Some(index) == last.index.checked_add(1) && term >= last.term;
            if !follows || length > body.len() {
                return None;
            }
            self.seen.last = LogId { term, index };
            self.seen.entry_count += 1;
            let payload = body.split_to(length);
            entries.push(Entry { log_id: self.seen.last, kind, payload: payload.into() });
        }
        (!entries.is_empty()).then_some(entries)
    }

    /// The end, which has to count what was there (I1 of `mod.rs`).
    fn end(&self, body: &[u8]) -> Result<BackupEnd> {
        let (end, whole) = end_of(body).ok_or_else(|| self.corrupt("length of the end"))?;
        let (last, is_whole) = (end.last, whole == self.whole.clone().finalize());
        if !is_whole || end != self.seen || end.exact_from.get() > last.index {
            return Err(self.corrupt("counts of the end"));
        }
        Ok(end)
    }

    fn take(&mut self, count: usize) -> Result<Vec<u8>> {
        read_up_to(&mut self.source, count, &self.path, self.offset)
    }

    fn corrupt(&self, what: &'static str) -> Error {
        Error::Corrupt { path: self.path.clone(), offset: self.offset, what }
    }
}

/// What the beginning and the end of a file say of it; nothing between them is read.
///
/// # Errors
/// As [`BackupReader::new`]; `Corrupt` where the end of this backup is missing.
pub fn summarise(file: &Arc<dyn File>) -> Result<BackupSummary> {
    let header = BackupReader::open(Arc::clone(file))?.header;
    let mut piece = [0; PIECE_HEADER_BYTES + END_BYTES];
    let offset = file.len()?.saturating_sub(piece.len() as u64);
    file.read_at(&mut piece, offset)?;
    let (head, body) = piece.split_at(PIECE_HEADER_BYTES);
    let (covered, mut crc) = head.split_at(PIECE_COVERED_BYTES);
    let is_right = crc.get_u32_le() == piece_crc(&seed_of(&header), covered, body);
    let end = end_of(body).filter(|_| is_right && covered.first() == Some(&END));
    let (end, _) = end.ok_or_else(|| {
        let what = "the backup has no end: it was cut off";
        Error::Corrupt { path: file.path(), offset, what }
    })?;
    Ok(BackupSummary { header, end })
}

/// An end, and the CRC of all pieces in it; `None` if the length is another.
fn end_of(mut body: &[u8]) -> Option<(BackupEnd, u32)> {
    if body.len() != END_BYTES {
        return None;
    }
    let (image_count, entry_count) = (body.get_u64_le(), body.get_u64_le());
    let (piece_count, exact_from) = (body.get_u64_le(), LogIndex::new(body.get_u64_le()));
    let last = LogId { term: Term::new(body.get_u64_le()), index: body.get_u64_le() };
    let end = BackupEnd { exact_from, last, image_count, entry_count, piece_count };
    Some((end, body.get_u32_le()))
}

/// As many bytes as there are, up to `count` (I3 of `mod.rs`).
fn read_up_to(source: &mut dyn Read, count: usize, path: &Path, offset: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = source.take(count as u64).read_to_end(&mut bytes);
    read.map_err(|source| Error::Io { operation: "read", path: path.to_owned(), offset, source })?;
    Ok(bytes)
}
