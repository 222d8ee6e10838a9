//! Batches as a busy host makes them: 1,500 samples a second of 400 threads in 60 processes, 8,000
//! stacks by Zipf and 1 % new ones, 45 frames deep on average; 41 % of the samples in spans, about
//! 3 in each; waits with their causes. The same seed makes the same batches.

use std::{collections::HashMap, sync::Arc};

use hotspan::model::{
    batch::{
        Batch, Counts, ProcessIdentity, Run, SampleRow, SpanName, SpanPart, TotalRow, WaitRow,
    },
    cause::{Cause, CauseKind},
    clock::UnixNs,
    frame::{Frame, FrameKind, Stack},
    id::{Pid, RunId, SpanId, Tid, TraceId},
    state::{State, StateTimes},
};

use crate::names::{self, Random};

/// Of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) samples: u64,
    /// Spans that begin.
    pub(crate) spans: u64,
}

/// The host of the budgets, in a second.
pub(crate) const BUSY: Shape = Shape { samples: 1_500, spans: 205 };
/// One of a fleet's.
pub(crate) const QUIET: Shape = Shape { samples: 150, spans: 20 };
/// Ten samples for each span, as the store's figures want.
pub(crate) const TEN_PER_SPAN: Shape = Shape { samples: 1_500, spans: 150 };

const SERVICES: u32 = 12;
const PROCESSES: u32 = 60;
const THREADS: u32 = 400;
const STACKS: usize = 8_000;
/// Of a service, that share nothing.
const ROOTS: u64 = 20;
/// Functions of one service.
const FUNCTIONS: u64 = 1_500;
const NAMES: u64 = 20;
const IN_SPANS_PERCENT: u64 = 41;
const TIMER_PERCENT: u64 = 35;
const NEW_STACK_PERCENT: u64 = 1;
/// Of spans that go on in the next batch.
const OPEN_PERCENT: u64 = 3;
pub(crate) const SECOND: u64 = 1_000_000_000;
const TIMER_NS: u64 = 10_101_010;

/// A host that makes batches.
#[derive(Debug)]
pub(crate) struct Host {
    random: Random,
    pub(crate) now: u64,
    pub(crate) unix_offset_ns: i64,
    processes: Vec<ProcessIdentity>,
    /// Per service.
    stacks: Vec<Vec<Stack>>,
    waits: Vec<State>,
    trace: TraceId,
    spans: u64,
    /// Reported as open in the last batch, with their threads.
    open: Vec<(SpanPart, u32)>,
}

fn pid(process: u32) -> u32 {
    4_000 + process * 317
}

/// Threads of a process were made one after another.
fn tid(thread: u32) -> u32 {
    pid(thread % PROCESSES) + thread / PROCESSES * 3
}

/// The run of agent `number`.
pub(crate) fn run(number: u64) -> Arc<Run> {
    let mut random = Random::new(number ^ 0x52_55_4e);
    Arc::new(Run {
        id: RunId(random.bytes()),
        boot_id: format!("00000000-0000-4000-8000-{number:012}"),
        host: format!("host-{number}"),
        version: env!("CARGO_PKG_VERSION").into(),
        pid: 1_000,
        started_unix_ns: 1,
    })
}

// === impl Host ===

impl Host {
    /// The first batch begins at `now`, CLOCK_MONOTONIC.
    pub(crate) fn new(seed: u64, now: u64, unix_offset_ns: i64) -> Self {
        let mut random = Random::new(seed);
        let processes = (0..PROCESSES)
            .map(|n| ProcessIdentity {
                pid: pid(n),
                since: u64::from(n) * 1_000_000_007,
                comm: format!("{}-{n}", names::SERVICES[(n % SERVICES) as usize]).into(),
                service: names::SERVICES[(n % SERVICES) as usize].into(),
            })
            .collect();
        let each = STACKS / SERVICES as usize;
        let stacks = (0..u64::from(SERVICES)).map(|n| stacks(&mut random, n, each)).collect();
        let waits = ["socket", "lock", "notify", "poll", "disk", "sleep", "ready_preempted"];
        let waits = waits.into_iter().filter_map(State::from_key).collect();
        let (trace, spans, open) = (TraceId::NONE, 0, Vec::new());
        Self { random, now, unix_offset_ns, processes, stacks, waits, trace, spans, open }
    }

    /// The next second.
    pub(crate) fn batch(&mut self, shape: Shape) -> Batch {
        let (from, to) = (self.now, self.now + SECOND);
        self.now = to;
        let unix_offset_ns = self.unix_offset_ns;
        let processes = self.processes.clone();
        let mut batch = Batch { from, to, unix_offset_ns, processes, ..Batch::default() };
        let mut threads = Vec::new();
        for (open, thread) in std::mem::take(&mut self.open) {
            let end = from + self.random.below(SECOND / 2) + 1;
            let (part, open) = (open.part + 1, SpanPart { open: false, end, ..open });
            let mut span = SpanPart { part, ..open };
            self.charge(&mut span, vec![(from, end)]);
            batch.spans.push(span);
            threads.push(thread);
        }
        for _ in 0..shape.spans {
            let thread = self.random.below(THREADS.into()) as u32;
            let span = self.span(from, to, thread);
            if span.open {
                self.open.push((span.clone(), thread));
            }
            batch.spans.push(span);
            threads.push(thread);
        }
        self.add_samples(&mut batch, shape, &threads);
        self.add_waits(&mut batch);
        for process in 0..PROCESSES {
            let mut states = StateTimes::default();
            states.add(State::default(), self.random.below(SECOND / 4));
            for _ in 0..3 {
                states.add(self.wait_state(), self.random.below(4 * SECOND));
            }
            batch.totals.push(TotalRow { process, from, to, states });
        }
        batch.counts = Counts {
            samples: batch.samples.len() as u64,
            intervals: batch.waits.iter().map(|wait| wait.count).sum(),
            interval_ns: batch.waits.iter().map(|wait| wait.ns).sum(),
            markers: 2 * shape.spans,
            stacks: 0,
            spans: batch.spans.len() as u64,
        };
        batch
    }

    /// The next batch is another host's, of the second that begins at `now`.
    pub(crate) fn of_another(&mut self, now: u64) {
        self.open.clear();
        self.now = now;
    }

    fn wait_state(&mut self) -> State {
        self.waits[self.random.below(self.waits.len() as u64) as usize]
    }

    fn span(&mut self, from: u64, to: u64, thread: u32) -> SpanPart {
        // Five spans to a trace.
        if self.spans.is_multiple_of(5) {
            self.trace = TraceId(self.random.bytes());
        }
        self.spans += 1;
        // Mostly milliseconds.
        let wall = 200_000 << self.random.below(9);
        let wall = wall + self.random.below(wall);
        let open = self.random.below(100) < OPEN_PERCENT;
        let start = to - 1 - self.random.below(SECOND - wall.min(SECOND / 2));
        let end = if open { to } else { (start + wall).min(to) };
        let mut span = SpanPart {
            trace_id: self.trace,
            span_id: SpanId(self.random.bytes()),
            parent: if self.random.below(5) > 0 {
                SpanId(self.random.bytes())
            } else {
                SpanId::NONE
            },
            name: names::route(self.random.zipf(NAMES)),
            process: thread % PROCESSES,
            start_unix_ns: UnixNs::of_monotonic(start, self.unix_offset_ns),
            start: start.max(from),
            end,
            exact: true,
            open,
            ..SpanPart::default()
        };
        let third = (end - span.start) / 3;
        let active = match self.random.below(10) {
            0..7 => vec![(span.start, end)],
            _ => vec![(span.start, span.start + third), (end - third, end)],
        };
        self.charge(&mut span, active);
        span
    }

    /// Active time and states of a part.
    fn charge(&mut self, span: &mut SpanPart, active: Vec<(u64, u64)>) {
        span.active_ns = active.iter().map(|(from, to)| to - from).sum();
        span.active = active;
        span.states = StateTimes::default();
        let mut left = span.active_ns;
        for _ in 0..2 {
            let ns = self.random.below(left / 2 + 1);
            span.states.add(self.wait_state(), ns);
            left -= ns;
        }
        span.states.add(State::default(), left);
    }

    fn add_samples(&mut self, batch: &mut Batch, shape: Shape, threads: &[u32]) {
        let mut seen = HashMap::new();
        let in_spans = shape.samples * IN_SPANS_PERCENT / 100;
        for n in 0..shape.samples {
            let span = (n * threads.len() as u64 / in_spans) as usize;
            let (at, thread, span) = match batch.spans.get(span) {
                Some(part) => {
                    let at = part.start.max(batch.from);
                    let at = at + self.random.below(part.end.saturating_sub(at).max(1));
                    (at, threads[span], Some(span as u32))
                }
                None => {
                    let at = batch.from + self.random.below(SECOND);
                    (at, self.random.zipf(THREADS.into()) as u32, None)
                }
            };
            let stack = self.stack(thread % SERVICES);
            let index = *seen.entry(stack.as_ptr().addr()).or_insert_with(|| {
                batch.stacks.push(stack);
                batch.stacks.len() as u32 - 1
            });
            let is_timer = self.random.below(100) < TIMER_PERCENT;
            batch.samples.push(SampleRow {
                at,
                process: thread % PROCESSES,
                tid: Tid(tid(thread)),
                span,
                stack: Some(index),
                state: if is_timer { State::default() } else { self.wait_state() },
                ns: if is_timer { TIMER_NS } else { self.duration() },
            });
        }
        batch.samples.sort_by_key(|sample| sample.at);
    }

    /// From 2 us to 100 ms, as many short as long ones.
    fn duration(&mut self) -> u64 {
        let base = 2_000 << self.random.below(15);
        base + self.random.below(base)
    }

    /// Mostly one seen before.
    fn stack(&mut self, service: u32) -> Stack {
        let stacks = &self.stacks[service as usize];
        let stack = stacks[self.random.zipf(stacks.len() as u64) as usize].clone();
        if self.random.below(100) >= NEW_STACK_PERCENT {
            return stack;
        }
        // New inner frames on known outer ones.
        let new = 1 + self.random.below(8) as usize;
        let known = stack.len().saturating_sub(new);
        let mut frames: Vec<Frame> =
            (0..new).map(|_| function(service.into(), self.random.below(FUNCTIONS))).collect();
        frames.extend_from_slice(&stack[stack.len() - known..]);
        frames.into()
    }

    fn add_waits(&mut self, batch: &mut Batch) {
        for span in 0..batch.spans.len() as u32 {
            for _ in 0..self.random.below(5) {
                let thread = self.random.zipf(THREADS.into()) as u32;
                let of = self.random.below(batch.spans.len() as u64) as usize;
                // Another span of the host, as often as not of the same second.
                let of = &batch.spans[of];
                let of = (self.random.below(10) < 3).then(|| SpanName {
                    trace_id: of.trace_id,
                    span_id: of.span_id,
                    name: of.name.clone(),
                });
                let is_rival = of.is_none() && self.random.below(2) == 0;
                let cause = Cause {
                    kind: if is_rival { CauseKind::Preemptor } else { CauseKind::Waker },
                    name: format!("worker-{}", thread % 50).into(),
                    pid: Pid(batch.processes[(thread % PROCESSES) as usize].pid),
                    tid: Tid(tid(thread)),
                    span: of,
                };
                let (state, ns) = (self.wait_state(), self.duration());
                batch.waits.push(WaitRow { span, state, cause, ns, count: 1 + ns % 3 });
            }
        }
    }
}

fn function(service: u64, number: u64) -> Frame {
    let (name, file, line) = names::function(service * FUNCTIONS + number);
    Frame { name: name.into(), file: file.into(), line, kind: FrameKind::Native }
}

/// Stacks of one service: each shares the outer frames of an earlier one, as those of programs do.
fn stacks(random: &mut Random, service: u64, count: usize) -> Vec<Stack> {
    let mut stacks: Vec<Vec<Frame>> = Vec::with_capacity(count);
    for _ in 0..count {
        // Outermost first until all are made.
        let mut frames = match stacks.len() as u64 {
            known @ 0..ROOTS => Vec::with_capacity(known as usize),
            known => stacks[random.below(known) as usize].clone(),
        };
        let depth = match frames.len() {
            0 => 25 + random.below(41) as usize,
            depth => depth - 3 + random.below(7) as usize,
        };
        frames.truncate(frames.len().min(depth).saturating_sub(1 + random.below(6) as usize));
        while frames.len() < depth {
            let mut frame = function(service, random.zipf(FUNCTIONS));
            if frames.len() + 3 >= depth && random.below(2) == 0 {
                frame.kind = FrameKind::Kernel;
            }
            frames.push(frame);
        }
        stacks.push(frames);
    }
    stacks.into_iter().map(|frames| frames.into_iter().rev().collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_as_described() {
        let mut host = Host::new(1, 3_600 * SECOND, 0);
        let batches: Vec<Batch> = (0..20).map(|_| host.batch(BUSY)).collect();
        let samples = || batches.iter().flat_map(|batch| &batch.samples);
        let depths = batches.iter().flat_map(|batch| &batch.stacks).map(|stack| stack.len());
        let stacks = batches.iter().map(|batch| batch.stacks.len()).sum::<usize>();
        let depth = depths.sum::<usize>() as f64 / stacks as f64;
        assert!((40.0..50.0).contains(&depth), "{depth}");
        let in_spans = samples().filter(|sample| sample.span.is_some()).count() as f64;
        assert!((0.40..0.42).contains(&(in_spans / samples().count() as f64)));
        let parts = batches.iter().map(|batch| batch.spans.len()).sum::<usize>();
        assert!((2.5..3.5).contains(&(in_spans / parts as f64)));
        for batch in &batches {
            assert!(batch.samples.is_sorted_by_key(|sample| sample.at));
            assert!(batch.spans.iter().all(|span| span.states.sum() == span.active_ns));
            let within = |span: &SpanPart| span.part > 0 || batch.from <= span.start;
            assert!(batch.spans.iter().all(|span| within(span) && span.end <= batch.to));
        }
    }
}
