//! Lanes: what the traced processes publish. Has their segments found, drains their rings into
//! per-lane queues of events, and resolves names. Knows nothing of spans' time, and asks no process
//! itself: that may wait (`look`).
//!
//! Addresses mean something within one image of a process only. Fork, exec and exit end an image;
//! their records carry a time, and what was attached after that time belongs to the next image.

mod attach;
mod creator;
mod drain;
mod images;
mod lane;
mod look;
pub(crate) mod segment;
pub(crate) mod survey;
mod sweep;

pub(crate) use lane::Queued;
pub(crate) use look::{Ask, Found};
pub(crate) use sweep::Owner;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ops::Range,
    sync::Arc,
};

use agent_ebpf::wire::{self, thread::lane_line};
use hotspan_lanes::abi::{self, Event};

use crate::{
    budget::{Budgets, Owner as Spender, Resource},
    ledger::{DaemonCounter, Tally},
    model::id::Pid,
    process::maps::Address,
};
use attach::{Asked, Retry};
use lane::{Lane, unclaimed};
use segment::{Control, Segment};

// The kernel side reads the control line with its own copy of the offsets.
const _: () = assert!(
    lane_line::MAGIC == abi::LANE_MAGIC
        && lane_line::BREADCRUMB_OPTION == abi::BREADCRUMB_OPTION
        && lane_line::MAGIC_AT == abi::lane::MAGIC
        && lane_line::GENERATION_AT == abi::lane::GENERATION
        && lane_line::OWNER_AT == abi::lane::OWNER_TID
        && lane_line::RING_LOG2_AT == abi::lane::RING_LOG2
        && lane_line::HEAD_AT == abi::lane::HEAD
        && lane_line::FIRST_INDEX_AT == abi::lane::FIRST_INDEX
        && lane_line::GROWN_AT == abi::lane::GROWN_AT
        && lane_line::RING_AT == abi::RING_IN_LANE as u64
        && lane_line::EVENT_LEN == abi::EVENT_LEN
        && lane_line::GROWN_LOG2 as u32 == abi::RING_LOG2_MAX
        && lane_line::RING_OFF_AT == abi::lane::RING_OFF
        && lane_line::NAMES_AT == abi::NAME_OFF as u64
        && lane_line::NAME_STRIDE == abi::NAME_STRIDE as u64
        && lane_line::NAME_CAP == abi::NAME_CAP as u32
        && lane_line::EVENT_OP_AT == abi::event::OP
        && lane_line::EVENT_SET == abi::op::SET
        && lane_line::EVENT_NAME_AT == abi::event::NAME_ID
);

/// A lane that jumps further ahead than this at once does not tell the truth.
const MAX_JUMP: u64 = 1 << 32;

/// A lane of the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(usize);

/// An open segment.
#[derive(Debug)]
struct Attached {
    segment: Segment,
    /// In whose name it is kept.
    owner: Spender,
    /// Of which image it is.
    image: usize,
    /// Whose image is shown was settled at this moment, ktime.
    at: u64,
}

/// What is known of the present image of a process.
#[derive(Debug, Default)]
struct Image {
    /// Never used again.
    number: usize,
    segments: Vec<usize>,
    lanes: HashMap<Address, LaneId>,
    virtual_lanes: usize,
}

/// Every lane of every process.
#[derive(Debug, Default)]
pub struct Lanes {
    /// By number: numbers are never used again, so a stale one finds nothing.
    segments: HashMap<usize, Attached>,
    lanes: HashMap<LaneId, Lane>,
    /// Numbers given so far.
    numbers: usize,
    /// Lanes that are looked at in each round: something new was found in one of the last looks.
    busy: Vec<LaneId>,
    /// The others that can be read, some of which are looked at in turn.
    idle: Vec<LaneId>,
    /// Which of them is the next.
    idle_at: usize,
    budgets: Budgets,
    images: HashMap<Pid, Image>,
    identities: HashSet<(u64, u64)>,
    /// By image: all segments of a process have the same (SPEC).
    names: HashMap<(usize, u32), (Arc<str>, Spender)>,
    /// Names the kernel side saved along with markers.
    saved_names: HashMap<(LaneId, u32), (Arc<str>, Spender)>,
    /// Segments of images that are gone, and when they are closed, ktime.
    dying: VecDeque<(u64, usize)>,
    /// Lanes without a segment of such images, likewise.
    dying_virtual: VecDeque<(u64, LaneId)>,
    /// Processes with lanes that lie in no segment we have: when they are asked again.
    retries: HashMap<Pid, Retry>,
    /// Questions under way.
    asked: HashMap<Pid, Asked>,
    /// Questions nobody has taken yet.
    asks: Vec<Ask>,
    /// Questions of sweeps under way.
    sweeping: usize,
    /// Segments, and lanes that were named before theirs was found, ever.
    placed: u64,
    /// Owners that sweeps found.
    owners: Vec<Owner>,
    round: u64,
    /// Markers seen at the source since attach.
    pub captured: u64,
    /// Claimed by the thread that published them.
    pub delivered: u64,
    /// In the queues and not yet claimed.
    pub in_flight: u64,
    /// Lost by process and reason.
    pub lost: Tally,
    /// Segments refused and other oddities, by process and reason.
    pub refused: Tally,
}

// === impl Lanes ===

impl Lanes {
    /// Lanes that are kept within these budgets.
    pub fn new(budgets: Budgets) -> Self {
        Self { budgets, ..Self::default() }
    }

    /// Keeps markers that the kernel side saved from a dying image.
    pub fn add_tail(&mut self, tail: &wire::Tail) {
        let pid = Pid(tail.tgid);
        let Some(id) = self.lane(pid, Address(tail.va), tail.first, tail.at) else {
            return;
        };
        // Attached in the meantime: all of it can be read, and more.
        if self.lanes.get(&id).is_some_and(|lane| lane.place.is_some()) {
            return self.drain_lane(id);
        }
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let mut added = 0;
        for (i, bytes) in (0..tail.count).zip(&tail.events) {
            let mut words = [0u64; abi::EVENT_WORDS];
            for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *word = u64::from_le_bytes(*bytes);
            }
            let event = Event::from_words(&words);
            // Another index: the slot was being written, or lies.
            if event.index != tail.first.wrapping_add(i) {
                continue;
            }
            if event.index < lane.tail {
                let fills = u64::from(lane.fill(event));
                self.budgets.force(Resource::Markers, lane.owner, fills);
                continue;
            }
            let gap = event.index - lane.tail;
            let Some(tail) = event.index.checked_add(1).filter(|_| gap <= MAX_JUMP) else {
                self.refused.add(pid, DaemonCounter::LaneHeadJumpedAhead, 1);
                break;
            };
            // A lane passes on before its former owner has quite ended: the markers between may come
            // with the former owner's tail, or be read once the segment is attached.
            if gap > 0 {
                lane.holes.push(lane.tail..event.index);
            }
            self.captured += gap + 1;
            self.in_flight += gap + 1;
            lane.tail = tail;
            lane.events.push_back(Queued { event, is_claimed: false });
            added += 1;
        }
        self.trim(id, added);
    }

    /// Keeps a name that saved markers refer to.
    pub fn add_name(&mut self, name: &wire::Name) {
        // The markers it is for came before it; without them it is nobody's.
        let Some(id) = self.find(Pid(name.tgid), Address(name.va)) else { return };
        let Some(owner) = self.lanes.get(&id).map(|lane| lane.owner) else { return };
        if !self.saved_names.contains_key(&(id, name.id))
            && self.budgets.take(Resource::Names, owner, 1)
        {
            let text = segment::entry_text(&name.entry).into();
            self.saved_names.insert((id, name.id), (text, owner));
        }
    }

    /// Events of a thread, which is known to have published them.
    pub fn claim(&mut self, id: LaneId, range: Range<u64>) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let from = lane.events.partition_point(|queued| queued.event.index < range.start);
        let own = lane.events.range_mut(from..).take_while(|it| it.event.index < range.end);
        for queued in own.filter(|queued| !queued.is_claimed) {
            queued.is_claimed = true;
            self.in_flight -= 1;
            self.delivered += 1;
        }
    }

    /// The end: nobody will claim what is still in the queues.
    pub fn give_up(&mut self) {
        let ids: Vec<LaneId> = self.lanes.keys().copied().collect();
        for id in ids {
            self.consume(id, u64::MAX);
        }
    }

    /// The kernel side saw `head` of a lane that we cannot read: what it published up to there is lost,
    /// unless the kernel side has saved it. Of a lane that is read, [`Self::drain`] counts that.
    pub fn unread(&mut self, id: LaneId, head: u64) {
        self.close_holes(id, head, DaemonCounter::MarkersUnread);
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let behind = head.saturating_sub(lane.tail);
        if lane.place.is_some() || behind == 0 || behind > MAX_JUMP {
            return;
        }
        lane.tail = head;
        self.captured += behind;
        self.lost.add(lane.owner.pid, DaemonCounter::MarkersUnread, behind);
    }

    /// Events drained and not yet consumed, in order of index (with holes where some were lost).
    pub fn events(&self, id: LaneId) -> &VecDeque<Queued> {
        static NONE: VecDeque<Queued> = VecDeque::new();
        self.lanes.get(&id).map_or(&NONE, |lane| &lane.events)
    }

    /// Where draining has come to: events before this index are queued or lost.
    pub fn drained_to(&self, id: LaneId) -> u64 {
        let to = |lane: &Lane| lane.holes.first().map_or(lane.tail, |hole| hole.start);
        self.lanes.get(&id).map_or(u64::MAX, to)
    }

    /// Drops events before `index`.
    pub fn consume(&mut self, id: LaneId, index: u64) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let over = lane.events.partition_point(|queued| queued.event.index < index);
        let (owner, lost) = (lane.owner, unclaimed(lane.events.drain(..over)));
        self.budgets.give(Resource::Markers, owner, over as u64);
        self.lose_unclaimed(owner.pid, lost);
        self.close_holes(id, index, DaemonCounter::MarkersUnread);
    }

    /// The name behind an id in the lane's process; empty when there is none, or its program has too many.
    pub fn name(&mut self, id: LaneId, name: u32) -> Arc<str> {
        let Some((index, _)) = self.lanes.get(&id).and_then(|lane| lane.place) else {
            return self.saved_names.get(&(id, name)).map_or("".into(), |(text, _)| text.clone());
        };
        let Some(Attached { segment, owner, image, .. }) = self.segments.get(&index) else {
            return "".into();
        };
        if let Some((text, _)) = self.names.get(&(*image, name)) {
            return text.clone();
        }
        let text: Arc<str> = segment.name(name).into();
        if text.is_empty() || !self.budgets.take(Resource::Names, *owner, 1) {
            return "".into();
        }
        self.names.insert((*image, name), (text.clone(), *owner));
        text
    }

    /// The account of markers, without what was lost.
    pub fn counts(&self) -> [(DaemonCounter, u64); 3] {
        [
            (DaemonCounter::MarkersCaptured, self.captured),
            (DaemonCounter::MarkersDelivered, self.delivered),
            (DaemonCounter::MarkersInFlight, self.in_flight),
        ]
    }

    /// The pid a lane belongs to.
    pub fn pid(&self, id: LaneId) -> Pid {
        self.lanes.get(&id).map_or(Pid(0), |lane| lane.owner.pid)
    }

    fn control(&self, id: LaneId) -> Option<Control> {
        let (index, number) = self.lanes.get(&id)?.place?;
        let attached = self.segments.get(&index)?;
        Some(attached.segment.control(number))
    }

    /// Where in the lane its present owner began.
    pub fn first_index(&self, id: LaneId) -> u64 {
        self.control(id).map_or(0, |control| control.first_index)
    }
}

#[cfg(test)]
mod flood_tests;
#[cfg(test)]
mod tests;
