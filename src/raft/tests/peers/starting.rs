//! What a member says and does right after a start, before and while it leads: votes, leases, whom it knows.

use std::sync::atomic::Ordering;

use diskstore_storage::Term;
use tokio::time::Instant;

use super::{BOUND, MEMBER, is_vote_granted, leader, start};
use crate::peer::Method;

#[tokio::test]
async fn an_entry_that_may_never_be_committed_makes_nobody_a_member() {
    let started = start(false).await;
    let known = async {
        while !started.consensus.view().members.contains_key(&MEMBER) {
            started.consensus.changed(BOUND).await;
        }
    };
    tokio::time::timeout(BOUND, known).await.expect("the log names it");
    assert!(!started.consensus.is_named());
    started.consensus.stop().await;
}

/// Whoever asks right after the start would else take it for a member of no cluster: one that was to
/// be silent for an election timeout would campaign at once (H12).
#[tokio::test]
async fn the_members_are_known_as_soon_as_consensus_has_started() {
    for _ in 0..8 {
        let started = start(true).await;
        assert_eq!(started.consensus.view().members.len(), 3);
        started.consensus.stop().await;
    }
}

/// H12: it has forgotten the lease that it granted to the leader before it.
#[tokio::test]
async fn a_voter_that_restarts_gives_no_vote_while_a_lease_may_run() {
    for method in [Method::PreVote, Method::Vote] {
        let restarted = start(true).await;
        assert!(!is_vote_granted(&restarted, method).await);
        assert_eq!(restarted.consensus.wal().state().vote.unwrap().term, Term::new(1));
        restarted.consensus.stop().await;
    }
}

/// The other half of it: nor does it stand for election in place of a leader that may have a lease.
#[tokio::test]
async fn a_voter_that_restarts_campaigns_only_after_a_lease_may_have_run_out() {
    let restarted = start(true).await;
    restarted.consensus.allow_elections().await;
    assert!(Instant::now() >= restarted.consensus.peers.silent_until);
    restarted.consensus.stop().await;
}

#[tokio::test]
async fn a_leader_that_hands_over_trusts_its_lease_no_more() {
    let consensus = leader().await;
    let term = consensus.view().term.get();
    consensus.handing_over_in.store(term - 1, Ordering::Release);
    assert!(consensus.holds_lease(), "that was another leadership");
    consensus.handing_over_in.store(term, Ordering::Release);
    assert!(!consensus.holds_lease(), "the heir may lead already");
    consensus.stop().await;
}

#[tokio::test]
async fn a_leader_whose_slots_are_no_state_that_ever_was_reads_none_of_them() {
    let consensus = leader().await;
    let replica = consensus.replica();
    replica.machine.set_readable_from(replica.applied_index() + 1).unwrap();
    assert!(!consensus.holds_lease());
    consensus.stop().await;
}

#[tokio::test]
async fn a_voter_that_never_ran_before_gives_its_vote_at_once() {
    let new = start(false).await;
    assert!(is_vote_granted(&new, Method::Vote).await);
    // An empty batch may be on its way, which claims the one with the vote.
    assert_eq!(new.consensus.wal().unsynced_bytes(), 0);
    new.consensus.stop().await;
}
