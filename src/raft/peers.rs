//! What other members reach on the `-raft` and `-hjoin` ports.
//!
//! Called by `mod.rs`; calls openraft for append frames, votes and snapshots. Everything else is
//! handed up as an [`Incoming`] with a place for its answer. Invariants:
//!
//! - I1: nothing but a hello is taken before cluster and member ids were compared (C17, F25).
//! - I2: a member whose log ends below what a leader knows it acknowledged stops, with its own exit
//!   code, before it answers anything to that leader (C16).
//! - I3: connections, frames and requests under way are bounded, those of callers that have not
//!   named the cluster apart from members': they cannot shut members out.
//! - I4: no write waits for long for a peer that takes nothing. Reads wait as the purpose asks: a
//!   handshake and a joiner have deadlines here, a snapshot has its own. A member's requests may be
//!   days apart, and so may the entries of an append connection (heartbeats have another); closing
//!   one could cut off a request that is just arriving, whose outcome would then be unknown. A
//!   member that is gone is noticed by the kernel (see `connection`).

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use diskstore_storage::wal::Wal;
use futures_util::{FutureExt, StreamExt};
use openraft::raft::{AppendEntriesRequest, VoteResponse};
use openraft::storage::{Snapshot, SnapshotMeta};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::connection::{
    FrameReader, FrameWriter, HANDSHAKE_TIMEOUT, WRITE_TIMEOUT, bad_frame, in_time, split,
};
use super::requests::Method;
use super::serving::{self, Allowance};
use super::state_machine::{MachineShared, SlotsSnapshot};
use super::syncer::Syncer;
use super::types::{TypeConfig, vote_to};
use super::wire::{Hello, Kind, Purpose, Welcome, put_append_reply, read_append};
use super::{RaftHandle, requests, snapshot, snapshot_wire};
use crate::descriptors::{Place, Places, Shares};
use crate::fault::{EXIT_DATA_LOST, Faults, REPLACE_WITH_CARE, chain};

/// What a connection of a member is given: its requests may be days apart.
const MEMBER: Allowance =
    Allowance { request_count_max: 1024, idle_max: None, write_max: WRITE_TIMEOUT };
/// What a joiner is given: it has but one question.
const JOINER: Allowance = Allowance {
    request_count_max: 1,
    idle_max: Some(Duration::from_secs(10)),
    write_max: WRITE_TIMEOUT,
};
/// How long a sender is kept waiting for room on the disk; it gives up after as long.
const ROOM_BOUND: Duration = Duration::from_secs(10);
/// How often that is looked for.
const ROOM_PAUSE: Duration = Duration::from_millis(200);
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
    /// The cluster.
    pub cluster_id: u128,
    /// This member.
    pub member_id: u64,
    /// The log.
    pub wal: Arc<Wal>,
    /// Its syncer.
    pub syncer: Arc<Syncer>,
    /// The machine.
    pub shared: Arc<MachineShared>,
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
    /// When a leader was heard last.
    pub heard: Arc<Mutex<Option<Instant>>>,
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
                    Welcome { refusal: Some(reason) }.put(&mut writer.buffer);
                } else {
                    // Whoever sends no frame is most likely a client of Redis.
                    writer.buffer.extend_from_slice(zone.reply_to_client().as_bytes());
                }
                writer.send_in_time().await?;
                return Err(error);
            }
        };
        let place = self.room.place_for(&hello);
        let full = || place.is_none().then(|| "too many connections; try again later".into());
        let refusal = self.refuse(&hello, zone).or_else(full);
        let is_refused = refusal.is_some();
        Welcome { refusal }.put(&mut writer.buffer);
        writer.send_in_time().await?;
        if is_refused {
            return Ok(());
        }
        drop(handshake);
        if hello.cluster_id != 0 {
            reader.allow_large(); // a request to join is short
        }
        match hello.purpose {
            Purpose::Requests => {
                // Whoever has not named the cluster may ask to join, and nothing else.
                let is_member = hello.cluster_id != 0 && zone == Zone::Peers;
                let from = if is_member { hello.from } else { 0 };
                self.serve_requests(reader, writer, (from, address)).await
            }
            Purpose::Append => self.serve_appends(reader, writer).await,
            Purpose::Snapshot => self.serve_snapshot(reader, writer).await,
        }
    }

    /// Why a hello is refused, if it is (I1, I2).
    fn refuse(&self, hello: &Hello, zone: Zone) -> Option<String> {
        let is_joiner = hello.cluster_id == 0;
        if is_joiner || zone == Zone::Joins {
            let is_allowed = is_joiner && hello.purpose == Purpose::Requests;
            return (!is_allowed).then(|| "only requests to join are taken here".into());
        }
        if hello.cluster_id != self.cluster_id {
            self.note_other_cluster(hello);
            return Some(format!(
                "this is a member of cluster {:032x}, not of {:032x}",
                self.cluster_id, hello.cluster_id
            ));
        }
        if hello.to != 0 && hello.to != self.member_id {
            return Some(format!("this is member {:016x}, not {:016x}", self.member_id, hello.to));
        }
        if hello.from == self.member_id {
            return Some(format!(
                "member {:016x} is this member itself: a copy of its directory is running",
                hello.from
            ));
        }
        self.refuse_lost_log(hello)
    }

    /// A member of another cluster that dials here knew this address as its own member's: this
    /// node was wiped and founded a cluster of its own.
    fn note_other_cluster(&self, hello: &Hello) {
        let membership = self.shared.applied().membership;
        let mut members = membership.membership().nodes().map(|(id, _)| *id);
        let is_alone = members.next() == Some(self.member_id) && members.next().is_none();
        if is_alone {
            self.faults.report(format!(
                "a member of cluster {:032x} knows this address as one of its own: this node was \
                 probably wiped; start it with -join ADDRESS, naming a running member",
                hello.cluster_id
            ));
        }
    }

    fn refuse_lost_log(&self, hello: &Hello) -> Option<String> {
        let (vote, acknowledged) = hello.acknowledged?;
        let state = self.wal.state();
        if state.vote != Some(vote) || state.last >= Some(acknowledged) {
            return None; // under another vote a shorter log may be healthy
        }
        let end = state.last.map_or_else(|| "nothing".into(), |last| last.to_string());
        let reason = format!(
            "this member's log ends at {end}, but it acknowledged {acknowledged} to its leader: its \
             disk lost acknowledged data; {REPLACE_WITH_CARE}"
        );
        self.faults.report_with(EXIT_DATA_LOST, reason.clone());
        Some(reason)
    }

    async fn serve_appends(&self, reader: FrameReader, mut writer: FrameWriter) -> io::Result<()> {
        let (syncer, heard) = (self.syncer.clone(), self.heard.clone());
        let requests = futures_util::stream::unfold(reader, move |mut reader| {
            let (syncer, heard) = (syncer.clone(), heard.clone());
            async move {
                syncer.next_segment().await; // without room for more log nothing more is read
                let request = next_append(&mut reader).await?;
                *heard.lock() = Some(Instant::now());
                Some((request, reader))
            }
        });
        let mut replies = std::pin::pin!(self.raft.stream_append(requests).fuse());
        while let Some(reply) = replies.next().await {
            put_append_reply(&mut writer.buffer, &reply.map_err(io::Error::other)?);
            // One sync completes many requests: their answers leave together.
            while let Some(Some(reply)) = replies.next().now_or_never() {
                put_append_reply(&mut writer.buffer, &reply.map_err(io::Error::other)?);
            }
            writer.send_in_time().await?;
        }
        Ok(())
    }

    async fn serve_snapshot(
        &self,
        mut reader: FrameReader,
        mut writer: FrameWriter,
    ) -> io::Result<()> {
        // Else the sender asks again, and sends nothing meanwhile.
        let room = tokio::time::timeout(ROOM_BOUND, self.snapshot_room());
        room.await.map_err(|_| io::Error::other("the disk has no room for a snapshot"))?;
        let _install = self.shared.begin_install().await;
        let own_vote = self.wal.state().vote.map(super::types::vote_from);
        let begin = snapshot::receive(&self.shared, &mut reader, &mut writer, own_vote).await;
        if let Some(failure) = begin.as_ref().err().and_then(snapshot::disk_failure) {
            self.faults.report(format!("a snapshot cannot be kept: {}", chain(failure)));
        }
        let Some(begin) = begin? else { return Ok(()) };
        let meta =
            SnapshotMeta { last_log_id: Some(begin.log_id), last_membership: begin.membership };
        let whole = Snapshot { meta, snapshot: SlotsSnapshot::default() };
        let response = self.raft.install_full_snapshot(begin.vote, whole).await;
        let response = response.map_err(io::Error::other)?;
        snapshot_wire::put_reply(&mut writer.buffer, &response.vote);
        writer.send_in_time().await
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
        caller: (u64, std::net::IpAddr),
    ) -> io::Result<()> {
        let allowance = if caller.0 == 0 { JOINER } else { MEMBER };
        serving::serve((reader, writer), allowance, |method, body| {
            let peers = self.clone();
            async move { peers.answer(method, body, caller).await }
        })
        .await
    }

    /// The answer to one request; `None` if there is none, which ends the connection.
    async fn answer(
        &self,
        method: Method,
        body: Bytes,
        (from, address): (u64, std::net::IpAddr),
    ) -> Option<Vec<u8>> {
        if from == 0 && method != Method::Join {
            return None;
        }
        match method {
            Method::Vote | Method::PreVote => self.answer_vote(method, body).await,
            Method::TransferLeader => {
                let request = requests::decode_transfer(body).ok()?;
                let reply = self.raft.handle_transfer_leader(request).await.ok()?;
                Some(requests::encode_transfer_reply(&reply))
            }
            _ => {
                let (reply, answer) = oneshot::channel();
                let incoming = Incoming { method, from, address, body, reply };
                self.incoming.send(incoming).await.ok()?;
                answer.await.ok()
            }
        }
    }

    async fn answer_vote(&self, method: Method, body: Bytes) -> Option<Vec<u8>> {
        let request = requests::decode_vote(body).ok()?;
        let reply = if Instant::now() < self.silent_until && !request.leadership_transfer {
            let state = self.wal.state();
            let own = state.vote.map_or(request.vote, super::types::vote_from);
            VoteResponse::new(own, state.last.map(super::types::log_id_from), false)
        } else if method == Method::Vote {
            self.raft.vote(request).await.ok()?
        } else {
            self.raft.pre_vote(request).await.ok()?
        };
        tracing::debug!(?method, vote = ?vote_to(&reply.vote), granted = reply.vote_granted, "vote");
        Some(requests::encode_vote_reply(&reply))
    }
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
        let member =
            Hello { cluster_id: 1, from: 1, to: 2, purpose: Purpose::Append, acknowledged: None };
        let joiner = Hello { cluster_id: 0, from: 0, purpose: Purpose::Requests, ..member };
        let taken: Vec<_> = (0..Shares::now().joiners).map(|_| room.place_for(&joiner)).collect();
        assert!(taken.iter().all(Option::is_some));
        assert!(room.place_for(&joiner).is_none(), "their own are taken");
        assert!(room.place_for(&member).is_some());
        drop(taken);
        assert!(room.place_for(&joiner).is_some(), "a place is given back");
    }
}
