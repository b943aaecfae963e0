//! Implements openraft's interface for a network: append streams, votes, snapshots.
//!
//! Called by openraft; calls `appends`, `peer` and, for snapshots, `replica`. Entries, votes and
//! snapshots have a connection each, so that votes never wait behind bulk data. Invariant:
//!
//! - I1: a connection is used only after the other side confirmed cluster and member ids (C17).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesResponse, SnapshotResponse, StreamAppendError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::appends::{Append, AppendResult, Idle, Target, answers};
use super::state_machine::outgoing;
use super::timing::Timing;
use super::types::{
    LogId, Member, Role, TypeConfig, Vote, ballot_reply_from, ballot_to, log_id_to,
    transfer_reply_from, transfer_to, vote_from, vote_to,
};
use crate::fault::chain;
use crate::peer::votes::{BallotReply, TransferReply};
use crate::peer::{
    Book, CallError, Caller, Channel, Dialled, MEMBER_COUNT_MAX, Method, Purpose, Route,
};
use crate::replica::{Sender, SlotsSnapshot, snapshot};

pub(super) type RpcError = RPCError<TypeConfig>;
type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SlotsSnapshot>;

/// Pause before a member that cannot be reached is tried again.
const BACKOFF: Duration = Duration::from_millis(200);
/// How long what goes to a learner is gathered. A frame costs both sides, and what a frame makes
/// durable and applied, the same whatever it holds.
const GATHER: Duration = Duration::from_millis(50);
/// A member that lacks so many bytes of the log is far behind.
const FAR_BEHIND_BYTES: u64 = 64 << 20;

/// The highest log id that each member acknowledged, and under which vote: told to a member when
/// it is dialled, so that it notices a log that went backwards (C16).
#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    members: Mutex<BTreeMap<u64, (Vote, LogId)>>,
}

impl Acknowledged {
    pub(super) fn note(&self, member: u64, vote: Vote, log_id: LogId) {
        let mut members = self.members.lock();
        let entry = members.entry(member).or_insert((vote, log_id));
        if entry.0 != vote {
            *entry = (vote, log_id);
        } else if entry.1 < log_id {
            entry.1 = log_id;
        }
    }

    fn of(&self, member: u64) -> Option<(Vote, LogId)> {
        self.members.lock().get(&member).copied()
    }
}

/// A way to each member, kept while the log has the same address for it.
#[derive(Debug, Default)]
pub(super) struct Channels {
    members: Mutex<BTreeMap<u64, Arc<Channel>>>,
}

impl Channels {
    /// The way to a member, which the network makes if there is none.
    pub(super) fn to(&self, network: &Network, id: u64, member: &Member) -> Arc<Channel> {
        let mut members = self.members.lock();
        let known = members.get(&id).filter(|known| known.given_address() == member.raft_address);
        if let Some(known) = known {
            return known.clone();
        }
        let fresh = Arc::new(network.channel(id, member));
        if members.len() >= MEMBER_COUNT_MAX {
            members.clear(); // of members that are long gone
        }
        members.insert(id, fresh.clone());
        fresh
    }
}

/// Makes the connections of this member to the others.
#[derive(Debug, Clone)]
pub(super) struct Network {
    caller: Arc<Caller>,
    book: Arc<Book>,
    acknowledged: Arc<Acknowledged>,
    sender: Arc<Sender>,
    /// Members that could not be reached when they were last tried.
    silent: Arc<Mutex<BTreeSet<u64>>>,
    /// The way to each member for votes. It outlives a round, so that the next one has the connection
    /// which took this one too long.
    ballots: Arc<Channels>,
    /// How long a vote may take: a little less than openraft waits for one.
    vote_bound: Duration,
}

impl Network {
    /// A network of a member that dials others where they are to be found.
    pub(super) fn new(
        caller: Arc<Caller>,
        book: Arc<Book>,
        sender: Arc<Sender>,
        timing: Timing,
    ) -> Network {
        let (acknowledged, silent, ballots) = (Arc::default(), Arc::default(), Arc::default());
        let vote_bound = timing.vote() * 9 / 10;
        Network { caller, book, acknowledged, sender, silent, ballots, vote_bound }
    }

    /// The way to another member.
    pub(super) fn route(&self, to: u64, member: &Member) -> Route {
        let route = Route::to_member(to, member.raft_address.clone(), Some(self.book.clone()));
        route.named(Some(member.name.clone()))
    }

    /// A channel for requests to another member.
    pub(super) fn channel(&self, to: u64, member: &Member) -> Channel {
        Channel::new(self.caller.clone(), self.route(to, member))
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, member: &Member) -> Peer {
        Peer {
            channel: self.ballots.to(self, target, member),
            network: self.clone(),
            target,
            route: Arc::new(self.route(target, member)),
            gather: (member.role == Role::Learner).then_some(GATHER),
            append: Arc::default(),
            dialling: None,
        }
    }
}

/// One member as openraft reaches it.
#[derive(Debug)]
pub(super) struct Peer {
    network: Network,
    target: u64,
    route: Arc<Route>,
    channel: Arc<Channel>,
    /// How long requests to it are gathered.
    gather: Option<Duration>,
    /// The append connection while no stream uses it.
    append: Idle,
    /// A dial for one. openraft gives a heartbeat up after the time between two; the next one goes on
    /// with the dial, else whoever needs longer for it would never be heard.
    dialling: Option<JoinHandle<io::Result<Dialled>>>,
}

pub(super) fn unreachable_error(error: &io::Error) -> RpcError {
    RPCError::Unreachable(Unreachable::new(error))
}

impl Peer {
    /// An idle append connection, or a new one.
    async fn append_connection(&mut self, vote: Vote) -> io::Result<Dialled> {
        let mut idle = self.append.lock().take();
        if idle.is_none()
            && let Some(done) = self.dialling.take_if(|dial| dial.is_finished())
        {
            let late = done.await.unwrap_or_else(|_| Err(io::ErrorKind::NotConnected.into()));
            self.note(late.as_ref().map(drop));
            idle = late.ok();
        }
        let is_of_use =
            |(address, (reader, _)): &Dialled| self.route.leads_to(address) && !reader.is_old();
        if let Some(idle) = idle.filter(is_of_use) {
            return Ok(idle);
        }
        let dial = self.dialling.get_or_insert_with(|| {
            let acknowledged = self.network.acknowledged.of(self.target);
            let acknowledged = acknowledged
                .filter(|(under, _)| *under == vote)
                .map(|(vote, log_id)| (vote_to(&vote), log_id_to(&log_id)));
            let (caller, route) = (self.network.caller.clone(), self.route.clone());
            tokio::spawn(async move { caller.dial(&route, Purpose::Append, acknowledged).await })
        });
        let dialled = dial.await.unwrap_or_else(|_| Err(io::ErrorKind::NotConnected.into()));
        self.dialling = None;
        self.note(dialled.as_ref().map(drop));
        dialled
    }

    /// Tells the operator once that the member cannot be reached, and once that it can again.
    fn note<E: std::error::Error>(&self, reached: Result<(), &E>) {
        let mut silent = self.network.silent.lock();
        let address = self.route.address();
        match reached {
            Ok(()) if silent.remove(&self.target) => {
                tracing::info!(address, "a member can be reached again");
            }
            Err(error) if silent.insert(self.target) => {
                let reason = chain(error);
                tracing::warn!(address, reason, "a member cannot be reached");
            }
            Ok(()) | Err(_) => {}
        }
    }

    async fn request<T>(
        &self,
        method: Method,
        body: Vec<u8>,
        read: impl FnOnce(Bytes) -> Result<T, crate::command::DecodeError>,
    ) -> Result<T, RpcError> {
        let answer = self.channel.call(method, body.into(), self.network.vote_bound).await;
        match answer {
            Ok(body) => {
                self.note::<CallError>(Ok(()));
                read(body).map_err(|error| RPCError::Network(NetworkError::new(&error)))
            }
            Err(error @ CallError::NotSent { .. }) => {
                self.note(Err(&error));
                Err(RPCError::Unreachable(Unreachable::new(&error)))
            }
            Err(CallError::Lost { .. }) => Err(RPCError::Timeout(Timeout {
                action: RPCTypes::Vote,
                id: self.network.caller.me().member_id,
                target: self.target,
                timeout: self.network.vote_bound,
            })),
        }
    }
}

impl Peer {
    async fn ballot(
        &self,
        method: Method,
        request: &VoteRequest<TypeConfig>,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let body = ballot_to(request).encode();
        let reply = self.request(method, body, BallotReply::decode).await?;
        Ok(ballot_reply_from(&reply))
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SlotsSnapshot;

    async fn append_entries(
        &mut self,
        rpc: Append,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let prev = rpc.prev_log_id;
        let one = futures_util::stream::iter([rpc]);
        let mut answers = self.stream_append(one, option).await?;
        let Some(answer) = answers.next().await else {
            return Err(unreachable_error(&io::ErrorKind::UnexpectedEof.into()));
        };
        Ok(match answer? {
            Ok(log_id) if log_id < prev => AppendEntriesResponse::PartialSuccess(log_id),
            Ok(_) => AppendEntriesResponse::Success,
            Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
        })
    }

    fn stream_append<S>(
        &mut self,
        mut input: S,
        _option: RPCOption,
    ) -> BoxFuture<'_, Result<BoxStream<'_, AppendResult>, RpcError>>
    where
        S: Stream<Item = Append> + Send + Unpin + 'static,
    {
        Box::pin(async move {
            let Some(first) = input.next().await else {
                return Ok(futures_util::stream::empty().boxed());
            };
            let vote = first.vote;
            let connection =
                self.append_connection(vote).await.map_err(|error| unreachable_error(&error))?;
            let target = Target {
                idle: self.append.clone(),
                route: self.route.clone(),
                acknowledged: self.network.acknowledged.clone(),
                member: self.target,
                vote,
                gather: self.gather,
                far_behind_bytes: FAR_BEHIND_BYTES,
                wal: self.network.sender.wal().clone(),
            };
            Ok(answers(connection, target, first, input))
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ballot(Method::Vote, &rpc).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ballot(Method::PreVote, &rpc).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let body = transfer_to(&request).encode();
        let reply = self.request(Method::TransferLeader, body, TransferReply::decode).await?;
        Ok(transfer_reply_from(&reply, &request))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let send = async {
            let caller = &self.network.caller;
            let (address, connection) = caller.dial(&self.route, Purpose::Snapshot, None).await?;
            let (sender, snapshot) = (&self.network.sender, outgoing(snapshot));
            let sent = snapshot::send(sender, &address, connection, vote_to(&vote), snapshot);
            Ok(SnapshotResponse::new(vote_from(sent.await?)))
        };
        tokio::select! {
            sent = send => sent.map_err(|error: io::Error| {
                tracing::warn!(to = self.route.address(), %error, "a snapshot was not sent");
                StreamingError::Network(NetworkError::new(&error))
            }),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(BACKOFF)))
    }
}
