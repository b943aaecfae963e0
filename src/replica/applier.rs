//! Applies committed entries to the machine: on a thread of its own or, if nothing can make that
//! wait, on the caller's.
//!
//! Called by `raft` and `replay`; calls `machine`. Applying may have to wait: for a page fault that
//! reads the disk, or for the memory budget. Such a wait must delay this thread and nothing
//! else. If the data file fits in the memory budget and all of it was read since the start, neither
//! can happen, and entries are applied in place, which saves two wake-ups for each batch
//! (`docs/decisions.md` 12).

use std::io;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use diskstore_storage::state::Membership;
use diskstore_storage::wal::{self, EntryKind, Wal};
use diskstore_storage::{LogId, LogIndex};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::state::Replica;
use super::syncer::Syncer;
use crate::command::{Command, CommandResult, DecodeError, Failure, Reply};
use crate::fault::{Faults, chain};
use crate::host::Threads;
use crate::machine::{ApplyError, DamageMet, Machine};
use crate::oplog::{OpLog, OpLogError};

/// A committed entry, as it is applied.
#[derive(Debug)]
pub(crate) struct Committed {
    /// Where it is in the log.
    pub log_id: LogId,
    /// What it holds.
    pub payload: Payload,
}

/// What an entry holds.
#[derive(Debug)]
pub(crate) enum Payload {
    /// Nothing: a new leader begins with one.
    Blank,
    /// Something for the machine.
    Command(Command),
    /// The membership from here on, as bytes that only the layers above can read.
    Membership(Bytes),
}

impl Committed {
    /// The entry of a log.
    ///
    /// # Errors
    /// Its payload is no command: another program wrote it.
    pub(crate) fn read(stored: wal::Entry) -> Result<Committed, DecodeError> {
        let wal::Entry { log_id, kind, payload } = stored;
        let payload = match kind {
            EntryKind::Blank => Payload::Blank,
            EntryKind::Normal => Payload::Command(Command::decode(payload)?),
            EntryKind::Membership => Payload::Membership(payload.into_bytes()),
        };
        Ok(Committed { log_id, payload })
    }
}

/// Takes the reply to an entry that was proposed here.
pub(crate) trait Answer: Send + 'static {
    /// Passes on the results of the entry's commands, in their order. Called once its effects can be read;
    /// must not block.
    fn answer(self, results: Vec<CommandResult>);
}

/// Drops the reply: an entry that is replayed was answered before, or never will be.
impl Answer for std::convert::Infallible {
    fn answer(self, _results: Vec<CommandResult>) {
        match self {}
    }
}

/// One entry to apply, with the receiver of its reply.
pub(crate) struct Job<A> {
    /// The entry.
    pub entry: Committed,
    /// The receiver of the reply, if the entry was proposed here.
    pub answer: Option<A>,
}

struct Work<A> {
    jobs: Vec<Job<A>>,
    done: oneshot::Sender<io::Result<()>>,
}

/// Handle on the thread; it ends when the handle is dropped.
pub(crate) struct Applier<A> {
    sender: mpsc::Sender<Work<A>>,
    /// Held while entries are applied, on whichever thread.
    setup: Arc<Mutex<ApplierSetup>>,
    machine: Machine,
    /// Has the times of writes.
    syncer: Arc<Syncer>,
}

/// What the thread works with.
pub(crate) struct ApplierSetup {
    /// The machine and the applied position.
    pub replica: Arc<Replica>,
    /// The log, which may drop applied entries from memory.
    pub wal: Arc<Wal>,
    /// The application log of `-logfolder`.
    pub oplog: Option<OpLog>,
    /// Where trouble is reported.
    pub faults: Faults,
    /// Where threads come from.
    pub threads: Threads,
}

impl<A> std::fmt::Debug for Applier<A> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Applier").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ApplierSetup {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ApplierSetup").finish_non_exhaustive()
    }
}

impl<A: Answer> Applier<A> {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system starts no more threads.
    pub(crate) fn start(setup: ApplierSetup) -> io::Result<Applier<A>> {
        let (sender, receiver) = mpsc::channel::<Work<A>>();
        let (machine, threads) = (setup.replica.machine.clone(), setup.threads.clone());
        let syncer = setup.replica.syncer.clone();
        let setup = Arc::new(Mutex::new(setup));
        let of_thread = setup.clone();
        threads.spawn("apply", move || {
            while let Ok(work) = receiver.recv() {
                let result = apply_all(&mut of_thread.lock(), work.jobs);
                // The other end is gone if Raft is stopping.
                drop(work.done.send(result));
            }
        })?;
        Ok(Applier { sender, setup, machine, syncer })
    }

    /// Applies entries in order; returns once all of them are applied and answered.
    ///
    /// # Errors
    /// This node is sick; its faults have the reason.
    pub(crate) async fn apply(&self, jobs: Vec<Job<A>>) -> io::Result<()> {
        let (stages, begun) = (self.syncer.stages(), Instant::now());
        let Some(last) = jobs.last().map(|last| last.entry.log_id.index) else { return Ok(()) };
        stages.committed(last, begun);
        if self.is_never_waiting() {
            let applied = apply_all(&mut self.setup.lock(), jobs);
            stages.applied(last, begun.elapsed());
            tokio::task::yield_now().await; // heartbeats and sessions share this thread
            return applied;
        }
        let (done, receiver) = oneshot::channel();
        let gone = |_| io::Error::other("the apply thread is gone");
        self.sender
            .send(Work { jobs, done })
            .map_err(|_| io::Error::other("apply thread ended"))?;
        let applied = receiver.await.map_err(gone)?;
        stages.applied(last, begun.elapsed());
        applied
    }

    /// Notes in the application log, if there is one, that entries up to `index` come by snapshot.
    ///
    /// # Errors
    /// The application log cannot be written.
    pub(crate) async fn mark_gap(&self, index: u64) -> io::Result<()> {
        let setup = self.setup.clone();
        let marked = tokio::task::spawn_blocking(move || {
            let mut setup = setup.lock();
            let Some(oplog) = &mut setup.oplog else { return Ok(()) };
            oplog.mark_gap(index)?;
            oplog.sync()
        });
        marked.await.map_err(io::Error::other)?.map_err(io::Error::other)
    }

    /// True if applying touches neither the disk nor the memory budget, waits for no snapshot, and
    /// there is no application log to sync.
    fn is_never_waiting(&self) -> bool {
        let is_free = |setup: &ApplierSetup| setup.oplog.is_none() && !setup.replica.is_merging();
        self.machine.never_waits() && self.setup.try_lock().is_some_and(|setup| is_free(&setup))
    }
}

pub(crate) fn apply_all<A: Answer>(setup: &mut ApplierSetup, jobs: Vec<Job<A>>) -> io::Result<()> {
    let result = apply_each(setup, jobs);
    if let Err(error) = &result {
        setup.faults.report(format!("an entry cannot be applied: {}", chain(error)));
    }
    result
}

fn apply_each<A: Answer>(setup: &mut ApplierSetup, jobs: Vec<Job<A>>) -> io::Result<()> {
    let machine = &setup.replica.machine;
    if let Some(paged) = machine.paged().filter(|_| !machine.never_waits()) {
        for job in &jobs {
            if let Payload::Command(command) = &job.entry.payload {
                paged.prefetch(command);
            }
        }
    }
    let mut replies = Vec::with_capacity(jobs.len());
    let replica = setup.replica.clone();
    let applying = replica.begin_apply();
    let mut last = None;
    let mut with_messages = Vec::new();
    let mut has_request_ids = false;
    let mut membership = None;
    for Job { entry, answer } in jobs {
        wait_for_memory(setup)?;
        let log_id = entry.log_id;
        let machine = &setup.replica.machine;
        let mut carried_out = apply_entry(machine, &entry)?;
        if let (Some(oplog), Payload::Command(command)) = (&mut setup.oplog, &entry.payload) {
            carried_out.record(oplog, command, machine).map_err(io::Error::other)?;
        }
        if let Payload::Command(command) = &entry.payload {
            has_request_ids |= command.request_id().is_some();
            if !carried_out.is_passed_over() && command.has_messages() {
                with_messages.push((log_id.index, command.clone()));
            }
        }
        let CarriedOut { membership: new_membership, .. } = &mut carried_out;
        membership = new_membership.take().or(membership);
        last = Some(log_id);
        if let Some(answer) = answer {
            let command = match &entry.payload {
                Payload::Command(command) => Some(command),
                Payload::Blank | Payload::Membership(_) => None,
            };
            replies.push((answer, carried_out.into_results(log_id, command)));
        }
    }
    if let Some(oplog) = &mut setup.oplog {
        oplog.sync().map_err(io::Error::other)?; // before anyone hears that it was applied
    }
    setup.replica.machine.hand_on().map_err(io::Error::other)?;
    for (index, command) in with_messages {
        replica.messages().pass(LogIndex::new(index), &command);
    }
    if let Some(log_id) = last {
        setup.replica.set_applied(log_id, membership);
        setup.wal.release(log_id.index);
        if has_request_ids {
            replica.machine.request_ids().settle(log_id.index);
        }
    }
    drop(applying);
    for (answer, results) in replies {
        answer.answer(results);
    }
    Ok(())
}

/// The result of applying an entry.
#[derive(Debug, Default)]
pub(crate) struct CarriedOut {
    reply: Reply,
    /// Damaged slots whose content the entry depends on.
    met: Option<Box<DamageMet>>,
    /// Why the entry was applied nowhere.
    refused: Option<Failure>,
    /// The membership, if the entry is one.
    pub membership: Option<Membership>,
}

impl CarriedOut {
    /// Whether the entry has the request id of an earlier one, and was applied nowhere.
    fn is_passed_over(&self) -> bool {
        self.refused.is_some() || self.reply.is_repeat
    }

    /// The results of the entry's commands, for whoever proposed them. Where a slot is damaged here, other
    /// members may have applied what this one could not.
    pub(crate) fn into_results(
        self,
        log_id: LogId,
        command: Option<&Command>,
    ) -> Vec<CommandResult> {
        if let Some(failure) = self.refused {
            return vec![Err(failure)]; // it has a request id, and stands alone
        }
        let Reply { index, is_repeat, outcomes } = self.reply;
        let mut met = self.met.iter().flat_map(|met| &met.commands).peekable();
        let mut outcomes = outcomes.into_iter();
        let Some(command) = command else { return vec![Ok(Reply { index, ..Reply::default() })] };
        let results = command.commands().enumerate().map(|(nth, operations)| {
            let of_command = outcomes.by_ref().take(operations.len()).collect();
            let mut damaged = None;
            while let Some(met) = met.next_if(|met| met.nth == nth) {
                damaged.get_or_insert(met.slot.get());
            }
            let Some(slot) = damaged else {
                return Ok(Reply { index, is_repeat, outcomes: of_command });
            };
            let failure = Failure::Damaged { slot };
            Err(if operations.into_iter().all(|operation| operation.action.is_read()) {
                failure
            } else {
                let (term, index) = (log_id.term.get(), log_id.index);
                Failure::Unknown { term, index, reason: failure.to_string() }
            })
        });
        results.collect()
    }

    /// Records the entry in the application log. Effects that depend on a damaged slot are a gap.
    fn record(
        &self,
        oplog: &mut OpLog,
        command: &Command,
        machine: &Machine,
    ) -> Result<(), OpLogError> {
        if self.is_passed_over() {
            return Ok(());
        }
        let index = self.reply.index;
        if self.met.as_ref().is_some_and(|met| met.may_have_changed) {
            return oplog.mark_gap(index);
        }
        oplog.record(index, command, &self.reply, &mut |key| machine.slot(key))
    }
}

/// Applies one entry to a machine. Damaged slots are reported and do not stop the node: otherwise one
/// command could stop every member on which a slot is damaged.
pub(crate) fn apply_entry(machine: &Machine, entry: &Committed) -> io::Result<CarriedOut> {
    let log_id = entry.log_id;
    let reply = Reply { index: log_id.index, ..Reply::default() };
    let nothing = CarriedOut { reply, ..CarriedOut::default() };
    match &entry.payload {
        Payload::Blank => Ok(nothing),
        Payload::Command(command) => match machine.apply(log_id.index, command) {
            Ok(reply) => Ok(CarriedOut { reply, ..nothing }),
            Err(ApplyError::Damaged(mut met)) => {
                for slot in &met.given_up {
                    tracing::error!(
                        slot,
                        index = log_id.index,
                        "the slot is damaged on this member and a log entry needs what it held: what \
                         that did is missing here, and the slot is served as an error until it is set, \
                         whole and without a condition"
                    );
                }
                let reply = std::mem::take(&mut met.reply);
                Ok(CarriedOut { reply, met: Some(met), ..nothing })
            }
            Err(ApplyError::NotApplied(failure)) => {
                Ok(CarriedOut { refused: Some(failure), ..nothing })
            }
            Err(error) => Err(io::Error::other(error)),
        },
        Payload::Membership(body) => {
            let membership = Membership { log_id: Some(log_id), body: body.clone() };
            Ok(CarriedOut { membership: Some(membership), ..nothing })
        }
    }
}

/// Waits at the memory budget until a few pages have been dropped, after writing them if need be.
fn wait_for_memory(setup: &ApplierSetup) -> io::Result<()> {
    if !setup.replica.machine.paged().is_some_and(|paged| paged.over_budget()) {
        return Ok(());
    }
    setup.replica.reclaim_memory().map_err(io::Error::other)
}
