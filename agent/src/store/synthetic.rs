//! Batches for tests and figures: small ones by hand, and those of a busy host: 8,000 stacks by Zipf, 400 threads of 40
//! processes, 41 % of the samples in spans. The same seed makes the same batches.

use std::sync::Arc;

use super::{Body, Entry, account::SpanAccount};
use crate::model::{
    batch::{
        Account, Batch, Counts, ProcessIdentity, Run, SampleRow, SpanName, SpanPart, TotalRow,
        WaitRow,
    },
    cause::{Cause, CauseKind},
    clock::UnixNs,
    frame::{Frame, FrameKind, Stack},
    id::{Pid, RunId, SpanId, Tid, TraceId},
    state::{State, StateTimes},
};

pub(super) const SECOND: u64 = 1_000_000_000;
pub(super) const HOUR: u64 = 3_600 * SECOND;
pub(super) const DAY: u64 = 24 * HOUR;
/// 2026-10-01 00:00 UTC.
pub(super) const MIDNIGHT: u64 = 20_727 * DAY;

/// Xorshift: numbers that look random.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

/// A host that makes batches.
#[derive(Debug)]
pub(super) struct Host {
    pub random: Random,
    pub now: u64,
    pub unix_offset_ns: i64,
    pub processes: Vec<ProcessIdentity>,
    stacks: Vec<Stack>,
    spans: u64,
    /// Reported as open in the last batch.
    open: Vec<SpanPart>,
}

pub(super) const THREADS: u64 = 400;
const STACKS: usize = 8_000;
const NAMES: u64 = 20;

// === impl Random ===

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Zipf with exponent one, near enough.
    pub(super) fn zipf(&mut self, bound: u64) -> u64 {
        let exponent = self.below(1 << 32) as f64 / (1u64 << 32) as f64;
        ((bound as f64 + 1.0).powf(exponent) as u64 - 1).min(bound - 1)
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }
}

// === impl Host ===

impl Host {
    pub(super) fn new(seed: u64, unix_offset_ns: i64) -> Self {
        let processes = (0..40)
            .map(|i| ProcessIdentity {
                pid: 1_000 + i * 17,
                since: u64::from(i) * 1_000_003,
                comm: format!("worker-{i}").into(),
                service: format!("service-{}", i % 12).into(),
            })
            .collect();
        Self {
            random: Random::new(seed),
            now: 3_600_000_000_000,
            unix_offset_ns,
            processes,
            stacks: (0..STACKS).map(stack).collect(),
            spans: 0,
            open: Vec::new(),
        }
    }

    /// The next `ns` with about so many samples and new spans.
    pub(super) fn batch(&mut self, ns: u64, samples: usize, spans: usize) -> Batch {
        let (from, to) = (self.now, self.now + ns);
        self.now = to;
        let mut batch = Batch {
            from,
            to,
            unix_offset_ns: self.unix_offset_ns,
            processes: self.processes.clone(),
            ..Batch::default()
        };
        for open in std::mem::take(&mut self.open) {
            let end = from + self.random.below(ns);
            let mut part = SpanPart { part: open.part + 1, open: false, end, ..open };
            self.charge(&mut part, vec![(from, end)]);
            batch.spans.push(part);
        }
        for _ in 0..spans {
            let part = self.span(from, ns);
            if part.open {
                self.open.push(part.clone());
            }
            batch.spans.push(part);
        }
        self.add_samples(&mut batch, samples);
        for span in 0..batch.spans.len() as u32 {
            for _ in 0..self.random.below(4) {
                let wait = self.wait(span);
                batch.waits.push(wait);
            }
        }
        for process in 0..batch.processes.len() as u32 {
            let mut states = StateTimes::default();
            for state in State::all().take(8) {
                states.add(state, self.random.below(ns));
            }
            batch.totals.push(TotalRow { process, from, to, states });
        }
        batch.counts = Counts {
            samples: batch.samples.len() as u64,
            spans: batch.spans.len() as u64,
            ..Counts::default()
        };
        batch
    }

    fn span(&mut self, from: u64, ns: u64) -> SpanPart {
        self.spans += 1;
        let process = self.random.zipf(self.processes.len() as u64);
        let start = from + self.random.below(ns);
        // Mostly milliseconds, some seconds.
        let wall = 50_000u64 << self.random.below(14);
        let wall = wall + self.random.below(wall);
        let end = start + wall;
        let is_open = end >= from + ns;
        let mut trace = Random::new(self.spans / 5 + 77);
        let mut part = SpanPart {
            trace_id: TraceId(trace.bytes()),
            span_id: SpanId(self.random.bytes()),
            parent: SpanId(if self.random.percent(80) { self.random.bytes() } else { [0; 8] }),
            name: format!("GET /resource/{}", self.random.zipf(NAMES)).into(),
            process: process as u32,
            start_unix_ns: UnixNs::of_monotonic(start, self.unix_offset_ns),
            start,
            end: end.min(from + ns),
            exact: true,
            open: is_open,
            ..SpanPart::default()
        };
        let active = if self.random.percent(70) {
            vec![(part.start, part.end)]
        } else {
            let third = (part.end - part.start) / 3;
            vec![(part.start, part.start + third), (part.end - third, part.end)]
        };
        self.charge(&mut part, active);
        part
    }

    fn charge(&mut self, part: &mut SpanPart, active: Vec<(u64, u64)>) {
        part.active_ns = active.iter().map(|(from, to)| to - from).sum();
        part.states = StateTimes::default();
        let mut left = part.active_ns;
        for index in [0, 3, 6, 8] {
            let ns = if index == 8 { left } else { self.random.below(left / 2 + 1) };
            part.states.add(State::all().nth(index).unwrap(), ns);
            left -= ns;
        }
        part.active = active;
    }

    fn add_samples(&mut self, batch: &mut Batch, samples: usize) {
        let mut used: std::collections::HashMap<usize, u32> = std::collections::HashMap::new();
        let length = batch.to - batch.from;
        let mut times: Vec<u64> =
            (0..samples).map(|_| batch.from + self.random.below(length)).collect();
        times.sort_unstable();
        for at in times {
            // The same few threads are busy for a while.
            let thread = self.random.zipf(THREADS);
            let is_timer = self.random.percent(60);
            let span = (self.random.percent(41) && !batch.spans.is_empty())
                .then(|| (thread * 7 + (at - batch.from) / 50_000_000) % batch.spans.len() as u64);
            let process = match span {
                Some(span) => batch.spans[span as usize].process,
                None => (thread % self.processes.len() as u64) as u32,
            };
            let stack = self.random.zipf(STACKS as u64) as usize;
            let index = *used.entry(stack).or_insert_with(|| {
                batch.stacks.push(Arc::clone(&self.stacks[stack]));
                batch.stacks.len() as u32 - 1
            });
            batch.samples.push(SampleRow {
                at,
                process,
                tid: Tid(10_000 + thread as u32),
                span: span.map(|span| span as u32),
                stack: (!self.random.percent(1)).then_some(index),
                state: if is_timer {
                    State::default()
                } else {
                    State::all().nth(5 + self.random.zipf(6) as usize).unwrap()
                },
                ns: if is_timer { 10_101_010 } else { 1_000 << self.random.below(16) },
            });
        }
    }

    fn wait(&mut self, span: u32) -> WaitRow {
        let thread = self.random.zipf(THREADS) as u32;
        let is_named = self.random.percent(30);
        WaitRow {
            span,
            state: State::all().nth(3 + self.random.below(6) as usize).unwrap(),
            cause: Cause {
                kind: if is_named { CauseKind::Waker } else { CauseKind::Preemptor },
                name: format!("thread-{}", thread % 50).into(),
                pid: Pid(1_000 + thread % 40 * 17),
                tid: Tid(10_000 + thread),
                span: is_named.then(|| SpanName {
                    trace_id: TraceId(Random::new(self.spans / 5 + 77).bytes()),
                    span_id: SpanId(self.random.bytes()),
                    name: format!("GET /resource/{}", self.random.zipf(NAMES)).into(),
                }),
            },
            ns: self.random.below(1 << 24),
            count: 1 + self.random.below(5),
        }
    }
}

/// A run of an agent on one host.
pub(super) fn run(id: u8) -> Arc<Run> {
    Arc::new(Run { id: RunId([id; 16]), boot_id: "boot".into(), pid: 7, ..Run::default() })
}

/// A batch of a run.
pub(super) fn entry(run: &Arc<Run>, sequence: u64, batch: Batch) -> Entry {
    Entry { run: Arc::clone(run), sequence, body: Body::Batch(batch) }
}

/// Running, and waiting for a lock.
pub(super) fn times(running: u64, lock: u64) -> StateTimes {
    let mut states = StateTimes::default();
    states.add(State::default(), running);
    states.add(State::from_key("lock").unwrap(), lock);
    states
}

/// One part of span `span` of 100 ns, with a sample and a wait.
pub(super) fn one_span(span: u8, part: u32, at: u64) -> Batch {
    let frame = |name: &str| Frame {
        name: name.into(),
        file: "main.rs".into(),
        line: 3,
        kind: FrameKind::Native,
    };
    Batch {
        from: at,
        to: at + SECOND,
        unix_offset_ns: MIDNIGHT as i64,
        processes: vec![ProcessIdentity {
            pid: 42,
            since: 5,
            comm: "comm".into(),
            service: "shop".into(),
        }],
        stacks: vec![[frame("inner"), frame("outer")].into()],
        spans: vec![SpanPart {
            trace_id: TraceId([9; 16]),
            span_id: SpanId([span; 8]),
            name: "GET /".into(),
            start_unix_ns: UnixNs(MIDNIGHT + at),
            start: at,
            end: at + 100,
            active_ns: 100,
            states: times(60, 40),
            active: vec![(at, at + 100)],
            exact: true,
            part,
            ..SpanPart::default()
        }],
        samples: vec![SampleRow {
            at,
            tid: Tid(43),
            span: Some(0),
            stack: Some(0),
            ns: 60,
            ..SampleRow::default()
        }],
        waits: vec![WaitRow {
            span: 0,
            state: State::from_key("lock").unwrap(),
            cause: Cause { name: "other".into(), ..Cause::default() },
            ns: 40,
            count: 1,
        }],
        totals: vec![TotalRow { process: 0, from: at, to: at + SECOND, states: times(1_000, 0) }],
        counts: Counts { samples: 1, spans: 1, ..Counts::default() },
        account: Account::default(),
    }
}

/// The span there is.
pub(super) fn only(spans: Vec<SpanAccount>) -> SpanAccount {
    assert_eq!(spans.len(), 1, "{spans:?}");
    spans.into_iter().next().unwrap()
}

/// Stacks that share their outer frames as those of programs do.
fn stack(number: usize) -> Stack {
    let depth = 15 + number % 25;
    (0..depth)
        .rev()
        .map(|level| {
            let branch = number >> (13 - 13 * level / depth);
            let function = Random::new((branch * 64 + level) as u64).next();
            Frame {
                name: format!("application::module_{}::function_{function:x}", function % 90)
                    .into(),
                file: format!("/src/application/module_{}.rs", function % 90).into(),
                line: (function % 3_000) as u32,
                kind: if level == 0 { FrameKind::Kernel } else { FrameKind::Native },
            }
        })
        .collect()
}
