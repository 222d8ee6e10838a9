//! Batches for tests: wild ones, and those of a realistic load.

mod load;

use std::sync::Arc;

use crate::model::{
    batch::{
        Batch, Counts, KindAccount, ProcessIdentity, Run, SampleRow, SpanName, SpanPart, TotalRow,
        WaitRow,
    },
    cause::{Cause, CauseKind},
    clock::UnixNs,
    frame::{Frame, FrameKind, Stack},
    id::{Pid, RunId, SpanId, Tid, TraceId},
    state::{State, StateTimes},
};

pub(crate) use super::resolved::resolved;
pub(crate) use load::Load;

/// Numbers that repeat with their seed (splitmix64).
#[derive(Clone)]
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }

    /// Any size: as many small as large ones.
    fn any_size(&mut self) -> u64 {
        let bits = self.below(57);
        self.next() & ((1 << bits) - 1)
    }

    fn id<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }

    fn string(&mut self, of: &str, variety: u64) -> Arc<str> {
        match self.below(8) {
            0 => "".into(),
            _ => format!("{of} ü{}", self.below(variety)).into(),
        }
    }

    fn states(&mut self) -> StateTimes {
        let mut times = StateTimes::default();
        for state in State::all() {
            if self.one_in(4) {
                times.add(state, self.any_size());
            }
        }
        times
    }
}

pub(crate) fn run(number: u8) -> Arc<Run> {
    Arc::new(Run {
        id: RunId([number; 16]),
        boot_id: "2c5b9d2e-boot".into(),
        host: "host".into(),
        version: "0.1.0".into(),
        pid: 4000 + u32::from(number),
        started_unix_ns: 1,
    })
}

/// A batch that holds nothing but its number, here and there.
pub(crate) fn numbered(n: u64) -> Batch {
    let counts = Counts { samples: n, intervals: 1, interval_ns: n * 7, ..Counts::default() };
    Batch { from: n, to: n + 1, counts, ..Batch::default() }
}

/// A batch of random rows, none of which makes sense.
pub(crate) fn wild(random: &mut Random) -> Batch {
    let processes: Vec<_> = (0..1 + random.below(4))
        .map(|_| ProcessIdentity {
            pid: random.next() as u32,
            since: random.next(),
            comm: random.string("comm", 5),
            service: random.string("service", 3),
        })
        .collect();
    let stacks: Vec<Stack> =
        (0..1 + random.below(8)).map(|_| stack(random, 1 + random.clone().below(40))).collect();
    let process = |random: &mut Random| random.below(processes.len() as u64) as u32;
    let spans: Vec<SpanPart> = (0..random.below(10))
        .map(|_| {
            let start = random.next();
            SpanPart {
                trace_id: TraceId([random.below(3) as u8; 16]),
                span_id: SpanId(random.id()),
                parent: SpanId(if random.one_in(2) { [0; 8] } else { random.id() }),
                name: random.string("GET /", 4),
                process: process(random),
                start_unix_ns: UnixNs(random.next()),
                start,
                end: start.wrapping_add(random.any_size()),
                active_ns: random.any_size(),
                states: random.states(),
                active: (0..random.below(5)).map(|_| (random.next(), random.next())).collect(),
                exact: random.one_in(2),
                open: random.one_in(2),
                part: random.below(9) as u32,
                loss: (0..random.below(3))
                    .map(|n| (format!("reason {n}").into(), random.any_size()))
                    .collect(),
            }
        })
        .collect();
    let some_span =
        |random: &mut Random| (!spans.is_empty()).then(|| random.below(spans.len() as u64) as u32);
    let states: Vec<State> = State::all().collect();
    let samples = (0..random.below(50))
        .map(|_| SampleRow {
            at: random.next(),
            process: process(random),
            tid: Tid(random.next() as u32),
            span: if random.one_in(3) { None } else { some_span(random) },
            stack: (!random.one_in(5)).then(|| random.below(stacks.len() as u64) as u32),
            state: random.pick(&states),
            ns: random.any_size(),
        })
        .collect();
    let waits = (0..random.below(20))
        .filter_map(|_| {
            let span = some_span(random)?;
            let (state, ns, count) = (random.pick(&states), random.any_size(), random.any_size());
            Some(WaitRow { span, state, cause: cause(random), ns, count })
        })
        .collect();
    let totals = (0..random.below(5))
        .map(|_| {
            let (one, other) = (random.next(), random.next());
            TotalRow {
                process: process(random),
                from: one.min(other),
                to: one.max(other),
                states: random.states(),
            }
        })
        .collect();
    let mut batch = Batch {
        from: random.next(),
        to: random.next(),
        unix_offset_ns: random.next().cast_signed(),
        processes,
        stacks,
        spans,
        samples,
        waits,
        totals,
        ..Batch::default()
    };
    batch.counts = Counts {
        samples: random.any_size(),
        intervals: random.any_size(),
        interval_ns: random.any_size(),
        markers: random.any_size(),
        stacks: random.any_size(),
        spans: random.any_size(),
    };
    if random.one_in(2) {
        let lost = [("ring_full".into(), random.next())].into();
        let account = KindAccount { captured: random.next(), linked: random.next(), lost };
        batch.account.kinds.insert("samples".into(), account);
        batch.account.loss.insert("markers_lost".into(), random.next());
        batch.account.cost.cpu_ns = random.next();
        batch.account.closed = random.one_in(2);
    }
    batch
}

pub(crate) fn stack(random: &mut Random, depth: u64) -> Stack {
    (0..depth)
        .map(|_| Frame {
            name: random.string("frame", 30),
            file: random.string("src/file.rs", 6),
            line: random.below(400) as u32,
            kind: random.pick(FrameKind::ALL),
        })
        .collect()
}

fn cause(random: &mut Random) -> Cause {
    let kinds = [CauseKind::Waker, CauseKind::Preemptor, CauseKind::Interrupt, CauseKind::Syscall];
    let span = SpanName {
        trace_id: TraceId([random.below(3) as u8; 16]),
        span_id: SpanId(random.id()),
        name: random.string("op", 3),
    };
    Cause {
        kind: random.pick(&kinds),
        name: random.string("waker", 4),
        pid: Pid(random.below(3) as u32),
        tid: Tid(random.below(3) as u32),
        span: random.one_in(2).then_some(span),
    }
}
