//! Computes the hash slot into which a Redis cluster would put a key. diskstore does not shard keys
//! that way; this answers clients that ask. Pure.
//!
//! Source: Redis cluster specification, "Key distribution model" and appendix A.

#![deny(clippy::indexing_slicing)]

/// Hash slots that there are.
pub(crate) const HASH_SLOT_COUNT: u16 = 16_384;
/// x^16 + x^12 + x^5 + 1: CRC-16/XMODEM.
const POLYNOMIAL: u16 = 0x1021;

/// The hash slot of a key: of what stands between its first `{` and the next `}`, if anything does.
pub(crate) fn of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let behind = key.get(open + 1..)?;
        let close = behind.iter().position(|byte| *byte == b'}')?;
        behind.get(..close).filter(|tag| !tag.is_empty())
    });
    crc16(tag.unwrap_or(key)) % HASH_SLOT_COUNT
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            let shifted = crc << 1;
            if crc & 0x8000 == 0 { shifted } else { shifted ^ POLYNOMIAL }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_specification_is_met() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(crc16(b""), 0);
    }

    #[test]
    fn keys_lie_where_redis_puts_them() {
        let places: [(&[u8], u16); 3] = [(b"foo", 12182), (b"somekey", 11058), (b"", 0)];
        for (key, slot) in places {
            assert_eq!(of(key), slot, "{}", key.escape_ascii());
        }
        assert_eq!(of(b"foo{hash_tag}"), 2515);
        assert_eq!(of(b"a{user}b"), of(b"user"));
        assert_eq!(of(b"a{user}{other}"), of(b"user"));
        assert_eq!(of(b"foo{}{bar}"), crc16(b"foo{}{bar}") % HASH_SLOT_COUNT);
        assert_eq!(of(b"foo{{bar}}"), of(b"{bar"));
    }
}
