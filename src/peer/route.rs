//! The address of a member: the one in the log, or one that was learned since.
//!
//! An address is not an identity: members may move, and the log has the new address only once a
//! leader has written it. Called by `caller`, `channel`, `verify` and `raft`. Invariant:
//!
//! - I1: a learned address is tried before the one in the log, and the one in the log if that
//!   fails, because the learned one may be old. It is forgotten once the log has another address
//!   than at the time when it was learned.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::member::MEMBER_COUNT_MAX;

/// What this member's own log, and its leader, say about the members.
pub(crate) trait Roster: std::fmt::Debug + Send + Sync {
    /// Calls `look` once, with the address that the log has for a member.
    fn look_up(&self, id: u64, look: &mut dyn FnMut(Option<&str>));

    /// The name that the log has for a member.
    fn name(&self, id: u64) -> Option<String>;

    /// All members that the log names, with their addresses there.
    fn members(&self) -> Vec<(u64, String)>;

    /// Whether this member leads, or hears a leader that is not `id`.
    fn another_leads(&self, id: u64) -> bool;
}

/// Members that were found at other addresses than the log has for them.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// Set once the log is open.
    roster: OnceLock<Box<dyn Roster>>,
    learned: Mutex<BTreeMap<u64, Learned>>,
}

/// An address at which a member was found.
#[derive(Debug)]
struct Learned {
    address: String,
    /// The address that the log had for it then (I1).
    instead_of: String,
}

impl Book {
    /// Uses this roster for the log from now on.
    pub(crate) fn follow(&self, roster: impl Roster + 'static) {
        drop(self.roster.set(Box::new(roster))); // it is called once
    }

    /// The address that the log has for a member.
    pub(crate) fn logged(&self, id: u64) -> Option<String> {
        self.with_logged(id, |logged| logged.map(str::to_owned))
    }

    fn with_logged<T>(&self, id: u64, look: impl FnOnce(Option<&str>) -> T) -> T {
        let Some(roster) = self.roster.get() else { return look(None) };
        let (mut look, mut seen) = (Some(look), None);
        roster.look_up(id, &mut |address| seen = look.take().map(|look| look(address)));
        seen.expect("invariant: a roster calls once")
    }

    /// The name that the log has for a member.
    pub(crate) fn name(&self, id: u64) -> Option<String> {
        self.roster.get()?.name(id)
    }

    /// All members that the log names, with their addresses there.
    pub(crate) fn members(&self) -> Vec<(u64, String)> {
        self.roster.get().map_or_else(Vec::new, |roster| roster.members())
    }

    /// Whether this member leads, or hears a leader that is not `id`.
    pub(crate) fn another_leads(&self, id: u64) -> bool {
        self.roster.get().is_some_and(|roster| roster.another_leads(id))
    }

    /// The address at which a member was found, if that is another one than the log has.
    pub(crate) fn learned(&self, id: u64) -> Option<String> {
        self.with_learned(id, |learned| learned.map(str::to_owned))
    }

    fn with_learned<T>(&self, id: u64, look: impl FnOnce(Option<&str>) -> T) -> T {
        self.with_logged(id, |logged| {
            let learned = self.learned.lock();
            let valid = |learned: &&Learned| Some(learned.instead_of.as_str()) == logged;
            look(learned.get(&id).filter(valid).map(|learned| learned.address.as_str()))
        })
    }

    /// A member that the log has at one address was found at another.
    pub(crate) fn learn(&self, id: u64, address: String, instead_of: String) {
        if self.with_learned(id, |learned| learned == Some(address.as_str())) {
            return;
        }
        let mut learned = self.learned.lock();
        if learned.len() < MEMBER_COUNT_MAX || learned.contains_key(&id) {
            tracing::info!(member = format!("{id:016x}"), address, "a member was found elsewhere");
            learned.insert(id, Learned { address, instead_of });
        }
    }

    /// A member was found where the log has it.
    pub(crate) fn forget(&self, id: u64) {
        self.learned.lock().remove(&id);
    }
}

/// The way to one member, or to any process that listens at an address.
#[derive(Debug)]
pub struct Route {
    to: u64,
    given: String,
    /// The member's name, if it is known.
    name: Option<String>,
    book: Option<Arc<Book>>,
    failure_count: AtomicUsize,
}

impl Route {
    /// To any process that listens at an address.
    pub fn to_address(address: String) -> Route {
        Route::to_member(0, address, None)
    }

    /// To a member whose record has this address, unless a book knows better.
    pub(crate) fn to_member(to: u64, given: String, book: Option<Arc<Book>>) -> Route {
        Route { to, given, name: None, book, failure_count: AtomicUsize::new(0) }
    }

    /// The route to a member of this name: whoever shows a certificate of another is not it.
    #[must_use]
    pub fn named(mut self, name: Option<String>) -> Route {
        self.name = name;
        self
    }

    /// The name of the member, if it is known.
    pub(crate) fn name(&self) -> Option<String> {
        let logged = || self.book.as_ref()?.name(self.to);
        self.name.clone().or_else(logged)
    }

    /// The member; 0 for any process that listens there.
    pub(crate) fn to(&self) -> u64 {
        self.to
    }

    /// The address that the member had when this route was made.
    pub(crate) fn given(&self) -> &str {
        &self.given
    }

    /// The address to dial next (I1).
    pub(crate) fn address(&self) -> String {
        let learned = self.book.as_ref().and_then(|book| book.learned(self.to));
        let recorded = self.with_record(str::to_owned);
        let Some(learned) = learned.filter(|learned| *learned != recorded) else { return recorded };
        let is_first = self.failure_count.load(Ordering::Relaxed).is_multiple_of(2);
        if is_first { learned } else { recorded }
    }

    /// True if the member can still be found at an address that was dialled before.
    pub(crate) fn leads_to(&self, address: &str) -> bool {
        let is_learned =
            |book: &Arc<Book>| book.with_learned(self.to, |learned| learned == Some(address));
        self.is_recorded(address) || self.book.as_ref().is_some_and(is_learned)
    }

    /// True if this is the address in the member's own record, and not one that was only found or
    /// given.
    pub(crate) fn is_recorded(&self, address: &str) -> bool {
        self.with_record(|recorded| recorded == address)
    }

    /// The address in the log or, if the log does not know the member, the one that was given.
    fn with_record<T>(&self, look: impl FnOnce(&str) -> T) -> T {
        match &self.book {
            Some(book) => {
                book.with_logged(self.to, |logged| look(logged.unwrap_or(self.given.as_str())))
            }
            None => look(self.given.as_str()),
        }
    }

    /// Notes that [`Route::address`] led nowhere, so that the next address is tried.
    pub(crate) fn note_failure(&self) {
        self.failure_count.fetch_add(1, Ordering::Relaxed);
    }
}
