//! Checkpoints of one replica: one task at a time writes one, and reports its outcome.
//!
//! A checkpoint writes the applied state to its place on the disk, so that the log up to it may be
//! purged.
//! Called by `raft`, which tells openraft of each one, and through it by upkeep and by a clean
//! stop; calls the replica's state. Invariants:
//!
//! - I1: one runs at a time. A caller that asks while one runs joins it, and may change its pace.
//! - I2: a failed checkpoint is a fault, because nothing tells which of its bytes reached the disk.
//! - I3: after [`Checkpointer::stop`] none runs and none begins, so the log may be closed.

use std::sync::Arc;

use diskstore_storage::Error;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::state::Replica;
use crate::fault::{Faults, chain};

/// The result of a checkpoint: the index of the newest one that survives power loss, 0 if there is
/// none. A checkpoint that was cancelled, or found the disk full, leaves the index as it was.
type Ended = watch::Receiver<Option<u64>>;

/// Runs checkpoints.
#[derive(Debug)]
pub struct Checkpointer {
    replica: Arc<Replica>,
    faults: Faults,
    /// The checkpoint that was begun last; `None` once none may begin (I3).
    last: Mutex<Option<Ended>>,
    /// Index of the newest durable checkpoint, as of the last one that ended.
    durable: watch::Sender<u64>,
}

impl Checkpointer {
    /// A checkpointer with nothing to do.
    pub fn new(replica: Arc<Replica>, faults: Faults) -> Arc<Checkpointer> {
        let durable = durable_index(&replica);
        let (_, ended) = watch::channel(Some(durable));
        let durable = watch::Sender::new(durable);
        Arc::new(Checkpointer { replica, faults, last: Mutex::new(Some(ended)), durable })
    }

    /// Begins a checkpoint of what is applied, or joins the one that runs. It takes as long as the log
    /// takes to grow by `spread_bytes`; with 0 it is as fast as it can be.
    pub fn begin(self: &Arc<Self>, spread_bytes: u64) {
        self.replica.spread_checkpoint(spread_bytes);
        let mut last = self.last.lock();
        if last.as_ref().is_none_or(is_running) {
            return; // I1, I3
        }
        let (sender, ended) = watch::channel(None);
        *last = Some(ended);
        let checkpointer = self.clone();
        tokio::spawn(async move {
            let replica = checkpointer.replica.clone();
            let written = tokio::task::spawn_blocking(move || replica.checkpoint()).await;
            checkpointer.note(written);
            sender.send_replace(Some(*checkpointer.durable.borrow()));
        });
    }

    /// As [`Checkpointer::begin`], and waits until it has ended; the index of the newest checkpoint
    /// that survives power loss, 0 if there is none. `None` if none may begin any more.
    pub async fn run(self: &Arc<Self>, spread_bytes: u64) -> Option<u64> {
        self.begin(spread_bytes);
        let mut ended = self.last.lock().clone()?;
        drop(ended.wait_for(Option::is_some).await); // an error says that its task is gone
        Some(*self.durable.borrow())
    }

    /// True while one runs.
    pub fn is_running(&self) -> bool {
        self.last.lock().as_ref().is_some_and(is_running)
    }

    /// Watches the index of the newest checkpoint that survives power loss.
    pub fn durable(&self) -> watch::Receiver<u64> {
        self.durable.subscribe()
    }

    /// Cancels the checkpoint that runs, waits until it has ended, and lets none begin any more.
    pub async fn stop(&self) {
        let last = self.last.lock().take();
        if let Some(mut ended) = last.filter(is_running) {
            self.replica.cancel_checkpoint();
            drop(ended.wait_for(Option::is_some).await);
        }
    }

    fn note(&self, written: Result<Result<(), Error>, tokio::task::JoinError>) {
        let reason = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(chain(&error)),
            Err(error) => Some(chain(&error)),
        };
        if let Some(reason) = reason {
            self.faults.report(format!("a checkpoint cannot be written: {reason}")); // I2
        }
        self.durable.send_replace(durable_index(&self.replica));
    }
}

fn is_running(ended: &Ended) -> bool {
    ended.borrow().is_none() && ended.has_changed().is_ok()
}

fn durable_index(replica: &Replica) -> u64 {
    replica.durable().log_id.map_or(0, |log_id| log_id.index)
}
