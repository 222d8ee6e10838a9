//! Attaching what a process publishes: its segments, and the lanes in them. A process is asked for them
//! (`look`), and what it has is reported a moment later. What cannot be attached then may be later
//! (descriptors run out, a segment that is still being made, a process in the middle of an exec), so such
//! a process is asked again, ever less often. Until then its lanes are *virtual*: they hold what the
//! kernel side saves of them. Once attached they are read on from there; if they never are, the rest is
//! counted as lost.

use std::{collections::HashMap, path::Path};

use agent_ebpf::wire::Counter;
use hotspan_lanes::abi;

use super::{
    Attached, LaneId, Lanes,
    lane::Lane,
    look::{Ask, Found},
    segment::Segment,
};
use crate::{
    ledger::DaemonCounter,
    model::id::Pid,
    process::maps::{Address, Backing, Mapping, ProcessMap},
};

/// Segments of one process (SPEC 6).
pub(super) const MAX_SEGMENTS: usize = 256;
/// Lanes of one process that were named but lie in no segment: as many as segments hold.
const MAX_VIRTUAL: usize = MAX_SEGMENTS * abi::LANE_CAP;
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
        self.asks.push(Ask { pid, known, sweeps });
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
        if let Some(address) = found.too_many {
            self.refuse(pid, address, DaemonCounter::SegmentTooMany, from_birth);
        }
        if ask.sweeps {
            self.owners_of(pid, &found.threads, found.seen_at);
        }
    }

    fn insert(&mut self, pid: Pid, segment: Segment, at: u64, from_birth: bool) {
        if !self.identities.insert(segment.identity) {
            return;
        }
        self.placed += 1;
        let index = self.number();
        self.images.entry(pid).or_default().segments.push(index);
        self.segments.insert(index, Attached { segment, at });
        self.extend(pid, index, from_birth);
    }

    fn number(&mut self) -> usize {
        self.numbers += 1;
        self.numbers
    }

    /// Makes lanes for those that came into use.
    fn extend(&mut self, pid: Pid, index: usize, from_birth: bool) {
        let Some(Attached { segment, at }) = self.segments.get(&index) else { return };
        let mut found = Vec::new();
        let image = self.images.entry(pid).or_default();
        for number in 0..segment.lanes_in_use() {
            let address = segment.lane_address(number);
            if let Some(id) = image.lanes.get(&address) {
                // Named before its segment could be attached. Its tail stays: what was not read before
                // may still be in the ring, and counts as lapped if it is not.
                if let Some(lane) = self.lanes.get_mut(id)
                    && lane.place.is_none()
                {
                    lane.place = Some((index, number));
                    self.placed += 1;
                    lane.made_at = lane.made_at.max(*at);
                    image.virtual_lanes -= 1;
                    self.live.push(*id);
                    found.push(*id);
                }
                continue;
            }
            let control = segment.control(number);
            // What former owners published before anybody looked is not ours to deliver.
            let tail = match (from_birth, control.generation.is_multiple_of(2)) {
                (true, _) => 0,
                (false, true) => control.head,
                (false, false) => {
                    control.first_index.max(control.head.saturating_sub(control.slots() - 1))
                }
            };
            self.numbers += 1;
            let id = LaneId(self.numbers);
            let place = Some((index, number));
            self.lanes.insert(id, Lane::new(pid, place, *at, tail));
            self.live.push(id);
            image.lanes.insert(address, id);
        }
        for id in found {
            self.read_holes(id);
        }
    }

    pub(super) fn extend_all(&mut self, pid: Pid) {
        let known = self.images.get(&pid).map_or_else(Vec::new, |image| image.segments.clone());
        for index in known {
            self.extend(pid, index, true);
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
        lane.is_some_and(|lane| match self.asked.get(&lane.pid) {
            Some(asked) => !asked.is_late,
            None => self.retries.get(&lane.pid).is_some_and(|retry| retry.pause <= SOON),
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
        if self.find(pid, address).is_none() {
            self.extend_all(pid);
        }
        if self.find(pid, address).is_none() {
            let retry = self.retries.get(&pid);
            if let Some(asked) = self.asked.get_mut(&pid) {
                // It may have been looked at before this lane was made.
                asked.again = true;
            } else if !self.has_virtual(pid) || retry.is_none_or(|it| it.round <= self.round) {
                // Else it was asked for one of its lanes in vain, and will be again: not for each.
                self.ask(pid, retry.is_none_or(|retry| retry.from_birth), false);
            }
        }
        self.find(pid, address).or_else(|| self.virtual_lane(pid, address, first_index, seen_at))
    }

    /// The lane at an address, made when there is none: `tail` is the first marker that counts, `made_at`
    /// a moment at which it was there, ktime.
    pub(super) fn virtual_lane(
        &mut self,
        pid: Pid,
        address: Address,
        tail: u64,
        made_at: u64,
    ) -> Option<LaneId> {
        let image = self.images.entry(pid).or_default();
        if let Some(&id) = image.lanes.get(&address) {
            return Some(id);
        }
        if image.virtual_lanes >= MAX_VIRTUAL {
            self.refused.add(pid, Counter::LanesRefused, 1);
            return None;
        }
        image.virtual_lanes += 1;
        self.numbers += 1;
        let id = LaneId(self.numbers);
        image.lanes.insert(address, id);
        self.lanes.insert(id, Lane::new(pid, None, made_at, tail));
        Some(id)
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
