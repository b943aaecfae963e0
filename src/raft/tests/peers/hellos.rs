//! Who is let in, by what a hello says, and what a hello or its answer can end.

use diskstore_storage::{LogId as StoredLogId, MemberId, Term, Vote as StoredVote};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::super::{CLUSTER, membership};
use super::{
    BOUND, MEMBER, OTHER_CLUSTER, PROCESS, forged, nobody, process_of, saying, start, start_as,
    start_with, voters_with,
};
use crate::fault::{EXIT_DATA_LOST, Faults};
use crate::host::{Host, Net};
use crate::peer::{
    Caller, FrameKind, Greeting, Hello, Member, Purpose, Route, Welcome, Whoever, dial, split,
};
use crate::raft::{Consensus, Zone};

/// C17 and F25.
#[tokio::test]
async fn only_members_of_the_cluster_that_mean_this_member_are_let_in() {
    let started = start(false).await;
    let forged = forged(Purpose::Append, &nobody().await);
    let refused = [
        (Hello { cluster_id: OTHER_CLUSTER, ..forged.clone() }, "cluster"),
        (Hello { to: 3, ..forged.clone() }, "not 0000000000000003"),
        (Hello { from: MEMBER, ..forged.clone() }, "this member itself"),
        (
            Hello { from: MEMBER, process: PROCESS, ..forged.clone() },
            "the member itself that dials",
        ),
        (Hello { cluster_id: 0, ..forged }, "only requests to join"),
    ];
    for (hello, reason) in refused {
        let error = dial(&Net::Tcp, &started.address, &hello, None).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains(reason), "{error}");
    }
    started.dial(&started.leader, Purpose::Append, None).await.unwrap();
    assert_eq!(started.faults.current(), None);
    started.consensus.stop().await;
}

/// A hello names its cluster, and so finds the member that it is for among those that share a socket.
#[tokio::test]
async fn members_of_several_clusters_share_a_listener() {
    let one = start(false).await;
    let me = Whoever { cluster_id: OTHER_CLUSTER, member_id: 9, process: PROCESS };
    let other = start_as(me, None, false, &[]).await;
    let shared = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = shared.local_addr().unwrap().to_string();
    let members = [&*one.consensus, &*other.consensus];
    let serving = Consensus::serve_together(&members, shared, Zone::Peers);
    let hello = Hello { to: 77, ..forged(Purpose::Append, &nobody().await) };
    let answers = [
        (CLUSTER, format!("this is member {MEMBER:016x}, not")),
        (OTHER_CLUSTER, "this is member 0000000000000009, not".to_owned()),
        (0x77, format!("this is a member of cluster {CLUSTER:032x}, not")),
    ];
    for (cluster_id, answer) in answers {
        let hello = Hello { cluster_id, ..hello.clone() };
        let error = dial(&Net::Tcp, &address, &hello, None).await.unwrap_err();
        assert!(error.to_string().contains(&answer), "{error}");
    }
    let route = Route::to_member(MEMBER, address, None);
    one.leader.dial(&route, Purpose::Append, None).await.unwrap();
    serving.abort();
    one.consensus.stop().await;
    other.consensus.stop().await;
}

/// Anybody who knows the ids can write a hello: whatever is in it, the member at the address of the
/// log says that it is none of its own.
#[tokio::test]
async fn a_hello_that_its_member_does_not_confirm_is_refused_and_ends_nobody() {
    let started = start(true).await;
    let vote = StoredVote { term: Term::new(1), node_id: MemberId::new(1), committed: true };
    let beyond = Some((vote, StoredLogId { term: Term::new(1), index: 9 }));
    let stolen = started.leader.me().process;
    for purpose in [Purpose::Requests, Purpose::Append, Purpose::Snapshot] {
        for process in [0x66, stolen] {
            let forged = forged(purpose, &nobody().await);
            let hello = Hello { process, acknowledged: beyond, ..forged };
            let error = dial(&Net::Tcp, &started.address, &hello, None).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{error}");
        }
    }
    assert_eq!(started.faults.current(), None);
    assert_eq!(started.consensus.wal().state().vote, Some(vote));
    started.consensus.stop().await;
}

/// F26: the one that the log knows goes on, and the later one is told why it does not.
#[tokio::test]
async fn a_copy_of_a_running_member_is_refused_by_name_and_stops() {
    let started = start(true).await;
    let me = Whoever { process: 0x11, ..started.leader.me() };
    let faults = Faults::new();
    let copy = Caller::new(&Host::real(), me, nobody().await, faults.clone());
    let error = started.dial(&copy, Purpose::Requests, None).await.unwrap_err();
    assert!(error.to_string().contains("0000000000000001 runs already"), "{error}");
    assert!(faults.current().unwrap().reason.contains("a copy of its directory"));
    started.dial(&started.leader, Purpose::Requests, None).await.unwrap();
    assert_eq!(started.faults.current(), None);
    started.consensus.stop().await;
}

/// Whoever listens at an address may say anything.
#[tokio::test]
async fn a_connection_is_used_only_if_the_member_that_is_meant_answers() {
    let me = Whoever { cluster_id: CLUSTER, member_id: 7, process: 0x70 };
    for (cluster_id, member_id) in [(OTHER_CLUSTER, 1), (CLUSTER, 3)] {
        let from = Whoever { cluster_id, member_id, process: 1 };
        let other = saying(from, Some(Welcome { from, answer: Greeting::Accepted })).await;
        let caller = Caller::new(&Host::real(), me, nobody().await, Faults::new());
        let route = Route::to_member(1, other.address.clone(), None);
        let error = caller.dial(&route, Purpose::Requests, None).await.unwrap_err().to_string();
        let named = [(CLUSTER, 1), (cluster_id, member_id)];
        for (cluster_id, member_id) in named {
            assert!(error.contains(&format!("{member_id:016x}")), "{error}");
            assert!(error.contains(&format!("{cluster_id:032x}")), "{error}");
        }
    }
}

/// That a process is a copy is believed only of the member that is meant, where the log has it.
#[tokio::test]
async fn a_word_that_ends_a_process_is_believed_only_from_the_address_of_the_log() {
    let copy = |from| Welcome { from, answer: Greeting::Copy("a copy of its directory".into()) };
    let one = Whoever { cluster_id: CLUSTER, member_id: 1, process: 0x11 };
    // It was found somewhere, and says so there.
    let started = start_with(voters_with(nobody().await), true).await;
    let found = saying(one, Some(copy(one))).await;
    started.dial(&found.caller, Purpose::Requests, None).await.unwrap();
    let route = started.consensus.network.route(1, &Member::default());
    assert_eq!(route.address(), found.address);
    let dialled = started.consensus.caller().dial(&route, Purpose::Append, None).await;
    assert!(dialled.unwrap_err().to_string().contains("a copy of its directory"));
    assert_eq!(started.faults.current(), None);
    started.consensus.stop().await;
    // Somebody else is where the log has it; then the member itself.
    let three = Whoever { member_id: 3, ..one };
    for (from, is_believed) in [(three, false), (one, true)] {
        let there = saying(from, Some(copy(from))).await;
        let started = start_with(voters_with(there.address.clone()), true).await;
        let route = started.consensus.network.route(1, &Member::default());
        let dialled = started.consensus.caller().dial(&route, Purpose::Append, None).await;
        dialled.unwrap_err();
        assert_eq!(started.faults.current().is_some(), is_believed);
        started.consensus.stop().await;
    }
}

/// Claims in the name of a member, at addresses where nobody ever answers, are looked into for as long
/// as that takes. The member itself, where the log has it, does not wait behind them.
#[tokio::test]
async fn slow_claims_in_the_name_of_a_member_do_not_keep_it_out() {
    let started = start(false).await;
    let slow = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = slow.local_addr().unwrap().to_string();
    let (mut forging, mut asked) = (JoinSet::new(), Vec::new());
    for _ in 0..16 {
        let (to, hello) = (started.address.clone(), forged(Purpose::Append, &address));
        forging.spawn(async move { dial(&Net::Tcp, &to, &hello, None).await.map(drop) });
    }
    let mut ended = 0;
    while asked.len() + ended < 16 {
        tokio::select! {
            accepted = slow.accept() => asked.push(accepted.unwrap()),
            Some(dialled) = forging.join_next() => {
                dialled.unwrap().unwrap_err();
                ended += 1;
            }
        }
    }
    started.dial(&started.leader, Purpose::Append, None).await.unwrap();
    started.consensus.stop().await;
}

/// Whoever takes over the address that a member had gets hellos that are meant for it, and can pass
/// them on: they are confirmed to the member that they are meant for alone.
#[tokio::test]
async fn a_hello_that_was_passed_on_is_not_confirmed() {
    let started = start(true).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route = Route::to_member(3, listener.local_addr().unwrap().to_string(), None);
    let passing_on = async {
        let (mut reader, _writer) = split(listener.accept().await.unwrap().0).unwrap();
        let hello = Hello::decode(reader.expect(FrameKind::Hello).await.unwrap()).unwrap();
        dial(&Net::Tcp, &started.address, &Hello { to: MEMBER, ..hello }, None).await.unwrap_err()
    };
    let error = tokio::select! {
        error = passing_on => error,
        dialled = started.leader.dial(&route, Purpose::Append, None) => panic!("{dialled:?}"),
    };
    assert!(error.to_string().contains("confirms"), "{error}");
    started.consensus.stop().await;
}

/// H14: it was wiped and founded a cluster of its own. A stranger that says so is asked back.
#[tokio::test]
async fn a_lone_member_stops_only_for_a_member_of_another_cluster_that_is_one() {
    let started = start_with(membership(&[MEMBER]), false).await;
    started.leads().await;
    let (other, address) = process_of(OTHER_CLUSTER, 7, 0x70).await;
    for address in [nobody().await, address, started.address.clone()] {
        let hello =
            Hello { cluster_id: OTHER_CLUSTER, from: 7, ..forged(Purpose::Append, &address) };
        let error = dial(&Net::Tcp, &started.address, &hello, None).await.unwrap_err();
        assert!(error.to_string().contains("this is a member of cluster"), "{error}");
    }
    assert_eq!(started.faults.current(), None);
    started.dial(&other, Purpose::Append, None).await.unwrap_err();
    let fault = tokio::time::timeout(BOUND, started.faults.wait()).await.unwrap();
    assert!(fault.reason.contains("probably wiped"), "{}", fault.reason);
    started.consensus.stop().await;
}

/// C16 and F26: its disk lost what it had acknowledged, so its vote may not count any more.
#[tokio::test]
async fn a_member_whose_log_went_backwards_stops_with_its_own_exit_code() {
    let started = start(true).await;
    let vote = StoredVote { term: Term::new(1), node_id: MemberId::new(1), committed: true };
    let told = |vote, index| {
        let acknowledged = Some((vote, StoredLogId { term: Term::new(1), index }));
        started.dial(&started.leader, Purpose::Append, acknowledged)
    };
    told(vote, 2).await.unwrap();
    // Under another vote a shorter log is healthy: its tail was truncated.
    told(StoredVote { term: Term::new(7), ..vote }, 9).await.unwrap();
    assert_eq!(started.faults.current(), None);
    told(vote, 9).await.unwrap_err();
    let fault = tokio::time::timeout(BOUND, started.faults.wait()).await.unwrap();
    assert_eq!(fault.exit_code, EXIT_DATA_LOST);
    assert!(fault.reason.contains("lost acknowledged data"), "{}", fault.reason);
    started.consensus.stop().await;
}
