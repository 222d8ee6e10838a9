//! Attaching what a process publishes: its segments, and the lanes in them. A process is asked for them
//! (`look`), and what it has is reported a moment later. What cannot be attached then may be later
//! (descriptors run out, a segment that is still being made, a process in the middle of an exec), so such
//! a process is asked again, ever less often. Until then its lanes are *virtual*: they hold what the
//! kernel side saves of them. Once attached they are read on from there; if they never are, the rest is
//! counted as lost.

use std::{collections::HashMap, path::Path};

use hotspan_lanes::abi;

use super::{
    Attached, Image, LaneId, Lanes,
    lane::Lane,
    look::{Ask, Found},
    segment::Segment,
};
use crate::{
    budget::Resource,
    ledger::DaemonCounter,
    model::id::Pid,
    process::maps::{Address, Backing, Mapping, ProcessMap},
};

/// Segments of one process (SPEC 6).
pub(super) const MAX_SEGMENTS: usize = 256;
/// Rounds between two tries, at most: some ten seconds.
const MAX_PAUSE: u64 = 512;

/// A process with a longer pause than this many rounds is asked in vain.
const SOON: u64 = 4;
/// A refusal counts when it is still one so many rounds after the first: half a second or so.
const COUNTED_AFTER: u64 = 30;

/// When a process is asked again for what could not be attached.
#[derive(Debug, Default)]
pub(super) struct Retry {
    /// Not before this round.
    round: u64,
    /// Rounds from there to the next.
    pause: u64,
    /// Every marker of it counts, from the first: it was not there before us.
    from_birth: bool,
    /// The last try left something out.
    is_lacking: bool,
    /// It did not bring the lanes that were named before.
    is_vain: bool,
    /// What was refused, and since which round, until it is counted. A segment that is still being made
    /// is refused, too: so only what is refused for a while counts, and counts once.
    refused: HashMap<(Address, DaemonCounter), Option<u64>>,
}

/// A question about a process that is under way.
#[derive(Debug)]
pub(super) struct Asked {
    /// Every marker of what is found counts, from the first.
    from_birth: bool,
    /// As of all lanes when it was asked.
    placed: u64,
    /// Images that began before this, ktime, are gone.
    pub(super) ended: u64,
    /// A lane was named meanwhile.
    again: bool,
    /// A sweep asked.
    sweeps: bool,
    /// Nobody waits for the answer any more; it may still come.
    pub(super) is_late: bool,
}

// === impl Retry ===

impl Retry {
    fn of(from_birth: bool) -> Self {
        Self { from_birth, ..Self::default() }
    }
}

// === impl Lanes ===

impl Lanes {
    /// Asks what `pid` publishes that is not attached yet, unless that is being asked. `from_birth`: the
    /// process was seen making it, so that every marker counts from the first.
    pub(super) fn ask(&mut self, pid: Pid, from_birth: bool, sweeps: bool) {
        if self.asked.contains_key(&pid) {
            return;
        }
        self.sweeping += usize::from(sweeps);
        let (placed, ended, again, is_late) = (self.placed, 0, false, false);
        self.asked.insert(pid, Asked { from_birth, placed, ended, again, sweeps, is_late });
        let known = self.images.get(&pid).map_or(&[][..], |image| &image.segments);
        let address = |index| self.segments.get(index).map(|attached| attached.segment.address);
        let known = known.iter().filter_map(address).collect();
        let most = self.budgets.room(Resource::Segments, self.budgets.owner(pid));
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        self.asks.push(Ask { pid, known, sweeps, most });
    }

    /// Questions for the reader, each once.
    pub fn take_asks(&mut self) -> Vec<Ask> {
        std::mem::take(&mut self.asks)
    }

    /// Attaches what was found, perhaps late.
    pub fn answered(&mut self, ask: &Ask, found: Found) {
        let pid = ask.pid;
        let Some(asked) = self.end_asking(pid) else { return };
        let Asked { from_birth, placed, ended, mut again, .. } = asked;
        if found.at < ended {
            // All of it is of an image that is gone: its last markers are in its tails.
            again = true;
        } else {
            self.take_found(ask, found, from_birth);
        }
        self.ask_later(pid, from_birth, self.placed > placed, again);
    }

    /// A process is being looked at for too long: nobody waits for it any more, nor asks it anything else.
    pub fn hangs(&mut self, pid: Pid) {
        if let Some(asked) = self.asked.get_mut(&pid) {
            self.sweeping -= usize::from(asked.sweeps && !asked.is_late);
            asked.is_late = true;
        }
    }

    /// A process was not looked at, nor will be.
    pub fn refused(&mut self, pid: Pid) {
        if let Some(asked) = self.end_asking(pid) {
            self.ask_later(pid, asked.from_birth, false, false);
        }
    }

    fn end_asking(&mut self, pid: Pid) -> Option<Asked> {
        let asked = self.asked.remove(&pid)?;
        self.sweeping -= usize::from(asked.sweeps && !asked.is_late);
        Some(asked)
    }

    /// What was asked may have left something out: when is it asked again? It brought `is_more` than there
    /// was, or not, and meanwhile there was reason to ask `again`, or not.
    fn ask_later(&mut self, pid: Pid, from_birth: bool, is_more: bool, again: bool) {
        let has_virtual = self.has_virtual(pid);
        if !has_virtual && !self.retries.get(&pid).is_some_and(|retry| retry.is_lacking) {
            self.retries.remove(&pid);
            return;
        }
        let retry = self.retries.entry(pid).or_insert_with(|| Retry::of(from_birth));
        if is_more {
            (retry.pause, retry.is_vain) = (0, false);
        }
        // At once only where asking brings something: lanes that lie nowhere are named as often as a
        // process likes.
        let at_once = again && !retry.is_vain;
        retry.is_vain = has_virtual;
        retry.pause = (retry.pause * 2).clamp(1, MAX_PAUSE);
        retry.round = self.round + retry.pause;
        if at_once {
            self.ask(pid, from_birth, false);
        }
    }

    fn take_found(&mut self, ask: &Ask, found: Found, from_birth: bool) {
        let pid = ask.pid;
        if let Some(retry) = self.retries.get_mut(&pid) {
            retry.is_lacking = false;
        }
        for (address, segment) in found.segments {
            match segment {
                Ok(segment) => self.insert(pid, segment, found.at, from_birth),
                Err(refused) => {
                    tracing::debug!(%pid, %refused, "segment not attached");
                    self.refuse(pid, address, refused.counter(), from_birth);
                }
            }
        }
        if let Some((address, reason)) = found.too_many {
            if reason == DaemonCounter::SegmentsOverBudget {
                self.budgets.remark(Resource::Segments, self.budgets.owner(pid), 1);
            }
            self.refuse(pid, address, reason, from_birth);
        }
        if ask.sweeps {
            self.owners_of(pid, &found.threads, found.seen_at);
        }
    }

    pub(super) fn insert(&mut self, pid: Pid, segment: Segment, at: u64, from_birth: bool) {
        if self.identities.contains(&segment.identity) {
            return;
        }
        let owner = self.budgets.owner(pid);
        if self.budgets.take_up_to(Resource::Segments, owner, 1) == 0 {
            self.budgets.remark(Resource::Segments, owner, 1);
            let address = segment.address;
            return self.refuse(pid, address, DaemonCounter::SegmentsOverBudget, from_birth);
        }
        self.identities.insert(segment.identity);
        self.placed += 1;
        let index = self.number();
        let image = self.image(pid);
        image.segments.push(index);
        let image = image.number;
        self.segments.insert(index, Attached { segment, owner, image, at });
        self.place_named(pid, index);
    }

    pub(super) fn number(&mut self) -> usize {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn image(&mut self, pid: Pid) -> &mut Image {
        let numbers = &mut self.numbers;
        self.images.entry(pid).or_insert_with(|| {
            *numbers += 1;
            Image { number: *numbers, ..Image::default() }
        })
    }

    /// Lanes that were named before their segment could be attached: their tail stays. What was not read
    /// before may still be in the ring, and counts as lapped if it is not.
    fn place_named(&mut self, pid: Pid, index: usize) {
        let Some(Attached { segment, at, .. }) = self.segments.get(&index) else { return };
        let Some(image) = self.images.get_mut(&pid) else { return };
        let mut found = Vec::new();
        for number in 0..abi::LANE_CAP {
            let Some(&id) = image.lanes.get(&segment.lane_address(number)) else { continue };
            let lane = self.lanes.get_mut(&id).filter(|lane| lane.place.is_none());
            let Some(lane) = lane else { continue };
            lane.place = Some((index, number));
            lane.made_at = lane.made_at.max(*at);
            image.virtual_lanes -= 1;
            found.push(id);
        }
        for id in found {
            self.placed += 1;
            self.watch(id);
            self.read_holes(id);
        }
    }

    /// Counts what is wrong with a segment, and asks the process again later.
    fn refuse(&mut self, pid: Pid, address: Address, reason: DaemonCounter, from_birth: bool) {
        let retry = self.retries.entry(pid).or_insert_with(|| Retry::of(from_birth));
        retry.is_lacking = true;
        if retry.refused.len() >= 2 * MAX_SEGMENTS {
            return;
        }
        let since = retry.refused.entry((address, reason)).or_insert(Some(self.round));
        if since.is_some_and(|since| self.round >= since + COUNTED_AFTER) {
            *since = None;
            self.refused.add(pid, reason, 1);
        }
    }

    /// Asks the processes again whose turn it is.
    pub(super) fn try_again(&mut self) {
        let due = self.retries.iter().filter(|(_, retry)| retry.round <= self.round);
        let due: Vec<(Pid, bool)> = due.map(|(&pid, retry)| (pid, retry.from_birth)).collect();
        for (pid, from_birth) in due {
            self.ask(pid, from_birth, false);
        }
    }

    /// Whether a lane that cannot be read yet may be in a moment.
    pub fn is_awaited(&self, id: LaneId) -> bool {
        let lane = self.lanes.get(&id).filter(|lane| lane.place.is_none());
        lane.is_some_and(|lane| match self.asked.get(&lane.owner.pid) {
            Some(asked) => !asked.is_late,
            None => self.retries.get(&lane.owner.pid).is_some_and(|it| it.pause <= SOON),
        })
    }

    fn has_virtual(&self, pid: Pid) -> bool {
        self.images.get(&pid).is_some_and(|image| image.virtual_lanes > 0)
    }

    pub(super) fn find(&self, pid: Pid, address: Address) -> Option<LaneId> {
        self.images.get(&pid)?.lanes.get(&address).copied()
    }

    /// The lane at an address whose breadcrumb was seen at `seen_at`, and which its owner has had from
    /// `first_index` on. Until its segment is attached (which may be never, the process may be gone), a
    /// place for the markers the kernel side saves of it; none for a process that names too many of
    /// those.
    pub fn lane_or_virtual(
        &mut self,
        pid: Pid,
        address: Address,
        first_index: u64,
        seen_at: u64,
    ) -> Option<LaneId> {
        if let Some(id) = self.find(pid, address) {
            return Some(id);
        }
        let (id, is_placed) = self.new_lane(pid, address, first_index, seen_at)?;
        if !is_placed {
            let retry = self.retries.get(&pid);
            if let Some(asked) = self.asked.get_mut(&pid) {
                // It may have been looked at before this lane was made.
                asked.again = true;
            } else if !self.has_virtual(pid) || retry.is_none_or(|it| it.round <= self.round) {
                // Else it was asked for one of its lanes in vain, and will be again: not for each.
                self.ask(pid, retry.is_none_or(|retry| retry.from_birth), false);
            }
        }
        Some(id)
    }

    /// The lane at an address, made when there is none: `tail` is the first marker that counts, `made_at`
    /// a moment at which it was there, ktime.
    pub(super) fn lane(
        &mut self,
        pid: Pid,
        address: Address,
        tail: u64,
        made_at: u64,
    ) -> Option<LaneId> {
        let known = self.find(pid, address);
        known.or_else(|| self.new_lane(pid, address, tail, made_at).map(|(id, _)| id))
    }

    /// The same where there is none yet. None when its process or user has too many. Also says whether its
    /// segment is attached.
    fn new_lane(
        &mut self,
        pid: Pid,
        address: Address,
        tail: u64,
        made_at: u64,
    ) -> Option<(LaneId, bool)> {
        let owner = self.budgets.owner(pid);
        if !self.budgets.take(Resource::Lanes, owner, 1) {
            return None;
        }
        let id = LaneId(self.number());
        let segments = &self.segments;
        let place_in = |&index: &usize| {
            let attached = segments.get(&index)?;
            Some((index, attached.segment.number_of(address)?))
        };
        let known = self.images.get(&pid);
        let place = known.and_then(|image| image.segments.iter().find_map(place_in));
        let at = place.and_then(|(index, _)| self.segments.get(&index)).map_or(0, |it| it.at);
        self.lanes.insert(id, Lane::new(owner, place, made_at.max(at), tail));
        let image = self.image(pid);
        image.lanes.insert(address, id);
        image.virtual_lanes += usize::from(place.is_none());
        if place.is_some() {
            self.watch(id);
        }
        Some((id, place.is_some()))
    }

    /// Whether everything `pid` is known to publish can be read here.
    pub fn is_whole(&self, pid: Pid) -> bool {
        let lacks = |retry: &Retry| retry.is_lacking;
        self.images.get(&pid).is_some_and(|i| !i.segments.is_empty() && i.virtual_lanes == 0)
            && !self.retries.get(&pid).is_some_and(lacks)
    }

    /// Whether any segment of `pid` is mapped.
    pub fn is_attached(&self, pid: Pid) -> bool {
        self.images.get(&pid).is_some_and(|image| !image.segments.is_empty())
    }
}

/// The mappings of a process that are called like segments. A reader's are not writable (SPEC 8, 9).
pub(super) fn segments(map: &ProcessMap) -> impl Iterator<Item = &Mapping> {
    map.mappings().iter().filter(|mapping| match &mapping.backing {
        Backing::File { path, .. } => {
            mapping.is_shared_writable && mapping.offset.0 == 0 && is_segment(path)
        }
        _ => false,
    })
}

fn is_segment(path: &Path) -> bool {
    let name = path.as_os_str().as_encoded_bytes();
    name.strip_prefix(b"/memfd:").is_some_and(|rest| rest == abi::SEGMENT_NAME.as_bytes())
}
