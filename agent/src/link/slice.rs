//! The inner half of a thread's timeline: one slice, cut by the markers published in it.

use agent_ebpf::wire::{
    Sample, State as K,
    state::STATES,
    thread::{HEAD_KNOWN, has},
};
use hotspan_lanes::abi::{Event, op, ts_kind};

use super::{
    spans::{Seen, SpanIndex, SpanKey, Spans, StackKey},
    timeline::{Active, Context, HISTORY, Timeline, Turn},
    window::{Composition, place},
};
use crate::{
    kernel::ktime::TscClock,
    ledger::DaemonCounter,
    model::{
        id::{Pid, SpanId, Tid, TraceId},
        state::State,
    },
};

impl Timeline {
    /// Links the slice from the present position to `end`: its markers cut it, its composition is
    /// shared among the pieces. `lost` records lie in it: then its parts are only known to belong
    /// to one span when no marker falls into it.
    pub(super) fn slice(
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
            composition.add(state.into(), totals[state.index()]);
        }
        let len = end - position.at;
        if lost > 0 {
            if self.lane.is_some() || self.active.is_some() {
                context.count(DaemonCounter::IntervalsBridged, lost);
            }
            if head.is_none_or(|head| head != self.next) {
                composition = Composition::of(State::UnknownEventsLost, len);
            }
        }
        settle(&mut composition, len, context);
        if unreadable {
            composition = Composition::of(State::UnknownContextUnreadable, len);
        }
        let turns = std::mem::take(&mut self.turns);
        // After an exec the head that is known is the new image's lane's.
        let rebound = turns.iter().any(|turn| matches!(turn, Turn::Bind { .. }));
        let mut start = position.at;
        for turn in turns {
            let at = match turn {
                Turn::Clear { at } | Turn::Bind { at, .. } => at.clamp(start, end),
            };
            let until = match turn {
                // All the old lane ever published lies before its end.
                Turn::Clear { .. } => head.filter(|_| self.lane.is_some() && !rebound),
                Turn::Bind { .. } => None,
            };
            let part = composition.share(len, start - position.at, at - position.at);
            self.window(start, at, until, &part, context);
            start = at;
            self.checkpoints.retain(|checkpoint| checkpoint.at >= at);
            match turn {
                Turn::Clear { .. } => {
                    self.deactivate(at, context);
                    self.lane = None;
                }
                Turn::Bind { lane, first_index, .. } => {
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
            Some(lane) => {
                let queue = context.lanes.events(lane);
                let from = queue.partition_point(|queued| queued.event.index < self.next);
                let within = queue.range(from..).map(|queued| queued.event);
                let within = within.take_while(|event| match head {
                    Some(head) => event.index < head,
                    None => stamp(event, context.clock).is_none_or(|at| at <= end),
                });
                within.collect()
            }
            None => Vec::new(),
        };
        // What comes after a LANE_END is the next owner's, and so is a LANE_BEGIN that is not the first
        // marker here: the LANE_END before it is missing.
        let first = self.next;
        let is_anothers = |event: &Event| event.op == op::LANE_BEGIN && event.index > first;
        let end_of_own = |event: &Event| event.op == op::LANE_END || is_anothers(event);
        let own = events
            .iter()
            .position(end_of_own)
            .map_or(events.len(), |at| at + usize::from(events[at].op == op::LANE_END));
        let ends = (events[..own].first(), events[..own].last());
        if let (Some(lane), (Some(from), Some(last))) = (self.lane, ends) {
            context.lanes.claim(lane, from.index..last.index + 1);
        }
        for event in &events {
            if event.index > self.next {
                cursor = self.skip(event.index, start, cursor, end, len, composition, context);
            }
            if is_anothers(event) {
                self.lane = None;
                break;
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
    #[expect(clippy::too_many_arguments, reason = "one step of `window`, on its variables")]
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
            *span.loss.entry(DaemonCounter::MarkersLost).or_default() += index - self.next;
        }
        self.credit_samples(self.next, context);
        self.deactivate(known, context);
        if let Some(lane) = self.lane {
            context.lanes.unread(lane, index);
        }
        self.next = index;
        context.count(DaemonCounter::MarkersSkipped, 1);
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
            // Without a head of its own it does not say whose it is.
            let known = has(sample.flags, HEAD_KNOWN);
            let span = self.active.filter(|_| known).map(|active| active.span);
            see(&sample, span, context.sample_ns, context.spans);
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

    pub(super) fn remember(&mut self, index: u64, span: Option<SpanIndex>) {
        if self.history.len() >= HISTORY {
            self.history.pop_front();
        }
        self.history.push_back((index, span));
    }

    fn key(&self, event: &Event) -> SpanKey {
        SpanKey { trace_id: TraceId(event.trace_id), span_id: SpanId(event.span_id), pid: self.pid }
    }

    pub(super) fn activate(
        &mut self,
        event: &Event,
        at: u64,
        context: &mut Context<'_>,
    ) -> Option<SpanIndex> {
        let lanes = &mut *context.lanes;
        let lane = self.lane;
        let make = || {
            let name = lane.map_or_else(|| "".into(), |lane| lanes.name(lane, event.name_id));
            (name, SpanId(event.parent_span_id))
        };
        let span = context.spans.find_or_insert(self.key(event), make, at, context.recorded)?;
        self.active = Some(Active { span, since: at });
        context.spans.get_mut(span).active_on += 1;
        Some(span)
    }

    pub(super) fn deactivate(&mut self, at: u64, context: &mut Context<'_>) {
        if let Some(active) = self.active.take() {
            context.spans.deactivate(active.span, active.since, at.max(active.since));
            let span = context.spans.get_mut(active.span);
            span.active_on = span.active_on.saturating_sub(1);
        }
    }

    /// Adds the active time to its span, up to where linking has come to, so that a span that is still active
    /// can be reported. All of it has been charged to states by then.
    pub(super) fn book_active(&mut self, spans: &mut Spans) {
        let Some(position) = self.position else { return };
        if let Some(active) = &mut self.active
            && position.at > active.since
        {
            spans.deactivate(active.span, active.since, position.at);
            active.since = position.at;
        }
    }

    /// Samples that no slice will claim any more.
    pub(super) fn give_up_samples(&mut self, sample_ns: u64, spans: &mut Spans) {
        for sample in self.take_samples() {
            see(&sample, None, sample_ns, spans);
        }
    }
}

/// Credits a timer sample.
pub(super) fn see(sample: &Sample, span: Option<SpanIndex>, ns: u64, spans: &mut Spans) {
    let stack =
        StackKey { state: State::Running, user: sample.user_stack, kernel: sample.kernel_stack };
    let (pid, tid) = (Pid(sample.tgid), Tid(sample.tid));
    // One without a stack says nothing of a span.
    let span = span.filter(|_| stack.user | stack.kernel != 0);
    spans.see(Seen { at: sample.at, pid, tid, span, stack, ns, is_sample: true });
}

/// A marker's stamp as ktime.
pub(super) fn stamp(event: &Event, clock: &TscClock) -> Option<u64> {
    match event.ts_kind {
        ts_kind::X86_TSC => clock.ktime(event.ts),
        ts_kind::MONOTONIC_NS => Some(event.ts),
        _ => None,
    }
}
/// Makes a composition fit its window. They differ only when the clock stepped back or a counter
/// and a stamp come from different events; the rest is unknown, never invented.
fn settle(composition: &mut Composition, len: u64, context: &mut Context<'_>) {
    let sum = composition.sum();
    if sum < len {
        context.count(DaemonCounter::TimeUnexplainedNs, len - sum);
        composition.add(State::UnknownEventsLost, len - sum);
    } else if sum > len {
        context.count(DaemonCounter::TimeOverlappingNs, sum - len);
        *composition = composition.share(sum, 0, len);
    }
}
