//! Striped locks: one for every 16 adjacent slots, modulo the number of stripes.
//!
//! Called by `slots`; calls nothing. Invariants:
//!
//! - I1: a thread that needs several stripes takes them all at once, in ascending order, and no
//!   thread takes a further stripe while it holds one. So there is no deadlock.

use parking_lot::{Mutex, MutexGuard};

/// Number of stripes.
const STRIPES: usize = 1024;
/// Adjacent slots that share a stripe, so that a run of slots needs few locks.
const KEYS_PER_STRIPE: u64 = 16;
const WORDS: usize = STRIPES / 64;

/// One lock, alone in its cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Stripe(Mutex<()>);

/// The locks of all slots.
#[derive(Debug)]
pub(crate) struct Locks {
    stripes: Box<[Stripe]>,
}

/// Some stripes, held until dropped.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    set: StripeSet,
    _guards: Guards<'a>,
}

/// The common single lock takes no memory from the heap.
#[derive(Debug)]
enum Guards<'a> {
    One { _guard: MutexGuard<'a, ()> },
    Many { _guards: Vec<MutexGuard<'a, ()>> },
}

impl Locks {
    /// Locks, all free.
    pub(crate) fn new() -> Self {
        Self { stripes: (0..STRIPES).map(|_| Stripe::default()).collect() }
    }

    /// Takes the lock of one slot, and with it that of its neighbours in the stripe.
    pub(crate) fn lock_one(&self, key: u64) -> MutexGuard<'_, ()> {
        self.stripes[stripe_of(key)].0.lock()
    }

    /// Takes the locks of all these slots.
    pub(crate) fn lock(&self, keys: impl Iterator<Item = u64>) -> Held<'_> {
        let mut set = StripeSet::default();
        for key in keys {
            set.insert(stripe_of(key));
        }
        self.lock_set(set)
    }

    /// Takes the locks of the slots `first..=last`.
    pub(crate) fn lock_range(&self, first: u64, last: u64) -> Held<'_> {
        let blocks = first / KEYS_PER_STRIPE..=last / KEYS_PER_STRIPE;
        self.lock(blocks.take(STRIPES).map(|block| block * KEYS_PER_STRIPE))
    }

    fn lock_set(&self, set: StripeSet) -> Held<'_> {
        let guards = if set.count == 1 {
            Guards::One { _guard: self.stripes[set.newest].0.lock() }
        } else {
            // I1: the set yields stripes in ascending order.
            let guards = set.iter().map(|stripe| self.stripes[stripe].0.lock());
            Guards::Many { _guards: guards.collect() }
        };
        Held { set, _guards: guards }
    }
}

impl Held<'_> {
    /// Whether the lock of this slot is among those held.
    pub(crate) fn covers(&self, key: u64) -> bool {
        self.set.contains(stripe_of(key))
    }
}

/// The last slot that shares the stripe of `key` and adjoins it.
pub(crate) fn last_of_stripe(key: u64) -> u64 {
    key | (KEYS_PER_STRIPE - 1)
}

fn stripe_of(key: u64) -> usize {
    let stripe = (key / KEYS_PER_STRIPE) % STRIPES as u64;
    usize::try_from(stripe).expect("invariant: below the number of stripes")
}

/// A set of stripes, as bits.
#[derive(Debug, Default, Clone, Copy)]
struct StripeSet {
    words: [u64; WORDS],
    count: usize,
    /// The stripe that was added last.
    newest: usize,
}

impl StripeSet {
    fn insert(&mut self, stripe: usize) {
        if !self.contains(stripe) {
            self.words[stripe / 64] |= 1 << (stripe % 64);
            self.count += 1;
            self.newest = stripe;
        }
    }

    fn contains(&self, stripe: usize) -> bool {
        self.words[stripe / 64] & (1 << (stripe % 64)) != 0
    }

    fn iter(&self) -> impl Iterator<Item = usize> + use<> {
        let words = self.words;
        (0..WORDS).flat_map(move |word| {
            let mut rest = words[word];
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros() as usize;
                rest &= rest.wrapping_sub(1);
                (bit < 64).then_some(word * 64 + bit)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripes_come_sorted_and_once() {
        let mut set = StripeSet::default();
        for stripe in [1023, 0, 64, 63, 64, 5, 0] {
            set.insert(stripe);
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 5, 63, 64, 1023]);
        assert_eq!(set.count, 5);
    }

    #[test]
    fn a_batch_that_repeats_a_key_does_not_lock_itself_out() {
        let locks = Locks::new();
        let held = locks.lock([7, 8, 7, 7 + 1024 * 16, 99].into_iter());
        assert!(held.covers(7) && held.covers(15) && held.covers(99));
        assert!(!held.covers(16));
        drop(held);
        drop(locks.lock_range(0, u64::from(u32::MAX)));
        drop(locks.lock_one(7));
    }

    #[test]
    fn a_range_covers_every_slot_in_it() {
        let locks = Locks::new();
        let held = locks.lock_range(15, 33);
        assert!((0..48).all(|key| held.covers(key)));
        assert!(!held.covers(48));
    }
}
