//! More slots for the whole cluster.
//!
//! Every member's file has room for some number of slots, which it says in its own record; it grows at a
//! start (`-slots`). How many of them may be used is one number for all, in every record of the membership,
//! so that the entry which raises it is applied at the same place by everybody, and snapshots and
//! checkpoints have it. Called by `orders`; calls `raft`. Invariant:
//!
//! - I1: the number is raised only to what every member has room for, in the newest membership, and never
//!   falls. So no entry names a slot that a member lacks.

use std::collections::BTreeMap;

use super::Cluster;
use super::orders::{OrderReply, changed_record};
use crate::peer::{Member, Role};

impl Cluster {
    /// Raises the number of slots.
    pub(super) async fn resize(&self, slot_count: u64) -> OrderReply {
        let now = self.limits().slot_count;
        let Ok(records) = self.consensus.records().await else {
            return OrderReply::Later("this node stops".into());
        };
        match resized(&records, now, slot_count) {
            Err(reply) => return reply,
            Ok(None) => return OrderReply::Done,
            Ok(Some(_)) => {}
        }
        let change =
            |newest: &BTreeMap<u64, Member>| resized(newest, now, slot_count).ok().flatten();
        changed_record(self.consensus.change_records(change).await)
    }
}

/// The records of a cluster with so many slots, which has `now` of them; `None` if that is so already. // I1
fn resized(
    records: &BTreeMap<u64, Member>,
    now: u64,
    slot_count: u64,
) -> Result<Option<BTreeMap<u64, Member>>, OrderReply> {
    let refused = |reason| Err(OrderReply::Refused(reason));
    if now == 0 {
        return refused(
            "the keys of kvstore are no slots: there is nothing to make more of".into(),
        );
    }
    if slot_count < now {
        return refused(format!("there are {now} slots, and they can only become more"));
    }
    let has_all = |member: &Member| member.slot_count >= slot_count;
    if slot_count == now || records.values().all(has_all) {
        return Ok(None);
    }
    // A logger has no file of slots.
    let lacks = |member: &&Member| member.role != Role::Learner && member.room < slot_count;
    let lacking: Vec<String> = records
        .values()
        .filter(lacks)
        .map(|member| format!("{} (has room for {})", member.name, member.room.max(now)))
        .collect();
    if !lacking.is_empty() {
        return refused(format!(
            "no room for {slot_count} slots at {}: start each of them with -slots {slot_count}, one \
             after the other, and order this again",
            lacking.join(", ")
        ));
    }
    let grown = |member: &Member| Member { slot_count, ..member.clone() };
    Ok(Some(records.iter().map(|(id, member)| (*id, grown(member))).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, role: Role, room: u64) -> Member {
        Member { name: name.to_owned(), role, room, ..Member::default() }
    }

    fn refusal(records: &BTreeMap<u64, Member>, now: u64, slot_count: u64) -> String {
        match resized(records, now, slot_count) {
            Err(OrderReply::Refused(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn slots_become_more_once_every_member_has_room_for_them() {
        let mut records = BTreeMap::from([
            (1, member("a", Role::Voter, 200)),
            (2, member("b", Role::Standby, 150)),
            (3, member("c", Role::Voter, 0)),
            (4, member("log", Role::Learner, 0)),
        ]);
        let reason = refusal(&records, 100, 200);
        assert!(
            reason.contains("at b (has room for 150), c (has room for 100): start"),
            "{reason}"
        );
        assert!(refusal(&records, 100, 99).contains("only become more"));
        assert!(refusal(&records, 0, 99).contains("kvstore"));
        assert_eq!(resized(&records, 100, 100), Ok(None));
        for id in [2, 3] {
            records.get_mut(&id).unwrap().room = 250;
        }
        let grown = resized(&records, 100, 200).unwrap().unwrap();
        assert!(grown.values().all(|member| member.slot_count == 200), "{grown:?}");
        assert_eq!(
            grown.values().map(|member| member.room).collect::<Vec<_>>(),
            [200, 250, 250, 0]
        );
        assert_eq!(resized(&grown, 100, 200), Ok(None), "it was ordered twice");
        assert_eq!(resized(&grown, 200, 200), Ok(None));
        assert!(refusal(&grown, 200, 250).contains("at a (has room for 200)"));
    }
}
