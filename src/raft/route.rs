//! Where a member is to be found: as the log has it, or where it was found since.
//!
//! Called by `network`, `channel` and `verify`. An address is not an identity: members may move, and
//! the log says so only once a leader has written it there. Invariant:
//!
//! - I1: an address that was learned is tried before the log's, and the log's when it fails: what was
//!   learned may be old.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;

use super::RaftHandle;
use super::types::MEMBER_COUNT_MAX;

/// Addresses at which members were found that the log has elsewhere.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// Knows the membership of the log, once it runs.
    raft: OnceLock<RaftHandle>,
    learned: Mutex<BTreeMap<u64, String>>,
}

impl Book {
    /// From now on the log is what this has.
    pub(super) fn follow(&self, raft: RaftHandle) {
        drop(self.raft.set(raft)); // it is called once
    }

    /// The address of a member as the log has it.
    pub(super) fn logged(&self, id: u64) -> Option<String> {
        let metrics = self.raft.get()?.metrics();
        let metrics = metrics.borrow_watched();
        let member = metrics.membership_config.membership().get_node(&id)?;
        Some(member.raft_address.clone())
    }

    /// Where a member was found, if that is not where the log has it.
    pub(super) fn learned(&self, id: u64) -> Option<String> {
        self.learned.lock().get(&id).cloned()
    }

    /// A member of the log was found at another address.
    pub(super) fn learn(&self, id: u64, address: String) {
        let mut learned = self.learned.lock();
        if learned.get(&id) == Some(&address) {
            return;
        }
        if learned.len() < MEMBER_COUNT_MAX || learned.contains_key(&id) {
            tracing::info!(member = format!("{id:016x}"), address, "a member was found elsewhere");
            learned.insert(id, address);
        }
    }

    /// A member was found where the log has it.
    pub(super) fn forget(&self, id: u64) {
        self.learned.lock().remove(&id);
    }
}

/// The way to one member, or to whoever listens at an address.
#[derive(Debug)]
pub struct Route {
    to: u64,
    given: String,
    book: Option<Arc<Book>>,
    failure_count: AtomicUsize,
}

impl Route {
    /// To whoever listens at an address.
    pub fn to_address(address: String) -> Route {
        Route::to_member(0, address, None)
    }

    /// To a member whose record has this address, unless a book knows better.
    pub(super) fn to_member(to: u64, given: String, book: Option<Arc<Book>>) -> Route {
        Route { to, given, book, failure_count: AtomicUsize::new(0) }
    }

    /// The member; 0 for whoever listens there.
    pub(super) fn to(&self) -> u64 {
        self.to
    }

    /// The address that it had when the way was looked up.
    pub(super) fn given(&self) -> &str {
        &self.given
    }

    /// Where to dial next (I1).
    pub(super) fn address(&self) -> String {
        let Some(book) = &self.book else { return self.given.clone() };
        let mut addresses = Vec::with_capacity(3);
        for address in [book.learned(self.to), book.logged(self.to), Some(self.given.clone())] {
            addresses.extend(address.filter(|address| !addresses.contains(address)));
        }
        let nth = self.failure_count.load(Ordering::Relaxed) % addresses.len().max(1);
        addresses.into_iter().nth(nth).unwrap_or_default()
    }

    /// The address of [`Route::address`] led nowhere: the next one is tried.
    pub(super) fn note_failure(&self) {
        self.failure_count.fetch_add(1, Ordering::Relaxed);
    }
}
