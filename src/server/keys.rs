//! Checks the keys and values of clients. Pure.
//!
//! Called by every protocol before a command is built, so that a bad key or value is answered with
//! an error and never becomes an entry of the log.

#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::command::{Holder, Refusal, slot_key, slot_of};

/// The keys and values that the store takes.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// Number of slots, which may become more; `None` where any bytes are a key.
    slot_count: Option<Arc<AtomicU64>>,
    value_bytes_max: u64,
    prefixes: Vec<Vec<u8>>,
}

/// A key as commands have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    /// The number of a slot.
    Slot([u8; 8]),
    /// The client's own bytes.
    Bytes(&'a [u8]),
}

impl Deref for Key<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Key::Slot(slot) => slot,
            Key::Bytes(bytes) => bytes,
        }
    }
}

impl Keys {
    /// Slots `0..slot_count`, or any keys if that is 0, of `value_bytes_max` bytes; `prefixes` are
    /// dropped from keys that are slots.
    pub(crate) fn new(slot_count: u64, value_bytes_max: u32, prefixes: &[String]) -> Keys {
        let prefixes = prefixes.iter().map(|prefix| prefix.clone().into_bytes());
        let mut prefixes = prefixes.filter(|prefix| !prefix.is_empty()).collect::<Vec<_>>();
        // The longest first, so that no prefix hides another that begins with it.
        prefixes.sort_by_key(|prefix| std::cmp::Reverse(prefix.len()));
        let slot_count = (slot_count > 0).then(|| Arc::new(AtomicU64::new(slot_count)));
        Keys { slot_count, value_bytes_max: u64::from(value_bytes_max), prefixes }
    }

    /// The same, where this says how many slots there are, if there are any.
    pub(crate) fn following(self, limit: Option<Arc<AtomicU64>>) -> Keys {
        Keys { slot_count: limit.or(self.slot_count), ..self }
    }

    /// Positions of a scan are below this.
    pub(crate) fn scan_end(&self) -> u64 {
        self.slot_count().unwrap_or(u64::MAX)
    }

    fn slot_count(&self) -> Option<u64> {
        self.slot_count.as_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// Most bytes of one value.
    pub(crate) fn value_bytes_max(&self) -> u64 {
        self.value_bytes_max
    }

    /// Bytes that one slot takes on disk: its header and its value, rounded up; `None` where keys
    /// are no slots.
    pub(crate) fn slot_bytes(&self) -> Option<u64> {
        self.slot_count.as_ref().map(|_| (16 + self.value_bytes_max).next_multiple_of(16))
    }

    /// The key that a client's bytes name.
    ///
    /// # Errors
    /// [`Refusal::OutOfRange`] if it has to be a slot, and is no decimal number below their number.
    pub(crate) fn key<'a>(&self, key: &'a [u8]) -> Result<Key<'a>, Refusal> {
        let Some(slot_count) = self.slot_count() else { return Ok(Key::Bytes(key)) };
        let stripped = self.prefixes.iter().find_map(|prefix| key.strip_prefix(prefix.as_slice()));
        let slot = decimal(stripped.unwrap_or(key)).filter(|slot| *slot < slot_count);
        slot.map(|slot| Key::Slot(slot_key(slot))).ok_or(Refusal::OutOfRange { slot_count })
    }

    /// A key of a command as clients name it.
    pub(crate) fn shown(&self, key: Bytes) -> Bytes {
        let slot = self.slot_count.as_ref().and_then(|_| slot_of(&key));
        slot.map_or(key, |slot| slot.to_string().into())
    }

    /// Checks the length of a value of `bytes` bytes.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] if what holds it takes less.
    pub(crate) fn check_value(&self, bytes: u64) -> Result<(), Refusal> {
        let bytes_max = self.value_bytes_max;
        if bytes > bytes_max {
            let holder = if self.slot_count.is_some() { Holder::Slot } else { Holder::Key };
            return Err(Refusal::TooLarge { bytes, bytes_max, holder });
        }
        Ok(())
    }
}

/// A number of decimal digits, leading zeros allowed; `None` for anything else.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::new(100, 1024, &["key:".to_owned(), "k".to_owned(), String::new()])
    }

    fn slot(key: &[u8]) -> Result<u64, Refusal> {
        keys().key(key).map(|key| slot_of(&key).unwrap())
    }

    #[test]
    fn any_bytes_are_a_key_where_keys_are_no_slots() {
        let keys = Keys::new(0, 1024, &["key:".to_owned()]);
        for key in [&b""[..], b"12345678", b"key:7", b"\0\xff"] {
            assert_eq!(&*keys.key(key).unwrap(), key);
            assert_eq!(keys.shown(Bytes::copy_from_slice(key)), key);
        }
        let eight = Bytes::from_static(b"\x07\0\0\0\0\0\0\0");
        assert_eq!(self::keys().shown(eight), "7");
        assert_eq!(keys.slot_bytes(), None);
    }

    #[test]
    fn keys_are_decimal_numbers_below_the_slot_count() {
        assert_eq!(slot(b"0"), Ok(0));
        assert_eq!(slot(b"99"), Ok(99));
        assert_eq!(slot(b"00000000000000000000000000000000007"), Ok(7));
        let bad: &[&[u8]] = &[b"", b"100", b"-1", b"+1", b"1 ", b"0x1", b"99999999999999999999999"];
        for key in bad {
            assert_eq!(slot(key), Err(Refusal::OutOfRange { slot_count: 100 }));
        }
        assert_eq!(slot(b"x").unwrap_err().to_string(), "key must be a slot number 0..99");
    }

    #[test]
    fn the_longest_known_prefix_is_dropped_once() {
        assert_eq!(slot(b"key:000000000012"), Ok(12));
        assert_eq!(slot(b"k12"), Ok(12));
        assert!(slot(b"key:key:1").is_err());
        assert!(slot(b"user1").is_err());
    }

    #[test]
    fn a_value_of_exactly_the_size_fits() {
        assert_eq!(keys().check_value(1024), Ok(()));
        let refusal = keys().check_value(5000).unwrap_err();
        assert_eq!(refusal.to_string(), "value is 5000 bytes, a slot holds at most 1024");
        let refusal = Keys::new(0, 1024, &[]).check_value(5000).unwrap_err();
        assert_eq!(refusal.to_string(), "value is 5000 bytes, a key holds at most 1024");
        assert_eq!(keys().slot_bytes(), Some(1040));
    }
}
