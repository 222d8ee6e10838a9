//! A process as the segments it made name it: in its own namespaces.

use std::{cell::OnceCell, fs};

use crate::{
    model::id::Pid,
    process::procfs::{self, Stat},
};

/// A process, as its segments name it.
#[derive(Debug)]
pub(crate) struct Creator {
    /// Its number.
    pub(super) pid: Pid,
    identity: OnceCell<Identity>,
}

#[derive(Debug)]
pub(super) struct Identity {
    /// In its innermost pid namespace.
    innermost: Option<u32>,
    /// In ticks of its own clock.
    started: Option<i128>,
    /// What its time namespace adds to the monotonic clock, ns.
    pub(super) monotonic_offset: i64,
}

// === impl Creator ===

impl Creator {
    /// A process, not asked yet.
    pub(crate) fn new(pid: Pid) -> Self {
        Self { pid, identity: OnceCell::new() }
    }

    /// Asked once, however many segments there are: of a process with thousands of threads `stat` is
    /// slow.
    pub(super) fn identity(&self) -> &Identity {
        let pid = self.pid;
        self.identity.get_or_init(|| Identity {
            innermost: procfs::inner_id(pid, pid.0),
            started: Stat::read(pid).map(|stat| {
                let offset = namespace_offset(pid, "boottime") / 10_000_000;
                i128::from(stat.started) + i128::from(offset)
            }),
            monotonic_offset: namespace_offset(pid, "monotonic"),
        })
    }

    /// Whether it made a segment itself: its innermost pid and its start time, both as it sees them
    /// (pid and time namespaces). One that has no `/proc` does not know when it began (SPEC 1): its
    /// number must do. Nobody inherits a segment; another's must have been passed on purpose.
    pub(super) fn made(&self, creator_pid: u32, creator_start: u64) -> bool {
        let Identity { innermost, started, .. } = self.identity();
        *innermost == Some(creator_pid)
            && (creator_start == 0 || *started == Some(i128::from(creator_start)))
    }
}

/// What a time namespace adds to a clock of `pid`, ns (`/proc/PID/timens_offsets`).
fn namespace_offset(pid: Pid, clock: &str) -> i64 {
    let offsets = procfs::ask(pid, |folder| fs::read_to_string(folder.join("timens_offsets")));
    offsets
        .unwrap_or_default()
        .lines()
        .find_map(|line| {
            let mut words = line.split_whitespace();
            if words.next()? != clock {
                return None;
            }
            let seconds: i64 = words.next()?.parse().ok()?;
            let nanos: i64 = words.next()?.parse().ok()?;
            seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
        })
        .unwrap_or(0)
}
