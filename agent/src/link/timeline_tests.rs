//! The join against generated threads whose truth is known: which span was current at every
//! nanosecond, and what the thread did in it. The records come from the account the kernel programs
//! run (`agent_ebpf::account`), so both halves are tested together.

use std::collections::HashMap;

use agent_ebpf::wire::{self, Exec, RecordKind, Snapshot, state::STATES};
use proptest::prelude::*;

use super::{
    world::{PID, VA, World},
    *,
};
use crate::{model::state::State, process::maps::Address};

/// What a generated thread does next.
#[derive(Clone, Copy, Debug)]
enum Act {
    Run(u64),
    Publish(u8),
    Sample,
    Wait(u64, u64),
    /// A wait so long that it is reported while it is open.
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
    world.exit(true);
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
fn causes_name_the_waker_and_the_preemptor() {
    let mut world = World::new(true);
    world.publish(1, false);
    world.run(10);
    world.wait(1_000, 50, false, false);
    world.wait(0, 70, false, false);
    world.exit(true);
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
    for (floor, start) in [(0, 1_000), (3_000, 3_000), (9_000, 5_000)] {
        before_attach(floor, start);
    }
}

/// Its marker says 1,000, it was accounted from 5,000 on, and nobody saw what was before `floor`.
fn before_attach(floor: u64, start: u64) {
    let mut world = World::new(true);
    // Published before anything was accounted.
    world.publish(3, false);
    let lane = world.lanes.lane_or_virtual(PID, Address(VA), 0, 1).unwrap();
    world.timeline = Timeline::new(PID);
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
    world.with(|timeline, context| timeline.adopt(&snapshot, lane, 5_500, floor, context));
    world.timeline.push(Item::Snapshot { snapshot, end: true });
    world.link(u64::MAX);
    let (_, span) = world.spans.iter().next().unwrap();
    assert_eq!((span.start, span.active_ns), (start, 6_000 - start));
    assert_eq!(span.states.get(State::UnknownBeforeAttach), 6_000 - start);
    assert!(!span.exact);
    assert_eq!(world.counts.get(DaemonCounter::StampsClamped), u64::from(start > 1_000));
}

/// Its lane is about to be attached: the markers come after the account that knows of them.
#[test]
fn an_account_waits_for_the_markers_it_knows_of() {
    let mut world = World::new(true);
    world.run(1_000);
    world.publish(3, true);
    let published = world.now;
    world.run(1_000);
    world.wait(3_000, 0, false, true);
    world.deliver(0, published, 3);
    world.run(1_000);
    world.wait(10, 10, false, false);
    world.link(world.now);
    assert_eq!(world.counts.get(DaemonCounter::MarkersSkipped), 0);
    let (_, span) = world.spans.iter().next().expect("the span");
    assert!(span.loss.is_empty(), "{:?}", span.loss);
    let states = [State::Running, State::Socket];
    assert_eq!(states.map(|state| span.states.get(state)), [2_000, 3_010]);
}

/// A thread ended its life in the lane (markers 0 to 2) and another took it (3 and 4) before the thread was
/// gone, so its last look at the lane said nothing.
fn passed_on() -> World {
    let mut world = World::new(true);
    world.run(1_000);
    world.publish(3, true);
    world.run(1_000);
    world.publish(0, true);
    world.head += 1;
    let at = world.now;
    world.deliver_as(op::LANE_BEGIN, 3, at, 0);
    world.deliver(4, at, 9);
    world.run(1_000);
    world.exit(false);
    world
}

#[test]
fn the_markers_of_a_lane_that_passed_on_are_waited_for() {
    let mut world = passed_on();
    world.link(world.now);
    assert!(world.spans.iter().next().is_none(), "they may still come");
    world.deliver(0, 2_000, 3);
    world.deliver(1, 3_000, 0);
    world.deliver_as(op::LANE_END, 2, 3_000, 0);
    world.lanes.hangs(PID);
    world.link(world.now);
    assert_eq!(world.got(), world.truth);
    assert_eq!(world.counts.get(DaemonCounter::MarkersSkipped), 0);
}

#[test]
fn a_lane_that_passed_on_gives_no_span_of_its_next_owner() {
    let mut world = passed_on();
    world.lanes.hangs(PID);
    world.link(world.now);
    assert!(world.spans.iter().next().is_none(), "{:?}", world.got());
    assert_eq!(world.counts.get(DaemonCounter::MarkersSkipped), 1);
    assert_eq!(world.lanes.lost.get(DaemonCounter::MarkersUnread), 3);
    assert_eq!((world.lanes.captured, world.lanes.in_flight), (5, 2));
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
    assert_eq!(world.counts.get(DaemonCounter::LaneReplaced), 0);

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
