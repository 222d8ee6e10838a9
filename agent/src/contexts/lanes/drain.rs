//! Draining: the rings of lanes are read into their queues, round by round. What that costs is bounded by
//! owner and round; lanes in which nothing happens are looked at in turn, and at once when the kernel
//! side has seen their head move.

use super::{
    Attached, LaneId, Lanes, MAX_JUMP,
    lane::{Queued, unclaimed},
};
use crate::{budget::Resource, ledger::DaemonCounter, model::id::Pid};

/// Events kept of a lane that nobody consumes.
const MAX_QUEUED: usize = 1 << 16;
/// A lane without anything new for so many looks is idle: a second or so.
const QUIET_LOOKS: u32 = 64;
/// Idle lanes looked at in one round: up to as many all of them are, in each.
const IDLE_LOOKS: usize = 512;
/// What a look at a lane costs, in markers read.
const LOOK: u64 = 4;
/// Rounds begin with another lane each time.
const STRIDE: usize = 509;

impl Lanes {
    /// Drains every lane whose head moved, as far as the shares of their owners reach.
    pub fn drain(&mut self) {
        self.try_again();
        self.budgets.begin(Resource::Draining);
        let busy = std::mem::take(&mut self.busy);
        let from = (self.round as usize).wrapping_mul(STRIDE).checked_rem(busy.len()).unwrap_or(0);
        for &id in busy[from..].iter().chain(&busy[..from]) {
            self.look(id);
            let Some(lane) = self.lanes.get_mut(&id) else { continue };
            lane.is_idle = lane.quiet >= QUIET_LOOKS;
            if lane.is_idle { &mut self.idle } else { &mut self.busy }.push(id);
        }
        for _ in 0..self.idle.len().min(IDLE_LOOKS) {
            if self.idle_at >= self.idle.len() {
                self.idle_at = 0;
            }
            let Some(&id) = self.idle.get(self.idle_at) else { break };
            self.look(id);
            match self.lanes.get_mut(&id) {
                Some(lane) if lane.is_idle && lane.quiet > 0 => self.idle_at += 1,
                // Gone, or busy (again).
                lane => {
                    if lane.is_some_and(|lane| std::mem::take(&mut lane.is_idle)) {
                        self.busy.push(id);
                    }
                    self.idle.swap_remove(self.idle_at);
                }
            }
        }
    }

    /// The kernel side saw `head` of a lane: if it is an idle one, what it published is read now.
    pub fn want(&mut self, id: LaneId, head: u64) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        if lane.is_idle && lane.tail < head {
            lane.is_idle = false;
            self.busy.push(id);
            self.look(id);
        }
    }

    /// A lane can be read from now on.
    pub(super) fn watch(&mut self, id: LaneId) {
        self.busy.push(id);
    }

    fn look(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        if self.budgets.take_up_to(Resource::Draining, lane.owner, LOOK) < LOOK {
            lane.is_held_up = true;
            return;
        }
        lane.quiet = lane.quiet.saturating_add(1);
        self.drain_lane(id);
    }

    pub(super) fn drain_lane(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let Some((index, number)) = lane.place else { return };
        let Some(Attached { segment, .. }) = self.segments.get(&index) else { return };
        let (control, owner) = (segment.control(number), lane.owner);
        if control.head == lane.tail {
            return;
        }
        lane.quiet = 0;
        let back = control.head < lane.tail;
        let behind = control.head.wrapping_sub(lane.tail);
        if back || behind > MAX_JUMP {
            let jumped = match back {
                true => DaemonCounter::LaneHeadJumpedBack,
                false => DaemonCounter::LaneHeadJumpedAhead,
            };
            self.refused.add(owner.pid, jumped, 1);
            lane.tail = control.head;
            return;
        }
        // Of an owner that can have no more spans until the next flush nothing is read: what becomes of
        // it would only be found out later.
        let is_useless = self.budgets.room(Resource::ChangedSpans, owner) == 0;
        let kept = if is_useless { 0 } else { behind.min(control.slots() - 1) };
        let lapped = behind - kept;
        if lane.is_held_up || is_useless {
            self.budgets.shed(Resource::Draining, owner, lapped);
        }
        // The oldest ones; what its share does not reach stays in the ring for the next round.
        let taken = self.budgets.take_up_to(Resource::Draining, owner, kept);
        lane.is_held_up = taken < kept;
        let from = control.head - kept;
        let events = segment.events(number, &control, from..from + taken);
        let read = events.len() as u64;
        let queued = events.into_iter().map(|event| Queued { event, is_claimed: false });
        lane.events.extend(queued);
        lane.tail = from + taken;
        self.captured += lapped + taken;
        self.in_flight += read;
        self.lost.add(owner.pid, DaemonCounter::MarkersLapped, lapped + taken - read);
        self.trim(id, read);
    }

    /// Keeps a lane's queue, to which so many markers were added, within bounds: its own and its owner's.
    pub(super) fn trim(&mut self, id: LaneId, added: u64) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let owner = lane.owner;
        let refused = added - self.budgets.take_up_to(Resource::Markers, owner, added);
        let over = (lane.events.len().saturating_sub(MAX_QUEUED)).max(refused as usize);
        let lost = unclaimed(lane.events.drain(..over.min(lane.events.len())));
        let first = lane.events.front().map_or(lane.tail, |queued| queued.event.index);
        self.budgets.give(Resource::Markers, owner, over as u64 - refused);
        self.budgets.shed(Resource::Markers, owner, refused);
        self.lose_unclaimed(owner.pid, lost);
        if over > 0 {
            self.close_holes(id, first, DaemonCounter::MarkersUnread);
        }
    }

    /// What is still missing below `index` will not come: it is lost.
    pub(super) fn close_holes(&mut self, id: LaneId, index: u64, reason: DaemonCounter) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let missing = lane.close_holes(index);
        self.in_flight -= missing;
        self.lost.add(lane.owner.pid, reason, missing);
    }

    /// Reads what the kernel side did not save of a lane that is attached by now; what is not in the ring
    /// any more is lost.
    pub(super) fn read_holes(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(&id).filter(|lane| !lane.holes.is_empty()) else {
            return;
        };
        let Some((index, number)) = lane.place else { return };
        let Some(Attached { segment, .. }) = self.segments.get(&index) else { return };
        let control = segment.control(number);
        let oldest = control.head.saturating_sub(control.slots() - 1);
        for hole in lane.holes.clone() {
            let kept = hole.start.max(oldest)..hole.end.min(control.head);
            for event in segment.events(number, &control, kept) {
                let fills = u64::from(lane.fill(event));
                self.budgets.force(Resource::Markers, lane.owner, fills);
            }
        }
        self.close_holes(id, u64::MAX, DaemonCounter::MarkersLapped);
    }

    /// Events left their queue, so many of them unclaimed: these are lost.
    pub(super) fn lose_unclaimed(&mut self, pid: Pid, unclaimed: u64) {
        self.in_flight -= unclaimed;
        self.lost.add(pid, DaemonCounter::MarkersUnclaimed, unclaimed);
    }
}
