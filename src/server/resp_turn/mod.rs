//! One turn of a RESP connection: requests are taken, executed in runs and answered.
//!
//! Called by the session; calls the node. The bytes are `resp`'s business, the socket the session's.

use std::ops::Range;
use std::sync::Arc;

use bytes::BytesMut;

use super::clients::Client;
use super::resp::{Connection, Decoder, Encoder, Kind, Planned, Step};
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
        RespDialect::on(Connection::new(Arc::clone(&server.keys), client))
    }

    fn on(connection: Connection) -> RespDialect {
        RespDialect { decoder: Decoder::default(), connection }
    }

    /// Takes requests off `input`, executes them and appends the replies to `out`.
    pub(crate) async fn turn(
        &mut self,
        server: &Server,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Flow {
        let (mut steps, flow) = self.gather(input);
        self.connection.show();
        let level = self.connection.freshness(server.node.read_level()).level;
        for run in plan(steps.iter().map(|planned| need_of(&planned.step, level))) {
            let commands = take_commands(&mut steps, run.requests.clone());
            let results = match run.need {
                Need::Write => server.node.write(commands).await,
                Need::Read => {
                    let freshness = self.connection.freshness(server.node.read_level());
                    server.node.read(commands, freshness).await
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
                Err(error) => Planned::farewell(&format!("ERR Protocol error: {error}")),
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

    async fn reply(
        &mut self,
        server: &Server,
        planned: &Planned,
        results: &mut impl Iterator<Item = CommandResult>,
        out: &mut BytesMut,
    ) {
        let mut to = Encoder::new(out, planned.version);
        let result = has_result(&planned.step).then(|| results.next());
        let result = result.map(|result| result.unwrap_or_else(missing_result));
        let mut rest = self.connection.begin_reply(planned, result.as_ref(), &mut to);
        while let Some(question) = rest.next_question(&mut self.connection, &mut to) {
            ask::answer(server, &self.connection, &question, &mut to).await;
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
    let kind = match step {
        Step::Answer(_) | Step::Close(_) => return Need::Nothing,
        Step::Ask(_) | Step::Transaction { kind: None, .. } => return Need::Ask,
        Step::Execute { kind, .. } | Step::Transaction { kind: Some(kind), .. } => *kind,
    };
    match kind {
        Kind::Write => Need::Write,
        Kind::Read if level == ReadLevel::Log => Need::Write,
        Kind::Read => Need::Read,
    }
}

/// Whether the node owes a result for a step.
fn has_result(step: &Step) -> bool {
    matches!(step, Step::Execute { .. } | Step::Transaction { kind: Some(_), .. })
}

fn take_commands(steps: &mut [Planned], range: Range<usize>) -> Vec<Command> {
    let steps = steps.get_mut(range).unwrap_or_default();
    let commands = steps.iter_mut().filter(|planned| has_result(&planned.step));
    let commands = commands.filter_map(|planned| match &mut planned.step {
        Step::Execute { command, .. } | Step::Transaction { command, .. } => {
            Some(std::mem::take(command))
        }
        Step::Answer(_) | Step::Ask(_) | Step::Close(_) => None,
    });
    commands.collect()
}

#[cfg(test)]
mod tests;
