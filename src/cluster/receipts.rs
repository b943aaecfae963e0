//! What the leader knows of an entry that was committed just now: its term, who holds it durably, and
//! where its time went. It is asked for after the write, so a write that nobody asks about pays nothing.
//!
//! Called by `node`; calls `raft` at the leader; other members ask the leader through `peer`. Invariant:
//!
//! - I1: a receipt says what the member that leads knows itself. Only the term comes from any member that
//!   has applied the entry: it is the same in every log.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use tokio::time::Instant;

use super::{Cluster, WIRE_BOUND};
use crate::metrics::StageTimes;
use crate::peer::Method;
use crate::raft::{View, is_majority};
use crate::receipt::{ReceiptStages, WriteReceipt};

/// How long a leader waits until it knows of a majority, and of its own sync and apply: all of that is done
/// when a write is answered, or nearly, and is noted beside the answer.
const SETTLE_BOUND: Duration = Duration::from_millis(100);
/// Before it looks again.
const LOOK_PAUSE: Duration = Duration::from_millis(2);
/// What a member that wants a receipt writes behind the other fields of [`Method::Holders`].
pub(super) const WITH_RECEIPT: u8 = 1;

impl Cluster {
    /// What is known of a committed entry, which is asked of the leader.
    pub async fn receipt(&self, index: u64) -> WriteReceipt {
        let view = self.consensus.view();
        if view.is_leader {
            return self.receipt_here(index).await;
        }
        let leader = view.leader.and_then(|id| Some((id, view.members.get(&id)?)));
        let told = match leader {
            Some((id, leader)) => {
                let mut body = Vec::with_capacity(25);
                for number in [index, 0, 0] {
                    body.put_u64_le(number);
                }
                body.put_u8(WITH_RECEIPT);
                let bound = SETTLE_BOUND + WIRE_BOUND;
                let channel = self.channel(id, &leader.member);
                channel.call(Method::Holders, body.into(), bound).await.ok()
            }
            None => None,
        };
        let mut receipt = told.and_then(|body| told_of(body, index)).unwrap_or_default();
        receipt.index = index;
        receipt.term = receipt.term.or_else(|| self.term_of(index)); // I1
        receipt
    }

    /// The same of this leader.
    pub(super) async fn receipt_here(&self, index: u64) -> WriteReceipt {
        let (consensus, deadline) = (&self.consensus, Instant::now() + SETTLE_BOUND);
        loop {
            let (view, holds) = (consensus.view(), self.holds_durably(index));
            if !view.is_leader {
                return WriteReceipt {
                    index,
                    term: self.term_of(index),
                    ..WriteReceipt::default()
                };
            }
            let me = consensus.member_id();
            let holders = holders(&view, index, holds.then_some(me));
            let times = consensus.syncer().stages().of_entry(index);
            let syncs = self.syncs_always();
            // A sync is noted a moment after it made durable what it covers.
            let is_timed =
                |times: StageTimes| times.apply.is_some() && (times.sync.is_some() || !syncs);
            let is_settled = times.is_none_or(is_timed)
                && (holds || !syncs)
                && has_majority(&view, &holders, me);
            if !is_settled && Instant::now() < deadline {
                tokio::time::sleep(LOOK_PAUSE).await;
                continue;
            }
            let name = |id: &u64| view.members.get(id).map(|known| known.member.name.clone());
            let mut durable: Vec<String> = holders.iter().filter_map(name).collect();
            durable.sort_unstable();
            return WriteReceipt {
                index,
                term: self.term_of(index),
                leader: name(&me),
                durable: Some(durable),
                stages: times.map(stages),
                ..WriteReceipt::default()
            };
        }
    }

    fn syncs_always(&self) -> bool {
        self.consensus.wal().sync_mode() == diskstore_storage::wal::SyncMode::Always
    }

    /// Whether this member's own log holds an entry durably, or a checkpoint does.
    fn holds_durably(&self, index: u64) -> bool {
        let (wal, replica) = (self.consensus.wal(), self.consensus.replica());
        self.syncs_always()
            && replica.applied_index() >= index
            && wal.position_of(index).is_none_or(|position| wal.durable() >= position)
    }

    /// The term of an entry that is applied here, while the log has it.
    fn term_of(&self, index: u64) -> Option<u64> {
        let is_applied = self.consensus.replica().applied_index() >= index;
        let log_id = self.consensus.wal().log_id_at(index).filter(|_| is_applied);
        log_id.map(|log_id| log_id.term.get())
    }
}

/// What a leader said: a count, and the receipt behind it. One of an older version says the count alone.
fn told_of(mut body: Bytes, index: u64) -> Option<WriteReceipt> {
    body.try_get_u64_le().ok()?;
    let receipt = WriteReceipt::from_json(&body).ok()?;
    (receipt.index == index).then_some(receipt)
}

/// The members that hold an entry durably, as a leader knows.
fn holders(view: &View, index: u64, me: Option<u64>) -> BTreeSet<u64> {
    let others = view
        .members
        .iter()
        .filter(|(_, known)| known.matched.is_some_and(|held| held.get() >= index));
    // What openraft says of the leader itself is what was handed to its disk.
    let leader = view.leader;
    others.map(|(id, _)| *id).filter(|id| Some(*id) != leader).chain(me).collect()
}

/// Whether they are a majority of the voters, of every configuration; this leader counts as one of them, for
/// what its own disk holds is asked apart, and with another `-sync` it never says so.
fn has_majority(view: &View, holders: &BTreeSet<u64>, me: u64) -> bool {
    is_majority(&view.configs, |id| id == me || holders.contains(&id))
}

fn stages(times: StageTimes) -> ReceiptStages {
    let us = |time: Option<Duration>| {
        time.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
    };
    ReceiptStages {
        queue_us: us(times.queue),
        append_us: us(times.append),
        sync_us: us(times.sync),
        commit_us: us(times.commit),
        apply_us: us(times.apply),
    }
}

#[cfg(test)]
mod tests {
    use super::super::membership::tests::{member, view};
    use super::*;

    #[test]
    fn a_leader_counts_itself_once_its_own_disk_holds_the_entry() {
        let mut seen = view(vec![
            (1, member("a", true, Some(10))),
            (2, member("b", true, Some(9))),
            (3, member("c", true, Some(8))),
        ]);
        seen.leader = Some(1);
        assert_eq!(holders(&seen, 9, None), BTreeSet::from([2]));
        seen.configs = vec![BTreeSet::from([1, 2, 3])];
        assert!(!has_majority(&seen, &holders(&seen, 10, None), 1));
        assert!(has_majority(&seen, &holders(&seen, 9, None), 1), "it is asked apart");
        let both = holders(&seen, 9, Some(1));
        assert_eq!(both, BTreeSet::from([1, 2]));
        assert!(has_majority(&seen, &both, 1));
    }

    #[test]
    fn a_leader_of_an_older_version_says_nothing_and_none_is_believed_of_another_entry() {
        let receipt = WriteReceipt { index: 7, term: Some(2), ..WriteReceipt::default() };
        let body = |json: &str| Bytes::from([&1_u64.to_le_bytes()[..], json.as_bytes()].concat());
        assert_eq!(told_of(body(&receipt.to_json()), 7), Some(receipt.clone()));
        assert_eq!(told_of(body(&receipt.to_json()), 8), None);
        for broken in ["", "{", "[]", r#"{"index":"7"}"#] {
            assert_eq!(told_of(body(broken), 7), None, "{broken}");
        }
        assert_eq!(told_of(Bytes::from_static(b"123"), 7), None);
    }
}
