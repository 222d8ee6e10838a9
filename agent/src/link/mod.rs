//! The join: kernel records and markers in, spans and threads with exact time out, one round at a
//! time (design 2). It owns the join only: what is known of lanes, processes and unwind tables is the
//! daemon's, which hands it in with each call.

mod accounts;
mod apply;
pub mod flush;
pub mod item;
pub mod records;
mod slice;
mod span;
pub mod spans;
pub mod stacks;
mod take;
pub mod timeline;
pub mod window;

use std::collections::{HashMap, HashSet};

use crate::{
    budget::{Budgets, Resource},
    contexts::lanes::{LaneId, Lanes},
    kernel::ktime::{self, TscClock},
    ledger::{DaemonCounter, Tally},
    model::{
        id::{Pid, Tid},
        state::StateTimes,
    },
    process::Processes,
    unwind::Unwinder,
};
use flush::Memory;
use spans::{Cause, Spans};
use stacks::{Copies, SeenStack, Unmapped};
use timeline::{Context, Timeline, Unnamed};

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
    pub parts_reported: u64,
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
    budgets: Budgets,
    /// When it began, ktime: what is said of earlier times nobody saw.
    began: u64,
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

/// The join without its timelines.
struct Feed<'a> {
    lanes: &'a mut Lanes,
    processes: &'a Processes,
    spans: &'a mut Spans,
    clock: &'a TscClock,
    unnamed: &'a mut Vec<Unnamed>,
    sample_ns: u64,
    counts: &'a mut Tally,
}

/// A thread with so many records that wait is looked at in the name of its process.
const MANY_RECORDS: usize = 64;

// === impl Linker ===

impl Linker {
    /// A join that has seen nothing; `hz` is the rate of the timer.
    pub fn new(hz: u64, budgets: Budgets) -> Self {
        let began = ktime::now();
        Self {
            spans: Spans::new(budgets.clone()),
            budgets,
            began,
            threads: Vec::new(),
            stacks: HashMap::new(),
            delivered: Delivered::default(),
            parts_reported: 0,
            counts: Tally::default(),
            timelines: HashMap::new(),
            by_tid: HashMap::new(),
            finished: Vec::new(),
            needed: HashMap::new(),
            unnamed: Vec::new(),
            clock: TscClock::start(),
            sample_ns: 1_000_000_000 / hz.max(1),
            memory: Memory::new(began),
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
    /// switches are still to be reported.
    pub fn open_processes(&self) -> HashSet<Pid> {
        let open = self.timelines.values().filter(|timeline| !timeline.has_ended());
        open.map(|timeline| timeline.pid).collect()
    }

    fn each_timeline(
        &mut self,
        parts: &mut Parts<'_>,
        mut each: impl FnMut(&mut Timeline, &mut Context<'_>),
    ) {
        let (timelines, mut feed) = self.split(parts);
        for timeline in timelines.values_mut() {
            let pid = timeline.pid;
            each(timeline, &mut feed.context(pid));
        }
    }

    /// The timelines, and what linking one of them needs and feeds.
    fn split<'a>(
        &'a mut self,
        parts: &'a mut Parts<'_>,
    ) -> (&'a mut HashMap<u64, Timeline>, Feed<'a>) {
        let feed = Feed {
            lanes: parts.lanes,
            processes: parts.processes,
            spans: &mut self.spans,
            clock: &self.clock,
            unnamed: &mut self.unnamed,
            sample_ns: self.sample_ns,
            counts: &mut self.counts,
        };
        (&mut self.timelines, feed)
    }

    fn link(&mut self, watermark: u64, parts: &mut Parts<'_>) {
        self.clock.calibrate();
        self.budgets.begin(Resource::Records);
        let budgets = self.budgets.clone();
        self.each_timeline(parts, |timeline, context| {
            let waiting = timeline.queue.len();
            // What waits takes memory: with too much of it a process is not waited for.
            let is_over = waiting >= MANY_RECORDS
                && !budgets.take(Resource::Records, budgets.owner(timeline.pid), waiting as u64);
            timeline.link(watermark, is_over, context);
            if timeline.is_lost() {
                timeline.close_unseen(watermark, context);
            }
        });
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
        self.reap();
        self.copies.end_round();
        parts.lanes.end_round();
    }

    /// Forgets finished threads one round after their end: others may still name them as wakers.
    fn reap(&mut self) {
        let reaped = std::mem::take(&mut self.finished);
        for serial in reaped {
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
            self.spans.add_cause(unnamed.span, cause, unnamed.ns);
        }
    }
}

// === impl Feed ===

impl Feed<'_> {
    /// For a thread of a process.
    fn context(&mut self, pid: Pid) -> Context<'_> {
        Context {
            lanes: self.lanes,
            spans: self.spans,
            clock: self.clock,
            unnamed: self.unnamed,
            sample_ns: self.sample_ns,
            pid,
            recorded: self.processes.is_watched(pid),
            counts: self.counts,
        }
    }
}

#[cfg(test)]
mod flood_tests;
