//! Sends one command of a person or a script: over RESP, or as the original's clients do, to every
//! replica with the answer by UDP. Either way the answer is a line in the original's form.
//!
//! - I1: a command that was sent is never sent again: without an answer its outcome is unknown.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::super::{ClientError, call};
use super::Protocol;
use super::config::ClientConfig;
use super::shell::Line;
use crate::cli::Servers;
use crate::config::Address;
use crate::load::append_message;

/// How long a replica may take to accept a connection.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// How long an answer may take: longer than an election.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// Most bytes of a datagram.
const DATAGRAM_BYTES_MAX: usize = 65_536;

/// Whom commands go to.
#[derive(Debug)]
pub(super) enum Asker {
    Resp(Servers),
    Original(Box<Broadcast>),
}

/// A connection to every replica, and the socket for their answer.
#[derive(Debug)]
pub(super) struct Broadcast {
    protocol: Protocol,
    replicas: Vec<Replica>,
    answers: UdpSocket,
    port: u16,
}

#[derive(Debug)]
struct Replica {
    address: String,
    stream: Option<TcpStream>,
}

impl Asker {
    /// Connects as the protocol wants it.
    pub(super) fn new(
        config: &ClientConfig,
        protocol: Protocol,
        token_file: Option<PathBuf>,
        tls: Option<PathBuf>,
    ) -> Result<Asker, ClientError> {
        if protocol == Protocol::Resp {
            return Ok(Asker::Resp(Servers { list: config.replicas.join(","), token_file, tls }));
        }
        let local = SocketAddr::new(config.local, config.udp_port);
        let bound = UdpSocket::bind(local).and_then(|socket| {
            let port = socket.local_addr()?.port();
            Ok((socket, port))
        });
        let (answers, port) = bound.map_err(|source| ClientError::Local {
            what: format!("listening at {local} for answers (localip, udpport)"),
            source,
        })?;
        let replica = |address: &String| Replica { address: address.clone(), stream: None };
        let replicas = config.replicas.iter().map(replica).collect();
        let mut broadcast = Broadcast { protocol, replicas, answers, port };
        broadcast.connect()?;
        Ok(Asker::Original(Box::new(broadcast)))
    }

    /// The answer, with a line end.
    pub(super) fn ask(&mut self, line: &Line<'_>) -> Result<String, ClientError> {
        match self {
            Asker::Original(broadcast) => broadcast.ask(line),
            Asker::Resp(servers) => Ok(match over_resp(servers, line) {
                Ok(value) => format!("OK: {value}\n"),
                Err(error) if error.exit_code() == 2 => return Err(error),
                Err(ClientError::Refused { message, .. }) => {
                    format!("ERR {}\n", message.strip_prefix("ERR ").unwrap_or(&message))
                }
                Err(error) => format!("ERR {}\n", crate::fault::chain(&error)),
            }),
        }
    }
}

fn over_resp(servers: &Servers, line: &Line<'_>) -> Result<String, ClientError> {
    match line {
        Line::Get { key } => {
            let value = call(servers, async |client| client.get(key).await)?.unwrap_or_default();
            return Ok(String::from_utf8_lossy(&value).into_owned());
        }
        Line::Set { key, value } => call(servers, async |client| client.set(key, value).await)?,
        Line::Delete { key } => {
            call(servers, async |client| client.delete(key).await)?;
        }
        _ => unreachable!("only commands are asked"),
    }
    Ok(String::new())
}

impl Broadcast {
    /// Connects to the replicas that are not; one is enough.
    fn connect(&mut self) -> Result<(), ClientError> {
        let mut tried = Vec::new();
        for replica in self.replicas.iter_mut().filter(|replica| replica.stream.is_none()) {
            match connect(&replica.address) {
                Ok(stream) => replica.stream = Some(stream),
                Err(error) => tried.push(format!("{}: {error}", replica.address)),
            }
        }
        if self.replicas.iter().any(|replica| replica.stream.is_some()) {
            return Ok(());
        }
        Err(ClientError::NoNode { tried })
    }

    fn ask(&mut self, line: &Line<'_>) -> Result<String, ClientError> {
        let what = |what: &str| {
            let what = what.to_owned();
            move |source| ClientError::Local { what, source }
        };
        self.connect()?;
        self.drop_late_answers().map_err(what("dropping late answers"))?;
        let request = match self.protocol {
            Protocol::Protobuf => message(self.port, line),
            Protocol::Resp | Protocol::Text => text(self.port, line),
        };
        for replica in &mut self.replicas {
            let sent = replica.stream.as_mut().map_or(Ok(()), |stream| stream.write_all(&request));
            if sent.is_err() {
                replica.stream = None; // the others may have taken it
            }
        }
        self.receive().map_err(what("receiving an answer"))
    }

    /// What came after its command was given up is no answer to the next one.
    fn drop_late_answers(&self) -> io::Result<()> {
        self.answers.set_nonblocking(true)?;
        let mut datagram = [0; 1];
        while self.answers.recv(&mut datagram).is_ok() {}
        self.answers.set_nonblocking(false)
    }

    fn receive(&mut self) -> io::Result<String> {
        let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
        let deadline = Instant::now() + ANSWER_TIME_MAX;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            self.answers.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            match self.answers.recv(&mut datagram) {
                Ok(count) => {
                    let text = String::from_utf8_lossy(&datagram[..count]).into_owned();
                    return Ok(if text.ends_with('\n') { text } else { text + "\n" });
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // A replica that broke the connection since is tried again with the next one.
                    self.replicas.iter_mut().for_each(|replica| replica.stream = None);
                    let seconds = ANSWER_TIME_MAX.as_secs();
                    return Ok(format!(
                        "ERR no answer within {seconds} s: the outcome of a write is unknown\n"
                    ));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let invalid = |reason| io::Error::new(io::ErrorKind::InvalidInput, reason);
    let parsed = Address::parse(address).map_err(invalid)?;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for candidate in (parsed.host.as_str(), parsed.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, CONNECT_TIME_MAX) {
            Ok(stream) => {
                stream.set_write_timeout(Some(CONNECT_TIME_MAX))?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn text(port: u16, line: &Line<'_>) -> Vec<u8> {
    let text = match line {
        Line::Get { key } => format!("{port}-get-{key}\n"),
        Line::Set { key, value } => format!("{port}-set-{key}-{value}\n"),
        Line::Delete { key } => format!("{port}-delete-{key}\n"),
        _ => unreachable!("only commands are asked"),
    };
    text.into_bytes()
}

fn message(port: u16, line: &Line<'_>) -> Vec<u8> {
    let (operation, key, value) = match line {
        Line::Get { key } => (0, *key, ""),
        Line::Set { key, value } => (1, *key, *value),
        Line::Delete { key } => (2, *key, ""),
        _ => unreachable!("only commands are asked"),
    };
    let mut bytes = Vec::new();
    append_message(&mut bytes, &port.to_string(), operation, key, value.as_bytes());
    bytes
}
