//! A connection to one node: a RESP2 request, its answer. Blocking, bounded in time and memory.
//!
//! - I1: a node that refuses the client's token is asked nothing; that refusal is its answer.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use bytes::BytesMut;
use rustls::{ClientConnection, StreamOwned};

use super::answer::{Answer, NoAnswer, decode, encode};
use super::dialling::Dialling;
use crate::config::Address;
use crate::tls::Credentials;

/// How long a node may take to accept a connection.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// How long a node may take to answer: an election, and then a write or a removal.
pub(super) const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);
/// Room for one read.
const READ_BYTES: usize = 16 << 10;

/// An open connection.
pub(super) struct NodeConnection {
    wire: Wire,
    input: BytesMut,
    /// The words in which the token was refused, if it was (I1).
    refused: Option<String>,
}

/// A socket, plain or under TLS.
pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.read(buffer),
            Wire::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.write(bytes),
            Wire::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Wire::Plain(stream) => stream.flush(),
            Wire::Tls(stream) => stream.flush(),
        }
    }
}

impl NodeConnection {
    /// Connects to `host:port`, `:port` or `port`; a name is tried at all of its addresses.
    /// Presents the token, if there is one.
    pub(super) fn open(address: &str, dialling: &Dialling) -> io::Result<NodeConnection> {
        NodeConnection::open_for(address, dialling, ANSWER_TIME_MAX)
    }

    /// As [`NodeConnection::open`], where each answer may take `time`.
    pub(super) fn open_for(
        address: &str,
        dialling: &Dialling,
        time: Duration,
    ) -> io::Result<NodeConnection> {
        NodeConnection::open_with(address, dialling.tls(), CONNECT_TIME_MAX, time)?
            .authenticated(dialling)
    }

    /// As [`NodeConnection::open`], where connecting and each answer may take `time`.
    pub(super) fn open_within(
        address: &str,
        dialling: &Dialling,
        time: Duration,
    ) -> io::Result<NodeConnection> {
        NodeConnection::open_with(address, dialling.tls(), time, time)?.authenticated(dialling)
    }

    fn authenticated(mut self, dialling: &Dialling) -> io::Result<NodeConnection> {
        let Some(token) = dialling.token().map(str::as_bytes) else { return Ok(self) };
        // A node that is full serves those who begin so.
        let mut answer = self.call(&[b"DISKSTORE", b"AUTH", token])?;
        if matches!(&answer, Answer::Error(words) if words.starts_with("ERR unknown ")) {
            answer = self.call(&[b"AUTH", token])?; // no node of ours
        }
        if let Answer::Error(words) = answer {
            self.refused = Some(words);
        }
        Ok(self)
    }

    /// What is below, where a read gives up after `read_time`.
    ///
    /// # Errors
    /// The token was refused.
    pub(super) fn into_stream(self, read_time: Duration) -> io::Result<Wire> {
        if let Some(words) = self.refused {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, words));
        }
        let socket = match &self.wire {
            Wire::Plain(stream) => stream,
            Wire::Tls(stream) => stream.get_ref(),
        };
        socket.set_read_timeout(Some(read_time))?;
        Ok(self.wire) // nothing was sent that is not read yet
    }

    fn open_with(
        address: &str,
        tls: Option<&Credentials>,
        connect_time: Duration,
        answer_time: Duration,
    ) -> io::Result<NodeConnection> {
        let parsed = Address::parse(address)
            .map_err(|reason| io::Error::new(io::ErrorKind::InvalidInput, reason))?;
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for candidate in (parsed.host.as_str(), parsed.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&candidate, connect_time) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(answer_time))?;
                    stream.set_write_timeout(Some(answer_time))?;
                    stream.set_nodelay(true)?;
                    let wire = match tls {
                        Some(tls) => {
                            let shaken = tls.dial_over(&parsed.host, stream);
                            Wire::Tls(Box::new(shaken.map_err(in_plain_words)?))
                        }
                        None => Wire::Plain(stream),
                    };
                    return Ok(NodeConnection { wire, input: BytesMut::new(), refused: None });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// The connection's, or `InvalidData` for bytes that are no answer.
    pub(super) fn call(&mut self, request: &[&[u8]]) -> io::Result<Answer> {
        if let Some(words) = &self.refused {
            return Ok(Answer::Error(words.clone()));
        }
        let bytes = encode(request.iter().copied());
        let sent = self.wire.write_all(&bytes).and_then(|()| self.wire.flush());
        sent.and_then(|()| self.answer()).map_err(in_plain_words)
    }

    fn answer(&mut self) -> io::Result<Answer> {
        let mut bytes = [0; READ_BYTES];
        loop {
            let decoded = decode(&mut self.input);
            let foreign = |NoAnswer| io::Error::from(io::ErrorKind::InvalidData);
            if let Some(answer) = decoded.map_err(foreign)? {
                return Ok(answer);
            }
            match self.wire.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.input.extend_from_slice(bytes.get(..count).unwrap_or_default());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// What became of a connection; the operating system calls a passed deadline "temporarily
/// unavailable".
fn in_plain_words(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            let words = format!("connected, but no answer within {} s", ANSWER_TIME_MAX.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, words)
        }
        io::ErrorKind::UnexpectedEof => {
            io::Error::new(error.kind(), "the connection was closed without an answer")
        }
        _ => error,
    }
}
