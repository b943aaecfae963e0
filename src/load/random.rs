//! Random numbers that are the same for the same seed: SplitMix64.
//! Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A source of random numbers.
#[derive(Debug, Clone)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    /// The source number `stream` of a seed.
    pub(super) fn new(seed: u64, stream: u64) -> Random {
        Random { state: mix(seed ^ mix(stream)) }
    }

    /// Any number.
    pub(super) fn any(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// A number below `count`, which is not 0; the bias is below `count` / 2^64.
    pub(super) fn below(&mut self, count: u64) -> u64 {
        let wide = u128::from(self.any()) * u128::from(count);
        u64::try_from(wide >> 64).expect("invariant: the upper half of 128 bits has 64")
    }

    /// A number from 0 to below 1.
    pub(super) fn fraction(&mut self) -> f64 {
        super::to_float(self.any() >> 11) / super::to_float(1 << 53)
    }
}

/// A number that has nothing to do with `word`, but is always the same.
pub(super) fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
