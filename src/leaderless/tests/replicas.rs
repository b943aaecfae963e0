//! One replica at a time, told what to store by hand.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::super::clock::{Moment, NodeNumber, SKEW_MS_MAX, Version};
use super::super::message::{Answer, Asker, Content, Held, OperationId, Origin, Response, Store};
use super::super::replica::{Floor, Logged, Lost, Numbers, Replica, ReplicaEffect, Standing};
use super::super::rules::{Rule, Rules};

const NOW: Moment = Moment::new(200_000_000_000);
/// A copy from who knows no floor.
const COPY: Origin = Origin::Copy { floor: Moment::new(0) };
const KEY: Bytes = Bytes::from_static(b"k");

fn node(number: u16) -> NodeNumber {
    NodeNumber::new(number).unwrap()
}

fn open(numbers: Numbers) -> Replica {
    Replica::open(node(1), &[node(1), node(2), node(3)], numbers, Rules::default())
}

fn asker(operation: u64) -> Asker {
    Asker { node: node(2), operation: OperationId(operation) }
}

fn at(moment: Moment, counter: u64) -> Version {
    Version::from_number(moment.get() << 22 | counter << 10 | 2)
}

fn held(version: Version, value: &'static str) -> Held {
    Held { version, value: Some(Bytes::from_static(value.as_bytes())) }
}

/// What a store of a replica does, as letters: `w` a record is written, `s` it is acknowledged, or
/// the refusal.
fn store(replica: &mut Replica, known: &Held, new: Held, origin: Origin) -> String {
    let store = Store { key: KEY, held: new, origin };
    letters(&replica.store(asker(1), &store, known, NOW))
}

fn letters(effects: &[ReplicaEffect]) -> String {
    let letter = |effect: &ReplicaEffect| match effect {
        ReplicaEffect::Write(Logged::Record { .. }) => "w".to_owned(),
        ReplicaEffect::Write(Logged::Numbers(_)) => "n".to_owned(),
        ReplicaEffect::Respond { response: Response::Stored { .. }, .. } => "s".to_owned(),
        ReplicaEffect::Respond { response: Response::Answer(answer), .. } => {
            format!("a{}", answer.version.get() >> 10 & 0xfff)
        }
        ReplicaEffect::Respond { response: Response::Refused(refusal), .. } => {
            format!("{refusal:?}")
        }
        ReplicaEffect::Respond { response: Response::Pulled(_), .. } => "p".to_owned(),
        ReplicaEffect::CeilingIsDurable(_) => "c".to_owned(),
        ReplicaEffect::Forget(_) => "f".to_owned(),
    };
    effects.iter().map(letter).collect::<Vec<_>>().join(" ")
}

fn bare(moment: Moment) -> Floor {
    Floor { moment, ..Floor::default() }
}

/// Confirms with both others.
fn confirm(replica: &mut Replica, moment: Moment) {
    replica.confirm_with(node(2), moment);
    replica.confirm_with(node(3), moment);
    replica.synced(2);
}

fn new() -> Origin {
    Origin::New { base: Version::NONE }
}

/// V3 of `leaderless/replica.rs`
#[test]
fn nothing_is_answered_before_it_is_synced() {
    let mut replica = open(Numbers::default());
    let first = held(at(NOW, 1), "one");
    assert_eq!(store(&mut replica, &Held::default(), first.clone(), new()), "w");
    assert_eq!(letters(&replica.ask(asker(2), &KEY, &first, true)), "", "it may be lost yet");
    let second = held(at(NOW, 2), "two");
    assert_eq!(store(&mut replica, &first, second.clone(), new()), "w");
    assert_eq!(
        store(&mut replica, &second, first.clone(), new()),
        "",
        "even to say that more is here"
    );
    let other = Bytes::from_static(b"other");
    assert_eq!(letters(&replica.ask(asker(2), &other, &Held::default(), true)), "a0");
    assert_eq!(letters(&replica.synced(1)), "s a1");
    assert_eq!(
        letters(&replica.ask(asker(2), &KEY, &second, true)),
        "",
        "the newer one is not synced"
    );
    assert!(!replica.is_synced());
    assert_eq!(letters(&replica.synced(1)), "s s a2");
    assert!(replica.is_synced());
    assert_eq!(letters(&replica.ask(asker(2), &KEY, &second, true)), "a2");
}

/// V2 of `leaderless/replica.rs`
#[test]
fn a_replica_keeps_the_highest_version() {
    let mut replica = open(Numbers::default());
    let (low, high) = (held(at(NOW, 1), "one"), held(at(NOW, 2), "two"));
    assert_eq!(store(&mut replica, &high, low.clone(), new()), "s");
    assert_eq!(store(&mut replica, &high, high.clone(), new()), "s", "a second time");
    assert_eq!(store(&mut replica, &low, high, COPY), "w");
    let none = held(Version::NONE, "one");
    assert_eq!(store(&mut replica, &low, none, COPY), "NoVersion");
}

#[test]
fn of_two_values_of_one_version_every_replica_keeps_the_same() {
    let version = at(NOW, 1);
    let all = [
        held(version, "one"),
        held(version, "two"),
        held(version, ""),
        Held { version, value: None },
    ];
    for one in &all {
        for other in all.iter().filter(|other| *other != one) {
            assert_ne!(one.yields_to(other), other.yields_to(one));
            let mut replica = open(Numbers::default());
            let takes = one.yields_to(other);
            let is_written = store(&mut replica, one, other.clone(), new()) == "w";
            assert_eq!((is_written, replica.clashes()), (takes, 1));
            let is_copied = letters(&replica.copy(&KEY, other, one, Moment::default())) == "w";
            assert_eq!((is_copied, replica.clashes()), (takes, 2));
        }
        assert!(!one.yields_to(one));
    }
    assert!(
        all.iter().all(|held| held.value.is_none() || all[3].yields_to(held)),
        "deletes are lowest"
    );
    let mut careless =
        Replica::open(node(1), &[], Numbers::default(), Rules::without(Rule::TieBreak));
    let lower = all.iter().find(|one| one.yields_to(&all[0])).unwrap();
    assert_eq!(store(&mut careless, lower, all[0].clone(), new()), "s", "the rule is needed");
}

#[test]
fn a_fence_refuses_what_is_new_and_takes_copies() {
    let mut replica = open(Numbers::default());
    assert_eq!(letters(&replica.raise_fence(NOW.earlier(10))), "n");
    assert_eq!(replica.numbers().fence, Moment::default(), "not spoken of before it is synced");
    let (old, young) = (held(at(NOW.earlier(10), 9), "old"), held(at(NOW.earlier(9), 0), "young"));
    assert_eq!(
        store(&mut replica, &Held::default(), old.clone(), new()),
        "Fenced",
        "but kept already"
    );
    assert_eq!(store(&mut replica, &Held::default(), old.clone(), COPY), "w");
    assert_eq!(
        store(&mut replica, &old, old.clone(), new()),
        "",
        "held already: acknowledged once synced"
    );
    assert_eq!(store(&mut replica, &old, young, new()), "w");
    assert_eq!(letters(&replica.synced(1)), "");
    assert_eq!(replica.numbers().fence, NOW.earlier(10));
    assert_eq!(letters(&replica.raise_fence(NOW.earlier(11))), "", "it only grows");
}

/// V6 of `leaderless/replica.rs`
#[test]
fn the_floor_refuses_everything_and_forgets_deletes() {
    let mut replica = open(Numbers::default());
    let floor = NOW.earlier(10);
    confirm(&mut replica, floor);
    assert_eq!(letters(&replica.hear_floor(&bare(floor))), "n");
    assert_eq!(replica.standing(), Standing::Ready);
    assert_eq!(letters(&replica.synced(1)), "f", "deletes are forgotten once the floor is synced");
    let old = held(at(floor, 9), "old");
    for origin in [new(), COPY] {
        let refused = store(&mut replica, &Held::default(), old.clone(), origin);
        assert!(["Fenced", "Forgotten"].contains(&&*refused), "{refused}");
    }
    assert_eq!(
        letters(&replica.copy(&KEY, &old, &Held::default(), Moment::default())),
        "",
        "nor by a pull"
    );
    let young = held(at(NOW, 0), "young");
    assert_eq!(letters(&replica.copy(&KEY, &young, &Held::default(), Moment::default())), "w");
    assert_eq!(letters(&replica.copy(&KEY, &old, &young, Moment::default())), "");
    let knows = Origin::Copy { floor };
    let stored = store(&mut replica, &Held::default(), old.clone(), knows);
    assert_eq!(stored, "w", "a replica that knows the floor holds it");
    assert_eq!(letters(&replica.copy(&KEY, &old, &Held::default(), floor)), "w");
    assert_eq!(letters(&replica.copy(&KEY, &old, &Held::default(), floor.earlier(1))), "");
}

/// V7 of `leaderless/replica.rs`
#[test]
fn who_hears_of_a_floor_above_what_it_confirmed_is_behind_until_it_has_copied() {
    let mut replica = open(Numbers::default());
    let floor = NOW.earlier(10);
    confirm(&mut replica, floor.earlier(1));
    replica.hear_floor(&bare(floor));
    assert_eq!(replica.standing(), Standing::Behind);
    let answer =
        |replica: &mut Replica| letters(&replica.ask(asker(1), &KEY, &Held::default(), true));
    assert_eq!(answer(&mut replica), "Copying");
    let old = held(at(floor, 9), "old");
    assert_eq!(
        letters(&replica.copy(&KEY, &old, &Held::default(), Moment::default())),
        "",
        "not piece by piece"
    );
    let numbers =
        Numbers { floor: bare(NOW.earlier(5)), fence: NOW.earlier(4), ..Numbers::default() };
    replica.copied(&[numbers]);
    replica.synced(9);
    assert_eq!(answer(&mut replica), "a0");
    let Numbers { floor, fence, confirmed, .. } = replica.numbers();
    assert_eq!(
        (floor.moment, *fence, *confirmed),
        (NOW.earlier(5), NOW.earlier(4), NOW.earlier(5))
    );
}

#[test]
fn a_replica_has_confirmed_what_it_confirmed_with_all_others() {
    let mut replica = open(Numbers::default());
    replica.confirm_with(node(2), NOW);
    replica.synced(1);
    assert_eq!(replica.numbers().confirmed, Moment::default());
    replica.confirm_with(node(3), NOW.earlier(7));
    replica.synced(1);
    assert_eq!(replica.numbers().confirmed, NOW.earlier(7));
    replica.confirm_with(node(3), NOW.earlier(9));
    assert!(replica.is_synced(), "it only grows");
}

#[test]
fn the_floor_is_the_least_that_all_have_confirmed() {
    let find = |left_out: &[u16], own: Numbers, heard: &[(u16, Numbers)]| {
        let mut replica = open(own);
        let heard: BTreeMap<_, _> =
            heard.iter().map(|(at, numbers)| (node(*at), numbers.clone())).collect();
        let left_out: BTreeSet<_> = left_out.iter().map(|at| node(*at)).collect();
        replica.find_floor(&heard, &left_out, 3);
        replica.synced(1);
        (replica.numbers().floor.moment.get(), replica.standing())
    };
    let with = |confirmed: u64, with: &[(u16, u64)]| Numbers {
        confirmed: Moment::new(confirmed),
        confirmed_with: with.iter().map(|(at, ms)| (node(*at), Moment::new(*ms))).collect(),
        ..Numbers::default()
    };
    let own = || with(7, &[(2, 9), (3, 7)]);
    let both = [(2, with(5, &[(1, 8), (3, 5)])), (3, with(6, &[(1, 6), (2, 6)]))];
    assert_eq!(find(&[], own(), &both), (5, Standing::Ready));
    assert_eq!(find(&[], own(), &both[..1]), (0, Standing::Ready), "nothing was heard of node 3");
    assert_eq!(
        find(&[3], own(), &both[..1]),
        (8, Standing::Ready),
        "it has been away for too long"
    );
    assert_eq!(find(&[2, 3], own(), &[]), (0, Standing::Ready), "one alone knows nothing");
    assert_eq!(find(&[1], own(), &both), (0, Standing::Ready), "one that was left out finds none");

    // The floor of above, as others hear of it that had not found it themselves.
    let heard = Floor { moment: Moment::new(8), left_out: [node(3)].into() };
    let standing = |own: u16, numbers: Numbers| {
        let nodes = [node(1), node(2), node(3)];
        let mut replica = Replica::open(node(own), &nodes, numbers, Rules::default());
        replica.hear_floor(&heard);
        replica.standing()
    };
    assert_eq!(standing(2, with(5, &[(1, 8), (3, 5)])), Standing::Ready, "it has what it needs");
    assert_eq!(standing(2, with(5, &[(1, 7), (3, 9)])), Standing::Behind);
    assert_eq!(standing(3, with(0, &[(1, 9), (2, 9)])), Standing::Behind, "it was left out");
}

#[test]
fn a_lost_disk_is_copied_under_a_higher_count() {
    let lost = Lost { count: 1, copied: 0 };
    let mut replica = open(Numbers { lost, ..Numbers::default() });
    assert_eq!(replica.standing(), Standing::Lost);
    assert_eq!(letters(&replica.begin_copying(4)), "n");
    replica.synced(1);
    assert_eq!(replica.numbers().lost, Lost { count: 5, copied: 0 });
    let record = held(at(NOW, 1), "one");
    assert_eq!(
        store(&mut replica, &Held::default(), record.clone(), new()),
        "w",
        "it takes stores"
    );
    replica.synced(1);
    replica.copied(&[Numbers::default()]);
    replica.synced(1);
    assert_eq!(replica.standing(), Standing::Ready);
    let effects = replica.ask(asker(1), &KEY, &record, false);
    let [ReplicaEffect::Respond { response: Response::Answer(answer), .. }] = &effects[..] else {
        panic!("{effects:?}");
    };
    let Answer { losses, content, .. } = answer;
    assert_eq!((losses.own, content), (5, &Content::Withheld));
    replica.hear_loss(node(3), 2);
    replica.synced(1);
    let effects = replica.ask(asker(1), &KEY, &record, false);
    assert!(format!("{effects:?}").contains("{NodeNumber(3): 2}"), "{effects:?}");
}

/// V5 of `leaderless/replica.rs`
#[test]
fn a_pull_is_answered_once_its_fence_is_synced() {
    let mut replica = open(Numbers::default());
    let begin = |replica: &mut Replica| {
        letters(&replica.begin_pull(asker(1), &Floor::default(), NOW.earlier(10)))
    };
    assert_eq!(begin(&mut replica), "n");
    assert_eq!(begin(&mut replica), "", "a second one waits for the same");
    assert_eq!(letters(&replica.synced(1)), "p p");
    assert_eq!(begin(&mut replica), "p", "it is up already");
    replica.hear_floor(&bare(NOW));
    assert_eq!(begin(&mut replica), "Copying");
}

#[test]
fn versions_too_far_ahead_are_refused_and_counted_by_sender() {
    let mut replica = open(Numbers::default());
    let far = held(at(NOW.later(SKEW_MS_MAX + 1), 0), "far");
    assert_eq!(store(&mut replica, &Held::default(), far.clone(), new()), "Ahead");
    assert_eq!(replica.ahead().get(&node(2)), Some(&1));
    assert_eq!(store(&mut replica, &Held::default(), far.clone(), COPY), "w", "it exists");
    let next = held(at(NOW.later(SKEW_MS_MAX + 1), 1), "next");
    assert_eq!(store(&mut replica, &far, next.clone(), new()), "w", "one tick above what is held");
    let base = Origin::New { base: far.version };
    assert_eq!(store(&mut replica, &Held::default(), next, base), "w", "or above what was asked");
    let mut careless =
        Replica::open(node(1), &[], Numbers::default(), Rules::without(Rule::SkewBound));
    assert_eq!(
        store(&mut careless, &Held::default(), far.clone(), new()),
        "w",
        "the rule is needed"
    );
    let other = held(at(NOW.later(SKEW_MS_MAX + 1), 3), "other");
    assert_eq!(store(&mut replica, &far, other, new()), "Ahead", "two ticks are too many");
}

#[test]
fn a_ceiling_is_durable_when_the_log_is() {
    let mut replica = open(Numbers::default());
    assert_eq!(letters(&replica.raise_ceiling(NOW)), "n");
    assert_eq!(replica.synced(1), [ReplicaEffect::CeilingIsDurable(NOW)]);
    assert_eq!(letters(&replica.raise_ceiling(NOW.earlier(1))), "", "it is there already");
}
