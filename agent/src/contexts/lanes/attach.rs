//! Finding what a process publishes: its segments, and the lanes in them. What cannot be attached now
//! may be later (descriptors run out, a segment that is still being made, a process in the middle of an
//! exec), so such a process is asked again, ever less often; until then its lanes are *virtual*: they
//! hold what the kernel side saves of them, and the rest is counted as lost.

use std::{
    collections::{HashMap, VecDeque},
    io,
    path::Path,
};

use agent_ebpf::wire::Counter;
use hotspan_lanes::abi;

use super::{
    Attached, Lane, LaneId, Lanes,
    segment::{Refused, Segment},
};
use crate::{
    kernel::ktime,
    ledger::DaemonCounter,
    model::id::Pid,
    process::maps::{Address, Backing, Mapping, ProcessMap},
};

/// Segments of one process (SPEC 6).
const MAX_SEGMENTS: usize = 256;
/// Lanes of one process that were named but lie in no segment: as many as segments hold.
const MAX_VIRTUAL: usize = MAX_SEGMENTS * abi::LANE_CAP;
/// Rounds between two tries, at most: some ten seconds.
const MAX_PAUSE: u64 = 512;

/// The try at which a refusal counts: half a second after the first.
const COUNTED_AT: u32 = 6;

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
    /// What was refused, and how often. A segment that is still being made is refused, too: so only
    /// what is refused again and again counts, and counts once.
    refused: HashMap<(Address, DaemonCounter), u32>,
}

// === impl Retry ===

impl Retry {
    fn of(from_birth: bool) -> Self {
        Self { from_birth, ..Self::default() }
    }
}

// === impl Lanes ===

impl Lanes {
    /// Attaches every segment of `pid` that is not attached yet. `from_birth`: the process was seen
    /// making it, so that every marker counts from the first. Returns whether there is any.
    pub(super) fn attach(&mut self, pid: Pid, from_birth: bool) -> bool {
        self.asked += 1;
        let Ok(map) = ProcessMap::read(pid) else { return false };
        if let Some(retry) = self.retries.get_mut(&pid) {
            retry.is_lacking = false;
        }
        for (n, mapping) in segments(&map).enumerate() {
            let known = self.images.get(&pid).map_or(&[][..], |image| &image.segments);
            if n >= MAX_SEGMENTS {
                self.refuse(pid, mapping.start, DaemonCounter::SegmentTooMany, from_birth);
                break;
            }
            let same = |&index: &usize| {
                let attached = self.segments.get(&index);
                attached.is_some_and(|attached| attached.segment.address == mapping.start)
            };
            if known.iter().any(same) {
                continue;
            }
            match Segment::attach(pid, mapping) {
                Ok(segment) => self.insert(pid, segment, from_birth),
                // The mapping moved or went with its process: whoever needs it asks again.
                Err(Refused::Open(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(refused) => {
                    tracing::debug!(%pid, %refused, "segment not attached");
                    self.refuse(pid, mapping.start, refused.counter(), from_birth);
                }
            }
        }
        self.is_attached(pid)
    }

    fn insert(&mut self, pid: Pid, segment: Segment, from_birth: bool) {
        if !self.identities.insert(segment.identity) {
            return;
        }
        let index = self.number();
        self.images.entry(pid).or_default().segments.push(index);
        self.segments.insert(index, Attached { segment, at: ktime::now() });
        self.extend(pid, index, from_birth);
    }

    fn number(&mut self) -> usize {
        self.numbers += 1;
        self.numbers
    }

    /// Makes lanes for those that came into use.
    fn extend(&mut self, pid: Pid, index: usize, from_birth: bool) {
        let Some(Attached { segment, at }) = self.segments.get(&index) else { return };
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
                    lane.made_at = *at;
                    image.virtual_lanes -= 1;
                    self.live.push(*id);
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
            let lane = Lane { pid, place, made_at: *at, tail, events: VecDeque::new() };
            self.lanes.insert(id, lane);
            self.live.push(id);
            image.lanes.insert(address, id);
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
        let times = retry.refused.entry((address, reason)).or_default();
        *times += 1;
        if *times == COUNTED_AT {
            self.refused.add(pid, reason, 1);
        }
    }

    /// Asks the processes again whose turn it is.
    pub(super) fn try_again(&mut self) {
        let due = self.retries.iter().filter(|(_, retry)| retry.round <= self.round);
        let due: Vec<(Pid, bool)> = due.map(|(&pid, retry)| (pid, retry.from_birth)).collect();
        for (pid, from_birth) in due {
            self.attach(pid, from_birth);
            let has_virtual = self.images.get(&pid).is_some_and(|image| image.virtual_lanes > 0);
            let Some(retry) = self.retries.get_mut(&pid) else { continue };
            if has_virtual || retry.is_lacking {
                retry.pause = (retry.pause * 2).clamp(1, MAX_PAUSE);
                retry.round = self.round + retry.pause;
            } else {
                self.retries.remove(&pid);
            }
        }
    }

    pub(super) fn find(&self, pid: Pid, address: Address) -> Option<LaneId> {
        self.images.get(&pid)?.lanes.get(&address).copied()
    }

    /// The lane at an address whose breadcrumb was seen, which its owner has had from `first_index` on.
    /// When its segment cannot be attached (the process is already gone), a place for the markers the
    /// kernel side saves of it; none for a process that names too many of those.
    pub fn lane_or_virtual(
        &mut self,
        pid: Pid,
        address: Address,
        first_index: u64,
    ) -> Option<LaneId> {
        if self.find(pid, address).is_none() {
            self.extend_all(pid);
        }
        // Asked already, and to be asked again: not for each lane.
        let asked = self.retries.get(&pid);
        let waits = asked.is_some_and(|retry| retry.round > self.round);
        if self.find(pid, address).is_none() && !waits {
            self.attach(pid, asked.is_none_or(|retry| retry.from_birth));
        }
        self.find(pid, address).or_else(|| {
            let retry = self.retries.entry(pid).or_insert_with(|| Retry::of(true));
            retry.round = retry.round.max(self.round + 1);
            self.virtual_lane(pid, address, first_index)
        })
    }

    /// The lane at an address, made when there is none: `tail` is the first marker that counts.
    pub(super) fn virtual_lane(&mut self, pid: Pid, address: Address, tail: u64) -> Option<LaneId> {
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
        let made_at = ktime::now();
        self.lanes.insert(id, Lane { pid, place: None, made_at, tail, events: VecDeque::new() });
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
