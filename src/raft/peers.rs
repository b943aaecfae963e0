//! What other members reach on the `-raft` and `-hjoin` ports.
//!
//! Called by `mod.rs`; calls openraft for append frames, votes and snapshots. Everything else is
//! handed up as an [`Incoming`] with a place for its answer. Invariants:
//!
//! - I1: nothing but a hello is taken before cluster and member ids were compared (C17, F25) and
//!   the member that it names said that the hello is its own (`verify`).
//! - I2: a member whose log ends below what a leader knows it acknowledged stops, with its own exit
//!   code, before it answers anything to that leader (C16). It believes so of the leader of its own
//!   vote alone, and only when that was asked where the own log has it.
//! - I3: connections, frames and requests under way are bounded, those of callers that have not
//!   named the cluster apart from members': they cannot shut members out.
//! - I4: no write waits for long for a peer that takes nothing. Reads wait as the purpose asks: a
//!   handshake and a joiner have deadlines here, a snapshot has its own. A member's requests may be
//!   days apart, and so may the entries of an append connection (heartbeats have another); closing
//!   one could cut off a request that is just arriving, whose outcome would then be unknown. A
//!   member that is gone is noticed by the kernel (see `connection`).
//! - I5: a vote in a frame is that of the member whose connection it comes over, and of a term that
//!   elections can have led to: no frame uses up the terms.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use diskstore_storage::Vote as StoredVote;
use diskstore_storage::wal::Wal;
use futures_util::{FutureExt, StreamExt};
use openraft::raft::{AppendEntriesRequest, VoteResponse};
use openraft::storage::Snapshot;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::state_machine::meta_of;
use super::types::{
    TypeConfig, Vote, append_reply_to, ballot_from, ballot_reply_to, log_id_from, membership_from,
    read_append, transfer_from, transfer_reply_to, vote_from, vote_to,
};
use super::{Heard, RaftHandle};
use crate::descriptors::{Place, Places, Shares};
use crate::fault::{EXIT_DATA_LOST, Faults, REPLACE_WITH_CARE, chain};
use crate::peer::votes::{Ballot, Transfer};
use crate::peer::{
    Allowance, Caller, FrameReader, FrameWriter, Greeting, HANDSHAKE_TIMEOUT, Hello, Kind, Method,
    Origin, Purpose, Verified, Verifier, WRITE_TIMEOUT, Welcome, bad_frame, in_time, serve, split,
};
use crate::replica::snapshot_frames::{SnapshotBegin, put_reply};
use crate::replica::{Applied, Replica, SlotsSnapshot, Syncer, snapshot};

/// What a connection of a member is given: its requests may be days apart.
const MEMBER: Allowance =
    Allowance { request_count_max: 1024, idle_max: None, write_max: WRITE_TIMEOUT };
/// What a joiner is given, or whoever asks where another is: it has but one question.
const JOINER: Allowance = Allowance {
    request_count_max: 1,
    idle_max: Some(Duration::from_secs(10)),
    write_max: WRITE_TIMEOUT,
};
/// How long a sender is kept waiting for room on the disk; it gives up after as long.
const ROOM_BOUND: Duration = Duration::from_secs(10);
/// How often that is looked for.
const ROOM_PAUSE: Duration = Duration::from_millis(200);
/// How long a stop waits for what was handed to openraft to be answered.
const STOP_BOUND: Duration = Duration::from_secs(1);
/// Most terms that a vote may be ahead of the own one: a member that was away for long sees many
/// elections at once, but never so many.
const TERM_STEP_MAX: u64 = 1 << 32;
/// Pause after a failed accept (out of file descriptors), so that it does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A request that this folder does not answer itself.
#[derive(Debug)]
pub struct Incoming {
    /// What is asked for.
    pub method: Method,
    /// The member that asks; 0 for one that is about to join.
    pub from: u64,
    /// IP address that it asks from.
    pub address: std::net::IpAddr,
    /// The fields of the request.
    pub body: Bytes,
    /// Where the answer goes; dropping it closes the connection.
    pub reply: oneshot::Sender<Vec<u8>>,
}

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// Members, and those that want to join.
    Peers,
    /// Those that want to join only.
    Joins,
}

impl Zone {
    /// What a client that came to the wrong port reads, in RESP.
    fn reply_to_client(self) -> &'static str {
        match self {
            Zone::Peers => {
                "-ERR this is a -raft port of diskstore, for its members; clients use the -port \
                 address\r\n"
            }
            Zone::Joins => {
                "-ERR this is a -hjoin port of diskstore, for nodes that want to join; clients use \
                 the -port address\r\n"
            }
        }
    }
}

/// What serving peers needs.
#[derive(Debug)]
pub(super) struct Peers {
    /// This member, as it dials others.
    pub caller: Arc<Caller>,
    /// Asks back who it is that dials here.
    pub verifier: Verifier,
    /// The log.
    pub wal: Arc<Wal>,
    /// Its syncer.
    pub syncer: Arc<Syncer>,
    /// The machine.
    pub shared: Arc<Replica>,
    /// openraft.
    pub raft: RaftHandle,
    /// Where trouble is reported.
    pub faults: Faults,
    /// No vote is given before this moment: a restarted voter has forgotten the lease it granted.
    pub silent_until: Instant,
    /// Where requests for the layers above go.
    pub incoming: mpsc::Sender<Incoming>,
    /// Bytes that came at its ports.
    pub received_bytes: Arc<AtomicU64>,
    /// Places for its connections.
    pub room: Room,
    /// True once openraft is about to stop; whoever hands something to it holds a receiver.
    pub stopping: watch::Sender<bool>,
    /// The leader that was heard last, and when.
    pub heard: Heard,
}

/// Room for connections on all listeners of the node.
#[derive(Debug, Default)]
pub(super) struct Room {
    handshakes: Places,
    members: Places,
    joiners: Places,
}

impl Room {
    /// A place for a caller whose hello was accepted.
    fn place_for(&self, hello: &Hello) -> Option<Place> {
        let shares = Shares::now();
        if hello.cluster_id == 0 {
            self.joiners.take(shares.joiners)
        } else {
            self.members.take(shares.members)
        }
    }
}

impl Peers {
    /// Accepts connections until the task is dropped.
    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener, zone: Zone) {
        loop {
            let (stream, _) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a peer");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let Some(handshake) = self.room.handshakes.take(Shares::now().handshakes) else {
                continue; // dropping the stream refuses it
            };
            let peers = self.clone();
            tokio::spawn(async move {
                if let Err(error) = peers.serve_one(stream, zone, handshake).await {
                    tracing::debug!(%error, "a peer's connection ended");
                }
            });
        }
    }

    async fn serve_one(
        self: Arc<Self>,
        stream: TcpStream,
        zone: Zone,
        handshake: Place,
    ) -> io::Result<()> {
        let address = stream.peer_addr()?.ip();
        let (mut reader, mut writer) = split(stream)?;
        reader.count_in(self.received_bytes.clone());
        let body = in_time(reader.expect(Kind::Hello), HANDSHAKE_TIMEOUT).await;
        let hello = match body.and_then(|body| Hello::decode(body).map_err(bad_frame)) {
            Ok(hello) => hello,
            Err(error) => {
                if reader.unread().is_empty() {
                    let reason = format!("this port speaks diskstore's peer protocol: {error}");
                    self.welcome(Greeting::Refused(reason)).put(&mut writer.buffer);
                } else {
                    // Whoever sends no frame is most likely a client of Redis.
                    writer.buffer.extend_from_slice(zone.reply_to_client().as_bytes());
                }
                writer.send_in_time().await?;
                return Err(error);
            }
        };
        let (_place, member) = match self.receive(&hello, address, zone).await {
            Ok(received) => received,
            Err(welcome) => {
                welcome.put(&mut writer.buffer);
                return writer.send_in_time().await;
            }
        };
        self.welcome(Greeting::Accepted).put(&mut writer.buffer);
        writer.send_in_time().await?;
        drop(handshake);
        // Whoever has not named the cluster may ask to join, and where others are, and nothing else.
        let Some(member) = member else {
            return self.serve_requests(reader, writer, (None, address)).await;
        };
        reader.allow_large(); // a request to join is short
        match hello.purpose {
            Purpose::Requests => self.serve_requests(reader, writer, (Some(member), address)).await,
            Purpose::Append => self.serve_appends(reader, writer, member).await,
            Purpose::Snapshot => self.serve_snapshot(reader, writer, member).await,
            Purpose::Confirm => unreachable!("the welcome was the answer"),
        }
    }

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

    fn welcome(&self, answer: Greeting) -> Welcome {
        Welcome { from: self.caller.me(), answer }
    }

    /// A place for a connection whose hello is what it seems to be, and its member, or what it is told
    /// instead (I1).
    async fn receive(
        &self,
        hello: &Hello,
        from: std::net::IpAddr,
        zone: Zone,
    ) -> Result<(Place, Option<Verified>), Welcome> {
        if hello.purpose == Purpose::Confirm && zone == Zone::Peers {
            return Err(self.caller.answer_to(hello));
        }
        let refused = |reason: String| self.welcome(Greeting::Refused(reason));
        if let Some(answer) = self.refuse(hello, zone) {
            self.note_other_cluster(hello, from, zone).await;
            return Err(self.welcome(answer));
        }
        let Some(place) = self.room.place_for(hello) else {
            return Err(refused("too many connections; try again later".into()));
        };
        if hello.cluster_id == 0 {
            return Ok((place, None));
        }
        let verified = self.verifier.verify(hello, from).await;
        let member = verified.map_err(|answer| self.welcome(answer))?;
        if hello.purpose != Purpose::Requests && !self.verifier.is_believed(&member) {
            let reason = member.disbelief();
            self.verifier.tell(&reason);
            return Err(refused(reason));
        }
        if let Some(reason) = self.refuse_lost_log(hello, member.origin) {
            return Err(refused(reason));
        }
        Ok((place, Some(member)))
    }

    /// Why a hello is refused whoever it comes from, if it is.
    fn refuse(&self, hello: &Hello, zone: Zone) -> Option<Greeting> {
        let me = self.caller.me();
        let is_joiner = hello.cluster_id == 0;
        if is_joiner || zone == Zone::Joins {
            let is_allowed = is_joiner && hello.purpose == Purpose::Requests;
            let reason = "only requests to join are taken here";
            return (!is_allowed).then(|| Greeting::Refused(reason.into()));
        }
        if hello.cluster_id != me.cluster_id {
            return Some(Greeting::Refused(format!(
                "this is a member of cluster {:032x}, not of {:032x}",
                me.cluster_id, hello.cluster_id
            )));
        }
        if hello.to != 0 && hello.to != me.member_id {
            let reason = format!("this is member {:016x}, not {:016x}", me.member_id, hello.to);
            return Some(Greeting::Refused(reason));
        }
        if hello.from == me.member_id && hello.process == me.process {
            return Some(Greeting::Refused("this is the member itself that dials".into()));
        }
        (hello.from == me.member_id).then(|| {
            Greeting::Copy(format!(
                "member {:016x} is this member itself, which listens at {}: a copy of its directory \
                 is running; stop one of the two",
                hello.from,
                self.caller.address()
            ))
        })
    }

    /// A member of another cluster that dials here knows this address as its own member's: this
    /// node was wiped and founded a cluster of its own. Anybody can say so: it is asked back.
    async fn note_other_cluster(&self, hello: &Hello, from: std::net::IpAddr, zone: Zone) {
        let me = self.caller.me();
        if zone == Zone::Joins || hello.cluster_id == 0 || hello.cluster_id == me.cluster_id {
            return;
        }
        let Ok(membership) = membership_from(&self.shared.applied().membership) else { return };
        let mut members = membership.membership().nodes().map(|(id, _)| *id);
        let is_alone = members.next() == Some(me.member_id) && members.next().is_none();
        if is_alone && self.verifier.is_other_cluster(hello, from).await {
            self.faults.report(format!(
                "a member of cluster {:032x} knows this address as one of its own: this node was \
                 probably wiped; start it with -join ADDRESS, naming a running member",
                hello.cluster_id
            ));
        }
    }

    /// Why a leader is refused that knows more of this member's log than there is (I2).
    fn refuse_lost_log(&self, hello: &Hello, origin: Origin) -> Option<String> {
        let (vote, acknowledged) = hello.acknowledged?;
        let state = self.wal.state();
        if state.vote != Some(vote) || state.last >= Some(acknowledged) {
            return None; // under another vote a shorter log may be healthy
        }
        if vote.node_id != hello.from || origin != Origin::Logged {
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

    /// Whether a vote may come over a connection of this member, now (I5).
    fn is_possible(&self, vote: &Vote, from: &Verified) -> bool {
        self.verifier.is_believed(from) && is_possible(&self.wal, vote, from.id)
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
                if !peers.is_possible(&request.vote, &from) {
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
        let room = tokio::time::timeout(ROOM_BOUND, self.snapshot_room());
        room.await.map_err(|_| io::Error::other("the disk has no room for a snapshot"))?;
        let _install = self.shared.begin_install().await;
        let judge = |begin: &SnapshotBegin| self.judge(begin, &from);
        let begin = snapshot::receive(&self.shared, &mut reader, &mut writer, &judge).await;
        if let Some(failure) = begin.as_ref().err().and_then(snapshot::disk_failure) {
            self.faults.report(format!("a snapshot cannot be kept: {}", chain(failure)));
        }
        let Some(begin) = begin? else { return Ok(()) };
        let SnapshotBegin { vote, log_id, membership, .. } = begin;
        let meta = meta_of(&Applied { log_id: Some(log_id), membership })?;
        let whole = Snapshot { meta, snapshot: SlotsSnapshot::default() };
        if !self.verifier.is_believed(&from) {
            return Ok(()); // not any more
        }
        let response = self.raft.install_full_snapshot(vote_from(vote), whole).await;
        let response = response.map_err(io::Error::other)?;
        put_reply(&mut writer.buffer, &vote_to(&response.vote));
        writer.send_in_time().await
    }

    /// Whether a snapshot of this member is taken: the own vote, if it is higher than its sender's.
    fn judge(&self, begin: &SnapshotBegin, from: &Verified) -> io::Result<Option<StoredVote>> {
        let vote = vote_from(begin.vote);
        if !self.is_possible(&vote, from) {
            return Err(io::Error::other("the vote of the snapshot cannot be its sender's"));
        }
        membership_from(&begin.membership).map_err(bad_frame)?;
        Ok(self.wal.state().vote.filter(|own| vote_from(*own) > vote))
    }

    /// Waits until the disk has room for the log, and for a checkpoint.
    async fn snapshot_room(&self) {
        self.syncer.next_segment().await;
        while self.shared.lacks_checkpoint_space() {
            tokio::time::sleep(ROOM_PAUSE).await;
        }
    }

    async fn serve_requests(
        self: Arc<Self>,
        reader: FrameReader,
        writer: FrameWriter,
        (member, address): (Option<Verified>, std::net::IpAddr),
    ) -> io::Result<()> {
        let allowance = if member.is_none() { JOINER } else { MEMBER };
        let member = member.map(Arc::new);
        serve((reader, writer), allowance, |method, body| {
            let (peers, member) = (self.clone(), member.clone());
            async move { peers.answer(method, body, (member.as_deref(), address)).await }
        })
        .await
    }

    /// The answer to one request; `None` if there is none, which ends the connection.
    async fn answer(
        &self,
        method: Method,
        body: Bytes,
        (member, address): (Option<&Verified>, std::net::IpAddr),
    ) -> Option<Vec<u8>> {
        let is_allowed = match member {
            Some(member) => self.verifier.may_ask(member, method),
            None => matches!(method, Method::Join | Method::Whereabouts),
        };
        if !is_allowed {
            return None;
        }
        match method {
            Method::Vote | Method::PreVote => self.answer_vote(method, body, member?).await,
            Method::Whereabouts => self.verifier.answer_whereabouts(body),
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
                let incoming = Incoming { method, from, address, body, reply };
                self.incoming.send(incoming).await.ok()?;
                answer.await.ok()
            }
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

fn is_possible(wal: &Wal, vote: &Vote, from: u64) -> bool {
    let vote = vote_to(vote);
    let own_term = wal.state().vote.map_or(0, |own| own.term);
    let is_possible = vote.node_id == from && vote.term <= own_term.saturating_add(TERM_STEP_MAX);
    if !is_possible {
        let from = format!("{from:016x}");
        tracing::warn!(from, ?vote, "a frame holds a vote that cannot be its sender's");
    }
    is_possible
}

/// The next append frame; the stream ends with the connection or a frame that must not be.
async fn next_append(reader: &mut FrameReader) -> Option<AppendEntriesRequest<TypeConfig>> {
    match reader.expect(Kind::Append).await.and_then(|body| read_append(body).map_err(bad_frame)) {
        Ok(request) => Some(request),
        Err(error) => {
            tracing::debug!(%error, "an append connection ended");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joiners_take_no_places_of_members() {
        let room = Room::default();
        let member = Hello {
            cluster_id: 1,
            from: 1,
            to: 2,
            purpose: Purpose::Append,
            process: 3,
            token: 4,
            address: "127.0.0.1:1".into(),
            acknowledged: None,
        };
        let purpose = Purpose::Requests;
        let joiner = Hello { cluster_id: 0, from: 0, purpose, ..member.clone() };
        let taken: Vec<_> = (0..Shares::now().joiners).map(|_| room.place_for(&joiner)).collect();
        assert!(taken.iter().all(Option::is_some));
        assert!(room.place_for(&joiner).is_none(), "their own are taken");
        assert!(room.place_for(&member).is_some());
        drop(taken);
        assert!(room.place_for(&joiner).is_some(), "a place is given back");
    }
}
