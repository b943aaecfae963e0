//! One connection: its socket, which never blocks, and the operations that wait for their replies.
//!
//! - I1: `waiting` holds the operations that were sent and not answered, oldest first.
//! - I2: a lost connection answers nothing more: its waiting operations are lost, and their
//!   outcomes are unknown.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::codec::{Codec, CodecReply, CodecStep, Foreign};
use super::copies::{Copies, Watch};
use super::tally::Tallied;

/// Bytes of an input buffer that is kept.
const INPUT_BYTES_KEPT: usize = 64 << 10;

/// A socket, for whoever reads and writes by the traits.
struct Descriptor<'a>(&'a OwnedFd);

impl Read for Descriptor<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(self.0, buffer)?)
    }
}

impl Write for Descriptor<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.0, bytes, rustix::net::SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An operation on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) kind: Tallied,
    /// Whether a value is asked for: of a modification first that, then the write.
    pub(super) is_read: bool,
    pub(super) key: u64,
    /// The number of an insert.
    pub(super) insert: Option<u64>,
    /// When it was to start.
    pub(super) start: u64,
    /// When it was sent.
    pub(super) sent: u64,
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionState {
    /// To be tried at this time.
    Down { until: u64 },
    /// Since this time.
    Opening { since: u64 },
    /// Takes operations.
    Open,
}

pub(super) struct LoadConnection {
    /// Number among the connections of all threads.
    pub(super) client: u64,
    pub(super) state: ConnectionState,
    pub(super) waiting: VecDeque<Sent>,
    /// How many operations it was given.
    pub(super) issued: u64,
    /// It sends nothing before this time.
    pub(super) rests_until: u64,
    /// How many times it was tried to make it.
    pub(super) attempts: u64,
    socket: Option<OwnedFd>,
    /// What encrypts, where TLS is spoken.
    tls: Option<Box<ClientConnection>>,
    /// Instead of the socket where answers come by UDP.
    copies: Option<Copies>,
    codec: Box<dyn Codec>,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    /// Whether `epoll` also tells when the socket can be written to.
    wants_write: bool,
}

impl LoadConnection {
    pub(super) fn new(client: u64, codec: Box<dyn Codec>) -> LoadConnection {
        LoadConnection {
            client,
            state: ConnectionState::Down { until: 0 },
            waiting: VecDeque::new(),
            issued: 0,
            rests_until: 0,
            attempts: 0,
            socket: None,
            tls: None,
            copies: None,
            codec,
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            wants_write: false,
        }
    }

    /// Begins to connect; `token` is what `epoll` will call the connection.
    pub(super) fn connect(
        &mut self,
        target: SocketAddr,
        codec: Box<dyn Codec>,
        epoll: &OwnedFd,
        token: u64,
    ) -> io::Result<()> {
        let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        match rustix::net::connect(&socket, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let interest = EventFlags::IN | EventFlags::OUT;
        epoll::add(epoll, &socket, EventData::new_u64(token), interest)?;
        (self.socket, self.wants_write, self.codec) = (Some(socket), true, codec);
        self.codec.open(&mut self.output);
        Ok(())
    }

    /// Speaks TLS over the connection that was just begun.
    pub(super) fn encrypt(
        &mut self,
        config: &Arc<ClientConfig>,
        target: SocketAddr,
    ) -> io::Result<()> {
        let name = ServerName::from(target.ip());
        let mut tls = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        tls.set_buffer_limit(None); // bounded by the operations on their way
        self.tls = Some(Box::new(tls));
        Ok(())
    }

    /// Begins to connect to all of `targets`; answers are to come to `local`.
    pub(super) fn connect_all(
        &mut self,
        targets: &[SocketAddr],
        local: SocketAddr,
        codec: Box<dyn Codec>,
        watch: Watch<'_>,
    ) -> io::Result<()> {
        let copies = Copies::connect(targets, local, watch)?;
        self.codec = codec;
        self.codec.answer_to(copies.port());
        self.copies = Some(copies);
        Ok(())
    }

    /// Drops the socket with everything that was on its way; says what waited for a reply.
    pub(super) fn drop_socket(&mut self, until: u64) -> VecDeque<Sent> {
        (self.socket, self.tls, self.copies) = (None, None, None);
        self.state = ConnectionState::Down { until };
        self.input.clear();
        self.output.clear();
        (self.written, self.wants_write) = (0, false);
        std::mem::take(&mut self.waiting)
    }

    /// What kept the connection from being made, if anything; `part` of it has become ready.
    pub(super) fn settle(&mut self, part: usize, watch: Watch<'_>) -> io::Result<()> {
        if let Some(copies) = &mut self.copies {
            return copies.settle(part, watch);
        }
        let Some(socket) = &self.socket else { return Ok(()) };
        Ok(sockopt::socket_error(socket)??)
    }

    pub(super) fn is_ready(&self) -> bool {
        let is_shaking = self.tls.as_ref().is_some_and(|tls| tls.is_handshaking());
        !is_shaking && self.codec.is_open() && self.copies.as_ref().is_none_or(Copies::is_settled)
    }

    /// True if nothing is left to be written.
    pub(super) fn is_flushed(&self) -> bool {
        self.output.is_empty() && !self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// True if the socket takes no more for now.
    pub(super) fn is_blocked(&self) -> bool {
        self.wants_write
    }

    /// Where the next requests are appended.
    pub(super) fn request(&mut self) -> (&mut dyn Codec, &mut Vec<u8>) {
        (self.codec.as_mut(), &mut self.output)
    }

    /// Writes what is there, as far as the socket takes it.
    pub(super) fn flush(&mut self, epoll: &OwnedFd, token: u64) -> io::Result<()> {
        if let Some(copies) = self.copies.as_mut().filter(|_| !self.output.is_empty()) {
            let sent = copies.send(&self.output);
            self.output.clear();
            return sent;
        }
        let Some(socket) = &self.socket else { return Ok(()) };
        if let Some(tls) = &mut self.tls {
            tls.writer().write_all(&self.output)?;
            self.output.clear();
            while tls.wants_write() {
                match tls.write_tls(&mut Descriptor(socket)) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
        while self.written < self.output.len() {
            let left = &self.output[self.written..];
            match rustix::net::send(socket, left, rustix::net::SendFlags::NOSIGNAL) {
                Ok(count) => self.written += count,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
        }
        let wants_write = !self.is_flushed();
        if wants_write != self.wants_write {
            let writable = if wants_write { EventFlags::OUT } else { EventFlags::empty() };
            epoll::modify(epoll, socket, EventData::new_u64(token), EventFlags::IN | writable)?;
            self.wants_write = wants_write;
        }
        Ok(())
    }

    /// Reads once, of the `part` that is ready, and hands each reply with its operation to
    /// `answered`.
    pub(super) fn read(
        &mut self,
        part: usize,
        scratch: &mut [u8],
        mut answered: impl FnMut(Sent, CodecReply<'_>),
    ) -> io::Result<()> {
        if let Some(copies) = &mut self.copies {
            let Some(count) = copies.receive(part, scratch)? else { return Ok(()) };
            if !self.waiting.is_empty() {
                self.decode(&scratch[..count], &mut answered)?;
            } // otherwise it answers what was given up
            return Ok(());
        }
        let Some(socket) = &self.socket else { return Ok(()) };
        if let Some(tls) = &mut self.tls {
            match tls.read_tls(&mut Descriptor(socket)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if is_for_later(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
            tls.process_new_packets().map_err(io::Error::other)?;
        }
        loop {
            let Some(socket) = &self.socket else { return Ok(()) };
            let read = match &mut self.tls {
                Some(tls) => tls.reader().read(&mut *scratch),
                None => Descriptor(socket).read(&mut *scratch),
            };
            let count = match read {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if is_for_later(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            self.take_in(&scratch[..count], &mut answered)?;
            if self.tls.is_none() || count < scratch.len() {
                return Ok(());
            }
        }
    }

    fn take_in(
        &mut self,
        came: &[u8],
        mut answered: &mut impl FnMut(Sent, CodecReply<'_>),
    ) -> io::Result<()> {
        if self.input.is_empty() {
            let passed = self.decode(came, &mut answered)?;
            self.input.extend_from_slice(&came[passed..]);
            return Ok(());
        }
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(came);
        let passed = self.decode(&input, &mut answered)?;
        input.drain(..passed);
        if !input.is_empty() || input.capacity() <= INPUT_BYTES_KEPT {
            self.input = input;
        }
        Ok(())
    }

    /// Reads replies off the front; says how many bytes they had.
    fn decode(
        &mut self,
        input: &[u8],
        answered: &mut impl FnMut(Sent, CodecReply<'_>),
    ) -> io::Result<usize> {
        let mut passed = 0;
        loop {
            match self.codec.next(&input[passed..], &mut self.output) {
                Ok(CodecStep::More) => return Ok(passed),
                Ok(CodecStep::Passed(count)) => passed += count,
                Ok(CodecStep::Reply(count, reply)) => {
                    let Some(sent) = self.waiting.pop_front() else { return Err(unasked(reply)) };
                    answered(sent, reply);
                    passed += count;
                }
                Err(Foreign) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }
}

/// Whether a socket has nothing now, and may have something later.
fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// A server may say why it takes no connection before anything was asked.
fn unasked(reply: CodecReply<'_>) -> io::Error {
    match reply {
        CodecReply::Refused(words) => io::Error::other(String::from_utf8_lossy(words)),
        CodecReply::Done | CodecReply::Value(_) | CodecReply::Missing => {
            io::ErrorKind::InvalidData.into()
        }
    }
}
