//! Applies the log's entries above the checkpoint, before Raft starts.
//!
//! [`ReplayAhead`] applies entries while the log is still being recovered: the log is read once,
//! and a restart takes as long as the slower of reading and applying. If an entry cannot be
//! applied, the error comes at the end. Some starts are left to [`replay`], which reads the log
//! again once everything is open: those with an application log, with a data file larger than the
//! memory budget, or with many entries that are not known to be committed. The consensus library
//! would apply them too, 64 at a time; here one thread reads ahead and takes the page faults while
//! another applies. If most pages will be touched, a third thread reads all of them from the disk
//! in their order, which is many times faster than one by one at random. No reply is sent.
//! Invariants:
//!
//! - I1: only entries known to be committed are applied. Every log that holds later entries has
//!   these too, so no truncation can take them back.
//! - I2: entries are applied in the order of the log, without a gap behind the checkpoint.
//! - I3: entries applied ahead change memory only. If the log turns out to be damaged, the start is
//!   refused, and that memory goes with the process.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::JoinHandle;

use diskstore_storage::LogId;
use diskstore_storage::wal::{self, EntryKind, Seen, Wal};

use super::applier::{ApplierSetup, Committed, Job, Payload, apply_all, apply_entry};
use super::state::{Applied, Bounds, Replica, durable_of};
use crate::command::Command;
use crate::fault::chain;
use crate::host::Threads;
use crate::machine::Machine;

/// Pieces that wait to be applied.
const PIECE_COUNT_MAX: usize = 4;

/// Applies entries while the log that holds them is recovered.
#[derive(Debug)]
pub struct ReplayAhead {
    machine: Machine,
    threads: Threads,
    bounds: Bounds,
    /// Set once the thread has ended.
    is_done: Arc<AtomicBool>,
    /// Bytes of the log, those of the batches seen, and about how many operations are in them.
    log_bytes: u64,
    seen_bytes: u64,
    seen_operation_count: u64,
    /// The next entry that belongs behind those that wait.
    next: u64,
    /// Entries that are not known to be committed.
    waiting: VecDeque<wal::Entry>,
    waiting_bytes: usize,
    /// Committed entries that go to the thread together.
    piece: Vec<wal::Entry>,
    piece_bytes: usize,
    sent_count: u64,
    /// The last entry that was taken for committed.
    committed: Option<LogId>,
    /// It was truncated later (I1).
    is_contradicted: bool,
    /// `None` once the rest is left to [`replay`].
    sender: Option<SyncSender<Vec<wal::Entry>>>,
    thread: JoinHandle<io::Result<Applied>>,
}

impl ReplayAhead {
    /// Starts from the machine's checkpoint. `None` for a machine that may have to wait for its disk.
    ///
    /// # Errors
    /// The system starts no thread.
    pub fn start(
        machine: &Machine,
        threads: &Threads,
        bounds: Bounds,
    ) -> io::Result<Option<ReplayAhead>> {
        if !machine.paged().is_some_and(|paged| paged.fits_in_memory()) {
            return Ok(None);
        }
        let applied = durable_of(machine);
        let next = applied.log_id.map_or(0, |log_id| log_id.index + 1);
        let (sender, pieces) = mpsc::sync_channel::<Vec<wal::Entry>>(PIECE_COUNT_MAX);
        let is_done = Arc::new(AtomicBool::new(false));
        let (has_ended, own, reader) = (is_done.clone(), machine.clone(), threads.clone());
        let thread = threads.spawn("replay", move || {
            let applied = apply_ahead(&own, &reader, applied, pieces);
            has_ended.store(true, Ordering::Relaxed);
            applied
        })?;
        Ok(Some(ReplayAhead {
            machine: machine.clone(),
            threads: threads.clone(),
            bounds,
            is_done,
            log_bytes: 0,
            seen_bytes: 0,
            seen_operation_count: 0,
            next,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            piece: Vec::new(),
            piece_bytes: 0,
            sent_count: 0,
            committed: None,
            is_contradicted: false,
            sender: Some(sender),
            thread,
        }))
    }

    /// Takes what the recovery of the log met.
    pub fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Bytes(bytes) => self.log_bytes = bytes,
            Seen::Batch(bytes) => self.seen_bytes += bytes,
            Seen::Entry(_) if self.sender.is_none() => {}
            Seen::Entry(entry) => self.wait(entry),
            Seen::Committed(committed) => {
                while let Some(entry) =
                    self.waiting.pop_front_if(|entry| entry.log_id.index <= committed.index)
                {
                    self.waiting_bytes -= weight(&entry);
                    self.piece_bytes += weight(&entry);
                    self.committed = Some(entry.log_id);
                    self.piece.push(entry);
                    if self.piece_bytes >= self.bounds.piece_bytes {
                        self.send();
                    }
                }
            }
            Seen::Truncated(last) => {
                let end = last.map_or(0, |last| last.index + 1);
                self.is_contradicted |= self.committed.is_some_and(|at| at.index >= end);
                while let Some(entry) = self.waiting.pop_back_if(|entry| entry.log_id.index >= end)
                {
                    self.waiting_bytes -= weight(&entry);
                    self.next = entry.log_id.index;
                }
            }
        }
    }

    fn wait(&mut self, entry: wal::Entry) {
        self.seen_operation_count += operations_in(&entry);
        if entry.log_id.index < self.next {
            return; // the checkpoint has it
        }
        let is_next = entry.log_id.index == self.next;
        self.waiting_bytes += weight(&entry);
        if !is_next || self.waiting_bytes > self.bounds.waiting_bytes_max {
            self.leave_the_rest(); // I2; and memory is bounded
            return;
        }
        self.next += 1;
        self.waiting.push_back(entry);
    }

    fn leave_the_rest(&mut self) {
        self.send();
        self.sender = None;
        self.waiting = VecDeque::new();
    }

    fn send(&mut self) {
        let Some(sender) = self.sender.clone().filter(|_| !self.piece.is_empty()) else { return };
        let piece = std::mem::take(&mut self.piece);
        if self.sent_count == 0 {
            self.read_ahead(&piece);
        }
        self.piece_bytes = 0;
        self.sent_count += piece.len() as u64;
        if sender.send(piece).is_err() {
            self.sender = None; // the thread has failed, and says so when it is asked
        }
    }

    /// Has pages read if as many operations as these and the rest of the log may hold are worth it.
    fn read_ahead(&self, piece: &[wal::Entry]) {
        let rest = self.log_bytes.saturating_sub(self.seen_bytes);
        let in_rest = rest.saturating_mul(self.seen_operation_count) / self.seen_bytes.max(1);
        let operation_count = in_rest + piece.iter().map(operations_in).sum::<u64>();
        // It ends by itself once `is_done` says so.
        drop(read_ahead(&self.machine, &self.threads, operation_count, &self.is_done));
    }

    /// Waits until everything that was seen as committed is applied; what that makes. `wal` is the
    /// log as it was recovered, and brought into agreement with the checkpoint.
    ///
    /// # Errors
    /// An entry cannot be applied, or is not in the log.
    pub fn finish(mut self, wal: &Wal) -> io::Result<Applied> {
        self.waiting = VecDeque::new();
        self.log_bytes = self.seen_bytes; // nothing follows
        self.send();
        drop(self.sender);
        let applied = self.thread.join().map_err(|_| io::Error::other("a replay panicked"))?;
        let applied = applied.map_err(|error| {
            io::Error::other(format!("an entry cannot be applied: {}", chain(&error)))
        })?;
        let is_there = |log_id: LogId| wal.log_id_at(log_id.index) == Some(log_id);
        if self.is_contradicted || !self.committed.is_none_or(is_there) {
            let what = "an entry that was known to be committed is not in the log any more";
            return Err(io::Error::other(what)); // I1
        }
        let count = self.sent_count;
        tracing::debug!(count, "entries were applied while the log was recovered");
        Ok(applied)
    }
}

/// Has pages read that so many operations may need, until they are applied; by nobody if there is no
/// thread for that.
fn read_ahead(
    machine: &Machine,
    threads: &Threads,
    operation_count: u64,
    is_done: &Arc<AtomicBool>,
) -> Option<JoinHandle<()>> {
    let (machine, is_done) = (machine.clone(), is_done.clone());
    let reading = threads.spawn("read-ahead", move || {
        if let Some(paged) = machine.paged() {
            paged.read_ahead(operation_count, &|| is_done.load(Ordering::Relaxed));
        }
    });
    reading.inspect_err(|error| tracing::debug!(%error, "pages are read one by one")).ok()
}

/// Waits until a thread that a replay needs has ended.
fn join(thread: JoinHandle<()>) -> io::Result<()> {
    thread.join().map_err(|_| io::Error::other("a thread of a replay panicked"))
}

/// How many operations an entry has, about.
fn operations_in(entry: &wal::Entry) -> u64 {
    match entry.kind {
        EntryKind::Normal => Command::estimate(&entry.payload),
        EntryKind::Blank | EntryKind::Membership => 1,
    }
}

/// Bytes of memory that an entry takes, about.
fn weight(entry: &wal::Entry) -> usize {
    entry.payload.len() + size_of::<wal::Entry>()
}

/// Applies pieces in their order; a second thread takes them apart and takes the page faults.
fn apply_ahead(
    machine: &Machine,
    threads: &Threads,
    mut applied: Applied,
    pieces: Receiver<Vec<wal::Entry>>,
) -> io::Result<Applied> {
    let (sender, ready) = mpsc::sync_channel(1);
    let own = machine.clone();
    let reading = threads.spawn("replay-read", move || {
        for piece in pieces {
            // The other end is gone if an entry could not be applied.
            if sender.send(make_ready(&own, piece)).is_err() {
                return;
            }
        }
    })?;
    for piece in ready {
        for entry in piece? {
            let membership = apply_entry(machine, &entry)?.membership;
            applied.log_id = Some(entry.log_id);
            applied.membership = membership.unwrap_or(applied.membership);
        }
        // No checkpoint is written before all of this is applied.
        machine.request_ids().settle(applied.log_id.map_or(0, |log_id| log_id.index));
    }
    join(reading)?; // else a panic would pass for the end
    Ok(applied)
}

/// Entries of the log as they are applied; memory for what they write is there.
fn make_ready(machine: &Machine, entries: Vec<wal::Entry>) -> io::Result<Vec<Committed>> {
    let decoded = entries.into_iter().map(|entry| Committed::read(entry).map_err(io::Error::other));
    let entries: Vec<Committed> = decoded.collect::<io::Result<_>>()?;
    if let Some(paged) = machine.paged() {
        for entry in &entries {
            if let Payload::Command(command) = &entry.payload {
                paged.populate(command);
            }
        }
    }
    Ok(entries)
}

/// Applies all committed entries behind the applied position; returns how many. Blocks.
///
/// # Errors
/// The log cannot be read or an entry not be applied.
pub(crate) fn replay(setup: &mut ApplierSetup) -> io::Result<u64> {
    let first = setup.replica.applied().log_id.map_or(0, |log_id| log_id.index + 1);
    let end = setup.wal.state().committed.map_or(0, |log_id| log_id.index + 1);
    if first >= end {
        return Ok(0);
    }
    let (wal, replica) = (setup.wal.clone(), setup.replica.clone());
    let (sender, pieces) = mpsc::sync_channel(PIECE_COUNT_MAX);
    let machine = replica.machine.clone();
    let reading = setup
        .threads
        .spawn("replay-read", move || read_pieces(&wal, &replica, first..end, &sender))?;
    let mut pieces = pieces.into_iter();
    let first_piece = pieces.next();
    // The rest of them is taken to be like the first entries.
    let counts = first_piece.iter().flatten().flatten().map(|entry| match &entry.payload {
        Payload::Command(command) => command.operation_count() as u64,
        Payload::Blank | Payload::Membership(_) => 1,
    });
    let (read_count, in_first) = counts.fold((0, 0), |(count, sum), next| (count + 1, sum + next));
    let operation_count = (end - first).saturating_mul(in_first) / u64::max(read_count, 1);
    let is_done = Arc::new(AtomicBool::new(false));
    let ahead = read_ahead(&machine, &setup.threads, operation_count, &is_done);
    let applied = apply_pieces(setup, first_piece.into_iter().chain(pieces)).and(join(reading));
    is_done.store(true, Ordering::Relaxed);
    ahead.map_or(Ok(()), join)?;
    applied?;
    Ok(end - first)
}

fn apply_pieces(
    setup: &mut ApplierSetup,
    pieces: impl Iterator<Item = io::Result<Vec<Committed>>>,
) -> io::Result<()> {
    for piece in pieces {
        let jobs = piece?.into_iter().map(|entry| Job { entry, answer: None::<Infallible> });
        apply_all(setup, jobs.collect())?;
    }
    Ok(())
}

fn read_pieces(
    wal: &Wal,
    replica: &Replica,
    range: Range<u64>,
    sender: &SyncSender<io::Result<Vec<Committed>>>,
) {
    let mut next = range.start;
    while next < range.end {
        let piece = read_piece(wal, next..range.end, replica.bounds.piece_bytes);
        let piece = piece.and_then(|entries| make_ready(&replica.machine, entries));
        let is_last = piece.is_err();
        next += piece.iter().flatten().count() as u64;
        // The other end is gone if an entry could not be applied.
        if sender.send(piece).is_err() || is_last {
            return;
        }
    }
}

fn read_piece(wal: &Wal, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<wal::Entry>> {
    let first = range.start;
    let entries = wal.read(range, bytes_max).map_err(io::Error::other)?;
    if entries.is_empty() {
        return Err(io::Error::other(format!("the log lacks committed entry {first}")));
    }
    Ok(entries)
}
