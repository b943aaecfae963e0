//! A client of the original's protocols: a stream to every replica, all of which get the same
//! bytes, and a socket for the datagram that the leader answers with.
//!
//! - I1: a replica that is gone, or takes nothing more, is left out until the client is made anew;
//!   the client goes on with the others, as long as one is left.
//! - I2: nothing blocks; bytes that cannot be sent at once are not sent.

use std::io;
use std::net::SocketAddr;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sockopt};

/// What `epoll` calls a part of a connection: its number above the connection's.
const PART_SHIFT: u32 = 32;

/// The connection and its part of a token.
pub(super) fn split(token: u64) -> (usize, usize) {
    (super::to_index(token & u64::from(u32::MAX)), super::to_index(token >> PART_SHIFT))
}

/// One replica.
#[derive(Debug)]
struct Replica {
    socket: OwnedFd,
    is_connected: bool,
}

/// The sockets of one client.
#[derive(Debug)]
pub(super) struct Copies {
    replicas: Vec<Option<Replica>>,
    answers: OwnedFd,
    port: u16,
    /// Why a replica was left out last.
    loss: Option<io::Error>,
}

/// Who is told when a socket is ready, and by what it knows the connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watch<'a> {
    pub(super) epoll: &'a OwnedFd,
    /// Number of the connection.
    pub(super) token: u64,
}

impl Watch<'_> {
    fn data_of(self, part: usize) -> EventData {
        EventData::new_u64(self.token | (part as u64) << PART_SHIFT)
    }
}

impl Copies {
    /// Begins to connect to all `targets`, and listens at `local` for answers.
    pub(super) fn connect(
        targets: &[SocketAddr],
        local: SocketAddr,
        watch: Watch<'_>,
    ) -> io::Result<Copies> {
        let answers = open(local, SocketType::DGRAM)?;
        rustix::net::bind(&answers, &local)?;
        let bound = SocketAddr::try_from(rustix::net::getsockname(&answers)?)?;
        epoll::add(watch.epoll, &answers, watch.data_of(targets.len()), EventFlags::IN)?;
        let mut copies = Copies { replicas: Vec::new(), answers, port: bound.port(), loss: None };
        for (number, target) in targets.iter().enumerate() {
            let socket = open(*target, SocketType::STREAM)?;
            sockopt::set_tcp_nodelay(&socket, true)?;
            let begun = match rustix::net::connect(&socket, target) {
                Ok(()) | Err(Errno::INPROGRESS) => Ok(()),
                Err(error) => Err(error.into()),
            };
            let events = EventFlags::IN | EventFlags::OUT;
            epoll::add(watch.epoll, &socket, watch.data_of(number), events)?;
            copies.replicas.push(Some(Replica { socket, is_connected: false }));
            copies.keep(number, begun)?;
        }
        Ok(copies)
    }

    /// The port to which answers are to come.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// True once it is known of every replica whether it can be reached.
    pub(super) fn is_settled(&self) -> bool {
        self.replicas.iter().flatten().all(|replica| replica.is_connected)
    }

    /// A part has become ready while the connection is made.
    pub(super) fn settle(&mut self, part: usize, watch: Watch<'_>) -> io::Result<()> {
        let Some(Some(replica)) = self.replicas.get_mut(part) else { return Ok(()) };
        let outcome = match sockopt::socket_error(&replica.socket)? {
            Ok(()) => {
                replica.is_connected = true;
                epoll::modify(watch.epoll, &replica.socket, watch.data_of(part), EventFlags::IN)
            }
            Err(error) => Err(error),
        };
        self.keep(part, outcome.map_err(io::Error::from))
    }

    /// Sends the same to all replicas.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        for part in 0..self.replicas.len() {
            let Some(Some(replica)) = self.replicas.get(part) else { continue };
            let outcome = match rustix::net::send(&replica.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(count) if count == bytes.len() => Ok(()),
                Ok(_) | Err(Errno::AGAIN) => Err(io::ErrorKind::TimedOut.into()), // I2
                Err(error) => Err(error.into()),
            };
            self.keep(part, outcome)?;
        }
        Ok(())
    }

    /// Takes one answer into `scratch`, if that is what has become ready; says its length. What a
    /// replica says on its stream is a complaint.
    pub(super) fn receive(&mut self, part: usize, scratch: &mut [u8]) -> io::Result<Option<usize>> {
        if part == self.replicas.len() {
            return match rustix::io::read(&self.answers, scratch) {
                Ok(count) => Ok(Some(count)),
                Err(Errno::AGAIN | Errno::INTR) => Ok(None),
                Err(error) => Err(error.into()),
            };
        }
        let Some(Some(replica)) = self.replicas.get(part) else { return Ok(None) };
        let outcome = match rustix::io::read(&replica.socket, &mut *scratch) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                let words = scratch.get(..count).unwrap_or_default();
                Err(io::Error::other(String::from_utf8_lossy(words).trim().to_owned()))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        };
        self.keep(part, outcome).map(|()| None)
    }

    /// Leaves a replica out that failed; fails when none is left. // I1
    fn keep(&mut self, part: usize, outcome: io::Result<()>) -> io::Result<()> {
        if let Err(error) = outcome {
            self.replicas[part] = None;
            self.loss = Some(error);
        }
        if self.replicas.iter().any(Option::is_some) {
            return Ok(());
        }
        Err(self.loss.take().unwrap_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}

fn open(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(family, kind, flags, None)?)
}
