//! Frames between nodes, and the two that open a connection: hello and welcome. Pure.
//!
//! Called by `links` and the driver.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use bytes::{BufMut, Bytes};

use crate::command::DecodeError;
use crate::command::cursor::{Cursor, put_string};
use crate::leaderless::clock::NodeNumber;
use crate::leaderless::node::records::read_node;

/// Version of these messages; a peer of another one is refused.
pub(in crate::leaderless::node) const WIRE_VERSION: u16 = 3;
/// Length u32, CRC-32 of the body u32.
pub(in crate::leaderless::node) const FRAME_HEADER_BYTES: usize = 8;
/// Most bytes of a frame's body: many messages, the last of which may have the largest value.
pub(in crate::leaderless::node) const FRAME_BYTES_MAX: usize = 48 << 20;
/// Most bytes of a hello or a welcome.
pub(in crate::leaderless::node) const HELLO_BYTES_MAX: usize = 2048;
/// Most bytes of a reason.
const REASON_BYTES_MAX: usize = 1024;
/// The first frame of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::leaderless::node) struct RegistersHello {
    /// Follows from the first layout.
    pub(in crate::leaderless::node) cluster_id: u128,
    /// The layout's epoch.
    pub(in crate::leaderless::node) epoch: u64,
    /// Its hash.
    pub(in crate::leaderless::node) layout_hash: [u8; 32],
    /// Who dials.
    pub(in crate::leaderless::node) from: NodeNumber,
    /// Who is dialled.
    pub(in crate::leaderless::node) to: NodeNumber,
    /// Largest value that it takes.
    pub(in crate::leaderless::node) value_bytes_max: u32,
    /// Random number of the process that dials.
    pub(in crate::leaderless::node) process: u64,
}

/// Appends a frame to `out`.
pub(in crate::leaderless::node) fn put_frame(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; FRAME_HEADER_BYTES]);
    body(out);
    end_frame(out, start);
}

/// Fills in the header of the frame that began at `start`, with room for it.
pub(in crate::leaderless::node) fn end_frame(out: &mut [u8], start: usize) {
    let Some((header, body)) =
        out.get_mut(start..).and_then(|frame| frame.split_first_chunk_mut::<FRAME_HEADER_BYTES>())
    else {
        unreachable!("the header was just written");
    };
    let length = u32::try_from(body.len()).expect("invariant: bodies are bounded");
    let crc = crc32fast::hash(body);
    let mut fields = header.as_mut_slice();
    fields.put_u32_le(length);
    fields.put_u32_le(crc);
}

/// What a header says of the body behind it.
#[derive(Debug, Clone, Copy)]
pub(in crate::leaderless::node) struct FrameHeader {
    pub(in crate::leaderless::node) length: usize,
    crc: u32,
}

impl FrameHeader {
    /// Reads a header.
    pub(in crate::leaderless::node) fn decode(
        bytes: [u8; FRAME_HEADER_BYTES],
        bytes_max: usize,
    ) -> Result<FrameHeader, DecodeError> {
        let mut cursor = Cursor::new(Bytes::copy_from_slice(&bytes));
        let (length, crc) = (cursor.u32()? as usize, cursor.u32()?);
        if length > bytes_max {
            return Err(cursor.error("frame too long"));
        }
        Ok(FrameHeader { length, crc })
    }

    /// The body, if it is the one that was sent.
    pub(in crate::leaderless::node) fn check(self, body: Bytes) -> Result<Bytes, DecodeError> {
        if crc32fast::hash(&body) != self.crc {
            return Err(DecodeError { what: "frame's checksum", offset: 0 });
        }
        Ok(body)
    }
}

/// The version that a hello speaks, if it is another than this node's.
pub(in crate::leaderless::node) fn other_version(hello: &Bytes) -> Option<u16> {
    let version = Cursor::new(hello.clone()).u16().ok()?;
    (version != WIRE_VERSION).then_some(version)
}

impl RegistersHello {
    /// Appends the body.
    pub(in crate::leaderless::node) fn put(&self, out: &mut Vec<u8>) {
        out.put_u16_le(WIRE_VERSION);
        out.put_u128_le(self.cluster_id);
        out.put_u64_le(self.epoch);
        out.put_slice(&self.layout_hash);
        out.put_u16_le(self.from.get());
        out.put_u16_le(self.to.get());
        out.put_u32_le(self.value_bytes_max);
        out.put_u64_le(self.process);
    }

    /// Reads the body.
    pub(in crate::leaderless::node) fn decode(body: Bytes) -> Result<RegistersHello, DecodeError> {
        let mut cursor = Cursor::new(body);
        if cursor.u16()? != WIRE_VERSION {
            return Err(cursor.error("peer of another version"));
        }
        let (cluster_id, epoch) = (cursor.u128()?, cursor.u64()?);
        let mut layout_hash = [0; 32];
        layout_hash.copy_from_slice(&cursor.bytes(32)?);
        let (from, to) = (read_node(&mut cursor)?, read_node(&mut cursor)?);
        let value_bytes_max = cursor.u32()?;
        let process = cursor.u64()?;
        cursor.finish()?;
        Ok(RegistersHello { cluster_id, epoch, layout_hash, from, to, value_bytes_max, process })
    }
}

/// Appends the answer to a hello: a reason, if the connection may not be used.
pub(in crate::leaderless::node) fn put_welcome(out: &mut Vec<u8>, refused: Option<&str>) {
    let reason = refused.unwrap_or_default();
    let end = reason.floor_char_boundary(REASON_BYTES_MAX);
    out.put_u8(u8::from(refused.is_some()));
    put_string(out, reason.get(..end).unwrap_or_default());
}

/// Reads the answer to a hello.
pub(in crate::leaderless::node) fn read_welcome(
    body: Bytes,
) -> Result<Option<String>, DecodeError> {
    let mut cursor = Cursor::new(body);
    let is_refused = cursor.boolean()?;
    let reason = cursor.string(REASON_BYTES_MAX)?;
    cursor.finish()?;
    Ok(is_refused.then_some(reason))
}
