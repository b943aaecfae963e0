//! The disk, the network and the randomness that a node uses. Programs give it the machine's own; a
//! test gives it simulated ones, and runs a cluster of whole nodes in one process.
//!
//! Called by everything that starts a node or is part of one; calls `storage`. Time is tokio's,
//! which a test may pause.

mod net;

use std::io;
use std::sync::Arc;

use diskstore_storage::disk::{Disk, RealDisk};

pub use net::{Listener, LocalNet, Net, ReadHalf, Stream, WriteHalf};

/// What a node stands on. Clones stand on the same.
#[derive(Debug, Clone)]
pub struct Host {
    /// Where its files are.
    pub disk: Arc<dyn Disk>,
    /// Where its peers and its clients are.
    pub net: Net,
    /// Where ids and secrets come from.
    pub random: Random,
}

impl Host {
    /// This machine.
    pub fn real() -> Host {
        Host { disk: Arc::new(RealDisk::new()), net: Net::Tcp, random: Random::System }
    }
}

/// Where ids and secrets come from.
#[derive(Debug, Clone)]
pub enum Random {
    /// The system's source, which nobody can guess.
    System,
}

impl Random {
    /// So many bytes that nobody can guess.
    ///
    /// # Errors
    /// The system has none.
    pub fn bytes<const BYTES: usize>(&self) -> io::Result<[u8; BYTES]> {
        let mut bytes = [0; BYTES];
        match self {
            Random::System => getrandom::fill(&mut bytes).map_err(io::Error::other)?,
        }
        Ok(bytes)
    }
}
