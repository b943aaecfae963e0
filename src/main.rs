//! The `diskstore` program. Thin: reads what was typed, then runs a node or a sub-command.
#![expect(clippy::print_stdout, reason = "a program talks to its user")]

use std::io;
use std::process::ExitCode;

use diskstore::config::Config;
use diskstore::program::{self, EXIT_USAGE, Failed};
use diskstore::{cli, client};

/// Returns memory to the system, does not fragment under long runs, and can write heap profiles.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    program::exit(
        "diskstore",
        client::follow_parent().map_err(program::failed).and_then(|()| run()),
    )
}

fn run() -> Result<ExitCode, Failed> {
    let invocation = match cli::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(refusal) if refusal.exit_code == 0 => {
            print!("{}", refusal.text);
            return Ok(ExitCode::SUCCESS);
        }
        Err(refusal) => {
            program::tell(&refusal.text);
            return Ok(ExitCode::from(refusal.exit_code));
        }
    };
    if let Some(task) = &invocation.task {
        let done = client::run(task, &mut io::stdout().lock());
        return done.map(|()| ExitCode::SUCCESS).map_err(|error| (error.exit_code(), error.into()));
    }
    let config = Config::load(&invocation).map_err(|error| (EXIT_USAGE, error.into()))?;
    program::run_node(config)
}
