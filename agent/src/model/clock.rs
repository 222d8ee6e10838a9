//! The wall clock. Everything that is measured uses CLOCK_MONOTONIC; this is for what people and other
//! hosts read.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

/// An instant of the wall clock, ns since 1970: never to be mixed with one of CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixNs(pub u64);

// === impl UnixNs ===

impl UnixNs {
    /// When `at` of CLOCK_MONOTONIC was; `offset` is CLOCK_REALTIME - CLOCK_MONOTONIC, ns.
    pub fn of_monotonic(at: u64, offset: i64) -> Self {
        Self(at.saturating_add_signed(offset))
    }
}

impl fmt::Display for UnixNs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Unix time now, ns.
pub fn unix_now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_of_one_clock_is_one_of_the_other() {
        assert_eq!(UnixNs::of_monotonic(5, 1_700).to_string(), "1705");
        assert_eq!(UnixNs::of_monotonic(5, -7), UnixNs(0), "nothing is before 1970");
        assert_eq!(UnixNs::of_monotonic(u64::MAX, 1), UnixNs(u64::MAX));
    }
}
