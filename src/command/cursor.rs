//! Reads bytes that came from a peer: bounded, without panics, and without copying values.
#![deny(clippy::indexing_slicing)]

use bytes::{Buf, BufMut, Bytes};

use super::DecodeError;

/// Takes little-endian fields off the front of bytes from a peer.
#[derive(Debug)]
pub(crate) struct Cursor {
    rest: Bytes,
    total: usize,
}

impl Cursor {
    /// Starts at the first byte.
    pub(crate) fn new(bytes: Bytes) -> Cursor {
        Cursor { total: bytes.len(), rest: bytes }
    }

    /// How many bytes were taken.
    pub(crate) fn position(&self) -> usize {
        self.total - self.rest.len()
    }

    /// An error at the present position.
    pub(crate) fn error(&self, what: &'static str) -> DecodeError {
        DecodeError { what, offset: self.position() }
    }

    fn need(&self, bytes: usize) -> Result<(), DecodeError> {
        if self.rest.len() < bytes { Err(self.error("cut short")) } else { Ok(()) }
    }

    /// One byte.
    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.need(1)?;
        Ok(self.rest.get_u8())
    }

    /// Two bytes.
    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.need(2)?;
        Ok(self.rest.get_u16_le())
    }

    /// Four bytes.
    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.need(4)?;
        Ok(self.rest.get_u32_le())
    }

    /// Eight bytes.
    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.need(8)?;
        Ok(self.rest.get_u64_le())
    }

    /// Sixteen bytes.
    pub(crate) fn u128(&mut self) -> Result<u128, DecodeError> {
        self.need(16)?;
        Ok(self.rest.get_u128_le())
    }

    /// A truth value: one byte, 0 or 1.
    pub(crate) fn boolean(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.error("neither 0 nor 1")),
        }
    }

    /// A two-byte count of at most `count_max`.
    pub(crate) fn count_u16(
        &mut self,
        count_max: usize,
        what: &'static str,
    ) -> Result<usize, DecodeError> {
        let count = usize::from(self.u16()?);
        if count > count_max { Err(self.error(what)) } else { Ok(count) }
    }

    /// The next `length` bytes, shared with the frame.
    pub(crate) fn bytes(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        self.need(length)?;
        Ok(self.rest.split_to(length))
    }

    /// A string behind a two-byte length of at most `bytes_max`.
    pub(crate) fn string(&mut self, bytes_max: usize) -> Result<String, DecodeError> {
        let length = self.count_u16(bytes_max, "string too long")?;
        let bytes = self.bytes(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.error("string is not UTF-8"))
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> Bytes {
        self.rest.split_to(self.rest.len())
    }

    /// Refuses bytes behind the last field.
    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.error("bytes behind the end")) }
    }
}

/// Writes a string behind its two-byte length, cut at 65,535 bytes.
pub(crate) fn put_string(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.put_u16_le(length);
    out.extend(bytes.iter().take(usize::from(length)));
}
