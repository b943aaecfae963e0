//! Whoever sits at the other end of one connection of gRPC: its calls read and write through here.
//!
//! Called by the methods; calls the node by a requester of each call, because the calls of a connection run
//! side by side. What they share is the index of the last write that was answered, which every read that
//! comes later sees.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::HeaderMap;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status};

use super::status::{Done, late, timed_out, wrong};
use crate::command::{Command, Failure, FailureClass, Outcome, ReadLevel, Reply};
use crate::server::Server;
use crate::server::access::{Credentials, RequestKind};
use crate::server::clients::Client;
use crate::server::complaint::Complaint;
use crate::server::detect::Protocol;
use crate::server::http::{bearer, prefers_receipt};
use crate::server::keys::Keys;
use crate::server::receipt::Written;
use crate::server::requester::Requester;
use crate::server::socket::Share;
use crate::server::wire::{Reserved, Unsent};

/// The header that says how long a call may take.
const TIMEOUT: &str = "grpc-timeout";
/// Most digits of that.
const TIMEOUT_DIGITS_MAX: usize = 8;
/// The header with the id of a request: a write that is sent again with it is carried out once.
const KEY: &str = "idempotency-key";
/// The header of an answer that an earlier entry gave.
const REPLAYED: &str = "idempotency-replayed";
/// The header with what a client would like beside the answer, as over HTTP.
const PREFER: &str = "prefer";
/// The header of an answer with the receipt of a write.
const RECEIPT: &str = "diskstore-receipt";

/// Whoever sits at the other end of one connection.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(super) server: Arc<Server>,
    client: Arc<Client>,
    /// Ends when the node stops; many may wait for it.
    pub(super) stopping: Shared<BoxFuture<'static, ()>>,
    /// What waits for the client.
    pub(super) unsent: Arc<Unsent>,
    /// Log index of the last write that was answered.
    written_index: AtomicU64,
}

/// One call, beside its message.
#[derive(Debug)]
pub(super) struct Call {
    /// Who asks.
    pub(super) requester: Requester,
    /// Until when it is to be answered.
    pub(super) by: Deadline,
    /// The id of its request, if it has one.
    request_id: Option<String>,
    /// Whether an earlier entry carried its write out.
    is_repeat: bool,
    /// Whether its client wants the receipt of its write.
    wants_receipt: bool,
    /// The receipt, once it has written.
    receipt: Option<String>,
}

impl Call {
    /// The call of a request, and its message.
    ///
    /// # Errors
    /// Its headers cannot be read.
    pub(super) fn of<T>(mut request: Request<T>) -> Result<(Call, T), Status> {
        let by = Deadline::of(request.metadata())?;
        // Behind `answer`, which puts it there.
        let requester = request.extensions_mut().remove::<Requester>();
        let requester = requester.ok_or_else(|| Status::internal("nobody asks"))?;
        let request_id = request_id(request.metadata())?;
        let wants_receipt = wants_receipt(request.metadata());
        let (is_repeat, receipt) = (false, None);
        let call = Call { requester, by, request_id, is_repeat, wants_receipt, receipt };
        Ok((call, request.into_inner()))
    }

    /// The response to a write.
    pub(super) fn written<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        if self.is_repeat {
            response.metadata_mut().insert(REPLAYED, MetadataValue::from_static("true"));
        }
        // Plain ASCII.
        let receipt = self.receipt.as_deref().and_then(|json| MetadataValue::try_from(json).ok());
        if let Some(receipt) = receipt {
            response.metadata_mut().insert(RECEIPT, receipt);
        }
        response
    }
}

/// Until when a call is to be answered, if its client says so.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Option<Instant>);

impl Caller {
    /// A connection that has asked nothing yet.
    pub(crate) fn new(
        server: Arc<Server>,
        client: Arc<Client>,
        stopping: BoxFuture<'static, ()>,
    ) -> Caller {
        let unsent = Arc::new(Unsent::new(Share::new(Arc::clone(&server.backlog))));
        let (stopping, written_index) = (stopping.shared(), AtomicU64::new(0));
        Caller { server, client, stopping, unsent, written_index }
    }

    /// The keys and values that the store takes.
    pub(super) fn keys(&self) -> &Keys {
        &self.server.keys
    }

    /// Most bytes of one value.
    pub(super) fn value_bytes_max(&self) -> usize {
        usize::try_from(self.keys().value_bytes_max()).unwrap_or(usize::MAX)
    }

    /// Who asks by one call, with the token that its headers present. A wrong one is answered late.
    ///
    /// # Errors
    /// It is wrong, or no token.
    pub(super) async fn requester(&self, headers: &HeaderMap) -> Result<Requester, Status> {
        let (server, client) = (&self.server, Arc::clone(&self.client));
        let level = server.node.read_level();
        let requester = Requester::new(client, level, Protocol::Http2, Arc::clone(&server.access));
        let mut requester = requester.after(self.written_index.load(Ordering::Acquire));
        if server.access.is_guarded() {
            let no_token = |_| {
                let text = "authorization is Bearer and a token here";
                Complaint::new(FailureClass::NoToken, text)
            };
            if let Some(token) = bearer(headers).map_err(no_token)? {
                let presented = Credentials { name: None, token: token.as_bytes() };
                let presented = requester.authenticate(presented);
                requester.wait_if_held().await;
                presented?;
            }
        }
        Ok(requester)
    }

    /// Takes room for a response of so many bytes.
    pub(super) async fn room(&self, bytes: usize, by: Deadline) -> Result<Arc<Reserved>, Status> {
        let reserved = by.wait(self.unsent.reserve(bytes)).await;
        reserved.map(Arc::new).ok_or_else(|| late("this client takes no responses"))
    }

    /// A place among the streams of all clients, until it is dropped.
    pub(super) fn place(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.server.streams).try_acquire_owned().map_err(|_| {
            let reason = "this node serves as many streams as it may".to_owned();
            Failure::Busy { reason }.into()
        })
    }

    /// A place among those who watch the health, which nobody needs a token for.
    pub(super) fn watching_place(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.server.watching).try_acquire_owned().map_err(|_| {
            let reason = "as many watch this node's health as may".to_owned();
            Failure::Busy { reason }.into()
        })
    }

    /// Proposes a command, if the client may write.
    pub(super) async fn write(&self, call: &mut Call, command: Command) -> Result<Reply, Status> {
        call.requester.check(RequestKind::Write)?;
        if call.by.has_passed() {
            return Err(late("the time of this call was over before the write was proposed"));
        }
        let command = match &call.request_id {
            Some(id) => command.with_request_id(id.as_bytes())?,
            None => command,
        };
        let written = call.requester.write_one(&self.server.node, command);
        let reply = call.by.wait(written).await.ok_or_else(|| {
            timed_out("the write was proposed, and is carried out or is not", Done::Maybe)
        })??;
        self.written_index.fetch_max(reply.index, Ordering::AcqRel);
        call.is_repeat = reply.is_repeat;
        if call.wants_receipt {
            let written = Written::of(&reply);
            let receipt = call.by.wait(written.receipt(&self.server.node)).await;
            call.receipt = receipt.map(|receipt| receipt.to_json()); // the write is done all the same
        }
        Ok(reply)
    }

    /// Executes a command that only reads, as fresh as `level` says or as the node is set to.
    pub(super) async fn read(
        &self,
        call: &mut Call,
        command: Command,
        level: Option<ReadLevel>,
    ) -> Result<Reply, Status> {
        let read = call.requester.read_one(&self.server.node, command, level);
        let read = call.by.wait(read).await;
        let reply = read.ok_or_else(|| late("the time of this call is over"))??;
        self.written_index.fetch_max(reply.index, Ordering::AcqRel);
        Ok(reply)
    }

    /// The key that a client's bytes name.
    pub(super) fn key(&self, name: &[u8]) -> Result<Bytes, Status> {
        Ok(Bytes::copy_from_slice(&self.keys().key(name)?))
    }
}

/// The one outcome of a reply.
pub(super) fn first(reply: Reply) -> Result<Outcome, Status> {
    let missing = || Failure::Unknown {
        term: 0,
        index: reply.index,
        reason: "the node's reply is incomplete".to_owned(),
    };
    match reply.outcomes.into_iter().next() {
        None => Err(missing().into()),
        Some(Outcome { body: crate::command::Body::Refused(refusal), .. }) => {
            Err(Complaint::from(refusal).into())
        }
        Some(outcome) => Ok(outcome),
    }
}

/// The id in the metadata of a call, if there is one.
fn request_id(headers: &MetadataMap) -> Result<Option<String>, Status> {
    let mut ids = headers.get_all(KEY).iter();
    let Some(id) = ids.next() else { return Ok(None) };
    let text = id.to_str().ok().filter(|_| ids.next().is_none());
    let text = text.ok_or_else(|| wrong("idempotency-key is one text"))?;
    Ok(Some(text.to_owned()))
}

/// Whether the client of a call would like the receipt of its write.
fn wants_receipt(headers: &MetadataMap) -> bool {
    let texts = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).any(prefers_receipt)
}

impl Deadline {
    /// Until when a call with these headers is to be answered.
    ///
    /// # Errors
    /// They say so in no way that is known.
    pub(super) fn of(headers: &MetadataMap) -> Result<Deadline, Status> {
        let time = deadline_of(headers)?;
        Ok(Deadline(time.and_then(|time| Instant::now().checked_add(time)))) // or beyond all time
    }

    fn has_passed(self) -> bool {
        self.0.is_some_and(|at| at <= Instant::now())
    }

    /// The result of `work`, unless that takes too long.
    pub(super) async fn wait<T>(self, work: impl Future<Output = T>) -> Option<T> {
        match self.0 {
            None => Some(work.await),
            Some(at) => timeout_at(at, work).await.ok(),
        }
    }
}

/// How long a call may take, if its client says so.
pub(crate) fn deadline_of(headers: &MetadataMap) -> Result<Option<Duration>, Status> {
    let Some(text) = headers.get(TIMEOUT) else { return Ok(None) };
    let time = text.to_str().ok().and_then(time_of);
    time.map(Some).ok_or_else(|| wrong("grpc-timeout is up to 8 digits and a unit"))
}

/// What such text says.
fn time_of(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > TIMEOUT_DIGITS_MAX {
        return None;
    }
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count = digits.parse::<u64>().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_call_is_read_as_the_protocol_writes_it() {
        for (text, ns) in [
            ("1n", 1),
            ("20u", 20_000),
            ("300m", 300_000_000),
            ("4S", 4_000_000_000),
            ("00000002M", 120_000_000_000),
            ("99999999H", 359_999_996_400_000_000_000),
        ] {
            assert_eq!(time_of(text).unwrap().as_nanos(), ns, "{text}");
        }
        for text in ["", "S", "1", "1s", "-1S", "+1S", "1.5S", "123456789S", "1 S", "\u{e9}"] {
            assert_eq!(time_of(text), None, "{text}");
        }
    }
}
