//! Applies committed entries: on a thread of its own, or in place where nothing can make it wait.
//!
//! Called by the state machine; calls `machine`. A page fault that reads the disk, or a wait for
//! the memory budget, must hold up nothing but this thread. Where the data file fits in the memory
//! budget and all of it was read since the start, neither comes about, and entries are applied in
//! place: two wake-ups less for each batch (`docs/decisions.md`).

use std::io;
use std::sync::{Arc, mpsc};

use openraft::entry::{EntryPayload, RaftEntry};
use openraft::storage::ApplyResponder;
use tokio::sync::oneshot;

use diskstore_storage::wal::Wal;
use parking_lot::Mutex;

use super::state_machine::MachineShared;
use super::types::{Entry, StoredMembership, TypeConfig};
use crate::command::Reply;
use crate::fault::{Faults, chain};
use crate::machine::Machine;
use crate::oplog::OpLog;

/// One entry to apply, and whoever waits for its reply.
pub(super) struct Job {
    /// The entry.
    pub entry: Entry,
    /// Where the reply goes, if it was proposed here.
    pub responder: Option<ApplyResponder<TypeConfig>>,
}

struct Work {
    jobs: Vec<Job>,
    done: oneshot::Sender<io::Result<()>>,
}

/// Handle on the thread; it ends when the handle is dropped.
#[derive(Debug)]
pub(super) struct Applier {
    sender: mpsc::Sender<Work>,
    /// Held while entries are applied, wherever that is.
    setup: Arc<Mutex<Setup>>,
    machine: Machine,
}

/// What the thread works with.
pub(super) struct Setup {
    /// The machine and the applied position.
    pub shared: Arc<MachineShared>,
    /// The log, told what memory needs no longer hold.
    pub wal: Arc<Wal>,
    /// The application log of `-logfolder`.
    pub oplog: Option<OpLog>,
    /// Where trouble is reported.
    pub faults: Faults,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Setup").finish_non_exhaustive()
    }
}

impl Applier {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system starts no more threads.
    pub(super) fn start(setup: Setup) -> io::Result<Applier> {
        let (sender, receiver) = mpsc::channel::<Work>();
        let machine = setup.shared.machine.clone();
        let setup = Arc::new(Mutex::new(setup));
        let of_thread = setup.clone();
        std::thread::Builder::new().name("apply".into()).spawn(move || {
            while let Ok(work) = receiver.recv() {
                let result = apply_all(&mut of_thread.lock(), work.jobs);
                // The other end is gone if Raft is stopping.
                drop(work.done.send(result));
            }
        })?;
        Ok(Applier { sender, setup, machine })
    }

    /// Applies entries in order; returns once all of them are applied and answered.
    ///
    /// # Errors
    /// This node is sick; its faults have the reason.
    pub(super) async fn apply(&self, jobs: Vec<Job>) -> io::Result<()> {
        if self.is_never_waiting() {
            let applied = apply_all(&mut self.setup.lock(), jobs);
            tokio::task::yield_now().await; // heartbeats and sessions share this thread
            return applied;
        }
        let (done, receiver) = oneshot::channel();
        let gone = |_| io::Error::other("the apply thread is gone");
        self.sender
            .send(Work { jobs, done })
            .map_err(|_| io::Error::other("apply thread ended"))?;
        receiver.await.map_err(gone)?
    }

    /// Notes in the application log, if there is one, that entries up to `index` come by snapshot.
    ///
    /// # Errors
    /// The application log cannot be written.
    pub(super) async fn mark_gap(&self, index: u64) -> io::Result<()> {
        let setup = self.setup.clone();
        let marked = tokio::task::spawn_blocking(move || {
            let mut setup = setup.lock();
            let Some(oplog) = &mut setup.oplog else { return Ok(()) };
            oplog.mark_gap(index)?;
            oplog.sync()
        });
        marked.await.map_err(io::Error::other)?.map_err(io::Error::other)
    }

    /// True if applying touches neither the disk nor the memory budget, and there is no application
    /// log to sync.
    fn is_never_waiting(&self) -> bool {
        self.machine.never_waits()
            && self.setup.try_lock().is_some_and(|setup| setup.oplog.is_none())
    }
}

pub(super) fn apply_all(setup: &mut Setup, jobs: Vec<Job>) -> io::Result<()> {
    let result = apply_each(setup, jobs);
    if let Err(error) = &result {
        setup.faults.report(format!("an entry cannot be applied: {}", chain(error)));
    }
    result
}

fn apply_each(setup: &mut Setup, jobs: Vec<Job>) -> io::Result<()> {
    let machine = &setup.shared.machine;
    if !machine.never_waits() {
        for job in &jobs {
            if let EntryPayload::Normal(command) = &job.entry.payload {
                machine.prefetch(command);
            }
        }
    }
    let mut replies = Vec::with_capacity(jobs.len());
    let mut last = None;
    let mut membership = None;
    for Job { entry, responder } in jobs {
        wait_for_memory(setup)?;
        let log_id = entry.log_id();
        let machine = &setup.shared.machine;
        let (reply, new_membership) = apply_entry(machine, &entry)?;
        membership = new_membership.or(membership);
        if let (Some(oplog), EntryPayload::Normal(command)) = (&mut setup.oplog, &entry.payload) {
            oplog
                .record(log_id.index, command, &reply, &mut |key| machine.slot(key))
                .map_err(io::Error::other)?;
        }
        last = Some(log_id);
        if let Some(responder) = responder {
            replies.push((responder, reply));
        }
    }
    if let Some(oplog) = &mut setup.oplog {
        oplog.sync().map_err(io::Error::other)?; // before anyone hears that it was applied
    }
    setup.shared.machine.hand_on().map_err(io::Error::other)?;
    if let Some(log_id) = last {
        setup.shared.set_applied(log_id, membership);
        setup.wal.release(log_id.index);
    }
    for (responder, reply) in replies {
        responder.send(reply);
    }
    Ok(())
}

/// Applies one entry to a machine: its reply, and the membership if it is one.
pub(super) fn apply_entry(
    machine: &Machine,
    entry: &Entry,
) -> io::Result<(Reply, Option<StoredMembership>)> {
    let log_id = entry.log_id();
    let nothing = || Reply { index: log_id.index, ..Reply::default() };
    match &entry.payload {
        EntryPayload::Blank => Ok((nothing(), None)),
        EntryPayload::Normal(command) => {
            let reply = machine.apply(log_id.index, command).map_err(io::Error::other)?;
            Ok((reply, None))
        }
        EntryPayload::Membership(body) => {
            let membership = StoredMembership::new(Some(log_id), body.clone());
            Ok((nothing(), Some(membership)))
        }
    }
}

/// At the memory budget applying waits until a few changed pages were dropped, or written first.
fn wait_for_memory(setup: &Setup) -> io::Result<()> {
    if !setup.shared.machine.over_budget() {
        return Ok(());
    }
    setup.shared.make_room().map_err(io::Error::other)
}
