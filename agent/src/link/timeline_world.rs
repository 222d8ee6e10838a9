//! A thread under simulation, for the tests of timelines: its records come from the account the kernel
//! programs run, and what it truly did is kept beside them.

use std::collections::HashMap;

use agent_ebpf::{
    account::{self, Leave},
    wire::{
        self, Exit, Interval, RecordKind, Tail, record,
        thread::{HEAD_KNOWN, PREEMPTED, WAKE_SET},
    },
};
use hotspan_lanes::abi::{EVENT_LEN, op, ts_kind};

use super::*;
use crate::process::maps::Address;

pub(super) const PID: Pid = Pid(77);
pub(super) const VA: u64 = 0x7000_0000;

/// One event as it lies in a ring.
fn event(index: u64, ts: u64, kind: u8, operation: u8, span: u8) -> [u8; EVENT_LEN] {
    let mut bytes = [0u8; EVENT_LEN];
    bytes[..8].copy_from_slice(&(index + 1).to_le_bytes());
    bytes[8..16].copy_from_slice(&ts.to_le_bytes());
    bytes[16] = 1;
    bytes[32] = span;
    bytes[48] = operation;
    bytes[50] = kind;
    bytes
}

/// A thread under simulation.
pub(super) struct World {
    pub(super) lanes: Lanes,
    pub(super) spans: Spans,
    pub(super) timeline: Timeline,
    pub(super) thread: wire::Thread,
    pub(super) now: u64,
    pub(super) exec: u64,
    pub(super) head: u64,
    pub(super) current: u8,
    /// ns by (span, state)
    pub(super) truth: HashMap<(u8, wire::State), u64>,
    pub(super) unnamed: Vec<Unnamed>,
    pub(super) counts: Tally,
    pub(super) stamped: bool,
}

impl World {
    pub(super) fn new(stamped: bool) -> Self {
        let mut lanes = Lanes::default();
        let lane = lanes.lane_or_virtual(PID, Address(VA), 0, 1).unwrap();
        let mut timeline = Timeline::new(PID);
        let mut thread = account::fresh();
        account::forked(&mut thread, 1_000);
        account::woken_new(&mut thread, 1_000);
        account::switch_in(&mut thread, 1_000, 0);
        timeline.push(Item::Lane(Taken {
            seq: thread.seq,
            at: 1_000,
            seen_at: 1_000,
            since: thread.since,
            total: thread.total,
            lane,
            first_index: 0,
        }));
        Self {
            lanes,
            spans: Spans::default(),
            timeline,
            thread,
            now: 1_000,
            exec: 0,
            head: 0,
            current: 0,
            truth: HashMap::new(),
            unnamed: Vec::new(),
            counts: Tally::default(),
            stamped,
        }
    }

    fn pass(&mut self, state: wire::State, ns: u64) {
        self.now += ns;
        if self.current != 0 {
            *self.truth.entry((self.current, state)).or_default() += ns;
        }
    }

    pub(super) fn run(&mut self, ns: u64) {
        self.pass(wire::State::Running, ns);
        self.exec += ns;
    }

    /// Publishes span `span` (0 clears); `lost` ones never reach a queue.
    pub(super) fn publish(&mut self, span: u8, lost: bool) {
        if !lost {
            self.deliver(self.head, self.now, span);
        }
        self.head += 1;
        self.current = span;
    }

    /// The marker of that index reaches its queue.
    pub(super) fn deliver(&mut self, index: u64, at: u64, span: u8) {
        let operation = if span == 0 { op::CLEAR } else { op::SET };
        self.deliver_as(operation, index, at, span);
    }

    pub(super) fn deliver_as(&mut self, operation: u8, index: u64, at: u64, span: u8) {
        let kind = if self.stamped { ts_kind::MONOTONIC_NS } else { ts_kind::NONE };
        let mut events = [[0u8; 64]; record::TAIL_EVENTS];
        events[0] = event(index, at, kind, operation, span);
        self.lanes.add_tail(&Tail {
            kind: RecordKind::Tail as u32,
            tid: 77,
            tgid: PID.0,
            generation: 1,
            serial: 1,
            va: VA,
            first: index,
            count: 1,
            at: self.now,
            events,
        });
    }

    pub(super) fn sample(&mut self) {
        self.timeline.push(Item::Sample(Sample {
            kind: RecordKind::Sample as u32,
            tid: 77,
            tgid: PID.0,
            cpu: 0,
            flags: HEAD_KNOWN as u8,
            pad: 0,
            serial: 1,
            at: self.now,
            seq: self.thread.seq,
            head: self.head,
            user_stack: u64::from(self.current) + 100,
            kernel_stack: 0,
        }));
    }

    pub(super) fn wait(&mut self, blocked: u64, ready: u64, lost: bool, watched: bool) {
        account::switch_out(
            &mut self.thread,
            &Leave {
                now: self.now,
                sum_exec: self.exec,
                preempted: blocked == 0,
                dead: false,
                state: wire::State::Socket,
                ready: if blocked == 0 {
                    wire::State::ReadyPreempted
                } else {
                    wire::State::ReadyWakeup
                },
            },
        );
        if watched {
            self.pass(wire::State::Socket, blocked / 3);
            self.look();
            self.pass(wire::State::Socket, blocked / 3);
            self.look();
            self.pass(wire::State::Socket, blocked - 2 * (blocked / 3));
        } else {
            self.pass(wire::State::Socket, blocked);
        }
        if blocked > 0 {
            account::woken(&mut self.thread, self.now);
            self.pass(wire::State::ReadyWakeup, ready / 2);
            if watched {
                self.look();
            }
            self.pass(wire::State::ReadyWakeup, ready - ready / 2);
        } else {
            self.pass(wire::State::ReadyPreempted, ready);
        }
        account::switch_in(&mut self.thread, self.now, self.exec);
        if !lost {
            let t = &self.thread;
            let preempted = if blocked == 0 { PREEMPTED } else { 0 };
            self.timeline.push(Item::Interval(Interval {
                kind: RecordKind::Interval as u32,
                tid: 77,
                tgid: PID.0,
                state: t.state,
                ready: t.ready,
                flags: (HEAD_KNOWN | preempted) as u8,
                pad: 0,
                serial: 1,
                seq: t.seq,
                out_at: t.out_at,
                wake_at: t.wake_at,
                in_at: t.in_at,
                head: self.head,
                syscall: 0,
                fd: 3,
                preemptor_tid: 5,
                preemptor_tgid: 5,
                waker_tid: 6,
                waker_tgid: 6,
                waker_head: 0,
                weight: 0,
                user_stack: 0,
                kernel_stack: 0,
                total: t.total,
            }));
        }
    }

    /// The iterator comes by while the thread is off the CPU.
    fn look(&mut self) {
        let t = &self.thread;
        let snapshot = Snapshot {
            tid: 77,
            tgid: PID.0,
            phase: t.phase,
            flags: t.flags | HEAD_KNOWN,
            serial: 1,
            birth: t.birth,
            since: t.since,
            at: self.now,
            wake: if t.flags & WAKE_SET != 0 { t.wake } else { 0 },
            seq: t.seq,
            head: self.head,
            start_boottime: 0,
            state: t.state,
            ready: t.ready,
            torn: 0,
            pad: [0; 5],
            run_delay: 0,
            sum_exec: self.exec,
            comm: [0; 16],
            total: t.total,
        };
        self.timeline.push(Item::Snapshot { snapshot, end: false });
        self.link(self.now);
        self.timeline.book_active(&mut self.spans);
    }

    pub(super) fn exit(&mut self, is_head_known: bool) {
        account::switch_out(
            &mut self.thread,
            &Leave {
                now: self.now,
                sum_exec: self.exec,
                preempted: false,
                dead: true,
                state: wire::State::Running,
                ready: wire::State::Running,
            },
        );
        let t = &self.thread;
        self.timeline.push(Item::Exit(Exit {
            kind: RecordKind::Exit as u32,
            tid: 77,
            tgid: PID.0,
            flags: if is_head_known { HEAD_KNOWN as u8 } else { 0 },
            pad: [0; 3],
            serial: 1,
            birth: t.birth,
            at: t.since,
            exiting_at: self.now,
            seq: t.seq,
            head: self.head,
            comm: [0; 16],
            total: t.total,
        }));
    }

    pub(super) fn link(&mut self, watermark: u64) {
        self.with(|timeline, context| timeline.link(watermark, false, context));
    }

    pub(super) fn with(&mut self, act: impl FnOnce(&mut Timeline, &mut Context<'_>)) {
        act(
            &mut self.timeline,
            &mut Context {
                lanes: &mut self.lanes,
                spans: &mut self.spans,
                clock: &TscClock::default(),
                unnamed: &mut self.unnamed,
                sample_ns: 1,
                pid: PID,
                recorded: true,
                counts: &mut self.counts,
            },
        );
    }

    pub(super) fn got(&self) -> HashMap<(u8, wire::State), u64> {
        let mut got = HashMap::new();
        for (_, span) in self.spans.iter() {
            for (state, ns) in span.states.iter() {
                let Some(state) = state.kernel() else {
                    continue;
                };
                *got.entry((span.key.span_id.0[0], state)).or_default() += ns;
            }
        }
        got
    }
}
