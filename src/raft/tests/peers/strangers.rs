//! Members that the log does not know: who vouches for them, and what they may do without that.

use std::collections::BTreeMap;
use std::time::Duration;

use diskstore_storage::{MemberId, Term, Vote as StoredVote};
use openraft::raft::AppendEntriesRequest;

use super::super::{CLUSTER, log_id};
use super::{
    BOUND, MEMBER, Process, heartbeat, is_believed, nobody, process_of, saying, start_joined,
    start_with, voters_with,
};
use crate::peer::requests::{encode_whereabouts_reply, put_response, read_request};
use crate::peer::{FrameKind, Greeting, Member, Method, Purpose, Welcome, Whoever};
use crate::raft::types::{Membership, put_append};

/// Member 1, which says that any other member is at this address.
async fn vouching_for(address: &str) -> String {
    let me = Whoever { cluster_id: CLUSTER, member_id: 1, process: 0x10 };
    let Process { mut taken, address: own, .. } =
        saying(me, Some(Welcome { from: me, answer: Greeting::Accepted })).await;
    let address = address.to_owned();
    tokio::spawn(async move {
        while let Some((_, (mut reader, mut writer))) = taken.recv().await {
            let Ok(body) = reader.expect(FrameKind::Request).await else { continue };
            let (id, method, _) = read_request(body).unwrap();
            assert_eq!(method, Method::Whereabouts);
            put_response(&mut writer.buffer, id, &encode_whereabouts_reply(&address));
            drop(writer.send().await); // whoever asked may have gone
        }
    });
    own
}

/// Whoever can send a hello can listen, too, and say that it is his own.
#[tokio::test]
async fn a_stranger_with_an_id_that_no_member_vouches_for_may_only_ask_to_join() {
    let (stranger, address) = process_of(CLUSTER, 9, 0x90).await;
    let (_, elsewhere) = process_of(CLUSTER, 9, 0x91).await;
    let nowhere = nobody().await;
    for said in ["", &*nowhere, &*elsewhere] {
        let members = voters_with(vouching_for(said).await);
        let started = start_joined(Some(members), true, &[nobody().await]).await;
        assert!(!is_believed(&started, &stranger).await, "{said}");
        started.consensus.stop().await;
    }
    // Nobody is there to ask.
    let started = start_with(voters_with(nobody().await), true).await;
    assert!(!is_believed(&started, &stranger).await);
    assert_eq!(started.faults.current(), None);
    started.consensus.stop().await;
    // One that was away for long follows a leader that it does not know, if one that it knows does,
    // or one that it was told of.
    let voucher = vouching_for(&address).await;
    let cases = [(voucher.clone(), nobody().await), (nobody().await, voucher)];
    for (logged, target) in cases {
        let members = voters_with(logged);
        let started = start_joined(Some(members), false, &[target]).await;
        assert!(is_believed(&started, &stranger).await);
        started.consensus.stop().await;
    }
}

/// It has joined, and waits for whoever leads: it cannot know who that is.
#[tokio::test]
async fn a_member_without_any_log_follows_whoever_comes() {
    let (leader, _address) = process_of(CLUSTER, 9, 0x90).await;
    let started = start_joined(None, false, &[]).await;
    assert!(is_believed(&started, &leader).await);
    started.consensus.stop().await;
}

/// From then on it can ask those that its log names; the first comer may be anybody.
#[tokio::test]
async fn the_first_comer_is_believed_no_more_once_the_log_names_others() {
    for is_named in [true, false] {
        let (first, address) = process_of(CLUSTER, 9, 0x90).await;
        let started = start_joined(None, false, &[]).await;
        let dialled = started.dial(&first, Purpose::Append, None).await;
        let (mut reader, mut writer) = dialled.unwrap();
        let id = if is_named { 9 } else { 1 };
        let at = Member { raft_address: address, ..Member::default() };
        let nodes = BTreeMap::from([(id, at), (MEMBER, Member::default())]);
        let members = Membership::new(vec![nodes.keys().copied().collect()], nodes).unwrap();
        let entries = vec![openraft::entry::RaftEntry::new_membership(log_id(1, 0), members)];
        let leads = heartbeat(StoredVote {
            term: Term::new(1),
            node_id: MemberId::new(9),
            committed: true,
        });
        let append = AppendEntriesRequest { prev_log_id: None, entries, ..leads.clone() };
        put_append(writer.for_append(), append);
        writer.send().await.unwrap();
        reader.expect(FrameKind::AppendReply).await.unwrap();
        let known = async {
            while started.consensus.view().members.is_empty() {
                started.consensus.changed_data(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(BOUND, known).await.expect("its log names somebody");
        let prev_log_id = Some(log_id(1, 0));
        put_append(writer.for_append(), AppendEntriesRequest { prev_log_id, ..leads });
        writer.send().await.unwrap();
        assert_eq!(reader.next().await.unwrap().is_some(), is_named);
        assert_eq!(is_believed(&started, &first).await, is_named);
        started.consensus.stop().await;
    }
}
