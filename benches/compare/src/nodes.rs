//! Nodes of ours that are stopped, killed, started again and added one by one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use diskstore::status::{MemberStatus, Status};
use diskstore_process::Process;

use crate::engines::{PORT, address, words};
use crate::servers::{Resident, Used, resident, used_by, wait_until};

const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);
/// How long a node may take to end in order.
const STOP_TIME_MAX: Duration = Duration::from_mins(2);
const STATUS_BYTES_MAX: u64 = 1 << 20;
/// How far the ports of peers are from those of clients.
const PEER_PORTS: u16 = 10;

/// A cluster of nodes, numbered in the order of their first start.
#[derive(Debug)]
pub(crate) struct Nodes {
    program: PathBuf,
    directory: PathBuf,
    flags: String,
    servers: Vec<Process>,
}

impl Nodes {
    /// Starts so many nodes in an empty directory, and waits until all of them vote.
    ///
    /// # Errors
    /// They do not come up.
    pub(crate) fn start(
        program: &Path,
        directory: &Path,
        count: usize,
        flags: &str,
    ) -> Result<Nodes> {
        let mut nodes = Nodes {
            program: program.to_owned(),
            directory: directory.to_owned(),
            flags: flags.to_owned(),
            servers: Vec::new(),
        };
        for number in 0..count {
            nodes.spawn(number)?;
            nodes.wait(|| status(number).filter(|status| leader_of(status).is_some()))?;
        }
        nodes.wait(|| status(0).filter(|status| voters(status) == count))?;
        Ok(nodes)
    }

    /// Starts a node, a new one or one that has ended, and does not wait for it.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn spawn(&mut self, number: usize) -> Result<()> {
        let (port, raft) = (port_of(number), port_of(number) + PEER_PORTS);
        let join = if number > 0 { format!("-join :{}", PORT + PEER_PORTS) } else { String::new() };
        let line = format!("-id node{number} -port :{port} -raft :{raft} {join} {}", self.flags);
        let directory = self.directory.join(number.to_string());
        let server = Process::start(&self.program, &words(&line), &directory)?;
        match self.servers.get_mut(number) {
            Some(ended) => *ended = server,
            None => self.servers.push(server),
        }
        Ok(())
    }

    /// Ends a node at once.
    pub(crate) fn kill(&mut self, number: usize) {
        drop(self.servers[number].kill()); // it may be gone already
    }

    /// Ends a node in order.
    ///
    /// # Errors
    /// It does not end.
    pub(crate) fn stop(&mut self, number: usize) -> Result<()> {
        self.servers[number].terminate(STOP_TIME_MAX).map(drop)
    }

    /// Waits until `ready` gives something; a node that ends meanwhile ends the wait.
    ///
    /// # Errors
    /// It took too long, or a node has ended.
    pub(crate) fn wait<T>(&mut self, ready: impl FnMut() -> Option<T>) -> Result<T> {
        wait_until(&mut self.servers, ready)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.servers.len()
    }

    /// The number of the leader.
    ///
    /// # Errors
    /// None is known in time.
    pub(crate) fn leader(&mut self) -> Result<usize> {
        let numbers = 0..self.count();
        let leads = |number: &usize| status(*number).is_some_and(|status| status.role == "leader");
        self.wait(|| numbers.clone().find(leads))
    }

    /// Where the leader takes commands.
    ///
    /// # Errors
    /// None is known in time.
    pub(crate) fn target(&mut self) -> Result<SocketAddr> {
        Ok(address(port_of(self.leader()?)))
    }

    /// What all of them have used up to now.
    ///
    /// # Errors
    /// One of them is gone.
    pub(crate) fn used(&self) -> Result<Used> {
        used_by(&self.servers)
    }

    /// What of a node is in memory now.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) fn resident(&self, number: usize) -> Result<Resident> {
        resident(&self.servers[number])
    }

    /// A file of a node.
    pub(crate) fn file(&self, number: usize, name: &str) -> PathBuf {
        self.directory.join(format!("{number}/diskstore-data/node{number}/{name}"))
    }

    /// The processes, and where the leader takes commands.
    ///
    /// # Errors
    /// No leader is known in time.
    pub(crate) fn into_servers(mut self) -> Result<(Vec<Process>, u16)> {
        let port = port_of(self.leader()?);
        Ok((self.servers, port))
    }
}

/// Where a node takes commands.
fn port_of(number: usize) -> u16 {
    PORT + u16::try_from(number).expect("invariant: a handful of nodes")
}

fn leader_of(status: &Status) -> Option<&MemberStatus> {
    status.members.iter().find(|member| Some(&member.name) == status.leader.as_ref())
}

fn voters(status: &Status) -> usize {
    status.members.iter().filter(|member| member.role != "learner").count()
}

/// What a node says of itself; `None` while it does not answer.
pub(crate) fn status(number: usize) -> Option<Status> {
    let mut stream = ask(number, "DISKSTORE STATUS").ok()?;
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let length = line.strip_prefix('$')?.trim_end().parse().ok()?;
    let mut text = Vec::new();
    stream.take(STATUS_BYTES_MAX.min(length)).read_to_end(&mut text).ok()?;
    Status::from_json(&text).ok()
}

/// Whether a node answers a read.
pub(crate) fn serves(number: usize) -> bool {
    let mut line = String::new();
    let answer = ask(number, "GET 0").and_then(|mut stream| Ok(stream.read_line(&mut line)?));
    answer.is_ok() && line.starts_with('$')
}

/// True if a node has counted its slots since it was started.
pub(crate) fn has_counted(number: usize) -> bool {
    let mut line = String::new();
    let answer = ask(number, "DBSIZE").and_then(|mut stream| Ok(stream.read_line(&mut line)?));
    answer.is_ok() && line.starts_with(':')
}

fn ask(number: usize, command: &str) -> Result<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect_timeout(&address(port_of(number)), ANSWER_TIME_MAX)?;
    stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
    stream.write_all(format!("{command}\r\n").as_bytes()).context("sending")?;
    Ok(BufReader::new(stream))
}
