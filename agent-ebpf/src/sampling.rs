//! Which waits get a stack, and what that stack stands for.
//!
//! A wait of duration d gets a stack with probability p = 1 - exp(-d/X) and then stands for d/p
//! nanoseconds: the sum over sampled waits is unbiased, long waits are always seen, and thousands
//! of short ones cost a few stacks (design 3.3). Integer arithmetic only: it runs in the kernel.

/// Probability in units of 2^-32, so that a uniform `u32` decides; `1 << 32` is certainty.
#[inline(always)]
pub fn probability(duration_ns: u64, scale_ns: u64) -> u64 {
    const ONE: u64 = 1 << 32;
    if scale_ns == 0 || duration_ns / 22 >= scale_ns {
        return ONE; // exp(-22) < 2^-31: certain at this resolution
    }
    // d/X in Q16. duration < 22 * scale, so the quotient is below 22 << 16; the shift cannot
    // overflow for scales below 2^43 ns.
    let ratio = (duration_ns << 16) / scale_ns;
    if ratio < 1 << 10 {
        // 1 - exp(-x) = x - x^2/2 for small x; the rest is below 1e-6.
        let p = (ratio << 16) - ((ratio * ratio) >> 1);
        return if p == 0 { 1 } else { p };
    }
    // exp(-x) = 2^-(x * log2 e) = 2^-n * 2^-f
    let exponent = (ratio * 94_548) >> 16;
    let (n, f) = (exponent >> 16, exponent & 0xffff);
    // 2^-f on [0, 1) in Q32 by a cubic; p is used for both the draw and the weight, so its small
    // error (< 2e-4) shifts how often a stack is taken, never what the sum estimates.
    let f2 = (f * f) >> 16;
    let f3 = (f2 * f) >> 16;
    let pow = ONE - ((f * 45_426) - (f2 * 15_743) + (f3 * 3_085));
    ONE - (pow >> n)
}

/// The nanoseconds a captured stack stands for: `duration / p`.
#[inline(always)]
pub fn weight(duration_ns: u64, probability: u64) -> u64 {
    if probability >= 1 << 32 || probability == 0 {
        return duration_ns;
    }
    // Here duration < 22 * scale, a few seconds at most: the shift keeps 64 bits.
    (duration_ns << 32) / probability
}

/// A per-CPU budget of stacks: a bucket that refills with time and never runs into debt.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Bucket {
    /// Last refill, ns.
    pub at: u64,
    /// Budget left, in ns of refill time.
    pub credit: u64,
}

/// Takes one stack worth `cost_ns` of refill time from the bucket, which holds at most
/// `burst_ns`. Returns whether there was enough.
#[inline(always)]
pub fn take(bucket: &mut Bucket, now: u64, cost_ns: u64, burst_ns: u64) -> bool {
    let elapsed = now.wrapping_sub(bucket.at);
    let elapsed = if (elapsed as i64) < 0 || elapsed > burst_ns { burst_ns } else { elapsed };
    let filled = bucket.credit + elapsed;
    bucket.credit = if filled > burst_ns { burst_ns } else { filled };
    bucket.at = now;
    if bucket.credit < cost_ns {
        return false;
    }
    bucket.credit -= cost_ns;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probability_follows_the_exponential() {
        for (d, x) in [(1u64, 1_000_000u64), (10_000, 1_000_000), (500_000, 1_000_000)]
            .into_iter()
            .chain([(1_000_000, 1_000_000), (3_700_000, 1_000_000), (21_000_000, 1_000_000)])
        {
            let exact = 1.0 - (-(d as f64) / x as f64).exp_approx();
            let got = probability(d, x) as f64 / 4294967296.0;
            assert!(
                (got - exact).abs() < 5e-4 + exact * 0.02,
                "d={d} x={x}: {got} against {exact}"
            );
        }
        assert_eq!(probability(22_000_000, 1_000_000), 1 << 32);
    }

    #[test]
    fn probability_never_falls_with_duration_and_is_never_zero() {
        let mut last = 0;
        for d in (0..30_000_000u64).step_by(997) {
            let p = probability(d, 1_000_000);
            assert!((1..=1 << 32).contains(&p));
            assert!(p + 2_000_000 >= last, "fell at {d}: {last} -> {p}");
            last = last.max(p);
        }
    }

    #[test]
    fn expected_weight_is_the_duration() {
        for d in [1_000u64, 77_000, 900_000, 5_000_000, 40_000_000] {
            let p = probability(d, 1_000_000);
            let expected = weight(d, p) as f64 * (p as f64 / 4294967296.0);
            assert!((expected - d as f64).abs() < d as f64 * 0.001 + 1.0, "{d}: {expected}");
        }
    }

    #[test]
    fn bucket_refuses_when_spent_and_refills_with_time() {
        let mut bucket = Bucket::default();
        assert!(take(&mut bucket, 1_000_000, 1_000, 3_000));
        assert!(take(&mut bucket, 1_000_000, 1_000, 3_000));
        assert!(take(&mut bucket, 1_000_000, 1_000, 3_000));
        assert!(!take(&mut bucket, 1_000_000, 1_000, 3_000));
        assert!(!take(&mut bucket, 1_000_999, 1_000, 3_000));
        assert!(take(&mut bucket, 1_001_000, 1_000, 3_000));
        // A clock that steps back refills, it does not lock the bucket up.
        assert!(take(&mut bucket, 500, 1_000, 3_000));
    }

    trait ExpApprox {
        fn exp_approx(self) -> f64;
    }

    impl ExpApprox for f64 {
        /// exp without std: (1 + x/2^20)^(2^20) by repeated squaring.
        fn exp_approx(self) -> f64 {
            let mut v = 1.0 + self / f64::from(1u32 << 20);
            for _ in 0..20 {
                v *= v;
            }
            v
        }
    }
}
