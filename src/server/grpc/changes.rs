//! The stream of changes: every entry behind an index, in order, as this member applies them.
//!
//! Called by `store`; calls the node. A task reads piece by piece from the log and waits for the client
//! after every message, so that a client that follows slowly costs one piece and not a queue: where it
//! falls behind what the log still has, it is told what was purged. Invariants:
//!
//! - I1: a client that takes nothing for a bounded time is ended, and told where to go on.
//! - I2: every event but the first is about the index behind the one before, or says up to where there
//!   are none.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use diskstore_proto::diskstore::{
    self as proto, Begun, ChangesRequest, ChangesResponse, Purged, SetRange, changes_response,
    condition, write,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::codegen::BoxStream;
use tonic::{Code, Status};

use super::caller::{Call, Caller};
use super::scan::stream_of;
use super::status::{code_of, elsewhere, go_on_after};
use super::store::{cluster_id, shown};
use crate::command::{Action, Command, Condition, Operation};
use crate::node::{Became, Change, Effect, Following};
use crate::server::access::RequestKind;
use crate::server::http::status_of;
use crate::server::keys::Keys;
use crate::server::requester::Requester;
use crate::server::wire::Unsent;

/// How long a client may take nothing of its changes.
const UNTAKEN_TIME_MAX: Duration = Duration::from_mins(1);
/// Messages that wait for the client, beside the one that tells the end.
const WAITING_COUNT_MAX: usize = 2;
/// Bytes of values that one entry tells which do not stand in it.
const VALUE_BYTES_MAX: usize = 1 << 20;

type Told = mpsc::Sender<Result<ChangesResponse, Status>>;

/// Begins a stream.
///
/// # Errors
/// The request is wrong, or there are too many streams.
pub(super) fn begin(
    caller: &Arc<Caller>,
    request: &ChangesRequest,
    call: Call,
) -> Result<BoxStream<ChangesResponse>, Status> {
    let cluster_id = cluster_id(caller);
    if !request.cluster_id.is_empty() && request.cluster_id != cluster_id {
        return Err(elsewhere(&cluster_id));
    }
    let place = caller.place()?;
    let after = request.after.unwrap_or_else(|| caller.server.node.applied_index());
    let (told, heard) = mpsc::channel(WAITING_COUNT_MAX + 1);
    let end = told.clone().try_reserve_owned().map_err(|_| Status::internal("no room"))?;
    let caller = Arc::clone(caller);
    let outlet = Outlet {
        told,
        unsent: Arc::clone(&caller.unsent),
        untaken_time_max: UNTAKEN_TIME_MAX,
        told_up_to: AtomicU64::new(after),
    };
    let Call { requester, by, .. } = call;
    tokio::spawn(async move {
        let mut follower = Follower { caller: &caller, requester, outlet: &outlet };
        let (code, reason, message) = tokio::select! {
            ended = by.wait(follower.run(cluster_id)) => match ended {
                None => (Code::DeadlineExceeded, "timeout", "the time of this call is over".into()),
                Some(ended) => ended,
            },
            () = caller.stopping.clone() => {
                (Code::Unavailable, "unavailable", "this node is stopping".into())
            }
            () = outlet.told.closed() => return,
        };
        drop(place);
        end.send(Err(go_on_after(code, &message, reason, outlet.told_up_to())));
    });
    Ok(Box::pin(stream_of(heard)))
}

/// Why a stream ends: its status, and the reason for programs and for people.
type Ended = (Code, &'static str, Cow<'static, str>);

/// Where events go.
struct Outlet {
    told: Told,
    unsent: Arc<Unsent>,
    /// How long the client may take nothing.
    untaken_time_max: Duration,
    /// The index of the last event.
    told_up_to: AtomicU64,
}

impl Outlet {
    fn told_up_to(&self) -> u64 {
        self.told_up_to.load(Ordering::Relaxed)
    }

    /// Hands one event on, once there is room (I1).
    async fn tell(&self, event: changes_response::Event, index: u64) -> Result<(), Ended> {
        let response = Ok(ChangesResponse { event: Some(event) });
        let sent = timeout(self.untaken_time_max, async {
            self.unsent.wait_for_room().await;
            self.told.send(response).await
        });
        if sent.await.is_err() {
            let seconds = self.untaken_time_max.as_secs();
            let message = format!("this client took no change for {seconds} s");
            return Err((Code::Aborted, "slow", message.into()));
        }
        // Whoever does not hear it any more has closed the stream, which ends all of this.
        self.told_up_to.store(index, Ordering::Relaxed);
        Ok(())
    }
}

/// One client that follows.
struct Follower<'a> {
    caller: &'a Caller,
    requester: Requester,
    outlet: &'a Outlet,
}

impl Follower<'_> {
    /// Tells everything, until that cannot go on.
    async fn run(&mut self, cluster_id: String) -> Ended {
        let mut after = self.outlet.told_up_to();
        let begun = changes_response::Event::Begun(Begun { after, cluster_id });
        if let Err(ended) = self.outlet.tell(begun, after).await {
            return ended;
        }
        loop {
            let node = &self.caller.server.node;
            let following = node.following(after).await;
            self.requester.renew(); // its token may have been removed, or have expired
            if let Err(complaint) = self.requester.check(RequestKind::Read) {
                return (code_of(complaint.class), status_of(complaint.class).1, complaint.text);
            }
            let told = match following {
                Ok(Following::Changes(changes)) => self.tell_all(changes).await,
                Ok(Following::Purged { up_to }) => {
                    let purged = changes_response::Event::Purged(Purged { up_to });
                    self.outlet.tell(purged, up_to).await
                }
                Err(error) => return (Code::DataLoss, "fault", error.to_string().into()),
            };
            if let Err(ended) = told {
                return ended;
            }
            after = self.outlet.told_up_to();
        }
    }

    async fn tell_all(&self, changes: Vec<Change>) -> Result<(), Ended> {
        for change in changes {
            let index = change.log_id.index;
            let change = self.change_of(change);
            self.outlet.tell(changes_response::Event::Change(change), index).await?;
        }
        Ok(())
    }

    /// An entry as its message.
    fn change_of(&self, change: Change) -> proto::Change {
        let Change { log_id, command } = change;
        let (index, term) = (log_id.index, log_id.term.get());
        let Some(command) = command else {
            return proto::Change { index, term, writes: Vec::new() };
        };
        let became = self.caller.server.node.became(index, &command, VALUE_BYTES_MAX);
        let writes = command.operations().zip(became).filter_map(|(operation, became)| {
            write_of(self.caller.keys(), &command, &operation, became)
        });
        proto::Change { index, term, writes: writes.collect() }
    }
}

/// An operation as a message has it, if it is no read. Values are slices of the command.
fn write_of(
    keys: &Keys,
    command: &Command,
    operation: &Operation<'_>,
    became: Became,
) -> Option<proto::Write> {
    let shared = |part: &[u8]| command.bytes().slice_ref(part);
    let (action, condition) = match operation.action {
        Action::Get | Action::Measure | Action::Publish { .. } => return None,
        Action::Set { value, condition, .. } => (write::Action::Set(shared(value)), condition),
        Action::Delete { condition, .. } => (write::Action::Delete(proto::Absent {}), condition),
        Action::Increment { by } => (write::Action::Increment(by), Condition::Always),
        Action::Append { value } => (write::Action::Append(shared(value)), Condition::Always),
        Action::SetRange { offset, value } => {
            let range = SetRange { offset, bytes: shared(value) };
            (write::Action::SetRange(range), Condition::Always)
        }
    };
    let when = match condition {
        Condition::Always => None,
        Condition::IfAbsent => Some(condition::When::Absent(proto::Absent {})),
        Condition::IfPresent => Some(condition::When::Present(proto::Present {})),
        Condition::IfVersion(version) => Some(condition::When::Version(version)),
        Condition::IfEqual(bytes) => Some(condition::When::Equal(shared(bytes))),
    };
    let effect = match became.effect {
        Effect::Applied => proto::Effect::Applied,
        Effect::None => proto::Effect::None,
        Effect::Unknown => proto::Effect::Unknown,
    };
    Some(proto::Write {
        key: Some(shown(keys, shared(operation.key))),
        action: Some(action),
        condition: when.map(|when| proto::Condition { when: Some(when) }),
        effect: effect.into(),
        value: became.value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::socket::{Backlog, Share};

    fn event(index: u64) -> changes_response::Event {
        changes_response::Event::Purged(Purged { up_to: index })
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_ended_where_it_stands() {
        let short = Duration::from_millis(50);
        let (told, mut heard) = mpsc::channel(WAITING_COUNT_MAX);
        let unsent = Arc::new(Unsent::new(Share::new(Arc::new(Backlog::new(short)))));
        let told_up_to = AtomicU64::new(0);
        let outlet = Outlet { told, unsent: unsent.clone(), untaken_time_max: short, told_up_to };
        for index in 1..=2 {
            outlet.tell(event(index), index).await.unwrap();
        }
        let (code, reason, _) = outlet.tell(event(3), 3).await.unwrap_err();
        assert_eq!((code, reason, outlet.told_up_to()), (Code::Aborted, "slow", 2));
        // What it has not taken yet it still hears, and then it goes on.
        for index in 1..=2 {
            let response = heard.recv().await.unwrap().unwrap();
            assert_eq!(response.event, Some(event(index)));
        }
        outlet.tell(event(3), 3).await.unwrap();
        assert_eq!(outlet.told_up_to(), 3);
        // Neither is anything told while others take all room.
        unsent.add(crate::server::socket::UNSENT_BYTES_MAX);
        assert_eq!(outlet.tell(event(4), 4).await.unwrap_err().1, "slow");
    }

    #[test]
    fn an_operation_is_told_as_it_stands_in_the_log() {
        let keys = Keys::new(0, 100, &[]);
        let answer = crate::command::Answer::Status;
        let set = |condition| Action::Set { value: b"v", condition, answer };
        let absent = condition::When::Absent(proto::Absent {});
        let range = SetRange { offset: 3, bytes: "r".into() };
        for (action, told, when) in [
            (set(Condition::Always), write::Action::Set("v".into()), None),
            (set(Condition::IfAbsent), write::Action::Set("v".into()), Some(absent)),
            (
                set(Condition::IfEqual(b"o")),
                write::Action::Set("v".into()),
                Some(condition::When::Equal("o".into())),
            ),
            (
                Action::Delete { condition: Condition::IfVersion(7), answer },
                write::Action::Delete(proto::Absent {}),
                Some(condition::When::Version(7)),
            ),
            (Action::Increment { by: -2 }, write::Action::Increment(-2), None),
            (Action::Append { value: b"a" }, write::Action::Append("a".into()), None),
            (Action::SetRange { offset: 3, value: b"r" }, write::Action::SetRange(range), None),
        ] {
            let command = Command::single(&Operation { key: b"k", action }).unwrap();
            let operation = command.operations().next().unwrap();
            let became = Became { effect: Effect::Applied, value: None };
            let found = write_of(&keys, &command, &operation, became).unwrap();
            assert_eq!(found.action, Some(told));
            assert_eq!(found.condition, when.map(|when| proto::Condition { when: Some(when) }));
            assert_eq!(found.effect(), proto::Effect::Applied);
        }
        let read = Command::get(b"k").unwrap();
        let operation = read.operations().next().unwrap();
        let became = Became { effect: Effect::None, value: None };
        assert_eq!(write_of(&keys, &read, &operation, became), None);
    }
}
