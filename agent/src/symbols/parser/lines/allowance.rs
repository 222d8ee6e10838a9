//! What an owner's files may cost: bytes copied and unpacked, CPU time, and children lost. Debts are
//! paid by waiting, so that one large file is read all the same.

use std::time::{Duration, Instant};

use super::Owner;

/// Bytes to begin with, and as many each minute.
const BYTES: f64 = (256 << 20) as f64;
/// Of root's files: nobody else makes them.
const ROOT_BYTES: f64 = (4_u64 << 30) as f64;
/// Seconds of CPU to begin with, and each minute.
const TIME: (f64, f64) = (20.0, 3.0);
/// Children that may be lost before there is a pause, the pause, and how often it doubles.
const STRIKES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(60);
const MOST_DOUBLINGS: u32 = 6;
/// A child lost is forgotten after this.
const FORGIVEN: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(super) struct Allowance {
    is_root: bool,
    bytes: f64,
    seconds: f64,
    strikes: u32,
    struck: Instant,
    counted: Instant,
}

// === impl Allowance ===

impl Allowance {
    pub(super) fn of(owner: Owner) -> Self {
        let is_root = owner.0 == 0;
        let bytes = if is_root { ROOT_BYTES } else { BYTES };
        let now = Instant::now();
        Self { is_root, bytes, seconds: TIME.0, strikes: 0, struck: now, counted: now }
    }

    /// Whether the owner's files are read now.
    pub(super) fn is_there(&self) -> bool {
        self.is_there_at(Instant::now())
    }

    fn is_there_at(&self, now: Instant) -> bool {
        let (bytes, seconds) = self.at(now);
        // What root's files cost is root's business, as long as it ends.
        let is_paused = !self.is_root && self.strikes >= STRIKES && {
            let doublings = (self.strikes - STRIKES).min(MOST_DOUBLINGS);
            now.saturating_duration_since(self.struck) < PAUSE * (1 << doublings)
        };
        !is_paused && bytes > 0.0 && (self.is_root || seconds > 0.0)
    }

    /// Whether nothing of it was used, as if it had just begun.
    pub(super) fn is_full(&self) -> bool {
        let full = Self::of(Owner(u32::from(!self.is_root)));
        self.strikes == 0 && self.at(Instant::now()) >= (full.bytes, full.seconds)
    }

    pub(super) fn take_bytes(&mut self, bytes: u64) {
        self.count(Instant::now());
        self.bytes -= bytes as f64;
    }

    pub(super) fn take_time(&mut self, used: Duration) {
        self.count(Instant::now());
        self.seconds -= used.as_secs_f64();
    }

    /// A child was lost.
    pub(super) fn strike(&mut self) {
        if self.struck.elapsed() > FORGIVEN {
            self.strikes = 0;
        }
        self.strikes += 1;
        self.struck = Instant::now();
    }

    /// What there is by then.
    fn at(&self, now: Instant) -> (f64, f64) {
        let full = if self.is_root { ROOT_BYTES } else { BYTES };
        let minutes = now.saturating_duration_since(self.counted).as_secs_f64() / 60.0;
        let bytes = (self.bytes + minutes * full).min(full);
        (bytes, (self.seconds + minutes * TIME.1).min(TIME.0))
    }

    fn count(&mut self, now: Instant) {
        (self.bytes, self.seconds) = self.at(now);
        self.counted = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn who_took_too_much_waits_and_root_does_not() {
        let mut user = Allowance::of(Owner(1000));
        assert!(user.is_full() && user.is_there());
        // One file, however large.
        user.take_bytes(1 << 30);
        let now = Instant::now();
        assert!(!user.is_there_at(now + MINUTE) && user.is_there_at(now + 4 * MINUTE));
        let mut user = Allowance::of(Owner(1000));
        user.take_time(Duration::from_secs(22));
        assert!(!user.is_there_at(now) && user.is_there_at(now + MINUTE));
        let mut root = Allowance::of(Owner(0));
        root.take_bytes(1 << 30);
        root.take_time(Duration::from_secs(100));
        assert!(root.is_there());
    }

    #[test]
    fn pauses_become_longer() {
        let (mut user, mut root) = (Allowance::of(Owner(1000)), Allowance::of(Owner(0)));
        for strike in 0..STRIKES {
            assert!(user.is_there(), "{strike}");
            user.strike();
            root.strike();
        }
        let now = Instant::now();
        assert!(root.is_there_at(now) && !user.is_full());
        assert!(!user.is_there_at(now) && user.is_there_at(now + 2 * MINUTE));
        user.strike();
        assert!(!user.is_there_at(now + MINUTE) && user.is_there_at(now + 3 * MINUTE));
        for _ in 0..100 {
            user.strike();
        }
        assert!(user.is_there_at(now + 65 * MINUTE));
    }
}
