//! One TCP connection between members: frames in, frames out, and its handshake.
//!
//! Called by `caller`, `channel`, `listener` and `serving`, and by `replica` and `raft` for frames
//! of their own. Every read and write has a deadline at its caller, or waits for as long as the
//! kernel finds the other side alive (see `host/net.rs`).

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use smallvec::SmallVec;
use tokio::time::timeout;

use super::frames::{
    BODY_BYTES_MAX, Frame, FrameKind, HEADER_BYTES, HELLO_BYTES_MAX, Header, Shared, Space,
};
use super::hello::{Greeting, Hello, Welcome, Whoever};
use crate::host::{Net, ReadHalf, Standing, Stream, WriteHalf};

/// How long connecting and shaking hands may take.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a frame may take to be written.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes that a buffer keeps between frames.
const BUFFER_BYTES_KEPT: usize = 4 << 20;
/// Most bytes of a foreign answer that an error repeats.
const EXCERPT_BYTES_MAX: usize = 160;
/// Most pieces that are written at once.
const PIECES_MAX: usize = 16;
/// What is read from a socket at once.
const READ_BYTES: usize = 64 << 10;

/// The reading half.
#[derive(Debug)]
pub struct FrameReader {
    half: ReadHalf,
    buffer: BytesMut,
    body_bytes_max: usize,
    received_bytes: Arc<AtomicU64>,
}

/// The writing half; `buffer` is reused from frame to frame.
#[derive(Debug)]
pub struct FrameWriter {
    half: WriteHalf,
    /// Frames that wait for [`FrameWriter::send`], without what is shared.
    pub buffer: Vec<u8>,
    /// Bytes that belong in between, their places ascending. None is empty.
    shared: VecDeque<Shared>,
    /// Bytes at the front of `buffer` that [`FrameWriter::send_some`] has written.
    written: usize,
}

/// Both halves.
pub(crate) type Connection = (FrameReader, FrameWriter);
/// A connection to a member, and the address that was dialled for it.
pub(crate) type Dialled = (String, Connection);

/// An error for bytes that are no frame.
pub fn bad_frame(error: crate::command::DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The result of `work`, or `TimedOut` after `bound`.
pub(crate) async fn in_time<T>(
    work: impl Future<Output = io::Result<T>>,
    bound: Duration,
) -> io::Result<T> {
    timeout(bound, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Splits a stream; at first only short frames are taken.
///
/// # Errors
/// Of the socket.
pub fn split(stream: impl Into<Stream>) -> io::Result<(FrameReader, FrameWriter)> {
    let (read, write) = stream.into().into_halves()?;
    let reader = FrameReader {
        half: read,
        buffer: BytesMut::new(),
        body_bytes_max: HELLO_BYTES_MAX,
        received_bytes: Arc::default(),
    };
    let writer =
        FrameWriter { half: write, buffer: Vec::new(), shared: VecDeque::new(), written: 0 };
    Ok((reader, writer))
}

impl FrameReader {
    /// Takes frames of every size from now on: the handshake is done.
    pub fn allow_large(&mut self) {
        self.body_bytes_max = BODY_BYTES_MAX;
    }

    /// From now on, counts the bytes that arrive in `total`.
    pub(crate) fn count_in(&mut self, total: Arc<AtomicU64>) {
        self.received_bytes = total;
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
            let count = self.half.read_buf(&mut self.buffer).await?;
            self.received_bytes.fetch_add(count as u64, Ordering::Relaxed);
            if count == 0 {
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

    /// What the other side shows under TLS; `None` on a plain connection.
    pub(crate) fn standing(&self) -> Option<&Arc<Standing>> {
        self.half.standing()
    }

    /// The member that the other side's certificate names; `None` on a plain connection.
    pub fn certified(&self) -> Option<&str> {
        Some(self.standing()?.bearer()?.name())
    }

    /// True if whoever dialled is to make the connection anew.
    pub(crate) fn is_old(&self) -> bool {
        self.standing().is_some_and(|standing| standing.is_old())
    }

    /// The connection may be older than others from now on.
    pub(crate) fn allow_long(&self) {
        if let Some(standing) = self.standing() {
            standing.allow_long();
        }
    }

    /// Bytes that have arrived and do not make a whole frame, or are no frame at all.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.buffer
    }

    /// The next frame, which must be of a kind.
    ///
    /// # Errors
    /// As [`FrameReader::next`]; the stream ended, or the frame is another.
    pub async fn expect(&mut self, kind: FrameKind) -> io::Result<bytes::Bytes> {
        Ok(self.expect_frame(kind).await?.body)
    }

    /// As [`FrameReader::expect`], with what was summed of the body.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn expect_frame(&mut self, kind: FrameKind) -> io::Result<Frame> {
        match self.next().await? {
            Some(frame) if frame.kind == kind => Ok(frame),
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
        while self.has_unsent() {
            self.send_some().await?;
        }
        Ok(())
    }

    /// True while frames wait to be written.
    pub fn has_unsent(&self) -> bool {
        self.written < self.buffer.len() || !self.shared.is_empty()
    }

    /// So many bytes wait to be written.
    pub(crate) fn unsent_bytes(&self) -> usize {
        let shared: usize = self.shared.iter().map(|shared| shared.bytes.len()).sum();
        self.buffer.len() - self.written + shared
    }

    /// Where an append frame goes: the buffer, and long bytes that are not copied, if the socket takes
    /// pieces.
    pub(crate) fn for_append(&mut self) -> Space<'_> {
        let takes_pieces = self.half.takes_pieces();
        Space { out: &mut self.buffer, shared: takes_pieces.then_some(&mut self.shared) }
    }

    /// Writes as much of the buffer as the socket takes. Cancelling it loses no bytes.
    ///
    /// # Errors
    /// Of the socket.
    pub async fn send_some(&mut self) -> io::Result<()> {
        if self.shared.is_empty() {
            let rest = self.buffer.get(self.written..).unwrap_or_default();
            let count = self.half.write(rest).await?;
            if count == 0 && !rest.is_empty() {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.written += count;
        } else {
            let pieces = pieces(&self.buffer, self.written, &self.shared);
            let count = self.half.write_pieces(&pieces).await?;
            drop(pieces);
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.pass(count);
        }
        if self.has_unsent() {
            return Ok(());
        }
        self.written = 0;
        self.buffer.clear();
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new(); // one large frame does not hold its memory for ever
        }
        Ok(())
    }

    /// Passes over what was written of the pieces.
    fn pass(&mut self, mut count: usize) {
        while let Some(Shared { place, bytes }) = self.shared.front_mut() {
            let own = count.min(*place - self.written);
            let of_shared = (count - own).min(bytes.len());
            self.written += own;
            bytes.advance(of_shared);
            count -= own + of_shared;
            if !bytes.is_empty() {
                return;
            }
            self.shared.pop_front();
        }
        self.written += count;
    }

    /// As [`FrameWriter::send`], within [`WRITE_TIMEOUT`]. After an error the connection must go:
    /// half a frame may be written.
    ///
    /// # Errors
    /// Of the socket; `TimedOut` if the other side takes nothing for too long.
    pub(crate) async fn send_in_time(&mut self) -> io::Result<()> {
        in_time(self.send(), WRITE_TIMEOUT).await
    }
}

/// What is to be written next: the buffer from `at` on, and what belongs in between.
fn pieces<'a>(
    buffer: &'a [u8],
    mut at: usize,
    shared: &'a VecDeque<Shared>,
) -> SmallVec<[IoSlice<'a>; PIECES_MAX]> {
    let mut pieces = SmallVec::new();
    for Shared { place, bytes } in shared.iter().take(PIECES_MAX / 2) {
        pieces.push(IoSlice::new(buffer.get(at..*place).unwrap_or_default()));
        pieces.push(IoSlice::new(bytes));
        at = *place;
    }
    if shared.len() < PIECES_MAX / 2 {
        pieces.push(IoSlice::new(buffer.get(at..).unwrap_or_default()));
    }
    pieces
}

/// A hello was refused.
#[derive(Debug, thiserror::Error)]
#[error("{}", match .0 {
    Greeting::Refused(reason) | Greeting::Copy(reason) => reason.as_str(),
    Greeting::Accepted => "accepted",
})]
pub(crate) struct HelloRefused(pub(crate) Greeting);

/// Connects and shakes hands with the member that a hello is meant for, and whose certificate has this
/// name, if it has one and the name is known.
///
/// # Errors
/// `PermissionDenied` with a [`HelloRefused`] if the peer refuses, `InvalidData` if the answer comes
/// from another member or from something that is no member; otherwise of the socket.
pub(crate) async fn dial(
    net: &Net,
    address: &str,
    hello: &Hello,
    name: Option<&str>,
) -> io::Result<Connection> {
    let shaken = in_time(shake_hands(net, address, hello, name), HANDSHAKE_TIMEOUT).await;
    let (mut reader, writer, Welcome { from, answer }) = shaken?;
    if !matches!(answer, Greeting::Refused(_)) {
        check_who(hello, from)?;
    }
    if answer != Greeting::Accepted {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, HelloRefused(answer)));
    }
    reader.allow_large();
    Ok((reader, writer))
}

/// True if the answer comes from the member that the hello was meant for.
fn check_who(hello: &Hello, from: Whoever) -> io::Result<()> {
    let is_cluster = hello.cluster_id == 0 || hello.cluster_id == from.cluster_id;
    if is_cluster && (hello.to == 0 || hello.to == from.member_id) {
        return Ok(());
    }
    let reason = format!(
        "member {:016x} of cluster {:032x} answers there, and not {:016x} of {:032x}",
        from.member_id, from.cluster_id, hello.to, hello.cluster_id
    );
    Err(io::Error::new(io::ErrorKind::InvalidData, reason))
}

/// Connects, says hello, and waits for the answer, whatever it is. Nothing is said to a member whose
/// certificate has another name than this.
pub(crate) async fn shake_hands(
    net: &Net,
    address: &str,
    hello: &Hello,
    name: Option<&str>,
) -> io::Result<(FrameReader, FrameWriter, Welcome)> {
    let (mut reader, mut writer) = split(net.dial(address).await?)?;
    if let (Some(shown), Some(name)) = (reader.certified(), name)
        && shown != name
    {
        let reason = format!("the certificate there is that of member {shown}, and not of {name}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    hello.put(&mut writer.buffer);
    writer.send().await?;
    let body = match reader.expect(FrameKind::Welcome).await {
        Ok(body) => body,
        Err(_) if !reader.unread().is_empty() => return Err(foreign(reader.unread())),
        Err(error) => return Err(error),
    };
    let welcome = Welcome::decode(body).map_err(bad_frame)?;
    Ok((reader, writer, welcome))
}

/// The error for an answer in another protocol. It quotes the first line if that is text, since this
/// usually shows what is listening.
fn foreign(answer: &[u8]) -> io::Error {
    let is_text = |byte: &&u8| byte.is_ascii_graphic() || **byte == b' ';
    let line: Vec<u8> =
        answer.iter().take(EXCERPT_BYTES_MAX).take_while(is_text).copied().collect();
    let line = String::from_utf8_lossy(&line);
    let said = if line.is_empty() { "other bytes".into() } else { format!("`{}`", line.trim()) };
    io::Error::new(io::ErrorKind::InvalidData, format!("no member answers there, but {said}"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use diskstore_storage::summed::SummedBytes;
    use futures_util::FutureExt;
    use tokio::io::AsyncReadExt;

    use super::super::frames::Body;
    use super::*;

    /// Appends a frame of short bytes and long ones.
    fn put(space: Space<'_>, payloads: usize) {
        let mut body = Body::begin(space, FrameKind::Response).put(|out| out.push(1));
        for nth in 0..payloads {
            let mut long = SummedBytes::from(Bytes::from(vec![7; 20_000 + nth]));
            long.sum();
            body = body.put_summed(long);
            if nth % 3 == 0 {
                body = body.put(|out| out.extend_from_slice(b"between"));
            }
        }
        body.finish();
    }

    #[tokio::test]
    async fn bytes_that_are_not_copied_arrive_in_their_places() {
        for (room, payloads) in [(997, 3), (30_000, 30), (1 << 20, 30), (5, 1)] {
            let (own, mut other) = tokio::io::duplex(room);
            let (_reader, mut writer) = split(Stream::Local(own)).unwrap();
            let mut expected = Vec::new();
            for count in [payloads, 0, 2] {
                put(Space { out: &mut expected, shared: None }, count);
                put(writer.for_append(), count);
                // Some of it is written before the next frame comes.
                writer.send_some().now_or_never().unwrap_or(Ok(())).unwrap();
            }
            let mut received = vec![0; expected.len()];
            let unsent = writer.unsent_bytes();
            assert!(
                writer.has_unsent() && unsent < expected.len(),
                "{unsent} of {}",
                expected.len()
            );
            let reading = in_time(other.read_exact(&mut received), WRITE_TIMEOUT);
            let (sent, read) = tokio::join!(writer.send_in_time(), reading);
            sent.unwrap();
            read.unwrap();
            assert!(received == expected, "room for {room} bytes");
            assert_eq!((writer.unsent_bytes(), writer.has_unsent()), (0, false));
        }
    }
}
