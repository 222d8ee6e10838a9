//! The ends of images: a fork into a used number, an exec or an exit, and what stays of them for a moment.

use std::collections::HashSet;

use super::{
    Attached, LaneId, Lanes,
    lane::{Lane, unclaimed},
    segment::Segment,
};
use crate::{
    kernel::ktime,
    ledger::{DaemonCounter, Tally},
    model::id::Pid,
};

/// How long a dead image's segment stays mapped, ns: its last markers are drained, linked (which may wait
/// a second for what is late) and named by then.
const DYING_NS: u64 = 1_500_000_000;

impl Lanes {
    /// The image `pid` had before `before` is gone (fork into a used number, exec, exit): its
    /// addresses mean nothing any more. What it published is drained now or still lies in the
    /// mapping; what was attached later is the next image's.
    pub fn forget_image(&mut self, pid: Pid, before: u64) {
        match self.asked.get_mut(&pid) {
            // What hung was the image that is gone.
            Some(asked) if asked.is_late => drop(self.asked.remove(&pid)),
            Some(asked) => asked.ended = asked.ended.max(before),
            None => {}
        }
        if !self.images.contains_key(&pid) {
            self.retries.remove(&pid);
            return;
        }
        self.drain_process(pid);
        let Some(image) = self.images.get_mut(&pid) else { return };
        let (lanes, end) = (&self.lanes, ktime::now() + DYING_NS);
        image.lanes.retain(|_, id| {
            let lane = lanes.get(id);
            let stays = lane.is_some_and(|lane| lane.made_at >= before);
            if !stays && lane.is_some_and(|lane| lane.place.is_none()) {
                self.dying_virtual.push_back((end, *id));
            }
            stays
        });
        let segments = &self.segments;
        let older = |index: &usize| segments.get(index).is_none_or(|a| a.at < before);
        let (old, new): (Vec<usize>, Vec<usize>) =
            std::mem::take(&mut image.segments).into_iter().partition(older);
        image.segments = new;
        let is_virtual = |id: &&LaneId| lanes.get(id).is_some_and(|lane| lane.place.is_none());
        image.virtual_lanes = image.lanes.values().filter(is_virtual).count();
        if image.lanes.is_empty() && image.segments.is_empty() {
            self.images.remove(&pid);
            self.retries.remove(&pid);
        }
        for index in old {
            self.dying.push_back((end, index));
            let Some(Attached { segment, .. }) = self.segments.get(&index) else { continue };
            for (counter, n) in refusals(segment) {
                self.refused.add(pid, counter, n);
            }
        }
    }

    /// What publishers that still live could not publish, as they count it themselves.
    pub fn publishers_refusals(&self) -> Tally {
        let mut tally = Tally::default();
        for (&pid, image) in &self.images {
            let segments = image.segments.iter().filter_map(|index| self.segments.get(index));
            for (counter, n) in segments.flat_map(|attached| refusals(&attached.segment)) {
                tally.add(pid, counter, n);
            }
        }
        tally
    }

    /// Drains one process, whose image is about to be forgotten.
    fn drain_process(&mut self, pid: Pid) {
        self.extend_all(pid);
        let lanes: Vec<LaneId> =
            self.images.get(&pid).map_or_else(Vec::new, |i| i.lanes.values().copied().collect());
        for id in lanes {
            self.drain_lane(id);
        }
    }

    /// Ends a round: what was forgotten long enough ago is unmapped.
    pub fn end_round(&mut self) {
        self.round += 1;
        let now = ktime::now();
        let mut gone = HashSet::new();
        while self.dying.front().is_some_and(|&(end, _)| end < now) {
            if let Some((_, index)) = self.dying.pop_front()
                && let Some(attached) = self.segments.remove(&index)
            {
                self.identities.remove(&attached.segment.identity);
                gone.insert(index);
            }
        }
        while self.dying_virtual.front().is_some_and(|&(end, _)| end < now) {
            if let Some((_, id)) = self.dying_virtual.pop_front() {
                self.consume(id, u64::MAX);
                self.lanes.remove(&id);
                self.saved_names.retain(|(lane, _), _| *lane != id);
            }
        }
        if gone.is_empty() {
            return;
        }
        self.names.retain(|(index, _), _| !gone.contains(index));
        let of_gone =
            |_: &LaneId, lane: &mut Lane| lane.place.is_some_and(|(at, _)| gone.contains(&at));
        let removed: Vec<Lane> = self.lanes.extract_if(of_gone).map(|(_, lane)| lane).collect();
        for lane in removed {
            self.lose_unclaimed(lane.pid, unclaimed(lane.events));
        }
        let lanes = &self.lanes;
        self.live.retain(|id| lanes.contains_key(id));
    }
}

/// A publisher's own counts of what it could not publish; they stand in the first segment of a process.
fn refusals(segment: &Segment) -> [(DaemonCounter, u64); 2] {
    [
        (DaemonCounter::ThreadsWithoutLane, segment.threads_without_lane()),
        (DaemonCounter::PublishesRefused, segment.publishes_refused()),
    ]
}
