//! The `client` program. Thin: reads what was typed and runs it.
//!
//! Exit codes: 0 done, 1 a command or the whole load failed, 2 wrong usage, 130 and 143 a signal.

use std::io;
use std::process::ExitCode;

use diskstore::client::{self, ClientFlags};
use diskstore::profile::Profiles;
use diskstore::program::{self, Failed};

/// As in the node.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let flags: ClientFlags = match diskstore_flags::parse(std::env::args_os()) {
        Ok(flags) => flags,
        Err(refusal) => return refusal.tell(),
    };
    program::exit("client", run(&flags))
}

fn run(flags: &ClientFlags) -> Result<ExitCode, Failed> {
    let profiles = Profiles::start(flags.cpuprofile.as_deref(), flags.memprofile.as_deref())
        .map_err(program::failed)?;
    profiles.finish_at_signals().map_err(program::failed)?;
    let done = client::run_client(flags, &mut io::stdout().lock());
    profiles.finish().map_err(program::failed)?;
    done.map(|()| ExitCode::SUCCESS).map_err(|error| (error.exit_code(), error.into()))
}
