//! One turn of a RESP connection: requests are taken, executed in runs and answered.
//!
//! Called by the session; calls the node. The bytes are `resp`'s business, the socket the session's.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::clients::Client;
use super::resp::{Connection, Decoder, Encoder, Kind, Planned, Step, Version, render};
use super::session::Flow;
use super::turn::{Need, plan};
use super::{Server, ask};
use crate::command::{Command, CommandResult, Failure, ReadLevel};

/// Most requests of one turn.
const TURN_REQUEST_COUNT_MAX: usize = 1024;
/// Bytes of replies that end a turn; the last request of it may go beyond.
const TURN_REPLY_BYTES_MAX: u64 = 4 << 20;

/// A connection that speaks RESP.
pub(crate) struct RespDialect {
    decoder: Decoder,
    connection: Connection,
}

impl RespDialect {
    /// A connection as it begins.
    pub(crate) fn new(server: &Server, client: Arc<Client>) -> RespDialect {
        let value_bytes_max = usize::try_from(server.keys.value_bytes_max()).unwrap_or(usize::MAX);
        let connection = Connection::new(Arc::clone(&server.keys), client);
        RespDialect { decoder: Decoder::new(value_bytes_max), connection }
    }

    /// Takes requests off `input`, executes them and appends the replies to `out`.
    pub(crate) async fn turn(
        &mut self,
        server: &Server,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Flow {
        let (mut steps, flow) = self.gather(input);
        let level = self.connection.read_level(server.node.read_level());
        for run in plan(steps.iter().map(|planned| need_of(&planned.step, level))) {
            let commands = take_commands(&mut steps, run.requests.clone());
            let results = match run.need {
                Need::Write => server.node.write(commands).await,
                Need::Read => {
                    let level = self.fresh_level(server, level);
                    server.node.read(commands, level).await
                }
                Need::Nothing | Need::Ask => Vec::new(),
            };
            let mut results = results.into_iter();
            for planned in steps.get(run.requests).unwrap_or_default() {
                let before = out.len();
                self.reply(server, planned, &mut results, out).await;
                if planned.silent {
                    out.truncate(before);
                }
            }
        }
        flow
    }

    /// Takes as many requests as one turn may hold.
    fn gather(&mut self, input: &mut BytesMut) -> (Vec<Planned>, Flow) {
        let mut steps = Vec::new();
        let mut reply_bytes = 0;
        while steps.len() < TURN_REQUEST_COUNT_MAX && reply_bytes < TURN_REPLY_BYTES_MAX {
            let planned = match self.decoder.next(input) {
                Ok(None) => return (steps, Flow::Read),
                Ok(Some(request)) => self.connection.take(&request),
                Err(error) => {
                    let text = format!("-ERR Protocol error: {error}\r\n");
                    let (version, silent) = (Version::default(), false);
                    let step = Step::Close(Bytes::from(text));
                    Planned { step, version, silent, reply_bytes_max: 0 }
                }
            };
            reply_bytes += planned.reply_bytes_max;
            if let Step::Answer(bytes) = &planned.step {
                reply_bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            }
            let (barrier, last) = (planned.is_barrier(), matches!(planned.step, Step::Close(_)));
            steps.push(planned);
            if last {
                return (steps, Flow::Close);
            }
            if barrier {
                break;
            }
        }
        (steps, Flow::Again)
    }

    /// The level at which a read sees this connection's own writes: where the replica that a
    /// local read would ask has not applied them, the read is linearizable instead.
    fn fresh_level(&self, server: &Server, level: ReadLevel) -> ReadLevel {
        let behind = server.node.applied_index() < self.connection.written_index();
        if level == ReadLevel::Local && behind { ReadLevel::Linearizable } else { level }
    }

    async fn reply(
        &mut self,
        server: &Server,
        planned: &Planned,
        results: &mut impl Iterator<Item = CommandResult>,
        out: &mut BytesMut,
    ) {
        let mut to = Encoder::new(out, planned.version);
        match &planned.step {
            Step::Answer(bytes) | Step::Close(bytes) => to.raw(bytes),
            Step::Execute { shape, .. } => {
                let result = results.next().unwrap_or_else(missing_result);
                self.connection.note(shape, &result);
                render(&mut to, shape, &result);
            }
            Step::Ask(question) => ask::answer(server, &self.connection, question, &mut to).await,
        }
    }
}

/// Stands for a result that the node owes.
pub(crate) fn missing_result() -> CommandResult {
    let reason = "the node gave no result".to_owned();
    Err(Failure::Unknown { term: 0, index: 0, reason })
}

/// What a step needs of the node, where reads are of `level`.
fn need_of(step: &Step, level: ReadLevel) -> Need {
    match step {
        Step::Answer(_) | Step::Close(_) => Need::Nothing,
        Step::Ask(_) => Need::Ask,
        Step::Execute { kind: Kind::Write, .. } => Need::Write,
        Step::Execute { kind: Kind::Read, .. } if level == ReadLevel::Log => Need::Write,
        Step::Execute { kind: Kind::Read, .. } => Need::Read,
    }
}

fn take_commands(steps: &mut [Planned], range: Range<usize>) -> Vec<Command> {
    let steps = steps.get_mut(range).unwrap_or_default();
    let commands = steps.iter_mut().filter_map(|planned| match &mut planned.step {
        Step::Execute { command, .. } => Some(std::mem::take(command)),
        Step::Answer(_) | Step::Ask(_) | Step::Close(_) => None,
    });
    commands.collect()
}
