//! Proposals: commands that arrive while a batch is on its way go out together as the next batch.
//!
//! Called by `mod.rs`; calls `entries`. A batch costs every member a pass through openraft, a frame, a
//! sync and several wake-ups, whatever its size. So the next one leaves when the one before was answered, or
//! as soon as it is as large as all batches on their way together. Invariants:
//!
//! - I1: commands are proposed in the order in which they came, and answered in it.
//! - I2: no command waits longer than [`HELD_MAX`] to be proposed, so members that are far away
//!   cost their latency once, not twice.
//! - I3: every caller is answered by its deadline, whatever openraft and the disk do.
//! - I4: a batch is bounded, in commands and bytes; one caller's commands stay together.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, FuturesUnordered};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, Fatal, ForwardToLeader};
use openraft::raft::WriteResult;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{RwLock, RwLockWriteGuard, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::entries::Entries;
use super::types::TypeConfig;
use super::{ProposeError, RaftHandle};
use crate::command::{Command, Failure, Reply};
use crate::replica::Syncer;

/// Most callers that wait to be taken into a batch.
const QUEUE_MAX: usize = 65_536;
/// No caller is taken into a batch that has so many commands.
const COMMAND_COUNT_MAX: usize = 4096;
/// No caller is taken into a batch that has so many bytes.
const COMMAND_BYTES_MAX: usize = 4 << 20;
/// How long a batch is held for answers to those before it: several syncs.
const HELD_MAX: Duration = Duration::from_millis(2);

/// Results in the order of their commands.
pub(super) type Results = Vec<Result<Reply, ProposeError>>;

/// What openraft answers.
struct Answers {
    of_entries: BoxStream<'static, Result<WriteResult<TypeConfig>, Fatal<TypeConfig>>>,
    /// How many commands each of the entries has.
    counts: Vec<usize>,
}

struct Proposal {
    commands: Vec<Command>,
    deadline: Instant,
    results: oneshot::Sender<Results>,
}

/// Commands that go out together.
#[derive(Default)]
struct Batch {
    entries: Entries,
    /// How many commands there are.
    count: usize,
    /// Who waits for how many of them.
    callers: Vec<(usize, oneshot::Sender<Results>)>,
    bytes: usize,
    /// When the first of them came.
    since: Option<Instant>,
    /// Of the first caller, which comes before those of all others.
    deadline: Option<Instant>,
}

impl Batch {
    fn add(&mut self, proposal: Proposal) {
        let Proposal { commands, deadline, results } = proposal;
        if results.is_closed() {
            return; // nobody wants it any more
        }
        self.since.get_or_insert_with(Instant::now);
        self.deadline.get_or_insert(deadline);
        self.callers.push((commands.len(), results));
        self.count += commands.len();
        for command in commands {
            self.bytes += command.bytes().len();
            self.entries.push(command);
        }
    }

    fn is_full(&self) -> bool {
        self.count >= COMMAND_COUNT_MAX || self.bytes >= COMMAND_BYTES_MAX // I4
    }
}

/// The task that proposes one batch after the other.
#[derive(Debug)]
pub(super) struct Proposals {
    queue: mpsc::Sender<Proposal>,
    /// Shared by all callers until they are answered; whoever has it alone knows that nothing is on its way.
    gate: RwLock<()>,
}

impl Proposals {
    pub(super) fn start(raft: RaftHandle, syncer: Arc<Syncer>) -> Proposals {
        Self::start_with(HELD_MAX, move |batch: Batch| {
            let queued = batch.since.map(|since| since.elapsed()).unwrap_or_default();
            syncer.stages().queue.record(queued);
            propose(raft.clone(), syncer.clone(), batch, queued)
        })
    }

    /// `send` proposes a batch, answers its callers, and gives back how many commands it had.
    fn start_with<F>(held_max: Duration, send: impl Fn(Batch) -> F + Send + 'static) -> Proposals
    where
        F: Future<Output = usize> + Send + 'static,
    {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(run(waiting, held_max, send));
        Proposals { queue, gate: RwLock::default() }
    }

    /// Waits until all that was proposed is answered; what comes meanwhile, and as long as the caller keeps
    /// what it gets, waits. `None` if that takes longer than until `deadline`: then nothing waits any more.
    pub(super) async fn pause(&self, deadline: Instant) -> Option<RwLockWriteGuard<'_, ()>> {
        timeout_at(deadline, self.gate.write()).await.ok()
    }

    /// Proposes commands together, and waits for their answers until `deadline`.
    pub(super) async fn propose(&self, commands: Vec<Command>, deadline: Instant) -> Results {
        let count = commands.len();
        let all = |failure| vec![Err(ProposeError::Failed(failure)); count];
        let Ok(_passed) = timeout_at(deadline, self.gate.read()).await else {
            return all(Failure::Busy { reason: "leadership is handed over".to_owned() });
        };
        let (results, receiver) = oneshot::channel();
        let sent = match self.queue.try_send(Proposal { commands, deadline, results }) {
            Err(TrySendError::Full(proposal)) => {
                let Ok(sent) = timeout_at(deadline, self.queue.send(proposal)).await else {
                    let reason = "too many commands wait to be proposed".to_owned();
                    return all(Failure::Busy { reason });
                };
                sent.is_ok()
            }
            sent => sent.is_ok(),
        };
        if !sent {
            return all(Failure::Stopping);
        }
        // Without an answer the task is gone, and with it the runtime.
        let gone = || Failure::Unknown { term: 0, index: 0, reason: "this node stops".into() };
        receiver.await.unwrap_or_else(|_| all(gone()))
    }
}

async fn run<F: Future<Output = usize>>(
    mut waiting: mpsc::Receiver<Proposal>,
    held_max: Duration,
    send: impl Fn(Batch) -> F,
) {
    let mut running = FuturesUnordered::new();
    let mut next = Batch::default();
    let (mut on_way, mut is_open) = (0, true);
    let mut held = Box::pin(sleep_until(Instant::now()));
    while is_open || !running.is_empty() {
        let mut is_late = false;
        tokio::select! {
            biased;
            Some(count) = running.next(), if !running.is_empty() => on_way -= count,
            came = waiting.recv(), if is_open && !next.is_full() => match came {
                Some(proposal) => next.add(proposal),
                None => is_open = false,
            },
            () = &mut held, if !next.callers.is_empty() => is_late = true,
        }
        while !next.is_full()
            && let Ok(proposal) = waiting.try_recv()
        {
            next.add(proposal);
        }
        let count = next.count;
        let is_due = count >= on_way || is_late || next.is_full() || !is_open;
        if is_due && !next.callers.is_empty() {
            on_way += count;
            running.push(send(std::mem::take(&mut next)));
            held.as_mut().reset(Instant::now() + held_max); // I2
        }
    }
}

/// Proposes a batch, which was `queued` for so long, and answers its callers; how many commands it had.
async fn propose(raft: RaftHandle, syncer: Arc<Syncer>, batch: Batch, queued: Duration) -> usize {
    let Batch { entries, count, callers, deadline, .. } = batch;
    let (entries, counts) = entries.finish();
    let entry_count = entries.len() as u64;
    let deadline = deadline.unwrap_or_else(Instant::now);
    let refused = |error| propose_error(&raft, error);
    match timeout_at(deadline, raft.client_write_many(entries)).await {
        Ok(Ok(answers)) => {
            let missing = || unknown(&raft, "no answer from a majority");
            let mut is_first = true;
            let answers = answers.inspect(move |answer| {
                if let Ok(Ok(written)) = answer
                    && std::mem::take(&mut is_first)
                {
                    let first = written.log_id.index;
                    syncer.stages().queued(first, first + (entry_count - 1), queued);
                }
            });
            let answers = Answers { of_entries: answers.boxed(), counts };
            answer(callers, answers, deadline, &refused, &missing).await;
        }
        not_sent => {
            let is_stopping = not_sent.is_ok();
            drop(not_sent);
            let busy = || Failure::Busy { reason: "too many commands wait".into() };
            let missing = || if is_stopping { Failure::Stopping } else { busy() };
            let nothing = Answers { of_entries: futures_util::stream::empty().boxed(), counts };
            answer(callers, nothing, deadline, &refused, &missing).await;
        }
    }
    count
}

type Refused<'a> = &'a (dyn Fn(ClientWriteError<TypeConfig>) -> ProposeError + Sync);
type Missing<'a> = &'a (dyn Fn() -> Failure + Sync);

/// Hands answers on as they come. What has none when they end, or by the deadline, is `missing`.
async fn answer(
    callers: Vec<(usize, oneshot::Sender<Results>)>,
    answers: Answers,
    deadline: Instant,
    refused: Refused<'_>,
    missing: Missing<'_>,
) {
    let Answers { mut of_entries, counts } = answers;
    let mut counts = counts.into_iter();
    let mut late = Box::pin(sleep_until(deadline));
    let mut has_ended = false;
    let mut answered = Results::new().into_iter();
    for (count, caller) in callers {
        let mut results = Results::with_capacity(count);
        while results.len() < count {
            if let Some(result) = answered.next() {
                results.push(result);
                continue;
            }
            if has_ended {
                break;
            }
            let answer = tokio::select! {
                biased;
                answer = of_entries.next() => answer,
                () = &mut late => None, // I3
            };
            let command_count = counts.next().unwrap_or_default();
            let mut of_entry: Results = match answer {
                Some(Ok(Ok(written))) => {
                    let results = written.response.into_iter();
                    results.map(|result| result.map_err(ProposeError::Failed)).collect()
                }
                Some(Ok(Err(error))) => vec![Err(refused(error)); command_count],
                // openraft has ended, or it is too late: it may have been carried out.
                Some(Err(_)) | None => {
                    has_ended = true;
                    continue;
                }
            };
            of_entry.resize_with(command_count, || Err(ProposeError::Failed(missing())));
            answered = of_entry.into_iter();
        }
        results.resize_with(count, || Err(ProposeError::Failed(missing())));
        // The caller may have given up.
        drop(caller.send(results));
    }
}

/// Why openraft did not carry out a command, or a change of the membership.
pub(super) fn propose_error(
    raft: &RaftHandle,
    error: ClientWriteError<TypeConfig>,
) -> ProposeError {
    match error {
        ClientWriteError::ForwardToLeader(ForwardToLeader { leader_id, leader_node, .. }) => {
            ProposeError::NotLeader { leader: leader_id.zip(leader_node) }
        }
        ClientWriteError::LogEntryDiscarded(_) => {
            ProposeError::Failed(unknown(raft, "the leader changed"))
        }
        ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)) => {
            let reason = "the membership is just being changed".into();
            ProposeError::Failed(Failure::Busy { reason })
        }
        other => ProposeError::Failed(unknown(raft, &other.to_string())),
    }
}

/// The failure of what may or may not be carried out yet.
pub(super) fn unknown(raft: &RaftHandle, reason: &str) -> Failure {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let index = metrics.last_log_index.unwrap_or_default();
    Failure::Unknown { term: metrics.current_term, index, reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    /// Batches as they are proposed, and where to say that they were answered.
    type Sent = mpsc::UnboundedReceiver<(Batch, oneshot::Sender<()>)>;

    fn start(held_max: Duration) -> (Proposals, Sent) {
        let (sent, receiver) = mpsc::unbounded_channel();
        let proposals = Proposals::start_with(held_max, move |batch: Batch| {
            let count = batch.count;
            let (answered, wait) = oneshot::channel();
            sent.send((batch, answered)).unwrap();
            async move {
                drop(wait.await);
                count
            }
        });
        (proposals, receiver)
    }

    fn command() -> Command {
        Command::get(&crate::command::slot_key(1)).unwrap()
    }

    fn call(proposals: &Proposals, count: usize) -> oneshot::Receiver<Results> {
        let (results, receiver) = oneshot::channel();
        let deadline = Instant::now() + LONG;
        let proposal = Proposal { commands: vec![command(); count], deadline, results };
        assert!(proposals.queue.try_send(proposal).is_ok());
        receiver
    }

    #[tokio::test]
    async fn what_comes_while_a_batch_is_on_its_way_is_the_next() {
        let (proposals, mut sent) = start(LONG);
        let _first = call(&proposals, 3);
        let (first, answered) = sent.recv().await.unwrap();
        let _others = [call(&proposals, 1), call(&proposals, 1)];
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(sent.try_recv().is_err(), "two commands wait for the answers to three");
        answered.send(()).unwrap();
        let (second, _answered) = sent.recv().await.unwrap();
        assert_eq!((first.count, second.callers.len()), (3, 2));
    }

    #[tokio::test]
    async fn as_many_as_are_on_their_way_wait_for_nobody() {
        let (proposals, mut sent) = start(LONG);
        let _first = call(&proposals, 2);
        let (_, _answered) = sent.recv().await.unwrap();
        let _others = [call(&proposals, 1), call(&proposals, 1)];
        assert_eq!(sent.recv().await.unwrap().0.count, 2);
    }

    #[tokio::test]
    async fn a_pause_begins_once_all_is_answered_and_holds_up_what_comes() {
        let (proposals, mut sent) = start(LONG);
        let proposals = Arc::new(proposals);
        let propose = || {
            let proposals = Arc::clone(&proposals);
            let propose = async move {
                proposals.propose(vec![command()], Instant::now() + LONG).await.len()
            };
            tokio::spawn(propose)
        };
        let first = propose();
        let (batch, answered) = sent.recv().await.unwrap();
        assert!(proposals.pause(Instant::now()).await.is_none(), "one is on its way");
        let second = propose(); // a pause that did not begin holds up nobody
        let (_, caller) = batch.callers.into_iter().next().unwrap();
        drop(caller); // its answer, such as it is
        answered.send(()).unwrap();
        assert_eq!(first.await.unwrap(), 1);
        let (batch, answered) = sent.recv().await.unwrap();
        drop((batch, answered));
        assert_eq!(second.await.unwrap(), 1);
        let pause = proposals.pause(Instant::now() + LONG).await.unwrap();
        let third = propose();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(sent.try_recv().is_err(), "it waits");
        drop(pause);
        drop(sent.recv().await.unwrap());
        assert_eq!(third.await.unwrap(), 1);
    }

    /// I2
    #[tokio::test]
    async fn nothing_is_held_for_long_by_a_batch_without_answers() {
        let (proposals, mut sent) = start(HELD_MAX);
        let _first = call(&proposals, 3);
        let (_, _answered) = sent.recv().await.unwrap();
        let _second = call(&proposals, 1);
        let (second, _) = timeout_at(Instant::now() + LONG, sent.recv()).await.unwrap().unwrap();
        assert_eq!(second.count, 1);
    }

    /// I4
    #[tokio::test]
    async fn a_batch_is_bounded_and_a_caller_stays_whole() {
        let (proposals, mut sent) = start(HELD_MAX);
        let _callers: Vec<_> = (0..3).map(|_| call(&proposals, COMMAND_COUNT_MAX - 1)).collect();
        let (first, _answered) = sent.recv().await.unwrap();
        assert_eq!(first.count, 2 * (COMMAND_COUNT_MAX - 1));
        let (second, _answered) = sent.recv().await.unwrap();
        assert_eq!(second.count, COMMAND_COUNT_MAX - 1);
    }

    #[tokio::test]
    async fn who_has_given_up_is_not_proposed() {
        let (proposals, mut sent) = start(LONG);
        drop(call(&proposals, 5));
        let _second = call(&proposals, 1);
        assert_eq!(sent.recv().await.unwrap().0.count, 1);
    }

    /// I3, and an answer that was given counts.
    #[tokio::test]
    async fn a_caller_without_answers_hears_so_at_its_deadline() {
        let (caller, results) = oneshot::channel();
        let refusal = ClientWriteError::ForwardToLeader(ForwardToLeader::empty());
        let one = futures_util::stream::iter([Ok(Err(refusal))]);
        let of_entries = one.chain(futures_util::stream::pending()).boxed();
        let answers = Answers { of_entries, counts: vec![1, 1] };
        let deadline = Instant::now() + Duration::from_millis(50);
        let refused = |_| ProposeError::NotLeader { leader: None };
        let missing = || Failure::NoSpace;
        answer(vec![(2, caller)], answers, deadline, &refused, &missing).await;
        assert!(Instant::now() >= deadline, "the second answer was waited for");
        let results = results.await.unwrap();
        assert!(matches!(
            results.as_slice(),
            [Err(ProposeError::NotLeader { .. }), Err(ProposeError::Failed(Failure::NoSpace))]
        ));
    }

    /// I1: callers share entries, and entries hold the commands of several callers.
    #[tokio::test]
    async fn each_caller_gets_the_results_of_its_commands() {
        let reply = |index| Ok(Reply { index, ..Reply::default() });
        let written = |first: u64, count: u64| {
            let log_id = crate::raft::types::log_id_from(diskstore_storage::LogId {
                term: diskstore_storage::Term::new(1),
                index: first,
            });
            let response = (first..first + count).map(reply).collect();
            Ok(Ok(openraft::raft::WriteResponse::<TypeConfig> { log_id, response }))
        };
        let refusal = ClientWriteError::ForwardToLeader(ForwardToLeader::empty());
        let entries = vec![written(10, 3), Ok(Err(refusal)), written(20, 1)];
        let of_entries = futures_util::stream::iter(entries).boxed();
        let answers = Answers { of_entries, counts: vec![3, 2, 1] };
        let (callers, mut receivers) =
            (0..4).map(|_| oneshot::channel()).unzip::<_, _, Vec<_>, Vec<_>>();
        let callers = [2, 2, 1, 2].into_iter().zip(callers).collect();
        let refused = |_| ProposeError::NotLeader { leader: None };
        let deadline = Instant::now() + LONG;
        answer(callers, answers, deadline, &refused, &|| Failure::NoSpace).await;
        let mut told = Vec::new();
        for receiver in &mut receivers {
            let results = receiver.await.unwrap();
            told.push(
                results
                    .into_iter()
                    .map(|result| match result {
                        Ok(reply) => reply.index.to_string(),
                        Err(ProposeError::NotLeader { .. }) => "not here".to_owned(),
                        Err(ProposeError::Failed(failure)) => failure.to_string(),
                    })
                    .collect::<Vec<_>>(),
            );
        }
        let missing = Failure::NoSpace.to_string();
        let expected =
            [vec!["10", "11"], vec!["12", "not here"], vec!["not here"], vec!["20", &missing]];
        assert_eq!(told, expected);
    }
}
