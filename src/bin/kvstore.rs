//! The `kvstore` program: a node whose log is applied to keys in memory.

use std::process::ExitCode;

use diskstore::cli;
use diskstore::config::{Config, MachineKind};
use diskstore::program::{self, EXIT_USAGE, Failed};

/// Returns memory to the system, does not fragment under long runs, and can write heap profiles.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    program::exit("kvstore", run())
}

fn run() -> Result<ExitCode, Failed> {
    let invocation = match cli::parse_kvstore(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(refusal) => return Ok(refusal.tell()),
    };
    let file = invocation.config.clone();
    let config = Config::load(MachineKind::Memory, invocation.all_settings(), file.as_deref());
    program::run_node(config.map_err(|error| (EXIT_USAGE, error.into()))?)
}
