//! The stream of a scan: keys that hold a value, step by step, with their values if they are wanted.
//!
//! Called by `store`; calls the node. A task walks, and waits for the client before every step, so that a
//! scan has one step in memory, whatever it finds.

use std::sync::Arc;

use bytes::Bytes;
use diskstore_proto::diskstore::{Item, ScanRequest, ScanResponse, scan_request};
use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::codegen::BoxStream;
use tonic::codegen::tokio_stream::{self, StreamExt};
use tonic::{Code, Status};

use super::caller::{Call, Caller};
use super::status::{late, wrong};
use super::store::{level_of, shown};
use crate::command::{Body, Command, Failure, Freshness, ReadLevel};
use crate::server::access::RequestKind;
use crate::server::requester::Requester;
use crate::server::resp::lookup;
use crate::server::socket::UNTAKEN_TIME_MAX;

/// Keys that are looked for in one step.
const STEP_COUNT_MAX: usize = 256;
/// Bytes of values that one step reads, about.
const STEP_BYTES_MAX: usize = 1 << 20;

/// What is looked for.
#[derive(Debug)]
struct Wanted {
    first: u64,
    /// The last slot.
    last: u64,
    prefix: Bytes,
    values: bool,
    step_count: usize,
}

/// Begins a scan.
///
/// # Errors
/// The request is wrong, or there are too many streams.
pub(super) fn begin(
    caller: &Arc<Caller>,
    request: &ScanRequest,
    call: Call,
) -> Result<BoxStream<ScanResponse>, Status> {
    let level = level_of(request.level)?;
    let wanted = Wanted::new(caller, request)?;
    let place = caller.place()?;
    let caller = Arc::clone(caller);
    let Call { mut requester, by, .. } = call; // asked anew at each step
    requester.called(lookup(b"scan"));
    requester.read_at(level);
    let (told, heard) = mpsc::channel(1);
    tokio::spawn(async move {
        let ended = tokio::select! {
            ended = by.wait(walk(&caller, &mut requester, &wanted, &told)) => {
                ended.unwrap_or_else(|| Err(late("the time of this call is over")))
            }
            () = caller.stopping.clone().fuse() => {
                Err(Status::new(Code::Unavailable, "this node is stopping"))
            }
            () = told.closed() => Ok(()),
        };
        drop(place);
        if let Err(status) = ended {
            drop(told.send(Err(status)).await); // the client may be gone
        }
    });
    Ok(Box::pin(stream_of(heard)))
}

/// What comes through a channel, to its end.
pub(super) fn stream_of<T>(heard: mpsc::Receiver<T>) -> impl tokio_stream::Stream<Item = T> {
    futures_util::stream::unfold(heard, |mut heard| async {
        let next = heard.recv().await?;
        Some((next, heard))
    })
    .map(|item| item)
}

impl Wanted {
    fn new(caller: &Caller, request: &ScanRequest) -> Result<Wanted, Status> {
        let keys = caller.keys();
        let (mut first, mut last, mut prefix) = (0, u64::MAX, Bytes::new());
        match &request.range {
            None => {}
            Some(scan_request::Range::Prefix(bytes)) => prefix = bytes.clone(),
            Some(scan_request::Range::Slots(_)) if keys.slot_bytes().is_none() => {
                return Err(wrong("keys are no slots on this node: name a prefix"));
            }
            Some(scan_request::Range::Slots(slots)) => {
                first = slots.first;
                last = if slots.last == 0 { u64::MAX } else { slots.last };
            }
        }
        let values = request.values;
        let most =
            if values { STEP_BYTES_MAX / caller.value_bytes_max().max(1) } else { usize::MAX };
        Ok(Wanted { first, last, prefix, values, step_count: most.clamp(1, STEP_COUNT_MAX) })
    }
}

async fn walk(
    caller: &Caller,
    requester: &mut Requester,
    wanted: &Wanted,
    told: &mpsc::Sender<Result<ScanResponse, Status>>,
) -> Result<(), Status> {
    let (node, keys) = (&caller.server.node, caller.keys());
    let replica = requester.replica(node).await?;
    let begun_at = node.applied_index();
    let mut place = (wanted.first < keys.scan_end()).then_some(wanted.first);
    let mut is_told = false;
    while let Some(from) = place {
        let room = async {
            caller.unsent.wait_for_room().await;
            told.reserve().await
        };
        let Ok(room) = timeout(UNTAKEN_TIME_MAX, room).await else {
            let seconds = UNTAKEN_TIME_MAX.as_secs();
            let message = format!("this client took nothing of the scan for {seconds} s");
            return Err(Status::new(Code::Aborted, message));
        };
        let Ok(permit) = room else { return Ok(()) };
        requester.renew(); // its token may have been removed, or have expired
        requester.check(RequestKind::Read)?;
        let (found, next) = replica.scan(from, wanted.step_count).await?;
        place = next.filter(|next| *next <= wanted.last);
        let is_wanted = |key: &Bytes| {
            let slot = keys.slot_bytes().and_then(|_| crate::command::slot_of(key));
            slot.is_none_or(|slot| slot <= wanted.last)
                && (wanted.prefix.is_empty() || keys.shown(key.clone()).starts_with(&wanted.prefix))
        };
        let found = found.into_iter().filter(is_wanted).collect();
        let items = if wanted.values {
            read(caller, found).await?
        } else {
            let item = |key| Item { key: Some(shown(keys, key)), ..Item::default() };
            found.into_iter().map(item).collect()
        };
        if items.is_empty() && (is_told || place.is_some()) {
            continue; // nothing to tell, and the place for it goes to the next
        }
        is_told = true;
        permit.send(Ok(ScanResponse { items, begun_at }));
    }
    if !is_told {
        drop(told.send(Ok(ScanResponse { items: Vec::new(), begun_at })).await);
    }
    Ok(())
}

/// The values of keys; those that hold none any more are left out.
async fn read(caller: &Caller, found: Vec<Bytes>) -> Result<Vec<Item>, Status> {
    let commands = found.iter().map(|key| Command::get(key)).collect::<Result<Vec<_>, _>>()?;
    if commands.is_empty() {
        return Ok(Vec::new());
    }
    let results = caller.server.node.read(commands, Freshness::of(ReadLevel::Local)).await;
    let mut items = Vec::with_capacity(found.len());
    for (key, result) in found.into_iter().zip(results) {
        let outcome = match result {
            Ok(reply) => reply.outcomes.into_iter().next(),
            Err(Failure::Damaged { .. }) => None, // as where keys are listed
            Err(failure) => return Err(failure.into()),
        };
        let Some(outcome) = outcome else { continue };
        let Body::Value(Some(value)) = outcome.body else { continue };
        let key = Some(shown(caller.keys(), key));
        items.push(Item { key, value: Some(value), version: outcome.version });
    }
    Ok(items)
}
