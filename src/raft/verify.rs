//! Whether a hello comes from the member that it names.
//!
//! Called by `peers`; calls `caller` and `route`. Anybody who reaches a port can write a hello, so what
//! it says is believed only when the process that listens where that member is to be found says that
//! the hello is its own. Invariants:
//!
//! - I1: the address that this member's own log has for the member counts first. Where that member
//!   answers as another process, the hello comes from a copy, and is refused by name (F26).
//! - I2: the address that a hello names is believed only where the member does not answer at the one
//!   that is known: it moved, or this member has not heard of it yet. What such a hello says can
//!   have a connection refused, and nothing more: it ends no node (C16).
//! - I3: questions have a bound in time (`caller`) and in number, also for each member: claims to be one
//!   of them do not take all places of the others.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;

use super::caller::{Asked, Caller, is_own_hello};
use super::route::Book;
use super::wire::{Greeting, Hello};
use crate::descriptors::{Place, Places, Shares};

/// Most hellos in the name of one member that are looked into at a time; of all members that are
/// not known together.
const CHECK_COUNT_MAX: usize = 16;

/// Where a hello that is a member's own comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The address that the own log has.
    Logged,
    /// Another one (I2).
    Elsewhere,
}

/// Asks back.
#[derive(Debug)]
pub(super) struct Verifier {
    caller: Arc<Caller>,
    book: Arc<Book>,
    /// Checks under way, by the member that they are about; 0 stands for all unknown ones (I3).
    running: Mutex<BTreeMap<u64, usize>>,
    checks: Places,
}

/// Gives a place back when its check is over.
struct Running<'a> {
    verifier: &'a Verifier,
    id: u64,
    _place: Place,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut running = self.verifier.running.lock();
        if let Some(count) = running.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.id);
            }
        }
    }
}

impl Verifier {
    pub(super) fn new(caller: Arc<Caller>, book: Arc<Book>) -> Verifier {
        Verifier { caller, book, running: Mutex::default(), checks: Places::default() }
    }

    fn place_for(&self, id: u64) -> Option<Running<'_>> {
        let place = self.checks.take(Shares::now().checks)?;
        let mut running = self.running.lock();
        let count = running.entry(id).or_default();
        if *count >= CHECK_COUNT_MAX {
            return None;
        }
        *count += 1;
        Some(Running { verifier: self, id, _place: place })
    }

    /// Where a hello of this cluster comes from.
    ///
    /// # Errors
    /// What it is answered with if it is not what it seems to be.
    pub(super) async fn verify(&self, hello: &Hello, from: IpAddr) -> Result<Origin, Greeting> {
        let logged = self.book.logged(hello.from);
        let Some(_running) = self.place_for(logged.as_ref().map_or(0, |_| hello.from)) else {
            let reason = "too many connections are just looked into; try again later";
            return Err(Greeting::Refused(reason.into()));
        };
        let claimed = claimed_address(hello, from);
        let learned = self.book.learned(hello.from);
        let (at_logged, at_learned, at_claimed) = tokio::join!(
            self.ask(logged.as_ref(), hello),
            self.ask(learned.as_ref().filter(|learned| Some(*learned) != logged.as_ref()), hello),
            self.ask(Some(&claimed).filter(|claimed| Some(*claimed) != logged.as_ref()), hello),
        );
        let is_confirmed = |asked: &Option<Asked>| asked.is_some_and(|asked| asked.confirmed);
        if is_confirmed(&at_logged) {
            self.book.forget(hello.from);
            return Ok(Origin::Logged);
        }
        for (address, asked) in [(&logged, at_logged), (&learned, at_learned)] {
            if let Some(address) = address.as_ref().filter(|_| self.is_another(asked, hello)) {
                return Err(Greeting::Copy(format!(
                    "member {:016x} runs already, at {address}: this is a copy of its directory; \
                     stop one of the two",
                    hello.from
                ))); // I1
            }
        }
        let found = [(learned, at_learned), (Some(claimed.clone()), at_claimed)];
        let found = found.into_iter().find(|(_, asked)| is_confirmed(asked));
        match found.and_then(|(address, _)| address) {
            Some(address) => {
                if logged.is_some() {
                    self.book.learn(hello.from, address);
                }
                Ok(Origin::Elsewhere)
            }
            None => Err(Greeting::Refused(format!(
                "nobody at {} confirms that this is member {:016x}; check -raft and -advertise",
                logged.unwrap_or(claimed),
                hello.from
            ))),
        }
    }

    async fn ask(&self, address: Option<&String>, hello: &Hello) -> Option<Asked> {
        let address = address.filter(|address| !address.is_empty())?;
        is_own_hello(address, hello, self.caller.me().process).await.ok()
    }

    /// True if the member that a hello names answered, as another process than the hello's.
    fn is_another(&self, asked: Option<Asked>, hello: &Hello) -> bool {
        asked.is_some_and(|asked| {
            asked.who.cluster_id == self.caller.me().cluster_id
                && asked.who.member_id == hello.from
                && asked.who.process != hello.process
        })
    }

    /// Whether a hello of another cluster comes from a member of that, which knows this address as a
    /// member's: nobody else would say that it dialled here.
    pub(super) async fn is_other_cluster(&self, hello: &Hello, from: IpAddr) -> bool {
        let Some(_running) = self.place_for(0) else { return false };
        let claimed = claimed_address(hello, from);
        self.ask(Some(&claimed), hello).await.is_some_and(|asked| asked.confirmed)
    }
}

/// Where a hello says that its member listens.
pub fn claimed_address(hello: &Hello, from: IpAddr) -> String {
    let mut address = hello.address.clone();
    complete(&mut address, from);
    address
}

/// An address without a host is completed with the address that its owner calls from.
pub fn complete(address: &mut String, from: IpAddr) {
    let Some((host, port)) = address.rsplit_once(':') else { return };
    if matches!(host, "" | "0.0.0.0" | "[::]") {
        *address = SocketAddr::new(from, port.parse().unwrap_or(0)).to_string();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_without_a_host_take_the_callers() {
        let from = IpAddr::from([10, 0, 0, 7]);
        for (address, expected) in [
            (":12001", "10.0.0.7:12001"),
            ("0.0.0.0:12001", "10.0.0.7:12001"),
            ("[::]:12001", "10.0.0.7:12001"),
            ("host:12001", "host:12001"),
            ("127.0.0.1:12001", "127.0.0.1:12001"),
        ] {
            let mut text = address.to_owned();
            complete(&mut text, from);
            assert_eq!(text, expected);
        }
    }
}
