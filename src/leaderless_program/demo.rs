//! `leaderless demo`: five nodes on this machine, in one process, until Ctrl-C.
//!
//! - I1: a temporary directory is removed however the demonstration ends, short of SIGKILL.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::Doors;
use crate::config::{Address, LogFormat, LogLevel, SyncPolicy};
use crate::host::Host;
use crate::leaderless::file::VALUE_BYTES_MAX;
use crate::leaderless::layout::{Described, Layout};
use crate::leaderless::node::{Registers, RegistersConfig};
use crate::leaderless::operation::Level;
use crate::program::{
    Failed, SHUTDOWN_TIME_MAX, Signals, failed, listen, prepare_descriptors, runtime, say,
    start_logging,
};
use crate::server::{RegisterServer, Registrar};

/// Nodes of the demonstration, and how many of them hold each key.
const NODE_COUNT: u16 = 5;
const REPLICA_COUNT: u64 = 3;
/// The first port that is used if all are free.
const PORT: u16 = 8001;
/// Memory for the keys of one node.
const MEMORY_BYTES: u64 = 256 << 20;
/// How often nodes are looked at until all take operations.
const POLL: Duration = Duration::from_millis(20);

/// Runs the demonstration until a signal.
///
/// # Errors
/// What kept it from starting.
pub fn run(data: Option<&Path>) -> Result<ExitCode, Failed> {
    start_logging(LogLevel::Error, LogFormat::Text);
    prepare_descriptors(usize::from(NODE_COUNT)).map_err(failed)?;
    diskstore_storage::disk::report_bus_errors().map_err(failed)?;
    let runtime = runtime().map_err(failed)?;
    let outcome = runtime.block_on(serve(data));
    runtime.shutdown_timeout(SHUTDOWN_TIME_MAX);
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn serve(data: Option<&Path>) -> Result<(), Failed> {
    let mut signals = Signals::new().map_err(failed)?;
    // From here on no signal ends the process before it is removed. // I1
    let kept = Directory::open(data).map_err(failed)?;
    let directory = kept.path.as_path();
    let ports = ports().map_err(failed)?;
    let layout = layout(&ports);
    let mut nodes = Vec::new();
    for (nth, port) in (1..).zip(&ports) {
        nodes.push(begin(nth, *port, layout.clone(), directory).await?);
    }
    let all_ready = async {
        while !nodes.iter().all(|node| node.registers.is_ready()) {
            tokio::time::sleep(POLL).await;
        }
    };
    let first = ports.first().copied().unwrap_or(PORT);
    tokio::select! {
        () = all_ready => say(&words(&ports, directory, first)),
        () = signals.next_or_hang_up() => return stop(nodes).await,
    }
    let faults = nodes.iter().map(|node| Box::pin(node.registers.wait_fault()));
    let outcome = tokio::select! {
        () = signals.next_or_hang_up() => Ok(()),
        (fault, ..) = futures_util::future::select_all(faults) => Err(failed(fault.reason)),
    };
    let stopped = stop(nodes);
    tokio::select! {
        stopped = stopped => stopped?,
        () = signals.next() => {}
    }
    outcome
}

/// One node, and its port.
struct DemoRegisters {
    registers: Arc<Registers>,
    doors: Doors,
}

async fn begin(
    nth: u16,
    port: u16,
    layout: Layout,
    directory: &Path,
) -> Result<DemoRegisters, Failed> {
    let host = Host::real();
    let id = nth.to_string();
    let listener = listen(&host, &at(port)).await.map_err(failed)?;
    let config = RegistersConfig {
        directory: directory.join(format!("node-{id}")),
        id,
        layout,
        memory_bytes_max: MEMORY_BYTES,
        value_bytes_max: VALUE_BYTES_MAX,
        sync: SyncPolicy::Always,
        accepts_loss: false,
        forget_after: Duration::from_hours(72),
    };
    let registers = Registers::start(&host, config).await.map_err(failed)?;
    let registrar = Registrar::Node(Arc::clone(&registers));
    let server = RegisterServer::new(registrar, Level::default());
    Ok(DemoRegisters { registers, doors: Doors::open(server, listener, None) })
}

async fn stop(nodes: Vec<DemoRegisters>) -> Result<(), Failed> {
    let stops = nodes.into_iter().map(|DemoRegisters { registers, doors }| async move {
        doors.close().await;
        registers.stop().await;
    });
    futures_util::future::join_all(stops).await;
    Ok(())
}

fn at(port: u16) -> Address {
    Address { host: "127.0.0.1".to_owned(), port }
}

fn layout(ports: &[u16]) -> Layout {
    let described = (1..).zip(ports).map(|(nth, port): (u16, _)| Described {
        id: nth.to_string(),
        address: Some(at(*port)),
        weight: 1,
        zone: None,
    });
    Layout::first(0, REPLICA_COUNT, described.collect())
        .expect("invariant: five nodes are a layout")
}

fn words(ports: &[u16], directory: &Path, first: u16) -> String {
    let list: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    format!(
        "five nodes run, at {}; each key is at three of them, and any node takes any query\n\
         data: {}\n\
         try: leaderless set a hello -addr 127.0.0.1:{first}\n\
         try: leaderless get a -addr {}\n\
         try: redis-cli -p {first} get a; curl http://127.0.0.1:{first}/v1/keys/a\n\
         try: leaderless status -addr 127.0.0.1:{first}\n\
         Ctrl-C stops them\n",
        list.join(" "),
        directory.display(),
        list.last().map_or("", String::as_str),
    )
}

/// The usual ports if all are free, else ones that the system picks.
fn ports() -> std::io::Result<Vec<u16>> {
    let bind = |port: u16| TcpListener::bind(("127.0.0.1", port));
    let usual: std::io::Result<Vec<_>> = (PORT..PORT + NODE_COUNT).map(bind).collect();
    let listeners = match usual {
        Ok(listeners) => listeners,
        Err(_) => (0..NODE_COUNT).map(|_| bind(0)).collect::<std::io::Result<_>>()?,
    };
    // All are held until all are known, so that none comes twice.
    listeners.iter().map(|listener| listener.local_addr().map(|address| address.port())).collect()
}

/// Where the data is.
struct Directory {
    path: PathBuf,
    is_temporary: bool,
}

impl Directory {
    fn open(data: Option<&Path>) -> std::io::Result<Directory> {
        if let Some(path) = data {
            std::fs::create_dir_all(path)?;
            return Ok(Directory { path: path.to_owned(), is_temporary: false });
        }
        let path = std::env::temp_dir().join(format!("leaderless-demo-{}", std::process::id()));
        std::fs::create_dir(&path)?; // whatever is there already is not ours to remove
        Ok(Directory { path, is_temporary: true })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.is_temporary
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(directory = %self.path.display(), %error, "data was not removed");
        }
    }
}
