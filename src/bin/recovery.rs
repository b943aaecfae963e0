//! The `recovery` program. Thin: reads what was typed and runs it.
//!
//! Exit codes: 0 recovered, 2 wrong usage, 130 a signal, 1 everything else.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use diskstore::profile::Profiles;
use diskstore::program::{self, Failed, Signals};
use diskstore::recovery::{self, Flags};

/// How long a stop may take that a signal asked for.
const STOP_TIME_MAX: Duration = Duration::from_mins(1);

/// As in the node.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let flags: Flags = match diskstore_flags::parse(std::env::args_os()) {
        Ok(flags) => flags,
        Err(refusal) => return refusal.tell(),
    };
    program::log_warnings();
    program::exit("recovery", recover(&flags))
}

fn recover(flags: &Flags) -> Result<ExitCode, Failed> {
    let profiles = Profiles::start(flags.cpuprofile.as_deref(), flags.memprofile.as_deref())
        .map_err(program::failed)?;
    diskstore_storage::disk::report_bus_errors().map_err(program::failed)?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = stop.clone();
    let watching = std::thread::Builder::new().name("signals".into());
    watching.spawn(move || wait_for_signal(&stopping)).map_err(program::failed)?;
    let recovered = recovery::run(flags, &stop, &mut io::stdout().lock());
    profiles.finish().map_err(program::failed)?;
    recovered.map_err(|error| (error.exit_code(), error.into()))?;
    Ok(ExitCode::SUCCESS)
}

/// Raises the flag at a signal, and ends the process where nobody has looked at that for long: what
/// it prints may wait for whoever reads it.
fn wait_for_signal(stop: &AtomicBool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let waiting = async {
        let mut signals = Signals::new()?;
        signals.next().await;
        stop.store(true, Ordering::Relaxed);
        drop(tokio::time::timeout(STOP_TIME_MAX, signals.next()).await);
        io::Result::Ok(())
    };
    match runtime.and_then(|runtime| runtime.block_on(waiting)) {
        Ok(()) => program::interrupted(),
        Err(error) => tracing::warn!(%error, "signals end this program without a word"),
    }
}
