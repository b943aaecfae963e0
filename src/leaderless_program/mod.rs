//! The body of the program `leaderless`: a node, or a coordinator, from what was typed to its exit code; and
//! five of them in one process (`demo`).
//!
//! Called by `bin/leaderless.rs`; calls everything. Exit codes are those of the other programs.

mod demo;
mod settings;

use std::process::ExitCode;
use std::sync::Arc;

use sd_notify::NotifyState;
use tokio::sync::watch;

use crate::cli::LeaderlessInvocation;
use crate::config::Address;
use crate::fault::Fault;
use crate::host::{Host, Listener};
use crate::leaderless::node::Registers;
use crate::program::{
    EXIT_USAGE, Failed, SHUTDOWN_TIME_MAX, Signals, failed, listen, notify, prepare_descriptors,
    runtime, say, start_logging, stop_at_second, told,
};
use crate::server::{Coordinator, Port, RegisterServer, Registrar, START_PATIENCE, tell_starting};
pub use demo::run as run_demo;
pub use settings::{Resolved, Role, SettingsError, resolve};

const PROGRAM: &str = "leaderless";

/// Runs a node or a coordinator until it stops.
///
/// # Errors
/// Why it did not start or stop as it should, with the exit code.
pub fn run(invocation: LeaderlessInvocation) -> Result<ExitCode, Failed> {
    let resolved = resolve(invocation, &|name| std::env::var(name).ok());
    let resolved = resolved.map_err(|error| (EXIT_USAGE, error.into()))?;
    start_logging(resolved.log, resolved.log_format);
    prepare_descriptors(1).map_err(failed)?;
    diskstore_storage::disk::report_bus_errors().map_err(failed)?;
    say(&banner(&resolved));
    let runtime = runtime().map_err(failed)?;
    let outcome = runtime.block_on(serve(resolved));
    runtime.shutdown_timeout(SHUTDOWN_TIME_MAX);
    outcome.map(ExitCode::from)
}

async fn serve(resolved: Resolved) -> Result<u8, Failed> {
    let mut signals = Signals::new().map_err(failed)?;
    let host = Host { clock: resolved.clock, ..Host::real() };
    let listener = listen(&host, &resolved.listen).await.map_err(failed)?;
    let metrics = match &resolved.metrics {
        Some(address) => Some(listen(&host, address).await.map_err(failed)?),
        None => None,
    };
    let registrar = match resolved.role {
        Role::Node(config) => {
            let started = tokio::select! {
                started = Registers::start_faster(&host, config, resolved.pace_times) => started,
                () = signals.next() => return Ok(0),
                never = tell_starting(&listener, None, START_PATIENCE) => match never {},
            };
            Registrar::Node(started.map_err(failed)?)
        }
        Role::Coordinator(file) => Registrar::Coordinator(Coordinator::begin(&host.net, &file)),
    };
    let server = RegisterServer::new(registrar.clone(), resolved.level);
    let doors = Doors::open(server, listener, metrics);
    say(&next_line(&resolved.listen));
    notify(NotifyState::Ready);
    tokio::select! {
        fault = fault_of(&registrar) => return Ok(told(PROGRAM, &fault)),
        () = signals.next() => stop_at_second(PROGRAM, signals),
    }
    notify(NotifyState::Stopping);
    let stopped = async {
        doors.close().await;
        if let Registrar::Node(node) = &registrar {
            node.stop().await;
        }
    };
    tokio::select! {
        fault = fault_of(&registrar) => Ok(told(PROGRAM, &fault)),
        () = stopped => Ok(0),
    }
}

/// Waits until a node cannot go on; a coordinator always can.
async fn fault_of(registrar: &Registrar) -> Fault {
    match registrar {
        Registrar::Node(node) => node.wait_fault().await,
        Registrar::Coordinator(_) => std::future::pending().await,
    }
}

/// The ports of one node, and what they are served by.
struct Doors {
    stop: watch::Sender<bool>,
    serving: tokio::task::JoinSet<()>,
}

impl Doors {
    fn open(server: Arc<RegisterServer>, listener: Listener, metrics: Option<Listener>) -> Doors {
        let (stop, stopping) = watch::channel(false);
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(Arc::clone(&server).run(listener, Port::Node, stopping.clone()));
        if let Some(metrics) = metrics {
            serving.spawn(server.run(metrics, Port::Metrics, stopping));
        }
        Doors { stop, serving }
    }

    /// What was taken is answered, and nothing new is taken.
    async fn close(mut self) {
        self.stop.send_replace(true);
        while self.serving.join_next().await.is_some() {}
    }
}

/// The lines that a node begins with.
fn banner(resolved: &Resolved) -> String {
    let mut lines = Vec::new();
    let layout = match &resolved.role {
        Role::Node(config) => {
            lines.push(format!("ID: {}", config.id));
            lines.push(format!("dir: {}", config.directory.display()));
            &config.layout
        }
        Role::Coordinator(file) => {
            lines.push("ID: none, a coordinator without keys".to_owned());
            &file.layout
        }
    };
    lines.push(format!("app: {}", resolved.listen));
    lines.extend(resolved.metrics.as_ref().map(|address| format!("metrics: {address}")));
    let (nodes, replicas) = (layout.nodes().len(), layout.replica_count());
    lines.push(format!("layout: {nodes} nodes, each key at {replicas} of them"));
    lines.extend(resolved.notes.iter().map(|note| format!("note: {note}")));
    lines.push(String::new());
    lines.join("\n")
}

fn next_line(listen: &Address) -> String {
    let host = if listen.is_wildcard() { "127.0.0.1" } else { &listen.host };
    let port = listen.port;
    format!(
        "next: leaderless set a hello -addr {host}:{port}, or: redis-cli -h {host} -p {port} set a hello\n"
    )
}
