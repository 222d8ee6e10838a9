//! Batches no honest agent sends.

use super::*;
use crate::{
    model::batch::Batch,
    store::{Sort, SpanFilter},
};

#[test]
fn a_wrong_index_stores_nothing() {
    let bench = Bench::new("invalid");
    let mut store = bench.open();
    let run = run(1);
    type Spoil = fn(&mut Batch);
    let spoils: [Spoil; 7] = [
        |batch| batch.spans[0].process = 1,
        |batch| batch.samples[0].process = u32::MAX,
        |batch| batch.samples[0].span = Some(1),
        |batch| batch.samples[0].stack = Some(1),
        |batch| batch.waits[0].span = 1,
        |batch| batch.totals[0].process = 1,
        |batch| batch.totals[0].to = 0,
    ];
    for spoil in spoils {
        let mut batch = one_span(2, 0, HOUR);
        spoil(&mut batch);
        let good = entry(&run, 1, one_span(1, 0, HOUR));
        let refused = store.append(&[good, entry(&run, 2, batch)]).unwrap_err();
        assert!(matches!(refused, StoreError::Invalid(_)), "{refused}");
        assert_eq!(store.durable(run.id), 0);
        assert_eq!(count(&store, "SELECT count(*) FROM span"), 0);
    }
    store.append(&[entry(&run, 1, one_span(1, 0, HOUR))]).unwrap();
}

#[test]
fn hostile_sizes_and_sums_are_bounded() {
    let bench = Bench::new("hostile");
    let mut store = bench.open();
    let run = run(1);
    let mut batch = one_span(1, 0, HOUR);
    let long: String = "é".repeat(5_000);
    batch.spans[0].name = long.as_str().into();
    batch.spans[0].states = times(u64::MAX, 1);
    batch.spans[0].active_ns = u64::MAX;
    batch.spans[0].active = vec![(0, u64::MAX), (u64::MAX, 0)];
    batch.spans[0].end = u64::MAX;
    batch.counts.samples = u64::MAX;
    let frame =
        Frame { name: long.into(), file: "f".into(), line: u32::MAX, kind: FrameKind::Mark };
    batch.stacks[0] = vec![frame; 3_000].into();
    batch.samples[0].ns = u64::MAX;
    for sequence in 1..4 {
        store.append(&[entry(&run, sequence, batch.clone())]).unwrap();
    }
    let span = only(store.reader().spans(None, SpanId([1; 8])).unwrap());
    assert_eq!((span.name.len(), span.active_ns), (4_096, u64::MAX));
    let details = store.reader().details(&[span]).unwrap();
    assert_eq!(details.samples[0].stack.as_ref().unwrap().len(), 1_024);
    let slowest = SpanFilter { sort: Sort::Slowest, ..SpanFilter::default() };
    assert_eq!(store.reader().search(&slowest).unwrap().spans.len(), 1);
    bench.set(MIDNIGHT + 5 * HOUR);
    store.maintain().unwrap();
}
