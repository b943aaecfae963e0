//! The `recovery` program. Thin: reads what was typed and runs it.
//!
//! Exit codes: 0 recovered, 2 wrong usage, 130 a signal, 1 everything else.
#![expect(clippy::print_stderr, reason = "a program talks to its user")]

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use diskstore::fault::chain;
use diskstore::profile::Profiles;
use diskstore::program;
use diskstore::recovery::{self, Flags};
use tokio::signal::unix::{SignalKind, signal};

/// As in the node.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let flags: Flags = match diskstore_flags::parse(std::env::args_os()) {
        Ok(flags) => flags,
        Err(refusal) => return refusal.tell(),
    };
    program::log_warnings();
    let outcome = recover(&flags);
    outcome.unwrap_or_else(|(exit_code, reason)| {
        eprintln!("recovery: {reason}");
        ExitCode::from(exit_code)
    })
}

fn recover(flags: &Flags) -> Result<ExitCode, (u8, String)> {
    let failed = |error: &dyn std::error::Error| (1, chain(error));
    let profiles = Profiles::start(flags.cpuprofile.as_deref(), flags.memprofile.as_deref())
        .map_err(|error| failed(&error))?;
    diskstore_storage::disk::report_bus_errors().map_err(|error| failed(&error))?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = stop.clone();
    let watching = std::thread::Builder::new().name("signals".into());
    watching.spawn(move || wait_for_signal(&stopping)).map_err(|error| failed(&error))?;
    let recovered = recovery::run(flags, &stop, &mut io::stdout().lock());
    profiles.finish().map_err(|error| failed(&error))?;
    recovered.map_err(|error| (error.exit_code(), chain(&error)))?;
    Ok(ExitCode::SUCCESS)
}

/// Raises the flag at SIGINT or SIGTERM.
fn wait_for_signal(stop: &AtomicBool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let waiting = async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        io::Result::Ok(())
    };
    match runtime.and_then(|runtime| runtime.block_on(waiting)) {
        Ok(()) => stop.store(true, Ordering::Relaxed),
        Err(error) => tracing::warn!(%error, "signals end this program without a word"),
    }
}
