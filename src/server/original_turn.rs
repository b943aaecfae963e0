//! One turn of a client of the original, in text or protobuf: commands are taken, executed in runs
//! and answered, by a datagram where a UDP port is named.
//!
//! Called by the session; calls the node.
//!
//! Invariants:
//! - I1: a command with a UDP port is executed by the leader alone: its client sends it to every
//!   replica, and forwarding would run it as many times.
//! - I2: a client's datagrams go to the address that its connection comes from, nowhere else.

use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use tokio::net::UdpSocket;
use tokio::sync::OnceCell;

use super::original::{self, Request};
use super::resp::Kind;
use super::resp_turn::missing_result;
use super::session::Flow;
use super::turn::{Need, plan};
use super::{Server, protobuf, text};
use crate::command::{CommandResult, Freshness, ReadLevel};

/// Most commands of one turn.
const TURN_REQUEST_COUNT_MAX: usize = 1024;
/// Bytes of values that end a turn.
const TURN_REPLY_BYTES_MAX: u64 = 4 << 20;
/// Most bytes that one datagram holds.
const DATAGRAM_BYTES_MAX: usize = 65_507;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Protobuf,
}

/// A connection that speaks as the original's clients do.
pub(crate) struct OriginalDialect {
    form: Form,
    peer: IpAddr,
    freshness: Freshness,
}

impl OriginalDialect {
    /// A connection from `peer` that speaks text and reads at `level`.
    pub(crate) fn text(peer: IpAddr, level: ReadLevel) -> OriginalDialect {
        OriginalDialect { form: Form::Text, peer, freshness: Freshness::of(level) }
    }

    /// A connection from `peer` that speaks protobuf and reads at `level`.
    pub(crate) fn protobuf(peer: IpAddr, level: ReadLevel) -> OriginalDialect {
        OriginalDialect { form: Form::Protobuf, peer, freshness: Freshness::of(level) }
    }

    /// Takes commands off `input` and executes them; answers by TCP are appended to `out`.
    pub(crate) async fn turn(
        &mut self,
        server: &Server,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Flow {
        let (mut requests, flow, complaint) = self.gather(server, input);
        if !server.node.is_leader() {
            requests.retain(|request| request.udp_port.is_none()); // I1
        }
        let level = self.freshness.level;
        for run in plan(requests.iter().map(|request| need_of(request, level))) {
            let run_requests = requests.get_mut(run.requests).unwrap_or_default();
            let commands = run_requests.iter_mut().filter_map(|request| {
                let (command, _) = request.command.as_mut().ok()?;
                Some(std::mem::take(command))
            });
            let commands = commands.collect::<Vec<_>>();
            let results = match run.need {
                Need::Write => server.node.write(commands).await,
                Need::Read => server.node.read(commands, self.freshness).await,
                Need::Nothing | Need::Ask => Vec::new(),
            };
            for result in &results {
                self.freshness.note(result);
                server.clients.counters().looked_up(result);
            }
            let mut results = results.into_iter();
            for request in &*run_requests {
                let answer = answer_of(request, &mut results);
                match request.udp_port {
                    None => out.extend_from_slice(&answer),
                    Some(port) => {
                        server.datagrams.send(SocketAddr::new(self.peer, port), &answer).await;
                    }
                }
            }
        }
        if let Some(reason) = complaint {
            let mut answer = Vec::new();
            original::write_error(&mut answer, reason);
            out.extend_from_slice(&answer);
        }
        flow
    }

    /// Takes as many commands as one turn may hold; also why nothing more can be read, if so.
    fn gather(
        &self,
        server: &Server,
        input: &mut BytesMut,
    ) -> (Vec<Request>, Flow, Option<&'static str>) {
        let mut requests = Vec::new();
        let mut reply_bytes = 0;
        while requests.len() < TURN_REQUEST_COUNT_MAX && reply_bytes < TURN_REPLY_BYTES_MAX {
            let taken = match self.form {
                Form::Text => text::take(input, &server.keys),
                Form::Protobuf => protobuf::take(input, &server.keys),
            };
            match taken {
                Ok(None) => return (requests, Flow::Read, None),
                Ok(Some(request)) => {
                    if matches!(request.command, Ok((_, Kind::Read))) {
                        reply_bytes += server.keys.value_bytes_max();
                    }
                    let counters = server.clients.counters();
                    match request.command {
                        Ok(_) => counters.called(request.name),
                        Err(_) => counters.rejected(request.name),
                    }
                    requests.push(request);
                }
                Err(original::Unreadable(reason)) => return (requests, Flow::Close, Some(reason)),
            }
        }
        (requests, Flow::Again, None)
    }
}

fn need_of(request: &Request, level: ReadLevel) -> Need {
    match &request.command {
        Err(_) => Need::Nothing,
        Ok((_, Kind::Read)) if level != ReadLevel::Log => Need::Read,
        Ok(_) => Need::Write,
    }
}

fn answer_of(request: &Request, results: &mut impl Iterator<Item = CommandResult>) -> Vec<u8> {
    let mut answer = Vec::new();
    if let Err(reason) = &request.command {
        original::write_error(&mut answer, reason);
    } else {
        let result = results.next().unwrap_or_else(missing_result);
        original::write_result(&mut answer, &result);
    }
    answer
}

/// Sends answers by UDP, from one socket for each version of IP.
#[derive(Debug, Default)]
pub(crate) struct Datagrams {
    v4: OnceCell<UdpSocket>,
    v6: OnceCell<UdpSocket>,
}

impl Datagrams {
    /// Sends one answer. What cannot be sent is lost, as datagrams may be: the client asks again.
    async fn send(&self, to: SocketAddr, answer: &[u8]) {
        let sent = match answer.len() {
            0..=DATAGRAM_BYTES_MAX => self.try_send(to, answer).await,
            _ => self.try_send(to, b"ERR the value is too long for a datagram\n").await,
        };
        if let Err(error) = sent {
            tracing::debug!(%to, %error, "an answer by UDP was not sent");
        }
    }

    async fn try_send(&self, to: SocketAddr, answer: &[u8]) -> io::Result<usize> {
        let (socket, any) = match to {
            SocketAddr::V4(_) => (&self.v4, SocketAddr::from(([0; 4], 0))),
            SocketAddr::V6(_) => (&self.v6, SocketAddr::from(([0_u16; 8], 0))),
        };
        socket.get_or_try_init(|| UdpSocket::bind(any)).await?.send_to(answer, to).await
    }
}
