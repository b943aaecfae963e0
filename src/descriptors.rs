//! Shares out the open files that the system allows a process, so that no connection can take the
//! file that the log needs next. The programs set how many nodes share them; code that accepts
//! connections asks [`Shares::now`] before it keeps one. Depends on nothing.
//!
//! Invariants:
//! - I1: the shares of all nodes of a process together are at most its limit.
//! - I2: every accepted connection counts against a share, and against two only while its handshake
//!   ends. Files outside these shares (the log, the data, a snapshot, connections that the node
//!   opens itself) use `own`, from which accepted connections never take.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, getrlimit};

/// Most clients of a node, whatever the system allows.
pub const CLIENT_COUNT_MAX: usize = 32_000;
/// Most connections of members to a node.
const MEMBER_CONNECTION_COUNT_MAX: usize = 1024;
/// Most connections of joiners.
const JOINER_COUNT_MAX: usize = 64;
/// Most connections that have not said yet what they are.
const HANDSHAKE_COUNT_MAX: usize = 256;
/// Most hellos at a time that no address of the log confirms, and that are looked into elsewhere.
const HELLO_CHECK_COUNT_MAX: usize = 64;
/// Connections that one of them takes at most: it is asked for at so many addresses at a time.
pub const CHECK_CONNECTION_COUNT: usize = 3;
/// Most connections that came beyond the clients' share, on their way out or of an administrator.
const LATE_COUNT_MAX: usize = 32;
/// Most files of the node's own: segments of 64 MiB each, and some.
const OWN_COUNT_MAX: usize = 2048;
/// Fewest of them: a node with a short log has about thirty.
const OWN_COUNT_MIN: usize = 64;
/// State transfers of `-hrecov`: eight at a time, each a connection and a file; and the connections of
/// four askers that are told to come again (`oplog/serve.rs`).
const TRANSFER_COUNT: usize = 20;
/// A node that is allowed fewer does not start.
pub const DESCRIPTOR_COUNT_MIN: usize = 128;
/// What a node would like to have.
pub const DESCRIPTOR_COUNT_WANTED: usize = CLIENT_COUNT_MAX + 4096;

/// How many nodes of this process share its descriptors.
static NODE_COUNT: AtomicUsize = AtomicUsize::new(1);

/// What one node may have open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Connections of clients.
    pub clients: usize,
    /// Those that came beyond.
    pub late: usize,
    /// Connections of members.
    pub members: usize,
    /// Connections of joiners.
    pub joiners: usize,
    /// Connections that have not said yet what they are. For each of them one more may be open, by
    /// which its member is asked back at the address of the log.
    pub handshakes: usize,
    /// Hellos whose members are asked back elsewhere.
    pub checks: usize,
    /// The node's files, and the other connections that it opens.
    pub own: usize,
}

/// Says that so many nodes run in this process from now on.
pub fn divide_among(nodes: usize) {
    NODE_COUNT.store(nodes.max(1), Ordering::Relaxed);
}

impl Shares {
    /// The shares of one node as the limit is now: an administrator may change that of a running
    /// process.
    pub fn now() -> Shares {
        let limit = getrlimit(Resource::Nofile).current;
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        Shares::of(limit / NODE_COUNT.load(Ordering::Relaxed))
    }

    /// The shares of a node that may have `limit` open files.
    pub fn of(limit: usize) -> Shares {
        let own = (limit / 8).clamp(OWN_COUNT_MIN, OWN_COUNT_MAX);
        let members = (limit / 8).min(MEMBER_CONNECTION_COUNT_MAX);
        let joiners = (limit / 32).min(JOINER_COUNT_MAX);
        let handshakes = (limit / 32).min(HANDSHAKE_COUNT_MAX);
        let checks = (limit / 64).min(HELLO_CHECK_COUNT_MAX);
        let late = (limit / 16).min(LATE_COUNT_MAX);
        let asked = handshakes + checks * CHECK_CONNECTION_COUNT;
        let reserve = own + members + joiners + handshakes + asked + late + TRANSFER_COUNT;
        let clients = limit.saturating_sub(reserve).min(CLIENT_COUNT_MAX);
        Shares { clients, late, members, joiners, handshakes, checks, own }
    }
}

/// Places of one kind: how many are taken is counted here, how many there are says a share.
#[derive(Debug, Clone, Default)]
pub struct Places {
    taken: Arc<AtomicUsize>,
}

/// A place that is given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    taken: Arc<AtomicUsize>,
}

impl Places {
    /// A place, if fewer than `share` are taken.
    pub fn take(&self, share: usize) -> Option<Place> {
        let place = Place { taken: self.taken.clone() };
        let before = self.taken.fetch_add(1, Ordering::AcqRel);
        (before < share).then_some(place) // one that is not given out is given back here
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_fit_within_the_limit_and_leave_the_node_its_files() {
        let limits = (DESCRIPTOR_COUNT_MIN..3000).chain([20_000, 36_096, 1 << 20, usize::MAX]);
        for limit in limits {
            let shares = Shares::of(limit);
            let Shares { clients, late, members, joiners, handshakes, checks, own } = shares;
            let asked = handshakes + checks * CHECK_CONNECTION_COUNT;
            let taken =
                clients + late + members + joiners + handshakes + asked + own + TRANSFER_COUNT;
            assert!(taken <= limit, "{limit}: {shares:?}");
            assert!(own >= OWN_COUNT_MIN && clients > 0 && late > 0, "{limit}: {shares:?}");
            assert!(
                members > 0 && joiners > 0 && handshakes > 0 && checks > 0,
                "{limit}: {shares:?}"
            );
        }
        assert_eq!(Shares::of(DESCRIPTOR_COUNT_WANTED).clients, CLIENT_COUNT_MAX);
        assert_eq!(Shares::of(0).clients, 0);
    }

    #[test]
    fn places_are_taken_up_to_the_share_and_given_back() {
        let places = Places::default();
        let held = [places.take(2).unwrap(), places.take(2).unwrap()];
        assert!(places.take(2).is_none() && places.take(1).is_none());
        drop(held);
        assert!(places.take(1).is_some());
        assert_eq!(places.taken.load(Ordering::Relaxed), 0);
    }
}
