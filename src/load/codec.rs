//! The trait of a protocol under load: encodes requests and decodes replies. Pure: bytes in, bytes
//! out.
//!
//! - I1: a server answers the requests of one connection in their order.

use super::Value;

/// One operation.
#[derive(Debug, Clone, Copy)]
pub enum Operation<'a> {
    /// Reads the value of `key`.
    Read {
        /// Number of the key.
        key: u64,
    },
    /// Sets the value of `key`.
    Write {
        /// Number of the key.
        key: u64,
        /// What to set it to.
        value: Value<'a>,
    },
}

/// What a server answered to one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodecReply<'a> {
    /// It was done.
    Done,
    /// The value that was asked for.
    Value(&'a [u8]),
    /// The key holds no value.
    Missing,
    /// It was not done; the first word is the kind of error that it is counted under.
    Refused(&'a [u8]),
}

/// What the front of the received bytes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodecStep<'a> {
    /// More bytes are needed.
    More,
    /// So many bytes were no reply and are done with.
    Passed(usize),
    /// So many bytes, 0 if they answer further ones too, were the reply to the oldest operation that
    /// waits for one.
    Reply(usize, CodecReply<'a>),
}

/// Bytes that the protocol does not know; the connection is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreign;

/// One connection's protocol.
pub trait Codec: Send {
    /// Answers come by UDP to this port, which requests have to name.
    fn answer_to(&mut self, _port: u16) {}

    /// Appends what a client says first, when the connection stands.
    fn open(&mut self, _output: &mut Vec<u8>) {}

    /// True once operations may be sent.
    fn is_open(&self) -> bool {
        true
    }

    /// Appends one operation.
    fn request(&mut self, operation: &Operation<'_>, output: &mut Vec<u8>);

    /// Appends what follows the last of the operations that are sent at once.
    fn end_batch(&mut self, _output: &mut Vec<u8>) {}

    /// Looks at the front of what was received; what must be answered to it is appended to `output`.
    ///
    /// # Errors
    /// [`Foreign`]
    fn next<'a>(&mut self, input: &'a [u8], output: &mut Vec<u8>)
    -> Result<CodecStep<'a>, Foreign>;
}
