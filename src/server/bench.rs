//! What the benches of `benches/` measure of the protocols, which nobody else can call from outside.

use bytes::BytesMut;

use super::resp::{Decoder, Encoder, Version};

/// Takes all complete requests off `input`; says how many there were.
pub fn decode(input: &mut BytesMut) -> u64 {
    let mut decoder = Decoder::default();
    let mut count = 0;
    while let Ok(Some(request)) = decoder.next(input) {
        count += u64::from(!std::hint::black_box(request.arguments()).is_empty());
    }
    count
}

/// Appends the reply that carries a value.
pub fn encode(out: &mut BytesMut, value: Option<&[u8]>) {
    Encoder::new(out, Version::Two).value(value);
}
