//! What is in the store: a shop whose checkout waits for a lock, for a database and for a CPU.

use std::{collections::BTreeMap, sync::Arc};

use super::memory::Memory;
use crate::{
    model::{
        batch::{
            Account, AgentCost, Batch, Counts, KindAccount, ProcessIdentity, Run, SampleRow,
            SpanName, SpanPart, TotalRow, WaitRow,
        },
        cause::{Cause, CauseKind},
        clock::UnixNs,
        frame::{Frame, FrameKind, Stack},
        id::{Pid, RunId, SpanId, Tid, TraceId},
        state::{State, StateTimes},
    },
    store::{
        RunRecord, StoreHealth,
        account::{ProcessKey, SpanAccount},
    },
    web::{live::Session, unix_now},
};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
/// Monotonic time of the first span.
const START: u64 = 5_000_000_000_000;

pub(crate) const TRACE: TraceId = TraceId([0x4b; 16]);

pub(crate) fn times(states: &[(State, u64)]) -> StateTimes {
    let mut times = StateTimes::default();
    for &(state, ns) in states {
        times.add(state, ns);
    }
    times
}

/// A span that took `states`, all on one thread, and then waited for `queued` on none.
pub(crate) fn span(
    id: u64,
    parent: u64,
    name: &str,
    process: (u32, &str),
    at: u64,
    states: &[(State, u64)],
    queued: u64,
) -> SpanAccount {
    let states = times(states);
    let active_ns = states.sum();
    let start = START + at;
    let identity = ProcessIdentity {
        pid: process.0,
        since: 1,
        comm: process.1.into(),
        service: process.1.into(),
    };
    SpanAccount {
        process: ProcessKey { boot_id: "boot".into(), identity },
        trace_id: TRACE,
        span_id: SpanId::from_number(id),
        parent: SpanId::from_number(parent),
        name: name.into(),
        start_unix_ns: UnixNs(unix_now() - 60_000 * MS + at),
        start,
        end: start + active_ns + queued,
        active_ns,
        states,
        active: vec![
            (start, start + active_ns / 2),
            (start + active_ns / 2 + queued, start + active_ns + queued),
        ],
        exact: true,
        open: false,
        loss: BTreeMap::new(),
    }
}

pub(crate) const CHECKOUT: u64 = 0x00f0_67aa_0ba9_02b7;
pub(crate) const CART: u64 = 0x3f00_aa00_0000_0001;
pub(crate) const QUERY: u64 = 0x3f00_aa00_0000_0002;

const SHOP: (u32, &str) = (812, "shop");

impl Memory {
    /// The sample.
    pub(crate) fn shop() -> Self {
        use State as K;
        let checkout = span(
            CHECKOUT,
            0,
            "GET /checkout",
            SHOP,
            0,
            &[
                (K::Running, 9_812_345),
                (K::ReadyWakeup, 1_203_004),
                (K::Lock, 25_000_871),
                (K::Socket, 12_044_120),
                (K::Memory, 240 * US),
            ],
            9_500 * US,
        );
        let cart = span(
            CART,
            CHECKOUT,
            "cart total",
            SHOP,
            26 * MS,
            &[(K::Running, 4_120 * US), (K::Disk, 880 * US)],
            0,
        );
        let query = span(
            QUERY,
            CHECKOUT,
            "SELECT orders",
            (900, "postgres"),
            28 * MS,
            &[(K::Running, 2_300 * US), (K::Disk, 3_700 * US), (K::Steal, 90 * US)],
            0,
        );
        let home = span(
            0x3f00_aa00_0000_0003,
            0,
            "GET /",
            SHOP,
            40 * MS,
            &[(K::Running, 900 * US), (K::Disk, 300 * US)],
            0,
        );
        let mut report = span(
            0x3f00_aa00_0000_0004,
            0,
            "nightly report for every customer of the northern region",
            (4_201_337, "reporting-worker"),
            50 * MS,
            &[
                (K::Running, 812 * MS),
                (K::Sleep, 1_200 * MS),
                (K::Throttled, 310 * MS),
                (K::Poll, 77 * MS),
            ],
            0,
        );
        report.exact = false;
        report.trace_id = TraceId([0x88; 16]);
        let mut twin = home.clone();
        twin.trace_id = TraceId([0x77; 16]);
        twin.span_id = report.span_id;
        twin.name = "GET /help".into();
        let mut batch = batch_of(&[checkout, cart, query, home, report, twin]);
        let of = |span, row: SampleRow| SampleRow { span: Some(span), ..row };
        let cart_stack = ["shop::cart::total|cart.rs|41", "main"];
        batch.samples = samples(&mut batch.stacks).into_iter().map(|row| of(0, row)).collect();
        batch.samples.push(of(1, sample(&mut batch.stacks, K::Running, 1, &cart_stack)));
        batch.waits = waits();
        batch.totals = vec![TotalRow {
            process: 0,
            from: START,
            to: START + 60 * MS,
            states: times(&[(K::Running, 60 * MS), (K::Poll, 300 * MS), (K::Lock, 40 * MS)]),
        }];
        let mut memory = Self {
            health: StoreHealth {
                bytes: 12_345_678,
                parts: 2,
                oldest_unix_ns: Some(unix_now() - 3_600_000 * MS),
                newest_unix_ns: Some(unix_now()),
                ..StoreHealth::default()
            },
            ..Self::default()
        };
        memory.append(batch);
        memory.gate.0.lock().unwrap().1 = true;
        memory.runs = vec![run(RunId([1; 16]), "web-1")];
        memory.live.sessions = vec![Session {
            run_id: RunId([1; 16]),
            peer: "127.0.0.1:40000".to_owned(),
            connected_unix_ns: unix_now(),
            last_ack_unix_ns: unix_now(),
            over: Vec::new(),
        }];
        memory
    }
}

/// An agent that lost nothing and has 3 samples in flight.
pub(crate) fn run(id: RunId, host: &str) -> RunRecord {
    let kind = |captured| KindAccount { captured, linked: captured, lost: BTreeMap::new() };
    RunRecord {
        run: Run {
            id,
            boot_id: "boot".to_owned(),
            host: host.to_owned(),
            version: "1.2.3".to_owned(),
            pid: 99,
            started_unix_ns: unix_now() - 120_000 * MS,
        },
        last_sequence: 17,
        last_unix_ns: unix_now(),
        last_to: 0,
        delivered: Counts { samples: 100, markers: 40, ..Counts::default() },
        gaps: BTreeMap::new(),
        account: Account {
            kinds: BTreeMap::from([("samples".into(), kind(103)), ("markers".into(), kind(40))]),
            loss: BTreeMap::from([("stacks_cut".into(), 7)]),
            cost: AgentCost { cpu_ns: 50, wall_ns: 200, rss_bytes: 30 << 20, queue_bytes: 5 },
            closed: false,
            over: Vec::new(),
        },
        closed: false,
    }
}

/// These spans, each as one whole addition.
pub(crate) fn batch_of(spans: &[SpanAccount]) -> Batch {
    let mut batch = Batch::default();
    for span in spans {
        let identity = &span.process.identity;
        let known = batch.processes.iter().position(|process| process == identity);
        let process = known.unwrap_or_else(|| {
            batch.processes.push(identity.clone());
            batch.processes.len() - 1
        });
        batch.spans.push(SpanPart {
            trace_id: span.trace_id,
            span_id: span.span_id,
            parent: span.parent,
            name: Arc::clone(&span.name),
            process: process as u32,
            start_unix_ns: span.start_unix_ns,
            start: span.start,
            end: span.end,
            active_ns: span.active_ns,
            states: span.states.clone(),
            active: span.active.clone(),
            exact: span.exact,
            open: span.open,
            part: 0,
            loss: span.loss.clone(),
        });
    }
    batch
}

/// `name|file|line`, innermost first; a name with a leading `k:` is the kernel's.
fn sample(stacks: &mut Vec<Stack>, state: State, ns: u64, frames: &[&str]) -> SampleRow {
    let frames = frames.iter().map(|text| {
        let mut parts = text.split('|');
        let name = parts.next().unwrap_or_default();
        Frame {
            name: name.trim_start_matches("k:").into(),
            file: parts.next().map(|file| format!("/src/shop/{file}").into()).unwrap_or_default(),
            line: parts.next().map_or(0, |line| line.parse().unwrap()),
            kind: if name.starts_with("k:") { FrameKind::Kernel } else { FrameKind::Native },
        }
    });
    stacks.push(frames.collect());
    let stack = Some(stacks.len() as u32 - 1);
    SampleRow { at: START, tid: Tid(813), stack, state, ns, ..SampleRow::default() }
}

fn samples(stacks: &mut Vec<Stack>) -> Vec<SampleRow> {
    const BASE: [&str; 4] = [
        "shop::http::serve|http.rs|88",
        "tokio::runtime::task::harness::Harness<T,S>::poll|harness.rs|153",
        "std::sys::thread::unix::Thread::new::thread_start|unix.rs|118",
        "start_thread",
    ];
    let stack = |top: &[&'static str]| -> Vec<&'static str> {
        top.iter().copied().chain(["shop::checkout::handle|checkout.rs|20"]).chain(BASE).collect()
    };
    let mut sample = |state, ns, frames: &[&str]| sample(stacks, state, ns, frames);
    vec![
        sample(State::Running, 400, &stack(&["shop::cart::total|cart.rs|41"])),
        sample(
            State::Running,
            250,
            &stack(&["core::hash::sip::Hasher::write|sip.rs|210", "shop::cart::total|cart.rs|41"]),
        ),
        sample(State::Running, 120, &stack(&["serde_json::to_string|ser.rs|2200"])),
        sample(State::Running, 5, &stack(&["shop::log|log.rs|9"])),
        sample(
            State::Lock,
            900,
            &stack(&[
                "k:futex_wait",
                "k:do_futex",
                "pthread_mutex_lock",
                "shop::stock::reserve|stock.rs|77",
            ]),
        ),
        sample(State::Socket, 300, &stack(&["k:tcp_recvmsg", "recv", "shop::db::query|db.rs|12"])),
        sample(State::Running, 30, &["malloc", "start_thread"]),
    ]
}

fn waits() -> Vec<WaitRow> {
    let wait = |state, kind, name: &str, pid, ns, count, span| WaitRow {
        span: 0,
        state,
        cause: Cause { kind, name: name.into(), pid, tid: Tid(pid.0), span },
        ns,
        count,
    };
    let span = |id: u64, name: &str| {
        Some(SpanName { trace_id: TRACE, span_id: SpanId::from_number(id), name: name.into() })
    };
    vec![
        wait(
            State::Lock,
            CauseKind::Waker,
            "worker-3",
            Pid(812),
            22_000_871,
            3,
            span(0x3f00_aa00_0000_0009, "POST /restock"),
        ),
        wait(State::Lock, CauseKind::Waker, "worker-1", Pid(812), 3 * MS, 1, None),
        wait(
            State::Socket,
            CauseKind::Waker,
            "postgres",
            Pid(900),
            12_044_120,
            2,
            span(QUERY, "SELECT orders"),
        ),
        wait(State::ReadyWakeup, CauseKind::Preemptor, "cc1", Pid(77), 1_203_004, 14, None),
    ]
}
