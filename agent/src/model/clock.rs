//! The wall clock. Everything that is measured uses CLOCK_MONOTONIC; this is for what people and other
//! hosts read.

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix time now, ns.
pub fn unix_now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
