//! Two stores that were given the same entries, asked everything.

use std::collections::BTreeSet;

use crate::{
    model::{
        batch::{Account, Batch, Counts, ProcessIdentity, SampleRow, SpanPart, TotalRow, WaitRow},
        cause::{Cause, CauseKind},
        clock::UnixNs,
        frame::{Frame, FrameKind},
        id::{Pid, SpanId, Tid, TraceId},
        state::{State, StateTimes},
    },
    store::{
        Snapshot, Sort, Source, SpanFilter,
        account::{ProcessKey, Sample, SpanAccount},
        rules::key,
        synthetic::{HOUR, MIDNIGHT, Random, SECOND},
    },
};

/// Makes batches in which everything meets: few ids in few processes, parts in any order and some
/// missing, names and parents that come and go, times that overlap and intervals that end before they
/// begin.
pub(in crate::store) struct Tangle {
    pub random: Random,
    pub now: u64,
}

// === impl Tangle ===

impl Tangle {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), now: HOUR }
    }

    pub(crate) fn batch(&mut self) -> Batch {
        let from = self.now;
        self.now += 20 * SECOND;
        let mut batch = Batch {
            from,
            to: self.now,
            unix_offset_ns: MIDNIGHT as i64,
            processes: (0..3).map(|i| self.process(i)).collect(),
            stacks: (0..self.random.below(4)).map(|_| self.stack()).collect(),
            ..Batch::default()
        };
        batch.spans = (0..self.random.below(8)).map(|_| self.span(from)).collect();
        for _ in 0..self.random.below(10) {
            let row = SampleRow {
                at: self.near(from),
                process: self.random.below(3) as u32,
                tid: Tid(self.random.below(4) as u32),
                span: self.index(batch.spans.len()),
                stack: self.index(batch.stacks.len()),
                state: self.state(),
                ns: self.random.below(1_000),
            };
            batch.samples.push(row);
        }
        for _ in 0..self.random.below(8) {
            let Some(span) = self.index(batch.spans.len()) else { continue };
            let (state, cause) = (self.state(), self.cause());
            let (ns, count) = (self.random.below(1_000), self.random.below(5));
            batch.waits.push(WaitRow { span, state, cause, ns, count });
        }
        for _ in 0..self.random.below(6) {
            let since = self.near(from);
            let to = since + [0, 1, 7_919, 130 * SECOND][self.random.below(4) as usize];
            let process = self.random.below(3) as u32;
            batch.totals.push(TotalRow { process, from: since, to, states: self.states() });
        }
        batch.counts = Counts { samples: self.random.below(9), ..Counts::default() };
        if self.random.percent(50) {
            batch.account = Account {
                loss: [("late".into(), self.random.below(9))].into(),
                closed: self.random.percent(10),
                ..Account::default()
            };
        }
        batch
    }

    fn near(&mut self, from: u64) -> u64 {
        from - 200 * SECOND + self.random.below(400 * SECOND)
    }

    fn index(&mut self, of: usize) -> Option<u32> {
        let some = self.random.percent(80) && of > 0;
        some.then(|| self.random.below(of as u64) as u32)
    }

    fn state(&mut self) -> State {
        let states = State::all().count() as u64;
        State::all().nth(self.random.below(states) as usize).unwrap()
    }

    fn states(&mut self) -> StateTimes {
        let mut states = StateTimes::default();
        for _ in 0..self.random.below(4) {
            states.add(self.state(), self.random.below(10_000));
        }
        states
    }

    fn word(&mut self) -> &'static str {
        ["", "a", "b", "c"][self.random.below(4) as usize]
    }

    fn process(&mut self, number: u32) -> ProcessIdentity {
        ProcessIdentity {
            pid: 100 + number / 2,
            since: number.into(),
            comm: self.word().into(),
            service: self.word().into(),
        }
    }

    fn stack(&mut self) -> crate::model::frame::Stack {
        let frame = |random: &mut Random| Frame {
            name: ["f", "g", "h"][random.below(3) as usize].into(),
            file: "x.rs".into(),
            line: random.below(3) as u32,
            kind: FrameKind::ALL[random.below(FrameKind::ALL.len() as u64) as usize],
        };
        (0..self.random.below(5)).map(|_| frame(&mut self.random)).collect()
    }

    fn cause(&mut self) -> Cause {
        let kind = CauseKind::ALL[self.random.below(CauseKind::ALL.len() as u64) as usize];
        let span = self.random.percent(30).then(|| crate::model::batch::SpanName {
            trace_id: TraceId([self.random.below(3) as u8; 16]),
            span_id: SpanId([self.random.below(5) as u8; 8]),
            name: self.word().into(),
        });
        let (pid, tid) = (self.random.below(3) as u32, self.random.below(3) as u32);
        Cause { kind, name: self.word().into(), pid: Pid(pid), tid: Tid(tid), span }
    }

    fn span(&mut self, from: u64) -> SpanPart {
        let start = self.near(from);
        let interval = |random: &mut Random| (start + random.below(90), start + random.below(90));
        let active = (0..self.random.below(4)).map(|_| interval(&mut self.random)).collect();
        SpanPart {
            trace_id: TraceId([self.random.below(3) as u8; 16]),
            span_id: SpanId([self.random.below(5) as u8; 8]),
            parent: if self.random.percent(50) {
                SpanId([self.random.below(5) as u8; 8])
            } else {
                SpanId::NONE
            },
            name: self.word().into(),
            process: self.random.below(3) as u32,
            start_unix_ns: UnixNs(MIDNIGHT + start),
            start,
            end: start + self.random.below(3) * self.random.below(100 * SECOND),
            active_ns: self.random.below(1_000),
            states: self.states(),
            active,
            exact: self.random.percent(90),
            open: self.random.percent(30),
            part: self.random.below(6) as u32,
            loss: (0..self.random.below(3))
                .map(|_| (self.word().into(), self.random.below(9)))
                .collect(),
        }
    }
}

/// Asks both stores everything about what they hold, and for what they do not.
pub(in crate::store) fn assert_same_answers(a: &dyn Source, b: &dyn Source, random: &mut Random) {
    let (a, b) = (a.snapshot().unwrap(), b.snapshot().unwrap());
    assert_eq!(a.runs().unwrap(), b.runs().unwrap());
    let all = same_found(&*a, &*b, &SpanFilter { limit: 10_000, ..SpanFilter::default() });
    for _ in 0..40 {
        same_found(&*a, &*b, &filter(random, &all));
    }
    let mut traces = BTreeSet::from([TraceId([0xee; 16])]);
    let mut processes: BTreeSet<ProcessKey> = BTreeSet::new();
    for span in &all {
        traces.insert(span.trace_id);
        processes.insert(span.process.clone());
        for trace in [None, Some(span.trace_id), Some(TraceId([0xee; 16]))] {
            let [a, b] = [&a, &b].map(|it| it.spans(trace, span.span_id).unwrap());
            assert_eq!(by_key(a), by_key(b));
        }
        same_details(&*a, &*b, std::slice::from_ref(span));
    }
    for trace in traces {
        let [of_a, of_b] = [&a, &b].map(|it| it.trace(trace, processes.first()).unwrap().spans);
        same_details(&*a, &*b, &of_a);
        assert_eq!(by_key(of_a), by_key(of_b));
    }
    same_details(&*a, &*b, &all);
    let times: Vec<u64> = all.iter().flat_map(|span| [span.start, span.end]).collect();
    for process in &processes {
        for _ in 0..6 {
            let mut at = || times[random.below(times.len() as u64) as usize];
            let (from, to) = (at().saturating_sub(SECOND / 3), at() + SECOND / 7);
            let [a, b] = [&a, &b].map(|it| it.process(process, from, to).unwrap());
            assert_eq!(a.states, b.states);
            same_samples(a.samples, b.samples);
        }
    }
}

/// What they found of all spans; of those that are equal in rank any may be first.
fn same_found(a: &dyn Snapshot, b: &dyn Snapshot, filter: &SpanFilter) -> Vec<SpanAccount> {
    let [a, b] = [a, b].map(|it| it.search(filter).unwrap());
    assert_eq!(a.truncated, b.truncated, "{filter:?}");
    let ranks = |spans: &[SpanAccount]| -> Vec<u64> {
        spans.iter().map(|span| filter.rank(span)).collect()
    };
    assert_eq!(ranks(&a.spans), ranks(&b.spans), "{filter:?}");
    assert!(ranks(&a.spans).is_sorted());
    let last = a.spans.last().map(|span| filter.rank(span));
    let certain = |spans: &[SpanAccount]| -> Vec<SpanAccount> {
        let spans = spans.iter();
        let certain = spans.filter(|span| !a.truncated || Some(filter.rank(span)) != last);
        sorted(certain.cloned().collect())
    };
    assert_eq!(certain(&a.spans), certain(&b.spans), "{filter:?}");
    a.spans
}

fn same_details(a: &dyn Snapshot, b: &dyn Snapshot, spans: &[SpanAccount]) {
    let [a, b] = [a, b].map(|it| it.details(spans).unwrap());
    assert_eq!(a.waits, b.waits);
    same_samples(a.samples, b.samples);
}

/// In order of time; those of one time may come in any order.
fn same_samples(a: Vec<Sample>, b: Vec<Sample>) {
    let [a, b] = [a, b].map(|mut samples| {
        assert!(samples.is_sorted_by_key(|sample| sample.at));
        samples.sort_by_key(|sample| (sample.at, format!("{sample:?}")));
        samples
    });
    assert_eq!(a, b);
}

/// In order of start; those that began at one time may come in any order.
fn by_key(spans: Vec<SpanAccount>) -> Vec<SpanAccount> {
    assert!(spans.is_sorted_by_key(|span| span.start_unix_ns));
    sorted(spans)
}

fn sorted(mut spans: Vec<SpanAccount>) -> Vec<SpanAccount> {
    spans.sort_by_key(key);
    spans
}

/// A filter that lets some of them through.
fn filter(random: &mut Random, all: &[SpanAccount]) -> SpanFilter {
    if all.is_empty() {
        return SpanFilter::default();
    }
    let mut some = || &all[random.below(all.len() as u64) as usize];
    let (identity, name) = (&some().process.identity, &some().name);
    let (wall, state) = (some().wall_ns(), some().states.iter().next());
    let mut ends = [some().start_unix_ns, some().start_unix_ns];
    ends.sort_unstable();
    SpanFilter {
        service: random.percent(25).then(|| identity.service.to_string()),
        name: random.percent(25).then(|| name.to_string()),
        min_ns: if random.percent(30) { wall } else { 0 },
        state: state.map(|(state, _)| state).filter(|_| random.percent(30)),
        from_unix_ns: random.percent(25).then_some(ends[0]),
        to_unix_ns: random.percent(25).then_some(ends[1]),
        pid: random.percent(25).then_some(identity.pid),
        sort: if random.percent(50) { Sort::Newest } else { Sort::Slowest },
        limit: [1, 3, 100][random.below(3) as usize],
    }
}
