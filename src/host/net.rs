//! Byte streams of members and clients: TCP, or pipes within one process.
//!
//! Called by `peer`, `cluster`, `node` and `server`; calls tokio. An address is `HOST:PORT` in
//! both. When one half of a stream ends, the other side stops waiting. Bytes cannot be looked at
//! without taking them (peeked): neither a pipe nor an encrypted stream could do that.

use std::collections::BTreeMap;
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
}

impl Net {
    /// Listens at an address.
    ///
    /// # Errors
    /// It is taken, or not one of this host's.
    pub async fn listen(&self, address: &str) -> io::Result<Listener> {
        match self {
            Net::Tcp => Ok(Listener::Tcp(TcpListener::bind(address).await?)),
            Net::Local(net) => net.listen(address),
        }
    }

    /// Connects to whoever listens at an address.
    ///
    /// # Errors
    /// Nobody does.
    pub async fn dial(&self, address: &str) -> io::Result<Stream> {
        match self {
            Net::Tcp => Ok(Stream::Tcp(TcpStream::connect(address).await?)),
            Net::Local(net) => net.dial(address).await,
        }
    }
}

/// Takes connections.
#[derive(Debug)]
pub enum Listener {
    /// Of the machine's network.
    Tcp(TcpListener),
    /// Of this process; and the address that is free again once it is dropped.
    Local(tokio::sync::Mutex<mpsc::Receiver<DuplexStream>>, LocalNet, String),
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
            Stream::Local(_) => Ok(()),
        }
    }

    /// The address of this end, if it has one; a pipe has none.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Stream::Tcp(stream) => stream.local_addr().ok(),
            Stream::Local(_) => None,
        }
    }

    /// Splits it. The kernel ends a TCP connection when the other side is gone, whether anything is
    /// sent or not.
    ///
    /// # Errors
    /// Of the socket.
    pub fn into_halves(self) -> io::Result<(ReadHalf, WriteHalf)> {
        match self {
            Stream::Tcp(stream) => {
                stream.set_nodelay(true)?;
                notice_loss(&stream)?;
                let (read, write) = stream.into_split();
                Ok((ReadHalf::Tcp(read), WriteHalf::Tcp(write)))
            }
            Stream::Local(pipe) => {
                let (read, write) = tokio::io::split(pipe);
                Ok((ReadHalf::Local(read), WriteHalf::Local(write)))
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
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Tcp(stream) => stream.is_write_vectored(),
            Stream::Local(pipe) => pipe.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Stream::Local(pipe) => Pin::new(pipe).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Local(pipe) => Pin::new(pipe).poll_shutdown(context),
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
}

impl WriteHalf {
    /// Writes as much as is taken now. Cancelling it loses no bytes.
    ///
    /// # Errors
    /// Of the socket.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            WriteHalf::Tcp(half) => half.write(bytes).await,
            WriteHalf::Local(half) => half.write(bytes).await,
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
