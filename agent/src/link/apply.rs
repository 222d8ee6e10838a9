//! The outer half of a thread's timeline: what each thing that happens to it moves on. Of the slice
//! before it is said in `slice`; what follows here are the waits, the open ones too, and the ends.

use agent_ebpf::wire::{
    self, Exit, Interval, Snapshot,
    record::CUT,
    state::STATES,
    thread::{HEAD_KNOWN, UNREADABLE, WAKER_IRQ, has},
};
use hotspan_lanes::abi::op;

use super::{
    item::Item,
    records::{difference, kernel_state, open_part, wait_of},
    spans::{CauseKind, Seen, StackKey},
    timeline::{Active, Context, Position, Timeline, Turn, Unnamed},
    window::{Checkpoint, Composition},
};
use crate::model::{
    id::{Pid, Tid},
    state::State,
};

impl Timeline {
    pub(super) fn apply(&mut self, item: &Item, context: &mut Context<'_>) {
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

    fn interval(&mut self, interval: &Interval, context: &mut Context<'_>) {
        let Some(position) = self.position else {
            return;
        };
        if interval.seq <= position.seq {
            return;
        }
        let head = has(interval.flags, HEAD_KNOWN).then_some(interval.head);
        // What was reported while it was open is not reported again.
        let mut wait = wait_of(interval, position.at);
        let mut slice = difference(&interval.total, &position.total);
        for (state, ns) in wait.iter() {
            if let Some(kernel) = state.kernel() {
                slice[kernel.index()] = slice[kernel.index()].saturating_sub(ns);
            }
        }
        let lost = interval.seq - position.seq - 1;
        if lost == 0 && interval.out_at < position.at {
            // All up to here was reported while the wait was open, in the state it seemed to be.
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
                (CauseKind::Preemptor, interval.preemptor_tid, interval.preemptor_tgid, 0)
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

    /// The thread waits and nobody knows for how long: what it has waited so far is reported, so that a
    /// request that hangs is seen. Who ends the wait is reported when it ends.
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
            self.finished = true;
            return;
        }
        self.slice(at, None, &[0; STATES], 0, false, context);
        self.deactivate(at, context);
        self.finished = true;
    }

    fn exit(&mut self, exit: &Exit, context: &mut Context<'_>) {
        let Some(position) = self.position else {
            // It never had a lane: nothing of it is left to be linked.
            self.finished = true;
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
