//! The clocks: `bpf_ktime_get_ns` is CLOCK_MONOTONIC of the initial time namespace; markers carry
//! the TSC. [`TscClock`] turns the one into the other by interpolation between calibrations.

use std::collections::VecDeque;

/// CLOCK_MONOTONIC now, ns.
pub fn now() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}

/// Unix time minus CLOCK_MONOTONIC, ns: added to a ktime it gives wall-clock time. Read between two
/// monotonic reads, so that a preemption in between does not shift it by more than half the gap.
pub fn unix_offset() -> i128 {
    let (_, offset) = (0..5)
        .map(|_| {
            let before = now();
            let unix = clock(libc::CLOCK_REALTIME);
            let after = now();
            (after - before, i128::from(unix) - i128::from(before + (after - before) / 2))
        })
        .min()
        .unwrap_or((0, 0));
    offset
}

fn clock(id: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec into a local.
    unsafe { libc::clock_gettime(id, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(target_arch = "x86_64")]
fn counter() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC; Linux leaves it usable in user mode.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn counter() -> u64 {
    0
}

/// Pairs of counter and ktime, read together.
#[derive(Clone, Debug, Default)]
pub struct TscClock {
    points: VecDeque<(u64, u64)>,
}

/// Calibrations kept: at ten a second, about a minute of markers can be placed between two of them.
const KEPT: usize = 1024;
/// A first slope needs some distance between two points.
const FIRST_GAP_NS: u64 = 2_000_000;

impl TscClock {
    /// Takes two calibrations a little apart, so that a slope exists from the start.
    pub fn start() -> Self {
        let mut clock = Self::default();
        clock.calibrate();
        let first = clock.points[0].1;
        while now() < first + FIRST_GAP_NS {
            std::hint::spin_loop();
        }
        clock.calibrate();
        clock
    }

    /// Takes a calibration: the tightest of a few counter, clock, counter triples.
    pub fn calibrate(&mut self) {
        let best = (0..5)
            .map(|_| {
                let before = counter();
                let at = now();
                let after = counter();
                (
                    after.wrapping_sub(before),
                    before.wrapping_add(after.wrapping_sub(before) / 2),
                    at,
                )
            })
            .min();
        if let Some((_, counter, at)) = best {
            self.add(counter, at);
        }
    }

    fn add(&mut self, counter: u64, at: u64) {
        if self.points.back().is_some_and(|&(c, t)| counter <= c || at <= t) {
            // A counter that stands still or jumps back (migration of the VM): start over.
            self.points.clear();
        }
        self.points.push_back((counter, at));
        if self.points.len() > KEPT {
            // The first point stays: it anchors the oldest markers and the overall slope.
            self.points.remove(1);
        }
    }

    /// The ktime of a counter value; `None` before two calibrations.
    pub fn ktime(&self, counter: u64) -> Option<u64> {
        let after = self.points.partition_point(|&(c, _)| c <= counter);
        let (a, b) = match after {
            0 => (self.points.front()?, self.points.back()?),
            n if n < self.points.len() => (self.points.get(n - 1)?, self.points.get(n)?),
            // Past the last point: the slope of the last second or so.
            n => (self.points.get(n.saturating_sub(11))?, self.points.get(n - 1)?),
        };
        let run = i128::from(b.0) - i128::from(a.0);
        if run <= 0 {
            return None;
        }
        // From the nearer end, so that rounding of the slope does not grow with distance.
        let (from, at) = if after == 0 { *a } else { *b };
        let delta = (i128::from(counter) - i128::from(from)) * i128::from(b.1 - a.1) / run;
        u64::try_from(i128::from(at) + delta).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpolates_within_nanoseconds() {
        let mut clock = TscClock::default();
        // 2.3 GHz, as integers: ktime = counter * 10 / 23.
        for i in 0..50u64 {
            let counter = 1_000_000 + i * 230_000_000;
            clock.add(counter, counter * 10 / 23);
        }
        for counter in [1_000_000u64, 1_234_567, 230_999_999, 11_000_000_000, 12_000_000_000] {
            let got = clock.ktime(counter).unwrap();
            let want = counter * 10 / 23;
            assert!(got.abs_diff(want) <= 2, "{counter}: {got} against {want}");
        }
        // Before the first point too.
        assert!(clock.ktime(500_000).unwrap().abs_diff(500_000 * 10 / 23) <= 2);
    }

    #[test]
    fn a_counter_that_jumps_back_starts_over() {
        let mut clock = TscClock::default();
        clock.add(1_000, 1_000);
        clock.add(2_000, 2_000);
        clock.add(10, 3_000);
        assert_eq!(clock.ktime(20), None);
        clock.add(1_010, 4_000);
        assert_eq!(clock.ktime(510), Some(3_500));
    }

    #[test]
    fn follows_the_real_clock() {
        if !cfg!(target_arch = "x86_64") {
            return;
        }
        let clock = TscClock::start();
        // A preemption between the two reads shows as a gap of milliseconds: take the best of many.
        let error =
            (0..1000).map(|_| now().abs_diff(clock.ktime(counter()).unwrap())).min().unwrap();
        assert!(error < 2_000, "{error} ns off");
    }
}
