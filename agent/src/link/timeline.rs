//! One thread's time, joined with what its lane published (design 2, 3.3, 3.7, 4).
//!
//! Records arrive in order of the thread's own sequence number. Between two of them lies one
//! *slice* (on the CPU; markers can fall into it) and one *wait* (off it; none can). What a slice
//! consists of (running, stolen, unknown) is the difference of the cumulative totals, so a lost
//! record loses no time: the next one's totals cover it.

use std::collections::VecDeque;

use agent_ebpf::wire::{
    self, Exec, Exit, Interval, Sample, Snapshot, State as K,
    record::{CUT, HEAD_KNOWN, PREEMPTED, UNREADABLE, WAKER_IRQ},
    state::STATES,
    thread,
};
use hotspan_lanes::abi::{Event, op, ts_kind};

use super::{
    spans::{CauseKind, SpanIndex, SpanKey, Spans, StackKey},
    window::{Checkpoint, Composition, place},
};
use crate::{
    kernel::ktime::TscClock,
    lanes::{LaneId, Lanes},
    process::id::Pid,
    profile::state::State,
};

/// Which span was current after each of the last markers: for causes named by other threads.
const HISTORY: usize = 4096;
/// A record whose markers have not been drained is linked without them after this long.
const PATIENCE_NS: u64 = 1_000_000_000;

/// What happened to a thread, in order of (sequence, rank, time).
#[derive(Clone, Copy, Debug)]
#[expect(clippy::large_enum_variant, reason = "queued for one round")]
pub enum Item {
    /// It came back from a wait, or its long slice was cut.
    Interval(Interval),
    /// It was seen running.
    Sample(Sample),
    /// It took a lane: events from an index on are its own.
    Lane {
        seq: u64,
        at: u64,
        since: u64,
        total: [u64; STATES],
        lane: LaneId,
        first_index: u64,
    },
    /// Its image, and with it the lane, was replaced.
    Exec(Exec),
    /// Its account as the iterator saw it; `end` closes what is open (the last one).
    Snapshot { snapshot: Snapshot, end: bool },
    /// It is gone.
    Exit(Exit),
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
    pub tid: u32,
    /// Its process.
    pub pid: u32,
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
    /// What went wrong, by name.
    pub count: &'a mut dyn FnMut(&'static str, u64),
}

/// The span now active on the thread.
#[derive(Clone, Copy, Debug)]
struct Active {
    span: SpanIndex,
    since: u64,
}

/// Where linking has come to.
#[derive(Clone, Copy, Debug)]
struct Position {
    at: u64,
    seq: u64,
    total: [u64; STATES],
}

/// A change of lane inside a slice.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// Nothing published before this is valid any more.
    Clear { at: u64 },
    /// Another lane from here on.
    Bind {
        at: u64,
        lane: LaneId,
        first_index: u64,
    },
}

/// One thread's linking state.
#[derive(Debug)]
pub struct Timeline {
    pid: Pid,
    lane: Option<LaneId>,
    /// Index of the next marker to apply.
    next: u64,
    position: Option<Position>,
    active: Option<Active>,
    queue: Vec<Item>,
    checkpoints: Vec<Checkpoint>,
    samples: Vec<Sample>,
    turns: Vec<Turn>,
    history: VecDeque<(u64, Option<SpanIndex>)>,
    /// The thread is gone.
    pub finished: bool,
}

// === impl Item ===

impl Item {
    fn order(&self) -> (u64, u8, u64) {
        match self {
            Self::Interval(i) => (i.seq, 0, i.in_at),
            Self::Sample(s) => (s.seq, 1, s.at),
            Self::Lane { seq, at, .. } => (*seq, 1, *at),
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
            Self::Interval(i) if i.flags & HEAD_KNOWN != 0 => i.head,
            Self::Exit(e) if e.flags & HEAD_KNOWN != 0 => e.head,
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
        let bound = self
            .lane
            .filter(|_| !self.finished)
            .map(|lane| (lane, self.next));
        let turns = self.turns.iter().filter_map(|turn| match turn {
            Turn::Bind {
                lane, first_index, ..
            } => Some((*lane, *first_index)),
            Turn::Clear { .. } => None,
        });
        let queued = self.queue.iter().filter_map(|item| match item {
            Item::Lane {
                lane, first_index, ..
            } => Some((*lane, *first_index)),
            _ => None,
        });
        bound.into_iter().chain(turns).chain(queued)
    }

    fn apply(&mut self, item: &Item, context: &mut Context<'_>) {
        match item {
            Item::Lane {
                seq,
                at,
                since,
                total,
                lane,
                first_index,
            } => {
                if self.position.is_none() {
                    self.position = Some(Position {
                        at: *since,
                        seq: *seq,
                        total: *total,
                    });
                }
                if self.lane.is_none() && self.turns.is_empty() {
                    self.bind(*lane, *first_index);
                } else {
                    self.turns.push(Turn::Bind {
                        at: *at,
                        lane: *lane,
                        first_index: *first_index,
                    });
                }
            }
            Item::Sample(sample) => {
                if sample.flags & HEAD_KNOWN != 0 {
                    self.checkpoints.push(Checkpoint {
                        at: sample.at,
                        head: sample.head,
                    });
                }
                self.samples.push(*sample);
            }
            Item::Exec(exec) => self.turns.push(Turn::Clear { at: exec.at }),
            Item::Interval(interval) => self.interval(interval, context),
            Item::Snapshot { snapshot, end } => self.snapshot(snapshot, *end, context),
            Item::Exit(exit) => self.exit(exit, context),
        }
    }

    fn bind(&mut self, lane: LaneId, first_index: u64) {
        self.lane = Some(lane);
        self.next = first_index;
    }

    /// Takes over a thread that had its lane before the agent came: finds the span that is open at
    /// `position` and charges what it had before to `unknown.before_attach`.
    pub fn adopt(&mut self, snapshot: &Snapshot, lane: LaneId, context: &mut Context<'_>) {
        let at = snapshot.since;
        self.position = Some(Position {
            at,
            seq: snapshot.seq,
            total: snapshot.total,
        });
        self.bind(lane, context.lanes.first_index(lane));
        let events: Vec<Event> = context.lanes.events(lane).iter().copied().collect();
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
            open = (event.op == op::SET).then_some((event, stamp));
        }
        if let Some((event, stamp)) = open {
            let span = self.activate(&event, stamp, context);
            if let Some(span) = span {
                let span = context.spans.get_mut(span);
                span.states
                    .add(State::Kernel(K::UnknownBeforeAttach), at - stamp);
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
        let head = (interval.flags & HEAD_KNOWN != 0).then_some(interval.head);
        let mut wait = wait_of(interval);
        let mut slice = difference(&interval.total, &position.total);
        for (state, ns) in wait.iter() {
            if let State::Kernel(kernel) = state {
                slice[kernel.index()] = slice[kernel.index()].saturating_sub(ns);
            }
        }
        let lost = interval.seq - position.seq - 1;
        // Whose time it was is then known from stamps alone.
        let unreadable = interval.flags & UNREADABLE != 0;
        self.slice(interval.out_at, head, &slice, lost, unreadable, context);
        if unreadable {
            wait = Composition::of(State::ContextUnreadable, wait.sum());
        }
        if interval.flags & CUT == 0 {
            self.wait(interval, &wait, context);
        }
        self.position = Some(Position {
            at: interval.in_at,
            seq: interval.seq,
            total: interval.total,
        });
    }

    /// A wait: no marker can fall into it, so all of it is the current span's.
    fn wait(&mut self, interval: &Interval, wait: &Composition, context: &mut Context<'_>) {
        let Some(Active { span: index, .. }) = self.active else {
            return;
        };
        let span = context.spans.get_mut(index);
        for (state, ns) in wait.iter() {
            span.states.add(state, ns);
            span.exact &= !state.is_unknown();
        }
        if interval.weight > 0 {
            let state = kernel_state(interval.state);
            let key = StackKey {
                state,
                user: interval.user_stack,
                kernel: interval.kernel_stack,
            };
            span.stacks.entry(key).or_default().add(interval.weight);
        }
        for (state, ns) in wait.iter() {
            let ready = matches!(
                state,
                State::Kernel(K::ReadyWakeup | K::ReadyPreempted | K::Throttled)
            );
            let (kind, tid, pid, head_plus_one) = if ready {
                (CauseKind::Rival, interval.rival_tid, interval.rival_tgid, 0)
            } else if interval.flags & WAKER_IRQ != 0 {
                (CauseKind::Interrupt, 0, 0, 0)
            } else if interval.waker_tid != 0 {
                let head = interval.waker_head;
                (
                    CauseKind::Waker,
                    interval.waker_tid,
                    interval.waker_tgid,
                    head,
                )
            } else {
                (CauseKind::Syscall(interval.syscall), 0, 0, 0)
            };
            if tid == 0 && ready {
                continue; // nobody had the CPU: it was on its way out of idle
            }
            let unnamed = Unnamed {
                span: index,
                state,
                ns,
                tid,
                pid,
                head_plus_one,
                kind,
            };
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
            let head = (snapshot.flags & thread::HEAD_KNOWN != 0).then_some(snapshot.head);
            if off {
                let slice = difference(&snapshot.total, &position.total);
                let lost = snapshot.seq - position.seq;
                self.slice(snapshot.since, head, &slice, lost, false, context);
                self.position = Some(Position {
                    at: snapshot.since,
                    seq: snapshot.seq,
                    total: snapshot.total,
                });
            }
        }
        if end {
            self.close(snapshot, context);
        }
    }

    /// The recording ends while the thread lives: what is open is charged up to now.
    fn close(&mut self, snapshot: &Snapshot, context: &mut Context<'_>) {
        let Some(position) = self.position else {
            return;
        };
        let mut total = snapshot.total;
        for (state, ns) in open_part(snapshot).iter() {
            if let State::Kernel(kernel) = state {
                total[kernel.index()] += ns;
            }
        }
        let slice = difference(&total, &position.total);
        let lost = snapshot.seq - position.seq;
        self.slice(snapshot.at, None, &slice, lost, false, context);
        self.deactivate(snapshot.at, context);
        self.finished = true;
    }

    fn exit(&mut self, exit: &Exit, context: &mut Context<'_>) {
        let Some(position) = self.position else {
            return;
        };
        // The lane's own last word is better than the head the kernel read: both when it was
        // released by the thread itself and when it was read at the thread's death.
        let head = self
            .released(context)
            .or((exit.flags & HEAD_KNOWN != 0).then_some(exit.head));
        let slice = difference(&exit.total, &position.total);
        let lost = exit.seq.saturating_sub(position.seq);
        self.turns.push(Turn::Clear {
            at: exit.exiting_at,
        });
        self.slice(exit.at, head, &slice, lost, false, context);
        self.deactivate(exit.exiting_at.min(exit.at), context);
        self.finished = true;
    }

    /// Index after this thread's LANE_END, when it has been drained.
    fn released(&self, context: &Context<'_>) -> Option<u64> {
        let events = context.lanes.events(self.lane?);
        let end = events
            .iter()
            .find(|e| e.index >= self.next && e.op == op::LANE_END)?;
        Some(end.index + 1)
    }

    /// Links the slice from the present position to `end`: its markers cut it, its composition is
    /// shared among the pieces. `lost` records lie in it: then its parts are only known to belong
    /// to one span when no marker falls into it.
    fn slice(
        &mut self,
        end: u64,
        head: Option<u64>,
        totals: &[u64; STATES],
        lost: u64,
        unreadable: bool,
        context: &mut Context<'_>,
    ) {
        let Some(position) = self.position else {
            return;
        };
        let end = end.max(position.at);
        let mut composition = Composition::default();
        for state in K::ALL {
            composition.add(State::Kernel(state), totals[state.index()]);
        }
        let len = end - position.at;
        if lost > 0 {
            (context.count)("intervals_bridged", lost);
            if head.is_none_or(|head| head != self.next) {
                composition = Composition::of(State::Kernel(K::UnknownEventsLost), len);
            }
        }
        settle(&mut composition, len, context);
        if unreadable {
            composition = Composition::of(State::ContextUnreadable, len);
        }
        let turns = std::mem::take(&mut self.turns);
        let mut start = position.at;
        for turn in turns {
            let at = match turn {
                Turn::Clear { at } | Turn::Bind { at, .. } => at.clamp(start, end),
            };
            let until = match turn {
                // All the old lane ever published lies before its end.
                Turn::Clear { .. } => head.filter(|_| self.lane.is_some()),
                Turn::Bind { .. } => None,
            };
            let part = composition.share(len, start - position.at, at - position.at);
            self.window(start, at, until, &part, context);
            start = at;
            match turn {
                Turn::Clear { .. } => {
                    self.deactivate(at, context);
                    self.lane = None;
                }
                Turn::Bind {
                    lane, first_index, ..
                } => {
                    self.deactivate(at, context);
                    self.bind(lane, first_index);
                }
            }
        }
        let rest = composition.share(len, start - position.at, len);
        self.window(start, end, head, &rest, context);
        self.checkpoints.clear();
        self.samples.clear();
    }

    /// Applies the markers below `head` (all drained ones stamped before `end` when it is unknown)
    /// to `[start, end]`.
    fn window(
        &mut self,
        start: u64,
        end: u64,
        head: Option<u64>,
        composition: &Composition,
        context: &mut Context<'_>,
    ) {
        let len = end - start;
        let mut cursor = start;
        let events: Vec<Event> = match self.lane {
            Some(lane) => context
                .lanes
                .events(lane)
                .iter()
                .filter(|event| event.index >= self.next)
                .take_while(|event| match head {
                    Some(head) => event.index < head,
                    None => stamp(event, context.clock).is_none_or(|at| at <= end),
                })
                .copied()
                .collect(),
            None => Vec::new(),
        };
        for event in &events {
            if event.index > self.next {
                cursor = self.skip(event.index, start, cursor, end, len, composition, context);
            }
            let stamp = stamp(event, context.clock);
            if stamp.is_none()
                && let Some(active) = self.active
            {
                context.spans.get_mut(active.span).exact = false;
            }
            let at = place(event.index, stamp, cursor, end, &self.checkpoints);
            self.piece(start, cursor, at, len, composition, context);
            cursor = at;
            self.credit_samples(event.index, context);
            self.turn_to(event, at, context);
            self.next = event.index + 1;
            if event.op == op::LANE_END {
                // What follows in this lane is another thread's.
                self.lane = None;
                break;
            }
        }
        if let (Some(head), Some(_)) = (head, self.lane)
            && head > self.next
        {
            cursor = self.skip(head, start, cursor, end, len, composition, context);
        }
        self.piece(start, cursor, end, len, composition, context);
        self.credit_samples(u64::MAX, context);
    }

    /// Markers up to `index` are lost: the span is known no further than the last moment at which
    /// none of them was published.
    #[expect(
        clippy::too_many_arguments,
        reason = "one step of `window`, on its variables"
    )]
    fn skip(
        &mut self,
        index: u64,
        start: u64,
        cursor: u64,
        end: u64,
        len: u64,
        composition: &Composition,
        context: &mut Context<'_>,
    ) -> u64 {
        let known = place(self.next, None, cursor, end, &self.checkpoints);
        self.piece(start, cursor, known, len, composition, context);
        if let Some(active) = self.active {
            let span = context.spans.get_mut(active.span);
            *span.loss.entry("markers_lost").or_default() += index - self.next;
        }
        self.credit_samples(self.next, context);
        self.deactivate(known, context);
        self.next = index;
        (context.count)("markers_skipped", 1);
        known
    }

    /// Charges `[from, to]` of the window to the active span.
    fn piece(
        &mut self,
        start: u64,
        from: u64,
        to: u64,
        len: u64,
        composition: &Composition,
        context: &mut Context<'_>,
    ) {
        let Some(active) = self.active else { return };
        let span = context.spans.get_mut(active.span);
        for (state, ns) in composition.share(len, from - start, to - start).iter() {
            span.states.add(state, ns);
            span.exact &= !state.is_unknown();
        }
    }

    /// Gives the samples that had seen at most `head` markers to the active span.
    fn credit_samples(&mut self, head: u64, context: &mut Context<'_>) {
        let seen = self.samples.iter().take_while(|s| s.head <= head).count();
        for sample in self.samples.drain(..seen) {
            let Some(active) = self.active else { continue };
            if sample.user_stack | sample.kernel_stack == 0 {
                continue;
            }
            let key = StackKey {
                state: State::Kernel(K::Running),
                user: sample.user_stack,
                kernel: sample.kernel_stack,
            };
            let span = context.spans.get_mut(active.span);
            span.stacks.entry(key).or_default().add(context.sample_ns);
        }
    }

    /// The marker's effect at `at`.
    fn turn_to(&mut self, event: &Event, at: u64, context: &mut Context<'_>) {
        let span = match event.op {
            op::SET => {
                let key = self.key(event);
                match self.active {
                    Some(active) if context.spans.get(active.span).key == key => Some(active.span),
                    _ => {
                        self.deactivate(at, context);
                        self.activate(event, at, context)
                    }
                }
            }
            op::CLEAR | op::LANE_BEGIN | op::LANE_END => {
                self.deactivate(at, context);
                None
            }
            // A newer minor version's operation: it changes nothing we know of.
            _ => self.active.map(|active| active.span),
        };
        self.remember(event.index, span);
    }

    fn remember(&mut self, index: u64, span: Option<SpanIndex>) {
        if self.history.len() >= HISTORY {
            self.history.pop_front();
        }
        self.history.push_back((index, span));
    }

    fn key(&self, event: &Event) -> SpanKey {
        SpanKey {
            trace_id: event.trace_id,
            span_id: event.span_id,
            pid: self.pid,
        }
    }

    fn activate(&mut self, event: &Event, at: u64, context: &mut Context<'_>) -> Option<SpanIndex> {
        let lanes = &mut *context.lanes;
        let lane = self.lane;
        let make = || {
            let name = lane.map_or_else(String::new, |lane| lanes.name(lane, event.name_id));
            (name, event.parent_span_id)
        };
        let span = context.spans.find_or_insert(self.key(event), make, at)?;
        self.active = Some(Active { span, since: at });
        Some(span)
    }

    fn deactivate(&mut self, at: u64, context: &mut Context<'_>) {
        if let Some(active) = self.active.take() {
            context
                .spans
                .get_mut(active.span)
                .deactivate(active.since, at.max(active.since));
        }
    }
}

/// A marker's stamp as ktime.
fn stamp(event: &Event, clock: &TscClock) -> Option<u64> {
    match event.ts_kind {
        ts_kind::X86_TSC => clock.ktime(event.ts),
        ts_kind::MONOTONIC_NS => Some(event.ts),
        _ => None,
    }
}

fn kernel_state(index: u8) -> State {
    State::Kernel(K::from_index(index).unwrap_or(K::UnknownUnresolvedWait))
}

/// Blocked and ready part of an interval.
fn wait_of(interval: &Interval) -> Composition {
    let mut wait = Composition::default();
    if interval.flags & CUT != 0 {
        return wait;
    }
    let blocked = interval.wake_at.saturating_sub(interval.out_at);
    let ready = interval
        .in_at
        .saturating_sub(interval.wake_at.max(interval.out_at));
    if interval.flags & PREEMPTED == 0 {
        wait.add(kernel_state(interval.state), blocked);
    }
    wait.add(kernel_state(interval.ready), ready);
    wait
}

/// What a snapshot's open phase consists of.
pub fn open_part(snapshot: &Snapshot) -> Composition {
    let len = snapshot.at.saturating_sub(snapshot.since);
    let is = |phase: wire::Phase| snapshot.phase == phase as u32;
    if is(wire::Phase::Running) {
        Composition::of(State::Kernel(K::Running), len)
    } else if is(wire::Phase::BeforeAttach) {
        Composition::of(State::Kernel(K::UnknownBeforeAttach), len)
    } else if is(wire::Phase::Off) {
        let wake = if snapshot.flags & thread::PREEMPTED != 0 {
            snapshot.since
        } else if snapshot.flags & thread::WAKE_SET != 0 {
            snapshot
                .wake
                .clamp(snapshot.since, snapshot.at.max(snapshot.since))
        } else {
            snapshot.at.max(snapshot.since)
        };
        let mut open = Composition::default();
        open.add(kernel_state(snapshot.state), wake - snapshot.since);
        open.add(kernel_state(snapshot.ready), (snapshot.since + len) - wake);
        open
    } else {
        Composition::default()
    }
}

fn difference(now: &[u64; STATES], before: &[u64; STATES]) -> [u64; STATES] {
    let mut difference = [0; STATES];
    for (i, slot) in difference.iter_mut().enumerate() {
        *slot = now[i].saturating_sub(before[i]);
    }
    difference
}

/// Makes a composition fit its window. They differ only when the clock stepped back or a counter
/// and a stamp come from different events; the rest is unknown, never invented.
fn settle(composition: &mut Composition, len: u64, context: &mut Context<'_>) {
    let sum = composition.sum();
    if sum < len {
        (context.count)("time_unexplained_ns", len - sum);
        composition.add(State::Kernel(K::UnknownEventsLost), len - sum);
    } else if sum > len {
        (context.count)("time_overlapping_ns", sum - len);
        *composition = composition.share(sum, 0, len);
    }
}

#[cfg(test)]
#[path = "timeline_tests.rs"]
mod tests;
