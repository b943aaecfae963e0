//! Checks whether a hello comes from the member that it names.
//!
//! Any process that reaches a port can write a hello. So this member dials back to the address of
//! the member in question, and believes the hello only if the process that listens there says that
//! the hello is its own. Called by `listener`, which reads hellos, and by `raft`; calls `caller`
//! and `route`. Invariants:
//!
//! - I1: the address in this member's own log is asked first, and only the answer there can make a
//!   process a copy. If the member answers there as another process, the hello comes from a copy of
//!   its directory, and is refused by a message that names the member (F26).
//! - I2: the address in a hello is believed only if the member does not answer at the known one:
//!   then it moved, or this member has not heard of it yet. Such a hello can get a connection
//!   refused, and nothing more: it ends no node (C16). Its sender may ask to join or to be
//!   registered. Its votes, entries and snapshots are taken only if a member in the log, or one
//!   that `-join` names, has the sender at that address. There are two exceptions. While no other
//!   member leads, they are taken of every member in the log, because members that all moved have
//!   to come together before an address can be registered. And while the log names nobody yet, they
//!   are taken of any process that calls.
//! - I3: questions are bounded in time, all of one hello together in less than its handshake may
//!   take. The address in the log is asked at once for every hello, even if other questions are
//!   still open. Questions to other addresses are bounded in number, in all and for each member, so
//!   that hellos in the name of one member cannot take all places of the others.
//! - I4: if two processes claim to be the same member, and neither is at the address in the log,
//!   nothing tells which is the copy. The one that was found first keeps the connections. The other
//!   may have its address written to the log, which decides.
//! - I5: under TLS a member is believed only with a certificate of the name that the log has for it,
//!   and a process that is asked back only with the same name as the one that dialled.

use std::collections::BTreeMap;
use std::future::ready;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use super::caller::{Asked, Caller, is_own_hello};
use super::hello::{Greeting, Hello, Purpose};
use super::requests::{Method, decode_whereabouts, encode_whereabouts_reply};
use super::route::{Book, Route};
use crate::descriptors::{CHECK_CONNECTION_COUNT, Place, Places, Shares};

/// Most hellos in the name of one member that are checked at addresses other than the log's at a time.
/// All unknown members together count as one.
const MEMBER_CHECK_COUNT_MAX: usize = 16;
/// One member takes at most this part of all such checks.
const CHECK_PART: usize = 4;

/// How long finding out where a hello comes from may take in all: less than the dialling side waits
/// for the handshake.
const VERIFY_BOUND: Duration = Duration::from_millis(1600);
/// How long all members together may take to say which address they have for another.
const VOUCH_BOUND: Duration = Duration::from_millis(500);
/// Shortest time between two log lines about members that are not known.
const TOLD_PAUSE: Duration = Duration::from_secs(10);

/// What kind of address a confirmed hello comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The address in this member's own log.
    Logged,
    /// One that a member vouches for (I2).
    Vouched,
    /// Any address, while the log names no member that could vouch for it (I2).
    First,
    /// Another address than this member's own log has (I2).
    Moved,
    /// Another address than the log has, while the member also answers at a third one (I4).
    Twice,
    /// The address of a member that no known member knows.
    Unknown,
}

/// Who dialled, as far as its connection tells.
#[derive(Debug, Clone)]
pub(crate) struct Dialler {
    /// The address that it dials from.
    pub address: IpAddr,
    /// The member that its certificate names; `None` on a plain connection.
    pub certified: Option<String>,
}

/// A member whose hello was confirmed.
#[derive(Debug, Clone)]
pub(crate) struct Verified {
    pub id: u64,
    pub origin: Origin,
    /// The name in its certificate, if it showed one (I5).
    certified: Option<String>,
    /// The address at which it confirmed the hello.
    address: String,
    /// The address that this member's own log had for it then.
    logged: Option<String>,
}

impl Verified {
    /// The reason why votes, entries and snapshots of this member are not taken.
    pub(crate) fn disbelief(&self) -> String {
        let id = self.id;
        match self.origin {
            Origin::Twice => {
                format!("another process answers as member {id:016x}, too; stop one of the two")
            }
            Origin::Logged | Origin::Vouched | Origin::Moved => {
                format!("member {id:016x} is not registered where it is, and another one leads")
            }
            Origin::First | Origin::Unknown => format!(
                "member {id:016x}, at {}, is not in the log here, and no member that is says where it \
                 is; if this node was away for long, start it with -join ADDRESS, naming a member \
                 that runs",
                self.address
            ),
        }
    }
}

/// Checks hellos by asking back.
#[derive(Debug)]
pub(crate) struct Verifier {
    caller: Arc<Caller>,
    book: Arc<Book>,
    /// The number of checks under way for each member; 0 stands for all unknown ones (I3).
    running: Mutex<BTreeMap<u64, usize>>,
    checks: Places,
    /// Addresses of members that this one was told (`-join`), beside those in the log.
    targets: Vec<String>,
    /// When the last line about a member that is not known was logged.
    told: Mutex<Option<Instant>>,
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

/// A hello, and the name in the certificate that was shown with it.
#[derive(Debug, Clone, Copy)]
struct Shown<'a> {
    hello: &'a Hello,
    name: Option<&'a str>,
}

/// What asking about a hello has found out.
#[derive(Debug, Clone, Copy)]
struct Found<'a> {
    /// The address that the hello names, if its process answered there.
    claimed: &'a str,
    /// True if the log names the member.
    is_logged: bool,
    /// True if another process answered as this member elsewhere.
    is_twice: bool,
}

impl Verifier {
    pub(crate) fn new(caller: Arc<Caller>, book: Arc<Book>, targets: Vec<String>) -> Verifier {
        let (running, checks, told) = (Mutex::default(), Places::default(), Mutex::default());
        Verifier { caller, book, running, checks, targets, told }
    }

    fn place_for(&self, id: u64) -> Option<Running<'_>> {
        let share = Shares::now().checks;
        let place = self.checks.take(share)?;
        let mut running = self.running.lock();
        let count = running.entry(id).or_default();
        if *count >= (share / CHECK_PART).clamp(1, MEMBER_CHECK_COUNT_MAX) {
            return None;
        }
        *count += 1;
        Some(Running { verifier: self, id, _place: place })
    }

    /// Finds out where a hello of this cluster comes from.
    ///
    /// # Errors
    /// The answer that refuses it, if it is not what it seems to be.
    pub(crate) async fn verify(&self, hello: &Hello, from: &Dialler) -> Result<Verified, Greeting> {
        let deadline = Instant::now() + VERIFY_BOUND;
        let id = hello.from;
        self.check_name(id, from.certified.as_deref()).map_err(Greeting::Refused)?;
        let shown = Shown { hello, name: from.certified.as_deref() };
        let certified = from.certified.clone();
        let logged = self.book.logged(id);
        let claimed = claimed_address(shown.hello, from.address);
        let learned = self.book.learned(id).filter(|learned| *learned != claimed);
        // One that was found elsewhere before is asked there meanwhile, which takes a place (I3).
        let early = learned.as_ref().map(|_| self.place_for(id));
        let learned = learned.filter(|_| early.as_ref().is_some_and(Option::is_some));
        let asking = pin!(self.ask(learned.as_ref(), shown));
        let (at_logged, at_learned) = match select(pin!(self.ask(logged.as_ref(), shown)), asking)
            .await
        {
            Either::Left((at_logged, asking)) => (at_logged, Either::Left(asking)),
            Either::Right((at_learned, asking)) => (asking.await, Either::Right(ready(at_learned))),
        };
        if let Some(address) = logged.clone().filter(|_| is_confirmed(at_logged)) {
            self.book.forget(id);
            return Ok(Verified { id, origin: Origin::Logged, certified, address, logged });
        }
        if let Some(address) = logged.as_ref().filter(|_| self.is_another(at_logged, shown.hello)) {
            return Err(Greeting::Copy(format!(
                "member {id:016x} runs already, at {address}: this is a copy of its directory; stop \
                 one of the two"
            ))); // I1
        }
        let place = early.unwrap_or_else(|| self.place_for(logged.as_ref().map_or(0, |_| id)));
        let Some(_running) = place else {
            let reason = "too many connections are just looked into; try again later";
            return Err(Greeting::Refused(reason.into()));
        };
        let (at_claimed, at_learned) = tokio::join!(
            timeout_at(deadline, self.ask(Some(&claimed), shown)),
            timeout_at(deadline, at_learned)
        );
        if !is_confirmed(at_claimed.ok().flatten()) {
            return Err(Greeting::Refused(format!(
                "nobody at {} confirms that this is member {id:016x}; check -raft and -advertise",
                logged.unwrap_or(claimed),
            )));
        }
        let is_twice = self.is_another(at_learned.ok().flatten(), shown.hello);
        let found = Found { claimed: &claimed, is_logged: logged.is_some(), is_twice };
        let origin = self.origin(shown, found, deadline).await;
        let member = Verified { id, origin, certified, address: claimed, logged };
        self.learn(&member);
        Ok(member)
    }

    /// How far a hello is believed that was confirmed at the address that it names itself (I2).
    async fn origin(&self, shown: Shown<'_>, found: Found<'_>, deadline: Instant) -> Origin {
        let Found { claimed, is_logged, is_twice } = found;
        if is_logged && !is_twice && !self.book.another_leads(shown.hello.from) {
            return Origin::Moved;
        }
        // Whoever moved needs no more to be registered.
        let is_asked = !is_logged || shown.hello.purpose != Purpose::Requests;
        if self.book.members().is_empty() {
            return Origin::First;
        }
        let deadline = deadline.min(Instant::now() + VOUCH_BOUND);
        let vouched = timeout_at(deadline, self.is_vouched(shown, claimed));
        if is_asked && vouched.await.unwrap_or_default() {
            return Origin::Vouched;
        }
        match is_logged {
            true if is_twice => Origin::Twice, // I4
            true => Origin::Moved,
            false => Origin::Unknown,
        }
    }

    /// True if a known member has the hello's member at the address where the hello was confirmed. The
    /// known members are asked a few at a time, in another order for each hello.
    async fn is_vouched(&self, shown: Shown<'_>, claimed: &str) -> bool {
        let (me, id) = (self.caller.me(), shown.hello.from);
        let known =
            self.book.members().into_iter().filter(|(known, address)| {
                ![id, me.member_id].contains(known) && !address.is_empty()
            });
        let known = known.map(|(known, address)| {
            Route::to_member(known, address, None).named(self.book.name(known))
        });
        let told = self.targets.iter().cloned().map(Route::to_address);
        let mut routes: Vec<Route> = known.chain(told).collect();
        let Some(first) = (shown.hello.token % 1024).checked_rem(routes.len() as u128) else {
            return false;
        };
        routes.rotate_left(usize::try_from(first).unwrap_or_default());
        let asking = routes.into_iter().map(|route| async move {
            let asked =
                Caller::stranger(self.caller.host()).whereabouts(&route, me.cluster_id, id).await;
            let Ok(address) = asked else { return false };
            address == claimed || is_confirmed(self.ask(Some(&address), shown).await)
        });
        let answers = stream::iter(asking).buffer_unordered(CHECK_CONNECTION_COUNT);
        let mut yes = pin!(answers.filter(|yes| ready(*yes)));
        yes.next().await.is_some()
    }

    /// Remembers the address at which a member was found, unless another member leads: that one can
    /// write the address to the log.
    fn learn(&self, member: &Verified) {
        let is_found = matches!(member.origin, Origin::Moved | Origin::Vouched);
        if let Some(logged) = member.logged.as_ref().filter(|_| is_found)
            && !self.book.another_leads(member.id)
        {
            self.book.learn(member.id, member.address.clone(), logged.clone());
        }
    }

    /// Answers a question for the address that the log has for a member; `None` if it cannot be read.
    pub(crate) fn answer_whereabouts(&self, body: Bytes) -> Option<Vec<u8>> {
        let (cluster_id, id) = decode_whereabouts(body).ok()?;
        let is_own = cluster_id == self.caller.me().cluster_id;
        let address = is_own.then(|| self.book.logged(id)).flatten().unwrap_or_default();
        Some(encode_whereabouts_reply(&address))
    }

    /// True if the log names this member alone.
    pub(crate) fn knows_nobody_else(&self) -> bool {
        self.book.members().into_iter().map(|(id, _)| id).eq([self.caller.me().member_id])
    }

    /// Logs that a member is not believed, so that an operator knows.
    pub(crate) fn tell(&self, reason: &str) {
        let mut told = self.told.lock();
        if told.is_none_or(|at| at.elapsed() >= TOLD_PAUSE) {
            *told = Some(Instant::now());
            tracing::warn!("nothing is taken of a member: {reason}");
        }
    }

    async fn ask(&self, address: Option<&String>, shown: Shown<'_>) -> Option<Asked> {
        let address = address.filter(|address| !address.is_empty())?;
        let (net, process) = (&self.caller.host().net, self.caller.me().process);
        is_own_hello(net, address, shown.hello, process, shown.name).await.ok()
    }

    /// The reason to refuse a member for the name in its certificate, if there is one (I5).
    ///
    /// # Errors
    /// The log has another name for it.
    fn check_name(&self, id: u64, certified: Option<&str>) -> Result<(), String> {
        let Some(shown) = certified else { return Ok(()) };
        match self.book.name(id) {
            Some(name) if name != shown => Err(format!(
                "the certificate is that of member {shown}, and member {id:016x} is {name}"
            )),
            _ => Ok(()),
        }
    }

    /// True unless the log has another name for a member than its certificate. The log may have learned
    /// of the member since (I5).
    fn is_named(&self, member: &Verified) -> bool {
        self.check_name(member.id, member.certified.as_deref()).is_ok()
    }

    /// True if the member that a hello names answered as another process than that of the hello.
    fn is_another(&self, asked: Option<Asked>, hello: &Hello) -> bool {
        asked.is_some_and(|asked| {
            asked.who.cluster_id == self.caller.me().cluster_id
                && asked.who.member_id == hello.from
                && asked.who.process != hello.process
        })
    }

    /// True if a member may make this request, judging by the address at which it was found.
    pub(crate) fn may_ask(&self, member: &Verified, method: Method) -> bool {
        match method {
            _ if !self.is_named(member) => false,
            Method::Join | Method::Standing | Method::Remove | Method::Whereabouts => {
                self.learn(member);
                true
            }
            Method::Vote
            | Method::PreVote
            | Method::TransferLeader
            | Method::Order
            | Method::Backs => self.is_believed(member),
            Method::Write
            | Method::Read
            | Method::Holders
            | Method::LogSpace
            | Method::ReadIndex => member.origin == Origin::Moved || self.is_believed(member),
            Method::Found => false, // there is a cluster
        }
    }

    /// True if votes, entries and snapshots of a member are taken now. The answer may change: another
    /// member may lead by now, or the log may have the member's new address.
    pub(crate) fn is_believed(&self, member: &Verified) -> bool {
        match member.origin {
            Origin::Logged => true, // its name was compared with that in the log
            _ if !self.is_named(member) => false,
            Origin::Vouched => true,
            Origin::Moved if !self.book.another_leads(member.id) => true,
            Origin::First if self.book.members().is_empty() => true,
            Origin::Moved | Origin::First | Origin::Twice | Origin::Unknown => {
                self.book.logged(member.id).as_ref() == Some(&member.address)
            }
        }
    }

    /// True if a hello of another cluster comes from a member of that cluster, whose log then has this
    /// address for one of its members: no other process would confirm that it dialled here.
    pub(crate) async fn is_other_cluster(&self, hello: &Hello, from: &Dialler) -> bool {
        let Some(_running) = self.place_for(0) else { return false };
        let claimed = claimed_address(hello, from.address);
        let shown = Shown { hello, name: from.certified.as_deref() };
        self.ask(Some(&claimed), shown).await.is_some_and(|asked| asked.confirmed)
    }
}

fn is_confirmed(asked: Option<Asked>) -> bool {
    asked.is_some_and(|asked| asked.confirmed)
}

/// The address at which a hello says that its member listens.
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
