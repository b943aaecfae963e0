//! The thread that makes the log durable: records that arrive during one sync go out with the next.
//!
//! Called by `raft`'s log store and by checkpoints; calls `storage::wal`. A second thread prepares
//! the next segment and takes old ones out of the log, so that neither delays a sync. Invariants:
//!
//! - I1: a completion fires with `Ok` only after the batch that holds its records is on disk.
//! - I2: completions fire in the order of their positions. After a failed write all of them fire
//!   with the error, and so do all that come later (C3, C4).
//! - I3: a dropped completion reports an error; otherwise its waiter would stall (C5).
//! - I4: once the threads have ended, by a failure or by a stop, nothing waits for them: all
//!   completions, present and later, fire with an error.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use diskstore_storage::Error;
use diskstore_storage::wal::{Position, SealedBatch, SyncMode, Wal};
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::pace::Pace;
use crate::fault::{Faults, chain};
use crate::host::Threads;
use crate::metrics::WriteStages;

/// An idle node writes one empty batch after this time, so that the last sync is claimed too.
const CLAIM_AFTER: Duration = Duration::from_millis(5);
/// How long the segment thread waits before it tries again to make a segment.
const PREPARE_RETRY: Duration = Duration::from_secs(1);

/// Tells one waiter whether its records are durable.
struct Completion(Option<Box<dyn FnOnce(io::Result<()>) + Send>>);

impl Completion {
    fn fire(mut self, result: io::Result<()>) {
        if let Some(callback) = self.0.take() {
            callback(result);
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if let Some(callback) = self.0.take() {
            callback(Err(io::Error::other("the syncer dropped a completion"))); // I3
        }
    }
}

#[derive(Default)]
struct SyncerState {
    waiting: VecDeque<(Position, Completion)>,
    is_kicked: bool,
    is_stopping: bool,
    /// How long a written batch may stay unsynced, if the log does not sync every batch.
    sync_interval: Option<Duration>,
    /// When the oldest batch that is not synced yet was written.
    unsynced_since: Option<Instant>,
    /// Why nothing becomes durable any more.
    failure: Option<String>,
}

impl SyncerState {
    /// When the log has to be synced, unless a batch is written before.
    fn sync_due(&self) -> Option<Instant> {
        Some(self.unsynced_since? + self.sync_interval?)
    }
}

/// What the thread does next.
enum SyncWork {
    Write(SealedBatch),
    Sync,
}

#[derive(Default)]
struct SegmentState {
    is_kicked: bool,
    is_stopping: bool,
}

struct SyncerShared {
    wal: Arc<Wal>,
    state: Mutex<SyncerState>,
    work: Condvar,
    segments: Mutex<SegmentState>,
    segment_work: Condvar,
    /// Notified whenever a batch was written or a segment is ready.
    progress: Notify,
    faults: Faults,
    stages: WriteStages,
    written_bytes: AtomicU64,
}

impl SyncerShared {
    /// True once nothing becomes durable any more.
    fn has_ended(&self) -> bool {
        self.state.lock().failure.is_some()
    }

    /// Fires all completions, present and later, with an error. The first reason stays.
    fn end(&self, reason: &str) {
        let (waiting, reason) = {
            let mut state = self.state.lock();
            let reason = state.failure.get_or_insert_with(|| reason.into()).clone();
            (std::mem::take(&mut state.waiting), reason)
        };
        for (_, completion) in waiting {
            completion.fire(Err(io::Error::other(reason.clone())));
        }
        self.progress.notify_waiters();
    }
}

/// Handle on the two threads. Dropping it without [`Syncer::stop`] leaves them running.
pub struct Syncer {
    shared: Arc<SyncerShared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Syncer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Syncer").finish_non_exhaustive()
    }
}

impl Syncer {
    /// Starts both threads.
    ///
    /// # Errors
    /// The operating system starts no more threads.
    pub fn start(wal: Arc<Wal>, threads: &Threads, faults: Faults) -> io::Result<Syncer> {
        let shared = Arc::new(SyncerShared {
            wal,
            state: Mutex::default(),
            work: Condvar::new(),
            segments: Mutex::default(),
            segment_work: Condvar::new(),
            progress: Notify::new(),
            faults,
            stages: WriteStages::default(),
            written_bytes: AtomicU64::new(0),
        });
        let (for_sync, for_segments) = (shared.clone(), shared.clone());
        let segments = threads.spawn("wal-segments", move || run_segments(&for_segments))?;
        let sync = threads.spawn("wal-sync", move || run_sync(&for_sync));
        let sync = sync.inspect_err(|error| shared.end(&error.to_string()))?; // and the other goes
        Ok(Syncer { shared, threads: Mutex::new(vec![sync, segments]) })
    }

    /// For a log that does not sync every batch: syncs written batches at most this long after their
    /// write, and at the stop. Nobody waits for these syncs.
    pub fn sync_every(&self, interval: Duration) {
        let mut state = self.shared.state.lock();
        (state.sync_interval, state.is_kicked) = (Some(interval), true);
        drop(state);
        self.shared.work.notify_one();
    }

    /// Wakes the thread, and calls `callback` once `position` is durable, or with the reason why it
    /// never will be. It is called on the thread that syncs, and must not block.
    pub fn complete_at(
        &self,
        position: Position,
        callback: impl FnOnce(io::Result<()>) + Send + 'static,
    ) {
        let completion = Completion(Some(Box::new(callback)));
        let mut state = self.shared.state.lock();
        if let Some(failure) = &state.failure {
            let error = io::Error::other(failure.clone());
            drop(state);
            completion.fire(Err(error));
            return;
        }
        if self.shared.wal.durable() >= position {
            drop(state);
            completion.fire(Ok(()));
            return;
        }
        let at = state.waiting.partition_point(|(other, _)| *other <= position);
        state.waiting.insert(at, (position, completion));
        state.is_kicked = true;
        drop(state);
        self.shared.work.notify_one();
    }

    /// Waits until `position` is durable.
    ///
    /// # Errors
    /// The disk failed; it is not known what is durable.
    pub async fn wait(&self, position: Position) -> io::Result<()> {
        self.completion(position).await.map_err(|_| io::Error::other("the syncer is gone"))?
    }

    /// As [`Syncer::wait`], for a thread that may block.
    ///
    /// # Errors
    /// As [`Syncer::wait`].
    pub fn wait_blocking(&self, position: Position) -> io::Result<()> {
        self.completion(position)
            .blocking_recv()
            .map_err(|_| io::Error::other("the syncer is gone"))?
    }

    fn completion(&self, position: Position) -> oneshot::Receiver<io::Result<()>> {
        let (sender, receiver) = oneshot::channel();
        // Whoever waited may have given up.
        self.complete_at(position, |result| drop(sender.send(result)));
        receiver
    }

    /// Blocks until everything appended so far, the latest `committed` included, is durable. A checkpoint
    /// round waits for this between copying pages and writing them.
    ///
    /// # Errors
    /// The disk failed.
    pub fn barrier_blocking(&self) -> diskstore_storage::Result<()> {
        let position = self.shared.wal.barrier();
        self.wait_blocking(position).map_err(|source| Error::Io {
            operation: "sync",
            path: "wal".into(),
            offset: 0,
            source,
        })?;
        self.shared.wal.sync() // log before data, whatever `-sync` says
    }

    /// Waits until appending may go on: unsynced bytes are bounded. Ends with the syncer too.
    pub async fn below_bound(&self) {
        loop {
            let notified = self.shared.progress.notified();
            if !self.shared.wal.is_over_bound() || self.shared.has_ended() {
                return;
            }
            notified.await;
        }
    }

    /// Waits until the next segment is there, so that appending cannot run out of space. Ends with
    /// the syncer too.
    pub async fn next_segment(&self) {
        loop {
            let notified = self.shared.progress.notified();
            if self.shared.wal.has_next_segment() || self.shared.has_ended() {
                return;
            }
            self.kick_segments();
            notified.await;
        }
    }

    /// Wakes the segment thread: a purge was recorded, or a segment was begun.
    pub fn kick_segments(&self) {
        self.shared.segments.lock().is_kicked = true;
        self.shared.segment_work.notify_one();
    }

    /// Bytes ever written to the log.
    pub fn log_bytes(&self) -> u64 {
        self.shared.wal.log_bytes()
    }

    /// Bytes that batches took on the disk since the start, padding included.
    pub fn written_bytes(&self) -> u64 {
        self.shared.written_bytes.load(Ordering::Relaxed)
    }

    /// How long syncs took, and what is around them of a write.
    pub fn stages(&self) -> &WriteStages {
        &self.shared.stages
    }

    /// Writes what is pending, claims the last batch and ends both threads. Blocks. Whoever waits
    /// for more, now or later, gets an error (I4).
    pub fn stop(&self) {
        self.shared.state.lock().is_stopping = true;
        self.shared.work.notify_one();
        self.shared.segments.lock().is_stopping = true;
        self.shared.segment_work.notify_one();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a log thread panicked");
            }
        }
        // The next start reads what is still in the log.
        if !self.shared.has_ended()
            && let Err(error) = self.shared.wal.reclaim()
        {
            tracing::warn!(error = chain(&error), "old log segments stay");
        }
        self.shared.end("the log is closed: this node is stopping");
    }
}

fn run_sync(shared: &SyncerShared) {
    while let Some(work) = next_work(shared) {
        if let Err(error) = carry_out(shared, work, Instant::now()) {
            fail(shared, &chain(&error));
            return;
        }
        if shared.wal.is_prepare_due() {
            shared.segments.lock().is_kicked = true;
            shared.segment_work.notify_one();
        }
        shared.progress.notify_waiters();
    }
}

fn carry_out(shared: &SyncerShared, work: SyncWork, started: Instant) -> Result<(), Error> {
    match work {
        SyncWork::Write(batch) => {
            shared.written_bytes.fetch_add(batch.bytes() as u64, Ordering::Relaxed);
            let durable = shared.wal.write(batch)?;
            if shared.wal.sync_mode() == SyncMode::Always {
                // Before whoever waits is told, for a receipt says what its sync took.
                shared.stages.synced(durable, started.elapsed());
            }
            shared.state.lock().unsynced_since.get_or_insert(started);
            complete(shared, durable);
        }
        SyncWork::Sync => {
            shared.wal.sync()?;
            shared.stages.synced(shared.wal.durable(), started.elapsed());
            shared.state.lock().unsynced_since = None;
        }
    }
    Ok(())
}

/// Blocks until there is something to do, and returns it; `None` at the end.
fn next_work(shared: &SyncerShared) -> Option<SyncWork> {
    let mut state = shared.state.lock();
    loop {
        state.is_kicked = false;
        let (due, now) = (state.sync_due(), Instant::now());
        if due.is_some_and(|due| due <= now) {
            return Some(SyncWork::Sync);
        }
        if let Some(batch) = shared.wal.seal() {
            return Some(SyncWork::Write(batch));
        }
        if state.is_stopping {
            return shared.wal.seal_claim().map(SyncWork::Write).or(due.map(|_| SyncWork::Sync));
        }
        let claim = shared.wal.claim_due().then(|| now + CLAIM_AFTER);
        let is_claim_next = claim.is_some_and(|claim| due.is_none_or(|due| claim < due));
        let Some(until) = claim.into_iter().chain(due).min() else {
            shared.work.wait_while(&mut state, |state| !state.is_kicked && !state.is_stopping);
            continue;
        };
        let timeout = shared.work.wait_while_for(
            &mut state,
            |state| !state.is_kicked && !state.is_stopping,
            until - now,
        );
        if timeout.timed_out()
            && is_claim_next
            && let Some(batch) = shared.wal.seal_claim()
        {
            return Some(SyncWork::Write(batch));
        }
    }
}

fn complete(shared: &SyncerShared, durable: Position) {
    loop {
        let completion = {
            let mut state = shared.state.lock();
            match state.waiting.front() {
                Some((position, _)) if *position <= durable => state.waiting.pop_front(),
                _ => None,
            }
        };
        let Some((_, completion)) = completion else { return };
        completion.fire(Ok(()));
    }
}

fn fail(shared: &SyncerShared, reason: &str) {
    let reason = format!("the log cannot be written: {reason}");
    shared.faults.report(reason.clone());
    shared.end(&reason);
}

fn run_segments(shared: &SyncerShared) {
    let mut is_refused = false;
    while wait_segment_work(shared) {
        match tend_segments(shared, is_refused) {
            Ok(refused) => is_refused = refused,
            Err(error) => {
                fail(shared, &chain(&error));
                return;
            }
        }
    }
}

/// Blocks until the segments may want something; false at the end.
fn wait_segment_work(shared: &SyncerShared) -> bool {
    let mut state = shared.segments.lock();
    shared.segment_work.wait_while_for(
        &mut state,
        |state| !state.is_kicked && !state.is_stopping,
        PREPARE_RETRY,
    );
    state.is_kicked = false;
    !state.is_stopping && !shared.has_ended()
}

/// Takes old segments out of the log, and makes the next one if it is missing. True if the disk has no
/// space for it, which may change; every other failure of the disk is final.
fn tend_segments(shared: &SyncerShared, was_refused: bool) -> Result<bool, Error> {
    shared.wal.reclaim()?;
    if !shared.wal.is_prepare_due() {
        return Ok(was_refused);
    }
    let mut pace = None;
    // It is there by the time half of the present segment is full.
    let mut rest = |filled, bytes| {
        let log_bytes = shared.wal.log_bytes();
        let pace = pace.get_or_insert_with(|| Pace::new(bytes, log_bytes));
        std::thread::sleep(pace.rest(filled, log_bytes, bytes / 2));
    };
    match shared.wal.prepare_resting(&mut rest) {
        Err(full @ Error::NoSpace { .. }) => {
            if !was_refused {
                tracing::error!(
                    error = chain(&full),
                    "no room for the next log segment: writes are refused until there is"
                );
            }
            return Ok(true);
        }
        made => drop(made?),
    }
    if was_refused {
        tracing::info!("there is room for the log again");
    }
    shared.progress.notify_waiters();
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use diskstore_storage::disk::{CrashMode, SimDisk};
    use diskstore_storage::wal::{Entry, EntryKind, Nonces, Options};
    use diskstore_storage::{LogId, Term};
    use tokio::time::timeout;

    use super::*;

    /// When a wait that should have ended is called hanging.
    const LONG: Duration = Duration::from_secs(10);

    fn open(disk: &SimDisk, sync: SyncMode) -> Arc<Wal> {
        let options = Options { sync, segment_bytes: 64 << 10, ..Options::new(Nonces::counted()) };
        let disk = Arc::new(disk.clone());
        Arc::new(Wal::open(disk, Path::new("/wal"), Path::new("/tmp"), &options).unwrap().0)
    }

    fn entry(index: u64) -> Entry {
        let log_id = LogId { term: Term::new(1), index };
        Entry {
            log_id,
            kind: EntryKind::Normal,
            payload: bytes::Bytes::from_static(b"value").into(),
        }
    }

    /// The last index that a power loss leaves.
    fn last_after_power_loss(disk: &SimDisk) -> Option<u64> {
        let disk = disk.crash(CrashMode::Lost);
        open(&disk, SyncMode::Always).state().last.map(|last| last.index)
    }

    #[tokio::test]
    async fn what_a_sync_took_is_known_to_whoever_waited_for_it() {
        let wal = open(&SimDisk::new(1), SyncMode::Always);
        let syncer = Arc::new(Syncer::start(wal.clone(), &Threads::System, Faults::new()).unwrap());
        let (seen, told) = oneshot::channel();
        let of_callback = syncer.clone();
        let position = wal.append([entry(0)]).unwrap();
        syncer.complete_at(position, move |done| {
            drop(seen.send(done.map(|()| of_callback.stages().sync.count())));
        });
        assert_eq!(timeout(LONG, told).await.unwrap().unwrap().unwrap(), 1);
    }

    #[tokio::test]
    async fn batches_are_synced_after_the_interval_and_nobody_waits_for_it() {
        let disk = SimDisk::new(1);
        let wal = open(&disk, SyncMode::OnRequest);
        let syncer = Syncer::start(wal.clone(), &Threads::System, Faults::new()).unwrap();
        syncer.sync_every(Duration::from_hours(1));
        let position = wal.append([entry(0), entry(1)]).unwrap();
        timeout(LONG, syncer.wait(position)).await.unwrap().unwrap();
        // A block for the batch, and one for the empty batch that claims it a little later.
        let claimed = async {
            while syncer.written_bytes() != 2 * 4096 {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, claimed).await.expect("it is claimed, and nothing else is written");
        assert_eq!(last_after_power_loss(&disk), None, "written, not synced");
        assert_eq!(syncer.stages().sync.count(), 0);
        syncer.sync_every(Duration::from_millis(1));
        let synced = async {
            while last_after_power_loss(&disk) != Some(1) {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, synced).await.expect("it is synced, though nothing else is written");
        syncer.sync_every(Duration::from_hours(1));
        let position = wal.append([entry(2)]).unwrap();
        timeout(LONG, syncer.wait(position)).await.unwrap().unwrap();
        syncer.stop();
        assert_eq!(last_after_power_loss(&disk), Some(2), "a stop leaves nothing unsynced");
    }

    /// A checkpoint writes pages behind it, whatever `-sync` says.
    #[tokio::test]
    async fn what_a_barrier_waited_for_survives_a_power_loss_in_a_log_synced_on_request_too() {
        let disk = SimDisk::new(1);
        let wal = open(&disk, SyncMode::OnRequest);
        let syncer = Arc::new(Syncer::start(wal.clone(), &Threads::System, Faults::new()).unwrap());
        wal.append([entry(0), entry(1)]).unwrap();
        let of_checkpoint = syncer.clone();
        let barrier = tokio::task::spawn_blocking(move || of_checkpoint.barrier_blocking());
        timeout(LONG, barrier).await.unwrap().unwrap().unwrap();
        assert_eq!(last_after_power_loss(&disk), Some(1));
        syncer.stop();
    }

    #[tokio::test]
    async fn nobody_waits_for_a_stopped_syncer() {
        let wal = open(&SimDisk::new(1), SyncMode::Always);
        let faults = Faults::new();
        let syncer = Arc::new(Syncer::start(wal, &Threads::System, faults.clone()).unwrap());
        let never = Position(syncer.shared.wal.position().0 + 100);
        let wait = |syncer: Arc<Syncer>| timeout(LONG, async move { syncer.wait(never).await });
        let waiting = tokio::spawn(wait(syncer.clone()));
        while syncer.shared.state.lock().waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        syncer.stop();
        assert!(waiting.await.unwrap().unwrap().is_err(), "one that waits hears of the stop");
        assert!(wait(syncer.clone()).await.unwrap().is_err(), "so does one that comes later");
        let barrier = tokio::task::spawn_blocking(move || syncer.barrier_blocking());
        assert!(barrier.await.unwrap().is_err(), "so does a checkpoint");
        assert!(faults.current().is_none(), "a stop is no fault");
    }

    /// C5: a thread of the log that panics takes what it holds with it.
    #[tokio::test]
    async fn a_completion_that_is_dropped_reports_an_error() {
        let (sender, receiver) = oneshot::channel();
        drop(Completion(Some(Box::new(|result| drop(sender.send(result))))));
        let told = timeout(LONG, receiver).await.unwrap();
        let error = told.expect("it is told, not left alone").unwrap_err();
        assert!(error.to_string().contains("dropped a completion"), "{error}");
    }
}
