//! Bytes of small metadata: identity, superblock body, membership, join messages.
//!
//! Called by `identity`, `slots` and the node; the one file that names bincode, so that it can
//! be replaced. Invariants:
//!
//! - I1: integers have a fixed width and are little-endian, lengths are u64: the bytes are those of
//!   `docs/format.md` section "Metadata", whatever library makes them.
//! - I2: decoding takes no more than [`META_BYTES_MAX`] bytes of memory, whatever the input says.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};

/// Largest encoding, in bytes.
pub const META_BYTES_MAX: usize = 1 << 20;

/// A value that can be metadata: integers, `bool`, `String`, `Option`, `Vec` and tuples of these,
/// and types that derive bincode's traits.
pub trait Metadata: bincode::Encode + bincode::Decode<()> {}

impl<T: bincode::Encode + bincode::Decode<()>> Metadata for T {}

const CONFIGURATION: Configuration<LittleEndian, Fixint, Limit<META_BYTES_MAX>> =
    bincode::config::standard()
        .with_fixed_int_encoding()
        .with_little_endian()
        .with_limit::<META_BYTES_MAX>();

/// The bytes of a value.
///
/// # Panics
/// If they are more than [`META_BYTES_MAX`]: whoever makes metadata bounds what goes in.
pub fn encode<T: Metadata>(value: &T) -> Vec<u8> {
    let bytes = bincode::encode_to_vec(value, CONFIGURATION)
        .expect("invariant: integers, strings and lists of them have bytes");
    assert!(bytes.len() <= META_BYTES_MAX, "{} bytes of metadata", bytes.len());
    bytes
}

/// The value of which these are the bytes; `None` if they are not exactly that of one.
pub fn decode<T: Metadata>(bytes: &[u8]) -> Option<T> {
    let (value, used) = bincode::decode_from_slice(bytes, CONFIGURATION).ok()?;
    (used == bytes.len()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Example = (u128, u64, u32, u8, bool, String, Option<u64>, Vec<u32>);

    fn example() -> Example {
        (1, 2, 3, 4, true, "node0".to_owned(), Some(5), vec![6, 7])
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let mut golden = Vec::new();
        golden.extend_from_slice(&1_u128.to_le_bytes());
        golden.extend_from_slice(&2_u64.to_le_bytes());
        golden.extend_from_slice(&3_u32.to_le_bytes());
        golden.extend_from_slice(&[4, 1]);
        golden.extend_from_slice(&5_u64.to_le_bytes());
        golden.extend_from_slice(b"node0");
        golden.push(1);
        golden.extend_from_slice(&5_u64.to_le_bytes());
        golden.extend_from_slice(&2_u64.to_le_bytes());
        golden.extend_from_slice(&6_u32.to_le_bytes());
        golden.extend_from_slice(&7_u32.to_le_bytes());
        assert_eq!(encode(&example()), golden);
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        assert_eq!(decode::<Example>(&encode(&example())), Some(example()));
    }

    #[test]
    fn bytes_that_end_early_or_late_are_refused() {
        let mut bytes = encode(&example());
        for end in 0..bytes.len() {
            assert_eq!(decode::<Example>(&bytes[..end]), None, "{end} bytes");
        }
        bytes.push(0);
        assert_eq!(decode::<Example>(&bytes), None);
    }

    #[test]
    fn a_length_beyond_the_limit_takes_no_memory() {
        let announced = (1_u64 << 40).to_le_bytes();
        assert_eq!(decode::<Vec<u8>>(&announced), None);
        assert_eq!(decode::<String>(&u64::MAX.to_le_bytes()), None);
        assert_eq!(decode::<Vec<u64>>(&(META_BYTES_MAX as u64).to_le_bytes()), None);
    }
}
