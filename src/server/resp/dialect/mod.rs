//! RESP as a dialect of the turn: turns requests into errands, and their results into replies.
//! Pure.
//!
//! Called by the turn. The connection and the table of commands decide what a request means.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::BytesMut;

use super::connection::{Connection, Planned, Step, Unfinished};
use super::decode::Decoder;
use super::encode::{Encoder, Version};
use super::form::Kind;
use crate::command::CommandResult;
use crate::config::MachineKind;
use crate::messages::Delivery;
use crate::server::ask::Question;
use crate::server::complaint::Complaint;
use crate::server::keys::Keys;
use crate::server::requester::Requester;
use crate::server::turn::{Destination, Dialect, Errand, Then, Work};
use crate::server::value::Value;

/// A connection that speaks RESP.
#[derive(Debug)]
pub(crate) struct RespDialect {
    decoder: Decoder,
    connection: Connection,
}

impl RespDialect {
    /// A connection as it begins, to a program that holds such a state.
    pub(crate) fn new(keys: Arc<Keys>, machine: MachineKind, requester: Requester) -> RespDialect {
        let connection = Connection::new(keys, machine, requester);
        RespDialect { decoder: Decoder::default(), connection }
    }
}

impl Dialect for RespDialect {
    type Request = Planned;
    type Unfinished<'a> = Unfinished<'a>;

    fn requester(&mut self) -> &mut Requester {
        self.connection.requester()
    }

    fn take(&mut self, input: &mut BytesMut) -> Option<Errand<Planned>> {
        let is_strangers = self.connection.requester().granted().is_none();
        self.decoder.of_stranger(is_strangers);
        self.connection.expect(input.len());
        let planned = match self.decoder.next(input) {
            Ok(Some(request)) => self.connection.take(&request),
            Ok(None) => {
                self.connection.expect(0);
                return None;
            }
            Err(error) => Planned::farewell(Complaint::wrong(format!("Protocol error: {error}"))),
        };
        Some(errand(planned))
    }

    fn show(&self) {
        self.connection.show();
    }

    fn begin_reply<'a>(
        &mut self,
        planned: &'a Planned,
        result: Option<&'a CommandResult>,
        out: &mut BytesMut,
    ) -> Unfinished<'a> {
        self.connection.begin_reply(planned, result, &mut Encoder::new(out, planned.version))
    }

    fn go_on<'a>(
        &mut self,
        reply: &mut Self::Unfinished<'a>,
        answer: Option<&Value>,
        out: &mut BytesMut,
    ) -> Option<Cow<'a, Question>> {
        let mut to = Encoder::new(out, reply.version());
        if let Some(answer) = answer {
            if matches!(answer, Value::Several(_)) {
                // What waits belongs to subscriptions as they were before.
                self.connection.tell_all(out);
                to = Encoder::new(out, reply.version());
            }
            to.answer(answer);
        }
        reply.next_question(&mut self.connection, &mut to)
    }

    fn tell(&self, delivery: &Delivery, out: &mut BytesMut) {
        self.connection.tell(delivery, out);
    }

    fn complain(&self, complaint: &Complaint, out: &mut BytesMut) {
        Encoder::new(out, Version::default()).complaint(complaint);
    }
}

/// What the turn has to know of a step.
fn errand(mut planned: Planned) -> Errand<Planned> {
    let mut reply_bytes_max = planned.reply_bytes_max;
    let then = match planned.step {
        Step::Close(_) => Then::Close,
        _ if planned.is_barrier() => Then::Answer,
        _ => Then::More,
    };
    let work = match &mut planned.step {
        Step::Answer(answer) => {
            reply_bytes_max += u64::try_from(answer.byte_count()).unwrap_or(u64::MAX);
            Work::Nothing
        }
        Step::Close(_) => Work::Nothing,
        Step::Ask(_) | Step::Transaction { kind: None, .. } => Work::Answer,
        Step::Execute { command, kind, .. }
        | Step::Transaction { command, kind: Some(kind), .. } => {
            let command = std::mem::take(command);
            match kind {
                Kind::Read => Work::Read(command),
                Kind::Write => Work::Write(command),
            }
        }
    };
    let destination = if planned.silent { Destination::Nowhere } else { Destination::Connection };
    Errand { request: planned, work, destination, reply_bytes_max, then }
}

#[cfg(test)]
mod tests;
