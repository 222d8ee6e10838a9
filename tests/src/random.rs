//! Random moments and sizes that can be had again: every test prints its seed, and `HOTSPAN_SEED`
//! gives it back.

use std::{
    env,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// xorshift64*.
#[derive(Debug)]
pub struct Random(u64);

// === impl Random ===

impl Random {
    /// With the seed of the environment, else one of the clock; says which.
    pub fn seeded(test: &str) -> Self {
        let given = env::var("HOTSPAN_SEED").ok().and_then(|seed| seed.parse().ok());
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seed: u64 = given.unwrap_or(u64::from(clock.subsec_nanos()));
        println!("{test}: HOTSPAN_SEED={seed}");
        Self::new(seed)
    }

    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 to below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % end.max(1)
    }

    /// From `from` to below `to`.
    pub fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from)
    }

    /// Lets a random time pass: the moment of a fault is what it is about.
    pub fn pause(&mut self, from: Duration, to: Duration) {
        let ns = self.within(from.as_nanos() as u64, to.as_nanos() as u64);
        std::thread::sleep(Duration::from_nanos(ns));
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }
}
