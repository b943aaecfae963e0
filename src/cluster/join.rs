//! Joining a cluster: the requests of a new member, and the members' answers.
//!
//! Called by `node` (asking) and by `mod.rs` (answering); calls `raft`. Invariants:
//!
//! - I1: a member id is drawn once and synced before the cluster is asked to take it in, so a join
//!   that is repeated is the same join.
//! - I2: a name in use is taken over only from a member that has been silent for an election
//!   timeout, and only once the new one has caught up (`membership.rs`).
//! - I3: a request alone adds no member and changes no address: the node must answer at the address
//!   in the request, and a known member must not answer as another process at the address in the
//!   log.
//! - I4: other processes can change one fact about a known member, its address, and only if it does
//!   not answer at the address in the log. The address for its clients comes from the member
//!   itself, on a connection that it confirmed; a member that passes the request on vouches for
//!   that.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::Cluster;
use crate::host::Host;
use crate::peer::{
    CallError, Caller, Channel, JoinReply, JoinRequest, JoinToken, Member, Method, Role, Route,
    Whoever, complete,
};
use crate::raft::{Consensus, Incoming, MemberError, ProposeError, View};

/// How long one member may take to answer.
const ANSWER_BOUND: Duration = Duration::from_secs(10);
/// How long a leader may take to take a member in: less than whoever passed the request on waits.
pub(super) const ADMIT_BOUND: Duration = Duration::from_secs(8);
/// Pause before the members are asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// A joiner that hears nothing but "later" gives up after this time, unless it is to ask for ever.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Rounds in which nobody but strangers answers before the joiner gives up: a few seconds.
const FOREIGN_ROUND_COUNT_MAX: u32 = 5;

/// Who wants to join, and whom it asks.
#[derive(Debug, Clone)]
pub struct JoinSetup {
    /// What this node stands on.
    pub host: Host,
    /// The member id that was drawn and written down.
    pub member_id: u64,
    /// The record.
    pub member: Member,
    /// Addresses of members, asked in turn.
    pub targets: Vec<String>,
    /// How long it asks before it gives up; `None`: for ever.
    pub patience: Option<Duration>,
    /// What lets it in, where that is asked for.
    pub token: JoinToken,
}

/// The cluster that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    /// The cluster.
    pub cluster_id: u128,
    /// Number of slots.
    pub slot_count: u64,
    /// Most bytes of a value.
    pub value_bytes: u32,
}

/// Why a node could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A member refused, and will refuse again.
    #[error("joining was refused: {0}")]
    Refused(String),
    /// No member listens at any of the addresses, but something else.
    #[error("cannot join: {answers}; give -join the -hjoin or -raft address of a running member")]
    Foreign {
        /// The addresses with what they answer.
        answers: String,
    },
    /// Nobody let this node in for a minute.
    #[error(
        "could not join through {targets} within {} s: {last}; give -join the -hjoin or -raft \
         address of a running member",
        PATIENCE.as_secs()
    )]
    GaveUp {
        /// The addresses that were asked.
        targets: String,
        /// The last answer or failure.
        last: String,
    },
}

/// Asks for the cluster's id and geometry; nothing changes in the cluster.
///
/// # Errors
/// See [`JoinError`].
pub async fn learn_cluster(setup: &JoinSetup) -> Result<Joined, JoinError> {
    ask_patiently(setup, 0, false).await
}

/// Joins until what the member has applied names it: a log may name it by an admission that is never
/// committed. False if the cluster took it in but its leader did not reach it for a minute.
///
/// # Errors
/// See [`JoinError`].
pub async fn join_until_named(
    setup: &JoinSetup,
    cluster_id: u128,
    consensus: &Arc<Consensus>,
) -> Result<bool, JoinError> {
    let named = async {
        while !consensus.is_named() {
            consensus.changed_data(RETRY_PAUSE).await;
        }
    };
    let asked = async {
        ask_patiently(setup, cluster_id, true).await?;
        match setup.patience {
            Some(patience) => tokio::time::sleep(patience).await,
            None => std::future::pending().await,
        }
        Ok(false)
    };
    // An answer may get lost after the cluster took the node in: its own log has the last word.
    tokio::select! {
        () = named => Ok(true),
        asked = asked => asked,
    }
}

async fn ask_patiently(
    setup: &JoinSetup,
    cluster_id: u128,
    is_final: bool,
) -> Result<Joined, JoinError> {
    let request = JoinRequest {
        is_final,
        is_own: false, // nobody could confirm it: this node is no member yet
        member_id: setup.member_id,
        member: setup.member.clone(),
        cluster_id,
        // Whoever only asks which cluster this is may be anybody, and so may whoever answers.
        token: if is_final { setup.token.clone() } else { JoinToken::default() },
    };
    let deadline = setup.patience.map(|patience| Instant::now() + patience);
    let mut told = String::new();
    let mut foreign_round_count = 0;
    loop {
        let (last, all_foreign) = match ask_round(setup, &request).await? {
            Round::Accepted(joined) => return Ok(joined),
            Round::Later { reasons, all_foreign } => (reasons, all_foreign),
        };
        foreign_round_count = if all_foreign { foreign_round_count + 1 } else { 0 };
        if foreign_round_count >= FOREIGN_ROUND_COUNT_MAX && deadline.is_some() {
            return Err(JoinError::Foreign { answers: last });
        }
        if last != told {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let until = left.map_or(String::new(), |left| format!(" for {} s", left.as_secs()));
            tracing::warn!("not joined yet: {last}; asking again{until}");
            told.clone_from(&last);
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(JoinError::GaveUp { targets: setup.targets.join(", "), last });
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// What came of asking each address once.
enum Round {
    Accepted(Joined),
    Later { reasons: String, all_foreign: bool },
}

async fn ask_round(setup: &JoinSetup, request: &JoinRequest) -> Result<Round, JoinError> {
    let mut reasons = Vec::new();
    let mut all_foreign = true;
    for target in &setup.targets {
        match ask(&setup.host, target, request).await {
            Ok(JoinReply::Accepted { cluster_id, slot_count, value_bytes }) => {
                return Ok(Round::Accepted(Joined { cluster_id, slot_count, value_bytes }));
            }
            Ok(JoinReply::Refused(reason)) => return Err(JoinError::Refused(reason)),
            Ok(JoinReply::Later(reason)) => {
                all_foreign = false;
                reasons.push(format!("{target}: {reason}"));
            }
            Err(error) => {
                all_foreign &= is_foreign(&error);
                reasons.push(reason_of(&error));
            }
        }
    }
    Ok(Round::Later { reasons: reasons.join("; "), all_foreign })
}

/// True if something answers that is no member and will not become one.
fn is_foreign(error: &CallError) -> bool {
    matches!(error, CallError::NotSent { source, .. } if source.kind() == io::ErrorKind::InvalidData)
}

fn reason_of(error: &CallError) -> String {
    match error {
        CallError::NotSent { address, source } => match source.kind() {
            io::ErrorKind::InvalidData => format!("{address}: {source}"),
            io::ErrorKind::PermissionDenied => format!("{address} refuses: {source}"),
            _ => format!("nobody answers at {address} ({source})"),
        },
        CallError::Lost { .. } => error.to_string(),
    }
}

async fn ask(host: &Host, target: &str, request: &JoinRequest) -> Result<JoinReply, CallError> {
    let mut body = Vec::new();
    request.put(&mut body);
    let channel = Channel::new(Caller::stranger(host), Route::to_address(target.to_owned()));
    let body = channel.call(Method::Join, body.into(), ANSWER_BOUND).await?;
    Ok(JoinReply::decode(body).unwrap_or_else(|error| JoinReply::Later(error.to_string())))
}

/// Answers a request to join, as leader or through it.
pub(super) async fn answer(cluster: &Cluster, incoming: &Incoming) -> Option<Vec<u8>> {
    let mut request = JoinRequest::decode(incoming.body.clone()).ok()?;
    if is_direct(incoming, &request) {
        complete(&mut request.member.raft_address, incoming.address);
        complete(&mut request.member.client_address, incoming.address);
    }
    // Whoever listens can confirm a hello, under any id: he has a word for that one alone.
    request.is_own &= incoming.from == request.member_id || incoming.is_believed; // I4
    let reply = if request.cluster_id != 0 && request.cluster_id != cluster.cluster_id() {
        JoinReply::Refused(format!(
            "this is cluster {:032x}, but the directory belongs to {:032x}",
            cluster.cluster_id(),
            request.cluster_id
        ))
    } else if request.is_final {
        admit_or_relay(cluster, incoming, &request).await
    } else {
        accepted(cluster)
    };
    let mut out = Vec::new();
    reply.put(&mut out);
    Some(out)
}

/// True if a request does not come through another member.
fn is_direct(incoming: &Incoming, request: &JoinRequest) -> bool {
    incoming.from == 0 || incoming.from == request.member_id
}

fn accepted(cluster: &Cluster) -> JoinReply {
    let limits = cluster.consensus.replica().machine.limits();
    JoinReply::Accepted {
        cluster_id: cluster.cluster_id(),
        slot_count: limits.slot_count,
        value_bytes: limits.value_bytes_max,
    }
}

async fn admit_or_relay(
    cluster: &Cluster,
    incoming: &Incoming,
    request: &JoinRequest,
) -> JoinReply {
    let view = cluster.consensus.view();
    if view.is_leader {
        let late = || JoinReply::Later("the membership takes long to be changed".into());
        return timeout(ADMIT_BOUND, admit(cluster, request)).await.unwrap_or_else(|_| late());
    }
    let leader = view.leader.and_then(|id| Some((id, view.members.get(&id)?)));
    let Some((id, leader)) = leader.filter(|_| is_direct(incoming, request)) else {
        return JoinReply::Later("no leader is known".into());
    };
    let mut body = Vec::new();
    request.put(&mut body);
    let answer = cluster
        .channel(id, &leader.member)
        .call(Method::Join, Bytes::from(body), ANSWER_BOUND)
        .await;
    let relayed = answer.ok().and_then(|body| JoinReply::decode(body).ok());
    relayed.unwrap_or_else(|| JoinReply::Later("the leader gave no answer".into()))
}

/// Takes a node in, or sets the addresses of one that is a member, as the leader.
pub(super) async fn admit(cluster: &Cluster, request: &JoinRequest) -> JoinReply {
    let consensus = &cluster.consensus;
    let known = consensus.view().members.get(&request.member_id).map(|view| view.member.clone());
    if known.as_ref() == Some(&request.member) {
        return accepted(cluster);
    }
    if let Some(known) = known.as_ref().filter(|known| !is_same(known, &request.member)) {
        let (id, name) = (request.member_id, &known.name);
        return JoinReply::Refused(format!(
            "member {id:016x} is {name}: its addresses may change, its name and what it is to be may not"
        )); // I3
    }
    if known.is_none()
        && let Err(reply) = cluster.check_invited(request).await
    {
        return reply; // before anything is dialled for it
    }
    let role = known.as_ref().map_or(request.member.role, |known| known.role);
    let record = match proven(consensus.caller(), request, known.as_ref()).await {
        Ok(record) => Member { role, ..record },
        Err(reply) => return reply, // I3
    };
    if known.as_ref() == Some(&record) {
        return accepted(cluster);
    }
    let _alone = consensus.alone().await;
    let View { is_leader, is_joint, members, .. } = consensus.view();
    if !is_leader {
        return JoinReply::Later("the leader has changed".into());
    }
    // What was read before may be an operator's no more, and a half change would be ended otherwise
    // than it was meant.
    if is_joint || members.get(&request.member_id).map(|view| &view.member) != known.as_ref() {
        return JoinReply::Later("the membership was just changed".into());
    }
    let name = &request.member.name;
    let namesakes = members
        .iter()
        .filter(|(id, other)| **id != request.member_id && other.member.name == *name);
    for (id, other) in namesakes {
        let is_self = *id == consensus.member_id();
        let silence = consensus.timing().silence();
        if is_self || consensus.is_silent(*id, silence) != Some(true) {
            return JoinReply::Later(format!(
                "the name {name} is in use by the member at {}; stop that one or choose another -id",
                other.member.raft_address
            )); // I2
        }
    }
    let admission = cluster.admission(request, record);
    match consensus.change_records(admission).await {
        Ok(()) => accepted(cluster),
        Err(MemberError::NotChanged(ProposeError::Failed(failure))) => {
            JoinReply::Later(failure.to_string())
        }
        Err(MemberError::NotChanged(ProposeError::NotLeader { .. })) => {
            JoinReply::Later("the leader has changed".into())
        }
        Err(full) => JoinReply::Refused(full.to_string()),
    }
}

/// Whether two records are of one member, wherever it is to be found.
fn is_same(known: &Member, asked: &Member) -> bool {
    let is_so = known.role == asked.role;
    // Whether one that can vote does is for an operator to say, and not for the member.
    let may_be = known.role == Role::Standby && asked.role == Role::Voter;
    known.name == asked.name && (is_so || may_be)
}

/// The record that a request may set, once its node answers where it says, and nowhere else (I3).
async fn proven(
    caller: &Caller,
    request: &JoinRequest,
    known: Option<&Member>,
) -> Result<Member, JoinReply> {
    let JoinRequest { member_id: id, member, is_own, .. } = request;
    let address = &member.raft_address;
    let is_it = |who: &Whoever| who.member_id == *id && who.cluster_id == caller.me().cluster_id;
    let found = match caller.who_is_at(address, *id, &member.name).await {
        Ok(who) if is_it(&who) => who,
        Ok(_) => {
            let reason = format!("another node answers at {address}; check -raft and -advertise");
            return Err(JoinReply::Later(reason));
        }
        Err(error) => {
            let reason = format!(
                "this node is not reached at {address} ({error}); check -raft and -advertise"
            );
            return Err(JoinReply::Later(reason));
        }
    };
    let Some(known) = known else { return Ok(member.clone()) };
    let at_known = if known.raft_address == *address {
        Some(found)
    } else {
        caller.who_is_at(&known.raft_address, *id, &known.name).await.ok().filter(is_it)
    };
    match at_known {
        Some(who) if who.process != found.process => Err(JoinReply::Refused(format!(
            "member {} ({id:016x}) runs already, at {}: this is a copy of its directory; stop \
                 one of the two",
            known.name, known.raft_address
        ))),
        _ if *is_own => Ok(member.clone()),
        Some(_) => Ok(known.clone()), // I4
        None => {
            let (client_address, room) = (known.client_address.clone(), known.room);
            Ok(Member { client_address, room, ..member.clone() }) // I4
        }
    }
}
