//! Lanes: what the traced processes publish. Finds their segments, drains their rings into
//! per-lane queues of events, and resolves names. Knows nothing of spans' time.

pub mod segment;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fs, io,
    path::Path,
};

use agent_ebpf::wire::{self, LaneRef, thread::lane_line};
use hotspan_lanes::abi::{self, Event};

use crate::process::{
    id::Pid,
    maps::{Address, Backing, ProcessMap},
};
use segment::{Refused, Segment, start_ticks};

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

/// A lane of the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(usize);

/// A lane: its place and the events drained from it but not yet consumed.
#[derive(Debug)]
struct Lane {
    pid: Pid,
    /// Index of its segment and number in it; none for markers saved by the kernel side.
    place: Option<(usize, usize)>,
    /// Next index to drain.
    tail: u64,
    events: VecDeque<Event>,
}

/// A living thread that owns a lane older than the agent.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// Its id in the initial pid namespace.
    pub tid: u32,
    /// Its lane.
    pub lane: LaneId,
    /// What the kernel side is to know.
    pub reference: LaneRef,
}

/// Every lane of every process.
#[derive(Debug, Default)]
pub struct Lanes {
    segments: Vec<Option<Segment>>,
    lanes: Vec<Lane>,
    by_address: HashMap<(Pid, Address), LaneId>,
    by_process: HashMap<Pid, Vec<usize>>,
    attached: HashSet<(u64, u64)>,
    names: HashMap<(usize, u32), String>,
    /// Names the kernel side saved along with markers.
    saved_names: HashMap<(LaneId, u32), String>,
    /// Segments of images that are gone, and the round after which they are unmapped.
    dying: VecDeque<(u64, usize)>,
    round: u64,
    /// Markers seen at the source since attach, delivered to queues, and lost by reason.
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

/// A lane that jumps further ahead than this at once does not tell the truth.
const MAX_JUMP: u64 = 1 << 32;

// === impl Lanes ===

impl Lanes {
    /// Attaches every segment of `pid` that is not attached yet. `from_birth`: the process was seen
    /// making it, so that every marker counts from the first. Returns whether there is any.
    pub fn attach(&mut self, pid: Pid, from_birth: bool) -> bool {
        let Ok(map) = ProcessMap::read(pid) else {
            return false;
        };
        for mapping in map.mappings() {
            let Backing::File { path, .. } = &mapping.backing else {
                continue;
            };
            if mapping.offset.0 != 0 || !is_segment(path) {
                continue;
            }
            if self.by_process.get(&pid).is_some_and(|s| s.len() >= MAX_SEGMENTS) {
                self.refuse(pid, "segment_too_many");
                break;
            }
            if self.by_process.get(&pid).is_some_and(|segments| {
                segments
                    .iter()
                    .any(|&s| self.segments[s].as_ref().is_some_and(|s| s.address == mapping.start))
            }) {
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
        self.by_process.contains_key(&pid)
    }

    fn insert(&mut self, pid: Pid, segment: Segment, from_birth: bool) {
        if !self.attached.insert(segment.identity) {
            return;
        }
        let index = self.segments.len();
        self.by_process.entry(pid).or_default().push(index);
        self.segments.push(Some(segment));
        self.extend(pid, index, from_birth);
    }

    /// Makes lanes for those that came into use.
    fn extend(&mut self, pid: Pid, index: usize, from_birth: bool) {
        let Some(Some(segment)) = self.segments.get(index) else {
            return;
        };
        for number in 0..segment.lanes_in_use() {
            let address = segment.lane_address(number);
            if self.by_address.contains_key(&(pid, address)) {
                continue;
            }
            let control = segment.control(number);
            let slots =
                1u64 << if control.grown_at != 0 { abi::RING_LOG2_MAX } else { control.ring_log2 };
            let tail = if from_birth { 0 } else { control.head.saturating_sub(slots - 1) };
            let id = LaneId(self.lanes.len());
            let place = Some((index, number));
            self.lanes.push(Lane { pid, place, tail, events: VecDeque::new() });
            self.by_address.insert((pid, address), id);
        }
    }

    fn refuse(&mut self, pid: Pid, reason: &'static str) {
        *self.refused.entry((pid, reason)).or_default() += 1;
    }

    /// The lane `pid` sees at `address`, attaching its segment if need be.
    pub fn lane_at(&mut self, pid: Pid, address: Address, from_birth: bool) -> Option<LaneId> {
        if let Some(&id) = self.by_address.get(&(pid, address)) {
            return Some(id);
        }
        let known = self.by_process.get(&pid).cloned().unwrap_or_default();
        for index in known {
            self.extend(pid, index, true);
        }
        if !self.by_address.contains_key(&(pid, address)) {
            self.attach(pid, from_birth);
        }
        self.by_address.get(&(pid, address)).copied()
    }

    /// The lane at an address whose breadcrumb was seen. When its segment cannot be attached (the
    /// process is already gone), a place for the markers the kernel side saves of it.
    pub fn lane_or_virtual(&mut self, pid: Pid, address: Address) -> LaneId {
        if let Some(id) = self.lane_at(pid, address, true) {
            return id;
        }
        self.virtual_lane(pid, address)
    }

    fn virtual_lane(&mut self, pid: Pid, address: Address) -> LaneId {
        *self.by_address.entry((pid, address)).or_insert_with(|| {
            self.lanes.push(Lane { pid, place: None, tail: 0, events: VecDeque::new() });
            LaneId(self.lanes.len() - 1)
        })
    }

    /// Whether any segment of `pid` is mapped.
    pub fn is_attached(&self, pid: Pid) -> bool {
        self.by_process.contains_key(&pid)
    }

    /// Keeps markers that the kernel side saved from a dying process.
    pub fn add_tail(&mut self, tail: &wire::Tail) {
        let pid = Pid(tail.tgid);
        let id = self.virtual_lane(pid, Address(tail.va));
        let lane = &mut self.lanes[id.0];
        for bytes in tail.events.iter().take(tail.count as usize) {
            let mut words = [0u64; abi::EVENT_WORDS];
            for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *word = u64::from_le_bytes(*bytes);
            }
            let event = Event::from_words(&words);
            // Attached in the meantime: these were, or will be, drained.
            if event.index < lane.tail {
                continue;
            }
            if words[0] != 0 {
                self.captured += 1;
                self.delivered += 1;
                lane.tail = event.index + 1;
                lane.events.push_back(event);
            }
        }
    }

    /// Keeps a name that saved markers refer to.
    pub fn add_name(&mut self, name: &wire::Name) {
        let id = self.virtual_lane(Pid(name.tgid), Address(name.va));
        self.saved_names.entry((id, name.id)).or_insert_with(|| segment::entry_text(&name.entry));
    }

    /// Drains every lane whose head moved.
    pub fn drain(&mut self) {
        let processes: Vec<(Pid, Vec<usize>)> =
            self.by_process.iter().map(|(pid, segments)| (*pid, segments.clone())).collect();
        for (pid, segments) in processes {
            for index in segments {
                self.extend(pid, index, true);
            }
        }
        for id in 0..self.lanes.len() {
            self.drain_lane(id);
        }
        self.round += 1;
        while self.dying.front().is_some_and(|&(round, _)| round < self.round) {
            if let Some((_, index)) = self.dying.pop_front()
                && let Some(segment) = self.segments[index].take()
            {
                self.attached.remove(&segment.identity);
            }
        }
    }

    fn drain_lane(&mut self, id: usize) {
        let lane = &mut self.lanes[id];
        let Some((index, number)) = lane.place else {
            return;
        };
        let Some(Some(segment)) = self.segments.get(index) else {
            return;
        };
        let control = segment.control(number);
        if control.head == lane.tail {
            return;
        }
        if control.head < lane.tail {
            *self.refused.entry((lane.pid, "lane_head_jumped_back")).or_default() += 1;
            lane.tail = control.head;
            return;
        }
        let log2 = if control.grown_at != 0 { abi::RING_LOG2_MAX } else { control.ring_log2 };
        let behind = control.head - lane.tail;
        if behind > MAX_JUMP {
            *self.refused.entry((lane.pid, "lane_head_jumped_ahead")).or_default() += 1;
            lane.tail = control.head;
            return;
        }
        self.captured += behind;
        let kept = behind.min((1 << log2) - 1);
        let mut lost = behind - kept;
        for event_index in control.head - kept..control.head {
            match segment.event(number, &control, event_index) {
                Some(mut event) => {
                    if event.ts_kind == abi::ts_kind::MONOTONIC_NS {
                        event.ts = event.ts.wrapping_sub(segment.monotonic_offset as u64);
                    }
                    lane.events.push_back(event);
                    self.delivered += 1;
                }
                None => lost += 1,
            }
        }
        lane.tail = control.head;
        while lane.events.len() > MAX_QUEUED {
            lane.events.pop_front();
            self.delivered -= 1;
            *self.lost.entry((lane.pid, "markers_unclaimed")).or_default() += 1;
        }
        if lost > 0 {
            *self.lost.entry((lane.pid, "markers_lapped")).or_default() += lost;
        }
    }

    /// Events drained and not yet consumed, in order of index (with holes where some were lost).
    pub fn events(&self, id: LaneId) -> &VecDeque<Event> {
        &self.lanes[id.0].events
    }

    /// Where draining has come to: events before this index are queued or lost.
    pub fn drained_to(&self, id: LaneId) -> u64 {
        self.lanes[id.0].tail
    }

    /// Drops events before `index`.
    pub fn consume(&mut self, id: LaneId, index: u64) {
        let events = &mut self.lanes[id.0].events;
        while events.front().is_some_and(|event| event.index < index) {
            events.pop_front();
        }
    }

    /// The name behind an id in the lane's process.
    pub fn name(&mut self, id: LaneId, name: u32) -> String {
        let Some((index, _)) = self.lanes[id.0].place else {
            return self.saved_names.get(&(id, name)).cloned().unwrap_or_default();
        };
        let Some(Some(segment)) = self.segments.get(index) else {
            return String::new();
        };
        self.names.entry((index, name)).or_insert_with(|| segment.name(name)).clone()
    }

    /// The process image is gone (exec or exit): its addresses mean nothing any more. What was
    /// drained stays until consumed; the mapping keeps what was not.
    pub fn forget_addresses(&mut self, pid: Pid) {
        self.by_address.retain(|(owner, _), _| *owner != pid);
        if let Some(segments) = self.by_process.remove(&pid) {
            for index in segments {
                self.dying.push_back((self.round + DYING_ROUNDS, index));
                if let Some(Some(segment)) = self.segments.get(index) {
                    let without = segment.threads_without_lane();
                    let refused = segment.publishes_refused();
                    for (key, n) in
                        [("threads_without_lane", without), ("publishes_refused", refused)]
                    {
                        if n > 0 {
                            *self.refused.entry((pid, key)).or_default() += n;
                        }
                    }
                }
            }
        }
    }

    /// Attaches what every process on the host already has. Returns the living owners of lanes, for
    /// the kernel side.
    pub fn sweep(&mut self, own: Pid) -> Vec<Owner> {
        let mut owners = Vec::new();
        let Ok(entries) = fs::read_dir("/proc") else {
            return owners;
        };
        for entry in entries.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let pid = Pid(pid);
            if pid != own && !self.by_process.contains_key(&pid) && self.attach(pid, false) {
                self.owners_of(pid, &mut owners);
            }
        }
        owners
    }

    /// Matches each owned lane to a living thread of its own process; a lane that names a thread of
    /// another process finds nobody.
    fn owners_of(&mut self, pid: Pid, owners: &mut Vec<Owner>) {
        let inner = inner_tids(pid);
        for (&(owner, address), &id) in &self.by_address {
            let Some((index, number)) = self.lanes[id.0].place else {
                continue;
            };
            let Some(Some(segment)) = self.segments.get(index) else {
                continue;
            };
            if owner != pid {
                continue;
            }
            let control = segment.control(number);
            if control.generation.is_multiple_of(2) {
                continue;
            }
            let Some(&tid) = inner.get(&control.owner_tid) else {
                *self.refused.entry((pid, "lane_owner_unknown")).or_default() += 1;
                continue;
            };
            let Some(start_ticks) = start_ticks(pid, tid) else {
                continue;
            };
            owners.push(Owner {
                tid,
                lane: id,
                reference: LaneRef {
                    va: address.0,
                    start_ticks,
                    generation: control.generation,
                    owner_tid: control.owner_tid,
                },
            });
        }
    }

    /// The pid a lane belongs to.
    pub fn pid(&self, id: LaneId) -> Pid {
        self.lanes[id.0].pid
    }

    /// Where in the lane its present owner began.
    pub fn first_index(&self, id: LaneId) -> u64 {
        match self.lanes[id.0].place {
            Some((index, number)) => self
                .segments
                .get(index)
                .and_then(Option::as_ref)
                .map_or(0, |segment| segment.control(number).first_index),
            None => 0,
        }
    }
}

fn is_segment(path: &Path) -> bool {
    let name = path.as_os_str().as_encoded_bytes();
    name.strip_prefix(b"/memfd:").is_some_and(|rest| rest == abi::SEGMENT_NAME.as_bytes())
}

/// Threads of `pid`: id in the innermost pid namespace -> id in the initial one.
fn inner_tids(pid: Pid) -> HashMap<u32, u32> {
    let mut tids = HashMap::new();
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return tids;
    };
    for entry in entries.flatten() {
        let Some(tid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")) else {
            continue;
        };
        let inner = status
            .lines()
            .find(|line| line.starts_with("NSpid:"))
            .and_then(|line| line.split_whitespace().last())
            .and_then(|word| word.parse().ok());
        tids.insert(inner.unwrap_or(tid), tid);
    }
    tids
}
