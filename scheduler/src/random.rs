//! The generator behind every choice: SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
//! generators", 2014), small and the same everywhere.

use crate::core;

/// See the module.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that is a function of `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed ^ 0x5851_f42d_4c95_7f2d)
    }

    /// The next 64 bits.
    pub fn next_bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_bits()) * u128::from(bound)) >> 64) as u64
    }
}

/// A number below `bound`, from the generator of this thread's run.
pub fn random(bound: u64) -> u64 {
    core::with(|state| state.random.below(bound))
}

/// True so many times in a thousand.
pub fn chance(permille: u64) -> bool {
    random(1000) < permille
}
