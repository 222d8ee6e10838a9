//! Looking at what a process publishes: the part that asks the process itself, and so may wait for it.
//! It runs on a thread of the reader; [`super::Lanes`] makes the questions and takes what was found.

use std::{
    collections::{HashMap, HashSet},
    io,
};

use super::{
    attach::{MAX_SEGMENTS, segments},
    creator::Creator,
    segment::{Refused, Segment},
};
use crate::{
    kernel::ktime,
    ledger::DaemonCounter,
    model::id::Pid,
    process::{
        maps::{Address, ProcessMap},
        procfs::{self, Stat},
    },
};

/// Looks at one process in a row.
const MAX_PASSES: usize = 4;

/// A question about a publisher.
#[derive(Debug)]
pub struct Ask {
    /// The process.
    pub pid: Pid,
    /// Where segments of it are that are mapped already.
    pub(super) known: HashSet<Address>,
    /// Its threads are asked for too, and its segments only if none is known.
    pub(super) sweeps: bool,
    /// So many more segments may be kept of it.
    pub(super) most: usize,
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// A moment before the process was looked at, ktime: what happened earlier is over.
    pub(super) seen_at: u64,
    /// Whose image is shown was settled at this moment, ktime.
    pub(super) at: u64,
    /// Segments not known before, by address.
    pub(super) segments: Vec<(Address, Result<Segment, Refused>)>,
    /// The first one of too many, and which bound that is.
    pub(super) too_many: Option<(Address, DaemonCounter)>,
    /// Threads by their id in the innermost pid namespace.
    pub(super) threads: HashMap<u32, Thread>,
}

/// A living thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thread {
    /// Its id in the initial pid namespace.
    pub(super) tid: u32,
    /// In ticks since boot.
    pub(super) started: u64,
}

// === impl Ask ===

impl Ask {
    /// Whether somebody waits for what is found: markers are overwritten meanwhile.
    pub fn is_urgent(&self) -> bool {
        !self.sweeps
    }

    /// Looks. May wait for the process.
    pub fn read(&self) -> Found {
        let now = ktime::now();
        let mut found = Found {
            seen_at: now,
            at: now,
            segments: Vec::new(),
            too_many: None,
            threads: HashMap::new(),
        };
        if !self.sweeps || self.known.is_empty() {
            // More may have been made while it was looked at.
            let passes = (0..MAX_PASSES).take_while(|&pass| self.find_segments(&mut found, pass));
            passes.for_each(drop);
        }
        if self.sweeps && !(self.known.is_empty() && found.segments.is_empty()) {
            let inner = |tid| Some((procfs::inner_id(self.pid, tid)?, tid));
            let with_start = |(inner, tid)| {
                let started = Stat::of_thread(self.pid, tid)?.started;
                Some((inner, Thread { tid, started }))
            };
            let threads = procfs::threads(self.pid).filter_map(inner);
            found.threads = threads.filter_map(with_start).collect();
        }
        found
    }

    /// Returns whether it found any that was not found before.
    fn find_segments(&self, found: &mut Found, pass: usize) -> bool {
        let Ok(map) = ProcessMap::read(self.pid) else { return false };
        if pass == 0 {
            found.at = map.read_at();
        }
        let before: HashSet<Address> = found.segments.iter().map(|(address, _)| *address).collect();
        let mut is_more = false;
        let process = Creator::new(self.pid);
        for (n, mapping) in segments(&map).enumerate() {
            if n >= MAX_SEGMENTS {
                found.too_many = Some((mapping.start, DaemonCounter::SegmentTooMany));
                break;
            }
            if self.known.contains(&mapping.start) || before.contains(&mapping.start) {
                continue;
            }
            if found.segments.iter().filter(|(_, segment)| segment.is_ok()).count() >= self.most {
                found.too_many = Some((mapping.start, DaemonCounter::SegmentsOverBudget));
                break;
            }
            match Segment::attach(&process, mapping) {
                // The mapping moved or went with its process: whoever needs it asks again.
                Err(Refused::Open(error)) if error.kind() == io::ErrorKind::NotFound => {}
                result => {
                    is_more |= result.is_ok();
                    found.segments.push((mapping.start, result));
                }
            }
        }
        is_more
    }
}
