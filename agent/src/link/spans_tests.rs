//! Floods of spans: whoever has too many loses its own.

use super::*;
use crate::{
    budget::Over,
    model::id::{TraceId, Uid},
};

const SECOND: u64 = 1_000_000_000;
const HOG: Pid = Pid(4_000_001);
/// Another process of the same user, and one of another.
const HONEST: [Pid; 2] = [Pid(4_000_002), Pid(4_000_003)];

fn budgets() -> Budgets {
    let budgets = Budgets::default();
    for (pid, uid) in [(HOG, 1000), (HONEST[0], 1000), (HONEST[1], 1001)] {
        budgets.set_user(pid, Uid(uid));
    }
    budgets
}

fn key(pid: Pid, number: u64) -> SpanKey {
    SpanKey { trace_id: TraceId([1; 16]), span_id: SpanId(number.to_le_bytes()), pid }
}

/// A span comes and goes. Returns whether there was room for it.
fn passes(spans: &mut Spans, key: SpanKey, at: u64) -> bool {
    let Some(index) = spans.find_or_insert(key, || ("op".into(), SpanId::NONE), at, true) else {
        return false;
    };
    spans.deactivate(index, at, at + 1_000);
    true
}

/// What a flush does. Returns how many parts it has.
fn flush(spans: &mut Spans, now: u64) -> usize {
    let (changed, _) = spans.take_changes();
    for index in &changed {
        spans.take_part(*index).unwrap();
    }
    if (now / SECOND).is_multiple_of(5) {
        spans.forget(now.saturating_sub(10 * SECOND));
    }
    spans.forget_pressed(now.saturating_sub(SECOND));
    changed.len()
}

#[test]
fn a_flood_of_new_spans_costs_nobody_else_a_span() {
    let budgets = budgets();
    let mut spans = Spans::new(budgets.clone());
    let (mut number, mut of_hog, mut most) = (0, 0, 0);
    for second in 0..16 {
        let now = second * SECOND;
        for n in 0..150_000 {
            number += 1;
            of_hog += u64::from(passes(&mut spans, key(HOG, number), now));
            if n % 75 == 0 {
                for pid in HONEST {
                    assert!(
                        passes(&mut spans, key(pid, number), now),
                        "span {n} in second {second}"
                    );
                }
            }
        }
        let parts = flush(&mut spans, now + SECOND);
        assert!(parts as u64 <= Resource::ChangedSpans.bound().user, "{parts} in one flush");
        most = most.max(spans.iter().map(|_| SPAN_BYTES).sum());
    }
    assert!(most < Resource::SpanBytes.bound().total / 2, "{most} bytes");
    assert!(of_hog > 16 * 10_000, "it has its share: {of_hog}");
    assert_eq!(budgets.counts().get(DaemonCounter::SpansOverBudget), number - of_hog);
    let over: Vec<Over> = budgets.over(1);
    assert!(!over.is_empty() && over.iter().all(|over| over.owner.pid == HOG), "{over:?}");
    // Nothing is left of them when they are over.
    for second in 17..35 {
        flush(&mut spans, second * SECOND);
    }
    assert_eq!(spans.iter().count(), 0);
    assert_eq!(budgets.held(Resource::SpanBytes, budgets.owner(HOG)), 0);
    assert!(spans.index.capacity() < 1000);
}

/// The same spans again and again are as many parts as new ones.
#[test]
fn the_same_spans_again_and_again_are_bounded_too() {
    let budgets = budgets();
    let mut spans = Spans::new(budgets.clone());
    let share = Resource::ChangedSpans.bound().process;
    for second in 0..4 {
        for number in 0..2 * share {
            passes(&mut spans, key(HOG, number), second * SECOND);
        }
        assert!(passes(&mut spans, key(HONEST[0], 1), second * SECOND));
        assert_eq!(flush(&mut spans, second * SECOND + 1) as u64, share + 1);
    }
}

/// A span that gathers without end takes what its process has, and its sums stay right.
#[test]
fn what_one_span_gathers_is_bounded() {
    let budgets = budgets();
    let mut spans = Spans::new(budgets.clone());
    let owner = budgets.owner(HOG);
    let make = || ("".into(), SpanId::NONE);
    let index = spans.find_or_insert(key(HOG, 1), make, 0, true).unwrap();
    let all = budgets.room(Resource::SpanBytes, owner);
    budgets.force(Resource::SpanBytes, owner, all - 10 * MORE_BYTES);
    for n in 0..1_000 {
        spans.deactivate(index, n * 10, n * 10 + 5);
        let cause = Cause {
            state: crate::model::state::State::Lock,
            kind: CauseKind::Waker,
            tid: Tid(n as u32),
            pid: HOG,
            span: None,
        };
        spans.add_cause(index, cause, 1);
    }
    let span = spans.get(index);
    assert!(span.active.len() <= 16 && span.causes.len() <= 17, "{span:?}");
    assert_eq!((span.active_ns, span.end), (5_000, 9_995));
    assert_eq!(span.causes.values().map(|cause| cause.ns).sum::<u64>(), 1_000);
    spans.take_changes();
    spans.take_part(index).unwrap();
    assert_eq!(budgets.held(Resource::SpanBytes, owner), SPAN_BYTES + all - 10 * MORE_BYTES);
}

#[test]
fn stacks_of_one_process_leave_room_for_others() {
    let budgets = budgets();
    let mut spans = Spans::new(budgets.clone());
    let seen = |pid, is_sample| Seen {
        at: 1,
        pid,
        tid: Tid(1),
        span: None,
        stack: StackKey { state: crate::model::state::State::Running, user: 1, kernel: 0 },
        ns: 1,
        is_sample,
    };
    for n in 0..200_000 {
        spans.see(seen(HOG, n % 2 == 0));
    }
    for pid in HONEST {
        spans.see(seen(pid, true));
    }
    let (_, stacks) = spans.take_changes();
    let of = |pid| stacks.iter().filter(|seen| seen.pid == pid).count() as u64;
    let share = Resource::Samples.bound().process;
    assert_eq!((of(HOG), of(HONEST[0]), of(HONEST[1])), (share, 1, 1));
    let lost = budgets.counts();
    let lost = [DaemonCounter::SamplesOverBudget, DaemonCounter::WaitStacksOverBudget]
        .map(|counter| lost.get(counter));
    assert_eq!(lost[0] + lost[1], 200_000 - share);
}
