//! Makes parts of the protocols callable for the benches in `benches/` and the test that counts what a
//! write takes, and for nothing else.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::access::Access;
use super::clients::Client;
use super::detect::Protocol;
use super::keys::Keys;
use super::requester::Requester;
use super::resp::{Decoder, Encoder, RespDialect, Version};
use super::turn::{Dialect, gather, plan, take_commands};
use crate::command::{Body, Command, CommandResult, Outcome, ReadLevel, Reply};
use crate::config::MachineKind;

/// Takes all complete requests off `input`; says how many there were.
pub fn decode(input: &mut BytesMut) -> u64 {
    let mut decoder = Decoder::default();
    let mut count = 0;
    while let Ok(Some(request)) = decoder.next(input) {
        count += u64::from(!std::hint::black_box(request.arguments()).is_empty());
    }
    count
}

/// Appends the reply that carries a value.
pub fn encode(out: &mut BytesMut, value: Option<&[u8]>) {
    Encoder::new(out, Version::Two).value(value);
}

/// A connection of a node without a log: every write succeeds, every read finds the same value.
#[derive(Debug)]
pub struct Served {
    dialect: RespDialect,
    value: Bytes,
}

impl Served {
    /// A connection whose reads find `value`.
    pub fn new(value: Bytes) -> Served {
        Served::with(Keys::new(0, 1 << 20, &[]), MachineKind::Memory, value)
    }

    /// A connection to a program of so many slots.
    pub fn of_slots(slot_count: u64) -> Served {
        Served::with(Keys::new(slot_count, 1 << 20, &[]), MachineKind::Slots, Bytes::new())
    }

    fn with(keys: Keys, machine: MachineKind, value: Bytes) -> Served {
        let client = Arc::new(Client::new(1, SocketAddr::from(([127, 0, 0, 1], 5))));
        let requester = Requester::new(
            client,
            ReadLevel::Linearizable,
            Protocol::Resp,
            Arc::new(Access::free()),
        );
        Served { dialect: RespDialect::new(Arc::new(keys), machine, requester), value }
    }

    /// The commands of all complete requests of `input`, as a turn gives them to the node.
    pub fn commands(&mut self, input: &mut BytesMut) -> Vec<Command> {
        let (mut errands, _) = gather(&mut self.dialect, input);
        take_commands(&mut errands)
    }

    /// All that a turn does but for the node: takes requests off `input`, appends their replies.
    pub fn turn(&mut self, input: &mut BytesMut, out: &mut BytesMut) {
        let (mut errands, _) = gather(&mut self.dialect, input);
        self.dialect.show();
        for run in plan(errands.iter().map(|errand| errand.need(ReadLevel::Linearizable))) {
            let errands = errands.get_mut(run.requests).unwrap_or_default();
            let commands = take_commands(errands);
            let results: Vec<CommandResult> =
                commands.iter().map(|command| Ok(self.reply(command))).collect();
            for result in &results {
                self.dialect.requester().note(result);
            }
            let mut results = results.into_iter();
            for errand in &*errands {
                let result = errand.has_result().then(|| results.next()).flatten();
                let request = &errand.request;
                let mut rest = self.dialect.begin_reply(request, result.as_ref(), out);
                assert!(self.dialect.go_on(&mut rest, None, out).is_none(), "nothing is asked");
            }
        }
    }

    fn reply(&self, command: &Command) -> Reply {
        let outcomes = command.operations().map(|operation| {
            let changed = !operation.action.is_read();
            let body = if changed { Body::Empty } else { Body::Value(Some(self.value.clone())) };
            Outcome { version: 1, changed, existed: true, body }
        });
        Reply { index: 1, outcomes: outcomes.collect(), ..Reply::default() }
    }
}
