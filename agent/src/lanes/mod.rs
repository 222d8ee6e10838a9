//! Lanes: what the traced processes publish. Finds their segments, drains their rings into
//! per-lane queues of events, and resolves names. Knows nothing of spans' time.
//!
//! Addresses mean something within one image of a process only. Fork, exec and exit end an image;
//! their records carry a time, and what was attached after that time belongs to the next image.

pub mod segment;
mod sweep;

pub use sweep::Owner;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    io,
    path::Path,
};

use agent_ebpf::wire::{self, thread::lane_line};
use hotspan_lanes::abi::{self, Event};

use crate::{
    kernel::ktime,
    process::{
        id::Pid,
        maps::{Address, Backing, ProcessMap},
    },
};
use segment::{Control, Refused, Segment};

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

/// Events kept of a lane that nobody consumes.
const MAX_QUEUED: usize = 1 << 16;
/// Rounds a dead image's segment stays mapped: its last markers are drained and named by then.
const DYING_ROUNDS: u64 = 64;
/// Segments attached of one process.
const MAX_SEGMENTS: usize = 64;
/// Lanes of one process that were named but lie in no segment.
const MAX_VIRTUAL: usize = 256;
/// A lane that jumps further ahead than this at once does not tell the truth.
const MAX_JUMP: u64 = 1 << 32;

/// A lane of the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(usize);

/// A lane: its place and the events drained from it but not yet consumed.
#[derive(Debug)]
struct Lane {
    pid: Pid,
    /// Index of its segment and number in it; none for markers saved by the kernel side.
    place: Option<(usize, usize)>,
    /// When it became known, ktime.
    made_at: u64,
    /// Next index to drain.
    tail: u64,
    events: VecDeque<Event>,
}

/// A mapped segment and when it was mapped, ktime.
#[derive(Debug)]
struct Attached {
    segment: Segment,
    at: u64,
}

/// What is known of the present image of a process.
#[derive(Debug, Default)]
struct Image {
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
    /// Lanes still worth draining.
    live: Vec<LaneId>,
    images: HashMap<Pid, Image>,
    identities: HashSet<(u64, u64)>,
    names: HashMap<(usize, u32), String>,
    /// Names the kernel side saved along with markers.
    saved_names: HashMap<(LaneId, u32), String>,
    /// Segments of images that are gone, and the round after which they are unmapped.
    dying: VecDeque<(u64, usize)>,
    /// Lanes without a segment of such images, likewise.
    dying_virtual: VecDeque<(u64, LaneId)>,
    /// Processes in which an attach found nothing this round: not asked again before the next.
    barren: HashSet<Pid>,
    round: u64,
    /// Markers seen at the source since attach.
    pub captured: u64,
    /// Delivered to the queues.
    pub delivered: u64,
    /// Lost by process and reason.
    pub lost: Tally,
    /// Segments refused and other oddities, by process and reason.
    pub refused: Tally,
}

/// Counts by process and reason.
pub type Tally = BTreeMap<(Pid, &'static str), u64>;

// === impl Lanes ===

impl Lanes {
    /// Attaches every segment of `pid` that is not attached yet. `from_birth`: the process was seen
    /// making it, so that every marker counts from the first. Returns whether there is any.
    fn attach(&mut self, pid: Pid, from_birth: bool) -> bool {
        let Ok(map) = ProcessMap::read(pid) else { return false };
        for mapping in map.mappings() {
            let Backing::File { path, .. } = &mapping.backing else { continue };
            if mapping.offset.0 != 0 || !is_segment(path) {
                continue;
            }
            let known = self.images.get(&pid).map_or(&[][..], |image| &image.segments);
            if known.len() >= MAX_SEGMENTS {
                self.refuse(pid, "segment_too_many");
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
                    self.refuse(pid, refused.key());
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
            if image.lanes.contains_key(&address) {
                continue;
            }
            let control = segment.control(number);
            let tail =
                if from_birth { 0 } else { control.head.saturating_sub(control.slots() - 1) };
            self.numbers += 1;
            let id = LaneId(self.numbers);
            let place = Some((index, number));
            let lane = Lane { pid, place, made_at: *at, tail, events: VecDeque::new() };
            self.lanes.insert(id, lane);
            self.live.push(id);
            image.lanes.insert(address, id);
        }
    }

    fn extend_all(&mut self, pid: Pid) {
        let known = self.images.get(&pid).map_or_else(Vec::new, |image| image.segments.clone());
        for index in known {
            self.extend(pid, index, true);
        }
    }

    fn refuse(&mut self, pid: Pid, reason: &'static str) {
        *self.refused.entry((pid, reason)).or_default() += 1;
    }

    fn find(&self, pid: Pid, address: Address) -> Option<LaneId> {
        self.images.get(&pid)?.lanes.get(&address).copied()
    }

    /// The lane at an address whose breadcrumb was seen. When its segment cannot be attached (the
    /// process is already gone), a place for the markers the kernel side saves of it; none for a
    /// process that names too many of those.
    pub fn lane_or_virtual(&mut self, pid: Pid, address: Address) -> Option<LaneId> {
        if self.find(pid, address).is_none() {
            self.extend_all(pid);
        }
        if self.find(pid, address).is_none() && !self.barren.contains(&pid) {
            self.attach(pid, true);
            if self.find(pid, address).is_none() {
                self.barren.insert(pid);
            }
        }
        self.find(pid, address).or_else(|| self.virtual_lane(pid, address))
    }

    fn virtual_lane(&mut self, pid: Pid, address: Address) -> Option<LaneId> {
        let image = self.images.entry(pid).or_default();
        if let Some(&id) = image.lanes.get(&address) {
            return Some(id);
        }
        if image.virtual_lanes >= MAX_VIRTUAL {
            self.refuse(pid, "lanes_refused");
            return None;
        }
        image.virtual_lanes += 1;
        self.numbers += 1;
        let id = LaneId(self.numbers);
        image.lanes.insert(address, id);
        let made_at = ktime::now();
        self.lanes.insert(id, Lane { pid, place: None, made_at, tail: 0, events: VecDeque::new() });
        Some(id)
    }

    /// Whether any segment of `pid` is mapped.
    pub fn is_attached(&self, pid: Pid) -> bool {
        self.images.get(&pid).is_some_and(|image| !image.segments.is_empty())
    }

    /// Keeps markers that the kernel side saved from a dying image.
    pub fn add_tail(&mut self, tail: &wire::Tail) {
        let pid = Pid(tail.tgid);
        let Some(id) = self.virtual_lane(pid, Address(tail.va)) else { return };
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        for (i, bytes) in (0..tail.count).zip(&tail.events) {
            let mut words = [0u64; abi::EVENT_WORDS];
            for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *word = u64::from_le_bytes(*bytes);
            }
            let event = Event::from_words(&words);
            // Another index: the slot was being written, or lies. Below the tail: attached in the
            // meantime, so it was drained.
            if event.index != tail.first.wrapping_add(i) || event.index < lane.tail {
                continue;
            }
            self.captured += 1;
            self.delivered += 1;
            lane.tail = event.index + 1;
            lane.events.push_back(event);
        }
        self.trim(id);
    }

    /// Keeps a name that saved markers refer to.
    pub fn add_name(&mut self, name: &wire::Name) {
        if let Some(id) = self.virtual_lane(Pid(name.tgid), Address(name.va)) {
            let text = || segment::entry_text(&name.entry);
            self.saved_names.entry((id, name.id)).or_insert_with(text);
        }
    }

    /// Drains every lane whose head moved.
    pub fn drain(&mut self) {
        let pids: Vec<Pid> = self.images.keys().copied().collect();
        for pid in pids {
            self.extend_all(pid);
        }
        for i in 0..self.live.len() {
            self.drain_lane(self.live[i]);
        }
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

    fn drain_lane(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let Some((index, number)) = lane.place else { return };
        let Some(Attached { segment, .. }) = self.segments.get(&index) else { return };
        let control = segment.control(number);
        if control.head == lane.tail {
            return;
        }
        let back = control.head < lane.tail;
        let behind = control.head.wrapping_sub(lane.tail);
        if back || behind > MAX_JUMP {
            let reason = if back { "lane_head_jumped_back" } else { "lane_head_jumped_ahead" };
            *self.refused.entry((lane.pid, reason)).or_default() += 1;
            lane.tail = control.head;
            return;
        }
        self.captured += behind;
        let kept = behind.min(control.slots() - 1);
        let before = lane.events.len();
        segment.events(number, &control, control.head - kept..control.head, &mut lane.events);
        let read = (lane.events.len() - before) as u64;
        self.delivered += read;
        lane.tail = control.head;
        if behind > read {
            *self.lost.entry((lane.pid, "markers_lapped")).or_default() += behind - read;
        }
        self.trim(id);
    }

    /// Keeps a lane that nobody consumes within bounds.
    fn trim(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        while lane.events.len() > MAX_QUEUED {
            lane.events.pop_front();
            self.delivered -= 1;
            *self.lost.entry((lane.pid, "markers_unclaimed")).or_default() += 1;
        }
    }

    /// Ends a round: what was forgotten long enough ago is unmapped.
    pub fn end_round(&mut self) {
        self.round += 1;
        self.barren.clear();
        let mut gone = HashSet::new();
        while self.dying.front().is_some_and(|&(round, _)| round < self.round) {
            if let Some((_, index)) = self.dying.pop_front()
                && let Some(attached) = self.segments.remove(&index)
            {
                self.identities.remove(&attached.segment.identity);
                gone.insert(index);
            }
        }
        while self.dying_virtual.front().is_some_and(|&(round, _)| round < self.round) {
            if let Some((_, id)) = self.dying_virtual.pop_front() {
                self.lanes.remove(&id);
                self.saved_names.retain(|(lane, _), _| *lane != id);
            }
        }
        if gone.is_empty() {
            return;
        }
        self.names.retain(|(index, _), _| !gone.contains(index));
        self.lanes.retain(|_, lane| lane.place.is_none_or(|(index, _)| !gone.contains(&index)));
        let lanes = &self.lanes;
        self.live.retain(|id| lanes.contains_key(id));
    }

    /// Events drained and not yet consumed, in order of index (with holes where some were lost).
    pub fn events(&self, id: LaneId) -> &VecDeque<Event> {
        static NONE: VecDeque<Event> = VecDeque::new();
        self.lanes.get(&id).map_or(&NONE, |lane| &lane.events)
    }

    /// Where draining has come to: events before this index are queued or lost.
    pub fn drained_to(&self, id: LaneId) -> u64 {
        self.lanes.get(&id).map_or(u64::MAX, |lane| lane.tail)
    }

    /// Drops events before `index`.
    pub fn consume(&mut self, id: LaneId, index: u64) {
        let Some(Lane { events, .. }) = self.lanes.get_mut(&id) else { return };
        while events.front().is_some_and(|event| event.index < index) {
            events.pop_front();
        }
    }

    /// The name behind an id in the lane's process.
    pub fn name(&mut self, id: LaneId, name: u32) -> String {
        let Some((index, _)) = self.lanes.get(&id).and_then(|lane| lane.place) else {
            return self.saved_names.get(&(id, name)).cloned().unwrap_or_default();
        };
        let Some(Attached { segment, .. }) = self.segments.get(&index) else {
            return String::new();
        };
        self.names.entry((index, name)).or_insert_with(|| segment.name(name)).clone()
    }

    /// The image `pid` had before `before` is gone (fork into a used number, exec, exit): its
    /// addresses mean nothing any more. What it published is drained now or still lies in the
    /// mapping; what was attached later is the next image's.
    pub fn forget_image(&mut self, pid: Pid, before: u64) {
        if !self.images.contains_key(&pid) {
            return;
        }
        self.drain_process(pid);
        let Some(image) = self.images.get_mut(&pid) else { return };
        let (lanes, end) = (&self.lanes, self.round + DYING_ROUNDS);
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
        }
        for index in old {
            self.dying.push_back((end, index));
            let Some(Attached { segment, .. }) = self.segments.get(&index) else { continue };
            let counts = [
                ("threads_without_lane", segment.threads_without_lane()),
                ("publishes_refused", segment.publishes_refused()),
            ];
            for (key, n) in counts.into_iter().filter(|(_, n)| *n > 0) {
                *self.refused.entry((pid, key)).or_default() += n;
            }
        }
    }

    /// The pid a lane belongs to.
    pub fn pid(&self, id: LaneId) -> Pid {
        self.lanes.get(&id).map_or(Pid(0), |lane| lane.pid)
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

fn is_segment(path: &Path) -> bool {
    let name = path.as_os_str().as_encoded_bytes();
    name.strip_prefix(b"/memfd:").is_some_and(|rest| rest == abi::SEGMENT_NAME.as_bytes())
}
