//! Whether a member still belongs to its cluster: how one that was removed learns of it.
//!
//! Called by `node`, and by other members through `peer`; calls `raft`. Invariant:
//!
//! - I1: a member believes that it was removed only if the leader that says so has just proved that
//!   it leads.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes};

use super::Cluster;
use crate::command::DecodeError;
use crate::command::cursor::Cursor;
use crate::fault::{EXIT_REMOVED, Faults};
use crate::peer::Method;
use crate::raft::Timing;

/// How long one member may take to say who belongs to the cluster.
const STANDING_BOUND: Duration = Duration::from_secs(2);
/// How often a member without a leader asks whether it still belongs to the cluster.
const STANDING_PERIOD: Duration = Duration::from_millis(500);

/// For so long whoever would found a cluster listens first: a leader dials at once, and members
/// without one dial each other once they miss it ([`watch_standing`]), and to be elected.
pub fn listening(timing: Timing) -> Duration {
    timing.silence() + 2 * STANDING_PERIOD
}

/// What the leader knows of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Whoever was asked does not lead.
    Unknown,
    /// It belongs to the cluster, which has applied entries up to this index.
    Member(u64),
    /// It does not.
    Removed,
}

impl Cluster {
    /// Whether this member belongs to its cluster, as its leader has it.
    pub async fn standing(&self) -> Standing {
        let (view, me) = (self.consensus.view(), self.consensus.member_id());
        if view.is_leader {
            return self.standing_here(me).await;
        }
        let body = Bytes::copy_from_slice(&me.to_le_bytes());
        for (id, other) in view.members.iter().filter(|(id, _)| **id != me) {
            let asked = self.channel(*id, &other.member);
            let answer = asked.call(Method::Standing, body.clone(), STANDING_BOUND).await;
            let standing = answer.ok().and_then(|body| decode_standing(body).ok());
            if let Some(known) = standing.filter(|standing| *standing != Standing::Unknown) {
                return known;
            }
        }
        Standing::Unknown
    }

    async fn standing_here(&self, id: u64) -> Standing {
        let consensus = &self.consensus;
        if consensus.read_index(STANDING_BOUND).await.is_err() {
            return Standing::Unknown; // I1
        }
        if consensus.has_member(id) {
            Standing::Member(consensus.replica().applied_index())
        } else {
            Standing::Removed
        }
    }

    /// Answers a member that asks for its standing, through the leader if that is another.
    pub(super) async fn answer_standing(&self, from: u64, body: Bytes) -> Vec<u8> {
        let Ok(id) = decode_member_id(body.clone()) else {
            return encode_standing(Standing::Unknown);
        };
        let view = self.consensus.view();
        if view.is_leader {
            return encode_standing(self.standing_here(id).await);
        }
        let leader = view.leader.and_then(|leader| Some((leader, view.members.get(&leader)?)));
        // Only what comes from the member itself is passed on.
        let Some((leader, known)) = leader.filter(|(leader, _)| from == id && *leader != id) else {
            return encode_standing(Standing::Unknown);
        };
        let asked = self.channel(leader, &known.member);
        let answer = asked.call(Method::Standing, body, STANDING_BOUND).await;
        let standing = answer.ok().and_then(|body| decode_standing(body).ok());
        encode_standing(standing.unwrap_or(Standing::Unknown))
    }
}

/// Stops this member, by a fault, once its cluster has gone on without it.
pub async fn watch_standing(cluster: Arc<Cluster>, faults: Faults, directory: String) {
    let silence = cluster.consensus.timing().election();
    loop {
        tokio::time::sleep(STANDING_PERIOD).await;
        let consensus = &cluster.consensus;
        if consensus.view().is_leader || consensus.heard_within(silence) {
            continue;
        }
        if cluster.standing().await == Standing::Removed {
            let reason = format!(
                "this member was removed from its cluster, which goes on without it; to take it in \
                 again move {directory} away and start it with -join ADDRESS, naming a running \
                 member"
            );
            return faults.report_with(EXIT_REMOVED, reason);
        }
    }
}

fn decode_member_id(body: Bytes) -> Result<u64, DecodeError> {
    let mut cursor = Cursor::new(body);
    let id = cursor.u64()?;
    cursor.finish()?;
    Ok(id)
}

fn encode_standing(standing: Standing) -> Vec<u8> {
    let (code, applied) = match standing {
        Standing::Unknown => (0, 0),
        Standing::Member(applied) => (1, applied),
        Standing::Removed => (2, 0),
    };
    let mut out = vec![code];
    out.put_u64_le(applied);
    out
}

fn decode_standing(body: Bytes) -> Result<Standing, DecodeError> {
    let mut cursor = Cursor::new(body);
    let (code, applied) = (cursor.u8()?, cursor.u64()?);
    cursor.finish()?;
    match code {
        0 => Ok(Standing::Unknown),
        1 => Ok(Standing::Member(applied)),
        2 => Ok(Standing::Removed),
        _ => Err(cursor.error("unknown standing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standing_survives_its_bytes() {
        for standing in [Standing::Unknown, Standing::Member(7), Standing::Removed] {
            assert_eq!(decode_standing(encode_standing(standing).into()).unwrap(), standing);
        }
        assert!(decode_standing(Bytes::from_static(&[1])).is_err());
    }
}
