//! Connections between nodes: each node dials each other one and sends what it has to say; what it hears comes
//! over the connections that it is dialled by.
//!
//! Called by `mod` and the driver; calls `host`, `wire`. Invariants:
//!
//! - I1: what waits for a peer is bounded ([`QUEUE_BYTES_MAX`], and twice that with outcomes and gossip). What does not fit, or cannot be sent, is
//!   dropped: repair finds it.
//! - I2: nothing of a peer reaches the driver before its hello was checked.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::PEER_PREFACE;
use super::driver::Event;
use super::wire::{
    FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, HELLO_BYTES_MAX, RegistersHello,
    WIRE_VERSION, other_version, put_frame, put_welcome, read_messages, read_welcome,
};
use crate::command::DecodeError;
use crate::host::{Host, ReadHalf, Stream, WriteHalf};
use crate::leaderless::clock::NodeNumber;

/// Most bytes that wait for one peer.
pub(super) const QUEUE_BYTES_MAX: usize = 32 << 20;
/// How long dialling and shaking hands may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a frame may take to be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before a peer is dialled again.
const REDIAL_PAUSE: Duration = Duration::from_millis(100);
/// The same, where it refused.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);
/// A connection on which nothing was heard for so long ends: a peer speaks several times a second.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// What is read from a socket at once.
const READ_BYTES: usize = 64 << 10;

/// The way to a peer.
#[derive(Debug)]
pub(super) struct Link {
    frames: mpsc::UnboundedSender<Vec<u8>>,
    queued: Arc<AtomicUsize>,
}

/// Whom to dial, and what to say.
#[derive(Debug, Clone)]
pub(super) struct Dial {
    pub(super) host: Host,
    pub(super) address: String,
    pub(super) hello: RegistersHello,
}

impl Link {
    /// Begins to dial a peer, and goes on until `stop`.
    pub(super) fn start(
        dial: Dial,
        signals: mpsc::UnboundedSender<Event>,
        stop: watch::Receiver<bool>,
    ) -> Link {
        let (frames, queue) = mpsc::unbounded_channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let outgoing = Outgoing { dial, signals, queue, queued: queued.clone() };
        tokio::spawn(outgoing.run(stop));
        Link { frames, queued }
    }

    /// Bytes that wait.
    pub(super) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Sends a frame.
    pub(super) fn send(&self, frame: Vec<u8>) {
        let bytes = frame.len();
        self.queued.fetch_add(bytes, Ordering::Relaxed);
        if self.frames.send(frame).is_err() {
            self.queued.fetch_sub(bytes, Ordering::Relaxed); // the node stops
        }
    }
}

struct Outgoing {
    dial: Dial,
    signals: mpsc::UnboundedSender<Event>,
    queue: mpsc::UnboundedReceiver<Vec<u8>>,
    queued: Arc<AtomicUsize>,
}

impl Outgoing {
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            () = self.go_on() => {}
            _ = stop.wait_for(|stops| *stops) => {}
        }
    }

    async fn go_on(&mut self) {
        let to = self.dial.hello.to;
        loop {
            let dialled = timeout(HANDSHAKE_TIMEOUT, self.dial.connect()).await;
            let dialled = dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let (reason, pause) = match dialled {
                Ok(mut halves) => {
                    self.drain(); // of another connection
                    drop(self.signals.send(Event::Linked(to))); // only a node that stops is deaf
                    (self.send_frames(&mut halves).await, REDIAL_PAUSE)
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    (error, REFUSED_PAUSE)
                }
                Err(error) => (error, REDIAL_PAUSE),
            };
            drop(self.signals.send(Event::Unlinked(to, reason.to_string())));
            self.drain();
            sleep(pause).await;
        }
    }

    fn drain(&mut self) {
        while let Ok(frame) = self.queue.try_recv() {
            self.queued.fetch_sub(frame.len(), Ordering::Relaxed);
        }
    }

    /// Sends until that fails, or the other side ends the connection.
    async fn send_frames(&mut self, halves: &mut Halves) -> io::Error {
        let mut unread = BytesMut::new();
        loop {
            tokio::select! {
                frame = self.queue.recv() => {
                    let Some(frame) = frame else { std::future::pending().await };
                    let written = write_all(&mut halves.write, &frame).await;
                    self.queued.fetch_sub(frame.len(), Ordering::Relaxed);
                    if let Err(error) = written {
                        return error;
                    }
                }
                read = halves.read.read_buf(&mut unread) => match read {
                    Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
                    Ok(_) => unread.clear(), // it has nothing to say
                    Err(error) => return error,
                },
            }
        }
    }
}

struct Halves {
    read: ReadHalf,
    write: WriteHalf,
}

impl Dial {
    async fn connect(&self) -> io::Result<Halves> {
        let stream = self.host.net.dial(&self.address).await?;
        stream.set_nodelay()?;
        let (read, mut write) = stream.into_halves()?;
        let mut out = PEER_PREFACE.to_vec();
        put_frame(&mut out, |out| self.hello.put(out));
        write_all(&mut write, &out).await?;
        let mut reader = FrameSource { read, buffer: BytesMut::new(), bytes_max: HELLO_BYTES_MAX };
        let ended = "it ended the connection at the greeting: it may be of another build";
        let ended = || io::Error::new(io::ErrorKind::UnexpectedEof, ended);
        let body = reader.next().await?.ok_or_else(ended)?;
        match read_welcome(body).map_err(no_frame)? {
            Some(reason) => Err(io::Error::new(io::ErrorKind::PermissionDenied, reason)),
            None => Ok(Halves { read: reader.read, write }),
        }
    }
}

async fn write_all(write: &mut WriteHalf, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // A large frame may take its time, as long as it goes on.
        let count = timeout(WRITE_TIMEOUT, write.write(bytes)).await;
        let count = count.map_err(|_| io::ErrorKind::TimedOut)??;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(count..).unwrap_or_default();
    }
    Ok(())
}

fn no_frame(error: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Frames off a connection.
struct FrameSource {
    read: ReadHalf,
    buffer: BytesMut,
    bytes_max: usize,
}

impl FrameSource {
    /// The body of the next frame; `None` at the end of the stream.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(body) = self.take()? {
                return Ok(Some(body));
            }
            self.buffer.reserve(READ_BYTES);
            // Silence is where nothing comes at all, and not where a large frame takes its time.
            let read = timeout(SILENCE_MAX, self.read.read_buf(&mut self.buffer)).await;
            if read.map_err(|_| io::ErrorKind::TimedOut)?? == 0 {
                return Ok(None);
            }
        }
    }

    fn take(&mut self) -> io::Result<Option<Bytes>> {
        let Some(header) = self.buffer.first_chunk::<FRAME_HEADER_BYTES>() else { return Ok(None) };
        let header = FrameHeader::decode(*header, self.bytes_max).map_err(no_frame)?;
        let bytes = FRAME_HEADER_BYTES + header.length;
        if self.buffer.len() < bytes {
            self.buffer.reserve(bytes - self.buffer.len());
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(bytes);
        frame.advance(FRAME_HEADER_BYTES);
        header.check(frame.freeze()).map(Some).map_err(no_frame)
    }
}

/// Somebody who may dial.
#[derive(Debug, Clone)]
pub(super) struct Door {
    /// What a peer has to say to be let in: this, but for who it is.
    pub(super) own: RegistersHello,
    /// Where its messages go.
    pub(super) events: mpsc::Sender<Event>,
    /// The nodes of the layout.
    pub(super) nodes: Vec<NodeNumber>,
    /// The processes that are connected, with the node that each is.
    pub(super) inside: Arc<parking_lot::Mutex<Vec<(NodeNumber, u64)>>>,
}

impl Door {
    /// Serves a peer that dialled, until it goes. `came` begins with the preface.
    pub(super) async fn serve(self, stream: Stream, mut came: BytesMut) -> io::Result<()> {
        let (mut read, mut write) = stream.into_halves()?;
        let shaken = timeout(HANDSHAKE_TIMEOUT, async {
            while came.len() < PEER_PREFACE.len() {
                if read.read_buf(&mut came).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            if came.split_to(PEER_PREFACE.len())[..] != PEER_PREFACE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "no peer"));
            }
            let mut reader = FrameSource { read, buffer: came, bytes_max: HELLO_BYTES_MAX };
            let body = reader.next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            Ok((body, reader))
        });
        let (body, mut reader) = shaken.await.map_err(|_| io::ErrorKind::TimedOut)??;
        // The answer has the same form in all versions.
        if let Some(version) = other_version(&body) {
            let reason = format!(
                "it speaks version {WIRE_VERSION} of the wire between nodes, and this node version {version}: all nodes of a cluster are of one build"
            );
            tracing::warn!(version, own = WIRE_VERSION, "a peer of another build was refused");
            let mut out = Vec::new();
            put_frame(&mut out, |out| put_welcome(out, Some(&reason)));
            return write_all(&mut write, &out).await;
        }
        let hello = RegistersHello::decode(body).map_err(no_frame)?;
        let refused = self.refusal(&hello).or_else(|| self.enter(&hello));
        let mut out = Vec::new();
        put_frame(&mut out, |out| put_welcome(out, refused.as_deref()));
        if let Some(reason) = refused {
            tracing::warn!(from = %hello.from, reason, "a peer was refused");
            return write_all(&mut write, &out).await;
        }
        let _inside = Inside { door: &self, who: (hello.from, hello.process) };
        write_all(&mut write, &out).await?;
        reader.bytes_max = FRAME_BYTES_MAX;
        loop {
            let Some(body) = reader.next().await? else { return Ok(()) };
            let messages = read_messages(body).map_err(no_frame)?;
            let from = hello.from;
            if self.events.send(Event::Peer { from, messages }).await.is_err() {
                return Ok(()); // the node stops
            }
        }
    }

    /// Why a hello is refused, if it is.
    fn refusal(&self, hello: &RegistersHello) -> Option<String> {
        let RegistersHello { cluster_id, epoch, layout_hash, to, .. } = &self.own;
        let hex = crate::leaderless::layout::hex;
        if hello.layout_hash != *layout_hash {
            return Some(format!(
                "the cluster files of nodes {} and {to} differ: layout {} there, {} here; start all nodes with the same file",
                hello.from,
                hex(&hello.layout_hash),
                hex(layout_hash)
            ));
        }
        if hello.epoch != *epoch || hello.cluster_id != *cluster_id {
            return Some(format!(
                "another cluster: {:032x} at epoch {} there, {cluster_id:032x} at epoch {epoch} here",
                hello.cluster_id, hello.epoch
            ));
        }
        if hello.to != *to {
            return Some(format!("node {} was dialled here, and this is node {to}", hello.to));
        }
        if hello.value_bytes_max != self.own.value_bytes_max {
            return Some(format!(
                "nodes {} and {to} take values of different sizes: {} bytes there, {} here (value_max)",
                hello.from, hello.value_bytes_max, self.own.value_bytes_max
            ));
        }
        (hello.from == *to || !self.nodes.contains(&hello.from))
            .then(|| format!("node {} dials node {to}", hello.from))
    }

    /// Why a process may not enter: another one is there as the same node.
    fn enter(&self, hello: &RegistersHello) -> Option<String> {
        let mut inside = self.inside.lock();
        let is_other = |who: &(NodeNumber, u64)| who.0 == hello.from && who.1 != hello.process;
        if inside.iter().any(is_other) {
            return Some(format!("node {} runs already, as another process", hello.from));
        }
        inside.push((hello.from, hello.process));
        None
    }
}

/// Leaves when it is dropped.
struct Inside<'a> {
    door: &'a Door,
    who: (NodeNumber, u64),
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut inside = self.door.inside.lock();
        if let Some(at) = inside.iter().position(|who| *who == self.who) {
            inside.swap_remove(at);
        }
    }
}
