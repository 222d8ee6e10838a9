//! Documents from rows: what each scope sums, and what must hold whatever the rows say.

use proptest::prelude::*;

use super::*;
use crate::{
    model::{
        batch::{ProcessIdentity, SpanName},
        cause::CauseKind,
        clock::UnixNs,
        frame::{Frame, FrameKind},
        id::{Pid, SpanId, Tid, TraceId},
    },
    store::account::ProcessKey,
};

const RUNNING: State = State::Running;
const LOCK: State = State::Lock;
const MS: u64 = 1_000_000;

fn times(states: &[(State, u64)]) -> StateTimes {
    let mut times = StateTimes::default();
    for &(state, ns) in states {
        times.add(state, ns);
    }
    times
}

fn process(boot: &str, pid: u32) -> ProcessKey {
    let identity = ProcessIdentity { pid, since: 5, comm: "shop".into(), service: "shop".into() };
    ProcessKey { boot_id: boot.into(), identity }
}

/// A span of one trace, active in `active` (ms), half running and half waiting for a lock.
fn span(id: u8, parent: u8, process: ProcessKey, active: &[(u64, u64)]) -> SpanAccount {
    let active: Vec<(u64, u64)> = active.iter().map(|(a, b)| (a * MS, b * MS)).collect();
    let active_ns: u64 = active.iter().map(|(from, to)| to - from).sum();
    SpanAccount {
        process,
        trace_id: TraceId([1; 16]),
        span_id: SpanId([id; 8]),
        parent: SpanId([parent; 8]),
        name: format!("span {id}").into(),
        start_unix_ns: UnixNs(7_000 + u64::from(id)),
        start: active.iter().map(|it| it.0).min().unwrap_or(0),
        end: active.iter().map(|it| it.1).max().unwrap_or(0),
        active_ns,
        states: times(&[(RUNNING, active_ns / 2), (LOCK, active_ns - active_ns / 2)]),
        active,
        exact: true,
        open: false,
        loss: BTreeMap::from([("markers_lost".into(), u64::from(id))]),
    }
}

/// A span, its child and a stranger of its trace in its process, a child in another process that
/// has a child back in the first, and a child on another host.
fn trace() -> Vec<SpanAccount> {
    vec![
        span(1, 0, process("b", 1), &[(0, 40), (90, 100)]),
        span(2, 1, process("b", 1), &[(40, 60)]),
        span(3, 1, process("b", 2), &[(55, 70)]),
        span(4, 3, process("b", 1), &[(70, 80)]),
        span(5, 9, process("b", 1), &[(82, 84)]),
        span(6, 1, process("other", 1), &[(80, 90)]),
    ]
}

fn ids(members: &[&SpanAccount]) -> Vec<u8> {
    members.iter().map(|member| member.span_id.0[0]).collect()
}

#[test]
fn every_scope_has_its_members() {
    let trace = trace();
    let of_all = Trace::new(&trace);
    let family = Family::new(&trace[0], &of_all);
    let sorted = |scope| {
        let mut ids = ids(&family.members(scope));
        assert!(ids.is_empty() || ids[0] == 1, "the span itself comes first");
        ids.sort_unstable();
        ids
    };
    assert_eq!(sorted(Scope::Span), [1]);
    assert_eq!(sorted(Scope::Children), [1, 2, 4]);
    assert_eq!(sorted(Scope::Trace), [1, 2, 4, 5]);
    assert_eq!(sorted(Scope::TraceHost), [1, 2, 3, 4, 5]);
    assert_eq!(sorted(Scope::Period), [0_u8; 0]);
    assert_eq!(sorted(Scope::Process), [0_u8; 0]);
}

#[test]
fn a_document_sums_its_members() {
    let mut trace = trace();
    trace[3].exact = false;
    let waits = vec![
        Wait { state: LOCK, cause: Cause::default(), ns: 3, count: 1 },
        Wait {
            state: LOCK,
            cause: Cause {
                tid: Tid(9),
                pid: Pid(8),
                name: "worker".into(),
                span: Some(SpanName {
                    trace_id: TraceId([1; 16]),
                    span_id: SpanId([2; 8]),
                    name: "pay".into(),
                }),
                ..Cause::default()
            },
            ns: 5,
            count: 2,
        },
        Wait { state: LOCK, cause: Cause::default(), ns: 4, count: 1 },
    ];
    let details = Details { samples: Vec::new(), waits };
    let document = Family::new(&trace[0], &Trace::new(&trace)).document(Scope::Children, &details);
    let expected = SpanDocument {
        trace_id: "01".repeat(16),
        span_id: "01".repeat(8),
        parent_span_id: String::new(),
        name: "span 1".to_owned(),
        service: "shop".to_owned(),
        process: ProcessDocument { pid: 1, comm: "shop".to_owned() },
        start_unix_ns: 7_001,
        wall_ns: 100 * MS,
        active_ns: 80 * MS,
        // 80 to 90: the other host's child does not count, nor does the stranger at 82.
        off_thread_ns: 10 * MS,
        scope: "children",
        states: times(&[(RUNNING, 40 * MS), (LOCK, 40 * MS)]),
        causes: vec![
            CauseDocument {
                state: LOCK,
                ns: 7,
                count: 2,
                kind: CauseKind::Waker,
                name: String::new(),
                pid: 0,
                tid: 0,
                trace_id: String::new(),
                span_id: String::new(),
                span_name: String::new(),
            },
            CauseDocument {
                state: LOCK,
                ns: 5,
                count: 2,
                kind: CauseKind::Waker,
                name: "worker".to_owned(),
                pid: 8,
                tid: 9,
                trace_id: "01".repeat(16),
                span_id: "02".repeat(8),
                span_name: "pay".to_owned(),
            },
        ],
        methods: Vec::new(),
        stacks: Vec::new(),
        exact: Exact { states: false, methods: false },
        loss: BTreeMap::from([("markers_lost".to_owned(), 7)]),
    };
    assert_eq!(document, expected);
}

#[test]
fn wider_scopes_sum_more_and_are_still_of_the_span() {
    let trace = trace();
    let of_all = Trace::new(&trace);
    let family = Family::new(&trace[0], &of_all);
    let alone = family.summary();
    for (scope, active) in [(Scope::Trace, 82), (Scope::TraceHost, 97)] {
        let document = family.document(scope, &Details::default());
        assert_eq!(document.active_ns, active * MS);
        assert_eq!(document.states.sum(), active * MS);
        assert_eq!(document.scope, scope.key());
        let same = SpanDocument {
            active_ns: alone.active_ns,
            states: alone.states.clone(),
            scope: alone.scope,
            loss: alone.loss.clone(),
            ..document
        };
        assert_eq!(same, alone);
    }
}

#[test]
fn scopes_of_a_process_take_all_its_threads() {
    let trace = trace();
    let of_all = Trace::new(&trace);
    let family = Family::new(&trace[0], &of_all);
    assert_eq!(Scope::Period.window(&trace[0]), Some((0, 100 * MS)));
    assert_eq!(Scope::Process.window(&trace[0]), Some((0, 50 * MS + PROCESS_REACH_NS)));
    assert_eq!(Scope::Trace.window(&trace[0]), None);
    let slice = ProcessSlice {
        states: times(&[(RUNNING, 300), (LOCK, 100)]),
        samples: vec![sample(RUNNING, 7, Some(&["work"]))],
    };
    let document = family.process_document(Scope::Period, &slice);
    assert_eq!((document.scope, document.active_ns), ("period", 400));
    assert_eq!(document.states, slice.states);
    assert_eq!(document.exact, Exact { states: false, methods: false });
    assert_eq!((document.wall_ns, document.off_thread_ns), (100 * MS, 10 * MS));
    assert_eq!(document.stacks[0].ns, 300);
    assert!(document.causes.is_empty() && document.loss.is_empty());
}

#[test]
fn parents_in_a_circle_end() {
    let own = process("b", 1);
    let spans = [
        span(1, 3, own.clone(), &[(0, 10)]),
        span(2, 1, own.clone(), &[(10, 20)]),
        span(3, 2, own.clone(), &[(20, 30)]),
        span(4, 4, own, &[(30, 40)]),
    ];
    let of_all = Trace::new(&spans);
    let family = Family::new(&spans[0], &of_all);
    assert_eq!(ids(&family.members(Scope::Children)).len(), 3);
    let of_all = Trace::new(&spans);
    let family = Family::new(&spans[3], &of_all);
    assert_eq!(ids(&family.members(Scope::Children)), [4], "its own parent");
}

#[test]
fn the_same_ids_in_another_process_are_another_span() {
    let mut twin = span(1, 0, process("b", 2), &[(40, 50)]);
    twin.name = "twin".into();
    let mut trace = trace();
    trace.push(twin);
    let of_all = Trace::new(&trace);
    let family = Family::new(&trace[0], &of_all);
    assert_eq!(ids(&family.members(Scope::Children)).len(), 3);
    // A name may change while a process runs; it is the same process all the same.
    trace[1].process.identity.comm = "renamed".into();
    let of_all = Trace::new(&trace);
    let family = Family::new(&trace[0], &of_all);
    assert_eq!(ids(&family.members(Scope::Children)).len(), 3);
}

#[test]
fn states_that_do_not_add_up_are_reported() {
    let mut span = span(1, 0, process("b", 1), &[(0, 10)]);
    span.active_ns += 3;
    let document = Family::new(&span, &Trace::default()).summary();
    assert_eq!(document.loss["identity_broken_ns"], 3);
}

fn sample(state: State, ns: u64, names: Option<&[&str]>) -> Sample {
    let stack = names.map(|names| {
        let frames = names.iter().map(|name| Frame {
            name: name.trim_start_matches('k').into(),
            file: "".into(),
            line: 0,
            kind: if name.starts_with('k') { FrameKind::Kernel } else { FrameKind::Native },
        });
        frames.collect()
    });
    Sample { at: 0, tid: Tid(1), stack, state, ns }
}

#[test]
fn stacks_are_scaled_to_the_exact_time_of_their_state() {
    let span = span(1, 0, process("b", 1), &[(0, 10)]);
    let samples = vec![
        sample(RUNNING, 1, Some(&["schedule", "main"])),
        sample(RUNNING, 2, Some(&["schedule", "main"])),
        sample(RUNNING, 1, Some(&["main"])),
        sample(LOCK, 50, Some(&["k__schedule", "kschedule", "kfutex_wait", "main"])),
        sample(LOCK, 50, None),
    ];
    let details = Details { samples, waits: Vec::new() };
    let document = Family::new(&span, &Trace::default()).document(Scope::Span, &details);
    let found: Vec<(State, u64, u64, Vec<&str>)> = document
        .stacks
        .iter()
        .map(|stack| {
            let frames = stack.frames.iter().map(|frame| &*frame.name).collect();
            (stack.state, stack.ns, stack.count, frames)
        })
        .collect();
    assert_eq!(
        found,
        [
            // Our hook goes, a function of the program that is called like it stays.
            (LOCK, 5 * MS, 1, vec!["futex_wait", "main"]),
            (RUNNING, 5 * MS * 3 / 4, 2, vec!["schedule", "main"]),
            (RUNNING, 5 * MS / 4, 1, vec!["main"]),
        ]
    );
    assert_eq!(document.loss["stacks_missing"], 1);
    assert_eq!(&*document.methods[0].name, "futex_wait");
}

proptest! {
    #[test]
    fn stacks_never_claim_more_than_their_state(
        weights in prop::collection::vec((0..u64::MAX >> 20, 0..4_u8), 0..50),
        exact in 0..u64::MAX >> 10,
    ) {
        let weighted = weights.iter().map(|&(ns, name)| {
            let stack = sample(RUNNING, 0, Some(&[["a", "b", "c", "d"][usize::from(name)]])).stack;
            (RUNNING, stack.unwrap(), Tally { ns, count: 1 })
        });
        let sum: u64 = stacks(&times(&[(RUNNING, exact)]), weighted.collect())
            .iter()
            .map(|stack| stack.ns)
            .sum();
        prop_assert!(sum <= exact);
        let some = weights.iter().any(|&(ns, _)| ns > 0);
        prop_assert!(!some || exact - sum <= weights.len() as u64);
    }

    #[test]
    fn any_parents_end(parents in prop::collection::vec(0..12_u8, 1..12)) {
        let spans: Vec<SpanAccount> = parents
            .iter()
            .enumerate()
            .map(|(id, &parent)| span(id as u8 + 1, parent, process("b", 1), &[(0, 1)]))
            .collect();
        for span in &spans {
            let of_all = Trace::new(&spans);
            let members = Family::new(span, &of_all).members(Scope::Children);
            let mut seen = ids(&members);
            seen.sort_unstable();
            seen.dedup();
            prop_assert_eq!(seen.len(), members.len(), "none twice");
        }
    }
}
