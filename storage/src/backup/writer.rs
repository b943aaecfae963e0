//! Lays a backup out, piece by piece. Pure: whoever calls it sends or writes the bytes.

use bytes::{BufMut, Bytes};

use super::{
    BACKUP_MAGIC, BACKUP_VERSION, BROKEN, BackupEnd, BackupHeader, END, ENTRIES, KEYS,
    PIECE_BYTES_MAX, PIECE_COVERED_BYTES, PIECE_HEADER_BYTES, REASON_BYTES_MAX, REQUESTS, SLOTS,
    length_of, piece_crc, seed_of,
};
use crate::LogIndex;
use crate::keys::KeyImage;
use crate::slots::SlotImage;
use crate::wal::{Entry, EntryKind};

/// A backup that is being written.
#[derive(Debug)]
pub struct BackupWriter {
    seed: crc32fast::Hasher,
    /// Over the CRCs of all pieces.
    whole: crc32fast::Hasher,
    end: BackupEnd,
}

impl BackupWriter {
    /// Begins a backup; the bytes are its header.
    ///
    /// # Panics
    /// If the header is one that no reader takes.
    pub fn begin(header: &BackupHeader) -> (BackupWriter, Bytes) {
        assert!(header.is_possible(), "the header of a backup: {header:?}");
        let body = header.body();
        let mut bytes = Vec::with_capacity(body.len() + 32);
        bytes.put_slice(&BACKUP_MAGIC);
        bytes.put_u32_le(BACKUP_VERSION);
        bytes.put_u32_le(u32::try_from(body.len()).expect("invariant: the body is bounded"));
        bytes.put_slice(&body);
        let crc = crc32fast::hash(&bytes);
        bytes.put_u32_le(crc);
        let exact_from = LogIndex::new(header.begin.index);
        let end = BackupEnd { exact_from, last: header.begin, ..BackupEnd::default() };
        (BackupWriter { seed: seed_of(header), whole: crc32fast::Hasher::new(), end }, bytes.into())
    }

    /// Where the log is to go on.
    pub fn next_index(&self) -> u64 {
        self.end.last.index + 1
    }

    /// The highest index that the backup has to reach.
    pub fn exact_from(&self) -> u64 {
        self.end.exact_from.get()
    }

    /// The piece of the request ids as of the begin, which comes first. `None` without any.
    pub fn request_ids(&mut self, ids: &[u8]) -> Option<Bytes> {
        if ids.is_empty() {
            return None;
        }
        let mut piece = open_piece(ids.len());
        piece.put_slice(ids);
        Some(self.close_piece(REQUESTS, piece))
    }

    /// A piece of slots, which ascend. `None` without any.
    ///
    /// # Panics
    /// If together they are more than a piece holds.
    pub fn slots(&mut self, images: &[SlotImage]) -> Option<Bytes> {
        let first = images.first()?;
        let each = 20 + first.value.as_ref().map_or(0, Bytes::len);
        let mut piece = open_piece(images.len() * each);
        for SlotImage { slot, index, value } in images {
            piece.put_u64_le(slot.get());
            piece.put_u64_le(index.get());
            piece.put_u32_le(length_of(value.as_ref()));
            piece.put_slice(value.as_deref().unwrap_or_default());
            self.count_image(*index);
        }
        Some(self.close_piece(SLOTS, piece))
    }

    /// A piece of keys. `None` without any.
    ///
    /// # Panics
    /// As [`BackupWriter::slots`]; if a key is longer than any may be.
    pub fn keys(&mut self, images: &[KeyImage]) -> Option<Bytes> {
        let first = images.first()?;
        let each = 14 + first.key.len() + first.value.as_ref().map_or(0, Bytes::len);
        let mut piece = open_piece(images.len() * each);
        for KeyImage { key, index, value } in images {
            piece.put_u16_le(u16::try_from(key.len()).expect("invariant: keys are bounded"));
            piece.put_u64_le(*index);
            piece.put_u32_le(length_of(value.as_ref()));
            piece.put_slice(key);
            piece.put_slice(value.as_deref().unwrap_or_default());
            self.count_image(LogIndex::new(*index));
        }
        Some(self.close_piece(KEYS, piece))
    }

    fn count_image(&mut self, index: LogIndex) {
        self.end.image_count += 1;
        self.end.exact_from = self.end.exact_from.max(index);
    }

    /// A piece of entries, which follow those before. `None` without any.
    ///
    /// # Panics
    /// If they do not; as [`BackupWriter::slots`].
    pub fn entries(&mut self, entries: &[Entry]) -> Option<Bytes> {
        let first = entries.first()?;
        let mut piece = open_piece(entries.len() * (21 + first.payload.len()));
        for Entry { log_id, kind, payload } in entries {
            assert_eq!(log_id.index, self.next_index(), "an entry of a backup");
            piece.put_u64_le(log_id.term.get());
            piece.put_u64_le(log_id.index);
            piece.put_u8(match kind {
                EntryKind::Blank => 0,
                EntryKind::Normal => 1,
                EntryKind::Membership => 2,
            });
            let length = u32::try_from(payload.len());
            piece.put_u32_le(length.expect("invariant: payloads are bounded"));
            piece.put_slice(payload);
            self.end.entry_count += 1;
            self.end.last = *log_id;
        }
        Some(self.close_piece(ENTRIES, piece))
    }

    /// The end; nothing may follow.
    ///
    /// # Panics
    /// If the entries do not reach what the slots or keys need.
    pub fn end(&mut self) -> (BackupEnd, Bytes) {
        let end = self.end;
        assert!(end.exact_from.get() <= end.last.index, "a backup that is no state: {end:?}");
        let mut piece = open_piece(super::END_BYTES);
        piece.put_u64_le(end.image_count);
        piece.put_u64_le(end.entry_count);
        piece.put_u64_le(end.piece_count);
        piece.put_u64_le(end.exact_from.get());
        piece.put_u64_le(end.last.term.get());
        piece.put_u64_le(end.last.index);
        piece.put_u32_le(self.whole.clone().finalize());
        (end, self.close_piece(END, piece))
    }

    /// Instead of anything more: why the backup is not finished.
    pub fn broken(&mut self, reason: &str) -> Bytes {
        let end = reason.floor_char_boundary(REASON_BYTES_MAX);
        let mut piece = open_piece(end);
        piece.put_slice(reason.get(..end).unwrap_or_default().as_bytes());
        self.close_piece(BROKEN, piece)
    }

    fn close_piece(&mut self, kind: u8, mut piece: Vec<u8>) -> Bytes {
        let bytes = piece.len() - PIECE_HEADER_BYTES;
        assert!(bytes <= PIECE_BYTES_MAX, "a piece of {bytes} bytes");
        let (mut header, body) = piece.split_at_mut(PIECE_HEADER_BYTES);
        let mut covered = Vec::with_capacity(PIECE_COVERED_BYTES);
        covered.put_u8(kind);
        covered.put_slice(&[0; 3]);
        covered.put_u32_le(u32::try_from(bytes).expect("invariant: a piece is bounded"));
        covered.put_u64_le(self.end.piece_count);
        let crc = piece_crc(&self.seed, &covered, body);
        header.put_slice(&covered);
        header.put_u32_le(crc);
        self.whole.update(&crc.to_le_bytes());
        self.end.piece_count += 1;
        piece.into()
    }
}

/// A piece whose header is still open.
fn open_piece(body_bytes: usize) -> Vec<u8> {
    let mut piece = Vec::with_capacity(PIECE_HEADER_BYTES + body_bytes);
    piece.resize(PIECE_HEADER_BYTES, 0);
    piece
}
