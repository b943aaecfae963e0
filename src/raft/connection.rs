//! One TCP connection between members: frames in, frames out, and its handshake.
//!
//! Called by `network`, `peers` and `channel`. Every read and write has a deadline at its caller.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::wire::{
    BODY_BYTES_MAX, Frame, HEADER_BYTES, HELLO_BYTES_MAX, Header, Hello, Kind, Welcome,
};

/// How long connecting and shaking hands may take.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// What is read from a socket at once.
const READ_BYTES: usize = 64 << 10;

/// The reading half.
#[derive(Debug)]
pub struct FrameReader {
    half: OwnedReadHalf,
    buffer: BytesMut,
    body_bytes_max: usize,
}

/// The writing half; `buffer` is reused from frame to frame.
#[derive(Debug)]
pub struct FrameWriter {
    half: OwnedWriteHalf,
    /// Frames that wait for [`FrameWriter::send`].
    pub buffer: Vec<u8>,
}

/// An error for bytes that are no frame.
pub fn bad_frame(error: crate::command::DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Splits a stream; at first only short frames are taken.
///
/// # Errors
/// Of the socket.
pub fn split(stream: TcpStream) -> io::Result<(FrameReader, FrameWriter)> {
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    let reader =
        FrameReader { half: read, buffer: BytesMut::new(), body_bytes_max: HELLO_BYTES_MAX };
    Ok((reader, FrameWriter { half: write, buffer: Vec::new() }))
}

impl FrameReader {
    /// Takes frames of every size from now on: the handshake is done.
    pub fn allow_large(&mut self) {
        self.body_bytes_max = BODY_BYTES_MAX;
    }

    /// The next frame, `None` at the end of the stream. Cancelling it loses no bytes.
    ///
    /// # Errors
    /// Of the socket; `InvalidData` for bytes that are no frame.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(READ_BYTES);
            if self.half.read_buf(&mut self.buffer).await? == 0 {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn take_frame(&mut self) -> io::Result<Option<Frame>> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = Header::decode(*header, self.body_bytes_max).map_err(bad_frame)?;
        let bytes = HEADER_BYTES + header.length;
        if self.buffer.len() < bytes {
            self.buffer.reserve(bytes - self.buffer.len());
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(bytes);
        frame.advance(HEADER_BYTES);
        header.with_body(frame.freeze()).map(Some).map_err(bad_frame)
    }

    /// The next frame, which must be of a kind.
    ///
    /// # Errors
    /// As [`FrameReader::next`]; the stream ended, or the frame is another.
    pub async fn expect(&mut self, kind: Kind) -> io::Result<bytes::Bytes> {
        match self.next().await? {
            Some(frame) if frame.kind == kind => Ok(frame.body),
            Some(frame) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("expected {kind:?}, got {:?}", frame.kind),
            )),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl FrameWriter {
    /// Writes out what is in the buffer.
    ///
    /// # Errors
    /// Of the socket.
    pub async fn send(&mut self) -> io::Result<()> {
        let result = self.half.write_all(&self.buffer).await;
        self.buffer.clear();
        if self.buffer.capacity() > 4 << 20 {
            self.buffer = Vec::new(); // one large frame does not hold its memory for ever
        }
        result
    }
}

/// Connects and shakes hands.
///
/// # Errors
/// `ConnectionRefused` with the peer's reason if it refuses; otherwise of the socket.
pub(super) async fn dial(address: &str, hello: &Hello) -> io::Result<(FrameReader, FrameWriter)> {
    let connect = async {
        let (mut reader, mut writer) = split(TcpStream::connect(address).await?)?;
        hello.put(&mut writer.buffer);
        writer.send().await?;
        let body = reader.expect(Kind::Welcome).await?;
        let welcome = Welcome::decode(body).map_err(bad_frame)?;
        if let Some(reason) = welcome.refusal {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
        }
        reader.allow_large();
        Ok((reader, writer))
    };
    timeout(HANDSHAKE_TIMEOUT, connect)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
