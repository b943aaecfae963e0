//! Targets of what clients send, for `fuzzing`: the decoders of each protocol, as far as they reach without
//! a node.

use bytes::{Bytes, BytesMut};

use super::keys::Keys;
use super::{grpc, http, original, resp};

const VALUE_BYTES_MAX: u32 = 100;

/// The keys of a node of slots, and those of a node where any bytes are a key.
fn all_keys() -> [Keys; 2] {
    [Keys::new(100, VALUE_BYTES_MAX, &["key".to_owned()]), Keys::new(0, VALUE_BYTES_MAX, &[])]
}

/// All requests in bytes that come at once are those in the same bytes that come one by one.
pub(crate) fn resp(input: &[u8]) {
    let whole = resp::fuzzed(input, usize::MAX);
    assert_eq!(resp::fuzzed(input, 1), whole);
    assert_eq!(resp::fuzzed(input, 3), whole);
}

/// The original's text, with the same property.
pub(crate) fn text(input: &[u8]) {
    in_both_ways(input, original::fuzzed_text);
}

/// The original's protobuf, with the same property.
pub(crate) fn protobuf(input: &[u8]) {
    in_both_ways(input, original::fuzzed_protobuf);
}

fn in_both_ways(input: &[u8], take: fn(&mut BytesMut, &Keys) -> Result<Option<String>, String>) {
    for keys in all_keys() {
        let taken = |piece_bytes: usize| {
            let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
            for piece in input.chunks(piece_bytes.clamp(1, input.len().max(1))) {
                buffer.extend_from_slice(piece);
                loop {
                    match take(&mut buffer, &keys) {
                        Ok(Some(request)) => found.push(request),
                        Ok(None) => break,
                        Err(error) => {
                            found.push(error);
                            return found;
                        }
                    }
                }
            }
            found
        };
        assert_eq!(taken(1), taken(usize::MAX));
    }
}

/// HTTP: heads, paths, queries, forms and bodies of JSON.
pub(crate) fn http(input: &[u8]) {
    for keys in all_keys() {
        http::fuzz(input, &keys);
    }
}

/// Messages of gRPC, of the kind that the first byte names.
pub(crate) fn grpc(input: &[u8]) {
    let Some((kind, message)) = input.split_first() else { return };
    for keys in all_keys() {
        grpc::fuzz(*kind, &Bytes::copy_from_slice(message), &keys);
    }
}
