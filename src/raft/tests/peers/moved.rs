//! Members at other addresses than the log has: they are found, and not believed too much.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use diskstore_storage::{LogId as StoredLogId, MemberId, Term, Vote as StoredVote};
use tokio::net::TcpListener;

use super::super::CLUSTER;
use super::{
    BOUND, MEMBER, heartbeat, is_believed, nobody, process_of, saying, set, start_with, voters_at,
    voters_with,
};
use crate::command::{Command, Failure, ReadLevel};
use crate::peer::requests::{put_request, put_response, read_request, read_response};
use crate::peer::{
    Connection, FrameKind, Greeting, Member, Method, Purpose, Welcome, Whoever, decode_results,
    encode_commands,
};
use crate::raft::types::{Membership, put_append};

/// An address is not an identity: where nobody answers at the one that the log has, the member is
/// where its hello says. That is worth a connection, and ends no node.
#[tokio::test]
async fn a_member_that_moved_is_let_in_and_found_and_believed_no_loss_of_data() {
    let started = start_with(voters_with(nobody().await), true).await;
    let (moved, address) = process_of(CLUSTER, 1, 0x11).await;
    started.dial(&moved, Purpose::Append, None).await.unwrap();
    let route = started.consensus.network.route(1, &Member::default());
    assert_eq!(route.address(), address);
    let vote = StoredVote { term: Term::new(1), node_id: MemberId::new(1), committed: true };
    let beyond = Some((vote, StoredLogId { term: Term::new(1), index: 9 }));
    let error = started.dial(&moved, Purpose::Append, beyond).await.unwrap_err();
    assert!(error.to_string().contains("believed only of its leader"), "{error}");
    assert_eq!(started.faults.current(), None);
    started.consensus.stop().await;
}

/// The address that the log has is worth more than one that was only found: where another process
/// answers at that, nobody can know which of the two is the member. Neither is told to stop, and the
/// later one may have its address written to the log, and nothing else.
#[tokio::test]
async fn a_member_that_moved_again_is_no_copy_of_what_answers_where_it_was_found() {
    let started = start_with(voters_with(nobody().await), true).await;
    let (found, _address) = process_of(CLUSTER, 1, 0x11).await;
    started.dial(&found, Purpose::Append, None).await.unwrap();
    let moved = saying(Whoever { process: 0x12, ..found.me() }, None).await;
    let error = started.dial(&moved.caller, Purpose::Append, None).await.unwrap_err();
    assert!(error.to_string().contains("another process answers"), "{error}");
    assert_eq!(moved.faults.current(), None);
    let dialled = started.dial(&moved.caller, Purpose::Requests, None).await;
    let (mut reader, mut writer) = dialled.unwrap();
    // Nothing is proposed of what it forwards, and it hears so: its clients need not wonder.
    let body = encode_commands(&[Command::default(), set(1)], ReadLevel::Log);
    for method in [Method::Write, Method::Read] {
        put_request(&mut writer.buffer, 7, method, &body);
        writer.send().await.unwrap();
        let answer = read_response(reader.expect(FrameKind::Response).await.unwrap()).unwrap();
        let results = decode_results(answer.1, 2).unwrap();
        assert!(matches!(results[..], [Err(Failure::NotLeader { .. }), Err(_)]), "{results:?}");
    }
    put_request(&mut writer.buffer, 1, Method::Vote, b"");
    writer.send().await.unwrap();
    assert!(reader.next().await.unwrap().is_none(), "it is closed");
    started.consensus.stop().await;
}

/// A connection to where a member was found does not outlive that it was found elsewhere.
#[tokio::test]
async fn a_connection_to_where_a_member_is_no_more_is_not_used_again() {
    let started = start_with(voters_with(nobody().await), true).await;
    let one = Whoever { cluster_id: CLUSTER, member_id: 1, process: 0x11 };
    let accepted = |from| Some(Welcome { from, answer: Greeting::Accepted });
    let mut first = saying(one, accepted(one)).await;
    started.dial(&first.caller, Purpose::Append, None).await.unwrap();
    let channel = started.consensus.network.channel(1, &Member::default());
    let call = || channel.call(Method::LogSpace, Bytes::new(), BOUND);
    let answer = |(_, (mut reader, mut writer)): (Whoever, Connection)| async move {
        let (id, _, _) = read_request(reader.expect(FrameKind::Request).await.unwrap()).unwrap();
        put_response(&mut writer.buffer, id, b"yes");
        writer.send().await.unwrap();
        (reader, writer)
    };
    let at_first = async { answer(first.taken.recv().await.unwrap()).await };
    let (called, _open) = tokio::join!(call(), at_first);
    called.unwrap();
    let _still_open = first.leaves().await;
    let mut second = saying(one, accepted(one)).await;
    started.dial(&second.caller, Purpose::Append, None).await.unwrap();
    let at_second = async { answer(second.taken.recv().await.unwrap()).await };
    let both = async { tokio::join!(call(), at_second) };
    let (called, _open) = tokio::time::timeout(BOUND, both).await.expect("it is dialled there");
    called.unwrap();
    started.consensus.stop().await;
}

/// Neither the log's address nor the one where it was found answers, and neither refuses: whoever waited
/// for one after the other would be given up.
#[tokio::test]
async fn a_member_that_moved_twice_is_let_in_though_both_old_addresses_are_silent() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (three, address) = process_of(CLUSTER, 3, 0x30).await;
    let logged = silent.local_addr().unwrap().to_string();
    let started = start_with(voters_at(logged, address), false).await;
    let one = Whoever { cluster_id: CLUSTER, member_id: 1, process: 0x11 };
    let first = saying(one, None).await;
    started.dial(&first.caller, Purpose::Requests, None).await.unwrap();
    let found = first.address.clone();
    drop(first.leaves().await);
    let _silent_too = TcpListener::bind(&found).await.unwrap();
    let leads = StoredVote { term: Term::new(2), node_id: MemberId::new(3), committed: true };
    let dialled = started.dial(&three, Purpose::Append, None).await;
    let (mut reader, mut writer) = dialled.unwrap();
    put_append(writer.for_append(), heartbeat(leads));
    writer.send().await.unwrap();
    reader.expect(FrameKind::AppendReply).await.unwrap();
    let second = saying(Whoever { process: 0x12, ..one }, None).await;
    started.dial(&second.caller, Purpose::Requests, None).await.unwrap();
    assert_eq!(started.faults.current(), None);
    started.consensus.stop().await;
}

/// A member that moved can have its address registered while somebody leads, and has no need to be
/// believed before: it may be anybody who listens there in the name of one that does not run.
#[tokio::test]
async fn a_member_that_moved_is_not_believed_while_another_leads() {
    let (three, address) = process_of(CLUSTER, 3, 0x30).await;
    let started = start_with(voters_at(nobody().await, address), false).await;
    let (moved, _address) = process_of(CLUSTER, 1, 0x11).await;
    let connected = started.dial(&moved, Purpose::Append, None).await;
    let (mut old_reader, mut old_writer) = connected.expect("nobody leads");
    let leads = StoredVote { term: Term::new(2), node_id: MemberId::new(3), committed: true };
    let connected = started.dial(&three, Purpose::Append, None).await;
    let (mut reader, mut writer) = connected.unwrap();
    put_append(writer.for_append(), heartbeat(leads));
    writer.send().await.unwrap();
    reader.expect(FrameKind::AppendReply).await.unwrap();
    assert!(!is_believed(&started, &moved).await);
    let forged = StoredVote { term: Term::new(9), node_id: MemberId::new(1), committed: true };
    put_append(old_writer.for_append(), heartbeat(forged));
    old_writer.send().await.unwrap();
    assert!(old_reader.next().await.unwrap().is_none(), "it is closed");
    assert_eq!(started.consensus.wal().state().vote, Some(leads));
    assert!(is_believed(&started, &three).await);
    started.consensus.stop().await;
}

/// The same of the one that leads.
#[tokio::test]
async fn a_leader_believes_no_member_that_moved_and_finds_none_that_is_not_registered() {
    let gone = nobody().await;
    let follower = Member { raft_address: gone.clone(), ..Member::default() };
    let nodes = BTreeMap::from([(MEMBER, Member::default()), (1, follower)]);
    let members = Membership::new(vec![BTreeSet::from([MEMBER])], nodes).unwrap();
    let started = start_with(members, false).await;
    started.leads().await;
    let (moved, _address) = process_of(CLUSTER, 1, 0x11).await;
    assert!(!is_believed(&started, &moved).await);
    assert_eq!(started.consensus.network.route(1, &Member::default()).address(), gone);
    started.consensus.stop().await;
}
