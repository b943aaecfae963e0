//! A cluster of real processes on free ports of loopback: nodes, loggers beside them, and a monitor
//! for each. Whoever runs a point calls it.
//!
//! - I1: processes are started by the main thread alone (see `diskstore_process`).

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use diskstore_process::Process;

use crate::plan::{Cluster as Shape, Machine, Point, Strategy};
use crate::programs::Programs;
use crate::resp::{self, Status};

/// Below the ports that the system gives to outgoing connections, which would take a port from a
/// node that is to start again on it.
const PORT_MIN: u16 = 14_000;
const PORT_MAX: u16 = 32_000;
const START_TIME_MAX: Duration = Duration::from_mins(1);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(20);

/// A process of the cluster: a node, or a logger.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// Where clients reach it; of a logger: where it is asked for records.
    pub(crate) port: u16,
    /// Where it is asked for records.
    pub(crate) recovery: Option<u16>,
    program: PathBuf,
    arguments: Vec<String>,
    pub(crate) directory: PathBuf,
    pub(crate) child: Process,
}

/// A running cluster.
#[derive(Debug)]
pub(crate) struct Cluster<'a> {
    programs: &'a Programs,
    shape: &'a Shape,
    point: &'a Point,
    folder: PathBuf,
    ports: Ports,
    /// Where new members ask to join.
    join: u16,
    pub(crate) nodes: Vec<Member>,
    pub(crate) loggers: Vec<Member>,
}

impl<'a> Cluster<'a> {
    /// Starts a cluster in an empty folder, and waits until all of its members are in.
    ///
    /// # Errors
    /// It does not come up.
    pub(crate) fn start(
        programs: &'a Programs,
        shape: &'a Shape,
        point: &'a Point,
        folder: &Path,
    ) -> Result<Cluster<'a>> {
        let mut cluster = Cluster {
            programs,
            shape,
            point,
            folder: folder.to_owned(),
            ports: Ports::new(),
            join: 0,
            nodes: Vec::new(),
            loggers: Vec::new(),
        };
        for _ in 0..shape.nodes {
            cluster.add_node()?;
        }
        let voters = usize::try_from(shape.nodes)?;
        cluster.wait("not all nodes vote", |status| voter_count(status) == voters)?;
        if point.strategy == Strategy::Decoupled {
            for number in 0..shape.loggers {
                cluster.add_logger(number)?;
            }
            let all = voters + cluster.loggers.len();
            cluster.wait("not all loggers are in", |status| status.members.len() == all)?;
        }
        Ok(cluster)
    }

    /// Starts a further node; the first one founds the cluster.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn add_node(&mut self) -> Result<()> {
        let name = format!("node{}", self.nodes.len());
        let directory = self.folder.join(&name);
        let (port, raft) = (self.ports.next()?, self.ports.next()?);
        let mut arguments = words(&format!("-id {name} -port :{port} -raft :{raft} -data files"));
        let Point { sync, read, strategy, machine, value_bytes, .. } = self.point;
        arguments.extend(words(&format!("-sync {sync} -read {read}")));
        if self.nodes.is_empty() {
            self.join = raft;
            arguments.extend(words(&match machine {
                Machine::Disk => format!("-slots {} -value-size {value_bytes}", self.shape.slots),
                Machine::Memory => format!("-value-max {value_bytes}"),
            }));
        } else {
            arguments.extend(words(&format!("-join :{}", self.join)));
        }
        let mut recovery = None;
        if *strategy == Strategy::App {
            arguments.extend(words("-logfolder records"));
            if self.point.source.is_some() {
                let port = self.ports.next()?;
                arguments.extend(words(&format!("-hrecov :{port}")));
                recovery = Some(port);
            }
            std::fs::create_dir_all(directory.join("records"))?;
        }
        arguments.extend(self.shape.flags.iter().cloned());
        let program = self.programs.node(*machine);
        let child = Process::start(&program, &arguments, &directory)?;
        self.nodes.push(Member { name, port, recovery, program, arguments, directory, child });
        if self.nodes.len() == 1 {
            self.wait("it does not lead", |_| true)?;
        }
        Ok(())
    }

    fn add_logger(&mut self, number: u64) -> Result<()> {
        let name = format!("log{number}");
        let directory = self.folder.join(&name);
        let (raft, port) = (self.ports.next()?, self.ports.next()?);
        let (join, sync) = (self.join, &self.point.sync);
        let line =
            format!("-id {name} -raft :{raft} -join :{join} -sync {sync} -logfolder records");
        let mut arguments = words(&line);
        if self.point.source.is_some() {
            arguments.extend(words(&format!("-hrecov :{port}")));
        }
        std::fs::create_dir_all(directory.join("records"))?;
        let program = self.programs.logger();
        let child = Process::start(&program, &arguments, &directory)?;
        let recovery = Some(port);
        self.loggers.push(Member { name, port, recovery, program, arguments, directory, child });
        Ok(())
    }

    /// Starts a process again that was killed.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn restart(&mut self, node: usize) -> Result<()> {
        let Member { program, arguments, directory, .. } = &self.nodes[node];
        self.nodes[node].child = Process::start(program, arguments, directory)?;
        Ok(())
    }

    /// Waits until the leader's status is as it should be.
    ///
    /// # Errors
    /// It took too long, or a process has ended.
    pub(crate) fn wait(
        &mut self,
        otherwise: &str,
        is_right: impl Fn(&Status) -> bool,
    ) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < START_TIME_MAX {
            if self.leader().is_ok_and(|(_, status)| is_right(&status)) {
                return Ok(());
            }
            self.check()?;
            std::thread::sleep(POLL);
        }
        bail!("{otherwise} after {} s", START_TIME_MAX.as_secs())
    }

    /// Every process must be running.
    ///
    /// # Errors
    /// One has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        for member in self.nodes.iter_mut().chain(&mut self.loggers) {
            if let Some(status) = member.child.ended()? {
                bail!("{} has ended ({status}): {}", member.name, member.child.last_words());
            }
        }
        Ok(())
    }

    /// The node that leads, and its status.
    ///
    /// # Errors
    /// No node says so.
    pub(crate) fn leader(&self) -> Result<(usize, Status)> {
        for (index, node) in self.nodes.iter().enumerate() {
            if let Some(status) = resp::status(node.port, ANSWER_TIME_MAX)
                && status.leader.as_ref() == Some(&status.name)
            {
                return Ok((index, status));
            }
        }
        bail!("no node leads")
    }

    /// Nodes and loggers.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.nodes.iter().chain(&self.loggers)
    }
}

/// The ports that are given out.
#[derive(Debug)]
struct Ports {
    next: u16,
}

impl Ports {
    /// Begins somewhere else in each process, so that two experiments rarely meet.
    fn new() -> Ports {
        let steps = std::process::id() % u32::from((PORT_MAX - PORT_MIN) / 50);
        let offset = u16::try_from(steps * 50).expect("invariant: below the range of ports");
        Ports { next: PORT_MIN + offset }
    }

    /// A port at which nobody listens.
    fn next(&mut self) -> Result<u16> {
        for _ in PORT_MIN..PORT_MAX {
            let port = self.next;
            self.next = if port + 1 < PORT_MAX { port + 1 } else { PORT_MIN };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(port);
            }
        }
        bail!("no port from {PORT_MIN} to {PORT_MAX} is free")
    }
}

/// One monitor for each process.
#[derive(Debug)]
pub(crate) struct Monitors {
    running: Vec<(String, PathBuf, Process)>,
}

impl Monitors {
    /// Starts them.
    ///
    /// # Errors
    /// One cannot be started.
    pub(crate) fn start(
        programs: &Programs,
        cluster: &Cluster<'_>,
        interval: Duration,
        folder: &Path,
    ) -> Result<Monitors> {
        let running = cluster.members().map(|member| {
            let directory = folder.join(format!("monit-{}", member.name));
            let (pid, interval_ms) = (member.child.pid(), interval.as_millis());
            let line = format!("-pid {pid} -interval {interval_ms}ms -csv rows.csv");
            let child = Process::start_with_output(&programs.monit(), &words(&line), &directory)?;
            Ok((member.name.clone(), directory.join("rows.csv"), child))
        });
        Ok(Monitors { running: running.collect::<Result<_>>()? })
    }

    /// Stops them, and reads what they wrote.
    ///
    /// # Errors
    /// One has written something that is no table of numbers.
    pub(crate) fn stop(self) -> Result<Vec<crate::result::Resources>> {
        let stop = |(process, path, mut child): (String, PathBuf, Process)| {
            child.terminate(ANSWER_TIME_MAX * 10)?;
            let text = std::fs::read_to_string(&path).with_context(|| {
                format!("the monitor of {process} wrote nothing: {}", child.last_words())
            })?;
            let mut lines = text.lines();
            let columns: Vec<String> = split(lines.next().unwrap_or_default());
            let mut rows = Vec::new();
            for line in lines {
                let row: Vec<u64> = line
                    .split(',')
                    .map(str::parse)
                    .collect::<Result<_, _>>()
                    .context(line.to_owned())?;
                ensure!(row.len() == columns.len(), "{}: {line}", path.display());
                rows.push(row);
            }
            Ok(crate::result::Resources { process, columns, rows })
        };
        self.running.into_iter().map(stop).collect()
    }
}

/// Members that vote.
pub(crate) fn voter_count(status: &Status) -> usize {
    status.members.iter().filter(|member| member.role != "learner").count()
}

pub(crate) fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn split(line: &str) -> Vec<String> {
    line.split(',').map(str::to_owned).collect()
}
