//! Implements openraft's interface for a log, over `storage::wal`.
//!
//! Called by openraft's core alone; calls `replica`'s syncer and `storage::wal`. It keeps the
//! promises that openraft's proofs rest on (`docs/contract.md`): entries can be read when `append`
//! returns, and callbacks fire once they are on disk (C3); a vote is durable before `save_vote`
//! returns (C1); and all of it is one stream (C2). Entries that are not in memory any more are read
//! on a thread that may block, never on the runtime's.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use diskstore_storage::wal::{self, Wal};
use futures_util::Stream;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::time::Instant;

use super::types::{
    Entry, LogId, TypeConfig, Vote, entry_from, entry_of_tail, entry_to, log_id_from, log_id_to,
    vote_from, vote_to,
};
use crate::replica::Syncer;

/// Most bytes of values that one append frame, or one step of applying, takes from the log. One
/// entry may be larger.
pub(super) const READ_BYTES_MAX: usize = 1 << 20;

/// The log store; clones read the same log.
#[derive(Debug, Clone)]
pub(super) struct LogStore {
    wal: Arc<Wal>,
    syncer: Arc<Syncer>,
}

impl LogStore {
    /// A log store over an open log and its syncer.
    pub(super) fn new(wal: Arc<Wal>, syncer: Arc<Syncer>) -> LogStore {
        LogStore { wal, syncer }
    }

    async fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if let Some(entries) = self.wal.read_tail(range.clone(), bytes_max) {
            let entries =
                entries.into_iter().map(|entry| entry_of_tail(entry).map_err(io::Error::other));
            return entries.collect();
        }
        let wal = self.wal.clone();
        let reading = tokio::task::spawn_blocking(move || wal.read(range, bytes_max));
        let stored = reading.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
        stored.into_iter().map(|entry| entry_from(entry).map_err(io::Error::other)).collect()
    }
}

fn to_range(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(index) => index.saturating_add(1),
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        self.read(to_range(&range), usize::MAX).await
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        // Applying may ask for the whole log after a start: it is read piece by piece.
        let (store, range) = (self.clone(), to_range(&range));
        let pieces = futures_util::stream::unfold((store, Some(range)), async |(store, rest)| {
            let range = rest.filter(|range| !range.is_empty())?;
            let entries = store.read(range.clone(), READ_BYTES_MAX).await;
            let next = match &entries {
                Ok(read) if !read.is_empty() => Some(range.start + read.len() as u64..range.end),
                _ => None,
            };
            Some((entries, (store, next)))
        });
        let items = futures_util::StreamExt::map(pieces, |piece| {
            let items: Vec<io::Result<Entry>> = match piece {
                Ok(entries) => entries.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            futures_util::stream::iter(items)
        });
        futures_util::StreamExt::flatten(items)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.wal.state().vote.map(vote_from))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start..end, READ_BYTES_MAX).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.wal.state();
        Ok(LogState {
            last_purged_log_id: state.purged.map(log_id_from),
            last_log_id: state.last.map(log_id_from),
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let position = self.wal.save_vote(vote_to(vote));
        self.syncer.wait(position).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if let Some(committed) = committed {
            self.wal.save_committed(log_id_to(&committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.wal.state().committed.map(log_id_from))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let begun = Instant::now();
        let entries: Vec<_> = entries.into_iter().map(entry_to).collect();
        let index = |entry: &wal::Entry| entry.log_id.index;
        let ends = entries.first().map(index).zip(entries.last().map(index));
        self.syncer.below_bound().await;
        let position = self.wal.append(entries).map_err(io::Error::other)?;
        if let Some((first, last)) = ends {
            self.syncer.stages().appended(first, last, position, begun);
        }
        self.syncer.complete_at(position, |flushed| callback.io_completed(flushed));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        // Ordered by the stream; whoever needs it durable waits for a later position.
        self.wal.truncate_after(last_log_id.map(|log_id| log_id_to(&log_id)));
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        // The record is durable before any segment goes: the segment thread looks at the durable
        // purge point alone.
        let position = self.wal.purge(log_id_to(&log_id));
        self.syncer.wait(position).await?;
        self.syncer.kick_segments();
        Ok(())
    }
}
