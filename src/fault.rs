//! Stops the whole node when a part of it has failed, such as its disk. The first fault counts.

use std::sync::Arc;

use tokio::sync::watch;

/// Exit code of a node that stops because of an error.
pub const EXIT_FAILURE: u8 = 1;
/// Exit code of a member whose disk lost acknowledged data: it must be replaced, not restarted.
pub const EXIT_DATA_LOST: u8 = 3;
/// Exit code of a member that was removed from its cluster.
pub const EXIT_REMOVED: u8 = 4;

/// What to do about a member whose data is lost or damaged. Its directory may be the only full copy
/// that is left, so nothing is said of removing it.
pub const REPLACE_WITH_CARE: &str = "leave its directory as it is until the others are known to be \
     whole (`diskstore status` at one of them says that a majority answers): it may be the only full \
     copy. Then replace this member: give its -id an empty -data directory and start it with -join \
     ADDRESS, naming a running member";

/// Why the node stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The exit code of the process.
    pub exit_code: u8,
    /// What happened and what to do.
    pub reason: String,
}

/// Where faults are reported. Clones share one place.
#[derive(Debug, Clone)]
pub struct Faults {
    sender: Arc<watch::Sender<Option<Fault>>>,
}

impl Default for Faults {
    fn default() -> Self {
        Self::new()
    }
}

impl Faults {
    /// A place without a fault.
    pub fn new() -> Faults {
        Faults { sender: Arc::new(watch::Sender::new(None)) }
    }

    /// Reports a fault; the node exits with code 1. Later ones are dropped, the first is the cause.
    pub fn report(&self, reason: impl Into<String>) {
        self.report_with(EXIT_FAILURE, reason.into());
    }

    /// Reports a fault with its own exit code.
    pub fn report_with(&self, exit_code: u8, reason: String) {
        self.sender.send_if_modified(|current| {
            if current.is_some() {
                return false;
            }
            tracing::error!(reason, "the node cannot go on");
            *current = Some(Fault { exit_code, reason });
            true
        });
    }

    /// The fault, if there is one.
    pub fn current(&self) -> Option<Fault> {
        self.sender.borrow().clone()
    }

    /// Waits for a fault.
    pub async fn wait(&self) -> Fault {
        let mut receiver = self.sender.subscribe();
        loop {
            if let Some(fault) = receiver.borrow_and_update().clone() {
                return fault;
            }
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// An error with its causes, outermost first, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
