//! Values that can be checked: each holds its key, the number of its write, and a filling computed
//! from both. So a read detects a value of another key, and a mixture of two writes.

use super::random::mix;

/// Bytes of the head: key and number, 16 hexadecimal digits each.
pub const HEAD_BYTES: usize = 32;
/// The filling begins at one of so many places of the pattern.
const OFFSET_COUNT: u64 = 4096;
const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";
const FILL_DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.";

/// Makes and checks values.
#[derive(Debug)]
pub struct Values {
    pattern: Vec<u8>,
}

impl Values {
    /// For values of at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Values {
        let length = (0..).take(bytes_max + super::to_index(OFFSET_COUNT));
        let digit = |at: u64| FILL_DIGITS[super::to_index(mix(at) % 64)];
        Values { pattern: length.map(digit).collect() }
    }

    /// The value of write `number`, to `key`.
    pub fn value(&self, key: u64, number: u64, bytes: usize) -> Value<'_> {
        let start = super::to_index(mix(key ^ number.rotate_left(32)) % OFFSET_COUNT);
        let fill_bytes = bytes.saturating_sub(HEAD_BYTES);
        let fill = &self.pattern[start..start + fill_bytes];
        Value { head: head(key, number), head_bytes: bytes.min(HEAD_BYTES), fill }
    }

    /// True if `bytes` are a value that some write has given to `key`, as a whole.
    pub fn is_whole(&self, key: u64, bytes: &[u8]) -> bool {
        let Some(number) = bytes.get(16..HEAD_BYTES).and_then(parse_hex) else { return false };
        if bytes.len() > self.pattern.len() - super::to_index(OFFSET_COUNT) {
            return false;
        }
        let expected = self.value(key, number, bytes.len());
        bytes[..HEAD_BYTES] == expected.head && bytes[HEAD_BYTES..] == *expected.fill
    }
}

/// A value to be written.
#[derive(Debug, Clone, Copy)]
pub struct Value<'a> {
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    fill: &'a [u8],
}

impl Value<'_> {
    /// How many bytes it has.
    pub fn bytes(&self) -> usize {
        self.head_bytes + self.fill.len()
    }

    /// Appends it.
    pub fn append_to(&self, output: &mut Vec<u8>) {
        output.extend_from_slice(&self.head[..self.head_bytes]);
        output.extend_from_slice(self.fill);
    }
}

fn head(key: u64, number: u64) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    for (digits, mut word) in head.chunks_exact_mut(16).zip([key, number]) {
        for digit in digits.iter_mut().rev() {
            *digit = HEX_DIGITS[super::to_index(word & 15)];
            word >>= 4;
        }
    }
    head
}

fn parse_hex(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &Values, key: u64, number: u64, bytes: usize) -> Vec<u8> {
        let value = values.value(key, number, bytes);
        let mut out = Vec::new();
        value.append_to(&mut out);
        assert_eq!(out.len(), value.bytes());
        out
    }

    #[test]
    fn a_value_is_told_from_one_of_another_key_and_from_a_mixed_one() {
        let values = Values::new(1024);
        let one = bytes(&values, 7, 1, 1024);
        let other = bytes(&values, 7, 2, 1024);
        assert!(values.is_whole(7, &one) && values.is_whole(7, &other));
        assert!(!values.is_whole(8, &one));
        for cut in 1..1024 {
            let mixed = [&one[..cut], &other[cut..]].concat();
            let same = mixed == one || mixed == other;
            assert_eq!(values.is_whole(7, &mixed), same, "cut at {cut}");
        }
    }

    #[test]
    fn values_have_every_length_and_foreign_ones_are_no_values() {
        let values = Values::new(100);
        for length in 0..=100 {
            assert_eq!(bytes(&values, 1, 2, length).len(), length);
        }
        assert!(values.is_whole(1, &bytes(&values, 1, 2, HEAD_BYTES)));
        for foreign in [&b""[..], b"hello", &[b'+'; 50], &[b'a'; 101], &[0xff; 32]] {
            assert!(!values.is_whole(1, foreign), "{foreign:?}");
        }
    }
}
