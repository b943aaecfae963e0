//! As much of the Redis protocol as an experiment asks nodes itself: their status, and single writes.

use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

const ANSWER_BYTES_MAX: usize = 1 << 20;
const LINE_BYTES_MAX: u64 = 4 << 10;

/// What is read of a node's status.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) name: String,
    pub(crate) role: String,
    pub(crate) term: u64,
    pub(crate) leader: Option<String>,
    pub(crate) members: Vec<Member>,
    pub(crate) committed: u64,
    pub(crate) applied: u64,
    pub(crate) readable_from: u64,
    pub(crate) received_bytes: u64,
    pub(crate) sync: Sync,
    pub(crate) unsafe_flags: Vec<String>,
}

/// A member of the cluster.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) role: String,
    pub(crate) lag: Option<u64>,
}

/// Syncs of a node's log.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Sync {
    pub(crate) count: u64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

/// A connection to a node.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects to a port of this machine.
    ///
    /// # Errors
    /// Nobody listens.
    pub(crate) fn open(port: u16, time_max: Duration) -> Result<Connection> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect_timeout(&address, time_max)?;
        stream.set_read_timeout(Some(time_max))?;
        stream.set_write_timeout(Some(time_max))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream: BufReader::new(stream) })
    }

    /// Sends a command, and waits for what comes back.
    ///
    /// # Errors
    /// The connection, no answer in time, or the node's refusal.
    pub(crate) fn call(&mut self, words: &[&str]) -> Result<Vec<u8>> {
        let bulks = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
        let request = format!("*{}\r\n{}", words.len(), bulks.collect::<String>());
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        (&mut self.stream).take(LINE_BYTES_MAX).read_line(&mut line)?;
        let line = line.strip_suffix("\r\n").context("the connection ended")?;
        match line.split_at_checked(1).context("an empty answer")? {
            ("+" | ":", text) => Ok(text.as_bytes().to_vec()),
            ("$", length) => {
                let length: usize = length.parse().context("no value")?;
                ensure!(length <= ANSWER_BYTES_MAX, "an answer of {length} bytes");
                let mut bytes = vec![0; length + 2];
                self.stream.read_exact(&mut bytes)?;
                bytes.truncate(length);
                Ok(bytes)
            }
            (_, text) => bail!("{text}"),
        }
    }

    /// Asks a node for its status.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub(crate) fn status(&mut self) -> Result<Status> {
        Ok(serde_json::from_slice(&self.call(&["DISKSTORE", "STATUS"])?)?)
    }
}

/// The status of the node at a port, if it answers.
pub(crate) fn status(port: u16, time_max: Duration) -> Option<Status> {
    Connection::open(port, time_max).ok()?.status().ok()
}
