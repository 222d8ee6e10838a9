//! One thread's time, joined with what its lane published (design 2, 3.3, 3.7, 4).
//!
//! Records arrive in order of the thread's own sequence number. Between two of them lies one
//! *slice* (on the CPU; markers can fall into it) and one *wait* (off it; none can). What a slice
//! consists of (running, stolen, unknown) is the difference of the cumulative totals, so a lost
//! record loses no time: the next one's totals cover it.

use std::collections::VecDeque;

use agent_ebpf::wire::{
    self, Exec, Exit, Interval, Sample, Snapshot,
    record::CUT,
    state::STATES,
    thread::{HEAD_KNOWN, UNREADABLE, WAKER_IRQ, has},
};
use hotspan_lanes::abi::{Event, op};

use super::{
    records::{difference, kernel_state, open_part, wait_of},
    slice::stamp,
    spans::{CauseKind, Seen, SpanIndex, Spans, StackKey},
    window::{Checkpoint, Composition},
};
use crate::{
    contexts::lanes::{LaneId, Lanes},
    kernel::ktime::TscClock,
    ledger::DaemonCounter,
    model::{
        id::{Pid, Tid},
        state::State,
    },
};

/// Which span was current after each of the last markers: for causes named by other threads.
pub(super) const HISTORY: usize = 4096;
/// A record whose markers have not been drained is linked without them after this long.
const PATIENCE_NS: u64 = 1_000_000_000;

/// What happened to a thread, in order of (sequence, rank, time).
#[derive(Clone, Copy, Debug)]
pub enum Item {
    /// It came back from a wait, or its long slice was cut.
    Interval(Interval),
    /// It was seen running.
    Sample(Sample),
    /// It took a lane: events from an index on are its own.
    Lane(Taken),
    /// Its image, and with it the lane, was replaced.
    Exec(Exec),
    /// Its account as the iterator saw it; `end` closes what is open (the last one).
    Snapshot { snapshot: Snapshot, end: bool },
    /// It is gone.
    Exit(Exit),
}

/// A thread was seen to have a lane.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Intervals it had finished.
    pub seq: u64,
    /// From when on the lane is its own, as far as it is known.
    pub at: u64,
    /// When that was seen: whatever is older was over by then.
    pub seen_at: u64,
    /// Up to here `total` holds.
    pub since: u64,
    /// Cumulative ns per state.
    pub total: [u64; STATES],
    /// The lane.
    pub lane: LaneId,
    /// Its first event of this thread.
    pub first_index: u64,
}

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
    /// Waker or rival.
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
    /// Whether the thread's process is one that is reported.
    pub recorded: bool,
    /// Counts what went wrong.
    pub count: &'a mut dyn FnMut(DaemonCounter, u64),
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
    seq: u64,
    total: [u64; STATES],
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
    /// told late (it sat in a ring while the sweep looked) and takes nothing away.
    bound_at: u64,
    /// Index of the next marker to apply.
    pub(super) next: u64,
    pub(super) position: Option<Position>,
    pub(super) active: Option<Active>,
    queue: Vec<Item>,
    pub(super) checkpoints: Vec<Checkpoint>,
    pub(super) samples: Vec<Sample>,
    pub(super) turns: Vec<Turn>,
    pub(super) history: VecDeque<(u64, Option<SpanIndex>)>,
    /// The thread is gone.
    pub finished: bool,
}

// === impl Item ===

impl Item {
    fn order(&self) -> (u64, u8, u64) {
        match self {
            Self::Interval(i) => (i.seq, 0, i.in_at),
            Self::Sample(s) => (s.seq, 1, s.at),
            Self::Lane(taken) => (taken.seq, 1, taken.at),
            Self::Exec(e) => (e.seq, 1, e.at),
            Self::Snapshot { snapshot, .. } => (snapshot.seq, 2, snapshot.since),
            Self::Exit(e) => (e.seq, 3, e.at),
        }
    }

    fn time(&self) -> u64 {
        match self {
            Self::Snapshot { end: true, .. } => 0,
            item => item.order().2,
        }
    }

    /// Markers that must have been drained before this can be linked.
    fn needs(&self) -> u64 {
        match self {
            Self::Interval(i) if has(i.flags, HEAD_KNOWN) => i.head,
            Self::Exit(e) if has(e.flags, HEAD_KNOWN) => e.head,
            // At the end there is nothing to wait for.
            Self::Snapshot { snapshot, end: false } if has(snapshot.flags, HEAD_KNOWN) => {
                snapshot.head
            }
            _ => 0,
        }
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

    /// Links everything older than `watermark`.
    pub fn link(&mut self, watermark: u64, context: &mut Context<'_>) {
        self.queue.sort_by_key(Item::order);
        let mut done = 0;
        while let Some(&item) = self.queue.get(done) {
            if item.time() > watermark {
                break;
            }
            if let Some(lane) = self.lane
                && context.lanes.drained_to(lane) < item.needs()
                && item.time() + PATIENCE_NS > watermark
            {
                break;
            }
            self.apply(&item, context);
            done += 1;
        }
        self.queue.drain(..done);
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

    fn apply(&mut self, item: &Item, context: &mut Context<'_>) {
        match item {
            Item::Lane(taken) => self.take_lane(taken, context),
            Item::Sample(sample) => {
                if has(sample.flags, HEAD_KNOWN) {
                    self.checkpoints.push(Checkpoint { at: sample.at, head: sample.head });
                }
                self.samples.push(*sample);
            }
            Item::Exec(exec) if exec.at < self.bound_at => {}
            Item::Exec(exec) => self.turns.push(Turn::Clear { at: exec.at }),
            Item::Interval(interval) => self.interval(interval, context),
            Item::Snapshot { snapshot, end } => self.snapshot(snapshot, *end, context),
            Item::Exit(exit) => self.exit(exit, context),
        }
    }

    fn take_lane(&mut self, taken: &Taken, context: &mut Context<'_>) {
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
                    (context.count)(DaemonCounter::LaneReplaced, 1);
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
    /// `position` and charges what it had before to `unknown.before_attach`.
    pub fn adopt(
        &mut self,
        snapshot: &Snapshot,
        lane: LaneId,
        seen_at: u64,
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
        if let Some((event, stamp)) = open {
            let span = self.activate(&event, stamp, context);
            if let Some(span) = span {
                let span = context.spans.get_mut(span);
                span.states.add(State::UnknownBeforeAttach, at - stamp);
                span.exact = at == stamp;
            }
            self.remember(event.index, span);
        }
    }

    fn interval(&mut self, interval: &Interval, context: &mut Context<'_>) {
        let Some(position) = self.position else {
            return;
        };
        if interval.seq <= position.seq {
            return;
        }
        let head = has(interval.flags, HEAD_KNOWN).then_some(interval.head);
        // What was told while it was open is not told again.
        let mut wait = wait_of(interval, position.at);
        let mut slice = difference(&interval.total, &position.total);
        for (state, ns) in wait.iter() {
            if let Some(kernel) = state.kernel() {
                slice[kernel.index()] = slice[kernel.index()].saturating_sub(ns);
            }
        }
        let lost = interval.seq - position.seq - 1;
        if lost == 0 && interval.out_at < position.at {
            // All up to here was told while the wait was open, in the state it seemed to be.
            slice = [0; STATES];
        }
        // Whose time it was is then known from stamps alone.
        let unreadable = has(interval.flags, UNREADABLE);
        self.slice(interval.out_at, head, &slice, lost, unreadable, context);
        if unreadable {
            wait = Composition::of(State::UnknownContextUnreadable, wait.sum());
        }
        if !has(interval.flags, CUT) {
            self.wait(interval, &wait, context);
        }
        // A snapshot bears a time a little after it was taken.
        let at = interval.in_at.max(position.at);
        self.position = Some(Position { at, seq: interval.seq, total: interval.total });
    }

    /// A wait: no marker can fall into it, so all of it is the current span's.
    fn wait(&mut self, interval: &Interval, rest: &Composition, context: &mut Context<'_>) {
        let Some(Active { span: index, .. }) = self.active else {
            return;
        };
        let span = context.spans.get_mut(index);
        for (state, ns) in rest.iter() {
            span.states.add(state, ns);
            span.exact &= !state.is_unknown();
        }
        if interval.weight > 0 {
            let state = kernel_state(interval.state);
            context.spans.see(Seen {
                at: interval.in_at,
                pid: self.pid,
                tid: Tid(interval.tid),
                span: Some(index),
                stack: StackKey { state, user: interval.user_stack, kernel: interval.kernel_stack },
                ns: interval.weight,
                is_sample: false,
            });
        }
        // Whoever ended it ended all of it.
        let unreadable = has(interval.flags, UNREADABLE);
        let whole = if unreadable { rest.clone() } else { wait_of(interval, 0) };
        for (state, ns) in whole.iter() {
            let ready =
                matches!(state, State::ReadyWakeup | State::ReadyPreempted | State::Throttled);
            let (kind, tid, pid, head_plus_one) = if ready {
                (CauseKind::Preemptor, interval.rival_tid, interval.rival_tgid, 0)
            } else if has(interval.flags, WAKER_IRQ) {
                (CauseKind::Interrupt, 0, 0, 0)
            } else if interval.waker_tid != 0 {
                let head = interval.waker_head;
                (CauseKind::Waker, interval.waker_tid, interval.waker_tgid, head)
            } else {
                (CauseKind::Syscall(interval.syscall), 0, 0, 0)
            };
            if tid == 0 && ready {
                continue; // nobody had the CPU: it was on its way out of idle
            }
            let (tid, pid) = (Tid(tid), Pid(pid));
            let unnamed = Unnamed { span: index, state, ns, tid, pid, head_plus_one, kind };
            context.unnamed.push(unnamed);
        }
    }

    fn snapshot(&mut self, snapshot: &Snapshot, end: bool, context: &mut Context<'_>) {
        let Some(position) = self.position else {
            return;
        };
        if snapshot.torn != 0 || snapshot.seq < position.seq || self.finished {
            return;
        }
        let is = |phase: wire::Phase| snapshot.phase == phase as u32;
        let off = is(wire::Phase::Off) || is(wire::Phase::BeforeAttach);
        if snapshot.since > position.at || (off && snapshot.since == position.at) {
            let head = has(snapshot.flags, HEAD_KNOWN).then_some(snapshot.head);
            if off {
                let slice = difference(&snapshot.total, &position.total);
                let lost = snapshot.seq - position.seq;
                self.slice(snapshot.since, head, &slice, lost, false, context);
                self.position =
                    Some(Position { at: snapshot.since, seq: snapshot.seq, total: snapshot.total });
            }
        }
        let known = has(snapshot.flags, HEAD_KNOWN);
        if is(wire::Phase::Off) && known && !end {
            self.open_wait(snapshot, context);
        }
        if end {
            self.close(snapshot, context);
        }
    }

    /// The thread waits and nobody knows for how long: what it has waited so far is told, so that a
    /// request that hangs is seen. Who ends the wait is told when it ends.
    fn open_wait(&mut self, snapshot: &Snapshot, context: &mut Context<'_>) {
        let Some(position) = &mut self.position else { return };
        if snapshot.at <= position.at {
            return;
        }
        let open = open_part(snapshot, position.at);
        position.at = snapshot.at;
        for (state, ns) in open.iter() {
            if let Some(kernel) = state.kernel() {
                position.total[kernel.index()] += ns;
            }
            if let Some(active) = self.active {
                let span = context.spans.get_mut(active.span);
                span.states.add(state, ns);
                span.exact &= !state.is_unknown();
            }
        }
    }

    /// The recording ends while the thread lives: what is open is charged up to now.
    fn close(&mut self, snapshot: &Snapshot, context: &mut Context<'_>) {
        let Some(position) = self.position else {
            return;
        };
        let mut total = snapshot.total;
        for (state, ns) in open_part(snapshot, 0).iter() {
            if let Some(kernel) = state.kernel() {
                total[kernel.index()] += ns;
            }
        }
        let slice = difference(&total, &position.total);
        let lost = snapshot.seq - position.seq;
        self.slice(snapshot.at, None, &slice, lost, false, context);
        self.deactivate(snapshot.at, context);
        self.finished = true;
    }

    /// Whether its end is known.
    pub fn has_ended(&self) -> bool {
        self.finished || self.queue.iter().any(|item| matches!(item, Item::Exit(_)))
    }

    /// The end of all, and neither an exit nor an account of it was seen: it died as the programs were
    /// taken out. What it published still counts; which state its last time was of nobody knows.
    pub fn close_unseen(&mut self, at: u64, context: &mut Context<'_>) {
        if self.finished || self.position.is_none() {
            return;
        }
        self.slice(at, None, &[0; STATES], 0, false, context);
        self.deactivate(at, context);
        self.finished = true;
    }

    fn exit(&mut self, exit: &Exit, context: &mut Context<'_>) {
        let Some(position) = self.position else {
            return;
        };
        // The lane's own last word is better than the head the kernel read: both when it was
        // released by the thread itself and when it was read at the thread's death.
        let head = self.released(context).or(has(exit.flags, HEAD_KNOWN).then_some(exit.head));
        let slice = difference(&exit.total, &position.total);
        let lost = exit.seq.saturating_sub(position.seq);
        self.turns.push(Turn::Clear { at: exit.exiting_at });
        self.slice(exit.at, head, &slice, lost, false, context);
        self.deactivate(exit.exiting_at.min(exit.at), context);
        self.finished = true;
    }

    /// Index after this thread's LANE_END, when it has been drained.
    fn released(&self, context: &Context<'_>) -> Option<u64> {
        let events = context.lanes.events(self.lane?);
        let own = events.iter().map(|queued| &queued.event).filter(|e| e.index >= self.next);
        let end = own.take_while(|e| e.op != op::LANE_BEGIN || e.index == self.next);
        let end = end.into_iter().find(|e| e.op == op::LANE_END)?;
        Some(end.index + 1)
    }
}

#[cfg(test)]
#[path = "timeline_tests.rs"]
mod tests;
