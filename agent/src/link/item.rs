//! What happens to a thread, as its timeline sees it.

use agent_ebpf::wire::{
    Exec, Exit, Interval, Sample, Snapshot,
    state::STATES,
    thread::{HEAD_KNOWN, has},
};

use crate::contexts::lanes::LaneId;

/// What happened to a thread, in order of (sequence, rank, time).
#[derive(Clone, Copy, Debug)]
pub enum Item {
    /// It came back from a wait, or its long slice was cut.
    Interval(Interval),
    /// It was seen running.
    Sample(Sample),
    /// It took a lane: events from an index on are its own.
    Lane(Taken),
    /// Its image, and with it the lane, was replaced.
    Exec(Exec),
    /// Its account as the iterator saw it; `end` closes what is open (the last one).
    Snapshot { snapshot: Snapshot, end: bool },
    /// It is gone.
    Exit(Exit),
}

/// A thread was seen to have a lane.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Intervals it had finished.
    pub seq: u64,
    /// From when on the lane is its own, as far as it is known.
    pub at: u64,
    /// When that was seen: whatever is older was over by then.
    pub seen_at: u64,
    /// Up to here `total` holds.
    pub since: u64,
    /// Cumulative ns per state.
    pub total: [u64; STATES],
    /// The lane.
    pub lane: LaneId,
    /// Its first event of this thread.
    pub first_index: u64,
}

// === impl Item ===

impl Item {
    pub(super) fn order(&self) -> (u64, u8, u64) {
        match self {
            Self::Interval(i) => (i.seq, 0, i.in_at),
            Self::Sample(s) => (s.seq, 1, s.at),
            Self::Lane(taken) => (taken.seq, 1, taken.at),
            Self::Exec(e) => (e.seq, 1, e.at),
            Self::Snapshot { snapshot, .. } => (snapshot.seq, 2, snapshot.since),
            Self::Exit(e) => (e.seq, 3, e.at),
        }
    }

    pub(super) fn time(&self) -> u64 {
        match self {
            Self::Snapshot { end: true, .. } => 0,
            item => item.order().2,
        }
    }

    /// Markers that must have been drained before this can be linked; none if their number is not known.
    pub(super) fn needs(&self) -> Option<u64> {
        match self {
            Self::Interval(i) => has(i.flags, HEAD_KNOWN).then_some(i.head),
            Self::Exit(e) => has(e.flags, HEAD_KNOWN).then_some(e.head),
            // At the end there is nothing to wait for.
            Self::Snapshot { snapshot, end: false } if has(snapshot.flags, HEAD_KNOWN) => {
                Some(snapshot.head)
            }
            _ => Some(0),
        }
    }
}
