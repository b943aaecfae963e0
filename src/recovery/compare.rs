//! `-compare`: times joining a cluster as a member, to compare it with installing records. A
//! learner joins without files, stops, comes back with its files, and leaves the cluster for good.
//!
//! - I1: whatever happens after the cluster has admitted the member, the cluster is asked to remove
//!   it.
//! - I2: the member is a learner: no majority ever waits for it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Flags, nanoseconds};
use crate::cli::Settings;
use crate::config::{Address, Config, ConfigError, MachineKind};
use crate::host::Host;
use crate::node::{self, Node, OrderError, Standing, StartError};
use crate::program;
use crate::tls::{Credentials, Mode, TlsError};

/// How long one join may take.
const JOIN_TIME_MAX: Duration = Duration::from_mins(10);
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(1);
/// How often a signal is looked for.
const STOP_POLL: Duration = Duration::from_millis(20);

/// Why the comparison was not made.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A flag.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Members elsewhere would not reach a port of 127.0.0.1.
    #[error("-compare with a -join beyond this machine needs -raft, where the members reach it")]
    Unreachable,
    /// The member did not start.
    #[error(
        "the member {name} cannot join (should `diskstore status` list it, take it out with: \
         diskstore remove {name})"
    )]
    Start {
        /// Its name.
        name: String,
        /// Why.
        source: Box<StartError>,
    },
    /// The member had to stop.
    #[error("the member {name} cannot go on: {reason}")]
    Fault {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// It never was where the cluster was.
    #[error("the member {name} has not caught up within {} min", JOIN_TIME_MAX.as_secs() / 60)]
    TooLong {
        /// Its name.
        name: String,
    },
    /// It is a member still.
    #[error("the cluster keeps the member {name}; take it out with: diskstore remove {name}")]
    Stays {
        /// Its name.
        name: String,
        /// Why.
        source: OrderError,
    },
    /// No port, no runtime, no random numbers.
    #[error("{what} failed")]
    Local {
        /// What was tried.
        what: &'static str,
        /// The operating system's word.
        source: std::io::Error,
    },
    /// Certificates that cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Whoever started this wants it to end.
    #[error("interrupted")]
    Interrupted,
}

/// Joining as a member.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Join {
    /// From the start of the member until it had what the cluster had committed, in ns.
    pub ns: u64,
    /// Bytes that the other members sent to it.
    pub bytes: u64,
    /// Slots among them that came by snapshot; everything else came by the log.
    pub slots: u64,
    /// Log index that it had come to.
    pub index: u64,
}

/// Both ways of joining.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Compared {
    /// Without files.
    pub join: Join,
    /// Over its files, after it was away.
    pub rejoin: Join,
}

impl Compared {
    pub(super) fn lines(&self) -> String {
        let Compared { join, rejoin } = self;
        format!(
            "Snapshot Join Time (ns): {}\nSnapshot Join Size (bytes): {}\n\
             Delta Join Time (ns): {}\nDelta Join Size (bytes): {}\n",
            join.ns, join.bytes, rejoin.ns, rejoin.bytes
        )
    }
}

/// What it takes to make the comparison.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    settings: Settings,
    pause: Duration,
}

impl Plan {
    /// Checks the flags; `None` without `-compare`.
    pub(super) fn new(flags: &Flags) -> Result<Option<Plan>, CompareError> {
        if !flags.compare {
            return Ok(None);
        }
        let raft = match &flags.raft {
            Some(raft) => raft.clone(),
            None => format!("127.0.0.1:{}", free_port()?),
        };
        let tls = flags.tls.as_deref().map(|directory| Credentials::read(directory, Mode::Require));
        let tls = tls.transpose()?;
        let own = tls.as_ref().and_then(|tls| tls.own().map(|own| own.bearer.name().to_owned()));
        let id = match own {
            Some(name) => name,
            None => format!("recovery-{:08x}", random()?),
        };
        let settings = Settings {
            id: Some(id),
            tls: flags.tls.clone(),
            raft: Some(raft),
            join: flags.join.clone(),
            insecure: Some(flags.insecure),
            ..Settings::default()
        };
        let plan = Plan { settings, pause: flags.pause };
        let config = plan.config(Path::new("."))?;
        if flags.raft.is_none() && !config.join_targets.iter().all(Address::is_loopback) {
            return Err(CompareError::Unreachable);
        }
        Ok(Some(plan))
    }

    fn config(&self, directory: &Path) -> Result<Config, ConfigError> {
        let data = Some(directory.join("member"));
        let config = Config::new(MachineKind::Slots, Settings { data, ..self.settings.clone() })?;
        Ok(Config { is_learner: true, has_client_port: false, ..config }) // I2
    }

    /// Joins twice, with its files below `directory`.
    pub(super) fn run(
        &self,
        directory: &Path,
        stop: &AtomicBool,
    ) -> Result<Compared, CompareError> {
        let config = self.config(directory)?;
        let mut member = Member { host: program::host_of(&config)?, config, known: None };
        let compared = member.join_twice(self.pause, stop);
        let left = member.leave(); // I1
        let compared = compared?;
        left.map(|()| compared)
    }
}

/// A port that nobody listens on.
fn free_port() -> Result<u16, CompareError> {
    let bound = std::net::TcpListener::bind("127.0.0.1:0");
    let port = bound.and_then(|listener| Ok(listener.local_addr()?.port()));
    port.map_err(|source| CompareError::Local { what: "looking for a free port", source })
}

fn random() -> Result<u32, CompareError> {
    let what = "drawing a name";
    getrandom::u32().map_err(|error| CompareError::Local { what, source: error.into() })
}

/// How a member is known to its cluster.
struct Known {
    ids: (u128, u64),
    /// Where the others are reached.
    others: Vec<String>,
}

struct Member {
    host: Host,
    config: Config,
    known: Option<Known>,
}

impl Member {
    fn join_twice(&mut self, pause: Duration, stop: &AtomicBool) -> Result<Compared, CompareError> {
        let join = self.join(stop)?;
        let begun = Instant::now();
        while begun.elapsed() < pause {
            if stop.load(Ordering::Relaxed) {
                return Err(CompareError::Interrupted);
            }
            std::thread::sleep(STOP_POLL.min(pause));
        }
        Ok(Compared { join, rejoin: self.join(stop)? })
    }

    /// Starts the member, waits until it has caught up, and stops it.
    fn join(&mut self, stop: &AtomicBool) -> Result<Join, CompareError> {
        let runtime = runtime()?;
        let joined = runtime.block_on(self.join_here(stop));
        runtime.shutdown_timeout(program::SHUTDOWN_TIME_MAX);
        joined
    }

    async fn join_here(&mut self, stop: &AtomicBool) -> Result<Join, CompareError> {
        let name = self.config.id.clone();
        let begun = Instant::now();
        let started = tokio::select! {
            started = node::start(&self.host, self.config.clone(), Box::new(|_, _| {})) => started,
            () = stopped(stop) => return Err(CompareError::Interrupted),
        };
        let failed = |source| CompareError::Start { name: name.clone(), source: Box::new(source) };
        let node = started.map_err(failed)?;
        self.note(&node);
        let caught_up = tokio::time::timeout(JOIN_TIME_MAX, catch_up(&node));
        let caught_up = tokio::select! {
            caught_up = caught_up => caught_up,
            fault = node.wait_fault() => {
                return Err(CompareError::Fault { name, reason: fault.reason });
            }
            () = stopped(stop) => return Err(CompareError::Interrupted),
        };
        let time = begun.elapsed();
        let status = node.status();
        self.note(&node);
        node.stop().await;
        caught_up.map_err(|_| CompareError::TooLong { name })?;
        Ok(Join {
            ns: nanoseconds(time),
            bytes: status.received_bytes,
            slots: status.slots_received,
            index: status.applied,
        })
    }

    /// Remembers who the member is and where the others are, as far as it has heard of them: right
    /// after a start over its files it has not.
    fn note(&mut self, node: &Node) {
        let members = node.status().members;
        let others = members.into_iter().filter(|member| member.name != self.config.id);
        let others: Vec<String> = others.map(|member| member.raft).collect();
        if !others.is_empty() {
            self.known = Some(Known { ids: node.ids(), others });
        }
    }

    /// Takes the member out of the cluster, if that has taken it in.
    fn leave(&self) -> Result<(), CompareError> {
        let runtime = runtime()?;
        let removed = match &self.known {
            Some(Known { ids: (cluster_id, member_id), others }) => {
                let (host, config) = (&self.host, &self.config);
                let removal = node::remove_departed(host, config, *cluster_id, *member_id, others);
                runtime.block_on(removal)
            }
            None => runtime.block_on(node::remove_unfinished(&self.host, &self.config)),
        };
        let name = self.config.id.clone();
        removed.map_err(|source| CompareError::Stays { name, source })
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, CompareError> {
    program::runtime().map_err(|source| CompareError::Local { what: "starting threads", source })
}

/// Waits until the node has applied what its leader has, and may be read.
async fn catch_up(node: &Node) {
    let target = loop {
        if let Standing::Member(applied) = node.standing().await {
            break applied;
        }
        tokio::time::sleep(POLL).await;
    };
    loop {
        let status = node.status();
        if status.applied >= target.max(status.readable_from) {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn stopped(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(STOP_POLL).await;
    }
}
