//! Calculates where a slot lies in the data file: arithmetic, and nothing else.
//!
//! Called by everything in `slots`; calls nothing. Invariants:
//!
//! - I1: no arithmetic here overflows: [`Geometry::new`] refuses sizes that could cause it.
//! - I2: slots and pages are counted from the data offset, which is a multiple of the page size, so
//!   page `n` of the data area is one page of the file and one page of memory.
//! - I3: a slot begins at a multiple of 8, so it can be copied word by word.

use crate::slots::superblock::SUPERBLOCK_STRIDE;
use crate::state::PAGE_BYTES;
use crate::{Error, Result};

/// Bytes of a slot's header.
pub const HEADER_BYTES: u64 = 24;
/// A slot's size is a multiple of this many bytes.
pub const SLOT_ALIGN_BYTES: u64 = 8;
/// First byte of slot 0: behind both superblock copies. See `docs/format.md`, "slots.dat".
pub const DATA_OFFSET: u64 = 2 * SUPERBLOCK_STRIDE;
/// Largest value size, in bytes.
pub const VALUE_BYTES_MAX: u32 = 1 << 20;
/// Largest number of slots.
pub const SLOT_COUNT_MAX: u64 = 1 << 40;
/// Largest data file, in bytes (16 TiB, what ext4 takes).
pub const FILE_BYTES_MAX: u64 = 1 << 44;

const _: () = assert!(DATA_OFFSET.is_multiple_of(PAGE_BYTES));
const _: () = assert!(PAGE_BYTES.is_multiple_of(SLOT_ALIGN_BYTES));
// The largest file before the check against `FILE_BYTES_MAX` still fits a u64 (I1).
const _: () = assert!(SLOT_COUNT_MAX.checked_mul(2 * VALUE_BYTES_MAX as u64).is_some());

/// Number and size of the slots of a data file; fixed when the file is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry {
    slot_count: u64,
    value_bytes: u32,
}

impl Geometry {
    /// A geometry of `slot_count` slots that each hold a value of up to `value_bytes` bytes.
    ///
    /// # Errors
    /// `OutOfRange` if either is 0 or above its limit, or if the file would be too large.
    pub fn new(slot_count: u64, value_bytes: u32) -> Result<Self> {
        if slot_count == 0 || slot_count > SLOT_COUNT_MAX {
            return Err(out_of_range("slots", slot_count, SLOT_COUNT_MAX));
        }
        if value_bytes == 0 || value_bytes > VALUE_BYTES_MAX {
            return Err(out_of_range(
                "value-size",
                u64::from(value_bytes),
                u64::from(VALUE_BYTES_MAX),
            ));
        }
        let geometry = Self { slot_count, value_bytes };
        if geometry.file_bytes() > FILE_BYTES_MAX {
            return Err(out_of_range("data file bytes", geometry.file_bytes(), FILE_BYTES_MAX));
        }
        Ok(geometry)
    }

    /// Number of slots; keys are below it.
    pub fn slot_count(&self) -> u64 {
        self.slot_count
    }

    /// Largest value, in bytes.
    pub fn value_bytes(&self) -> u32 {
        self.value_bytes
    }

    /// Bytes from one slot to the next: header and value, rounded up.
    pub fn slot_bytes(&self) -> u64 {
        (HEADER_BYTES + u64::from(self.value_bytes)).next_multiple_of(SLOT_ALIGN_BYTES)
    }

    /// Bytes of the whole file: superblocks, slots, and zeros up to the end of the last page.
    pub fn file_bytes(&self) -> u64 {
        DATA_OFFSET + self.page_count() * PAGE_BYTES
    }

    /// Number of pages of the data area.
    pub fn page_count(&self) -> u64 {
        (self.slot_count * self.slot_bytes()).div_ceil(PAGE_BYTES)
    }

    /// Byte offset of a slot in the file. The key is below the slot count.
    pub fn offset_of(&self, key: u64) -> u64 {
        assert_key(self, key);
        DATA_OFFSET + key * self.slot_bytes()
    }

    /// The slot that a byte of the file belongs to, if any.
    pub fn key_at(&self, offset: u64) -> Option<u64> {
        let key = offset.checked_sub(DATA_OFFSET)? / self.slot_bytes();
        (key < self.slot_count).then_some(key)
    }

    /// `OutOfRange` unless the key is below the slot count.
    pub(crate) fn check_key(&self, key: u64) -> Result<()> {
        if key < self.slot_count {
            return Ok(());
        }
        Err(out_of_range("slot", key, self.slot_count - 1))
    }

    /// First and last page of the data area that a slot touches.
    pub(crate) fn pages_of(&self, key: u64) -> (u64, u64) {
        let first = key * self.slot_bytes();
        (first / PAGE_BYTES, (first + self.slot_bytes() - 1) / PAGE_BYTES)
    }

    /// First and last slot that touch any of the pages `first..=last`.
    pub(crate) fn keys_touching(&self, first: u64, last: u64) -> (u64, u64) {
        let first_key = first * PAGE_BYTES / self.slot_bytes();
        let last_key = ((last + 1) * PAGE_BYTES - 1) / self.slot_bytes();
        (first_key.min(self.slot_count - 1), last_key.min(self.slot_count - 1))
    }

    /// The first slot that begins in this page or a later one; the slot count if there is none.
    pub(crate) fn first_key_from(&self, page: u64) -> u64 {
        (page * PAGE_BYTES).div_ceil(self.slot_bytes()).min(self.slot_count)
    }

    /// The most pages that one slot can touch.
    pub(crate) fn slot_pages_max(&self) -> u64 {
        // Begins at worst in the last 8 bytes of a page.
        (PAGE_BYTES - SLOT_ALIGN_BYTES + self.slot_bytes()).div_ceil(PAGE_BYTES)
    }
}

fn out_of_range(what: &'static str, value: u64, limit: u64) -> Error {
    Error::OutOfRange { what, value, limit }
}

fn assert_key(geometry: &Geometry, key: u64) {
    assert!(key < geometry.slot_count, "slot {key} of {}", geometry.slot_count);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_exactly_the_value_size_fits() {
        let geometry = Geometry::new(1_048_576, 1024).unwrap();
        assert_eq!(geometry.slot_bytes(), 1048);
        assert_eq!(geometry.offset_of(1) - geometry.offset_of(0), 1048);
        assert_eq!(geometry.file_bytes() % PAGE_BYTES, 0);
        assert!(geometry.file_bytes() >= geometry.offset_of(1_048_575) + 1048);
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        for (slots, value) in [
            (0, 8),
            (SLOT_COUNT_MAX + 1, 8),
            (1, 0),
            (1, VALUE_BYTES_MAX + 1),
            (SLOT_COUNT_MAX, VALUE_BYTES_MAX),
        ] {
            assert!(matches!(Geometry::new(slots, value), Err(Error::OutOfRange { .. })));
        }
    }

    #[test]
    fn pages_and_slots_find_each_other() {
        for value_bytes in [1, 8, 100, 1000, 1008, 1024, 4080, 4096, 5000, 70_000] {
            let geometry = Geometry::new(300, value_bytes).unwrap();
            for key in 0..300 {
                let (first, last) = geometry.pages_of(key);
                assert!(last - first < geometry.slot_pages_max());
                assert!(last < geometry.page_count());
                for page in first..=last {
                    let (low, high) = geometry.keys_touching(page, page);
                    assert!((low..=high).contains(&key), "{value_bytes} {key} {page}");
                }
                assert_eq!(geometry.key_at(geometry.offset_of(key)), Some(key));
                let from = geometry.first_key_from(first);
                assert!(from <= key && (from == 0 || geometry.pages_of(from - 1).0 < first));
            }
            assert_eq!(geometry.key_at(0), None);
            assert_eq!(geometry.key_at(geometry.file_bytes()), None);
        }
    }
}
