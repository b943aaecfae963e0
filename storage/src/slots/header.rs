//! The 24 bytes before every value. See `docs/format.md`, "slots.dat".
//!
//! Called by `slots`; calls nothing. Invariants:
//!
//! - I1: a header of zeros is a slot that was never written; no other healthy slot has index 0.
//! - I2: the CRC covers the key, so a slot written to the wrong place is a damaged slot.
//! - I3: the header has a field for a time at which the value expires. This version always writes
//!   zero there, and a slot with any other number is damaged.
//! - I4: no slot that was written has index 0, so a header with index 0 that is not all zero is
//!   damaged, whatever follows it. [`Header::GIVEN_UP`] is such a header.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use bytes::{Buf, BufMut};

use crate::slots::geometry::HEADER_BYTES;
use crate::{LogIndex, SlotIndex};

/// The bit of the length word that says that the slot holds a value.
const LIVE: u32 = 1 << 31;

/// The bytes of a header.
pub(crate) type HeaderBytes = [u8; 24];

/// What the CRC covers before the value: key, index, length word, time of expiry.
const PREFIX_BYTES: usize = 8 + 8 + 4 + 8;

const _: () = assert!(size_of::<HeaderBytes>() as u64 == HEADER_BYTES);

/// What stands before a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Header {
    /// Log index of the last set or delete; 0 = never written.
    pub(crate) index: u64,
    /// Bytes of the value, and the live bit.
    length_word: u32,
    /// CRC-32 over key, index, length word, time of expiry and value.
    crc: u32,
    /// Reserved for the time at which the value expires (I3).
    expires: u64,
}

/// This version knows no expiry.
const NEVER: u64 = 0;

impl Header {
    /// What is written over the header of a damaged slot once an entry was applied whose effect on it
    /// nobody here can know: the bytes of before, should they ever read right again, are too old.
    pub(crate) const GIVEN_UP: Self =
        Self { index: 0, length_word: 0, crc: u32::MAX, expires: NEVER };

    /// The header of a value (`None`: deleted) that an entry leaves in a slot; that of a slot that was
    /// never written if `entry` is 0.
    pub(crate) fn new(slot: SlotIndex, entry: LogIndex, value: Option<&[u8]>) -> Self {
        let index = entry.get();
        if index == 0 {
            assert_eq!(value, None, "a slot that was never written has no value"); // I1
            return Self::default();
        }
        let length_word = match value {
            Some(value) => {
                let length = u32::try_from(value.len()).expect("invariant: checked by the caller");
                assert!(length < LIVE, "value of {length} bytes");
                length | LIVE
            }
            None => 0,
        };
        let crc = checksum(slot, entry, length_word, value.unwrap_or_default());
        Self { index, length_word, crc, expires: NEVER }
    }

    /// Reads the fields; says nothing about whether they are right.
    pub(crate) fn decode(bytes: HeaderBytes) -> Self {
        let mut fields = bytes.as_slice();
        Self {
            index: fields.get_u64_le(),
            length_word: fields.get_u32_le(),
            crc: fields.get_u32_le(),
            expires: fields.get_u64_le(),
        }
    }

    /// The bytes on disk.
    pub(crate) fn encode(self) -> HeaderBytes {
        let mut bytes = HeaderBytes::default();
        let mut fields = bytes.as_mut_slice();
        fields.put_u64_le(self.index);
        fields.put_u32_le(self.length_word);
        fields.put_u32_le(self.crc);
        fields.put_u64_le(self.expires);
        bytes
    }

    /// True for a slot that was never written.
    pub(crate) fn is_unwritten(self) -> bool {
        self == Self::default()
    }

    /// True if the slot says that it holds a value.
    pub(crate) fn is_live(self) -> bool {
        self.length_word & LIVE != 0
    }

    /// Bytes that the value claims to have; any number up to 2 GiB in a damaged slot.
    pub(crate) fn length(self) -> u32 {
        self.length_word & !LIVE
    }

    /// Whether these fields and this value belong together in slot `key`.
    pub(crate) fn matches(self, key: u64, value: &[u8]) -> bool {
        if self.is_unwritten() {
            return value.is_empty();
        }
        self.index != 0
            && self.expires == NEVER
            && (self.is_live() || self.length_word == 0)
            && usize::try_from(self.length()) == Ok(value.len())
            && self.crc
                == checksum(SlotIndex::new(key), LogIndex::new(self.index), self.length_word, value)
    }
}

fn checksum(slot: SlotIndex, entry: LogIndex, length_word: u32, value: &[u8]) -> u32 {
    let mut prefix = [0; PREFIX_BYTES];
    let mut fields = prefix.as_mut_slice();
    fields.put_u64_le(slot.get());
    fields.put_u64_le(entry.get());
    fields.put_u32_le(length_word);
    fields.put_u64_le(NEVER);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&prefix);
    hasher.update(value);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_header_are_pinned() {
        let header = Header::new(SlotIndex::new(42), LogIndex::new(7), Some(b"hello"));
        let golden =
            [7, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 128, 202, 53, 36, 90, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(header.encode(), golden);
        assert_eq!(Header::decode(header.encode()), header);
        let golden = [9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 111, 43, 183, 64, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Header::new(SlotIndex::new(42), LogIndex::new(9), None).encode(), golden);
    }

    #[test]
    fn a_header_matches_only_its_own_key_and_value() {
        let header = Header::new(SlotIndex::new(42), LogIndex::new(7), Some(b"hello"));
        assert!(header.matches(42, b"hello"));
        assert!(!header.matches(43, b"hello"));
        assert!(!header.matches(42, b"hellp"));
        assert!(!header.matches(42, b""));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        for (value, header) in [
            (&b"hello"[..], Header::new(SlotIndex::new(3), LogIndex::new(7), Some(b"hello"))),
            (&b""[..], Header::new(SlotIndex::new(3), LogIndex::new(7), None)),
            (&b""[..], Header::default()),
        ] {
            for bit in 0..192 {
                let mut bytes = header.encode();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(!Header::decode(bytes).matches(3, value), "bit {bit}");
            }
        }
    }

    /// I4
    #[test]
    fn a_slot_that_is_given_up_is_damaged_whatever_it_holds() {
        let header = Header::decode(Header::GIVEN_UP.encode());
        assert_eq!(header, Header::GIVEN_UP);
        assert!(!header.is_unwritten() && !header.is_live());
        for key in [0, 3] {
            assert!(!header.matches(key, b"") && !header.matches(key, b"hello"));
        }
    }

    #[test]
    fn zeros_are_a_slot_that_was_never_written() {
        let header = Header::decode([0; 24]);
        assert!(header.is_unwritten());
        assert!(header.matches(5, b""));
        assert_eq!(header.index, 0);
        assert!(!header.is_live());
    }
}
