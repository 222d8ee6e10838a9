//! The join: kernel records and markers in, spans and threads with exact time out, one round at a
//! time (design 2). It owns the join only: what is known of lanes, processes and unwind tables is the
//! daemon's, which hands it in with each call.

pub mod flush;
pub mod records;
mod slice;
pub mod spans;
pub mod stacks;
pub mod timeline;
pub mod window;

use std::collections::{HashMap, HashSet};

use agent_ebpf::wire::{
    Counter, Exit, Phase, Snapshot, State as K,
    thread::{self, NO_WAKEUP},
};

use crate::{
    contexts::lanes::{LaneId, Lanes, Owner},
    kernel::{
        Record,
        ktime::{self, TscClock},
    },
    ledger::{DaemonCounter, Tally},
    model::{
        id::{Pid, Tid},
        state::StateTimes,
    },
    process::{Processes, comm_text, maps::Address},
    unwind::Unwinder,
};
use flush::Memory;
use records::open_part;
use spans::{Cause, Spans};
use stacks::{Copies, SeenStack, Unmapped};
use timeline::{Context, Item, Taken, Timeline, Unnamed};

/// A thread's whole account.
#[derive(Clone, Debug)]
pub struct ThreadAccount {
    /// Thread.
    pub tid: Tid,
    /// Process.
    pub pid: Pid,
    /// Name.
    pub comm: String,
    /// First and last accounted instant, ktime.
    pub birth: u64,
    /// See `birth`.
    pub end: u64,
    /// Per state.
    pub states: StateTimes,
}

/// Records that reached the link, per kind: the `delivered` of conservation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delivered {
    /// Timer samples.
    pub samples: u64,
    /// Intervals.
    pub intervals: u64,
    /// Their nanoseconds.
    pub interval_ns: u64,
    /// Stack definitions.
    pub stacks: u64,
    /// fork, exec, exit, lane records.
    pub lifecycle: u64,
    /// Marker tails.
    pub tails: u64,
    /// Copies of stacks.
    pub stack_copies: u64,
}

/// What the join works with and the daemon owns.
#[derive(Debug)]
pub struct Parts<'a> {
    /// What the processes publish.
    pub lanes: &'a mut Lanes,
    /// Who is who.
    pub processes: &'a mut Processes,
    /// Who makes unwind tables.
    pub unwinder: &'a Unwinder,
}

// === impl Delivered ===

impl Delivered {
    /// Each by its counter.
    pub fn counts(&self) -> [(DaemonCounter, u64); 7] {
        let &Self { samples, intervals, interval_ns, stacks, lifecycle, tails, stack_copies } =
            self;
        [
            (DaemonCounter::SamplesDelivered, samples),
            (DaemonCounter::IntervalsDelivered, intervals),
            (DaemonCounter::IntervalNsDelivered, interval_ns),
            (DaemonCounter::StacksDelivered, stacks),
            (DaemonCounter::LifecycleDelivered, lifecycle),
            (DaemonCounter::TailMarkersDelivered, tails),
            (DaemonCounter::StackCopiesDelivered, stack_copies),
        ]
    }
}

/// Owner of the join.
pub struct Linker {
    /// What came of it.
    pub spans: Spans,
    /// Of a tree: every thread that is gone, or was alive at the end.
    pub threads: Vec<ThreadAccount>,
    /// Stack definitions by hash, with the mappings their addresses lie in.
    pub stacks: HashMap<u64, SeenStack>,
    /// Records seen.
    pub delivered: Delivered,
    /// Parts of spans that flushes took.
    pub parts_told: u64,
    /// What went wrong, by process.
    pub counts: Tally,
    timelines: HashMap<u64, Timeline>,
    by_tid: HashMap<Tid, u64>,
    finished: Vec<u64>,
    /// What each lane's threads needed in the last round.
    needed: HashMap<LaneId, u64>,
    unnamed: Vec<Unnamed>,
    clock: TscClock,
    sample_ns: u64,
    /// What the next flush needs of the ones before.
    memory: Memory,
    /// Samples of processes that are not watched.
    samples_of_others: u64,
    /// Threads that are gone, by tid and serial, and must not be found by their tid any more.
    gone: Vec<(Tid, u64)>,
    copies: Copies,
    /// Stacks whose mappings are being read.
    unmapped: Vec<Unmapped>,
}

/// Stack definitions kept.
const MAX_STACKS: usize = 1 << 18;

// === impl Linker ===

impl Linker {
    /// A join that has seen nothing; `hz` is the rate of the timer.
    pub fn new(hz: u64) -> Self {
        Self {
            spans: Spans::default(),
            threads: Vec::new(),
            stacks: HashMap::new(),
            delivered: Delivered::default(),
            parts_told: 0,
            counts: Tally::default(),
            timelines: HashMap::new(),
            by_tid: HashMap::new(),
            finished: Vec::new(),
            needed: HashMap::new(),
            unnamed: Vec::new(),
            clock: TscClock::start(),
            sample_ns: 1_000_000_000 / hz.max(1),
            memory: Memory::new(ktime::now()),
            samples_of_others: 0,
            gone: Vec::new(),
            copies: Copies::default(),
            unmapped: Vec::new(),
        }
    }

    /// Whether any thread has a lane.
    pub fn has_lanes(&self) -> bool {
        !self.timelines.is_empty()
    }

    /// Takes one record. Returns a process that named a lane: the kernel side must know whether all it
    /// publishes is read here.
    pub fn take(&mut self, record: Record, parts: &mut Parts<'_>) -> Option<Pid> {
        match record {
            Record::Sample(sample) => {
                self.delivered.samples += 1;
                if let Some(timeline) = self.timelines.get_mut(&sample.serial) {
                    timeline.push(Item::Sample(sample));
                } else if parts.processes.is_watched(Pid(sample.tgid)) {
                    slice::see(&sample, None, self.sample_ns, &mut self.spans);
                } else {
                    self.samples_of_others += 1;
                }
            }
            Record::Interval(interval) => {
                self.delivered.intervals += 1;
                self.delivered.interval_ns += interval.in_at - interval.out_at;
                self.by_tid.insert(Tid(interval.tid), interval.serial);
                if !parts.processes.is_host() && thread::has(interval.flags, NO_WAKEUP) {
                    self.counts.add(Pid(interval.tgid), Counter::WakeupMissing, 1);
                }
                if let Some(timeline) = self.timelines.get_mut(&interval.serial) {
                    timeline.push(Item::Interval(interval));
                } else {
                    let pid = Pid(interval.tgid);
                    self.counts.add(pid, DaemonCounter::IntervalsUnbound, 1);
                }
            }
            Record::Stack(stack) => {
                self.delivered.stacks += 1;
                let pid = Pid(stack.tgid);
                // Only recorded processes' stacks are ever named.
                if stack.tgid != 0 && !parts.processes.is_watched(pid) {
                    return None;
                }
                let seen = self.see(pid, stack, parts);
                if self.stacks.len() < MAX_STACKS {
                    self.stacks.insert(seen.definition.hash, seen);
                } else {
                    self.counts.add(pid, DaemonCounter::StacksTableFull, 1);
                }
            }
            Record::StackCopy(copy) => {
                self.delivered.stack_copies += 1;
                if parts.processes.is_watched(Pid(copy.tgid)) {
                    self.copies.keep(copy);
                } else {
                    parts.unwinder.unreported(Pid(copy.tgid));
                }
            }
            Record::Remapped(remapped) => {
                self.delivered.lifecycle += 1;
                let pid = Pid(remapped.tgid);
                parts.processes.remapped(pid, remapped.at);
                parts.unwinder.remapped(pid, remapped.at);
            }
            Record::Fork(fork) => {
                self.delivered.lifecycle += 1;
                // A new process: whoever had this pid before is gone.
                parts.lanes.forget_image(Pid(fork.tgid), fork.at);
                parts.processes.forked(Pid(fork.parent_tgid), Pid(fork.tgid), fork.at);
            }
            Record::Exec(exec) => {
                self.delivered.lifecycle += 1;
                let pid = Pid(exec.tgid);
                if exec.old_tid != exec.tid {
                    self.by_tid.remove(&Tid(exec.old_tid));
                }
                self.by_tid.insert(Tid(exec.tid), exec.serial);
                parts.lanes.forget_image(pid, exec.at);
                parts.processes.execed(pid, &exec.comm, exec.at);
                parts.unwinder.remapped(pid, exec.at);
                if let Some(timeline) = self.timelines.get_mut(&exec.serial) {
                    timeline.push(Item::Exec(exec));
                }
            }
            Record::Exit(exit) => {
                self.delivered.lifecycle += 1;
                self.exit(&exit, parts.processes);
            }
            Record::LaneSeen(seen) => {
                self.delivered.lifecycle += 1;
                let pid = Pid(seen.tgid);
                self.by_tid.insert(Tid(seen.tid), seen.serial);
                let timeline =
                    self.timelines.entry(seen.serial).or_insert_with(|| Timeline::new(pid));
                let lane = parts.lanes.lane_or_virtual(
                    pid,
                    Address(seen.va),
                    seen.first_index,
                    seen.at,
                )?;
                timeline.push(Item::Lane(Taken {
                    seq: seen.seq,
                    at: seen.at,
                    seen_at: seen.at,
                    since: seen.since,
                    total: seen.total,
                    lane,
                    first_index: seen.first_index,
                }));
                return Some(pid);
            }
            Record::Tail(tail) => {
                self.delivered.tails += tail.count;
                parts.lanes.add_tail(&tail);
            }
            Record::Name(name) => parts.lanes.add_name(&name),
        }
        None
    }

    /// A thread is gone: its whole account.
    fn exit(&mut self, exit: &Exit, processes: &mut Processes) {
        let pid = Pid(exit.tgid);
        if exit.tid == exit.tgid {
            processes.exited(pid, &exit.comm, exit.at);
        }
        let watched = processes.is_watched(pid);
        self.memory.exit(exit, watched);
        self.gone.push((Tid(exit.tid), exit.serial));
        if watched && !processes.is_host() {
            self.counts.add(pid, DaemonCounter::EventsLostNs, events_lost(&exit.total));
            self.threads.push(ThreadAccount {
                tid: Tid(exit.tid),
                pid,
                comm: comm_text(&exit.comm),
                birth: exit.birth,
                end: exit.at,
                states: totals(&exit.total),
            });
        }
        if let Some(timeline) = self.timelines.get_mut(&exit.serial) {
            timeline.push(Item::Exit(*exit));
        }
    }

    /// Takes over the threads of lanes that were found, by accounts read *after* that: every owner
    /// that still lives has one, and the lane was its own by the end of it. Returns what the kernel
    /// side must be told of lanes, and the processes now mapped.
    pub fn adopt(
        &mut self,
        owners: &[Owner],
        snapshots: &[Snapshot],
        parts: &mut Parts<'_>,
    ) -> (Vec<(u32, agent_ebpf::wire::LaneRef)>, Vec<Pid>) {
        parts.lanes.drain();
        let by_tid: HashMap<u32, &Snapshot> = snapshots.iter().map(|s| (s.tid, s)).collect();
        let mut told = Vec::new();
        let mut pids = Vec::new();
        for owner in owners {
            let Some(snapshot) = by_tid.get(&owner.tid) else { continue };
            let pid = parts.lanes.pid(owner.lane);
            // A torn one is asked again at the next sweep; a new owner says so itself.
            if snapshot.tgid != pid.0 || snapshot.torn != 0 || !parts.lanes.is_owned(owner) {
                continue;
            }
            let first_index = parts.lanes.first_index(owner.lane);
            if let Some(timeline) = self.timelines.get_mut(&snapshot.serial) {
                if timeline.needs().any(|(lane, _)| lane == owner.lane) {
                    continue;
                }
                timeline.push(Item::Lane(Taken {
                    seq: snapshot.seq,
                    at: snapshot.since,
                    seen_at: owner.seen_at,
                    since: snapshot.since,
                    total: snapshot.total,
                    lane: owner.lane,
                    first_index,
                }));
            } else {
                let mut timeline = Timeline::new(pid);
                let counts = &mut self.counts;
                timeline.adopt(
                    snapshot,
                    owner.lane,
                    owner.seen_at,
                    &mut Context {
                        lanes: parts.lanes,
                        spans: &mut self.spans,
                        clock: &self.clock,
                        unnamed: &mut self.unnamed,
                        sample_ns: self.sample_ns,
                        recorded: parts.processes.is_watched(pid),
                        count: &mut |counter, n| counts.add(pid, counter, n),
                    },
                );
                self.timelines.insert(snapshot.serial, timeline);
            }
            self.by_tid.insert(Tid(snapshot.tid), snapshot.serial);
            told.push((owner.tid, owner.reference));
            pids.push(pid);
        }
        (told, pids)
    }

    /// Takes the iterator's accounts: places what an open wait has closed; at the `end` of a
    /// recording closes every living thread.
    pub fn take_totals(&mut self, snapshots: &[Snapshot], end: bool, processes: &Processes) {
        self.memory.take_totals(snapshots, |pid| processes.is_watched(pid));
        let of_tree = !processes.is_host();
        for snapshot in snapshots {
            if snapshot.phase == Phase::Dead as u32 {
                continue; // its exit record says all
            }
            self.by_tid.insert(Tid(snapshot.tid), snapshot.serial);
            if let Some(timeline) = self.timelines.get_mut(&snapshot.serial) {
                timeline.push(Item::Snapshot { snapshot: *snapshot, end });
            }
            if end && of_tree && processes.is_watched(Pid(snapshot.tgid)) {
                let (pid, lost) = (Pid(snapshot.tgid), events_lost(&snapshot.total));
                self.counts.add(pid, DaemonCounter::EventsLostNs, lost);
                let mut states = totals(&snapshot.total);
                for (state, ns) in open_part(snapshot, 0).iter() {
                    states.add(state, ns);
                }
                self.threads.push(ThreadAccount {
                    tid: Tid(snapshot.tid),
                    pid: Pid(snapshot.tgid),
                    comm: comm_text(&snapshot.comm),
                    birth: snapshot.birth,
                    end: snapshot.at.max(snapshot.since),
                    states,
                });
            }
        }
    }

    /// One round after all rings were drained: drains the lanes, links what is older than
    /// `watermark`, names the wakers.
    pub fn round(&mut self, watermark: u64, parts: &mut Parts<'_>) {
        parts.lanes.drain();
        self.link(watermark, parts);
    }

    /// The last round: links everything; markers that no thread claimed are lost.
    pub fn end(&mut self, at: u64, parts: &mut Parts<'_>) {
        self.link(u64::MAX, parts);
        self.each_timeline(parts, |timeline, context| timeline.close_unseen(at, context));
        self.name_causes();
        self.give_up_unmapped(parts);
        parts.lanes.give_up();
    }

    /// Processes with a thread whose end was not seen: where one of them is over, its threads' last
    /// switches are still to be told.
    pub fn open_processes(&self) -> HashSet<Pid> {
        let open = self.timelines.values().filter(|timeline| !timeline.has_ended());
        open.map(|timeline| timeline.pid).collect()
    }

    fn each_timeline(
        &mut self,
        parts: &mut Parts<'_>,
        mut each: impl FnMut(&mut Timeline, &mut Context<'_>),
    ) {
        let counts = &mut self.counts;
        for timeline in self.timelines.values_mut() {
            let pid = timeline.pid;
            let mut count = |counter: DaemonCounter, n: u64| counts.add(pid, counter, n);
            let mut context = Context {
                lanes: parts.lanes,
                spans: &mut self.spans,
                clock: &self.clock,
                unnamed: &mut self.unnamed,
                sample_ns: self.sample_ns,
                recorded: parts.processes.is_watched(pid),
                count: &mut count,
            };
            each(timeline, &mut context);
        }
    }

    fn link(&mut self, watermark: u64, parts: &mut Parts<'_>) {
        self.clock.calibrate();
        self.each_timeline(parts, |timeline, context| timeline.link(watermark, context));
        let mut needed: HashMap<LaneId, u64> = HashMap::new();
        for (lane, index) in self.timelines.values().flat_map(Timeline::needs) {
            let least = needed.entry(lane).or_insert(index);
            *least = index.min(*least);
        }
        // A round late: the announcement of a lane's former owner may still lie in another CPU's ring
        // when the present owner's has been read.
        for (lane, index) in &needed {
            if let Some(before) = self.needed.get(lane) {
                parts.lanes.consume(*lane, *index.min(before));
            }
        }
        self.needed = needed;
        self.name_causes();
        self.bury();
        self.copies.end_round();
        parts.lanes.end_round();
    }

    /// Forgets finished threads one round after their end: others may still name them as wakers.
    fn bury(&mut self) {
        let buried = std::mem::take(&mut self.finished);
        for serial in buried {
            if let Some(mut timeline) = self.timelines.remove(&serial) {
                timeline.give_up_samples(self.sample_ns, &mut self.spans);
            }
        }
        let (timelines, by_tid) = (&self.timelines, &mut self.by_tid);
        self.gone.retain(|(tid, serial)| {
            let needed = timelines.contains_key(serial);
            if !needed && by_tid.get(tid) == Some(serial) {
                by_tid.remove(tid);
            }
            needed
        });
        let finished = self.timelines.iter().filter(|(_, t)| t.finished).map(|(&serial, _)| serial);
        self.finished = finished.collect();
    }

    fn name_causes(&mut self) {
        for unnamed in self.unnamed.drain(..) {
            let span = unnamed.head_plus_one.checked_sub(1).and_then(|head| {
                let serial = self.by_tid.get(&unnamed.tid)?;
                self.timelines.get(serial)?.span_at(head)
            });
            let span = span.filter(|&index| self.spans.contains(index));
            let cause = Cause {
                state: unnamed.state,
                kind: unnamed.kind,
                tid: unnamed.tid,
                pid: unnamed.pid,
                span,
            };
            self.spans.get_mut(unnamed.span).add_cause(cause, unnamed.ns);
        }
    }
}

/// The part of a thread's account of which the kernel side missed events.
fn events_lost(total: &[u64]) -> u64 {
    total[K::UnknownEventsLost.index()]
}

fn totals(total: &[u64]) -> StateTimes {
    let mut states = StateTimes::default();
    for state in K::ALL {
        states.add(state.into(), total[state.index()]);
    }
    states
}
