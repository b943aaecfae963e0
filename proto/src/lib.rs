//! The gRPC services of the client port: messages, servers and clients, made of the .proto files beside.
//!
//! Used by `src/server/grpc/` and by tests. Fields of bytes are slices of the message that they came in.
//!
//! Invariant:
//! - I1: a request takes memory for [`FIELD_COUNT_MAX`] fields and not for more: two bytes could ask for
//!   a hundred otherwise. Those of [`api`] have no repeated fields, and need no such bound.

use std::marker::PhantomData;

use prost::bytes::Buf;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

pub use prost::Message;
pub use prost_types::Duration;

/// Our own service.
pub mod diskstore {
    tonic::include_proto!("diskstore.v1");
}

/// konsen's service.
pub mod konsen {
    tonic::include_proto!("konsen");
}

/// The services of the leaderless store. Keys and values are bytes here, and text in the file that clients
/// read (`api/api.proto`): the same on the wire.
pub mod api {
    tonic::include_proto!("api");
}

/// What the .proto files say, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
/// What `api/api.proto` says, for reflection: with keys and values as text.
pub const API_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/api_descriptors.bin"));

/// Most fields of a message, those of messages within it apart: the operations of one entry, and a few.
pub const FIELD_COUNT_MAX: usize = 4096 + 16;

/// Reads a message that is too long for a request of its own.
///
/// # Errors
/// It is none, or has too many fields (I1); why, in words.
pub fn read<M: Message + Default>(bytes: prost::bytes::Bytes) -> Result<M, String> {
    if has_too_many_fields(&bytes) {
        return Err(format!("more than {FIELD_COUNT_MAX} fields"));
    }
    M::decode(bytes).map_err(|error| error.to_string())
}

/// Whether a message has more fields than it may have. What cannot be read has as many as come before.
fn has_too_many_fields(mut bytes: &[u8]) -> bool {
    let mut count = 0;
    while bytes.has_remaining() && count <= FIELD_COUNT_MAX {
        let field = decode_key(&mut bytes).and_then(|(tag, wire_type)| {
            skip_field(wire_type, tag, &mut bytes, DecodeContext::default())
        });
        if field.is_err() {
            return false; // and no message is made of it
        }
        count += 1;
    }
    count > FIELD_COUNT_MAX
}

/// prost's, for messages that do not have too many fields (I1).
#[derive(Debug)]
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

/// Reads messages that do not have too many fields.
#[derive(Debug)]
pub struct BoundedDecoder<U>(ProstDecoder<U>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> BoundedCodec<T, U> {
        BoundedCodec(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> BoundedDecoder<U> {
        BoundedDecoder(ProstCodec::<T, U>::default().decoder())
    }
}

impl<U: Message + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // A message stands in one piece.
        if has_too_many_fields(source.chunk()) {
            let message = format!("a message has {FIELD_COUNT_MAX} fields at most");
            return Err(Status::resource_exhausted(message));
        }
        self.0.decode(source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_before_memory_is_taken_for_them() {
        let pairs = |count| [0x0a, 0].repeat(count);
        assert!(!has_too_many_fields(&pairs(FIELD_COUNT_MAX)));
        assert!(has_too_many_fields(&pairs(FIELD_COUNT_MAX + 1)));
        let list = read::<konsen::KvList>(pairs(FIELD_COUNT_MAX).into()).unwrap();
        assert_eq!(list.kv_list.len(), FIELD_COUNT_MAX);
        assert!(read::<konsen::KvList>(pairs(FIELD_COUNT_MAX + 1).into()).is_err());
    }

    #[test]
    fn what_is_no_message_is_refused_and_never_panics() {
        for bytes in [
            &b"\x0a"[..],
            b"\x0a\x05a",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\0",
            b"\x0b",
        ] {
            assert!(!has_too_many_fields(bytes));
            assert!(read::<konsen::KvList>(bytes.to_vec().into()).is_err(), "{bytes:?}");
        }
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..100_000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let length = usize::from(state.to_le_bytes()[0] % 8);
            drop(read::<diskstore::BatchRequest>(state.to_le_bytes()[..length].to_vec().into()));
        }
    }
}
