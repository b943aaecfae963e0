//! Counts the requests of this node's clients since its start, for INFO and the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use super::detect::Protocol;
use super::resp::{Spec, TABLE};
use crate::command::{Body, CommandResult, FailureClass};
use crate::metrics::Times;

/// Counts that only grow.
#[derive(Debug)]
pub(crate) struct Counters {
    /// As many as [`TABLE`] has commands, in its order.
    commands: Vec<Calls>,
    hits: AtomicU64,
    misses: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    /// In the order of [`Protocol::SERVED`].
    served: [Operations; Protocol::SERVED.len()],
    /// In the order of [`FailureClass::ALL`].
    failures: [AtomicU64; FailureClass::ALL.len()],
    replies: Times,
}

/// How long it took until the clients of one protocol had their results.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    /// Of commands that only read.
    pub(crate) reads: Times,
    /// Of commands that became entries.
    pub(crate) writes: Times,
}

/// How often one command was asked for.
#[derive(Debug, Default)]
struct Calls {
    calls: AtomicU64,
    rejected: AtomicU64,
}

/// The counts at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    /// Name, calls and refused calls of each command that was asked for.
    pub(crate) commands: Vec<CommandCount>,
    /// Keys that were read and held a value.
    pub(crate) hits: u64,
    /// Keys that were read and held none.
    pub(crate) misses: u64,
    /// Bytes that clients sent.
    pub(crate) received_bytes: u64,
    /// Bytes that clients were sent.
    pub(crate) sent_bytes: u64,
}

/// One command's counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommandCount {
    /// Its name.
    pub(crate) name: &'static str,
    /// How often it was executed, or queued in a transaction.
    pub(crate) calls: u64,
    /// How often it was refused before that.
    pub(crate) rejected: u64,
}

impl Default for Counters {
    fn default() -> Counters {
        let mut commands = Vec::new();
        commands.resize_with(TABLE.len(), Calls::default);
        let zero = AtomicU64::default;
        let (hits, misses, received_bytes, sent_bytes) = (zero(), zero(), zero(), zero());
        Counters {
            commands,
            hits,
            misses,
            received_bytes,
            sent_bytes,
            served: Default::default(),
            failures: Default::default(),
            replies: Times::default(),
        }
    }
}

impl Counters {
    /// A command was asked for; `None` is no command.
    pub(crate) fn called(&self, command: Option<&Spec>) {
        self.add(command, |calls| &calls.calls);
    }

    /// A command was asked for in a way that cannot be executed.
    pub(crate) fn rejected(&self, command: Option<&Spec>) {
        self.add(command, |calls| &calls.rejected);
    }

    fn add(&self, command: Option<&Spec>, count: impl Fn(&Calls) -> &AtomicU64) {
        if let Some(calls) = command.and_then(|spec| self.commands.get(spec.place)) {
            count(calls).fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How long the operations of a protocol took.
    pub(crate) fn served(&self, protocol: Protocol) -> &Operations {
        let place = Protocol::SERVED.iter().position(|served| *served == protocol);
        // Requests come in no other protocol.
        place.and_then(|place| self.served.get(place)).unwrap_or(&self.served[0])
    }

    /// How long it took to give replies to the socket that were there.
    pub(crate) fn replies(&self) -> &Times {
        &self.replies
    }

    /// Operations that failed for reasons of this class.
    pub(crate) fn failures(&self, class: FailureClass) -> u64 {
        self.failed_as(class).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    fn failed(&self, class: FailureClass) {
        if let Some(count) = self.failed_as(class) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn failed_as(&self, class: FailureClass) -> Option<&AtomicU64> {
        let place = FailureClass::ALL.iter().position(|known| *known == class)?;
        self.failures.get(place)
    }

    /// Counts what a command came to: the keys that it read, or why it failed.
    pub(crate) fn looked_up(&self, result: &CommandResult) {
        let (mut hits, mut misses) = (0, 0);
        for outcome in result.iter().flat_map(|reply| &reply.outcomes) {
            match &outcome.body {
                Body::Value(Some(_)) | Body::Measured(_) => hits += 1,
                Body::Value(None) => misses += 1,
                Body::Refused(refusal) => self.failed(refusal.class()),
                Body::Empty | Body::Integer(_) => {}
            }
        }
        if let Err(failure) = result {
            self.failed(failure.class());
        }
        for (count, more) in [(&self.hits, hits), (&self.misses, misses)] {
            if more > 0 {
                count.fetch_add(more, Ordering::Relaxed);
            }
        }
    }

    /// Bytes came from a client.
    pub(crate) fn received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes went to a client.
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// All counts.
    pub(crate) fn now(&self) -> Counts {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let commands = TABLE.iter().zip(&self.commands).map(|(spec, calls)| CommandCount {
            name: spec.name,
            calls: get(&calls.calls),
            rejected: get(&calls.rejected),
        });
        Counts {
            commands: commands.filter(|count| count.calls + count.rejected > 0).collect(),
            hits: get(&self.hits),
            misses: get(&self.misses),
            received_bytes: get(&self.received_bytes),
            sent_bytes: get(&self.sent_bytes),
        }
    }
}

impl Counts {
    /// How many commands were executed or queued.
    pub(crate) fn call_count(&self) -> u64 {
        self.commands.iter().map(|count| count.calls).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::super::resp::lookup;
    use super::*;
    use crate::command::{Failure, Outcome, Refusal, Reply};

    #[test]
    fn what_was_asked_is_counted_by_its_name() {
        let counters = Counters::default();
        counters.called(lookup(b"get"));
        counters.called(lookup(b"get"));
        counters.rejected(lookup(b"set"));
        counters.called(lookup(b"nonsense"));
        let of = |body| Outcome { version: 1, changed: false, existed: true, body };
        let found = [Body::Value(Some(Bytes::new())), Body::Measured(3), Body::Value(None)];
        let outcomes = found.into_iter().chain([Body::Empty]).map(of).collect();
        counters.looked_up(&Ok(Reply { index: 0, outcomes, ..Reply::default() }));
        counters.looked_up(&Err(Failure::NoSpace));
        let refused = of(Body::Refused(Refusal::Overflow));
        counters.looked_up(&Ok(Reply {
            index: 0,
            outcomes: [refused].into_iter().collect(),
            ..Reply::default()
        }));
        let failed = [FailureClass::NoSpace, FailureClass::Wrong, FailureClass::Busy];
        assert_eq!(failed.map(|class| counters.failures(class)), [1, 1, 0]);
        counters.served(Protocol::Http).reads.record(Duration::from_micros(3));
        let count = |protocol| counters.served(protocol).reads.count();
        assert_eq!(Protocol::SERVED.map(count), [0, 1, 0, 0, 0]);
        counters.received(5);
        counters.sent(7);
        let counts = counters.now();
        let count = |name, calls, rejected| CommandCount { name, calls, rejected };
        assert_eq!(counts.commands, [count("get", 2, 0), count("set", 0, 1)]);
        assert_eq!((counts.hits, counts.misses, counts.call_count()), (2, 1, 2));
        assert_eq!((counts.received_bytes, counts.sent_bytes), (5, 7));
    }
}
