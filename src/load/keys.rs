//! Chooses the keys that are read and written.
//!
//! - I1: every key is below the number of keys.
//! - I2: a key is chosen as the latest only after its own insert, and all earlier ones, were
//!   answered.
//!
//! Source: Gray et al., "Quickly Generating Billion-Record Synthetic Databases", SIGMOD 1994, as
//! the Yahoo! Cloud Serving Benchmark uses it (`ZipfianGenerator`, `ScrambledZipfianGenerator`,
//! `SkewedLatestGenerator`).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::random::Random;

/// How unequal keys are under the zipfian distributions.
const THETA: f64 = 0.99;
/// The scrambled distribution draws from so many items whatever the number of keys is.
const SCRAMBLED_ITEM_COUNT: u64 = 10_000_000_000;
/// Terms of zeta that are added one by one; the rest is an integral.
const ZETA_TERM_COUNT: u64 = 10_000;

/// Most inserts that may be without an answer at once.
pub const INSERTS_UNDER_WAY_MAX: u64 = 1 << 20;

/// How keys are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// All alike.
    Uniform,
    /// A few often, most seldom, and those that are often asked for lie scattered.
    Zipfian,
    /// Mostly what was inserted last.
    Latest,
    /// One after the other.
    Sequential,
}

/// The keys of all threads.
#[derive(Debug)]
pub(super) struct Keys {
    count: u64,
    distribution: Distribution,
    zipfian: Zipfian,
    inserted: Inserted,
    /// How many keys were handed out in sequence.
    next: AtomicU64,
}

impl Keys {
    pub(super) fn new(count: u64, distribution: Distribution) -> Keys {
        let scrambled = distribution == Distribution::Zipfian;
        let items = if scrambled { SCRAMBLED_ITEM_COUNT } else { count };
        let inserted = Inserted::default();
        let next = AtomicU64::new(0);
        Keys { count, distribution, zipfian: Zipfian::new(items), inserted, next }
    }

    /// The key of the next read or update.
    pub(super) fn choose(&self, random: &mut Random) -> u64 {
        match self.distribution {
            Distribution::Uniform => random.below(self.count),
            Distribution::Zipfian => scatter(self.zipfian.item(random)) % self.count,
            Distribution::Latest => {
                let inserted = self.inserted.answered.load(Ordering::Acquire);
                let back = self.zipfian.item(random) + 1;
                (inserted % self.count + self.count - back) % self.count
            }
            Distribution::Sequential => self.next.fetch_add(1, Ordering::Relaxed) % self.count,
        }
    }

    /// The key of the next insert, and the number to tell when it was answered.
    pub(super) fn insert(&self) -> (u64, u64) {
        let number = self.inserted.begin();
        (number % self.count, number)
    }

    /// An insert was answered, whatever the answer was. // I2
    pub(super) fn end_insert(&self, number: u64) {
        self.inserted.end(number);
    }
}

/// Inserts by their numbers, which end in any order.
#[derive(Debug, Default)]
struct Inserted {
    /// All below this number were answered. It only rises.
    answered: AtomicU64,
    under_way: Mutex<UnderWay>,
}

/// Inserts that were begun.
#[derive(Debug, Default)]
struct UnderWay {
    begun: u64,
    /// Those without an answer, at most [`INSERTS_UNDER_WAY_MAX`].
    open: BTreeSet<u64>,
}

impl Inserted {
    fn begin(&self) -> u64 {
        let mut under_way = self.under_way.lock();
        let number = under_way.begun;
        under_way.begun += 1;
        under_way.open.insert(number);
        let count = under_way.open.len() as u64;
        assert!(count <= INSERTS_UNDER_WAY_MAX, "{count} inserts are without an answer");
        number
    }

    fn end(&self, number: u64) {
        let mut under_way = self.under_way.lock();
        under_way.open.remove(&number);
        let answered = under_way.open.first().copied().unwrap_or(under_way.begun);
        self.answered.store(answered, Ordering::Release); // under the lock, so that it only rises
    }
}

/// Items whose frequency falls with their number.
#[derive(Debug)]
struct Zipfian {
    item_count: u64,
    zeta: f64,
    eta: f64,
}

impl Zipfian {
    fn new(item_count: u64) -> Zipfian {
        let zeta = zeta(item_count);
        let share = (2.0 / super::to_float(item_count)).powf(1.0 - THETA);
        // Of one item the denominator is negative, of two it is 0; neither comes to use then.
        let eta = (1.0 - share) / (1.0 - zeta_exact(2) / zeta);
        Zipfian { item_count, zeta, eta }
    }

    fn item(&self, random: &mut Random) -> u64 {
        let uniform = random.fraction();
        let scaled = uniform * self.zeta;
        let item = if scaled < 1.0 {
            0
        } else if scaled < 1.0 + 0.5_f64.powf(THETA) {
            1
        } else {
            let base = self.eta * uniform - self.eta + 1.0;
            super::to_whole(super::to_float(self.item_count) * base.powf(1.0 / (1.0 - THETA)))
        };
        item.min(self.item_count - 1) // I1, whatever rounding does
    }
}

/// The sum of 1 / i^theta for i from 1 to `count`.
fn zeta(count: u64) -> f64 {
    if count <= ZETA_TERM_COUNT {
        return zeta_exact(count);
    }
    // Euler and Maclaurin: the integral, and half of the difference at its ends.
    let (from, to) = (super::to_float(ZETA_TERM_COUNT), super::to_float(count));
    let integral = (to.powf(1.0 - THETA) - from.powf(1.0 - THETA)) / (1.0 - THETA);
    zeta_exact(ZETA_TERM_COUNT) + integral + (to.powf(-THETA) - from.powf(-THETA)) / 2.0
}

fn zeta_exact(count: u64) -> f64 {
    (1..=count).map(|item| super::to_float(item).powf(-THETA)).sum()
}

/// FNV-1a of the item's eight bytes, without its sign as in the benchmark.
fn scatter(item: u64) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in item.to_le_bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(1_099_511_628_211);
    }
    hash.cast_signed().unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: u64 = 200_000;

    /// How often each of `count` keys was drawn.
    fn drawn(distribution: Distribution, count: usize) -> Vec<u64> {
        let keys = Keys::new(count as u64, distribution);
        let mut random = Random::new(1, 0);
        let mut counts = vec![0; count];
        for _ in 0..DRAWS {
            counts[usize::try_from(keys.choose(&mut random)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn zeta_of_ten_billion_is_the_constant_of_the_benchmark() {
        let known = 26.469_028_201_783_02;
        assert!((zeta(SCRAMBLED_ITEM_COUNT) - known).abs() < 1e-6, "{}", zeta(10_000_000_000));
        assert!((zeta(50_000) - zeta_exact(50_000)).abs() < 1e-9);
    }

    #[test]
    fn uniform_keys_come_alike_often() {
        let counts = drawn(Distribution::Uniform, 100);
        assert!(counts.iter().all(|count| (1700..2300).contains(count)), "{counts:?}");
    }

    #[test]
    fn zipfian_items_come_as_often_as_their_rank_says() {
        let zipfian = Zipfian::new(1000);
        let mut random = Random::new(1, 0);
        let mut counts = vec![0_u64; 1000];
        for _ in 0..DRAWS {
            counts[usize::try_from(zipfian.item(&mut random)).unwrap()] += 1;
        }
        // Gray's algorithm is exact for the first two items, and near for the others.
        for (item, tolerance) in [(0, 0.03), (1, 0.05), (9, 0.15), (99, 0.3)] {
            let expected = super::super::to_float(item + 1).powf(-THETA) / zeta_exact(1000);
            let is = super::super::to_float(counts[usize::try_from(item).unwrap()])
                / super::super::to_float(DRAWS);
            assert!((is / expected - 1.0).abs() < tolerance, "item {item}: {is} of {expected}");
        }
    }

    #[test]
    fn zipfian_keys_lie_scattered_where_the_benchmark_puts_them() {
        // FNV-1a of eight zero bytes, the item drawn most.
        assert_eq!(scatter(0), 0xa8c7_f832_281a_39c5_u64.cast_signed().unsigned_abs());
        let counts = drawn(Distribution::Zipfian, 1000);
        let most = (0..1000).max_by_key(|key| counts[*key]).unwrap();
        assert_eq!(most as u64, scatter(0) % 1000);
        assert!(counts[most] > DRAWS / 40 && counts[most] < DRAWS / 20, "{}", counts[most]);
    }

    /// `SkewedLatestGenerator`: the newest record is the zipfian distribution's first item, the one
    /// before it the second, and so on.
    #[test]
    fn latest_records_come_as_often_as_their_age_says() {
        let keys = Keys::new(1000, Distribution::Latest);
        let mut random = Random::new(1, 0);
        for insert in 0..2500 {
            assert_eq!(keys.insert(), (insert % 1000, insert));
            keys.end_insert(insert);
        }
        let mut counts = vec![0_u64; 1000]; // by age
        for _ in 0..DRAWS {
            let age = (2499 + 1000 - keys.choose(&mut random)) % 1000;
            counts[usize::try_from(age).unwrap()] += 1;
        }
        for (age, tolerance) in [(0, 0.03), (1, 0.05), (9, 0.15), (99, 0.3)] {
            let expected = super::super::to_float(age + 1).powf(-THETA) / zeta_exact(1000);
            let is = super::super::to_float(counts[usize::try_from(age).unwrap()])
                / super::super::to_float(DRAWS);
            assert!((is / expected - 1.0).abs() < tolerance, "age {age}: {is} of {expected}");
        }
    }

    /// `AcknowledgedCounterGenerator`.
    #[test]
    fn nothing_is_the_latest_before_all_inserts_up_to_it_were_answered() {
        let keys = Keys::new(1000, Distribution::Latest);
        let latest = |keys: &Keys| keys.inserted.answered.load(Ordering::Relaxed);
        let numbers: Vec<u64> = (0..5).map(|_| keys.insert().1).collect();
        for (ended, answered) in [(1, 0), (3, 0), (0, 2), (4, 2), (2, 5)] {
            keys.end_insert(numbers[ended]);
            assert_eq!(latest(&keys), answered, "after {ended}");
        }
    }

    /// One insert is held back while others go farther beyond it than may be under way at once.
    #[test]
    fn inserts_of_several_threads_are_all_counted_and_never_too_early() {
        const EACH: u64 = INSERTS_UNDER_WAY_MAX / 4 + 1;
        const MORE: u64 = 50_000;
        let keys = Keys::new(7, Distribution::Latest);
        let latest = || keys.inserted.answered.load(Ordering::Acquire);
        let (_, oldest) = keys.insert();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..EACH).for_each(|_| keys.end_insert(keys.insert().1)));
            }
        });
        assert_eq!(latest(), oldest);
        keys.end_insert(oldest);
        assert_eq!(latest(), 4 * EACH + 1);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..MORE {
                        let (_, number) = keys.insert();
                        assert!(latest() <= number, "{number} is not answered yet");
                        keys.end_insert(number);
                    }
                });
            }
        });
        assert_eq!(latest(), 4 * EACH + 1 + 4 * MORE);
    }

    #[test]
    fn sequential_keys_begin_anew_behind_the_last() {
        let keys = Keys::new(3, Distribution::Sequential);
        let mut random = Random::new(1, 0);
        let drawn: Vec<u64> = (0..7).map(|_| keys.choose(&mut random)).collect();
        assert_eq!(drawn, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn one_key_and_two_are_enough() {
        for distribution in [
            Distribution::Uniform,
            Distribution::Zipfian,
            Distribution::Latest,
            Distribution::Sequential,
        ] {
            assert_eq!(drawn(distribution, 1), [DRAWS]);
            assert_eq!(drawn(distribution, 2).iter().sum::<u64>(), DRAWS);
        }
    }
}
