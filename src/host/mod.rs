//! The disk, the network, the clock, the randomness and the threads that a node uses. Programs give it
//! the machine's own; a test gives it simulated ones, and runs a cluster of whole nodes in one process.
//!
//! Called by everything that starts a node or is part of one; calls `storage`. Durations are measured
//! by the runtime, with `tokio::time`, on the threads of a host as well; a test may pause that time.

mod net;
mod secured;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use diskstore_storage::disk::{Disk, RealDisk};
use diskstore_storage::wal::Nonces;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::tls::Tls;
pub use net::{Listener, LocalNet, Net, ReadHalf, Stream, WriteHalf};
pub use secured::{Secured, Standing};

/// What a node stands on. Clones stand on the same.
#[derive(Debug, Clone)]
pub struct Host {
    /// Where its files are.
    pub disk: Arc<dyn Disk>,
    /// Where its peers and its clients are.
    pub net: Net,
    /// What people are told about time.
    pub clock: Clock,
    /// Where ids and secrets come from.
    pub random: Random,
    /// Where threads come from.
    pub threads: Threads,
}

impl Host {
    /// This machine.
    pub fn real() -> Host {
        Host {
            disk: Arc::new(RealDisk::new()),
            net: Net::Tcp,
            clock: Clock::System,
            random: Random::System,
            threads: Threads::System,
        }
    }

    /// This one, where members show each other certificates.
    #[must_use]
    pub fn under(self, tls: Arc<Tls>) -> Host {
        Host { net: Net::Tls(tls, Box::new(self.net)), ..self }
    }
}

/// A wall clock.
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    /// The system's.
    System,
    /// The system's, so many milliseconds ahead of it, or behind.
    Off(i64),
    /// One that showed a time, since 1970, at an instant of the runtime's, and goes on with the runtime.
    Set(Duration, Instant),
}

impl Clock {
    /// What it shows: the time since 1970. Nobody may count on it but people: it may be wrong, and jump.
    pub fn wall(&self) -> Duration {
        match self {
            Clock::System => {
                SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
            }
            Clock::Off(ms) => {
                let (shown, off) = (Clock::System.wall(), Duration::from_millis(ms.unsigned_abs()));
                if *ms < 0 { shown.saturating_sub(off) } else { shown.saturating_add(off) }
            }
            Clock::Set(shown, at) => *shown + at.elapsed(),
        }
    }
}

/// Where threads come from.
#[derive(Debug, Clone)]
pub enum Threads {
    /// The system, as many as it has.
    System,
    /// The system, so many more.
    Counted(Arc<AtomicUsize>),
}

impl Threads {
    /// Starts a thread of this name. It belongs to the runtime of whoever asks for it, and sees its time.
    ///
    /// # Errors
    /// There are no more.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        if let Threads::Counted(left) = self {
            let taken =
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            taken.map_err(|_| io::Error::new(io::ErrorKind::WouldBlock, "no thread is left"))?;
        }
        let runtime = Handle::try_current().ok();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _entered = runtime.as_ref().map(Handle::enter);
            work()
        })
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

    /// What tells a log's own bytes from those that a client chose; nobody may guess it.
    pub(crate) fn nonces(&self) -> Nonces {
        let what = "invariant: Linux has random bytes once it has started";
        let random = self.clone();
        Nonces::new(move || u128::from_le_bytes(random.bytes().expect(what)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_goes_on() {
        let shown = Duration::from_secs(1_000_000_000);
        let clock = Clock::Set(shown, Instant::now());
        let before = clock.wall();
        assert!(clock.wall() >= before && before >= shown);
        assert!(Clock::System.wall() > clock.wall(), "it is later than 2001");
        let hour = Duration::from_hours(1);
        let (behind, ahead) = (Clock::Off(-3_600_000), Clock::Off(3_600_000));
        assert!(behind.wall() + hour <= Clock::System.wall());
        let now = Clock::System.wall();
        assert!(now + hour <= ahead.wall());
        assert_eq!(Clock::Off(i64::MIN).wall(), Duration::ZERO);
    }

    #[tokio::test]
    async fn threads_belong_to_the_runtime_and_have_an_end() {
        let threads = Threads::Counted(Arc::new(AtomicUsize::new(1)));
        let here = Handle::current().id();
        let thread = threads.spawn("one", move || {
            let name = std::thread::current().name().map(str::to_owned);
            (name, Handle::try_current().is_ok_and(|handle| handle.id() == here))
        });
        let (name, is_of_runtime) = thread.unwrap().join().unwrap();
        assert_eq!((name.as_deref(), is_of_runtime), (Some("one"), true));
        let refused = threads.spawn("two", || ()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    }
}
