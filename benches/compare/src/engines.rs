//! The engines: how each is started with three nodes (Redis alone with one), and reached.

use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use diskstore::load::{Codec, Resp};
use diskstore_process::Process;

use crate::commands::Command;
use crate::grpc::{Grpc, Service};
use crate::nodes::Nodes;
use crate::redis::SetAndWait;
use crate::rows::Kind;
use crate::servers::{Used, used_by, wait_until};
use crate::zookeeper::{Write, ZooKeeper};

/// Ports from here on are used, on loopback.
pub(crate) const PORT: u16 = 24_000;
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Something that load is put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Engine {
    /// Ours, as it is by default.
    Diskstore,
    /// Ours with `-read lease`.
    DiskstoreLease,
    /// Ours with `-read local`.
    DiskstoreLocal,
    /// Ours whose log is applied to keys in memory.
    Kvstore,
    /// Three members.
    Etcd,
    /// Three members.
    ZooKeeper,
    /// One copy, synced.
    Redis,
    /// A primary and two replicas, all synced.
    RedisReplicated,
}

/// Every engine, in the order of a round.
pub(crate) const ENGINES: [Engine; 8] = [
    Engine::Kvstore,
    Engine::Diskstore,
    Engine::Etcd,
    Engine::ZooKeeper,
    Engine::Redis,
    Engine::RedisReplicated,
    Engine::DiskstoreLease,
    Engine::DiskstoreLocal,
];

/// An engine that runs.
pub(crate) struct Running {
    engine: Engine,
    servers: Vec<Process>,
    /// Where load goes: the leader.
    pub(crate) target: SocketAddr,
}

impl Engine {
    /// As the table calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Engine::Diskstore => "diskstore",
            Engine::DiskstoreLease => "diskstore-lease",
            Engine::DiskstoreLocal => "diskstore-local",
            Engine::Kvstore => "kvstore",
            Engine::Etcd => "etcd",
            Engine::ZooKeeper => "zookeeper",
            Engine::Redis => "redis",
            Engine::RedisReplicated => "redis-replicated",
        }
    }

    /// What must be installed for it, if it is not there.
    pub(crate) fn missing(self) -> Option<&'static str> {
        let is_there = |path: &str| Path::new(path).exists();
        match self {
            Engine::Etcd if !is_there("/usr/bin/etcd") => Some("etcd-server"),
            Engine::Redis | Engine::RedisReplicated if !is_there("/usr/bin/redis-server") => {
                Some("redis-server")
            }
            Engine::ZooKeeper if !is_there("/usr/share/java/zookeeper.jar") => Some("zookeeper"),
            _ => None,
        }
    }

    /// Starts it in an empty directory, ready to hold so many keys, and waits until it serves.
    ///
    /// # Errors
    /// It does not come up.
    pub(crate) fn start(self, node: &Path, directory: &Path, keys: u64) -> Result<Running> {
        let started = match self {
            Engine::Diskstore => start_ours(node, directory, "-read linearizable"),
            Engine::DiskstoreLease => start_ours(node, directory, "-read lease"),
            Engine::DiskstoreLocal => start_ours(node, directory, "-read local"),
            Engine::Kvstore => start_ours(&node.with_file_name("kvstore"), directory, ""),
            Engine::Etcd => start_etcd(directory),
            Engine::ZooKeeper => start_zookeeper(directory, keys),
            Engine::Redis => start_redis(directory, 1),
            Engine::RedisReplicated => start_redis(directory, 3),
        };
        let (servers, port) = started.with_context(|| format!("starting {}", self.name()))?;
        Ok(Running { engine: self, servers, target: address(port) })
    }
}

impl Running {
    /// The protocol of a connection for a kind of load; without one, for the writes that make what
    /// later ones overwrite.
    pub(crate) fn codec(&self, kind: Option<Kind>) -> Box<dyn Codec> {
        match (self.engine, kind) {
            (Engine::Etcd, _) => Box::new(Grpc::new(Service::Etcd)),
            (Engine::ZooKeeper, None) => Box::new(ZooKeeper::new(Write::Create)),
            (Engine::ZooKeeper, Some(_)) => Box::new(ZooKeeper::new(Write::Set)),
            (Engine::RedisReplicated, _) => Box::new(SetAndWait::default()),
            (_, Some(Kind::Increments)) => Box::new(Command::Increment),
            (_, Some(Kind::SetsOfMany)) => Box::new(Command::set_many()),
            _ => Box::new(Resp),
        }
    }

    /// What all of its nodes have used up to now.
    ///
    /// # Errors
    /// One of them is gone.
    pub(crate) fn used(&self) -> Result<Used> {
        used_by(&self.servers)
    }

    /// How many nodes it has.
    pub(crate) fn node_count(&self) -> usize {
        self.servers.len()
    }
}

type Started = (Vec<Process>, u16);

pub(crate) fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

pub(crate) fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn start_ours(program: &Path, directory: &Path, flags: &str) -> Result<Started> {
    Nodes::start(program, directory, 3, flags)?.into_servers()
}

fn start_etcd(directory: &Path) -> Result<Started> {
    let peer = |number| format!("http://127.0.0.1:{}", PORT + 30 + number);
    let cluster: Vec<String> = (0..3).map(|n| format!("n{n}={}", peer(n))).collect();
    let mut servers = Vec::new();
    for number in 0..3 {
        let client = format!("http://127.0.0.1:{}", PORT + 20 + number);
        let line = format!(
            "--name n{number} --data-dir data --listen-client-urls {client} \
             --advertise-client-urls {client} --listen-peer-urls {peer} \
             --initial-advertise-peer-urls {peer} --initial-cluster {} \
             --quota-backend-bytes 8589934592",
            cluster.join(","),
            peer = peer(number),
        );
        let directory = directory.join(number.to_string());
        servers.push(Process::start(Path::new("/usr/bin/etcd"), &words(&line), &directory)?);
    }
    let leads = |port: &u16| {
        let request = "POST /v3/maintenance/status HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}";
        let answer = ask(*port, request)?;
        let status: serde_json::Value =
            serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        (status["leader"].is_string() && status["leader"] == status["header"]["member_id"])
            .then_some(())
    };
    let port =
        wait_until(&mut servers, || (PORT + 20..PORT + 23).find(|port| leads(port).is_some()))?;
    Ok((servers, port))
}

/// `ZooKeeper` holds everything on the heap, and writes all of it after so many transactions: with
/// many keys that would fill the disk.
fn start_zookeeper(directory: &Path, keys: u64) -> Result<Started> {
    let (heap_gib, snapshot_count) = (1 + keys.div_ceil(1 << 19), keys.max(100_000));
    let members: Vec<String> = (0..3)
        .map(|n| format!("server.{n}=127.0.0.1:{}:{}\n", PORT + 50 + n, PORT + 60 + n))
        .collect();
    let mut servers = Vec::new();
    for number in 0..3 {
        let directory = directory.join(number.to_string());
        std::fs::create_dir_all(directory.join("data"))?;
        std::fs::write(directory.join("data/myid"), number.to_string())?;
        let settings = format!(
            "tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir={}\nclientPort={}\n\
             maxClientCnxns=0\nadmin.enableServer=false\n4lw.commands.whitelist=srvr\n{}",
            directory.join("data").display(),
            PORT + 40 + number,
            members.concat()
        );
        std::fs::write(directory.join("zoo.cfg"), settings)?;
        let line = format!(
            "-Xmx{heap_gib}g -Dzookeeper.snapCount={snapshot_count} \
             -cp /usr/share/java/zookeeper.jar \
             org.apache.zookeeper.server.quorum.QuorumPeerMain zoo.cfg"
        );
        servers.push(Process::start(Path::new("/usr/bin/java"), &words(&line), &directory)?);
    }
    let leads = |port: &u16| ask(*port, "srvr").is_some_and(|text| text.contains("Mode: leader"));
    let port = wait_until(&mut servers, || (PORT + 40..PORT + 43).find(leads))?;
    Ok((servers, port))
}

fn start_redis(directory: &Path, copies: u16) -> Result<Started> {
    let mut servers = Vec::new();
    for number in 0..copies {
        let port = PORT + 70 + number;
        let replica =
            if number > 0 { format!("--replicaof 127.0.0.1 {}", PORT + 70) } else { String::new() };
        let line = format!("--port {port} --appendonly yes --appendfsync always {replica}");
        let arguments = [words(&line), vec!["--save".to_owned(), String::new()]].concat();
        let directory = directory.join(number.to_string());
        servers.push(Process::start(Path::new("/usr/bin/redis-server"), &arguments, &directory)?);
    }
    let online = format!("connected_slaves:{}", copies - 1);
    let is_ready = || {
        let text = ask(PORT + 70, "INFO replication\r\nQUIT\r\n")?;
        let all_online = text.matches("state=online").count() == usize::from(copies - 1);
        (text.contains(&online) && all_online).then_some(())
    };
    wait_until(&mut servers, is_ready)?;
    Ok((servers, PORT + 70))
}

/// Sends a request, and reads until the server closes the connection or is silent.
fn ask(port: u16, request: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address(port), ANSWER_TIME_MAX).ok()?;
    stream.set_read_timeout(Some(ANSWER_TIME_MAX)).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    drop(stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer));
    Some(String::from_utf8_lossy(&answer).into_owned())
}

/// The node's program, beside which this one was built.
///
/// # Errors
/// It is not there.
pub(crate) fn node_program() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("diskstore");
    anyhow::ensure!(path.exists(), "{} is missing: run scripts/compare", path.display());
    Ok(path)
}
