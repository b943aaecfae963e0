//! Decides when operations start. All times are nanoseconds since the run began.
//!
//! - I1: in an open loop an operation's start follows from its number alone, so that a server that
//!   stalls moves no start: waiting counts as latency.

use super::Pace;

/// The times of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    pub(super) pace: Pace,
    /// What starts earlier is not measured.
    pub(super) begin: u64,
    /// Nothing starts from here on.
    pub(super) end: u64,
    /// Connections of all threads.
    pub(super) client_count: u64,
}

impl Schedule {
    /// True if an operation that starts then counts.
    pub(super) fn measures(&self, start: u64) -> bool {
        (self.begin..self.end).contains(&start)
    }

    /// When operation `number` of the connection `client` is to start, in an open loop.
    pub(super) fn start(&self, client: u64, number: u64) -> u64 {
        let Pace::Open { per_second } = self.pace else { return 0 };
        let before = u128::from(number) * u128::from(self.client_count) + u128::from(client);
        u64::try_from(before * 1_000_000_000 / u128::from(per_second)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_loop_spreads_its_starts_evenly_over_the_connections() {
        let pace = Pace::Open { per_second: 1000 };
        let schedule = Schedule { pace, begin: 0, end: u64::MAX, client_count: 3 };
        let starts: Vec<u64> = (0..3).map(|client| schedule.start(client, 0)).collect();
        assert_eq!(starts, [0, 1_000_000, 2_000_000]);
        assert_eq!(schedule.start(0, 1), 3_000_000);
        // A day at a high rate comes out exactly.
        let pace = Pace::Open { per_second: 3_000_000 };
        let schedule = Schedule { pace, begin: 0, end: u64::MAX, client_count: 3 };
        assert_eq!(schedule.start(0, 86_400_000_000), 86_400_000_000_000);
    }
}
