//! The engines: how each is started with three nodes (Redis alone with one), and reached.

use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use diskstore::load::{Codec, Resp};

use crate::etcd::Etcd;
use crate::process::{Server, Used, wait_until};
use crate::redis::SetAndWait;
use crate::zookeeper::{Write, ZooKeeper};

/// Ports from here on are used, on loopback.
const PORT: u16 = 24_000;
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
pub(crate) const ENGINES: [Engine; 7] = [
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
    servers: Vec<Server>,
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

    /// Starts it in an empty directory, and waits until it serves.
    ///
    /// # Errors
    /// It does not come up.
    pub(crate) fn start(self, node: &Path, directory: &Path) -> Result<Running> {
        let started = match self {
            Engine::Diskstore => start_diskstore(node, directory, "linearizable"),
            Engine::DiskstoreLease => start_diskstore(node, directory, "lease"),
            Engine::DiskstoreLocal => start_diskstore(node, directory, "local"),
            Engine::Etcd => start_etcd(directory),
            Engine::ZooKeeper => start_zookeeper(directory),
            Engine::Redis => start_redis(directory, 1),
            Engine::RedisReplicated => start_redis(directory, 3),
        };
        let (servers, port) = started.with_context(|| format!("starting {}", self.name()))?;
        Ok(Running { engine: self, servers, target: address(port) })
    }
}

impl Running {
    /// The protocol of a connection; `first` writes make what later ones overwrite.
    pub(crate) fn codec(&self, first: bool) -> Box<dyn Codec> {
        match self.engine {
            Engine::Etcd => Box::new(Etcd::new()),
            Engine::ZooKeeper if first => Box::new(ZooKeeper::new(Write::Create)),
            Engine::ZooKeeper => Box::new(ZooKeeper::new(Write::Set)),
            Engine::RedisReplicated => Box::new(SetAndWait::default()),
            _ => Box::new(Resp),
        }
    }

    /// What all of its nodes have used up to now.
    ///
    /// # Errors
    /// One of them is gone.
    pub(crate) fn used(&self) -> Result<Used> {
        let mut all = Used::default();
        for server in &self.servers {
            let used = server.used().context("a node is gone")?;
            all.cpu_us += used.cpu_us;
            all.written_bytes += used.written_bytes;
        }
        Ok(all)
    }

    /// How many nodes it has.
    pub(crate) fn node_count(&self) -> usize {
        self.servers.len()
    }
}

type Started = (Vec<Server>, u16);

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn start_diskstore(node: &Path, directory: &Path, read: &str) -> Result<Started> {
    let mut servers = Vec::new();
    for number in 0..3 {
        let (port, raft) = (PORT + number, PORT + 10 + number);
        let join = if number > 0 { format!("-join :{}", PORT + 10) } else { String::new() };
        let line = format!("-id node{number} -port :{port} -raft :{raft} -read {read} {join}");
        servers.push(Server::start(node, &words(&line), &directory.join(number.to_string()))?);
        wait_until(&mut servers, || status(node, port).filter(|status| leader(status).is_some()))?;
    }
    let voters = |status: &serde_json::Value| {
        let members = status["members"].as_array().map_or(&[][..], Vec::as_slice);
        members.iter().filter(|member| member["role"] != "learner").count()
    };
    let status =
        wait_until(&mut servers, || status(node, PORT).filter(|status| voters(status) == 3))?;
    let clients = leader(&status).context("no leader")?;
    let port = clients.rsplit_once(':').context("a leader without port")?.1.parse()?;
    Ok((servers, port))
}

fn status(node: &Path, port: u16) -> Option<serde_json::Value> {
    let addr = format!(":{port}");
    let output = Command::new(node).args(["status", "-json", "-addr", &addr]).output().ok()?;
    serde_json::from_slice(&output.stdout).ok()
}

/// Where the leader serves clients.
fn leader(status: &serde_json::Value) -> Option<String> {
    let members = status["members"].as_array()?;
    let leader = members.iter().find(|member| member["name"] == status["leader"])?;
    Some(leader["client"].as_str()?.to_owned())
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
        servers.push(Server::start(Path::new("/usr/bin/etcd"), &words(&line), &directory)?);
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

fn start_zookeeper(directory: &Path) -> Result<Started> {
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
        let line = "-Xmx1g -cp /usr/share/java/zookeeper.jar \
                    org.apache.zookeeper.server.quorum.QuorumPeerMain zoo.cfg";
        servers.push(Server::start(Path::new("/usr/bin/java"), &words(line), &directory)?);
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
        servers.push(Server::start(Path::new("/usr/bin/redis-server"), &arguments, &directory)?);
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
