//! konsen's service, for its clients: Put and Get with its messages.
//!
//! What is not as there: a failure is a status, so that a client sends again by itself only what did
//! nothing; a key without a value is NOT_FOUND, where konsen answers an empty value; and nothing is
//! acknowledged that another leader may have dropped.

use std::sync::Arc;

use diskstore_proto::konsen::kv_service_server::KvService;
use diskstore_proto::konsen::{GetReq, GetResp, KvList, PutReq, PutResp};
use diskstore_proto::read;
use tonic::{Request, Response, Status, async_trait};

use super::caller::{Call, Caller, first};
use super::status::wrong;
use super::store::value_of;
use crate::command::{Action, Answer, Command, CommandBuilder, Condition, Operation};
use crate::server::complaint::Complaint;
use crate::server::keys::Keys;
use crate::server::resp::lookup;

/// The service of one connection.
#[derive(Debug)]
pub(super) struct Konsen(pub(super) Arc<Caller>);

#[async_trait]
impl KvService for Konsen {
    async fn put(&self, request: Request<PutReq>) -> Result<Response<PutResp>, Status> {
        let Konsen(caller) = self;
        let (mut call, PutReq { data }) = Call::of(request)?;
        let pairs = read::<KvList>(data)
            .map_err(|reason| Complaint::wrong(format!("data is no KVList: {reason}")))?;
        let command = command_of(&pairs, caller.keys())?;
        drop(pairs); // the command has them
        call.requester.called(lookup(b"mset"));
        let reply = caller.write(&mut call, command).await?;
        for outcome in reply.outcomes {
            if let crate::command::Body::Refused(refusal) = outcome.body {
                return Err(refusal.into());
            }
        }
        Ok(call.written(PutResp { success: true, error_message: String::new() }))
    }

    async fn get(&self, request: Request<GetReq>) -> Result<Response<GetResp>, Status> {
        let Konsen(caller) = self;
        let (mut call, GetReq { key }) = Call::of(request)?;
        let command = Command::get(&caller.key(&key)?)?;
        let room = caller.room(caller.value_bytes_max(), call.by).await?;
        call.requester.called(lookup(b"get"));
        let value = value_of(first(caller.read(&mut call, command, None).await?)?)?;
        let error_message = String::new();
        let mut response = Response::new(GetResp { success: true, value, error_message });
        response.extensions_mut().insert(room);
        Ok(response)
    }
}

/// All pairs as one command; of two with the same key the last one counts, as there.
fn command_of(pairs: &KvList, keys: &Keys) -> Result<Command, Status> {
    if pairs.kv_list.is_empty() {
        return Err(wrong("data names no key"));
    }
    let mut command = CommandBuilder::new();
    for pair in &pairs.kv_list {
        keys.check_value(u64::try_from(pair.value.len()).unwrap_or(u64::MAX))?;
        let (condition, answer) = (Condition::Always, Answer::Status);
        let action = Action::Set { value: &pair.value, condition, answer };
        command.push(&Operation { key: &keys.key(&pair.key)?, action })?;
    }
    Ok(command.finish())
}

/// Makes a command of a list of pairs.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(message: &bytes::Bytes, keys: &Keys) {
    use diskstore_proto::Message;
    if let Ok(pairs) = KvList::decode(message.clone()) {
        drop(command_of(&pairs, keys));
    }
}
