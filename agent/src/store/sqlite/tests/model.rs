//! The store against a plain model in memory: random batches, reopening, maintaining, new days.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    model::{
        batch::Batch,
        clock::UnixNs,
        id::{SpanId, Tid, TraceId},
    },
    store::{
        SpanFilter,
        rules::{join, sum},
    },
};

/// What is done.
#[derive(Clone, Debug)]
enum Step {
    /// Spans by (id, process, part numbers to skip, active time), and samples by (span, minute).
    Append {
        spans: Vec<(u8, u8, u8, u16)>,
        samples: Vec<(u8, u8)>,
        again: bool,
    },
    Reopen,
    Maintain,
    Day,
}

#[derive(Default)]
struct Model {
    spans: BTreeMap<(u8, u8), SpanAccount>,
    next: BTreeMap<(u8, u8), u32>,
    samples: BTreeMap<(u8, u8), Vec<u64>>,
    waits: BTreeMap<(u8, u8), u64>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let span = (0..6u8, 0..2u8, prop_oneof![9 => Just(0u8), 1 => 1..4u8], any::<u16>());
    let append = (
        prop::collection::vec(span, 0..6),
        prop::collection::vec((any::<u8>(), 0..4u8), 0..8),
        any::<bool>(),
    )
        .prop_map(|(spans, samples, again)| Step::Append { spans, samples, again });
    let step = prop_oneof![
        6 => append,
        1 => Just(Step::Reopen),
        2 => Just(Step::Maintain),
        1 => Just(Step::Day),
    ];
    prop::collection::vec(step, 1..40)
}

fn process(number: u8) -> ProcessIdentity {
    ProcessIdentity {
        pid: 100 + u32::from(number),
        since: 1,
        comm: "c".into(),
        service: "s".into(),
    }
}

impl Model {
    /// The batch, after adding it to the model.
    fn batch(&mut self, at: u64, spans: &[(u8, u8, u8, u16)], samples: &[(u8, u8)]) -> Batch {
        let mut batch = Batch {
            from: at,
            to: at + 60 * SECOND,
            unix_offset_ns: MIDNIGHT as i64,
            processes: vec![process(0), process(1)],
            ..Batch::default()
        };
        for (i, &(id, of, skip, active)) in spans.iter().enumerate() {
            let key = (id, of);
            let number = self.next.get(&key).copied().unwrap_or(0) + u32::from(skip);
            self.next.insert(key, number + 1);
            let known = self.spans.get(&key);
            let start = known.map_or(at, |span| span.start);
            let (from, to) = (at + i as u64 * 70_000, at + i as u64 * 70_000 + u64::from(active));
            let lock = u64::from(active) / 3;
            let part = SpanPart {
                trace_id: TraceId([id % 3; 16]),
                span_id: SpanId([id; 8]),
                name: format!("name-{id}").into(),
                process: of.into(),
                start_unix_ns: UnixNs(MIDNIGHT + start),
                start,
                end: to,
                active_ns: u64::from(active),
                states: times(u64::from(active) - lock, lock),
                active: vec![(from, to)],
                exact: true,
                open: active % 2 == 0,
                part: number,
                ..SpanPart::default()
            };
            batch.waits.push(WaitRow {
                span: i as u32,
                state: State::from_key("lock").unwrap(),
                cause: Cause { tid: Tid(5), ..Cause::default() },
                ns: lock,
                count: 1,
            });
            *self.waits.entry(key).or_default() += 1;
            let span = self.spans.entry(key).or_insert_with(|| SpanAccount {
                process: ProcessKey { boot_id: "boot".into(), identity: process(of) },
                trace_id: part.trace_id,
                span_id: part.span_id,
                name: part.name.clone(),
                start,
                start_unix_ns: part.start_unix_ns,
                exact: true,
                ..SpanAccount::default()
            });
            span.end = span.end.max(to);
            span.active_ns += part.active_ns;
            span.states = sum(&span.states, &part.states);
            span.active.push((from, to));
            join(&mut span.active);
            span.open = part.open;
            if skip > 0 {
                span.exact = false;
                *span.loss.entry(PARTS_MISSING.into()).or_default() += u64::from(skip);
            }
            batch.spans.push(part);
        }
        for &(span, minute) in samples.iter().filter(|_| !spans.is_empty()) {
            let index = usize::from(span) % spans.len();
            let row_at = at + u64::from(minute) * 60 * SECOND + u64::from(span);
            let (id, of, ..) = spans[index];
            batch.samples.push(SampleRow {
                at: row_at,
                process: of.into(),
                tid: Tid(span.into()),
                span: Some(index as u32),
                ns: 1,
                ..SampleRow::default()
            });
            self.samples.entry((id, of)).or_default().push(row_at);
        }
        batch
    }

    fn check(&self, store: &Store) {
        let reader = store.reader();
        for (&(id, of), expected) in &self.spans {
            let found = reader.spans(Some(TraceId([id % 3; 16])), SpanId([id; 8])).unwrap();
            let pid = 100 + u32::from(of);
            let span = found.iter().find(|span| span.process.identity.pid == pid).unwrap();
            assert_eq!(span, expected);
            let details = reader.details(std::slice::from_ref(span)).unwrap();
            let mut at = self.samples.get(&(id, of)).cloned().unwrap_or_default();
            at.sort_unstable();
            assert_eq!(details.samples.iter().map(|row| row.at).collect::<Vec<_>>(), at);
            assert_eq!(details.waits[0].count, self.waits[&(id, of)]);
        }
        let all = reader.search(&SpanFilter::default()).unwrap();
        assert_eq!((all.spans.len(), all.truncated), (self.spans.len(), false));
        for trace in 0..3 {
            let of_trace = self.spans.keys().filter(|(id, _)| id % 3 == trace).count();
            assert_eq!(reader.trace(TraceId([trace; 16])).unwrap().len(), of_trace);
        }
        assert_eq!(reader.health().set_aside, []);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn the_store_holds_what_a_model_holds(steps in steps()) {
        let mut bench = Bench::new("model");
        bench.max_age = Duration::from_secs(86_400 * 365);
        let (mut store, run) = (bench.open(), run(1));
        let mut model = Model::default();
        let (mut sequence, mut at, mut now) = (0, HOUR, MIDNIGHT);
        for step in steps {
            match step {
                Step::Append { spans, samples, again } => {
                    at += 20 * SECOND;
                    now += 20 * SECOND;
                    bench.set(now);
                    sequence += 1;
                    let entry = entry(&run, sequence, model.batch(at, &spans, &samples));
                    store.append(std::slice::from_ref(&entry)).unwrap();
                    if again {
                        store.append(&[entry]).unwrap();
                    }
                }
                Step::Reopen => {
                    drop(store);
                    store = bench.open();
                }
                Step::Maintain => store.maintain().unwrap(),
                Step::Day => {
                    now += DAY;
                    bench.set(now);
                }
            }
            assert_eq!(store.durable(run.id), sequence);
        }
        model.check(&store);
    }
}
