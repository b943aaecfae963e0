//! One turn of a connection, in any dialect: takes requests, executes them in runs, answers them.
//!
//! Called by the session; calls the node by the connection's requester. A dialect turns bytes into
//! errands and their results into bytes; everything between these two steps is here.
//!
//! Invariants:
//! - I1: runs are executed one after the other, so that a read sees the writes before it.
//! - I2: an errand that is answered by a datagram is executed by the leader alone: its client sends
//!   it to every replica, and if each of them forwarded it, it would be executed several times.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::ops::Range;

use bytes::BytesMut;

use super::ask::{self, Question};
use super::complaint::Complaint;
use super::requester::Requester;
use super::value::Value;
use super::{Server, session::Flow};
use crate::command::{Command, CommandResult, Failure, ReadLevel};
use crate::messages::Delivery;

/// Most requests of one turn.
const TURN_REQUEST_COUNT_MAX: usize = 1024;
/// Bytes of replies that end a turn; the last request of it may go beyond.
const TURN_REPLY_BYTES_MAX: u64 = 4 << 20;

/// What a protocol is, between the bytes of its clients and what the node is asked. It waits for
/// nothing.
pub(crate) trait Dialect {
    /// What the reply to a request needs to know of it.
    type Request;
    /// A reply that is written up to the next question in it.
    type Unfinished<'a>;

    /// Who sends the requests.
    fn requester(&mut self) -> &mut Requester;

    /// Takes the next request off `input`; `None` if it is not there as a whole.
    fn take(&mut self, input: &mut BytesMut) -> Option<Errand<Self::Request>>;

    /// Tells whoever lists the connections what this one did last.
    fn show(&self) {}

    /// Begins the reply to a request; `result` is that of its command, if it had one.
    fn begin_reply<'a>(
        &mut self,
        request: &'a Self::Request,
        result: Option<&'a CommandResult>,
        out: &mut BytesMut,
    ) -> Self::Unfinished<'a>;

    /// Writes on: the answer to the question that was handed out before, if one was, and what follows
    /// up to the next question, which is handed out; `None` once the reply is whole.
    fn go_on<'a>(
        &mut self,
        reply: &mut Self::Unfinished<'a>,
        answer: Option<&Value>,
        out: &mut BytesMut,
    ) -> Option<Cow<'a, Question>>;

    /// Writes what is told to the client unasked. Only those who asked for it, in this dialect, are
    /// told anything.
    fn tell(&self, _delivery: &Delivery, _out: &mut BytesMut) {}

    /// Writes a complaint that answers no request.
    fn complain(&self, complaint: &Complaint, out: &mut BytesMut);
}

/// One request: what is to be done for it, and what the dialect keeps for the reply.
#[derive(Debug)]
pub(crate) struct Errand<R> {
    /// What the dialect keeps.
    pub(crate) request: R,
    /// What the node has to do.
    pub(crate) work: Work,
    /// Where the reply goes.
    pub(crate) destination: Destination,
    /// Most bytes that the reply may take, about.
    pub(crate) reply_bytes_max: u64,
    /// What may be taken behind it.
    pub(crate) then: Then,
}

/// What the node has to do for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Work {
    /// Nothing: the reply is known.
    Nothing,
    /// To execute a command that only reads.
    Read(Command),
    /// To propose a command.
    Write(Command),
    /// To answer questions, which come up as the reply is written.
    Answer,
}

/// Where a reply goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Back over the connection.
    Connection,
    /// Nowhere: the client wants none.
    Nowhere,
    /// To this address, by UDP.
    Datagram(SocketAddr),
}

/// What may be taken behind a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// The next request.
    More,
    /// Nothing before this request is answered.
    Answer,
    /// Nothing at all: the connection is closed behind the reply.
    Close,
}

/// What one request needs of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing; its answer is known.
    Nothing,
    /// A read.
    Read,
    /// A proposal.
    Write,
    /// An answer about the node itself.
    Ask,
}

impl<R> Errand<R> {
    /// What it needs of the node, where reads are of `level`.
    pub(crate) fn need(&self, level: ReadLevel) -> Need {
        match self.work {
            Work::Nothing => Need::Nothing,
            Work::Answer => Need::Ask,
            Work::Read(_) if level != ReadLevel::Log => Need::Read,
            Work::Read(_) | Work::Write(_) => Need::Write,
        }
    }

    /// Whether the node owes a result for it.
    pub(crate) fn has_result(&self) -> bool {
        matches!(self.work, Work::Read(_) | Work::Write(_))
    }
}

/// One turn: takes requests off `input`, executes them and appends the replies to `out`.
pub(crate) async fn turn<D: Dialect>(
    dialect: &mut D,
    server: &Server,
    input: &mut BytesMut,
    out: &mut BytesMut,
) -> Flow {
    dialect.requester().renew();
    let (mut errands, flow) = gather(dialect, input);
    dialect.requester().wait_if_held().await;
    let is_for_leader = |errand: &Errand<_>| matches!(errand.destination, Destination::Datagram(_));
    if errands.iter().any(is_for_leader) && !server.node.is_leader() {
        errands.retain(|errand| !is_for_leader(errand)); // I2
    }
    dialect.show();
    let level = dialect.requester().freshness().level;
    for run in plan(errands.iter().map(|errand| errand.need(level))) {
        let errands = errands.get_mut(run.requests).unwrap_or_default();
        let commands = take_commands(errands);
        let requester = dialect.requester();
        let results = match run.need {
            Need::Write => requester.write(&server.node, commands).await, // I1
            Need::Read => requester.read(&server.node, commands).await,
            Need::Nothing | Need::Ask => Vec::new(),
        };
        let mut results = results.into_iter();
        for errand in &*errands {
            let result = errand.has_result().then(|| results.next().unwrap_or_else(missing_result));
            let before = out.len();
            reply(dialect, server, &errand.request, result.as_ref(), out).await;
            match errand.destination {
                Destination::Connection => {}
                Destination::Nowhere => out.truncate(before),
                Destination::Datagram(to) => {
                    server.datagrams.send(to, &out.split_off(before)).await;
                }
            }
        }
    }
    flow
}

/// As [`turn`], where the node stops: what would be read or written is refused, and nothing of it was done.
pub(crate) async fn refuse<D: Dialect>(
    dialect: &mut D,
    server: &Server,
    input: &mut BytesMut,
    out: &mut BytesMut,
) -> Flow {
    let (mut errands, flow) = gather(dialect, input);
    // Its client hears of the replica that leads.
    errands.retain(|errand| !matches!(errand.destination, Destination::Datagram(_)));
    let refused = Err(Failure::Stopping);
    for errand in &errands {
        let before = out.len();
        let result = errand.has_result().then_some(&refused);
        reply(dialect, server, &errand.request, result, out).await;
        if errand.destination == Destination::Nowhere {
            out.truncate(before);
        }
    }
    flow
}

/// Takes as many requests as one turn may hold.
pub(crate) fn gather<D: Dialect>(
    dialect: &mut D,
    input: &mut BytesMut,
) -> (Vec<Errand<D::Request>>, Flow) {
    let mut errands = Vec::new();
    let mut reply_bytes = 0;
    while errands.len() < TURN_REQUEST_COUNT_MAX && reply_bytes < TURN_REPLY_BYTES_MAX {
        let Some(errand) = dialect.take(input) else { return (errands, Flow::Read) };
        reply_bytes += errand.reply_bytes_max;
        let then = errand.then;
        errands.push(errand);
        match then {
            Then::More => {}
            Then::Answer => break,
            Then::Close => return (errands, Flow::Close),
        }
    }
    (errands, Flow::Again)
}

/// The commands of errands, in order.
pub(crate) fn take_commands<R>(errands: &mut [Errand<R>]) -> Vec<Command> {
    let commands = errands.iter_mut().filter_map(|errand| match &mut errand.work {
        Work::Read(command) | Work::Write(command) => Some(std::mem::take(command)),
        Work::Nothing | Work::Answer => None,
    });
    commands.collect()
}

/// Writes one reply, and has the questions answered that come up in it.
async fn reply<D: Dialect>(
    dialect: &mut D,
    server: &Server,
    request: &D::Request,
    result: Option<&CommandResult>,
    out: &mut BytesMut,
) {
    let mut rest = dialect.begin_reply(request, result, out);
    let mut answer = None;
    while let Some(question) = dialect.go_on(&mut rest, answer.as_ref(), out) {
        answer = Some(ask::answer(server, dialect.requester(), &question).await.into());
    }
}

/// Stands for a result that the node owes.
fn missing_result() -> CommandResult {
    let reason = "the node gave no result".to_owned();
    Err(Failure::Unknown { term: 0, index: 0, reason })
}

/// Requests in a row that need the same, beside those that need nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// What they need; `Nothing` if none of them needs anything.
    pub(crate) need: Need,
    /// Which ones they are.
    pub(crate) requests: Range<usize>,
}

/// Groups requests into runs, in their order. Only reads and writes are grouped with their like.
pub(crate) fn plan(needs: impl IntoIterator<Item = Need>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (position, need) in needs.into_iter().enumerate() {
        let joins = |run: &Run| {
            need == Need::Nothing
                || run.need == Need::Nothing
                || run.need == need && need != Need::Ask
        };
        match runs.last_mut().filter(|run| joins(run)) {
            Some(run) => {
                run.requests.end = position + 1;
                if run.need == Need::Nothing {
                    run.need = need;
                }
            }
            None => runs.push(Run { need, requests: position..position + 1 }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(letters: &str) -> Vec<(char, usize)> {
        let need = |letter| match letter {
            'r' => Need::Read,
            'w' => Need::Write,
            'a' => Need::Ask,
            _ => Need::Nothing,
        };
        let letter = |need| match need {
            Need::Read => 'r',
            Need::Write => 'w',
            Need::Ask => 'a',
            Need::Nothing => '.',
        };
        let runs = plan(letters.chars().map(need));
        let covered = runs.iter().flat_map(|run| run.requests.clone());
        assert!(covered.eq(0..letters.len()), "{letters}: every request once, in order");
        runs.iter().map(|run| (letter(run.need), run.requests.len())).collect()
    }

    #[test]
    fn like_requests_in_a_row_are_one_run() {
        assert_eq!(planned(""), []);
        assert_eq!(planned("www"), [('w', 3)]);
        assert_eq!(planned("wwrrw"), [('w', 2), ('r', 2), ('w', 1)]);
    }

    #[test]
    fn what_needs_nothing_interrupts_no_run() {
        assert_eq!(planned(".w.w."), [('w', 5)]);
        assert_eq!(planned("..."), [('.', 3)]);
        assert_eq!(planned("w.r"), [('w', 2), ('r', 1)]);
    }

    #[test]
    fn questions_stand_alone() {
        assert_eq!(planned("waaw"), [('w', 1), ('a', 1), ('a', 1), ('w', 1)]);
        assert_eq!(planned(".a."), [('a', 3)]);
    }
}
