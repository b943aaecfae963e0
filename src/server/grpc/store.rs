//! Our own service: reads and writes of one key and of many, streams, and how the member stands.

use std::sync::Arc;

use bytes::Bytes;
use diskstore_proto::diskstore::store_server;
use diskstore_proto::diskstore::{
    self as proto, BatchRequest, BatchResponse, ChangesRequest, ChangesResponse, DeleteRequest,
    DeleteResponse, GetRequest, GetResponse, ScanRequest, ScanResponse, SetRequest, SetResponse,
    StatusRequest, StatusResponse, condition, key, operation, result,
};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, async_trait};

use super::caller::{Call, Caller, first};
use super::status::{condition as failed, no_value, too_large, wrong};
use super::{changes, scan};
use crate::command::{
    Action, Answer, Body, Command, CommandBuilder, Condition, OPERATION_COUNT_MAX, Operation,
    Outcome, REPLY_BYTES_MAX, ReadLevel,
};
use crate::server::keys::Keys;
use crate::server::resp::lookup;

/// The service of one connection.
#[derive(Debug)]
pub(super) struct Store(pub(super) Arc<Caller>);

#[async_trait]
impl store_server::Store for Store {
    type ScanStream = BoxStream<ScanResponse>;
    type ChangesStream = BoxStream<ChangesResponse>;

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let Store(caller) = self;
        let (mut call, GetRequest { key, level }) = Call::of(request)?;
        let command = Command::get(&key_of(caller.keys(), key)?)?;
        let room = caller.room(caller.value_bytes_max(), call.by).await?;
        call.requester.called(lookup(b"get"));
        let outcome = first(caller.read(&mut call, command, level_of(level)?).await?)?;
        let version = outcome.version;
        let mut response = Response::new(GetResponse { value: value_of(outcome)?, version });
        response.extensions_mut().insert(room);
        Ok(response)
    }

    async fn set(&self, request: Request<SetRequest>) -> Result<Response<SetResponse>, Status> {
        let Store(caller) = self;
        let (mut call, SetRequest { key, value, condition }) = Call::of(request)?;
        let key = key_of(caller.keys(), key)?;
        check_value(caller.keys(), &value)?;
        let (condition, answer) = (condition_of(condition.as_ref())?, Answer::Status);
        let action = Action::Set { value: &value, condition, answer };
        let command = Command::single(&Operation { key: &key, action })?;
        call.requester.called(lookup(b"set"));
        let outcome = first(caller.write(&mut call, command).await?)?;
        if !outcome.changed {
            return Err(failed(outcome.version));
        }
        Ok(call.written(SetResponse { version: outcome.version }))
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let Store(caller) = self;
        let (mut call, DeleteRequest { key, condition }) = Call::of(request)?;
        let key = key_of(caller.keys(), key)?;
        let condition = condition_of(condition.as_ref())?;
        let action = Action::Delete { condition, answer: Answer::Status };
        let command = Command::single(&Operation { key: &key, action })?;
        call.requester.called(lookup(b"del"));
        let outcome = first(caller.write(&mut call, command).await?)?;
        if outcome.changed {
            return Ok(call.written(DeleteResponse { version: outcome.version }));
        }
        let was_free = matches!(condition, Condition::Always | Condition::IfAbsent);
        Err(if was_free { no_value(outcome.version) } else { failed(outcome.version) })
    }

    async fn batch(
        &self,
        request: Request<BatchRequest>,
    ) -> Result<Response<BatchResponse>, Status> {
        let Store(caller) = self;
        let (mut call, BatchRequest { operations, level }) = Call::of(request)?;
        let level = level_of(level)?;
        let (command, value_count) = command_of(operations, caller.keys())?;
        let value_bytes_max = u64::try_from(caller.value_bytes_max()).unwrap_or(u64::MAX);
        let value_bytes = value_bytes_max.saturating_mul(value_count).min(REPLY_BYTES_MAX);
        let room = caller.room(usize::try_from(value_bytes).unwrap_or(usize::MAX), call.by).await?;
        let is_read = command.is_read();
        call.requester.called(lookup(if is_read { b"mget" } else { b"exec" }));
        let reply = if is_read {
            caller.read(&mut call, command, level).await?
        } else {
            caller.write(&mut call, command).await?
        };
        let results = reply.outcomes.into_iter().map(result_of).collect();
        let mut response = call.written(BatchResponse { results, index: reply.index });
        response.extensions_mut().insert(room);
        Ok(response)
    }

    async fn scan(
        &self,
        request: Request<ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        let Store(caller) = self;
        let (call, request) = Call::of(request)?;
        Ok(Response::new(scan::begin(caller, &request, call)?))
    }

    async fn changes(
        &self,
        request: Request<ChangesRequest>,
    ) -> Result<Response<Self::ChangesStream>, Status> {
        let Store(caller) = self;
        let (call, request) = Call::of(request)?;
        Ok(Response::new(changes::begin(caller, &request, call)?))
    }

    async fn status(
        &self,
        _request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let node = &self.0.server.node;
        let (status, limits) = (node.status(), node.limits());
        let json = status.to_json();
        Ok(Response::new(StatusResponse {
            name: status.name,
            member_id: status.member_id,
            cluster_id: cluster_id(&self.0),
            role: status.role,
            leader: status.leader.unwrap_or_default(),
            term: status.term,
            committed: status.committed,
            applied: status.applied,
            slot_count: limits.slot_count,
            value_bytes_max: u64::from(limits.value_bytes_max),
            first_change: node.first_change(),
            json,
        }))
    }
}

/// The cluster as clients know it: its indexes are those of no other.
pub(super) fn cluster_id(caller: &Caller) -> String {
    let (cluster_id, _) = caller.server.node.ids();
    format!("{cluster_id:032x}")
}

/// The key that a request names, as commands have it.
fn key_of(keys: &Keys, key: Option<proto::Key>) -> Result<Bytes, Status> {
    match key.and_then(|key| key.name) {
        None => Err(wrong("a key is missing: its slot, or its bytes")),
        Some(key::Name::Bytes(name)) => match keys.slot_bytes() {
            // Where any bytes are a key, these are shared with the request.
            None => Ok(name),
            Some(_) => Ok(Bytes::copy_from_slice(&keys.key(&name)?)),
        },
        Some(key::Name::Slot(_)) if keys.slot_bytes().is_none() => {
            Err(wrong("keys are no slots on this node: name their bytes"))
        }
        Some(key::Name::Slot(slot)) => {
            Ok(Bytes::copy_from_slice(&keys.key(slot.to_string().as_bytes())?))
        }
    }
}

/// A key of a command as responses name it.
pub(super) fn shown(keys: &Keys, key: Bytes) -> proto::Key {
    let slot = keys.slot_bytes().and_then(|_| crate::command::slot_of(&key));
    proto::Key { name: Some(slot.map_or(key::Name::Bytes(key), key::Name::Slot)) }
}

fn check_value(keys: &Keys, value: &[u8]) -> Result<(), Status> {
    Ok(keys.check_value(u64::try_from(value.len()).unwrap_or(u64::MAX))?)
}

/// How fresh a read has to be, if the request says so.
pub(super) fn level_of(level: i32) -> Result<Option<ReadLevel>, Status> {
    match proto::Level::try_from(level) {
        Ok(proto::Level::Unspecified) => Ok(None),
        Ok(proto::Level::Linearizable) => Ok(Some(ReadLevel::Linearizable)),
        Ok(proto::Level::Lease) => Ok(Some(ReadLevel::Lease)),
        Ok(proto::Level::Local) => Ok(Some(ReadLevel::Local)),
        Ok(proto::Level::Log) => Ok(Some(ReadLevel::Log)),
        Err(_) => Err(wrong("level is none that this node knows")),
    }
}

fn condition_of(condition: Option<&proto::Condition>) -> Result<Condition<'_>, Status> {
    let Some(condition) = condition else { return Ok(Condition::Always) };
    match &condition.when {
        Some(condition::When::Absent(_)) => Ok(Condition::IfAbsent),
        Some(condition::When::Present(_)) => Ok(Condition::IfPresent),
        Some(condition::When::Version(version)) => Ok(Condition::IfVersion(*version)),
        Some(condition::When::Equal(bytes)) => Ok(Condition::IfEqual(bytes)),
        // Maybe one that a newer client knows.
        None => Err(wrong("a condition is there and says nothing that this node knows")),
    }
}

/// All operations as one command, and how many of them read a value.
fn command_of(operations: Vec<proto::Operation>, keys: &Keys) -> Result<(Command, u64), Status> {
    if operations.is_empty() {
        return Err(wrong("a batch has one operation at least"));
    }
    if operations.len() > OPERATION_COUNT_MAX {
        return Err(too_large(format!("a batch has {OPERATION_COUNT_MAX} operations at most")));
    }
    let (mut command, mut value_count) = (CommandBuilder::new(), 0);
    for proto::Operation { key, action } in operations {
        let key = key_of(keys, key)?;
        let answer = Answer::Status;
        let action = match &action {
            Some(operation::Action::Get(_)) => {
                value_count += 1;
                Action::Get
            }
            Some(operation::Action::Set(set)) => {
                check_value(keys, &set.value)?;
                let condition = condition_of(set.condition.as_ref())?;
                Action::Set { value: &set.value, condition, answer }
            }
            Some(operation::Action::Delete(delete)) => {
                Action::Delete { condition: condition_of(delete.condition.as_ref())?, answer }
            }
            None => return Err(wrong("an operation says nothing that this node knows")),
        };
        command.push(&Operation { key: &key, action })?;
    }
    Ok((command.finish(), value_count))
}

/// The value that was read.
pub(super) fn value_of(outcome: Outcome) -> Result<Bytes, Status> {
    match outcome.body {
        Body::Value(Some(value)) => Ok(value),
        Body::Value(None) | Body::Empty | Body::Integer(_) | Body::Refused(_) => {
            Err(no_value(outcome.version))
        }
        Body::Measured(bytes) => {
            Err(too_large(format!("the value is {bytes} bytes, too long for a response")))
        }
    }
}

fn result_of(outcome: Outcome) -> proto::Result {
    let Outcome { version, changed, body, .. } = outcome;
    let outcome = match body {
        Body::Value(Some(value)) => result::Outcome::Value(value),
        Body::Value(None) => result::Outcome::NoValue(proto::Absent {}),
        Body::Measured(bytes) => result::Outcome::ValueBytes(bytes),
        Body::Empty | Body::Integer(_) => result::Outcome::Changed(changed),
        Body::Refused(refusal) => result::Outcome::Refused(refusal.to_string()),
    };
    proto::Result { version, outcome: Some(outcome) }
}

/// Makes commands of a message's fields, as far as it is one of the kind.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(kind: u8, message: &Bytes, keys: &Keys) {
    use diskstore_proto::Message;
    match kind % 4 {
        0 => drop(BatchRequest::decode(message.clone()).map(|batch| {
            drop(level_of(batch.level));
            let count = batch.operations.len();
            if let Ok((command, _)) = command_of(batch.operations, keys) {
                assert_eq!(command.operation_count(), count);
            }
        })),
        1 => drop(SetRequest::decode(message.clone()).map(|set| {
            drop(check_value(keys, &set.value));
            drop(condition_of(set.condition.as_ref()));
            drop(key_of(keys, set.key).map(|key| shown(keys, key)));
        })),
        2 => super::konsen::fuzz(message, keys),
        _ => drop(ScanRequest::decode(message.clone()).map(|scan| drop(level_of(scan.level)))),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "as a message has it")]
    fn slot(slot: u64) -> Option<proto::Key> {
        Some(proto::Key { name: Some(key::Name::Slot(slot)) })
    }

    fn operation(key: Option<proto::Key>, action: operation::Action) -> proto::Operation {
        proto::Operation { key, action: Some(action) }
    }

    fn set(value: &'static [u8], condition: Option<condition::When>) -> operation::Action {
        let condition = condition.map(|when| proto::Condition { when: Some(when) });
        operation::Action::Set(proto::Set { value: Bytes::from_static(value), condition })
    }

    #[test]
    fn a_key_is_a_slot_or_bytes() {
        let (slots, any) = (Keys::new(100, 4, &[]), Keys::new(0, 4, &[]));
        let bytes = |bytes: &'static [u8]| {
            Some(proto::Key { name: Some(key::Name::Bytes(Bytes::from_static(bytes))) })
        };
        let seven = &[7, 0, 0, 0, 0, 0, 0, 0][..];
        assert_eq!(key_of(&slots, slot(7)).unwrap(), seven);
        assert_eq!(key_of(&slots, bytes(b"007")).unwrap(), seven);
        assert_eq!(key_of(&any, bytes(b"\xff")).unwrap(), &b"\xff"[..]);
        assert_eq!(key_of(&any, bytes(b"")).unwrap(), &b""[..]);
        let bad = [(&slots, slot(100)), (&slots, bytes(b"x")), (&any, slot(7)), (&any, None)];
        for (keys, key) in bad.into_iter().chain([(&slots, Some(proto::Key { name: None }))]) {
            assert_eq!(key_of(keys, key).unwrap_err().code(), Code::InvalidArgument);
        }
        assert_eq!(shown(&slots, Bytes::from_static(seven)), slot(7).unwrap());
        assert_eq!(shown(&any, Bytes::from_static(b"k")), bytes(b"k").unwrap());
    }

    #[test]
    fn operations_become_one_command() {
        let keys = Keys::new(100, 4, &[]);
        let equal = condition::When::Equal(Bytes::from_static(b"o"));
        let operations = vec![
            operation(slot(1), operation::Action::Get(proto::Get {})),
            operation(slot(2), set(b"a", None)),
            operation(slot(3), set(b"b", Some(condition::When::Absent(proto::Absent {})))),
            operation(slot(4), set(b"c", Some(condition::When::Version(5)))),
            operation(slot(5), set(b"d", Some(equal))),
            operation(slot(6), operation::Action::Delete(proto::Delete::default())),
        ];
        let (command, value_count) = command_of(operations, &keys).unwrap();
        let actions: Vec<_> = command.operations().map(|operation| operation.action).collect();
        let answer = Answer::Status;
        let set = |value, condition| Action::Set { value, condition, answer };
        let expected = [
            Action::Get,
            set(b"a", Condition::Always),
            set(b"b", Condition::IfAbsent),
            set(b"c", Condition::IfVersion(5)),
            set(b"d", Condition::IfEqual(b"o")),
            Action::Delete { condition: Condition::Always, answer },
        ];
        assert_eq!((actions.as_slice(), value_count), (&expected[..], 1));
    }

    #[test]
    fn what_is_no_batch_is_refused_as_a_whole() {
        let keys = Keys::new(100, 4, &[]);
        let get = || operation(slot(1), operation::Action::Get(proto::Get {}));
        let nothing = proto::Operation { key: slot(1), action: None };
        let unknown = operation(
            slot(1),
            operation::Action::Delete(proto::Delete {
                condition: Some(proto::Condition { when: None }),
            }),
        );
        for bad in [
            vec![],
            vec![get(), nothing],
            vec![get(), unknown],
            vec![get(), operation(slot(1), set(b"12345", None))],
            vec![get(), operation(slot(100), set(b"1", None))],
            vec![get(), operation(None, set(b"1", None))],
        ] {
            assert_eq!(command_of(bad, &keys).unwrap_err().code(), Code::InvalidArgument);
        }
        let many = |count| (0..count).map(|_| get()).collect();
        assert!(command_of(many(OPERATION_COUNT_MAX), &keys).is_ok());
        let refused = command_of(many(OPERATION_COUNT_MAX + 1), &keys).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
    }
}
