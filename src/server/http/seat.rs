//! Whoever sits at the other end of one connection of HTTP: its requests read and write through here.
//!
//! Called by the handlers; calls the connection's requester and the node.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::asked::Pair;
use super::entry::{bearer, one};
use super::problem::Problem;
use crate::command::{
    Action, Answer, Body, Command, CommandBuilder, Condition, Operation, Outcome, ReadLevel, Reply,
};
use crate::server::Server;
use crate::server::access::{Credentials, RequestKind, WRONG_TOKEN_PAUSE};
use crate::server::receipt::Written;
use crate::server::requester::Requester;
use crate::server::resp::lookup;
use crate::server::session::STRANGE_TIME_MAX;
use crate::server::socket::Share;
use crate::server::wire::Unsent;

/// The log index of the entry that a write became.
const INDEX: HeaderName = HeaderName::from_static("diskstore-index");
/// The election term, as this node knew it when it answered.
const TERM: HeaderName = HeaderName::from_static("diskstore-term");
/// How many members other than the leader hold the entry durably, as far as is known.
const HOLDERS: HeaderName = HeaderName::from_static("diskstore-holders");

/// The id of a request: a write that is sent again with it is carried out once.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Whether an earlier entry carried out the request.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// What a client would like beside the answer.
// Source: RFC 7240: a server that does not know a preference passes it over.
const PREFER: HeaderName = HeaderName::from_static("prefer");
/// The preference for the receipt of a write, here and in gRPC.
const RECEIPT_PREFERENCE: &str = "receipt";
/// Says that it was followed.
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// The receipt, as JSON.
const RECEIPT: HeaderName = HeaderName::from_static("diskstore-receipt");

/// Ends when the node stops; many may wait for it.
type Stopping = Shared<BoxFuture<'static, ()>>;

/// Whoever sits at the other end of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    pub(super) server: Arc<Server>,
    /// Locked by one request at a time: those of a connection come one after the other.
    pub(super) requester: Arc<Mutex<Requester>>,
    /// Our end of the connection.
    pub(super) local: IpAddr,
    /// How a URL begins that leads to another member as this connection led here.
    pub(super) scheme: &'static str,
    /// Ends when the node stops.
    pub(super) stopping: Stopping,
    /// What waits for the client.
    pub(super) unsent: Arc<Unsent>,
    /// Since when no request has presented the token that it needs.
    strange_since: Arc<parking_lot::Mutex<Instant>>,
}

impl Seat {
    /// A connection that has asked nothing yet.
    pub(crate) fn new(
        server: Arc<Server>,
        requester: Requester,
        stopping: BoxFuture<'static, ()>,
    ) -> Seat {
        let local = requester.client().local_address();
        let local = local.map_or(IpAddr::from(Ipv4Addr::UNSPECIFIED), |address| address.ip());
        let scheme = if requester.client().is_under_tls() { "https" } else { "http" };
        let requester = Arc::new(Mutex::new(requester));
        let unsent = Arc::new(Unsent::new(Share::new(Arc::clone(&server.backlog))));
        unsent.note_strange(server.access.is_guarded());
        let (stopping, strange_since) = (stopping.shared(), Arc::new(Instant::now().into()));
        Seat { server, requester, local, scheme, stopping, unsent, strange_since }
    }

    /// Whether the node stops.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.peek().is_some()
    }

    /// Takes the token that a request presents, and forgets that of the request before it. A wrong one is
    /// answered late.
    pub(super) async fn authenticate(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if !self.server.access.is_guarded() {
            return Ok(());
        }
        let presented = {
            let mut requester = self.requester.lock().await;
            requester.forget_token();
            let Some(token) = bearer(headers)? else { return Ok(()) };
            requester.authenticate(Credentials { name: None, token: token.as_bytes() })
        };
        if presented.is_err() {
            sleep(WRONG_TOKEN_PAUSE).await;
        }
        Ok(presented?)
    }

    /// Notes whether the request that is being answered has presented a token that counts; whether its
    /// client has been here without one for too long.
    pub(super) async fn has_overstayed(&self) -> bool {
        if !self.server.access.is_guarded() {
            return false;
        }
        let is_strange = self.requester.lock().await.granted().is_none();
        self.unsent.note_strange(is_strange);
        overstays(&mut self.strange_since.lock(), is_strange, Instant::now())
    }

    /// Checks that the request's client may do what is of this kind.
    pub(super) async fn check(&self, kind: RequestKind) -> Result<(), Problem> {
        Ok(self.requester.lock().await.check(kind)?)
    }

    /// Proposes the command of a request with these headers, if the client may write.
    pub(super) async fn write(
        &self,
        command: Command,
        headers: &HeaderMap,
    ) -> Result<Reply, Problem> {
        self.check(RequestKind::Write).await?;
        let command = match request_id(headers)? {
            Some(id) => command.with_request_id(id.as_bytes())?,
            None => command,
        };
        let mut requester = self.requester.lock().await;
        Ok(requester.write_one(&self.server.node, command).await?)
    }

    /// Executes a command that only reads, as fresh as `level` says or as the node is set to.
    pub(super) async fn read(
        &self,
        command: Command,
        level: Option<ReadLevel>,
    ) -> Result<Reply, Problem> {
        let mut requester = self.requester.lock().await;
        Ok(requester.read_one(&self.server.node, command, level).await?)
    }
}

/// A value that was read.
pub(super) struct Found {
    /// `None` if the key holds none.
    pub(super) value: Option<Bytes>,
    pub(super) version: u64,
}

impl Seat {
    /// The key that a client's bytes name.
    pub(super) fn key(&self, name: &[u8]) -> Result<Bytes, Problem> {
        Ok(Bytes::copy_from_slice(&self.server.keys.key(name)?))
    }

    /// Reads the key that `name` names.
    pub(super) async fn get(
        &self,
        name: &[u8],
        level: Option<ReadLevel>,
    ) -> Result<Found, Problem> {
        let command = Command::get(&self.key(name)?)?;
        self.requester.lock().await.called(lookup(b"get"));
        let outcome = first(self.read(command, level).await?)?;
        match outcome.body {
            Body::Value(value) => Ok(Found { value, version: outcome.version }),
            Body::Measured(bytes) => Err(Problem::too_large(format!(
                "the value is {bytes} bytes, too long for a response"
            ))),
            Body::Empty | Body::Integer(_) | Body::Refused(_) => {
                Err(Problem::fault("the node's reply is none to a read"))
            }
        }
    }

    /// Sets all of these by one entry, for a request with these headers; what the response says of it.
    pub(super) async fn set_all(
        &self,
        pairs: Vec<Pair>,
        headers: &HeaderMap,
    ) -> Result<HeaderMap, Problem> {
        let mut command = CommandBuilder::new();
        for Pair { name, value } in &pairs {
            let keys = &self.server.keys;
            keys.check_value(u64::try_from(value.len()).unwrap_or(u64::MAX))?;
            let (condition, answer) = (Condition::Always, Answer::Status);
            let action = Action::Set { value, condition, answer };
            command.push(&Operation { key: &keys.key(name)?, action })?;
        }
        let command = command.finish();
        drop(pairs); // the command has them
        self.requester.lock().await.called(lookup(b"mset"));
        let reply = self.write(command, headers).await?;
        let noted = Noted::of(&reply, headers);
        reply.outcomes.into_iter().try_for_each(|outcome| done(outcome).map(drop))?;
        Ok(self.written(noted).await)
    }

    /// What the response says of the entry that carried a write out.
    pub(super) async fn written(&self, noted: Noted) -> HeaderMap {
        let Noted { index, is_repeat, wanted } = noted;
        let node = &self.server.node;
        let mut told = HeaderMap::new();
        let holders = match wanted {
            None => node.wait_replicas(index, 0, Duration::ZERO).await,
            Some(written) => {
                let receipt = written.receipt(node).await;
                // Plain ASCII, without ends of lines.
                told.extend(HeaderValue::try_from(receipt.to_json()).map(|json| (RECEIPT, json)));
                told.insert(PREFERENCE_APPLIED, HeaderValue::from_static(RECEIPT_PREFERENCE));
                let is_other = |name: &&String| receipt.leader.as_ref() != Some(*name);
                match &receipt.durable {
                    Some(durable) => durable.iter().filter(is_other).count(),
                    None => node.wait_replicas(index, 0, Duration::ZERO).await,
                }
            }
        };
        let holders = u64::try_from(holders).unwrap_or(u64::MAX);
        let numbers = [(TERM, node.term()), (INDEX, index), (HOLDERS, holders)];
        told.extend(numbers.map(|(name, number)| (name, HeaderValue::from(number))));
        if is_repeat {
            told.insert(REPLAYED, HeaderValue::from_static("true"));
        }
        told
    }
}

/// Whether a client that comes with a request now has been strange for too long, since then.
fn overstays(since: &mut Instant, is_strange: bool, now: Instant) -> bool {
    if !is_strange {
        *since = now;
    }
    now.saturating_duration_since(*since) >= STRANGE_TIME_MAX
}

/// What is kept of the reply to a write, for its response.
#[derive(Debug)]
pub(super) struct Noted {
    index: u64,
    is_repeat: bool,
    /// What its receipt is made of, if the client wants one.
    wanted: Option<Written>,
}

impl Noted {
    /// The reply to a request with these headers.
    pub(super) fn of(reply: &Reply, headers: &HeaderMap) -> Noted {
        let wanted = wants_receipt(headers).then(|| Written::of(reply));
        Noted { index: reply.index, is_repeat: reply.is_repeat, wanted }
    }
}

/// Whether a client would like the receipt of its write.
fn wants_receipt(headers: &HeaderMap) -> bool {
    let texts = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).any(prefers_receipt)
}

/// Whether one preference, with its parameters, is that for a receipt.
pub(crate) fn prefers_receipt(preference: &str) -> bool {
    let name = preference.split(';').next().unwrap_or_default();
    name.trim().eq_ignore_ascii_case(RECEIPT_PREFERENCE)
}

/// The id that a request has, if it has one; it may stand in quotes.
///
/// # Errors
/// It is there twice, or is no text.
fn request_id(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(id) = one(headers, &KEY)? else { return Ok(None) };
    // Source: draft-ietf-httpapi-idempotency-key-header-07: a string of structured fields.
    let quoted = id.strip_prefix('"').and_then(|id| id.strip_suffix('"'));
    Ok(Some(quoted.unwrap_or(id)))
}

/// The one outcome of a reply.
pub(super) fn first(reply: Reply) -> Result<Outcome, Problem> {
    let outcome = reply.outcomes.into_iter().next();
    done(outcome.ok_or_else(|| Problem::fault("the node's reply is incomplete"))?)
}

/// An outcome that is no refusal.
fn done(outcome: Outcome) -> Result<Outcome, Problem> {
    match outcome.body {
        Body::Refused(refusal) => Err(refusal.into()),
        Body::Empty | Body::Value(_) | Body::Measured(_) | Body::Integer(_) => Ok(outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_presents_no_token_stays_for_a_bounded_time() {
        let begun = Instant::now();
        let mut since = begun;
        let mut at = |seconds, is_strange| {
            overstays(&mut since, is_strange, begun + Duration::from_secs(seconds))
        };
        assert!(!at(0, true) && !at(59, true) && at(60, true) && at(61, true));
        assert!(!at(62, false), "it has presented one");
        assert!(!at(121, true) && at(122, true), "the next ones had none");
    }

    #[test]
    fn a_receipt_is_wanted_among_other_preferences() {
        let wants = |texts: &[&'static str]| {
            let values = texts.iter().map(|text| (PREFER, HeaderValue::from_static(text)));
            wants_receipt(&values.collect())
        };
        assert!(wants(&["receipt"]) && wants(&["return=minimal, Receipt; a=1"]));
        assert!(wants(&["respond-async", "wait=5,receipt"]));
        assert!(!wants(&[]) && !wants(&["", "return=receipt", "receipts", "a;receipt"]));
    }
}
