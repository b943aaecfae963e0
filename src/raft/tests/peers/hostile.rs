//! What a member that was let in may send: whatever it is, openraft does not panic.

use std::time::Duration;

use diskstore_storage::state;
use diskstore_storage::{LogId as StoredLogId, MemberId, Term, Vote as StoredVote};
use openraft::raft::{AppendEntriesRequest, VoteRequest};

use super::super::{blank, log_id, membership};
use super::{BOUND, MEMBER, Started, heartbeat, is_vote_granted, start};
use crate::peer::append::AppendReply;
use crate::peer::requests::put_request;
use crate::peer::votes::encode_backs;
use crate::peer::{Channel, FrameKind, Method, Purpose};
use crate::raft::types::{TypeConfig, ballot_to, encode_membership, put_append, vote_from};
use crate::replica::snapshot_frames::{SnapshotBegin, SnapshotEnd};

/// A term of this size would be the last one: nobody could be elected any more.
#[tokio::test]
async fn a_vote_of_another_or_of_an_impossible_term_ends_its_connection_alone() {
    let started = start(false).await;
    let before = started.consensus.wal().state().vote;
    for (term, node_id) in [(u64::MAX, 1), (1 << 33, 1), (5, 3)] {
        let vote = vote_from(StoredVote {
            term: Term::new(term),
            node_id: MemberId::new(node_id),
            committed: false,
        });
        let request = ballot_to(&VoteRequest::<TypeConfig>::new(vote, Some(log_id(1, 9)))).encode();
        for method in [Method::Vote, Method::PreVote] {
            let dialled = started.dial(&started.leader, Purpose::Requests, None).await;
            let (mut reader, mut writer) = dialled.unwrap();
            put_request(&mut writer.buffer, 1, method, &request);
            writer.send().await.unwrap();
            assert!(reader.next().await.unwrap().is_none(), "it is closed");
        }
        let vote = vote_from(StoredVote {
            term: Term::new(term),
            node_id: MemberId::new(node_id),
            committed: true,
        });
        let append = AppendEntriesRequest {
            vote,
            prev_log_id: Some(log_id(1, 2)),
            entries: Vec::new(),
            leader_commit: None,
        };
        let dialled = started.dial(&started.leader, Purpose::Append, None).await;
        let (mut reader, mut writer) = dialled.unwrap();
        put_append(writer.for_append(), append);
        writer.send().await.unwrap();
        assert!(reader.next().await.unwrap().is_none(), "it is closed");
    }
    assert_eq!(started.consensus.wal().state().vote, before);
    assert!(is_vote_granted(&started, Method::Vote).await, "a possible one is answered");
    assert_eq!(started.faults.current(), None);
    started.consensus.stop().await;
}

/// I4 of `raft/reads.rs`
///
/// A later vote is noted before it is answered.
#[tokio::test]
async fn a_member_backs_the_leader_of_its_last_vote_and_nobody_else() {
    let started = start_committed().await;
    let vote = |term, node_id| StoredVote {
        term: Term::new(term),
        node_id: MemberId::new(node_id),
        committed: true,
    };
    let channel = Channel::new(started.leader.clone(), started.route());
    let ask = async |vote| {
        let question = encode_backs(&vote).into();
        channel.call(Method::Backs, question, BOUND).await.unwrap()
    };
    assert_eq!(ask(vote(1, 1)).await[..], [1]);
    let unheard = StoredVote { committed: false, ..vote(1, 1) };
    assert_eq!(ask(unheard).await[..], [1], "whether it won is nothing to this member");
    for (term, node_id) in [(0, 1), (2, 1), (1, 3), (5, 1)] {
        assert_eq!(ask(vote(term, node_id)).await[..], [0], "{term} {node_id}");
    }
    let granted = async {
        while !is_vote_granted(&started, Method::Vote).await {
            tokio::time::sleep(Duration::from_millis(50)).await; // it has heard its leader just now
        }
    };
    tokio::time::timeout(BOUND, granted).await.expect("its lease runs out");
    assert_eq!(ask(vote(1, 1)).await[..], [0]);
    assert_eq!(ask(vote(5, 1)).await[..], [1]);
    let garbage = channel.call(Method::Backs, vec![1; 3].into(), BOUND).await;
    assert!(garbage.is_err());
    assert_eq!(started.faults.current(), None);
    started.consensus.stop().await;
}

/// A member whose log ends at index 2 of term 1, which is committed and applied.
async fn start_committed() -> Started {
    let started = start(false).await;
    let leads = StoredVote { term: Term::new(1), node_id: MemberId::new(1), committed: true };
    let dialled = started.dial(&started.leader, Purpose::Append, None).await;
    let (mut reader, mut writer) = dialled.unwrap();
    let append = AppendEntriesRequest { leader_commit: Some(log_id(1, 2)), ..heartbeat(leads) };
    put_append(writer.for_append(), append);
    writer.send().await.unwrap();
    reader.expect(FrameKind::AppendReply).await.unwrap();
    let applied = started.consensus.replica().wait_applied(2);
    tokio::time::timeout(BOUND, applied).await.expect("it is committed");
    started
}

/// openraft takes them for a store that is damaged, and panics.
#[tokio::test]
async fn entries_and_snapshots_that_contradict_what_is_committed_end_their_connection_alone() {
    let started = start_committed().await;
    let vote = StoredVote { term: Term::new(5), node_id: MemberId::new(1), committed: true };
    for (term, index) in [(5, 1), (5, 2)] {
        let dialled = started.dial(&started.leader, Purpose::Snapshot, None).await;
        let (mut reader, mut writer) = dialled.unwrap();
        let log_id = StoredLogId { term: Term::new(term), index };
        let body = encode_membership(&membership(&[MEMBER]));
        let membership = state::Membership { log_id: Some(log_id), body };
        let (readable_from, last_log, horizon) = (index, index, 0);
        SnapshotBegin { vote, log_id, membership, readable_from, last_log, horizon }
            .put(&mut writer.buffer);
        SnapshotEnd { frames: 0, slots: 0, applied: index, last_log }.put(&mut writer.buffer);
        writer.send().await.unwrap();
        assert!(reader.next().await.unwrap().is_none(), "it is closed");
    }
    for (prev, entries) in [(1, vec![]), (2, vec![]), (0, vec![blank(5, 1)])] {
        let dialled = started.dial(&started.leader, Purpose::Append, None).await;
        let (mut reader, mut writer) = dialled.unwrap();
        let term = if prev == 0 { 1 } else { 5 };
        let prev_log_id = Some(log_id(term, prev));
        put_append(
            writer.for_append(),
            AppendEntriesRequest { prev_log_id, entries, ..heartbeat(vote) },
        );
        writer.send().await.unwrap();
        assert!(reader.next().await.unwrap().is_none(), "it is closed");
    }
    // One of a vote that is no more is told so, for it may have what was never committed.
    let (mut reader, mut writer) =
        started.dial(&started.leader, Purpose::Append, None).await.unwrap();
    put_append(
        writer.for_append(),
        AppendEntriesRequest { leader_commit: None, ..heartbeat(vote) },
    );
    writer.send().await.unwrap();
    reader.expect(FrameKind::AppendReply).await.unwrap();
    let old = StoredVote { term: Term::new(0), ..vote };
    let entries = vec![blank(0, 0), blank(0, 1), blank(0, 2)];
    put_append(
        writer.for_append(),
        AppendEntriesRequest { prev_log_id: None, entries, ..heartbeat(old) },
    );
    writer.send().await.unwrap();
    let told = AppendReply::decode(reader.expect(FrameKind::AppendReply).await.unwrap()).unwrap();
    assert_eq!(told, AppendReply::HigherVote(vote));
    is_vote_granted(&started, Method::Vote).await; // it answers
    assert_eq!(started.faults.current(), None);
    started.consensus.stop().await;
}
