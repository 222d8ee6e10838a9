//! One thread's time, joined with what its lane published (design 2, 3.3, 3.7, 4).
//!
//! Records arrive in order of the thread's own sequence number. Between two of them lies one
//! *slice* (on the CPU; markers can fall into it) and one *wait* (off it; none can). What a slice
//! consists of (running, stolen, unknown) is the difference of the cumulative totals, so a lost
//! record loses no time: the next one's totals cover it.

use std::collections::VecDeque;

use agent_ebpf::wire::{Sample, Snapshot, state::STATES};
use hotspan_lanes::abi::{Event, op};

use super::{
    item::{Item, Taken},
    slice::stamp,
    spans::{CauseKind, SpanIndex, Spans},
    window::Checkpoint,
};
use crate::{
    contexts::lanes::{LaneId, Lanes},
    kernel::ktime::TscClock,
    ledger::{DaemonCounter, Tally},
    model::{
        id::{Pid, Tid},
        state::State,
    },
};

/// Which span was current after each of the last markers: for causes named by other threads.
pub(super) const HISTORY: usize = 4096;
/// A record whose markers have not been drained is linked without them after this long, unless their
/// lane is about to be attached.
const PATIENCE_NS: u64 = 1_000_000_000;

/// A thread that so many looks in a row do not find is gone: four seconds.
const MISSED: u8 = 8;

/// A wait whose waker is to be named when every thread of the round has been linked.
#[derive(Clone, Copy, Debug)]
pub struct Unnamed {
    /// Whose wait.
    pub span: SpanIndex,
    /// In which state.
    pub state: State,
    /// How long.
    pub ns: u64,
    /// By whom.
    pub tid: Tid,
    /// Its process.
    pub pid: Pid,
    /// Its lane's head then, plus one; 0 without a lane.
    pub head_plus_one: u64,
    /// Waker or preemptor.
    pub kind: CauseKind,
}

/// What linking a thread needs and feeds.
pub struct Context<'a> {
    /// Where markers come from.
    pub lanes: &'a mut Lanes,
    /// Where time goes.
    pub spans: &'a mut Spans,
    /// Turns stamps into ktime.
    pub clock: &'a TscClock,
    /// Waits to be named.
    pub unnamed: &'a mut Vec<Unnamed>,
    /// ns a timer sample stands for.
    pub sample_ns: u64,
    /// The thread's process.
    pub pid: Pid,
    /// Whether that is one that is reported.
    pub recorded: bool,
    /// What went wrong, by process.
    pub counts: &'a mut Tally,
}

/// The span now active on the thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Active {
    pub(super) span: SpanIndex,
    pub(super) since: u64,
}

/// Where linking has come to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    pub(super) at: u64,
    pub(super) seq: u64,
    pub(super) total: [u64; STATES],
}

/// A change of lane inside a slice.
#[derive(Clone, Copy, Debug)]
pub(super) enum Turn {
    /// Nothing published before this is valid any more.
    Clear { at: u64 },
    /// Another lane from here on.
    Bind { at: u64, lane: LaneId, first_index: u64 },
}

/// One thread's linking state.
#[derive(Debug)]
pub struct Timeline {
    pub(super) pid: Pid,
    pub(super) lane: Option<LaneId>,
    /// When the thread was last seen to have that lane. An exec or a lane from before that moment is
    /// reported late (it sat in a ring while the sweep looked) and takes nothing away.
    pub(super) bound_at: u64,
    /// Index of the next marker to apply.
    pub(super) next: u64,
    pub(super) position: Option<Position>,
    pub(super) active: Option<Active>,
    pub(super) queue: Vec<Item>,
    pub(super) checkpoints: Vec<Checkpoint>,
    pub(super) samples: Vec<Sample>,
    pub(super) turns: Vec<Turn>,
    pub(super) history: VecDeque<(u64, Option<SpanIndex>)>,
    /// Looks at all threads in a row that did not find it.
    pub(super) missed: u8,
    /// The thread is gone.
    pub finished: bool,
}

// === impl Context ===

impl Context<'_> {
    /// Counts what went wrong.
    pub(super) fn count(&mut self, counter: DaemonCounter, n: u64) {
        self.counts.add(self.pid, counter, n);
    }
}

// === impl Timeline ===

impl Timeline {
    /// A thread nothing is known of yet.
    pub fn new(pid: Pid) -> Self {
        Self {
            pid,
            lane: None,
            bound_at: 0,
            next: 0,
            position: None,
            active: None,
            queue: Vec::new(),
            checkpoints: Vec::new(),
            samples: Vec::new(),
            turns: Vec::new(),
            history: VecDeque::new(),
            missed: 0,
            finished: false,
        }
    }

    /// Samples not yet credited, of the present slice and of the queue.
    pub(super) fn take_samples(&mut self) -> Vec<Sample> {
        let mut samples = std::mem::take(&mut self.samples);
        self.queue.retain(|item| match item {
            Item::Sample(sample) => {
                samples.push(*sample);
                false
            }
            _ => true,
        });
        samples
    }

    /// Queues what happened.
    pub fn push(&mut self, item: Item) {
        self.queue.push(item);
    }

    /// The span that was current when `head` markers had been published.
    pub fn span_at(&self, head: u64) -> Option<SpanIndex> {
        let wanted = head.checked_sub(1)?;
        let at = self.history.partition_point(|(index, _)| *index <= wanted);
        let (index, span) = self.history.get(at.checked_sub(1)?)?;
        if *index == wanted { *span } else { None }
    }

    /// Links everything older than `watermark`; what is `in_haste` does not wait for its markers.
    pub fn link(&mut self, watermark: u64, in_haste: bool, context: &mut Context<'_>) {
        self.queue.sort_by_key(Item::order);
        let mut done = 0;
        while let Some(&item) = self.queue.get(done) {
            if item.time() > watermark {
                break;
            }
            let waits = |lane| must_wait(&item, lane, watermark, context.lanes);
            if !in_haste && self.lane.is_some_and(waits) {
                break;
            }
            self.apply(&item, context);
            done += 1;
        }
        self.queue.drain(..done);
    }

    /// Whether the record of its end will not come any more.
    pub(super) fn is_lost(&self) -> bool {
        self.missed >= MISSED && self.queue.is_empty()
    }

    /// The lanes whose events this thread still needs, each with the first index of them. A lane
    /// passes from thread to thread, so only the least of all may be dropped.
    pub fn needs(&self) -> impl Iterator<Item = (LaneId, u64)> + '_ {
        let bound = self.lane.filter(|_| !self.finished).map(|lane| (lane, self.next));
        let turns = self.turns.iter().filter_map(|turn| match turn {
            Turn::Bind { lane, first_index, .. } => Some((*lane, *first_index)),
            Turn::Clear { .. } => None,
        });
        let queued = self.queue.iter().filter_map(|item| match item {
            Item::Lane(taken) => Some((taken.lane, taken.first_index)),
            _ => None,
        });
        bound.into_iter().chain(turns).chain(queued)
    }

    pub(super) fn take_lane(&mut self, taken: &Taken, context: &mut Context<'_>) {
        let Taken { at, seen_at, lane, first_index, .. } = *taken;
        if seen_at < self.bound_at {
            return;
        }
        self.bound_at = seen_at;
        if self.position.is_none() {
            self.position = Some(Position { at: taken.since, seq: taken.seq, total: taken.total });
        }
        let has = match self.turns.last() {
            Some(Turn::Bind { lane, first_index, .. }) => Some((*lane, *first_index)),
            Some(Turn::Clear { .. }) => None,
            None => self.lane.map(|lane| (lane, self.next)),
        };
        match has {
            // Seen twice: by the sweep and by its announcement.
            Some((has, next)) if has == lane && first_index <= next => {}
            None if self.turns.is_empty() => self.bind(lane, first_index),
            has => {
                if has.is_some() {
                    // Two lanes for one thread: a publisher that lies or is doubled. The latest wins.
                    context.count(DaemonCounter::LaneReplaced, 1);
                }
                self.turns.push(Turn::Bind { at, lane, first_index });
            }
        }
    }

    pub(super) fn bind(&mut self, lane: LaneId, first_index: u64) {
        self.lane = Some(lane);
        self.next = first_index;
        // Indexes of another lane.
        self.history.clear();
    }

    /// Takes over a thread that had its lane before the agent came: finds the span that is open at
    /// `position` and charges what it had before to `unknown.before_attach`. Nobody saw what its
    /// publisher says of times before `floor`, ktime: the span begins there then.
    pub fn adopt(
        &mut self,
        snapshot: &Snapshot,
        lane: LaneId,
        seen_at: u64,
        floor: u64,
        context: &mut Context<'_>,
    ) {
        let at = snapshot.since;
        self.position = Some(Position { at, seq: snapshot.seq, total: snapshot.total });
        self.bound_at = seen_at;
        self.bind(lane, context.lanes.first_index(lane));
        let events: Vec<Event> =
            context.lanes.events(lane).iter().map(|queued| queued.event).collect();
        let mut open: Option<(Event, u64)> = None;
        for event in events {
            if event.index < self.next {
                continue;
            }
            // Without a stamp only the heads the kernel side sees from now on can order it.
            let Some(stamp) = stamp(&event, context.clock) else {
                break;
            };
            if stamp > at {
                break;
            }
            self.next = event.index + 1;
            context.lanes.claim(lane, event.index..event.index + 1);
            open = (event.op == op::SET).then_some((event, stamp));
        }
        if let Some((event, said)) = open {
            let stamp = said.max(floor.min(at));
            context.count(DaemonCounter::StampsClamped, u64::from(stamp > said));
            let span = self.activate(&event, stamp, context);
            if let Some(span) = span {
                let span = context.spans.get_mut(span);
                span.states.add(State::UnknownBeforeAttach, at - stamp);
                span.exact = at == stamp;
            }
            self.remember(event.index, span);
        }
    }
}

#[cfg(test)]
#[path = "timeline_world.rs"]
mod world;

#[cfg(test)]
#[path = "timeline_tests.rs"]
mod tests;

/// Whether markers may still come that lie before what happened.
fn must_wait(item: &Item, lane: LaneId, watermark: u64, lanes: &mut Lanes) -> bool {
    let is_awaited = watermark != u64::MAX && lanes.is_awaited(lane);
    match item.needs() {
        Some(head) => {
            lanes.want(lane, head);
            lanes.drained_to(lane) < head && (item.time() + PATIENCE_NS > watermark || is_awaited)
        }
        // All that there are: a lane that can be read has them all.
        None => is_awaited,
    }
}
