//! The `diskstore` program. Thin: reads what was typed, then runs a node or a sub-command.

use std::io;
use std::process::ExitCode;

use diskstore::config::{Config, MachineKind};
use diskstore::program::{self, EXIT_USAGE, Failed};
use diskstore::{backup, cli, client};

/// Returns memory to the system, does not fragment under long runs, and can write heap profiles.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let followed = client::follow_parent().map_err(program::failed);
    program::exit("diskstore", followed.and_then(|()| run()))
}

fn run() -> Result<ExitCode, Failed> {
    let cli::Invocation { settings, config, task } = match cli::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(refusal) => return Ok(refusal.tell()),
    };
    if let Some(done) = task.as_ref().and_then(|task| backup::run(task, &mut io::stdout().lock())) {
        let failed = |error: backup::ArchiveError| (error.exit_code(), error.into());
        return done.map(|()| ExitCode::SUCCESS).map_err(failed);
    }
    if let Some(task) = &task {
        let done = client::run(task, &mut io::stdout().lock());
        return done.map(ExitCode::from).map_err(|error| (error.exit_code(), error.into()));
    }
    let config = Config::load(MachineKind::Slots, settings, config.as_deref());
    program::run_node(config.map_err(|error| (EXIT_USAGE, error.into()))?)
}
