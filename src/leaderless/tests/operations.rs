//! One operation at a time, told answers by hand.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::super::clock::{Clock, Moment, NodeNumber, SKEW_MS_MAX, Version, Writer};
use super::super::message::{Answer, Content, Held, Losses, Origin, Refusal, Request, Response};
use super::super::operation::{
    Errand, Failure, Level, Local, Operation, OperationEffect, Outcome, Task,
};
use super::super::rules::{Rule, Rules};

const NOW: Moment = Moment::new(200_000_000_000);

fn node(number: u16) -> NodeNumber {
    NodeNumber::new(number).unwrap()
}

/// A coordinator with number 1 of three replicas, and its operation.
struct Bench {
    operation: Operation,
    clock: Clock,
    held: Version,
}

fn clock() -> Clock {
    let mut clock =
        Clock::open(Writer { node: node(1), losses: 0 }, Moment::default(), Rules::default());
    clock.ceiling_is_durable(NOW.later(100_000));
    clock
}

fn begin(errand: Errand, level: Level) -> (Bench, Vec<OperationEffect>) {
    begin_with(errand, level, clock(), Version::NONE)
}

fn begin_with(
    errand: Errand,
    level: Level,
    mut clock: Clock,
    held: Version,
) -> (Bench, Vec<OperationEffect>) {
    let task = Task {
        errand,
        key: Bytes::from_static(b"k"),
        level,
        replicas: vec![node(1), node(2), node(3)],
        own: node(1),
    };
    let mut local = Local { now: NOW, clock: &mut clock, held };
    let (operation, effects) = Operation::begin(task, Rules::default(), &mut local);
    (Bench { operation, clock, held }, effects)
}

impl Bench {
    fn hear(&mut self, from: u16, response: Response) -> Vec<OperationEffect> {
        let mut local = Local { now: NOW, clock: &mut self.clock, held: self.held };
        self.operation.response(&mut local, node(from), response)
    }

    fn stored(&mut self, from: u16, version: Version) -> Vec<OperationEffect> {
        self.hear(from, Response::Stored { version, losses: Losses::default() })
    }
}

fn set() -> Errand {
    Errand::Set(Bytes::from_static(b"new"))
}

fn version(counter: u64) -> Version {
    Version::from_number(NOW.earlier(60_000).get() << 22 | counter << 10 | 7)
}

fn plain(version: Version, content: Content) -> Answer {
    let zero = Moment::default();
    Answer { version, content, floor: zero, confirmed: zero, losses: Losses::default() }
}

fn nothing() -> Response {
    Response::Answer(plain(Version::NONE, Content::Nothing))
}

fn told(version: Version) -> Response {
    Response::Answer(plain(version, Content::Withheld))
}

fn told_all(version: Version) -> Response {
    Response::Answer(plain(version, Content::Value(Bytes::from_static(b"old"))))
}

/// To whom what kind of request goes: `a` and `A` for an ask without and with the value, `n` and `c` for
/// a new store and a copy, `m` for a store that nobody waits for.
fn sent(effects: &[OperationEffect]) -> String {
    let letter = |effect: &OperationEffect| match effect {
        OperationEffect::Send { to, request: Request::Ask { wants_value: false, .. } } => {
            format!("a{to}")
        }
        OperationEffect::Send { to, request: Request::Ask { .. } } => format!("A{to}"),
        OperationEffect::Send { to, request: Request::Store(store) } => match store.origin {
            Origin::New { .. } => format!("n{to}"),
            Origin::Copy { .. } => format!("c{to}"),
        },
        OperationEffect::Send { to, request: Request::Pull(_) } => format!("p{to}"),
        OperationEffect::StoreHere(_) => "here".into(),
        OperationEffect::Mend { to, .. } => format!("m{to}"),
        OperationEffect::RaiseCeiling(_) => "ceiling".into(),
        OperationEffect::Finish(_) => "end".into(),
    };
    effects.iter().map(letter).collect::<Vec<_>>().join(" ")
}

fn outcome(effects: &[OperationEffect]) -> Outcome {
    let found = effects.iter().find_map(|effect| match effect {
        OperationEffect::Finish(outcome) => Some(outcome.clone()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no outcome in {effects:?}"))
}

fn proposed(effects: &[OperationEffect]) -> Held {
    let found = effects.iter().find_map(|effect| match effect {
        OperationEffect::Send { request: Request::Store(store), .. }
        | OperationEffect::StoreHere(store) => Some(store.held.clone()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no store in {effects:?}"))
}

fn old() -> Bytes {
    Bytes::from_static(b"old")
}

/// V4 of `leaderless/operation.rs`
#[test]
fn a_write_at_quorum_asks_a_majority_and_goes_above_it() {
    let (mut bench, effects) = begin(set(), Level::Quorum);
    assert_eq!(sent(&effects), "a1 a2 a3");
    let ahead = Version::from_number(NOW.later(2_000).get() << 22);
    assert_eq!(sent(&bench.hear(2, told(ahead))), "");
    let effects = bench.hear(1, nothing());
    assert_eq!(sent(&effects), "n1 n2 n3");
    let held = proposed(&effects);
    assert!(held.version > ahead && held.value == Some(Bytes::from_static(b"new")));
    assert_eq!(sent(&bench.hear(3, told(version(9)))), "", "a late answer changes nothing");
    assert_eq!(sent(&bench.stored(1, held.version)), "");
    assert_eq!(sent(&bench.stored(1, held.version)), "", "the same replica counts once");
    assert_eq!(sent(&bench.stored(9, held.version)), "", "node 9 is no replica");
    assert_eq!(sent(&bench.stored(2, version(3))), "", "another version is another operation's");
    let effects = bench.stored(3, held.version);
    assert_eq!(outcome(&effects), Outcome::Written { version: held.version });
    assert_eq!(sent(&bench.stored(2, held.version)), "", "the outcome comes once");
    assert!(bench.operation.time_out().is_empty() && bench.operation.is_done());
}

#[test]
fn a_read_at_quorum_takes_one_round_if_a_majority_agrees() {
    let (mut bench, effects) = begin(Errand::Get, Level::Quorum);
    assert_eq!(sent(&effects), "A1 a2 a3", "one replica sends the value");
    assert_eq!(sent(&bench.hear(1, told_all(version(5)))), "");
    let effects = bench.hear(2, told(version(5)));
    assert_eq!(outcome(&effects), Outcome::Read(Held { version: version(5), value: Some(old()) }));
    let effects = bench.hear(3, told(version(4)));
    assert_eq!(sent(&effects), "m3", "who lags is sent what it lacks");
    assert_eq!(sent(&bench.hear(3, told(version(5)))), "");
}

#[test]
fn a_read_writes_back_what_no_majority_has() {
    let (mut bench, _) = begin(Errand::Get, Level::Quorum);
    bench.hear(2, told(version(4)));
    let effects = bench.hear(1, told_all(version(5)));
    assert_eq!(sent(&effects), "c2 c3", "the one that holds it needs no copy");
    let effects = bench.stored(3, version(5));
    assert_eq!(outcome(&effects), Outcome::Read(Held { version: version(5), value: Some(old()) }));
}

#[test]
fn a_value_is_asked_of_who_has_the_highest_version() {
    let (mut bench, _) = begin(Errand::Get, Level::Quorum);
    bench.hear(1, told_all(version(4)));
    assert_eq!(sent(&bench.hear(2, told(version(5)))), "A2");
    assert_eq!(sent(&bench.hear(2, told(version(3)))), "", "an older answer that was overtaken");
    assert_eq!(sent(&bench.hear(3, told(version(5)))), "A3", "and of every other one, once");
    assert_eq!(sent(&bench.hear(3, told(version(4)))), "", "an older answer that was overtaken");
    let effects = bench.hear(3, told_all(version(5)));
    assert_eq!(sent(&effects), "end m1");
    assert_eq!(outcome(&effects), Outcome::Read(Held { version: version(5), value: Some(old()) }));
}

#[test]
fn deletes_are_stored_and_read_like_values() {
    let (mut bench, _) = begin(Errand::Delete, Level::Quorum);
    bench.hear(1, told(version(5)));
    let held = proposed(&bench.hear(2, nothing()));
    assert!(held.version > version(5) && held.value.is_none());
    let (mut bench, _) = begin(Errand::Get, Level::Quorum);
    bench.hear(1, told_all(version(5)));
    let effects = bench.hear(2, Response::Answer(plain(version(6), Content::Nothing)));
    assert_eq!(sent(&effects), "c1 c3", "a delete is written back, too");
    let effects = bench.stored(1, version(6));
    assert_eq!(outcome(&effects), Outcome::Read(Held { version: version(6), value: None }));
}

#[test]
fn one_and_all_wait_for_one_and_for_all() {
    let (mut bench, effects) = begin(set(), Level::One);
    assert_eq!(sent(&effects), "n1 n2 n3", "nobody is asked, and all are sent it");
    let held = proposed(&effects);
    assert_eq!(outcome(&bench.stored(2, held.version)), Outcome::Written { version: held.version });
    let (mut bench, effects) = begin(Errand::Get, Level::One);
    assert_eq!(sent(&effects), "A1");
    let read = Outcome::Read(Held { version: version(5), value: Some(old()) });
    assert_eq!(outcome(&bench.hear(1, told_all(version(5)))), read);
    let (mut bench, _) = begin(Errand::Get, Level::One);
    let effects = bench.hear(1, Response::Refused(Refusal::Copying));
    assert_eq!(sent(&effects), "A2 A3", "who may not answer is stood in for");
    assert_eq!(outcome(&bench.hear(3, told_all(version(5)))), read);

    let (mut bench, _) = begin(set(), Level::All);
    assert_eq!(sent(&bench.hear(1, nothing())) + &sent(&bench.hear(2, nothing())), "");
    let held = proposed(&bench.hear(3, nothing()));
    assert_eq!(sent(&bench.stored(1, held.version)) + &sent(&bench.stored(2, held.version)), "");
    assert_eq!(outcome(&bench.stored(3, held.version)), Outcome::Written { version: held.version });
    let (mut bench, _) = begin(Errand::Get, Level::All);
    bench.hear(1, told_all(version(5)));
    bench.hear(2, told(version(5)));
    assert_eq!(sent(&bench.hear(3, told(version(4)))), "c3");
    assert_eq!(outcome(&bench.stored(3, version(5))), read);
}

/// I3 of `leaderless/operation.rs`
#[test]
fn an_outcome_is_certain_before_the_first_store_and_unknown_behind_it() {
    let failed = |failure| Outcome::Failed(failure);
    let (mut bench, _) = begin(set(), Level::Quorum);
    bench.hear(1, nothing());
    assert_eq!(outcome(&bench.operation.time_out()), failed(Failure::TooFew));
    assert_eq!(sent(&bench.hear(2, nothing())), "", "and nothing is stored afterwards");

    let (mut bench, _) = begin(set(), Level::Quorum);
    let copying = || Response::Refused(Refusal::Copying);
    assert_eq!(sent(&bench.hear(2, copying())) + &sent(&bench.hear(2, copying())), "");
    let refused = failed(Failure::Refused(Refusal::Copying));
    assert_eq!(outcome(&bench.hear(3, copying())), refused, "one is left");

    let (mut bench, _) = begin(set(), Level::Quorum);
    bench.hear(1, nothing());
    let held = proposed(&bench.hear(2, nothing()));
    bench.stored(1, held.version);
    let unknown = |stored_by| Outcome::Unknown { version: held.version, stored_by };
    assert_eq!(outcome(&bench.operation.time_out()), unknown(1));

    let (mut bench, _) = begin(set(), Level::Quorum);
    bench.hear(1, nothing());
    let held = proposed(&bench.hear(2, nothing()));
    assert_eq!(sent(&bench.hear(3, copying())), "", "a late answer to the ask");
    assert_eq!(sent(&bench.hear(1, Response::Refused(Refusal::Fenced))), "");
    assert_eq!(
        sent(&bench.hear(2, Response::Refused(Refusal::Fenced))),
        "",
        "it may be certain yet"
    );
    let effects = bench.stored(3, held.version);
    assert_eq!(outcome(&effects), Outcome::Unknown { version: held.version, stored_by: 1 });

    // A refusal of all is certain, unless a clock may come to admit the version.
    for (last, is_certain) in [(Refusal::NoRoom, true), (Refusal::Ahead, false)] {
        let (mut bench, _) = begin(set(), Level::All);
        for from in 1..3 {
            bench.hear(from, nothing());
        }
        let version = proposed(&bench.hear(3, nothing())).version;
        for from in 1..3 {
            assert_eq!(sent(&bench.hear(from, Response::Refused(Refusal::NoRoom))), "");
        }
        let effects = bench.hear(3, Response::Refused(last));
        let unknown = Outcome::Unknown { version, stored_by: 0 };
        let certain = failed(Failure::Refused(last));
        assert_eq!(outcome(&effects), if is_certain { certain } else { unknown });
    }

    let (mut bench, _) = begin(Errand::Get, Level::Quorum);
    bench.hear(1, told_all(version(5)));
    assert_eq!(sent(&bench.hear(2, nothing())), "c2 c3");
    assert_eq!(
        outcome(&bench.operation.time_out()),
        failed(Failure::TooFew),
        "a read makes nothing new"
    );
}

#[test]
fn an_answer_counts_only_if_its_replica_has_confirmed_to_the_highest_floor() {
    let at = |floor, confirmed| {
        let answer = plain(version(5), Content::Value(Bytes::from_static(b"old")));
        Response::Answer(Answer {
            floor: Moment::new(floor),
            confirmed: Moment::new(confirmed),
            ..answer
        })
    };
    let forgot = |floor| {
        let answer = plain(Version::NONE, Content::Nothing);
        let (floor, confirmed) = (Moment::new(floor), Moment::new(floor));
        Response::Answer(Answer { floor, confirmed, ..answer })
    };
    let (mut bench, _) = begin(Errand::Get, Level::Quorum);
    assert_eq!(sent(&bench.hear(1, at(0, 9))), "");
    assert_eq!(sent(&bench.hear(2, forgot(10))), "", "the first has not confirmed up to 10");
    let effects = bench.hear(3, forgot(10));
    assert_eq!(outcome(&effects), Outcome::Read(Held::default()));
    let (mut bench, _) = begin(Errand::Get, Level::Quorum);
    assert_eq!(sent(&bench.hear(1, at(0, 10))), "");
    assert_eq!(sent(&bench.hear(2, forgot(10))), "c2 c3", "here it has");
}

#[test]
fn a_write_waits_for_the_ceiling_of_the_clock() {
    let empty =
        Clock::open(Writer { node: node(1), losses: 0 }, Moment::default(), Rules::default());
    let (mut bench, _) = begin_with(set(), Level::Quorum, empty, Version::NONE);
    bench.hear(1, nothing());
    let effects = bench.hear(2, nothing());
    let [OperationEffect::RaiseCeiling(ceiling)] = effects[..] else { panic!("{effects:?}") };
    assert!(bench.hear(3, nothing()).is_empty(), "it has its answers");
    bench.clock.ceiling_is_durable(ceiling);
    let mut local = Local { now: NOW, clock: &mut bench.clock, held: Version::NONE };
    assert_eq!(sent(&bench.operation.resume(&mut local)), "n1 n2 n3");
    let mut local = Local { now: NOW, clock: &mut bench.clock, held: Version::NONE };
    assert!(bench.operation.resume(&mut local).is_empty(), "once");
}

/// A key that holds a version of a bad clock: no ceiling covers what goes above it, so two writes
/// of one node rest on what its own copy holds.
#[test]
fn a_version_far_ahead_is_in_the_own_copy_before_others_see_it() {
    let bad = Version::from_number(NOW.later(SKEW_MS_MAX + 1).get() << 22);
    let (mut bench, _) = begin(set(), Level::Quorum);
    bench.hear(1, nothing());
    let effects = bench.hear(2, told(bad));
    assert_eq!(sent(&effects), "here", "nobody else yet");
    let first = proposed(&effects).version;
    assert!(first.is_tick_above(bad));
    // Another write of the same node meanwhile, or after a crash, asks the same two.
    let (mut second, _) = begin_with(set(), Level::Quorum, bench.clock.clone(), first);
    second.hear(1, nothing());
    assert!(proposed(&second.hear(2, told(bad))).version > first);
    assert_eq!(sent(&bench.stored(1, first)), "n2 n3");
    assert_eq!(outcome(&bench.stored(3, first)), Outcome::Written { version: first });
}

/// The own copy takes it not, and nobody else was sent anything.
#[test]
fn a_version_far_ahead_that_the_own_copy_refuses_is_certainly_not_stored() {
    let bad = Version::from_number(NOW.later(SKEW_MS_MAX + 1).get() << 22);
    for refusal in [Refusal::NoRoom, Refusal::Ahead] {
        let (mut bench, _) = begin(set(), Level::Quorum);
        bench.hear(1, nothing());
        assert_eq!(sent(&bench.hear(2, told(bad))), "here");
        let effects = bench.hear(1, Response::Refused(refusal));
        assert_eq!(outcome(&effects), Outcome::Failed(Failure::Refused(refusal)));
    }
}

/// Two replicas have no room. The own copy has taken the write, and waits for the disk: the outcome is decided.
#[test]
fn a_write_that_only_the_own_copy_takes_is_unknown_at_once() {
    let (mut bench, _) = begin(set(), Level::Quorum);
    bench.hear(1, nothing());
    let version = proposed(&bench.hear(2, nothing())).version;
    bench.held = version;
    let refused = Response::Refused(Refusal::NoRoom);
    assert_eq!(sent(&bench.hear(2, refused.clone())), "");
    let effects = bench.hear(3, refused.clone());
    assert_eq!(outcome(&effects), Outcome::Unknown { version, stored_by: 0 });
    // If it has not, it may refuse as well.
    let (mut bench, _) = begin(set(), Level::Quorum);
    bench.hear(1, nothing());
    bench.hear(2, nothing());
    bench.hear(2, refused.clone());
    assert_eq!(sent(&bench.hear(3, refused.clone())), "");
    let effects = bench.hear(1, refused);
    assert_eq!(outcome(&effects), Outcome::Failed(Failure::Refused(Refusal::NoRoom)));
}

/// A replica acknowledged, lost its disk and copied from the others, before these stored the write.
#[test]
fn what_a_replica_said_before_it_lost_its_disk_counts_no_more() {
    let losses = |own, others: &[(u16, u64)]| {
        let others: BTreeMap<_, _> = others.iter().map(|(at, count)| (node(*at), *count)).collect();
        Losses { own, others }
    };
    let (mut bench, _) = begin(set(), Level::Quorum);
    bench.hear(1, nothing());
    let version = proposed(&bench.hear(2, nothing())).version;
    bench.stored(1, version);
    let stored = |losses| Response::Stored { version, losses };
    let effects = bench.hear(2, stored(losses(0, &[(1, 1)])));
    assert_eq!(sent(&effects), "", "node 2 was copied by node 1 before it stored this");
    assert_eq!(sent(&bench.hear(1, stored(losses(1, &[])))), "end", "now both have it");

    let (mut bench, _) = begin(Errand::Get, Level::Quorum);
    bench.hear(1, told_all(self::version(5)));
    let answer = Answer { losses: losses(0, &[(1, 1)]), ..plain(Version::NONE, Content::Nothing) };
    assert_eq!(sent(&bench.hear(2, Response::Answer(answer.clone()))), "", "one answer counts");
    let effects = bench.hear(3, nothing());
    assert_eq!(outcome(&effects), Outcome::Read(Held::default()));

    let (mut bench, _) = begin(Errand::Get, Level::Quorum);
    bench.hear(1, told_all(self::version(5)));
    bench.hear(2, Response::Answer(answer));
    let anew = Answer { losses: losses(1, &[]), ..plain(Version::NONE, Content::Nothing) };
    let effects = bench.hear(1, Response::Answer(anew));
    assert_eq!(
        outcome(&effects),
        Outcome::Read(Held::default()),
        "it is asked again after the loss"
    );
}

#[test]
fn rules_can_be_left_out_only_one_by_one_and_only_here() {
    let all = [Rule::NewerWins, Rule::WriteBack, Rule::ConfirmAfterExchange];
    for rule in all {
        assert!(Rules::default().keep(rule) && !Rules::without(rule).keep(rule));
        assert!(
            all.iter()
                .filter(|other| **other != rule)
                .all(|other| Rules::without(rule).keep(*other))
        );
    }
}
