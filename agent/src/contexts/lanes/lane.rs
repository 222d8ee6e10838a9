//! One lane's queue: the markers drained from it and not yet consumed, and those still missing between
//! them.

use std::{collections::VecDeque, ops::Range};

use hotspan_lanes::abi::Event;

use crate::budget::Owner;

/// An event drained and not yet consumed.
#[derive(Clone, Copy, Debug)]
pub struct Queued {
    /// The event.
    pub event: Event,
    /// A thread took it for its own.
    pub(super) is_claimed: bool,
}

/// A lane: its place and the events drained from it but not yet consumed.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) owner: Owner,
    /// Index of its segment and number in it; none for markers saved by the kernel side.
    pub(super) place: Option<(usize, usize)>,
    /// When it became known, ktime.
    pub(super) made_at: u64,
    /// Next index to drain.
    pub(super) tail: u64,
    pub(super) events: VecDeque<Queued>,
    /// Below `tail`: not saved by the kernel side, but perhaps still to come. In order. They count as in
    /// flight. Only a lane that was never attached has any.
    pub(super) holes: Vec<Range<u64>>,
    /// Looks in a row that found nothing new.
    pub(super) quiet: u32,
    /// It is looked at in turn with others, not in each round.
    pub(super) is_idle: bool,
    /// Its owner's share of the last round did not suffice for all it had.
    pub(super) is_held_up: bool,
}

// === impl Lane ===

impl Lane {
    pub(super) fn new(
        owner: Owner,
        place: Option<(usize, usize)>,
        made_at: u64,
        tail: u64,
    ) -> Self {
        let (events, holes) = (VecDeque::new(), Vec::new());
        let (quiet, is_idle, is_held_up) = (0, false, false);
        Self { owner, place, made_at, tail, events, holes, quiet, is_idle, is_held_up }
    }

    /// Keeps an event that came late, if it is missing. Returns whether it was.
    pub(super) fn fill(&mut self, event: Event) -> bool {
        let index = event.index;
        let at = self.holes.partition_point(|hole| hole.end <= index);
        let Some(hole) = self.holes.get(at).filter(|hole| hole.contains(&index)).cloned() else {
            return false;
        };
        let rest = [hole.start..index, index + 1..hole.end];
        self.holes.splice(at..=at, rest.into_iter().filter(|hole| !hole.is_empty()));
        let at = self.events.partition_point(|queued| queued.event.index < index);
        self.events.insert(at, Queued { event, is_claimed: false });
        true
    }

    /// Gives up what is missing below `index`. Returns how many markers that are.
    pub(super) fn close_holes(&mut self, index: u64) -> u64 {
        let of = |hole: &Range<u64>| hole.end.min(index).saturating_sub(hole.start);
        let missing = self.holes.iter().map(of).sum();
        for hole in &mut self.holes {
            hole.start = hole.start.max(index);
        }
        self.holes.retain(|hole| !hole.is_empty());
        missing
    }
}

/// How many of the events nobody claimed.
pub(super) fn unclaimed(events: impl IntoIterator<Item = Queued>) -> u64 {
    events.into_iter().filter(|queued| !queued.is_claimed).count() as u64
}
