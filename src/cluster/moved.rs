//! Keeps this member's addresses in the log up to date.
//!
//! A member may be started at another address than the one in its log. It then asks the leader to
//! write the new address to the log, through any member that it knows or that `-join` names. Its
//! hellos name its new address, so every member that it asks finds it at once (`peer/verify.rs`).
//! That way even members that all moved at the same time find each other. Called by `node`; calls
//! `join` and `raft`. Invariant:
//!
//! - I1: a process is a copy, and stops, if it finds its own member running at the address in the
//!   log. It has to dial that address itself: no other process can end a node by an answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::timeout;

use super::Cluster;
use super::join::{ADMIT_BOUND, admit};
use crate::fault::Faults;
use crate::peer::{CallError, JoinReply, JoinRequest, JoinToken, Member, Method};
use crate::raft::Consensus;

/// How often a member looks at its record.
const PERIOD: Duration = Duration::from_secs(1);
/// Pause before it asks again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How long one member may take to answer: it may have to pass the question on.
const ANSWER_BOUND: Duration = Duration::from_secs(4);

/// Where this member is to be found, and whom it asks beside those that it knows.
#[derive(Debug, Clone)]
pub struct Own {
    /// Its record, as it would join today.
    pub member: Member,
    /// Addresses of members.
    pub targets: Vec<String>,
}

impl Own {
    /// What its record is to be, if it is not yet.
    fn wanted(&self, logged: &Member) -> Option<Member> {
        let is_known = !has_moved(&self.member, logged) && logged.room >= self.member.room;
        (!is_known).then(|| self.record(logged))
    }

    fn record(&self, logged: &Member) -> Member {
        Member {
            raft_address: self.member.raft_address.clone(),
            client_address: self.member.client_address.clone(),
            room: logged.room.max(self.member.room),
            ..logged.clone()
        }
    }

    /// True if others only can say what the address is.
    fn is_open(&self) -> bool {
        has_no_host(&self.member.raft_address) || has_no_host(&self.member.client_address)
    }
}

fn has_no_host(address: &str) -> bool {
    let host = address.rsplit_once(':').map(|(host, _)| host);
    matches!(host, Some("" | "0.0.0.0" | "[::]"))
}

/// Whether an address in the log may be one that this member was started with.
fn is_same(logged: &str, own: &str) -> bool {
    let port = |address: &str| address.rsplit_once(':').map(|(_, port)| port.to_owned());
    logged == own || has_no_host(own) && port(logged) == port(own)
}

/// Whether a member is at other addresses than the log has for it.
fn has_moved(own: &Member, logged: &Member) -> bool {
    !is_same(&logged.raft_address, &own.raft_address)
        || !is_same(&logged.client_address, &own.client_address)
}

/// Why this process must not be the member, if it is only a copy (I1).
pub async fn is_copy(consensus: &Consensus, own: &Own) -> Option<String> {
    let caller = consensus.caller();
    let me = caller.me();
    let logged = consensus.view().members.get(&me.member_id)?.member.clone();
    own.wanted(&logged)?;
    let who = caller.who_is_at(&logged.raft_address, me.member_id, &logged.name).await.ok()?;
    let is_another = (who.cluster_id, who.member_id) == (me.cluster_id, me.member_id) && who != me;
    is_another.then(|| {
        format!(
            "member {} ({:016x}) runs already, at {}: this is a copy of its directory; stop one of \
             the two",
            logged.name, me.member_id, logged.raft_address
        )
    })
}

/// Has the addresses of this member written to the log when they are others, until the task is
/// dropped.
pub async fn keep_registered(cluster: Arc<Cluster>, own: Own, faults: Faults) {
    let consensus = &cluster.consensus;
    let me = consensus.member_id();
    let mut is_asked = !own.is_open();
    let mut told = String::new();
    loop {
        let view = consensus.view();
        let logged = view.members.get(&me).map(|view| view.member.clone());
        let wanted = logged.as_ref().and_then(|logged| own.wanted(logged));
        let record = match (&wanted, &logged) {
            (Some(record), _) => record.clone(),
            (None, Some(logged)) if !is_asked && view.members.len() > 1 => own.record(logged),
            _ => {
                if cluster.note_moved(None) {
                    tracing::info!("the cluster has the address of this member now");
                }
                consensus.changed(PERIOD).await;
                continue;
            }
        };
        let reply = register(&cluster, &own, record).await;
        is_asked |= matches!(reply, JoinReply::Accepted { .. });
        if let (Some(wanted), Some(logged)) = (wanted, logged) {
            let has_moved = has_moved(&own.member, &logged);
            let said = if has_moved {
                moved(&wanted, &logged, &reply)
            } else {
                has_room(&wanted, &logged, &reply)
            };
            if said != told {
                tracing::warn!("{said}");
                told.clone_from(&said);
            }
            cluster.note_moved(has_moved.then_some(said));
        }
        if matches!(reply, JoinReply::Refused(_))
            && let Some(reason) = is_copy(consensus, &own).await
        {
            return faults.report(reason); // I1
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// What is said of a member whose record has old addresses.
fn moved(wanted: &Member, logged: &Member, reply: &JoinReply) -> String {
    format!(
        "this member is at {} (clients: {}) now, and its cluster has it at {} (clients: {}); it asks \
         for that to be changed: {}",
        wanted.raft_address,
        wanted.client_address,
        logged.raft_address,
        logged.client_address,
        answer_of(reply)
    )
}

/// What is said of a member that is where its record says, with room for more slots than that.
fn has_room(wanted: &Member, logged: &Member, reply: &JoinReply) -> String {
    format!(
        "this member has room for {} slots now, and its cluster knows of {}; it asks for that to be \
         changed: {}",
        wanted.room,
        logged.room,
        answer_of(reply)
    )
}

fn answer_of(reply: &JoinReply) -> &str {
    match reply {
        JoinReply::Accepted { .. } => "it is being written there",
        JoinReply::Later(reason) | JoinReply::Refused(reason) => reason,
    }
}

/// Asks for another record of this member once, wherever it may be heard.
async fn register(cluster: &Cluster, own: &Own, member: Member) -> JoinReply {
    let consensus = &cluster.consensus;
    let (view, me) = (consensus.view(), consensus.member_id());
    let cluster_id = cluster.cluster_id();
    let (is_final, is_own, member_id) = (true, true, me);
    let token = JoinToken::default(); // who is a member needs none
    let request = JoinRequest { is_final, is_own, member_id, member, cluster_id, token };
    if view.is_leader && !own.is_open() {
        let late = || JoinReply::Later("the membership takes long to be changed".into());
        return timeout(ADMIT_BOUND, admit(cluster, &request)).await.unwrap_or_else(|_| late());
    }
    let mut body = Vec::new();
    request.put(&mut body);
    let body = Bytes::from(body);
    let members = view.members.iter().filter(|(id, _)| **id != me).map(|(id, other)| {
        let (channel, body) = (cluster.channel(*id, &other.member), body.clone());
        async move { channel.call(Method::Join, body, ANSWER_BOUND).await }
    });
    let targets = own.targets.iter().map(|target| {
        let (channel, body) = (consensus.channel_to(target.clone()), body.clone());
        async move { channel.call(Method::Join, body, ANSWER_BOUND).await }
    });
    let (members, targets) = tokio::join!(join_all(members), join_all(targets));
    best(members.into_iter().chain(targets))
}

/// What counts of several answers.
fn best(answers: impl Iterator<Item = Result<Bytes, CallError>>) -> JoinReply {
    let mut later = JoinReply::Later("no other member is known; give -join ADDRESS".into());
    for answer in answers {
        let reply = match answer {
            Ok(body) => {
                JoinReply::decode(body).unwrap_or_else(|error| JoinReply::Later(error.to_string()))
            }
            Err(error) => JoinReply::Later(crate::fault::chain(&error)),
        };
        if !matches!(reply, JoinReply::Later(_)) {
            return reply;
        }
        later = reply;
    }
    later
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(raft_address: &str) -> Own {
        let member = Member {
            raft_address: raft_address.into(),
            client_address: "c:1".into(),
            ..Member::default()
        };
        Own { member, targets: Vec::new() }
    }

    #[test]
    fn a_record_is_wanted_where_an_address_is_another() {
        let logged = Member { name: "a".into(), ..own("h:1").member };
        assert_eq!(own("h:1").wanted(&logged), None);
        let moved = Member { raft_address: "i:1".into(), ..logged.clone() };
        assert_eq!(own("i:1").wanted(&logged), Some(moved));
        // Which host it is the others know.
        assert_eq!(own("0.0.0.0:1").wanted(&logged), None);
        assert!(own("0.0.0.0:1").is_open());
        assert!(own("0.0.0.0:2").wanted(&logged).is_some());
    }

    #[test]
    fn a_member_with_more_room_is_not_said_to_be_elsewhere() {
        let logged = Member { room: 64, ..own("h:1").member };
        let roomier = Member { room: 128, ..logged.clone() };
        let wanted = Own { member: roomier.clone(), targets: Vec::new() }.wanted(&logged).unwrap();
        assert!(!has_moved(&roomier, &logged) && has_moved(&own("i:1").member, &logged));
        let said = has_room(&wanted, &logged, &JoinReply::Later("nobody leads".into()));
        let words = "this member has room for 128 slots now, and its cluster knows of 64; it asks for \
                     that to be changed: nobody leads";
        assert_eq!(said, words);
    }

    #[test]
    fn an_answer_counts_more_than_one_that_says_later() {
        let bytes = |reply: JoinReply| {
            let mut out = Vec::new();
            reply.put(&mut out);
            Ok(Bytes::from(out))
        };
        let later = || bytes(JoinReply::Later("no leader is known".into()));
        let accepted = JoinReply::Accepted { cluster_id: 1, slot_count: 2, value_bytes: 3 };
        let lost = Err(CallError::Lost { address: "h:1".into() });
        let answers = [later(), bytes(accepted.clone()), lost];
        assert_eq!(best(answers.into_iter()), accepted);
        assert_eq!(best([later()].into_iter()), JoinReply::Later("no leader is known".into()));
    }
}
