//! Byte streams of members and clients: TCP, or pipes within one process; and TLS over either.
//!
//! Called by `peer`, `cluster`, `node` and `server`; calls tokio and `secured`. An address is `HOST:PORT`
//! in all. When one half of a stream ends, the other side stops waiting. Bytes cannot be looked at
//! without taking them (peeked): neither a pipe nor an encrypted stream could do that.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::secured::{Secured, Standing};
use crate::tls::{Mode, Side, Tls};

/// A TCP connection ends when nothing that the kernel sent was answered for this time: packets that
/// are dropped without a reset would otherwise take it a quarter of an hour. It counts a receiver
/// that takes nothing as well, so it is no shorter than the longest wait for one, a snapshot's.
const UNANSWERED_MAX: Duration = Duration::from_secs(10);
/// The kernel asks the other side for a sign of life after this much silence.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
/// Pause between such questions.
const KEEPALIVE_PAUSE: Duration = Duration::from_secs(1);
/// Bytes that a pipe holds.
const PIPE_BYTES: usize = 256 << 10;
/// Connections of a pipe's listener that wait to be accepted.
const BACKLOG: usize = 64;

/// Where members and clients reach a node.
#[derive(Debug, Clone)]
pub enum Net {
    /// The machine's network.
    Tcp,
    /// Pipes within this process.
    Local(LocalNet),
    /// Another one, over which members show each other certificates.
    Tls(Arc<Tls>, Box<Net>),
}

impl Net {
    /// The network below TLS, if there is any: what clients speak is found out for each of them.
    pub fn bare(&self) -> &Net {
        match self {
            Net::Tcp | Net::Local(_) => self,
            Net::Tls(_, net) => net.bare(),
        }
    }

    /// What members speak TLS with, if they do.
    pub fn tls(&self) -> Option<&Arc<Tls>> {
        match self {
            Net::Tcp | Net::Local(_) => None,
            Net::Tls(tls, _) => Some(tls),
        }
    }

    /// Listens at an address.
    ///
    /// # Errors
    /// It is taken, or not one of this host's.
    pub async fn listen(&self, address: &str) -> io::Result<Listener> {
        match self {
            Net::Tcp => Ok(Listener::Tcp(TcpListener::bind(address).await?)),
            Net::Local(net) => net.listen(address),
            Net::Tls(tls, net) => {
                let listener = Box::pin(net.listen(address)).await?;
                Ok(Listener::Tls(tls.clone(), Box::new(listener)))
            }
        }
    }

    /// Connects to whoever listens at an address.
    ///
    /// # Errors
    /// Nobody does; under TLS, `InvalidData` if it is no member of this cluster's authority.
    pub async fn dial(&self, address: &str) -> io::Result<Stream> {
        match self {
            Net::Tcp => Ok(Stream::Tcp(TcpStream::connect(address).await?)),
            Net::Local(net) => net.dial(address).await,
            Net::Tls(tls, net) => {
                let stream = Box::pin(net.dial(address)).await?;
                stream.watch()?;
                match Secured::dialled(tls, stream).await {
                    Ok(secured) => Ok(Stream::Tls(Box::new(secured))),
                    Err(error) if tls.mode() == Mode::Prefer && speaks_no_tls(&error) => {
                        Box::pin(net.dial(address)).await
                    }
                    Err(error) if is_foreign(&error) => {
                        let words = format!("no TLS is spoken there ({error}); see -tls");
                        Err(io::Error::new(io::ErrorKind::InvalidData, words))
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }
}

/// True if the other side answered something else than TLS.
fn is_foreign(error: &io::Error) -> bool {
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::InvalidMessage(_)))
}

/// True if the other side may be a node that speaks plain TCP alone: those answer in plain bytes, or
/// not at all.
fn speaks_no_tls(error: &io::Error) -> bool {
    let is_end =
        matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset);
    is_end || is_foreign(error)
}

/// Takes connections.
#[derive(Debug)]
pub enum Listener {
    /// Of the machine's network.
    Tcp(TcpListener),
    /// Of this process; and the address that is free again once it is dropped.
    Local(tokio::sync::Mutex<mpsc::Receiver<DuplexStream>>, LocalNet, String),
    /// Of another one, for members that show certificates.
    Tls(Arc<Tls>, Box<Listener>),
}

impl Listener {
    /// The next connection, and who dialled.
    ///
    /// # Errors
    /// Of the socket; others may be accepted later.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                Ok((Stream::Tcp(stream), from))
            }
            Listener::Local(queue, ..) => {
                let pipe = queue.lock().await.recv().await;
                let pipe = pipe.ok_or(io::ErrorKind::NotConnected)?;
                Ok((Stream::Local(pipe), LOCAL_CALLER))
            }
            Listener::Tls(tls, listener) => {
                let (stream, from) = Box::pin(listener.accept()).await?;
                stream.watch()?;
                let (side, came) = (Side::DiallingMember, BytesMut::new());
                let secured = Secured::accepted(tls, side, Some(from), stream, came);
                Ok((Stream::Tls(Box::new(secured)), from))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Local(_, net, address) = self {
            net.listeners.lock().remove(address);
        }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Listener {
        Listener::Tcp(listener)
    }
}

/// Where callers within a process seem to dial from.
const LOCAL_CALLER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// Of the machine's network.
    Tcp(TcpStream),
    /// Within this process.
    Local(DuplexStream),
    /// Under TLS, over another.
    Tls(Box<Secured>),
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Stream {
        Stream::Tcp(stream)
    }
}

impl Stream {
    /// Has small writes leave at once; a pipe never holds one back.
    ///
    /// # Errors
    /// Of the socket.
    pub fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_nodelay(true),
            Stream::Local(_) | Stream::Tls(_) => Ok(()), // set before TLS began
        }
    }

    /// Has small writes leave at once, and the kernel end the connection when the other side is gone,
    /// whether anything is sent or not.
    fn watch(&self) -> io::Result<()> {
        self.set_nodelay()?;
        match self {
            Stream::Tcp(stream) => notice_loss(stream),
            Stream::Local(_) | Stream::Tls(_) => Ok(()),
        }
    }

    /// The same connection, accepted from a client, whose handshake is due; `came` was read of it already.
    #[must_use]
    pub fn under(self, tls: &Arc<Tls>, from: SocketAddr, came: BytesMut) -> Stream {
        let secured = Secured::accepted(tls, Side::Client, Some(from), self, came);
        Stream::Tls(Box::new(secured))
    }

    /// Brings the handshake to its end, where there is to be one.
    ///
    /// # Errors
    /// Of the stream; the other side shows no certificate that is good here.
    pub async fn open(&mut self) -> io::Result<()> {
        match self {
            Stream::Tcp(_) | Stream::Local(_) => Ok(()),
            Stream::Tls(secured) => poll_fn(|context| secured.poll_open(context)).await,
        }
    }

    /// What the other side shows under TLS; `None` on a plain connection.
    pub fn standing(&self) -> Option<&Arc<Standing>> {
        match self {
            Stream::Tcp(_) | Stream::Local(_) => None,
            Stream::Tls(secured) => Some(secured.standing()),
        }
    }

    /// The address of this end, if it has one; a pipe has none.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Stream::Tcp(stream) => stream.local_addr().ok(),
            Stream::Local(_) | Stream::Tls(_) => None,
        }
    }

    /// Splits it. The kernel ends a TCP connection when the other side is gone, whether anything is
    /// sent or not.
    ///
    /// # Errors
    /// Of the socket.
    pub fn into_halves(self) -> io::Result<(ReadHalf, WriteHalf)> {
        self.watch()?;
        match self {
            Stream::Tcp(stream) => {
                let (read, write) = stream.into_split();
                Ok((ReadHalf::Tcp(read), WriteHalf::Tcp(write)))
            }
            Stream::Local(pipe) => {
                let (read, write) = tokio::io::split(pipe);
                Ok((ReadHalf::Local(read), WriteHalf::Local(write)))
            }
            Stream::Tls(secured) => {
                let standing = secured.standing().clone();
                let (read, write) = tokio::io::split(*secured);
                Ok((ReadHalf::Tls(read, standing), WriteHalf::Tls(write)))
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Local(pipe) => Pin::new(pipe).poll_read(context, buffer),
            Stream::Tls(secured) => Pin::new(secured.as_mut()).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Local(pipe) => Pin::new(pipe).poll_write(context, bytes),
            Stream::Tls(secured) => Pin::new(secured.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Stream::Local(pipe) => Pin::new(pipe).poll_write_vectored(context, pieces),
            Stream::Tls(secured) => Pin::new(secured.as_mut()).poll_write_vectored(context, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Tcp(stream) => stream.is_write_vectored(),
            Stream::Local(pipe) => pipe.is_write_vectored(),
            Stream::Tls(secured) => secured.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Stream::Local(pipe) => Pin::new(pipe).poll_flush(context),
            Stream::Tls(secured) => Pin::new(secured.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Local(pipe) => Pin::new(pipe).poll_shutdown(context),
            Stream::Tls(secured) => Pin::new(secured.as_mut()).poll_shutdown(context),
        }
    }
}

/// Source: tcp(7), `TCP_USER_TIMEOUT` and `TCP_KEEPIDLE`. The user timeout also replaces the count
/// of keepalive probes.
fn notice_loss(stream: &TcpStream) -> io::Result<()> {
    let unanswered_ms =
        u32::try_from(UNANSWERED_MAX.as_millis()).expect("invariant: the bound is a few seconds");
    sockopt::set_tcp_user_timeout(stream, unanswered_ms)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_PAUSE)?;
    sockopt::set_socket_keepalive(stream, true)?;
    Ok(())
}

/// The reading half of a connection.
#[derive(Debug)]
pub enum ReadHalf {
    /// Of the machine's network.
    Tcp(OwnedReadHalf),
    /// Within this process.
    Local(tokio::io::ReadHalf<DuplexStream>),
    /// Under TLS, and what the other side shows.
    Tls(tokio::io::ReadHalf<Secured>, Arc<Standing>),
}

impl ReadHalf {
    /// Reads what is there behind what `buffer` holds; 0 at the end. Cancelling it loses no bytes.
    ///
    /// # Errors
    /// Of the socket.
    pub async fn read_buf(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            ReadHalf::Tcp(half) => half.read_buf(buffer).await,
            ReadHalf::Local(half) => half.read_buf(buffer).await,
            ReadHalf::Tls(half, _) => half.read_buf(buffer).await,
        }
    }

    /// What the other side shows under TLS; `None` on a plain connection.
    pub fn standing(&self) -> Option<&Arc<Standing>> {
        match self {
            ReadHalf::Tcp(_) | ReadHalf::Local(_) => None,
            ReadHalf::Tls(_, standing) => Some(standing),
        }
    }
}

/// The writing half of a connection; the other side hears the end when it is dropped.
#[derive(Debug)]
pub enum WriteHalf {
    /// Of the machine's network.
    Tcp(OwnedWriteHalf),
    /// Within this process.
    Local(tokio::io::WriteHalf<DuplexStream>),
    /// Under TLS.
    Tls(tokio::io::WriteHalf<Secured>),
}

impl WriteHalf {
    /// Writes as much as is taken now. Cancelling it loses no bytes, where the next write begins with the
    /// same ones.
    ///
    /// # Errors
    /// Of the socket.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            WriteHalf::Tcp(half) => half.write(bytes).await,
            WriteHalf::Local(half) => half.write(bytes).await,
            WriteHalf::Tls(half) => half.write(bytes).await,
        }
    }

    /// As [`WriteHalf::write`], of several pieces one behind the other. Where pieces are not taken only
    /// the first one is written.
    ///
    /// # Errors
    /// Of the socket.
    pub async fn write_pieces(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            WriteHalf::Tcp(half) => half.write_vectored(pieces).await,
            WriteHalf::Local(half) => half.write_vectored(pieces).await,
            WriteHalf::Tls(half) => half.write_vectored(pieces).await,
        }
    }

    /// Whether several pieces go out together. Under TLS each would be a record of its own.
    pub fn takes_pieces(&self) -> bool {
        match self {
            WriteHalf::Tcp(half) => half.is_write_vectored(),
            WriteHalf::Local(half) => half.is_write_vectored(),
            WriteHalf::Tls(half) => half.is_write_vectored(),
        }
    }
}

/// Pipes within this process, by the address that they lead to.
#[derive(Debug, Clone, Default)]
pub struct LocalNet {
    listeners: Arc<Mutex<BTreeMap<String, mpsc::Sender<DuplexStream>>>>,
}

impl LocalNet {
    fn listen(&self, address: &str) -> io::Result<Listener> {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let mut listeners = self.listeners.lock();
        if listeners.contains_key(address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        listeners.insert(address.to_owned(), sender);
        drop(listeners);
        let receiver = tokio::sync::Mutex::new(receiver);
        Ok(Listener::Local(receiver, self.clone(), address.to_owned()))
    }

    async fn dial(&self, address: &str) -> io::Result<Stream> {
        let listener = self.listeners.lock().get(address).cloned();
        let listener = listener.ok_or(io::ErrorKind::ConnectionRefused)?;
        let (own, other) = tokio::io::duplex(PIPE_BYTES);
        listener.send(other).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(Stream::Local(own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn kernel_watches_over_every_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let halves = Stream::from(stream).into_halves().unwrap();
        let (ReadHalf::Tcp(read), WriteHalf::Tcp(write)) = halves else {
            panic!("a TCP stream");
        };
        let stream = read.reunite(write).unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), KEEPALIVE_IDLE);
        assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), KEEPALIVE_PAUSE);
        let unanswered_ms = u128::from(sockopt::tcp_user_timeout(&stream).unwrap());
        assert_eq!(unanswered_ms, UNANSWERED_MAX.as_millis());
    }

    #[tokio::test]
    async fn pipes_lead_to_whoever_listens_and_end_with_either_side() {
        let net = Net::Local(LocalNet::default());
        let refused = net.dial("a:1").await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let listener = net.listen("a:1").await.unwrap();
        assert_eq!(net.listen("a:1").await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let (mut read, mut write) = net.dial("a:1").await.unwrap().into_halves().unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let (mut other_read, mut other_write) = accepted.into_halves().unwrap();
        assert_eq!(write.write(b"there").await.unwrap(), 5);
        assert_eq!(other_write.write(b"back").await.unwrap(), 4);
        let mut buffer = BytesMut::new();
        other_read.read_buf(&mut buffer).await.unwrap();
        read.read_buf(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..], b"thereback");
        drop((other_read, other_write));
        assert_eq!(read.read_buf(&mut buffer).await.unwrap(), 0);
        drop(listener);
        net.listen("a:1").await.unwrap();
    }
}
