//! What an operator orders of a cluster: to take a member out, to give or take its vote, to have one
//! take the place of another, to have another lead. Whoever is asked has the leader do it.
//!
//! Called by `node`, and by other members through `peer`; `steps` decides; calls `raft`. Invariants:
//!
//! - I1: once a step was begun, members are looked up by their ids and no longer by their names,
//!   because another member may have the name by then. One that was to leave and is gone by then has
//!   left.
//! - I2: an order of which a step may have been taken is unknown if its end is not seen in time.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use futures_util::future::join_all;
use tokio::time::{Instant, timeout_at};

use super::Cluster;
use super::bootstrap::confirm_only;
use super::membership::answers;
use super::steps::{LeaderStep, find, may_lead, step};
use crate::command::cursor::{Cursor, put_string};
use crate::command::{DecodeError, Failure};
use crate::host::Listener;
use crate::peer::{
    CallError, Caller, Channel, INVITATION_HASH_BYTES, Invitation, Member, Method, Role, Route,
};
use crate::raft::{Incoming, MemberError, ProposeError, View};

/// How long a change of the membership may take.
const CHANGE_BOUND: Duration = Duration::from_secs(10);
/// How long a leader that is to go tries to hand over.
pub(super) const HAND_OVER_BOUND: Duration = Duration::from_secs(5);
/// How long an order may take, the search for a leader included.
const ORDER_BOUND: Duration = Duration::from_secs(12);
/// How long members that are needed may be silent before an order is refused for it.
const SILENCE_BOUND: Duration = Duration::from_secs(3);
/// Pause before the next attempt.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How an order for a join token begins.
const INVITE_CODE: u8 = 5;
/// That of a request by which no join token counts any more.
const UNINVITE_CODE: u8 = 7;
/// The same for more slots.
const RESIZE_CODE: u8 = 6;
/// Most bytes of a name in a request, and of a reason in an answer.
const TEXT_BYTES_MAX: usize = 4096;

/// An order; members are named by their names or their ids (16 hexadecimal digits).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// This member leaves the cluster.
    Remove(String),
    /// This one is to vote, as soon as it has caught up.
    Promote(String),
    /// This one follows without a vote from now on.
    Demote(String),
    /// One leaves, and another has its vote, in one change.
    Replace {
        /// The one that leaves.
        old: String,
        /// The one that votes instead.
        new: String,
    },
    /// This one leads; any other than the one that leads, if none is named.
    Lead(Option<String>),
    /// A join token counts from now on.
    Invite(Invitation),
    /// No join token that was given out counts any more.
    Uninvite,
    /// The cluster has so many slots from now on.
    Resize(u64),
}

impl Order {
    fn names(&self) -> Vec<&str> {
        match self {
            Order::Remove(who) | Order::Promote(who) | Order::Demote(who) => vec![who],
            Order::Replace { old, new } => vec![old, new],
            Order::Lead(who) => who.as_deref().into_iter().collect(),
            Order::Invite(_) | Order::Uninvite | Order::Resize(_) => Vec::new(),
        }
    }

    /// The same with ids for names, if all of them are known. // I1
    fn by_ids(&self, view: &View) -> Option<Order> {
        let id = |who: &str| find(view, who).ok().map(|id| format!("{id:016x}"));
        Some(match self {
            Order::Remove(who) => Order::Remove(id(who)?),
            Order::Promote(who) => Order::Promote(id(who)?),
            Order::Demote(who) => Order::Demote(id(who)?),
            Order::Replace { old, new } => Order::Replace { old: id(old)?, new: id(new)? },
            Order::Lead(None) => self.clone(),
            // They name nobody, and have one step: until it is taken nothing was done. // I2
            Order::Invite(_) | Order::Uninvite | Order::Resize(_) => return None,
            Order::Lead(Some(who)) => Order::Lead(Some(id(who)?)),
        })
    }

    /// Whether the order was carried out, if nobody has the name of one that it names.
    fn is_done_without(&self, view: &View) -> bool {
        match self {
            Order::Remove(_) => true,
            Order::Replace { old, new } => {
                let votes = find(view, new).is_ok_and(|id| view.goal_voters.contains(&id));
                matches!(find(view, old), Err(OrderReply::Absent(_))) && votes
            }
            Order::Promote(_)
            | Order::Demote(_)
            | Order::Lead(_)
            | Order::Invite(_)
            | Order::Uninvite
            | Order::Resize(_) => false,
        }
    }

    /// As one member sends it to another. A removal has a request of its own, which is older.
    fn encode(&self) -> (Method, Vec<u8>) {
        let mut out = Vec::new();
        let method = match self {
            Order::Remove(_) => Method::Remove,
            Order::Promote(_)
            | Order::Demote(_)
            | Order::Replace { .. }
            | Order::Lead(_)
            | Order::Invite(_)
            | Order::Uninvite
            | Order::Resize(_) => {
                out.push(match self {
                    Order::Promote(_) => 1,
                    Order::Demote(_) => 2,
                    Order::Replace { .. } => 3,
                    Order::Lead(_) | Order::Remove(_) => 4,
                    Order::Invite(_) => INVITE_CODE,
                    Order::Uninvite => UNINVITE_CODE,
                    Order::Resize(_) => RESIZE_CODE,
                });
                Method::Order
            }
        };
        if let Order::Invite(Invitation { hash, expires_s }) = self {
            out.put_slice(hash);
            out.put_u64_le(*expires_s);
        }
        if let Order::Resize(slot_count) = self {
            out.put_u64_le(*slot_count);
        }
        for name in self.names() {
            put_string(&mut out, name);
        }
        if *self == Order::Lead(None) {
            put_string(&mut out, "");
        }
        (method, out)
    }

    fn decode(method: Method, body: Bytes) -> Result<Order, DecodeError> {
        let mut cursor = Cursor::new(body);
        let code = if method == Method::Remove { 0 } else { cursor.u8()? };
        if code == INVITE_CODE {
            let bytes = cursor.bytes(INVITATION_HASH_BYTES)?;
            let hash = bytes.first_chunk().copied();
            let hash = hash.ok_or_else(|| cursor.error("hash of an invitation"))?;
            let invitation = Invitation { hash, expires_s: cursor.u64()? };
            cursor.finish()?;
            return Ok(Order::Invite(invitation));
        }
        if code == UNINVITE_CODE {
            cursor.finish()?;
            return Ok(Order::Uninvite);
        }
        if code == RESIZE_CODE {
            let slot_count = cursor.u64()?;
            cursor.finish()?;
            return Ok(Order::Resize(slot_count));
        }
        let who = cursor.string(TEXT_BYTES_MAX)?;
        let order = match code {
            0 => Order::Remove(who),
            1 => Order::Promote(who),
            2 => Order::Demote(who),
            3 => Order::Replace { old: who, new: cursor.string(TEXT_BYTES_MAX)? },
            4 => Order::Lead(Some(who).filter(|who| !who.is_empty())),
            _ => return Err(cursor.error("unknown order")),
        };
        cursor.finish()?;
        Ok(order)
    }
}

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// It must not be, or there is no such member.
    #[error("{0}")]
    Refused(String),
    /// No leader, or none that answers.
    #[error(transparent)]
    Failed(Failure),
}

/// What a member says to an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OrderReply {
    Done,
    /// Ask again.
    Later(String),
    Refused(String),
    /// It may happen yet.
    Unknown(String),
    /// There is no such member.
    Absent(String),
    /// Too few of those that are needed answer now, or have caught up.
    Silent(String),
}

impl Cluster {
    /// Carries out an order, as leader or through it.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub async fn carry_out(&self, mut order: Order) -> Result<(), OrderError> {
        let refused = |reason| Err(OrderError::Refused(reason));
        let failed = |failure| Err(OrderError::Failed(failure));
        if let Some(name) = order.names().iter().find(|name| name.len() > TEXT_BYTES_MAX) {
            return refused(format!("no member has a name of {} bytes", name.len()));
        }
        let begun = Instant::now();
        let deadline = begun + ORDER_BOUND;
        let mut is_begun = false;
        loop {
            let view = self.consensus.view();
            let known = view.leader.and_then(|_| order.by_ids(&view));
            match self.ask_leader(&view, &order, deadline).await {
                OrderReply::Done => return Ok(()),
                OrderReply::Absent(_) if is_begun && order.is_done_without(&view) => return Ok(()), // I1
                OrderReply::Refused(reason) | OrderReply::Absent(reason) => return refused(reason),
                OrderReply::Unknown(reason) => return failed(self.unknown(&reason)),
                OrderReply::Silent(reason) if begun.elapsed() >= SILENCE_BOUND => {
                    // I2
                    return if is_begun { failed(self.unknown(&reason)) } else { refused(reason) };
                }
                OrderReply::Silent(_) => {}
                OrderReply::Later(reason) if Instant::now() + RETRY_PAUSE >= deadline => {
                    // I2
                    let unknown = is_begun.then(|| self.unknown(&reason));
                    return failed(unknown.unwrap_or(Failure::NoLeader { reason }));
                }
                OrderReply::Later(_) => {
                    if !is_begun
                        && !view.is_leader
                        && let Some(reason) = self.no_majority(&view).await
                    {
                        return refused(reason);
                    }
                    if let Some(known) = known {
                        (order, is_begun) = (known, true); // I1
                    }
                }
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Asks whoever leads as this member has it.
    async fn ask_leader(&self, view: &View, order: &Order, deadline: Instant) -> OrderReply {
        if view.is_leader {
            return self.carry_out_here(order, deadline).await;
        }
        let leader = view.leader.and_then(|id| Some((id, view.members.get(&id)?)));
        let Some((id, leader)) = leader else {
            return OrderReply::Later("no leader is known".into());
        };
        let bound = deadline.saturating_duration_since(Instant::now());
        let (method, body) = order.encode();
        reply_of(self.channel(id, &leader.member).call(method, body.into(), bound).await)
    }

    async fn carry_out_here(&self, order: &Order, deadline: Instant) -> OrderReply {
        let consensus = &self.consensus;
        let deadline = deadline.min(Instant::now() + CHANGE_BOUND);
        let Ok(_alone) = timeout_at(deadline, consensus.alone()).await else {
            return OrderReply::Later("the membership is just being changed".into());
        };
        let view = consensus.view();
        if !view.is_leader {
            return OrderReply::Later("the leader has changed".into());
        }
        let late = || OrderReply::Unknown("the change of the membership takes long".into());
        let step = match step(&view, consensus.member_id(), order) {
            Ok(step) => step,
            Err(_) if !consensus.has_led_for(view.alive) => {
                return OrderReply::Later(
                    "the leader is new and has not heard of all members".into(),
                );
            }
            Err(OrderReply::Silent(reason)) if self.are_gone(&view) => {
                return OrderReply::Refused(reason);
            }
            Err(reply) => return reply,
        };
        if step != LeaderStep::Nothing {
            tracing::info!(?order, ?step, "an operator's order");
        }
        timeout_at(deadline, self.take(&view, step)).await.unwrap_or_else(|_| late())
    }

    /// Takes one step as leader.
    async fn take(&self, view: &View, step: LeaderStep) -> OrderReply {
        let consensus = &self.consensus;
        let heirs = |id| may_lead(view, id);
        match step {
            LeaderStep::Nothing => OrderReply::Done,
            LeaderStep::HandOver => {
                consensus.hand_over_to(&heirs, HAND_OVER_BOUND).await;
                OrderReply::Later("the leader hands over, for it is to go".into())
            }
            LeaderStep::HandOverTo(heir) => self.hand_over_for_good(&|id| id == heir).await,
            LeaderStep::HandOverToAny => self.hand_over_for_good(&heirs).await,
            LeaderStep::RemoveLearner(id) => changed(consensus.remove_learner(id).await),
            LeaderStep::SetVoters(voters) => changed(consensus.set_voters(voters, false).await),
            LeaderStep::SetRole(id, role) => self.set_role(view, id, role).await,
            LeaderStep::SetRoleFirst(id, role) => match self.set_role(view, id, role).await {
                OrderReply::Done => OrderReply::Later("it is to vote, and does not yet".into()),
                reply => reply,
            },
            LeaderStep::NoteInvitation(invitation) => self.note_invitation(&invitation).await,
            LeaderStep::ForgetInvitations => self.forget_invitations().await,
            LeaderStep::Resize(slot_count) => self.resize(slot_count).await,
        }
    }

    /// Until another leads, which need not be the one that was meant: then it is asked in its turn.
    async fn hand_over_for_good(&self, may_lead: &(dyn Fn(u64) -> bool + Sync)) -> OrderReply {
        self.consensus.hand_over_to(may_lead, HAND_OVER_BOUND).await;
        match self.consensus.view().leader {
            Some(leader) if leader != self.consensus.member_id() && may_lead(leader) => {
                OrderReply::Done
            }
            _ => OrderReply::Later("leadership was not taken over yet".into()),
        }
    }

    async fn set_role(&self, view: &View, id: u64, role: Role) -> OrderReply {
        let Some(known) = view.members.get(&id) else {
            return OrderReply::Later("the membership was just changed".into());
        };
        let record = Member { role, ..known.member.clone() };
        changed_record(self.consensus.set_member(id, record).await)
    }

    /// True if none of the voters that do not answer has answered for so long that it may soon.
    fn are_gone(&self, view: &View) -> bool {
        let consensus = &self.consensus;
        view.goal_voters.iter().filter(|id| **id != consensus.member_id()).all(|id| {
            answers(view, consensus.member_id(), *id)
                || consensus.is_silent(*id, SILENCE_BOUND) == Some(true)
        })
    }

    /// Why nobody can lead, if too few voters answer this member for that.
    async fn no_majority(&self, view: &View) -> Option<String> {
        let (caller, me) = (self.consensus.caller(), self.consensus.member_id());
        let asked = view.goal_voters.iter().filter(|id| **id != me).filter_map(|id| {
            let member = &view.members.get(id)?.member;
            let address = self.consensus.address_of(*id, member);
            Some(async move {
                let who = caller.who_is_at(&address, *id, &member.name).await;
                who.is_ok_and(|who| who.member_id == *id)
            })
        });
        let others = join_all(asked).await.into_iter().filter(|answers| *answers).count();
        let count = view.goal_voters.len();
        let alive = others + usize::from(view.goal_voters.contains(&me));
        (alive <= count / 2).then(|| {
            format!(
                "{alive} of {count} voters run{}, which is no majority: nobody can lead, and \
                 nothing can be changed; start the others first",
                if alive == 1 { "s" } else { "" }
            )
        })
    }

    /// Answers an order that came to another member. It is not passed on again. One that is not
    /// believed may be anybody who listens, under an id that he drew: he takes out that one alone.
    pub(super) async fn answer_order(&self, incoming: &Incoming) -> Vec<u8> {
        let asker = format!("{:016x}", incoming.from);
        let reply = match Order::decode(incoming.method, incoming.body.clone()) {
            Ok(order) if !incoming.is_believed && order != Order::Remove(asker.clone()) => {
                OrderReply::Refused(format!(
                    "member {asker} is not known where it is, and can have nothing changed but itself \
                     removed; ask another member"
                ))
            }
            Ok(order) => self.carry_out_here(&order, Instant::now() + CHANGE_BOUND).await,
            Err(error) => OrderReply::Refused(error.to_string()),
        };
        encode_reply(&reply)
    }
}

/// Asks members for the removal of one that does not run, in its own name. They ask back at the
/// address that it had, where the listener is.
///
/// # Errors
/// See [`OrderError`]; the last member's word.
pub async fn remove_from_outside(
    caller: Arc<Caller>,
    listener: Listener,
    addresses: &[String],
) -> Result<(), OrderError> {
    tokio::select! {
        removed = ask_for_removal(&caller, addresses) => removed,
        () = confirm_only(listener, caller.clone()) => unreachable!("it answers until it is dropped"),
    }
}

async fn ask_for_removal(caller: &Arc<Caller>, addresses: &[String]) -> Result<(), OrderError> {
    let order = Order::Remove(format!("{:016x}", caller.me().member_id));
    let deadline = Instant::now() + ORDER_BOUND;
    let mut last = "no member is known".to_owned();
    loop {
        for address in addresses {
            let channel = Channel::new(caller.clone(), Route::to_address(address.clone()));
            let (method, body) = order.encode();
            let bound = deadline.saturating_duration_since(Instant::now());
            match reply_of(channel.call(method, body.into(), bound.min(CHANGE_BOUND)).await) {
                OrderReply::Done | OrderReply::Absent(_) => return Ok(()),
                OrderReply::Refused(reason) => return Err(OrderError::Refused(reason)),
                OrderReply::Later(reason)
                | OrderReply::Unknown(reason)
                | OrderReply::Silent(reason) => {
                    last = reason;
                }
            }
        }
        if Instant::now() >= deadline {
            return Err(OrderError::Failed(Failure::NoLeader { reason: last }));
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// What is said of a change of records.
pub(super) fn changed_record(result: Result<(), MemberError>) -> OrderReply {
    match result {
        Ok(()) => OrderReply::Done,
        Err(MemberError::NotChanged(error)) => changed(Err(error)),
        Err(full) => OrderReply::Refused(full.to_string()),
    }
}

fn changed(result: Result<(), ProposeError>) -> OrderReply {
    match result {
        Ok(()) => OrderReply::Done,
        Err(ProposeError::NotLeader { .. }) => OrderReply::Later("the leader has changed".into()),
        Err(ProposeError::Failed(failure @ Failure::Unknown { .. })) => {
            OrderReply::Unknown(failure.to_string())
        }
        Err(ProposeError::Failed(failure)) => OrderReply::Later(failure.to_string()),
    }
}

fn reply_of(answer: Result<Bytes, CallError>) -> OrderReply {
    match answer {
        Ok(body) => {
            decode_reply(body).unwrap_or_else(|error| OrderReply::Unknown(error.to_string()))
        }
        Err(error @ CallError::NotSent { .. }) => OrderReply::Later(crate::fault::chain(&error)),
        Err(error @ CallError::Lost { .. }) => OrderReply::Unknown(error.to_string()),
    }
}

fn encode_reply(reply: &OrderReply) -> Vec<u8> {
    let (code, reason) = match reply {
        OrderReply::Done => (0, ""),
        OrderReply::Later(reason) => (1, reason.as_str()),
        OrderReply::Refused(reason) => (2, reason.as_str()),
        OrderReply::Unknown(reason) => (3, reason.as_str()),
        OrderReply::Absent(reason) => (4, reason.as_str()),
        OrderReply::Silent(reason) => (5, reason.as_str()),
    };
    let mut out = vec![code];
    let end = reason.floor_char_boundary(TEXT_BYTES_MAX);
    put_string(&mut out, reason.get(..end).unwrap_or_default());
    out
}

fn decode_reply(body: Bytes) -> Result<OrderReply, DecodeError> {
    let mut cursor = Cursor::new(body);
    let (code, reason) = (cursor.u8()?, cursor.string(TEXT_BYTES_MAX)?);
    cursor.finish()?;
    match code {
        0 => Ok(OrderReply::Done),
        1 => Ok(OrderReply::Later(reason)),
        2 => Ok(OrderReply::Refused(reason)),
        3 => Ok(OrderReply::Unknown(reason)),
        4 => Ok(OrderReply::Absent(reason)),
        5 => Ok(OrderReply::Silent(reason)),
        _ => Err(cursor.error("unknown answer to an order")),
    }
}

/// Reads an order and the answer to one.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_order(method: Method, body: &Bytes) {
    if let Ok(order) = Order::decode(method, body.clone()) {
        let (method, bytes) = order.encode();
        assert_eq!(Order::decode(method, bytes.into()).ok(), Some(order));
    }
    drop(decode_reply(body.clone()));
}

#[cfg(test)]
mod tests {
    use super::super::membership::tests::{member, view};
    use super::*;

    #[test]
    fn answers_survive_their_bytes() {
        let text = || "why".to_owned();
        let with_reasons = [
            OrderReply::Later,
            OrderReply::Refused,
            OrderReply::Unknown,
            OrderReply::Absent,
            OrderReply::Silent,
        ];
        let with_reasons = with_reasons.map(|reply| reply(text()));
        for reply in [OrderReply::Done].into_iter().chain(with_reasons) {
            assert_eq!(decode_reply(encode_reply(&reply).into()).unwrap(), reply);
        }
        assert!(decode_reply(Bytes::from_static(&[9, 0, 0])).is_err());
    }

    /// Somebody else may have taken out the one that was to vote instead.
    #[test]
    fn a_replacement_is_done_once_the_old_one_is_gone_and_the_new_one_votes() {
        let order = Order::Replace { old: "b".into(), new: "c".into() };
        let of = |members: &[(u64, &str, bool)]| {
            view(
                members.iter().map(|(id, name, votes)| (*id, member(name, *votes, None))).collect(),
            )
        };
        assert!(order.is_done_without(&of(&[(1, "a", true), (3, "c", true)])));
        assert!(!order.is_done_without(&of(&[(1, "a", true), (2, "b", true)])), "c is gone");
        assert!(!order.is_done_without(&of(&[(1, "a", true), (3, "c", false)])));
        assert!(Order::Remove("b".into()).is_done_without(&of(&[(1, "a", true)])));
        assert!(!Order::Demote("b".into()).is_done_without(&of(&[(1, "a", true)])));
    }

    #[test]
    fn orders_survive_their_bytes_and_a_removal_has_those_that_it_always_had() {
        let name = || "b".to_owned();
        for order in [
            Order::Remove(name()),
            Order::Promote(name()),
            Order::Demote(name()),
            Order::Replace { old: name(), new: "c".into() },
            Order::Lead(Some(name())),
            Order::Lead(None),
            Order::Invite(Invitation { hash: [7; 32], expires_s: 1 << 40 }),
            Order::Uninvite,
            Order::Resize(1 << 20),
        ] {
            let (method, body) = order.encode();
            assert_eq!(Order::decode(method, body.clone().into()).unwrap(), order);
            let short = body.len() - 1;
            assert!(Order::decode(method, Bytes::copy_from_slice(&body[..short])).is_err());
            assert!(Order::decode(method, [&body[..], b"x"].concat().into()).is_err());
        }
        assert_eq!(Order::Remove(name()).encode(), (Method::Remove, b"\x01\0b".to_vec()));
        let lead = Order::Lead(Some(name())).encode();
        assert_eq!(lead, (Method::Order, b"\x04\x01\0b".to_vec()));
        assert!(Order::decode(Method::Order, Bytes::from_static(b"\x05\x01\0b")).is_err());
    }
}
