//! The slots against a map: any sequence of entries, replays, checkpoints, merges and restarts.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use crate::script::{Effect, Entry, Model, apply, as_content, content, create, directory, log_id};
use bytes::Bytes;
use diskstore_storage::disk::{CrashMode, Disk, SimDisk};
use diskstore_storage::slots::{Geometry, Options, SlotImage, Slots};
use diskstore_storage::state::{Membership, Target};
use diskstore_storage::{LogIndex, SlotIndex};
use proptest::prelude::*;

const SLOTS: u64 = 30;

#[derive(Debug, Clone)]
enum Step {
    Apply(Entry),
    /// Entries are applied again from this far back.
    Replay(u64),
    Checkpoint,
    WriteBack,
    Merge {
        key: u64,
        ahead: bool,
        value: Option<Vec<u8>>,
    },
    /// Learn every page, so that later scans skip.
    Learn,
    /// Stop without a checkpoint, and start from what is durable.
    Restart,
    /// Only slots changed after the index this far back.
    Delta(u64),
}

fn effect(value_bytes: usize) -> impl Strategy<Value = Effect> {
    let value = proptest::collection::vec(any::<u8>(), 0..=value_bytes);
    prop_oneof![
        4 => value.clone().prop_map(Effect::Set),
        1 => Just(Effect::Delete),
        2 => (-1000_i64..1000).prop_map(Effect::Increment),
        2 => value.prop_map(Effect::Append),
    ]
}

fn step(value_bytes: usize) -> impl Strategy<Value = Step> {
    let effects = proptest::collection::vec((0..SLOTS, effect(value_bytes)), 1..5);
    let value = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..=value_bytes));
    prop_oneof![
        20 => effects.prop_map(|effects| Step::Apply(Entry { effects })),
        2 => (0_u64..10).prop_map(Step::Replay),
        3 => Just(Step::Checkpoint),
        2 => Just(Step::WriteBack),
        2 => (0..SLOTS, any::<bool>(), value)
            .prop_map(|(key, ahead, value)| Step::Merge { key, ahead, value }),
        1 => Just(Step::Learn),
        2 => Just(Step::Restart),
        2 => (0_u64..20).prop_map(Step::Delta),
    ]
}

fn geometry_and_steps() -> impl Strategy<Value = (u32, Vec<Step>)> {
    prop_oneof![Just(40_u32), Just(1024), Just(6000)].prop_flat_map(|value_bytes| {
        let steps = proptest::collection::vec(step(value_bytes as usize), 1..60);
        (Just(value_bytes), steps)
    })
}

/// The log as the model sees it: an entry, or a slot that came from elsewhere.
#[derive(Debug, Clone)]
enum Record {
    Entry(Entry),
    Merged(SlotImage),
}

struct Subject {
    disk: SimDisk,
    slots: Slots,
    model: Model,
    records: Vec<Record>,
    value_bytes: usize,
}

fn options() -> Options {
    // Four pages: nearly every round drops something.
    Options { memory_bytes_max: 4 * 4096, round_pages: 4 }
}

impl Subject {
    fn next_index(&self) -> u64 {
        self.records.len() as u64 + 1
    }

    fn replay(&self, index: u64) {
        match &self.records[index as usize - 1] {
            Record::Entry(entry) => apply(&self.slots, index, entry).unwrap(),
            Record::Merged(image) => {
                self.slots.merge(image).unwrap();
            }
        }
    }

    fn run(&mut self, step: Step) {
        let stop = AtomicBool::new(false);
        match step {
            Step::Apply(entry) => {
                let index = self.next_index();
                apply(&self.slots, index, &entry).unwrap();
                self.model.apply(index, &entry, self.value_bytes);
                self.records.push(Record::Entry(entry));
            }
            Step::Replay(back) => {
                let last = self.records.len() as u64;
                (last.saturating_sub(back) + 1..=last).for_each(|index| self.replay(index));
            }
            Step::Checkpoint => {
                let log_id = log_id(self.next_index() - 1);
                let target = Target { log_id, membership: Membership::default(), requests_crc: 0 };
                self.slots.checkpoint(target, &mut || Ok(()), &stop).unwrap();
                assert_eq!(self.slots.dirty_pages(), 0);
                assert!(!self.slots.over_budget());
            }
            Step::WriteBack => {
                self.slots.write_back(&mut || Ok(()), &stop).unwrap();
                assert_eq!(self.slots.dirty_pages(), 0);
            }
            Step::Merge { key, ahead, value } => self.merge(key, ahead, value),
            Step::Learn => {
                let mut next = Some(0);
                while let Some(page) = next {
                    let learned = self.slots.learn_pages(page, 3);
                    assert_eq!(learned.damaged, []);
                    next = learned.next_page;
                }
                let live = self.model.slots.values().filter(|(_, value)| value.is_some());
                assert_eq!(self.slots.live_count(), Some(live.count() as u64));
            }
            Step::Restart => {
                self.disk = self.disk.crash(CrashMode::Lost);
                self.slots = Slots::open(&self.disk, directory(), options()).unwrap().0;
                let checkpoint = self.slots.superblock().checkpoint.map_or(0, |id| id.index);
                (checkpoint + 1..self.next_index()).for_each(|index| self.replay(index));
            }
            Step::Delta(back) => {
                let after = (self.records.len() as u64).saturating_sub(back);
                let mut images = Vec::new();
                let mut next = Some(0);
                while let Some(key) = next {
                    next = self.slots.scan(key, after, 100, &mut images).unwrap();
                }
                let changed = self.model.slots.iter().filter(|(_, (index, _))| *index > after);
                let expected: Vec<_> = changed.map(|(key, _)| *key).collect();
                assert_eq!(
                    images.iter().map(|image| image.slot.get()).collect::<Vec<_>>(),
                    expected
                );
            }
        }
    }

    /// A merged slot takes an index of its own, as if an entry had written it.
    fn merge(&mut self, key: u64, ahead: bool, value: Option<Vec<u8>>) {
        let old = self.model.slots.get(&key).map_or(0, |(index, _)| *index);
        let index = if ahead { self.next_index() } else { old };
        let image = SlotImage {
            slot: SlotIndex::new(key),
            index: LogIndex::new(index),
            value: value.clone().map(Bytes::from),
        };
        assert_eq!(self.slots.merge(&image).unwrap(), ahead);
        if ahead {
            assert!(self.slots.readable_from() >= index);
            self.model.slots.insert(key, (index, value));
            self.records.push(Record::Merged(image));
        }
    }

    fn compare(&self) {
        let mut expected = self.model.slots.clone();
        assert_eq!(content(&self.slots).unwrap(), expected);
        let keys: Vec<u64> = (0..SLOTS).rev().collect();
        let read = self.slots.read_many(&keys).unwrap();
        let read: BTreeMap<_, _> = keys.into_iter().zip(read.into_iter().map(as_content)).collect();
        for key in 0..SLOTS {
            expected.entry(key).or_default();
        }
        assert_eq!(read, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn slots_hold_what_the_model_holds((value_bytes, steps) in geometry_and_steps()) {
        let disk = SimDisk::new(7);
        disk.create_dir_all(directory()).unwrap();
        let geometry = Geometry::new(SLOTS, value_bytes).unwrap();
        let slots = create(&disk, geometry, options()).unwrap();
        let mut subject = Subject {
            disk,
            slots,
            model: Model::default(),
            records: Vec::new(),
            value_bytes: value_bytes as usize,
        };
        for step in steps {
            subject.run(step);
        }
        subject.compare();
    }
}
