//! What the keys and values of clients must be. Pure.
//!
//! Called by every protocol before a command is built, so that a bad one is answered and never
//! becomes an entry of the log.

#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use crate::command::Refusal;

/// The keys and values that the store takes.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    slot_count: u64,
    value_bytes_max: u64,
    prefixes: Vec<Vec<u8>>,
}

impl Keys {
    /// Slots `0..slot_count` of `value_bytes_max` bytes; `prefixes` are dropped from keys.
    pub(crate) fn new(slot_count: u64, value_bytes_max: u32, prefixes: &[String]) -> Keys {
        let prefixes = prefixes.iter().map(|prefix| prefix.clone().into_bytes());
        let mut prefixes = prefixes.filter(|prefix| !prefix.is_empty()).collect::<Vec<_>>();
        // The longest first, so that no prefix hides another that begins with it.
        prefixes.sort_by_key(|prefix| std::cmp::Reverse(prefix.len()));
        Keys { slot_count, value_bytes_max: u64::from(value_bytes_max), prefixes }
    }

    /// Number of slots.
    pub(crate) fn slot_count(&self) -> u64 {
        self.slot_count
    }

    /// Most bytes of one value.
    pub(crate) fn value_bytes_max(&self) -> u64 {
        self.value_bytes_max
    }

    /// Bytes that one slot takes on disk: its header and its value, rounded up.
    pub(crate) fn slot_bytes(&self) -> u64 {
        (16 + self.value_bytes_max).next_multiple_of(16)
    }

    /// The slot that a key names.
    ///
    /// # Errors
    /// [`Refusal::OutOfRange`] if it is no decimal number below the number of slots.
    pub(crate) fn slot(&self, key: &[u8]) -> Result<u64, Refusal> {
        let stripped = self.prefixes.iter().find_map(|prefix| key.strip_prefix(prefix.as_slice()));
        decimal(stripped.unwrap_or(key))
            .filter(|slot| *slot < self.slot_count)
            .ok_or(Refusal::OutOfRange { slot_count: self.slot_count })
    }

    /// Checks the length of a value of `bytes` bytes.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] if a slot holds less.
    pub(crate) fn check_value(&self, bytes: u64) -> Result<(), Refusal> {
        if bytes > self.value_bytes_max {
            return Err(Refusal::TooLarge { bytes, bytes_max: self.value_bytes_max });
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

    #[test]
    fn keys_are_decimal_numbers_below_the_slot_count() {
        assert_eq!(keys().slot(b"0"), Ok(0));
        assert_eq!(keys().slot(b"99"), Ok(99));
        assert_eq!(keys().slot(b"00000000000000000000000000000000007"), Ok(7));
        let bad: &[&[u8]] = &[b"", b"100", b"-1", b"+1", b"1 ", b"0x1", b"99999999999999999999999"];
        for key in bad {
            assert_eq!(keys().slot(key), Err(Refusal::OutOfRange { slot_count: 100 }));
        }
        assert_eq!(keys().slot(b"x").unwrap_err().to_string(), "key must be a slot number 0..99");
    }

    #[test]
    fn the_longest_known_prefix_is_dropped_once() {
        assert_eq!(keys().slot(b"key:000000000012"), Ok(12));
        assert_eq!(keys().slot(b"k12"), Ok(12));
        assert!(keys().slot(b"key:key:1").is_err());
        assert!(keys().slot(b"user1").is_err());
    }

    #[test]
    fn a_value_of_exactly_the_size_fits() {
        assert_eq!(keys().check_value(1024), Ok(()));
        let refusal = keys().check_value(5000).unwrap_err();
        assert_eq!(refusal.to_string(), "value is 5000 bytes, a slot holds at most 1024");
        assert_eq!(keys().slot_bytes(), 1040);
    }
}
