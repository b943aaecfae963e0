//! Times after which a leader, or another member, counts as gone.
//!
//! One number says it: nobody campaigns before the leader has been silent for the *election time*.
//! openraft waits for the lease that a member granted its leader, and then for a time that is drawn
//! between the half of the lease and the whole. So the lease is two thirds of the election time,
//! and campaigns begin after one to one and a third election times.

use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, ConfigError, SnapshotPolicy};

/// For so long after a majority's acknowledgement a leader takes its lease for granted: half of the
/// shortest lease that any member may grant, whatever it was started with. So two members hold a
/// lease only if a voter's clock runs more than twice as fast as the leader's.
pub(super) const LEASE_SURE: Duration = Duration::from_millis(ELECTION_MS_MIN / 3);
/// The shortest election time, in ms.
pub const ELECTION_MS_MIN: u64 = 1200;
/// Entries that one append frame holds at most.
pub(super) const APPEND_ENTRIES_MAX: u64 = 1024;
/// A member that answered within this time is alive even if heartbeats come more often.
const ALIVE_MIN: Duration = Duration::from_secs(1);

/// How often a leader is heard, and how long it may be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    heartbeat_ms: u64,
    election_ms: u64,
}

impl Timing {
    /// Of the time between two heartbeats and the election time, in ms. The latter is
    /// [`ELECTION_MS_MIN`] at least, and several times the former.
    pub const fn new(heartbeat_ms: u64, election_ms: u64) -> Timing {
        debug_assert!(election_ms >= ELECTION_MS_MIN && heartbeat_ms < election_ms / 3);
        Timing { heartbeat_ms, election_ms }
    }

    /// From one heartbeat of a leader to the next.
    pub const fn heartbeat(self) -> Duration {
        Duration::from_millis(self.heartbeat_ms)
    }

    /// Nobody campaigns before the leader has been silent for this time: until then it leads.
    pub const fn election(self) -> Duration {
        Duration::from_millis(self.election_ms)
    }

    /// The lease that a member grants its leader: it votes for nobody else meanwhile.
    pub const fn lease(self) -> Duration {
        Duration::from_millis(2 * self.election_ms / 3)
    }

    /// Whoever was not heard for this time is gone: every voter that heard no leader campaigns by then,
    /// but for a fifth of a heartbeat.
    pub const fn silence(self) -> Duration {
        Duration::from_millis(4 * self.election_ms / 3)
    }

    /// A member that was heard within this time is taken to be alive: a few heartbeats.
    pub fn alive(self) -> Duration {
        (4 * self.heartbeat()).max(ALIVE_MIN)
    }

    /// How long openraft waits for a vote.
    pub(super) const fn vote(self) -> Duration {
        Duration::from_millis(self.drawn_ms().0)
    }

    /// What openraft draws from, in ms: after the lease.
    pub(super) const fn drawn_ms(self) -> (u64, u64) {
        (self.election_ms.div_ceil(3), 2 * self.election_ms / 3)
    }

    /// What openraft is told.
    pub(super) fn config(self) -> Result<Arc<Config>, ConfigError> {
        let (election_timeout_min, election_timeout_max) = self.drawn_ms(); // the latter is the lease
        let config = Config {
            cluster_name: "diskstore".into(),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min,
            election_timeout_max,
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            max_payload_entries: APPEND_ENTRIES_MAX,
            install_snapshot_timeout: 10_000,
            enable_leader_restore: Some(false),
            enable_pre_vote: Some(true),
            broadcast_submitted_on_append: Some(true),
            enable_elect: false,
            ..Config::default()
        };
        Ok(Arc::new(config.validate()?))
    }
}

/// As a node has them that nobody told otherwise, for tests.
#[cfg(test)]
impl Default for Timing {
    fn default() -> Timing {
        Timing::new(200, 1500)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What leases rest on: nobody votes for another while a leader trusts its lease, and nobody
    /// campaigns before the election time, whatever members were started with.
    #[test]
    fn a_trusted_lease_ends_long_before_any_that_was_granted() {
        for election_ms in [ELECTION_MS_MIN, 1201, 1202, 1500, 60_000] {
            let timing = Timing::new(50, election_ms);
            assert!(timing.lease() >= 2 * LEASE_SURE, "{timing:?}");
            let (least, most) = timing.drawn_ms();
            assert!(least < most, "{timing:?}");
            let first = timing.lease() + Duration::from_millis(least);
            assert!(first >= timing.election(), "{first:?} {timing:?}");
            let last = timing.lease() + Duration::from_millis(most);
            assert!(last <= timing.silence(), "{last:?} {timing:?}");
        }
    }
}
