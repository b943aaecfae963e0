//! Join tokens: each lets one node into the cluster, once, and for a while.
//!
//! A token is random, and the membership has its hash, in the record of the member that led when it was
//! made: so every leader knows it, after a restart and out of a snapshot too. Called by `join`, `orders`
//! and `node`; calls `raft`. Invariants:
//!
//! - I1: the entry of the log that takes a node in is the one that takes the token out, and it is made of
//!   the membership that was looked at. So no token lets two nodes in, whoever leads.
//! - I2: a token's text is nowhere but in the answer to whoever asked for it, and in the request of the
//!   node that presents it.
//! - I3: whoever presents a token that is unknown, used or expired is told the same.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Cluster;
use super::orders::{Order, OrderError, OrderReply, changed_record};
use crate::command::Failure;
use crate::config::{TokenHash, join_token};
use crate::peer::{INVITATION_COUNT_MAX, Invitation, JoinReply, JoinRequest, JoinToken, Member};
use crate::raft::slot_count_of;

/// How long a leader may take to prove that it leads, before it refuses somebody.
const PROOF_BOUND: Duration = Duration::from_secs(2);
/// What a node is told that has no token which counts. // I3
const NOT_INVITED: &str = "a new member needs a join token here, and none was presented that counts: it \
                           works once, until it expires. Have one made (diskstore token join), and give \
                           it by -join-token-file FILE or in DISKSTORE_JOIN_TOKEN";

/// The record of the member that gave a token out, as it is once that is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Redeemed {
    pub(super) id: u64,
    pub(super) record: Member,
}

impl Cluster {
    /// Makes a join token that counts for so long; its text.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub async fn invite(&self, valid_for: Duration) -> Result<String, OrderError> {
        let host = self.consensus.caller().host();
        let random = host.random.bytes().map_err(|error| {
            let reason = format!("this system gives no randomness: {error}");
            OrderError::Failed(Failure::Busy { reason })
        })?;
        let token = join_token(random);
        let expires_s = host.clock.wall().saturating_add(valid_for).as_secs();
        let hash = TokenHash::of(token.as_bytes()).bytes();
        self.carry_out(Order::Invite(Invitation { hash, expires_s })).await?;
        Ok(token)
    }

    /// Whether a node may be let in that wants to join, as far as join tokens go.
    ///
    /// # Errors
    /// What it is told otherwise.
    pub(super) async fn check_invited(&self, request: &JoinRequest) -> Result<(), JoinReply> {
        let later = |reason: &str| JoinReply::Later(reason.to_owned());
        if !self.is_by_invitation {
            return Ok(());
        }
        let records = self.consensus.records().await;
        let records = records.map_err(|_| later("this node stops"))?;
        let is_known = records.contains_key(&request.member_id);
        if is_known || redeemed(&records, &request.token, self.now()).is_some() {
            return Ok(());
        }
        // One that leads no more may not have heard of the token.
        if self.consensus.read_index(PROOF_BOUND).await.is_err() {
            return Err(later("the leader has changed"));
        }
        Err(JoinReply::Refused(NOT_INVITED.to_owned()))
    }

    /// The records to be set for a node that is let in: its own, and that of the member that gave its
    /// token out. `None` if it has none, in the newest membership. // I1
    pub(super) fn admission(
        &self,
        request: &JoinRequest,
        record: Member,
    ) -> impl FnOnce(&BTreeMap<u64, Member>) -> Option<BTreeMap<u64, Member>> {
        let (id, now, is_by_invitation) = (request.member_id, self.now(), self.is_by_invitation);
        move |newest| {
            let known = newest.get(&id);
            let mut changed = BTreeMap::new();
            if known.is_none() && is_by_invitation {
                let Redeemed { id, record } = redeemed(newest, &request.token, now)?;
                changed.insert(id, record);
            }
            // What a request says of these is not believed.
            let invitations = known.map(|known| known.invitations.clone()).unwrap_or_default();
            let slot_count = slot_count_of(newest.values());
            changed.insert(id, Member { invitations, slot_count, ..record });
            Some(changed)
        }
    }

    /// Notes a token in this leader's own record.
    pub(super) async fn note_invitation(&self, invitation: &Invitation) -> OrderReply {
        let (me, now) = (self.member_id(), self.now());
        let Ok(records) = self.consensus.records().await else {
            return OrderReply::Later("this node stops".into());
        };
        if let Err(reply) = noted(&records, me, invitation, now) {
            return reply;
        }
        let change = |newest: &BTreeMap<u64, Member>| noted(newest, me, invitation, now).ok();
        changed_record(self.consensus.change_records(change).await)
    }

    /// Takes every token out of the membership. A record is committed even if there are none: the newest
    /// membership of a leader may be one that is never committed, or no longer the newest.
    pub(super) async fn forget_invitations(&self) -> OrderReply {
        let me = self.member_id();
        let change = |newest: &BTreeMap<u64, Member>| Some(forgotten(newest, me));
        changed_record(self.consensus.change_records(change).await)
    }

    fn now(&self) -> Duration {
        self.consensus.caller().host().clock.wall()
    }
}

/// The record that changes if a token is used which counts.
fn redeemed(records: &BTreeMap<u64, Member>, token: &JoinToken, now: Duration) -> Option<Redeemed> {
    let hash = TokenHash::of(token.text().as_bytes());
    let is_it = |one: &Invitation| {
        TokenHash::from(one.hash).is(&hash) && Duration::from_secs(one.expires_s) > now
    };
    let (id, known) = records.iter().find(|(_, known)| known.invitations.iter().any(is_it))?;
    let others = known.invitations.iter().filter(|one| one.hash != hash.bytes());
    let record = Member { invitations: others.cloned().collect(), ..known.clone() };
    Some(Redeemed { id: *id, record })
}

/// The records that had tokens like these, and have none of them any more.
fn without(
    records: &BTreeMap<u64, Member>,
    is_gone: impl Fn(&Invitation) -> bool,
) -> BTreeMap<u64, Member> {
    let changed = records.iter().filter(|(_, known)| known.invitations.iter().any(&is_gone));
    let kept = changed.map(|(id, known)| {
        let left = known.invitations.iter().filter(|one| !is_gone(one)).cloned().collect();
        (*id, Member { invitations: left, ..known.clone() })
    });
    kept.collect()
}

/// The records that are set so that no token counts any more, and this leader's own in any case.
fn forgotten(records: &BTreeMap<u64, Member>, me: u64) -> BTreeMap<u64, Member> {
    let mut changed = without(records, |_| true);
    if let Some(own) = records.get(&me) {
        changed.entry(me).or_insert_with(|| own.clone());
    }
    changed
}

/// The records that change where a leader notes one token more: its own, and those with tokens that have
/// expired, whoever gave them out: nobody else would take them out of a membership, which has a bound.
/// Where the token is there already, because it was asked for twice, its own record is set as it is: the
/// newest membership of a leader may be one that is never committed, so an entry has to tell.
fn noted(
    records: &BTreeMap<u64, Member>,
    me: u64,
    invitation: &Invitation,
    now: Duration,
) -> Result<BTreeMap<u64, Member>, OrderReply> {
    let is_there = records.values().any(|known| known.invitations.contains(invitation));
    let mut changed = without(records, |one| Duration::from_secs(one.expires_s) <= now);
    let Some(own) = changed.get(&me).or_else(|| records.get(&me)) else {
        return Err(OrderReply::Later("the membership was just changed".into()));
    };
    if !is_there && own.invitations.len() >= INVITATION_COUNT_MAX {
        return Err(OrderReply::Refused(format!(
            "{INVITATION_COUNT_MAX} join tokens were given out that nobody has used: use them, wait \
             until they expire, or revoke them (diskstore token revoke-join)"
        )));
    }
    let new = (!is_there).then_some(invitation);
    let invitations = own.invitations.iter().chain(new).cloned().collect();
    let own = Member { invitations, ..own.clone() };
    changed.insert(me, own);
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1000);

    fn invitation(text: &str, expires_s: u64) -> Invitation {
        Invitation { hash: TokenHash::of(text.as_bytes()).bytes(), expires_s }
    }

    #[test]
    fn a_leader_that_knows_no_token_commits_its_record_all_the_same() {
        assert_eq!(forgotten(&of(&[]), 2), BTreeMap::from([(2, Member::default())]));
        let changed = forgotten(&of(&[invitation("a", 2000)]), 1);
        assert_eq!(changed, BTreeMap::from([(1, Member::default()), (2, Member::default())]));
    }

    fn of(invitations: &[Invitation]) -> BTreeMap<u64, Member> {
        let inviting = Member { invitations: invitations.into(), ..Member::default() };
        BTreeMap::from([(1, Member::default()), (2, inviting)])
    }

    fn present(records: &BTreeMap<u64, Member>, text: &str) -> Option<Redeemed> {
        redeemed(records, &JoinToken::new(text.to_owned()), NOW)
    }

    #[test]
    fn a_token_counts_until_it_is_used_or_expires() {
        let all = [invitation("one", 1001), invitation("two", 2000), invitation("old", 1000)];
        let records = of(&all);
        let used = present(&records, "one").unwrap();
        assert_eq!((used.id, &used.record.invitations[..]), (2, &all[1..]));
        assert_eq!(present(&of(&used.record.invitations), "one"), None, "it was used");
        for text in ["", "old", "One", "three"] {
            assert_eq!(present(&records, text), None, "{text}");
        }
        assert_eq!(present(&of(&[]), ""), None);
    }

    #[test]
    fn a_leader_notes_a_token_once_and_forgets_those_that_expired() {
        let new = invitation("new", 5000);
        let records = of(&[invitation("old", 1000), invitation("two", 2000)]);
        let record = noted(&records, 2, &new, NOW).unwrap().remove(&2).unwrap();
        assert_eq!(record.invitations[..], [invitation("two", 2000), new.clone()]);
        let again = noted(&of(&record.invitations), 1, &new, NOW).unwrap();
        let unchanged = BTreeMap::from([(1, Member::default())]);
        assert_eq!(
            again, unchanged,
            "the leader has changed meanwhile, and commits it all the same"
        );
        let again = noted(&of(&record.invitations), 2, &new, NOW).unwrap();
        assert_eq!(again, BTreeMap::from([(2, record)]));
        let full: Vec<Invitation> =
            (0..INVITATION_COUNT_MAX).map(|nth| invitation(&nth.to_string(), 2000)).collect();
        assert!(matches!(noted(&of(&full), 2, &new, NOW), Err(OrderReply::Refused(_))));
        assert!(matches!(noted(&of(&full), 3, &new, NOW), Err(OrderReply::Later(_))));
    }
    #[test]
    fn expired_tokens_of_others_go_with_the_next_one_and_all_of_them_where_they_are_revoked() {
        let mut records = of(&[invitation("old", 1000), invitation("two", 2000)]);
        let new = invitation("new", 5000);
        let changed = noted(&records, 1, &new, NOW).unwrap();
        assert_eq!(changed[&1].invitations[..], [new]);
        assert_eq!(changed[&2].invitations[..], [invitation("two", 2000)]);
        records.extend(changed);
        let revoked = without(&records, |_| true);
        assert_eq!(revoked.keys().collect::<Vec<_>>(), [&1, &2]);
        records.extend(revoked);
        assert!(records.values().all(|known| known.invitations.is_empty()));
        assert_eq!(present(&records, "two"), None);
        assert!(without(&records, |_| true).is_empty(), "nothing is left to be done");
    }
}
