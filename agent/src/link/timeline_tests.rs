//! The join against generated threads whose truth is known: which span was current at every
//! nanosecond, and what the thread did in it. The records come from the account the kernel programs
//! run (`agent_ebpf::account`), so both halves are tested together.

use std::collections::HashMap;

use agent_ebpf::{
    account::{self, Leave},
    wire::{
        self, RecordKind, Tail, record,
        state::STATES,
        thread::{PREEMPTED, WAKE_SET},
    },
};
use hotspan_lanes::abi::{EVENT_LEN, op, ts_kind};
use proptest::prelude::*;

use super::*;
use crate::process::maps::Address;

const PID: Pid = Pid(77);
const VA: u64 = 0x7000_0000;

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
struct World {
    lanes: Lanes,
    spans: Spans,
    timeline: Timeline,
    thread: wire::Thread,
    now: u64,
    exec: u64,
    head: u64,
    current: u8,
    /// ns by (span, state)
    truth: HashMap<(u8, wire::State), u64>,
    unnamed: Vec<Unnamed>,
    counts: HashMap<DaemonCounter, u64>,
    stamped: bool,
}

impl World {
    fn new(stamped: bool) -> Self {
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
            counts: HashMap::new(),
            stamped,
        }
    }

    fn pass(&mut self, state: wire::State, ns: u64) {
        self.now += ns;
        if self.current != 0 {
            *self.truth.entry((self.current, state)).or_default() += ns;
        }
    }

    fn run(&mut self, ns: u64) {
        self.pass(wire::State::Running, ns);
        self.exec += ns;
    }

    /// Publishes span `span` (0 clears); `lost` ones never reach a queue.
    fn publish(&mut self, span: u8, lost: bool) {
        let operation = if span == 0 { op::CLEAR } else { op::SET };
        let kind = if self.stamped { ts_kind::MONOTONIC_NS } else { ts_kind::NONE };
        if !lost {
            let mut events = [[0u8; 64]; record::TAIL_EVENTS];
            events[0] = event(self.head, self.now, kind, operation, span);
            self.lanes.add_tail(&Tail {
                kind: RecordKind::Tail as u32,
                tid: 77,
                tgid: PID.0,
                generation: 1,
                serial: 1,
                va: VA,
                first: self.head,
                count: 1,
                at: self.now,
                events,
            });
        }
        self.head += 1;
        self.current = span;
    }

    fn sample(&mut self) {
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

    fn wait(&mut self, blocked: u64, ready: u64, lost: bool, watched: bool) {
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
                rival_tid: 5,
                rival_tgid: 5,
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
        self.timeline.book(&mut self.spans);
    }

    fn exit(&mut self) {
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
            flags: HEAD_KNOWN as u8,
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

    fn link(&mut self, watermark: u64) {
        self.with(|timeline, context| timeline.link(watermark, context));
    }

    fn with(&mut self, act: impl FnOnce(&mut Timeline, &mut Context<'_>)) {
        let counts = &mut self.counts;
        act(
            &mut self.timeline,
            &mut Context {
                lanes: &mut self.lanes,
                spans: &mut self.spans,
                clock: &TscClock::default(),
                unnamed: &mut self.unnamed,
                sample_ns: 1,
                recorded: true,
                count: &mut |counter, n| *counts.entry(counter).or_default() += n,
            },
        );
    }

    fn got(&self) -> HashMap<(u8, wire::State), u64> {
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

/// What a generated thread does next.
#[derive(Clone, Copy, Debug)]
enum Act {
    Run(u64),
    Publish(u8),
    Sample,
    Wait(u64, u64),
    /// A wait so long that it is told while it is open.
    LongWait(u64, u64),
    Round,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (1..3_000_000u64).prop_map(Act::Run),
        4 => (0..5u8).prop_map(Act::Publish),
        2 => Just(Act::Sample),
        3 => (prop_oneof![Just(0), 1..9_000_000u64], 1..500_000u64).prop_map(|(b, r)| Act::Wait(b, r)),
        1 => (1..9_000_000u64, 1..500_000u64).prop_map(|(b, r)| Act::LongWait(b, r)),
        1 => Just(Act::Round),
    ]
}

fn play(world: &mut World, acts: &[(Act, bool)], lose_intervals: bool, lose_markers: bool) {
    begin(world, acts, lose_intervals, lose_markers);
    world.run(10);
    world.exit();
    world.link(u64::MAX);
}

fn begin(world: &mut World, acts: &[(Act, bool)], lose_intervals: bool, lose_markers: bool) {
    for &(act, lose) in acts {
        match act {
            Act::Run(ns) => world.run(ns),
            Act::Publish(span) => world.publish(span, lose && lose_markers),
            Act::Sample => world.sample(),
            Act::Wait(blocked, ready) => world.wait(blocked, ready, lose && lose_intervals, false),
            Act::LongWait(blocked, ready) => {
                world.wait(blocked, ready, lose && lose_intervals, true);
            }
            Act::Round => world.link(world.now),
        }
    }
}

fn identities(world: &World) -> Result<(), TestCaseError> {
    for (_, span) in world.spans.iter() {
        prop_assert_eq!(span.states.sum(), span.active_ns, "span {}", span.key.span_id.0[0]);
        let active: u64 = span.active.iter().map(|(a, b)| b - a).sum();
        prop_assert_eq!(active, span.active_ns);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// A thread that dies as the programs are taken out: neither its exit nor an account is seen.
    #[test]
    fn an_unseen_end_breaks_no_identity(
        acts in prop::collection::vec((act(), prop::bool::weighted(0.2)), 1..120),
        lose in any::<bool>(),
    ) {
        let mut world = World::new(true);
        begin(&mut world, &acts, lose, false);
        world.run(10);
        world.link(u64::MAX);
        let at = world.now + 5;
        world.with(|timeline, context| timeline.close_unseen(at, context));
        prop_assert!(world.timeline.finished && world.timeline.active.is_none());
        identities(&world)?;
        let truth: u64 = world.truth.values().sum();
        let got: u64 = world.spans.iter().map(|(_, span)| span.active_ns).sum();
        prop_assert!(got >= truth && got <= truth + 5, "{got} of {truth}");
    }

    /// Nothing lost: every nanosecond of every span is in the right state of the right span.
    #[test]
    fn exact_without_loss(acts in prop::collection::vec((act(), Just(false)), 1..120)) {
        let mut world = World::new(true);
        play(&mut world, &acts, false, false);
        let truth: HashMap<_, _> = world.truth.iter().filter(|(_, ns)| **ns > 0).map(|(k, v)| (*k, *v)).collect();
        prop_assert_eq!(world.got(), truth);
        identities(&world)?;
        for (_, span) in world.spans.iter() {
            prop_assert!(span.exact);
        }
        // Samples went to the span that was current.
        for seen in world.spans.take_changes().1 {
            let span = seen.span.map(|index| world.spans.get(index).key.span_id.0[0]);
            prop_assert!(span.is_none_or(|id| seen.stack.user == u64::from(id) + 100));
        }
    }

    /// Interval records lost: active time stays exact, no state is invented: what is charged to a
    /// known state is never more than the truth.
    #[test]
    fn lost_intervals_lose_no_time(acts in prop::collection::vec((act(), prop::bool::weighted(0.4)), 1..120)) {
        let mut world = World::new(true);
        play(&mut world, &acts, true, false);
        identities(&world)?;
        let got = world.got();
        for (_, span) in world.spans.iter() {
            let id = span.key.span_id.0[0];
            let truth: u64 = world.truth.iter().filter(|((s, _), _)| *s == id).map(|(_, ns)| ns).sum();
            prop_assert_eq!(span.active_ns, truth, "span {}", id);
        }
        for ((span, state), ns) in got {
            if state != wire::State::UnknownEventsLost {
                let truth = world.truth.get(&(span, state)).copied().unwrap_or(0);
                prop_assert!(ns <= truth, "span {span} {state:?}: {ns} of {truth}");
            }
        }
    }

    /// Markers lost: no span ever gets time that is not its own.
    #[test]
    fn lost_markers_mislabel_nothing(acts in prop::collection::vec((act(), prop::bool::weighted(0.3)), 1..120)) {
        let mut world = World::new(true);
        play(&mut world, &acts, false, true);
        identities(&world)?;
        for ((span, state), ns) in world.got() {
            let truth = world.truth.get(&(span, state)).copied().unwrap_or(0);
            prop_assert!(ns <= truth, "span {span} {state:?}: {ns} of {truth}");
        }
    }

    /// No stamps: waits are still exact, only cuts inside slices are bounded, and that is said.
    #[test]
    fn without_stamps_waits_stay_exact(acts in prop::collection::vec((act(), Just(false)), 1..120)) {
        let mut world = World::new(false);
        play(&mut world, &acts, false, false);
        identities(&world)?;
        let got = world.got();
        for state in [wire::State::Socket, wire::State::ReadyWakeup, wire::State::ReadyPreempted] {
            for span in 1..5u8 {
                let truth = world.truth.get(&(span, state)).copied().unwrap_or(0);
                prop_assert_eq!(got.get(&(span, state)).copied().unwrap_or(0), truth);
            }
        }
    }
}

#[test]
fn causes_name_the_waker_and_the_rival() {
    let mut world = World::new(true);
    world.publish(1, false);
    world.run(10);
    world.wait(1_000, 50, false, false);
    world.wait(0, 70, false, false);
    world.exit();
    world.link(u64::MAX);
    let find = |state: wire::State| {
        world.unnamed.iter().find(|u| u.state == state.into()).map(|u| (u.tid.0, u.ns))
    };
    assert_eq!(find(wire::State::Socket), Some((6, 1_000)));
    assert_eq!(find(wire::State::ReadyWakeup), Some((5, 50)));
    assert_eq!(find(wire::State::ReadyPreempted), Some((5, 70)));
}

#[test]
fn span_open_before_attach_is_charged_to_before_attach() {
    let mut world = World::new(true);
    // Published before anything was accounted.
    world.publish(3, false);
    let lane = world.lanes.lane_or_virtual(PID, Address(VA), 0, 1).unwrap();
    let mut timeline = Timeline::new(PID);
    let snapshot = Snapshot {
        tid: 77,
        tgid: PID.0,
        phase: wire::Phase::BeforeAttach as u32,
        flags: 0,
        serial: 2,
        birth: 5_000,
        since: 5_000,
        at: 6_000,
        wake: 0,
        seq: 0,
        head: 0,
        start_boottime: 0,
        state: 0,
        ready: 0,
        torn: 0,
        pad: [0; 5],
        run_delay: 0,
        sum_exec: 0,
        comm: [0; 16],
        total: [0; STATES],
    };
    let counts = &mut world.counts;
    timeline.adopt(
        &snapshot,
        lane,
        5_500,
        &mut Context {
            lanes: &mut world.lanes,
            spans: &mut world.spans,
            clock: &TscClock::default(),
            unnamed: &mut world.unnamed,
            sample_ns: 1,
            recorded: true,
            count: &mut |counter, n| *counts.entry(counter).or_default() += n,
        },
    );
    timeline.push(Item::Snapshot { snapshot, end: true });
    timeline.link(
        u64::MAX,
        &mut Context {
            lanes: &mut world.lanes,
            spans: &mut world.spans,
            clock: &TscClock::default(),
            unnamed: &mut world.unnamed,
            sample_ns: 1,
            recorded: true,
            count: &mut |_, _| {},
        },
    );
    let (_, span) = world.spans.iter().next().unwrap();
    assert_eq!((span.start, span.active_ns), (1_000, 5_000));
    assert_eq!(span.states.get(State::UnknownBeforeAttach), 5_000);
    assert!(!span.exact);
}

/// The exec of a program and the announcement of its lane can sit in the rings while the sweep finds
/// the same lane. Taken afterwards, they must not take the lane away.
#[test]
fn what_is_older_than_the_sight_of_a_lane_takes_nothing_away() {
    let mut world = World::new(true);
    let lane =
        world.timeline.lane.or(Some(world.lanes.lane_or_virtual(PID, Address(VA), 0, 1).unwrap()));
    let lane = lane.unwrap();
    world.timeline = Timeline::new(PID);
    let taken = |at, seen_at, first_index| {
        let (seq, since, total) = (0, 1_000, [0; STATES]);
        Item::Lane(Taken { seq, at, seen_at, since, total, lane, first_index })
    };
    let exec = |at| {
        Item::Exec(Exec {
            kind: RecordKind::Exec as u32,
            tid: 77,
            tgid: PID.0,
            old_tid: 77,
            serial: 1,
            at,
            seq: 0,
            comm: [0; 16],
        })
    };
    // Found by the sweep at 1,600; the announcement was made at 1,500, the exec at 1,400.
    world.timeline.push(taken(1_000, 1_600, 0));
    world.link(u64::MAX);
    world.timeline.push(exec(1_400));
    world.timeline.push(taken(1_500, 1_500, 0));
    world.publish(3, false);
    world.run(2_000);
    world.wait(10, 10, false, false);
    world.link(u64::MAX);
    assert_eq!(world.timeline.lane, Some(lane));
    assert!(world.timeline.active.is_some(), "the span was published after all of that");
    assert_eq!(world.counts.get(&DaemonCounter::LaneReplaced), None);

    // An exec after that ends it.
    let at = world.now + 10;
    world.timeline.push(Item::Exec(Exec {
        seq: world.thread.seq,
        ..match exec(at) {
            Item::Exec(exec) => exec,
            _ => unreachable!("made above"),
        }
    }));
    world.run(2_000);
    world.wait(10, 10, false, false);
    world.link(u64::MAX);
    assert_eq!(world.timeline.lane, None);
    assert!(world.timeline.active.is_none());
}
