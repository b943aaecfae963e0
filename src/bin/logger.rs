//! The `logger` program: members that never vote and record the commands of their clusters.

use std::process::ExitCode;

use diskstore::logger::{self, Flags};
use diskstore::program::{self, Failed};

/// Returns memory to the system, does not fragment under long runs, and can write heap profiles.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    program::exit("logger", run())
}

fn run() -> Result<ExitCode, Failed> {
    let flags: Flags = match diskstore_flags::parse(std::env::args_os()) {
        Ok(flags) => flags,
        Err(refusal) => return Ok(refusal.tell()),
    };
    logger::run(&flags)
}
