//! Schedules that are written down, each aimed at one rule: it holds with the rule, and not without.

use bytes::Bytes;

use super::super::clock::Version;
use super::super::operation::{Errand, Level};
use super::super::rules::{Rule, Rules};
use super::checker::Fault;
use super::world::World;

type Outcome = Result<(), Fault>;

/// All clocks are two hours ahead while there are writes, fences and restarts, and are then put right. Writes go on, through each
/// node, also through one that is started again.
#[test]
fn clocks_that_were_ahead_and_are_put_right_stop_no_write() {
    const AHEAD_MS: i64 = 7_200_000;
    const FENCE_LAG_MS: i64 = 60_000;
    for is_written in [true, false] {
        let mut world = World::scripted(Rules::default());
        let mut all = || -> Outcome {
            world.set_clocks(AHEAD_MS);
            for node in 1..=3 {
                if is_written {
                    world.op(node, set("x"), Level::Quorum)?;
                    world.flow(ALL)?;
                }
            }
            for (node, from) in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)] {
                world.confirm(node, from)?;
            }
            world.set_clocks(FENCE_LAG_MS); // a fence is put behind the time
            for node in 1..=3 {
                world.raise_ceiling(node)?;
            }
            world.set_clocks(-AHEAD_MS);
            let written = world.counts.written;
            for node in 1..=3 {
                world.op(node, set("y"), Level::All)?;
                world.flow(ALL)?;
                world.turn_back(node, 0);
                world.op(node, set("z"), Level::All)?;
                world.flow(ALL)?;
            }
            assert_eq!(world.counts.written, written + 6, "{:?}", world.counts);
            Ok(())
        };
        assert_eq!(all(), Ok(()));
    }
}

/// All pairs of nodes.
const ALL: &str = "11 12 13 21 22 23 31 32 33";

fn set(value: &'static str) -> Errand {
    Errand::Set(Bytes::from_static(value.as_bytes()))
}

fn assert_aimed(rule: Rule, schedule: impl Fn(&mut World) -> Outcome) {
    assert_eq!(schedule(&mut World::scripted(Rules::default())), Ok(()));
    let fault = schedule(&mut World::scripted(Rules::without(rule))).unwrap_err();
    assert!(fault.contains("read") || fault.contains("is given to"), "{fault}");
}

/// Node 1 has sent a write to node 2, and crashes before it has synced its own copy. It starts a
/// millisecond before that.
#[test]
fn a_clock_set_back_would_give_a_version_twice() {
    assert_aimed(Rule::Ceiling, |world| {
        world.op(1, set("x"), Level::One)?;
        world.flow("12 21")?;
        world.lose_messages();
        world.turn_back(1, 1); // the next operation is a millisecond later
        world.op(1, set("y"), Level::One)?;
        world.flow(ALL)
    });
}

/// Decision 214: a replica acknowledges, loses its disk and copies from the others, before these store the write.
#[test]
fn the_word_of_a_lost_disk_would_count() {
    assert_aimed(Rule::WordOfLost, |world| {
        world.op(2, set("x"), Level::Quorum)?;
        world.flow("23 32")?;
        world.flow("21 12")?; // two have answered, and node 1 has stored it
        world.lose_and_copy(1)?;
        world.flow("22")?; // now the coordinator has, too
        world.op(3, Errand::Get, Level::Quorum)?;
        world.flow("33 31 13")
    });
}

/// Nodes 2 and 3 have deleted what node 1, which was away, still holds. Node 2 has forgotten the
/// delete; node 3 has not, so it takes what node 1 holds for older than its own, and says so.
#[test]
fn an_answer_of_who_missed_a_delete_would_count() {
    assert_aimed(Rule::ConfirmedAnswers, |world| {
        world.op(1, set("old"), Level::All)?;
        world.flow(ALL)?;
        world.stop(1);
        world.op(2, Errand::Delete, Level::Quorum)?;
        world.flow("22 23 32 33")?;
        world.confirm(2, 3)?;
        world.confirm(3, 2)?;
        world.hear(2)?;
        assert_eq!(world.version(2), Version::NONE, "forgotten");
        assert_ne!(world.version(3), Version::NONE);
        world.restart(1);
        world.lose_messages();
        world.op(1, Errand::Get, Level::Quorum)?;
        world.flow("11 12 21")?;
        world.flow("13 31")
    });
}

/// A value that was read is on its way to node 2 still when all have deleted it and forgotten that.
#[test]
fn a_late_copy_would_bring_a_deleted_value_back() {
    assert_aimed(Rule::FloorRefuses, |world| {
        world.op(1, set("old"), Level::One)?;
        world.flow("11")?;
        world.lose_messages();
        world.op(1, Errand::Get, Level::Quorum)?;
        world.flow("11 13 31")?; // written back to node 3, not to 2 yet
        world.hold();
        world.op(3, Errand::Delete, Level::Quorum)?;
        world.flow(ALL)?;
        for (node, from) in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)] {
            world.confirm(node, from)?;
        }
        for node in 1..=3 {
            world.hear(node)?;
            assert_eq!(world.version(node), Version::NONE, "forgotten");
        }
        world.release();
        world.flow(ALL)?;
        world.op(2, Errand::Get, Level::Quorum)?;
        world.flow(ALL)
    });
}

/// A delete is slow: nodes 1 and 2 get it when all have confirmed a later moment, node 3 does not.
/// Node 2 forgets it. A read of nodes 2 and 3 then finds what was deleted, and node 1 acknowledges the
/// write-back because it holds more.
#[test]
fn a_slow_delete_would_be_forgotten_before_all_have_it() {
    assert_aimed(Rule::Fence, |world| {
        world.op(1, set("old"), Level::All)?;
        world.flow(ALL)?;
        world.op(1, Errand::Delete, Level::Quorum)?;
        world.flow("13 31")?;
        world.flow_some("12 21", 2)?; // two have answered: the stores are on their way
        world.hold();
        for (node, from) in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)] {
            world.confirm(node, from)?;
        }
        world.release();
        world.flow("11 12 21")?; // node 3 misses it
        world.lose_messages();
        world.hear(2)?;
        world.op(3, Errand::Get, Level::Quorum)?;
        world.flow("33 32 23")?;
        world.flow("31 13")
    });
}

/// Node 1 was away while the others deleted what it holds and forgot the delete, and is up again.
fn sleep_through_a_delete(world: &mut World) -> Outcome {
    world.op(1, set("old"), Level::All)?;
    world.flow(ALL)?;
    world.stop(1);
    world.op(2, Errand::Delete, Level::Quorum)?;
    world.flow("22 23 32 33")?;
    world.confirm(2, 3)?;
    world.confirm(3, 2)?;
    world.hear(2)?;
    world.hear(3)?;
    assert_eq!((world.version(2), world.version(3)), (Version::NONE, Version::NONE), "forgotten");
    world.lose_messages();
    world.restart(1);
    Ok(())
}

/// It hears of the floor, pulls from both, which have nothing that it lacks, and has confirmed.
#[test]
fn a_replica_that_was_away_would_bring_a_deleted_value_back() {
    assert_aimed(Rule::BehindIsSilent, |world| {
        sleep_through_a_delete(world)?;
        world.hear(1)?;
        world.confirm(1, 2)?;
        world.confirm(1, 3)?;
        world.op(2, Errand::Get, Level::Quorum)?;
        world.flow("22 21 12")
    });
}

/// It pulls before it hears of the floor, so that the floor is nothing new when it does.
#[test]
fn a_pull_before_the_floors_are_told_would_confirm_too_much() {
    assert_aimed(Rule::FloorsFirst, |world| {
        sleep_through_a_delete(world)?;
        world.confirm(1, 2)?;
        world.confirm(1, 3)?;
        world.hear(1)?;
        world.op(2, Errand::Get, Level::Quorum)?;
        world.flow("22 21 12")
    });
}

/// The others have the note that the cluster began with node 1, whose disk is another one now.
#[test]
fn a_lost_disk_would_be_taken_for_the_one_that_the_cluster_began_with() {
    assert_aimed(Rule::FoundersByNumber, |world| {
        world.op(2, set("x"), Level::Quorum)?;
        world.flow("22 21 12")?;
        world.lose_messages();
        world.lose_and_copy(1)?;
        world.op(3, Errand::Get, Level::Quorum)?;
        world.flow("33 31 13")
    });
}

/// Node 1 loses its disk twice, and both losses are accepted. If the others have not heard of the first, the second is
/// counted as the first was: node 1 is the same writer again, without its ceiling.
#[test]
fn an_accepted_loss_that_nobody_heard_of_would_give_a_version_twice() {
    let schedule = |is_heard: bool| -> Outcome {
        let world = &mut World::scripted(Rules::default());
        world.lose_and_accept(1, 0)?;
        if is_heard {
            world.hear(2)?;
        }
        world.op(1, set("x"), Level::One)?;
        world.flow("12 21")?;
        world.lose_messages();
        world.lose_and_accept(1, 1)?; // the next operation is a millisecond later
        world.op(1, set("y"), Level::One)?;
        world.flow(ALL)
    };
    assert_eq!(schedule(true), Ok(()));
    let fault = schedule(false).unwrap_err();
    assert!(fault.contains("is given to"), "{fault}");
}
