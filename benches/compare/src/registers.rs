//! Nodes of `leaderless` that are killed and started again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use diskstore_process::Process;
use serde_json::Value;

use crate::engines::{PORT, address, words};
use crate::servers::wait_until;

/// Nodes of `leaderless` have the ports from here on.
const FIRST_PORT: u16 = PORT + 80;
/// How many nodes hold a key.
const REPLICA_COUNT: usize = 3;
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// A cluster of nodes without a leader, numbered from 0.
#[derive(Debug)]
pub(crate) struct RegisterNodes {
    program: PathBuf,
    directory: PathBuf,
    count: usize,
    servers: Vec<Process>,
}

impl RegisterNodes {
    /// Starts so many nodes in an empty directory, and waits until all take operations. `node` is the program of
    /// diskstore's nodes, beside which that of `leaderless` is.
    ///
    /// # Errors
    /// They do not come up.
    pub(crate) fn start(node: &Path, directory: &Path, count: usize) -> Result<RegisterNodes> {
        let program = node.with_file_name("leaderless");
        let directory = directory.to_owned();
        let mut nodes = RegisterNodes { program, directory, count, servers: Vec::new() };
        for number in 0..count {
            nodes.spawn(number)?;
        }
        for number in 0..count {
            nodes.wait(|| is_ready(number).then_some(()))?;
        }
        Ok(nodes)
    }

    /// Starts a node, a new one or one that has ended, and does not wait for it.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn spawn(&mut self, number: usize) -> Result<()> {
        let listed: Vec<String> =
            (0..self.count).map(|number| format!("{number}={}", place_of(number))).collect();
        let line = format!(
            "-id {number} -port {} -nodes {} -replicas {REPLICA_COUNT} -dir data",
            place_of(number),
            listed.join(",")
        );
        let directory = self.directory.join(number.to_string());
        let server = Process::start(&self.program, &words(&line), &directory)?;
        match self.servers.get_mut(number) {
            Some(ended) => *ended = server,
            None => self.servers.push(server),
        }
        Ok(())
    }

    /// Ends a node at once.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn kill(&mut self, number: usize) -> Result<()> {
        self.servers[number].kill()
    }

    /// Waits until `ready` gives something; a node that ends meanwhile ends the wait.
    ///
    /// # Errors
    /// It took too long, or a node has ended.
    pub(crate) fn wait<T>(&mut self, ready: impl FnMut() -> Option<T>) -> Result<T> {
        wait_until(&mut self.servers, ready)
    }

    /// Where the first of them take operations, so many.
    pub(crate) fn targets(&self, count: usize) -> Vec<SocketAddr> {
        (0..count.min(self.count)).map(place_of).collect()
    }
}

fn place_of(number: usize) -> SocketAddr {
    address(FIRST_PORT + u16::try_from(number).expect("invariant: a handful of nodes"))
}

/// Whether a node takes operations.
pub(crate) fn is_ready(number: usize) -> bool {
    ask(number, "/readyz").is_some_and(|text| text.starts_with("HTTP/1.1 200"))
}

/// What a node says of itself; `None` while it does not answer.
pub(crate) fn status(number: usize) -> Option<Value> {
    serde_json::from_str(ask(number, "/status")?.split_once("\r\n\r\n")?.1).ok()
}

/// The response of HTTP at a path.
fn ask(number: usize, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&place_of(number), ANSWER_TIME_MAX).ok()?;
    stream.set_read_timeout(Some(ANSWER_TIME_MAX)).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).ok()?;
    Some(answer)
}
