//! How many files this process may open, and who may have the last of them. What other programs make
//! us open (their segments, their code, their maps of symbols) never takes the reserve: with it the
//! agent goes on reading, storing and answering when a host has more programs than descriptors.
//!
//! The kernel gives out the lowest free number (`open(2)`), so a number inside the reserve says that
//! all below it are taken.

use std::os::fd::AsRawFd;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The reserve is this part of all,
const RESERVED_PART: u64 = 4;
/// and at most this many: rings, programs, maps, connections, the store's files.
const MOST_RESERVED: u64 = 512;

/// Raises the limit of open files to what this process can get. Returns what it was, for programs
/// that are started on somebody's behalf.
pub fn raise() -> Rlimit {
    let before = getrlimit(Resource::Nofile);
    // If it is refused the limit stays, which is no error.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, ..before });
    before
}

/// How many may be open now.
pub fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many this process can raise that to.
pub fn highest_limit() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Whether a descriptor that was just opened for another program may be kept open.
pub fn is_spare(opened: &impl AsRawFd) -> bool {
    is_outside_reserve(u64::from(opened.as_raw_fd().unsigned_abs()), limit())
}

fn is_outside_reserve(number: u64, limit: u64) -> bool {
    number < limit - (limit / RESERVED_PART).min(MOST_RESERVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_ours() {
        assert!(is_outside_reserve(767, 1024) && !is_outside_reserve(768, 1024));
        assert!(is_outside_reserve(191, 256) && !is_outside_reserve(192, 256));
        assert!(is_outside_reserve(1_048_000, 1 << 20));
        assert!(!is_outside_reserve(0, 0));
    }
}
