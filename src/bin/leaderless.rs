//! The `leaderless` program: keys without a leader. Thin: reads what was typed, then runs a node or a
//! sub-command.

use std::io;
use std::process::ExitCode;

use diskstore::cli::{LeaderlessInvocation, RegisterTask, parse_leaderless};
use diskstore::program::{self, Failed};
use diskstore::{client, leaderless_program};

/// Returns memory to the system, does not fragment under long runs, and can write heap profiles.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    program::exit("leaderless", run())
}

fn run() -> Result<ExitCode, Failed> {
    let invocation: LeaderlessInvocation = match parse_leaderless(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(refusal) => return Ok(refusal.tell()),
    };
    match &invocation.task {
        None => leaderless_program::run(invocation),
        Some(RegisterTask::Demo { data }) => leaderless_program::run_demo(data.as_deref()),
        Some(task) => {
            let done = client::run_leaderless(task, &mut io::stdout().lock());
            done.map(ExitCode::from).map_err(|error| (error.exit_code(), error.into()))
        }
    }
}
