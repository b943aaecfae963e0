//! Receives the frames of other members. Append frames, votes and snapshots go to openraft; every
//! other request is handed up as an [`Incoming`] with a place for its answer.
//!
//! Called by `peer`'s listener, which has let the members in; calls openraft and the replica.
//! Invariants:
//!
//! - I1: a member stops, with an exit code of its own, if its log ends below an entry that it
//!   acknowledged to its leader; and it stops before it answers anything to that leader (C16). It
//!   believes this only of the leader of its own vote, confirmed at the address in its own log.
//! - I2: a vote in a frame must be that of the connection's member, and its term one that elections
//!   can have reached. So no frame can use up the terms.
//! - I3: openraft gets no frame that contradicts entries committed here, because it would take the
//!   store for damaged and panic. The leader of an honest cluster sends no such frame.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use diskstore_storage::Vote as StoredVote;
use diskstore_storage::wal::Wal;
use futures_util::{FutureExt, StreamExt};
use openraft::async_runtime::WatchReceiver;
use openraft::entry::RaftEntry;
use openraft::raft::{AppendEntriesRequest, VoteResponse};
use openraft::storage::Snapshot;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::members::follow_slot_count;
use super::state_machine::meta_of;
use super::types::{
    LogId, TypeConfig, Vote, append_reply_to, ballot_from, ballot_reply_to, log_id_from,
    membership_from, read_append, transfer_from, transfer_reply_to, vote_from, vote_to,
};
use super::{Heard, RaftHandle};
use crate::fault::{EXIT_DATA_LOST, Faults, REPLACE_WITH_CARE, chain};
use crate::peer::votes::{Ballot, Transfer, decode_backs};
use crate::peer::{
    Asker, FrameKind, FrameReader, FrameWriter, Hello, Method, Origin, Service, Verified, Verifier,
    bad_frame,
};
use crate::replica::snapshot_frames::{SnapshotBegin, put_reply};
use crate::replica::{Applied, Replica, SlotsSnapshot, Syncer, snapshot};

/// How long a sender is kept waiting for space on the disk; it gives up after as long.
const SPACE_BOUND: Duration = Duration::from_secs(10);
/// How often that is looked for.
const SPACE_PAUSE: Duration = Duration::from_millis(200);
/// How long a stop waits for what was handed to openraft to be answered.
const STOP_BOUND: Duration = Duration::from_secs(1);
/// Most terms that a vote may be ahead of the own one: a member that was away for long sees many
/// elections at once, but never so many.
const TERM_STEP_MAX: u64 = 1 << 32;

/// A request that this folder does not answer itself.
#[derive(Debug)]
pub struct Incoming {
    /// What is asked for.
    pub method: Method,
    /// The member that asks; 0 for one that is about to join.
    pub from: u64,
    /// Whether votes and entries of that member are taken now.
    pub is_believed: bool,
    /// IP address that it asks from.
    pub address: IpAddr,
    /// The fields of the request.
    pub body: Bytes,
    /// Where the answer goes; dropping it closes the connection.
    pub reply: oneshot::Sender<Vec<u8>>,
}

/// What serving peers needs.
#[derive(Debug)]
pub(super) struct Peers {
    /// Asks back who it is that dials here.
    pub verifier: Arc<Verifier>,
    /// The log.
    pub wal: Arc<Wal>,
    /// Its syncer.
    pub syncer: Arc<Syncer>,
    /// The machine.
    pub replica: Arc<Replica>,
    /// openraft.
    pub raft: RaftHandle,
    /// Where trouble is reported.
    pub faults: Faults,
    /// No vote is given before this moment: a restarted voter has forgotten the lease it granted.
    pub silent_until: Instant,
    /// Where requests for the layers above go.
    pub incoming: mpsc::Sender<Incoming>,
    /// True once openraft is about to stop; whoever hands something to it holds a receiver.
    pub stopping: watch::Sender<bool>,
    /// The leader that was heard last, and when.
    pub heard: Heard,
}

impl Peers {
    /// Hands nothing more to openraft, and waits for what it has: it would complain that it stops.
    pub(super) async fn stop(&self) {
        self.stopping.send_replace(true);
        if tokio::time::timeout(STOP_BOUND, self.stopping.closed()).await.is_err() {
            tracing::debug!("some frames were not answered before the stop");
        }
    }

    /// The right to hand something to openraft, for as long as it is held.
    fn in_service(&self) -> Option<watch::Receiver<bool>> {
        let serving = self.stopping.subscribe();
        let is_stopping = *serving.borrow();
        (!is_stopping).then_some(serving)
    }

    /// Whether a vote may come over a connection of this member, now (I2).
    fn is_possible(&self, vote: &Vote, from: &Verified) -> bool {
        self.verifier.is_believed(from) && is_possible(&self.wal, vote, from.id)
    }

    /// Whether a snapshot of this member is taken: the own vote, if it is higher than its sender's.
    fn judge(&self, begin: &SnapshotBegin, from: &Verified) -> io::Result<Option<StoredVote>> {
        let vote = vote_from(begin.vote);
        if !self.is_possible(&vote, from) {
            return Err(io::Error::other("the vote of the snapshot cannot be its sender's"));
        }
        if !self.agrees(&vote, [log_id_from(begin.log_id)]) {
            return Err(io::Error::other("a snapshot of another history")); // I3
        }
        let membership = membership_from(&begin.membership).map_err(bad_frame)?;
        if let Err(error) = follow_slot_count(&self.replica.machine, membership.membership()) {
            self.faults.report(error.to_string()); // slots would come that it has no room for
            return Err(error);
        }
        Ok(self.wal.state().vote.filter(|own| vote_from(*own) > vote))
    }

    /// Whether these can stand in one log with what is committed here, now (I3). A leader that was
    /// deposed may well have others, and is told of the later vote.
    fn agrees(&self, vote: &Vote, log_ids: impl IntoIterator<Item = LogId>) -> bool {
        if self.wal.state().vote.is_some_and(|own| vote_from(own) > *vote) {
            return true;
        }
        let committed = self.raft.metrics().borrow_watched().local_committed;
        let Some(committed) = committed else { return true };
        let agrees = log_ids.into_iter().all(|log_id| is_one_log(&log_id, &committed));
        if !agrees {
            tracing::warn!(%committed, "a frame contradicts what is committed here");
        }
        agrees
    }

    /// Waits until the disk has space for the log, and for a checkpoint.
    async fn snapshot_space(&self) {
        self.syncer.next_segment().await;
        while self.replica.lacks_checkpoint_space() {
            tokio::time::sleep(SPACE_PAUSE).await;
        }
    }

    async fn answer_vote(&self, method: Method, body: Bytes, from: &Verified) -> Option<Vec<u8>> {
        let request = ballot_from(&Ballot::decode(body).ok()?);
        let _serving = self.in_service()?;
        if !self.is_possible(&request.vote, from) {
            return None;
        }
        let reply = if Instant::now() < self.silent_until && !request.leadership_transfer {
            let state = self.wal.state();
            let own = state.vote.map_or(request.vote, vote_from);
            VoteResponse::new(own, state.last.map(log_id_from), false)
        } else if method == Method::Vote {
            self.raft.vote(request).await.ok()?
        } else {
            self.raft.pre_vote(request).await.ok()?
        };
        tracing::debug!(?method, vote = ?vote_to(&reply.vote), granted = reply.vote_granted, "vote");
        Some(ballot_reply_to(&reply).encode())
    }
}

impl Service for Peers {
    /// Why a leader is refused that knows more of this member's log than there is (I1).
    fn refuse(&self, hello: &Hello, origin: Origin) -> Option<String> {
        let (vote, acknowledged) = hello.acknowledged?;
        let state = self.wal.state();
        if state.vote != Some(vote) || state.last >= Some(acknowledged) {
            return None; // under another vote a shorter log may be healthy
        }
        if vote.node_id.get() != hello.from || origin != Origin::Logged {
            let reason = "that this member acknowledged more than its log holds is believed only of \
                          its leader, at the address that its log has";
            tracing::warn!(from = format!("{:016x}", hello.from), "{reason}");
            return Some(reason.into());
        }
        let end = state.last.map_or_else(|| "nothing".into(), |last| last.to_string());
        let reason = format!(
            "this member's log ends at {end}, but it acknowledged {acknowledged} to its leader: its \
             disk lost acknowledged data; {REPLACE_WITH_CARE}"
        );
        self.faults.report_with(EXIT_DATA_LOST, reason.clone());
        Some(reason)
    }

    async fn serve_appends(
        self: Arc<Self>,
        reader: FrameReader,
        mut writer: FrameWriter,
        from: Verified,
    ) -> io::Result<()> {
        let Some(serving) = self.in_service() else { return Ok(()) };
        let (stopping, peers, from) = (serving.clone(), self.clone(), Arc::new(from));
        let requests = futures_util::stream::unfold(reader, move |mut reader| {
            let (peers, from, mut stopping) = (peers.clone(), from.clone(), stopping.clone());
            async move {
                let next = async {
                    peers.syncer.next_segment().await; // without room for more log nothing is read
                    next_append(&mut reader).await
                };
                let request = tokio::select! {
                    request = next => request?,
                    _ = stopping.changed() => return None,
                };
                let log_ids = request.entries.iter().map(RaftEntry::log_id);
                if !peers.is_possible(&request.vote, &from)
                    || !peers.agrees(&request.vote, log_ids.chain(request.prev_log_id))
                {
                    return None;
                }
                *peers.heard.lock() = Some((from.id, Instant::now()));
                Some((request, reader))
            }
        });
        let mut replies = std::pin::pin!(self.raft.stream_append(requests).fuse());
        while let Some(reply) = replies.next().await {
            append_reply_to(&reply.map_err(io::Error::other)?).put(&mut writer.buffer);
            // One sync completes many requests: their answers leave together.
            while let Some(Some(reply)) = replies.next().now_or_never() {
                append_reply_to(&reply.map_err(io::Error::other)?).put(&mut writer.buffer);
            }
            writer.send_in_time().await?;
        }
        Ok(())
    }

    async fn serve_snapshot(
        &self,
        mut reader: FrameReader,
        mut writer: FrameWriter,
        from: Verified,
    ) -> io::Result<()> {
        // Else the sender asks again, and sends nothing meanwhile.
        let waited = tokio::time::timeout(SPACE_BOUND, self.snapshot_space());
        waited.await.map_err(|_| io::Error::other("the disk has no space for a snapshot"))?;
        let _install = self.replica.begin_install().await;
        let judge = |begin: &SnapshotBegin| self.judge(begin, &from);
        let begin = snapshot::receive(&self.replica, &mut reader, &mut writer, &judge).await;
        if let Some(failure) = begin.as_ref().err().and_then(snapshot::disk_failure) {
            self.faults.report(format!("a snapshot cannot be kept: {}", chain(failure)));
        }
        let Some(begin) = begin? else { return Ok(()) };
        let SnapshotBegin { vote, log_id, membership, .. } = begin;
        let meta = meta_of(&Applied { log_id: Some(log_id), membership })?;
        let whole = Snapshot { meta, snapshot: SlotsSnapshot::default() };
        let vote = vote_from(vote);
        if !self.verifier.is_believed(&from) || !self.agrees(&vote, [log_id_from(log_id)]) {
            return Ok(()); // not any more
        }
        let response = self.raft.install_full_snapshot(vote, whole).await;
        let response = response.map_err(io::Error::other)?;
        put_reply(&mut writer.buffer, &vote_to(&response.vote));
        writer.send_in_time().await
    }

    async fn answer(&self, method: Method, body: Bytes, asker: Asker<'_>) -> Option<Vec<u8>> {
        let Asker { member, from } = asker;
        let address = from.address;
        match method {
            Method::Vote | Method::PreVote => self.answer_vote(method, body, member?).await,
            Method::Backs => {
                let (asked, own) = (decode_backs(body).ok()?, self.wal.state().vote);
                Some(vec![u8::from(own.is_some_and(|own| is_same_leader(&own, &asked)))])
            }
            Method::TransferLeader => {
                let request = transfer_from(&Transfer::decode(body).ok()?);
                let _serving = self.in_service()?;
                if !self.is_possible(request.from_leader(), member?) {
                    return None;
                }
                let reply = self.raft.handle_transfer_leader(request).await.ok()?;
                Some(transfer_reply_to(&reply).encode())
            }
            _ => {
                let (reply, answer) = oneshot::channel();
                let from = member.map_or(0, |member| member.id);
                let is_believed = member.is_some_and(|member| self.verifier.is_believed(member));
                let incoming = Incoming { method, from, is_believed, address, body, reply };
                self.incoming.send(incoming).await.ok()?;
                answer.await.ok()
            }
        }
    }
}

/// Whether both are votes for one leader in one term, whether it was heard of as elected or not.
fn is_same_leader(one: &StoredVote, other: &StoredVote) -> bool {
    (one.term, one.node_id) == (other.term, other.node_id)
}

fn is_possible(wal: &Wal, vote: &Vote, from: u64) -> bool {
    let vote = vote_to(vote);
    let own_term = wal.state().vote.map_or(0, |own| own.term.get());
    let is_possible =
        vote.node_id.get() == from && vote.term.get() <= own_term.saturating_add(TERM_STEP_MAX);
    if !is_possible {
        let from = format!("{from:016x}");
        tracing::warn!(from, ?vote, "a frame holds a vote that cannot be its sender's");
    }
    is_possible
}

/// Whether one log can have both of these: its terms do not fall, and it has one entry at an index.
fn is_one_log(one: &LogId, other: &LogId) -> bool {
    let terms = one.committed_leader_id().cmp(other.committed_leader_id());
    terms.is_eq() || terms == one.index.cmp(&other.index)
}

/// The next append frame; the stream ends with the connection or a frame that must not be.
async fn next_append(reader: &mut FrameReader) -> Option<AppendEntriesRequest<TypeConfig>> {
    let frame = reader.expect_frame(FrameKind::Append).await;
    match frame.and_then(|frame| read_append(frame.body, &frame.summed).map_err(bad_frame)) {
        Ok(request) => Some(request),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            // If the leader sends it again and again, its memory or ours is damaged: nothing else says so.
            tracing::warn!(
                error = chain(&error),
                "entries of the leader are refused: they are damaged"
            );
            None
        }
        Err(error) => {
            tracing::debug!(%error, "an append connection ended");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use diskstore_storage::Term;

    use super::*;

    #[test]
    fn a_log_has_one_entry_at_an_index_and_terms_that_do_not_fall() {
        let id =
            |term, index| log_id_from(diskstore_storage::LogId { term: Term::new(term), index });
        for (one, is_one) in [
            (id(3, 8), true),
            (id(3, 7), true),
            (id(3, 9), true),
            (id(2, 7), true),
            (id(4, 9), true),
            (id(2, 8), false),
            (id(4, 8), false),
            (id(2, 9), false),
            (id(4, 7), false),
        ] {
            assert_eq!(is_one_log(&one, &id(3, 8)), is_one, "{one}");
            assert_eq!(is_one_log(&id(3, 8), &one), is_one, "{one}");
        }
    }
}
