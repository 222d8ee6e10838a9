//! The ends of images: a fork into a used number, an exec or an exit, and what stays of them for a moment.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use super::{
    Attached, LaneId, Lanes,
    lane::{Lane, unclaimed},
    segment::Segment,
};
use crate::{
    budget::{Budgets, Owner, Resource},
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
        // Names of the next image are others.
        self.numbers += 1;
        image.number = self.numbers;
        for index in &new {
            if let Some(attached) = self.segments.get_mut(index) {
                attached.image = image.number;
            }
        }
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
        let (mut gone, mut gone_lanes) = (HashSet::new(), HashSet::new());
        let mut images = HashSet::new();
        while self.dying.front().is_some_and(|&(end, _)| end < now) {
            if let Some((_, index)) = self.dying.pop_front()
                && let Some(attached) = self.segments.remove(&index)
            {
                self.identities.remove(&attached.segment.identity);
                self.budgets.give(Resource::Segments, attached.owner, 1);
                images.insert(attached.image);
                gone.insert(index);
            }
        }
        while self.dying_virtual.front().is_some_and(|&(end, _)| end < now) {
            if let Some((_, id)) = self.dying_virtual.pop_front() {
                self.consume(id, u64::MAX);
                if let Some(lane) = self.lanes.remove(&id) {
                    self.budgets.give(Resource::Lanes, lane.owner, 1);
                }
                gone_lanes.insert(id);
            }
        }
        if !gone_lanes.is_empty() {
            give_back(&self.budgets, &mut self.saved_names, |lane| gone_lanes.contains(lane));
        }
        if gone.is_empty() {
            return;
        }
        for attached in self.segments.values() {
            images.remove(&attached.image);
        }
        give_back(&self.budgets, &mut self.names, |image| images.contains(image));
        let of_gone =
            |_: &LaneId, lane: &mut Lane| lane.place.is_some_and(|(at, _)| gone.contains(&at));
        let removed: Vec<(LaneId, Lane)> = self.lanes.extract_if(of_gone).collect();
        let mut gone_lanes = HashSet::new();
        for (id, lane) in removed {
            gone_lanes.insert(id);
            self.budgets.give(Resource::Lanes, lane.owner, 1);
            self.budgets.give(Resource::Markers, lane.owner, lane.events.len() as u64);
            self.lose_unclaimed(lane.owner.pid, unclaimed(lane.events));
        }
        give_back(&self.budgets, &mut self.saved_names, |lane| gone_lanes.contains(lane));
        for list in [&mut self.busy, &mut self.idle] {
            list.retain(|id| !gone_lanes.contains(id));
            list.shrink_to(2 * list.len());
        }
    }
}

/// Forgets names of those that are gone.
fn give_back<K: Copy + Eq + Hash>(
    budgets: &Budgets,
    names: &mut HashMap<(K, u32), (Arc<str>, Owner)>,
    is_gone: impl Fn(&K) -> bool,
) {
    names.retain(|(of, _), (_, owner)| {
        if is_gone(of) {
            budgets.give(Resource::Names, *owner, 1);
            return false;
        }
        true
    });
}

/// A publisher's own counts of what it could not publish; they stand in the first segment of a process.
fn refusals(segment: &Segment) -> [(DaemonCounter, u64); 2] {
    [
        (DaemonCounter::ThreadsWithoutLane, segment.threads_without_lane()),
        (DaemonCounter::PublishesRefused, segment.publishes_refused()),
    ]
}
