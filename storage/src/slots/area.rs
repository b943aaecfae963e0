//! The slots in memory: the private map of the data file, and what is known about its pages.
//!
//! Called by `slots`, which holds the lock of every slot that it names here; calls `disk::Map`.
//! Invariants:
//!
//! - I1: bytes of a slot change only in [`Area::store`] and [`Area::give_up`], which mark their
//!   pages first.
//! - I2: no bytes are taken for a value before their CRC was checked.

use std::path::PathBuf;

use bytes::Bytes;

use crate::disk::Map;
use crate::slots::damage::Damage;
use crate::slots::geometry::{DATA_OFFSET, Geometry, HEADER_BYTES};
use crate::slots::header::{Header, HeaderBytes};
use crate::slots::pages::Pages;
use crate::state::PAGE_BYTES;
use crate::{Error, LogIndex, Result, SlotIndex};

/// Memory is written in words of this many bytes.
const WORD_BYTES: usize = 8;

/// All slots of a data file.
#[derive(Debug)]
pub(crate) struct Area {
    pub(crate) path: PathBuf,
    pub(crate) geometry: Geometry,
    pub(crate) pages: Pages,
    pub(crate) map: Map,
    pub(crate) damage: Damage,
}

/// A slot as read: header and value, which belong together only if [`Loaded::is_right`].
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) key: u64,
    pub(crate) header: Header,
    pub(crate) value: Vec<u8>,
}

impl Loaded {
    /// Whether the CRC is right.
    pub(crate) fn is_right(&self) -> bool {
        self.header.matches(self.key, &self.value)
    }

    /// The value, `None` if the slot is empty.
    pub(crate) fn into_value(self) -> Option<Bytes> {
        self.header.is_live().then(|| Bytes::from(self.value))
    }
}

impl Area {
    /// The header of a slot, unchecked.
    pub(crate) fn header(&self, key: u64) -> Header {
        let mut bytes = HeaderBytes::default();
        self.map.read(&mut bytes, self.geometry.offset_of(key));
        Header::decode(bytes)
    }

    /// Reads a slot into `value` (emptied first), and returns its header. A length that no slot
    /// has leaves the value empty, and so the CRC wrong.
    pub(crate) fn load(&self, key: u64, value: &mut Vec<u8>) -> Header {
        let header = self.header(key);
        value.clear();
        if header.is_live() && header.length() <= self.geometry.value_bytes() {
            let length = usize::try_from(header.length()).expect("invariant: at most 1 MiB");
            value.resize(length, 0);
            self.map.read(value, self.geometry.offset_of(key) + HEADER_BYTES);
        }
        header
    }

    /// Reads a slot into memory of its own.
    pub(crate) fn load_owned(&self, key: u64) -> Loaded {
        let mut value = Vec::new();
        let header = self.load(key, &mut value);
        Loaded { key, header, value }
    }

    /// Writes a slot (`None`: deleted). The value fits: the caller checked.
    pub(crate) fn store(&self, slot: SlotIndex, entry: LogIndex, value: Option<&[u8]>) {
        let (key, header) = (slot.get(), Header::new(slot, entry, value));
        let value = value.unwrap_or_default();
        let offset = self.geometry.offset_of(key);
        let first_byte = offset - DATA_OFFSET;
        let last_byte = first_byte + HEADER_BYTES + value.len().saturating_sub(1) as u64;
        // I1: the marks come first.
        self.pages.mark(first_byte / PAGE_BYTES, last_byte / PAGE_BYTES);
        self.map.write(&header.encode(), offset);
        let (words, rest) = value.split_at(value.len() - value.len() % WORD_BYTES);
        self.map.write(words, offset + HEADER_BYTES);
        if !rest.is_empty() {
            let mut word = [0; WORD_BYTES];
            word[..rest.len()].copy_from_slice(rest);
            self.map.write(&word, offset + HEADER_BYTES + words.len() as u64);
        }
        self.damage.forget(key);
        let live = header.is_live();
        self.pages.note(first_byte / PAGE_BYTES, key, entry, live);
    }

    /// Sees to it that a damaged slot stays damaged, on the disk too. False if it is given up already.
    pub(crate) fn give_up(&self, key: u64) -> bool {
        if self.header(key) == Header::GIVEN_UP {
            return false;
        }
        let offset = self.geometry.offset_of(key);
        let first_byte = offset - DATA_OFFSET;
        let page = first_byte / PAGE_BYTES;
        self.pages.mark(page, (first_byte + HEADER_BYTES - 1) / PAGE_BYTES); // I1
        self.map.write(&Header::GIVEN_UP.encode(), offset);
        self.damage.note(key);
        self.pages.give_up(page, key);
        true
    }

    /// Has pages read ahead of a walk over them.
    pub(crate) fn prefetch(&self, first_page: u64, page_count: u64) {
        self.map.prefetch(DATA_OFFSET + first_page * PAGE_BYTES, page_count * PAGE_BYTES);
    }

    /// Has the pages of a slot ready to be written; those that were written are.
    pub(crate) fn populate(&self, key: u64) {
        let (first, last) = self.geometry.pages_of(key);
        if (first..=last).all(|page| self.pages.is_modified(page)) {
            return;
        }
        self.map.populate(self.geometry.offset_of(key), self.geometry.slot_bytes());
    }

    /// The error that names a damaged slot, which is noted.
    pub(crate) fn damaged(&self, key: u64) -> Error {
        self.damage.note(key);
        Error::Corrupt {
            path: self.path.clone(),
            offset: self.geometry.offset_of(key),
            what: "checksum of a slot",
        }
    }

    /// `OutOfRange` if a value is longer than a slot holds.
    pub(crate) fn check_value(&self, value: &[u8]) -> Result<()> {
        let limit = u64::from(self.geometry.value_bytes());
        if value.len() as u64 <= limit {
            return Ok(());
        }
        Err(Error::OutOfRange { what: "value bytes", value: value.len() as u64, limit })
    }
}
