//! What the tests of the slots share: entries, a model of what they do, and a log to replay.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use diskstore_storage::disk::SimDisk;
use diskstore_storage::slots::{Base, Current, Geometry, New, Options, SlotImage, Slots};
use diskstore_storage::state::{Change, Versioned};
use diskstore_storage::{LogId, LogIndex, Result, SlotIndex, Term};

/// Where the files are.
pub(crate) fn directory() -> &'static Path {
    Path::new("/data")
}

/// The cluster of every test.
pub(crate) const CLUSTER: u128 = 0xc1;

/// One effect on one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    Set(Vec<u8>),
    Delete,
    Increment(i64),
    Append(Vec<u8>),
}

/// One entry: effects on slots, in order; a slot may come several times.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Entry {
    pub(crate) effects: Vec<(u64, Effect)>,
}

/// What a slot holds: index and value.
pub(crate) type Content = (u64, Option<Vec<u8>>);

/// The state that the slots should be in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Model {
    pub(crate) slots: BTreeMap<u64, Content>,
}

impl Model {
    /// Applies entry `index`.
    pub(crate) fn apply(&mut self, index: u64, entry: &Entry, value_bytes: usize) {
        for (key, effects) in by_key(entry) {
            let old = self.slots.get(&key).and_then(|(_, value)| value.clone());
            self.slots.insert(key, (index, fold(old, &effects, value_bytes)));
        }
    }

    /// The state after the first `count` entries; entry `i` has index `i + 1`.
    pub(crate) fn after(entries: &[Entry], count: usize, value_bytes: usize) -> Self {
        let mut model = Self::default();
        for (position, entry) in entries.iter().take(count).enumerate() {
            model.apply(position as u64 + 1, entry, value_bytes);
        }
        model
    }
}

fn by_key(entry: &Entry) -> BTreeMap<u64, Vec<&Effect>> {
    let mut keys = BTreeMap::<u64, Vec<&Effect>>::new();
    for (key, effect) in &entry.effects {
        keys.entry(*key).or_default().push(effect);
    }
    keys
}

/// All effects of an entry on a slot.
fn fold(mut value: Option<Vec<u8>>, effects: &[&Effect], value_bytes: usize) -> Option<Vec<u8>> {
    for effect in effects {
        value = match effect {
            Effect::Set(bytes) => Some(bytes.clone()),
            Effect::Delete => None,
            Effect::Increment(by) => {
                let text = value.as_deref().map(|old| String::from_utf8_lossy(old).into_owned());
                let old = text.and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
                Some(old.wrapping_add(*by).to_string().into_bytes())
            }
            Effect::Append(bytes) => {
                let mut new = value.unwrap_or_default();
                new.extend_from_slice(bytes);
                new.truncate(value_bytes);
                Some(new)
            }
        };
    }
    value
}

/// Applies entry `index` to the slots, by the slot rule.
pub(crate) fn apply(slots: &Slots, index: u64, entry: &Entry) -> Result<()> {
    let keys = by_key(entry);
    let value_bytes = slots.geometry().value_bytes() as usize;
    let mut guard = slots.lock(keys.keys().copied());
    for (key, effects) in keys {
        guard.apply(SlotIndex::new(key), LogIndex::new(index), |base| {
            compute(base, &effects, value_bytes)
        })?;
    }
    Ok(())
}

/// Sets one slot, as entry `index`.
pub(crate) fn set(slots: &Slots, key: u64, index: u64, value: &[u8]) -> Result<()> {
    slots
        .lock([key].into_iter())
        .apply(SlotIndex::new(key), LogIndex::new(index), |_| Change::Set(Cow::Borrowed(value)))
        .map(|_| ())
}

fn compute(base: &mut Base<'_>, effects: &[&Effect], value_bytes: usize) -> Change<'static> {
    let old = match base.read() {
        Current::Value { value, .. } => value.map(<[u8]>::to_vec),
        Current::Damaged => panic!("a slot is damaged"),
    };
    match fold(old, effects, value_bytes) {
        Some(value) => Change::Set(Cow::Owned(value)),
        None => Change::Delete,
    }
}

/// Everything that the slots hold; every checksum is checked.
pub(crate) fn content(slots: &Slots) -> Result<BTreeMap<u64, Content>> {
    let mut images = Vec::new();
    let mut from = 0;
    while let Some(next) = slots.scan(from, 0, 10_000, &mut images)? {
        from = next;
    }
    Ok(images.into_iter().map(|image| (image.slot.get(), content_of(image))).collect())
}

fn content_of(image: SlotImage) -> Content {
    (image.index.get(), image.value.map(|value| value.to_vec()))
}

/// A slot as the model has it.
pub(crate) fn as_content(slot: Versioned) -> Content {
    (slot.index, slot.value.map(|value| value.to_vec()))
}

/// The log id of entry `index`.
pub(crate) fn log_id(index: u64) -> LogId {
    LogId { term: Term::new(1 + index / 50), index }
}

/// Makes the slots of a test.
pub(crate) fn create(disk: &SimDisk, geometry: Geometry, options: Options) -> Result<Slots> {
    let new = New { geometry, cluster_id: CLUSTER, options };
    Slots::create(disk, directory(), new, &mut |_, _| {})
}

/// Says that one side of a test has ended, in whatever way, so that the other ends too.
pub(crate) struct Finish<'a>(pub(crate) &'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A small generator of numbers, so that scripts need no crate for it.
#[derive(Debug, Clone)]
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    /// The next number, below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// An entry on one to four of `slot_count` slots, repeated ones among them.
    pub(crate) fn entry(&mut self, slot_count: u64, value_bytes: u64) -> Entry {
        let count = 1 + self.below(4);
        let effects = (0..count).map(|_| {
            let key = self.below(slot_count);
            let effect = match self.below(8) {
                0 => Effect::Delete,
                1 | 2 => Effect::Increment(self.below(100) as i64 - 50),
                3 | 4 => Effect::Append(self.value(value_bytes / 4 + 1)),
                _ => Effect::Set(self.value(value_bytes + 1)),
            };
            (key, effect)
        });
        Entry { effects: effects.collect() }
    }

    fn value(&mut self, end: u64) -> Vec<u8> {
        let length = self.below(end);
        let byte = self.below(256) as u8;
        (0..length).map(|place| byte.wrapping_add(place as u8)).collect()
    }
}
