//! Members that follow one log against a map that applies it: with fuzzy checkpoints, power losses,
//! and copies from one another, of what changed or of everything, whole or broken off.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use diskstore_storage::disk::{CrashMode, SimDisk};
use diskstore_storage::keys::{Base, Keys};
use diskstore_storage::state::Change;
use proptest::prelude::*;

use crate::{delete, new_keys, open, set, target};

const KEYS: u8 = 40;
const MEMBERS: usize = 3;

#[derive(Debug, Clone)]
enum Effect {
    Set(Vec<u8>),
    Delete,
    Append(u8),
    /// What a replay that has forgotten a delete would get wrong.
    DeleteIfLong(usize),
}

impl Effect {
    fn on(&self, value: Option<&[u8]>) -> Change<'static> {
        let deleted = |is_deleted| if is_deleted { Change::Delete } else { Change::Keep };
        match self {
            Effect::Set(new) => Change::Set(Cow::Owned(new.clone())),
            Effect::Delete => deleted(value.is_some()),
            Effect::Append(byte) => {
                let mut bytes = value.unwrap_or_default().to_vec();
                if bytes.len() < 60 {
                    bytes.push(*byte);
                }
                Change::Set(Cow::Owned(bytes))
            }
            Effect::DeleteIfLong(length) => {
                deleted(value.is_some_and(|value| value.len() >= *length))
            }
        }
    }
}

type Entry = Vec<(u8, Effect)>;

#[derive(Debug, Clone)]
enum Step {
    Propose(Entry),
    /// A member applies so many entries.
    Follow(usize, u64),
    /// A member checkpoints, and applies an entry for each piece that it writes.
    Checkpoint(usize),
    PowerLoss(usize, CrashMode),
    /// One member copies from another; it breaks off after so many frames, if ever. Meanwhile the
    /// sender applies and checkpoints.
    Copy(usize, usize, Option<usize>),
}

fn effect() -> impl Strategy<Value = Effect> {
    prop_oneof![
        3 => proptest::collection::vec(any::<u8>(), 0..20).prop_map(Effect::Set),
        4 => Just(Effect::Delete),
        3 => any::<u8>().prop_map(Effect::Append),
        2 => (0_usize..4).prop_map(Effect::DeleteIfLong),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let entry = proptest::collection::btree_map(0..KEYS, effect(), 1..4);
    let mode = prop_oneof![
        Just(CrashMode::Lost),
        Just(CrashMode::All),
        any::<u64>().prop_map(|seed| CrashMode::Reordered { seed }),
    ];
    prop_oneof![
        30 => entry.prop_map(|entry| Step::Propose(entry.into_iter().collect())),
        10 => (0..MEMBERS, 1_u64..20).prop_map(|(member, count)| Step::Follow(member, count)),
        6 => (0..MEMBERS).prop_map(Step::Checkpoint),
        3 => (0..MEMBERS, mode).prop_map(|(member, mode)| Step::PowerLoss(member, mode)),
        4 => (0..MEMBERS, 0..MEMBERS, proptest::option::of(0_usize..20))
            .prop_map(|(from, to, cut)| Step::Copy(from, to, cut)),
    ]
}

struct Member {
    disk: SimDisk,
    keys: Keys,
    applied: u64,
}

impl Member {
    fn new(seed: u64) -> Member {
        let disk = SimDisk::new(seed);
        Member { keys: new_keys(&disk), disk, applied: 0 }
    }

    fn follow(&mut self, log: &[Entry], count: u64) {
        for _ in 0..count {
            let Some(entry) = log.get(self.applied as usize) else { return };
            self.applied += 1;
            apply(&self.keys, self.applied, entry);
        }
    }

    /// The state is what the log says, if it is one that ever was.
    fn check(&self, log: &[Entry]) {
        if self.applied < self.keys.readable_from() {
            return;
        }
        let mut expected = BTreeMap::new();
        for (index, entry) in (1_u64..).zip(&log[..self.applied as usize]) {
            for (key, effect) in entry {
                let value = expected.get(key).map(|(_, value): &(u64, Vec<u8>)| value.as_slice());
                match effect.on(value) {
                    Change::Set(value) => drop(expected.insert(*key, (index, value.into_owned()))),
                    Change::Delete => drop(expected.remove(key)),
                    Change::Keep | Change::GiveUp => {}
                }
            }
        }
        let read = (0..KEYS).filter_map(|key| {
            let slot = self.keys.read(&[key]);
            slot.value.map(|value| (key, (slot.index, value.to_vec())))
        });
        assert_eq!(read.collect::<BTreeMap<_, _>>(), expected);
        assert_eq!(self.keys.live_count(), expected.len() as u64);
    }
}

fn apply(keys: &Keys, index: u64, entry: &Entry) {
    let names: Vec<[u8; 1]> = entry.iter().map(|(key, _)| [*key]).collect();
    let mut guard = keys.lock(names.iter().map(<[u8; 1]>::as_slice));
    for (key, effect) in entry {
        guard.apply(&[*key], index, |Base { value, .. }| effect.on(value));
    }
}

/// Applies entries while a checkpoint runs.
fn checkpoint(member: &mut Member, log: &[Entry]) {
    if member.applied == 0 {
        return;
    }
    let Member { keys, applied, .. } = member;
    let target = target(*applied);
    let mut meanwhile = || {
        if let Some(entry) = log.get(*applied as usize) {
            *applied += 1;
            apply(keys, *applied, entry);
        }
        Ok(())
    };
    keys.checkpoint(target, &mut meanwhile, &AtomicBool::new(false)).unwrap();
}

fn power_loss(member: &mut Member, mode: CrashMode, log: &[Entry]) {
    let applied = member.applied;
    member.disk = member.disk.crash(mode);
    member.keys = open(&member.disk).unwrap();
    member.applied = member.keys.durable().map_or(0, |durable| durable.log_id.index);
    assert!(member.applied <= applied);
    member.follow(log, applied - member.applied);
}

fn copy(sender: &mut Member, receiver: &mut Member, cut: Option<usize>, log: &[Entry]) {
    if sender.applied <= receiver.applied {
        return;
    }
    let sending = sender.keys.begin_send();
    let begin = sender.applied;
    let readable_from = sender.keys.readable_from();
    let after = receiver.keys.begin_merge(receiver.applied, sending.horizon);
    receiver.keys.set_readable_from(readable_from.max(begin));
    let (mut next, mut frames) = (Some(0), 0);
    while let Some(from) = next {
        if cut == Some(frames) {
            return;
        }
        let page = sender.keys.scan(from, after, 40);
        page.found.iter().for_each(|image| receiver.keys.merge(image).unwrap());
        next = page.next;
        frames += 1;
        match frames % 3 {
            0 => checkpoint(sender, log),
            1 => checkpoint(receiver, log),
            _ => sender.follow(log, 2),
        }
    }
    receiver.keys.set_readable_from(sender.applied);
    receiver.keys.finish_merge(begin);
    if receiver.applied < begin {
        receiver.keys.install(target(begin), &mut || Ok(())).unwrap();
        receiver.applied = begin;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn every_member_holds_what_the_log_says(steps in proptest::collection::vec(step(), 1..250)) {
        let mut log: Vec<Entry> = Vec::new();
        let mut members: Vec<Member> = (0..MEMBERS as u64).map(Member::new).collect();
        for step in steps {
            match step {
                Step::Propose(entry) => log.push(entry),
                Step::Follow(member, count) => members[member].follow(&log, count),
                Step::Checkpoint(member) => checkpoint(&mut members[member], &log),
                Step::PowerLoss(member, mode) => power_loss(&mut members[member], mode, &log),
                Step::Copy(from, to, cut) => {
                    if let Ok([from, to]) = members.get_disjoint_mut([from, to]) {
                        copy(from, to, cut, &log);
                    }
                }
            }
            for member in &members {
                member.check(&log);
            }
        }
        for member in &mut members {
            member.follow(&log, u64::MAX);
            assert!(member.applied >= member.keys.readable_from());
            member.check(&log);
        }
    }
}

/// The receiver was told of a key that the sender deleted, and has forgotten.
#[test]
fn a_copy_of_everything_takes_away_what_it_does_not_name() {
    let (sender, receiver) = (Member::new(1).keys, Member::new(2).keys);
    for index in 1..=20 {
        set(&sender, index, &[index as u8], b"value");
        set(&receiver, index, &[index as u8], b"value");
    }
    for index in 21..=40 {
        delete(&sender, index, &[index as u8 - 20]);
    }
    set(&sender, 41, b"last", b"value");
    crate::checkpoint(&sender, 41);
    assert!(sender.horizon() > 20, "the memory is too small for so many deletes");
    assert!(sender.deleted_count() < 20);
    assert_eq!(receiver.begin_merge(20, sender.begin_send().horizon), 0);
    let page = sender.scan(0, 0, usize::MAX);
    page.found.iter().for_each(|image| receiver.merge(image).unwrap());
    assert!(receiver.live_count() > 1, "nothing is dropped before the copy is installed");
    receiver.finish_merge(41);
    receiver.install(target(41), &mut || Ok(())).unwrap();
    assert_eq!(receiver.live_count(), 1);
    assert!(receiver.horizon() >= sender.horizon());
    assert_eq!(receiver.read(b"last").value.unwrap(), "value");
}

#[test]
fn nothing_is_forgotten_while_something_is_sent() {
    let keys = Member::new(1).keys;
    for index in 1..=20 {
        set(&keys, index, &[index as u8], b"value");
        delete(&keys, index + 20, &[index as u8]);
    }
    let sending = keys.begin_send();
    crate::checkpoint(&keys, 40);
    assert_eq!((keys.deleted_count(), keys.horizon(), sending.horizon), (20, 0, 0));
    drop(sending);
    set(&keys, 41, b"a", b"b");
    crate::checkpoint(&keys, 41);
    assert!(keys.deleted_count() < 20);
    assert!(keys.horizon() > 20);
}

/// Sets and deletes keys of a kilobyte until memory is full of what was deleted; the last index.
fn fill_with_deleted(keys: &Keys) -> u64 {
    let mut index = 0_u64;
    while !keys.is_full() {
        let key = index.to_le_bytes().repeat(128);
        set(keys, index + 1, &key, b"value");
        delete(keys, index + 2, &key);
        index += 2;
    }
    assert_eq!(keys.live_count(), 0);
    index
}

/// A deleted key counts as what it takes, and full memory forgets all of them.
#[test]
fn deleted_keys_alone_never_keep_memory_full() {
    let Member { keys, disk, .. } = Member::new(1);
    let index = fill_with_deleted(&keys);
    crate::checkpoint(&keys, index);
    assert_eq!((keys.deleted_count(), keys.memory_bytes(), keys.horizon()), (0, 0, index));
    let after = open(&disk.crash(CrashMode::Lost)).unwrap();
    assert_eq!((after.deleted_count(), after.horizon()), (0, index));
}

/// Where everything is refused no entry comes, and so no later checkpoint.
#[test]
fn a_checkpoint_of_what_the_file_holds_already_frees_full_memory_too() {
    let Member { keys, disk, .. } = Member::new(1);
    let index = fill_with_deleted(&keys);
    let sending = keys.begin_send();
    crate::checkpoint(&keys, index);
    assert!(keys.is_full(), "nothing is forgotten while something is sent");
    drop(sending);
    crate::checkpoint(&keys, index);
    assert_eq!((keys.deleted_count(), keys.is_full()), (0, false));
    // Nothing comes back but what the horizon of the file says.
    let after = open(&disk.crash(CrashMode::Lost)).unwrap();
    assert!(after.horizon() <= keys.horizon());
    set(&keys, index + 1, b"a", b"b");
    assert!(!keys.is_full());
}

/// What is deleted while a checkpoint waits for its turn may be replayed from where it began.
#[test]
fn nothing_behind_the_checkpoint_is_forgotten() {
    let keys = Member::new(1).keys;
    for index in 1..=20 {
        set(&keys, index, &[index as u8], b"value");
        delete(&keys, index + 20, &[index as u8]);
    }
    crate::checkpoint(&keys, 22);
    assert_eq!((keys.horizon(), keys.deleted_count()), (22, 18));
}

#[test]
fn a_start_knows_which_deletes_were_forgotten() {
    let Member { keys, disk, .. } = Member::new(1);
    for index in 1..=20 {
        set(&keys, index, &[index as u8], b"value");
        delete(&keys, index + 20, &[index as u8]);
    }
    crate::checkpoint(&keys, 40);
    let horizon = keys.horizon();
    assert!(horizon > 20 && keys.deleted_count() < 20);
    // Otherwise a member that stopped before would be sent changes alone, and keep what was deleted.
    let after = open(&disk.crash(CrashMode::Lost)).unwrap();
    assert_eq!((after.horizon(), after.deleted_count()), (horizon, keys.deleted_count()));
}

#[test]
fn a_walk_meets_every_key_once_and_may_begin_anywhere() {
    let keys = Member::new(1).keys;
    for number in 0..500_u16 {
        set(&keys, u64::from(number) + 1, &number.to_le_bytes(), b"");
    }
    delete(&keys, 501, &7_u16.to_le_bytes());
    let (mut next, mut found) = (Some(0), Vec::new());
    while let Some(from) = next {
        let page = keys.live_keys(from, 7);
        assert!(page.found.len() >= 7 || page.next.is_none());
        found.extend(page.found);
        next = page.next;
    }
    assert_eq!(found.len(), 499);
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), 499);
}
